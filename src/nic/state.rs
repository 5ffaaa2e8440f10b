//! The state machine of a NIC of the plan: whether it is there and in use, and when to try what next. Pure: it is told what
//! was found and what time it is.
//!
//! ```text
//!              lost                      released                 no interface of its name
//!   Attached ───────► Releasing ──────────────────► Attaching ──────────────────────────────► Absent
//!      ▲                   ▲                         │  │  ▲                                    │
//!      │                   └── failed, with sockets ─┘  │  └── failed ──────────────────────────┤
//!      └────────────────────────────────────────────────┴─────────────────────── attached ──────┘
//! ```

use super::LinkState;
use std::time::{Duration, Instant};

/// The kernel is asked this often whether it has released frames: a few milliseconds are usual.
const RELEASE: Duration = Duration::from_millis(2);
/// How long after it was lost, or is back, a NIC is tried again at short intervals, and failures are not reported: whoever
/// removed it may still be at work. A NIC that was attached is not attached again sooner either.
const SETTLING: Duration = Duration::from_millis(500);
/// Between two tries, during that time.
const SOON: Duration = Duration::from_millis(50);
/// Between two tries after it.
const LATER: Duration = Duration::from_secs(1);
/// While a NIC has no carrier, this often it is looked for: the kernel tells of it up to a second late.
const CARRIER: Duration = Duration::from_millis(100);

/// What becomes of a NIC.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    state: State,
    /// It is not tried again before, but then. `None`: at the next event.
    due: Option<Instant>,
}

/// Where a NIC stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// Workers have AF_XDP sockets on it. With its link as read last; `None` if it has not been read, or could not be.
    Attached(Option<LinkState>),
    /// Its sockets are being closed, and the kernel still has frames of them.
    Releasing(Lost),
    /// It is attached when that is due.
    Attaching(Lost),
    /// There is no interface of its name.
    Absent(Lost),
}

/// What is known of a NIC that is not in use.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lost {
    /// When it was lost; if there was no interface of its name since, when there was one again.
    since: Instant,
    /// The failure that was reported last.
    reported: Option<String>,
}

impl Lost {
    fn is_settling(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < SETTLING
    }
}

/// What is new about the link of a NIC in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkEvent {
    /// It is set down by the administrator.
    Down,
    /// It had carrier when it was seen last.
    CarrierLost,
    /// It has no carrier, as far as it was seen.
    NoCarrier,
    /// It can carry frames again, or with another MTU.
    Up,
}

impl Lifecycle {
    /// A NIC that has just been attached. Its link is yet to be [looked at](Self::looked).
    pub(crate) const fn attached() -> Self {
        Self { state: State::Attached(None), due: None }
    }

    /// Workers have sockets on it.
    pub(crate) const fn is_attached(&self) -> bool {
        matches!(self.state, State::Attached(_))
    }

    /// It can carry frames.
    pub(crate) fn is_up(&self) -> bool {
        self.link().is_some_and(|link| link.up && link.carrier)
    }

    /// Its link as read last, while it is in use.
    pub(crate) const fn link(&self) -> Option<LinkState> {
        match self.state {
            State::Attached(link) => link,
            _ => None,
        }
    }

    /// What keeps frames from it, in a word or two; `None` if nothing does.
    pub(crate) const fn condition(&self) -> Option<&'static str> {
        match self.state {
            State::Attached(Some(LinkState { up: true, carrier: true, .. })) => None,
            State::Attached(Some(LinkState { up: true, .. })) => Some("no carrier"),
            State::Attached(_) => Some("down"),
            State::Releasing(_) | State::Attaching(_) | State::Absent(_) => Some("away"),
        }
    }

    /// The `link` of a NIC in use was read; `None` if it could not be. Says what is new, except that it is up when it is
    /// first seen.
    pub(crate) fn looked(&mut self, link: Option<LinkState>) -> Option<LinkEvent> {
        let State::Attached(known) = &mut self.state else { return None };
        let before = std::mem::replace(known, link);
        let link = link.filter(|link| before != Some(*link))?;
        match (link.up, link.carrier) {
            (false, _) => Some(LinkEvent::Down),
            (true, false) if before.is_some_and(|before| before.carrier) => Some(LinkEvent::CarrierLost),
            (true, false) => Some(LinkEvent::NoCarrier),
            (true, true) => before.map(|_| LinkEvent::Up),
        }
    }

    /// It, or its sockets, cannot be used any more. `frames`: the kernel has frames of sockets that are being closed.
    pub(crate) fn lost(&mut self, frames: bool, now: Instant) {
        self.state = match std::mem::replace(&mut self.state, State::Attached(None)) {
            State::Attached(_) => not_attached(Lost { since: now, reported: None }, frames),
            State::Attaching(lost) | State::Absent(lost) => not_attached(lost, frames),
            releasing @ State::Releasing(_) => releasing,
        };
    }

    /// The kernel has released the frames.
    pub(crate) fn released(&mut self) {
        if let State::Releasing(lost) = &self.state {
            self.state = State::Attaching(lost.clone());
        }
    }

    /// It is to be attached now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let waits = matches!(self.state, State::Attaching(_) | State::Absent(_));
        waits && self.due.is_none_or(|due| now >= due)
    }

    /// It was attached. One that is lost again at once, over and over, does not take all the time of its caller.
    pub(crate) fn resumed(&mut self, now: Instant) {
        *self = Self { state: State::Attached(None), due: Some(now + SETTLING) };
    }

    /// There is no interface of its name. It is looked for at each event.
    pub(crate) fn absent(&mut self) {
        self.due = None;
        if let State::Attaching(lost) = &self.state {
            self.state = State::Absent(lost.clone());
        }
    }

    /// It could not be attached because of `error`. `frames` as in [`lost`](Self::lost). True if that is to be reported.
    pub(crate) fn failed(&mut self, error: &str, frames: bool, now: Instant) -> bool {
        let mut lost = match &self.state {
            State::Attached(_) | State::Releasing(_) => return false,
            State::Attaching(lost) => lost.clone(),
            // Whoever brings a NIC back may not be done with it: that time begins with the first sight of it.
            State::Absent(lost) => Lost { since: now, ..lost.clone() },
        };
        let settling = lost.is_settling(now);
        let report = !settling && lost.reported.as_deref() != Some(error);
        if report {
            lost.reported = Some(error.to_owned());
        }
        self.due = Some(now + if settling { SOON } else { LATER });
        self.state = not_attached(lost, frames);
        report
    }

    /// How long until something is to be done about it, events apart.
    pub(crate) fn next_step(&self, now: Instant) -> Option<Duration> {
        match &self.state {
            State::Attached(link) => link.filter(|link| link.up && !link.carrier).map(|_| CARRIER),
            State::Releasing(lost) if lost.is_settling(now) => Some(RELEASE),
            State::Releasing(_) => Some(SOON),
            State::Attaching(_) | State::Absent(_) => self.due.map(|due| due.saturating_duration_since(now)),
        }
    }
}

const fn not_attached(lost: Lost, frames: bool) -> State {
    if frames { State::Releasing(lost) } else { State::Attaching(lost) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: LinkState = LinkState { up: true, carrier: true, mtu: 1500 };
    const NO_CARRIER: LinkState = LinkState { carrier: false, ..UP };
    const DOWN: LinkState = LinkState { up: false, carrier: false, mtu: 1500 };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn nic_link_changes_are_reported_once() {
        let mut nic = Lifecycle::attached();
        assert_eq!((nic.condition(), nic.is_up()), (Some("down"), false), "not looked at yet");
        assert_eq!(nic.looked(Some(UP)), None);
        assert_eq!((nic.condition(), nic.is_up()), (None, true));
        assert_eq!(nic.looked(Some(NO_CARRIER)), Some(LinkEvent::CarrierLost));
        assert_eq!((nic.condition(), nic.is_up()), (Some("no carrier"), false));
        assert_eq!(nic.looked(Some(NO_CARRIER)), None);
        assert_eq!(nic.looked(Some(UP)), Some(LinkEvent::Up));
        assert_eq!(nic.looked(Some(LinkState { mtu: 9000, ..UP })), Some(LinkEvent::Up));
        assert_eq!(nic.looked(Some(DOWN)), Some(LinkEvent::Down));
        assert_eq!(nic.condition(), Some("down"));
        assert_eq!(nic.looked(Some(NO_CARRIER)), Some(LinkEvent::NoCarrier));
        assert_eq!((nic.looked(None), nic.is_up()), (None, false), "it could not be read");
        assert_eq!(nic.looked(Some(UP)), None, "seen for the first time again");
    }

    #[test]
    fn nic_without_carrier_is_looked_at_more_often() {
        let now = Instant::now();
        let mut nic = Lifecycle::attached();
        for (link, step) in [(UP, None), (NO_CARRIER, Some(CARRIER)), (DOWN, None)] {
            nic.looked(Some(link));
            assert_eq!(nic.next_step(now), step);
        }
    }

    #[test]
    fn nic_is_attached_again_when_the_kernel_has_released_its_frames() {
        let start = Instant::now();
        let mut nic = Lifecycle::attached();
        nic.looked(Some(UP));
        nic.lost(true, start);
        assert_eq!((nic.condition(), nic.is_up(), nic.is_attached()), (Some("away"), false, false));
        assert!(!nic.is_due(start));
        assert_eq!(nic.next_step(start), Some(RELEASE));
        // What takes long is asked for less often.
        assert_eq!(nic.next_step(start + SETTLING), Some(SOON));
        nic.lost(false, start + ms(1));
        assert!(!nic.is_due(start + ms(1)), "the frames are still with the kernel");
        nic.released();
        assert!(nic.is_due(start + ms(1)));
        nic.resumed(start + ms(2));
        assert!(nic.is_attached() && !nic.is_due(start + ms(2)));
        assert_eq!(nic.next_step(start + ms(2)), None);
    }

    #[test]
    fn nic_that_is_lost_over_and_over_is_attached_twice_a_second_at_most() {
        let start = Instant::now();
        let mut nic = Lifecycle::attached();
        nic.lost(false, start);
        assert!(nic.is_due(start), "the first time at once");
        nic.resumed(start);
        nic.lost(false, start + ms(1));
        assert!(!nic.is_due(start + ms(1)));
        assert_eq!(nic.next_step(start + ms(1)), Some(SETTLING - ms(1)));
        assert!(nic.is_due(start + SETTLING));
    }

    #[test]
    fn nic_that_is_absent_waits_for_events() {
        let start = Instant::now();
        let mut nic = Lifecycle::attached();
        nic.lost(false, start);
        nic.absent();
        assert_eq!((nic.condition(), nic.next_step(start)), (Some("away"), None));
        assert!(nic.is_due(start + ms(1)), "whatever happens, it is looked for");
        nic.resumed(start + ms(2));
        assert!(nic.is_attached());
    }

    #[test]
    fn nic_failures_are_reported_when_it_has_settled_and_once() {
        let start = Instant::now();
        let mut nic = Lifecycle::attached();
        nic.lost(false, start);
        assert!(!nic.failed("busy", false, start), "whoever did this may not be done");
        assert_eq!(nic.next_step(start), Some(SOON));
        let later = start + SETTLING;
        assert!(nic.is_due(later) && nic.failed("busy", false, later));
        assert_eq!(nic.next_step(later), Some(LATER));
        assert!(!nic.is_due(later + SOON));
        assert!(!nic.failed("busy", false, later + LATER), "reported");
        assert!(nic.failed("no memory", false, later + 2 * LATER), "another failure");
        assert!(nic.failed("busy", false, later + 3 * LATER), "and the first again");
        // Sockets that were opened before it failed are closed first.
        assert!(!nic.failed("busy", true, later + 4 * LATER));
        assert_eq!(nic.next_step(later + 4 * LATER), Some(SOON));
        nic.released();
        assert!(nic.is_due(later + 5 * LATER));
    }

    #[test]
    fn nic_that_is_back_settles_anew() {
        let start = Instant::now();
        let mut nic = Lifecycle::attached();
        nic.lost(false, start);
        nic.absent();
        let back = start + Duration::from_secs(60);
        assert!(!nic.failed("no such device", false, back));
        assert_eq!(nic.next_step(back), Some(SOON));
        assert!(!nic.failed("no such device", false, back + SOON));
        assert!(nic.failed("no such device", false, back + SETTLING));
        // It goes and comes once more: what was reported is not reported again, however long it settles.
        nic.absent();
        assert!(!nic.failed("no such device", false, back + 2 * SETTLING));
        assert!(!nic.failed("no such device", false, back + 4 * SETTLING));
    }
}
