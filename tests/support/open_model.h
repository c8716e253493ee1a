/* open_model.h: a random small model behind the public API, in a folder of its own. */
#ifndef UPG_TESTS_OPEN_MODEL_H
#define UPG_TESTS_OPEN_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "support/make_checkpoint.h"
#include "support/temp_folder.h"
#include "upg/upg.h"

/* Calls a function that must succeed; its message is shown when it does not. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        upg_error  must_err = { 0 }, *err = &must_err;                                             \
        upg_status must_st = (call);                                                               \
                                                                                                   \
        if (must_st != UPG_OK)                                                                     \
            fail_msg("%s: %s: %s", #call, upg_status_text(must_st), err->message);                 \
    } while (0)

/* Calls a function that must fail with `code` and words that contain `text`. */
#define MUST_FAIL(status, text, call)                                                              \
    do {                                                                                           \
        upg_error  must_err = { 0 }, *err = &must_err;                                             \
        upg_status must_st = (call);                                                               \
                                                                                                   \
        if (must_st != (status) || err->code != (status) || !strstr(err->message, text))           \
            fail_msg("%s gave \"%s\": \"%s\", not %s \"...%s...\"", #call,                         \
                     upg_status_text(must_st), err->message, #status, text);                       \
    } while (0)

/** Opens the checkpoint or file at path. */
static inline upg_model *open_path(const char *path, const char *device, uint32_t threads)
{
    upg_model_options options = { .struct_size = sizeof options,
                                  .device = device,
                                  .threads = threads };
    upg_model        *model = NULL;

    MUST(upg_model_open(path, &options, &model, err));
    return model;
}

/** Opens a random model; the folder is gone when this returns. */
static inline upg_model *open_random(const test_model_shape *shape, uint64_t seed,
                                     const char *device, uint32_t threads)
{
    char      *folder = make_folder();
    upg_model *model;

    MUST(make_checkpoint(folder, shape, seed, err));
    model = open_path(folder, device, threads);
    remove_folder(folder);
    return model;
}

static inline uint32_t vocab_of(const upg_model *model)
{
    upg_model_info info = { .struct_size = sizeof info };

    MUST(upg_model_describe(model, &info, err));
    return info.vocab_size;
}

/** A session with these options (NULL = none). */
static inline upg_session *make_session(upg_model *model, const upg_session_options *options)
{
    upg_session *session = NULL;

    MUST(upg_session_create(model, options, &session, err));
    return session;
}

/** The i-th of some tokens that look like text to nobody. */
static inline upg_token some_token(uint32_t vocab, size_t i)
{
    return (upg_token)((i * 2654435761u + 12345u) % vocab);
}

#endif
