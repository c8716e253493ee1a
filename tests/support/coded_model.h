/* coded_model.h: small models in memory, dense or with codes of random bits, and their programs.
 *
 * A coded one takes the config and norms of a random checkpoint and replaces every matrix: rates
 * cycle through all that the library has, large matrices get three bands, and row scales keep
 * activations near 1, so that logits are of use for comparisons. */
#ifndef UPG_TESTS_CODED_MODEL_H
#define UPG_TESTS_CODED_MODEL_H

#include "program/program.h"
#include "support/make_checkpoint.h"

typedef struct test_model {
    upg_weights      *weights; /* a test may change them */
    upg_program      *program;
    struct test_code *codes;  /* private */
    char             *folder; /* private */
} test_model;

/** Errors: as the functions behind it. The caller calls test_model_close, after a failure too. */
upg_status test_model_make(const test_model_shape *shape, bool coded, uint64_t seed,
                           test_model *model, upg_error *err);
/** Replaces one matrix by random codes; matrices that read one input need one rotation_seed. */
upg_status test_model_code_matrix(test_model *model, upg_matrix *matrix, uint64_t seed,
                                  uint64_t rotation_seed, upg_error *err);
/** Replaces every coded matrix by the dense f32 one that it stands for. */
upg_status test_model_decode(test_model *model, upg_error *err);
/** Builds the program again after changes to the weights. */
upg_status test_model_rebuild(test_model *model, upg_error *err);
/** A zeroed model is fine. */
void test_model_close(test_model *model);

#endif
