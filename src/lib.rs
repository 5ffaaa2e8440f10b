//! Puts Cisco IOU/IOL routers on a real network through AF_XDP.

pub mod checksum;
pub mod cli;
pub mod control;
pub mod ethernet;
pub mod fdb;
pub mod iou;
#[cfg(feature = "lab")]
pub mod lab;
pub mod lan;
pub mod netmap;
pub mod nic;
pub mod plan;
pub mod stats;
pub mod steer;
pub mod sys;
pub mod worker;
