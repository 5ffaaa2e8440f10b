//! The netio directory and what is in it goes and comes back, disks fill up, descriptors run out: reported once, recovered
//! from, and the other routers notice nothing.

use crate::common::crowd::{
    Crowd, WAIT, classroom, from_router, number, pseudo_ids, wait_until_all_connected, wait_until_connected,
    while_frames_flow,
};
use crate::common::{Running, SOON, Scene, header, plain, router_mac};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;
use testbed::{Process, Router, Station, VethOptions, wait_until};

fn lab(routers: u16) -> (Scene, Running) {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(routers));
    let iou_fast = scene.start(&["-i", "eth0", "-p", &pseudo_ids(routers), "--cpus", "0,1"]);
    (scene, iou_fast)
}

/// How many lines of the log hold `text`.
fn lines(iou_fast: &Running, text: &str) -> usize {
    iou_fast.process.stderr().lines().filter(|line| line.contains(text)).count()
}

/// Waits until a line of the log holds `text`.
#[track_caller]
fn wait_for(iou_fast: &Running, text: &str) {
    let there = wait_until(SOON, || lines(iou_fast, text) > 0);
    assert!(there, "no line with {text:?}\n{}", iou_fast.process.dump());
}

/// Waits until a frame of router `id` arrives on the wire, sent by path each time, as routers do.
#[track_caller]
fn wait_until_heard(station: &mut Station, netio: &Path, id: u16, seq: u64) {
    let socket = UnixDatagram::unbound().unwrap();
    let frame = plain(crate::common::crowd::STATION, router_mac(id, 0, 0), 64, seq);
    let datagram = [&header(512 + id, 0, id, 0)[..], &frame].concat();
    let heard = wait_until(WAIT, || {
        let _ = socket.send_to(&datagram, netio.join((512 + id).to_string()));
        station.recv_where(Duration::from_millis(10), |frame| number(frame) == Some(seq)).is_some()
    });
    assert!(heard, "router {id} is not heard");
    station.drain();
}

/// Promise `netio-directory` (Faults): The netio directory and what is in it may be removed: it is made
/// again, and no frame on its way is dropped.
#[test]
fn netio_socket_removed_is_made_again() {
    let (scene, iou_fast) = lab(3);
    let mut station = scene.station();
    let crowd = Crowd::new(&scene, 3);
    let before = wait_until_all_connected(&station, &crowd, 3);
    let sender = scene.station();
    let (sent, ()) = while_frames_flow(&sender, 1..=3, || {
        for (round, names) in
            [&["513"][..], &["514", "514.lck"], &["513", "513.lck", "514", "515"]].iter().enumerate()
        {
            for name in *names {
                std::fs::remove_file(scene.netio().join(name)).unwrap();
            }
            for id in 1..=3 {
                wait_until_heard(&mut station, &scene.netio(), id, round as u64 * 10 + 1);
            }
        }
    });
    // Only the lock: it is taken again, without a word.
    std::fs::remove_file(scene.netio().join("515.lck")).unwrap();
    let text = format!("{}\n", iou_fast.process.pid());
    let again = || std::fs::read_to_string(scene.netio().join("515.lck")).is_ok_and(|lock| lock == text);
    assert!(wait_until(SOON, again), "{}", iou_fast.process.dump());
    for id in 1..=3 {
        let before = before[usize::from(id) - 1];
        assert!(crowd.wait(id, before as u64 + sent), "router {id}\n{}", iou_fast.process.dump());
        assert_eq!(crowd.numbers(id)[before..], (0..sent).collect::<Vec<_>>(), "router {id}");
    }
    assert_eq!(lines(&iou_fast, "was taken away: bound again"), 3, "{}", iou_fast.process.dump());
    let refused = scene.refused(&["-i", "eth0", "-p", &pseudo_ids(3)]);
    assert!(refused.contains("513.lck is held by process"), "{refused}");
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
    assert!(summary.dropped.iter().all(|(why, _)| why == "router-down"), "{}", summary.text);
    assert!(!scene.netio().join("513").exists() && !scene.netio().join("513.lck").exists());
}

/// Promise `netio-directory`.
#[test]
fn netio_socket_removed_pending_frames_arrive() {
    let (scene, mut iou_fast) = lab(1);
    let mut station = scene.station();
    let router = Router::new(&scene.netio(), 1).unwrap();
    wait_until_heard(&mut station, &scene.netio(), 1, 1);
    iou_fast.process.signal(testbed::Signal::STOP);
    for seq in 100..200 {
        from_router(&router, 1, seq);
    }
    std::fs::remove_file(scene.netio().join("513")).unwrap();
    iou_fast.process.signal(testbed::Signal::CONT);
    for seq in 100..200 {
        let frame = station.recv_where(WAIT, |frame| number(frame).is_some());
        assert_eq!(frame.and_then(|frame| number(&frame)), Some(seq), "{}", iou_fast.process.dump());
    }
    wait_until_heard(&mut station, &scene.netio(), 1, 2);
    iou_fast.stop().assert_clean();
}

/// Promise `netio-directory`.
#[test]
fn netio_directory_removed_is_made_again() {
    let (scene, iou_fast) = lab(2);
    let mut station = scene.station();
    let mut routers = [1, 2].map(|id| Router::new(&scene.netio(), id).unwrap());
    wait_until_connected(&station, &mut routers[0], 1);
    for round in 0..3_u64 {
        std::fs::remove_dir_all(scene.netio()).unwrap();
        if round < 2 {
            std::fs::create_dir(scene.netio()).unwrap();
        } else {
            // No router makes it: then iou-fast does, a second later.
            assert!(wait_until(SOON, || scene.netio().is_dir()), "{}", iou_fast.process.dump());
        }
        // Routers that still run hear the wire through the sockets that they have.
        station.send(&crate::common::crowd::to_router(1, 77)).unwrap();
        assert!(routers[0].recv_where(WAIT, |_, frame| number(frame) == Some(77)).is_some());
        wait_until_heard(&mut station, &scene.netio(), 1, round * 10 + 3);
        for (router, id) in routers.iter_mut().zip([1, 2]) {
            *router = Router::new(&scene.netio(), id).unwrap();
            wait_until_connected(&station, router, id);
            wait_until_heard(&mut station, &scene.netio(), id, round * 10 + 4);
        }
        // A restart is found at once there too.
        routers[1] = Router::new(&scene.netio(), 2).unwrap();
        wait_until_connected(&station, &mut routers[1], 2);
    }
    assert_eq!(lines(&iou_fast, "netio was taken away"), 3, "{}", iou_fast.process.dump());
    assert_eq!(lines(&iou_fast, "netio is there again"), 3);
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
    assert_eq!(scene.netio().read_dir().unwrap().count(), 2, "the routers' files and no other");
}

/// Promise `netio-directory`.
#[test]
fn netio_directory_back_applies_netmap_reload() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap(&classroom(1));
    let iou_fast = scene.start(&["-i", "eth0"]);
    let mut station = scene.station();
    for (round, routers) in [2, 3].into_iter().enumerate() {
        std::fs::remove_dir_all(scene.netio()).unwrap();
        if round == 1 {
            std::fs::create_dir(scene.netio()).unwrap();
        }
        scene.netmap(&classroom(routers));
        let read = wait_until(SOON, || lines(&iou_fast, "NETMAP reloaded: added") > round);
        assert!(read, "{}", iou_fast.process.dump());
        for id in 1..=routers {
            let mut router = Router::new(&scene.netio(), id).unwrap();
            wait_until_connected(&station, &mut router, id);
            wait_until_heard(&mut station, &scene.netio(), id, u64::from(routers));
        }
    }
    assert_eq!(lines(&iou_fast, "NETMAP reload failed"), 0, "{}", iou_fast.process.dump());
    iou_fast.stop();
}

/// Promise `netio-occupied`.
#[test]
fn netio_directory_of_other_user_is_refused() {
    let (scene, iou_fast) = lab(1);
    let mut station = scene.station();
    let old = scene.directory().join("old");
    std::fs::rename(scene.netio(), &old).unwrap();
    std::fs::create_dir(scene.netio()).unwrap();
    std::os::unix::fs::chown(scene.netio(), Some(4242), None).unwrap();
    wait_for(&iou_fast, "belongs to user 4242, not to user 0");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(lines(&iou_fast, "belongs to user 4242"), 1, "said once\n{}", iou_fast.process.dump());
    assert_eq!(scene.netio().read_dir().unwrap().count(), 0);
    std::fs::remove_dir(scene.netio()).unwrap();
    std::fs::rename(&old, scene.netio()).unwrap();
    wait_until_heard(&mut station, &scene.netio(), 1, 1);
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    wait_until_connected(&station, &mut router, 1);
    iou_fast.stop();
}

/// Promise `netio-occupied` (Faults): A user or program that occupies the netio directory or a socket in it
/// is named once, and left alone until it goes.
#[test]
fn netio_socket_of_other_program_is_named() {
    let (scene, iou_fast) = lab(2);
    let mut station = scene.station();
    let path = scene.netio().join("513");
    let program = scene.host.enter(|| UnixDatagram::bind(path.with_extension("new")).unwrap()).unwrap();
    std::fs::rename(path.with_extension("new"), &path).unwrap();
    wait_for(&iou_fast, "answers at");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(lines(&iou_fast, "answers at"), 1, "said once\n{}", iou_fast.process.dump());
    // The other one is not held up.
    wait_until_heard(&mut station, &scene.netio(), 2, 1);
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(b"mine", &path).unwrap();
    let mut buffer = [0; 16];
    program.set_read_timeout(Some(WAIT)).unwrap();
    assert!(program.recv(&mut buffer).is_ok());
    drop(program);
    wait_until_heard(&mut station, &scene.netio(), 1, 2);
    wait_for(&iou_fast, "all pseudo sockets are there again");
    iou_fast.stop();
}

/// Promise `full-disk` (Faults): A full disk and a lack of descriptors are logged once and survived.
#[test]
fn netio_full_disk_is_logged_once() {
    testbed::with_own_mounts(|| {
        let scene = Scene::silent(&["eth0"], &VethOptions::default());
        let netio = scene.netio();
        // The directory itself, two sockets with their locks, two routers, one more.
        testbed::run("mount", ["-t", "tmpfs", "-o", "nr_inodes=8,size=64k", "none", netio.to_str().unwrap()])
            .unwrap();
        scene.netmap(&classroom(2));
        let filler = |n: u32| netio.join(format!("filler{n}"));
        let fill = || (0..100).take_while(|n| std::fs::write(filler(*n), "").is_ok()).count();

        // At the start it is a reason to refuse, and nothing stays behind.
        assert_eq!(fill(), 7);
        std::fs::remove_file(filler(0)).unwrap();
        let error = scene.refused(&["-i", "eth0"]);
        assert!(error.contains("No space left on device") && error.contains("513"), "{error}");
        assert_eq!(netio.read_dir().unwrap().count(), 6);
        (1..7).for_each(|n| std::fs::remove_file(filler(n)).unwrap());

        let iou_fast = scene.start(&["-i", "eth0"]);
        let mut station = scene.station();
        let crowd = Crowd::new(&scene, 2);
        let before = wait_until_all_connected(&station, &crowd, 2);
        assert_eq!(fill(), 1);
        let sender = scene.station();
        let (sent, ()) = while_frames_flow(&sender, 1..=2, || {
            std::fs::rename(netio.join("513"), filler(1)).unwrap();
            wait_for(&iou_fast, "No space left on device");
            wait_until_heard(&mut station, &netio, 2, 1);
            std::thread::sleep(Duration::from_millis(2200));
            assert_eq!(lines(&iou_fast, "No space left on device"), 1, "{}", iou_fast.process.dump());
            std::fs::remove_file(filler(0)).unwrap();
            wait_until_heard(&mut station, &netio, 1, 2);
        });
        for id in 1..=2 {
            let before = before[usize::from(id) - 1];
            assert!(crowd.wait(id, before as u64 + sent), "router {id}\n{}", iou_fast.process.dump());
            assert_eq!(crowd.numbers(id)[before..], (0..sent).collect::<Vec<_>>(), "router {id}");
        }
        wait_for(&iou_fast, "all pseudo sockets are there again");
        iou_fast.stop();
    })
    .unwrap();
}

/// Promise `full-disk`.
#[test]
fn descriptors_exhausted_then_recovers() {
    goes_on_while(|process| process.take_descriptors().unwrap());
}

/// Promise `full-disk`.
#[test]
fn descriptors_limit_below_open_ones() {
    goes_on_while(|process| process.limit_descriptors(3).unwrap());
}

/// Those that are connected lose nothing while `take` has left it no descriptors, and others come later.
fn goes_on_while(take: impl FnOnce(&Process)) {
    let (scene, iou_fast) = lab(10);
    let mut station = scene.station();
    let crowd = Crowd::new(&scene, 8);
    let before = wait_until_all_connected(&station, &crowd, 8);
    let sender = scene.station();
    let (sent, mut late) = while_frames_flow(&sender, 1..=8, || {
        take(&iou_fast.process);
        let late = [9, 10].map(|id| Router::new(&scene.netio(), id).unwrap());
        std::fs::remove_file(scene.netio().join("521")).unwrap();
        wait_for(&iou_fast, "and maybe others cannot be reached");
        wait_for(
            &iou_fast,
            "Too many open files (os error 24); raise the limit with ulimit -Hn; routers cannot send",
        );
        std::thread::sleep(Duration::from_millis(2200));
        assert_eq!(lines(&iou_fast, "cannot be reached"), 1, "{}", iou_fast.process.dump());
        iou_fast.process.give_descriptors().unwrap();
        late
    });
    for (router, id) in late.iter_mut().zip([9, 10]) {
        wait_until_connected(&station, router, id);
        wait_until_heard(&mut station, &scene.netio(), id, u64::from(id));
    }
    for id in 1..=8 {
        let before = before[usize::from(id) - 1];
        assert!(crowd.wait(id, before as u64 + sent), "router {id}\n{}", iou_fast.process.dump());
        assert_eq!(crowd.numbers(id)[before..], (0..sent).collect::<Vec<_>>(), "router {id}");
    }
    wait_for(&iou_fast, "there are descriptors again");
    wait_for(&iou_fast, "all pseudo sockets are there again");
    let summary = iou_fast.stop();
    assert!(summary.faults.is_empty(), "{}", summary.text);
}
