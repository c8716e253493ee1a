/* bench_table.h: the rows of `upg bench table`, as they are measured and drawn. */
#ifndef UPG_CLI_BENCH_TABLE_H
#define UPG_CLI_BENCH_TABLE_H

#include "bench.h"

enum { TABLE_WHY = 200 };

typedef struct table_row {
    const char *name, *what;
    double      layer_s, token_s; /* medians; 0 = not measured */
    bool        computed;         /* token_s from layer_s and what stands outside the layers */
    uint32_t    launches;         /* ops, or calls, for one token */
    char        why[TABLE_WHY];   /* it is not measured */
} table_row;

/** Bars of tokens a second on a logarithmic axis that ends at `limit`, as SVG. Returns the exit
 * code. */
int table_draw(const cli_command *command, const char *path, const table_row *rows, size_t n,
               double limit, const char *title);

#endif
