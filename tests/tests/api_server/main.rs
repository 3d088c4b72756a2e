//! The agent follows a real API server: etcd, kube-apiserver and kube-controller-manager, with TLS and RBAC on. The tests act as
//! the users, who call `kubectl`, and as the kubelet, which writes the status of pods.
//!
//! Tests that leave the API server alone share one; see [`scene`].

#[path = "../common/mod.rs"]
mod common;

mod follow;
mod scene;
