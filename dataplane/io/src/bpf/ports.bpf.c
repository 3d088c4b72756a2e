/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The program on the host ends of the pods' veths and on the host port: everything goes to heddle, and nothing past it.
 *
 * `devices` says which number the first queue of a device has, `ports` has the socket of each number. Where either is
 * missing, or the agent is dead and its sockets are gone from the map, the packet is dropped: pods fail closed.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); /* set before loading */
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* set before loading */
	__type(key, __u32);	/* ifindex */
	__type(value, __u32);	/* number of the port on queue 0 */
} devices SEC(".maps");

SEC("xdp.frags")
int heddle_port(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex;
	__u32 *base = bpf_map_lookup_elem(&devices, &ifindex);

	if (!base)
		return XDP_DROP;
	return bpf_redirect_map(&ports, *base + ctx->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
