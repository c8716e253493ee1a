/* cuda_wgmma.cuh: the product of a warp group (wgmma; sm_90a alone), for every width used.
 *
 * c[64 rows of the warp group][n] += a · bᵀ over 32 bytes of a line, or = where `on` is zero; a
 * thread's part is c[j][0 … 3] as of a product of 16 × 8. int: bytes; float: fp16. */
#ifndef UPG_BACKEND_CUDA_CUDA_WGMMA_CUH
#define UPG_BACKEND_CUDA_CUDA_WGMMA_CUH

#include <stdint.h>

/* clang-format off */
#define CU_REGS_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define CU_REGS_32 CU_REGS_16 ", " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CU_REGS_48 CU_REGS_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define CU_REGS_64 CU_REGS_48 ", " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CU_REGS_80 CU_REGS_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define CU_REGS_96 CU_REGS_80 ", " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CU_REGS_112 CU_REGS_96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define CU_REGS_128 CU_REGS_112 ", " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define CU_ROW(t, i) "+" t(c[i][0]), "+" t(c[i][1]), "+" t(c[i][2]), "+" t(c[i][3])
#define CU_ROWS_16(t) CU_ROW(t, 0), CU_ROW(t, 1), CU_ROW(t, 2), CU_ROW(t, 3)
#define CU_ROWS_32(t) CU_ROWS_16(t), \
    CU_ROW(t, 4), CU_ROW(t, 5), CU_ROW(t, 6), CU_ROW(t, 7)
#define CU_ROWS_48(t) CU_ROWS_32(t), \
    CU_ROW(t, 8), CU_ROW(t, 9), CU_ROW(t, 10), CU_ROW(t, 11)
#define CU_ROWS_64(t) CU_ROWS_48(t), \
    CU_ROW(t, 12), CU_ROW(t, 13), CU_ROW(t, 14), CU_ROW(t, 15)
#define CU_ROWS_80(t) CU_ROWS_64(t), \
    CU_ROW(t, 16), CU_ROW(t, 17), CU_ROW(t, 18), CU_ROW(t, 19)
#define CU_ROWS_96(t) CU_ROWS_80(t), \
    CU_ROW(t, 20), CU_ROW(t, 21), CU_ROW(t, 22), CU_ROW(t, 23)
#define CU_ROWS_112(t) CU_ROWS_96(t), \
    CU_ROW(t, 24), CU_ROW(t, 25), CU_ROW(t, 26), CU_ROW(t, 27)
#define CU_ROWS_128(t) CU_ROWS_112(t), \
    CU_ROW(t, 28), CU_ROW(t, 29), CU_ROW(t, 30), CU_ROW(t, 31)

#define CU_MMA_GROUP(n, n_regs, at_a, at_b, at_on)                                                 \
    static __device__ __forceinline__ void mma_group(int(&c)[n / 8][4], uint64_t a, uint64_t b,    \
                                                     uint32_t on)                                  \
    {                                                                                              \
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %" #at_on ", 0; "                             \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" CU_REGS_##n_regs     \
                     "}, %" #at_a ", %" #at_b ", p; }"                                             \
                     : CU_ROWS_##n_regs("r")                                                       \
                     : "l"(a), "l"(b), "r"(on));                                                   \
    }                                                                                              \
    static __device__ __forceinline__ void mma_group(float(&c)[n / 8][4], uint64_t a, uint64_t b,  \
                                                     uint32_t on)                                  \
    {                                                                                              \
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %" #at_on ", 0; "                             \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" CU_REGS_##n_regs   \
                     "}, %" #at_a ", %" #at_b ", p, 1, 1, 0, 0; }"                                 \
                     : CU_ROWS_##n_regs("f")                                                       \
                     : "l"(a), "l"(b), "r"(on));                                                   \
    }

CU_MMA_GROUP(256, 128, 128, 129, 130)
CU_MMA_GROUP(224, 112, 112, 113, 114)
CU_MMA_GROUP(192, 96, 96, 97, 98)
CU_MMA_GROUP(160, 80, 80, 81, 82)
CU_MMA_GROUP(128, 64, 64, 65, 66)
CU_MMA_GROUP(64, 32, 32, 33, 34)
/* clang-format on */

#undef CU_MMA_GROUP
#undef CU_ROW

#endif
