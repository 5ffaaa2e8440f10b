//! A station and a router that answer each other, one frame at a time.
//!
//! Both run before all else on their CPU as soon as they are woken: what is measured is the forwarder's share.

use super::{Pings, ready};
use crate::Result;
use crate::lab::{Lab, STATION, plain, router_mac};
use crate::sys::{exact_timers, go_first, packet_socket};
use iou_fast::iou::header;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Of the pinging and of the echoing process.
const PRIORITY: i32 = 10;
/// Length of a ping, bytes.
const LEN: usize = 64;
/// How long to wait for an answer. A frame without one counts as this long.
const PATIENCE: Duration = Duration::from_millis(200);
/// Where in a frame its number is: behind addresses, type and the test bed's mark.
const NUMBER: std::ops::Range<usize> = 18..26;

/// [`super::Role::Echo`]
pub(super) fn echo(lab: &Lab, id: u16) -> Result<()> {
    let path = lab.socket(id);
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path)?;
    let pseudo = lab.socket(lab.pseudo(id).id.get());
    let mut buffer = vec![0; 4096];
    go_first(PRIORITY)?;
    ready();
    loop {
        let len = socket.recv(&mut buffer)?;
        if len < header::LEN + 14 || buffer[header::LEN] & 1 == 1 {
            continue;
        }
        let (head, frame) = buffer[..len].split_at_mut(header::LEN);
        head.swap(0, 2);
        head.swap(1, 3);
        head.swap(4, 5);
        let (to, from) = frame.split_at_mut(6);
        to.swap_with_slice(&mut from[..6]);
        // The forwarder may just have gone.
        let _ = socket.send_to(&buffer[..len], &pseudo);
    }
}

/// [`super::Role::Pinger`]
pub(super) fn ping(interface: &str, id: u16, every: Option<Duration>, total: Duration) -> Result<()> {
    let socket = packet_socket(interface, testbed::frame::ETHERTYPE, true)?;
    let mut frame = plain(router_mac(id), STATION, LEN);
    let mut buffer = vec![0; 4096];
    let mut pings = Pings { times: Vec::with_capacity(1 << 20), lost: 0 };
    go_first(PRIORITY)?;
    exact_timers()?;
    let start = Instant::now();
    let mut number = 0_u64;
    while start.elapsed() < total {
        if let Some(every) = every {
            let due = start + every * number as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        number += 1;
        frame[NUMBER].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        send(&socket, &frame, SendFlags::empty())?;
        if !answer(&socket, &mut buffer, number, sent + PATIENCE)? {
            pings.lost += 1;
        }
        pings.times.push(sent.elapsed().as_nanos() as u64);
    }
    pings.times.sort_unstable();
    println!("{}", serde_json::to_string(&pings)?);
    Ok(())
}

/// Waits for the answer to frame `number`; false if there is none in time.
fn answer(socket: &OwnedFd, buffer: &mut [u8], number: u64, until: Instant) -> Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        if poll(&mut [PollFd::new(&socket.as_fd(), PollFlags::IN)], Some(&left))? == 0 {
            return Ok(false);
        }
        let (len, _) = recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?;
        let answer = &buffer[..len];
        if answer.starts_with(&STATION) && answer.get(NUMBER) == Some(&number.to_be_bytes()[..]) {
            return Ok(true);
        }
    }
}
