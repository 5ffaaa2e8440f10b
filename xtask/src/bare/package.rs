use super::{CLONE, Commit, Context, Error, Machine, Options, Place, Result, Root, Suite, build, step};
use std::fs;
use std::path::{Path, PathBuf};

/// What is done with a package on a machine that has nothing else.
const INSTALLED: &str = include_str!("installed.sh");

/// Builds the package on bookworm, and installs, uses, upgrades and purges it on each suite that was asked for.
pub(super) fn run(place: &Place, machine: &Machine, commit: &Commit, options: &Options) -> Result<u8> {
    let (builder, code) = build(place, machine, commit, options, "package")?;
    if code != 0 {
        return Ok(code);
    }
    let package = built(&builder.path_of(CLONE).join("target/debian"))?;
    let suites = options.suite.map_or(vec![Suite::Bookworm, Suite::Trixie], |suite| vec![suite]);
    for suite in suites {
        let name = suite.name();
        let root =
            step(&format!("{name}: debootstrap"), || Root::new(place, machine, suite, "install", &[]))?;
        let there = root.path_of("/root").join(package.file_name().unwrap_or_default());
        fs::copy(&package, &there).context(|| format!("file {}", there.display()))?;
        let code = step(&format!("{name}: the package"), || {
            root.run("/root", &["sh", "-c", INSTALLED, "sh", &commit.name])
        })?;
        if code != 0 {
            println!("== {name}: the package failed, exit code {code}");
            return Ok(code);
        }
    }
    Ok(0)
}

/// The one package in a directory.
fn built(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).context(|| format!("directory {}", directory.display()))?;
    let mut packages = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "deb"));
    match (packages.next(), packages.next()) {
        (Some(package), None) => Ok(package),
        _ => Err(Error::Bare(format!("{} does not hold one package", directory.display()))),
    }
}
