#include "support/kv_sequence.h"

#include "base/alloc.h"

enum { MAX_ROWS = 256 };

upg_status test_sequence_init(test_sequence *sequence, const upg_model_config *config,
                              upg_kv_type type, uint32_t capacity, bool long_rope, upg_error *err)
{
    uint32_t   n_pages = (capacity + UPG_PAGE_TOKENS - 1) / UPG_PAGE_TOKENS;
    upg_status st = UPG_OK;

    *sequence = (test_sequence) { .layout = upg_kv_layout_make(config, type) };
    sequence->pages = upg_calloc(n_pages, sizeof *sequence->pages, err);
    UPG_TRY(sequence->pages ? UPG_OK : UPG_E_NOMEM);
    sequence->view = (upg_kv_view) { sequence->pages, n_pages, long_rope };
    for (uint32_t p = 0; p < n_pages; p++) {
        sequence->pages[p] = upg_alloc_aligned(sequence->layout.page_bytes, err);
        UPG_TRY(sequence->pages[p] ? UPG_OK : UPG_E_NOMEM);
    }
out:
    return st;
}

void test_sequence_deinit(test_sequence *sequence)
{
    for (uint32_t p = 0; sequence->pages && p < sequence->view.n_pages; p++)
        upg_free(sequence->pages[p]);
    upg_free(sequence->pages);
    *sequence = (test_sequence) { 0 };
}

upg_status test_sequence_append(test_sequence *sequence, const upg_backend_class *class_,
                                upg_backend *backend, uint32_t max_rows, const int32_t *tokens,
                                uint32_t n, bool last_only, uint32_t vocab, float *logits,
                                upg_error *err)
{
    static upg_batch_row rows[MAX_ROWS];
    upg_status           st = UPG_OK;

    for (uint32_t done = 0; done < n;) {
        upg_batch batch = { .rows = rows, .kv_layout = &sequence->layout, .fast = sequence->fast };

        for (; batch.n_rows < max_rows && batch.n_rows < MAX_ROWS && done < n; done++) {
            bool wanted = logits && (!last_only || done + 1 == n);

            rows[batch.n_rows++] = (upg_batch_row) {
                .token = tokens[done],
                .position = sequence->length++,
                .kv = &sequence->view,
                .logits = wanted ? logits + (last_only ? 0 : (size_t)done * vocab) : NULL,
            };
        }
        UPG_TRY(class_->run(backend, &batch, err));
    }
out:
    return st;
}
