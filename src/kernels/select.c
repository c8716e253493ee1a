/* select.c: which kernels a machine gets: scalar first, overwritten by the stronger ISAs it has. */
#include "kernels/kernels.h"

#include "base/cpu.h"
#include "kernels/tables.h"

#if defined(__x86_64__)

static void select_x86(uint32_t cpu_flags, upg_kernels *kernels)
{
    if (!(cpu_flags & UPG_CPU_AVX2))
        return;
    kernels->name = "avx2";
    upg_kernels_codec_avx2(kernels);
    upg_kernels_fir_avx2(kernels);
    upg_kernels_dense_avx2(kernels);
    if ((cpu_flags & UPG_KERNELS_AVX512_NEEDS) != UPG_KERNELS_AVX512_NEEDS)
        return;
    kernels->name = "avx512vnni";
    upg_kernels_codec_avx512(kernels);
    upg_kernels_fir_avx512(kernels);
    upg_kernels_dense_avx512(kernels);
}

#elif defined(__aarch64__)

static void select_arm(uint32_t cpu_flags, upg_kernels *kernels)
{
    if (!(cpu_flags & UPG_CPU_NEON))
        return;
    kernels->name = "neon";
    upg_kernels_codec_neon(kernels);
    upg_kernels_fir_neon(kernels);
    upg_kernels_dense_neon(kernels);
    if (!(cpu_flags & UPG_CPU_DOTPROD))
        return;
    kernels->name = "dotprod";
    upg_kernels_codec_dotprod(kernels);
}

#endif

void upg_kernels_select(uint32_t cpu_flags, upg_kernels *kernels)
{
    *kernels = (upg_kernels) { .name = "scalar" };
    upg_kernels_codec_scalar(kernels);
    upg_kernels_fir_scalar(kernels);
    upg_kernels_dense_scalar(kernels);
#if defined(__x86_64__)
    select_x86(cpu_flags, kernels);
#elif defined(__aarch64__)
    select_arm(cpu_flags, kernels);
#else
    (void)cpu_flags;
#endif
}
