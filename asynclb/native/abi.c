#include "native.h"

/* Tells the loader which header this library was built from. Python twin: ABI_VERSION. */
u32 asynclb_native_abi(void)
{
	return ASYNCLB_NATIVE_ABI;
}
