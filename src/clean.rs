//! `iou-fast clean`: removes what a crash left.

use crate::control::labs;
use crate::nic::{left, lock};
use crate::{lab, output};
use std::error::Error;
use std::path::PathBuf;

/// Options of `iou-fast clean`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Where locks and the NICs' former settings are kept, if the killed iou-fast had this option
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

const EXAMPLES: &str = "\
The kernel itself takes XDP programs, AF_XDP sockets and promiscuous mode back. A start after a crash needs no clean.
What runs is left alone. Offloads are those of interfaces in the network namespace in which this runs; in another one:
  ip netns exec NAME iou-fast clean

Exit status: 0 if nothing is left, 1 if something could not be removed, 2 for a wrong command line.";

/// Removes what a crash left, and prints what that was; true if nothing is left.
///
/// # Errors
/// Where the state directory cannot be used, or through sudo is another one than root's.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    if options.state_dir.is_some() {
        labs::check_state_dir()?;
    }
    let state_dir = options.state_dir.clone().unwrap_or_else(lock::state_dir);
    let (mut removed, mut clean) = (Vec::new(), true);
    if state_dir.exists() {
        for left in left::put_back(&state_dir)? {
            match left.outcome {
                Ok(offloads) if offloads.is_empty() => {}
                Ok(offloads) => removed.push(format!("{}: {} on again", left.interface, offloads.join(", "))),
                Err(error) => {
                    output::log(&format!("iou-fast: {}: {error}\n", left.interface));
                    clean = false;
                }
            }
        }
    }
    if testbed::is_root() {
        let labs = lab::clean_up()?;
        removed.extend(labs.removed.into_iter().map(|what| format!("{what}: removed")));
        for name in labs.up {
            output::print(&format!(
                "lab {name} is up and stays: `iou-fast lab --down --name {name}` takes it down\n"
            ));
        }
    } else {
        output::print("labs need root and were not looked for\n");
    }
    if removed.is_empty() && clean {
        output::print("nothing was left\n");
    }
    removed.iter().for_each(|line| output::print(&format!("{line}\n")));
    Ok(clean)
}
