//! The agent's two sockets: HTTP with JSON over unix sockets in the run directory (`heddle-proto` has the messages).
//!
//! A request becomes a [`Request`] to the control thread, which owns all state and answers by a channel; so requests
//! are served one after the other where they change something, and concurrent ones cannot tread on each other. Here are
//! only decoding, bounds and error answers.

pub mod server;
mod socket;

use heddle_proto::{
    Attachment, CniError, ContainerId, Drops, DropsRequest, Flows, FlowsRequest, IfName, PrepareRequest, Prepared,
    Readiness, Ready, ReadyRequest, Released, Status,
};
use tokio::sync::oneshot;

pub use server::{ApiError, Server};

/// Where an answer goes. Whoever asked may have gone; then it is dropped.
pub type Reply<T> = oneshot::Sender<Result<T, CniError>>;

/// What the sockets ask of the control thread.
#[derive(Debug)]
pub enum Request {
    /// An interface is wanted: number, addresses, names.
    Prepare {
        /// Who wants it.
        request: PrepareRequest,
        /// The answer.
        reply: Reply<Prepared>,
    },
    /// The interface stands; answered when it forwards.
    Ready {
        /// The container.
        container: ContainerId,
        /// The interface in it.
        ifname: IfName,
        /// The interface on the node.
        request: ReadyRequest,
        /// The answer.
        reply: Reply<Ready>,
    },
    /// The state of an attachment.
    Attachment {
        /// The container.
        container: ContainerId,
        /// The interface in it.
        ifname: IfName,
        /// The answer.
        reply: Reply<Attachment>,
    },
    /// An attachment is given back.
    Release {
        /// The container.
        container: ContainerId,
        /// The interface in it.
        ifname: IfName,
        /// The answer.
        reply: Reply<Released>,
    },
    /// Whether an ADD can be served.
    Readiness {
        /// The answer.
        reply: Reply<Readiness>,
    },
    /// The agent's state.
    Status {
        /// The answer.
        reply: Reply<Status>,
    },
    /// A page of the connections.
    Flows {
        /// Which of them.
        request: FlowsRequest,
        /// The answer.
        reply: Reply<Flows>,
    },
    /// The packets that were dropped last.
    Drops {
        /// Which of them.
        request: DropsRequest,
        /// The answer.
        reply: Reply<Drops>,
    },
}
