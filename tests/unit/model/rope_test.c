/* Rotary frequencies equal transformers' (tests/data/configs holds its numbers); every refusal of
 * rope fields is provoked. */
#include "config_patch.h"

#include <math.h>

static const char *const names[] = { "gqa4-hd128", "hidden640", "sliding-window",
                                     "tied-partial-longrope" };

static void compare(const json_t *want, double relative, const float *got, uint32_t n)
{
    assert_int_equal(json_array_size(want), n);
    for (uint32_t i = 0; i < n; i++) {
        double value = json_number_value(json_array_get(want, i));

        if (fabs(got[i] - value) > relative * value)
            fail_msg("frequency %u: %.9g, wanted %.9g", i, (double)got[i], value);
    }
}

/* Bit for bit, but for the long frequencies: those come from a GPU, which multiplies by the fp32
 * reciprocal of the dimensions instead of dividing. That moves the exponent by one unit of 2^-24 at
 * most, a frequency by ln(theta) = 9.3 times that, and two roundings follow. */
static void frequencies_equal_the_oracle(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t          *brief = load_config(names[i], "inv_freq");
        json_t          *at_96 = load_config(names[i], "inv_freq_at_96");
        json_t          *scaling = load_config(names[i], "attention_scaling");
        upg_arena        arena = { 0 };
        upg_model_config c;
        bool             exceeded;

        assert_int_equal(read_patched(names[i], NULL, NULL, &arena, &c, NULL), UPG_OK);
        exceeded = c.rope.long_inv_freq != NULL && c.rope.original_context < 96;
        compare(brief, 0, c.rope.inv_freq, c.rope.rotary_dims / 2);
        compare(at_96, exceeded ? 11.3 * 0x1p-24 : 0,
                exceeded ? c.rope.long_inv_freq : c.rope.inv_freq, c.rope.rotary_dims / 2);
        assert_float_equal(c.rope.attention_scaling, json_number_value(scaling), 1e-7);
        upg_arena_deinit(&arena);
        json_decref(brief);
        json_decref(at_96);
        json_decref(scaling);
    }
}

/* The same model written in the style of version 4 gives the same bits. */
static void styles_agree(void **state)
{
    const char      *base = "tied-partial-longrope";
    json_t          *root = load_config(base, "config");
    json_t          *rope = json_incref(json_object_get(root, "rope_parameters"));
    upg_arena        arena = { 0 };
    upg_model_config v5, v4;
    char            *text;

    (void)state;
    assert_int_equal(read_patched(base, NULL, NULL, &arena, &v5, NULL), UPG_OK);
    json_object_set_new(root, "rope_scaling",
                        json_pack("{s:s, s:O, s:O}", "type", "su", "short_factor",
                                  json_object_get(rope, "short_factor"), "long_factor",
                                  json_object_get(rope, "long_factor")));
    json_object_set_new(root, "rope_theta", json_integer(10000));
    json_object_set_new(root, "partial_rotary_factor", json_real(0.75));
    json_object_del(root, "rope_parameters");
    text = json_dumps(root, 0);
    assert_int_equal(upg_model_config_read((upg_span) { (uint8_t *)text, strlen(text) },
                                           (upg_span) { 0 }, &arena, &v4, NULL),
                     UPG_OK);
    assert_int_equal(v4.rope.rotary_dims, 48);
    assert_int_equal(v4.rope.original_context, v5.rope.original_context);
    assert_memory_equal(v4.rope.inv_freq, v5.rope.inv_freq, 24 * sizeof(float));
    assert_memory_equal(v4.rope.long_inv_freq, v5.rope.long_inv_freq, 24 * sizeof(float));
    assert_memory_equal(&v4.rope.attention_scaling, &v5.rope.attention_scaling, sizeof(float));
    free(text);
    json_decref(rope);
    json_decref(root);
    upg_arena_deinit(&arena);
}

static float scaling_of(const char *patch)
{
    upg_arena        arena = { 0 };
    upg_error        err = { 0 };
    upg_model_config c;
    upg_status       st = read_patched("tied-partial-longrope", patch, NULL, &arena, &c, &err);

    if (st != UPG_OK)
        fail_msg("%s", err.message);
    upg_arena_deinit(&arena);
    return c.rope.attention_scaling;
}

static void attention_scaling_variants(void **state)
{
    const float by_ratio = (float)sqrt(1 + log(4) / log(64)); /* contexts 256 and 64 */

    (void)state;
    assert_float_equal(scaling_of("{}"), by_ratio, 1e-7);
    assert_float_equal(scaling_of("{\"rope_parameters\": {\"attention_factor\": 1.25}}"), 1.25, 0);
    assert_float_equal(scaling_of("{\"rope_parameters\": {\"factor\": 16}}"),
                       sqrt(1 + log(16) / log(64)), 1e-7);
    assert_float_equal(scaling_of("{\"rope_parameters\": {\"factor\": 0.5}}"), 1, 0);
    assert_float_equal(scaling_of("{\"max_position_embeddings\": 64}"), 1, 0); /* no extension */
    assert_float_equal(scaling_of("{\"original_max_position_embeddings\": \"(remove)\"}"), by_ratio,
                       1e-7);
}

/* Version 4 took the ratio of the contexts whatever "factor" said. */
static void factor_of_version_4_is_replaced(void **state)
{
    char patch[2048], list[1024] = "1";

    (void)state;
    for (int i = 1; i < 24; i++)
        strcat(list, ", 1.5");
    snprintf(patch, sizeof patch,
             "{\"rope_parameters\": null, \"partial_rotary_factor\": 0.75, \"rope_scaling\": "
             "{\"rope_type\": \"longrope\", \"factor\": 32.0, \"short_factor\": [%s], "
             "\"long_factor\": [%s]}}",
             list, list);
    assert_float_equal(scaling_of(patch), sqrt(1 + log(4) / log(64)), 1e-7);
}

static void refusals(void **state)
{
    static const char    lr[] = "tied-partial-longrope", plain[] = "gqa4-hd128";
    static const refusal cases[] = {
        { plain, "{\"rope_scaling\": {\"type\": \"linear\"}}", NULL, UPG_E_FORMAT,
          "\"rope_scaling\" and \"rope_parameters\" are both there" },
        { plain, "{\"rope_parameters\": 3}", NULL, UPG_E_FORMAT,
          "\"rope_parameters\" is no object" },
        { plain, "{\"rope_parameters\": {\"rope_type\": \"yarn\"}}", NULL, UPG_E_UNSUPPORTED,
          "rope_type \"yarn\" is not supported for Phi3ForCausalLM" },
        { plain, "{\"rope_parameters\": null, \"rope_scaling\": {\"type\": \"linear\"}}", NULL,
          UPG_E_UNSUPPORTED, "rope_scaling: type \"linear\"" },
        { plain, "{\"rope_parameters\": {\"rope_type\": \"a\\u001b[2J\"}}", NULL, UPG_E_UNSUPPORTED,
          "rope_type \"?\"" },
        { lr, "{\"architectures\": [\"LlamaForCausalLM\"]}", NULL, UPG_E_UNSUPPORTED,
          "\"longrope\" is not supported for LlamaForCausalLM" },
        { plain,
          "{\"architectures\": [\"LlamaForCausalLM\"], \"rope_parameters\": "
          "{\"partial_rotary_factor\": 0.5}}",
          NULL, UPG_E_UNSUPPORTED, "\"partial_rotary_factor\" 0.5" },
        { plain, "{\"rope_parameters\": {\"rope_theta\": 0}}", NULL, UPG_E_FORMAT,
          "rope_parameters: field \"rope_theta\" is 0" },
        { plain, "{\"rope_parameters\": {\"rope_theta\": \"x\"}}", NULL, UPG_E_FORMAT,
          "field \"rope_theta\" is \"x\"" },
        { plain, "{\"rope_parameters\": {\"partial_rotary_factor\": 1.5}}", NULL, UPG_E_FORMAT,
          "\"partial_rotary_factor\" is 1.5" },
        { plain, "{\"rope_parameters\": {\"partial_rotary_factor\": 0.01}}", NULL, UPG_E_FORMAT,
          "rotates 1 dimensions" },
        { plain, "{\"rope_parameters\": {\"partial_rotary_factor\": 0.001}}", NULL, UPG_E_FORMAT,
          "rotates 0 dimensions" },
        { lr, "{\"original_max_position_embeddings\": 128}", NULL, UPG_E_FORMAT,
          "\"original_max_position_embeddings\" is 128, but 64 in" },
        { lr,
          "{\"original_max_position_embeddings\": \"(remove)\", \"rope_parameters\": "
          "{\"original_max_position_embeddings\": \"(remove)\"}}",
          NULL, UPG_E_FORMAT, "\"original_max_position_embeddings\" is missing" },
        { lr, "{\"rope_parameters\": {\"original_max_position_embeddings\": 1}}", NULL,
          UPG_E_FORMAT, "\"original_max_position_embeddings\" is 1" },
        { lr, "{\"rope_parameters\": {\"short_mscale\": 1.1}}", NULL, UPG_E_UNSUPPORTED,
          "\"short_mscale\" is not supported" },
        { lr, "{\"rope_parameters\": {\"long_mscale\": 1.1}}", NULL, UPG_E_UNSUPPORTED,
          "\"long_mscale\" is not supported" },
        { lr, "{\"rope_parameters\": {\"factor\": -1}}", NULL, UPG_E_FORMAT, "\"factor\" is -1" },
        { lr, "{\"rope_parameters\": {\"attention_factor\": 0}}", NULL, UPG_E_FORMAT,
          "\"attention_factor\" is 0" },
        { lr, "{\"rope_parameters\": {\"short_factor\": [1, 2]}}", NULL, UPG_E_FORMAT,
          "\"short_factor\" is a list of 2, a list of 24 numbers" },
        { lr, "{\"rope_parameters\": {\"long_factor\": 1}}", NULL, UPG_E_FORMAT,
          "\"long_factor\" is no list" },
        { lr, "{\"rope_parameters\": {\"long_factor\": \"(remove)\"}}", NULL, UPG_E_FORMAT,
          "\"long_factor\" is no list" },
        { lr,
          "{\"rope_parameters\": {\"long_factor\": "
          "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0]}}",
          NULL, UPG_E_FORMAT, "element 23 of \"long_factor\"" },
    };

    (void)state;
    check_refusals(cases, sizeof cases / sizeof cases[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_equal_the_oracle),
        cmocka_unit_test(styles_agree),
        cmocka_unit_test(attention_scaling_variants),
        cmocka_unit_test(factor_of_version_4_is_replaced),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
