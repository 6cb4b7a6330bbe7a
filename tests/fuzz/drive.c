/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Runs the target where there is no libFuzzer: mutates the corpus for a number of seconds, from a printed seed.
 * `drive SECONDS SEED FILE...`; with 0 seconds it runs the files once each.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LARGEST 4096
#define FILES 256

static struct {
	uint8_t data[LARGEST];
	size_t size;
} corpus[FILES];

static uint64_t state;

static uint32_t next(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % below;
}

static const uint8_t odd[] = {0, 1, 4, 5, 6, 8, 17, 20, 44, 58, 60, 64, 127, 128, 132, 254, 255};

static size_t mutate(uint8_t *to, uint32_t files)
{
	size_t size = 0;

	for (uint32_t parts = 1 + next(3); parts && size < LARGEST; parts--) {
		uint32_t from = next(files);
		size_t take = corpus[from].size < LARGEST - size ? corpus[from].size : LARGEST - size;

		memcpy(to + size, corpus[from].data, take);
		size += take;
	}
	for (uint32_t changes = next(8); changes && size; changes--) {
		uint32_t at = next((uint32_t)size);

		switch (next(4)) {
		case 0:
			to[at] ^= (uint8_t)(1u << next(8));
			break;
		case 1:
			to[at] = odd[next(sizeof(odd))];
			break;
		case 2:
			to[at] = (uint8_t)next(256);
			break;
		default:
			if (next(8) == 0)
				size = at;
			else
				memmove(to + at, to + next((uint32_t)size), size - at < 4 ? 0 : 4);
		}
	}
	return size;
}

int main(int argc, char **argv)
{
	uint64_t runs = 0;
	time_t end = time(0) + atoi(argv[1]);
	uint32_t files = 0;
	uint8_t *input;

	state = strtoull(argv[2], 0, 0) | 1;
	LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 3; i < argc && files < FILES; i++, files++) {
		FILE *from = fopen(argv[i], "rb");

		if (!from)
			return 2;
		corpus[files].size = fread(corpus[files].data, 1, LARGEST, from);
		fclose(from);
		LLVMFuzzerTestOneInput(corpus[files].data, corpus[files].size);
	}
	while (time(0) < end)
		for (int i = 0; i < 1000; i++, runs++) {
			size_t size;

			input = malloc(LARGEST + 8);
			size = mutate(input, files);
			LLVMFuzzerTestOneInput(input, size);
			free(input);
		}
	printf("%llu conversations of %u files, seed %s: nothing found\n", (unsigned long long)runs, files, argv[2]);
	return 0;
}
