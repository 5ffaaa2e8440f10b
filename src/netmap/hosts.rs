//! Which endpoints of a NETMAP are on this machine, and which `@host` puts on another.
//!
//! A line on which every endpoint names the same host is a line of this host, whatever the name: that is how
//! iou2net's users write it. All other names are looked up, each once and all at the same time.

use super::Netmap;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long all look-ups may take together.
pub const DEADLINE: Duration = Duration::from_millis(200);

/// Look-ups under way at the same time; a NETMAP with more names than this is none that people write.
const LARGEST_CROWD: usize = 256;

/// Looks names up, and knows which are this machine's own.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of `host`. It may block for as long as it takes.
    ///
    /// # Errors
    /// If the name resolves to nothing, or that cannot be found out.
    fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;

    /// True if this machine calls itself `host`.
    fn is_own_name(&self, host: &str) -> bool;

    /// True if `address` is one of this machine's.
    fn is_own_address(&self, address: IpAddr) -> bool;
}

/// The resolver of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Resolver for System {
    fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect())
    }

    fn is_own_name(&self, host: &str) -> bool {
        let uname = rustix::system::uname();
        let name = uname.nodename().to_string_lossy();
        let short = name.split('.').next().unwrap_or_default();
        ["localhost", &*name, short].iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// The kernel binds a socket to its own addresses only (as long as `net.ipv4.ip_nonlocal_bind` is 0).
    fn is_own_address(&self, address: IpAddr) -> bool {
        address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
    }
}

/// Where the endpoints of a NETMAP are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hosts {
    /// The endpoints on other hosts, by their entry's index and their index in it.
    pub remote: BTreeMap<(usize, usize), IpAddr>,
    /// Names that were taken for this host because they resolve to nothing.
    pub warnings: Vec<Warning>,
}

/// Where one endpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// On this machine.
    Local,
    /// On the machine with this address.
    Remote(IpAddr),
}

/// A name that resolves to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The NETMAP.
    pub file: PathBuf,
    /// The first line with the name, from 1.
    pub line: u32,
    /// The name.
    pub host: Box<str>,
    /// What the look-up said.
    pub reason: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, host, reason } = self;
        write!(
            f,
            "{}:{line}: @{host} is taken for this host, for the name resolves to nothing: {reason}",
            file.display()
        )
    }
}

impl Hosts {
    /// Where endpoint `end` of entry `entry` is (indices into the NETMAP that was classified).
    #[must_use]
    pub fn place(&self, entry: usize, end: usize) -> Place {
        self.remote.get(&(entry, end)).map_or(Place::Local, |address| Place::Remote(*address))
    }
}

/// Finds out where the endpoints of `netmap`, which was read from `file`, are.
///
/// Returns after `deadline` at the latest; a name without an answer by then counts as one that resolves to
/// nothing, and its look-up ends in the background.
#[must_use]
pub fn classify(netmap: &Netmap, file: &Path, resolver: Arc<dyn Resolver>, deadline: Duration) -> Hosts {
    // By lower case: names of hosts do not differ in it. With each name, how it is written where it first stands.
    let mut names: BTreeMap<String, (u32, &str)> = BTreeMap::new();
    let mut asked = Vec::new();
    for (s, entry) in netmap.lines.iter().enumerate() {
        if entry.hosts_agree() {
            continue;
        }
        for (e, end) in entry.ends.iter().enumerate() {
            let Some(host) = &end.host else { continue };
            if resolver.is_own_name(host) {
                continue;
            }
            let name = host.to_ascii_lowercase();
            names.entry(name.clone()).or_insert((entry.line, host));
            asked.push(((s, e), name));
        }
    }

    let mut answers = lookup_all(names.keys().cloned().collect(), &resolver, deadline);
    let mut places: BTreeMap<&str, IpAddr> = BTreeMap::new();
    let mut warnings = Vec::new();
    for (name, (line, host)) in &names {
        let late = || Err(format!("no answer within {} ms", deadline.as_millis()));
        match answers.remove(name).unwrap_or_else(late) {
            Ok(Answer::Own) => {}
            Ok(Answer::Other(address)) => {
                places.insert(name, address);
            }
            Err(reason) => {
                warnings.push(Warning { file: file.to_owned(), line: *line, host: (*host).into(), reason })
            }
        }
    }
    warnings.sort_by_key(|w| w.line);
    let remote = asked.iter().filter_map(|(at, name)| Some((*at, *places.get(name.as_str())?))).collect();
    Hosts { remote, warnings }
}

enum Answer {
    Own,
    Other(IpAddr),
}

/// What is known about each name when all are answered or the deadline has come.
fn lookup_all(
    names: Vec<String>,
    resolver: &Arc<dyn Resolver>,
    deadline: Duration,
) -> BTreeMap<String, Result<Answer, String>> {
    let end = Instant::now() + deadline;
    let expected = names.len();
    let queue = Arc::new(Mutex::new(names));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..expected.min(LARGEST_CROWD) {
        let (queue, sender, resolver) = (queue.clone(), sender.clone(), resolver.clone());
        // A thread that cannot be had leaves its name unanswered, which is reported.
        let _ = thread::Builder::new().name("lookup".to_owned()).spawn(move || {
            if crate::privileges::drop_capability().is_err() {
                return;
            }
            while let Some(name) = next(&queue) {
                let answer = lookup(&*resolver, &name);
                // The receiver is gone once the deadline is over.
                if sender.send((name, answer)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut answers = BTreeMap::new();
    while answers.len() < expected {
        let left = end.saturating_duration_since(Instant::now());
        let Ok((name, answer)) = receiver.recv_timeout(left) else { break };
        answers.insert(name, answer);
    }
    answers
}

fn next(queue: &Mutex<Vec<String>>) -> Option<String> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn lookup(resolver: &dyn Resolver, name: &str) -> Result<Answer, String> {
    let addresses = resolver.lookup(name).map_err(|e| e.to_string())?;
    if addresses.iter().any(|a| resolver.is_own_address(*a)) {
        return Ok(Answer::Own);
    }
    addresses.first().map(|a| Answer::Other(*a)).ok_or_else(|| "it has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// `own*` is this machine, `other*` another, `slow*` answers after a second, `empty` has no address, the rest
    /// does not exist. `me` is the machine's name.
    #[derive(Default)]
    struct Fake {
        asked: Mutex<Vec<String>>,
        busy: AtomicUsize,
        busiest: AtomicUsize,
        delay: Duration,
    }

    impl Resolver for Fake {
        fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            self.asked.lock().unwrap().push(host.to_owned());
            self.busiest.fetch_max(self.busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(self.delay);
            self.busy.fetch_sub(1, Ordering::SeqCst);
            match host {
                _ if host.starts_with("own") => Ok(vec![OTHER, OWN]),
                _ if host.starts_with("other") => Ok(vec![OTHER]),
                _ if host.starts_with("slow") => {
                    thread::sleep(Duration::from_secs(1));
                    Ok(vec![OTHER])
                }
                "empty" => Ok(vec![]),
                _ => Err(io::Error::other("no such name")),
            }
        }

        fn is_own_name(&self, host: &str) -> bool {
            host == "me"
        }

        fn is_own_address(&self, address: IpAddr) -> bool {
            address == OWN
        }
    }

    fn run(text: &str, fake: Fake) -> (Hosts, Vec<String>) {
        let netmap = Netmap::parse(text.as_bytes(), Path::new("NETMAP")).unwrap();
        let fake = Arc::new(fake);
        let hosts = classify(&netmap, Path::new("NETMAP"), fake.clone(), DEADLINE);
        let mut asked = fake.asked.lock().unwrap().clone();
        asked.sort();
        (hosts, asked)
    }

    #[test]
    fn equal_names_are_this_host_without_a_lookup() {
        let (hosts, asked) =
            run("1:0/0@other 2:0/0@OTHER\n1:0/1@x 2:0/1@x 3:0/0@x\n4:0/0@y\n5:0/0 6:0/0", Fake::default());
        assert_eq!(hosts, Hosts::default());
        assert_eq!(asked, [""; 0]);
    }

    #[test]
    fn other_names_are_looked_up_once_each() {
        let text =
            "1:0/0@own 2:0/0@other\n1:0/1 3:0/0@other\n1:0/2@me 4:0/0@OTHER2 5:0/0\n1:0/3@own 6:0/0@own";
        let (hosts, asked) = run(text, Fake::default());
        assert_eq!(asked, ["other", "other2", "own"]);
        assert_eq!(hosts.remote.keys().copied().collect::<Vec<_>>(), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(hosts.place(0, 0), Place::Local);
        assert_eq!(hosts.place(0, 1), Place::Remote(OTHER));
        assert_eq!(hosts.place(2, 2), Place::Local);
        assert_eq!(hosts.warnings, []);
    }

    #[test]
    fn what_resolves_to_nothing_is_this_host_with_a_warning() {
        let (hosts, _) = run("\n1:0/0@gone 2:0/0@empty\n1:0/1 2:0/1@Gone\n", Fake::default());
        assert!(hosts.remote.is_empty());
        let said: Vec<_> = hosts.warnings.iter().map(Warning::to_string).collect();
        assert_eq!(
            said,
            [
                "NETMAP:2: @empty is taken for this host, for the name resolves to nothing: it has no address",
                "NETMAP:2: @gone is taken for this host, for the name resolves to nothing: no such name",
            ]
        );
    }

    #[test]
    fn slow_names_do_not_hold_up_the_start() {
        let text: String = (0..300).map(|i| format!("1:0/0 2:0/0@slow{i}\n")).collect();
        let start = Instant::now();
        let (hosts, _) = run(&format!("{text}1:0/0 2:0/0@other"), Fake::default());
        assert!(start.elapsed() < DEADLINE * 3, "{:?}", start.elapsed());
        assert_eq!(hosts.warnings.len(), 301 - hosts.remote.len());
        assert!(hosts.warnings.len() >= 300);
        assert!(hosts.warnings[0].to_string().contains("no answer within 200 ms"));
    }

    #[test]
    fn names_are_looked_up_together() {
        let text: String = (0..40).map(|i| format!("1:0/0 2:0/0@other{i}\n")).collect();
        let netmap = Netmap::parse(text.as_bytes(), Path::new("NETMAP")).unwrap();
        let fake = Arc::new(Fake { delay: Duration::from_millis(50), ..Fake::default() });
        let hosts = classify(&netmap, Path::new("NETMAP"), fake.clone(), Duration::from_secs(5));
        assert_eq!(hosts.remote.len(), 40);
        assert!(fake.busiest.load(Ordering::SeqCst) > 20, "{:?}", fake.busiest);
    }

    #[test]
    fn the_system_knows_itself() {
        let system = System;
        assert_eq!(system.lookup("127.0.0.1").unwrap(), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert!(system.is_own_name("LocalHost"));
        assert!(system.is_own_name(&rustix::system::uname().nodename().to_string_lossy()));
        assert!(!system.is_own_name("not-this-one"));
        assert!(system.is_own_address(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        // TEST-NET-1 (RFC 5737) is on no machine.
        assert!(!system.is_own_address(OTHER));
    }
}
