/* synthetic.h: models of known shapes with random codes, made in memory, to measure speed without a
 * file.
 *
 * Bits are random, so that values are as good as Gaussian, and scales keep activations near 1. The
 * rates are those of the benchmark mix: embedding in bands of 4, 3 and 2.5 bits (2.875 on average),
 * head 4, q, k, v, gate and up 3, o and down 3.5. There is no tokenizer. */
#ifndef UPG_MODEL_SYNTHETIC_H
#define UPG_MODEL_SYNTHETIC_H

#include "base/pool.h"
#include "model/weights.h"

/** Makes the weights of a shape: "phi4", "phi4-nano" or "phi4-micro", or one of them with another
 * number of layers, "phi4:4". The same for every machine and number of threads; close them by
 * upg_weights_close. Errors: E_ARG (lists the shapes), E_BUDGET when `limit_bytes` (0 = the free
 * memory) does not suffice (says what is needed and how many layers fit), E_NOMEM. */
upg_status upg_weights_synthetic(const char *shape, uint64_t limit_bytes, upg_pool *pool,
                                 upg_weights **weights, upg_error *err);

#endif
