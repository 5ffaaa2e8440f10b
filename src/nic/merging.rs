//! Offloads that spoil frames before an XDP program sees them, by the kernel's names, and what can be done where a driver
//! has them fixed.

/// What is in the way of every XDP program.
const ALWAYS: [&str; 4] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse", "rx-lro", "rx-gro-hw"];
/// What is in the way of a generic one only.
const GENERIC: [&str; 3] = ["rx-gro", "rx-gro-list", "rx-udp-gro-forwarding"];

/// Whether this feature spoils frames before an XDP program sees them; before a generic one, if it is that.
pub(super) fn in_the_way(name: &str, generic: bool) -> bool {
    ALWAYS.contains(&name) || generic && GENERIC.contains(&name)
}

/// What can be done about merging that a driver has fixed.
pub(super) fn fix_where_fixed(driver: &str) -> &'static str {
    match driver {
        // Properties of virtio-net in QEMU: hw/net/virtio-net.c.
        "virtio_net" => {
            "the virtual machine's NIC with `guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_uso4=off,guest_uso6=off` \
             in QEMU (libvirt: `<driver><guest tso4='off' tso6='off' ufo='off'/></driver>`)"
        }
        _ => "another NIC, because its driver has it fixed,",
    }
}
