//! The agent follows a real API server: etcd, kube-apiserver and kube-controller-manager, with TLS and RBAC on. The tests act as
//! the users, who call `kubectl`, and as the kubelet, which writes the status of pods. Each agent has an account with exactly the
//! rights of `configs/rbac.yaml`.
//!
//! Tests that leave the processes of the control plane alone share one; see [`scene`].

#[path = "../common/mod.rs"]
mod common;

mod churn;
mod cluster_policy;
mod credentials;
mod flannel;
mod flanneld;
mod follow;
mod manifests;
mod nodes;
mod outage;
mod rights;
mod scene;
mod writes;
