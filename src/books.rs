//! The books: what came in has come out, or stands in the summary under the reason why not.
//!
//! Four accounts, each kept at both of its ends by counters that know nothing of each other. A frame for many routers is
//! one datagram for each of their interfaces on the LAN, also for those that are not there: each is delivered, or lost
//! under its own reason.
//!
//! | account | in | out |
//! |---|---|---|
//! | steered | redirected by the XDP program | taken out of RX rings; dropped by the kernel in between |
//! | copied | copies made by the XDP program | taken out of the workers' ring buffers |
//! | to routers | unicast taken out of rings; datagrams made of frames for many | delivered; lost, of those from the wire |
//! | from routers | datagrams read; copies made of those for many | to the wire, to routers, left to neighbours; lost, of those from routers |
//!
//! They are closed when nothing moves any more: the XDP programs pass everything on, none of them still runs that began
//! before, and the workers have ended.

use std::fmt;

/// What went into something, and what came out of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Account {
    /// Frames that went in.
    pub entered: u64,
    /// Frames that came out, or were lost under a reason.
    pub left: u64,
}

impl Account {
    /// Everything that went in has come out, and nothing else.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.entered == self.left
    }
}

/// The accounts of a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Books {
    /// From the XDP programs through AF_XDP rings to the workers.
    pub steered: Account,
    /// From the XDP programs through ring buffers to the workers.
    pub copied: Account,
    /// Through the workers to the routers.
    pub to_routers: Account,
    /// From the routers to wherever.
    pub from_routers: Account,
}

impl Books {
    /// Every account balances.
    #[must_use]
    pub fn balance(&self) -> bool {
        self.accounts().iter().all(|(_, account)| account.balances())
    }

    fn accounts(&self) -> [(&'static str, Account); 4] {
        [
            ("steered", self.steered),
            ("copied", self.copied),
            ("to routers", self.to_routers),
            ("from routers", self.from_routers),
        ]
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.balance() {
            return f.write_str("balanced");
        }
        let mut separator = "not balanced: ";
        for (name, Account { entered, left }) in
            self.accounts().into_iter().filter(|(_, account)| !account.balances())
        {
            write!(f, "{separator}{name} {entered} in and {left} out")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_balance_is_named_with_both_sides() {
        let mut books = Books { steered: Account { entered: 7, left: 7 }, ..Books::default() };
        assert_eq!((books.balance(), books.to_string()), (true, "balanced".into()));
        books.copied.left = 1;
        books.from_routers = Account { entered: 9, left: 8 };
        assert!(!books.balance());
        assert_eq!(books.to_string(), "not balanced: copied 0 in and 1 out, from routers 9 in and 8 out");
    }
}
