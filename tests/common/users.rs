//! Users other than root.

use super::Scene;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::os::unix::fs::chown;
use testbed::Router;

/// Who runs the routers: a user whom no list of users knows.
pub const LAB: u32 = 61_000;

/// Another, who has no business there.
pub const STRANGER: u32 = 61_001;

/// Does `work` as user `uid`, with nothing of root's left.
pub fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        let (gid, own) = (Gid::from_raw(uid), Uid::from_raw(uid));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(own, own, own).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
}

impl Scene {
    /// The netio directory becomes that of user `uid`.
    pub fn give_netio(&self, uid: u32) {
        chown(self.netio(), Some(uid), Some(uid)).unwrap();
    }

    /// Router `id`, run by user `uid`.
    pub fn router_of(&self, uid: u32, id: u16) -> Router {
        let router = Router::new(&self.netio(), id).unwrap();
        chown(router.path(), Some(uid), Some(uid)).unwrap();
        router
    }
}
