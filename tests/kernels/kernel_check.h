/* kernel_check.h: what the kernel tests share: the tables of every ISA this machine has, guarded
 * buffers, fills and seeds. */
#ifndef UPG_TESTS_KERNEL_CHECK_H
#define UPG_TESTS_KERNEL_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/random.h"
#include "kernels/kernels.h"

enum { KC_GUARD = 64, KC_SEED = 20240607 };

/* CPU flags of the levels to compare with scalar; those the machine lacks are left out. */
#if defined(__aarch64__)
static const uint32_t kc_levels[] = { UPG_CPU_NEON, UINT32_MAX };
#else
static const uint32_t kc_levels[] = { UPG_CPU_AVX2, UINT32_MAX };
#endif

static inline size_t kc_level_count(void)
{
    uint32_t flags = upg_cpu_flags();

    if (flags == 0)
        print_message("no SIMD flags on this machine: scalar is compared with itself\n");
    return sizeof kc_levels / sizeof kc_levels[0];
}

static inline uint32_t kc_flags(size_t level)
{
    return upg_cpu_flags() & kc_levels[level];
}

/* `bytes` at a 64-byte boundary, the guards before and after them filled with a pattern. */
static inline void *kc_alloc(size_t bytes)
{
    size_t   whole = (bytes + 2 * KC_GUARD + 63) / 64 * 64;
    uint8_t *memory = aligned_alloc(64, whole);

    assert_non_null(memory);
    memset(memory, 0xA5, whole);
    return memory + KC_GUARD;
}

static inline void kc_check_guards(const void *buffer, size_t bytes)
{
    const uint8_t *data = buffer;

    for (size_t i = 0; i < KC_GUARD; i++) {
        if (data[-1 - (ptrdiff_t)i] != 0xA5)
            fail_msg("byte %zu before the buffer was written", i + 1);
        if (data[bytes + i] != 0xA5)
            fail_msg("byte %zu past the buffer was written", i);
    }
}

static inline void kc_free(void *buffer)
{
    if (buffer != NULL)
        free((uint8_t *)buffer - KC_GUARD);
}

/* Uniform in low … high. */
static inline int32_t kc_int(uint64_t *counter, int32_t low, int32_t high)
{
    return low + (int32_t)(upg_random_u64(KC_SEED, (*counter)++) % (uint64_t)(high - low + 1));
}

#endif
