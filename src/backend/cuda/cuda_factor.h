/* cuda_factor.h: kernels of the second moments' factor, row-major matrices on the device. */
#ifndef UPG_BACKEND_CUDA_CUDA_FACTOR_H
#define UPG_BACKEND_CUDA_CUDA_FACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CU_FACTOR_BLOCK = 64 };

/** a f64 [width][width] = scale·sum on and below the diagonal, `added` more on it. */
int cu_launch_damped(const float *sum, uint32_t width, double scale, double added, double *a,
                     void *stream);
/** Cholesky factor of the lower triangle in place; *info becomes 1 where it is not positive
 * definite. */
int cu_launch_cholesky(double *a, uint32_t width, int32_t *info, void *stream);
/** mixed = scale·(mixed − sum), sum from its lower triangle. */
int cu_launch_subtract(const float *sum, uint32_t width, float scale, float *mixed, void *stream);
/** lower = C·diag(C)⁻¹ with zeros above, diagonal = diag(C)², sums[i] = Σ_{j<i} lower_ij². */
int cu_launch_unit_lower(const double *a, uint32_t width, float *lower, float *diagonal,
                         double *sums, void *stream);
/** x[rows][64 at most] := x · T⁻¹, T a block of a unit lower L, transposed or not. */
int cu_launch_solve(bool transposed, uint32_t rows, uint32_t n, const float *l, size_t l_stride,
                    float *x, size_t x_stride, void *stream);
/** x[r][j] /= diagonal[j] */
int cu_launch_divide(uint32_t rows, uint32_t width, const float *diagonal, float *x, void *stream);
/** x += y */
int cu_launch_add(uint64_t n, const float *y, float *x, void *stream);

#ifdef __cplusplus
}
#endif
#endif
