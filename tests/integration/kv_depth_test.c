/* kv_depth_test.c: what keys and values in 8 bits cost behind 2,048 tokens of text, against those
 * in fp16, by phi4-nano (a context of 2,048), which is not part of this repository. Measured, so
 * that the bounds can be tight: KL 5.5e-5 and 47 of 48 likeliest tokens. */
#include "support/open_model.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/file.h"
#include "support/npy.h"

#define FOLDER UPG_SHARED_DATA "/models/phi4-nano"

enum { DEPTH = 2048, SCORED = 48 };

/* What follows each of the last SCORED tokens: f32 [SCORED][vocab]. */
static float *run(upg_model *model, const int32_t *ids, bool int8)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .context_tokens = DEPTH,
                                    .kv_int8 = int8 };
    upg_session        *session = make_session(model, &options);
    float              *logits = malloc((size_t)SCORED * vocab_of(model) * sizeof *logits);

    assert_non_null(logits);
    MUST(upg_prefill(session, ids, DEPTH - SCORED, NULL, err));
    MUST(upg_prefill(session, ids + DEPTH - SCORED, SCORED, logits, err));
    upg_session_close(session);
    return logits;
}

/* KL(p ‖ q) of two rows of logits; *same: whether the likeliest is the same. */
static double divergence(const float *p, const float *q, uint32_t n, bool *same)
{
    uint32_t best_p = 0, best_q = 0;
    double   sum_p = 0, sum_q = 0, kl = 0;

    for (uint32_t i = 1; i < n; i++) {
        best_p = p[i] > p[best_p] ? i : best_p;
        best_q = q[i] > q[best_q] ? i : best_q;
    }
    for (uint32_t i = 0; i < n; i++) {
        sum_p += exp((double)(p[i] - p[best_p]));
        sum_q += exp((double)(q[i] - q[best_q]));
    }
    for (uint32_t i = 0; i < n; i++) {
        double log_p = (double)(p[i] - p[best_p]) - log(sum_p);
        double log_q = (double)(q[i] - q[best_q]) - log(sum_q);

        kl += exp(log_p) * (log_p - log_q);
    }
    *same = best_p == best_q;
    return kl;
}

static void eight_bits_behind_a_long_text(void **state)
{
    upg_model *model;
    test_ids   ids;
    float     *full, *small;
    double     kl = 0;
    uint32_t   n_same = 0, vocab;

    (void)state;
    if (!upg_file_exists(FOLDER "/config.json")) {
        print_message("skipped: %s is not there\n", FOLDER);
        skip();
    }
    MUST(test_npy_read(FOLDER "/valid_ids.npy", &ids, err));
    assert_true(ids.n_windows * ids.window >= DEPTH);
    model = open_path(FOLDER, "cpu", 2);
    vocab = vocab_of(model);
    full = run(model, ids.ids, false);
    small = run(model, ids.ids, true);
    for (uint32_t i = 0; i < SCORED; i++) {
        size_t at = (size_t)i * vocab;
        bool   same;

        kl += divergence(full + at, small + at, vocab, &same);
        n_same += same;
    }
    print_message("KL %.2e, %u of %d likeliest tokens the same\n", kl / SCORED, n_same, SCORED);
    assert_true(kl > 0 && kl / SCORED < 2e-4);
    assert_true(n_same >= SCORED - 2);
    free(small);
    free(full);
    upg_model_close(model);
    upg_free(ids.ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(eight_bits_behind_a_long_text) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
