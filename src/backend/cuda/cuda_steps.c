/* cuda_steps.c: a program as steps of the token kernel.
 *
 *     qkv ─ attention ─ merge ─ o ─ gate, up ─ swiglu ─ down ─ … ─ head ─ logits ─ sample
 *
 * Each product's step prepares its own input: from the residual (to which the product before is
 * added on the way), or from a rotated vector that merge or swiglu left. */
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "base/alloc.h"

enum { STEPS_PER_LAYER = 7, STEPS_OUTSIDE = 3, MAX_SPLITS = 64 };

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

/* ---- steps ------------------------------------------------------------------------------------
 */

typedef struct planner {
    cuda_backend  *b;
    uint32_t       n_steps, n_products;
    const cuda_op *last;     /* whose u is the newest */
    const cuda_op *residual; /* whose u is still to be added to the residual; NULL: none */
    const cuda_op *norm;     /* NORM_PREPARE ahead of a product */
    const upg_op  *norm_op;
    uint32_t       turn; /* which residual buffer holds the newest values */
} planner;

static cu_step *add_step(planner *p, cu_step_kind kind, uint32_t layer)
{
    cu_step *s = &p->b->steps[p->n_steps++];

    *s = (cu_step) { .kind = (int32_t)kind, .layer = layer };
    return s;
}

static void rotation_of(const cuda_backend *b, uint16_t slot, cu_step *s)
{
    const upg_slot *of = &b->program->slots[slot];

    s->width = of->width;
    s->log_block = log2_of(of->prepared.rotation.block);
    s->signs = b->slots[slot].prepared.signs;
}

/* What every product's step has: where u and scale go. */
static void bind_product(planner *p, const cuda_op *bound, cu_step *s)
{
    cuda_backend *b = p->b;
    uint32_t      i = p->n_products++, n = b->n_products;

    s->product = bound->on_device;
    s->u = b->u_token[buffer_of(i, n)];
    s->u_clear = b->u_token[buffer_of(i + 1, n)];
    s->scale_out = b->scale ? b->scale + i : NULL;
    p->last = bound;
}

/* The newest product as what a step reads. */
static void bind_source(planner *p, const cuda_op *bound, cu_step *s)
{
    cuda_backend *b = p->b;

    s->source = bound->on_device;
    s->u_in = b->u_token[buffer_of(p->n_products - 1, b->n_products)];
    s->scale_in = b->scale ? b->scale + p->n_products - 1 : NULL;
}

static void add_from_residual(planner *p, const upg_op *op, const cuda_op *bound)
{
    cuda_backend *b = p->b;
    cu_step      *s = add_step(p, p->residual ? CU_STEP_NORM : CU_STEP_EMBED, op->layer);

    rotation_of(b, p->norm_op->out, s);
    s->norm = p->norm->signed_norm;
    if (p->residual)
        bind_source(p, p->residual, s);
    s->residual_in = b->residual[p->turn];
    p->turn ^= 1;
    s->residual_out = b->residual[p->turn];
    bind_product(p, bound, s);
}

/* An op that leaves a rotated vector: attention's merge, swiglu. */
static void add_rotated(planner *p, const upg_op *op, cu_step_kind kind, uint32_t which)
{
    cu_step *s = add_step(p, kind, op->layer);

    rotation_of(p->b, op->out, s);
    if (kind == CU_STEP_SWIGLU)
        bind_source(p, p->last, s);
    s->rotated = p->b->rotated[which];
    s->block_max = p->b->block_max[which];
}

static void add_from_rotated(planner *p, const upg_op *op, const cuda_op *bound, uint32_t which)
{
    cu_step *s = add_step(p, CU_STEP_ROTATED, op->layer);

    rotation_of(p->b, op->in, s);
    s->rotated = p->b->rotated[which];
    s->block_max = p->b->block_max[which];
    bind_product(p, bound, s);
    p->residual = bound;
}

static void add_op(planner *p, const upg_op *op, const cuda_op *bound, uint32_t *which)
{
    cu_step *s;

    switch (op->code) {
    case UPG_OP_NORM_PREPARE:
        p->norm = bound;
        p->norm_op = op;
        break;
    case UPG_OP_QKV_ROPE:
        add_from_residual(p, op, bound);
        break;
    case UPG_OP_ATTENTION:
        s = add_step(p, CU_STEP_ATTENTION, op->layer);
        bind_source(p, p->last, s);
        add_rotated(p, op, CU_STEP_MERGE, *which = 0);
        break;
    case UPG_OP_GATE_UP:
        add_from_residual(p, op, bound);
        add_rotated(p, op, CU_STEP_SWIGLU, *which = 1);
        break;
    case UPG_OP_GEMV_ADD:
        add_from_rotated(p, op, bound, *which);
        break;
    case UPG_OP_LOGITS:
        add_from_residual(p, op, bound);
        s = add_step(p, CU_STEP_LOGITS, op->layer);
        bind_source(p, p->last, s);
        add_step(p, CU_STEP_SAMPLE, op->layer);
        break;
    case UPG_OP_EMBED:
    case UPG_OP_COUNT:
        break;
    }
}

/* The clearing of a product's buffer is the duty of the product before it. */
static void set_clearing(planner *p)
{
    cuda_backend *b = p->b;
    cu_step      *products[2] = { NULL, NULL };
    uint32_t      first_n_u = 0, k = 0;

    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        if (!b->ops[i].coded)
            continue;
        if (k == 0)
            first_n_u = b->ops[i].product.n_u;
        while (products[0] == NULL || products[0]->product == NULL)
            products[0] = products[0] ? products[0] + 1 : b->steps;
        if (products[1] != NULL)
            products[1]->n_clear = b->ops[i].product.n_u;
        products[1] = products[0]++;
        k++;
    }
    if (products[1] != NULL)
        products[1]->n_clear = first_n_u;
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

/* x' in tiles of 256 inputs; what lies past the width stays zero. */
static size_t rotated_bytes(uint32_t n)
{
    return (n + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS * CU_TILE_COLUMNS * sizeof(float);
}

static void take_memory(cuda_backend *b)
{
    const upg_model_config *c = &b->program->weights->config;
    cu_token_args          *t = &b->token;
    uint32_t                width = c->n_heads * c->head_dim, n_u = 0;

    t->max_ktiles = 0;
    t->max_width = max_u32(c->hidden, UPG_ROTATION_MAX_BLOCK);
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        n_u = max_u32(n_u, b->ops[i].product.n_u);
        t->max_ktiles = max_u32(t->max_ktiles, b->ops[i].product.n_ktiles);
    }
    b->u_token_bytes = (size_t)n_u * sizeof(int32_t);
    for (uint32_t i = 0; i < b->n_u_buffers; i++)
        b->u_token[i] = upg_cuda_take(b, (size_t)n_u * sizeof(int32_t));
    for (int i = 0; i < 2; i++) {
        uint32_t n = i == 0 ? width : c->ffn;

        b->residual[i] = upg_cuda_take(b, c->hidden * sizeof(float));
        b->rotated[i] = upg_cuda_take(b, rotated_bytes(n));
        b->block_max[i] = upg_cuda_take(b, n * sizeof(float));
    }
    b->scale = upg_cuda_take(b, b->n_products * sizeof(float));
    t->angles = upg_cuda_take(b, (c->rope.rotary_dims + 2) * sizeof(float));
    t->best_value = upg_cuda_take(b, b->n_ctas * sizeof(float));
    t->best_token = upg_cuda_take(b, b->n_ctas * sizeof(int32_t));
    t->tokens_out = upg_cuda_take(b, CUDA_MAX_TOKENS * sizeof(int32_t));
    t->barrier = upg_cuda_take(b, 256);
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

/* Host copies of the two products beside each step. */
static const cu_record *lay_records(cuda_backend *b)
{
    const cu_record *first = NULL;

    for (uint32_t i = 0; i < b->n_steps; i++) {
        cu_record        r = { .step = b->steps[i] };
        const cu_record *at;

        for (uint32_t k = 0; b->base && k < b->program->n_ops; k++) {
            const cuda_op *bound = &b->ops[k];

            if (bound->on_device != NULL && bound->on_device == r.step.product)
                r.product = bound->product;
            if (bound->on_device == NULL || bound->on_device != r.step.source)
                continue;
            r.source = bound->product;
            if (bound->product.n_bands <= CU_RECORD_BANDS)
                memcpy(r.bands, bound->bands, bound->product.n_bands * sizeof *bound->bands);
        }
        at = upg_cuda_table(b, &r, sizeof r);
        first = i == 0 ? at : first;
    }
    return first;
}

bool upg_cuda_plan_steps(cuda_backend *b)
{
    uint32_t n_layers = b->program->weights->config.n_layers, which = 0;
    planner  p = { .b = b };

    if (!all_coded(b))
        return false;
    if (!b->steps)
        b->steps =
            upg_calloc(STEPS_OUTSIDE + (size_t)STEPS_PER_LAYER * n_layers, sizeof *b->steps, NULL);
    if (!b->steps)
        return false;
    b->n_products = 4 * n_layers + 1;
    b->n_u_buffers = b->n_products <= 8 ? b->n_products : 4;
    take_memory(b);
    fill_args(b);
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        add_op(&p, &b->program->ops[i], &b->ops[i], &which);
    b->n_steps = p.n_steps;
    if (b->base)
        set_clearing(&p);
    b->token.records = lay_records(b);
    return true;
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
            e = cudaMemsetAsync(b->token.barrier, 0, 256, b->stream);
        if (e != cudaSuccess)
            return upg_cuda_check(e, "clearing device memory", err);
    }
    for (int i = 0; b->one_launch && i < 2; i++) {
        const upg_model_config *c = &b->program->weights->config;
        int                     e = cudaMemsetAsync(b->rotated[i], 0,
                                                    rotated_bytes(i ? c->ffn : c->n_heads * c->head_dim), b->stream);

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
        bool           multiplies = b->steps[i].product != NULL;

        t->first_step = i;
        t->end_step = i + 1;
        t->tape_begin = b->step_tiles + (size_t)product * b->n_ctas;
        product += multiplies;
        t->tape_end = b->step_tiles + (size_t)product * b->n_ctas;
        e = cu_launch_token(t, false, i > 0, b->stream);
    }
    return e;
}

upg_status upg_cuda_run_steps(cuda_backend *b, const upg_kv_layout *kv, uint32_t n_tokens,
                              bool one_launch, upg_error *err)
{
    cu_token_args *t = &b->token;
    int            e = cudaSuccess;

    t->kv = upg_cuda_kv(b, kv);
    t->n_pages_ring = b->ring_pages[kv->type];
    t->n_tokens = one_launch ? n_tokens : 1;
    if (one_launch) {
        t->first_step = 0;
        t->end_step = b->n_steps;
        t->tape_begin = b->step_tiles;
        t->tape_end = b->step_tiles + (size_t)b->n_products * b->n_ctas;
        t->barrier_base = b->barriers;
        e = cu_launch_token(t, true, false, b->stream);
        b->barriers += (b->n_steps * n_tokens - 1) * b->n_ctas;
    } else {
        for (uint32_t i = 0; e == cudaSuccess && i < n_tokens; i++)
            e = launch_each(b);
    }
    return e == cudaSuccess ? UPG_OK : upg_cuda_check(e, "launching the token kernel", err);
}
