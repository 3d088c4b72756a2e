//! The report about this node that its Node object carries.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heddle_model::{VTEP_ANNOTATION, flannel};
use heddle_source::kube::{NodeReport, VERSION_ANNOTATION, VTEP_ADDRESS_ANNOTATION};
use heddle_wire::MacAddr;

use super::state::Controller;

impl Controller {
    /// Reports that this node's dataplane is up, where it takes tunnelled packets, and the agent's version.
    pub(super) fn report_node(&self) {
        let Some(reporter) = &self.reporter else { return };
        let mut annotations = BTreeMap::from([(VERSION_ANNOTATION, env!("CARGO_PKG_VERSION").to_owned())]);
        let mut withdrawn = BTreeMap::new();
        let (vtep, addresses) = (
            MacAddr::of_vtep(&self.settings.node),
            self.objects.facts().internal_ips(),
        );
        // Other nodes send by the uplink as soon as they see it.
        let is_open = self.workers.uplink().is_some();
        if is_open {
            let listed = addresses.iter().map(ToString::to_string);
            annotations.insert(VTEP_ANNOTATION, vtep.to_string());
            annotations.insert(VTEP_ADDRESS_ANNOTATION, listed.collect::<Vec<_>>().join(","));
        }
        let of_flannel = flannel_annotations(vtep, self.settings.vxlan.vni, addresses);
        if !self.settings.flannel_annotations {
            withdrawn = of_flannel;
        } else if is_open {
            annotations.extend(of_flannel);
        }
        reporter.set_node(NodeReport { annotations, withdrawn });
    }

    /// Sets the way to write to the API server. `run` calls it before [`Controller::run`].
    pub fn set_reporter(&mut self, reporter: heddle_source::kube::Reporter) {
        self.reporter = Some(reporter);
    }
}

/// Returns the annotations by which flanneld on other nodes finds this node: as flanneld itself writes them, with the first address
/// of each family. None without an address.
fn flannel_annotations(vtep: MacAddr, vni: u32, addresses: &[IpAddr]) -> BTreeMap<&'static str, String> {
    let data = format!("{{\"VNI\":{vni},\"VtepMAC\":\"{vtep}\"}}");
    let mut annotations = BTreeMap::new();
    for (is_v4, public_ip, backend_data) in [
        (true, flannel::PUBLIC_IP_ANNOTATION, flannel::BACKEND_DATA_ANNOTATION),
        (
            false,
            flannel::PUBLIC_IPV6_ANNOTATION,
            flannel::BACKEND_V6_DATA_ANNOTATION,
        ),
    ] {
        if let Some(address) = addresses.iter().find(|ip| ip.is_ipv4() == is_v4) {
            annotations.insert(public_ip, address.to_string());
            annotations.insert(backend_data, data.clone());
        }
    }
    if !annotations.is_empty() {
        annotations.insert(flannel::SUBNET_MANAGER_ANNOTATION, "true".to_owned());
        annotations.insert(flannel::BACKEND_TYPE_ANNOTATION, flannel::VXLAN_BACKEND.to_owned());
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_annotations_are_the_ones_that_flanneld_writes() {
        let vtep = MacAddr([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        let annotations = flannel_annotations(
            vtep,
            1,
            &["192.0.2.1", "192.0.2.9", "2001:db8::1"].map(|ip| ip.parse().unwrap()),
        );
        let shown: Vec<String> = annotations
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let prefix = "flannel.alpha.coreos.com/";
        assert_eq!(
            shown,
            [
                format!("{prefix}backend-data: {{\"VNI\":1,\"VtepMAC\":\"12:34:56:78:9a:bc\"}}"),
                format!("{prefix}backend-type: vxlan"),
                format!("{prefix}backend-v6-data: {{\"VNI\":1,\"VtepMAC\":\"12:34:56:78:9a:bc\"}}"),
                format!("{prefix}kube-subnet-manager: true"),
                format!("{prefix}public-ip: 192.0.2.1"),
                format!("{prefix}public-ipv6: 2001:db8::1"),
            ]
        );
        let v4_only = flannel_annotations(vtep, 1, &["192.0.2.1".parse().unwrap()]);
        assert_eq!(v4_only.len(), 4);
        assert!(flannel_annotations(vtep, 1, &[]).is_empty());
    }
}
