//! The documented texts of events, for the tests that meet them.

use tonic::Status;

/// Those rows of `docs/events.md` that are not there and should be: what was met in a situation of the call `call`.
pub(super) fn undocumented(call: &str, met: &[(&str, Status)]) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md")).unwrap();
    let row = |(situation, status): &(&str, Status)| {
        format!("| {situation} | {call} | {:?} | {} |", status.code(), status.message())
    };
    let rows = met.iter().map(row).filter(|row| !page.lines().any(|line| line == row));
    rows.collect::<Vec<_>>().join("\n")
}
