//! The fragment fields of IPv4 and IPv6 in one form.

use super::error::ParseError;
use super::parsed::Fragment;

/// The fragment fields of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fragmented {
    pub(super) kind: Fragment,
    pub(super) offset: u16,
    pub(super) more: bool,
    pub(super) id: u32,
}

impl Fragmented {
    pub(super) const WHOLE: Self = Self {
        kind: Fragment::Whole,
        offset: 0,
        more: false,
        id: 0,
    };

    /// Sets the offset and `more`, and checks the length of the fragment's payload.
    pub(super) fn set(&mut self, offset: usize, more: bool, payload: usize) -> Result<(), ParseError> {
        if offset + payload > usize::from(u16::MAX) {
            return Err(ParseError::FragmentOverflow);
        }
        if payload == 0 || (more && !payload.is_multiple_of(8)) {
            return Err(ParseError::FragmentLength);
        }
        self.kind = if offset == 0 { Fragment::First } else { Fragment::Later };
        self.offset = offset as u16;
        self.more = more;
        Ok(())
    }
}
