//! How soon frames flow again. These run one at a time.

use super::*;

/// Promise `nic-replaced` (Faults): A NIC that is removed, renamed or moved away and comes back is attached
/// again within a second, with all that was learned.
#[test]
fn nic_removed_and_back_is_attached_again() {
    the_nic_is_lost_and_regained(&[], VethOptions::default(), remove, Lab::make_nics, "eth0 is gone");
}

/// Promise `nic-replaced`.
#[test]
fn nic_removed_and_back_with_two_workers_and_queues() {
    let options = VethOptions { queues_rx: 2, queues_tx: 2, ..VethOptions::default() };
    the_nic_is_lost_and_regained(&["--cpus", "0,1"], options, remove, Lab::make_nics, "eth0 is gone");
}

/// Promise `nic-replaced`.
#[test]
fn nic_removed_and_back_in_generic_mode() {
    let generic = ["--xdp-mode", "generic"];
    the_nic_is_lost_and_regained(&generic, VethOptions::default(), remove, Lab::make_nics, "eth0 is gone");
}

/// Promise `nic-replaced`.
#[test]
fn nic_renamed_is_detached_until_name_returns() {
    the_nic_is_lost_and_regained(
        &[],
        VethOptions::default(),
        |lab| {
            for step in ["link set eth0 down", "link set eth0 name other0", "link set other0 up"] {
                lab.scene.host.ip(step).unwrap();
            }
            lab.wait_until_said("eth0 is called other0 now", 1);
            let given_back = wait_until(WAIT, || {
                let shown = link(&lab.scene.host, "other0");
                shown.contains("promiscuity 0 ") && !shown.contains("xdp")
            });
            assert!(given_back, "{}", link(&lab.scene.host, "other0"));
        },
        |lab| {
            for step in ["link set other0 down", "link set other0 name eth0", "link set eth0 up"] {
                lab.scene.host.ip(step).unwrap();
            }
        },
        "eth0 is called other0 now",
    );
}

/// Promise `nic-replaced`.
#[test]
fn nic_moved_to_namespace_and_back() {
    let elsewhere = Namespace::new("elsewhere").unwrap();
    the_nic_is_lost_and_regained(
        &[],
        VethOptions::default(),
        |lab| {
            lab.scene.host.ip(&format!("link set eth0 netns {}", elsewhere.name())).unwrap();
            elsewhere.ip("link set eth0 up").unwrap();
            let given_back = wait_until(WAIT, || !link(&elsewhere, "eth0").contains("xdp"));
            assert!(given_back, "{}", link(&elsewhere, "eth0"));
            assert!(link(&elsewhere, "eth0").contains("promiscuity 0 "), "{}", link(&elsewhere, "eth0"));
            // It took its settings along: they cannot be restored from outside.
            elsewhere.run("ethtool", ["-K", "eth0", "rxvlan", "on", "rx-vlan-stag-hw-parse", "on"]).unwrap();
        },
        |lab| {
            elsewhere.ip(&format!("link set eth0 netns {}", lab.scene.host.name())).unwrap();
            lab.scene.host.ip("link set eth0 up").unwrap();
            lab.scene.silence(&["eth0"]);
        },
        "eth0 is gone",
    );
}
