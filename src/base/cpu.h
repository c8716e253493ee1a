/* cpu.h: which instruction sets this process may use; a test or a user can mask some of them. */
#ifndef UPG_BASE_CPU_H
#define UPG_BASE_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    UPG_CPU_AVX2 = 1u << 0,       /* AVX2, FMA, F16C, BMI2 */
    UPG_CPU_AVX512 = 1u << 1,     /* F, BW, DQ, VL */
    UPG_CPU_AVX512VBMI = 1u << 2, /* VBMI */
    UPG_CPU_AVX512VNNI = 1u << 3,
    UPG_CPU_NEON = 1u << 4,
    UPG_CPU_DOTPROD = 1u << 5
};

/** Flags of this machine (and of its operating system's saved state), less the mask. */
uint32_t upg_cpu_flags(void);
/** Restricts the flags of all later calls to `allowed`; UINT32_MAX lifts that. Set it before a
 * model is opened. The environment variable UPG_CPU ("scalar", "avx2", "avx512", "neon") does the
 * same. */
void upg_cpu_mask(uint32_t allowed);
/** The flags as text, "avx2 avx512 avx512vbmi avx512vnni"; "none" without any. */
void upg_cpu_describe(uint32_t flags, char *text, size_t cap);
/** The processor's own name, "" when the system does not tell. */
void upg_cpu_name(char *text, size_t cap);
/** Physical cores that this process may run on (affinity and cgroup quota respected), at least 1.
 */
uint32_t upg_cpu_cores(void);

#endif
