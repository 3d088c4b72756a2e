//! The questions of `heddle check`, one function each.

use std::fs;
use std::io;
use std::path::Path;

use heddle_config::{Config, HugePages, cores};
use heddle_host::sysctl;
use heddle_io::{KernelFitness, kernel_release};
use heddle_proto::Bytes;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::afxdp_rows::afxdp;
use super::firewall::{self, Hook};
use super::kube_proxy::{self, Traces};
use super::program;
use super::row::{Row, State};
use super::scratch;
use crate::cni_files;
use crate::memory::{self, Demand};
use crate::privileges;
use crate::workers::flow_file::{HUGE_PAGE, allows_transparent, huge_pages, reservation};

/// Returns all rows, the most important ones first.
pub(super) fn all(config: &Config, state_dir: &Path) -> Vec<Row> {
    let demand = Demand::of(config);
    let mut rows = vec![kernel()];
    rows.extend(bpf());
    rows.extend(capabilities());
    rows.extend(afxdp(scratch::test(state_dir), config.pod_xdp_mode));
    rows.push(cores_row(config));
    rows.push(memory_row(&demand));
    rows.push(memlock(&demand));
    rows.push(huge(config.huge_pages, memory::flow_table_bytes(config.connections)));
    rows.extend(of_others(config.cni.config_dir.as_deref()));
    rows
}

/// Returns the rows about what others can change while the agent runs. `cni_config_dir` is the directory in which the agent writes
/// the network configuration.
pub(super) fn of_others(cni_config_dir: Option<&Path>) -> Vec<Row> {
    let mut rows = vec![nft()];
    rows.extend(forwarding());
    rows.push(reverse_path());
    let ruleset = program::nft_ruleset();
    let ruleset = ruleset.as_deref();
    rows.push(firewall(
        "FORWARD policy",
        ruleset,
        Hook::Forward,
        "accept packets from and to heddle0 there, or pods do not reach the outside",
    ));
    rows.push(firewall(
        "INPUT policy",
        ruleset,
        Hook::Input,
        "accept packets from heddle0 there, or pods do not reach processes of this node",
    ));
    rows.push(kube_proxy_row(ruleset.map(kube_proxy::traces)));
    rows.extend(cni_config_dir.map(network_configs));
    rows
}

/// Judges the kernel's release.
fn kernel() -> Row {
    const WHAT: &str = "kernel";
    const OTHERS: &str = "run 6.17.11 or later, 6.18 or later, or a 6.12 or 6.6 (CVE-2025-40290)";
    let release = match kernel_release() {
        Ok(release) => release,
        Err(e) => return Row::new(WHAT, State::Warn, format!("unknown: {e}"), "mount /proc"),
    };
    match KernelFitness::of(&release) {
        KernelFitness::Fit => Row::ok(WHAT, release),
        KernelFitness::TooOld => Row::new(
            WHAT,
            State::Bad,
            release,
            "run 6.6 or later: multi-buffer AF_XDP came with it",
        ),
        KernelFitness::Panics => Row::new(
            WHAT,
            State::Bad,
            format!("{release}: panics when AF_XDP sends into a veth"),
            OTHERS,
        ),
        KernelFitness::MayPanic => Row::new(
            WHAT,
            State::Bad,
            format!("{release}: may panic when AF_XDP sends into a veth"),
            OTHERS,
        ),
    }
}

/// Looks for BPF and for the kernel's type information (BTF).
fn bpf() -> [Row; 2] {
    let row_of_file = |what, file: &str, state, advice: &str| match Path::new(file).exists() {
        true => Row::ok(what, "yes"),
        false => Row::new(what, state, "no", advice),
    };
    [
        row_of_file(
            "bpf(2)",
            "/proc/sys/kernel/unprivileged_bpf_disabled",
            State::Bad,
            "run a kernel with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS",
        ),
        row_of_file(
            "BTF",
            "/sys/kernel/btf/vmlinux",
            State::Warn,
            "a kernel with CONFIG_DEBUG_INFO_BTF lets bpftool show more; heddle does not need it",
        ),
    ]
}

/// Lists the missing capabilities.
fn capabilities() -> Vec<Row> {
    const WHAT: &str = "privileges";
    match privileges::missing() {
        Err(e) => vec![Row::new(WHAT, State::Warn, e.to_string(), "mount /proc")],
        Ok(missing) if missing.is_empty() => vec![Row::ok(WHAT, "every capability that heddle needs")],
        Ok(missing) => missing
            .into_iter()
            .map(|(capability, purpose)| {
                Row::new(
                    WHAT,
                    State::Bad,
                    format!("{capability} is missing ({purpose})"),
                    "run as root, or grant it (container: privileged)",
                )
            })
            .collect(),
    }
}

/// Shows the cores that the workers would get.
fn cores_row(config: &Config) -> Row {
    const WHAT: &str = "cores";
    match cores::choose(config.cores.as_ref()) {
        Err(e) => Row::new(WHAT, State::Bad, e.to_string(), "change cores"),
        Ok(chosen) => {
            let list: Vec<String> = chosen.iter().map(ToString::to_string).collect();
            match cores::usable() {
                Ok(usable) if usable.len() < 2 => Row::new(
                    WHAT,
                    State::Warn,
                    "one, for workers and the node",
                    "with two or more a worker can poll all the time",
                ),
                _ => Row::ok(WHAT, format!("workers on {}", list.join(","))),
            }
        }
    }
}

/// Compares the needed memory with the available memory.
fn memory_row(demand: &Demand) -> Row {
    const WHAT: &str = "memory";
    let Some(available) = memory::available() else {
        return Row::new(WHAT, State::Warn, "unknown", "mount /proc");
    };
    let (start, ports) = (demand.at_start(), demand.of_ports());
    let value = format!(
        "{} at the start, {} more with {} ports; {} available {}",
        Bytes(start),
        Bytes(ports),
        demand.ports,
        Bytes(available.bytes),
        available.limit
    );
    if start > available.bytes {
        Row::new(WHAT, State::Bad, value, "lower frames or connections")
    } else if start + ports > available.bytes {
        Row::new(WHAT, State::Warn, value, "lower frames or maxPods")
    } else {
        Row::ok(WHAT, value)
    }
}

/// Compares the limit of locked memory with the packet memory. It applies only to processes without CAP_IPC_LOCK
/// (net/xdp/xdp_umem.c).
fn memlock(demand: &Demand) -> Row {
    const WHAT: &str = "memlock";
    let needed = u64::from(demand.frames) * u64::from(heddle_config::FRAME_SIZE);
    let exempt = privileges::missing().is_ok_and(|missing| {
        missing
            .iter()
            .all(|(capability, _)| *capability != caps::Capability::CAP_IPC_LOCK)
    });
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => Row::ok(WHAT, "unlimited"),
        Ok((limit, _)) if exempt => Row::ok(
            WHAT,
            format!("{}, which does not apply with CAP_IPC_LOCK", Bytes(limit)),
        ),
        Ok((limit, _)) if limit >= needed => Row::ok(WHAT, Bytes(limit).to_string()),
        Ok((limit, _)) => Row::new(
            WHAT,
            State::Bad,
            format!("{} of {}", Bytes(limit), Bytes(needed)),
            "grant CAP_IPC_LOCK, or raise it (ulimit -l, LimitMEMLOCK=infinity)",
        ),
        Err(e) => Row::new(WHAT, State::Warn, format!("unknown: {e}"), ""),
    }
}

/// Counts the huge pages.
fn huge(wish: HugePages, flow_bytes: u64) -> Row {
    huge_of(
        wish,
        flow_bytes.div_ceil(HUGE_PAGE),
        huge_pages("nr_hugepages"),
        huge_pages("free_hugepages"),
        allows_transparent(),
    )
}

/// Judges the number of huge pages by the configuration. `transparent` is `true` if a tmpfs can have huge pages.
fn huge_of(wish: HugePages, needed: u64, reserved: u64, free: u64, transparent: bool) -> Row {
    const WHAT: &str = "huge pages";
    let value = format!("{reserved} of 2 MiB reserved, {free} free; the flow table needs {needed}");
    let advice = reservation(needed, reserved, free);
    match wish {
        HugePages::Never => Row::ok(WHAT, format!("not used (hugePages: never); {reserved} reserved")),
        _ if free >= needed => Row::ok(WHAT, value),
        HugePages::Auto if transparent => Row::new(
            WHAT,
            State::Ok,
            format!("{value}: it uses pages that the kernel assembles from free memory"),
            format!("to reserve them: {advice}"),
        ),
        HugePages::Auto => Row::new(
            WHAT,
            State::Warn,
            format!("{value}: it uses ordinary memory"),
            format!("for fewer TLB misses: {advice}"),
        ),
        HugePages::Require => Row::new(WHAT, State::Bad, format!("{value} (hugePages: require)"), advice),
    }
}

/// Runs `nft --version`.
fn nft() -> Row {
    match program::nft_version() {
        Ok(version) => Row::ok("nft", version.trim()),
        Err(e) => Row::new(
            "nft",
            State::Bad,
            format!("does not run: {e}"),
            "install nftables: it masquerades the pods' traffic to the outside",
        ),
    }
}

/// Reads the switches for forwarding of both IP families.
fn forwarding() -> [Row; 2] {
    [
        ("forwarding of IPv4", "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (
            "forwarding of IPv6",
            "net/ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
        ),
    ]
    .map(|(what, file, key)| match sysctl::read(file) {
        Ok(value) if value == "0" => Row::new(
            what,
            State::Warn,
            "off: pods do not reach the outside",
            format!("sysctl {key}=1"),
        ),
        Ok(_) => Row::ok(what, "on"),
        Err(_) => Row::new(what, State::Warn, "not in this kernel", ""),
    })
}

/// Shows `rp_filter` of `all` and of the uplink; the kernel uses the greater one. heddle works with every value.
fn reverse_path() -> Row {
    let read = |name: &str| sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter")).ok();
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut values: Vec<String> = read("all").map(|value| format!("all {value}")).into_iter().collect();
    if let Some(uplink) = uplink(&routes)
        && let Some(value) = read(uplink)
    {
        values.push(format!("{uplink} {value}"));
    }
    Row::ok("rp_filter", format!("{} (0, 1 and 2 all work)", values.join(", ")))
}

/// Returns the interface of the default route in /proc/net/route: its destination and mask are zero.
fn uplink(routes: &str) -> Option<&str> {
    routes.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        (fields.next()? == "00000000" && fields.nth(5)? == "00000000").then_some(name)
    })
}

/// Lists the chains of others at a hook that refuse what no rule accepts. `ruleset` is the output of `nft list ruleset`.
fn firewall(what: &str, ruleset: Result<&str, &io::Error>, hook: Hook, advice: &str) -> Row {
    match ruleset.map(|ruleset| firewall::refusing(ruleset, hook)) {
        Ok(chains) if chains.is_empty() => Row::ok(what, "accept"),
        Ok(chains) => Row::new(
            what,
            State::Warn,
            format!("drop or reject in {}", chains.join(", ")),
            advice,
        ),
        Err(e) => Row::new(what, State::Warn, format!("unknown: {e}"), "run as root, with nftables"),
    }
}

/// Judges the traces of kube-proxy.
fn kube_proxy_row(traces: Result<Traces, &io::Error>) -> Row {
    const WHAT: &str = "kube-proxy";
    const ADVICE: &str =
        "heddle serves Services itself: delete DaemonSet kube-proxy, then run `kube-proxy --cleanup` on each node";
    match traces {
        Ok(Traces { rules, is_running }) if rules.is_empty() && !is_running => Row::ok(WHAT, "none"),
        Ok(Traces { rules, is_running }) => {
            let state = if is_running { "it runs" } else { "it does not run" };
            let rules = match rules.is_empty() {
                true => "it has no rules here".to_owned(),
                false => format!("it has rules here: {}", rules.join(", ")),
            };
            Row::new(WHAT, State::Warn, format!("{state}, and {rules}"), ADVICE)
        }
        Err(e) => Row::new(WHAT, State::Warn, format!("unknown: {e}"), "run as root, with nftables"),
    }
}

/// Lists the network configurations that the container runtime prefers to heddle's.
fn network_configs(dir: &Path) -> Row {
    const WHAT: &str = "CNI configuration";
    match cni_files::before_ours(dir) {
        Ok(names) if names.is_empty() => Row::ok(WHAT, format!("none in {} is before heddle's", dir.display())),
        Ok(names) => Row::new(
            WHAT,
            State::Warn,
            format!(
                "{} in {} sorts before {}, so new pods are not heddle's",
                names.join(", "),
                dir.display(),
                cni_files::CONFIG_FILE
            ),
            "drain the node and move it away",
        ),
        Err(e) => Row::new(
            WHAT,
            State::Warn,
            format!("{} cannot be read: {e}", dir.display()),
            "correct cni.configDir",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uplink_is_the_default_routes() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\tFE0200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(uplink(routes), Some("eth0"));
        assert_eq!(uplink("Iface\tDestination\n"), None);
    }

    #[test]
    fn kube_proxy_is_a_warning_and_no_obstacle() {
        let none = kube_proxy_row(Ok(Traces::default()));
        assert_eq!((none.state, &*none.value), (State::Ok, "none"));
        let left = Traces {
            rules: vec!["table ip kube-proxy".to_owned()],
            is_running: false,
        };
        let row = kube_proxy_row(Ok(left.clone()));
        assert_eq!(row.state, State::Warn);
        assert_eq!(row.value, "it does not run, and it has rules here: table ip kube-proxy");
        let both = kube_proxy_row(Ok(Traces {
            is_running: true,
            ..left
        }));
        assert!(both.value.starts_with("it runs, and"), "{}", both.value);
    }

    #[test]
    fn a_network_configuration_before_heddles_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(network_configs(dir.path()).state, State::Ok);
        fs::write(dir.path().join("10-flannel.conflist"), "{}").unwrap();
        let row = network_configs(dir.path());
        assert!(
            row.state == State::Warn && row.value.starts_with("10-flannel.conflist in "),
            "{row:?}"
        );
    }

    #[test]
    fn huge_pages_by_configuration() {
        let state = |wish, free| huge_of(wish, 30, 10, free, false).state;
        assert_eq!(state(HugePages::Auto, 30), State::Ok);
        assert_eq!(state(HugePages::Auto, 29), State::Warn);
        assert_eq!(state(HugePages::Require, 29), State::Bad);
        assert_eq!(state(HugePages::Never, 0), State::Ok);
        let made_up = huge_of(HugePages::Auto, 30, 10, 4, true);
        assert_eq!(made_up.state, State::Ok);
        assert!(made_up.advice.contains("vm.nr_hugepages=36"));
        assert!(
            huge_of(HugePages::Auto, 30, 10, 4, false)
                .advice
                .contains("vm.nr_hugepages=36")
        );
    }
}
