//! Another local user, and the lab's own user where root works for him: neither gets in, reads along, breaks anything,
//! or has root write where he may not.

use crate::common::users::{LAB, STRANGER, as_user};
use crate::common::{ARRIVAL, Listener, Running, SILENCE, SOON, Scene, header, plain, router_mac};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use testbed::{Bin, Process, VethOptions};

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LAB_OPTIONS: [&str; 6] = ["-i", "eth0", "-p", "513", "--uid", "61000"];

fn lab() -> Scene {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 2:0/0 513:0/0\n");
    scene.give_netio(LAB);
    scene
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Promise `other-users` (Rights): Another local user gains access to nothing: no socket, no lock, no
/// process, no router's path.
#[test]
fn other_user_reaches_no_socket_lock_or_process() {
    let scene = lab();
    let router = scene.router_of(LAB, 1);
    let mut wire = scene.station();
    let iou_fast = scene.start(&LAB_OPTIONS);
    let (netio, state) = (scene.netio(), scene.directory().join("state"));
    let frame = plain(GATEWAY, router_mac(1, 0, 0), 100, 1);
    let datagram = [&header(513, 0, 1, 0)[..], &frame].concat();

    let send = || UnixDatagram::unbound().unwrap().send_to(&datagram, netio.join("513"));
    let denied = |result: std::io::Result<()>, what: &str| {
        let error = result.expect_err(what);
        assert!(
            [ErrorKind::PermissionDenied, ErrorKind::NotFound].contains(&error.kind()),
            "{what}: {error}"
        );
    };
    as_user(STRANGER, || {
        denied(send().map(drop), "a datagram to the pseudo socket");
        denied(fs::read(netio.join("513.lck")).map(drop), "the lock");
        denied(fs::remove_file(netio.join("513")), "the pseudo socket's file");
        denied(fs::rename(netio.join("1"), netio.join("2")), "a router's socket");
        denied(UnixDatagram::bind(netio.join("2")).map(drop), "a router of his own");
        denied(fs::read_dir(&state).map(drop), "the locks of NICs");
        let process = format!("/proc/{}", iou_fast.process.pid());
        denied(fs::File::open(format!("{process}/mem")).map(drop), "its memory");
        denied(fs::read(format!("{process}/environ")).map(drop), "its environment");
        denied(fs::read_dir(format!("{process}/fd")).map(drop), "its descriptors");
    });
    wire.hear_nothing();
    // It was the stranger's rights and nothing else: his routers' user gets through.
    as_user(LAB, || send().unwrap());
    wire.hear_this(&frame);
    drop(router);
    iou_fast.stop().assert_clean();
}

/// Promise (Rights): A symbolic link in place of a router's socket is not followed.
#[test]
fn symlink_as_router_socket_is_not_followed() {
    let scene = lab();
    let wire = scene.station();
    let other = scene.directory().join("other");
    let elsewhere = UnixDatagram::bind(&other).unwrap();
    chown(&other, Some(LAB), None).unwrap();
    as_user(LAB, || symlink(&other, scene.netio().join("2"))).unwrap();
    elsewhere.set_read_timeout(Some(SILENCE)).unwrap();
    let mut router = scene.router_of(LAB, 1);
    let iou_fast = scene.start(&LAB_OPTIONS);
    for (number, id) in [(1, 2), (2, 1)] {
        wire.send(&plain(router_mac(id, 0, 0), GATEWAY, 100, number)).unwrap();
    }
    router.hear_this(&plain(router_mac(1, 0, 0), GATEWAY, 100, 2));
    assert_eq!(elsewhere.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(iou_fast.stop().drops("router-down"), 1);
}

/// Promise `other-users`.
#[test]
fn router_of_other_user_is_not_connected() {
    let scene = lab();
    // As some servers have it: everyone may make files here, but not remove those of others.
    mode(&scene.netio(), 0o1777);
    let wire = scene.station();
    let path = scene.netio().join("2");
    let fake = as_user(STRANGER, || {
        let socket = UnixDatagram::bind(&path).unwrap();
        mode(&path, 0o777);
        socket
    });
    fake.set_read_timeout(Some(SILENCE)).unwrap();
    let mut router = scene.router_of(LAB, 1);
    let mut iou_fast = scene.start(&LAB_OPTIONS);
    iou_fast
        .process
        .wait_for_line(|line| line.contains("router 2") && line.contains("user 61001"), SOON)
        .unwrap();
    for (number, id) in [(1, 2), (2, 1)] {
        wire.send(&plain(router_mac(id, 0, 0), GATEWAY, 100, number)).unwrap();
    }
    router.hear_this(&plain(router_mac(1, 0, 0), GATEWAY, 100, 2));
    assert_eq!(fake.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // When it is gone, the real one is taken.
    drop(fake);
    fs::remove_file(&path).unwrap();
    let mut real = scene.router_of(LAB, 2);
    let end = std::time::Instant::now() + ARRIVAL;
    while real.recv(SILENCE).is_none() {
        assert!(std::time::Instant::now() < end, "{}", iou_fast.process.dump());
        wire.send(&plain(router_mac(2, 0, 0), GATEWAY, 100, 3)).unwrap();
    }
    iou_fast.stop();
}

/// Promise `directory-mode` (Rights): A directory that other users can write to is refused.
#[test]
fn netio_directory_writable_by_others_is_refused() {
    let scene = lab();
    for (bits, group, whom) in
        [(0o777, LAB, "every user"), (0o775, STRANGER, "group 61001"), (0o757, LAB, "every user")]
    {
        chown(scene.netio(), Some(LAB), Some(group)).unwrap();
        mode(&scene.netio(), bits);
        let said = scene.refused(&LAB_OPTIONS);
        assert!(said.contains(&format!("writable for {whom}")) && said.contains("chmod go-w"), "{said}");
    }
    // A stranger was there first; or leads us elsewhere.
    mode(&scene.netio(), 0o755);
    chown(scene.netio(), Some(STRANGER), None).unwrap();
    let said = scene.refused(&LAB_OPTIONS);
    assert!(said.contains("belongs to user 61001, not to user 61000"), "{said}");
    let elsewhere = scene.directory().join("elsewhere");
    fs::rename(scene.netio(), &elsewhere).unwrap();
    chown(&elsewhere, Some(LAB), None).unwrap();
    symlink(&elsewhere, scene.netio()).unwrap();
    let said = scene.refused(&LAB_OPTIONS);
    assert!(said.contains("is a symbolic link"), "{said}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing was put there");
}

/// The lab's user may call iou-fast as root. What he puts in the place of lock and socket changes nothing elsewhere.
///
/// Promise `root-writes` (Rights): Root writes to no file or directory that a user chose, and reads none for
/// that user.
#[test]
fn root_writes_no_file_the_user_chooses() {
    let scene = lab();
    let victim = scene.directory().join("victim");
    fs::write(&victim, "root's").unwrap();
    mode(&victim, 0o600);
    let netio = scene.netio();
    for name in ["513.lck", "513"] {
        let path = netio.join(name);
        let links: [(&str, &dyn Fn()); 3] = [
            ("a symbolic link", &|| as_user(LAB, || symlink(&victim, &path)).unwrap()),
            // Where the kernel does not forbid that by fs.protected_hardlinks.
            ("a hard link", &|| fs::hard_link(&victim, &path).unwrap()),
            ("a FIFO", &|| mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap()),
        ];
        for (what, make) in links {
            make();
            let start = std::time::Instant::now();
            let said = scene.refused(&LAB_OPTIONS);
            assert!(start.elapsed() < SOON, "{what} held it up");
            assert!(said.contains(&path.display().to_string()), "{name}, {what}: {said}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "root's", "{name}, {what}");
            let metadata = victim.metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o600), "{name}, {what}");
            fs::remove_file(&path).unwrap();
        }
    }
    // All of it away, it starts: nothing was left behind.
    scene.start(&LAB_OPTIONS).stop();
    assert_eq!(fs::read_dir(&netio).unwrap().count(), 0);
}

/// What user LAB gets to see when he has `sudo iou-fast -n FILE`.
fn through_sudo(scene: &Scene, netmap: &Path, uid: u32) -> String {
    let mut command = scene.host.command(Bin::find("iou-fast").unwrap());
    command.args(["-i", "eth0", "-p", "513", "--uid", &uid.to_string(), "-n"]).arg(netmap);
    command.env("SUDO_UID", LAB.to_string());
    let mut process = Process::spawn(&mut command).unwrap();
    assert!(!process.wait(SOON).unwrap().success(), "{}", process.dump());
    process.stderr()
}

/// Promise `root-writes`.
#[test]
fn sudo_netmap_reads_no_file_of_root() {
    let scene = lab();
    let secret = scene.directory().join("secret");
    fs::write(&secret, "root:$6$salt$hash:19000\n").unwrap();
    mode(&secret, 0o600);
    let link = scene.netio().join("NETMAP");
    as_user(LAB, || symlink(&secret, &link)).unwrap();
    let fifo = scene.netio().join("fifo");
    as_user(LAB, || mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)).unwrap();
    // Neither for the user's own lab, nor for one that is said to be root's or another user's.
    for uid in [LAB, 0, STRANGER] {
        for file in [&secret, &link] {
            let said = through_sudo(&scene, file, uid);
            assert!(said.contains("Permission denied") && said.contains("rights of the user"), "{said}");
            assert!(!said.contains("hash") && !said.contains("salt"), "{said}");
        }
        let said = through_sudo(&scene, &fifo, uid);
        assert!(said.contains("no plain file"), "{said}");
    }
    // His own file is read, and its faults are shown.
    let own = scene.netio().join("own");
    as_user(LAB, || fs::write(&own, "1:0/0 what\n")).unwrap();
    assert!(through_sudo(&scene, &own, LAB).contains("\"what\""));
}

/// `sudo iou-fast` makes nothing, by its name or in it, where the caller has no rights of his own.
///
/// Promise `root-writes`.
#[test]
fn sudo_grants_no_root_rights_in_user_directory() {
    let scene = lab();
    let roots = scene.directory().join("etc");
    fs::create_dir(&roots).unwrap();
    let made = roots.join("nologin");
    let sudo = |arguments: &[&str]| {
        let mut command = scene.host.command(Bin::find("iou-fast").unwrap());
        command.arg("-n").arg(scene.netmap_file()).args(["-i", "eth0", "-p", "513"]).args(arguments);
        command.env("SUDO_UID", LAB.to_string()).env_remove("NETIO_NETMAP");
        Process::spawn(&mut command).unwrap()
    };
    let (own, stranger) = (LAB.to_string(), STRANGER.to_string());
    for directory in [&made, &roots] {
        let directory = directory.to_str().unwrap();
        for (option, uid, owner) in [
            ("--state-dir", &*own, "0"),
            ("--state-dir", "0", "0"),
            ("--netio-dir", "0", "0"),
            ("--netio-dir", &stranger, &stranger),
            ("--netl1-dir", "0", "0"),
        ] {
            let mut process = sudo(&[option, directory, "--uid", uid]);
            assert!(!process.wait(SOON).unwrap().success(), "{}", process.dump());
            let said = process.stderr();
            assert!(
                said.contains(&format!("{option} with the rights of user {owner}: user 61000")),
                "{said}"
            );
            assert_eq!(fs::read_dir(&roots).unwrap().count(), 0, "{option} made something");
        }
    }
    // With his own rights he names what he likes. Locks of NICs are where root's are.
    let netio = scene.netio();
    let mut process = sudo(&["--netio-dir", netio.to_str().unwrap()]);
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    Running { process }.stop().assert_clean();
    let mut process = sudo(&["--netio-dir", made.to_str().unwrap()]);
    assert!(!process.wait(SOON).unwrap().success());
    assert!(process.stderr().contains("Permission denied"), "{}", process.dump());
    assert!(!made.exists());
}

/// Promise `directory-mode`.
#[test]
fn lock_directory_writable_by_others_is_refused() {
    let scene = lab();
    let state = scene.directory().join("state");
    fs::create_dir(&state).unwrap();
    mode(&state, 0o777);
    let said = scene.refused(&LAB_OPTIONS);
    assert!(said.contains("no other user may write to"), "{said}");
    mode(&state, 0o755);
    chown(&state, Some(LAB), None).unwrap();
    let said = scene.refused(&LAB_OPTIONS);
    assert!(said.contains("no other user may write to"), "{said}");
    fs::remove_dir(&state).unwrap();
    symlink("/etc", &state).unwrap();
    let said = scene.refused(&LAB_OPTIONS);
    assert!(said.contains("state"), "{said}");
    let ours = |name: &str| name.starts_with("net") && name.ends_with(".lock");
    let names = fs::read_dir("/etc").unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| ours(&name.to_string_lossy())));
}

#[test]
fn lab_user_cannot_control_the_process() {
    let scene = lab();
    let iou_fast = scene.start(&LAB_OPTIONS);
    let pid = iou_fast.process.pid();
    as_user(LAB, || {
        // SIGKILL would cut off other users' labs; ptrace and /proc/PID/mem would lend its rights.
        let process = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let signalled = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        assert_eq!(signalled, Err(Errno::PERM));
        assert!(fs::File::options().write(true).open(format!("/proc/{pid}/mem")).is_err());
        assert!(fs::read_dir(format!("/proc/{pid}/fd")).is_err());
        assert!(fs::read_link(format!("/proc/{pid}/exe")).is_err());
    });
    iou_fast.stop();
}
