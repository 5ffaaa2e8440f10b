use crate::error::{Context, Result};
use crate::process::Process;
use crate::sys;
use std::fs;
use std::marker::PhantomData;
use std::path::Path;

/// A thread that stands still until this is dropped: see [`Process::stall`].
#[derive(Debug)]
pub struct Stalled {
    thread: i32,
    /// Only the thread that stopped it can let it go on.
    tracer: PhantomData<*const ()>,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        sys::release_thread(self.thread);
    }
}

impl Process {
    /// Has the thread of this name stand still until the value returned is dropped; the others go on.
    ///
    /// # Errors
    /// If there is no such thread, or it may not be traced.
    pub fn stall(&self, thread: &str) -> Result<Stalled> {
        let what = || format!("thread {thread:?} of process {}", self.pid());
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).context(what)?;
        let is_it =
            |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == thread);
        let found = threads.flatten().find(|entry| is_it(&entry.path()));
        let id = found.and_then(|entry| entry.file_name().to_str()?.parse().ok());
        let id = id.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound)).context(what)?;
        sys::hold_thread(id).context(what)?;
        Ok(Stalled { thread: id, tracer: PhantomData })
    }
}
