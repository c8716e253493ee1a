/* quality.c: the report's keys are the library's; whatever they are, they are shown by name. */
#include "quality.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* "by_role" reads better as "by role". */
static void print_key(const char *key, int width)
{
    int n = 0;

    for (; key[n]; n++)
        putchar(key[n] == '_' ? ' ' : key[n]);
    printf("%*s", n < width ? width - n : 1, "");
}

static void print_scalar(const json_t *value)
{
    if (json_is_string(value))
        printf("%s", json_string_value(value));
    else if (json_is_integer(value))
        printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        printf("%.6g", json_real_value(value));
    else
        printf("%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "...");
}

static void print_list(json_t *object)
{
    const char *key, *between = "";
    json_t     *value;

    json_object_foreach(object, key, value)
    {
        printf("%s%s ", between, key);
        print_scalar(value);
        between = ", ";
    }
}

void cli_print_quality(const char *json)
{
    json_t     *report = json && json[0] ? json_loads(json, 0, NULL) : NULL;
    const char *key;
    json_t     *value;

    printf("quality, as measured when it was compressed%s\n", report ? "" : ": none in the file");
    json_object_foreach(report, key, value)
    {
        if (json_is_null(value))
            continue;
        printf("  ");
        print_key(key, 18);
        if (json_is_object(value))
            print_list(value);
        else
            print_scalar(value);
        putchar('\n');
    }
    json_decref(report);
}

/* ---- tables ------------------------------------------------------------------------------- */

static void print_evaluation(const json_t *evaluation)
{
    static const struct {
        const char *key, *label;
    } lines[] = { { "perplexity", "perplexity" },
                  { "original_perplexity", "of the original" },
                  { "ppl_ratio", "ratio" },
                  { "retention", "retention" },
                  { "kl_mean", "KL, mean" },
                  { "kl_p99", "KL, 99th percentile" },
                  { "top1", "top-1" },
                  { "top1_agreement", "top-1 agreement" },
                  { "tokens", "tokens scored" },
                  { "text_xxh3", "text (XXH3-128)" } };

    if (!evaluation) {
        printf("not run on any text when it was compressed: no perplexity, no KL\n");
        return;
    }
    printf("run on a text when it was compressed, beside the original\n");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        const json_t *value = json_object_get(evaluation, lines[i].key);

        if (!value)
            continue;
        printf("  %-20s", lines[i].label);
        print_scalar(value);
        putchar('\n');
    }
}

static void print_error(double error, int width)
{
    if (error < 0)
        printf(" %*s", width, "-");
    else
        printf(" %*.5f", width, error);
}

static void print_roles(const cli_quality *q)
{
    printf("\n%-10s %14s %9s %9s\n", "role", "bytes", "bits/w", "error");
    for (int r = 0; r < CLI_ROLE_COUNT; r++) {
        cli_matrix_quality sum = cli_quality_of_role(q, (cli_role)r);

        if (sum.weights == 0)
            continue;
        printf("%-10s %14" PRIu64 " %9.4f", cli_role_label((cli_role)r), sum.bytes, sum.bits);
        print_error(sum.error, 9);
        putchar('\n');
    }
}

static void print_layers(const cli_quality *q)
{
    printf("\n%-10s", "error");
    for (int r = 0; r < CLI_ROLE_COUNT; r++)
        if (cli_role_in_layers((cli_role)r))
            printf(" %9s", cli_role_label((cli_role)r));
    putchar('\n');
    for (uint32_t layer = 0; layer < q->info.layers; layer++) {
        printf("layer %-4" PRIu32, layer);
        for (int r = 0; r < CLI_ROLE_COUNT; r++) {
            const cli_matrix_quality *m = cli_quality_find(q, (cli_role)r, layer);

            if (cli_role_in_layers((cli_role)r))
                print_error(m ? m->error : -1, 9);
        }
        putchar('\n');
    }
}

void cli_print_quality_tables(const cli_quality *q)
{
    print_evaluation(q->evaluation);
    print_roles(q);
    print_layers(q);
    printf("\nerror: |W - W'|^2 / |W|^2, measured when it was compressed\n");
}
