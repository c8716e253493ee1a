/* sampler.c: settings, and the way from logits to a token (sampler.h). */
#include "runtime/sampler.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"

/* Weights are exp(value − max): this far below the largest they are 0 in fp32. */
#define NEGLIGIBLE 200.0f
/* Below it one token takes all the weight anyway, and 1 / temperature nears the end of fp32. */
#define COLDEST 1e-6f

/* ---- settings ------------------------------------------------------------------------------- */

static upg_status check_range(const char *field, float value, float min, float max, upg_error *err)
{
    if (value >= min && value <= max) /* false for NaN */
        return UPG_OK;
    return upg_fail(err, UPG_E_ARG, "sampling: %s is %g, it must lie in [%g, %g]", field,
                    (double)value, (double)min, (double)max);
}

static upg_status check_biases(const upg_sampling *s, uint32_t vocab, upg_error *err)
{
    if (s->bias_count > 0 && !s->biases)
        return upg_fail(err, UPG_E_ARG, "sampling: biases is NULL, bias_count %zu", s->bias_count);
    for (size_t i = 0; i < s->bias_count; i++) {
        const upg_scored *b = &s->biases[i];

        if (b->token < 0 || (uint32_t)b->token >= vocab)
            return upg_fail(err, UPG_E_ARG,
                            "sampling: biases[%zu].token is %d, the vocabulary has %u tokens", i,
                            b->token, vocab);
        if (isnan(b->value) || b->value == INFINITY)
            return upg_fail(err, UPG_E_ARG,
                            "sampling: biases[%zu].value is %g; −infinity forbids a token, finite "
                            "values move it",
                            i, (double)b->value);
    }
    return UPG_OK;
}

static upg_status check_settings(const upg_sampling *s, uint32_t vocab, upg_error *err)
{
    upg_status st;

    UPG_TRY(check_range("temperature", s->temperature, 0, 100, err));
    UPG_TRY(check_range("top_p", s->top_p, 0, 1, err));
    UPG_TRY(check_range("min_p", s->min_p, 0, 1, err));
    UPG_TRY(check_range("repetition_penalty", s->repetition_penalty, 0, 100, err));
    UPG_TRY(check_range("presence_penalty", s->presence_penalty, -100, 100, err));
    UPG_TRY(check_range("frequency_penalty", s->frequency_penalty, -100, 100, err));
    UPG_TRY(check_biases(s, vocab, err));
out:
    return st;
}

upg_status upg_sampler_set(upg_sampler *sampler, const upg_sampling *settings, uint32_t vocab,
                           upg_error *err)
{
    upg_scored *biases = NULL;
    upg_status  st = check_settings(settings, vocab, err);

    if (st != UPG_OK)
        return st;
    if (settings->bias_count > 0) {
        biases = upg_malloc(settings->bias_count, sizeof *biases, err);
        if (!biases)
            return UPG_E_NOMEM;
        memcpy(biases, settings->biases, settings->bias_count * sizeof *biases);
    }
    upg_free(sampler->biases);
    sampler->settings = *settings;
    sampler->settings.biases = sampler->biases = biases;
    return UPG_OK;
}

void upg_sampler_deinit(upg_sampler *sampler)
{
    upg_free(sampler->biases);
    *sampler = (upg_sampler) { 0 };
}

/* ---- distributions -------------------------------------------------------------------------- */

uint32_t upg_argmax(const float *x, uint32_t n)
{
    enum { LANES = 16 };
    float    lane[LANES], max = x[0];
    uint32_t i = 0;

    for (int k = 0; k < LANES; k++)
        lane[k] = x[0];
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
    for (int k = 0; k < LANES; k++)
        max = lane[k] > max ? lane[k] : max;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (i = 0; i + 1 < n && x[i] != max;)
        i++;
    return i;
}

double upg_log_sum_exp(const upg_kernels *kernels, const float *x, uint32_t n, float max)
{
    enum { PART = 1024 };
    float  part[PART];
    double sum = 0;

    for (uint32_t i = 0; i < n; i += PART) {
        uint32_t m = n - i < PART ? n - i : PART;

        memcpy(part, x + i, m * sizeof *x);
        sum += (double)kernels->exp_sum(m, max, part);
    }
    return (double)max + log(sum);
}

void upg_top_tokens(const float *logits, uint32_t n, double log_sum, upg_scored *top,
                    uint32_t n_top)
{
    uint32_t have = 0;

    for (uint32_t i = 0; i < n && n_top > 0; i++) {
        uint32_t place = have;

        if (have == n_top && logits[i] <= top[have - 1].value)
            continue;
        if (have < n_top)
            have++;
        else
            place--;
        for (; place > 0 && top[place - 1].value < logits[i]; place--)
            top[place] = top[place - 1];
        top[place] = (upg_scored) { (upg_token)i, logits[i] };
    }
    for (uint32_t i = 0; i < have; i++)
        top[i].value = (float)((double)top[i].value - log_sum);
}

/* ---- from logits to values ------------------------------------------------------------------- */

static void add_biases(const upg_sampling *s, uint32_t n_tokens, float *values)
{
    for (size_t i = 0; i < s->bias_count; i++)
        if ((uint32_t)s->biases[i].token < n_tokens)
            values[s->biases[i].token] += s->biases[i].value;
}

/* Keskar et al., "CTRL" (2019): a token that stands in the text is divided or multiplied, once. */
static void penalise_repetition(float penalty, const upg_sampler_history *h, uint32_t n_tokens,
                                uint32_t *counts, float *values)
{
    for (uint32_t i = 0; i < h->n; i++) {
        uint32_t t = (uint32_t)h->tokens[i];

        if (t < n_tokens && counts[t]++ == 0)
            values[t] = values[t] > 0 ? values[t] / penalty : values[t] * penalty;
    }
    for (uint32_t i = 0; i < h->n; i++)
        counts[h->tokens[i]] = 0;
}

static void penalise_drawn(const upg_sampling *s, const upg_sampler_history *h, uint32_t n_tokens,
                           uint32_t *counts, float *values)
{
    for (uint32_t i = 0; i < h->n; i++)
        counts[h->tokens[i]] += h->drawn[i];
    for (uint32_t i = 0; i < h->n; i++) {
        uint32_t t = (uint32_t)h->tokens[i];

        if (t < n_tokens && counts[t] > 0)
            values[t] -= s->presence_penalty + s->frequency_penalty * (float)counts[t];
        counts[t] = 0;
    }
}

static void forbid(const uint32_t *allowed, uint32_t n_tokens, float *values)
{
    for (uint32_t t = 0; t < n_tokens; t++)
        if (!(allowed[t / 32] >> t % 32 & 1u))
            values[t] = -INFINITY;
}

static void adjust(const upg_sampler *sampler, upg_sampler_space *space, uint32_t n_tokens,
                   const uint32_t *allowed, const upg_sampler_history *history)
{
    const upg_sampling *s = &sampler->settings;

    add_biases(s, n_tokens, space->values);
    if (s->repetition_penalty != 0 && s->repetition_penalty != 1)
        penalise_repetition(s->repetition_penalty, history, n_tokens, space->counts, space->values);
    if (s->presence_penalty != 0 || s->frequency_penalty != 0)
        penalise_drawn(s, history, n_tokens, space->counts, space->values);
    if (allowed)
        forbid(allowed, n_tokens, space->values);
}

/* ---- candidates in order -----------------------------------------------------------------------
 */

static bool before(const upg_scored *a, const upg_scored *b)
{
    return a->value > b->value || (a->value == b->value && a->token < b->token);
}

static void sift_down(upg_scored *heap, uint32_t n, uint32_t i)
{
    upg_scored moved = heap[i];

    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= n)
            break;
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moved))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

/* Swaps the best of a heap of n to its end, so that ranks grow from the end to the front. */
static const upg_scored *take_best(upg_scored *heap, uint32_t n)
{
    upg_scored best = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(heap, n - 1, 0);
    return &heap[n - 1];
}

static uint32_t make_heap(const float *weights, uint32_t n_tokens, upg_scored *heap)
{
    uint32_t n = 0;

    for (uint32_t t = 0; t < n_tokens; t++)
        if (weights[t] > 0)
            heap[n++] = (upg_scored) { (upg_token)t, weights[t] };
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i);
    return n;
}

/* The best of n candidates up to top_k and up to the share top_p of what top_k leaves; *sum is
 * their weight. They stand at heap[n − 1], heap[n − 2], … */
static uint32_t keep_best(const upg_sampling *s, upg_scored *heap, uint32_t n, double total,
                          double *sum)
{
    uint32_t k = s->top_k > 0 && s->top_k < n ? s->top_k : n, kept = 0;
    double   share = s->top_p > 0 && s->top_p < 1 ? (double)s->top_p : 1;

    *sum = 0;
    if (k < n) { /* top-p is a share of these alone */
        total = 0;
        for (uint32_t i = 0; i < k; i++)
            total += (double)take_best(heap, n - i)->value;
    }
    while (kept < k && (kept == 0 || *sum < share * total)) {
        const upg_scored *next = k < n ? &heap[n - 1 - kept] : take_best(heap, n - kept);

        *sum += (double)next->value;
        kept++;
    }
    return kept;
}

static upg_token draw_ordered(const upg_sampling *s, upg_scored *heap, uint32_t n, double total,
                              double unit)
{
    double   sum, passed = 0;
    uint32_t kept = keep_best(s, heap, n, total, &sum), i;
    float    least = s->min_p * heap[n - 1].value;

    while (kept > 1 && heap[n - kept].value < least)
        sum -= (double)heap[n - kept--].value;
    for (i = 0; i + 1 < kept; i++) {
        passed += (double)heap[n - 1 - i].value;
        if (passed > unit * sum)
            break;
    }
    return heap[n - 1 - i].token;
}

/* Without an order: the weights in the order of ids. */
static upg_token draw_plain(const float *weights, uint32_t n, float least, double total,
                            double unit)
{
    double    passed = 0;
    upg_token last = -1;

    if (least > 0) {
        total = 0;
        for (uint32_t t = 0; t < n; t++)
            total += weights[t] >= least ? (double)weights[t] : 0;
    }
    for (uint32_t t = 0; t < n; t++) {
        if (weights[t] <= 0 || weights[t] < least)
            continue;
        last = (upg_token)t;
        passed += (double)weights[t];
        if (passed > unit * total)
            break;
    }
    return last; /* rounding may leave passed below the total: then the last one */
}

/* values become weights exp((value − max)/temperature). */
static void make_weights(const upg_kernels *kernels, float temperature, float max, uint32_t n,
                         float *values)
{
    float inverse = 1.0f / temperature;

    for (uint32_t t = 0; t < n; t++) {
        float v = (values[t] - max) * inverse;

        values[t] = v > -NEGLIGIBLE ? v : -NEGLIGIBLE; /* −infinity too */
    }
    (void)kernels->exp_sum(n, 0, values);
}

upg_token upg_sampler_choose(const upg_sampler *sampler, const upg_kernels *kernels,
                             upg_sampler_space *space, const float *logits, uint32_t n_tokens,
                             const uint32_t *allowed, const upg_sampler_history *history,
                             uint64_t position)
{
    const upg_sampling *s = &sampler->settings;
    float              *values = space->values;
    double              total = 0, unit;
    uint32_t            best;

    memcpy(values, logits, n_tokens * sizeof *values);
    adjust(sampler, space, n_tokens, allowed, history);
    best = upg_argmax(values, n_tokens);
    if (values[best] == -INFINITY)
        return -1;
    if (s->temperature < COLDEST)
        return (upg_token)best;
    make_weights(kernels, s->temperature, values[best], n_tokens, values);
    for (uint32_t t = 0; t < n_tokens; t++)
        total += (double)values[t];
    unit = upg_random_unit(s->seed, position);
    if (s->top_k == 0 && (s->top_p == 0 || s->top_p == 1))
        return draw_plain(values, n_tokens, s->min_p * values[best], total, unit);
    return draw_ordered(s, space->candidates, make_heap(values, n_tokens, space->candidates), total,
                        unit);
}
