/* tokenizer_json.c: tokenizer.json into tables.
 *
 * Nothing in the file is believed: ids are bounded before anything is sized by them, every merge
 * must join two tokens to a third, and what would change ids without being implemented is refused
 * by name. Only what has no influence on ids or text is passed over: truncation, padding (which
 * callers of the reference reset), and post-processors that add nothing. */
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "tokenizer/tokenizer_impl.h"

#define WHERE "tokenizer.json"

/* GPT-2's pattern, which the ByteLevel pre-tokenizer brings along. */
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct reader {
    upg_tokenizer *t;
    const json_t  *root, *model, *vocab, *merges, *added;
    upg_byte_level map;
    size_t         n_ids, n_tokens, n_bytes, longest;
    uint8_t       *room; /* [2 · longest] for the two halves of a merge */
    upg_error     *err;
} reader;

static upg_status unsupported(reader *r, const char *what, const char *value)
{
    return upg_fail(r->err, UPG_E_UNSUPPORTED, WHERE ": %s \"%.64s\" is not supported", what,
                    value);
}

/* The "type" of an object, "" without. */
static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));

    return type != NULL ? type : "";
}

static bool has_type(const json_t *object, const char *type)
{
    return strcmp(type_of(object), type) == 0;
}

/* An optional boolean that must be false. */
static upg_status must_be_off(reader *r, const json_t *object, const char *key)
{
    bool       on;
    upg_status st = upg_json_bool_or(object, key, false, WHERE, &on, r->err);

    return st == UPG_OK && on ? unsupported(r, key, "true") : st;
}

static upg_status check_model(reader *r)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    upg_status               st;
    const json_t            *dropout;

    r->model = json_object_get(r->root, "model");
    if (!json_is_object(r->model))
        UPG_TRY(upg_fail(r->err, UPG_E_FORMAT, WHERE ": field \"model\" is not an object"));
    /* Files older than the field hold BPE when they hold merges. */
    if (upg_json_has(r->model, "type") && !has_type(r->model, "BPE"))
        UPG_TRY(unsupported(r, "model type", type_of(r->model)));
    dropout = json_object_get(r->model, "dropout");
    if (json_number_value(dropout) != 0)
        UPG_TRY(unsupported(r, "dropout", "other than 0"));
    for (size_t i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(r->model, affixes[i]));

        if (affix != NULL && affix[0] != '\0')
            UPG_TRY(unsupported(r, affixes[i], affix));
    }
    UPG_TRY(must_be_off(r, r->model, "byte_fallback"));
    UPG_TRY(
        upg_json_bool_or(r->model, "ignore_merges", false, WHERE, &r->t->ignore_merges, r->err));
    r->vocab = json_object_get(r->model, "vocab");
    r->merges = json_object_get(r->model, "merges");
    if (!json_is_object(r->vocab))
        UPG_TRY(upg_fail(r->err, UPG_E_FORMAT, WHERE ": field \"model.vocab\" is not an object"));
    if (!json_is_array(r->merges) || json_array_size(r->merges) > UPG_TOKEN_MAX_ID)
        UPG_TRY(upg_fail(r->err, UPG_E_FORMAT,
                         WHERE ": field \"model.merges\" is not a list of up to %d merges",
                         UPG_TOKEN_MAX_ID));
out:
    return st;
}

/* The parts around the model that are there in one form only. */
static upg_status check_surroundings(reader *r)
{
    upg_status    st = UPG_OK;
    const json_t *normalizer = json_object_get(r->root, "normalizer");
    const json_t *decoder = json_object_get(r->root, "decoder");
    const json_t *post = json_object_get(r->root, "post_processor");
    const char   *version = json_string_value(json_object_get(r->root, "version"));

    if (version != NULL && strcmp(version, "1.0") != 0)
        return unsupported(r, "version", version);
    if (upg_json_has(r->root, "normalizer"))
        return unsupported(r, "normalizer", type_of(normalizer));
    if (!has_type(decoder, "ByteLevel"))
        return unsupported(r, "decoder", json_is_object(decoder) ? type_of(decoder) : "null");
    if (upg_json_has(r->root, "post_processor") && !has_type(post, "ByteLevel"))
        return unsupported(r, "post_processor", type_of(post));
    r->added = json_object_get(r->root, "added_tokens");
    if (r->added != NULL && !json_is_array(r->added))
        st = upg_fail(r->err, UPG_E_FORMAT, WHERE ": field \"added_tokens\" is not a list");
    return st;
}

/* Takes account of one token before the tables are sized. */
static upg_status measure_token(reader *r, const char *text, size_t size, const json_t *id)
{
    json_int_t value = json_integer_value(id);

    if (!json_is_integer(id) || value < 0 || value > UPG_TOKEN_MAX_ID)
        return upg_fail(r->err, UPG_E_FORMAT,
                        WHERE ": the id of token \"%.64s\" is not an integer from 0 to %d", text,
                        UPG_TOKEN_MAX_ID);
    r->n_ids = (size_t)value + 1 > r->n_ids ? (size_t)value + 1 : r->n_ids;
    r->longest = size > r->longest ? size : r->longest;
    r->n_bytes += size; /* no overflow: all of it is in memory */
    r->n_tokens++;
    return UPG_OK;
}

static upg_status read_vocab(reader *r)
{
    upg_status  st = UPG_OK;
    const char *text;
    json_t     *id, *entry;
    size_t      i;

    json_object_foreach((json_t *)r->vocab, text, id)
        UPG_TRY(measure_token(r, text, strlen(text), id));
    json_array_foreach(r->added, i, entry)
    {
        const json_t *content = json_object_get(entry, "content");

        if (!json_is_string(content) || json_string_length(content) == 0 ||
            json_string_length(content) > UPG_ADDED_MAX_BYTES)
            UPG_TRY(upg_fail(r->err, UPG_E_FORMAT,
                             WHERE ": added_tokens[%zu]: \"content\" is not a string of 1 to %d "
                                   "bytes",
                             i, UPG_ADDED_MAX_BYTES));
        UPG_TRY(measure_token(r, json_string_value(content), json_string_length(content),
                              json_object_get(entry, "id")));
    }
    if (r->n_bytes > UINT32_MAX)
        UPG_TRY(upg_fail(r->err, UPG_E_BUDGET, WHERE ": the tokens are longer than 4 GiB"));
    UPG_TRY(upg_token_table_init(&r->t->table, r->n_ids, r->n_tokens, r->n_bytes, r->err));
    json_object_foreach((json_t *)r->vocab, text, id)
    {
        uint32_t value = (uint32_t)json_integer_value(id);

        if (r->t->table.entries[value].flags != 0)
            UPG_TRY(upg_fail(r->err, UPG_E_FORMAT,
                             WHERE ": token \"%.64s\" has the id %u, which another has too", text,
                             value));
        upg_token_table_add(&r->t->table, value, &r->map, text, strlen(text));
    }
out:
    return st;
}

static upg_status read_flags(reader *r, const json_t *entry, upg_added_token *token)
{
    upg_status st;

    UPG_TRY(must_be_off(r, entry, "single_word"));
    UPG_TRY(upg_json_bool_or(entry, "lstrip", false, WHERE, &token->lstrip, r->err));
    UPG_TRY(upg_json_bool_or(entry, "rstrip", false, WHERE, &token->rstrip, r->err));
    UPG_TRY(upg_json_bool_or(entry, "special", false, WHERE, &token->special, r->err));
    UPG_TRY(upg_json_bool_or(entry, "normalized", false, WHERE, &token->normalized, r->err));
    token->control = token->special;
out:
    if (st != UPG_OK)
        upg_error_prefix(r->err, "added token \"%.64s\": ", token->content);
    return st;
}

/* Enters an added token into the table, where the vocabulary may have it already. */
static upg_status enter_added(reader *r, const upg_added_token *token)
{
    upg_token_table *table = &r->t->table;
    upg_token_entry *entry = &table->entries[token->id];
    bool             raw;
    uint8_t          bytes[UPG_ADDED_MAX_BYTES];
    size_t           n = upg_byte_level_decode(&r->map, token->content, token->size, bytes, &raw);
    int32_t          other = upg_token_table_find(table, bytes, n, raw);

    if (other >= 0 && other != token->id)
        return upg_fail(r->err, UPG_E_FORMAT,
                        WHERE ": added token \"%.64s\" has the id %d, but the vocabulary has it "
                              "as %d",
                        token->content, token->id, other);
    if (other < 0 && entry->flags != 0)
        return upg_fail(r->err, UPG_E_FORMAT,
                        WHERE ": added token \"%.64s\" has the id %d, which another token has too",
                        token->content, token->id);
    if (entry->flags & UPG_TOKEN_ADDED)
        return upg_fail(r->err, UPG_E_FORMAT, WHERE ": added token \"%.64s\" is listed twice",
                        token->content);
    if (other < 0)
        upg_token_table_add(table, (uint32_t)token->id, &r->map, token->content, token->size);
    entry->flags |= UPG_TOKEN_ADDED | (token->special ? (uint32_t)UPG_TOKEN_SPECIAL : 0);
    return UPG_OK;
}

static upg_status read_added(reader *r)
{
    upg_status     st = UPG_OK;
    upg_tokenizer *t = r->t;
    json_t        *entry;
    size_t         i;

    t->added = upg_calloc(json_array_size(r->added), sizeof *t->added, r->err);
    UPG_TRY(t->added != NULL ? UPG_OK : UPG_E_NOMEM);
    json_array_foreach(r->added, i, entry)
    {
        const json_t    *content = json_object_get(entry, "content");
        upg_added_token *token = &t->added[t->n_added];

        token->size = (uint32_t)json_string_length(content);
        token->id = (int32_t)json_integer_value(json_object_get(entry, "id"));
        token->content =
            upg_arena_strndup(&t->texts, json_string_value(content), token->size, r->err);
        UPG_TRY(token->content != NULL ? UPG_OK : UPG_E_NOMEM);
        UPG_TRY(read_flags(r, entry, token));
        UPG_TRY(enter_added(r, token));
        t->n_added++;
    }
    for (i = 0; i < 2; i++)
        UPG_TRY(upg_added_set_init(&t->sets[i], t->added, t->n_added, i == 1, r->err));
out:
    return st;
}

/* The two halves of a merge, "a b" or ["a", "b"]. */
static bool split_merge(const json_t *merge, const char *half[2], size_t size[2])
{
    const char *text = json_string_value(merge), *space;
    size_t      length = json_string_length(merge);

    if (text != NULL) {
        space = memchr(text, ' ', length);
        if (space == NULL)
            return false;
        half[0] = text;
        size[0] = (size_t)(space - text);
        half[1] = space + 1;
        size[1] = length - size[0] - 1;
        return memchr(half[1], ' ', size[1]) == NULL;
    }
    for (size_t i = 0; i < 2; i++) {
        half[i] = json_string_value(json_array_get(merge, i));
        size[i] = json_string_length(json_array_get(merge, i));
    }
    return json_array_size(merge) == 2 && half[0] != NULL && half[1] != NULL;
}

static upg_status read_merge(reader *r, const json_t *merge, uint32_t rank)
{
    const upg_token_table *table = &r->t->table;
    const char            *half[2];
    size_t                 size[2], n[2];
    int32_t                id[3];
    bool                   raw[2];

    if (!split_merge(merge, half, size))
        return upg_fail(r->err, UPG_E_FORMAT,
                        WHERE ": merges[%u] is neither \"a b\" nor [\"a\", \"b\"]", rank);
    if (size[0] > r->longest || size[1] > r->longest)
        return upg_fail(r->err, UPG_E_FORMAT, WHERE ": merges[%u] is longer than any token", rank);
    n[0] = upg_byte_level_decode(&r->map, half[0], size[0], r->room, &raw[0]);
    n[1] = upg_byte_level_decode(&r->map, half[1], size[1], r->room + n[0], &raw[1]);
    id[0] = upg_token_table_find(table, r->room, n[0], false);
    id[1] = upg_token_table_find(table, r->room + n[0], n[1], false);
    id[2] = upg_token_table_find(table, r->room, n[0] + n[1], false);
    if (raw[0] || raw[1] || id[0] < 0 || id[1] < 0 || id[2] < 0)
        return upg_fail(r->err, UPG_E_FORMAT,
                        WHERE ": merges[%u] (\"%.64s\", \"%.64s\"): the vocabulary lacks %s", rank,
                        half[0], half[1],
                        raw[0] || id[0] < 0   ? "the first"
                        : raw[1] || id[1] < 0 ? "the second"
                                              : "what they make together");
    upg_merge_table_add(&r->t->merges, (uint32_t)id[0], (uint32_t)id[1], rank, (uint32_t)id[2]);
    return UPG_OK;
}

static upg_status read_merges(reader *r)
{
    upg_status       st;
    upg_merge_table *merges = &r->t->merges;
    json_t          *merge;
    size_t           rank;

    UPG_TRY(upg_merge_table_init(merges, json_array_size(r->merges), r->err));
    for (uint32_t b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        int32_t id = upg_token_table_find(&r->t->table, &byte, 1, false);

        if (id < 0)
            UPG_TRY(upg_fail(r->err, UPG_E_UNSUPPORTED,
                             WHERE ": the vocabulary has no token for byte 0x%02X; only byte-level "
                                   "vocabularies are supported",
                             b));
        merges->byte_ids[b] = (uint32_t)id;
    }
    r->room = upg_malloc(2 * r->longest, 1, r->err);
    UPG_TRY(r->room != NULL ? UPG_OK : UPG_E_NOMEM);
    json_array_foreach(r->merges, rank, merge) UPG_TRY(read_merge(r, merge, (uint32_t)rank));
out:
    upg_free(r->room);
    return st;
}

/* A ByteLevel step: with use_regex it splits by GPT-2's pattern. */
static upg_status read_byte_level(reader *r, const json_t *step, bool *use_regex)
{
    upg_status st;
    bool       prefix;

    if (!has_type(step, "ByteLevel"))
        return unsupported(r, "pre_tokenizer", type_of(step));
    UPG_TRY(upg_json_bool_or(step, "use_regex", true, WHERE, use_regex, r->err));
    UPG_TRY(upg_json_bool_or(step, "add_prefix_space", true, WHERE, &prefix, r->err));
    if (prefix)
        st = unsupported(r, "pre_tokenizer.add_prefix_space", "true");
out:
    return st;
}

static upg_status read_split(reader *r, const json_t *step)
{
    upg_status    st;
    const char   *behavior = json_string_value(json_object_get(step, "behavior"));
    const json_t *regex = json_object_get(json_object_get(step, "pattern"), "Regex");
    bool          invert;

    if (!has_type(step, "Split"))
        return unsupported(r, "pre_tokenizer", type_of(step));
    UPG_TRY(upg_json_bool_or(step, "invert", false, WHERE, &invert, r->err));
    if (!json_is_string(regex))
        UPG_TRY(unsupported(r, "pre_tokenizer.pattern", "other than {\"Regex\": …}"));
    if (behavior != NULL && strcmp(behavior, "Isolated") == 0)
        r->t->keep_gaps = true;
    else if (behavior == NULL || strcmp(behavior, "Removed") != 0 || !invert)
        UPG_TRY(unsupported(r, "pre_tokenizer.behavior", behavior != NULL ? behavior : ""));
    st = upg_pattern_init(&r->t->pattern, json_string_value(regex), json_string_length(regex),
                          r->err);
    if (st != UPG_OK)
        upg_error_prefix(r->err, WHERE ": ");
out:
    return st;
}

/* ByteLevel alone with its own pattern, or Split and then ByteLevel without. */
static upg_status read_pre_tokenizer(reader *r)
{
    upg_status    st;
    const json_t *step = json_object_get(r->root, "pre_tokenizer"), *list;
    bool          use_regex = false;

    if (!has_type(step, "Sequence")) {
        UPG_TRY(read_byte_level(r, step, &use_regex));
        if (!use_regex)
            UPG_TRY(unsupported(r, "pre_tokenizer", "ByteLevel without use_regex or Split"));
        r->t->keep_gaps = true;
        return upg_pattern_init(&r->t->pattern, byte_level_pattern, sizeof byte_level_pattern - 1,
                                r->err);
    }
    list = json_object_get(step, "pretokenizers");
    if (json_array_size(list) != 2)
        UPG_TRY(unsupported(r, "pre_tokenizer", "Sequence other than of Split and ByteLevel"));
    UPG_TRY(read_split(r, json_array_get(list, 0)));
    UPG_TRY(read_byte_level(r, json_array_get(list, 1), &use_regex));
    if (use_regex)
        st = unsupported(r, "pre_tokenizer", "ByteLevel with use_regex after Split");
out:
    return st;
}

upg_status upg_tokenizer_read_json(upg_tokenizer *tokenizer, upg_span text, upg_error *err)
{
    upg_status st;
    json_t    *root = NULL;
    reader     r = { .t = tokenizer, .err = err };

    st = upg_json_parse(text, &root, err);
    if (st != UPG_OK)
        upg_error_prefix(err, WHERE ": ");
    UPG_TRY(st);
    r.root = root;
    if (!json_is_object(root))
        UPG_TRY(upg_fail(err, UPG_E_FORMAT, WHERE ": not an object"));
    upg_byte_level_init(&r.map);
    UPG_TRY(check_model(&r));
    UPG_TRY(check_surroundings(&r));
    UPG_TRY(read_pre_tokenizer(&r));
    UPG_TRY(read_vocab(&r));
    UPG_TRY(read_merges(&r));
    UPG_TRY(read_added(&r));
out:
    json_decref(root);
    return st;
}
