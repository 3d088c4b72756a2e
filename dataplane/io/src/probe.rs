//! Tests AF_XDP: makes veth pairs in a network namespace of its own, opens a port on each, and sends a packet through it both ways.
//! The first port is in native mode. The second one is in generic mode, and its packet is a large TCP segment, which must stay whole
//! and keep its segment size.
//!
//! The packet is IPv4 and goes through the receiving kernel's IP input, where kernels with the fault of
//! [`crate::KernelFitness::Panics`] panic. So the caller first writes a marker that the test was started.

mod error;
mod tap;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use heddle_linux::netns::unshare_thread;
use heddle_linux::{LinuxError, Netlink, sysctl};
use heddle_port::{PacketVec, Port, PortId, WorkerId, WorkerPool};
use heddle_wire::checksum;

use crate::XdpPort;
use crate::anchor::add_veth;
use crate::context::{OpenPort, XdpConfig, XdpContext};
use crate::kernel::{has_generic_multi_buffer, kernel_release};
use crate::mode::XdpMode;
use crate::segment_header::SegmentHeader;

use self::error::PACKET_WITHIN;
pub use self::error::ProbeError;
use self::tap::{Tap, readable};

/// The devices of each mode.
const NATIVE: [&str; 2] = ["hdprobe", "hdprobep"];
const GENERIC: [&str; 2] = ["hdprobeg", "hdprobegp"];
/// The payload and the segment size of the large segment: at MTU 1500, with 20 octets each of IPv4 and TCP header.
const SEGMENT: usize = 60_000;
const SEGMENT_SIZE: u16 = 1460;

/// A test that has passed.
#[derive(Debug)]
pub struct Probed {
    /// The time that it took.
    pub took: Duration,
    /// The outcome of the test in generic mode with a large segment.
    pub segments: Result<(), ProbeError>,
}

/// A frame that goes through a port and back.
struct Trial {
    /// The header before the frame in a packet socket, or nothing.
    header: Vec<u8>,
    frame: Vec<u8>,
    /// The segment size with which the port sends it.
    segment_size: u16,
}

/// Sends packets through AF_XDP ports on veth pairs, both ways, in a network namespace of its own, which is removed afterwards. Takes
/// at most `within`.
///
/// # Errors
/// The step that failed in native mode. A failure in generic mode is part of the result.
pub fn probe(within: Duration) -> Result<Probed, ProbeError> {
    let start = Instant::now();
    let system = |what| move |source| ProbeError::System { what, source };
    let (done, result) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name("afxdp-probe".to_owned())
        .spawn(move || {
            // Sending fails only if `within` is over and the receiver is gone.
            let _ = done.send(in_own_namespace());
        })
        .map_err(system("start a thread"))?;
    let outcome = result.recv_timeout(within).unwrap_or(Err(ProbeError::Late(within)));
    if !matches!(outcome, Err(ProbeError::Late(_))) {
        // The thread has sent its result, so it ends at once. A panic in it would have the result `Late`.
        let _ = thread.join();
    }
    outcome.map(|segments| Probed {
        took: start.elapsed(),
        segments,
    })
}

/// Runs the tests in a new network namespace of the calling thread. Returns the outcome of the second one.
fn in_own_namespace() -> Result<Result<(), ProbeError>, ProbeError> {
    unshare_thread().map_err(ProbeError::Namespace)?;
    // Without IPv6 there are no packets of neighbor discovery. The test tolerates them, so an error here is ignored.
    let _ = sysctl::write_if_present("net/ipv6/conf/default/disable_ipv6", "1");
    let mut context = XdpContext::new(XdpConfig {
        frames: 512,
        frame_size: 4096,
        max_pods: 1,
        other_ports: 0,
        working: 256,
        port_numbers: 1,
    })?;
    let small = Trial {
        header: Vec::new(),
        frame: frame(),
        segment_size: 0,
    };
    in_mode(XdpMode::Native, &mut context, &small)?;
    Ok(large_segment(&mut context))
}

/// Sends a large segment through a port in generic mode and back.
fn large_segment(context: &mut XdpContext) -> Result<(), ProbeError> {
    let system = |what| move |source| ProbeError::System { what, source };
    let release = kernel_release().map_err(system("read the kernel's release"))?;
    if !has_generic_multi_buffer(&release) {
        return Err(ProbeError::NoGenericMultiBuffer { release });
    }
    let mut frame = segment();
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let header = SegmentHeader::prepare(&mut frame, len, SEGMENT_SIZE).map(SegmentHeader::bytes);
    let trial = Trial {
        header: header.unwrap_or_default().to_vec(),
        frame,
        segment_size: SEGMENT_SIZE,
    };
    in_mode(XdpMode::Generic, context, &trial)
}

/// Makes a veth pair, opens a port on it in a mode, and sends a frame there and back.
fn in_mode(mode: XdpMode, context: &mut XdpContext, trial: &Trial) -> Result<(), ProbeError> {
    let system = |what| move |source| ProbeError::System { what, source };
    let refused = |error: LinuxError| ProbeError::System {
        what: "make a veth pair",
        source: error.source,
    };
    let [device, peer] = match mode {
        XdpMode::Native => NATIVE,
        XdpMode::Generic => GENERIC,
    };
    let link = Netlink::open()
        .and_then(|netlink| add_veth(&netlink, device, peer))
        .map_err(refused)?;
    let mut port = context.open(OpenPort {
        ifname: device.to_owned(),
        ifindex: link.index,
        queue: 0,
        port: PortId(0),
        mode,
    })?;
    let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
    let tap = Tap::new(peer).and_then(|tap| match trial.header.is_empty() {
        true => Ok(tap),
        false => tap.with_segment_headers(),
    });
    let passed = tap
        .map_err(system("open a packet socket"))
        .and_then(|tap| there_and_back(&tap, &mut port, &mut pool, trial));
    context.close(port);
    passed
}

/// Sends a frame from the tap to the port and back.
///
/// Plan: send it into the veth and wait until the port has received it; send it by the port and wait until the tap has received
/// it; wait until the kernel has returned the frames.
fn there_and_back(tap: &Tap, port: &mut XdpPort, pool: &mut WorkerPool, trial: &Trial) -> Result<(), ProbeError> {
    let system = |what| move |source| ProbeError::System { what, source };
    // To the port. Other packets are freed.
    let sent = [&trial.header[..], &trial.frame].concat();
    tap.send(&sent).map_err(system("send a packet into a veth"))?;
    let until = Instant::now() + PACKET_WITHIN;
    let mut back = PacketVec::new();
    while back.is_empty() {
        let mut packets = PacketVec::new();
        port.rx(pool, &mut packets);
        for mut packet in packets {
            if packet.to_vec(pool.store()) == trial.frame && !back.is_full() {
                packet.set_segment_size(trial.segment_size);
                back.push(packet);
            } else {
                pool.free_packet(packet);
            }
        }
        if back.is_empty() && !port.wait_fd().is_some_and(|fd| readable(fd, until)) {
            return Err(ProbeError::Lost {
                way: "from a veth to an AF_XDP socket",
            });
        }
    }
    // Back to the tap, until the frames are complete.
    let until = Instant::now() + PACKET_WITHIN;
    port.tx(pool, &mut back);
    port.flush(pool);
    back.drain(..).for_each(|packet| pool.free_packet(packet));
    loop {
        let received = tap.receive(until).map_err(system("receive a packet"))?;
        let received = received.ok_or(ProbeError::Lost {
            way: "from an AF_XDP socket to a veth",
        })?;
        if trial.is_echo(&received) {
            break;
        }
    }
    while port.stats().tx_pending > 0 {
        if Instant::now() > until {
            return Err(ProbeError::Lost {
                way: "(its completion) from the kernel to an AF_XDP socket",
            });
        }
        port.flush(pool);
    }
    Ok(())
}

impl Trial {
    /// Returns true if a packet socket has received this frame with its segment size.
    fn is_echo(&self, received: &[u8]) -> bool {
        let Some((header, frame)) = received.split_at_checked(self.header.len()) else {
            return false;
        };
        frame == self.frame && (header.is_empty() || SegmentHeader::size_in(header) == Some(self.segment_size))
    }
}

/// Returns a TCP segment without a finished checksum, from one documentation address to another (RFC 5737).
fn segment() -> Vec<u8> {
    let mut frame = vec![
        0x02, 0x68, 0x65, 0x64, 0x64, 1, 0x02, 0x68, 0x65, 0x64, 0x64, 0x6c, 0x08, 0x00,
    ];
    let len = u16::try_from(40 + SEGMENT).unwrap_or(u16::MAX).to_be_bytes();
    // IPv4: don't fragment, TTL 1, TCP.
    frame.extend_from_slice(&[
        0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 1, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    let sum = checksum::sum(&frame[14..]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    // TCP: port 9 (discard), a header of five words, ACK.
    frame.extend_from_slice(&[0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend((0..SEGMENT).map(|at| (at >> 6) as u8));
    frame
}

/// Returns a broadcast IPv4 packet of an experimental protocol (RFC 3692 section 2.1) from a documentation address.
fn frame() -> Vec<u8> {
    let mut header = [
        0x45, 0, 0, 46, 0, 0, 0, 0, 1, 253, 0, 0, 192, 0, 2, 1, 255, 255, 255, 255,
    ];
    let sum = checksum::sum(&header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0x02, 0x68, 0x65, 0x64, 0x64, 0x6c, 0x08, 0x00]);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(b"heddle tries AF_XDP here..");
    frame
}

#[cfg(test)]
mod tests {
    use heddle_linux::link_index;

    use super::*;

    #[test]
    fn the_packets_header_sums_up() {
        let frame = frame();
        assert_eq!(frame.len(), 60);
        let sum: u32 = frame[14..34]
            .chunks(2)
            .map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    /// Needs root, as AF_XDP does.
    #[test]
    fn the_probe_succeeds_and_leaves_no_device() {
        let probed = probe(Duration::from_secs(10)).unwrap();
        assert!(probed.took < Duration::from_secs(10));
        for device in [NATIVE[0], GENERIC[0]] {
            assert_eq!(link_index(device).unwrap(), None);
        }
        // The outcome in generic mode depends on the kernel's release alone.
        let release = kernel_release().unwrap();
        let segments = probed.segments.map_err(|error| error.to_string());
        assert_eq!(segments.is_ok(), has_generic_multi_buffer(&release), "{segments:?}");
    }

    /// Needs root, as AF_XDP does.
    #[test]
    fn the_probes_time_is_bounded() {
        let error = probe(Duration::ZERO).unwrap_err();
        assert!(matches!(error, ProbeError::Late(_)), "{error}");
    }
}
