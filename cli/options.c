/* options.c: parsing by getopt_long from an option table, and help from the same table. */
#include "options.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "report.h"

enum { WORD_MAX = 63, HELP_COLUMN = 26, CODE_LONG = 256, CODE_HELP = 511 };

size_t cli_distance(const char *a, const char *b)
{
    size_t row[WORD_MAX + 1];
    size_t n = strnlen(b, WORD_MAX);

    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i] && i < WORD_MAX; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t best = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (diagonal + 1 < best)
                best = diagonal + 1;
            row[j + 1] = best;
        }
    }
    return row[n];
}

static size_t table_size(const cli_option *table)
{
    size_t n = 0;

    while (table[n].name)
        n++;
    return n;
}

/* Copies a table's rows, with those of the tables it refers to in their place, to flat[n ...]. */
static size_t flatten(const cli_option *table, size_t offset, cli_option *flat, size_t n)
{
    for (; table->name || table->table; table++) {
        if (table->table) {
            n = flatten(table->table, offset + table->offset, flat, n);
        } else {
            assert(n < CLI_OPTIONS_MAX);
            flat[n] = *table;
            flat[n++].offset += offset;
        }
    }
    flat[n] = (cli_option) { 0 };
    return n;
}

static const char *nearest_option(const cli_option *table, const char *word)
{
    const char *best = NULL;
    size_t      best_distance = 3;

    for (size_t i = 0; table[i].name; i++) {
        size_t distance = cli_distance(word, table[i].name);

        if (distance < best_distance) {
            best = table[i].name;
            best_distance = distance;
        }
    }
    return best;
}

/* The option as the user wrote it: "--temp" or "-n". */
static const char *spelling(const cli_option *option, bool is_long, char buffer[WORD_MAX + 3])
{
    if (is_long || !option->letter)
        snprintf(buffer, WORD_MAX + 3, "--%s", option->name);
    else
        snprintf(buffer, WORD_MAX + 3, "-%c", option->letter);
    return buffer;
}

static bool parse_u64(const char *text, bool suffix, uint64_t *value)
{
    static const char units[] = "KMGT";
    char             *end;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    *value = strtoull(text, &end, 10);
    if (errno)
        return false;
    if (suffix && *end) {
        const char *unit = strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end);
        unsigned    shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;

        if (!unit || *value > UINT64_MAX >> shift)
            return false;
        *value <<= shift;
        end++;
    }
    return *end == '\0';
}

static bool parse_real(const char *text, double *value)
{
    char *end;

    *value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*value) && text[0] > ' ';
}

/* Reads `text` into the option's field; false when it is no number or out of range. */
static bool store(const cli_option *option, const char *text, void *field)
{
    uint64_t whole = 0;
    double   real = 0;

    switch (option->type) {
    case CLI_FLAG:
        *(bool *)field = true;
        return true;
    case CLI_TEXT:
        *(const char **)field = text;
        return true;
    case CLI_LIST: {
        cli_list *list = field;

        if (list->count == CLI_LIST_MAX)
            return false;
        list->items[list->count++] = text;
        return true;
    }
    case CLI_U32:
        if (!parse_u64(text, false, &whole) || (double)whole < option->min ||
            (double)whole > option->max || whole > UINT32_MAX)
            return false;
        *(uint32_t *)field = (uint32_t)whole;
        return true;
    case CLI_U64:
    case CLI_BYTES:
        if (!parse_u64(text, option->type == CLI_BYTES, &whole) || (double)whole < option->min ||
            (option->max > 0 && (double)whole > option->max))
            return false;
        *(uint64_t *)field = whole;
        return true;
    case CLI_FLOAT:
    case CLI_REAL:
        if (!parse_real(text, &real) || real < option->min || real > option->max)
            return false;
        if (option->type == CLI_FLOAT)
            *(float *)field = (float)real;
        else
            *(double *)field = real;
        return true;
    }
    return false;
}

static int bad_value(const cli_command *command, const cli_option *option, bool is_long,
                     const char *text)
{
    char name[WORD_MAX + 3];

    spelling(option, is_long, name);
    switch (option->type) {
    case CLI_LIST:
        return cli_usage(command, "%s: at most %d times", name, CLI_LIST_MAX);
    case CLI_BYTES:
        return cli_usage(command, "%s \"%s\": not a size such as 512M or 8G", name, text);
    case CLI_U32:
    case CLI_U64:
        if (option->max > 0 && option->max < UINT32_MAX)
            return cli_usage(command, "%s \"%s\": not a whole number from %.0f to %.0f", name, text,
                             option->min, option->max);
        return cli_usage(command, "%s \"%s\": not a whole number from %.0f on", name, text,
                         option->min);
    default:
        return cli_usage(command, "%s \"%s\": not a number from %g to %g", name, text, option->min,
                         option->max);
    }
}

/* getopt_long's two tables, made from ours. Long options return CODE_LONG + index. */
static void make_getopt(const cli_option *table, char *letters, struct option *longs)
{
    size_t n = table_size(table);
    char  *out = letters;

    *out++ = ':'; /* missing arguments come back as ':' */
    for (size_t i = 0; i < n; i++) {
        bool has_value = table[i].type != CLI_FLAG;

        longs[i] = (struct option) { .name = table[i].name,
                                     .has_arg = has_value ? required_argument : no_argument,
                                     .val = CODE_LONG + (int)i };
        if (table[i].letter) {
            *out++ = table[i].letter;
            if (has_value)
                *out++ = ':';
        }
    }
    *out++ = 'h';
    *out = '\0';
    longs[n] = (struct option) { .name = "help", .val = CODE_HELP };
    longs[n + 1] = (struct option) { .name = NULL };
}

static const cli_option *option_of(const cli_option *table, int code, bool *is_long)
{
    *is_long = code >= CODE_LONG;
    if (*is_long)
        return &table[code - CODE_LONG];
    for (size_t i = 0; table[i].name; i++)
        if (table[i].letter == code)
            return &table[i];
    return NULL;
}

/* What getopt refused, said by name. `word` is the argument it stopped at. */
static int refuse(const cli_command *command, const cli_option *table, int code, const char *word)
{
    char              name[WORD_MAX + 3];
    bool              is_long;
    const cli_option *option;
    const char       *near;

    if (code == ':') {
        option = option_of(table, optopt, &is_long);
        if (option)
            return cli_usage(command, "%s needs an argument: %s", spelling(option, is_long, name),
                             option->argument);
    }
    if (optopt >= CODE_LONG) /* an option that takes no value got one */
        return cli_usage(command, "\"%s\": this option takes no value", word);
    if (optopt > 0)
        return cli_usage(command, "unknown option \"-%c\"", optopt);
    near = nearest_option(table, word + 2);
    if (near)
        return cli_usage(command, "unknown option \"%s\"; did you mean --%s?", word, near);
    return cli_usage(command, "unknown option \"%s\"", word);
}

static int check_operands(const cli_command *command, int argc, char **argv, cli_parsed *parsed)
{
    int n = argc - optind;

    parsed->operands = argv + optind;
    if (n > command->n_operands)
        return cli_usage(command, "unexpected argument \"%s\"", argv[optind + command->n_operands]);
    if (n < command->n_operands && !(n == 0 && command->operands_optional))
        return cli_usage(command, "an argument is missing: upg %s %s", command->name,
                         command->arguments);
    return -1;
}

int cli_parse(const cli_command *command, int argc, char **argv, void *values, cli_parsed *parsed)
{
    char          letters[2 * CLI_OPTIONS_MAX + 4];
    struct option longs[CLI_OPTIONS_MAX + 2];
    int           code;

    *parsed = (cli_parsed) { 0 };
    flatten(command->options, 0, parsed->options, 0);
    make_getopt(parsed->options, letters, longs);
    opterr = 0;
    optind = 1;
    while ((code = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        bool              is_long;
        const cli_option *option;
        size_t            index;

        if (code == 'h' || code == CODE_HELP) {
            cli_help_command(command);
            return cli_finish_output();
        }
        if (code == '?' || code == ':')
            return refuse(command, parsed->options, code, argv[optind - 1]);
        option = option_of(parsed->options, code, &is_long);
        index = (size_t)(option - parsed->options);
        if (parsed->given[index] && option->type != CLI_LIST)
            return cli_usage(command, "--%s is given twice", option->name);
        if (!store(option, optarg, (char *)values + option->offset))
            return bad_value(command, option, is_long, optarg);
        parsed->given[index] = true;
    }
    return check_operands(command, argc, argv, parsed);
}

bool cli_given(const cli_parsed *parsed, const char *name)
{
    for (size_t i = 0; parsed->options[i].name; i++)
        if (strcmp(parsed->options[i].name, name) == 0)
            return parsed->given[i];
    return false;
}

static void print_option(char letter, const char *name, const char *argument, const char *help)
{
    int width = printf("  %c%c%c --%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
                       letter ? ',' : ' ', name, argument ? " " : "", argument ? argument : "");

    if (width > HELP_COLUMN - 2) {
        putchar('\n');
        width = 0;
    }
    printf("%*s", HELP_COLUMN - width, "");
    for (; *help; help++) {
        putchar(*help);
        if (*help == '\n')
            printf("%*s", HELP_COLUMN, "");
    }
    putchar('\n');
}

static void print_options(const cli_option *table)
{
    cli_option flat[CLI_OPTIONS_MAX + 1];
    size_t     n = flatten(table, 0, flat, 0);

    for (size_t i = 0; i < n; i++)
        print_option(flat[i].letter, flat[i].name, flat[i].argument, flat[i].help);
    print_option('h', "help", NULL, "shows this text");
}

void cli_help_command(const cli_command *command)
{
    printf("usage: upg %s %s\n\n%s\n\noptions:\n", command->name, command->arguments,
           command->about);
    print_options(command->options);
}
