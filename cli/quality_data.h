/* quality_data.h: what a model file tells of its quality, gathered for the table and the page. */
#ifndef UPG_CLI_QUALITY_DATA_H
#define UPG_CLI_QUALITY_DATA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "upg/upg.h"

/** X(NAME, "label", "what the tensor's name ends with"): the roles of matrices, embedding first. */
#define CLI_ROLE_MAP(X)                                                                            \
    X(EMBED, "embed", "embed_tokens.weight")                                                       \
    X(Q, "q", "q_proj.weight")                                                                     \
    X(K, "k", "k_proj.weight")                                                                     \
    X(V, "v", "v_proj.weight")                                                                     \
    X(O, "o", "o_proj.weight")                                                                     \
    X(GATE, "gate", "gate_proj.weight")                                                            \
    X(UP, "up", "up_proj.weight")                                                                  \
    X(DOWN, "down", "down_proj.weight")                                                            \
    X(HEAD, "head", "lm_head.weight")

typedef enum cli_role {
#define CLI_ROLE_ENUM(name, label, ending) CLI_ROLE_##name,
    CLI_ROLE_MAP(CLI_ROLE_ENUM)
#undef CLI_ROLE_ENUM
        CLI_ROLE_COUNT
} cli_role;

const char *cli_role_label(cli_role role);

typedef struct cli_matrix_quality {
    cli_role role;
    uint32_t layer; /* 0 for embedding and head */
    uint64_t weights, bytes;
    double   bits, error; /* error < 0 = not measured */
} cli_matrix_quality;

typedef struct cli_quality {
    upg_model_info      info;                /* its strings are the model's */
    json_t             *report, *evaluation; /* NULL: none in the file, nothing was run */
    size_t              n_matrices;
    cli_matrix_quality *matrices;
} cli_quality;

/** Errors: E_NOMEM, and what the library gives. The caller calls cli_quality_deinit in any case. */
upg_status cli_quality_init(cli_quality *quality, const upg_model *model, upg_error *err);
void       cli_quality_deinit(cli_quality *quality);
/** The matrix of a role and layer, or NULL. */
const cli_matrix_quality *cli_quality_find(const cli_quality *quality, cli_role role,
                                           uint32_t layer);
/** Sums over a role: bytes, bits per weight, and the mean error weighted by weights (< 0 = not
 * measured). weights 0 = the model has no such matrix. */
cli_matrix_quality cli_quality_of_role(const cli_quality *quality, cli_role role);
/** True for roles that every layer has. */
bool cli_role_in_layers(cli_role role);

#endif
