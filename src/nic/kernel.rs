//! The oldest kernel that carries this program.

use super::Error;

/// Linux 6.1: fragments in XDP programs (5.18) and `bpf_xdp_load_bytes` in all shapes used here.
const MINIMUM: (u32, u32) = (6, 1);

/// Refuses a kernel before 6.1.
///
/// # Errors
/// [`Error::KernelTooOld`], also where the version cannot be read.
pub fn require_minimum() -> Result<(), Error> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    match parse(&release) {
        Some(version) if version >= MINIMUM => Ok(()),
        _ => Err(Error::KernelTooOld { found: release.into_owned(), major: MINIMUM.0, minor: MINIMUM.1 }),
    }
}

/// Whether AF_XDP sockets that share a UMEM can all take frames of several chunks. `XDP_USE_SG` came in 6.6, but until
/// 6.7 and 6.6.11 it held for the socket alone that brought the UMEM (commit d609f3d228a8, "xsk: add multi-buffer
/// support for sockets sharing umem").
#[must_use]
pub fn shares_large_frames() -> bool {
    large_frames_shared_by(&rustix::system::uname().release().to_string_lossy())
}

fn large_frames_shared_by(release: &str) -> bool {
    match parse(release) {
        Some((6, 6)) => {
            let patch = release.split(['.', '-', '+']).nth(2).and_then(|patch| patch.parse().ok());
            patch.is_some_and(|patch: u32| patch >= 11)
        }
        version => version > Some((6, 6)),
    }
}

/// Major and minor of a release as `uname -r` prints it: `6.12.9-amd64` is (6, 12).
pub(crate) fn parse(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_as_distributions_write_them() {
        assert_eq!(parse("6.12.9-amd64"), Some((6, 12)));
        assert_eq!(parse("6.1.0-28-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse("5.15.0-130-generic"), Some((5, 15)));
        assert_eq!(parse("6.8-rc1"), Some((6, 8)));
        assert_eq!(parse("10.0"), Some((10, 0)));
        assert_eq!(parse("7.1+"), Some((7, 1)));
        for nonsense in ["", "6", "6.", "six.one", "6.x", ".1", "-6.1"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn sockets_share_large_frames_since_they_were_mended() {
        for release in ["6.6.11", "6.6.87-1-lts", "6.7.0", "6.12.9-amd64", "7.0"] {
            assert!(large_frames_shared_by(release), "{release}");
        }
        for release in ["6.6.10", "6.6.1-arch1-1", "6.6", "6.6-rc7", "6.1.0-28-amd64", "nonsense"] {
            assert!(!large_frames_shared_by(release), "{release}");
        }
    }

    #[test]
    fn six_one_is_the_first_that_will_do() {
        assert!(parse("6.0.19") < Some(MINIMUM));
        assert!(parse("5.19.0") < Some(MINIMUM));
        assert!(parse("6.1.0") >= Some(MINIMUM));
        assert!(parse("10.0.0") >= Some(MINIMUM));
        require_minimum().unwrap();
    }
}
