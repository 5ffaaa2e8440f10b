//! Flows of numbered frames, and which of them have arrived.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{NICS, ROUTERS, nic_of};

/// In a frame's number: it is not counted.
pub(crate) const NOISE: u64 = 1 << 63;
const TO_SHIFT: u32 = 40;
const FROM_SHIFT: u32 = 48;
const NUMBER: u64 = (1 << TO_SHIFT) - 1;
/// As a receiver in a frame's number: everybody.
const ALL: u64 = 255;

/// The number of the first wire as a sender or receiver; routers have theirs.
const WIRE: u64 = 200;

/// Who sends, or receives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum End {
    /// The station on the wire of a NIC.
    Wire(usize),
    Router(u16),
}

impl End {
    fn number(self) -> u64 {
        match self {
            Self::Wire(nic) => WIRE + nic as u64,
            Self::Router(id) => id.into(),
        }
    }

    fn of(number: u64) -> Self {
        match number.checked_sub(WIRE) {
            Some(nic) => Self::Wire(nic as usize),
            None => Self::Router(number as u16),
        }
    }

    /// The NIC on whose LAN it is.
    pub(crate) fn nic(self) -> usize {
        match self {
            Self::Wire(nic) => nic,
            Self::Router(id) => nic_of(id),
        }
    }

    pub(crate) const fn is_wire(self) -> bool {
        matches!(self, Self::Wire(_))
    }
}

/// Everybody on the LAN of a NIC.
pub(crate) fn all_on(nic: usize) -> impl Iterator<Item = End> {
    let all = (0..NICS.len()).map(End::Wire).chain((1..=ROUTERS).map(End::Router));
    all.filter(move |end| end.nic() == nic)
}

/// Frames from one to another on the same LAN, or to everybody there. Their order is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Flow {
    pub(crate) from: End,
    /// `None`: everybody.
    pub(crate) to: Option<End>,
}

impl Flow {
    /// The flow that a frame's number names, and its number there; `None` for noise.
    pub(crate) fn of(number: u64) -> Option<(Self, u64)> {
        if number & NOISE != 0 {
            return None;
        }
        let to = number >> TO_SHIFT & 255;
        let flow = Self { from: End::of(number >> FROM_SHIFT), to: (to != ALL).then(|| End::of(to)) };
        Some((flow, number & NUMBER))
    }

    /// True for some flows from each, and some to each: their frames have a tag.
    pub(crate) fn is_tagged(self) -> bool {
        (self.from.number() + self.to.map_or(ALL, End::number)).is_multiple_of(4)
    }

    fn receivers(self) -> impl Iterator<Item = End> {
        all_on(self.from.nic()).filter(move |end| self.to.map_or(*end != self.from, |to| *end == to))
    }
}

/// What is under way to one receiver of a flow.
struct Stream {
    /// Number, and when it was sent.
    sent: VecDeque<(u64, Instant)>,
    heard: Instant,
}

/// All flows.
#[derive(Default)]
pub(crate) struct Ledger {
    next: HashMap<Flow, u64>,
    streams: HashMap<(Flow, End), Stream>,
    total: u64,
}

impl Ledger {
    /// A number for the next frame of `flow`.
    pub(crate) fn next(&mut self, flow: Flow) -> u64 {
        let next = self.next.entry(flow).or_default();
        *next += 1;
        let to = flow.to.map_or(ALL, End::number);
        flow.from.number() << FROM_SHIFT | to << TO_SHIFT | *next
    }

    /// The frame was sent.
    pub(crate) fn sent(&mut self, flow: Flow, number: u64) {
        let now = Instant::now();
        self.total += 1;
        for receiver in flow.receivers() {
            let new = || Stream { sent: VecDeque::new(), heard: now };
            let stream = self.streams.entry((flow, receiver)).or_insert_with(new);
            stream.sent.push_back((number & NUMBER, now));
        }
    }

    /// The frame has arrived at `receiver`. Returns when those were sent that should have come before, and have not.
    ///
    /// # Errors
    /// It has arrived before, or comes late, or was never sent.
    pub(crate) fn heard(&mut self, flow: Flow, receiver: End, number: u64) -> Result<Vec<Instant>, String> {
        let wrong = || format!("frame {number} of {flow:?}: twice, too late, or never sent");
        let stream = self.streams.get_mut(&(flow, receiver)).ok_or_else(wrong)?;
        let at = stream.sent.binary_search_by_key(&number, |(number, _)| *number).map_err(|_| wrong())?;
        stream.heard = Instant::now();
        let lost = stream.sent.drain(..at).map(|(_, sent)| sent).collect();
        stream.sent.pop_front();
        Ok(lost)
    }

    /// Every flow that is sent every round has been heard within `time`.
    ///
    /// # Errors
    /// The one that has not.
    pub(crate) fn all_flow(&self, time: Duration) -> Result<(), String> {
        let steady = |flow: Flow| flow.from.is_wire() || flow.to.is_some_and(End::is_wire);
        let quiet =
            self.streams.iter().find(|((flow, _), stream)| steady(*flow) && stream.heard.elapsed() > time);
        quiet.map_or(Ok(()), |((flow, to), stream)| {
            Err(format!("{flow:?} at {to:?}, for {:?}", stream.heard.elapsed()))
        })
    }

    /// Something is under way from the wire of `NIC`.
    pub(crate) fn is_under_way(&self, nic: usize) -> bool {
        self.streams.iter().any(|((flow, _), stream)| flow.from == End::Wire(nic) && !stream.sent.is_empty())
    }

    /// What has not arrived.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (Flow, End, Instant)> {
        self.streams
            .iter()
            .flat_map(|((flow, to), stream)| stream.sent.iter().map(|(_, sent)| (*flow, *to, *sent)))
    }

    /// Frames sent.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }
}

#[test]
fn ledger_finds_missing_doubled_and_late_frames() {
    let mut ledger = Ledger::default();
    let flow = Flow { from: End::Wire(1), to: Some(End::Router(7)) };
    let numbers = [(); 4].map(|()| ledger.next(flow));
    numbers.iter().for_each(|number| ledger.sent(flow, *number));
    let named: Vec<_> = numbers.iter().filter_map(|number| Flow::of(*number)).collect();
    assert_eq!(named, [(flow, 1), (flow, 2), (flow, 3), (flow, 4)]);
    assert_eq!(ledger.heard(flow, End::Router(7), 1).unwrap().len(), 0);
    assert_eq!(ledger.heard(flow, End::Router(7), 3).unwrap().len(), 1);
    assert!(ledger.heard(flow, End::Router(7), 3).is_err(), "twice");
    assert!(ledger.heard(flow, End::Router(7), 2).is_err(), "late");
    assert_eq!(ledger.outstanding().count(), 1);
    let group = Flow { from: End::Router(1), to: None };
    let number = ledger.next(group);
    ledger.sent(group, number);
    assert_eq!(Flow::of(number), Some((group, 1)));
    // The wire, and all other routers on that NIC.
    assert_eq!(ledger.outstanding().count(), 1 + usize::from(ROUTERS) / NICS.len());
    assert!(ledger.is_under_way(1) && !ledger.is_under_way(0));
    assert_eq!(Flow::of(NOISE | 5), None);
}
