//! `heddle drops`: prints the latest dropped packets of the running agent with their reasons, once or continuously.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use heddle_proto::drops::MAX_DROPS;
use heddle_proto::{API_SOCKET, Client, ClientError, DropCursor, DroppedPacket, Drops, DropsRequest};
use serde::Serialize;

use crate::args::{DropsArgs, OutputFormat};
use crate::polling::Polling;

/// Drops that cannot be read from the agent or printed.
#[derive(Debug, thiserror::Error)]
pub enum DropsError {
    /// The agent does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be written as JSON.
    #[error("cannot write the drops as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Standard output or the signal handler failed.
    #[error("cannot show the drops: {0}")]
    System(#[from] io::Error),
}

/// The number of drops that could not be shown, as one JSON line while following.
#[derive(Serialize)]
struct Missed {
    overwritten: u64,
    left_out: u64,
}

/// One answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    drops: &'a [DroppedPacket],
    overwritten: u64,
    left_out: u64,
}

/// Prints drops once, or until Ctrl-C or until the reader closes the pipe.
///
/// # Errors
/// The agent does not answer or refuses, or standard output fails.
pub async fn run(args: &DropsArgs, out: &mut (impl Write + Send)) -> Result<(), DropsError> {
    let mut request = DropsRequest {
        after: None,
        limit: Some(args.limit),
        pod: args.pod.clone(),
        reason: args.reason.clone(),
        class: args.class.clone(),
        policy: args.policy.clone(),
    };
    let first = poll(&args.run_dir, &request).await?;
    let Some(every) = args.watch else {
        let shown = match args.output {
            OutputFormat::Text => text(&first),
            OutputFormat::Json => {
                let answer = Answer {
                    drops: &first.drops,
                    overwritten: first.overwritten,
                    left_out: first.left_out,
                };
                serde_json::to_string_pretty(&answer)? + "\n"
            }
        };
        return print(out, &shown).map(drop).map_err(Into::into);
    };
    follow(args, every, first, &mut request, out).await
}

/// Prints the drops of `first`, and then new drops at each poll.
async fn follow(
    args: &DropsArgs,
    every: Duration,
    first: Drops,
    request: &mut DropsRequest,
    out: &mut (impl Write + Send),
) -> Result<(), DropsError> {
    // Drops before the first poll are context; they do not count as missed.
    let mut drops = Drops {
        overwritten: 0,
        left_out: 0,
        ..first
    };
    let mut polling = Polling::start(every)?;
    if !polling.next().await {
        return Ok(());
    }
    request.limit = Some(MAX_DROPS);
    loop {
        if !print(out, &lines(&drops, args.output)?)? {
            return Ok(());
        }
        request.after = Some(drops.cursor);
        if !polling.next().await {
            return Ok(());
        }
        drops = poll(&args.run_dir, request).await?;
        ignore_missed_of_new_agent(request.after.as_ref(), &mut drops);
    }
}

/// Sets the number of missed drops to 0 if the agent was restarted. The new agent counts from its own start, so the
/// number includes drops that this reader did not ask for.
fn ignore_missed_of_new_agent(before: Option<&DropCursor>, drops: &mut Drops) {
    if before.is_some_and(|before| before.agent != drops.cursor.agent) {
        (drops.overwritten, drops.left_out) = (0, 0);
    }
}

/// Asks the agent for drops.
async fn poll(run_dir: &Path, request: &DropsRequest) -> Result<Drops, ClientError> {
    Client::connect(run_dir.join(API_SOCKET)).await?.drops(request).await
}

/// Writes `text`. Returns false if the reader has closed the pipe.
fn print(out: &mut impl Write, text: &str) -> io::Result<bool> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// Renders new drops while following, one line per drop.
fn lines(drops: &Drops, format: OutputFormat) -> Result<String, serde_json::Error> {
    let mut out = String::new();
    let missed = drops.overwritten + drops.left_out > 0;
    match format {
        OutputFormat::Text => {
            if missed {
                out.push_str(&missed_text(drops));
            }
            drops.drops.iter().for_each(|drop| line(drop, &mut out));
        }
        OutputFormat::Json => {
            if missed {
                out += &serde_json::to_string(&Missed {
                    overwritten: drops.overwritten,
                    left_out: drops.left_out,
                })?;
                out.push('\n');
            }
            for drop in &drops.drops {
                out += &serde_json::to_string(drop)?;
                out.push('\n');
            }
        }
    }
    Ok(out)
}

/// Renders an answer for people.
fn text(drops: &Drops) -> String {
    if drops.drops.is_empty() {
        return "there is no recent drop, or none that matches\n".to_owned();
    }
    let mut out = missed_text(drops);
    drops.drops.iter().for_each(|drop| line(drop, &mut out));
    out
}

// Writing to a String cannot fail, hence the ignored results below.

/// Renders the number of drops that are not shown.
fn missed_text(drops: &Drops) -> String {
    let mut out = String::new();
    if drops.overwritten > 0 {
        let _ = writeln!(out, "{} older drops were overwritten", drops.overwritten);
    }
    if drops.left_out > 0 {
        let _ = writeln!(out, "{} older drops are not shown (see --limit)", drops.left_out);
    }
    out
}

/// Writes a drop as one line.
fn line(drop: &DroppedPacket, out: &mut String) {
    let _ = write!(out, "{}  ", drop.time);
    if !drop.class.is_empty() {
        let _ = write!(out, "{}  ", drop.class);
    }
    let _ = write!(out, "{}  ", drop.reason);
    match (&drop.protocol, &drop.source, &drop.destination) {
        (Some(protocol), Some(source), Some(destination)) => {
            let _ = write!(out, "{protocol} {source} -> {destination}");
        }
        _ => {
            let _ = write!(out, "{} bytes at {}", drop.bytes, drop.port);
        }
    }
    let _ = writeln!(out, ": {}", decided_by(drop));
}

/// Returns the policy that decided, or else the meaning of the reason.
fn decided_by(drop: &DroppedPacket) -> String {
    match (&drop.policy, &drop.pod) {
        (Some(policy), Some(pod)) => format!("{} [{pod}]", policy.says),
        (Some(policy), None) => policy.says.clone(),
        _ if drop.policy_gone => "denied by a policy that was deleted".to_owned(),
        _ => drop.meaning.trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops() -> Drops {
        let end = |address: &str, port: u16, pod: &str| serde_json::json!({"address": address, "port": port, "pod": {"namespace": "shop", "name": pod}});
        serde_json::from_value(serde_json::json!({
            "drops": [
                {"time": "2026-01-02T03:04:05.678Z", "worker": 0, "number": 7, "port": "pod:shop/client",
                 "reason": "policy-denied-ingress", "class": "policy", "meaning": "Denied by the destination pod's ingress policy.",
                 "protocol": "TCP", "source": end("10.0.0.4", 40000, "client"), "destination": end("10.0.0.5", 5432, "db"),
                 "bytes": 74, "direction": "ingress", "pod": {"namespace": "shop", "name": "db"},
                 "policy": {"kind": "NetworkPolicy", "namespace": "shop", "name": "p", "direction": "ingress", "rule": null,
                            "says": "default deny because shop/p selects this pod for ingress"}},
                {"time": "2026-01-02T03:04:06.000Z", "worker": 0, "number": 8, "port": "host",
                 "reason": "ipv4-checksum", "class": "malformed", "meaning": "The IPv4 header checksum is wrong.", "bytes": 60},
                {"time": "2026-01-02T03:04:07.000Z", "worker": 0, "number": 9, "port": "host",
                 "reason": "policy-denied-ingress", "meaning": "x.", "bytes": 60, "policy_gone": true},
            ],
            "overwritten": 3, "left_out": 2, "cursor": {"agent": 1, "next": [9]},
        }))
        .unwrap()
    }

    #[test]
    fn a_line_shows_ends_reason_and_policy() {
        let expected = "3 older drops were overwritten\n\
            2 older drops are not shown (see --limit)\n\
            2026-01-02T03:04:05.678Z  policy  policy-denied-ingress  TCP shop/client 10.0.0.4:40000 -> shop/db 10.0.0.5:5432: \
            default deny because shop/p selects this pod for ingress [shop/db]\n\
            2026-01-02T03:04:06.000Z  malformed  ipv4-checksum  60 bytes at host: The IPv4 header checksum is wrong\n\
            2026-01-02T03:04:07.000Z  policy-denied-ingress  60 bytes at host: denied by a policy that was deleted\n";
        assert_eq!(text(&drops()), expected);
        assert_eq!(lines(&drops(), OutputFormat::Text).unwrap(), expected);
    }

    #[test]
    fn following_in_json_prints_an_object_per_line() {
        let text = lines(&drops(), OutputFormat::Json).unwrap();
        let all: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(all.len(), 4);
        assert_eq!((&all[0]["overwritten"], &all[0]["left_out"]), (&3.into(), &2.into()));
        assert_eq!((&all[1]["number"], &all[1]["policy"]["name"]), (&7.into(), &"p".into()));
        let mut quiet = drops();
        (quiet.overwritten, quiet.left_out) = (0, 0);
        assert_eq!(lines(&quiet, OutputFormat::Json).unwrap().lines().count(), 3);
    }

    #[test]
    fn drops_before_a_new_agents_first_answer_do_not_count_as_missed() {
        let mut same = drops();
        let cursor = same.cursor.clone();
        ignore_missed_of_new_agent(Some(&cursor), &mut same);
        assert_eq!(same.overwritten, 3);
        ignore_missed_of_new_agent(Some(&DropCursor::default()), &mut same);
        assert_eq!((same.overwritten, same.left_out), (0, 0));
    }
}
