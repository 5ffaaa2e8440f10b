//! Control frames of switch images: spanning tree, CDP and their like, to the wire or not.

use crate::common::{ARRIVAL, BROADCAST, Listener, Running, Scene, header, plain, router_mac};
use testbed::{Router, Station, VethOptions};

const R1: [u8; 6] = router_mac(1, 0, 0);
const VLAN_10: &[u8] = &[0x81, 0, 0, 10];

/// A bridge group address of 802.1Q.
const fn group(last: u8) -> [u8; 6] {
    [0x01, 0x80, 0xc2, 0, 0, last]
}

const CISCO: [u8; 6] = [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc];

/// Frames as switches send them: name, destination, type or length, what follows.
fn frames() -> Vec<(&'static str, [u8; 6], u16, Vec<u8>)> {
    let llc = |rest: &[u8]| [&[0x42, 0x42, 3, 0, 0], rest].concat();
    let snap = |kind: u16| [&[0xaa, 0xaa, 3, 0, 0, 0x0c][..], &kind.to_be_bytes(), &[1, 0xb4]].concat();
    vec![
        // A configuration BPDU, RSTP's, a provider bridge's, PVST+.
        ("stp", group(0), 38, llc(&[0, 0])),
        ("stp", group(0), 39, llc(&[2, 2])),
        ("stp", group(8), 39, llc(&[2, 2])),
        ("stp", [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd], 50, snap(0x010b)),
        ("cdp", CISCO, 300, snap(0x2000)),
        ("vtp", CISCO, 90, snap(0x2003)),
        ("dtp", CISCO, 34, snap(0x2004)),
        ("pagp", CISCO, 90, snap(0x0104)),
        ("udld", CISCO, 90, snap(0x0111)),
        ("lldp", group(0x0e), 0x88cc, vec![2, 7, 4]),
        ("lacp", group(2), 0x8809, vec![1, 1]),
        ("dot1x", group(3), 0x888e, vec![1, 1]),
    ]
}

/// Every one of them, also in a VLAN: name, frame.
fn all() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |tag: &[u8], to: [u8; 6], kind: u16, rest: &[u8]| {
        let mut frame = [&to, &R1, tag, &kind.to_be_bytes(), rest].concat();
        frame.resize(usize::from(kind).clamp(64, 400) + 18, 0x5a);
        frame
    };
    let both = frames().into_iter().map(|(name, to, kind, rest)| {
        [(name, frame(&[], to, kind, &rest)), (name, frame(VLAN_10, to, kind, &rest))]
    });
    both.flatten().collect()
}

/// Two routers on eth0 and a station on the wire.
struct Lan {
    _scene: Scene,
    routers: [Router; 2],
    iou_fast: Running,
    wire: Station,
}

impl Lan {
    fn new(arguments: &[&str]) -> Self {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
        let routers = [1, 2].map(|id| scene.deep_router(id));
        let iou_fast = scene.start(&[&["-i", "eth0", "-p", "501,502"], arguments].concat());
        let wire = scene.station();
        Self { _scene: scene, routers, iou_fast, wire }
    }

    fn send(&self, frame: &[u8]) {
        self.routers[0].send(501, header(501, 0, 1, 0), frame).unwrap();
    }

    /// Router 1 sends everything; exactly those that `passes` names arrive on the wire, and all at router 2, in order.
    fn carries(&mut self, passes: impl Fn(&str) -> bool) {
        for (_, frame) in all() {
            self.send(&frame);
        }
        let last = plain(BROADCAST, R1, 64, 1);
        self.send(&last);
        let expected = |wire: bool| {
            let frames = all().into_iter().filter(|(name, _)| !wire || passes(name));
            frames.map(|(_, frame)| frame).chain([plain(BROADCAST, R1, 64, 1)]).collect::<Vec<_>>()
        };
        for (number, frame) in expected(false).iter().enumerate() {
            let got = self.routers[1].next(ARRIVAL);
            assert_eq!(got.as_ref(), Some(frame), "router 2, frame {number}");
        }
        for (number, frame) in expected(true).iter().enumerate() {
            let got = self.wire.next(ARRIVAL);
            assert_eq!(got.as_ref(), Some(frame), "wire, frame {number}");
        }
    }

    /// Lines of the log about BPDUs to the wire; everything was `blocked` or carried.
    fn end(self, blocked: u64) -> Vec<String> {
        let summary = self.iou_fast.stop();
        assert_eq!(summary.drops("blocked"), blocked, "{}", summary.text);
        assert_eq!(summary.dropped.len(), usize::from(blocked > 0), "{}", summary.text);
        let lines = summary.log.lines();
        lines.filter(|line| line.contains("--block stp")).map(str::to_string).collect()
    }
}

/// Promise (Switch images and link state): Without `--block` the first BPDU to the wire is a warning, once
/// per NIC.
#[test]
fn control_frames_pass_without_block_and_first_bpdu_warns() {
    let mut lan = Lan::new(&[]);
    lan.carries(|_| true);
    lan.carries(|_| true);
    let warnings = lan.end(0);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains("eth0: 1:0/0 speaks spanning tree"));
}

/// Promise `block` (Switch images and link state): `--block` keeps the control frames of switch images off
/// the wire, tagged or not, and other routers still get them.
#[test]
fn blocked_control_frames_stay_off_the_wire_and_reach_routers() {
    let mut lan = Lan::new(&["--block", "stp,dtp,vtp,cdp"]);
    lan.carries(|name| !["stp", "dtp", "vtp", "cdp"].contains(&name));
    assert_eq!(lan.end(2 * 7), [""; 0]);
}

/// Promise `block`.
#[test]
fn block_all_control_frames() {
    let mut lan = Lan::new(&["--block", "all"]);
    lan.carries(|_| false);
    assert_eq!(lan.end(2 * 12), [""; 0]);
}

/// Promise `block`.
#[test]
fn block_each_protocol_alone() {
    for name in ["pagp", "udld", "lldp", "lacp", "dot1x"] {
        let mut lan = Lan::new(&["--block", name]);
        lan.carries(|other| other != name);
        lan.end(2);
    }
}

/// Promise (Switch images and link state): Flow control from a router never goes to the wire.
#[test]
fn flow_control_from_router_never_reaches_the_wire() {
    let mut lan = Lan::new(&[]);
    let mut pause = [&group(1)[..], &R1, &[0x88, 0x08, 0, 1, 0xff, 0xff]].concat();
    pause.resize(60, 0);
    lan.send(&pause);
    let next = plain(BROADCAST, R1, 64, 2);
    lan.send(&next);
    assert_eq!(lan.wire.next(ARRIVAL), Some(next));
    lan.end(1);
}

/// Promise `block`.
#[test]
fn block_refuses_unknown_protocol() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    let said = scene.refused(&["-i", "eth0", "-p", "501", "--block", "stp,bpdu"]);
    assert!(said.contains("\"bpdu\" is none of stp, cdp, vtp, dtp"), "{said}");
}
