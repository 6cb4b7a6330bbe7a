/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Addresses and ports are replaced, checksums follow the difference. Python twin: oracle/rewrite.py.
 *
 * A checksum is never computed anew, so that a wrong one stays wrong and the receiver sees it. A field whose checksum
 * the device is yet to complete holds the sum of the pseudo-header alone: it follows addresses, not ports.
 *
 * Source: RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
 */
#ifndef ASYNCLB_REWRITE_H
#define ASYNCLB_REWRITE_H

#include "parse.h"

INLINE u32 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Replaces 16 bits and returns the difference that sums take notice of. */
INLINE u32 replace16(u8 *field, u16 value)
{
	u32 difference = (u32)(u16)~load_be16(field) + value;

	store_be16(field, value);
	return difference;
}

/* Applies a difference to a checksum and returns that of the field itself. */
INLINE u32 follow(u8 *field, u32 difference, int partial, int zero_is_none)
{
	u32 check = load_be16(field), sum;

	if (partial)
		return replace16(field, (u16)fold(check + fold(difference)));
	if (zero_is_none && !check)
		return 0;
	sum = fold((u16)~check + fold(difference)) ^ 0xffff;
	return replace16(field, (u16)(zero_is_none && !sum ? 0xffff : sum));
}

/* Where a transport's checksum that covers the pseudo-header stands, or 0. SCTP's CRC does not cover it. */
INLINE u32 checksum_offset(const struct network *net)
{
	switch (net->protocol) {
	case IP_TCP:
		return 16;
	case IP_UDP:
	case IP_UDPLITE:
	case IP_DCCP:
		return 6;
	case IP_ICMPV6:
		return net->version == 6 ? 2 : 0;
	default:
		return 0;
	}
}

/* Leaves the checksum of the packet itself to the kernel, which alone knows whether it is partial: tc. */
INLINE int defer(struct packet *p, const struct network *net, u32 difference, int ports)
{
#ifdef __bpf__
	if (!p->deferred || net->protocol == IP_ICMPV6 || net->l3 > ETHERNET_BYTES + 4 * VLAN_TAGS)
		return 0; /* ICMP's is never partial, and what an error quotes is bytes like others */
	if (ports)
		p->ports = fold(p->ports + fold(difference));
	else
		p->addresses = fold(p->addresses + fold(difference));
	return 1;
#else
	(void)p, (void)net, (void)difference, (void)ports;
	return 0;
#endif
}

/* Lets the transport's checksum follow; returns the difference that the field itself made. */
INLINE u32 follow_transport(struct packet *p, const struct network *net, u32 difference, int ports)
{
	u32 offset = checksum_offset(net);
	int partial = p->csum_start == net->l4 && p->csum_offset == offset;
	u8 *field;

	if (!offset || net->fragment == LATER || (partial && ports))
		return 0;
	field = at(p, net->l4 + offset, 2);
	if (!field || net->end - net->l4 < offset + 2)
		return 0;
	if (defer(p, net, difference, ports))
		return 0;
	return follow(field, difference, partial, net->protocol == IP_UDP);
}

/* Replaces an address; returns the difference that all changed fields made together, for an ICMP around them. */
STEP u32 set_address(struct packet *p, const struct network *net, u32 destination, const struct address *to)
{
	u32 size, difference = 0, all;
	u8 *h;

	OWN(p);
	GIVEN(net);
	GIVEN(to);
	size = net->version == 4 ? 4 : 16;
	h = at(p, net->l3 + (net->version == 4 ? 12u : 8u) + (destination ? size : 0), size);
	if (!h)
		return 0;
	if (net->version == 4) {
		difference += replace16(h, (u16)(to->low >> 16));
		difference += replace16(h + 2, (u16)to->low);
	} else {
		UNROLL
		for (u32 i = 0; i < 8; i++)
			difference += replace16(h + 2 * i, (u16)((i < 4 ? to->high : to->low) >> (48 - 16 * (i & 3))));
	}
	all = difference;
	if (net->version == 4 && (h = at(p, net->l3 + 10, 2)))
		all += follow(h, difference, 0, 0);
	return all + follow_transport(p, net, difference, 0);
}

/* Replaces a port of TCP or UDP where the fragment has it; returns the difference as set_address does. */
STEP u32 set_port(struct packet *p, const struct network *net, u32 destination, u32 to)
{
	u32 difference;
	u8 *h;

	OWN(p);
	GIVEN(net);
	if (net->fragment == LATER || (net->protocol != IP_TCP && net->protocol != IP_UDP))
		return 0;
	h = at(p, net->l4 + (destination ? 2u : 0u), 2);
	if (!h)
		return 0;
	difference = replace16(h, (u16)to);
	return difference + follow_transport(p, net, difference, 1);
}

/* Lets the checksum of ICMP follow what was changed behind it; a partial one is computed later over all of it. */
INLINE void follow_icmp(struct packet *p, const struct network *net, u32 difference)
{
	u8 *field = at(p, net->l4 + 2, 2);

	if (field && p->csum_start != net->l4)
		follow(field, difference, 0, 0);
}

INLINE void set_links(struct packet *p, const u8 *destination, const u8 *source)
{
	u8 *h = at(p, 0, 12);

	if (!h)
		return;
	copy_link(h, destination);
	copy_link(h + 6, source);
}

#endif
