//! The guest's file system, an initramfs: the programs with their libraries and the kernel modules, and nothing else.

use super::fetch::Files;
use super::modules;
use crate::error::{Context, Error, Result};
use crate::shell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the workspace's programs in the guest. They look for one another beside themselves.
const PROGRAMS: &str = "/iou";

/// The first process of the guest.
pub(super) const INIT: &str = "/iou/vm";

/// Programs of this machine that ours call.
const SYSTEM: &[&str] = &["ip", "ethtool", "ping", "cat"];

/// Writes the initramfs into `directory` and returns its path.
pub(super) fn build(kernel: &Files, programs: &[PathBuf], directory: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.directory(PROGRAMS);
    // The kernel opens it as the first process's input and output.
    archive.directory("/dev");
    archive.device("/dev/console", 5, 1);
    let mut libraries = BTreeSet::new();
    let stripped = directory.join("stripped");
    for (program, name) in programs.iter().zip([INIT, "/iou/iou-fast"]) {
        libraries.extend(ldd(program)?);
        // Debug symbols are nine tenths of a program.
        shell::run(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
        archive.file(name, 0o755, &read(&stripped)?);
    }
    let _ = fs::remove_file(&stripped);
    for name in SYSTEM {
        let program =
            shell::find_program(name).ok_or_else(|| Error::Vm(format!("there is no {name} here")))?;
        libraries.extend(ldd(&program)?);
        archive.file(&program.to_string_lossy(), 0o755, &read(&program)?);
    }
    for library in &libraries {
        archive.file(&library.to_string_lossy(), 0o755, &read(library)?);
    }
    archive.directory("/modules");
    for (number, (name, contents)) in modules::load_order(&kernel.modules)?.into_iter().enumerate() {
        archive.file(&format!("/modules/{number:02}-{name}.ko"), 0o644, &contents);
    }
    let path = directory.join("initramfs");
    fs::write(&path, archive.finish()).context(|| format!("file {}", path.display()))?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context(|| format!("file {}", path.display()))
}

/// The shared libraries of a program, the dynamic linker too.
fn ldd(program: &Path) -> Result<Vec<PathBuf>> {
    Ok(libraries(&shell::stdout(Command::new("ldd").arg(program))?))
}

/// The paths in ldd's answer: `libc.so.6 => /lib/libc.so.6 (0x7f00)` or `/lib64/ld-linux-x86-64.so.2 (0x7f00)`.
fn libraries(answer: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        let path = line.split_once(" (").map_or(line, |(path, _)| path);
        path.starts_with('/').then(|| path.into())
    };
    answer.lines().filter_map(path).collect()
}

/// An archive as the kernel unpacks it, `newc` in the words of cpio(5).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    count: u32,
}

impl Archive {
    /// A directory and those above it.
    fn directory(&mut self, path: &str) {
        let mut above: Vec<_> = Path::new(path).ancestors().filter(|path| path.parent().is_some()).collect();
        above.reverse();
        for path in above {
            if self.directories.insert(path.into()) {
                self.entry(&path.to_string_lossy(), 0o040_755, (0, 0), &[]);
            }
        }
    }

    /// A file, and the directories above it.
    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        if let Some(parent) = Path::new(path).parent() {
            self.directory(&parent.to_string_lossy());
        }
        self.entry(path, 0o100_000 | mode, (0, 0), contents);
    }

    /// A character device.
    fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, 0o020_600, (major, minor), &[]);
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        let name = path.trim_start_matches('/');
        self.count += 1;
        let fields = [
            self.count,
            mode,
            0,
            0,
            1,
            0,
            contents.len() as u32,
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_libraries() {
        let answer = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f5a)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f5b)\n";
        let wanted = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(answer), wanted);
        assert!(libraries("\tnot a dynamic executable\n\tlibx.so => not found\n").is_empty());
    }

    /// Names, modes and contents of an archive.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let (mut at, mut entries) = (0, Vec::new());
        while at < archive.len() {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |n: usize| {
                let digits = &archive[at + 6 + 8 * n..at + 14 + 8 * n];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = &archive[at + 110..at + 110 + name_size];
            assert_eq!(name.last(), Some(&0));
            let start = (at + 110 + name_size).next_multiple_of(4);
            let name = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
            entries.push((name, mode as u32, archive[start..start + size].to_vec()));
            at = (start + size).next_multiple_of(4);
        }
        entries
    }

    #[test]
    fn an_archive_has_each_directory_once_and_before_its_files() {
        let mut archive = Archive::default();
        archive.directory("/dev");
        archive.device("/dev/console", 5, 1);
        archive.file("/usr/bin/a", 0o755, b"12345");
        archive.file("/usr/bin/b", 0o644, b"");
        archive.file("/c", 0o644, b"c");
        let entries = entries(&archive.finish());
        let names: Vec<_> = entries.iter().map(|(name, mode, _)| format!("{name} {mode:o}")).collect();
        let wanted = [
            "dev 40755",
            "dev/console 20600",
            "usr 40755",
            "usr/bin 40755",
            "usr/bin/a 100755",
            "usr/bin/b 100644",
            "c 100644",
            "TRAILER!!! 0",
        ];
        assert_eq!(names, wanted);
        assert_eq!(entries[4].2, b"12345");
        assert_eq!(entries[6].2, b"c");
    }
}
