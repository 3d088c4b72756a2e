//! The queries of the operator's socket, which the read model answers.

use heddle_proto::{Drops, DropsRequest, Flows, FlowsRequest, QueryError, Status};

use super::model::ReadModel;

/// Answers the queries of the operator's socket.
pub trait Queries: Send + Sync + 'static {
    /// Returns the agent's state.
    ///
    /// # Errors
    /// The query cannot be answered.
    fn status(&self) -> Result<Status, QueryError>;

    /// Returns the packets that were dropped last, filtered.
    ///
    /// # Errors
    /// The query names a pod or a drop reason that does not exist.
    fn drops(&self, request: &DropsRequest) -> Result<Drops, QueryError>;

    /// Returns a page of the connections, filtered.
    ///
    /// # Errors
    /// The query names a pod, a Service, a state or a protocol that does not exist.
    fn flows(&self, request: &FlowsRequest) -> Result<Flows, QueryError>;
}

impl Queries for ReadModel {
    fn status(&self) -> Result<Status, QueryError> {
        Ok(self.read_status())
    }

    fn drops(&self, request: &DropsRequest) -> Result<Drops, QueryError> {
        self.read_drops(request)
    }

    fn flows(&self, request: &FlowsRequest) -> Result<Flows, QueryError> {
        self.read_flows(request)
    }
}
