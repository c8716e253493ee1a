/* codec_bench: the coded matrices' kernels beside what the machine allows, measured in the same
 * run.
 *
 *   codec_bench [mse|encode|bitdot|gemm|decode]…     (all of them when none is named)
 *
 * encode  million weights a second and core, each rate, arithmetic and ISA
 * bitdot  GB/s of code beside plain reads of the same memory, on 1 and 2 threads
 * gemm    int16 multiply-adds beside the peak of the instruction it uses
 * decode  weights to int16 and inputs rotated, each from L2
 * mse     squared error on unit Gaussians */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/pool.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "kernels/viterbi.h"

enum { RUNS = 11 };

static const uint32_t isa_masks[] = { 0, UPG_CPU_AVX2, UINT32_MAX };
enum { ISA_COUNT = sizeof isa_masks / sizeof isa_masks[0] };

static const uint8_t rates2[] = { 4, 5, 6, 7, 8, 10 }, lengths[] = { 12, 14, 16 };
enum { RATE_COUNT = sizeof rates2, CODE_COUNT = RATE_COUNT * sizeof lengths };

static const upg_code *code_at(size_t i)
{
    return upg_code_find(rates2[i % RATE_COUNT], lengths[i / RATE_COUNT]);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

typedef struct spread {
    double low, median, high;
} spread;

static spread spread_of(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return (spread) { values[0], values[n / 2], values[n - 1] };
}

static double seconds_since(uint64_t start)
{
    return (double)(upg_now_ns() - start) * 1e-9;
}

/* Processor time of this thread: what one core does, whoever else is on it. */
static uint64_t thread_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double thread_seconds_since(uint64_t start)
{
    return (double)(thread_ns() - start) * 1e-9;
}

static float *gaussians(size_t n)
{
    float *x = upg_alloc_aligned(n * sizeof *x, NULL);

    for (size_t i = 0; x != NULL && i < n; i++) {
        double u = upg_random_unit(1, 2 * i), v = upg_random_unit(1, 2 * i + 1);

        x[i] = (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
    }
    return x;
}

/* ---- encode, mse ---- */

enum { ENCODE_ROWS = 4096 };

static double encode_once(const upg_code *code, upg_viterbi_arithmetic arithmetic, uint32_t flags,
                          const float *x, size_t columns, double *error)
{
    static uint16_t windows[ENCODE_ROWS];
    upg_viterbi    *v;
    uint64_t        start;
    double          seconds;

    if (upg_viterbi_create(code, ENCODE_ROWS, arithmetic, flags, &v, NULL) != UPG_OK)
        return 0;
    start = thread_ns();
    *error = 0;
    for (size_t c = 0; c < columns; c++)
        *error += upg_viterbi_encode(v, ENCODE_ROWS, x + c * ENCODE_ROWS, NULL, windows);
    seconds = thread_seconds_since(start);
    upg_viterbi_close(v);
    return (double)columns * ENCODE_ROWS / seconds * 1e-6;
}

static void bench_encode(void)
{
    float *x = gaussians((size_t)8 * ENCODE_ROWS);

    if (x == NULL)
        return;
    printf("encode, million weights a second and core: median (least … most) of %d\n", RUNS);
    for (size_t i = 0; i < CODE_COUNT; i++)
        for (int arithmetic = 0; arithmetic < 2; arithmetic++)
            for (size_t isa = 0; isa < ISA_COUNT; isa++) {
                const upg_code *code = code_at(i);
                double          speed[RUNS], error;
                bool            slow = isa == 0 || code->length > 12;
                size_t          columns = slow ? 1 : 8;
                int             runs = slow ? 3 : RUNS;
                spread          s;

                for (int run = 0; run < runs; run++)
                    speed[run] = encode_once(code, (upg_viterbi_arithmetic)arithmetic,
                                             upg_cpu_flags() & isa_masks[isa], x, columns, &error);
                s = spread_of(speed, (size_t)runs);
                printf("  rate %.1f  L %2u  %-7s  level %zu  %6.2f (%.2f … %.2f)\n",
                       code->rate2 / 2.0, code->length, arithmetic == 0 ? "int16" : "float32", isa,
                       s.median, s.low, s.high);
            }
    upg_free(x);
}

static void bench_mse(void)
{
    enum { COLUMNS = 64 };
    float *x = gaussians((size_t)COLUMNS * ENCODE_ROWS);

    if (x == NULL)
        return;
    printf("squared error on unit Gaussians, %d columns of %d: int16, float32, their ratio\n",
           COLUMNS, ENCODE_ROWS);
    for (size_t i = 0; i < CODE_COUNT; i++) {
        const upg_code *code = code_at(i);
        double          error[2], n = (double)COLUMNS * ENCODE_ROWS;

        for (int arithmetic = 0; arithmetic < 2; arithmetic++)
            encode_once(code, (upg_viterbi_arithmetic)arithmetic, upg_cpu_flags(), x, COLUMNS,
                        &error[arithmetic]);
        printf("  rate %.1f  L %2u  %.6f  %.6f  %.5f\n", code->rate2 / 2.0, code->length,
               error[0] / n, error[1] / n, error[0] / error[1]);
    }
    upg_free(x);
}

/* ---- bitdot ---- */

enum { BITDOT_GROUPS = 160, BITDOT_BLOCKS = 12000 }; /* 5120 inputs as in Phi-4; 491 MB of code */

typedef struct bitdot_job {
    const upg_kernels *kernels; /* NULL: plain reads */
    const uint32_t    *code;
    const void        *prepared;
    uint32_t           n_parts;
    uint64_t           checksum[64];
} bitdot_job;

/* GCC's vector extension, so that plain reads are as wide as the machine's registers allow. */
typedef uint64_t reads __attribute__((vector_size(64), may_alias));

static uint64_t plain_reads(const uint32_t *code, size_t words)
{
    const reads *at = (const reads *)code;
    reads        sum[4] = { 0 };
    uint64_t     total = 0;

    for (size_t i = 0; i < words / 16; i += 4)
        for (size_t j = 0; j < 4; j++) {
            __builtin_prefetch((const char *)(at + i + j) + 16384, 0, 2); /* into L2: fastest */
            sum[j] += at[i + j];
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    for (size_t j = 0; j < 8; j++)
        total += sum[0][j];
    return total;
}

static void run_part(void *context, size_t part, uint32_t worker)
{
    bitdot_job          *job = context;
    size_t               first = BITDOT_BLOCKS * part / job->n_parts;
    size_t               last = BITDOT_BLOCKS * (part + 1) / job->n_parts;
    size_t               words = (size_t)BITDOT_GROUPS * UPG_BLOCK_ROWS;
    _Alignas(64) int32_t u[UPG_BLOCK_ROWS];

    (void)worker;
    if (job->kernels == NULL) {
        job->checksum[part] = plain_reads(job->code + first * words, (last - first) * words);
        return;
    }
    for (size_t b = first; b < last; b++) {
        job->kernels->bitdot(BITDOT_GROUPS, UPG_BLOCK_ROWS, job->code + b * words, job->prepared,
                             u);
        job->checksum[part] += (uint32_t)u[b % UPG_BLOCK_ROWS];
    }
}

static double bitdot_once(upg_pool *pool, bitdot_job *job)
{
    uint64_t start = upg_now_ns();

    job->n_parts = upg_pool_size(pool);
    upg_pool_run(pool, job->n_parts, run_part, job);
    return (double)BITDOT_BLOCKS * BITDOT_GROUPS * UPG_BLOCK_ROWS * 4 / seconds_since(start) * 1e-9;
}

/* Plain reads and the kernel take turns, so that both meet the same disturbances. */
static void bitdot_on(uint32_t threads, uint32_t flags, bitdot_job *job)
{
    int8_t      x[32 * BITDOT_GROUPS];
    upg_kernels kernels;
    upg_pool   *pool;
    void  *prepared = upg_alloc_aligned((size_t)BITDOT_GROUPS * UPG_PREPARED_BYTES_PER_GROUP, NULL);
    double read[RUNS], dot[RUNS], ratio[RUNS];
    spread r, d, q;

    if (prepared == NULL || upg_pool_create(threads, &pool, NULL) != UPG_OK)
        return;
    upg_kernels_select(flags, &kernels);
    for (size_t i = 0; i < sizeof x; i++)
        x[i] = (int8_t)(upg_random_u64(3, i) % 255 - 127);
    kernels.bitdot_prepare(BITDOT_GROUPS, x, prepared);
    job->prepared = prepared;
    for (int run = 0; run < RUNS; run++) {
        job->kernels = NULL;
        read[run] = bitdot_once(pool, job);
        job->kernels = &kernels;
        dot[run] = bitdot_once(pool, job);
        ratio[run] = dot[run] / read[run];
    }
    r = spread_of(read, RUNS), d = spread_of(dot, RUNS), q = spread_of(ratio, RUNS);
    printf("  %u thread(s)  %-11s  reads %5.1f (… %.1f)  bitdot %5.1f (… %.1f) GB/s  "
           "fraction %.2f (%.2f … %.2f)\n",
           threads, kernels.name, r.median, r.high, d.median, d.high, q.median, q.low, q.high);
    upg_pool_close(pool);
    upg_free(prepared);
}

static void bench_bitdot(void)
{
    size_t     words = (size_t)BITDOT_BLOCKS * BITDOT_GROUPS * UPG_BLOCK_ROWS;
    uint32_t  *code = upg_alloc_aligned(words * sizeof *code, NULL);
    bitdot_job job = { .code = code };

    if (code == NULL)
        return;
    for (size_t i = 0; i < words; i++)
        code[i] = (uint32_t)upg_random_u64(2, i);
    printf("bitdot, %d inputs, %.0f MB of code: median (… most) of %d\n", 32 * BITDOT_GROUPS,
           (double)words * 4e-6, RUNS);
    for (uint32_t threads = 1; threads <= 2; threads++)
        for (size_t isa = 1; isa < ISA_COUNT; isa++)
            bitdot_on(threads, upg_cpu_flags() & isa_masks[isa], &job);
    upg_free(code);
}

/* ---- gemm ---- */

#if defined(__x86_64__)
#include <immintrin.h>

/* Multiply-adds a second of the instruction that gemm_i16 lives on, from registers alone. */
__attribute__((target("avx512f,avx512vnni"))) static double peak_avx512(void)
{
    __m512i  sum[16], a = _mm512_set1_epi16(3), b = _mm512_set1_epi16(5);
    uint64_t start;
    int32_t  result;
    double   seconds;

    for (int i = 0; i < 16; i++)
        sum[i] = _mm512_set1_epi32(i);
    start = thread_ns();
    for (int n = 0; n < 4000000; n++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            sum[i] = _mm512_dpwssd_epi32(sum[i], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    seconds = thread_seconds_since(start);
    for (int i = 1; i < 16; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    result = _mm512_reduce_add_epi32(sum[0]);
    return result == 1 ? 0 : 4000000.0 * 16 * 32 / seconds;
}

__attribute__((target("avx2"))) static double peak_avx2(void)
{
    __m256i  sum[8], a = _mm256_set1_epi16(3), b = _mm256_set1_epi16(5);
    uint64_t start;
    double   seconds;

    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_set1_epi32(i);
    start = thread_ns();
    for (int n = 0; n < 4000000; n++)
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(a), "+x"(b));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(a, b));
        }
    seconds = thread_seconds_since(start);
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return _mm256_extract_epi32(sum[0], 0) == 1 ? 0 : 4000000.0 * 8 * 16 / seconds;
}

static double peak(uint32_t flags)
{
    return flags & UPG_CPU_AVX512VNNI ? peak_avx512() : flags & UPG_CPU_AVX2 ? peak_avx2() : 0;
}
#else
static double peak(uint32_t flags)
{
    (void)flags;
    return 0;
}
#endif

static void gemm_on(uint32_t flags, size_t m, size_t rows, const int16_t *x, const int16_t *v,
                    int32_t *y)
{
    enum { COLUMNS = 2048 };
    upg_kernels k;
    double      speed[RUNS], fraction[RUNS];
    spread      s, f;

    upg_kernels_select(flags, &k);
    for (int run = 0; run < RUNS; run++) {
        double   limit = peak(flags);
        uint64_t start = thread_ns();

        for (int n = 0; n < 4; n++)
            k.gemm_i16(m, rows, COLUMNS, x, COLUMNS, v, COLUMNS, y, rows);
        speed[run] = 4.0 * (double)(m * rows) * COLUMNS / thread_seconds_since(start);
        fraction[run] = limit > 0 ? speed[run] / limit : 0;
    }
    s = spread_of(speed, RUNS), f = spread_of(fraction, RUNS);
    printf("  %-11s  m %3zu  rows %3zu  %6.1f (… %.1f) G multiply-adds/s  of peak %.2f (… %.2f)\n",
           k.name, m, rows, s.median * 1e-9, s.high * 1e-9, f.median, f.high);
}

static void bench_gemm(void)
{
    enum { M = 512, ROWS = 256, COLUMNS = 2048 };
    int16_t *x = upg_alloc_aligned((size_t)M * COLUMNS * sizeof *x, NULL);
    int16_t *v = upg_alloc_aligned((size_t)ROWS * COLUMNS * sizeof *v, NULL);
    int32_t *y = upg_alloc_aligned((size_t)M * ROWS * sizeof *y, NULL);

    if (x != NULL && v != NULL && y != NULL) {
        for (size_t i = 0; i < (size_t)M * COLUMNS; i++)
            x[i] = (int16_t)(upg_random_u64(4, i) % 255 - 127);
        for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++)
            v[i] = (int16_t)(upg_random_u64(5, i) % 1289 - 644);
        printf("gemm_i16, 2048 columns: median (… most) of %d\n", RUNS);
        for (size_t isa = 1; isa < ISA_COUNT; isa++) {
            uint32_t flags = upg_cpu_flags() & isa_masks[isa];

            gemm_on(flags, 512, 64, x, v, y);
            gemm_on(flags, 512, 256, x, v, y);
            gemm_on(flags, 16, 64, x, v, y);
            gemm_on(flags, 5, 61, x, v, y);
        }
    }
    upg_free(x);
    upg_free(v);
    upg_free(y);
}

/* ---- decode, rotation ---- */

static void decode_on(uint32_t flags, const upg_band *band, uint32_t n_cols, int16_t *v, float *x)
{
    enum { INPUTS = 5120 };
    upg_kernels k;
    double      decoded[RUNS], rotated[RUNS];
    spread      d, r;

    upg_kernels_select(flags, &k);
    for (int run = 0; run < RUNS; run++) {
        uint64_t start = thread_ns();

        for (uint32_t group = 0; group < upg_group_count(n_cols); group++)
            k.decode_group(band, n_cols, group, 0, band->n_rows, v + 32 * group, n_cols);
        decoded[run] = (double)band->n_rows * n_cols / thread_seconds_since(start) * 1e-9;
        start = thread_ns();
        for (int n = 0; n < 100; n++)
            k.hadamard(INPUTS, UPG_ROTATION_MAX_BLOCK, x);
        rotated[run] = thread_seconds_since(start) * 1e4;
    }
    d = spread_of(decoded, RUNS), r = spread_of(rotated, RUNS);
    printf("  %-11s  decode %5.2f (… %.2f) G weights/s   Hadamard of %d inputs %.2f (%.2f …) us\n",
           k.name, d.median, d.high, INPUTS, r.median, r.low);
}

static void bench_decode(void)
{
    enum { ROWS = 64, COLUMNS = 2048 };
    upg_band  band = { .code = *upg_code_find(6, 12), .n_rows = ROWS };
    uint32_t *bits;
    int16_t  *v = upg_alloc_aligned((size_t)ROWS * COLUMNS * sizeof *v, NULL);
    float    *x = gaussians(5120);

    band.n_binary = (uint32_t)upg_code_binary_rows(&band.code, ROWS);
    bits = upg_alloc_aligned(upg_band_words(band.n_binary, COLUMNS) * sizeof *bits, NULL);
    if (bits != NULL && v != NULL && x != NULL) {
        for (uint64_t i = 0; i < upg_band_words(band.n_binary, COLUMNS); i++)
            bits[i] = (uint32_t)upg_random_u64(6, i);
        band.bits = bits;
        printf("decode of %d rows at 3 bits, rotation: median (best) of %d\n", ROWS, RUNS);
        for (size_t isa = 0; isa < ISA_COUNT; isa++)
            decode_on(upg_cpu_flags() & isa_masks[isa], &band, COLUMNS, v, x);
    }
    upg_free(bits);
    upg_free(v);
    upg_free(x);
}

static bool wanted(int argc, char **argv, const char *name)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc < 2;
}

int main(int argc, char **argv)
{
    char name[128], flags[128];

    upg_cpu_name(name, sizeof name);
    upg_cpu_describe(upg_cpu_flags(), flags, sizeof flags);
    printf("%s: %s; levels 0 scalar, 1 AVX2, 2 all\n", name, flags);
    if (wanted(argc, argv, "mse"))
        bench_mse();
    if (wanted(argc, argv, "encode"))
        bench_encode();
    if (wanted(argc, argv, "bitdot"))
        bench_bitdot();
    if (wanted(argc, argv, "gemm"))
        bench_gemm();
    if (wanted(argc, argv, "decode"))
        bench_decode();
    return 0;
}
