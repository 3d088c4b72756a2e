//! The table of the pairs of pods whose traffic changes.

use comfy_table::{Table, presets};
use heddle_offline::simulate::what_if::{Difference, PortSpan};

/// Returns a table of the differences, with one row for all differences of a pair with the same outcome.
pub(super) fn table(found: &[Difference]) -> String {
    if found.is_empty() {
        return "no connection between pods would change\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FROM", "TO", "TRAFFIC", "NOW", "THEN", "BECAUSE"]);
    for row in DifferenceRow::group(found) {
        let one = row.one;
        table.add_row([
            one.from.clone(),
            one.to.clone(),
            format!("{}{}", row.family, row.traffic().join(" ")),
            one.before.as_str().to_owned(),
            one.after.as_str().to_owned(),
            one.decided_after.clone(),
        ]);
    }
    format!("{table}\n")
}

/// A row of the table: differences of the same pair with the same outcome.
struct DifferenceRow<'a> {
    /// The first of the differences.
    one: &'a Difference,
    /// Protocols, with ports if they have ports.
    traffic: Vec<(&'static str, Option<PortSpan>)>,
    /// The family; empty if the row applies to both families, or if the pair has only one.
    family: &'static str,
}

impl<'a> DifferenceRow<'a> {
    /// Groups differences into rows.
    fn group(found: &'a [Difference]) -> Vec<Self> {
        let outcome = |d: &'a Difference| (&d.from, &d.to, d.before, d.after, &d.decided_after);
        let mut rows: Vec<Self> = Vec::new();
        for one in found {
            match rows.last_mut() {
                Some(row) if outcome(row.one) == outcome(one) && row.one.family == one.family => row.add(one),
                _ => {
                    let mut row = Self {
                        one,
                        traffic: Vec::new(),
                        family: match one.family {
                            _ if one.only_family => "",
                            4 => "IPv4 ",
                            _ => "IPv6 ",
                        },
                    };
                    row.add(one);
                    rows.push(row);
                }
            }
        }
        // Rows of both families with the same traffic become one row without a family.
        let mut merged: Vec<Self> = Vec::new();
        for row in rows {
            let same = |other: &&mut Self| {
                outcome(other.one) == outcome(row.one)
                    && other.one.family != row.one.family
                    && other.traffic == row.traffic
            };
            match merged
                .iter_mut()
                .rev()
                .take_while(|other| other.one.from == row.one.from)
                .find(same)
            {
                Some(twin) => twin.family = "",
                None => merged.push(row),
            }
        }
        merged
    }

    /// Adds a difference; a range of ports that continues the last one extends it.
    fn add(&mut self, one: &Difference) {
        let protocol = if one.ports.is_none() { "ping" } else { one.protocol };
        match (self.traffic.last_mut(), one.ports) {
            (Some((last, Some(known))), Some(ports))
                if *last == protocol && known.last.checked_add(1) == Some(ports.first) =>
            {
                known.last = ports.last;
            }
            (_, ports) => self.traffic.push((protocol, ports)),
        }
    }

    /// Returns the traffic as texts such as `TCP/80-90`, `UDP` (all ports) and `ping`.
    fn traffic(&self) -> Vec<String> {
        let text = |(protocol, ports): &(&str, Option<PortSpan>)| match *ports {
            None | Some(PortSpan::ALL) => (*protocol).to_owned(),
            Some(PortSpan { first, last }) if first == last => format!("{protocol}/{first}"),
            Some(PortSpan { first, last }) => format!("{protocol}/{first}-{last}"),
        };
        self.traffic.iter().map(text).collect()
    }
}
