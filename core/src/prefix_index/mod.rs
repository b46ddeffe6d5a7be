//! prefix_index/mod
