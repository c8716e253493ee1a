/* job_memory.h: how a compression stays within its memory: what each phase takes, known before
 * anything is allocated, with how many threads, and whether states of windows go to a file.
 *
 * Counted is what the process holds: its own memory, and pages of the checkpoint while a matrix is
 * read (afterwards they are let go of). Results depend on neither choice. */
#ifndef UPG_COMPRESS_JOB_MEMORY_H
#define UPG_COMPRESS_JOB_MEMORY_H

#include "compress/calibrate.h"

/** What a process holds before any work: program, libraries, tokenizer. */
#define UPG_PROCESS_BYTES (UINT64_C(40) << 20)
/** What BLAS keeps for each thread: packed panels. */
#define UPG_BLAS_THREAD_BYTES (UINT64_C(24) << 20)

typedef struct upg_memory_choice {
    uint32_t threads;
    bool     spill; /* states of windows in files */
    uint64_t bytes; /* at most */
} upg_memory_choice;

/** For planning on plan_windows windows of the calibration, and for encoding; windows 0 = without
 * calibration, to nearest. kept_bytes: held all the time. Errors: E_BUDGET with the least that is
 * possible. */
upg_status upg_memory_choose(const upg_weights *weights, const upg_plan *plan,
                             const upg_calibration *calibration, uint32_t plan_windows,
                             uint64_t kept_bytes, uint32_t threads, uint64_t limit,
                             upg_memory_choice *planning, upg_memory_choice *encoding,
                             upg_error *err);

#endif
