#include "support/backend_compare.h"

#include <math.h>

#include "backend/ref/ref.h"
#include "base/alloc.h"
#include "base/random.h"
#include "support/kv_sequence.h"

/* One backend with the sequences of a schedule. */
typedef struct runner {
    const test_executor *executor;
    upg_backend         *backend;
    test_sequence        sequences[TEST_MAX_SEQUENCES];
    upg_batch_row       *rows;
    float               *logits; /* f32 [max_rows][vocab] */
} runner;

static uint32_t total(const test_schedule *s, uint32_t sequence)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->n_steps; i++)
        n += s->counts[i][sequence];
    return n;
}

static upg_status runner_init(runner *r, const upg_program *program, const test_executor *executor,
                              const test_schedule *schedule, upg_error *err)
{
    const upg_model_config *c = &program->weights->config;
    uint32_t                max_rows = executor->options.max_rows;
    upg_status              st;

    r->executor = executor;
    UPG_TRY(executor->class_->create(program, &executor->options, &r->backend, err));
    r->rows = upg_calloc(max_rows, sizeof *r->rows, err);
    r->logits = upg_calloc((size_t)max_rows * c->vocab, sizeof *r->logits, err);
    UPG_TRY(r->rows && r->logits ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t s = 0; s < schedule->n_sequences; s++)
        UPG_TRY(test_sequence_init(&r->sequences[s], c, schedule->kv_type, total(schedule, s),
                                   schedule->long_rope && s % 2 == 0, err));
out:
    return st;
}

static void runner_deinit(runner *r)
{
    for (uint32_t s = 0; s < TEST_MAX_SEQUENCES; s++)
        test_sequence_deinit(&r->sequences[s]);
    upg_free(r->logits);
    upg_free(r->rows);
    if (r->executor)
        r->executor->class_->close(r->backend);
}

static int32_t token_at(const test_schedule *s, uint32_t sequence, uint32_t position,
                        uint32_t vocab)
{
    return (int32_t)(upg_random_u64(s->seed + sequence, position) % vocab);
}

static upg_status run_step(runner *r, const test_schedule *schedule, uint32_t step, uint32_t vocab,
                           upg_batch *batch, upg_error *err)
{
    *batch = (upg_batch) { .rows = r->rows, .kv_layout = &r->sequences[0].layout };
    for (uint32_t s = 0; s < schedule->n_sequences; s++)
        for (uint32_t i = 0; i < schedule->counts[step][s]; i++) {
            uint32_t row = batch->n_rows++, position = r->sequences[s].length++;
            bool     wanted = !schedule->some_logits || row % 3 != 1;

            if (row >= r->executor->options.max_rows)
                return upg_fail(err, UPG_E_ARG, "step %u has more rows than max_rows", step);
            r->rows[row] = (upg_batch_row) {
                .token = token_at(schedule, s, position, vocab),
                .position = position,
                .kv = &r->sequences[s].view,
                .logits = wanted ? r->logits + (size_t)row * vocab : NULL,
            };
        }
    return r->executor->class_->run(r->backend, batch, err);
}

/* Infinity when a value is no number, so that no comparison can miss it. */
static double worse(double worst, double a, double b)
{
    double difference = fabs(a - b);

    return isfinite(difference) ? fmax(worst, difference) : INFINITY;
}

static double row_difference(const float *a, const float *b, uint32_t n)
{
    double low = a[0], high = a[0], worst = 0;

    for (uint32_t i = 0; i < n; i++) {
        low = fmin(low, (double)a[i]);
        high = fmax(high, (double)a[i]);
        worst = worse(worst, (double)a[i], (double)b[i]);
    }
    return worst / (high - low);
}

static void compare_logits(const upg_batch *a, const upg_batch *b, uint32_t step, uint32_t vocab,
                           test_difference *d)
{
    for (uint32_t row = 0; row < a->n_rows; row++) {
        double difference;

        if (!a->rows[row].logits)
            continue;
        difference = row_difference(a->rows[row].logits, b->rows[row].logits, vocab);
        d->n_logits++;
        if (difference > d->logits) {
            d->logits = difference;
            d->logits_step = step;
            d->logits_row = row;
        }
    }
}

/* K (v = 0) or V of one layer and sequence. x and y hold head_dim values each. */
static double kv_difference(const test_sequence *a, const test_sequence *b, uint32_t layer,
                            uint32_t v, float *x, float *y)
{
    double largest = 0, worst = 0;

    for (uint32_t t = 0; t < a->length; t++)
        for (uint32_t head = 0; head < a->layout.n_kv_heads; head++) {
            upg_ref_kv_load(&a->layout, &a->view, layer, head, v, t, x);
            upg_ref_kv_load(&b->layout, &b->view, layer, head, v, t, y);
            for (uint32_t i = 0; i < a->layout.head_dim; i++) {
                largest = fmax(largest, fabs((double)x[i]));
                worst = worse(worst, (double)x[i], (double)y[i]);
            }
        }
    return worst > 0 ? worst / largest : 0;
}

static upg_status compare_kv(const runner *a, const runner *b, uint32_t n_sequences,
                             test_difference *d, upg_error *err)
{
    const upg_kv_layout *layout = &a->sequences[0].layout;
    float               *x = upg_malloc(2 * (size_t)layout->head_dim, sizeof *x, err);

    if (!x)
        return UPG_E_NOMEM;
    for (uint32_t s = 0; s < n_sequences; s++)
        for (uint32_t layer = 0; layer < layout->n_layers; layer++)
            for (uint32_t v = 0; v < 2; v++) {
                double difference = kv_difference(&a->sequences[s], &b->sequences[s], layer, v, x,
                                                  x + layout->head_dim);

                if (difference > d->kv) {
                    d->kv = difference;
                    d->kv_layer = layer;
                }
            }
    upg_free(x);
    return UPG_OK;
}

upg_status test_backends_compare(const upg_program *program, const test_executor *reference,
                                 const test_executor *other, const test_schedule *schedule,
                                 test_difference *difference, upg_error *err)
{
    uint32_t   vocab = program->weights->config.vocab;
    runner     a = { 0 }, b = { 0 };
    upg_batch  batch_a, batch_b;
    upg_status st;

    *difference = (test_difference) { 0 };
    UPG_TRY(runner_init(&a, program, reference, schedule, err));
    UPG_TRY(runner_init(&b, program, other, schedule, err));
    for (uint32_t step = 0; step < schedule->n_steps; step++) {
        UPG_TRY(run_step(&a, schedule, step, vocab, &batch_a, err));
        UPG_TRY(run_step(&b, schedule, step, vocab, &batch_b, err));
        compare_logits(&batch_a, &batch_b, step, vocab, difference);
    }
    UPG_TRY(compare_kv(&a, &b, schedule->n_sequences, difference, err));
out:
    runner_deinit(&b);
    runner_deinit(&a);
    return st;
}
