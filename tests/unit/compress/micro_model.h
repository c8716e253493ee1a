/* micro_model.h: phi4-micro coded in memory: every matrix decoded, alone or together in the model's
 * place, and how far its predictions move. */
#ifndef UPG_TESTS_MICRO_MODEL_H
#define UPG_TESTS_MICRO_MODEL_H

#include "forward_model.h"

#include "compress/calibrate.h"
#include "compress/calibration_text.h"
#include "compress/default_calibration.h"
#include "compress/sensitivity.h"

enum { EVAL_WINDOW = 256, N_EVAL = 2 };

typedef struct micro_model {
    encode_env        env;
    upg_weights      *weights;
    upg_arena         arena;
    upg_token_windows calibration;
    int32_t          *eval;    /* i32 [N_EVAL][EVAL_WINDOW]: not calibrated on */
    float            *exact;   /* f32 [N_EVAL][EVAL_WINDOW][vocab] */
    float           **decoded; /* [matrix count]: f32 of the latest encoding */
    double            error2, energy2;
} micro_model;

static inline void micro_logits(micro_model *m, upg_weights *weights, float *logits)
{
    size_t size = (size_t)EVAL_WINDOW * weights->config.vocab;

    for (size_t w = 0; w < N_EVAL; w++) {
        float *one = our_logits(weights, m->eval + w * EVAL_WINDOW, EVAL_WINDOW);

        memcpy(logits + w * size, one, size * sizeof *one);
        free(one);
    }
}

/* Calibration windows from the first part of the default text, evaluation from its end. */
static inline void micro_open_folder(micro_model *m, const char *folder, uint32_t window,
                                     uint32_t n_windows)
{
    size_t            cut = upg_default_calibration_size * 4 / 5;
    upg_token_windows eval;
    uint32_t          vocab;

    *m = (micro_model) { 0 };
    while ((upg_default_calibration[cut] & 0xC0) == 0x80)
        cut++;
    env_open(&m->env, 2);
    kernels = m->env.kernels;
    OK(upg_weights_open(folder, &m->weights, &err));
    vocab = m->weights->config.vocab;
    OK(upg_token_windows_make(m->weights, (upg_span) { upg_default_calibration, cut }, window,
                              n_windows, &m->calibration, &err));
    OK(upg_token_windows_make(
        m->weights,
        (upg_span) { upg_default_calibration + cut, upg_default_calibration_size - cut },
        EVAL_WINDOW, N_EVAL, &eval, &err));
    assert_int_equal(eval.n_windows, N_EVAL);
    m->eval = eval.tokens;
    m->exact = malloc((size_t)N_EVAL * EVAL_WINDOW * vocab * sizeof *m->exact);
    m->decoded = calloc(upg_weights_matrix_count(m->weights), sizeof *m->decoded);
    assert_true(m->exact && m->decoded);
    micro_logits(m, m->weights, m->exact);
}

static inline void micro_open(micro_model *m, uint32_t window, uint32_t n_windows)
{
    micro_open_folder(m, UPG_TEST_DATA "/phi4-micro", window, n_windows);
}

static inline void micro_close(micro_model *m)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(m->weights); i++)
        free(m->decoded[i]);
    free(m->decoded);
    free(m->exact);
    upg_free(m->eval);
    upg_token_windows_deinit(&m->calibration);
    upg_arena_deinit(&m->arena);
    upg_weights_close(m->weights);
    env_close(&m->env);
}

static inline upg_status keep_decoded(void *user, const upg_plan_unit *units, uint32_t n_units,
                                      const upg_encoded_matrix *encoded, upg_error *e)
{
    micro_model *m = user;
    uint32_t     i = 0;

    (void)e;
    while (upg_weights_matrix(m->weights, i) != units[0].matrix)
        i++;
    free(m->decoded[i]);
    m->decoded[i] = decode(&m->env, units, n_units, encoded);
    m->error2 += encoded->error2;
    m->energy2 += encoded->energy2;
    return UPG_OK;
}

/* A plan with every unit at one rate, or for rate2 = 0 at the lowest. */
static inline upg_plan micro_plan(micro_model *m, uint32_t rate2)
{
    upg_plan plan;

    OK(upg_plan_create(m->weights, &m->arena, &plan, &err));
    for (uint32_t u = 0; rate2 != 0 && u < plan.n_units; u++)
        plan.units[u].code = upg_code_find(rate2, UPG_CODE_DEFAULT_LENGTH);
    return plan;
}

static inline void micro_encode(micro_model *m, const upg_plan *plan, bool sequential)
{
    upg_calibration  c = { m->calibration.tokens, m->calibration.n_windows, m->calibration.window,
                           sequential, 0 };
    upg_encoded_sink sink = { keep_decoded, m };

    m->error2 = m->energy2 = 0;
    OK(upg_calibrated_encode(&m->env.context, m->weights, plan, &c, &sink, &err));
}

/* KL with matrix `only` (all when it is the matrix count) replaced by its decoded form. */
static inline double micro_divergence(micro_model *m, uint32_t only)
{
    upg_weights        coded = *m->weights;
    upg_layer_weights *layers = malloc(coded.config.n_layers * sizeof *layers);
    uint32_t           vocab = coded.config.vocab, n = upg_weights_matrix_count(m->weights), i = 0;
    float             *logits = malloc((size_t)N_EVAL * EVAL_WINDOW * vocab * sizeof *logits);
    double             kl;

    assert_true(layers && logits);
    memcpy(layers, m->weights->layers, coded.config.n_layers * sizeof *layers);
    coded.layers = layers;
    for (; i < n; i++) {
        upg_matrix *to = (upg_matrix *)upg_weights_matrix(&coded, i);

        assert_non_null(m->decoded[i]);
        if (only != n && only != i)
            continue;
        to->dense = m->decoded[i];
        to->dtype = UPG_F32;
    }
    micro_logits(m, &coded, logits);
    kl = mean_divergence(m->exact, logits, N_EVAL * EVAL_WINDOW, vocab);
    free(layers);
    free(logits);
    return kl;
}

#endif
