#include "compress/part.h"

static bool in_layer(const upg_weights *weights, const upg_matrix *m)
{
    return m != &weights->embed && m != &weights->head;
}

bool upg_part_is_same(const upg_weights *weights, const upg_matrix *a, const upg_matrix *b)
{
    return a == b ||
           (a != NULL && in_layer(weights, a) && in_layer(weights, b) && a->layer == b->layer);
}

void upg_part_begin(upg_meter *meter, const upg_weights *weights, const upg_plan *plan,
                    const upg_encoded_sink *sink, const upg_matrix *matrix)
{
    uint64_t total = 0;

    for (uint32_t u = 0; u < plan->n_units; u++) {
        const upg_matrix *m = plan->units[u].matrix;

        if (upg_part_is_same(weights, m, matrix) &&
            (sink->has == NULL || !sink->has(sink->user, m)))
            total += (uint64_t)plan->units[u].n_rows * m->n_cols;
    }
    if (in_layer(weights, matrix))
        upg_meter_part(meter, "layer", matrix->layer + 1, weights->config.n_layers, total);
    else
        upg_meter_part(meter, matrix == &weights->embed ? "embedding" : "head", 1, 1, total);
}
