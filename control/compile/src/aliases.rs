//! Aliases: frontends that are reached under another address and port too.
//!
//! What a process of the node sends to an address that the node itself holds never leaves the node, unless its kernel is
//! told to send it elsewhere: to an address that only heddle has, with a port for each frontend. Which, is the agent's to
//! choose; whoever comes by it is treated as at the frontend itself.

use heddle_model::{Cluster, ObjectKey};
use heddle_tables::FrontendKey;

use crate::compiler::Compiler;

impl Compiler {
    /// Says where the frontend `of`, whichever Service has it, is reached too; `None`: nowhere else.
    pub fn set_alias(&mut self, cluster: &Cluster, of: FrontendKey, at: Option<FrontendKey>) {
        let before = match at {
            Some(at) => self.aliases.insert(of, at),
            None => self.aliases.remove(&of),
        };
        if before == at {
            return;
        }
        let concerned: Vec<ObjectKey> = cluster.services_at(of.ip.to_std()).map(|s| s.key.clone()).collect();
        for service in concerned {
            self.settle_service(cluster, &service);
        }
    }
}
