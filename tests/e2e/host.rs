//! The host stays whole: its own traffic on the NIC is undisturbed while `iou-fast` runs, and whatever way that
//! ends, the NIC is as it was before.

mod measured;

use crate::common::{SOON, Scene, Strain, header, router_mac, runs};
use iou_fast::steer::{Options, Steering};
use libbpf_rs::{Xdp, XdpFlags};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use testbed::{Bin, Namespace, Process, Router, Signal, Tag, VethOptions, frame, wait_until};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const BROADCAST: [u8; 6] = [0xff; 6];
const WAIT: Duration = Duration::from_secs(5);
const NO_TAG: &[Tag] = &[];

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const WIRE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// A NIC with addresses of the host's own, and a neighbour on the wire.
fn addressed_scene() -> Scene {
    let scene = Scene::new();
    scene.host.ip(&format!("addr add {HOST}/24 dev eth0")).unwrap();
    scene.host.ip("addr add fd09::2/64 dev eth0").unwrap();
    scene.wire.ip(&format!("addr add {WIRE}/24 dev eth0")).unwrap();
    scene.wire.ip("addr add fd09::1/64 dev eth0").unwrap();
    scene.netmap("1:0/0 501:0/0\n");
    scene
}

/// Only our own frames on the wire, to count them exactly.
fn quiet(scene: &Scene) {
    for namespace in [&scene.host, &scene.wire] {
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1").unwrap();
    }
}

#[track_caller]
fn ping(from: &Namespace, address: &str) {
    let arguments = ["-q", "-c3", "-i0.05", "-W3", address];
    from.run("ping", arguments).unwrap_or_else(|error| panic!("{error}"));
}

/// 1 MiB over TCP to `server` and back, whole.
#[track_caller]
fn tcp(client: &Namespace, server: &Namespace, address: Ipv4Addr) {
    let listener = server.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    let client = client.enter(|| TcpStream::connect_timeout(&to, WAIT).unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
    }
    let data: Vec<u8> = (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    let across = |mut from: &TcpStream, mut to: &TcpStream| {
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| from.write_all(&data).and_then(|()| from.shutdown(Shutdown::Write)));
            to.read_to_end(&mut got).unwrap();
            sender.join().unwrap().unwrap();
        });
        assert!(got == data, "{} bytes of {} arrived, or others", got.len(), data.len());
    };
    across(&client, &server);
    across(&server, &client);
}

/// Everything the host does with its NIC, in both directions.
#[track_caller]
fn the_host_works(scene: &Scene) {
    // So that ARP and neighbour discovery have to work, too.
    for namespace in [&scene.host, &scene.wire] {
        namespace.ip("neigh flush dev eth0").unwrap();
    }
    ping(&scene.wire, &HOST.to_string());
    ping(&scene.host, &WIRE.to_string());
    ping(&scene.wire, "fd09::2");
    ping(&scene.host, "fd09::1");
    tcp(&scene.wire, &scene.host, HOST);
    tcp(&scene.host, &scene.wire, WIRE);
}

/// What can be seen of a NIC from outside.
fn state_of(namespace: &Namespace, nic: &str) -> String {
    let see = |program: &str, arguments: &[&str]| {
        String::from_utf8(namespace.run(program, arguments).unwrap().stdout).unwrap()
    };
    let link = see("ip", &["-d", "link", "show", "dev", nic]);
    link + &see("ethtool", &["-k", nic]) + &see("bpftool", &["net", "show", "dev", nic])
}

/// One frame to router 1 on 501:0/0, which must get it, and one back.
#[track_caller]
fn carries(scene: &Scene, router: &mut Router, seq: u64) {
    let mut station = scene.station();
    let sent = frame(router_mac(1, 0, 0), STATION, NO_TAG, frame::ETHERTYPE, 64, seq);
    station.send(&sent).unwrap();
    let got = router.recv_where(WAIT, |_, frame| frame == sent).expect("the frame at the router");
    assert_eq!(got.0, header(1, 0, 501, 0));
    let answer = frame(STATION, router_mac(1, 0, 0), NO_TAG, frame::ETHERTYPE, 64, seq);
    router.send(501, header(501, 0, 1, 0), &answer).unwrap();
    station.recv_where(WAIT, |frame| frame == answer).expect("the answer on the wire");
}

fn is_empty(directory: &Path) -> bool {
    directory.read_dir().map_or(true, |mut entries| entries.next().is_none())
}

fn state_directory(scene: &Scene) -> std::path::PathBuf {
    scene.directory().join("state")
}

/// Promise `astray`.
#[test]
fn foreign_unicast_reaches_only_the_host() {
    let scene = addressed_scene();
    quiet(&scene);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let mut host = testbed::Station::new(&scene.host, "eth0").unwrap();
    let station = scene.station();
    let own = scene.host.mac("eth0").unwrap();
    let (mut seq, mut bytes) = (0, Vec::new());
    // The host's own, a stranger's, and one that looks like a router's but is of none in NETMAP.
    for mac in [own, [2, 0, 0, 0, 0, 0x77], router_mac(1, 0, 1), router_mac(2, 0, 0)] {
        for (len, tags) in
            [(60, NO_TAG), (1514, NO_TAG), (64, &[Tag::vlan(7)]), (1518, &[Tag::vlan(3), Tag::vlan(7)])]
        {
            let sent = frame(mac, STATION, tags, frame::ETHERTYPE, len, seq);
            station.send(&sent).unwrap();
            host.recv_where(WAIT, |frame| frame == sent)
                .unwrap_or_else(|| panic!("{len} bytes for {mac:02x?} at the host"));
            bytes.push(sent);
            seq += 1;
        }
    }
    carries(&scene, &mut router, 1000);
    // Each once, and the router's own frame not at all.
    assert_eq!(host.recv_where(Duration::from_millis(200), |frame| frame::check(frame).is_ok()), None);
    assert_eq!(router.drain(), 0);
    let summary = iou_fast.stop();
    assert_eq!(summary.to_routers.0, 1, "{}", summary.text);
    summary.assert_clean();
}

#[test]
fn bum_frames_reach_host_and_routers() {
    let scene = addressed_scene();
    quiet(&scene);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    for mode in ["native", "generic"] {
        let iou_fast = scene.start(&["-i", "eth0", "-p", "501", "--xdp-mode", mode]);
        let mut host = testbed::Station::new(&scene.host, "eth0").unwrap();
        let station = scene.station();
        let groups = [BROADCAST, [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 5], [1, 0x80, 0xc2, 0, 0, 0]];
        for (seq, group) in groups.into_iter().enumerate() {
            for tags in [NO_TAG, &[Tag::vlan(7)]] {
                let sent = frame(group, STATION, tags, frame::ETHERTYPE, 90, seq as u64);
                station.send(&sent).unwrap();
                host.recv_where(WAIT, |frame| frame == sent)
                    .expect("a broadcast or multicast frame at the host");
                let (header_seen, _) = router
                    .recv_where(WAIT, |_, frame| frame == sent)
                    .expect("a broadcast or multicast frame at the router");
                assert_eq!(header_seen, header(1, 0, 501, 0));
            }
        }
        assert_eq!(host.recv_where(Duration::from_millis(200), |frame| frame::check(frame).is_ok()), None);
        assert_eq!(router.drain(), 0);
        let summary = iou_fast.stop();
        assert_eq!(summary.to_routers.0, 2 * groups.len() as u64, "{}", summary.text);
    }
}

/// Sends `count` broadcasts, no more at a time than a veth queues (256), and returns once the host has them all.
#[track_caller]
fn storm(station: &testbed::Station, host: &mut testbed::Station, count: u64) {
    const AT_ONCE: u64 = 128;
    for first in (0..count).step_by(AT_ONCE as usize) {
        let of = |seq| frame(BROADCAST, STATION, NO_TAG, frame::ETHERTYPE, 300, seq);
        let frames: Vec<Vec<u8>> = (first..count.min(first + AT_ONCE)).map(of).collect();
        station.send_batch(&frames).unwrap();
        for sent in frames {
            let got = host.recv_where(WAIT, |frame| frame::check(frame).is_ok());
            assert!(got.as_ref() == Some(&sent), "the host's copy of a broadcast is missing");
        }
    }
}

/// Promise `nic-restored` (Faults): After the program's end the NIC is as it was before.
#[test]
fn nic_is_restored_after_exit() {
    let scene = addressed_scene();
    // As on a NIC; on a veth it is off.
    scene.host.run("ethtool", ["-K", "eth0", "gro", "on"]).unwrap();
    let before = [state_of(&scene.host, "eth0"), state_of(&scene.wire, "eth0")];
    assert!(before[0].contains("promiscuity 0 "), "{}", before[0]);
    assert!(before[0].contains("rx-vlan-offload: on"), "there is nothing to restore:\n{}", before[0]);
    for (mode, signal) in [("native", Signal::INT), ("generic", Signal::TERM)] {
        let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501", "--xdp-mode", mode]);
        let during = state_of(&scene.host, "eth0");
        assert!(during.contains("promiscuity 1 ") && during.contains("prog/xdp"), "{during}");
        assert!(during.contains("rx-vlan-offload: off"), "{during}");
        assert_eq!(during.contains("generic-receive-offload: off"), mode == "generic", "{during}");
        iou_fast.process.signal(signal);
        assert!(iou_fast.process.wait(SOON).unwrap().success());
        assert_eq!([state_of(&scene.host, "eth0"), state_of(&scene.wire, "eth0")], before, "{mode}");
        assert!(is_empty(&state_directory(&scene)));
        assert_eq!(scene.netio().read_dir().unwrap().count(), 0);
    }
}

/// Promise `kill-9`.
#[test]
fn sigkill_nic_is_restored_by_kernel_and_guard() {
    let scene = Scene::with_nics(&["eth0", "eth1"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let nics = ["eth0", "eth1"];
    let see = || nics.map(|nic| state_of(&scene.host, nic));
    for nic in nics {
        scene.host.run("ethtool", ["-K", nic, "gro", "on"]).unwrap();
    }
    let arguments = ["-p", "501,502", "-i", "eth0=501", "-i", "eth1=502", "--xdp-mode"];
    for mode in ["native", "generic"] {
        let before = see();
        let iou_fast = scene.start(&[&arguments[..], &[mode]].concat());
        let guard = iou_fast.guard();
        for during in see() {
            assert!(during.contains("rx-vlan-offload: off"), "{during}");
            assert_eq!(during.contains("generic-receive-offload: off"), mode == "generic", "{during}");
        }
        iou_fast.kill();
        assert!(wait_until(WAIT, || see() == before && !runs(guard)), "{mode}: {:?}", see());
        assert!(is_empty(&state_directory(&scene)), "neither lock nor record");
    }

    // A NIC that came in the place of one is covered, too.
    let mut iou_fast = scene.start(&[&arguments[..], &["native"]].concat());
    let guard = iou_fast.guard();
    scene.host.ip("link del eth1").unwrap();
    iou_fast.process.wait_for_line(|line| line.contains("eth1 is gone"), SOON).unwrap();
    testbed::veth((&scene.wire, "eth1"), (&scene.host, "eth1"), &VethOptions::default()).unwrap();
    iou_fast
        .process
        .wait_for_line(|line| line.contains("forwarding goes on") && !line.contains("when"), SOON)
        .unwrap();
    let offloads = || String::from_utf8(scene.host.run("ethtool", ["-k", "eth1"]).unwrap().stdout).unwrap();
    assert!(offloads().contains("rx-vlan-offload: off"));
    iou_fast.kill();
    assert!(wait_until(WAIT, || !runs(guard)));
    assert!(offloads().contains("rx-vlan-offload: on"), "{}", offloads());
    assert!(is_empty(&state_directory(&scene)));
}

/// As when everything of a service is killed (`systemctl kill -s KILL`), or there is no memory for anybody.
///
/// Promise `guard`.
#[test]
fn guard_killed_next_start_restores_offloads() {
    let scene = addressed_scene();
    scene.host.run("ethtool", ["-K", "eth0", "gro", "on"]).unwrap();
    let before = state_of(&scene.host, "eth0");
    for mode in ["native", "generic"] {
        let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501", "--xdp-mode", mode]);
        let guard = iou_fast.guard();
        // What ends all of a service, or of a terminal, does not end the guard.
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            kill(guard, signal);
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(runs(guard));
        kill(guard, Signal::KILL);
        let said = iou_fast.process.wait_for_line(|line| line.contains("the guard"), SOON).unwrap();
        assert!(
            said.contains(&format!("pid {guard}")) && said.contains("should iou-fast be killed"),
            "{said}"
        );
        assert!(!Path::new(&format!("/proc/{guard}")).exists(), "it was waited for");
        iou_fast.kill();
        let link = || String::from_utf8(scene.host.ip("-d link show dev eth0").unwrap().stdout).unwrap();
        assert!(wait_until(WAIT, || before.starts_with(&link())), "{mode}:\n{}", link());
        the_host_works(&scene);
        let left = state_of(&scene.host, "eth0");
        assert!(left.contains("rx-vlan-offload: off"), "{left}");
        assert!(!is_empty(&state_directory(&scene)));

        // In the other mode, which does not need the same offloads off.
        scene.start(&["-i", "eth0", "-p", "501"]).stop();
        assert_eq!(state_of(&scene.host, "eth0"), before, "{mode}");
        assert!(is_empty(&state_directory(&scene)));
    }
}

/// Promise `guard` (Faults): The guard, which restores the NIC after `kill -9`, ends with the program, blocks
/// no process and no new start; if it is killed too, the next run restores the offloads.
#[test]
fn guard_exits_with_the_program() {
    let scene = addressed_scene();
    let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let guard = iou_fast.guard();
    // Stopped it cannot end; it does as soon as it goes on, without doing anything.
    kill(guard, Signal::STOP);
    iou_fast.process.signal(Signal::INT);
    assert!(iou_fast.process.wait(SOON).unwrap().success());
    let during = state_of(&scene.host, "eth0");
    kill(guard, Signal::CONT);
    assert!(wait_until(SOON, || !runs(guard)));
    assert_eq!(state_of(&scene.host, "eth0"), during);

    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let guard = iou_fast.guard();
    iou_fast.stop();
    assert!(!Path::new(&format!("/proc/{guard}")).exists(), "it is left when iou-fast has ended");
    // A start that fails has had one, too.
    scene.refused(&["-i", "eth9", "-p", "501"]);
    assert!(is_empty(&state_directory(&scene)));
}

/// With a driver that takes its time a guard has the NIC's lock for longer than a killed process is waited for.
///
/// Promise `guard`.
#[test]
fn start_waits_for_working_guard() {
    const WORK: Duration = Duration::from_millis(1500);
    let scene = addressed_scene();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let locks = state_directory(&scene).read_dir().unwrap().map(|entry| entry.unwrap().path());
    let lock = locks.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "lock")).unwrap();
    iou_fast.stop();
    let hold = |text: &str| {
        std::fs::write(&lock, text).unwrap();
        let file = std::fs::File::open(&lock).unwrap();
        // A child that another test just starts has the descriptor, and with it the lock, until it runs its program.
        let take = || rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
        assert!(wait_until(SOON, take), "the lock stays held");
        file
    };
    let held = hold("1234\n");
    let error = scene.refused(&["-i", "eth0", "-p", "501"]);
    assert!(error.contains("eth0 is held by iou-fast, pid 1234:"), "{error}");
    drop(held);
    let held = hold("1234\nguard\n");
    std::thread::scope(|scope| {
        let start = Instant::now();
        scope.spawn(move || {
            std::thread::sleep(WORK);
            drop(held);
        });
        let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
        assert!(start.elapsed() >= WORK, "there was nothing to wait for");
        iou_fast.stop();
    });
    assert!(is_empty(&state_directory(&scene)));
}

/// To a process that is no child of ours.
fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A numbered stream from the wire to the host while `meanwhile` runs. Each number arrives, in order; returns how many
/// that were.
fn while_the_host_hears_numbers(scene: &Scene, meanwhile: impl FnOnce()) -> u64 {
    let listener = scene.host.enter(|| TcpListener::bind((HOST, 0)).unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    let mut sender = scene.wire.enter(|| TcpStream::connect_timeout(&to, WAIT).unwrap()).unwrap();
    sender.set_nodelay(true).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(WAIT)).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                sender.write_all(&n.to_be_bytes()).unwrap();
                n += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let reader = scope.spawn(|| {
            let mut expected = 0u64;
            let mut number = [0; 8];
            while receiver.read_exact(&mut number).is_ok() {
                assert_eq!(u64::from_be_bytes(number), expected);
                expected += 1;
            }
            expected
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let numbers = reader.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        numbers
    })
}

/// Promise `nic-in-use`.
#[test]
fn nic_with_foreign_xdp_program_is_refused() {
    let scene = addressed_scene();
    let options =
        Options { workers: 1, queues: 1, exclusive: false, dynamic_entries: 16, static_entries: 16 };
    let steering = Steering::load(&options).unwrap();
    let index = scene.host.run("cat", ["/sys/class/net/eth0/ifindex"]).unwrap().stdout;
    let index: i32 = String::from_utf8(index).unwrap().trim().parse().unwrap();
    for (flags, place) in [(XdpFlags::DRV_MODE, "xdpdrv"), (XdpFlags::SKB_MODE, "xdpgeneric")] {
        scene
            .host
            .enter(|| Xdp::new(steering.program().unwrap().as_fd()).attach(index, flags).unwrap())
            .unwrap();
        let before = state_of(&scene.host, "eth0");
        assert!(before.contains("prog/xdp"), "{before}");
        let error = scene.refused(&["-i", "eth0", "-p", "501"]);
        assert!(
            error.contains("eth0 has an XDP program already") && error.contains("\"steer\", id "),
            "{error}"
        );
        assert_eq!(state_of(&scene.host, "eth0"), before);
        assert_eq!(scene.netio().read_dir().unwrap().count(), 0);
        assert!(is_empty(&state_directory(&scene)));
        // The message says how it goes away.
        let command = format!("link set dev eth0 {place} off");
        assert!(error.contains(&format!("`ip {command}` removes it")), "{error}");
        scene.host.ip(&command).unwrap();
        scene.start(&["-i", "eth0", "-p", "501"]).stop();
    }
}

/// Promise `nic-in-use` (The host): A NIC in use is refused with its owner, also if that is another user, and
/// the owner goes on.
#[test]
fn nic_in_use_is_refused_and_owner_continues() {
    let scene = addressed_scene();
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let pid = iou_fast.process.pid();
    let before = state_of(&scene.host, "eth0");
    let error = scene.refused(&["-i", "eth0", "-p", "502"]);
    assert!(error.contains(&format!("eth0 is held by iou-fast, pid {pid}:")), "{error}");
    carries(&scene, &mut router, 1);

    // One that does not see the lock, as in another container.
    let mut command = scene.host.command(Bin::find("iou-fast").unwrap());
    command.arg("-n").arg(scene.netmap_file()).arg("--netio-dir").arg(scene.netio());
    command.arg("--state-dir").arg(scene.directory().join("elsewhere"));
    let mut second = Process::spawn(command.args(["-i", "eth0", "-p", "502"])).unwrap();
    assert!(!second.wait(SOON).unwrap().success());
    let error = second.stderr();
    assert!(error.contains("eth0 has an XDP program already"), "{error}");
    assert!(error.contains(&format!("held by pid {pid} (iou-fast)")), "{error}");
    carries(&scene, &mut router, 2);
    assert_eq!(state_of(&scene.host, "eth0"), before);
    assert_eq!(scene.netio().read_dir().unwrap().count(), 3, "502 was given back");
    iou_fast.stop().assert_clean();
}

/// Promise `nic-restored`.
#[test]
fn failed_start_leaves_nothing_behind() {
    let scene = Scene::with_nics(&["eth0", "eth1"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let before = state_of(&scene.host, "eth0");
    let check = |what: &str| {
        assert_eq!(state_of(&scene.host, "eth0"), before, "{what}");
        assert!(is_empty(&state_directory(&scene)), "{what}");
        assert_eq!(scene.netio().read_dir().unwrap().count(), 0, "{what}");
    };
    let two = ["-p", "501-502", "-i", "eth0=501", "-i"];
    let error = scene.refused(&[&two[..], &["eth9=502"]].concat());
    assert!(error.contains("no network interface \"eth9\""), "{error}");
    check("the second NIC does not exist");

    scene.refused(&[&two[..], &["eth1=502", "--copy-mode", "zero-copy"]].concat());
    check("the NICs cannot do what is asked");

    let holder = scene.start(&["-p", "502", "-i", "eth1"]);
    let error = scene.refused(&["-p", "501", "-i", "eth0", "-i", "eth1=501"]);
    assert!(error.contains("nothing would be on eth0"), "{error}");
    let error = scene.refused(&[&two[..], &["eth1=502"]].concat());
    assert!(error.contains("pseudo id 502"), "{error}");
    assert_eq!(state_of(&scene.host, "eth0"), before);
    assert!(!scene.netio().join("501").exists());
    holder.stop();
    check("a pseudo id is taken");

    // The first NIC is all set up when the second turns out to be taken.
    let options =
        Options { workers: 1, queues: 1, exclusive: false, dynamic_entries: 16, static_entries: 16 };
    let steering = Steering::load(&options).unwrap();
    let index = scene.host.run("cat", ["/sys/class/net/eth1/ifindex"]).unwrap().stdout;
    let index: i32 = String::from_utf8(index).unwrap().trim().parse().unwrap();
    let attach = || Xdp::new(steering.program().unwrap().as_fd()).attach(index, XdpFlags::DRV_MODE).unwrap();
    scene.host.enter(attach).unwrap();
    let error = scene.refused(&[&two[..], &["eth1=502"]].concat());
    assert!(error.contains("eth1 has an XDP program already"), "{error}");
    check("the second NIC has another program");
}

/// docs/nics.md, "Host and routers": a bridge of the NIC and one end of a veth pair, the other end for `iou-fast`.
///
/// With `tx` on, checksums of what the host sends would be unfinished; with the tag offloads on, tags would cross the
/// pair beside the frame, where XDP does not see them: `txvlan` stands for 802.1Q, the other for 802.1ad.
fn bridged_scene() -> Scene {
    let scene = Scene::new();
    for recipe in [
        "link add br0 type bridge",
        "link add vethA type veth peer name vethB",
        "link set eth0 master br0",
        "link set vethA master br0",
        "link set br0 up",
        "link set vethA up",
        "link set vethB up",
        "addr add 10.9.0.2/24 dev br0",
    ] {
        scene.host.ip(recipe).unwrap();
    }
    scene
        .host
        .run("ethtool", ["-K", "vethA", "tx", "off", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"])
        .unwrap();
    scene.wire.ip("addr add 10.9.0.1/24 dev eth0").unwrap();
    scene.netmap("1:0/0 501:0/0\n");
    scene
}

/// The router is a kernel behind `iou-fast sim`, which drops what has an unfinished checksum.
///
/// Promise `host-bridge` (The host): Host and routers reach each other over a bridge, with VLAN tags in
/// place.
#[test]
fn host_bridge_joins_host_and_routers() {
    let scene = bridged_scene();
    let (host, wire, router) = (&scene.host, &scene.wire, &Namespace::new("router").unwrap());
    let _sim = scene.simulate("1", &["--tap", "eth0", "--netns", router.name()]);
    router.ip("addr add 10.9.0.3/24 dev eth0").unwrap();
    let before = state_of(host, "vethB");

    let iou_fast = scene.start(&["-i", "vethB", "-p", "501"]);
    let address = |n| Ipv4Addr::new(10, 9, 0, n);
    let (of_wire, of_host, of_router) = (address(1), address(2), address(3));
    for (from, to) in [
        (host, of_router),
        (wire, of_router),
        (wire, of_host),
        (host, of_wire),
        (router, of_host),
        (router, of_wire),
    ] {
        ping(from, &to.to_string());
    }
    tcp(host, router, of_router);
    tcp(router, host, of_host);
    tcp(wire, host, of_host);
    tcp(host, wire, of_wire);
    iou_fast.stop().assert_clean();
    assert_eq!(state_of(host, "vethB"), before);
}

/// Promise `host-bridge`.
#[test]
fn host_bridge_keeps_vlan_tags() {
    let scene = bridged_scene();
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = scene.start(&["-i", "vethB", "-p", "501"]);
    let mac = router_mac(1, 0, 0);
    let host = testbed::Station::new(&scene.host, "br0").unwrap();
    let own = scene.host.mac("br0").unwrap();
    for (mut station, source) in [(scene.station(), STATION), (host, own)] {
        for (seq, tags) in
            [NO_TAG, &[Tag::vlan(10)], &[Tag::new(0x88a8, 20), Tag::vlan(10)]].into_iter().enumerate()
        {
            let sent = frame(mac, source, tags, frame::ETHERTYPE, 100, seq as u64);
            station.send(&sent).unwrap();
            router
                .recv_where(WAIT, |_, frame| frame == sent)
                .unwrap_or_else(|| panic!("{tags:?} from {source:?}"));
            let answer = frame(source, mac, tags, frame::ETHERTYPE, 100, seq as u64);
            router.send(501, header(501, 0, 1, 0), &answer).unwrap();
            station.recv_where(WAIT, |frame| frame == answer).expect("the answer");
        }
    }
    iou_fast.stop().assert_clean();
}

/// On a bridge the host speaks as the bridge, not as the NIC: no router takes that address, nor one that the host is given
/// later, though it has used it.
///
/// Promise `host-addresses` (Addresses): The host's addresses are those of the interfaces above and below the
/// NIC, and of the other end of its veth; addresses derived from the NETMAP and those of VRRP stay the
/// routers'.
#[test]
fn host_bridge_address_is_never_a_router() {
    const LATER: [u8; 6] = [2, 0, 0, 0, 0xbb, 2];
    let scene = bridged_scene();
    quiet(&scene);
    scene.host.ip("link set br0 address 02:00:00:00:bb:01").unwrap();
    scene.host.ip("link add mv0 link br0 type macvlan mode bridge").unwrap();
    scene.host.ip("link set mv0 up").unwrap();
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let mut routers = [1, 2].map(|id| Router::new(&scene.netio(), id).unwrap());
    let iou_fast = scene.start(&["-i", "vethB", "-p", "501-502"]);
    let mut seq = 0;
    // Router `id` sends a frame; returns it.
    let send = |routers: &[Router; 2], id: u16, to, from, seq| {
        let sent = frame(to, from, NO_TAG, frame::ETHERTYPE, 80, seq);
        routers[usize::from(id) - 1].send(500 + id, header(500 + id, 0, id, 0), &sent).unwrap();
        sent
    };
    // Router 1 speaks as `mac` and is not heard; router 2 reaches the host under it.
    let mut is_the_hosts = |mac: [u8; 6], nic: &str, routers: &mut [Router; 2]| {
        let mut host = testbed::Station::new(&scene.host, nic).unwrap();
        for _ in 0..3 {
            seq += 3;
            send(routers, 1, BROADCAST, mac, seq);
            let own = send(routers, 1, BROADCAST, router_mac(1, 0, 0), seq + 1);
            let heard = routers[1].recv_where(WAIT, |_, frame| frame::check(frame).is_ok());
            assert_eq!(
                heard.map(|(_, frame)| frame),
                Some(own),
                "router 2 hears what is router 1's own alone"
            );
            let sent = send(routers, 2, mac, router_mac(2, 0, 0), seq + 2);
            let got = host.recv_where(WAIT, |frame| *frame == sent);
            assert!(got.is_some(), "{nic} is cut off\n{}", iou_fast.process.dump());
        }
        // But what the host said of itself.
        let astray = routers[0].recv_where(Duration::ZERO, |_, frame| frame::check(frame).is_ok());
        assert_eq!(astray, None);
    };
    for nic in ["br0", "mv0"] {
        is_the_hosts(scene.host.mac(nic).unwrap(), nic, &mut routers);
    }
    // What a router uses before the host does is the router's until then.
    send(&routers, 1, BROADCAST, LATER, 900);
    routers[1].recv_where(WAIT, |_, frame| frame::check(frame).is_ok()).expect("router 1, as a new sender");
    let sent = send(&routers, 2, LATER, router_mac(2, 0, 0), 901);
    assert!(routers[0].recv_where(WAIT, |_, frame| frame == sent).is_some());
    scene.host.ip("link set br0 address 02:00:00:00:bb:02").unwrap();
    let taken = || {
        let [as_host, own] = [(LATER, 902), (router_mac(1, 0, 0), 903)]
            .map(|(from, seq)| send(&routers, 1, BROADCAST, from, seq));
        let mut heard = routers[1].recv_where(WAIT, |_, frame| frame::check(frame).is_ok());
        let was_heard = heard.as_ref().is_some_and(|(_, frame)| *frame == as_host);
        if was_heard {
            heard = routers[1].recv_where(WAIT, |_, frame| frame::check(frame).is_ok());
        }
        assert_eq!(heard.map(|(_, frame)| frame), Some(own));
        !was_heard
    };
    assert!(wait_until(WAIT, taken), "{}", iou_fast.process.dump());
    is_the_hosts(LATER, "br0", &mut routers);
    let summary = iou_fast.stop();
    assert_eq!(summary.drops("spoofed"), 3 * 3 + 1, "{}", summary.text);
}

/// A NIC that is away does not hide changes on another.
///
/// Promise `host-addresses`.
#[test]
fn host_address_added_while_nic_away_is_never_a_router() {
    const OWN: [u8; 6] = [2, 0, 0, 0, 0xbb, 3];
    let scene = Scene::silent(&["eth0", "eth1"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let router = Router::new(&scene.netio(), 2).unwrap();
    let mut station = testbed::Station::new(&scene.wire, "eth1").unwrap();
    let mut iou_fast = scene.start(&["-p", "501-502", "-i", "eth0=501", "-i", "eth1=502"]);
    scene.host.ip("link del eth0").unwrap();
    iou_fast.process.wait_for_line(|line| line.contains("eth0 is gone"), SOON).unwrap();
    scene.host.ip("link add mv1 link eth1 address 02:00:00:00:bb:03 type macvlan mode bridge").unwrap();
    scene.host.ip("link set mv1 up").unwrap();
    let mut seq = 0;
    // What is sent second is heard in any case, so that the first is not merely late.
    let mut is_dropped = || {
        let [as_host, own] = [OWN, router_mac(2, 0, 0)].map(|from| {
            seq += 1;
            let sent = frame(BROADCAST, from, NO_TAG, frame::ETHERTYPE, 80, seq);
            router.send(502, header(502, 0, 2, 0), &sent).unwrap();
            sent
        });
        let mut heard = || station.recv_where(WAIT, |frame| frame::check(frame).is_ok());
        let first = heard().expect("one of the two");
        if first == own {
            return true;
        }
        assert_eq!((first, heard()), (as_host, Some(own)));
        false
    };
    assert!(wait_until(WAIT, &mut is_dropped), "{}", iou_fast.process.dump());
    assert!(is_dropped());
    let summary = iou_fast.stop();
    assert_eq!(summary.drops("spoofed"), 2, "{}", summary.text);
}
