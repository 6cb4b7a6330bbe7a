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

#include "fragment.h"
#include "rewrite.h"

struct work {
	struct core_memory *core;
	const struct image *image;
	struct packet *p;
	struct answer *answer;
	const struct place *to, *from; /* what the image says of the destination and the source, or 0 */
	struct parsed in;
	u32 now_ms, now_s;
};

/* A flow as one packet meets it. */
struct passage {
	const struct entry *entry;
	struct key key; /* as in the flow table */
	u64 hash;
	struct flow_ref found;
	u32 member;
	u32 event;
	u16 target_port;
	u8 swapped; /* the packet's source is the key's destination */
	u8 outward; /* the packet comes from the other end than the flow's first */
	u8 fresh;   /* the flow starts (again) with this packet */
};

INLINE u32 drop(struct work *w, u32 reason)
{
	w->answer->reason = reason;
	return VERDICT_DROP;
}

INLINE int is_plain(const struct parsed *in)
{
	return in->form == FORM_PLAIN && in->net.fragment != LATER;
}

INLINE u64 passage_hash(const struct image *image, const struct key *key)
{
	return key_hash(image->key0, image->key1, *key, DISTRIBUTION_FIVE_TUPLE, 0);
}

INLINE struct key reversed(const struct key *key)
{
	return (struct key){.source = key->destination,
			    .destination = key->source,
			    .source_port = key->destination_port,
			    .destination_port = key->source_port,
			    .protocol = key->protocol};
}

INLINE u32 transmit(struct work *w, u32 ifindex, const u8 *destination, const u8 *source)
{
	set_links(w->p, destination, source);
	w->answer->ifindex = ifindex;
	return VERDICT_TX;
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

/* ARP for a VIP that the host does not own is a question for Python. Python twin: Oracle.arp. */
INLINE u32 process_arp(struct work *w)
{
	const u8 *h = at(w->p, w->in.net.l3, 28);
	const struct place *place;
	struct address target;

	if (!h || load_be16(h + 2) != TYPE_IPV4)
		return VERDICT_PASS;
	target = address4(h + 24);
	place = place_find(w->image, &target, 0, 0, KIND_ADDRESS);
	return place && (place->flags & (ADDRESS_VIP | ADDRESS_LOCAL)) == ADDRESS_VIP ? VERDICT_PUNT : VERDICT_PASS;
}

INLINE u32 process_neighbour(struct work *w)
{
	const u8 *h = at(w->p, w->in.net.l4, 24);
	const struct place *place;
	struct address target;

	if (!h || h[0] != NEIGHBOUR_SOLICITATION)
		return VERDICT_PASS;
	target = address6(h + 8);
	place = place_find(w->image, &target, 0, 0, KIND_ADDRESS);
	return place && (place->flags & (ADDRESS_VIP | ADDRESS_LOCAL)) == ADDRESS_VIP ? VERDICT_PUNT : VERDICT_PASS;
}

/* Finds the flow of a packet that goes the way of `key`. */
INLINE void passage_find(struct work *w, struct passage *way, const struct entry *entry, const struct key *key)
{
	way->entry = entry;
	way->key = *key;
	if (entry->flags & ENTRY_SYMMETRIC) {
		way->key.kind = KEY_SYMMETRIC;
		way->swapped = (u8)key_order(&way->key);
	}
	way->hash = passage_hash(w->image, &way->key);
	way->event = key->protocol == IP_TCP && is_plain(&w->in) ? tcp_event(w->in.tcp_flags) : EVENT_OTHER;
	way->found = flow_find(w->core, &way->key, way->hash, w->now_ms);
	way->member = NONE;
	way->target_port = entry->backend_port;
	if (!way->found.flow)
		return;
	way->outward = way->swapped != (way->found.flow->flags & FLOW_SWAPPED);
	way->member = flow_member(w->image, entry, way->found.flow);
	way->target_port = way->found.flow->target_port;
}

/* Decides the member: the flow's own, or for a new flow the Maglev table's. A SYN that was never answered, or that
 * follows a closed connection, asks the table again. Python twin: Oracle.choose_member.
 */
INLINE u32 passage_choose(struct work *w, struct passage *way)
{
	const struct flow *flow = way->found.flow;
	u32 chosen;

	way->fresh = way->member == NONE;
	if (way->member != NONE && way->event == EVENT_SYN && !way->outward)
		way->fresh = flow->state == CONN_SYN || flow->state == CONN_CLOSED;
	if (!way->fresh)
		return DROP_NONE;
	chosen = choose(w->image, way->entry, &way->key, way->hash);
	if (chosen == NONE)
		return DROP_NO_ELIGIBLE_MEMBER;
	/* A repeated SYN that meets the same member goes on with its flow. */
	if (chosen == way->member && flow && flow->state == CONN_SYN)
		way->fresh = 0;
	else
		way->target_port = way->entry->backend_port;
	way->member = chosen;
	return DROP_NONE;
}

/* Whether the client is itself a member that this entry delivers to, so that its source must be translated. */
INLINE int is_hairpin(const struct work *w, const struct passage *way, const struct key *key)
{
	const struct entry *entry = way->entry, *other;
	const struct place *exact;

	if (entry->delivery != DELIVERY_NAT || !w->from || !(w->from->flags & ADDRESS_MEMBER))
		return 0;
	exact = place_find(w->image, &key->source, entry->backend_port, key->protocol, KIND_REVERSE);
	other = entry_at(w->image, exact ? exact->entry : w->from->reverse);
	return other == entry;
}

/* Gives a hairpin flow a port of the VIP, and the way back an entry of its own, whose counters hold the client.
 * Python twin: Oracle.hairpin.
 */
INLINE u16 hairpin_port(struct work *w, const struct passage *way, const struct member_record *member)
{
	const struct key *key = &way->key;
	struct key back = {.source = member->address,
			   .destination = key->destination,
			   .source_port = way->target_port ? way->target_port : key->destination_port,
			   .protocol = key->protocol};

	for (u32 i = 0; i < HAIRPIN_TRIES; i++) {
		u16 port = (u16)(HAIRPIN_FIRST + (((u32)way->hash + i) & (HAIRPIN_PORTS - 1)));
		struct flow_ref ref;
		u64 hash;

		back.destination_port = port;
		hash = passage_hash(w->image, &back);
		if (flow_find(w->core, &back, hash, w->now_ms).flow)
			continue;
		ref = flow_insert(w->core, &back, hash, w->now_ms);
		if (!ref.flow)
			return 0;
		ref.flow->flags = FLOW_RETURN;
		ref.flow->bytes_in = key->source.high;
		ref.flow->bytes_out = key->source.low;
		ref.flow->member = way->member;
		ref.flow->rule = way->entry->rule;
		ref.flow->target_port = key->source_port;
		ref.flow->hairpin_port = key->destination_port;
		*ref.deadline_ms = w->now_ms + way->entry->idle_ms;
		return port;
	}
	return 0;
}

/* Starts a flow, or starts an old one anew. */
INLINE int flow_start(struct work *w, struct passage *way, u16 translated)
{
	struct flow *flow = way->found.flow;

	if (flow) {
		rule_count(w->core, flow->rule)->flows--;
		member_count(w->core, flow->member)->flows--;
	} else {
		way->found = flow_insert(w->core, &way->key, way->hash, w->now_ms);
		flow = way->found.flow;
	}
	if (!flow)
		return 0;
	*flow = (struct flow){.key = way->key,
			      .member = way->member,
			      .rule = way->entry->rule,
			      .generation = w->image->generation,
			      .created_s = w->now_s,
			      .target_port = way->target_port,
			      .hairpin_port = translated};
	flow->flags = (u8)((way->swapped ? FLOW_SWAPPED : 0) | (translated ? FLOW_HAIRPIN : 0) |
			   (way->entry->flags & ENTRY_RESET ? FLOW_RESET : 0) |
			   (way->entry->delivery == DELIVERY_NAT ? FLOW_NAT : 0));
	way->outward = 0;
	rule_count(w->core, flow->rule)->flows++;
	rule_count(w->core, flow->rule)->new_flows++;
	member_count(w->core, flow->member)->flows++;
	member_count(w->core, flow->member)->new_flows++;
	return 1;
}

/* Counts a packet and lets its flow take notice of it. */
INLINE void flow_notice(struct work *w, struct passage *way)
{
	struct flow *flow = way->found.flow;
	u32 bytes = w->p->length;

	count_packet(rule_count(w->core, way->entry->rule), bytes, way->outward);
	count_packet(member_count(w->core, way->member), bytes, way->outward);
	if (way->event == EVENT_SYN && !way->outward && !(w->in.tcp_flags & TCP_ACK))
		rule_count(w->core, way->entry->rule)->syn++;
	if (!flow || w->in.form == FORM_ERROR)
		return;
	if (way->outward) {
		flow->packets_out++;
		flow->bytes_out += bytes;
	} else {
		flow->packets_in++;
		flow->bytes_in += bytes;
	}
	if (flow->key.protocol == IP_TCP && is_plain(&w->in)) {
		flow->state = tcp_next(flow->state, way->event, way->outward);
		if (w->in.tcp_flags & TCP_ACK && way->outward)
			flow->ack_out = w->in.ack;
		else if (w->in.tcp_flags & TCP_ACK)
			flow->ack_in = w->in.ack;
	}
	*way->found.deadline_ms = w->now_ms + timeout_ms(flow, way->entry->idle_ms);
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

/* Keeps the way back of a hairpin alive as long as the way there. */
INLINE void hairpin_touch(struct work *w, const struct passage *way, const struct member_record *member)
{
	const struct flow *flow = way->found.flow;
	struct key back = {.source = member->address,
			   .destination = flow->key.destination,
			   .source_port = flow->target_port ? flow->target_port : flow->key.destination_port,
			   .destination_port = flow->hairpin_port,
			   .protocol = flow->key.protocol};
	struct flow_ref ref = flow_find(w->core, &back, passage_hash(w->image, &back), w->now_ms);

	if (ref.flow)
		*ref.deadline_ms = w->now_ms + way->entry->idle_ms;
}

/* Rewrites what goes to the member. An error has its quote rewritten too: there, the flow goes the other way. */
INLINE void rewrite_forward(struct work *w, const struct passage *way, const struct member_record *member, u16 translated)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	u32 difference;

	if (way->entry->delivery != DELIVERY_NAT)
		return;
	if (w->in.form == FORM_ERROR) {
		difference = set_address(w->p, quoted, 0, &member->address);
		if (way->target_port)
			difference += set_port(w->p, quoted, 0, way->target_port);
		follow_quote(w->p, net, difference);
		set_address(w->p, net, 1, &member->address);
		return;
	}
	set_address(w->p, net, 1, &member->address);
	if (way->target_port)
		set_port(w->p, net, 1, way->target_port);
	if (translated) {
		set_address(w->p, net, 0, &way->entry->vip);
		set_port(w->p, net, 0, translated);
	}
}

/* What a client sends, or an error on its way to a member. Python twin: Oracle.forward. */
INLINE u32 forward(struct work *w, const struct entry *entry, const struct key *key)
{
	const struct member_record *member;
	const u8 *link = at(w->p, 6, 6);
	struct passage way = {0};
	u16 translated = 0;
	struct hop *hop;
	u32 reason;

	passage_find(w, &way, entry, key);
	if (way.found.flow && way.found.flow->flags & FLOW_RETURN)
		return drop(w, DROP_NO_FLOW);
	if (!(way.found.flow && way.outward) && !is_allowed(w->image, entry, &key->source))
		return drop(w, DROP_SOURCE_NOT_ALLOWED);
	if (entry->delivery == DELIVERY_ROUTED && link && is_appliance(w->core, link))
		return VERDICT_PASS; /* it has been through an appliance: the host routes it on */
	reason = passage_choose(w, &way);
	if (reason)
		return drop(w, reason);
	member = image_member(w->image, way.member);
	hop = member ? core_hop(w->core, member->next_hop) : 0;
	if (!hop || !hop->resolved) {
		if (hop)
			hop->wanted = 1;
		return drop(w, DROP_NEXT_HOP_UNRESOLVED);
	}
	if (hop->mtu && w->in.net.end - w->in.net.l3 > hop->mtu && !w->p->segmented)
		return drop(w, DROP_TOO_BIG);
	if (way.found.flow && !way.fresh && way.found.flow->flags & FLOW_HAIRPIN) {
		translated = way.found.flow->hairpin_port;
		hairpin_touch(w, &way, member);
	} else if (way.fresh && is_hairpin(w, &way, key)) {
		if (!is_plain(&w->in) || (key->protocol != IP_TCP && key->protocol != IP_UDP))
			return drop(w, DROP_NO_HAIRPIN);
		translated = hairpin_port(w, &way, member);
		if (!translated)
			return drop(w, DROP_FLOW_TABLE_FULL);
		way.found = flow_find(w->core, &way.key, way.hash, w->now_ms); /* it may have moved */
	}
	if (way.fresh && is_plain(&w->in) && way.event != EVENT_RST && !flow_start(w, &way, translated)) {
		w->core->stateless++;
		if (translated)
			return drop(w, DROP_FLOW_TABLE_FULL);
	}
	if (way.fresh && !is_plain(&w->in))
		way.found.flow = 0; /* an error or a later fragment starts nothing */
	flow_notice(w, &way);
	if (way.found.flow && is_plain(&w->in) && !way.outward)
		flow_client(w, way.found.flow);
	rewrite_forward(w, &way, member, translated);
	return transmit(w, hop->ifindex, hop->destination, hop->source);
}

/* Sends what now carries the VIP as its source to the client, by the link address that it came from. */
INLINE u32 to_client(struct work *w, const struct flow *flow)
{
	const struct interface *ours = core_interface(w->core, flow->ifindex);

	return ours ? transmit(w, flow->ifindex, flow->client_link, ours->link) : drop(w, DROP_NO_EGRESS);
}

/* The other half of a hairpin: a member answers the VIP's translated port. Python twin: Oracle.hairpin_return. */
INLINE u32 hairpin_return(struct work *w, const struct key *key)
{
	struct flow_ref back = flow_find(w->core, key, passage_hash(w->image, key), w->now_ms);
	struct passage way = {.outward = 1};

	if (!back.flow || !(back.flow->flags & FLOW_RETURN))
		return VERDICT_PASS;
	way.key = (struct key){.source = {.high = back.flow->bytes_in, .low = back.flow->bytes_out},
			       .destination = key->destination,
			       .source_port = back.flow->target_port,
			       .destination_port = back.flow->hairpin_port,
			       .protocol = key->protocol};
	way.found = flow_find(w->core, &way.key, passage_hash(w->image, &way.key), w->now_ms);
	way.entry = frontend_find(w->image, w->to, way.key.destination_port, key->protocol);
	if (!way.found.flow || !way.entry || w->in.form == FORM_ERROR)
		return drop(w, DROP_NO_FLOW);
	*back.deadline_ms = w->now_ms + way.entry->idle_ms;
	way.member = way.found.flow->member;
	way.event = key->protocol == IP_TCP && is_plain(&w->in) ? tcp_event(w->in.tcp_flags) : EVENT_OTHER;
	flow_notice(w, &way);
	set_address(w->p, &w->in.net, 0, &key->destination);
	set_port(w->p, &w->in.net, 0, way.key.destination_port);
	set_address(w->p, &w->in.net, 1, &way.key.source);
	set_port(w->p, &w->in.net, 1, way.key.source_port);
	return to_client(w, way.found.flow);
}

/* Rewrites what a member, or a router behind the balancer, sends to a client. */
INLINE void rewrite_reverse(struct work *w, const struct entry *entry, const struct address *member, u16 port)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	u32 difference;

	if (w->in.form == FORM_ERROR) {
		difference = set_address(w->p, quoted, 1, &entry->vip) + set_port(w->p, quoted, 1, port);
		follow_quote(w->p, net, difference);
		if (same_address(&net->source, member))
			set_address(w->p, net, 0, &entry->vip);
		return;
	}
	set_address(w->p, net, 0, &entry->vip);
	set_port(w->p, net, 0, port);
}

/* Answers of one entry's members: `key` is that of what the client had sent, with the member in the VIP's place.
 * Returns PASS when there is no such flow: members have connections of their own. Python twin: Oracle.answer.
 */
INLINE u32 reverse_by(struct work *w, const struct entry *entry, const struct key *key)
{
	struct address from = key->destination;
	const struct member_record *member;
	struct passage way = {.outward = 1};
	u16 port = entry->backend_port ? entry->port : key->destination_port;

	way.entry = entry;
	way.key = *key;
	way.key.destination = entry->vip;
	way.key.destination_port = port;
	way.found = flow_find(w->core, &way.key, passage_hash(w->image, &way.key), w->now_ms);
	if (!way.found.flow)
		return VERDICT_PASS;
	way.member = way.found.flow->member;
	member = image_member(w->image, way.member);
	if (!member || !same_address(&member->address, &from))
		return drop(w, DROP_NO_FLOW);
	way.event = key->protocol == IP_TCP && is_plain(&w->in) ? tcp_event(w->in.tcp_flags) : EVENT_OTHER;
	flow_notice(w, &way);
	rewrite_reverse(w, entry, &from, port);
	return to_client(w, way.found.flow);
}

/* An answer without a flow (the table was full) goes to where clients usually are; a SYN is no answer. */
INLINE u32 reverse_stateless(struct work *w, const struct entry *entry, const struct key *key)
{
	struct hop *hop = core_hop(w->core, entry->return_hop);

	if (!hop || !hop->resolved || w->in.form == FORM_ERROR)
		return VERDICT_PASS;
	if (key->protocol == IP_TCP && (w->in.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return VERDICT_PASS;
	count_packet(rule_count(w->core, entry->rule), w->p->length, 1);
	w->core->stateless++;
	rewrite_reverse(w, entry, &key->destination, entry->port);
	return transmit(w, hop->ifindex, hop->destination, hop->source);
}

/* `member` is what the image says of the member's address. */
INLINE u32 reverse(struct work *w, const struct place *member, const struct key *key)
{
	const struct place *exact =
		place_find(w->image, &member->address, key->destination_port, key->protocol, KIND_REVERSE);
	const struct entry *entry = exact ? entry_at(w->image, exact->entry) : 0, *any;
	u32 verdict = entry ? reverse_by(w, entry, key) : VERDICT_PASS;

	any = entry_at(w->image, member->reverse);
	if (verdict == VERDICT_PASS && any)
		verdict = reverse_by(w, any, key);
	if (verdict == VERDICT_PASS && entry)
		verdict = reverse_stateless(w, entry, key);
	return verdict;
}

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
		return fragment_recall(w->core, net, &w->in.key, w->now_ms) ? VERDICT_TX : VERDICT_HOLD;
	fragment_record(w->core, net, &w->in.key, w->now_ms);
	answer->release = 1;
	return VERDICT_TX;
}

/* Traffic to a VIP. */
INLINE u32 process_direct(struct work *w)
{
	struct key key = w->in.form == FORM_ERROR ? reversed(&w->in.inner) : w->in.key;
	const struct entry *entry;
	u32 verdict;

	if (!same_address(&key.destination, &w->in.net.destination))
		return drop(w, DROP_QUOTE_UNREADABLE);
	if (w->from && w->from->flags & ADDRESS_MEMBER && key.destination_port >= HAIRPIN_FIRST) {
		verdict = hairpin_return(w, &key);
		if (verdict != VERDICT_PASS)
			return verdict;
	}
	entry = frontend_find(w->image, w->to, key.destination_port, key.protocol);
	if (!entry && w->to->flags & ADDRESS_LOCAL)
		return VERDICT_PASS;
	return entry ? forward(w, entry, &key) : drop(w, DROP_NO_RULE);
}

/* What a member sends, or an error about what was sent to one. */
INLINE u32 process_answer(struct work *w, const struct place *quoted)
{
	struct key key;

	if (quoted) {
		if (!same_address(&w->in.inner.source, &w->in.net.destination))
			return VERDICT_PASS;
		return reverse(w, quoted, &w->in.inner);
	}
	key = reversed(&w->in.key);
	return reverse(w, w->from, &key);
}

INLINE const struct entry *routed_entry(const struct work *w)
{
	struct address interface = {.high = w->in.net.version, .low = w->p->ifindex};
	const struct place *place = place_find(w->image, &interface, 0, 0, KIND_INTERFACE);

	if (!place || is_link_scope(&w->in.net.destination, w->in.net.version))
		return 0;
	return entry_at(w->image, place->entry);
}

/* Asks in order: is it for a VIP, is it a member's answer, does it come by a routed interface? */
INLINE u32 process_ip(struct work *w, u32 reason)
{
	const struct network *net = &w->in.net;
	const struct place *quoted = 0;
	const struct entry *routed;
	int direct, answer;
	struct key key;
	u32 verdict;

	if (!net->version || (net->version == 6 && is_mapped(&net->destination)))
		return VERDICT_PASS;
	if (w->in.form == FORM_LINK)
		return reason ? VERDICT_PASS : process_neighbour(w);
	w->to = place_find(w->image, &net->destination, 0, 0, KIND_ADDRESS);
	w->from = place_find(w->image, &net->source, 0, 0, KIND_ADDRESS);
	direct = w->to && w->to->flags & ADDRESS_VIP;
	if (!direct && w->to && w->to->flags & ADDRESS_LOCAL)
		return VERDICT_PASS;
	if (!direct && w->in.form == FORM_ERROR && !reason)
		quoted = place_find(w->image, &w->in.inner.destination, 0, 0, KIND_ADDRESS);
	if (quoted && !(quoted->flags & ADDRESS_MEMBER))
		quoted = 0;
	answer = !direct && (quoted || (w->in.form != FORM_ERROR && w->from && w->from->flags & ADDRESS_MEMBER));
	routed = direct ? 0 : routed_entry(w);
	if (!direct && !answer && !routed)
		return VERDICT_PASS;
	if (reason)
		return direct || routed ? drop(w, reason) : VERDICT_PASS;
	if (same_address(&net->source, &net->destination))
		return drop(w, DROP_LAND);
	if (is_martian(&net->source, net->version))
		return drop(w, DROP_MARTIAN);
	verdict = process_fragment(w);
	if (verdict != VERDICT_TX)
		return verdict;
	if (direct)
		return process_direct(w);
	verdict = answer ? process_answer(w, quoted) : VERDICT_PASS;
	if (verdict != VERDICT_PASS || !routed)
		return verdict;
	key = w->in.form == FORM_ERROR ? reversed(&w->in.inner) : w->in.key;
	return forward(w, routed, &key);
}

/* Decides one frame and rewrites it in place. Python twin: Oracle.process. */
INLINE u32 process(struct core_memory *core, struct packet *p, u64 now_ns, struct answer *answer)
{
	struct work w = {.core = core, .image = core_image(core), .p = p, .answer = answer};
	u32 reason = parse_link(p, &w.in);
	u32 unicast;

	w.now_ms = (u32)(now_ns / 1000000);
	w.now_s = (u32)(now_ns / 1000000000);
	*answer = (struct answer){.ifindex = p->ifindex};
	if (reason || !w.image)
		return answer->verdict = VERDICT_PASS;
	if (w.in.type == TYPE_ARP)
		return answer->verdict = process_arp(&w);
	if (w.in.type != TYPE_IPV4 && w.in.type != TYPE_IPV6)
		return answer->verdict = VERDICT_PASS;
	unicast = !(p->data[0] & 1);
	if (!unicast && w.in.type == TYPE_IPV4)
		return answer->verdict = VERDICT_PASS;
	reason = parse_packet(p, &w.in);
	if (!unicast && w.in.form != FORM_LINK)
		return answer->verdict = VERDICT_PASS;
	if (!core_interface(core, p->ifindex) && unicast)
		learn_interface(core, p->ifindex, p->data, 0);
	answer->verdict = process_ip(&w, reason);
	if (answer->verdict == VERDICT_DROP)
		count_drop(core, answer->reason);
	return answer->verdict;
}

#endif
