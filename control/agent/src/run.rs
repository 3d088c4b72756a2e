//! `heddle run`: starts the parts of the agent, runs the controller until a signal arrives, and stops the parts.
//!
//! The pods' interfaces with their XDP program, the host port, the nftables table, the state directory and the flow table
//! stay behind. The next start takes them over, and `heddle cleanup` removes them.

use std::io;
use std::path::Path;

use crossbeam::channel;
use heddle_config::{Config, ConfigError, HugePages, PodXdpMode, Settings};
use heddle_flow::{BootId, FlowTable, OpenError, Takeover};
use heddle_io::{ProbeError, XdpMode};
use heddle_source::{Batch, FollowError, Source};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::api::{ApiError, Server};
use crate::attachments::{Store, StoreError};
use crate::cni_files::CniFiles;
use crate::controller::{Controller, ControllerError, Parts};
use crate::descriptors::{self, TooFew};
use crate::kept::KeptFile;
use crate::lock::{DirLock, LockError, NetnsLock};
use crate::memory::{self, Demand, TooLarge};
use crate::notify;
use crate::preflight::Watcher;
use crate::preflight::scratch::{self, ScratchError};
use crate::privileges::{self, PrivilegeError};
use crate::probes::ProbeServer;
use crate::reaper::Reaper;
use crate::signals::Signals;
use crate::source;
use crate::workers::flow_file::{self, FlowFileError, Medium};
use crate::workers::{Workers, WorkersError, clock};

/// Generic mode is configured, and does not work here.
#[derive(Debug, thiserror::Error)]
#[error("podXDPMode: generic does not work here: {source}: set it to auto or native")]
pub struct NoGenericMode {
    source: ProbeError,
}

/// A failure to start the agent, or a failure that ended it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A capability is missing.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// Another agent uses this network namespace or one of the directories.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The test of AF_XDP failed or is forbidden.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The configured XDP mode does not work.
    #[error(transparent)]
    NoGenericMode(#[from] NoGenericMode),
    /// The memory is too small.
    #[error(transparent)]
    Memory(#[from] TooLarge),
    /// The limit of open files is too low.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The file of the attachments cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The flow table's file system cannot be mounted.
    #[error(transparent)]
    FlowFile(#[from] FlowFileError),
    /// The flow table cannot be opened.
    #[error(transparent)]
    FlowTable(#[from] OpenError),
    /// The workers cannot be started.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The source of objects cannot be followed.
    #[error(transparent)]
    Source(#[from] FollowError),
    /// A socket cannot be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The controller has failed.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The runtime or the signal handlers cannot be started.
    #[error("cannot start the agent: {0}")]
    System(#[from] io::Error),
}

impl RunError {
    /// Returns `true` if another start fails too, until someone changes the configuration, the credentials or the machine.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        match self {
            Self::Config(_) | Self::Privileges(_) | Self::NoGenericMode(_) | Self::Memory(_) | Self::Descriptors(_) => {
                true
            }
            Self::Source(error) => error.lasts(),
            Self::Lock(_)
            | Self::Scratch(_)
            | Self::Store(_)
            | Self::FlowFile(_)
            | Self::FlowTable(_)
            | Self::Workers(_)
            | Self::Api(_)
            | Self::Controller(_)
            | Self::System(_) => false,
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT. The command `heddle run` calls it, and installs the handlers before anything else.
///
/// # Errors
/// The agent cannot start, or the controller has failed.
pub fn run(config: Config, signals: Signals) -> Result<(), RunError> {
    // Checks that change nothing on the node.
    start_logging(&config.log)?;
    let mut settings = config.check()?;
    privileges::check()?;
    let _reaper = Reaper::start()?;

    // The locks are held until this function returns. Everything after them relies on being the only agent.
    let holder = format!("the agent of {}", settings.node);
    let _locks = (
        NetnsLock::acquire(&holder)?,
        DirLock::acquire(&settings.run_dir, &holder)?,
        DirLock::acquire(&settings.state_dir, &holder)?,
    );
    let pod_mode = pod_mode(settings.pod_xdp_mode, try_afxdp(&settings.state_dir)?)?;
    check_memory(&settings)?;
    settings.max_pods = descriptors::raise(settings.worker_cores.len() as u64, settings.max_pods)?;
    // The state of an earlier agent, and the workers, which need the flow table.
    let store = Store::open(&settings.state_dir)?;
    let (kept_file, kept) = KeptFile::open(&settings.state_dir);
    let earlier_files = kept.contents_of_files();
    let (flows, takeover) = open_flows(&settings)?;
    let workers = Workers::start(&settings, flows, takeover.fresh_since, pod_mode)?;

    // The runtime of the sockets, and the channels to the controller, which runs on this thread.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("io")
        .enable_all()
        .build()?;
    let (events_in, events) = channel::unbounded();
    let (requests_in, requests) = channel::unbounded();
    let (probe_port, for_cni, cni_config_dir) =
        (settings.probe_port, settings.clone(), settings.cni.config_dir.clone());
    let (run_dir, source) = (settings.run_dir.clone(), source::selected(&settings, earlier_files));
    let runtime_handle = runtime.handle().clone();
    let mut controller = Controller::new(Parts {
        settings,
        store,
        kept: (kept_file, kept),
        workers,
        takeover,
        runtime: runtime_handle,
        events,
        requests,
        stop: signals.into_stop(),
    })?;

    let _probes = probe_port.map(|port| ProbeServer::start(runtime.handle(), port, controller.read_model()));
    let read_model = controller.read_model();
    let cni_files = CniFiles::start(runtime.handle(), &for_cni, read_model.watch_can_add())?;
    if let Some(files) = &cni_files {
        read_model.show_cni_files(files.state());
    }
    let _checks = Watcher::start(read_model.checks().clone(), cni_config_dir)?;

    // Until a signal or a failure. The parts are stopped in both cases.
    let ended = serve(&runtime, &mut controller, &run_dir, source, events_in, &requests_in);
    notify_service_manager("STOPPING=1");
    controller.finish();
    if ended.is_ok() {
        tracing::info!("the agent has ended; its pods have no network until it is started again");
    }
    ended
}

/// Tests AF_XDP in a scratch namespace, before anything on the node is changed. Returns the outcome in generic mode.
fn try_afxdp(state_dir: &Path) -> Result<Result<(), ProbeError>, ScratchError> {
    let passed = scratch::test(state_dir)?;
    if passed.repeated {
        tracing::warn!("an earlier test of AF_XDP was interrupted, so it was repeated");
    }
    tracing::info!(
        millis = passed.took.as_millis(),
        "AF_XDP works: a packet went through a scratch namespace and back"
    );
    Ok(passed.segments)
}

/// Returns the mode of the XDP program on pods' interfaces. `segments` is the outcome of the test in generic mode.
fn pod_mode(wish: PodXdpMode, segments: Result<(), ProbeError>) -> Result<XdpMode, NoGenericMode> {
    match (wish, segments) {
        (PodXdpMode::Auto | PodXdpMode::Native, _) => Ok(XdpMode::Native),
        (PodXdpMode::Generic, Ok(())) => Ok(XdpMode::Generic),
        (PodXdpMode::Generic, Err(source)) => Err(NoGenericMode { source }),
    }
}

/// Refuses a configuration that does not fit into memory. An existing flow table has its memory already.
///
/// The memory of ports is allocated later, so a lack of it is only logged.
fn check_memory(settings: &Settings) -> Result<(), TooLarge> {
    // If the file cannot be looked at, nothing is known about it, and opening it will say why.
    let file = settings.run_dir.join(flow_file::DIR).join(flow_file::FILE);
    let has_flow_table = file.try_exists().unwrap_or(true);
    let workers = u32::try_from(settings.worker_cores.len()).unwrap_or(u32::MAX);
    let demand = Demand {
        frames: settings.frames,
        flows: if has_flow_table {
            0
        } else {
            memory::ordinary_flow_bytes(settings.connections, settings.huge_pages)
        },
        ports: workers.saturating_add(settings.max_pods.into()),
    };
    let Some(available) = memory::available() else {
        return Ok(());
    };
    demand.check(&available)?;
    if demand.at_start() + demand.of_ports() > available.bytes {
        tracing::warn!(
            "with {} ports open the kernel needs {} bytes more, but only {} are available {}: lower frames or maxPods",
            demand.ports,
            demand.of_ports(),
            available.bytes,
            available.limit
        );
    }
    Ok(())
}

/// Follows the source and serves the sockets while the controller runs.
fn serve(
    runtime: &Runtime,
    controller: &mut Controller,
    run_dir: &Path,
    source: Box<dyn Source>,
    events: channel::Sender<Batch>,
    requests: &channel::Sender<crate::api::Request>,
) -> Result<(), RunError> {
    let read_model = controller.read_model();
    let followed = source.follow(Box::new(move |batch| match events.send(batch) {
        Ok(()) => std::ops::ControlFlow::Continue(()),
        Err(_) => std::ops::ControlFlow::Break(()),
    }))?;
    if let (Some(health), Some(reporter)) = (followed.health(), followed.reporter()) {
        read_model.show_api_server(health.clone(), reporter.clone());
        controller.set_reporter(reporter.clone());
    }
    let _server = runtime.block_on(async { Server::start(run_dir, requests, read_model) })?;
    tracing::info!(run_dir = %run_dir.display(), "the agent serves its sockets");
    controller.run(|| {
        tracing::info!("ready");
        notify_service_manager("READY=1");
    })?;
    Ok(())
}

/// Sends a state to the service manager. The agent also runs without one, so a failure is only logged.
fn notify_service_manager(state: &str) {
    if let Err(e) = notify::send_state(state) {
        tracing::warn!("cannot send {state} to the service manager: {e}");
    }
}

/// Opens the flow table of an earlier agent, or creates one.
fn open_flows(settings: &Settings) -> Result<(FlowTable, Takeover), RunError> {
    let bytes = memory::flow_table_bytes(settings.connections);
    let (file, medium) = flow_file::prepare(&settings.run_dir, settings.huge_pages, bytes)?;
    let needed = bytes.div_ceil(flow_file::HUGE_PAGE);
    let advice = || {
        let [reserved, free] = ["nr_hugepages", "free_hugepages"].map(flow_file::huge_pages);
        flow_file::reservation(needed, reserved, free)
    };
    match medium {
        Medium::Tmpfs if settings.huge_pages != HugePages::Never => {
            tracing::warn!(
                "the flow table is in {medium}; to reserve {needed} pages of 2 MiB for it: {}",
                advice()
            );
        }
        _ => tracing::info!(file = %file.display(), "the flow table is in {medium}"),
    }
    let config = heddle_flow::Config {
        capacity: settings.connections,
        quotas: settings.quotas,
        timeouts: settings.timeouts,
        huge_pages: settings.huge_pages != HugePages::Never,
        ..heddle_flow::Config::default()
    };
    Ok(FlowTable::open(&file, &config, BootId::current()?, clock())?)
}

/// Starts logging to standard error.
fn start_logging(filter: &str) -> Result<(), ConfigError> {
    // kube logs each fault of a watch that heddle logs itself, once and with advice. A directive of the filter overrides this.
    let parsed = EnvFilter::try_new(format!("kube_runtime=error,{filter}")).map_err(|e| ConfigError::Value {
        key: "log",
        value: format!("{filter:?}"),
        problem: format!("is no filter ({e}): write a level, or directives like info,heddle_engine=debug"),
    })?;
    // Fails in tests that run several agents in one process; then the first subscriber stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr)
        .with_ansi(false)
        .try_init();
    Ok(())
}
