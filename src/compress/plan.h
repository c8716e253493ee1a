/* plan.h: where the bytes go: a rate for every matrix, and for bands of embedding and head rows,
 * and outliers where they bring more for their bytes; least predicted loss under a budget of weight
 * bytes.
 *
 * The prediction: a unit's loss is its sensitivity times the squared error of its rate.
 * Sensitivities are per role, in KL per parameter at 3 bits, measured on a 63 M model of the
 * architecture with one matrix quantised at a time (docs/QUALITY.md). The predicted loss ranks
 * plans; it is no measurement. */
#ifndef UPG_COMPRESS_PLAN_H
#define UPG_COMPRESS_PLAN_H

#include "base/arena.h"
#include "codec/outliers.h"
#include "model/weights.h"

/** Squared error of the default code at 3 bits on unit Gaussian weights (docs/RESULTS.md). */
#define UPG_MSE_AT_3_BITS 0.0191

/** Rows of one matrix that share a rate: a whole matrix, or a band of the embedding or head. */
typedef struct upg_plan_unit {
    const upg_matrix *matrix;
    uint32_t          row0, n_rows;
    double            sensitivity; /* predicted KL at 3 bits */
    const upg_code   *code;        /* the choice */
    /* outliers (outlier_search.h): those of its matrix when chosen, else NULL, and the share of the
     * unit's energy that its matrix's candidate holds */
    const upg_outliers *outliers;
    double              removed;
} upg_plan_unit;

/** Outliers of one matrix that could be bought. */
typedef struct upg_plan_candidate {
    uint32_t            first_unit;
    const upg_outliers *outliers;
    upg_outlier_counts  counts;
    uint64_t            bytes; /* with padding and the entries that name them */
    bool                chosen;
} upg_plan_candidate;

/** Told of a matrix while its pages are there, where planning or coding reads all of it: for what
 * else wants to be done with every byte. */
typedef struct upg_matrix_reader {
    void (*read)(void *user, const upg_matrix *matrix); /* NULL: nobody */
    void *user;
} upg_matrix_reader;

typedef struct upg_plan {
    uint32_t       n_units;
    upg_plan_unit *units; /* in file order; units of one matrix stand together, rows ascending */
    uint64_t       code_bytes; /* of outliers too */
    double         predicted_kl;
    uint32_t       n_candidates;
    upg_plan_candidate *candidates; /* in the order of their units */
    upg_matrix_reader   reader;
} upg_plan;

void upg_plan_tell_reader(const upg_plan *plan, const upg_matrix *matrix);

/** Squared error of a code on unit Gaussian weights. */
double upg_plan_mse(const upg_code *code);
/** u32 words of the unit's code at its rate. */
uint64_t upg_plan_unit_words(const upg_plan_unit *unit);
/** Predicted KL of the unit at its rate. */
double upg_plan_unit_loss(const upg_plan_unit *unit);
/** Units of the matrix that begins at unit `first`. */
uint32_t upg_plan_units_of(const upg_plan *plan, uint32_t first);
/** Cuts the matrices into units and gives each the lowest rate. Memory lives in `arena`. */
upg_status upg_plan_create(const upg_weights *weights, upg_arena *arena, upg_plan *plan,
                           upg_error *err);
/** Takes codes of constraint length `length` (one that upg_code_find has for every rate) instead of
 * the default, at the lowest rates. */
void upg_plan_set_length(upg_plan *plan, uint32_t length);
/** The chosen candidate of the matrix that begins at unit `first`, or NULL. */
const upg_plan_candidate *upg_plan_outliers_of(const upg_plan *plan, uint32_t first);
/** Back to the lowest rates and no outliers. */
void upg_plan_reset(upg_plan *plan);
/** Raises rates and buys outliers, best gain for a byte first, until nothing fits: code_bytes ≤
 * budget_bytes.
 * Errors: E_BUDGET when even the lowest rates do not fit (plan unchanged). */
upg_status upg_plan_fill(upg_plan *plan, uint64_t budget_bytes, upg_error *err);
/** From the lowest rates on: as upg_plan_fill, but candidates are dropped all together unless what
 * is chosen with them under budget_bytes − reserve_bytes has a predicted loss at least 1 % less
 * than what rates alone reach under budget_bytes: smaller gains are within the error of the
 * prediction, and outliers cost time too. Errors: as upg_plan_fill. */
upg_status upg_plan_fill_either(upg_plan *plan, uint64_t budget_bytes, uint64_t reserve_bytes,
                                upg_error *err);

#endif
