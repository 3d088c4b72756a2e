#!/bin/sh
# helm.sh FOLDER: builds Helm, as tests/helm/go.mod pins it, into FOLDER. Does nothing if FOLDER has it already, built from the same
# go.mod. Needs Go 1.21 or later, which fetches the toolchain that go.mod names.
set -eu

folder=$1
module=$(cd "$(dirname "$0")/../tests/helm" && pwd)
cmp -s "$module/go.mod" "$folder/go.mod" && [ -x "$folder/helm" ] && exit 0

mkdir -p "$folder"
cd "$module"
start=$(date +%s)
go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$folder/helm" helm.sh/helm/v3/cmd/helm
cp go.mod "$folder/go.mod"
echo "built $("$folder/helm" version --short) into $folder in $(($(date +%s) - start)) s"
