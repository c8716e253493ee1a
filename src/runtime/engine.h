/* engine.h: a model ready to run: weights, program, backend and tokenizer under one count.
 *
 * runtime/ speaks the structs of upg.h, which it shares with the callers; the functions of upg.h
 * are api/'s. Invariants:
 *   1. Everything but the fields below `lock` is immutable after upg_engine_load.
 *   2. The fields below `lock` are used by its holder alone. No callback runs while it is held, and
 *      it is the only lock of runtime/: there is no order to keep.
 *   3. Sessions hold a reference; so the order in which a caller closes things is free. */
#ifndef UPG_RUNTIME_ENGINE_H
#define UPG_RUNTIME_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/backend.h"
#include "base/progress.h"
#include "kernels/kernels.h"
#include "runtime/weight_check.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"
#include "upg/upg.h"

/** What the sampler needs while it looks at one distribution; all [vocab]. */
typedef struct upg_sampler_space {
    float      *values;     /* f32: logits after biases and penalties, then weights */
    uint32_t   *counts;     /* zero between calls */
    upg_scored *candidates; /* a heap */
} upg_sampler_space;

enum {
    UPG_ENGINE_ENDS = UPG_MAX_END_TOKENS + UPG_CHAT_MAX_ENDS,
    UPG_ENGINE_MAX_ROWS = 256, /* of one batch */
    UPG_ENGINE_FAST_ROWS = 33 /* and more: upg_model.fast gains (the cpu backend's CPU_BITS_ROWS) */
};

struct upg_model {
    atomic_uint              references;
    upg_weights             *weights;
    upg_program             *program;
    const upg_backend_class *class_;
    upg_tokenizer           *tokenizer; /* NULL: the source has none */
    upg_kernels              kernels;   /* of the host: softmax sums of sampler and evaluation */
    upg_kv_type              kv_type;   /* unless a session asks for int8 */
    uint32_t                 threads;   /* as asked for; 0 = one per core */
    uint32_t                 max_rows;  /* of one batch, ≤ UPG_ENGINE_MAX_ROWS */
    uint32_t                 sampled;   /* tokens from here on have no text and are never sampled */
    uint32_t                 n_ends;
    upg_token                ends[UPG_ENGINE_ENDS];
    char                    *program_text, *quality_json;
    char passed_over[512]; /* why not on the device thought best; "" = it is on that */
    bool refused;          /* that device is there, but did not take the model */
    bool unpinned;         /* threads are left to the system */
    bool lut8;             /* few rows are multiplied by tables of 8 bits */

    pthread_mutex_t   lock;
    bool              unchecked; /* weights are to be looked through before the first pass */
    upg_weight_check *check; /* NULL, or each chunk's hash before the first pass that reads it */
    upg_backend      *backend;
    upg_batch_row    *rows;  /* [max_rows] */
    uint64_t         *op_ns; /* NULL, or where the next run says when its ops ended; borrowed */
    bool              fast;  /* the next run may take weights of 8 bits (upg_batch.fast) */
    upg_sampler_space space;
};

typedef struct upg_engine_settings {
    const char         *device; /* NULL or "auto" = the best that takes the model */
    uint32_t            threads, verify;
    uint64_t            max_memory;
    const upg_listener *listener;
    bool                lut8, unfused, unpinned;
} upg_engine_settings;

/** Errors: as upg_model_open. */
upg_status upg_engine_load(const char *path, const upg_engine_settings *settings, upg_model **model,
                           upg_error *err);
/** The same for random weights of a known shape (model/synthetic.h). Errors: E_ARG, E_BUDGET, and
 * those of programs and backends. */
upg_status upg_engine_load_synthetic(const char *shape, const upg_engine_settings *settings,
                                     upg_model **model, upg_error *err);
void       upg_engine_retain(upg_model *model);
/** NULL is fine. The last one frees. */
void upg_engine_release(upg_model *model);

void upg_engine_lock(upg_model *model);
void upg_engine_unlock(upg_model *model);
/** Runs the first n_rows of model->rows; the lock is held. Errors: as the backend's run; E_CORRUPT,
 * E_DATA from the check at the first pass; E_IO when the file lost what was read. */
upg_status upg_engine_run(upg_model *model, uint32_t n_rows, const upg_kv_layout *layout,
                          const atomic_bool *cancel, upg_error *err);

/** Whether a sequence of so many tokens needs the long factors of longrope. */
bool upg_engine_long_rope(const upg_model *model, uint32_t n_tokens);
bool upg_engine_is_end(const upg_model *model, upg_token token);
/** Whether upg_model.fast changes what a run of UPG_ENGINE_FAST_ROWS rows computes. */
bool upg_engine_has_fast_prompts(const upg_model *model);
/** Errors: E_ARG naming the first index whose token is not in the vocabulary. */
upg_status upg_engine_check_tokens(const upg_model *model, const upg_token *tokens, size_t n,
                                   upg_error *err);

/** What a decoded token costs, as upg_model_info says. */
typedef struct upg_token_costs {
    uint64_t weight_bytes, embedding_row_bytes, kv_bytes, kv_bytes_int8, macs, head_macs;
} upg_token_costs;
upg_token_costs upg_engine_token_costs(const upg_model *model);

/** Weight tensor `index` in the model's order: embedding, layers, final norm, head. Errors: E_ARG
 * past the last one. */
upg_status upg_engine_tensor(const upg_model *model, size_t index, upg_tensor_info *info,
                             upg_error *err);

#endif
