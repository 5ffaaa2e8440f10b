//! Features all of whose tests measure: what they see depends on what else runs, so they run one at a time.

mod clean;
mod faults;
mod hostile_router;
mod load;
mod output;
mod restarts;
mod tcp;
