#!/bin/sh
# cluster.sh FOLDER KUBERNETES [suite]: builds what the cluster of tests/cluster needs beside heddle: programs of Kubernetes into the
# folder KUBERNETES, containerd and CoreDNS into FOLDER/bin, and the archives of the images that each node imports into FOLDER/images.
# With `suite` also Kubernetes' e2e suite. Builds nothing that is there already.
#
# Needs Go 1.21 or later, which fetches the toolchains that the go.mod files name, and Debian's mmdebstrap.
set -eu

folder=$1 kubernetes=$2 what=${3:-}
scripts=$(cd "$(dirname "$0")" && pwd)
cluster=$scripts/../tests/cluster
bin=$folder/bin images=$folder/images
mkdir -p "$bin" "$images"

# Runs a step and says how long it took.
timed() {
	start=$(date +%s)
	step=$1
	shift
	"$@"
	echo "  $step: $(($(date +%s) - start)) s"
}

# Builds a program without the machine's C library: FOLDER MODULE PACKAGE.
build() {
	(cd "$cluster/$1" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" "$2")
}

# Makes an image: ARCHIVE CONFIG 'NAME...' FOLDER-WITH-THE-FILES.
image() {
	COMPRESS=no "$scripts/oci.sh" "$4" "$images/.$1" "$2" $3 >/dev/null
	mv "$images/.$1" "$images/$1"
}

programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl agnhost"
[ "$what" != suite ] || programs="$programs kube-proxy e2e.test ginkgo regression-issue-74839"
"$scripts/kubernetes.sh" "$kubernetes" $programs

for program in containerd containerd-shim-runc-v2 ctr; do
	[ -x "$bin/$program" ] || timed "$program" build containerd "github.com/containerd/containerd/v2/cmd/$program"
done
[ -x "$bin/coredns" ] || timed coredns build coredns .
[ -x "$bin/pause" ] || timed pause build pause .

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'

if [ ! -s "$images/pause.tar" ]; then
	mkdir "$work/pause"
	cp "$bin/pause" "$work/pause/"
	image pause.tar '"Entrypoint":["/pause"]' registry.k8s.io/pause:3.10.2 "$work/pause"
fi
if [ ! -s "$images/coredns.tar" ]; then
	mkdir "$work/coredns"
	cp "$bin/coredns" "$work/coredns/"
	image coredns.tar '"Entrypoint":["/coredns"]' registry.k8s.io/coredns/coredns:v1.14.7 "$work/coredns"
fi

# Kubernetes' test image, with the commands that its tests run in it. It has the names of other images of the suite too: the tests of
# sig-network need a shell, some of these commands or any running process from them.
test_image() {
	tests=registry.k8s.io/e2e-test-images
	mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--include=bash,curl,wget,dnsutils,netcat-openbsd,iproute2,iperf,conntrack,iptables,nftables,iputils-ping,procps,kmod,nginx-light \
		"$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/agnhost.tar"
	mkdir -p "$work/agnhost"
	tar --extract --file "$work/agnhost.tar" --directory "$work/agnhost" --exclude './dev/*'
	rm "$work/agnhost.tar"
	cp "$kubernetes/agnhost" "$work/agnhost/agnhost"
	ln -s agnhost "$work/agnhost/agnhost-2"
	cp "$bin/coredns" "$work/agnhost/coredns"
	mkdir "$work/agnhost/uploads"
	chmod 1777 "$work/agnhost/uploads"
	# The certificate of `agnhost porter`, from the sources.
	porter=$(cd "$cluster/../kubernetes" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/porter
	cp "$porter/localhost.crt" "$porter/localhost.key" "$work/agnhost/"
	image agnhost.tar '"Entrypoint":["/agnhost"],"Cmd":["pause"],'"$path" \
		"$tests/agnhost:2.63.0 $tests/busybox:1.37.0-1 $tests/glibc-dns-testing:2.0.0 $tests/nginx:1.15-4 registry.k8s.io/build-image/distroless-iptables:v0.9.6" \
		"$work/agnhost"
}
[ -s "$images/agnhost.tar" ] || timed "the test image" test_image

if [ "$what" = suite ] && [ ! -s "$images/regression.tar" ]; then
	mkdir "$work/regression"
	cp "$kubernetes/regression-issue-74839" "$work/regression/"
	image regression.tar '"Entrypoint":["/regression-issue-74839"]' registry.k8s.io/e2e-test-images/regression-issue-74839:1.4 "$work/regression"
fi
