use crate::error::Result;
use crate::namespace::Namespace;
use crate::station::Station;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How soon its threads notice that they are to end.
const TURN: Duration = Duration::from_millis(50);
/// Bytes of the addresses in front of a tag.
const ADDRESSES: usize = 12;
/// Bytes of an 802.1Q tag.
const TAG: usize = 4;

/// VLAN sub-interfaces for kernels without the module 8021q, each called `<trunk>.<VID>`.
///
/// Each is one end of a veth pair. Threads add the tag to the frames that it sends and remove it from those that it gets.
/// Like the kernel's own, they have the trunk's address and MTU, and checksums are finished before the tag is added. They
/// end when this is dropped; drop it before the trunk.
#[derive(Debug)]
pub struct Trunk {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Trunk {
    /// Sub-interfaces of `trunk`, an interface of `namespace` that is up, for each of `vids`.
    ///
    /// # Errors
    /// If `ip` or `ethtool` fails, or without root.
    pub fn new(namespace: &Namespace, trunk: &str, vids: &[u16]) -> Result<Self> {
        let mut this = Self { end: Arc::default(), threads: Vec::new() };
        let [a, b, c, d, e, f] = namespace.mac(trunk)?;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let mut tagged = Station::new(namespace, trunk)?;
        let mut members = Vec::new();
        for vid in vids {
            let (member, far) = (format!("{trunk}.{vid}"), format!("{trunk}-{vid}"));
            namespace.ip(&format!("link add {member} address {mac} type veth peer name {far}"))?;
            namespace.run("ethtool", ["-K", &member, "tx", "off"])?;
            namespace.sysctl(&format!("net/ipv6/conf/{far}/disable_ipv6"), "1")?;
            namespace.ip(&format!("link set {far} up"))?;
            namespace.ip(&format!("link set {member} up"))?;
            members.push((*vid, Station::new(namespace, &far)?));
            let (mut from, to) = (Station::new(namespace, &far)?, Station::new(namespace, trunk)?);
            let vid = *vid;
            this.spawn(move || {
                let Some(frame) = from.recv(TURN) else { return };
                // A trunk that is down drops the frame, as any interface does.
                let _ = to.send(&with_tag(&frame, vid));
            });
        }
        this.spawn(move || {
            let Some(frame) = tagged.recv(TURN) else { return };
            let member = members.iter().find(|(vid, _)| tag_of(&frame) == Some(*vid));
            if let Some((_, member)) = member {
                let _ = member.send(&[&frame[..ADDRESSES], &frame[ADDRESSES + TAG..]].concat());
            }
        });
        Ok(this)
    }

    /// Has a thread call `turn` again and again.
    fn spawn(&mut self, mut turn: impl FnMut() + Send + 'static) {
        let end = self.end.clone();
        self.threads.push(std::thread::spawn(move || {
            while !end.load(Relaxed) {
                turn();
            }
        }));
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has printed so.
            let _ = thread.join();
        }
    }
}

/// The frame with an 802.1Q tag.
fn with_tag(frame: &[u8], vid: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(ADDRESSES);
    [addresses, &[0x81, 0], &vid.to_be_bytes(), rest].concat()
}

/// The VID of a frame with an 802.1Q tag.
fn tag_of(frame: &[u8]) -> Option<u16> {
    match frame.get(ADDRESSES..ADDRESSES + TAG)? {
        [0x81, 0, high, low] => Some(u16::from_be_bytes([high & 0xf, *low])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{VethOptions, frame, veth};

    #[test]
    fn vlan_sub_interfaces_reach_those_with_the_same_vid() {
        let (a, b) = (Namespace::new("ta").unwrap(), Namespace::new("tb").unwrap());
        veth((&a, "eth0"), (&b, "eth0"), &VethOptions::default()).unwrap();
        let mut wire = Station::new(&b, "eth0").unwrap();
        let trunks = [&a, &b].map(|namespace| Trunk::new(namespace, "eth0", &[10, 20]).unwrap());
        for (namespace, number) in [(&a, 1), (&b, 2)] {
            for vid in [10, 20] {
                namespace.ip(&format!("addr add 10.9.{vid}.{number}/24 dev eth0.{vid}")).unwrap();
            }
        }
        for vid in [10, 20] {
            // As large as an untagged packet may be.
            a.run("ping", ["-c1", "-W5", "-Mdo", "-s1472", &format!("10.9.{vid}.2")]).unwrap();
            let seen = wire.recv_where(Duration::from_secs(5), |frame| frame.len() == 1518);
            assert_eq!(tag_of(&seen.unwrap()), Some(vid));
        }
        // Frames of another VLAN and untagged frames reach no sub-interface.
        let mut member = Station::new(&b, "eth0.10").unwrap();
        let sender = Station::new(&a, "eth0").unwrap();
        let of = |tags: &[frame::Tag], seq| {
            frame::frame([0xff; 6], [2, 0, 0, 0, 0, 1], tags, frame::ETHERTYPE, 80, seq)
        };
        for (seq, tags) in [&[][..], &[frame::Tag::vlan(11)], &[frame::Tag::vlan(10)]].into_iter().enumerate()
        {
            sender.send(&of(tags, seq as u64)).unwrap();
        }
        let is_ours = |frame: &[u8]| frame[12..14] == frame::ETHERTYPE.to_be_bytes();
        let got = member.recv_where(Duration::from_secs(5), is_ours).unwrap();
        let sent = of(&[frame::Tag::vlan(10)], 2);
        assert_eq!(got, [&sent[..12], &sent[16..]].concat());
        drop(trunks);
    }
}
