//! The unit of the service. Nothing here starts systemd: what it makes of the unit is asked of `systemd-analyze`, and
//! tests/e2e/notify.rs plays its part for the program.
//!
//! Shown by hand with systemd 252 as process 1 of namespaces of its own, network included, and the package installed there:
//! for an ordinary user and for root, start, reload, the status with a faulty NETMAP, no warning of short queues, a restart
//! by the watchdog while one worker stood still, one after `kill -9`, upgrade, remove and purge. Not shown: a boot, a real
//! NIC, other versions of systemd.

use std::path::{Path, PathBuf};
use std::process::Command;
use testbed::Bin;

/// How exposed the service may be, in tenths: 0 to 100. With the rights over NICs and the host's network that are its
/// purpose it has 29; without the directives that take the rest away it has 70 and more.
const EXPOSURE: u32 = 29;

fn unit() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/iou-fast@.service")).unwrap()
}

/// The unit for a user alice, with the program of this build.
fn instance(directory: &Path) -> PathBuf {
    let text = unit();
    assert!(text.contains("\nExecStart=/usr/bin/iou-fast "), "the package has it there");
    let program = Bin::find("iou-fast").unwrap();
    let path = directory.join("iou-fast@alice.service");
    std::fs::write(&path, text.replace("/usr/bin/iou-fast", program.to_str().unwrap())).unwrap();
    path
}

/// Runs `systemd-analyze` and returns what it says; true if it is content.
fn analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).env("LC_ALL", "C").output();
    let output = output.expect("systemd-analyze: `cargo xtask setup` installs systemd");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Promise `systemd` (The service): systemd accepts the unit, and the service is exposed no more than its
/// work needs.
#[test]
fn systemd_verifies_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = instance(directory.path());
    // It would look for the manual, which is not installed here.
    let (content, said) = analyze(&["verify", "--man=no"], &unit);
    // A directive that it does not know is a mere warning to it.
    assert!(content && said.is_empty(), "{said}");
    std::fs::write(&unit, std::fs::read_to_string(&unit).unwrap() + "\n[Service]\nNoSuchThing=yes\n")
        .unwrap();
    assert!(analyze(&["verify", "--man=no"], &unit).1.contains("NoSuchThing"));
}

/// Promise `systemd`.
#[test]
fn systemd_exposure_of_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = instance(directory.path());
    let within =
        |limit: u32| analyze(&["security", "--offline=true", &format!("--threshold={limit}")], &unit);
    let (content, said) = within(EXPOSURE);
    assert!(content, "{said}");
    assert!(!within(EXPOSURE - 5).0, "EXPOSURE can be lower now\n{said}");
}

/// Promise `systemd`.
#[test]
fn systemd_notify_and_reload_in_the_unit() {
    let unit = unit();
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "ExecReload=/bin/sh -c \"kill -HUP $MAINPID\"",
        "Restart=on-failure",
    ] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    assert!(unit.lines().any(|line| line.starts_with("WatchdogSec=")));
    // What it starts with is what src/privileges keeps at the start, less what only a user of root's has.
    let of = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}")).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let ambient = of("AmbientCapabilities=");
    assert_eq!(ambient, of("CapabilityBoundingSet="));
    assert_eq!(
        ambient,
        ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON", "CAP_IPC_LOCK", "CAP_SYS_ADMIN"]
    );
}
