/* weights.h: a model as named, checked weights, whether they come from a checkpoint or a .upg file.
 *
 * An architecture is a description (architecture.h): which tensors make which role. Fused tensors
 * (qkv_proj, gate_up_proj) are split here: q, k, v, gate and up are matrices of their own. */
#ifndef UPG_MODEL_WEIGHTS_H
#define UPG_MODEL_WEIGHTS_H

#include "base/error.h"
#include "base/span.h"
#include "codec/coded_matrix.h"
#include "model/model_config.h"
#include "safetensors/safetensors.h"

typedef enum upg_role {
    UPG_ROLE_EMBED,
    UPG_ROLE_ATTENTION_NORM,
    UPG_ROLE_Q,
    UPG_ROLE_K,
    UPG_ROLE_V,
    UPG_ROLE_O,
    UPG_ROLE_FFN_NORM,
    UPG_ROLE_GATE,
    UPG_ROLE_UP,
    UPG_ROLE_DOWN,
    UPG_ROLE_FINAL_NORM,
    UPG_ROLE_HEAD,
    UPG_ROLE_COUNT
} upg_role;

typedef enum upg_matrix_kind { UPG_MATRIX_DENSE, UPG_MATRIX_CODED } upg_matrix_kind;

typedef struct upg_matrix {
    const char     *name; /* canonical: "model.layers.3.self_attn.q_proj.weight" */
    upg_role        role;
    uint32_t        layer; /* 0 for roles outside the layers */
    uint32_t        n_rows, n_cols;
    upg_matrix_kind kind;
    /* dense: row-major [n_rows][n_cols], at any alignment that suits the element */
    upg_dtype   dtype; /* F32, F16 or BF16 */
    const void *dense;
    const char *file;        /* name of the source file, for messages */
    uint64_t    file_offset; /* of dense (coded: of the code bits) in that file, for messages */
    /* coded */
    const upg_coded_matrix *coded;
    double                  relative_error; /* measured at compression; < 0 = not measured */
    uint64_t                bytes;          /* in the source file, scales and outliers included */
} upg_matrix;

typedef struct upg_vector {
    const char  *name;
    uint32_t     n;
    const float *values; /* f32 [n], converted at open */
    uint64_t     bytes;  /* in the source file */
} upg_vector;

typedef struct upg_layer_weights {
    upg_vector attention_norm, ffn_norm;
    upg_matrix q, k, v, o, gate, up, down;
} upg_layer_weights;

typedef struct upg_weights {
    upg_model_config   config;
    upg_matrix         embed, head; /* tied: head is embed again (same dense/coded pointers) */
    upg_vector         final_norm;
    upg_layer_weights *layers;       /* [config.n_layers] */
    uint64_t           n_parameters; /* stored values; tied ones once */
    uint64_t           file_bytes;   /* of the file, or of all shards together */
    uint64_t           weight_bytes; /* weight tensors with their scales and padding */
    uint64_t           source_bytes; /* the checkpoint's tensors as shipped */
    /* Raw parts, borrowed; empty when the source lacks them. */
    upg_span config_json, generation_config_json, tokenizer_json, tokenizer_config_json,
        chat_template, quality_json;
    struct upg_weights_source *source; /* private: maps and arena */
} upg_weights;

/** Opens a checkpoint folder or a .upg file (told apart by being a folder). Checks every shape and
 * type against the config; looks at no weight values but norms. Errors: as upg_model_open. */
upg_status upg_weights_open(const char *path, upg_weights **weights, upg_error *err);
/** The matrix of a role; `layer` counts for roles that layers have. NULL: there is none, as of
 * norms or behind the last layer. */
const upg_matrix *upg_weights_role_matrix(const upg_weights *weights, upg_role role,
                                          uint32_t layer);
void              upg_weights_close(upg_weights *weights);
/** Whether the files still have what was read from them (base/map_guard.h): asked after weights
 * were used. Errors: E_IO naming the file. */
upg_status upg_weights_check_maps(const upg_weights *weights, upg_error *err);

/** All matrices in file order: embed, layers' q k v o gate up down, head (unless tied). */
uint32_t          upg_weights_matrix_count(const upg_weights *weights);
const upg_matrix *upg_weights_matrix(const upg_weights *weights, uint32_t index);

/** Row `row` in the original basis: out f32 [n_cols]. Dense: converted. Coded: decoded and rotated
 * back. Slow and plain; for embedding look-ups and tools. */
void upg_matrix_row(const upg_matrix *matrix, uint32_t row, float *out);
/** Looks for NaN and infinity in a dense matrix. Errors: E_DATA naming tensor, row and column. */
upg_status upg_matrix_check_finite(const upg_matrix *matrix, upg_error *err);

#endif
