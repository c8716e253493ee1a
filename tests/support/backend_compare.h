/* backend_compare.h: the same batches on two backends, logits and KV entries side by side. */
#ifndef UPG_TESTS_BACKEND_COMPARE_H
#define UPG_TESTS_BACKEND_COMPARE_H

#include "backend/backend.h"

enum { TEST_MAX_SEQUENCES = 4 };

typedef struct test_executor {
    const upg_backend_class *class_;
    upg_backend_options      options; /* max_rows must hold every step of the schedule */
} test_executor;

/** What is run: in step i sequence s gets counts[i][s] more tokens, all of a step in one batch. */
typedef struct test_schedule {
    uint32_t n_steps, n_sequences;
    const uint32_t (*counts)[TEST_MAX_SEQUENCES];
    upg_kv_type kv_type;
    bool        long_rope;   /* of every second sequence, the first one included */
    bool        some_logits; /* every third row wants no logits */
    uint64_t    seed;        /* of the tokens */
} test_schedule;

/** The largest differences. Logits: relative to the range of the reference's logits of that row.
 * KV: relative to the largest |value| of that layer's keys or values. */
typedef struct test_difference {
    double   logits, kv;
    uint32_t logits_step, logits_row; /* where logits differ most */
    uint32_t kv_layer;
    uint32_t n_logits; /* rows compared */
} test_difference;

/** Runs `schedule` on both and compares; `reference` is the one that ranges are taken of. */
upg_status test_backends_compare(const upg_program *program, const test_executor *reference,
                                 const test_executor *other, const test_schedule *schedule,
                                 test_difference *difference, upg_error *err);

#endif
