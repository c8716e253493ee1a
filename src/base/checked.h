/* checked.h: 64-bit arithmetic on sizes from files, which reports overflow instead of wrapping. */
#ifndef UPG_BASE_CHECKED_H
#define UPG_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** *sum = a + b; false (and *sum unspecified) on overflow. */
static inline bool upg_add_u64(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

/** *product = a * b; false (and *product unspecified) on overflow. */
static inline bool upg_mul_u64(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

/** a rounded up to a multiple of `unit` (a power of two); false on overflow. */
static inline bool upg_round_up_u64(uint64_t a, uint64_t unit, uint64_t *result)
{
    if (!upg_add_u64(a, unit - 1, result))
        return false;
    *result &= ~(unit - 1);
    return true;
}

/** *size = value; false when size_t is too narrow for it. */
static inline bool upg_size_from_u64(uint64_t value, size_t *size)
{
    *size = (size_t)value;
    return *size == value;
}

#endif
