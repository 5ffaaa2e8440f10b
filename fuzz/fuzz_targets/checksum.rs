//! Checksums that a peer left unfinished. Input: an Ethernet frame.
//!
//! Completing one changes its two bytes at most, makes a segment that is right, and is done then.
//!
//! Promise `hostile-input`.
#![no_main]

use iou_fast::ether::checksum::{complete, unfinished};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    let mut completed = frame.to_vec();
    complete(&mut completed);
    let changed: Vec<usize> = (0..frame.len()).filter(|at| frame[*at] != completed[*at]).collect();
    if unfinished(frame).is_none() {
        assert!(changed.is_empty(), "a frame with nothing to complete was changed at {changed:?}");
        return;
    }
    assert!(changed.len() <= 2 && changed.windows(2).all(|at| at[1] == at[0] + 1), "changed at {changed:?}");
    let (protocol, addresses, segment) = parts(&completed);
    let mut sum = words(addresses) + u32::from(protocol) + segment.len() as u32 + words(segment);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    assert_eq!(sum, 0xffff, "the completed checksum is wrong");
    assert!(unfinished(&completed).is_none(), "it is still unfinished");
});

/// Protocol, addresses and segment of a frame that is known to be TCP or UDP over IP; written without a look at the
/// code that is tested.
fn parts(frame: &[u8]) -> (u8, &[u8], &[u8]) {
    let number = |at: usize| usize::from(frame[at]) << 8 | usize::from(frame[at + 1]);
    let mut at = 12;
    while [0x8100, 0x88a8, 0x9100].contains(&number(at)) {
        at += 4;
    }
    let (ethertype, ip) = (number(at), at + 2);
    if ethertype == 0x0800 {
        let end = ip + number(ip + 2);
        (frame[ip + 9], &frame[ip + 12..ip + 20], &frame[ip + usize::from(frame[ip] & 15) * 4..end])
    } else {
        (frame[ip + 6], &frame[ip + 8..ip + 40], &frame[ip + 40..ip + 40 + number(ip + 4)])
    }
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum()
}
