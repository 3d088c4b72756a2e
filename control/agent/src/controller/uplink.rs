//! What the uplink takes: watched, told to the tables, and given to the host port.

use heddle_compile::UplinkMtu;

use super::Controller;
use heddle_host::uplink::{self, Uplink};

/// What is taken for the uplink's MTU while nobody knows it: Ethernet's.
pub(super) const USUAL_MTU: u16 = 1500;

impl Controller {
    /// What fits the uplink, as far as it is known.
    pub(super) fn uplink_mtu(&self) -> UplinkMtu {
        let node = self.cluster.node(&self.settings.node);
        // Nodes that have both reach each other over IPv4, which takes less.
        let over_ipv6 =
            node.is_some_and(|n| !n.internal_ips.is_empty() && n.internal_ips.iter().all(|ip| ip.is_ipv6()));
        UplinkMtu::new(self.uplink.as_ref().map_or(USUAL_MTU, |u| u.mtu), over_ipv6)
    }

    /// Looks at the uplink, and passes on what has changed.
    pub(super) fn look_at_uplink(&mut self) {
        let addresses = self
            .cluster
            .node(&self.settings.node)
            .map(|node| node.internal_ips.clone())
            .unwrap_or_default();
        let name = self.settings.uplink.as_deref();
        let known = self.uplink.as_ref().map(|u| u.index);
        let host = &self.host;
        let found = self.runtime.block_on(async {
            if let Some(index) = known
                && let Some(uplink) = uplink::read(host.handle(), index).await?
            {
                return Ok(Some(uplink));
            }
            uplink::find(host.handle(), name, &addresses).await
        });
        match found {
            Ok(found) => self.set_uplink(found),
            Err(e) => tracing::warn!("looking at the uplink: {e}"),
        }
        self.set_host_mtu();
        let mtu = self.uplink_mtu();
        if let Some(compiler) = &mut self.compiler
            && compiler.set_uplink_mtu(mtu)
        {
            self.dirty = true;
        }
    }

    fn set_uplink(&mut self, found: Option<Uplink>) {
        if self.uplink == found && (found.is_some() || self.compiler.is_some()) {
            return;
        }
        match &found {
            Some(uplink) => tracing::info!(uplink = uplink.name, mtu = uplink.mtu, "the uplink"),
            None => tracing::warn!(
                "no interface is the uplink (key uplink, else the one with the node's InternalIP): {USUAL_MTU} is taken \
                 for its MTU"
            ),
        }
        self.uplink = found;
    }

    /// Gives the host port the uplink's MTU.
    pub(super) fn set_host_mtu(&mut self) {
        let mtu = self.uplink_mtu().direct;
        if let Err(e) = self.runtime.block_on(self.host.set_mtu(mtu.into())) {
            tracing::error!("the host port: {e}");
        }
    }
}
