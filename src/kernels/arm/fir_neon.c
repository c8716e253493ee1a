/* fir_neon.c: the last step of a coded product with NEON: 16 rows at a time in int64 (SMLAL), exact
 * as in the scalar kernel. Sorted by phase first (fir_phases.h), so that every tap reads
 * consecutive values. */
#include "kernels/fir_phases.h"
#include "kernels/quantised.h"
#include "kernels/tables.h"

#include <arm_neon.h>

/* y[0], y[1] = (float)(sum · (s·g·s_x)). */
static inline float32x2_t scale2(int64x2_t sum, float64x2_t scale, double gain, double s_x)
{
    float64x2_t factor = vmulq_n_f64(vmulq_n_f64(scale, gain), s_x);

    return vcvt_f32_f64(vmulq_f64(vcvtq_f64_s64(sum), factor));
}

static inline float32x4_t scale4(int64x2_t first, int64x2_t second, const uint16_t *scales,
                                 double gain, double s_x)
{
    float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales)));

    return vcombine_f32(scale2(first, vcvt_f64_f32(vget_low_f32(scale)), gain, s_x),
                        scale2(second, vcvt_high_f64_f32(scale), gain, s_x));
}

/* n rows of one kind; sums i64 [≥ n + 15]. Eight chains of additions hide the latency of one. */
static void fir_rows(const upg_code *code, const upg_fir_taps *taps, uint32_t n, int64_t *sums)
{
    for (uint32_t s = 0; s < n; s += 16) {
        int64x2_t sum[8];

        for (int c = 0; c < 8; c++)
            sum[c] = vdupq_n_s64(0);
        for (uint32_t i = 0; i < code->length; i++) {
            const int32_t  *u = taps->u[i] + s;
            const int32x4_t p = vdupq_n_s32(code->taps[i]);

            for (int c = 0; c < 4; c++) {
                int32x4_t four = vld1q_s32(u + 4 * c);

                sum[2 * c] = vmlal_s32(sum[2 * c], vget_low_s32(four), vget_low_s32(p));
                sum[2 * c + 1] = vmlal_high_s32(sum[2 * c + 1], four, p);
            }
        }
        for (int c = 0; c < 8; c++)
            vst1q_s64(sums + s + 2 * c, sum[c]);
    }
}

static void scale_rows(uint32_t n, const int64_t *sums, const uint16_t *scales, float gain,
                       float s_x, float *y)
{
    uint32_t r = 0;

    for (; r + 4 <= n; r += 4)
        vst1q_f32(y + r, scale4(vld1q_s64(sums + r), vld1q_s64(sums + r + 2), scales + r,
                                (double)gain, (double)s_x));
    for (; r < n; r++)
        y[r] = upg_coded_output(sums[r], upg_coded_factor(scales[r], gain, s_x));
}

static void fir(const upg_band *band, uint32_t row0, uint32_t n_rows, const int32_t *u, float s_x,
                float *y)
{
    const upg_code *code = &band->code;
    const uint32_t  kinds = code->k0 == code->k1 ? 1 : 2;
    const uint32_t  stride = kinds == 1 ? code->k0 : (uint32_t)code->k0 + code->k1;
    upg_fir_phases  phases;
    upg_fir_taps    taps;
    int64_t         sums[2][UPG_FIR_STEPS + 16], both[2 * UPG_FIR_STEPS];

    for (uint32_t done = 0; done < n_rows; done += kinds * UPG_FIR_STEPS) {
        uint32_t first = row0 + done;
        uint32_t n = n_rows - done < kinds * UPG_FIR_STEPS ? n_rows - done : kinds * UPG_FIR_STEPS;
        uint32_t base = (uint32_t)upg_code_newest(code, first) + 1 - code->length;
        uint32_t end = (uint32_t)upg_code_newest(code, first + n - 1) + 1;

        upg_fir_sort(u + base, end - base, stride, &phases);
        for (uint32_t kind = 0; kind < kinds && kind < n; kind++) {
            uint32_t place = (uint32_t)upg_code_newest(code, first + kind) - base;
            uint32_t n_kind = (n - kind + kinds - 1) / kinds;

            upg_fir_place_taps(code, &phases, place, stride, &taps);
            fir_rows(code, &taps, n_kind, sums[kind]);
        }
        for (uint32_t s = 0; kinds == 2 && s < (n + 1) / 2; s++) {
            both[2 * s] = sums[0][s];
            both[2 * s + 1] = sums[1][s];
        }
        scale_rows(n, kinds == 2 ? both : sums[0], band->scales + first, code->gain, s_x, y + done);
    }
}

static void coded_scale(size_t n, const int32_t *sum, const uint16_t *scales, float gain, float s_x,
                        float *y)
{
    size_t i = 0;

    for (; i + 4 <= n; i += 4) {
        int32x4_t four = vld1q_s32(sum + i);

        vst1q_f32(y + i, scale4(vmovl_s32(vget_low_s32(four)), vmovl_high_s32(four), scales + i,
                                (double)gain, (double)s_x));
    }
    for (; i < n; i++)
        y[i] = upg_coded_output(sum[i], upg_coded_factor(scales[i], gain, s_x));
}

void upg_kernels_fir_neon(upg_kernels *k)
{
    k->fir = fir;
    k->coded_scale = coded_scale;
}
