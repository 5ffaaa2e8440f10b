use crate::command::{kill, output, require_root, run};
use crate::error::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, panic, thread};

/// Where `ip netns` keeps its namespaces.
const DIRECTORY: &str = "/run/netns";

/// The names that [`Namespace::new`] makes begin with this.
const PREFIX: &str = "iouf-";

/// A network namespace, known to `ip netns` by name. It is removed when this is dropped, with every process in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    kept: bool,
}

impl Namespace {
    /// A new namespace called `iouf-<pid>-<n>-<prefix>`. Its loopback is up; IPv6 addresses work as soon as
    /// they are set (no duplicate address detection).
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn new(prefix: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{PREFIX}{}-{n}-{prefix}", std::process::id()))
    }

    /// A new namespace with exactly this name, which [`reap_stale`] leaves alone.
    ///
    /// # Errors
    /// Without root, if there is one of that name already, or if `ip` fails.
    pub fn named(name: &str) -> Result<Self> {
        require_root()?;
        run("ip", ["netns", "add", name])?;
        let namespace = Self { name: name.into(), kept: false };
        // The larger of the two counts for an interface, and new interfaces take over `default`.
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        run("ip", ["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The existing namespace of this name, which is removed when this is dropped. `None` if there is none.
    #[must_use]
    pub fn adopt(name: &str) -> Option<Self> {
        namespace_exists(name).then(|| Self { name: name.into(), kept: false })
    }

    /// Its name, as `ip netns exec` takes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the namespace in place when this is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// A command that will run inside. The child's pid is the program's own: `ip netns exec` becomes the program. It
    /// also gives it a `/sys` that shows this namespace, which entering the namespace alone does not.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program inside to its end and returns its output.
    ///
    /// # Errors
    /// If it cannot be started or fails; the message contains all its output.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Result<Output> {
        output(self.command(program).args(args))
    }

    /// Runs `ip` on this namespace, its arguments in one string: `ns.ip("addr add 10.0.0.1/24 dev eth0")`.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn ip(&self, args: &str) -> Result<Output> {
        run("ip", ["-n", &self.name].into_iter().chain(args.split_whitespace()))
    }

    /// Runs `inside` on a thread of its own that is in the namespace. Sockets made there stay in the namespace
    /// wherever they are used. `/proc/sys/net` is the namespace's, `/sys/class/net` is not.
    ///
    /// # Errors
    /// If the namespace cannot be entered. A panic inside continues in the caller.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("{DIRECTORY}/{}", self.name);
        let file = fs::File::open(&path).context(|| format!("namespace {path}"))?;
        let on_thread = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context(|| format!("cannot enter namespace {}", self.name))?;
            Ok(inside())
        };
        thread::scope(|scope| scope.spawn(on_thread).join())
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Sets `net.core.rmem_max` and the like. Where a key holds an interface name with a dot in it, write the
    /// key with slashes.
    ///
    /// # Errors
    /// If this namespace has no such key or the key does not take the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.enter(|| fs::write(&path, value))?
            .context(|| format!("cannot set {key} = {value} in {}", self.name))
    }

    /// Reads a key as [`Namespace::sysctl`] sets it.
    ///
    /// # Errors
    /// If there is no such key in this namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let text = self
            .enter(|| fs::read_to_string(&path))?
            .context(|| format!("cannot read {key} in {}", self.name))?;
        Ok(text.trim().into())
    }

    /// The MAC address of an interface inside.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.run("cat", [format!("/sys/class/net/{interface}/address")])?.stdout;
        let text = String::from_utf8_lossy(&text);
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text.trim().split(':')) {
            *byte = u8::from_str_radix(hex, 16)
                .map_err(|e| std::io::Error::other(e.to_string()))
                .context(|| format!("MAC address {text:?} of {interface}"))?;
        }
        Ok(mac)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = remove(&self.name)
        {
            eprintln!("namespace {} stays behind: {e}", self.name);
        }
    }
}

fn sysctl_path(key: &str) -> String {
    let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    format!("/proc/sys/{key}")
}

/// Ends the processes in a namespace, which would keep it alive, and removes its name.
fn remove(name: &str) -> Result<()> {
    let pids = run("ip", ["netns", "pids", name])?.stdout;
    for pid in String::from_utf8_lossy(&pids).split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()) {
        if pid != std::process::id() {
            kill(pid);
        }
    }
    run("ip", ["netns", "del", name])?;
    Ok(())
}

/// Removes the namespaces, and what runs in them, that [`Namespace::new`] made in processes which have ended without
/// cleaning up. Returns their names.
///
/// # Errors
/// Without root, or if one cannot be removed.
pub fn reap_stale() -> Result<Vec<String>> {
    require_root()?;
    let Ok(names) = fs::read_dir(DIRECTORY) else { return Ok(Vec::new()) };
    let mut reaped = Vec::new();
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            match remove(&name) {
                Ok(()) => reaped.push(name),
                // Another process has removed it first.
                Err(_) if !fs::exists(format!("{DIRECTORY}/{name}")).unwrap_or(true) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(reaped)
}

/// True if there is a namespace of this name.
#[must_use]
pub fn namespace_exists(name: &str) -> bool {
    fs::exists(format!("{DIRECTORY}/{name}")).unwrap_or(false)
}

/// The id of the process that made the namespace of this name.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    rest.split_once('-')?.0.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists(name: &str) -> bool {
        fs::exists(format!("{DIRECTORY}/{name}")).unwrap()
    }

    #[test]
    fn a_namespace_is_separate_and_is_removed_when_it_is_dropped() {
        let ns = Namespace::new("own").unwrap();
        let name = ns.name().to_owned();
        assert!(exists(&name));
        ns.ip("link add veth7 type veth peer name veth8").unwrap();
        let inside = ns.run("ls", ["/sys/class/net"]).unwrap().stdout;
        let inside = String::from_utf8(inside).unwrap();
        assert_eq!(inside.split_whitespace().collect::<Vec<_>>(), ["lo", "veth7", "veth8"]);
        assert!(!fs::exists("/sys/class/net/veth7").unwrap());
        assert!(ns.run("ping", ["-c1", "-W1", "127.0.0.1"]).is_ok());
        drop(ns);
        assert!(!exists(&name));
    }

    #[test]
    fn a_namespace_is_removed_on_panic_with_its_processes() {
        let mut name = String::new();
        let mut child = None;
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            let ns = Namespace::new("panic").unwrap();
            name = ns.name().into();
            // A plain child, which only the removal of the namespace ends.
            let pid = child.insert(ns.command("sleep").arg("100").spawn().unwrap()).id();
            assert!(crate::wait_until(std::time::Duration::from_secs(5), || {
                let pids = run("ip", ["netns", "pids", ns.name()]).unwrap().stdout;
                String::from_utf8(pids).unwrap().lines().any(|line| line == pid.to_string())
            }));
            panic::resume_unwind(Box::new(()));
        }));
        assert!(result.is_err());
        assert!(!exists(&name));
        let status = child.unwrap().wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn sysctl_changes_only_the_namespace() {
        let ns = Namespace::new("sysctl").unwrap();
        let outside = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
        ns.sysctl("net.unix.max_dgram_qlen", "77").unwrap();
        assert_eq!(ns.read_sysctl("net.unix.max_dgram_qlen").unwrap(), "77");
        assert_eq!(fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap(), outside);
        assert!(ns.sysctl("net.no.such", "1").unwrap_err().to_string().contains("net.no.such"));
    }

    #[test]
    fn a_kept_namespace_can_be_adopted() {
        let mut ns = Namespace::new("kept").unwrap();
        let name = ns.name().to_owned();
        ns.keep();
        drop(ns);
        let adopted = Namespace::adopt(&name).unwrap();
        drop(adopted);
        assert!(!exists(&name));
        assert!(Namespace::adopt(&name).is_none());
    }

    #[test]
    fn a_panic_inside_continues_outside() {
        let ns = Namespace::new("inner").unwrap();
        let result = panic::catch_unwind(|| ns.enter(|| panic::resume_unwind(Box::new(7_i32))));
        assert_eq!(*result.unwrap_err().downcast::<i32>().unwrap(), 7);
    }

    #[test]
    fn a_namespaces_name_contains_its_owners_pid() {
        assert_eq!(owner("iouf-123-0-wire"), Some(123));
        assert_eq!(owner("iouf-123-0-a-b"), Some(123));
        for other in ["iouf-x-0-wire", "iouf-123", "iouf-123-wire", "iou-lab-wire", "123-0-wire", "iouf--1-a"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn only_namespaces_of_ended_processes_are_reaped() {
        require_root().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let dead = format!("{PREFIX}{}-0-stale", child.id());
        child.wait().unwrap();
        run("ip", ["netns", "add", &dead]).unwrap();
        let mine = Namespace::new("mine").unwrap();
        let named = Namespace::named(&format!("iou-named-{}", std::process::id())).unwrap();
        let reaped = reap_stale().unwrap();
        assert!(reaped.contains(&dead), "{reaped:?}");
        assert!(!exists(&dead));
        assert!(exists(mine.name()) && exists(named.name()));
    }
}
