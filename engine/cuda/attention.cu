/* Paged causal attention. A row is one head of one token; the heads that share a KV head are rows of one tile.
 *
 * A row's result is a sum over splits of GPU_SPLIT_TOKENS keys: within a split an online softmax from scratch, in tiles of keys; then
 * the splits are merged in order, by merge() alone. Who computes which split differs, the instructions per row do not:
 *   - tokens that are alone with their sequence: an item per token and split, partial results, a kernel that merges (attend_splits);
 *   - a window of consecutive tokens of one sequence: one block walks all splits and merges as it goes (attend_windows).
 * So a row's bits depend on its own query and keys alone.
 *
 * Launches depend on n_tokens, the shape and max_context, never on positions: a block finds its work from what lies on the device.
 *
 * Float16 caches use tensor cores (attention_walk.h). Float32 caches, and heads whose size the tiles do not fit, use plain float32.
 */
#include "engine/cuda/attention_walk.h"

enum { MMA_HEAD_DIM_MAX = 256, WINDOW_ROWS = 64, WINDOW_MIN = 16 };
enum { SPLIT_THREADS = COL_WARPS * WARP, MERGE_THREADS = 128, PLAIN_THREADS = 128 };
#ifdef GPU_EMULATE /* few, so that small tests reach what lies past them */
static constexpr uint32_t SPLIT_BLOCKS_MAX = 5, SLOTS_MAX = 24;
#else
/* Most blocks of attend_splits: about as many as are at work at once on the largest devices, since each looks at every token. */
static constexpr uint32_t SPLIT_BLOCKS_MAX = 320;
/* Partial results of a call: the tokens past them are walked by one block each, with the same bits. */
static constexpr uint32_t SLOTS_MAX = 4096;
#endif

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
