//! NETMAP files: read, written again, pseudo ids inferred, hosts classified, a plan made. Input: the file.
//!
//! Promise `hostile-input` (Memory): No input makes its reader fail, lose a frame or touch memory that is not
//! its own: NETMAPs, datagrams, frames, rings, control input, learned addresses.
#![no_main]

use iou_fast::iou::lock::Holder;
use iou_fast::netmap::hosts::{self, Place, Resolver};
use iou_fast::netmap::infer::{IdState, PseudoIds, infer};
use iou_fast::netmap::{Error, Netmap, ranges};
use iou_fast::plan::{Binding, Choice, LabRequest, Plan};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fuzz_target!(|text: &[u8]| -> Corpus {
    let file = Path::new("NETMAP");
    let netmap = match Netmap::parse(text, file) {
        Ok(netmap) => netmap,
        Err(Error::Faults(faults)) => {
            assert!(!faults.faults.is_empty());
            assert!(
                faults.faults.windows(2).all(|pair| pair[0].line < pair[1].line),
                "once a line, in order"
            );
            assert!(faults.faults.iter().all(|fault| fault.column > 0 && fault.text.len() < 2000));
            assert!(!faults.to_string().chars().any(|c| c.is_control() && c != '\n'), "fit for a terminal");
            return Corpus::Keep;
        }
        Err(error) => panic!("{error}"),
    };
    let ends = |netmap: &Netmap| -> Vec<Vec<_>> {
        let line = |entry: &iou_fast::netmap::Line| {
            entry.ends.iter().map(|end| (end.endpoint, end.host.clone())).collect()
        };
        netmap.lines.iter().map(line).collect()
    };
    let again = Netmap::parse(netmap.to_string().as_bytes(), file).expect("what is written can be read");
    assert_eq!(ends(&netmap), ends(&again));

    let in_use = |n: u16| n % 7 == 0;
    let inferred = infer(&netmap, file, |id| match id.get() {
        n if in_use(n) => IdState::Locked(Holder { pid: Some(1), command: None }),
        _ => IdState::Free,
    });
    let pseudo = match inferred {
        Ok(inferred) => {
            assert!(inferred.ids.iter().all(|id| !in_use(id.get()) && netmap.ids().contains(id)));
            assert_eq!(
                ranges(&inferred.ids).parse::<PseudoIds>().map(|ids| ids.0).ok(),
                Some(inferred.ids.clone())
            );
            inferred.ids
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            netmap.ids().into_iter().filter(|id| id.get() % 2 == 1).collect()
        }
    };

    // Each name is looked up by a thread of its own: a few will do.
    let names: HashSet<_> =
        netmap.lines.iter().flat_map(|s| &s.ends).filter_map(|end| end.host.clone()).collect();
    let remote = if names.len() <= 3 {
        let hosts = hosts::classify(&netmap, file, Arc::new(ByLength), Duration::from_secs(10));
        for (entry, end) in hosts.remote.keys() {
            assert!(netmap.lines[*entry].ends[*end].host.is_some());
            assert!(matches!(hosts.place(*entry, *end), Place::Remote(_)));
        }
        hosts.remote.into_keys().collect()
    } else {
        HashSet::new()
    };

    let first = pseudo.first().copied();
    for (workers, second) in [(1, None), (3, first)] {
        let mut bindings = vec![Binding { nic: "eth0".into(), choice: None }];
        bindings.extend(
            second.map(|id| Binding { nic: "eth1".into(), choice: Some(vec![Choice::Instance(id)]) }),
        );
        let lab = LabRequest {
            netmap: netmap.clone(),
            file: file.into(),
            netio: "/tmp/netio1000".into(),
            uid: 1000,
            pseudo: pseudo.clone(),
            remote: remote.clone(),
        };
        match Plan::new(&[lab], &bindings, workers, None) {
            Ok(plan) => check(&plan),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    Corpus::Keep
});

/// What the rest of the program relies on.
fn check(plan: &Plan) {
    for (index, port) in plan.ports.numbered() {
        let link = &plan.links[port.link];
        assert_eq!(
            (port.to_router.destination(), port.to_router.source()),
            (Some(port.endpoint), Some(link.endpoint))
        );
        assert_eq!(
            (port.from_router.destination(), port.from_router.source()),
            (Some(link.endpoint), Some(port.endpoint))
        );
        assert!(link.ports.contains(&index) && plan.lans[link.lan].ports.contains(&index));
        assert!(port.split_horizon.is_sorted() && port.split_horizon.binary_search(&index).is_ok());
        assert!(
            port.split_horizon
                .iter()
                .all(|other| plan.ports[*other].split_horizon.binary_search(&index).is_ok())
        );
        assert!(
            link.ports.iter().all(|other| port.split_horizon.binary_search(other).is_ok()),
            "one line, so they hear each other"
        );
        assert_eq!(plan.routers[port.router].id, port.endpoint.id);
        assert!(plan.routers[port.router].worker < plan.workers);
        assert_eq!(plan.bridge_port(index).header, port.to_router);
    }
    let mut headers = HashSet::new();
    assert!(plan.ports.iter().all(|port| headers.insert(port.from_router)), "a datagram has one source");
    for pseudo in &plan.pseudos {
        assert!(pseudo.worker < plan.workers && !pseudo.links.is_empty());
    }
    for lan in &plan.lans {
        assert!(!lan.ports.is_empty());
    }
}

/// A resolver without a network: what a name is depends on its length.
struct ByLength;

impl Resolver for ByLength {
    fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match host.len() % 4 {
            0 => Err(io::Error::other("no such host")),
            1 => Ok(Vec::new()),
            n => Ok(vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, n as u8))]),
        }
    }

    fn is_own_name(&self, host: &str) -> bool {
        host.len() == 9
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))
    }
}
