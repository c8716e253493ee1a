/* moments.h: second moments H = E[x xᵀ] of an input, and their LDLᵀ factor, for error feedback.
 *
 * All work is cut into tiles of fixed size that single BLAS threads compute, so that the sums do
 * not depend on the number of threads. BLAS must run one thread for each call: upg_blas_begin. */
#ifndef UPG_COMPRESS_MOMENTS_H
#define UPG_COMPRESS_MOMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"

typedef struct upg_moments {
    uint32_t width;
    uint64_t n; /* vectors added */
    float *sum; /* f32 [width][width]: Σ x xᵀ, lower triangle (tiles on the diagonal are whole) */
    float *mixed; /* NULL, or f32 [width][width]: Σ y xᵀ for vectors y that stand for x elsewhere */
} upg_moments;

/** Zeroed sums. with_mixed: also room for Σ y xᵀ. Errors: E_NOMEM. */
upg_status upg_moments_init(upg_moments *moments, uint32_t width, bool with_mixed, upg_error *err);
void       upg_moments_deinit(upg_moments *moments);
/** Bytes of the sums, and those that upg_moments_factor takes beside them for its time. */
uint64_t upg_moments_memory(uint32_t width, bool with_mixed);
uint64_t upg_moments_factor_memory(uint32_t width);
/** Adds n vectors. x f32 [n][width]; y NULL, or f32 [n][width] when there is room for Σ y xᵀ. */
void upg_moments_add(upg_moments *moments, upg_pool *pool, const float *x, const float *y,
                     uint32_t n);

/** Factors H + δI = L·D·Lᵀ with δ = damping · mean diagonal, in place: afterwards moments->sum is
 * the unit lower L (row-major, zeros above the diagonal), moments->mixed, where there is one, is
 * E[y xᵀ] − H, and only upg_moments_deinit may follow. Where H is too near singular, δ grows
 * tenfold up to six times; *used is the damping that worked. diagonal  NULL, or f32 [width]: D
 * Errors: E_DATA (H is not finite, or zero), E_NOMEM. */
upg_status upg_moments_factor(upg_moments *moments, upg_pool *pool, double damping, float *diagonal,
                              double *used, upg_error *err);
/** Moves targets so that they do on x what W does on y: W ← W + W·(E[y xᵀ] − H)·(H + δI)⁻¹, the
 * least-squares solution damped towards W. After upg_moments_factor, by one thread.
 * weights  f32 [n_rows][width]    scratch  f32 [n_rows][width] */
void upg_moments_correct(const upg_moments *moments, const float *diagonal, uint32_t n_rows,
                         float *weights, float *scratch);

/** Makes BLAS calls single-threaded; returns what to hand back to upg_blas_end. */
int  upg_blas_begin(void);
void upg_blas_end(int threads);

#endif
