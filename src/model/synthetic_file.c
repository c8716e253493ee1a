/* synthetic_file.c: weights in memory ─► plan ─► container writer. */
#include "model/synthetic_file.h"

#include <string.h>

#include "base/alloc.h"
#include "format/container_writer.h"
#include "model/weights_source.h"

#define PIECE_WORDS ((uint64_t)4 << 20) /* written between two looks at the listener */

typedef struct saver {
    upg_weights          *weights;
    upg_arena             arena;
    upg_container_plan    plan;
    upg_container_writer *writer;
    upg_meter             meter;
} saver;

/* ---- plan -------------------------------------------------------------------------------------
 */

static const upg_vector *vector_at(const upg_weights *w, uint32_t index)
{
    if (index == 2 * w->config.n_layers)
        return &w->final_norm;
    return index % 2 == 0 ? &w->layers[index / 2].attention_norm : &w->layers[index / 2].ffn_norm;
}

static upg_status plan_matrix(saver *s, const upg_matrix *m, upg_matrix_plan *plan, upg_error *err)
{
    const upg_coded_matrix *c = m->coded;
    upg_band_plan          *bands = upg_arena_alloc(&s->arena, c->n_bands, sizeof *bands, err);

    if (!bands)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < c->n_bands; i++)
        bands[i] = (upg_band_plan) { c->bands[i].n_rows, c->bands[i].code };
    *plan = (upg_matrix_plan) { .name = m->name,
                                .n_rows = m->n_rows,
                                .n_cols = m->n_cols,
                                .rotation_seed = c->rotation.seed,
                                .n_bands = c->n_bands,
                                .bands = bands };
    return UPG_OK;
}

static void plan_parts(saver *s, const upg_side_file *files, size_t n_files)
{
    s->plan.parts[UPG_PART_CONFIG] = s->weights->config_json;
    for (int part = UPG_PART_GENERATION_CONFIG; part < UPG_PART_MANIFEST; part++)
        for (size_t i = 0; i < n_files; i++)
            if (strcmp(files[i].name, upg_part_file((upg_part)part)) == 0)
                s->plan.parts[part] = files[i].bytes;
}

static upg_status make_plan(saver *s, const upg_side_file *files, size_t n_files, upg_error *err)
{
    uint32_t         n_matrices = upg_weights_matrix_count(s->weights);
    uint32_t         n_vectors = 2 * s->weights->config.n_layers + 1;
    upg_matrix_plan *matrices = upg_arena_alloc(&s->arena, n_matrices, sizeof *matrices, err);
    upg_st_entry    *dense = upg_arena_alloc(&s->arena, n_vectors, sizeof *dense, err);
    upg_status       st;

    UPG_TRY(matrices && dense ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < n_matrices; i++)
        UPG_TRY(plan_matrix(s, upg_weights_matrix(s->weights, i), &matrices[i], err));
    for (uint32_t i = 0; i < n_vectors; i++) {
        const upg_vector *v = vector_at(s->weights, i);

        dense[i] = (upg_st_entry) { v->name, UPG_BF16, 1, { v->n } };
    }
    s->plan.n_matrices = n_matrices;
    s->plan.matrices = matrices;
    s->plan.n_dense = n_vectors;
    s->plan.dense = dense;
    s->plan.source_bytes = s->weights->source_bytes;
    s->plan.options_json = "{\"synthetic\": true}";
    plan_parts(s, files, n_files);
out:
    return st;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static upg_status write_band(saver *s, uint32_t matrix, uint32_t index, const upg_band *band,
                             uint64_t n_words, upg_error *err)
{
    for (uint64_t first = 0; first < n_words && !upg_meter_cancelled(&s->meter);) {
        uint64_t   n = n_words - first < PIECE_WORDS ? n_words - first : PIECE_WORDS;
        upg_status st = upg_container_write_code(s->writer, matrix, index, first,
                                                 band->bits + first, (size_t)n, err);

        if (st != UPG_OK)
            return st;
        first += n;
        upg_meter_add(&s->meter, n * sizeof(uint32_t));
        upg_meter_tick(&s->meter);
    }
    return UPG_OK;
}

static upg_status write_matrix(saver *s, uint32_t index, upg_error *err)
{
    const upg_coded_matrix *c = upg_weights_matrix(s->weights, index)->coded;
    upg_status              st = UPG_OK;

    for (uint32_t i = 0; i < c->n_bands; i++)
        UPG_TRY(write_band(s, index, i, &c->bands[i],
                           upg_band_words(c->bands[i].n_binary, c->n_cols), err));
    /* those of all bands lie one after the other */
    UPG_TRY(upg_container_write_scales(s->writer, index, 0, c->bands[0].scales, c->n_rows, err));
out:
    return st;
}

/* Cut to bf16: of random numbers one is as good as another. */
static upg_status write_vector(saver *s, uint32_t index, upg_error *err)
{
    const upg_vector *v = vector_at(s->weights, index);
    uint16_t         *halves = upg_malloc(v->n, sizeof *halves, err);
    upg_status        st;

    if (!halves)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < v->n; i++) {
        uint32_t bits;

        memcpy(&bits, &v->values[i], sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    st = upg_container_write_dense(s->writer, index, 0, halves, v->n * sizeof *halves, err);
    upg_free(halves);
    return st;
}

static upg_status write_contents(saver *s, const upg_listener *listener, upg_error *err)
{
    upg_status st = UPG_OK;

    upg_meter_start(&s->meter, listener, "synth", "bytes", s->weights->weight_bytes);
    for (uint32_t i = 0; i < s->plan.n_matrices && !upg_meter_cancelled(&s->meter); i++)
        UPG_TRY(write_matrix(s, i, err));
    for (uint32_t i = 0; i < s->plan.n_dense; i++)
        UPG_TRY(write_vector(s, i, err));
    st = upg_meter_finish(&s->meter, err);
out:
    return st;
}

upg_status upg_synthetic_write(const char *path, const char *shape, const upg_side_file *files,
                               size_t n_files, upg_pool *pool, const upg_listener *listener,
                               upg_error *err)
{
    saver                 s = { 0 };
    upg_container_writer *writer;
    upg_status            st;

    UPG_TRY(upg_weights_synthetic(shape, 0, pool, &s.weights, err));
    UPG_TRY(make_plan(&s, files, n_files, err));
    UPG_TRY(upg_container_writer_create(path, false, &s.plan, &s.writer, err));
    UPG_TRY(write_contents(&s, listener, err));
    writer = s.writer;
    s.writer = NULL; /* taken */
    UPG_TRY(upg_container_finish(writer, (upg_span) { 0 }, pool, listener, err));
out:
    upg_container_discard(s.writer);
    upg_arena_deinit(&s.arena);
    upg_weights_close(s.weights);
    return st;
}
