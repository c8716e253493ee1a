/* kv_sequence.h: one sequence with KV pages of its own, fed to a backend in batches: what runtime/
 * does, without sessions, for tests of backends. */
#ifndef UPG_TESTS_KV_SEQUENCE_H
#define UPG_TESTS_KV_SEQUENCE_H

#include "backend/backend.h"

typedef struct test_sequence {
    upg_kv_layout layout;
    upg_kv_view   view; /* its address identifies the sequence: don't copy the struct */
    uint8_t     **pages;
    uint32_t      length; /* positions in place */
    bool          fast;   /* as upg_batch.fast, for what is appended */
} test_sequence;

/** Room for `capacity` tokens. */
upg_status test_sequence_init(test_sequence *sequence, const upg_model_config *config,
                              upg_kv_type type, uint32_t capacity, bool long_rope, upg_error *err);
/** A zeroed sequence is fine. */
void test_sequence_deinit(test_sequence *sequence);

/** Appends n tokens in batches of up to max_rows (≤ 256). logits: NULL, or f32 [n][vocab]; with
 * `last_only` f32 [vocab] for the last token. */
upg_status test_sequence_append(test_sequence *sequence, const upg_backend_class *class_,
                                upg_backend *backend, uint32_t max_rows, const int32_t *tokens,
                                uint32_t n, bool last_only, uint32_t vocab, float *logits,
                                upg_error *err);

#endif
