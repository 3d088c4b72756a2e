//! Aliases: frontends that are reached under another address and port too.
//!
//! What a process of the node sends to an address that the node itself holds never leaves the node, unless its kernel is
//! told to send it elsewhere: to an address that only heddle has, with a port for each frontend. Which, is the agent's to
//! choose; whoever comes by it is treated as at the frontend itself.

use std::collections::BTreeSet;

use heddle_model::{Cluster, ObjectKey};
use heddle_tables::FrontendKey;

use crate::compiler::Compiler;

impl Compiler {
    /// Says where frontends, whichever Services have them, are reached too; `None`: nowhere else. Each Service is compiled
    /// once for all of them.
    pub fn set_aliases(
        &mut self,
        cluster: &Cluster,
        news: impl IntoIterator<Item = (FrontendKey, Option<FrontendKey>)>,
    ) {
        let mut concerned: BTreeSet<ObjectKey> = BTreeSet::new();
        for (of, at) in news {
            let before = match at {
                Some(at) => self.aliases.insert(of, at),
                None => self.aliases.remove(&of),
            };
            if before != at {
                concerned.extend(cluster.services_at(of.ip.to_std()).map(|service| service.key.clone()));
            }
        }
        for service in concerned {
            self.settle_service(cluster, &service);
        }
    }
}
