/* cuda_layout.c: plans every byte of device memory, then allocates it once.
 *
 * The same function runs twice: first with no memory, to add up sizes, then to give out addresses.
 * Small tables (bands, scales, norms, signs, products, steps) are built in a host image, the blob,
 * and copied as a whole. */
#include <inttypes.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_prompt.h"
#include "base/alloc.h"
#include "program/op_table.h"

enum { MAX_OP_BANDS = 256, STAGING_TABLE = 256 * sizeof(cu_source) };

void *upg_cuda_take(cuda_backend *b, size_t bytes)
{
    size_t at = b->used;

    b->used += (bytes + 255) / 256 * 256;
    return b->base ? b->base + at : NULL;
}

const void *upg_cuda_table(cuda_backend *b, const void *data, size_t bytes)
{
    size_t at = b->blob_used;

    b->blob_used += (bytes + 63) / 64 * 64;
    if (!b->blob)
        return NULL;
    if (data)
        memcpy(b->blob + at, data, bytes);
    return b->blob_device + at;
}

/* ---- products ---------------------------------------------------------------------------------
 */

static uint32_t sum_of_taps(const upg_code *code)
{
    uint32_t sum = 0;

    for (int i = 0; i < code->length; i++)
        sum += (uint32_t)(code->taps[i] < 0 ? -code->taps[i] : code->taps[i]);
    return sum;
}

static void plan_band(cuda_op *bound, const upg_band *band, uint32_t n_cols, cu_band *to)
{
    cu_product *p = &bound->product;
    uint32_t    taps = sum_of_taps(&band->code);

    *to = (cu_band) { .row0 = p->n_rows,
                      .n_rows = band->n_rows,
                      .n_binary = band->n_binary,
                      .u0 = p->n_u,
                      .k0 = band->code.k0,
                      .k1 = band->code.k1,
                      .length = band->code.length,
                      .wide = (uint64_t)taps * 127 * n_cols > INT32_MAX,
                      .gain = band->code.gain };
    memcpy(to->taps, band->code.taps, sizeof to->taps);
    p->n_rows += band->n_rows;
    p->n_u += (band->n_binary + CU_TILE_ROWS - 1) / CU_TILE_ROWS * CU_TILE_ROWS;
    p->exact_f16 = p->exact_f16 && taps <= CU_SUM_LIMIT;
    if (band->code.length > p->max_length)
        p->max_length = band->code.length;
}

/* Bands of an op's matrices, once; addresses of their scales at every pass. */
static upg_status plan_product(cuda_backend *b, const upg_op *op, cuda_op *bound, upg_error *err)
{
    cu_product *p = &bound->product;
    uint32_t    n_bands = 0;

    for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++)
        n_bands += op->w[w]->coded->n_bands;
    if (n_bands > MAX_OP_BANDS)
        return upg_fail(err, UPG_E_UNSUPPORTED, "%s: %u bands; the cuda backend takes up to %d",
                        op->w[0]->name, n_bands, MAX_OP_BANDS);
    bound->coded = true;
    bound->bands = upg_calloc(n_bands, sizeof *bound->bands, err);
    if (!bound->bands)
        return UPG_E_NOMEM;
    *p = (cu_product) { .n_bands = n_bands, .n_cols = op->w[0]->n_cols, .exact_f16 = 1 };
    n_bands = 0;
    for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++) {
        const upg_coded_matrix *m = op->w[w]->coded;

        p->row0[w] = p->n_rows;
        for (uint32_t i = 0; i < m->n_bands; i++)
            plan_band(bound, &m->bands[i], m->n_cols, &bound->bands[n_bands++]);
    }
    p->n_ktiles = (p->n_cols + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS;
    p->n_units = p->n_u / CU_TILE_ROWS * p->n_ktiles;
    if ((uint64_t)p->n_units * (b->n_ctas + 1) > UINT32_MAX)
        return upg_fail(err, UPG_E_UNSUPPORTED, "%s: larger than the cuda backend takes",
                        op->w[0]->name);
    return UPG_OK;
}

static upg_status plan_ops(cuda_backend *b, upg_error *err)
{
    upg_status st = UPG_OK;

    b->ops = upg_calloc(b->program->n_ops, sizeof *b->ops, err);
    UPG_TRY(b->ops ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];

        if (op->w[0] != NULL && op->w[0]->kind == UPG_MATRIX_CODED && op->code != UPG_OP_EMBED)
            UPG_TRY(plan_product(b, op, &b->ops[i], err));
    }
out:
    return st;
}

/* Tape of every block: the ops' shares one after the other. */
static void place_tapes(cuda_backend *b, uint32_t *offset)
{
    uint32_t tiles = 0, n = b->n_ctas;

    for (uint32_t c = 0; c < n; c++) {
        uint32_t at = 0, k = 0;

        b->tape_base[c] = tiles;
        for (uint32_t i = 0; i < b->program->n_ops; i++) {
            const cu_product *p = &b->ops[i].product;
            uint64_t          tiles_in_all = p->n_u / CU_TILE_ROWS;

            if (!b->ops[i].coded)
                continue;
            offset[(size_t)k++ * n + c] = at;
            at += (uint32_t)(tiles_in_all * (c + 1) / n - tiles_in_all * c / n) * p->n_ktiles;
        }
        offset[(size_t)k * n + c] = at;
        tiles += at;
    }
    b->tape_base[n] = tiles;
    b->n_tiles = tiles;
}

static void lay_products(cuda_backend *b, const uint32_t *offset, uint32_t n_coded)
{
    uint32_t k = 0;

    b->step_tiles = upg_cuda_table(b, offset, (size_t)(n_coded + 1) * b->n_ctas * sizeof *offset);
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];
        cuda_op      *bound = &b->ops[i];
        uint32_t      n = 0;

        if (!bound->coded)
            continue;
        for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++)
            for (uint32_t j = 0; j < op->w[w]->coded->n_bands; j++, n++)
                bound->bands[n].scales = upg_cuda_table(b, op->w[w]->coded->bands[j].scales,
                                                        2 * (size_t)bound->bands[n].n_rows);
        bound->product.bands =
            upg_cuda_table(b, bound->bands, bound->product.n_bands * sizeof(cu_band));
        bound->product.offset = b->step_tiles ? b->step_tiles + (size_t)k * b->n_ctas : NULL;
        bound->on_device = upg_cuda_table(b, &bound->product, sizeof bound->product);
        k++;
    }
}

/* ---- other weights ----------------------------------------------------------------------------
 */

static uint32_t log2_of(uint32_t block)
{
    uint32_t log = 0;

    while (1u << log < block)
        log++;
    return log;
}

static const float *lay_signs(cuda_backend *b, const upg_rotation *rotation, float *signs)
{
    if (b->blob)
        upg_rotation_signs(rotation, signs);
    return upg_cuda_table(b, signs, rotation->width * sizeof *signs);
}

static void lay_embedding(cuda_backend *b, const upg_matrix *m, cuda_op *bound, float *signs)
{
    cu_embedding   *e = &b->embedding;
    const uint32_t *bits[MAX_OP_BANDS];
    cu_band         bands[MAX_OP_BANDS];
    cuda_op         plan = { 0 };

    *e = (cu_embedding) { .n_rows = m->n_rows, .n_cols = m->n_cols };
    if (m->kind == UPG_MATRIX_DENSE) {
        e->dense = bound->dense[0] =
            upg_cuda_take(b, (size_t)m->n_rows * m->n_cols * upg_dtype_bytes(m->dtype));
        e->dtype = m->dtype == UPG_F32 ? 0 : m->dtype == UPG_F16 ? 1 : 2;
        return;
    }
    e->n_bands = m->coded->n_bands;
    e->n_groups = upg_group_count(m->n_cols);
    e->log_block = log2_of(m->coded->rotation.block);
    e->signs = lay_signs(b, &m->coded->rotation, signs);
    for (uint32_t i = 0; i < e->n_bands && i < MAX_OP_BANDS; i++) {
        const upg_band *band = &m->coded->bands[i];

        plan_band(&plan, band, m->n_cols, &bands[i]);
        bands[i].scales = upg_cuda_table(b, band->scales, 2 * (size_t)band->n_rows);
        bits[i] = upg_cuda_take(b, 4 * (size_t)upg_band_words(band->n_binary, m->n_cols));
    }
    e->bands = upg_cuda_table(b, bands, e->n_bands * sizeof *bands);
    e->bits = upg_cuda_table(b, bits, e->n_bands * sizeof *bits);
}

static void lay_norm(cuda_backend *b, const upg_op *op, cuda_op *bound, float *signs)
{
    const upg_prepared *to = &b->program->slots[op->out].prepared;

    bound->norm = upg_cuda_table(b, op->v->values, op->v->n * sizeof(float));
    if (!to->rotated)
        return;
    if (b->blob) {
        upg_rotation_signs(&to->rotation, signs);
        for (uint32_t j = 0; j < op->v->n; j++)
            signs[j] *= op->v->values[j];
    }
    bound->signed_norm = upg_cuda_table(b, signs, op->v->n * sizeof(float));
}

static void lay_weights(cuda_backend *b, const uint32_t *offset, uint32_t n_coded, float *signs)
{
    const upg_rope *rope = &b->program->weights->config.rope;
    size_t          angles = rope->rotary_dims / 2 * sizeof(float);

    b->tape.n_ctas = b->n_ctas;
    b->tape.base = upg_cuda_table(b, b->tape_base, (b->n_ctas + 1) * sizeof *b->tape_base);
    b->tape.bytes = upg_cuda_take(b, (size_t)b->n_tiles * CU_TILE_BYTES + 16 * CU_TILE_BYTES);
    lay_products(b, offset, n_coded);
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];
        cuda_op      *bound = &b->ops[i];

        if (op->v != NULL)
            lay_norm(b, op, bound, signs);
        if (op->code == UPG_OP_EMBED) {
            lay_embedding(b, op->w[0], bound, signs);
            continue;
        }
        for (uint32_t w = 0; w < 3 && op->w[w] != NULL && !bound->coded; w++)
            bound->dense[w] = upg_cuda_take(b, (size_t)op->w[w]->n_rows * op->w[w]->n_cols *
                                                   upg_dtype_bytes(op->w[w]->dtype));
    }
    b->inv_freq = upg_cuda_table(b, rope->inv_freq, angles);
    b->long_inv_freq = rope->long_inv_freq ? upg_cuda_table(b, rope->long_inv_freq, angles) : NULL;
}

/* ---- scratch ----------------------------------------------------------------------------------
 */

static uint32_t padded_width(uint32_t width)
{
    return (width + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS * CU_TILE_COLUMNS;
}

static void bind_slot(cuda_backend *b, const upg_slot *slot, uint8_t *at, const float *signs,
                      cuda_slot *to)
{
    size_t rows = b->max_rows, stride = padded_width(slot->width);

    to->stride = (uint32_t)stride;
    to->prepared = (cu_prepared) { .width = slot->width, .stride = (uint32_t)stride };
    to->values = to->prepared.values = (float *)(void *)at;
    if (slot->kind == UPG_SLOT_F32 || !slot->prepared.rotated)
        return;
    to->values = to->prepared.values = NULL;
    to->prepared.rotated = 1;
    to->prepared.log_block = log2_of(slot->prepared.rotation.block);
    to->prepared.signs = signs;
    to->prepared.codes = (uint32_t *)(void *)at;
    to->prepared.scales = (float *)(void *)(at + rows * stride);
    to->prepared.sums = (int32_t *)(void *)(at + rows * (stride + 4));
    if (rows > CU_FEW_ROWS) /* only batches of many rows want tiles, of 8 rows */
        to->prepared.tiles = at + (rows * (stride + 8) + 255) / 256 * 256;
}

/* As the program plans it, for rows of whole tiles: what it sets aside for a rotated input, 9 bytes
 * for each, covers what bind_slot uses: a byte for codes, two in each of 8 rows' tiles. */
static upg_status lay_slots(cuda_backend *b, upg_slot *slots, upg_live_range *ranges,
                            uint32_t *live, float *signs)
{
    uint32_t n = b->program->n_slots;
    uint8_t *at;
    size_t   bytes;

    memcpy(slots, b->program->slots, n * sizeof *slots);
    for (uint32_t i = 0; i < n; i++)
        slots[i].width = padded_width(slots[i].width);
    upg_live_ranges(b->program->ops, b->program->n_ops, n, ranges);
    bytes = upg_scratch_plan(ranges, n, slots, live);
    at = upg_cuda_take(b, bytes * b->max_rows);
    for (uint32_t i = 0; i < n; i++) {
        const float *s = NULL;

        if (slots[i].kind == UPG_SLOT_PREPARED && slots[i].prepared.rotated)
            s = lay_signs(b, &slots[i].prepared.rotation, signs);
        bind_slot(b, &b->program->slots[i], at ? at + slots[i].offset * b->max_rows : NULL, s,
                  &b->slots[i]);
    }
    return UPG_OK;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Outputs of an op's matrices, side by side. */
static uint32_t rows_of(const upg_op *op)
{
    uint32_t n = 0;

    for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++)
        n += op->w[w]->n_rows;
    return n;
}

static void lay_scratch(cuda_backend *b)
{
    const upg_model_config *c = &b->program->weights->config;
    size_t   rows = b->max_rows, staging = 0, n_u = 0, n_splits = rows < 64 ? 64 : rows;
    uint32_t widest = c->hidden;

    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op     *op = &b->program->ops[i];
        const cu_product *p = &b->ops[i].product;
        bool              inner = op->code != UPG_OP_EMBED && op->code != UPG_OP_LOGITS;

        if (inner && rows_of(op) > widest)
            widest = rows_of(op);
        if (!b->ops[i].coded)
            continue;
        n_u = max_size(n_u, p->n_u);
        /* one more tile row for each band covers the rounding of the file's layout */
        staging = max_size(staging, STAGING_TABLE +
                                        ((size_t)p->n_u + 16 * p->n_bands) * p->n_ktiles * 32 +
                                        256 * p->n_bands);
        if (rows > CU_FEW_ROWS && inner)
            staging = max_size(
                staging, cu_decoded_bytes(cu_decoded_groups(p->n_rows, op->code == UPG_OP_GATE_UP),
                                          padded_width(p->n_cols), CU_HALVES));
    }
    b->scratch_stride = padded_width(widest);
    b->scratch = upg_cuda_take(b, rows * b->scratch_stride * sizeof(float));
    b->mixed = upg_cuda_take(b, rows * padded_width(c->n_heads * c->head_dim) * sizeof(float));
    b->logits = upg_cuda_take(b, (size_t)CUDA_LOGIT_ROWS * c->vocab * sizeof(float));
    b->partial = upg_cuda_take(b, n_splits * c->n_heads * c->head_dim * sizeof(float));
    b->softmax = upg_cuda_take(b, n_splits * c->n_heads * 2 * sizeof(float));
    b->u = upg_cuda_take(b, CU_FEW_ROWS * n_u * sizeof(int32_t));
    b->bad = upg_cuda_take(b, 256);
    b->rows = upg_cuda_take(b, rows * sizeof(cu_row));
    b->pages = upg_cuda_take(b, b->n_page_slots * sizeof(uint8_t *));
    upg_cuda_lay_draw(b);
    upg_cuda_lay_outliers(b);
    b->staging_bytes = staging;
    b->staging = upg_cuda_take(b, staging);
}

/* ---- both passes ------------------------------------------------------------------------------
 */

typedef struct planning {
    uint32_t       *offset, *live;
    uint32_t        n_coded;
    float          *signs;
    upg_slot       *slots;
    upg_live_range *ranges;
} planning;

static void lay_all(cuda_backend *b, planning *p)
{
    b->used = b->blob_used = 0;
    b->blob_device = upg_cuda_take(b, b->blob_size);
    lay_weights(b, p->offset, p->n_coded, p->signs);
    (void)lay_slots(b, p->slots, p->ranges, p->live, p->signs);
    lay_scratch(b);
    b->one_launch = upg_cuda_plan_steps(b);
}

static upg_status allocate(cuda_backend *b, upg_error *err)
{
    const upg_model_config *c = &b->program->weights->config;
    upg_kv_layout           kv = upg_kv_layout_make(c, UPG_KV_F16);
    size_t                  there = 0, total = 0;
    int                     e = cudaMemGetInfo(&there, &total);

    if (e != cudaSuccess)
        return upg_cuda_check(e, "asking for free memory", err);
    if (b->size + kv.page_bytes > there)
        return upg_fail(err, UPG_E_NOMEM,
                        "the model needs %.2f GB on the GPU and %.1f MB for every 64 tokens of "
                        "context; %.2f GB of its %.2f GB are free: close other programs, use a "
                        "smaller model or --device cpu",
                        (double)b->size * 1e-9, (double)kv.page_bytes * 1e-6, (double)there * 1e-9,
                        (double)total * 1e-9);
    return upg_cuda_check(cudaMalloc((void **)&b->base, b->size), "allocating device memory", err);
}

static upg_status plan_twice(cuda_backend *b, planning *p, upg_error *err)
{
    upg_status st;

    lay_all(b, p);
    b->blob_size = b->blob_used + 256;
    lay_all(b, p); /* now with the tables' size */
    b->size = b->used;
    UPG_TRY(allocate(b, err));
    b->blob = upg_calloc(b->blob_size, 1, err);
    UPG_TRY(b->blob ? UPG_OK : UPG_E_NOMEM);
    lay_all(b, p);
    b->device_bytes = b->size;
out:
    return st;
}

static uint32_t widest_slot(const upg_program *program)
{
    uint32_t widest = program->weights->config.hidden;

    for (uint32_t i = 0; i < program->n_slots; i++)
        if (program->slots[i].width > widest)
            widest = program->slots[i].width;
    return widest;
}

upg_status upg_cuda_layout(cuda_backend *b, upg_error *err)
{
    uint32_t   n_slots = b->program->n_slots;
    planning   p = { 0 };
    upg_status st;

    UPG_TRY(plan_ops(b, err));
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        p.n_coded += b->ops[i].coded;
    b->tape_base = upg_calloc(b->n_ctas + 1, sizeof *b->tape_base, err);
    b->slots = upg_calloc(n_slots, sizeof *b->slots, err);
    p.offset = upg_calloc((size_t)(p.n_coded + 1) * b->n_ctas, sizeof *p.offset, err);
    p.live = upg_calloc(n_slots, sizeof *p.live, err);
    p.signs = upg_calloc(widest_slot(b->program), sizeof *p.signs, err);
    p.slots = upg_calloc(n_slots, sizeof *p.slots, err);
    p.ranges = upg_calloc(n_slots, sizeof *p.ranges, err);
    UPG_TRY(b->tape_base && b->slots && p.offset && p.live && p.signs && p.slots && p.ranges
                ? UPG_OK
                : UPG_E_NOMEM);
    place_tapes(b, p.offset);
    UPG_TRY(plan_twice(b, &p, err));
out:
    upg_free(p.ranges);
    upg_free(p.slots);
    upg_free(p.signs);
    upg_free(p.live);
    upg_free(p.offset);
    return st;
}
