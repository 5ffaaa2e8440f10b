//! Simulated routers.
fn main() {}
