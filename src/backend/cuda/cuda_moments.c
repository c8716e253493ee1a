/* cuda_moments.c: second moments on the device: sums, factor, targets moved (compress/moments.h).
 *
 * Sums take their vectors rounded to TF32: the moments of slightly other vectors, and as positive
 * as those. Factor in fp64 and solves in fp32 as on the host. */
#include "backend/cuda/cuda_compress.h"
#include "backend/cuda/cuda_factor.h"
#include "backend/cuda/cuda_layer.h"

#include <math.h>

#include "base/alloc.h"

enum { MAX_DAMPING_STEPS = 6 };

static size_t square_bytes(const cc_device *d, size_t element)
{
    return (size_t)d->width * d->width * element;
}

upg_status cc_moments_begin(upg_compress_device *device, uint32_t width, bool with_mixed,
                            const float *signs, uint32_t block, upg_error *err)
{
    cc_device *d = cc_of(device);
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    d->width = width;
    d->block = block;
    d->with_mixed = with_mixed;
    d->n_summed = 0;
    d->factored = false;
    UPG_TRY(cc_room(&d->sum, square_bytes(d, sizeof(float)), "second moments", err));
    UPG_TRY(cc_clear(d, d->sum.at, square_bytes(d, sizeof(float)), err));
    if (with_mixed) {
        UPG_TRY(cc_room(&d->mixed, square_bytes(d, sizeof(float)), "second moments", err));
        UPG_TRY(cc_clear(d, d->mixed.at, square_bytes(d, sizeof(float)), err));
    }
    UPG_TRY(cc_room(&d->signs, width * sizeof *signs, "signs", err));
    UPG_TRY(cc_up(d, d->signs.at, signs, width * sizeof *signs, err));
out:
    return st;
}

upg_status cc_moments_add_device(cc_device *d, const float *x, const float *y, uint32_t n,
                                 upg_error *err)
{
    upg_status st;

    UPG_TRY(cc_check(cuda_blas_gemm(&d->blas, CUDA_BLAS_TF32, true, false, d->width, d->width, n,
                                    1.0f, x, d->width, x, d->width, 1.0f, d->sum.at, d->width),
                     "summing moments", err));
    if (y != NULL)
        UPG_TRY(
            cc_check(cuda_blas_gemm(&d->blas, CUDA_BLAS_TF32, true, false, d->width, d->width, n,
                                    1.0f, y, d->width, x, d->width, 1.0f, d->mixed.at, d->width),
                     "summing moments", err));
    d->n_summed += n;
out:
    return st;
}

upg_status cc_moments_add(upg_compress_device *device, const float *x, const float *y, uint32_t n,
                          upg_error *err)
{
    cc_device *d = cc_of(device);
    size_t     bytes = (size_t)n * d->width * sizeof *x;
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    UPG_TRY(cc_room(&d->x, bytes, "inputs", err));
    UPG_TRY(cc_up(d, d->x.at, x, bytes, err));
    if (y != NULL) {
        UPG_TRY(cc_room(&d->y, bytes, "inputs", err));
        UPG_TRY(cc_up(d, d->y.at, y, bytes, err));
    }
    UPG_TRY(cc_moments_add_device(d, d->x.at, y != NULL ? d->y.at : NULL, n, err));
out:
    return st;
}

/* Mean of H's diagonal. */
static upg_status mean_diagonal(cc_device *d, double *mean, upg_error *err)
{
    float     *diagonal = upg_malloc(d->width, sizeof *diagonal, err);
    upg_status st = diagonal != NULL ? UPG_OK : UPG_E_NOMEM;
    size_t     size = sizeof *diagonal;

    *mean = 0;
    UPG_TRY(st);
    UPG_TRY(cc_check(cudaStreamSynchronize(d->stream), "summing moments", err));
    UPG_TRY(cc_check(cudaMemcpy2D(diagonal, size, d->sum.at, ((size_t)d->width + 1) * size, size,
                                  d->width, cudaMemcpyDeviceToHost),
                     "reading moments", err));
    for (uint32_t i = 0; i < d->width && d->n_summed > 0; i++)
        *mean += (double)diagonal[i] / (double)d->n_summed;
    *mean /= d->width;
out:
    upg_free(diagonal);
    return st;
}

/* Tries one damping. */
static upg_status factor(cc_device *d, double added, bool *positive, upg_error *err)
{
    int32_t    info = 0;
    upg_status st;

    UPG_TRY(cc_clear(d, d->info.at, sizeof info, err));
    UPG_TRY(cc_check(cu_launch_damped(d->sum.at, d->width, 1.0 / (double)d->n_summed, added,
                                      d->square.at, d->stream),
                     "factoring moments", err));
    UPG_TRY(cc_check(cu_launch_cholesky(d->square.at, d->width, d->info.at, d->stream),
                     "factoring moments", err));
    UPG_TRY(cc_down(d, &info, d->info.at, sizeof info, err));
    *positive = info == 0;
out:
    return st;
}

/* L and D in place of the sums, and what the targets' correction needs. */
static upg_status finish_factor(cc_device *d, double *spread, upg_error *err)
{
    double    *sums = upg_malloc(d->width, sizeof *sums, err);
    upg_status st = sums != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    if (d->with_mixed)
        UPG_TRY(cc_check(cu_launch_subtract(d->sum.at, d->width, (float)(1.0 / (double)d->n_summed),
                                            d->mixed.at, d->stream),
                         "factoring moments", err));
    UPG_TRY(cc_check(cu_launch_unit_lower(d->square.at, d->width, d->sum.at, d->diagonal.at,
                                          d->sums.at, d->stream),
                     "factoring moments", err));
    UPG_TRY(cc_down(d, sums, d->sums.at, d->width * sizeof *sums, err));
    *spread = 0;
    for (uint32_t i = 0; i < d->width; i++)
        *spread += sums[i];
    *spread /= d->width;
    d->factored = true;
out:
    upg_free(sums);
    return st;
}

upg_status cc_moments_factor(upg_compress_device *device, double damping, double *used,
                             double *spread, upg_error *err)
{
    cc_device *d = cc_of(device);
    double     mean;
    bool       positive = false;
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    UPG_TRY(mean_diagonal(d, &mean, err));
    if (!(mean > 0) || !isfinite(mean))
        UPG_TRY(upg_fail(err, UPG_E_DATA,
                         "the mean square of its input over the calibration text is %g: feedback "
                         "needs a finite, positive one",
                         mean));
    UPG_TRY(cc_room(&d->square, square_bytes(d, sizeof(double)), "the factor", err));
    UPG_TRY(cc_room(&d->diagonal, d->width * sizeof(float), "the factor", err));
    UPG_TRY(cc_room(&d->sums, d->width * sizeof(double), "the factor", err));
    UPG_TRY(cc_room(&d->info, sizeof(int32_t), "the factor", err));
    for (int step = 0; step <= MAX_DAMPING_STEPS && !positive; step++, damping *= 10) {
        UPG_TRY(factor(d, damping * mean, &positive, err));
        *used = damping;
    }
    if (!positive)
        UPG_TRY(upg_fail(err, UPG_E_DATA,
                         "the second moments of its input are not positive definite, even with %g "
                         "of their mean diagonal added",
                         *used));
    UPG_TRY(finish_factor(d, spread, err));
out:
    cc_release(&d->square); /* as large as two of the others */
    return st;
}

/* x[rows][width] := x · (L·D·Lᵀ)⁻¹ by blocks of columns. */
static upg_status solve(cc_device *d, uint32_t rows, float *x, upg_error *err)
{
    const float *l = d->sum.at;
    uint32_t     width = d->width;
    upg_status   st = UPG_OK;

    for (uint32_t at = 0; at < width; at += CU_FACTOR_BLOCK) { /* · Lᵀ⁻¹ */
        uint32_t n = width - at < CU_FACTOR_BLOCK ? width - at : CU_FACTOR_BLOCK;

        if (at > 0)
            UPG_TRY(cc_check(cuda_blas_gemm(&d->blas, CUDA_BLAS_FLOAT, false, true, rows, n, at,
                                            -1.0f, x, width, l + (size_t)at * width, width, 1.0f,
                                            x + at, width),
                             "moving targets", err));
        UPG_TRY(cc_check(cu_launch_solve(true, rows, n, l + (size_t)at * width + at, width, x + at,
                                         width, d->stream),
                         "moving targets", err));
    }
    UPG_TRY(cc_check(cu_launch_divide(rows, width, d->diagonal.at, x, d->stream), "moving targets",
                     err));
    for (uint32_t end = width, at; end > 0; end = at) { /* · L⁻¹ */
        at = (end - 1) / CU_FACTOR_BLOCK * CU_FACTOR_BLOCK;
        if (end < width)
            UPG_TRY(
                cc_check(cuda_blas_gemm(&d->blas, CUDA_BLAS_FLOAT, false, false, rows, end - at,
                                        width - end, -1.0f, x + end, width,
                                        l + (size_t)end * width + at, width, 1.0f, x + at, width),
                         "moving targets", err));
        UPG_TRY(cc_check(cu_launch_solve(false, rows, end - at, l + (size_t)at * width + at, width,
                                         x + at, width, d->stream),
                         "moving targets", err));
    }
out:
    return st;
}

upg_status cc_moments_correct(upg_compress_device *device, uint32_t n_rows, float *weights,
                              upg_error *err)
{
    cc_device *d = cc_of(device);
    uint64_t   n = (uint64_t)n_rows * d->width;
    size_t     bytes = n * sizeof *weights;
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    if (!d->factored || !d->with_mixed)
        UPG_TRY(upg_fail(err, UPG_E_STATE, "no mixed moments are on the GPU"));
    UPG_TRY(cc_room(&d->correct, bytes, "targets", err));
    UPG_TRY(cc_room(&d->moved, bytes, "targets", err));
    UPG_TRY(cc_up(d, d->correct.at, weights, bytes, err));
    UPG_TRY(cc_check(cuda_blas_gemm(&d->blas, CUDA_BLAS_FLOAT, false, false, n_rows, d->width,
                                    d->width, 1.0f, d->correct.at, d->width, d->mixed.at, d->width,
                                    0.0f, d->moved.at, d->width),
                     "moving targets", err));
    UPG_TRY(solve(d, n_rows, d->moved.at, err));
    UPG_TRY(
        cc_check(cu_launch_add(n, d->moved.at, d->correct.at, d->stream), "moving targets", err));
    UPG_TRY(cc_down(d, weights, d->correct.at, bytes, err));
out:
    return st;
}

upg_status cc_moments_read(upg_compress_device *device, float *lower, float *diagonal,
                           upg_error *err)
{
    cc_device *d = cc_of(device);
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    if (!d->factored)
        UPG_TRY(upg_fail(err, UPG_E_STATE, "no factor is on the GPU"));
    if (lower != NULL)
        UPG_TRY(cc_down(d, lower, d->sum.at, square_bytes(d, sizeof *lower), err));
    if (diagonal != NULL)
        UPG_TRY(cc_down(d, diagonal, d->diagonal.at, d->width * sizeof *diagonal, err));
out:
    return st;
}
