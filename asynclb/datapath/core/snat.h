/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What members open themselves: they leave from a port of a frontend's address, and the answers find back.
 * Python twin: oracle/outbound.py.
 *
 * Laws:
 *   1. A port is free for a destination when no connection to it has that port; so one port serves many destinations.
 *      To UDP an address is one destination, whatever the port: whoever was asked there may answer from any port.
 *   2. A connection has two entries in the flow table, which live and die together: what the member sends finds one, what
 *      comes back the other, which holds the member's address and port in the place of its counters.
 *   3. Ports are tried from one that the connection's keyed hash names, so that nobody can guess them; the next address
 *      only when the one before has none.
 *   4. TCP begins with a SYN. What belongs to no connection, or to a protocol that the rule does not name, is dropped
 *      with a reason: no packet of a member goes out untranslated, but to its direct destinations.
 *   5. Until the other end has answered, the host's routing knows the way; then it is where the answer came from.
 *
 * A slice of up to SNAT_TRIES ports is used to the last one. Larger ones are searched for so many: a connection may find
 * none when more than 99 in 100 ports are taken towards its destination.
 *
 * Source: RFC 4787, 4 and 5; RFC 5382, 4.
 */
#ifndef ASYNCLB_SNAT_H
#define ASYNCLB_SNAT_H


INLINE const struct snat *snat_at(const struct image *image, u32 index)
{
	return index < image->snats.count ? ITEM(image, image->snats, snat, index) : 0;
}

/* The address that connections leave from, by its number, or 0 when these tables do not have it. */
INLINE const struct address *source_at(const struct image *image, u32 number)
{
	const struct address *source;

	if (number >= image->sources.count)
		return 0;
	source = ITEM(image, image->sources, address, number);
	return source->high | source->low ? source : 0;
}

/* What names a connection as the member sees it, from the packet's own key. */
INLINE struct key snat_key(const struct key *own)
{
	struct key key = *own;

	key.kind = KEY_OUTBOUND;
	if (key.protocol == IP_UDP)
		key.destination_port = 0;
	return key;
}

/* What names it as the other end sees it. */
INLINE struct key snat_back_key(const struct key *key, const struct address *source, u32 port)
{
	return (struct key){.source = key->destination,
			    .destination = *source,
			    .source_port = key->destination_port,
			    .destination_port = (u16)port,
			    .protocol = key->protocol,
			    .kind = KEY_OUTBOUND};
}

/* The rule for a member's packet, by its protocol or 0 for what they have in common. */
INLINE u32 snat_index(const struct work *w, const struct address *member, u32 protocol)
{
	return place_entry(w, member, 0, protocol, KIND_SNAT);
}

INLINE u32 snat_rule(const struct work *w, const struct address *member, u32 protocol)
{
	return protocol == IP_TCP || protocol == IP_UDP ? snat_index(w, member, protocol) : NONE;
}

/* Whether a packet of a member's own, which `w->key` names, goes where members are known by their own address. */
STEP u32 snat_direct(const struct work *w)
{
	const struct address *member, *to;
	const struct image *image;
	const struct snat *snat;

	OWN(w);
	to = &w->in.net.destination;
	member = &w->in.net.source;
	if (w->in.form == FORM_ERROR) {
		member = &w->key.source;
		SETTLED(member);
	}
	if (w->in.form == FORM_ERROR && !same_address(&w->key.destination, to))
		return 1; /* it is about something else */
	if (is_link_scope(to, w->in.net.version) || w->to.flags & (ADDRESS_MEMBER | ADDRESS_OUTBOUND))
		return 1;
	image = work_image(w);
	snat = image ? snat_at(image, snat_index(w, member, 0)) : 0;
	return !snat || in_ranges(w, snat->direct.offset, snat->direct.count, to);
}

/* Takes a port, if no connection to this destination has it, for the entry that stands in `w->fresh`. */
STEP u32 snat_try(struct work *w, u32 number, u32 port)
{
	const struct image *image;
	const struct address *source;

	OWN(w);
	image = work_image(w);
	source = image ? source_at(image, number) : 0;
	if (!source)
		return CLAIM_TAKEN;
	w->back = snat_back_key(&w->way.key, source, port);
	w->way.target_port = w->fresh.rest.hairpin_port = (u16)number;
	w->way.translated = (u16)port;
	return flow_claim(w, &w->back);
}

/* Takes a port of one address. */
STEP u32 snat_claim(struct work *w, u32 index)
{
	const struct snat_slice *slice;
	const struct image *image;
	u32 claimed = CLAIM_TAKEN, first, count;

	OWN(w);
	image = work_image(w);
	if (!image || index >= image->slices.count)
		return CLAIM_TAKEN;
	slice = ITEM(image, image->slices, snat_slice, index);
	count = slice->count;
	first = scale((u32)(passage_hash(image, &w->way) >> 32), count);
	UNROLL
	for (u32 i = 0; i < SNAT_TRIES; i++) {
		if (i >= apart(count) || claimed != CLAIM_TAKEN)
			break;
		u32 place = first + i >= count ? first + i - count : first + i;
		const u16 *block = image_item(image, image->blocks, slice->first + place / SNAT_BLOCK, 2);

		claimed = snat_try(w, slice->source, *block * SNAT_BLOCK + place % SNAT_BLOCK);
	}
	return claimed;
}

/* The half of a connection that answers find. */
INLINE struct flow snat_half(const struct work *w, const struct snat *snat)
{
	return (struct flow){.flags = (u8)(FLOW_RETURN | FLOW_SNAT | (snat->flags & SNAT_RESET ? FLOW_RESET : 0)),
			     .rule = (u16)snat->rule,
			     .member = (u16)snat->member,
			     .bytes_in = w->way.key.source.high,
			     .bytes_out = w->way.key.source.low,
			     .target_port = w->way.key.source_port,
			     .deadline_ms = w->now_ms + SYN_MS,
			     .rest = {.created_s = w->now_s}};
}

/* Whether an answer's half belongs to the connection of this passage. */
INLINE int is_half(const struct work *w, const struct flow *half)
{
	const struct key *key = &w->way.key;

	return half->flags & FLOW_SNAT && half->bytes_in == key->source.high && half->bytes_out == key->source.low &&
	       half->target_port == key->source_port;
}

/* Begins a connection: a port, and both entries. Returns a drop reason. */
INLINE u32 snat_start(struct work *w, const struct snat *snat, struct flow_ref *found)
{
	struct count *count = member_count(w, snat->member);
	u32 claimed = CLAIM_TAKEN;
	struct flow_ref back;

	w->fresh = snat_half(w, snat);
	UNROLL
	for (u32 i = 0; i < SNAT_SLICES; i++) {
		if (i >= apart(snat->slices.count) || claimed != CLAIM_TAKEN)
			break;
		claimed = snat_claim(w, snat->slices.offset + i);
	}
	if (claimed != CLAIM_DONE) {
		if (count)
			count->syn++; /* an attempt that failed */
		return claimed == CLAIM_FULL ? DROP_FLOW_TABLE_FULL : DROP_SNAT_PORTS_EXHAUSTED;
	}
	w->fresh.flags &= (u8)~FLOW_RETURN;
	w->fresh.bytes_in = w->fresh.bytes_out = 0;
	w->fresh.target_port = w->way.target_port;
	w->fresh.rest.hairpin_port = w->way.translated;
	*found = flow_insert(w, &w->way.key, w->way.hash, &w->fresh);
	if (!found->flow) {
		back = flow_find(w, &w->back, flow_hash(w, &w->back));
		if (back.flow)
			flow_touch(back, w->now_ms);
		return DROP_FLOW_TABLE_FULL;
	}
	flow_begun(w, *found);
	count_flow(w, found->flow, 1);
	count_new(rule_count(w, snat->rule));
	count_new(count);
	return DROP_NONE;
}

/* Finds the connection of a member's packet, or begins it; returns a drop reason. */
INLINE u32 snat_find(struct work *w, const struct image *image, const struct snat *snat, struct flow_ref *found)
{
	struct passage *way = &w->way;

	way->key = snat_key(&w->key);
	way->hash = flow_hash(w, &way->key);
	way->event = passage_event(w);
	way->outward = 0;
	*found = flow_find(w, &way->key, way->hash);
	if (found->flow && !source_at(image, found->flow->target_port)) {
		flow_touch(*found, w->now_ms); /* its address is no frontend's any more */
		found->flow = 0;
	}
	if (found->flow)
		return DROP_NONE;
	if (!is_plain(&w->in) || (way->key.protocol == IP_TCP && (w->in.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN))
		return DROP_NO_FLOW;
	return snat_start(w, snat, found);
}

/* Lets both halves take notice. */
INLINE void snat_notice(struct work *w, const struct snat *snat, struct flow_ref found, struct flow_ref back)
{
	flow_notice(w, found.flow->rule, snat->idle_ms, found);
	if (w->in.form == FORM_ERROR)
		return;
	back.flow->state = found.flow->state;
	if (w->way.outward && w->way.key.protocol == IP_TCP && is_plain(&w->in) && w->in.tcp_flags & TCP_ACK)
		hear_ack(flow_rest(w, back), w->in.ack, 0); /* what the other end has acknowledged */
	flow_touch(back, w->now_ms + timeout_ms(found.flow, snat->idle_ms));
}

/* Rewrites what goes out, or an error of the member's about what came in. */
INLINE void rewrite_outward(struct work *w, const struct address *source, u32 port)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	u32 difference;

	if (w->in.form != FORM_ERROR) {
		set_address(w->p, net, 0, source);
		set_port(w->p, net, 0, port);
		return;
	}
	difference = set_address(w->p, quoted, 1, source);
	difference += set_port(w->p, quoted, 1, port);
	follow_icmp(w->p, net, difference);
	if (same_address(&net->source, &w->key.source))
		set_address(w->p, net, 0, source);
}

/* What a member sends on its own account, which `w->key` names. Python twin: Outbound._snat_out. */
STEP u32 snat_out(struct work *w)
{
	const struct image *image;
	const struct snat *snat;
	struct flow_ref found, back;
	const u8 *ours;
	u32 reason, port, mtu;

	OWN(w);
	image = work_image(w);
	if (!image)
		return VERDICT_PASS;
	snat = snat_at(image, snat_rule(w, &w->key.source, w->key.protocol));
	if (!snat) {
		snat = snat_at(image, snat_index(w, &w->key.source, 0));
		return drop(w, snat && snat->flags & SNAT_CLOSED ? DROP_NO_OUTBOUND_RULE : DROP_SNAT_PROTOCOL);
	}
	reason = snat_find(w, image, snat, &found);
	if (reason)
		return drop(w, reason);
	if (!found.flow || found.flow->flags & FLOW_OVER)
		return found.flow ? over(w, found, 0) : drop(w, DROP_NO_FLOW);
	w->way.member = found.flow->member;
	port = flow_port(w, found);
	if (!source_at(image, found.flow->target_port))
		return drop(w, DROP_NO_FLOW);
	w->source = *source_at(image, found.flow->target_port);
	w->back = snat_back_key(&w->way.key, &w->source, port);
	back = flow_find(w, &w->back, flow_hash(w, &w->back));
	if (!back.flow) { /* BPF: the kernel needed the room */
		w->fresh = snat_half(w, snat);
		w->fresh.rest.hairpin_port = found.flow->target_port;
		back = flow_insert(w, &w->back, flow_hash(w, &w->back), &w->fresh);
		if (FLOWS_MOVE)
			found = flow_find(w, &w->way.key, w->way.hash);
	}
	if (!back.flow || !found.flow || !is_half(w, back.flow))
		return drop(w, DROP_NO_FLOW);
	mtu = back.flow->ifindex ? client_mtu(w, back.flow->ifindex) : 0;
	if (mtu)
		return too_big(w, &w->source, mtu);
	snat_notice(w, snat, found, back);
	if (is_plain(&w->in))
		flow_client(w, found.flow);
	rewrite_outward(w, &w->source, port);
	ours = back.flow->ifindex && w->way.event != EVENT_SYN ? our_link(w, back.flow->ifindex) : 0;
	return ours ? transmit(w, back.flow->ifindex, back.flow->client_link, ours) : host_routes(w);
}

/* Rewrites what comes back, or an error about what went out. */
INLINE void rewrite_inward(struct work *w)
{
	const struct network *net = &w->in.net, *quoted = &w->in.quoted;
	const struct key *key = &w->way.key;
	u32 difference;

	if (w->in.form != FORM_ERROR) {
		set_address(w->p, net, 1, &key->source);
		set_port(w->p, net, 1, key->source_port);
		return;
	}
	difference = set_address(w->p, quoted, 0, &key->source);
	difference += set_port(w->p, quoted, 0, key->source_port);
	follow_icmp(w->p, net, difference);
	set_address(w->p, net, 1, &key->source);
}

/* What comes to an address that connections leave from, on a port that no rule has: PASS when it belongs to none of
 * them. Python twin: Outbound._snat_back.
 */
STEP u32 snat_back(struct work *w)
{
	const struct image *image;
	const struct snat *snat;
	struct flow_ref found, back;
	struct passage *way;
	u32 mtu;

	OWN(w);
	way = &w->way;
	image = work_image(w);
	w->back = w->key;
	w->back.kind = KEY_OUTBOUND;
	if (w->back.protocol == IP_UDP)
		w->back.source_port = 0;
	back = flow_find(w, &w->back, flow_hash(w, &w->back));
	if (!image || !back.flow || !(back.flow->flags & FLOW_SNAT))
		return VERDICT_PASS;
	way->key = (struct key){.source = {.high = back.flow->bytes_in, .low = back.flow->bytes_out},
				.destination = w->back.source,
				.source_port = back.flow->target_port,
				.destination_port = w->back.source_port,
				.protocol = w->back.protocol,
				.kind = KEY_OUTBOUND};
	found = flow_find(w, &way->key, flow_hash(w, &way->key));
	snat = snat_at(image, snat_rule(w, &way->key.source, way->key.protocol));
	if (!found.flow || !snat || flow_port(w, found) != w->back.destination_port)
		return drop(w, DROP_NO_FLOW);
	if (found.flow->flags & FLOW_OVER)
		return over(w, found, 1);
	mtu = client_mtu(w, found.flow->ifindex);
	if (mtu)
		return too_big(w, &w->key.destination, mtu);
	way->member = found.flow->member;
	way->event = passage_event(w);
	way->outward = 1;
	snat_notice(w, snat, found, back);
	if (is_plain(&w->in))
		flow_client(w, back.flow);
	rewrite_inward(w);
	return to_client(w, found.flow);
}

#endif
