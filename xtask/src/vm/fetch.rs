//! Debian's kernels: fetched by apt with lists, sources and a cache of our own, so that those of this machine stay as
//! they are, and unpacked without being installed.

use super::Kernel;
use crate::error::{Context, Error, Result};
use crate::setup::KEYRING;
use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that leads to the newest kernel of a suite. The cloud kernels have virtio and little else.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub(super) struct Files {
    /// As `uname -r` will print it.
    pub(super) release: String,
    /// The kernel itself.
    pub(super) vmlinuz: PathBuf,
    /// The directory of its modules.
    pub(super) modules: PathBuf,
}

/// Fetches the kernel unless it is in `directory` already.
pub(super) fn kernel(kernel: &Kernel, directory: &Path) -> Result<Files> {
    let root = directory.join("root");
    if !root.exists() {
        let apt = Apt::new(directory.join("apt"), kernel.sources)?;
        let packages = directory.join("packages");
        let half_done = directory.join("root.new");
        for path in [&packages, &half_done] {
            if path.exists() {
                fs::remove_dir_all(path).context(|| format!("directory {}", path.display()))?;
            }
            fs::create_dir_all(path).context(|| format!("directory {}", path.display()))?;
        }
        println!("fetching it from {}", kernel.sources.join(", "));
        apt.run("apt-get", &["--quiet", "--quiet", "update"], directory)?;
        let depends = apt.stdout("apt-cache", &["depends", "--recurse", "--important", PACKAGE])?;
        let names = kernel_packages(&depends);
        if names.is_empty() {
            return Err(Error::Vm(format!("there is no {PACKAGE} in {}", kernel.sources.join(", "))));
        }
        apt.run("apt-get", &[&["--quiet", "--quiet", "download"], &names[..]].concat(), &packages)?;
        for entry in
            fs::read_dir(&packages).context(|| format!("directory {}", packages.display()))?.flatten()
        {
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(&half_done))?;
        }
        fs::rename(&half_done, &root).context(|| format!("directory {}", root.display()))?;
        // The lists and the packages are no longer needed.
        for path in [&apt.directory, &packages] {
            fs::remove_dir_all(path).context(|| format!("directory {}", path.display()))?;
        }
    }
    let files = files(&root)?;
    if !kernel.release.has(&files.release) {
        return Err(Error::Vm(format!(
            "{} has Linux {}, and {} is what is to be checked here; the directory {} holds it",
            kernel.sources.join(", "),
            files.release,
            kernel.release,
            directory.display()
        )));
    }
    Ok(files)
}

/// apt with a directory of its own in place of what is below /etc/apt, /var/lib/apt and /var/cache/apt.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(directory: PathBuf, sources: &[&str]) -> Result<Self> {
        for path in ["lists/partial", "cache/archives/partial", "empty"] {
            let path = directory.join(path);
            fs::create_dir_all(&path).context(|| format!("directory {}", path.display()))?;
        }
        let list: String =
            sources.iter().map(|source| format!("deb [signed-by={KEYRING} arch=amd64] {source}\n")).collect();
        for (name, text) in [("sources.list", &*list), ("preferences", "")] {
            let path = directory.join(name);
            fs::write(&path, text).context(|| format!("file {}", path.display()))?;
        }
        Ok(Self { directory })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let ours = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "empty"),
            ("Dir::Etc::preferences", "preferences"),
            ("Dir::Etc::preferencesparts", "empty"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
        ];
        for (option, path) in ours {
            command.arg("-o").arg(format!("{option}={}", self.directory.join(path).display()));
        }
        // The user that apt would change to may not be able to enter our directory.
        let user = if testbed::is_root() { "root" } else { "" };
        command.args(["-o", &format!("APT::Sandbox::User={user}"), "-o", "Acquire::Languages=none"]);
        command.args(arguments).env("LC_ALL", "C");
        command
    }

    fn run(&self, program: &str, arguments: &[&str], directory: &Path) -> Result<()> {
        shell::run(self.command(program, arguments).current_dir(directory))
    }

    fn stdout(&self, program: &str, arguments: &[&str]) -> Result<String> {
        shell::stdout(&mut self.command(program, arguments))
    }
}

/// The packages that make up the kernel, of those that `apt-cache depends --recurse` prints: each begins a line, and its
/// dependencies follow with blanks in front. Packages without a version in their name are empty.
fn kernel_packages(depends: &str) -> Vec<&str> {
    let has_version = |name: &str| name.split('-').any(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let is_kernel =
        |line: &&str| line.starts_with("linux-") && line.ends_with("-cloud-amd64") && has_version(line);
    depends.lines().filter(is_kernel).collect()
}

/// Finds the parts of an unpacked kernel. Up to 6.x they are in /boot and /lib/modules, later all below /usr/lib/modules.
fn files(root: &Path) -> Result<Files> {
    let missing = || Error::Vm(format!("{} holds no whole kernel: remove it and run again", root.display()));
    for directory in ["usr/lib/modules", "lib/modules"] {
        for entry in fs::read_dir(root.join(directory)).into_iter().flatten().flatten() {
            let (modules, release) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let candidates = [modules.join("vmlinuz"), root.join("boot").join(format!("vmlinuz-{release}"))];
            if let Some(vmlinuz) = candidates.into_iter().find(|path| path.is_file()) {
                return Ok(Files { release, vmlinuz, modules });
            }
        }
    }
    Err(missing())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_a_kernel() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n\
                       linux-image-6.1.0-56-cloud-amd64\n  Depends: kmod\n  Depends: linux-base\n \
                       |Depends: initramfs-tools\nkmod\n  Depends: libc6\n<linux-initramfs-tool>\n  dracut\n\
                       linux-base\nlinux-modules-7.2.12+deb13-cloud-amd64\n";
        let names = ["linux-image-6.1.0-56-cloud-amd64", "linux-modules-7.2.12+deb13-cloud-amd64"];
        assert_eq!(kernel_packages(depends), names);
        assert!(kernel_packages("N: Unable to locate package linux-image-cloud-amd64\n").is_empty());
    }

    #[test]
    fn a_kernel_is_found_in_either_layout() {
        let root = tempfile::tempdir().unwrap();
        assert!(files(root.path()).is_err());
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        write("lib/modules/6.1.0-56-cloud-amd64/modules.builtin");
        assert!(files(root.path()).is_err());
        write("boot/vmlinuz-6.1.0-56-cloud-amd64");
        assert_eq!(files(root.path()).unwrap().release, "6.1.0-56-cloud-amd64");
        write("usr/lib/modules/7.2.12+deb13-cloud-amd64/vmlinuz");
        let found = files(root.path()).unwrap();
        assert_eq!(found.release, "7.2.12+deb13-cloud-amd64");
        assert_eq!(found.vmlinuz, found.modules.join("vmlinuz"));
    }
}
