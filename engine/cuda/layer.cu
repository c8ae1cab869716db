/* What lies between the matmuls of a layer: norms, rotation, the write into the cache, the gate. Memory-bound, all of them. */
#include "engine/cuda/launch.h"

enum { WARP = 32, NORM_THREADS = 1024, PLACE_WARPS = 4, SILU_THREADS = 256 };

static __device__ float warp_sum(float v)
{
    for (int step = WARP / 2; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* Four values at x[i], of n; what lies past the end is 0. Both ways give a thread the same values, so that alignment has no say in
 * the order of a sum. */
static __device__ float4 load4(const float *x, uint32_t i, uint32_t n, bool aligned)
{
    if (aligned)
        return *(const float4 *)(x + i);
    return make_float4(x[i], i + 1 < n ? x[i + 1] : 0, i + 2 < n ? x[i + 2] : 0, i + 3 < n ? x[i + 3] : 0);
}

static __device__ void store4(float *x, uint32_t i, uint32_t n, bool aligned, float4 v)
{
    if (aligned) {
        *(float4 *)(x + i) = v;
        return;
    }
    x[i] = v.x;
    if (i + 1 < n)
        x[i + 1] = v.y;
    if (i + 2 < n)
        x[i + 2] = v.z;
    if (i + 3 < n)
        x[i + 3] = v.w;
}

/* A block per row; blockDim.x depends on cols alone, and with it the order of the sum. */
static __global__ void __launch_bounds__(NORM_THREADS)
    rms_norm_rows(const float *__restrict__ x, const uint32_t *__restrict__ rows, uint32_t cols,
                  const float *__restrict__ w, float eps, float *__restrict__ out, bool aligned)
{
    __shared__ float parts[NORM_THREADS / WARP];
    const float *row = x + (uint64_t)(rows != NULL ? rows[blockIdx.x] : blockIdx.x) * cols;
    float *out_row = out + (uint64_t)blockIdx.x * cols, sum = 0, scale;

    for (uint32_t i = threadIdx.x * 4; i < cols; i += blockDim.x * 4) {
        float4 v = load4(row, i, cols, aligned);

        sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = sum;
    __syncthreads();
    sum = 0;
    for (uint32_t i = 0; i < blockDim.x / WARP; i++)
        sum += parts[i];
    scale = 1 / sqrtf(sum / (float)cols + eps);
    for (uint32_t i = threadIdx.x * 4; i < cols; i += blockDim.x * 4) {
        float4 v = load4(row, i, cols, aligned), f = load4(w, i, cols, aligned);

        v = make_float4(v.x * scale * f.x, v.y * scale * f.y, v.z * scale * f.z, v.w * scale * f.w);
        store4(out_row, i, cols, aligned, v);
    }
}

static bool aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

void gpu_rms_norm(gpu_stream stream, const float *x, const uint32_t *rows, uint32_t n, uint32_t cols,
                  const float *w, float eps, float *out)
{
    uint32_t threads = ((cols + 3) / 4 + WARP - 1) / WARP * WARP;
    bool aligned = cols % 4 == 0 && aligned16(x) && aligned16(w) && aligned16(out);

    if (n == 0)
        return;
    if (threads > NORM_THREADS)
        threads = NORM_THREADS;
    GPU_LAUNCH(rms_norm_rows, dim3(n), dim3(threads), 0, stream, x, rows, cols, w, eps, out, aligned);
}

/* ---- head norms, rotation, cache ---- */

/* 1 over the root mean square of a head, the same in all lanes. */
static __device__ float head_scale(const float *x, uint32_t hd, float eps)
{
    float sum = 0;

    for (uint32_t i = threadIdx.x % WARP; i < hd; i += WARP)
        sum = fmaf(x[i], x[i], sum);
    return 1 / sqrtf(warp_sum(sum) / (float)hd + eps);
}

struct head_out {
    void *to;
    bool f16;
};

static __device__ void put(struct head_out out, uint32_t i, float v)
{
    if (out.f16)
        ((uint16_t *)out.to)[i] = gpu_f32_to_f16(v);
    else
        ((float *)out.to)[i] = v;
}

/* One head by one warp: norm, rotation, and out; x may be out.to, since a lane writes only what it alone has read after the sum. */
static __device__ void turn_head(const struct gpu_place *p, uint32_t hd, const float *x, const float *norm,
                                 const float *cs, struct head_out out)
{
    uint32_t lane = threadIdx.x % WARP, half = p->rope_dim / 2;
    float scale = norm != NULL ? head_scale(x, hd, p->eps) : 1;

    for (uint32_t i = lane; i < half; i += WARP) {
        uint32_t a = p->rope_halves ? i : 2 * i, b = p->rope_halves ? i + half : a + 1;
        float c = cs[i], s = cs[half + i], x0 = x[a], x1 = x[b];

        if (norm != NULL) {
            x0 = x0 * scale * norm[a];
            x1 = x1 * scale * norm[b];
        }
        put(out, a, x0 * c - x1 * s);
        put(out, b, x0 * s + x1 * c);
    }
    for (uint32_t i = 2 * half + lane; i < hd; i += WARP)
        put(out, i, norm != NULL ? x[i] * scale * norm[i] : x[i]);
}

/* A warp per head of q, k and v; blockIdx.x: the token. */
static __global__ void __launch_bounds__(PLACE_WARPS *WARP)
    place_heads(struct gpu_place p, struct gpu_kv_layer kv, struct gpu_step step)
{
    uint32_t item = blockIdx.y * PLACE_WARPS + threadIdx.x / WARP, token = blockIdx.x, hd = kv.head_dim;
    uint32_t position = step.positions[token], lane = threadIdx.x % WARP;
    const float *cs = p.rope + (uint64_t)position * p.rope_dim;
    bool f16 = kv.type == ENG_F16;

    if (item >= p.n_heads + 2 * kv.n_kv_heads)
        return;
    if (item < p.n_heads) {
        float *q = p.q + ((uint64_t)token * p.n_heads + item) * hd;
        struct head_out out = {q, false};

        turn_head(&p, hd, q, p.q_norm, cs, out);
    } else {
        bool is_v = item >= p.n_heads + kv.n_kv_heads;
        uint32_t head = item - p.n_heads - (is_v ? kv.n_kv_heads : 0);
        uint64_t from = ((uint64_t)token * kv.n_kv_heads + head) * hd;
        uint64_t page = step.page_table[(uint64_t)step.sequences[token] * step.pages_per_sequence +
                                        position / ENG_PAGE_TOKENS];
        uint64_t at =
            (((uint64_t)(is_v ? kv.n_kv_heads : 0) + head) * ENG_PAGE_TOKENS + position % ENG_PAGE_TOKENS) *
            hd;
        struct head_out out = {kv.pages + page * kv.page_stride + at * (f16 ? 2 : 4), f16};

        if (!is_v)
            turn_head(&p, hd, p.k + from, p.k_norm, cs, out);
        else
            for (uint32_t i = lane; i < hd; i += WARP)
                put(out, i, p.v[from + i]);
    }
}

void gpu_place(gpu_stream stream, const struct gpu_place *place, const struct gpu_kv_layer *kv,
               const struct gpu_step *step)
{
    uint32_t items = place->n_heads + 2 * kv->n_kv_heads;

    if (step->n_tokens == 0)
        return;
    GPU_LAUNCH(place_heads, dim3(step->n_tokens, (items + PLACE_WARPS - 1) / PLACE_WARPS),
               dim3(PLACE_WARPS * WARP), 0, stream, *place, *kv, *step);
}

/* ---- gate ---- */

static __device__ float silu(float x)
{
    return x / (1 + expf(-x));
}

static __global__ void __launch_bounds__(SILU_THREADS)
    silu_mul_all(float *__restrict__ gate, const float *__restrict__ up, uint64_t n, bool aligned)
{
    uint64_t i = ((uint64_t)blockIdx.x * SILU_THREADS + threadIdx.x) * 4;

    if (aligned && i + 4 <= n) {
        float4 g = *(const float4 *)(gate + i), u = *(const float4 *)(up + i);

        *(float4 *)(gate + i) =
            make_float4(silu(g.x) * u.x, silu(g.y) * u.y, silu(g.z) * u.z, silu(g.w) * u.w);
        return;
    }
    for (uint64_t end = i + 4; i < end && i < n; i++)
        gate[i] = silu(gate[i]) * up[i];
}

void gpu_silu_mul(gpu_stream stream, float *gate, const float *up, uint64_t n)
{
    uint64_t per_block = (uint64_t)SILU_THREADS * 4;

    if (n == 0)
        return;
    GPU_LAUNCH(silu_mul_all, dim3((uint32_t)((n + per_block - 1) / per_block)), dim3(SILU_THREADS), 0, stream,
               gate, up, n, aligned16(gate) && aligned16(up));
}
