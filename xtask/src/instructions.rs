//! Instructions per frame of a worker, counted by valgrind and compared with those of the last change that was meant to
//! change them. `bench/instructions/main.rs` says what is measured and what is not.

use crate::error::{Context, Error, Result};
use crate::{setup, shell};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The committed numbers: what they are of in the first line, then what the columns are, then a section in each.
const FILE: &str = "bench/instructions/baseline.tsv";
/// A section may cost so much more than its committed number.
const MOST: f64 = 0.02;
/// A section that says that the machine was too busy is run so often at most.
const TRIES: usize = 10;
/// How it says so: its exit code.
const TOO_SLOW: i32 = 75;
/// Where callgrind counts, by the name of the function.
const MEASURED: &str = "--toggle-collect=*measured_turn*";

/// Options of `cargo xtask instructions`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Writes the numbers to bench/instructions/baseline.tsv, for the commit that is meant to change them.
    #[arg(long)]
    write: bool,
}

/// A section of the sequence.
#[derive(Clone, PartialEq, Debug)]
struct Section {
    name: String,
    frames: u64,
    /// Per frame.
    instructions: f64,
}

/// Builds, counts, and compares or writes; true if no section costs too much.
pub(crate) fn run(options: &Options) -> Result<bool> {
    setup::install(setup::For::Tests)?;
    if !shell::can_be_root() {
        return Err(Error::NoRoot("counting instructions (the FDB lies in BPF maps)"));
    }
    shell::run(&mut build())?;
    let program = testbed::Bin::find_in_profile("release", "examples/instructions")?;
    let names = shell::stdout(&mut Command::new(&program))?;
    let sections = names.lines().map(|name| count(&program, name)).collect::<Result<Vec<_>>>()?;
    let tools = tools()?;
    let path = shell::workspace().join(FILE);
    if options.write {
        fs::write(&path, to_tsv(&tools, &sections)).context(|| FILE.into())?;
    }
    let committed = fs::read_to_string(&path).context(|| FILE.into())?;
    let (text, passed) = judge(&tools, &sections, &committed)?;
    print!("{text}");
    Ok(passed)
}

/// The release profile, by what valgrind can run.
fn build() -> Command {
    let mut command = shell::cargo(&["build", "--release", "--example", "instructions"]);
    // Flags such as those for one kind of CPU would be compared with a build without them.
    command.args(["--no-default-features", "--features", "valgrind"]).env_remove("RUSTFLAGS");
    command
}

/// What the numbers depend on beside the code: the compiler, and the C library, whose wrappers of system calls are counted.
fn tools() -> Result<String> {
    let version = shell::stdout(Command::new("rustc").arg("-vV").current_dir(shell::workspace()))?;
    let compiler = version.lines().next().unwrap_or_default();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let library = shell::stdout(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    Ok(format!("{compiler} for {host}, {}", library.trim()))
}

/// Runs a section under callgrind. Its profile stays, for `callgrind_annotate`.
fn count(program: &Path, name: &str) -> Result<Section> {
    let profile = profile(program, name)?;
    let mut command = shell::as_root("valgrind");
    command.args(["--tool=callgrind", MEASURED]);
    command.arg(format!("--callgrind-out-file={}", profile.display())).arg(program).arg(name);
    let mut run = || command.stdin(Stdio::null()).output();
    let mut output = run();
    for _ in 1..TRIES {
        if !output.as_ref().is_ok_and(|output| output.status.code() == Some(TOO_SLOW)) {
            break;
        }
        output = run();
    }
    let output = output.map_err(|source| shell::start_error(&command, source))?;
    if output.status.code() == Some(TOO_SLOW) {
        return Err(Error::Instructions(format!(
            "{name}: the machine is too busy, the section was too slow {TRIES} times: try again later"
        )));
    }
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(Error::Command { command: shell::line(&command), status: output.status });
    }
    let frames = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0);
    let text = fs::read_to_string(&profile).context(|| profile.display().to_string())?;
    match total(&text) {
        Some(instructions) if frames > 0 => {
            Ok(Section { name: name.into(), frames, instructions: instructions as f64 / frames as f64 })
        }
        _ => Err(Error::Instructions(format!("{name}: callgrind counted nothing ({MEASURED})"))),
    }
}

/// `target/instructions/NAME.out`, where `program` is `target/release/examples/instructions`.
fn profile(program: &Path, name: &str) -> Result<PathBuf> {
    let target = program.ancestors().nth(3).unwrap_or(Path::new("."));
    let directory = target.join("instructions");
    fs::create_dir_all(&directory).context(|| directory.display().to_string())?;
    Ok(directory.join(format!("{name}.out")))
}

/// The instructions in one of callgrind's files, if there are any.
fn total(profile: &str) -> Option<u64> {
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    total.trim().parse().ok().filter(|instructions| *instructions > 0)
}

fn to_tsv(tools: &str, sections: &[Section]) -> String {
    let mut text = format!("# {tools}\nsection\tframes\tinstructions per frame\n");
    for Section { name, frames, instructions } in sections {
        let _ = writeln!(text, "{name}\t{frames}\t{instructions:.1}");
    }
    text
}

/// What the numbers in a file are of, and the numbers.
fn from_tsv(text: &str) -> Result<(&str, Vec<Section>)> {
    let wrong = |number: usize| Error::Instructions(format!("{FILE}:{number}: not as --write writes it"));
    let tools = text.lines().next().and_then(|line| line.strip_prefix("# ")).ok_or_else(|| wrong(1))?;
    let section = |(line, number): (&str, usize)| {
        let mut columns = line.split('\t');
        let section = (|| {
            let name = columns.next()?.to_owned();
            let (frames, instructions) = (columns.next()?.parse().ok()?, columns.next()?.parse().ok()?);
            Some(Section { name, frames, instructions })
                .filter(|section| section.instructions > 0.0 && columns.next().is_none())
        })();
        section.ok_or_else(|| wrong(number))
    };
    let sections = text.lines().zip(1..).skip(2).map(section).collect::<Result<_>>()?;
    Ok((tools, sections))
}

/// The table, and whether no section costs too much more than in the `committed` file. If that is of other `tools` nothing
/// fails.
fn judge(tools: &str, sections: &[Section], committed: &str) -> Result<(String, bool)> {
    let (of, committed) = from_tsv(committed)?;
    let before = |name: &str| committed.iter().find(|section| section.name == name);
    let mut text = format!(
        "{:<28} {:>7} {:>22} {:>10} {:>11}\n",
        "section", "frames", "instructions per frame", "committed", "difference"
    );
    let mut wrong = Vec::new();
    for Section { name, frames, instructions } in sections {
        let _ = write!(text, "{name:<28} {frames:>7} {instructions:>22.1}");
        if let Some(before) = before(name) {
            let difference = instructions / before.instructions - 1.0;
            // Less than nothing by a rounding is nothing.
            let per_cent = (1000.0 * difference).round() / 10.0 + 0.0;
            let _ = write!(text, " {:>10.1} {per_cent:>+9.1} %", before.instructions);
            if difference > MOST {
                wrong.push(format!("{name} is more than {:.0} % above", 100.0 * MOST));
            }
        } else {
            wrong.push(format!("{name} has no number yet"));
        }
        text.push('\n');
    }
    let gone = committed.iter().filter(|before| !sections.iter().any(|section| section.name == before.name));
    wrong.extend(gone.map(|before| format!("{} is no section any more", before.name)));
    if of != tools {
        let _ = writeln!(text, "Nothing is judged: the committed numbers are of {of}; this is {tools}.");
        return Ok((text, true));
    }
    for what in &wrong {
        let _ = writeln!(text, "{FILE}: {what}");
    }
    if !wrong.is_empty() {
        text += "If it is worth it: cargo xtask instructions --write, in the commit that says why.\n";
    }
    Ok((text, wrong.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = "rustc 1.95.0 (59807616e 2026-04-14) for x86_64-unknown-linux-gnu, glibc 2.36";

    fn sections(counts: &[(&str, f64)]) -> Vec<Section> {
        let section = |(name, instructions): &(&str, f64)| Section {
            name: (*name).into(),
            frames: 64,
            instructions: *instructions,
        };
        counts.iter().map(section).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let sections = sections(&[("a-64", 505.9), ("b-1514", 20000.1)]);
        assert_eq!(from_tsv(&to_tsv(TOOLS, &sections)).unwrap(), (TOOLS, sections));
        for (text, line) in [
            ("", 1),
            ("a\t1\t2\n", 1),
            ("# x\ny\na\t1\n", 3),
            ("# x\ny\na\t1\tNaN\n", 3),
            ("# x\ny\na\t1\t2\nb\t1\t2\t3\n", 4),
        ] {
            let message = from_tsv(text).unwrap_err().to_string();
            assert!(message.contains(&format!("{FILE}:{line}:")), "{message}");
        }
    }

    #[test]
    fn more_than_two_per_cent_above_fails() {
        let committed = to_tsv(TOOLS, &sections(&[("a", 500.0), ("b", 1000.0)]));
        let judged = |a, b| judge(TOOLS, &sections(&[("a", a), ("b", b)]), &committed).unwrap();
        assert!(judged(500.0, 1000.0).1 && judged(509.9, 1019.9).1 && judged(100.0, 1.0).1);
        let (text, passed) = judged(500.0, 1020.2);
        assert!(!passed && text.contains("+2.0 %") && text.contains("b is more than 2 % above"), "{text}");
        assert!(!text.contains("a is more"), "{text}");
    }

    #[test]
    fn a_section_on_one_side_only_fails() {
        let committed = to_tsv(TOOLS, &sections(&[("a", 500.0), ("b", 500.0)]));
        for (now, what) in [
            (&[("a", 500.0)][..], "b is no section"),
            (&[("a", 1.0), ("b", 1.0), ("c", 1.0)], "c has no number"),
        ] {
            let (text, passed) = judge(TOOLS, &sections(now), &committed).unwrap();
            assert!(!passed && text.contains(what), "{text}");
        }
    }

    #[test]
    fn numbers_of_another_compiler_are_shown_and_not_judged() {
        let committed =
            to_tsv("rustc 1.94.0 for x86_64-unknown-linux-gnu, glibc 2.36", &sections(&[("a", 500.0)]));
        let (text, passed) = judge(TOOLS, &sections(&[("a", 1000.0)]), &committed).unwrap();
        assert!(passed && text.contains("1000.0") && text.contains("+100.0 %"), "{text}");
        assert!(
            text.contains("Nothing is judged") && text.contains("1.94.0") && text.contains("1.95.0"),
            "{text}"
        );
    }

    #[test]
    fn callgrinds_total_is_read_and_must_not_be_nothing() {
        let profile = "version: 1\nevents: Ir\nsummary: 518163\n\nfn=(1) f\n16 5\n\ntotals: 518163\n";
        assert_eq!(total(profile), Some(518_163));
        assert_eq!(total(&profile.replace("518163", "0")), None);
        assert_eq!(total("version: 1\n"), None);
    }

    #[test]
    fn the_committed_numbers_can_be_read() {
        let text = fs::read_to_string(shell::workspace().join(FILE)).unwrap();
        let (tools, sections) = from_tsv(&text).unwrap();
        assert!(tools.starts_with("rustc ") && !sections.is_empty());
    }
}
