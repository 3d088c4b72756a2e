//! A netlink socket of the calling thread's network namespace: one request at a time, and its answer.

use std::cell::Cell;
use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::SocketAddr;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// The time limit of an answer. The kernel answers within the call that sends the request, so an answer that is not there by then
/// was lost.
const ANSWER_SECONDS: i64 = 5;
/// The attempts at a dump. The kernel marks a dump as inconsistent if the table changes during it.
const DUMP_TRIES: u32 = 8;
/// Messages are aligned to this many bytes (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: netlink_sys::Socket,
    sequence: Cell<u32>,
}

/// The part of an answer that matters to a caller.
enum Answer<M> {
    /// A message.
    Message(M),
    /// An acknowledgement, or the end of a dump.
    End,
}

impl Socket {
    /// Opens a socket of a netlink protocol.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
        })
    }

    /// Sends a request that changes something, and waits for the acknowledgement. `flags` are added to the usual ones.
    pub(crate) fn change<M>(&self, message: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let sequence = self.send(message, NLM_F_ACK | flags)?;
        loop {
            let mut acknowledged = false;
            self.receive::<M>(sequence, |answer| {
                acknowledged |= matches!(answer?, Answer::End);
                Ok(())
            })?;
            if acknowledged {
                return Ok(());
            }
        }
    }

    /// Sends a request and returns the one message that answers it.
    pub(crate) fn get<M>(&self, message: M) -> io::Result<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let sequence = self.send(message, 0)?;
        loop {
            let mut found = None;
            self.receive::<M>(sequence, |answer| {
                if let Answer::Message(message) = answer? {
                    found = Some(message);
                }
                Ok(())
            })?;
            if let Some(message) = found {
                return Ok(message);
            }
        }
    }

    /// Sends a request for all messages of a table. A message that cannot be decoded is left out and logged, because tables contain
    /// other programs' entries with attributes that this program need not decode.
    pub(crate) fn dump<M>(&self, message: &M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug + Clone,
    {
        for _ in 0..DUMP_TRIES {
            let sequence = self.send(message.clone(), NLM_F_DUMP)?;
            let mut found = Vec::new();
            let mut ended = false;
            let mut interrupted = false;
            while !ended {
                interrupted |= self.receive::<M>(sequence, |answer| {
                    match answer {
                        Ok(Answer::Message(message)) => found.push(message),
                        Ok(Answer::End) => ended = true,
                        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                            tracing::debug!("an entry of a netlink dump is left out: {e}");
                        }
                        Err(e) => return Err(e),
                    }
                    Ok(())
                })?;
            }
            if !interrupted {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("the table changed during each of {DUMP_TRIES} dumps"),
        ))
    }

    fn send<M>(&self, message: M, flags: u16) -> io::Result<u32>
    where
        M: NetlinkSerializable,
    {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        while let Err(e) = self.socket.send(&bytes, 0) {
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
        Ok(sequence)
    }

    /// Receives one datagram and hands each of its messages that answers request `sequence` to `each`. Returns `true` if
    /// one of them marks the dump as inconsistent.
    fn receive<M: NetlinkDeserializable>(
        &self,
        sequence: u32,
        mut each: impl FnMut(io::Result<Answer<M>>) -> io::Result<()>,
    ) -> io::Result<bool> {
        let datagram = loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => break datagram,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        };
        let mut interrupted = false;
        let mut rest = datagram.as_slice();
        while rest.len() >= HEADER {
            let length = NetlinkBuffer::new(rest).length() as usize;
            let Some(bytes) = rest.get(..length).filter(|_| length >= HEADER) else {
                return Err(undecodable(&format!(
                    "a message of {length} bytes in a datagram of {}",
                    rest.len()
                )));
            };
            let header = NetlinkBuffer::new(bytes);
            if header.sequence_number() == sequence {
                interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
                each(decode(bytes))?;
            }
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        Ok(interrupted)
    }
}

fn decode<M: NetlinkDeserializable>(bytes: &[u8]) -> io::Result<Answer<M>> {
    let message = NetlinkMessage::<M>::deserialize(bytes).map_err(|e| undecodable(&e.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(message) => Ok(Answer::Message(message)),
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::Done(done) if done.code < 0 => Err(io::Error::from_raw_os_error(-done.code)),
        NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => Ok(Answer::End),
        _ => Err(undecodable("a message that is neither data nor an acknowledgement")),
    }
}

fn undecodable(problem: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("netlink's answer cannot be decoded: {problem}"),
    )
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{ErrorMessage, NLMSG_DONE};
    use netlink_packet_route::RouteNetlinkMessage;
    use nix::libc::EEXIST;

    use super::*;

    fn error(code: i32) -> Vec<u8> {
        let mut message = ErrorMessage::default();
        message.code = std::num::NonZeroI32::new(code);
        message.header = vec![0; HEADER];
        let mut message =
            NetlinkMessage::<RouteNetlinkMessage>::new(Default::default(), NetlinkPayload::Error(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn acknowledgements_carry_the_error() {
        assert!(matches!(decode::<RouteNetlinkMessage>(&error(0)), Ok(Answer::End)));
        let Err(refused) = decode::<RouteNetlinkMessage>(&error(-EEXIST)) else {
            panic!("an error is no answer");
        };
        assert_eq!(refused.raw_os_error(), Some(EEXIST));
    }

    #[test]
    fn the_end_of_a_dump_carries_the_error_too() {
        let mut done = vec![0; HEADER + 4];
        done[0] = 20;
        done[4..6].copy_from_slice(&NLMSG_DONE.to_ne_bytes());
        assert!(matches!(decode::<RouteNetlinkMessage>(&done), Ok(Answer::End)));
        done[HEADER..].copy_from_slice(&(-EEXIST).to_ne_bytes());
        assert!(decode::<RouteNetlinkMessage>(&done).is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        let Err(refused) = decode::<RouteNetlinkMessage>(&[0xff; HEADER]) else {
            panic!("garbage is no answer");
        };
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
