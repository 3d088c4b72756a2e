//! Tables and numbers for people, as several commands print them.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

/// Writes a title and starts a table with this header, all columns aligned to the right.
pub(crate) fn table(title: &str, header: &[&str], out: &mut String) -> Table {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\n{title}");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
        column.set_padding((2, 0));
    }
    table
}

/// Aligns a column to the left.
pub(crate) fn left(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Left);
    }
}

/// Writes the table, or `none` if it has fewer rows than `least_rows`.
pub(crate) fn finish(table: &Table, least_rows: usize, out: &mut String) {
    if table.row_iter().count() < least_rows {
        out.push_str("  none\n");
        return;
    }
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Returns a ratio with one decimal, or `-` if `whole` is 0.
pub(crate) fn ratio(part: u64, whole: u64) -> String {
    if whole == 0 {
        "-".to_owned()
    } else {
        format!("{:.1}", part as f64 / whole as f64)
    }
}

/// Returns a duration as `3 d 4 h`, `5 min 6 s` or `7 s`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use heddle_proto::Bytes;

    use super::*;

    #[test]
    fn amounts_are_shown_in_units() {
        assert_eq!(
            [1023, 1536, u64::MAX].map(|n| Bytes(n).to_string()),
            ["1023 B", "1.5 KiB", "16777216.0 TiB"]
        );
        assert_eq!(
            [duration(59), duration(3600), duration(90_000)],
            ["59 s", "1 h 0 min", "1 d 1 h"]
        );
    }
}
