//! The runtime's environment variables, validated (CNI 1.1, section 2, "Parameters").

use std::ffi::OsString;

use heddle_proto::{CniError, ContainerId, ErrorCode, IfName, NetnsPath, ObjectName, PodRef, TextError};

/// The maximum length of `CNI_ARGS` in bytes.
const MAX_ARGS: usize = 16 * 1024;

/// The container and its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
    /// `K8S_POD_NAMESPACE`, `K8S_POD_NAME` and `K8S_POD_UID` of `CNI_ARGS`.
    pub pod: Option<PodRef>,
}

/// The runtime's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// VERSION.
    Version,
    /// STATUS.
    Status,
    /// ADD, into this namespace.
    Add(Target, NetnsPath),
    /// DEL; the namespace may be unknown or deleted.
    Del(Target, Option<NetnsPath>),
    /// CHECK, in this namespace.
    Check(Target, NetnsPath),
}

/// A lookup of environment variables by name.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Makes the error for an invalid environment (code 4).
fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(ErrorCode::INVALID_ENVIRONMENT, msg)
}

/// Returns a variable's value. An empty value counts as missing.
fn text(variable: Variable<'_>, name: &str) -> Result<Option<String>, CniError> {
    match variable(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) if value.is_empty() => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(value)) => Err(invalid(format!("{name} is no UTF-8 text: {value:?}"))),
    }
}

/// Reads and validates a variable that may be missing.
fn optional<T>(
    variable: Variable<'_>,
    name: &str,
    new: fn(String) -> Result<T, TextError>,
) -> Result<Option<T>, CniError> {
    text(variable, name)?
        .map(|value| new(value).map_err(|e| invalid(format!("{name}: {e}"))))
        .transpose()
}

/// Reads and validates a variable that `command` needs.
fn required<T>(
    variable: Variable<'_>,
    name: &str,
    command: &str,
    new: fn(String) -> Result<T, TextError>,
) -> Result<T, CniError> {
    optional(variable, name, new)?.ok_or_else(|| invalid(format!("{name} is missing: {command} needs it")))
}

impl Call {
    /// Reads and validates the variables of a call.
    ///
    /// # Errors
    /// Code 4, with the variable's name, its value and the allowed values.
    pub fn from_env(variable: Variable<'_>) -> Result<Self, CniError> {
        let Some(command) = text(variable, "CNI_COMMAND")? else {
            return Err(invalid(
                "CNI_COMMAND is missing: heddle-cni is called by a container runtime, with ADD, DEL, CHECK, STATUS or VERSION",
            ));
        };
        match command.as_str() {
            "VERSION" => Ok(Self::Version),
            "STATUS" => Ok(Self::Status),
            "ADD" => Ok(Self::Add(
                target(variable, &command)?,
                required(variable, "CNI_NETNS", &command, NetnsPath::new)?,
            )),
            "DEL" => Ok(Self::Del(
                target(variable, &command)?,
                optional(variable, "CNI_NETNS", NetnsPath::new)?,
            )),
            "CHECK" => Ok(Self::Check(
                target(variable, &command)?,
                required(variable, "CNI_NETNS", &command, NetnsPath::new)?,
            )),
            other => {
                let shown: String = other.chars().take(32).collect();
                Err(invalid(format!(
                    "CNI_COMMAND {shown:?} is not supported: heddle-cni serves ADD, DEL, CHECK, STATUS and VERSION"
                )))
            }
        }
    }
}

/// Reads the container, the interface and the pod.
fn target(variable: Variable<'_>, command: &str) -> Result<Target, CniError> {
    let container = required(variable, "CNI_CONTAINERID", command, ContainerId::new)?;
    let ifname = required(variable, "CNI_IFNAME", command, IfName::new)?;
    // The kernel gives an interface of these names no IPv6 (`sysctl_dev_name_is_allowed`), and `/proc/sys/net/.../all`
    // and `default` are the sysctls of all interfaces.
    if matches!(ifname.as_str(), "all" | "default") {
        return Err(invalid(format!(
            "CNI_IFNAME {ifname} names the sysctls of all interfaces: choose another name, such as eth0"
        )));
    }
    let pod = pod(text(variable, "CNI_ARGS")?.as_deref().unwrap_or_default())?;
    Ok(Target { container, ifname, pod })
}

/// Reads the pod from `CNI_ARGS` (`KEY=VALUE;KEY=VALUE`). Like the specification's own library, it refuses unknown keys unless
/// `IgnoreUnknown` is true; the runtimes of kubelet always set it.
fn pod(args: &str) -> Result<Option<PodRef>, CniError> {
    if args.len() > MAX_ARGS {
        return Err(invalid(format!(
            "CNI_ARGS has {} bytes: at most {MAX_ARGS} are read",
            args.len()
        )));
    }
    // All keys are read before an unknown one is refused, because `IgnoreUnknown` may come last.
    let (mut namespace, mut name, mut uid, mut ignore_unknown, mut unknown) = (None, None, None, false, None);
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")));
        };
        let object = || match value {
            "" => Ok(None),
            _ => ObjectName::new(value)
                .map(Some)
                .map_err(|e| invalid(format!("CNI_ARGS: {key}: {e}"))),
        };
        match key {
            "K8S_POD_NAMESPACE" => namespace = object()?,
            "K8S_POD_NAME" => name = object()?,
            "K8S_POD_UID" => uid = object()?,
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            "IgnoreUnknown" => ignore_unknown = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T"),
            _ => unknown = unknown.or(Some(key)),
        }
    }
    if let (Some(key), false) = (unknown, ignore_unknown) {
        return Err(invalid(format!(
            "CNI_ARGS: {key:?} is not known: leave it out, or add IgnoreUnknown=1"
        )));
    }
    // A pod has both names.
    match (namespace, name) {
        (Some(namespace), Some(name)) => Ok(Some(PodRef { namespace, name, uid })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(invalid(
            "CNI_ARGS has K8S_POD_NAMESPACE but no K8S_POD_NAME: give both or none",
        )),
        (None, Some(_)) => Err(invalid(
            "CNI_ARGS has K8S_POD_NAME but no K8S_POD_NAMESPACE: give both or none",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=1-2;K8S_POD_INFRA_CONTAINER_ID=c1;X=1",
        ),
    ];

    /// Reads the good environment with some variables changed (`""` counts as missing).
    fn with(changes: &[(&str, &str)]) -> Result<Call, CniError> {
        Call::from_env(&|name| {
            changes
                .iter()
                .chain(&GOOD)
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn a_good_environment() {
        let Call::Add(target, netns) = with(&[]).unwrap() else {
            unreachable!("ADD was asked")
        };
        assert_eq!(netns.as_str(), "/run/netns/a");
        let pod = target.pod.unwrap();
        assert_eq!((pod.to_string().as_str(), pod.uid.unwrap().as_str()), ("a/b", "1-2"));

        let Call::Del(target, netns) = with(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", ""), ("CNI_ARGS", "")]).unwrap()
        else {
            unreachable!("DEL was asked")
        };
        assert_eq!((target.pod, netns), (None, None));
        assert_eq!(
            Call::from_env(&|n| (n == "CNI_COMMAND").then(|| "VERSION".into())).unwrap(),
            Call::Version
        );
    }

    #[test]
    fn every_bad_variable_is_named_with_its_value() {
        let table = [
            (("CNI_COMMAND", ""), "CNI_COMMAND is missing"),
            (("CNI_COMMAND", "GC"), "CNI_COMMAND \"GC\" is not supported"),
            (("CNI_COMMAND", "add"), "CNI_COMMAND \"add\" is not supported"),
            (("CNI_CONTAINERID", ""), "CNI_CONTAINERID is missing: ADD needs it"),
            (("CNI_CONTAINERID", "a/b"), "CNI_CONTAINERID: container id \"a/b\""),
            (("CNI_NETNS", ""), "CNI_NETNS is missing"),
            (("CNI_NETNS", "netns"), "CNI_NETNS: network namespace \"netns\""),
            (("CNI_IFNAME", ""), "CNI_IFNAME is missing"),
            (("CNI_IFNAME", "abcdefghijklmnop"), "16 bytes: at most 15"),
            (("CNI_IFNAME", ".."), "CNI_IFNAME: interface name \"..\""),
            (("CNI_IFNAME", "a:b"), "CNI_IFNAME: interface name \"a:b\""),
            (("CNI_IFNAME", "all"), "CNI_IFNAME all names the sysctls"),
            (("CNI_ARGS", "K8S_POD_NAME=b"), "no K8S_POD_NAMESPACE"),
            (("CNI_ARGS", "K8S_POD_NAMESPACE=b"), "no K8S_POD_NAME"),
            (
                ("CNI_ARGS", "K8S_POD_NAMESPACE=a b;K8S_POD_NAME=c"),
                "K8S_POD_NAMESPACE: object name \"a b\"",
            ),
            (("CNI_ARGS", "IP=1.2.3.4"), "\"IP\" is not known"),
            (("CNI_ARGS", "IgnoreUnknown=0;IP=1.2.3.4"), "\"IP\" is not known"),
            (("CNI_ARGS", "garbage"), "\"garbage\" is not KEY=VALUE"),
        ];
        for (change, part) in table {
            let e = with(&[change]).unwrap_err();
            assert!(
                e.code == ErrorCode::INVALID_ENVIRONMENT && e.msg.contains(part),
                "{change:?}: {e}"
            );
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let e = Call::from_env(&|_| Some(OsString::from_vec(vec![0xff]))).unwrap_err();
        assert!(e.msg.contains("no UTF-8"), "{e}");
    }

    proptest::proptest! {
        #[test]
        fn arguments_are_read_or_refused(args in "((K8S_POD_NAME|K8S_POD_NAMESPACE|IgnoreUnknown|X)?=?[a-z0-9/=]{0,5};?){0,5}") {
            match pod(&args) {
                Ok(Some(pod)) => proptest::prop_assert!(!pod.name.as_str().contains('/')),
                Ok(None) => {}
                Err(e) => proptest::prop_assert_eq!(e.code, ErrorCode::INVALID_ENVIRONMENT),
            }
        }
    }
}
