/* cmd_inspect.c: `upg inspect`: what is in a model file. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "generate.h"
#include "quality.h"
#include "report.h"

typedef struct inspect_args {
    bool           json, program, quality, force;
    const char    *html;
    cli_model_args model;
} inspect_args;

static const cli_option options[] = {
    { .name = "json",
      .type = CLI_FLAG,
      .offset = offsetof(inspect_args, json),
      .help = "writes one JSON object" },
    { .name = "program",
      .type = CLI_FLAG,
      .offset = offsetof(inspect_args, program),
      .help = "prints the ops that run for one token instead" },
    { .name = "unfused",
      .type = CLI_FLAG,
      .offset = offsetof(inspect_args, model.unfused),
      .help = "with --program: the same as plain ops" },
    { .name = "quality",
      .type = CLI_FLAG,
      .offset = offsetof(inspect_args, quality),
      .help = "prints the quality report instead: figures on text, where\n"
              "they were measured, and errors by role and layer" },
    { .name = "html",
      .type = CLI_TEXT,
      .argument = "PAGE",
      .offset = offsetof(inspect_args, html),
      .help = "writes that report as one HTML page with plots" },
    { .name = "force",
      .type = CLI_FLAG,
      .offset = offsetof(inspect_args, force),
      .help = "replaces PAGE if it exists" },
    { .table = cli_model_options, .offset = offsetof(inspect_args, model) },
    { 0 },
};

enum { SHAPE_TEXT = 96 };

static const char *shape_text(const upg_tensor_info *tensor, char text[SHAPE_TEXT])
{
    size_t at = 0;

    text[0] = '\0';
    for (size_t d = 0; d < 4 && tensor->shape[d]; d++)
        at += (size_t)snprintf(text + at, SHAPE_TEXT - at, "%s%" PRIu64, d ? " x " : "",
                               tensor->shape[d]);
    return text;
}

/* Tensor `index`; false after the last one, *st says whether that was the end. */
static bool next_tensor(const upg_model *model, size_t index, upg_tensor_info *tensor,
                        upg_status *st, upg_error *err)
{
    *tensor = (upg_tensor_info) { .struct_size = sizeof *tensor };
    *st = upg_model_tensor(model, index, tensor, err);
    if (*st == UPG_OK)
        return true;
    if (*st == UPG_E_ARG) /* past the last one */
        *st = UPG_OK;
    return false;
}

static double weight_bits(const upg_model_info *info)
{
    return info->parameters ? 8 * (double)info->weight_bytes / (double)info->parameters : 0;
}

static upg_status print_table(const upg_model *model, const upg_model_info *info, upg_error *err)
{
    upg_tensor_info tensor;
    upg_status      st;
    char            shape[SHAPE_TEXT], size[CLI_SIZE_TEXT], weights[CLI_SIZE_TEXT];
    char            source[CLI_SIZE_TEXT];

    printf("%-48s %-16s %8s %14s %9s\n", "tensor", "shape", "bits/w", "bytes", "error");
    for (size_t i = 0; next_tensor(model, i, &tensor, &st, err); i++) {
        printf("%-48s %-16s %8.4f %14" PRIu64, tensor.name, shape_text(&tensor, shape),
               tensor.bits_per_weight, tensor.bytes);
        if (tensor.relative_error >= 0)
            printf(" %9.6f", tensor.relative_error);
        else
            printf(" %9s", "-");
        if (tensor.outliers > 0 || tensor.outlier_columns > 0)
            printf("  outliers: %" PRIu32 ", columns: %" PRIu32, tensor.outliers,
                   tensor.outlier_columns);
        printf("\n");
    }
    printf("\narchitecture        %s, %" PRIu32 " layers, vocabulary %" PRIu32 ", context %" PRIu32
           "\n",
           info->architecture, info->layers, info->vocab_size, info->context_tokens);
    printf("parameters          %" PRIu64 "\n", info->parameters);
    printf("file                %s, %.4f bits per parameter\n",
           cli_size_text(info->file_bytes, size), info->bits_per_parameter);
    printf("weights             %s, %.4f bits per weight\n",
           cli_size_text(info->weight_bytes, weights), weight_bits(info));
    printf("against fp32        %.2f : 1\n", info->ratio_fp32);
    printf("against checkpoint  %.2f : 1 (%s as shipped)\n", info->ratio_source,
           cli_size_text(info->source_bytes, source));
    cli_print_quality(info->quality_json);
    return st;
}

static json_t *tensor_json(const upg_tensor_info *tensor)
{
    json_t *object = json_object(), *shape = json_array();

    for (size_t d = 0; d < 4 && tensor->shape[d]; d++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
    cli_json_text(object, "name", tensor->name);
    json_object_set_new(object, "shape", shape);
    cli_json_real(object, "rate", tensor->bits_per_weight);
    cli_json_u64(object, "bytes", tensor->bytes);
    if (tensor->relative_error >= 0)
        cli_json_real(object, "error", tensor->relative_error);
    else
        json_object_set_new(object, "error", json_null());
    if (tensor->outliers > 0 || tensor->outlier_columns > 0) {
        cli_json_u64(object, "outliers", tensor->outliers);
        cli_json_u64(object, "outlier_columns", tensor->outlier_columns);
    }
    return object;
}

static upg_status make_json(const upg_model *model, const upg_model_info *info, json_t **result,
                            upg_error *err)
{
    json_t         *object = json_object(), *tensors = json_array();
    upg_tensor_info tensor;
    upg_status      st;

    cli_json_text(object, "architecture", info->architecture);
    cli_json_u64(object, "layers", info->layers);
    cli_json_u64(object, "vocab_size", info->vocab_size);
    cli_json_u64(object, "context_tokens", info->context_tokens);
    cli_json_u64(object, "parameters", info->parameters);
    cli_json_u64(object, "file_bytes", info->file_bytes);
    cli_json_u64(object, "weight_bytes", info->weight_bytes);
    cli_json_u64(object, "source_bytes", info->source_bytes);
    cli_json_real(object, "bits_per_parameter", info->bits_per_parameter);
    cli_json_real(object, "bits_per_weight", weight_bits(info));
    cli_json_real(object, "ratio_fp32", info->ratio_fp32);
    cli_json_real(object, "ratio_source", info->ratio_source);
    if (info->quality_json && info->quality_json[0])
        json_object_set_new(object, "quality", json_loads(info->quality_json, 0, NULL));
    else
        json_object_set_new(object, "quality", json_null());
    for (size_t i = 0; next_tensor(model, i, &tensor, &st, err); i++)
        json_array_append_new(tensors, tensor_json(&tensor));
    json_object_set_new(object, "tensors", tensors);
    *result = object;
    return st;
}

static int write_page(const cli_command *command, const inspect_args *args, const char *title,
                      const cli_quality *quality)
{
    FILE *out = fopen(args->html, args->force ? "w" : "wx");
    bool  failed;

    if (!out && errno == EEXIST)
        return cli_fail(command, CLI_EXISTS, "%s: the file exists\nUse --force to replace it.",
                        args->html);
    if (!out)
        return cli_fail(command, CLI_FILE, "%s: %s", args->html, strerror(errno));
    cli_write_quality_page(out, title, quality);
    failed = ferror(out) != 0;
    failed = fclose(out) != 0 || failed;
    if (!failed)
        return CLI_OK;
    failed = errno == ENOSPC;
    remove(args->html);
    return cli_fail(command, failed ? CLI_RESOURCES : CLI_FILE, "%s: %s", args->html,
                    failed ? "no space left on device" : "writing failed");
}

/* --quality and --html. */
static int show_quality(const cli_command *command, const inspect_args *args, const char *title,
                        const upg_model *model)
{
    upg_error   err;
    cli_quality quality;
    upg_status  st = cli_quality_init(&quality, model, &err);
    int         exit_code = CLI_OK;

    if (st != UPG_OK)
        exit_code = cli_report(command, st, &err);
    else if (args->html)
        exit_code = write_page(command, args, title, &quality);
    if (exit_code == CLI_OK && args->quality) {
        cli_print_quality_tables(&quality);
        exit_code = cli_finish_output();
    }
    cli_quality_deinit(&quality);
    return exit_code;
}

static int inspect(const cli_command *command, const inspect_args *args, const upg_model *model)
{
    upg_error      err;
    upg_model_info info = { .struct_size = sizeof info };
    json_t        *object = NULL;
    upg_status     st = upg_model_describe(model, &info, &err);

    if (st == UPG_OK && args->program)
        fputs(upg_model_program(model), stdout);
    else if (st == UPG_OK && args->json)
        st = make_json(model, &info, &object, &err);
    else if (st == UPG_OK)
        st = print_table(model, &info, &err);
    if (st != UPG_OK) {
        json_decref(object);
        return cli_report(command, st, &err);
    }
    return object ? cli_json_print(command, object) : cli_finish_output();
}

static int run(const cli_command *command, int argc, char **argv)
{
    inspect_args args = { .model.device = "cpu" }; /* reading a file needs no GPU */
    cli_parsed   parsed;
    cli_progress progress;
    upg_error    err;
    upg_model   *model = NULL;
    upg_status   st;
    int          exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (args.json && args.program)
        return cli_usage(command, "--program goes without --json");
    if (args.program && (args.quality || args.html))
        return cli_usage(command, "--program goes without --quality and --html");
    if (args.model.unfused && !args.program)
        return cli_usage(command, "--unfused goes with --program");
    if (args.json && args.html)
        return cli_usage(command, "--json goes without --html");
    cli_progress_init(&progress, true); /* where it would run is no matter here */
    st = cli_open_model(parsed.operands[0], &args.model, &progress, &model, &err);
    if (st != UPG_OK)
        exit_code = cli_report(command, st, &err);
    else if (args.html || (args.quality && !args.json))
        exit_code = show_quality(command, &args, parsed.operands[0], model);
    else
        exit_code = inspect(command, &args, model);
    upg_model_close(model);
    return exit_code;
}

const cli_command cli_inspect = {
    .name = "inspect",
    .arguments = "FILE [options]",
    .summary = "shows the tensors of a model, their sizes and errors",
    .about = "Shows every tensor's shape, bits per weight with scales and padding, bytes and\n"
             "error (|W - W'|^2 / |W|^2, measured when it was compressed), then the totals and\n"
             "both ratios. FILE is a .upg file or a checkpoint folder.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
