//! Runs the programs that show the kernel's packet filters.

use std::fs;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Returns the output of `nft --version`.
///
/// # Errors
/// `nft` cannot be started, or fails.
pub fn nft_version() -> io::Result<String> {
    run("nft", &["--version"])
}

/// Returns the output of `nft list ruleset`.
///
/// # Errors
/// `nft` cannot be started, or fails.
pub fn nft_ruleset() -> io::Result<String> {
    // `-t` leaves out the elements of sets, which may be millions.
    run("nft", &["-t", "list", "ruleset"])
}

/// Returns the programs of the old iptables, one for each family, that have a table. iptables creates a table when it lists it, so only
/// an existing table may be listed.
pub(super) fn legacy_with_table(table: &str) -> impl Iterator<Item = &'static str> {
    let families = [
        ("/proc/net/ip_tables_names", "iptables-legacy"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
    ];
    families.into_iter().filter_map(move |(names, program)| {
        let has_table = fs::read_to_string(names).is_ok_and(|tables| tables.lines().any(|name| name == table));
        has_table.then_some(program)
    })
}

/// The time limit of one program.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Runs a program and returns its standard output; the error contains the first line of its standard error. A program that
/// exceeds the time limit is killed.
pub(super) fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let name = format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Threads read the pipes, because reads have no time limit.
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let output = read_all(stdout);
    let message = read_all(stderr);
    let Ok(output) = output.recv_timeout(TIME_LIMIT) else {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::other(format!(
            "{name}: did not end within {} s and was killed",
            TIME_LIMIT.as_secs()
        )));
    };
    if child.wait()?.success() {
        return Ok(output);
    }
    let message = message.recv().unwrap_or_default();
    let first = message.lines().next().unwrap_or("it failed");
    Err(io::Error::other(format!("{name}: {first}")))
}

/// Reads a pipe to its end on a thread of its own.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // The part read before an error is better than nothing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
