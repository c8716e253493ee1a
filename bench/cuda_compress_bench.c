/* cuda_compress_bench: compressing on a GPU, by its parts, copies from and to the host included.
 *
 *   cuda_compress_bench [ROWS COLUMNS]      the matrix that feedback codes, default 5120 × 1024
 *
 * feedback   million weights a second at each rate, one matrix at a time
 * columns    the same without feedback: int16, and float32 as for an embedding
 * moments    TFLOP/s of sums over 4096 vectors of 5120 and 17920, seconds of a factor
 * passes     TFLOP/s of a layer of Phi-4's shape over 8 windows of 512 tokens */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/compress_device.h"
#include "base/clock.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "codec/coded_matrix.h"

static upg_compress_device      *device;
static const upg_compress_class *gpu;
static upg_error                 err;

static void must(upg_status st)
{
    if (st != UPG_OK) {
        fprintf(stderr, "cuda_compress_bench: %s\n", err.message);
        exit(1);
    }
}

static void *memory(size_t n, size_t size)
{
    void *m = calloc(n, size);

    if (m == NULL) {
        fprintf(stderr, "cuda_compress_bench: out of memory\n");
        exit(1);
    }
    return m;
}

/* Near Gaussian, of unit variance: the sum of twelve. */
static float *noise(size_t n, float scale)
{
    float *x = memory(n, sizeof *x);

    for (size_t i = 0; i < n; i++) {
        uint64_t a = upg_random_u64(i, 1), b = upg_random_u64(i, 2);
        double   sum = -6;

        for (int k = 0; k < 6; k++)
            sum += ((double)(a >> 10 * k & 1023) + (double)(b >> 10 * k & 1023) + 1) / 1024;
        x[i] = scale * (float)sum;
    }
    return x;
}

static double seconds_since(uint64_t start)
{
    return (double)(upg_now_ns() - start) * 1e-9;
}

/* Times the call twice and keeps the second, when memory is there. */
#define TIME(seconds, call)                                                                        \
    do {                                                                                           \
        must(call);                                                                                \
        uint64_t start_ = upg_now_ns();                                                            \
        must(call);                                                                                \
        (seconds) = seconds_since(start_);                                                         \
    } while (0)

static void bench_feedback(uint32_t rows, uint32_t columns)
{
    static const uint32_t rates2[] = { 4, 5, 6, 7, 8, 10 };
    size_t                n = (size_t)rows * columns;
    float                *weights = noise(n, 1), *lower = noise((size_t)columns * columns, .01f);
    uint16_t             *scales = memory(rows, sizeof *scales);
    uint32_t             *bits = memory(n, sizeof *bits);

    for (size_t i = 0; i < columns; i++)
        for (size_t j = i; j < columns; j++)
            lower[i * columns + j] = i == j;
    for (uint32_t r = 0; r < rows; r++)
        scales[r] = upg_f16_from_f32(1.02f);
    for (size_t k = 0; k < sizeof rates2 / sizeof *rates2; k++)
        for (uint32_t length = 12; length <= (rates2[k] == 6 ? 16u : 12u); length += 2) {
            upg_device_unit unit = { upg_code_find(rates2[k], length), rows, weights, scales,
                                     bits };
            upg_listener    nobody = { 0 };
            upg_meter       meter;
            double          seconds;

            upg_meter_start(&meter, &nobody, "", "", 0);
            TIME(seconds, gpu->feedback(device, columns, lower, &unit, 1, &meter, &err));
            printf("feedback %.1f bits L=%u %u x %u: %.1f M weights/s\n", rates2[k] / 2.0, length,
                   rows, columns, (double)n / seconds * 1e-6);
            free(weights);
            weights = noise(n, 1);
        }
    free(weights);
    free(lower);
    free(scales);
    free(bits);
}

static void bench_columns(uint32_t rows, uint32_t columns)
{
    static const uint32_t rates2[] = { 5, 6, 8 };
    size_t                n = (size_t)rows * columns;
    float                *targets = noise(n, 1), *weights = memory(rows, sizeof *weights);
    uint16_t             *windows = memory(n, sizeof *windows);

    for (uint32_t r = 0; r < rows; r++)
        weights[r] = 1;
    for (size_t k = 0; k < sizeof rates2 / sizeof *rates2; k++)
        for (int exact = 0; exact < 2; exact++) {
            upg_device_columns unit = {
                upg_code_find(rates2[k], 12), rows,   columns, targets, rows,
                exact ? weights : NULL,       windows
            };
            double seconds;

            TIME(seconds, gpu->columns(device, &unit, 1, &err));
            printf("columns %.1f bits %s %u x %u: %.1f M weights/s\n", rates2[k] / 2.0,
                   exact ? "float32" : "int16", rows, columns, (double)n / seconds * 1e-6);
        }
    free(targets);
    free(weights);
    free(windows);
}

static void bench_moments(uint32_t width)
{
    enum { N = 4096 };
    float *x = noise((size_t)N * width, 1), *signs = memory(width, sizeof *signs);
    double seconds, used, spread;

    must(gpu->moments_begin(device, width, false, signs, 1, &err));
    TIME(seconds, gpu->moments_add(device, x, NULL, N, &err));
    {
        uint64_t start = upg_now_ns();

        must(gpu->moments_factor(device, 1e-2, &used, &spread, &err));
        printf(
            "moments %u wide: %d vectors handed over in %.1f ms, summed and factored in %.2f s\n",
            width, N, seconds * 1e3, seconds_since(start));
    }
    free(x);
    free(signs);
}

static void bench_passes(void)
{
    enum { HIDDEN = 5120, FFN = 17920, KV = 1280, WINDOW = 512, N = 8, HALF = 64 };
    static const uint32_t rows[7] = { HIDDEN, KV, KV, HIDDEN, FFN, FFN, HIDDEN };
    static const uint32_t cols[7] = { HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, FFN };
    float                *angles = noise((size_t)WINDOW * HALF, 1), *norm = noise(HIDDEN, 1);
    upg_device_layer      shape = {
             HIDDEN, FFN, 40, 10, 128, 2 * HALF, 0, 1e-5f, WINDOW, angles, angles
    };
    float *state = noise((size_t)N * WINDOW * HIDDEN, 1);
    float *matrix = noise((size_t)FFN * HIDDEN, .01f);
    double seconds, flops = 0;

    must(gpu->layer_begin(device, &shape, &err));
    must(gpu->layer_norms(device, norm, norm, &err));
    for (uint32_t m = 0; m < 7; m++) {
        must(gpu->layer_matrix(device, 0, m, matrix, &err));
        flops += 2.0 * rows[m] * cols[m] * N * WINDOW;
    }
    TIME(seconds, gpu->layer_pass(device, 0, 63, N, state, UPG_DEVICE_DROP, &err));
    printf("passes: %.1f ms for %d tokens, %.0f TFLOP/s\n", seconds * 1e3, N * WINDOW,
           flops / seconds * 1e-12);
    free(angles);
    free(norm);
    free(state);
    free(matrix);
}

int main(int argc, char **argv)
{
    uint32_t rows = argc > 2 ? (uint32_t)strtoul(argv[1], NULL, 10) : 5120;
    uint32_t columns = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;

    must(upg_compress_device_open("cuda", &device, &err));
    gpu = device->class_;
    printf("%s\n", gpu->describe(device));
    bench_feedback(rows, columns);
    bench_columns(rows, columns);
    bench_moments(5120);
    bench_moments(17920);
    bench_passes();
    upg_compress_device_close(device);
    return 0;
}
