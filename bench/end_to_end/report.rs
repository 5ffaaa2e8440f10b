//! The table, and the same as JSON.

use crate::bed::Machine;
use crate::measure::Samples;
use serde::Serialize;
use std::fmt::{self, Write};

/// A target.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// None: for information.
    Open,
}

impl Target {
    /// Whether `value` meets it; `None` if there is nothing to meet.
    pub(crate) fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::Open => None,
        }
    }

    /// The number in it.
    pub(crate) fn limit(self) -> Option<f64> {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => Some(limit),
            Self::Open => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => f.pad(&format!("<= {}", number(*limit))),
            Self::AtLeast(limit) => f.pad(&format!(">= {}", number(*limit))),
            Self::Open => f.pad(""),
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) case: String,
    /// What was measured.
    pub(crate) quantity: String,
    /// In what.
    pub(crate) unit: &'static str,
    /// What `iou-fast` had, a number a run.
    pub(crate) ours: Samples,
    /// Whom it is compared with, and what that one had.
    pub(crate) against: Option<(String, Samples)>,
    /// What must meet the target: the ratio, or the number itself if there is nothing to compare with.
    pub(crate) judged: Samples,
    /// The target.
    pub(crate) target: Target,
}

impl Row {
    /// A comparison run by run.
    pub(crate) fn ratio(
        case: &str,
        quantity: &str,
        unit: &'static str,
        ours: Samples,
        (name, theirs): (&str, Samples),
        target: Target,
    ) -> Self {
        let judged = ours.by(&theirs);
        let against = Some((name.to_owned(), theirs));
        Self { case: case.to_owned(), quantity: quantity.to_owned(), unit, ours, against, judged, target }
    }

    /// A number on its own.
    pub(crate) fn value(
        case: &str,
        quantity: &str,
        unit: &'static str,
        ours: Samples,
        target: Target,
    ) -> Self {
        let judged = ours.clone();
        let (case, quantity) = (case.to_owned(), quantity.to_owned());
        Self { case, quantity, unit, ours, against: None, judged, target }
    }

    /// Whether the target is met.
    pub(crate) fn met(&self) -> Option<bool> {
        self.target.met(self.judged.median())
    }
}

/// Everything there is to say of a run of the bench.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// On what.
    pub(crate) machine: Machine,
    /// How: `full` or `quick`, and what the NIC gave.
    pub(crate) mode: String,
    /// The table.
    pub(crate) rows: Vec<Row>,
    /// What else is worth saying.
    pub(crate) notes: Vec<String>,
    /// What the forwarder itself counted as faults, over all runs.
    pub(crate) faults: std::collections::BTreeMap<String, u64>,
    /// Cases that could not be measured, and why.
    pub(crate) failed: Vec<String>,
}

/// Widths of the table's columns.
const WIDTHS: [usize; 8] = [29, 24, 8, 8, 7, 6, 15, 8];

impl Report {
    /// The line above the table.
    pub(crate) fn title(&self) -> String {
        let Machine { cpu, cpus, kernel, load, date } = &self.machine;
        format!("{cpus} x {cpu}, Linux {kernel}, {}, load {load}, {date}", self.mode)
    }

    /// The names of the columns.
    pub(crate) fn head() -> String {
        line(["case", "quantity", "iou-fast", "against", "", "ratio", "(range)", "target"], "")
    }

    /// A line of the table.
    pub(crate) fn row(row: &Row) -> String {
        let (low, high) = row.judged.range();
        let range = if row.judged.0.len() > 1 {
            format!("({}-{})", number(low), number(high))
        } else {
            String::new()
        };
        let (name, theirs) = row
            .against
            .as_ref()
            .map_or((String::new(), String::new()), |(name, theirs)| (name.clone(), number(theirs.median())));
        let ratio = if row.against.is_some() { number(row.judged.median()) } else { String::new() };
        let verdict = match row.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let unit = if row.unit.is_empty() { String::new() } else { format!(", {}", row.unit) };
        let quantity = format!("{}{unit}", row.quantity);
        let (ours, target) = (number(row.ours.median()), row.target.to_string());
        line([&row.case, &quantity, &ours, &theirs, &name, &ratio, &range, &target], verdict)
    }

    /// What is to be said below the table.
    pub(crate) fn foot(&self) -> String {
        let mut text = String::new();
        let judged = self.rows.iter().filter_map(Row::met);
        let (met, all) = judged.fold((0, 0), |(met, all), this| (met + usize::from(this), all + 1));
        let _ = writeln!(text, "{met} of {all} targets met");
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        if self.faults.is_empty() {
            let _ = writeln!(text, "the forwarder counted no fault");
        }
        for (fault, count) in &self.faults {
            let _ = writeln!(text, "the forwarder counted a fault: {fault} {count}");
        }
        for failure in &self.failed {
            let _ = writeln!(text, "NOT MEASURED: {failure}");
        }
        text
    }
}

fn line(columns: [&str; 8], verdict: &str) -> String {
    let mut text = String::new();
    for (n, (column, width)) in columns.iter().zip(WIDTHS).enumerate() {
        // Numbers to the right, words to the left.
        let _ = match n {
            2 | 3 | 5 => write!(text, "{column:>width$}  "),
            _ => write!(text, "{column:<width$}  "),
        };
    }
    format!("{text}{verdict}").trim_end().to_owned()
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        x if !x.is_finite() => "-".to_owned(),
        x if x >= 100.0 || x == 0.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        x if x >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
