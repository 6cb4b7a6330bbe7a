/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From bytes to what they mean. Python twin: oracle/parse.py.
 *
 * Each function returns a drop reason, DROP_NONE when all is well. Whether a bad packet is ours to drop is decided
 * later, so the addresses are read first, and nothing is believed about a length before it was compared with the frame.
 */
#ifndef ASYNCLB_PARSE_H
#define ASYNCLB_PARSE_H

#include "packet.h"

#define ETHERNET_BYTES 14
#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_VLAN 0x8100
#define TYPE_IPV6 0x86dd
#define TYPE_QINQ 0x88a8

/* Source: IANA protocol-numbers. */
#define IP_HOPOPT 0
#define IP_ICMP 1
#define IP_TCP 6
#define IP_UDP 17
#define IP_DCCP 33
#define IP_ROUTING 43
#define IP_FRAGMENT 44
#define IP_GRE 47
#define IP_ESP 50
#define IP_AH 51
#define IP_ICMPV6 58
#define IP_DSTOPTS 60
#define IP_SCTP 132
#define IP_MOBILITY 135
#define IP_UDPLITE 136
#define IP_HIP 139
#define IP_SHIM6 140

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define WHOLE 0 /* not a fragment */
#define FIRST 1
#define LATER 2

#define FORM_PLAIN 0
#define FORM_ERROR 1 /* an ICMP error that quotes a packet */
#define FORM_LINK 2  /* neighbour discovery, multicast listeners: never leaves a link */

#define NEIGHBOUR_SOLICITATION 135
#define NEIGHBOUR_ADVERTISEMENT 136

struct network {
	struct address source, destination;
	u32 l3, l4, end; /* offsets in the frame; end is that of the packet, which may be before the frame's */
	u32 fragment_id;
	u8 version; /* 0 until the addresses are read */
	u8 protocol;
	u8 fragment;
};

struct parsed {
	struct network net, quoted;
	struct key key, inner; /* kind 0, ends as on the wire */
	u32 ack;
	u16 type; /* of the frame's payload */
	u8 tcp_flags;
	u8 form;
	u8 icmp_type;
};

/* Follows the link header and at most two VLAN tags. Python twin: parse_link. */
INLINE u32 parse_link(struct packet *p, struct parsed *out)
{
	const u8 *h = at(p, 0, ETHERNET_BYTES);
	u32 offset = ETHERNET_BYTES;

	if (!h)
		return DROP_TRUNCATED;
	out->type = load_be16(h + 12);
	UNROLL
	for (u32 i = 0; i < VLAN_TAGS; i++) {
		if (out->type != TYPE_VLAN && out->type != TYPE_QINQ)
			break;
		h = at(p, offset, 4);
		if (!h)
			return DROP_TRUNCATED;
		out->type = load_be16(h + 2);
		offset += 4;
	}
	out->net.l3 = offset;
	return DROP_NONE;
}

/* Reads an IPv4 header; of a quoted packet only the header itself must be there. Python twin: parse_ipv4. */
INLINE u32 parse_ipv4(struct packet *p, struct network *net, u32 limit, int quoted)
{
	const u8 *h = at(p, net->l3, 20);
	u32 header, total, fragment;

	if (!h || limit - net->l3 < 20)
		return DROP_TRUNCATED;
	net->source = address4(h + 12);
	net->destination = address4(h + 16);
	net->version = 4;
	header = (h[0] & 15u) * 4;
	total = load_be16(h + 2);
	if (h[0] >> 4 != 4 || header < 20 || total < header)
		return DROP_BAD_HEADER;
	if (limit - net->l3 < (quoted ? header : total))
		return DROP_TRUNCATED;
	net->l4 = net->l3 + header;
	net->end = limit - net->l3 < total ? limit : net->l3 + total;
	net->protocol = h[9];
	net->fragment_id = load_be16(h + 4);
	fragment = load_be16(h + 6);
	net->fragment = fragment & 0x1fff ? LATER : fragment & 0x2000 ? FIRST : WHOLE;
	return DROP_NONE;
}

INLINE int is_extension(u32 protocol)
{
	return protocol == IP_HOPOPT || protocol == IP_ROUTING || protocol == IP_FRAGMENT || protocol == IP_DSTOPTS ||
	       protocol == IP_MOBILITY || protocol == IP_HIP || protocol == IP_SHIM6;
}

/* Follows at most EXTENSION_HEADERS headers; behind a fragment header that is not the first there is none.
 * AH is not followed: it is a protocol of its own here, as what it covers cannot be rewritten.
 * Python twin: parse_extensions.
 */
INLINE u32 parse_extensions(struct packet *p, struct network *net)
{
	UNROLL
	for (u32 i = 0; i < EXTENSION_HEADERS; i++) {
		const u8 *h;
		u32 size = 8, fragment;

		if (!is_extension(net->protocol))
			return DROP_NONE;
		h = at(p, net->l4, 8);
		if (!h || net->end - net->l4 < 8)
			return DROP_TRUNCATED;
		if (net->protocol == IP_FRAGMENT) {
			fragment = load_be16(h + 2);
			net->fragment_id = load_be32(h + 4);
			net->fragment = fragment & 0xfff8 ? LATER : fragment & 1 ? FIRST : net->fragment;
		} else {
			size = (h[1] + 1u) * 8;
		}
		if (net->end - net->l4 < size)
			return DROP_TRUNCATED;
		net->protocol = h[0];
		net->l4 += size;
		if (net->fragment == LATER)
			return DROP_NONE;
	}
	return is_extension(net->protocol) ? DROP_EXTENSION_HEADERS : DROP_NONE;
}

/* Reads an IPv6 header and what stands before the transport. Python twin: parse_ipv6. */
INLINE u32 parse_ipv6(struct packet *p, struct network *net, u32 limit, int quoted)
{
	const u8 *h = at(p, net->l3, 40);
	u32 payload;

	if (!h || limit - net->l3 < 40)
		return DROP_TRUNCATED;
	net->source = address6(h + 8);
	net->destination = address6(h + 24);
	net->version = 6;
	payload = load_be16(h + 4);
	if (h[0] >> 4 != 6)
		return DROP_BAD_HEADER;
	net->l4 = net->l3 + 40;
	if (limit - net->l4 < payload && !quoted)
		return DROP_TRUNCATED;
	net->end = limit - net->l4 < payload ? limit : net->l4 + payload;
	net->protocol = h[6];
	return parse_extensions(p, net);
}

/* How many bytes of a transport header must be there. Python twin: TRANSPORT_BYTES. */
INLINE u32 transport_bytes(u32 protocol)
{
	switch (protocol) {
	case IP_TCP:
		return 20;
	case IP_SCTP:
	case IP_DCCP:
	case IP_AH:
		return 12;
	case IP_UDP:
	case IP_UDPLITE:
	case IP_ICMP:
	case IP_ICMPV6:
	case IP_ESP:
		return 8;
	case IP_GRE:
		return 4;
	default:
		return 0;
	}
}

INLINE int has_ports(u32 protocol)
{
	return protocol == IP_TCP || protocol == IP_UDP || protocol == IP_SCTP || protocol == IP_DCCP ||
	       protocol == IP_UDPLITE;
}

/* The identifier of an echo or timestamp stands for the port of the end that asked. Python twin: icmp_ports. */
INLINE void icmp_ports(const u8 *h, u32 version, struct key *key)
{
	u32 type = h[0], id = load_be16(h + 4);

	if (version == 4 ? type == 8 || type == 13 : type == 128)
		key->source_port = (u16)id;
	if (version == 4 ? type == 0 || type == 14 : type == 129)
		key->destination_port = (u16)id;
}

INLINE int icmp_form(u32 type, u32 version)
{
	if (version == 4)
		return type == 3 || type == 4 || type == 11 || type == 12 ? FORM_ERROR : FORM_PLAIN;
	if (type >= 1 && type <= 4)
		return FORM_ERROR;
	return (type >= 130 && type <= 137) || type == 143 ? FORM_LINK : FORM_PLAIN;
}

INLINE int is_icmp(const struct network *net)
{
	return net->version == 4 ? net->protocol == IP_ICMP : net->protocol == IP_ICMPV6;
}

/* Makes the key of a packet; of a quoted one the first 8 bytes of transport suffice. Python twin: parse_key. */
INLINE u32 parse_key(struct packet *p, const struct network *net, struct key *key, int quoted)
{
	u32 need = transport_bytes(net->protocol);
	const u8 *h;

	key->source = net->source;
	key->destination = net->destination;
	key->protocol = net->protocol;
	if (net->fragment == LATER || !need)
		return DROP_NONE;
	if (quoted && need > 8)
		need = 8;
	h = at(p, net->l4, need);
	if (!h || net->end - net->l4 < need)
		return net->fragment == FIRST ? DROP_FRAGMENT_TINY : DROP_TRUNCATED;
	if (has_ports(net->protocol)) {
		key->source_port = load_be16(h);
		key->destination_port = load_be16(h + 2);
	} else if (is_icmp(net) && need >= 8) {
		icmp_ports(h, net->version, key);
	}
	return DROP_NONE;
}

/* Checks what TCP and UDP say of their own length, and reads the rest of TCP. Python twin: parse_transport. */
INLINE u32 parse_transport(struct packet *p, struct parsed *out)
{
	const struct network *net = &out->net;
	const u8 *h;

	if (net->fragment == LATER)
		return DROP_NONE;
	if (net->protocol == IP_TCP && (h = at(p, net->l4, 20))) {
		out->tcp_flags = h[13];
		out->ack = load_be32(h + 8);
		if (h[12] >> 4 < 5)
			return DROP_BAD_HEADER;
		if (net->fragment == WHOLE && (h[12] >> 4) * 4u > net->end - net->l4)
			return DROP_BAD_HEADER;
	}
	if (net->protocol == IP_UDP && (h = at(p, net->l4, 8))) {
		u32 size = load_be16(h + 4);

		if (size < 8 || (net->fragment == WHOLE && size > net->end - net->l4))
			return DROP_BAD_HEADER;
	}
	if (is_icmp(net) && (h = at(p, net->l4, 8))) {
		out->icmp_type = h[0];
		out->form = (u8)icmp_form(h[0], net->version);
	}
	return DROP_NONE;
}

/* Reads the packet that an ICMP error quotes. Python twin: parse_quote. */
INLINE u32 parse_quote(struct packet *p, struct parsed *out)
{
	struct network *quoted = &out->quoted;
	u32 reason;

	if (out->net.fragment != WHOLE)
		return DROP_QUOTE_UNREADABLE;
	quoted->l3 = out->net.l4 + 8;
	reason = out->net.version == 4 ? parse_ipv4(p, quoted, out->net.end, 1)
				       : parse_ipv6(p, quoted, out->net.end, 1);
	if (!reason)
		reason = parse_key(p, quoted, &out->inner, 1);
	if (reason || quoted->fragment == LATER)
		return DROP_QUOTE_UNREADABLE;
	/* an IPv4 address in an IPv6 header would name a flow of IPv4 */
	if (quoted->version == 6 && (is_mapped(&quoted->source) || is_mapped(&quoted->destination)))
		return DROP_QUOTE_UNREADABLE;
	return DROP_NONE;
}

INLINE int is_first_syn(const struct parsed *in)
{
	return in->net.protocol == IP_TCP && (in->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Parses a frame that parse_link found to be IP. Python twin: parse_packet. */
STEP u32 parse_packet(struct packet *p, struct parsed *out)
{
	u32 reason;

	OWN(p);
	GIVEN(out);
	reason = out->type == TYPE_IPV4 ? parse_ipv4(p, &out->net, p->length, 0)
					: parse_ipv6(p, &out->net, p->length, 0);

	if (!reason)
		reason = parse_key(p, &out->net, &out->key, 0);
	if (!reason)
		reason = parse_transport(p, out);
	if (!reason && out->form == FORM_ERROR)
		reason = parse_quote(p, out);
	return reason;
}

#endif
