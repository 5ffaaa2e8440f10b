//! The faults: what they do, and whom they may cost frames. Another one is a line in each `match`.

use super::flow::{End, Flow};
use super::{ROUTERS, Random, STATION, Soak, noise};
use std::fs;
use std::time::Duration;
use testbed::{Router, Signal, VethOptions, veth};

/// Something that goes wrong for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// The card is down.
    CardDown,
    /// The card has no carrier.
    NoCarrier,
    /// The card's MTU is smaller.
    SmallMtu,
    /// The card is removed; later there is another one of its name.
    CardRemoved,
    /// The NETMAP has a link more.
    NetmapChanged,
    /// The NETMAP is none.
    NetmapFaulty,
    /// The file of the socket that a router sends to is removed.
    FileRemoved(u16),
    /// The netio folder is removed with all that is in it, and made again; routers start again later.
    FolderRemoved,
    /// The wire sends from and to addresses that nobody knows.
    StrangersOnTheWire,
    /// A router speaks as very many stations.
    StrangersBehind(u16),
    /// A storm of broadcasts from the wire.
    Storm,
    /// A router sends broadcasts as fast as it can.
    RouterStorms(u16),
    /// A router sends what is no frame, too long, or not its own.
    BadDatagrams(u16),
    /// Not drawn: nobody read, for the machine was busy.
    NoReader,
}

use Fault::{
    AllRestart, BadDatagrams, CardDown, CardRemoved, Ended, FileRemoved, FolderRemoved, Killed,
    NetmapChanged, NetmapFaulty, NoCarrier, NoReader, RouterHangs, RouterReplaced, RouterRestarts,
    RouterStorms, SmallMtu, Stopped, Storm, StrangersBehind, StrangersOnTheWire,
};

impl Fault {
    /// One of each kind, the router to be drawn.
    fn kinds(router: impl FnMut() -> u16, with_ends: bool) -> Vec<Self> {
        let mut router = router;
        let mut kinds = vec![
            RouterRestarts(router()),
            RouterReplaced(router()),
            RouterHangs(router()),
            AllRestart,
            Stopped,
            CardDown,
            NoCarrier,
            SmallMtu,
            CardRemoved,
            NetmapChanged,
            NetmapFaulty,
            FileRemoved(router()),
            FolderRemoved,
            StrangersOnTheWire,
            StrangersBehind(router()),
            Storm,
            RouterStorms(router()),
            BadDatagrams(router()),
        ];
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
            CardRemoved => 100 + random.below(1500),
            NetmapChanged => 600 + random.below(900),
            CardDown | NoCarrier => 50 + random.below(1000),
            _ => 100 + random.below(900),
        }
    }

    /// True if the two cannot be at one time.
    pub(crate) fn excludes(self, other: Self) -> bool {
        // Without its card it cannot start.
        if [self, other].contains(&CardRemoved)
            && [Killed, Ended].iter().any(|end| [self, other].contains(end))
        {
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
            | RouterStorms(id) | BadDatagrams(id) | FileRemoved(id) => Concern::Router(id),
            AllRestart | FolderRemoved | NoReader => Concern::Routers,
            Stopped | Killed | Ended | NetmapChanged | NetmapFaulty => Concern::Process,
            CardDown | NoCarrier | SmallMtu | CardRemoved => Concern::Card,
            StrangersOnTheWire | Storm => Concern::Wire,
        }
    }

    /// Whether it may cost frames of `flow` on their way to `to`.
    pub(crate) fn may_cost(self, flow: Flow, to: End) -> bool {
        match self {
            RouterRestarts(id) | RouterReplaced(id) | RouterHangs(id) => to == End::Router(id),
            AllRestart | FolderRemoved | Storm | RouterStorms(_) | NoReader => to != End::Wire,
            Stopped => flow.from == End::Wire,
            Killed | Ended => true,
            CardDown | NoCarrier | SmallMtu | CardRemoved => flow.from == End::Wire || to == End::Wire,
            NetmapChanged | NetmapFaulty | FileRemoved(_) | StrangersOnTheWire | StrangersBehind(_)
            | BadDatagrams(_) => false,
        }
    }

    /// Whether iou-fast counts what it costs: not what never came to it, nor what it had when it was killed.
    pub(crate) fn is_counted(self) -> bool {
        !matches!(self, Killed | Ended | CardDown | NoCarrier | SmallMtu | CardRemoved)
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
            Killed => soak.iou_fast.take().into_iter().for_each(super::Running::kill),
            Ended => soak.stop_iou_fast(),
            CardDown => drop(soak.scene.host.ip("link set eth0 down").unwrap()),
            NoCarrier => drop(soak.scene.wire.ip("link set eth0 down").unwrap()),
            SmallMtu => drop(soak.scene.host.ip("link set eth0 mtu 800").unwrap()),
            CardRemoved => soak.remove_card(),
            NetmapChanged => {
                soak.guest = Some(Router::new(&soak.scene.netio(), GUEST).unwrap());
                soak.netmap(&format!("{GUEST}:0/0 {}:0/1\n", 512 + ROUTERS));
            }
            NetmapFaulty => soak.netmap("1:0/0 2:0/0 3\n"),
            // It may be away already.
            FileRemoved(id) => drop(fs::remove_file(soak.scene.netio().join((512 + id).to_string()))),
            FolderRemoved => {
                fs::remove_dir_all(soak.scene.netio()).unwrap();
                fs::create_dir(soak.scene.netio()).unwrap();
            }
            _ => {}
        }
    }

    /// Once a round while it is there.
    pub(crate) fn go_on(self, soak: &mut Soak) {
        const AT_ONCE: u64 = 24;
        let mut random = soak.random.any();
        let mut mac = || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let [a, b, c, d, e, ..] = random.to_be_bytes();
            [0x52, a, b, c, d, e]
        };
        let number = soak.tick;
        match self {
            // What is for a card that is down is lost, and so it may be.
            StrangersOnTheWire => {
                (0..AT_ONCE).for_each(|_| drop(soak.station.send(&noise(mac(), mac(), 64, number))))
            }
            StrangersBehind(id) => (0..AT_ONCE).for_each(|_| {
                soak.try_send(id, &noise(STATION, mac(), 64, number));
            }),
            Storm => {
                (0..AT_ONCE).for_each(|_| drop(soak.station.send(&noise([0xff; 6], STATION, 64, number))))
            }
            RouterStorms(id) => (0..AT_ONCE).for_each(|_| {
                soak.try_send(id, &noise([0xff; 6], mac_of(id), 64, number));
            }),
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
            FolderRemoved => (1..=ROUTERS).for_each(|id| {
                soak.leave(id);
                soak.come(id);
            }),
            NetmapChanged => {
                soak.hear_guest();
                soak.guest = None;
                soak.netmap("");
            }
            NetmapFaulty => soak.netmap(""),
            CardRemoved => soak.make_card(),
            Stopped => soak.signal(Signal::CONT),
            Killed | Ended => soak.start_iou_fast(),
            CardDown => drop(soak.scene.host.ip("link set eth0 up").unwrap()),
            NoCarrier => drop(soak.scene.wire.ip("link set eth0 up").unwrap()),
            SmallMtu => drop(soak.scene.host.ip("link set eth0 mtu 1500").unwrap()),
            _ => {}
        }
    }
}

/// The router that is in the changed NETMAP alone.
const GUEST: u16 = ROUTERS + 1;

/// What a fault concerns: only one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Concern {
    Router(u16),
    Routers,
    Process,
    Card,
    Wire,
}

fn index(id: u16) -> usize {
    usize::from(id) - 1
}

fn mac_of(id: u16) -> [u8; 6] {
    super::router_mac(id, 0, 0)
}

impl Soak {
    fn signal(&mut self, signal: Signal) {
        if let Some(running) = &mut self.iou_fast {
            running.process.signal(signal);
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

    /// Removes both ends of the cable.
    fn remove_card(&mut self) {
        self.lost_before += super::common::crowd::lost_on_the_wire(&self.scene);
        while let Some(frame) = self.station.recv(Duration::ZERO) {
            self.heard(End::Wire, &frame);
        }
        self.scene.host.ip("link del eth0").unwrap();
        self.card_is_there = false;
    }

    /// A new cable, whose ends are called as those of the old one.
    fn make_card(&mut self) {
        self.receive();
        veth((&self.scene.wire, "eth0"), (&self.scene.host, "eth0"), &VethOptions::default()).unwrap();
        self.scene.silence(&["eth0"]);
        self.station = self.scene.station();
        self.card_is_there = true;
    }

    /// Puts a NETMAP in the place of the one that is there, as editors do: what it always has, and `more`.
    fn netmap(&mut self, more: &str) {
        let new = self.scene.netmap_file().with_extension("new");
        fs::write(&new, super::common::crowd::classroom(ROUTERS) + more).unwrap();
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
        let frame = noise(STATION, mac_of(id), 64, 0);
        let long = noise(STATION, mac_of(id), 1600, 0);
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

/// All kinds in any order, then all again: none is left out.
pub(crate) struct Bag {
    left: Vec<Fault>,
    filled: u64,
    /// It ends, or is killed, in one of so many fillings only: in a long run it is to run for long.
    ends_every: u64,
}

impl Bag {
    pub(crate) fn new(time: Duration) -> Self {
        let ends_every = if time > Duration::from_secs(600) { 20 } else { 1 };
        Self { left: Vec::new(), filled: 0, ends_every }
    }

    pub(crate) fn draw(&mut self, random: &mut Random) -> Fault {
        if self.left.is_empty() {
            self.left = Fault::kinds(|| random.router(), self.filled.is_multiple_of(self.ends_every));
            self.filled += 1;
        }
        let at = random.below(self.left.len() as u64) as usize;
        self.left.swap_remove(at)
    }

    pub(crate) fn put_back(&mut self, fault: Fault) {
        self.left.push(fault);
    }
}
