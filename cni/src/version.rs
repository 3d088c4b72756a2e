//! The versions of the CNI specification that the plugin speaks, and the answer to VERSION.

use heddle_proto::{CniError, ErrorCode};
use serde_json::{Value, json};

use crate::json_input::decode_object;

/// A version of the specification that the plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.0: each element of `ips` has a `version`; there is no CHECK.
    V0_3_0,
    /// 0.3.1: the same as 0.3.0.
    V0_3_1,
    /// 0.4.0: adds CHECK.
    V0_4_0,
    /// 1.0.0: `ips` have no `version` any more.
    V1_0_0,
    /// 1.1.0: interfaces and routes have an MTU, and there is STATUS.
    V1_1_0,
}

/// All versions that the plugin speaks, the oldest first.
pub const SUPPORTED: [CniVersion; 5] = [
    CniVersion::V0_3_0,
    CniVersion::V0_3_1,
    CniVersion::V0_4_0,
    CniVersion::V1_0_0,
    CniVersion::V1_1_0,
];

impl CniVersion {
    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    /// Returns the version as the specification writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads the `cniVersion` of a configuration.
    ///
    /// # Errors
    /// Code 1 for a version that the plugin does not speak (a missing one means 0.1.0), code 6 for a value that is no text.
    pub fn of(conf: &serde_json::Map<String, Value>) -> Result<Self, CniError> {
        let asked = match conf.get("cniVersion") {
            None => "0.1.0",
            Some(Value::String(text)) => text,
            Some(other) => {
                return Err(CniError::new(
                    ErrorCode::DECODE,
                    format!("cniVersion is {other}: give a text, such as \"1.1.0\""),
                ));
            }
        };
        SUPPORTED.into_iter().find(|v| v.as_str() == asked).ok_or_else(|| {
            let shown: String = asked.chars().take(32).collect();
            CniError::new(
                ErrorCode::INCOMPATIBLE_VERSION,
                format!(
                    "cniVersion {shown:?} is not supported: set one of {}",
                    names().join(", ")
                ),
            )
        })
    }
}

/// Returns the supported versions as text.
fn names() -> Vec<&'static str> {
    SUPPORTED.iter().map(|v| v.as_str()).collect()
}

/// Returns the answer to VERSION. It repeats the runtime's `cniVersion` unchanged; standard input may be empty.
///
/// # Errors
/// Code 6 if standard input is not empty and no JSON object.
pub fn answer(input: &[u8]) -> Result<String, CniError> {
    let mut spoken = json!(CniVersion::LATEST.as_str());
    if !input.trim_ascii().is_empty() {
        let conf = decode_object(input)?;
        if let Some(text @ Value::String(_)) = conf.get("cniVersion") {
            spoken = text.clone();
        }
    }
    Ok(json!({"cniVersion": spoken, "supportedVersions": names()}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_answers_in_the_version_of_the_request() {
        let all = r#"["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
        for (input, spoken) in [
            ("", "1.1.0"),
            (r#"{"cniVersion":"1.0.0"}"#, "1.0.0"),
            (r#"{"cniVersion":"2.0.0"}"#, "2.0.0"),
            ("{}", "1.1.0"),
        ] {
            assert_eq!(
                answer(input.as_bytes()).unwrap(),
                format!(r#"{{"cniVersion":"{spoken}","supportedVersions":{all}}}"#)
            );
        }
        assert_eq!(answer(b"[]").unwrap_err().code, ErrorCode::DECODE);
    }
}
