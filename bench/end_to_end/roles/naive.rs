//! The naive forwarder, built as iouyap is: one thread per direction, AF_PACKET, one frame per system call, blocking, and
//! `sendto` by path.

use super::ready;
use crate::Result;
use crate::lab::{Lab, router_mac};
use crate::sys::packet_socket;
use iou_fast::iou::header::LEN;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::thread;

/// [`super::Role::Naive`]
pub(super) fn forward(lab: &Lab, interface: &str) -> Result<()> {
    // As the kernel makes them: a queue of 10.
    let mut pseudos = Vec::new();
    let mut ids: Vec<u16> = lab.ids().map(|id| lab.pseudo(id).id.get()).collect();
    ids.dedup();
    for id in ids {
        let path = lab.socket(id);
        let _ = std::fs::remove_file(&path);
        pseudos.push(UnixDatagram::bind(path)?);
    }
    let nic = packet_socket(interface, libc::ETH_P_ALL as u16, false)?;
    let other = nic.try_clone()?;
    let routers = lab.ids().map(|id| (router_mac(id), (lab.header_to(id).0, lab.socket(id)))).collect();
    let back = thread::spawn(move || from_routers(&pseudos, &other).map_err(|error| error.to_string()));
    ready();
    to_routers(&nic, &routers)?;
    back.join().map_err(|_| "a thread panicked")??;
    Ok(())
}

fn to_routers(nic: &OwnedFd, routers: &HashMap<[u8; 6], ([u8; LEN], PathBuf)>) -> Result<()> {
    let socket = UnixDatagram::unbound()?;
    let mut buffer = vec![0; 4096];
    loop {
        let (len, _) = recv(nic, &mut buffer[LEN..], RecvFlags::empty())?;
        let Some(mac) = buffer[LEN..LEN + len].first_chunk::<6>().copied() else { continue };
        let mut send_to = |header: &[u8; LEN], path: &PathBuf| {
            buffer[..LEN].copy_from_slice(header);
            // A router that is not there is none of our business.
            let _ = socket.send_to(&buffer[..LEN + len], path);
        };
        if mac[0] & 1 == 1 {
            routers.values().for_each(|(header, path)| send_to(header, path));
        } else if let Some((header, path)) = routers.get(&mac) {
            send_to(header, path);
        }
    }
}

fn from_routers(pseudos: &[UnixDatagram], nic: &OwnedFd) -> Result<()> {
    let mut buffer = vec![0; 4096];
    let forward = |socket: &UnixDatagram, buffer: &mut [u8]| -> Result<()> {
        let len = socket.recv(buffer)?;
        if len > LEN {
            send(nic, &buffer[LEN..len], SendFlags::empty())?;
        }
        Ok(())
    };
    if let [only] = pseudos {
        loop {
            forward(only, &mut buffer)?;
        }
    }
    let mut polled: Vec<PollFd<'_>> =
        pseudos.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    loop {
        poll(&mut polled, None)?;
        for (polled, socket) in polled.iter().zip(pseudos) {
            if polled.revents().contains(PollFlags::IN) {
                forward(socket, &mut buffer)?;
            }
        }
    }
}
