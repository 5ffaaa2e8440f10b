//! A NIC in use: everything that is taken from it, and given back when this is dropped.

use super::attach::{Attachment, XdpMode, XdpModeChoice, attach_within};
use super::flap_damping::{Answer, FlapDamping};
use super::lock::NicLock;
use super::offload::Offloads;
use super::promisc::Promiscuous;
use super::{Error, Nic};
use crate::ether::{self, Mac};
use crate::steer::layout::{MAX_LARGE, MAX_STEERED};
use crate::sys::mmsg::CHUNKS;
use af_xdp::{CopyMode, Registration};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a NIC of this MTU has frames that do not fit into one chunk; those with two VLAN tags are the largest.
pub(crate) const fn needs_several_chunks(mtu: u32) -> bool {
    mtu as usize + ether::HEADER + 2 * ether::TAG > MAX_STEERED
}

/// How the user wants NICs to be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modes {
    /// Where the XDP program runs.
    pub(crate) xdp: XdpModeChoice,
    /// Whether NICs write into our memory.
    pub(crate) copy: CopyMode,
}

/// What is in use of a NIC while it is there. Fields are dropped in this order: the program goes before the offloads
/// come back, because some drivers refuse to change them under XDP; the lock goes last.
pub(crate) struct Device {
    pub(crate) attachment: Attachment,
    _promiscuous: Promiscuous,
    offloads: Offloads,
    _lock: NicLock,
    pub(crate) nic: Nic,
    /// Its address, as it was read last.
    mac: Mac,
    /// Its AF_XDP sockets, once they are open: on so many queues.
    pub(crate) registration: Option<Arc<Registration>>,
    pub(crate) queues: usize,
    pub(crate) zero_copy: bool,
    /// Frames may take several chunks.
    pub(crate) scatter: bool,
    flap_damping: FlapDamping,
}

/// Why a NIC, or its sockets, must be taken anew.
#[derive(Debug)]
pub(crate) enum Detach {
    /// It is not there any more.
    Gone(Error),
    /// It has this name now.
    Renamed(String),
    /// It lost the XDP program: another process detached it, or this is another NIC of the same name and number.
    ProgramGone,
    /// It has so many queues now.
    Queues(usize),
}

impl Device {
    /// Takes `nic`, which is locked, and attaches `program`, waiting for `patience` for another one to go.
    ///
    /// # Errors
    /// Of each part: offloads, promiscuous mode, attaching. [`Error::ZeroCopyGeneric`].
    pub(crate) fn take(
        nic: Nic,
        lock: NicLock,
        program: BorrowedFd<'_>,
        modes: Modes,
        patience: Duration,
    ) -> Result<Self, Error> {
        let name = nic.name().to_owned();
        let mut offloads = Offloads::quiet(&nic, &lock, modes.xdp == XdpModeChoice::Generic)?;
        let promiscuous = Promiscuous::join(&nic)?;
        if nic.state().carrier {
            tracing::info!(nic = %name, "attaching; some NICs lose carrier for two seconds now");
        }
        let attachment = attach_within(program, &nic, modes.xdp, patience)?;
        if attachment.mode == XdpMode::Generic {
            if modes.copy == CopyMode::ZeroCopy {
                return Err(Error::ZeroCopyGeneric(name));
            }
            offloads.quiet_for_generic()?;
        }
        // A stacked interface has what merges from its lower device, which is named by itself if it matters.
        for feature in offloads.still_on().iter().filter(|feature| !nic.is_stacked() || feature.is_of_tags())
        {
            tracing::warn!(nic = %name, "{feature}");
        }
        Ok(Self {
            attachment,
            _promiscuous: promiscuous,
            offloads,
            _lock: lock,
            mac: nic.mac(),
            registration: None,
            queues: nic.rx_queues() as usize,
            zero_copy: false,
            scatter: false,
            flap_damping: FlapDamping::default(),
            nic,
        })
    }

    /// Its address, as it was read last.
    pub(crate) const fn mac(&self) -> Mac {
        self.mac
    }

    /// Why it cannot be used as it was taken, if that is so.
    pub(crate) fn must_detach(&self) -> Option<Detach> {
        match self.nic.name_now() {
            Err(error) => return Some(Detach::Gone(error)),
            Ok(name) if name != self.nic.name() => return Some(Detach::Renamed(name)),
            Ok(_) => {}
        }
        if !self.attachment.is_on(&self.nic) {
            // The first that goes when a NIC is removed is the program.
            return Some(self.nic.name_after_all().map_or_else(Detach::Gone, |_| Detach::ProgramGone));
        }
        let queues = self.nic.refresh_queues().0 as usize;
        (self.registration.is_some() && queues != self.queues).then_some(Detach::Queues(queues))
    }

    /// How to bind to it for frames of this MTU: whether to copy, and whether frames may take several chunks.
    pub(crate) fn binding(&self, choice: CopyMode) -> (CopyMode, bool) {
        binding(choice, &self.attachment, needs_several_chunks(self.nic.mtu()))
    }

    /// The largest frame that is steered to routers, bytes.
    pub(crate) const fn largest(&self) -> usize {
        if self.scatter { MAX_LARGE } else { MAX_STEERED }
    }

    /// Names what does not fit into the buffers under this MTU, and what can be done.
    pub(crate) fn warn_of_mtu(&self, mtu: u32) {
        let largest = self.largest();
        if mtu as usize + ether::HEADER <= largest {
            return;
        }
        let why = match self.attachment.zero_copy_chunks {
            _ if self.scatter => "the largest that buffers are made for",
            Some(_) if self.zero_copy => {
                "its driver takes no larger ones with zero-copy: start iou-fast again, with `--copy-mode copy`"
            }
            _ => "larger ones need kernel 6.7 or newer, or 6.6.11",
        };
        tracing::warn!(
            nic = %self.nic.name(),
            "its MTU is {mtu}, and frames above {largest} bytes are dropped and counted ({why})"
        );
    }

    /// Reads its address; what it is if it has changed.
    pub(crate) fn follow_mac(&mut self) -> Option<Mac> {
        let mac = self.nic.refresh_mac();
        (std::mem::replace(&mut self.mac, mac) != mac).then_some(mac)
    }

    /// What is in the way of an XDP program and was turned on since is turned off again, a few times.
    pub(crate) fn follow_offloads(&mut self) {
        let Ok(turned_on) = self.offloads.turned_on() else { return };
        let name = self.nic.name();
        match self.flap_damping.found(!turned_on.is_empty(), Instant::now()) {
            Answer::Nothing => return,
            Answer::Suppress => {
                for feature in turned_on {
                    tracing::error!(
                        nic = %name,
                        "{} keeps being re-enabled; leaving it on: {}; find out which program does it, then `{}`",
                        feature.feature,
                        feature.consequence(),
                        feature.command()
                    );
                }
                return;
            }
            Answer::TurnOff => {}
        }
        let quieted = self.offloads.quiet_again();
        for feature in turned_on {
            let (what, so) = (&feature.feature, feature.consequence());
            match &quieted {
                Ok(()) => tracing::warn!(
                    nic = %name,
                    "{what} was turned on; it is off again until iou-fast ends, because with it {so}"
                ),
                Err(error) => {
                    tracing::error!(nic = %name, "{what} was turned on: {so}; `{}`. {error}", feature.command());
                }
            }
        }
    }
}

/// How to bind to a NIC: whether to copy, and whether frames may take several chunks. A driver may have zero-copy for
/// frames of one chunk only; it is then not used for `large` frames, unless the user asks for zero-copy.
fn binding(choice: CopyMode, attachment: &Attachment, large: bool) -> (CopyMode, bool) {
    let native = attachment.mode == XdpMode::Native;
    let zero_copy = attachment.zero_copy_chunks.filter(|_| native);
    let enough = zero_copy.is_some_and(|chunks| chunks as usize >= CHUNKS);
    match choice {
        _ if !native => (CopyMode::Copy, true),
        CopyMode::Copy => (CopyMode::Copy, true),
        CopyMode::ZeroCopy => (CopyMode::ZeroCopy, enough),
        CopyMode::Auto if zero_copy.is_none() || enough => (CopyMode::Auto, true),
        CopyMode::Auto if large => (CopyMode::Copy, true),
        CopyMode::Auto => (CopyMode::Auto, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CopyMode::{Auto, Copy, ZeroCopy};
    use std::os::fd::OwnedFd;

    fn attachment(mode: XdpMode, zero_copy_chunks: Option<u32>) -> Attachment {
        let link = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        Attachment { link, mode, zero_copy_chunks }
    }

    #[test]
    fn zero_copy_is_not_used_for_large_frames_that_it_cannot_carry_unless_asked_for() {
        for (choice, chunks, small, large) in [
            // veth; virtio-net and igc; i40e.
            (Auto, None, (Auto, true), (Auto, true)),
            (Auto, Some(1), (Auto, false), (Copy, true)),
            (Auto, Some(8), (Auto, true), (Auto, true)),
            (ZeroCopy, Some(1), (ZeroCopy, false), (ZeroCopy, false)),
            (ZeroCopy, Some(8), (ZeroCopy, true), (ZeroCopy, true)),
            (Copy, Some(1), (Copy, true), (Copy, true)),
        ] {
            let native = attachment(XdpMode::Native, chunks);
            assert_eq!(binding(choice, &native, false), small, "{choice:?} {chunks:?}");
            assert_eq!(binding(choice, &native, true), large, "{choice:?} {chunks:?}, large");
            let generic = attachment(XdpMode::Generic, chunks);
            assert_eq!(binding(choice, &generic, true), (Copy, true));
        }
    }

    #[test]
    fn nic_of_the_usual_mtu_needs_one_chunk_per_frame() {
        assert!(!needs_several_chunks(1500) && !needs_several_chunks(3802));
        assert!(needs_several_chunks(3803) && needs_several_chunks(9000));
    }
}
