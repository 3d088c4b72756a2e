//! Port mappings: the value of the capability `portMappings`, validated.
//!
//! The runtime passes it if the network configuration has `"capabilities": {"portMappings": true}`. The forms are as in the
//! reference plugin `portmap`: `hostPort`, `containerPort`, `protocol` in any case, and `hostIP`, which may be empty. Keys are read in any
//! case, as Go does: containerd writes `HostPort`.

use std::net::IpAddr;

use heddle_proto::{CniError, MAX_PORT_MAPPINGS, MappedProtocol, PortMapping};
use serde_json::{Map, Value};

use crate::config::{NetConf, invalid};
use crate::json_input::shown;

/// Returns the ports of the node that lead to the pod, sorted (`runtimeConfig.portMappings`). The other keys of the object belong to
/// capabilities that heddle-cni does not have.
///
/// # Errors
/// Code 7, with the value that is not allowed.
pub fn of(conf: &NetConf) -> Result<Vec<PortMapping>, CniError> {
    match &conf.runtime_config {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(config)) => config.get("portMappings").map_or(Ok(Vec::new()), decode),
        Some(other) => Err(invalid(format!("runtimeConfig is {}: give an object", shown(other)))),
    }
}

/// Decodes the list. The result is sorted, and has no mapping twice.
///
/// # Errors
/// Code 7, with the mapping and the value that is not allowed.
fn decode(value: &Value) -> Result<Vec<PortMapping>, CniError> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) if list.len() <= MAX_PORT_MAPPINGS => list,
        Value::Array(list) => {
            let count = list.len();
            return Err(invalid(format!(
                "runtimeConfig.portMappings has {count} elements: at most {MAX_PORT_MAPPINGS} are allowed"
            )));
        }
        other => {
            return Err(invalid(format!(
                "runtimeConfig.portMappings is {}: give a list",
                shown(other)
            )));
        }
    };
    let mut mappings = list
        .iter()
        .enumerate()
        .map(|(at, value)| mapping(value).map_err(|what| invalid(format!("runtimeConfig.portMappings[{at}]: {what}"))))
        .collect::<Result<Vec<_>, _>>()?;
    mappings.sort_unstable();
    mappings.dedup();
    let mut neighbors = mappings.iter().zip(mappings.iter().skip(1));
    if let Some((first, second)) = neighbors.find(|(a, b)| at(a) == at(b)) {
        return Err(invalid(format!(
            "runtimeConfig.portMappings has {first} and {second}: a port of the node can lead to one port of the pod only"
        )));
    }
    Ok(mappings)
}

/// Returns what one mapping takes of the node.
fn at(mapping: &PortMapping) -> (u16, MappedProtocol, Option<IpAddr>) {
    (mapping.host_port, mapping.protocol, mapping.host_ip)
}

/// Decodes one mapping.
fn mapping(value: &Value) -> Result<PortMapping, String> {
    let Value::Object(fields) = value else {
        return Err(format!("{} is not an object", shown(value)));
    };
    Ok(PortMapping {
        host_port: port(fields, "hostPort")?,
        container_port: port(fields, "containerPort")?,
        protocol: protocol(fields)?,
        host_ip: host_ip(fields)?,
    })
}

/// Returns a field, whatever the case of its key is; null if there is none.
fn field<'a>(fields: &'a Map<String, Value>, key: &str) -> &'a Value {
    let mut all = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
    all.next().map_or(&Value::Null, |(_, value)| value)
}

/// Decodes a port.
fn port(fields: &Map<String, Value>, key: &str) -> Result<u16, String> {
    let value = field(fields, key);
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    number
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("{key} is {}: give a number from 1 to 65535", shown(value)))
}

/// Decodes `protocol`; without one it is TCP, as in Kubernetes.
fn protocol(fields: &Map<String, Value>) -> Result<MappedProtocol, String> {
    let value = field(fields, "protocol");
    let all = [MappedProtocol::Tcp, MappedProtocol::Udp, MappedProtocol::Sctp];
    match value {
        Value::Null => Some(MappedProtocol::Tcp),
        Value::String(name) if name.is_empty() => Some(MappedProtocol::Tcp),
        Value::String(name) => all
            .into_iter()
            .find(|protocol| protocol.as_str().eq_ignore_ascii_case(name)),
        _ => None,
    }
    .ok_or_else(|| format!("protocol is {}: give tcp, udp or sctp", shown(value)))
}

/// Decodes `hostIP`; an empty one is none.
fn host_ip(fields: &Map<String, Value>) -> Result<Option<IpAddr>, String> {
    let value = field(fields, "hostIP");
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| ()),
        _ => Err(()),
    }
    .map_err(|()| {
        format!(
            "hostIP is {}: give an address of the node, or leave it out",
            shown(value)
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn runtimes_write_them_in_several_forms() {
        let decoded = decode(&json!([
            {"hostPort": 8443, "containerPort": 443, "protocol": "TCP", "hostIP": ""},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "2001:db8::1"},
            {"hostPort": 80, "containerPort": 8080},
            {"hostPort": 80, "containerPort": 8080, "protocol": ""},
            {"HostPort": 80, "ContainerPort": 8081, "Protocol": "tcp", "HostIP": "127.0.0.1"},
        ]))
        .unwrap();
        let shown: Vec<String> = decoded.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "[2001:db8::1]:53->5353/udp",
                "80->8080/tcp",
                "127.0.0.1:80->8081/tcp",
                "8443->443/tcp"
            ]
        );
        assert_eq!(decode(&Value::Null).unwrap(), []);
    }

    #[test]
    fn bad_ones_are_refused_with_the_value() {
        let good = json!({"hostPort": 80, "containerPort": 8080});
        let with = |key: &str, value: Value| {
            let mut mapping = good.clone();
            mapping[key] = value;
            json!([good, mapping])
        };
        let table = [
            (json!({"a": 1}), "portMappings is {\"a\":1}: give a list"),
            (json!([3]), "portMappings[0]: 3 is not an object"),
            (with("hostPort", json!(0)), "portMappings[1]: hostPort is 0"),
            (with("hostPort", json!(65_536)), "hostPort is 65536"),
            (with("containerPort", json!("80")), "containerPort is \"80\""),
            (with("containerPort", json!(-1)), "containerPort is -1"),
            (
                with("protocol", json!("icmp")),
                "protocol is \"icmp\": give tcp, udp or sctp",
            ),
            (with("hostIP", json!("node-1")), "hostIP is \"node-1\""),
            (with("hostIP", json!(1)), "hostIP is 1"),
            (with("containerPort", json!(81)), "80->81/tcp and 80->8080/tcp"),
            (json!(vec![good.clone(); 4097]), "4097 elements: at most 4096"),
        ];
        for (value, part) in table {
            let error = decode(&value).unwrap_err();
            assert!(error.code.0 == 7 && error.msg.contains(part), "{value}: {error}");
        }
    }
}
