//! Routers that misbehave: one floods, speaks under another's name, or makes addresses up; the others keep their share.

use crate::common::crowd::{Crowd, lost_on_the_wire, send_paced};
use crate::common::{BROADCAST, Listener, Running, SOON, Scene, header, plain, router_mac};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testbed::{Router, Station, VethOptions, wait_until};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Router 1 floods; 2 is on the same pseudo instance, 3 on another; the rest make broadcast and multicast frames costly.
const NETMAP: &str = "1:0/0 501:0/0\n2:0/0 501:0/1\n3:0/0 502:0/0\n4:0/0 503:0/0\n5:0/0 503:0/1\n6:0/0 503:0/2\n\
                      7:0/0 503:0/3\n8:0/0 503:0/4\n9:0/0 503:0/5\n10:0/0 503:0/6\n";
const ROUTERS: u16 = 10;
/// What the others send to the wire has a type of its own (local experimental 2), so that a raw socket there sees it
/// without the flood.
const OTHERS: u16 = 0x88b6;
/// In the number of a frame that is part of the flood.
const FLOODED: u64 = 1 << 63;
/// How long each flood lasts, and how often the others send meanwhile.
const FLOOD: Duration = Duration::from_millis(2500);
const PACE: Duration = Duration::from_millis(3);

/// A router that sends as fast as it can.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Router 1 sends `frame(0)`, `frame(1)`, ... by a socket like its own.
    fn start(scene: &Scene, frame: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), sent.clone());
        let pseudo = scene.netio().join("501");
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Relaxed) {
                    break;
                }
                let datagram = [&header(501, 0, 1, 0)[..], &frame(number)].concat();
                socket.send_to(&datagram, &pseudo).unwrap();
                count.store(number + 1, Relaxed);
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // A panic of its own has been printed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Lab {
    scene: Scene,
    iou_fast: Running,
    crowd: Crowd,
    station: Station,
    others: Station,
}

/// Frame `seq` from `id`, 2 or 3, to the wire or to another router.
fn send(socket: &UnixDatagram, scene: &Scene, id: u16, frame: &[u8]) {
    let (pseudo, interface) = if id == 2 { (501, 0x10) } else { (502, 0) };
    let datagram = [&header(pseudo, interface, id, 0)[..], frame].concat();
    socket.send_to(&datagram, scene.netio().join(pseudo.to_string())).unwrap();
}

impl Lab {
    fn new(arguments: &[&str]) -> Self {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        scene.netmap(NETMAP);
        let crowd = Crowd::new(&scene, ROUTERS);
        let iou_fast = scene.start(&[&["-i", "eth0", "-p", "501-503"], arguments].concat());
        let station = scene.station();
        let others = Station::of_type(&scene.wire, "eth0", OTHERS).unwrap();
        Self { scene, iou_fast, crowd, station, others }
    }

    /// While `flood` goes on, routers 2 and 3 get and send numbered frames at an easy pace: to and from the wire, to each
    /// other, and to everybody. All of them arrive, once and in order.
    fn others_keep_their_share(mut self, what: &str, flood: Flood) -> Self {
        assert!(wait_until(SOON, || flood.sent() > 1000), "{what}");
        let ids = [2u16, 3];
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_write_timeout(Some(SOON)).unwrap();
        let start = Instant::now();
        let mut sent = 0u64;
        let mut slowest = Duration::ZERO;
        while start.elapsed() < FLOOD {
            for id in ids {
                // Even numbers from the wire, odd ones from the other router.
                self.station.send(&plain(router_mac(id, 0, 0), STATION, 64, 2 * sent)).unwrap();
                let before = Instant::now();
                let to_other = plain(router_mac(5 - id, 0, 0), router_mac(id, 0, 0), 64, 2 * sent + 1);
                send(&socket, &self.scene, id, &to_other);
                let mac = router_mac(id, 0, 0);
                send(&socket, &self.scene, id, &plain(BROADCAST, mac, 64, sent));
                send(&socket, &self.scene, id, &testbed::frame(STATION, mac, &[0u16; 0], OTHERS, 64, sent));
                slowest = slowest.max(before.elapsed());
            }
            sent += 1;
            std::thread::sleep(PACE);
        }
        let took = start.elapsed();
        let flooded = flood.sent();
        drop(flood);
        let mut to_wire = [Vec::new(), Vec::new()];
        while to_wire.iter().any(|numbers| numbers.len() < sent as usize) {
            let Some(frame) = self.others.recv(SOON) else { break };
            to_wire[usize::from(frame[10]) - 2].push(testbed::frame::check(&frame).unwrap().seq);
        }
        let from = |id: u16, kind: u64| -> Vec<u64> {
            self.crowd
                .numbers(id)
                .into_iter()
                .filter(|seq| *seq < FLOODED && seq % 2 == kind)
                .map(|seq| seq / 2)
                .collect()
        };
        let group = |id: u16| -> Vec<u64> {
            let got = self.crowd.got(id).into_iter().filter(|got| got.bum && got.seq < FLOODED);
            got.map(|got| got.seq).collect()
        };
        let all =
            |id| [from(id, 0), from(id, 1), group(id)].iter().all(|numbers| numbers.len() as u64 >= sent);
        let arrived = wait_until(SOON, || ids.into_iter().all(all));
        let delays = ids.map(|id| self.delays(id));
        let figures = format!(
            "{what}: {flooded} frames flooded in {took:?}, {sent} rounds of the others, {} lost on the wire, slowest send \
             {slowest:?}, longest silence of routers 2 and 3 {delays:?}",
            lost_on_the_wire(&self.scene)
        );
        println!("{figures}");
        let expected: Vec<u64> = (0..sent).collect();
        for (index, id) in ids.into_iter().enumerate() {
            assert!(
                arrived,
                "{figures}\nrouter {id} got {}, {} and {}\n{:?}",
                from(id, 0).len(),
                from(id, 1).len(),
                group(id).len(),
                self.iou_fast.process
            );
            assert_eq!(to_wire[index], expected, "from router {id} to the wire, {figures}");
            assert_eq!(from(id, 0), expected, "from the wire to router {id}, {figures}");
            assert_eq!(group(id), expected, "to all, router {id} among them, {figures}");
            assert_eq!(from(id, 1), expected, "to router {id} from the other, {figures}");
        }
        // A share, not crumbs: no router waits for longer than its timers allow.
        assert!(delays.iter().all(|delay| *delay < Duration::from_millis(500)), "{figures}");
        assert!(slowest < Duration::from_millis(500), "{figures}");
        self
    }

    /// The longest time without a frame for router `id` alone, which gets some every few milliseconds.
    fn delays(&self, id: u16) -> Duration {
        let times: Vec<Instant> =
            self.crowd.got(id).iter().filter(|got| !got.bum && got.seq < FLOODED).map(|got| got.at).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Promise `router-flood` (Routers that misbehave): A flood from one router leaves the others their share, on
/// the same pseudo id or another.
#[test]
fn flood_to_wire_leaves_others_their_share() {
    for arguments in [&[][..], &["--cpus", "0,1"]] {
        let lab = Lab::new(arguments);
        let flood = Flood::start(&lab.scene, |number| plain(STATION, router_mac(1, 0, 0), 64, number));
        let lab = lab.others_keep_their_share("unicast to the wire", flood);
        let summary = lab.iou_fast.stop();
        println!("{}", summary.text);
        assert!(summary.faults.iter().all(|(what, _)| what == "tx-ring-full"), "{}", summary.text);
    }
}

/// Promise `router-flood`.
#[test]
fn flood_of_broadcasts_leaves_others_their_share() {
    for arguments in [&[][..], &["--cpus", "0,1"]] {
        let lab = Lab::new(arguments);
        let flood =
            Flood::start(&lab.scene, |number| plain(BROADCAST, router_mac(1, 0, 0), 64, FLOODED | number));
        let lab = lab.others_keep_their_share("broadcast and multicast frames", flood);
        println!("{}", lab.iou_fast.stop().text);
    }
}

/// Promise `router-flood`.
#[test]
fn flood_to_router_leaves_others_their_share() {
    let lab = Lab::new(&[]);
    lab.crowd.hang(4);
    let flood =
        Flood::start(&lab.scene, |number| plain(router_mac(4, 0, 0), router_mac(1, 0, 0), 64, number));
    let lab = lab.others_keep_their_share("unicast to a router that hangs", flood);
    println!("{}", lab.iou_fast.stop().text);
}

/// Promise `router-flood`.
#[test]
fn flood_to_router_does_not_cut_it_off() {
    let lab = Lab::new(&[]);
    let flood = Flood::start(&lab.scene, |number| {
        plain(router_mac(2, 0, 0), router_mac(1, 0, 0), 64, FLOODED | number)
    });
    let lab = lab.others_keep_their_share("unicast to router 2", flood);
    println!("{}", lab.iou_fast.stop().text);
}

/// Promise `made-up-addresses` (Routers that misbehave): Made-up addresses fill no other router's share of
/// the FDB, no memory and no log.
#[test]
fn made_up_addresses_fill_no_table_and_no_memory() {
    let lab = Lab::new(&[]);
    let made_up = |number: u64| {
        let [.., a, b, c, d] = number.to_be_bytes();
        [0, 0x1b, a, b, c, d]
    };
    // Router 3 has a virtual address from before.
    const HSRP: [u8; 6] = [0, 0, 0x0c, 7, 0xac, 1];
    let socket = UnixDatagram::unbound().unwrap();
    send(&socket, &lab.scene, 3, &plain(BROADCAST, HSRP, 64, 1 << 40));
    let flood = Flood::start(&lab.scene, move |number| plain(STATION, made_up(number), 64, number));
    assert!(wait_until(SOON, || flood.sent() > 20_000));
    let memory = lab.iou_fast.process.rss().unwrap();
    // Another appears behind router 3 in the midst of it, and is known by its first frame.
    let mut reached = 0;
    for (number, mac) in [HSRP, [0, 0, 0x0c, 7, 0xac, 2]].into_iter().enumerate() {
        send(&socket, &lab.scene, 3, &plain(BROADCAST, mac, 64, 1 << 41));
        let seen = wait_until(SOON, || {
            lab.crowd.got(2).iter().filter(|got| got.seq == 1 << 41).count() == number + 1
        });
        assert!(seen, "{:?}", lab.iou_fast.process);
        let seq = 1 << 42 | number as u64;
        lab.station.send(&plain(mac, STATION, 64, seq)).unwrap();
        reached += u64::from(wait_until(SOON, || lab.crowd.numbers(3).contains(&seq)));
    }
    assert_eq!(reached, 2, "{:?}", lab.iou_fast.process);
    std::thread::sleep(Duration::from_secs(1));
    let grown = lab.iou_fast.process.rss().unwrap().saturating_sub(memory);
    println!("{} addresses, memory grew by {grown} bytes", flood.sent());
    assert!(grown < 2 << 20, "{grown} bytes for {} addresses", flood.sent());
    drop(flood);
    let lines = lab.iou_fast.process.stderr().lines().count();
    assert!(lines < 50, "{}", lab.iou_fast.process.stderr());
    lab.iou_fast.stop();

    let lab = Lab::new(&[]);
    let flood = Flood::start(&lab.scene, move |number| plain(STATION, made_up(number), 64, number));
    let lab = lab.others_keep_their_share("made-up addresses", flood);
    println!("{}", lab.iou_fast.stop().text);
}

/// Promise `made-up-addresses`.
#[test]
fn address_moving_between_routers_fills_no_log() {
    let lab = Lab::new(&[]);
    let socket = UnixDatagram::unbound().unwrap();
    for number in 0..4000u64 {
        let [.., a, b] = (number / 2).to_be_bytes();
        let id = 2 + (number % 2) as u16;
        send(&socket, &lab.scene, id, &plain(STATION, [0, 0x1b, 0, 0, a, b], 64, number));
    }
    let mut wire = lab.scene.station();
    send(&socket, &lab.scene, 2, &plain(STATION, router_mac(2, 0, 0), 64, 9999));
    send(&socket, &lab.scene, 3, &plain(STATION, router_mac(3, 0, 0), 64, 9999));
    for _ in 0..2 {
        wire.recv_where(SOON, |frame| crate::common::crowd::number(frame) == Some(9999)).unwrap();
    }
    let log = lab.iou_fast.process.stderr();
    let moved = log.lines().filter(|line| line.contains(" moved from ")).count();
    assert!((10..=25).contains(&moved), "{moved} lines\n{log}");
    lab.iou_fast.stop().assert_clean();
}

/// Promise (Routers that misbehave): A sender that is bound to another router's path cannot send under a
/// router's id.
#[test]
fn spoofed_router_id_is_refused() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let routers = [1, 2].map(|id| Router::new(&scene.netio(), id).unwrap());
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501,502"]);
    let mut wire = scene.station();
    let as_2 = header(502, 0, 2, 0);
    let frame = |seq| plain(STATION, router_mac(2, 0, 0), 64, seq);
    // Router 1 by its own socket, and an instance that NETMAP does not have.
    routers[0].send(502, as_2, &frame(1)).unwrap();
    let stranger = Router::new(&scene.netio(), 77).unwrap();
    stranger.send(502, as_2, &frame(2)).unwrap();
    // Router 2 itself; a program that is not bound, one bound under no instance's name, one elsewhere.
    routers[1].send(502, as_2, &frame(3)).unwrap();
    let send = |socket: &UnixDatagram, seq| {
        socket.send_to(&[&as_2[..], &frame(seq)].concat(), scene.netio().join("502")).unwrap();
    };
    send(&UnixDatagram::unbound().unwrap(), 4);
    let relay = UnixDatagram::bind(scene.netio().join("relay")).unwrap();
    send(&relay, 5);
    let elsewhere = UnixDatagram::bind(scene.directory().join("1")).unwrap();
    send(&elsewhere, 6);
    assert_eq!(wire.hear(4), [3, 4, 5, 6]);
    wire.hear_nothing();
    let summary = iou_fast.stop();
    assert_eq!(summary.dropped, [("wrong-sender".to_string(), 2)], "{}", summary.text);
}

/// Promise (Routers that misbehave): Strange files in the netio directory, however many, do no harm.
#[test]
fn directory_full_of_strange_files_is_harmless() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n");
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let station = scene.station();
    let (stop, directory) = (Arc::new(AtomicBool::new(false)), scene.netio());
    let stopped = stop.clone();
    // Files under routers' names, made and removed as fast as can be.
    let vandal = std::thread::spawn(move || {
        while !stopped.load(Relaxed) {
            for name in ["2", "3", "x"] {
                let _ = std::fs::write(directory.join(name), "");
                let _ = std::fs::remove_file(directory.join(name));
            }
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    let memory = iou_fast.process.rss().unwrap();
    let mut router = scene.deep_router(1);
    let reached = wait_until(SOON, || {
        send_paced(&station, &[plain(router_mac(1, 0, 0), STATION, 64, 1)]);
        router.next_test_frame(Duration::from_millis(20)).is_some()
    });
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, Relaxed);
    vandal.join().unwrap();
    assert!(reached, "{:?}", iou_fast.process);
    let grown = iou_fast.process.rss().unwrap().saturating_sub(memory);
    assert!(grown < 2 << 20, "{grown} bytes");
    iou_fast.stop();
}
