//! Views, builders and checksums for the protocols that heddle speaks. Knows no table and no socket.

mod addr;
mod proto;

pub use addr::{Ip, MacAddr};
pub use proto::Proto;
