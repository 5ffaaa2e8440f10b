//! `--log-format`: what a person and what a program reads of the same events.

use crate::common::{SOON, Scene};
use serde_json::{Map, Value};
use testbed::{Router, VethOptions, wait_until};

/// Takes a lab with router 1 on eth0 through events of NIC, router and NETMAP; returns the log.
fn log(options: &[&str]) -> String {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n");
    let lab = scene.netmap_file().parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let iou_fast = scene.start(&[&["-i", "eth0"], options].concat());
    let log = || iou_fast.process.stderr();
    let wait_for = |text: &str| assert!(wait_until(SOON, || log().contains(text)), "{text}\n{}", log());
    let router = Router::new(&scene.netio(), 1).unwrap();
    wait_for("connected");
    scene.host.ip("link set eth0 down").unwrap();
    wait_for("down; frames from the routers are dropped");
    scene.netmap("1:0/0 513:0/0\n1:0/1 513:0/0\n");
    wait_for("NETMAP reload failed");
    scene.netmap("1:0/0 513:0/0\n2:0/0 514:0/0\n");
    wait_for("NETMAP reloaded: added 2:0/0 via 514:0/0 on eth0");
    drop(router);
    let log = log();
    iou_fast.stop();
    log.replace(&lab, "LAB")
}

/// The object of each line.
fn objects(log: &str) -> Vec<Map<String, Value>> {
    let parse = |line: &str| match serde_json::from_str(line) {
        Ok(Value::Object(object)) => object,
        other => panic!("{line}: {other:?}"),
    };
    log.lines().map(parse).collect()
}

#[test]
fn log_format_json_is_an_object_per_line_with_nic_router_and_lab() {
    let log = log(&["--log-format", "json"]);
    let objects = objects(&log);
    for object in &objects {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        assert!(text("timestamp").starts_with("20") && text("timestamp").ends_with('Z'), "{object:?}");
        assert!(
            ["ERROR", "WARN", "INFO"].contains(&text("level")) && !text("message").is_empty(),
            "{object:?}"
        );
    }
    let find = |key: &str, message: &str| {
        let about = objects.iter().find(|object| object["message"].as_str().unwrap().starts_with(message));
        let object = about.unwrap_or_else(|| panic!("{message}\n{log}"));
        object.get(key).and_then(Value::as_str).map(str::to_owned)
    };
    assert_eq!(find("router", "connected").as_deref(), Some("1"));
    assert_eq!(find("lab", "connected").as_deref(), Some("LAB"));
    assert_eq!(find("nic", "connected"), None);
    assert_eq!(find("nic", "down; frames").as_deref(), Some("eth0"));
    assert_eq!(find("lab", "NETMAP reload failed").as_deref(), Some("LAB"));
    assert_eq!(find("level", "NETMAP reload failed").as_deref(), Some("ERROR"));
    // What is no event is an object as well.
    assert_eq!(find("level", "pseudo ids inferred from").as_deref(), Some("INFO"));
}

#[test]
fn log_format_text_puts_nic_and_router_in_front() {
    let log = log(&[]);
    let has = |end: &str| log.lines().any(|line| line.ends_with(end));
    assert!(has(" INFO router 1 connected"), "{log}");
    assert!(has(" WARN eth0: down; frames from the routers are dropped until it is up"), "{log}");
    assert!(has(" INFO NETMAP reloaded: added 2:0/0 via 514:0/0 on eth0"), "{log}");
    assert!(!log.contains("nic=") && !log.contains("router=") && !log.contains("LAB\""), "{log}");
}

#[test]
fn log_format_json_holds_for_a_start_that_fails() {
    let scene = Scene::silent(&["eth0"], &VethOptions::default());
    scene.netmap("1:0/0 513:0/0\n");
    let output = scene.command(&["-i", "eth7", "--log-format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    let last = objects(&log).pop().unwrap();
    assert_eq!(last["level"], "ERROR");
    let message = last["message"].as_str().unwrap();
    assert!(message.starts_with("iou-fast: no network interface \"eth7\" here"), "{message}");
}
