/* int8_peak.c: which instruction counts, and what the machine does without any of them. */
#include "kernels/int8_peak.h"

#include "base/cpu.h"
#include "kernels/tables.h"

enum { SUMS = 16 };

/* As the compiler makes it; the barrier keeps it from adding up a constant. */
static uint32_t run_scalar(uint32_t rounds)
{
    uint32_t sum[SUMS], total = 0, a = 3, b = 5;

    for (uint32_t i = 0; i < SUMS; i++)
        sum[i] = i; /* unlike, so that they are not computed as one */
    for (uint32_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+r"(a), "+r"(b));
        for (uint32_t i = 0; i < SUMS; i++)
            sum[i] += (uint32_t)((int8_t)a * (int8_t)b);
    }
    for (uint32_t i = 0; i < SUMS; i++)
        total += sum[i] - i;
    return total;
}

upg_int8_peak upg_int8_peak_find(uint32_t cpu_flags)
{
#if defined(__x86_64__)
    if ((cpu_flags & UPG_KERNELS_AVX512_NEEDS) == UPG_KERNELS_AVX512_NEEDS)
        return (upg_int8_peak) { "vpdpbusd, 512 bits", 16 * 64, upg_int8_peak_avx512 };
    if (cpu_flags & UPG_CPU_AVX2)
        return (upg_int8_peak) { "vpmaddubsw and vpmaddwd, 256 bits", 8 * 32, upg_int8_peak_avx2 };
#elif defined(__aarch64__)
    if (cpu_flags & UPG_CPU_DOTPROD)
        return (upg_int8_peak) { "sdot, 128 bits", 16 * 16, upg_int8_peak_dotprod };
    if (cpu_flags & UPG_CPU_NEON)
        return (upg_int8_peak) { "smull and sadalp, 128 bits", 8 * 16, upg_int8_peak_neon };
#endif
    (void)cpu_flags;
    return (upg_int8_peak) { "scalar", SUMS, run_scalar };
}
