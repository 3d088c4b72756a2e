//! Who reaches whom: real connections, each with what it should come to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use comfy_table::{Table, presets};
use heddle_lab::shop::{DB_PORT, Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{LabError, NetNs};

use super::{DemoError, Stage};

const BOUND: Duration = Duration::from_secs(3);
/// Long enough for a handshake in this machine's memory, short enough that a newcomer does not wait.
const SILENCE: Duration = Duration::from_millis(800);
/// With two backends and a fair choice, one of them stays unasked with a probability of 2^-31.
const ASKED: usize = 32;
const BULK: u64 = 256 << 20;
const HOST_PORT: u16 = 10_250;
const OUTSIDE_PORT: u16 = 443;

struct Row {
    from: &'static str,
    to: String,
    what: String,
    expected: String,
    seen: String,
    fine: bool,
}

/// Runs all probes, prints the table; whether all came to what was expected.
pub fn run(stage: &mut Stage, shop: &Shop) -> Result<bool, DemoError> {
    stage.chapter("Who reaches whom")?;
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
        stage.say(if v6 {
            "   the same over IPv6 ..."
        } else {
            "   over IPv4 ..."
        })?;
        family(shop, v6, &mut rows)?;
    }
    stage.say(&format!(
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
        "seen",
        "as expected",
    ]);
    for row in &rows {
        table.add_row([
            row.from,
            &row.to,
            &row.what,
            &row.expected,
            &row.seen,
            if row.fine { "yes" } else { "NO" },
        ]);
    }
    let text: Vec<String> = table.lines().map(|line| format!("   {line}")).collect();
    stage.say(&text.join("\n"))?;
    Ok(rows.iter().all(|row| row.fine))
}

fn family(shop: &Shop, v6: bool, rows: &mut Vec<Row>) -> Result<(), DemoError> {
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
    rows.push(Row {
        from: "client",
        to: "web-1".to_owned(),
        what: format!("{} {}", if v6 { "ping6" } else { "ping" }, ip("web-1")?),
        expected: "5 of 5 answered".to_owned(),
        seen: format!("{answered} of 5 answered"),
        fine: answered == 5,
    });
    rows.push(both_backends(client, SocketAddr::new(service, WEB_PORT))?);
    rows.push(hears(
        "web-1",
        web,
        "db",
        ip("db")?,
        DB_PORT,
        "allowed by shop/db-from-web",
    )?);
    rows.push(silent(
        "client",
        client,
        "db",
        ip("db")?,
        DB_PORT,
        "no policy allows it",
    )?);
    rows.push(refused(
        "client",
        client,
        "Service shop/web",
        service,
        WEB_PORT + 1,
        "the Service has no such port",
    )?);
    rows.push(either(
        "web-1",
        web,
        "Service shop/web",
        service,
        "its own Service (hairpin)",
    )?);
    rows.push(hears(
        "client",
        client,
        "node-1",
        node,
        HOST_PORT,
        "a process of the node",
    )?);
    rows.push(hears(
        "node-1",
        host,
        "client",
        ip("client")?,
        WEB_TARGET,
        "as a kubelet probe",
    )?);
    rows.push(either("node-1", host, "Service shop/web", service, "from the node")?);
    rows.push(hears(
        "client",
        client,
        "outside",
        outside,
        OUTSIDE_PORT,
        "masqueraded by the node",
    )?);
    Ok(())
}

fn tcp(to: SocketAddr, note: &str) -> String {
    format!("TCP {to}, {note}")
}

fn seen(reach: &ProbeOutcome) -> String {
    match reach {
        ProbeOutcome::Answered(name) => format!("{name} answered"),
        ProbeOutcome::Refused => "refused at once".to_owned(),
        ProbeOutcome::Unreachable => "unreachable".to_owned(),
        ProbeOutcome::NoAnswer => "no answer".to_owned(),
    }
}

fn hears(from: &'static str, ns: &NetNs, name: &str, ip: IpAddr, port: u16, note: &str) -> Result<Row, LabError> {
    let to = SocketAddr::new(ip, port);
    let reach = traffic::tcp_request(ns, to, "", BOUND)?;
    let fine = reach == ProbeOutcome::Answered(name.to_owned());
    let expected = format!("{name} answers");
    Ok(Row {
        from,
        to: name.to_owned(),
        what: tcp(to, note),
        expected,
        seen: seen(&reach),
        fine,
    })
}

fn silent(from: &'static str, ns: &NetNs, name: &str, ip: IpAddr, port: u16, note: &str) -> Result<Row, LabError> {
    let to = SocketAddr::new(ip, port);
    let reach = traffic::tcp_request(ns, to, "", SILENCE)?;
    let fine = reach == ProbeOutcome::NoAnswer;
    Ok(Row {
        from,
        to: name.to_owned(),
        what: tcp(to, note),
        expected: "no answer".to_owned(),
        seen: seen(&reach),
        fine,
    })
}

fn refused(from: &'static str, ns: &NetNs, name: &str, ip: IpAddr, port: u16, note: &str) -> Result<Row, LabError> {
    let to = SocketAddr::new(ip, port);
    let reach = traffic::tcp_request(ns, to, "", BOUND)?;
    let fine = reach == ProbeOutcome::Refused;
    Ok(Row {
        from,
        to: name.to_owned(),
        what: tcp(to, note),
        expected: "refused at once".to_owned(),
        seen: seen(&reach),
        fine,
    })
}

/// One of the backends answers, whichever, eight times out of eight.
fn either(from: &'static str, ns: &NetNs, name: &str, ip: IpAddr, note: &str) -> Result<Row, LabError> {
    let to = SocketAddr::new(ip, WEB_PORT);
    let mut answered = 0;
    for _ in 0..8 {
        answered += usize::from(traffic::tcp_request(ns, to, "", BOUND)?.is_answered());
    }
    Ok(Row {
        from,
        to: name.to_owned(),
        what: tcp(to, note),
        expected: "8 of 8 answered".to_owned(),
        seen: format!("{answered} of 8 answered"),
        fine: answered == 8,
    })
}

fn both_backends(ns: &NetNs, to: SocketAddr) -> Result<Row, LabError> {
    let mut answered = 0;
    let mut names = BTreeSet::new();
    for _ in 0..ASKED {
        if let ProbeOutcome::Answered(name) = traffic::tcp_request(ns, to, "", BOUND)? {
            answered += 1;
            names.insert(name);
        }
    }
    let who = names.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
    Ok(Row {
        from: "client",
        to: "Service shop/web".to_owned(),
        what: format!("TCP {to}, {ASKED} connections"),
        expected: format!("{ASKED} answered by web-1 and web-2"),
        seen: format!("{answered} answered by {who}"),
        fine: answered == ASKED && names.len() == 2,
    })
}

fn bulk(shop: &Shop) -> Result<Row, DemoError> {
    let (client, web) = (shop.member("client")?, shop.member("web-1")?);
    let to = web.at(false, 5001)?;
    let took = traffic::bulk(client.pod.ns(), web.pod.ns(), to, 5001, BULK)?;
    let rate = BULK as f64 * 8.0 / took.as_secs_f64() / 1e9;
    Ok(Row {
        from: "client",
        to: "web-1".to_owned(),
        what: format!("TCP {to}, {} MiB", BULK >> 20),
        expected: "every byte arrives".to_owned(),
        seen: format!("every byte arrived, {rate:.1} Gbit/s"),
        fine: true,
    })
}
