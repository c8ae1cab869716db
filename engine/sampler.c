/* Sampler: see sampler.h. */
#include "engine/sampler.h"

#include "base/mem.h"
#include "base/secret.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct eng_sampler {
    struct eng_sampling params;
    uint32_t n_tokens;
    uint64_t n_draws;
    uint32_t *places; /* [n_tokens]: where an id stands in penalties, plus 1; NULL when no penalty needs it */
    struct eng_penalty *penalties; /* the ids of prompt and answer */
    uint32_t n_penalties, room;
};

static bool in_range(float v, float min, float max)
{
    return v >= min && v <= max; /* false for NaN */
}

enum base_code eng_sampling_check(const struct eng_sampling *s, struct base_err *err)
{
    if (!in_range(s->temperature, 0, 100))
        return base_fail(err, BASE_INVALID, 0, "temperature must be 0 to 100");
    if (!(s->top_p > 0 && s->top_p <= 1))
        return base_fail(err, BASE_INVALID, 0, "top_p must be above 0 and at most 1");
    if (!(s->min_p >= 0 && s->min_p < 1))
        return base_fail(err, BASE_INVALID, 0, "min_p must be at least 0 and below 1");
    if (!in_range(s->repetition_penalty, 0.01f, 100))
        return base_fail(err, BASE_INVALID, 0, "repetition_penalty must be 0.01 to 100");
    if (!in_range(s->presence_penalty, -2, 2) || !in_range(s->frequency_penalty, -2, 2))
        return base_fail(err, BASE_INVALID, 0, "presence_penalty and frequency_penalty must be -2 to 2");
    return BASE_OK;
}

static bool has_penalty(const struct eng_sampling *s)
{
    return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

static void note_seen(struct eng_sampler *s, int32_t id, uint32_t times)
{
    if (id < 0 || (uint32_t)id >= s->n_tokens)
        return;
    if (s->places[id] == 0) {
        if (s->n_penalties == s->room) {
            struct eng_penalty *old = s->penalties;

            s->room = s->room * 2 + 64;
            s->penalties =
                base_alloc(s->room * sizeof(*s->penalties)); /* at most n_tokens ids are ever noted */
            if (old != NULL) {
                memcpy(s->penalties, old, s->n_penalties * sizeof(*old));
                base_wipe(old, s->n_penalties * sizeof(*old));
                free(old);
            }
        }
        s->penalties[s->n_penalties] = (struct eng_penalty){.id = id};
        s->places[id] = ++s->n_penalties;
    }
    s->penalties[s->places[id] - 1].count += times;
}

struct eng_sampler *eng_sampler_new(const struct eng_sampling *sampling, uint32_t n_tokens,
                                    const int32_t *prompt, uint32_t n_prompt)
{
    struct eng_sampler *s = base_zalloc(sizeof(*s));

    s->params = *sampling;
    s->n_tokens = n_tokens;
    if (!has_penalty(sampling))
        return s;
    s->places = base_try_zarray(n_tokens, sizeof(*s->places));
    if (s->places == NULL) {
        eng_sampler_free(s);
        return NULL;
    }
    for (uint32_t i = 0; i < n_prompt; i++)
        note_seen(s, prompt[i], 0);
    return s;
}

void eng_sampler_free(struct eng_sampler *s)
{
    if (s == NULL)
        return;
    if (s->places != NULL) /* the words of prompt and answer, if not their order */
        base_wipe(s->places, s->n_tokens * sizeof(*s->places));
    if (s->penalties != NULL)
        base_wipe(s->penalties, s->room * sizeof(*s->penalties));
    free(s->places);
    free(s->penalties);
    free(s);
}

/* splitmix64 over seed and counter: 53 bits in [0, 1). */
static double draw(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;

    for (int round = 0; round < 2; round++) { /* twice: neighbouring seeds must not give shifted sequences */
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        z ^= seed * 0xd6e8feb86659fd93ull;
    }
    return (double)(z >> 11) * 0x1p-53;
}

void eng_sampler_choice(const struct eng_sampler *s, struct eng_choice *ret_choice)
{
    *ret_choice = (struct eng_choice){.params = s->params,
                                      .draw = draw(s->params.seed, s->n_draws),
                                      .n_tokens = s->n_tokens,
                                      .penalties = s->penalties,
                                      .n_penalties = s->n_penalties};
}

void eng_sampler_took(struct eng_sampler *s, int32_t id)
{
    s->n_draws++;
    if (s->places != NULL)
        note_seen(s, id, 1);
}

static void apply_penalties(const struct eng_choice *c, float *logits)
{
    const struct eng_sampling *p = &c->params;

    for (uint32_t i = 0; i < c->n_penalties; i++) {
        float *logit = &logits[c->penalties[i].id];

        *logit = *logit > 0 ? *logit / p->repetition_penalty : *logit * p->repetition_penalty;
        if (c->penalties[i].count > 0)
            *logit -= p->presence_penalty + p->frequency_penalty * (float)c->penalties[i].count;
    }
}

static void apply_mask(const struct eng_choice *c, float *logits)
{
    for (uint32_t i = 0; i < c->n_tokens; i++) {
        if ((c->mask[i / 32] >> i % 32 & 1) == 0)
            logits[i] = -INFINITY;
    }
}

/* -1 when no logit is a number above -infinity. */
static int32_t argmax(const float *logits, uint32_t n)
{
    int32_t best = -1;
    float max = -INFINITY;

    for (uint32_t i = 0; i < n; i++) {
        if (logits[i] > max) {
            max = logits[i];
            best = (int32_t)i;
        }
    }
    return best;
}

static int by_logit(const void *a, const void *b)
{
    const struct eng_candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Candidates with a logit of at least `floor`, unsorted, with p = exp((logit - max) / temperature). */
static uint32_t collect(const struct eng_choice *c, const float *logits, float floor, float max,
                        struct eng_candidate *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_tokens; i++) {
        if (logits[i] >= floor && logits[i] > -INFINITY)
            out[n++] = (struct eng_candidate){logits[i], (int32_t)i,
                                              exp(((double)logits[i] - max) / c->params.temperature)};
    }
    return n;
}

/* The most likely tokens, sorted: enough of them for top-k and top-p. Sorting a whole vocabulary costs more than the rest of
 * sampling, so the floor starts close under the maximum and sinks until the set is sure to hold what is wanted. */
static uint32_t collect_sorted(const struct eng_choice *c, const float *logits, float max, double total,
                               struct eng_candidate *out)
{
    const struct eng_sampling *p = &c->params;

    for (float depth = 8;; depth *= 4) {
        bool all = depth > 1e6f;
        uint32_t n = collect(c, logits, all ? -INFINITY : max - depth * p->temperature, max, out);
        double mass = 0;

        for (uint32_t i = 0; i < n; i++)
            mass += out[i].p;
        if (all || n == c->n_tokens || (p->top_k != 0 && n >= p->top_k) ||
            (p->top_k == 0 && mass > p->top_p * total)) {
            qsort(out, n, sizeof(*out), by_logit);
            return n;
        }
    }
}

/* How many of the n sorted candidates top-k, top-p and min-p leave: at least one. */
static uint32_t truncate_candidates(const struct eng_sampling *p, const struct eng_candidate *sorted,
                                    uint32_t n, double total)
{
    double mass = 0;
    uint32_t kept = 0;

    if (p->top_k != 0 && n > p->top_k)
        n = p->top_k;
    if (p->top_k != 0) { /* top-p is a share of what top-k left */
        total = 0;
        for (uint32_t i = 0; i < n; i++)
            total += sorted[i].p;
    }
    while (kept < n && (kept == 0 || p->top_p >= 1 || mass < p->top_p * total))
        mass += sorted[kept++].p;
    while (kept > 1 && sorted[kept - 1].p < p->min_p * sorted[0].p)
        kept--;
    return kept;
}

static int32_t sample(const struct eng_choice *c, const float *logits, struct eng_candidate *candidates)
{
    const struct eng_sampling *p = &c->params;
    int32_t best = argmax(logits, c->n_tokens);
    double total = 0, left;
    uint32_t n;
    float max;

    if (best < 0 || isinf(logits[best])) /* +infinity: certain */
        return best;
    max = logits[best];
    if (p->top_k == 0 && p->top_p >= 1 && p->min_p == 0)
        n = collect(c, logits, -INFINITY, max, candidates); /* id order will do */
    else {
        for (uint32_t i = 0; p->top_k == 0 && i < c->n_tokens; i++) {
            if (logits[i] > -INFINITY)
                total += exp(((double)logits[i] - max) / p->temperature);
        }
        n = collect_sorted(c, logits, max, total, candidates);
        n = truncate_candidates(p, candidates, n, total);
    }
    total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += candidates[i].p;
    left = c->draw * total;
    for (uint32_t i = 0; i < n; i++) {
        left -= candidates[i].p;
        if (left < 0)
            return candidates[i].id;
    }
    return best; /* rounding left a crumb */
}

/* The likeliest n_top ids with their log probabilities; gives the logarithm of the softmax's denominator. */
static double top_logprobs(const struct eng_choice *c, const float *logits, struct eng_chosen *ret)
{
    int32_t best = argmax(logits, c->n_tokens);
    double sum = 0, log_sum;
    uint32_t n = 0;

    if (best < 0)
        return 0;
    for (uint32_t i = 0; i < c->n_tokens; i++) {
        if (logits[i] > -INFINITY)
            sum += exp((double)logits[i] - logits[best]);
    }
    log_sum = logits[best] + log(sum);
    for (uint32_t i = 0; i < c->n_tokens; i++) {
        uint32_t at;

        if (!(logits[i] > -INFINITY) || (n == c->n_top && logits[i] <= logits[ret->top_ids[n - 1]]))
            continue;
        at = n < c->n_top ? n++ : n - 1;
        for (; at > 0 && logits[ret->top_ids[at - 1]] < logits[i]; at--)
            ret->top_ids[at] = ret->top_ids[at - 1];
        ret->top_ids[at] = (int32_t)i;
    }
    for (uint32_t i = 0; i < c->n_top; i++) {
        ret->top_logprobs[i] = i < n ? (float)(logits[ret->top_ids[i]] - log_sum) : -INFINITY;
        if (i >= n)
            ret->top_ids[i] = -1;
    }
    return log_sum;
}

void eng_choose(const struct eng_choice *c, float *logits, struct eng_candidate *scratch,
                struct eng_chosen *ret)
{
    double log_sum = 0;
    float *given = NULL;

    *ret = (struct eng_chosen){0};
    if (c->n_top > 0) {
        log_sum = top_logprobs(c, logits, ret);
        given =
            base_alloc(c->n_tokens * sizeof(*given)); /* the choice below may be another than the likeliest */
        memcpy(given, logits, c->n_tokens * sizeof(*given));
    }
    if (c->n_penalties > 0)
        apply_penalties(c, logits);
    if (c->mask != NULL)
        apply_mask(c, logits);
    ret->id = c->params.temperature > 0 ? sample(c, logits, scratch) : argmax(logits, c->n_tokens);
    if (given != NULL) {
        ret->logprob = ret->id >= 0 ? (float)(given[ret->id] - log_sum) : 0;
        free(given);
    }
}
