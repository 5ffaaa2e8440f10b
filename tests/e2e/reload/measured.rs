//! How soon a change is in force. These run one at a time.

use super::*;

/// Promise `reload` (Faults): A changed NETMAP is followed while frames flow: links, interfaces and routers
/// come and go, and the others drop nothing.
#[test]
fn netmap_reload_changes_links_without_drops() {
    for arguments in [&["-i", "eth0"][..], &["-i", "eth0", "--cpus", "0,1"]] {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        scene.netmap(&wiring(&[3]));
        let iou_fast = scene.start(arguments);
        let station = scene.station();
        let mut wire = scene.station();
        let crowd = Crowd::new(&scene, 2);
        let before = wait_until_all_connected(&station, &crowd, 2);
        let mut third = Router::new(&scene.netio(), 3).unwrap();
        let mut fourth = Router::new(&scene.netio(), 4).unwrap();
        carries(&scene, &mut third, 3);
        wire.drain();

        let (end, said) = (AtomicBool::new(false), AtomicU64::new(0));
        let (sent, times) = while_frames_flow(&station, 1..=2, || {
            std::thread::scope(|scope| {
                let socket = UnixDatagram::unbound().unwrap();
                scope.spawn(|| {
                    let socket = socket;
                    while !end.load(Relaxed) {
                        send_from(&socket, &scene.netio(), 1, said.fetch_add(1, Relaxed)).unwrap();
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                let change = || {
                    let mut times = Vec::new();
                    for round in 1..=3 {
                        // By renaming, and by writing over it.
                        let start = Instant::now();
                        replace(&scene, &wiring(&[4]));
                        wait_for(
                            &iou_fast,
                            "added 4:0/0 via 516:0/0 on eth0; removed 3:0/0 via 515:0/0 on eth0",
                            round,
                        );
                        times.push(start.elapsed());
                        carries(&scene, &mut fourth, 4);
                        assert!(
                            !scene.netio().join("515").exists() && !scene.netio().join("515.lck").exists()
                        );
                        scene.station().send(&to_router(3, 7)).unwrap();
                        third.hear_nothing();

                        let start = Instant::now();
                        scene.netmap(&wiring(&[3]));
                        wait_for(
                            &iou_fast,
                            "added 3:0/0 via 515:0/0 on eth0; removed 4:0/0 via 516:0/0 on eth0",
                            round,
                        );
                        times.push(start.elapsed());
                        carries(&scene, &mut third, 3);
                        assert!(!scene.netio().join("516").exists());
                    }
                    times
                };
                let times = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
                end.store(true, Relaxed);
                times.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        });
        // The sweep alone takes a second and more.
        assert!(median(times.clone()) < Duration::from_secs(1), "{times:?}");
        for id in 1..=2 {
            let before = before[usize::from(id) - 1];
            assert!(crowd.wait(id, before as u64 + sent), "router {id}\n{}", iou_fast.process.dump());
            assert_eq!(crowd.numbers(id)[before..], (0..sent).collect::<Vec<_>>(), "router {id}");
        }
        for seq in 0..said.into_inner() {
            let frame = wire.recv_where(ARRIVAL, |frame| frame[6..12] == router_mac(1, 0, 0));
            assert_eq!(frame.and_then(|frame| number(&frame)), Some(seq), "{}", iou_fast.process.dump());
        }
        assert_eq!(lines(&iou_fast, "NETMAP reloaded"), 6);
        let summary = iou_fast.stop();
        // What a test sends to see when a router is connected.
        assert!(summary.dropped.iter().all(|(why, _)| why == "router-down"), "{}", summary.text);
        assert!(summary.faults.is_empty(), "{}", summary.text);
    }
}
