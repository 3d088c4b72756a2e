//! An `nft` that hangs delays neither a CNI ADD nor the end of the agent: the thread that answers CNI never runs it.

mod common;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::binaries;
use heddle_lab::{Lab, LabError, NodePlan, manifests, traffic, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

/// Far below the agent's time limit for one call of `nft`, and far above an ADD on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

/// A script in front of `nft` that waits while a file exists.
struct SlowNft {
    /// The folder of the script, which comes first in the agent's `PATH`.
    dir: PathBuf,
}

impl SlowNft {
    fn new(lab: &Lab) -> Result<Self, LabError> {
        let dir = lab.dir().join("bin");
        fs::create_dir(&dir).map_err(LabError::io("creating bin"))?;
        let slow = Self { dir };
        let text = format!(
            "#!/bin/sh\nif [ -e {hold} ]; then : > {called}; fi\nwhile [ -e {hold} ]; do sleep 0.05; done\n\
             PATH='{path}' exec nft \"$@\"\n",
            hold = slow.hold().display(),
            called = slow.called().display(),
            path = Self::path_of_test(),
        );
        let script = slow.dir.join("nft");
        fs::write(&script, text).map_err(LabError::io("writing the script"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
            .map_err(LabError::io("making the script executable"))?;
        Ok(slow)
    }

    fn path_of_test() -> String {
        std::env::var("PATH").unwrap_or_default()
    }

    /// The file that makes the script wait.
    fn hold(&self) -> PathBuf {
        self.dir.join("hold")
    }

    /// The file that the script makes before it waits.
    fn called(&self) -> PathBuf {
        self.dir.join("called")
    }

    fn env(&self) -> (String, String) {
        let path = format!("{}:{}", self.dir.display(), Self::path_of_test());
        ("PATH".to_owned(), path)
    }
}

#[test]
fn a_slow_nft_delays_no_add_and_no_sigterm() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let nft = SlowNft::new(&lab)?;
    let mut plan = NodePlan::new("node", 1);
    plan.env = vec![nft.env()];
    let mut node = lab.node(plan)?;
    node.start_agent()?;
    let first = lab.pod("slow", "first", &[])?;
    let to = node.start_pod(&first)?.ip(false)?;

    // A frontend at a load balancer's address changes heddle's table, so the agent runs nft, which hangs.
    fs::write(nft.hold(), "").map_err(LabError::io("writing the file that makes nft wait"))?;
    let mut service = manifests::service("slow", "front", &[IpAddr::from([10, 96, 0, 90])], 80, 8080);
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["ports"][0]["nodePort"] = json!(30_090);
    service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.90", "ipMode": "VIP"}]}});
    node.apply(&service)?;
    // If nothing else calls nft, the check of the kernel's state does, every 30 s.
    wait_until("a call of nft", Duration::from_secs(45), || Ok(nft.called().exists()))?;

    let start = Instant::now();
    let second = lab.pod("slow", "second", &[])?;
    node.start_pod(&second)?;
    let took = start.elapsed();
    assert!(took < PROMPT, "ADD took {took:?} while nft hung");
    assert_eq!(traffic::ping(second.ns(), to, 2)?, 2);
    node.status()?;

    let start = Instant::now();
    node.stop_agent(Signal::SIGTERM)?;
    let took = start.elapsed();
    assert!(took < PROMPT, "the agent ended {took:?} after SIGTERM while nft hung");
    Ok(())
}
