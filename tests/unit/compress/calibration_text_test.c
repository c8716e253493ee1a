/* Text as windows of tokens: which windows, and every text and tokenizer that cannot be used. */
#include "compress_fixture.h"

#include "compress/calibration_text.h"
#include "compress/default_calibration.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"
#include "tokenizer/tokenizer.h"

static upg_weights *micro;

static int open_micro(void **state)
{
    (void)state;
    return upg_weights_open(UPG_TEST_DATA "/phi4-micro", &micro, &err) == UPG_OK ? 0 : -1;
}

static int close_micro(void **state)
{
    (void)state;
    upg_weights_close(micro);
    return 0;
}

static upg_span span_of(const void *bytes, size_t size)
{
    return (upg_span) { bytes, size };
}

static upg_span default_text(void)
{
    return span_of(upg_default_calibration, upg_default_calibration_size);
}

static void windows_are_spread_evenly(void **state)
{
    upg_tokenizer    *tokenizer;
    upg_token_windows windows;
    upg_span          text = span_of(upg_default_calibration, 60000);
    size_t            n, whole;
    int32_t          *all = malloc(text.size * sizeof *all);

    (void)state;
    assert_non_null(all);
    while ((text.data[text.size] & 0xC0) == 0x80) /* not inside a character */
        text.size--;
    OK(upg_tokenizer_load(micro->tokenizer_json, micro->tokenizer_config_json, &tokenizer, &err));
    OK(upg_tokenizer_encode(tokenizer, (const char *)text.data, text.size, false, all, text.size,
                            &n, &err));
    whole = n / 100;
    assert_true(whole > 60);
    for (uint32_t max = 1; max < 50; max += 16) {
        OK(upg_token_windows_make(micro, text, 100, max, &windows, &err));
        assert_int_equal(windows.n_windows, max);
        assert_int_equal(windows.window, 100);
        for (size_t w = 0; w < max; w++)
            assert_memory_equal(windows.tokens + w * 100, all + w * whole / max * 100,
                                100 * sizeof *all);
        upg_token_windows_deinit(&windows);
    }
    OK(upg_token_windows_make(micro, text, 100, 100000, &windows, &err));
    assert_int_equal(windows.n_windows, whole); /* all there are */
    upg_token_windows_deinit(&windows);
    OK(upg_token_windows_make(micro, text, 5000, 2, &windows, &err));
    assert_int_equal(windows.window, 1024); /* no longer than the model's context */
    upg_token_windows_deinit(&windows);
    upg_tokenizer_release(tokenizer);
    free(all);
}

static void the_default_text_is_enough(void **state)
{
    upg_token_windows windows;

    (void)state;
    OK(upg_token_windows_make(micro, default_text(), UPG_CALIBRATION_WINDOW,
                              UPG_CALIBRATION_WINDOWS, &windows, &err));
    assert_int_equal(windows.n_windows, UPG_CALIBRATION_WINDOWS);
    upg_token_windows_deinit(&windows);
}

static void expect(upg_span text, upg_status status, const char *words)
{
    upg_token_windows windows;

    assert_int_equal(upg_token_windows_make(micro, text, 512, 8, &windows, &err), status);
    assert_null(windows.tokens);
    if (strstr(err.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void unusable_texts(void **state)
{
    char utf16[2000], latin1[4000];

    (void)state;
    expect(span_of("", 0), UPG_E_DATA, "0 tokens");
    expect(span_of("Too short.", 10), UPG_E_DATA, "512 are needed");
    for (size_t i = 0; i < sizeof utf16; i += 2) { /* "a" in UTF-16 with its mark: FF FE */
        utf16[i] = 'a';
        utf16[i + 1] = 0;
    }
    utf16[0] = (char)0xFF;
    utf16[1] = (char)0xFE;
    expect(span_of(utf16, sizeof utf16), UPG_E_DATA, "UTF-8");
    memset(latin1, 'x', sizeof latin1);
    latin1[1234] = (char)0xE9; /* é in Latin-1 */
    expect(span_of(latin1, sizeof latin1), UPG_E_DATA, "1234");
    latin1[1234] = 'x';
    latin1[sizeof latin1 - 1] = (char)0xC3; /* cut inside a character */
    expect(span_of(latin1, sizeof latin1), UPG_E_DATA, "3999");
}

static void checkpoints_without_a_fitting_tokenizer(void **state)
{
    test_model_shape  shape = test_model_small();
    char             *folder = make_folder();
    upg_weights      *weights;
    upg_token_windows windows;

    (void)state;
    OK(make_checkpoint(folder, &shape, 1, &err));
    OK(upg_weights_open(folder, &weights, &err));
    assert_int_equal(upg_token_windows_make(weights, default_text(), 64, 8, &windows, &err),
                     UPG_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    /* a tokenizer with more tokens than the embedding has rows */
    weights->tokenizer_json = micro->tokenizer_json;
    weights->tokenizer_config_json = micro->tokenizer_config_json;
    assert_int_equal(upg_token_windows_make(weights, default_text(), 64, 8, &windows, &err),
                     UPG_E_DATA);
    assert_non_null(strstr(err.message, "320 rows"));
    upg_weights_close(weights);
    remove_folder(folder);
}

static void failing_memory(void **state)
{
    upg_token_windows windows;
    upg_status        st = UPG_E_NOMEM;
    upg_span          text = span_of(upg_default_calibration, 9000);

    (void)state;
    while ((text.data[text.size] & 0xC0) == 0x80)
        text.size--;
    for (uint64_t n = 0, step = 1; st == UPG_E_NOMEM; n += step, step += n / 4) {
        upg_alloc_fail_after(n);
        st = upg_token_windows_make(micro, text, 512, 4, &windows, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK || (st == UPG_E_NOMEM && windows.tokens == NULL));
    }
    OK(st);
    upg_token_windows_deinit(&windows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_are_spread_evenly),
        cmocka_unit_test(the_default_text_is_enough),
        cmocka_unit_test(unusable_texts),
        cmocka_unit_test(checkpoints_without_a_fitting_tokenizer),
        cmocka_unit_test(failing_memory),
    };

    return cmocka_run_group_tests(tests, open_micro, close_micro);
}
