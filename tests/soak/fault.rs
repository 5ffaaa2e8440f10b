//! The faults: what they do, and whom they may cost frames. Another one is a line in each `match`.

use super::flow::{End, Flow};
use super::script::Random;
use super::{MAX_QUEUES, NICS, ROUTERS, Soak, noise, wiring};
use std::fs;
use std::time::Duration;
use testbed::{Process, Router, Signal};

/// Something that goes wrong for a while. NICs are named by their index in [`NICS`], routers by their id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Fault {
    /// A router ends, and starts again.
    RouterRestarts(u16),
    /// Another process takes a router's place while the old one hangs.
    RouterReplaced(u16),
    /// A router stops reading, as after SIGSTOP.
    RouterHangs(u16),
    /// All routers end, and start again.
    AllRestart,
    /// SIGSTOP and SIGCONT of iou-fast.
    Stopped,
    /// `kill -9` of iou-fast, and another start.
    Killed,
    /// A clean end of iou-fast, and another start.
    Ended,
    /// Another iou-fast is started on one of its NICs.
    SecondOnCard(usize),
    /// Another iou-fast is started with its pseudo ids.
    SecondOnIds,
    /// SIGHUP: the NETMAP is to be read again.
    Hangup,
    /// A NIC is down.
    NicDown(usize),
    /// A NIC has no carrier.
    NoCarrier(usize),
    /// A NIC's MTU is smaller.
    SmallMtu(usize),
    /// A NIC is removed; later there is another one of its name.
    NicRemoved(usize),
    /// A NIC has another name.
    NicRenamed(usize),
    /// A NIC gets a queue more.
    MoreQueues(usize),
    /// An offload that iou-fast turned off is turned on.
    OffloadOn(usize),
    /// Another program takes the XDP program off a NIC.
    ProgramDetached(usize),
    /// The NETMAP has a link more.
    NetmapChanged,
    /// The NETMAP is none.
    NetmapFaulty,
    /// The file of the socket that a router sends to is removed.
    FileRemoved(u16),
    /// Only the lock of that socket's id is removed.
    LockRemoved(u16),
    /// The netio directory is removed with all that is in it, and made again; routers start again later.
    DirectoryRemoved,
    /// The disk is full when the socket that a router sends to is to be made again.
    DiskFull(u16),
    /// iou-fast may open nothing more, and a router starts again.
    NoDescriptors(u16),
    /// A wire sends from and to unknown addresses.
    StrangersOnTheWire(usize),
    /// A router speaks as very many stations.
    StrangersBehind(u16),
    /// A storm of broadcasts from a wire.
    Storm(usize),
    /// A router sends broadcasts as fast as it can.
    RouterStorms(u16),
    /// A router sends what is no frame, too long, or not its own.
    BadDatagrams(u16),
    /// Not drawn: the test did not read, or iou-fast got no CPU, because the machine was busy.
    Starved,
}

use Fault::{
    AllRestart, BadDatagrams, DirectoryRemoved, DiskFull, Ended, FileRemoved, Hangup, Killed, LockRemoved,
    MoreQueues, NetmapChanged, NetmapFaulty, NicDown, NicRemoved, NicRenamed, NoCarrier, NoDescriptors,
    OffloadOn, ProgramDetached, RouterHangs, RouterReplaced, RouterRestarts, RouterStorms, SecondOnCard,
    SecondOnIds, SmallMtu, Starved, Stopped, Storm, StrangersBehind, StrangersOnTheWire,
};

impl Fault {
    /// One of each kind, its router or NIC drawn; without those that end iou-fast, if it is not to end.
    pub(crate) fn kinds(random: &mut Random, with_ends: bool) -> Vec<Self> {
        let router = |random: &mut Random| 1 + random.below(ROUTERS.into()) as u16;
        let nic = |random: &mut Random| random.below(NICS.len() as u64) as usize;
        let mut kinds = vec![AllRestart, Stopped, SecondOnIds, Hangup, NetmapChanged, NetmapFaulty];
        kinds.push(DirectoryRemoved);
        let of_routers = [
            RouterRestarts,
            RouterReplaced,
            RouterHangs,
            FileRemoved,
            LockRemoved,
            DiskFull,
            NoDescriptors,
            StrangersBehind,
            RouterStorms,
            BadDatagrams,
        ];
        kinds.extend(of_routers.map(|kind: fn(u16) -> Self| kind(router(random))));
        let of_nics = [
            SecondOnCard,
            NicDown,
            NoCarrier,
            SmallMtu,
            NicRemoved,
            NicRenamed,
            MoreQueues,
            OffloadOn,
            ProgramDetached,
            StrangersOnTheWire,
            Storm,
        ];
        kinds.extend(of_nics.map(|kind: fn(usize) -> Self| kind(nic(random))));
        if with_ends {
            kinds.extend([Killed, Ended]);
        }
        kinds
    }

    /// How long it takes, in ms.
    pub(crate) fn length(self, random: &mut Random) -> u64 {
        match self {
            RouterRestarts(_) | RouterReplaced(_) | AllRestart | Killed | Ended => random.below(500),
            RouterHangs(_) => 200 + random.below(2500),
            Stopped => 20 + random.below(400),
            NicRemoved(_) | NicRenamed(_) => 100 + random.below(1500),
            NetmapChanged => 600 + random.below(900),
            NicDown(_) | NoCarrier(_) => 50 + random.below(1000),
            // What shows when it is over has come by then, mostly.
            SecondOnCard(_) | SecondOnIds | Hangup => 200 + random.below(200),
            DiskFull(_) | NoDescriptors(_) => 400 + random.below(600),
            _ => 100 + random.below(900),
        }
    }

    /// True for what shows only if nothing else is wrong: what comes second finds a first one that has all it needs.
    pub(crate) fn is_alone(self) -> bool {
        matches!(self, SecondOnCard(_) | SecondOnIds | DiskFull(_) | NoDescriptors(_))
    }

    /// True if iou-fast ends by it.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Killed | Ended)
    }

    /// True if the two cannot be at one time.
    pub(crate) fn excludes(self, other: Self) -> bool {
        let either = |one: fn(Self) -> bool, another: fn(Self) -> bool| {
            one(self) && another(other) || one(other) && another(self)
        };
        // Without its NIC it cannot start; what was changed under the one before is nothing new to the next.
        let changes_nic = |fault| {
            matches!(fault, NicRemoved(_) | NicRenamed(_) | MoreQueues(_) | OffloadOn(_) | ProgramDetached(_))
        };
        if self.is_alone() || other.is_alone() || either(Self::is_end, changes_nic) {
            return true;
        }
        // Stopped, it follows nothing, and that it follows is waited for.
        if either(|fault| fault == Stopped, |fault| matches!(fault, MoreQueues(_))) {
            return true;
        }
        let (a, b) = (self.concerns(), other.concerns());
        match (a, b) {
            (Concern::Router(a), Concern::Router(b)) => a == b,
            (Concern::Router(_), Concern::Routers) | (Concern::Routers, Concern::Router(_)) => true,
            _ => a == b,
        }
    }

    fn concerns(self) -> Concern {
        match self {
            RouterRestarts(id) | RouterReplaced(id) | RouterHangs(id) | StrangersBehind(id)
            | RouterStorms(id) | BadDatagrams(id) | FileRemoved(id) | LockRemoved(id) | DiskFull(id)
            | NoDescriptors(id) => Concern::Router(id),
            AllRestart | DirectoryRemoved | Starved => Concern::Routers,
            Stopped | Killed | Ended | SecondOnIds | Hangup | NetmapChanged | NetmapFaulty => {
                Concern::Process
            }
            SecondOnCard(nic) | NicDown(nic) | NoCarrier(nic) | SmallMtu(nic) | NicRemoved(nic)
            | NicRenamed(nic) | MoreQueues(nic) | OffloadOn(nic) | ProgramDetached(nic) => Concern::Nic(nic),
            StrangersOnTheWire(nic) | Storm(nic) => Concern::Wire(nic),
        }
    }

    /// The NIC that may not carry because of it.
    pub(crate) fn nic(self) -> Option<usize> {
        match self {
            NicDown(nic) | NoCarrier(nic) | SmallMtu(nic) | NicRemoved(nic) | NicRenamed(nic)
            | MoreQueues(nic) | ProgramDetached(nic) => Some(nic),
            _ => None,
        }
    }

    /// Whether it may cost frames of `flow` on their way to `to`.
    pub(crate) fn may_cost(self, flow: Flow, to: End) -> bool {
        if let Some(nic) = self.nic() {
            return [flow.from, to].contains(&End::Wire(nic));
        }
        match self {
            RouterRestarts(id) | RouterReplaced(id) | RouterHangs(id) | NoDescriptors(id) => {
                to == End::Router(id)
            }
            AllRestart | DirectoryRemoved | Storm(_) | RouterStorms(_) | Starved => !to.is_wire(),
            Stopped => flow.from.is_wire(),
            Killed | Ended => true,
            _ => false,
        }
    }

    /// Whether iou-fast counts what it costs: not what never came to it, nor what it had when it was killed.
    pub(crate) fn is_counted(self) -> bool {
        !self.is_end() && self.nic().is_none()
    }

    /// It begins.
    pub(crate) fn begin(self, soak: &mut Soak) {
        match self {
            RouterRestarts(id) => soak.leave(id),
            RouterReplaced(id) => {
                let old = soak.members[index(id)].router.take();
                let new = Router::new(&soak.scene.netio(), id).unwrap();
                let member = &mut soak.members[index(id)];
                member.hanging.extend(old);
                member.router = Some(new);
            }
            RouterHangs(id) => soak.members[index(id)].reads = false,
            AllRestart => (1..=ROUTERS).for_each(|id| soak.leave(id)),
            Stopped => soak.signal(Signal::STOP),
            Killed => soak.kill_iou_fast(),
            Ended => soak.stop_iou_fast(),
            SecondOnCard(nic) => soak.start_second(&["-i", NICS[nic], "-p", "700"]),
            SecondOnIds => {
                soak.start_second(&["-i", NICS[1], "-p", &super::common::crowd::pseudo_ids(ROUTERS)])
            }
            Hangup => {
                soak.mark(READ_AGAIN);
                soak.signal(Signal::HUP);
            }
            NicDown(nic) => soak.host(&format!("link set {} down", NICS[nic])),
            NoCarrier(nic) => soak.wire(&format!("link set {} down", NICS[nic])),
            SmallMtu(nic) => soak.host(&format!("link set {} mtu 800", NICS[nic])),
            NicRemoved(nic) => soak.remove_nic(nic),
            NicRenamed(nic) => soak.rename(NICS[nic], &other_name(nic)),
            MoreQueues(nic) => soak.add_queue(nic),
            OffloadOn(nic) => soak.ethtool(nic, ["-K", NICS[nic], "rxvlan", "on"]),
            ProgramDetached(nic) => soak.detach_program(nic),
            NetmapChanged => {
                soak.guest = Some(Router::new(&soak.scene.netio(), GUEST).unwrap());
                soak.netmap(&format!("{GUEST}:0/0 {}:0/1\n", 512 + ROUTERS));
            }
            NetmapFaulty => soak.netmap("1:0/0 2:0/0 3\n"),
            // It may be away already.
            FileRemoved(id) => drop(fs::remove_file(soak.pseudo(id))),
            LockRemoved(id) => drop(fs::remove_file(soak.pseudo(id).with_extension("lck"))),
            DirectoryRemoved => {
                fs::remove_dir_all(soak.scene.netio()).unwrap();
                fs::create_dir(soak.scene.netio()).unwrap();
            }
            DiskFull(id) => {
                soak.mark(NO_SPACE);
                soak.fill_disk(id);
            }
            NoDescriptors(id) => {
                soak.mark(NO_DESCRIPTORS);
                soak.mark(DESCRIPTORS);
                soak.process().take_descriptors().unwrap();
                soak.leave(id);
                soak.come(id);
            }
            StrangersOnTheWire(_)
            | StrangersBehind(_)
            | Storm(_)
            | RouterStorms(_)
            | BadDatagrams(_)
            | Starved => {}
        }
    }

    /// Once a round while it is there.
    pub(crate) fn go_on(self, soak: &mut Soak) {
        const AT_ONCE: u64 = 24;
        match self {
            // What is for a NIC that is down is lost, and so it may be.
            StrangersOnTheWire(nic) => (0..AT_ONCE).for_each(|n| {
                let (to, from) = (soak.stranger(), soak.stranger());
                drop(soak.stations[nic].send(&noise(to, from, 64, n)));
            }),
            StrangersBehind(id) => (0..AT_ONCE).for_each(|n| {
                let frame = noise(super::STATION, soak.stranger(), 64, n);
                soak.try_send(id, &frame);
            }),
            Storm(nic) => {
                (0..AT_ONCE).for_each(|_| soak.send(Flow { from: End::Wire(nic), to: None }, 64));
            }
            RouterStorms(id) => {
                (0..AT_ONCE).for_each(|_| soak.send(Flow { from: End::Router(id), to: None }, 64));
            }
            BadDatagrams(id) => soak.bad_datagrams(id),
            NetmapChanged => soak.hear_guest(),
            _ => {}
        }
    }

    /// It ends.
    pub(crate) fn end(self, soak: &mut Soak) {
        match self {
            RouterRestarts(id) => soak.come(id),
            RouterReplaced(id) => {
                soak.members[index(id)].hanging.iter_mut().for_each(|old| old.stop_receiving().unwrap());
                soak.read(id);
                soak.members[index(id)].hanging.clear();
            }
            RouterHangs(id) => soak.members[index(id)].reads = true,
            AllRestart => (1..=ROUTERS).for_each(|id| soak.come(id)),
            DirectoryRemoved => (1..=ROUTERS).for_each(|id| {
                soak.leave(id);
                soak.come(id);
            }),
            NetmapChanged => {
                soak.hear_guest();
                soak.guest = None;
                soak.netmap("");
            }
            NetmapFaulty => soak.netmap(""),
            Stopped => soak.signal(Signal::CONT),
            Killed | Ended => soak.start_iou_fast(),
            SecondOnCard(nic) => soak.end_second(&format!("{} is held by iou-fast, pid", NICS[nic])),
            SecondOnIds => soak.end_second(".lck is held by process"),
            Hangup => soak.wait_until_said(READ_AGAIN),
            NicDown(nic) => soak.host(&format!("link set {} up", NICS[nic])),
            NoCarrier(nic) => soak.wire(&format!("link set {} up", NICS[nic])),
            SmallMtu(nic) => soak.host(&format!("link set {} mtu 1500", NICS[nic])),
            NicRemoved(nic) => soak.make_nic(nic),
            NicRenamed(nic) => soak.rename(&other_name(nic), NICS[nic]),
            MoreQueues(nic) => soak.use_queues(nic),
            DiskFull(_) => {
                soak.wait_until_said(NO_SPACE);
                soak.empty_disk();
            }
            NoDescriptors(_) => {
                soak.wait_until_said(NO_DESCRIPTORS);
                soak.process().give_descriptors().unwrap();
                // Looked at once a second: that may take longer than other things.
                soak.wait_until_said(DESCRIPTORS);
            }
            FileRemoved(_)
            | LockRemoved(_)
            | OffloadOn(_)
            | ProgramDetached(_)
            | StrangersOnTheWire(_)
            | StrangersBehind(_)
            | Storm(_)
            | RouterStorms(_)
            | BadDatagrams(_)
            | Starved => {}
        }
    }
}

/// The router that is in the changed NETMAP alone.
pub(crate) const GUEST: u16 = ROUTERS + 1;
/// What the log says.
const READ_AGAIN: &str = "NETMAP reloaded";
const NO_SPACE: &str = "No space left on device";
const DESCRIPTORS: &str = "there are descriptors again";
const NO_DESCRIPTORS: &str = "and maybe others cannot be reached";

/// What a fault concerns: only one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Concern {
    Router(u16),
    Routers,
    Process,
    Nic(usize),
    Wire(usize),
}

fn index(id: u16) -> usize {
    usize::from(id) - 1
}

fn mac_of(id: u16) -> [u8; 6] {
    super::router_mac(id, 0, 0)
}

/// The name of a NIC that is renamed.
fn other_name(nic: usize) -> String {
    format!("other{nic}")
}

impl Soak {
    fn signal(&mut self, signal: Signal) {
        if let Some(running) = &mut self.iou_fast {
            running.process.signal(signal);
        }
    }

    /// `ip` where iou-fast runs.
    fn host(&self, command: &str) {
        self.scene.host.ip(command).unwrap();
    }

    /// `ip` at the far end.
    fn wire(&self, command: &str) {
        self.scene.wire.ip(command).unwrap();
    }

    fn ethtool<const N: usize>(&self, nic: usize, arguments: [&str; N]) {
        debug_assert_eq!(arguments[1], NICS[nic]);
        self.scene.host.run("ethtool", arguments).unwrap();
    }

    /// Any unused address.
    fn stranger(&mut self) -> [u8; 6] {
        let [a, b, c, d, e, ..] = self.random.any().to_be_bytes();
        [0x52, a, b, c, d, e]
    }

    /// How many lines of iou-fast's log hold `text`.
    fn said(&self, text: &str) -> usize {
        let log = self.iou_fast.as_ref().map_or_else(String::new, |running| running.process.stderr());
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Notes how many lines hold `text` now.
    fn mark(&mut self, text: &str) {
        self.marks.insert(text.into(), self.said(text));
    }

    /// Goes on until the log holds `text` once more than when that was noted.
    fn wait_until_said(&mut self, text: &str) {
        let before = self.marks[text];
        let end = std::time::Instant::now() + super::SOON;
        while self.said(text) <= before {
            assert!(std::time::Instant::now() < end, "no line with {text:?}\n{}", self.dump());
            self.round();
        }
    }

    /// A router ends; what it got before is read.
    fn leave(&mut self, id: u16) {
        let member = &mut self.members[index(id)];
        if let Some(router) = &mut member.router {
            router.stop_receiving().unwrap();
        }
        self.read(id);
        self.members[index(id)].router = None;
    }

    fn come(&mut self, id: u16) {
        self.members[index(id)].router = Some(Router::new(&self.scene.netio(), id).unwrap());
    }

    /// The socket that a router sends to.
    fn pseudo(&self, id: u16) -> std::path::PathBuf {
        self.scene.netio().join((512 + id).to_string())
    }

    /// Another iou-fast, which must find that the first one has what it wants.
    fn start_second(&mut self, arguments: &[&str]) {
        self.second = Some(Process::spawn(&mut self.scene.command(arguments)).unwrap());
    }

    fn end_second(&mut self, wanted: &str) {
        let mut second = self.second.take().expect("it was started");
        let end = std::time::Instant::now() + super::SOON;
        while second.exited().is_none() {
            assert!(std::time::Instant::now() < end, "{}", second.dump());
            self.round();
        }
        let first = self.iou_fast.as_ref().expect("the first one runs").process.pid();
        let said = second.stderr();
        assert!(!second.exited().is_some_and(|status| status.success()), "{}", second.dump());
        assert!(said.contains(&format!("{wanted} {first}")), "not held by {first}?\n{said}");
    }

    /// A NIC gets a queue more, which gets no frames as yet. One that has all already is swapped for one that has few.
    fn add_queue(&mut self, nic: usize) {
        if self.queues[nic] == MAX_QUEUES {
            self.remove_nic(nic);
            self.make_nic(nic);
        }
        self.queues[nic] += 1;
        self.mark(&self.taken_with(nic));
        self.ethtool(nic, ["-L", NICS[nic], "rx", &self.queues[nic].to_string()]);
    }

    /// When iou-fast has sockets on all queues of a NIC, frames come on all of them.
    fn use_queues(&mut self, nic: usize) {
        self.wait_until_said(&self.taken_with(nic));
        // What is on its way on the old queues is not to be overtaken.
        let end = std::time::Instant::now() + Duration::from_millis(200);
        while self.ledger.is_under_way(nic) && std::time::Instant::now() < end {
            self.receive();
        }
        let queues = self.queues[nic].to_string();
        self.scene.wire.run("ethtool", ["-L", NICS[nic], "tx", &queues]).unwrap();
    }

    /// What iou-fast says when it has taken a NIC with the queues that it has.
    fn taken_with(&self, nic: usize) -> String {
        format!("{}: native XDP, copy, {} queues; forwarding goes on", NICS[nic], self.queues[nic])
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.host(&format!("link set {from} down"));
        self.host(&format!("link set {from} name {to}"));
        self.host(&format!("link set {to} up"));
    }

    fn detach_program(&mut self, nic: usize) {
        let Some(running) = &self.iou_fast else { return };
        for link in running.xdp_links(self.scene.index(NICS[nic])) {
            testbed::run("bpftool", ["link", "detach", "id", &link.to_string()]).unwrap();
        }
    }

    /// The disk takes no more files, and the socket that router `id` sends to is not there.
    fn fill_disk(&mut self, id: u16) {
        let filler = |n: usize| self.filler().join(n.to_string());
        fs::create_dir(self.filler()).unwrap();
        let files = (0..).take_while(|n| fs::write(filler(*n), "").is_ok()).count();
        assert!(files > 0, "the disk was full before");
        fs::rename(self.pseudo(id), filler(files)).unwrap();
    }

    fn empty_disk(&mut self) {
        fs::remove_dir_all(self.filler()).unwrap();
    }

    fn filler(&self) -> std::path::PathBuf {
        self.scene.directory().join("filler")
    }

    /// iou-fast may open nothing more.
    /// iou-fast, which runs.
    fn process(&self) -> &Process {
        &self.iou_fast.as_ref().expect("it runs").process
    }

    /// Puts a NETMAP in the place of the one that is there, as editors do: what it always has, and `more`.
    fn netmap(&mut self, more: &str) {
        let new = self.scene.netmap_file().with_extension("new");
        fs::write(&new, wiring(more)).unwrap();
        fs::rename(new, self.scene.netmap_file()).unwrap();
    }

    /// The guest reads what is for everybody.
    fn hear_guest(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        self.guest_heard += super::take(guest).len() as u64;
    }

    /// Each kind of datagram that is not to be forwarded.
    fn bad_datagrams(&mut self, id: u16) {
        let good = super::header(512 + id, 0, id, 0);
        let frame = noise(super::STATION, mac_of(id), 64, 0);
        let long = noise(super::STATION, mac_of(id), 1600, 0);
        let longest = vec![0xaa; 12_000];
        let with = |at: usize, value: u8| {
            let mut header = good;
            header[at] = value;
            header
        };
        let other = 1 + id % ROUTERS;
        let datagrams: [(&[u8], &[u8]); 8] = [
            (&good[..4], &[]),
            (&good, &frame[..13]),
            (&good, &long),
            (&good, &longest),
            (&with(1, 0), &frame),
            (&with(4, 0x21), &frame),
            (&with(3, other as u8), &frame),
            (&with(6, 3), &frame),
        ];
        let Some(router) = &self.members[index(id)].router else { return };
        for (header, frame) in datagrams {
            router.try_send(512 + id, &[header, frame].concat()).unwrap();
        }
    }
}

#[test]
fn fault_on_one_nic_costs_the_other_nothing() {
    let to = |from, to| Flow { from, to: Some(to) };
    let (wires, routers) = ([0, 1].map(End::Wire), [1, ROUTERS].map(End::Router));
    for fault in [NicDown(1), NicRemoved(1), NicRenamed(1), MoreQueues(1), ProgramDetached(1)] {
        assert!(!fault.may_cost(to(wires[0], routers[0]), routers[0]), "{fault:?}");
        assert!(!fault.may_cost(to(routers[0], wires[0]), wires[0]), "{fault:?}");
        assert!(fault.may_cost(to(wires[1], routers[1]), routers[1]), "{fault:?}");
        assert!(fault.may_cost(Flow { from: wires[1], to: None }, routers[1]), "{fault:?}");
        assert!(!fault.is_counted(), "{fault:?}");
    }
}
