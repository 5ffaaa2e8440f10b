//! The time between two messages. These run one at a time.

use super::*;

/// Promise `watchdog` (The service): The service manager's watchdog is fed as long as every worker makes
/// progress, idle, under load and without descriptors, and not while one is stalled.
#[test]
fn watchdog_stops_with_a_stalled_worker() {
    const LIMIT: Duration = Duration::from_secs(2);
    let (scene, mut manager) = lab(2);
    let mut iou_fast = manager.start(&scene, &["-i", "eth0", "--cpus", "0,1"], LIMIT);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    wait_until_connected(&scene.station(), &mut router, 1);
    // The workers sleep most of the time.
    for _ in 0..5 {
        let since = Instant::now();
        manager.wait_for(has("WATCHDOG=1"));
        assert!(since.elapsed() < LIMIT, "{:?}", manager.heard);
    }
    for worker in ["worker 0", "worker 1"] {
        let stalled = iou_fast.process.stall(worker).unwrap();
        // The round before may have been complete already.
        let told = manager.count("WATCHDOG=1", 2 * LIMIT);
        assert!(told <= 1, "{worker} stands still\n{:?}", manager.heard);
        // The control thread itself does not.
        let second = Router::new(&scene.netio(), 2).unwrap();
        manager.wait_for(status("2 of 2 routers up"));
        drop(second);
        drop(stalled);
        manager.wait_for(has("WATCHDOG=1"));
        // That it has gone is seen when a frame is for it.
        scene.station().send(&to_router(2, 1)).unwrap();
        manager.wait_for(status("1 of 2 routers up"));
    }
    // Nor are there any while the whole process stands still.
    iou_fast.process.signal(Signal::STOP);
    manager.count("WATCHDOG=1", Duration::from_millis(200));
    assert_eq!(manager.count("WATCHDOG=1", 2 * LIMIT), 0);
    iou_fast.process.signal(Signal::CONT);
    manager.wait_for(has("WATCHDOG=1"));
    iou_fast.stop();
}

/// Promise `watchdog`.
#[test]
fn watchdog_under_load_and_without_descriptors() {
    const LIMIT: Duration = Duration::from_secs(1);
    let (scene, mut manager) = lab(1);
    let iou_fast = manager.start(&scene, &["-i", "eth0"], LIMIT);
    let mut router = scene.deep_router(1);
    let station = scene.station();
    wait_until_connected(&station, &mut router, 1);
    iou_fast.process.take_descriptors().unwrap();
    let end = Instant::now() + 4 * LIMIT;
    let mut seq = 0;
    manager.wait_for(has("WATCHDOG=1"));
    while Instant::now() < end {
        let last = manager.heard.iter().rfind(|(_, message)| has("WATCHDOG=1")(message)).unwrap().0;
        assert!(last.elapsed() < LIMIT, "{:?}", manager.heard);
        station.send_batch(&(0..16).map(|n| to_router(1, seq + n)).collect::<Vec<_>>()).unwrap();
        seq += 16;
        while router.recv(Duration::ZERO).is_some() {}
        manager.hear(Duration::ZERO);
    }
    iou_fast.process.give_descriptors().unwrap();
    iou_fast.stop();
}

/// Promise `notify-reload`.
#[test]
fn notify_status_once_per_second_at_most() {
    let (scene, mut manager) = lab(2);
    let iou_fast = manager.start(&scene, &["-i", "eth0"], Duration::ZERO);
    manager.wait_for(status("0 of 2 routers up"));
    let router = Router::new(&scene.netio(), 2).unwrap();
    manager.wait_for(status("1 of 2 routers up"));

    // One that comes and goes for five seconds; that it has gone is seen when a frame is for it.
    let station = scene.station();
    let before = manager.heard.len();
    let (start, mut times) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(5) {
        let other = Router::new(&scene.netio(), 1).unwrap();
        manager.hear(Duration::from_millis(300));
        drop(other);
        station.send(&to_router(1, 1)).unwrap();
        manager.hear(Duration::from_millis(300));
        times += 1;
    }
    // A machine that is busy with other tests takes longer, and hears late.
    let most = start.elapsed().as_secs() as usize + 2;
    let told: Vec<_> = manager.heard[before..].iter().map(|(time, _)| *time).collect();
    let gone = iou_fast.process.stderr().matches("router 1 disconnected").count();
    assert!(
        times > 6 && gone > 5 && (2..=most).contains(&told.len()),
        "{gone} {:#?}",
        &manager.heard[before..]
    );
    assert!(told.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(500)), "{told:?}");

    drop(router);
    scene.host.ip("link set eth0 down").unwrap();
    manager.wait_for(status("0 of 1 NICs up (eth0 down)"));
    scene.host.ip("link set eth0 up").unwrap();
    manager.wait_for(status("1 of 1 NICs up"));
    scene.wire.ip("link set eth0 down").unwrap();
    manager.wait_for(status("0 of 1 NICs up (eth0 no carrier)"));
    scene.host.ip("link delete eth0").unwrap();
    manager.wait_for(status("0 of 1 NICs up (eth0 away)"));
    iou_fast.stop();
}
