/* options_test.c: command lines: every type, every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "command.h"
#include "options.h"
#include "report.h"

typedef struct inner_args {
    float    heat;
    uint32_t threads;
} inner_args;

typedef struct args {
    bool        flag;
    const char *text;
    cli_list    list;
    uint64_t    count, size;
    double      real;
    inner_args  inner;
} args;

static const cli_option inner_options[] = {
    { .name = "heat",
      .type = CLI_FLOAT,
      .argument = "T",
      .offset = offsetof(inner_args, heat),
      .max = 2,
      .help = "a float" },
    { .name = "threads",
      .letter = 't',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(inner_args, threads),
      .min = 1,
      .max = 64,
      .help = "a small number" },
    { 0 },
};

static const cli_option options[] = {
    { .name = "flag", .letter = 'f', .type = CLI_FLAG, .offset = offsetof(args, flag), .help = "" },
    { .name = "text",
      .letter = 'p',
      .type = CLI_TEXT,
      .argument = "TEXT",
      .offset = offsetof(args, text),
      .help = "" },
    { .name = "list",
      .type = CLI_LIST,
      .argument = "TEXT",
      .offset = offsetof(args, list),
      .help = "" },
    { .table = inner_options, .offset = offsetof(args, inner) },
    { .name = "count",
      .letter = 'n',
      .type = CLI_U64,
      .argument = "N",
      .offset = offsetof(args, count),
      .help = "" },
    { .name = "size",
      .type = CLI_BYTES,
      .argument = "SIZE",
      .offset = offsetof(args, size),
      .help = "" },
    { .name = "real",
      .type = CLI_REAL,
      .argument = "X",
      .offset = offsetof(args, real),
      .min = -1,
      .max = 1,
      .help = "" },
    { 0 },
};

static const cli_command command = {
    .name = "test", .arguments = "FILE", .about = "", .options = options, .n_operands = 1
};

/* Parses words; the first is argv[1]. */
static int parse(args *values, cli_parsed *parsed, const char *const *words)
{
    static char  copies[24][64];
    static char *argv[26];
    int          argc = 1;

    snprintf(copies[0], sizeof copies[0], "test");
    argv[0] = copies[0];
    for (; words[argc - 1]; argc++) {
        snprintf(copies[argc], sizeof copies[argc], "%s", words[argc - 1]);
        argv[argc] = copies[argc];
        argv[argc + 1] = NULL;
    }
    return cli_parse(&command, argc, argv, values, parsed);
}

#define PARSE(values, parsed, ...)                                                                 \
    parse(values, parsed, (const char *const[]) { __VA_ARGS__, NULL })

static void reads_every_type(void **state)
{
    args       a = { .count = 7 };
    cli_parsed parsed;

    (void)state;
    assert_int_equal(PARSE(&a, &parsed, "-f", "--text", "hello", "--list=a", "model", "--list", "b",
                           "--heat", "0.5", "-t", "64", "--size", "3M", "--real=-0.25"),
                     -1);
    assert_true(a.flag);
    assert_string_equal(a.text, "hello");
    assert_int_equal(a.list.count, 2);
    assert_string_equal(a.list.items[0], "a");
    assert_string_equal(a.list.items[1], "b");
    assert_true(a.inner.heat == 0.5f);
    assert_int_equal(a.inner.threads, 64);
    assert_int_equal(a.count, 7); /* not given: untouched */
    assert_int_equal(a.size, 3 << 20);
    assert_true(a.real == -0.25);
    assert_string_equal(parsed.operands[0], "model");
    assert_true(cli_given(&parsed, "heat"));
    assert_false(cli_given(&parsed, "count"));
}

static void keeps_extreme_values(void **state)
{
    args       a = { 0 };
    cli_parsed parsed;

    (void)state;
    assert_int_equal(PARSE(&a, &parsed, "m", "-n", "18446744073709551615"), -1);
    assert_true(a.count == UINT64_MAX);
    a = (args) { 0 };
    assert_int_equal(PARSE(&a, &parsed, "m", "--size", "16777215T"), -1);
    assert_true(a.size == (uint64_t)16777215 << 40);
    assert_int_equal(PARSE(&a, &parsed, "--", "-f"), -1);
    assert_string_equal(parsed.operands[0], "-f");
}

static void refuses(void **state)
{
    static const char *const lines[][4] = {
        { "m", "--unknown" },
        { "m", "-x" },
        { "m", "--flag=1" },
        { "m", "--text" },
        { "m", "-n", "" },
        { "m", "-n", "-1" },
        { "m", "-n", "1x" },
        { "m", "-n", "18446744073709551616" },
        { "m", "-t", "0" },
        { "m", "-t", "65" },
        { "m", "--size", "16777216T" },
        { "m", "--size", "3Q" },
        { "m", "--size", "3MB" },
        { "m", "--real", "1.01" },
        { "m", "--real", "nan" },
        { "m", "--heat", "inf" },
        { "m", "--heat", " 1" },
        { "m", "--heat", "1," },
        { "m", "-f", "-f" },
        { "m", "-t1", "--threads=1" },
        { "m", "second" },
        { "-f" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        args       a = { 0 };
        cli_parsed parsed;

        if (parse(&a, &parsed, lines[i]) != CLI_USAGE)
            fail_msg("line %zu (%s %s %s) was not refused", i, lines[i][0],
                     lines[i][1] ? lines[i][1] : "", lines[i][2] ? lines[i][2] : "");
    }
}

static void refuses_too_many_of_a_list(void **state)
{
    char      *argv[2 + CLI_LIST_MAX + 2];
    char       word[] = "--list=x", name[] = "test", model[] = "m";
    args       a = { 0 };
    cli_parsed parsed;
    int        argc = 0;

    (void)state;
    argv[argc++] = name;
    argv[argc++] = model;
    for (int i = 0; i < CLI_LIST_MAX; i++)
        argv[argc++] = word;
    argv[argc] = NULL;
    assert_int_equal(cli_parse(&command, argc, argv, &a, &parsed), -1);
    assert_int_equal(a.list.count, CLI_LIST_MAX);
    a = (args) { 0 };
    argv[argc - CLI_LIST_MAX] = word; /* getopt moves the operand to the end */
    argv[1] = word;
    argv[argc - 1] = word;
    argv[argc++] = word;
    argv[argc] = NULL;
    assert_int_equal(cli_parse(&command, argc, argv, &a, &parsed), CLI_USAGE);
}

static void measures_distances(void **state)
{
    (void)state;
    assert_int_equal(cli_distance("", ""), 0);
    assert_int_equal(cli_distance("run", "run"), 0);
    assert_int_equal(cli_distance("rnu", "run"), 2);
    assert_int_equal(cli_distance("compres", "compress"), 1);
    assert_int_equal(cli_distance("kitten", "sitting"), 3);
    assert_int_equal(cli_distance("", "chat"), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_type),
        cmocka_unit_test(keeps_extreme_values),
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_too_many_of_a_list),
        cmocka_unit_test(measures_distances),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
