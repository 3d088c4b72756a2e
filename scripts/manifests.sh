#!/bin/sh
# manifests.sh HELM: renders the Helm chart with its default values into configs/kubernetes.yaml. The suite `chart` compares both.
set -eu

configs=$(cd "$(dirname "$0")/../configs" && pwd)
{
	echo "# heddle on every node: what the Helm chart configs/helm/heddle renders to with its default values. Written by \`make manifests\`."
	"$1" template heddle "$configs/helm/heddle" --namespace kube-system --kube-version 1.36
} >"$configs/kubernetes.yaml.new"
mv "$configs/kubernetes.yaml.new" "$configs/kubernetes.yaml"
