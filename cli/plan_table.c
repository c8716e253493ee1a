/* plan_table.c: one line for a matrix, and one for each band of those that have several. */
#include "plan_table.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "command.h"
#include "report.h"

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static uint64_t integer_of(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

typedef struct sums {
    double   rate; /* mean over rows */
    double   kl;
    uint64_t bytes;
} sums;

static sums sum_bands(const json_t *bands, uint64_t rows)
{
    sums          s = { 0 };
    size_t        i;
    const json_t *band;

    json_array_foreach(bands, i, band)
    {
        s.rate += number_of(band, "rate") * (double)integer_of(band, "rows") / (double)rows;
        s.kl += number_of(band, "predicted_kl");
        s.bytes += integer_of(band, "code_bytes");
    }
    return s;
}

static void print_line(const char *name, const char *shape, const sums *s)
{
    printf("%-44s %-14s %6.3f %12" PRIu64 " %12.3g\n", name, shape, s->rate, s->bytes, s->kl);
}

static void print_matrix(const json_t *matrix)
{
    const json_t *bands = json_object_get(matrix, "bands"), *band;
    const json_t *outliers = json_object_get(matrix, "outliers");
    uint64_t      rows = integer_of(matrix, "rows");
    sums          all = sum_bands(bands, rows);
    char          name[64], shape[48];
    size_t        i;

    snprintf(shape, sizeof shape, "%" PRIu64 " x %" PRIu64, rows, integer_of(matrix, "cols"));
    print_line(json_string_value(json_object_get(matrix, "name")), shape, &all);
    if (outliers) {
        sums beside = { 0, 0, integer_of(outliers, "bytes") };

        snprintf(name, sizeof name, "  outliers: %" PRIu64 ", columns: %" PRIu64,
                 integer_of(outliers, "sparse"), integer_of(outliers, "columns"));
        print_line(name, "", &beside);
    }
    if (json_array_size(bands) < 2)
        return;
    json_array_foreach(bands, i, band)
    {
        uint64_t first = integer_of(band, "row");
        sums     one = { number_of(band, "rate"), number_of(band, "predicted_kl"),
                         integer_of(band, "code_bytes") };

        snprintf(name, sizeof name, "  rows %" PRIu64 " ... %" PRIu64, first,
                 first + integer_of(band, "rows") - 1);
        print_line(name, "", &one);
    }
}

int cli_print_plan(const cli_command *command, const char *json)
{
    json_t       *plan = json_loads(json, 0, NULL);
    const json_t *matrix;
    size_t        i;
    char          size[CLI_SIZE_TEXT];

    if (!plan)
        return cli_fail(command, CLI_BUG, "the library's plan is no JSON object");
    printf(
        "Nothing was written. Sizes are exact or upper bounds; losses are predicted, in nats of\n"
        "KL divergence a token: they rank plans and are no measurement.\n\n");
    printf("%-44s %-14s %6s %12s %12s\n", "matrix", "shape", "rate", "code bytes", "predicted KL");
    json_array_foreach(json_object_get(plan, "matrices"), i, matrix) print_matrix(matrix);
    printf("\nparameters          %" PRIu64 "\n", integer_of(plan, "parameters"));
    printf("weights             %" PRIu64 " bytes, %.4f bits per weight\n",
           integer_of(plan, "weight_bytes"),
           8 * number_of(plan, "weight_bytes") / number_of(plan, "parameters"));
    printf("file at most        %s, %.2f : 1 against fp32, %.2f : 1 against the checkpoint\n",
           cli_size_text(integer_of(plan, "predicted_file_bytes"), size),
           number_of(plan, "predicted_ratio_fp32"), number_of(plan, "predicted_ratio_source"));
    printf("memory for encoding %s\n", cli_size_text(integer_of(plan, "memory_bytes"), size));
    printf("predicted KL        %.6f\n", number_of(plan, "predicted_kl"));
    json_decref(plan);
    return cli_finish_output();
}
