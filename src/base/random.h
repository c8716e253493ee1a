/* random.h: SplitMix64 as a counter-based generator: value i of stream `seed` needs no state.
 *
 * Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014; the finaliser
 * is Stafford's variant 13. The values are part of the file format (rotation signs) and of the
 * promise "same seed, same text": they never change. */
#ifndef UPG_BASE_RANDOM_H
#define UPG_BASE_RANDOM_H

#include <stdint.h>

/** The i-th 64-bit value of stream `seed`. */
static inline uint64_t upg_random_u64(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/** Uniform in [0, 1), 53 bits. */
static inline double upg_random_unit(uint64_t seed, uint64_t i)
{
    return (double)(upg_random_u64(seed, i) >> 11) * 0x1p-53;
}

#endif
