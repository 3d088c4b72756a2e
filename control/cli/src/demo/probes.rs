//! The demo's probes: real connections, each with its expected result.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use comfy_table::{Table, presets};
use heddle_lab::shop::{DB_PORT, Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{LabError, NetNs};

use super::error::DemoError;
use super::stage::Stage;

/// The time limit of a probe that should get an answer.
const BOUND: Duration = Duration::from_secs(3);
/// The time for which a probe waits that should get no answer: much longer than a handshake within one machine takes,
/// and short enough for a person who watches.
const SILENCE: Duration = Duration::from_millis(800);
/// The number of connections to the Service. With two backends and a fair choice, the probability that all go to one of them is
/// 2^-31.
const CONNECTIONS: usize = 32;
/// The size of the bulk transfer in bytes.
const BULK: u64 = 256 << 20;
const HOST_PORT: u16 = 10_250;
const OUTSIDE_PORT: u16 = 443;

/// A probe and its result: a row of the table.
struct ProbeRow {
    from: &'static str,
    to: String,
    what: String,
    expected: String,
    observed: String,
    as_expected: bool,
}

/// Runs all probes and prints the table. Returns true if all results are as expected.
pub fn run(stage: &mut Stage, shop: &Shop) -> Result<bool, DemoError> {
    stage.chapter("Which connections work")?;
    let greet = |ns: &NetNs, port: u16, name: &str| TcpServer::start(ns, port, ServerBehavior::Greet(name.to_owned()));
    let _servers = [
        greet(shop.member("web-1")?.pod.ns(), WEB_TARGET, "web-1")?,
        greet(shop.member("web-2")?.pod.ns(), WEB_TARGET, "web-2")?,
        greet(shop.member("db")?.pod.ns(), DB_PORT, "db")?,
        greet(shop.member("client")?.pod.ns(), WEB_TARGET, "client")?,
        greet(shop.node.ns(), HOST_PORT, "node-1")?,
        greet(shop.lab.outside(), OUTSIDE_PORT, "outside")?,
    ];
    let mut rows = Vec::new();
    for v6 in [false, true] {
        stage.print(if v6 {
            "   the same over IPv6 ..."
        } else {
            "   over IPv4 ..."
        })?;
        probe_family(shop, v6, &mut rows)?;
    }
    stage.print(&format!(
        "   a bulk transfer of {} MiB, every byte compared ...",
        BULK >> 20
    ))?;
    rows.push(bulk(shop)?);
    let mut table = Table::new();
    table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED).set_header([
        "from",
        "to",
        "what",
        "expected",
        "observed",
        "as expected",
    ]);
    for row in &rows {
        table.add_row([
            row.from,
            &row.to,
            &row.what,
            &row.expected,
            &row.observed,
            if row.as_expected { "yes" } else { "NO" },
        ]);
    }
    let text: Vec<String> = table.lines().map(|line| format!("   {line}")).collect();
    stage.print(&text.join("\n"))?;
    Ok(rows.iter().all(|row| row.as_expected))
}

/// Probes all connections over one family.
fn probe_family(shop: &Shop, v6: bool, rows: &mut Vec<ProbeRow>) -> Result<(), DemoError> {
    let ip = |name: &str| shop.member(name)?.attached.ip(v6);
    let (client, web, host) = (
        shop.member("client")?.pod.ns(),
        shop.member("web-1")?.pod.ns(),
        shop.node.ns(),
    );
    let service = Shop::service(v6).ip();
    let node = shop.node.internal_ips()[usize::from(v6)];
    let outside = shop.lab.outside_ips()[usize::from(v6)];

    let answered = traffic::ping(client, ip("web-1")?, 5)?;
    rows.push(ProbeRow {
        from: "client",
        to: "web-1".to_owned(),
        what: format!("{} {}", if v6 { "ping6" } else { "ping" }, ip("web-1")?),
        expected: "5 of 5 answered".to_owned(),
        observed: format!("{answered} of 5 answered"),
        as_expected: answered == 5,
    });
    rows.push(expect_both_backends(client, SocketAddr::new(service, WEB_PORT))?);
    rows.push(expect_answer(
        "web-1",
        web,
        "db",
        ip("db")?,
        DB_PORT,
        "allowed by shop/db-from-web",
    )?);
    rows.push(expect(
        "client",
        client,
        "db",
        (ip("db")?, DB_PORT, "no policy allows it"),
        &ProbeOutcome::NoAnswer,
        "no answer".to_owned(),
    )?);
    rows.push(expect(
        "client",
        client,
        "Service shop/web",
        (service, WEB_PORT + 1, "the Service has no such port"),
        &ProbeOutcome::Refused,
        "refused at once".to_owned(),
    )?);
    rows.push(expect_any_backend(
        "web-1",
        web,
        "Service shop/web",
        service,
        "its own Service (hairpin)",
    )?);
    rows.push(expect_answer(
        "client",
        client,
        "node-1",
        node,
        HOST_PORT,
        "a process of the node",
    )?);
    rows.push(expect_answer(
        "node-1",
        host,
        "client",
        ip("client")?,
        WEB_TARGET,
        "as a kubelet probe",
    )?);
    rows.push(expect_any_backend(
        "node-1",
        host,
        "Service shop/web",
        service,
        "from the node",
    )?);
    rows.push(expect_answer(
        "client",
        client,
        "outside",
        outside,
        OUTSIDE_PORT,
        "masqueraded by the node",
    )?);
    Ok(())
}

/// Describes a TCP connection.
fn tcp(to: SocketAddr, note: &str) -> String {
    format!("TCP {to}, {note}")
}

/// Probes a connection that a named server should answer.
fn expect_answer(
    from: &'static str,
    ns: &NetNs,
    name: &str,
    ip: IpAddr,
    port: u16,
    note: &str,
) -> Result<ProbeRow, LabError> {
    let wanted = ProbeOutcome::Answered(name.to_owned());
    expect(from, ns, name, (ip, port, note), &wanted, format!("{name} answers"))
}

/// Probes a connection that should have this outcome; `expected` says so.
fn expect(
    from: &'static str,
    ns: &NetNs,
    name: &str,
    (ip, port, note): (IpAddr, u16, &str),
    wanted: &ProbeOutcome,
    expected: String,
) -> Result<ProbeRow, LabError> {
    let to = SocketAddr::new(ip, port);
    // Silence is expected for as long as a handshake and its first retry take; anything else comes sooner.
    let bound = if *wanted == ProbeOutcome::NoAnswer {
        SILENCE
    } else {
        BOUND
    };
    let reach = traffic::tcp_request(ns, to, "", bound)?;
    Ok(ProbeRow {
        from,
        to: name.to_owned(),
        what: tcp(to, note),
        expected,
        observed: reach.to_string(),
        as_expected: reach == *wanted,
    })
}

/// Probes the Service eight times. Each time one of the backends should answer.
fn expect_any_backend(
    from: &'static str,
    ns: &NetNs,
    name: &str,
    ip: IpAddr,
    note: &str,
) -> Result<ProbeRow, LabError> {
    let to = SocketAddr::new(ip, WEB_PORT);
    let mut answered = 0;
    for _ in 0..8 {
        answered += usize::from(traffic::tcp_request(ns, to, "", BOUND)?.is_answered());
    }
    Ok(ProbeRow {
        from,
        to: name.to_owned(),
        what: tcp(to, note),
        expected: "8 of 8 answered".to_owned(),
        observed: format!("{answered} of 8 answered"),
        as_expected: answered == 8,
    })
}

/// Opens many connections to the Service. Both backends should answer some of them.
fn expect_both_backends(ns: &NetNs, to: SocketAddr) -> Result<ProbeRow, LabError> {
    let mut answered = 0;
    let mut names = BTreeSet::new();
    for _ in 0..CONNECTIONS {
        if let ProbeOutcome::Answered(name) = traffic::tcp_request(ns, to, "", BOUND)? {
            answered += 1;
            names.insert(name);
        }
    }
    let who = names.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
    Ok(ProbeRow {
        from: "client",
        to: "Service shop/web".to_owned(),
        what: format!("TCP {to}, {CONNECTIONS} connections"),
        expected: format!("{CONNECTIONS} answered by web-1 and web-2"),
        observed: format!("{answered} answered by {who}"),
        as_expected: answered == CONNECTIONS && names.len() == 2,
    })
}

/// Transfers data from the client to a backend and compares every byte.
fn bulk(shop: &Shop) -> Result<ProbeRow, DemoError> {
    let (client, web) = (shop.member("client")?, shop.member("web-1")?);
    let to = web.at(false, 5001)?;
    let took = traffic::bulk(client.pod.ns(), web.pod.ns(), to, 5001, BULK)?;
    let rate = BULK as f64 * 8.0 / took.as_secs_f64() / 1e9;
    Ok(ProbeRow {
        from: "client",
        to: "web-1".to_owned(),
        what: format!("TCP {to}, {} MiB", BULK >> 20),
        expected: "every byte arrives".to_owned(),
        observed: format!("every byte arrived, {rate:.1} Gbit/s"),
        as_expected: true,
    })
}
