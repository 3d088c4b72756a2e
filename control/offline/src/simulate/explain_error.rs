//! The error of [`super::explain`].

use heddle_model::ObjectKey;

use super::probe::ProbeError;

/// A connection that cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// There is no object of that name.
    #[error("there is no {kind} {key}{others}")]
    Unknown {
        /// The kind of object.
        kind: &'static str,
        /// The name.
        key: ObjectKey,
        /// The existing objects of the namespace, or the existing namespaces, as text.
        others: String,
    },
    /// The Service has no address of its own.
    #[error("Service {0} has no cluster address (it is headless or an ExternalName): name one of its pods")]
    NoAddress(ObjectKey),
    /// The end has no port of that name.
    #[error("{end} has no port named {name:?}{ports}")]
    NoPortName {
        /// The end.
        end: String,
        /// The name.
        name: String,
        /// The named ports that it has, as text.
        ports: String,
    },
    /// The ends have no addresses of the same family.
    #[error("{from} and {to} have no addresses of the same family")]
    NoCommonFamily {
        /// The source.
        from: String,
        /// The destination.
        to: String,
    },
    /// The connection cannot be evaluated.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}
