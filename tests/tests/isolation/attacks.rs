//! The attacks of a pod without privileges, one for each kind of resource.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use heddle_lab::LabError;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};

use crate::common::BOUND;
use crate::scene::{CLOSED, HEALTH_PORT, NODE_PORT, PER_POD, PORT, Pulse, SILENT_PORT, SINK_PORT, Scene};

/// The datagrams and connections of an attack in each millisecond.
pub const RATE: u32 = 20;
/// The time in which a connection that the pod may open is there.
const SOON: Duration = Duration::from_millis(20);
/// The idle connections of one measurement: all measurements together open fewer than the pod's quota.
const IDLE: usize = 150;
/// The large datagrams of an attack in each millisecond, and their size: fifteen frames each.
const LARGE_RATE: u32 = 2;
const LARGE: usize = 60_000;

/// An attack: its name, and what the hostile pod does until the measurement ends.
pub type Attack = (&'static str, fn(&Scene, &Pulse) -> Result<(), LabError>);

/// The attacks that need no preparation.
pub const ATTACKS: &[Attack] = &[
    // First, while the pod may still open connections.
    ("idle connections to a health check", idle_health_checks),
    ("connections whose ends are lost", lost_ends),
    ("half-open connections", half_open),
    ("datagrams of ever new connections", new_connections),
    ("connections that need a source port", masqueraded),
    ("packets that ask for icmp errors", expiring),
    ("large datagrams", large),
];

/// The flood that the attacks are compared with: datagrams of one connection.
pub fn plain_flood(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let socket = udp()?;
    let to = (scene.target, SINK_PORT);
    pulse.pace(RATE, || Ok(socket.send_to(b"x", to).is_ok()))
}

fn udp() -> Result<UdpSocket, LabError> {
    UdpSocket::bind("0.0.0.0:0").map_err(LabError::io("a UDP socket"))
}

/// Connects to the target, gives the socket a TTL of 1 and closes it: its FIN and its resets never arrive.
fn lost_ends(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let to = SocketAddr::new(scene.target, PORT);
    pulse.pace(1, || {
        // Above its quota the pod gets no connection.
        let Ok(stream) = TcpStream::connect_timeout(&to, SOON) else {
            return Ok(true);
        };
        stream.set_ttl(1).map_err(LabError::io("IP_TTL"))?;
        Ok(true)
    })
}

/// Sends a SYN from ever new ports to an address outside where nobody is.
fn half_open(_: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let to = SockaddrIn::new(203, 0, 113, 77, PORT);
    pulse.pace(RATE, || {
        let new: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)
            .map_err(LabError::nix("a TCP socket"))?;
        match connect(new.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL) => Ok(true),
            Err(e) => Err(LabError::nix("connecting")(e)),
        }
    })
}

/// Sends one datagram from each of ever new ports, to a port where nobody listens.
fn new_connections(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let to = (scene.target, CLOSED);
    pulse.pace(RATE, || Ok(udp()?.send_to(b"x", to).is_ok()))
}

/// Sends from 600 sockets to a node port, where each connection needs a source port of the node.
fn masqueraded(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let sockets: Vec<UdpSocket> = (0..600).map(|_| udp()).collect::<Result<_, _>>()?;
    let to = (scene.node.internal_ips()[0], NODE_PORT);
    let mut next = sockets.iter().cycle();
    pulse.pace(RATE, || {
        Ok(next.next().is_some_and(|socket| socket.send_to(b"x", to).is_ok()))
    })
}

/// Sends datagrams whose TTL is used up at the node.
fn expiring(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let socket = udp()?;
    socket.set_ttl(1).map_err(LabError::io("IP_TTL"))?;
    let to = (scene.target, SINK_PORT);
    pulse.pace(RATE, || Ok(socket.send_to(b"x", to).is_ok()))
}

/// Sends datagrams of 60 kB.
fn large(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let socket = udp()?;
    let (bytes, to) = (vec![0; LARGE], (scene.target, SINK_PORT));
    pulse.pace(LARGE_RATE, || Ok(socket.send_to(&bytes, to).is_ok()))
}

/// Opens idle connections to a health check.
fn idle_health_checks(scene: &Scene, pulse: &Pulse) -> Result<(), LabError> {
    let to = SocketAddr::new(scene.node.internal_ips()[0], HEALTH_PORT);
    let mut held = Vec::new();
    pulse.pace(RATE, || {
        if held.len() < IDLE {
            let stream = TcpStream::connect_timeout(&to, BOUND);
            held.push(stream.map_err(LabError::io(format!("connection {} to {to}", held.len())))?);
        }
        Ok(true)
    })
}

/// Opens as many connections to the silent server as the pod may have.
pub fn open(scene: &Scene) -> Result<Vec<TcpStream>, LabError> {
    let to = SocketAddr::new(scene.target, SILENT_PORT);
    scene.hostile.ns().enter_as_nobody(|| {
        let connect = |_| TcpStream::connect_timeout(&to, BOUND).map_err(LabError::io(format!("connecting to {to}")));
        (0..PER_POD - 12).map(connect).collect()
    })
}

/// Sends a byte on one connection after the other.
pub fn speak(streams: &[TcpStream], pulse: &Pulse) -> Result<(), LabError> {
    for stream in streams {
        stream.set_nonblocking(true).map_err(LabError::io("O_NONBLOCK"))?;
    }
    let mut next = streams.iter().cycle();
    pulse.pace(RATE, || {
        Ok(next.next().is_some_and(|mut stream| stream.write(b"x").is_ok()))
    })
}
