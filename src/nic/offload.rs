//! Turns off what NICs do to frames before the XDP program sees them, and turns it on again.
//!
//! - VLAN tags: NICs take them out of the frame; XDP sees it without.
//! - Merging: LRO and GRO make one frame above the MTU of many. In hardware this happens before any XDP program,
//!   and several drivers refuse one while it is on; GRO in software comes before generic XDP only.

use super::lock::NicLock;
use super::merging::{fix_where_fixed, in_the_way};
use super::{Error, Nic};
use crate::sys::ethtool::Feature;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Offloads of a NIC that are off until this is dropped, or [restored](Self::restore).
///
/// Only what was on and was turned off here is turned on again, and only if no other program did so meanwhile. What
/// was on is first recorded beside the lock of the NIC; if the process is killed, the next one that quiets this
/// NIC takes the record over. Drop the [`Attachment`](super::attach::Attachment) before this.
#[derive(Debug)]
pub struct Offloads {
    nic: Nic,
    lock: NicLock,
    /// Turned off by us, or by a run that was killed: to be turned on again.
    turned_off: Vec<String>,
    still_on: Vec<StillOn>,
    generic_mode: bool,
    restored: bool,
}

/// A feature that should be off and cannot be turned off. Its message says what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StillOn {
    /// The NIC.
    pub interface: String,
    /// The kernel's name of the feature.
    pub feature: String,
    /// Fixed: it cannot be changed. Otherwise the driver declined.
    pub fixed: bool,
    /// The NIC's driver.
    pub driver: String,
}

impl StillOn {
    /// The command by which a user would turn it off.
    #[must_use]
    pub fn command(&self) -> String {
        format!("ethtool -K {} {} off", self.interface, self.feature)
    }

    /// Whether it takes VLAN tags out of frames; what does not merges them.
    #[must_use]
    pub fn is_of_tags(&self) -> bool {
        self.feature.contains("vlan")
    }

    /// What it does to frames.
    #[must_use]
    pub fn consequence(&self) -> &'static str {
        if self.is_of_tags() {
            "VLAN tags from the wire will not reach the routers"
        } else {
            "frames from the wire may be merged above the MTU and dropped"
        }
    }
}

impl fmt::Display for StillOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.fixed { "its driver has it fixed" } else { "its driver kept it" };
        let so = self.consequence();
        write!(f, "{} has {} on and {why}: {so} (", self.interface, self.feature)?;
        match &*self.driver {
            "virtio_net" if self.fixed && !self.is_of_tags() => {
                write!(f, "{} prevents it)", fix_where_fixed(&self.driver))
            }
            _ => write!(f, "`{}`)", self.command()),
        }
    }
}

/// What is kept in the file beside the lock.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// For people who look: the NIC's name.
    interface: String,
    /// Features that were on and are off because of us.
    turned_off: Vec<String>,
}

/// What to do, worked out from what is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// On now, to be turned off.
    off: Vec<String>,
    /// Turned off by a run that was killed, and not in our way.
    on: Vec<String>,
    /// Turned off by a run that was killed, and to stay so.
    keep: Vec<String>,
    /// On, and fixed.
    fixed: Vec<String>,
}

impl Offloads {
    /// Turns off what is in the way of an XDP program on `nic`; with `generic_mode`, of a generic one.
    ///
    /// What a killed run turned off is dealt with first. It stays off where it has to be off now too, rather than
    /// go on and off again: some NICs lose carrier for seconds at each change.
    ///
    /// # Errors
    /// [`Error::Offload`] where the kernel refuses, [`Error::StateDir`] where nothing can be recorded; features
    /// are then as they were. What cannot be changed is no error: see [`still_on`](Self::still_on).
    pub fn quiet(nic: &Nic, lock: &NicLock, generic_mode: bool) -> Result<Self, Error> {
        let earlier = read_record(lock)?;
        if !earlier.is_empty() {
            tracing::info!(
                nic = %nic.name,
                "taking over offloads that a killed run left off: {}",
                earlier.join(" ")
            );
        }
        // From here on dropping it gives back what is ours, also where the next step fails.
        let mut this = Self {
            nic: nic.clone(),
            lock: lock.clone(),
            turned_off: earlier,
            still_on: Vec::new(),
            generic_mode,
            restored: false,
        };
        this.apply()?;
        Ok(this)
    }

    /// Turns off what is in the way of a generic program too, once it turned out that the NIC takes no native one.
    ///
    /// # Errors
    /// As for [`quiet`](Self::quiet).
    pub fn quiet_for_generic(&mut self) -> Result<(), Error> {
        self.generic_mode = true;
        self.apply()
    }

    /// What is in the way and has been turned on since: each with the command that turns it off.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Query`].
    pub fn turned_on(&self) -> Result<Vec<StillOn>, Error> {
        let known = |name: &String| self.still_on.iter().any(|still| still.feature == *name);
        let on = plan(&self.features()?, &self.turned_off, self.generic_mode).off;
        let interface = &self.nic.name;
        Ok(on
            .into_iter()
            .filter(|name| !known(name))
            .map(|feature| {
                let driver = self.nic.driver.clone();
                StillOn { interface: interface.clone(), feature, fixed: false, driver }
            })
            .collect())
    }

    /// Turns off what is in the way again. It is turned on at the end, because another program wants it so.
    ///
    /// # Errors
    /// As for [`quiet`](Self::quiet).
    pub fn quiet_again(&mut self) -> Result<(), Error> {
        self.apply()
    }

    /// What should be off and is on.
    #[must_use]
    pub fn still_on(&self) -> &[StillOn] {
        &self.still_on
    }

    /// The features that were on and are now off, by the kernel's names.
    #[must_use]
    pub fn turned_off(&self) -> &[String] {
        &self.turned_off
    }

    /// Turns on again what was turned off. Dropping does the same, but can only log what went wrong.
    ///
    /// # Errors
    /// [`Error::Offload`]; the record then stays for the next run.
    pub fn restore(mut self) -> Result<(), Error> {
        self.give_back()
    }

    /// Turns on again what a run that was killed left off on `nic`; returns the names of that.
    ///
    /// # Errors
    /// As for [`restore`](Self::restore).
    pub(crate) fn put_back(nic: &Nic, lock: &NicLock) -> Result<Vec<String>, Error> {
        lock.remove_draft();
        let (nic, lock, turned_off) = (nic.clone(), lock.clone(), read_record(lock)?);
        let names = turned_off.clone();
        let left = Self { nic, lock, turned_off, still_on: Vec::new(), generic_mode: false, restored: false };
        left.restore().map(|()| names)
    }

    fn apply(&mut self) -> Result<(), Error> {
        let features = self.features()?;
        let plan = plan(&features, &self.turned_off, self.generic_mode);

        // All of it is recorded before the first change: killed in between, the next run finds what is still off.
        let all: Vec<String> = [&plan.keep[..], &plan.off, &plan.on].concat();
        self.record(&all)?;
        self.turned_off = all;
        self.set(&features, &plan.off, &plan.on)?;
        self.turned_off = [&plan.keep[..], &plan.off].concat();
        self.record(&self.turned_off)?;

        let after = self.features()?;
        let declined = plan.off.iter().filter(|name| is_active(&after, name));
        let still_on = |fixed| {
            let Nic { name, driver, .. } = &self.nic;
            move |feature: &String| StillOn {
                interface: name.clone(),
                feature: feature.clone(),
                fixed,
                driver: driver.clone(),
            }
        };
        self.still_on = plan.fixed.iter().map(still_on(true)).chain(declined.map(still_on(false))).collect();
        Ok(())
    }

    fn give_back(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.restored, true) || self.turned_off.is_empty() {
            return Ok(());
        }
        let features = match self.features() {
            Ok(features) => features,
            // Nothing to give back to.
            Err(Error::Gone { .. }) => return self.lock.remove_record(),
            Err(error) => return Err(error),
        };
        let ours = ours(&features, &self.turned_off);
        self.set(&features, &[], &ours)?;
        let after = self.features()?;
        for name in ours.iter().filter(|name| !is_active(&after, name)) {
            let nic = &self.nic.name;
            tracing::warn!(nic = %nic, "{name} was on and its driver keeps it off (`ethtool -K {nic} {name} on`)");
        }
        self.lock.remove_record()
    }

    fn features(&self) -> Result<Vec<Feature>, Error> {
        let name = self.nic.name_now()?;
        let query = |source| Error::Query { name: name.clone(), what: "offloads", source };
        self.nic.socket.features(&name).map_err(query)
    }

    /// One request for everything, so that the NIC is reconfigured once.
    fn set(&self, features: &[Feature], off: &[String], on: &[String]) -> Result<(), Error> {
        let wanted: Vec<(usize, bool)> = features
            .iter()
            .enumerate()
            .filter_map(|(i, feature)| match &feature.name {
                name if off.contains(name) => Some((i, false)),
                name if on.contains(name) => Some((i, true)),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let name = self.nic.name_now()?;
        self.nic.socket.set_features(&name, &wanted).map_err(|source| Error::Offload {
            name: self.nic.name.clone(),
            features: [off, on].concat().join(" "),
            source,
        })
    }

    fn record(&self, turned_off: &[String]) -> Result<(), Error> {
        if turned_off.is_empty() {
            return self.lock.remove_record();
        }
        let record = Record { interface: self.nic.name.clone(), turned_off: turned_off.to_vec() };
        // A struct of strings always becomes JSON.
        self.lock.write_record(&serde_json::to_vec(&record).unwrap_or_default())
    }
}

impl Drop for Offloads {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::error!(
                nic = %self.nic.name,
                "offloads stay off ({}): {error}; the next start turns them on again, or `ethtool -K`",
                self.turned_off.join(" ")
            );
        }
    }
}

/// What a killed run left to be turned on again. A malformed record is no reason to refuse a start.
fn read_record(lock: &NicLock) -> Result<Vec<String>, Error> {
    let Some(contents) = lock.read_record()? else { return Ok(Vec::new()) };
    match parse_record(&contents) {
        Ok(turned_off) => Ok(turned_off),
        Err(error) => {
            tracing::warn!("{}: ignored, not a record of offloads: {error}", lock.record_path().display());
            Ok(Vec::new())
        }
    }
}

/// The features that a record names.
pub(crate) fn parse_record(contents: &[u8]) -> serde_json::Result<Vec<String>> {
    serde_json::from_slice::<Record>(contents).map(|record| record.turned_off)
}

fn plan(features: &[Feature], earlier: &[String], generic_mode: bool) -> Plan {
    let in_the_way = |name: &str| in_the_way(name, generic_mode);
    let mut plan = Plan::default();
    for Feature { name, changeable, active, .. } in features {
        if in_the_way(name) && *active {
            if *changeable { plan.off.push(name.clone()) } else { plan.fixed.push(name.clone()) }
        }
    }
    let ours = ours(features, earlier);
    (plan.keep, plan.on) = ours.into_iter().partition(|name| in_the_way(name));
    // The driver declined to turn it off: it is ours already, and to be asked again.
    plan.keep.retain(|name| !plan.off.contains(name));
    plan
}

/// Those of `turned_off` that no program has asked to turn on since.
fn ours(features: &[Feature], turned_off: &[String]) -> Vec<String> {
    let is_ours =
        |feature: &&Feature| turned_off.contains(&feature.name) && feature.changeable && !feature.requested;
    features.iter().filter(is_ours).map(|feature| feature.name.clone()).collect()
}

fn is_active(features: &[Feature], name: &str) -> bool {
    features.iter().any(|feature| feature.name == name && feature.active)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `k` is on and `-` off, `K` on and `=` off for good.
    fn feature(name: &str, state: char) -> Feature {
        let on = matches!(state, 'k' | 'K');
        Feature { name: name.into(), changeable: matches!(state, 'k' | '-'), requested: on, active: on }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn only_what_is_on_and_changeable_is_turned_off() {
        let features = [
            feature("tx-checksum-ipv4", 'k'),
            feature("rx-vlan-hw-parse", 'k'),
            feature("rx-vlan-stag-hw-parse", 'K'),
            feature("rx-lro", '='),
            feature("rx-gro-hw", '-'),
            feature("rx-gro", 'k'),
        ];
        let native = plan(&features, &[], false);
        assert_eq!(native.off, names(&["rx-vlan-hw-parse"]));
        assert_eq!(native.fixed, names(&["rx-vlan-stag-hw-parse"]));
        assert!(native.on.is_empty() && native.keep.is_empty());
        assert_eq!(plan(&features, &[], true).off, names(&["rx-vlan-hw-parse", "rx-gro"]));
    }

    #[test]
    fn a_killed_generic_run_followed_by_a_native_one() {
        let features =
            [feature("rx-vlan-hw-parse", '-'), feature("rx-gro", '-'), feature("rx-gro-list", 'k')];
        let earlier = names(&["rx-vlan-hw-parse", "rx-gro", "rx-gro-list"]);
        let plan = plan(&features, &earlier, false);
        // Needed off now too; not needed any more; turned on by another program since.
        let expected = Plan { keep: names(&["rx-vlan-hw-parse"]), on: names(&["rx-gro"]), ..Plan::default() };
        assert_eq!(plan, expected);
    }

    #[test]
    fn what_the_user_asked_for_since_is_not_ours() {
        let mut lro = feature("rx-lro", '-');
        lro.requested = true;
        let features = [lro, feature("rx-gro", '-')];
        assert_eq!(ours(&features, &names(&["rx-lro", "rx-gro"])), names(&["rx-gro"]));
    }

    #[test]
    fn what_a_driver_declined_is_asked_again_and_recorded_once() {
        let mut gro_hw = feature("rx-gro-hw", 'k');
        gro_hw.requested = false;
        let plan = plan(&[gro_hw], &names(&["rx-gro-hw"]), false);
        assert_eq!(plan, Plan { off: names(&["rx-gro-hw"]), ..Plan::default() });
    }

    #[test]
    fn the_warning_names_the_command() {
        let vlan = StillOn {
            interface: "eth0".into(),
            feature: "rx-vlan-hw-parse".into(),
            fixed: true,
            driver: "ixgbe".into(),
        };
        let text = vlan.to_string();
        assert!(
            text.contains("`ethtool -K eth0 rx-vlan-hw-parse off`") && text.contains("VLAN tags"),
            "{text}"
        );
        let lro = StillOn { feature: "rx-lro".into(), fixed: false, ..vlan.clone() };
        assert!(lro.to_string().contains("merged"));
        // What the guest cannot change, who starts it can.
        let virtio = StillOn { feature: "rx-gro-hw".into(), driver: "virtio_net".into(), ..vlan };
        let text = virtio.to_string();
        assert!(text.contains("guest_tso4=off") && !text.contains("ethtool"), "{text}");
    }
}
