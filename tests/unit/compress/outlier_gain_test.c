/* What outliers are worth: phi4-micro with heavy columns and large single weights planted in it,
 * compressed to the same bytes with them and without; and the model as it came, which has none. */
#include "micro_model.h"

#include "base/halffloat.h"
#include "compress/outlier_search.h"
#include "support/temp_folder.h"

#include <stdio.h>

enum { WINDOW = 256, N_WINDOWS = 32, N_LAYERS = 4, HIDDEN = 256, COLUMN_TIMES = 32 };

/* One tensor of the checkpoint, bf16, inside the file's bytes. */
static uint16_t *tensor_in(char *file, const upg_st *st, const char *pattern, int layer, size_t *n)
{
    char                 name[96];
    const upg_st_tensor *t;

    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, pattern);
    t = upg_st_find(st, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, UPG_BF16);
    *n = t->bytes.size / sizeof(uint16_t);
    return (uint16_t *)(void *)(file + t->file_offset);
}

/* Column j of a matrix times a power of two, its norm's weight divided by it: exact in bf16, and
 * the model computes what it did. */
static void plant_column(uint16_t *matrix, size_t n, uint16_t *norm, uint32_t j)
{
    for (size_t i = j; i < n; i += HIDDEN)
        matrix[i] = upg_bf16_from_f32(COLUMN_TIMES * upg_f32_from_bf16(matrix[i]));
    norm[j] = upg_bf16_from_f32(upg_f32_from_bf16(norm[j]) / COLUMN_TIMES);
}

/* One weight in 4000 becomes 20 … 40 times the usual: another model than before. */
static void plant_singles(uint16_t *matrix, size_t n, uint64_t seed)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)upg_f32_from_bf16(matrix[i]) * (double)upg_f32_from_bf16(matrix[i]);
    for (size_t k = 0; k < n / 4000; k++) {
        double value = sqrt(sum / (double)n) * (20 + 20 * upg_random_unit(seed, 2 * k));
        size_t at = (size_t)(upg_random_u64(seed, 2 * k + 1) % n);

        matrix[at] = upg_bf16_from_f32((float)(k % 2 ? value : -value));
    }
}

static void plant(char *file, size_t size)
{
    static const char *const norms[] = { "input_layernorm", "post_attention_layernorm" };
    static const char *const readers[] = { "self_attn.qkv_proj", "mlp.gate_up_proj" };
    static const char *const others[] = { "self_attn.o_proj", "mlp.down_proj" };
    upg_st                  *st = NULL;

    OK(upg_st_parse((upg_span) { (const uint8_t *)file, size }, "planted", &st, &err));
    for (int l = 0; l < N_LAYERS; l++)
        for (int i = 0; i < 2; i++) {
            size_t    n, n_norm;
            uint16_t *norm = tensor_in(file, st, norms[i], l, &n_norm);
            uint16_t *matrix = tensor_in(file, st, readers[i], l, &n);

            plant_column(matrix, n, norm, 17 + 31 * (uint32_t)l);
            plant_column(matrix, n, norm, 201);
            matrix = tensor_in(file, st, others[i], l, &n);
            plant_singles(matrix, n, 2 * (uint64_t)l + (uint64_t)i);
        }
    upg_st_close(st);
}

static char *planted_folder(void)
{
    static const char *const copied[] = { "config.json", "generation_config.json", "tokenizer.json",
                                          "tokenizer_config.json" };
    char                    *folder = make_folder(), *bytes;
    size_t                   size;

    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        bytes = read_file(in_folder(UPG_TEST_DATA "/phi4-micro", copied[i]), &size);
        write_file(in_folder(folder, copied[i]), bytes, size);
        free(bytes);
    }
    bytes = read_file(UPG_TEST_DATA "/phi4-micro/model.safetensors", &size);
    plant(bytes, size);
    write_file(in_folder(folder, "model.safetensors"), bytes, size);
    free(bytes);
    return folder;
}

/* Plans for `bits` a weight of code, encodes, and returns the divergence. */
static double compress(micro_model *m, double bits, bool outliers, upg_plan *plan)
{
    uint64_t weights = 0;

    OK(upg_plan_create(m->weights, &m->arena, plan, &err));
    OK(upg_sensitivity_measure(&m->env.context, m->weights, m->calibration.tokens, 4, WINDOW, plan,
                               &err));
    if (outliers)
        OK(upg_outliers_find(plan, m->env.pool, &m->arena, &err));
    for (uint32_t u = 0; u < plan->n_units; u++)
        weights += (uint64_t)plan->units[u].n_rows * plan->units[u].matrix->n_cols;
    OK(upg_plan_fill_either(plan, (uint64_t)(bits * (double)weights / 8), 4096, &err));
    micro_encode(m, plan, true);
    return micro_divergence(m, upg_weights_matrix_count(m->weights));
}

static void planted_outliers_pay(void **state)
{
    char       *folder = planted_folder();
    micro_model m;
    upg_plan    plan;
    double      with, without;
    uint64_t    bytes;
    uint32_t    n_chosen = 0, n_sparse = 0, n_columns = 0;

    (void)state;
    micro_open_folder(&m, folder, WINDOW, N_WINDOWS);
    with = compress(&m, 3.2, true, &plan);
    bytes = plan.code_bytes;
    for (uint32_t i = 0; i < plan.n_candidates; i++)
        if (plan.candidates[i].chosen) {
            n_chosen++;
            n_sparse += plan.candidates[i].counts.n_sparse;
            n_columns += plan.candidates[i].counts.n_columns;
        }
    without = compress(&m, 3.2, false, &plan);
    print_message("planted: KL %.4f with %u single weights and %u columns in %u matrices, %.4f "
                  "without; %llu and %llu bytes\n",
                  with, n_sparse, n_columns, n_chosen, without, (unsigned long long)bytes,
                  (unsigned long long)plan.code_bytes);
    assert_true(bytes <= plan.code_bytes + plan.code_bytes / 500);
    assert_int_equal(n_columns, 2 * 5 * N_LAYERS); /* all that were planted, no others */
    assert_true(n_sparse > 200);
    assert_true(with < .75 * without);
    micro_close(&m);
    remove_folder(folder);
}

static void nothing_is_bought_where_nothing_pays(void **state)
{
    micro_model m;
    upg_plan    plan;

    (void)state;
    micro_open(&m, WINDOW, 4);
    OK(upg_plan_create(m.weights, &m.arena, &plan, &err));
    OK(upg_sensitivity_measure(&m.env.context, m.weights, m.calibration.tokens, 4, WINDOW, &plan,
                               &err));
    OK(upg_outliers_find(&plan, m.env.pool, &m.arena, &err));
    OK(upg_plan_fill_either(&plan, plan.code_bytes * 8 / 5, 4096, &err));
    for (uint32_t u = 0; u < plan.n_units; u++)
        assert_null(plan.units[u].outliers);
    micro_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planted_outliers_pay),
        cmocka_unit_test(nothing_is_bought_where_nothing_pays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
