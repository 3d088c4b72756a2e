//! The state that all ports of a network namespace share, and the opening and closing of ports on the control thread.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_linux::{Link, Netlink};
use heddle_port::{AreaId, Capabilities, FillBudget, FrameStore, Port, PortId, SharedPool};
use xsk_rs::Umem;

use crate::anchor::Anchor;
use crate::error::XdpError;
use crate::mode::XdpMode;
use crate::mode_change;
use crate::observe::{Observer, PortObservers};
use crate::port::XdpPort;
use crate::preflight;
use crate::program::Program;
use crate::segment_socket::SegmentSocket;
use crate::socket::{self, Socket};
use crate::uplink::{QueueEntry, Uplink};

/// Sizes that are fixed when the context is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpConfig {
    /// The frames of the UMEM. Each open port costs the kernel 128 B for each of them.
    pub frames: u32,
    /// The size of a frame in bytes: 2048 or 4096.
    pub frame_size: u32,
    /// The most pods that are attached at the same time.
    pub max_pods: u32,
    /// The most other ports that are open at the same time: the queues of the host port and of the uplink.
    pub other_ports: u32,
    /// Frames that are kept for packets under way and in the workers' pools.
    pub working: u32,
    /// The limit of the port numbers: numbers are below it.
    pub port_numbers: u32,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            frames: 16_384,
            frame_size: 4096,
            max_pods: 128,
            other_ports: 16,
            working: 2048,
            port_numbers: 1024,
        }
    }
}

/// The parameters of a port to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenPort {
    /// The device's name.
    pub ifname: String,
    /// The device's index.
    pub ifindex: u32,
    /// The device's queue. The queues of a device have consecutive port numbers.
    pub queue: u32,
    /// The port's number.
    pub port: PortId,
    /// The mode of the program. Further queues of a device have the mode of the first one. In generic mode all packets from a veth
    /// arrive at queue 0.
    pub mode: XdpMode,
}

/// A device with open ports.
#[derive(Debug)]
struct Device {
    /// The number of the port on queue 0.
    base: u32,
    /// The mode of the program.
    mode: XdpMode,
    /// The open ports.
    open: BTreeSet<PortId>,
}

/// The XDP program, the UMEM and its pools, and the anchor, in the network namespace of the thread that made it.
///
/// The caller must not make two in one network namespace; the agent takes a lock of the namespace first. A context belongs to the
/// control thread. Ports must be opened and closed from the same network namespace. Dropping it deletes the
/// anchor. The program stays attached to the devices and, without sockets, drops all packets.
#[derive(Debug)]
pub struct XdpContext {
    config: XdpConfig,
    /// Each observer keeps a socket open, so it is removed before its port is closed.
    observers: PortObservers,
    program: Program,
    devices: BTreeMap<u32, Device>,
    /// The open ports of the uplink.
    uplinks: BTreeMap<PortId, QueueEntry>,
    pool: SharedPool,
    umem: Umem,
    /// Bound before all others and closed after them, because libxdp binds the others through it.
    _anchor_socket: Socket,
    anchor: Anchor,
}

impl XdpContext {
    /// Loads the program, makes the UMEM and the anchor.
    pub fn new(config: XdpConfig) -> Result<Self, XdpError> {
        check(&config)?;
        preflight::check()?;
        let budget = FillBudget::new(
            config.frames,
            config.max_pods.saturating_add(config.other_ports),
            config.working,
        )?;
        let program = Program::load(config.port_numbers)?;
        let (umem, base) = socket::umem(config.frames, config.frame_size)?;
        let anchor = Anchor::new()?;
        let anchor_socket = Socket::bind(&umem, anchor.name(), 0)?;
        // SAFETY: `base` is the start of the UMEM, which has this size and lives as long as any clone of `umem`. No other code
        // accesses its memory: xsk-rs does not by itself, and the kernel writes only to frames in fill rings.
        let (store, frames) = unsafe {
            FrameStore::from_raw(
                AreaId(0),
                base,
                config.frames,
                config.frame_size,
                Box::new(UmemOwner(umem.clone())),
            )
        };
        let pool = SharedPool::new(store, frames, budget);
        Ok(Self {
            config,
            observers: PortObservers::default(),
            program,
            devices: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            pool,
            umem,
            _anchor_socket: anchor_socket,
            anchor,
        })
    }

    /// Returns the sizes that the context was made with.
    #[must_use]
    pub fn config(&self) -> &XdpConfig {
        &self.config
    }

    /// Returns the frames of the UMEM.
    #[must_use]
    pub fn store(&self) -> &Arc<FrameStore> {
        self.pool.store()
    }

    /// Returns the pool that the workers share.
    #[must_use]
    pub fn pool(&self) -> &SharedPool {
        &self.pool
    }

    /// Opens a port: socket, fill ring, maps, and last the program on its device. Takes milliseconds; up to three seconds if the
    /// kernel has not freed the queue of a closed socket yet.
    pub fn open(&mut self, open: OpenPort) -> Result<XdpPort, XdpError> {
        let OpenPort {
            ifname,
            ifindex,
            queue,
            port,
            mode,
        } = open;
        let base = self.place(&ifname, ifindex, queue, port)?;
        let mode = self.devices.get(&ifindex).map_or(mode, |device| device.mode);
        let link = find_up(&ifname, ifindex)?;
        let made = self.bind((&ifname, ifindex, queue), port, capabilities(&link, mode))?;
        let entered = self
            .program
            .set_port(u32::from(port.0), made.fd())
            .and_then(|()| self.program.set_device(&ifname, ifindex, base))
            .and_then(|()| mode_change::make_way(&self.program, &link, mode))
            .and_then(|()| self.program.attach(&ifname, ifindex, mode));
        self.devices
            .entry(ifindex)
            .or_insert_with(|| Device {
                base,
                mode,
                open: BTreeSet::new(),
            })
            .open
            .insert(port);
        match entered {
            Ok(()) => Ok(made),
            Err(error) => {
                self.close(made);
                Err(error)
            }
        }
    }

    /// Opens the port of a receive queue of the uplink: socket, fill ring, and last the entry in the uplink's map. From then on the
    /// program redirects heddle's packets of this queue to the port. Takes as long as [`XdpContext::open`].
    ///
    /// # Errors
    /// The device is down or gone, the queue does not exist or is in use, or the port's number or the frames do not suffice.
    pub fn open_uplink(&mut self, uplink: &Uplink, queue: u32, port: PortId) -> Result<XdpPort, XdpError> {
        let (ifname, ifindex) = (uplink.ifname(), uplink.ifindex());
        self.check_number(port)?;
        let link = find_up(ifname, ifindex)?;
        // The worker cuts packets for other machines, whatever the device is.
        let capabilities = Capabilities {
            tx_large_segments: false,
            ..capabilities(&link, uplink.mode())
        };
        let made = self.bind((ifname, ifindex, queue), port, capabilities)?;
        match uplink.enter(queue, made.fd()) {
            Ok(entry) => {
                self.uplinks.insert(port, entry);
                Ok(made)
            }
            Err(error) => {
                self.close(made);
                Err(error)
            }
        }
    }

    /// Records the port and takes its frames, binds its socket and fills its fill ring. Its observer is there afterwards, and it is in no
    /// map yet.
    fn bind(
        &mut self,
        (ifname, ifindex, queue): (&str, u32, u32),
        port: PortId,
        capabilities: Capabilities,
    ) -> Result<XdpPort, XdpError> {
        // Record the port and take its frames. Every error from here on undoes both.
        if !self.store().port_opened(port) {
            return Err(XdpError::PortOpen { port });
        }
        let mut frames = Vec::new();
        let share = self
            .pool
            .open_port(port, &mut frames)
            .inspect_err(|_| self.store().port_closed(port))?;
        // The socket and its rings, and the socket for large segments.
        let made = Socket::bind(&self.umem, ifname, queue)
            .map_err(|error| self.explain(error))
            .and_then(|socket| {
                let sends = capabilities.tx_large_segments;
                let segments = sends.then(|| SegmentSocket::bind(ifname, ifindex)).transpose()?;
                XdpPort::new(
                    port,
                    (ifname.to_owned(), ifindex, queue),
                    capabilities,
                    Arc::clone(self.store()),
                    share,
                    socket,
                    segments,
                )
                .map_err(|error| XdpError::kernel(format!("map the rings of {ifname}"), error))
            });
        let mut made = match made {
            Ok(made) => made,
            Err(error) => {
                self.pool.release(frames);
                self.store().port_closed(port);
                return Err(error);
            }
        };
        self.pool.release(made.prime(frames));
        match Observer::new(made.fd(), made.segment_counters().cloned()) {
            Ok(observer) => self.observers.insert(port, observer),
            Err(error) => tracing::warn!(port = port.0, %error, "the rings of {ifname} will not be seen in the status"),
        }
        Ok(made)
    }

    /// Returns the id of the program in the kernel. A device with an open port has it attached, unless others remove it.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program.id()
    }

    /// Attaches the program again to a device with open ports from which it was removed. Sockets and maps are not affected by the
    /// removal.
    pub fn attach_again(&self, ifname: &str, ifindex: u32) -> Result<(), XdpError> {
        let Some(device) = self.devices.get(&ifindex) else {
            return Ok(());
        };
        let link = find(ifname, ifindex)?;
        mode_change::make_way(&self.program, &link, device.mode)?;
        self.program.attach(ifname, ifindex, device.mode)
    }

    /// Closes a port and puts its frames back into the pool. The program stays on the device and drops what comes.
    pub fn close(&mut self, mut port: XdpPort) {
        let (number, ifindex) = (port.id(), port.ifindex());
        self.observers.remove(number);
        let quiet = |what: &str, result: std::io::Result<()>| {
            if let Err(error) = result {
                tracing::warn!(port = number.0, ifindex, %error, "{what} stays in the XDP program's map");
            }
        };
        // Remove the socket from the uplink's map, or from the map of the other ports.
        if let Some(entry) = self.uplinks.remove(&number) {
            quiet("the uplink's socket", entry.clear());
        } else {
            quiet("the socket", self.program.clear_port(u32::from(number.0)));
        }
        if let Some(device) = self.devices.get_mut(&ifindex)
            && device.open.remove(&number)
            && device.open.is_empty()
        {
            self.devices.remove(&ifindex);
            quiet("the device", self.program.clear_device(ifindex));
        }
        let (pending, share) = port.take_remains();
        drop(port);
        let store = Arc::clone(self.store());
        if let Some(packet) = pending {
            self.pool.release(packet.into_frames(&store));
        }
        // SAFETY: the socket is closed, and close(2) returns only when the kernel has stopped using its rings. The rings, through
        // which alone frames were taken from the port, are unmapped.
        self.pool.release(unsafe { store.reclaim(number) });
        // Last, because the floor may be set aside again only when its frames are back in the pool.
        drop(share);
    }

    /// Returns the observers of the open ports, which any thread may read.
    #[must_use]
    pub fn observers(&self) -> PortObservers {
        self.observers.clone()
    }

    /// Checks the name and the port's number, and returns the number of the device's queue 0.
    fn place(&self, ifname: &str, ifindex: u32, queue: u32, port: PortId) -> Result<u32, XdpError> {
        if ifname.is_empty() || ifname.len() > 15 || ifname.contains('\0') {
            return Err(XdpError::BadName {
                ifname: ifname.to_owned(),
            });
        }
        self.check_number(port)?;
        let base = i64::from(port.0) - i64::from(queue);
        let order = |base: i64| XdpError::PortOrder {
            ifname: ifname.to_owned(),
            queue,
            port,
            base,
        };
        let fits = u32::try_from(base).map_err(|_| order(base))?;
        match self.devices.get(&ifindex) {
            Some(device) if device.base != fits => Err(order(i64::from(device.base))),
            _ => Ok(fits),
        }
    }

    /// Checks that the port's number fits the program's map.
    fn check_number(&self, port: PortId) -> Result<(), XdpError> {
        let max = self.config.port_numbers;
        if u32::from(port.0) < max {
            Ok(())
        } else {
            Err(XdpError::PortNumber { port, max })
        }
    }

    /// Returns the loss of the anchor as the cause of an error if the anchor is gone, else the error itself.
    fn explain(&self, error: XdpError) -> XdpError {
        if self.anchor.is_gone() {
            XdpError::AnchorLost {
                anchor: self.anchor.name().to_owned(),
            }
        } else {
            error
        }
    }
}

/// Keeps the UMEM mapped as long as the frame store lives.
struct UmemOwner(#[expect(dead_code, reason = "kept, not read")] Umem);

/// Finds a device.
fn find(ifname: &str, ifindex: u32) -> Result<Link, XdpError> {
    match Netlink::open().and_then(|netlink| netlink.link(ifname)) {
        Ok(Some(link)) if link.index == ifindex => Ok(link),
        Ok(_) => Err(XdpError::NoSuchDevice {
            ifname: ifname.to_owned(),
            ifindex,
        }),
        Err(error) => Err(XdpError::kernel(format!("look at {ifname}"), error.source)),
    }
}

/// Finds a device. One that is down is refused: the kernel would bind a socket to it, and no packet would arrive.
fn find_up(ifname: &str, ifindex: u32) -> Result<Link, XdpError> {
    let link = find(ifname, ifindex)?;
    match link.up {
        true => Ok(link),
        false => Err(XdpError::DeviceDown { ifname: link.name }),
    }
}

/// Returns the capabilities of a device's ports. A veth's peer leaves checksums unfinished, and so does the kernel's receive offload,
/// behind which programs in generic mode run. In native mode the driver has none of both. In generic mode, packets may be large
/// segments: a veth's sender has not cut them, or the receive offload has joined them. A veth's peer takes them with their size.
fn capabilities(link: &Link, mode: XdpMode) -> Capabilities {
    let base = if link.veth || mode == XdpMode::Generic {
        Capabilities::VETH
    } else {
        Capabilities::NIC
    };
    Capabilities {
        rx_large_segments: mode == XdpMode::Generic,
        tx_large_segments: link.veth,
        ..base
    }
}

/// Checks the values of a configuration.
fn check(config: &XdpConfig) -> Result<(), XdpError> {
    let bad = |key, value: u32, rule| {
        Err(XdpError::BadConfig {
            key,
            value: u64::from(value),
            rule,
        })
    };
    match *config {
        XdpConfig { frame_size, .. } if !matches!(frame_size, 2048 | 4096) => {
            bad("frame_size", frame_size, "a frame has 2048 or 4096 bytes")
        }
        XdpConfig { frames: 0, .. } => bad("frames", 0, "there must be frames"),
        XdpConfig { frames, .. } if frames > 1 << 20 => bad("frames", frames, "at most 1048576"),
        XdpConfig { port_numbers, .. } if !(1..=1 << 16).contains(&port_numbers) => {
            bad("port_numbers", port_numbers, "between 1 and 65536")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nics_driver_finishes_checksums() {
        let link = |veth| Link {
            index: 1,
            name: "eth0".to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            noarp: false,
            veth,
            bond: false,
            peer_index: None,
            tx_queues: 1,
            rx_queues: 1,
            xdp_program: None,
            xdp_generic: false,
        };
        assert_eq!(capabilities(&link(false), XdpMode::Native), Capabilities::NIC);
        let generic = Capabilities {
            rx_large_segments: true,
            ..Capabilities::VETH
        };
        assert_eq!(capabilities(&link(false), XdpMode::Generic), generic);
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let expected = Capabilities {
                rx_large_segments: mode == XdpMode::Generic,
                tx_large_segments: true,
                ..Capabilities::VETH
            };
            assert_eq!(capabilities(&link(true), mode), expected);
        }
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        check(&XdpConfig::default()).unwrap();
        let error = check(&XdpConfig {
            frame_size: 3000,
            ..XdpConfig::default()
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "frame_size = 3000 cannot be: a frame has 2048 or 4096 bytes"
        );
        check(&XdpConfig {
            frames: 0,
            ..XdpConfig::default()
        })
        .unwrap_err();
        check(&XdpConfig {
            port_numbers: 0,
            ..XdpConfig::default()
        })
        .unwrap_err();
    }
}
