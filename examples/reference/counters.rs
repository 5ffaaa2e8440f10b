//! `docs/counters.md`, from the definitions of drop reasons and faults.

use iou_fast::stats::{DropReason, Fault};
use std::fmt::Write;

const HEAD: &str = "\
<!-- Generated from src/stats.rs: cargo run --example reference -- counters docs/counters.md -->
# Counters

When iou-fast ends, it prints what happened:

```
to routers: 350 frames, 21900 bytes, latency p50 32.8 us, p99 99.3 us, p99.9 102.4 us, max 102.4 us
to NICs: 140 frames, 8000 bytes, latency p50 8.0 us, p99 24.7 us, p99.9 28.3 us, max 28.3 us
between routers: 0 frames, 0 bytes
dropped: none
faults: none
chunks: 9408 of 9408 accounted for
accounting: balanced
```

Bytes are those of frames, without IOU header and FCS. A latency is the time from a frame's arrival to its hand-over: to
the router's socket, or to the NIC's TX ring. `dropped` lists each reason that occurred with its number of frames.
`chunks` are the pieces of memory for frames: all of them must be found. `accounting` is `balanced` if each frame that
came in has gone out or was dropped for one of the reasons below. If it is not, that is a fault of iou-fast: please
report it.

A frame for several routers counts once for each of their interfaces.
";

/// The page.
pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    let (from, to): (Vec<DropReason>, Vec<DropReason>) =
        DropReason::ALL.iter().partition(|reason| reason.is_from_router());
    let mut section = |title: &str, entries: Vec<(&str, &str)>| {
        let _ = write!(page, "\n## {title}\n");
        for (name, meaning) in entries {
            let _ = write!(page, "\n### `{name}`\n\n");
            for line in meaning.lines() {
                let _ = writeln!(page, "{}", line.trim());
            }
        }
    };
    let entry = |reason: &DropReason| (reason.text(), reason.meaning());
    section("Dropped on the way to a router", to.iter().map(entry).collect());
    section("Dropped on the way from a router", from.iter().map(entry).collect());
    let faults = Fault::ALL.iter().map(|fault| (fault.text(), fault.meaning()));
    section("Faults, which should not occur", faults.collect());
    page
}
