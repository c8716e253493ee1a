/* tokenizer_files.h: a tokenizer from whatever holds one: a .upg file, a checkpoint folder (with or
 * without weights) or a tokenizer.json. */
#ifndef UPG_RUNTIME_TOKENIZER_FILES_H
#define UPG_RUNTIME_TOKENIZER_FILES_H

#include "tokenizer/tokenizer.h"

/** Errors (all name the path): E_NOT_FOUND, E_FORMAT, E_VERSION, E_CORRUPT, E_UNSUPPORTED, E_IO. */
upg_status upg_tokenizer_load_path(const char *path, upg_tokenizer **tokenizer, upg_error *err);

#endif
