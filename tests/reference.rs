//! What is generated from the code: docs/counters.md is the one of today's code, manuals and completions name every option.

#![allow(unreachable_pub, reason = "modules of an example")]

#[path = "../examples/reference/counters.rs"]
mod counters;
#[path = "../examples/reference/man.rs"]
mod man;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use iou_fast::cli::Cli;
use iou_fast::stats::{DropReason, Fault};
use std::path::Path;

/// The program and its subcommands, built.
fn commands() -> Vec<Command> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let commands: Vec<Command> = cli.get_subcommands().cloned().collect();
    [vec![cli], commands].concat()
}

fn options(command: &Command) -> Vec<String> {
    let long = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| argument.get_long());
    long.map(|name| format!("--{name}")).collect()
}

/// Promise `reference`.
#[test]
fn counters_page_matches_the_code() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/counters.md");
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == counters::page(),
        "docs/counters.md is out of date: cargo run --example reference -- counters docs/counters.md"
    );
    for name in
        DropReason::ALL.iter().map(|reason| reason.text()).chain(Fault::ALL.iter().map(|fault| fault.text()))
    {
        assert!(there.contains(&format!("\n### `{name}`\n\n")), "{name}");
    }
    assert!(there.lines().all(|line| line.chars().count() <= 120), "a line is too long");
}

/// Promise `reference` (The package): Man pages and completions name every command and option, and
/// docs/counters.md every drop reason and fault, as the code has them.
#[test]
fn man_page_per_command_names_its_options() {
    let pages = man::pages();
    let commands = commands();
    assert_eq!(pages.len(), commands.len());
    for ((name, page), command) in pages.iter().zip(&commands) {
        // As it reads: hyphens are escaped.
        let text = String::from_utf8(page.clone()).unwrap().replace("\\-", "-");
        assert!(text.contains(&format!("\n{}", name.trim_end_matches(".8"))), "{name}");
        let all = options(command);
        assert!(all.len() > 1, "{name}");
        for option in all {
            assert!(text.contains(&option), "{name} lacks {option}");
        }
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"SEE ALSO\""] {
            assert!(text.contains(&format!(".SH {section}\n")), "{name} lacks {section}\n{text}");
        }
    }
    let text = String::from_utf8(pages[0].1.clone()).unwrap();
    for section in ["EXAMPLES", "FILES", "ENVIRONMENT", "\"EXIT STATUS\"", "SUBCOMMANDS"] {
        assert!(text.contains(&format!(".SH {section}\n")), "{section}\n{text}");
    }
}

/// Promise `reference`.
#[test]
fn completions_know_commands_and_options() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "iou-fast", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in commands() {
            assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            for option in options(&command) {
                // fish has them without the hyphens.
                assert!(script.contains(option.trim_start_matches('-')), "{shell}: {option}");
            }
        }
    }
}
