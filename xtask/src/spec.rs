//! `SPECIFICATION.md`: each promise in one line, with the tests that enforce it. A promise without a test, or with one
//! that is not there, did not run or failed, is a failure of the whole run.
//!
//! A test is `file.rs::name`, or `cargo xtask fuzz TARGET`, which every run of all tests does for a few seconds. What only
//! a run of its own shows is one of [`BY_HAND`], or a virtual machine's checks, `cargo xtask test --vm=KERNEL`.

use crate::error::{Context, Result};
use crate::vm;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The file, in the workspace's directory.
const FILE: &str = "SPECIFICATION.md";

/// Commands beside the tests that a promise may name.
const BY_HAND: [&str; 1] = ["cargo xtask soak"];
/// What a fuzz target's name stands behind.
const FUZZ: &str = "cargo xtask fuzz ";

/// Name of a test program, without the hash, and of one of its tests.
pub(crate) type TestId = (String, String);

/// Results of single tests, out of what cargo and libtest write.
#[derive(Default)]
pub(crate) struct Results {
    /// Name of the test program, without the hash: of a crate for its unit tests, of a file in `tests` otherwise.
    program: String,
    /// The test whose result stands on a later line, for something else was written in between.
    pending: Option<String>,
    /// Whether it passed, by program and name.
    passed: BTreeMap<TestId, bool>,
}

impl Results {
    /// Takes in the next line; says which test ended with it, and whether that passed.
    pub(crate) fn read(&mut self, line: &str) -> Option<(TestId, bool)> {
        let line = line.trim_end();
        if let Some((_, path)) = line.trim_start().strip_prefix("Running ").and_then(|l| l.split_once(" (")) {
            let name = Path::new(path.trim_end_matches(')')).file_name().unwrap_or_default();
            let name = name.to_string_lossy();
            self.program = name.rsplit_once('-').map_or(&*name, |(name, _)| name).into();
            self.pending = None;
            return None;
        }
        let (name, passed) = match line.strip_prefix("test ").and_then(|l| l.split_once(" ...")) {
            Some((name, result)) => {
                let name = name.trim_end_matches(" - should panic").to_owned();
                match result.trim() {
                    result if result.starts_with("ignored") => return None,
                    "ok" => (name, true),
                    "FAILED" => (name, false),
                    _ => {
                        self.pending = Some(name);
                        return None;
                    }
                }
            }
            None => match (self.pending.take()?, line) {
                (name, _) if line.ends_with("FAILED") => (name, false),
                (name, _) if line.ends_with("ok") => (name, true),
                (name, _) => {
                    self.pending = Some(name);
                    return None;
                }
            },
        };
        let test = (self.program.clone(), name);
        *self.passed.entry(test.clone()).or_insert(true) &= passed;
        Some((test, passed))
    }

    /// A test that had failed has passed.
    pub(crate) fn passed_after_all(&mut self, test: &TestId) {
        self.passed.insert(test.clone(), true);
    }

    /// A fuzz target has run.
    pub(crate) fn fuzzed(&mut self, target: &str, passed: bool) {
        self.passed.insert((FUZZ.into(), target.into()), passed);
    }

    fn of(&self, test: &Test) -> Option<bool> {
        self.passed.get(&(test.program.clone(), test.name.clone())).copied()
    }
}

/// What is wrong with the specification, a line each. Whether each test has run and passed is asked only if `results`
/// are those of a whole run.
pub(crate) fn check(workspace: &Path, results: Option<&Results>) -> Result<Vec<String>> {
    let text = fs::read_to_string(workspace.join(FILE)).context(|| FILE.into())?;
    let mut wrong = Vec::new();
    let mut promises = BTreeSet::new();
    for (line, number) in text.lines().zip(1..) {
        let Some(promise) = line.strip_prefix("- ") else { continue };
        let mut say = |what: String| wrong.push(format!("{FILE}:{number}: {what}"));
        let mut any = false;
        if !promises.insert(promise) {
            say("stands there twice".into());
        }
        for reference in promise.split('`').skip(1).step_by(2) {
            let Some(test) = Test::find(reference) else {
                match reference.starts_with("cargo ") || reference.contains(".rs::") {
                    true if is_by_hand(reference) => any = true,
                    true => say(format!("{reference} names no test of this workspace")),
                    // An option, or a path.
                    false => {}
                }
                continue;
            };
            any = true;
            if !test.is_in(workspace) {
                say(format!("there is no test {reference}"));
            } else if let Some(results) = results {
                match results.of(&test) {
                    Some(true) => {}
                    Some(false) => say(format!("{reference} has failed")),
                    None => say(format!("{reference} has not run")),
                }
            }
        }
        if !any {
            say("a promise without a test".into());
        }
    }
    if promises.is_empty() {
        wrong.push(format!("{FILE} promises nothing"));
    }
    Ok(wrong)
}

/// True for a command that shows what no test of an ordinary run can.
fn is_by_hand(command: &str) -> bool {
    let kernel = || command.strip_prefix("cargo xtask test --vm=");
    BY_HAND.contains(&command) || kernel().is_some_and(|kernel| vm::names().contains(&kernel))
}

/// A test, as the specification names it and as libtest does.
#[derive(PartialEq, Eq, Debug)]
struct Test {
    file: String,
    program: String,
    name: String,
}

impl Test {
    fn find(reference: &str) -> Option<Self> {
        if let Some(target) = reference.strip_prefix(FUZZ) {
            let file = format!("fuzz/fuzz_targets/{target}.rs");
            return Some(Self { file, program: FUZZ.into(), name: target.into() });
        }
        let (file, name) = reference.split_once("::")?;
        let path = file.strip_suffix(".rs")?;
        let (package, path) = match path.strip_prefix("crates/") {
            Some(rest) => rest.split_once('/')?,
            None => match path.strip_prefix("xtask/") {
                Some(rest) => ("xtask", rest),
                None => ("iou_fast", path),
            },
        };
        let (program, modules) = if let Some(path) = path.strip_prefix("tests/") {
            let (program, modules) = path.split_once('/').unwrap_or((path, ""));
            (program.to_owned(), modules)
        } else {
            (package.to_owned(), path.strip_prefix("src/")?)
        };
        let modules = modules.split('/').filter(|part| !["", "mod", "lib", "main"].contains(part));
        let name = modules.chain([name]).collect::<Vec<_>>().join("::");
        Some(Self { file: file.into(), program, name })
    }

    fn is_in(&self, workspace: &Path) -> bool {
        let source = fs::read_to_string(workspace.join(&self.file)).unwrap_or_default();
        let function = self.name.rsplit("::").next().unwrap_or_default();
        if self.program == FUZZ { source.contains("fuzz_target!(") } else { has_test(&source, function) }
    }
}

/// True if `source` has a test function of this name that is not left out.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().filter(|(_, line)| line.starts_with(&head)).any(|(at, _)| {
        let above =
            || lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above().any(|line| *line == "#[test]") && !above().any(|line| line.starts_with("#[ignore"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reference: &str) -> (String, String) {
        let test = Test::find(reference).unwrap();
        (test.program, test.name)
    }

    #[test]
    fn tests_have_the_names_that_libtest_gives_them() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(found("tests/restarts.rs::again"), pair("restarts", "again"));
        assert_eq!(found("tests/soak/main.rs::all"), pair("soak", "all"));
        assert_eq!(found("tests/soak/flow.rs::one"), pair("soak", "flow::one"));
        assert_eq!(found("src/worker/mod.rs::tests::x"), pair("iou_fast", "worker::tests::x"));
        assert_eq!(found("src/fdb.rs::tests::x"), pair("iou_fast", "fdb::tests::x"));
        assert_eq!(found("crates/af_xdp/src/ring.rs::tests::x"), pair("af_xdp", "ring::tests::x"));
        assert_eq!(found("xtask/src/spec.rs::tests::x"), pair("xtask", "spec::tests::x"));
        assert_eq!(found("crates/af_xdp/src/model.rs::x"), pair("af_xdp", "model::x"));
        assert_eq!(found("cargo xtask fuzz netmap"), pair("cargo xtask fuzz ", "netmap"));
        assert_eq!(Test::find("docs/architecture.md"), None);
    }

    #[test]
    fn results_belong_to_their_program_also_when_something_is_written_in_between() {
        let mut results = Results::default();
        let output = "     Running unittests src/lib.rs (/t/debug/deps/iou_fast-0123abcd)\n\
                      test fdb::tests::x ... ok\ntest fdb::tests::y ... FAILED\n\
                      \x20    Running tests/restarts.rs (target/debug/deps/restarts-89ef)\n\
                      test x ... a word on the way\nanother\nok\ntest y ... ignored, slow\ntest z - should panic ... ok\ntest w ... FAILED\n";
        let ended: Vec<_> = output.lines().filter_map(|line| results.read(line)).collect();
        assert_eq!(ended[1], (("iou_fast".to_owned(), "fdb::tests::y".to_owned()), false));
        assert_eq!(ended.len(), 5);
        results.passed_after_all(&("restarts".into(), "w".into()));
        let of = |reference| results.of(&Test::find(reference).unwrap());
        assert_eq!(of("tests/restarts.rs::w"), Some(true));
        assert_eq!(of("src/fdb.rs::tests::x"), Some(true));
        assert_eq!(of("src/fdb.rs::tests::y"), Some(false));
        assert_eq!(of("tests/restarts.rs::x"), Some(true));
        assert_eq!(of("tests/restarts.rs::y"), None);
        assert_eq!(of("tests/restarts.rs::z"), Some(true));
        assert_eq!(of("tests/forward.rs::x"), None);
    }

    #[test]
    fn the_specification_names_tests_that_are_there() {
        assert_eq!(check(&crate::shell::workspace(), None).unwrap(), [""; 0]);
    }

    #[test]
    fn a_promise_needs_a_test_that_is_there_and_has_passed() {
        let directory = std::env::temp_dir().join(format!("iouf-spec-{}", std::process::id()));
        fs::create_dir_all(directory.join("tests")).unwrap();
        let write = |file: &str, text: &str| fs::write(directory.join(file), text).unwrap();
        write("tests/a.rs", "#[test]\nfn one() {}\n\n#[test]\n#[ignore]\nfn two() {}\nfn three() {}\n");
        fs::create_dir_all(directory.join("fuzz/fuzz_targets")).unwrap();
        write("fuzz/fuzz_targets/one.rs", "fuzz_target!(|input: &[u8]| {});\n");
        let promises = "# Promises\n- One. `tests/a.rs::one`\n- Two. `tests/a.rs::two`\n- Three. `tests/a.rs::three`\n\
                        - Nothing `--like` that.\n- By hand. `cargo xtask soak`\n- None. `tests/a.rs::one` `a.rs::one`\n\
                        - Fuzzed. `cargo xtask fuzz one`\n- Gone. `cargo xtask fuzz two`\n- All. `cargo xtask fuzz`\n\
                        - Kernel. `cargo xtask test --vm=oldest`\n- Other. `cargo xtask test --vm=none`\n";
        write(FILE, promises);
        let wrong = check(&directory, None).unwrap();
        let expected = [
            ":3: there is no test",
            ":4: there is no test",
            ":5: a promise without",
            ":7: a.rs::one names no test",
            ":9: there is no test",
            ":10: cargo xtask fuzz names no test",
            ":10: a promise without",
            ":12: cargo xtask test --vm=none names",
            ":12: a promise without",
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
        for (line, what) in wrong.iter().zip(expected) {
            assert!(line.contains(what), "{line}");
        }
        write(FILE, "- Fuzzed. `cargo xtask fuzz one`\n");
        let mut results = Results::default();
        assert_eq!(
            check(&directory, Some(&results)).unwrap(),
            [format!("{FILE}:1: cargo xtask fuzz one has not run")]
        );
        results.fuzzed("one", true);
        assert!(check(&directory, Some(&results)).unwrap().is_empty());
        results.fuzzed("one", false);
        assert_eq!(check(&directory, Some(&results)).unwrap().len(), 1);
        write(FILE, "- One. `tests/a.rs::one`\n");
        let mut results = Results::default();
        assert_eq!(
            check(&directory, Some(&results)).unwrap(),
            [format!("{FILE}:1: tests/a.rs::one has not run")]
        );
        results.read("Running tests/a.rs (a-0)");
        results.read("test one ... ok");
        assert!(check(&directory, Some(&results)).unwrap().is_empty());
        results.read("test one ... FAILED");
        assert_eq!(
            check(&directory, Some(&results)).unwrap(),
            [format!("{FILE}:1: tests/a.rs::one has failed")]
        );
        fs::remove_dir_all(directory).unwrap();
    }
}
