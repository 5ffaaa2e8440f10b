//! Runs every test and adds the results up.

use crate::error::{Error, Result};
use crate::spec::{Results, TestId};
use crate::{fuzz, machine, setup, shell, spec, vm};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, ops::AddAssign};

/// How long each target is fuzzed, beyond its corpus. To find something new takes hours: this finds what was just broken.
const FUZZ_SECONDS: u32 = 5;
/// A test that failed is tried again only if the hypervisor took at least so much CPU time away meanwhile...
const TAKEN: Duration = Duration::from_millis(100);
/// ...and so often at most...
const AGAIN: usize = 3;
/// ...and only if no more than these failed: what fails in so many places is broken.
const FEW: usize = 8;

/// End-to-end tests that measure, and those that must be alone on the machine, are in modules of this name. They run one at
/// a time. All others wait for most of their time, in namespaces and directories of their own, and run side by side.
const MEASURED: &str = "measured::";

/// So many tests run side by side for each CPU.
const PER_CPU: usize = 3;

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
    let build = shell::cargo(&["build", "--workspace", "--bins"]);
    if stages.step("build", build)? {
        let with =
            |more: &[&str]| shell::cargo(&[&["test", "--workspace", "--no-fail-fast"][..], more].concat());
        let which = Which { arguments: options.filter.iter().cloned().collect(), ..Which::default() };
        stages.tests("unit tests", &which, || with(&["--lib", "--bins", "--exclude", "testbed"]))?;
        stages.tests("examples in the documentation", &which, || with(&["--doc"]))?;
        stages.tests("models of who sees what when", &which, models)?;
        if options.no_e2e {
            stages.not_run.push("end-to-end tests and the test bed's own (--no-e2e)".into());
        } else if shell::can_be_root() {
            reap()?;
            // Built as the user, run as root.
            let runner = runner();
            let test_bed = [runner, &["test", "--package", "testbed", "--lib"]].concat();
            stages.tests("test bed (root)", &which, || shell::cargo(&test_bed))?;
            end_to_end(&mut stages, runner)?;
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

/// Runs the end-to-end tests, those that measure behind the others.
fn end_to_end(stages: &mut Stages, runner: &[&str]) -> Result<()> {
    let programs = end_to_end_programs(&shell::workspace());
    let command = || {
        let mut command = shell::cargo(&[runner, &["test", "--workspace", "--no-fail-fast"]].concat());
        command.args(programs.iter().flat_map(|program| ["--test", program]));
        command
    };
    if let Some(filter) = stages.filter.clone() {
        // libtest runs what has any of several words in its name, and cannot be asked for what has each.
        let which = Which { threads: Some(1), arguments: vec![filter] };
        return stages.tests("end-to-end tests (root)", &which, command);
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let which = Which { threads: Some(cpus * PER_CPU), arguments: vec!["--skip".into(), MEASURED.into()] };
    stages.tests("end-to-end tests, side by side (root)", &which, command)?;
    let which = Which { threads: Some(1), arguments: vec![MEASURED.into()] };
    stages.tests("end-to-end tests that measure (root)", &which, command)
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
    let start = Instant::now();
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
    println!("== fuzzing: {} s", start.elapsed().as_secs());
    Ok(())
}

/// Goes once through every benchmark, to see that they work. No figure counts, so they are built as the tests are.
fn benchmarks(stages: &mut Stages, options: &Options) -> Result<()> {
    let bench = |runner: &[&str], name: &str, option: &str| {
        let all = ["bench", "--profile", "dev", "--bench", name, "--", option];
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

/// The names of all programs of end-to-end tests: `tests/NAME.rs` and `tests/NAME/main.rs` of each package.
fn end_to_end_programs(workspace: &Path) -> Vec<String> {
    let crates = fs::read_dir(workspace.join("crates")).into_iter().flatten().flatten();
    let packages = crates.map(|entry| entry.path()).chain([workspace.to_owned(), workspace.join("xtask")]);
    let files =
        packages.flat_map(|package| fs::read_dir(package.join("tests")).into_iter().flatten().flatten());
    let name = |entry: fs::DirEntry| {
        let path = entry.path();
        let is_program =
            path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
        is_program.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
    };
    let mut names: Vec<_> = files.filter_map(name).collect();
    names.sort_unstable();
    names
}

/// Which tests of some programs run, and how.
#[derive(Default)]
struct Which {
    /// So many at a time; else as many as there are CPUs.
    threads: Option<usize>,
    /// Names and options for libtest.
    arguments: Vec<String>,
}

/// What one run of some tests came to.
#[derive(Default)]
struct Run {
    count: Count,
    passed: Vec<TestId>,
    /// And how much CPU time was taken away while each ran.
    failed: BTreeMap<TestId, Duration>,
    /// Every test program came to its end, and what failed are tests that are known.
    whole: bool,
}

impl Run {
    /// Few failed, and each may have done so because of the machine.
    fn is_worth_another_try(&self) -> bool {
        let few = (1..=FEW).contains(&self.failed.len());
        self.whole && few && self.failed.values().all(|taken| *taken >= TAKEN)
    }
}

/// The tests, as one would name them.
fn list<'a>(tests: impl Iterator<Item = &'a TestId>) -> String {
    tests.map(|(program, test)| format!("{program}::{test}")).collect::<Vec<_>>().join(", ")
}

/// True for what a test program says before its first test: `running 3 tests`.
fn is_begin(line: &str) -> bool {
    let count = line.trim_end().strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
    count.is_some_and(|(count, rest)| count.parse::<u64>().is_ok() && matches!(rest, "" | "s"))
}

/// What the stages so far came to.
struct Stages {
    filter: Option<String>,
    count: Count,
    failed: Vec<String>,
    /// Those that failed at first.
    again: Vec<String>,
    not_run: Vec<String>,
    incomplete: bool,
    results: Results,
    /// CPU time that was taken from this machine so far; waits for it to be left alone.
    stolen: fn() -> Duration,
    wait: fn(),
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            filter: None,
            count: Count::default(),
            failed: Vec::new(),
            again: Vec::new(),
            not_run: Vec::new(),
            incomplete: false,
            results: Results::default(),
            stolen: machine::stolen,
            wait: machine::wait_until_calm,
        }
    }
}

impl Stages {
    /// Runs something that is no test; false if it failed.
    fn step(&mut self, name: &str, mut command: Command) -> Result<bool> {
        println!("== {name}");
        let start = Instant::now();
        let status = command.status().map_err(|source| shell::start_error(&command, source))?;
        println!("== {name}: {} s", start.elapsed().as_secs());
        if !status.success() {
            self.count.failed += 1;
            self.failed.push(name.into());
        }
        Ok(status.success())
    }

    /// Runs tests, passing on what they write. Those that failed while the hypervisor kept CPUs from this machine are run
    /// again: on such a machine a deadline says nothing.
    fn tests(&mut self, name: &str, which: &Which, command: impl Fn() -> Command) -> Result<()> {
        println!("== {name}");
        let start = Instant::now();
        let threads = which.threads.map(|threads| format!("--test-threads={threads}"));
        let args: Vec<String> = threads.into_iter().chain(which.arguments.clone()).collect();
        let mut run = self.once(command(), &args)?;
        let mut tries = 0;
        while tries < AGAIN && run.is_worth_another_try() {
            tries += 1;
            (self.wait)();
            let failed = std::mem::take(&mut run.failed);
            println!("== {name}, again: {}", list(failed.keys()));
            let mut args = vec!["--test-threads=1".to_owned(), "--exact".to_owned()];
            args.extend(failed.keys().map(|(_, test)| test.clone()));
            let next = self.once(command(), &args)?;
            for (test, taken) in failed {
                if next.passed.contains(&test) {
                    run.count.failed -= 1;
                    run.count.passed += 1;
                    self.results.passed_after_all(&test);
                    self.again.push(format!(
                        "{}::{} ({taken:?} then; passed at try {})",
                        test.0,
                        test.1,
                        tries + 1
                    ));
                } else {
                    run.failed.insert(test.clone(), next.failed.get(&test).copied().unwrap_or_default());
                }
            }
            run.whole = next.whole;
        }
        let success = run.whole && run.failed.is_empty();
        if !success {
            self.failed.push(name.into());
            // Did not build, crashed before it could count, or ran nothing at all.
            run.count.failed = run.count.failed.max(1);
        }
        if run.count.ignored > 0 {
            self.not_run.push(format!("{} of the {name}, marked as ignored", run.count.ignored));
        }
        self.count += run.count;
        println!("== {name}: {} s", start.elapsed().as_secs());
        Ok(())
    }

    /// Runs tests once, with these arguments for libtest.
    fn once(&mut self, mut command: Command, args: &[String]) -> Result<Run> {
        let single = args.iter().any(|arg| arg == "--test-threads=1");
        command.arg("--").args(args);
        let start = |source| Error::Start { program: "cargo".into(), source };
        // One pipe for both: which program a test is in stands between the results, on standard error.
        let (output, both) = io::pipe().map_err(start)?;
        command.stdin(Stdio::null()).stdout(both.try_clone().map_err(start)?).stderr(both);
        let mut child = command.spawn().map_err(start)?;
        // It keeps the pipe's other end open.
        drop(command);
        let (mut run, mut begun, mut ended) = (Run::default(), 0, 0);
        let mut before = (self.stolen)();
        let mut line = Vec::new();
        let mut output = BufReader::new(output);
        while output.read_until(b'\n', &mut line).map_err(start)? > 0 {
            let text = String::from_utf8_lossy(&line);
            print!("{text}");
            if let Some((test, passed)) = self.results.read(&text) {
                let now = (self.stolen)();
                if passed {
                    run.passed.push(test);
                } else {
                    run.failed.insert(test, now.saturating_sub(before));
                }
                // Where several run at once, each is taken to have run from the beginning.
                before = if single { now } else { before };
            } else if is_begin(&text) {
                begun += 1;
                before = (self.stolen)();
            } else if let Some(count) = Count::read(&text) {
                run.count += count;
                ended += 1;
            }
            line.clear();
        }
        let success = child.wait().map_err(start)?.success();
        let explained = success == run.failed.is_empty() && run.count.failed == run.failed.len() as u64;
        run.whole = ended > 0 && begun == ended && explained;
        Ok(run)
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
        for test in &self.again {
            println!("FAILED AT FIRST, while the hypervisor took CPU time away: {test}");
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
    use std::sync::atomic::{AtomicU32, Ordering};

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

    fn single(filter: Option<&str>) -> Which {
        Which { threads: Some(1), arguments: filter.into_iter().map(str::to_owned).collect() }
    }

    fn script(text: &str) -> impl Fn() -> Command {
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", text, "sh"]);
            command
        }
    }

    #[test]
    fn stages_add_up() {
        let mut stages = Stages::default();
        let one = "echo 'running 4 tests'; echo 'test result: ok. 3 passed; 0 failed; 1 ignored;'";
        stages.tests("one", &Which::default(), script(one)).unwrap();
        let two =
            "echo 'running 3 tests'; echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored;'; exit 101";
        stages.tests("two", &Which::default(), script(two)).unwrap();
        assert_eq!(stages.count, Count { passed: 4, failed: 2, ignored: 1 });
        assert_eq!(stages.failed, ["two"]);
        assert_eq!(stages.not_run.len(), 1);
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn what_does_not_build_counts_as_failed() {
        let mut stages = Stages::default();
        stages.tests("broken", &Which::default(), script("exit 101")).unwrap();
        assert_eq!(stages.count.failed, 1);
        stages.tests("mute", &Which::default(), script("exit 0")).unwrap();
        assert_eq!(stages.count.failed, 2);
        let mut stages = Stages::default();
        assert!(!stages.step("build", script("exit 1")()).unwrap());
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn a_program_that_ends_in_the_midst_of_its_tests_has_failed() {
        let mut stages = Stages::default();
        let text = "echo 'running 1 test'; echo 'test result: ok. 1 passed; 0 failed;'; echo 'running 2 tests'; echo 'test x ... ok'";
        stages.tests("one", &Which::default(), script(text)).unwrap();
        assert_eq!(stages.count, Count { passed: 1, failed: 1, ignored: 0 });
        assert!(!stages.finish().unwrap());
    }

    /// Time goes by, and the hypervisor has taken half a second whenever it is asked.
    fn much() -> Duration {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        Duration::from_millis(500) * CALLS.fetch_add(1, Ordering::Relaxed)
    }

    /// A program whose test `b` fails until it has run so many times.
    fn fails(times: u32, directory: &Path) -> impl Fn() -> Command + use<> {
        let runs = directory.join("runs");
        let text = format!(
            r#"echo run >> '{0}'; echo "$@" >> '{0}.args'
               echo '     Running tests/p.rs (target/debug/deps/p-0)'; echo 'running 2 tests'; echo 'test a ... ok'
               if [ $(wc -l < '{0}') -gt {times} ]; then
                   echo 'test b ... ok'; echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'
               else
                   echo 'test b ... FAILED'; echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored;'; exit 101
               fi"#,
            runs.display()
        );
        move || script(&text)()
    }

    #[test]
    fn what_failed_while_cpus_were_taken_away_is_run_again_and_said_to_have() {
        for (times, passes) in [(1, true), (3, true), (4, false)] {
            let directory = tempfile::tempdir().unwrap();
            let mut stages = Stages { stolen: much, wait: || (), ..Stages::default() };
            stages.tests("one", &single(None), fails(times, directory.path())).unwrap();
            let args = fs::read_to_string(directory.path().join("runs.args")).unwrap();
            let args: Vec<_> = args.lines().collect();
            assert_eq!(args.len(), 1 + times.min(3) as usize);
            assert_eq!(args[0], "-- --test-threads=1");
            assert!(args[1..].iter().all(|args| *args == "-- --test-threads=1 --exact b"), "{args:?}");
            assert_eq!(stages.again.len(), usize::from(passes), "{:?}", stages.again);
            let failed = u64::from(!passes);
            assert_eq!(stages.count, Count { passed: 2 - failed, failed, ignored: 0 });
            assert_eq!(stages.finish().unwrap(), passes);
        }
    }

    #[test]
    fn what_failed_on_a_calm_machine_has_failed() {
        let directory = tempfile::tempdir().unwrap();
        let mut stages = Stages { stolen: Duration::default, ..Stages::default() };
        stages.tests("one", &Which::default(), fails(1, directory.path())).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("runs")).unwrap(), "run\n");
        assert!(stages.again.is_empty());
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn all_passed_but_not_all_run_is_no_success() {
        let mut stages = Stages { incomplete: true, ..Stages::default() };
        let text = "echo 'running 3 tests'; echo 'test result: ok. 3 passed; 0 failed; 1 ignored;'";
        stages.tests("one", &Which::default(), script(text)).unwrap();
        assert!(!stages.finish().unwrap());
    }

    #[test]
    fn a_filter_that_fits_nothing_is_an_error() {
        let mut stages = Stages { filter: Some("no_such".into()), ..Stages::default() };
        let text = r#"test "$*" = '-- --test-threads=1 no_such' && echo 'running 0 tests' && echo 'test result: ok. 0 passed; 0 failed;'"#;
        stages.tests("one", &single(Some("no_such")), script(text)).unwrap();
        assert!(matches!(stages.finish(), Err(Error::NoSuchTest(_))));
    }

    #[test]
    fn programs_say_when_they_begin() {
        assert!(is_begin("running 1 test\n") && is_begin("running 30 tests"));
        assert!(
            !is_begin("running tests") && !is_begin("running 3 tests at once") && !is_begin("test a ... ok")
        );
    }

    #[test]
    fn end_to_end_programs_are_found() {
        let programs = end_to_end_programs(&shell::workspace());
        for program in ["bare", "e2e", "nic", "soak", "steer"] {
            assert!(programs.iter().any(|name| name == program), "no {program} in {programs:?}");
        }
    }
}
