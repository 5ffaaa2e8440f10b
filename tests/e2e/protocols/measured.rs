//! That BFD sees no pause of 150 ms, and how long a failover of VRRP takes. These run one at a time.

use super::*;

/// The address of a VRRP group, 10.10.100.254, belongs to a MAC address that follows from the group's number alone. It
/// is found by learning, and followed when the other router takes over.
///
/// Promise (Protocols): A VRRP address answers from the wire, and from its new owner within a second.
#[test]
fn vrrp_fails_over_between_routers() {
    const VIRTUAL: &str = "00:00:5e:00:01:0a";
    let mut lan = Lan::new(2, 0..0);
    for router in &lan.routers {
        let namespace = &router.namespace;
        // eth0 has another address in that network; it is not to answer, nor to ask, for the group.
        namespace.sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
        namespace.sysctl("net.ipv4.conf.all.arp_announce", "2").unwrap();
        namespace
            .ip(&format!("link add vrrp10 link eth0 address {VIRTUAL} type macvlan mode bridge"))
            .unwrap();
        namespace.ip("addr add 10.10.100.254/32 dev vrrp10").unwrap();
        namespace.ip("link set vrrp10 up").unwrap();
    }
    let frr: Vec<Frr> = lan
        .routers
        .iter()
        .zip([200, 100])
        .map(|(router, priority)| {
            let config = format!(
                "interface eth0\n vrrp 10 version 3\n vrrp 10 priority {priority}\n \
                 vrrp 10 advertisement-interval 100\n vrrp 10 ip 10.10.100.254\n"
            );
            Frr::start(&router.namespace, &[("vrrpd", &config)]).unwrap()
        })
        .collect();
    let becomes = |frr: &Frr, state: &str| {
        frr.wait("vrrpd", "show vrrp json", CONVERGED, |answer| answer[0]["v4"]["status"] == state).unwrap();
    };
    becomes(&frr[0], "Master");
    becomes(&frr[1], "Backup");
    ping(lan.wire(), "10.10.100.9", "10.10.100.254");
    let neighbour = lan.wire().ip("neigh show 10.10.100.254").unwrap().stdout;
    let neighbour = String::from_utf8_lossy(&neighbour);
    assert!(neighbour.contains(VIRTUAL), "{neighbour}");

    // The master's machine is gone. The wire keeps its ARP entry, and does not ask again. Its successor waits for three
    // advertisements and somewhat more, 0.4 s, before it takes over.
    let strain = Strain::measure();
    let start = Instant::now();
    lan.routers[0].sim.signal(testbed::Signal::KILL);
    let answers = || lan.scene.wire.run("ping", ["-c1", "-W0.1", "10.10.100.254"]).is_ok();
    assert!(wait_until(SOON, answers), "no answer from the new master");
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(1) + strain.sum(),
        "{took:?}, the machine paused for {:?}",
        strain.sum()
    );
    becomes(&frr[1], "Master");
    drop(frr);
    lan.iou_fast.stop();
}

/// One group in two VLANs at once: the same virtual MAC, active on one router in VLAN 10 and on the other in VLAN 20. In
/// VLAN N the wire has 10.20.N.9, the routers have 10.20.N.1 and .2, the group has .254.
///
/// Promise `virtual-address-per-vlan`.
#[test]
fn vrrp_group_per_vlan_fails_over_alone() {
    const VIRTUAL: &str = "00:00:5e:00:01:0a";
    const VLANS: [u16; 2] = [10, 20];
    let lan = Lan::new(2, 0..0);
    let trunks: Vec<Trunk> =
        lan.all().map(|(_, namespace)| Trunk::new(namespace, "eth0", &VLANS).unwrap()).collect();
    for (number, namespace) in lan.all() {
        // Several interfaces have an address in each network; only the one that is asked for answers and asks.
        namespace.sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
        namespace.sysctl("net.ipv4.conf.all.arp_announce", "2").unwrap();
        for vid in VLANS {
            namespace.ip(&format!("addr add 10.20.{vid}.{number}/24 dev eth0.{vid}")).unwrap();
            if number != WIRE {
                let group = format!("vrrp{vid}");
                let kind = "type macvlan mode bridge";
                namespace.ip(&format!("link add {group} link eth0.{vid} address {VIRTUAL} {kind}")).unwrap();
                namespace.ip(&format!("addr add 10.20.{vid}.254/32 dev {group}")).unwrap();
                namespace.ip(&format!("link set {group} up")).unwrap();
            }
        }
    }
    let frr: Vec<Frr> = lan
        .routers
        .iter()
        .zip([[200, 100], [100, 200]])
        .map(|(router, priorities)| {
            let interface = |(vid, priority)| {
                format!(
                    "interface eth0.{vid}\n vrrp 10 version 3\n vrrp 10 priority {priority}\n \
                     vrrp 10 advertisement-interval 100\n vrrp 10 ip 10.20.{vid}.254\n"
                )
            };
            let config: String = VLANS.into_iter().zip(priorities).map(interface).collect();
            Frr::start(&router.namespace, &[("vrrpd", &config)]).unwrap()
        })
        .collect();
    let becomes = |router: usize, vid: u16, state: &str| {
        let name = format!("eth0.{vid}");
        let is_so = |answer: &serde_json::Value| {
            let mut groups = answer.as_array().into_iter().flatten();
            groups.any(|group| group["interface"] == name.as_str() && group["v4"]["status"] == state)
        };
        frr[router - 1].wait("vrrpd", "show vrrp json", CONVERGED, is_so).unwrap();
    };
    for (router, vid, state) in [(1, 10, "Master"), (2, 10, "Backup"), (1, 20, "Backup"), (2, 20, "Master")] {
        becomes(router, vid, state);
    }
    for vid in VLANS {
        ping(lan.wire(), &format!("10.20.{vid}.9"), &format!("10.20.{vid}.254"));
        let neighbour = lan.wire().ip(&format!("neigh show 10.20.{vid}.254")).unwrap().stdout;
        let neighbour = String::from_utf8_lossy(&neighbour).into_owned();
        assert!(neighbour.contains(VIRTUAL), "{neighbour}");
    }

    // Router 1 loses VLAN 10, and gets it back. VLAN 20, of the same address, does not notice.
    let other = ["-q", "-i0.02", "-W5", "10.20.20.254"];
    let mut beside = Process::spawn(lan.wire().command("ping").args(other)).unwrap();
    for (what, master) in [("down", 2), ("up", 1)] {
        let strain = Strain::measure();
        let start = Instant::now();
        lan.router(1).ip(&format!("link set eth0.10 {what}")).unwrap();
        if what == "down" {
            let answers = || lan.wire().run("ping", ["-c1", "-W0.1", "10.20.10.254"]).is_ok();
            assert!(wait_until(SOON, answers), "no answer from the new master");
            let (took, paused) = (start.elapsed(), strain.sum());
            assert!(took < Duration::from_secs(1) + paused, "{took:?}, the machine paused for {paused:?}");
        }
        becomes(master, 10, "Master");
        ping(lan.wire(), "10.20.10.9", "10.20.10.254");
        becomes(2, 20, "Master");
    }
    becomes(2, 10, "Backup");
    beside.signal(testbed::Signal::INT);
    beside.wait(SOON).unwrap();
    let text = beside.stdout();
    assert!(text.contains(" 0% packet loss") && !text.contains("duplicates"), "{text}");
    drop((frr, trunks));
    lan.iou_fast.stop();
}

/// A classroom: fifty simulated routers and two with FRR, which is on the wire, too. OSPF converges, all reach all, and
/// then BFD, which counts a neighbour as dead after 150 ms, loses none in a minute of traffic.
///
/// Promise (Protocols): Fifty simulated routers and two with FRR converge with FRR on the wire, and BFD at
/// 3 x 50 ms stays up for a minute under load.
#[test]
fn bfd_does_not_flap_among_fifty_routers() {
    const MINUTE: Duration = Duration::from_secs(60);
    /// BFD's detection time less two packets: so long a pause of the machine itself may be what it detects.
    const STARVED: Duration = Duration::from_millis(50);
    let lan = Lan::new(2, 11..61);
    let mut simulated = lan.scene.simulate("11-60", &[]);
    let frr = lan.start_frr(|number| {
        let timers = "transmit-interval 50\n  receive-interval 50\n  detect-multiplier 3";
        let peers: &[u16] = if number == WIRE { &[1, 2] } else { &[WIRE] };
        let sessions = peers.iter().map(|peer| format!(" peer 10.10.100.{peer}\n  {timers}\n"));
        vec![ospf(number), ("bfdd", format!("bfd\n{}", sessions.collect::<String>()))]
    });
    let numbers = [WIRE, 1, 2];
    for (frr, own) in frr.iter().zip(numbers) {
        for other in numbers.into_iter().filter(|other| *other != own) {
            ospf_full(frr, other);
            route(frr, "ospf", &format!("10.255.0.{other}/32"));
        }
        bfd_up(frr, if own == WIRE { 2 } else { 1 });
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let strain = Strain::measure();
        let losses = || frr.iter().map(bfd_losses).sum::<u64>();
        let before = losses();
        let start = Instant::now();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Ten thousand frames a second to the simulated routers.
            scope.spawn(|| {
                let station = lan.scene.station();
                let frames: Vec<_> = (11..=60)
                    .map(|id| crate::common::plain(router_mac(id, 0, 0), [2, 0, 0, 0, 0, 9], 200, 0))
                    .collect();
                while !end.load(Relaxed) {
                    station.send_batch(&frames).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let all_converged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for (number, namespace) in lan.all() {
                    for other in numbers.into_iter().filter(|other| *other != number) {
                        ping(namespace, &format!("10.255.0.{number}"), &format!("10.255.0.{other}"));
                    }
                    for id in 11..=60 {
                        ping(namespace, &format!("10.10.100.{number}"), &format!("10.10.0.{}", id + 1));
                    }
                }
                std::thread::sleep(MINUTE.saturating_sub(start.elapsed()));
            }));
            end.store(true, Relaxed);
            all_converged.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        let lost = losses() - before;
        println!("{lost} sessions lost, the machine paused for {:?} at most", strain.longest());
        if lost == 0 {
            break;
        }
        assert!(strain.longest() > STARVED && tries < 3, "{lost} BFD sessions lost in try {tries}\n{frr:?}");
        frr.iter().zip(numbers).for_each(|(frr, own)| bfd_up(frr, if own == WIRE { 2 } else { 1 }));
    }
    simulated.stop(SOON).unwrap();
    drop(frr);
    lan.iou_fast.stop();
}
