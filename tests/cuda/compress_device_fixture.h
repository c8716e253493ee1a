/* compress_device_fixture.h: a GPU to compress on, random numbers, distances. */
#ifndef COMPRESS_DEVICE_FIXTURE_H
#define COMPRESS_DEVICE_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/compress_device.h"
#include "base/pool.h"
#include "base/random.h"
#include "compress/moments.h"

static upg_compress_device      *device;
static const upg_compress_class *gpu;
static upg_error                 err;
static upg_pool                 *pool;

#define OK(expression)                                                                             \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", err.message);                                                           \
    } while (0)

static bool no_gpu(void)
{
    if (device != NULL)
        return false;
    if (upg_compress_device_open("cuda", &device, &err) != UPG_OK) {
        print_message("skipped: %s\n", err.message);
        assert_int_equal(err.code, UPG_E_DEVICE);
        return true;
    }
    gpu = device->class_;
    print_message("%s\n", gpu->describe(device));
    OK(upg_pool_create(2, &pool, &err));
    return false;
}

static int open_blas(void **state)
{
    (void)state;
    upg_blas_begin();
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    upg_compress_device_close(device);
    upg_pool_close(pool);
    return 0;
}

static float *reals(size_t n)
{
    float *x = malloc(n * sizeof *x);

    assert_non_null(x);
    return x;
}

/* Unit Gaussians. */
static float *gaussians(size_t n, uint64_t seed)
{
    float *x = reals(n);

    for (size_t i = 0; i < n; i++)
        x[i] = (float)(sqrt(-2 * log(1 - upg_random_unit(seed, 2 * i))) *
                       cos(6.283185307179586 * upg_random_unit(seed, 2 * i + 1)));
    return x;
}

/* |a − b|² / |b|² */
static double distance(const float *a, const float *b, size_t n)
{
    double miss = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];

        miss += d * d;
        all += (double)b[i] * (double)b[i];
    }
    return all > 0 ? miss / all : miss;
}

#endif
