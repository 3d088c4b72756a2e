//! Echo replies (RFC 792, RFC 4443 section 4.2).

use super::{BuildError, room};
use crate::addr::MacAddr;
use crate::parse::Parsed;
use crate::rewrite;

/// Builds the reply to an echo request: the same data, sent from the request's destination.
///
/// # Errors
///
/// `NotAnswerable` for anything but a whole request to one host; `NoRoom`; `NotInHead` for a request that is longer than its
/// head frame, which [`rewrite::echo_reply_in_place`] can answer.
pub fn echo_reply(head: &[u8], p: &Parsed, mac: MacAddr, out: &mut [u8]) -> Result<usize, BuildError> {
    let request = head.get(..p.end()).ok_or(BuildError::NotInHead)?;
    let frame = room(out, request.len())?;
    frame.copy_from_slice(request);
    if rewrite::echo_reply_in_place(frame, p, mac) {
        Ok(request.len())
    } else {
        Err(BuildError::NotAnswerable)
    }
}
