//! Sends broadcast frames on queue 0 of an interface, each with its number behind the header:
//! `transmit INTERFACE COUNT`. Needs CAP_NET_RAW and CAP_NET_ADMIN, and sends real frames, so try it on a veth.

use af_xdp::{Config, Fragment, Kick, Sockets, Umem};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RING: u32 = 64;
/// Bytes of a frame: the smallest on a wire, without FCS.
const LEN: usize = 60;
/// IEEE 802 local experimental EtherType 1: no host answers it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(interface), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("usage: transmit INTERFACE COUNT".into());
    };
    let count: u64 = count.parse()?;
    let ifindex = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?.trim().parse()?;
    let address = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let source = address.trim().split(':').map(|byte| u8::from_str_radix(byte, 16));
    let source = source.collect::<Result<Vec<_>, _>>()?;

    // One ring of chunks to send from; the fill ring takes the others.
    let (umem, mut free) = Umem::new(2 * RING)?;
    let umem = Arc::new(umem);
    let mut sockets = Sockets::open(&umem, &mut free, &Config::new(ifindex).ring_size(RING))?;
    let queue = sockets.queues.first_mut().ok_or("no queue")?;
    let socket = queue.sockets.first_mut().ok_or("no socket")?;
    let tx = socket.tx.as_mut().ok_or("the socket does not send")?;

    let header = [&[0xff; 6][..], &source, &ETHERTYPE].concat();
    let (mut next, mut dropped) = (0, 0_u64);
    let deadline = Instant::now() + Duration::from_secs(10);
    while next < count || free.len() < RING as usize {
        while next < count
            && let Some(mut chunk) = free.pop()
        {
            let frame = &mut umem.chunk_mut(&mut chunk)[..LEN];
            frame.fill(0);
            frame[..header.len()].copy_from_slice(&header);
            frame[header.len()..][..8].copy_from_slice(&u64::to_be_bytes(next));
            tx.push(Fragment::new(chunk, 0, LEN))?;
            next += 1;
        }
        tx.publish();
        match tx.kick()? {
            Kick::Dropped => dropped += 1,
            Kick::Down => return Err(format!("{interface} is down").into()),
            Kick::Taken | Kick::Again => {}
        }
        if queue.completion.reap(&mut free) == 0 {
            if Instant::now() > deadline {
                return Err(format!("{} frames were not sent within 10 s", RING as usize - free.len()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let copied = if sockets.zero_copy { "zero-copy" } else { "copy" };
    println!("{interface}: {} frames sent, {dropped} dropped, {copied}", next - dropped);
    Ok(())
}
