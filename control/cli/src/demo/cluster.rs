//! The node and the pods of the demo's first part: creation, status and removal.

use heddle_lab::shop::{Shop, WEB_PORT};
use heddle_lab::{Binaries, NodePlan, run_with_input};
use nix::sys::signal::Signal;

use super::error::DemoError;
use super::stage::Stage;

/// Creates the node, starts the agent and attaches the pods.
pub fn build(stage: &mut Stage, binaries: Binaries) -> Result<Shop, DemoError> {
    stage.chapter("A node, and heddle's agent on it")?;
    let mut shop = Shop::new(binaries, NodePlan::new("node-1", 1))?;
    let [v4, v6] = shop.node.internal_ips();
    let ns = shop.node.ns().name();
    stage.print(&format!(
        "   network namespace {ns}: node-1 with {v4} and {v6}, and an uplink to an outside world"
    ))?;
    stage.print("   objects: Namespace shop, Service shop/web (dual stack), NetworkPolicy shop/db-from-web:")?;
    stage.print("   only pods labelled app=web may reach pods labelled app=db, and only at TCP port 5432")?;
    shop.node.start_agent()?;
    if let Some(agent) = shop.node.agent() {
        stage.print(&format!(
            "   heddle run: process {}, one worker thread pinned to core 0",
            agent.id()
        ))?;
    }

    stage.chapter("Four pods, attached by the CNI plugin (heddle-cni ADD)")?;
    for (name, app) in [("web-1", "web"), ("web-2", "web"), ("client", "client"), ("db", "db")] {
        let member = shop.add_pod(name, app)?;
        let ips = member
            .attached
            .ips
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("  ");
        stage.print(&format!("   shop/{name:<8} app={app:<8} {ips}"))?;
    }
    shop.publish_endpoints()?;
    let [s4, s6] = Shop::SERVICE_IPS;
    stage.print(&format!(
        "   Service shop/web at {s4} and {s6}, port {WEB_PORT}, now has web-1 and web-2 as its backends"
    ))?;
    Ok(shop)
}

/// Returns the output of `heddle status`, indented.
pub fn status(shop: &Shop) -> Result<String, DemoError> {
    let out = shop
        .node
        .ns()
        .enter(|| run_with_input(&mut shop.node.heddle("status"), ""))?;
    let lines = out.stdout.lines().chain(out.stderr.lines());
    Ok(lines
        .map(|line| format!("   {line}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n"))
}

/// Detaches the pods with `heddle-cni DEL`, stops the agent, and removes the agent's state with `heddle cleanup`.
/// Dropping `shop` removes the laboratory.
pub fn clean_up(mut shop: Shop, stage: &mut Stage) -> Result<(), DemoError> {
    for member in shop.members() {
        shop.node.end_pod(&member.pod)?;
    }
    stage.print("   heddle-cni DEL for four pods")?;
    shop.node.stop_agent(Signal::SIGTERM)?;
    let out = shop.node.cleanup()?;
    for line in out.stdout.lines().chain(out.stderr.lines()) {
        stage.print(&format!("   heddle cleanup: {line}"))?;
    }
    Ok(())
}

/// Keeps the node and its pods, and prints commands to explore them.
pub fn keep(mut shop: Shop, stage: &mut Stage) -> Result<(), DemoError> {
    stage.chapter("The first node and its pods are kept. Commands to explore them:")?;
    let heddle = shop.node.heddle("status").get_program().display().to_string();
    stage.print(&format!(
        "   {heddle} status --run-dir {}",
        shop.node.run_dir().display()
    ))?;
    stage.print(&format!("   less {}", shop.node.log().display()))?;
    stage.print(&format!(
        "   ls {}      # change these files while it runs",
        shop.node.manifests().display()
    ))?;
    for member in shop.members() {
        let path = member.pod.ns().path().display();
        stage.print(&format!(
            "   nsenter --net={path} ip address      # pod {}",
            member.pod.name
        ))?;
    }
    let client = shop.member("client")?.pod.ns().path().display();
    let web = shop.member("web-1")?.attached.ip(false)?;
    stage.print(&format!(
        "   nsenter --net={client} ping {web}      # from pod client to pod web-1"
    ))?;
    stage.print(&format!("   {heddle} demo --remove      # removes everything"))?;
    for member in shop.members() {
        member.pod.ns().keep();
    }
    shop.lab.keep()?;
    shop.node.keep();
    Ok(())
}
