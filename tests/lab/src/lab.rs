//! The laboratory: an outside world, and the nodes and pods that are made in it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::leftovers::{KEPT, remove_folder};
use crate::netns::PREFIX;
use crate::{Binaries, LabError, Leftovers, NetNs, Node, NodePlan, Pod, remove_leftovers, run, uplink};

/// A laboratory: a folder for all files, and a namespace outside of all nodes. Both are removed with it.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    binaries: Binaries,
    outside: NetNs,
    keep: AtomicBool,
}

impl Lab {
    /// Makes an empty laboratory with an outside world (192.0.2.254 and 2001:db8::fe), after the removal of what killed
    /// processes left behind.
    ///
    /// # Errors
    /// The process lacks a privilege, or a folder or namespace cannot be made.
    pub fn new(binaries: Binaries) -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers(Leftovers::NotKept)?;
        let dir = std::env::temp_dir().join(format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        let outside = NetNs::create("outside")?;
        outside.forward()?;
        // A bridge, so that the uplinks of all nodes are in one network.
        outside.enter(|| {
            // A bridge without an address of its own takes the lowest one of its ports, so it would change when a machine joins.
            let bridge = ["link", "add", "br0", "address", "02:00:00:00:00:fe", "type", "bridge"];
            run("ip", &bridge)?;
            run("ip", &["address", "add", "192.0.2.254/24", "dev", "br0"])?;
            run("ip", &["address", "add", "2001:db8::fe/64", "dev", "br0", "nodad"])?;
            run("ip", &["link", "set", "br0", "up"]).map(drop)
        })?;
        Ok(Self {
            dir,
            binaries,
            outside,
            keep: AtomicBool::new(false),
        })
    }

    /// Returns the namespace outside of all nodes.
    #[must_use]
    pub const fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// Returns the outside world's addresses, 192.0.2.254 and 2001:db8::fe.
    #[must_use]
    pub const fn outside_ips(&self) -> [IpAddr; 2] {
        [
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe)),
        ]
    }

    /// Returns the folder that contains all files of the laboratory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the folder and the outside world standing when the guard is dropped, until [`remove_leftovers`] is called
    /// with [`Leftovers::All`].
    ///
    /// # Errors
    /// The marker file cannot be written.
    pub fn keep(&self) -> Result<(), LabError> {
        let marker = self.dir.join(KEPT);
        fs::write(&marker, "").map_err(LabError::io(format!("writing {}", marker.display())))?;
        self.keep.store(true, Ordering::Relaxed);
        self.outside.keep();
        Ok(())
    }

    /// Makes a node with addresses 192.0.2.NUMBER and 2001:db8::NUMBER, its folders and its Node object. No agent runs yet.
    ///
    /// # Errors
    /// A command or a file operation failed.
    pub fn node(&self, plan: NodePlan) -> Result<Node, LabError> {
        let dir = self.dir.join(&plan.name);
        Node::new(plan, dir, self.binaries.clone(), &self.outside)
    }

    /// Makes a machine in the network of the nodes, with addresses 192.0.2.NUMBER and 2001:db8::NUMBER. It forwards packets and runs
    /// no agent.
    ///
    /// # Errors
    /// A command failed.
    pub fn machine(&self, name: &str, number: u8) -> Result<NetNs, LabError> {
        let ns = NetNs::create(name)?;
        ns.forward()?;
        uplink::join(&ns, &self.outside, name, number)?;
        Ok(ns)
    }

    /// Makes a pod's namespace; [`Node::start_pod`] attaches it.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub fn pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<Pod, LabError> {
        Pod::new(namespace, name, labels)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            remove_folder(&self.dir);
        }
    }
}
