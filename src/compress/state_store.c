#include "compress/state_store.h"

#include <string.h>

#include "base/alloc.h"

uint64_t upg_state_store_memory(uint32_t n_slots, size_t slot_size, uint32_t n_buffers, bool spill)
{
    return (uint64_t)(spill ? n_buffers : n_slots) * slot_size * sizeof(float);
}

upg_status upg_state_store_init(upg_state_store *store, uint32_t n_slots, size_t slot_size,
                                uint32_t n_buffers, const char *spill_beside, upg_error *err)
{
    upg_status st = UPG_OK;

    *store = (upg_state_store) { .slot_size = slot_size,
                                 .n_slots = n_slots,
                                 .n_buffers = n_buffers,
                                 .failed = ATOMIC_FLAG_INIT };
    if (spill_beside == NULL) {
        store->memory = upg_malloc(n_slots * slot_size, sizeof *store->memory, err);
        return store->memory != NULL ? UPG_OK : UPG_E_NOMEM;
    }
    store->buffers = upg_malloc(n_buffers * slot_size, sizeof *store->buffers, err);
    UPG_TRY(store->buffers != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_outfile_create_scratch(spill_beside, &store->file, err));
    UPG_TRY(upg_outfile_reserve(store->file, n_slots * slot_size * sizeof(float), err));
out:
    return st;
}

void upg_state_store_deinit(upg_state_store *store)
{
    upg_outfile_discard(store->file);
    upg_free(store->memory);
    upg_free(store->buffers);
    store->file = NULL;
    store->memory = store->buffers = NULL;
}

static void keep_failure(upg_state_store *store, upg_status st, const upg_error *err)
{
    if (atomic_flag_test_and_set(&store->failed))
        return;
    store->status = st;
    store->error = *err;
    atomic_store_explicit(&store->has_failed, true, memory_order_release);
}

static uint64_t place_of(const upg_state_store *store, uint32_t slot)
{
    return (uint64_t)slot * store->slot_size * sizeof(float);
}

float *upg_state_blank(upg_state_store *store, uint32_t slot, uint32_t buffer)
{
    return store->memory != NULL ? store->memory + slot * store->slot_size
                                 : store->buffers + buffer * store->slot_size;
}

float *upg_state_get(upg_state_store *store, uint32_t slot, uint32_t buffer)
{
    float     *state = upg_state_blank(store, slot, buffer);
    size_t     bytes = store->slot_size * sizeof *state;
    upg_error  err;
    upg_status st = UPG_OK;

    if (store->memory == NULL)
        st = upg_outfile_read_at(store->file, place_of(store, slot), state, bytes, &err);
    if (st != UPG_OK) {
        memset(state, 0, bytes); /* not used: whoever waits for the workers asks check */
        keep_failure(store, st, &err);
    }
    return state;
}

void upg_state_put(upg_state_store *store, uint32_t slot, const float *state)
{
    upg_error  err;
    upg_status st = UPG_OK;

    if (store->memory == NULL)
        st = upg_outfile_write_at(store->file, place_of(store, slot), state,
                                  store->slot_size * sizeof *state, &err);
    if (st != UPG_OK)
        keep_failure(store, st, &err);
}

upg_status upg_state_store_check(upg_state_store *store, upg_error *err)
{
    if (!atomic_load_explicit(&store->has_failed, memory_order_acquire))
        return UPG_OK;
    if (err != NULL)
        *err = store->error;
    return store->status;
}
