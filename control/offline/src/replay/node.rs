//! The node of a replay: one worker with the compiled tables, a port in memory for each pod and for the host, and a capture
//! of the frames that leave each port.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use heddle_compile::{Interfaces, NodeConfig, NodeTables, UplinkMtu};
use heddle_engine::testing::{self, NodeBuilder};
use heddle_engine::{PortRole, StageConfig};
use heddle_flow::Millis;
use heddle_model::{Cluster, ObjectKey};
use heddle_port::{Capabilities, Captured, MemPort, PortId, Record};
use heddle_tables::EndpointId;
use heddle_wire::MacAddr;

use super::error::ReplayError;
use super::input::Inputs;
use super::report::{PortReport, Report};
use crate::simulate::Rules;
use crate::simulate::node_tables::node_config;
use heddle_config::{Config, FRAME_SIZE};

/// The number of frames in the pool, besides frames for held fragments: enough for a packet of maximum length and the
/// packets that result from it.
const FRAMES: u32 = 16_384;
/// The worker's time at the first frame. It is not zero, because the pipeline may compute earlier times.
const BEGIN: Millis = Millis(1_000_000);
/// The seed of random choices and hash keys: a constant, so that the same input gives the same output. The value is arbitrary.
const SEED: u64 = 0x6865_6464_6c65;
/// The assumed MTU of the uplink, because manifests do not contain it.
const UPLINK_MTU: u16 = 1500;

/// The inputs for building a [`Node`].
pub struct Shape<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// The node's name.
    pub name: &'a str,
    /// The part of the configuration that tables depend on.
    pub rules: &'a Rules,
    /// The whole configuration.
    pub config: &'a Config,
    /// The folder for captures.
    pub out: &'a Path,
}

/// A file that is made at the first write, so that a port that sends nothing has no capture.
struct LazyFile {
    path: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Write for LazyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create(&self.path)?)),
        };
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// A port with the capture of the frames that leave it.
struct NodePort {
    name: String,
    number: PortId,
    path: PathBuf,
    record: Record<LazyFile>,
}

/// A node with its worker and ports.
pub struct Node {
    name: String,
    node: testing::Node,
    ports: Vec<NodePort>,
    /// The time of the earliest captured frame.
    begin: Duration,
    /// The time of the latest captured frame so far.
    now: Duration,
}

impl Node {
    /// Makes the node and opens its ports.
    ///
    /// # Errors
    /// The manifests have no node of that name, a key of the configuration is out of bounds, or an old capture cannot be removed.
    pub fn new(shape: &Shape<'_>, inputs: &Inputs) -> Result<Self, ReplayError> {
        if shape.cluster.node(shape.name).is_none() {
            let known: Vec<&str> = shape.cluster.nodes().map(|node| node.name.as_ref()).collect();
            return Err(ReplayError::NoNode {
                node: shape.name.to_owned(),
                known: known.join(", "),
            });
        }

        // The tables, as the node's agent would compile them, and a flow table.
        let config = NodeConfig {
            local_mtu: u16::try_from(shape.config.pod_mtu).unwrap_or(u16::MAX),
            uplink: UplinkMtu::new(UPLINK_MTU, false),
            ..node_config(shape.name, shape.rules)
        };
        let node_tables = NodeTables::new(shape.cluster, config, interfaces(shape, inputs));
        let (fragments, timeouts) = (shape.config.fragments.check()?, shape.config.timeouts.check()?);

        // One worker: no other threads, no hand-over.
        let last = node_tables.attached().map(|(_, no)| no.0).max().unwrap_or_default();
        let adopt = u64::from(shape.config.midstream_pickup_seconds) * 1000;
        let mut node = NodeBuilder::new()
            .ports(last.max(UPLINK.0).saturating_add(1))
            .lane(1)
            .frames(FRAMES + u32::from(fragments.held_frames))
            .frame_size(FRAME_SIZE)
            .flows(heddle_flow::Config {
                capacity: shape.config.connections,
                timeouts,
                seed: Some([SEED; 8]),
                ..heddle_flow::Config::default()
            })
            .stages(StageConfig {
                adopt_until: if adopt == 0 { Millis(0) } else { BEGIN.plus(adopt) },
                seed: SEED,
                fragments,
                ..StageConfig::default()
            })
            .now(BEGIN)
            .build(Arc::clone(node_tables.snapshot()))
            .map_err(|e| setup(&e))?;

        // The ports. A capture of an earlier run is removed, because a port that sends nothing writes none.
        let mut ports = Vec::new();
        let pods = node_tables.attached().map(|(key, no)| {
            let (name, file) = pod_names(key);
            (name, file, PortId(no.0), PortRole::Pod(no))
        });
        let others = [("host", HOST, PortRole::Host), ("uplink", UPLINK, PortRole::Uplink)];
        let others = others.map(|(name, number, role)| (name.to_owned(), format!("{name}.pcap"), number, role));
        for (name, file, number, role) in pods.chain(others) {
            let path = shape.out.join(file);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(ReplayError::File { path, source: e }),
                _ => {}
            }
            // Frames of the uplink were on a wire.
            let capabilities = match role {
                PortRole::Uplink => Capabilities::NIC,
                PortRole::Pod(_) | PortRole::Host => Capabilities::VETH,
            };
            let (port, wire) = MemPort::with_capabilities(number, node.shared().store(), capabilities);
            node.add(0, port, role).map_err(|e| setup(&e))?;
            let file = LazyFile {
                path: path.clone(),
                file: None,
            };
            ports.push(NodePort {
                name,
                number,
                path,
                record: Record::new(wire, file),
            });
        }
        let begin = inputs.begin().unwrap_or_default();
        Ok(Self {
            name: shape.name.to_owned(),
            node,
            ports,
            begin,
            now: begin,
        })
    }

    /// Returns the position of a port.
    ///
    /// # Errors
    /// The node has no such port.
    pub fn find(&self, name: &str) -> Result<usize, ReplayError> {
        let found = self.ports.iter().position(|port| port.name == name);
        found.ok_or_else(|| ReplayError::NoPort {
            port: name.to_owned(),
            node: self.name.clone(),
            known: self
                .ports
                .iter()
                .map(|port| port.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// Receives a frame at a port, and processes it.
    ///
    /// # Errors
    /// Frames that leave cannot be written to their capture.
    pub fn receive(&mut self, at: usize, captured: &Captured) -> Result<(), ReplayError> {
        if let Some(port) = self.ports.get(at) {
            port.record.wire().push(&captured.frame);
        }
        self.now = self.now.max(captured.at);
        self.turn()
    }

    /// Advances the time without receiving a frame.
    ///
    /// # Errors
    /// Frames that leave cannot be written to their capture.
    pub fn wait(&mut self, time: Duration) -> Result<(), ReplayError> {
        self.now += time;
        self.turn()
    }

    /// Runs the worker until it finds nothing more to do, and writes the frames that left.
    fn turn(&mut self) -> Result<(), ReplayError> {
        let passed = self.now.saturating_sub(self.begin).as_millis();
        let now = BEGIN.plus(u64::try_from(passed).unwrap_or(u64::MAX));
        self.node.set_now(now);
        self.node.step().map_err(|e| setup(&e))?;
        for port in &mut self.ports {
            port.record.write(self.now).map_err(|source| ReplayError::Capture {
                path: port.path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Finishes the captures.
    ///
    /// # Errors
    /// A capture cannot be written to its end.
    pub fn finish(self) -> Result<(), ReplayError> {
        self.ports.into_iter().try_for_each(|port| {
            port.record.finish().map_err(|source| ReplayError::Capture {
                path: port.path,
                source,
            })
        })
    }

    /// Returns the counters so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let counted = |port: &NodePort| PortReport::from(&self.node.totals(port.number));
        let ports: BTreeMap<String, PortReport> = self
            .ports
            .iter()
            .map(|port| (port.name.clone(), counted(port)))
            .collect();
        Report { ports }
    }
}

/// The host's port number; pods have higher ones.
const HOST: PortId = PortId(EndpointId::HOST.0);
const UPLINK: PortId = PortId(EndpointId::UPLINK.0);

/// Returns the error of a node that cannot be made or does not come to rest.
fn setup(error: &testing::NodeError) -> ReplayError {
    ReplayError::Setup(error.to_string())
}

/// Returns the name of a pod's port and the name of its capture.
fn pod_names(key: &ObjectKey) -> (String, String) {
    let ObjectKey { namespace, name } = key;
    (
        format!("pod:{namespace}/{name}"),
        format!("pod_{namespace}_{name}.pcap"),
    )
}

/// Returns the interfaces' MAC addresses, as far as the captures show them.
fn interfaces(shape: &Shape<'_>, inputs: &Inputs) -> Interfaces {
    let pods = shape.cluster.pods_on(shape.name);
    Interfaces {
        macs: pods
            .filter_map(|pod| Some((pod.key.clone(), inputs.mac(&pod_names(&pod.key).0)?)))
            .collect(),
        host: inputs.mac("host"),
        // The first frame that came in shows both ends of its link.
        uplink: inputs.destination("uplink"),
        neighbors: neighbors(shape.cluster, inputs.mac("uplink")),
    }
}

/// Returns the neighbors of the uplink: all other nodes are reached by the one that the capture shows, if it shows one.
fn neighbors(cluster: &Cluster, shown: Option<MacAddr>) -> BTreeMap<IpAddr, MacAddr> {
    let addresses = cluster.nodes().flat_map(|node| &node.internal_ips);
    shown.map_or_else(BTreeMap::new, |mac| addresses.map(|ip| (*ip, mac)).collect())
}
