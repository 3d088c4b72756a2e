//! The TCP segments that a network namespace has sent again.

use std::fs;

use heddle_lab::{LabError, NetNs};

use crate::BenchError;

/// Returns the number since the namespace was made (`RetransSegs` of RFC 4022, in `/proc/net/snmp`).
///
/// # Errors
/// The file cannot be read, or has no such counter.
pub fn read(ns: &NetNs) -> Result<u64, BenchError> {
    let path = "/proc/thread-self/net/snmp";
    let text = ns.enter(|| fs::read_to_string(path).map_err(LabError::io(format!("reading {path}"))))?;
    parse(&text).ok_or_else(|| BenchError::Unexpected {
        what: path.to_owned(),
        expected: "a line with RetransSegs".to_owned(),
        got: text,
    })
}

/// Finds the counter: a line with the names of TCP's counters is before the line with the numbers.
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let at = lines.next()?.split(' ').position(|name| name == "RetransSegs")?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_by_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin OutSegs RetransSegs InErrs\nTcp: 200 -1 7 0\nUdp: A\nUdp: 1\n";
        assert_eq!(parse(text), Some(7));
        assert_eq!(parse("Tcp: RtoMin\nTcp: 200\n"), None);
    }
}
