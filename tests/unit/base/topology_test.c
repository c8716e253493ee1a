/* Placement on machines that hwloc makes up, and what the real one says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/pool.h"
#include "base/topology.h"

static upg_topology *synthetic(const char *description)
{
    upg_topology *t;

    assert_int_equal(setenv("HWLOC_SYNTHETIC", description, 1), 0);
    t = upg_topology_open();
    unsetenv("HWLOC_SYNTHETIC");
    if (t == NULL) {
        print_message("built without hwloc: nothing to place\n");
        skip();
    }
    return t;
}

static void expect_places(const upg_topology *t, uint32_t n, const char *const *want)
{
    char text[64];

    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(upg_topology_place(t, n, i, text, sizeof text), want != NULL);
        assert_string_equal(text, want ? want[i] : "");
    }
}

/* Two sockets of four cores with two hardware threads each, a memory for each socket. */
static void two_nodes(void **state)
{
    upg_topology *t = synthetic("package:2 [numa] l3:1(size=32MB) core:4 pu:2");
    char          text[160];

    (void)state;
    assert_int_equal(upg_topology_nodes(t), 2);
    upg_topology_describe(t, text, sizeof text);
    assert_non_null(strstr(text, "2 sockets, 2 NUMA nodes, 8 cores"));
    assert_non_null(strstr(text, "L3 2 x "));
    /* a core for every thread, both of its hardware threads */
    expect_places(
        t, 8,
        (const char *const[]) { "0-1", "2-3", "4-5", "6-7", "8-9", "10-11", "12-13", "14-15" });
    /* fewer: as many in each node, anywhere in it */
    expect_places(t, 4, (const char *const[]) { "0-7", "0-7", "8-15", "8-15" });
    expect_places(t, 2, (const char *const[]) { "0-7", "8-15" });
    expect_places(t, 9, NULL);
    expect_places(t, 16, NULL);
    upg_topology_close(t);
}

static void one_node(void **state)
{
    upg_topology *t = synthetic("package:1 [numa] core:4 pu:1");

    (void)state;
    assert_int_equal(upg_topology_nodes(t), 1);
    expect_places(t, 4, (const char *const[]) { "0", "1", "2", "3" });
    expect_places(t, 2, NULL);
    expect_places(t, 5, NULL);
    upg_topology_close(t);
}

/* No thread is bound, no memory moved, by a description of another machine. */
static void made_up_machines_bind_nothing(void **state)
{
    upg_topology *t = synthetic("package:2 [numa] core:2 pu:1");
    char          memory[64];

    (void)state;
    assert_false(upg_topology_bind(t, 4, 1));
    upg_topology_interleave(t, memory, sizeof memory);
    upg_topology_close(t);
}

static void no_topology(void **state)
{
    char text[64];

    (void)state;
    assert_false(upg_topology_place(NULL, 2, 0, text, sizeof text));
    assert_string_equal(text, "");
    assert_false(upg_topology_bind(NULL, 2, 0));
    upg_topology_describe(NULL, text, sizeof text);
    assert_non_null(strstr(text, "not known"));
    upg_topology_interleave(NULL, text, sizeof text);
    upg_topology_close(NULL);
}

typedef struct seen {
    upg_topology *topology;
    uint32_t      n, calls[8];
    bool          bound[8];
} seen;

static void note(void *context, uint32_t worker)
{
    seen *s = context;

    s->calls[worker]++;
    if (worker > 0)
        s->bound[worker] = upg_topology_bind(s->topology, s->n, worker);
}

/* Every thread of a pool is called once; on this machine with all cores each can be bound. */
static void each_thread_of_a_pool(void **state)
{
    uint32_t  cores = upg_cpu_cores();
    upg_pool *pool;
    seen      s = { .topology = upg_topology_open(), .n = cores < 8 ? cores : 8 };
    char      text[64];

    (void)state;
    assert_int_equal(upg_pool_create(s.n, &pool, NULL), 0);
    for (int round = 1; round <= 20; round++) {
        upg_pool_run_each(pool, note, &s);
        for (uint32_t i = 0; i < s.n; i++)
            assert_int_equal(s.calls[i], round);
    }
    for (uint32_t i = 1; i < s.n; i++)
        assert_true(s.bound[i] == upg_topology_place(s.topology, s.n, i, text, sizeof text));
    upg_pool_close(pool);
    upg_topology_close(s.topology);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_nodes),
        cmocka_unit_test(one_node),
        cmocka_unit_test(made_up_machines_bind_nothing),
        cmocka_unit_test(no_topology),
        cmocka_unit_test(each_thread_of_a_pool),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
