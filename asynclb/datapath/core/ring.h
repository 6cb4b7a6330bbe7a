/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Frames in and out of mapped AF_PACKET rings (TPACKET_V2), with struct virtio_net_hdr before each.
 *
 * The kernel takes a VLAN tag off before a tap sees the frame; it is put back when the frame leaves.
 *
 * Source: Documentation/networking/packet_mmap.rst; net/packet/af_packet.c (tpacket_rcv, tpacket_fill_skb).
 */
#ifndef ASYNCLB_RING_H
#define ASYNCLB_RING_H

#include "process.h"

#define FRAME_KERNEL 0
#define FRAME_USER 1
#define FRAME_REQUEST 1
#define FRAME_SENDING 2
#define FRAME_VLAN (1 << 4)
#define FRAME_TPID (1 << 6)
#define FRAME_DATA 32  /* where a transmit frame's bytes begin: TPACKET2_HDRLEN - sizeof(struct sockaddr_ll) */
#define FRAME_PKTTYPE 42 /* sll_pkttype, behind the aligned header */
#define PKT_OTHERHOST 3 /* this and PKT_OUTGOING are not for us */

/* struct tpacket2_hdr */
struct ring_frame {
	u32 status, length, snapped;
	u16 mac, net;
	u64 note; /* the kernel's time of arrival; in a frame that leaves ours, that of struct packet */
	u16 tci, tpid;
	u8 padding[4];
};

_Static_assert(sizeof(struct ring_frame) == FRAME_DATA, "struct tpacket2_hdr");

struct virtio_header {
	u8 flags, gso_type;
	u16 header_bytes, gso_bytes, csum_start, csum_offset;
};

_Static_assert(sizeof(struct virtio_header) == VNET_BYTES, "struct virtio_net_hdr");

/* struct iovec */
struct io_vector {
	u64 base, length;
};

/* struct mmsghdr on 64-bit Linux. Python twin: packet/ring.py, _MMSGHDR. */
struct message {
	u64 name;
	u32 name_bytes, padding;
	u64 vectors, vector_count, control, control_bytes;
	u32 flags, padding2, sent;
	u32 note; /* ours: the kernel leaves this padding alone */
};

_Static_assert(sizeof(struct message) == 64, "struct mmsghdr");

#define CONTROL_BYTES 24 /* one control message that holds a number: CMSG_SPACE(4) */

#define VIRTIO_NEEDS_CSUM 1

#define CELL_BYTES 128 /* holds the smallest frames, and begins where a line of memory does */
#define BATCH_BYTES (4u << 20) /* what one call receives: 64 of the largest frames, which take about a millisecond */

typedef u64 word16 __attribute__((vector_size(16), aligned(1), may_alias));

/* Copies in steps of 16 bytes; what is behind the end of a frame is still in its slot. */
INLINE void copy_bytes(u8 *to, const u8 *from, u32 size)
{
	u32 i = 0;

	for (; i + 16 <= size; i += 16)
		*(word16 *)(to + i) = *(const word16 *)(from + i);
	for (; i < size; i++)
		to[i] = from[i];
}

INLINE struct ring_frame *ring_at(u64 ring, u32 index, u32 frame_size)
{
	return POINTER(struct ring_frame, ring + (u64)index * frame_size);
}

INLINE struct egress *egress_find(struct core_memory *core, u32 ifindex, u32 *index)
{
	for (u32 i = 0; i < EGRESSES; i++) {
		*index = i;
		if (core->egresses[i].used && core->egresses[i].ifindex == ifindex)
			return &core->egresses[i];
	}
	return 0;
}

/* In a buffer frames stand one behind the other, each in as many cells as it needs, from the first on when all that were
 * there have been collected.
 */
INLINE int is_buffer(const struct egress *egress)
{
	return !egress->frame_size;
}

INLINE struct ring_frame *egress_at(const struct egress *egress, u32 index)
{
	return ring_at(egress->ring, index, is_buffer(egress) ? CELL_BYTES : egress->frame_size);
}

/* Returns where in its egress a frame with so many bytes behind the header goes, or 0 when there is no room. */
INLINE struct ring_frame *egress_room(const struct egress *egress, u32 length)
{
	struct ring_frame *frame = egress_at(egress, egress->head);

	if (is_buffer(egress))
		return egress->head * CELL_BYTES + FRAME_DATA + length <= egress->frame_count ? frame : 0;
	return __atomic_load_n(&frame->status, __ATOMIC_ACQUIRE) & (FRAME_REQUEST | FRAME_SENDING) ? 0 : frame;
}

/* Returns the place behind a frame. */
INLINE u32 egress_behind(const struct egress *egress, u32 index, u32 length)
{
	if (is_buffer(egress))
		return index + (FRAME_DATA + length + CELL_BYTES - 1) / CELL_BYTES;
	return index + 1 == egress->frame_count ? 0 : index + 1;
}

/* Puts a frame into its egress ring; returns a drop reason. `vlan` is a tag with its TPID above, or NONE. */
static u32 ring_send(struct core_memory *core, const struct packet *p, const struct virtio_header *virtio, u32 vlan,
		     u32 ifindex, u64 *dirty)
{
	u32 index, length, tag = vlan == NONE ? 0 : 4, offset = FRAME_DATA;
	struct egress *egress = egress_find(core, ifindex, &index);
	struct ring_frame *frame;
	u8 *to;

	if (!egress)
		return DROP_NO_EGRESS;
	if (!egress->vnet_bytes && virtio->flags & VIRTIO_NEEDS_CSUM)
		return DROP_NO_EGRESS;
	length = p->length + tag + egress->vnet_bytes;
	if (p->length < 12 || (!is_buffer(egress) && length > egress->frame_size - FRAME_DATA))
		return DROP_TOO_BIG;
	frame = egress_room(egress, length);
	if (!frame)
		return DROP_EGRESS_FULL;
	if (egress->vnet_bytes) {
		struct virtio_header *out = (void *)((u8 *)frame + offset);

		*out = *virtio;
		if (tag && virtio->flags & VIRTIO_NEEDS_CSUM)
			out->csum_start = (u16)(out->csum_start + tag);
		if (tag && virtio->gso_type)
			out->header_bytes = (u16)(out->header_bytes + tag);
		offset += VNET_BYTES;
	}
	to = (u8 *)frame + offset;
	if (tag) {
		copy_bytes(to, p->data, 12);
		store_be16(to + 12, (u16)(vlan >> 16));
		store_be16(to + 14, (u16)vlan);
		copy_bytes(to + 16, p->data + 12, p->length - 12);
	} else {
		copy_bytes(to, p->data, p->length);
	}
	frame->length = length;
	frame->note = p->note;
	__atomic_store_n(&frame->status, FRAME_REQUEST, __ATOMIC_RELEASE);
	egress->head = egress_behind(egress, egress->head, length);
	*dirty |= 1ull << index;
	return DROP_NONE;
}

#endif
