//! The report about this node that its Node object carries.

use std::collections::BTreeMap;

use heddle_model::VTEP_ANNOTATION;
use heddle_source::kube::{NodeReport, VERSION_ANNOTATION, VTEP_ADDRESS_ANNOTATION};
use heddle_wire::MacAddr;

use super::state::Controller;

impl Controller {
    /// Reports that this node's dataplane is up, where it takes tunnelled packets, and the agent's version.
    pub(super) fn report_node(&self) {
        let Some(reporter) = &self.reporter else { return };
        let mut annotations = BTreeMap::from([(VERSION_ANNOTATION, env!("CARGO_PKG_VERSION").to_owned())]);
        // Other nodes send by the uplink as soon as they see it.
        if self.workers.uplink().is_some() {
            let addresses = self.objects.facts().internal_ips().iter().map(ToString::to_string);
            annotations.insert(VTEP_ANNOTATION, MacAddr::of_vtep(&self.settings.node).to_string());
            annotations.insert(VTEP_ADDRESS_ANNOTATION, addresses.collect::<Vec<_>>().join(","));
        }
        reporter.set_node(NodeReport { annotations });
    }

    /// Sets the way to write to the API server. `run` calls it before [`Controller::run`].
    pub fn set_reporter(&mut self, reporter: heddle_source::kube::Reporter) {
        self.reporter = Some(reporter);
    }
}
