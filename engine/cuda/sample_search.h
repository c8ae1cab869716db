/* Places in the order of a row's candidates: where a count or a mass crosses a limit. Private to engine/cuda/sample.cu.
 *
 * The order of candidates is by logit, ties by id. Nothing sorts a vocabulary: search() closes in on a place by halving the range of
 * keys (logits as ordered integers), until what is left in the range fits into shared memory, where it is sorted and summed up. The
 * first try is close under the maximum, which is enough for most rows; what was sorted once serves the searches that follow. When
 * more candidates than fit share one logit, they are counted by id instead.
 *
 * Sums are double, and in an order that the row alone fixes. Logits are read from memory in each pass: a row of 128 thousand stays in
 * the second-level cache.
 */
#ifndef ENGINE_CUDA_SAMPLE_SEARCH_H
#define ENGINE_CUDA_SAMPLE_SEARCH_H

#include "engine/cuda/launch.h"

#include <math.h>

#ifdef GPU_EMULATE
enum { THREADS = 64, LIST_MAX = 128 }; /* small, so that small rows go all the ways that large ones do */
#else
enum { THREADS = 1024, LIST_MAX = 2048 };
#endif
enum { WARP = 32, WARPS = THREADS / WARP, PER_THREAD = LIST_MAX / THREADS };
enum { ALL_TIES = 0xffffffff, LOWEST_KEY = 1 };

/* What a pass adds up: how many, and sum of exp((logit - max) / temperature). */
struct mass {
    uint32_t n;
    double p;
};

struct shared {
    double parts_p[WARPS], warp_p[WARPS];
    uint32_t parts_n[WARPS];
    uint64_t parts_key[WARPS];
    /* The list: candidates with keys of [list_low, list_high), sorted, and the mass up to each. */
    uint64_t list[LIST_MAX];
    double upto[LIST_MAX];
    uint32_t n_list, index;
    int32_t id;
};

/* A row and what all threads know of it. */
struct row {
    float *logits;
    uint32_t n;
    double max, per_temperature;
    uint32_t max_key, hint_key; /* the key to try first */
    uint32_t list_low, list_high, list_n;
    struct mass above_list;
    struct shared *s;
};

/* Ordered like logits; 0 for what is never chosen: NaN and -infinity. */
static __device__ uint32_t key_of(float logit)
{
    union {
        float f;
        uint32_t u;
    } bits;

    if (!(logit > -INFINITY))
        return 0;
    bits.f = logit == 0 ? 0 : logit; /* -0 ties with 0 */
    return bits.u >> 31 ? ~bits.u : bits.u | 0x80000000u;
}

static __device__ float logit_of(uint32_t key)
{
    union {
        uint32_t u;
        float f;
    } bits;

    bits.u = key >> 31 ? key & 0x7fffffffu : ~key;
    return bits.f;
}

/* Sorts by key, largest first, then by id, smallest first. */
static __device__ uint64_t entry_of(uint32_t key, uint32_t id)
{
    return (uint64_t)key << 32 | (uint32_t)~id;
}

static __device__ uint32_t entry_key(uint64_t entry)
{
    return (uint32_t)(entry >> 32);
}

static __device__ int32_t entry_id(uint64_t entry)
{
    return (int32_t) ~(uint32_t)entry;
}

static __device__ double p_of(const struct row *r, float logit)
{
    return exp(((double)logit - r->max) * r->per_temperature);
}

/* ---- over the block ---- */

static __device__ struct mass block_sum(struct shared *s, struct mass v)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        v.n += __shfl_xor_sync(0xffffffffu, v.n, step);
        v.p += __shfl_xor_sync(0xffffffffu, v.p, step);
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) {
        s->parts_n[threadIdx.x / WARP] = v.n;
        s->parts_p[threadIdx.x / WARP] = v.p;
    }
    __syncthreads();
    v.n = 0;
    v.p = 0;
    for (int w = 0; w < WARPS; w++) {
        v.n += s->parts_n[w];
        v.p += s->parts_p[w];
    }
    return v;
}

static __device__ uint64_t block_max(struct shared *s, uint64_t v)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, (unsigned long long)v, step);

        v = other > v ? other : v;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        s->parts_key[threadIdx.x / WARP] = v;
    __syncthreads();
    v = s->parts_key[0];
    for (int w = 1; w < WARPS; w++)
        v = s->parts_key[w] > v ? s->parts_key[w] : v;
    return v;
}

/* The first entry after `before` in the order of candidates; 0 when there is none. */
static __device__ uint64_t next_entry(const struct row *r, uint64_t before)
{
    uint64_t best = 0;

    for (uint32_t i = threadIdx.x; i < r->n; i += THREADS) {
        uint32_t key = key_of(r->logits[i]);
        uint64_t entry = entry_of(key, i);

        if (key != 0 && entry < before && entry > best)
            best = entry;
    }
    return block_max(r->s, best);
}

/* Of keys [low, high). */
static __device__ struct mass sum_range(const struct row *r, uint32_t low, uint32_t high)
{
    struct mass v = {0, 0};

    for (uint32_t i = threadIdx.x; i < r->n; i += THREADS) {
        float logit = r->logits[i];
        uint32_t key = key_of(logit);

        if (key >= low && key < high) {
            v.n++;
            v.p += p_of(r, logit);
        }
    }
    return block_sum(r->s, v);
}

/* In the order of ids: the first id where the sum of weights passes `limit`, or -1. Weights are p, or with tie_key 1 for that key. Each
 * warp sums a stretch of the row; then the warp in whose stretch the limit lies goes through it again. */
static __device__ double id_weight(const struct row *r, uint32_t i, uint32_t end, uint32_t tie_key)
{
    float logit = i < end ? r->logits[i] : -INFINITY;
    uint32_t key = key_of(logit);

    if (tie_key != 0)
        return key == tie_key;
    return key != 0 ? p_of(r, logit) : 0;
}

static __device__ int32_t walk_ids(const struct row *r, uint32_t tie_key, double share, double limit)
{
    struct shared *s = r->s;
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const uint32_t stretch = (r->n + WARPS * WARP - 1) / (WARPS * WARP) * WARP;
    uint32_t begin = warp * stretch, end = begin + stretch < r->n ? begin + stretch : r->n;
    double sum = 0;

    for (uint32_t i = begin + lane; i < end; i += WARP)
        sum += id_weight(r, i, end, tie_key);
    for (int step = WARP / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    __syncthreads();
    if (lane == 0)
        s->warp_p[warp] = sum;
    if (threadIdx.x == 0)
        s->id = -1;
    __syncthreads();
    if (share > 0) { /* of the whole, which is known now */
        limit = 0;
        for (uint32_t w = 0; w < WARPS; w++)
            limit += s->warp_p[w];
        limit *= share;
    }
    sum = 0;
    for (uint32_t w = 0; w < warp; w++)
        sum += s->warp_p[w];
    if (sum <= limit && sum + s->warp_p[warp] > limit) {
        int32_t last = -1; /* for rounding: the stretch summed up one by one may be a crumb short */
        bool found = false;

        for (uint32_t i = begin; i < end && !found; i += WARP) {
            double own = id_weight(r, i + lane, end, tie_key), upto = own;
            uint32_t some, over;

            for (uint32_t step = 1; step < WARP; step *= 2) {
                double before = __shfl_sync(0xffffffffu, upto, lane >= step ? lane - step : lane);

                upto += lane >= step ? before : 0;
            }
            some = __ballot_sync(0xffffffffu, own > 0);
            over = __ballot_sync(0xffffffffu, own > 0 && sum + upto > limit);
            if (some != 0)
                last = (int32_t)(i + WARP - 1 - (uint32_t)__clz((int)some));
            if (over != 0) {
                last = (int32_t)(i + (uint32_t)__ffs((int)over) - 1);
                found = true;
            }
            sum += __shfl_sync(0xffffffffu, upto, WARP - 1);
        }
        if (lane == 0)
            s->id = last;
    }
    __syncthreads();
    return s->id;
}

/* ---- search ---- */

enum limit_kind { AT_LEAST_N, AT_LEAST_P, MORE_THAN_P };

struct limit {
    enum limit_kind kind;
    uint32_t n;
    double p;
};

static __device__ bool reaches(const struct limit *l, uint32_t n, double p)
{
    return l->kind == AT_LEAST_N ? n >= l->n : l->kind == AT_LEAST_P ? p >= l->p : p > l->p;
}

/* Where the prefix of candidates that ends with (key, tie) is the first to reach a limit. */
struct place {
    uint32_t key, tie, n_ties; /* tie: how many of the same key come before it */
    struct mass before;        /* of larger keys */
    int32_t id;                /* -1: one among more ties than the list holds; walk_ids tells */
};

/* Bitonic; a power of two from n on, filled with 0, which sorts last. */
static __device__ void sort_list(struct shared *s, uint32_t n)
{
    uint32_t size = 2;

    while (size < n)
        size *= 2;
    for (uint32_t i = n + threadIdx.x; i < size; i += THREADS)
        s->list[i] = 0;
    for (uint32_t run = 2; run <= size; run *= 2) {
        for (uint32_t gap = run / 2; gap > 0; gap /= 2) {
            __syncthreads();
            for (uint32_t t = threadIdx.x; t < size / 2; t += THREADS) {
                uint32_t i = t / gap * (2 * gap) + t % gap;
                uint64_t a = s->list[i], b = s->list[i + gap];

                if ((a < b) == ((i & run) == 0)) {
                    s->list[i] = b;
                    s->list[i + gap] = a;
                }
            }
        }
    }
    __syncthreads();
}

/* Fills the list with keys [low, high), which are at most LIST_MAX. */
static __device__ void make_list(struct row *r, uint32_t low, uint32_t high, struct mass above)
{
    struct shared *s = r->s;
    const uint32_t first = threadIdx.x * PER_THREAD, lane = threadIdx.x % WARP;
    double own[PER_THREAD], sum = 0, upto, before;

    __syncthreads();
    if (threadIdx.x == 0)
        s->n_list = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < r->n; i += THREADS) {
        uint32_t key = key_of(r->logits[i]);

        if (key >= low && key < high)
            s->list[atomicAdd(&s->n_list, 1u)] = entry_of(key, i);
    }
    __syncthreads();
    r->list_low = low;
    r->list_high = high;
    r->list_n = s->n_list;
    r->above_list = above;
    sort_list(s, r->list_n);
    for (uint32_t i = 0; i < PER_THREAD; i++) {
        own[i] = first + i < r->list_n ? p_of(r, logit_of(entry_key(s->list[first + i]))) : 0;
        sum += own[i];
    }
    upto = sum;
    for (uint32_t step = 1; step < WARP; step *= 2) {
        double left = __shfl_sync(0xffffffffu, upto, lane >= step ? lane - step : lane);

        upto += lane >= step ? left : 0;
    }
    if (lane == WARP - 1)
        s->warp_p[threadIdx.x / WARP] = upto;
    before = __shfl_sync(0xffffffffu, upto, lane > 0 ? lane - 1 : 0);
    __syncthreads();
    sum = above.p;
    for (uint32_t w = 0; w < threadIdx.x / WARP; w++)
        sum += s->warp_p[w];
    sum += lane > 0 ? before : 0;
    for (uint32_t i = 0; i < PER_THREAD; i++) {
        sum += own[i];
        s->upto[first + i] = sum;
    }
    __syncthreads();
}

static __device__ double upto_before(const struct row *r, uint32_t index)
{
    return index > 0 ? r->s->upto[index - 1] : r->above_list.p;
}

/* How many entries of the list come before `entry`. */
static __device__ uint32_t larger_than(const struct row *r, uint64_t entry)
{
    uint32_t first = 0, n = r->list_n;

    while (n > 0) {
        uint32_t half = n / 2;

        if (r->s->list[first + half] > entry) {
            first += half + 1;
            n -= half + 1;
        } else
            n = half;
    }
    return first;
}

/* The place in the list; where rounding keeps the limit from being reached, the last candidate that can be chosen. */
static __device__ struct place place_in_list(struct row *r, const struct limit *l)
{
    struct shared *s = r->s;
    struct place at;
    uint32_t index, first;

    __syncthreads();
    if (threadIdx.x == 0)
        s->index = r->list_n;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < r->list_n; i += THREADS) {
        if (reaches(l, r->above_list.n + i + 1, s->upto[i]) &&
            (l->kind != MORE_THAN_P || p_of(r, logit_of(entry_key(s->list[i]))) > 0))
            atomicMin(&s->index, i);
    }
    __syncthreads();
    index = s->index;
    if (index == r->list_n) {
        index--;
        while (index > 0 && l->kind == MORE_THAN_P && p_of(r, logit_of(entry_key(s->list[index]))) <= 0)
            index--;
    }
    at.key = entry_key(s->list[index]);
    first = larger_than(r, entry_of(at.key, 0));
    at.n_ties = larger_than(r, entry_of(at.key - 1, 0)) - first;
    at.tie = index - first;
    at.before.n = r->above_list.n + first;
    at.before.p = upto_before(r, first);
    at.id = entry_id(s->list[index]);
    return at;
}

/* n: how many keys there are from `low` on; they reach the limit. */
static __device__ struct place search(struct row *r, const struct limit *l, uint32_t low, uint32_t n)
{
    uint32_t high = r->max_key + 1, mid = r->hint_key; /* n is that of [low, high) */
    struct mass above = {0, 0};
    struct place at;

    if (r->list_n > 0 && r->list_high == high && reaches(l, r->list_n, r->s->upto[r->list_n - 1]))
        return place_in_list(r, l);
    while (n > LIST_MAX && high - low > 1) {
        struct mass upper;

        if (mid <= low || mid >= high)
            mid = low + (high - low) / 2;
        upper = sum_range(r, mid, high);
        if (reaches(l, above.n + upper.n, above.p + upper.p)) {
            low = mid;
            n = upper.n;
        } else {
            high = mid;
            above.n += upper.n;
            above.p += upper.p;
            n -= upper.n;
        }
        mid = low + (high - low) / 2;
    }
    if (n <= LIST_MAX) {
        make_list(r, low, high, above);
        return place_in_list(r, l);
    }
    at.key = low; /* more ties than the list holds */
    at.before = above;
    at.id = -1;
    at.n_ties = n;
    if (l->kind == AT_LEAST_N)
        at.tie = l->n - above.n - 1;
    else {
        double ties = (l->p - above.p) / p_of(r, logit_of(low));

        ties = l->kind == AT_LEAST_P ? ceil(ties) - 1 : floor(ties);
        at.tie = !(ties > 0) ? 0 : ties < n - 1 ? (uint32_t)ties : n - 1;
    }
    return at;
}

#endif
