/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The program on the host ends of the pods' veths and on the host port. It redirects every packet to heddle.
 *
 * `devices` contains the port number of a device's first queue, and `ports` the socket of each port number. If either
 * entry is missing, the packet is dropped: pods fail closed. After the agent's death its sockets are gone from the map.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
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

/*
 * The filter behind the XDP program while the program's mode is changed: it keeps every packet from the kernel.
 */
SEC("tc")
int heddle_closed(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
