//! The explanation of one connection as text.

use std::fmt::Write as _;

use heddle_offline::simulate::Verdict;
use heddle_offline::simulate::explain::{ExplainedEnd, ExplainedPath, ExplainedSide, Explanation};

// Writing to a String cannot fail, hence the ignored results below.

/// Returns the explanation for people: a line with the verdict, then the Service and each path with its policies.
pub(super) fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let Explanation { from, to, .. } = explanation;
    let port = explanation.port.map(|port| format!(" {port}")).unwrap_or_default();
    let verdict = explanation.verdict.map_or("depends on the endpoint", Verdict::as_str);
    let _ = writeln!(
        out,
        "{} -> {}, {}{port}: {verdict}",
        end(from),
        end(to),
        explanation.protocol
    );
    if let Some(service) = &explanation.service {
        let _ = writeln!(
            out,
            "  {} of Service {}, seen from node {}",
            service.address, service.name, explanation.entry
        );
        if !service.admitted {
            let _ = writeln!(out, "    its loadBalancerSourceRanges do not admit {}", from.address);
        }
    }
    for path in &explanation.paths {
        // The endpoint is shown if it is not the destination that the first line names.
        let is_endpoint = explanation.service.is_some() && path.to.ip() != to.address || explanation.paths.len() > 1;
        write_path(path, is_endpoint, &mut out);
    }
    out
}

/// Returns an end as `shop/web (10.0.1.10 on node-1)`.
fn end(end: &ExplainedEnd) -> String {
    let address = end.address.to_string();
    let mut details: Vec<String> = Vec::new();
    if end.name != address {
        details.push(address);
    }
    if let Some(pod) = end.pod.as_ref().filter(|pod| **pod != end.name) {
        details.push(format!("pod {pod}"));
    }
    details.extend(end.node.iter().map(|node| format!("on {node}")));
    if details.is_empty() {
        end.name.clone()
    } else {
        format!("{} ({})", end.name, details.join(" "))
    }
}

/// Writes a path: its endpoint if `is_endpoint`, policy at both sides, and what decided.
fn write_path(path: &ExplainedPath, is_endpoint: bool, out: &mut String) {
    let mut indent = "  ";
    if is_endpoint {
        let _ = write!(out, "  endpoint {}", path.to);
        if let Some(pod) = &path.pod {
            let _ = write!(out, ", pod {pod}");
        }
        if let Some(node) = &path.node {
            let _ = write!(out, " on {node}");
        }
        let _ = writeln!(out, ": {}", path.verdict.as_str());
        indent = "    ";
    }
    for side in &path.sides {
        write_side(side, indent, out);
    }
    if path.masquerade {
        let _ = writeln!(out, "{indent}the source address is replaced on the way (masquerade)");
    }
    let _ = writeln!(out, "{indent}decided: {}", path.policy);
}

/// Writes policy at one side: the verdict with the deciding rule, and the policies that select the pod.
fn write_side(side: &ExplainedSide, indent: &str, out: &mut String) {
    let no_rule = if side.selected_by.is_empty() {
        "no policy selects it"
    } else {
        "no rule matches"
    };
    let rule = side.rule.as_deref().unwrap_or(no_rule);
    let verdict = match side.allowed {
        Some(true) => format!("allowed: {rule}"),
        Some(false) => format!("denied: {rule}"),
        None if side.selected_by.is_empty() => format!("not evaluated; {rule}"),
        None => "not evaluated; the other side denies the connection".to_owned(),
    };
    let _ = writeln!(out, "{indent}{} of {}: {verdict}", side.direction, side.pod);
    if !side.selected_by.is_empty() {
        let _ = writeln!(out, "{indent}  selected by {}", side.selected_by.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(allowed: Option<bool>, rule: Option<&str>, selected_by: &[&str]) -> String {
        let side = ExplainedSide {
            direction: "egress",
            pod: "shop/web".to_owned(),
            selected_by: selected_by.iter().map(ToString::to_string).collect(),
            allowed,
            rule: rule.map(str::to_owned),
        };
        let mut out = String::new();
        write_side(&side, "  ", &mut out);
        out
    }

    #[test]
    fn sides_show_verdict_rule_and_policies() {
        for (allowed, rule, selected_by, expected) in [
            (
                Some(true),
                None,
                &[][..],
                "  egress of shop/web: allowed: no policy selects it\n",
            ),
            (
                Some(false),
                Some("rule 1"),
                &["NetworkPolicy shop/p"],
                "  egress of shop/web: denied: rule 1\n    selected by NetworkPolicy shop/p\n",
            ),
            (
                None,
                None,
                &[],
                "  egress of shop/web: not evaluated; no policy selects it\n",
            ),
            (
                None,
                None,
                &["a", "b"],
                "  egress of shop/web: not evaluated; the other side denies the connection\n    selected by a, b\n",
            ),
        ] {
            assert_eq!(side(allowed, rule, selected_by), expected);
        }
    }

    #[test]
    fn ends_show_only_what_their_name_does_not() {
        let show = |name: &str, pod: Option<&str>, node: Option<&str>| {
            end(&ExplainedEnd {
                name: name.to_owned(),
                address: std::net::IpAddr::from([10, 0, 1, 10]),
                pod: pod.map(str::to_owned),
                node: node.map(str::to_owned),
            })
        };
        assert_eq!(show("10.0.1.10", None, None), "10.0.1.10");
        assert_eq!(
            show("10.0.1.10", Some("shop/web"), Some("node-1")),
            "10.0.1.10 (pod shop/web on node-1)"
        );
        assert_eq!(
            show("shop/web", Some("shop/web"), Some("node-1")),
            "shop/web (10.0.1.10 on node-1)"
        );
    }
}
