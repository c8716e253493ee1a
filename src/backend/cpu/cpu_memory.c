/* cpu_memory.c: all memory of the backend, taken when it is created.
 *
 * Slots share an arena as their lifetimes allow: as program/ plans it, but with this backend's own
 * sizes, since the form that bitdot reads is needed for a few rows only. */
#include "backend/cpu/cpu_backend.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "program/op_table.h"

/* Allocations are chained so that one call frees them all. */
typedef struct cpu_block {
    struct cpu_block *next;
    uint8_t           pad[64 - sizeof(struct cpu_block *)];
} cpu_block;

_Static_assert(sizeof(cpu_block) == 64, "keeps what follows aligned");

/* n · size bytes; zeroed ones were touched by the caller's thread. */
static void *take(cpu_backend *b, size_t n, size_t size, bool zeroed, upg_error *err)
{
    uint64_t   bytes;
    cpu_block *block;

    if (!upg_mul_u64(n, size, &bytes) || !upg_add_u64(bytes, sizeof *block, &bytes) ||
        bytes > PTRDIFF_MAX) {
        (void)upg_fail(err, UPG_E_NOMEM, "scratch of %zu elements of %zu bytes", n, size);
        return NULL;
    }
    block =
        zeroed ? upg_alloc_aligned((size_t)bytes, err) : upg_alloc_untouched((size_t)bytes, err);
    if (block == NULL)
        return NULL;
    block->next = b->blocks;
    b->blocks = block;
    b->memory += bytes;
    return block + 1;
}

void *upg_cpu_alloc(cpu_backend *b, size_t n, size_t size, upg_error *err)
{
    return take(b, n, size, true, err);
}

void upg_cpu_free_all(cpu_backend *b)
{
    while (b->blocks != NULL) {
        cpu_block *next = b->blocks->next;

        upg_free(b->blocks);
        b->blocks = next;
    }
}

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* ---- slots ---------------------------------------------------------------------------------- */

/* Elements of a row. Sixteen more than needed keep rows of 4 KiB off one another's cache sets. */
static size_t slot_stride(const upg_slot *slot)
{
    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.rotated)
        return round_up(slot->width, UPG_GROUP_COLUMNS);
    return round_up(slot->width, 16) + 16;
}

static size_t slot_bytes(const upg_slot *slot, uint32_t max_rows)
{
    size_t rows = max_rows, stride = slot_stride(slot);

    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.rotated)
        return round_up(rows * stride, 64) + round_up(rows * sizeof(float), 64) +
               (slot->prepared.keep_plain ? rows * stride * sizeof(float) : 0);
    return rows * stride * sizeof(float);
}

/* First fit: offset[s] is moved past every earlier slot that lives at the same time. */
static size_t place_slot(const upg_live_range *ranges, const size_t *bytes, size_t *offset,
                         uint32_t s)
{
    bool moved = true;

    offset[s] = 0;
    while (moved) {
        moved = false;
        for (uint32_t i = 0; i < s; i++) {
            bool together = ranges[i].first <= ranges[s].last && ranges[s].first <= ranges[i].last;

            if (together && offset[i] < offset[s] + bytes[s] && offset[s] < offset[i] + bytes[i]) {
                offset[s] = offset[i] + bytes[i];
                moved = true;
            }
        }
    }
    return offset[s] + bytes[s];
}

/* Signs are shared by slots of one rotation. */
static upg_status find_signs(cpu_backend *b, uint32_t s, upg_error *err)
{
    const upg_slot *slots = b->program->slots;
    float          *signs;

    for (uint32_t i = 0; i < s; i++)
        if (b->slots[i].signs != NULL &&
            upg_prepared_equal(&slots[i].prepared, &slots[s].prepared)) {
            b->slots[s].signs = b->slots[i].signs;
            return UPG_OK;
        }
    signs = upg_cpu_alloc(b, slots[s].width, sizeof *signs, err);
    if (signs == NULL)
        return UPG_E_NOMEM;
    upg_rotation_signs(&slots[s].prepared.rotation, signs);
    b->slots[s].signs = signs;
    return UPG_OK;
}

static upg_status bind_slot(cpu_backend *b, uint32_t s, uint8_t *memory, upg_error *err)
{
    const upg_slot *slot = &b->program->slots[s];
    cpu_slot       *bound = &b->slots[s];

    bound->stride = slot_stride(slot);
    if (slot->kind != UPG_SLOT_PREPARED || !slot->prepared.rotated) {
        bound->values = (float *)(void *)memory;
        return UPG_OK;
    }
    bound->codes = (int8_t *)memory;
    memory += round_up(b->max_rows * bound->stride, 64);
    bound->scales = (float *)(void *)memory;
    memory += round_up(b->max_rows * sizeof(float), 64);
    bound->values = slot->prepared.keep_plain ? (float *)(void *)memory : NULL;
    return find_signs(b, s, err);
}

static upg_status allocate_slots(cpu_backend *b, upg_error *err)
{
    uint32_t        n = b->program->n_slots;
    upg_live_range *ranges = upg_malloc(n, sizeof *ranges, err);
    size_t         *bytes = upg_malloc(n, sizeof *bytes, err);
    size_t         *offset = upg_malloc(n, sizeof *offset, err);
    size_t          total = 0;
    upg_status      st;

    UPG_TRY(ranges && bytes && offset ? UPG_OK : UPG_E_NOMEM);
    upg_live_ranges(b->program->ops, b->program->n_ops, n, ranges);
    for (uint32_t s = 0; s < n; s++) {
        size_t end;

        bytes[s] = slot_bytes(&b->program->slots[s], b->max_rows);
        end = place_slot(ranges, bytes, offset, s);
        total = end > total ? end : total;
    }
    b->slots = upg_cpu_alloc(b, n, sizeof *b->slots, err);
    b->arena = upg_cpu_alloc(b, total, 1, err);
    UPG_TRY(b->slots && b->arena ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t s = 0; s < n; s++)
        UPG_TRY(bind_slot(b, s, b->arena + offset[s], err));
out:
    upg_free(ranges);
    upg_free(bytes);
    upg_free(offset);
    return st;
}

static upg_status find_embed_signs(cpu_backend *b, upg_error *err)
{
    const upg_matrix *embed = &b->program->weights->embed;
    float            *signs;

    if (embed->kind != UPG_MATRIX_CODED)
        return UPG_OK;
    b->embed_signs = signs = upg_cpu_alloc(b, embed->n_cols, sizeof *signs, err);
    if (signs == NULL)
        return UPG_E_NOMEM;
    upg_rotation_signs(&embed->coded->rotation, signs);
    return UPG_OK;
}

/* ---- scratch -------------------------------------------------------------------------------- */

/* The largest sizes over all ops. */
typedef struct extent {
    size_t coded_cols; /* widest coded input */
    size_t all_cols;   /* widest row of any matrix: embedding rows are decoded whole */
    size_t u_words;    /* binary rows of the matrices of one op, each band rounded up to 64 */
    size_t result;     /* rows of one piece of bits */
    bool   wide_sums;  /* some coded row can pass int32 */
} extent;

static bool passes_int32(const upg_band *band, uint32_t n_cols)
{
    int64_t taps = 0;

    for (int i = 0; i < band->code.length; i++)
        taps += band->code.taps[i] < 0 ? -band->code.taps[i] : band->code.taps[i];
    return taps * 127 * (int64_t)n_cols > INT32_MAX;
}

static void measure_op(const cpu_backend *b, uint32_t op, extent *e)
{
    const cpu_plan *plan = &b->plans[op];
    size_t          u_words = 0;

    for (int w = 0; w < 3; w++) {
        const upg_matrix *m = b->program->ops[op].w[w];

        if (m == NULL)
            continue;
        e->all_cols = m->n_cols > e->all_cols ? m->n_cols : e->all_cols;
        if (m->kind != UPG_MATRIX_CODED)
            continue;
        e->coded_cols = m->n_cols > e->coded_cols ? m->n_cols : e->coded_cols;
        for (uint32_t i = 0; i < m->coded->n_bands; i++) {
            u_words += round_up(m->coded->bands[i].n_binary, UPG_BLOCK_ROWS);
            e->wide_sums |= passes_int32(&m->coded->bands[i], m->n_cols);
        }
    }
    if (b->program->ops[op].code != UPG_OP_EMBED)
        e->u_words = u_words > e->u_words ? u_words : e->u_words;
    for (uint32_t i = 0; i < plan->n_bits; i++) {
        const cpu_piece *p = &plan->bits[i];

        e->result = p->row1 - p->gap > e->result ? p->row1 - p->gap : e->result;
    }
}

/* Cuts memory into parts; without memory it only adds up what they take. */
typedef struct carver {
    uint8_t *memory;
    uint64_t used; /* UINT64_MAX: more than there can be */
} carver;

static void *carve(carver *c, uint64_t n, uint64_t size)
{
    void    *part = c->memory != NULL ? c->memory + c->used : NULL;
    uint64_t bytes;

    if (!upg_mul_u64(n, size, &bytes) || !upg_round_up_u64(bytes, 64, &bytes) ||
        !upg_add_u64(c->used, bytes, &c->used))
        c->used = UINT64_MAX;
    return part;
}

static void lay_out_worker(const cpu_backend *b, cpu_worker *worker, const extent *e, carver *c)
{
    const upg_model_config *config = &b->program->weights->config;
    size_t decoded = CPU_TILE_ROWS * (size_t)(CPU_TILE_COLUMNS + UPG_GROUP_COLUMNS);
    size_t tile = b->max_rows * (size_t)CPU_TILE_ROWS, result = tile;
    size_t queries = CPU_QUERIES * (size_t)(config->n_heads / config->n_kv_heads);
    size_t all = queries * config->n_kv_heads;

    if (decoded < round_up(e->all_cols, UPG_GROUP_COLUMNS))
        decoded = round_up(e->all_cols, UPG_GROUP_COLUMNS);
    if (result < e->result)
        result = e->result;
    worker->decoded = carve(c, decoded, sizeof *worker->decoded);
    worker->prepared =
        carve(c, b->max_rows < CPU_FEW_ROWS ? b->max_rows : CPU_FEW_ROWS, b->prepared_stride);
    worker->sums = carve(c, tile, sizeof *worker->sums);
    worker->totals = carve(c, e->wide_sums ? tile : 1, sizeof *worker->totals);
    worker->result = carve(c, result, sizeof *worker->result);
    worker->query = carve(c, all * config->head_dim, sizeof(float));
    worker->score = carve(c, queries * UPG_PAGE_TOKENS, sizeof(float));
    worker->part = carve(c, all * config->head_dim, sizeof(float));
    worker->softmax = carve(c, all, sizeof *worker->softmax);
    worker->total = carve(c, queries * config->head_dim, sizeof(float));
    worker->total_softmax = carve(c, queries, sizeof *worker->softmax);
}

static upg_status allocate_worker(cpu_backend *b, cpu_worker *worker, const extent *e,
                                  upg_error *err)
{
    carver c = { 0 };

    lay_out_worker(b, worker, e, &c);
    worker->memory_bytes = (size_t)c.used;
    c.memory = worker->memory = take(b, worker->memory_bytes, 1, false, err);
    c.used = 0;
    if (c.memory == NULL)
        return UPG_E_NOMEM;
    lay_out_worker(b, worker, e, &c);
    return UPG_OK;
}

/* On the worker's own thread: where memory is touched first, there it lies. */
static void clear_worker(void *context, uint32_t worker)
{
    cpu_backend *b = context;

    memset(b->workers[worker].memory, 0, b->workers[worker].memory_bytes);
}

static upg_status allocate_attention(cpu_backend *b, upg_error *err)
{
    const upg_model_config *c = &b->program->weights->config;
    size_t                  half = c->rope.rotary_dims / 2, rows = b->max_rows;
    size_t                  few = rows < CPU_FEW_ROWS ? rows : CPU_FEW_ROWS, n;

    b->max_splits = (c->context + CPU_SPLIT_TOKENS - 1) / CPU_SPLIT_TOKENS;
    n = few * c->n_heads * b->max_splits;
    b->cosine = upg_cpu_alloc(b, rows * half, sizeof *b->cosine, err);
    b->sine = upg_cpu_alloc(b, rows * half, sizeof *b->sine, err);
    b->groups = upg_cpu_alloc(b, rows, sizeof *b->groups, err);
    b->split_values = upg_cpu_alloc(b, n * c->head_dim, sizeof *b->split_values, err);
    b->split_softmax = upg_cpu_alloc(b, n, sizeof *b->split_softmax, err);
    return b->cosine && b->sine && b->groups && b->split_values && b->split_softmax ? UPG_OK
                                                                                    : UPG_E_NOMEM;
}

static upg_status allocate_scratch(cpu_backend *b, const extent *e, upg_error *err)
{
    const upg_model_config *c = &b->program->weights->config;
    size_t                  rows = b->max_rows, few = rows < CPU_FEW_ROWS ? rows : CPU_FEW_ROWS;
    size_t                  width = (size_t)c->n_heads * c->head_dim,
           groups = upg_group_count((uint32_t)e->coded_cols);

    width = width < c->ffn ? c->ffn : width;
    width = width < c->hidden ? c->hidden : width;
    b->scratch_stride = round_up(width, 16) + 16;
    b->prepared_stride = groups * UPG_PREPARED_BYTES_PER_GROUP;
    b->u_stride = round_up(e->u_words, 16);
    b->wide_stride = groups * UPG_GROUP_COLUMNS + UPG_GROUP_COLUMNS;
    for (int i = 0; i < 2; i++)
        b->scratch[i] = upg_cpu_alloc(b, rows * b->scratch_stride, sizeof(float), err);
    for (int w = 0; w < 3; w++)
        b->outputs[w] = upg_cpu_alloc(b, rows, sizeof(float *), err);
    b->u = upg_cpu_alloc(b, few * b->u_stride, sizeof *b->u, err);
    b->wide = upg_cpu_alloc(b, e->coded_cols ? rows * b->wide_stride : 1, sizeof *b->wide, err);
    b->code_sums = upg_cpu_alloc(b, rows, sizeof *b->code_sums, err);
    return b->code_sums && b->scratch[0] && b->scratch[1] && b->outputs[0] && b->outputs[1] &&
                   b->outputs[2] && b->u && b->wide
               ? UPG_OK
               : UPG_E_NOMEM;
}

upg_status upg_cpu_allocate(cpu_backend *b, upg_error *err)
{
    extent     e = { 0 };
    upg_status st;

    for (uint32_t op = 0; op < b->program->n_ops; op++)
        measure_op(b, op, &e);
    UPG_TRY(allocate_slots(b, err));
    UPG_TRY(find_embed_signs(b, err));
    UPG_TRY(allocate_scratch(b, &e, err));
    UPG_TRY(allocate_attention(b, err));
    b->workers = upg_cpu_alloc(b, b->threads, sizeof *b->workers, err);
    UPG_TRY(b->workers ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < b->threads; i++)
        UPG_TRY(allocate_worker(b, &b->workers[i], &e, err));
    upg_pool_run_each(b->pool, clear_worker, b);
out:
    return st;
}
