//! Man pages, one per command: clap's part of them, and the sections that only a manual has.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use iou_fast::cli::Cli;
use std::io;

/// The section for system administration, because most commands need root.
const SECTION: &str = "8";

/// A term and its text.
type Entry = (&'static str, &'static str);

const FILES: &[Entry] = &[
    ("NETMAP", "The wiring of the lab, in the directory from which the routers are started."),
    ("/tmp/netio<uid>", "The routers' sockets and ours, and the locks of their ids."),
    ("/tmp/netl1<uid>", "The sockets of L1 keepalives, if routers use those."),
    (
        "/run/iou-fast",
        "Locks of NICs, and their settings from before. For an ordinary user $RUNTIME_DIRECTORY, else iou-fast in \
         $XDG_RUNTIME_DIR, else /run/user/<uid>/iou-fast.",
    ),
    (
        "iou-fast@.service",
        "Forwarding as a service: systemctl enable --now iou-fast@USER serves the lab in USER's home directory. \
         The interface and other options go into a drop-in, by systemctl edit iou-fast@USER; the file says how.",
    ),
];

const ENVIRONMENT: &[Entry] = &[
    (
        "IOU_FAST_LOG",
        "What is logged: error, warn, info (the default), debug or trace; or a filter such as \
         warn,iou_fast::nic=debug.",
    ),
    ("NETIO_NETMAP", "The NETMAP, if --netmap is not given. Routers read this variable as well."),
    (
        "SUDO_UID",
        "Set by sudo: whose routers they are, if --uid is not given, and with whose rights the NETMAP is read.",
    ),
    ("RUNTIME_DIRECTORY, XDG_RUNTIME_DIR", "Set by systemd: see FILES."),
    (
        "NOTIFY_SOCKET",
        "Set by a service manager (Type=notify): it is told when forwarding begins and ends, when the NETMAP is reloaded, \
         and a line of status.",
    ),
    (
        "WATCHDOG_USEC, WATCHDOG_PID",
        "Set by a service manager (WatchdogSec=): it gets a sign of life as long as every worker gives one.",
    ),
];

const SIGNALS: &[Entry] = &[
    ("SIGINT, SIGTERM", "End forwarding, give everything back and print what happened."),
    ("SIGHUP", "Reload the NETMAP."),
];

const EXIT_STATUS: &[Entry] = &[
    ("0", "It was ended by a signal, and everything was given back."),
    ("1", "It could not start, or not go on. The reason is on standard error."),
    ("2", "The command line is wrong."),
    (
        "159",
        "A thread made a system call that is not on its list: a bug, or a break-in. The call is on standard error.",
    ),
];

const SEE_ALSO: &[&str] = &["ip(8)", "ethtool(8)", "systemctl(1)", "systemd.service(5)", "setcap(8)"];
const DOCUMENTATION: &str = "/usr/share/doc/iou-fast";

/// The pages: file name and contents.
pub(crate) fn pages() -> Vec<(String, Vec<u8>)> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let commands: Vec<Command> =
        cli.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let names: Vec<String> = commands.iter().map(page_name).collect();
    let mut pages = vec![(page_name(&cli), page(&cli, Some(&names)))];
    pages.extend(commands.iter().map(|command| (page_name(command), page(command, None))));
    pages.into_iter().map(|(name, page)| (format!("{name}.{SECTION}"), page)).collect()
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

/// The page of `command`; `subcommands` are those of the program itself.
fn page(command: &Command, subcommands: Option<&[String]>) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = write(command, subcommands, &mut out);
    bold_code(&String::from_utf8_lossy(&out)).into_bytes()
}

fn write(command: &Command, subcommands: Option<&[String]>, out: &mut Vec<u8>) -> io::Result<()> {
    let version = format!("iou-fast {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .title(page_name(command).to_uppercase())
        .section(SECTION)
        .source(version)
        .manual("iou-fast manual");
    man.render_title(out)?;
    man.render_name_section(out)?;
    synopsis(command).to_writer(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if let Some(names) = subcommands {
        man.render_subcommands_section(out)?;
        for (title, entries) in [
            ("EXIT STATUS", EXIT_STATUS),
            ("ENVIRONMENT", ENVIRONMENT),
            ("FILES", FILES),
            ("SIGNALS", SIGNALS),
        ] {
            list(title, entries).to_writer(out)?;
        }
        after_help(command).to_writer(out)?;
        let names: Vec<String> = names.iter().map(|name| format!("{name}({SECTION})")).collect();
        see_also(names.iter().map(String::as_str).chain(SEE_ALSO.iter().copied())).to_writer(out)
    } else {
        after_help(command).to_writer(out)?;
        let program = format!("iou-fast({SECTION})");
        see_also(std::iter::once(program.as_str())).to_writer(out)
    }
}

/// Sets text between backticks in bold, as manuals do.
fn bold_code(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    for line in page.lines() {
        let parts: Vec<&str> = line.split('`').collect();
        if line.starts_with('.') || parts.len().is_multiple_of(2) {
            out += line;
        } else {
            for (n, part) in parts.iter().enumerate() {
                out += part;
                if n + 1 < parts.len() {
                    out += if n % 2 == 0 { "\\fB" } else { "\\fR" };
                }
            }
        }
        out.push('\n');
    }
    out
}

/// As `--help` has it; clap_mangen's own lists every option there.
fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let usage = command.clone().render_usage().to_string();
    for (n, line) in usage.trim_start_matches("Usage:").lines().map(str::trim).enumerate() {
        if n > 0 {
            roff.control("br", []);
        }
        let words = line.split(' ');
        let is_name = |word: &&str| !word.starts_with(['[', '<', '-']);
        let name: Vec<&str> = words.clone().take_while(is_name).collect();
        let rest: Vec<&str> = words.skip_while(is_name).collect();
        roff.text([bold(name.join(" ")), roman(format!(" {}", rest.join(" ")))]);
    }
    roff
}

/// The text after the options in `--help`: examples, the exit status and notes. Indented lines stay as they are.
fn after_help(command: &Command) -> Roff {
    let text = command.get_after_long_help().or_else(|| command.get_after_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    let mut sections: [(&str, Vec<&str>); 3] =
        [("EXIT STATUS", Vec::new()), ("NOTES", Vec::new()), ("EXAMPLES", Vec::new())];
    for paragraph in text.split("\n\n") {
        let (at, paragraph) = if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            (2, examples)
        } else if let Some(status) = paragraph.strip_prefix("Exit status: ") {
            (0, status)
        } else {
            (1, paragraph)
        };
        if !paragraph.is_empty() {
            sections[at].1.push(paragraph);
        }
    }
    for (title, paragraphs) in sections.iter().filter(|(_, paragraphs)| !paragraphs.is_empty()) {
        roff.control("SH", [*title]);
        for (n, paragraph) in paragraphs.iter().enumerate() {
            if n > 0 {
                roff.control("PP", []);
            }
            verbatim_where_indented(&mut roff, paragraph);
        }
    }
    roff
}

fn verbatim_where_indented(roff: &mut Roff, paragraph: &str) {
    let mut verbatim = false;
    for line in paragraph.lines() {
        let indented = line.starts_with("  ");
        if indented != verbatim {
            roff.control(if indented { "nf" } else { "fi" }, []);
            verbatim = indented;
        }
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    if verbatim {
        roff.control("fi", []);
    }
}

fn list(title: &str, entries: &[Entry]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
    roff
}

fn see_also<'a>(pages: impl Iterator<Item = &'a str>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut line: Vec<Inline> = Vec::new();
    for page in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        line.extend([bold(name), roman(format!("({section}"))]);
    }
    roff.text(line);
    roff.control("PP", []);
    roff.text([roman("Documentation: "), roman(DOCUMENTATION)]);
    roff
}
