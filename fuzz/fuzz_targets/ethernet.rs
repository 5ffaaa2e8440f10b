//! The view of a frame, the IOU header in front of it, and the addresses that routers make. Input: a datagram.
//!
//! Promise `hostile-input`.
#![no_main]

use iou_fast::ether::Mac;
use iou_fast::ether::control_frames::{self, Blocked};
use iou_fast::ether::{HEADER, View};
use iou_fast::iou::header::{self, Header};
use iou_fast::iou::mac;
use iou_fast::iou::{Endpoint, Interface};
use iou_fast::steer::layout::{PortEntry, address_key, mac_word, read_moved};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let Some(header) = Header::read(datagram) else {
        assert!(datagram.len() < header::LEN);
        return;
    };
    assert_eq!(header.0, datagram[..header::LEN]);
    assert_eq!(header.word(), Header(header.0).word());
    if let (Some(destination), Some(source)) = (header.destination(), header.source()) {
        endpoint(destination, datagram[7]);
        let made = Header::data(destination, source);
        assert_eq!((made.destination(), made.source()), (Some(destination), Some(source)));
        assert_eq!(made == header, datagram[6..8] == [header::TYPE_DATA, 0]);
    }

    let frame = &datagram[header::LEN..];
    let Some(view) = View::read(frame) else {
        assert!(frame.len() < HEADER);
        return;
    };
    assert_eq!(
        (view.destination.mac.0, view.source.mac.0),
        (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap())
    );
    assert!(frame.len() >= HEADER + view.tags && [0, 4, 8].contains(&view.tags));
    assert!(view.source.outer_vid < 4096 && view.source.inner_vid < 4096);
    assert!(view.tags >= 4 || view.source.outer_vid == 0);
    assert!(view.tags == 8 || view.source.inner_vid == 0);
    // What is behind the tags and the type decides nothing, and what the XDP program is told is what it tells.
    assert_eq!(View::read(&frame[..HEADER + view.tags]), Some(view));
    if let Some(protocol) = control_frames::protocol(frame, view.tags) {
        assert!(control_frames::may_be(view.destination.mac.0) && view.destination.mac.is_multicast());
        assert!("all".parse::<Blocked>().is_ok_and(|blocked| blocked.has(protocol)));
    }
    let mut moved = [0; 16];
    moved[..12].copy_from_slice(&address_key(&view.source));
    assert_eq!(read_moved(&moved), Some((view.source, false)));
    assert_eq!(mac_word(view.source.mac).to_ne_bytes()[..6], view.source.mac.0);
});

/// What is made of a router's interface.
fn endpoint(endpoint: Endpoint, uid: u8) {
    assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    let Interface(byte) = endpoint.interface;
    assert_eq!(Interface::new(endpoint.interface.bay(), endpoint.interface.unit()), Some(endpoint.interface));
    let macs = mac::static_addresses(endpoint, u32::from(uid) * 0x0101_0101);
    for (n, Mac(mac)) in macs.iter().enumerate() {
        assert!(
            mac[0] & 3 == 2 && mac[5] == byte,
            "a station's address, locally administered, of this interface"
        );
        assert!(macs[..n].iter().all(|other| other.0 != *mac));
    }
    let entry = PortEntry { header: Header::data(endpoint, endpoint), router: 1, worker: 2, port: 3 };
    assert_eq!(entry.bytes()[..8], entry.header.0);
}
