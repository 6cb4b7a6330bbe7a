/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The words that the core is written in: no libc, no kernel headers, so that the same text is compiled for the
 * native library and for BPF. What the verifier asks for holds throughout: every loop has a constant bound, every
 * access to a frame goes through at() in packet.h, nothing is global, nothing is recursive, no array has a variable
 * length, packet pointers are never subtracted.
 */
#ifndef ASYNCLB_TYPES_H
#define ASYNCLB_TYPES_H

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;
typedef __INT32_TYPE__ s32;
typedef __INT64_TYPE__ s64;
typedef __UINTPTR_TYPE__ uptr;

#define INLINE static inline __attribute__((always_inline))

/* What differs between the native library and BPF, and is not a map (maps.h):
 *   STEP      a part of the decision. BPF verifies each once, as a global function, instead of once for every way that
 *             leads to it; natively it is inlined like the rest. Its pointers are never 0, which BPF has to be told: GIVEN.
 *   OWN       says the same of what a frame is decided in, and finds it anew: without CAP_PERFMON an offset that is not
 *             a constant may be added to what a map gave, not to what a global function was given.
 *   UNROLL    makes straight code of a loop: without CAP_PERFMON the verifier follows what a processor might try beyond
 *             a loop's last round, where the counter says nothing any more, and finds no end.
 *   PART      memory that a decision works on: the caller's, or in BPF, whose stack has 512 bytes, part of struct work.
 *   bound     tells the verifier that a number is below a power of two. The compiler must not see why, or it leaves it out.
 *   SETTLED   keeps the compiler from making one addition of two by different constants, which without CAP_PERFMON may
 *             not be a variable's.
 *   apart     keeps the compiler from joining a condition with a loop's own, which then is not unrolled.
 */
#ifdef __bpf__
#define STEP __attribute__((noinline))
#define GIVEN(pointer)       \
	if (!(pointer))      \
		return 0
#define OWN(memory)                                 \
	if (!(memory) || !((memory) = own_memory(memory))) \
		return 0
#define UNROLL _Pragma("clang loop unroll(full)")
#define PART(type, name) type name[1]
#define SETTLED(pointer) __asm__ volatile("" : "+r"(pointer))
INLINE u32 apart(u32 number)
{
	__asm__ volatile("" : "+r"(number));
	return number;
}

INLINE u32 bound(u32 number, u32 mask)
{
	return apart(number) & mask;
}
#else
#define SETTLED(pointer)
#define apart(number) (number)
#define STEP INLINE
#define GIVEN(pointer)
#define OWN(memory)
#define UNROLL
#define PART(type, name) type *name
#endif

#endif
