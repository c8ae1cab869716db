/* Attention of a few rows over splits of the keys, on tensor cores: what the blocks of attention.cu do. Private to engine/cuda/attention.cu.
 *
 * A split of GPU_SPLIT_TOKENS keys is an online softmax from scratch, in tiles of keys; splits are merged in order, by merge() alone.
 * Keys that a row may not see add exact zeros and leave its maximum as it is; so do the rows beside it, having nothing in common
 * with it but the loaded keys. A row's bits depend on its own query and keys alone.
 *
 * Queries and probabilities are rounded to float16, probabilities scaled by 2^P_SHIFT first so that small ones keep their digits.
 */
#ifndef ENGINE_CUDA_ATTENTION_WALK_H
#define ENGINE_CUDA_ATTENTION_WALK_H

#include "engine/cuda/launch.h"

#include <math.h>

enum { WARP = 32, COL_WARPS = 4 };

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

#endif
