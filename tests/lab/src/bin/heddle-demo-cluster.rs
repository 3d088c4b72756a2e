//! `make demo-cluster`: heddle's agent follows a real API server, and `kubectl` does what a user would do.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heddle_lab::control_plane::{Account, ControlPlane, KubernetesBinaries};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{Binaries, Lab, LabError, NetNs, Node, NodePlan, Pod, manifests, run_with_input, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The namespace of the demo's objects.
const NAMESPACE: &str = "shop";
/// The port of the pods' servers, and of the Service.
const PORT: u16 = 8080;
const SERVICE_PORT: u16 = 80;
/// The longest that a change may take until it is seen.
const BOUND: Duration = Duration::from_secs(30);
/// The time after which a pod counts as silent: pods of one node answer within a millisecond.
const SILENCE: Duration = Duration::from_millis(800);

fn main() -> ExitCode {
    match Stage::new().and_then(|mut stage| show(&mut stage).map_err(|e| stage.explain(e))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nobody may read the output.
            let _ = writeln!(io::stderr(), "demo-cluster: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo's chapters. The fields of [`Scene`] remove everything, also after an error.
fn show(stage: &mut Stage) -> Result<(), LabError> {
    stage.print("heddle's agent on a real Kubernetes API server. There is no kubelet and no scheduler here: the demo writes the")?;
    stage.print("status of pods itself. Everything else is what a cluster has, and you see the commands of a user.")?;
    let mut scene = Scene::start(stage)?;
    let pods = scene.pods(stage)?;
    let service = scene.service(stage, &pods)?;
    scene.policy(stage, &pods, service)?;
    scene.status(stage)?;
    scene.delete(stage, &pods, service)?;
    stage.chapter("Removing everything")?;
    scene.node.stop_agent(Signal::SIGTERM)?;
    stage.print("   $ heddle cleanup")?;
    stage.print_indented(&scene.node.cleanup()?.stdout)?;
    drop(scene);
    stage.print("   the agent, the control plane, their namespaces and their files are gone")
}

/// The control plane and a node. Fields are dropped in their order: the folder of all files goes last.
struct Scene {
    node: Node,
    plane: ControlPlane,
    lab: Lab,
}

/// A pod with a server in it.
struct Running {
    _server: TcpServer,
    pod: Pod,
}

impl Scene {
    fn start(stage: &mut Stage) -> Result<Self, LabError> {
        stage.chapter("A control plane")?;
        let lab = Lab::new(Binaries::beside_current_exe()?)?;
        let version = KubernetesBinaries::version();
        stage.print(&format!(
            "   etcd, kube-apiserver {version} and kube-controller-manager start (a few seconds) ..."
        ))?;
        let plane = ControlPlane::start(&lab)?;
        stage.print(&format!("   {} is ready", plane.url()))?;

        stage.chapter("A node, and heddle's agent on it")?;
        // The rights first: the agent reads all objects once before it forwards anything.
        let account = Account::create(&plane, "heddle")?;
        stage
            .print("   kubectl apply -f configs/rbac.yaml      # the agent's account, with the rights that it needs")?;
        let mut plan = NodePlan::new("node-1", 1);
        plan.kubeconfig = Some(account.kubeconfig(&plane, plane.address())?);
        let mut node = lab.node(plan)?;
        plane.register(&node)?;
        node.start_agent()?;
        let id = node.agent().map_or(0, heddle_lab::Process::id);
        stage.print(&format!(
            "   heddle run --node node-1 --kubeconfig ...: process {id}, ready"
        ))?;
        let scene = Self { node, plane, lab };
        scene.kubectl(
            stage,
            &[
                "get",
                "nodes",
                "-o",
                "custom-columns=NAME:.metadata.name,POD-CIDRS:.spec.podCIDRs",
            ],
        )?;
        Ok(scene)
    }

    /// Makes the pods. The controllers are not asked for them: there is no Deployment, because nothing would run its pods.
    fn pods(&self, stage: &mut Stage) -> Result<Vec<Running>, LabError> {
        stage.chapter("Pods")?;
        self.plane.create_namespace(NAMESPACE, &[])?;
        stage.print(&format!("   $ kubectl create namespace {NAMESPACE}"))?;
        let mut pods = Vec::new();
        for (name, app) in [
            ("web-1", "web"),
            ("web-2", "web"),
            ("client", "client"),
            ("friend", "friend"),
        ] {
            let mut pod = self.lab.pod(NAMESPACE, name, &[("app", app)])?;
            self.plane.start_pod(&self.node, &mut pod)?;
            let server = TcpServer::start(pod.ns(), PORT, ServerBehavior::Greet(name.to_owned()))?;
            pods.push(Running { _server: server, pod });
        }
        stage.print("   $ kubectl apply -f pods.yaml      # and heddle-cni attaches each one")?;
        let columns =
            "custom-columns=NAME:.metadata.name,APP:.metadata.labels.app,STATUS:.status.phase,IPS:.status.podIPs[*].ip";
        self.kubectl(stage, &["get", "pods", "-n", NAMESPACE, "-o", columns])?;
        Ok(pods)
    }

    /// Applies the Service and returns its address.
    fn service(&self, stage: &mut Stage, pods: &[Running]) -> Result<IpAddr, LabError> {
        stage.chapter("A Service: the controllers write its EndpointSlices, heddle balances")?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "web"},
            "spec": {
                "selector": {"app": "web"}, "ipFamilyPolicy": "PreferDualStack",
                "ports": [{"name": "main", "port": SERVICE_PORT, "targetPort": PORT}]
            }
        });
        self.apply(stage, "service.yaml", &service)?;
        self.kubectl(stage, &["get", "service,endpointslices", "-n", NAMESPACE])?;
        let text = [
            "get",
            "service",
            "web",
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.spec.clusterIP}",
        ];
        let text = self.plane.kubectl(&text)?;
        let address: IpAddr = text.trim().parse().map_err(|e| LabError::Reply {
            what: "the Service's address".to_owned(),
            detail: format!("{e}: {text}"),
        })?;
        let client = find(pods, "client")?.ns();
        let to = SocketAddr::new(address, SERVICE_PORT);
        for name in ["web-1", "web-2"] {
            self.watch(stage, &format!("client -> {to}"), client, to, &answered(name))?;
        }
        Ok(address)
    }

    /// Applies a policy and shows who still reaches the Service.
    fn policy(&self, stage: &mut Stage, pods: &[Running], service: IpAddr) -> Result<(), LabError> {
        stage.chapter("A NetworkPolicy: only app=friend may reach app=web")?;
        self.apply(stage, "policy.yaml", &policy())?;
        let to = SocketAddr::new(service, SERVICE_PORT);
        self.watch(
            stage,
            &format!("client -> {to}"),
            find(pods, "client")?.ns(),
            to,
            &ProbeOutcome::NoAnswer,
        )?;
        self.watch(
            stage,
            &format!("friend -> {to}"),
            find(pods, "friend")?.ns(),
            to,
            &answered("web-1"),
        )?;
        stage.print("   $ heddle drops --pod shop/client")?;
        let mut drops = self.node.heddle("drops");
        let out = self
            .node
            .ns()
            .enter(|| run_with_input(drops.args(["--pod", "shop/client"]), ""))?;
        stage.print_indented(out.stdout.lines().last().unwrap_or_default())
    }

    fn status(&self, stage: &mut Stage) -> Result<(), LabError> {
        stage.chapter("The kinds that the agent follows (heddle status --output json, .source.kinds)")?;
        let status = self.node.status()?;
        for (kind, state) in status["source"]["kinds"].as_object().into_iter().flatten() {
            let objects = &status["source"]["objects"][kind];
            let text = match (&state["error"], state["absent"] == true) {
                (Value::String(error), _) => error.clone(),
                (_, true) => "not installed in this cluster".to_owned(),
                _ => format!(
                    "{objects} objects, version {}",
                    state["resource_version"].as_str().unwrap_or("")
                ),
            };
            stage.print(&format!("   {kind:<22} {text}"))?;
        }
        Ok(())
    }

    /// Deletes everything as a user would.
    fn delete(&self, stage: &mut Stage, pods: &[Running], service: IpAddr) -> Result<(), LabError> {
        stage.chapter("Deleting it all again")?;
        let to = SocketAddr::new(service, SERVICE_PORT);
        let client = find(pods, "client")?.ns();
        self.kubectl(stage, &["delete", "networkpolicy", "only-friends", "-n", NAMESPACE])?;
        self.watch(stage, &format!("client -> {to}"), client, to, &answered("web-1"))?;
        self.kubectl(stage, &["delete", "service", "web", "-n", NAMESPACE])?;
        self.watch_until(
            stage,
            &format!("client -> {to}"),
            client,
            to,
            "no longer answers",
            |outcome| !outcome.is_answered(),
        )?;
        for running in pods {
            self.plane.end_pod(&self.node, &running.pod)?;
        }
        stage.print(&format!(
            "   $ kubectl delete pods --all -n {NAMESPACE}      # and heddle-cni detaches each one"
        ))?;
        let what = "the agent has no attachment";
        wait_until(what, BOUND, || {
            Ok(self.node.status()?["attachments"].as_array().is_some_and(Vec::is_empty))
        })?;
        stage.print(&format!("   {what} any more"))
    }

    /// Runs `kubectl` and shows the command and its output.
    fn kubectl(&self, stage: &mut Stage, args: &[&str]) -> Result<(), LabError> {
        stage.print(&format!("   $ kubectl {}", args.join(" ")))?;
        stage.print_indented(&self.plane.kubectl(args)?)
    }

    fn apply(&self, stage: &mut Stage, file: &str, object: &Value) -> Result<(), LabError> {
        stage.print(&format!("   $ kubectl apply -f {file}"))?;
        let apply = ["apply", "--server-side", "-f", "-"];
        stage.print_indented(&self.plane.kubectl_with(&apply, &object.to_string())?)
    }

    /// Waits until a connection has an outcome, and says how long that took.
    fn watch(
        &self,
        stage: &mut Stage,
        what: &str,
        from: &NetNs,
        to: SocketAddr,
        wanted: &ProbeOutcome,
    ) -> Result<(), LabError> {
        let said = match wanted {
            ProbeOutcome::Answered(name) => format!("{name} answers"),
            ProbeOutcome::NoAnswer => "no answer".to_owned(),
            ProbeOutcome::Refused => "refused".to_owned(),
            ProbeOutcome::Unreachable => "unreachable".to_owned(),
        };
        self.watch_until(stage, what, from, to, &said, |outcome| outcome == wanted)
    }

    fn watch_until(
        &self,
        stage: &mut Stage,
        what: &str,
        from: &NetNs,
        to: SocketAddr,
        said: &str,
        wanted: impl Fn(&ProbeOutcome) -> bool,
    ) -> Result<(), LabError> {
        let start = Instant::now();
        wait_until(&format!("{what}: {said}"), BOUND, || {
            stage.check()?;
            Ok(wanted(&traffic::tcp_request(from, to, "", SILENCE)?))
        })?;
        stage.print(&format!(
            "   {what}: {said}, seen after {} ms",
            start.elapsed().as_millis()
        ))
    }
}

impl Running {
    const fn ns(&self) -> &NetNs {
        self.pod.ns()
    }
}

fn answered(name: &str) -> ProbeOutcome {
    ProbeOutcome::Answered(name.to_owned())
}

fn policy() -> Value {
    manifests::allow_only(NAMESPACE, "only-friends", ("app", "web"), ("app", "friend"), PORT)
}

fn find<'a>(pods: &'a [Running], name: &str) -> Result<&'a Running, LabError> {
    pods.iter()
        .find(|running| running.pod.name == name)
        .ok_or_else(|| LabError::Reply {
            what: "the demo".to_owned(),
            detail: format!("it has no pod {name}"),
        })
}

/// The demo's output, which stops at a signal.
struct Stage {
    interrupted: Arc<AtomicBool>,
    chapter: u32,
}

impl Stage {
    /// Makes the output. SIGINT and SIGTERM interrupt the demo at its next line.
    fn new() -> Result<Self, LabError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .map_err(LabError::io("installing a signal handler"))?;
        }
        Ok(Self {
            interrupted,
            chapter: 0,
        })
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Fails after a signal.
    fn check(&self) -> Result<(), LabError> {
        if self.is_interrupted() {
            return Err(LabError::Io {
                what: "the demo".to_owned(),
                source: io::ErrorKind::Interrupted.into(),
            });
        }
        Ok(())
    }

    /// Returns the reason of the end: a signal reaches the processes of a step too, and makes the step fail.
    fn explain(&self, e: LabError) -> LabError {
        if self.is_interrupted() {
            return LabError::Reply {
                what: "interrupted".to_owned(),
                detail: "everything that the demo made is removed".to_owned(),
            };
        }
        e
    }

    fn chapter(&mut self, title: &str) -> Result<(), LabError> {
        self.chapter += 1;
        let chapter = self.chapter;
        self.print(&format!("\n{chapter}. {title}"))
    }

    fn print_indented(&self, text: &str) -> Result<(), LabError> {
        let lines: Vec<String> = text.trim_end().lines().map(|line| format!("     {line}")).collect();
        self.print(&lines.join("\n"))
    }

    fn print(&self, text: &str) -> Result<(), LabError> {
        self.check()?;
        let mut out = io::stdout();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(LabError::io("writing to standard output"))
    }
}
