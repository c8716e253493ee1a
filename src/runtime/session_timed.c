/* session_timed.c: one step with the times of its ops. */
#include "base/alloc.h"
#include "runtime/session.h"

static uint64_t op_bytes(const upg_session *s, const upg_op *op, const upg_token_costs *costs)
{
    const upg_model *m = s->model;
    uint64_t         bytes = 0;

    if (op->code == UPG_OP_ATTENTION || op->code == UPG_OP_ATTEND)
        return upg_kv_layout_make(&m->weights->config, s->cache.layout.type).page_bytes /
               UPG_PAGE_TOKENS / m->weights->config.n_layers * s->length;
    if (op->code == UPG_OP_EMBED)
        return costs->embedding_row_bytes;
    for (int i = 0; i < 3; i++)
        bytes += op->w[i] ? op->w[i]->bytes : 0;
    return bytes;
}

static void fill(const upg_session *s, const uint64_t *op_ns, upg_op_time *times)
{
    const upg_program *p = s->model->program;
    upg_token_costs    costs = upg_engine_token_costs(s->model);

    for (uint32_t i = 0; i < p->n_ops; i++)
        times[i] = (upg_op_time) { .op = upg_op_name(p->ops[i].code),
                                   .layer = p->ops[i].layer,
                                   .begin_ns = op_ns[i],
                                   .end_ns = op_ns[i + 1],
                                   .bytes = op_bytes(s, &p->ops[i], &costs) };
}

upg_status upg_session_step_timed(upg_session *session, upg_step *step, upg_op_time *times,
                                  size_t cap, size_t *n, upg_error *err)
{
    const upg_model *m = session->model;
    uint32_t         n_ops = m->program->n_ops;
    uint64_t        *op_ns;
    upg_status       st;

    *n = n_ops;
    if (n_ops > cap)
        return upg_fail(err, UPG_E_BUFFER, "room for %zu ops, a token takes %u", cap, n_ops);
    *n = 0;
    if (!m->class_->times_ops)
        return upg_fail(err, UPG_E_UNSUPPORTED, "%s runs a token as a whole: its ops have no times",
                        m->class_->describe(m->backend));
    op_ns = upg_calloc((size_t)n_ops + 1, sizeof *op_ns, err);
    if (!op_ns)
        return UPG_E_NOMEM;
    session->op_ns = op_ns;
    st = upg_session_step(&session, 1, step, err);
    session->op_ns = NULL;
    if (st == UPG_OK && step->status == UPG_OK && op_ns[n_ops] != 0) {
        fill(session, op_ns, times);
        *n = n_ops;
    }
    upg_free(op_ns);
    return st;
}
