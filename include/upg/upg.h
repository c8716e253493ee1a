/* upg.h: compress Phi-4-class language models to <= 3.2 bits per weight, and run them.
 *
 * The whole API of libupg; status codes and the error record stand in upg/status.h.
 *
 * Rules for every function, so that the comments need not repeat them:
 *   Errors    A upg_status comes back, UPG_OK is 0. *err (may be NULL) is written on failure only.
 *             After a failure out parameters are NULL or 0 and objects are as before the call,
 *             unless the comment says otherwise. The library never prints, exits or aborts.
 *   Options   `upg_x_options o = { .struct_size = sizeof o };` Every zero field means the default
 *             named at the field; a NULL pointer means all defaults. What a field asks for is done
 *             or refused by name, never ignored.
 *   Owner     _open, _create, _fork give an object; _close takes it back and accepts NULL. Results
 *             by const pointer are borrowed; the comment says until when. Arguments are copied.
 *   Threads   A upg_model is immutable: any thread. Other objects: one thread at a time, else
 *             UPG_E_BUSY, never corruption. _cancel: any thread, and signal handlers. Sessions of
 *             one model take turns on its device: to serve many at once, batch with upg_decode.
 *   Callbacks Run on the calling thread with no lock held; must not re-enter the same object.
 *   Text      UTF-8 with a byte length. Paths are NUL-terminated.
 *   Buffers   (buf, cap, *n): *n is always the size needed; if it exceeds cap, UPG_E_BUFFER. */
#ifndef UPG_UPG_H
#define UPG_UPG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "upg/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- hooks: progress and logging ----------------------------------------------------------- */
typedef enum upg_log { UPG_LOG_ERROR = 1, UPG_LOG_WARN, UPG_LOG_INFO, UPG_LOG_DEBUG } upg_log;
typedef struct upg_progress {
    const char *stage, *unit;  /* "calibrate", "encode", "verify"...; "bytes", "weights"... */
    uint64_t    done, total;   /* in units; total 0 = not known */
    double      rate, seconds; /* units per second now; seconds left, < 0 = not known */
    const char *part; /* NULL, or what of the stage is at work: "embedding", "layer", "head" */
    uint32_t    part_index, parts;     /* from 1 on, of how many of its name */
    uint64_t    part_done, part_total; /* in units; total 0 = nothing of it is counted */
    double      loss; /* "encode": relative squared error of what was coded so far, |W - W'|^2 /
                       * |W|^2; < 0 = not known */
} upg_progress;
/** All zero = silent. `progress` comes at most ten times a second and at the end of each stage;
 * anything but 0 from it cancels the operation (UPG_E_CANCELLED). */
typedef struct upg_hooks {
    int (*progress)(void *user, const upg_progress *now);
    void (*log)(void *user, upg_log level, const char *message);
    void *user;
} upg_hooks;

/* ---- model --------------------------------------------------------------------------------- */
typedef struct upg_model upg_model;
typedef int32_t          upg_token; /* 0 <= token < vocab_size */
typedef struct upg_model_options {
    size_t      struct_size;
    const char *device; /* "cpu", "ref", "cuda:0"; NULL, "auto" = the best there is (see the log) */
    uint32_t    threads; /* CPU threads, at most 4096; 0 = one per physical core this process may
                          * use; more than there are cores only make it slower (a warning) */
    uint32_t verify; /* hashes of chunks of 1 MiB: 0 = header only, 1 = each before the first pass
                      * that reads it (E_CORRUPT of that pass), 2 = all now; of a checkpoint,
                      * which has none, weights are checked for NaN and infinity */
    uint64_t max_memory; /* bytes for weights and scratch; 0 = what there is. Less scratch makes
                          * long prompts slower */
    upg_hooks hooks;
    bool      lut8; /* CPU: products for up to 32 tokens by tables of 8 bits: on CPUs with AVX2 and
                     * without AVX-512 about 7 % faster, a little less exact (docs/QUALITY.md) */
    bool unfused;   /* CPU: the program of plain ops (docs/OPS.md) instead of the fused one: the
                     * same numbers, slower; to measure what fusing gains */
    bool unpinned; /* CPU: leave threads to the system. Default: with a thread for every core, those
                    * that the library starts are bound to one each, and fewer to NUMA nodes, where
                    * it was built with hwloc; the caller's never is */
} upg_model_options;

/** Opens a .upg file, or a checkpoint folder (safetensors, run unquantised).
 * The file is mapped and used where it lies: it must not change while the model is open.
 * Errors: E_NOT_FOUND, E_FORMAT, E_VERSION, E_CORRUPT, E_DATA, E_UNSUPPORTED (names the
 * architecture, lists those supported), E_BUDGET (what is needed, what would fit), E_DEVICE. */
UPG_FN upg_model_open(const char *path, const upg_model_options *options, upg_model **model,
                      upg_error *err);
/** A model of a known shape with random weights in memory, to measure speed without a file: "phi4"
 * (5.86 GB), "phi4-nano", "phi4-micro", or one of them with another number of layers, "phi4:4". It
 * has no tokenizer. Errors: E_ARG (lists the shapes), E_BUDGET (says what is needed and how many
 * layers would fit), E_DEVICE. */
UPG_FN upg_model_open_synthetic(const char *shape, const upg_model_options *options,
                                upg_model **model, upg_error *err);
/** Asks for files that lose bytes while they are mapped (someone truncates them, the disk fails) to
 * become UPG_E_IO of what met it, and of all that uses that model later. Without this the system
 * ends the process by SIGBUS. Installs a handler for that signal in the whole process, once; faults
 * of others go to the handler that was there before. The library does it only when asked. Errors:
 * E_IO. */
UPG_FN upg_guard_maps(upg_error *err);
/** Drops the caller's reference; open sessions keep the model alive, streams its tokenizer. */
UPG_API void upg_model_close(upg_model *model);

typedef struct upg_model_info {
    size_t      struct_size;
    const char *architecture, *device; /* device: what really runs, "cpu avx512vbmi, 8 threads" */
    uint32_t    layers, vocab_size, context_tokens;
    uint64_t    parameters, file_bytes, weight_bytes; /* weight_bytes: the tensors alone */
    uint64_t    source_bytes;                         /* the checkpoint as shipped */
    double      bits_per_parameter;                   /* 8 * file_bytes / parameters */
    double      ratio_fp32, ratio_source;
    const char *quality_json; /* measured at compression, or "" */
    /* What one decoded token costs: bytes of weights read (of a separate embedding one row), and of
     * the KV cache for every token of context, in sessions without kv_int8 and with it;
     * multiply-adds with weights. A prompt reads the weights once for each batch_tokens tokens. */
    uint64_t token_bytes, kv_bytes, kv_bytes_int8, token_macs;
    uint32_t batch_tokens;
    uint64_t head_macs; /* of token_macs, those of the head: a prompt's last token alone needs it */
    bool     fast_prompts; /* upg_session_options.fast_prompts makes a difference here */
} upg_model_info;
/** Fills *info; the caller has set struct_size. Strings are borrowed from the model. */
UPG_FN upg_model_describe(const upg_model *model, upg_model_info *info, upg_error *err);
typedef struct upg_tensor_info {
    size_t      struct_size;
    const char *name;
    uint64_t    shape[4], bytes;           /* row-major, [rows, cols]; unused dimensions are 0 */
    double      bits_per_weight;           /* scales and outliers included */
    double      relative_error;            /* |W - W'|^2 / |W|^2, measured; < 0 = not measured */
    uint32_t    outliers, outlier_columns; /* single weights and columns kept beside the code */
} upg_tensor_info;
/** The ops that run for one token, one line each, as text. Borrowed from the model. */
UPG_API const char *upg_model_program(const upg_model *model);
/** True when `token` ends a generation: the union of config.json's and generation_config.json's end
 * tokens and of what the chat template ends a turn with. */
UPG_API bool upg_model_is_end(const upg_model *model, upg_token token);
/** Weight tensor `index`: the embedding, then layer by layer, the final norm and the head (unless
 * it is the embedding); fused ones are split. E_ARG past the last one. */
UPG_FN upg_model_tensor(const upg_model *model, size_t index, upg_tensor_info *info,
                        upg_error *err);

/* ---- text and tokens ----------------------------------------------------------------------- */
typedef struct upg_tokenizer upg_tokenizer; /* immutable, as a model: any thread */
/** From a .upg file, a checkpoint folder or a tokenizer.json. */
UPG_FN upg_tokenizer_open(const char *path, upg_tokenizer **tokenizer, upg_error *err);
/** Borrowed from the model; NULL when a checkpoint has no tokenizer.json. */
UPG_API const upg_tokenizer *upg_model_tokenizer(const upg_model *model);
UPG_API void                 upg_tokenizer_close(upg_tokenizer *tokenizer);
/** One more than the largest token id. */
UPG_API uint32_t upg_tokenizer_size(const upg_tokenizer *tokenizer);
enum { UPG_TOK_SPECIAL = 1 }; /* "<|im_start|>" and the like in the text become control tokens */

/** Tokenizes as the checkpoint's tokenizer.json does, in time linear in `bytes`.
 * Errors: E_DATA (invalid UTF-8, with its offset), E_BUFFER. */
UPG_FN upg_tokenize(const upg_tokenizer *tokenizer, const char *text, size_t bytes, uint32_t flags,
                    upg_token *tokens, size_t cap, size_t *n, upg_error *err);
/** The text of tokens, as UTF-8 with U+FFFD for what is ill-formed; not NUL-terminated. Errors:
 * E_ARG (names the index of a token that is out of range), E_BUFFER. */
UPG_FN upg_detokenize(const upg_tokenizer *tokenizer, const upg_token *tokens, size_t count,
                      bool skip_special, char *text, size_t cap, size_t *n, upg_error *err);
typedef struct upg_message {
    const char *role, *text;
    size_t      text_bytes;
} upg_message;
/** Renders a chat with the model's own template and tokenizes it; `flags` are for the messages'
 * text only. Errors: E_UNSUPPORTED (template not recognised: use raw prompts), E_BUFFER. */
UPG_FN upg_chat_tokens(const upg_tokenizer *tokenizer, const upg_message *messages, size_t count,
                       bool add_generation_prompt, uint32_t flags, upg_token *tokens, size_t cap,
                       size_t *n, upg_error *err);
/** Renders a chat as text, exactly as Hugging Face's apply_chat_template. Errors: as above. */
UPG_FN upg_chat_text(const upg_tokenizer *tokenizer, const upg_message *messages, size_t count,
                     bool add_generation_prompt, char *text, size_t cap, size_t *n, upg_error *err);

/** Tokens to text: never half a character, never a part of a stop string. */
typedef struct upg_stream upg_stream;
typedef struct upg_stream_options {
    size_t             struct_size;
    const char *const *stops; /* NUL-terminated; the text ends before the first one met */
    size_t             stop_count;
    bool               show_special;
} upg_stream_options;
UPG_FN upg_stream_create(const upg_tokenizer *tokenizer, const upg_stream_options *options,
                         upg_stream **stream, upg_error *err); /* keeps the tokenizer alive */
/** Adds a token (-1: flush what is held back). *text, possibly empty, is safe to show; borrowed
 * until the next call on `stream`. *stopped: a stop string was met, nothing more will come. */
UPG_FN       upg_stream_push(upg_stream *stream, upg_token token, const char **text, size_t *bytes,
                             bool *stopped, upg_error *err);
UPG_API void upg_stream_close(upg_stream *stream);

/* ---- session: one sequence, its KV cache, its sampler ---------------------------------------
 *
 * What a session computes always equals one full forward pass over its tokens, whatever led there:
 * pieces of a prompt, forks, rewinds. With longrope a pass over more tokens than the model's
 * original context turns ALL positions by the long factors. So the call that takes a session past
 * that point, or back below it after a rewind, computes the cache again, which takes as long as a
 * prompt of that length. The cache grows by pages of 64 tokens; between pages upg_decode allocates
 * nothing. */
typedef struct upg_session upg_session;
typedef struct upg_session_options {
    size_t   struct_size;
    uint32_t context_tokens; /* 0 = the model's */
    uint32_t draft_tokens;   /* guesses of what comes next, by looking up what followed the last
                              * tokens before, up to 7; 0 = off. They ride in the pass of a token,
                              * and those that come true need no pass of their own: the same text,
                              * faster where it repeats itself */
    bool kv_int8;            /* instead of fp16: half the memory */
    bool shift_when_full;    /* drop the oldest half and compute the rest again at its new places,
                              * which takes as long as a prompt of that length; default: E_CONTEXT */
    bool keep_logits;        /* bring the last position's logits to the host after every step */
    bool fast_prompts;       /* GPUs and CPUs with AVX-512: passes over more than 32 tokens of one
                              * upg_prefill, and computing a cache again, take weights rounded to 8
                              * bits: 1.5 to 1.7 times as fast, KL 2 to 3 % of what the compression
                              * costs (docs/QUALITY.md). Such a session equals one full pass to that
                              * accuracy only; elsewhere it changes nothing. `upg run` and `chat` set
                              * it, upg_evaluate measures without */
} upg_session_options;

/** Device bytes such a session would take with a full context; allocates nothing. */
UPG_FN upg_session_size(const upg_model *model, const upg_session_options *options, uint64_t *bytes,
                        upg_error *err);
/** Errors: E_ARG, E_NOMEM, E_BUDGET when a full context would not fit the free memory (says what is
 * needed and which context would fit); the cache itself grows with the tokens. */
UPG_FN upg_session_create(upg_model *model, const upg_session_options *options,
                          upg_session **session, upg_error *err);
/** A new session that shares the first `tokens` tokens of `parent`, copy on write, with its options
 * and sampling. E_ARG when the parent has fewer. */
UPG_FN upg_session_fork(upg_session *parent, uint32_t tokens, upg_session **child, upg_error *err);
UPG_FN upg_session_rewind(upg_session *session, uint32_t tokens, upg_error *err); /* to a length */
UPG_API uint32_t upg_session_length(const upg_session *session); /* tokens in the cache */
/** The running, else the next, upg_prefill or upg_decode of `session` returns E_CANCELLED within
 * one op, at a whole number of tokens; that clears the request. Other sessions are not disturbed:
 * with them in one upg_decode, the pass ends and leaves this session as it was. */
UPG_API void upg_session_cancel(upg_session *session);
UPG_API void upg_session_close(upg_session *session);
typedef struct upg_scored {
    upg_token token;
    float     value;
} upg_scored;

/** All zero = greedy; ties go to the lowest token. On one device the same seed and options give the
 * same text, whatever the number of threads and of other sessions in the batch: each draw depends
 * on the seed and the token's place in the sequence alone. Order: biases, penalties, `allowed`,
 * temperature, top_k, top_p (of what top_k leaves), min_p. */
typedef struct upg_sampling {
    size_t struct_size;
    float  temperature, top_p, min_p; /* 0 = off; min_p is relative to the likeliest token */
    float  repetition_penalty;        /* 0, 1 = off; of every token in the session, as HF does */
    float  presence_penalty, frequency_penalty; /* subtracted; of tokens that upg_decode sampled */
    uint32_t          top_k;                    /* 0 = off */
    uint64_t          seed;
    const upg_scored *biases; /* added to logits; -INFINITY forbids a token */
    size_t            bias_count;
} upg_sampling;
/** The sampling that the model's generation_config.json asks for; all zero (greedy) without one or
 * without do_sample in it. Errors: E_ARG (struct_size). */
UPG_FN upg_model_sampling(const upg_model *model, upg_sampling *sampling, upg_error *err);
/** Errors: E_ARG (names field and value; the sampling is as before). */
UPG_FN upg_session_set_sampling(upg_session *session, const upg_sampling *sampling, upg_error *err);
/** Appends n tokens. logits: NULL, or f32 [n][vocab_size], row i predicting what follows tokens[i].
 * Servers pass a few hundred at a time, between upg_decode calls. After E_CANCELLED
 * upg_session_length() tells how many were taken; after E_CONTEXT none were. */
UPG_FN upg_prefill(upg_session *session, const upg_token *tokens, size_t n, float *logits,
                   upg_error *err);

typedef struct upg_step {
    const uint32_t *allowed; /* in:  bit t%32 of word t/32 allows token t; NULL = all (grammars) */
    upg_scored     *top;     /* in:  NULL, or room for top_count; out: the likeliest, best first */
    uint32_t        top_count;
    upg_token       token;   /* out: sampled (one that has a text) and appended; -1 = none */
    float           logprob; /* out: natural log, before temperature, penalties and masks; so top */
    bool            end;     /* out: token is one of the model's end tokens */
    bool            guessed; /* out: it was guessed before (draft_tokens), no pass was needed */
    upg_status      status;  /* out: of this session alone: E_CONTEXT, E_CANCELLED; E_STATE (nothing
                              * to continue), E_ARG (nothing is allowed), E_NOMEM, E_DATA, E_IO */
} upg_step;
/** One token for each of n sessions of ONE model, in one pass over the weights; no allocation.
 * Fails as a whole only with E_ARG, E_BUSY, E_DEVICE_LOST. */
UPG_FN upg_decode(upg_session *const *sessions, size_t n, upg_step *steps, upg_error *err);
typedef struct upg_op_time {
    const char *op;               /* its name, as in upg_model_program; static */
    uint32_t    layer;            /* past the last layer: the number of layers */
    uint64_t    begin_ns, end_ns; /* of a clock that never goes back */
    uint64_t    bytes;            /* of weights and, for attention, of the cache that it reads */
} upg_op_time;
/** upg_decode for one session, telling what each op of the pass took; *n = 0 when no pass was
 * needed or the step failed. Errors: as upg_decode; E_UNSUPPORTED (the device runs a token as a
 * whole; nothing is decoded), E_BUFFER (*n is the number of ops; nothing is decoded), E_NOMEM. */
UPG_FN upg_decode_timed(upg_session *session, upg_step *step, upg_op_time *times, size_t cap,
                        size_t *n, upg_error *err);
/** f32 [vocab_size], borrowed until the next call on `session`. E_STATE without keep_logits, and
 * when there are none: before the first token and after a rewind. */
UPG_FN upg_session_logits(const upg_session *session, const float **logits, upg_error *err);
/** Words for the last upg_step of this session whose status was not UPG_OK, "" before the first;
 * borrowed until the next call on `session`. */
UPG_API const char *upg_session_message(const upg_session *session);

/* ---- evaluation ---------------------------------------------------------------------------- */
typedef struct upg_eval_options {
    size_t     struct_size;
    uint32_t   window;     /* tokens in a window; 0 = 512 */
    uint64_t   windows;    /* at most so many; 0 = all */
    upg_model *against;    /* NULL, or the model to compare with: same vocabulary */
    double    *window_nll; /* NULL, or room for one sum of NLL per window, in nats */
    upg_hooks  hooks;
    bool       fast_prompts; /* as in upg_session_options, for the model, not for `against`: compare
                              * a model with itself to see what that costs */
} upg_eval_options;
typedef struct upg_eval_result {
    size_t   struct_size;
    uint64_t tokens, windows; /* scored */
    double   nll, perplexity; /* mean in nats; exp(nll) */
    double   top1;            /* share of tokens that are the model's first choice */
    double   seconds;
    /* with `against`, else 0: */
    double against_nll, against_perplexity, ppl_ratio; /* perplexity / against_perplexity */
    double kl_mean, kl_p99;                            /* KL(against || model) in nats */
    double top1_agreement;
} upg_eval_result;
/** Perplexity over windows of tokens that do not overlap; the last partial one is dropped, no BOS
 * is inserted and the first token of a window is not scored. tokens  i32 [n]. Errors: E_ARG (a
 * token out of range, fewer than one window, a window longer than the context, unlike
 * vocabularies), E_CANCELLED. The caches are those of sessions without kv_int8. */
UPG_FN upg_evaluate(upg_model *model, const upg_token *tokens, size_t n,
                    const upg_eval_options *options, upg_eval_result *result, upg_error *err);

/* ---- this machine --------------------------------------------------------------------------- */
typedef struct upg_machine_info {
    size_t   struct_size;
    char     cpu[128], isa[128];             /* the processor's name; the instruction sets in use */
    uint32_t cores;                          /* physical cores that this process may use */
    uint64_t memory_total, memory_available; /* bytes; 0 = not known */
    double read_gb_s_1, read_gb_s_all; /* measured now: plain reads by 1 thread and by all; GB/s */
    char   gpu[128];                   /* the first GPU that the driver shows, "" without one */
    char topology[160]; /* "1 socket, 1 NUMA node, 2 cores, L2 2 x 1 MiB, L3 32 MiB", or why not */
    bool pinned; /* a thread for every core, the default, is bound to it (upg_model_options) */
} upg_machine_info;
/** Measures for about a second. Errors: E_NOMEM. */
UPG_FN upg_machine_describe(upg_machine_info *info, upg_error *err);

/** The limits of this machine, to be measured in turn with what they limit, so that both meet the
 * same disturbances: each call takes about a tenth of a second. Takes 512 MiB of memory. */
typedef struct upg_probe upg_probe;
enum { UPG_PROBE_MAX_THREADS = 4096 };
/** threads: 0 = one per physical core. Errors: E_ARG, E_NOMEM. */
UPG_FN           upg_probe_create(uint32_t threads, upg_probe **probe, upg_error *err);
UPG_API uint32_t upg_probe_threads(const upg_probe *probe);
/** Plain reads by all threads together, of memory that no cache holds; GB/s. */
UPG_API double upg_probe_reads(upg_probe *probe);
/** int8 multiply-adds by all threads together, on registers, by the best instruction there is; 1e9
 * a second. */
UPG_API double upg_probe_int8(upg_probe *probe);
typedef struct upg_kernel_speed {
    size_t      struct_size;
    const char *kernel, *isa, *what; /* "bitdot", "avx2", what it works on */
    const char *unit, *limit;        /* of the rates; what limits it: "reads", "int8 peak" */
    double      rate, limit_rate;    /* medians */
    double      fraction;            /* median of rate / limit, measured in turn */
} upg_kernel_speed;
/** Measures inner loop `index` of the library, for each instruction set that this machine has, with
 * the probe's threads; takes about a second. Strings are static. Errors: E_ARG past the last one,
 * E_NOMEM. */
UPG_FN upg_probe_kernel(upg_probe *probe, size_t index, upg_kernel_speed *speed, upg_error *err);
UPG_API void upg_probe_close(upg_probe *probe);

/* ---- compress and verify -------------------------------------------------------------------- */
typedef struct upg_compress upg_compress; /* a job */
/** How long compression may take for quality. The file's size stays as asked for, and so does its
 * speed but for a few percent. */
typedef enum upg_effort {
    UPG_EFFORT_DEFAULT = 0,
    UPG_EFFORT_FAST = 1, /* a quarter of the calibration text */
    UPG_EFFORT_HIGH = 2, /* codes of constraint length 14 instead of 12: encoding takes 4 times */
    UPG_EFFORT_MAX = 3   /* 16: 16 times */
} upg_effort;
typedef struct upg_compress_options {
    size_t struct_size;
    double bits_per_parameter; /* of all weight tensors with scales and padding; 0 = 3.2, and for
                                * models over 1e9 parameters the file <= fp32 / 10 too */
    const char *calibration;   /* text file; NULL = the text that ships with upg, if the model has a
                                * tokenizer; "" = none: round to nearest, faster and worse */
    uint32_t threads;
    uint64_t max_memory; /* resident bytes, of planning and encoding; 0 = 8 GiB */
    uint64_t seed;       /* same input, options and seed: same bytes */
    bool     overwrite;
    bool     independent; /* calibrate every layer on the unquantised model alone, so that no
                           * layer waits for another; costs some quality */
    upg_hooks hooks;
    uint64_t  max_file_bytes; /* of the whole file; 0 = no bound. Alone it replaces the default of
                               * bits_per_parameter; with that both bounds hold */
    const char *evaluation;   /* text file: after encoding the file is run on it and compared with
                               * the checkpoint, figures go into the report; NULL or "" = none */
    uint32_t evaluation_windows; /* of 512 tokens, evenly spread over the text; 0 = 64 */
    bool     without_outliers; /* keep every weight in the code: no single weights or columns beside
                                * it, which are else bought where they pay */
    bool journal;     /* keep what is done in OUTPUT.journal until the output has its name, so that
                       * a run that ended early can be resumed; one that is there is refused */
    bool resume;      /* go on with that journal, whose input, options and machine must be these,
                       * to the same bytes; afresh where there is none */
    const char *join; /* a folder that all workers of this job see, on one host or several: it is
                       * the journal, and each worker codes what no other one does. With
                       * independent calibration or none; NULL = alone. Outlives the job */
    upg_effort  effort;
    const char *device;  /* what encodes and calibrates: NULL or "cpu"; "cuda", "cuda:N"; "auto": a
                          * GPU where there is one. Sums are in another order on a GPU: another file,
                          * as good, and the same again on the same kind of GPU */
    bool without_tuning; /* keep row scales and norms as coding left them. Else they are tuned end
                          * to end on the calibration text, for no bytes and about a fifth of the
                          * time; never at UPG_EFFORT_FAST, on a GPU, or where max_memory does not
                          * suffice */
} upg_compress_options;

/** Reads the headers, checks shapes and types, plans the rates; encodes nothing.
 * Errors: as upg_model_open; E_EXISTS, E_NOSPACE, E_BUDGET (says the least possible); with a
 * journal E_EXISTS (resume it or remove it), E_DATA (the input has changed), E_UNSUPPORTED (other
 * options, another machine), E_VERSION, E_CORRUPT, E_BUSY (another process works on it). */
UPG_FN upg_compress_open(const char *checkpoint, const char *output,
                         const upg_compress_options *options, upg_compress **job, upg_error *err);
/** JSON: size, ratios, memory, disk, rate per matrix, predictions marked as such. Owned by job. */
UPG_API const char *upg_compress_plan(const upg_compress *job);
/** JSON, after upg_compress_run: file_bytes, parameters, bits_per_parameter, weight_bytes,
 * ratio_fp32, ratio_source, relative_error, evaluation (null when none was asked for), seconds.
 * NULL before. Owned by job. */
UPG_API const char *upg_compress_result(const upg_compress *job);
/** Does the work. The output takes its name only when complete, synced and verified; after a
 * failure nothing of it remains but the journal, where one was asked for. */
UPG_FN       upg_compress_run(upg_compress *job, upg_error *err);
UPG_API void upg_compress_cancel(upg_compress *job);
UPG_API void upg_compress_close(upg_compress *job);

/** What a compression would take, told before it begins. */
typedef struct upg_estimate {
    size_t struct_size;
    /* computed, not measured; file_bytes is an upper bound */
    uint64_t parameters, source_bytes, weight_bytes, file_bytes;
    double   ratio_fp32, ratio_source;         /* 4 * parameters and source_bytes / file_bytes */
    uint64_t memory_bytes, disk_bytes;         /* at most, while it runs */
    uint64_t memory_available, disk_available; /* now; 0 = not known */
    bool     fits_memory, fits_disk;
    /* estimated: work counted, divided by rates that were measured for a few seconds */
    double seconds;                                  /* the sum of the next three */
    double plan_seconds, text_seconds, code_seconds; /* sensitivities, outliers; the text through
                                                      * the model, its moments, tuning; coding */
    double code_rate, product_rate; /* measured, all threads: weights to nearest a second; flops a
                                     * second, 0 without calibration */
    double   measured_seconds;      /* how long that took */
    uint64_t journal_bytes; /* of disk_bytes: what the journal that the options ask for takes */
} upg_estimate;
/** Plans as upg_compress_open does, but without reading weights or running text: rates follow from
 * shapes, and outliers are not looked for, so that sizes are those of the real plan to within what
 * its bounds leave unused. Takes a few seconds. Errors: as upg_compress_open; E_UNSUPPORTED when
 * options ask for an evaluation. That it does not fit is no error: see fits_memory, fits_disk. */
UPG_FN upg_compress_estimate(const char *checkpoint, const char *output,
                             const upg_compress_options *options, upg_estimate *estimate,
                             upg_error *err);

/* ---- checkpoint folders ---------------------------------------------------------------------- */
typedef struct upg_synth_options {
    size_t      struct_size;
    const char *architecture;    /* "phi4", "phi4-nano", "phi4-micro": exactly that model's shape */
    const char *config;          /* instead: a config.json of any supported architecture */
    const char *tokenizer;       /* NULL, or a folder whose tokenizer files are copied */
    uint32_t    layers;          /* 0 = the model's */
    bool        heavy_tailed;    /* weights from Student's t with 4 degrees of freedom, one input
                                  * column in 256 eight times as large; default: Gaussian */
    uint64_t  seed, shard_bytes; /* most bytes of tensors in a file; 0 = 5e9, as transformers */
    uint32_t  threads;           /* 0 = one per physical core */
    upg_hooks hooks;
    bool      coded; /* not a folder, but a .upg file: the model of upg_model_open_synthetic, random
                      * codes in the benchmark's rates, made in memory. With architecture, layers
                      * and tokenizer alone */
} upg_synth_options;
/** Writes a checkpoint folder with random bf16 weights, to try what a model of that shape takes. It
 * appears only when complete; same options, same bytes. Errors: E_ARG (lists the architectures),
 * E_EXISTS (unless it is an empty folder), E_NOSPACE (says what is needed), E_DATA (a tokenizer of
 * another model), E_FORMAT, E_UNSUPPORTED, E_NOT_FOUND, E_IO, E_CANCELLED. */
UPG_FN upg_synthesize(const char *folder, const upg_synth_options *options, upg_error *err);

/** Writes the weights of a .upg file (or another checkpoint) as a folder of bf16 safetensors that
 * transformers reads: decoded, rotated back, outliers added, rounded to bf16, with config.json and
 * the tokenizer's files. The folder appears only when complete. Errors: as upg_model_open for the
 * file; E_EXISTS (unless it is an empty folder), E_NOSPACE, E_IO, E_CANCELLED. */
typedef struct upg_export_options {
    size_t    struct_size;
    uint64_t  shard_bytes; /* most bytes of tensors in a file; 0 = 5e9, as transformers */
    uint32_t  threads;     /* 0 = one per physical core */
    upg_hooks hooks;
} upg_export_options;
UPG_FN upg_export(const char *path, const char *folder, const upg_export_options *options,
                  upg_error *err);

/** Reads the whole file against its chunk hashes. E_CORRUPT: *bad_offset is the first bad chunk's,
 * or where the damaged hash table begins, or the file's size when its end is missing; the message
 * names the tensor. */
UPG_FN upg_verify(const char *path, uint32_t threads, const upg_hooks *hooks, uint64_t *bad_offset,
                  upg_error *err);
typedef struct upg_matrix_check {
    size_t      struct_size;
    const char *name;
    double      stored, measured; /* |W - W'|^2 / |W|^2; stored < 0: the file does not say */
    bool        agrees;           /* to one part in a thousand; vectors (norms): equal */
} upg_matrix_check;
typedef struct upg_against_options {
    size_t    struct_size;
    uint32_t  threads; /* 0 = one per physical core */
    upg_hooks hooks;
    void (*matrix)(void *user, const upg_matrix_check *check); /* NULL, or shown every tensor */
    void *user;                                                /* for `matrix` */
} upg_against_options;
/** Recomputes each matrix's relative error against the original checkpoint and compares it with
 * what the file says. Errors: as upg_model_open for both; E_DATA (a checkpoint of another shape),
 * E_CORRUPT (how many differ, and the first one), E_CANCELLED. */
UPG_FN upg_verify_against(const char *path, const char *checkpoint,
                          const upg_against_options *options, upg_error *err);

#ifdef __cplusplus
}
#endif
#endif
