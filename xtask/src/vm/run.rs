//! QEMU, and the guest's console.

use super::Kernel;
use super::fetch::Files;
use super::image::INIT;
use super::report::Outcome;
use crate::error::{Context, Result};
use crate::shell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use testbed::{Process, Signal};

/// Time for all checks together. An emulated machine takes a few minutes, and several times that on a busy host.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Time for one check or for the boot. The guest's own deadlines are shorter.
const SILENCE: Duration = Duration::from_secs(8 * 60);

/// Memory of the guest in MiB. The initramfs takes some 60.
const MEMORY: &str = "1536";

/// The addresses of the guest's NICs: a pair on QEMU's hub, a pair on the bridge.
const HUB: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
const BRIDGE: [&str; 2] = ["52:54:00:00:00:03", "52:54:00:00:00:04"];

/// Its arguments are QEMU's command line. The namespace, with the bridge and the TAPs, is removed with its last process.
const NETWORK: &str = r#"set -e
ip link add br0 type bridge mcast_snooping 0
ip tuntap add dev NIC mode tap multi_queue
ip tuntap add dev wire mode tap
for name in NIC wire; do ip link set $name master br0 up; done
ip link set br0 up
exec "$@""#;

/// Boots the guest and follows its console until it has powered off.
pub(super) fn boot(
    kernel: &Kernel,
    files: &Files,
    image: &Path,
    filter: &str,
    directory: &Path,
) -> Result<Outcome> {
    let mut command = shell::as_root("unshare");
    command.args(["--net", "sh", "-c", NETWORK, "network", "qemu-system-x86_64"]);
    command.args(machine()).arg("-kernel").arg(&files.vmlinuz).arg("-initrd").arg(image);
    command.args(["-append", &command_line(kernel.name, filter)]);
    println!("booting Linux {} (the console goes to {})", files.release, directory.join("console").display());
    let mut qemu = Process::spawn(&mut command)?;
    let start = Instant::now();
    let (mut seen, mut news) = (0, Instant::now());
    let mut stopped = None;
    loop {
        let ended = qemu.exited().is_some();
        let text = qemu.stdout();
        let lines: Vec<_> = text.lines().filter_map(super::report::line).collect();
        for line in &lines[seen.min(lines.len())..] {
            println!("  {line}");
            news = Instant::now();
        }
        seen = lines.len();
        if ended {
            break;
        }
        if news.elapsed() > SILENCE || start.elapsed() > DEADLINE {
            stopped = Some(format!("ended by force after {} s", start.elapsed().as_secs()));
            // Through sudo only signals that can be caught reach QEMU, and this one ends it.
            qemu.signal(Signal::TERM);
            let _ = qemu.wait(Duration::from_secs(10));
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let console = qemu.stdout();
    let path = directory.join("console");
    fs::write(&path, format!("{console}{}", qemu.stderr())).context(|| format!("file {}", path.display()))?;
    if !qemu.stderr().is_empty() {
        eprint!("{}", qemu.stderr());
    }
    let mut outcome = Outcome::read(&console);
    outcome.trouble = outcome.trouble.or(stopped);
    Ok(outcome)
}

/// The machine: two processors, and two pairs of virtio NICs. The driver allows zero-copy only where it maps
/// memory for the device as for any other (`iommu_platform`), which legacy devices cannot. `romfile` leaves
/// out the firmware that boots from the network.
fn machine() -> Vec<String> {
    let mut line: Vec<String> =
        "-nodefaults -no-user-config -no-reboot -display none -serial stdio -machine q35 \
                                 -accel tcg,thread=multi -cpu max -smp 2 -m"
            .split_whitespace()
            .map(Into::into)
            .collect();
    line.push(MEMORY.into());
    let device = |netdev: &str, mac: &str, more: &str| {
        format!("virtio-net-pci,netdev={netdev},mac={mac},iommu_platform=on,disable-legacy=on,romfile={more}")
    };
    let tap = "script=no,downscript=no,vhost=off";
    let nics = [
        ("hubport,id=hub0,hubid=0".to_owned(), device("hub0", HUB[0], "")),
        ("hubport,id=hub1,hubid=0".to_owned(), device("hub1", HUB[1], "")),
        (format!("tap,id=NIC,ifname=NIC,queues=2,{tap}"), device("NIC", BRIDGE[0], ",mq=on,vectors=6")),
        (format!("tap,id=wire,ifname=wire,{tap}"), device("wire", BRIDGE[1], "")),
    ];
    for (netdev, device) in nics {
        line.extend(["-netdev".into(), netdev, "-device".into(), device]);
    }
    line
}

/// The kernel's command line. The kernel passes `NAME=value` that it does not know to the first process as its environment,
/// and everything after `--` as its arguments.
fn command_line(set: &str, filter: &str) -> String {
    let path = "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    // Mitigations cost time, and there is nothing to protect here.
    format!(
        "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off rdinit={INIT} {path} IOU_VM_HUB={} \
         IOU_VM_BRIDGE={} RUST_BACKTRACE=0 -- {set} {filter}",
        HUB.join(","),
        BRIDGE.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nic_is_one_that_the_guest_can_find() {
        let line = command_line("oldest", "lab");
        assert!(line.ends_with(" -- oldest lab"));
        let machine = machine().join(" ");
        for address in HUB.iter().chain(&BRIDGE) {
            assert!(line.contains(address));
            assert_eq!(machine.matches(&format!("mac={address},iommu_platform=on")).count(), 1);
        }
    }
}
