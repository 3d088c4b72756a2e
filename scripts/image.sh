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
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib64" "$root/usr/share/heddle" "$root/etc" "$root/tmp"
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

command='"Entrypoint":["/usr/bin/heddle"],"Env":["PATH=/usr/sbin:/usr/bin"]'
"$(dirname "$0")/oci.sh" "$root" "$archive" "$command" "$name"
