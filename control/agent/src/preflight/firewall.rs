//! Finds rules of others that drop forwarded packets. The kernel forwards the packets that pods send to the outside.

use std::fs;
use std::io;
use std::process::{Command, Output, Stdio};

/// Returns the output of `nft --version`.
///
/// # Errors
/// `nft` cannot be started, or fails.
pub fn nft_version() -> io::Result<String> {
    run("nft", &["--version"])
}

/// Returns the base chains at the forward hook and the FORWARD chains of iptables that have the policy `drop`.
///
/// # Errors
/// The chains of nftables cannot be listed.
pub fn dropping() -> io::Result<Vec<String>> {
    let mut found = dropping_chains(&run("nft", &["list", "chains"])?);
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
    ] {
        // iptables creates a table when it lists it, so only an existing table is listed.
        let filters = fs::read_to_string(names).is_ok_and(|tables| tables.lines().any(|table| table == "filter"));
        if filters
            && let Ok(rules) = run(program, &["-S", "FORWARD"])
            && rules.lines().any(|rule| rule.trim() == "-P FORWARD DROP")
        {
            found.push(format!("{program} FORWARD"));
        }
    }
    Ok(found)
}

/// Returns the dropping chains in the output of `nft list chains`. It has lines `table FAMILY NAME {`, within them
/// `chain NAME {`, and within these the hook and the policy.
fn dropping_chains(listing: &str) -> Vec<String> {
    let (mut table, mut chain) = ("", "");
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim();
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches('{').trim();
        } else if line.contains("hook forward") && line.contains("policy drop") {
            found.push(format!("{table} {chain}"));
        }
    }
    found
}

/// Runs a program and returns its standard output; the error contains the first line of its standard error.
fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let Output { status, stdout, stderr } = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    if status.success() {
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    } else {
        let message = String::from_utf8_lossy(&stderr);
        Err(io::Error::other(format!(
            "{program} {}: {}",
            args.join(" "),
            message.lines().next().unwrap_or("it failed")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_chains_are_found() {
        let listing = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
            \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
            table inet mine {\n\tchain f {\n\t\ttype filter hook forward priority 10; policy accept;\n\t}\n\tchain g {\n\t}\n}\n";
        assert_eq!(dropping_chains(listing), ["ip filter FORWARD"]);
        assert_eq!(dropping_chains(""), Vec::<String>::new());
    }
}
