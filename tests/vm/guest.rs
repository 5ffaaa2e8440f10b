//! The guest: what an init does at the start and at the end, and the NICs that QEMU has given it.

use crate::common::Scene;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use rustix::time::{ClockId, clock_gettime, clock_settime};
use std::ffi::CStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use testbed::{Namespace, run, wait_until};

/// How long the kernel may take to find a NIC, or to take one back out of a namespace that has gone.
const NIC: Duration = Duration::from_secs(60);

/// Two NICs on one wire.
#[derive(Clone, Copy)]
pub(crate) enum Pair {
    /// One queue each; QEMU's hub is the wire.
    Hub,
    /// The NIC of `iou-fast` has as many queues as the guest CPUs; a bridge of the host is the wire.
    Bridge,
}

impl Pair {
    /// The variable of the kernel's command line that names their addresses, the NIC of `iou-fast` first.
    fn variable(self) -> &'static str {
        match self {
            Self::Hub => "IOU_VM_HUB",
            Self::Bridge => "IOU_VM_BRIDGE",
        }
    }
}

/// Mounts what programs expect and loads the kernel modules that lie in `/modules`, in the order of their names.
pub(crate) fn set_up() {
    for (kind, path) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        mount_at(kind, path);
    }
    mount_at("tmpfs", "/dev/shm");
    let mut modules: Vec<_> = fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    for path in modules {
        let module = File::open(&path).unwrap();
        finit_module(&module, c"", 0).unwrap_or_else(|e| panic!("module {}: {e}", path.display()));
    }
}

fn mount_at(kind: &str, path: &str) {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).or_else(exists).unwrap();
    mount(kind, path, kind, MountFlags::empty(), None::<&CStr>)
        .unwrap_or_else(|e| panic!("mounting {path}: {e}"));
}

fn exists(errno: rustix::io::Errno) -> rustix::io::Result<()> {
    if errno == rustix::io::Errno::EXIST { Ok(()) } else { Err(errno) }
}

/// Ends the virtual machine.
pub(crate) fn power_off() -> ExitCode {
    let error = reboot(RebootCommand::PowerOff);
    println!("cannot power off: {error:?}");
    ExitCode::FAILURE
}

/// The kernel's release.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Sets the virtual machine's clock on by so many seconds, or back.
pub(crate) fn set_clock(seconds: i64) {
    let mut time = clock_gettime(ClockId::Realtime);
    time.tv_sec += seconds;
    clock_settime(ClockId::Realtime, time).unwrap();
}

/// A scene whose NIC is one of QEMU's, and its wire's end the other; the kernel itself says nothing on either.
pub(crate) fn scene(pair: Pair) -> Scene {
    let addresses = std::env::var(pair.variable()).unwrap();
    let (nic, other) = addresses.split_once(',').unwrap();
    let (host, wire) = (Namespace::new("host").unwrap(), Namespace::new("wire").unwrap());
    for (namespace, address) in [(&host, nic), (&wire, other)] {
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        let name = interface(address);
        run("ip", ["link", "set", "dev", &name, "netns", namespace.name(), "name", "eth0"]).unwrap();
        namespace.ip("link set eth0 up").unwrap();
        let up = wait_until(NIC, || {
            let state = namespace.ip("-o link show dev eth0").unwrap().stdout;
            String::from_utf8_lossy(&state).contains("LOWER_UP")
        });
        assert!(up, "{address} has no carrier");
    }
    // The wire's end is to hear what is for other stations.
    wire.ip("link set eth0 promisc on").unwrap();
    Scene::between(host, wire)
}

/// The name of the interface with this MAC address, as soon as it is in the namespace of this process: that of the
/// last check gives it back in its own time.
fn interface(address: &str) -> String {
    let mut found = None;
    let has = |path: &Path| fs::read_to_string(path.join("address")).is_ok_and(|text| text.trim() == address);
    let _ = wait_until(NIC, || {
        let mut interfaces =
            fs::read_dir("/sys/class/net").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        found = interfaces.find(|path| has(path));
        found.is_some()
    });
    let path = found.unwrap_or_else(|| panic!("no NIC {address}"));
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
