//! Pictures.
use crate::report::Report;
pub(crate) fn pictures(_report: &Report) -> Vec<(&'static str, String)> {
    Vec::new()
}
