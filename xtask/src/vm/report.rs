//! The results of the checks, as the guest writes them to its console.

use std::fmt::Write;

/// The prefix of the guest's lines.
const MARK: &str = "vm: ";

/// How a check ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    Passed {
        seconds: String,
    },
    Failed {
        seconds: String,
    },
    /// The guest ended before the check did.
    Never,
}

/// A check, and the console's lines during it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Check {
    name: String,
    end: End,
    text: String,
}

/// The report of a guest.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    checks: Vec<Check>,
    /// Why the report is not complete, if it is not.
    pub(super) trouble: Option<String>,
    /// The console's lines before the first check.
    boot: String,
}

/// The guest's message in a line of its console. The console ends lines with CR LF, and the line may begin with text of the
/// firmware or the kernel.
pub(super) fn line(text: &str) -> Option<&str> {
    let at = text.find(MARK)?;
    let known = ["run ", "begin ", "ok ", "failed ", "end"];
    let said = text[at + MARK.len()..].trim_end();
    known.iter().any(|word| said.starts_with(word)).then_some(said)
}

impl Outcome {
    /// Reads a console.
    pub(super) fn read(console: &str) -> Self {
        let mut outcome = Self::default();
        let (mut announced, mut ended) = (None, false);
        for text in console.lines() {
            let words: Vec<_> = line(text).unwrap_or_default().split_whitespace().collect();
            match words[..] {
                ["run", count] => announced = count.parse::<usize>().ok(),
                ["begin", name] => {
                    outcome.checks.push(Check { name: name.into(), end: End::Never, text: String::new() });
                }
                [how @ ("ok" | "failed"), name, seconds] => {
                    if let Some(check) = outcome.checks.last_mut().filter(|check| check.name == name) {
                        let seconds = seconds.into();
                        check.end =
                            if how == "ok" { End::Passed { seconds } } else { End::Failed { seconds } };
                    }
                }
                ["end"] => ended = true,
                _ => {
                    let place = outcome.checks.last_mut().map_or(&mut outcome.boot, |check| &mut check.text);
                    let _ = writeln!(place, "{}", text.trim_end());
                }
            }
        }
        outcome.trouble = match announced {
            None => Some("the guest did not come to the checks".into()),
            Some(count) if count != outcome.checks.len() || !ended => {
                Some(format!("the guest ended at check {} of {count}", outcome.checks.len()))
            }
            Some(_) => None,
        };
        outcome
    }
}

/// The results of a kernel's checks.
pub(super) struct Report {
    pub(super) kernel: &'static str,
    pub(super) release: String,
    pub(super) outcome: Outcome,
}

impl Report {
    /// How many checks passed and failed. A guest that ended early counts as one failure.
    pub(super) fn counts(&self) -> (usize, usize) {
        let passed = |check: &&Check| matches!(check.end, End::Passed { .. });
        let passed = self.outcome.checks.iter().filter(passed).count();
        let failed = self.outcome.checks.len() - passed;
        (passed, if self.outcome.trouble.is_some() { failed.max(1) } else { failed })
    }

    /// One line for each check.
    pub(super) fn table(&self) -> String {
        let mut text = format!("{} (Linux {})\n", self.kernel, self.release);
        for Check { name, end, .. } in &self.outcome.checks {
            let _ = match end {
                End::Passed { seconds } => writeln!(text, "  ok      {name:<48} {seconds:>6} s"),
                End::Failed { seconds } => writeln!(text, "  FAILED  {name:<48} {seconds:>6} s"),
                End::Never => writeln!(text, "  FAILED  {name:<48} did not end"),
            };
        }
        if let Some(trouble) = &self.outcome.trouble {
            let _ = writeln!(text, "  FAILED  {trouble}");
        }
        text
    }

    /// The console's lines during failed checks, and the table.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if self.outcome.checks.is_empty() {
            text.push_str(&self.outcome.boot);
        }
        for check in &self.outcome.checks {
            if !matches!(check.end, End::Passed { .. }) {
                let _ = write!(text, "-- {}\n{}", check.name, check.text);
            }
        }
        text + &self.table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(console: &str) -> Report {
        Report { kernel: "oldest", release: "6.1.0".into(), outcome: Outcome::read(console) }
    }

    #[test]
    fn a_whole_run() {
        let report = report(
            "\x1bcSeaBIOS\r\n[    0.1] Linux\r\nvm: run 2\r\nvm: begin one\r\nsome text\r\nvm: ok one 1.5\r\n\
             vm: begin two\r\npanicked: why\r\nvm: failed two 0.2\r\nvm: end\r\n[    9.0] Power down\r\n",
        );
        assert_eq!(report.counts(), (1, 1));
        assert_eq!(report.outcome.trouble, None);
        let text = report.text();
        assert!(text.contains("-- two\npanicked: why\n") && !text.contains("some text"), "{text}");
        assert!(text.contains("  ok      one") && text.contains("  FAILED  two"), "{text}");
    }

    #[test]
    fn a_guest_that_ends_early_has_failed() {
        let ended = report("vm: run 2\nvm: begin one\nvm: ok one 1.0\nvm: begin two\nKernel panic\n");
        assert_eq!(ended.counts(), (1, 1));
        assert!(ended.text().contains("Kernel panic") && ended.text().contains("two"));
        let early = report("vm: run 2\nvm: begin one\nvm: ok one 1.0\n");
        assert_eq!(early.counts(), (1, 1));
        let silent = report("no such machine\n");
        assert_eq!(silent.counts(), (0, 1));
        assert!(silent.text().contains("no such machine"));
        assert_eq!(report("vm: run 0\nvm: end\n").counts(), (0, 0));
    }

    #[test]
    fn only_words_that_are_known_count() {
        assert_eq!(line("vm: begin one\r"), Some("begin one"));
        assert_eq!(line("[ 1.0] noise vm: ok one 3.0"), Some("ok one 3.0"));
        assert_eq!(line("vm: failed to set up"), Some("failed to set up"));
        assert_eq!(line("a vm: of some kind"), None);
        assert_eq!(line("begin one"), None);
    }
}
