/* quality_data.c: see quality_data.h. */
#include "quality_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

static const struct {
    const char *label, *ending;
} roles[CLI_ROLE_COUNT] = {
#define CLI_ROLE_ROW(name, label, ending) { label, ending },
    CLI_ROLE_MAP(CLI_ROLE_ROW)
#undef CLI_ROLE_ROW
};

const char *cli_role_label(cli_role role)
{
    return roles[role].label;
}

bool cli_role_in_layers(cli_role role)
{
    return role != CLI_ROLE_EMBED && role != CLI_ROLE_HEAD;
}

static cli_role role_of(const char *name)
{
    size_t n = strlen(name);

    for (int r = 0; r < CLI_ROLE_COUNT; r++) {
        size_t end = strlen(roles[r].ending);

        if (n >= end && strcmp(name + n - end, roles[r].ending) == 0)
            return (cli_role)r;
    }
    return CLI_ROLE_COUNT;
}

static uint32_t layer_of(const char *name)
{
    const char *at = strstr(name, "layers.");

    return at ? (uint32_t)strtoul(at + strlen("layers."), NULL, 10) : 0;
}

/* Adds tensor `index` if it is a matrix; *more becomes false after the last one. */
static upg_status add_tensor(cli_quality *q, const upg_model *model, size_t index, bool *more,
                             upg_error *err)
{
    upg_tensor_info     tensor = { .struct_size = sizeof tensor };
    upg_status          st = upg_model_tensor(model, index, &tensor, err);
    cli_matrix_quality *grown;
    cli_role            role;

    *more = st == UPG_OK;
    if (st == UPG_E_ARG) /* past the last one */
        return UPG_OK;
    if (st != UPG_OK)
        return st;
    role = role_of(tensor.name);
    if (role == CLI_ROLE_COUNT || tensor.shape[1] == 0)
        return UPG_OK;
    grown = realloc(q->matrices, (q->n_matrices + 1) * sizeof *grown);
    if (!grown)
        return cli_error(err, UPG_E_NOMEM, "out of memory");
    q->matrices = grown;
    grown[q->n_matrices++] = (cli_matrix_quality) { .role = role,
                                                    .layer = layer_of(tensor.name),
                                                    .weights = tensor.shape[0] * tensor.shape[1],
                                                    .bytes = tensor.bytes,
                                                    .bits = tensor.bits_per_weight,
                                                    .error = tensor.relative_error };
    return UPG_OK;
}

upg_status cli_quality_init(cli_quality *q, const upg_model *model, upg_error *err)
{
    bool       more = true;
    upg_status st;

    *q = (cli_quality) { .info = { .struct_size = sizeof q->info } };
    st = upg_model_describe(model, &q->info, err);
    for (size_t i = 0; st == UPG_OK && more; i++)
        st = add_tensor(q, model, i, &more, err);
    if (st == UPG_OK && q->info.quality_json && q->info.quality_json[0])
        q->report = json_loads(q->info.quality_json, 0, NULL);
    q->evaluation = json_object_get(q->report, "evaluation");
    if (!json_is_object(q->evaluation))
        q->evaluation = NULL;
    return st;
}

void cli_quality_deinit(cli_quality *q)
{
    json_decref(q->report);
    free(q->matrices);
    *q = (cli_quality) { 0 };
}

const cli_matrix_quality *cli_quality_find(const cli_quality *q, cli_role role, uint32_t layer)
{
    for (size_t i = 0; i < q->n_matrices; i++)
        if (q->matrices[i].role == role && q->matrices[i].layer == layer)
            return &q->matrices[i];
    return NULL;
}

cli_matrix_quality cli_quality_of_role(const cli_quality *q, cli_role role)
{
    cli_matrix_quality sum = { .role = role };

    for (size_t i = 0; i < q->n_matrices; i++) {
        const cli_matrix_quality *m = &q->matrices[i];

        if (m->role != role)
            continue;
        sum.weights += m->weights;
        sum.bytes += m->bytes;
        sum.error = m->error < 0 || sum.error < 0 ? -1 : sum.error + m->error * (double)m->weights;
    }
    if (sum.weights > 0) {
        sum.bits = 8 * (double)sum.bytes / (double)sum.weights;
        if (sum.error > 0)
            sum.error /= (double)sum.weights;
    }
    return sum;
}
