/* cpu_attention.c: softmax(q·Kᵀ/√d)·V over KV pages, online.
 *
 * The keys of a row are cut at fixed multiples of CPU_SPLIT_TOKENS. Each split has an online
 * softmax of its own over its pages (Milakov and Gimelshein, 2018); splits are merged in order.
 * Whether one worker runs the splits one after the other or several run them side by side, the
 * arithmetic is the same. Rows of one sequence with consecutive positions pass over a page together
 * (a group), and so do the query heads that share a KV head: K and V are read once for all of them.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"

/* Splits side by side: what a thread that others have left behind loses. */
enum { ITEMS_PER_THREAD = 4, PREFETCH_BYTES = 16384 };

typedef struct attention {
    cpu_backend     *b;
    const upg_batch *batch;
    uint32_t         layer;
    const cpu_slot  *q;
    uint32_t         n_heads, n_kv_heads, shared, head_dim; /* shared = heads for each KV head */
    uint32_t         n_splits; /* side by side; 0 = one worker runs them all */
    uint32_t         n_runs;   /* of KV heads, for each split */
} attention;

/* Keys that a row sees: [low, high). */
static uint32_t low_key(const attention *a, uint32_t position)
{
    uint32_t window = a->b->program->weights->config.sliding_window;

    return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

void upg_cpu_find_groups(cpu_backend *b, const upg_batch *batch)
{
    b->n_groups = 0;
    for (uint32_t i = 0; i < batch->n_rows; i++) {
        const upg_batch_row *row = &batch->rows[i];
        cpu_group           *last = b->n_groups ? &b->groups[b->n_groups - 1] : NULL;

        if (last != NULL && last->n < CPU_QUERIES && row[-1].kv == row->kv &&
            row[-1].position + 1 == row->position)
            last->n++;
        else
            b->groups[b->n_groups++] = (cpu_group) { i, 1 };
    }
}

static float largest(const float *x, uint32_t n)
{
    float lane[8], max;

    for (int l = 0; l < 8; l++)
        lane[l] = -INFINITY;
    for (; n >= 8; n -= 8, x += 8)
        for (int l = 0; l < 8; l++)
            lane[l] = x[l] > lane[l] ? x[l] : lane[l];
    max = lane[0];
    for (int l = 1; l < 8; l++)
        max = lane[l] > max ? lane[l] : max;
    for (uint32_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* One head's scores [64] of a page become weights: those of keys [begin, end) of the page, relative
 * to the softmax's maximum, which may rise; all others 0. */
static void weigh_page(const attention *a, float *score, uint32_t begin, uint32_t end,
                       cpu_softmax *softmax, float *values)
{
    float max = largest(score + begin, end - begin);

    if (max > softmax->max) {
        float factor = expf(softmax->max - max);

        softmax->max = max;
        softmax->sum *= factor;
        for (uint32_t d = 0; d < a->head_dim; d++)
            values[d] *= factor;
    }
    softmax->sum += a->b->kernels.exp_sum(end - begin, softmax->max, score + begin);
    memset(score, 0, begin * sizeof *score);
    memset(score + end, 0, (UPG_PAGE_TOKENS - end) * sizeof *score);
}

/* Queries of one group and KV head, and where their results grow. */
typedef struct queries {
    uint32_t     n;
    const float *query;   /* [n][head_dim] */
    float       *score;   /* [n][64] */
    cpu_softmax *softmax; /* [n] */
    float       *part;    /* [n][head_dim] */
} queries;

static queries queries_of(const attention *a, const cpu_group *group, uint32_t place,
                          const cpu_worker *worker)
{
    uint32_t n = group->n * a->shared;
    size_t   first = (size_t)place * n, at = first * a->head_dim;

    return (queries) { n, worker->query + at, worker->score, worker->softmax + first,
                       worker->part + at };
}

static void page_scores(const attention *a, const uint8_t *part, const queries *q, uint32_t n)
{
    const upg_kv_layout *layout = a->batch->kv_layout;
    const upg_kernels   *k = &a->b->kernels;
    float                scale = 1.0f / sqrtf((float)a->head_dim);
    const void          *elements = part;

    if (layout->type == UPG_KV_F16) {
        k->attention_scores(q->n, a->head_dim, n, q->query, elements, scale, q->score);
    } else if (layout->type == UPG_KV_I8) {
        k->attention_scores_i8(q->n, a->head_dim, n, q->query, elements,
                               upg_cpu_kv_scales(layout, part), scale, q->score);
    } else {
        k->gemm_f32(q->n, n, a->head_dim, q->query, a->head_dim, elements, a->head_dim, q->score,
                    UPG_PAGE_TOKENS);
        for (uint32_t h = 0; h < q->n; h++)
            for (uint32_t t = 0; t < n; t++)
                q->score[h * UPG_PAGE_TOKENS + t] *= scale;
    }
}

static void page_values(const attention *a, const uint8_t *part, const queries *q, uint32_t n)
{
    const upg_kv_layout *layout = a->batch->kv_layout;
    const upg_kernels   *k = &a->b->kernels;
    const void          *elements = part;
    const float         *v = elements;

    if (layout->type == UPG_KV_F16)
        k->attention_values(q->n, a->head_dim, n, q->score, elements, q->part);
    else if (layout->type == UPG_KV_I8)
        k->attention_values_i8(q->n, a->head_dim, n, q->score, elements,
                               upg_cpu_kv_scales(layout, part), q->part);
    for (uint32_t h = 0; h < q->n && layout->type == UPG_KV_F32; h++)
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t d = 0; d < a->head_dim; d++)
                q->part[h * a->head_dim + d] +=
                    q->score[h * UPG_PAGE_TOKENS + t] * v[t * a->head_dim + d];
}

static uint32_t clamp_to_page(uint32_t key, uint32_t page)
{
    uint32_t first = page * UPG_PAGE_TOKENS;

    if (key <= first)
        return 0;
    return key - first < UPG_PAGE_TOKENS ? key - first : UPG_PAGE_TOKENS;
}

/* All queries of a group over one page. */
static void attend_page(const attention *a, const cpu_group *group, uint32_t kv_head, uint32_t page,
                        const queries *q)
{
    const upg_batch_row *rows = a->batch->rows + group->first;
    const uint8_t       *memory = rows->kv->pages[page];
    uint32_t             n = clamp_to_page(rows[group->n - 1].position + 1, page);

    page_scores(a, memory + upg_kv_part(a->batch->kv_layout, a->layer, kv_head, 0), q, n);
    for (uint32_t h = 0; h < q->n; h++) {
        uint32_t position = rows[h / a->shared].position;
        uint32_t begin = clamp_to_page(low_key(a, position), page);
        uint32_t end = clamp_to_page(position + 1, page);
        float   *score = q->score + h * UPG_PAGE_TOKENS;

        if (begin < end)
            weigh_page(a, score, begin, end, &q->softmax[h], q->part + h * a->head_dim);
        else
            memset(score, 0, UPG_PAGE_TOKENS * sizeof *score);
    }
    page_values(a, memory + upg_kv_part(a->batch->kv_layout, a->layer, kv_head, 1), q, n);
}

/* Pages [first, last) that a group sees in split `split`. */
static void pages_of_split(const attention *a, const cpu_group *group, uint32_t split,
                           uint32_t *first, uint32_t *last)
{
    const upg_batch_row *rows = a->batch->rows + group->first;
    uint32_t             low = low_key(a, rows[0].position) / UPG_PAGE_TOKENS;
    uint32_t             high = rows[group->n - 1].position / UPG_PAGE_TOKENS + 1;

    *first = split * (CPU_SPLIT_TOKENS / UPG_PAGE_TOKENS);
    *last = *first + CPU_SPLIT_TOKENS / UPG_PAGE_TOKENS;
    *first = *first < low ? low : *first;
    *last = *last < high ? *last : high;
}

static void clear(const attention *a, const queries *q)
{
    memset(q->part, 0, (size_t)q->n * a->head_dim * sizeof *q->part);
    for (uint32_t h = 0; h < q->n; h++)
        q->softmax[h] = (cpu_softmax) { -INFINITY, 0.0f };
}

/* Takes the softmax of further keys into a total; a part without keys changes nothing. */
static void merge(const attention *a, const cpu_softmax *part, const float *part_values,
                  cpu_softmax *total, float *values)
{
    float max = part->max > total->max ? part->max : total->max;
    float old = expf(total->max - max), new = expf(part->max - max);

    if (part->max == -INFINITY && part->sum == 0.0f)
        return;
    total->max = max;
    total->sum = total->sum * old + part->sum * new;
    for (uint32_t d = 0; d < a->head_dim; d++)
        values[d] = values[d] * old + part_values[d] * new;
}

static void gather_queries(const attention *a, const cpu_group *group, uint32_t kv_head,
                           float *query)
{
    size_t bytes = (size_t)a->shared * a->head_dim * sizeof *query;

    for (uint32_t i = 0; i < group->n; i++)
        memcpy(query + (size_t)i * a->shared * a->head_dim,
               a->q->values + (group->first + i) * a->q->stride +
                   (size_t)kv_head * a->shared * a->head_dim,
               bytes);
}

static void store_result(const attention *a, uint32_t row, uint32_t head,
                         const cpu_softmax *softmax, const float *values)
{
    float *out = a->b->scratch[0] + row * a->b->scratch_stride + (size_t)head * a->head_dim;

    for (uint32_t d = 0; d < a->head_dim; d++)
        out[d] = values[d] / softmax->sum;
}

/* Item: a group and a KV head, all splits. */
static void run_group(void *context, size_t item, uint32_t index)
{
    const attention     *a = context;
    cpu_worker          *worker = &a->b->workers[index];
    const cpu_group     *group = &a->b->groups[item / a->n_kv_heads];
    const upg_batch_row *rows = a->batch->rows + group->first;
    uint32_t             kv_head = (uint32_t)(item % a->n_kv_heads);
    uint32_t             n_queries = group->n * a->shared;

    queries q = queries_of(a, group, 0, worker);

    gather_queries(a, group, kv_head, worker->query);
    memset(worker->total, 0, (size_t)n_queries * a->head_dim * sizeof *worker->total);
    for (uint32_t h = 0; h < n_queries; h++)
        worker->total_softmax[h] = (cpu_softmax) { -INFINITY, 0.0f };
    for (uint32_t split = low_key(a, rows[0].position) / CPU_SPLIT_TOKENS;
         split <= rows[group->n - 1].position / CPU_SPLIT_TOKENS; split++) {
        uint32_t first, last;

        pages_of_split(a, group, split, &first, &last);
        clear(a, &q);
        for (uint32_t page = first; page < last; page++)
            attend_page(a, group, kv_head, page, &q);
        for (uint32_t h = 0; h < n_queries; h++)
            merge(a, &worker->softmax[h], worker->part + h * a->head_dim, &worker->total_softmax[h],
                  worker->total + h * a->head_dim);
    }
    for (uint32_t h = 0; h < n_queries; h++)
        store_result(a, group->first + h / a->shared, kv_head * a->shared + h % a->shared,
                     &worker->total_softmax[h], worker->total + h * a->head_dim);
}

/* ---- splits side by side, for few rows with many keys ------------------------------------------
 */

static size_t split_place(const attention *a, uint32_t row, uint32_t head, uint32_t split)
{
    return ((size_t)row * a->n_heads + head) * a->b->max_splits + split;
}

static void store_split(const attention *a, const cpu_group *group, uint32_t kv_head,
                        uint32_t split, const queries *q)
{
    cpu_backend *b = a->b;

    for (uint32_t h = 0; h < q->n; h++) {
        size_t place = split_place(a, group->first + h / a->shared,
                                   kv_head * a->shared + h % a->shared, split);

        b->split_softmax[place] = q->softmax[h];
        memcpy(b->split_values + place * a->head_dim, q->part + (size_t)h * a->head_dim,
               a->head_dim * sizeof(float));
    }
}

/* Kernels prefetch what follows in memory, but not from one page to the next. */
static void prefetch_head(const attention *a, const cpu_group *group, uint32_t kv_head,
                          uint32_t page)
{
    const uint8_t *memory = a->batch->rows[group->first].kv->pages[page] +
                            upg_kv_part(a->batch->kv_layout, a->layer, kv_head, 0);

    for (size_t i = 0; i < PREFETCH_BYTES; i += 64)
        __builtin_prefetch(memory + i, 0, 2);
}

/* Item: a group, a run of KV heads, which lie side by side in every page, and a split: keys and
 * values are read front to back, and shares of items are about shares of heads, as in run_merge. */
static void run_split(void *context, size_t item, uint32_t index)
{
    const attention *a = context;
    cpu_worker      *worker = &a->b->workers[index];
    uint32_t         split = (uint32_t)(item % a->n_splits), first, last;
    uint32_t         run = (uint32_t)(item / a->n_splits % a->n_runs);
    const cpu_group *group = &a->b->groups[item / a->n_splits / a->n_runs];
    uint32_t         begin = a->n_kv_heads * run / a->n_runs;
    uint32_t         end = a->n_kv_heads * (run + 1) / a->n_runs;

    pages_of_split(a, group, split, &first, &last);
    for (uint32_t head = begin; head < end; head++) {
        queries q = queries_of(a, group, head, worker);

        gather_queries(a, group, head, worker->query + (size_t)head * q.n * a->head_dim);
        clear(a, &q);
    }
    for (uint32_t page = first; page < last; page++)
        for (uint32_t head = begin; head < end; head++) {
            queries q = queries_of(a, group, head, worker);

            if (head + 1 == end && page + 1 < last)
                prefetch_head(a, group, begin, page + 1);
            attend_page(a, group, head, page, &q);
        }
    for (uint32_t head = begin; head < end; head++) {
        queries q = queries_of(a, group, head, worker);

        store_split(a, group, head, split, &q);
    }
}

/* Item: a row and a head. */
static void run_merge(void *context, size_t item, uint32_t index)
{
    const attention   *a = context;
    const cpu_backend *b = a->b;
    uint32_t           row = (uint32_t)(item / a->n_heads), head = (uint32_t)(item % a->n_heads);
    float             *total = b->workers[index].total;
    cpu_softmax        softmax = { -INFINITY, 0.0f };

    memset(total, 0, a->head_dim * sizeof *total);
    for (uint32_t split = 0; split < a->n_splits; split++) {
        size_t place = split_place(a, row, head, split);

        merge(a, &b->split_softmax[place], b->split_values + place * a->head_dim, &softmax, total);
    }
    store_result(a, row, head, &softmax, total);
}

/* Splits of the row with the most keys. */
static uint32_t count_splits(const upg_batch *batch)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < batch->n_rows; i++)
        most = batch->rows[i].position > most ? batch->rows[i].position : most;
    return most / CPU_SPLIT_TOKENS + 1;
}

void upg_cpu_attention(cpu_backend *b, const upg_batch *batch, uint32_t layer, uint16_t q)
{
    const upg_model_config *c = &b->program->weights->config;
    attention               a = { .b = b, .batch = batch, .layer = layer, .q = &b->slots[q] };
    uint32_t                n_splits = count_splits(batch);

    a.n_heads = c->n_heads;
    a.n_kv_heads = c->n_kv_heads;
    a.shared = c->n_heads / c->n_kv_heads;
    a.head_dim = c->head_dim;
    if (batch->n_rows > CPU_FEW_ROWS || n_splits == 1 || n_splits > b->max_splits) {
        upg_pool_run(b->pool, (size_t)b->n_groups * a.n_kv_heads, run_group, &a);
        return;
    }
    a.n_splits = n_splits;
    a.n_runs = ITEMS_PER_THREAD * b->threads / (b->n_groups * n_splits) + 1;
    a.n_runs = a.n_runs < a.n_kv_heads ? a.n_runs : a.n_kv_heads;
    upg_cpu_run_shares(b, b->n_groups * n_splits * a.n_runs, run_split, &a);
    upg_cpu_run_shares(b, batch->n_rows * a.n_heads, run_merge, &a);
}
