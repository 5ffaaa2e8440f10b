//! The room `nic` on real interfaces: veth pairs and others in network namespaces of their own.
//!
//! Needs root, `ip` (iproute2) and `ethtool`.

use iou_fast::nic::attach::{Attachment, XdpMode, XdpModeChoice, attach};
use iou_fast::nic::links::Links;
use iou_fast::nic::lock::NicLock;
use iou_fast::nic::offload::Offloads;
use iou_fast::nic::promisc::Promiscuous;
use iou_fast::nic::watch::LinkWatch;
use iou_fast::nic::{Error, Nic};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// `rx-vlan-hw-parse` and `rx-gro` by the names that `ethtool -k` shows them under.
const VLAN: &str = "rx-vlan-offload";
const GRO: &str = "generic-receive-offload";

/// A network namespace with a veth pair: `interface`, the network interface under test, and `wire`, its other end.
struct Namespace(String);

impl Namespace {
    /// Both ends have `queues` queues each way and are up.
    fn new(queues: u32) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nic-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let this = Self(name);
        let n = &queues.to_string();
        this.ip(&[
            "link",
            "add",
            "interface",
            "numrxqueues",
            n,
            "numtxqueues",
            n,
            "type",
            "veth", //
            "peer",
            "name",
            "wire",
            "numrxqueues",
            n,
            "numtxqueues",
            n,
        ]);
        this.ip(&["link", "set", "interface", "up"]);
        this.ip(&["link", "set", "wire", "up"]);
        this
    }

    fn ip(&self, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.0], arguments].concat())
    }

    fn ethtool(&self, arguments: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.0, "ethtool"], arguments].concat())
    }

    /// Whether `ethtool -k interface` shows `feature` on.
    fn is_on(&self, feature: &str) -> bool {
        let features = self.ethtool(&["-k", "interface"]);
        let line = features.lines().find_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {feature} in\n{features}")).starts_with("on")
    }

    /// Runs `test` on a thread of its own in this namespace.
    fn inside<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        let body = || {
            enter(&self.0);
            test()
        };
        std::thread::scope(|scope| match scope.spawn(body).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.0]).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("network namespace {} is left over: ip netns del {0}", self.0);
        }
    }
}

/// Moves the calling thread into a network namespace.
fn enter(name: &str) {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

fn interface() -> Nic {
    Nic::find("interface").unwrap()
}

/// Waits until `condition` holds.
fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An XDP program that passes every frame to the host: `r0 = XDP_PASS; exit`.
fn pass_everything(name: &std::ffi::CStr) -> OwnedFd {
    let instruction = |code, imm| libbpf_sys::bpf_insn { code, imm, ..Default::default() };
    let program = [instruction(0xb7, 2), instruction(0x95, 0)];
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        prog_flags: libbpf_sys::BPF_F_XDP_HAS_FRAGS,
        ..Default::default()
    };
    // SAFETY: the strings end in a zero, the program is as long as it says, and all live through the call.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            &raw mut options,
        )
    };
    assert!(fd >= 0, "bpf_prog_load: {}", std::io::Error::from_raw_os_error(-fd));
    // SAFETY: the call returned a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Another process of this program, running the same `test`, that does `task` with the interface of `namespace` until it is
/// killed: see [`maybe_other`].
struct Other(Child);

impl Other {
    fn start(test: &str, task: &str, namespace: &Namespace, state: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("NIC_TEST_TASK", task)
            .env("NIC_TEST_NAMESPACE", &namespace.0)
            .env("NIC_TEST_STATE", state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let this = Self(child);
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("READY")), "{task}: it did not start");
        this
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL, and no waiting for its end.
    fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In the process that [`Other::start`] made: does its task and never returns. Elsewhere it does nothing.
fn maybe_other() {
    if std::env::var_os("NIC_TEST_TASK").is_none() {
        return;
    }
    let variable = |name| std::env::var(name).expect("Other::start sets it");
    enter(&variable("NIC_TEST_NAMESPACE"));
    let nic = interface();
    let lock = NicLock::take_in(&nic, Path::new(&variable("NIC_TEST_STATE"))).unwrap();
    let _offloads = Offloads::quiet(&nic, &lock, true).unwrap();
    let _promiscuous = Promiscuous::join(&nic).unwrap();
    let program = pass_everything(c"other");
    let _attachment: Option<Attachment> = match &*variable("NIC_TEST_TASK") {
        "lock" => None,
        "attach" => Some(attach(program.as_fd(), &nic, XdpModeChoice::Native).unwrap()),
        task => panic!("{task}"),
    };
    println!("READY");
    // Until killed, or the test that started it is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
    std::process::exit(0);
}

#[test]
fn nic_is_found_and_described() {
    let namespace = Namespace::new(2);
    namespace.ip(&["link", "set", "interface", "address", "02:00:5e:10:00:01", "mtu", "9500"]);
    namespace.ip(&["link", "property", "add", "dev", "interface", "altname", "a-name-longer-than-fifteen"]);
    namespace.ip(&["link", "property", "add", "dev", "interface", "altname", "short-name"]);
    namespace.inside(|| {
        let nic = interface();
        assert_eq!(nic.mac().to_string(), "02:00:5e:10:00:01");
        assert_eq!(nic.mtu(), 9500);
        assert_eq!(nic.rx_queues(), 2);
        assert_eq!(nic.driver(), "veth");
        assert_eq!(nic.warning(), None);
        assert!(nic.state().up && nic.state().carrier);
        let by_other_name = Nic::find("short-name").unwrap();
        assert_eq!((by_other_name.name(), by_other_name.index()), ("interface", nic.index()));
    });
}

#[test]
fn nic_missing_or_not_ethernet_is_refused() {
    let namespace = Namespace::new(1);
    namespace.inside(|| {
        for name in ["eth9", "", "interface:1", "much-too-long-for-an-interface", "../interface"] {
            let error = Nic::find(name).unwrap_err();
            assert!(matches!(&error, Error::NoSuchInterface { .. }), "{name}: {error}");
            let text = error.to_string();
            assert!(["lo", "interface", "wire"].iter().all(|present| text.contains(present)), "{text}");
        }
        let error = Nic::find("lo").unwrap_err();
        assert!(matches!(error, Error::NotEthernet { hardware: 772, .. }), "{error}");
    });
}

#[test]
fn nic_bridge_gets_a_warning() {
    let namespace = Namespace::new(1);
    namespace.ip(&["link", "add", "br0", "type", "bridge"]);
    namespace.inside(|| {
        let nic = Nic::find("br0").unwrap();
        assert_eq!((nic.driver(), nic.rx_queues()), ("bridge", 1));
        assert!(nic.warning().unwrap().contains("veth"));
    });
}

/// What is said of what is below `name` or at its other end.
fn issues(namespace: &Namespace, name: &str, generic: bool) -> Vec<String> {
    let of = || Nic::find(name).unwrap().issues(generic).unwrap();
    namespace.inside(of).iter().map(ToString::to_string).collect()
}

/// The commands that a text names, each between backticks.
fn commands(texts: &[String]) -> Vec<Vec<&str>> {
    let quoted = texts.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    quoted.map(|command| command.strip_prefix("ethtool ").unwrap().split(' ').collect()).collect()
}

/// Promise `lower-offloads`.
#[test]
fn lower_device_offloads_are_named() {
    let ns = Namespace::new(1);
    // A macvlan on a bridge of the interface and of a second pair, whose other end is elsewhere.
    let other = Namespace::new(1);
    for recipe in [
        "link add br0 type bridge",
        "link add mv0 link br0 type macvlan mode bridge",
        &format!("link add far type veth peer name far netns {}", other.0),
        "link set interface master br0",
        "link set far master br0",
    ] {
        ns.ip(&recipe.split(' ').collect::<Vec<_>>());
    }
    ns.ethtool(&["-K", "interface", "gro", "on"]);
    // GRO of what is neither at the bottom nor anything's other end merges nothing: the bridge has it on.
    assert!(ns.ethtool(&["-k", "br0"]).contains("generic-receive-offload: on"));
    for interface in ["mv0", "br0"] {
        let texts = issues(&ns, interface, true);
        let says = |parts: &[&str]| texts.iter().any(|text| parts.iter().all(|part| text.contains(part)));
        assert_eq!(texts.len(), 3, "{texts:#?}");
        assert!(
            says(&[
                &format!("interface, below {interface}, has rx-gro on"),
                "`ethtool -K interface rx-gro off`"
            ]),
            "{texts:#?}"
        );
        assert!(
            says(&["wire, the other end of interface,", "`ethtool -K wire tso off tx-udp-segmentation off`"]),
            "{texts:#?}"
        );
        assert!(says(&["the other end of far, in another network namespace,", "PEER"]), "{texts:#?}");
    }
    // In front of a native program there is none of that; the pair's own interface has none below.
    assert!(issues(&ns, "interface", false).is_empty());
    let texts = issues(&ns, "interface", true);
    assert!(texts.len() == 1 && texts[0].starts_with("wire, the other end of interface,"), "{texts:#?}");

    let texts = issues(&ns, "mv0", true);
    for command in commands(&texts).iter().filter(|command| command[1] != "PEER") {
        ns.ethtool(command);
    }
    let texts = issues(&ns, "mv0", true);
    assert!(texts.len() == 1 && texts[0].contains("PEER"), "{texts:#?}");
    assert!(issues(&ns, "interface", true).is_empty());

    // In a container what a macvlan is on cannot be seen.
    ns.ip(&["link", "set", "mv0", "netns", &other.0]);
    let texts = issues(&other, "mv0", true);
    assert!(texts.len() == 1 && texts[0].contains("`ethtool -K LOWER gro off lro off`"), "{texts:#?}");
}

/// Promise `lower-offloads`.
#[test]
fn tap_with_segmentation_offload_is_named() {
    let ns = Namespace::new(1);
    for (name, mode) in [("tap0", "vnet_hdr"), ("tap1", "pi")] {
        ns.ip(&["tuntap", "add", name, "mode", "tap", mode]);
    }
    for generic in [true, false] {
        let texts = issues(&ns, "tap0", generic);
        assert!(texts.len() == 1 && texts[0].contains("`host_tso4=off,"), "{texts:#?}");
        assert!(issues(&ns, "tap1", generic).is_empty());
    }
}

/// The host's own addresses on the LAN of `name`, as `ip link` shows them, and those of the interfaces named.
fn own_addresses(namespace: &Namespace, name: &str, of: &[&str]) -> [BTreeSet<String>; 2] {
    let found = namespace.inside(|| Links::read().unwrap().own_addresses(Nic::find(name).unwrap().index()));
    let address = |name: &&str| {
        let text = namespace.ip(&["-o", "link", "show", "dev", name]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
        words.next().unwrap().to_owned()
    };
    [found.iter().map(ToString::to_string).collect(), of.iter().map(address).collect()]
}

/// Promise `host-addresses`.
#[test]
fn host_addresses_include_upper_and_lower_devices() {
    let ns = Namespace::new(1);
    for recipe in [
        "link add br0 address 02:00:00:00:bb:bb type bridge",
        "link set wire master br0",
        "link add mv0 link br0 type macvlan",
        "link add mv1 link mv0 type macvlan",
        "link add vrrp link br0 address 00:00:5e:00:01:0a type macvlan",
        "tuntap add tap0 mode tap",
        "link set tap0 master br0",
        "link add beside type bridge",
    ] {
        ns.ip(&recipe.split(' ').collect::<Vec<_>>());
    }
    let above = ["interface", "wire", "br0", "mv0", "mv1"];
    for (interface, own) in [("interface", &above[..]), ("wire", &above), ("beside", &["beside"])] {
        let [found, expected] = own_addresses(&ns, interface, own);
        assert_eq!(found, expected, "{interface}");
    }
    // What is behind a bridge's ports are others.
    let [found, expected] = own_addresses(&ns, "mv1", &["br0", "mv0", "mv1"]);
    assert_eq!(found, expected);
}

#[test]
fn nic_state_follows_the_link() {
    let namespace = Namespace::new(1);
    namespace.inside(|| {
        let watch = LinkWatch::new().unwrap();
        let nic = interface();
        // Word of the pair coming up may still be under way.
        soon("silence", || {
            std::thread::sleep(Duration::from_millis(200));
            !watch.drain()
        });
        let told = || {
            let mut ready = [PollFd::new(&watch, PollFlags::IN)];
            let within = Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(poll(&mut ready, Some(&within)).unwrap(), 1, "no word of the change");
            assert!(watch.drain());
        };

        namespace.ip(&["link", "set", "wire", "down"]);
        told();
        soon("no carrier", || nic.refresh_state().is_ok_and(|state| state.up && !state.carrier));
        namespace.ip(&["link", "set", "interface", "down"]);
        told();
        soon("down", || nic.refresh_state().is_ok_and(|state| !state.up));
        for end in ["interface", "wire"] {
            namespace.ip(&["link", "set", end, "up"]);
        }
        told();
        soon("up", || nic.refresh_state().is_ok_and(|state| state.up && state.carrier));

        namespace.ip(&["link", "set", "interface", "mtu", "1400"]);
        namespace.ip(&["link", "set", "interface", "name", "renamed"]);
        told();
        assert_eq!(nic.refresh_state().unwrap().mtu, 1400);
        namespace.ip(&["link", "del", "renamed"]);
        assert!(matches!(nic.refresh_state(), Err(Error::Gone { .. })));
    });
}

#[test]
fn nic_identity_differs_between_namespaces() {
    let (here, elsewhere) = (Namespace::new(1), Namespace::new(1));
    let state = tempfile::tempdir().unwrap();
    let nic = here.inside(interface);
    let lock = here.inside(|| NicLock::take_in(&nic, state.path()).unwrap());
    elsewhere.ip(&["link", "set", "interface", "down"]);
    elsewhere.inside(|| {
        let other = interface();
        assert_eq!(other.index(), nic.index());
        assert!(nic.refresh_state().unwrap().up, "asked of the right one");
        let program = pass_everything(c"astray");
        assert!(matches!(Promiscuous::join(&nic), Err(Error::OtherNamespace { .. })));
        let attached = attach(program.as_fd(), &nic, XdpModeChoice::Auto);
        assert!(matches!(attached, Err(Error::OtherNamespace { .. })));
        let _other_hold = NicLock::take_in(&other, state.path()).expect("another interface");
        // Through its socket the first interface is reached all the same.
        Offloads::quiet(&nic, &lock, false).unwrap();
    });
    assert!(here.is_on(VLAN) && elsewhere.is_on(VLAN));
}

#[test]
fn nic_lock_is_exclusive() {
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    namespace.inside(|| {
        let nic = interface();
        let lock = NicLock::take_in(&nic, state.path()).unwrap();
        let second = NicLock::take_in(&nic, state.path());
        assert!(matches!(second, Err(Error::Held { pid: Some(pid), .. }) if pid == std::process::id()));
        let clone = lock.clone();
        drop(lock);
        assert!(NicLock::take_in(&nic, state.path()).is_err(), "a clone still holds it");
        drop(clone);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "nothing is left");
        NicLock::take_in(&nic, state.path()).unwrap();
    });
}

#[test]
fn nic_lock_names_owner_and_frees_on_exit() {
    maybe_other();
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    let mut other = Other::start("nic_lock_names_owner_and_frees_on_exit", "lock", &namespace, state.path());
    namespace.inside(|| {
        let error = NicLock::take_in(&interface(), state.path()).unwrap_err();
        let expected = format!("interface is held by iou-fast, pid {}:", other.pid());
        assert!(error.to_string().starts_with(&expected), "{error}");
        other.kill();
        NicLock::take_in(&interface(), state.path()).unwrap();
    });
}

#[test]
fn offloads_are_turned_off_and_restored() {
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    namespace.ethtool(&["-K", "interface", "gro", "on", "rx-vlan-stag-hw-parse", "off"]);
    let before = namespace.ethtool(&["-k", "interface"]);
    assert!(namespace.is_on(VLAN) && namespace.is_on(GRO));
    namespace.inside(|| {
        let nic = interface();
        let lock = NicLock::take_in(&nic, state.path()).unwrap();
        let mut offloads = Offloads::quiet(&nic, &lock, false).unwrap();
        assert!(!namespace.is_on(VLAN));
        assert!(namespace.is_on(GRO), "a native program does not mind");
        assert_eq!(offloads.turned_off(), ["rx-vlan-hw-parse"]);
        assert_eq!(offloads.still_on(), []);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 2, "lock and record");

        offloads.quiet_for_generic().unwrap();
        assert!(!namespace.is_on(VLAN) && !namespace.is_on(GRO));
        // The lock must outlast what is done under it.
        drop(lock);
        assert!(NicLock::take_in(&nic, state.path()).is_err());
        offloads.restore().unwrap();
    });
    assert_eq!(namespace.ethtool(&["-k", "interface"]), before);
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn offloads_of_removed_nic_leave_no_record() {
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    namespace.inside(|| {
        let nic = interface();
        let lock = NicLock::take_in(&nic, state.path()).unwrap();
        let offloads = Offloads::quiet(&nic, &lock, true).unwrap();
        namespace.ip(&["link", "del", "interface"]);
        offloads.restore().unwrap();
    });
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn offloads_are_restored_by_next_run_after_kill() {
    maybe_other();
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    namespace.ethtool(&["-K", "interface", "gro", "on"]);
    let before = namespace.ethtool(&["-k", "interface"]);
    let killed = || {
        let mut other =
            Other::start("offloads_are_restored_by_next_run_after_kill", "lock", &namespace, state.path());
        assert!(!namespace.is_on(VLAN) && !namespace.is_on(GRO));
        other.kill();
    };

    // Twice, for the record to be handed down through more than one dead run.
    killed();
    killed();
    namespace.inside(|| {
        let nic = interface();
        let lock = NicLock::take_in(&nic, state.path()).unwrap();
        assert!(!namespace.is_on(VLAN), "no process was there to turn it on");
        let offloads = Offloads::quiet(&nic, &lock, false).unwrap();
        assert!(namespace.is_on(GRO), "not in the way of a native program");
        assert!(!namespace.is_on(VLAN));
        drop(offloads);
    });
    assert_eq!(namespace.ethtool(&["-k", "interface"]), before);

    // What the user turned on, and off again, after the kill stays so. The first can be told.
    killed();
    namespace.ethtool(&["-K", "interface", "gro", "on"]);
    namespace.inside(|| {
        let nic = interface();
        let lock = NicLock::take_in(&nic, state.path()).unwrap();
        let offloads = Offloads::quiet(&nic, &lock, false).unwrap();
        namespace.ethtool(&["-K", "interface", "gro", "off"]);
        offloads.restore().unwrap();
    });
    assert!(!namespace.is_on(GRO), "turned off by the user, not by us");
    assert!(namespace.is_on(VLAN));

    // A record that is no record does not keep anybody from starting.
    namespace.inside(|| {
        let nic = interface();
        let lock = NicLock::take_in(&nic, state.path()).unwrap();
        let offloads = Offloads::quiet(&nic, &lock, false).unwrap();
        let record = std::fs::read_dir(state.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "json"))
            .unwrap();
        std::mem::forget(offloads);
        std::fs::write(record, "{").unwrap();
        Offloads::quiet(&nic, &lock, false).unwrap();
    });
}

#[test]
fn promiscuous_mode_ends_with_its_owner() {
    maybe_other();
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    let promiscuity = |n: u32| {
        let shown = namespace.ip(&["-d", "link", "show", "interface"]);
        shown.contains(&format!(" promiscuity {n} "))
    };
    namespace.inside(|| {
        let nic = interface();
        assert!(promiscuity(0));
        let one = Promiscuous::join(&nic).unwrap();
        assert!(promiscuity(1));
        let two = Promiscuous::join(&nic).unwrap();
        assert!(promiscuity(2));
        drop((one, two));
        assert!(promiscuity(0));
    });
    let mut other = Other::start("promiscuous_mode_ends_with_its_owner", "lock", &namespace, state.path());
    assert!(promiscuity(1));
    other.kill();
    soon("promiscuous mode gone with the process", || promiscuity(0));
}

#[test]
fn xdp_attach_native_and_generic_and_detach() {
    let namespace = Namespace::new(1);
    namespace.ip(&["link", "set", "interface", "mtu", "9500"]);
    namespace.inside(|| {
        let nic = interface();
        let program = pass_everything(c"steer");
        let shown = || namespace.ip(&["link", "show", "interface"]);
        let cases = [
            (XdpModeChoice::Auto, XdpMode::Native, " xdp "),
            (XdpModeChoice::Native, XdpMode::Native, " xdp "),
            (XdpModeChoice::Generic, XdpMode::Generic, " xdpgeneric "),
        ];
        for (choice, mode, word) in cases {
            let attachment = attach(program.as_fd(), &nic, choice).unwrap();
            assert_eq!(attachment.mode, mode);
            assert!(shown().contains(word), "{choice:?}: {}", shown());
            drop(attachment);
            soon("detached", || !shown().contains("xdp"));
        }
    });
}

#[test]
fn xdp_attach_falls_back_to_generic_only_if_allowed() {
    let namespace = Namespace::new(1);
    namespace.ip(&["link", "add", "br0", "type", "bridge"]);
    namespace.inside(|| {
        let nic = Nic::find("br0").unwrap();
        let program = pass_everything(c"steer");
        let error = attach(program.as_fd(), &nic, XdpModeChoice::Native).unwrap_err();
        assert!(error.to_string().contains("--xdp-mode generic"), "{error}");
        assert_eq!(attach(program.as_fd(), &nic, XdpModeChoice::Auto).unwrap().mode, XdpMode::Generic);
    });
}

#[test]
fn xdp_attach_explains_veth_with_too_few_queues() {
    let namespace = Namespace::new(4);
    namespace.ethtool(&["-L", "interface", "rx", "1"]);
    namespace.inside(|| {
        let nic = interface();
        assert_eq!(nic.rx_queues(), 1);
        let program = pass_everything(c"steer");
        let error = attach(program.as_fd(), &nic, XdpModeChoice::Native).unwrap_err();
        let expected = "the peer has more TX queues than this end has RX queues";
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(attach(program.as_fd(), &nic, XdpModeChoice::Auto).unwrap().mode, XdpMode::Generic);
    });
}

#[test]
fn xdp_attach_names_attached_program_and_fix() {
    maybe_other();
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    let ours = pass_everything(c"ours");
    let theirs = pass_everything(c"theirs");
    let refused = |choice| {
        namespace
            .inside(|| attach(ours.as_fd(), &interface(), choice))
            .expect_err("there is one already")
            .to_string()
    };

    // By a link of another process: in either mode, and never answered by taking the other.
    let mut other =
        Other::start("xdp_attach_names_attached_program_and_fix", "attach", &namespace, state.path());
    for choice in [XdpModeChoice::Auto, XdpModeChoice::Native, XdpModeChoice::Generic] {
        let error = refused(choice);
        let holder = format!("held by pid {} (", other.pid());
        assert!(error.contains("\"other\", id ") && error.contains(&holder), "{error}");
    }
    // Right after a kill its remains are waited for.
    other.kill();
    drop(namespace.inside(|| attach(ours.as_fd(), &interface(), XdpModeChoice::Native)).unwrap());

    // By netlink, as `ip link` does: the command named removes it.
    let index = namespace.inside(|| interface().index()).cast_signed();
    let xdp = libbpf_rs::Xdp::new(theirs.as_fd());
    for (mode, command) in [
        (libbpf_sys::XDP_FLAGS_DRV_MODE, ["link", "set", "dev", "interface", "xdpdrv", "off"]),
        (libbpf_sys::XDP_FLAGS_SKB_MODE, ["link", "set", "dev", "interface", "xdpgeneric", "off"]),
    ] {
        let attached = || xdp.attach(index, libbpf_rs::XdpFlags::from_bits_truncate(mode)).is_ok();
        // What a test beside this one forks has our links open until it executes something.
        soon("the interface is free", || namespace.inside(attached));
        let error = refused(XdpModeChoice::Auto);
        assert!(error.contains("\"theirs\", id ") && error.contains(&command.join(" ")), "{error}");
        namespace.ip(&command);
        drop(namespace.inside(|| attach(ours.as_fd(), &interface(), XdpModeChoice::Auto)).unwrap());
    }
}

#[test]
fn xdp_attach_right_after_kill() {
    maybe_other();
    let namespace = Namespace::new(1);
    let state = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        // Killed and not waited for: it is being taken down while we start.
        let mut other = Other::start("xdp_attach_right_after_kill", "attach", &namespace, state.path());
        other.kill();
        namespace.inside(|| {
            let nic = interface();
            let lock = NicLock::take_in(&nic, state.path()).unwrap();
            let _offloads = Offloads::quiet(&nic, &lock, false).unwrap();
            let program = pass_everything(c"again");
            attach(program.as_fd(), &nic, XdpModeChoice::Native).unwrap();
        });
    }
    assert!(namespace.is_on(VLAN));
}
