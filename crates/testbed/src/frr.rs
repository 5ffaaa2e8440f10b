use crate::command::kill;
use crate::error::{Context, Error, Result};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::wait_until;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs};
use tempfile::TempDir;

/// Where Debian and Arch put the daemons, and where Fedora does.
const DAEMONS: [&str; 2] = ["/usr/lib/frr", "/usr/libexec/frr"];

/// Each daemon makes a directory `<name>.<pid>` here, which no option changes, and leaves it behind when it is killed.
const CRASH_LOGS: &str = "/var/tmp/frr";

/// How long a daemon may take to open its sockets on a busy machine, or to answer.
const START: Duration = Duration::from_secs(20);

/// FRR in a network namespace: a real router that leaves everything outside its own directory and namespace alone.
///
/// ```no_run
/// # fn main() -> testbed::Result<()> {
/// # use testbed::{Frr, Namespace};
/// # use std::time::Duration;
/// # let namespace = Namespace::new("router")?;
/// let frr = Frr::start(&namespace, &[
///     ("zebra", "interface eth0\n ip address 10.0.0.1/24\n"),
///     ("ospfd", "interface eth0\n ip ospf area 0\nrouter ospf\n ospf router-id 10.0.0.1\n"),
/// ])?;
/// frr.wait("ospfd", "show ip ospf neighbor json", Duration::from_secs(60), |answer| {
///     answer["neighbors"]["10.0.0.2"][0]["converged"] == "Full"
/// })?;
/// # Ok(()) }
/// ```
///
/// The daemons are children of this process and are killed when this is dropped. Each goes from root to the user
/// `frr`, and the kernel then no longer kills it with its parent. The daemons of a killed test end with its namespace, see
/// [`crate::reap_stale`].
pub struct Frr {
    daemons: Vec<(String, Process)>,
    directory: TempDir,
}

impl Frr {
    /// Starts `zebra` and each other daemon of `daemons` (name, configuration) and waits until they answer. `zebra`
    /// need not be among them; its configuration is empty then.
    ///
    /// # Errors
    /// If FRR is not installed, a daemon does not start, or one does not understand a line of its configuration.
    pub fn start(namespace: &Namespace, daemons: &[(&str, &str)]) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let directory = builder.prefix("iouf-frr").tempdir().context(|| "directory for FRR".into())?;
        let (uid, gid) = frr_user()?;
        let path = directory.path();
        chown(path, Some(uid), Some(gid)).context(|| format!("owner of {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .context(|| format!("mode of {}", path.display()))?;

        let mut frr = Self { daemons: Vec::new(), directory };
        // While zebra is not there, the others try to connect to it only now and then.
        let zebra = daemons.iter().find(|(name, _)| *name == "zebra").map_or("", |(_, config)| config);
        frr.launch(namespace, "zebra", zebra)?;
        frr.ready("zebra", "zserv.api")?;
        let others = || daemons.iter().filter(|(name, _)| *name != "zebra");
        for (name, config) in others() {
            frr.launch(namespace, name, config)?;
        }
        for (name, _) in others() {
            frr.ready(name, &format!("{name}.vty"))?;
        }
        Ok(frr)
    }

    fn launch(&mut self, namespace: &Namespace, name: &str, config: &str) -> Result<()> {
        let path = |file: &str| self.directory.path().join(file);
        let config_file = path(&format!("{name}.conf"));
        fs::write(&config_file, config).context(|| format!("file {}", config_file.display()))?;
        let [debian, fedora] = DAEMONS.map(|directory| Path::new(directory).join(name));
        let mut command = namespace.command(if fedora.exists() { fedora } else { debian });
        command.arg("-f").arg(config_file).arg("-i").arg(path(&format!("{name}.pid")));
        command.arg("-z").arg(path("zserv.api")).arg("--vty_socket").arg(self.directory.path());
        command.args(["-P", "0", "--log", "stdout"]);
        match name {
            // This one takes a directory.
            "ldpd" => drop(command.arg("--ctl_socket").arg(self.directory.path())),
            "bfdd" => drop(command.arg("--bfdctl").arg(path("bfdd.sock"))),
            _ => {}
        }
        self.daemons.push((name.into(), Process::spawn(&mut command)?));
        Ok(())
    }

    /// Waits until a daemon has made its socket and answers, and has understood its configuration.
    fn ready(&mut self, name: &str, socket: &str) -> Result<()> {
        let path = self.directory.path().join(socket);
        let up = wait_until(START, || path.exists() && self.show(name, "show version").is_ok());
        let Some((_, process)) = self.daemons.iter_mut().find(|(daemon, _)| daemon == name) else {
            return Ok(());
        };
        if process.exited().is_some() {
            return Err(Error::Ended { what: format!("{name} answered"), dump: process.dump() });
        }
        if !up {
            let what = format!("an answer of {name}");
            return Err(Error::Timeout { what, timeout: START, dump: process.dump() });
        }
        if let Some(line) = process.stdout().lines().find(|line| line.contains("on config line")) {
            return Err(io::Error::other(line.to_owned())).context(|| format!("configuration of {name}"));
        }
        Ok(())
    }

    /// What `daemon` answers to `command`, as `vtysh` would show it. Commands that need privileges work; so does
    /// configuration, its lines joined by newlines: `"configure\ninterface eth0\n shutdown"`.
    ///
    /// # Errors
    /// If the daemon does not run or does not know the command.
    pub fn show(&self, daemon: &str, command: &str) -> Result<String> {
        let path = self.directory.path().join(format!("{daemon}.vty"));
        let answer = ask(&path, command).context(|| format!("asking {daemon} on {}", path.display()))?;
        answer
            .map_err(|answer| io::Error::other(answer.trim().to_owned()))
            .context(|| format!("{daemon}: {command}"))
    }

    /// What `daemon` answers to `command`, which should end in `json`.
    ///
    /// # Errors
    /// As [`show`](Self::show); if the answer is not JSON.
    pub fn json(&self, daemon: &str, command: &str) -> Result<Value> {
        let text = self.show(daemon, command)?;
        serde_json::from_str(&text).context(|| format!("{daemon}: {command}: {text}"))
    }

    /// Asks `daemon` until `wanted` accepts the answer, and returns that.
    ///
    /// # Errors
    /// If it does not within `timeout`: the message holds the last answer and what the daemons wrote.
    pub fn wait(
        &self,
        daemon: &str,
        command: &str,
        timeout: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + timeout;
        loop {
            let answer = self.json(daemon, command);
            match answer {
                Ok(answer) if wanted(&answer) => return Ok(answer),
                answer if Instant::now() >= end => {
                    let dump = match &answer {
                        Ok(answer) => format!("{answer:#}"),
                        Err(error) => error.to_string(),
                    };
                    let what = format!("what was wanted of `{command}`");
                    return Err(Error::Timeout { what, timeout, dump: format!("{dump}\n{self:?}") });
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Kills one daemon, as a crash would: it sends no farewell to its neighbours.
    pub fn kill(&mut self, daemon: &str) {
        self.daemons.retain(|(name, process)| {
            if name == daemon {
                end(name, process.pid());
            }
            name != daemon
        });
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        for (name, process) in self.daemons.drain(..) {
            let pid = process.pid();
            end(&name, pid);
            drop(process);
        }
    }
}

impl fmt::Debug for Frr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, process) in &self.daemons {
            writeln!(f, "{}", process.dump())?;
        }
        Ok(())
    }
}

/// Ends a daemon, its own children (ldpd has two) and the directories they made.
fn end(name: &str, pid: u32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    for pid in [pid].into_iter().chain(children) {
        kill(pid);
        let _ = fs::remove_dir_all(format!("{CRASH_LOGS}/{name}.{pid}"));
    }
}

/// Sends commands, one per line, over one connection to a daemon's socket, as `vtysh` does, and returns the last answer. A command ends
/// with a zero byte; an answer with three of them and the result, 0 for success (`lib/vty.c`, `vtysh_read`).
fn ask(path: &PathBuf, commands: &str) -> io::Result<std::result::Result<String, String>> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(START))?;
    let mut answer = Vec::new();
    for command in ["enable"].into_iter().chain(commands.lines()) {
        socket.write_all(command.as_bytes())?;
        socket.write_all(&[0])?;
        answer.clear();
        let mut piece = [0; 4096];
        let result = loop {
            if let [.., 0, 0, 0, result] = answer[..] {
                break result;
            }
            match socket.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => answer.extend(&piece[..n]),
            }
        };
        answer.truncate(answer.len() - 4);
        if result != 0 {
            return Ok(Err(String::from_utf8_lossy(&answer).into_owned()));
        }
    }
    Ok(Ok(String::from_utf8_lossy(&answer).into_owned()))
}

/// User and group id of the user `frr`, which the package makes and as whom the daemons run.
fn frr_user() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context(|| "/etc/passwd".into())?;
    let ids = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("frr:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.ok_or_else(|| io::Error::other("there is no user frr: `cargo xtask setup` installs it"))
        .context(|| "FRR".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frr_answers_and_its_daemons_end_when_it_is_dropped() {
        let namespace = Namespace::new("frr").unwrap();
        let frr =
            Frr::start(&namespace, &[("zebra", "interface lo\n ip address 10.7.7.7/32\n"), ("ldpd", "")])
                .unwrap();
        let answer = frr
            .wait("zebra", "show interface lo json", START, |answer| {
                answer["lo"]["ipAddresses"].to_string().contains("10.7.7.7/32")
            })
            .unwrap();
        assert_eq!(answer["lo"]["administrativeStatus"], "up");
        frr.show("zebra", "configure\ninterface lo\n description seven").unwrap();
        assert!(frr.show("zebra", "show running-config").unwrap().contains("description seven"));
        let message = frr.show("zebra", "show nonsense").unwrap_err().to_string();
        assert!(message.contains("show nonsense"), "{message}");

        let directory = frr.directory.path().to_owned();
        let pids: Vec<_> = frr.daemons.iter().map(|(_, process)| process.pid()).collect();
        drop(frr);
        assert!(!directory.exists());
        for pid in pids {
            assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
            assert!(!fs::exists(format!("{CRASH_LOGS}/zebra.{pid}")).unwrap());
        }
        // ldpd's children are no children of this process, so it cannot wait for them.
        let left = || crate::run("ip", ["netns", "pids", namespace.name()]).unwrap().stdout;
        assert!(wait_until(START, || left().is_empty()));
    }

    #[test]
    fn a_faulty_configuration_is_shown() {
        let namespace = Namespace::new("frrbad").unwrap();
        let message = Frr::start(&namespace, &[("zebra", "no such line\n")]).unwrap_err().to_string();
        assert!(message.contains("zebra") && message.contains("no such line"), "{message}");
    }
}
