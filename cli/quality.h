/* quality.h: the quality report that a .upg file carries, as text. */
#ifndef UPG_CLI_QUALITY_H
#define UPG_CLI_QUALITY_H

/** Prints each figure of the JSON object on a line of its own, objects in it as a list; null is
 * left out. `json` may be "": nothing was measured. */
void cli_print_quality(const char *json);

#endif
