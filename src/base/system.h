/* system.h: what the operating system tells about memory and graphics processors. */
#ifndef UPG_BASE_SYSTEM_H
#define UPG_BASE_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Bytes of memory, and those that can be had without swapping; limits of a control group count. 0
 * where the system does not tell. */
void upg_system_memory(uint64_t *total, uint64_t *available);
/** Test hook: from now on no more than this is available; UINT64_MAX lifts it. */
void upg_system_memory_cap(uint64_t available);
/** Bytes that this process may still write to the disk below `path`, which need not exist: that of
 * the folder it would lie in. False where the system does not tell. */
bool upg_system_disk(const char *path, uint64_t *available);
/** Test hook: from now on no more than this is free on any disk; UINT64_MAX lifts it. */
void upg_system_disk_cap(uint64_t available);
/** The first GPU's name as its driver tells it, "" without one. */
void upg_system_gpu(char *text, size_t cap);
/** Asks for large pages under memory that will be read again and again: the processor then walks
 * fewer page tables. Where the system has none, or not for this memory, nothing changes. */
void upg_system_large_pages(void *memory, size_t bytes);

#endif
