//! What every thread may do once all is up, as `/proc` tells, and that forwarding and recovery need no more.

use crate::common::users::{LAB, STRANGER, as_user};
use crate::common::{ARRIVAL, BROADCAST, Listener, Running, SOON, Scene, header, plain, router_mac, runs};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use testbed::{Bin, Process, Router, VethOptions, run, veth, wait_until};

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HSRP: [u8; 6] = [0, 0, 0x0c, 7, 0xac, 1];

/// Numbers of capabilities (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const IPC_LOCK: u64 = 1 << 14;
const BPF: u64 = 1 << 39;
const CONTROL: u64 = NET_ADMIN | NET_RAW | IPC_LOCK | BPF;

/// One thread, as `/proc/PID/task/TID/status` shows it.
#[derive(Debug)]
struct Thread {
    name: String,
    /// Real, effective, saved, of files.
    uids: Vec<u32>,
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privileges: bool,
    /// 2: a filter.
    seccomp: u32,
}

fn threads(process: &Process) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    tasks.map(|task| thread(&fs::read_to_string(task.unwrap().path().join("status")).unwrap())).collect()
}

fn thread(status: &str) -> Thread {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
    };
    let set = |name| u64::from_str_radix(field(name), 16).unwrap();
    Thread {
        name: field("Name").to_owned(),
        uids: field("Uid").split_whitespace().map(|uid| uid.parse().unwrap()).collect(),
        inheritable: set("CapInh"),
        permitted: set("CapPrm"),
        effective: set("CapEff"),
        bounding: set("CapBnd"),
        ambient: set("CapAmb"),
        no_new_privileges: field("NoNewPrivs") == "1",
        seccomp: field("Seccomp").parse().unwrap(),
    }
}

/// Every thread of `process` is confined; those named are among them. `bounding`: is anything in the bounding set?
#[track_caller]
fn assert_confined(process: &Process, uids: [u32; 4], names: &[&str], bounding: bool) {
    let threads = threads(process);
    for name in names.iter().chain(&["iou-fast"]) {
        assert!(threads.iter().any(|thread| thread.name == *name), "no {name} in {threads:#?}");
    }
    for thread in &threads {
        let kept = if thread.name == "iou-fast" { CONTROL } else { 0 };
        assert_eq!((thread.permitted, thread.effective), (kept, kept), "{thread:#x?}");
        assert_eq!((thread.inheritable, thread.ambient), (0, 0), "{thread:#x?}");
        assert_eq!(thread.bounding != 0, bounding, "{thread:#x?}");
        assert!(thread.no_new_privileges && thread.seccomp == 2, "{thread:#x?}");
        assert_eq!(thread.uids, uids, "{thread:?}");
    }
    // Not dumpable: no other process reads its memory, not even one of its own user.
    assert_eq!(fs::metadata(format!("/proc/{}/mem", process.pid())).unwrap().uid(), 0);
}

/// The process beside it that puts offloads back has one thread, one capability, a filter, the ids of whoever started
/// it, no terminal and no file; and with that it does what it is there for.
#[track_caller]
fn assert_guard_confined(scene: &Scene, iou_fast: Running, uid: u32, bounding: bool) {
    let offloads = || String::from_utf8(scene.host.run("ethtool", ["-k", "eth0"]).unwrap().stdout).unwrap();
    let (pid, guard) = (iou_fast.process.pid(), iou_fast.guard());
    let directory = format!("/proc/{guard}");
    let read = |file: &str| fs::read_to_string(format!("{directory}/{file}")).unwrap();
    // It settles while iou-fast starts.
    let settled = || thread(&read("status")).seccomp == 2;
    assert!(wait_until(SOON, settled), "{}", read("status"));
    let status = thread(&read("status"));
    assert_eq!((&*status.name, status.uids), ("iou-guard", vec![uid; 4]));
    assert_eq!((status.permitted, status.effective), (NET_ADMIN, NET_ADMIN));
    assert_eq!((status.inheritable, status.ambient, status.bounding != 0), (0, 0, bounding));
    assert!(status.no_new_privileges);
    assert_eq!(fs::read_dir(format!("{directory}/task")).unwrap().count(), 1);
    assert_eq!(fs::metadata(format!("{directory}/mem")).unwrap().uid(), 0, "not dumpable");
    assert!(read("cmdline").starts_with(&format!("iou-guard {pid}\0")), "{:?}", read("cmdline"));
    // Behind the name: state, parent, process group, session.
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], guard.to_string(), "a session of its own: {stat}");
    assert_eq!(fs::read_link(format!("{directory}/cwd")).unwrap(), Path::new("/"));
    let link = |fd: fs::DirEntry| {
        let number: u32 = fd.file_name().to_str().unwrap().parse().unwrap();
        (number, fs::read_link(fd.path()).unwrap().display().to_string())
    };
    let mut open: Vec<_> =
        fs::read_dir(format!("{directory}/fd")).unwrap().map(|fd| link(fd.unwrap())).collect();
    open.sort();
    assert!(open[..3].iter().all(|(number, to)| *number <= 2 && to == "/dev/null"), "{open:?}");
    let rest: Vec<&str> = open[3..].iter().map(|(_, to)| &**to).collect();
    assert!(rest.len() == 2 && rest[0].starts_with("pipe:") && rest[1].contains("pidfd"), "{open:?}");
    let own = read("status")
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    assert!(own.is_some_and(|kib: u64| kib < 2048), "{own:?} kB");

    assert!(offloads().contains("rx-vlan-offload: off"));
    iou_fast.kill();
    assert!(wait_until(SOON, || !runs(guard)));
    assert!(offloads().contains("rx-vlan-offload: on"), "{}", offloads());
}

/// Unicast, broadcast and multicast frames in both directions, an address learned by a worker, a router that restarts: all
/// after privileges are gone. `uid` runs the router. Returns the router.
fn works(scene: &Scene, iou_fast: &Running, uid: u32, router: Router) -> Router {
    let mut station = scene.station();
    let conversation = |router: &mut Router, station: &mut testbed::Station, number: u64| {
        let to = plain(router_mac(1, 0, 0), GATEWAY, 200, number);
        station.send(&to).unwrap();
        assert!(router.recv_where(ARRIVAL, |_, frame| frame == to).is_some(), "unicast to the router");
        let from = plain(GATEWAY, HSRP, 200, number);
        router.send(513, header(513, 0, 1, 0), &from).unwrap();
        assert!(station.recv_where(ARRIVAL, |frame| frame == from).is_some(), "unicast to the wire");
        let learned = plain(HSRP, GATEWAY, 200, number);
        station.send(&learned).unwrap();
        assert!(router.recv_where(ARRIVAL, |_, frame| frame == learned).is_some(), "to a learned address");
        let group = plain(BROADCAST, GATEWAY, 200, number);
        station.send(&group).unwrap();
        assert!(router.recv_where(ARRIVAL, |_, frame| frame == group).is_some(), "broadcast");
    };
    let mut router = router;
    conversation(&mut router, &mut station, 1);
    drop(router);
    let mut router = scene.router_of(uid, 1);
    let back = || {
        let probe = plain(router_mac(1, 0, 0), GATEWAY, 60, 99);
        station.send(&probe).unwrap();
        router.next(std::time::Duration::from_millis(50)).is_some()
    };
    assert!(wait_until(SOON, back), "the router that restarted gets no frames\n{}", iou_fast.process.dump());
    conversation(&mut router, &mut station, 2);
    router
}

/// The NIC is removed and made again: everything is taken once more, and forwarding goes on, with what is left of rights.
/// Returns the router.
fn outlives_its_nic(scene: &Scene, iou_fast: &Running, uid: u32, router: Router) -> Router {
    let said = |text: &str| iou_fast.process.stderr().contains(text);
    scene.host.ip("link del eth0").unwrap();
    assert!(wait_until(SOON, || said("eth0 is gone")), "{}", iou_fast.process.dump());
    veth((&scene.wire, "eth0"), (&scene.host, "eth0"), &VethOptions::default()).unwrap();
    assert!(wait_until(SOON, || said("forwarding goes on\n")), "{}", iou_fast.process.dump());
    let shown = scene.host.ip("-d link show dev eth0").unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("promiscuity 1 ") && shown.contains("prog/xdp"), "{shown}");
    let offloads = scene.host.run("ethtool", ["-k", "eth0"]).unwrap().stdout;
    assert!(String::from_utf8(offloads).unwrap().contains("rx-vlan-offload: off"));
    let router = works(scene, iou_fast, uid, router);
    assert!(!iou_fast.process.stderr().contains("ERROR"), "{}", iou_fast.process.dump());
    router
}

/// Promise `capabilities` (Rights): Workers keep no capability, the control thread four, the guard one; every
/// thread has a system call filter and no new privileges.
///
/// Promise `nic-rights` (Faults): Attaching a NIC again needs no more than the capabilities that are kept.
#[test]
fn capabilities_of_threads_with_user_lab() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n");
    scene.give_netio(LAB);
    let router = scene.router_of(LAB, 1);
    let iou_fast = scene.start(&["-i", "eth0", "-p", "513", "--uid", "61000", "--cpus", "0,1"]);
    let names = ["worker 0", "worker 1", "pseudo-sockets", "log", "output"];
    // The effective and the file ids are the lab's user's; the real and the saved one are not, so that he cannot
    // signal it.
    assert_confined(&iou_fast.process, [0, LAB, 0, LAB], &names, false);
    let pid = rustix::process::Pid::from_raw(iou_fast.process.pid().cast_signed()).unwrap();
    let signal = as_user(LAB, || rustix::process::kill_process(pid, rustix::process::Signal::TERM));
    assert_eq!(signal, Err(rustix::io::Errno::PERM));

    let router = works(&scene, &iou_fast, LAB, router);
    let router = outlives_its_nic(&scene, &iou_fast, LAB, router);
    assert_confined(&iou_fast.process, [0, LAB, 0, LAB], &names, false);
    iou_fast.stop();
    drop(router);
    assert_eq!(fs::read_dir(scene.netio()).unwrap().count(), 0, "it removed what was its own");
    assert_eq!(fs::read_dir(scene.directory().join("state")).unwrap().count(), 0, "locks of root's, too");
    let iou_fast = scene.start(&["-i", "eth0", "-p", "513", "--uid", "61000", "--cpus", "0,1"]);
    assert_guard_confined(&scene, iou_fast, 0, false);
    assert_eq!(fs::read_dir(scene.directory().join("state")).unwrap().count(), 0, "nor is one left now");
}

/// Promise `capabilities`.
#[test]
fn capabilities_of_threads_with_root_lab() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n");
    let router = scene.router_of(0, 1);
    let iou_fast = scene.start(&["-i", "eth0", "-p", "513"]);
    assert_confined(&iou_fast.process, [0; 4], &["worker 0", "pseudo-sockets", "log", "output"], false);
    let _router = works(&scene, &iou_fast, 0, router);
    assert_guard_confined(&scene, iou_fast, 0, false);
}

/// Names of hosts are looked up in the system's libraries, whose system calls are not known: a NETMAP that is read again has
/// some, after privileges are gone. And its user's rights are what it is read with.
///
/// Promise (Rights): The capabilities that are kept suffice for routers that restart and for a NETMAP that
/// changes, which is read with the rights of its user.
#[test]
fn netmap_reload_with_dropped_capabilities() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.give_netio(LAB);
    scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/0\n");
    let router = scene.router_of(LAB, 1);
    let mut iou_fast = scene.start(&["-i", "eth0", "-p", "513,514", "--uid", "61000"]);
    let path = scene.netio().join("514");
    scene.netmap("1:0/0 513:0/0\n");
    assert!(wait_until(SOON, || !path.exists()), "{}", iou_fast.process.dump());
    scene.netmap("1:0/0 513:0/0\n2:0/0@nowhere.invalid 514:0/0@localhost\n");
    assert!(wait_until(SOON, || path.exists()), "{}", iou_fast.process.dump());
    let said = |text: &str| iou_fast.process.stderr().contains(text);
    let taken = || said("@nowhere.invalid is taken for this host");
    assert!(wait_until(SOON, taken), "{}", iou_fast.process.dump());
    let socket = path.metadata().unwrap();
    assert_eq!((socket.uid(), socket.permissions().mode() & 0o777), (LAB, 0o600));
    // One is made again, by the thread that stays in its namespace: only there queues are deep.
    fs::remove_file(&path).unwrap();
    iou_fast.process.wait_for_line(|line| line.contains("514 was taken away: bound again"), SOON).unwrap();
    let made = path.metadata().unwrap();
    assert_eq!((made.uid(), made.permissions().mode() & 0o777), (LAB, 0o600));
    assert!(!iou_fast.process.stderr().contains("max_dgram_qlen"));
    let router = works(&scene, &iou_fast, LAB, router);

    let secret = scene.directory().join("secret");
    fs::write(&secret, "root's own\n").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    fs::remove_file(scene.netmap_file()).unwrap();
    std::os::unix::fs::symlink(&secret, scene.netmap_file()).unwrap();
    let refused = |line: &str| line.contains("Permission denied") && line.contains("rights of the user");
    iou_fast.process.wait_for_line(refused, SOON).unwrap();
    assert!(!iou_fast.process.stderr().contains("root's own"));
    works(&scene, &iou_fast, LAB, router);
    iou_fast.stop();
}

/// The capabilities that docs/install.md has people give the file: `setcap THESE /usr/local/bin/iou-fast`.
fn capabilities_in_the_docs() -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).unwrap();
    let line = page.lines().find_map(|line| line.split_once("setcap ")).expect("the page has a setcap line");
    line.1.split_whitespace().next().unwrap().to_owned()
}

/// A copy of iou-fast with `capabilities`, for everyone to run. Not on a tmpfs, which may be mounted `nosuid`.
fn copy_with(capabilities: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = directory.path().join("iou-fast");
    fs::copy(Bin::find("iou-fast").unwrap(), &copy).unwrap();
    run("setcap", [capabilities.as_ref(), copy.as_os_str()]).unwrap();
    directory
}

/// iou-fast with capabilities of its file, as user `uid` starts it, whose routers are in `netio`.
fn command_of_user(scene: &Scene, copy: &tempfile::TempDir, uid: u32, netio: &Path) -> Command {
    let state = scene.directory().join(if uid == LAB { "run".into() } else { format!("run{uid}") });
    if !state.exists() {
        fs::create_dir(&state).unwrap();
        chown(&state, Some(uid), Some(uid)).unwrap();
    }
    let mut command: Command = scene.host.command("setpriv");
    let uid = &*uid.to_string();
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups"]);
    command.arg(copy.path().join("iou-fast")).arg("-n").arg(scene.netmap_file());
    command.arg("--netio-dir").arg(netio).args(["-i", "eth0", "-p", "513", "--cpus", "0,1"]);
    command.env("XDG_RUNTIME_DIR", state).env_remove("RUNTIME_DIRECTORY").env_remove("SUDO_UID");
    command
}

/// iou-fast with capabilities of its file, started by user LAB.
fn started_by_user(scene: &Scene, copy: &tempfile::TempDir) -> Running {
    let mut process = Process::spawn(&mut command_of_user(scene, copy, LAB, &scene.netio())).unwrap();
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    Running { process }
}

/// Neither sees the other's locks or descriptors; the kernel tells who loaded the program that is on the NIC.
///
/// Promise `nic-in-use`.
#[test]
fn nic_in_use_by_other_user_is_named() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n");
    scene.give_netio(LAB);
    let router = scene.router_of(LAB, 1);
    let given = capabilities_in_the_docs();
    let copy = copy_with(&given);
    let iou_fast = started_by_user(&scene, &copy);
    let pid = iou_fast.process.pid();
    let netio = scene.directory().join("strangers");
    fs::create_dir(&netio).unwrap();
    chown(&netio, Some(STRANGER), Some(STRANGER)).unwrap();
    let less = copy_with(&given.replace(",cap_sys_admin", ""));
    for (copy, said) in [
        // Tests beside this one have processes of that user, too.
        (&copy, format!("\"steer\", id .*, held by iou-fast of user {LAB} (pid .*{pid}.*): one process")),
        // Who may not ask is told how to.
        (&less, "removes it, unless a process holds it: as root, `bpftool prog show id ".to_owned()),
    ] {
        let mut second = Process::spawn(&mut command_of_user(&scene, copy, STRANGER, &netio)).unwrap();
        assert!(!second.wait(SOON).unwrap().success());
        let error = second.stderr();
        assert!(error.contains("eth0 has an XDP program already"), "{error}");
        assert!(said.split(".*").all(|part| error.contains(part)), "{said}\n{error}");
        assert!(!error.contains("detach"), "{error}");
    }
    works(&scene, &iou_fast, LAB, router);
    iou_fast.stop();
}

/// Promise `ordinary-user` (Rights): An ordinary user runs it with file capabilities; if some are missing
/// they are named.
///
/// Promise `nic-rights`.
#[test]
fn ordinary_user_runs_with_file_capabilities() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n");
    scene.give_netio(LAB);
    let given = capabilities_in_the_docs();
    let copy = copy_with(&given);
    let router = scene.router_of(LAB, 1);
    let iou_fast = started_by_user(&scene, &copy);
    // Only root can empty the bounding set. With no new privileges it bounds nothing.
    assert_confined(
        &iou_fast.process,
        [LAB; 4],
        &["worker 0", "worker 1", "pseudo-sockets", "log", "output"],
        true,
    );
    let said = iou_fast.process.stderr();
    assert!(!said.contains("WARN"), "{said}");
    let router = works(&scene, &iou_fast, LAB, router);
    let router = outlives_its_nic(&scene, &iou_fast, LAB, router);
    iou_fast.stop();
    assert_eq!(fs::read_dir(scene.directory().join("run/iou-fast")).unwrap().count(), 0);

    // Who will not give CAP_SYS_ADMIN, which start-up alone uses, has shorter queues and is told so.
    let less = given.replace(",cap_sys_admin", "");
    assert_ne!(less, given);
    let copy = copy_with(&less);
    let iou_fast = started_by_user(&scene, &copy);
    assert_confined(&iou_fast.process, [LAB; 4], &["worker 0", "worker 1", "log", "output"], true);
    let said = iou_fast.process.stderr();
    assert!(said.contains("net.unix.max_dgram_qlen"), "{said}");
    works(&scene, &iou_fast, LAB, router);
    assert_guard_confined(&scene, iou_fast, LAB, true);
    assert_eq!(fs::read_dir(scene.directory().join("run/iou-fast")).unwrap().count(), 0);
}

/// Promise `ordinary-user`.
#[test]
fn missing_capabilities_are_named() {
    let scene = Scene::new();
    scene.netmap("1:0/0 513:0/0\n");
    scene.give_netio(LAB);
    let refused = |capabilities: &str, uid: &str| {
        let directory = copy_with(capabilities);
        let mut command = scene.host.command("setpriv");
        command.args(["--reuid", "61000", "--regid", "61000", "--clear-groups"]);
        command.arg(directory.path().join("iou-fast")).arg("-n").arg(scene.netmap_file());
        command.arg("--netio-dir").arg(scene.netio()).arg("--state-dir").arg(scene.netio().join("state"));
        command.args(["-i", "eth0", "-p", "513", "--uid", uid]).env_remove("SUDO_UID");
        let mut process = Process::spawn(&mut command).unwrap();
        assert!(!process.wait(SOON).unwrap().success());
        process.stderr()
    };
    let said = refused("cap_net_raw=ep", "61000");
    assert!(["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"].iter().all(|name| said.contains(name)), "{said}");
    // The least of what control keeps that looks as if it could be done without: docs/security.md.
    let said = refused("cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock=ep", "61000");
    assert!(said.contains("infinite loop") && said.contains("CAP_PERFMON"), "{said}");
    let said = refused("cap_net_raw=ep", "61001");
    assert!(said.contains("user 61000 may not act for another"), "{said}");
}
