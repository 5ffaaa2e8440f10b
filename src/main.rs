//! Puts Cisco IOU/IOL routers on a real network.
fn main() {}
