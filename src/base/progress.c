#include "base/progress.h"

#include "base/clock.h"

#define REPORT_INTERVAL_NS 100000000u

void upg_meter_start(upg_meter *meter, const upg_listener *listener, const char *stage,
                     const char *unit, uint64_t total)
{
    meter->listener = listener;
    meter->now = (upg_progress_report) {
        .stage = stage, .unit = unit, .total = total, .seconds = -1, .loss = -1
    };
    meter->skipped = meter->part_start = 0;
    meter->error2 = meter->energy2 = 0;
    atomic_store(&meter->done, 0);
    atomic_store(&meter->cancelled, false);
    meter->start_ns = meter->last_ns = upg_now_ns();
}

void upg_meter_add(upg_meter *meter, uint64_t n)
{
    atomic_fetch_add_explicit(&meter->done, n, memory_order_relaxed);
}

void upg_meter_skip(upg_meter *meter, uint64_t n)
{
    meter->skipped += n;
    upg_meter_add(meter, n);
}

void upg_meter_part(upg_meter *meter, const char *name, uint32_t index, uint32_t count,
                    uint64_t total)
{
    meter->now.part = name;
    meter->now.part_index = index;
    meter->now.parts = count;
    meter->now.part_total = total;
    meter->part_start = atomic_load(&meter->done);
}

void upg_meter_error(upg_meter *meter, double error2, double energy2)
{
    meter->error2 += error2;
    meter->energy2 += energy2;
    if (meter->energy2 > 0)
        meter->now.loss = meter->error2 / meter->energy2;
}

bool upg_meter_cancelled(upg_meter *meter)
{
    const atomic_bool *cancel = meter->listener == NULL ? NULL : meter->listener->cancel;

    return atomic_load_explicit(&meter->cancelled, memory_order_relaxed) ||
           (cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed));
}

static void report(upg_meter *meter, uint64_t now_ns)
{
    upg_progress_report *r = &meter->now;
    double               seconds = (double)(now_ns - meter->start_ns) * 1e-9;

    r->done = atomic_load(&meter->done);
    r->part_done = r->done - meter->part_start;
    r->rate = seconds > 0 ? (double)(r->done - meter->skipped) / seconds : 0;
    r->seconds = r->rate > 0 && r->total >= r->done ? (double)(r->total - r->done) / r->rate : -1;
    meter->last_ns = now_ns;
    if (meter->listener != NULL && meter->listener->report != NULL &&
        meter->listener->report(meter->listener->user, r) != 0)
        atomic_store(&meter->cancelled, true);
}

void upg_meter_tick(upg_meter *meter)
{
    uint64_t now_ns = upg_now_ns();

    if (now_ns - meter->last_ns >= REPORT_INTERVAL_NS)
        report(meter, now_ns);
}

upg_status upg_meter_finish(upg_meter *meter, upg_error *err)
{
    report(meter, upg_now_ns());
    if (upg_meter_cancelled(meter))
        return upg_fail(err, UPG_E_CANCELLED, "%s: cancelled", meter->now.stage);
    return UPG_OK;
}
