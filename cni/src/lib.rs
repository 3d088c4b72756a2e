//! The CNI plugin of heddle: one call of the runtime, from environment and standard input to standard output.
//!
//! The container runtime executes `heddle-cni` for each command. The plugin does the work that needs the pod's network
//! namespace: the veth pair, addresses, routes, neighbors and sysctls. The agent does the rest: it allocates addresses,
//! compiles the policy and opens the AF_XDP port. The plugin calls the agent through a unix socket.
//!
//! The plugin supports ADD, DEL, CHECK, STATUS and VERSION of the CNI versions in [`version::SUPPORTED`]. It does not
//! support GC, IPAM plugins, or chaining after another plugin.
//!
//! [`mod@env`] and [`config`] validate the input. [`add`], [`del`], [`check`] and [`status`] each serve one command:
//! they call the agent ([`agent`]), and change the node's side by `heddle-linux` and the pod's side by [`pod`].
//! [`result`] makes the result for standard output, and [`kernel`] has the errors of steps that the kernel refused.

use std::ffi::OsString;
use std::io::Read;

use heddle_proto::{CniError, ErrorCode};
use serde_json::json;

pub mod add;
pub mod agent;
pub mod check;
pub mod config;
pub mod del;
pub mod env;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod json_input;
pub mod kernel;
mod offloads;
pub mod pod;
mod port_mappings;
pub mod result;
pub mod status;
pub mod version;

use config::NetConf;
use env::Call;
use version::CniVersion;

/// The maximum number of bytes that are read from standard input: enough for `prevResult` of an ADD with
/// [`heddle_proto::attachment::MAX_ROUTES`] routes.
pub const MAX_STDIN: u64 = 16 * 1024 * 1024;

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The text for standard output: the result, the error as JSON, or nothing.
    pub stdout: String,
    /// `true` for success; a failed call exits with status 1.
    pub ok: bool,
}

/// Serves one call of the runtime. `variable` looks up an environment variable.
pub fn run(variable: &dyn Fn(&str) -> Option<OsString>, stdin: &mut dyn Read) -> Outcome {
    // An error's JSON names the configuration's version as soon as that is known.
    let mut spoken = CniVersion::LATEST;
    match serve(variable, stdin, &mut spoken) {
        Ok(stdout) => Outcome { stdout, ok: true },
        Err(error) => Outcome {
            stdout: error_json(spoken, &error),
            ok: false,
        },
    }
}

/// A call whose input is valid.
#[derive(Debug)]
pub enum Input {
    /// VERSION, with its answer, which needs neither the agent nor the kernel.
    Version(String),
    /// Any other call, with its configuration.
    Call(Box<(Call, NetConf)>),
}

/// Reads and validates the environment and standard input. Sets `spoken` to the configuration's version as soon as it is known.
///
/// # Errors
/// See [`Call::from_env`] and [`NetConf::parse`]; code 5 or 6 for a standard input that cannot be read or is too long.
pub fn input(
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    spoken: &mut CniVersion,
) -> Result<Input, CniError> {
    let call = Call::from_env(variable)?;
    let mut input = Vec::new();
    stdin.take(MAX_STDIN + 1).read_to_end(&mut input).map_err(|e| {
        CniError::new(
            ErrorCode::IO,
            "the network configuration on standard input cannot be read",
        )
        .with_details(e.to_string())
    })?;
    if input.len() as u64 > MAX_STDIN {
        return Err(CniError::new(
            ErrorCode::DECODE,
            format!("the network configuration on standard input is longer than {MAX_STDIN} bytes"),
        ));
    }
    match call {
        Call::Version => version::answer(&input).map(Input::Version),
        call => Ok(Input::Call(Box::new((call, NetConf::parse(&input, spoken)?)))),
    }
}

/// Serves one call and returns the text for standard output.
fn serve(
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    spoken: &mut CniVersion,
) -> Result<String, CniError> {
    let (call, conf) = match input(variable, stdin, spoken)? {
        Input::Version(answer) => return Ok(answer),
        Input::Call(call) => *call,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CniError::new(ErrorCode::KERNEL, "starting failed").with_details(e.to_string()))?;
    let silent = |()| String::new();
    match call {
        Call::Version => version::answer(&[]),
        Call::Status => runtime.block_on(status::ask_readiness(&conf)).map(silent),
        Call::Add(target, netns) => runtime.block_on(add::attach_pod(&conf, &target, &netns)),
        Call::Del(target, netns) => runtime
            .block_on(del::detach_pod(&conf, &target, netns.as_ref()))
            .map(silent),
        Call::Check(target, netns) => runtime.block_on(check::check_pod(&conf, &target, &netns)).map(silent),
    }
}

/// Returns the error object of the specification (CNI 1.1, section 5, "Error") as JSON.
fn error_json(spoken: CniVersion, error: &CniError) -> String {
    let mut object = json!({"cniVersion": spoken.as_str(), "code": error.code, "msg": error.msg});
    if !error.details.is_empty() {
        object["details"] = json!(error.details);
    }
    object.to_string()
}
