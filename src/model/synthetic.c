/* synthetic.c: shape ─► config ─► sizes ─► one block of memory ─► random words, then scales.
 *
 * The block holds, matrix after matrix in file order, each band's words and then the matrix's
 * scales, all at 64-byte boundaries. */
#include "model/synthetic.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "base/system.h"
#include "model/architecture.h"
#include "model/weights_source.h"

#define PART_BYTES ((size_t)1 << 20) /* what a worker fills at once */

enum { MAX_BANDS = 3, ALIGNMENT = 64, SEED = 1 };

/* ---- shapes and rates ----------------------------------------------------------------------- */

typedef struct model_shape {
    const char *name;
    uint32_t    layers, hidden, heads, kv_heads, ffn, vocab, context;
} model_shape;

/* Widths are multiples of 32, so that no word has padding columns. */
static const model_shape shapes[] = {
    { "phi4", 40, 5120, 40, 10, 17920, 100352, 16384 },
    { "phi4-nano", 16, 512, 8, 2, 1792, 8192, 2048 },
    { "phi4-micro", 4, 256, 4, 1, 1024, 8192, 1024 },
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

/* Twice the rate of each band, and where the bands end, in eighths of the rows. */
typedef struct band_mix {
    uint8_t n, rate2[MAX_BANDS], end8[MAX_BANDS];
} band_mix;

static band_mix mix_of(upg_role role)
{
    switch (role) {
    case UPG_ROLE_EMBED:
        return (band_mix) { 3, { 8, 6, 5 }, { 1, 4, 8 } };
    case UPG_ROLE_HEAD:
        return (band_mix) { 1, { 8 }, { 8 } };
    case UPG_ROLE_O:
    case UPG_ROLE_DOWN:
        return (band_mix) { 1, { 7 }, { 8 } };
    default:
        return (band_mix) { 1, { 6 }, { 8 } };
    }
}

/* Matrices that read one input share its rotation. */
static uint64_t rotation_seed(upg_role role, uint32_t layer)
{
    uint64_t input = role == UPG_ROLE_K || role == UPG_ROLE_V ? UPG_ROLE_Q
                     : role == UPG_ROLE_UP                    ? UPG_ROLE_GATE
                                                              : role;

    return upg_random_u64(SEED, input << 16 | layer);
}

static upg_status unknown_shape(const char *text, upg_error *err)
{
    char   names[128] = "";
    size_t used = 0;

    for (size_t i = 0; i < N_SHAPES; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 shapes[i].name);
    return upg_fail(err, UPG_E_ARG,
                    "no synthetic model \"%.40s\": there are %s, each also with another number of "
                    "layers, as in phi4:4",
                    text, names);
}

static upg_status read_shape(const char *text, model_shape *shape, upg_error *err)
{
    size_t length = strcspn(text, ":");
    char  *end;
    long   layers;

    for (size_t i = 0; i < N_SHAPES; i++) {
        if (strlen(shapes[i].name) != length || strncmp(text, shapes[i].name, length) != 0)
            continue;
        *shape = shapes[i];
        if (text[length] == '\0')
            return UPG_OK;
        layers = strtol(text + length + 1, &end, 10);
        if (text[length + 1] < '1' || text[length + 1] > '9' || *end != '\0' || layers > 1000)
            break;
        shape->layers = (uint32_t)layers;
        return UPG_OK;
    }
    return unknown_shape(text, err);
}

/* Through config.json's reader, so that every field has the meaning it has for real models. */
static upg_status make_config(upg_weights *w, const model_shape *s, upg_error *err)
{
    char     text[1024];
    upg_span json;
    int      n = snprintf(text, sizeof text,
                          "{\"architectures\": [\"Phi3ForCausalLM\"], \"model_type\": \"phi3\", "
                               "\"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05, "
                               "\"rope_theta\": 250000, \"tie_word_embeddings\": false, "
                               "\"num_hidden_layers\": %u, \"hidden_size\": %u, "
                               "\"num_attention_heads\": %u, \"num_key_value_heads\": %u, "
                               "\"intermediate_size\": %u, \"vocab_size\": %u, "
                               "\"max_position_embeddings\": %u, "
                               "\"original_max_position_embeddings\": %u}",
                          s->layers, s->hidden, s->heads, s->kv_heads, s->ffn, s->vocab, s->context,
                          s->context);
    char    *kept = upg_arena_strndup(&w->source->arena, text, (size_t)n, err);

    if (!kept)
        return UPG_E_NOMEM;
    json = (upg_span) { (const uint8_t *)kept, (size_t)n };
    w->config_json = json;
    return upg_model_config_read(json, (upg_span) { 0 }, &w->source->arena, &w->config, err);
}

/* ---- matrices and vectors without their contents ----------------------------------------------
 */

/* What one matrix owns, in the arena. */
typedef struct synthetic_matrix {
    upg_coded_matrix coded;
    upg_band         bands[MAX_BANDS];
} synthetic_matrix;

static upg_status name_of(upg_weights *w, upg_role role, uint32_t layer, const char **name,
                          upg_error *err)
{
    char text[UPG_TENSOR_NAME_CAP];

    upg_tensor_name(upg_role_pattern(role), layer, text);
    *name = upg_arena_strndup(&w->source->arena, text, strlen(text), err);
    return *name ? UPG_OK : UPG_E_NOMEM;
}

static void cut_into_bands(synthetic_matrix *s, const band_mix *mix)
{
    uint32_t row0 = 0;

    for (uint32_t i = 0; i < mix->n; i++) {
        upg_band *band = &s->bands[i];
        uint32_t  end = (uint32_t)((uint64_t)s->coded.n_rows * mix->end8[i] / 8);

        band->code = *upg_code_find(mix->rate2[i], UPG_CODE_DEFAULT_LENGTH);
        band->row0 = row0;
        band->n_rows = end - row0;
        band->n_binary = (uint32_t)upg_code_binary_rows(&band->code, band->n_rows);
        row0 = end;
    }
}

static uint64_t scale_bytes(const upg_coded_matrix *c)
{
    return ((uint64_t)c->n_rows * sizeof(uint16_t) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Bytes of a matrix in the block. */
static uint64_t matrix_bytes(const upg_coded_matrix *c)
{
    uint64_t bytes = scale_bytes(c);

    for (uint32_t i = 0; i < c->n_bands; i++)
        bytes += upg_band_words(c->bands[i].n_binary, c->n_cols) * sizeof(uint32_t);
    return bytes;
}

static upg_status add_matrix(upg_weights *w, upg_matrix *m, upg_role role, uint32_t layer,
                             upg_error *err)
{
    synthetic_matrix *s = upg_arena_alloc(&w->source->arena, 1, sizeof *s, err);
    band_mix          mix = mix_of(role);

    if (!s)
        return UPG_E_NOMEM;
    *m = (upg_matrix) { .role = role,
                        .layer = layer,
                        .kind = UPG_MATRIX_CODED,
                        .coded = &s->coded,
                        .file = "synthetic",
                        .relative_error = -1 };
    upg_role_shape(&w->config, role, &m->n_rows, &m->n_cols);
    s->coded =
        (upg_coded_matrix) { .n_rows = m->n_rows,
                             .n_cols = m->n_cols,
                             .rotation = upg_rotation_make(m->n_cols, rotation_seed(role, layer)),
                             .n_bands = mix.n,
                             .bands = s->bands };
    cut_into_bands(s, &mix);
    m->bytes = matrix_bytes(&s->coded);
    w->weight_bytes += m->bytes;
    w->n_parameters += (uint64_t)m->n_rows * m->n_cols;
    return name_of(w, role, layer, &m->name, err);
}

static upg_status add_norm(upg_weights *w, upg_vector *v, upg_role role, uint32_t layer,
                           upg_error *err)
{
    uint32_t one;
    float   *values;

    upg_role_shape(&w->config, role, &v->n, &one);
    values = upg_arena_alloc(&w->source->arena, v->n, sizeof *values, err);
    if (!values)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < v->n; i++)
        values[i] = (float)(0.75 + 0.5 * upg_random_unit(SEED + role, (uint64_t)layer << 32 | i));
    v->values = values;
    v->bytes = v->n * sizeof(uint16_t); /* bf16 in files */
    w->weight_bytes += v->bytes;
    w->n_parameters += v->n;
    return name_of(w, role, layer, &v->name, err);
}

static upg_status add_layer(upg_weights *w, uint32_t layer, upg_error *err)
{
    upg_layer_weights *l = &w->layers[layer];
    upg_status         st;

    UPG_TRY(add_norm(w, &l->attention_norm, UPG_ROLE_ATTENTION_NORM, layer, err));
    UPG_TRY(add_matrix(w, &l->q, UPG_ROLE_Q, layer, err));
    UPG_TRY(add_matrix(w, &l->k, UPG_ROLE_K, layer, err));
    UPG_TRY(add_matrix(w, &l->v, UPG_ROLE_V, layer, err));
    UPG_TRY(add_matrix(w, &l->o, UPG_ROLE_O, layer, err));
    UPG_TRY(add_norm(w, &l->ffn_norm, UPG_ROLE_FFN_NORM, layer, err));
    UPG_TRY(add_matrix(w, &l->gate, UPG_ROLE_GATE, layer, err));
    UPG_TRY(add_matrix(w, &l->up, UPG_ROLE_UP, layer, err));
    UPG_TRY(add_matrix(w, &l->down, UPG_ROLE_DOWN, layer, err));
out:
    return st;
}

static upg_status add_all(upg_weights *w, upg_error *err)
{
    upg_status st;

    w->layers = upg_arena_alloc(&w->source->arena, w->config.n_layers, sizeof *w->layers, err);
    UPG_TRY(w->layers ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(add_matrix(w, &w->embed, UPG_ROLE_EMBED, 0, err));
    for (uint32_t i = 0; i < w->config.n_layers; i++)
        UPG_TRY(add_layer(w, i, err));
    UPG_TRY(add_norm(w, &w->final_norm, UPG_ROLE_FINAL_NORM, 0, err));
    UPG_TRY(add_matrix(w, &w->head, UPG_ROLE_HEAD, 0, err));
    w->file_bytes = w->weight_bytes;
    w->source_bytes = 2 * w->n_parameters; /* bf16 */
out:
    return st;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

typedef struct filling {
    uint64_t *words;
    size_t    n_words;
} filling;

/* Whoever fills a page first has it near: the pool's workers will read it. */
static void fill_part(void *context, size_t item, uint32_t worker)
{
    filling *f = context;
    size_t   first = item * (PART_BYTES / sizeof(uint64_t));
    size_t   end = first + PART_BYTES / sizeof(uint64_t);

    (void)worker;
    if (end > f->n_words)
        end = f->n_words;
    for (size_t i = first; i < end; i++)
        f->words[i] = upg_random_u64(SEED, i);
}

/* The last block of a band stores up to 15 rows more than there are: zeros. */
static void clear_padding(upg_band *band, uint32_t n_cols, uint32_t *bits)
{
    uint32_t last = upg_block_count(band->n_binary) - 1;
    uint32_t stored = last * UPG_BLOCK_ROWS + upg_block_rows(band->n_binary, last);

    for (uint32_t b = band->n_binary; b < stored; b++)
        for (uint32_t g = 0; g < upg_group_count(n_cols); g++)
            bits[upg_word_index(band->n_binary, n_cols, b, g)] = 0;
}

/* Rows of the embedding have unit variance, products the size of what goes in. */
static void fill_scales(const upg_matrix *m, uint16_t *scales)
{
    double size = m->role == UPG_ROLE_EMBED ? 1 : 1 / sqrt((double)m->n_cols);

    memset(scales, 0, scale_bytes(m->coded));
    for (uint32_t r = 0; r < m->n_rows; r++)
        scales[r] = upg_f16_from_f32((float)(size * (0.75 + 0.5 * upg_random_unit(SEED, r))));
}

static uint8_t *finish_matrix(const upg_matrix *m, uint8_t *at)
{
    synthetic_matrix *s = (synthetic_matrix *)m->coded; /* coded is its first member */
    uint16_t         *scales;

    for (uint32_t i = 0; i < s->coded.n_bands; i++) {
        upg_band *band = &s->bands[i];

        band->bits = (uint32_t *)(void *)at;
        clear_padding(band, m->n_cols, (uint32_t *)(void *)at);
        at += upg_band_words(band->n_binary, m->n_cols) * sizeof(uint32_t);
    }
    scales = (uint16_t *)(void *)at;
    fill_scales(m, scales);
    for (uint32_t i = 0; i < s->coded.n_bands; i++)
        s->bands[i].scales = scales + s->bands[i].row0;
    return at + scale_bytes(&s->coded);
}

static uint64_t block_bytes(const upg_weights *w)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < upg_weights_matrix_count(w); i++)
        bytes += upg_weights_matrix(w, i)->bytes;
    return bytes;
}

static upg_status fill_all(upg_weights *w, upg_pool *pool, upg_error *err)
{
    uint64_t bytes = block_bytes(w);
    uint8_t *at;
    filling  f;

    w->source->memory = upg_malloc(bytes + ALIGNMENT, 1, err);
    if (!w->source->memory)
        return UPG_E_NOMEM;
    at = (uint8_t *)w->source->memory;
    at += ALIGNMENT - (uintptr_t)at % ALIGNMENT;
    f = (filling) { (uint64_t *)(void *)at, bytes / sizeof(uint64_t) };
    upg_pool_run(pool, (bytes + PART_BYTES - 1) / PART_BYTES, fill_part, &f);
    for (uint32_t i = 0; i < upg_weights_matrix_count(w); i++)
        at = finish_matrix(upg_weights_matrix(w, i), at);
    return UPG_OK;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* Before anything large is allocated. */
static upg_status check_memory(const upg_weights *w, const char *shape, uint64_t limit,
                               upg_error *err)
{
    uint64_t total, available, need = block_bytes(w), outside, layer, fit;

    upg_system_memory(&total, &available);
    if (limit == 0)
        limit = available > 0 ? available : UINT64_MAX;
    if (need <= limit)
        return UPG_OK;
    outside = w->embed.bytes + w->head.bytes;
    layer = (need - outside) / w->config.n_layers;
    fit = limit > outside ? (limit - outside) / layer : 0;
    if (fit == 0)
        return upg_fail(err, UPG_E_BUDGET,
                        "%s needs %" PRIu64 " bytes for its weights, there are %" PRIu64
                        ": take a smaller shape, such as phi4-nano",
                        shape, need, limit);
    return upg_fail(err, UPG_E_BUDGET,
                    "%s needs %" PRIu64 " bytes for its weights, there are %" PRIu64
                    ": %.*s:%" PRIu64 " would fit",
                    shape, need, limit, (int)strcspn(shape, ":"), shape, fit);
}

upg_status upg_weights_synthetic(const char *shape, uint64_t limit_bytes, upg_pool *pool,
                                 upg_weights **weights, upg_error *err)
{
    upg_weights *w = upg_calloc(1, sizeof *w, err);
    model_shape  known;
    upg_status   st = w ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    w->source = upg_calloc(1, sizeof *w->source, err);
    UPG_TRY(w->source ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(read_shape(shape, &known, err));
    UPG_TRY(make_config(w, &known, err));
    UPG_TRY(add_all(w, err));
    UPG_TRY(check_memory(w, shape, limit_bytes, err));
    UPG_TRY(fill_all(w, pool, err));
out:
    if (st != UPG_OK) {
        upg_weights_close(w);
        w = NULL;
    }
    *weights = w;
    return st;
}
