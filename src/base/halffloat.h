/* halffloat.h: bf16 and fp16 to and from fp32, exact or rounded to nearest even. */
#ifndef UPG_BASE_HALFFLOAT_H
#define UPG_BASE_HALFFLOAT_H

#include <stdint.h>
#include <string.h>

static inline float upg_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t upg_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float upg_f32_from_bf16(uint16_t bits)
{
    return upg_f32_from_bits((uint32_t)bits << 16);
}

/** Exact; NaN stays NaN. */
static inline float upg_f32_from_f16(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t magnitude = bits & 0x7FFFu;

    if (magnitude >= 0x7C00u) /* infinity, NaN */
        return upg_f32_from_bits(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
    if (magnitude >= 0x0400u) /* normal: rebias the exponent */
        return upg_f32_from_bits(sign | ((magnitude << 13) + (112u << 23)));
    /* subnormal: magnitude · 2^-24, exact in fp32 */
    return upg_f32_from_bits(sign | upg_f32_bits((float)magnitude * 0x1p-24f));
}

/** Round to nearest even; overflow gives infinity, NaN a quiet NaN. */
static inline uint16_t upg_f16_from_f32(float value)
{
    uint32_t bits = upg_f32_bits(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;

    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u);
    if (magnitude >= 0x477FF000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: let fp32 addition round to multiples of 2^-24 */
        float    shifted = upg_f32_from_bits(magnitude) + 0.5f;
        uint32_t rounded = upg_f32_bits(shifted) - upg_f32_bits(0.5f);
        return (uint16_t)(sign | rounded);
    }
    magnitude += 0xFFFu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | ((magnitude - (112u << 23)) >> 13));
}

/** Round to nearest even; NaN a quiet NaN. */
static inline uint16_t upg_bf16_from_f32(float value)
{
    uint32_t bits = upg_f32_bits(value);

    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x0040u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

#endif
