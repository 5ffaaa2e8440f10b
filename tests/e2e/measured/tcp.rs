//! TCP and UDP from real kernels, with offloads as they come by default: the kernel at the wire's end of a veth pair
//! leaves checksums, and the cutting of large segments, to a NIC that is none.

use crate::common::{Running, Scene, Summary};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use testbed::{Namespace, Process, Router};

const WAIT: Duration = Duration::from_secs(60);
/// Until the same is sent again: a router may not be connected yet.
const TRY: Duration = Duration::from_millis(200);
const ONE: &str = "1:0/0 600:0/0\n";
/// Router 2 is one whose every byte can be seen.
const TWO: &str = "1:0/0 600:0/0\n2:0/0 600:0/1\n";

/// A kernel on the wire, and one behind router 1.
struct Lan {
    iou_fast: Running,
    router: Namespace,
    _sim: Process,
    scene: Scene,
}

impl Lan {
    fn new(netmap: &str, arguments: &[&str]) -> Self {
        Self::on(Scene::new(), "eth0", netmap, arguments)
    }

    fn on(scene: Scene, nic: &str, netmap: &str, arguments: &[&str]) -> Self {
        scene.netmap(netmap);
        let offloads = scene.wire.run("ethtool", ["-k", "eth0"]).unwrap().stdout;
        assert!(
            String::from_utf8_lossy(&offloads).contains("tx-checksumming: on"),
            "the default has changed"
        );
        let router = Namespace::new("router").unwrap();
        let sim = scene.simulate("1", &["--tap", "eth0", "--netns", router.name()]);
        for (namespace, number) in [(&scene.wire, 9), (&router, 1)] {
            namespace.ip(&format!("addr add 10.10.100.{number}/16 dev eth0")).unwrap();
            namespace.ip(&format!("addr add fd00:10::100:{number}/64 dev eth0")).unwrap();
        }
        let iou_fast = scene.start(&[&["-i", nic, "-p", "600"], arguments].concat());
        Self { iou_fast, router, _sim: sim, scene }
    }

    /// What the kernels still said to each other, a last acknowledgement, counts as `stopped`.
    fn stop(self) -> Summary {
        let mut summary = self.iou_fast.stop();
        summary.dropped.retain(|(reason, _)| reason != "stopped");
        summary
    }
}

/// Sends `bytes` bytes from the client to the server, and checks each of them there.
fn carry(client: &Namespace, server: (&Namespace, &str), bytes: usize) {
    let address = SocketAddr::new(server.1.parse::<IpAddr>().unwrap(), 5001);
    let listener = server.0.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let mut out = client.enter(|| TcpStream::connect_timeout(&address, WAIT)).unwrap().unwrap();
    out.set_write_timeout(Some(WAIT)).unwrap();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(WAIT)).unwrap();
            let mut received = Vec::with_capacity(bytes);
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let sent = data(bytes);
        out.write_all(&sent).unwrap();
        drop(out);
        let received = receiver.join().unwrap();
        assert_eq!(received.len(), sent.len());
        assert!(
            received == sent,
            "differs from byte {:?}",
            received.iter().zip(&sent).position(|(a, b)| a != b)
        );
    });
}

/// Bytes that repeat nowhere near: xorshift.
fn data(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

/// Promise `tcp` (Protocols): TCP runs in both directions with the far end's default offloads, also beside
/// busy routers.
#[test]
fn tcp_with_default_offloads_in_both_directions() {
    let lan = Lan::new(ONE, &[]);
    for (wire, router) in [("10.10.100.9", "10.10.100.1"), ("fd00:10::100:9", "fd00:10::100:1")] {
        carry(&lan.scene.wire, (&lan.router, router), 4 << 20);
        carry(&lan.router, (&lan.scene.wire, wire), 4 << 20);
    }
    let summary = lan.stop();
    assert!(summary.to_routers.1 > 8 << 20 && summary.to_nics.1 > 8 << 20, "{}", summary.text);
    summary.assert_clean();
}

/// What `iperf3` carries from the client to the server in two seconds, or the other way, in bits a second.
fn iperf3(client: &Namespace, server: (&Namespace, &str), options: &[&str]) -> f64 {
    let mut listener = server.0.command("iperf3");
    let mut listener = Process::spawn(listener.args(["-s", "-1", "--forceflush", "-B", server.1])).unwrap();
    listener.wait_for_line(|line| line.contains("Server listening"), WAIT).unwrap();
    let arguments = [&["-c", server.1, "-t", "2", "-J"], options].concat();
    let report = client.run("iperf3", &arguments).unwrap().stdout;
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.unwrap_or_else(|| panic!("{report:#}"));
    println!("iperf3 {arguments:?}: {:.0} Mbit/s", rate / 1e6);
    rate
}

/// Beside twenty routers that get and send frames all the time.
///
/// Promise `tcp`.
#[test]
fn iperf3_beside_busy_routers() {
    let others: String = (11..31).map(|id| format!("{id}:0/0 600:{}/{}\n", id / 16, id % 16)).collect();
    let lan = Lan::new(&format!("{ONE}{others}"), &[]);
    let mut simulated = lan.scene.simulate("11-30", &[]);
    let both =
        |address| [&[][..], &["-R"]].map(|options| iperf3(&lan.scene.wire, (&lan.router, address), options));
    // A NIC of 10 Mbit/s would be far below; what an idle machine does is a hundred times that.
    let rates = ["10.10.100.1", "fd00:10::100:1"].map(both);
    assert!(rates.as_flattened().iter().all(|rate| *rate > 20e6), "{rates:?}");

    let end = AtomicBool::new(false);
    let (rates, pinged) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let station = lan.scene.station();
            let frames: Vec<_> = (11..=30)
                .map(|id| {
                    crate::common::plain(crate::common::router_mac(id, 0, 0), [2, 0, 0, 0, 0, 9], 500, 0)
                })
                .collect();
            while !end.load(Relaxed) {
                station.send_batch(&frames).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        let pings = scope.spawn(|| {
            let mut count = 0;
            while !end.load(Relaxed) {
                let to = format!("10.10.0.{}", 12 + count % 20);
                lan.scene.wire.run("ping", ["-c20", "-i0.01", "-W5", &to]).unwrap();
                count += 1;
            }
            count
        });
        let rates = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| both("10.10.100.1")));
        end.store(true, Relaxed);
        flood.join().unwrap();
        (rates.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), pings.join().unwrap())
    });
    assert!(rates.iter().all(|rate| *rate > 10e6) && pinged > 0, "{rates:?}, {pinged} routers pinged");
    simulated.stop(WAIT).unwrap();
    let summary = lan.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Native XDP on a veth has the kernel turn the far end's segmentation off. With generic XDP that is the user's to do:
/// the start says so, and how.
///
/// Promise (Protocols): Where an offload of the far end breaks TCP, the start names it and the command that
/// turns it off.
#[test]
fn offload_warning_in_generic_mode() {
    let lan = Lan::new(ONE, &["--xdp-mode", "generic"]);
    let said = lan.iou_fast.process.stderr();
    assert!(said.contains("ethtool -K PEER tso off tx-udp-segmentation off"), "{said}");
    lan.scene.wire.run("ethtool", ["-K", "eth0", "tso", "off", "tx-udp-segmentation", "off"]).unwrap();
    for (wire, router) in [("10.10.100.9", "10.10.100.1"), ("fd00:10::100:9", "fd00:10::100:1")] {
        carry(&lan.scene.wire, (&lan.router, router), 1 << 20);
        carry(&lan.router, (&lan.scene.wire, wire), 1 << 20);
    }
    lan.stop().assert_clean();
}

/// A macvlan has no native XDP, and a generic program comes behind GRO of the NIC below, and behind segments that the
/// NIC's other end does not cut: the start names both, each with the command that helps, and says so once.
///
/// Promise `lower-offloads` (Protocols): Where a lower device of the NIC or the other end of its veth makes
/// frames above the MTU, the start names it and the command that stops it, and with that TCP runs; where none
/// does, it names none.
#[test]
fn offload_warning_names_lower_device_of_macvlan() {
    let scene = Scene::new();
    scene.host.ip("link add mv0 link eth0 type macvlan mode passthru").unwrap();
    scene.host.ip("link set mv0 up").unwrap();
    // As on a NIC; on a veth it is off.
    scene.host.run("ethtool", ["-K", "eth0", "gro", "on"]).unwrap();
    let lan = Lan::on(scene, "mv0", TWO, &[]);
    let said = lan.iou_fast.process.stderr();
    let commands: Vec<Vec<&str>> = said
        .split('`')
        .filter_map(|quoted| quoted.strip_prefix("ethtool "))
        .map(|command| command.split(' ').collect())
        .collect();
    let [here, far] = &commands[..] else { panic!("{commands:?}\n{said}") };
    assert_eq!(here[..2], ["-K", "eth0"], "{said}");
    assert_eq!(far[..2], ["-K", "PEER"], "{said}");
    lan.scene.host.run("ethtool", here).unwrap();
    lan.scene.wire.run("ethtool", [&["-K", "eth0"], &far[2..]].concat()).unwrap();
    for (wire, router) in [("10.10.100.9", "10.10.100.1"), ("fd00:10::100:9", "fd00:10::100:1")] {
        carry(&lan.scene.wire, (&lan.router, router), 4 << 20);
        carry(&lan.router, (&lan.scene.wire, wire), 4 << 20);
    }
    assert!(iperf3(&lan.scene.wire, (&lan.router, "10.10.100.1"), &[]) > 20e6);

    // Which it says as well: the kernel has taken tags out before the program sees the frame.
    assert!(said.contains("sees no VLAN tags"), "{said}");
    let mut spy = Router::new(&lan.scene.netio(), 2).unwrap();
    let [mac, station] = [crate::common::router_mac(2, 0, 0), lan.scene.wire.mac("eth0").unwrap()];
    let sent = crate::common::tagged(mac, station, &[testbed::Tag::vlan(10)], 100, 1);
    let got = wait_for(|| {
        lan.scene.station().send(&sent).unwrap();
        spy.recv_where(TRY, |_, frame| frame.starts_with(&sent[..12]))
    });
    assert_eq!(got.1, [&sent[..12], &sent[16..]].concat());
    drop(spy);
    let summary = lan.stop();
    assert_eq!((summary.drops("too-large"), summary.faults.len()), (0, 0), "{}", summary.text);
}

/// DHCP, mDNS, LDP and RIP go to groups. The router's kernel drops a datagram whose checksum is wrong.
///
/// Promise `checksums` (Frames): Checksums that a virtual NIC left unfinished are completed, and no valid
/// packet is changed.
#[test]
fn udp_checksum_completed_to_multicast() {
    for arguments in [&[][..], &["--exclusive"]] {
        let lan = Lan::new(TWO, arguments);
        let [v4, v6] = ["0.0.0.0:6767", "[::]:6768"]
            .map(|address| lan.router.enter(|| UdpSocket::bind(address)).unwrap().unwrap());
        let mut spy = Router::new(&lan.scene.netio(), 2).unwrap();
        let sender = |address: &str| lan.scene.wire.enter(|| UdpSocket::bind(address)).unwrap().unwrap();
        for len in [1, 300, 1471] {
            let sent = data(len);
            let mut buffer = [0; 2000];
            let from = sender("10.10.100.9:0");
            from.set_broadcast(true).unwrap();
            let send = || from.send_to(&sent, "10.10.255.255:6767").unwrap();
            let seen = wait_for(|| {
                send();
                spy.recv_where(TRY, |_, frame| frame.ends_with(&sent) && frame[23] == 17)
            });
            assert_valid(&seen.1, 14 + 12..14 + 20, 34);
            arrives(send, &v4, &mut buffer, &sent);

            let sent = &sent[..len.min(1451)];
            let from = sender("[fd00:10::100:9]:0");
            let index = lan.scene.wire.ip("-o link show eth0").unwrap().stdout;
            let index: u32 = String::from_utf8_lossy(&index).split(':').next().unwrap().parse().unwrap();
            let group = SocketAddrV6::new("ff02::1".parse().unwrap(), 6768, 0, index);
            let send = || from.send_to(sent, group).unwrap();
            let seen = wait_for(|| {
                send();
                spy.recv_where(TRY, |_, frame| frame.ends_with(sent) && frame[20] == 17)
            });
            assert_valid(&seen.1, 14 + 8..14 + 40, 54);
            arrives(send, &v6, &mut buffer, sent);
        }
        lan.stop();
    }
}

/// A frame to a station that no table knows goes to the switch image that asked for those, as whole as any.
///
/// Promise `checksums`.
#[test]
fn udp_checksum_completed_to_unknown_unicast() {
    let lan = Lan::new(TWO, &["--flood-unknown", "2:0/0"]);
    let mut switch = Router::new(&lan.scene.netio(), 2).unwrap();
    lan.scene.wire.ip("neigh add 10.10.100.77 lladdr 02:00:00:00:00:77 dev eth0").unwrap();
    let from = lan.scene.wire.enter(|| UdpSocket::bind("10.10.100.9:0")).unwrap().unwrap();
    let sent = data(333);
    let seen = wait_for(|| {
        from.send_to(&sent, "10.10.100.77:6767").unwrap();
        switch.recv_where(TRY, |_, frame| frame.ends_with(&sent))
    });
    assert_valid(&seen.1, 14 + 12..14 + 20, 34);
    lan.stop();
}

/// Sends until one arrives.
fn arrives(send: impl Fn() -> usize, socket: &UdpSocket, buffer: &mut [u8], sent: &[u8]) {
    socket.set_read_timeout(Some(TRY)).unwrap();
    wait_for(|| {
        send();
        socket.recv(buffer).ok().filter(|len| buffer[..*len] == *sent)
    });
}

fn wait_for<T>(mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + WAIT;
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(Instant::now() < end, "nothing arrived");
    }
}

/// The checksum of the UDP datagram that begins at `udp`, with its IP addresses at `addresses`: RFC 1071, 768.
fn assert_valid(frame: &[u8], addresses: std::ops::Range<usize>, udp: usize) {
    let datagram = &frame[udp..];
    let len = u16::from_be_bytes([datagram[4], datagram[5]]);
    let datagram = &datagram[..usize::from(len)];
    assert_ne!(datagram[6..8], [0, 0], "no checksum at all");
    let pseudo_header = [&frame[addresses], &[0, 17], &len.to_be_bytes()].concat();
    let words = pseudo_header.chunks(2).chain(datagram.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    assert_eq!(sum, 0xffff, "checksum of {frame:02x?}");
}
