use crate::command::run;
use crate::error::{Context, Result};
use crate::sys;
use std::{panic, thread};

/// Runs `inside` on a thread of its own in a mount namespace of its own. Mounts made there are seen there and by
/// processes started there alone, and are removed when it ends, however that happens.
///
/// # Errors
/// Without root. A panic inside continues in the caller.
pub fn with_own_mounts<T: Send>(inside: impl FnOnce() -> T + Send) -> Result<T> {
    let on_thread = || {
        sys::unshare_mounts().context(|| "a mount namespace".into())?;
        run("mount", ["--make-rprivate", "/"])?;
        Ok(inside())
    };
    thread::scope(|scope| scope.spawn(on_thread).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn own_mounts_are_not_seen_outside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        with_own_mounts(|| {
            run("mount", ["-t", "tmpfs", "none", path]).unwrap();
            fs::write(directory.path().join("inside"), "").unwrap();
            assert!(run("ls", [path]).unwrap().stdout.starts_with(b"inside"));
        })
        .unwrap();
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
