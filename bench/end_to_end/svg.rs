//! The pictures: ratios beside their targets, round trips, scaling. Plain SVG, as it is written here.

use crate::report::{Report, Row, number};
use std::fmt::Write;

const OURS: &str = "#2f6fb0";
const THEIRS: &str = "#b8b8b8";
const MET: &str = "#2e8b57";
const MISSED: &str = "#c0392b";
const INK: &str = "#222";
/// Width of a picture, and of the words at its left.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 420.0;
/// Height of a line.
const LINE: f64 = 24.0;
/// Where a picture's lines begin.
const TOP: f64 = 64.0;

/// File names and contents.
pub(crate) fn pictures(report: &Report) -> Vec<(&'static str, String)> {
    let starting =
        |text: &'static str| report.rows.iter().filter(move |row| row.case.starts_with(text)).collect();
    vec![
        ("targets.svg", targets(report)),
        ("round_trips.svg", pairs(report, "Round trips (shorter is better)", starting("round trip"))),
        ("routers.svg", pairs(report, "With more routers (longer is better)", starting("routers: "))),
    ]
}

/// Every target: how far the measured value is from it, with the range of the runs. The line in the middle is the target.
fn targets(report: &Report) -> String {
    /// What fits to the right of the line: twice the target.
    const SCALE: f64 = 2.0;
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.met().is_some()).collect();
    let title =
        "Measured, as a share of the target (the dashed line). With >= longer is better, with <= shorter";
    let mut picture = Picture::new(report, title, rows.len());
    let wide = WIDTH - LEFT - 180.0;
    for (n, row) in rows.iter().enumerate() {
        let (value, limit) = (row.judged.median(), row.target.limit().unwrap_or(1.0));
        let share = |value: f64| {
            let share = if limit == 0.0 { f64::from(u8::from(value > 0.0)) * SCALE } else { value / limit };
            share.min(SCALE) / SCALE * wide
        };
        let (low, high) = row.judged.range();
        let colour = if row.met() == Some(true) { MET } else { MISSED };
        let against = row.against.as_ref().map_or(String::new(), |(name, _)| format!(" / {name}"));
        picture.label(n, &format!("{}: {}{against}", row.case, row.quantity));
        picture.bar(n, 0.2, 0.6, share(value), colour);
        picture.range(n, share(low), share(high));
        let runs = if low < high { format!(", {}-{}", number(low), number(high)) } else { String::new() };
        let text = format!("{}{runs} ({})", number(value), row.target);
        picture.text(n, LEFT + share(high).max(share(value)) + 6.0, &text);
    }
    let (x, bottom) = (LEFT + wide / SCALE, TOP + rows.len() as f64 * LINE);
    let _ = writeln!(
        picture.body,
        r#"<line x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}" stroke="{INK}" stroke-dasharray="4 3"/>"#
    );
    picture.finish()
}

/// For each row two bars: ours, and what it is compared with.
fn pairs(report: &Report, title: &str, rows: Vec<&Row>) -> String {
    let mut picture = Picture::new(report, title, 2 * rows.len());
    for (n, row) in rows.iter().enumerate() {
        let Some((name, theirs)) = &row.against else { continue };
        // Rows of one unit share a scale.
        let alike = rows.iter().filter(|other| other.unit == row.unit && other.quantity == row.quantity);
        let values = alike.flat_map(|row| {
            let theirs = row.against.as_ref().map_or(0.0, |(_, theirs)| theirs.median());
            [row.ours.median(), theirs]
        });
        let most = values.fold(f64::MIN_POSITIVE, f64::max);
        picture.label(2 * n, &format!("{}: {}", row.case, row.quantity));
        let bars = [("iou-fast", &row.ours, OURS), (name.as_str(), theirs, THEIRS)];
        for (line, (name, samples, colour)) in bars.into_iter().enumerate() {
            let length = samples.median() / most * (WIDTH - LEFT - 170.0);
            picture.bar(2 * n + line, 0.1, 0.8, length, colour);
            let text = format!("{} {} {name}", number(samples.median()), row.unit);
            picture.text(2 * n + line, LEFT + length + 6.0, &text);
        }
    }
    picture.finish()
}

struct Picture {
    body: String,
    height: f64,
}

impl Picture {
    fn new(report: &Report, title: &str, lines: usize) -> Self {
        let mut body = String::new();
        let _ = writeln!(body, r#"<text x="16" y="26" font-size="17">{}</text>"#, escape(title));
        let _ = writeln!(body, r#"<text x="16" y="46" font-size="11">{}</text>"#, escape(&report.title()));
        Self { body, height: TOP + lines as f64 * LINE + 16.0 }
    }

    fn label(&mut self, line: usize, text: &str) {
        let (x, y) = (LEFT - 10.0, base(line));
        let _ = writeln!(self.body, r#"<text x="{x}" y="{y}" text-anchor="end">{}</text>"#, escape(text));
    }

    fn text(&mut self, line: usize, x: f64, text: &str) {
        let _ = writeln!(self.body, r#"<text x="{x:.1}" y="{}">{}</text>"#, base(line), escape(text));
    }

    /// A bar from `from` to `from + share` of the line's height.
    fn bar(&mut self, line: usize, from: f64, share: f64, length: f64, colour: &str) {
        let (y, height) = (TOP + (line as f64 + from) * LINE, share * LINE);
        let length = if length.is_finite() { length.max(0.0) } else { 0.0 };
        let _ = writeln!(
            self.body,
            r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{height:.1}" fill="{colour}"/>"#
        );
    }

    /// A thin line from the smallest to the largest, through the middle of a bar.
    fn range(&mut self, line: usize, low: f64, high: f64) {
        let (y, from, to) = (TOP + (line as f64 + 0.5) * LINE, LEFT + low, LEFT + high);
        let _ = writeln!(
            self.body,
            r#"<line x1="{from:.1}" y1="{y:.1}" x2="{to:.1}" y2="{y:.1}" stroke="{INK}" stroke-width="2"/>"#
        );
    }

    fn finish(self) -> String {
        let Self { body, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"{INK}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

/// Where a line's text stands.
fn base(line: usize) -> f64 {
    TOP + (line as f64 + 0.68) * LINE
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
