/* rotation.c: signs from a seed, and the blockwise Walsh-Hadamard transform as plain loops. */
#include "codec/rotation.h"

#include <math.h>

#include "base/random.h"

upg_rotation upg_rotation_make(uint32_t width, uint64_t seed)
{
    uint32_t block = width & (~width + 1u); /* the largest power of two that divides the width */

    if (block > UPG_ROTATION_MAX_BLOCK)
        block = UPG_ROTATION_MAX_BLOCK;
    return (upg_rotation) { .width = width, .block = block, .seed = seed };
}

void upg_rotation_signs(const upg_rotation *rotation, float *signs)
{
    for (uint32_t j = 0; j < rotation->width; j++)
        signs[j] = upg_random_u64(rotation->seed, j / 64) >> j % 64 & 1u ? -1.0f : 1.0f;
}

static void transform_block(uint32_t block, float *x)
{
    const float scale = 1.0f / sqrtf((float)block);

    for (uint32_t half = 1; half < block; half *= 2)
        for (uint32_t i = 0; i < block; i += 2 * half)
            for (uint32_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];

                x[j] = a + b;
                x[j + half] = a - b;
            }
    for (uint32_t i = 0; i < block; i++)
        x[i] *= scale;
}

void upg_hadamard(size_t n, size_t block, float *x)
{
    for (size_t i = 0; i < n; i += block)
        transform_block((uint32_t)block, x + i);
}

static void flip_signs(uint32_t width, const float *signs, float *x)
{
    for (uint32_t j = 0; j < width; j++)
        x[j] *= signs[j];
}

void upg_rotation_apply(const upg_rotation *rotation, const float *signs, float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float *row = x + (size_t)i * rotation->width;

        flip_signs(rotation->width, signs, row);
        upg_hadamard(rotation->width, rotation->block, row);
    }
}

void upg_rotation_undo(const upg_rotation *rotation, const float *signs, float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float *row = x + (size_t)i * rotation->width;

        upg_hadamard(rotation->width, rotation->block, row); /* H is symmetric, so its inverse */
        flip_signs(rotation->width, signs, row);
    }
}
