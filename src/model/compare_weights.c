#include "model/compare_weights.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"

enum { ROWS_PER_ITEM = 64 };

typedef struct comparison {
    const upg_weights *weights, *original;
    upg_pool          *pool;
    upg_meter          meter;
    void (*show)(void *user, const upg_compared *result);
    void    *user;
    uint32_t n_differ;
    /* the matrix at hand */
    const upg_matrix *coded, *exact;
    float            *rows;             /* f32 [threads][2][n_cols] */
    double           *error2, *energy2; /* [items]: summed in their order by one thread */
} comparison;

static void compare_rows(void *context, size_t item, uint32_t worker)
{
    comparison *c = context;
    uint32_t    n_cols = c->coded->n_cols, first = (uint32_t)item * ROWS_PER_ITEM;
    float      *coded = c->rows + (size_t)worker * 2 * n_cols, *exact = coded + n_cols;
    double      error2 = 0, energy2 = 0;

    for (uint32_t r = first; r < first + ROWS_PER_ITEM && r < c->coded->n_rows; r++) {
        if (upg_meter_cancelled(&c->meter))
            return;
        upg_matrix_row(c->coded, r, coded);
        upg_matrix_row(c->exact, r, exact);
        for (uint32_t j = 0; j < n_cols; j++) {
            double e = (double)exact[j] - (double)coded[j];

            error2 += e * e;
            energy2 += (double)exact[j] * (double)exact[j];
        }
        upg_meter_add(&c->meter, n_cols);
    }
    c->error2[item] = error2;
    c->energy2[item] = energy2;
    if (worker == 0)
        upg_meter_tick(&c->meter);
}

static void show(comparison *c, const upg_compared *result)
{
    c->n_differ += !result->agrees;
    if (c->show != NULL)
        c->show(c->user, result);
}

static upg_status unlike(const char *name, upg_error *err)
{
    return upg_fail(err, UPG_E_DATA,
                    "\"%s\" has another shape, or another place: this is not the checkpoint that "
                    "the file was made of",
                    name);
}

/* Sums the items and judges. */
static void judge_matrix(comparison *c, size_t n_items)
{
    double       error2 = 0, energy2 = 0;
    upg_compared result = { .name = c->coded->name, .stored = c->coded->relative_error };

    for (size_t i = 0; i < n_items; i++) {
        error2 += c->error2[i];
        energy2 += c->energy2[i];
    }
    result.measured = energy2 > 0 ? error2 / energy2 : 0;
    result.agrees = result.stored < 0 || fabs(result.measured - result.stored) <=
                                             UPG_COMPARE_TOLERANCE * result.stored + 1e-9;
    show(c, &result);
}

static upg_status compare_matrix(comparison *c, uint32_t index, upg_error *err)
{
    size_t     n_items;
    upg_status st = UPG_OK;

    c->coded = upg_weights_matrix(c->weights, index);
    c->exact = upg_weights_matrix(c->original, index);
    if (strcmp(c->coded->name, c->exact->name) != 0 || c->coded->n_rows != c->exact->n_rows ||
        c->coded->n_cols != c->exact->n_cols)
        return unlike(c->coded->name, err);
    n_items = (c->coded->n_rows + (size_t)ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;
    c->rows =
        upg_malloc((size_t)2 * upg_pool_size(c->pool) * c->coded->n_cols, sizeof *c->rows, err);
    c->error2 = upg_calloc(n_items, sizeof *c->error2, err);
    c->energy2 = upg_calloc(n_items, sizeof *c->energy2, err);
    UPG_TRY(c->rows && c->error2 && c->energy2 ? UPG_OK : UPG_E_NOMEM);
    upg_pool_run(c->pool, n_items, compare_rows, c);
    if (upg_meter_cancelled(&c->meter))
        UPG_TRY(upg_meter_finish(&c->meter, err));
    judge_matrix(c, n_items);
out:
    upg_free(c->rows);
    upg_free(c->error2);
    upg_free(c->energy2);
    c->rows = NULL;
    c->error2 = c->energy2 = NULL;
    return st;
}

/* Vectors are stored without loss. */
static upg_status compare_vector(comparison *c, const upg_vector *stored, const upg_vector *exact,
                                 upg_error *err)
{
    upg_compared result = { .name = stored->name };
    double       error2 = 0, energy2 = 0;

    if (strcmp(stored->name, exact->name) != 0 || stored->n != exact->n)
        return unlike(stored->name, err);
    for (uint32_t i = 0; i < exact->n; i++) {
        double e = (double)exact->values[i] - (double)stored->values[i];

        error2 += e * e;
        energy2 += (double)exact->values[i] * (double)exact->values[i];
    }
    result.measured = energy2 > 0 ? error2 / energy2 : error2;
    result.agrees = error2 == 0;
    show(c, &result);
    return UPG_OK;
}

static upg_status compare_vectors(comparison *c, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t l = 0; l < c->weights->config.n_layers; l++) {
        const upg_layer_weights *a = &c->weights->layers[l], *b = &c->original->layers[l];

        UPG_TRY(compare_vector(c, &a->attention_norm, &b->attention_norm, err));
        UPG_TRY(compare_vector(c, &a->ffn_norm, &b->ffn_norm, err));
    }
    UPG_TRY(compare_vector(c, &c->weights->final_norm, &c->original->final_norm, err));
out:
    return st;
}

upg_status upg_weights_compare(const upg_weights *weights, const upg_weights *original,
                               upg_pool *pool, const upg_listener *listener,
                               void (*shown)(void *user, const upg_compared *result), void *user,
                               uint32_t *n_differ, upg_error *err)
{
    comparison c = {
        .weights = weights, .original = original, .pool = pool, .show = shown, .user = user
    };
    uint32_t   n = upg_weights_matrix_count(weights);
    upg_status st = UPG_OK;

    *n_differ = 0;
    if (n != upg_weights_matrix_count(original) ||
        weights->config.n_layers != original->config.n_layers)
        return upg_fail(err, UPG_E_DATA,
                        "the file has %" PRIu32 " layers, the checkpoint %" PRIu32
                        ", and matrices %" PRIu32 " and %" PRIu32
                        ": this is not the checkpoint that the file was made of",
                        weights->config.n_layers, original->config.n_layers, n,
                        upg_weights_matrix_count(original));
    upg_meter_start(&c.meter, listener, "compare", "weights", weights->n_parameters);
    for (uint32_t i = 0; i < n; i++)
        UPG_TRY(compare_matrix(&c, i, err));
    UPG_TRY(compare_vectors(&c, err));
    UPG_TRY(upg_meter_finish(&c.meter, err));
    UPG_TRY(upg_weights_check_maps(weights, err));
    UPG_TRY(upg_weights_check_maps(original, err));
    *n_differ = c.n_differ;
out:
    return st;
}
