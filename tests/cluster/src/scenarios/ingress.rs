//! A proxy in pods as the way into the cluster (nginx), reached by NodePort and by a load balancer's address, with the client's address
//! kept, in front of a Service.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::LabError;
use serde_json::json;

use crate::cluster::{Cluster, fault};
use crate::workload::{AGNHOST, PORT, deployment, service, web_container};

const NAMESPACE: &str = "ingress";
/// An address that the network outside leads to a node with a proxy, as a load balancer's.
const BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 10));

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    let configuration = format!(
        "daemon off; pid /tmp/nginx.pid; error_log /dev/stderr; events {{}} http {{ access_log off; server {{ listen {PORT}; listen \
         [::]:{PORT}; location / {{ proxy_set_header X-Real-IP $remote_addr; proxy_pass http://web.{NAMESPACE}.svc.cluster.local; }} }} }}"
    );
    let proxy = json!({
        "name": "proxy", "image": AGNHOST, "command": ["nginx", "-c", "/etc/proxy/nginx.conf"],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/proxy"}]
    });
    let mut proxies = deployment(NAMESPACE, "proxy", 2, &proxy);
    proxies["spec"]["template"]["spec"]["volumes"] = json!([{"name": "configuration", "configMap": {"name": "proxy"}}]);
    let mut way_in = service(NAMESPACE, "proxy", "proxy", "LoadBalancer");
    way_in["spec"]["externalTrafficPolicy"] = json!("Local");
    cluster.apply(&[
        deployment(NAMESPACE, "web", cluster.nodes().len() as u32, &web_container()),
        service(NAMESPACE, "web", "web", "ClusterIP"),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": "proxy"},
            "data": {"nginx.conf": configuration}
        }),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/web")?;
    cluster.apply(&[proxies, way_in])?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/proxy")?;

    // The load balancer's part: its address in the Service's status, and a route to a node with a proxy.
    let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": BALANCER.to_string()}]}}}).to_string();
    cluster.kubectl(&[
        "patch",
        "service",
        "proxy",
        "--namespace",
        NAMESPACE,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ])?;
    let pods = cluster.pods(NAMESPACE, "app=proxy")?;
    let holder = pods.first().ok_or_else(|| fault("the proxies", "none runs"))?;
    let [via, _] = cluster.node(&holder.node)?.addresses();
    let route = format!("{BALANCER}/32");
    cluster
        .outside()
        .run("ip", &["route", "replace", &route, "via", &via.to_string()])?;

    let [v4, v6] = cluster.lab().outside_ips();
    cluster.wait_for_answer(cluster.outside(), SocketAddr::new(BALANCER, 80), "/hostname", "web-")?;
    cluster.wait_for_answer(
        cluster.outside(),
        SocketAddr::new(BALANCER, 80),
        "/header?key=X-Real-IP",
        &v4.to_string(),
    )?;
    let object = cluster.get(&["service", "proxy", "--namespace", NAMESPACE])?;
    let port = object["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or(0) as u16;
    for pod in &pods {
        for (ip, client) in cluster.node(&pod.node)?.addresses().into_iter().zip([v4, v6]) {
            let to = SocketAddr::new(ip, port);
            cluster.wait_for_answer(cluster.outside(), to, "/header?key=X-Real-IP", &client.to_string())?;
        }
    }
    cluster.outside().run("ip", &["route", "delete", &route])?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!(
        "nginx sees the client's own address at {BALANCER} and at the NodePorts, and reaches the Service behind it"
    ))
}
