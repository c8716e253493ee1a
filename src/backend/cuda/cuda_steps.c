/* cuda_steps.c: a program as steps of the token kernel.
 *
 *     embed ─ (q k v ─ attention ─ o ─ gate, up ─ swiglu ─ down) … ─ head ─ sample
 *
 * Here is planned which rows each block owns of a product, as pieces of one band; which vectors the
 * steps exchange; and what of them a token finds empty. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "base/alloc.h"

enum { STEPS_PER_LAYER = 6, STEPS_OUTSIDE = 3, MAX_SPLITS = 64, TAIL = 16 };
enum { MAX_LOG_BLOCK = 10, MIN_LOG_ITEM = 5, MAX_LOG_ITEM = 12, CODES_TOGETHER = 32 };

static uint32_t log2_of(uint32_t block)
{
    uint32_t log = 0;

    while (1u << log < block)
        log++;
    return log;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* ---- rows of a block ----------------------------------------------------------------------------
 */

static uint32_t bits_before(const cu_band *b, uint32_t r)
{
    return (r + 1) / 2 * b->k0 + r / 2 * b->k1;
}

/* Index of row r's newest bit among the op's binary rows. */
static uint32_t newest(const cu_band *b, uint32_t r)
{
    return b->u0 + b->length - b->k0 + bits_before(b, r + 1) - 1u;
}

/* The first row whose newest bit is `bit` or behind it; n_rows where there is none. */
static uint32_t first_row(const cu_band *b, uint32_t bit)
{
    uint32_t low = 0, high = b->n_rows;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (newest(b, middle) < bit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* First row tile of a block (cuda_shared.h). */
static uint32_t first_tile(const cu_product *p, uint32_t cta, uint32_t n_ctas)
{
    return (uint32_t)((uint64_t)(p->n_u / CU_TILE_ROWS) * cta / n_ctas);
}

/* The block whose sums end in front of row tile `tile`. */
static uint32_t owner_in_front(const cu_product *p, uint32_t tile, uint32_t n_ctas)
{
    return (uint32_t)(((uint64_t)tile * n_ctas - 1) / (p->n_u / CU_TILE_ROWS));
}

/* What a block owns of an op: up to CU_MAX_PIECES pieces, if `to` is given; returns how many. */
static uint32_t plan_pieces(const cuda_op *bound, uint32_t cta, uint32_t n_ctas, cu_piece *to,
                            uint32_t *n_rows)
{
    const cu_product *p = &bound->product;
    uint32_t          begin = first_tile(p, cta, n_ctas) * CU_TILE_ROWS, n = 0;
    uint32_t          end = first_tile(p, cta + 1, n_ctas) * CU_TILE_ROWS;

    *n_rows = 0;
    for (uint32_t i = 0; i < p->n_bands; i++) {
        const cu_band *b = &bound->bands[i];
        uint32_t       low = first_row(b, begin), high = first_row(b, end);

        if (low == high)
            continue;
        if (to) {
            to[n] = (cu_piece) { .scales = b->scales ? b->scales + low : NULL,
                                 .newest0 = TAIL + newest(b, low) - begin,
                                 .out0 = b->row0 + low,
                                 .n_rows = high - low,
                                 .local0 = *n_rows,
                                 .ka = low % 2 ? b->k0 : b->k1,
                                 .kb = low % 2 ? b->k1 : b->k0,
                                 .length = b->length,
                                 .narrow = !b->wide && b->length <= 12,
                                 .tail_from = UINT32_MAX,
                                 .gain = b->gain };
            for (int t = 0; t < CU_MAX_TAPS; t++)
                to[n].taps[t] = b->taps[t];
            if (n == 0 && begin > b->u0)
                to[0].tail_from = owner_in_front(p, begin / CU_TILE_ROWS, n_ctas);
        }
        n++;
        *n_rows += high - low;
    }
    return n;
}

/* ---- vectors ------------------------------------------------------------------------------------
 */

/* x' in tiles of 256 inputs. */
static uint32_t padded_width(uint32_t n)
{
    return (n + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS * CU_TILE_COLUMNS;
}

/* Where input j lies in the order of products: place_of in cuda_math.cuh. */
static uint32_t place_of(uint32_t j)
{
    uint32_t word = (j >> 5 & 3) * 16 + (j & 7) * 2 + (j >> 7 & 1);

    return (j & ~255u) + word * 4 + (j >> 3 & 3);
}

/* A vector that is found empty: all bits set (cuda_math.cuh). */
static cu_vector lay_words(cuda_backend *b, uint32_t stride, uint32_t turns)
{
    size_t      at = b->blob_used, bytes = (size_t)CU_SETS * stride * sizeof(float);
    const void *device = upg_cuda_table(b, NULL, bytes);

    if (b->blob)
        memset(b->blob + at, 0xFF, bytes);
    return (cu_vector) { .words = (float *)(uintptr_t)device, .stride = stride, .turns = turns };
}

/* n words of fp32; those up to the next multiple of 4 stay zero. */
static cu_vector lay_vector(cuda_backend *b, uint32_t n, uint32_t turns)
{
    size_t    at = b->blob_used;
    cu_vector v = lay_words(b, (n + 3) & ~3u, turns);

    for (uint32_t set = 0; set < CU_SETS && b->blob; set++)
        memset(b->blob + at + 4 * ((size_t)set * v.stride + n), 0, 4 * (size_t)(v.stride - n));
    return v;
}

/* n int8 codes in the order of products, four to a word; words of inputs past n, of which nobody
 * writes any, say 0: raised in cuda_items.cuh. */
static cu_vector lay_codes(cuda_backend *b, uint32_t n, uint32_t turns)
{
    size_t    at = b->blob_used;
    uint32_t  end = (n + CODES_TOGETHER - 1) / CODES_TOGETHER * CODES_TOGETHER;
    cu_vector v = lay_words(b, padded_width(n) / 4, turns);

    for (uint32_t set = 0; set < CU_SETS && b->blob; set++)
        for (uint32_t j = end; j < padded_width(n); j++)
            memset(b->blob + at + 4 * (size_t)set * v.stride + place_of(j), 0x7F, 1);
    return v;
}

static cu_vector at_turn(cu_vector v, uint32_t turn)
{
    v.turn = turn;
    return v;
}

/* ---- steps --------------------------------------------------------------------------------------
 */

enum { QKV, O, GATE_UP, DOWN, HEAD, N_PRODUCTS };

typedef struct planner {
    cuda_backend *b;
    uint32_t      n_steps, n_products, n_layers, layer, log_item;
    bool          fits;
    cu_vector     stream, middle; /* residual between layers, and within one */
    cu_vector qkv, partial, softmax, mixed, gate_up, ffn, maxima, best, token, tails[N_PRODUCTS];
    const cuda_op *norm;
} planner;

static cu_step *add_step(planner *p, cu_step_kind kind)
{
    cu_step *s = &p->b->steps[p->n_steps++];

    *s = (cu_step) { .kind = (int32_t)kind, .layer = p->layer };
    return s;
}

/* Turns of vectors that each layer writes once. */
static cu_vector by_layer(const planner *p, cu_vector v)
{
    return at_turn(v, p->layer);
}

static void bind_rotation(const planner *p, uint16_t slot, cu_step *s)
{
    const upg_slot *of = &p->b->program->slots[slot];

    s->width = of->width;
    s->log_block = log2_of(of->prepared.rotation.block);
    s->factor = p->b->slots[slot].prepared.signs;
}

static cu_step *add_product(planner *p, const cuda_op *bound, uint16_t slot, uint32_t which)
{
    cuda_backend *b = p->b;
    cu_step      *s = add_step(p, CU_STEP_PRODUCT);
    uint32_t      n_tiles = 0, words, n_k = bound->product.n_ktiles;

    bind_rotation(p, slot, s);
    s->product = p->n_products++;
    s->tails = which == HEAD ? p->tails[which] : by_layer(p, p->tails[which]);
    s->rounded = which == DOWN;
    p->fits = p->fits && s->width % 4 == 0;
    if (which == QKV || which == GATE_UP || which == HEAD) {
        s->normed = true;
        s->factor = p->norm->signed_norm;
    }
    s->generation = which == HEAD ? p->n_layers + 1 : p->layer + 1;
    s->checks = which == QKV || which == HEAD;
    s->arrives = which == GATE_UP || which == HEAD;
    s->rows_to = which == HEAD                 ? CU_ROWS_BEST
                 : which == O || which == DOWN ? CU_ROWS_ADD
                                               : CU_ROWS_OUT;
    for (uint32_t c = 0; c < b->n_ctas; c++) {
        uint32_t n_rows, n = plan_pieces(bound, c, b->n_ctas, NULL, &n_rows);

        b->token.n_pieces = max_u32(b->token.n_pieces, n);
        b->token.y_words = max_u32(b->token.y_words, 2 * n_rows);
        n_tiles = max_u32(n_tiles, first_tile(&bound->product, c + 1, b->n_ctas) -
                                       first_tile(&bound->product, c, b->n_ctas));
    }
    words = TAIL + CU_TILE_ROWS * n_tiles; /* u, and ahead of it the padded vector */
    if (!s->rounded)
        words = max_u32(words, n_k * CU_TILE_COLUMNS + n_k * CU_TILE_COLUMNS / 16 + 1);
    s->codes_at = (words + 3) & ~3u;
    b->token.staged_words = max_u32(b->token.staged_words, s->codes_at + n_k * CU_CODE_WORDS);
    return s;
}

static void add_embed(planner *p, const upg_op *op)
{
    cu_step          *s = add_step(p, CU_STEP_EMBED);
    const upg_matrix *m = op->w[0];

    s->log_block = m->kind == UPG_MATRIX_DENSE ? 0 : p->b->embedding.log_block;
    s->width = m->n_cols;
    while (m->kind == UPG_MATRIX_DENSE && s->log_block < 10 && s->width % (2u << s->log_block) == 0)
        s->log_block++;
    s->n_items = s->width >> s->log_block;
    s->in = at_turn(p->token, UINT32_MAX);
    s->out = at_turn(p->stream, 0);
}

static void add_attention(planner *p)
{
    const upg_model_config *c = &p->b->program->weights->config;
    cu_step                *s = add_step(p, CU_STEP_ATTENTION);

    s->n_items = c->n_kv_heads * p->b->token.n_splits;
    p->fits = p->fits && c->head_dim % 4 == 0;
    s->in = by_layer(p, p->qkv);
    s->out = by_layer(p, p->mixed);
    s->partial = by_layer(p, p->partial);
    s->softmax = by_layer(p, p->softmax);
}

static uint32_t items_of(uint32_t width, uint32_t log_item)
{
    return (width + (1u << log_item) - 1) >> log_item;
}

static void add_gate_up(planner *p, const upg_op *op, const cuda_op *bound, uint16_t slot)
{
    cu_step *s = add_product(p, bound, slot, GATE_UP);

    s->in = by_layer(p, p->middle);
    s->out = by_layer(p, p->gate_up);
    s = add_step(p, CU_STEP_SWIGLU);
    bind_rotation(p, op->out, s);
    s->log_item = p->log_item;
    s->n_items = items_of(s->width, p->log_item);
    s->maxima = by_layer(p, p->maxima);
    s->up0 = bound->product.row0[1];
    s->in = by_layer(p, p->gate_up);
    s->out = by_layer(p, p->ffn);
}

static void add_head(planner *p, const cuda_op *bound, uint16_t slot)
{
    cu_step *s = add_product(p, bound, slot, HEAD);

    s->in = at_turn(p->stream, p->n_layers);
    s->out = p->best;
    s = add_step(p, CU_STEP_SAMPLE);
    s->n_items = 1;
    s->in = p->best;
    s->out = p->token;
}

static void add_residual(planner *p, const upg_op *op, const cuda_op *bound, bool attention)
{
    cu_step *s = add_product(p, bound, op->in, attention ? O : DOWN);

    if (attention) {
        s->in = by_layer(p, p->mixed);
        s->residual = at_turn(p->stream, p->layer);
        s->out = by_layer(p, p->middle);
        return;
    }
    s->in = by_layer(p, p->ffn);
    s->maxima = by_layer(p, p->maxima);
    s->log_item = p->log_item;
    s->residual = by_layer(p, p->middle);
    s->out = at_turn(p->stream, p->layer + 1);
    p->layer++;
}

static void add_op(planner *p, const upg_op *op, const cuda_op *bound, bool *attention)
{
    cu_step *s;

    switch (op->code) {
    case UPG_OP_EMBED:
        add_embed(p, op);
        break;
    case UPG_OP_NORM_PREPARE:
        p->norm = bound;
        break;
    case UPG_OP_QKV_ROPE:
        s = add_product(p, bound, op->in, QKV);
        s->in = at_turn(p->stream, p->layer);
        s->out = by_layer(p, p->qkv);
        break;
    case UPG_OP_ATTENTION:
        add_attention(p);
        *attention = true;
        break;
    case UPG_OP_GEMV_ADD:
        add_residual(p, op, bound, *attention);
        break;
    case UPG_OP_GATE_UP:
        add_gate_up(p, op, bound, op->in);
        *attention = false;
        break;
    case UPG_OP_LOGITS:
        add_head(p, bound, op->in);
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

static void lay_vectors(planner *p)
{
    cuda_backend           *b = p->b;
    const upg_model_config *c = &b->program->weights->config;
    uint32_t                n = p->n_layers, n_parts = c->n_heads * b->token.n_splits;

    p->stream = lay_vector(b, c->hidden, n + 1);
    p->middle = lay_vector(b, c->hidden, n);
    p->qkv = lay_vector(b, (c->n_heads + 2 * c->n_kv_heads) * c->head_dim, n);
    p->partial = lay_vector(b, n_parts * c->head_dim, n);
    p->softmax = lay_vector(b, 2 * n_parts, n);
    p->mixed = lay_vector(b, c->n_heads * c->head_dim, n);
    p->gate_up = lay_vector(b, 2 * c->ffn, n);
    p->ffn = lay_codes(b, c->ffn, n);
    p->log_item = log2_of(c->ffn & (~c->ffn + 1u));
    p->log_item = p->log_item > MAX_LOG_BLOCK  ? MAX_LOG_BLOCK
                  : p->log_item < MIN_LOG_ITEM ? MIN_LOG_ITEM
                                               : p->log_item;
    while (items_of(c->ffn, p->log_item) > b->n_ctas)
        p->log_item++; /* all items wait for each other */
    p->fits = p->log_item <= MAX_LOG_ITEM;
    p->maxima = lay_vector(b, items_of(c->ffn, p->log_item) + 1, n);
    p->best = lay_vector(b, 2 * b->n_ctas, 1);
    p->token = lay_vector(b, 1, 1);
    for (uint32_t i = 0; i < N_PRODUCTS; i++)
        p->tails[i] = lay_vector(b, TAIL * b->n_ctas, i == HEAD ? 1 : n);
}

static void take_memory(cuda_backend *b)
{
    const upg_model_config *c = &b->program->weights->config;
    cu_token_args          *t = &b->token;

    t->n_layers = c->n_layers;
    t->n_pieces = t->max_ktiles = 0;
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        t->max_ktiles = max_u32(t->max_ktiles, b->ops[i].product.n_ktiles);
    t->tape = b->tape;
    t->pages = b->pages;
    t->embedding = b->embedding;
    t->inv_freq = b->inv_freq;
    t->long_inv_freq = b->long_inv_freq;
    t->attention_scaling = c->rope.attention_scaling;
    t->norm_eps = c->norm_eps;
    t->logits = b->logits;
    t->n_splits = b->n_ctas / c->n_kv_heads;
    t->n_splits = t->n_splits == 0 ? 1 : t->n_splits > MAX_SPLITS ? MAX_SPLITS : t->n_splits;
    t->tokens_out = upg_cuda_take(b, CUDA_MAX_TOKENS * sizeof(int32_t));
    t->arrivals =
        (uint32_t *)(uintptr_t)upg_cuda_table(b, NULL, (CU_TOKENS_DONE + 1) * sizeof(uint32_t));
    t->state = upg_cuda_take(b, sizeof *t->state);
    t->y_words = (c->n_heads / c->n_kv_heads + 2) * c->head_dim;
    t->staged_words = max_u32(
        CU_STAGED_WORDS, /* and the shares of splits, and what they share out */
        (c->n_heads / c->n_kv_heads + 1) * t->n_splits + c->n_heads / c->n_kv_heads * c->head_dim);
}

/* Steps with copies of their products. */
static const cu_record *lay_records(cuda_backend *b)
{
    const cu_record *first = NULL;

    for (uint32_t i = 0; i < b->n_steps; i++) {
        cu_record        r = { .step = b->steps[i] };
        const cu_record *at;

        if (b->steps[i].kind == CU_STEP_PRODUCT)
            r.product = product_at(b, b->steps[i].product)->product;
        at = upg_cuda_table(b, &r, sizeof r);
        first = i == 0 ? at : first;
    }
    return first;
}

static const cu_piece *lay_pieces(cuda_backend *b)
{
    size_t          each = b->token.n_pieces, at = b->blob_used;
    const cu_piece *first =
        upg_cuda_table(b, NULL, b->n_products * b->n_ctas * each * sizeof *first);

    for (uint32_t i = 0; i < b->n_products && b->blob; i++)
        for (uint32_t c = 0; c < b->n_ctas; c++) {
            cu_piece own[CU_MAX_PIECES] = { { .tail_from = UINT32_MAX } };
            uint32_t n_rows;

            (void)plan_pieces(product_at(b, i), c, b->n_ctas, own, &n_rows);
            memcpy(b->blob + at + ((size_t)i * b->n_ctas + c) * each * sizeof *own, own,
                   each * sizeof *own);
        }
    return first;
}

bool upg_cuda_plan_steps(cuda_backend *b)
{
    planner p = { .b = b, .n_layers = b->program->weights->config.n_layers };
    bool    attention = false;

    if (!all_coded(b))
        return false;
    b->n_products = 4 * p.n_layers + 1;
    if (!b->steps)
        b->steps = upg_calloc(STEPS_OUTSIDE + (size_t)STEPS_PER_LAYER * p.n_layers,
                              sizeof *b->steps, NULL);
    if (!b->steps)
        return false;
    take_memory(b);
    lay_vectors(&p);
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        add_op(&p, &b->program->ops[i], &b->ops[i], &attention);
    b->n_steps = p.n_steps;
    if (!p.fits || b->token.n_pieces > CU_MAX_PIECES)
        return false;
    b->token.y_words = (b->token.y_words + 3) & ~3u;
    b->token.staged_words = (b->token.staged_words + 3) & ~3u;
    b->token.pieces = lay_pieces(b);
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

/* Pages on their way at once: amid tiles 6 (45 KiB for each SM, twice what bandwidth times latency
 * asks for); between products, while blocks wait for each other's words, 2: what exceeds it stands
 * in line in front of these. Measured on an H100 (tok/s at empty context): 4 and 4 361, 12 and 3
 * 364, 8 and 3 365, 6 and 2 368; a little later 6 and 2 377, 8 and 2 374, 6 and 1 374. */
enum { PAGES_IN_FLIGHT = 6, PAGES_CALM = 2 };

void upg_cuda_choose_in_flight(cu_token_args *t)
{
    t->n_in_flight = t->n_pages_ring < PAGES_IN_FLIGHT ? t->n_pages_ring : PAGES_IN_FLIGHT;
    t->n_calm = t->n_pages_ring < PAGES_CALM ? t->n_pages_ring : PAGES_CALM;
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
    if (!one_launch && t->draw.on)
        return upg_fail(err, UPG_E_UNSUPPORTED, "tokens are drawn in one launch only");
    if (one_launch) {
        t->first_step = 0;
        t->end_step = b->n_steps;
        t->tape_begin = b->step_tiles;
        t->tape_end = b->step_tiles + (size_t)b->n_products * b->n_ctas;
        e = cu_launch_token(t, true, false, b->stream);
    } else {
        for (uint32_t i = 0; e == cudaSuccess && i < n_tokens; i++)
            e = launch_each(b);
    }
    return e == cudaSuccess ? UPG_OK : upg_cuda_check(e, "launching the token kernel", err);
}
