/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What BPF programs need of the kernel's interface: maps in the form that libbpf reads, helpers by their numbers, and
 * the contexts of the two hooks. Nothing here is newer than Linux 5.15, but for what is asked about first.
 *
 * Source: include/uapi/linux/bpf.h.
 */
#ifndef ASYNCLB_BPF_H
#define ASYNCLB_BPF_H

#include "types.h"

#define SEC(name) __attribute__((section(name), used))

/* A map is declared as a struct whose members' types say what it is. */
#define MAP_NUMBER(name, number) int(*name)[number]
#define MAP_TYPE(name, type) type *name

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PROG_ARRAY 3
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_F_MMAPABLE (1u << 10)

#define BPF_ANY 0
#define BPF_NOEXIST 1

#define XDP_DROP 1
#define XDP_PASS 2
#define XDP_TX 3

/* With tcx and with clsact's direct action, "unspecified" lets the next program have the frame, and then the host. */
#define TC_NEXT (-1)
#define TC_DROP 2

#define PACKET_HOST 0 /* sent to our link address */
#define BPF_ADJ_ROOM_MAC 1
#define BPF_F_RECOMPUTE_CSUM 1u
#define BPF_F_PSEUDO_HDR (1u << 4)
#define BPF_F_MARK_MANGLED_0 (1u << 5)

struct xdp_md {
	u32 data, data_end, data_meta;
	u32 ingress_ifindex, rx_queue_index, egress_ifindex;
};

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol;
	u32 vlan_present, vlan_tci, vlan_proto;
	u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid;
	u32 data, data_end, napi_id, family;
	u32 remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	u32 data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, u32 offset, const void *from, u32 size,
					 u64 flags) = (void *)9;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*const bpf_tail_call)(void *context, void *map, u32 index) = (void *)12;
static long (*const bpf_redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const bpf_skb_load_bytes)(const struct __sk_buff *skb, u32 offset, void *to, u32 size) = (void *)26;
static s64 (*const bpf_csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) = (void *)28;
static long (*const bpf_skb_change_tail)(struct __sk_buff *skb, u32 length, u64 flags) = (void *)38;
static s64 (*const bpf_csum_update)(struct __sk_buff *skb, u32 sum) = (void *)40;
static long (*const bpf_skb_change_head)(struct __sk_buff *skb, u32 by, u64 flags) = (void *)43;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, int by, u32 mode, u64 flags) = (void *)50;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *frame, int by) = (void *)65;
static u64 (*const bpf_jiffies64)(void) = (void *)118;
static long (*const bpf_redirect_peer)(u32 ifindex, u64 flags) = (void *)155;
static u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)160;
static u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *frame) = (void *)188; /* Linux 5.18: settings.xdp_length */

#endif
