//! The stages, one a file, in the order in which a packet may meet them.

pub(crate) mod ahead;
pub(crate) mod answer;
pub(crate) mod classify;
pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod insert;
pub(crate) mod judge;
pub(crate) mod link;
pub(crate) mod miss;
pub(crate) mod mtu;
pub(crate) mod quote;
pub(crate) mod resolve;
pub(crate) mod split;
