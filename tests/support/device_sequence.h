/* device_sequence.h: one sequence with KV pages in the memory of its backend, for tests of devices.
 */
#ifndef UPG_TESTS_DEVICE_SEQUENCE_H
#define UPG_TESTS_DEVICE_SEQUENCE_H

#include "backend/backend.h"
#include "base/alloc.h"

enum { DEVICE_SEQUENCE_PAGES = 8 };

typedef struct device_sequence {
    const upg_backend_class *class_;
    upg_backend             *backend;
    upg_kv_layout            layout;
    upg_kv_view              view; /* its address identifies the sequence: don't copy the struct */
    uint8_t                 *pages[DEVICE_SEQUENCE_PAGES];
} device_sequence;

static inline upg_status device_sequence_open(device_sequence *s, const upg_backend_class *class_,
                                              upg_backend *backend, const upg_model_config *config,
                                              upg_kv_type type, upg_error *err)
{
    upg_status st = UPG_OK;

    *s = (device_sequence) { .class_ = class_,
                             .backend = backend,
                             .layout = upg_kv_layout_make(config, type) };
    s->view = (upg_kv_view) { s->pages, config->context / UPG_PAGE_TOKENS, false };
    if (s->view.n_pages > DEVICE_SEQUENCE_PAGES)
        s->view.n_pages = DEVICE_SEQUENCE_PAGES;
    for (uint32_t i = 0; i < s->view.n_pages && st == UPG_OK; i++)
        if (class_->kv_allocate)
            st = class_->kv_allocate(backend, s->layout.page_bytes, &s->pages[i], err);
        else
            st =
                (s->pages[i] = upg_alloc_aligned(s->layout.page_bytes, err)) ? UPG_OK : UPG_E_NOMEM;
    return st;
}

static inline void device_sequence_close(device_sequence *s)
{
    for (int i = 0; i < DEVICE_SEQUENCE_PAGES; i++)
        if (s->pages[i] && s->class_->kv_free)
            s->class_->kv_free(s->backend, s->pages[i], s->layout.page_bytes);
        else
            upg_free(s->pages[i]);
}

#endif
