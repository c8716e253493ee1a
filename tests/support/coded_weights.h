/* coded_weights.h: random coded matrices in the place of a model's dense ones, without encoding:
 * bits are random, so values are as good as Gaussian, and every rate and cut into bands is at hand.
 */
#ifndef UPG_TESTS_CODED_WEIGHTS_H
#define UPG_TESTS_CODED_WEIGHTS_H

#include "base/arena.h"
#include "model/weights.h"

/** Replaces every matrix of the model. rate2 = 0: matrix i is cut into 1 + i % 4 bands, among them
 * bands of one row, with the rates of the library in turn; else one band of that rate. Outputs have
 * about the size of their inputs. Memory comes from `arena`, which must outlive the weights' use.
 */
upg_status test_code_weights(upg_weights *weights, uint32_t rate2, uint64_t seed, upg_arena *arena,
                             upg_error *err);
/** The same with codes of constraint length L; 0 = 12, 14 and 16 in turn. */
upg_status test_code_weights_at(upg_weights *weights, uint32_t rate2, uint32_t length,
                                uint64_t seed, upg_arena *arena, upg_error *err);
/** Gives most of the coded matrices outliers: in turn single ones and columns, columns alone,
 * single ones alone. */
upg_status test_add_outliers(upg_weights *weights, uint64_t seed, upg_arena *arena, upg_error *err);
/** A coded matrix with these bands: rows[i] rows at rate2[i], length L. */
upg_status test_random_coded(uint32_t n_cols, uint32_t n_bands, const uint32_t *rows,
                             const uint32_t *rate2, uint32_t length, uint64_t seed,
                             upg_arena *arena, const upg_coded_matrix **matrix, upg_error *err);

#endif
