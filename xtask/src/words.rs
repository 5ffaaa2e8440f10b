//! `cargo xtask words`: one word for one thing. Words that the project has given up for the field's must not come back;
//! docs/glossary.md has the words in use.

use crate::error::{Context, Error, Result};
use crate::shell;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A word that must not come back, in lower case with single spaces, and what to write in its place. In code the words of an
/// identifier are separate words: `nic_books` has "books".
const GIVEN_UP: &[(&str, &str)] = &[
    ("books", "frame accounting"),
    ("ration", "rate limiter"),
    ("withheld", "suppressed"),
    ("insistence", "flap damping"),
    ("insists", "keeps being re-enabled"),
    ("doze", "adaptive polling"),
    ("dozes", "adaptive polling"),
    ("dozing", "adaptive polling"),
    ("nap", "coalescing"),
    ("naps", "coalescing"),
    ("at leisure", "request-response traffic"),
    ("obstacle", "issue"),
    ("obstacles", "issues"),
    ("cure", "fix"),
    ("caution", "warning"),
    ("remark", "warning"),
    ("remarks", "warnings"),
    ("senseless", "invalid"),
    ("makes no sense", "is invalid"),
    ("make no sense", "are invalid"),
    ("made no sense", "was invalid"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("network card", "NIC"),
    ("network cards", "NICs"),
    ("both ways", "in both directions"),
    ("other way about", "vice versa"),
    ("occupant", "attached program"),
    ("let off", "dismissed"),
    ("owed", "fill deficit"),
    ("repay", "refill"),
    ("write off", "expire"),
    ("surrender", "release"),
    ("forgo", "drop"),
    ("obey", "handle"),
    ("as starter", "as the invoking user"),
    ("lane", "in-flight credits"),
    ("lanes", "in-flight credits"),
    ("group frame", "broadcast or multicast frame"),
    ("group frames", "broadcast and multicast frames"),
    ("predicted", "static (FDB entry)"),
    ("nobody", "a subject that exists"),
    ("somebody", "a subject that exists"),
];

/// Where they may stand: what the words are explained by, and what is quoted.
const EXEMPT: &[&str] =
    &["xtask/src/words.rs", "docs/glossary.md", "CHANGELOG.md", "Cargo.lock", "fuzz/Cargo.lock"];

/// The files that are looked through, as `git ls-files` takes them.
const TEXTS: &[&str] = &["*.rs", "*.c", "*.h", "*.md", "*.toml", "*.service"];

/// Looks through what git tracks; true if no word that was given up is in it.
pub(crate) fn run() -> Result<bool> {
    let found = find(&shell::workspace())?;
    found.iter().for_each(|line| println!("{line}"));
    println!("{} words that docs/glossary.md has others for", found.len());
    Ok(found.is_empty())
}

/// Where such words stand: one line for each, as compilers write it.
fn find(workspace: &Path) -> Result<Vec<String>> {
    let given_up: Vec<(Vec<&str>, &str)> =
        GIVEN_UP.iter().map(|(words, instead)| (words.split(' ').collect(), *instead)).collect();
    let mut found = Vec::new();
    for file in tracked(workspace)?.iter().filter(|file| !EXEMPT.contains(&&***file)) {
        let text = fs::read_to_string(workspace.join(file)).context(|| file.clone())?;
        let words = words(&text);
        for place in 0..words.len() {
            let hits = given_up.iter().filter(|(given_up, _)| {
                let here = words[place..].iter().map(|(_, word)| word);
                here.take(given_up.len()).eq(given_up)
            });
            found.extend(hits.map(|(given_up, instead)| {
                format!("{file}:{}: \"{}\": write \"{instead}\"", words[place].0, given_up.join(" "))
            }));
        }
    }
    Ok(found)
}

/// The text files that git tracks.
fn tracked(workspace: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(workspace).args(["ls-files", "--"]).args(TEXTS);
    let files = shell::stdout(&mut git)?;
    if files.is_empty() {
        return Err(Error::Words(format!(
            "`{}` names no file in {}",
            shell::line(&git),
            workspace.display()
        )));
    }
    Ok(files.lines().map(str::to_owned).collect())
}

/// The words of a text in lower case with the numbers of their lines. `RouterEgress`, `router_egress` and "router egress" are the
/// same two. A phrase goes on across the end of a line: what begins a comment is no word.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut word = String::new();
        let mut before = ' ';
        for c in line.chars().chain([' ']) {
            let ends = !c.is_ascii_alphabetic() || c.is_ascii_uppercase() && before.is_ascii_lowercase();
            if ends && !word.is_empty() {
                words.push((number, std::mem::take(&mut word)));
            }
            if c.is_ascii_alphabetic() {
                word.push(c.to_ascii_lowercase());
            }
            before = c;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_prose_and_of_identifiers() {
        let split = |text| words(text).into_iter().map(|(_, word)| word).collect::<Vec<_>>().join(" ");
        assert_eq!(split("/// The NicBooks, books_of(nic):  2 books!"), "the nic books books of nic books");
        assert_eq!(split(""), "");
        let lines: Vec<_> = words("a\n\n// b c").iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 3]);
    }

    #[test]
    fn a_given_up_word_is_named_with_its_line_and_replacement() {
        let directory = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            assert!(
                Command::new("git")
                    .current_dir(directory.path())
                    .args(args)
                    .output()
                    .unwrap()
                    .status
                    .success()
            );
        };
        git(&["init", "-q"]);
        assert!(find(directory.path()).unwrap_err().to_string().contains("names no file"));
        let text = "fn open_directory() {}\n/// Frames pass both\n/// ways.\nfn open_folder() {}\n";
        fs::write(directory.path().join("a.rs"), text).unwrap();
        fs::write(directory.path().join("untracked.rs"), "// folder\n").unwrap();
        git(&["add", "a.rs"]);
        assert_eq!(
            find(directory.path()).unwrap(),
            [
                "a.rs:2: \"both ways\": write \"in both directions\"",
                "a.rs:4: \"folder\": write \"directory\""
            ]
        );
    }
}
