/* int8_peak.h: the most int8 multiply-adds that one core of this machine can do: what a prompt's
 * matrix products are measured against.
 *
 * Each function keeps enough independent sums in registers that only the instruction's throughput
 * counts; nothing is loaded. A multiply-add is one int8 by int8 product added to an int32 sum. */
#ifndef UPG_KERNELS_INT8_PEAK_H
#define UPG_KERNELS_INT8_PEAK_H

#include <stdint.h>

typedef struct upg_int8_peak {
    const char *instruction; /* "vpdpbusd, 512 bits" */
    uint32_t    per_round;   /* multiply-adds */
    /** Does `rounds` rounds of 3 · 5; returns the sum of all products modulo 2^32. */
    uint32_t (*run)(uint32_t rounds);
} upg_int8_peak;

/** The best of these CPU flags. */
upg_int8_peak upg_int8_peak_find(uint32_t cpu_flags);

/* Private to the files of the ISAs. */
uint32_t upg_int8_peak_avx2(uint32_t rounds);
uint32_t upg_int8_peak_avx512(uint32_t rounds);
uint32_t upg_int8_peak_neon(uint32_t rounds);
uint32_t upg_int8_peak_dotprod(uint32_t rounds);

#endif
