/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who has this VIP? Questions about VIPs that the host does not own are turned into their answers, which leave as they
 * came: nobody else would answer, and this goes on when the process does not. Python twin: oracle/neighbour.py.
 *
 * Source: RFC 826 (ARP); RFC 4861 sections 4.3, 4.4, 7.1.1 and 7.2.4 (neighbour discovery).
 */
#ifndef ASYNCLB_NEIGHBOUR_H
#define ASYNCLB_NEIGHBOUR_H

#include "lookup.h"
#include "rewrite.h"

#define ARP_BYTES 28
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define NEIGHBOUR_HOPS 255 /* anything less was forwarded and is not believed */
#define NEIGHBOUR_BYTES 24
#define OPTION_SOURCE 1
#define OPTION_TARGET 2
#define ADVERTISED_SOLICITED 0x6000 /* S and O: an answer, which outweighs what was known */
#define ADVERTISED_TO_ALL 0x2000

INLINE int is_ours_to_answer(const struct work *w, const struct address *target)
{
	struct known known = {0}; /* the verifier wants what it shows to a function to be set */

	return known_find(w, target, &known) && (known.flags & (ADDRESS_VIP | ADDRESS_LOCAL)) == ADDRESS_VIP;
}

INLINE u32 leave_as_it_came(struct work *w, const u8 *to, const u8 *ours)
{
	set_links(w->p, to, ours);
	w->answer->ifindex = w->p->ifindex;
	return VERDICT_TX;
}

/* Turns an ARP request for Ethernet and IPv4 into its reply. Python twin: arp_answer. */
STEP u32 answer_arp(struct work *w)
{
	struct address target;
	const u8 *ours;
	u8 asked[4];
	u8 *h;

	OWN(w);
	h = at(w->p, w->in.net.l3, ARP_BYTES);
	ours = our_link(w, w->p->ifindex);
	if (!h || !ours || load_be32(h) != 0x00010800 || load_be32(h + 4) != (0x06040000 | ARP_REQUEST))
		return VERDICT_PASS;
	target = address4(h + 24);
	if (!is_ours_to_answer(w, &target))
		return VERDICT_PASS;
	store_be16(h + 6, ARP_REPLY);
	UNROLL
	for (u32 i = 0; i < 4; i++)
		asked[i] = h[24 + i];
	UNROLL
	for (u32 i = 0; i < 10; i++) /* who asked, link and address, is now the target */
		h[18 + i] = h[8 + i];
	copy_link(h + 8, ours);
	UNROLL
	for (u32 i = 0; i < 4; i++)
		h[14 + i] = asked[i];
	return leave_as_it_came(w, h + 18, ours);
}

/* Makes the first option, if it is one of 8 bytes, say our link address. */
INLINE u32 set_target_option(u8 *option, const u8 *ours)
{
	u32 difference = replace16(option, OPTION_TARGET << 8 | 1);

	UNROLL
	for (u32 i = 0; i < 3; i++)
		difference += replace16(option + 2 + 2 * i, load_be16(ours + 2 * i));
	return difference;
}

/* Turns a neighbour solicitation into its advertisement. Who asks for a duplicate has no address yet: all are told.
 * The answer has the options of the question, as a frame cannot grow here; only the first says something else.
 * Python twin: neighbour_answer.
 */
STEP u32 answer_neighbour(struct work *w)
{
	struct address all = {.high = 0xff02ull << 48, .low = 1}, target, asker;
	const struct network *net;
	const u8 *ip, *ours;
	u32 difference;
	u8 to[6] = {0x33, 0x33, 0, 0, 0, 1};
	u8 *h, *option;

	OWN(w);
	net = &w->in.net;
	ip = at(w->p, net->l3, 40);
	h = at(w->p, net->l4, NEIGHBOUR_BYTES);
	ours = our_link(w, w->p->ifindex);
	if (!ip || !h || !ours || net->end - net->l4 < NEIGHBOUR_BYTES || ip[7] != NEIGHBOUR_HOPS ||
	    load_be16(h) != NEIGHBOUR_SOLICITATION << 8)
		return VERDICT_PASS;
	target = address6(h + 8);
	if (!is_ours_to_answer(w, &target))
		return VERDICT_PASS;
	asker = net->source;
	option = net->end - net->l4 >= NEIGHBOUR_BYTES + 8 ? at(w->p, net->l4 + NEIGHBOUR_BYTES, 8) : 0;
	if (asker.high || asker.low) {
		all = asker;
		copy_link(to, option && load_be16(option) == (OPTION_SOURCE << 8 | 1) ? option + 2 : w->p->data + 6);
	}
	difference = replace16(h, NEIGHBOUR_ADVERTISEMENT << 8);
	difference += replace16(h + 4, asker.high || asker.low ? ADVERTISED_SOLICITED : ADVERTISED_TO_ALL);
	difference += replace16(h + 6, 0);
	if (option && option[1] == 1)
		difference += set_target_option(option, ours);
	follow_icmp(w->p, net, difference);
	set_address(w->p, net, 0, &target);
	set_address(w->p, net, 1, &all);
	return leave_as_it_came(w, to, ours);
}

#endif
