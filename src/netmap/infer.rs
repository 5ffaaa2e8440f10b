//! Which instance ids of a NETMAP are pseudo ids: ids that stand for a forwarder and not for a router.
//!
//! Either the user says it with `-p` ([`PseudoIds`]), or it is inferred ([`infer`]). The rule is narrow, because an
//! id that is bound or locked wrongly is a router that cannot start. An id is inferred only if its lock is free,
//! nothing answers at its socket, and either
//!
//! - it is above 512, no line of it has `@host`, and on every one of its lines all other ids are 512 or below, or
//! - it stands only on the right (as the last endpoint) of lines with `@host`, while other lines of the file have none.
//!
//! For the second, as iou2net requires it, every endpoint of the line has to name one and the same host: with two
//! hosts the line is a link to a router on another machine.

use super::{Netmap, ranges};
use crate::iou::InstanceId;
pub use crate::iou::netio::IdState;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Ids above this one are used for forwarders by GNS3 and EVE-NG (application id + 512) and containerlab (513).
const LAST_ROUTER_ID: u16 = 512;

/// What inference came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inferred {
    /// The pseudo ids, ascending, at least one.
    pub ids: Vec<InstanceId>,
    /// Ids that the file shows to be pseudo ids too, but are in use, ascending.
    pub in_use: Vec<(InstanceId, Why)>,
}

/// Why an id is not taken for a pseudo id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// 512 or below, and no line with `@host`.
    Low,
    /// Above 512, on a line with no other endpoint.
    Alone,
    /// Above 512, on a line with another such id.
    FacesHigh,
    /// `@host` stands on every line of the file.
    HostEverywhere,
    /// On lines with and without `@host`.
    HostSometimes,
    /// Not the last endpoint of a line with `@host`.
    NotOnTheRight,
    /// A line of it does not name one and the same host for all its endpoints.
    HostsDiffer,
    /// Its lock is held or its socket answers, or that cannot be told.
    InUse(IdState),
}

/// Why there are no pseudo ids.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Nothing in the file shows which ids are pseudo ids, or those are in use.
    #[error(
        "{}: no pseudo instance id can be inferred, for these ids may be those of routers:{}\n{}",
        file.display(), listed(ids), advice(suggested, example)
    )]
    Nothing {
        /// The NETMAP.
        file: PathBuf,
        /// All of its ids, ascending.
        ids: Vec<(InstanceId, Why)>,
        /// The ids that `-p` most likely has to name: those on the right of lines with `@host`.
        suggested: Vec<InstanceId>,
        /// Without those, an id to show the form of the option with.
        example: Option<InstanceId>,
    },
    /// The file has no endpoints.
    #[error("{}: the NETMAP is empty: write a line for each link, for example 1:0/0 513:0/0", .0.display())]
    Empty(PathBuf),
    /// What `-p` was given is no list of ids.
    #[error("-p \"{text}\": {problem}; write ids from 1 to 1024, for example 20 or 20,21 or 513-562")]
    List {
        /// The faulty part.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `-p` names ids that the file does not have.
    #[error("-p {}: {} has no such instance id; it has {}", ranges(absent), file.display(), ranges(present))]
    Absent {
        /// The NETMAP.
        file: PathBuf,
        /// The ids it lacks, ascending.
        absent: Vec<InstanceId>,
        /// The ids it has, ascending.
        present: Vec<InstanceId>,
    },
}

impl Error {
    /// Ids that would be pseudo ids if they were not in use.
    #[must_use]
    pub fn in_use(&self) -> Vec<InstanceId> {
        let Self::Nothing { ids, .. } = self else { return Vec::new() };
        ids.iter().filter(|(_, why)| matches!(why, Why::InUse(_))).map(|(id, _)| *id).collect()
    }
}

/// The ids that `-p` names, ascending, each once, at least one: `20`, `20,21`, `513-562`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PseudoIds(pub Vec<InstanceId>);

impl PseudoIds {
    /// Checks that each of the ids occurs in `netmap`, which was read from `file`.
    ///
    /// # Errors
    /// [`Error::Absent`] with those that do not and those that do.
    pub fn check(&self, netmap: &Netmap, file: &Path) -> Result<(), Error> {
        let present = netmap.ids();
        let absent: Vec<_> = self.0.iter().copied().filter(|id| !present.contains(id)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        Err(Error::Absent { file: file.to_owned(), absent, present: present.into_iter().collect() })
    }
}

impl FromStr for PseudoIds {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self, Error> {
        let mut ids = BTreeSet::new();
        for part in list.split(',') {
            let part = part.trim();
            let fail = |problem| Error::List { text: part.escape_debug().to_string(), problem };
            let id = |text: &str| {
                let text = text.trim();
                if text.is_empty() {
                    return Err(fail("an id is missing"));
                }
                if !text.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(fail("this is not a number"));
                }
                text.parse().ok().and_then(InstanceId::new).ok_or_else(|| fail("this id does not exist"))
            };
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (id(first)?, id(last)?),
                None => (id(part)?, id(part)?),
            };
            if first > last {
                return Err(fail("the first id is above the last"));
            }
            ids.extend((first.get()..=last.get()).filter_map(InstanceId::new));
        }
        Ok(Self(ids.into_iter().collect()))
    }
}

impl fmt::Display for PseudoIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ranges(&self.0))
    }
}

/// Infers the pseudo ids of `netmap`, which was read from `file`.
///
/// `probe` is asked about the ids that the file shows to be pseudo ids, once each, and about no other.
///
/// # Errors
/// [`Error::Nothing`] if there are none, [`Error::Empty`] if there are no ids at all.
pub fn infer(
    netmap: &Netmap,
    file: &Path,
    mut probe: impl FnMut(InstanceId) -> IdState,
) -> Result<Inferred, Error> {
    let mut lines: BTreeMap<InstanceId, Lines> = BTreeMap::new();
    let mut host_everywhere = true;
    for entry in &netmap.lines {
        let ends = &entry.ends;
        let host = ends.iter().any(|e| e.host.is_some());
        let high = ends.iter().filter(|e| is_high(e.endpoint.id)).count();
        host_everywhere &= host;
        for (i, end) in ends.iter().enumerate() {
            let id = end.endpoint.id;
            let of_id = lines.entry(id).or_default();
            of_id.host |= host;
            of_id.no_host |= !host;
            of_id.hosts_differ |= !entry.hosts_agree();
            of_id.alone |= ends.len() == 1;
            of_id.faces_high |= high > usize::from(is_high(id));
            of_id.not_right |= i + 1 < ends.len();
        }
    }

    let mut ids = Vec::new();
    let mut others = Vec::new();
    for (&id, of_id) in &lines {
        let why = match of_id.why_not(id, host_everywhere) {
            Some(why) => why,
            None => match probe(id) {
                IdState::Free => {
                    ids.push(id);
                    continue;
                }
                state => Why::InUse(state),
            },
        };
        others.push((id, why));
    }

    if !ids.is_empty() {
        others.retain(|(_, why)| matches!(why, Why::InUse(_)));
        return Ok(Inferred { ids, in_use: others });
    }
    if others.is_empty() {
        return Err(Error::Empty(file.to_owned()));
    }
    let unused = |id: &InstanceId| !others.iter().any(|(o, why)| o == id && matches!(why, Why::InUse(_)));
    let right = lines.iter().filter(|(_, l)| l.host && !l.no_host && !l.hosts_differ && !l.not_right);
    let suggested = right.map(|(id, _)| *id).filter(unused).collect();
    let rightmost = netmap.lines.iter().filter_map(|s| s.ends.last()).map(|e| e.endpoint.id).find(unused);
    Err(Error::Nothing { file: file.to_owned(), ids: others, suggested, example: rightmost })
}

/// What the lines of one id have.
#[derive(Default)]
struct Lines {
    host: bool,
    no_host: bool,
    hosts_differ: bool,
    alone: bool,
    faces_high: bool,
    not_right: bool,
}

impl Lines {
    /// What the file says against `id` as a pseudo id.
    fn why_not(&self, id: InstanceId, host_everywhere: bool) -> Option<Why> {
        if self.host {
            return match self {
                _ if host_everywhere => Some(Why::HostEverywhere),
                Self { no_host: true, .. } => Some(Why::HostSometimes),
                Self { hosts_differ: true, .. } => Some(Why::HostsDiffer),
                Self { not_right: true, .. } => Some(Why::NotOnTheRight),
                Self { alone: true, .. } => Some(Why::Alone),
                _ => None,
            };
        }
        match self {
            _ if !is_high(id) => Some(Why::Low),
            Self { faces_high: true, .. } => Some(Why::FacesHigh),
            Self { alone: true, .. } => Some(Why::Alone),
            _ => None,
        }
    }
}

fn is_high(id: InstanceId) -> bool {
    id.get() > LAST_ROUTER_ID
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "512 or below, and no @host on its lines",
            Self::Alone => "a line of it has no other endpoint",
            Self::FacesHigh => "on a line with another id above 512",
            Self::HostEverywhere => "every line of the file has @host",
            Self::HostSometimes => "some of its lines have @host and some have not",
            Self::NotOnTheRight => "not on the right of each of its lines with @host",
            Self::HostsDiffer => "the endpoints of a line of it do not all have the same @host",
            Self::InUse(state) => return state.fmt(f),
        })
    }
}

/// All ids, those with the same reason on one line.
fn listed(ids: &[(InstanceId, Why)]) -> String {
    let mut by_why: BTreeMap<&Why, Vec<InstanceId>> = BTreeMap::new();
    for (id, why) in ids {
        by_why.entry(why).or_default().push(*id);
    }
    let mut groups: Vec<_> = by_why.into_iter().collect();
    groups.sort_by_key(|(_, ids)| ids[0]);
    groups.iter().map(|(why, ids)| format!("\n  {}: {why}", ranges(ids))).collect()
}

fn advice(suggested: &[InstanceId], example: &Option<InstanceId>) -> String {
    match (suggested, example) {
        ([_, ..], _) => format!("say which are pseudo ids with -p, most likely -p {}", ranges(suggested)),
        ([], Some(id)) => format!("say which are pseudo ids with -p, for example -p {id} if {id} is one"),
        ([], None) => "end the process that uses the pseudo id".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iou::lock::Holder;

    fn id(n: u16) -> InstanceId {
        InstanceId::new(n).unwrap()
    }

    fn netmap(text: &str) -> Netmap {
        Netmap::parse(text.as_bytes(), Path::new("NETMAP")).unwrap()
    }

    fn numbers(ids: &[InstanceId]) -> Vec<u16> {
        ids.iter().map(|id| id.get()).collect()
    }

    /// The ids inferred where no id is in use.
    fn inferred(text: &str) -> Vec<u16> {
        match infer(&netmap(text), Path::new("NETMAP"), |_| IdState::Free) {
            Ok(inferred) => {
                assert_eq!(inferred.in_use, []);
                numbers(&inferred.ids)
            }
            Err(Error::Nothing { .. }) => Vec::new(),
            Err(other) => panic!("{other}"),
        }
    }

    fn refusal(text: &str, probe: impl FnMut(InstanceId) -> IdState) -> String {
        infer(&netmap(text), Path::new("NETMAP"), probe).unwrap_err().to_string()
    }

    fn locked() -> IdState {
        IdState::Locked(Holder { pid: Some(77), command: Some("iou-fast".to_owned()) })
    }

    /// The files people wrote, with the reading their README gives.
    #[test]
    fn files_from_the_wild() {
        let read = |name: &str| Netmap::read(&Path::new("tests/netmaps").join(name));
        let infer = |name: &str| {
            let file = Path::new("tests/netmaps").join(name);
            infer(&read(name).unwrap(), &file, |_| IdState::Free)
        };
        assert_eq!(numbers(&infer("article-1").unwrap().ids), [20]);
        assert_eq!(numbers(&infer("docker-iou").unwrap().ids), [513]);
        assert_eq!(numbers(&infer("iouyap").unwrap().ids), [1024]);

        for (name, all, advice) in [
            ("article-2", "10-11,20-22: every line", "most likely -p 20-22"),
            ("ioulive86", "100,199-203,777: every line", "most likely -p 199-203"),
            ("nbar", "100,150: 512 or below", "for example -p 150 if 150 is one"),
        ] {
            let said = infer(name).unwrap_err().to_string();
            assert!(said.starts_with(&format!("tests/netmaps/{name}: ")), "{said}");
            assert!(said.contains(all) && said.ends_with(advice), "{said}");
        }

        let said = read("cisconator-faulty").unwrap_err().to_string();
        let place = "tests/netmaps/cisconator-faulty:1:1: \"100/1@bylatmobile\"";
        assert_eq!(said, format!("{place}: an endpoint is ID:BAY/UNIT, for example 100:0/1"));

        let mut files: Vec<_> =
            std::fs::read_dir("tests/netmaps").unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        let known =
            ["README.md", "article-1", "article-2", "cisconator-faulty", "docker-iou", "ioulive86", "iouyap"];
        assert_eq!(files, [&known[..], &["nbar"]].concat(), "a new file needs its reading here");
    }

    #[test]
    fn above_512() {
        assert_eq!(inferred("1:0/0 513:0/0\n514:0/0 1:0/1\n513:0/1 2:0/0"), [513, 514]);
        assert_eq!(inferred("512:0/0 1:0/0"), [0; 0], "512 is a router");
        assert_eq!(inferred("512:0/0 513:0/0"), [513]);
        assert_eq!(inferred("600:0/0 1:0/0\n600:0/1 601:0/0"), [0; 0], "600 and 601 face each other");
        assert_eq!(inferred("600:0/0 1:0/0\n600:0/1 601:0/0\n602:0/0 1:0/1"), [602]);
        assert_eq!(inferred("600:0/0 600:0/1"), [0; 0], "a router wired to itself");
        assert_eq!(inferred("600:0/0"), [0; 0], "opposite of nothing");
        assert_eq!(inferred("600:0/0\n600:0/1 1:0/0"), [0; 0]);
        assert_eq!(inferred("1:0/0 2:0/0 513:0/0 3:0/0"), [513], "multipoint");
        assert_eq!(inferred("1:0/0 513:0/0 514:0/0"), [0; 0], "multipoint");
    }

    #[test]
    fn above_512_with_a_host() {
        assert_eq!(inferred("513:0/0 1:0/0\n513:0/1@h 1:0/1@h"), [0; 0]);
        assert_eq!(inferred("513:0/0 1:0/0@h\n2:0/0 3:0/0"), [0; 0], "the host may be on either side");
        assert_eq!(inferred("513:0/0 1:0/0\n2:0/0@h 3:0/0@h"), [3, 513], "both rules in one file");
        assert_eq!(inferred("1:0/0@h 513:0/0@h\n2:0/0 3:0/0"), [513], "by the second rule");
        assert_eq!(inferred("1:0/0@h 513:0/0@h"), [0; 0]);
    }

    #[test]
    fn right_of_a_line_with_a_host() {
        let plain = "10:0/0 11:0/0\n";
        let with = |line: &str| inferred(&format!("{plain}{line}"));
        assert_eq!(with("10:1/0@h 20:0/0@h"), [20]);
        assert_eq!(with("10:1/0@h 20:0/0@h\n11:1/0@h 21:0/0@h\n11:1/1@h 20:0/1@h"), [20, 21]);
        assert_eq!(with("10:1/0@h 20:0/0@h\n10:1/1 20:0/1"), [0; 0], "a line of it has no host");
        assert_eq!(with("10:1/0@h 20:0/0@h\n20:0/1@h 10:1/1@h"), [0; 0], "on both sides");
        assert_eq!(with("20:0/0@h 10:1/0@h"), [0; 0], "10 has a line without, 20 is on the left");
        assert_eq!(with("10:1/0@here 20:0/0@there"), [0; 0], "20 is a router on another machine");
        assert_eq!(with("10:1/0 20:0/0@there"), [0; 0]);
        assert_eq!(with("10:1/0@here 20:0/0"), [0; 0]);
        assert_eq!(with("20:0/0@h"), [0; 0]);
        assert_eq!(with("10:1/0@h 11:1/0@h 20:0/0@h"), [20], "multipoint: the last is the right");
        assert_eq!(with("10:1/0@h 20:0/0@h 11:1/0@h"), [0; 0]);
        assert_eq!(inferred("10:1/0@h 20:0/0@h"), [0; 0], "no line without a host");
    }

    #[test]
    fn only_candidates_are_probed_and_only_once() {
        let mut asked = Vec::new();
        let text = "1:0/0 513:0/0\n1:0/1 513:0/1\n2:0/0 514:0/0\n2:0/1 3:0/0\n600:0/0 601:0/0";
        let probe = |id: InstanceId| {
            asked.push(id.get());
            if id.get() == 513 { locked() } else { IdState::Free }
        };
        let inferred = infer(&netmap(text), Path::new("NETMAP"), probe).unwrap();
        assert_eq!(numbers(&inferred.ids), [514]);
        assert_eq!(inferred.in_use, [(id(513), Why::InUse(locked()))]);
        assert_eq!(asked, [513, 514]);
    }

    #[test]
    fn ids_in_use_are_never_taken() {
        let text = "1:0/0 513:0/0";
        for (state, words) in [
            (locked(), "513: its lock is held by process 77 (iou-fast)"),
            (IdState::Answers(None), "513: a program answers at its socket"),
            (IdState::Unknown("no permission".to_owned()), "513: no permission"),
        ] {
            let said = refusal(text, |_| state.clone());
            assert!(said.contains(words), "{said}");
            assert!(said.contains("1: 512 or below"), "{said}");
            assert!(!said.contains("-p 513"), "{said}");
        }
    }

    #[test]
    fn an_empty_file_says_so() {
        assert!(refusal("# nothing", |_| IdState::Free).contains("is empty"));
    }

    #[test]
    fn lists_for_the_option() {
        let list = |text: &str| text.parse::<PseudoIds>().map(|p| numbers(&p.0)).map_err(|e| e.to_string());
        assert_eq!(list("20"), Ok(vec![20]));
        assert_eq!(list("21,20"), Ok(vec![20, 21]));
        assert_eq!(list("513-562").unwrap().len(), 50);
        assert_eq!(list(" 1 - 3 , 2, 1024"), Ok(vec![1, 2, 3, 1024]));
        assert_eq!("1-3,5,2".parse::<PseudoIds>().unwrap().to_string(), "1-3,5");
        for (text, problem) in [
            ("", "-p \"\": an id is missing"),
            ("20,", "an id is missing"),
            ("20,,21", "an id is missing"),
            ("-5", "-p \"-5\": an id is missing"),
            ("20 21", "this is not a number"),
            ("20,x", "-p \"x\": this is not a number"),
            ("1-2-3", "this is not a number"),
            ("0", "this id does not exist"),
            ("1000-1025", "-p \"1000-1025\": this id does not exist"),
            ("99999999999", "this id does not exist"),
            ("30-20", "the first id is above the last"),
        ] {
            let said = list(text).unwrap_err();
            assert!(said.contains(problem) && said.contains("for example 20 or 20,21"), "{text:?}: {said}");
        }
    }

    #[test]
    fn the_option_may_name_only_ids_of_the_file() {
        let netmap = netmap("10:0/0 20:0/0\n11:0/0 21:0/0");
        let check = |list: &str| list.parse::<PseudoIds>().unwrap().check(&netmap, Path::new("NETMAP"));
        assert_eq!(check("20-21"), Ok(()));
        let said = check("20-23,30").unwrap_err().to_string();
        assert_eq!(said, "-p 22-23,30: NETMAP has no such instance id; it has 10-11,20-21");
    }
}
