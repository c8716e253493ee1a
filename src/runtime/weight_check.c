#include "runtime/weight_check.h"

#include <string.h>

#include "base/alloc.h"
#include "model/weights_source.h"

enum { UNKNOWN, WANTED, GOOD, BAD }; /* of a chunk */

struct upg_weight_check {
    const upg_weights   *weights;
    const upg_container *file;
    uint32_t             threads;
    bool                 everything, layers_done, head_done;
    uint8_t             *chunks; /* [file->hashes.n_chunks] */
    size_t              *wanted; /* their numbers, for the pool */
    size_t               n_wanted, n_checked;
};

upg_status upg_weight_check_create(const upg_weights *weights, uint32_t threads, bool everything,
                                   upg_weight_check **out, upg_error *err)
{
    upg_weight_check *c = upg_calloc(1, sizeof *c, err);
    size_t            n = weights->source->container->hashes.n_chunks;

    *out = c;
    if (c == NULL)
        return UPG_E_NOMEM;
    c->weights = weights;
    c->file = weights->source->container;
    c->threads = threads;
    c->everything = everything;
    c->chunks = upg_calloc(n, sizeof *c->chunks, err);
    c->wanted = upg_malloc(n, sizeof *c->wanted, err);
    if (c->chunks != NULL && c->wanted != NULL)
        return UPG_OK;
    upg_weight_check_close(c);
    *out = NULL;
    return UPG_E_NOMEM;
}

void upg_weight_check_close(upg_weight_check *c)
{
    if (c == NULL)
        return;
    upg_free(c->chunks);
    upg_free(c->wanted);
    upg_free(c);
}

size_t upg_weight_check_count(const upg_weight_check *c)
{
    return c->n_checked;
}

/* ---- what a batch reads ---------------------------------------------------------------------- */

/* Memory in the file that is going to be read. */
static void want(upg_weight_check *c, const void *memory, uint64_t bytes)
{
    uint64_t begin = (uint64_t)((const uint8_t *)memory - c->file->hashes.file.data);
    uint64_t last = bytes > 0 ? (begin + bytes - 1) / UPG_HASH_CHUNK : 0;

    for (uint64_t i = begin / UPG_HASH_CHUNK; bytes > 0 && i <= last; i++)
        if (c->chunks[i] == UNKNOWN) {
            c->chunks[i] = WANTED;
            c->wanted[c->n_wanted++] = (size_t)i;
        }
}

static void want_tensor(upg_weight_check *c, const upg_st_tensor *t)
{
    if (t != NULL)
        want(c, t->bytes.data, t->bytes.size);
}

static void want_matrix(upg_weight_check *c, const char *name)
{
    const upg_container_matrix *m = upg_container_matrix_find(c->file, name);

    if (m == NULL)
        return; /* a dense one: with the norms */
    want_tensor(c, m->code);
    want_tensor(c, m->scale);
    want_tensor(c, m->outliers);
}

/* One row of a coded embedding: the blocks that its windows reach over. */
static void want_row(upg_weight_check *c, const upg_matrix *embed, uint32_t row)
{
    const upg_band *band = upg_coded_band_of(embed->coded, row);
    uint32_t        r = row - band->row0;
    uint64_t        end = upg_code_binary_rows(&band->code, r + 1);
    uint64_t        begin = end > band->code.length ? end - band->code.length : 0;
    uint64_t        block = (uint64_t)UPG_BLOCK_ROWS * upg_group_count(embed->n_cols); /* words */
    uint64_t        first = begin / UPG_BLOCK_ROWS, last = (end - 1) / UPG_BLOCK_ROWS;
    uint64_t        words = upg_band_words(band->n_binary, embed->n_cols);

    end = (last + 1) * block < words ? (last + 1) * block : words; /* the last block is shorter */
    want(c, band->bits + first * block, (end - first * block) * sizeof *band->bits);
    want(c, band->scales + r, sizeof *band->scales);
}

static void want_layers(upg_weight_check *c)
{
    const upg_matrix *embed = &c->weights->embed;

    for (uint32_t i = 0; i < upg_weights_matrix_count(c->weights); i++) {
        const upg_matrix *m = upg_weights_matrix(c->weights, i);

        if (m != embed && m != &c->weights->head)
            want_matrix(c, m->name);
    }
    for (size_t i = 0; i < c->file->n_dense; i++)
        want_tensor(c, c->file->dense[i]);
    if (embed->kind == UPG_MATRIX_CODED)
        want_tensor(c, upg_container_matrix_find(c->file, embed->name)->outliers);
}

static void want_batch(upg_weight_check *c, const upg_batch_row *rows, uint32_t n_rows)
{
    const upg_matrix *embed = &c->weights->embed;
    bool              head = c->everything;

    for (uint32_t i = 0; i < n_rows && !head; i++)
        head = rows[i].logits != NULL;
    if (!c->layers_done)
        want_layers(c);
    if (head && !c->head_done)
        want_matrix(c, c->weights->config.tied_embeddings ? embed->name : c->weights->head.name);
    if (c->everything && !c->layers_done)
        want_matrix(c, embed->name);
    for (uint32_t i = 0; i < n_rows && embed->kind == UPG_MATRIX_CODED; i++)
        want_row(c, embed, (uint32_t)rows[i].token);
}

/* ---- checking -------------------------------------------------------------------------------- */

static void check_item(void *context, size_t item, uint32_t worker)
{
    upg_weight_check *c = context;
    size_t            chunk = c->wanted[item];

    (void)worker;
    c->chunks[chunk] = upg_hash_table_chunk_ok(&c->file->hashes, chunk) ? GOOD : BAD;
}

static upg_status check_wanted(upg_weight_check *c, upg_error *err)
{
    enum { FEW = 8 }; /* threads take longer to start */
    upg_pool  *pool = NULL;
    upg_status st = UPG_OK;

    if (c->n_wanted > FEW)
        st = upg_pool_create(c->threads, &pool, err);
    if (st == UPG_OK && pool != NULL)
        upg_pool_run(pool, c->n_wanted, check_item, c);
    for (size_t i = 0; st == UPG_OK && pool == NULL && i < c->n_wanted; i++)
        check_item(c, i, 0);
    upg_pool_close(pool);
    return st;
}

/* Forgets what was wanted; the first that is bad is told of, and asked again the next time. */
static upg_status settle(upg_weight_check *c, upg_error *err)
{
    size_t     bad = SIZE_MAX;
    upg_status st = UPG_OK;

    for (size_t i = 0; i < c->n_wanted; i++) {
        size_t chunk = c->wanted[i];

        c->n_checked += c->chunks[chunk] == GOOD;
        if (c->chunks[chunk] == BAD && chunk < bad)
            bad = chunk;
        if (c->chunks[chunk] != GOOD)
            c->chunks[chunk] = UNKNOWN;
    }
    c->n_wanted = 0;
    if (bad != SIZE_MAX)
        st = upg_container_bad_chunk(c->file->hashes.file, &c->file->hashes, bad, err);
    return st;
}

upg_status upg_weight_check_rows(upg_weight_check *c, const upg_batch_row *rows, uint32_t n_rows,
                                 upg_error *err)
{
    bool       head = c->everything;
    upg_status st = UPG_OK, settled;

    want_batch(c, rows, n_rows);
    if (c->n_wanted > 0) {
        st = check_wanted(c, err);
        settled = settle(c, err);
        st = st == UPG_OK ? settled : st;
    }
    if (st != UPG_OK)
        return st;
    for (uint32_t i = 0; i < n_rows && !head; i++)
        head = rows[i].logits != NULL;
    c->layers_done = true;
    c->head_done |= head;
    return UPG_OK;
}
