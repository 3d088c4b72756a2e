//! `heddle flows`: prints the connections of the running agent's flow table page by page, so that neither side holds all of
//! them at one time.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use heddle_proto::flows::MAX_FLOWS;
use heddle_proto::{API_SOCKET, Bytes, Client, ClientError, Flow, Flows, FlowsRequest};

use crate::args::{FlowsArgs, OutputFormat};
use crate::flows_watch;
use crate::status::duration;

/// The agent does not answer, or its answer cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// No answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be written as JSON.
    #[error("writing the connections as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Standard output, or the signal.
    #[error("showing the connections: {0}")]
    System(#[from] io::Error),
}

/// Prints connections once, or follows them until Ctrl-C or until the reader closes the pipe.
///
/// # Errors
/// The agent does not answer or refuses, or standard output fails.
pub async fn run(args: &FlowsArgs, out: &mut (impl Write + Send)) -> Result<(), FlowsError> {
    let request = FlowsRequest {
        from: 0,
        limit: None,
        pod: args.pod.clone(),
        service: args.service.clone(),
        state: args.state.clone(),
        address: args.address,
        protocol: args.protocol.clone(),
    };
    let shown = match args.watch {
        Some(every) => flows_watch::run(args, every, request, out).await,
        None => list(args, request, out).await,
    };
    match shown {
        // The reader has closed the pipe (`heddle flows | head`).
        Err(FlowsError::System(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// One page.
pub(crate) async fn page(run_dir: &Path, request: &FlowsRequest) -> Result<Flows, ClientError> {
    Client::connect(run_dir.join(API_SOCKET)).await?.flows(request).await
}

/// Prints each page as it comes.
async fn list(args: &FlowsArgs, mut request: FlowsRequest, out: &mut (impl Write + Send)) -> Result<(), FlowsError> {
    let most = args.limit.unwrap_or(u64::MAX);
    let mut printer = Printer::new(args.output);
    loop {
        let left = most - printer.shown;
        request.limit = Some(u32::try_from(left).unwrap_or(MAX_FLOWS).clamp(1, MAX_FLOWS));
        let mut page = page(&args.run_dir, &request).await?;
        // One more than are wanted tells whether there are more.
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

/// Turns rows into text, without keeping them.
struct Printer {
    format: OutputFormat,
    shown: u64,
}

impl Printer {
    const fn new(format: OutputFormat) -> Self {
        Self { format, shown: 0 }
    }

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

    fn end(&self, more: bool) -> String {
        match (self.format, self.shown) {
            (OutputFormat::Json, 0) => format!("{{\"flows\": [], \"more\": {more}}}\n"),
            (OutputFormat::Json, _) => format!("\n], \"more\": {more}}}\n"),
            (OutputFormat::Text, 0) if !more => "no connection, or none that was asked for\n".to_owned(),
            (OutputFormat::Text, _) if more => "there are more (--limit)\n".to_owned(),
            (OutputFormat::Text, _) => String::new(),
        }
    }
}

/// A connection for people.
pub(crate) fn line(flow: &Flow, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{}  {}  {}", flow.protocol, flow.state, flow.client);
    if let Some(source) = &flow.translated_source {
        let _ = write!(out, " (as {source})");
    }
    if let Some(frontend) = &flow.frontend {
        let _ = write!(out, " -> {frontend}");
    }
    let _ = write!(
        out,
        " -> {}  age {}, idle {}, left {}, sent {} ({}), received {} ({})",
        flow.server,
        duration(flow.age_seconds),
        duration(flow.idle_seconds),
        duration(flow.left_seconds),
        flow.packets_sent,
        Bytes(flow.bytes_sent),
        flow.packets_received,
        Bytes(flow.bytes_received),
    );
    let marks: Vec<&str> = flow.marks().collect();
    if !marks.is_empty() {
        let _ = write!(out, "  [{}]", marks.join(", "));
    }
    out.push('\n');
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn flow(record: u32, id: &str, state: &str) -> Flow {
        serde_json::from_value(serde_json::json!({
            "id": id, "record": record, "protocol": "TCP", "state": state,
            "client": {"address": "10.0.0.4", "port": 40000, "pod": {"namespace": "shop", "name": "client"}},
            "frontend": {"address": "10.96.0.80", "port": 80, "service": {"namespace": "shop", "name": "web"}},
            "server": {"address": "10.0.0.5", "port": 8080, "pod": {"namespace": "shop", "name": "web-1"}},
            "age_seconds": 61, "idle_seconds": 2, "left_seconds": 432_000,
            "packets_sent": 7, "bytes_sent": 1536, "packets_received": 5, "bytes_received": 100,
            "masquerade": true, "current": true
        }))
        .unwrap()
    }

    #[test]
    fn people_read_both_ends_and_the_service_between() {
        let mut out = String::new();
        line(&flow(1, "a", "established"), &mut out);
        assert_eq!(
            out,
            "TCP  established  shop/client 10.0.0.4:40000 -> service shop/web 10.96.0.80:80 -> shop/web-1 10.0.0.5:8080  \
             age 1 min 1 s, idle 2 s, left 5 d 0 h, sent 7 (1.5 KiB), received 5 (100 B)  [masquerade]\n"
        );
    }

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
    fn nothing_is_said_to_be_nothing() {
        assert!(Printer::new(OutputFormat::Text).end(false).contains("no connection"));
        assert!(Printer::new(OutputFormat::Text).end(true).contains("--limit"));
    }
}
