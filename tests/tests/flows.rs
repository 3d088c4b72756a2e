//! `heddle flows`: connections, with the names of pods and Services.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{BOUND, ask_json, binaries, follow, wait_until};
use heddle_lab::shop::{Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{Conversation, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{Lab, LabError, NodePlan, run_with_input};
use serde_json::{Value, json};

fn shop() -> Result<Shop, LabError> {
    Shop::start(binaries()?, NodePlan::new("node", 1))
}

/// Returns the flows that `heddle flows` lists with these flags, and asserts that these are all.
fn flows(shop: &Shop, flags: &[&str]) -> Result<Vec<Value>, LabError> {
    let answer = ask_json(&shop.node, "flows", flags)?;
    assert_eq!(answer["more"], false, "{answer:#}");
    Ok(answer["flows"].as_array().cloned().unwrap_or_default())
}

fn named(name: &str) -> Value {
    json!({"namespace": "shop", "name": name})
}

#[test]
fn a_live_connection_through_a_service_is_listed_until_it_ends() -> Result<(), LabError> {
    let shop = shop()?;
    let client = shop.member("client")?;
    let mut servers = Vec::new();
    for name in ["web-1", "web-2"] {
        servers.push(TcpServer::start(
            shop.member(name)?.pod.ns(),
            WEB_TARGET,
            ServerBehavior::Echo,
        )?);
    }
    for v6 in [false, true] {
        let talk = Conversation::start(client.pod.ns(), Shop::service(v6), Speaker::Client)?;
        talk.wait_for_rounds(5, BOUND)?;
        let address = Shop::service(v6).ip().to_string();
        let chosen = [
            "--pod",
            "shop/client",
            "--state",
            "established",
            "--address",
            address.as_str(),
        ];
        let all = flows(&shop, &chosen)?;
        let [flow] = &all[..] else {
            return Err(LabError::Reply {
                what: "heddle flows".to_owned(),
                detail: format!("one connection was expected: {all:#?}"),
            });
        };
        assert_eq!(flow["protocol"], "TCP");
        assert_eq!(flow["client"]["pod"], named("client"), "{flow:#}");
        assert_eq!(flow["client"]["address"], json!(client.attached.ip(v6)?));
        let frontend = json!({"address": address, "port": WEB_PORT, "service": named("web")});
        assert_eq!(flow["frontend"], frontend);
        let server = flow["server"]["pod"]["name"].as_str().unwrap_or_default().to_owned();
        assert!(server == "web-1" || server == "web-2", "{flow:#}");
        assert_eq!(flow["server"]["port"], WEB_TARGET);
        assert_eq!(flow["server"]["address"], json!(shop.member(&server)?.attached.ip(v6)?));
        for count in ["packets_sent", "bytes_sent", "packets_received", "bytes_received"] {
            assert!(flow[count].as_u64() >= Some(5), "{count}: {flow:#}");
        }
        assert!(flow["left_seconds"].as_u64() > Some(400_000), "{flow:#}");
        let marks = ["adopted", "hairpin", "masquerade", "current"].map(|mark| flow[mark].as_bool());
        assert_eq!(marks, [false, false, false, true].map(Some));

        // The Service, the pod behind it and the protocol select the flow; others do not.
        let behind = format!("shop/{server}");
        for yes in [
            &["--service", "shop/web", "--state", "established"][..],
            &["--pod", &behind, "--state", "established"],
            &["--protocol", "tcp", "--address", &address],
        ] {
            let all = flows(&shop, yes)?;
            assert!(all.iter().any(|other| other["id"] == flow["id"]), "{yes:?}: {all:#?}");
        }
        for no in [&["--protocol", "udp", "--address", &address][..], &["--pod", "shop/db"]] {
            assert_eq!(flows(&shop, no)?, Vec::<Value>::new(), "{no:?}");
        }

        talk.finish()?;
        wait_until("the connection ends", || Ok(flows(&shop, &chosen)?.is_empty()))?;
        let ended = flows(&shop, &["--pod", "shop/client", "--address", &address])?;
        assert!(
            ended
                .iter()
                .all(|flow| ["time-wait", "closed"].iter().any(|state| flow["state"] == *state)),
            "{ended:#?}"
        );
    }
    Ok(())
}

#[test]
fn many_connections_are_listed_in_pages_up_to_the_limit() -> Result<(), LabError> {
    let shop = shop()?;
    let (client, to) = (shop.member("client")?, shop.member("web-1")?.attached.ip(false)?);
    let many = 2500;
    let flags = ["--pod", "shop/client", "--protocol", "UDP"];
    // A busy machine drops some datagrams of a burst, so every round sends all of them.
    wait_until("all connections are listed", || {
        client.pod.ns().enter(|| {
            let socket = heddle_lab::bind_when_free("a socket", || std::net::UdpSocket::bind("0.0.0.0:4242"))?;
            for port in 1..=many {
                socket
                    .send_to(b"x", (to, 10_000 + port))
                    .map_err(LabError::io("sending"))?;
                if port % 64 == 0 {
                    // Paces the sender to what the fill ring takes.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            Ok(())
        })?;
        let all = flows(&shop, &flags)?;
        let ports: BTreeSet<u64> = all.iter().filter_map(|flow| flow["server"]["port"].as_u64()).collect();
        assert_eq!(ports.len(), all.len(), "a connection was listed twice");
        Ok(ports.len() == usize::from(many))
    })?;
    for limit in [1, 1024, 1500] {
        let text = limit.to_string();
        let answer = ask_json(&shop.node, "flows", &[&flags[..], &["--limit", text.as_str()]].concat())?;
        assert_eq!(
            (answer["flows"].as_array().map(Vec::len), &answer["more"]),
            (Some(limit), &json!(true))
        );
    }
    // The form for people.
    let mut command = shop.node.heddle("flows");
    let text = shop
        .node
        .ns()
        .enter(|| run_with_input(command.args(flags).args(["--limit", "3"]), ""))?
        .stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 4 && lines[0].starts_with("UDP  new  shop/client ") && lines[0].contains(" -> shop/web-1 "),
        "{text}"
    );
    assert_eq!(lines[3], "there are more connections (see --limit)");
    Ok(())
}

#[test]
fn connections_expire_after_the_configured_timeout() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let config = lab.dir().join("timeouts.yaml");
    std::fs::write(&config, "timeouts: {udpNew: 2}\n").map_err(LabError::io("writing timeouts.yaml"))?;
    let mut plan = NodePlan::new("node", 1);
    plan.flags = vec!["--config".to_owned(), config.display().to_string()];
    let shop = Shop::start_in(lab, plan)?;
    let (client, to) = (shop.member("client")?, shop.member("web-1")?.at(false, 4242)?);
    let flags = ["--pod", "shop/client", "--protocol", "UDP", "--state", "new"];
    wait_until("a datagram makes a connection", || {
        client.pod.ns().enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(LabError::io("a socket"))?;
            socket.send_to(b"x", to).map_err(LabError::io("sending"))
        })?;
        Ok(!flows(&shop, &flags)?.is_empty())
    })?;
    for flow in flows(&shop, &flags)? {
        assert!(flow["left_seconds"].as_u64() <= Some(2), "{flow:#}");
    }
    wait_until("it expires", || {
        Ok(flows(&shop, &flags)?.is_empty() && shop.node.status()?["flows"]["expired"].as_u64() > Some(0))
    })
}

#[test]
fn flows_watch_shows_new_changed_and_ended_connections() -> Result<(), LabError> {
    let shop = shop()?;
    let client = shop.member("client")?;
    let _server = TcpServer::start(shop.member("web-1")?.pod.ns(), WEB_TARGET, ServerBehavior::Echo)?;
    let flags = [
        "--watch",
        "0.1",
        "--output",
        "json",
        "--pod",
        "shop/client",
        "--protocol",
        "TCP",
    ];
    let watch = follow(&shop.node, "flows", &flags)?;
    let next = || -> Result<Value, LabError> {
        let line = watch.next_line()?;
        Ok(serde_json::from_str(&line).unwrap_or_else(|_| json!(line)))
    };
    let to = shop.member("web-1")?.at(false, WEB_TARGET)?;
    let talk = Conversation::start(client.pod.ns(), to, Speaker::Client)?;
    talk.wait_for_rounds(3, BOUND)?;
    // The first event shows any state. Later ones lead to established, then to closed.
    let mut news = next()?;
    let id = news["flow"]["id"].clone();
    assert!(
        id.is_string() && (news["event"] == "new" || news["event"] == "there"),
        "{news}"
    );
    while news["flow"]["state"] != "established" {
        news = next()?;
        assert_eq!(
            (&news["event"], &news["flow"]["id"]),
            (&json!("changed"), &id),
            "{news}"
        );
    }
    talk.finish()?;
    while news["flow"]["state"] != "time-wait" && news["flow"]["state"] != "closed" {
        news = next()?;
        assert_eq!(
            (&news["event"], &news["flow"]["id"]),
            (&json!("changed"), &id),
            "{news}"
        );
    }
    watch.interrupt()?;
    watch.exits_successfully()
}

#[test]
fn a_request_that_cannot_be_answered_is_an_error_with_its_reason() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let ask = |shop: &Shop, flags: &[&str]| -> Result<String, LabError> {
        let mut command = shop.node.heddle("flows");
        let output = shop.node.ns().enter(|| run_with_input(command.args(flags), ""))?;
        assert!(!output.ok, "{output:?}");
        Ok(output.stderr)
    };
    for flags in [&[][..], &["--watch"]] {
        let output = ask(&shop, flags)?;
        assert!(output.contains("no heddle agent answers at"), "{output}");
    }
    shop.node.start_agent()?;
    for (flags, part) in [
        (["--pod", "shop/nobody"], "no pod shop/nobody"),
        (["--service", "shop/none"], "no Service shop/none"),
        (["--state", "open"], "established"),
        (["--protocol", "quic"], "SCTP"),
    ] {
        let output = ask(&shop, &flags)?;
        assert!(output.contains(part), "{output}");
    }
    let out = ask_json(&shop.node, "flows", &[])?;
    assert_eq!(out["more"], false);
    Ok(())
}
