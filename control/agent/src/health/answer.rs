//! The answer of a health check.

use heddle_host::HostStatus;
use heddle_model::ObjectKey;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;

/// The answer of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The Service.
    pub service: ObjectKey,
    /// Its ready endpoints on this node.
    pub local: usize,
}

/// The sources of a port's answers.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    /// The Service and its endpoints.
    pub(super) health: watch::Receiver<Health>,
    /// The node's kernel state. While it has a problem, the node does not serve.
    pub(super) host: watch::Receiver<HostStatus>,
}

impl Sources {
    /// Returns the answer: the number of endpoints.
    pub(super) fn answer(&self) -> Response<String> {
        let Health { service, local } = self.health.borrow().clone();
        let healthy = self.host.borrow().problem().is_none();
        let body = json!({
            "service": {"namespace": service.namespace.as_ref(), "name": service.name.as_ref()},
            "localEndpoints": local,
            "serviceProxyHealthy": healthy,
        });
        let mut response = Response::new(body.to_string());
        if local == 0 || !healthy {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(local));
        response
    }
}
