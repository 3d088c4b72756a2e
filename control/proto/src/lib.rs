//! The messages of the agent's two sockets, and a client for them.
//!
//! Both sockets speak HTTP/1.1 with JSON bodies over a unix socket in the agent's run directory:
//!
//! - [`CNI_SOCKET`] serves the CNI plugin ([`attachment`]): *prepare* allocates an attachment (id, addresses, routes),
//!   *ready* reports the interface and returns when the pod's first packet will be forwarded under its policy,
//!   *attachment* returns the state, *release* removes the attachment, and *readiness* fails if an ADD cannot be served.
//!   Its errors are [`CniError`]s.
//! - [`API_SOCKET`] serves the command line ([`status`], [`drops`], [`flows`]). Its errors are [`QueryError`]s.
//!
//! [`routes`] lists the routes of each socket. Requests refuse unknown fields and bound every string and list at
//! decoding. Answers ignore unknown fields, so that an older plugin or command understands a newer agent.
//!
//! The server is in `heddle-agent`; the clients are `heddle-cni` and the commands of `heddle-cli`. This crate defines,
//! checks and transports messages. It decides nothing about attachments, policy or packets.
//!
//! # Example: ask a running agent
//!
//! ```
//! use heddle_proto::{API_SOCKET, Client, ClientError, DEFAULT_RUN_DIR, DropsRequest};
//!
//! async fn print_drops(run_dir: &std::path::Path) -> Result<(), ClientError> {
//!     let mut agent = Client::connect(run_dir.join(API_SOCKET)).await?;
//!     let status = agent.status().await?;
//!     println!("{}: {} attachments", status.agent.node, status.attachments.len());
//!     let drops = agent.drops(&DropsRequest::default()).await?;
//!     for packet in drops.drops {
//!         println!("{} {}: {}", packet.time, packet.port, packet.meaning);
//!     }
//!     Ok(())
//! }
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! // Without an agent the error says what to start.
//! if let Err(error) = runtime.block_on(print_drops(DEFAULT_RUN_DIR.as_ref())) {
//!     println!("{error}");
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod attachment;
pub mod client;
mod client_error;
pub mod drops;
pub mod error;
pub mod flows;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod object;
pub mod path;
mod port_mapping;
pub mod request;
pub mod routes;
pub mod serde_mac;
mod socket_error;
pub mod status;
pub mod text;
pub mod units;

pub use attachment::{
    Attachment, AttachmentState, MAX_ROUTES, PodRef, PrepareRequest, Prepared, PreparedAddress, PreparedRoute,
    Readiness, Ready, ReadyRequest, Released,
};
pub use client::Client;
pub use client_error::ClientError;
pub use drops::{DropCursor, DroppedPacket, Drops, DropsRequest};
pub use error::{CniError, ErrorCode, QueryError, QueryErrorKind};
pub use flows::{Flow, Flows, FlowsRequest};
pub use object::{End, Named, Policy, PolicyName};
pub use port_mapping::{MAX_PORT_MAPPINGS, MappedProtocol, PortMapping};
pub use socket_error::SocketError;
pub use status::Status;
pub use text::{ContainerId, IfName, NetnsPath, ObjectName, TextError};
pub use units::Bytes;

use std::time::Duration;

/// The default run directory.
pub const DEFAULT_RUN_DIR: &str = "/run/heddle";
/// The name of the CNI plugin's socket in the run directory.
pub const CNI_SOCKET: &str = "cni.sock";
/// The name of the command line's socket in the run directory.
pub const API_SOCKET: &str = "api.sock";

/// The largest request body in bytes. The server refuses larger ones, and the client does not send them.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The largest answer in bytes that the client reads: enough for a status with some thousand ports, or a prepare with a route
/// for each Service.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The time that the client waits for any answer: longer than the agent's `podWaitSeconds` may be (25), after which *ready* is
/// answered with [`ErrorCode::TRY_AGAIN_LATER`].
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
