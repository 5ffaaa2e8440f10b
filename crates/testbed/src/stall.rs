use crate::error::{Context, Result};
use crate::process::Process;
use crate::sys;
use std::fs;
use std::marker::PhantomData;
use std::path::Path;

/// A thread that is stopped until this is dropped: see [`Process::stall`].
#[derive(Debug)]
pub struct Stalled {
    thread: i32,
    /// Only the thread that stopped it can resume it.
    tracer: PhantomData<*const ()>,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        sys::release_thread(self.thread);
    }
}

impl Process {
    /// Stops the thread of this name until the returned value is dropped; the others continue.
    ///
    /// # Errors
    /// If there is no such thread, or it may not be traced.
    pub fn stall(&self, thread: &str) -> Result<Stalled> {
        let what = || format!("thread {thread:?} of process {}", self.pid());
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).context(what)?;
        let has_name =
            |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == thread);
        let found = threads.flatten().find(|entry| has_name(&entry.path()));
        let id = found.and_then(|entry| entry.file_name().to_str()?.parse().ok());
        let id = id.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound)).context(what)?;
        sys::hold_thread(id).context(what)?;
        Ok(Stalled { thread: id, tracer: PhantomData })
    }
}
