#include "model/export_weights.h"

#include <string.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "format/container.h"
#include "model/checkpoint_list.h"
#include "safetensors/checkpoint_writer.h"

#define PIECE_BYTES ((size_t)16 << 20) /* what is decoded by all workers and written at once */

typedef struct exporter {
    const upg_weights     *weights;
    upg_pool              *pool;
    upg_arena              arena;
    upg_checkpoint_list    list;
    upg_checkpoint_writer *writer;
    upg_meter              meter;
    float                 *rows;  /* f32 [threads][widest] */
    uint16_t              *piece; /* bf16 */
    size_t                 widest;
    /* the rows at hand */
    const upg_matrix *matrix;
    uint32_t          first_row;
} exporter;

static const upg_vector *vector_of(const upg_weights *w, upg_role role, uint32_t layer)
{
    if (role == UPG_ROLE_FINAL_NORM)
        return &w->final_norm;
    return role == UPG_ROLE_ATTENTION_NORM ? &w->layers[layer].attention_norm
                                           : &w->layers[layer].ffn_norm;
}

static void decode_row(void *context, size_t item, uint32_t worker)
{
    exporter *e = context;
    uint32_t  n_cols = e->matrix->n_cols;
    float    *row = e->rows + (size_t)worker * e->widest;
    uint16_t *out = e->piece + item * n_cols;

    upg_matrix_row(e->matrix, e->first_row + (uint32_t)item, row);
    for (uint32_t j = 0; j < n_cols; j++)
        out[j] = upg_bf16_from_f32(row[j]);
    upg_meter_add(&e->meter, n_cols);
    if (worker == 0)
        upg_meter_tick(&e->meter);
}

static upg_status write_matrix(exporter *e, const upg_matrix *m, upg_error *err)
{
    size_t     row_bytes = (size_t)m->n_cols * sizeof(uint16_t);
    uint32_t   most = (uint32_t)(PIECE_BYTES / row_bytes);
    upg_status st = UPG_OK;

    e->matrix = m;
    most = most > 0 ? most : 1;
    for (uint32_t first = 0, n; first < m->n_rows; first += n) {
        n = m->n_rows - first < most ? m->n_rows - first : most;
        e->first_row = first;
        upg_pool_run(e->pool, n, decode_row, e);
        UPG_TRY(upg_checkpoint_write(e->writer, e->piece, n * row_bytes, err));
        if (upg_meter_cancelled(&e->meter))
            UPG_TRY(upg_meter_finish(&e->meter, err));
    }
out:
    return st;
}

static upg_status write_vector(exporter *e, const upg_vector *v, upg_error *err)
{
    for (uint32_t i = 0; i < v->n; i++)
        e->piece[i] = upg_bf16_from_f32(v->values[i]);
    upg_meter_add(&e->meter, v->n);
    return upg_checkpoint_write(e->writer, e->piece, v->n * sizeof(uint16_t), err);
}

static upg_status write_tensors(exporter *e, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < e->list.n; i++) {
        const upg_tensor_rule *rule = e->list.rules[i];
        uint32_t               layer = e->list.layers[i];

        if (e->list.entries[i].rank == 1) {
            UPG_TRY(write_vector(e, vector_of(e->weights, rule->roles[0], layer), err));
            continue;
        }
        for (uint32_t r = 0; r < rule->n_roles; r++)
            UPG_TRY(
                write_matrix(e, upg_weights_role_matrix(e->weights, rule->roles[r], layer), err));
    }
out:
    return st;
}

static upg_status write_files(exporter *e, upg_error *err)
{
    const upg_weights *w = e->weights;
    const upg_span     parts[UPG_PART_COUNT] = {
            [UPG_PART_CONFIG] = w->config_json,
            [UPG_PART_GENERATION_CONFIG] = w->generation_config_json,
            [UPG_PART_TOKENIZER] = w->tokenizer_json,
            [UPG_PART_TOKENIZER_CONFIG] = w->tokenizer_config_json,
            [UPG_PART_CHAT_TEMPLATE] = w->chat_template,
    };
    upg_status st = UPG_OK;

    for (unsigned p = 0; p < UPG_PART_COUNT && st == UPG_OK; p++)
        if (parts[p].size > 0)
            st = upg_checkpoint_write_file(e->writer, upg_part_file((upg_part)p), parts[p], err);
    return st;
}

static upg_status allocate(exporter *e, upg_error *err)
{
    size_t piece = PIECE_BYTES;

    for (size_t i = 0; i < e->list.n; i++) {
        const upg_st_entry *entry = &e->list.entries[i];
        size_t              width = (size_t)entry->shape[entry->rank - 1];

        e->widest = width > e->widest ? width : e->widest;
    }
    if (piece < e->widest * sizeof(uint16_t))
        piece = e->widest * sizeof(uint16_t);
    e->rows = upg_malloc(e->widest * upg_pool_size(e->pool), sizeof *e->rows, err);
    e->piece = upg_malloc(piece, 1, err);
    return e->rows && e->piece ? UPG_OK : UPG_E_NOMEM;
}

upg_status upg_weights_export(const upg_weights *weights, const char *folder, uint64_t shard_bytes,
                              upg_pool *pool, const upg_listener *listener, upg_error *err)
{
    exporter   e = { .weights = weights, .pool = pool };
    upg_status st;

    UPG_TRY(upg_checkpoint_list_make(&weights->config, &e.arena, &e.list, err));
    UPG_TRY(allocate(&e, err));
    UPG_TRY(upg_checkpoint_writer_create(folder, e.list.entries, e.list.n, shard_bytes, &e.writer,
                                         err));
    UPG_TRY(write_files(&e, err));
    upg_meter_start(&e.meter, listener, "export", "weights", weights->n_parameters);
    UPG_TRY(write_tensors(&e, err));
    UPG_TRY(upg_meter_finish(&e.meter, err));
    UPG_TRY(upg_weights_check_maps(weights, err)); /* zeros are not what was to be written */
    st = upg_checkpoint_writer_commit(e.writer, err);
    e.writer = NULL; /* after a failure too */
out:
    upg_checkpoint_writer_discard(e.writer);
    upg_free(e.rows);
    upg_free(e.piece);
    upg_arena_deinit(&e.arena);
    return st;
}
