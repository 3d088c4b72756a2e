//! `heddle flows`: prints the connections of the running agent's flow table.
//!
//! - [`list`]: all connections, page by page, so that neither side holds all of them at one time.
//! - [`watch`]: connections that begin, change or end.

mod line;
mod list;
mod page;
mod watch;

use std::io::{self, Write};

use heddle_proto::FlowsRequest;

use crate::args::FlowsArgs;
use page::FlowsError;

/// Prints connections once, or follows them until Ctrl-C or until the reader closes the pipe.
///
/// # Errors
/// The agent does not answer or refuses, or standard output fails.
pub async fn run(args: &FlowsArgs, out: &mut (impl Write + Send)) -> Result<(), FlowsError> {
    let request = FlowsRequest {
        from: 0,
        limit: None,
        pod: args.pod.clone(),
        service: args.service.clone(),
        state: args.state.clone(),
        address: args.address,
        protocol: args.protocol.clone(),
    };
    let printed = match args.watch {
        Some(every) => watch::run(args, every, request, out).await,
        None => list::run(args, request, out).await,
    };
    match printed {
        // The reader has closed the pipe (`heddle flows | head`).
        Err(FlowsError::System(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
