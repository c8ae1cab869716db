/* sample.cu against eng_choose, row by row: thousands of random rows, with and without each parameter, many ties, masks, NaN and
 * infinities. Ids must be equal, except where the draw falls on a boundary of two candidates, up to the rounding of sums. */
#include "engine/cuda/launch.h"

extern "C" {
#include "engine/sampler.h"
}

#include "tap.h"

#include <math.h>
#include <stdlib.h>

enum { BATCH = 8 };
#define BOUNDARY 1e-9

static uint64_t random_state = 1;

static double uniform(void) /* [0, 1) */
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(random_state >> 11) * 0x1p-53;
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(uniform() * n);
}

static double normal(void)
{
    return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
}

static void *take(size_t bytes)
{
    void *p = NULL;

    CHECK(posix_memalign(&p, 256, bytes > 0 ? bytes : 1) == 0);
    memset(p, 0xCD, bytes);
    return p;
}

/* A step's rows, in memory of their exact size. */
struct batch {
    uint32_t n, n_vocab;
    float *logits; /* [n, n_vocab] */
    struct gpu_choice choices[BATCH];
    struct eng_chosen chosen[BATCH];
};

static void begin(struct batch *b, uint32_t n, uint32_t n_vocab)
{
    *b = (struct batch){};
    b->n = n;
    b->n_vocab = n_vocab;
    b->logits = (float *)take((size_t)n * n_vocab * sizeof(float));
    for (uint32_t i = 0; i < n; i++) {
        b->choices[i].params.temperature = b->choices[i].params.top_p = 1;
        b->choices[i].params.repetition_penalty = 1;
        b->choices[i].n_tokens = n_vocab;
        b->choices[i].draw = uniform();
    }
}

static void end(struct batch *b)
{
    for (uint32_t i = 0; i < b->n; i++) {
        free((void *)b->choices[i].penalties);
        free((void *)b->choices[i].mask);
    }
    free(b->logits);
}

static struct eng_choice as_eng(const struct gpu_choice *c)
{
    struct eng_choice e = {};

    e.params = c->params;
    e.draw = c->draw;
    e.n_tokens = c->n_tokens;
    e.penalties = c->penalties;
    e.n_penalties = c->n_penalties;
    e.mask = c->mask;
    e.n_top = c->n_top;
    return e;
}

static void reference(const struct batch *b, uint32_t row, double draw, struct eng_chosen *ret)
{
    struct eng_choice c = as_eng(&b->choices[row]);
    float *logits = (float *)take(b->n_vocab * sizeof(float));
    struct eng_candidate *scratch = (struct eng_candidate *)take(b->n_vocab * sizeof(*scratch));

    c.draw = draw;
    memcpy(logits, b->logits + (size_t)row * b->n_vocab, b->n_vocab * sizeof(float));
    eng_choose(&c, logits, scratch, ret);
    free(logits);
    free(scratch);
}

static bool same_float(float a, float b)
{
    return a == b || (isnan(a) && isnan(b)) || fabsf(a - b) <= 1e-5f * (1 + fabsf(b));
}

/* What the device chose against the reference; gives whether the draw was on a boundary, and the other side chosen. */
static bool check_row(const struct batch *b, uint32_t row)
{
    const struct gpu_choice *c = &b->choices[row];
    const struct eng_chosen *got = &b->chosen[row];
    struct eng_chosen expected, beside;
    bool boundary = false;

    reference(b, row, c->draw, &expected);
    if (got->id != expected.id) {
        for (int side = -1; side <= 1 && !boundary; side += 2) {
            double draw = c->draw + side * BOUNDARY;

            reference(b, row, draw < 0 ? 0 : draw >= 1 ? 1 - 0x1p-53 : draw, &beside);
            boundary = beside.id == got->id;
        }
        if (c->draw >
            1 - BOUNDARY) { /* the last candidates are less than a boundary wide: any that may be chosen */
            boundary = got->id >= 0 && (uint32_t)got->id < c->n_tokens &&
                       (c->mask == NULL || (c->mask[got->id / 32] >> got->id % 32 & 1) != 0) &&
                       b->logits[(size_t)row * b->n_vocab + got->id] > -INFINITY;
            beside.logprob = got->logprob;
        }
        if (!boundary) {
            printf(
                "# row %u of %u: id %d, expected %d; temperature %g top_k %u top_p %g min_p %g draw %.17g\n",
                row, b->n_vocab, got->id, expected.id, c->params.temperature, c->params.top_k,
                c->params.top_p, c->params.min_p, c->draw);
            tap_fail(__FILE__, __LINE__, "ids differ");
        }
        expected.logprob = beside.logprob;
    }
    CHECK(same_float(got->logprob, expected.logprob));
    for (uint32_t i = 0; i < ENG_TOP_LOGPROBS_MAX; i++) {
        CHECK_INT(got->top_ids[i], expected.top_ids[i]);
        CHECK(same_float(got->top_logprobs[i], expected.top_logprobs[i]));
    }
    return boundary && c->draw <= 1 - BOUNDARY;
}

/* Runs the batch and checks it; the logits are kept for the reference. */
static unsigned check_batch(struct batch *b)
{
    float *logits = (float *)take((size_t)b->n * b->n_vocab * sizeof(float));
    struct gpu_choice *choices = (struct gpu_choice *)take(b->n * sizeof(*choices));
    struct eng_chosen *chosen = (struct eng_chosen *)take(b->n * sizeof(*chosen));
    void *workspace = take((size_t)gpu_sample_workspace(b->n, b->n_vocab));
    unsigned boundaries = 0;

    memcpy(logits, b->logits, (size_t)b->n * b->n_vocab * sizeof(float));
    memcpy(choices, b->choices, b->n * sizeof(*choices));
    gpu_sample(NULL, logits, b->n, b->n_vocab, choices, chosen, workspace);
    memcpy(b->chosen, chosen, b->n * sizeof(*chosen));
    for (uint32_t i = 0; i < b->n; i++)
        boundaries += check_row(b, i);
    free(logits);
    free(choices);
    free(chosen);
    free(workspace);
    return boundaries;
}

/* Rows as models give them, steep or flat, some with few distinct values, NaN and infinities among them. */
static void random_logits(float *x, uint32_t n)
{
    double scale = 0.2 + 6 * uniform(), shift = 20 * uniform() - 10;
    uint32_t kind = below(6), special = below(8);

    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)(normal() * scale + shift);
    if (kind == 0) { /* ties, and both zeros */
        for (uint32_t i = 0; i < n; i++)
            x[i] = below(8) == 0 ? -0.0f : roundf(x[i] - (float)shift) / 2;
    }
    if (kind == 1) { /* one value, and a few above */
        for (uint32_t i = 0; i < n; i++)
            x[i] = i % 97 == 5 ? 2 : 1;
    }
    for (uint32_t i = 0; special < 3 && i < 5; i++)
        x[below(n)] = special == 0   ? NAN
                      : special == 1 ? -INFINITY
                                     : (i == 4 && below(4) == 0 ? INFINITY : NAN);
}

static void random_choice(struct gpu_choice *c, uint32_t n_vocab)
{
    static const float temperatures[] = {0, 0.05f, 0.7f, 1, 1.3f, 100};
    static const float top_ps[] = {1, 1, 0.9f, 0.999f, 0.5f, 1e-6f};

    c->params.temperature = temperatures[below(6)];
    c->params.top_p = top_ps[below(6)];
    c->params.top_k = below(2) ? 0 : below(3) == 0 ? 1 + below(n_vocab + 3) : 1 + below(60);
    c->params.min_p = below(3) ? 0 : (float)uniform() * 0.3f;
    c->n_top = below(3) ? 0 : 1 + below(ENG_TOP_LOGPROBS_MAX);
    c->n_tokens = below(4) ? n_vocab : 1 + below(n_vocab);
    c->draw = below(20) == 0 ? (below(2) ? 0 : 1 - 0x1p-53) : uniform();
    if (below(3) == 0) {
        uint32_t n = below(c->n_tokens) / 2, step = 2 + below(3);
        struct eng_penalty *p = (struct eng_penalty *)take(n * sizeof(*p));

        for (uint32_t i = 0; i < n; i++)
            p[i] = (struct eng_penalty){(int32_t)(i * step % c->n_tokens), below(4)};
        c->n_penalties =
            n < (c->n_tokens + step - 1) / step ? n : (c->n_tokens + step - 1) / step; /* each id once */
        c->penalties = p;
        c->params.repetition_penalty = 1.0f + (float)uniform();
        c->params.presence_penalty = (float)uniform();
        c->params.frequency_penalty = (float)uniform() - 0.5f;
    }
    if (below(3) == 0) {
        uint32_t n = (c->n_tokens + 31) / 32, *mask = (uint32_t *)take(n * 4);
        bool sparse = below(2);

        for (uint32_t i = 0; i < n; i++)
            mask[i] = sparse ? 1u << below(32) & (below(4) ? 0 : ~0u) : (uint32_t)(uniform() * 4294967296.0);
        c->mask = mask;
    }
}

static void random_rows(uint32_t n_batches, uint32_t vocab_max)
{
    unsigned boundaries = 0;

    for (uint32_t i = 0; i < n_batches; i++) {
        struct batch b;

        begin(&b, BATCH, 1 + below(vocab_max));
        for (uint32_t r = 0; r < BATCH; r++) {
            random_logits(b.logits + (size_t)r * b.n_vocab, b.n_vocab);
            random_choice(&b.choices[r], b.n_vocab);
        }
        boundaries += check_batch(&b);
        end(&b);
    }
    CHECK(boundaries <= 2); /* it is an exception */
}

static void test_sample__random_small_rows(void)
{
    random_rows(400, 120);
}

static void test_sample__random_rows(void)
{
    random_rows(150, 3000);
}

/* A vocabulary as large as they come, all logits equal: nothing but ties. */
static void test_sample__all_equal(void)
{
    struct batch b;

    begin(&b, BATCH, 128256);
    for (size_t i = 0; i < (size_t)b.n * b.n_vocab; i++)
        b.logits[i] = 1.25f;
    b.choices[1].params.top_k = 5000;
    b.choices[2].params.top_p = 0.999f;
    b.choices[3].params.top_p = 0.25f;
    b.choices[3].params.top_k = 100000;
    b.choices[4].params.min_p = 0.5f;
    b.choices[5].params.temperature = 0;
    b.choices[6].params.top_p = 0.5f;
    b.choices[6].n_top = 20;
    b.choices[7].params.top_p = 0.999f;
    b.choices[7].draw = 0.9999999;
    CHECK_INT(check_batch(&b), 0);
    CHECK_INT(b.chosen[5].id, 0);
    end(&b);
}

/* Flat rows of a large vocabulary: what is kept is most of it. */
static void test_sample__large_and_flat(void)
{
    struct batch b;

    begin(&b, 6, 128256);
    for (size_t i = 0; i < (size_t)b.n * b.n_vocab; i++)
        b.logits[i] = (float)normal();
    b.choices[0].params.top_p = 0.999f;
    b.choices[1].params.top_p = 0.999f;
    b.choices[1].params.top_k = 90000;
    b.choices[2].params.min_p = 0.001f;
    b.choices[3].params.top_k = 40;
    b.choices[3].n_top = 20;
    b.choices[4].params.temperature = 0.2f;
    b.choices[4].params.top_p = 0.9f;
    CHECK_INT(check_batch(&b), 0);
    end(&b);
}

/* Nothing may be chosen, or one thing only. */
static void test_sample__no_choice(void)
{
    struct batch b;
    uint32_t *mask = (uint32_t *)take(8);

    begin(&b, 6, 50);
    for (size_t i = 0; i < (size_t)b.n * b.n_vocab; i++)
        b.logits[i] = i / b.n_vocab == 0 ? NAN : i / b.n_vocab == 1 ? -INFINITY : (float)normal();
    mask[0] = 0;
    mask[1] = 1u << 5;
    b.choices[0].n_top = 3;
    b.choices[2].mask = mask; /* one */
    b.choices[2].n_top = 20;
    b.choices[3].n_tokens = 32;
    b.choices[3].mask = (uint32_t *)take(4); /* none */
    *(uint32_t *)b.choices[3].mask = 0;
    b.logits[4 * 50 + 17] = INFINITY;
    b.logits[4 * 50 + 30] = INFINITY;
    b.logits[5 * 50 + 40] = INFINITY;
    b.logits[5 * 50 + 41] = INFINITY;
    b.choices[5].params.top_k = 10;
    b.choices[5].params.top_p = 0.5f;
    b.choices[5].draw = 0.9;
    check_batch(&b);
    CHECK_INT(b.chosen[0].id, -1);
    CHECK_INT(b.chosen[1].id, -1);
    CHECK_INT(b.chosen[2].id, 37);
    CHECK_INT(b.chosen[3].id, -1);
    CHECK_INT(b.chosen[4].id, 17); /* the first that is certain */
    CHECK_INT(b.chosen[5].id, 40);
    end(&b);
    gpu_sample(NULL, NULL, 0, 50, NULL, NULL, NULL);
}

/* A row's choice is the same beside other rows and alone. */
static void test_sample__same_alone(void)
{
    struct batch b, alone;

    begin(&b, BATCH, 777);
    for (uint32_t r = 0; r < BATCH; r++) {
        random_logits(b.logits + (size_t)r * 777, 777);
        random_choice(&b.choices[r], 777);
        b.choices[r].n_top = 5;
    }
    check_batch(&b);
    for (uint32_t r = 0; r < BATCH; r++) {
        begin(&alone, 1, 777);
        memcpy(alone.logits, b.logits + (size_t)r * 777, 777 * sizeof(float));
        alone.choices[0] = b.choices[r];
        check_batch(&alone);
        CHECK(memcmp(&alone.chosen[0], &b.chosen[r], sizeof(alone.chosen[0])) == 0);
        alone.n = 0; /* the lists are the batch's */
        end(&alone);
    }
    end(&b);
}

/* What the draws choose has the frequencies that the softmax of what was left gives. */
static void test_sample__frequencies(void)
{
    enum { DRAWS = 400, VOCAB = 6 };
    static const float logits[VOCAB] = {0, 1, 2, 1, -1, 2};
    double expected[VOCAB] = {0, 0, 0, 0, 0, 0}, sum = 0;
    unsigned counts[VOCAB] = {0};
    struct batch b;

    for (uint32_t i = 0; i < VOCAB; i++)
        sum += expected[i] = logits[i] >= 1 ? exp(logits[i] / 0.8) : 0; /* top_k 4 */
    for (uint32_t d = 0; d < DRAWS; d += BATCH) {
        begin(&b, BATCH, VOCAB);
        for (uint32_t r = 0; r < BATCH; r++) {
            memcpy(b.logits + r * VOCAB, logits, sizeof(logits));
            b.choices[r].params.temperature = 0.8f;
            b.choices[r].params.top_k = 4;
            b.choices[r].draw = (d + r + 0.5) / DRAWS;
        }
        check_batch(&b);
        for (uint32_t r = 0; r < BATCH; r++)
            counts[b.chosen[r].id]++;
        end(&b);
    }
    for (uint32_t i = 0; i < VOCAB; i++)
        CHECK(fabs(counts[i] - DRAWS * expected[i] / sum) <= 1);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_sample__random_small_rows), CASE(test_sample__random_rows), CASE(test_sample__all_equal),
        CASE(test_sample__large_and_flat),    CASE(test_sample__no_choice),   CASE(test_sample__same_alone),
        CASE(test_sample__frequencies),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
