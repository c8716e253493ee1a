/* pool.h: a pool of threads that run one function over many items and meet at a barrier.
 *
 * The caller is one of the workers. Items are claimed dynamically, so that a busy core slows
 * nothing but itself; no result may depend on who ran which item. */
#ifndef UPG_BASE_POOL_H
#define UPG_BASE_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct upg_pool upg_pool;

/** `threads` workers, the caller's own included; 0 = one for each core this process may use. */
upg_status upg_pool_create(uint32_t threads, upg_pool **pool, upg_error *err);
/** Calls run(context, item, worker) for item = 0 … n_items - 1, worker < upg_pool_size, and returns
 * when all are done. Allocates nothing. One caller at a time. */
void upg_pool_run(upg_pool *pool, size_t                                          n_items,
                  void (*run)(void *context, size_t item, uint32_t worker), void *context);
/** Calls run(context, worker) once on every thread of the pool, and returns when all are done: for
 * what belongs to a thread, such as memory that it is to touch first. Waits for the slowest. */
void upg_pool_run_each(upg_pool *pool, void (*run)(void *context, uint32_t worker), void *context);
uint32_t upg_pool_size(const upg_pool *pool);
/** Joins the threads. NULL is fine. */
void upg_pool_close(upg_pool *pool);

#endif
