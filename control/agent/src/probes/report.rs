//! The text of a probe's answer.

use std::fmt;

/// One check of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The checked part, such as `tables` or `worker 0`.
    pub name: String,
    /// The finding, or the problem.
    pub outcome: Result<String, String>,
}

impl Check {
    /// Builds a check.
    #[must_use]
    pub fn new(name: impl Into<String>, outcome: Result<String, String>) -> Self {
        Self {
            name: name.into(),
            outcome,
        }
    }
}

/// The checks of one probe. Its display is the body of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The probe's name, `livez` or `readyz`.
    pub probe: &'static str,
    /// The checks.
    pub checks: Vec<Check>,
}

impl ProbeReport {
    /// Returns `true` if every check has passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.outcome.is_ok())
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            match &check.outcome {
                Ok(finding) => writeln!(f, "[+]{} ok: {finding}", check.name)?,
                Err(problem) => writeln!(f, "[-]{} failed: {problem}", check.name)?,
            }
        }
        let outcome = if self.passed() { "passed" } else { "failed" };
        writeln!(f, "{} check {outcome}", self.probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_a_line_and_one_failure_fails_the_probe() {
        let mut report = ProbeReport {
            probe: "readyz",
            checks: vec![Check::new("tables", Ok("version 3".to_owned()))],
        };
        assert!(report.passed());
        assert_eq!(report.to_string(), "[+]tables ok: version 3\nreadyz check passed\n");
        let problem = Err("no podCIDRs".to_owned());
        report.checks.push(Check::new("attachments", problem));
        assert!(!report.passed());
        assert_eq!(
            report.to_string(),
            "[+]tables ok: version 3\n[-]attachments failed: no podCIDRs\nreadyz check failed\n"
        );
    }
}
