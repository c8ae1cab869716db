/* Matmul and embed: which kernel, the rounding of activations, and F32. All other formats are in matmul_formats.h, their kernels in matmul_kernels.h. */
#include "engine/cuda/matmul.h"

enum { WARP = 32, ROUND_THREADS = 256, F32_WARPS = 8, F32_CHUNK = 256, F32_TOKENS = 8 };

static uint64_t padded(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- activations as operand B ----
 *
 * BF16 weights: a sum of two bf16, which have the range of float32: 16 bits, where one would leave 8. All others: a row is multiplied by the power of two that brings its
 * largest value into [512, 1024), then rounded to f16: exact but for the rounding, nothing overflows, not the sum of 32 values either,
 * and what is 2^-24 of the largest still has 11 bits. The result is multiplied by the inverse. A row of infinities or NaNs keeps them. */

static __device__ float warp_max(float v)
{
    for (int step = WARP / 2; step > 0; step /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

static __device__ uint32_t scale_exponent(float largest)
{
    uint32_t e = __float_as_uint(largest) >> 23;

    if (largest == 0 || e == 255)
        return 127;
    return e < 10 ? 253 : 263 - e;
}

/* What rounding left; nothing of an infinity. */
static __device__ float rest(float v, uint16_t rounded)
{
    float r = v - gpu_bf16_to_f32(rounded);

    return fabsf(r) <= 3e38f ? r : 0;
}

/* A block per token. */
template <bool BF16>
static __global__ void __launch_bounds__(ROUND_THREADS)
    round_rows(const float *__restrict__ x, uint32_t cols, uint32_t k_pad, uint4 *__restrict__ values,
               uint64_t part, uint2 *__restrict__ sums, float *__restrict__ unscale)
{
    __shared__ float largest[ROUND_THREADS / WARP];
    uint32_t token = blockIdx.x, tile = token / MM_TOKENS, g = token % MM_TOKENS, field = 127;
    const float *row = x + (uint64_t)token * cols;
    uint16_t *sum_halves = (uint16_t *)(sums + (uint64_t)tile * (k_pad / MM_GROUP) * WARP);
    float max = 0, scale;

    if (!BF16) {
        for (uint32_t k = threadIdx.x; k < cols; k += ROUND_THREADS)
            max = fmaxf(max, fabsf(row[k]));
        max = warp_max(max);
        if (threadIdx.x % WARP == 0)
            largest[threadIdx.x / WARP] = max;
        __syncthreads();
        for (uint32_t i = 0; i < ROUND_THREADS / WARP; i++)
            max = fmaxf(max, largest[i]);
        field = scale_exponent(max);
    }
    scale = __uint_as_float(field << 23);
    if (threadIdx.x == 0)
        unscale[token] = __uint_as_float((254 - field) << 23);
    /* Four threads to 32 columns: the lanes 4 g + t of the fragment. k_pad / 8 is a multiple of the warp. */
    for (uint32_t i = threadIdx.x; i < k_pad / 8; i += ROUND_THREADS) {
        uint32_t b = i / 4, t = i % 4, packed[4], low[4] = {0, 0, 0, 0};
        uint4 *at;
        float sum = 0;

        for (uint32_t j = 0; j < 4; j++) {
            uint32_t k = b * 32 + j * 8 + 2 * t;
            float lo = k < cols ? row[k] * scale : 0, hi = k + 1 < cols ? row[k + 1] * scale : 0;

            if (BF16) {
                packed[j] = gpu_pack_bf16(lo, hi);
                low[j] = gpu_pack_bf16(rest(lo, (uint16_t)packed[j]), rest(hi, (uint16_t)(packed[j] >> 16)));
                continue;
            }
            packed[j] = gpu_pack_f16(lo, hi);
            sum += gpu_f16_to_f32((uint16_t)packed[j]);
            sum += gpu_f16_to_f32((uint16_t)(packed[j] >> 16));
        }
        at = values + ((uint64_t)tile * (k_pad / 32) + b) * WARP + g * 4 + t;
        *at = make_uint4(packed[0], packed[1], packed[2], packed[3]);
        if (BF16) {
            at[part] = make_uint4(low[0], low[1], low[2], low[3]);
            continue;
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (t == 0) {
            uint16_t high = gpu_f32_to_f16(sum),
                     *to = sum_halves + ((b / 8 * WARP + g * 4 + b % 8 / 2) * 4 + b % 2);

            to[0] = high;
            to[2] = gpu_f32_to_f16(sum - gpu_f16_to_f32(high));
        }
    }
}

static struct mm_x place_x(void *workspace, uint32_t n, uint32_t cols)
{
    uint64_t tiles = padded(n, MM_TOKENS) / MM_TOKENS, k_pad = padded(cols, MM_GROUP);
    uint8_t *at = (uint8_t *)workspace;
    struct mm_x x;

    x.values = (const uint4 *)at;
    x.part = tiles * k_pad / 32 * WARP;
    at += 2 * x.part * sizeof(uint4);
    x.sums = (const uint2 *)at;
    at += tiles * k_pad / MM_GROUP * WARP * sizeof(uint2);
    x.unscale = (const float *)at;
    x.n = n;
    x.k_pad = (uint32_t)k_pad;
    return x;
}

uint64_t gpu_matmul_workspace(uint32_t max_tokens, uint32_t max_rows, uint32_t max_cols, uint32_t max_logits,
                              uint32_t n_vocab)
{
    uint32_t n = max_tokens > max_logits ? max_tokens : max_logits;
    struct mm_x x = place_x(NULL, n, max_cols);

    (void)max_rows; /* sums of splits meet in shared memory */
    (void)n_vocab;
    return padded((uint64_t)(uintptr_t)x.unscale + (uint64_t)n * sizeof(float), GPU_ALIGN);
}

static void round_x(gpu_stream stream, bool bf16, const float *x, uint32_t cols, const struct mm_x *to)
{
    void (*kernel)(const float *, uint32_t, uint32_t, uint4 *, uint64_t, uint2 *, float *) =
        bf16 ? round_rows<true> : round_rows<false>;

    GPU_LAUNCH(kernel, to->n, ROUND_THREADS, 0, stream, x, cols, to->k_pad, (uint4 *)to->values, to->part,
               (uint2 *)to->sums, (float *)to->unscale);
}

/* ---- F32: float32 all through; for small matrices, and for files that hold nothing else ----
 *
 * A block takes 8 rows, one per warp, and 8 tokens; a lane sums every 32nd four columns, then the lanes are added up as a tree. */

static __global__ void __launch_bounds__(F32_WARPS *WARP)
    matmul_f32(const float *__restrict__ w, const float *__restrict__ x, uint32_t n, uint32_t cols,
               struct mm_one one)
{
    alignas(16) __shared__ float chunk[F32_TOKENS][F32_CHUNK];
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.x * F32_WARPS + warp;
    uint32_t token0 = blockIdx.y * F32_TOKENS, stride = (cols + MM_F32_COLS - 1) / MM_F32_COLS * MM_F32_COLS;
    float sum[F32_TOKENS];

    for (uint32_t i = 0; i < F32_TOKENS; i++)
        sum[i] = 0;
    for (uint32_t k0 = 0; k0 < stride; k0 += F32_CHUNK) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < F32_TOKENS * F32_CHUNK; i += F32_WARPS * WARP) {
            uint32_t token = token0 + i / F32_CHUNK, k = k0 + i % F32_CHUNK;

            chunk[i / F32_CHUNK][i % F32_CHUNK] = token < n && k < cols ? x[(uint64_t)token * cols + k] : 0;
        }
        __syncthreads();
        for (uint32_t k = lane * 4; k < F32_CHUNK && k0 + k < stride && row < one.rows; k += WARP * 4) {
            float4 a = *(const float4 *)(w + (uint64_t)row * stride + k0 + k);

#pragma unroll
            for (uint32_t i = 0; i < F32_TOKENS; i++) {
                float4 b = *(const float4 *)&chunk[i][k];

                sum[i] = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum[i]))));
            }
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < F32_TOKENS; i++) {
        for (int step = WARP / 2; step > 0; step /= 2)
            sum[i] = __fadd_rn(sum[i], __shfl_xor_sync(0xffffffffu, sum[i], step));
        if (lane == i && row < one.rows && token0 + i < n) {
            float *out = one.out + (uint64_t)(token0 + i) * one.rows + row, v = sum[i];

            if (one.bias != NULL)
                v = __fadd_rn(v, one.bias[row]);
            *out = one.accumulate ? __fadd_rn(*out, v) : v;
        }
    }
}

static __global__ void embed_f32(const float *__restrict__ w, const int32_t *__restrict__ ids, uint32_t cols,
                                 float *__restrict__ out)
{
    uint32_t stride = (cols + MM_F32_COLS - 1) / MM_F32_COLS * MM_F32_COLS;

    for (uint32_t k = threadIdx.x; k < cols; k += blockDim.x)
        out[(uint64_t)blockIdx.x * cols + k] = w[(uint64_t)(uint32_t)ids[blockIdx.x] * stride + k];
}

/* ---- which ---- */

static struct mm_one one_of(const struct gpu_matmul *mm)
{
    return mm_one{mm->w->data, mm->bias, mm->out, mm->w->rows, mm->accumulate};
}

static void launch(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call)
{
    if (type == ENG_F16 || type == ENG_BF16)
        mm_launch_16(stream, type, path, call);
    else if (mm_layout_of(type).k == MM_GROUP)
        mm_launch_k(stream, type, path, call);
    else
        mm_launch_q(stream, type, path, call);
}

/* All weights whose activations are rounded alike: together those of one format and one number of splits. */
static void launch_rounded(gpu_stream stream, enum mm_path path, const struct mm_x *x,
                           const struct gpu_matmul *mms, uint32_t n_mms, bool bf16)
{
    bool done[ENG_MATMULS_MAX] = {};

    for (uint32_t i = 0; i < n_mms; i++) {
        enum eng_type type = mms[i].w->type;
        uint32_t units = mm_units(type, mms[i].w->cols), splits = mm_splits(mms[i].w->rows, units);
        struct mm_call call = {};

        if (done[i] || type == ENG_F32 || (type == ENG_BF16) != bf16)
            continue;
        call.units = units;
        call.splits = splits;
        call.x = *x;
        for (uint32_t j = i; j < n_mms; j++)
            if (mms[j].w->type == type && mm_splits(mms[j].w->rows, units) == splits) {
                call.one[call.n_ones++] = one_of(&mms[j]);
                done[j] = true;
            }
        launch(stream, type, path, &call);
    }
}

void gpu_matmul_by(gpu_stream stream, enum mm_path path, const float *x, uint32_t n,
                   const struct gpu_matmul *mms, uint32_t n_mms, void *workspace)
{
    bool any[2] = {false, false};
    struct mm_x to;

    if (n == 0 || n_mms == 0)
        return;
    to = place_x(workspace, n, mms[0].w->cols);
    for (uint32_t i = 0; i < n_mms; i++) {
        const struct gpu_weight *w = mms[i].w;

        if (w->type == ENG_F32)
            GPU_LAUNCH(matmul_f32,
                       dim3((w->rows + F32_WARPS - 1) / F32_WARPS, (n + F32_TOKENS - 1) / F32_TOKENS),
                       F32_WARPS * WARP, 0, stream, (const float *)w->data, x, n, w->cols, one_of(&mms[i]));
        else
            any[w->type == ENG_BF16] = true;
    }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        if (!any[bf16])
            continue;
        round_x(stream, bf16 != 0, x, mms[0].w->cols, &to);
        launch_rounded(stream, path, &to, mms, n_mms, bf16 != 0);
    }
}

void gpu_matmul(gpu_stream stream, const float *x, uint32_t n, const struct gpu_matmul *mms, uint32_t n_mms,
                void *workspace)
{
    gpu_matmul_by(stream, MM_AUTO, x, n, mms, n_mms, workspace);
}

void gpu_embed(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out)
{
    if (step->n_tokens == 0)
        return;
    if (w->type == ENG_F32)
        GPU_LAUNCH(embed_f32, step->n_tokens, 256, 0, stream, (const float *)w->data, step->ids, w->cols,
                   out);
    else if (w->type == ENG_F16 || w->type == ENG_BF16)
        mm_embed_16(stream, w, step, out);
    else if (mm_layout_of(w->type).k == MM_GROUP)
        mm_embed_k(stream, w, step, out);
    else
        mm_embed_q(stream, w, step, out);
}
