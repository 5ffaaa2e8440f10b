//! `cargo xtask bare`: the README's commands on a minimal Debian, so that nothing that they need is there by chance.
//!
//! ```text
//! target/bare/N/bookworm    debootstrap --variant=minbase with gcc and libc6-dev, the linker that Rust wants
//!     /opt/rust             this machine's Rust toolchain, read-only
//!     /root/iou-fast        a fresh clone of the commit
//!     /root/.cargo          nothing but this machine's configuration of cargo, if it has one
//! ```
//!
//! Each command runs in mount and process namespaces of its own (`enter.sh`), with fresh /proc, /sys, /run and /tmp. The
//! kernel ends all that runs there and takes its mounts away when the first process ends, which it kills when this one
//! ends. So nothing is mounted here, and network namespaces made there are not in this machine's /run/netns. What is left
//! to clean up is the directory: at the end, after ^C, and after a `kill -9` by the next run.

mod machine;
mod package;
mod place;
mod root;

use crate::error::{Context, Error, Result};
use crate::{setup, shell};
use clap::ValueEnum;
use machine::Machine;
use place::Place;
use root::Root;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What Rust's compiler wants of a system: a linker, which is gcc. Certificates are this machine's.
const LINKER: &[&str] = &["gcc", "libc6-dev"];

/// Where the clone is.
const CLONE: &str = "/root/iou-fast";

/// Options of `cargo xtask bare`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to run there.
    #[arg(value_enum)]
    task: Task,
    /// Which Debian. The package is always built on bookworm, and installed on both without this.
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Where its files are meanwhile: a file system mounted with exec, suid and dev. Else target/bare.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Installs nothing on this machine.
    #[arg(long)]
    no_setup: bool,
    /// Options for the command that is run there, after `--`.
    #[arg(last = true, value_name = "OPTIONS")]
    more: Vec<String>,
}

/// The commands.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// `cargo xtask lab`.
    Lab,
    /// `cargo xtask test`.
    Test,
    /// `cargo xtask package`; then the package is installed, used, upgraded and purged where there is no compiler.
    Package,
}

/// Releases of Debian.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// Runs the task; returns its exit code.
pub(crate) fn run(options: &Options) -> Result<u8> {
    if !options.no_setup {
        setup::install(setup::For::Bare)?;
    }
    if !testbed::is_root() {
        return Err(again_as_root());
    }
    let commit = Commit::here()?;
    let machine = Machine::of_this_machine()?;
    let place = Place::new(&options.directory())?;
    match options.task {
        Task::Package => package::run(&place, &machine, &commit, options),
        Task::Lab => build(&place, &machine, &commit, options, "lab").map(|(_, code)| code),
        Task::Test => build(&place, &machine, &commit, options, "test").map(|(_, code)| code),
    }
}

impl Options {
    fn directory(&self) -> PathBuf {
        let target = || {
            std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| shell::workspace().join("target"), PathBuf::from)
        };
        self.dir.clone().unwrap_or_else(|| target().join("bare"))
    }
}

/// Becomes the same command as root; returns only if that cannot be.
fn again_as_root() -> Error {
    if !shell::can_be_root() {
        return Error::NoRoot("a root directory of its own");
    }
    let Ok(program) = std::env::current_exe() else { return Error::NoRoot("a root directory of its own") };
    let mut command = shell::as_root(&program.to_string_lossy());
    let source = command.args(std::env::args_os().skip(1)).exec();
    shell::start_error(&command, source)
}

/// Runs `cargo xtask TASK` on a new bare machine; returns that machine and the exit code.
fn build<'a>(
    place: &'a Place,
    machine: &'a Machine,
    commit: &Commit,
    options: &Options,
    task: &str,
) -> Result<(Root<'a>, u8)> {
    let suite = if task == "package" { None } else { options.suite }.unwrap_or(Suite::Bookworm);
    let root = step(&format!("{}: debootstrap", suite.name()), || {
        Root::new(place, machine, suite, "build", LINKER)
    })?;
    step(&format!("{}: clone of {}", suite.name(), commit.name), || commit.clone_into(&root.path_of(CLONE)))?;
    let command =
        [&["cargo", "xtask", task], &*options.more.iter().map(|s| &**s).collect::<Vec<_>>()].concat();
    let name = format!("{}: {}", suite.name(), command.join(" "));
    let code = step(&name, || root.run(CLONE, &command))?;
    println!("== {name}: exit code {code}");
    Ok((root, code))
}

/// Says what is done, and how long it took.
fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let outcome = work();
    println!("== {name}: {} s", start.elapsed().as_secs());
    outcome
}

/// The commit that is checked out here.
struct Commit {
    repository: PathBuf,
    name: String,
}

impl Commit {
    fn here() -> Result<Self> {
        let repository = shell::workspace();
        let name = shell::stdout(git(&repository).args(["rev-parse", "HEAD"]))?.trim().to_owned();
        if name.is_empty() {
            return Err(Error::Bare(format!("{} is no git repository with a commit", repository.display())));
        }
        let changes = shell::stdout(git(&repository).args(["status", "--porcelain"]))?.lines().count();
        if changes > 0 {
            println!(
                "{changes} files that `git status` names are not in the commit, and so not in this run."
            );
        }
        Ok(Self { repository, name })
    }

    fn clone_into(&self, directory: &Path) -> Result<()> {
        let mut clone = git(&self.repository);
        shell::run(clone.args(["clone", "--quiet", "--no-local", "."]).arg(directory))?;
        shell::run(git(directory).args(["checkout", "--quiet", "--detach", &self.name]))
    }
}

/// git in a directory, also in that of the user who has called sudo.
fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*", "-C"]).arg(directory);
    command
}
