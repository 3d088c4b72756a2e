//! `heddle flows --watch`: prints connections that begin, change or end.
//!
//! Each poll reads a bounded number of pages, and the next poll continues where it ended, so the work of one interval
//! does not depend on the size of the table. A round through a large table takes several polls. A followed connection
//! that is missing from a page that covers its record has ended. Memory is bounded too: beyond the maximum number of
//! followed connections, only the number of the others is printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use heddle_proto::flows::MAX_FLOWS;
use heddle_proto::{Flow, Flows, FlowsRequest};
use serde::Serialize;

use super::line::line;
use super::page::{FlowsError, page};
use crate::args::{FlowsArgs, OutputFormat};
use crate::polling::Polling;

/// The maximum number of pages in one poll.
const PAGES: usize = 64;
/// The default of the maximum number of followed connections.
const FOLLOWED: u64 = 16_384;

/// A change of a connection between two polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Event {
    /// It existed when the watch began.
    There,
    /// It has begun.
    New,
    /// Its state or one of its properties has changed.
    Changed,
    /// It has ended. The connection is printed as it was seen last.
    Ended,
}

impl Event {
    /// Returns the sign at the beginning of the line.
    const fn sign(self) -> char {
        match self {
            Self::There => '=',
            Self::New => '+',
            Self::Changed => '~',
            Self::Ended => '-',
        }
    }
}

/// The connections seen so far.
#[derive(Debug)]
struct Watch {
    /// The maximum number of followed connections.
    most: usize,
    /// The followed connections by record.
    followed: BTreeMap<u32, Flow>,
    /// Connections of this round that are not followed, because there are too many.
    beyond: u64,
    /// True during the first round.
    first: bool,
    /// The record where the next page begins.
    from: u32,
}

/// Returns the part of a connection whose change is an event.
fn visible_state(flow: &Flow) -> (&str, Vec<&'static str>) {
    (&flow.state, flow.marks().collect())
}

impl Watch {
    const fn new(most: usize) -> Self {
        Self {
            most,
            followed: BTreeMap::new(),
            beyond: 0,
            first: true,
            from: 0,
        }
    }

    /// Compares a page, which begins at `from`, with the followed connections. Returns the events.
    fn compare(&mut self, page: Flows) -> Vec<(Event, Flow)> {
        let until = page.next.unwrap_or(u32::MAX);
        // The followed connections whose records the page covers.
        let mut before = self.followed.split_off(&self.from);
        let mut behind = before.split_off(&until);
        self.followed.append(&mut behind);

        let mut events = Vec::new();
        for flow in page.flows {
            let event = match before.remove(&flow.record) {
                Some(old) if old.id == flow.id => {
                    (visible_state(&old) != visible_state(&flow)).then_some(Event::Changed)
                }
                // Another connection was in this record, or none.
                old => {
                    events.extend(old.map(|old| (Event::Ended, old)));
                    if self.followed.len() + before.len() >= self.most {
                        self.beyond += 1;
                        continue;
                    }
                    Some(if self.first { Event::There } else { Event::New })
                }
            };
            events.extend(event.map(|event| (event, flow.clone())));
            self.followed.insert(flow.record, flow);
        }
        // A followed connection that is missing from the page has ended.
        events.extend(before.into_values().map(|old| (Event::Ended, old)));
        self.from = page.next.unwrap_or(0);
        events
    }

    /// Ends a round. Returns the number of connections that are not followed.
    const fn end_round(&mut self) -> u64 {
        self.first = false;
        std::mem::replace(&mut self.beyond, 0)
    }
}

/// An event as JSON.
#[derive(Serialize)]
struct EventLine<'a> {
    event: Event,
    flow: &'a Flow,
}

/// The number of connections that are not followed, as JSON.
#[derive(Serialize)]
struct Beyond {
    not_followed: u64,
}

/// Renders an event.
fn render(event: Event, flow: &Flow, format: OutputFormat) -> Result<String, serde_json::Error> {
    match format {
        OutputFormat::Json => Ok(serde_json::to_string(&EventLine { event, flow })? + "\n"),
        OutputFormat::Text => {
            let mut out = format!("{} ", event.sign());
            line(flow, &mut out);
            Ok(out)
        }
    }
}

/// Prints events until Ctrl-C.
pub(super) async fn run(
    args: &FlowsArgs,
    every: Duration,
    mut request: FlowsRequest,
    out: &mut (impl Write + Send),
) -> Result<(), FlowsError> {
    let most = args.limit.unwrap_or(FOLLOWED);
    let mut watch = Watch::new(usize::try_from(most).unwrap_or(usize::MAX));
    let mut beyond = 0;
    let mut polling = Polling::start(every)?;
    request.limit = Some(MAX_FLOWS);
    loop {
        if !polling.next().await {
            return Ok(());
        }
        for _ in 0..PAGES {
            request.from = watch.from;
            let page = page(&args.run_dir, &request).await?;
            let over = page.next.is_none();
            for (event, flow) in watch.compare(page) {
                out.write_all(render(event, &flow, args.output)?.as_bytes())?;
            }
            if over {
                let now = watch.end_round();
                if now != std::mem::replace(&mut beyond, now) {
                    let text = match args.output {
                        OutputFormat::Json => serde_json::to_string(&Beyond { not_followed: now })? + "\n",
                        OutputFormat::Text => format!("{now} more connections are not followed (see --limit)\n"),
                    };
                    out.write_all(text.as_bytes())?;
                }
                break;
            }
        }
        out.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::line::tests::flow;

    fn page_of(flows: &[(u32, &str, &str)], next: Option<u32>) -> Flows {
        Flows {
            flows: flows
                .iter()
                .map(|(record, id, state)| flow(*record, id, state))
                .collect(),
            next,
        }
    }

    fn summary(events: &[(Event, Flow)]) -> Vec<(Event, &str)> {
        events.iter().map(|(event, flow)| (*event, flow.id.as_str())).collect()
    }

    #[test]
    fn connections_begin_change_and_end() {
        let mut watch = Watch::new(100);
        let events = watch.compare(page_of(&[(1, "a", "syn-sent"), (2, "b", "established")], None));
        assert_eq!(summary(&events), [(Event::There, "a"), (Event::There, "b")]);
        assert_eq!(watch.end_round(), 0);
        let events = watch.compare(page_of(
            &[(1, "a", "established"), (2, "b", "established"), (9, "c", "new")],
            None,
        ));
        assert_eq!(summary(&events), [(Event::Changed, "a"), (Event::New, "c")]);
        // The record of one that has ended may be another's by now.
        let events = watch.compare(page_of(&[(1, "a", "established"), (2, "d", "new")], None));
        assert_eq!(
            summary(&events),
            [(Event::Ended, "b"), (Event::New, "d"), (Event::Ended, "c")]
        );
        assert_eq!(
            summary(&watch.compare(page_of(&[(1, "a", "established"), (2, "d", "new")], None))),
            []
        );
    }

    #[test]
    fn a_page_ends_no_connection_in_records_beyond_it() {
        let mut watch = Watch::new(100);
        watch.compare(page_of(&[(1, "a", "new")], Some(4)));
        watch.compare(page_of(&[(5, "b", "new")], None));
        watch.end_round();
        assert_eq!(summary(&watch.compare(page_of(&[], Some(4)))), [(Event::Ended, "a")]);
        assert_eq!(summary(&watch.compare(page_of(&[(5, "b", "new")], None))), []);
        assert_eq!(
            summary(&watch.compare(page_of(&[(1, "c", "new")], Some(4)))),
            [(Event::New, "c")]
        );
        assert_eq!(summary(&watch.compare(page_of(&[], None))), [(Event::Ended, "b")]);
    }

    #[test]
    fn those_beyond_the_most_are_counted() {
        let mut watch = Watch::new(1);
        let both = [(1, "a", "new"), (2, "b", "new")];
        assert_eq!(summary(&watch.compare(page_of(&both, None))), [(Event::There, "a")]);
        assert_eq!(watch.end_round(), 1);
        assert_eq!(summary(&watch.compare(page_of(&both, None))), []);
        assert_eq!(watch.end_round(), 1);
        assert_eq!(
            summary(&watch.compare(page_of(&both[1..], None))),
            [(Event::Ended, "a")],
            "room is found at the next look"
        );
        assert_eq!(summary(&watch.compare(page_of(&both[1..], None))), [(Event::New, "b")]);
    }

    #[test]
    fn news_have_a_sign_and_an_event() {
        let one = flow(1, "a", "new");
        assert!(
            render(Event::Ended, &one, OutputFormat::Text)
                .unwrap()
                .starts_with("- TCP  new  ")
        );
        let json: serde_json::Value =
            serde_json::from_str(&render(Event::New, &one, OutputFormat::Json).unwrap()).unwrap();
        assert_eq!((&json["event"], &json["flow"]["id"]), (&"new".into(), &"a".into()));
    }
}
