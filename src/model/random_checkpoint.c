/* random_checkpoint.c: shape ─► config.json ─► list of tensors ─► rows of random values, written as
 * they come. A value is a table's entry, chosen by 16 random bits: quarter a hash for each weight,
 * so that the disk is what limits. */
#include "model/random_checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "safetensors/checkpoint_writer.h"

#define PIECE_BYTES    ((size_t)16 << 20) /* what is filled by all workers and written at once */
#define WEIGHT_SPREAD  0.02               /* "initializer_range" of the known shapes */
#define N_QUANTILES    65536u
#define LARGE_EXPONENT (3u << 7) /* added to a bf16: eight times as large */

/* ---- config.json ---------------------------------------------------------------------------- */

typedef struct config_shape {
    const char *name, *first_lines, *auto_map;
    uint32_t    bos, eos, hidden, ffn, context, heads, layers, kv_heads, pad, vocab;
} config_shape;

static const config_shape shapes[] = {
    { "phi4", "  \"_name_or_path\": \"microsoft/phi-4\",\n", "  \"auto_map\": {},\n", 100257,
      100265, 5120, 17920, 16384, 40, 40, 10, 100349, 100352 },
    { "phi4-nano", "", "", 8188, 8191, 512, 1792, 2048, 8, 16, 2, 8188, 8192 },
    { "phi4-micro", "", "", 8188, 8191, 256, 1024, 1024, 4, 4, 1, 8188, 8192 },
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static int print_config(const config_shape *s, char *text, size_t cap)
{
    return snprintf(
        text, cap,
        "{\n%s  \"architectures\": [\n    \"Phi3ForCausalLM\"\n  ],\n"
        "  \"attention_bias\": false,\n  \"attention_dropout\": 0.0,\n%s"
        "  \"bos_token_id\": %" PRIu32 ",\n  \"embd_pdrop\": 0.0,\n  \"eos_token_id\": %" PRIu32
        ",\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %" PRIu32
        ",\n  \"initializer_range\": 0.02,\n  \"intermediate_size\": %" PRIu32
        ",\n  \"max_position_embeddings\": %" PRIu32
        ",\n  \"model_type\": \"phi3\",\n  \"num_attention_heads\": %" PRIu32
        ",\n  \"num_hidden_layers\": %" PRIu32 ",\n  \"num_key_value_heads\": %" PRIu32
        ",\n  \"original_max_position_embeddings\": %" PRIu32 ",\n  \"pad_token_id\": %" PRIu32
        ",\n  \"resid_pdrop\": 0.0,\n  \"rms_norm_eps\": 1e-05,\n  \"rope_scaling\": null,\n"
        "  \"rope_theta\": 250000,\n  \"sliding_window\": null,\n"
        "  \"tie_word_embeddings\": false,\n  \"torch_dtype\": \"bfloat16\",\n"
        "  \"transformers_version\": \"4.47.0\",\n  \"use_cache\": true,\n"
        "  \"vocab_size\": %" PRIu32 "\n}\n",
        s->first_lines, s->auto_map, s->bos, s->eos, s->hidden, s->ffn, s->context, s->heads,
        s->layers, s->kv_heads, s->context, s->pad, s->vocab);
}

upg_status upg_random_config(const char *shape, upg_arena *arena, upg_span *config_json,
                             upg_error *err)
{
    char text[2048];

    for (size_t i = 0; i < N_SHAPES; i++) {
        int   n;
        char *kept;

        if (strcmp(shapes[i].name, shape) != 0)
            continue;
        n = print_config(&shapes[i], text, sizeof text);
        kept = upg_arena_strndup(arena, text, (size_t)n, err);
        if (kept == NULL)
            return UPG_E_NOMEM;
        *config_json = (upg_span) { (const uint8_t *)kept, (size_t)n };
        return UPG_OK;
    }
    return upg_fail(err, UPG_E_ARG,
                    "no architecture \"%.40s\": there are phi4, phi4-nano, phi4-micro; or take "
                    "another model's config.json",
                    shape);
}

upg_status upg_random_config_layers(upg_span config_json, uint32_t layers, upg_arena *arena,
                                    upg_span *changed, upg_error *err)
{
    static const char key[] = "\"num_hidden_layers\"";
    char  *text = upg_arena_strndup(arena, (const char *)config_json.data, config_json.size, err);
    char  *out = upg_arena_alloc(arena, config_json.size + 16, 1, err);
    char  *number;
    size_t digits;
    int    n;

    if (text == NULL || out == NULL)
        return UPG_E_NOMEM;
    number = strstr(text, key);
    if (number != NULL && strstr(number + 1, key) == NULL) {
        number += sizeof key - 1;
        number += strspn(number, " \t\r\n");
        number += *number == ':';
        number += strspn(number, " \t\r\n");
        digits = strspn(number, "0123456789");
        if (digits > 0) {
            n = snprintf(out, config_json.size + 16, "%.*s%" PRIu32 "%s", (int)(number - text),
                         text, layers, number + digits);
            *changed = (upg_span) { (const uint8_t *)out, (size_t)n };
            return UPG_OK;
        }
    }
    return upg_fail(err, UPG_E_FORMAT,
                    "config.json: field \"num_hidden_layers\" is not there exactly once as a "
                    "number, so it cannot be changed");
}

/* ---- distributions -------------------------------------------------------------------------- */

/* The Gaussian's quantile: P. J. Acklam's rational approximation, relative error below 1.2e-9;
 * p in (0, 0.5]. */
static double gaussian_quantile(double p)
{
    static const double a[] = { -3.969683028665376e+01, 2.209460984245205e+02,
                                -2.759285104469687e+02, 1.383577518672690e+02,
                                -3.066479806614716e+01, 2.506628277459239e+00 };
    static const double b[] = { -5.447609879822406e+01, 1.615858368580409e+02,
                                -1.556989798598866e+02, 6.680131188771972e+01,
                                -1.328068155288572e+01 };
    static const double c[] = { -7.784894002430293e-03, -3.223964580411365e-01,
                                -2.400758277161838e+00, -2.549732539343734e+00,
                                4.374664141464968e+00,  2.938163982698783e+00 };
    static const double d[] = { 7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                                3.754408661907416e+00 };
    double              q, r;

    if (p < 0.02425) {
        q = sqrt(-2 * log(p));
        return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
               ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
    }
    q = p - 0.5;
    r = q * q;
    return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
           (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

/* Student's t with 4 degrees of freedom, scaled to unit variance; p in (0, 0.5]. Closed form: W. T.
 * Shaw, "Sampling Student's T distribution", 2006. */
static double heavy_quantile(double p)
{
    double alpha = 4 * p * (1 - p);
    double q = cos(acos(sqrt(alpha)) / 3) / sqrt(alpha);

    return q > 1 ? -sqrt(2 * (q - 1)) : 0;
}

/* table u16 [N_QUANTILES]: bf16, symmetric. */
static void fill_table(bool heavy, uint16_t *table)
{
    for (uint32_t i = 0; i < N_QUANTILES / 2; i++) {
        double p = (i + 0.5) / N_QUANTILES;
        double value = WEIGHT_SPREAD * (heavy ? heavy_quantile(p) : gaussian_quantile(p));

        table[i] = upg_bf16_from_f32((float)value);
        table[N_QUANTILES - 1 - i] = table[i] ^ 0x8000u;
    }
}

/* ---- weights -------------------------------------------------------------------------------- */

typedef struct filling {
    const uint16_t *table;
    const uint16_t *extra; /* u16 [n_cols]: added to each bf16 */
    uint64_t        seed;  /* of the tensor */
    uint64_t        row;   /* of item 0 */
    uint32_t        n_cols;
    uint16_t       *out; /* [items][n_cols] */
} filling;

static void fill_row(void *context, size_t item, uint32_t worker)
{
    const filling *f = context;
    uint64_t       words = (f->n_cols + 3) / 4, first = (f->row + item) * words;
    uint16_t      *out = f->out + item * f->n_cols;

    (void)worker;
    for (uint32_t c = 0; c < f->n_cols; c += 4) {
        uint64_t bits = upg_random_u64(f->seed, first + c / 4);

        for (uint32_t i = c; i < f->n_cols && i < c + 4; i++, bits >>= 16)
            out[i] = (uint16_t)(f->table[bits & 0xFFFFu] + f->extra[i]);
    }
}

typedef struct generator {
    const upg_random_settings *settings;
    upg_arena                  arena;
    upg_model_config           config;
    upg_checkpoint_list        list;
    upg_pool                  *pool;
    upg_checkpoint_writer     *writer;
    upg_meter                  meter;
    uint16_t                  *table, *extra, *piece;
} generator;

/* One input column in 256 of heavy-tailed weights. */
static void choose_columns(const generator *g, uint64_t seed, uint32_t n_cols)
{
    for (uint32_t c = 0; c < n_cols; c++)
        g->extra[c] =
            g->settings->heavy_tailed && upg_random_u64(~seed, c) % 256 == 0 ? LARGE_EXPONENT : 0;
}

static upg_status write_matrix(generator *g, const upg_st_entry *e, uint64_t seed, upg_error *err)
{
    filling    f = { g->table, g->extra, seed, 0, (uint32_t)e->shape[1], g->piece };
    size_t     row_bytes = (size_t)e->shape[1] * sizeof(uint16_t);
    uint64_t   most = PIECE_BYTES / row_bytes; /* widths are at most UPG_MAX_WIDTH: 32 MiB */
    upg_status st = UPG_OK;

    choose_columns(g, seed, f.n_cols);
    most = most > 0 ? most : 1;
    for (uint64_t n; f.row < e->shape[0]; f.row += n) {
        n = e->shape[0] - f.row < most ? e->shape[0] - f.row : most;
        upg_pool_run(g->pool, (size_t)n, fill_row, &f);
        UPG_TRY(upg_checkpoint_write(g->writer, f.out, (size_t)n * row_bytes, err));
        upg_meter_add(&g->meter, n * row_bytes);
        upg_meter_tick(&g->meter);
        if (upg_meter_cancelled(&g->meter))
            UPG_TRY(upg_meter_finish(&g->meter, err));
    }
out:
    return st;
}

static upg_status write_norm(generator *g, const upg_st_entry *e, uint64_t seed, upg_error *err)
{
    size_t n = (size_t)e->shape[0];

    for (size_t i = 0; i < n; i++)
        g->piece[i] = upg_bf16_from_f32((float)(0.75 + 0.5 * upg_random_unit(seed, i)));
    upg_meter_add(&g->meter, n * sizeof(uint16_t));
    return upg_checkpoint_write(g->writer, g->piece, n * sizeof(uint16_t), err);
}

/* A tensor's stream depends on its name alone, so that a model with fewer layers has the same
 * first ones. */
static uint64_t seed_of(uint64_t seed, const char *name)
{
    for (; *name != '\0'; name++)
        seed = upg_random_u64(seed, (unsigned char)*name);
    return seed;
}

static upg_status write_weights(generator *g, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < g->list.n; i++) {
        const upg_st_entry *e = &g->list.entries[i];
        uint64_t            seed = seed_of(g->settings->seed, e->name);

        UPG_TRY(e->rank == 1 ? write_norm(g, e, seed, err) : write_matrix(g, e, seed, err));
    }
out:
    return st;
}

static upg_status allocate(generator *g, upg_error *err)
{
    size_t piece = PIECE_BYTES, widest = 0;

    for (size_t i = 0; i < g->list.n; i++) {
        const upg_st_entry *e = &g->list.entries[i];
        uint64_t            width = e->shape[e->rank - 1];

        widest = width > widest ? (size_t)width : widest;
    }
    if (piece < widest * sizeof(uint16_t))
        piece = widest * sizeof(uint16_t);
    g->table = upg_malloc(N_QUANTILES, sizeof *g->table, err);
    g->extra = upg_calloc(widest, sizeof *g->extra, err);
    g->piece = upg_malloc(piece, 1, err);
    return g->table && g->extra && g->piece ? UPG_OK : UPG_E_NOMEM;
}

static upg_status write_folder(generator *g, const char *folder, upg_error *err)
{
    const upg_random_settings *s = g->settings;
    upg_status                 st;

    UPG_TRY(allocate(g, err));
    fill_table(s->heavy_tailed, g->table);
    UPG_TRY(upg_checkpoint_writer_create(folder, g->list.entries, g->list.n, s->shard_bytes,
                                         &g->writer, err));
    UPG_TRY(upg_checkpoint_write_file(g->writer, "config.json", s->config_json, err));
    for (size_t i = 0; i < s->n_files; i++)
        UPG_TRY(upg_checkpoint_write_file(g->writer, s->files[i].name, s->files[i].bytes, err));
    upg_meter_start(&g->meter, s->listener, "synth", "bytes",
                    upg_checkpoint_writer_bytes(g->writer));
    UPG_TRY(write_weights(g, err));
    UPG_TRY(upg_meter_finish(&g->meter, err));
    st = upg_checkpoint_writer_commit(g->writer, err);
    g->writer = NULL;
out:
    upg_checkpoint_writer_discard(g->writer);
    return st;
}

upg_status upg_random_checkpoint_write(const char *folder, const upg_random_settings *settings,
                                       upg_pool *pool, upg_error *err)
{
    generator  g = { .settings = settings, .pool = pool };
    upg_status st;

    UPG_TRY(
        upg_model_config_read(settings->config_json, (upg_span) { 0 }, &g.arena, &g.config, err));
    UPG_TRY(upg_checkpoint_list_make(&g.config, &g.arena, &g.list, err));
    UPG_TRY(write_folder(&g, folder, err));
out:
    upg_free(g.table);
    upg_free(g.extra);
    upg_free(g.piece);
    upg_arena_deinit(&g.arena);
    return st;
}
