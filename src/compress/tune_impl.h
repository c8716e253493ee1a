/* tune_impl.h: what tune.c shares with tune_passes.c and tune_load.c. */
#ifndef UPG_COMPRESS_TUNE_IMPL_H
#define UPG_COMPRESS_TUNE_IMPL_H

#include "compress/layer_math.h"
#include "compress/state_store.h"
#include "compress/tune.h"

/* All factors lie in one vector: rows of every matrix in file order, then the norms. */
typedef struct upg_tuner {
    const upg_tune_input *in;
    uint32_t              n_threads, n_layers, hidden;
    upg_arena             arena;
    size_t                n_factors;
    size_t               *matrix_at, *norm_at; /* where each begins */
    float                *log_factors;         /* f32 [n_factors] */
    float                *gradients;           /* f32 [UPG_TUNE_BATCH][n_factors]: at log_factors */
    double                losses[UPG_TUNE_BATCH];
    upg_state_store       finals;   /* of all windows: the exact model's last state */
    upg_state_store       states;   /* slots [n_layers + 1][UPG_TUNE_BATCH] of the coded model */
    float                *gradient; /* f32 [UPG_TUNE_BATCH][window][hidden]: at the state at hand */
    upg_layer_buffers    *buffers;  /* [n_threads] */
    upg_layer_f32         layer;
    float                *memory[UPG_LAYER_MATRICES];
    float                *layer_norms;       /* f32 [2][hidden], with their factors */
    float                *final_norm;        /* f32 [hidden], likewise */
    float                *exact_head, *head; /* f32 [vocab][hidden]; head with its factors */
    float                *logits;            /* f32 [n_threads][2][window][vocab] */
    float                *rows;              /* f32 [n_threads][2][vocab] */
    float                *signs;             /* f32 [widest] */
    float               **decoded;           /* [matrix count]: f32, or NULL */
    int                   blas;
    /* at hand */
    uint32_t batch[UPG_TUNE_BATCH], n_batch, layer_index;
    bool     backward; /* gradients are wanted */
    /* a matrix being loaded */
    const upg_matrix *matrix;
    float            *to;
    size_t            at;
} upg_tuner;

static inline size_t upg_tuner_state_size(const upg_tuner *t)
{
    return (size_t)t->in->window * t->hidden;
}

/* The gradients of a window of the batch. */
static inline float *upg_tuner_gradients(const upg_tuner *t, size_t item)
{
    return t->gradients + item * t->n_factors;
}

/* tune.c */

/** Everything allocated, all factors 1. The caller calls upg_tuner_deinit, after a failure too. */
upg_status upg_tuner_init(upg_tuner *t, const upg_tune_input *in, upg_error *err);
void       upg_tuner_deinit(upg_tuner *t);

/* tune_load.c */

/** Decodes all matrices into t->decoded. */
upg_status upg_tuner_decode_all(upg_tuner *t, upg_error *err);
/** A layer's weights as they came, or coded and with their factors. */
void upg_tuner_load_exact(upg_tuner *t, uint32_t layer);
void upg_tuner_load_coded(upg_tuner *t, uint32_t layer);
/** The coded head and the last norm, with their factors. */
void upg_tuner_load_head(upg_tuner *t);
/** Row `row` of the coded embedding, with its factor. */
void upg_tuner_embed_row(const upg_tuner *t, uint32_t row, float *out);

/* tune_passes.c */

/** Fills t->finals. */
upg_status upg_tuner_run_exact(upg_tuner *t, upg_error *err);
/** Runs the batch: t->losses, the mean KL of each window, and where t->backward t->gradients. */
upg_status upg_tuner_run_batch(upg_tuner *t, upg_error *err);

#endif
