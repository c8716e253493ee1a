/* quality.h: the quality report that a .upg file carries, as text and as a page. */
#ifndef UPG_CLI_QUALITY_H
#define UPG_CLI_QUALITY_H

#include <stdio.h>

#include "quality_data.h"

/** Prints each figure of the JSON object on a line of its own, objects in it as a list; null is
 * left out. `json` may be "": nothing was measured. */
void cli_print_quality(const char *json);
/** Prints what running the file gave, sizes and errors by role, errors by layer. */
void cli_print_quality_tables(const cli_quality *quality);
/** Writes one self-contained HTML page with plots. `title` is the file's name. */
void cli_write_quality_page(FILE *out, const char *title, const cli_quality *quality);

#endif
