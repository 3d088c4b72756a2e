//! Finds rules of others that drop packets of pods: the kernel forwards their traffic with the outside, and delivers their
//! traffic with the node's own processes.

use super::program::{legacy_with_table, run};

/// A hook of the kernel at which rules of others can keep pods from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that the kernel forwards: pods' traffic with the outside.
    Forward,
    /// Packets to the node's own processes, from pods too.
    Input,
}

impl Hook {
    /// Returns the hook's name in nftables.
    const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Input => "input",
        }
    }

    /// Returns the name of iptables' chain.
    const fn chain(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }
}

/// Returns the base chains at a hook, of nftables (`ruleset` is the output of `nft list ruleset`) and of iptables, that drop or reject
/// by their policy or by their last rule, and that have no rule for `heddle0`.
#[must_use]
pub fn refusing(ruleset: &str, hook: Hook) -> Vec<String> {
    let mut found = refusing_chains(ruleset, hook);
    for program in legacy_with_table("filter") {
        if let Ok(rules) = run(program, &["-S"])
            && legacy_refuses(&rules, hook)
        {
            found.push(format!("{program} {}", hook.chain()));
        }
    }
    found
}

/// A chain in the output of `nft list ruleset`.
#[derive(Debug, Default)]
struct Chain<'a> {
    table: &'a str,
    name: &'a str,
    /// The line with type, hook and policy; empty in a chain that only others jump to.
    base: &'a str,
    rules: Vec<&'a str>,
}

impl<'a> Chain<'a> {
    /// Returns `true` if the chain drops or rejects packets that none of its rules but the last one matches. The last rule of
    /// firewalld and of many hand-written tables rejects, with the policy `accept`.
    fn refuses(&self) -> bool {
        // A last rule counts only without a condition. Counters and logs are none.
        let unconditional = |rule: &str| {
            let mut words = rule.split_ascii_whitespace().skip_while(|word| {
                matches!(*word, "counter" | "packets" | "bytes" | "log" | "prefix")
                    || word.parse::<u64>().is_ok()
                    || word.starts_with('"')
            });
            words.next().is_some_and(|word| matches!(word, "drop" | "reject"))
        };
        let last = self.rules.last().copied().unwrap_or_default();
        self.base.contains("policy drop") || unconditional(last)
    }

    /// Returns the chains that a rule of this chain jumps or goes to.
    fn targets(&self) -> impl Iterator<Item = &'a str> {
        self.rules.iter().flat_map(|rule| {
            let words: Vec<&str> = rule.split_ascii_whitespace().collect();
            words
                .windows(2)
                .filter(|pair| matches!(pair[0], "jump" | "goto"))
                .map(|pair| pair[1].trim_end_matches(['}', ',']))
                .collect::<Vec<_>>()
        })
    }
}

/// Returns the refusing chains at a hook in the output of `nft list ruleset`. It has lines `table FAMILY NAME {`, within them
/// `chain NAME {`, and within these the line of a base chain and the rules.
fn refusing_chains(listing: &str, hook: Hook) -> Vec<String> {
    let mut chains: Vec<Chain<'_>> = Vec::new();
    let (mut table, mut in_chain) = ("", false);
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim();
            in_chain = false;
        } else if let Some(name) = line.strip_prefix("chain ") {
            let name = name.trim_end_matches('{').trim();
            chains.push(Chain {
                table,
                name,
                ..Chain::default()
            });
            in_chain = true;
        } else if line == "}" {
            in_chain = false;
        } else if let (true, Some(chain)) = (in_chain, chains.last_mut()) {
            if line.starts_with("type ") {
                chain.base = line;
            } else if !line.is_empty() && !line.starts_with('#') {
                chain.rules.push(line);
            }
        }
    }
    let at_hook = format!("type filter hook {} ", hook.name());
    chains
        .iter()
        .filter(|chain| chain.base.starts_with(&at_hook) && chain.refuses() && !knows_host_port(&chains, chain, hook))
        .map(|chain| format!("{} {}", chain.table, chain.name))
        .collect()
}

/// Returns `true` if a base chain, or a chain that it leads to, has a rule for `heddle0` in each direction that matters: then
/// the administrator has dealt with it.
fn knows_host_port(chains: &[Chain<'_>], base: &Chain<'_>, hook: Hook) -> bool {
    let mut reached = vec![base.name];
    let mut rules = Vec::new();
    let mut next = 0;
    while let Some(name) = reached.get(next).copied() {
        next += 1;
        for chain in chains
            .iter()
            .filter(|chain| chain.table == base.table && chain.name == name)
        {
            rules.extend(chain.rules.iter().copied());
            for target in chain.targets() {
                if !reached.contains(&target) {
                    reached.push(target);
                }
            }
        }
    }
    let has = |key: &str| {
        let heddle0 = format!("\"{}\"", heddle_host::INTERFACE);
        rules.iter().any(|rule| rule.contains(key) && rule.contains(&heddle0))
    };
    has("iifname") && (hook == Hook::Input || has("oifname"))
}

/// Returns `true` if the output of `iptables -S` has a refusing chain at a hook, without a rule for `heddle0`.
fn legacy_refuses(rules: &str, hook: Hook) -> bool {
    let chain = hook.chain();
    let lines = || rules.lines().map(str::trim);
    let last = lines().rfind(|rule| rule.starts_with(&format!("-A {chain} ")));
    let refuses = lines().any(|rule| rule == format!("-P {chain} DROP"))
        || last.is_some_and(|rule| {
            let target = rule.trim_start_matches(&format!("-A {chain} "));
            target.starts_with("-j DROP") || target.starts_with("-j REJECT")
        });
    let has = |flag: &str| lines().any(|rule| rule.contains(&format!("{flag} {}", heddle_host::INTERFACE)));
    refuses && !(has("-i") && (hook == Hook::Input || has("-o")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_drop_by_their_policy_are_found() {
        let listing = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
            \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
            table inet mine {\n\tchain f {\n\t\ttype filter hook forward priority 10; policy accept;\n\t}\n\tchain g {\n\t}\n}\n";
        assert_eq!(refusing_chains(listing, Hook::Forward), ["ip filter FORWARD"]);
        assert_eq!(refusing_chains(listing, Hook::Input), ["ip filter INPUT"]);
        assert_eq!(refusing_chains("", Hook::Forward), Vec::<String>::new());
    }

    /// The shape of firewalld's table: the policy accepts and the last rule rejects.
    const FIREWALLD: &str = r#"table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}

	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct state invalid drop
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}

	chain filter_INPUT_ZONES {
		iifname "eth0" goto filter_IN_public
		goto filter_IN_public
	}

	chain filter_FORWARD_ZONES {
		iifname "eth0" goto filter_FWD_public
	}
}
"#;

    #[test]
    fn a_last_rule_that_rejects_counts_too() {
        assert_eq!(
            refusing_chains(FIREWALLD, Hook::Forward),
            ["inet firewalld filter_FORWARD"]
        );
        assert_eq!(refusing_chains(FIREWALLD, Hook::Input), ["inet firewalld filter_INPUT"]);
        let logs = FIREWALLD.replace(
            "\t\treject with",
            "\t\tlog prefix \"no: \" counter packets 1 bytes 2 reject with",
        );
        assert_eq!(refusing_chains(&logs, Hook::Input), ["inet firewalld filter_INPUT"]);
        // A condition leaves the rest to the policy.
        let only_tcp = FIREWALLD.replace("\t\treject with", "\t\tmeta l4proto tcp reject with");
        assert_eq!(refusing_chains(&only_tcp, Hook::Input), Vec::<String>::new());
    }

    #[test]
    fn rules_for_heddle0_are_the_administrators_answer() {
        let trusted = FIREWALLD.replace(
            "iifname \"eth0\" goto filter_IN_public",
            "iifname \"heddle0\" goto filter_IN_trusted",
        );
        assert_eq!(refusing_chains(&trusted, Hook::Input), Vec::<String>::new());
        assert_eq!(
            refusing_chains(&trusted, Hook::Forward),
            ["inet firewalld filter_FORWARD"]
        );
        let both = FIREWALLD.replace(
            "iifname \"eth0\" goto filter_FWD_public",
            "iifname \"heddle0\" accept\n\t\toifname \"heddle0\" accept",
        );
        assert_eq!(refusing_chains(&both, Hook::Forward), Vec::<String>::new());
    }

    #[test]
    fn the_shapes_of_iptables() {
        assert!(legacy_refuses("-P INPUT ACCEPT\n-P FORWARD DROP\n", Hook::Forward));
        assert!(!legacy_refuses("-P INPUT ACCEPT\n-P FORWARD DROP\n", Hook::Input));
        let rejects = "-P FORWARD ACCEPT\n-A FORWARD -i eth0 -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n";
        assert!(legacy_refuses(rejects, Hook::Forward));
        let opened = format!("-A FORWARD -i heddle0 -j ACCEPT\n-A FORWARD -o heddle0 -j ACCEPT\n{rejects}");
        assert!(!legacy_refuses(&opened, Hook::Forward));
        assert!(!legacy_refuses(
            "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.1/32 -j DROP\n",
            Hook::Forward
        ));
    }
}
