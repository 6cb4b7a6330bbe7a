/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What becomes of one frame. Python twin: oracle/oracle.py, which explains the order of the questions.
 *
 * Laws:
 *   1. A packet that is not ours (no VIP, no member's reply, no routed interface) passes untouched, however broken.
 *   2. A packet that is ours and cannot go on is dropped with one reason, and has left no state behind.
 *   3. TTL and hop limit stay as they are: the balancer is no hop, as clients and members see it.
 *   4. Only what clients send makes flow entries; replies and errors find theirs or are none of our business.
 */
#ifndef ASYNCLB_PROCESS_H
#define ASYNCLB_PROCESS_H

#include "flow.h"
#include "icmp.h"
#include "neighbour.h"
#include "reply.h"

INLINE u32 drop(struct work *w, u32 reason)
{
	w->answer->reason = reason;
	return VERDICT_DROP;
}

INLINE int is_plain(const struct parsed *in)
{
	return in->form == FORM_PLAIN && in->net.fragment != LATER;
}

INLINE struct key reversed(const struct key *key)
{
	return (struct key){.source = key->destination,
			    .destination = key->source,
			    .source_port = key->destination_port,
			    .destination_port = key->source_port,
			    .protocol = key->protocol};
}

INLINE u32 passage_event(const struct work *w)
{
	return w->key.protocol == IP_TCP && is_plain(&w->in) ? tcp_event(w->in.tcp_flags) : EVENT_OTHER;
}

INLINE u32 transmit(struct work *w, u32 ifindex, const u8 *destination, const u8 *source)
{
	set_links(w->p, destination, source);
	w->answer->ifindex = ifindex;
	return VERDICT_TX;
}

/* What does not fit the next link goes nowhere; its sender is told, if it may and wants to be. */
STEP u32 too_big(struct work *w, const struct address *from, u32 mtu)
{
	OWN(w);
	GIVEN(from);
	if (!wants_too_big(w->p, &w->in) || !icmp_allowed(icmp_limit_of(w), w->now_ms) ||
	    !make_too_big(w->p, &w->in, from, mtu))
		return drop(w, DROP_TOO_BIG);
	count_reason(w, DROP_TOO_BIG);
	w->answer->length = w->p->length;
#ifdef __bpf__
	w->p->front = w->in.net.version == 4 ? 28 : 48;
#endif
	return turn_back(w);
}

/* The port that stands for a flow's client: of a hairpin, or of a member's own connection. */
INLINE u32 flow_port(struct work *w, struct flow_ref found)
{
	const struct flow_rest *rest = flow_rest(w, found);

	return rest ? rest->hairpin_port : 0;
}

/* The MTU of a link towards a client if the packet does not fit it, else 0. */
INLINE u32 client_mtu(struct work *w, u32 ifindex)
{
	u32 mtu = our_mtu(w, ifindex);

	return mtu && packet_size(w->p, &w->in.net) > mtu ? mtu : 0;
}

/* Whether the packet does not fit the link to a member. */
INLINE int exceeds(struct work *w, u32 mtu)
{
	return mtu && packet_size(w->p, &w->in.net) > mtu;
}

INLINE void hear_ack(struct flow_rest *rest, u32 ack, int outward)
{
	if (!rest)
		return;
	if (outward) {
		rest->ack_out = ack;
		SETTLED(rest);
	} else {
		rest->ack_in = ack;
	}
}

/* What is said when a flow is over is not heard, but the resets that follow must fit it. */
INLINE void hear_last(struct work *w, struct flow_ref found, int outward)
{
	if (w->way.key.protocol != IP_TCP || !is_plain(&w->in) || !(w->in.tcp_flags & TCP_ACK) || w->p->asked)
		return;
	hear_ack(flow_rest(w, found), w->in.ack, outward);
}

/* The drain period of a flow's member is over. */
INLINE u32 over(struct work *w, struct flow_ref found, int outward)
{
	hear_last(w, found, outward);
	return drop(w, DROP_NO_FLOW);
}

/* A connection that idled out: its ends hear of it, or nothing. Python twin: Step._expired. */
INLINE u32 expired(struct work *w, struct flow_ref found, int outward)
{
	u32 reset = found.flow->flags & FLOW_RESET;

	hear_last(w, found, outward);
	if (!reset || w->p->asked || reply_reset(w) != VERDICT_TX)
		return drop(w, DROP_FLOW_EXPIRED);
	w->answer->reason = DROP_FLOW_EXPIRED;
	count_reason(w, DROP_FLOW_EXPIRED);
	return VERDICT_TX;
}

/* Leaves what was rewritten to the host's own routing, which finds neighbours and bridges by itself. */
INLINE u32 host_routes(struct work *w)
{
	w->answer->ifindex = 0;
	return VERDICT_TX;
}

INLINE void count_packet(struct count *count, u32 bytes, int outward)
{
	if (!count)
		return;
	if (outward) {
		count->packets_out++;
		count->bytes_out += bytes;
		SETTLED(count);
	} else {
		count->packets_in++;
		count->bytes_in += bytes;
	}
}

INLINE void count_new(struct count *count)
{
	if (count)
		count->new_flows++;
}

/* Whether an address cannot be a sender's. Source: RFC 1122 3.2.1.3, RFC 4291 2.5 and 2.7. */
INLINE int is_martian(const struct address *a, u32 version)
{
	u32 first = (u32)a->low >> 24;

	if (version == 4)
		return first == 0 || first == 127 || first >= 224;
	return is_mapped(a) || a->high >> 56 == 0xff || (a->high == 0 && a->low <= 1);
}

/* Whether a destination stays on its link or names more than one host, so that nothing is routed to it. */
INLINE int is_link_scope(const struct address *a, u32 version)
{
	u32 first = (u32)a->low >> 24;

	if (version == 4)
		return first == 0 || first == 127 || first >= 224 || ((u32)a->low >> 16) == 0xa9fe;
	return is_mapped(a) || a->high >> 56 == 0xff || a->high >> 54 == 0x3fa || (a->high == 0 && a->low <= 1);
}

/* Finds the flow of the packet that `w->key` names. Python twin: Oracle.find. */
INLINE struct flow_ref passage_find(struct work *w, const struct image *image, const struct entry *entry)
{
	struct passage *way = &w->way;
	struct flow_ref found;

	way->key = w->key;
	way->outward = way->swapped = way->renewed = way->late = 0;
	if (entry->flags & ENTRY_SYMMETRIC) {
		way->key.kind = KEY_SYMMETRIC;
		way->swapped = (u8)key_order(&way->key);
	}
	way->hash = flow_hash(w, &way->key);
	way->event = passage_event(w);
	way->member = NONE;
	way->translated = 0;
	way->target_port = entry->backend_port;
	found = flow_find(w, &way->key, way->hash);
	if (!found.flow)
		return found;
	way->outward = way->swapped != (found.flow->flags & FLOW_SWAPPED);
	way->member = flow_member(w, image, entry, found.flow);
	way->target_port = found.flow->target_port;
	way->late = (u8)flow_late(w, found);
	if ((found.flow->flags & FLOW_OVER || way->late) && way->event == EVENT_SYN && !way->outward) {
		way->member = NONE; /* the client knows that it is over */
		way->late = 0;
	}
	return found;
}

/* Decides the member: the flow's own, or for a new flow the Maglev table's. A SYN that was never answered, or that
 * follows a closed connection, asks the table again. Python twin: Oracle.choose_member.
 */
INLINE u32 passage_choose(struct work *w, const struct entry *entry, const struct flow *flow)
{
	struct passage *way = &w->way;
	u32 chosen;

	way->fresh = way->member == NONE;
	if (flow && way->member != NONE && way->event == EVENT_SYN && !way->outward)
		way->fresh = flow->state == CONN_SYN || flow->state == CONN_CLOSED;
	if (!way->fresh)
		return DROP_NONE;
	chosen = choose(w);
	if (chosen == NONE)
		return entry->flags & ENTRY_CLOSED ? DROP_NO_RULE : DROP_NO_ELIGIBLE_MEMBER;
	/* A repeated SYN that meets the same member goes on with its flow. */
	if (chosen == way->member && flow && flow->state == CONN_SYN)
		way->fresh = 0;
	else
		way->target_port = entry->backend_port;
	way->member = chosen;
	return DROP_NONE;
}

/* Whether the client is itself a member that this entry delivers to, so that its source must be translated. */
INLINE int is_hairpin(const struct work *w, const struct entry *entry)
{
	u32 exact;

	if (entry->delivery != DELIVERY_NAT || !(w->from.flags & ADDRESS_MEMBER))
		return 0;
	exact = place_entry(w, &w->key.source, entry->backend_port, w->key.protocol, KIND_REVERSE);
	return (exact == NONE ? w->from.reverse : exact) == w->way.entry;
}

/* The key by which the member's answers to a hairpin come back. */
INLINE struct key hairpin_key(const struct passage *way, const struct address *member, u16 port)
{
	return (struct key){.source = *member,
			    .destination = way->key.destination,
			    .source_port = way->target_port ? way->target_port : way->key.destination_port,
			    .destination_port = port,
			    .protocol = way->key.protocol};
}

/* Gives a hairpin flow a port of the VIP, one of those from `first` on, and the way back an entry of its own, whose
 * counters hold the client. Python twin: Oracle.hairpin.
 */
STEP u32 hairpin_port(struct work *w, const struct address *member, u32 rule, u32 idle_ms, u32 first)
{
	const struct passage *way;
	struct flow *back;
	u32 claimed;

	OWN(w);
	GIVEN(member);
	way = &w->way;
	back = &w->fresh;
	*back = (struct flow){.flags = FLOW_RETURN,
			      .rule = (u16)rule,
			      .bytes_in = way->key.source.high,
			      .bytes_out = way->key.source.low,
			      .member = (u16)way->member,
			      .target_port = way->key.source_port,
			      .deadline_ms = w->now_ms + idle_ms,
			      .rest = {.hairpin_port = way->key.destination_port}};
	UNROLL
	for (u32 i = 0; i < HAIRPIN_TRIES; i++) {
		u16 port = (u16)(HAIRPIN_FIRST + ((first + i) & (HAIRPIN_PORTS - 1)));

		w->back = hairpin_key(way, member, port);
		claimed = flow_claim(w, &w->back);
		if (claimed != CLAIM_TAKEN)
			return claimed == CLAIM_DONE ? port : 0;
	}
	return 0;
}

/* Keeps the way back of a hairpin alive as long as the way there; `idle_ms` 0 ends it. */
INLINE void hairpin_touch(struct work *w, const struct address *member, u32 idle_ms)
{
	struct flow_ref found;

	w->back = hairpin_key(&w->way, member, w->way.translated);
	found = flow_find(w, &w->back, flow_hash(w, &w->back));
	if (found.flow)
		flow_touch(found, w->now_ms + idle_ms);
}

/* Translates a client that is a member of the pool; returns a drop reason. */
INLINE u32 passage_hairpin(struct work *w, const struct image *image, const struct entry *entry,
			   const struct member_record *member, struct flow_ref *found)
{
	struct passage *way = &w->way;
	u32 first;

	w->source = member->address;
	if (found->flow && !way->fresh && found->flow->flags & FLOW_HAIRPIN) {
		way->translated = (u16)flow_port(w, *found);
		hairpin_touch(w, &w->source, entry->idle_ms);
	} else if (way->fresh && is_hairpin(w, entry)) {
		if (!is_plain(&w->in) || (w->key.protocol != IP_TCP && w->key.protocol != IP_UDP))
			return DROP_NO_HAIRPIN;
		first = (u32)passage_hash(image, way);
		way->translated = (u16)hairpin_port(w, &w->source, entry->rule, entry->idle_ms, first);
		if (!way->translated)
			return DROP_FLOW_TABLE_FULL;
		if (FLOWS_MOVE)
			*found = flow_find(w, &way->key, way->hash);
	}
	return DROP_NONE;
}

/* Starts a flow, or starts an old one anew. */
INLINE int flow_start(struct work *w, const struct image *image, const struct entry *entry, struct flow_ref *found)
{
	struct passage *way = &w->way;
	struct flow *flow = &w->fresh;

	*flow = (struct flow){.member = (u16)way->member,
			      .rule = (u16)entry->rule,
			      .generation = (u16)image->generation,
			      .deadline_ms = w->now_ms + SYN_MS,
			      .target_port = way->target_port,
			      .rest = {.created_s = w->now_s, .hairpin_port = way->translated}};
	flow->flags = (u8)((way->swapped ? FLOW_SWAPPED : 0) | (way->translated ? FLOW_HAIRPIN : 0) |
			  (entry->flags & ENTRY_RESET ? FLOW_RESET : 0) |
			  (entry->delivery == DELIVERY_NAT ? FLOW_NAT : 0));
	if (found->flow) {
		flow_replaced(w, *found);
		count_flow(w, found->flow, 0);
		flow_renew(w, *found);
	} else {
		*found = flow_insert(w, &way->key, way->hash, flow);
	}
	if (!found->flow)
		return 0;
	way->outward = 0;
	flow_begun(w, *found);
	count_flow(w, found->flow, 1);
	count_new(rule_count(w, entry->rule));
	count_new(member_count(w, way->member));
	return 1;
}

/* Counts a packet as its flow's. */
INLINE void flow_advance(struct flow *flow, u32 bytes, u32 outward)
{
	if (outward) {
		flow->packets_out++;
		flow->bytes_out += bytes;
		SETTLED(flow);
	} else {
		flow->packets_in++;
		flow->bytes_in += bytes;
	}
}

#define STATE_SHIFT (8 * (__builtin_offsetof(struct flow, state) - __builtin_offsetof(struct flow, target_port)))
_Static_assert(__builtin_offsetof(struct flow, target_port) % 4 == 0 && STATE_SHIFT < 32, "a word that is exchanged");

/* Lets a flow's state follow. Its ends may be heard at the same time, on two processors: an acknowledgement must not
 * write back the state from before a FIN, nor one FIN that from before the other. So what stays as it is is not written,
 * and what changes is exchanged, with the word that it is a part of.
 */
INLINE void flow_follow(struct flow *flow, u32 event, int outward)
{
	u32 *word = (u32 *)(void *)&flow->target_port, was, now, turn;

	for (turn = 0; turn < 4; turn++) {
		was = *(volatile u32 *)word;
		now = (was & ~(0xffu << STATE_SHIFT)) | (u32)tcp_next(was >> STATE_SHIFT & 0xff, event, outward) << STATE_SHIFT;
		if (now == was || __sync_val_compare_and_swap(word, was, now) == was)
			return;
	}
}

/* Lets a flow hear what its ends say by TCP. */
INLINE void flow_hear(struct work *w, struct flow_ref found, u32 flags, u32 ack, u32 outward)
{
	struct flow *flow = found.flow;

	if (flags & TCP_RST && flow->state != CONN_CLOSED)
		flow->flags |= FLOW_BROKEN;
	flow_follow(flow, tcp_event(flags), (int)outward);
	if (flags & TCP_ACK)
		hear_ack(flow_rest(w, found), ack, (int)outward);
}

/* Counts a packet and lets its flow take notice of it. */
INLINE void flow_notice(struct work *w, u32 rule_id, u32 idle_ms, struct flow_ref found)
{
	const struct passage *way = &w->way;
	struct count *rule = rule_count(w, rule_id);
	struct flow *flow = found.flow;
	u32 bytes = w->p->length;

	count_packet(rule, bytes, way->outward);
	count_packet(member_count(w, way->member), bytes, way->outward);
	if (rule && way->event == EVENT_SYN && !way->outward && !(w->in.tcp_flags & TCP_ACK))
		rule->syn++;
	if (!flow || w->in.form == FORM_ERROR)
		return;
	flow_advance(flow, bytes, way->outward);
	if (way->key.protocol == IP_TCP && is_plain(&w->in))
		flow_hear(w, found, w->in.tcp_flags, w->in.ack, way->outward);
	flow_touch(found, w->now_ms + timeout_ms(flow, idle_ms));
}

/* Remembers how the client is reached: what it sends next may come another way. */
INLINE void flow_client(struct work *w, struct flow *flow)
{
	const u8 *h = at(w->p, 0, 12);

	if (!h)
		return;
	flow->ifindex = w->p->ifindex;
	copy_link(flow->client_link, h + 6);
}

/* Whether the member sees something else than the client has asked for: its own address, or another port of the VIP. */
INLINE int is_translated(const struct entry *entry, const struct passage *way)
{
	return entry->delivery == DELIVERY_NAT ||
	       (way->target_port && way->target_port != way->key.destination_port);
}

/* Rewrites the VIP's port in what goes to a member that has the VIP as its own. Python twin: Forward._rewrite_port. */
INLINE void rewrite_port(struct work *w)
{
	u32 port = w->way.target_port;

	if (w->in.form == FORM_ERROR)
		follow_icmp(w->p, &w->in.net, set_port(w->p, &w->in.quoted, 0, port));
	else
		set_port(w->p, &w->in.net, 1, port);
}

/* Rewrites what goes to the member. An error has its quote rewritten too: there, the flow goes the other way. */
INLINE void rewrite_forward(struct work *w, const struct entry *entry, const struct member_record *to)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	const struct passage *way = &w->way;
	struct address member = to->address, vip = entry->vip;
	u32 difference;

	if (entry->delivery != DELIVERY_NAT) {
		rewrite_port(w);
		return;
	}
	if (w->in.form == FORM_ERROR) {
		difference = set_address(w->p, quoted, 0, &member);
		if (way->target_port)
			difference += set_port(w->p, quoted, 0, way->target_port);
		if (way->translated) {
			difference += set_address(w->p, quoted, 1, &vip);
			difference += set_port(w->p, quoted, 1, way->translated);
		}
		follow_icmp(w->p, net, difference);
		set_address(w->p, net, 1, &member);
		if (way->translated)
			set_address(w->p, net, 0, &vip);
		return;
	}
	set_address(w->p, net, 1, &member);
	if (way->target_port)
		set_port(w->p, net, 1, way->target_port);
	if (way->translated) {
		set_address(w->p, net, 0, &vip);
		set_port(w->p, net, 0, way->translated);
	}
}

/* Whether the packet may go on: only answers of a known flow need not be allowed. Returns a drop reason. */
INLINE u32 passage_admit(const struct work *w, const struct flow *flow)
{
	if (flow && flow->flags & FLOW_RETURN)
		return DROP_NO_FLOW;
	if (!(flow && w->way.outward) && !is_allowed(w, w->way.entry, &w->key.source))
		return DROP_SOURCE_NOT_ALLOWED;
	return DROP_NONE;
}

/* Looks whether frames can leave by a hop; returns a drop reason. */
INLINE u32 hop_check(struct work *w, const struct entry *entry, struct hop *hop)
{
	if (!hop)
		return DROP_NEXT_HOP_UNRESOLVED;
	if (!hop->resolved) {
		hop->wanted = 1;
		if (!HOST_ROUTES || entry->delivery != DELIVERY_NAT)
			return DROP_NEXT_HOP_UNRESOLVED;
	}
	if (must_route(w, hop) && entry->delivery != DELIVERY_NAT)
		return DROP_NO_EGRESS; /* the host's routing would not take it to the member */
	return exceeds(w, hop->mtu) ? DROP_TOO_BIG : DROP_NONE;
}

/* What a client sends, or an error on its way to a member, by the entry `index`. Python twin: Oracle.forward. */
STEP u32 forward(struct work *w, u32 index)
{
	const struct member_record *member;
	const struct image *image;
	const struct entry *entry;
	struct passage *way;
	struct flow_ref found;
	struct hop *hop;
	const u8 *link;
	u32 reason;

	OWN(w);
	way = &w->way;
	way->entry = index;
	image = work_image(w);
	entry = image ? entry_at(image, index) : 0;
	if (!entry)
		return VERDICT_PASS;
	found = passage_find(w, image, entry);
	if (found.flow && found.flow->flags & FLOW_OVER && way->member != NONE)
		return over(w, found, way->outward);
	reason = passage_admit(w, found.flow);
	if (reason)
		return drop(w, reason);
	link = at(w->p, 6, 6);
	if (entry->delivery == DELIVERY_ROUTED && link && is_appliance(w, link))
		return VERDICT_PASS; /* it has been through an appliance: the host routes it on */
	if (way->late && found.flow)
		return expired(w, found, way->outward);
	if (way->renewed && found.flow && !w->p->asked)
		found.flow->generation = (u16)image->generation;
	reason = passage_choose(w, entry, found.flow);
	if (reason)
		return drop(w, reason);
	member = image_member(image, way->member);
	hop = member ? find_hop(w, member->next_hop) : 0;
	reason = hop_check(w, entry, hop);
	if (w->p->asked && !reason && hop) {
		w->answer->member = way->member | (way->fresh ? 0 : MEMBER_KNOWN);
		return VERDICT_TX;
	}
	if (reason == DROP_TOO_BIG && hop) {
		w->source = entry->vip;
		return too_big(w, &w->source, hop->mtu);
	}
	if (!reason && member)
		reason = passage_hairpin(w, image, entry, member, &found);
	if (reason || !hop || !member)
		return drop(w, reason);
	if (way->fresh && is_plain(&w->in) && way->event != EVENT_RST && !flow_start(w, image, entry, &found)) {
		count_stateless(w);
		if (is_translated(entry, way))
			remember_sender(w);
		if (way->translated) {
			hairpin_touch(w, &w->source, 0);
			return drop(w, DROP_FLOW_TABLE_FULL);
		}
	}
	if (way->fresh && !is_plain(&w->in))
		found.flow = 0; /* an error or a later fragment starts nothing */
	flow_notice(w, entry->rule, entry->idle_ms, found);
	if (found.flow && is_plain(&w->in) && !way->outward)
		flow_client(w, found.flow);
	if (is_translated(entry, way)) {
		rewrite_forward(w, entry, member);
		passage_note(w);
	}
	if (HOST_ROUTES && (!hop->resolved || must_route(w, hop)))
		return host_routes(w);
	return transmit(w, hop->ifindex, hop->destination, hop->source);
}

/* Sends what now carries the VIP as its source to the client, by the link address that it came from. */
INLINE u32 to_client(struct work *w, const struct flow *flow)
{
	const u8 *ours = our_link(w, flow->ifindex);

	if (ours)
		return transmit(w, flow->ifindex, flow->client_link, ours);
	return HOST_ROUTES ? host_routes(w) : drop(w, DROP_NO_EGRESS);
}

/* Asks what may keep an answer from its client; PASS when it goes on. `from` tells the sender of what does not fit. */
INLINE u32 answer_admit(struct work *w, struct flow_ref found, const struct address *from)
{
	u32 mtu;

	if (found.flow->flags & FLOW_OVER)
		return over(w, found, 1);
	if (flow_late(w, found))
		return expired(w, found, 1);
	mtu = client_mtu(w, found.flow->ifindex);
	return mtu ? too_big(w, from, mtu) : VERDICT_PASS;
}

/* Counts an answer that goes on, and lets its flow take notice of it. */
INLINE void answer_notice(struct work *w, const struct entry *entry, struct flow_ref found)
{
	struct passage *way = &w->way;

	way->member = found.flow->member;
	way->event = passage_event(w);
	way->outward = 1;
	flow_notice(w, entry->rule, entry->idle_ms, found);
}

/* Rewrites what goes back to a client that is a member; of an error the quote, and the source if that is the member. */
INLINE void rewrite_hairpin(struct work *w)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	struct key client = w->way.key;
	u32 difference;

	if (w->in.form == FORM_ERROR) {
		difference = set_address(w->p, quoted, 0, &client.source);
		difference += set_port(w->p, quoted, 0, client.source_port);
		difference += set_address(w->p, quoted, 1, &client.destination);
		difference += set_port(w->p, quoted, 1, client.destination_port);
		follow_icmp(w->p, net, difference);
		if (same_address(&net->source, &w->key.source))
			set_address(w->p, net, 0, &client.destination);
		set_address(w->p, net, 1, &client.source);
		return;
	}
	set_address(w->p, net, 0, &client.destination);
	set_port(w->p, net, 0, client.destination_port);
	set_address(w->p, net, 1, &client.source);
	set_port(w->p, net, 1, client.source_port);
}

/* The other half of a hairpin: a member answers the VIP's translated port, or somebody reports an error about what was
 * sent from there. Python twin: Forward._hairpin_return.
 */
STEP u32 hairpin_return(struct work *w)
{
	struct passage *way;
	const struct image *image;
	const struct entry *entry;
	struct flow_ref back, found;
	u32 verdict;

	OWN(w);
	way = &w->way;
	image = work_image(w);
	back = flow_find(w, &w->key, flow_hash(w, &w->key));
	if (!image || !back.flow || !(back.flow->flags & FLOW_RETURN))
		return VERDICT_PASS;
	way->key = (struct key){.source = {.high = back.flow->bytes_in, .low = back.flow->bytes_out},
				.destination = w->key.destination,
				.source_port = back.flow->target_port,
				.destination_port = (u16)flow_port(w, back),
				.protocol = w->key.protocol};
	way->entry = frontend_entry(w, &way->key, &w->to);
	entry = entry_at(image, way->entry);
	found = flow_find(w, &way->key, flow_hash(w, &way->key));
	if (!found.flow || !entry)
		return drop(w, DROP_NO_FLOW);
	verdict = answer_admit(w, found, &w->key.destination);
	if (verdict != VERDICT_PASS)
		return verdict;
	if (w->in.form != FORM_ERROR)
		flow_touch(back, w->now_ms + entry->idle_ms);
	answer_notice(w, entry, found);
	rewrite_hairpin(w);
	return to_client(w, found.flow);
}

/* Rewrites what a member, or a router behind the balancer, sends to a client: where members answer from the VIP, its port
 * alone. Python twin: _Decision._rewrite_answer.
 */
INLINE void rewrite_reverse(struct work *w, const struct entry *entry, u32 port)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	struct address vip = entry->vip;
	int moved = !same_address(&w->key.destination, &vip);
	u32 difference = 0;

	if (w->in.form == FORM_ERROR) {
		if (moved)
			difference = set_address(w->p, quoted, 1, &vip);
		difference += set_port(w->p, quoted, 1, port);
		follow_icmp(w->p, net, difference);
		if (moved && same_address(&net->source, &w->key.destination))
			set_address(w->p, net, 0, &vip);
		return;
	}
	if (moved)
		set_address(w->p, net, 0, &vip);
	set_port(w->p, net, 0, port);
}

/* Answers of one entry's members: `w->key` is that of what the client had sent, as the member saw it.
 * Returns PASS when there is no such flow: members have connections of their own. Python twin: Oracle.answer.
 */
STEP u32 reverse_by(struct work *w, u32 index)
{
	const struct member_record *member;
	const struct image *image;
	const struct entry *entry;
	struct passage *way;
	struct flow_ref found;
	u32 verdict;

	OWN(w);
	way = &w->way;
	image = work_image(w);
	entry = image ? entry_at(image, index) : 0;
	if (!entry)
		return VERDICT_PASS;
	way->key = w->key;
	way->key.destination = entry->vip;
	way->key.destination_port = entry->backend_port ? entry->port : w->key.destination_port;
	found = flow_find(w, &way->key, flow_hash(w, &way->key));
	if (!found.flow)
		return VERDICT_PASS;
	member = image_member(image, found.flow->member);
	if (!member || !(same_address(&member->address, &w->key.destination) || same_address(&entry->vip, &w->key.destination)))
		return drop(w, DROP_NO_FLOW);
	/* who has the VIP as its own address takes nothing that comes from there */
	w->source = same_address(&entry->vip, &w->key.destination) ? way->key.source : entry->vip;
	verdict = answer_admit(w, found, &w->source);
	if (verdict != VERDICT_PASS)
		return verdict;
	answer_notice(w, entry, found);
	rewrite_reverse(w, entry, way->key.destination_port);
	return to_client(w, found.flow);
}

/* An answer without a flow (the table was full) goes to where its client was a moment ago, else to where clients usually
 * are. A SYN is no answer; neither is what a member of HA ports sends to somebody who has not been heard of.
 */
STEP u32 reverse_stateless(struct work *w, u32 index)
{
	const struct client *client;
	const struct image *image;
	const struct entry *entry;
	struct hop *hop = 0;
	const u8 *ours = 0;

	OWN(w);
	image = work_image(w);
	entry = image ? entry_at(image, index) : 0;
	if (!entry || w->in.form == FORM_ERROR)
		return VERDICT_PASS;
	if (w->key.protocol == IP_TCP && (w->in.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return VERDICT_PASS;
	client = recall_sender(w);
	if (client)
		ours = our_link(w, client->ifindex);
	else if (entry->backend_port)
		hop = find_hop(w, entry->return_hop);
	if (!ours && (!hop || !hop->resolved))
		return VERDICT_PASS;
	count_packet(rule_count(w, entry->rule), w->p->length, 1);
	count_stateless(w);
	rewrite_reverse(w, entry, entry->backend_port ? entry->port : w->key.destination_port);
	if (ours && client)
		return transmit(w, client->ifindex, client->link, ours);
	return hop ? transmit(w, hop->ifindex, hop->destination, hop->source) : VERDICT_PASS;
}

/* Answers of those who leave, and of members on a port that their rule has left. */
INLINE u32 reverse_left(struct work *w)
{
	u32 left = place_entry(w, &w->key.destination, w->key.destination_port, w->key.protocol, KIND_LEFT);

	if (left == NONE)
		left = place_entry(w, &w->key.destination, 0, 0, KIND_LEFT);
	return left == NONE ? VERDICT_PASS : reverse_by(w, left);
}

/* `member` is what the image says of the member's address, which stands in `w->key` for the VIP's. */
INLINE u32 reverse(struct work *w, const struct known *member)
{
	u32 exact = place_entry(w, &w->key.destination, w->key.destination_port, w->key.protocol, KIND_REVERSE);
	u32 verdict = exact == NONE ? VERDICT_PASS : reverse_by(w, exact);

	if (verdict == VERDICT_PASS && member->reverse != NONE)
		verdict = reverse_by(w, member->reverse);
	if (verdict == VERDICT_PASS && member->flags & ADDRESS_LEFT)
		verdict = reverse_left(w);
	if (verdict == VERDICT_PASS && exact != NONE)
		verdict = reverse_stateless(w, exact);
	if (verdict == VERDICT_PASS && member->reverse != NONE && !HOST_ROUTES)
		verdict = reverse_stateless(w, member->reverse);
	return verdict;
}

#include "snat.h"

/* Remembers or recalls the ports of a fragment; HOLD when they are not known yet. */
INLINE u32 process_fragment(struct work *w)
{
	struct answer *answer = w->answer;
	struct network *net = &w->in.net;

	if (net->fragment == WHOLE)
		return VERDICT_TX;
	answer->source = net->source;
	answer->destination = net->destination;
	answer->id = net->fragment_id;
	answer->protocol = fragment_protocol(net);
	if (net->fragment == LATER)
		return fragment_recall(w) ? VERDICT_TX : VERDICT_HOLD;
	fragment_record(w);
	answer->release = 1;
	return VERDICT_TX;
}

/* The packet's own direction: an error goes against what it quotes. */
INLINE struct key own_key(const struct work *w)
{
	return w->in.form == FORM_ERROR ? reversed(&w->in.inner) : w->in.key;
}

/* A ping of a public frontend that no rule takes; PASS when it is none. Python twin: _Decision._echo. */
STEP u32 process_echo(struct work *w, u32 index)
{
	const struct image *image;
	const struct entry *entry;
	const struct network *net;
	u32 reason = DROP_PING_IGNORED;

	OWN(w);
	net = &w->in.net;
	image = work_image(w);
	entry = image ? entry_at(image, index) : 0;
	if (!entry || !(entry->flags & ENTRY_ECHO))
		return VERDICT_PASS;
	if (w->in.icmp_type != (net->version == 4 ? ECHO_REQUEST : ECHO_REQUEST6) || net->fragment == LATER)
		return drop(w, DROP_NO_RULE);
	if (!is_allowed(w, index, &w->key.source))
		return drop(w, DROP_SOURCE_NOT_ALLOWED);
	if (net->fragment != WHOLE || net->end - net->l4 > ECHO_BYTES)
		return drop(w, reason);
	if (entry->flags & ENTRY_ECHO_UP && reply_echo(w) == VERDICT_TX)
		return VERDICT_TX;
	if (entry->flags & ENTRY_ECHO_DOWN) {
		reason = DROP_NO_ELIGIBLE_MEMBER;
		if (reply_unreachable(w) == VERDICT_TX) {
			w->answer->reason = reason;
			count_reason(w, reason);
			return VERDICT_TX;
		}
	}
	return drop(w, reason);
}

/* Traffic to a VIP. */
INLINE u32 process_direct(struct work *w)
{
	u32 index, verdict;

	w->key = own_key(w);
	if (!same_address(&w->key.destination, &w->in.net.destination))
		return drop(w, DROP_QUOTE_UNREADABLE);
	if (w->key.destination_port >= HAIRPIN_FIRST && !w->p->asked &&
	    (w->in.form == FORM_ERROR || w->from.flags & ADDRESS_MEMBER)) {
		verdict = hairpin_return(w);
		if (verdict != VERDICT_PASS)
			return verdict;
	}
	index = place_entry(w, &w->key.destination, w->key.destination_port, w->key.protocol, KIND_FRONTEND);
	if (index == NONE && w->to.flags & ADDRESS_SNAT && !w->p->asked) {
		verdict = snat_back(w);
		if (verdict != VERDICT_PASS)
			return verdict;
	}
	index = index == NONE ? w->to.entry : index;
	if (index == NONE)
		return w->to.flags & ADDRESS_LOCAL ? VERDICT_PASS : drop(w, DROP_NO_RULE);
	if (is_icmp(&w->in.net) && w->in.form == FORM_PLAIN && !w->p->asked) {
		verdict = process_echo(w, index);
		if (verdict != VERDICT_PASS)
			return verdict;
	}
	return forward(w, index);
}

/* What a member sends, or an error about what was sent to one. */
INLINE u32 process_answer(struct work *w)
{
	if (w->quoted.flags & ADDRESS_MEMBER) {
		if (!same_address(&w->in.inner.source, &w->in.net.destination))
			return VERDICT_PASS;
		w->key = w->in.inner;
		return reverse(w, &w->quoted);
	}
	w->key = reversed(&w->in.key);
	return reverse(w, &w->from);
}

/* What a member sends on its own account, if it is not for where members are known by their own address. */
INLINE u32 process_own(struct work *w)
{
	w->key = own_key(w);
	return snat_direct(w) ? VERDICT_PASS : snat_out(w);
}

/* The entry that takes what arrives here for other addresses, or NONE. */
INLINE u32 routed_entry(const struct work *w)
{
	struct address interface = {.high = w->in.net.version, .low = w->p->ifindex};

	if (is_link_scope(&w->in.net.destination, w->in.net.version))
		return NONE;
	return place_entry(w, &interface, 0, 0, KIND_INTERFACE);
}

/* Asks in order: is it for a VIP, is it a member's answer, does a member go out on its own account, does it come by a
 * routed interface?
 */
STEP u32 process_ip(struct work *w, u32 reason)
{
	const struct network *net;
	u32 routed = NONE, verdict, near;
	int direct, answer, own;

	OWN(w);
	net = &w->in.net;
	w->quoted.flags = 0;
	if (!net->version || (net->version == 6 && is_mapped(&net->destination)))
		return VERDICT_PASS;
	if (w->in.form == FORM_LINK)
		return reason ? VERDICT_PASS : answer_neighbour(w);
	known_find(w, &net->destination, &w->to);
	known_find(w, &net->source, &w->from);
	direct = !!(w->to.flags & ADDRESS_VIP);
	if (!direct && w->to.flags & ADDRESS_LOCAL)
		return VERDICT_PASS;
	if (!direct && w->in.form == FORM_ERROR && !reason)
		known_find(w, &w->in.inner.destination, &w->quoted);
	near = apart(w->from.flags);
	if (w->in.form == FORM_ERROR)
		near = apart(w->quoted.flags);
	answer = !direct && near & ADDRESS_MEMBER;
	own = !direct && near & ADDRESS_OUTBOUND;
	if (w->p->asked)
		answer = own = 0;
	if (own && (reason || !answer)) {
		w->key = own_key(w);
		own = !snat_direct(w);
	}
	if (!direct)
		routed = routed_entry(w);
	if (!direct && !answer && !own && routed == NONE)
		return VERDICT_PASS;
	if (reason)
		return direct || own || routed != NONE ? drop(w, reason) : VERDICT_PASS;
	if (same_address(&net->source, &net->destination))
		return drop(w, DROP_LAND);
	if (is_martian(&net->source, net->version))
		return drop(w, DROP_MARTIAN);
	verdict = process_fragment(w);
	if (verdict != VERDICT_TX)
		return verdict;
	if (direct)
		return process_direct(w);
	verdict = answer ? process_answer(w) : VERDICT_PASS;
	if (verdict == VERDICT_PASS && own)
		verdict = process_own(w);
	if (verdict != VERDICT_PASS || routed == NONE)
		return verdict;
	w->key = own_key(w);
	return forward(w, routed);
}

/* Decides a frame that has a link header. */
INLINE u32 process_frame(struct work *w)
{
	u32 unicast = !(w->p->data[0] & 1), reason;

	if (w->in.type == TYPE_ARP)
		return answer_arp(w);
	if (w->in.type != TYPE_IPV4 && w->in.type != TYPE_IPV6)
		return VERDICT_PASS;
	if (!unicast && w->in.type == TYPE_IPV4)
		return VERDICT_PASS;
	reason = parse_packet(w->p, &w->in);
	if (!unicast && w->in.form != FORM_LINK)
		return VERDICT_PASS;
	if (unicast && !w->p->asked)
		learn_link(w);
	return process_ip(w, reason);
}

/* Decides one frame and rewrites it in place. The caller has set the frame, where the answer goes, and the time.
 * Python twin: Oracle.process.
 */
INLINE u32 process(struct work *w)
{
	struct answer *answer = w->answer;

	w->in = (struct parsed){0};
	*answer = (struct answer){.ifindex = w->p->ifindex, .member = NONE};
	if (parse_link(w->p, &w->in))
		return VERDICT_PASS;
	answer->verdict = process_frame(w);
	if (answer->verdict == VERDICT_DROP && !w->p->asked)
		count_reason(w, answer->reason);
	return answer->verdict;
}

#endif
