/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where the core's memory is in the kernel: BPF maps under the names that maps.h has for the native library.
 *
 * The image is one value of an array that the process has mapped. It was checked before it was published, but the
 * verifier believes only what it sees: every offset into it is masked with the capacity, a power of two, and behind
 * that there is room for the largest item.
 */
#ifndef ASYNCLB_MAPS_BPF_H
#define ASYNCLB_MAPS_BPF_H

#include "bpf.h"
#include "work.h"

#define FLOWS_BY_HASH 0 /* tables here have hashes of their own; a flow's is wanted only to choose its member */
#define FLOWS_MOVE 0
#define HOST_ROUTES 1	/* what cannot leave by itself is left to the host's own routing */

#define IMAGE_BYTES (1u << 20)	/* the loader sets what it needs */
#define IMAGE_SLACK 4096u	/* above sizeof any item */
#define FLOW_SETS 1024		/* these too */
#define FLOW_LIMIT6 1024
#define HOP_LIMIT 65536
#define RULE_LIMIT 8192
#define MEMBER_LIMIT 65536
#define DROP_LIMIT 256

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct kernel_control);
} control SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 2);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_NUMBER(key_size, 4);
	MAP_NUMBER(value_size, IMAGE_BYTES + IMAGE_SLACK);
} images SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, HOP_LIMIT);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct hop);
} hops SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 1024);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct interface);
} interfaces SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, APPLIANCES);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, u32);
} appliances SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, FLOW_SETS);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct flow_set);
} flows4 SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, FLOW_SETS *SET_WAYS);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct flow_rest);
} rests4 SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, FLOW_SETS / SET_GROUP);
	MAP_NUMBER(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} marks4 SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, FLOW_LIMIT6);
	MAP_TYPE(key, struct key);
	MAP_TYPE(value, struct flow);
} flows6 SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, FRAGMENT_SETS *FRAGMENT_WAYS);
	MAP_TYPE(key, struct fragment_key);
	MAP_TYPE(value, struct fragment);
} fragments SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, RULE_LIMIT);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct count);
} rule_counts SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, MEMBER_LIMIT);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct count);
} member_counts SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, DROP_LIMIT);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} drops SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct kernel_totals);
} totals SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 2); /* the second is for questions, which frames may interrupt */
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct work);
} scratch SEC(".maps");

INLINE void *own_memory(const void *memory)
{
	u32 place = ((const struct packet *)memory)->place;

	return bpf_map_lookup_elem(&scratch, &place);
}

/* Written by the loader before the programs are loaded, and constant to the verifier from then on. */
SEC(".rodata.settings") const volatile struct kernel_settings settings = {
	.layout_digest = LAYOUT_DIGEST,
	.image_mask = IMAGE_BYTES - 1,
	.rule_limit = RULE_LIMIT,
	.member_limit = MEMBER_LIMIT,
	.xdp_length = 1,
	.sets = FLOW_SETS,
};

INLINE const struct image *image_by(u32 active)
{
	u32 index = active & 1;

	return bpf_map_lookup_elem(&images, &index);
}

INLINE const struct image *work_image(const struct work *w)
{
	return image_by(w->active);
}

INLINE const void *image_item(const struct image *image, struct section section, u32 index, u32 size)
{
	return (const u8 *)image + bound(section.offset + index * size, settings.image_mask);
}

#define ITEM(image, section, type, index) ((const struct type *)image_item(image, section, index, sizeof(struct type)))

/* Returns a member by its id, or 0 when these tables do not have it. */
INLINE const struct member_record *image_member(const struct image *image, u32 id)
{
	const struct member_record *member;

	if (id >= image->members.count)
		return 0;
	member = ITEM(image, image->members, member_record, id);
	return member->flags & MEMBER_PRESENT ? member : 0;
}

INLINE struct hop *find_hop(const struct work *w, u32 index)
{
	(void)w;
	return bpf_map_lookup_elem(&hops, &index);
}

INLINE struct count *rule_count(const struct work *w, u32 rule)
{
	(void)w;
	return bpf_map_lookup_elem(&rule_counts, &rule);
}

INLINE struct count *member_count(const struct work *w, u32 member)
{
	(void)w;
	return bpf_map_lookup_elem(&member_counts, &member);
}

INLINE void count_reason(const struct work *w, u32 reason)
{
	u64 *count = bpf_map_lookup_elem(&drops, &reason);

	(void)w;
	if (count)
		++*count;
}

INLINE struct kernel_totals *find_totals(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&totals, &zero);
}

/* Tables here are never full: one flow makes room for another. */
INLINE void remember_sender(const struct work *w)
{
	(void)w;
}

INLINE const struct client *recall_sender(const struct work *w)
{
	(void)w;
	return 0;
}

/* Nobody is shown what these programs send. */
INLINE void passage_note(const struct work *w)
{
	(void)w;
}

INLINE void count_stateless(const struct work *w)
{
	struct kernel_totals *all = find_totals();

	(void)w;
	if (all)
		all->stateless++;
}

/* Whether frames cannot leave by a hop's interface, but the host's routing can send them there. */
INLINE int must_route(const struct work *w, const struct hop *hop)
{
	return hop->via_kernel && !w->redirects_all;
}

/* Finds an interface. A look-up in a hash map takes 34 ns, so that one is remembered until the clock moves. */
INLINE const struct interface *find_interface(struct work *w, u32 ifindex)
{
	struct recent *recent = &w->recent[ifindex & (RECENT - 1)];
	const struct interface *known;

	if (recent->known.ifindex == ifindex && recent->tick == w->tick)
		return &recent->known;
	known = bpf_map_lookup_elem(&interfaces, &ifindex);
	if (!known)
		return 0;
	recent->known = *known;
	recent->known.ifindex = ifindex;
	recent->tick = w->tick;
	return &recent->known;
}

/* Our link address on an interface that frames can leave by, or 0. */
INLINE const u8 *our_link(struct work *w, u32 ifindex)
{
	const struct interface *known = find_interface(w, ifindex);

	if (!known || !(known->flags & INTERFACE_LINK))
		return 0;
	if (w->redirects_all || known->flags & INTERFACE_REDIRECT)
		return known->link;
	return ifindex == w->p->ifindex && known->flags & INTERFACE_TURN ? known->link : 0;
}

INLINE struct icmp_limit *icmp_limit_of(struct work *w)
{
	return &w->icmp;
}

INLINE u32 our_mtu(struct work *w, u32 ifindex)
{
	const struct interface *known = find_interface(w, ifindex);

	return known ? known->mtu : 0;
}

/* Nothing is learnt here: the process says which link addresses are ours. */
INLINE void learn_link(const struct work *w)
{
	(void)w;
}

INLINE u64 link_word(const u8 *link)
{
	return 1ull << 48 | (u64)load_be16(link) << 32 | load_be32(link + 2);
}

INLINE int is_appliance(const struct work *w, const u8 *link)
{
	u64 word = link_word(link);

	(void)w;
	return !!bpf_map_lookup_elem(&appliances, &word);
}

struct flow_ref {
	struct flow *flow; /* 0: none */
	u32 place;	   /* of one of IPv4's */
};

/* Whether a flow that was found is not past its deadline, or is remembered. */
INLINE int flow_counts(const struct work *w, const struct flow *flow)
{
	return flow && (!is_late(flow->deadline_ms, w->now_ms) || is_remembered(flow, flow->deadline_ms, w->now_ms));
}

#include "sets.h"

INLINE u64 flow_hash(const struct work *w, const struct key *key)
{
	(void)w, (void)key;
	return 0;
}

/* Finds a flow, even one past its deadline. */
INLINE struct flow_ref flow_lookup(struct work *w, const struct key *key)
{
	struct flow_ref found = {0, NONE};

	if (!is_mapped(&key->source)) {
		found.flow = bpf_map_lookup_elem(&flows6, key);
		return found;
	}
	found.place = set_place(w, key);
	if (found.place != NONE)
		found.flow = place_flow(found.place, &w->index);
	return found;
}

/* What few packets ask of a flow that was found, or 0. */
INLINE struct flow_rest *flow_rest(struct work *w, struct flow_ref found)
{
	if (found.place == NONE)
		return &found.flow->rest;
	w->index = found.place;
	return bpf_map_lookup_elem(&rests4, &w->index);
}

/* Starts a flow anew, as `w->fresh`. */
INLINE void flow_renew(struct work *w, struct flow_ref found)
{
	struct flow_rest *rest = flow_rest(w, found);

	__builtin_memcpy(found.flow, &w->fresh, WAY_BYTES);
	if (rest)
		*rest = w->fresh.rest;
}

/* Whether a flow that was found has idled out. */
INLINE int flow_late(const struct work *w, struct flow_ref found)
{
	return is_late(found.flow->deadline_ms, w->now_ms);
}

INLINE struct flow_ref flow_find(struct work *w, const struct key *key, u64 hash)
{
	struct flow_ref found = flow_lookup(w, key);

	(void)hash;
	if (!flow_counts(w, found.flow))
		found.flow = 0;
	return found;
}

/* Whether a key of IPv6 that is in the table may be another flow's: that of one that is over, for whoever is the first to
 * move its deadline.
 */
INLINE int is_left(const struct work *w, struct flow *flow)
{
	u32 deadline_ms;

	if (!flow)
		return 0;
	deadline_ms = flow->deadline_ms;
	return is_late(deadline_ms, w->now_ms) && !is_remembered(flow, deadline_ms, w->now_ms) &&
	       __sync_val_compare_and_swap(&flow->deadline_ms, deadline_ms, w->now_ms + SYN_MS) == deadline_ms;
}

/* Puts `w->fresh` in, in the place of the flow that has its key; with `alone`, only if there is no such flow. Where there is
 * no room, another flow makes it.
 */
STEP u32 flow_put(struct work *w, const struct key *key, u32 alone)
{
	OWN(w);
	GIVEN(key);
	w->over = 0;
	w->alone = alone;
	if (is_mapped(&key->source)) {
		w->small = key4_of(key);
		return set_put(w);
	}
	if (!bpf_map_update_elem(&flows6, key, &w->fresh, BPF_NOEXIST))
		return count_made(w);
	if (w->alone && !is_left(w, bpf_map_lookup_elem(&flows6, key)))
		return CLAIM_TAKEN;
	return bpf_map_update_elem(&flows6, key, &w->fresh, BPF_ANY) ? CLAIM_FULL : CLAIM_DONE;
}

/* Puts a flow in, which is `w->fresh`. */
INLINE struct flow_ref flow_insert(struct work *w, const struct key *key, u64 hash, const struct flow *flow)
{
	(void)hash, (void)flow;
	flow_put(w, key, 0);
	return flow_lookup(w, key);
}

/* Puts `w->fresh` in under a key that no other flow has. */
INLINE u32 flow_claim(struct work *w, const struct key *key)
{
	return flow_put(w, key, 1);
}

INLINE void flow_touch(struct flow_ref found, u32 deadline_ms)
{
	found.flow->deadline_ms = deadline_ms;
}

/* The process hears of flows when it walks through the maps. */
INLINE void flow_begun(const struct work *w, struct flow_ref found)
{
	(void)w, (void)found;
}

INLINE void flow_replaced(const struct work *w, struct flow_ref found)
{
	(void)w, (void)found;
}

/* The process counts flows when it walks through the maps: BPF does not hear of what the kernel evicts. */
INLINE void count_flow(const struct work *w, const struct flow *flow, int present)
{
	(void)w, (void)flow, (void)present;
}

INLINE struct fragment_key fragment_name(const struct network *net)
{
	return (struct fragment_key){.source = net->source,
				     .destination = net->destination,
				     .id = net->fragment_id,
				     .protocol = fragment_protocol(net)};
}

/* Remembers the ports of a first fragment. */
INLINE void fragment_record(const struct work *w)
{
	struct fragment_key name = fragment_name(&w->in.net);
	struct fragment record = {.deadline_ms = w->now_ms + FRAGMENT_MS,
				  .source_port = w->in.key.source_port,
				  .destination_port = w->in.key.destination_port,
				  .protocol = w->in.net.protocol};

	bpf_map_update_elem(&fragments, &name, &record, BPF_ANY);
}

/* Gives a later fragment the ports and the protocol of its first; tells whether they are known. */
INLINE int fragment_recall(struct work *w)
{
	struct fragment_key name = fragment_name(&w->in.net);
	const struct fragment *record = bpf_map_lookup_elem(&fragments, &name);

	if (!record || is_late(record->deadline_ms, w->now_ms))
		return 0;
	w->in.key.source_port = record->source_port;
	w->in.key.destination_port = record->destination_port;
	w->in.key.protocol = record->protocol;
	w->in.net.protocol = (u8)record->protocol;
	return 1;
}

#endif
