//! `iou-fast clean`: what a crash left is removed and named, what runs is left alone.

use crate::common::{SOON, Scene};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testbed::{Bin, Process, Signal, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Runs `command` to its end; returns its exit code and what it printed.
fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let mut process = Process::spawn(command).unwrap();
    let status = process.wait(LONG).unwrap();
    (status.code(), process.stdout() + &process.stderr())
}

fn clean(scene: &Scene) -> Command {
    let mut command = scene.host.command(Bin::find("iou-fast").unwrap());
    command.args(["clean", "--state-dir"]).arg(scene.directory().join("state")).env_remove("SUDO_UID");
    command
}

fn vlan_offload(scene: &Scene) -> bool {
    let text = scene.host.run("ethtool", ["-k", "eth0"]).unwrap().stdout;
    String::from_utf8(text).unwrap().contains("rx-vlan-offload: on")
}

/// Promise `clean` (Faults): `iou-fast clean` removes what a crash left, and names it; what runs is left
/// alone.
#[test]
fn clean_restores_offloads_after_kill() {
    let scene = Scene::new();
    scene.netmap("1:0/0 501:0/0\n");
    assert!(vlan_offload(&scene));
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    assert!(!vlan_offload(&scene));
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("eth0") && !vlan_offload(&scene), "it runs: {said}");

    iou_fast.kill_with_guard();
    assert!(wait_until(SOON, || {
        let link = scene.host.ip("-d link show dev eth0").unwrap().stdout;
        !String::from_utf8(link).unwrap().contains("xdp")
    }));
    assert!(!vlan_offload(&scene));
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("eth0: rx-vlan-hw-parse, rx-vlan-stag-hw-parse on again\n"), "{said}");
    assert!(vlan_offload(&scene));
    assert_eq!(std::fs::read_dir(scene.directory().join("state")).unwrap().count(), 0);
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!((code, said.contains("eth0")), (Some(0), false), "{said}");
}

/// Promise `clean`.
#[test]
fn clean_refuses_directory_writable_by_others() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let state = scene.directory().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o777)).unwrap();
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&*state.to_string_lossy()), "{said}");

    let (code, said) = outcome(clean(&scene).env("SUDO_UID", "1000"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--state-dir") && said.contains("1000"), "{said}");
}

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(Bin::find("iou-fast").unwrap());
    command.args(["lab", "--routers", "2", "--rounds", "1"]).args(arguments);
    command
}

/// Promise `clean`.
#[test]
fn clean_removes_killed_lab() {
    let scene = Scene::new();
    let mut killed = Process::spawn(&mut lab(&["--duration", "100"])).unwrap();
    killed.wait_for_line(|line| line.contains("6 of 6"), LONG).unwrap();
    let pid = killed.pid();
    let namespaces = [0, 1].map(|n| format!("/run/netns/iouf-{pid}-{n}-{}", ["wire", "host"][n]));
    let directory = format!("/run/iou-lab/.{pid}");
    let exist = || namespaces.iter().chain([&directory]).filter(|path| Path::new(path).exists()).count();
    assert_eq!(exist(), 3);
    killed.signal(Signal::KILL);
    killed.wait(SOON).unwrap();
    assert_eq!(exist(), 3);
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!((code, exist()), (Some(0), 0), "{said}");
    // Another test's lab may have found them first.
    assert!(
        said.contains(&format!("namespace iouf-{pid}-0-wire: removed")) || said.contains("nothing"),
        "{said}"
    );
}

/// Promise `clean`.
#[test]
fn clean_leaves_running_lab_alone() {
    let scene = Scene::new();
    let name = format!("iou-lab-clean{}", std::process::id());
    let (code, said) = outcome(&mut lab(&["--keep", "--name", &name]));
    assert_eq!(code, Some(0), "{said}");
    let directory = format!("/run/iou-lab/{name}");
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("lab {name} is up and stays")) && Path::new(&directory).exists(),
        "{said}"
    );

    let pids = std::fs::read_to_string(format!("{directory}/pids")).unwrap();
    for pid in pids.lines() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    let (code, said) = outcome(&mut clean(&scene));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("lab {name}, whose processes have ended: removed")), "{said}");
    assert!(!Path::new(&directory).exists() && !testbed::namespace_exists(&format!("{name}-host")));
}
