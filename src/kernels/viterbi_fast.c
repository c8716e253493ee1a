/* viterbi_fast.c: the int16 search: its units, its memory, its way back.
 *
 * Units. Three numbers of a tap set bound what must be told apart, all in units of σ = 1:
 *   B  the largest |N[l]|, the part of the newest bits;
 *   C  metrics further than this above the least one belong to no good path: HOPELESS times the
 *      distortion of the rate;
 *   D  the furthest that a target may lie outside the range ±g·Σ|p| of values. There every
 *      transition costs at least d², which is taken off, so that only differences use up range.
 * A miss |e| ≥ E = B + √(C + D²) costs at least C beyond d² for every l, so e may saturate at E.
 * E ≥ 2·B keeps slope in range, 3·E ≥ max |H| lets coarse differences saturate harmlessly. With
 * metrics in E²/32768, −32768 … 32767 holds C plus what −2·e·N[l] may take back: a bracket that
 * saturated stays above base + (E − B)², the worst case B = E/2 included.
 * For k = 3, L = 12 the unit is 1/90 of the distortion; measured loss: see bench/codec_bench.c.
 *
 * Memory. Metrics of every row are kept instead of decisions: recomputing the few costs along one
 * path is cheaper than recording the winner of every state. They live in a ring sized for the L2
 * cache. When it is full, the best path is followed back and its rows older than `depth` are
 * settled. Nearly always all later survivors pass through their last state; when the next best path
 * does not, the rows below run again from that state alone. (At 16 constraint lengths of depth this
 * cost up to .15 % in error with L = 14, at 24 below .02 %; without the second run such a seam
 * costs L/k rows of noise.)
 */
#include "kernels/viterbi_fast.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "kernels/tables.h"
#include "kernels/viterbi_steps.h"

enum {
    LANES = 32,
    MIN_ROWS = 16,           /* shorter columns fit nearly without error: no case for int16 */
    RING_BYTES = 512 * 1024, /* half of a usual L2 cache */
    DEPTH_IN_LENGTHS = 24,
    BASE_MARGIN = 64 /* rounding can take a metric a little below the least true one */
};

static const double HOPELESS = 48.0; /* C in distortions */
static const double FURTHEST = 4.75; /* targets to here are held, in σ … */
static const double LEAST_D = 0.5;   /* … and at least this far outside the values */

struct upg_viterbi_fast {
    upg_code               code;
    upg_viterbi_fast_step *step;
    upg_fast_row           rows[2]; /* even, odd */
    int16_t               *middle[2];
    double                 coarse;      /* units in σ: 1 / coarse */
    double                 value_range; /* g·Σ|p| */
    double                 furthest;    /* |target| up to here */
    int16_t                base;
    uint32_t               ring_rows, depth;
    size_t                 stride; /* states of a ring row */
    int16_t               *ring;   /* [ring_rows][stride]: metrics before row r at r % ring_rows */
    int16_t               *excess; /* [ring_rows] */
};

static uint32_t split_bits(const upg_code *code, uint32_t k_now, uint32_t k_next)
{
    uint32_t split = k_now < 3 ? k_now : 3;

    while (split > 0 && 1 << (code->length - k_next - split) < LANES)
        split--;
    return split;
}

bool upg_viterbi_fast_fits(const upg_code *code)
{
    return code->length >= code->k0 + code->k1 && code->length >= 2 * code->k0 &&
           1 << (code->length - code->k1) >= LANES;
}

/* Part of the window bits first … first + n − 1 in g·V, for all their values. */
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
    row->shape = (upg_trellis_row) { .length = code->length,
                                     .k_now = parity == 0 ? code->k0 : code->k1,
                                     .k_next = parity == 0 ? code->k1 : code->k0 };
    row->split = split_bits(code, row->shape.k_now, row->shape.k_next);
    row->repeat = row->shape.k_now - row->split;
    row->n_oldest = 1u << row->shape.k_next;
    row->n_middle = 1u << (code->length - row->shape.k_next - row->split);
}

/* E of one row kind. */
static double largest_miss(const upg_viterbi_fast *f, const upg_fast_row *row)
{
    const upg_code *code = &f->code;
    uint32_t        middle_bits = code->length - row->shape.k_next - row->split;
    double          b = part_range(code, 0, row->split);
    double          c = HOPELESS * 1.25 * pow(4.0, -0.5 * code->rate2);
    double          d = f->furthest - f->value_range;

    return fmax(fmax(b + sqrt(c + d * d), 2 * b), part_range(code, row->split, middle_bits) / 3);
}

static void fill_row(upg_viterbi_fast *f, upg_fast_row *row, int16_t *middle)
{
    const upg_code *code = &f->code;
    uint32_t        middle_bits = code->length - row->shape.k_next - row->split;
    double          fine = 4 * f->coarse;

    for (uint32_t a = 0; a < row->n_oldest; a++)
        row->oldest[a] =
            (int16_t)lrint(f->coarse * part(code, row->split + middle_bits, row->shape.k_next, a));
    for (uint32_t h = 0; h < row->n_middle; h++)
        middle[h] = (int16_t)lrint(f->coarse * part(code, row->split, middle_bits, h));
    for (uint32_t l = 0; l < 1u << row->split; l++) {
        double newest = part(code, 0, row->split, l);

        row->slope[l] = (int16_t)lrint(-2 * newest * fine);
        row->square[l] = (int16_t)lrint(newest * fine * newest * fine / 32768);
    }
    row->middle = middle;
}

static void choose_units(upg_viterbi_fast *f)
{
    double miss, newest, square;

    f->value_range = part_range(&f->code, 0, f->code.length);
    f->furthest = fmax(FURTHEST, f->value_range + LEAST_D);
    miss = fmax(largest_miss(f, &f->rows[0]), largest_miss(f, &f->rows[1]));
    f->coarse = 8191 / miss;
    newest =
        fmax(part_range(&f->code, 0, f->rows[0].split), part_range(&f->code, 0, f->rows[1].split)) *
        4 * f->coarse;
    square = newest * newest / 32768;
    f->base = (int16_t)(INT16_MIN + (int)ceil(square) + BASE_MARGIN);
}

static void size_ring(upg_viterbi_fast *f, uint32_t max_rows)
{
    uint32_t fitting;

    f->stride = (size_t)1 << (f->code.length - f->code.k0);
    f->depth = DEPTH_IN_LENGTHS * f->code.length / f->code.k0;
    fitting = (uint32_t)(RING_BYTES / (f->stride * sizeof *f->ring));
    f->ring_rows = fitting > 3 * f->depth ? fitting : 3 * f->depth;
    if (max_rows < f->ring_rows)
        f->ring_rows = max_rows + 2;
}

static upg_viterbi_fast_step *choose_step(uint32_t cpu_flags)
{
#if defined(__x86_64__)
    if ((cpu_flags & UPG_KERNELS_AVX512_NEEDS) == UPG_KERNELS_AVX512_NEEDS)
        return upg_viterbi_fast_step_avx512;
#endif
    (void)cpu_flags;
    return upg_viterbi_fast_step_scalar;
}

static upg_status allocate(upg_viterbi_fast *f, upg_error *err)
{
    for (int parity = 0; parity < 2; parity++) {
        f->middle[parity] =
            upg_alloc_aligned(f->rows[parity].n_middle * sizeof *f->middle[parity], err);
        if (f->middle[parity] == NULL)
            return UPG_E_NOMEM;
    }
    f->excess = upg_calloc(f->ring_rows, sizeof *f->excess, err);
    if (f->excess == NULL)
        return UPG_E_NOMEM;
    /* 64 more bytes: a step may read a vector past the last state. */
    f->ring = upg_alloc_aligned(f->ring_rows * f->stride * sizeof *f->ring + 64, err);
    return f->ring != NULL ? UPG_OK : UPG_E_NOMEM;
}

upg_status upg_viterbi_fast_create(const upg_code *code, uint32_t max_rows, uint32_t cpu_flags,
                                   upg_viterbi_fast **fast, upg_error *err)
{
    upg_status        st;
    upg_viterbi_fast *f = upg_calloc(1, sizeof *f, err);

    UPG_TRY(f != NULL ? UPG_OK : UPG_E_NOMEM);
    f->code = *code;
    f->step = choose_step(cpu_flags);
    shape_row(code, 0, &f->rows[0]);
    shape_row(code, 1, &f->rows[1]);
    choose_units(f);
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
    upg_free(f->excess);
    upg_free(f->ring);
    upg_free(f);
}

static int16_t *metrics_before(const upg_viterbi_fast *f, uint32_t r)
{
    return f->ring + r % f->ring_rows * f->stride;
}

static int32_t coarse_target(const upg_viterbi_fast *f, float target)
{
    return (int32_t)lrint((double)target * f->coarse);
}

/* What every transition of a row costs at least: the square of the distance to all values. */
static int32_t outside_cost(const upg_viterbi_fast *f, float target)
{
    double d = fabs((double)target) - f->value_range;
    double fine = 4 * f->coarse * d;

    return d > 0 ? (int32_t)lrint(fine * fine / 32768) : 0;
}

/* Runs row r; least is that of the metrics before it. Returns that of the metrics after it. */
static int16_t forward(upg_viterbi_fast *f, uint32_t r, float target, int16_t least)
{
    const upg_fast_row *row = &f->rows[r % 2];
    int32_t             coarse = coarse_target(f, target);
    int32_t             excess = least - f->base + outside_cost(f, target);
    int16_t             offset[32];

    excess = excess < 0 ? 0 : excess > INT16_MAX ? INT16_MAX : excess;
    f->excess[r % f->ring_rows] = (int16_t)excess;
    for (uint32_t a = 0; a < row->n_oldest; a++)
        offset[a] = (int16_t)upg_sat16(coarse - row->oldest[a]);
    return f->step(row, metrics_before(f, r), offset, (int16_t)excess, metrics_before(f, r + 1));
}

/* The survivor of a state after row r: the same costs as in the step, the least a on equality. */
static uint32_t survivor(const upg_viterbi_fast *f, uint32_t r, float target, uint32_t state)
{
    const upg_fast_row *row = &f->rows[r % 2];
    const int16_t      *metric = metrics_before(f, r);
    const uint32_t      per_oldest = row->n_middle >> row->repeat;
    uint32_t            h = state >> row->split, best = 0;
    int32_t             slope = row->slope[state & ((1u << row->split) - 1)];
    int32_t             coarse = coarse_target(f, target), excess = f->excess[r % f->ring_rows];
    int32_t             least = INT32_MAX;

    for (uint32_t a = 0; a < row->n_oldest; a++) {
        int32_t miss = upg_fast_miss(upg_sat16(coarse - row->oldest[a]), row->middle[h]);
        int32_t bracket =
            upg_fast_bracket(metric[a * per_oldest + (h >> row->repeat)], miss, excess);
        int32_t cost = upg_sat16(bracket + upg_mulhrs16(miss, slope));

        if (cost < least) {
            least = cost;
            best = a;
        }
    }
    return best << (row->shape.length - row->shape.k_next) | state;
}

static uint32_t best_state(const upg_viterbi_fast *f, uint32_t n_done, int16_t least)
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
                         int16_t least, const float *target, uint16_t *windows)
{
    uint32_t state = best_state(f, end, least);

    for (uint32_t r = end; r-- > begin;) {
        uint32_t window = survivor(f, r, target[r], state);

        if (r < keep)
            windows[r] = (uint16_t)window;
        state = window >> f->rows[r % 2].shape.k_now;
    }
    return state;
}

/* Sets the metrics before row r: free, or one state only (the others as far off as can be). */
static int16_t start(upg_viterbi_fast *f, uint32_t r, bool any, uint32_t state)
{
    int16_t *metric = metrics_before(f, r);

    for (size_t n = 0; n < f->stride; n++)
        metric[n] = any ? f->base : INT16_MAX;
    if (!any)
        metric[state] = f->base;
    return f->base;
}

/* Settles rows final … keep − 1, given the metrics before row `end`. Should the best path not
 * continue the settled rows above, the search runs again from their last state alone. Returns the
 * least metric before row `end`. */
static int16_t settle(upg_viterbi_fast *f, uint32_t final, uint32_t keep, uint32_t end,
                      int16_t least, const float *target, uint16_t *windows)
{
    uint32_t state = backward(f, final, keep, end, least, target, windows);
    uint32_t k_now = f->rows[final % 2].shape.k_now;
    uint32_t settled;

    if (final == 0)
        return least;
    settled = windows[final - 1] & ((1u << (f->code.length - k_now)) - 1);
    if (state == settled)
        return least;
    least = start(f, final, false, settled);
    for (uint32_t r = final; r < end; r++)
        least = forward(f, r, target[r], least);
    backward(f, final, keep, end, least, target, windows);
    return least;
}

static bool holds(const upg_viterbi_fast *f, uint32_t n_rows, const float *target)
{
    float largest = 0;

    for (uint32_t r = 0; r < n_rows; r++)
        largest = fmaxf(largest, fabsf(target[r]));
    return n_rows >= MIN_ROWS && (double)largest <= f->furthest;
}

bool upg_viterbi_fast_encode(upg_viterbi_fast *f, uint32_t n_rows, const float *target,
                             uint16_t *windows)
{
    uint32_t final = 0; /* rows whose windows are settled */
    int16_t  least;

    if (!holds(f, n_rows, target))
        return false;
    least = start(f, 0, true, 0);
    for (uint32_t r = 0; r < n_rows; r++) {
        least = forward(f, r, target[r], least);
        if (r + 2 - final == f->ring_rows && r + 1 < n_rows) {
            uint32_t keep = r + 1 - f->depth;

            least = settle(f, final, keep, r + 1, least, target, windows);
            final = keep;
        }
    }
    settle(f, final, n_rows, n_rows, least, target, windows);
    return true;
}
