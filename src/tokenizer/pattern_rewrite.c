/* pattern_rewrite.c: from a Unicode expression to one on the alphabet of pattern.h.
 *
 * The grammar accepted, in one pass without recursion:
 *
 *   item  = '(?:' | '(?i:' | '(' | '(?=' | '(?!' | ')' | '|' | set quantifier?
 *   set   = ASCII literal | '\' punctuation | '\r' '\n' '\t' '\s' '\S' '\p{L}' '\P{N}' … | '[…]'
 *   quantifier = ('*' | '+' | '?') ('?' | '+')? | '{n}' | '{n,}' | '{n,m}'
 *
 * Groups take no quantifier but '?': nested repetition is what makes backtracking explode, and no
 * known pre-tokenizer needs it. */
#include <stdbool.h>
#include <string.h>

#include "tokenizer/pattern.h"

enum { MAX_DEPTH = 32, MAX_REPEAT = 1000 };

/* What was written last: decides which quantifiers may follow. */
typedef enum last_item { LAST_NOTHING, LAST_SET, LAST_GROUP } last_item;

typedef struct rewriter {
    const char *text;
    size_t      size, at;
    size_t      depth;
    bool        caseless[MAX_DEPTH + 1]; /* by depth */
    bool        lookahead[MAX_DEPTH + 1];
    last_item   last;
    upg_buffer *out;
    upg_error  *err;
} rewriter;

typedef struct byte_set {
    bool has[UPG_PATTERN_END];
} byte_set;

static upg_status refuse(const rewriter *r, size_t begin, size_t size, const char *why)
{
    if (size > r->size - begin)
        size = r->size - begin;
    while (begin + size < r->size && ((unsigned char)r->text[begin + size] & 0xC0u) == 0x80u)
        size++; /* no half character in the message */
    return upg_fail(r->err, UPG_E_UNSUPPORTED,
                    "the pre-tokenizer's pattern has \"%.*s\" at byte %zu: %s", (int)size,
                    r->text + begin, begin, why);
}

static bool looking_at(const rewriter *r, const char *word)
{
    size_t size = strlen(word);

    return r->size - r->at >= size && memcmp(r->text + r->at, word, size) == 0;
}

static void add_range(byte_set *set, unsigned first, unsigned last)
{
    for (unsigned b = first; b <= last; b++)
        set->has[b] = true;
}

static void add_letters(byte_set *set)
{
    add_range(set, 'A', 'Z');
    add_range(set, 'a', 'z');
    set->has[UPG_PATTERN_LETTER] = true;
    set->has[UPG_PATTERN_LONG_S] = true;
    set->has[UPG_PATTERN_KELVIN] = true;
}

static void add_numbers(byte_set *set)
{
    add_range(set, '0', '9');
    set->has[UPG_PATTERN_NUMBER] = true;
}

static void add_spaces(byte_set *set)
{
    add_range(set, '\t', '\r');
    set->has[' '] = true;
    set->has[UPG_PATTERN_SPACE] = true;
}

static void add_set(byte_set *set, const byte_set *more, bool complement)
{
    for (size_t b = 0; b < UPG_PATTERN_END; b++)
        set->has[b] |= more->has[b] != complement;
}

/* Adds the other case of every letter of the set. */
static void fold_case(byte_set *set)
{
    for (size_t b = 'a'; b <= 'z'; b++) {
        bool either = set->has[b] || set->has[b - 32];

        if (b == 's')
            either |= set->has[UPG_PATTERN_LONG_S];
        if (b == 'k')
            either |= set->has[UPG_PATTERN_KELVIN];
        set->has[b] = set->has[b - 32] = either;
    }
    set->has[UPG_PATTERN_LONG_S] |= set->has['s'];
    set->has[UPG_PATTERN_KELVIN] |= set->has['k'];
}

/* Reads an escape at '\' into the set. *literal is its character, -1 when it is a class. */
static upg_status read_escape(rewriter *r, byte_set *set, int *literal)
{
    size_t begin = r->at;
    byte_set class = { 0 };
    char c = r->size - r->at > 1 ? r->text[r->at + 1] : '\0';

    *literal = -1;
    r->at += 2;
    if (c == 'r' || c == 'n' || c == 't') {
        *literal = c == 'r' ? '\r' : c == 'n' ? '\n' : '\t';
    } else if (c == 's' || c == 'S') {
        add_spaces(&class);
        add_set(set, &class, c == 'S');
    } else if (c == 'p' || c == 'P') {
        if (!looking_at(r, "{L}") && !looking_at(r, "{N}"))
            return refuse(r, begin, 6, "of the properties, \\p{L} and \\p{N} are supported");
        if (r->text[r->at + 1] == 'L')
            add_letters(&class);
        else
            add_numbers(&class);
        add_set(set, &class, c == 'P');
        r->at += 3;
    } else if (c > ' ' && c < 0x7F && strchr("\\'\"/|()[]{}^$*+?.,:;!-_#&<>=@~%`", c) != NULL) {
        *literal = c;
    } else {
        return refuse(r, begin, 2, "this escape is not supported");
    }
    if (*literal >= 0)
        set->has[*literal] = true;
    return UPG_OK;
}

/* One member of a class into the set; *literal as in read_escape. */
static upg_status read_member(rewriter *r, byte_set *set, int *literal)
{
    unsigned char c;

    if (r->at == r->size)
        return refuse(r, r->at, 0, "a class is not closed");
    c = (unsigned char)r->text[r->at];
    if (c == '\\')
        return read_escape(r, set, literal);
    if (c >= 0x80 || c == '[' || c == '&')
        return refuse(r, r->at, 1, "not supported in a class");
    r->at++;
    *literal = c;
    set->has[c] = true;
    return UPG_OK;
}

static upg_status read_class(rewriter *r, byte_set *set)
{
    upg_status st = UPG_OK;
    bool       negated = r->size - r->at > 1 && r->text[r->at + 1] == '^';
    byte_set   members = { 0 };
    int        first = -1, last = -1;

    r->at += negated ? 2 : 1;
    if (r->at < r->size && r->text[r->at] == ']')
        return refuse(r, r->at, 1, "a class begins with ']'");
    while (r->at == r->size || r->text[r->at] != ']') {
        UPG_TRY(read_member(r, &members, &first));
        if (r->size - r->at < 2 || r->text[r->at] != '-' || r->text[r->at + 1] == ']')
            continue;
        r->at++;
        UPG_TRY(read_member(r, &members, &last));
        if (first < 0 || last < first)
            UPG_TRY(refuse(r, r->at - 1, 1, "not a valid range"));
        add_range(&members, (unsigned)first, (unsigned)last);
    }
    r->at++;
    if (r->caseless[r->depth])
        fold_case(&members);
    add_set(set, &members, negated);
out:
    return st;
}

static upg_status write_set(rewriter *r, const byte_set *set)
{
    upg_status st = UPG_OK;
    bool       any = false;

    UPG_TRY(upg_buffer_add(r->out, "[", 1, r->err));
    for (unsigned b = 0; b < UPG_PATTERN_END; b++) {
        unsigned last = b;

        if (!set->has[b])
            continue;
        while (last + 1 < UPG_PATTERN_END && set->has[last + 1])
            last++;
        UPG_TRY(upg_buffer_addf(r->out, r->err, "\\x%02X", b));
        if (last > b)
            UPG_TRY(upg_buffer_addf(r->out, r->err, "-\\x%02X", last));
        any = true;
        b = last;
    }
    UPG_TRY(upg_buffer_add(r->out, "]", 1, r->err));
    if (!any)
        UPG_TRY(refuse(r, r->at, 0, "a class matches nothing"));
    r->last = LAST_SET;
out:
    return st;
}

static upg_status open_group(rewriter *r)
{
    static const struct {
        const char *text, *written;
        bool        caseless, lookahead;
    } kinds[] = { { "(?i:", "(?:", true, false },
                  { "(?:", "(?:", false, false },
                  { "(?=", "(?=", false, true },
                  { "(?!", "(?!", false, true } };

    if (r->depth == MAX_DEPTH)
        return refuse(r, r->at, 1, "groups are nested too deep");
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        if (!looking_at(r, kinds[k].text))
            continue;
        r->at += strlen(kinds[k].text);
        r->depth++;
        r->caseless[r->depth] = r->caseless[r->depth - 1] || kinds[k].caseless;
        r->lookahead[r->depth] = kinds[k].lookahead;
        r->last = LAST_NOTHING;
        return upg_buffer_add(r->out, kinds[k].written, strlen(kinds[k].written), r->err);
    }
    if (looking_at(r, "(?") || looking_at(r, "(*"))
        return refuse(r, r->at, 4, "this kind of group is not supported");
    r->at++;
    r->depth++;
    r->caseless[r->depth] = r->caseless[r->depth - 1];
    r->lookahead[r->depth] = false;
    r->last = LAST_NOTHING;
    return upg_buffer_add(r->out, "(?:", 3, r->err); /* captures are not used */
}

static upg_status close_group(rewriter *r)
{
    if (r->depth == 0)
        return refuse(r, r->at, 1, "no group is open");
    r->last = r->lookahead[r->depth--] ? LAST_NOTHING : LAST_GROUP;
    r->at++;
    return upg_buffer_add(r->out, ")", 1, r->err);
}

/* Reads a number up to MAX_REPEAT; false without one. */
static bool read_number(rewriter *r, size_t *value)
{
    size_t begin = r->at;

    for (*value = 0; r->at < r->size && r->text[r->at] >= '0' && r->text[r->at] <= '9'; r->at++)
        if ((*value = 10 * *value + (size_t)(r->text[r->at] - '0')) > MAX_REPEAT)
            return false;
    return r->at > begin;
}

static upg_status read_braces(rewriter *r)
{
    size_t begin = r->at++, low, high;
    bool   valid = read_number(r, &low), open = false;

    high = low;
    if (valid && looking_at(r, ",")) {
        r->at++;
        open = looking_at(r, "}");
        valid = open || (read_number(r, &high) && low <= high);
    }
    if (!valid || !looking_at(r, "}"))
        return refuse(r, begin, r->at - begin + 1, "not a supported repetition");
    r->at++;
    if (looking_at(r, "?") || looking_at(r, "+"))
        return refuse(r, begin, r->at - begin + 1, "its meaning differs between regex engines");
    return open ? upg_buffer_addf(r->out, r->err, "{%zu,}", low)
                : upg_buffer_addf(r->out, r->err, "{%zu,%zu}", low, high);
}

static upg_status read_quantifier(rewriter *r)
{
    char   c = r->text[r->at];
    size_t size = 1;

    if (r->last == LAST_NOTHING)
        return refuse(r, r->at, 1, "nothing to repeat");
    if (r->last == LAST_GROUP && c != '?')
        return refuse(r, r->at, 1, "repeated groups are not supported");
    r->last = LAST_NOTHING;
    if (c == '{')
        return read_braces(r);
    if (r->size - r->at > 1 && (r->text[r->at + 1] == '?' || r->text[r->at + 1] == '+'))
        size = 2;
    r->at += size;
    return upg_buffer_add(r->out, r->text + r->at - size, size, r->err);
}

static upg_status read_literal(rewriter *r)
{
    unsigned char c = (unsigned char)r->text[r->at];
    byte_set      set = { 0 };

    if (c >= 0x80)
        return refuse(r, r->at, 1, "only ASCII literals are supported");
    if (strchr(".^$]}", c) != NULL)
        return refuse(r, r->at, 1, "not supported");
    r->at++;
    set.has[c] = true;
    if (r->caseless[r->depth])
        fold_case(&set);
    return write_set(r, &set);
}

static upg_status read_item(rewriter *r)
{
    upg_status st;
    byte_set   set = { 0 };
    int        literal;

    switch (r->text[r->at]) {
    case '(':
        return open_group(r);
    case ')':
        return close_group(r);
    case '|':
        r->at++;
        r->last = LAST_NOTHING;
        return upg_buffer_add(r->out, "|", 1, r->err);
    case '*':
    case '+':
    case '?':
    case '{':
        return read_quantifier(r);
    case '[':
        UPG_TRY(read_class(r, &set));
        break;
    case '\\':
        UPG_TRY(read_escape(r, &set, &literal));
        if (r->caseless[r->depth])
            fold_case(&set);
        break;
    default:
        return read_literal(r);
    }
    st = write_set(r, &set);
out:
    return st;
}

upg_status upg_pattern_rewrite(const char *expression, size_t size, upg_buffer *out, upg_error *err)
{
    upg_status st = UPG_OK;
    rewriter   r = { .text = expression, .size = size, .out = out, .err = err };

    if (size == 0)
        return upg_fail(err, UPG_E_UNSUPPORTED, "the pre-tokenizer's pattern is empty");
    while (r.at < size)
        UPG_TRY(read_item(&r));
    if (r.depth > 0)
        st = upg_fail(err, UPG_E_FORMAT, "the pre-tokenizer's pattern has an unclosed group");
out:
    return st;
}
