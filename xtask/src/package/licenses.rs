//! The licences of the crates that the program is linked with. Their notices must be in the package.

use crate::error::{Context, Error, Result};
use crate::shell;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Crates whose archive has no licence file, and where else the package has the text.
const ELSEWHERE: &str =
    "(The crate has no file with the text. Apache-2.0 is in /usr/share/common-licenses, MIT in copyright.)";

/// Each crate that the program is linked with, and the texts of its licence files.
pub(super) fn of_what_is_linked() -> Result<String> {
    let metadata = shell::stdout(&mut shell::cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata)
        .map_err(|error| Error::Package(format!("what `cargo metadata` says: {error}")))?;
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let mut text = String::from(
        "The program is linked with these crates, and with Rust's standard library (MIT OR Apache-2.0, texts as for most of\n\
         them); libbpf is in libbpf-sys. Where there is a choice of licences, each of them may be chosen.\n",
    );
    let mut texts = Texts::default();
    for id in linked(&metadata) {
        let Some(package) = packages.get(id) else { continue };
        // The project's own crates.
        let Some(_) = package["source"].as_str() else { continue };
        let field = |name: &str| package[name].as_str().unwrap_or("?");
        let _ = write!(text, "\n{} {}: {}\n", field("name"), field("version"), field("license"));
        let manifest = Path::new(field("manifest_path"));
        let directory = manifest.parent().unwrap_or(manifest);
        let files = license_files(directory)?;
        if files.is_empty() {
            let _ = writeln!(text, "  {ELSEWHERE}");
        }
        for file in files {
            let number = texts.number(&file)?;
            let name = file.strip_prefix(directory).unwrap_or(&file).display().to_string();
            let _ = writeln!(text, "  {name}: text {number}");
        }
    }
    for (number, license) in texts.0.iter().enumerate() {
        let _ = write!(text, "\n{}\nText {}\n{}\n", "=".repeat(80), number + 1, "=".repeat(80));
        text += license.trim_end();
        text.push('\n');
    }
    Ok(text)
}

/// Texts, each once: many crates have the same.
#[derive(Default)]
struct Texts(Vec<String>);

impl Texts {
    /// That of a file's text, from 1 on.
    fn number(&mut self, file: &Path) -> Result<usize> {
        let bytes = fs::read(file).context(|| format!("file {}", file.display()))?;
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let at = self.0.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        });
        Ok(at + 1)
    }
}

/// The ids of the packages that the program is linked with: not those of build scripts, procedural macros and tests.
fn linked(metadata: &Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let is_macro = |id: &str| {
        let package = list(&metadata["packages"]).find(|package| package["id"] == id);
        package.is_some_and(|package| {
            list(&package["targets"]).any(|target| list(&target["kind"]).any(|kind| kind == "proc-macro"))
        })
    };
    let program = list(&metadata["packages"])
        .find(|package| package["name"] == "iou-fast" && package["source"].is_null())
        .and_then(|package| package["id"].as_str());
    let (mut found, mut open) = (BTreeSet::new(), Vec::from_iter(program));
    while let Some(id) = open.pop() {
        if is_macro(id) || !found.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| list(&node["deps"]));
        let normal = dependencies
            .filter(|dependency| list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null()));
        open.extend(normal.filter_map(|dependency| dependency["pkg"].as_str()));
    }
    found
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Licence files of a crate, and of the C library that libbpf-sys carries along.
fn license_files(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for directory in [directory.to_owned(), directory.join("LICENSES"), directory.join("libbpf")] {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.context(|| format!("directory {}", directory.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
            let is_license = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT", "UNLICENSE"]
                .iter()
                .any(|word| name.starts_with(word));
            if path.is_file() && (is_license || directory.ends_with("LICENSES")) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linked_crates_are_listed_with_their_licences_and_no_others() {
        let text = of_what_is_linked().unwrap();
        let entry = |name: &str| {
            let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{name} ")));
            let head = lines.next()?.to_owned();
            Some((head, lines.take_while(|line| line.starts_with("  ")).count()))
        };
        for name in ["clap_builder", "libbpf-rs", "smoltcp", "sd-notify"] {
            let (head, texts) = entry(name).unwrap_or_else(|| panic!("{name} is not listed"));
            assert!(head.contains("MIT") || head.contains("0BSD") || head.contains("LGPL"), "{head}");
            assert!(texts > 0, "{head}");
        }
        // The C library has two licences to choose from.
        assert!(entry("libbpf-sys").is_some_and(|(_, texts)| texts >= 2));
        assert!(text.contains("Redistribution and use in source and binary forms"));
        // Of tests, of build scripts, a procedural macro, our own.
        for name in ["criterion", "cc", "clap_derive", "af_xdp"] {
            assert_eq!(entry(name), None);
        }
    }
}
