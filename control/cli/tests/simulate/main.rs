//! `heddle simulate` as a command: output, errors and exit status. Each output is a snapshot; `INSTA_UPDATE=always cargo test -p heddle-cli --test simulate` rewrites them.

#![allow(clippy::expect_used, reason = "a test: a failure must end it")]

use std::path::Path;
use std::process::Command;

/// Runs the command for the folder `cluster`. Returns the arguments, the output and the exit status. Paths are relative.
fn simulate(question: &str) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulate");
    let out = Command::new(env!("CARGO_BIN_EXE_heddle"))
        .args(["simulate", "--manifests", "cluster"])
        .args(question.split_whitespace())
        .current_dir(here)
        .output()
        .expect("heddle runs");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    let code = out.status.code().expect("an exit status");
    format!("heddle simulate {question}\n{stdout}{stderr}exit status {code}\n")
}

macro_rules! answers {
    ($($test:ident: $($question:literal),+;)+) => {$(
        #[test]
        fn $test() {
            let answers = [$(simulate($question)),+].join("\n");
            insta::assert_snapshot!(stringify!($test), answers);
        }
    )+};
}

answers! {
    a_connection_between_pods_is_explained:
        "--from shop/api-1 --to shop/db:sql",
        "--from shop/web --to shop/db:5432/tcp",
        "--from lab/probe --to shop/web:icmp",
        "--from shop/web --to shop/web:80",
        "--from shop/web --to 192.0.2.1:443/udp";
    a_service_is_explained_endpoint_by_endpoint:
        "--from shop/web --to shop/api:80",
        "--from shop/api-1 --to svc/shop/api:http",
        "--from shop/web --to node-1:30080",
        "--from 198.51.100.1 --to 203.0.113.10:80 --node node-2",
        "--from shop/web --to shop/gone:80",
        "--from shop/web --to 10.96.0.10:81";
    an_explanation_as_json: "--from shop/web --to shop/api:80 --output json";
    changed_policies_show_the_affected_pairs:
        "--what-if changes/ranges.yaml",
        "--without ClusterNetworkPolicy/lab-stays-out",
        "--without networkpolicy/shop/canary-closed --without ClusterNetworkPolicy/lab-stays-out",
        "--what-if changes/ranges.yaml --from shop/web --to shop/db:5433";
    changes_as_json: "--what-if changes/ranges.yaml --output json";
    probes_are_answered: "--probes probes.json", "--probes probes.json --output json";
    questions_that_cannot_be_answered_name_the_cause:
        "--from shop/wbe --to shop/db:80",
        "--from nope/web --to shop/db:80",
        "--from lab/done --to shop/db:80",
        "--from shop/web --to shop/db:http",
        "--from shop/web --to shop/headless:80",
        "--from [fd00:1::10] --to shop/db:80",
        "--from 192.0.2.1 --to 192.0.2.2:80",
        "--from shop/web --to shop/db:80 --node node-9",
        "--from shop/web --to shop/db:80 --config nope.yaml",
        "--what-if nope.yaml",
        "--what-if changes/bad.yaml",
        "--without NetworkPolicy/shop/nope",
        "--probes nope.json",
        "--probes cluster/cluster.yaml";
    malformed_arguments_are_refused:
        "",
        "--from shop/web",
        "--from shop/web --to shop/db",
        "--from shop/web --to shop/db:0",
        "--from shop/web --to shop/db:80/ip",
        "--from a/b/c --to shop/db:80",
        "--without Deployment/shop/web";
}

/// The agents' configuration decides about external addresses. Without one they are served, as by kube-proxy.
#[test]
fn external_addresses_are_served_if_the_configuration_enables_them() {
    let outside = "--from 198.51.100.1 --to 203.0.113.10:80 --node node-1 --output json";
    let answer = |question: &str| -> serde_json::Value {
        let all = simulate(question);
        let json = all
            .split_once('\n')
            .and_then(|(_, rest)| rest.rsplit_once("exit status 0"));
        serde_json::from_str(json.expect("an answer").0).expect("JSON")
    };
    assert_eq!(answer(outside)["service"]["address"], "external address");
    let off = answer(&format!("{outside} --config ../../../../configs/heddle.yaml"));
    assert_eq!(off["service"], serde_json::Value::Null);
}
