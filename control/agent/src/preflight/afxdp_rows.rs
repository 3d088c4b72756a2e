//! The rows of `heddle check` about AF_XDP, from the outcome of the scratch test.

use heddle_config::PodXdpMode;
use heddle_io::{ProbeError, XdpError};

use super::row::{Row, State};
use super::scratch::{Passed, ScratchError};

/// Converts the outcome of the scratch test to rows: XDP on veth, AF_XDP, and large TCP segments if they were tried.
pub(super) fn afxdp(outcome: Result<Passed, ScratchError>, mode: PodXdpMode) -> Vec<Row> {
    const XDP: &str = "XDP on veth";
    const XSK: &str = "AF_XDP";
    let no_xdp = |e: &dyn std::error::Error| {
        vec![
            Row::new(
                XDP,
                State::Bad,
                e.to_string(),
                "run a kernel with CONFIG_VETH and native XDP",
            ),
            Row::new(XSK, State::Bad, "not tried", ""),
        ]
    };
    // Which of the two rows a failure belongs to depends on the step that failed.
    match outcome {
        Ok(Passed {
            took,
            repeated,
            segments,
        }) => {
            let again = if repeated {
                "; an earlier test was interrupted"
            } else {
                ""
            };
            vec![
                Row::ok(XDP, "native, multi-buffer"),
                Row::ok(
                    XSK,
                    format!("a packet went there and back ({} ms{again})", took.as_millis()),
                ),
                segments_row(&segments, mode),
            ]
        }
        Err(ScratchError::Failed(ProbeError::Xdp(e @ XdpError::NoNativeXdp { .. }))) => no_xdp(&e),
        Err(ScratchError::Failed(e @ (ProbeError::Namespace(_) | ProbeError::System { .. }))) => no_xdp(&e),
        Err(ScratchError::Failed(e)) => vec![
            Row::ok(XDP, "native, multi-buffer"),
            Row::new(
                XSK,
                State::Bad,
                e.to_string(),
                "see the kernel's log (dmesg), try another kernel",
            ),
        ],
        // These errors contain the advice.
        Err(e) => vec![
            Row::new(XDP, State::Bad, "not tried", ""),
            Row::new(XSK, State::Bad, format!("not tried: {e}"), ""),
        ],
    }
}

/// Judges the outcome of the test in generic mode. Only generic mode needs large segments.
fn segments_row(outcome: &Result<(), ProbeError>, mode: PodXdpMode) -> Row {
    const WHAT: &str = "large segments";
    match (outcome, mode) {
        (Ok(()), _) => Row::ok(
            WHAT,
            "a TCP segment of 60 kB went there and back whole (XDP in generic mode)",
        ),
        (Err(e), PodXdpMode::Generic) => Row::new(
            WHAT,
            State::Bad,
            e.to_string(),
            "set podXDPMode to auto or native, or run Linux 6.9 or later",
        ),
        (Err(e), PodXdpMode::Auto | PodXdpMode::Native) => Row::new(
            WHAT,
            State::Ok,
            format!("no: {e}"),
            "pods' TCP segments are cut in the pods; Linux 6.9 or later passes them on whole",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_segments_are_needed_in_generic_mode_only() {
        let lost = || Err(ProbeError::Lost { way: "there" });
        for (mode, state) in [
            (PodXdpMode::Auto, State::Ok),
            (PodXdpMode::Native, State::Ok),
            (PodXdpMode::Generic, State::Bad),
        ] {
            let row = segments_row(&lost(), mode);
            assert_eq!(row.state, state, "{row:?}");
            assert!(row.value.contains("a packet there did not arrive"), "{row:?}");
            assert_eq!(segments_row(&Ok(()), mode).state, State::Ok);
        }
    }

    #[test]
    fn the_outcome_of_the_scratch_test_becomes_rows() {
        let passed = Passed {
            took: std::time::Duration::from_millis(85),
            repeated: true,
            segments: Ok(()),
        };
        let three = |outcome| -> [Row; 3] { afxdp(outcome, PodXdpMode::Auto).try_into().unwrap() };
        let two = |outcome| -> [Row; 2] { afxdp(outcome, PodXdpMode::Auto).try_into().unwrap() };
        let [xdp, xsk, segments] = three(Ok(passed));
        assert_eq!([xdp.state, xsk.state, segments.state], [State::Ok; 3]);
        assert!(
            xsk.value.contains("85 ms; an earlier test was interrupted"),
            "{}",
            xsk.value
        );
        let [_, xsk] = two(Err(ProbeError::Lost { way: "there" }.into()));
        assert!(xsk.state == State::Bad && xsk.value.contains("there"), "{}", xsk.value);
        let old = XdpError::KernelTooOld {
            release: "5.4".to_owned(),
        };
        let [xdp, xsk] = two(Err(ScratchError::Unfit(old)));
        assert_eq!((xdp.state, xsk.state), (State::Bad, State::Bad));
        assert!(xsk.value.starts_with("not tried: kernel 5.4"), "{}", xsk.value);
    }
}
