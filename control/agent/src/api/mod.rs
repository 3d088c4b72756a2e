//! The agent's two sockets: HTTP with JSON over unix sockets in the run directory (`heddle-proto` has messages and routes).
//!
//! A request of the CNI socket becomes a [`Request`] to the controller, which owns the attachments and answers through
//! a channel. The controller serves requests one after the other, so concurrent requests cannot disturb each other. The
//! read model answers queries of the operator's socket, without the controller. This module only decodes, limits and
//! encodes.

pub mod server;
mod socket;

use heddle_proto::{
    Attachment, CniError, ContainerId, IfName, PrepareRequest, Prepared, Readiness, Ready, ReadyRequest, Released,
    cni_routes,
};
use tokio::sync::oneshot;

pub use server::{ApiError, Server};

/// The channel for the answer to a request. If the client has disconnected, the answer is dropped.
pub type Reply<T> = oneshot::Sender<Result<T, CniError>>;

macro_rules! requests {
    ($($variant:ident $name:ident: $method:ident $path:literal
        [$($param:ident: $param_type:ident),*] [$($body:ident)?] -> $answer:ident, $doc:literal;)*) => {
        /// A request of the CNI socket to the controller, made from the list of routes.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "the fields are the route's parameters, body and answer")]
        pub enum Request {$(
            #[doc = $doc]
            $variant {
                $($param: $param_type,)*
                $(request: $body,)?
                reply: Reply<$answer>,
            },
        )*}
    };
}

cni_routes!(requests);
