/* What the native library is made of: freestanding C, no libc, no allocation, no globals.
 *
 * Every function is pure over the memory that its caller hands in, so that ctypes can call it with the
 * interpreter lock released and several threads can run at once. Each has a Python twin that the tests
 * hold it equal to. Raise ASYNCLB_NATIVE_ABI, and ABI_VERSION in __init__.py, with any change of a
 * signature or of what an argument means.
 */
#ifndef ASYNCLB_NATIVE_H
#define ASYNCLB_NATIVE_H

#define ASYNCLB_NATIVE_ABI 2

typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;

#define ASYNCLB_EXPORT __attribute__((visibility("default")))

ASYNCLB_EXPORT u32 asynclb_native_abi(void);

#endif
