/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The program on the node's NIC. It redirects heddle's packets to the AF_XDP socket of their receive queue, and passes all
 * others to the kernel. If the queue has no socket, heddle's packets are dropped: the kernel would answer them with a reset.
 *
 * The maps decide. `src/uplink/steering.rs` fills them, and `src/uplink/model.rs` contains the same decision in Rust, which a
 * test compares with this program. Both must change together.
 *
 * A packet is heddle's if its destination is a pod of this node, or if another node sent it to an address of its own: it
 * forwards connections to this node. Otherwise it must be parsable and not multicast, and
 * - come to an address of this node: tunnel packets, node ports, replies to masqueraded connections, packets from pods of
 *   nodes that are routed directly, ICMP errors about packets that heddle sent, or
 * - come to a frontend, or be an ICMP error about a packet of a frontend, or
 * - be a later fragment of a datagram whose first fragment was heddle's.
 * Tagged frames (VLAN) are passed.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The most extension headers of an IPv6 packet, the fragment header included. */
#define EXTENSIONS 4
/* The bits of `struct address`, which a look-up in an LPM map compares as a whole. */
#define ADDRESS_BITS 160
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define IP6_MF 1
#define IP6_OFFSET 0xfff8
#define ICMP_HEADER 8

/* An address of either family. An IPv4 address is in the first word; the other words are zero. */
struct address {
	__u32 family; /* 4 or 6, in the order of the machine */
	__u32 words[4];
};

struct network {
	__u32 bits; /* of the address, the family's 32 included */
	struct address address;
};

struct frontend {
	struct address address; /* unspecified: every address of this node */
	__u8 proto;
	__u8 zero;
	__be16 port;
};

/* A node that forwards connections without a tunnel: an address of its own, and its Ethernet address. */
struct forwarder {
	struct address address;
	__u8 mac[ETH_ALEN];
	__u8 zero[2];
};

struct datagram {
	struct address src;
	struct address dst;
	__u32 id;
	__u32 proto; /* zero for IPv6 (RFC 8200 section 4.5) */
};

/* Eight octets, so that the kernel replaces all fields at once. */
struct config {
	__u16 tunnel_port; /* zero: none */
	__u16 first_port;  /* of the masquerade's range; zero: none */
	__u16 last_port;
	__u16 zero;
};

/* The sizes are set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, __u8);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct frontend);
	__type(value, __u8);
} frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct network);
	__type(value, __u8);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct network);
	__type(value, __u8);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct forwarder);
	__type(value, __u8);
} forwarders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct datagram);
	__type(value, __u8);
} fragments SEC(".maps");

/* Packets passed (0) and steered (1). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

enum fragment {
	WHOLE,
	FIRST,
	LATER,
};

struct packet {
	struct address src;
	struct address dst;
	__u32 l4;  /* offset of the transport header */
	__u32 end; /* offset of the packet's end */
	__u32 id;
	__u32 fragment;
	__u32 proto;
};

struct ports {
	__be16 src;
	__be16 dst;
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

struct extension {
	__u8 next;
	__u8 len; /* in units of 8 octets, the first one not counted */
	__be16 offset;
	__u32 id;
};

static __always_inline int is_pod(const struct address *address)
{
	struct network key = { .bits = ADDRESS_BITS, .address = *address };

	return bpf_map_lookup_elem(&pods, &key) != NULL;
}

static __always_inline int is_peer(const struct address *address)
{
	struct network key = { .bits = ADDRESS_BITS, .address = *address };

	return bpf_map_lookup_elem(&peers, &key) != NULL;
}

/* Returns true if the packet goes to an address of the node that sent it. No node's kernel sends such a packet. */
static __always_inline int is_forwarded(const struct address *dst, const __u8 *source)
{
	struct forwarder key = { .address = *dst };

	__builtin_memcpy(key.mac, source, ETH_ALEN);
	return bpf_map_lookup_elem(&forwarders, &key) != NULL;
}

static __always_inline int is_frontend(const struct address *address, __u8 proto, __be16 port)
{
	struct frontend key = { .address = *address, .proto = proto, .port = port };

	return bpf_map_lookup_elem(&frontends, &key) != NULL;
}

/* Looks up a port of every address of this node. */
static __always_inline int is_node_port(__u32 family, __u8 proto, __be16 port)
{
	struct frontend key = { .address.family = family, .proto = proto, .port = port };

	return bpf_map_lookup_elem(&frontends, &key) != NULL;
}

static __always_inline int is_masqueraded(const struct config *settings, __be16 port)
{
	__u16 number = bpf_ntohs(port);

	return settings->first_port && number >= settings->first_port && number <= settings->last_port;
}

/* Returns true if the address can be a host's: not unspecified, multicast or broadcast. */
static __always_inline int is_unicast(const struct address *address)
{
	__u8 first = *(const __u8 *)address->words;

	if (!(address->words[0] | address->words[1] | address->words[2] | address->words[3]))
		return 0;
	return address->family == 4 ? first < 224 : first != 255;
}

/* Reads `len` octets that must be inside of the packet. */
static __always_inline int load(struct xdp_md *ctx, const struct packet *packet, void *to, __u32 len)
{
	if (packet->l4 + len > packet->end)
		return -1;
	return bpf_xdp_load_bytes(ctx, packet->l4, to, len);
}

static __always_inline int load_v4(struct xdp_md *ctx, __u32 at, struct packet *packet, struct iphdr *ip)
{
	if (bpf_xdp_load_bytes(ctx, at, ip, sizeof(*ip)) || ip->version != 4)
		return -1;
	packet->src.family = 4;
	packet->src.words[0] = ip->saddr;
	packet->dst.family = 4;
	packet->dst.words[0] = ip->daddr;
	return 0;
}

static __always_inline int load_v6(struct xdp_md *ctx, __u32 at, struct packet *packet, struct ipv6hdr *ip)
{
	if (bpf_xdp_load_bytes(ctx, at, ip, sizeof(*ip)) || ip->version != 6)
		return -1;
	packet->src.family = 6;
	__builtin_memcpy(packet->src.words, &ip->saddr, 16);
	packet->dst.family = 6;
	__builtin_memcpy(packet->dst.words, &ip->daddr, 16);
	return 0;
}

/*
 * Finds the transport header of an IPv4 packet. A quoted packet is cut short, and ends at `quote_end` whatever its length
 * field contains. `quote_end` is zero for a packet that is not quoted.
 */
static __always_inline int parse_v4(__u32 at, __u32 quote_end, const struct iphdr *ip, struct packet *packet)
{
	__u32 header = ip->ihl * 4;
	__u32 total = bpf_ntohs(ip->tot_len);
	__u16 offset = bpf_ntohs(ip->frag_off);

	if (header < sizeof(*ip) || (!quote_end && total < header))
		return -1;
	packet->l4 = at + header;
	packet->end = quote_end ? quote_end : at + total;
	packet->id = ip->id;
	packet->proto = ip->protocol;
	packet->fragment = offset & IP_OFFSET ? LATER : offset & IP_MF ? FIRST : WHOLE;
	return 0;
}

/* Finds the transport header of an IPv6 packet, behind extension headers; `quote_end` as for IPv4. */
static __always_inline int parse_v6(struct xdp_md *ctx, __u32 at, __u32 quote_end, const struct ipv6hdr *ip,
				    struct packet *packet)
{
	__u8 next = ip->nexthdr;
	__u32 fragmented = 0;
	int i;

	packet->l4 = at + sizeof(*ip);
	packet->end = quote_end ? quote_end : packet->l4 + bpf_ntohs(ip->payload_len);
	packet->fragment = WHOLE;
	for (i = 0; i <= EXTENSIONS; i++) {
		struct extension header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT) {
			packet->proto = next;
			return 0;
		}
		if (i == EXTENSIONS || load(ctx, packet, &header, sizeof(header)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			__u16 offset = bpf_ntohs(header.offset);

			if (fragmented)
				return -1;
			fragmented = 1;
			packet->l4 += sizeof(header);
			packet->id = header.id;
			packet->fragment = offset & IP6_OFFSET ? LATER : offset & IP6_MF ? FIRST : WHOLE;
			if (packet->fragment == LATER) {
				packet->proto = header.next;
				return 0;
			}
		} else {
			packet->l4 += (header.len + 1) * 8;
		}
		next = header.next;
	}
	return -1;
}

static __always_inline int has_ports(__u32 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static __always_inline int is_icmp(const struct packet *packet)
{
	return packet->proto == (packet->dst.family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* Returns true for the errors that concern a connection (RFC 792, RFC 4443 section 2.1). */
static __always_inline int is_icmp_error(__u32 family, __u8 type)
{
	return family == 4 ? type == 3 || type == 11 || type == 12 : type >= 1 && type <= 4;
}

/* Decides about an ICMP error by the packet that it quotes. `own`: the error came to an address of this node. */
static __noinline int steer_error(struct xdp_md *ctx, const struct packet *error, const struct config *settings, int own)
{
	struct packet quoted = {};
	__u32 at = error->l4 + ICMP_HEADER;
	struct ports ports;
	int sender;

	if (error->dst.family == 4) {
		struct iphdr ip;

		if (at + sizeof(ip) > error->end || load_v4(ctx, at, &quoted, &ip))
			return 0;
		if (own && is_pod(&quoted.src))
			return 1;
		if (parse_v4(at, error->end, &ip, &quoted))
			return 0;
	} else {
		struct ipv6hdr ip;

		if (at + sizeof(ip) > error->end || load_v6(ctx, at, &quoted, &ip))
			return 0;
		if (own && is_pod(&quoted.src))
			return 1;
		if (parse_v6(ctx, at, error->end, &ip, &quoted))
			return 0;
	}
	if (quoted.fragment == LATER)
		return 0;
	sender = own && bpf_map_lookup_elem(&addresses, &quoted.src) != NULL;
	if (has_ports(quoted.proto)) {
		if (load(ctx, &quoted, &ports, sizeof(ports)))
			return 0;
		if (sender && quoted.proto == IPPROTO_UDP && settings->tunnel_port &&
		    bpf_ntohs(ports.dst) == settings->tunnel_port)
			return 1;
		if (sender && (is_masqueraded(settings, ports.src) ||
			       is_node_port(quoted.src.family, quoted.proto, ports.src)))
			return 1;
		return is_unicast(&quoted.src) && is_frontend(&quoted.src, quoted.proto, ports.src);
	}
	if (sender && is_icmp(&quoted)) {
		struct icmp icmp;

		return !load(ctx, &quoted, &icmp, sizeof(icmp)) &&
		       icmp.type == (quoted.src.family == 4 ? 8 : 128) && is_masqueraded(settings, icmp.id);
	}
	return 0;
}

/* Decides about a packet that contains the transport header. */
static __always_inline int steer_transport(struct xdp_md *ctx, const struct packet *packet,
					   const struct config *settings, int own)
{
	if (has_ports(packet->proto)) {
		struct ports ports;

		if (load(ctx, packet, &ports, sizeof(ports)))
			return 0;
		if (own && packet->proto == IPPROTO_UDP && settings->tunnel_port &&
		    bpf_ntohs(ports.dst) == settings->tunnel_port)
			return 1;
		if (own && (is_masqueraded(settings, ports.dst) ||
			    is_node_port(packet->dst.family, packet->proto, ports.dst)))
			return 1;
		return is_frontend(&packet->dst, packet->proto, ports.dst);
	}
	if (is_icmp(packet)) {
		struct icmp icmp;

		if (load(ctx, packet, &icmp, sizeof(icmp)))
			return 0;
		if (icmp.type == (packet->dst.family == 4 ? 0 : 129))
			return own && is_masqueraded(settings, icmp.id);
		if (is_icmp_error(packet->dst.family, icmp.type))
			return steer_error(ctx, packet, settings, own);
	}
	return 0;
}

/* Returns true if the packet is heddle's. */
static __always_inline int steer(struct xdp_md *ctx)
{
	const __u32 zero = 0;
	const __u32 at = ETH_HLEN;
	struct packet packet = {};
	struct ethhdr ethernet;
	struct config *settings;
	struct datagram key;
	int own, ours;

	/* Destinations before anything else is parsed: a malformed packet for a pod is heddle's to drop. */
	if (bpf_xdp_load_bytes(ctx, 0, &ethernet, sizeof(ethernet)) || ethernet.h_dest[0] & 1)
		return 0;
	if (ethernet.h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (load_v4(ctx, at, &packet, &ip) || !is_unicast(&packet.dst))
			return 0;
		if (is_pod(&packet.dst) || is_forwarded(&packet.dst, ethernet.h_source))
			return 1;
		if (parse_v4(at, 0, &ip, &packet))
			return 0;
	} else if (ethernet.h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (load_v6(ctx, at, &packet, &ip) || !is_unicast(&packet.dst))
			return 0;
		if (is_pod(&packet.dst) || is_forwarded(&packet.dst, ethernet.h_source))
			return 1;
		if (parse_v6(ctx, at, 0, &ip, &packet))
			return 0;
	} else {
		return 0;
	}
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings)
		return 0;
	own = bpf_map_lookup_elem(&addresses, &packet.dst) != NULL;
	ours = own && is_peer(&packet.src);
	if (packet.fragment == WHOLE)
		return ours || steer_transport(ctx, &packet, settings, own);

	/* Later fragments follow the first one, which is recorded. */
	key.src = packet.src;
	key.dst = packet.dst;
	key.id = packet.id;
	key.proto = packet.dst.family == 4 ? packet.proto : 0;
	if (packet.fragment == LATER)
		return ours || bpf_map_lookup_elem(&fragments, &key) != NULL;
	ours = ours || steer_transport(ctx, &packet, settings, own);
	if (ours) {
		const __u8 one = 1;

		bpf_map_update_elem(&fragments, &key, &one, BPF_ANY);
	} else {
		/* The identification may be that of an older datagram of heddle's. */
		bpf_map_delete_elem(&fragments, &key);
	}
	return ours;
}

SEC("xdp.frags")
int heddle_uplink(struct xdp_md *ctx)
{
	__u32 ours = steer(ctx) ? 1 : 0;
	__u64 *counter = bpf_map_lookup_elem(&counters, &ours);

	if (counter)
		(*counter)++;
	return ours ? bpf_redirect_map(&queues, ctx->rx_queue_index, XDP_DROP) : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
