#include "compress/job_memory.h"

#include <inttypes.h>

#include "compress/dense_rows.h"
#include "compress/sensitivity.h"

typedef struct needs {
    const upg_weights     *weights;
    const upg_plan        *plan;        /* NULL: for planning */
    const upg_calibration *calibration; /* n_windows 0: none */
    uint64_t               kept;
} needs;

/* The plan's matrix that takes most to be coded to nearest. */
static uint64_t largest_nearest(const upg_plan *plan, uint32_t threads, const char **what)
{
    uint64_t most = 0;

    for (uint32_t u = 0; u < plan->n_units;) {
        uint32_t n = upg_plan_units_of(plan, u);
        uint64_t bytes = upg_encode_memory(&plan->units[u], n, threads);

        if (bytes > most) {
            most = bytes;
            *what = plan->units[u].matrix->name;
        }
        u += n;
    }
    return most;
}

/* A search for outliers reads all of a matrix, column by column. */
static uint64_t largest_matrix(const upg_weights *weights)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < upg_weights_matrix_count(weights); i++) {
        uint64_t bytes = upg_dense_bytes(upg_weights_matrix(weights, i));

        most = bytes > most ? bytes : most;
    }
    return most;
}

static uint64_t need(const needs *n, uint32_t threads, bool spill, const char **what)
{
    const upg_calibration *k = n->calibration;
    uint64_t               bytes = UPG_PROCESS_BYTES + n->kept, largest;

    *what = NULL;
    if (k->n_windows == 0) {
        largest = largest_matrix(n->weights);
        return bytes + (n->plan != NULL ? largest_nearest(n->plan, threads, what) : largest);
    }
    bytes += threads * UPG_BLAS_THREAD_BYTES;
    if (n->plan == NULL)
        return bytes + upg_sensitivity_memory(n->weights, k->n_windows, k->window, threads, spill);
    return bytes + upg_calibrated_memory(n->weights, n->plan, k, threads, spill);
}

/* The most threads that fit, states in memory where they do. False: not even one thread does. */
static bool choose(const needs *n, uint32_t threads, uint64_t limit, upg_memory_choice *choice)
{
    const char *what;

    for (uint32_t t = threads; t > 0; t--)
        for (int spill = 0; spill < 2; spill++) {
            uint64_t bytes = need(n, t, spill != 0, &what);

            if (bytes <= limit) {
                *choice = (upg_memory_choice) { t, spill != 0, bytes };
                return true;
            }
        }
    return false;
}

upg_status upg_memory_choose(const upg_weights *weights, const upg_plan *plan,
                             const upg_calibration *calibration, uint32_t plan_windows,
                             uint64_t kept_bytes, uint32_t threads, uint64_t limit,
                             upg_memory_choice *planning, upg_memory_choice *encoding,
                             upg_error *err)
{
    upg_calibration windows = { .n_windows = plan_windows, .window = calibration->window };
    needs           plans = { weights, NULL, &windows, 0 };
    needs           encodes = { weights, plan, calibration, kept_bytes };
    const char     *plan_what, *what;
    uint64_t        plan_least, least;

    if (choose(&plans, threads, limit, planning) && choose(&encodes, threads, limit, encoding))
        return UPG_OK;
    plan_least = need(&plans, 1, true, &plan_what);
    least = need(&encodes, 1, true, &what);
    return upg_fail(err, UPG_E_BUDGET,
                    "%s%s%s%s takes at least %" PRIu64 " bytes of memory, %" PRIu64
                    " are allowed: allow more%s",
                    plan_least > least ? "planning" : "encoding", what != NULL ? " \"" : "",
                    what != NULL ? what : "", what != NULL ? "\"" : "",
                    plan_least > least ? plan_least : least, limit,
                    plan_windows > 0 ? ", or leave calibration out" : "");
}
