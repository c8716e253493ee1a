#include "compress/journal_sink.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

static bool sink_has(void *user, const upg_matrix *matrix)
{
    const upg_journal_sink *s = user;

    return upg_journal_has(s->journal, upg_input_index(s->input->weights, matrix));
}

static upg_status sink_put(void *user, const upg_plan_unit *units, uint32_t n_units,
                           const upg_encoded_matrix *encoded, upg_error *err)
{
    upg_journal_sink *s = user;
    const upg_matrix *matrix = units[0].matrix;
    upg_status        st;

    uint32_t index = upg_input_index(s->input->weights, matrix);

    (void)n_units;
    /* pages that a file lost while it was read were zeros, and changed ones belong to another
     * model: what was made of them must not stay */
    st = upg_input_check(s->input, err);
    return st == UPG_OK ? upg_journal_put(s->journal, index, matrix->n_rows,
                                          upg_input_hash(s->input, index), encoded, err)
                        : st;
}

static upg_status copy_record(const upg_journal_record *r, upg_encoded_matrix *encoded,
                              upg_error *err)
{
    encoded->n_words = r->n_words;
    encoded->error2 = r->error2;
    encoded->energy2 = r->energy2;
    encoded->bits = upg_alloc_aligned(r->n_words * sizeof *encoded->bits, err);
    encoded->scales = upg_malloc(r->n_rows, sizeof *encoded->scales, err);
    if (encoded->bits == NULL || encoded->scales == NULL)
        return UPG_E_NOMEM;
    memcpy(encoded->bits, r->bits, r->n_words * sizeof *r->bits);
    memcpy(encoded->scales, r->scales, r->n_rows * sizeof *r->scales);
    return UPG_OK;
}

static upg_status sink_get(void *user, const upg_plan_unit *units, uint32_t n_units,
                           upg_encoded_matrix *encoded, upg_error *err)
{
    upg_journal_sink  *s = user;
    const upg_matrix  *matrix = units[0].matrix;
    upg_journal_record record;
    upg_map            map = { 0 };
    uint64_t           words = 0;
    upg_status         st;

    *encoded = (upg_encoded_matrix) { 0 };
    for (uint32_t u = 0; u < n_units; u++)
        words += upg_plan_unit_words(&units[u]);
    st = upg_journal_get(s->journal, upg_input_index(s->input->weights, matrix), matrix->n_rows,
                         words, &map, &record, err);
    if (st == UPG_OK)
        st = copy_record(&record, encoded, err);
    upg_map_close(&map);
    if (st != UPG_OK)
        upg_encoded_deinit(encoded);
    return st;
}

static upg_status sink_keep(void *user, uint32_t layer, upg_state_store *const *streams,
                            uint32_t n_streams, upg_error *err)
{
    upg_journal_sink *s = user;
    upg_status        st;

    if ((double)(upg_now_ns() - s->kept_ns) * 1e-9 < s->keep_seconds)
        return UPG_OK;
    st = upg_input_check(s->input, err);
    if (st == UPG_OK)
        st = upg_journal_keep(s->journal, layer, streams, n_streams, err);
    s->kept_ns = upg_now_ns();
    return st;
}

static upg_status sink_restore(void *user, upg_state_store *const *streams, uint32_t n_streams,
                               uint32_t *layer, upg_error *err)
{
    upg_journal_sink *s = user;

    return upg_journal_restore(s->journal, streams, n_streams, layer, err);
}

void upg_journal_sink_init(upg_journal_sink *sink, upg_journal *journal, const upg_input *input,
                           double keep_seconds)
{
    *sink = (upg_journal_sink) {
        .journal = journal, .input = input, .keep_seconds = keep_seconds, .kept_ns = upg_now_ns()
    };
    sink->sink = (upg_encoded_sink) { .put = sink_put,
                                      .user = sink,
                                      .has = sink_has,
                                      .get = sink_get,
                                      .keep = sink_keep,
                                      .restore = sink_restore };
}

/* ---- shared work ------------------------------------------------------------------------------
 */

enum { LEASE_NAME = 24 };

static const char *lease_name(uint32_t index, char name[LEASE_NAME])
{
    snprintf(name, LEASE_NAME, "m%06u", (unsigned)index);
    return name;
}

static bool sink_claim(void *user, const upg_matrix *first)
{
    upg_journal_sink *s = user;
    char              name[LEASE_NAME];
    uint32_t          index = upg_input_index(s->input->weights, first);

    return upg_lease_claim(s->leases, lease_name(index, name));
}

void upg_journal_sink_share(upg_journal_sink *sink, upg_leases *leases)
{
    sink->leases = leases;
    sink->sink.claim = sink_claim;
    sink->sink.keep = NULL;
    sink->sink.restore = NULL;
}

/* The first of the matrices that read the same input. */
static uint32_t first_of_input(const upg_weights *weights, uint32_t index)
{
    switch (upg_weights_matrix(weights, index)->role) {
    case UPG_ROLE_V:
        return index - 2;
    case UPG_ROLE_K:
    case UPG_ROLE_UP:
        return index - 1;
    default:
        return index;
    }
}

bool upg_journal_sink_complete(const upg_journal_sink *s, bool by_input, bool *can_go_on)
{
    bool complete = true;

    *can_go_on = false;
    for (uint32_t i = 0; i < upg_weights_matrix_count(s->input->weights); i++) {
        char name[LEASE_NAME];

        if (upg_journal_has(s->journal, i))
            continue;
        complete = false;
        if (upg_lease_is_free(
                s->leases, lease_name(by_input ? first_of_input(s->input->weights, i) : i, name)))
            *can_go_on = true;
    }
    return complete;
}
