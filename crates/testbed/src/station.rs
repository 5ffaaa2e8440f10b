use crate::error::{Context, Result};
use crate::namespace::Namespace;
use crate::sys;
use crate::wait::readable;
use rustix::net::netdevice::name_to_index;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Receive buffer in bytes. The kernel accounts at least 768 for a small frame, so this holds some 80,000.
const RECEIVE_BUFFER: i32 = 64 << 20;

/// No frame is larger, GRO's included.
const LARGEST: usize = 65536 + 256;

/// A host on a wire: a raw socket that sends and receives whole frames on one interface.
///
/// It receives all frames that arrive at the interface from the moment it is made, but not those that it or the kernel
/// sends. Every VLAN tag is in place: one that the kernel has taken out is put back. Frames to other addresses than the
/// interface's own are received too, except on NICs that filter them, see [`Station::promiscuous`].
///
/// The kernel refuses to send more than MTU + 18 bytes (two tags and a full packet need an MTU of 1504), and drops a
/// tagged frame of less than 20 bytes before a socket receives it (XDP still sees it).
#[derive(Debug)]
pub struct Station {
    socket: OwnedFd,
    interface: u32,
    buffer: Vec<u8>,
}

impl Station {
    /// A host on `interface` of a namespace.
    ///
    /// # Errors
    /// If there is no such interface, or without root.
    pub fn new(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open(namespace, interface, None)
    }

    /// One that receives only untagged frames of one EtherType, so that others cost it no time.
    ///
    /// # Errors
    /// As [`Station::new`].
    pub fn of_type(namespace: &Namespace, interface: &str, ethertype: u16) -> Result<Self> {
        Self::open(namespace, interface, Some(ethertype))
    }

    fn open(namespace: &Namespace, interface: &str, ethertype: Option<u16>) -> Result<Self> {
        let (socket, index) = namespace
            .enter(|| {
                let bare = rustix::net::socket(
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::SocketType::DGRAM,
                    None,
                )?;
                let index = name_to_index(&bare, interface)?;
                Ok::<_, io::Error>((sys::packet_socket(index, RECEIVE_BUFFER, ethertype)?, index))
            })?
            .context(|| format!("cannot open a raw socket on {interface} in {}", namespace.name()))?;
        Ok(Self { socket, interface: index, buffer: vec![0; LARGEST] })
    }

    /// Has the NIC receive every frame on the wire until this is dropped.
    ///
    /// # Errors
    /// If the interface was removed.
    pub fn promiscuous(self) -> Result<Self> {
        sys::set_promiscuous(self.socket.as_fd(), self.interface).context(|| "promiscuous mode".into())?;
        Ok(self)
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// If it is too large for the interface or the interface is down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.send_batch(&[frame])
    }

    /// Sends frames one after another as fast as the interface takes them.
    ///
    /// # Errors
    /// As [`Station::send`]; the frames before the refused one are sent.
    pub fn send_batch<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result<()> {
        let mut sent = 0;
        while sent < frames.len() {
            sent += sys::send_packets(self.socket.as_fd(), &frames[sent..]).context(|| {
                format!("cannot send a frame of {} bytes (number {sent})", frames[sent].as_ref().len())
            })?;
        }
        Ok(())
    }

    /// The next frame, or `None` if none arrives within `timeout`.
    ///
    /// # Panics
    /// If the interface was removed, because no test can continue then.
    pub fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + timeout;
        loop {
            match sys::receive_packet(self.socket.as_fd(), &mut self.buffer) {
                Ok((len, tag)) => return Some(with_tag(&self.buffer[..len], tag)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Reported once when the interface goes down; no frame is dropped by that.
                Err(e) if e.kind() == io::ErrorKind::NetworkDown => continue,
                Err(e) => panic!("station: {e}"),
            }
            if !readable(&self.socket, end) {
                return None;
            }
        }
    }

    /// The next frame that `wanted` accepts; others before it are discarded. `None` if it does not arrive within
    /// `timeout`.
    pub fn recv_where(&mut self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + timeout;
        loop {
            let frame = self.recv(end.saturating_duration_since(Instant::now()))?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Discards the frames that have arrived so far and returns their number.
    pub fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.recv(Duration::ZERO)).count()
    }

    /// How many frames the kernel has dropped since the last call, because they were not read in time.
    ///
    /// # Errors
    /// Never on a working kernel.
    pub fn lost(&self) -> Result<u32> {
        sys::packet_drops(self.socket.as_fd()).context(|| "statistics of a raw socket".into())
    }
}

/// The frame with the tag behind the addresses, where it was on the wire.
fn with_tag(frame: &[u8], tag: Option<(u16, u16)>) -> Vec<u8> {
    let Some((tpid, tci)) = tag else { return frame.to_vec() };
    let (addresses, rest) = frame.split_at(12);
    [addresses, &tpid.to_be_bytes(), &tci.to_be_bytes(), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, ETHERTYPE, Tag, frame};
    use crate::{VethOptions, veth};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
    const SOON: Duration = Duration::from_secs(2);

    fn pair(mtu: u32) -> (Namespace, Namespace) {
        let (a, b) = (Namespace::new("sta").unwrap(), Namespace::new("stb").unwrap());
        // No neighbour discovery between the frames of the test.
        for ns in [&a, &b] {
            ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        let options = VethOptions { mtu, mac_a: Some(A), mac_b: Some(B), ..VethOptions::default() };
        veth((&a, "eth0"), (&b, "eth0"), &options).unwrap();
        (a, b)
    }

    #[test]
    fn frames_of_all_sizes_and_tags_pass_whole() {
        let (a, b) = pair(9500);
        let (sender, mut receiver) = (Station::new(&a, "eth0").unwrap(), Station::new(&b, "eth0").unwrap());
        let stranger = [2, 0, 0, 0, 0, 0xc];
        let tags: [&[Tag]; 4] = [
            &[],
            &[Tag::vlan(10)],
            &[Tag::new(0x88a8, 0xe064)],
            &[Tag::new(0x88a8, 20), Tag::new(0x8100, 0x6007)],
        ];
        let mut seq = 0;
        for to in [B, stranger, [0xff; 6]] {
            for tags in tags {
                for len in [14 + 6 * tags.len(), 60, 64, 1514, 1522, 9514] {
                    let sent = frame(to, A, tags, ETHERTYPE, len, seq);
                    assert_eq!(sent.len(), len);
                    sender.send(&sent).unwrap();
                    let received = receiver.recv(SOON);
                    let received =
                        received.unwrap_or_else(|| panic!("{len} bytes, {tags:?}: nothing received"));
                    frame::same(&sent, &received).unwrap();
                    seq += 1;
                }
            }
        }
        assert_eq!(receiver.recv(Duration::from_millis(20)), None);
    }

    #[test]
    fn a_batch_arrives_in_order_and_own_frames_do_not_count() {
        let (a, b) = pair(1500);
        let (mut sender, mut receiver) =
            (Station::new(&a, "eth0").unwrap().promiscuous().unwrap(), Station::new(&b, "eth0").unwrap());
        let frames: Vec<_> = (0..3000).map(|seq| frame(B, A, &[] as &[Tag], ETHERTYPE, 100, seq)).collect();
        sender.send_batch(&frames).unwrap();
        for seq in 0..3000 {
            assert_eq!(frame::check(&receiver.recv(SOON).unwrap()).unwrap().seq, seq);
        }
        assert_eq!(sender.recv(Duration::from_millis(20)), None);
        sender.send_batch(&frames[..10]).unwrap();
        assert!(receiver.recv_where(SOON, |f| frame::check(f).unwrap().seq == 4).is_some());
        assert_eq!(receiver.drain(), 5);
        assert_eq!(receiver.lost().unwrap(), 0);
    }

    #[test]
    fn a_frame_above_the_mtu_is_refused_and_a_wrong_interface_named() {
        let (a, _b) = pair(1500);
        let sender = Station::new(&a, "eth0").unwrap();
        let large = frame(B, A, &[] as &[Tag], ETHERTYPE, 1519, 0);
        assert!(sender.send(&large).unwrap_err().to_string().contains("1519"));
        assert!(Station::new(&a, "eth9").unwrap_err().to_string().contains("eth9"));
    }
}
