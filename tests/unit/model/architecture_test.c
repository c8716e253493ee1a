/* The tables are complete, and names go back and forth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "model/architecture.h"

/* Every role once; roles of one tensor agree in what they are and in their columns. */
static void check_rules(const upg_tensor_rule *rules, size_t n_rules)
{
    upg_model_config config = { .hidden = 10,
                                .n_heads = 3,
                                .n_kv_heads = 1,
                                .head_dim = 4,
                                .ffn = 7,
                                .vocab = 11,
                                .n_layers = 2 };
    unsigned         seen[UPG_ROLE_COUNT] = { 0 };
    uint32_t         rows, cols, first_cols;

    for (size_t r = 0; r < n_rules; r++) {
        assert_in_range(rules[r].n_roles, 1, UPG_MAX_STACKED_ROLES);
        upg_role_shape(&config, rules[r].roles[0], &rows, &first_cols);
        for (unsigned i = 0; i < rules[r].n_roles; i++) {
            upg_role role = rules[r].roles[i];

            seen[role]++;
            upg_role_shape(&config, role, &rows, &cols);
            assert_int_equal(cols, first_cols);
            assert_int_equal(upg_role_in_layer(role), strchr(rules[r].name, '#') != NULL);
            assert_true(!upg_role_is_vector(role) || rules[r].n_roles == 1);
        }
        assert_true(strlen(rules[r].name) + 10 < UPG_TENSOR_NAME_CAP);
    }
    for (unsigned role = 0; role < UPG_ROLE_COUNT; role++)
        assert_int_equal(seen[role], 1);
}

static void tables_are_complete(void **state)
{
    char                   list[256];
    const upg_tensor_rule *rules;
    size_t                 n_rules;

    (void)state;
    rules = upg_canonical_rules(&n_rules);
    check_rules(rules, n_rules);
    for (unsigned role = 0; role < UPG_ROLE_COUNT; role++)
        assert_string_equal(upg_role_pattern(role), rules[role].name);
    snprintf(list, sizeof list, "%s", upg_architecture_names());
    n_rules = 0;
    for (char *rest = list, *name; (name = strtok_r(rest, ", ", &rest)) != NULL; n_rules++) {
        const upg_architecture *a = upg_architecture_find(name);

        assert_non_null(a);
        assert_string_equal(a->name, name);
        check_rules(a->rules, a->n_rules);
    }
    assert_int_equal(n_rules, 3);
    assert_null(upg_architecture_find("Phi3"));
}

static void names(void **state)
{
    static const char up[] = "model.layers.#.mlp.up_proj.weight";
    char              text[UPG_TENSOR_NAME_CAP];

    (void)state;
    upg_tensor_name(up, 12, text);
    assert_string_equal(text, "model.layers.12.mlp.up_proj.weight");
    upg_tensor_name("lm_head.weight", 0, text);
    assert_string_equal(text, "lm_head.weight");
    assert_true(upg_tensor_name_matches(up, 13, "model.layers.12.mlp.up_proj.weight"));
    assert_false(upg_tensor_name_matches(up, 12, "model.layers.12.mlp.up_proj.weight"));
    assert_false(upg_tensor_name_matches(up, 12, "model.layers.01.mlp.up_proj.weight"));
    assert_false(upg_tensor_name_matches(up, 12, "model.layers..mlp.up_proj.weight"));
    assert_false(upg_tensor_name_matches(up, 12, "model.layers.1.mlp.up_proj.weights"));
    assert_false(upg_tensor_name_matches(up, 12, "model.layers.4294967297.mlp.up_proj.weight"));
    assert_false(upg_tensor_name_matches(up, 12, "model.layers.#.mlp.up_proj.weight"));
    assert_true(upg_tensor_name_matches("lm_head.weight", 0, "lm_head.weight"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_complete),
        cmocka_unit_test(names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
