/* cuda_steps.c: a program as steps of the token kernel.
 *
 *     norm ─ qkv ─ attention ─ merge ─ o ─ norm ─ gate, up ─ swiglu ─ down ─ … ─ head ─ logits ─
 * sample
 *
 * Products are multiplied by all blocks; what lies between them is made by few, one item each: a
 * rotation block, a part of a head's keys. Which rows of u an item reads is planned here, as pieces
 * of one band that fit a pass. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "base/alloc.h"

enum { STEPS_PER_LAYER = 9, STEPS_OUTSIDE = 4, MAX_SPLITS = 64, MAX_PASSES = 8, FIRST_WORD = 16 };

/* ---- which u buffer a product writes ----------------------------------------------------------
 */

/* Product i writes buffer buffer_of(i), clears that of i + 1 and reads that of i − 1, around the
 * cycle of all products: any three in a row differ. Cycles of 4 and of 3 make up every number from
 * 6 on; fewer products have a buffer each. */
static uint32_t buffer_of(uint32_t i, uint32_t n)
{
    uint32_t by_four = 4 * (n % 3);

    if (n <= 8)
        return i % n;
    return i % n < by_four ? i % n % 4 : (i % n - by_four) % 3;
}

static uint32_t log2_of(uint32_t block)
{
    uint32_t log = 0;

    while (1u << log < block)
        log++;
    return log;
}

/* ---- pieces of u that an item reads ------------------------------------------------------------
 */

typedef struct row_range {
    uint32_t row0, n;
} row_range;

/* The pieces of one item, pass by pass. */
typedef struct item_plan {
    cu_piece pieces[MAX_PASSES][CU_MAX_PIECES];
    uint32_t n_pieces[MAX_PASSES], n_passes;
    uint32_t rows, words, out; /* of the pass at hand; of the item so far */
    bool     fits;
} item_plan;

static uint32_t bits_before(const cu_band *b, uint32_t r)
{
    return (r + 1) / 2 * b->k0 + r / 2 * b->k1;
}

static uint32_t newest(const cu_band *b, uint32_t r)
{
    return b->length - b->k0 + bits_before(b, r + 1) - 1u;
}

/* Up to n rows of a band from `row` on, as many as the pass has room for; returns how many. */
static uint32_t add_piece(item_plan *plan, const cu_band *b, uint32_t row, uint32_t n)
{
    uint32_t  pass = plan->n_passes - 1, first = (b->u0 + newest(b, row) + 1 - b->length) & ~3u;
    uint32_t  room = CU_STAGED_WORDS - plan->words, left = CU_PASS_ROWS - plan->rows;
    cu_piece *p = &plan->pieces[pass][plan->n_pieces[pass]];

    n = n < left ? n : left;
    while (n > 0 && b->u0 + newest(b, row + n - 1) - first + 4 > room)
        n--;
    if (n == 0 || plan->n_pieces[pass] == CU_MAX_PIECES)
        return 0;
    *p = (cu_piece) { .scales = b->scales ? b->scales + row : NULL,
                      .first_word = first,
                      .n_vectors = (b->u0 + newest(b, row + n - 1) - first) / 4 + 1,
                      .staged = plan->words,
                      .newest0 = plan->words + b->u0 + newest(b, row) - first,
                      .out0 = plan->out,
                      .n_rows = n,
                      .ka = row % 2 ? b->k0 : b->k1,
                      .kb = row % 2 ? b->k1 : b->k0,
                      .length = b->length,
                      .narrow = !b->wide && b->length <= 12,
                      .gain = b->gain };
    for (int i = 0; i < CU_MAX_TAPS; i++)
        p->taps[i] = b->taps[i];
    plan->n_pieces[pass]++;
    plan->words += 4 * p->n_vectors;
    plan->rows += n;
    plan->out += n;
    return n;
}

static void next_pass(item_plan *plan)
{
    plan->fits = plan->fits && plan->n_passes < MAX_PASSES;
    if (!plan->fits)
        return;
    plan->n_pieces[plan->n_passes++] = 0;
    plan->rows = 0;
    plan->words = FIRST_WORD;
}

static void plan_item(const cuda_op *bound, const row_range *ranges, uint32_t n_ranges,
                      item_plan *plan)
{
    *plan = (item_plan) { .fits = true };
    next_pass(plan);
    for (uint32_t i = 0; i < n_ranges; i++)
        for (uint32_t row = ranges[i].row0, end = row + ranges[i].n; row < end && plan->fits;) {
            const cu_band *b = bound->bands;
            uint32_t       in_band, n;

            while (row >= b->row0 + b->n_rows)
                b++;
            in_band = b->row0 + b->n_rows < end ? b->row0 + b->n_rows - row : end - row;
            n = add_piece(plan, b, row - b->row0, in_band);
            if (n == 0)
                next_pass(plan);
            row += n;
        }
}

/* ---- steps --------------------------------------------------------------------------------------
 */

enum { QKV_VECTOR, ATTENTION_VECTOR, GATE_VECTOR, FFN_VECTOR, HEAD_VECTOR, N_VECTORS };

typedef struct planner {
    cuda_backend  *b;
    uint32_t       n_steps, n_products;
    const cuda_op *last;     /* whose u is the newest */
    const cuda_op *residual; /* whose u is still to be added to the residual; NULL: none */
    const cuda_op *norm;     /* NORM_PREPARE ahead of a product */
    const upg_op  *norm_op;
    uint32_t       turn; /* which residual buffer holds the newest values */
    item_plan      plan; /* of the item at hand */
    bool           fits;
    bool           laid[N_VECTORS];
} planner;

static cu_step *add_step(planner *p, cu_step_kind kind, uint32_t layer)
{
    cu_step *s = &p->b->steps[p->n_steps++];

    *s = (cu_step) { .kind = (int32_t)kind, .layer = layer };
    return s;
}

/* x' in tiles of 256 inputs. */
static uint32_t padded_width(uint32_t n)
{
    return (n + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS * CU_TILE_COLUMNS;
}

/* x' and its sums of squares, which a token finds empty: all bits set (cuda_math.cuh), but zero
 * past the width. */
static float *lay_vector(cuda_backend *b, uint32_t width, uint32_t n_blocks)
{
    uint32_t    n = padded_width(width);
    size_t      at = b->blob_used, bytes = ((size_t)n + 16 * n_blocks) * sizeof(float);
    const void *device = upg_cuda_table(b, NULL, bytes);

    if (b->blob)
        memset(b->blob + at, 0xFF, bytes);
    for (uint32_t j = width; j < n && b->blob; j++) {
        uint32_t word = (j >> 5 & 3) * 16 + (j & 7) * 2 + (j >> 7 & 1); /* place_of */

        memset(b->blob + at + 4 * (size_t)((j & ~255u) + word * 4 + (j >> 3 & 3)), 0, 4);
    }
    return (float *)(uintptr_t)device;
}

/* The rotation of a slot, and the buffers of x' there. */
static void bind_vector(planner *p, uint16_t slot, uint32_t which, cu_step *s)
{
    cuda_backend   *b = p->b;
    const upg_slot *of = &b->program->slots[slot];

    s->width = of->width;
    s->log_block = log2_of(of->prepared.rotation.block);
    s->factor = b->slots[slot].prepared.signs;
    if (!p->laid[which])
        b->rotated[which] = lay_vector(b, s->width, s->width >> s->log_block);
    p->laid[which] = true;
    s->rotated = b->rotated[which];
    s->sums = s->rotated ? s->rotated + padded_width(s->width) : NULL;
}

/* Rows of `item` of a step, of the product that it reads. */
static uint32_t ranges_of(const planner *p, const cu_step *s, const cuda_op *bound, uint32_t item,
                          row_range ranges[3])
{
    const upg_model_config *c = &p->b->program->weights->config;
    const cu_product       *product = &bound->product;
    uint32_t                n = 1u << s->log_block, shared = c->n_heads / c->n_kv_heads;

    switch (s->kind) {
    case CU_STEP_NORM:
        ranges[0] = (row_range) { item * n, n };
        return 1;
    case CU_STEP_SWIGLU:
        ranges[0] = (row_range) { item * n, n };
        ranges[1] = (row_range) { product->row0[1] + item * n, n };
        return 2;
    case CU_STEP_ATTENTION:
        ranges[0] = (row_range) { item * shared * c->head_dim, shared * c->head_dim };
        ranges[1] = (row_range) { product->row0[1] + item * c->head_dim, c->head_dim };
        ranges[2] = (row_range) { product->row0[2] + item * c->head_dim, c->head_dim };
        return 3;
    default:
        n = product->n_rows - item * CU_LOGIT_ITEM;
        ranges[0] = (row_range) { item * CU_LOGIT_ITEM, n < CU_LOGIT_ITEM ? n : CU_LOGIT_ITEM };
        return 1;
    }
}

/* The table of pieces of a step, n_entries items; two passes over them: sizes, then the table. */
static void bind_pieces(planner *p, const cuda_op *bound, uint32_t n_entries, cu_step *s)
{
    cuda_backend *b = p->b;
    size_t        each;

    s->u_in = b->u_token[buffer_of(p->n_products - 1, b->n_products)];
    s->scale_in = b->scale ? b->scale + p->n_products - 1 : NULL;
    for (uint32_t i = 0; i < n_entries && p->fits; i++) {
        row_range ranges[3];

        plan_item(bound, ranges, ranges_of(p, s, bound, i, ranges), &p->plan);
        p->fits = p->plan.fits;
        s->n_passes = p->plan.n_passes > s->n_passes ? p->plan.n_passes : s->n_passes;
        for (uint32_t k = 0; k < p->plan.n_passes; k++)
            s->n_pieces = p->plan.n_pieces[k] > s->n_pieces ? p->plan.n_pieces[k] : s->n_pieces;
        if (p->plan.out > b->token.y_words)
            b->token.y_words = (p->plan.out + 3) & ~3u;
    }
    each = (size_t)s->n_passes * s->n_pieces;
    p->fits = p->fits && each <= CU_MAX_PIECES;
    if (b->n_pieces < n_entries * each && p->fits) {
        upg_free(b->pieces);
        b->n_pieces = n_entries * each;
        b->pieces = upg_calloc(b->n_pieces, sizeof *b->pieces, NULL);
        p->fits = b->pieces != NULL;
    }
    for (uint32_t i = 0; i < n_entries && p->fits && b->blob; i++) {
        row_range ranges[3];

        plan_item(bound, ranges, ranges_of(p, s, bound, i, ranges), &p->plan);
        for (size_t k = 0; k < each; k++) {
            uint32_t pass = (uint32_t)(k / s->n_pieces), piece = (uint32_t)(k % s->n_pieces);
            bool     there = pass < p->plan.n_passes && piece < p->plan.n_pieces[pass];

            b->pieces[i * each + k] =
                there ? p->plan.pieces[pass][piece] : (cu_piece) { .out0 = UINT32_MAX, .gain = 1 };
        }
    }
    if (p->fits)
        s->pieces = upg_cuda_table(b, b->pieces, n_entries * each * sizeof *b->pieces);
}

static void add_product(planner *p, const upg_op *op, const cuda_op *bound, uint16_t slot,
                        uint32_t which, bool normed)
{
    cuda_backend *b = p->b;
    cu_step      *s = add_step(p, CU_STEP_PRODUCT, op->layer);
    uint32_t      i = p->n_products++, n = b->n_products;

    bind_vector(p, slot, which, s);
    s->normed = normed;
    s->u = b->u_token[buffer_of(i, n)];
    s->u_clear = b->u_token[buffer_of(i + 1, n)];
    s->scale_out = b->scale ? b->scale + i : NULL;
    p->last = bound;
}

/* Residual, norm and the product that reads it. */
static void add_from_residual(planner *p, const upg_op *op, const cuda_op *bound)
{
    cuda_backend *b = p->b;
    cu_step      *s = add_step(p, p->residual ? CU_STEP_NORM : CU_STEP_EMBED, op->layer);
    uint32_t      which = op->code == UPG_OP_QKV_ROPE  ? QKV_VECTOR
                          : op->code == UPG_OP_GATE_UP ? GATE_VECTOR
                                                       : HEAD_VECTOR;

    bind_vector(p, p->norm_op->out, which, s);
    s->factor = p->norm->signed_norm;
    s->n_items = s->width >> s->log_block;
    if (p->residual)
        bind_pieces(p, p->residual, s->n_items, s);
    s->residual_in = b->residual[p->turn];
    p->turn ^= 1;
    s->residual_out = b->residual[p->turn];
    add_product(p, op, bound, p->norm_op->out, which, true);
}

static void add_attention(planner *p, const upg_op *op)
{
    const upg_model_config *c = &p->b->program->weights->config;
    cu_step                *s = add_step(p, CU_STEP_ATTENTION, op->layer);

    s->n_items = c->n_kv_heads * p->b->token.n_splits;
    bind_pieces(p, p->last, c->n_kv_heads, s);
    s = add_step(p, CU_STEP_MERGE, op->layer);
    bind_vector(p, op->out, ATTENTION_VECTOR, s);
    s->n_items = s->width >> s->log_block;
}

static void add_swiglu(planner *p, const upg_op *op)
{
    cu_step *s = add_step(p, CU_STEP_SWIGLU, op->layer);

    bind_vector(p, op->out, FFN_VECTOR, s);
    s->n_items = s->width >> s->log_block;
    bind_pieces(p, p->last, s->n_items, s);
}

static void add_logits(planner *p, const upg_op *op)
{
    cu_step *s = add_step(p, CU_STEP_LOGITS, op->layer);
    uint32_t n = (op->w[0]->n_rows + CU_LOGIT_ITEM - 1) / CU_LOGIT_ITEM;

    s->width = op->w[0]->n_rows;
    s->n_items = n;
    bind_pieces(p, p->last, n, s);
    s = add_step(p, CU_STEP_SAMPLE, op->layer);
    s->width = n;
    s->n_items = 1;
}

static void add_op(planner *p, const upg_op *op, const cuda_op *bound, uint32_t *which)
{
    switch (op->code) {
    case UPG_OP_NORM_PREPARE:
        p->norm = bound;
        p->norm_op = op;
        break;
    case UPG_OP_QKV_ROPE:
        add_from_residual(p, op, bound);
        break;
    case UPG_OP_ATTENTION:
        add_attention(p, op);
        *which = ATTENTION_VECTOR;
        break;
    case UPG_OP_GATE_UP:
        add_from_residual(p, op, bound);
        add_swiglu(p, op);
        *which = FFN_VECTOR;
        break;
    case UPG_OP_GEMV_ADD:
        add_product(p, op, bound, op->in, *which, false);
        p->residual = bound;
        break;
    case UPG_OP_LOGITS:
        add_from_residual(p, op, bound);
        add_logits(p, op);
        break;
    default: /* EMBED comes before; plain ops are refused at open */
        break;
    }
}

/* The product of a step, by its number. */
static const cuda_op *product_at(const cuda_backend *b, uint32_t number)
{
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        if (b->ops[i].coded && number-- == 0)
            return &b->ops[i];
    return NULL;
}

/* Clearing a product's buffer is the duty of the product before it; its input is emptied by the
 * product behind it, when all blocks have read it. */
static void set_clearing(cuda_backend *b)
{
    const cu_step *before = NULL;

    for (uint32_t i = 0; i < b->n_steps; i++)
        if (b->steps[i].kind == CU_STEP_PRODUCT)
            before = &b->steps[i];
    for (uint32_t i = 0; i < b->n_steps; i++)
        if (b->steps[i].kind == CU_STEP_PRODUCT) {
            b->steps[i].stale = before->rotated;
            b->steps[i].stale_width = before->width;
            b->steps[i].stale_sums = before->width >> before->log_block << 4;
            before = &b->steps[i];
        }
    for (uint32_t i = 0, number = 0; i < b->n_steps; i++)
        if (b->steps[i].kind == CU_STEP_PRODUCT)
            b->steps[i].n_clear = product_at(b, ++number % b->n_products)->product.n_u;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static bool all_coded(const cuda_backend *b)
{
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];

        if (op->w[0] != NULL && op->code != UPG_OP_EMBED && !b->ops[i].coded)
            return false;
    }
    return true;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void take_memory(cuda_backend *b)
{
    const upg_model_config *c = &b->program->weights->config;
    cu_token_args          *t = &b->token;
    uint32_t                n_u = 0, n_logits = c->vocab / CU_LOGIT_ITEM + 1;

    t->max_ktiles = t->y_words = 0;
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        n_u = max_u32(n_u, b->ops[i].product.n_u);
        t->max_ktiles = max_u32(t->max_ktiles, b->ops[i].product.n_ktiles);
    }
    b->u_token_bytes = (size_t)n_u * sizeof(int32_t);
    for (uint32_t i = 0; i < b->n_u_buffers; i++)
        b->u_token[i] = upg_cuda_take(b, (size_t)n_u * sizeof(int32_t));
    for (int i = 0; i < 2; i++)
        b->residual[i] = upg_cuda_take(b, c->hidden * sizeof(float));
    b->scale = upg_cuda_take(b, b->n_products * sizeof(float));
    t->best_value = upg_cuda_take(b, n_logits * sizeof(float));
    t->best_token = upg_cuda_take(b, n_logits * sizeof(int32_t));
    t->tokens_out = upg_cuda_take(b, CUDA_MAX_TOKENS * sizeof(int32_t));
    t->barrier = upg_cuda_take(b, sizeof(uint32_t));
    t->state = upg_cuda_take(b, sizeof *t->state);
}

static void fill_args(cuda_backend *b)
{
    const upg_model_config *c = &b->program->weights->config;
    cu_token_args          *t = &b->token;

    t->tape = b->tape;
    t->pages = b->pages;
    t->embedding = b->embedding;
    t->inv_freq = b->inv_freq;
    t->long_inv_freq = b->long_inv_freq;
    t->attention_scaling = c->rope.attention_scaling;
    t->norm_eps = c->norm_eps;
    t->partial = b->partial;
    t->softmax = b->softmax;
    t->logits = b->logits;
    t->n_splits = b->n_ctas / c->n_kv_heads;
    t->n_splits = t->n_splits == 0 ? 1 : t->n_splits > MAX_SPLITS ? MAX_SPLITS : t->n_splits;
}

/* Steps with copies of their products. */
static const cu_record *lay_records(cuda_backend *b)
{
    const cu_record *first = NULL;

    for (uint32_t i = 0, number = 0; i < b->n_steps; i++) {
        cu_record        r = { .step = b->steps[i] };
        const cu_record *at;

        if (b->steps[i].kind == CU_STEP_PRODUCT)
            r.product = product_at(b, number++)->product;
        at = upg_cuda_table(b, &r, sizeof r);
        first = i == 0 ? at : first;
    }
    return first;
}

/* Shared memory that steps take in turn: u, codes, shares of splits, what attention's warps leave.
 */
static uint32_t staged_words(const cuda_backend *b)
{
    const upg_model_config *c = &b->program->weights->config;
    uint32_t                n = max_u32(CU_STAGED_WORDS, b->token.max_ktiles * CU_CODE_WORDS);

    n = max_u32(n, (UPG_ROTATION_MAX_BLOCK / c->head_dim + 2) * b->token.n_splits);
    return (n + 3) & ~3u;
}

bool upg_cuda_plan_steps(cuda_backend *b)
{
    uint32_t n_layers = b->program->weights->config.n_layers, which = 0;
    planner *p;
    bool     fits;

    if (!all_coded(b))
        return false;
    if (!b->steps)
        b->steps =
            upg_calloc(STEPS_OUTSIDE + (size_t)STEPS_PER_LAYER * n_layers, sizeof *b->steps, NULL);
    p = upg_calloc(1, sizeof *p, NULL);
    if (!b->steps || !p) {
        upg_free(p);
        return false;
    }
    p->b = b;
    p->fits = true;
    b->n_products = 4 * n_layers + 1;
    b->n_u_buffers = b->n_products <= 8 ? b->n_products : 4;
    take_memory(b);
    fill_args(b);
    b->token.staged_words = staged_words(b);
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        add_op(p, &b->program->ops[i], &b->ops[i], &which);
    fits = p->fits;
    b->n_steps = p->n_steps;
    upg_free(p);
    set_clearing(b);
    b->token.records = lay_records(b);
    return fits;
}

/* ---- running ----------------------------------------------------------------------------------
 */

upg_status upg_cuda_prepare_steps(cuda_backend *b, upg_error *err)
{
    for (int type = 0; b->one_launch && type < 3; type++) {
        upg_kv_layout kv = upg_kv_layout_make(&b->program->weights->config, (upg_kv_type)type);
        int           e;

        b->token.kv = upg_cuda_kv(b, &kv);
        e = cu_token_prepare(&b->token, b->shared_limit, &b->ring_pages[type]);
        if (e != cudaSuccess)
            return upg_cuda_check(e, "loading the token kernel", err);
        if (b->ring_pages[type] < 2)
            b->one_launch = false;
    }
    for (uint32_t i = 0; b->one_launch && i < b->n_u_buffers; i++) {
        int e = cudaMemsetAsync(b->u_token[i], 0, b->u_token_bytes, b->stream);

        if (e == cudaSuccess)
            e = cudaMemsetAsync(b->token.barrier, 0, sizeof(uint32_t), b->stream);
        if (e != cudaSuccess)
            return upg_cuda_check(e, "clearing device memory", err);
    }
    return UPG_OK;
}

/* Launches steps one by one: each begins where the tape of its product lies. */
static int launch_each(cuda_backend *b)
{
    uint32_t product = 0;
    int      e = cudaSuccess;

    for (uint32_t i = 0; e == cudaSuccess && i < b->n_steps; i++) {
        cu_token_args *t = &b->token;
        bool           multiplies = b->steps[i].kind == CU_STEP_PRODUCT;

        t->first_step = i;
        t->end_step = i + 1;
        t->tape_begin = b->step_tiles + (size_t)product * b->n_ctas;
        product += multiplies;
        t->tape_end = b->step_tiles + (size_t)product * b->n_ctas;
        e = cu_launch_token(t, false, i > 0, b->stream);
    }
    return e;
}

/* Arrivals of a launch of n tokens at the barrier: see meets and workers in cuda_token.cu. Nobody
 * arrives behind the last step. */
static uint32_t arrivals_of(const cuda_backend *b, uint32_t n_tokens)
{
    uint32_t n = 0, last = 0;

    for (uint32_t i = 0; i < b->n_steps; i++) {
        const cu_step *s = &b->steps[i];

        if (s->kind < CU_STEP_PRODUCT)
            continue;
        last = s->kind == CU_STEP_PRODUCT || s->n_items > b->n_ctas ? b->n_ctas : s->n_items;
        n += last;
    }
    return n * n_tokens - last;
}

/* Pages on their way at once. On an H100, 4 (30 KiB for each SM, 1.4 times what bandwidth times
 * latency asks for) read within 3 % of what 32 do, and what exceeds it stands in line in front of
 * what the blocks tell each other: 240 tok/s with 32, 243 with 8, 250 with 5, 253 with 4. */
enum { PAGES_IN_FLIGHT = 4 };

void upg_cuda_choose_in_flight(cu_token_args *t)
{
    t->n_in_flight = t->n_pages_ring < PAGES_IN_FLIGHT ? t->n_pages_ring : PAGES_IN_FLIGHT;
}

upg_status upg_cuda_run_steps(cuda_backend *b, const upg_kv_layout *kv, uint32_t n_tokens,
                              bool one_launch, upg_error *err)
{
    cu_token_args *t = &b->token;
    int            e = cudaSuccess;

    t->kv = upg_cuda_kv(b, kv);
    t->n_pages_ring = b->ring_pages[kv->type];
    upg_cuda_choose_in_flight(t);
    t->n_tokens = one_launch ? n_tokens : 1;
    if (one_launch) {
        t->first_step = 0;
        t->end_step = b->n_steps;
        t->tape_begin = b->step_tiles;
        t->tape_end = b->step_tiles + (size_t)b->n_products * b->n_ctas;
        t->barrier_base = b->arrivals;
        e = cu_launch_token(t, true, false, b->stream);
        b->arrivals += arrivals_of(b, n_tokens);
    } else {
        for (uint32_t i = 0; e == cudaSuccess && i < n_tokens; i++)
            e = launch_each(b);
    }
    return e == cudaSuccess ? UPG_OK : upg_cuda_check(e, "launching the token kernel", err);
}
