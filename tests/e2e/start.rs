//! How `iou-fast` starts and ends: command line, inference, refusals, what it prints, what it leaves behind.

mod measured;

use crate::common::{Running, SOON, Scene, Summary, header, router_mac};
use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::{Bin, Process, Router, RouterOptions, Signal, Tag, VethOptions, frame, wait_until};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const WAIT: Duration = Duration::from_secs(5);
const NO_TAG: &[Tag] = &[];

/// An unused user id, and the one after it; others for each test process.
fn unused_uid() -> u32 {
    4_294_000_000 + std::process::id() % 400_000 * 2
}

/// The names in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = directory.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// `iou-fast` in the scene's namespace with these arguments alone, and the scene's directory for its state. Under the
/// laxest umask: what only the user may write to must not depend on it.
fn bare(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = barest(scene, arguments);
    command.arg("--state-dir").arg(scene.directory().join("state"));
    command
}

/// With the usual directory for its state: another cannot be named through sudo.
fn barest(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = scene.host.command("sh");
    command.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(Bin::find("iou-fast").unwrap()).args(arguments);
    command.env_remove("SUDO_UID").env_remove("NETIO_NETMAP").current_dir(scene.directory());
    command
}

fn start(command: &mut Command) -> Running {
    let mut process = Process::spawn(command).unwrap();
    process.wait_for_line(|line| line == "ready", SOON).unwrap();
    Running { process }
}

/// Runs a command that must refuse to start; returns what it said on standard error.
fn refused(command: &mut Command) -> String {
    let mut process = Process::spawn(command).unwrap();
    let status = process.wait(SOON).unwrap();
    assert!(!status.success(), "it did not refuse:\n{}", process.dump());
    assert!(!process.stdout().contains("ready"), "{}", process.dump());
    process.stderr()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

/// One frame to the router and one back, each tagged with these; it may be lost while all is set up, but not for long.
#[track_caller]
fn carries(scene: &Scene, router: &mut Router, endpoints: [(u16, u8); 2], tags: &[Tag]) {
    let [(id, interface), (pseudo, pseudo_interface)] = endpoints;
    let mac = router_mac(id, interface & 15, interface >> 4);
    let mut station = scene.station();
    let sent = frame(mac, STATION, tags, frame::ETHERTYPE, 64, 1);
    station.send(&sent).unwrap();
    let got = router.recv_where(WAIT, |_, frame| frame == sent).expect("the frame at the router");
    assert_eq!(got.0, header(id, interface, pseudo, pseudo_interface));
    let answer = frame(STATION, mac, tags, frame::ETHERTYPE, 64, 2);
    router.send(pseudo, header(pseudo, pseudo_interface, id, interface), &answer).unwrap();
    station.recv_where(WAIT, |frame| frame == answer).expect("the answer on the wire");
}

mod command_line {
    use super::*;

    fn output(arguments: &[&str]) -> (bool, String, String) {
        let output = Command::new(Bin::find("iou-fast").unwrap()).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    #[test]
    fn help_has_examples() {
        let (success, help, _) = output(&["--help"]);
        assert!(success);
        let examples = help.split("Examples:").nth(1).expect("examples");
        assert_says(
            examples,
            &["iou-fast -i eth0", "--cpus 2,3", "-i eth1=513:0/1,514", "-p 513-562", "1:0/0   513:0/0"],
        );
        assert!(help.contains("--state-dir"), "who runs it without root may need it");
    }

    /// Promise (The package): `iou-fast --version` names the commit that it was built from.
    #[test]
    fn version_names_the_commit() {
        let said = output(&["--version"]).1;
        let version = concat!("iou-fast ", env!("CARGO_PKG_VERSION"));
        let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        if !repository.join(".git").exists() {
            return assert_eq!(said, format!("{version}\n"));
        }
        // In whatever way HEAD leads to it, the commit is that of the build: this test is built together with it.
        let commit = said.strip_prefix(version).and_then(|rest| rest.strip_prefix(" ("));
        let commit = commit.and_then(|rest| rest.strip_suffix(")\n")).expect(&said);
        assert!(commit.len() == 7 && commit.bytes().all(|digit| digit.is_ascii_hexdigit()), "{said}");
        let head = std::process::Command::new("git")
            .args(["-c", "safe.directory=*", "-C"])
            .arg(repository)
            .args(["rev-parse", "HEAD"])
            .output();
        // A bare machine has no git.
        if let Ok(head) = head.map(|head| String::from_utf8(head.stdout).unwrap()) {
            assert!(head.starts_with(commit), "{said} and {head}");
        }
    }

    #[test]
    fn missing_nic_option_is_named() {
        let (success, _, error) = output(&[]);
        assert!(!success);
        assert_says(&error, &["--interface <IFACE[=ENDPOINTS]>"]);
    }

    #[test]
    fn invalid_option_value_is_quoted() {
        for (arguments, said) in [
            (&["-i", "eth0", "-c", "3-2"][..], "\"3-2\" is no CPU"),
            (&["-i", "eth0", "-p", "20,x"], "-p \"x\": this is not a number"),
            (&["-i", "eth0", "-p", "1025"], "this id does not exist"),
            (&["-i", "eth0=1:77/0"], "1:77/0"),
            (&["-i", "eth0", "--poll", "lazy"], "lazy"),
        ] {
            let (success, _, error) = output(arguments);
            assert!(!success && error.contains(said), "{arguments:?}:\n{error}");
        }
    }
}

/// Promise `refused` (The start): An object that does not exist is refused, with those that do.
#[test]
fn missing_objects_are_refused_with_those_that_exist() {
    let scene = Scene::with_nics(&["eth0", "eth7"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/3\n");
    let cpus: Vec<String> =
        core_affinity::get_core_ids().unwrap().iter().map(|core| core.id.to_string()).collect();
    let allowed = format!("allowed are {}", cpus.join(","));
    let file = scene.netmap_file();
    let file = file.to_str().unwrap();
    for (arguments, said) in [
        (&["-i", "eth0", "-c", "8191"][..], &["CPU 8191", &*allowed][..]),
        (&["-i", "eth9"], &["no network interface \"eth9\"", "there are: lo", "eth0", "eth7"]),
        (&["-i", "lo"], &["lo is not an Ethernet interface but the loopback"]),
        (&["-i", "eth0=513:0/1"], &["513:0/1", file, "513:0/0", "514:0/3"]),
        (&["-i", "eth0=600"], &["600", "513:0/0", "514:0/3"]),
        (&["-i", "eth0", "-i", "eth7"], &["-i eth0 and -i eth7", "-i eth7=513:0/1"]),
        (&["-i", "eth0=513:0/0", "-i", "eth7=513"], &["513:0/0", "eth0", "eth7", "one LAN only"]),
        (&["-i", "eth0", "-p", "20-22"], &["-p 20-22", "it has 1-2,513-514"]),
        (&["-i", "eth0", "--flood-unknown", "3:0/0"], &["3:0/0", "1:0/0", "2:0/0"]),
    ] {
        let error = scene.refused(arguments);
        assert_says(&error, said);
        assert_eq!(names(&scene.netio()), set(&[]), "{arguments:?}");
    }
}

#[test]
fn cpu_not_allowed_is_refused() {
    let cpus: Vec<usize> = core_affinity::get_core_ids().unwrap().iter().map(|core| core.id).collect();
    let [first, second, ..] = cpus[..] else { panic!("this test needs two CPUs") };
    let scene = Scene::new();
    scene.netmap("1:0/0 513:0/0\n");
    let mut command = scene.host.command("taskset");
    command.args(["-c", &first.to_string()]).arg(Bin::find("iou-fast").unwrap());
    command.arg("-n").arg(scene.netmap_file()).arg("--netio-dir").arg(scene.netio());
    command.args(["-i", "eth0", "-c", &second.to_string()]);
    assert_says(
        &refused(&mut command),
        &[&format!("CPU {second} does not exist here or is not allowed; allowed are {first}\n")],
    );
}

#[test]
fn workers_are_pinned_to_cpus() {
    let cpus: Vec<usize> = core_affinity::get_core_ids().unwrap().iter().map(|core| core.id).collect();
    let [first, second, ..] = cpus[..] else { panic!("this test needs two CPUs") };
    let scene = Scene::new();
    scene.netmap("1:0/0 513:0/0\n");
    let iou_fast = scene.start(&["-i", "eth0", "-c", &format!("{second},{first}")]);
    assert_says(&iou_fast.process.stdout(), &[&format!("2 workers on CPUs {second},{first}\n")]);
    let allowed = |worker: usize| {
        let tasks = PathBuf::from(format!("/proc/{}/task", iou_fast.process.pid())).read_dir().unwrap();
        let status =
            |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let name = format!("Name:\tworker {worker}\n");
        let status = tasks.map(|task| status(task.unwrap())).find(|status| status.starts_with(&name));
        let line = |status: String| {
            status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t").map(str::to_string))
        };
        status.and_then(line)
    };
    for (worker, cpu) in [(0, second), (1, first)] {
        assert!(
            wait_until(WAIT, || allowed(worker) == Some(cpu.to_string())),
            "worker {worker}: {:?} and not {cpu}",
            allowed(worker)
        );
    }
    iou_fast.stop();
}

#[test]
fn netmap_missing_names_file_and_option() {
    let scene = Scene::new();
    let error = scene.refused(&["-i", "eth0"]);
    assert_says(&error, &[scene.netmap_file().to_str().unwrap(), "No such file", "-n FILE", "NETIO_NETMAP"]);
    assert_eq!(names(&scene.netio()), set(&[]));
}

/// Promise (The start): Each error of a NETMAP is shown with its line, its column and the text.
#[test]
fn netmap_errors_show_line_and_text() {
    let scene = Scene::new();
    scene.netmap(
        "# a lab\r\n1:0/0 513:0/0\r\n\t2:0/16 513:0/1\r\n/* off\r\n3:9 */ 3:0/0 banana\r\n0:0/0 513:1/0",
    );
    let error = scene.refused(&["-i", "eth0"]);
    let file = scene.netmap_file();
    let places: Vec<&str> = error
        .lines()
        .filter_map(|line| line.split_once(&*format!("{}:", file.display())))
        .map(|(_, rest)| rest)
        .collect();
    let expected = ["3:2: \"2:0/16\": ", "5:14: \"banana\": ", "6:1: \"0:0/0\": "];
    assert_eq!(places.len(), expected.len(), "{error}");
    for (place, expected) in places.iter().zip(expected) {
        assert!(place.starts_with(expected) && place.len() > expected.len() + 10, "{expected}:\n{error}");
    }
}

/// `-n`, else NETIO_NETMAP, else ./NETMAP. Each names another router, so that the one read shows.
#[test]
fn netmap_from_option_environment_or_directory() {
    let scene = Scene::new();
    let write = |name: &str, text: &str| std::fs::write(scene.directory().join(name), text).unwrap();
    write("NETMAP", "1:0/0 513:0/0\n");
    write("environment", "2:0/0 513:0/0\n");
    write("option", "3:0/0 513:0/0\n");
    let netio = scene.netio();
    let common = ["-i", "eth0", "--uid", "0", "--netio-dir", netio.to_str().unwrap()];
    for (option, environment, router) in [
        (None, None, "router 1:0/0"),
        (None, Some(""), "router 1:0/0"),
        (None, Some("environment"), "router 2:0/0"),
        (Some("option"), None, "router 3:0/0"),
        (Some("option"), Some("environment"), "router 3:0/0"),
    ] {
        let mut command = bare(&scene, &common);
        command.args(option.iter().flat_map(|file| ["-n", *file]));
        command.envs(environment.map(|file| ("NETIO_NETMAP", file)));
        let iou_fast = start(&mut command);
        let lines = iou_fast.process.stdout();
        assert!(lines.contains(router), "{option:?}, {environment:?}:\n{lines}");
        iou_fast.stop();
    }
}

/// Netio directories of unused user ids. They go when this is dropped.
struct Directories(Vec<PathBuf>);

impl Drop for Directories {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Promise (The start): The netio directory is that of the user who runs the routers.
#[test]
fn netio_directory_of_the_routers_user() {
    let scene = Scene::new();
    scene.netmap("1:0/0 513:0/0\n");
    let (uid, other) = (unused_uid(), unused_uid() + 1);
    let [directory, elsewhere] = [uid, other].map(|uid| PathBuf::from(format!("/tmp/netio{uid}")));
    let _directories = Directories(vec![directory.clone(), elsewhere.clone()]);
    std::fs::create_dir(&elsewhere).unwrap();
    let _router = UnixDatagram::bind(elsewhere.join("1")).unwrap();

    for (sudo, option) in [(Some(uid), None), (None, Some(uid)), (Some(other), Some(uid))] {
        let mut command = barest(&scene, &["-i", "eth0"]);
        command.envs(sudo.map(|uid| ("SUDO_UID", uid.to_string())));
        command.args(option.iter().flat_map(|uid| ["--uid".to_string(), uid.to_string()]));
        let iou_fast = start(&mut command);
        // The commonest failure: the routers are another user's.
        assert_says(
            &iou_fast.process.stderr(),
            &[
                &format!("netio directory {} (user {uid})", directory.display()),
                &format!("{} (1 sockets; --uid {other})", elsewhere.display()),
            ],
        );
        assert_eq!(directory.metadata().unwrap().uid(), uid);
        assert_eq!(names(&directory), set(&["513", "513.lck"]));
        for name in ["513", "513.lck"] {
            let file = directory.join(name).metadata().unwrap();
            assert_eq!((file.uid(), file.permissions().mode() & 0o777), (uid, 0o600), "{name}");
        }
        iou_fast.stop();
        assert_eq!(names(&directory), set(&[]));
    }
    assert_eq!(names(&elsewhere), set(&["1"]));

    let mut command = bare(&scene, &["-i", "eth0"]);
    assert_says(&refused(command.env("SUDO_UID", "root")), &["SUDO_UID is \"root\"", "--uid"]);
    // A directory of another user: nothing is put there.
    std::os::unix::fs::chown(&directory, Some(other), None).unwrap();
    let error = refused(&mut bare(&scene, &["-i", "eth0", "--uid", &uid.to_string()]));
    assert_says(
        &error,
        &[
            &*format!("{} belongs to user {other}, not to user {uid}", directory.display()),
            &format!("--uid {other}"),
        ],
    );
    assert_eq!(names(&directory), set(&[]));
}

fn wild(scene: &Scene, name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netmaps").join(name);
    std::fs::copy(file, scene.netmap_file()).unwrap();
}

#[test]
fn pseudo_ids_are_inferred() {
    let scene = Scene::new();
    for (name, id, links) in [
        ("article-1", "20", &["eth0: router 10:1/0 via 20:0/0, MAC aa:bb:cc:00:0a:01"][..]),
        (
            "docker-iou",
            "513",
            &[
                "eth0: router 1:0/0 via 513:0/0, MAC aa:bb:cc:00:01:00",
                "eth0: router 1:0/1 via 513:0/1, MAC aa:bb:cc:00:01:10",
            ],
        ),
        (
            "iouyap",
            "1024",
            &[
                "eth0: router 10:0/0 via 1024:0/0, MAC aa:bb:cc:00:0a:00",
                "eth0: router 20:0/0 via 1024:0/1, MAC aa:bb:cc:00:14:00",
            ],
        ),
    ] {
        wild(&scene, name);
        let iou_fast = scene.start(&["-i", "eth0"]);
        let stdout = iou_fast.process.stdout();
        assert_eq!(stdout.lines().take(links.len()).collect::<Vec<_>>(), links, "{name}");
        assert_eq!(stdout.matches(" via ").count(), links.len(), "{name}:\n{stdout}");
        assert_says(
            &iou_fast.process.stderr(),
            &[&format!("pseudo ids inferred from {}: {id}\n", scene.netmap_file().display())],
        );
        assert_eq!(names(&scene.netio()), set(&[id, &format!("{id}.lck")]), "{name}");
        iou_fast.stop();
        assert_eq!(names(&scene.netio()), set(&[]), "{name}");
    }
}

/// Promise `pseudo-ids`.
#[test]
fn pseudo_ids_not_inferable_are_asked_for() {
    let scene = Scene::new();
    for (name, said, option, bound) in [
        (
            "article-2",
            &["10-11,20-22: every line of the file has @host", "most likely -p 20-22"][..],
            "20-22",
            3,
        ),
        (
            "ioulive86",
            &["100,199-203,777: every line of the file has @host", "most likely -p 199-203"],
            "199,201-203",
            4,
        ),
        ("nbar", &["100,150: 512 or below", "for example -p 150 if 150 is one"], "150", 1),
    ] {
        wild(&scene, name);
        let error = scene.refused(&["-i", "eth0"]);
        assert_says(&error, said);
        assert_eq!(names(&scene.netio()), set(&[]), "{name}");

        let iou_fast = scene.start(&["-i", "eth0", "-p", option]);
        let stdout = iou_fast.process.stdout();
        assert_eq!(
            stdout.matches(" via ").count(),
            bound.max(option.matches(',').count()),
            "{name}:\n{stdout}"
        );
        assert_eq!(names(&scene.netio()).len(), 2 * bound, "{name}");
        // Equal @host on both ends: that is this host, whatever its name, and no name is looked up.
        let stderr = iou_fast.process.stderr();
        assert!(!stderr.contains("remote") && !stderr.contains("resolve"), "{name}:\n{stderr}");
        iou_fast.stop();
    }

    wild(&scene, "cisconator-faulty");
    let error = scene.refused(&["-i", "eth0"]);
    assert_says(&error, &[&*format!("{}:1:1: \"100/1@bylatmobile\": ", scene.netmap_file().display())]);
    assert_eq!(names(&scene.netio()), set(&[]));
}

/// Promise `pseudo-ids` (The start): An id that a router may use is never taken as a pseudo id.
#[test]
fn pseudo_id_of_router_is_never_taken() {
    let scene = Scene::new();
    scene.netmap("1:0/0 513:0/0\n");
    let me = std::process::id();
    // A router that holds its lock, and one of an old kind without a lock, which only answers.
    for (lock, said) in [
        (true, format!("513: its lock is held by process {me}")),
        (false, "513: a program answers at its socket".to_string()),
    ] {
        let options = RouterOptions { lock, ..RouterOptions::default() };
        let router = Router::with(&scene.netio(), 513, &options).unwrap();
        let before = names(&scene.netio());
        assert_says(&scene.refused(&["-i", "eth0"]), &["no pseudo instance id can be inferred", &said]);
        assert_eq!(names(&scene.netio()), before);
        assert!(router.send(513, [0; 8], b"").is_ok(), "its socket is not the one at its path any more");
    }

    // Others are inferred all the same.
    scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/0\n");
    let options = RouterOptions { lock: true, ..RouterOptions::default() };
    let _router = Router::with(&scene.netio(), 513, &options).unwrap();
    let iou_fast = scene.start(&["-i", "eth0"]);
    assert_says(&iou_fast.process.stderr(), &["513 looks like a pseudo id and is left alone", ": 514\n"]);
    assert_eq!(iou_fast.process.stdout().matches(" via ").count(), 1);
    assert_eq!(names(&scene.netio()), set(&["513", "513.lck", "514", "514.lck"]));
    iou_fast.stop();
    assert_eq!(names(&scene.netio()), set(&["513", "513.lck"]));
}

/// The numbers in front of " us" of a latency: p50, p99, p99.9, max.
fn latencies(line: &str) -> Vec<f64> {
    let (_, text) = line.split_once("latency ").expect(line);
    let number = |part: &str, name: &str| -> f64 {
        let number = part.strip_prefix(name).and_then(|rest| rest.strip_suffix(" us"));
        number.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
    };
    let parts: Vec<&str> = text.split(", ").collect();
    assert_eq!(parts.len(), 4, "{line}");
    parts.iter().zip(["p50 ", "p99 ", "p99.9 ", "max "]).map(|(part, name)| number(part, name)).collect()
}

/// Promise `accounting`.
#[test]
fn start_prints_links_and_summary_at_exit() {
    let scene = Scene::new();
    // Only our own frames, to count them exactly.
    for namespace in [&scene.host, &scene.wire] {
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1").unwrap();
    }
    scene.netmap("1:0/1 501:0/0\n501:1/2 2:0/0\n");
    for signal in [Signal::INT, Signal::TERM] {
        let mut router = Router::new(&scene.netio(), 1).unwrap();
        let mut process = Process::spawn(&mut scene.command(&["-i", "eth0", "-p", "501"])).unwrap();
        process.wait_for_line(|line| line == "ready", SOON).unwrap();
        let start = "eth0: router 1:0/1 via 501:0/0, MAC aa:bb:cc:00:01:10\n\
             eth0: router 2:0/0 via 501:1/2, MAC aa:bb:cc:00:02:00\n\
             eth0: native XDP, copy, 1 queue, 1 worker, not pinned\n\
             ready\n";
        assert_eq!(process.stdout(), start);
        assert_says(&process.stderr(), &[" INFO "]);

        let mut station = scene.station();
        for (seq, len) in [60, 100, 1514].into_iter().enumerate() {
            let sent = frame(router_mac(1, 0, 1), STATION, NO_TAG, frame::ETHERTYPE, len, seq as u64);
            station.send(&sent).unwrap();
            router.recv_where(WAIT, |_, frame| frame == sent).expect("the frame at the router");
        }
        for (seq, len) in [70, 1000].into_iter().enumerate() {
            let sent = frame(STATION, router_mac(1, 0, 1), NO_TAG, frame::ETHERTYPE, len, seq as u64);
            router.send(501, header(501, 0, 1, 0x10), &sent).unwrap();
            station.recv_where(WAIT, |frame| frame == sent).expect("the frame on the wire");
        }
        // One that is not ours to carry: router 2 may not speak for router 1.
        router.send(501, header(501, 0, 2, 0x10), &[0; 60]).unwrap();
        let last = frame(STATION, router_mac(1, 0, 1), NO_TAG, frame::ETHERTYPE, 60, 9);
        router.send(501, header(501, 0, 1, 0x10), &last).unwrap();
        station.recv_where(WAIT, |frame| frame == last).expect("the last frame on the wire");

        process.signal(signal);
        assert_eq!(process.wait(SOON).unwrap().code(), Some(0), "{}", process.dump());
        let stdout = process.stdout();
        let end = stdout.strip_prefix(start).expect("the same start");
        let lines: Vec<&str> = end.lines().collect();
        let [to_routers, to_nics, between, dropped, faults, chunks, accounting] = lines[..] else {
            panic!("{end}")
        };
        assert!(to_routers.starts_with("to routers: 3 frames, 1674 bytes, latency "), "{end}");
        assert!(to_nics.starts_with("to NICs: 3 frames, 1130 bytes, latency "), "{end}");
        for line in [to_routers, to_nics] {
            let latencies = latencies(line);
            assert!(latencies.is_sorted() && latencies[0] > 0.0 && latencies[3] < 5e6, "{line}");
        }
        assert_eq!(
            [between, dropped, faults],
            ["between routers: 0 frames, 0 bytes", "dropped: wrong-source 1", "faults: none"]
        );
        let (found, all) = Summary::read(&stdout).chunks;
        assert_eq!(chunks, format!("chunks: {found} of {all} accounted for"));
        assert!(all > 0 && found == all, "{end}");
        assert_eq!(accounting, "accounting: balanced");
        assert_eq!(names(&scene.netio()), set(&["1"]));
    }
}

/// Promise (The start): Pseudo ids are locked as IOU locks them, and a second process is told which one holds
/// the lock.
#[test]
fn pseudo_ids_are_locked_as_by_iou() {
    let scene = Scene::with_nics(&["eth0", "eth1"], &VethOptions::default());
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n3:0/0 503:0/0\n");
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501-502"]);
    let pid = iou_fast.process.pid();
    for id in ["501", "502"] {
        let socket = scene.netio().join(id).symlink_metadata().unwrap();
        assert!(socket.file_type().is_socket());
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        let lock = scene.netio().join(format!("{id}.lck"));
        assert_eq!(lock.symlink_metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(lock).unwrap(), format!("{pid}\n"));
    }

    // With another free id before the one that is held: that is given back.
    let error = scene.refused(&["-i", "eth1", "-p", "502-503"]);
    assert_says(&error, &["pseudo id 502", "502.lck is held by", &format!("process {pid} (iou-fast)")]);
    assert_eq!(names(&scene.netio()), set(&["1", "501", "501.lck", "502", "502.lck"]));
    carries(&scene, &mut router, [(1, 0), (501, 0)], NO_TAG);
    iou_fast.stop();
    assert_eq!(names(&scene.netio()), set(&["1"]));
}

#[test]
fn pseudo_id_socket_in_use_without_lock_is_left_alone() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n2:0/0 502:0/0\n");
    let path = scene.netio().join("502");
    let program = scene.host.enter(|| UnixDatagram::bind(&path).unwrap()).unwrap();
    let error = scene.refused(&["-i", "eth0", "-p", "501-502"]);
    assert_says(
        &error,
        &[
            "pseudo id 502",
            &format!("process {}", std::process::id()),
            path.to_str().unwrap(),
            "without a lock",
        ],
    );
    assert_eq!(names(&scene.netio()), set(&["502"]));
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(b"still there", &path).unwrap();
    let mut buffer = [0; 64];
    program.set_read_timeout(Some(WAIT)).unwrap();
    assert_eq!(program.recv(&mut buffer).unwrap(), 11);
}

/// Promise `kill-9`.
#[test]
fn sockets_of_killed_run_are_replaced() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    scene.start(&["-i", "eth0", "-p", "501"]).kill();
    let left = names(&scene.netio());
    assert_eq!(left, set(&["1", "501", "501.lck"]));
    let inode = |name: &str| scene.netio().join(name).symlink_metadata().unwrap().ino();
    let before = inode("501");

    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    assert_ne!(inode("501"), before);
    let lock = std::fs::read_to_string(scene.netio().join("501.lck")).unwrap();
    assert_eq!(lock, format!("{}\n", iou_fast.process.pid()));
    carries(&scene, &mut router, [(1, 0), (501, 0)], NO_TAG);
    iou_fast.stop();
    assert_eq!(names(&scene.netio()), set(&["1"]));

    // What is no socket of anybody's is not removed.
    std::fs::write(scene.netio().join("501"), "precious").unwrap();
    assert_says(&scene.refused(&["-i", "eth0", "-p", "501"]), &["501 is no socket"]);
    assert_eq!(std::fs::read_to_string(scene.netio().join("501")).unwrap(), "precious");
}

/// The median of five starts, from the command to `ready`, with all routers there.
fn time_to_ready(routers: u16) -> Duration {
    let scene = Scene::new();
    let pseudo = |n: u16| format!("{}:{}", 1001 + n / 256, n % 256);
    let lines: String = (0..routers).map(|n| format!("{}:0/0 {}\n", n + 1, pseudo(n))).collect();
    scene.netmap(&lines);
    let _routers: Vec<UnixDatagram> =
        (1..=routers).map(|id| UnixDatagram::bind(scene.netio().join(id.to_string())).unwrap()).collect();
    let ids = format!("1001-{}", 1001 + (routers - 1) / 256);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let before = Instant::now();
            let iou_fast = scene.start(&["-i", "eth0", "-p", &ids]);
            let took = before.elapsed();
            assert_eq!(iou_fast.process.stdout().matches(" via ").count(), usize::from(routers));
            iou_fast.stop();
            took
        })
        .collect();
    times.sort();
    println!("{routers} routers: ready after {times:?}");
    times[times.len() / 2]
}

/// Promise `sizes`.
#[test]
fn xdp_modes_are_printed_and_carry_vlan_tags() {
    let scene = Scene::new();
    scene.netmap("1:0/1 501:0/0\n");
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    for (options, got) in [
        (&[][..], "native XDP, copy, 1 queue, 1 worker, not pinned"),
        (&["--xdp-mode", "native"], "native XDP, copy, 1 queue, 1 worker, not pinned"),
        (&["--xdp-mode", "generic"], "generic XDP, copy, 1 queue, 1 worker, not pinned"),
        (&["--copy-mode", "copy"], "native XDP, copy, 1 queue, 1 worker, not pinned"),
        (&["--poll", "adaptive"], "native XDP, copy, 1 queue, 1 worker, not pinned"),
        (&["--poll", "busy"], "native XDP, copy, 1 queue, 1 worker, not pinned, polls busily"),
        (&["--cpus", "0", "--poll", "busy"], "native XDP, copy, 1 queue, 1 worker on CPU 0, polls busily"),
    ] {
        let iou_fast = scene.start(&[&["-i", "eth0", "-p", "501"], options].concat());
        let stdout = iou_fast.process.stdout();
        assert!(stdout.contains(&format!("\neth0: {got}\nready\n")), "{options:?}:\n{stdout}");
        let link = scene.host.ip("link show dev eth0").unwrap().stdout;
        let link = String::from_utf8(link).unwrap();
        assert_eq!(link.contains("xdpgeneric"), got.starts_with("generic"), "{options:?}:\n{link}");
        for tags in [NO_TAG, &[Tag::vlan(10)], &[Tag::new(0x88a8, 20), Tag::vlan(10)]] {
            carries(&scene, &mut router, [(1, 0x10), (501, 0)], tags);
        }
        iou_fast.stop();
    }
}

/// Promise `refused`.
#[test]
fn xdp_mode_not_supported_is_refused() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    for options in [&["--copy-mode", "zero-copy"][..], &["--copy-mode", "zero-copy", "--xdp-mode", "generic"]]
    {
        let error = scene.refused(&[&["-i", "eth0", "-p", "501"], options].concat());
        assert_says(&error, &["eth0", "zero-copy"]);
        assert_eq!(names(&scene.netio()), set(&[]));
        let link = String::from_utf8(scene.host.ip("-d link show dev eth0").unwrap().stdout).unwrap();
        assert!(!link.contains("xdp") && link.contains("promiscuity 0"), "{link}");
    }
}
