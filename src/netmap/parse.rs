//! From bytes to lines, in one pass.

use super::{End, Fault, Line, Netmap};
use crate::iou::{Endpoint, InstanceId, Interface};

/// The longest offending text that a message repeats, in characters.
const LONGEST_TEXT: usize = 60;

/// Parses a whole file. `Err` holds the first fault of every faulty line.
pub(super) fn parse(text: &[u8]) -> Result<Netmap, Vec<Fault>> {
    let mut parser = Parser::default();
    parser.run(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    if parser.faults.is_empty() { Ok(Netmap { lines: parser.lines }) } else { Err(parser.faults) }
}

#[derive(Default)]
struct Parser {
    lines: Vec<Line>,
    faults: Vec<Fault>,
    /// The current line, from 0.
    line: u32,
    /// The endpoints of the current line.
    ends: Vec<End>,
    /// The current line already has a fault; it is only skipped.
    faulty: bool,
}

impl Parser {
    fn run(&mut self, text: &[u8]) {
        if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
            self.fault(1, &text[..2], "this is UTF-16: save the file as plain text (UTF-8)".to_owned());
            return;
        }
        let mut at = 0;
        let mut column = 1;
        // Where the block comment that we are in began.
        let mut comment: Option<(u32, u32)> = None;
        while at < text.len() {
            let rest = &text[at..];
            let start = at;
            if let Some(newline) = newline(rest) {
                // Also inside a comment: two lines are never one entry.
                at += newline;
                self.end_line();
                column = 1;
                continue;
            }
            if comment.is_some() {
                if rest.starts_with(b"*/") {
                    comment = None;
                    at += 2;
                } else {
                    at += 1;
                }
            } else if rest.starts_with(b"/*") {
                comment = Some((self.line, column));
                at += 2;
            } else if rest[0] == b'#' {
                at += rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len());
            } else if matches!(rest[0], b' ' | b'\t') {
                at += 1;
            } else {
                let word = word(rest);
                at += word.len();
                self.word(word, column);
            }
            column += characters(&text[start..at]);
        }
        self.end_line();
        if let Some((line, column)) = comment {
            self.line = line;
            self.faulty = self.faults.last().is_some_and(|fault| fault.line == line + 1);
            self.fault(column, b"/*", "this comment has no end: close it with */".to_owned());
        }
    }

    /// Takes one endpoint of the current line.
    fn word(&mut self, word: &[u8], column: u32) {
        if self.faulty {
            return;
        }
        let end = std::str::from_utf8(word)
            .map_err(|_| "this is not UTF-8 text: an endpoint is ID:BAY/UNIT, for example 100:0/1".to_owned())
            .and_then(end);
        match end {
            Ok((endpoint, host)) => {
                self.ends.push(End { endpoint, host: host.map(Box::from), column });
            }
            Err(expected) => self.fault(column, word, expected),
        }
    }

    fn end_line(&mut self) {
        let ends = std::mem::take(&mut self.ends);
        if let Some((first, second)) = twice(&ends) {
            let column = first.column;
            let expected =
                format!("this endpoint stands on the line already, at column {column}: write it once");
            self.fault(second.column, second.to_string().as_bytes(), expected);
        }
        if !self.faulty && !ends.is_empty() {
            self.lines.push(Line { line: self.line + 1, ends });
        }
        self.faulty = false;
        self.line += 1;
    }

    fn fault(&mut self, column: u32, text: &[u8], expected: String) {
        if self.faulty {
            return;
        }
        self.faulty = true;
        self.faults.push(Fault { line: self.line + 1, column, text: printable(text), expected });
    }
}

/// The length of the line end at the start of `text`: LF, CRLF, or CR alone.
fn newline(text: &[u8]) -> Option<usize> {
    match text {
        [b'\r', b'\n', ..] => Some(2),
        [b'\r' | b'\n', ..] => Some(1),
        _ => None,
    }
}

/// Everything up to the next blank, line end or comment.
fn word(text: &[u8]) -> &[u8] {
    let ends = |i: usize, b: u8| match b {
        b' ' | b'\t' | b'\r' | b'\n' | b'#' => true,
        b'/' => text.get(i + 1) == Some(&b'*'),
        _ => false,
    };
    let end = text.iter().enumerate().position(|(i, b)| ends(i, *b));
    &text[..end.unwrap_or(text.len())]
}

/// The number of characters, where bytes that are not UTF-8 may be among them.
fn characters(text: &[u8]) -> u32 {
    let n = text.iter().filter(|b| **b & 0xc0 != 0x80).count();
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The first endpoint in the order of columns that an earlier one equals, and that one first.
fn twice(ends: &[End]) -> Option<(&End, &End)> {
    if ends.len() < 2 {
        return None;
    }
    let mut sorted: Vec<&End> = ends.iter().collect();
    sorted.sort_unstable_by_key(|e| (e.endpoint, e.column));
    let pairs = sorted.windows(2).filter(|pair| pair[0].endpoint == pair[1].endpoint);
    pairs.min_by_key(|pair| pair[1].column).map(|pair| (pair[0], pair[1]))
}

/// Reads one endpoint, or says what is expected in its place.
fn end(word: &str) -> Result<(Endpoint, Option<&str>), String> {
    let shape = || format!("an endpoint is ID:BAY/UNIT, for example {}:0/1", example_id(word));
    let (place, host) = match word.split_once('@') {
        Some((place, host)) => (place, Some(host)),
        None => (word, None),
    };
    let (id, interface) = place.split_once(':').ok_or_else(shape)?;
    let id = number(id).ok_or_else(shape)?;

    // More than three numbers would be none of the forms.
    let mut numbers = [0; 3];
    let mut count = 0;
    for part in interface.split('/') {
        *numbers.get_mut(count).ok_or_else(shape)? = number(part).ok_or_else(shape)?;
        count += 1;
    }
    let (bay, unit) = match (count, numbers) {
        (1, [port, ..]) if port > 255 => {
            return Err("a port, bay + unit * 16, is 0 to 255; or write it as ID:BAY/UNIT".to_owned());
        }
        (1, [port, ..]) => (port & 15, port >> 4),
        (2, [bay, unit, _]) | (_, [_, bay, unit]) => (bay, unit),
    };
    let id = u16::try_from(id).ok().and_then(InstanceId::new);
    let id = id.ok_or_else(|| format!("an instance id is {} to {}", InstanceId::MIN, InstanceId::MAX))?;
    let interface = u8::try_from(bay).ok().zip(u8::try_from(unit).ok());
    let interface = interface.and_then(|(bay, unit)| Interface::new(bay, unit));
    let interface = interface.ok_or_else(|| "bay and unit are 0 to 15 each".to_owned())?;

    match host {
        Some("") => Err("after @ stands the name of a host; leave the @ away for this host".to_owned()),
        Some(host) if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) => {
            Err("the name of a host after @ is letters, digits, '.', '-' and '_'".to_owned())
        }
        host => Ok((Endpoint { id, interface }, host)),
    }
}

/// A decimal number; one too large for any field stays too large.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

/// The id that the writer of a faulty endpoint most likely meant.
fn example_id(word: &str) -> u16 {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let id = word[..digits].parse().ok().and_then(InstanceId::new);
    id.map_or(100, InstanceId::get)
}

/// `text` for a message on a terminal.
fn printable(text: &[u8]) -> String {
    // Four bytes a character are enough; an enormous word is not copied whole.
    let head = String::from_utf8_lossy(&text[..text.len().min(LONGEST_TEXT * 4)]);
    let mut shown: String = head.chars().take(LONGEST_TEXT).flat_map(char::escape_debug).collect();
    if characters(text) as usize > LONGEST_TEXT {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::Error;
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write as _;
    use std::path::Path;

    fn read(text: &str) -> Netmap {
        Netmap::parse(text.as_bytes(), Path::new("NETMAP")).unwrap()
    }

    fn complaint(text: impl AsRef<[u8]>) -> String {
        Netmap::parse(text.as_ref(), Path::new("NETMAP")).unwrap_err().to_string()
    }

    /// Each entry as it is printed.
    fn lines(text: &str) -> Vec<String> {
        read(text).to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_three_forms_of_an_endpoint() {
        assert_eq!(lines("1:0/1 2:16 3:7/0/1"), ["1:0/1 2:0/1 3:0/1"]);
        assert_eq!(lines("100:0 150:255"), ["100:0/0 150:15/15"]);
        assert_eq!(
            lines("1:0/1@a.b-c_D9 2:33@h 3:9/1/2@127.0.0.1"),
            ["1:0/1@a.b-c_D9 2:1/2@h 3:1/2@127.0.0.1"]
        );
        assert_eq!(lines("0001:00/01"), ["1:0/1"]);
    }

    #[test]
    fn any_number_of_endpoints() {
        assert_eq!(lines("1:0/0"), ["1:0/0"]);
        assert_eq!(lines("1:0/0 2:0/0\t3:0/0 \t 1:0/1"), ["1:0/0 2:0/0 3:0/0 1:0/1"]);
        assert_eq!(lines("\n \n\t\n"), [""; 0]);
        assert_eq!(lines(""), [""; 0]);
    }

    #[test]
    fn comments_end_no_sooner_and_no_later_than_they_should() {
        let text = "# 9:0/0 /* no\n1:0/0 2:0/0 # 9:0/1\n/* 9:0/2\n 9:0/3 # */ 3:0/0\n4:0/0/* */5:0/0#x\n6:0/0/*/ 9:9 */ 7:0";
        assert_eq!(lines(text), ["1:0/0 2:0/0", "3:0/0", "4:0/0 5:0/0", "6:0/0 7:0/0"]);
    }

    #[test]
    fn a_comment_does_not_join_two_lines() {
        assert_eq!(lines("1:0/0 2:0/0 /* first\n second */ 3:0/0 4:0/0"), ["1:0/0 2:0/0", "3:0/0 4:0/0"]);
    }

    #[test]
    fn a_comment_may_be_in_any_encoding() {
        let netmap = Netmap::parse(b"# B\xfcro\n1:0/0 /* \xff */ 2:0/0", Path::new("NETMAP")).unwrap();
        assert_eq!(netmap.to_string(), "1:0/0 2:0/0\n");
    }

    #[test]
    fn line_ends_and_byte_order_mark() {
        for text in ["1:0/0 2:0/0\r\n3:0/0\r\n", "1:0/0 2:0/0\r3:0/0", "\u{feff}1:0/0 2:0/0\n3:0/0"] {
            assert_eq!(lines(text), ["1:0/0 2:0/0", "3:0/0"], "{text:?}");
            assert_eq!(read(text).lines.iter().map(|s| s.line).collect::<Vec<_>>(), [1, 2], "{text:?}");
        }
    }

    #[test]
    fn positions_are_those_an_editor_shows() {
        let netmap = read("\n/* é\n */\t1:0/0 /*ü*/ 2:0/0@h\r\n");
        let [entry] = &netmap.lines[..] else { panic!("{netmap:?}") };
        assert_eq!(entry.line, 3);
        assert_eq!(entry.ends.iter().map(|e| e.column).collect::<Vec<_>>(), [5, 17]);
    }

    #[test]
    fn faults_say_where_what_and_how() {
        let shape = "an endpoint is ID:BAY/UNIT, for example";
        for (text, expected) in [
            ("100/1@bylatmobile\t21:0/0", format!("1:1: \"100/1@bylatmobile\": {shape} 100:0/1")),
            ("1:0/0 7", format!("1:7: \"7\": {shape} 7:0/1")),
            ("1:0/0 -> 2:0/0", format!("1:7: \"->\": {shape} 100:0/1")),
            ("1:", format!("1:1: \"1:\": {shape} 1:0/1")),
            (":0/0", format!("1:1: \":0/0\": {shape} 100:0/1")),
            ("1:0/", format!("1:1: \"1:0/\": {shape} 1:0/1")),
            ("1:1/2/3/4", format!("1:1: \"1:1/2/3/4\": {shape} 1:0/1")),
            ("1:+1/0", format!("1:1: \"1:+1/0\": {shape} 1:0/1")),
            ("1:0/0:1", format!("1:1: \"1:0/0:1\": {shape} 1:0/1")),
            ("0:0/0", "1:1: \"0:0/0\": an instance id is 1 to 1024".to_owned()),
            ("1025:0/0", "1:1: \"1025:0/0\": an instance id is 1 to 1024".to_owned()),
            ("1:16/0", "1:1: \"1:16/0\": bay and unit are 0 to 15 each".to_owned()),
            ("1:0/99999999999999999999", "bay and unit are 0 to 15 each".to_owned()),
            ("1:256", "a port, bay + unit * 16, is 0 to 255".to_owned()),
            ("1:0/0@", "after @ stands the name of a host".to_owned()),
            ("1:0/0@a@b", "letters, digits".to_owned()),
            ("1:0/0@b\u{fc}ro", "letters, digits".to_owned()),
            ("1:0/0 1:0", "1:7: \"1:0/0\": this endpoint stands on the line already, at column 1".to_owned()),
            ("1:0/0@a 2:0/0 1:0/0@b", "1:15: \"1:0/0@b\": this endpoint stands".to_owned()),
            ("1:0/0\n /* a\nb", "2:2: \"/*\": this comment has no end: close it with */".to_owned()),
            ("1:0/0 */", format!("1:7: \"*/\": {shape} 100:0/1")),
            ("1:0/0\u{0}", format!("\"1:0/0\\0\": {shape} 1:0/1")),
        ] {
            let said = complaint(text);
            assert!(said.starts_with("NETMAP:1:") || said.starts_with("NETMAP:2:"), "{said}");
            assert!(said.contains(&expected), "{text:?}: {said}\nnot {expected}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error() {
        assert!(complaint(b"1:0/0 2\xff:0/0").contains("NETMAP:1:7: \"2\u{fffd}:0/0\": this is not UTF-8"));
        assert!(complaint(b"\xff\xfe1\0:\x000\0").contains("UTF-16"));
    }

    #[test]
    fn every_faulty_line_is_reported_once() {
        let said = complaint("1:0/0 2:0/0\nfoo bar\n3:0/0 3:0/0\n4:0/0 5:0/0\n1:77/0\n");
        let starts: Vec<_> = said.lines().map(|l| l.split(": ").next().unwrap()).collect();
        assert_eq!(starts, ["NETMAP:2:1", "NETMAP:3:7", "NETMAP:5:1"], "{said}");
    }

    #[test]
    fn a_long_word_is_shortened() {
        let said = complaint("x".repeat(100_000));
        assert!(said.len() < 200 && said.contains("xxx...\""), "{said}");
    }

    #[test]
    fn a_missing_file_names_the_ways_to_give_another() {
        let error = Netmap::read(Path::new("no/such/NETMAP")).unwrap_err();
        assert!(matches!(error, Error::Read { .. }));
        let said = error.to_string();
        assert!(said.contains("no/such/NETMAP") && said.contains("-n FILE"), "{said}");
    }

    #[test]
    fn only_a_plain_file_of_some_size_is_read() {
        let refused = |file: &Path, why: &str| {
            let said = Netmap::read(file).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        };
        refused(Path::new("/dev/zero"), "no plain file");
        let directory = tempfile::tempdir().unwrap();
        refused(directory.path(), "no plain file");
        // It has no writer: an ordinary open would wait for one.
        let fifo = directory.path().join("fifo");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        refused(&fifo, "no plain file");
        let huge = directory.path().join("huge");
        std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        refused(&huge, "larger than 16 MiB");
    }

    /// Ten times the text may take twenty times the time, not a hundred; 10,000 lines take milliseconds.
    #[test]
    fn time_grows_with_the_length() {
        let many_lines = |n: usize| {
            let mut text = String::new();
            for i in 0..n {
                writeln!(text, "{}:{}/1@host 513:{}/{}@host", i % 512 + 1, i % 16, i / 16 % 16, i % 16)
                    .unwrap();
            }
            text
        };
        let one_line = |n: usize| (0..n).map(|i| format!("{}:{} ", i / 256 + 1, i % 256)).collect::<String>();
        let comments = |n: usize| "/* * / # */\n".repeat(n);
        let time = |text: &str| {
            let measure = |_| {
                let start = std::time::Instant::now();
                read(text);
                start.elapsed()
            };
            (0..5).map(measure).min().unwrap()
        };
        for make in [&many_lines as &dyn Fn(usize) -> String, &one_line, &comments] {
            let (short, long) = (time(&make(10_000)), time(&make(100_000)));
            assert!(long < short * 30, "{short:?} {long:?}");
            assert!(short.as_millis() < 50, "{short:?}");
        }
    }

    fn any_end() -> impl Strategy<Value = (Endpoint, Option<String>)> {
        let host = proptest::option::of("[A-Za-z0-9._-]{1,12}");
        (1u16..=1024, any::<u8>(), host).prop_map(|(id, interface, host)| {
            (Endpoint { id: InstanceId::new(id).unwrap(), interface: Interface(interface) }, host)
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(lines in proptest::collection::vec(proptest::collection::vec(any_end(), 1..6), 0..20)) {
            let mut netmap = Netmap::default();
            for (i, line) in lines.into_iter().enumerate() {
                let mut entry = Line { line: i as u32 + 1, ends: Vec::new() };
                let mut column = 1;
                for (endpoint, host) in line {
                    if entry.ends.iter().any(|e| e.endpoint == endpoint) {
                        continue;
                    }
                    let end = End { endpoint, host: host.map(Box::from), column };
                    column += end.to_string().len() as u32 + 1;
                    entry.ends.push(end);
                }
                netmap.lines.push(entry);
            }
            prop_assert_eq!(read(&netmap.to_string()), netmap);
        }

        /// Promise `netmap-text`.
        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = Netmap::parse(&text, Path::new("NETMAP")).map_err(|e| e.to_string());
        }

        /// Bytes of the grammar's own alphabet get further in than random ones.
        ///
        /// Promise `netmap-text` (The start): No text makes the NETMAP reader fail other than by an error.
        #[test]
        fn no_text_panics(text in "[0-9:/@#*. \t\r\na\u{fc}-]{0,80}") {
            match Netmap::parse(text.as_bytes(), Path::new("NETMAP")) {
                Ok(netmap) => {
                    prop_assert!(netmap.lines.iter().all(|s| !s.ends.is_empty()));
                    prop_assert_eq!(read(&netmap.to_string()).to_string(), netmap.to_string());
                }
                Err(Error::Faults(faults)) => {
                    let lines: Vec<u32> = faults.faults.iter().map(|f| f.line).collect();
                    prop_assert!(!lines.is_empty() && faults.faults.iter().all(|f| f.column >= 1));
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
