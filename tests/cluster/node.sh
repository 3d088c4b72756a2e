#!/bin/bash
# node.sh DIR NAME CGROUP BIN IMAGES: the first process of a node, in network, mount, process, host name and IPC namespaces of its own.
# It gives the node its own /run, /var/lib, /var/log, /etc and /opt, so that everything is where it is on a real node, and starts
# containerd and kubelet. It ends when one of them does. When it ends, the kernel ends all processes of the node, and the mounts go.
#
# DIR has containerd.toml and kubelet.flags, one flag a line. CGROUP is the name of the cgroup of the node's pods, BIN the folder of
# containerd and kubelet (several: A:B), and IMAGES a folder of image archives.
set -eu
dir=$1 name=$2 cgroup=$3 bin=$4 images=$5
export PATH=$bin:$PATH:/usr/sbin:/sbin

hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p "$dir"/{lib/heddle,log,opt,etc,etc-work}
mount --bind "$dir/lib" /var/lib
mount --bind "$dir/log" /var/log
mount --bind "$dir/opt" /opt
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc-work" overlay /etc
# A new folder on a shared mount: what the agent mounts there reaches the node, and what was in the machine's /run does not.
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-shared /run
mkdir -p /run/netns /run/lock

# The cgroup of the node's pods. With version 1 each controller has a tree, and a new cpuset is empty.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control || true
	done
	mkdir -p "/sys/fs/cgroup/$cgroup"
else
	for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
		[ ! -d "/sys/fs/cgroup/$controller" ] || mkdir -p "/sys/fs/cgroup/$controller/$cgroup"
	done
	for file in cpus mems; do
		cat "/sys/fs/cgroup/cpuset/cpuset.$file" > "/sys/fs/cgroup/cpuset/$cgroup/cpuset.$file"
	done
fi

containerd --config "$dir/containerd.toml" > "$dir/containerd.log" 2>&1 &
until ctr version > /dev/null 2>&1; do
	kill -0 $! # it has ended: so does the node
	sleep 0.1
done
for image in "$images"/*.tar; do
	ctr --namespace k8s.io images import --local "$image" >> "$dir/images.log" 2>&1
done
mapfile -t flags < "$dir/kubelet.flags"
kubelet "${flags[@]}" > "$dir/kubelet.log" 2>&1 &
wait -n
