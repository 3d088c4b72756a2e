//! A table of sources and destinations. Each cell has the source address that the server saw.

use std::collections::BTreeSet;
use std::net::IpAddr;

use comfy_table::{Table, presets};
use heddle_lab::traffic::ProbeOutcome;

/// A table of sources and destinations.
pub(super) struct Matrix {
    table: Table,
    as_expected: bool,
}

/// The result of one source and one destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    as_expected: bool,
}

/// A server's name, and the source address that it should see.
pub(super) struct Sight<'a> {
    pub(super) server: &'a str,
    pub(super) source: IpAddr,
}

impl Sight<'_> {
    /// Returns the answer of a server that sees this address.
    fn answer(&self) -> String {
        format!("{} {}", self.server, self.source)
    }

    /// Returns true if this server answered, with whatever address.
    pub(super) fn is_of_server(&self, outcome: &ProbeOutcome) -> bool {
        matches!(outcome, ProbeOutcome::Answered(text) if text.split(' ').next() == Some(self.server))
    }
}

impl Cell {
    /// Returns the cell of a destination that is not tried.
    pub(super) fn untried() -> Self {
        Self {
            text: "-".to_owned(),
            as_expected: true,
        }
    }

    /// Returns the cell of a connection to one server.
    pub(super) fn new(outcome: &ProbeOutcome, expected: &Sight<'_>) -> Self {
        Self::of_all(&BTreeSet::from([outcome]), expected)
    }

    /// Returns the cells of connections to a Service, one for each backend. Each backend must have answered at least once. An
    /// outcome that is no backend's answer stands in every cell.
    pub(super) fn of_backends(outcomes: &[ProbeOutcome], backends: &[Sight<'_>]) -> Vec<Self> {
        let cell = |backend: &Sight<'_>| {
            let of_others = |outcome: &ProbeOutcome| {
                backends
                    .iter()
                    .any(|other| other.server != backend.server && other.is_of_server(outcome))
            };
            let own = outcomes.iter().filter(|outcome| !of_others(outcome)).collect();
            Self::of_all(&own, backend)
        };
        backends.iter().map(cell).collect()
    }

    /// Returns the cell of connections that all should have the same outcome.
    fn of_all(outcomes: &BTreeSet<&ProbeOutcome>, expected: &Sight<'_>) -> Self {
        let wanted = ProbeOutcome::Answered(expected.answer());
        if *outcomes == BTreeSet::from([&wanted]) {
            return Self {
                text: expected.source.to_string(),
                as_expected: true,
            };
        }
        let seen: Vec<String> = outcomes.iter().map(|outcome| outcome.to_string()).collect();
        let seen = if seen.is_empty() {
            "never chosen".to_owned()
        } else {
            seen.join(", ")
        };
        Self {
            text: format!("NO: {seen}; expected {}", expected.answer()),
            as_expected: false,
        }
    }
}

impl Matrix {
    /// Makes a table with these destinations: a name and an address each.
    pub(super) fn new(destinations: impl IntoIterator<Item = (String, IpAddr)>) -> Self {
        let mut table = Table::new();
        let columns = destinations.into_iter().map(|(name, ip)| format!("{name}\n{ip}"));
        table
            .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
            .set_header(std::iter::once("from".to_owned()).chain(columns));
        Self {
            table,
            as_expected: true,
        }
    }

    /// Adds the row of a source, with a cell for each destination.
    pub(super) fn add(&mut self, source: &str, cells: Vec<Cell>) {
        self.as_expected &= cells.iter().all(|cell| cell.as_expected);
        let texts = cells.into_iter().map(|cell| cell.text);
        self.table.add_row(std::iter::once(source.to_owned()).chain(texts));
    }

    /// Returns true if all cells are as expected.
    pub(super) const fn is_as_expected(&self) -> bool {
        self.as_expected
    }

    /// Returns the lines of the table, indented.
    pub(super) fn lines(&self) -> String {
        let lines: Vec<String> = self.table.lines().map(|line| format!("   {line}")).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn answered(text: &str) -> ProbeOutcome {
        ProbeOutcome::Answered(text.to_owned())
    }

    #[test]
    fn a_cell_is_as_expected_if_the_right_server_saw_the_right_address() {
        let expected = Sight { server: "b", source: A };
        let good = Cell::new(&answered("b 10.0.0.1"), &expected);
        assert_eq!((&*good.text, good.as_expected), ("10.0.0.1", true));
        for bad in [
            answered("c 10.0.0.1"),
            answered("b 10.0.0.10"),
            answered("b"),
            ProbeOutcome::NoAnswer,
        ] {
            let cell = Cell::new(&bad, &expected);
            assert!(!cell.as_expected && cell.text.starts_with("NO: "), "{cell:?}");
        }
    }

    #[test]
    fn every_backend_must_answer_and_nothing_else_may_happen() {
        let backends = [Sight { server: "a", source: A }, Sight { server: "b", source: A }];
        let verdicts = |outcomes: &[ProbeOutcome]| {
            let cells = Cell::of_backends(outcomes, &backends);
            cells.iter().map(|cell| cell.as_expected).collect::<Vec<_>>()
        };
        let [a, b] = ["a 10.0.0.1", "b 10.0.0.1"].map(answered);
        assert_eq!(verdicts(&[a.clone(), b.clone(), a.clone()]), [true, true]);
        assert_eq!(verdicts(std::slice::from_ref(&a)), [true, false]);
        assert_eq!(verdicts(&[a.clone(), b.clone(), answered("b 10.0.0.2")]), [true, false]);
        assert_eq!(verdicts(&[a, b, ProbeOutcome::NoAnswer]), [false, false]);
    }

    #[test]
    fn one_wrong_cell_makes_the_table_wrong() {
        let mut matrix = Matrix::new([("b".to_owned(), A), ("c".to_owned(), A)]);
        let expected = Sight { server: "b", source: A };
        matrix.add(
            "a",
            vec![Cell::new(&answered("b 10.0.0.1"), &expected), Cell::untried()],
        );
        assert!(matrix.is_as_expected());
        matrix.add("d", vec![Cell::new(&ProbeOutcome::Refused, &expected), Cell::untried()]);
        matrix.add("a", vec![Cell::untried(), Cell::untried()]);
        assert!(!matrix.is_as_expected());
        assert!(matrix.lines().contains("NO: refused at once"), "{}", matrix.lines());
    }
}
