/* viterbi_neon.c: one row of the encoder, 8 states at a time.
 *
 * The order of work of viterbi_avx512.c. SQRDMULH rounds as PMULHRSW does (they differ for
 * −32768² alone, and |e| ≤ 32764), and ST2 and ST4 interleave as they store. A source state of the
 * float32 form serves four neighbours at least (k ≥ 2): its metric is broadcast. */
#include <arm_neon.h>
#include <math.h>

#include "kernels/viterbi_steps.h"

/* Lane i of 8 takes word i >> repeat. */
static inline uint8x16_t source_bytes(uint32_t repeat)
{
    uint8_t bytes[16];

    for (uint32_t i = 0; i < 8; i++) {
        bytes[2 * i] = (uint8_t)(2 * (i >> repeat));
        bytes[2 * i + 1] = (uint8_t)(2 * (i >> repeat) + 1);
    }
    return vld1q_u8(bytes);
}

/* v[l] lane h becomes the element h · 2^split + l of the run at out. */
static inline __attribute__((always_inline)) void
store_interleaved(const int split, const int16x8_t *v, int16_t *out)
{
    if (split == 0)
        vst1q_s16(out, v[0]);
    else if (split == 1)
        vst2q_s16(out, (int16x8x2_t) { { v[0], v[1] } });
    else if (split == 2)
        vst4q_s16(out, (int16x8x4_t) { { v[0], v[1], v[2], v[3] } });
    else { /* l and l + 4 alternate in each register, so that four of them hold 4 lanes h */
        vst4q_s16(out, (int16x8x4_t) { { vzip1q_s16(v[0], v[4]), vzip1q_s16(v[1], v[5]),
                                         vzip1q_s16(v[2], v[6]), vzip1q_s16(v[3], v[7]) } });
        vst4q_s16(out + 32, (int16x8x4_t) { { vzip2q_s16(v[0], v[4]), vzip2q_s16(v[1], v[5]),
                                              vzip2q_s16(v[2], v[6]), vzip2q_s16(v[3], v[7]) } });
    }
}

/* e from what a target leaves. */
static inline int16x8_t miss8(int16x8_t offset, int16x8_t middle)
{
    int16x8_t e = vsubq_s16(offset, middle);

    e = vmaxq_s16(vminq_s16(e, vdupq_n_s16(UPG_FAST_MISS)), vdupq_n_s16(-UPG_FAST_MISS));
    return vshlq_n_s16(e, 2);
}

static inline int16x8_t bracket8(int16x8_t metric, int16x8_t e, int16x8_t excess, int16x8_t top)
{
    return vminq_s16(vqaddq_s16(metric, vsubq_s16(vqrdmulhq_s16(e, e), excess)), top);
}

static inline __attribute__((always_inline)) int16_t
fast_step(const int split, const int repeats, const upg_fast_row *row, const int16_t *metric,
          const upg_fast_target *target, int16_t *next)
{
    const int        n = 1 << split, half = n >> 1;
    const uint32_t   per_oldest = row->n_middle >> row->repeat;
    const int16x8_t  excess = vdupq_n_s16(target->excess), top = vdupq_n_s16(row->top);
    const uint8x16_t from = source_bytes(row->repeat);
    int16x8_t        least = vdupq_n_s16(INT16_MAX);

    for (uint32_t h = 0; h < row->n_middle; h += 8) {
        const int16x8_t middle = vld1q_s16(row->middle + h);
        const int16_t  *source = metric + (h >> row->repeat);
        int16x8_t       best[8];

        for (int l = 0; l < n; l++)
            best[l] = vdupq_n_s16(INT16_MAX);
        for (uint32_t a = 0; a < row->n_oldest; a++, source += per_oldest) {
            int16x8_t e = miss8(vld1q_dup_s16(target->offset + a), middle);
            int16x8_t m = vld1q_s16(source), bracket;

            if (repeats)
                m = vreinterpretq_s16_u8(vqtbl1q_u8(vreinterpretq_u8_s16(m), from));
            bracket = bracket8(m, e, excess, top);
            if (split == 0)
                best[0] = vminq_s16(best[0], bracket);
            for (int l = 0; l < half; l++) {
                int16x8_t t = vqrdmulhq_n_s16(e, row->slope[l]);

                best[l] = vminq_s16(best[l], vaddq_s16(bracket, t));
                best[n - 1 - l] = vminq_s16(best[n - 1 - l], vsubq_s16(bracket, t));
            }
        }
        for (int l = 0; l < half; l++) {
            int16x8_t square = vdupq_n_s16(row->square[l]);

            best[l] = vaddq_s16(best[l], square);
            best[n - 1 - l] = vaddq_s16(best[n - 1 - l], square);
        }
        for (int l = 0; l < n; l++)
            least = vminq_s16(least, best[l]);
        store_interleaved(split, best, next + (h << split));
    }
    return vminvq_s16(least);
}

int16_t upg_viterbi_fast_step_neon(const upg_fast_row *row, const int16_t *metric,
                                   const upg_fast_target *target, int16_t *next)
{
    switch (row->split << 1 | (row->repeat > 0)) {
    case 6:
        return fast_step(3, 0, row, metric, target, next);
    case 7:
        return fast_step(3, 1, row, metric, target, next);
    case 4:
        return fast_step(2, 0, row, metric, target, next);
    case 5:
        return fast_step(2, 1, row, metric, target, next);
    case 3:
        return fast_step(1, 1, row, metric, target, next);
    default:
        return fast_step(0, 1, row, metric, target, next);
    }
}

/* Metrics of the source states of candidates a, a + 1, …: 8, or 4 and the largest metric. */
static inline int16x8_t source_metrics(const int16_t *m, size_t step, uint32_t n)
{
    int16_t metrics[8];

    for (uint32_t i = 0; i < 8; i++)
        metrics[i] = i < n ? m[i * step] : INT16_MAX;
    return vld1q_s16(metrics);
}

uint32_t upg_viterbi_fast_survivor_neon(const upg_fast_row *row, const int16_t *metric,
                                        const upg_fast_target *target, uint32_t state)
{
    static const uint16_t lanes[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    const size_t          per_oldest = row->n_middle >> row->repeat;
    const uint32_t        h = state >> row->split, n = 1u << row->split;
    const uint32_t        l = state & (n - 1), first = l < n / 2 ? l : n - 1 - l;
    const int16_t         slope = row->split > 0 ? row->slope[first] : 0;
    const int16x8_t       middle = vdupq_n_s16(row->middle[h]), top = vdupq_n_s16(row->top);
    const int16x8_t       excess = vdupq_n_s16(target->excess);
    uint16x8_t            place = vld1q_u16(lanes), best = place;
    const uint16x8_t      valid = vcltq_u16(place, vdupq_n_u16((uint16_t)row->n_oldest));
    int16x8_t             least = vdupq_n_s16(INT16_MAX);

    metric += h >> row->repeat;
    for (uint32_t a = 0; a < row->n_oldest; a += 8, metric += 8 * per_oldest) {
        int16x8_t  m = source_metrics(metric, per_oldest, row->n_oldest - a);
        int16x8_t  e = miss8(vld1q_s16(target->offset + a), middle);
        int16x8_t  cost = bracket8(m, e, excess, top), t = vqrdmulhq_n_s16(e, slope);
        uint16x8_t less;

        cost = l != first ? vsubq_s16(cost, t) : vaddq_s16(cost, t);
        cost = vbslq_s16(valid, cost, vdupq_n_s16(INT16_MAX));
        less = vcltq_s16(cost, least);
        least = vminq_s16(least, cost);
        best = vbslq_u16(less, place, best);
        place = vaddq_u16(place, vdupq_n_u16(8));
    }
    /* The least a of the lanes that hold the minimum. */
    best = vornq_u16(best, vceqq_s16(least, vdupq_n_s16(vminvq_s16(least))));
    return vminvq_u16(best);
}

/* Costs of the windows a << (L − k_next) | n … n + 3 against the least so far. */
static inline void exact_four(float32x4_t x, const float *values, const float *metric, float weight,
                              uint32_t a, float32x4_t *least, uint32x4_t *winner)
{
    float32x4_t miss = vsubq_f32(x, vld1q_f32(values)), cost;
    uint32x4_t  less;

    cost = vmulq_n_f32(vmulq_f32(miss, miss), weight);
    cost = vaddq_f32(vld1q_dup_f32(metric), cost);
    less = vcltq_f32(cost, *least);
    *least = vbslq_f32(less, cost, *least);
    *winner = vbslq_u32(less, vdupq_n_u32(a), *winner);
}

void upg_viterbi_exact_step_neon(const upg_trellis_row *row, const float *metric,
                                 const float *values, float target, float weight, float *next,
                                 uint8_t *choice)
{
    const uint32_t    n_states = 1u << (row->length - row->k_next);
    const float32x4_t x = vdupq_n_f32(target);

    for (uint32_t n = 0; n < n_states; n += 8) { /* at least 8: L ≥ 8, k ≤ 5 */
        float32x4_t least[2] = { vdupq_n_f32(INFINITY), vdupq_n_f32(INFINITY) };
        uint32x4_t  winner[2] = { vdupq_n_u32(0), vdupq_n_u32(0) };

        for (uint32_t a = 0; a < 1u << row->k_next; a++) {
            uint32_t window = a * n_states | n;

            for (uint32_t i = 0; i < 2; i++)
                exact_four(x, values + window + 4 * i, metric + ((window + 4 * i) >> row->k_now),
                           weight, a, &least[i], &winner[i]);
        }
        vst1q_f32(next + n, least[0]);
        vst1q_f32(next + n + 4, least[1]);
        vst1_u8(choice + n, vmovn_u16(vcombine_u16(vmovn_u32(winner[0]), vmovn_u32(winner[1]))));
    }
}
