#include "compress/job_report.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

void upg_job_summary_add(upg_job_summary *summary, upg_role role, double error2, double energy2)
{
    summary->error2[role] += error2;
    summary->energy2[role] += energy2;
}

static const char *role_name(upg_role role)
{
    static const char *const names[UPG_ROLE_COUNT] = {
        "embed",    "attention_norm", "q",  "k",    "v",          "o",
        "ffn_norm", "gate",           "up", "down", "final_norm", "head"
    };

    return names[role];
}

/* Takes `value` (NULL = out of memory) and replaces the buffer's text by it. */
static upg_status dump(json_t *value, upg_buffer *json, upg_error *err)
{
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
    upg_status st;

    json_decref(value);
    if (text == NULL)
        return upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
    upg_buffer_clear(json);
    st = upg_buffer_add(json, text, strlen(text), err);
    free(text);
    return st;
}

static json_t *matrix_json(const upg_plan_unit *units, uint32_t n_units,
                           const upg_plan_candidate *outliers)
{
    json_t           *object;
    const upg_matrix *m = units[0].matrix;
    json_t           *bands = json_array();

    for (uint32_t u = 0; u < n_units; u++)
        json_array_append_new(
            bands,
            json_pack("{s:I,s:I,s:f,s:I,s:f}", "row", (json_int_t)units[u].row0, "rows",
                      (json_int_t)units[u].n_rows, "rate", units[u].code->rate2 / 2.0, "code_bytes",
                      (json_int_t)(sizeof(uint32_t) * upg_plan_unit_words(&units[u])),
                      "predicted_kl", upg_plan_unit_loss(&units[u])));
    object = json_pack("{s:s,s:I,s:I,s:o}", "name", m->name, "rows", (json_int_t)m->n_rows, "cols",
                       (json_int_t)m->n_cols, "bands", bands);
    if (outliers != NULL)
        json_object_set_new(
            object, "outliers",
            json_pack("{s:I,s:I,s:I}", "columns", (json_int_t)outliers->counts.n_columns, "sparse",
                      (json_int_t)outliers->counts.n_sparse, "bytes", (json_int_t)outliers->bytes));
    return object;
}

static double ratio(double numerator, double denominator)
{
    return denominator > 0 ? numerator / denominator : 0;
}

upg_status upg_job_report_plan(const upg_plan *plan, const upg_container_size *size,
                               uint64_t peak_memory, uint64_t source_bytes, uint32_t n_windows,
                               upg_buffer *json, upg_error *err)
{
    json_t *matrices = json_array();

    for (uint32_t u = 0; u < plan->n_units;) {
        uint32_t n = upg_plan_units_of(plan, u);

        json_array_append_new(matrices,
                              matrix_json(&plan->units[u], n, upg_plan_outliers_of(plan, u)));
        u += n;
    }
    return dump(
        json_pack("{s:I,s:I,s:I,s:f,s:f,s:I,s:i,s:f,s:o}", "parameters",
                  (json_int_t)size->parameters, "weight_bytes", (json_int_t)size->weight_bytes,
                  "predicted_file_bytes", (json_int_t)size->file_bytes, "predicted_ratio_fp32",
                  ratio(4.0 * (double)size->parameters, (double)size->file_bytes),
                  "predicted_ratio_source", ratio((double)source_bytes, (double)size->file_bytes),
                  "memory_bytes", (json_int_t)peak_memory, "calibration_windows", (int)n_windows,
                  "predicted_kl", plan->predicted_kl, "matrices", matrices),
        json, err);
}

upg_status upg_job_report_recipe(const upg_job_recipe *r, upg_buffer *json, upg_error *err)
{
    json_t *root = json_pack("{s:I}", "seed", (json_int_t)r->seed);

    if (r->bits_per_parameter > 0)
        json_object_set_new(root, "bits_per_parameter", json_real(r->bits_per_parameter));
    if (r->effort != NULL)
        json_object_set_new(root, "effort", json_string(r->effort));
    if (r->without_outliers)
        json_object_set_new(root, "outliers", json_false());
    if (r->max_file_bytes > 0)
        json_object_set_new(root, "max_file_bytes", json_integer((json_int_t)r->max_file_bytes));
    if (r->n_windows == 0)
        json_object_set_new(root, "calibration", json_null());
    else
        json_object_set_new(root, "calibration",
                            json_pack("{s:s,s:I,s:I,s:i,s:i,s:s,s:f,s:s,s:i}", "text_xxh3",
                                      r->text_hash, "text_bytes", (json_int_t)r->text_bytes,
                                      "text_tokens", (json_int_t)r->text_tokens, "windows",
                                      (int)r->n_windows, "window", (int)r->window, "moments",
                                      r->independent ? "independent" : "sequential", "damping",
                                      r->damping, "plan", "fisher", "plan_windows",
                                      (int)r->plan_windows));
    if (r->tune_windows > 0)
        json_object_set_new(
            root, "tuning",
            json_pack("{s:i,s:i}", "windows", (int)r->tune_windows, "epochs", (int)r->tune_epochs));
    return dump(root, json, err);
}

static json_t *evaluation_json(const upg_evaluation *e)
{
    if (e == NULL)
        return json_null();
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:i,s:s}", "perplexity",
                     e->perplexity, "original_perplexity", e->against_perplexity, "ppl_ratio",
                     ratio(e->perplexity, e->against_perplexity), "retention",
                     ratio(e->against_perplexity, e->perplexity), "kl_mean", e->kl_mean, "kl_p99",
                     e->kl_p99, "top1", e->top1, "top1_agreement", e->top1_agreement, "tokens",
                     (json_int_t)e->tokens, "windows", (json_int_t)e->windows, "window",
                     (int)e->window, "text_xxh3", e->text_hash);
}

upg_status upg_job_report_quality(const upg_job_summary *summary, const upg_evaluation *evaluation,
                                  upg_buffer *json, upg_error *err)
{
    json_t *roles = json_object();
    double  error2 = 0, energy2 = 0;

    for (int r = 0; r < UPG_ROLE_COUNT; r++) {
        if (summary->energy2[r] > 0)
            json_object_set_new(roles, role_name((upg_role)r),
                                json_real(summary->error2[r] / summary->energy2[r]));
        error2 += summary->error2[r];
        energy2 += summary->energy2[r];
    }
    return dump(json_pack("{s:f,s:o,s:o}", "relative_error", ratio(error2, energy2), "by_role",
                          roles, "evaluation", evaluation_json(evaluation)),
                json, err);
}

upg_status upg_job_report_result(const char *path, uint64_t source_bytes,
                                 const upg_container_size *size, double seconds,
                                 const upg_job_summary *summary, const upg_evaluation *evaluation,
                                 upg_buffer *json, upg_error *err)
{
    upg_map    map;
    upg_status st = upg_map_open(path, &map, err);
    double     bytes, error2 = 0, energy2 = 0, parameters = (double)size->parameters;

    if (st != UPG_OK) {
        upg_error_prefix(err, "%s: ", path);
        return st;
    }
    bytes = (double)map.bytes.size;
    upg_map_close(&map);
    for (int r = 0; r < UPG_ROLE_COUNT; r++) {
        error2 += summary->error2[r];
        energy2 += summary->energy2[r];
    }
    return dump(
        json_pack("{s:I,s:I,s:f,s:I,s:f,s:f,s:f,s:f,s:o,s:f}", "file_bytes", (json_int_t)bytes,
                  "parameters", (json_int_t)size->parameters, "bits_per_parameter",
                  ratio(8 * bytes, parameters), "weight_bytes", (json_int_t)size->weight_bytes,
                  "weight_bits_per_parameter", ratio(8 * (double)size->weight_bytes, parameters),
                  "ratio_fp32", ratio(4 * parameters, bytes), "ratio_source",
                  ratio((double)source_bytes, bytes), "relative_error", ratio(error2, energy2),
                  "evaluation", evaluation_json(evaluation), "seconds", seconds),
        json, err);
}
