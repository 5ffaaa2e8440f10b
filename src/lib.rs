//! Puts Cisco IOU/IOL routers on a real network through AF_XDP.

pub mod iou;
#[cfg(feature = "lab")]
pub mod lab;
pub mod netmap;
pub mod sys;
