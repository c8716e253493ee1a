/* dtype.h: the element types of safetensors, all that the reference implementation names. */
#ifndef UPG_SAFETENSORS_DTYPE_H
#define UPG_SAFETENSORS_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

/** X(name, bits of one element). */
#define UPG_DTYPE_MAP(X)                                                                           \
    X(BOOL, 8)                                                                                     \
    X(F4, 4)                                                                                       \
    X(F6_E2M3, 6)                                                                                  \
    X(F6_E3M2, 6)                                                                                  \
    X(U8, 8)                                                                                       \
    X(I8, 8)                                                                                       \
    X(F8_E5M2, 8)                                                                                  \
    X(F8_E4M3, 8)                                                                                  \
    X(F8_E8M0, 8)                                                                                  \
    X(F8_E4M3FNUZ, 8)                                                                              \
    X(F8_E5M2FNUZ, 8)                                                                              \
    X(I16, 16)                                                                                     \
    X(U16, 16)                                                                                     \
    X(F16, 16)                                                                                     \
    X(BF16, 16)                                                                                    \
    X(I32, 32)                                                                                     \
    X(U32, 32)                                                                                     \
    X(F32, 32)                                                                                     \
    X(C64, 64)                                                                                     \
    X(F64, 64)                                                                                     \
    X(I64, 64)                                                                                     \
    X(U64, 64)

typedef enum upg_dtype {
#define UPG_DTYPE_ENUM(name, bits) UPG_##name,
    UPG_DTYPE_MAP(UPG_DTYPE_ENUM)
#undef UPG_DTYPE_ENUM
        UPG_DTYPE_COUNT
} upg_dtype;

/** "BF16" …; static, never NULL. */
const char *upg_dtype_name(upg_dtype dtype);
/** Bits of one element. */
uint32_t upg_dtype_bits(upg_dtype dtype);
/** Bytes of one element; 0 for the types that are smaller than a byte. */
uint32_t upg_dtype_bytes(upg_dtype dtype);
/** The type of that name; false when there is none. */
bool upg_dtype_find(const char *name, upg_dtype *dtype);

#endif
