//! Builds the targets in `fuzz/` with what libFuzzer needs to see, and runs them.
//!
//! `cargo fuzz` does the same with a nightly compiler. This does it with the project's own: cargo calls us in place of
//! rustc ([`rustc`]), and the project's crates alone are compiled with coverage and AddressSanitizer. Their dependencies
//! are compiled once, for build scripts too, and without instrumentation.

use crate::error::{Error, Result};
use crate::{setup, shell};
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Set where cargo runs this program in place of rustc.
const AS_RUSTC: &str = "IOU_FAST_XTASK_AS_RUSTC";

/// Flags as cargo-fuzz has them: coverage and comparisons for libFuzzer, and AddressSanitizer.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "--cfg=fuzzing",
];

/// Targets that load the XDP program or its maps.
const ROOT: &[&str] = &["datagrams", "xdp"];

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this target: the name of a file in fuzz/fuzz_targets.
    target: Option<String>,
    /// How long each target runs after its corpus.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Runs this one input instead, such as one that a crash has left in fuzz/artifacts.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// In place of rustc: compiles the project's own crates for fuzzing and all others unchanged. Does not return if cargo runs
/// this program for that.
pub(crate) fn rustc() {
    if std::env::var_os(AS_RUSTC).is_none() {
        return;
    }
    let mut arguments = std::env::args_os().skip(1);
    let mut command = Command::new(arguments.next().unwrap_or("rustc".into()));
    command.args(arguments);
    let is = |name: &str| std::env::var_os(name);
    let ours =
        is("CARGO_MANIFEST_DIR").is_some_and(|directory| Path::new(&directory).starts_with(workspace()));
    let built_to_run_now = is("CARGO_CRATE_NAME").is_some_and(|name| name == "build_script_build");
    if ours && !built_to_run_now {
        // -Z needs a nightly compiler or this, which every compiler has.
        command.args(FLAGS).env("RUSTC_BOOTSTRAP", "1");
    }
    let error = command.exec();
    eprintln!("cannot run {}: {error}", command.get_program().display());
    std::process::exit(1);
}

/// The workspace's directory, also where cargo says that another package is compiled.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Runs one target or all; true if nothing was found.
pub(crate) fn run(options: &Options) -> Result<bool> {
    setup::install(setup::For::Tests)?;
    shell::run(&mut build(options.target.as_deref())?)?;
    if let (Some(target), Some(input)) = (&options.target, &options.input) {
        let input = std::path::absolute(input).map_err(|source| start(target, source))?;
        let status = as_needed(target).arg(input).status();
        return Ok(status.map_err(|source| start(target, source))?.success());
    }
    match &options.target {
        Some(target) => {
            let status = fuzz(target, options.seconds)?.status().map_err(|source| start(target, source))?;
            Ok(verdict(target, status))
        }
        None => Ok(check(options.seconds, shell::can_be_root(), None)?.iter().all(|(_, passed)| *passed)),
    }
}

/// Runs every target over its corpus and then for some seconds, two at a time and quietly. Without `root`, targets that need
/// it are left out. With a `seed` each run tries the same inputs. Returns which targets ran, and whether they found nothing.
pub(crate) fn check(seconds: u32, root: bool, seed: Option<u32>) -> Result<Vec<(String, bool)>> {
    let targets: Vec<String> =
        targets()?.into_iter().filter(|target| root || !ROOT.contains(&target.as_str())).collect();
    let mut verdicts = Vec::new();
    for pair in targets.chunks(2) {
        let mut running = Vec::new();
        for target in pair {
            let command = &mut fuzz(target, seconds)?;
            command.args(seed.map(|seed| format!("-seed={seed}")));
            let log = log(target)?;
            let both = log.try_clone().map_err(|source| start(target, source))?;
            let child = command.stdin(Stdio::null()).stdout(log).stderr(both).spawn();
            running.push((target, child.map_err(|source| start(target, source))?));
        }
        for (target, mut child) in running {
            let status = child.wait().map_err(|source| start(target, source))?;
            let text = fs::read(log_path(target)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if status.success() {
                let last = text.lines().rfind(|line| line.contains("DONE")).unwrap_or("ran");
                println!("{target}: {last}");
            } else {
                // Its progress is of no interest, and may be megabytes.
                text.lines()
                    .filter(|line| !line.starts_with(['#', '\t']))
                    .for_each(|line| println!("{line}"));
            }
            verdicts.push((target.clone(), verdict(target, status)));
        }
    }
    Ok(verdicts)
}

/// The command that builds one target or all.
pub(crate) fn build(target: Option<&str>) -> Result<Command> {
    let mut command = shell::cargo(&["build", "--manifest-path", "fuzz/Cargo.toml", "--target-dir"]);
    command.arg(directory());
    match target {
        Some(target) => {
            let known = targets()?;
            if !known.iter().any(|other| other == target) {
                return Err(Error::NoSuchTarget(target.to_owned(), known.join(", ")));
            }
            command.args(["--bin", target]);
        }
        None => {
            command.arg("--bins");
        }
    }
    // By name, because cargo may have replaced the file of this build meanwhile.
    let xtask = testbed::Bin::find("xtask")?;
    command.env("RUSTC_WRAPPER", xtask).env(AS_RUSTC, "1").env_remove("RUSTFLAGS");
    // `cargo xtask` has set these for us. Nothing resets them where cargo only asks for the compiler's abilities: the answer
    // would name AddressSanitizer, and build scripts would compile all C code with it.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_CRATE_NAME");
    Ok(command)
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let directory = workspace().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&directory).map_err(|source| start("fuzz/fuzz_targets", source))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}

/// The target directory of the fuzz targets, which are compiled differently from everything else.
fn directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), PathBuf::from)
        .join("fuzz")
}

/// A target, as root where it needs to be.
fn as_needed(target: &str) -> Command {
    let program = directory().join("debug").join(target);
    let mut command = if ROOT.contains(&target) {
        shell::as_root(&program.to_string_lossy())
    } else {
        Command::new(program)
    };
    // The search for leaked memory needs ptrace, which containers seldom allow.
    command.current_dir(workspace()).env("ASAN_OPTIONS", "detect_leaks=0");
    command
}

/// Runs `target` over its corpus and then on new inputs, which are kept under the target directory.
fn fuzz(target: &str, seconds: u32) -> Result<Command> {
    let found = directory().join("corpus").join(target);
    let artifacts = workspace().join("fuzz/artifacts").join(target);
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).map_err(|source| start(target, source))?;
    }
    let mut command = as_needed(target);
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(artifacts.join(""));
    command.arg(found).arg(workspace().join("fuzz/corpus").join(target)).arg(prefix);
    command.args([&format!("-max_total_time={seconds}"), "-timeout=10", "-rss_limit_mb=1024"]);
    Ok(command)
}

fn log_path(target: &str) -> PathBuf {
    directory().join(format!("{target}.log"))
}

fn log(target: &str) -> Result<fs::File> {
    fs::File::create(log_path(target)).map_err(|source| start(target, source))
}

/// Prints the command that repeats the finding.
fn verdict(target: &str, status: ExitStatus) -> bool {
    if !status.success() {
        println!(
            "{target}: {status}. Run the input that is named above again: cargo xtask fuzz {target} --input FILE"
        );
    }
    status.success()
}

fn start(program: &str, source: std::io::Error) -> Error {
    Error::Start { program: program.to_owned(), source }
}
