/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The fuzzing target: an input is a conversation of frames through one core, each in memory of exactly its size, so
 * that the sanitizer sees any step beyond it. Works with libFuzzer, and with drive.c where there is none.
 *
 * An input is a sequence of (kind, seconds, length high, length low, bytes); `kind` & 1 is the interface, & 2 a partial
 * checksum at offset 34, & 4 a sweep, & 8 parses the bytes as an image instead.
 */
#define ASYNCLB_HOSTED
#include "native.c"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4
#define LIMIT 64

static struct core_memory core;

static void *words(size_t size)
{
	return calloc(1, size);
}

static void *file(const char *name, size_t *size)
{
	FILE *from = fopen(name, "rb");
	void *data;

	if (!from)
		abort();
	fseek(from, 0, SEEK_END);
	*size = (size_t)ftell(from);
	rewind(from);
	data = malloc(*size);
	if (fread(data, 1, *size, from) != *size)
		abort();
	fclose(from);
	return data;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	size_t size;
	void *image = file(getenv("ASYNCLB_FUZZ_IMAGE"), &size);

	(void)argc;
	(void)argv;
	core.hops = (uintptr_t)words(LIMIT * sizeof(struct hop));
	core.buckets = (uintptr_t)words(BUCKETS * sizeof(struct bucket));
	core.rules = (uintptr_t)words(LIMIT * sizeof(struct count));
	core.members = (uintptr_t)words(LIMIT * sizeof(struct count));
	core.drops = (uintptr_t)words(256 * sizeof(u64));
	core.fragments = (uintptr_t)words(FRAGMENT_SETS * FRAGMENT_WAYS * sizeof(struct fragment));
	core.held = (uintptr_t)words(HELD * sizeof(struct held));
	core.clients = (uintptr_t)words(CLIENTS * sizeof(struct client));
	core.appliances = (uintptr_t)words(APPLIANCES * sizeof(u64));
	core.hop_limit = core.rule_limit = core.member_limit = LIMIT;
	core.bucket_count = BUCKETS;
	core.flow_limit = BUCKETS * 8;
	core.drop_limit = 256;
	if (!asynclb_core_publish(&core, image, size))
		abort();
	for (u32 i = 0; i < LIMIT; i++) {
		struct hop hop = {.ifindex = 12, .mtu = 1500, .destination = {2, 0, 0, 0, 0xbb, (u8)i}, .resolved = 1};

		asynclb_core_set_hop(&core, i, &hop);
	}
	return 0;
}

/* A damaged image must be refused or be harmless; the checked one goes back in. */
static void try_image(const u8 *data, u32 size)
{
	u64 before = core.image;
	struct image *copy = malloc(size + sizeof(struct image));

	memcpy(copy, data, size);
	asynclb_core_publish(&core, copy, size);
	asynclb_core_publish(&core, (void *)(uintptr_t)before, ((struct image *)(uintptr_t)before)->size);
	free(copy);
}

/* What is dropped has a reason, and nothing else has one but what its sender is told about in its place. */
static int fits(u32 verdict, u32 reason)
{
	if (verdict == VERDICT_TX && (reason == DROP_FLOW_EXPIRED || reason == DROP_NO_ELIGIBLE_MEMBER))
		return 1;
	return (verdict == VERDICT_DROP) == (reason != DROP_NONE);
}

static void try_frame(const u8 *data, u32 size, u32 kind, u64 now_ns)
{
	struct answer answer, later;
	u8 *frame = malloc(size ? size : 1);

	memcpy(frame, data, size);
	asynclb_core_process(&core, frame, size, 11 + (kind & 1), kind & 2 ? 34 : NONE, 16,
			     kind & 16 ? 1000 : 0, now_ns, &answer);
	if (answer.verdict > VERDICT_HOLD || !fits(answer.verdict, answer.reason))
		abort();
	while (answer.release && asynclb_core_release(&core, &answer, now_ns, &later))
		if (later.verdict == VERDICT_HOLD)
			abort();
	free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static u64 now_ns = 1000000000;
	static struct keyed_flow resets[64];
	u32 done;

	while (size >= 4) {
		u32 kind = data[0], length = load_be16(data + 2);

		now_ns += data[1] * 250000000ull;
		data += 4;
		size -= 4;
		if (length > size)
			length = (u32)size;
		if (kind & 8)
			try_image(data, length);
		else
			try_frame(data, length, kind, now_ns);
		if (kind & 4)
			asynclb_core_sweep(&core, now_ns, BUCKETS, resets, 64, &done);
		if (core.flow_count > BUCKETS * WAYS || core.held_count > HELD)
			abort();
		data += length;
		size -= length;
	}
	return 0;
}
