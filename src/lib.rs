//! Puts Cisco IOU/IOL routers on a real network through AF_XDP.

pub mod fdb;
pub mod iou;
#[cfg(feature = "lab")]
pub mod lab;
pub mod netmap;
pub mod nic;
pub mod plan;
pub mod steer;
pub mod sys;
