//! The state of all objects.
/// The state.
#[derive(Debug, Default)]
pub struct Cluster {}
