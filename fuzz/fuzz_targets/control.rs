//! What people and other programs write for this one to read: the command line, one word per line; and the whole input as
//! what lies in a lock file, in a record of offloads, in the kernel's version.
//!
//! Promise `hostile-input`.
#![no_main]

use clap::Parser;
use iou_fast::cli::{Cli, CpuList};
use iou_fast::fuzzing;
use iou_fast::iou::Endpoint;
use iou_fast::netmap::infer::PseudoIds;
use iou_fast::plan::{Binding, Choice};
use libfuzzer_sys::fuzz_target;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

fuzz_target!(|input: &[u8]| {
    if let Some(turned_off) = fuzzing::offloads_record(input) {
        assert!(turned_off.iter().map(String::len).sum::<usize>() <= input.len());
    }
    if let Some(pid) = fuzzing::lock_pid(input) {
        assert!(
            input.starts_with(b"0")
                || input.starts_with(b"+")
                || input.starts_with(pid.to_string().as_bytes())
        );
    }
    if let Ok(text) = str::from_utf8(input) {
        let _ = fuzzing::kernel_version(text);
        word(text);
        text.lines().take(16).for_each(word);
    }
    // No other command line is one, and to refuse them takes long.
    if !input.starts_with(b"-") {
        return;
    }
    let words = input.split(|byte| *byte == b'\n').take(32).map(OsStr::from_bytes);
    match Cli::try_parse_from([OsStr::new("iou-fast")].into_iter().chain(words)) {
        Ok(cli) => {
            let interfaces = &cli.start.interfaces;
            assert!(cli.command.is_some() || !interfaces.is_empty());
            assert!(interfaces.iter().all(|binding| !binding.nic.is_empty()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// Each of the words that have a grammar of their own: what is understood is written as it is understood.
fn word(text: &str) {
    if let Ok(ids) = text.parse::<PseudoIds>() {
        assert!(!ids.0.is_empty() && ids.0.is_sorted());
        assert_eq!(ids.to_string().parse::<PseudoIds>().ok(), Some(ids));
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
    if let Ok(choice) = text.parse::<Choice>() {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    if let Ok(binding) = text.parse::<Binding>() {
        assert!(!binding.nic.is_empty() && text.starts_with(&binding.nic));
        assert!(binding.choice.is_none_or(|choice| !choice.is_empty()));
    }
    if let Ok(CpuList(cpus)) = text.parse::<CpuList>() {
        assert!(!cpus.is_empty());
        let mut once = cpus.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), cpus.len());
    }
}
