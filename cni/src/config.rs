//! The network configuration on standard input, validated (CNI 1.1, section 1).

use std::path::PathBuf;

use heddle_proto::{CNI_SOCKET, CniError, DEFAULT_RUN_DIR, ErrorCode};
use serde_json::Value;

use crate::json_input::{decode_object, shown};
use crate::version::CniVersion;

/// The smallest MTU: the minimum for IPv6 (RFC 8200, section 5).
const MIN_MTU: u64 = 1280;
/// The largest MTU of a veth (`ETH_MAX_MTU`).
const MAX_MTU: u64 = 65_535;
/// The longest run directory: a unix socket's address has room for 107 bytes.
const MAX_RUN_DIR: usize = 107 - 1 - CNI_SOCKET.len();

/// Keys that the specification or libcni may write into any plugin's configuration. heddle-cni ignores them.
const IGNORED: [&str; 9] = [
    "cniVersions",
    "type",
    "args",
    "capabilities",
    "dns",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "ipMasq",
];

/// A valid network configuration.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// `cniVersion`: the result has the form of this version.
    pub version: CniVersion,
    /// `name` of the network.
    pub name: String,
    /// `runDir`, the directory of the agent's sockets.
    pub run_dir: PathBuf,
    /// `mtu` of the interface; the agent decides if it is absent.
    pub mtu: Option<u32>,
    /// `txOff`: the pod's kernel computes all checksums itself, for pods that send through tunnels of their own.
    pub tx_off: bool,
    /// `prevResult`, not decoded: only CHECK needs it, and a bad one must not make DEL fail.
    pub prev_result: Option<Value>,
    /// `runtimeConfig`, not decoded for the same reason: only ADD and CHECK need it.
    pub runtime_config: Option<Value>,
}

/// Makes the error for an invalid value (code 7).
pub(crate) fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(ErrorCode::INVALID_CONFIG, msg)
}

impl NetConf {
    /// Decodes and validates a configuration. Sets `spoken` to its version as soon as it is known, for error answers.
    ///
    /// # Errors
    /// Code 1 (version), 2 (a key that is not supported, with its value), 6 (no JSON) or 7 (a value that is not
    /// allowed).
    pub fn parse(input: &[u8], spoken: &mut CniVersion) -> Result<Self, CniError> {
        let conf = decode_object(input)?;
        let version = CniVersion::of(&conf)?;
        *spoken = version;

        // The name is required, and heddle-cni does not use it otherwise.
        let name = match conf.get("name") {
            Some(Value::String(name)) if is_valid_name(name) => name.clone(),
            Some(other) => {
                return Err(invalid(format!(
                    "name {} is not allowed: it must begin with a letter or digit and continue with letters, digits, '_', '.' or '-'",
                    shown(other)
                )));
            }
            None => return Err(invalid("name is missing: give the network a name, such as \"heddle\"")),
        };
        let mut parsed = Self {
            version,
            name,
            run_dir: DEFAULT_RUN_DIR.into(),
            mtu: None,
            tx_off: false,
            prev_result: None,
            runtime_config: None,
        };
        // An unknown key is refused, so that a misspelt one is noticed.
        for (key, value) in &conf {
            match key.as_str() {
                "cniVersion" | "name" => {}
                "runDir" => parsed.run_dir = run_dir(value)?,
                "mtu" => parsed.mtu = Some(mtu(value)?),
                "txOff" => {
                    parsed.tx_off = value
                        .as_bool()
                        .ok_or_else(|| invalid(format!("txOff is {}: give true or false", shown(value))))?;
                }
                "prevResult" => parsed.prev_result = Some(value.clone()),
                "runtimeConfig" => parsed.runtime_config = Some(value.clone()),
                "ipMasq" if value != &Value::Bool(false) => {
                    return Err(unsupported(key, value, "the agent decides about masquerading"));
                }
                "ipam" if !is_empty(value) => return Err(unsupported(key, value, "the agent hands out addresses")),
                "ipam" => {}
                ignored if IGNORED.contains(&ignored) || ignored.starts_with("cni.dev/") => {}
                _ => return Err(unsupported(key, value, "heddle-cni has runDir, mtu and txOff")),
            }
        }
        Ok(parsed)
    }

    /// Returns the path of the agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(CNI_SOCKET)
    }
}

/// Makes the error for a key that is not supported (code 2).
fn unsupported(key: &str, value: &Value, why: &str) -> CniError {
    CniError::new(
        ErrorCode::UNSUPPORTED_FIELD,
        format!("{key:?}: {} is not supported: {why}; remove it", shown(value)),
    )
}

/// Returns `true` for `null` and for an object without keys.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// Returns `true` if the specification allows a network's name.
fn is_valid_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Checks `runDir`.
fn run_dir(value: &Value) -> Result<PathBuf, CniError> {
    match value.as_str() {
        Some(dir) if dir.starts_with('/') && dir.len() <= MAX_RUN_DIR && !dir.contains('\0') => Ok(dir.into()),
        _ => Err(invalid(format!(
            "runDir is {}: give an absolute path of at most {MAX_RUN_DIR} bytes, such as {DEFAULT_RUN_DIR}",
            shown(value)
        ))),
    }
}

/// Checks `mtu`.
fn mtu(value: &Value) -> Result<u32, CniError> {
    value
        .as_u64()
        .filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu))
        .and_then(|mtu| u32::try_from(mtu).ok())
        .ok_or_else(|| {
            invalid(format!(
                "mtu is {}: give a number from {MIN_MTU} to {MAX_MTU}, or leave it out",
                shown(value)
            ))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(conf: &Value) -> Result<NetConf, CniError> {
        NetConf::parse(conf.to_string().as_bytes(), &mut CniVersion::V0_3_0)
    }

    #[test]
    fn defaults_and_options() {
        let conf = parse(&json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle-cni"})).unwrap();
        assert_eq!(
            (conf.socket(), conf.mtu, conf.tx_off),
            ("/run/heddle/cni.sock".into(), None, false)
        );
        let conf = parse(&json!({
            "cniVersion": "1.0.0", "name": "n", "runDir": "/tmp/h", "mtu": 9000, "txOff": true, "ipam": {}, "ipMasq": false,
            "runtimeConfig": {"portMappings": []}, "cni.dev/x": 1, "args": {}
        }))
        .unwrap();
        assert_eq!(
            (conf.socket(), conf.mtu, conf.tx_off),
            ("/tmp/h/cni.sock".into(), Some(9000), true)
        );
        assert_eq!(conf.version, CniVersion::V1_0_0);
    }

    #[test]
    fn every_bad_configuration_has_its_code() {
        let good = json!({"cniVersion": "1.1.0", "name": "heddle"});
        let table = [
            (
                "cniVersion",
                json!("9.9.9"),
                1,
                "cniVersion \"9.9.9\" is not supported: set one of",
            ),
            ("cniVersion", json!("0.2.0"), 1, "\"0.2.0\""),
            ("cniVersion", json!(1), 6, "cniVersion is 1"),
            ("name", json!(""), 7, "name \"\" is not allowed"),
            ("name", json!("a/b"), 7, "name \"a/b\""),
            ("name", json!(3), 7, "name 3"),
            ("runDir", json!("run"), 7, "runDir is \"run\""),
            ("runDir", json!("/".repeat(200)), 7, "at most 98 bytes"),
            ("mtu", json!(1279), 7, "mtu is 1279"),
            ("mtu", json!(65536), 7, "mtu is 65536"),
            ("mtu", json!("1500"), 7, "mtu is \"1500\""),
            ("txOff", json!("yes"), 7, "txOff is \"yes\""),
            ("runDIr", json!("/run"), 2, "\"runDIr\": \"/run\" is not supported"),
            (
                "ipam",
                json!({"type": "host-local"}),
                2,
                "\"ipam\": {\"type\":\"host-local\"}",
            ),
            ("ipMasq", json!(true), 2, "\"ipMasq\": true"),
        ];
        for (key, value, code, part) in table {
            let mut conf = good.clone();
            conf[key] = value;
            let e = parse(&conf).unwrap_err();
            assert!(e.code == ErrorCode(code) && e.msg.contains(part), "{conf}: {e}");
        }
        assert_eq!(
            parse(&json!({"name": "heddle"})).unwrap_err().code,
            ErrorCode::INCOMPATIBLE_VERSION
        );
        assert_eq!(
            parse(&json!({"cniVersion": "1.1.0"})).unwrap_err().code,
            ErrorCode::INVALID_CONFIG
        );
    }

    #[test]
    fn what_is_no_object_does_not_decode() {
        for input in ["", " \n", "{", "[]", "3", "{}{}", "\u{0}"] {
            let e = NetConf::parse(input.as_bytes(), &mut CniVersion::V1_1_0).unwrap_err();
            assert_eq!(e.code, ErrorCode::DECODE, "{input:?}: {e}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = NetConf::parse(&bytes, &mut CniVersion::V1_1_0);
        }

        #[test]
        fn no_value_of_a_key_makes_it_panic(key in "runDir|mtu|txOff|prevResult|name|ipam|cniVersion", text in ".{0,80}", number: i64) {
            for value in [json!(text), json!(number), json!([text]), json!({"a": number}), json!({"interfaces": [{"name": text}]})] {
                let mut conf = json!({"cniVersion": "1.1.0", "name": "heddle"});
                conf[&key] = value;
                if let Err(e) = parse(&conf) {
                    proptest::prop_assert!(e.msg.len() < 1000 && e.code.0 <= 7);
                }
            }
        }
    }
}
