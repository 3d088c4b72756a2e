//! The versions of the CNI specification that the plugin speaks, and the answer to VERSION.

use heddle_proto::{CniError, ErrorCode};
use serde_json::{Value, json};

use crate::json_input::decode_object;

/// A version of the specification that the plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.0: `ips` carry a version, there is no CHECK.
    V0_3_0,
    /// 0.3.1, as 0.3.0.
    V0_3_1,
    /// 0.4.0: adds CHECK.
    V0_4_0,
    /// 1.0.0: `ips` carry no version.
    V1_0_0,
    /// 1.1.0: interfaces and routes carry an MTU.
    V1_1_0,
}

/// All of them, oldest first.
pub const SUPPORTED: [CniVersion; 5] = [
    CniVersion::V0_3_0,
    CniVersion::V0_3_1,
    CniVersion::V0_4_0,
    CniVersion::V1_0_0,
    CniVersion::V1_1_0,
];

impl CniVersion {
    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// As the specification writes it.
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
    /// Code 1 for a version that the plugin does not speak (none means 0.1.0), code 6 for what is no text.
    pub fn of(conf: &serde_json::Map<String, Value>) -> Result<Self, CniError> {
        let asked = match conf.get("cniVersion") {
            None => "0.1.0",
            Some(Value::String(text)) => text,
            Some(other) => {
                return Err(CniError::new(
                    ErrorCode::DECODE,
                    format!("cniVersion is {other}: give a text, as \"1.1.0\""),
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

fn names() -> Vec<&'static str> {
    SUPPORTED.iter().map(|v| v.as_str()).collect()
}

/// The answer to VERSION. The runtime's own version is given back as it came; standard input may be empty.
///
/// # Errors
/// Code 6: standard input is something else than a JSON object.
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
    fn version_gives_back_what_it_was_asked_in() {
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
