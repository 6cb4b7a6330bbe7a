/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is said in the place of a packet, to whoever sent it: the reset of a connection that idled out, the answer to a
 * ping, "host unreachable". Python twin: oracle/reply.py.
 *
 * A reply is never longer than what it answers, so it is written over it, and one packet makes one at most. It leaves by
 * the link that the packet came by. `answer->length` is set when the frame gets shorter.
 *
 * Source: RFC 9293, 3.5.2, for resets; RFC 792 and RFC 4443 for the others.
 */
#ifndef ASYNCLB_REPLY_H
#define ASYNCLB_REPLY_H

#include "icmp.h"

#define TCP_BYTES 20
#define ECHO_REQUEST 8
#define ECHO_REQUEST6 128
#define HOST_UNREACHABLE 0x0301    /* destination unreachable, host */
#define ADDRESS_UNREACHABLE6 0x0103 /* destination unreachable, address */

/* Sends the frame back by the link that it came by. */
INLINE u32 turn_back(struct work *w)
{
	u8 *links = at(w->p, 0, 12);
	u8 swap;

	if (!links)
		return VERDICT_PASS;
	UNROLL
	for (u32 i = 0; i < 6; i++) {
		swap = links[i];
		links[i] = links[6 + i];
		links[6 + i] = swap;
	}
	w->answer->ifindex = w->p->ifindex;
#ifdef __bpf__
	w->p->turned = 1;
#endif
	return VERDICT_TX;
}

/* Lets the packet come from its destination, with a fresh hop limit. Sums over both addresses stay the same. */
INLINE int turn_addresses(struct packet *p, const struct network *net)
{
	u8 *h = at(p, net->l3, net->version == 4 ? 20 : 40);
	u32 difference;

	if (!h)
		return 0;
	if (net->version == 6) {
		h[7] = ICMP_TTL;
		store_address(h + 8, &net->destination, 6);
		store_address(h + 24, &net->source, 6);
		return 1;
	}
	difference = replace16(h + 8, (u16)(ICMP_TTL << 8 | h[9]));
	follow(h + 10, difference, 0, 0);
	store_address(h + 12, &net->destination, 4);
	store_address(h + 16, &net->source, 4);
	return 1;
}

/* Says how long the packet is from here on. */
INLINE void set_length(struct work *w, u8 *h, u32 transport)
{
	const struct network *net = &w->in.net;
	u32 difference;

	if (net->version == 6) {
		store_be16(h + 4, (u16)(net->l4 - net->l3 - 40 + transport));
	} else {
		difference = replace16(h + 2, (u16)(net->l4 - net->l3 + transport));
		follow(h + 10, difference, 0, 0);
	}
	w->p->length = w->answer->length = net->l4 + transport;
	w->p->segmented = 0;
	w->p->csum_start = NONE;
}

/* Writes the header of the reset that a segment asks for; returns the sum of what it wrote. */
INLINE u32 write_reset(struct work *w, u8 *h)
{
	const struct key *key = &w->in.key;
	u32 flags = w->in.tcp_flags, sequence = 0, ack = 0, words;

	if (flags & TCP_ACK) {
		sequence = w->in.ack;
		words = 0x5000 | TCP_RST;
	} else {
		ack = load_be32(h + 4) + (w->in.net.end - w->in.net.l4) - (h[12] >> 4) * 4u;
		ack += !!(flags & TCP_SYN) + !!(flags & TCP_FIN);
		words = 0x5000 | TCP_RST | TCP_ACK;
	}
	store_be16(h, key->destination_port);
	store_be16(h + 2, key->source_port);
	store_be32(h + 4, sequence);
	store_be32(h + 8, ack);
	store_be32(h + 12, words << 16);
	store_be32(h + 16, 0);
	return (u32)key->destination_port + key->source_port + sum32(sequence) + sum32(ack) + words;
}

INLINE u32 sum_address(const struct address *a, u32 version)
{
	u32 sum = sum32((u32)a->low);

	return version == 4 ? sum : sum + sum32((u32)(a->low >> 32)) + sum32((u32)a->high) + sum32((u32)(a->high >> 32));
}

/* Turns a segment into the reset that its sender accepts; 0 when there is none: a reset is not answered by another. */
STEP u32 reply_reset(struct work *w)
{
	const struct network *net;
	u32 pseudo;
	u8 *ip, *h;

	OWN(w);
	net = &w->in.net;
	if (w->in.form != FORM_PLAIN || net->fragment != WHOLE || net->protocol != IP_TCP || w->in.tcp_flags & TCP_RST)
		return 0;
	ip = at(w->p, net->l3, net->version == 4 ? 20 : 40);
	h = at(w->p, net->l4, TCP_BYTES);
	if (!ip || !h || !turn_addresses(w->p, net))
		return 0;
	pseudo = fold(sum_address(&net->source, net->version) + sum_address(&net->destination, net->version) + IP_TCP + TCP_BYTES);
	store_be16(h + 16, (u16)(fold(write_reset(w, h) + pseudo) ^ 0xffff));
	set_length(w, ip, TCP_BYTES);
#ifdef __bpf__
	w->p->addresses = pseudo; /* what the field has to hold where the device completes the sum */
#endif
	return turn_back(w);
}

/* Turns a ping into its answer. */
STEP u32 reply_echo(struct work *w)
{
	const struct network *net;
	u32 type;
	u8 *h;

	OWN(w);
	net = &w->in.net;
	h = at(w->p, net->l4, 8);
	if (!h || !turn_addresses(w->p, net))
		return 0;
	type = net->version == 4 ? 0 : ECHO_REQUEST6 + 1;
	follow_icmp(w->p, net, replace16(h, (u16)(type << 8 | h[1])));
	return turn_back(w);
}

/* Turns a ping into "host unreachable", which quotes its headers; 0 when that is longer than the ping. */
STEP u32 reply_unreachable(struct work *w)
{
	const struct network *net;
	struct address from;
	u32 quote;

	OWN(w);
	net = &w->in.net;
	quote = net->l4 - net->l3 + 8;
	from = net->destination;
	if (net->end - net->l3 < quote + (net->version == 4 ? 28u : 48u) || quote & 3)
		return 0;
	make_error(w->p, net, &from, net->version == 4 ? HOST_UNREACHABLE : ADDRESS_UNREACHABLE6, 0, quote);
	w->answer->length = w->p->length;
	return turn_back(w);
}

#endif
