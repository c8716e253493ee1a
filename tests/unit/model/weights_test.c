#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/weights.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"
#include <stdio.h>

static void opens(void **state)
{
    const char *names[] = { "phi4-micro",
                            "phi4-nano",
                            "random/gqa4-hd128",
                            "random/hidden640",
                            "random/tied-partial-longrope",
                            "random/sliding-window" };
    upg_error   err;
    (void)state;
    for (int i = 0; i < 6; i++) {
        char         path[256];
        upg_weights *w;
        snprintf(path, sizeof path, "%s/models/%s", UPG_SHARED_DATA, names[i]);
        err.message[0] = 0;
        upg_status st = upg_weights_open(path, &w, &err);
        printf("%s: %d %s\n", names[i], st, err.message);
        if (st == 0) {
            printf("%lu %lu %lu %lu\n", w->n_parameters, w->weight_bytes, w->file_bytes,
                   w->source_bytes);
            upg_weights_close(w);
        }
    }
    test_model_shape s = test_model_small();
    char            *folder = make_folder();
    upg_weights     *w;
    assert_int_equal(make_checkpoint(folder, &s, 1, &err), 0);
    assert_int_equal(upg_weights_open(folder, &w, &err), 0);
    upg_weights_close(w);
    remove_folder(folder);
}
int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(opens) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
