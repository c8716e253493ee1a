/* cpu_backend.c: creates the executor of one program on this machine's cores, and runs batches. */
#include "backend/cpu/cpu_backend.h"

#include <stdio.h>

#include "backend/rotary.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"

static cpu_backend *cpu_of(upg_backend *backend)
{
    return (cpu_backend *)(void *)backend;
}

static void close_backend(upg_backend *backend)
{
    cpu_backend *b = cpu_of(backend);

    if (b == NULL)
        return;
    upg_pool_close(b->pool);
    upg_topology_close(b->topology);
    upg_cpu_free_all(b);
    upg_free(b);
}

static upg_status check_program(const upg_program *program, upg_error *err)
{
    for (uint32_t i = 0; i < program->n_ops; i++)
        if (!upg_cpu_runs_op(program->ops[i].code))
            return upg_fail(err, UPG_E_UNSUPPORTED, "the cpu backend has no op %s (op %u)",
                            upg_op_name(program->ops[i].code), i);
    return UPG_OK;
}

/* The caller's thread is the caller's own: it finds the place that the others leave. */
static void bind_worker(void *context, uint32_t worker)
{
    const cpu_backend *b = context;

    if (worker > 0)
        (void)upg_topology_bind(b->topology, b->threads, worker);
}

static void place_threads(cpu_backend *b)
{
    if (b->threads == 1)
        return;
    b->topology = upg_topology_open();
    if (b->topology == NULL)
        return;
    upg_pool_run_each(b->pool, bind_worker, b);
    if (upg_topology_nodes(b->topology) > 1)
        return; /* the pages of caches will ask it */
    upg_topology_close(b->topology);
    b->topology = NULL;
}

static upg_status create_backend(const upg_program *program, const upg_backend_options *options,
                                 upg_backend **backend, upg_error *err)
{
    cpu_backend *b = upg_calloc(1, sizeof *b, err);
    upg_status   st;

    UPG_TRY(b ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(check_program(program, err));
    b->program = program;
    b->max_rows = options->max_rows;
    b->bits_only = options->decode_kernels_only;
    b->lut8 = options->lut8;
    upg_kernels_select(upg_cpu_flags(), &b->kernels);
    UPG_TRY(upg_pool_create(options->threads, &b->pool, err));
    b->threads = upg_pool_size(b->pool);
    if (!options->unpinned)
        place_threads(b);
    UPG_TRY(upg_cpu_plan(b, err));
    UPG_TRY(upg_cpu_allocate(b, err));
    snprintf(b->description, sizeof b->description, "cpu %s%s, %u thread%s", b->kernels.name,
             b->lut8 ? " by tables of 8 bits" : "", b->threads, b->threads == 1 ? "" : "s");
out:
    if (st != UPG_OK) {
        close_backend((upg_backend *)(void *)b);
        b = NULL;
    }
    *backend = (upg_backend *)(void *)b;
    return st;
}

static upg_status check_batch(const cpu_backend *b, const upg_batch *batch, upg_error *err)
{
    if (batch->n_rows > b->max_rows)
        return upg_fail(err, UPG_E_ARG, "a batch of %u rows, the backend was created for %u",
                        batch->n_rows, b->max_rows);
    return UPG_OK;
}

/* Cosines and sines of every row's position: once for all layers. */
static void find_angles(cpu_backend *b, const upg_batch *batch)
{
    const upg_rope *rope = &b->program->weights->config.rope;
    size_t          half = rope->rotary_dims / 2;

    for (uint32_t i = 0; i < batch->n_rows; i++)
        upg_rope_angles(rope, batch->rows[i].kv->long_rope, batch->rows[i].position,
                        b->cosine + i * half, b->sine + i * half);
}

static upg_status run_batch(upg_backend *backend, const upg_batch *batch, upg_error *err)
{
    cpu_backend *b = cpu_of(backend);
    upg_status   st = check_batch(b, batch, err);

    if (st != UPG_OK || batch->n_rows == 0)
        return st;
    atomic_store_explicit(&b->bad, false, memory_order_relaxed);
    upg_cpu_find_groups(b, batch);
    find_angles(b, batch);
    if (batch->op_ns != NULL)
        batch->op_ns[0] = upg_now_ns();
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];

        if (batch->cancel != NULL && atomic_load_explicit(batch->cancel, memory_order_relaxed))
            return upg_fail(err, UPG_E_CANCELLED, "cancelled before op %u of %u", i,
                            b->program->n_ops);
        upg_cpu_run_op(b, op, batch);
        if (batch->op_ns != NULL)
            batch->op_ns[i + 1] = upg_now_ns();
        if (atomic_load_explicit(&b->bad, memory_order_relaxed))
            return upg_fail(err, UPG_E_DATA,
                            "op %s of layer %u met a value that is NaN or infinite: are the "
                            "weights damaged?",
                            upg_op_name(op->code), op->layer);
    }
    return UPG_OK;
}

static const char *describe_backend(const upg_backend *backend)
{
    return ((const cpu_backend *)(const void *)backend)->description;
}

static uint64_t backend_memory(const upg_backend *backend)
{
    return ((const cpu_backend *)(const void *)backend)->memory;
}

static void place_page(upg_backend *backend, uint8_t *page, size_t bytes)
{
    upg_topology_interleave(cpu_of(backend)->topology, page, bytes);
}

const upg_backend_class upg_backend_cpu = { .name = "cpu",
                                            .times_ops = true,
                                            .create = create_backend,
                                            .run = run_batch,
                                            .describe = describe_backend,
                                            .memory = backend_memory,
                                            .close = close_backend,
                                            .kv_place = place_page };
