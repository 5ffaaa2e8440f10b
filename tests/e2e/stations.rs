//! Which station is behind which router interface: MAC patterns, what is learned, what moves, what is never learned.

use crate::common::{
    ARRIVAL, BROADCAST, Listener, Running, SILENCE, Scene, header, plain, router_mac, tagged,
};
use testbed::{Router, Station, Tag, VethOptions, wait_until};

const GATEWAY: [u8; 6] = [0, 0x11, 0x22, 0x33, 0x44, 0x55];
const HSRP: [u8; 6] = [0, 0, 0x0c, 7, 0xac, 1];

/// Three routers on eth0, each by a pseudo instance of its own; a station on the wire; what the host sees.
struct Lan {
    scene: Scene,
    routers: [Router; 3],
    iou_fast: Running,
    wire: Station,
    host: Station,
    number: u64,
}

impl Lan {
    fn new() -> Self {
        let scene = Scene::silent(&["eth0"], &VethOptions { mtu: 1508, ..VethOptions::default() });
        scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n3:0/0 503:0/0\n");
        let routers = [1, 2, 3].map(|id| scene.deep_router(id));
        let iou_fast = scene.start(&["-i", "eth0", "-p", "501-503"]);
        let (wire, host) = (scene.station(), scene.host_station());
        Self { scene, routers, iou_fast, wire, host, number: 0 }
    }

    /// A frame with a number of its own.
    fn frame(&mut self, to: [u8; 6], from: [u8; 6], tags: &[Tag]) -> Vec<u8> {
        self.number += 1;
        tagged(to, from, tags, 80, self.number)
    }

    /// Router `id` sends `frame` to its pseudo instance.
    fn send(&self, id: u16, frame: &[u8]) {
        let router = &self.routers[usize::from(id) - 1];
        router.send(500 + id, header(500 + id, 0, id, 0), frame).unwrap();
    }

    /// Router `id` speaks as `mac` to a station on the wire, and is heard there.
    fn speak(&mut self, id: u16, mac: [u8; 6], tags: &[Tag]) {
        let frame = self.frame(GATEWAY, mac, tags);
        self.send(id, &frame);
        self.wire.hear_this(&frame);
    }

    /// A frame from the wire to `mac` reaches router `id`.
    #[track_caller]
    fn reaches(&mut self, id: u16, mac: [u8; 6], tags: &[Tag]) {
        let frame = self.frame(mac, GATEWAY, tags);
        self.wire.send(&frame).unwrap();
        self.routers[usize::from(id) - 1].hear_this(&frame);
    }

    /// A frame from the wire to `mac` is left to the host.
    #[track_caller]
    fn reaches_host(&mut self, mac: [u8; 6], tags: &[Tag]) {
        let frame = self.frame(mac, GATEWAY, tags);
        self.wire.send(&frame).unwrap();
        self.host.hear_this(&frame);
    }

    /// A station on the wire speaks as `mac`. The host hears it.
    fn wire_speaks(&mut self, mac: [u8; 6]) {
        let frame = self.frame(self.scene.host.mac("eth0").unwrap(), mac, &[]);
        self.wire.send(&frame).unwrap();
        self.host.hear_this(&frame);
    }

    /// Waits until what router 3 sends to `mac` goes to the wire: the control thread hears of moves from the XDP
    /// program, some microseconds later.
    fn await_on_wire(&mut self, mac: [u8; 6]) {
        let found = wait_until(ARRIVAL, || {
            let frame = self.frame(mac, router_mac(3, 0, 0), &[]);
            self.send(3, &frame);
            self.wire.next_test_frame(SILENCE).is_some()
        });
        assert!(found, "it is not on the wire\n{}", self.iou_fast.process.dump());
        while self.wire.next_test_frame(SILENCE).is_some() {}
        for router in &mut self.routers {
            router.drain();
        }
    }

    /// Router `id` speaks as `mac`, which is the host's or another router's, to the wire, to another router and as
    /// broadcast, and no frame arrives.
    fn speak_in_vain(&mut self, id: u16, mac: [u8; 6], tags: &[Tag]) {
        for to in [GATEWAY, BROADCAST, router_mac(3, 0, 0)] {
            let frame = self.frame(to, mac, tags);
            self.send(id, &frame);
        }
        // What it says of its own comes after it, and alone.
        let own = self.frame(BROADCAST, router_mac(id, 0, 0), tags);
        self.send(id, &own);
        self.wire.hear_this(&own);
        for (other, router) in (1..).zip(&mut self.routers) {
            if other != id {
                router.hear_this(&own);
            }
        }
    }

    /// Nothing else has come anywhere; nothing was dropped.
    fn end(self) {
        self.end_with_spoofed(0);
    }

    /// The same, but for `spoofed` frames with another sender's address, of which the log tells once.
    fn end_with_spoofed(mut self, spoofed: u64) {
        for router in &mut self.routers {
            router.hear_nothing();
        }
        self.wire.hear_nothing();
        self.host.hear_nothing();
        let log = self.iou_fast.process.stderr();
        let told = log.lines().filter(|line| line.contains("they are dropped")).count();
        assert_eq!(told, usize::from(spoofed > 0), "{log}");
        let summary = self.iou_fast.stop();
        if spoofed == 0 {
            summary.assert_clean();
        }
        let dropped: u64 = summary.dropped.iter().map(|(_, count)| count).sum();
        assert_eq!((summary.drops("spoofed"), dropped), (spoofed, spoofed), "{}", summary.text);
    }
}

const VLAN_10: &[Tag] = &[Tag::vlan(10)];
const VLAN_20: &[Tag] = &[Tag::vlan(20)];

/// Promise (Addresses): A router is reached by the addresses that its image derives from its id before it has
/// sent a frame.
#[test]
fn static_address_reaches_silent_router() {
    let scene = Scene::silent(&["eth0"], &VethOptions { mtu: 1508, ..VethOptions::default() });
    scene.netmap("300:1/2 501:0/0\n");
    scene.give_netio(70000);
    let mut router = scene.deep_router(300);
    std::os::unix::fs::chown(router.path(), Some(70000), None).unwrap();
    // 70000 = 0x011170.
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501", "--uid", "70000"]);
    let wire = scene.station();
    let patterns = [
        [0xaa, 0xbb, 0xcc, 0x01, 0x2c, 0x21],
        [0x2e, 0x01, 0x11, 0x70, 0x2c, 0x21],
        [0x22, 0x01, 0x11, 0x70, 0x2c, 0x21],
    ];
    let tags: [&[Tag]; 4] =
        [&[], VLAN_10, &[Tag::new(0x8100, 0xefff)], &[Tag::new(0x88a8, 100), Tag::vlan(7)]];
    for mac in patterns {
        for tags in tags {
            let frame = tagged(mac, GATEWAY, tags, 80, 1);
            wire.send(&frame).unwrap();
            assert_eq!(router.recv(ARRIVAL), Some((header(300, 0x21, 501, 0), frame)));
        }
    }
    let summary = iou_fast.stop();
    summary.assert_clean();
    assert_eq!(summary.to_routers.0, 12);
}

/// Promise (Addresses): Any other address of a router is reached from its first answer on.
#[test]
fn virtual_address_is_learned_from_first_answer() {
    let mut lan = Lan::new();
    lan.reaches_host(HSRP, &[]);
    lan.speak(2, HSRP, &[]);
    lan.reaches(2, HSRP, &[]);
    // Set by hand, and a hundred hosts behind a switch image: each answer comes at once.
    lan.speak(1, [0, 0xde, 0xad, 0xbe, 0xef, 1], &[]);
    lan.reaches(1, [0, 0xde, 0xad, 0xbe, 0xef, 1], &[]);
    for host in 0..100 {
        let mac = [0, 0x50, 0x56, 0, 0, host];
        lan.speak(3, mac, VLAN_10);
        lan.reaches(3, mac, VLAN_10);
    }
    lan.reaches(3, [0, 0x50, 0x56, 0, 0, 0], VLAN_10);
    // A priority tag is no VLAN.
    lan.reaches(2, HSRP, &[Tag::new(0x8100, 0xe000)]);
    lan.end();
}

#[test]
fn learned_addresses_work_between_routers() {
    let mut lan = Lan::new();
    lan.speak(2, HSRP, VLAN_10);
    let frame = lan.frame(HSRP, router_mac(1, 0, 0), VLAN_10);
    lan.send(1, &frame);
    lan.routers[1].hear_this(&frame);
    // In another VLAN it is a stranger's: to the wire.
    let frame = lan.frame(HSRP, router_mac(1, 0, 0), VLAN_20);
    lan.send(1, &frame);
    lan.wire.hear_this(&frame);
    lan.end();
}

/// Promise `virtual-address-per-vlan` (Addresses): One virtual address can be active on different routers in
/// different VLANs at the same time.
#[test]
fn virtual_address_per_vlan() {
    let mut lan = Lan::new();
    let (q, r): (&[Tag], &[Tag]) =
        (&[Tag::new(0x88a8, 100), Tag::vlan(7)], &[Tag::new(0x88a8, 100), Tag::vlan(8)]);
    for (id, tags) in [(1, VLAN_10), (2, VLAN_20), (3, &[]), (2, q), (1, r)] {
        lan.speak(id, HSRP, tags);
    }
    for _ in 0..3 {
        for (id, tags) in [(1, VLAN_10), (2, VLAN_20), (3, &[]), (2, q), (1, r)] {
            lan.reaches(id, HSRP, tags);
        }
    }
    lan.reaches_host(HSRP, &[Tag::vlan(30)]);
    lan.reaches_host(HSRP, &[Tag::new(0x88a8, 100)]);
    lan.reaches_host(HSRP, &[Tag::new(0x88a8, 7), Tag::vlan(100)]);
    lan.end();
}

/// Promise `failover` (Addresses): A failover is followed: from router to router, to the wire, and back.
#[test]
fn failover_between_routers() {
    let mut lan = Lan::new();
    for id in [1, 2, 1] {
        lan.speak(id, HSRP, &[]);
        for _ in 0..3 {
            lan.reaches(id, HSRP, &[]);
        }
        // From another router as well.
        let frame = lan.frame(HSRP, router_mac(3, 0, 0), &[]);
        lan.send(3, &frame);
        lan.routers[usize::from(id) - 1].hear_this(&frame);
    }
    lan.end();
}

/// Promise `failover`.
#[test]
fn failover_to_wire_and_back() {
    let mut lan = Lan::new();
    lan.speak(1, HSRP, &[]);
    lan.reaches(1, HSRP, &[]);
    lan.wire_speaks(HSRP);
    // The XDP program knows at once.
    lan.reaches_host(HSRP, &[]);
    lan.await_on_wire(HSRP);
    lan.speak(1, HSRP, &[]);
    lan.reaches(1, HSRP, &[]);
    let frame = lan.frame(HSRP, router_mac(3, 0, 0), &[]);
    lan.send(3, &frame);
    lan.routers[0].hear_this(&frame);
    lan.end();
}

#[test]
fn static_address_moves_to_wire_until_router_sends() {
    let mut lan = Lan::new();
    let mac = router_mac(1, 0, 0);
    for _ in 0..10 {
        lan.reaches(1, mac, &[]);
        lan.wire_speaks(mac);
        lan.reaches_host(mac, &[]);
        lan.await_on_wire(mac);
        lan.speak(1, mac, &[]);
    }
    lan.reaches(1, mac, &[]);
    lan.end();
}

/// Promise `switch-loop` (Addresses): A looped switch image captures neither the gateway nor another
/// router's address.
#[test]
fn loop_does_not_capture_the_gateway() {
    let mut lan = Lan::new();
    let looped = |lan: &mut Lan| {
        let frame = lan.frame(BROADCAST, GATEWAY, &[]);
        lan.wire.send(&frame).unwrap();
        for router in &mut lan.routers {
            router.hear_this(&frame);
        }
        lan.host.hear_this(&frame);
        // Router 1 is the image with a loop: the wire and the other routers hear the gateway again.
        lan.send(1, &frame);
        lan.wire.hear_this(&frame);
        lan.routers[1].hear_this(&frame);
        lan.routers[2].hear_this(&frame);
    };
    for _ in 0..30 {
        looped(&mut lan);
        let frame = lan.frame(GATEWAY, router_mac(2, 0, 0), &[]);
        lan.send(2, &frame);
        lan.wire.hear_this(&frame);
        lan.reaches(2, router_mac(2, 0, 0), &[]);
    }
    lan.end();
}

/// Promise `switch-loop`.
#[test]
fn loop_does_not_capture_router_address() {
    let mut lan = Lan::new();
    for _ in 0..10 {
        // Router 2 is active; router 1, the image with a loop, sends its hello back.
        let hello = lan.frame(BROADCAST, HSRP, &[]);
        lan.send(2, &hello);
        lan.wire.hear_this(&hello);
        lan.routers[0].hear_this(&hello);
        lan.routers[2].hear_this(&hello);
        lan.send(1, &hello);
        lan.wire.hear_this(&hello);
        lan.routers[1].hear_this(&hello);
        lan.routers[2].hear_this(&hello);
        lan.reaches(2, HSRP, &[]);
    }
    lan.end();
}

/// Promise `failover`.
#[test]
fn failover_from_wire_while_both_send_hellos() {
    let mut lan = Lan::new();
    for _ in 0..2 {
        // Active on the wire: its hello reaches the routers. The next one is router 1's.
        let hello = lan.frame(BROADCAST, HSRP, &[]);
        lan.wire.send(&hello).unwrap();
        for router in &mut lan.routers {
            router.hear_this(&hello);
        }
        lan.host.hear_this(&hello);
        lan.reaches_host(HSRP, &[]);
        lan.await_on_wire(HSRP);
        lan.speak(1, HSRP, &[]);
        lan.reaches(1, HSRP, &[]);
    }
    lan.end();
}

/// Promise `spoofed` (Addresses): Frames whose source is the host or another router are dropped and counted.
#[test]
fn spoofed_nic_address_is_dropped() {
    let mut lan = Lan::new();
    let nic = lan.scene.host.mac("eth0").unwrap();
    for tags in [&[][..], VLAN_10] {
        for _ in 0..5 {
            lan.speak_in_vain(1, nic, tags);
            lan.reaches_host(nic, tags);
            let frame = lan.frame(nic, router_mac(2, 0, 0), tags);
            lan.send(2, &frame);
            lan.wire.hear_this(&frame);
        }
    }
    lan.end_with_spoofed(30);
}

/// Promise `spoofed`.
#[test]
fn spoofed_router_address_is_dropped() {
    let mut lan = Lan::new();
    let mac = router_mac(2, 0, 0);
    for tags in [&[][..], VLAN_10] {
        for _ in 0..5 {
            lan.speak_in_vain(1, mac, tags);
            lan.reaches(2, mac, tags);
            let frame = lan.frame(mac, router_mac(3, 0, 0), tags);
            lan.send(3, &frame);
            lan.routers[1].hear_this(&frame);
        }
    }
    // Also while it is on the wire: its own interface alone gets it back.
    lan.wire_speaks(mac);
    lan.await_on_wire(mac);
    lan.speak_in_vain(1, mac, &[]);
    lan.reaches_host(mac, &[]);
    lan.speak(2, mac, &[]);
    lan.reaches(2, mac, &[]);
    lan.end_with_spoofed(33);
}

/// Promise `spoofed`.
#[test]
fn loop_of_switch_image_is_cut() {
    let mut lan = Lan::new();
    for _ in 0..5 {
        let hello = lan.frame(BROADCAST, router_mac(2, 0, 0), &[]);
        lan.send(2, &hello);
        lan.wire.hear_this(&hello);
        lan.routers[0].hear_this(&hello);
        lan.routers[2].hear_this(&hello);
        lan.send(1, &hello);
        lan.speak(1, router_mac(1, 0, 0), &[]);
        lan.reaches(2, router_mac(2, 0, 0), &[]);
    }
    lan.end_with_spoofed(5);
}

/// Promise (Addresses): An address whose frame the wire sends back is the router's again with its next frame.
#[test]
fn loop_on_wire_has_address_until_router_sends() {
    let mut lan = Lan::new();
    let mac = router_mac(1, 0, 0);
    // The same bytes each time, as an ARP request that is repeated.
    let request = lan.frame(BROADCAST, mac, &[]);
    for _ in 0..3 {
        lan.send(1, &request);
        lan.wire.hear_this(&request);
        lan.routers[1].hear_this(&request);
        lan.routers[2].hear_this(&request);
        lan.reaches(1, mac, &[]);
        lan.wire.send(&request).unwrap();
        for router in &mut lan.routers {
            router.hear_this(&request);
        }
        lan.host.hear_this(&request);
        lan.reaches_host(mac, &[]);
        lan.await_on_wire(mac);
    }
    lan.end();
}

/// Promise (Addresses): A source that is no unicast address is never learned.
#[test]
fn multicast_or_zero_source_is_never_learned() {
    let mut lan = Lan::new();
    lan.speak(1, [0; 6], &[]);
    lan.reaches_host([0; 6], &[]);
    lan.speak(1, BROADCAST, &[]);
    let frame = plain(BROADCAST, GATEWAY, 60, 1);
    lan.wire.send(&frame).unwrap();
    for router in &mut lan.routers {
        router.hear_this(&frame);
    }
    lan.host.hear_this(&frame);
    lan.end();
}
