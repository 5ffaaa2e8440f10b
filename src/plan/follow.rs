//! A NETMAP that changed: the new plan is numbered like the one that runs, so that what is in both keeps its place.
//!
//! Frames under way bear the number of their router, BPF entries and the forwarding database those of ports, workers'
//! tables those of pseudo instances. What the new file no longer has stays in the list as *retired*: nothing refers to
//! it. Routers and pseudo instances keep their number for ever (a lab has 1024 at most) and get it back when they
//! return; that of a retired port or link may go to another one at a later change, so that no list grows without bound.

use super::{Error, Link, Plan, Port, Pseudo, Router};
use crate::ids::{Id, IdVec, MAX_ROUTERS, PortId};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

/// More interfaces than this are counted in a message, not named.
const NAMED: usize = 12;

/// What a change of the NETMAP came to: ports by name, `1:0/0 via 513:0/0 on eth0`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Ports that are new.
    pub added: Vec<String>,
    /// Ports that are gone.
    pub removed: Vec<String>,
    /// Ports that stay, but are in another split-horizon group.
    pub regrouped: Vec<String>,
}

impl Plan {
    /// This plan with the numbers of `before`, which it is to replace.
    ///
    /// # Errors
    /// [`Error::TooMany`], if the routers that there were and those that there are cannot all be numbered.
    pub fn following(self, before: &Self) -> Result<Self, Error> {
        let routers = {
            let key = |router: &Router| (router.lab, router.id);
            let known = before.routers.iter().map(|router| (key(router), false));
            numbers(known, self.routers.iter().map(key))
        };
        let pseudos = {
            let key = |pseudo: &Pseudo| (pseudo.lab, pseudo.id);
            let known = before.pseudos.iter().map(|pseudo| (key(pseudo), false));
            numbers(known, self.pseudos.iter().map(key))
        };
        let links = {
            let known = before.links.iter().map(|link| (before.link_key(link), !link.live));
            numbers(known, self.links.iter().map(|link| self.link_key(link)))
        };
        let ports = {
            let known = before.ports.iter().map(|port| (before.port_key(port), !port.live));
            numbers(known, self.ports.iter().map(|port| self.port_key(port)))
        };
        let Self { workers, labs, mut lans, notes, .. } = self;
        for lan in &mut lans {
            lan.links = renumbered(&links, &lan.links);
            lan.ports = renumbered(&ports, &lan.ports);
            lan.flood = lan.flood.map(|port| ports[port]);
        }
        let retired = before.pseudos.iter().cloned();
        let retired = retired.map(|pseudo| Pseudo { links: Vec::new(), live: false, ..pseudo });
        let now = self.pseudos.into_iter();
        let now = now.map(|pseudo| Pseudo { links: renumbered(&links, &pseudo.links), ..pseudo });
        let pseudos_placed = placed(retired, now, &pseudos);

        let retired = before.links.iter().cloned();
        let retired = retired.map(|link| Link { ports: Vec::new(), live: false, ..link });
        let now = self.links.into_iter().map(|link| Link {
            pseudo: pseudos[link.pseudo],
            ports: renumbered(&ports, &link.ports),
            ..link
        });
        let links_placed = placed(retired, now, &links);

        let retired = before.ports.iter().cloned();
        let retired = retired.map(|port| Port { split_horizon: Vec::new(), live: false, ..port });
        let now = self.ports.into_iter().map(|port| {
            let mut split_horizon = renumbered(&ports, &port.split_horizon);
            split_horizon.sort_unstable();
            Port { router: routers[port.router], link: links[port.link], split_horizon, ..port }
        });
        let ports_placed = placed(retired, now, &ports);

        let retired = before.routers.iter().map(|router| Router { live: false, ..*router });
        let routers_placed = placed(retired, self.routers, &routers);
        if routers_placed.len() >= MAX_ROUTERS {
            return Err(Error::TooMany(routers_placed.len()));
        }
        let mut plan = Self {
            workers,
            labs,
            lans,
            pseudos: pseudos_placed.into_iter().collect(),
            links: links_placed.into_iter().collect(),
            ports: ports_placed,
            routers: routers_placed,
            notes,
        };
        // By number, and so every router and pseudo instance keeps its worker.
        plan.share_out();
        Ok(plan)
    }

    /// What is different from `before`, which this plan [follows](Self::following).
    #[must_use]
    pub fn changes(&self, before: &Self) -> Changes {
        let mut changes = Changes::default();
        for n in (0..self.ports.len().max(before.ports.len())).map(PortId::at) {
            let live = |plan: &Self| plan.ports.get(n.index()).is_some_and(|port| port.live);
            match (live(before), live(self)) {
                (false, true) => changes.added.push(self.port_name(n)),
                (true, false) => changes.removed.push(before.port_name(n)),
                (true, true) if self.ports[n].split_horizon != before.ports[n].split_horizon => {
                    changes.regrouped.push(self.port_name(n));
                }
                _ => {}
            }
        }
        changes
    }

    /// Port `port` for the log.
    fn port_name(&self, port: PortId) -> String {
        let Port { endpoint, link, .. } = self.ports[port];
        let Link { endpoint: via, lan, .. } = self.links[link];
        format!("{endpoint} via {via} on {}", self.lans[lan].nic)
    }

    fn link_key(&self, link: &Link) -> impl Eq + Hash + use<> {
        (self.pseudos[link.pseudo].lab, link.endpoint)
    }

    /// The header holds the endpoints at either side.
    fn port_key(&self, port: &Port) -> impl Eq + Hash + use<> {
        (self.routers[port.router].lab, port.to_router.0)
    }
}

impl Changes {
    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.regrouped.is_empty()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no link is different");
        }
        let parts = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("with another split-horizon group", &self.regrouped),
        ];
        let mut blank = "";
        for (what, ports) in parts.into_iter().filter(|(_, ports)| !ports.is_empty()) {
            write!(f, "{blank}{what} {}", ports[..ports.len().min(NAMED)].join(", "))?;
            if ports.len() > NAMED {
                write!(f, " and {} more", ports.len() - NAMED)?;
            }
            blank = "; ";
        }
        Ok(())
    }
}

/// The number of each of `now`: that of its like in `before`, else one that may be given to another (the second value
/// there), else a new one.
fn numbers<I: Id, K: Eq + Hash>(
    before: impl Iterator<Item = (K, bool)>,
    now: impl Iterator<Item = K>,
) -> IdVec<I, I> {
    let (mut known, mut free, mut next) = (HashMap::new(), Vec::new(), 0);
    for (number, (key, may_go)) in before.enumerate() {
        if may_go {
            free.push(number);
        }
        known.insert(key, number);
        next = number + 1;
    }
    let now: Vec<Option<usize>> = now.map(|key| known.get(&key).copied()).collect();
    let kept: HashSet<usize> = now.iter().flatten().copied().collect();
    let mut free = free.into_iter().filter(|number| !kept.contains(number));
    let mut new = || {
        free.next().unwrap_or_else(|| {
            next += 1;
            next - 1
        })
    };
    now.into_iter().map(|number| I::at(number.unwrap_or_else(&mut new))).collect::<Vec<_>>().into()
}

/// `before`, with each of `now` at its number.
fn placed<I: Id, T>(
    before: impl Iterator<Item = T>,
    now: impl IntoIterator<Item = T>,
    numbers: &IdVec<I, I>,
) -> IdVec<I, T> {
    let mut all: Vec<T> = before.collect();
    for (item, number) in now.into_iter().zip(numbers) {
        // New numbers follow each other.
        match all.get_mut(number.index()) {
            Some(place) => *place = item,
            None => all.push(item),
        }
    }
    all.into()
}

/// `list`, in the new numbers.
fn renumbered<I: Id>(numbers: &IdVec<I, I>, list: &[I]) -> Vec<I> {
    list.iter().map(|old| numbers[*old]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::LabRequest;
    use super::*;
    use crate::ids::RouterId;
    use crate::netmap::Netmap;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    const WORKERS: usize = 2;

    fn plan(netmap: &str) -> Plan {
        let file = Path::new("NETMAP");
        let netmap = Netmap::parse(netmap.as_bytes(), file).unwrap();
        let pseudo = netmap.ids().into_iter().filter(|id| id.get() > 512).collect();
        let netio = "/tmp/netio0".into();
        let lab = LabRequest { netmap, file: file.into(), netio, uid: 0, pseudo, remote: HashSet::new() };
        let bindings = ["eth0".parse().unwrap(), "eth1=530".parse().unwrap()];
        Plan::new(&[lab], &bindings, WORKERS, Some("8:0/0".parse().unwrap())).unwrap()
    }

    /// A line on either NIC that every file has.
    const STANDING: &str = "8:0/0 529:0/0\n9:0/0 530:0/0\n";

    fn with(lines: &str) -> Plan {
        plan(&format!("{STANDING}{lines}"))
    }

    #[test]
    fn what_stays_keeps_its_number_and_what_returns_gets_it_back() {
        let first = with("1:0/0 513:0/0\n2:0/0 514:0/0\n3:0/0 515:0/0");
        let second = with("4:0/0 516:0/0\n3:0/0 515:0/0").following(&first).unwrap();
        let changes = second.changes(&first);
        assert_eq!(changes.added, ["4:0/0 via 516:0/0 on eth0"]);
        assert_eq!(changes.removed, ["1:0/0 via 513:0/0 on eth0", "2:0/0 via 514:0/0 on eth0"]);
        assert_eq!(
            changes.to_string(),
            "added 4:0/0 via 516:0/0 on eth0; removed 1:0/0 via 513:0/0 on eth0, 2:0/0 via 514:0/0 on eth0"
        );
        assert_eq!(second.routers.iter().map(|r| r.id.get()).collect::<Vec<_>>(), [8, 9, 1, 2, 3, 4]);
        assert_eq!(
            second.routers.iter().map(|r| r.live).collect::<Vec<_>>(),
            [true, true, false, false, true, true]
        );
        let third = with("1:0/0 513:0/0\n3:0/0 515:0/0\n4:0/0 516:0/0").following(&second).unwrap();
        assert_eq!(third.ports[PortId::new(2)].endpoint.id.get(), 1);
        assert!(
            third.routers[RouterId::new(2)].live && third.pseudos[2].live && third.ports[PortId::new(2)].live
        );
        assert_eq!(third.routers.len(), 6);
    }

    #[test]
    fn a_router_that_joins_a_line_joins_its_split_horizon_group() {
        let first = with("1:0/0 513:0/0");
        let second = with("2:0/0 1:0/0 513:0/0").following(&first).unwrap();
        let changes = second.changes(&first);
        assert_eq!((changes.added.len(), changes.removed.len()), (1, 0));
        assert_eq!(changes.regrouped, ["1:0/0 via 513:0/0 on eth0"]);
        let [two, three] = [2, 3].map(PortId::new);
        assert_eq!(second.ports[two].split_horizon, [two, three]);
        assert_eq!(second.ports[three].split_horizon, [two, three]);
        assert_eq!(second.links[2].ports, [three, two]);
        assert!(with("1:0/0 513:0/0").following(&first).unwrap().changes(&first).is_empty());
    }

    #[test]
    fn many_changes_are_counted() {
        let lines: String = (1..=7)
            .flat_map(|id| (0..3).map(move |unit| (id, unit)))
            .map(|(id, unit)| format!("{id}:0/{unit} {}:0/{unit}\n", 512 + id))
            .collect();
        let first = with("");
        let text = with(&lines).following(&first).unwrap().changes(&first).to_string();
        assert!(text.starts_with("added 1:0/0 via 513:0/0 on eth0, "), "{text}");
        assert!(text.ends_with(" and 9 more"), "{text}");
    }

    /// Routers 1-6 with two interfaces each: the place of each among eight links, if any.
    fn wiring() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::option::of(0usize..8), 12).prop_map(|places| {
            let mut lines: BTreeMap<usize, String> = BTreeMap::new();
            for (n, place) in places.into_iter().enumerate() {
                if let Some(link) = place {
                    *lines.entry(link).or_default() += &format!("{}:0/{} ", 1 + n / 2, n % 2);
                }
            }
            let line = |(link, ends): (usize, String)| format!("{ends}{}:0/{}\n", 513 + link / 2, link % 2);
            // And some of them meet also where we are not.
            lines.into_iter().map(line).collect::<String>() + "1:0/0 2:0/0 3:0/1\n"
        })
    }

    /// Everything that `plan` says of what is live, by name.
    fn said(plan: &Plan) -> BTreeSet<String> {
        let mut said = BTreeSet::new();
        for lan in &plan.lans {
            said.insert(format!("{} floods to {:?}", lan.nic, lan.flood.map(|port| plan.port_name(port))));
            for (at, port) in lan.ports.iter().enumerate() {
                let Port { router, endpoint, link, to_router, from_router, split_horizon, live } =
                    &plan.ports[*port];
                let (
                    Router { id, lab, live: router_live, .. },
                    Link { endpoint: via, ports, line, live: link_live, pseudo, .. },
                ) = (&plan.routers[*router], &plan.links[*link]);
                let pseudo = &plan.pseudos[*pseudo];
                assert!(*live && *router_live && *link_live && pseudo.live);
                assert!(ports.contains(port) && lan.links.contains(link) && pseudo.links.contains(link));
                let near: Vec<String> = split_horizon.iter().map(|port| plan.port_name(*port)).collect();
                let near: BTreeSet<_> = near.into_iter().collect();
                said.insert(format!(
                    "{}: {at} {endpoint} of {lab}/{id} via {via} {} line {line} {to_router:?} {from_router:?} {near:?}",
                    lan.nic, pseudo.id
                ));
            }
        }
        said
    }

    proptest! {
        /// However often the file changes: the plan says what the file says; what is in both keeps its number; routers
        /// and pseudo instances keep theirs for ever, and their worker; nothing refers to what is retired.
        ///
        /// Promise `reload`.
        #[test]
        fn numbers_keep_their_meaning(files in prop::collection::vec(wiring(), 1..8)) {
            let mut running = with("");
            let mut routers: HashMap<_, usize> = HashMap::new();
            let mut pseudos: HashMap<_, usize> = HashMap::new();
            for file in files {
                let fresh = with(&file);
                let now = with(&file).following(&running).unwrap();
                prop_assert_eq!(said(&now), said(&fresh));
                for (n, port) in running.ports.numbered().filter(|(_, port)| port.live) {
                    let after = &now.ports[n];
                    prop_assert_eq!(after.to_router.0, port.to_router.0);
                    prop_assert!(after.router == port.router && (!after.live || after.link == port.link));
                }
                for (n, router) in now.routers.iter().enumerate() {
                    prop_assert_eq!(*routers.entry(router.id).or_insert(n), n);
                    prop_assert_eq!(router.worker, n % WORKERS);
                }
                for (n, pseudo) in now.pseudos.iter().enumerate() {
                    prop_assert_eq!(*pseudos.entry(pseudo.id).or_insert(n), n);
                    prop_assert_eq!(pseudo.worker, n % WORKERS);
                    prop_assert_eq!(pseudo.live, fresh.pseudos.iter().any(|other| other.id == pseudo.id));
                }
                let live = |plan: &Plan| plan.ports.iter().filter(|port| port.live).count();
                prop_assert_eq!(live(&now), fresh.ports.len());
                prop_assert_eq!(now.routers.iter().filter(|r| r.live).count(), fresh.routers.len());
                prop_assert_eq!(now.links.iter().filter(|l| l.live).count(), fresh.links.len());
                let referred: BTreeSet<PortId> = now.lans.iter().flat_map(|lan| lan.ports.iter().copied()).collect();
                for (n, port) in now.ports.numbered() {
                    prop_assert_eq!(referred.contains(&n), port.live);
                    prop_assert!(port.split_horizon.iter().all(|port| now.ports[*port].live));
                }
                // 12 interfaces and the two standing ones, of this file and of the one before.
                prop_assert!(now.ports.len() <= 2 * 14, "{} ports", now.ports.len());
                running = now;
            }
        }
    }
}
