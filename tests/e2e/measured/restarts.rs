//! Routers come and go at any time, hang, are killed and replaced; the NIC goes down and comes back; the
//! program itself is stopped and continued.

use crate::common::crowd::{
    Crowd, WAIT, classroom, cpu_share, from_router, number, pseudo_ids, send_paced, to_router,
    wait_until_all_connected, wait_until_connected, while_frames_flow,
};
use crate::common::{
    BROADCAST, Running, SOON, Scene, Strain, Took, assert_each_within, header, plain, router_mac,
};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use testbed::{Bin, Process, Router, Signal, VethOptions, wait_until};

/// A router that comes gets frames within this of its socket.
const PROMPT: Duration = Duration::from_millis(100);
/// When a NIC is back, frames flow within this.
const RESUMED: Duration = Duration::from_secs(1);

/// A lab of `routers` routers, iou-fast running, no router as yet.
fn lab(routers: u16, arguments: &[&str]) -> (Scene, Running) {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(routers));
    let iou_fast = scene.start(&[&["-i", "eth0", "-p", &pseudo_ids(routers)], arguments].concat());
    (scene, iou_fast)
}

/// How long after its socket a router gets its first frame, while frames to it flow.
fn first_frame(router: &mut Router, strain: &Strain) -> Took {
    let (took, frame) = strain.time(PROMPT, || router.recv_where(WAIT, |_, frame| number(frame).is_some()));
    frame.expect("a frame at the router that came");
    took
}

/// Restarts router 1 twenty times in a row while frames flow; `leave` is how the one before goes.
fn restart_twenty_times(arguments: &[&str], mut leave: impl FnMut(Router)) {
    let (scene, iou_fast) = lab(1, arguments);
    let (station, strain) = (scene.station(), Strain::measure());
    let (_, times) = while_frames_flow(&station, 1..=1, || {
        let mut times = Vec::new();
        for _ in 0..20 {
            let mut router = Router::new(&scene.netio(), 1).unwrap();
            times.push(first_frame(&mut router, &strain));
            leave(router);
        }
        times
    });
    assert_each_within(PROMPT, &times, || iou_fast.process.dump());
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `router-restart` (Faults): A router that starts or restarts gets frames within 100 ms of its
/// socket, also fifty of them together.
#[test]
fn router_exit_and_restart() {
    restart_twenty_times(&[], drop);
}

/// Promise `router-restart`.
#[test]
fn router_kill_and_restart() {
    restart_twenty_times(&[], Router::crash);
}

/// Promise `router-replaced` (Faults): A router's socket may be replaced while the old process hangs: its
/// successor gets the backlog.
#[test]
fn router_replaced_while_old_process_hangs() {
    let mut hanging = Vec::new();
    restart_twenty_times(&[], |router| hanging.push(router));
}

#[test]
fn router_restart_with_two_workers() {
    let mut hanging = Vec::new();
    restart_twenty_times(&["--cpus", "0,1"], |router| match hanging.len() % 2 {
        0 => hanging.push(router),
        _ => drop((router, hanging.pop())),
    });
}

/// Promise `router-replaced`.
#[test]
fn router_successor_gets_backlog() {
    let (scene, iou_fast) = lab(1, &[]);
    let station = scene.station();
    let mut old = Router::new(&scene.netio(), 1).unwrap();
    wait_until_connected(&station, &mut old, 1);
    send_paced(&station, &(0..100).map(|seq| to_router(1, seq)).collect::<Vec<_>>());
    let mut new = Router::new(&scene.netio(), 1).unwrap();
    let mut got = Vec::new();
    for router in [&mut old, &mut new] {
        while let Some((_, frame)) = router.recv(Duration::from_millis(500)) {
            got.extend(number(&frame));
        }
    }
    assert_eq!(got, (0..100).collect::<Vec<_>>(), "{}", iou_fast.process.dump());
    assert!(iou_fast.stop().faults.is_empty());
}

#[test]
fn router_back_gets_first_frame() {
    // On a disk, as /tmp often is, a new socket file may get the inode number of the one before.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for arguments in [&[][..], &["--cpus", "0,1"]] {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        scene.netmap(&classroom(1));
        let iou_fast = start_in(&scene, directory.path(), arguments);
        let (station, strain) = (scene.station(), Strain::measure());
        let mut router = Router::new(directory.path(), 1).unwrap();
        wait_until_connected(&station, &mut router, 1);
        let mut lost = Vec::new();
        for seq in 0..20 {
            drop(router);
            router = Router::new(directory.path(), 1).unwrap();
            // 100 ms are much, but not for a machine that is busy with other things.
            let (waited, ()) = strain.time(Duration::ZERO, || std::thread::sleep(PROMPT));
            std::thread::sleep(waited.strain);
            station.send(&to_router(1, seq)).unwrap();
            if router.recv_where(Duration::from_secs(1), |_, frame| number(frame) == Some(seq)).is_none() {
                lost.push(seq);
            }
        }
        assert!(lost.is_empty(), "lost {lost:?}\n{}", iou_fast.process.dump());
        iou_fast.stop();
    }
}

/// Starts iou-fast for the routers in `directory`.
fn start_in(scene: &Scene, directory: &Path, arguments: &[&str]) -> Running {
    let mut command = scene.host.command(Bin::find("iou-fast").unwrap());
    command.arg("-n").arg(scene.netmap_file()).arg("--netio-dir").arg(directory);
    command.arg("--state-dir").arg(scene.directory().join("state"));
    command.args(["-i", "eth0", "-p", "513", "--uid", "0"]).args(arguments).env_remove("SUDO_UID");
    let mut process = Process::spawn(&mut command).unwrap();
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    Running { process }
}

/// Promise `router-restart`.
///
/// Promise `router-gone`.
#[test]
fn fifty_routers_restart_together() {
    let (scene, iou_fast) = lab(51, &[]);
    let (station, strain) = (scene.station(), &Strain::measure());
    let crowd = Crowd::new(&scene, 1);
    let before = wait_until_all_connected(&station, &crowd, 1)[0];
    let mut times = Vec::new();
    let mut sent = before as u64;
    for _ in 0..3 {
        let all_there = Barrier::new(50);
        let (round_sent, round) = while_frames_flow(&station, 1..=51, || {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (2..=51)
                    .map(|id| {
                        let (directory, all_there) = (scene.netio(), &all_there);
                        scope.spawn(move || {
                            let mut router = Router::new(&directory, id).unwrap();
                            let time = first_frame(&mut router, strain);
                            all_there.wait();
                            time
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            })
        });
        times.extend(round);
        let so_far = sent as usize;
        sent += round_sent;
        assert!(crowd.wait(1, sent), "{}", iou_fast.process.dump());
        assert_eq!(crowd.numbers(1)[so_far..], (0..round_sent).collect::<Vec<_>>());
    }
    assert_each_within(PROMPT, &times, || iou_fast.process.dump());
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `router-gone`.
#[test]
fn router_absent_delays_no_other() {
    let (scene, iou_fast) = lab(20, &[]);
    let station = scene.station();
    let crowd = Crowd::new(&scene, 19);
    let before = wait_until_all_connected(&station, &crowd, 19);
    let frames: Vec<_> = (0..200).flat_map(|seq| (1..=20).map(move |id| to_router(id, seq))).collect();
    crowd.send(&station, &frames);
    for id in 1..=19 {
        let before = before[usize::from(id) - 1];
        assert!(crowd.wait(id, before as u64 + 200), "{}", iou_fast.process.dump());
        assert_eq!(crowd.numbers(id)[before..], (0..200).collect::<Vec<_>>());
    }
    let summary = iou_fast.stop();
    // What was sent before the others were connected counts as well.
    assert!(summary.drops("router-down") >= 200, "{}", summary.text);
    assert!(summary.dropped.len() == 1 && summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `router-gone` (Faults): A router that stops costs the others nothing.
#[test]
fn router_restarts_a_hundred_times() {
    let (scene, iou_fast) = lab(10, &[]);
    let (station, strain) = (scene.station(), Strain::measure());
    let crowd = Crowd::new(&scene, 9);
    let before = wait_until_all_connected(&station, &crowd, 9);
    let mut hanging = Vec::new();
    let (sent, times) = while_frames_flow(&station, 1..=10, || {
        let mut times = Vec::new();
        for round in 0..100 {
            let mut router = Router::new(&scene.netio(), 10).unwrap();
            times.push(first_frame(&mut router, &strain));
            if round % 10 == 0 {
                // Its queue is full and frames wait for it when it goes.
                std::thread::sleep(Duration::from_millis(40));
            }
            match round % 3 {
                0 => drop(router),
                1 => router.crash(),
                // The old process hangs, with its socket, while the file is replaced.
                _ => hanging.push(router),
            }
        }
        times
    });
    for id in 1..=9 {
        let before = before[usize::from(id) - 1];
        assert!(crowd.wait(id, before as u64 + sent), "router {id}\n{}", iou_fast.process.dump());
        assert_eq!(crowd.numbers(id)[before..], (0..sent).collect::<Vec<_>>(), "router {id}");
    }
    assert_each_within(PROMPT, &times, || iou_fast.process.dump());
    let summary = iou_fast.stop();
    assert!(summary.drops("router-down") > 0 && summary.faults.is_empty(), "{}", summary.text);
}

/// Takes the NIC or its cable away with `off` and gives it back with `on`, which read `down` and `up` in the log.
fn the_nic_goes_and_comes_back(
    off: impl Fn(&Scene),
    on: impl Fn(&Scene),
    down: &'static str,
    up: &'static str,
) {
    const UNSENT: u64 = 5000;
    let (scene, mut iou_fast) = lab(2, &[]);
    let (mut station, strain) = (scene.station(), Strain::measure());
    let mut routers = [1, 2].map(|id| Router::new(&scene.netio(), id).unwrap());
    wait_until_connected(&station, &mut routers[0], 1);
    wait_until_connected(&station, &mut routers[1], 2);
    let mut times = Vec::new();
    for round in 1..=3 {
        off(&scene);
        let lines = |text: String, wanted: &str| text.lines().filter(|line| line.contains(wanted)).count();
        assert!(wait_until(SOON, || lines(iou_fast.process.stderr(), down) == round));

        // More than a pseudo socket's queue holds: a router would sleep if no worker read it.
        let start = Instant::now();
        for seq in 0..UNSENT {
            from_router(&routers[0], 1, seq);
        }
        assert!(start.elapsed() < WAIT, "{:?}", start.elapsed());
        // Routers still hear each other.
        let bytes = plain(BROADCAST, router_mac(1, 0, 0), 64, 7);
        routers[0].send(513, header(513, 0, 1, 0), &bytes).unwrap();
        assert!(routers[1].recv_where(WAIT, |_, frame| number(frame) == Some(7)).is_some());
        let shares: Vec<f64> = (0..3).map(|_| cpu_share(&iou_fast.process, Duration::from_secs(1))).collect();
        assert!(shares.iter().any(|share| *share < 0.05), "idle, it uses {shares:?} of a CPU");
        assert!(iou_fast.process.exited().is_none());

        let marker = 1_000_000 * round as u64;
        let (took, heard) = strain.time(RESUMED, || {
            on(&scene);
            station.drain();
            wait_until(WAIT, || {
                from_router(&routers[1], 2, marker);
                station
                    .recv_where(Duration::from_millis(10), |frame| number(frame).is_some_and(|n| n >= marker))
                    .is_some()
            })
        });
        assert!(heard, "{}", iou_fast.process.dump());
        times.push(took);
        assert!(wait_until(SOON, || lines(iou_fast.process.stderr(), up) == round));
        wait_until_connected(&station, &mut routers[0], 1);
    }
    assert_each_within(RESUMED, &times, || iou_fast.process.dump());
    let summary = iou_fast.stop();
    assert!(summary.drops("nic-down") >= 3 * (UNSENT + 1), "{}", summary.text);
    assert!(
        summary.dropped.iter().all(|(why, _)| why == "nic-down" || why == "router-down"),
        "{}",
        summary.text
    );
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `nic-down` (Faults): While the NIC is down or has no carrier routers do not block, and forwarding
/// resumes by itself within a second.
#[test]
fn nic_down_blocks_no_router_and_recovers() {
    the_nic_goes_and_comes_back(
        |scene| drop(scene.host.ip("link set eth0 down").unwrap()),
        |scene| drop(scene.host.ip("link set eth0 up").unwrap()),
        "eth0: down",
        "eth0: up",
    );
}

/// Promise `nic-down`.
#[test]
fn carrier_lost_blocks_no_router_and_recovers() {
    the_nic_goes_and_comes_back(
        |scene| drop(scene.wire.ip("link set eth0 down").unwrap()),
        |scene| drop(scene.wire.ip("link set eth0 up").unwrap()),
        "eth0: carrier lost",
        "eth0: up",
    );
}

/// Promise `nic-down`.
#[test]
fn nic_down_during_traffic() {
    let (scene, mut iou_fast) = lab(1, &[]);
    let mut station = scene.station();
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    wait_until_connected(&station, &mut router, 1);
    for round in 1..=5 {
        // Not asked whether iou-fast has noticed: frames meet a NIC that is down, and one that comes up.
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| (0..10_000).for_each(|seq| from_router(&router, 1, seq)));
            scene.host.ip("link set eth0 down").unwrap();
            scene.host.ip("link set eth0 up").unwrap();
            sender.join().unwrap();
        });
        let marker = 1_000_000 * round;
        let heard = wait_until(WAIT, || {
            from_router(&router, 1, marker);
            station.recv_where(Duration::from_millis(10), |frame| number(frame) == Some(marker)).is_some()
        });
        assert!(heard, "{}", iou_fast.process.dump());
        wait_until_connected(&station, &mut router, 1);
    }
    assert!(iou_fast.process.exited().is_none());
    iou_fast.stop();
}

/// Promise `stopped`.
#[test]
fn sigstop_and_sigcont() {
    let (scene, mut iou_fast) = lab(5, &[]);
    let mut station = scene.station();
    let crowd = Crowd::new(&scene, 5);
    let before = wait_until_all_connected(&station, &crowd, 5);
    let mut routers = Vec::new();
    let mut crowd = Some(crowd);
    for round in 0..3_u64 {
        iou_fast.process.signal(Signal::STOP);
        let seqs = round * 100..(round + 1) * 100;
        let frames: Vec<_> = seqs.clone().flat_map(|seq| (1..=5).map(move |id| to_router(id, seq))).collect();
        send_paced(&station, &frames);
        iou_fast.process.signal(Signal::CONT);
        for id in 1..=5 {
            let crowd = crowd.as_ref().unwrap();
            let before = before[usize::from(id) - 1];
            assert!(crowd.wait(id, before as u64 + seqs.end), "{}", iou_fast.process.dump());
            assert_eq!(crowd.numbers(id)[before..], (0..seqs.end).collect::<Vec<_>>());
        }
    }
    routers.extend(crowd.take().unwrap().routers());

    // From the routers likewise (a sender's own buffer ends at some 280 datagrams, then a router would sleep); and one
    // that restarts meanwhile is found afterwards.
    iou_fast.process.signal(Signal::STOP);
    for seq in 0..200 {
        from_router(&routers[0], 1, seq);
    }
    routers.truncate(1);
    routers.push(Router::new(&scene.netio(), 2).unwrap());
    std::thread::sleep(Duration::from_millis(1200));
    iou_fast.process.signal(Signal::CONT);
    for seq in 0..200 {
        let frame = station.recv_where(WAIT, |frame| number(frame).is_some());
        assert_eq!(number(&frame.expect("a frame of the router")), Some(seq), "{}", iou_fast.process.dump());
    }
    wait_until_connected(&station, &mut routers[1], 2);
    let summary = iou_fast.stop();
    assert!(summary.dropped.iter().all(|(why, _)| why == "router-down"), "{}", summary.text);
    assert!(summary.faults.is_empty(), "{}", summary.text);
}

/// Promise `stopped`.
#[test]
fn sigstop_until_rings_overflow() {
    let (scene, mut iou_fast) = lab(2, &["--cpus", "0,1"]);
    let station = scene.station();
    let crowd = Crowd::new(&scene, 2);
    wait_until_all_connected(&station, &crowd, 2);
    for _ in 0..3 {
        iou_fast.process.signal(Signal::STOP);
        let frames: Vec<_> = (0..6000).map(|seq| to_router(1 + (seq % 2) as u16, seq)).collect();
        send_paced(&station, &frames);
        iou_fast.process.signal(Signal::CONT);
        // Each worker's ring is emptied and takes new frames.
        for id in 1..=2 {
            assert!(
                wait_until(WAIT, || {
                    let before = crowd.count(id);
                    station.send(&to_router(id, 0)).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                    crowd.count(id) == before + 1
                }),
                "{}",
                iou_fast.process.dump()
            );
        }
    }
    drop(crowd);
    iou_fast.stop();
}

/// Promise `stopped` (Faults): After SIGSTOP and SIGCONT, or with one stalled worker, forwarding goes on
/// where it was; setting the clock changes no frame's fate.
#[test]
fn sigstop_for_three_seconds_under_traffic() {
    let (scene, mut iou_fast) = lab(2, &["--cpus", "0,1"]);
    let (station, mut heard) = (scene.station(), scene.station());
    let mut routers = [1, 2].map(|id| scene.deep_router(id));
    for (id, router) in (1..).zip(&mut routers) {
        wait_until_connected(&station, router, id);
    }
    iou_fast.process.signal(Signal::STOP);
    while_frames_flow(&station, 1..=2, || {
        // A sender's own buffer ends at some 280 datagrams; one more, and a router would sleep.
        (0..200).for_each(|seq| from_router(&routers[0], 1, seq));
        std::thread::sleep(Duration::from_secs(3));
        iou_fast.process.signal(Signal::CONT);
        let continued = Instant::now();
        for router in &mut routers {
            let fresh = router.recv_where(WAIT, |_, frame| number(frame).is_some());
            assert!(fresh.is_some(), "{}", iou_fast.process.dump());
        }
        from_router(&routers[1], 2, 1000);
        assert!(heard.recv_where(WAIT, |frame| number(frame) == Some(1000)).is_some());
        assert!(continued.elapsed() < Duration::from_secs(1), "{:?}", continued.elapsed());
    });
    iou_fast.stop();
}

/// Promise `stopped`.
#[test]
fn stalled_worker_leaves_the_other_its_chunks() {
    // More than the fill ring of the queue that they share.
    const FRAMES: u64 = 6000;
    let (scene, iou_fast) = lab(2, &["--cpus", "0,1"]);
    let station = scene.station();
    let crowd = Crowd::new(&scene, 2);
    wait_until_all_connected(&station, &crowd, 2);
    let before = [crowd.count(1), crowd.count(2)];
    let stalled = iou_fast.process.stall("worker 1").unwrap();
    let frames: Vec<_> = (0..2 * FRAMES).map(|seq| to_router(1 + (seq % 2) as u16, seq)).collect();
    send_paced(&station, &frames);
    let got = |id: u16| crowd.count(id) - before[usize::from(id) - 1];
    let all = wait_until(WAIT, || got(1) == FRAMES || got(2) == FRAMES);
    assert!(all, "{} and {} of {FRAMES}\n{}", got(1), got(2), iou_fast.process.dump());
    let (lively, still) = if got(1) == FRAMES { (1, 2) } else { (2, 1) };
    assert_eq!(got(still), 0, "router {still} is of the worker that stands still");
    drop(stalled);
    // What its ring took, and what comes now.
    assert!(wait_until(WAIT, || got(still) > 1000), "{} of {FRAMES}", got(still));
    for id in [lively, still] {
        assert!(wait_until(WAIT, || {
            let count = crowd.count(id);
            station.send(&to_router(id, 0)).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            crowd.count(id) > count
        }));
    }
    drop(crowd);
    let summary = iou_fast.stop();
    assert!(summary.faults.iter().all(|(what, _)| what == "rx-ring-full"), "{}", summary.text);
}
