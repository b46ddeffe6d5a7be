//! The peers, behind what the cases need of them.

pub mod dynamo;
pub mod smg;
