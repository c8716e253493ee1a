/* rotary.c: see rotary.h. */
#include "backend/rotary.h"

#include <math.h>

void upg_rope_angles(const upg_rope *rope, bool long_rope, uint32_t position, float *cosine,
                     float *sine)
{
    const float *frequency =
        long_rope && rope->long_inv_freq != NULL ? rope->long_inv_freq : rope->inv_freq;

    for (uint32_t i = 0; i < rope->rotary_dims / 2; i++) {
        double angle = (double)position * (double)frequency[i];

        cosine[i] = (float)(cos(angle) * (double)rope->attention_scaling);
        sine[i] = (float)(sin(angle) * (double)rope->attention_scaling);
    }
}

void upg_rope_turn(uint32_t rotary_dims, const float *cosine, const float *sine, float *head)
{
    uint32_t half = rotary_dims / 2;

    for (uint32_t i = 0; i < half; i++) {
        float a = head[i], b = head[half + i];

        head[i] = a * cosine[i] - b * sine[i];
        head[half + i] = b * cosine[i] + a * sine[i];
    }
}
