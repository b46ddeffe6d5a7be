//! epp-server
fn main() {}
