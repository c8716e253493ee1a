#include "compress/tune.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "compress/dense_rows.h"
#include "compress/moments.h"
#include "compress/tune_impl.h"

/* Of Adam; steps are in ln of a factor. KL is quadratic in what coding did to a model, so that its
 * square root is how large that is, and what there is to gain lies as far away: the rate is in
 * proportion. A fixed rate that suits one model overshoots on another that lost less, until
 * nothing is gained (docs/QUALITY.md). */
static const double RATE_BY_LOSS = .012, LAST_RATE = .05, DECAY1 = .9, DECAY2 = .99;
enum { WARM_STEPS = 4 };

/* ---- windows ----------------------------------------------------------------------------------
 */

uint32_t upg_tune_held(uint32_t n_windows)
{
    return n_windows / 4 < UPG_TUNE_HELD ? n_windows / 4 : UPG_TUNE_HELD;
}

/* Whether a window is one of those held back, which are evenly spread. */
static bool is_held(uint32_t n_windows, uint32_t window)
{
    uint32_t held = upg_tune_held(n_windows);

    return (uint64_t)(window + 1) * held / n_windows != (uint64_t)window * held / n_windows;
}

static uint32_t steps_of(uint32_t n_windows, uint32_t epochs)
{
    uint32_t used = (n_windows - upg_tune_held(n_windows)) * epochs;

    return (used + UPG_TUNE_BATCH - 1) / UPG_TUNE_BATCH;
}

uint64_t upg_tune_work(const upg_weights *exact, uint32_t n_windows, uint32_t window,
                       uint32_t epochs)
{
    uint64_t held = upg_tune_held(n_windows), used = (uint64_t)(n_windows - held) * epochs;

    return exact->config.n_layers * (uint64_t)window * (n_windows + 2 * held + 2 * used);
}

/* order [n] = the windows that are used, shuffled by the epoch's number. */
static uint32_t shuffle(const upg_tuner *t, uint32_t epoch, uint32_t *order)
{
    uint32_t n = 0;

    for (uint32_t w = 0; w < t->in->n_windows; w++)
        if (!is_held(t->in->n_windows, w))
            order[n++] = w;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)(upg_random_u64(t->in->context->seed + epoch, i) % i);
        uint32_t swap = order[i - 1];

        order[i - 1] = order[j];
        order[j] = swap;
    }
    return n;
}

/* Mean KL over the windows held back. */
static upg_status measure(upg_tuner *t, double *kl, upg_error *err)
{
    uint32_t n = 0;
    double   sum = 0;

    t->backward = false;
    t->n_batch = 0;
    for (uint32_t w = 0; w < t->in->n_windows; w++) {
        if (is_held(t->in->n_windows, w))
            t->batch[t->n_batch++] = w;
        if (t->n_batch == UPG_TUNE_BATCH || (w + 1 == t->in->n_windows && t->n_batch > 0)) {
            upg_status st = upg_tuner_run_batch(t, err);

            if (st != UPG_OK)
                return st;
            for (uint32_t i = 0; i < t->n_batch; i++)
                sum += t->losses[i];
            n += t->n_batch;
            t->n_batch = 0;
        }
    }
    *kl = sum / n;
    return UPG_OK;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

typedef struct adam {
    float   *mean, *square; /* f32 [n_factors] */
    double   rate;          /* at its highest */
    double   power1, power2;
    uint32_t step, n_steps;
} adam;

/* A short rise, then a cosine. */
static double rate_of(const adam *a)
{
    double left = .5 * (1 + cos(3.14159265358979 * a->step / a->n_steps));
    double rise = a->step + 1 < WARM_STEPS ? (a->step + 1.0) / WARM_STEPS : 1;

    return a->rate * rise * (LAST_RATE + (1 - LAST_RATE) * left);
}

static void move(upg_tuner *t, adam *a)
{
    double rate = rate_of(a);

    a->step++;
    a->power1 *= DECAY1;
    a->power2 *= DECAY2;
    for (size_t i = 0; i < t->n_factors; i++) {
        double g = 0;

        for (uint32_t w = 0; w < t->n_batch; w++)
            g += (double)upg_tuner_gradients(t, w)[i];
        a->mean[i] = (float)(DECAY1 * (double)a->mean[i] + (1 - DECAY1) * g);
        a->square[i] = (float)(DECAY2 * (double)a->square[i] + (1 - DECAY2) * g * g);
        if (a->square[i] > 0)
            t->log_factors[i] -= (float)(rate * (double)a->mean[i] / (1 - a->power1) /
                                         sqrt((double)a->square[i] / (1 - a->power2)));
    }
}

/* An embedding that is no head stays, and rows with outliers, whose scale is not that of all of
 * the row. */
static void freeze_some(const upg_tuner *t)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(t->in->coded); i++) {
        const upg_matrix *matrix = upg_weights_matrix(t->in->coded, i);
        bool              stays =
            matrix->coded->outliers != NULL || (i == 0 && !t->in->coded->config.tied_embeddings);

        for (uint32_t w = 0; stays && w < t->n_batch; w++)
            memset(upg_tuner_gradients(t, w) + t->matrix_at[i], 0, matrix->n_rows * sizeof(float));
    }
}

/* loss: the KL before, of the windows held back */
static upg_status run_steps(upg_tuner *t, double loss, upg_error *err)
{
    upg_status st = UPG_OK;
    adam       a = { .rate = RATE_BY_LOSS * sqrt(loss),
                     .power1 = 1,
                     .power2 = 1,
                     .n_steps = steps_of(t->in->n_windows, t->in->epochs) };
    uint32_t  *order = upg_arena_alloc(&t->arena, t->in->n_windows, sizeof *order, err);

    a.mean = upg_arena_alloc(&t->arena, t->n_factors, sizeof *a.mean, err);
    a.square = upg_arena_alloc(&t->arena, t->n_factors, sizeof *a.square, err);
    UPG_TRY(order != NULL && a.mean != NULL && a.square != NULL ? UPG_OK : UPG_E_NOMEM);
    memset(a.mean, 0, t->n_factors * sizeof *a.mean);
    memset(a.square, 0, t->n_factors * sizeof *a.square);
    t->backward = true;
    for (uint32_t epoch = 0; epoch < t->in->epochs; epoch++) {
        uint32_t n = shuffle(t, epoch, order);

        for (uint32_t first = 0; first < n; first += UPG_TUNE_BATCH) {
            t->n_batch = n - first < UPG_TUNE_BATCH ? n - first : UPG_TUNE_BATCH;
            memcpy(t->batch, order + first, t->n_batch * sizeof *order);
            UPG_TRY(upg_tuner_run_batch(t, err));
            freeze_some(t);
            move(t, &a);
        }
    }
out:
    return st;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static uint32_t widest(const upg_model_config *c)
{
    uint32_t q = upg_layer_input_width(c, UPG_INPUT_O),
             most = c->ffn > c->hidden ? c->ffn : c->hidden;

    return q > most ? q : most;
}

static size_t layer_size(const upg_weights *weights, int matrix)
{
    const upg_matrix *m = upg_layer_matrix_of(&weights->layers[0], matrix);

    return (size_t)m->n_rows * m->n_cols;
}

uint64_t upg_tune_memory(const upg_weights *exact, uint32_t n_windows, uint32_t window,
                         uint32_t threads, bool keep_decoded, bool spill)
{
    const upg_model_config *c = &exact->config;
    uint64_t                slot = (uint64_t)window * c->hidden, floats,
             factors = (2 * c->n_layers + UINT64_C(1)) * c->hidden;
    uint64_t weights = 0;

    for (uint32_t i = 0; i < upg_weights_matrix_count(exact); i++) {
        const upg_matrix *m = upg_weights_matrix(exact, i);

        factors += m->n_rows;
        weights += (uint64_t)m->n_rows * m->n_cols;
    }
    floats = (UPG_TUNE_BATCH + 5) * factors + UPG_TUNE_BATCH * slot + 3 * (uint64_t)c->hidden;
    floats += 2 * (uint64_t)c->vocab * c->hidden + widest(c);
    floats += threads * (2 * (uint64_t)window + 2) * c->vocab;
    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        floats += layer_size(exact, m);
    if (keep_decoded)
        floats += weights;
    return floats * sizeof(float) + threads * upg_layer_buffers_memory(c, window, true) +
           upg_state_store_memory(n_windows, slot, 2 * threads, spill) +
           upg_state_store_memory((c->n_layers + 1) * UPG_TUNE_BATCH, slot, 2 * threads, spill);
}

uint64_t upg_tune_slots(const upg_weights *exact, uint32_t n_windows)
{
    return n_windows + (exact->config.n_layers + UINT64_C(1)) * UPG_TUNE_BATCH;
}

static float *floats(upg_tuner *t, size_t n, upg_status *st, upg_error *err)
{
    float *memory = upg_arena_alloc(&t->arena, n, sizeof *memory, err);

    if (memory == NULL)
        *st = UPG_E_NOMEM;
    return memory;
}

/* Where each matrix and norm has its factors, all of which begin as ln 1. */
static upg_status place_factors(upg_tuner *t, upg_error *err)
{
    uint32_t   n_matrices = upg_weights_matrix_count(t->in->coded), n_norms = 2 * t->n_layers + 1;
    upg_status st = UPG_OK;

    t->matrix_at = upg_arena_alloc(&t->arena, n_matrices, sizeof *t->matrix_at, err);
    t->norm_at = upg_arena_alloc(&t->arena, n_norms, sizeof *t->norm_at, err);
    t->decoded = upg_arena_alloc(&t->arena, n_matrices, sizeof *t->decoded, err);
    UPG_TRY(t->matrix_at && t->norm_at && t->decoded ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < n_matrices; i++) {
        t->matrix_at[i] = t->n_factors;
        t->n_factors += upg_weights_matrix(t->in->coded, i)->n_rows;
        t->decoded[i] = NULL;
    }
    for (uint32_t i = 0; i < n_norms; i++) {
        t->norm_at[i] = t->n_factors;
        t->n_factors += t->hidden;
    }
    t->log_factors = floats(t, t->n_factors, &st, err);
    t->gradients = floats(t, UPG_TUNE_BATCH * t->n_factors, &st, err);
    if (t->log_factors != NULL)
        memset(t->log_factors, 0, t->n_factors * sizeof *t->log_factors);
out:
    return st;
}

static upg_status allocate(upg_tuner *t, upg_error *err)
{
    const upg_model_config *c = &t->in->coded->config;
    const char             *spill = t->in->context->spill_beside;
    size_t                  state = upg_tuner_state_size(t), head = (size_t)c->vocab * c->hidden;
    upg_status              st;

    UPG_TRY(place_factors(t, err));
    UPG_TRY(
        upg_state_store_init(&t->finals, t->in->n_windows, state, 2 * t->n_threads, spill, err));
    UPG_TRY(upg_state_store_init(&t->states, (t->n_layers + 1) * UPG_TUNE_BATCH, state,
                                 2 * t->n_threads, spill, err));
    t->gradient = floats(t, UPG_TUNE_BATCH * state, &st, err);
    t->layer_norms = floats(t, 2 * (size_t)t->hidden, &st, err);
    t->final_norm = floats(t, t->hidden, &st, err);
    t->exact_head = floats(t, head, &st, err);
    t->head = floats(t, head, &st, err);
    t->logits = floats(t, (size_t)2 * t->n_threads * t->in->window * c->vocab, &st, err);
    t->rows = floats(t, (size_t)2 * t->n_threads * c->vocab, &st, err);
    t->signs = floats(t, widest(c), &st, err);
    for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
        t->memory[m] = floats(t, layer_size(t->in->coded, m), &st, err);
        t->layer.matrix[m] = t->memory[m];
    }
    t->buffers = upg_arena_alloc(&t->arena, t->n_threads, sizeof *t->buffers, err);
    UPG_TRY(t->buffers != NULL ? st : UPG_E_NOMEM);
    for (uint32_t i = 0; i < t->n_threads; i++)
        UPG_TRY(upg_layer_buffers_create(c, t->in->window, true, &t->arena, &t->buffers[i], err));
    if (t->in->keep_decoded)
        UPG_TRY(upg_tuner_decode_all(t, err));
out:
    return st;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

/* One allocation a vector: e^log, or 1 where nothing was gained. */
static upg_status take_factors(const upg_tuner *t, upg_tuning *tuning, size_t at, uint32_t n,
                               float **out, upg_error *err)
{
    *out = upg_arena_alloc(&tuning->arena, n, sizeof **out, err);
    if (*out == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        (*out)[i] = tuning->helped ? expf(t->log_factors[at + i]) : 1.0f;
    return UPG_OK;
}

static upg_status take_results(const upg_tuner *t, upg_tuning *tuning, upg_error *err)
{
    uint32_t   n_matrices = upg_weights_matrix_count(t->in->coded), n_norms = 2 * t->n_layers + 1;
    upg_status st;

    tuning->helped = tuning->kl_after < tuning->kl_before;
    tuning->rows = upg_arena_alloc(&tuning->arena, n_matrices, sizeof *tuning->rows, err);
    tuning->norms = upg_arena_alloc(&tuning->arena, n_norms, sizeof *tuning->norms, err);
    UPG_TRY(tuning->rows != NULL && tuning->norms != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < n_matrices; i++)
        UPG_TRY(take_factors(t, tuning, t->matrix_at[i],
                             upg_weights_matrix(t->in->coded, i)->n_rows, &tuning->rows[i], err));
    for (uint32_t i = 0; i < n_norms; i++)
        UPG_TRY(take_factors(t, tuning, t->norm_at[i], t->hidden, &tuning->norms[i], err));
out:
    return st;
}

upg_status upg_tuner_init(upg_tuner *t, const upg_tune_input *in, upg_error *err)
{
    *t = (upg_tuner) { .in = in,
                       .n_threads = upg_pool_size(in->context->pool),
                       .n_layers = in->coded->config.n_layers,
                       .hidden = in->coded->config.hidden,
                       .layer = { .config = &in->coded->config, .kernels = in->context->kernels },
                       .blas = upg_blas_begin() };
    return allocate(t, err);
}

void upg_tuner_deinit(upg_tuner *t)
{
    upg_state_store_deinit(&t->finals);
    upg_state_store_deinit(&t->states);
    upg_arena_deinit(&t->arena);
    upg_blas_end(t->blas);
}

upg_status upg_tune(const upg_tune_input *in, upg_tuning *tuning, upg_error *err)
{
    upg_status st;
    upg_tuner  t;

    *tuning = (upg_tuning) { 0 };
    UPG_TRY(upg_tuner_init(&t, in, err));
    UPG_TRY(upg_tuner_run_exact(&t, err));
    UPG_TRY(measure(&t, &tuning->kl_before, err));
    UPG_TRY(run_steps(&t, tuning->kl_before, err));
    UPG_TRY(measure(&t, &tuning->kl_after, err));
    UPG_TRY(take_results(&t, tuning, err));
out:
    upg_tuner_deinit(&t);
    return st;
}

void upg_tuning_deinit(upg_tuning *tuning)
{
    upg_arena_deinit(&tuning->arena);
    *tuning = (upg_tuning) { 0 };
}
