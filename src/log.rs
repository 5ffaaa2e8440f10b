//! The log: one event per line on standard error, for people or for programs.
//!
//! A log line says what it is about in fields: `nic` (an interface), `router` (an instance id) and `lab` (the directory of
//! the NETMAP). Programs get them as fields of a JSON object. People read them as the subject of the sentence: `nic` and
//! `router` stand in front (`eth0: carrier lost`, `router 5 connected`), unless the message begins with them, as messages
//! of errors do; `lab` is left out, because a process serves one lab.

use crate::output;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// Time, level and a sentence.
    Text,
    /// A JSON object per line: `timestamp`, `level`, `message`, and `nic`, `router`, `lab` where they apply.
    Json,
}

/// The format is JSON. Text until [`init`].
static JSON: AtomicBool = AtomicBool::new(false);

/// Logs in `format` from now on. The environment's `IOU_FAST_LOG` says what; without it, information and above.
///
/// # Panics
/// If there is a log already.
pub fn init(format: Format) {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_from_env("IOU_FAST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for people: in a file or a journal they are noise.
    let ansi = format == Format::Text && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(ansi);
    // What cannot be written is dropped: it neither ends the process nor holds a thread up.
    let log = log.with_writer(Stderr).log_internal_errors(false);
    JSON.store(format == Format::Json, Ordering::Relaxed);
    match format {
        Format::Text => log.fmt_fields(Sentence).init(),
        Format::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

/// Writes a line that is no event and passes no filter: why a start failed, how the NETMAP was understood. It is the bare
/// `text`, or its JSON object of that `level`.
pub fn line(level: tracing::Level, text: &str) {
    output::log(&formatted(level, text));
}

/// What [`line()`] writes.
fn formatted(level: tracing::Level, text: &str) -> String {
    if !JSON.load(Ordering::Relaxed) {
        return format!("{text}\n");
    }
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let line = serde_json::json!({ "timestamp": timestamp, "level": level.as_str(), "message": text });
    format!("{line}\n")
}

/// The line in place of `lines` others that could not be written.
#[must_use]
pub fn missing(lines: u64) -> String {
    let text = format!("iou-fast: {lines} messages are missing here: the log could not be written");
    formatted(tracing::Level::WARN, &text)
}

/// From now on a panic is reported in our words. The usual report reads debug information from files, which a confined
/// thread may not.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?").to_owned();
        line(tracing::Level::ERROR, &format!("iou-fast: thread \"{name}\" {panic}: a bug, please report it"));
        // It may be the process' last word.
        output::finish();
    }));
}

/// Where events go: [`output::log`], which waits for no reader.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = output::Log;

    fn make_writer(&'a self) -> output::Log {
        output::Log
    }
}

/// Writes an event's fields as a sentence with its subject in front.
struct Sentence;

impl<'writer> FormatFields<'writer> for Sentence {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut parts = Parts::default();
        fields.record(&mut parts);
        parts.write(&mut writer)
    }
}

/// The fields of an event.
#[derive(Default)]
struct Parts {
    nic: Option<String>,
    router: Option<String>,
    message: String,
    /// All others, as ` key=value`.
    others: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "nic" => self.nic = Some(value),
            "router" => self.router = Some(value),
            "message" => self.message = value,
            "lab" => {}
            name => self.others += &format!(" {name}={value}"),
        }
    }
}

impl Parts {
    fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let message = &*self.message;
        let mut sentence = String::new();
        if let Some(nic) = self.nic.as_deref().filter(|nic| !begins_with(message, nic)) {
            sentence += &format!("{nic}: ");
        }
        let router = self.router.as_ref().map(|id| format!("router {id}"));
        if let Some(router) = router.filter(|router| !begins_with(message, router)) {
            sentence += &format!("{router} ");
        }
        sentence += message;
        sentence += &self.others;
        // Names of files and interfaces are what users make them: a terminal takes no commands from them.
        for c in sentence.chars() {
            match c {
                '\n' | '\t' => writer.write_char(c)?,
                c if c.is_control() => write!(writer, "{}", c.escape_default())?,
                c => writer.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Whether `message` begins with `subject` as a word of its own.
fn begins_with(message: &str, subject: &str) -> bool {
    message.strip_prefix(subject).is_some_and(|rest| rest.starts_with([' ', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What `log` writes in text, without time and level.
    fn text(log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Memory(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Memory {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory::default();
        let shared = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .fmt_fields(Sentence)
            .with_writer(move || shared.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn log_line_begins_with_what_it_is_about() {
        let (nic, id) = ("eth0", 5);
        assert_eq!(text(|| tracing::info!(nic = %nic, "carrier lost")), "eth0: carrier lost\n");
        assert_eq!(text(|| tracing::info!(nic, "carrier lost")), "eth0: carrier lost\n");
        assert_eq!(text(|| tracing::info!(router = id, lab = "ccnp", "connected")), "router 5 connected\n");
        assert_eq!(text(|| tracing::info!(nic, router = id, "moved")), "eth0: router 5 moved\n");
        assert_eq!(text(|| tracing::info!(queues = 2, "started")), "started queues=2\n");
    }

    #[test]
    fn log_line_names_its_subject_once() {
        assert_eq!(text(|| tracing::info!(nic = "eth0", "eth0 is gone")), "eth0 is gone\n");
        assert_eq!(text(|| tracing::info!(nic = "eth0", "eth0: busy")), "eth0: busy\n");
        assert_eq!(text(|| tracing::info!(nic = "eth0", "eth01 is gone")), "eth0: eth01 is gone\n");
        assert_eq!(text(|| tracing::info!(router = 5, "router 5 refuses")), "router 5 refuses\n");
    }

    #[test]
    fn log_line_gives_a_terminal_no_commands() {
        let line = text(|| tracing::info!(nic = "\u{1b}[2J", "bad\r\u{9b}name\nsecond line"));
        assert_eq!(line, "\\u{1b}[2J: bad\\r\\u{9b}name\nsecond line\n");
    }
}
