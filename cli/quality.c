/* quality.c: the report's keys are the library's; whatever they are, they are shown by name. */
#include "quality.h"

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
