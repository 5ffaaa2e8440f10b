//! Real routing protocols through the real program: FRR on the wire, FRR behind TAP routers.
//!
//! ```text
//!   namespace "wire"          namespace "host"                                  namespace "router1"
//!   FRR on eth0 ── veth ── eth0 ◄─ iou-fast ─► netio directory ◄─ iou-fast sim --tap ─► FRR on eth0
//! ```

mod measured;

use crate::common::{Running, SOON, Scene, Strain, router_mac};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use testbed::{Frr, Namespace, Process, Station, Trunk, wait_until};

/// The wire's number; TAP routers have 1 and 2. Number N is 10.10.100.N and fd00:10::100:N on eth0, and 10.255.0.N on
/// lo.
const WIRE: u16 = 9;
/// For protocols to converge, on a machine that is busy with other tests.
const CONVERGED: Duration = Duration::from_secs(90);

/// A kernel with a TAP device as its eth0.
struct TapRouter {
    namespace: Namespace,
    sim: Process,
}

/// A LAN of the wire and routers behind TAP devices. Everything goes when it is dropped.
struct Lan {
    iou_fast: Running,
    routers: Vec<TapRouter>,
    scene: Scene,
}

impl Lan {
    /// Ids 1 to `taps` are behind TAP devices, the ids of `others` are in NETMAP.
    fn new(taps: u16, others: std::ops::Range<u16>) -> Self {
        let scene = Scene::new();
        let lines = (1..=taps).chain(others).map(|id| format!("{id}:0/0 600:{}/{}\n", id / 16, id % 16));
        scene.netmap(&lines.collect::<String>());
        addresses(&scene.wire, WIRE);
        let router = |id: u16| {
            let namespace = Namespace::new(&format!("router{id}")).unwrap();
            let sim = scene.simulate(&id.to_string(), &["--tap", "eth0", "--netns", namespace.name()]);
            addresses(&namespace, id);
            TapRouter { namespace, sim }
        };
        let routers = (1..=taps).map(router).collect();
        Self { iou_fast: scene.start(&["-i", "eth0", "-p", "600"]), routers, scene }
    }

    fn wire(&self) -> &Namespace {
        &self.scene.wire
    }

    fn router(&self, id: u16) -> &Namespace {
        &self.routers[usize::from(id) - 1].namespace
    }

    /// The namespaces with their numbers, the wire first.
    fn all(&self) -> impl Iterator<Item = (u16, &Namespace)> {
        let routers = self.routers.iter().zip(1..).map(|(router, id)| (id, &router.namespace));
        [(WIRE, self.wire())].into_iter().chain(routers)
    }

    /// The same daemons everywhere; `configs` makes those of number N.
    fn start_frr(&self, configs: impl Fn(u16) -> Vec<(&'static str, String)>) -> Vec<Frr> {
        let start = |(number, namespace): (u16, &Namespace)| {
            let configs = configs(number);
            let configs: Vec<_> = configs.iter().map(|(name, config)| (*name, config.as_str())).collect();
            Frr::start(namespace, &configs).unwrap()
        };
        self.all().map(start).collect()
    }

    /// Ends everything; nothing may be lost but what the kernels still said to each other at the end.
    fn stop(self, frr: Vec<Frr>) {
        drop(frr);
        let mut summary = self.iou_fast.stop();
        summary.dropped.retain(|(reason, _)| reason != "stopped");
        summary.assert_clean();
        for mut router in self.routers {
            router.sim.stop(SOON).unwrap();
            let report = router.sim.stdout();
            assert!(
                report.contains(" wrong_id=0 wrong_interface=0 wrong_source=0 wrong_type=0 "),
                "{report}"
            );
        }
    }
}

fn addresses(namespace: &Namespace, number: u16) {
    namespace.ip(&format!("addr add 10.10.100.{number}/16 dev eth0")).unwrap();
    namespace.ip(&format!("addr add fd00:10::100:{number}/64 dev eth0")).unwrap();
    namespace.ip(&format!("addr add 10.255.0.{number}/32 dev lo")).unwrap();
    namespace.ip(&format!("addr add fd00:255::{number}/128 dev lo")).unwrap();
}

/// Pings `to` from `from` until one answer comes.
fn ping(namespace: &Namespace, from: &str, to: &str) {
    let ping = || namespace.run("ping", ["-c1", "-W1", "-I", from, to]);
    assert!(wait_until(SOON, || ping().is_ok()), "{}", ping().unwrap_err());
}

fn ospf(number: u16) -> (&'static str, String) {
    let config = format!(
        "interface eth0\n ip ospf area 0\n ip ospf hello-interval 1\n ip ospf dead-interval 8\n\
         interface lo\n ip ospf area 0\n\
         router ospf\n ospf router-id 10.255.0.{number}\n timers throttle spf 10 100 1000\n"
    );
    ("ospfd", config)
}

/// Waits until the router of `frr` is Full with `neighbour`.
fn ospf_full(frr: &Frr, neighbour: u16) {
    let id = format!("10.255.0.{neighbour}");
    frr.wait("ospfd", "show ip ospf neighbor json", CONVERGED, |answer| {
        answer["neighbors"][&id][0]["converged"] == "Full"
    })
    .unwrap();
}

/// Waits until `frr` has a route of `protocol` to `prefix` in the kernel's table.
fn route(frr: &Frr, protocol: &str, prefix: &str) {
    let command = format!("show {} route json", if prefix.contains("::") { "ipv6" } else { "ip" });
    let installed = |answer: &serde_json::Value| {
        let mut routes = answer[prefix].as_array().into_iter().flatten();
        routes.any(|route| route["protocol"] == protocol && route["installed"] == true)
    };
    frr.wait("zebra", &command, CONVERGED, installed).unwrap();
}

/// Promise `ospf` (Protocols): OSPFv2 and OSPFv3 become Full, and their routes work.
#[test]
fn ospf_reaches_full() {
    let lan = Lan::new(1, 0..0);
    let frr = lan.start_frr(|number| vec![ospf(number)]);
    let [wire, router] = &frr[..] else { unreachable!() };
    ospf_full(wire, 1);
    ospf_full(router, WIRE);
    route(wire, "ospf", "10.255.0.1/32");
    route(router, "ospf", "10.255.0.9/32");
    ping(lan.wire(), "10.255.0.9", "10.255.0.1");
    ping(lan.router(1), "10.255.0.1", "10.255.0.9");
    lan.stop(frr);
}

/// Promise `ospf`.
#[test]
fn ospfv3_reaches_full() {
    let lan = Lan::new(1, 0..0);
    let frr = lan.start_frr(|number| {
        let config = format!(
            "interface eth0\n ipv6 ospf6 area 0\n ipv6 ospf6 hello-interval 1\n ipv6 ospf6 dead-interval 8\n\
             interface lo\n ipv6 ospf6 area 0\n\
             router ospf6\n ospf6 router-id 10.255.0.{number}\n"
        );
        vec![("ospf6d", config)]
    });
    for (frr, neighbour) in frr.iter().zip([1, WIRE]) {
        frr.wait("ospf6d", "show ipv6 ospf6 neighbor json", CONVERGED, |answer| {
            let mut neighbours = answer["neighbors"].as_array().into_iter().flatten();
            let id = format!("10.255.0.{neighbour}");
            neighbours.any(|one| one["neighborId"] == id.as_str() && one["state"] == "Full")
        })
        .unwrap();
        route(frr, "ospf6", &format!("fd00:255::{neighbour}/128"));
    }
    ping(lan.wire(), "fd00:255::9", "fd00:255::1");
    lan.stop(frr);
}

/// IS-IS has no IP: LLC frames to 01:80:c2:00:00:15, the hellos padded to the MTU so that no neighbour comes up over
/// a link that carries less.
///
/// Promise (Protocols): IS-IS comes up with hellos padded to the MTU.
#[test]
fn isis_up_with_padded_hellos() {
    let lan = Lan::new(1, 0..0);
    let mut station = Station::new(lan.wire(), "eth0").unwrap();
    let frr = lan.start_frr(|number| {
        let config = format!(
            "interface eth0\n ip router isis x\n isis circuit-type level-2-only\n isis hello-interval 1\n\
             interface lo\n ip router isis x\n isis passive\n\
             router isis x\n net 49.0001.0000.0000.{number:04}.00\n is-type level-2-only\n"
        );
        vec![("isisd", config)]
    });
    for (frr, neighbour) in frr.iter().zip([1, WIRE]) {
        let up = || frr.show("isisd", "show isis neighbor").unwrap();
        assert!(wait_until(CONVERGED, || up().contains(" Up ")), "{}\n{frr:?}", up());
        route(frr, "isis", &format!("10.255.0.{neighbour}/32"));
    }
    ping(lan.wire(), "10.255.0.9", "10.255.0.1");
    let hello = station
        .recv_where(SOON, |frame| frame[6..12] == router_mac(1, 0, 0) && frame[14..17] == [0xfe, 0xfe, 3]);
    assert_eq!(hello.expect("a hello on the wire").len(), 1514);
    lan.stop(frr);
}

/// Promise (Protocols): LDP becomes operational.
#[test]
fn ldp_operational() {
    let lan = Lan::new(1, 0..0);
    let frr = lan.start_frr(|number| {
        let config = format!(
            "mpls ldp\n router-id 10.10.100.{number}\n address-family ipv4\n  \
             discovery transport-address 10.10.100.{number}\n  discovery hello interval 1\n  interface eth0\n"
        );
        vec![("ldpd", config)]
    });
    for (frr, neighbour) in frr.iter().zip([1, WIRE]) {
        frr.wait("ldpd", "show mpls ldp neighbor json", CONVERGED, |answer| {
            let mut neighbours = answer["neighbors"].as_array().into_iter().flatten();
            let id = format!("10.10.100.{neighbour}");
            neighbours.any(|one| one["neighborId"] == id.as_str() && one["state"] == "OPERATIONAL")
        })
        .unwrap();
    }
    lan.stop(frr);
}

/// Promise (Protocols): EIGRP neighbours exchange their routes.
#[test]
fn eigrp_exchanges_routes() {
    let lan = Lan::new(1, 0..0);
    let frr = lan.start_frr(|_| {
        vec![("eigrpd", "router eigrp 1\n network 10.10.0.0/16\n network 10.255.0.0/16\n".into())]
    });
    for (frr, neighbour) in frr.iter().zip([1, WIRE]) {
        let neighbours = || frr.show("eigrpd", "show ip eigrp neighbors").unwrap();
        let address = format!("10.10.100.{neighbour} ");
        assert!(wait_until(CONVERGED, || neighbours().contains(&address)), "{}\n{frr:?}", neighbours());
        let topology = || frr.show("eigrpd", "show ip eigrp topology").unwrap();
        let prefix = format!("10.255.0.{neighbour}/32");
        assert!(wait_until(CONVERGED, || topology().contains(&prefix)), "{}\n{frr:?}", topology());
    }
    lan.stop(frr);
}

/// Promise (Protocols): BFD comes up over IPv4 and IPv6.
#[test]
fn bfd_up_over_ipv4_and_ipv6() {
    let lan = Lan::new(1, 0..0);
    let frr = lan.start_frr(|number| {
        let peer = if number == WIRE { 1 } else { WIRE };
        let timers = "transmit-interval 100\n  receive-interval 100\n  detect-multiplier 10";
        let session = |peer| format!(" peer {peer}\n  {timers}\n");
        vec![(
            "bfdd",
            format!(
                "bfd\n{}{}",
                session(format!("10.10.100.{peer}")),
                session(format!("fd00:10::100:{peer} local-address fd00:10::100:{number}"))
            ),
        )]
    });
    for frr in &frr {
        frr.wait("bfdd", "show bfd peers json", CONVERGED, |answer| {
            let peers = answer.as_array().unwrap();
            peers.len() == 2 && peers.iter().all(|peer| peer["status"] == "up")
        })
        .unwrap();
    }
    lan.stop(frr);
}

/// Both ends advertise a network of their own. Each gives itself an address in the other's, by advertisements to a group
/// alone, and reaches the other from there by neighbour discovery.
///
/// Promise (Protocols): IPv6 router advertisements and neighbour discovery work in both directions.
#[test]
fn ipv6_router_advertisements_in_both_directions() {
    let lan = Lan::new(1, 0..0);
    for (_, namespace) in lan.all() {
        namespace.sysctl("net.ipv6.conf.eth0.accept_ra", "2").unwrap();
        namespace.sysctl("net.ipv6.conf.eth0.autoconf", "1").unwrap();
    }
    let frr = lan.start_frr(|number| {
        let config = format!(
            "interface eth0\n ipv6 address fd00:7{number}::{number}/64\n no ipv6 nd suppress-ra\n \
             ipv6 nd ra-interval 3\n ipv6 nd prefix fd00:7{number}::/64\n"
        );
        vec![("zebra", config)]
    });
    for ((number, namespace), other) in lan.all().zip([1, WIRE]) {
        let mut shown = String::new();
        let mut address = None;
        let configured = wait_until(CONVERGED, || {
            let output = namespace.ip("-6 -o addr show dev eth0 scope global dynamic").unwrap().stdout;
            shown = String::from_utf8_lossy(&output).into_owned();
            let prefix = format!("fd00:7{other}:");
            let words = || shown.split_whitespace();
            let own = words().find(|word| word.starts_with(&prefix)).filter(|_| !shown.contains("tentative"));
            address = own.and_then(|own| own.split('/').next()).map(str::to_owned);
            address.is_some()
        });
        assert!(configured, "number {number}: {shown}\n{frr:?}");
        ping(namespace, &address.unwrap(), &format!("fd00:7{other}::{other}"));
        let routes = namespace.ip("-6 route show default").unwrap().stdout;
        let routes = String::from_utf8_lossy(&routes).into_owned();
        assert!(routes.contains("via fe80::") && routes.contains("proto ra"), "{routes}");
    }
    lan.stop(frr);
}

/// Sessions that the router of `frr` has lost so far.
fn bfd_losses(frr: &Frr) -> u64 {
    let counters = frr.json("bfdd", "show bfd peers counters json").unwrap();
    let peers = counters.as_array().unwrap();
    peers.iter().map(|peer| peer["session-down"].as_u64().unwrap()).sum()
}

fn bfd_up(frr: &Frr, count: usize) {
    frr.wait("bfdd", "show bfd peers json", CONVERGED, |answer| {
        let peers = answer.as_array().unwrap();
        peers.len() == count && peers.iter().all(|peer| peer["status"] == "up")
    })
    .unwrap();
}
