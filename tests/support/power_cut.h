/* power_cut.h: ends this process at the Nth step that changes the disk, as kill -9 does, or as a
 * power cut: what was written and not synced is lost, names that a folder was not synced for are as
 * they were. */
#ifndef UPG_TESTS_POWER_CUT_H
#define UPG_TESTS_POWER_CUT_H

#include <stdbool.h>
#include <stdint.h>

enum { POWER_CUT_EXIT = 99 };

/** From now on; the process ends with POWER_CUT_EXIT at step `at`, counted from 1. */
void power_cut_at(uint64_t at, bool lose_unsynced);
/** Steps since power_cut_at. */
uint64_t power_cut_steps(void);

#endif
