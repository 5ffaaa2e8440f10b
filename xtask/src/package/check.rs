//! Checks a package before it is offered for installation.

use crate::error::{Context, Error, Result};
use crate::shell;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What must be in it, with the mode and owner that `dpkg-deb --contents` shows.
const FILES: &[(&str, &str)] = &[
    ("-rwxr-xr-x", "./usr/bin/iou-fast"),
    ("-rw-r--r--", "./usr/lib/systemd/system/iou-fast@.service"),
    ("-rw-r--r--", "./usr/share/bash-completion/completions/iou-fast"),
    ("-rw-r--r--", "./usr/share/doc/iou-fast/CHANGELOG.md"),
    ("-rw-r--r--", "./usr/share/doc/iou-fast/README.md"),
    ("-rw-r--r--", "./usr/share/doc/iou-fast/THIRD-PARTY-LICENSES"),
    ("-rw-r--r--", "./usr/share/doc/iou-fast/copyright"),
    ("-rw-r--r--", "./usr/share/doc/iou-fast/docs/counters.md"),
    ("-rw-r--r--", "./usr/share/fish/vendor_completions.d/iou-fast.fish"),
    ("-rw-r--r--", "./usr/share/man/man8/iou-fast.8.gz"),
    ("-rw-r--r--", "./usr/share/man/man8/iou-fast-lab.8.gz"),
    ("-rw-r--r--", "./usr/share/zsh/vendor-completions/_iou-fast"),
];

/// Fails with all faults of `package`.
pub(super) fn check(package: &Path, workspace: &Path) -> Result<()> {
    println!("== check");
    let mut wrong = Vec::new();
    let contents = output(Command::new("dpkg-deb").arg("--contents").arg(package), &[])?;
    for (mode, file) in FILES {
        // Without names, the owner is shown as a number.
        let is_it = |line: &str| {
            let mut words = line.split_whitespace();
            let owner = |word| matches!(word, "0/0" | "root/root");
            words.next() == Some(*mode) && words.next().is_some_and(owner) && words.next_back() == Some(*file)
        };
        if !contents.lines().any(is_it) {
            wrong.push(format!("{file} with mode {mode} and owner root is not in it"));
        }
    }
    let depends = output(Command::new("dpkg-deb").arg("--field").arg(package).arg("Depends"), &[])?;
    for library in ["libc6 (>= ", "libelf1", "zlib1g", "iproute2"] {
        if !depends.contains(library) {
            wrong.push(format!("it does not depend on {library}: {depends}"));
        }
    }

    let directory = tempfile::tempdir().context(|| "a temporary directory".into())?;
    let root = directory.path();
    shell::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(root))?;
    let program = root.join("usr/bin/iou-fast");
    let version = output(Command::new(&program).arg("--version"), &[])?;
    if !version.starts_with(concat!("iou-fast ", env!("CARGO_PKG_VERSION"))) {
        wrong.push(format!("--version says {version:?}"));
    }
    let bytes = fs::read(&program).context(|| format!("file {}", program.display()))?;
    for path in [workspace.as_os_str(), std::env::var_os("HOME").unwrap_or_default().as_os_str()] {
        // A home directory such as `/` would match any path.
        if path.len() > 4
            && let Some(at) = find(&bytes, &[path.as_encoded_bytes(), b"/"].concat())
        {
            let end = bytes.len().min(at + 120);
            let text = String::from_utf8_lossy(&bytes[at..end]).into_owned();
            wrong.push(format!("the program names a path of this machine: {text:?}"));
        }
    }
    let sections = output(Command::new("readelf").args(["--sections", "--wide"]).arg(&program), &[])?;
    if !sections.contains(".text") || sections.contains(".symtab") || sections.contains(".debug_line") {
        wrong.push(format!("the program is not stripped:\n{sections}"));
    }

    for page in fs::read_dir(root.join("usr/share/man/man8")).into_iter().flatten().flatten() {
        let page = page.path();
        let mut man = Command::new("man");
        // troff writes warnings to standard error, with status 0.
        man.args(["--warnings=w", "-Tutf8", "--local-file"])
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80");
        let shown = man.stdin(Stdio::null()).output().map_err(|source| shell::start_error(&man, source))?;
        let said = String::from_utf8_lossy(&shown.stderr);
        let text = String::from_utf8_lossy(&shown.stdout);
        if !shown.status.success() || !said.trim().is_empty() || !text.contains("iou-fast") {
            wrong.push(format!("{} cannot be shown: {said}", page.display()));
        }
    }
    let completions = root.join("usr/share/bash-completion/completions/iou-fast");
    let offered = output(
        Command::new("bash").args(["--norc", "-c", COMPLETE]),
        &[("COMPLETIONS", completions.as_os_str())],
    )?;
    for word in ["lab", "clean", "--interface", "--netmap"] {
        if !offered.split_whitespace().any(|offer| offer == word) {
            wrong.push(format!("completion in bash does not offer {word}: {offered}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Package(wrong.join("\n"))) }
}

/// The completions that bash offers after `iou-fast ` and after `iou-fast --`.
const COMPLETE: &str = r#"
set -e
. "$COMPLETIONS"
[[ $(complete -p iou-fast) =~ -F\ ([^\ ]+) ]]
for word in "" --; do
    COMP_WORDS=(iou-fast "$word"); COMP_CWORD=1; COMPREPLY=()
    "${BASH_REMATCH[1]}" iou-fast "$word" iou-fast
    echo "${COMPREPLY[@]}"
done
"#;

/// The output of a command that must succeed.
fn output(command: &mut Command, environment: &[(&str, &OsStr)]) -> Result<String> {
    let output =
        command.envs(environment.iter().copied()).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| shell::start_error(command, source))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(Error::Command { command: shell::line(command), status: output.status })
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
