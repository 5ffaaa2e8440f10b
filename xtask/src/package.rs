//! `cargo xtask package`: the Debian package, made by cargo-deb from `[package.metadata.deb]` in Cargo.toml.
//!
//! ```text
//!   program ─────────────────────┐
//!   example `reference` ─► target/reference: man pages, completions ─► cargo-deb ─► target/debian/*.deb ─► checked
//!   crates' licences ────────────┘
//! ```

mod check;
mod licenses;

use crate::error::{Context, Error, Result};
use crate::{setup, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of cargo-deb that Cargo.toml's table is written for.
const CARGO_DEB: &str = "3.8.0";

/// Options of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The package's version, if it is not the program's.
    #[arg(long, value_name = "VERSION")]
    deb_version: Option<String>,
    /// Installs nothing.
    #[arg(long)]
    no_setup: bool,
}

/// Builds the package and checks it.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if !options.no_setup {
        setup::install(setup::For::Package)?;
    }
    let workspace = shell::workspace();
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    println!("== program");
    let mut build = shell::cargo(&["build", "--release", "--bin", "iou-fast", "--example", "reference"]);
    shell::run(build.env("CARGO_ENCODED_RUSTFLAGS", remap(&workspace)).env_remove("RUSTFLAGS"))?;

    println!("== reference and licences");
    let reference = workspace.join("target/reference");
    if reference.exists() {
        fs::remove_dir_all(&reference).context(|| format!("directory {}", reference.display()))?;
    }
    shell::run(Command::new(target.join("release/examples/reference")).arg("pages").arg(&reference))?;
    let licenses = reference.join("THIRD-PARTY-LICENSES");
    fs::write(&licenses, licenses::of_what_is_linked()?)
        .context(|| format!("file {}", licenses.display()))?;

    println!("== package");
    let directory = workspace.join("target/debian");
    remove_packages(&directory)?;
    let mut deb = Command::new(cargo_deb(&workspace)?);
    deb.current_dir(&workspace)
        .args(["--no-build", "--strip", "--package", "iou-fast", "--output"])
        .arg(&directory);
    deb.args(options.deb_version.iter().flat_map(|version| ["--deb-version", version]));
    shell::run(&mut deb)?;
    let package = only_package(&directory)?;
    check::check(&package, &workspace)?;
    println!("\n{}\nInstall it with: sudo apt install {}", package.display(), package.display());
    Ok(true)
}

/// Keeps this machine's paths out of the program: those of the sources and those of the crates.
fn remap(workspace: &Path) -> String {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home).unwrap_or_default();
    [(&*cargo, "/cargo"), (workspace, "/iou-fast")]
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .join("\u{1f}")
}

/// cargo-deb, installed into target/tools if this version is not there yet.
fn cargo_deb(workspace: &Path) -> Result<PathBuf> {
    let tools = workspace.join("target/tools");
    let program = tools.join("bin/cargo-deb");
    let is_there = program.is_file()
        && shell::stdout(Command::new(&program).arg("--version"))?.trim().ends_with(CARGO_DEB);
    if !is_there {
        let root = tools.to_string_lossy();
        shell::run(&mut shell::cargo(&[
            "install",
            "--quiet",
            "--locked",
            "--force",
            "--version",
            CARGO_DEB,
            "--root",
            &root,
            "cargo-deb",
        ]))?;
    }
    Ok(program)
}

/// The packages in `directory`.
fn packages(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect()
}

/// Removes packages of other versions, which would be taken for this one.
fn remove_packages(directory: &Path) -> Result<()> {
    packages(directory)
        .iter()
        .try_for_each(|package| fs::remove_file(package).context(|| format!("file {}", package.display())))
}

fn only_package(directory: &Path) -> Result<PathBuf> {
    match packages(directory).as_slice() {
        [package] => Ok(package.clone()),
        others => {
            Err(Error::Package(format!("{} packages in {} and not one", others.len(), directory.display())))
        }
    }
}
