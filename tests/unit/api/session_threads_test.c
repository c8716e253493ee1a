/* session_threads_test.c: many threads, one model. Run under ThreadSanitizer in CI; what it checks
 * holds without it too. */
#include "support/open_model.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, TOKENS = 150 };

static test_model_shape shape_of(void)
{
    test_model_shape shape = test_model_small();

    shape.context = 1024;
    return shape;
}

/* ---- sessions that share a model and pages ------------------------------------------------------
 */

typedef struct job {
    upg_session *session;
    upg_token    tokens[TOKENS];
    upg_status   status;
} job;

static void *decode_all(void *argument)
{
    job *j = argument;

    for (int i = 0; i < TOKENS && j->status == UPG_OK; i++) {
        upg_step step = { 0 };

        j->status = upg_decode(&j->session, 1, &step, NULL);
        if (j->status == UPG_OK)
            j->status = step.status;
        j->tokens[i] = step.token;
    }
    return NULL;
}

/* All go on from the same shared pages, which each copies before it writes. */
static void test_forks_on_threads(void **state)
{
    test_model_shape shape = shape_of();
    upg_model       *model = open_random(&shape, 3, "cpu", 2);
    upg_session     *parent = make_session(model, NULL);
    upg_sampling     sampling = { .struct_size = sizeof sampling, .temperature = 1 };
    pthread_t        threads[THREADS];
    job              jobs[THREADS] = { 0 };

    (void)state;
    for (size_t i = 0; i < 100; i++) {
        upg_token token = some_token(vocab_of(model), i);

        MUST(upg_prefill(parent, &token, 1, NULL, err));
    }
    for (int i = 0; i < THREADS; i++) {
        MUST(upg_session_fork(parent, 100, &jobs[i].session, err));
        sampling.seed = (uint64_t)(i / 2); /* two and two are alike */
        MUST(upg_session_set_sampling(jobs[i].session, &sampling, err));
    }
    upg_session_close(parent);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, decode_all, &jobs[i]), 0);
    upg_model_close(model); /* the sessions keep it */
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].status, UPG_OK);
        upg_session_close(jobs[i].session);
    }
    assert_memory_equal(jobs[0].tokens, jobs[1].tokens, sizeof jobs[0].tokens);
    assert_memory_equal(jobs[2].tokens, jobs[3].tokens, sizeof jobs[0].tokens);
    assert_memory_not_equal(jobs[0].tokens, jobs[2].tokens, sizeof jobs[0].tokens);
}

/* ---- one session that another thread disturbs
 * ----------------------------------------------------- */

typedef struct prefill {
    upg_session *session;
    upg_token    tokens[1000];
    atomic_bool  started, stop;
    upg_status   status; /* the first that is neither UPG_OK nor UPG_E_BUSY */
} prefill;

/* Over and over again, so that what the other thread does comes in the middle sooner or later. */
static void *prefill_repeatedly(void *argument)
{
    prefill *p = argument;

    atomic_store(&p->started, true);
    while (!atomic_load(&p->stop)) {
        upg_status st = upg_session_rewind(p->session, 0, NULL);

        if (st == UPG_OK)
            st = upg_prefill(p->session, p->tokens, 1000, NULL, NULL);
        if (st != UPG_OK && st != UPG_E_BUSY) {
            p->status = st;
            break;
        }
    }
    return NULL;
}

static prefill *start_prefill(upg_model *model, upg_session *session, pthread_t *thread)
{
    prefill *p = calloc(1, sizeof *p);

    assert_non_null(p);
    p->session = session;
    for (size_t i = 0; i < 1000; i++)
        p->tokens[i] = some_token(vocab_of(model), i);
    assert_int_equal(pthread_create(thread, NULL, prefill_repeatedly, p), 0);
    while (!atomic_load(&p->started))
        ;
    return p;
}

static void test_cancel_from_another_thread(void **state)
{
    test_model_shape shape = shape_of();
    upg_model       *model = open_random(&shape, 3, "cpu", 2);
    upg_session     *session = make_session(model, NULL);
    pthread_t        thread;
    prefill         *p = start_prefill(model, session, &thread);
    upg_step         step = { 0 };

    (void)state;
    upg_session_cancel(session);
    pthread_join(thread, NULL);
    assert_int_equal(p->status, UPG_E_CANCELLED);
    assert_true(upg_session_length(session) <= 1000);
    /* It stands at a whole number of tokens, and the request is done with. */
    MUST(upg_session_rewind(session, upg_session_length(session) / 2, err));
    MUST(upg_prefill(session, p->tokens, 1, NULL, err));
    MUST(upg_decode(&session, 1, &step, err));
    assert_int_equal(step.status, UPG_OK);
    upg_session_close(session);
    upg_model_close(model);
    free(p);
}

/* While one thread prefills, the other is refused, and what it asked for is not done. */
static void test_two_threads_on_one_session(void **state)
{
    test_model_shape shape = shape_of();
    upg_model       *model = open_random(&shape, 3, "cpu", 1);
    upg_session     *session = make_session(model, NULL), *child;
    pthread_t        thread;
    prefill         *p = start_prefill(model, session, &thread);
    unsigned         busy = 0;

    (void)state;
    while (busy < 100) {
        upg_step   step = { 0 };
        upg_status st = upg_decode(&session, 1, &step, NULL);

        if (st == UPG_E_BUSY)
            busy++;
        else
            assert_int_equal(st, UPG_OK); /* between two calls of the other thread */
        if (upg_session_fork(session, 0, &child, NULL) == UPG_OK)
            upg_session_close(child);
        else
            assert_null(child);
    }
    atomic_store(&p->stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(p->status, UPG_OK);
    upg_session_close(session);
    upg_model_close(model);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forks_on_threads),
        cmocka_unit_test(test_cancel_from_another_thread),
        cmocka_unit_test(test_two_threads_on_one_session),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
