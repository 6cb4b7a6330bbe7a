/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* SipHash-1-3 of flow keys. Python twin: asynclb/net/flowhash.py; both are held to tests/golden/flowhash.json.
 *
 * Source: Aumasson and Bernstein, SipHash: a fast short-input PRF (2012).
 */
#ifndef ASYNCLB_HASH_H
#define ASYNCLB_HASH_H

#include "packet.h"

INLINE u64 turn(u64 word, u32 by)
{
	return word << by | word >> (64 - by);
}

struct sip {
	u64 v0, v1, v2, v3;
};

/* Python twin: _round. */
INLINE void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = turn(s->v1, 13) ^ s->v0;
	s->v0 = turn(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = turn(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = turn(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = turn(s->v1, 17) ^ s->v2;
	s->v2 = turn(s->v2, 32);
}

INLINE void sip_word(struct sip *s, u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

/* Orders the ends of a key, lower first; tells whether they were turned. Python twin: flow_words with symmetric. */
INLINE int key_order(struct key *key)
{
	struct address lower = key->destination;
	u16 port = key->destination_port;

	if (address_above(&key->destination, &key->source) ||
	    (same_address(&key->destination, &key->source) && key->destination_port >= key->source_port))
		return 0;
	key->destination = key->source;
	key->destination_port = key->source_port;
	key->source = lower;
	key->source_port = port;
	return 1;
}

/* Hashes what the distribution names of a key. Python twin: flow_hash; IPv4 has two words, IPv6 five. */
STEP u64 key_hash(const struct key *of, u64 key0, u64 key1, u32 distribution, u32 symmetric)
{
	struct sip s = {.v0 = key0 ^ 0x736f6d6570736575ull,
			.v1 = key1 ^ 0x646f72616e646f6dull,
			.v2 = key0 ^ 0x6c7967656e657261ull,
			.v3 = key1 ^ 0x7465646279746573ull};
	u64 size = 40;
	struct key key;

	GIVEN(of);
	key = *of;
	if (distribution != DISTRIBUTION_FIVE_TUPLE)
		key.source_port = key.destination_port = 0;
	if (distribution == DISTRIBUTION_SOURCE_IP)
		key.protocol = 0;
	if (symmetric)
		key_order(&key);
	if (is_mapped(&key.source)) {
		size = 16;
		sip_word(&s, key.source.low << 32 | (u32)key.destination.low);
	} else {
		sip_word(&s, key.source.high);
		sip_word(&s, key.source.low);
		sip_word(&s, key.destination.high);
		sip_word(&s, key.destination.low);
	}
	sip_word(&s, (u64)key.source_port << 48 | (u64)key.destination_port << 32 | key.protocol);
	sip_word(&s, size << 56);
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* Maps 32 bits to [0, count) without a division. Python twin: slot_of. */
INLINE u32 scale(u32 bits, u32 count)
{
	return (u32)((u64)bits * count >> 32);
}

#endif
