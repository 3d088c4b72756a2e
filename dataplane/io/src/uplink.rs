//! The node's NIC: an XDP program that hands heddle's packets to AF_XDP sockets and passes all others to the kernel.
//!
//! [`Uplink::attach`] attaches the program once. Its link and its maps are pinned in a bpffs directory, so they outlive the process,
//! and a later agent takes them over: attaching XDP to a NIC may reset its link. Afterwards only map entries change
//! ([`Uplink::set`]), or the program is replaced through the link, without a gap.
//!
//! Packets of [`Steering`] go to the socket of their receive queue. Without a socket (no agent, or one that starts) they are
//! dropped, so the kernel never answers a connection of heddle's with a reset. Everything else goes to the kernel, whether an
//! agent lives or not. [`XdpContext::open_uplink`](crate::XdpContext::open_uplink) opens a queue's socket. Every receive queue
//! needs one; [`receive_queues`] counts them.
//!
//! # Modes
//!
//! The program runs in the driver (native) where the driver supports it, otherwise in the network stack (generic). A VLAN device, a
//! bridge or a macvlan has no native mode. A bond has one, but its packets then arrive on a queue of a slave device, and a socket
//! of the bond receives nothing (`xsk_rcv_check` compares the device); so a bond gets the generic mode.
//!
//! In generic mode packets come from the kernel after its receive offload (GRO). So they can be larger than the MTU, and their
//! transport checksum can be unfinished even if they were on a wire (`tcp_gro_complete`).
//!
//! # VLAN tags
//!
//! Tagged frames (VLAN) are the kernel's. A NIC that takes the tag off (`rx-vlan-hw-parse`) hides it from the program, which then
//! takes the frame for an untagged one. If VLAN devices on the NIC have addresses, this feature must be off
//! (`ethtool -K NIC rxvlan off`).

mod keys;
#[cfg(test)]
mod model;
mod object;
mod pins;
mod steering;
mod syscall;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use heddle_linux::{Link, Netlink, bpffs, ethtool};

pub use self::object::UplinkLimits;
use self::object::{Loaded, Maps};
use self::pins::{PinnedLink, Pins};
pub use self::steering::Steering;
use self::syscall::Map;
use crate::error::XdpError;
use crate::mode::XdpMode;

/// The packets that the program has seen since its maps were made, which is often longer than the agent has run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UplinkCounters {
    /// Packets that were passed to the kernel.
    pub passed: u64,
    /// Packets that were redirected to heddle's sockets, or dropped because their queue had none.
    pub steered: u64,
}

/// The XDP program on the node's NIC. It stays attached when this value is dropped; [`Uplink::detach_pinned`] detaches it.
#[derive(Debug)]
pub struct Uplink {
    ifname: String,
    ifindex: u32,
    mode: XdpMode,
    program_id: u32,
    link: OwnedFd,
    maps: Maps,
}

/// An entry of the program's map of sockets.
#[derive(Debug)]
pub(crate) struct QueueEntry {
    queues: Map,
    queue: u32,
}

impl QueueEntry {
    /// Removes the socket, so that the program drops heddle's packets of this queue.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.queues.delete(&self.queue.to_ne_bytes()).map(drop)
    }
}

/// Returns the number of receive queues that a device of the calling thread's network namespace uses. If the driver does not say it
/// (ethtool's channels), it is the number that the device was made with.
///
/// # Errors
/// There is no such device, or the kernel could not be asked.
pub fn receive_queues(ifname: &str) -> Result<u32, XdpError> {
    let ask = || {
        let Some(link) = Netlink::open()?.link(ifname)? else {
            return Ok(None);
        };
        ethtool::receive_queues(&link).map(Some)
    };
    ask()
        .map_err(|error: heddle_linux::LinuxError| {
            XdpError::kernel(format!("count the queues of {ifname}"), error.source)
        })?
        .ok_or_else(|| XdpError::NoSuchDevice {
            ifname: ifname.to_owned(),
            ifindex: 0,
        })
}

/// Makes a directory for pins, with a bpffs in it. One that is there already stays, with its pins.
///
/// # Errors
/// The directory cannot be made, or the file system cannot be mounted.
pub fn prepare_pins(pins: &Path) -> Result<(), XdpError> {
    std::fs::create_dir_all(pins)
        .map_err(|error| XdpError::kernel(format!("make the directory {}", pins.display()), error))?;
    bpffs::mount(pins).map_err(|error| XdpError::kernel(format!("mount a bpffs at {}", pins.display()), error.source))
}

/// Removes a directory for pins with its bpffs. Returns false if there is none. [`Uplink::detach_pinned`] comes before it.
///
/// # Errors
/// The kernel refuses.
pub fn remove_pins(pins: &Path) -> io::Result<bool> {
    bpffs::unmount(pins).map_err(|error| error.source)?;
    match std::fs::remove_dir(pins) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Uplink {
    /// Attaches the program to a device of the calling thread's network namespace, or takes over what an earlier agent attached.
    ///
    /// `pins` is a directory of a bpffs ([`heddle_linux::bpffs::mount`]). A link that is pinned there is used again if it belongs to the
    /// device, with its program if that is the same. A link of another device is replaced and detached. Maps are used again if they have
    /// the sizes of `limits`; entries of others are copied to those that replace them, except sockets. So it must be called before the
    /// uplink's ports are opened.
    ///
    /// # Errors
    /// The device has another program, accepts none, or is not there; `pins` is in no bpffs; the kernel refuses a step.
    pub fn attach(ifname: &str, ifindex: u32, pins: &Path, limits: &UplinkLimits) -> Result<Self, XdpError> {
        // Look at the device and the pinned link, and check that the device's program is the link's. Device numbers of different
        // network namespaces can be equal, program ids cannot.
        let pins = Pins::new(pins)?;
        let device = find(ifname, ifindex)?;
        let pinned = pins
            .link()
            .map_err(|error| XdpError::kernel("open the uplink's pinned link", error))?;
        let (ours, other) = match pinned {
            Some(link) if link.info.ifindex == ifindex && device.xdp_program == Some(link.info.program) => {
                (Some(link), None)
            }
            other => (None, other),
        };
        if let (None, Some(id)) = (&ours, device.xdp_program) {
            return Err(foreign(ifname, id));
        }
        // The program, with the earlier maps that fit.
        let loaded = object::load(limits, |name| pins.map(name))?;
        // The link. A new one is pinned before the old one is detached.
        let (link, program_id) = match ours {
            Some(link) => take_over(ifname, link, &loaded)?,
            None => {
                let link = create(&device, loaded.program.as_fd())?;
                pins.put_link(link.as_fd())
                    .map_err(|error| XdpError::kernel("pin the uplink's link", error))?;
                (link, id_of(loaded.program.as_fd())?)
            }
        };
        if let Some(other) = other {
            tracing::info!(
                ifindex = other.info.ifindex,
                link = other.info.id,
                "the uplink moved to {ifname}"
            );
            if let Err(error) = syscall::detach_link(other.fd.as_fd()) {
                tracing::warn!(link = other.info.id, %error, "the earlier uplink's program stays attached");
            }
        }
        // Last the pins of new maps. If the agent is killed before, the next one finds a program whose maps are not the pinned
        // ones, and replaces it.
        for (name, map) in loaded.maps.named() {
            if loaded.made.contains(&name) {
                pins.put(map.fd(), name)
                    .map_err(|error| XdpError::kernel(format!("pin the uplink's map {name}"), error))?;
            }
        }
        let mode = if find(ifname, ifindex)?.xdp_generic {
            XdpMode::Generic
        } else {
            XdpMode::Native
        };
        Ok(Self {
            ifname: ifname.to_owned(),
            ifindex,
            mode,
            program_id,
            link,
            maps: loaded.maps,
        })
    }

    /// Detaches the program whose link is pinned in a directory, and removes its pins. Returns false if there were none, or if the
    /// directory is in no bpffs.
    ///
    /// # Errors
    /// A file cannot be opened or removed, or the kernel refuses.
    pub fn detach_pinned(pins: &Path) -> io::Result<bool> {
        pins::detach(pins)
    }

    /// Returns the device's name.
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Returns the device's index.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Returns the mode in which the program runs.
    #[must_use]
    pub const fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Returns the program's id in the kernel.
    #[must_use]
    pub const fn program_id(&self) -> u32 {
        self.program_id
    }

    /// Returns the link's id in the kernel. It stays the same when a later agent takes the link over.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn link_id(&self) -> io::Result<u32> {
        let info = syscall::link_info(self.link.as_fd())?;
        info.map(|info| info.id)
            .ok_or_else(|| io::Error::other("the link is not to an XDP program"))
    }

    /// Returns true while the program is attached to the device. netlink cannot remove it, but the device's deletion does, and so
    /// does `bpftool link detach`.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn is_attached(&self) -> io::Result<bool> {
        let info = syscall::link_info(self.link.as_fd())?;
        Ok(info.is_some_and(|info| info.ifindex == self.ifindex))
    }

    /// Writes what is to be steered into the maps. The difference is taken against the maps' contents, so this also corrects what
    /// an earlier agent or somebody else wrote. This costs a system call for each entry. What was steered and still is to be steered is never missing in between.
    ///
    /// # Errors
    /// A map is full, or the kernel refuses to write it. The other maps, and what fits, are written; of several errors the first is
    /// returned and the others are logged.
    pub fn set(&mut self, steering: &Steering) -> Result<(), XdpError> {
        steering::write(&self.maps, steering)
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn counters(&self) -> io::Result<UplinkCounters> {
        let processors = libbpf_rs::num_possible_cpus().map_err(io::Error::other)?;
        let sum = |key: u32| -> io::Result<u64> {
            let values = self.maps.counters.lookup(&key.to_ne_bytes(), processors)?;
            let values = values.unwrap_or_default();
            Ok(values
                .chunks_exact(8)
                .map(|value| value.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
                .fold(0, u64::wrapping_add))
        };
        Ok(UplinkCounters {
            passed: sum(0)?,
            steered: sum(1)?,
        })
    }

    /// Enters the socket of a receive queue, which the program redirects heddle's packets to from now on.
    pub(crate) fn enter(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<QueueEntry, XdpError> {
        let failed = |error| {
            XdpError::kernel(
                format!("enter queue {queue} of {} into the map of sockets", self.ifname),
                error,
            )
        };
        let max = self.maps.queues.definition().entries;
        if queue >= max {
            return Err(XdpError::BadConfig {
                key: "queues",
                value: u64::from(max),
                rule: "the limit must be above the number of each of the uplink's queues (`ethtool -l`)",
            });
        }
        let queues = self.maps.queues.try_clone().map_err(failed)?;
        queues
            .update(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
            .map_err(failed)?;
        Ok(QueueEntry { queues, queue })
    }
}

/// Finds the device by name, and checks its index.
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

fn id_of(program: BorrowedFd<'_>) -> Result<u32, XdpError> {
    libbpf_rs::Program::id_from_fd(program).map_err(|error| XdpError::bpf("look at the uplink's program", &error))
}

/// Refuses a device with another program.
fn foreign(ifname: &str, id: u32) -> XdpError {
    let name = syscall::open_program(id).and_then(|program| syscall::program_info(program.as_fd()));
    XdpError::ForeignProgram {
        ifname: ifname.to_owned(),
        id,
        name: name.map_or_else(|_| "unknown".to_owned(), |info| info.name),
    }
}

/// Uses an earlier agent's link again. Replaces its program if the instructions or the maps differ. Returns the link and the id of the
/// program that is attached.
fn take_over(ifname: &str, link: PinnedLink, loaded: &Loaded) -> Result<(OwnedFd, u32), XdpError> {
    let failed = |what: &str| {
        let what = format!("{what} the program of {ifname}");
        move |error| XdpError::kernel(what, error)
    };
    let new = syscall::program_info(loaded.program.as_fd()).map_err(failed("look at"))?;
    let attached = syscall::open_program(link.info.program)
        .and_then(|program| syscall::program_info(program.as_fd()))
        .map_err(failed("look at"))?;
    if attached == new {
        return Ok((link.fd, link.info.program));
    }
    syscall::update_link(link.fd.as_fd(), loaded.program.as_fd()).map_err(failed("replace"))?;
    let id = id_of(loaded.program.as_fd())?;
    tracing::info!(was = link.info.program, is = id, "replaced the program of {ifname}");
    Ok((link.fd, id))
}

/// Attaches the program: in native mode, or in generic mode if the driver refuses or the device is a bond.
fn create(device: &Link, program: BorrowedFd<'_>) -> Result<OwnedFd, XdpError> {
    let refused = |mode: XdpMode, source: io::Error, native: String| XdpError::AttachRefused {
        ifname: device.name.clone(),
        mode,
        source,
        native,
    };
    let native = if device.bond {
        "not used on a bond, whose sockets would receive nothing".to_owned()
    } else {
        match syscall::create_link(program, device.index, syscall::NATIVE) {
            Ok(link) => return Ok(link),
            // These do not depend on the mode: no permission, no device, another program, no memory.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPERM | libc::ENODEV | libc::EBUSY | libc::EEXIST | libc::ENOMEM)
                ) =>
            {
                return Err(refused(XdpMode::Native, error, "refused".to_owned()));
            }
            Err(error) => error.to_string(),
        }
    };
    tracing::info!(
        device = device.name,
        native,
        "the uplink's program runs in generic mode"
    );
    syscall::create_link(program, device.index, syscall::GENERIC)
        .map_err(|error| refused(XdpMode::Generic, error, native))
}
