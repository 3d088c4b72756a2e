//! Capture files for a [`MemPort`](crate::MemPort): reads the frames to be received, and writes the packets that the port sent. The
//! format is the classic one of libpcap (draft-ietf-opsawg-pcap); pcapng is refused.
//!
//! The caller opens the files. It also chooses the order in which ports receive, and the time of each frame.

use std::io::{Read, Write};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError, TsResolution};

use crate::mem::MemWire;

/// The frame limit in the header of a written capture, in octets: more than any packet of
/// [`Packet::MAX_FRAMES`](crate::Packet::MAX_FRAMES) frames of 4 KiB.
const SNAPLEN: u32 = 262_144;

/// The reason for which a capture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file is no capture, or ends in the middle of a frame.
    #[error("frame {number}: {source} (a pcap file is wanted; `editcap -F pcap` makes one of pcapng)")]
    Malformed {
        /// The frame's number, from 1; 0 for the file's header.
        number: u64,
        /// The error.
        source: PcapError,
    },
    /// The capture's link type is not Ethernet.
    #[error("its frames are of link type {0:?}, and heddle's ports are Ethernet (LINKTYPE_ETHERNET, 1)")]
    LinkType(DataLink),
    /// The capture contains only the front of a frame.
    #[error("frame {number} has {have} of its {len} bytes: capture whole frames (tcpdump -s 0)")]
    Cut {
        /// The frame's number, from 1.
        number: u64,
        /// Its octets in the file.
        have: usize,
        /// Its length on the wire, in octets.
        len: u32,
    },
    /// The sent packets cannot be written.
    #[error("writing a capture: {0}")]
    Write(PcapError),
}

/// A frame of a capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// The time since the epoch.
    pub at: Duration,
    /// The frame from the Ethernet header on, without FCS.
    pub frame: Vec<u8>,
}

/// A reader of a capture, frame by frame. It reads one frame ahead, so that [`peek`](Self::peek) can show it.
pub struct Capture<R: Read> {
    reader: PcapReader<R>,
    next: Option<Captured>,
    read: u64,
}

impl<R: Read> Capture<R> {
    /// Opens a capture and reads its first frame.
    ///
    /// # Errors
    /// The file is no capture, or its link type is not Ethernet.
    pub fn new(file: R) -> Result<Self, CaptureError> {
        let reader = PcapReader::new(file).map_err(|source| CaptureError::Malformed { number: 0, source })?;
        match reader.header().datalink {
            DataLink::ETHERNET => {}
            other => return Err(CaptureError::LinkType(other)),
        }
        let mut capture = Self {
            reader,
            next: None,
            read: 0,
        };
        capture.advance()?;
        Ok(capture)
    }

    /// Returns the next frame without taking it.
    pub const fn peek(&self) -> Option<&Captured> {
        self.next.as_ref()
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// The frame behind the taken one, which is read ahead, cannot be read.
    pub fn take(&mut self) -> Result<Option<Captured>, CaptureError> {
        let taken = self.next.take();
        if taken.is_some() {
            self.advance()?;
        }
        Ok(taken)
    }

    /// Reads the next frame of the file.
    fn advance(&mut self) -> Result<(), CaptureError> {
        let Some(packet) = self.reader.next_packet() else {
            return Ok(());
        };
        self.read += 1;
        let number = self.read;
        let packet = packet.map_err(|source| CaptureError::Malformed { number, source })?;
        if packet.data.len() != packet.orig_len as usize {
            return Err(CaptureError::Cut {
                number,
                have: packet.data.len(),
                len: packet.orig_len,
            });
        }
        self.next = Some(Captured {
            at: packet.timestamp,
            frame: packet.data.into_owned(),
        });
        Ok(())
    }
}

/// A writer of the packets that a port sends. The file's header is written with the first packet, so the file of a port that sends
/// none stays empty.
pub struct Record<W: Write> {
    wire: MemWire,
    file: File<W>,
}

/// The state of the file.
enum File<W: Write> {
    New(W),
    Begun(PcapWriter<W>),
    Broken,
}

impl<W: Write> Record<W> {
    /// Makes a writer for the port at the other end of `wire`.
    pub const fn new(wire: MemWire, file: W) -> Self {
        Self {
            wire,
            file: File::New(file),
        }
    }

    /// Returns the port's wire.
    pub const fn wire(&self) -> &MemWire {
        &self.wire
    }

    /// Writes the packets that the port has sent since the last call, with the time `at`. Returns their number.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, at: Duration) -> Result<u64, CaptureError> {
        let mut written = 0;
        while let Some(frame) = self.wire.pop() {
            let writer = self.begin()?;
            let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            writer
                .write_packet(&PcapPacket::new(at, len, &frame))
                .map_err(CaptureError::Write)?;
            written += 1;
        }
        Ok(written)
    }

    /// Writes all buffered packets to the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), CaptureError> {
        let flushed = match self.file {
            File::Begun(writer) => writer.into_writer().flush(),
            File::New(_) | File::Broken => Ok(()),
        };
        flushed.map_err(|error| CaptureError::Write(PcapError::IoError(error)))
    }

    /// Returns the writer, and writes the file's header first if it is not written yet.
    fn begin(&mut self) -> Result<&mut PcapWriter<W>, CaptureError> {
        if let File::New(_) = self.file
            && let File::New(file) = std::mem::replace(&mut self.file, File::Broken)
        {
            let header = PcapHeader {
                snaplen: SNAPLEN,
                datalink: DataLink::ETHERNET,
                ts_resolution: TsResolution::MicroSecond,
                endianness: pcap_file::Endianness::Little,
                ..PcapHeader::default()
            };
            self.file = File::Begun(PcapWriter::with_header(file, header).map_err(CaptureError::Write)?);
        }
        match &mut self.file {
            File::Begun(writer) => Ok(writer),
            File::New(_) | File::Broken => Err(CaptureError::Write(PcapError::IoError(std::io::Error::other(
                "its header could not be written",
            )))),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use heddle_ids::WorkerId;

    use super::*;
    use crate::{MemPort, PacketVec, Port, SharedPool, WorkerPool};
    use heddle_ids::PortId;

    fn capture(frames: &[(u64, &[u8])]) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for (at, frame) in frames {
            let packet = PcapPacket::new(Duration::from_micros(*at), frame.len() as u32, frame);
            writer.write_packet(&packet).unwrap();
        }
        writer.into_writer()
    }

    #[test]
    fn frames_come_in_order_with_their_times() {
        let file = capture(&[(1_000_001, b"one"), (5, b"an earlier one")]);
        let mut frames = Capture::new(&file[..]).unwrap();
        assert_eq!(frames.peek().unwrap().at, Duration::from_micros(1_000_001));
        assert_eq!(frames.take().unwrap().unwrap().frame, b"one");
        assert_eq!(frames.take().unwrap().unwrap().frame, b"an earlier one");
        assert_eq!(frames.take().unwrap(), None);
        assert!(Capture::new(&capture(&[])[..]).unwrap().peek().is_none());
    }

    #[test]
    fn an_incomplete_or_other_capture_is_refused() {
        let refusal = |file: &[u8]| match Capture::new(file).and_then(|mut c| c.take().map(|_| ())) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        let file = capture(&[(1, b"one"), (2, b"two")]);
        assert!(refusal(b"").starts_with("frame 0: "), "{}", refusal(b""));
        assert!(refusal(&[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 0]).contains("editcap"));
        assert!(refusal(&file[..file.len() - 1]).starts_with("frame 2: "));
        let mut other = file.clone();
        other[20] = 101;
        assert!(refusal(&other).contains("LINKTYPE_ETHERNET"), "{}", refusal(&other));
        let mut cut = file;
        cut[24 + 12] = 60;
        assert_eq!(
            refusal(&cut),
            "frame 1 has 3 of its 60 bytes: capture whole frames (tcpdump -s 0)"
        );
    }

    #[test]
    fn a_record_has_exactly_the_packets_that_the_port_sent() {
        let shared = SharedPool::heap(8, 512);
        let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
        let (mut port, wire) = MemPort::new(PortId(1), shared.store());
        let mut file = Vec::new();
        let mut record = Record::new(wire.clone(), &mut file);
        assert_eq!(record.write(Duration::from_secs(1)).unwrap(), 0);
        wire.push(&[7; 700]);
        let mut packets = PacketVec::new();
        port.rx(&mut pool, &mut packets);
        port.tx(&mut pool, &mut packets);
        port.flush(&mut pool);
        assert_eq!(record.write(Duration::from_micros(1_000_002)).unwrap(), 1);
        record.finish().unwrap();
        let mut written = Capture::new(&file[..]).unwrap();
        let frame = written.take().unwrap().unwrap();
        assert_eq!(
            (frame.at, frame.frame),
            (Duration::from_micros(1_000_002), vec![7; 700])
        );
        port.close(&mut pool);
    }
}
