/* Sampler: see sampler.h. */
#include "engine/sampler.h"

#include "base/mem.h"
#include "base/secret.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
    double p;
};

struct eng_sampler {
    struct eng_sampling params;
    uint32_t n_tokens;
    uint64_t n_draws;
    uint8_t *seen;                /* [n_tokens]: in the prompt or the answer; NULL when no penalty needs it */
    uint32_t *counts;             /* [n_tokens]: times in the answer; likewise */
    struct candidate *candidates; /* [n_tokens] */
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

struct eng_sampler *eng_sampler_new(const struct eng_sampling *sampling, uint32_t n_tokens,
                                    const int32_t *prompt, uint32_t n_prompt)
{
    struct eng_sampler *s = base_zalloc(sizeof(*s));

    s->params = *sampling;
    s->n_tokens = n_tokens;
    if (sampling->temperature > 0)
        s->candidates = base_try_zarray(n_tokens, sizeof(*s->candidates));
    if (has_penalty(sampling)) {
        s->seen = base_try_zarray(n_tokens, sizeof(*s->seen));
        s->counts = base_try_zarray(n_tokens, sizeof(*s->counts));
    }
    if ((sampling->temperature > 0 && s->candidates == NULL) ||
        (has_penalty(sampling) && (s->seen == NULL || s->counts == NULL))) {
        eng_sampler_free(s);
        return NULL;
    }
    for (uint32_t i = 0; s->seen != NULL && i < n_prompt; i++) {
        if ((uint32_t)prompt[i] < n_tokens)
            s->seen[prompt[i]] = 1;
    }
    return s;
}

void eng_sampler_free(struct eng_sampler *s)
{
    if (s == NULL)
        return;
    if (s->seen != NULL) /* the words of prompt and answer, if not their order */
        base_wipe(s->seen, s->n_tokens * sizeof(*s->seen));
    if (s->counts != NULL)
        base_wipe(s->counts, s->n_tokens * sizeof(*s->counts));
    free(s->seen);
    free(s->counts);
    free(s->candidates);
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

static void apply_penalties(const struct eng_sampler *s, float *logits)
{
    const struct eng_sampling *p = &s->params;

    for (uint32_t i = 0; i < s->n_tokens; i++) {
        if (s->seen[i] != 0)
            logits[i] = logits[i] > 0 ? logits[i] / p->repetition_penalty : logits[i] * p->repetition_penalty;
        if (s->counts[i] != 0)
            logits[i] -= p->presence_penalty + p->frequency_penalty * (float)s->counts[i];
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
    const struct candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Candidates with a logit of at least `floor`, unsorted, with p = exp((logit - max) / temperature). */
static uint32_t collect(struct eng_sampler *s, const float *logits, float floor, float max)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->n_tokens; i++) {
        if (logits[i] >= floor && logits[i] > -INFINITY)
            s->candidates[n++] = (struct candidate){logits[i], (int32_t)i,
                                                    exp(((double)logits[i] - max) / s->params.temperature)};
    }
    return n;
}

/* The most likely tokens, sorted: enough of them for top-k and top-p. Sorting a whole vocabulary costs more than the rest of
 * sampling, so the floor starts close under the maximum and sinks until the set is sure to hold what is wanted. */
static uint32_t collect_sorted(struct eng_sampler *s, const float *logits, float max, double total)
{
    const struct eng_sampling *p = &s->params;

    for (float depth = 8;; depth *= 4) {
        bool all = depth > 1e6f;
        uint32_t n = collect(s, logits, all ? -INFINITY : max - depth * p->temperature, max);
        double mass = 0;

        for (uint32_t i = 0; i < n; i++)
            mass += s->candidates[i].p;
        if (all || n == s->n_tokens || (p->top_k != 0 && n >= p->top_k) ||
            (p->top_k == 0 && mass > p->top_p * total)) {
            qsort(s->candidates, n, sizeof(*s->candidates), by_logit);
            return n;
        }
    }
}

/* How many of the n sorted candidates top-k, top-p and min-p leave: at least one. */
static uint32_t truncate_candidates(const struct eng_sampler *s, uint32_t n, double total)
{
    const struct eng_sampling *p = &s->params;
    double mass = 0;
    uint32_t kept = 0;

    if (p->top_k != 0 && n > p->top_k)
        n = p->top_k;
    if (p->top_k != 0) { /* top-p is a share of what top-k left */
        total = 0;
        for (uint32_t i = 0; i < n; i++)
            total += s->candidates[i].p;
    }
    while (kept < n && (kept == 0 || p->top_p >= 1 || mass < p->top_p * total))
        mass += s->candidates[kept++].p;
    while (kept > 1 && s->candidates[kept - 1].p < p->min_p * s->candidates[0].p)
        kept--;
    return kept;
}

static int32_t sample(struct eng_sampler *s, const float *logits)
{
    const struct eng_sampling *p = &s->params;
    int32_t best = argmax(logits, s->n_tokens);
    double total = 0, left;
    uint32_t n;
    float max;

    if (best < 0 || isinf(logits[best])) /* +infinity: certain */
        return best;
    max = logits[best];
    if (p->top_k == 0 && p->top_p >= 1 && p->min_p == 0)
        n = collect(s, logits, -INFINITY, max); /* id order will do */
    else {
        for (uint32_t i = 0; p->top_k == 0 && i < s->n_tokens; i++) {
            if (logits[i] > -INFINITY)
                total += exp(((double)logits[i] - max) / p->temperature);
        }
        n = collect_sorted(s, logits, max, total);
        n = truncate_candidates(s, n, total);
    }
    total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += s->candidates[i].p;
    left = draw(p->seed, s->n_draws) * total;
    for (uint32_t i = 0; i < n; i++) {
        left -= s->candidates[i].p;
        if (left < 0)
            return s->candidates[i].id;
    }
    return best; /* rounding left a crumb */
}

int32_t eng_sampler_next(struct eng_sampler *s, float *logits)
{
    int32_t id;

    if (s->seen != NULL)
        apply_penalties(s, logits);
    id = s->params.temperature > 0 ? sample(s, logits) : argmax(logits, s->n_tokens);
    s->n_draws++;
    if (id >= 0 && s->seen != NULL) {
        s->seen[id] = 1;
        s->counts[id]++;
    }
    return id;
}
