//! The one table that a lab ends with.

use super::ping::Echo;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// What came out of a lab.
pub(super) struct Report<'a> {
    /// Routers, and after them the host: addresses and whether they answered, IPv4 and IPv6.
    pub(super) reached: [Vec<(IpAddr, bool)>; 2],
    /// All requests of the rounds to routers, by family.
    pub(super) echoes: [Vec<&'a Echo>; 2],
    pub(super) duplicates: u64,
    /// Frames that the wire sent and received, as its own interface counts.
    pub(super) frames: [u64; 2],
    /// What the forwarder says of drops when it ends; `None` while it runs on.
    pub(super) drops: Option<String>,
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
}

impl Report<'_> {
    /// True if all routers and the host answered over both families.
    pub(super) fn all_reached(&self) -> bool {
        self.reached.iter().flatten().all(|(_, answered)| *answered)
    }

    /// The table, and under it who did not answer.
    pub(super) fn text(&self) -> String {
        let families = |f: &dyn Fn(usize) -> String| vec![f(0), f(1)];
        let times = [0, 1].map(|family| {
            let mut times: Vec<_> = self.echoes[family].iter().filter_map(|echo| echo.rtt).collect();
            times.sort_unstable();
            times
        });
        let share = |per_mille| families(&|f| quantile(&times[f], per_mille).map_or("-".into(), millis));
        let lost = |f: usize| self.echoes[f].len() - times[f].len();
        let cpu = 100.0 * self.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-3);
        let mut text = table(&[
            ("", vec!["IPv4".into(), "IPv6".into()]),
            ("Routers reached", families(&|f| self.routers(f))),
            ("Host reached", families(&|f| if self.host(f) { "yes" } else { "NO" }.into())),
            ("RTT p50", share(500)),
            ("RTT p90", share(900)),
            ("RTT p99", share(990)),
            ("RTT max", share(1000)),
            ("Echoes lost", families(&|f| format!("{} of {}", lost(f), self.echoes[f].len()))),
            ("Duplicates", vec![self.duplicates.to_string()]),
            ("Frames", vec![format!("{} from the wire, {} to it", self.frames[0], self.frames[1])]),
            ("Drops", vec![self.drops.clone().unwrap_or("told when the lab is taken down".into())]),
            ("Forwarder CPU", vec![format!("{cpu:.1} % of a core over {:.1} s", self.elapsed.as_secs_f64())]),
        ]);
        let silent: Vec<_> = self
            .reached
            .iter()
            .flatten()
            .filter(|(_, answered)| !answered)
            .map(|(a, _)| a.to_string())
            .collect();
        if !silent.is_empty() {
            let more =
                if silent.len() > 20 { format!(" and {} more", silent.len() - 20) } else { String::new() };
            let _ = writeln!(text, "No answer from {}{more}", silent[..silent.len().min(20)].join(", "));
        }
        text
    }

    fn routers(&self, family: usize) -> String {
        let routers = self.reached[family].split_last().map_or(&[][..], |(_, routers)| routers);
        format!("{} of {}", routers.iter().filter(|(_, answered)| *answered).count(), routers.len())
    }

    fn host(&self, family: usize) -> bool {
        self.reached[family].last().is_some_and(|(_, answered)| *answered)
    }
}

/// The smallest time that `per_mille` of the sorted times do not exceed.
fn quantile(times: &[Duration], per_mille: usize) -> Option<Duration> {
    let rank = (times.len() * per_mille).div_ceil(1000).max(1);
    times.get(rank - 1).copied()
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// Rows under one another: a label and cells, columns as wide as needed. A row's single cell may run on to the right.
fn table(rows: &[(&str, Vec<String>)]) -> String {
    let label = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let first =
        rows.iter().filter(|(_, cells)| cells.len() > 1).map(|(_, cells)| cells[0].len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, cells)| {
        let line = match &cells[..] {
            [one] => format!("{name:label$}   {one}"),
            cells => format!("{name:label$}   {:first$}   {}", cells[0], cells[1]),
        };
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

/// What a forwarder's summary says of drops: the lines with that word, without the word where they begin with it.
pub(super) fn drops(summary: &str) -> String {
    let lines: Vec<_> = summary
        .lines()
        .filter(|line| line.to_lowercase().contains("drop"))
        .map(|line| {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            let rest = line.to_lowercase().strip_prefix("drop").map(|rest| {
                let word = rest.len() - rest.trim_start_matches(|c: char| c.is_alphabetic()).len();
                line["drop".len() + word..].trim_start_matches([':', ' ']).to_owned()
            });
            rest.unwrap_or(line)
        })
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() { "none reported".into() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ("", vec!["IPv4".into(), "IPv6".into()]),
            ("Routers reached", vec!["50 of 50".into(), "49 of 50".into()]),
            ("Frames", vec!["7 from the wire, 8 to it".into()]),
        ];
        let expected = "                  IPv4       IPv6\n\
                        Routers reached   50 of 50   49 of 50\n\
                        Frames            7 from the wire, 8 to it\n";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn quantiles_of_few_and_many() {
        let ms = |n: &[u64]| n.iter().map(|n| Duration::from_millis(*n)).collect::<Vec<_>>();
        assert_eq!(quantile(&[], 500), None);
        assert_eq!(quantile(&ms(&[7]), 0), Some(Duration::from_millis(7)));
        assert_eq!(quantile(&ms(&[7]), 1000), Some(Duration::from_millis(7)));
        let hundred = ms(&(1..=100).collect::<Vec<_>>());
        assert_eq!(quantile(&hundred, 500), Some(Duration::from_millis(50)));
        assert_eq!(quantile(&hundred, 990), Some(Duration::from_millis(99)));
        assert_eq!(quantile(&hundred, 1000), Some(Duration::from_millis(100)));
    }

    #[test]
    fn drops_are_found_in_a_summary() {
        assert_eq!(drops("towards routers 12\nlatency 3 us\n"), "none reported");
        assert_eq!(drops("frames 12\nDropped: 3   (full queue 3)\n"), "3 (full queue 3)");
        assert_eq!(drops("drops\n  wrong source dropped 4\ndrops: 0\n"), "wrong source dropped 4; 0");
    }

    fn report(answered: [bool; 4]) -> Report<'static> {
        let [r4, h4, r6, h6] = answered;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        Report {
            reached: [
                vec![(address("10.10.0.2"), r4), (address("10.10.255.1"), h4)],
                vec![(address("fd00:10::1"), r6), (address("fd00:10::ffff"), h6)],
            ],
            echoes: [Vec::new(), Vec::new()],
            duplicates: 0,
            frames: [10, 9],
            drops: Some("0".into()),
            cpu: Duration::from_millis(50),
            elapsed: Duration::from_secs(2),
        }
    }

    #[test]
    fn all_must_answer_over_both_families() {
        let good = report([true; 4]);
        assert!(good.all_reached());
        let text = good.text();
        assert!(text.contains("1 of 1") && text.contains("2.5 % of a core over 2.0 s"), "{text}");
        assert!(!text.contains("No answer"), "{text}");
        for missing in 0..4 {
            let mut answered = [true; 4];
            answered[missing] = false;
            let bad = report(answered);
            assert!(!bad.all_reached());
            let address = ["10.10.0.2", "10.10.255.1", "fd00:10::1", "fd00:10::ffff"][missing];
            assert!(bad.text().contains(&format!("No answer from {address}\n")), "{}", bad.text());
        }
    }
}
