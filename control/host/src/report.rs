//! The reports and the state of the host task.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use heddle_wire::MacAddr;

use crate::error::HostError;
use crate::underlay::Underlay;
use crate::uplink::Uplink;

/// The properties of the host port's pair of interfaces that the dataplane needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLink {
    /// The Ethernet address of the node's end.
    pub mac: MacAddr,
    /// The interface index of the node's end.
    pub index: u32,
    /// The interface index of the dataplane's end, which the host port's queues are opened on.
    pub peer_index: u32,
}

/// An outcome or an observation of the host task.
#[derive(Debug)]
pub enum Report {
    /// A plan was applied.
    Reconciled {
        /// The revision that came with the plan.
        revision: u64,
        /// The steps that failed. The task tries them again.
        failures: Vec<HostError>,
    },
    /// The host port's node end has another MAC. The tables need the new one.
    Changed(HostLink),
    /// Interfaces of ports that lost their XDP program or have another one. The controller attaches it again.
    ProgramsLost(Vec<PortLink>),
    /// Interfaces of ports are gone, because somebody deleted them or the pod's namespace. The controller looks for them and
    /// closes the ports.
    LinksGone,
    /// Somebody deleted the host port's pair, and it was re-created. The controller reopens the queues.
    Recreated(HostLink),
    /// Somebody deleted the host port's pair, and it cannot be re-created now. The task tries again with growing pauses, up to 30 s.
    Lost(HostError),
    /// The addresses of the node's interfaces, without the ones that only the node itself can use. Sent first after the first
    /// look, before [`Report::Uplink`], and after each change.
    Addresses(BTreeSet<IpAddr>),
    /// The uplink, sent after the first search and after each change.
    Uplink(Option<Uplink>),
    /// The uplink's properties, its neighbors and the paths to the other nodes, sent after the first look and after each change.
    Underlay(Arc<Underlay>),
}

/// The receiver of reports, which the parts of the host task share. They run on one thread.
#[derive(Clone)]
pub(crate) struct Reporter(Rc<RefCell<dyn FnMut(Report)>>);

impl Reporter {
    pub(crate) fn new(receiver: impl FnMut(Report) + 'static) -> Self {
        Self(Rc::new(RefCell::new(receiver)))
    }

    /// Sends a report.
    pub(crate) fn send(&self, report: Report) {
        (self.0.borrow_mut())(report);
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

/// The host task's last state, for `status` and metrics.
#[derive(Debug, Clone, Default)]
pub struct HostStatus {
    /// The pair of interfaces; `None` while it is deleted.
    pub link: Option<HostLink>,
    /// The uplink.
    pub uplink: Option<Uplink>,
    /// The revision of the plan that was applied last.
    pub revision: u64,
    /// The time at which the kernel's state was last compared with the plan and no difference was left.
    pub verified_at: Option<Instant>,
    /// The differences that could not be removed. `None` until the first plan was applied.
    pub differences: Option<Vec<String>>,
    /// The number of differences that others have made and that heddle has removed.
    pub repaired: u64,
    /// The underlay that was reported last; `None` until the first look.
    pub underlay: Option<Arc<Underlay>>,
    /// The reasons why the underlay may be incomplete: questions and steps that failed, one line for each kind of error. The node's
    /// own state is good all the same, so [`HostStatus::problem`] leaves them out.
    pub underlay_problems: Vec<String>,
}

impl HostStatus {
    /// Returns the reason why the node's kernel state does not do what it should; `None` if it works.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match &self.differences {
            None => Some("the host port has no plan yet".to_owned()),
            Some(differences) => differences.first().map(|first| match differences.len() {
                1 => first.clone(),
                n => format!("{first} (and {} more)", n - 1),
            }),
        }
    }
}

/// An interface with an open port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortLink {
    /// The interface's index.
    pub index: u32,
    /// The interface's name.
    pub name: String,
}

/// The interfaces with open ports, and the XDP program that each of them must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortLinks {
    /// The program's id.
    pub program: u32,
    /// The interfaces.
    pub links: BTreeSet<PortLink>,
}
