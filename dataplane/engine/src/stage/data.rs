//! Reads the data behind a packet's headers, frame by frame, for the stages that cut packets.

/// A reader of the data behind a packet's headers, frame by frame.
pub(super) struct Data<'a, I> {
    chunks: I,
    current: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Data<'a, I> {
    /// Makes a reader of the chunks of a packet, with headers of `skip` octets in the first one.
    pub(super) fn new(mut chunks: I, skip: usize) -> Self {
        let current = chunks.next().and_then(|head| head.get(skip..)).unwrap_or_default();
        Self { chunks, current }
    }

    /// Fills `to` with the next octets.
    pub(super) fn read(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            if self.current.is_empty() {
                match self.chunks.next() {
                    Some(chunk) => self.current = chunk,
                    // Not reached: the parser has checked the length in the header against the packet's.
                    None => return to.fill(0),
                }
                continue;
            }
            let n = to.len().min(self.current.len());
            let (now, later) = self.current.split_at(n);
            let (filled, rest) = to.split_at_mut(n);
            filled.copy_from_slice(now);
            (self.current, to) = (later, rest);
        }
    }
}
