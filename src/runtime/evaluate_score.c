/* evaluate_score.c: what the logits of one position say about the token that came. */
#include <stdlib.h>
#include <string.h>

#include "runtime/evaluate.h"
#include "runtime/sampler.h"

/* Σ p·(a − b)/Σ p with p = exp(a − max): the mean difference of two rows of logits under the first
 * one's distribution. Weights in fp32 (relative error 4e-7 each), sums in fp64. */
static double mean_difference(const upg_kernels *kernels, const float *a, const float *b,
                              uint32_t n, float max)
{
    enum { PART = 1024, LANES = 8 };
    float  weight[PART];
    double lane[LANES] = { 0 }, sum = 0, moment = 0;

    for (uint32_t i = 0; i < n; i += PART) {
        uint32_t m = n - i < PART ? n - i : PART, k = 0;

        memcpy(weight, a + i, m * sizeof *a);
        sum += (double)kernels->exp_sum(m, max, weight);
        for (; k + LANES <= m; k += LANES)
            for (int l = 0; l < LANES; l++)
                lane[l] += (double)weight[k + l] * (double)(a[i + k + l] - b[i + k + l]);
        for (; k < m; k++)
            moment += (double)weight[k] * (double)(a[i + k] - b[i + k]);
    }
    for (int l = 0; l < LANES; l++)
        moment += lane[l];
    return moment / sum;
}

upg_row_score upg_score_row(const upg_kernels *kernels, const float *logits, const float *against,
                            uint32_t vocab, upg_token target)
{
    upg_row_score score = { 0 };
    uint32_t      first = upg_argmax(logits, vocab), other;
    double        log_sum = upg_log_sum_exp(kernels, logits, vocab, logits[first]), other_sum;

    score.nll = log_sum - (double)logits[target];
    score.hit = first == (uint32_t)target;
    if (!against)
        return score;
    other = upg_argmax(against, vocab);
    other_sum = upg_log_sum_exp(kernels, against, vocab, against[other]);
    score.against_nll = other_sum - (double)against[target];
    score.agrees = first == other;
    /* Σ p·(log p − log q), log p = against − other_sum, log q = logits − log_sum */
    score.kl =
        mean_difference(kernels, against, logits, vocab, against[other]) - (other_sum - log_sum);
    return score;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double upg_percentile_99(double *values, size_t n)
{
    size_t rank = n - n / 100; /* the 0.99·n-th, rounded up */

    qsort(values, n, sizeof *values, compare);
    return n == 0 ? 0 : values[rank > 0 ? rank - 1 : 0];
}
