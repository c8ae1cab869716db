/* Sampling: the choice of sampler.c, a block per row. What top-k, top-p and the draw want is a place in the order of candidates:
 * sample_search.h finds it.
 */
#include "engine/cuda/sample_search.h"

/* ---- the choice ---- */

/* Finds the maximum; false when there is nothing to choose from or the choice is certain. */
static __device__ void start(struct row *r, uint64_t best, double temperature)
{
    float max = logit_of(entry_key(best));

    r->max = max;
    r->max_key = entry_key(best);
    r->per_temperature = 1 / temperature;
    r->hint_key = key_of((float)(max - 8 * temperature)); /* 0 where that is -infinity: no hint */
    r->list_n = 0;
}

/* Lowest key whose p is at least min_p. Larger logits never have a smaller p. */
static __device__ uint32_t min_p_key(const struct row *r, double min_p)
{
    uint32_t low = LOWEST_KEY, high = r->max_key; /* the answer is in [low, high] */

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (p_of(r, logit_of(mid)) >= min_p)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

/* What top-k, top-p and min-p leave: keys above `key`, and the first `ties` of that key. */
struct kept {
    uint32_t key, ties, n_range; /* n_range: how many keys there are from `key` on, with all ties */
    double p;
};

static __device__ void keep_to(const struct row *r, struct kept *k, const struct place *at)
{
    k->key = at->key;
    k->ties = at->tie + 1;
    k->n_range = at->before.n + at->n_ties;
    k->p = at->before.p + k->ties * p_of(r, logit_of(at->key));
}

static __device__ struct kept truncate_candidates(struct row *r, const struct eng_sampling *params,
                                                  uint32_t n_valid)
{
    struct kept k = {LOWEST_KEY, ALL_TIES, n_valid, 0};
    struct limit l = {AT_LEAST_N, params->top_k, 0};
    struct place at;

    if (params->top_k != 0 && params->top_k < n_valid) {
        at = search(r, &l, k.key, k.n_range);
        keep_to(r, &k, &at);
    } else
        k.p = sum_range(r, LOWEST_KEY, 0xffffffffu).p;
    if (params->top_p < 1) {
        l.kind = AT_LEAST_P;
        l.p = params->top_p * k.p;
        at = search(r, &l, k.key, k.n_range);
        if (at.key > k.key || (at.key == k.key && at.tie < k.ties))
            keep_to(r, &k, &at);
    }
    if (params->min_p > 0) {
        uint32_t floor_key = min_p_key(r, params->min_p);

        if (floor_key > k.key) {
            struct mass rest = sum_range(r, floor_key, 0xffffffffu);

            k.key = floor_key;
            k.ties = ALL_TIES;
            k.n_range = rest.n;
            k.p = rest.p;
        }
    }
    return k;
}

static __device__ int32_t draw_sorted(struct row *r, const struct kept *k, double draw, int32_t best)
{
    struct limit l = {MORE_THAN_P, 0, draw * k->p};
    struct place at;

    if (!(k->p > l.p))
        return best;
    at = search(r, &l, k->key, k->n_range);
    if (at.key < k->key || (at.key == k->key && at.tie >= k->ties))
        return best; /* a crumb of rounding past the last */
    return at.id >= 0 ? at.id : walk_ids(r, at.key, 0, at.tie);
}

/* What is masked becomes -infinity; gives the likeliest that is left, or 0, and how many there are. */
static __device__ uint64_t mask_and_survey(const struct row *r, const uint32_t *mask, uint32_t *ret_n)
{
    struct mass v = {0, 0};
    uint64_t best = 0;

    for (uint32_t i = threadIdx.x; i < r->n; i += THREADS) {
        uint32_t key = key_of(r->logits[i]);
        uint64_t entry = entry_of(key, i);

        if (mask != NULL && (mask[i / 32] >> i % 32 & 1) == 0)
            r->logits[i] = -INFINITY;
        else if (key != 0) {
            v.n++;
            best = entry > best ? entry : best;
        }
    }
    *ret_n = block_sum(r->s, v).n;
    return block_max(r->s, best);
}

static __device__ int32_t choose(struct row *r, const struct gpu_choice *c)
{
    const struct eng_sampling *params = &c->params;
    struct kept k;
    uint32_t n_valid;
    uint64_t best = mask_and_survey(r, c->mask, &n_valid);
    int32_t id;

    if (best == 0)
        return -1;
    if (params->temperature <= 0 || isinf(logit_of(entry_key(best)))) /* +infinity: certain */
        return entry_id(best);
    start(r, best, params->temperature);
    if (params->top_k == 0 && params->top_p >= 1 && params->min_p <= 0) {
        id = walk_ids(r, 0, c->draw, 0);
        return id >= 0 ? id : entry_id(best);
    }
    k = truncate_candidates(r, params, n_valid);
    return draw_sorted(r, &k, c->draw, entry_id(best));
}

/* ---- log probabilities ---- */

/* The likeliest n_top of the row as the model gave it; gives the logarithm of the softmax's denominator. */
static __device__ double top_logprobs(struct row *r, uint32_t n_top, struct eng_chosen *ret)
{
    uint64_t best = next_entry(r, UINT64_MAX), entry = best;
    struct limit l = {AT_LEAST_N, 0, 0};
    struct mass all;
    double log_sum;
    uint32_t n;

    if (best == 0)
        return 0;
    start(r, best, 1);
    all = sum_range(r, LOWEST_KEY, 0xffffffffu);
    log_sum = r->max + log(all.p);
    n = n_top < all.n ? n_top : all.n;
    l.n = n;
    search(r, &l, LOWEST_KEY, all.n); /* for the list */
    for (uint32_t i = 0; i < n_top; i++) {
        if (r->list_n >= n && r->list_high == r->max_key + 1)
            entry = i < n ? r->s->list[i] : 0;
        else if (i > 0 && entry != 0) /* more ties than the list holds */
            entry = next_entry(r, entry);
        if (threadIdx.x == 0) {
            ret->top_ids[i] = entry != 0 ? entry_id(entry) : -1;
            ret->top_logprobs[i] = entry != 0 ? (float)(r->logits[entry_id(entry)] - log_sum) : -INFINITY;
        }
    }
    __syncthreads();
    return log_sum;
}

/* Applies penalties; `given` takes what stood there before. */
static __device__ void penalise(const struct row *r, const struct gpu_choice *c, float *given)
{
    const struct eng_sampling *p = &c->params;

    for (uint32_t i = threadIdx.x; i < c->n_penalties; i += THREADS) {
        struct eng_penalty of = c->penalties[i];
        float *logit = &r->logits[of.id], v;

        if (of.id < 0 || (uint32_t)of.id >= r->n)
            continue;
        v = *logit;
        given[i] = v;
        v = v > 0 ? v / p->repetition_penalty : v * p->repetition_penalty;
        if (of.count > 0) {
            /* no fused multiply-add: the same bits as the CPU's */
            float minus = __fadd_rn(p->presence_penalty, __fmul_rn(p->frequency_penalty, (float)of.count));

            v = __fadd_rn(v, -minus);
        }
        *logit = v;
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(THREADS)
    sample_rows(float *logits, uint32_t n_vocab, const struct gpu_choice *choices, struct eng_chosen *out,
                float *workspace)
{
    __shared__ struct shared s;
    const struct gpu_choice *c = &choices[blockIdx.x];
    struct eng_chosen *ret = &out[blockIdx.x];
    float *given = workspace + (uint64_t)blockIdx.x * n_vocab;
    struct row r = {};
    double log_sum = 0;
    int32_t id;

    r.logits = logits + (uint64_t)blockIdx.x * n_vocab;
    r.n = c->n_tokens < n_vocab ? c->n_tokens : n_vocab;
    r.s = &s;
    for (uint32_t i = threadIdx.x; i < ENG_TOP_LOGPROBS_MAX; i += THREADS) {
        ret->top_ids[i] = 0;
        ret->top_logprobs[i] = 0;
    }
    __syncthreads();
    if (c->n_top > 0)
        log_sum = top_logprobs(&r, c->n_top < ENG_TOP_LOGPROBS_MAX ? c->n_top : ENG_TOP_LOGPROBS_MAX, ret);
    if (c->n_penalties > 0)
        penalise(&r, c, given);
    id = choose(&r, c);
    if (threadIdx.x == 0) {
        ret->id = id;
        ret->logprob = c->n_top > 0 && id >= 0 ? (float)(r.logits[id] - log_sum) : 0;
    }
    __syncthreads();
    if (c->n_top > 0 && id >= 0) {
        for (uint32_t i = threadIdx.x; i < c->n_penalties; i += THREADS) {
            if (c->penalties[i].id == id)
                ret->logprob = (float)(given[i] - log_sum);
        }
    }
}

uint64_t gpu_sample_workspace(uint32_t max_logits, uint32_t n_vocab)
{
    uint64_t bytes = (uint64_t)max_logits * n_vocab * sizeof(float);

    return (bytes + GPU_ALIGN - 1) / GPU_ALIGN * GPU_ALIGN;
}

void gpu_sample(gpu_stream stream, float *logits, uint32_t n, uint32_t n_vocab,
                const struct gpu_choice *choices, struct eng_chosen *out, void *workspace)
{
    if (n > 0)
        GPU_LAUNCH(sample_rows, dim3(n), dim3(THREADS), 0, stream, logits, n_vocab, choices, out,
                   (float *)workspace);
}
