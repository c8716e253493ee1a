/* config.json and generation_config.json: values, defaults and every refusal. */
#include "config_patch.h"

#include "model/architecture.h"

static void phi4_as_published(void **state)
{
    static const char generation[] = "{\"eos_token_id\": [100257, 100265], \"do_sample\": true, "
                                     "\"temperature\": 0.8, \"top_p\": 0.95, \"top_k\": 50, "
                                     "\"repetition_penalty\": null}";
    upg_arena         arena = { 0 };
    upg_model_config  c;

    (void)state;
    assert_int_equal(read_patched("phi4", NULL, generation, &arena, &c, NULL), UPG_OK);
    assert_string_equal(c.architecture->name, "Phi3ForCausalLM");
    assert_int_equal(c.hidden, 5120);
    assert_int_equal(c.n_layers, 40);
    assert_int_equal(c.n_heads, 40);
    assert_int_equal(c.n_kv_heads, 10);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.ffn, 17920);
    assert_int_equal(c.vocab, 100352);
    assert_int_equal(c.context, 16384);
    assert_int_equal(c.sliding_window, 0);
    assert_false(c.tied_embeddings);
    assert_float_equal(c.norm_eps, 1e-5, 1e-12);
    assert_int_equal(c.rope.rotary_dims, 128);
    assert_int_equal(c.rope.original_context, 16384);
    assert_null(c.rope.long_inv_freq);
    assert_float_equal(c.rope.attention_scaling, 1, 0);
    assert_int_equal(c.bos_token, 100257);
    assert_int_equal(c.n_end_tokens, 2); /* the union: 100265 is in both */
    assert_int_equal(c.end_tokens[0], 100265);
    assert_int_equal(c.end_tokens[1], 100257);
    assert_true(c.do_sample);
    assert_float_equal(c.temperature, 0.8, 0);
    assert_float_equal(c.top_p, 0.95, 0);
    assert_int_equal(c.top_k, 50);
    assert_true(c.min_p < 0 && c.repetition_penalty < 0);
    upg_arena_deinit(&arena);
}

static void defaults(void **state)
{
    upg_arena        arena = { 0 };
    upg_model_config c;

    (void)state;
    assert_int_equal(read_patched("phi4",
                                  "{\"num_key_value_heads\": null, \"rope_theta\": null, "
                                  "\"tie_word_embeddings\": \"(remove)\", \"bos_token_id\": null, "
                                  "\"eos_token_id\": null, \"hidden_act\": \"(remove)\"}",
                                  NULL, &arena, &c, NULL),
                     UPG_OK);
    assert_int_equal(c.n_kv_heads, 40);
    assert_false(c.tied_embeddings);
    assert_int_equal(c.bos_token, -1);
    assert_int_equal(c.n_end_tokens, 0);
    assert_false(c.do_sample);
    assert_true(c.temperature < 0 && c.top_p < 0 && c.min_p < 0 && c.top_k < 0);
    assert_float_equal(c.rope.inv_freq[32], 0.01, 1e-9); /* 10000^(−64/128) */
    upg_arena_deinit(&arena);
}

static void explicit_head_dim_and_window(void **state)
{
    upg_arena        arena = { 0 };
    upg_model_config c;
    uint32_t         rows, cols;

    (void)state;
    assert_int_equal(read_patched("phi4",
                                  "{\"head_dim\": 96, \"sliding_window\": 2047, "
                                  "\"layer_types\": [\"sliding_attention\"]}",
                                  NULL, &arena, &c, NULL),
                     UPG_OK);
    assert_int_equal(c.head_dim, 96);
    assert_int_equal(c.sliding_window, 2047);
    upg_role_shape(&c, UPG_ROLE_O, &rows, &cols);
    assert_int_equal(rows, 5120);
    assert_int_equal(cols, 40 * 96);
    upg_arena_deinit(&arena);
}

static void mistral_and_llama(void **state)
{
    upg_arena        arena = { 0 };
    upg_model_config c;

    (void)state;
    assert_int_equal(read_patched("phi4",
                                  "{\"architectures\": [\"MistralForCausalLM\"], "
                                  "\"sliding_window\": 4096}",
                                  NULL, &arena, &c, NULL),
                     UPG_OK);
    assert_int_equal(c.sliding_window, 4096);
    assert_int_equal(
        read_patched("phi4", "{\"architectures\": [\"LlamaForCausalLM\"]}", NULL, &arena, &c, NULL),
        UPG_OK);
    assert_string_equal(c.architecture->name, "LlamaForCausalLM");
    upg_arena_deinit(&arena);
}

static void refusals_of_shapes(void **state)
{
    static const char    b[] = "phi4";
    static const refusal cases[] = {
        { b, "{\"architectures\": [\"GPT2LMHeadModel\"]}", NULL, UPG_E_UNSUPPORTED,
          "architecture \"GPT2LMHeadModel\" is not supported; supported are Phi3ForCausalLM, "
          "LlamaForCausalLM, MistralForCausalLM" },
        { b, "{\"architectures\": [\"\\u001b[2J\"]}", NULL, UPG_E_UNSUPPORTED, "unprintable" },
        { b, "{\"architectures\": \"(remove)\"}", NULL, UPG_E_FORMAT,
          "\"architectures\" is missing" },
        { b, "{\"architectures\": [1]}", NULL, UPG_E_FORMAT, "\"architectures\" is missing or no" },
        { b, "{\"quantization_config\": {\"quant_method\": \"gptq\"}}", NULL, UPG_E_UNSUPPORTED,
          "\"quantization_config\" says that the checkpoint is already quantised (gptq)" },
        { b, "{\"quantization_config\": {}}", NULL, UPG_E_UNSUPPORTED, "(method not named)" },
        { b, "{\"compression_config\": {}}", NULL, UPG_E_UNSUPPORTED, "\"compression_config\"" },
        { b, "{\"attention_bias\": true}", NULL, UPG_E_UNSUPPORTED, "\"attention_bias\" is true" },
        { b, "{\"mlp_bias\": true}", NULL, UPG_E_UNSUPPORTED, "\"mlp_bias\" is true" },
        { b, "{\"mlp_bias\": 1}", NULL, UPG_E_FORMAT, "\"mlp_bias\" is 1" },
        { b, "{\"hidden_act\": \"gelu\"}", NULL, UPG_E_UNSUPPORTED, "\"hidden_act\" is \"gelu\"" },
        { b, "{\"hidden_act\": 1}", NULL, UPG_E_FORMAT, "\"hidden_act\" is 1" },
        { b, "{\"hidden_size\": \"(remove)\"}", NULL, UPG_E_FORMAT, "\"hidden_size\" is missing" },
        { b, "{\"hidden_size\": 0}", NULL, UPG_E_FORMAT, "\"hidden_size\" is 0" },
        { b, "{\"hidden_size\": 16777217}", NULL, UPG_E_FORMAT, "\"hidden_size\" is 16777217" },
        { b, "{\"hidden_size\": 5121}", NULL, UPG_E_FORMAT,
          "\"hidden_size\" 5121 is no multiple of \"num_attention_heads\" 40" },
        { b, "{\"num_hidden_layers\": -1}", NULL, UPG_E_FORMAT, "\"num_hidden_layers\" is -1" },
        { b, "{\"num_hidden_layers\": 4097}", NULL, UPG_E_FORMAT, "from 1 to 4096" },
        { b, "{\"intermediate_size\": \"(remove)\"}", NULL, UPG_E_FORMAT, "\"intermediate_size\"" },
        { b, "{\"vocab_size\": 1e5}", NULL, UPG_E_FORMAT, "\"vocab_size\" is 100000.0" },
        { b, "{\"max_position_embeddings\": 0}", NULL, UPG_E_FORMAT,
          "\"max_position_embeddings\"" },
        { b, "{\"rms_norm_eps\": 0}", NULL, UPG_E_FORMAT, "\"rms_norm_eps\" is 0" },
        { b, "{\"rms_norm_eps\": \"(remove)\"}", NULL, UPG_E_FORMAT,
          "\"rms_norm_eps\" is missing" },
        { b, "{\"tie_word_embeddings\": \"no\"}", NULL, UPG_E_FORMAT, "true or false is needed" },
        { b, "{\"num_attention_heads\": 0}", NULL, UPG_E_FORMAT, "\"num_attention_heads\" is 0" },
        { b, "{\"num_key_value_heads\": 41}", NULL, UPG_E_FORMAT, "an integer from 1 to 40" },
        { b, "{\"num_key_value_heads\": 12}", NULL, UPG_E_FORMAT,
          "40 is no multiple of \"num_key_value_heads\" 12" },
        { b, "{\"head_dim\": 1024}", NULL, UPG_E_FORMAT, "\"head_dim\" is 1024" },
        { b, "{\"head_dim\": 127}", NULL, UPG_E_UNSUPPORTED, "the head dimension is 127" },
        { b, "{\"hidden_size\": 40960, \"num_key_value_heads\": 1}", NULL, UPG_E_UNSUPPORTED,
          "the head dimension is 1024" },
        { b, "{\"num_attention_heads\": 16777216, \"num_key_value_heads\": 1, \"head_dim\": 512}",
          NULL, UPG_E_UNSUPPORTED, "16777216 heads of 512" },
        { b, "{\"sliding_window\": 0}", NULL, UPG_E_FORMAT, "\"sliding_window\" is 0" },
        { b, "{\"sliding_window\": 8, \"architectures\": [\"LlamaForCausalLM\"]}", NULL,
          UPG_E_UNSUPPORTED, "\"sliding_window\" is set" },
        { b, "{\"layer_types\": [\"full_attention\", \"sliding_attention\"]}", NULL,
          UPG_E_UNSUPPORTED, "element 1 of \"layer_types\" is not \"full_attention\"" },
    };

    (void)state;
    check_refusals(cases, sizeof cases / sizeof cases[0]);
}

static void refusals_of_tokens_and_sampling(void **state)
{
    static const char    b[] = "phi4";
    static const refusal cases[] = {
        { b, "{\"eos_token_id\": 100352}", NULL, UPG_E_FORMAT,
          "config.json: field \"eos_token_id\" holds 100352, outside of the vocabulary of 100352" },
        { b, "{\"eos_token_id\": [1, -1]}", NULL, UPG_E_FORMAT, "holds -1" },
        { b, "{\"eos_token_id\": [1, \"a\"]}", NULL, UPG_E_FORMAT, "something else than integers" },
        { b, "{\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,15,16]}", NULL,
          UPG_E_UNSUPPORTED, "more than 16 end tokens" },
        { b, "{\"bos_token_id\": 100352}", NULL, UPG_E_FORMAT, "\"bos_token_id\" is 100352" },
        { b, NULL, "{\"eos_token_id\": [100352]}", UPG_E_FORMAT,
          "generation_config.json: field \"eos_token_id\" holds 100352" },
        { b, NULL, "[]", UPG_E_FORMAT, "generation_config.json: the file holds no JSON object" },
        { b, NULL, "{", UPG_E_FORMAT, "generation_config.json: not valid JSON" },
        { b, NULL, "{\"do_sample\": 1}", UPG_E_FORMAT, "\"do_sample\" is 1" },
        { b, NULL, "{\"temperature\": -0.5}", UPG_E_FORMAT, "\"temperature\" is -0.5" },
        { b, NULL, "{\"top_p\": 1.5}", UPG_E_FORMAT, "\"top_p\" is 1.5" },
        { b, NULL, "{\"min_p\": \"a\"}", UPG_E_FORMAT, "\"min_p\" is \"a\"" },
        { b, NULL, "{\"repetition_penalty\": 0}", UPG_E_FORMAT, "\"repetition_penalty\" is 0" },
        { b, NULL, "{\"top_k\": 0.5}", UPG_E_FORMAT, "\"top_k\" is 0.5" },
    };

    (void)state;
    check_refusals(cases, sizeof cases / sizeof cases[0]);
}

static void refusals_of_text(void **state)
{
    static const char *const texts[] = { "", "{", "[]", "3", "{\"a\":1,\"a\":2}", "\xFF" };
    upg_arena                arena = { 0 };
    upg_model_config         c;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        upg_error err = { 0 };
        upg_span  text = { (const uint8_t *)texts[i], strlen(texts[i]) };

        assert_int_equal(upg_model_config_read(text, (upg_span) { 0 }, &arena, &c, &err),
                         UPG_E_FORMAT);
        assert_memory_equal(err.message, "config.json: ", 13);
    }
    upg_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi4_as_published),
        cmocka_unit_test(defaults),
        cmocka_unit_test(explicit_head_dim_and_window),
        cmocka_unit_test(mistral_and_llama),
        cmocka_unit_test(refusals_of_shapes),
        cmocka_unit_test(refusals_of_tokens_and_sampling),
        cmocka_unit_test(refusals_of_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
