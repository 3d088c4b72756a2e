//! The node's own connections over the NIC while heddle comes and goes, and heddle's connections while it is away. The far host is in
//! a network namespace of its own. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::nic::{Far, address, attach, limits, nic, with_pins};
use harness::{SOON, context, index};
use heddle_io::uplink::{Steering, Uplink, UplinkLimits};
use heddle_io::{XdpContext, XdpError, XdpMode, XdpPort};
use heddle_port::{Port, PortId, WorkerId, WorkerPool};

const NODE: [&str; 2] = ["192.0.2.1", "fd00::1"];
const MODES: [XdpMode; 2] = [XdpMode::Native, XdpMode::Generic];
/// The time for what must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time for which an answer that must not come is waited for.
const SHORT: Duration = Duration::from_millis(300);
const TCP: u8 = 6;
const UDP: u8 = 17;

fn node(n: usize) -> IpAddr {
    NODE[n].parse().unwrap()
}

fn steering() -> Steering {
    let any: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
    Steering {
        addresses: [node(0), node(1)].into(),
        tunnel_port: Some(4789),
        masquerade_ports: Some(61_000..=61_999),
        frontends: any
            .into_iter()
            .flat_map(|any| [(any, TCP, 30_000), (any, UDP, 30_000)])
            .collect(),
        ..Steering::default()
    }
}

/// Returns an address to bind a socket to that talks to `at`.
fn any(at: SocketAddr) -> &'static str {
    if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

/// Makes the NIC, the far host at its wire, and addresses on both.
fn hosts(mode: XdpMode) -> Far {
    nic(mode);
    let far = Far::with("nicp");
    address("nic", 1);
    far.run(|| address("nicp", 9));
    // The kernel answers every packet to a closed port.
    for limit in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
        std::fs::write(format!("/proc/sys/net/{limit}"), "0").unwrap();
    }
    // The wire is up some time after its ends are.
    for ip in [node(0), node(1)] {
        let until = Instant::now() + PATIENCE;
        while outcomes(&far, SocketAddr::new(ip, 9), SHORT) != [ErrorKind::ConnectionRefused; 2] {
            assert!(Instant::now() < until, "{ip} cannot be reached");
        }
    }
    far
}

/// Connections between the node and the far host, one TCP and one UDP for each family, on which messages go to and fro.
struct Chatter {
    stop: Arc<AtomicBool>,
    /// The round trips of each connection.
    trips: [Arc<AtomicU32>; 4],
    threads: Vec<JoinHandle<Duration>>,
}

impl Chatter {
    fn start(far: &Far) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let trips = [(); 4].map(|()| Arc::new(AtomicU32::new(0)));
        let mut threads = Vec::new();
        for n in 0..2 {
            // The node echoes what it gets by TCP, and by UDP.
            let listener = TcpListener::bind((node(n), 0)).unwrap();
            let at = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = [0; 1 << 16];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..len]).unwrap();
                }
            });
            let echo = UdpSocket::bind((node(n), 0)).unwrap();
            let udp_at = echo.local_addr().unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 2048];
                while let Ok((1.., from)) = echo.recv_from(&mut bytes) {
                    let _ = echo.send_to(&bytes[..100], from);
                }
            });
            let mut stream = far.run(move || TcpStream::connect(at).unwrap());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (stopped, count) = (Arc::clone(&stop), Arc::clone(&trips[2 * n]));
            threads.push(chat(stopped, count, move |trip| {
                // Large enough for the kernel's segmentation and receive offload.
                let message = vec![trip as u8; 40_000];
                stream.write_all(&message).unwrap();
                let mut got = vec![0; message.len()];
                stream.read_exact(&mut got).unwrap();
                assert!(got == message, "the stream is intact");
            }));
            let socket = far.run(move || {
                let socket = UdpSocket::bind(any(udp_at)).unwrap();
                socket.connect(udp_at).unwrap();
                socket
            });
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let (stopped, count) = (Arc::clone(&stop), Arc::clone(&trips[2 * n + 1]));
            threads.push(chat(stopped, count, move |trip| {
                let message = [trip as u8; 100];
                socket.send(&message).unwrap();
                let mut got = [0; 200];
                assert_eq!(socket.recv(&mut got).expect("no datagram is lost"), 100);
                assert_eq!(got[..100], message);
            }));
        }
        Self { stop, trips, threads }
    }

    /// Waits until each connection has made more round trips.
    fn goes_on(&self, what: &str) {
        for trips in &self.trips {
            let start = trips.load(Ordering::Relaxed);
            let until = Instant::now() + PATIENCE;
            while trips.load(Ordering::Relaxed) < start + 5 {
                assert!(Instant::now() < until, "{what}: a connection stands still");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Ends the connections. Returns the longest round trip.
    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .max()
            .unwrap()
    }
}

fn chat(
    stop: Arc<AtomicBool>,
    trips: Arc<AtomicU32>,
    mut round_trip: impl FnMut(u32) + Send + 'static,
) -> JoinHandle<Duration> {
    std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            round_trip(trips.load(Ordering::Relaxed));
            longest = longest.max(start.elapsed());
            trips.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        longest
    })
}

#[test]
fn the_nodes_own_connections_go_on() {
    for mode in MODES {
        with_pins(move |pins| {
            let far = hosts(mode);
            let mut uplink = attach(pins).unwrap();
            assert_eq!(uplink.mode(), mode);
            let chatter = Chatter::start(&far);
            chatter.goes_on("attached");
            uplink.set(&steering()).unwrap();
            chatter.goes_on("steering");
            let mut context_of_first = context();
            for round in 0..5 {
                let port = open(&mut context_of_first, &uplink);
                chatter.goes_on("a socket is open");
                context_of_first.close(port);
                chatter.goes_on(&format!("no socket is open, round {round}"));
            }
            // The agent ends in the middle, and later ones take over, one with other maps.
            let port = open(&mut context_of_first, &uplink);
            let id = uplink.link_id().unwrap();
            drop((port, context_of_first, uplink));
            chatter.goes_on("no agent");
            for sizes in [
                limits(),
                UplinkLimits {
                    frontends: 99,
                    ..limits()
                },
            ] {
                let mut uplink = Uplink::attach("nic", index("nic"), pins, &sizes).unwrap();
                assert_eq!(uplink.link_id().unwrap(), id);
                uplink.set(&steering()).unwrap();
                let mut context = context();
                let port = open(&mut context, &uplink);
                chatter.goes_on("taken over");
                context.close(port);
            }
            assert!(Uplink::detach_pinned(pins).unwrap());
            chatter.goes_on("detached");
            let longest = chatter.stop();
            assert!(longest < Duration::from_secs(5), "{longest:?}");
            eprintln!("{mode}: the longest round trip took {longest:?}");
        });
    }
}

/// Opens the port of the uplink's queue. The kernel frees the queue of a closed socket later, on a busy machine much later.
fn open(context: &mut XdpContext, uplink: &Uplink) -> XdpPort {
    let until = Instant::now() + PATIENCE;
    loop {
        match context.open_uplink(uplink, 0, PortId(0)) {
            Err(XdpError::QueueBusy { .. }) if Instant::now() < until => {}
            opened => return opened.unwrap(),
        }
    }
}

/// Returns the outcome of a TCP connection attempt and of a datagram, from the far host to a port without a listener.
fn outcomes(far: &Far, at: SocketAddr, wait: Duration) -> [ErrorKind; 2] {
    far.run(move || {
        let tcp = TcpStream::connect_timeout(&at, wait).unwrap_err().kind();
        let socket = UdpSocket::bind(any(at)).unwrap();
        socket.connect(at).unwrap();
        socket.set_read_timeout(Some(wait)).unwrap();
        socket.send(b"datagram").unwrap();
        let udp = socket.recv(&mut [0; 10]).unwrap_err().kind();
        [tcp, udp]
    })
}

fn assert_silent(far: &Far, when: &str) {
    for ip in [node(0), node(1)] {
        let outcomes = outcomes(far, SocketAddr::new(ip, 30_000), SHORT);
        assert_eq!(outcomes, [ErrorKind::TimedOut, ErrorKind::WouldBlock], "{when}: {ip}");
    }
}

fn assert_refused(far: &Far, port: u16) {
    for ip in [node(0), node(1)] {
        let outcomes = outcomes(far, SocketAddr::new(ip, port), PATIENCE);
        assert_eq!(outcomes, [ErrorKind::ConnectionRefused; 2], "{ip} {port}");
    }
}

#[test]
fn the_kernel_never_answers_for_heddle() {
    for mode in MODES {
        with_pins(move |pins: &Path| {
            let far = hosts(mode);
            // Without heddle, and without an entry, the kernel refuses.
            assert_refused(&far, 30_000);
            let mut uplink = attach(pins).unwrap();
            assert_refused(&far, 30_000);
            uplink.set(&steering()).unwrap();
            assert_silent(&far, "no socket yet");
            assert_refused(&far, 30_001);
            let mut context = context();
            let mut port = open(&mut context, &uplink);
            assert_silent(&far, "a socket whose worker does nothing");
            let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
            let packets = harness::receive(&mut port, &mut pool, SOON);
            assert!(packets.len() >= 4, "two attempts of each family: {}", packets.len());
            packets.into_iter().for_each(|packet| pool.free_packet(packet));
            context.close(port);
            assert_silent(&far, "closed");
            drop((pool, context, uplink));
            assert_silent(&far, "no agent");
            assert_refused(&far, 30_001);
            drop(attach(pins).unwrap());
            assert_silent(&far, "taken over");
            assert!(Uplink::detach_pinned(pins).unwrap());
            assert_refused(&far, 30_000);
        });
    }
}

/// Behind the receive offload (generic mode) and from a veth, a frame's checksum may be the pseudo header's sum alone. The port says so.
#[test]
fn checksums_from_the_far_kernel_may_be_unfinished() {
    for mode in MODES {
        with_pins(move |pins| {
            let far = hosts(mode);
            let mut uplink = attach(pins).unwrap();
            uplink.set(&steering()).unwrap();
            let mut context = context();
            let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
            let mut port = open(&mut context, &uplink);
            let at = SocketAddr::new(node(0), 30_000);
            outcomes(&far, at, SHORT);
            let packets = harness::receive(&mut port, &mut pool, SOON);
            let unfinished = packets.iter().any(|packet| {
                matches!(
                    heddle_wire::testing::verify(&packet.to_vec(context.store())),
                    Err(heddle_wire::testing::VerifyError::Checksum { .. })
                )
            });
            assert!(unfinished && port.capabilities().unfinished_checksums, "{mode}");
            packets.into_iter().for_each(|packet| pool.free_packet(packet));
            context.close(port);
            drop(pool);
            harness::assert_all_frames(&context);
        });
    }
}
