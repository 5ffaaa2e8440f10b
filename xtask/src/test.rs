//! Runs every test and adds the results up.

use crate::error::{Error, Result};
use crate::{fuzz, setup, shell, spec, vm};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, ops::AddAssign};

/// How long each target is fuzzed, beyond its corpus. To find something new takes hours: this finds what was just broken.
const FUZZ_SECONDS: u32 = 5;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests with this in their name.
    filter: Option<String>,
    /// Leaves out what needs root: end-to-end tests and the test bed's own.
    #[arg(long)]
    no_e2e: bool,
    /// Installs nothing.
    #[arg(long)]
    no_setup: bool,
    /// Runs the checks that need another kernel or driver instead, in virtual machines that QEMU emulates; all of them, or
    /// those of one kernel. Fetches Debian's kernels once, into target/vm. Takes some minutes.
    #[arg(long, value_name = "KERNEL", num_args = 0..=1, require_equals = true, default_missing_value = "all",
          value_parser = vm::names(), conflicts_with = "no_e2e")]
    vm: Option<String>,
}

/// Runs the tests; true if all that there are ran and passed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(kernel) = &options.vm {
        let kernel = (kernel != "all").then_some(kernel.as_str());
        return vm::run(kernel, options.filter.as_deref().unwrap_or_default(), !options.no_setup);
    }
    if !options.no_setup {
        setup::install(if options.no_e2e { setup::For::Lab } else { setup::For::Tests })?;
    }
    let mut stages = Stages { filter: options.filter.clone(), ..Stages::default() };
    let build = shell::cargo(&["build", "--workspace", "--features", "lab", "--bins"]);
    if stages.step("build", build)? {
        let all = ["test", "--workspace", "--features", "lab", "--no-fail-fast"];
        let with = |more: &[&str]| shell::cargo(&[&all[..], more].concat());
        stages.tests("unit tests", with(&["--lib", "--bins", "--exclude", "testbed"]))?;
        stages.tests("examples in the documentation", with(&["--doc"]))?;
        stages.tests("models of who sees what when", models())?;
        if options.no_e2e {
            stages.not_run.push("end-to-end tests and the test bed's own (--no-e2e)".into());
        } else if shell::can_be_root() {
            reap()?;
            // Built as the user, run as root.
            let runner = runner();
            let test_bed = [runner, &["test", "--package", "testbed", "--lib"]].concat();
            stages.tests("test bed (root)", shell::cargo(&test_bed))?;
            if has_integration_tests(&shell::workspace()) {
                // One at a time: each fills the machine with traffic of its own.
                stages.single = true;
                let end_to_end = [runner, &all[..], &["--test", "*"]].concat();
                stages.tests("end-to-end tests (root)", shell::cargo(&end_to_end))?;
            }
        } else {
            stages.incomplete = true;
            stages
                .not_run
                .push("end-to-end tests and the test bed's own: they need root, there is no sudo".into());
        }
    }
    if options.filter.is_none() {
        fuzzing(&mut stages, options)?;
        benchmarks(&mut stages, options)?;
    }
    stages.specification(options)?;
    stages.finish()
}

/// Has cargo run what it built as root.
pub(crate) fn runner() -> &'static [&'static str] {
    if testbed::is_root() { &[] } else { &["--config", "target.'cfg(unix)'.runner = ['sudo', '-E']"] }
}

/// The rings' and the sleeping workers' protocols, in every order of loads and stores. What is compiled for that is of
/// no other use.
fn models() -> Command {
    let mut command = shell::cargo(&[
        "test",
        "--package",
        "af_xdp",
        "--lib",
        "--config",
        "build.rustflags=['--cfg', 'loom']",
    ]);
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::workspace().join("target"), PathBuf::from);
    command.env("CARGO_TARGET_DIR", target.join("loom")).env_remove("RUSTFLAGS");
    command
}

/// Runs every fuzz target over its corpus, and a few seconds from there.
fn fuzzing(stages: &mut Stages, options: &Options) -> Result<()> {
    if !stages.step("build of the fuzz targets", fuzz::build(None)?)? {
        return Ok(());
    }
    println!("== fuzzing");
    let root = !options.no_e2e && shell::can_be_root();
    if !root {
        stages.not_run.push("fuzzing of the XDP program and of workers: they need root".into());
    }
    for (target, passed) in fuzz::check(FUZZ_SECONDS, root, Some(1))? {
        stages.count += Count { passed: passed.into(), failed: (!passed).into(), ignored: 0 };
        stages.results.fuzzed(&target, passed);
        if !passed {
            stages.failed.push(format!("fuzzing: {target}"));
        }
    }
    Ok(())
}

/// Goes once through every benchmark, to see that they work. No figure counts, so they are built as the tests are.
fn benchmarks(stages: &mut Stages, options: &Options) -> Result<()> {
    let bench = |runner: &[&str], name: &str, option: &str| {
        let all = ["bench", "--profile", "dev", "--features", "lab", "--bench", name, "--", option];
        shell::cargo(&[runner, &all].concat())
    };
    if options.no_e2e || !shell::can_be_root() {
        stages.not_run.push("end-to-end benchmarks and those of the XDP program: they need root".into());
        stages.step("benchmarks of the parts", bench(&[], "micro", "--test"))?;
    } else {
        stages.step("benchmarks of the parts (root)", bench(runner(), "micro", "--test"))?;
        stages.step("end-to-end benchmarks (root)", bench(runner(), "end_to_end", "--quick"))?;
    }
    Ok(())
}

/// Removes what killed tests left.
fn reap() -> Result<()> {
    if testbed::is_root() {
        for name in testbed::reap_stale()? {
            println!("removed namespace {name}, left by an earlier run");
        }
    }
    Ok(())
}

/// True if a package of the workspace has a `tests/*.rs`: cargo refuses `--test '*'` where there is none.
fn has_integration_tests(workspace: &Path) -> bool {
    let has = |package: &Path| {
        let entries = fs::read_dir(package.join("tests"));
        entries.is_ok_and(|mut e| e.any(|e| e.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "rs"))))
    };
    let crates = fs::read_dir(workspace.join("crates")).into_iter().flatten().flatten();
    has(workspace) || has(&workspace.join("xtask")) || crates.into_iter().any(|package| has(&package.path()))
}

/// What the stages so far came to.
#[derive(Default)]
struct Stages {
    filter: Option<String>,
    single: bool,
    count: Count,
    failed: Vec<String>,
    not_run: Vec<String>,
    incomplete: bool,
    results: spec::Results,
}

impl Stages {
    /// Runs something that is no test; false if it failed.
    fn step(&mut self, name: &str, mut command: Command) -> Result<bool> {
        println!("== {name}");
        let status = command.status().map_err(|source| shell::start_error(&command, source))?;
        if !status.success() {
            self.count.failed += 1;
            self.failed.push(name.into());
        }
        Ok(status.success())
    }

    /// Runs tests, passing on what they write.
    fn tests(&mut self, name: &str, mut command: Command) -> Result<()> {
        println!("== {name}");
        let separator = ["--".to_owned()];
        let threads = self.single.then(|| "--test-threads=1".to_owned());
        command.args(separator.into_iter().chain(threads).chain(self.filter.clone()));
        let start = |source| Error::Start { program: "cargo".into(), source };
        // One pipe for both: which program a test is in stands between the results, on standard error.
        let (output, both) = io::pipe().map_err(start)?;
        command.stdin(Stdio::null()).stdout(both.try_clone().map_err(start)?).stderr(both);
        let mut child = command.spawn().map_err(start)?;
        // It keeps the pipe's other end open.
        drop(command);
        let mut results = None;
        let mut line = Vec::new();
        let mut output = BufReader::new(output);
        while output.read_until(b'\n', &mut line).map_err(start)? > 0 {
            let text = String::from_utf8_lossy(&line);
            print!("{text}");
            self.results.read(&text);
            if let Some(count) = Count::read(&text) {
                *results.get_or_insert_default() += count;
            }
            line.clear();
        }
        let success = child.wait().map_err(start)?.success() && results.is_some();
        let mut count: Count = results.unwrap_or_default();
        if !success {
            self.failed.push(name.into());
            // Did not build, crashed before it could count, or ran nothing at all.
            count.failed = count.failed.max(1);
        }
        if count.ignored > 0 {
            self.not_run.push(format!("{} of the {name}, marked as ignored", count.ignored));
        }
        self.count += count;
        Ok(())
    }

    /// Every promise has its tests; after a whole run they have passed, too.
    fn specification(&mut self, options: &Options) -> Result<()> {
        println!("== specification");
        let whole = self.filter.is_none() && !options.no_e2e && !self.incomplete;
        let wrong = spec::check(&shell::workspace(), whole.then_some(&self.results))?;
        wrong.iter().for_each(|line| println!("{line}"));
        if !wrong.is_empty() {
            self.count.failed += 1;
            self.failed.push("specification".into());
        }
        if !whole {
            self.not_run
                .push("the tests that SPECIFICATION.md names, not all of them: they are there".into());
        }
        Ok(())
    }

    /// Says how it went, in the end with `N passed, N failed` alone on a line.
    fn finish(self) -> Result<bool> {
        println!();
        for name in &self.failed {
            println!("FAILED: {name}");
        }
        for what in &self.not_run {
            println!("NOT RUN: {what}");
        }
        println!("{} passed, {} failed", self.count.passed, self.count.failed);
        match self.filter {
            Some(filter) if self.count.passed + self.count.failed == 0 => Err(Error::NoSuchTest(filter)),
            _ => Ok(self.failed.is_empty() && self.count.failed == 0 && !self.incomplete),
        }
    }
}

/// Results of tests.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// What libtest's line says: `test result: ok. 25 passed; 0 failed; 1 ignored; 0 measured; ...`.
    fn read(line: &str) -> Option<Self> {
        let (_, results) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut count = Self::default();
        for result in results.split(';') {
            match result.trim().split_once(' ') {
                Some((n, "passed")) => count.passed = n.parse().ok()?,
                Some((n, "failed")) => count.failed = n.parse().ok()?,
                Some((n, "ignored")) => count.ignored = n.parse().ok()?,
                _ => {}
            }
        }
        Some(count)
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_lines_are_read() {
        let line = "test result: FAILED. 25 passed; 5 failed; 1 ignored; 0 measured; 2 filtered out; finished in 3.08s\n";
        assert_eq!(Count::read(line), Some(Count { passed: 25, failed: 5, ignored: 1 }));
        let line = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Count::read(line), Some(Count { passed: 3, ..Count::default() }));
        for other in ["test a::b ... ok", "3 passed; 0 failed", "test result: ok", ""] {
            assert_eq!(Count::read(other), None, "{other}");
        }
    }

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text, "sh"]);
        command
    }

    #[test]
    fn stages_add_up() {
        let mut stages = Stages::default();
        stages.tests("one", script("echo 'test result: ok. 3 passed; 0 failed; 1 ignored;'")).unwrap();
        stages
            .tests("two", script("echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored;'; exit 101"))
            .unwrap();
        assert_eq!(stages.count, Count { passed: 4, failed: 2, ignored: 1 });
        assert_eq!(stages.failed, ["two"]);
        assert_eq!(stages.not_run.len(), 1);
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn what_does_not_build_counts_as_failed() {
        let mut stages = Stages::default();
        stages.tests("broken", script("exit 101")).unwrap();
        assert_eq!(stages.count.failed, 1);
        stages.tests("mute", script("exit 0")).unwrap();
        assert_eq!(stages.count.failed, 2);
        let mut stages = Stages::default();
        assert!(!stages.step("build", script("exit 1")).unwrap());
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn all_passed_but_not_all_run_is_no_success() {
        let mut stages = Stages { incomplete: true, ..Stages::default() };
        stages.tests("one", script("echo 'test result: ok. 3 passed; 0 failed; 0 ignored;'")).unwrap();
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn a_filter_that_fits_nothing_is_an_error() {
        let mut stages = Stages { filter: Some("no_such".into()), single: true, ..Stages::default() };
        stages.tests("one", script(r#"test "$*" = '-- --test-threads=1 no_such' && echo 'test result: ok. 0 passed; 0 failed;'"#)).unwrap();
        assert!(matches!(stages.finish(), Err(Error::NoSuchTest(_))));
    }
}
