/* viterbi_fast.c: the int16 search: its units, its memory, its way back.
 *
 * Units. Three numbers of a tap set bound what must be told apart, in units of σ = 1: B, the
 * largest |N[l]|, the part of the newest bits; C, how far above the least metric a path is past
 * hope; D, the furthest that a target may lie outside the range ±g·Σ|p| of values. (There every
 * transition costs at least d², which is taken off, so that only differences use up range.) The
 * miss e is clamped at E, and with metrics in E²/32768 the range −32768 … 32767 is 2·E². From
 * these:
 *
 * E ≥ B + √(C + D²): a clamped miss still costs C beyond d² for every l.
 *
 * E ≥ B + √(2·B² + C/2): from base (N[l]² above the bottom) to a bracket held at `top` (2·E·B + B²
 * below 32767) are 2·E² − 2·E·B − 2·B²; −2·e·N[l] takes 2·E·B back, and C must remain.
 *
 * E ≥ max |H| / 1.5: an offset that was cut to 4·E − max |H| still leaves a clamped miss.
 *
 * E ≥ max |A| / 3.9: A itself fits 16 bits.
 *
 * For k = 3, L = 12 the unit is 1/66 of the distortion, for k = 5 1/12, and the mean loss .01 and
 * .04 %. A wrong choice costs a few units; short columns, where that could pass half a percent, are
 * left to float32. Targets past D go to the wide form, at up to 1/8, and float32 takes the rest.
 *
 * Memory. Metrics of every row are kept instead of decisions: recomputing the few costs along one
 * path is cheaper than recording the winner of every state. They live in a ring sized for the L2
 * cache. When it is full, the best path is followed back and its rows older than `depth` are
 * settled. Nearly always all later survivors pass through their last state; when the next best path
 * does not, the rows below run again from that state alone. (The mean error grows by .15 % with 16
 * constraint lengths of depth and L = 14, by less than .02 % with 32; without the second run each
 * seam costs L/k rows of noise.) */
#include "kernels/viterbi_fast.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "kernels/tables.h"
#include "kernels/viterbi_steps.h"

enum {
    LANES = 32,
    MIN_ROWS = 16,
    RING_BYTES = 512 * 1024, /* half of a usual L2 cache */
    DEPTH_IN_LENGTHS = 32,
    MARGIN = 64 /* for rounding, at both ends of the range of metrics */
};

static const double HOPELESS = 64.0; /* C in distortions … */
static const double LEAST_C = 1.5;   /* … but no less, see was_seeing() */
static const double FURTHEST = 4.75; /* targets to here are held, in σ … */
static const double LEAST_D = 0.5;   /* … and at least this far outside the values */
/* The wide form holds what a unit of a distortion / COARSEST can, at most WIDEST. */
static const double COARSEST = 8.0, WIDEST = 8.0;
static const double UNITS_LOST = 12.0, MAX_LOSS = 0.005; /* by a column, at worst; allowed */

struct upg_viterbi_fast {
    upg_code                   code;
    const int16_t             *table; /* values of windows, the owner's */
    upg_viterbi_fast_step     *step;
    upg_viterbi_fast_survivor *survivor;
    upg_fast_row               rows[2]; /* even, odd */
    int16_t                   *middle[2];
    double                     coarse;      /* units in σ: 1 / coarse */
    double                     value_range; /* g·Σ|p| */
    double                     furthest;    /* |target| up to here */
    double                     hopeless;    /* C */
    int32_t                    base;
    int32_t                    offset_limit;
    uint32_t                   min_rows, ring_rows, depth;
    size_t                     stride;  /* states of a ring row */
    int16_t                   *ring;    /* [ring_rows][stride]: before row r at r % ring_rows */
    upg_fast_target           *targets; /* [ring_rows] */
};

bool upg_viterbi_fast_fits(const upg_code *code)
{
    return code->length >= code->k0 + code->k1 && 1 << (code->length - code->k1) >= LANES;
}

/* Part of the window bits first … first + n − 1 in g·V when their values are `bits`. */
static double part(const upg_code *code, uint32_t first, uint32_t n, uint32_t bits)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += bits >> i & 1u ? code->taps[first + i] : -code->taps[first + i];
    return sum * (double)code->gain;
}

static double part_range(const upg_code *code, uint32_t first, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += abs(code->taps[first + i]);
    return sum * (double)code->gain;
}

static void shape_row(const upg_code *code, uint32_t parity, upg_fast_row *row)
{
    uint32_t k_now = parity == 0 ? code->k0 : code->k1;
    uint32_t k_next = parity == 0 ? code->k1 : code->k0;
    uint32_t split = k_now < 3 ? k_now : k_now < 5 ? 3 : 2; /* at 5 bits B must be small */

    while (1 << (code->length - k_next - split) < LANES)
        split--;
    row->shape = (upg_trellis_row) { .length = code->length, .k_now = k_now, .k_next = k_next };
    row->split = split;
    row->repeat = k_now - split;
    row->n_oldest = 1u << k_next;
    row->n_middle = 1u << (code->length - k_next - split);
}

static uint32_t middle_bits(const upg_fast_row *row)
{
    return row->shape.length - row->shape.k_next - row->split;
}

/* Roughly the mean squared error of a unit Gaussian. */
static double distortion(const upg_code *code)
{
    return 1.25 * pow(4.0, -0.5 * code->rate2);
}

/* E of one row kind. */
static double largest_miss(const upg_viterbi_fast *f, const upg_fast_row *row)
{
    double b = part_range(&f->code, 0, row->split);
    double c = f->hopeless;
    double d = f->furthest - f->value_range;
    double h = part_range(&f->code, row->split, middle_bits(row));
    double a = part_range(&f->code, row->split + middle_bits(row), row->shape.k_next);

    return fmax(fmax(b + sqrt(c + d * d), b + sqrt(2 * b * b + c / 2)), fmax(h / 1.5, a / 3.9));
}

/* What must stay free at both ends of the range of metrics, and of offsets, for one row kind. */
static void limit_row(upg_viterbi_fast *f, upg_fast_row *row)
{
    double  newest = part_range(&f->code, 0, row->split) * 4 * f->coarse;
    double  middle = part_range(&f->code, row->split, middle_bits(row)) * f->coarse;
    int32_t square = (int32_t)ceil(newest * newest / 32768);
    int32_t limit = INT16_MAX - 1 - (int32_t)ceil(middle);

    row->top = (int16_t)(INT16_MAX - (int32_t)ceil(2 * newest) - square - MARGIN);
    if (f->base < INT16_MIN + square + MARGIN)
        f->base = INT16_MIN + square + MARGIN;
    if (f->offset_limit > limit)
        f->offset_limit = limit;
}

/* The furthest target of the wide form: E² is 32768 of its units. */
static double reach(const upg_viterbi_fast *f)
{
    double e = sqrt(32768 * distortion(&f->code) / COARSEST), least = WIDEST;

    for (int parity = 0; parity < 2; parity++) {
        double b = part_range(&f->code, 0, f->rows[parity].split);
        double room = e > b ? (e - b) * (e - b) - f->hopeless : 0;

        least = fmin(least, f->value_range + sqrt(fmax(room, 0)));
    }
    return least;
}

static void choose_units(upg_viterbi_fast *f, bool wide)
{
    double unit;

    f->value_range = part_range(&f->code, 0, f->code.length);
    f->hopeless = fmax(HOPELESS * distortion(&f->code), LEAST_C) * (wide ? 2 : 1);
    f->furthest = wide ? reach(f) : fmax(FURTHEST, f->value_range + LEAST_D);
    f->coarse = UPG_FAST_MISS / fmax(largest_miss(f, &f->rows[0]), largest_miss(f, &f->rows[1]));
    unit = 32768 / (16 * f->coarse * f->coarse);
    f->min_rows = (uint32_t)fmax(MIN_ROWS, UNITS_LOST / MAX_LOSS * unit / distortion(&f->code));
    f->base = INT16_MIN;
    f->offset_limit = INT16_MAX;
    limit_row(f, &f->rows[0]);
    limit_row(f, &f->rows[1]);
}

static void fill_row(const upg_viterbi_fast *f, upg_fast_row *row, int16_t *middle)
{
    const upg_code *code = &f->code;
    uint32_t        bits = middle_bits(row);
    double          fine = 4 * f->coarse;

    for (uint32_t a = 0; a < row->n_oldest; a++)
        row->oldest[a] =
            (int16_t)lrint(f->coarse * part(code, row->split + bits, row->shape.k_next, a));
    for (uint32_t h = 0; h < row->n_middle; h++)
        middle[h] = (int16_t)lrint(f->coarse * part(code, row->split, bits, h));
    for (uint32_t l = 0; l < 1u << row->split >> 1; l++) {
        double newest = fine * part(code, 0, row->split, l);

        row->slope[l] = (int16_t)lrint(-2 * newest);
        row->square[l] = (int16_t)lrint(newest * newest / 32768);
    }
    row->middle = middle;
}

static void size_ring(upg_viterbi_fast *f, uint32_t max_rows)
{
    uint32_t fitting;

    f->stride = (size_t)1 << (f->code.length - f->code.k0);
    f->depth = DEPTH_IN_LENGTHS * f->code.length / f->code.k0;
    fitting = (uint32_t)(RING_BYTES / (f->stride * sizeof *f->ring));
    f->ring_rows = fitting > 2 * f->depth ? fitting : 2 * f->depth;
    if (max_rows < f->ring_rows)
        f->ring_rows = max_rows + 2;
}

uint64_t upg_viterbi_fast_memory(const upg_code *code, uint32_t max_rows)
{
    upg_viterbi_fast f = { .code = *code };
    uint64_t         rows;

    size_ring(&f, max_rows);
    rows = f.ring_rows;
    /* middle parts of both row kinds have fewer than `stride` values each */
    return sizeof f + rows * (f.stride * sizeof *f.ring + sizeof *f.targets) +
           2 * f.stride * sizeof **f.middle;
}

static void choose_steps(uint32_t cpu_flags, upg_viterbi_fast *f)
{
    f->step = upg_viterbi_fast_step_scalar;
    f->survivor = upg_viterbi_fast_survivor_scalar;
#if defined(__x86_64__)
    if (!(cpu_flags & UPG_CPU_AVX2))
        return;
    f->step = upg_viterbi_fast_step_avx2;
    f->survivor = upg_viterbi_fast_survivor_avx2;
    if ((cpu_flags & UPG_KERNELS_AVX512_NEEDS) == UPG_KERNELS_AVX512_NEEDS)
        f->step = upg_viterbi_fast_step_avx512;
#elif defined(__aarch64__)
    if (!(cpu_flags & UPG_CPU_NEON))
        return;
    f->step = upg_viterbi_fast_step_neon;
    f->survivor = upg_viterbi_fast_survivor_neon;
#else
    (void)cpu_flags;
#endif
}

static upg_status allocate(upg_viterbi_fast *f, upg_error *err)
{
    for (int parity = 0; parity < 2; parity++) {
        f->middle[parity] =
            upg_alloc_aligned(f->rows[parity].n_middle * sizeof *f->middle[parity], err);
        if (f->middle[parity] == NULL)
            return UPG_E_NOMEM;
    }
    f->targets = upg_calloc(f->ring_rows, sizeof *f->targets, err);
    if (f->targets == NULL)
        return UPG_E_NOMEM;
    /* 64 more bytes: a step may read a vector past the last state. */
    f->ring = upg_alloc_aligned(f->ring_rows * f->stride * sizeof *f->ring + 64, err);
    return f->ring != NULL ? UPG_OK : UPG_E_NOMEM;
}

upg_status upg_viterbi_fast_create(const upg_code *code, const int16_t *table, uint32_t max_rows,
                                   bool wide, uint32_t cpu_flags, upg_viterbi_fast **fast,
                                   upg_error *err)
{
    upg_status        st;
    upg_viterbi_fast *f = upg_calloc(1, sizeof *f, err);

    UPG_TRY(f != NULL ? UPG_OK : UPG_E_NOMEM);
    f->code = *code;
    f->table = table;
    choose_steps(cpu_flags, f);
    shape_row(code, 0, &f->rows[0]);
    shape_row(code, 1, &f->rows[1]);
    choose_units(f, wide);
    size_ring(f, max_rows);
    UPG_TRY(allocate(f, err));
    fill_row(f, &f->rows[0], f->middle[0]);
    fill_row(f, &f->rows[1], f->middle[1]);
out:
    if (st != UPG_OK) {
        upg_viterbi_fast_close(f);
        f = NULL;
    }
    *fast = f;
    return st;
}

void upg_viterbi_fast_close(upg_viterbi_fast *f)
{
    if (f == NULL)
        return;
    upg_free(f->middle[0]);
    upg_free(f->middle[1]);
    upg_free(f->targets);
    upg_free(f->ring);
    upg_free(f);
}

upg_viterbi_fast_form upg_viterbi_fast_describe(const upg_viterbi_fast *f)
{
    return (upg_viterbi_fast_form) { .rows = { &f->rows[0], &f->rows[1] },
                                     .coarse = f->coarse,
                                     .value_range = f->value_range,
                                     .furthest = f->furthest,
                                     .hopeless = f->hopeless,
                                     .base = f->base,
                                     .offset_limit = f->offset_limit,
                                     .min_rows = f->min_rows,
                                     .ring_rows = f->ring_rows,
                                     .depth = f->depth };
}

static int32_t clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

static int16_t *metrics_before(const upg_viterbi_fast *f, uint32_t r)
{
    return f->ring + r % f->ring_rows * f->stride;
}

/* What every transition of a row costs at least: the square of the distance to all values. */
static int32_t outside_cost(const upg_viterbi_fast *f, float target)
{
    double d = fabs((double)target) - f->value_range;
    double fine = 4 * f->coarse * d;

    return d > 0 ? (int32_t)lrint(fine * fine / 32768) : 0;
}

/* Runs row r; least is that of the metrics before it. Returns that of the metrics after it. */
static int32_t forward(upg_viterbi_fast *f, uint32_t r, float target, int32_t least)
{
    const upg_fast_row *row = &f->rows[r % 2];
    upg_fast_target    *t = &f->targets[r % f->ring_rows];
    int32_t             coarse = (int32_t)lrint((double)target * f->coarse);
    int32_t             excess = least - f->base + outside_cost(f, target);

    t->excess = (int16_t)clamp(excess, UPG_FAST_MIN_EXCESS, INT16_MAX);
    for (uint32_t a = 0; a < row->n_oldest; a++)
        t->offset[a] = (int16_t)clamp(coarse - row->oldest[a], -f->offset_limit, f->offset_limit);
    return f->step(row, metrics_before(f, r), t, metrics_before(f, r + 1));
}

static uint32_t best_state(const upg_viterbi_fast *f, uint32_t n_done, int32_t least)
{
    const int16_t *metric = metrics_before(f, n_done);
    uint32_t       state = 0;

    while (metric[state] != least)
        state++;
    return state;
}

/* Follows the best path from the metrics before row `end` down to row `begin` and writes the
 * windows below `keep`. Returns the state before row `begin`. */
static uint32_t backward(const upg_viterbi_fast *f, uint32_t begin, uint32_t keep, uint32_t end,
                         int32_t least, uint16_t *windows)
{
    uint32_t state = best_state(f, end, least);

    for (uint32_t r = end; r-- > begin;) {
        const upg_fast_row *row = &f->rows[r % 2];
        uint32_t            oldest =
            f->survivor(row, metrics_before(f, r), &f->targets[r % f->ring_rows], state);
        uint32_t window = oldest << (row->shape.length - row->shape.k_next) | state;

        if (r < keep)
            windows[r] = (uint16_t)window;
        state = window >> row->shape.k_now;
    }
    return state;
}

/* Sets the metrics before row r: all states alike, or `only` and the others as far off as can be.
 */
static int32_t start(upg_viterbi_fast *f, uint32_t r, bool free_start, uint32_t only)
{
    int16_t *metric = metrics_before(f, r);

    for (size_t n = 0; n < f->stride; n++)
        metric[n] = (int16_t)(free_start ? f->base : INT16_MAX);
    if (!free_start)
        metric[only] = (int16_t)f->base;
    return f->base;
}

/* Settles rows settled … keep − 1, given the metrics before row `end`. Should the best path not
 * continue the rows settled before, the search runs again from their last state alone. Returns the
 * least metric before row `end`. */
static int32_t settle(upg_viterbi_fast *f, uint32_t settled, uint32_t keep, uint32_t end,
                      int32_t least, const float *target, uint16_t *windows)
{
    uint32_t state = backward(f, settled, keep, end, least, windows);
    uint32_t last;

    if (settled == 0)
        return least;
    last = windows[settled - 1] & ((1u << (f->code.length - f->rows[settled % 2].shape.k_now)) - 1);
    if (state == last)
        return least;
    least = start(f, settled, false, last);
    for (uint32_t r = settled; r < end; r++)
        least = forward(f, r, target[r], least);
    backward(f, settled, keep, end, least, windows);
    return least;
}

/* A row that cost C or more says nothing about its alternatives, which may all have been clamped:
 * the search was blind there. So it goes near the ends of the range of values, where a good path
 * sometimes cannot lead, and in columns that are nothing like unit Gaussians. */
static bool was_seeing(const upg_viterbi_fast *f, uint32_t n_rows, const float *target,
                       const uint16_t *windows)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        double miss = (double)target[r] - (double)f->code.gain * f->table[windows[r]];
        double d = fmax(fabs((double)target[r]) - f->value_range, 0);

        if (miss * miss - d * d >= f->hopeless)
            return false;
    }
    return true;
}

static bool holds(const upg_viterbi_fast *f, uint32_t n_rows, const float *target)
{
    float largest = 0;

    for (uint32_t r = 0; r < n_rows; r++)
        largest = fmaxf(largest, fabsf(target[r]));
    return n_rows >= f->min_rows && (double)largest <= f->furthest;
}

bool upg_viterbi_fast_encode(upg_viterbi_fast *f, uint32_t n_rows, const float *target,
                             uint16_t *windows)
{
    uint32_t settled = 0;
    int32_t  least;

    if (!holds(f, n_rows, target))
        return false;
    least = start(f, 0, true, 0);
    for (uint32_t r = 0; r < n_rows; r++) {
        least = forward(f, r, target[r], least);
        if (r + 2 - settled == f->ring_rows && r + 1 < n_rows) {
            uint32_t keep = r + 1 - f->depth;

            least = settle(f, settled, keep, r + 1, least, target, windows);
            settled = keep;
        }
    }
    settle(f, settled, n_rows, n_rows, least, target, windows);
    return was_seeing(f, n_rows, target, windows);
}
