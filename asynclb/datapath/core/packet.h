/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A frame in memory, and the only ways to touch it. Python twin: oracle/wire.py works on a bytearray. */
#ifndef ASYNCLB_PACKET_H
#define ASYNCLB_PACKET_H

#include "types.h"

#include "layout.h" /* written by layout.py, after the words that it uses */

/* BPF decides on a copy of what the headers can be: a packet's own memory may not be reached at a computed offset. */
#define COPY_BYTES 512 /* a power of two, above the 302 of an ICMP error about the longest headers of IPv4 */
#define COPY_SLACK 64  /* above what is touched at once */

struct packet {
#ifdef __bpf__
	u8 data[COPY_BYTES + COPY_SLACK] __attribute__((aligned(8)));
#else
	u8 *data;
#endif
	u32 length;
	u32 ifindex;
	u32 csum_start;  /* where a checksum is still partial, from the start of the frame; NONE: nowhere */
	u32 csum_offset; /* of the field, from csum_start */
	u32 asked;	 /* a question: who would get it? Nothing is sent, kept or counted */
	u32 segmented;   /* payload of each segment that the kernel cuts it into before it leaves; 0: it is whole */
#ifdef __bpf__
	u32 place;	      /* of this memory among this processor's */
	u32 copied;	      /* how much of the frame is in `data` */
	u32 deferred;	      /* the transport's checksum is changed by the kernel's helper, and by these differences */
	u32 front;	      /* bytes that a message of our own has before the packet that it quotes; 0: it is none */
	u32 turned;	      /* a message of our own, which leaves as its cause came */
	u32 addresses, ports; /* what of them the pseudo-header covers, and what it does not */
#else
	u64 note; /* under which hash the guard is known to have been shown its flow (note.h); 0: nobody has said */
#endif
};

#ifdef __bpf__
INLINE void *own_memory(const void *memory); /* begins with a struct packet; maps_bpf.h */
#endif

/* Returns the bytes [offset, offset + size) of the frame, or 0 when it does not have them. */
INLINE u8 *at(struct packet *p, u32 offset, u32 size)
{
#ifdef __bpf__
	if (offset > p->copied || size > p->copied - offset)
		return 0;
	return p->data + bound(offset, COPY_BYTES - 1);
#else
	if (offset > p->length || size > p->length - offset)
		return 0;
	return p->data + offset;
#endif
}

INLINE u16 load_be16(const u8 *from)
{
	return (u16)(from[0] << 8 | from[1]);
}

INLINE u32 load_be32(const u8 *from)
{
	return (u32)load_be16(from) << 16 | load_be16(from + 2);
}

INLINE u64 load_be64(const u8 *from)
{
	return (u64)load_be32(from) << 32 | load_be32(from + 4);
}

INLINE void store_be16(u8 *to, u16 value)
{
	to[0] = (u8)(value >> 8);
	to[1] = (u8)value;
}

INLINE void copy_link(u8 *to, const u8 *from)
{
	UNROLL
	for (u32 i = 0; i < 6; i++)
		to[i] = from[i];
}

INLINE int same_link(const u8 *one, const u8 *other)
{
	u32 differ = 0;

	UNROLL
	for (u32 i = 0; i < 6; i++)
		differ |= (u32)(one[i] ^ other[i]);
	return !differ;
}

#define MAPPED 0x0000ffff00000000ull /* ::ffff:0:0/96, the lower word of an IPv4 address */

INLINE struct address address4(const u8 *from)
{
	return (struct address){.high = 0, .low = MAPPED | load_be32(from)};
}

INLINE struct address address6(const u8 *from)
{
	return (struct address){.high = load_be64(from), .low = load_be64(from + 8)};
}

INLINE int is_mapped(const struct address *a)
{
	return a->high == 0 && a->low >> 32 == 0xffff;
}

INLINE int same_address(const struct address *one, const struct address *other)
{
	return one->high == other->high && one->low == other->low;
}

INLINE int address_above(const struct address *one, const struct address *other)
{
	return one->high > other->high || (one->high == other->high && one->low > other->low);
}

#endif
