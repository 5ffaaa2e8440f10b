//! Frame accounting: what came in has come out, or is in the summary under the reason why not.
//!
//! Four flows, each counted at both of its ends by counters that know nothing of each other. A frame for many routers is
//! one datagram for each of their interfaces on the LAN, also for those that are not there: each is delivered, or dropped
//! under its own reason.
//!
//! | flow | in | out |
//! |---|---|---|
//! | steered | redirected by the XDP program | taken out of RX rings; dropped by the kernel in between |
//! | copied | copies made by the XDP program | taken out of the workers' ring buffers |
//! | to routers | unicast taken out of rings; datagrams made of frames for many | delivered; dropped, of those from the wire |
//! | from routers | datagrams read; copies made of those for many | to the wire, to routers, left to the sender's split-horizon group; dropped, of those from routers |
//!
//! They are closed when nothing moves any more: the XDP programs pass everything on, none of them still runs that began
//! before, and the workers have ended.

use std::fmt;

/// What went into something, and what came out of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Frames that went in.
    pub entered: u64,
    /// Frames that came out, or were dropped under a reason.
    pub left: u64,
}

impl Flow {
    /// Everything that went in has come out, and nothing else.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.entered == self.left
    }
}

/// The flows of a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Accounting {
    /// From the XDP programs through AF_XDP rings to the workers.
    pub steered: Flow,
    /// From the XDP programs through ring buffers to the workers.
    pub copied: Flow,
    /// Through the workers to the routers.
    pub to_routers: Flow,
    /// From the routers to wherever.
    pub from_routers: Flow,
}

impl Accounting {
    /// Every flow balances.
    #[must_use]
    pub fn balance(&self) -> bool {
        self.flows().iter().all(|(_, flow)| flow.balances())
    }

    fn flows(&self) -> [(&'static str, Flow); 4] {
        [
            ("steered", self.steered),
            ("copied", self.copied),
            ("to routers", self.to_routers),
            ("from routers", self.from_routers),
        ]
    }
}

impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.balance() {
            return f.write_str("balanced");
        }
        let mut separator = "not balanced: ";
        for (name, Flow { entered, left }) in self.flows().into_iter().filter(|(_, flow)| !flow.balances()) {
            write!(f, "{separator}{name} {entered} in and {left} out")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise `accounting`.
    #[test]
    fn accounting_names_each_flow_that_is_not_balanced_with_in_and_out() {
        let mut accounting = Accounting { steered: Flow { entered: 7, left: 7 }, ..Accounting::default() };
        assert_eq!((accounting.balance(), accounting.to_string()), (true, "balanced".into()));
        accounting.copied.left = 1;
        accounting.from_routers = Flow { entered: 9, left: 8 };
        assert!(!accounting.balance());
        assert_eq!(
            accounting.to_string(),
            "not balanced: copied 0 in and 1 out, from routers 9 in and 8 out"
        );
    }
}
