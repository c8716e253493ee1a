/* tokenizer_files.c: see tokenizer_files.h. */
#include "runtime/tokenizer_files.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "format/container.h"

enum { N_FILES = 3 };

static const char *const names[N_FILES] = { "tokenizer.json", "tokenizer_config.json",
                                            "chat_template.jinja" };

static upg_status load(const upg_span parts[N_FILES], const char *path, upg_tokenizer **tokenizer,
                       upg_error *err)
{
    upg_tokenizer_files files = { parts[0], parts[1], parts[2] };
    upg_status          st = upg_tokenizer_load_files(&files, tokenizer, err);

    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", path);
    return st;
}

static upg_status map_file(const char *folder, const char *name, bool required, upg_map *map,
                           upg_error *err)
{
    char      *path = upg_path_join(folder, name, err);
    upg_status st = path ? UPG_OK : UPG_E_NOMEM;

    if (st == UPG_OK && (required || upg_file_exists(path))) {
        st = upg_map_open(path, map, err);
        if (st != UPG_OK)
            upg_error_prefix(err, "%s: ", path);
    }
    upg_free(path);
    return st;
}

static upg_status from_folder(const char *folder, upg_tokenizer **tokenizer, upg_error *err)
{
    upg_map    maps[N_FILES] = { 0 };
    upg_span   parts[N_FILES];
    upg_status st;

    for (int i = 0; i < N_FILES; i++) {
        UPG_TRY(map_file(folder, names[i], i == 0, &maps[i], err));
        parts[i] = maps[i].bytes;
    }
    UPG_TRY(load(parts, folder, tokenizer, err));
out:
    for (int i = 0; i < N_FILES; i++)
        upg_map_close(&maps[i]);
    return st;
}

static upg_status from_container(const char *path, upg_tokenizer **tokenizer, upg_error *err)
{
    upg_container *c = NULL;
    upg_status     st = upg_container_open(path, &c, err);

    UPG_TRY(st);
    if (c->parts[UPG_PART_TOKENIZER].size == 0)
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "%s: the file holds no tokenizer; its checkpoint had no tokenizer.json",
                         path));
    {
        upg_span parts[N_FILES] = { c->parts[UPG_PART_TOKENIZER],
                                    c->parts[UPG_PART_TOKENIZER_CONFIG],
                                    c->parts[UPG_PART_CHAT_TEMPLATE] };

        UPG_TRY(load(parts, path, tokenizer, err));
    }
out:
    upg_container_close(c);
    return st;
}

/* JSON begins with '{' after white space at most; a .upg file with the length of a header that
 * begins at byte 8, and no such length spells white space and a brace. */
static bool looks_like_json(upg_span bytes)
{
    size_t i = 0;

    while (i < bytes.size && strchr(" \t\r\n", bytes.data[i]) != NULL && bytes.data[i] != '\0')
        i++;
    if (i == bytes.size || bytes.data[i] != '{')
        return false;
    if (i > 0 || bytes.size < 9 || bytes.data[8] != '{')
        return true;
    return memchr(bytes.data, '\0', 8) == NULL; /* a header of 2^56 bytes is none */
}

upg_status upg_tokenizer_load_path(const char *path, upg_tokenizer **tokenizer, upg_error *err)
{
    upg_map    map = { 0 };
    upg_span   parts[N_FILES] = { 0 };
    upg_status st;

    *tokenizer = NULL;
    if (upg_file_is_folder(path))
        return from_folder(path, tokenizer, err);
    st = upg_map_open(path, &map, err);
    if (st != UPG_OK) {
        upg_error_prefix(err, "%s: ", path);
        return st;
    }
    parts[0] = map.bytes;
    st = looks_like_json(map.bytes) ? load(parts, path, tokenizer, err)
                                    : from_container(path, tokenizer, err);
    upg_map_close(&map);
    return st;
}
