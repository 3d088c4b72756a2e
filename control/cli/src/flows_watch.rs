//! `heddle flows --watch`: prints connections that begin, change or end.
//!
//! Each look turns a bounded number of pages and the next one goes on there, so the work of an interval is bounded
//! however large the table is; one that is larger than that is seen whole after several looks. What was followed in a
//! range of records and is not there any more has ended. Memory is bounded too: of connections beyond the most that are followed,
//! only the number is printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use heddle_proto::flows::MAX_FLOWS;
use heddle_proto::{Flow, Flows, FlowsRequest};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{FlowsArgs, OutputFormat};
use crate::flows::{FlowsError, line, page};

/// Pages that one look turns.
const PAGES: usize = 64;
/// Connections that are followed where nobody says how many.
const FOLLOWED: u64 = 16_384;

/// A change of a connection between two polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Event {
    /// It stood when the watch began.
    There,
    /// It is new.
    New,
    /// Its state has changed, or its marks.
    Changed,
    /// It is gone; the rest says how it was seen last.
    Ended,
}

impl Event {
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
    most: usize,
    followed: BTreeMap<u32, Flow>,
    /// Connections seen in this round that are not followed, there being too many.
    beyond: u64,
    /// The first round is not over.
    first: bool,
    from: u32,
}

/// The part of a connection whose change is printed.
fn face(flow: &Flow) -> (&str, Vec<&'static str>) {
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

    /// Takes a page in, which began at `from`. Says what is news.
    fn take(&mut self, page: Flows) -> Vec<(Event, Flow)> {
        let until = page.next.unwrap_or(u32::MAX);
        let mut before = self.followed.split_off(&self.from);
        let mut behind = before.split_off(&until);
        self.followed.append(&mut behind);
        let mut news = Vec::new();
        for flow in page.flows {
            let event = match before.remove(&flow.record) {
                Some(old) if old.id == flow.id => (face(&old) != face(&flow)).then_some(Event::Changed),
                old => {
                    news.extend(old.map(|old| (Event::Ended, old)));
                    if self.followed.len() + before.len() >= self.most {
                        self.beyond += 1;
                        continue;
                    }
                    Some(if self.first { Event::There } else { Event::New })
                }
            };
            news.extend(event.map(|event| (event, flow.clone())));
            self.followed.insert(flow.record, flow);
        }
        news.extend(before.into_values().map(|old| (Event::Ended, old)));
        self.from = page.next.unwrap_or(0);
        news
    }

    /// A round is over. Says how many connections are not followed.
    const fn round(&mut self) -> u64 {
        self.first = false;
        std::mem::replace(&mut self.beyond, 0)
    }
}

#[derive(Serialize)]
struct News<'a> {
    event: Event,
    flow: &'a Flow,
}

#[derive(Serialize)]
struct Beyond {
    not_followed: u64,
}

fn shown(event: Event, flow: &Flow, format: OutputFormat) -> Result<String, serde_json::Error> {
    match format {
        OutputFormat::Json => Ok(serde_json::to_string(&News { event, flow })? + "\n"),
        OutputFormat::Text => {
            let mut out = format!("{} ", event.sign());
            line(flow, &mut out);
            Ok(out)
        }
    }
}

/// Watches until it is interrupted.
pub(crate) async fn run(
    args: &FlowsArgs,
    every: Duration,
    mut request: FlowsRequest,
    out: &mut (impl Write + Send),
) -> Result<(), FlowsError> {
    let most = args.limit.unwrap_or(FOLLOWED);
    let mut watch = Watch::new(usize::try_from(most).unwrap_or(usize::MAX));
    let mut beyond = 0;
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    request.limit = Some(MAX_FLOWS);
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            _ = timer.tick() => {}
        }
        for _ in 0..PAGES {
            request.from = watch.from;
            let page = page(&args.run_dir, &request).await?;
            let over = page.next.is_none();
            for (event, flow) in watch.take(page) {
                out.write_all(shown(event, &flow, args.output)?.as_bytes())?;
            }
            if over {
                let now = watch.round();
                if now != std::mem::replace(&mut beyond, now) {
                    let text = match args.output {
                        OutputFormat::Json => serde_json::to_string(&Beyond { not_followed: now })? + "\n",
                        OutputFormat::Text => format!("{now} more are not followed (--limit)\n"),
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
    use crate::flows::tests::flow;

    fn page_of(flows: &[(u32, &str, &str)], next: Option<u32>) -> Flows {
        Flows {
            flows: flows
                .iter()
                .map(|(record, id, state)| flow(*record, id, state))
                .collect(),
            next,
        }
    }

    fn told(news: &[(Event, Flow)]) -> Vec<(Event, &str)> {
        news.iter().map(|(event, flow)| (*event, flow.id.as_str())).collect()
    }

    #[test]
    fn connections_come_change_and_end() {
        let mut watch = Watch::new(100);
        let news = watch.take(page_of(&[(1, "a", "syn-sent"), (2, "b", "established")], None));
        assert_eq!(told(&news), [(Event::There, "a"), (Event::There, "b")]);
        assert_eq!(watch.round(), 0);
        let news = watch.take(page_of(
            &[(1, "a", "established"), (2, "b", "established"), (9, "c", "new")],
            None,
        ));
        assert_eq!(told(&news), [(Event::Changed, "a"), (Event::New, "c")]);
        // The record of one that has ended may be another's by now.
        let news = watch.take(page_of(&[(1, "a", "established"), (2, "d", "new")], None));
        assert_eq!(
            told(&news),
            [(Event::Ended, "b"), (Event::New, "d"), (Event::Ended, "c")]
        );
        assert_eq!(
            told(&watch.take(page_of(&[(1, "a", "established"), (2, "d", "new")], None))),
            []
        );
    }

    #[test]
    fn a_page_says_nothing_of_records_beyond_it() {
        let mut watch = Watch::new(100);
        watch.take(page_of(&[(1, "a", "new")], Some(4)));
        watch.take(page_of(&[(5, "b", "new")], None));
        watch.round();
        assert_eq!(told(&watch.take(page_of(&[], Some(4)))), [(Event::Ended, "a")]);
        assert_eq!(told(&watch.take(page_of(&[(5, "b", "new")], None))), []);
        assert_eq!(
            told(&watch.take(page_of(&[(1, "c", "new")], Some(4)))),
            [(Event::New, "c")]
        );
        assert_eq!(told(&watch.take(page_of(&[], None))), [(Event::Ended, "b")]);
    }

    #[test]
    fn those_beyond_the_most_are_counted() {
        let mut watch = Watch::new(1);
        let both = [(1, "a", "new"), (2, "b", "new")];
        assert_eq!(told(&watch.take(page_of(&both, None))), [(Event::There, "a")]);
        assert_eq!(watch.round(), 1);
        assert_eq!(told(&watch.take(page_of(&both, None))), []);
        assert_eq!(watch.round(), 1);
        assert_eq!(
            told(&watch.take(page_of(&both[1..], None))),
            [(Event::Ended, "a")],
            "room is found at the next look"
        );
        assert_eq!(told(&watch.take(page_of(&both[1..], None))), [(Event::New, "b")]);
    }

    #[test]
    fn news_have_a_sign_and_an_event() {
        let one = flow(1, "a", "new");
        assert!(
            shown(Event::Ended, &one, OutputFormat::Text)
                .unwrap()
                .starts_with("- TCP  new  ")
        );
        let json: serde_json::Value =
            serde_json::from_str(&shown(Event::New, &one, OutputFormat::Json).unwrap()).unwrap();
        assert_eq!((&json["event"], &json["flow"]["id"]), (&"new".into(), &"a".into()));
    }
}
