//! What the tests of the modules beside this one share.

use super::InstanceId;
use super::netio::Directory;

pub(super) fn id(n: u16) -> InstanceId {
    InstanceId::new(n).unwrap()
}

pub(super) fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this test may do what the product does as root; with less, the tests check what is done then.
pub(super) fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    [0, 12, 21].iter().all(|capability| effective >> capability & 1 == 1) // CHOWN, NET_ADMIN, SYS_ADMIN
}

pub(super) fn directory() -> (tempfile::TempDir, Directory) {
    let base = tempfile::tempdir().unwrap();
    let directory = Directory::open(&base.path().join(format!("netio{}", me())), me()).unwrap();
    (base, directory)
}
