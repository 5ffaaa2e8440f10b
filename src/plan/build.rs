//! Builds a plan from what is asked for, and refuses what cannot be.

use super::{Binding, Error, Lab, LabRequest, Lan, Link, Plan, Port, Pseudo, Router};
use crate::ether::Mac;
use crate::ids::{MAX_ROUTERS, MAX_WORKERS, PortId, RouterId, SegmentId};
use crate::iou::header::Header;
use crate::iou::mac;
use crate::iou::{Endpoint, InstanceId};
use crate::netmap::{End, Netmap};
use std::collections::{HashMap, HashSet};

impl Plan {
    /// Connects `labs` with the NICs of `bindings`, for `workers` workers.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        labs: &[LabRequest],
        bindings: &[Binding],
        workers: usize,
        flood: Option<Endpoint>,
    ) -> Result<Self, Error> {
        if workers > MAX_WORKERS {
            return Err(Error::TooManyWorkers(workers));
        }
        let mut plan = Self { workers, ..Self::default() };
        for binding in merged(bindings)? {
            plan.lans.push(Lan { nic: binding.nic, links: Vec::new(), ports: Vec::new(), flood: None });
        }
        for (index, lab) in labs.iter().enumerate() {
            plan.labs.push(Lab { netio: lab.netio.clone(), uid: lab.uid });
            plan.add_lab(index, lab, bindings)?;
        }
        if plan.routers.len() >= MAX_ROUTERS {
            return Err(Error::TooMany(plan.routers.len()));
        }
        let files = || labs.iter().map(|lab| lab.file.display().to_string()).collect::<Vec<_>>().join(", ");
        if let Some(lan) = plan.lans.iter().find(|lan| lan.ports.is_empty()) {
            return Err(Error::Empty { nic: lan.nic.clone(), file: files(), notes: plan.notes });
        }
        if let Some(endpoint) = flood {
            plan.set_flood(endpoint)?;
        }
        plan.check_doubles(labs)?;
        plan.check_macs()?;
        plan.share_out();
        Ok(plan)
    }

    fn add_lab(&mut self, lab: usize, request: &LabRequest, bindings: &[Binding]) -> Result<(), Error> {
        let file = request.file.display().to_string();
        let pseudo: HashSet<InstanceId> = request.pseudo.iter().copied().collect();
        let is_pseudo = |endpoint: &Endpoint| pseudo.contains(&endpoint.id);
        let ends = || request.netmap.lines.iter().flat_map(|line| &line.ends);
        let known: Vec<Endpoint> = ends().map(|end| end.endpoint).filter(is_pseudo).collect();
        check_choices(bindings, &known, &file)?;

        let mut line_of: HashMap<Endpoint, u32> = HashMap::new();
        let mut routers: HashMap<InstanceId, RouterId> = HashMap::new();
        let mut pseudos: HashMap<InstanceId, usize> = HashMap::new();
        for (line_index, line) in request.netmap.lines.iter().enumerate() {
            let mut ends = line.ends.iter().map(|end| end.endpoint).filter(is_pseudo);
            let Some(endpoint) = ends.next() else { continue };
            if let Some(second) = ends.next() {
                return Err(Error::TwoPseudo { file, line: line.line, first: endpoint, second });
            }
            if let Some(first) = line_of.insert(endpoint, line.line) {
                return Err(Error::TwoLines { file, endpoint, first, second: line.line });
            }
            let place = format!("{file}:{}", line.line);
            let remote = |index: usize, end: &End| {
                let host = end.host.as_deref().unwrap_or("?");
                let note =
                    || format!("{place}: {} is on host {host}: remote, and not yet carried", end.endpoint);
                request.remote.contains(&(line_index, index)).then(note)
            };
            // Its routers send to the forwarder of that host.
            let pseudo_end = line.ends.iter().enumerate().find(|(_, end)| end.endpoint == endpoint);
            if let Some(note) = pseudo_end.and_then(|(index, end)| remote(index, end)) {
                self.notes.push(note);
                continue;
            }
            let Some(lan) = self.lan_of(endpoint, bindings)? else {
                self.notes.push(format!("{place}: {endpoint} is bound to no NIC and is left alone"));
                continue;
            };
            let mut local = Vec::new();
            for (end_index, end) in line.ends.iter().enumerate() {
                if is_pseudo(&end.endpoint) {
                    continue;
                }
                match remote(end_index, end) {
                    Some(note) => self.notes.push(note),
                    None => local.push(end.endpoint),
                }
            }
            if local.is_empty() {
                if line.ends.len() == 1 {
                    self.notes.push(format!("{place}: {endpoint} has no router on its line"));
                }
                continue;
            }
            let pseudo = *pseudos.entry(endpoint.id).or_insert_with(|| {
                self.pseudos.push(Pseudo { lab, id: endpoint.id, worker: 0, links: Vec::new(), live: true });
                self.pseudos.len() - 1
            });
            let link = self.links.len();
            let mut ports = Vec::with_capacity(local.len());
            for router_end in local {
                let router = *routers.entry(router_end.id).or_insert_with(|| {
                    self.routers.push(Router { lab, id: router_end.id, worker: 0, live: true })
                });
                let port = self.ports.push(Port {
                    router,
                    endpoint: router_end,
                    link,
                    to_router: Header::data(router_end, endpoint),
                    from_router: Header::data(endpoint, router_end),
                    split_horizon: Vec::new(),
                    live: true,
                });
                ports.push(port);
                self.lans[lan].ports.push(port);
            }
            self.lans[lan].links.push(link);
            self.pseudos[pseudo].links.push(link);
            self.links.push(Link { pseudo, endpoint, lan, line: line.line, ports, live: true });
        }
        self.join_split_horizon_groups(lab, &request.netmap);
        Ok(())
    }

    /// Routers on a common line send each other their frames themselves, also where that line is none of ours.
    fn join_split_horizon_groups(&mut self, lab: usize, netmap: &Netmap) {
        let mut ports_of: HashMap<Endpoint, Vec<PortId>> = HashMap::new();
        for id in self.ports.ids() {
            let port = &mut self.ports[id];
            if self.routers[port.router].lab == lab {
                ports_of.entry(port.endpoint).or_default().push(id);
                port.split_horizon.push(id);
            }
        }
        for line in &netmap.lines {
            let on_line: Vec<PortId> =
                line.ends.iter().filter_map(|end| ports_of.get(&end.endpoint)).flatten().copied().collect();
            for port in &on_line {
                self.ports[*port].split_horizon.extend(&on_line);
            }
        }
        for port in &mut self.ports {
            port.split_horizon.sort_unstable();
            port.split_horizon.dedup();
        }
    }

    /// An interface on two links of one LAN would hear everything twice, and be heard twice.
    fn check_doubles(&self, labs: &[LabRequest]) -> Result<(), Error> {
        for lan in &self.lans {
            let mut line_of: HashMap<(usize, Endpoint), u32> = HashMap::new();
            for port in &lan.ports {
                let Port { router, endpoint, link, .. } = self.ports[*port];
                let (lab, second) = (self.routers[router].lab, self.links[link].line);
                if let Some(first) = line_of.insert((lab, endpoint), second) {
                    let file = labs[lab].file.display().to_string();
                    return Err(Error::Double { file, first, second, endpoint, nic: lan.nic.clone() });
                }
            }
        }
        Ok(())
    }

    /// The LAN that `endpoint` is bound to: the one that names it, else the one that takes the rest.
    fn lan_of(&self, endpoint: Endpoint, bindings: &[Binding]) -> Result<Option<SegmentId>, Error> {
        let mut named = bindings
            .iter()
            .filter(|binding| binding.choice.iter().flatten().any(|choice| choice.includes(endpoint)))
            .map(|binding| &binding.nic);
        let nic = match named.next() {
            Some(first) => {
                if let Some(second) = named.find(|second| *second != first) {
                    let (first, second) = (first.clone(), second.clone());
                    return Err(Error::BoundTwice { endpoint, first, second });
                }
                Some(first)
            }
            None => bindings.iter().find(|binding| binding.choice.is_none()).map(|binding| &binding.nic),
        };
        Ok(nic.and_then(|nic| self.lans.ids().find(|lan| self.lans[*lan].nic == *nic)))
    }

    fn set_flood(&mut self, endpoint: Endpoint) -> Result<(), Error> {
        let Some(port) = self.ports.ids().find(|port| self.ports[*port].endpoint == endpoint) else {
            let known = self.ports.iter().map(|port| port.endpoint);
            return Err(Error::NoFlood(endpoint, list(known)));
        };
        let lan = self.links[self.ports[port].link].lan;
        self.lans[lan].flood = Some(port);
        Ok(())
    }

    fn check_macs(&self) -> Result<(), Error> {
        for lan in &self.lans {
            let mut owner: HashMap<Mac, (RouterId, Endpoint)> = HashMap::new();
            for port in &lan.ports {
                let Port { router, endpoint, .. } = self.ports[*port];
                let uid = self.labs[self.routers[router].lab].uid;
                for mac in mac::static_addresses(endpoint, uid) {
                    match owner.insert(mac, (router, endpoint)) {
                        Some((other, first)) if other != router => {
                            let nic = lan.nic.clone();
                            return Err(Error::SameMac { mac, first, second: endpoint, nic });
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives every router and every pseudo instance a worker, in turn: equal shares, and the same worker in
    /// both directions where routers and pseudo instances come in pairs, as most files have them.
    pub(super) fn share_out(&mut self) {
        for (index, router) in self.routers.iter_mut().enumerate() {
            router.worker = index % self.workers;
        }
        for (index, pseudo) in self.pseudos.iter_mut().enumerate() {
            pseudo.worker = index % self.workers;
        }
    }
}

/// One binding a NIC, in the order they were given.
fn merged(bindings: &[Binding]) -> Result<Vec<Binding>, Error> {
    let mut catch_all = bindings.iter().filter(|binding| binding.choice.is_none());
    if let (Some(first), Some(second)) = (catch_all.next(), catch_all.next()) {
        return Err(Error::TwoCatchAll(first.nic.clone(), second.nic.clone()));
    }
    let mut merged: Vec<Binding> = Vec::new();
    for binding in bindings {
        if !merged.iter().any(|other| other.nic == binding.nic) {
            merged.push(binding.clone());
        }
    }
    if merged.is_empty() { Err(Error::NoBinding) } else { Ok(merged) }
}

fn check_choices(bindings: &[Binding], known: &[Endpoint], file: &str) -> Result<(), Error> {
    for binding in bindings {
        for choice in binding.choice.iter().flatten() {
            if !known.iter().any(|endpoint| choice.includes(*endpoint)) {
                return Err(Error::NoSuchEndpoint {
                    nic: binding.nic.clone(),
                    what: choice.to_string(),
                    file: file.to_string(),
                    known: list(known.iter().copied()),
                });
            }
        }
    }
    Ok(())
}

fn list(endpoints: impl Iterator<Item = Endpoint>) -> String {
    let mut names: Vec<String> = endpoints.map(|endpoint| endpoint.to_string()).collect();
    if names.is_empty() {
        return "none".to_string();
    }
    let more = names.len().saturating_sub(12);
    names.truncate(12);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const P: [PortId; 4] = [PortId::new(0), PortId::new(1), PortId::new(2), PortId::new(3)];
    const LAN: SegmentId = SegmentId::new(0);

    fn lab(netmap: &str, pseudo: &[u16]) -> LabRequest {
        let file = Path::new("NETMAP");
        LabRequest {
            netmap: Netmap::parse(netmap.as_bytes(), file).unwrap(),
            file: file.to_path_buf(),
            netio: "/tmp/netio0".into(),
            uid: 0,
            pseudo: pseudo.iter().map(|id| InstanceId::new(*id).unwrap()).collect(),
            remote: HashSet::new(),
        }
    }

    fn plan(netmap: &str, pseudo: &[u16], bindings: &[&str]) -> Result<Plan, Error> {
        plan_for(netmap, pseudo, bindings, 1)
    }

    fn plan_for(netmap: &str, pseudo: &[u16], bindings: &[&str], workers: usize) -> Result<Plan, Error> {
        let bindings: Vec<Binding> = bindings.iter().map(|text| text.parse().unwrap()).collect();
        Plan::new(&[lab(netmap, pseudo)], &bindings, workers, None)
    }

    #[test]
    fn a_link_has_headers_for_both_directions() {
        let plan = plan("1:0/1 501:0/0", &[501], &["eth0"]).unwrap();
        assert_eq!(plan.ports[P[0]].from_router.0, [0x01, 0xf5, 0x00, 0x01, 0x00, 0x10, 0x01, 0x00]);
        assert_eq!(plan.ports[P[0]].to_router.0, [0x00, 0x01, 0x01, 0xf5, 0x10, 0x00, 0x01, 0x00]);
        assert_eq!(plan.bridge_port(P[0]).header, plan.ports[P[0]].to_router);
    }

    #[test]
    fn a_line_with_several_routers_is_one_link_with_several_ports() {
        let plan = plan("513:0/0 1:0/0 2:0/0\n513:0/1 3:0/0", &[513], &["eth0"]).unwrap();
        assert_eq!((plan.pseudos.len(), plan.links.len(), plan.ports.len()), (1, 2, 3));
        assert_eq!(plan.links[0].ports, P[..2]);
        assert_eq!(plan.lans[LAN].ports, P[..3]);
    }

    #[test]
    fn endpoints_go_where_they_are_named_and_the_rest_to_the_other_nic() {
        let netmap = "513:0/0 1:0/0\n513:0/1 1:0/1\n514:0/0 2:0/0\n515:0/0 3:0/0";
        let plan = plan(netmap, &[513, 514, 515], &["eth0", "eth1=513:0/1,514"]).unwrap();
        let lans: Vec<&str> = plan.links.iter().map(|link| plan.lans[link.lan].nic.as_str()).collect();
        assert_eq!(lans, ["eth0", "eth1", "eth1", "eth0"]);
    }

    #[test]
    fn a_nic_named_twice_is_one_lan() {
        let plan = plan("513:0/0 1:0/0\n514:0/0 2:0/0", &[513, 514], &["eth0=513", "eth0=514"]).unwrap();
        assert_eq!(plan.lans.len(), 1);
        assert_eq!(plan.lans[LAN].links, [0, 1]);
    }

    #[test]
    fn what_no_nic_takes_is_left_alone_with_a_note() {
        let plan =
            plan("513:0/0 1:0/0\n514:0/0 2:0/0\n515:0/0", &[513, 514, 515], &["eth0=513,515"]).unwrap();
        assert_eq!(plan.links.len(), 1);
        assert_eq!(plan.notes.len(), 2, "{:?}", plan.notes);
        assert!(plan.notes[0].starts_with("NETMAP:2: 514:0/0 is bound to no"), "{}", plan.notes[0]);
        assert!(plan.notes[1].starts_with("NETMAP:3: 515:0/0 has no router"), "{}", plan.notes[1]);
    }

    #[test]
    fn ends_on_other_hosts_are_noted() {
        let mut request = lab("513:0/0 1:0/0@far 2:0/0", &[513]);
        request.remote.insert((0, 1));
        let plan = Plan::new(&[request], &["eth0".parse().unwrap()], 1, None).unwrap();
        assert_eq!(plan.ports.len(), 1);
        assert_eq!(plan.notes, ["NETMAP:1: 1:0/0 is on host far: remote, and not yet carried"]);

        // The routers of the line send to the forwarder of the host that it names.
        let mut request = lab("513:0/0@far 1:0/0\n513:0/1 2:0/0", &[513]);
        request.remote.insert((0, 0));
        let plan = Plan::new(&[request], &["eth0".parse().unwrap()], 1, None).unwrap();
        assert_eq!(plan.ports.len(), 1);
        assert_eq!(plan.notes, ["NETMAP:1: 513:0/0 is on host far: remote, and not yet carried"]);

        let mut request = lab("513:0/0 1:0/0@far", &[513]);
        request.remote.insert((0, 1));
        let error = Plan::new(&[request], &["eth0".parse().unwrap()], 1, None).unwrap_err().to_string();
        assert!(
            error.ends_with("with a router\nNETMAP:1: 1:0/0 is on host far: remote, and not yet carried"),
            "{error}"
        );
    }

    #[test]
    fn invalid_bindings_and_lines_are_refused() {
        let error = |netmap, pseudo: &[u16], bindings: &[&str]| {
            plan(netmap, pseudo, bindings).unwrap_err().to_string()
        };
        let one = "513:0/0 1:0/0";
        assert!(error(one, &[513], &[]).contains("-i eth0"));
        assert!(error(one, &[513], &["eth0", "eth1"]).contains("both take every"));
        assert!(error(one, &[513], &["eth0=513:0/1"]).contains("it has 513:0/0"));
        assert!(error(one, &[513], &["eth0=513", "eth1=513:0/0"]).contains("bound to eth0 and to eth1"));
        assert!(error(one, &[513], &["eth0", "eth1=513"]).contains("nothing would be on eth0"));
        assert!(
            error("513:0/0 1:0/0\n513:0/0 2:0/0", &[513], &["eth0"])
                .starts_with("NETMAP:2: 513:0/0 stands on line 1")
        );
        assert!(
            error("513:0/0 514:0/0 1:0/0", &[513, 514], &["eth0"])
                .starts_with("NETMAP:1: 513:0/0 and 514:0/0")
        );
        assert!(error("513:0/0 514:0/0 1:0/0", &[513, 514], &["eth0"]).contains("twice"));
        assert!(
            error("513:0/0 1:0/0\n514:0/0 1:0/0", &[513, 514], &["eth0"])
                .starts_with("NETMAP:2: 1:0/0 is joined to eth0 on line 1")
        );
    }

    #[test]
    fn split_horizon_groups_are_ports_on_any_common_line() {
        let netmap = "513:0/0 1:0/0 2:0/0\n513:0/1 3:0/0\n513:0/2 4:0/0\n3:0/0 4:0/0 9:0/0";
        let plan = plan(netmap, &[513], &["eth0"]).unwrap();
        let split_horizon: Vec<&[PortId]> =
            plan.ports.iter().map(|port| port.split_horizon.as_slice()).collect();
        assert_eq!(split_horizon, [&P[..2], &P[..2], &P[2..], &P[2..]]);
    }

    #[test]
    fn two_labs_with_the_same_ids_do_not_share_a_lan() {
        let labs = [lab("513:0/0 1:0/0", &[513]), lab("514:0/0 1:0/0", &[514])];
        let error = Plan::new(&labs, &["eth0".parse().unwrap()], 1, None).unwrap_err();
        assert!(error.to_string().contains("aa:bb:cc:00:01:00"), "{error}");
    }

    #[test]
    fn workers_get_equal_shares() {
        let netmap: String = (1..=50).map(|n| format!("{n}:0/0 {}:0/0\n", 512 + n)).collect();
        let pseudo: Vec<u16> = (513..=562).collect();
        let plan = plan_for(&netmap, &pseudo, &["eth0"], 2).unwrap();
        let count = |worker| plan.routers.iter().filter(|router| router.worker == worker).count();
        assert_eq!((count(0), count(1)), (25, 25));
        for link in &plan.links {
            assert_eq!(plan.pseudos[link.pseudo].worker, plan.router_of(link.ports[0]).worker);
        }
        assert_eq!(plan.workers_on(LAN), 0b11);
    }

    #[test]
    fn the_flood_port_must_be_bridged() {
        let request = [lab("513:0/0 1:0/0", &[513])];
        let bindings = ["eth0".parse().unwrap()];
        let endpoint = |text: &str| Some(text.parse().unwrap());
        assert_eq!(Plan::new(&request, &bindings, 1, endpoint("1:0/0")).unwrap().lans[LAN].flood, Some(P[0]));
        assert!(matches!(Plan::new(&request, &bindings, 1, endpoint("2:0/0")), Err(Error::NoFlood(..))));
    }
}
