/* select.c: which kernels a machine gets: scalar first, overwritten by the stronger ISAs it has. */
#include "kernels/kernels.h"

#include "base/cpu.h"
#include "kernels/tables.h"

#if defined(__x86_64__)

/* The AVX-512 files are compiled for all of these at once: the compiler may use any of them. */
static const uint32_t avx512_needs = UPG_CPU_AVX512 | UPG_CPU_AVX512VBMI | UPG_CPU_AVX512VNNI;

static void select_x86(uint32_t cpu_flags, upg_kernels *kernels)
{
    if (!(cpu_flags & UPG_CPU_AVX2))
        return;
    kernels->name = "avx2";
    upg_kernels_codec_avx2(kernels);
    upg_kernels_dense_avx2(kernels);
    if ((cpu_flags & avx512_needs) != avx512_needs)
        return;
    kernels->name = "avx512vnni";
    upg_kernels_codec_avx512(kernels);
    upg_kernels_dense_avx512(kernels);
}

#endif

void upg_kernels_select(uint32_t cpu_flags, upg_kernels *kernels)
{
    *kernels = (upg_kernels) { .name = "scalar" };
    upg_kernels_codec_scalar(kernels);
    upg_kernels_dense_scalar(kernels);
#if defined(__x86_64__)
    select_x86(cpu_flags, kernels);
#else
    (void)cpu_flags;
#endif
}
