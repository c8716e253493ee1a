/* cuda_draw.c: what the token kernel needs to draw tokens by itself (cuda_draw.cuh): settings,
 * biases, and how often each token stands in the text. */
#include <string.h>

#include "backend/cuda/cuda_backend.h"

/* As runtime/sampler.c: below it one token takes all the weight anyway. */
static const float coldest = 1e-6f;

static uint32_t vocab_of(const cuda_backend *b)
{
    return b->program->weights->config.vocab;
}

void upg_cuda_lay_draw(cuda_backend *b)
{
    size_t   vocab = vocab_of(b);
    cu_draw *d = &b->draw;

    d->weights = upg_cuda_take(b, (vocab + 3) / 4 * 4 * sizeof(float));
    d->marks = upg_cuda_take(b, vocab * sizeof *d->marks);
    d->bias = upg_cuda_take(b, vocab * sizeof *d->bias);
    d->shares = upg_cuda_take(b, b->n_ctas * sizeof *d->shares);
    d->histogram = upg_cuda_take(b, (3 * CU_DRAW_BINS + 1) * sizeof *d->histogram);
    d->counter = d->histogram ? d->histogram + (size_t)3 * CU_DRAW_BINS : NULL;
    d->logprobs = upg_cuda_take(b, CUDA_MAX_TOKENS * sizeof *d->logprobs);
}

static bool has_penalties(const upg_draw *draw)
{
    return (draw->repetition_penalty != 0 && draw->repetition_penalty != 1) ||
           draw->presence_penalty != 0 || draw->frequency_penalty != 0;
}

/* Marks of all tokens in pinned memory. */
static upg_status mark_history(const cuda_backend *b, const upg_draw *draw, upg_error *err)
{
    uint32_t *marks = b->draw_host;

    memset(marks, 0, vocab_of(b) * sizeof *marks);
    for (uint32_t i = 0; i < draw->n_history; i++) {
        if (draw->history[i] < 0 || (uint32_t)draw->history[i] >= vocab_of(b))
            return upg_fail(err, UPG_E_ARG, "history[%u] is %d, the vocabulary has %u tokens", i,
                            draw->history[i], vocab_of(b));
        marks[draw->history[i]] = (marks[draw->history[i]] | CU_IN_TEXT) + draw->drawn[i];
    }
    return UPG_OK;
}

static upg_status spread_biases(const cuda_backend *b, const upg_draw *draw, upg_error *err)
{
    uint32_t *bits = b->draw_host + vocab_of(b);

    memset(bits, 0, vocab_of(b) * sizeof *bits);
    for (size_t i = 0; i < draw->n_biases; i++) {
        int32_t token = draw->biases[i].token;

        if (token < 0 || (uint32_t)token >= vocab_of(b))
            return upg_fail(err, UPG_E_ARG, "a bias for token %d, the vocabulary has %u tokens",
                            token, vocab_of(b));
        if (bits[token] != 0)
            return upg_fail(err, UPG_E_UNSUPPORTED, "token %d has two biases", token);
        memcpy(bits + token, &draw->biases[i].value, sizeof *bits);
    }
    return UPG_OK;
}

static int send(cuda_backend *b, cu_draw *d)
{
    size_t bytes = vocab_of(b) * sizeof(uint32_t);
    int    e = cudaMemsetAsync(d->histogram, 0, (3 * CU_DRAW_BINS + 1) * 4, b->stream);

    if (e == cudaSuccess)
        e = cudaMemsetAsync(d->weights, 0, (bytes + 15) / 16 * 16, b->stream);
    if (e == cudaSuccess && d->marks != NULL)
        e = cudaMemcpyAsync(d->marks, b->draw_host, bytes, cudaMemcpyHostToDevice, b->stream);
    if (e == cudaSuccess && d->bias != NULL)
        e = cudaMemcpyAsync((float *)(uintptr_t)d->bias, b->draw_host + vocab_of(b), bytes,
                            cudaMemcpyHostToDevice, b->stream);
    return e;
}

upg_status upg_cuda_set_draw(cuda_backend *b, const upg_draw *draw, bool logprobs, upg_error *err)
{
    cu_draw   *d = &b->token.draw;
    upg_status st = UPG_OK;

    *d = b->draw;
    if (draw == NULL)
        return UPG_OK;
    d->n_tokens = draw->n_tokens;
    d->n_logits = vocab_of(b);
    d->top_k = draw->top_k;
    d->top_p = draw->top_p;
    d->min_p = draw->min_p;
    d->ranked = draw->top_k > 0 || (draw->top_p > 0 && draw->top_p < 1);
    d->inverse = draw->temperature < coldest ? 0 : 1.0f / draw->temperature;
    d->repetition = draw->repetition_penalty == 0 ? 1 : draw->repetition_penalty;
    d->presence = draw->presence_penalty;
    d->frequency = draw->frequency_penalty;
    d->seed = draw->seed;
    d->place = draw->place;
    if (d->n_tokens == 0 || d->n_tokens > d->n_logits)
        return upg_fail(err, UPG_E_ARG, "tokens below %u may be drawn, the vocabulary has %u",
                        d->n_tokens, d->n_logits);
    if (!has_penalties(draw))
        d->marks = NULL;
    else
        UPG_TRY(mark_history(b, draw, err));
    if (draw->n_biases == 0)
        d->bias = NULL;
    else
        UPG_TRY(spread_biases(b, draw, err));
    if (!logprobs)
        d->logprobs = NULL;
    UPG_TRY(upg_cuda_check(send(b, d), "sending how to draw tokens", err));
    d->on = true;
out:
    return st;
}
