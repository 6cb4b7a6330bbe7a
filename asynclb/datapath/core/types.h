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

#define INLINE static inline __attribute__((always_inline))

#endif
