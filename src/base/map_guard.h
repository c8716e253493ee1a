/* map_guard.h: what becomes of a mapped file that loses its bytes.
 *
 * Reading a page that a file no longer has (someone truncated it, the disk failed) raises SIGBUS.
 * With the handler installed, the rest of that mapping becomes zeros from the lost page on, the
 * reader goes on, and whoever owns the mapping asks afterwards and refuses what was computed. The
 * handler touches atomics of a fixed table and calls mmap; faults elsewhere go to the handler that
 * was there before. */
#ifndef UPG_BASE_MAP_GUARD_H
#define UPG_BASE_MAP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/** Installs the handler for this process; once is enough. Errors: E_IO. */
upg_status upg_map_guard_install(upg_error *err);

/** Remembers a mapping; 0 when the table (1024 mappings) is full: that one is not guarded. */
uint32_t upg_map_guard_add(const void *base, size_t size);
/** Forgets it, before it is unmapped; 0 is fine. */
void upg_map_guard_remove(uint32_t guard);
/** Whether all of this memory lies in one remembered mapping. */
bool upg_map_guard_covers(const void *memory, size_t bytes);
/** Offset of the first page that was lost, UINT64_MAX when none was. 0 is fine. */
uint64_t upg_map_guard_lost(uint32_t guard);

#endif
