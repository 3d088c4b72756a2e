//! The command line: commands and flags, and the configuration from flags and file.
//!
//! This module runs nothing: `main` passes the parsed [`Command`] to the module that does the work.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgGroup, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum, value_parser};
use heddle_config::{Config, ConfigError, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use heddle_offline::ClusterSource;
use heddle_offline::replay::Input;
use heddle_offline::simulate::end_syntax::{Destination, NamedEnd};
use heddle_offline::simulate::request::ObjectName;
use heddle_proto::PolicyName;
use heddle_proto::drops::MAX_DROPS;

use crate::demo::DemoArgs;

/// heddle, a userspace packet dataplane for Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "heddle", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent: workers, controller, and the sockets for heddle-cni and the other commands.
    Run(RunArgs),
    /// Check that this machine can run heddle, with advice for each problem.
    Check(CheckArgs),
    /// Show the running agent's ports, attachments and counters.
    Status(StatusArgs),
    /// Show the latest dropped packets: source, destination, reason, and the policy that decided.
    Drops(DropsArgs),
    /// List connections: source, Service, destination, state, traffic; --watch shows those that begin, change and end.
    Flows(FlowsArgs),
    /// Compute the verdict for connections from a folder of manifests or a live cluster; nothing is sent and no agent is needed.
    Simulate(SimulateArgs),
    /// Run captured frames through the pipeline of a node, without an agent, and capture the frames that leave each port.
    Replay(ReplayArgs),
    /// Remove everything that an agent created in this network namespace; the agent must have been stopped.
    Cleanup(CleanupArgs),
    /// Demonstrate heddle in network namespaces of their own, with real traffic: a node with four pods, then two nodes.
    Demo(DemoArgs),
}

/// Flags of `heddle run`. The keys of the configuration that have a flag are declared by [`Config`] itself.
#[derive(Debug, Clone)]
pub struct RunArgs {
    file: Option<PathBuf>,
    /// The flags that were given; they override the file.
    flags: ArgMatches,
}

impl Args for RunArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Configuration file (YAML); configs/heddle.yaml lists every key");
        // Use clap's form for updates: no flag is required, because the file or the default supplies the value. A
        // `default_value` of clap would override the file, so the defaults are added to the help texts.
        show_defaults(Config::augment_args_for_update(command.arg(file)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Appends each flag's default to its help text. Defaults that depend on the machine are part of the help texts already.
fn show_defaults(command: clap::Command) -> clap::Command {
    let defaults = Config::default();
    [
        ("run_dir", defaults.run_dir.display().to_string()),
        ("state_dir", defaults.state_dir.display().to_string()),
        ("max_pods", defaults.max_pods.to_string()),
        ("log", defaults.log),
    ]
    .into_iter()
    .fold(command, |command, (flag, default)| {
        command.mut_arg(flag, |arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} [default: {default}]"))
        })
    })
}

impl FromArgMatches for RunArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            flags: matches.clone(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A configuration of `heddle run` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunArgsError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A flag cannot be used.
    #[error(transparent)]
    Flag(#[from] clap::Error),
}

impl RunArgs {
    /// Returns the configuration: the file's keys or the defaults, overridden by the flags.
    ///
    /// # Errors
    /// The file cannot be read or is not valid.
    pub fn configuration(&self) -> Result<Config, RunArgsError> {
        let mut config = match &self.file {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        config.update_from_arg_matches(&self.flags)?;
        Ok(config)
    }
}

/// The format of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// Tables for people.
    #[default]
    Text,
    /// One JSON value.
    Json,
}

/// Flags of `heddle check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The agent's configuration file: the machine must have room for the sizes in it [default: every key's default].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's state directory, for the marker of the AF_XDP test [default: stateDir of the configuration].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// File for the problems, if there are any: /dev/termination-log in an init container.
    #[arg(long, value_name = "FILE")]
    pub termination_log: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Flags of `heddle status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Output format; with --watch, JSON is one object per line.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// Print the status, then rates every SECONDS, until Ctrl-C [default: 1].
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    pub watch: Option<Duration>,
}

/// Flags of `heddle drops`.
#[derive(Debug, Clone, Args)]
pub struct DropsArgs {
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Output format; with --watch, JSON is one object per line: a drop, or the number of drops that could not be shown.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// Print the newest drops, then new ones, polling every SECONDS, until Ctrl-C [default: 0.5].
    #[arg(short = 'f', long, visible_alias = "follow", value_name = "SECONDS", num_args = 0..=1, default_missing_value = "0.5", value_parser = interval)]
    pub watch: Option<Duration>,
    /// Only drops from or to this pod, or denied by its policy.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<heddle_proto::Named>,
    /// Only drops with this reason, as `heddle status` counts them (policy-denied-ingress, spoofed-source, ...).
    #[arg(long, value_name = "REASON", hide_possible_values = true, value_parser = PossibleValuesParser::new(heddle_agent::drop_reasons()))]
    pub reason: Option<String>,
    /// Only drops for a reason of this class: malformed, spoofing, unsupported, policy, unreachable, no-flow, capacity, defect.
    #[arg(long, value_name = "CLASS", hide_possible_values = true, value_parser = PossibleValuesParser::new(heddle_agent::drop_classes()))]
    pub class: Option<String>,
    /// Only drops decided by this policy; a cluster-wide policy has no namespace.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub policy: Option<PolicyName>,
    /// Show the newest N drops; with --watch, begin with them.
    #[arg(long, value_name = "N", default_value = "100", value_parser = value_parser!(u32).range(0..=i64::from(MAX_DROPS)))]
    pub limit: u32,
}

/// Flags of `heddle flows`.
#[derive(Debug, Clone, Args)]
pub struct FlowsArgs {
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Output format; JSON is streamed, and with --watch it is one object per line.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// Print connections that begin, change or end, polling every SECONDS, until Ctrl-C [default: 1].
    #[arg(short = 'f', long, visible_alias = "follow", value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    pub watch: Option<Duration>,
    /// Only connections that this pod opened or receives.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<heddle_proto::Named>,
    /// Only connections through this Service.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<heddle_proto::Named>,
    /// Only connections in this state: new, replied, syn-sent, syn-received, established, fin-wait, time-wait, closed.
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only connections with this address on either side, before or after translation.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Only connections with this protocol: TCP, UDP, SCTP, ICMP, ICMPv6, or a number.
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Show at most N connections [default: all]; with --watch, follow at most N [default: 16384].
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// Parses the number of seconds between two polls.
fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write a number of seconds between 0.1 and 86400".to_owned()),
    }
}

/// The flags that name a cluster.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("cluster").required(true).args(["manifests", "kubeconfig"])))]
pub struct ClusterArgs {
    /// Folder of the cluster's objects, as `kubectl get -o yaml` prints them.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Kubeconfig of a live cluster, whose objects are read once.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current-context].
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
}

impl From<ClusterArgs> for ClusterSource {
    fn from(args: ClusterArgs) -> Self {
        match (args.manifests, args.kubeconfig) {
            (_, Some(kubeconfig)) => Self::ApiServer {
                kubeconfig,
                context: args.context,
            },
            (folder, None) => Self::Manifests(folder.unwrap_or_default()),
        }
    }
}

/// Flags of `heddle simulate`.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("question").required(true).multiple(true).args(["probes", "from", "what_if", "without"])))]
pub struct SimulateArgs {
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// File with connections to check: a JSON array of objects with id, src, dst, protocol, port and node.
    /// Ends are {"pod": "NAMESPACE/NAME"}, {"node": "NAME"} or {"ip": "ADDRESS"}.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "what_if", "without"])]
    pub probes: Option<PathBuf>,
    /// Explain one connection: its source. NAMESPACE/NAME of a pod, a node's name, or an address.
    #[arg(long, value_name = "END", requires = "to")]
    pub from: Option<NamedEnd>,
    /// Explain one connection: its destination, with :PORT[/PROTOCOL] or :icmp. NAMESPACE/NAME of a pod, or of a
    /// Service if there is no such pod (or explicitly pod/NAMESPACE/NAME, service/NAMESPACE/NAME), a node's name, or an
    /// address. PORT is a number, or the name of a port of the pod or Service.
    #[arg(long, value_name = "END:PORT", requires = "from")]
    pub to: Option<Destination>,
    /// File of objects to add or to replace: shows each pair of pods whose traffic would change, or
    /// with --from and --to that connection as it is and as it would be.
    #[arg(long, value_name = "FILE")]
    pub what_if: Option<PathBuf>,
    /// An object to remove, as NetworkPolicy/NAMESPACE/NAME or ClusterNetworkPolicy/NAME; shows the same changes. May be given
    /// several times.
    #[arg(long, value_name = "KIND/NAME")]
    pub without: Vec<ObjectName>,
    /// The agents' configuration file, for externalIPs and serviceCIDRs. Without it external addresses are served, as by
    /// kube-proxy.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node at which packets enter [default: the source pod's, or else the destination pod's].
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Flags of `heddle replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The node whose pipeline processes the frames.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// A capture (pcap, Ethernet) of frames that arrive at a port: pod:NAMESPACE/NAME or host. May be given several
    /// times; the frames of all captures run in the order of their times.
    #[arg(long = "in", value_name = "PORT=FILE", required = true)]
    pub inputs: Vec<Input>,
    /// Folder for captures of frames that leave: pod_NAMESPACE_NAME.pcap and host.pcap, for ports that send any.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The agent's configuration file. Without it every key has its default, except that external addresses are served,
    /// as by kube-proxy.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Flags of `heddle cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    /// The agent's run directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// The agent's state directory.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run_args(args: &[&str]) -> RunArgs {
        let cli = Cli::try_parse_from(["heddle", "run"].iter().chain(args)).unwrap();
        match cli.command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn declarations_of_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_override_the_file_and_the_file_overrides_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heddle.yaml");
        std::fs::write(&path, "node: from-file\nmaxPods: 7\n").unwrap();
        let path = path.to_str().unwrap();
        let config = run_args(&["--config", path, "--node", "from-flag"])
            .configuration()
            .unwrap();
        assert_eq!(
            (config.node.as_deref(), config.max_pods, config.frames),
            (Some("from-flag"), 7, None)
        );
    }

    #[test]
    fn the_help_of_run_shows_the_default_of_each_flag() {
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand("run").unwrap();
        let defaults = Config::default();
        for (flag, default) in [
            ("run_dir", DEFAULT_RUN_DIR.to_owned()),
            ("state_dir", DEFAULT_STATE_DIR.to_owned()),
            ("max_pods", defaults.max_pods.to_string()),
            ("log", defaults.log),
        ] {
            let arg = run.get_arguments().find(|arg| arg.get_id() == flag).unwrap();
            let help = arg.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!(" [default: {default}]")), "{flag}: {help}");
        }
        // The other flags have a default that depends on the machine, or none.
        for arg in run.get_arguments() {
            let help = arg.get_help().unwrap().to_string();
            let without = ["config", "manifests", "help"];
            assert!(
                help.contains("[default: ") || without.iter().any(|name| arg.get_id() == name),
                "{}: {help}",
                arg.get_id()
            );
        }
    }

    #[test]
    fn a_bad_value_is_refused_and_named() {
        let message = Cli::try_parse_from(["heddle", "run", "--cores", "1,1"])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("--cores") && message.contains("occurs twice"),
            "{message}"
        );
        let message = Cli::try_parse_from(["heddle", "run", "--kubeconfg", "x"])
            .unwrap_err()
            .to_string();
        assert!(message.contains("--kubeconfg"), "{message}");
    }

    #[test]
    fn watch_takes_an_optional_number_of_seconds() {
        let watch = |args: &[&str]| {
            let cli = Cli::try_parse_from(["heddle", "status"].iter().chain(args))?;
            match cli.command {
                Command::Status(args) => Ok::<_, clap::Error>(args.watch),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(watch(&[]).unwrap(), None);
        assert_eq!(watch(&["--watch"]).unwrap(), Some(Duration::from_secs(1)));
        assert_eq!(watch(&["--watch", "0.5"]).unwrap(), Some(Duration::from_millis(500)));
        for bad in ["0", "-1", "x", "NaN", "1e9"] {
            let message = watch(&[&format!("--watch={bad}")]).unwrap_err().to_string();
            assert!(message.contains("--watch") && message.contains(bad), "{message}");
        }
    }

    #[test]
    fn drops_are_filtered_by_pod_policy_reason_and_class() {
        let parse = |args: &[&str]| {
            let cli = Cli::try_parse_from(["heddle", "drops"].iter().chain(args))?;
            match cli.command {
                Command::Drops(args) => Ok::<_, clap::Error>(args),
                other => panic!("{other:?}"),
            }
        };
        let all = parse(&[
            "-f",
            "--pod",
            "shop/db",
            "--policy",
            "admins",
            "--reason",
            "spoofed-source",
            "--class",
            "spoofing",
        ])
        .unwrap();
        assert_eq!(all.watch, Some(Duration::from_millis(500)));
        assert_eq!(all.pod.map(|pod| pod.to_string()).as_deref(), Some("shop/db"));
        assert_eq!(
            all.policy.map(|policy| policy.name.to_string()).as_deref(),
            Some("admins")
        );
        assert_eq!(
            (all.reason.as_deref(), all.class.as_deref(), all.limit),
            (Some("spoofed-source"), Some("spoofing"), 100)
        );
        assert_eq!(parse(&["--follow", "2"]).unwrap().watch, Some(Duration::from_secs(2)));
        for (bad, part) in [
            (["--pod", "db"], "NAMESPACE/NAME"),
            (["--reason", "spoofed"], "spoofed-source"),
            (["--class", "spoofed"], "spoofing"),
            (["--policy", "a/b/c"], "not allowed"),
            (["--limit", "100000"], "100000"),
        ] {
            let message = parse(&bad).unwrap_err().to_string();
            assert!(message.contains(bad[0]) && message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = run_args(&["--config", "/no/such/file"])
            .configuration()
            .unwrap_err()
            .to_string();
        assert!(message.contains("/no/such/file"), "{message}");
    }
}
