#include "support/coded_model.h"

#include <math.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "support/temp_folder.h"

enum { MAX_BANDS = 3, BANDED_ROWS = 48 };

/* What one replaced matrix owns; a list. */
typedef struct test_code {
    struct test_code *next;
    upg_coded_matrix  matrix;
    upg_band          bands[MAX_BANDS];
    uint32_t         *bits[MAX_BANDS];
    uint16_t         *scales;
    float            *dense;
} test_code;

static const uint32_t rates[] = { 6, 5, 8, 7, 4, 10 }; /* twice the rate */

static uint32_t random_word(uint64_t seed, uint32_t binary_row, uint32_t group)
{
    return (uint32_t)upg_random_u64(seed, (uint64_t)binary_row << 32 | group);
}

/* Random bits with zeros where the layout pads. */
static upg_status fill_bits(upg_band *band, uint32_t n_cols, uint64_t seed, uint32_t **bits,
                            upg_error *err)
{
    uint32_t last = upg_group_count(n_cols) - 1, rest = n_cols - last * UPG_GROUP_COLUMNS;
    uint32_t mask = rest == UPG_GROUP_COLUMNS ? UINT32_MAX : (1u << rest) - 1;

    *bits = upg_alloc_aligned(upg_band_words(band->n_binary, n_cols) * sizeof **bits, err);
    if (!*bits)
        return UPG_E_NOMEM;
    for (uint32_t b = 0; b < band->n_binary; b++)
        for (uint32_t g = 0; g <= last; g++)
            (*bits)[upg_word_index(band->n_binary, n_cols, b, g)] =
                random_word(seed, b, g) & (g == last ? mask : UINT32_MAX);
    band->bits = *bits;
    return UPG_OK;
}

static upg_status fill_band(test_code *code, uint32_t index, uint32_t row0, uint32_t n_rows,
                            uint64_t seed, upg_error *err)
{
    upg_band *band = &code->bands[index];
    uint32_t  rate2 = rates[(seed + index) % (sizeof rates / sizeof *rates)];
    float     scale = 1 / sqrtf((float)code->matrix.n_cols);

    band->code = *upg_code_find(rate2, UPG_CODE_DEFAULT_LENGTH);
    band->row0 = row0;
    band->n_rows = n_rows;
    band->n_binary = (uint32_t)upg_code_binary_rows(&band->code, n_rows);
    band->scales = code->scales + row0;
    for (uint32_t r = row0; r < row0 + n_rows; r++)
        code->scales[r] = upg_f16_from_f32(scale * (float)(0.75 + 0.5 * upg_random_unit(~seed, r)));
    return fill_bits(band, code->matrix.n_cols, seed + index, &code->bits[index], err);
}

static upg_status fill_code(test_code *code, const upg_matrix *m, uint64_t seed,
                            uint64_t rotation_seed, upg_error *err)
{
    uint32_t   n = m->n_rows, n_bands = n < BANDED_ROWS ? 1 : MAX_BANDS;
    uint32_t   ends[MAX_BANDS] = { n / 8, n / 2, n }, row0 = 0;
    upg_status st;

    code->matrix =
        (upg_coded_matrix) { n,       m->n_cols,   upg_rotation_make(m->n_cols, rotation_seed),
                             n_bands, code->bands, NULL };
    code->scales = upg_calloc(n, sizeof *code->scales, err);
    UPG_TRY(code->scales ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t b = 0; b < n_bands; b++) {
        uint32_t end = n_bands == 1 ? n : ends[b];

        UPG_TRY(fill_band(code, b, row0, end - row0, seed, err));
        row0 = end;
    }
out:
    return st;
}

upg_status test_model_code_matrix(test_model *model, upg_matrix *matrix, uint64_t seed,
                                  uint64_t rotation_seed, upg_error *err)
{
    test_code *code = upg_calloc(1, sizeof *code, err);

    if (!code)
        return UPG_E_NOMEM;
    code->next = model->codes;
    model->codes = code;
    matrix->kind = UPG_MATRIX_CODED;
    matrix->coded = &code->matrix;
    matrix->dense = NULL;
    return fill_code(code, matrix, seed, rotation_seed, err);
}

/* q, k and v share a rotation, as do gate and up. */
static upg_status code_layer(test_model *model, uint32_t layer, uint64_t seed, upg_error *err)
{
    upg_layer_weights *l = &model->weights->layers[layer];
    upg_matrix *const  matrices[] = { &l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down };
    const uint32_t     input[] = { 1, 1, 1, 2, 3, 3, 4 };
    upg_status         st = UPG_OK;

    for (uint32_t i = 0; i < 7; i++)
        UPG_TRY(test_model_code_matrix(model, matrices[i], seed + 7 * layer + i,
                                       seed + 4 * layer + input[i], err));
out:
    return st;
}

static upg_status code_all(test_model *model, uint64_t seed, upg_error *err)
{
    upg_weights *w = model->weights;
    upg_status   st;

    UPG_TRY(test_model_code_matrix(model, &w->embed, seed + 1000, seed + 1, err));
    for (uint32_t i = 0; i < w->config.n_layers; i++)
        UPG_TRY(code_layer(model, i, seed + 2000, err));
    if (w->config.tied_embeddings) {
        w->head.kind = w->embed.kind;
        w->head.coded = w->embed.coded;
        w->head.dense = NULL;
    } else {
        UPG_TRY(test_model_code_matrix(model, &w->head, seed + 3000, seed + 2, err));
    }
out:
    return st;
}

upg_status test_model_make(const test_model_shape *shape, bool coded, uint64_t seed,
                           test_model *model, upg_error *err)
{
    upg_status st;

    *model = (test_model) { .folder = make_folder() };
    UPG_TRY(make_checkpoint(model->folder, shape, seed, err));
    UPG_TRY(upg_weights_open(model->folder, &model->weights, err));
    if (coded)
        UPG_TRY(code_all(model, seed, err));
    UPG_TRY(test_model_rebuild(model, err));
out:
    return st;
}

static upg_status decode_matrix(test_model *model, upg_matrix *m, upg_error *err)
{
    for (test_code *code = model->codes; code; code = code->next) {
        if (m->kind != UPG_MATRIX_CODED || m->coded != &code->matrix)
            continue;
        if (!code->dense) {
            code->dense = upg_malloc((size_t)m->n_rows * m->n_cols, sizeof *code->dense, err);
            if (!code->dense)
                return UPG_E_NOMEM;
            for (uint32_t r = 0; r < m->n_rows; r++)
                upg_matrix_row(m, r, code->dense + (size_t)r * m->n_cols);
        }
        m->kind = UPG_MATRIX_DENSE;
        m->dtype = UPG_F32;
        m->dense = code->dense;
    }
    return UPG_OK;
}

upg_status test_model_decode(test_model *model, upg_error *err)
{
    upg_weights *w = model->weights;
    upg_status   st;

    UPG_TRY(decode_matrix(model, &w->embed, err));
    UPG_TRY(decode_matrix(model, &w->head, err));
    for (uint32_t i = 0; i < w->config.n_layers; i++) {
        upg_layer_weights *l = &w->layers[i];
        upg_matrix *const  all[] = { &l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down };

        for (uint32_t m = 0; m < 7; m++)
            UPG_TRY(decode_matrix(model, all[m], err));
    }
    UPG_TRY(test_model_rebuild(model, err));
out:
    return st;
}

upg_status test_model_rebuild(test_model *model, upg_error *err)
{
    upg_program_close(model->program);
    return upg_program_build(model->weights, &model->program, err);
}

void test_model_close(test_model *model)
{
    upg_program_close(model->program);
    upg_weights_close(model->weights);
    while (model->codes) {
        test_code *code = model->codes;

        model->codes = code->next;
        for (uint32_t b = 0; b < MAX_BANDS; b++)
            upg_free(code->bits[b]);
        upg_free(code->scales);
        upg_free(code->dense);
        upg_free(code);
    }
    if (model->folder)
        remove_folder(model->folder);
    *model = (test_model) { 0 };
}
