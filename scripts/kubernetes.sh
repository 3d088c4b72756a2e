#!/bin/sh
# kubernetes.sh FOLDER [PROGRAM...]: builds programs of Kubernetes, as tests/kubernetes/go.mod pins them, into FOLDER:
# kube-apiserver, kube-controller-manager and kubectl, unless others are named. Builds nothing that FOLDER has already, built from the
# same go.mod.
#
# Needs any Go from 1.19 on (Debian 12 has that one). A Go that is too old gets the toolchain that go.mod names.
set -eu

folder=$1
shift
[ $# -gt 0 ] || set -- kube-apiserver kube-controller-manager kubectl
module=$(cd "$(dirname "$0")/../tests/kubernetes" && pwd)

# Programs of another version are removed.
mkdir -p "$folder"
cmp -s "$module/go.mod" "$folder/go.mod" || find "$folder" -mindepth 1 -delete
programs=
for program in "$@"; do [ -x "$folder/$program" ] || programs="$programs $program"; done
[ -n "$programs" ] || exit 0

version=$(sed -n 's|^\(require\)\{0,1\}[[:space:]]*k8s.io/kubernetes v\([0-9.]*\).*|\2|p' "$module/go.mod")
toolchain=$(sed -n 's|^toolchain ||p' "$module/go.mod")
echo "building Kubernetes $version into $folder:$programs: 5 to 15 minutes on two cores, once"
cd "$module"

# From Go 1.21 on, the command fetches the toolchain by itself. Earlier ones cannot read go.mod; for them the toolchain is fetched
# here as the module as which it is published. Such a module's files are not executable, and its go.mod files are renamed.
case $(go version) in
*\ go1.1[0-9]* | *\ go1.20*)
	published=$(cd / && go mod download -json "golang.org/toolchain@v0.0.1-$toolchain.$(go env GOOS)-$(go env GOARCH)" |
		sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	root=$folder/../$toolchain
	rm -rf "$root"
	cp -R "$published" "$root"
	chmod -R u+w "$root"
	chmod -R u+x "$root/bin" "$root/pkg/tool"
	find "$root" -name _go.mod | while read -r file; do mv "$file" "${file%_go.mod}go.mod"; done
	export GOROOT="$root" PATH="$root/bin:$PATH"
	;;
esac

# Without these values the server reports v0.0.0, and its clients take it for an old one.
package=k8s.io/component-base/version
minor=${version#*.}
set -- -X "$package.gitVersion=v$version" -X "$package.gitMajor=${version%%.*}" -X "$package.gitMinor=${minor%%.*}"
for program in $programs; do
	start=$(date +%s)
	case $program in
	# The test images have no C library of the machine.
	agnhost | regression-issue-74839)
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w $*" -o "$folder/$program" "k8s.io/kubernetes/test/images/$program"
		;;
	e2e.test) go test -c -trimpath -buildvcs=false -ldflags "-s -w $*" -o "$folder/$program" k8s.io/kubernetes/test/e2e ;;
	ginkgo) go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$folder/$program" github.com/onsi/ginkgo/v2/ginkgo ;;
	*) go build -trimpath -buildvcs=false -ldflags "-s -w $*" -o "$folder/$program" "k8s.io/kubernetes/cmd/$program" ;;
	esac
	echo "  $program: $(($(date +%s) - start)) s"
done
cp go.mod "$folder/go.mod"
