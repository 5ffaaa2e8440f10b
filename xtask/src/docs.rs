//! Checks the pages: each link has a target, README leads to all pages, prose is no wider than an editor shows it.
//! (A test beside the command line, in `src/cli.rs`, compares the options on the pages with those of the program.)

use crate::shell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Columns of a line of prose.
const WIDTH: usize = 120;
/// Lines of README: a page that is read in a minute.
const README: usize = 120;

/// A page without its code blocks.
struct Page {
    /// Its lines outside code blocks, with their numbers.
    lines: Vec<(usize, String)>,
    /// The anchors that an address may have behind `#`.
    anchors: BTreeSet<String>,
}

impl Page {
    fn read(text: &str) -> Self {
        let (mut lines, mut anchors, mut code) = (Vec::new(), BTreeSet::new(), false);
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                code = !code;
            } else if !code {
                anchors.extend(line.strip_prefix('#').map(|heading| anchor(heading, &anchors)));
                lines.push((number, line.to_owned()));
            }
        }
        Self { lines, anchors }
    }

    /// The targets of its links, with the lines that they begin on.
    fn links(&self) -> impl Iterator<Item = (usize, String)> {
        let targets = |line: &str| -> Vec<String> {
            let parts = without_code(line);
            let targets = parts.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            targets.map(|(target, _)| target.to_owned()).collect()
        };
        self.lines
            .iter()
            .flat_map(move |(number, line)| targets(line).into_iter().map(|link| (*number, link)))
    }

    /// Lines that are too wide, except tables and lines with links.
    fn wide(&self) -> impl Iterator<Item = usize> {
        let prose = self.lines.iter().filter(|(_, line)| !line.starts_with('|') && !line.contains("]("));
        prose.filter(|(_, line)| line.chars().count() > WIDTH).map(|(number, _)| *number)
    }
}

/// The anchor that a heading gets, as the forges make it.
fn anchor(heading: &str, taken: &BTreeSet<String>) -> String {
    let text = heading.trim_start_matches('#').trim();
    // A link counts with its text.
    let text: String =
        text.split('[').map(|part| part.split_once("](").map_or(part, |(text, _)| text)).collect();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    let plain: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
    let again = (1..).map(|n| format!("{plain}-{n}"));
    std::iter::once(plain.clone()).chain(again).find(|name| !taken.contains(name)).unwrap_or(plain)
}

/// A line without the code between backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// All pages by path.
fn pages(root: &Path) -> BTreeMap<PathBuf, Page> {
    let tree = |directory: &str| fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    let files = ["", "docs", "docs/decisions"].into_iter().flat_map(tree).map(|entry| entry.path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root).unwrap().to_owned(), Page::read(&text))
        })
        .collect()
}

/// `path` as seen from the root, for a link on the page `from`.
fn resolve(from: &Path, path: &str) -> PathBuf {
    let mut resolved = from.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            other => resolved.push(other),
        }
    }
    resolved
}

/// The faults of the pages, one line for each.
fn check(root: &Path) -> Vec<String> {
    let pages = pages(root);
    let mut wrong = Vec::new();
    let mut leads: BTreeMap<&Path, Vec<PathBuf>> = BTreeMap::new();
    for (path, page) in &pages {
        let place = |line| format!("{}:{line}", path.display());
        for (line, link) in page.links().filter(|(_, link)| !link.contains("://")) {
            let (file, anchor) =
                link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { path.clone() } else { resolve(path, file) };
            if !root.join(&target).exists() {
                wrong.push(format!("{}: {link} leads nowhere", place(line)));
            } else if let Some(anchor) =
                anchor.filter(|anchor| !pages.get(&target).is_some_and(|p| p.anchors.contains(*anchor)))
            {
                wrong.push(format!("{}: {} has no heading #{anchor}", place(line), target.display()));
            }
            leads.entry(path).or_default().push(target);
        }
        wrong.extend(page.wide().map(|line| format!("{}: more than {WIDTH} columns", place(line))));
    }
    let (mut reached, mut next) = (BTreeSet::new(), vec![PathBuf::from("README.md")]);
    while let Some(page) = next.pop() {
        next.extend(
            leads.get(&*page).into_iter().flatten().filter(|target| !reached.contains(*target)).cloned(),
        );
        reached.insert(page);
    }
    let lost = pages.keys().filter(|path| !reached.contains(*path));
    wrong.extend(lost.map(|path| format!("{}: no way leads here from README.md", path.display())));
    let length = fs::read_to_string(root.join("README.md")).map_or(0, |text| text.lines().count());
    if !(1..=README).contains(&length) {
        wrong.push(format!("README.md: {length} lines, in place of {README} at most"));
    }
    wrong
}

#[test]
fn pages_are_sound() {
    let wrong = check(&shell::workspace());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_fault_of_a_page_is_reported() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("docs")).unwrap();
    let write = |name: &str, text: String| fs::write(root.path().join(name), text).unwrap();
    write(
        "README.md",
        format!("# A\n[b](docs/b.md#two-words) [c](docs/none.md) [d](docs/b.md#none)\n{}", "\n".repeat(130)),
    );
    let wide = "word ".repeat(30);
    write(
        "docs/b.md",
        format!(
            "## Two `words`\n{wide}\n| {wide} |\n```\n{wide}\n[x](nowhere)\n```\n`[y](nowhere)` [up](../README.md#a)\n"
        ),
    );
    write("docs/lost.md", "[self](#none)\n".to_owned());
    assert_eq!(
        check(root.path()),
        [
            "README.md:2: docs/none.md leads nowhere",
            "README.md:2: docs/b.md has no heading #none",
            "docs/b.md:2: more than 120 columns",
            "docs/lost.md:1: docs/lost.md has no heading #none",
            "docs/lost.md: no way leads here from README.md",
            "README.md: 132 lines, in place of 120 at most",
        ]
    );
}

#[test]
fn anchors_are_those_of_the_forges() {
    let page = Page::read("# VLAN, macvlan: `-i x` (a [link](b.md))\n## AF_XDP\n## Twice\n## Twice\n");
    let anchors = ["af_xdp", "twice", "twice-1", "vlan-macvlan--i-x-a-link"];
    assert_eq!(page.anchors.iter().collect::<Vec<_>>(), anchors);
}
