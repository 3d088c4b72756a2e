//! ADD: creates a pod's interface.
//!
//! An ADD that fails leaves nothing behind: it deletes what it created, and the first error is the result. If something
//! cannot be deleted, the error's details say so, and the runtime's DEL tries again. An ADD that is killed leaves its
//! interface to DEL too.

use std::net::IpAddr;
use std::os::fd::AsFd;

use heddle_linux::sysctl::{IpVersion, write_interface};
use heddle_linux::{Link, LinuxError, Netlink, Netns, VethPair};
use heddle_proto::{Client, ClientError, CniError, ErrorCode, NetnsPath, PrepareRequest, Prepared, ReadyRequest};

use crate::config::NetConf;
use crate::env::Target;
use crate::kernel::{KernelError, open_netns};
use crate::{agent, pod, port_mappings, result};

/// Attaches the pod and returns the result as JSON.
///
/// # Errors
/// See [`ErrorCode`].
pub async fn attach_pod(conf: &NetConf, target: &Target, path: &NetnsPath) -> Result<String, CniError> {
    let netns = open_netns(path)?;
    // Check that the interface's name is free before the agent allocates addresses.
    if pod::find(&netns, &target.ifname)?.is_some() {
        return Err(CniError::new(
            ErrorCode::INVALID_ENVIRONMENT,
            format!(
                "CNI_IFNAME: the network namespace {path} already has an interface {}: choose another name, or DEL first",
                target.ifname
            ),
        ));
    }
    let mut agent = agent::connect(conf).await?;
    let request = PrepareRequest {
        container: target.container.clone(),
        ifname: target.ifname.clone(),
        netns: path.clone(),
        pod: target.pod.clone(),
        mtu: conf.mtu,
        port_mappings: port_mappings::of(conf)?,
    };
    let prepared = match agent.prepare(&request).await {
        Ok(prepared) => prepared,
        Err(e) => {
            let error = agent::cni_error(&e);
            // If the answer was lost or could not be decoded, the agent may have created the attachment.
            return match e {
                ClientError::Refused { .. } => Err(error),
                _ => Err(undo(&mut agent, target, None, error).await),
            };
        }
    };
    // From here on a failure is undone.
    let mut made = None;
    match attach(conf, target, &netns, &prepared, &mut agent, &mut made).await {
        Ok(host) => Ok(result::added(
            conf.version,
            &prepared,
            host.mac.unwrap_or_default(),
            target,
            path.as_str(),
        )),
        Err(error) => Err(undo(&mut agent, target, made.as_ref(), error).await),
    }
}

/// Checks the agent's answer before any of it goes to the kernel.
fn validate(prepared: &Prepared) -> Result<(), CniError> {
    let wrong = |what: String| {
        Err(CniError::new(
            ErrorCode::AGENT,
            format!("the agent's answer cannot be used: {what}"),
        ))
    };
    // The addresses with their gateways, the routes with their gateways and sources, and the MAC addresses.
    if prepared.addresses.is_empty() {
        return wrong("it has no address".to_owned());
    }
    if let Some(a) = prepared
        .addresses
        .iter()
        .find(|a| a.address.is_ipv4() != a.gateway.is_ipv4())
    {
        return wrong(format!(
            "address {} has gateway {} of the other family",
            a.address, a.gateway
        ));
    }
    if let Some(r) = prepared
        .routes
        .iter()
        .find(|r| r.dst.addr().is_ipv4() != r.via.is_ipv4())
    {
        return wrong(format!(
            "the route to {} has gateway {} of the other family",
            r.dst, r.via
        ));
    }
    if let Some(max) = prepared.max_segment.filter(|max| *max < prepared.mtu) {
        return wrong(format!(
            "segments of at most {max} bytes are smaller than the MTU {}",
            prepared.mtu
        ));
    }
    let has = |src: IpAddr| prepared.addresses.iter().any(|a| a.address == src);
    if let Some(src) = prepared.routes.iter().filter_map(|r| r.src).find(|src| !has(*src)) {
        return wrong(format!("a route has source {src}, which is not the pod's"));
    }
    for (whose, mac) in [("the pod's", prepared.mac), ("the gateway's", prepared.gateway_mac)] {
        if mac.is_multicast() || mac.0 == [0; 6] {
            return wrong(format!("{whose} Ethernet address is {mac}"));
        }
    }
    Ok(())
}

/// Creates the veth pair, configures both ends, and waits until the agent forwards. `made` is set as soon as there is an
/// interface to delete.
async fn attach(
    conf: &NetConf,
    target: &Target,
    netns: &Netns,
    prepared: &Prepared,
    agent: &mut Client,
    made: &mut Option<Link>,
) -> Result<Link, CniError> {
    validate(prepared)?;
    let netlink = Netlink::open().map_err(KernelError::from)?;
    let name = prepared.host_ifname.as_str();
    // The attachment's id belongs to this call alone, so an interface of this name was left by a call that was killed.
    match netlink.link(name).map_err(KernelError::from)? {
        Some(stale) if stale.veth => {
            netlink.delete_link(&stale).map_err(KernelError::from)?;
        }
        Some(_) => {
            return Err(CniError::new(
                ErrorCode::KERNEL,
                format!(
                    "the node has an interface {name} that is no veth: rename or delete it, because heddle needs the name"
                ),
            ));
        }
        None => {}
    }
    // Create the pair, with the pod's end in the pod's namespace.
    let pair = VethPair {
        name,
        peer: target.ifname.as_str(),
        queues: 1,
        mtu: prepared.mtu,
        peer_netns: Some(netns.as_fd()),
        peer_mac: Some(prepared.mac),
    };
    netlink.add_veth(&pair).map_err(KernelError::from)?;
    let host = netlink.link(name).map_err(KernelError::from)?;
    let host = host.ok_or_else(|| KernelError::vanished(&format!("{name}, which was just created")))?;
    *made = Some(host.clone());

    // This end is for heddle alone. Until the agent's XDP program is attached to it, the node's kernel must neither
    // send here (`arp_ignore` 8: no answers; `addr_gen_mode` 1: no link-local address) nor forward packets from here.
    let quiet = || -> Result<(), LinuxError> {
        write_interface(IpVersion::V4, name, &[("forwarding", "0"), ("arp_ignore", "8")])?;
        let values = [("addr_gen_mode", "1"), ("accept_ra", "0"), ("disable_ipv6", "1")];
        write_interface(IpVersion::V6, name, &values)?;
        netlink.set_up(&host)
    };
    quiet().map_err(KernelError::from)?;
    let pod_end = pod::configure(netns, &target.ifname, prepared, conf.tx_off)?;

    // The agent opens the port and answers when it forwards.
    let request = ReadyRequest {
        attachment: prepared.attachment,
        host_ifindex: host.index,
        host_mac: host.mac.unwrap_or_default(),
        pod_mac: pod_end.link.mac.unwrap_or_default(),
        tcp_segments_only: pod_end.tcp_segments_only,
    };
    agent
        .ready(&target.container, &target.ifname, &request)
        .await
        .map_err(|e| agent::cni_error(&e))?;
    Ok(host)
}

/// Undoes an ADD that failed and returns its error. The interface is deleted first, so that nobody uses the address when the
/// agent allocates it again.
async fn undo(agent: &mut Client, target: &Target, made: Option<&Link>, mut error: CniError) -> CniError {
    let mut failed = Vec::new();
    if let Some(link) = made
        && let Err(e) = Netlink::open().and_then(|netlink| netlink.delete_link(link))
    {
        failed.push(e.to_string());
    }
    // With the interface still there, its address is still in use: the attachment stays for DEL.
    if failed.is_empty()
        && let Err(e) = agent.release(&target.container, &target.ifname).await
    {
        failed.push(e.to_string());
    }
    for what in failed {
        if !error.details.is_empty() {
            error.details.push_str("; ");
        }
        error.details.push_str("could not be undone: ");
        error.details.push_str(&what);
    }
    error
}
