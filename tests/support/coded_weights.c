#include "support/coded_weights.h"

#include <math.h>

#include "base/halffloat.h"
#include "base/random.h"
#include "support/random_outliers.h"

enum { MAX_BANDS = 4 };

/* Words at a 64-byte boundary: the arena gives 16. */
static uint32_t *allocate_bits(upg_arena *arena, uint64_t words, upg_error *err)
{
    uint8_t *memory = upg_arena_alloc(arena, 4 * (size_t)words + 64, 1, err);

    return memory ? (uint32_t *)(void *)(memory + (64 - (uintptr_t)memory % 64) % 64) : NULL;
}

/* Random bits where the format allows bits: padding rows and columns stay zero. */
static void fill_bits(const upg_band *band, uint32_t n_cols, uint64_t seed, uint32_t *bits)
{
    for (uint32_t b = 0; b < band->n_binary; b++)
        for (uint32_t g = 0; g < upg_group_count(n_cols); g++) {
            uint32_t left = n_cols - g * UPG_GROUP_COLUMNS;
            uint32_t mask = left >= UPG_GROUP_COLUMNS ? UINT32_MAX : (1u << left) - 1;
            uint64_t at = upg_word_index(band->n_binary, n_cols, b, g);

            bits[at] = (uint32_t)upg_random_u64(seed, at) & mask;
        }
}

static upg_status make_band(upg_band *band, uint32_t n_cols, uint64_t seed, upg_arena *arena,
                            upg_error *err)
{
    uint32_t *bits;
    uint16_t *scales = upg_arena_alloc(arena, band->n_rows, sizeof *scales, err);

    band->n_binary = (uint32_t)upg_code_binary_rows(&band->code, band->n_rows);
    bits = allocate_bits(arena, upg_band_words(band->n_binary, n_cols), err);
    if (!bits || !scales)
        return UPG_E_NOMEM;
    fill_bits(band, n_cols, seed, bits);
    for (uint32_t r = 0; r < band->n_rows; r++)
        scales[r] =
            upg_f16_from_f32((float)((0.5 + upg_random_unit(seed + 1, r)) / sqrt((double)n_cols)));
    band->bits = bits;
    band->scales = scales;
    return UPG_OK;
}

upg_status test_random_coded(uint32_t n_cols, uint32_t n_bands, const uint32_t *rows,
                             const uint32_t *rate2, uint32_t length, uint64_t seed,
                             upg_arena *arena, const upg_coded_matrix **matrix, upg_error *err)
{
    upg_coded_matrix *m = upg_arena_alloc(arena, 1, sizeof *m, err);
    upg_band         *bands = upg_arena_alloc(arena, n_bands, sizeof *bands, err);
    upg_status        st;

    UPG_TRY(m && bands ? UPG_OK : UPG_E_NOMEM);
    *m = (upg_coded_matrix) { 0,       n_cols, upg_rotation_make(n_cols, n_cols * 7919u),
                              n_bands, bands,  NULL };
    for (uint32_t i = 0; i < n_bands; i++) {
        const upg_code *code = upg_code_find(rate2[i], length);

        if (!code)
            return upg_fail(err, UPG_E_ARG, "no taps for rate %u/2, L = %u", rate2[i], length);
        bands[i] = (upg_band) { .code = *code, .row0 = m->n_rows, .n_rows = rows[i] };
        UPG_TRY(make_band(&bands[i], n_cols, upg_random_u64(seed, i), arena, err));
        m->n_rows += rows[i];
    }
    *matrix = m;
out:
    return st;
}

static upg_status code_matrix(upg_matrix *m, uint32_t index, uint32_t rate, uint32_t length,
                              uint64_t seed, upg_arena *arena, upg_error *err)
{
    static const uint32_t rates[] = { 4, 5, 6, 7, 8, 10 };
    uint32_t              n_bands = 1 + index % MAX_BANDS, rows[MAX_BANDS], rate2[MAX_BANDS];
    uint32_t              left = m->n_rows;

    if (m->n_rows < 8 || rate)
        n_bands = 1;
    for (uint32_t i = 0; i < n_bands; i++) {
        /* 1 row, then a third, … : no cut falls on a multiple of anything */
        rows[i] = i + 1 == n_bands ? left : i == 0 ? 1 : left / 3;
        left -= rows[i];
        rate2[i] = rate ? rate : rates[(index + i) % 6];
    }
    m->kind = UPG_MATRIX_CODED;
    if (length == 0)
        length = 12 + 2 * (index % 3);
    return test_random_coded(m->n_cols, n_bands, rows, rate2, length, seed + index, arena,
                             &m->coded, err);
}

static upg_status add_outliers(upg_matrix *m, uint32_t index, uint64_t seed, upg_arena *arena,
                               upg_error *err)
{
    upg_coded_matrix *coded = upg_arena_alloc(arena, 1, sizeof *coded, err);
    uint32_t          one_in = index % 3 == 1 ? 0 : 40, n_columns = index % 3 == 2 ? 0 : 3;

    if (!coded)
        return UPG_E_NOMEM;
    *coded = *m->coded;
    coded->outliers =
        test_random_outliers(m->n_rows, m->n_cols, one_in, n_columns, seed + index, arena, err);
    m->coded = coded;
    return coded->outliers ? UPG_OK : UPG_E_NOMEM;
}

upg_status test_add_outliers(upg_weights *weights, uint64_t seed, upg_arena *arena, upg_error *err)
{
    uint32_t   index = 0;
    upg_status st = UPG_OK;

    UPG_TRY(add_outliers(&weights->embed, index++, seed, arena, err));
    for (uint32_t l = 0; l < weights->config.n_layers; l++) {
        upg_layer_weights *w = &weights->layers[l];
        upg_matrix        *some[] = { &w->q, &w->v, &w->o, &w->up, &w->down };

        for (int i = 0; i < 5; i++)
            UPG_TRY(add_outliers(some[i], index++, seed, arena, err));
    }
    if (weights->config.tied_embeddings)
        weights->head.coded = weights->embed.coded;
    else
        UPG_TRY(add_outliers(&weights->head, index, seed, arena, err));
out:
    return st;
}

upg_status test_code_weights(upg_weights *weights, uint32_t rate2, uint64_t seed, upg_arena *arena,
                             upg_error *err)
{
    return test_code_weights_at(weights, rate2, UPG_CODE_DEFAULT_LENGTH, seed, arena, err);
}

upg_status test_code_weights_at(upg_weights *weights, uint32_t rate2, uint32_t length,
                                uint64_t seed, upg_arena *arena, upg_error *err)
{
    uint32_t   index = 0;
    upg_status st = UPG_OK;

    UPG_TRY(code_matrix(&weights->embed, index++, rate2, length, seed, arena, err));
    for (uint32_t l = 0; l < weights->config.n_layers; l++) {
        upg_layer_weights *w = &weights->layers[l];
        upg_matrix        *all[] = { &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down };

        for (int i = 0; i < 7; i++)
            UPG_TRY(code_matrix(all[i], index++, rate2, length, seed, arena, err));
    }
    if (weights->config.tied_embeddings)
        weights->head.coded = weights->embed.coded, weights->head.kind = UPG_MATRIX_CODED;
    else
        UPG_TRY(code_matrix(&weights->head, index++, rate2, length, seed, arena, err));
out:
    return st;
}
