use crate::error::{Context, Result};
use crate::namespace::Namespace;
use crate::wait::wait_until;
use std::time::Duration;

/// Options of a veth pair. The first end stands for the wire, the second for the NIC.
#[derive(Clone, Debug)]
pub struct VethOptions {
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// RX queues of the second end, TX queues of the first.
    pub queues_rx: u32,
    /// TX queues of the second end, RX queues of the first.
    pub queues_tx: u32,
    /// MAC address of the first end; a random one if `None`.
    pub mac_a: Option<[u8; 6]>,
    /// MAC address of the second end; a random one if `None`.
    pub mac_b: Option<[u8; 6]>,
    /// Turns checksum offload off on both ends. With it, packets that the kernel itself sends over a veth have
    /// unfinished checksums.
    pub tx_offload_off: bool,
}

impl Default for VethOptions {
    fn default() -> Self {
        Self { mtu: 1500, queues_rx: 1, queues_tx: 1, mac_a: None, mac_b: None, tx_offload_off: false }
    }
}

/// Joins two namespaces by a veth pair. Both ends are up and have carrier when this returns. The pair is removed with
/// either namespace.
///
/// # Errors
/// If `ip` or `ethtool` fails, or an end has no carrier after 5 s.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str), options: &VethOptions) -> Result<()> {
    let VethOptions { mtu, queues_rx, queues_tx, mac_a, mac_b, tx_offload_off } = options;
    let address = |mac: &Option<[u8; 6]>| match mac {
        Some(m) => {
            format!("address {:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
        }
        None => String::new(),
    };
    a.0.ip(&format!(
        "link add name {} mtu {mtu} {} numtxqueues {queues_rx} numrxqueues {queues_tx} type veth \
         peer name {} netns {} mtu {mtu} {} numtxqueues {queues_tx} numrxqueues {queues_rx}",
        a.1,
        address(mac_a),
        b.1,
        b.0.name(),
        address(mac_b),
    ))?;
    for (namespace, name) in [a, b] {
        if *tx_offload_off {
            namespace.run("ethtool", ["-K", name, "tx", "off"])?;
        }
        namespace.ip(&format!("link set {name} up"))?;
    }
    for (namespace, name) in [a, b] {
        let mut state = String::new();
        let up = wait_until(Duration::from_secs(5), || {
            namespace.ip(&format!("-o link show dev {name}")).is_ok_and(|output| {
                state = String::from_utf8_lossy(&output.stdout).into_owned();
                state.contains(" state UP ")
            })
        });
        if !up {
            return Err(std::io::Error::other(state)).context(|| format!("{name} does not come up"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn veth_joins_two_namespaces_and_its_options_take_effect() {
        let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        let options = VethOptions {
            mtu: 9500,
            queues_rx: 4,
            queues_tx: 2,
            mac_a: Some([2, 0, 0, 0, 0, 1]),
            mac_b: Some([2, 0, 0, 0, 0, 2]),
            tx_offload_off: true,
        };
        veth((&a, "wire"), (&b, "eth0"), &options).unwrap();
        assert_eq!(a.mac("wire").unwrap(), [2, 0, 0, 0, 0, 1]);
        assert_eq!(b.mac("eth0").unwrap(), [2, 0, 0, 0, 0, 2]);
        assert!(a.mac("eth0").is_err());

        let queues = String::from_utf8(b.run("ls", ["/sys/class/net/eth0/queues"]).unwrap().stdout).unwrap();
        assert_eq!(queues.lines().collect::<Vec<_>>(), ["rx-0", "rx-1", "rx-2", "rx-3", "tx-0", "tx-1"]);
        let queues = String::from_utf8(a.run("ls", ["/sys/class/net/wire/queues"]).unwrap().stdout).unwrap();
        assert_eq!(queues.lines().collect::<Vec<_>>(), ["rx-0", "rx-1", "tx-0", "tx-1", "tx-2", "tx-3"]);
        let features = String::from_utf8(b.run("ethtool", ["-k", "eth0"]).unwrap().stdout).unwrap();
        assert!(features.contains("tx-checksumming: off"), "{features}");

        a.ip("addr add 10.9.0.1/24 dev wire").unwrap();
        b.ip("addr add 10.9.0.2/24 dev eth0").unwrap();
        a.ip("addr add fd09::1/64 dev wire").unwrap();
        b.ip("addr add fd09::2/64 dev eth0").unwrap();
        // 9472 bytes of data, 8 of ICMP, 20 of IP: exactly the MTU. IPv6 answers at once, without DAD.
        a.run("ping", ["-c1", "-W1", "-Mdo", "-s9472", "10.9.0.2"]).unwrap();
        a.run("ping", ["-c1", "-W1", "fd09::2"]).unwrap();
    }
}
