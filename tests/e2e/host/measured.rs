//! How long starts and ends take, and the host's traffic meanwhile. These run one at a time.

use super::*;

/// Promise (The host): The host's own traffic is undisturbed before, during and after.
#[test]
fn host_traffic_is_undisturbed() {
    let scene = addressed_scene();
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    the_host_works(&scene);
    for mode in ["native", "generic"] {
        let iou_fast = scene.start(&["-i", "eth0", "-p", "501", "--xdp-mode", mode]);
        // The router has its own traffic all the while, and gets every frame of it.
        let done = std::sync::atomic::AtomicBool::new(false);
        let station = scene.station();
        let (sent, received) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let frame = frame(router_mac(1, 0, 0), STATION, NO_TAG, frame::ETHERTYPE, 400, sent);
                    station.send(&frame).unwrap();
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent
            });
            let reader = scope.spawn(|| {
                let mut received = 0;
                while let Some((_, bytes)) = router.recv(Duration::from_secs(2)) {
                    let seen = frame::check(&bytes).ok();
                    if let Some(seen) = seen.filter(|seen| seen.ethertype == frame::ETHERTYPE) {
                        assert_eq!(seen.seq, received, "lost, doubled or out of order");
                        received += 1;
                    }
                }
                received
            });
            the_host_works(&scene);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            (sender.join().unwrap(), reader.join().unwrap())
        });
        assert!(sent > 50, "{sent}");
        assert_eq!(received, sent, "{mode}");
        iou_fast.stop().assert_clean();
        the_host_works(&scene);
    }
}

/// Promise `storm`.
#[test]
fn bum_storm_never_costs_the_host_its_copy() {
    let scene = addressed_scene();
    quiet(&scene);
    // A router that does not read, and one that does.
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let _stuck = Router::new(&scene.netio(), 2).unwrap();
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501-502"]);
    let mut host = testbed::Station::new(&scene.host, "eth0").unwrap();
    let station = scene.station();
    storm(&station, &mut host, 10_000);
    router.drain();

    // Also while no worker takes the copies for the routers: 3000 are more than the ring buffer holds.
    iou_fast.process.signal(Signal::STOP);
    storm(&station, &mut host, 3_000);
    ping(&scene.wire, &HOST.to_string());
    iou_fast.process.signal(Signal::CONT);
    assert!(wait_until(WAIT, || {
        router.drain();
        iou_fast.process.stderr().contains("copies of frames for many routers were dropped")
    }));
    assert_eq!(host.lost().unwrap(), 0);
    carries(&scene, &mut router, 1 << 40);
    let summary = iou_fast.stop();
    assert!(summary.drops("multicast-overflow") > 1000, "{}", summary.text);
}

/// Fifty are looked at before the next start. Two of seven start at once, while the one before is taken down and its
/// guard is at work.
///
/// Promise `kill-9` (Faults): After `kill -9` it starts again at once, and within a second nothing is left of
/// the run before: no XDP program, no promiscuous mode, offloads as before.
#[test]
fn sigkill_and_restart_fifty_times() {
    const KILLS: u64 = 50;
    let scene = addressed_scene();
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let before = state_of(&scene.host, "eth0");
    let offloads = || String::from_utf8(scene.host.run("ethtool", ["-k", "eth0"]).unwrap().stdout).unwrap();
    let all_on = offloads();
    let host = HOST.to_string();
    let mut pings =
        Process::spawn(scene.wire.command("ping").args(["-i", "0.02", "-W", "3", &host])).unwrap();
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    let numbers = while_the_host_hears_numbers(&scene, || {
        let strain = Strain::measure();
        let limit = || Duration::from_secs(1) + strain.sum();
        let mut iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
        let all_off = offloads();
        assert_ne!(all_on, all_off, "there is nothing to put back");
        for seq in 0..KILLS / 5 * 7 {
            carries(&scene, &mut router, seq);
            let guard = iou_fast.guard();
            let waited = strain.sum();
            let start = Instant::now();
            iou_fast.process.signal(Signal::KILL);
            if seq % 7 < 5 {
                // No program, no promiscuous mode, offloads as they were.
                assert!(wait_until(WAIT, || offloads() == all_on && !runs(guard)), "{}", offloads());
                ends.push(start.elapsed());
                assert!(
                    start.elapsed() + waited < limit(),
                    "{ends:?}, the machine paused for {:?}",
                    strain.sum()
                );
                assert_eq!(state_of(&scene.host, "eth0"), before);
                assert!(is_empty(&state_directory(&scene)));
            }
            let waited = strain.sum();
            let start = Instant::now();
            iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
            starts.push(start.elapsed());
            assert!(
                start.elapsed() + waited < limit(),
                "{starts:?}, the machine paused for {:?}",
                strain.sum()
            );
            // The guard of the one before has ended, or leaves the NIC to this one.
            assert!(wait_until(WAIT, || !runs(guard)));
            assert_eq!(offloads(), all_off);
        }
        carries(&scene, &mut router, 1000);
        iou_fast.stop();
    });
    starts.sort();
    ends.sort();
    println!(
        "{numbers} numbers; started within {:?} (median), {:?}",
        starts[starts.len() / 2],
        starts.last()
    );
    println!("as before within {:?} (median), {:?}", ends[ends.len() / 2], ends.last());
    assert_eq!((ends.len() as u64, starts.len() as u64), (KILLS, KILLS / 5 * 7));
    assert!(numbers > 500, "{numbers}");

    pings.signal(Signal::INT);
    pings.wait(SOON).unwrap();
    let text = pings.stdout();
    let summary = text.lines().find(|line| line.contains("packets transmitted")).expect("a summary");
    println!("{summary}");
    let numbers: Vec<u64> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [sent, received, ..] = numbers[..] else { panic!("{summary}") };
    // What is under way in the NIC while its driver takes a program on or off is lost, with any program.
    assert!(sent >= 50 && sent - received <= 20, "{summary}");
    the_host_works(&scene);
    assert_eq!(state_of(&scene.host, "eth0"), before);
    assert_eq!(scene.netio().read_dir().unwrap().count(), 1);
    assert!(is_empty(&state_directory(&scene)));
}
