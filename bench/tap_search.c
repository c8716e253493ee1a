/* tap_search: finds a tap set for one rate and constraint length.
 *
 *   tap_search RATE LENGTH [key=value]…      the result goes to stdout as an entry for code.c
 *
 *   starts=N    random sets to begin with (default 256)       seed=N   of everything (1)
 *   rounds=N    of annealing afterwards (100)                 chains=N of annealing (4)
 *   from=P,P,…  anneals this set, without random starts       threads=N (one per core)
 *
 * What it minimises: the squared error of unit Gaussian targets, coded by the encoder itself, over
 * sets of L signed primes between 3 and 251 with Σ|p| ≤ 2048 (so that values are exact in fp16, and
 * taps differ little from real numbers).
 *
 * How: for given paths through the trellis the best real taps are a least-squares fit of the
 * targets on the L bits of each window; for given taps the encoder finds the best paths. Taking
 * turns (Lloyd's algorithm, with taps in place of a code book) falls into a local minimum within a
 * few passes. Random starts go through it, a quarter survives and meets four times as many targets,
 * until few are left. The best then are annealed: a move changes one to three taps (another prime,
 * another sign, an exchange), half of the moves fit afterwards, and worse sets are taken with a
 * probability that falls with the rounds. What stands after a round meets the largest sample, and
 * the best of these is the result. Everything depends on the seed and never on the threads, so that
 * a run can be repeated; the figure printed last is that of fresh targets.
 *
 * Time: the defaults take about 15 minutes of a core at L = 14, and an hour at L = 16. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/pool.h"
#include "base/random.h"
#include "kernels/viterbi.h"

enum {
    ROWS = 2048, /* of a column; the free start is worth .1 % of the error at most */
    FIRST_COLUMNS = 4,
    MOST_COLUMNS = 128,
    FRESH_COLUMNS = 512,
    LEAST_PRIME = 3,
    LARGEST_PRIME = 251,
    MOST_SUM = 2048,
    CHAIN_COLUMNS = 32, /* of a move's sample */
    MOVES = 32,         /* of a round */
    MOST_CHAINS = 64,
    GAIN_STEP = 4
};

/* Relative rise of the error that a move may cost with probability 1/e: in the first round, and as
 * many times less in the last. */
static const double FIRST_HEAT = .002, COOLING = 10;

typedef struct search {
    uint32_t  rate2, length, starts, rounds, chains, threads;
    uint64_t  seed;
    int16_t   from[UPG_CODE_MAX_LENGTH];
    bool      has_from;
    float    *targets; /* f32 [MOST_COLUMNS][ROWS] */
    upg_pool *pool;
} search;

typedef struct candidate {
    int16_t  taps[UPG_CODE_MAX_LENGTH];
    double   gain, error; /* error on the sample seen last */
    uint64_t number;      /* orders equals */
} candidate;

/* A walk of its own through the sets. */
typedef struct chain {
    candidate now, best; /* best.error 0: none yet */
} chain;

/* A round of work: each candidate is fitted `fits` times on `columns` columns and then scored. */
typedef struct batch {
    const search *s;
    candidate    *candidates;
    uint32_t      fits, columns;
    bool          failed;
} batch;

/* ---- primes --------------------------------------------------------------------------------- */

static bool is_prime(int n)
{
    for (int d = 2; d * d <= n; d++)
        if (n % d == 0)
            return false;
    return n >= 2;
}

/* The prime nearest to |x| within the range, with the sign of x. */
static int16_t nearest_prime(double x)
{
    int best = LEAST_PRIME;

    for (int n = LEAST_PRIME; n <= LARGEST_PRIME; n++)
        if (is_prime(n) && fabs(fabs(x) - n) < fabs(fabs(x) - best))
            best = n;
    return (int16_t)(x < 0 ? -best : best);
}

/* Rounds real taps to primes, as large as the limits allow. */
static void round_taps(uint32_t length, const double *real, int16_t *taps)
{
    double sum = 0, largest = 0, scale;

    for (uint32_t i = 0; i < length; i++) {
        sum += fabs(real[i]);
        largest = fmax(largest, fabs(real[i]));
    }
    scale = fmin(LARGEST_PRIME / largest, (MOST_SUM - 3.0 * length) / sum);
    for (uint32_t i = 0; i < length; i++)
        taps[i] = nearest_prime(scale * real[i]);
}

/* ---- one candidate -------------------------------------------------------------------------- */

/* Sums over a sample: of the bits of the windows (±1), and of their values. */
typedef struct sums {
    double bits[UPG_CODE_MAX_LENGTH][UPG_CODE_MAX_LENGTH], targets[UPG_CODE_MAX_LENGTH];
    double cross, decoded2, target2;
} sums;

static void add_column(const upg_code *code, const int16_t *table, const float *target,
                       const uint16_t *windows, sums *all)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        double t = (double)target[r], v = table[windows[r]], sign[UPG_CODE_MAX_LENGTH];

        all->cross += t * v;
        all->decoded2 += v * v;
        all->target2 += t * t;
        for (uint32_t i = 0; i < code->length; i++)
            sign[i] = windows[r] >> i & 1 ? 1 : -1;
        for (uint32_t i = 0; i < code->length; i++) {
            all->targets[i] += t * sign[i];
            for (uint32_t j = 0; j <= i; j++)
                all->bits[i][j] += sign[i] * sign[j];
        }
    }
}

/* Codes the sample with the candidate's taps. */
static upg_status run_sample(const search *s, const candidate *c, uint32_t columns, sums *all)
{
    upg_code     code = { .rate2 = (uint8_t)s->rate2,
                          .k0 = (uint8_t)(s->rate2 / 2),
                          .k1 = (uint8_t)((s->rate2 + 1) / 2),
                          .length = (uint8_t)s->length,
                          .gain = (float)c->gain };
    uint16_t     windows[ROWS];
    upg_viterbi *viterbi;
    upg_status   st;

    memcpy(code.taps, c->taps, sizeof code.taps);
    memset(all, 0, sizeof *all);
    st = upg_viterbi_create(&code, ROWS, UPG_VITERBI_FAST, upg_cpu_flags(), &viterbi, NULL);
    if (st != UPG_OK)
        return st;
    for (uint32_t column = 0; column < columns; column++) {
        const float *target = s->targets + (size_t)column * ROWS;

        (void)upg_viterbi_encode(viterbi, ROWS, target, NULL, windows);
        add_column(&code, upg_viterbi_table(viterbi), target, windows, all);
    }
    upg_viterbi_close(viterbi);
    return UPG_OK;
}

/* Solves bits · x = targets by Cholesky. */
static bool solve(uint32_t n, sums *all, double *x)
{
    for (uint32_t j = 0; j < n; j++) {
        for (uint32_t k = 0; k < j; k++)
            all->bits[j][j] -= all->bits[j][k] * all->bits[j][k];
        if (!(all->bits[j][j] > 1e-6))
            return false;
        all->bits[j][j] = sqrt(all->bits[j][j]);
        for (uint32_t i = j + 1; i < n; i++) {
            for (uint32_t k = 0; k < j; k++)
                all->bits[i][j] -= all->bits[i][k] * all->bits[j][k];
            all->bits[i][j] /= all->bits[j][j];
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        x[i] = all->targets[i];
        for (uint32_t k = 0; k < i; k++)
            x[i] -= all->bits[i][k] * x[k];
        x[i] /= all->bits[i][i];
    }
    for (uint32_t i = n; i-- > 0;) {
        for (uint32_t k = i + 1; k < n; k++)
            x[i] -= all->bits[k][i] * x[k];
        x[i] /= all->bits[i][i];
    }
    return true;
}

static double norm(uint32_t length, const int16_t *taps)
{
    double sum = 0;

    for (uint32_t i = 0; i < length; i++)
        sum += (double)taps[i] * taps[i];
    return sqrt(sum);
}

/* Where the fits begin: good sets have values somewhat larger than their targets, the more the
 * higher the rate. */
static double first_gain(const search *s, const int16_t *taps)
{
    return (1.01 + .0175 * s->rate2) / norm(s->length, taps);
}

/* For given paths the least-squares gain, but paths hold on to the gain that they were found with:
 * the step goes GAIN_STEP times as far. */
static double next_gain(double gain, const sums *all)
{
    double step = pow(all->cross / all->decoded2 / gain, GAIN_STEP);

    return gain * fmin(fmax(step, .9), 1.1);
}

static upg_status fit(const search *s, candidate *c, uint32_t fits, uint32_t columns)
{
    static const double hopeless = 1e9;
    double              real[UPG_CODE_MAX_LENGTH];
    sums                all;
    upg_status          st = UPG_OK;

    for (uint32_t i = 0; i < fits && st == UPG_OK; i++) {
        st = run_sample(s, c, columns, &all);
        if (st == UPG_OK && solve(s->length, &all, real)) {
            double size = norm(s->length, c->taps) * next_gain(c->gain, &all);

            round_taps(s->length, real, c->taps);
            c->gain = size / norm(s->length, c->taps);
        }
    }
    if (st == UPG_OK)
        st = run_sample(s, c, columns, &all);
    if (st != UPG_OK)
        return st;
    c->error = (all.target2 - all.cross * all.cross / all.decoded2) / (double)(columns * ROWS);
    c->gain = next_gain(c->gain, &all);
    if (!(c->error > 0))
        c->error = hopeless;
    return UPG_OK;
}

static void fit_item(void *context, size_t item, uint32_t worker)
{
    batch *b = context;

    (void)worker;
    if (fit(b->s, &b->candidates[item], b->fits, b->columns) != UPG_OK)
        b->failed = true;
}

static int by_error(const void *a, const void *b)
{
    const candidate *x = a, *y = b;

    if (x->error != y->error)
        return x->error < y->error ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* Fits and scores n candidates and sorts them, best first. */
static bool fit_all(const search *s, candidate *candidates, uint32_t n, uint32_t fits,
                    uint32_t columns)
{
    batch b = { s, candidates, fits, columns, false };

    upg_pool_run(s->pool, n, fit_item, &b);
    qsort(candidates, n, sizeof *candidates, by_error);
    return !b.failed;
}

/* ---- the search ------------------------------------------------------------------------------ */

/* A stream of numbers for one candidate. */
typedef struct dice {
    uint64_t stream, used;
} dice;

static double roll(dice *d)
{
    return upg_random_unit(d->stream, d->used++);
}

static int16_t random_tap(dice *d)
{
    double size = 11 * pow(19.0, roll(d)); /* 11 … 209, as many small as large */

    return nearest_prime(roll(d) < .5 ? -size : size);
}

static void random_taps(const search *s, uint64_t number, candidate *c)
{
    dice d = { upg_random_u64(s->seed, number), 0 };

    *c = (candidate) { .number = number };
    for (uint32_t i = 0; i < s->length; i++)
        c->taps[i] = random_tap(&d);
    c->gain = first_gain(s, c->taps);
}

/* One to three changes. */
static void change_taps(const search *s, const candidate *from, dice *d, candidate *c)
{
    uint32_t changes = 1 + (uint32_t)(3 * roll(d));

    *c = *from;
    for (uint32_t n = 0; n < changes; n++) {
        uint32_t i = (uint32_t)(s->length * roll(d)), j = (uint32_t)(s->length * roll(d));
        double   kind = roll(d);
        int16_t  tap = c->taps[i];

        if (kind < .2)
            c->taps[i] = random_tap(d);
        else if (kind < .6)
            c->taps[i] = nearest_prime(tap * (.6 + .8 * roll(d)));
        else if (kind < .75)
            c->taps[i] = (int16_t)-tap;
        else
            c->taps[i] = c->taps[j], c->taps[j] = tap;
    }
    c->gain = from->gain * norm(s->length, from->taps) / norm(s->length, c->taps);
}

static void tell(const search *s, const char *what, uint32_t n, const candidate *best)
{
    fprintf(stderr, "rate %.1f L %u: %s %u, error %.6f: ", s->rate2 / 2.0, s->length, what, n,
            best->error);
    for (uint32_t i = 0; i < s->length; i++)
        fprintf(stderr, "%d%s", best->taps[i], i + 1 < s->length ? "," : "\n");
}

/* The best of many random starts: survivors of ever larger samples. `best` takes one each for the
 * chains. */
static bool begin_random(const search *s, chain *chains)
{
    candidate *all = upg_calloc(s->starts, sizeof *all, NULL);
    uint32_t   n = s->starts, columns = FIRST_COLUMNS;
    bool       done = all != NULL;

    for (uint32_t i = 0; done && i < n; i++)
        random_taps(s, i, &all[i]);
    while (done) {
        done = fit_all(s, all, n, 3, columns);
        tell(s, "best of", n, &all[0]);
        if (columns == MOST_COLUMNS || !done)
            break;
        n = n > 4 * s->chains ? (n + 3) / 4 : n;
        columns = columns * 4 < MOST_COLUMNS ? columns * 4 : MOST_COLUMNS;
    }
    for (uint32_t i = 0; done && i < s->chains; i++)
        chains[i].now = all[i % n];
    upg_free(all);
    return done;
}

/* ---- annealing ------------------------------------------------------------------------------- */

typedef struct round_work {
    const search *s;
    chain        *chains;
    uint32_t      round;
    double        heat;
    bool          failed;
} round_work;

static bool accepts(const candidate *now, const candidate *next, double heat, double chance)
{
    double rise = next->error / now->error - 1;

    return rise < 0 || chance < exp(-rise / heat);
}

/* One round of one chain. Moves meet a sample of middle size, the outcome the largest one. */
static void anneal_item(void *context, size_t item, uint32_t worker)
{
    round_work *w = context;
    chain      *c = &w->chains[item];
    candidate   end;
    dice        d = { upg_random_u64(w->s->seed, (uint64_t)(item + 1) << 32 | w->round), 0 };

    (void)worker;
    for (int move = 0; move < MOVES; move++) {
        candidate next;

        change_taps(w->s, &c->now, &d, &next);
        if (fit(w->s, &next, move % 2, CHAIN_COLUMNS) != UPG_OK)
            w->failed = true;
        if (accepts(&c->now, &next, w->heat, roll(&d)))
            c->now = next;
    }
    end = c->now;
    if (fit(w->s, &end, 0, MOST_COLUMNS) != UPG_OK)
        w->failed = true;
    if (c->best.error == 0 || end.error < c->best.error)
        c->best = end;
}

static bool anneal(const search *s, chain *chains, candidate *best)
{
    round_work w = { .s = s, .chains = chains };

    for (uint32_t i = 0; i < s->chains; i++)
        if (fit(s, &chains[i].now, 0, CHAIN_COLUMNS) != UPG_OK)
            return false;
    for (; w.round < s->rounds; w.round++) {
        w.heat = FIRST_HEAT * pow(COOLING, -(double)w.round / s->rounds);
        upg_pool_run(s->pool, s->chains, anneal_item, &w);
        if (w.failed)
            return false;
        for (uint32_t i = 0; i < s->chains; i++)
            if (best->error == 0 || chains[i].best.error < best->error) {
                *best = chains[i].best;
                tell(s, "round", w.round, best);
            }
    }
    return true;
}

static void fill_targets(uint64_t seed, size_t n, float *targets)
{
    for (size_t i = 0; i < n; i++) {
        double u = upg_random_unit(seed, 2 * i), v = upg_random_unit(seed, 2 * i + 1);

        targets[i] = (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
    }
}

/* The error of fresh targets, at the gain found: nothing was chosen by them. */
static bool score_fresh(search *s, candidate *best, double *error)
{
    candidate parts[FRESH_COLUMNS / MOST_COLUMNS];

    *error = 0;
    for (uint32_t p = 0; p < FRESH_COLUMNS / MOST_COLUMNS; p++) {
        sums all;

        fill_targets(s->seed + 1 + p, (size_t)MOST_COLUMNS * ROWS, s->targets);
        parts[p] = *best;
        if (run_sample(s, &parts[p], MOST_COLUMNS, &all) != UPG_OK)
            return false;
        *error += all.target2 - 2 * best->gain * all.cross + best->gain * best->gain * all.decoded2;
    }
    *error /= (double)FRESH_COLUMNS * ROWS;
    return true;
}

static bool begin_from(const search *s, chain *chains, candidate *best)
{
    memcpy(best->taps, s->from, sizeof best->taps);
    best->gain = first_gain(s, best->taps);
    for (int i = 0; i < 3; i++) /* for the gain */
        if (fit(s, best, 0, MOST_COLUMNS) != UPG_OK)
            return false;
    for (uint32_t i = 0; i < s->chains; i++)
        chains[i].now = *best;
    return true;
}

static bool run_search(search *s)
{
    candidate best = { 0 };
    chain     chains[MOST_CHAINS] = { 0 };
    double    fresh;

    if (!(s->has_from ? begin_from(s, chains, &best) : begin_random(s, chains)))
        return false;
    if (!anneal(s, chains, &best) || !score_fresh(s, &best, &fresh))
        return false;
    printf("    { .rate2 = %u,\n      .k0 = %u,\n      .k1 = %u,\n      .length = %u,\n"
           "      .taps = { ",
           s->rate2, s->rate2 / 2, (s->rate2 + 1) / 2, s->length);
    for (uint32_t i = 0; i < s->length; i++)
        printf("%d%s", best.taps[i], i + 1 < s->length ? ", " : " },\n");
    printf("      .gain = %.4gf }, /* error %.6f, on fresh targets %.6f */\n", best.gain,
           best.error, fresh);
    return true;
}

static bool parse_taps(const char *text, search *s)
{
    for (uint32_t i = 0; i < s->length; i++) {
        char *end;

        s->from[i] = (int16_t)strtol(text, &end, 10);
        if (end == text || (*end != ',' && *end != 0) || (*end == 0) != (i + 1 == s->length))
            return false;
        text = end + 1;
    }
    s->has_from = true;
    return true;
}

static bool parse(int argc, char **argv, search *s)
{
    *s = (search) { .starts = 256, .rounds = 100, .chains = 4, .seed = 1 };
    if (argc < 3)
        return false;
    s->rate2 = (uint32_t)lrint(2 * atof(argv[1]));
    s->length = (uint32_t)atoi(argv[2]);
    if (s->rate2 < 4 || s->rate2 > 10 || s->rate2 == 9 || s->length < UPG_CODE_MIN_LENGTH ||
        s->length > UPG_CODE_MAX_LENGTH)
        return false;
    for (int i = 3; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        size_t      n = value != NULL ? (size_t)(value - argv[i]) + 1 : 0;

        if (n > 0 && strncmp(argv[i], "starts=", n) == 0)
            s->starts = (uint32_t)atoi(value + 1);
        else if (n > 0 && strncmp(argv[i], "rounds=", n) == 0)
            s->rounds = (uint32_t)atoi(value + 1);
        else if (n > 0 && strncmp(argv[i], "chains=", n) == 0)
            s->chains = (uint32_t)atoi(value + 1);
        else if (n > 0 && strncmp(argv[i], "seed=", n) == 0)
            s->seed = strtoull(value + 1, NULL, 10);
        else if (n > 0 && strncmp(argv[i], "threads=", n) == 0)
            s->threads = (uint32_t)atoi(value + 1);
        else if (n == 0 || strncmp(argv[i], "from=", n) != 0 || !parse_taps(value + 1, s))
            return false;
    }
    return s->starts > 0 && s->chains > 0 && s->chains <= MOST_CHAINS &&
           (s->has_from || s->rounds > 0);
}

int main(int argc, char **argv)
{
    search s;
    bool   done = false;

    if (!parse(argc, argv, &s)) {
        fputs("usage: tap_search RATE LENGTH [starts=N] [rounds=N] [chains=N] [seed=N] "
              "[threads=N] [from=P,P,...]\n  RATE 2, 2.5, 3, 3.5, 4 or 5; LENGTH 8 to 16\n",
              stderr);
        return 2;
    }
    s.targets = upg_alloc_aligned((size_t)MOST_COLUMNS * ROWS * sizeof *s.targets, NULL);
    if (s.targets != NULL && upg_pool_create(s.threads, &s.pool, NULL) == UPG_OK) {
        fill_targets(s.seed, (size_t)MOST_COLUMNS * ROWS, s.targets);
        done = run_search(&s);
        upg_pool_close(s.pool);
    }
    upg_free(s.targets);
    return done ? 0 : 1;
}
