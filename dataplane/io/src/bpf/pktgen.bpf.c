/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet generator. BPF_PROG_RUN runs it on live frames (Documentation/bpf/bpf_prog_run.rst), and it sends each frame
 * out of one device. The frames are UDP over IPv4 without options. Each gets the next source port of a range, and the
 * port's complement as the first two octets of the payload, so that the checksum stays correct.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOURCE_PORT 34
#define BALANCE 42

const volatile __u32 ifindex = 0;
const volatile __u32 first_port = 0;
const volatile __u32 ports = 0;

/* Not atomic: one run at a time uses the program. */
__u32 next = 0;

SEC("xdp")
int heddle_pktgen(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;
	__u32 n = next;
	__u16 port;

	if (data + BALANCE + 2 > end)
		return XDP_ABORTED;
	next = n + 1 < ports ? n + 1 : 0;
	port = bpf_htons(first_port + n);
	*(__u16 *)(data + SOURCE_PORT) = port;
	*(__u16 *)(data + BALANCE) = ~port;
	return bpf_redirect(ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
