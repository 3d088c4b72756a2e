//! Prints all connections, page by page.

use std::io::Write;

use heddle_proto::flows::MAX_FLOWS;
use heddle_proto::{Flow, FlowsRequest};

use super::line::line;
use super::page::{FlowsError, page};
use crate::args::{FlowsArgs, OutputFormat};

/// Prints each page when it arrives.
pub(super) async fn run(
    args: &FlowsArgs,
    mut request: FlowsRequest,
    out: &mut (impl Write + Send),
) -> Result<(), FlowsError> {
    let most = args.limit.unwrap_or(u64::MAX);
    let mut printer = Printer::new(args.output);
    loop {
        let left = most - printer.shown;
        request.limit = Some(u32::try_from(left).unwrap_or(MAX_FLOWS).clamp(1, MAX_FLOWS));
        let mut page = page(&args.run_dir, &request).await?;
        // If the page has more rows than may still be printed, or another page follows, there are more connections than
        // the limit.
        let more = page.flows.len() as u64 > left;
        page.flows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(printer.page(&page.flows)?.as_bytes())?;
        match page.next {
            Some(next) if !more => request.from = next,
            next => {
                out.write_all(printer.end(more || next.is_some()).as_bytes())?;
                return Ok(out.flush()?);
            }
        }
    }
}

/// Renders rows as text without keeping them.
struct Printer {
    format: OutputFormat,
    /// The number of rows so far.
    shown: u64,
}

impl Printer {
    const fn new(format: OutputFormat) -> Self {
        Self { format, shown: 0 }
    }

    /// Renders the rows of a page.
    fn page(&mut self, flows: &[Flow]) -> Result<String, serde_json::Error> {
        let mut out = String::new();
        for flow in flows {
            match self.format {
                OutputFormat::Text => line(flow, &mut out),
                OutputFormat::Json => {
                    out.push_str(if self.shown == 0 { "{\"flows\": [\n" } else { ",\n" });
                    out += &serde_json::to_string(flow)?;
                }
            }
            self.shown += 1;
        }
        Ok(out)
    }

    /// Renders the end of the output.
    fn end(&self, more: bool) -> String {
        match (self.format, self.shown) {
            (OutputFormat::Json, 0) => format!("{{\"flows\": [], \"more\": {more}}}\n"),
            (OutputFormat::Json, _) => format!("\n], \"more\": {more}}}\n"),
            (OutputFormat::Text, 0) if !more => "there is no connection, or none that matches\n".to_owned(),
            (OutputFormat::Text, _) if more => "there are more connections (see --limit)\n".to_owned(),
            (OutputFormat::Text, _) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::line::tests::flow;

    #[test]
    fn pages_make_one_json_value() {
        for pages in [&[0usize][..], &[1], &[2, 0, 1]] {
            let mut printer = Printer::new(OutputFormat::Json);
            let mut text = String::new();
            for rows in pages {
                text += &printer.page(&vec![flow(1, "a", "new"); *rows]).unwrap();
            }
            text += &printer.end(true);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (value["flows"].as_array().map(Vec::len), &value["more"]),
                (Some(pages.iter().sum()), &true.into())
            );
        }
    }

    #[test]
    fn an_empty_list_and_a_cut_one_say_so() {
        assert!(Printer::new(OutputFormat::Text).end(false).contains("no connection"));
        assert!(Printer::new(OutputFormat::Text).end(true).contains("--limit"));
    }
}
