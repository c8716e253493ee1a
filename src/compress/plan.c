#include "compress/plan.h"

/* Rates on offer, and the squared error of each with the default constraint length, relative to 3
 * bits. The ratios are those of KL when
 * one matrix of a 63 M model is coded at each rate; those of the Gaussian error are close to them.
 */
static const struct {
    uint32_t rate2;
    double   relative_error;
} rates[] = { { 4, 4.07 }, { 5, 2.05 }, { 6, 1.0 }, { 7, 0.513 }, { 8, 0.26 }, { 10, 0.067 } };

enum { N_RATES = sizeof rates / sizeof rates[0] };

#define LEAST_GAIN 0.99 /* of outliers: the loss with them, relative to that without */

/* KL per parameter at 3 bits, by role. */
static double role_sensitivity(upg_role role)
{
    switch (role) {
    case UPG_ROLE_HEAD:
        return 2.78e-9;
    case UPG_ROLE_V:
        return 1.58e-9;
    case UPG_ROLE_K:
        return 1.02e-9;
    case UPG_ROLE_EMBED:
        return 0.41e-9;
    case UPG_ROLE_DOWN:
        return 0.40e-9;
    case UPG_ROLE_GATE:
        return 0.34e-9;
    case UPG_ROLE_UP:
        return 0.20e-9;
    case UPG_ROLE_O:
        return 0.18e-9;
    default:
        return 0.15e-9;
    }
}

/* Token ids of a BPE vocabulary run roughly by frequency, so the first rows of the embedding and
 * the head are used far more than the last. By Zipf's law the first sixteenth of 8192 rows has .69
 * of the mass and each band after it .08; without measured sensitivities rates follow the square
 * root of the mass (the full mass spends too much on the first band). Values: that root per row,
 * relative to the mean. */
static const struct {
    double share, weight;
} bands[] = { { 0.0625, 4.7 }, { 0.0625, 1.56 }, { 0.125, 1.1 }, { 0.25, 0.78 }, { 0.5, 0.55 } };

enum {
    N_BANDS = sizeof bands / sizeof bands[0],
    MIN_BANDED_ROWS = 4096 /* below, the start rows of more bands cost more than they bring */
};

static uint32_t bands_of(const upg_matrix *matrix)
{
    bool by_token = matrix->role == UPG_ROLE_EMBED || matrix->role == UPG_ROLE_HEAD;

    return by_token && matrix->n_rows >= MIN_BANDED_ROWS ? N_BANDS : 1;
}

static uint64_t words_at(const upg_plan_unit *unit, const upg_code *code)
{
    uint32_t n_binary = (uint32_t)upg_code_binary_rows(code, unit->n_rows);

    return upg_band_words(n_binary, unit->matrix->n_cols);
}

static uint64_t unit_bytes(const upg_plan_unit *unit, const upg_code *code)
{
    return sizeof(uint32_t) * words_at(unit, code);
}

uint64_t upg_plan_unit_words(const upg_plan_unit *unit)
{
    return words_at(unit, unit->code);
}

uint32_t upg_plan_units_of(const upg_plan *plan, uint32_t first)
{
    uint32_t n = 1;

    while (first + n < plan->n_units && plan->units[first + n].matrix == plan->units[first].matrix)
        n++;
    return n;
}

/* Longer codes scale it as they scale the Gaussian error of their rate. */
static double relative_error(const upg_code *code)
{
    const upg_code *usual = upg_code_find(code->rate2, UPG_CODE_DEFAULT_LENGTH);

    for (int i = 0; i < N_RATES; i++)
        if (rates[i].rate2 == code->rate2)
            return rates[i].relative_error * (upg_code_error(code) / upg_code_error(usual));
    return 0; /* not reached: every code in a plan comes from `rates` */
}

/* The error is relative to the energy that the code has to hold. */
static double unit_loss(const upg_plan_unit *unit, const upg_code *code)
{
    double share = unit->outliers != NULL ? 1 - unit->removed : 1;

    return unit->sensitivity * share * relative_error(code);
}

double upg_plan_unit_loss(const upg_plan_unit *unit)
{
    return unit_loss(unit, unit->code);
}

double upg_plan_mse(const upg_code *code)
{
    return UPG_MSE_AT_3_BITS * relative_error(code);
}

static void sum_up(upg_plan *plan)
{
    plan->code_bytes = 0;
    plan->predicted_kl = 0;
    for (uint32_t i = 0; i < plan->n_units; i++) {
        const upg_plan_unit *unit = &plan->units[i];

        plan->code_bytes += unit_bytes(unit, unit->code);
        plan->predicted_kl += upg_plan_unit_loss(unit);
    }
    for (uint32_t i = 0; i < plan->n_candidates; i++)
        plan->code_bytes += plan->candidates[i].chosen ? plan->candidates[i].bytes : 0;
}

/* Appends the units of one matrix. */
static void add_units(upg_plan *plan, const upg_matrix *matrix)
{
    uint32_t n = bands_of(matrix), row = 0;

    for (uint32_t b = 0; b < n; b++) {
        upg_plan_unit *unit = &plan->units[plan->n_units++];
        uint32_t       rows =
            n == 1 ? matrix->n_rows
                         : (uint32_t)(bands[b].share * matrix->n_rows) / UPG_BLOCK_ROWS * UPG_BLOCK_ROWS;

        if (b + 1 == n)
            rows = matrix->n_rows - row;
        *unit = (upg_plan_unit) { .matrix = matrix, .row0 = row, .n_rows = rows };
        unit->sensitivity = role_sensitivity(matrix->role) * (n == 1 ? 1 : bands[b].weight) *
                            (double)rows * matrix->n_cols;
        unit->code = upg_code_find(rates[0].rate2, UPG_CODE_DEFAULT_LENGTH);
        row += rows;
    }
}

void upg_plan_tell_reader(const upg_plan *plan, const upg_matrix *matrix)
{
    if (plan->reader.read != NULL)
        plan->reader.read(plan->reader.user, matrix);
}

upg_status upg_plan_create(const upg_weights *weights, upg_arena *arena, upg_plan *plan,
                           upg_error *err)
{
    uint32_t n_matrices = upg_weights_matrix_count(weights), n_units = 0;

    for (uint32_t i = 0; i < n_matrices; i++)
        n_units += bands_of(upg_weights_matrix(weights, i));
    *plan = (upg_plan) { 0 };
    plan->units = upg_arena_alloc(arena, n_units, sizeof *plan->units, err);
    if (plan->units == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < n_matrices; i++)
        add_units(plan, upg_weights_matrix(weights, i));
    sum_up(plan);
    return UPG_OK;
}

/* The next higher rate on offer, or NULL. */
static const upg_code *next_code(const upg_code *code)
{
    for (int i = 0; i + 1 < N_RATES; i++)
        if (rates[i].rate2 == code->rate2)
            return upg_code_find(rates[i + 1].rate2, code->length);
    return NULL;
}

/* The unit whose raise gains most for a byte among those that fit, or n_units. Of equals the last
 * one wins: later layers are the more sensitive ones. *price: what a byte can gain, whether the
 * raise fits or not. */
static uint32_t best_raise(const upg_plan *plan, uint64_t room, double *price)
{
    uint32_t best = plan->n_units;
    double   best_gain = 0;

    *price = 0;
    for (uint32_t i = 0; i < plan->n_units; i++) {
        const upg_plan_unit *unit = &plan->units[i];
        const upg_code      *next = next_code(unit->code);
        uint64_t             more;
        double               gain;

        if (next == NULL)
            continue;
        more = unit_bytes(unit, next) - unit_bytes(unit, unit->code);
        gain =
            (unit_loss(unit, unit->code) - unit_loss(unit, next)) / (double)(more > 0 ? more : 1);
        *price = gain > *price ? gain : *price;
        if (more <= room && gain >= best_gain) {
            best = i;
            best_gain = gain;
        }
    }
    return best;
}

/* What a candidate gains for a byte at the rates at hand. */
static double candidate_gain(const upg_plan *plan, const upg_plan_candidate *candidate)
{
    double   gain = 0;
    uint32_t first = candidate->first_unit;

    for (uint32_t u = first; u < first + upg_plan_units_of(plan, first); u++)
        gain += plan->units[u].removed * unit_loss(&plan->units[u], plan->units[u].code);
    return gain / (double)candidate->bytes;
}

/* The candidate that gains most for a byte and more than `price`, or NULL. */
static upg_plan_candidate *best_candidate(const upg_plan *plan, uint64_t room, double price)
{
    upg_plan_candidate *best = NULL;

    for (uint32_t i = 0; i < plan->n_candidates; i++) {
        upg_plan_candidate *candidate = &plan->candidates[i];
        double              gain;

        if (candidate->chosen || candidate->bytes > room)
            continue;
        gain = candidate_gain(plan, candidate);
        if (gain > price) {
            best = candidate;
            price = gain;
        }
    }
    return best;
}

static void choose(upg_plan *plan, upg_plan_candidate *candidate)
{
    uint32_t first = candidate->first_unit;

    candidate->chosen = true;
    for (uint32_t u = first; u < first + upg_plan_units_of(plan, first); u++)
        plan->units[u].outliers = candidate->outliers;
}

const upg_plan_candidate *upg_plan_outliers_of(const upg_plan *plan, uint32_t first)
{
    for (uint32_t i = 0; i < plan->n_candidates; i++)
        if (plan->candidates[i].first_unit == first && plan->candidates[i].chosen)
            return &plan->candidates[i];
    return NULL;
}

void upg_plan_set_length(upg_plan *plan, uint32_t length)
{
    for (uint32_t u = 0; u < plan->n_units; u++)
        plan->units[u].code = upg_code_find(rates[0].rate2, length);
    sum_up(plan);
}

void upg_plan_reset(upg_plan *plan)
{
    for (uint32_t u = 0; u < plan->n_units; u++) {
        plan->units[u].code = upg_code_find(rates[0].rate2, plan->units[u].code->length);
        plan->units[u].outliers = NULL;
    }
    for (uint32_t i = 0; i < plan->n_candidates; i++)
        plan->candidates[i].chosen = false;
    sum_up(plan);
}

upg_status upg_plan_fill(upg_plan *plan, uint64_t budget_bytes, upg_error *err)
{
    uint32_t            i;
    double              price;
    upg_plan_candidate *candidate;

    if (plan->code_bytes > budget_bytes)
        return upg_fail(err, UPG_E_BUDGET,
                        "the code takes at least %llu bytes, the budget has %llu",
                        (unsigned long long)plan->code_bytes, (unsigned long long)budget_bytes);
    for (;;) {
        i = best_raise(plan, budget_bytes - plan->code_bytes, &price);
        candidate = best_candidate(plan, budget_bytes - plan->code_bytes, price);
        if (candidate != NULL)
            choose(plan, candidate);
        else if (i < plan->n_units)
            plan->units[i].code = next_code(plan->units[i].code);
        else
            return UPG_OK;
        sum_up(plan);
    }
}

upg_status upg_plan_fill_either(upg_plan *plan, uint64_t budget_bytes, uint64_t reserve_bytes,
                                upg_error *err)
{
    uint32_t   n = plan->n_candidates;
    double     without;
    upg_status st;

    plan->n_candidates = 0;
    upg_plan_reset(plan);
    UPG_TRY(upg_plan_fill(plan, budget_bytes, err));
    without = plan->predicted_kl;
    if (n == 0 || budget_bytes < reserve_bytes)
        return UPG_OK;
    plan->n_candidates = n;
    upg_plan_reset(plan);
    if (plan->code_bytes <= budget_bytes - reserve_bytes)
        UPG_TRY(upg_plan_fill(plan, budget_bytes - reserve_bytes, err));
    if (plan->predicted_kl > LEAST_GAIN * without) {
        upg_plan_reset(plan);
        plan->n_candidates = 0;
        UPG_TRY(upg_plan_fill(plan, budget_bytes, err));
    }
out:
    return st;
}
