/* feedback_device.c: encoding with error feedback on a device; the host keeps scales and results.
 */
#include "base/alloc.h"
#include "compress/feedback.h"

typedef struct scale_work {
    const upg_device_unit *unit;
    uint16_t              *scales;
    double                 spread;
    uint32_t               n_cols;
} scale_work;

enum { ROWS_PER_ITEM = 64 };

static void scale_rows(void *context, size_t item, uint32_t worker)
{
    scale_work *w = context;
    uint32_t    begin = (uint32_t)item * ROWS_PER_ITEM, end = begin + ROWS_PER_ITEM;

    (void)worker;
    for (uint32_t r = begin; r < end && r < w->unit->n_rows; r++)
        w->scales[r] = upg_feedback_scale(w->unit->code, w->spread, w->n_cols,
                                          w->unit->weights + (size_t)r * w->n_cols);
}

/* A matrix's units with their results and scales. */
static upg_status add_units(const upg_encode_context *context, double spread,
                            upg_feedback_matrix *m, upg_device_unit *units, upg_error *err)
{
    uint32_t   n_cols = m->units[0].matrix->n_cols;
    uint64_t   words = 0;
    upg_status st = upg_feedback_room(m, err);

    for (uint32_t u = 0; u < m->n_units && st == UPG_OK; u++) {
        const upg_plan_unit *unit = &m->units[u];
        uint16_t            *scales = m->encoded.scales + unit->row0;
        scale_work           work = { &units[u], scales, spread, n_cols };

        units[u] =
            (upg_device_unit) { unit->code, unit->n_rows, m->weights + (size_t)unit->row0 * n_cols,
                                scales, m->encoded.bits + words };
        words += upg_plan_unit_words(unit);
        upg_pool_run(context->pool, (unit->n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM, scale_rows,
                     &work);
    }
    return st == UPG_OK ? upg_feedback_check(m, err) : st;
}

upg_status upg_feedback_encode_on_device(const upg_encode_context *context, double spread,
                                         upg_feedback_matrix *matrices, uint32_t n_matrices,
                                         upg_error *err)
{
    upg_compress_device *device = context->device;
    upg_device_unit     *units;
    uint32_t             n = 0;
    upg_status           st;

    for (uint32_t m = 0; m < n_matrices; m++)
        n += matrices[m].n_units;
    units = upg_calloc(n, sizeof *units, err);
    UPG_TRY(units != NULL ? UPG_OK : UPG_E_NOMEM);
    n = 0;
    for (uint32_t m = 0; m < n_matrices; m++) {
        UPG_TRY(add_units(context, spread, &matrices[m], units + n, err));
        n += matrices[m].n_units;
    }
    UPG_TRY(device->class_->feedback(device, matrices[0].units[0].matrix->n_cols, NULL, units, n,
                                     context->meter, err));
out:
    upg_free(units);
    for (uint32_t m = 0; st != UPG_OK && m < n_matrices; m++)
        upg_encoded_deinit(&matrices[m].encoded);
    return st;
}
