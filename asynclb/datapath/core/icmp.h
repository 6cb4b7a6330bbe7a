/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Errors of our own, in the place of the packet that they are about: above all "too big". Python twin: oracle/icmp.py.
 *
 * It comes from the VIP, which is all that either end knows of us, and goes back by the link that the packet came by.
 * It quotes QUOTE_BYTES at most, where RFC 4443, 2.4 (c) asks for as much as fits into 1,280: so the copy is bounded for
 * BPF, and every header that hosts look for is in it. Errors and later fragments are not answered (RFC 1122, 3.2.2).
 *
 * Source: RFC 1191, 4; RFC 4443, 3.2; RFC 1812, 4.3.2.8, for the limit, which all senders share.
 */
#ifndef ASYNCLB_ICMP_H
#define ASYNCLB_ICMP_H

#include "rewrite.h"
#ifdef __bpf__
#include "bpf.h"
#endif

#define ICMP_TTL 64           /* what hosts send with */
#define ICMP_PRECEDENCE 0xc0  /* internetwork control: RFC 1812, 4.3.2.5 */
#define DONT_FRAGMENT 0x40    /* in the seventh byte of an IPv4 header */

INLINE u32 sum32(u32 word)
{
	return (word >> 16) + (word & 0xffff);
}

INLINE void store_be32(u8 *to, u32 value)
{
	store_be16(to, (u16)(value >> 16));
	store_be16(to + 2, (u16)value);
}

/* Writes an address and returns what it adds to a sum. */
INLINE u32 store_address(u8 *to, const struct address *from, u32 version)
{
	u32 words[4] = {(u32)(from->high >> 32), (u32)from->high, (u32)(from->low >> 32), (u32)from->low}, sum = 0;

	for (u32 i = 0; i < 4; i++) {
		if (version == 4 && i < 3)
			continue;
		store_be32(to + (version == 4 ? 0 : 4 * i), words[i]);
		sum += sum32(words[i]);
	}
	return sum;
}

#ifdef __bpf__
/* As below. The verifier wants no branches here: what is behind them is moved too, and a helper sums up. */
INLINE u32 move_up(struct packet *p, u32 from, u32 by, u32 size)
{
	u8 *source = p->data + bound(from, COPY_BYTES - 1), *to = p->data + bound(from + by, COPY_BYTES - 1);

	UNROLL
	for (u32 i = QUOTE_BYTES; i; i -= 8)
		*(volatile u64 *)(to + i - 8) = *(volatile u64 *)(source + i - 8);
	return __builtin_bswap16((u16)fold((u32)bpf_csum_diff(0, 0, to, bound(size, COPY_BYTES - 4), 0)));
}
#else
/* Moves `size` bytes (a multiple of 4) up by `by` bytes, last ones first, and returns their sum. */
INLINE u32 move_up(struct packet *p, u32 from, u32 by, u32 size)
{
	u32 sum = 0;

	for (u32 i = 4; i <= QUOTE_BYTES && i <= size; i += 4) {
		const u8 *source = at(p, from + size - i, 4);
		u8 *to = at(p, from + size - i + by, 4);
		u32 word;

		if (!source || !to)
			break;
		word = load_be32(source);
		store_be32(to, word);
		sum += sum32(word);
	}
	return sum;
}
#endif

INLINE void write_ipv4(u8 *h, u32 total, const struct address *from, const struct address *to)
{
	u32 sum = store_address(h + 12, from, 4) + store_address(h + 16, to, 4);

	store_be16(h, 0x4500 | ICMP_PRECEDENCE);
	store_be16(h + 2, (u16)total);
	store_be32(h + 4, DONT_FRAGMENT << 8);
	store_be16(h + 8, ICMP_TTL << 8 | IP_ICMP);
	sum += (0x4500 | ICMP_PRECEDENCE) + total + (DONT_FRAGMENT << 8) + (ICMP_TTL << 8 | IP_ICMP);
	store_be16(h + 10, (u16)(fold(sum) ^ 0xffff));
}

/* Returns the sum of the pseudo-header, which ICMPv6 covers. */
INLINE u32 write_ipv6(u8 *h, u32 payload, const struct address *from, const struct address *to)
{
	store_be32(h, 0x60000000u | ICMP_PRECEDENCE << 20);
	store_be16(h + 4, (u16)payload);
	store_be16(h + 6, IP_ICMPV6 << 8 | ICMP_TTL);
	return store_address(h + 8, from, 6) + store_address(h + 24, to, 6) + payload + IP_ICMPV6;
}

/* Turns a packet into an error about it that quotes `size` of its bytes. `kind` is type and code. The frame must have room. */
INLINE void make_error(struct packet *p, const struct network *net, const struct address *from, u32 kind, u32 rest, u32 size)
{
	u32 head = net->version == 4 ? 20 : 40, sum;
	u8 *h = at(p, net->l3, head), *icmp = at(p, net->l3 + head, 8);

	if (!h || !icmp)
		return;
	sum = move_up(p, net->l3, head + 8, size);
	if (net->version == 4)
		write_ipv4(h, head + 8 + size, from, &net->source);
	else
		sum += write_ipv6(h, 8 + size, from, &net->source);
	store_be32(icmp, kind << 16);
	store_be32(icmp + 4, rest);
	sum += kind + sum32(rest);
	store_be16(icmp + 2, (u16)(fold(sum) ^ 0xffff));
	p->length = net->l3 + head + 8 + size;
	p->csum_start = NONE;
	p->segmented = 0;
}

/* Whether one more message may be sent now. */
INLINE int icmp_allowed(struct icmp_limit *limit, u32 now_ms)
{
	u32 due = (now_ms - limit->filled_ms) / ICMP_MS;

	if (due >= ICMP_BURST - limit->tokens) {
		limit->tokens = ICMP_BURST;
		limit->filled_ms = now_ms;
	} else {
		limit->tokens += due;
		limit->filled_ms += due * ICMP_MS;
	}
	if (!limit->tokens)
		return 0;
	limit->tokens--;
	return 1;
}

/* The size that the network sees: of each segment, where the kernel is yet to cut them. */
INLINE u32 packet_size(struct packet *p, const struct network *net)
{
	const u8 *h = at(p, net->l4, 20);
	u32 transport = h && net->protocol == IP_TCP ? (h[12] >> 4) * 4u : 8;

	return p->segmented ? net->l4 - net->l3 + transport + p->segmented : net->end - net->l3;
}

/* Whether the sender wants to be told: all of IPv6 does, and IPv4 that is not to be fragmented. */
INLINE int wants_too_big(struct packet *p, const struct parsed *in)
{
	const u8 *h = at(p, in->net.l3 + 6, 1);

	if (in->form == FORM_ERROR || in->net.fragment == LATER)
		return 0;
	return in->net.version == 6 || (h && *h & DONT_FRAGMENT);
}

/* Turns a packet into the message; 0 when there is no room for that. */
INLINE int make_too_big(struct packet *p, const struct parsed *in, const struct address *from, u32 mtu)
{
	const struct network *net = &in->net;
	u32 head = net->version == 4 ? 20 : 40, size = net->end - net->l3;

	size = (size < QUOTE_BYTES ? size : QUOTE_BYTES) & ~3u;
	if (!at(p, net->l3, head + 8 + size))
		return 0;
	make_error(p, net, from, net->version == 4 ? 0x0304 : 0x0200, mtu, size);
	return 1;
}

#endif
