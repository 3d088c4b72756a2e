#!/bin/sh
# image.sh HEDDLE HEDDLE-CNI ARCHIVE [NAME]: writes the agent's image as an OCI archive, which `ctr images import` and
# `podman load` read. NAME is heddle:VERSION unless it is given.
#
# The image has the two binaries, `nft`, and the shared libraries of all three as the machine's Debian packages have installed them,
# and nothing else: no shell. A library that belongs to no package is refused. Times, owners and the order of files are fixed, so the
# same binaries and packages give the same digest. /usr/share/heddle/packages in the image lists the packages with their versions.
set -eu
export LC_ALL=C
umask 022

heddle=$1 plugin=$2 archive=$3
name=${4:-heddle:$("$heddle" --version | cut -d' ' -f2)}
nft=$(PATH=$PATH:/usr/sbin command -v nft) || { echo "image.sh: nft is missing: apt-get install nftables" >&2; exit 1; }
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) echo "image.sh: $(uname -m) is not supported: build on x86_64 or aarch64" >&2; exit 1 ;;
esac
# The time of everything in the image, in seconds since 1970.
epoch=${SOURCE_DATE_EPOCH:-0}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root layout=$work/layout
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib64" "$root/usr/share/heddle" "$root/etc" "$root/tmp" "$layout/blobs/sha256"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done

# The binaries, without symbols for debuggers, which are nine tenths of them.
strip -o "$root/usr/bin/heddle" "$heddle"
strip -o "$root/usr/bin/heddle-cni" "$plugin"
chmod 755 "$root/usr/bin/heddle" "$root/usr/bin/heddle-cni"
cp "$nft" "$root/usr/sbin/nft"

# The libraries, each by the name by which the loader asks for it. dpkg knows them by their names in /lib or /usr/lib.
packages=$(dpkg-query -S "$nft" | cut -d: -f1)
for library in $(ldd "$heddle" "$plugin" "$nft" | sed -n 's|.*[[:space:]]\(/[^ ]*\) (0x.*|\1|p' | sort -u); do
	file=$(readlink -f "$library")
	package=$(dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "${file#/usr}" 2>/dev/null) || {
		echo "image.sh: $file belongs to no Debian package: build the binaries with the libraries of packages" >&2
		exit 1
	}
	packages="$packages ${package%%:*}"
	# Directories of the machine are links into /usr; the image has the same ones.
	case $library in /usr/*) target=$root$library ;; *) target=$root/usr$library ;; esac
	mkdir -p "$(dirname "$target")"
	cp "$file" "$target"
done
for package in $(printf '%s\n' $packages | sort -u); do
	dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' "$package"
done | sort -u >"$root/usr/share/heddle/packages"
chmod -R u=rwX,go=rX "$root"
chmod 1777 "$root/tmp"

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
gzip -n -9 "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz")
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
printf '{"created":"%s","architecture":"%s","os":"linux","config":{"Entrypoint":["/usr/bin/heddle"],"Env":["PATH=/usr/sbin:/usr/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
	"$created" "$architecture" "$diff" >"$work/config"
config=$(blob "$work/config")
type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.tar+gzip",%s}]}' \
	"$type" "$type" "$config" "$type" "$layer" >"$work/manifest"
manifest=$(blob "$work/manifest")
# containerd takes the whole name from its own annotation, other programs the tag from the standard one.
case $name in */*) full=$name ;; *) full=docker.io/library/$name ;; esac
printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[{"mediaType":"%s.manifest.v1+json",%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
	"$type" "$type" "$manifest" "$architecture" "$full" "${name##*:}" >"$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
pack "$layout" "$work/archive"
mv "$work/archive" "$archive"
echo "$archive: $full, $(stat -c %s "$archive") bytes, unpacked $(du -sb "$root" | cut -f1) bytes, ${manifest%%,*}" | tr -d '"'
