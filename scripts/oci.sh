#!/bin/sh
# oci.sh ROOT ARCHIVE CONFIG NAME...: packs the folder ROOT as the only layer of an image with these names, and writes it as an OCI
# archive (OCI image layout 1.0), which `ctr images import` and `podman load` read. CONFIG has the JSON members of the image's `config`.
#
# Times, owners and the order of files are fixed, so the same folder gives the same digest. $COMPRESS=no leaves the layer as it is.
set -eu
export LC_ALL=C

root=$1 archive=$2 settings=$3
shift 3
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) echo "oci.sh: $(uname -m) is not supported: build on x86_64 or aarch64" >&2; exit 1 ;;
esac
# The time of everything in the image, in seconds since 1970.
epoch=${SOURCE_DATE_EPOCH:-0}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
mkdir -p "$layout/blobs/sha256"

# Prints a file's digest.
digest() { sha256sum "$1" | cut -d' ' -f1; }
# Moves a file to the blobs and prints its descriptor's digest and size as JSON members.
blob() {
	sum=$(digest "$1") size=$(stat -c %s "$1")
	mv "$1" "$layout/blobs/sha256/$sum"
	printf '"digest":"sha256:%s","size":%s' "$sum" "$size"
}
# Packs a folder: names sorted, one time, owner root.
pack() { tar --create --directory "$1" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=ustar --file "$2" .; }

pack "$root" "$work/layer.tar"
diff=$(digest "$work/layer.tar")
if [ "${COMPRESS:-yes}" = no ]; then
	format=tar layer=$(blob "$work/layer.tar")
else
	gzip -n -9 "$work/layer.tar"
	format=tar+gzip layer=$(blob "$work/layer.tar.gz")
fi
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
printf '{"created":"%s","architecture":"%s","os":"linux","config":{%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
	"$created" "$architecture" "$settings" "$diff" >"$work/config"
config=$(blob "$work/config")
type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.%s",%s}]}' \
	"$type" "$type" "$config" "$type" "$format" "$layer" >"$work/manifest"
manifest=$(blob "$work/manifest")
# containerd takes the whole name from its own annotation, other programs the tag from the standard one.
manifests=
for name in "$@"; do
	case $name in */*) full=$name ;; *) full=docker.io/library/$name ;; esac
	manifests=$manifests,$(printf '{"mediaType":"%s.manifest.v1+json",%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}' \
		"$type" "$manifest" "$architecture" "$full" "${name##*:}")
done
printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[%s]}' "$type" "${manifests#,}" >"$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
pack "$layout" "$work/archive"
mv "$work/archive" "$archive"
echo "$archive: $full, $(stat -c %s "$archive") bytes, unpacked $(du -sb "$root" | cut -f1) bytes, ${manifest%%,*}" | tr -d '"'
