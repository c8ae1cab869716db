/* Paged causal attention. A row is one head of one token; the heads that share a KV head are rows of one tile.
 *
 * A row's result is a sum over splits of GPU_SPLIT_TOKENS keys: within a split an online softmax from scratch, in tiles of keys; then
 * the splits are merged in order, by merge() alone. Who computes which split differs, the instructions per row do not:
 *   - tokens that are alone with their sequence: an item per token and split, partial results, a kernel that merges (attend_splits);
 *   - a window of consecutive tokens of one sequence: one block walks all splits and merges as it goes (attend_windows).
 * Keys that a row may not see add exact zeros and leave its maximum as it is; so do the rows beside it, having nothing in common
 * with it but the loaded keys. A row's bits depend on its own query and keys alone.
 *
 * Launches depend on n_tokens, the shape and max_context, never on positions: a block finds its work from what lies on the device.
 *
 * Float16 caches use tensor cores: queries and probabilities are rounded to float16, probabilities scaled by 2^P_SHIFT first so that
 * small ones keep their digits. Float32 caches, and heads whose size the tiles do not fit, use plain float32.
 */
#include "engine/cuda/launch.h"

#include <math.h>

enum { WARP = 32, COL_WARPS = 4, MMA_HEAD_DIM_MAX = 256, WINDOW_ROWS = 64, WINDOW_MIN = 16 };
enum { SPLIT_THREADS = COL_WARPS * WARP, MERGE_THREADS = 128, PLAIN_THREADS = 128 };
#ifdef GPU_EMULATE /* few, so that small tests reach what lies past them */
static constexpr uint32_t SPLIT_BLOCKS_MAX = 5, SLOTS_MAX = 24;
#else
/* Most blocks of attend_splits: about as many as are at work at once on the largest devices, since each looks at every token. */
static constexpr uint32_t SPLIT_BLOCKS_MAX = 320;
/* Partial results of a call: the tokens past them are walked by one block each, with the same bits. */
static constexpr uint32_t SLOTS_MAX = 4096;
#endif

static constexpr float P_SHIFT = 15;

#ifdef __CUDACC__
#define UNROLL   _Pragma("unroll")
#define UNROLL_1 _Pragma("unroll 1")
#define UNROLL_2 _Pragma("unroll 2")
#else
#define UNROLL
#define UNROLL_1
#define UNROLL_2
#endif

static constexpr uint32_t NO_SLOT = 0xffffffff;

/* What the kernels share. */
struct attend {
    const float *q;
    float *out;
    uint32_t n_heads, group, window, slots;
    float scale; /* of scores, to powers of two */
    struct gpu_kv_layer kv;
    struct gpu_step step;
    float *partial; /* [slots, n_heads, head_dim], not divided by its sum */
    float2 *stats;  /* [slots, n_heads]: reference and sum */
};

/* Adds a split (m, l) to what came before it (M, L): *ret_old and *ret_new are the factors of their values. A split without keys
 * has m = -infinity and must not come here. */
static __device__ void merge(float *M, float *L, float m, float l, float *ret_old, float *ret_new)
{
    float top = fmaxf(*M, m);

    *ret_old = exp2f(*M - top);
    *ret_new = exp2f(m - top);
    *L = fmaf(*L, *ret_old, l * *ret_new);
    *M = top;
}

static __device__ float merged(float before, float old_factor, float value, float new_factor)
{
    return fmaf(before, old_factor, value * new_factor);
}

static __device__ bool is_empty(float m)
{
    return m == -INFINITY;
}

/* True when the token's window holds tokens of one sequence only: attend_windows has it then. */
static __device__ bool in_window(const struct attend *a, uint32_t token)
{
    const struct gpu_step *st = &a->step;
    uint32_t first = token / a->window * a->window, others = 0;

    if (first + a->window > st->n_tokens)
        return false;
    for (uint32_t i = first; i < first + a->window; i++) /* to the end, so that no load waits for another */
        others |= st->sequences[i] ^ st->sequences[token];
    return others == 0;
}

/* Splits of a token that attend_splits has to do. */
static __device__ uint32_t splits_of(const struct attend *a, uint32_t token)
{
    return in_window(a, token) ? 0 : a->step.positions[token] / GPU_SPLIT_TOKENS + 1;
}

/* ---- tensor cores ---- */

/* Sizes by the head's, rounded up to what fits. COL_WARPS warps share the keys of a tile when they compute scores, and the columns
 * of the head when they mix values. */
template <int HD> struct tile {
    enum {
        KEYS = HD <= 128 ? 64 : 32,
        KEY_BLOCKS = KEYS / COL_WARPS / 8, /* of a warp */
        COL_BLOCKS = HD / COL_WARPS / 8,   /* of a warp */
        STRIDE =
            HD + 8, /* halves of a row in shared memory: an odd number of 16 bytes spares bank conflicts */
        P_STRIDE = KEYS + 8,
        STAGE = 2 * KEYS * STRIDE /* halves: keys, then values */
    };
};

template <int HD, int MT, int ROW_WARPS> struct shared_plan {
    enum {
        ROWS = 16 * MT * ROW_WARPS,
        Q = 0, /* all in bytes */
        STAGES = Q + ROWS * tile<HD>::STRIDE * 2,
        P = STAGES + 2 * tile<HD>::STAGE * 2,
        MAXIMA = P + ROWS * tile<HD>::P_STRIDE * 2,
        SUMS = MAXIMA + COL_WARPS * ROWS * 4,
        LAST = SUMS + COL_WARPS * ROWS * 4, /* position of each row's token; -1: no row */
        BYTES = LAST + ROWS * 4
    };
};

/* The rows of one tile: rows [first_row, n_rows) of (token, head in group) pairs. */
struct tile_rows {
    uint32_t token, first_row, n_rows, kv_head;
};

struct tile_keys {
    const uint32_t *pages;
    uint32_t n_keys;
};

/* Asks for keys and values [key, key + KEYS) of the sequence; past n_keys there are zeros. */
template <int HD, int THREADS>
static __device__ void load_tile(const struct attend *a, struct tile_keys keys, uint32_t kv_head,
                                 uint32_t key, uint16_t *stage)
{
    enum { CHUNKS = HD / 8, ALL = tile<HD>::KEYS * CHUNKS };
    const uint32_t hd = a->kv.head_dim;
    const uint64_t v_bytes = (uint64_t)a->kv.n_kv_heads * ENG_PAGE_TOKENS * hd * 2;

    UNROLL_2 /* more would hold the registers of too many addresses */
        for (uint32_t i = threadIdx.x; i < ALL; i += THREADS)
    {
        uint32_t row = i / CHUNKS, col = i % CHUNKS * 8, k = key + row;
        bool valid = k < keys.n_keys && col < hd;
        const uint8_t *from = a->kv.pages;
        uint16_t *to = stage + row * tile<HD>::STRIDE + col;

        if (valid)
            from += keys.pages[k / ENG_PAGE_TOKENS] * a->kv.page_stride +
                    (((uint64_t)kv_head * ENG_PAGE_TOKENS + k % ENG_PAGE_TOKENS) * hd + col) * 2;
        gpu_copy16_async(to, from, valid);
        gpu_copy16_async(to + tile<HD>::KEYS * tile<HD>::STRIDE, valid ? from + v_bytes : from, valid);
    }
    gpu_copy_commit();
}

/* Queries as float16 and positions into shared memory; gives how many keys the rows can see together. */
template <int HD, int ROWS, int THREADS>
static __device__ uint32_t load_rows(const struct attend *a, struct tile_rows r, uint16_t *q, int32_t *last)
{
    const uint32_t hd = a->kv.head_dim;
    uint32_t end = r.first_row + ROWS < r.n_rows ? r.first_row + ROWS : r.n_rows, max = 0;

    for (uint32_t i = threadIdx.x; i < ROWS * (HD / 2); i += THREADS) {
        uint32_t row = i / (HD / 2), col = i % (HD / 2) * 2, at = r.first_row + row;
        uint32_t word = 0;

        if (at < end && col < hd) {
            uint32_t head = r.kv_head * a->group + at % a->group;
            const float *from = a->q + ((uint64_t)(r.token + at / a->group) * a->n_heads + head) * hd + col;

            word = gpu_pack_f16(from[0], from[1]);
        }
        *(uint32_t *)(q + row * tile<HD>::STRIDE + col) = word;
    }
    for (uint32_t i = threadIdx.x; i < ROWS; i += THREADS) {
        uint32_t at = r.first_row + i;

        last[i] = at < end ? (int32_t)a->step.positions[r.token + at / a->group] : -1;
    }
    for (uint32_t t = r.token + r.first_row / a->group; t <= r.token + (end - 1) / a->group; t++)
        max = a->step.positions[t] > max ? a->step.positions[t] : max;
    return max + 1;
}

/* Scores of the warp's rows and keys. */
template <int HD, int MT>
static __device__ void score(const uint16_t *q, const uint16_t *k, float s[MT][tile<HD>::KEY_BLOCKS][4])
{
    enum { STRIDE = tile<HD>::STRIDE, BLOCKS = tile<HD>::KEY_BLOCKS };
    const uint32_t lane = threadIdx.x % WARP;

    UNROLL
    for (int m = 0; m < MT; m++)
        UNROLL
    for (int j = 0; j < BLOCKS; j++)
        UNROLL
    for (int e = 0; e < 4; e++)
        s[m][j][e] = 0;
    UNROLL
    for (int d = 0; d < HD;
         d += 32) { /* two steps of 16 at once: one load brings both halves of a key block */
        uint32_t b[BLOCKS][4];

        UNROLL
        for (int j = 0; j < BLOCKS; j++)
            gpu_ldmatrix_x4(b[j], k + (j * 8 + lane % 8) * STRIDE + d + lane / 8 * 8);
        UNROLL
        for (int m = 0; m < MT; m++) {
            uint32_t lo[4], hi[4];
            const uint16_t *at = q + (m * 16 + lane % 16) * STRIDE + d + lane / 16 * 8;

            gpu_ldmatrix_x4(lo, at);
            gpu_ldmatrix_x4(hi, at + 16);
            UNROLL
            for (int j = 0; j < BLOCKS; j++) {
                gpu_mma_f16(s[m][j], lo, b[j]);
                gpu_mma_f16(s[m][j], hi, b[j] + 2);
            }
        }
    }
}

/* o += P V for the warp's rows and columns. */
template <int HD, int MT>
static __device__ void mix(const uint16_t *p, const uint16_t *v, float o[MT][tile<HD>::COL_BLOCKS][4])
{
    enum { STRIDE = tile<HD>::STRIDE, P_STRIDE = tile<HD>::P_STRIDE };
    const uint32_t lane = threadIdx.x % WARP;

    UNROLL_1 /* as above */
        for (int key = 0; key < tile<HD>::KEYS; key += 32)
    {
        uint32_t lo[MT][4], hi[MT][4];

        UNROLL
        for (int m = 0; m < MT; m++) {
            const uint16_t *at = p + (m * 16 + lane % 16) * P_STRIDE + key + lane / 16 * 8;

            gpu_ldmatrix_x4(lo[m], at);
            gpu_ldmatrix_x4(hi[m], at + 16);
        }
        UNROLL
        for (int n = 0; n < tile<HD>::COL_BLOCKS; n++) {
            uint32_t b[4];

            gpu_ldmatrix_x4_trans(b, v + (key + lane) * STRIDE + n * 8);
            UNROLL
            for (int m = 0; m < MT; m++) {
                gpu_mma_f16(o[m][n], lo[m], b);
                gpu_mma_f16(o[m][n], hi[m], b + 2);
            }
        }
    }
}

/* What a thread holds of a split: values of its rows (lane / 4, and 8 below, of each 16) and columns, not divided by the sum; each
 * row's reference, which is the logarithm of what its values are scaled by; the sum over this thread's keys. */
template <int HD, int MT> struct split_sums {
    float o[MT][tile<HD>::COL_BLOCKS][4], m[MT][2], l[MT][2];
};

template <int HD, int MT> static __device__ void begin_split(struct split_sums<HD, MT> *sp)
{
    UNROLL
    for (int m = 0; m < MT; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            sp->m[m][h] = -INFINITY;
            sp->l[m][h] = 0;
        }
        UNROLL
        for (int n = 0; n < tile<HD>::COL_BLOCKS; n++)
            UNROLL
        for (int e = 0; e < 4; e++)
            sp->o[m][n][e] = 0;
    }
}

/* Hides keys that a row may not see; shares each row's maximum over this warp's keys, the first of which is `key`. */
template <int HD, int MT, int ROWS>
static __device__ void hide_and_share_maxima(float s[MT][tile<HD>::KEY_BLOCKS][4], uint32_t key, uint32_t row,
                                             const int32_t *last, float *maxima)
{
    const uint32_t lane = threadIdx.x % WARP;

    UNROLL
    for (int m = 0; m < MT; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            int32_t seen = last[row + m * 16 + h * 8] - (int32_t)(key + lane % 4 * 2);
            float max = -INFINITY;

            UNROLL
            for (int j = 0; j < tile<HD>::KEY_BLOCKS; j++) {
                UNROLL
                for (int e = 0; e < 2; e++) {
                    float *v = &s[m][j][2 * h + e];

                    *v = j * 8 + e <= seen ? *v : -INFINITY;
                    max = fmaxf(max, *v);
                }
            }
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
            if (lane % 4 == 0)
                maxima[row + m * 16 + h * 8] = max;
        }
    }
}

/* Scores to probabilities in shared memory; what the split summed so far goes down to the new maximum. p: at this warp's first key. */
template <int HD, int MT, int ROWS>
static __device__ void weigh(const float s[MT][tile<HD>::KEY_BLOCKS][4], float scale, uint32_t row,
                             const float *maxima, uint16_t *p, struct split_sums<HD, MT> *sp)
{
    const uint32_t lane = threadIdx.x % WARP;

    UNROLL
    for (int m = 0; m < MT; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            const float *of = maxima + row + m * 16 + h * 8;
            float max = fmaxf(fmaxf(of[0], of[ROWS]), fmaxf(of[2 * ROWS], of[3 * ROWS]));
            float top = fmaxf(sp->m[m][h], fmaf(max, scale, -P_SHIFT)), reference = is_empty(top) ? 0 : top;
            float factor = exp2f(sp->m[m][h] - reference), sum = 0;

            UNROLL
            for (int j = 0; j < tile<HD>::KEY_BLOCKS; j++) {
                uint32_t pair = gpu_pack_f16(exp2f(fmaf(s[m][j][2 * h], scale, -reference)),
                                             exp2f(fmaf(s[m][j][2 * h + 1], scale, -reference)));

                *(uint32_t *)(p + (row + m * 16 + h * 8) * tile<HD>::P_STRIDE + j * 8 + lane % 4 * 2) = pair;
                sum += gpu_f16_to_f32((uint16_t)(pair & 0xffff)) + gpu_f16_to_f32((uint16_t)(pair >> 16));
            }
            sp->l[m][h] = fmaf(sp->l[m][h], factor, sum);
            sp->m[m][h] = top;
            UNROLL
            for (int n = 0; n < tile<HD>::COL_BLOCKS; n++) {
                sp->o[m][n][2 * h] *= factor;
                sp->o[m][n][2 * h + 1] *= factor;
            }
        }
    }
}

/* Shares each row's sum over this warp's keys. */
template <int HD, int MT> static __device__ void share_sums(const struct split_sums<HD, MT> *sp, float *sums)
{
    UNROLL
    for (int m = 0; m < MT; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            float l = sp->l[m][h];

            l += __shfl_xor_sync(0xffffffffu, l, 1);
            l += __shfl_xor_sync(0xffffffffu, l, 2);
            if (threadIdx.x % 4 == 0)
                sums[m * 16 + h * 8] = l;
        }
    }
}

/* Where a row's values go, and the sums of a walk that goes on: reference and sum of the splits so far. */
struct row_out {
    float *values;
    float m, l;
    bool first, last; /* split of the walk */
};

/* Adds one row's split to what the walk left in `values`, and divides when it was the last. A thread reads what it wrote alone. */
template <int HD>
static __device__ void add_split(struct row_out *out, float m, float l,
                                 const float o[tile<HD>::COL_BLOCKS][4], int h, uint32_t hd)
{
    bool skip = !out->first && is_empty(m);
    float before = 1, now = 0;

    if (out->first) {
        out->m = m;
        out->l = l;
    } else if (!skip)
        merge(&out->m, &out->l, m, l, &before, &now);
    if (skip && !out->last)
        return;
    UNROLL
    for (int n = 0; n < tile<HD>::COL_BLOCKS; n++) {
        uint32_t col = threadIdx.x / WARP % COL_WARPS * (HD / COL_WARPS) + n * 8 + threadIdx.x % 4 * 2;
        float2 v = make_float2(o[n][2 * h], o[n][2 * h + 1]);

        if (col >= hd)
            continue;
        if (!out->first) {
            float2 old = *(const float2 *)(out->values + col);

            v = skip ? old : make_float2(merged(old.x, before, v.x, now), merged(old.y, before, v.y, now));
        }
        if (out->last)
            v = make_float2(v.x / out->l, v.y / out->l);
        *(float2 *)(out->values + col) = v;
    }
}

/* Attention of ROWS rows to splits [split, end_split) or as many as they can see. slot: where the result of the one split goes, not
 * divided, or NO_SLOT when the splits are all. All threads of a block come; what the item
 * before still reads when the first of them begins are its sums, which are written next after several barriers. */
template <int HD, int MT, int ROW_WARPS>
static __device__ __forceinline__ void walk(const struct attend *a, struct tile_rows r, uint32_t split,
                                            uint32_t end_split, uint32_t slot, uint8_t *shared)
{
    typedef tile<HD> T;
    typedef shared_plan<HD, MT, ROW_WARPS> S;
    enum { THREADS = ROW_WARPS * COL_WARPS * WARP, PER_SPLIT = GPU_SPLIT_TOKENS / T::KEYS };
    uint16_t *q = (uint16_t *)(shared + S::Q), *stages = (uint16_t *)(shared + S::STAGES);
    uint16_t *p = (uint16_t *)(shared + S::P);
    float *maxima = (float *)(shared + S::MAXIMA), *sums = (float *)(shared + S::SUMS);
    int32_t *last = (int32_t *)(shared + S::LAST);
    const uint32_t lane = threadIdx.x % WARP, col_warp = threadIdx.x / WARP % COL_WARPS;
    const uint32_t warp_row = threadIdx.x / WARP / COL_WARPS * (16 * MT), row = warp_row + lane / 4;
    const uint32_t key = col_warp * (T::KEYS / COL_WARPS); /* of a tile: this warp's first */
    struct split_sums<HD, MT> sp;
    float m_walk[MT][2] = {}, l_walk[MT][2] = {};
    struct tile_keys keys;
    uint32_t i, first = split * PER_SPLIT, end;

    keys.pages = a->step.page_table + (uint64_t)a->step.sequences[r.token] * a->step.pages_per_sequence;
    keys.n_keys = load_rows<HD, S::ROWS, THREADS>(a, r, q, last);
    end = (keys.n_keys + T::KEYS - 1) / T::KEYS;
    end = end < end_split * PER_SPLIT ? end : end_split * PER_SPLIT;
    load_tile<HD, THREADS>(a, keys, r.kv_head, first * T::KEYS, stages + (first & 1) * T::STAGE);
    for (i = first; i < end; i++) {
        const uint16_t *k = stages + (i & 1) * T::STAGE, *v = k + T::KEYS * T::STRIDE;
        float s[MT][T::KEY_BLOCKS][4];

        if (i % PER_SPLIT == 0)
            begin_split<HD, MT>(&sp);
        gpu_copy_wait<0>();
        __syncthreads(); /* tile i is here; tile i - 1 and what came of it is read */
        if (i + 1 < end)
            load_tile<HD, THREADS>(a, keys, r.kv_head, (i + 1) * T::KEYS, stages + ((i + 1) & 1) * T::STAGE);
        score<HD, MT>(q + warp_row * T::STRIDE, k + key * T::STRIDE, s);
        hide_and_share_maxima<HD, MT, S::ROWS>(s, i * T::KEYS + key, row, last, maxima + col_warp * S::ROWS);
        __syncthreads();
        weigh<HD, MT, S::ROWS>(s, a->scale, row, maxima, p + key, &sp);
        __syncthreads();
        mix<HD, MT>(p + warp_row * T::P_STRIDE, v + col_warp * (HD / COL_WARPS), sp.o);
        if (i % PER_SPLIT != PER_SPLIT - 1 && i + 1 != end)
            continue;
        share_sums<HD, MT>(&sp, sums + col_warp * S::ROWS + row);
        __syncthreads();
        UNROLL
        for (int m = 0; m < MT; m++) {
            UNROLL
            for (int h = 0; h < 2; h++) {
                const float *of = sums + row + m * 16 + h * 8;
                float l = (of[0] + of[S::ROWS]) + (of[2 * S::ROWS] + of[3 * S::ROWS]);
                uint32_t at = r.first_row + row + m * 16 + h * 8;
                uint32_t head = r.kv_head * a->group + at % a->group;
                bool partial = slot != NO_SLOT;
                uint64_t to = (uint64_t)(partial ? slot : r.token + at / a->group) * a->n_heads + head;
                struct row_out out = {(partial ? a->partial : a->out) + to * a->kv.head_dim, m_walk[m][h],
                                      l_walk[m][h], i < first + PER_SPLIT, !partial && i + 1 == end};

                if (at >= r.n_rows)
                    continue;
                add_split<HD>(&out, sp.m[m][h], l, sp.o[m], h, a->kv.head_dim);
                m_walk[m][h] = out.m;
                l_walk[m][h] = out.l;
                if (partial && col_warp == 0 && lane % 4 == 0)
                    a->stats[to] = make_float2(out.m, out.l);
            }
        }
    }
}

/* ends[i]: splits of tokens [first, first + i], of the SPLIT_THREADS tokens from `first` on; gives the last of them. */
static __device__ uint32_t count_splits(const struct attend *a, uint32_t first, uint32_t *ends,
                                        uint32_t *warps)
{
    const uint32_t token = first + threadIdx.x, lane = threadIdx.x % WARP;
    uint32_t n = token < a->step.n_tokens ? splits_of(a, token) : 0;

    if (__syncthreads_count(n > 0) == 0)
        return 0;
    for (uint32_t step = 1; step < WARP; step *= 2) {
        uint32_t before = __shfl_sync(0xffffffffu, n, lane >= step ? lane - step : lane);

        n += lane >= step ? before : 0;
    }
    if (lane == WARP - 1)
        warps[threadIdx.x / WARP] = n;
    __syncthreads();
    for (uint32_t w = 0; w < threadIdx.x / WARP; w++)
        n += warps[w];
    ends[threadIdx.x] = n;
    __syncthreads();
    return ends[SPLIT_THREADS - 1];
}

/* Items are (split of a token, 16 heads of a KV head's group), in token order; each block takes every gridDim.x-th. */
template <int HD> static __global__ void __launch_bounds__(SPLIT_THREADS) attend_splits(struct attend a)
{
    GPU_DYNAMIC_SHARED(uint8_t, shared);
    __shared__ uint32_t ends[SPLIT_THREADS], warps[COL_WARPS];
    const uint32_t tiles = (a.group + 15) / 16, per_split = tiles * a.kv.n_kv_heads;
    uint64_t item = blockIdx.x;
    uint32_t before = 0; /* splits of the chunks before */

    for (uint32_t first = 0; first < a.step.n_tokens; first += SPLIT_THREADS) {
        uint32_t n = count_splits(&a, first, ends, warps);

        for (; item < (uint64_t)(before + n) * per_split; item += gridDim.x) {
            uint32_t at = (uint32_t)(item / per_split) - before, tile_of = (uint32_t)(item % per_split);
            uint32_t i = 0, start, split, n_splits;
            struct tile_rows r;

            for (uint32_t step = SPLIT_THREADS / 2; step > 0; step /= 2)
                i += ends[i + step - 1] <= at ? step : 0;
            start = i > 0 ? ends[i - 1] : 0;
            n_splits = ends[i] - start;
            split = at - start;
            r.token = first + i;
            r.first_row = tile_of % tiles * 16;
            r.n_rows = a.group;
            r.kv_head = tile_of / tiles;
            if (n_splits > 1 && before + ends[i] <= a.slots)
                walk<HD, 1, 1>(&a, r, split, split + 1, before + at, shared);
            else if (split == 0)
                walk<HD, 1, 1>(&a, r, 0, n_splits, NO_SLOT, shared);
        }
        before += n;
    }
}

/* Merges what attend_splits left in parts. A block per token and head, or several heads in turn. */
static __global__ void __launch_bounds__(MERGE_THREADS) merge_splits(struct attend a)
{
    __shared__ uint32_t parts[MERGE_THREADS / WARP];
    const uint32_t token = blockIdx.x, n_splits = splits_of(&a, token), hd = a.kv.head_dim;
    uint32_t first = 0;

    if (n_splits < 2)
        return;
    for (uint32_t t = threadIdx.x; t < token; t += MERGE_THREADS)
        first += splits_of(&a, t);
    for (int step = WARP / 2; step > 0; step /= 2)
        first += __shfl_xor_sync(0xffffffffu, first, step);
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = first;
    __syncthreads();
    first = 0;
    for (uint32_t w = 0; w < MERGE_THREADS / WARP; w++)
        first += parts[w];
    if (first + n_splits > a.slots)
        return;
    for (uint32_t head = blockIdx.y; head < a.n_heads; head += gridDim.y) {
        for (uint32_t col = threadIdx.x; col < hd; col += MERGE_THREADS) {
            uint64_t at = (uint64_t)first * a.n_heads + head;
            float M = a.stats[at].x, L = a.stats[at].y, sum = a.partial[at * hd + col];

            for (uint32_t s = 1; s < n_splits; s++) {
                float2 ml;
                float before, now, value;

                at += a.n_heads;
                ml = a.stats[at];
                value = a.partial[at * hd + col];
                if (is_empty(ml.x))
                    continue;
                merge(&M, &L, ml.x, ml.y, &before, &now);
                sum = merged(sum, before, value, now);
            }
            a.out[((uint64_t)token * a.n_heads + head) * hd + col] = sum / L;
        }
    }
}

template <int HD> struct window_plan {
    enum {
        MT = HD <= 128 ? 2 : 1,
        ROW_WARPS = WINDOW_ROWS / 16 / MT,
        THREADS = ROW_WARPS * COL_WARPS * WARP
    };
};

/* blockIdx.x: (window, tile of its rows), the last first: they take longest. blockIdx.y: KV head. */
template <int HD>
static __global__ void __launch_bounds__(window_plan<HD>::THREADS, HD <= 128 ? 2 : 1)
    attend_windows(struct attend a)
{
    GPU_DYNAMIC_SHARED(uint8_t, shared);
    const uint32_t rows = a.window * a.group, tiles = (rows + WINDOW_ROWS - 1) / WINDOW_ROWS;
    const uint32_t at = gridDim.x - 1 - blockIdx.x;
    struct tile_rows r;

    r.token = at / tiles * a.window;
    r.first_row = at % tiles * WINDOW_ROWS;
    r.n_rows = rows;
    r.kv_head = blockIdx.y;
    if (in_window(&a, r.token))
        walk<HD, window_plan<HD>::MT, window_plan<HD>::ROW_WARPS>(&a, r, 0, UINT32_MAX / GPU_SPLIT_TOKENS,
                                                                  NO_SLOT, shared);
}

/* ---- plain float32 ---- */

template <typename value> static __device__ float as_f32(value v);
template <> __device__ float as_f32<float>(float v)
{
    return v;
}
template <> __device__ float as_f32<uint16_t>(uint16_t v)
{
    return gpu_f16_to_f32(v);
}

/* The block's maximum or sum, the same in all threads; `parts` holds a value per warp. */
static __device__ float block_fold(float v, bool sum, float *parts)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, v, step);

        v = sum ? v + other : fmaxf(v, other);
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = v;
    __syncthreads();
    v = parts[0];
    for (int w = 1; w < PLAIN_THREADS / WARP; w++)
        v = sum ? v + parts[w] : fmaxf(v, parts[w]);
    return v;
}

/* A block per token and head walks the splits: a thread per key for the scores, a thread per column for the mix. */
template <typename value>
static __global__ void __launch_bounds__(PLAIN_THREADS) attend_plain(struct attend a)
{
    enum { PER_THREAD = GPU_SPLIT_TOKENS / PLAIN_THREADS, COLS = ENG_HEAD_DIM_MAX / PLAIN_THREADS };
    __shared__ float q[ENG_HEAD_DIM_MAX], p[GPU_SPLIT_TOKENS], parts[PLAIN_THREADS / WARP];
    const uint32_t token = blockIdx.x, head = blockIdx.y, hd = a.kv.head_dim;
    const uint32_t n_keys = a.step.positions[token] + 1;
    const uint32_t *pages = a.step.page_table + (uint64_t)a.step.sequences[token] * a.step.pages_per_sequence;
    const uint64_t row = ((uint64_t)token * a.n_heads + head) * hd;
    const uint64_t of_head = (uint64_t)(head / a.group) * ENG_PAGE_TOKENS * hd;
    const uint64_t of_values = of_head + (uint64_t)a.kv.n_kv_heads * ENG_PAGE_TOKENS * hd;
    float all[COLS] = {0}, M = 0, L = 0;

    for (uint32_t i = threadIdx.x; i < hd; i += PLAIN_THREADS)
        q[i] = a.q[row + i];
    for (uint32_t first = 0; first < n_keys; first += GPU_SPLIT_TOKENS) {
        uint32_t n = n_keys - first < GPU_SPLIT_TOKENS ? n_keys - first : GPU_SPLIT_TOKENS;
        float scores[PER_THREAD], max = -INFINITY, sum = 0, before = 0, now = 1;

        __syncthreads(); /* the queries are here, the probabilities before are read */
        for (uint32_t j = 0; j < PER_THREAD; j++) {
            uint32_t key = first + j * PLAIN_THREADS + threadIdx.x;
            float dot = 0;

            scores[j] = -INFINITY;
            if (key >= n_keys)
                continue;
            const value *k = (const value *)(a.kv.pages + pages[key / ENG_PAGE_TOKENS] * a.kv.page_stride) +
                             of_head + key % ENG_PAGE_TOKENS * hd;
            for (uint32_t i = 0; i < hd; i++)
                dot = fmaf(q[i], as_f32<value>(k[i]), dot);
            scores[j] = dot * a.scale;
            max = fmaxf(max, scores[j]);
        }
        max = block_fold(max, false, parts);
        for (uint32_t j = 0; j < PER_THREAD; j++) {
            float e = exp2f(scores[j] - max);

            p[j * PLAIN_THREADS + threadIdx.x] = e;
            sum += e;
        }
        sum = block_fold(sum, true, parts); /* its barriers show the probabilities to all */
        if (first > 0)
            merge(&M, &L, max, sum, &before, &now);
        else {
            M = max;
            L = sum;
        }
        for (uint32_t j = 0, col = threadIdx.x; j < COLS && col < hd; j++, col += PLAIN_THREADS) {
            float mixed = 0;

            for (uint32_t i = 0; i < n; i++) {
                uint32_t key = first + i;
                const value *v =
                    (const value *)(a.kv.pages + pages[key / ENG_PAGE_TOKENS] * a.kv.page_stride) +
                    of_values + key % ENG_PAGE_TOKENS * hd;

                mixed = fmaf(p[i], as_f32<value>(v[col]), mixed);
            }
            all[j] = first > 0 ? merged(all[j], before, mixed, now) : mixed;
        }
    }
    for (uint32_t j = 0, col = threadIdx.x; j < COLS && col < hd; j++, col += PLAIN_THREADS)
        a.out[row + col] = all[j] / L;
}

/* ---- launches ---- */

static uint32_t slots_of(uint32_t n_tokens, uint32_t max_context)
{
    uint64_t n_splits = (max_context + GPU_SPLIT_TOKENS - 1) / GPU_SPLIT_TOKENS, all = n_splits * n_tokens;

    return n_splits < 2 ? 0 : all < SLOTS_MAX ? (uint32_t)all : SLOTS_MAX;
}

static uint64_t stats_bytes(uint32_t slots, uint32_t n_heads)
{
    uint64_t bytes = (uint64_t)slots * n_heads * sizeof(float2);

    return (bytes + GPU_ALIGN - 1) / GPU_ALIGN * GPU_ALIGN;
}

uint64_t gpu_attention_workspace(uint32_t max_tokens, uint32_t max_context, uint32_t n_heads,
                                 uint32_t head_dim)
{
    uint32_t slots = slots_of(max_tokens, max_context);
    uint64_t bytes = (uint64_t)slots * n_heads * head_dim * sizeof(float);

    return stats_bytes(slots, n_heads) + (bytes + GPU_ALIGN - 1) / GPU_ALIGN * GPU_ALIGN;
}

/* Tokens of a window: enough for whole tiles of rows. */
static uint32_t window_of(uint32_t group)
{
    uint32_t window = WINDOW_ROWS;

    while (window > WINDOW_MIN && window / 2 * group >= WINDOW_ROWS)
        window /= 2;
    return window;
}

template <int HD> static void launch(gpu_stream stream, const struct attend *a, uint32_t max_context)
{
    uint32_t n = a->step.n_tokens, n_windows = n / a->window;
    uint64_t n_splits = (max_context + GPU_SPLIT_TOKENS - 1) / GPU_SPLIT_TOKENS;
    uint64_t items = n_splits * n * ((a->group + 15) / 16) * a->kv.n_kv_heads;
    size_t bytes = shared_plan<HD, 1, 1>::BYTES;

    gpu_allow_shared(attend_splits<HD>, bytes);
    GPU_LAUNCH(attend_splits<HD>, dim3(items < SPLIT_BLOCKS_MAX ? (uint32_t)items : SPLIT_BLOCKS_MAX),
               dim3(SPLIT_THREADS), bytes, stream, *a);
    if (n_splits > 1)
        GPU_LAUNCH(merge_splits, dim3(n, n <= 64 ? a->n_heads : a->kv.n_kv_heads), dim3(MERGE_THREADS), 0,
                   stream, *a);
    if (n_windows > 0) {
        uint32_t tiles = (a->window * a->group + WINDOW_ROWS - 1) / WINDOW_ROWS;

        bytes = shared_plan<HD, window_plan<HD>::MT, window_plan<HD>::ROW_WARPS>::BYTES;
        gpu_allow_shared(attend_windows<HD>, bytes);
        GPU_LAUNCH(attend_windows<HD>, dim3(n_windows * tiles, a->kv.n_kv_heads),
                   dim3(window_plan<HD>::THREADS), bytes, stream, *a);
    }
}

void gpu_attention(gpu_stream stream, const float *q, float *out, uint32_t n_heads,
                   const struct gpu_kv_layer *kv, const struct gpu_step *step, uint32_t max_context,
                   void *workspace)
{
    struct attend a = {};

    if (step->n_tokens == 0)
        return;
    a.q = q;
    a.out = out;
    a.n_heads = n_heads;
    a.group = n_heads / kv->n_kv_heads;
    a.window = window_of(a.group);
    a.slots = slots_of(step->n_tokens, max_context);
    a.scale = (float)(1.4426950408889634 / sqrt((double)kv->head_dim));
    a.kv = *kv;
    a.step = *step;
    a.stats = (float2 *)workspace;
    a.partial = (float *)((uint8_t *)workspace + stats_bytes(a.slots, n_heads));
    if (kv->type == ENG_F32)
        GPU_LAUNCH(attend_plain<float>, dim3(step->n_tokens, n_heads), dim3(PLAIN_THREADS), 0, stream, a);
    else if (kv->head_dim % 8 != 0 || kv->head_dim > MMA_HEAD_DIM_MAX)
        GPU_LAUNCH(attend_plain<uint16_t>, dim3(step->n_tokens, n_heads), dim3(PLAIN_THREADS), 0, stream, a);
    else if (kv->head_dim <= 64)
        launch<64>(stream, &a, max_context);
    else if (kv->head_dim <= 96)
        launch<96>(stream, &a, max_context);
    else if (kv->head_dim <= 128)
        launch<128>(stream, &a, max_context);
    else if (kv->head_dim <= 192)
        launch<192>(stream, &a, max_context);
    else
        launch<256>(stream, &a, max_context);
}
