/* Products of weights and activations by tensor cores, for a few rows and for many by the same instructions.
 *
 * Weights are operand A of mma.m16n8k16 (16 rows of the matrix), activations operand B (8 tokens). A warp computes 16 rows for up to 64
 * tokens. Columns are cut into splits whose number follows from the weight's shape alone; a split is summed from zero in the order of
 * its columns, then splits are added in order:
 *   - up to FEW_TOKENS tokens each split has a warp of its own, which fills the device, and leaves its sum for the second kernel;
 *   - more tokens fill the device by themselves: a warp walks all splits and adds each to its total at the split's end.
 * Neither the other tokens nor how many they are change an element's bits.
 *
 * Activations are rounded first: to float16 under a scale of a power of two for each row, which keeps them in range and is exact; for
 * BF16 and F32 weights to a sum of two bfloat16. Quantized weights enter the product as their integer codes, which float16
 * holds exactly; a block's scale meets its partial sum in float32. So a product is as exact as the rounded activations are.
 *
 * Floor: the weight's bytes, once, for up to 64 tokens; activations come from the first-level cache. cuBLASLt is not used: it chooses
 * its kernel, and with it the order of a sum, by the number of tokens.
 */
#include "engine/cuda/product.h"

static constexpr uint32_t WARPS = 4, FEW_TOKENS = 64, TOKENS = 8, SPLITS_MAX = 16, WARPS_WANTED = 2048;
static constexpr uint32_t ROUND_THREADS = 256;

/* ---- rounded activations ---- */

/* In fragment order: [token tile][step of 16 columns][lane] of two registers; `low` what the first rounding left (bfloat16 alone). */
struct rounded {
    uint2 *high, *low;
    float *sums;    /* [token tile][block of 32 columns][8 tokens]: meet the minima */
    float *inverse; /* [tokens]: what takes the scale off again */
    uint32_t steps, tiles;
};

static uint32_t cols_padded(uint32_t cols)
{
    return (cols + 255) / 256 * 256;
}

static uint64_t align(uint64_t bytes)
{
    return (bytes + GPU_ALIGN - 1) / GPU_ALIGN * GPU_ALIGN;
}

static uint64_t lay_out(struct rounded *r, uint8_t *memory, uint32_t n, uint32_t cols)
{
    uint64_t high, low, sums, inverse;

    r->tiles = (n + TOKENS - 1) / TOKENS;
    r->steps = cols_padded(cols) / 16;
    high = low = align((uint64_t)r->tiles * r->steps * LANES * sizeof(uint2));
    sums = align((uint64_t)r->tiles * r->steps / 2 * TOKENS * sizeof(float));
    inverse = align((uint64_t)r->tiles * TOKENS * sizeof(float));
    r->high = (uint2 *)memory;
    r->low = (uint2 *)(memory + high);
    r->sums = (float *)(memory + high + low);
    r->inverse = (float *)(memory + high + low + sums);
    return high + low + sums + inverse;
}

/* The largest of a block's threads. */
static __device__ float block_max(float v)
{
    __shared__ float of_warp[ROUND_THREADS / LANES];

    for (unsigned by = LANES / 2; by > 0; by /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, by));
    if (threadIdx.x % LANES == 0)
        of_warp[threadIdx.x / LANES] = v;
    __syncthreads();
    v = of_warp[0];
    for (unsigned i = 1; i < ROUND_THREADS / LANES; i++)
        v = fmaxf(v, of_warp[i]);
    return v;
}

/* The power of two that brings `top` to [2^13, 2^14): products with codes of 8 bits and sums of 32 of them stay far from every limit. */
static __device__ float scale_for(float top)
{
    int exponent = (int)(__float_as_uint(top) >> 23) - 127;

    if (!(top > 0) || exponent > 127) /* zeros; infinities and NaN stay what they are */
        return 1;
    exponent = 13 - exponent;
    exponent = exponent > 126 ? 126 : exponent < -126 ? -126 : exponent;
    return __uint_as_float((uint32_t)(exponent + 127) << 23);
}

/* Each block one token; those past the end are zeros. Each thread whole blocks of 32 columns. */
template <bool TWO_PARTS>
static __global__ void __launch_bounds__(ROUND_THREADS)
    round_rows(const float *__restrict__ x, uint32_t n, uint32_t cols, struct rounded r)
{
    uint32_t token = blockIdx.x, tile = token / TOKENS, g = token % TOKENS;
    const float *row = x + (uint64_t)token * cols;
    float top = 0, scale = 1;

    if (!TWO_PARTS) {
        for (uint32_t c = threadIdx.x; token < n && c < cols; c += ROUND_THREADS)
            top = fmaxf(top, fabsf(row[c]));
        scale = scale_for(block_max(top));
    }
    if (threadIdx.x == 0)
        r.inverse[token] = 1 / scale;
    for (uint32_t b = threadIdx.x; b < r.steps / 2; b += ROUND_THREADS) {
        float sum = 0;

        for (uint32_t pair = 0; pair < 16; pair++) {
            uint32_t c = b * 32 + pair * 2, in_step = c % 16;
            uint64_t at = ((uint64_t)tile * r.steps + c / 16) * LANES + g * 4 + in_step % 8 / 2;
            float v0 = token < n && c < cols ? row[c] * scale : 0;
            float v1 = token < n && c + 1 < cols ? row[c + 1] * scale : 0;
            uint32_t word = TWO_PARTS ? gpu_pack_bf16(v0, v1) : gpu_pack_f16(v0, v1);

            ((uint32_t *)&r.high[at])[in_step / 8] = word;
            if (TWO_PARTS) {
                v0 -= gpu_bf16_to_f32((uint16_t)word);
                v1 -= gpu_bf16_to_f32((uint16_t)(word >> 16));
                ((uint32_t *)&r.low[at])[in_step / 8] = gpu_pack_bf16(v0, v1);
            } else
                sum = __fadd_rn(__fadd_rn(sum, gpu_f16_to_f32((uint16_t)word)),
                                gpu_f16_to_f32((uint16_t)(word >> 16)));
        }
        if (!TWO_PARTS)
            r.sums[((uint64_t)tile * (r.steps / 2) + b) * TOKENS + g] = sum;
    }
}

/* ---- the product ---- */

struct product {
    const uint8_t *weights;
    const float *bias;
    float *out, *partial; /* partial [splits, n, rows] */
    uint32_t rows, n, spans, spans_per_split, splits;
    bool accumulate;
    struct rounded x;
};

/* Bytes of one unit that one lane needs, on their way while the unit before is computed. */
template <enum eng_type TYPE> struct unit_regs {
    static constexpr unsigned N_LOW = gpu_low_bytes(TYPE) / (LANES * 16);
    uint4 low[N_LOW];
    uint32_t high[2];
    float scale[2][4], min[2][2]; /* of rows g and g + 8; blocks of 16 (K_16) or 32 columns */
};

template <enum eng_type TYPE>
static __device__ __forceinline__ void load_unit(struct unit_regs<TYPE> *u, const uint8_t *span,
                                                 uint32_t unit)
{
    constexpr struct gpu_format F = gpu_format_of(TYPE);
    const uint8_t *at = span + gpu_head_bytes(TYPE) + unit * gpu_unit_bytes(TYPE);
    const uint8_t *scales = at + gpu_low_bytes(TYPE) + gpu_high_bytes(TYPE);
    unsigned lane = threadIdx.x % LANES;

#pragma unroll
    for (unsigned i = 0; i < u->N_LOW; i++)
        u->low[i] = gpu_load16_once(at + (i * LANES + lane) * 16);
    if (F.bits == 5)
        u->high[0] = *(const uint32_t *)(at + gpu_low_bytes(TYPE) + lane * 4);
    if (F.bits == 6) {
        u->high[0] = *(const uint32_t *)(at + gpu_low_bytes(TYPE) + lane * 8);
        u->high[1] = *(const uint32_t *)(at + gpu_low_bytes(TYPE) + lane * 8 + 4);
    }
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        unsigned row = lane / 4 + 8 * half;

        if (F.scale == SCALE_K_16) {
            float d = gpu_f16_to_f32(((const uint16_t *)span)[row]);

#pragma unroll
            for (unsigned b = 0; b < 4; b++)
                u->scale[half][b] = __fmul_rn(d, (float)((const int8_t *)scales)[b * TILE_ROWS + row]);
        }
#pragma unroll
        for (unsigned b = 0; b < 2; b++) {
            unsigned slot = b * TILE_ROWS + row;

            if (F.scale == SCALE_D)
                u->scale[half][b] = gpu_f16_to_f32(((const uint16_t *)scales)[slot]);
            if (F.scale == SCALE_DM) {
                uint32_t dm = ((const uint32_t *)scales)[slot];

                u->scale[half][b] = gpu_f16_to_f32((uint16_t)dm);
                u->min[half][b] = gpu_f16_to_f32((uint16_t)(dm >> 16));
            }
            if (F.scale == SCALE_K) {
                uint32_t d = ((const uint32_t *)span)[row];
                uint16_t s = ((const uint16_t *)scales)[slot];

                u->scale[half][b] = __fmul_rn(gpu_f16_to_f32((uint16_t)d), (float)(s & 255));
                u->min[half][b] = -__fmul_rn(gpu_f16_to_f32((uint16_t)(d >> 16)), (float)(s >> 8));
            }
        }
    }
}

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, unsigned i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Fragment register `reg` of a step: two codes as float16, less the offset. 0x6400 is 1024, whose last bit is worth one. */
template <enum eng_type TYPE>
static __device__ __forceinline__ uint32_t code_fragment(const struct unit_regs<TYPE> &u, unsigned step,
                                                         unsigned reg)
{
    constexpr struct gpu_format F = gpu_format_of(TYPE);
    constexpr uint32_t OFFSET = (0x6400u + (uint32_t)F.offset) * 0x10001u;
    uint32_t codes;

    if (F.bits == 8)
        codes =
            word_of(u.low[F.bits == 8 ? step / 2 : 0], step % 2 * 2 + reg / 2) >> reg % 2 * 8 & 0x00ff00ffu;
    else
        codes = word_of(u.low[0], step) >> reg * 4 & 0x000f000fu;
    if (F.bits == 5)
        codes |= (u.high[0] >> (step * 4 + reg) & 0x00010001u) << 4;
    if (F.bits == 6)
        codes |= (u.high[step / 2] >> (step % 2 * 8 + reg * 2) & 0x00030003u) << 4;
    return gpu_sub_f16x2(codes | 0x64006400u, OFFSET);
}

/* A unit of 64 columns, whose first step is `step0`, times NT tiles of tokens from `tile0`. */
template <enum eng_type TYPE, unsigned NT>
static __device__ __forceinline__ void add_unit(float (&acc)[NT][4], const struct unit_regs<TYPE> &u,
                                                const struct product &p, uint32_t tile0, uint32_t step0)
{
    constexpr struct gpu_format F = gpu_format_of(TYPE);
    constexpr unsigned BLOCK_STEPS = F.scale == SCALE_K_16 ? 1 : 2;
    unsigned lane = threadIdx.x % LANES;

#pragma unroll
    for (unsigned step = 0; step < STEPS; step++) {
        uint32_t a[4], a_low[4];

#pragma unroll
        for (unsigned reg = 0; reg < 4; reg++) {
            if (F.bits != 0)
                a[reg] = code_fragment<TYPE>(u, step, reg);
            else if (TYPE != ENG_F32)
                a[reg] = word_of(u.low[step < u.N_LOW ? step : 0], reg);
            else {
                const uint4 &v = u.low[(step * 2 + reg / 2) % u.N_LOW];
                float v0 = __uint_as_float(word_of(v, reg % 2 * 2)),
                      v1 = __uint_as_float(word_of(v, reg % 2 * 2 + 1));

                a[reg] = gpu_pack_bf16(v0, v1);
                a_low[reg] = gpu_pack_bf16(v0 - gpu_bf16_to_f32((uint16_t)a[reg]),
                                           v1 - gpu_bf16_to_f32((uint16_t)(a[reg] >> 16)));
            }
        }
#pragma unroll
        for (unsigned t = 0; t < NT; t++) {
            uint64_t at = ((uint64_t)(tile0 + t) * p.x.steps + step0 + step) * LANES + lane;
            uint2 b = p.x.high[at];
            uint32_t fb[2] = {b.x, b.y};

            if (TYPE == ENG_BF16 || TYPE == ENG_F32) {
                uint2 low = p.x.low[at];
                uint32_t fl[2] = {low.x, low.y};

                gpu_mma_bf16(acc[t], a, fl);
                if (TYPE == ENG_F32)
                    gpu_mma_bf16(acc[t], a_low, fb);
                gpu_mma_bf16(acc[t], a, fb);
            } else if (F.bits == 0) {
                gpu_mma_f16(acc[t], a, fb);
            } else if (BLOCK_STEPS == 1) {
                float part[4] = {0, 0, 0, 0};

                gpu_mma_f16(part, a, fb);
                acc[t][0] = fmaf(u.scale[0][step], part[0], acc[t][0]);
                acc[t][1] = fmaf(u.scale[0][step], part[1], acc[t][1]);
                acc[t][2] = fmaf(u.scale[1][step], part[2], acc[t][2]);
                acc[t][3] = fmaf(u.scale[1][step], part[3], acc[t][3]);
            }
        }
        if (BLOCK_STEPS == 2 && F.bits != 0 && step % 2 == 1) {
            constexpr bool HAS_MIN = F.scale == SCALE_DM || F.scale == SCALE_K;
            unsigned block = step / 2;
            uint32_t before[4];

#pragma unroll
            for (unsigned reg = 0; reg < 4; reg++)
                before[reg] = code_fragment<TYPE>(u, step - 1, reg);
#pragma unroll
            for (unsigned t = 0; t < NT; t++) {
                uint64_t at = ((uint64_t)(tile0 + t) * p.x.steps + step0 + step) * LANES + lane;
                uint2 b0 = p.x.high[at - LANES], b1 = p.x.high[at];
                uint32_t f0[2] = {b0.x, b0.y}, f1[2] = {b1.x, b1.y};
                float part[4] = {0, 0, 0, 0};

                gpu_mma_f16(part, before, f0);
                gpu_mma_f16(part, a, f1);
                acc[t][0] = fmaf(u.scale[0][block], part[0], acc[t][0]);
                acc[t][1] = fmaf(u.scale[0][block], part[1], acc[t][1]);
                acc[t][2] = fmaf(u.scale[1][block], part[2], acc[t][2]);
                acc[t][3] = fmaf(u.scale[1][block], part[3], acc[t][3]);
                if (HAS_MIN) {
                    uint64_t sums = ((uint64_t)(tile0 + t) * (p.x.steps / 2) + (step0 + step) / 2) * TOKENS;
                    float2 s = *(const float2 *)(p.x.sums + sums + lane % 4 * 2);

                    acc[t][0] = fmaf(u.min[0][block], s.x, acc[t][0]);
                    acc[t][1] = fmaf(u.min[0][block], s.y, acc[t][1]);
                    acc[t][2] = fmaf(u.min[1][block], s.x, acc[t][2]);
                    acc[t][3] = fmaf(u.min[1][block], s.y, acc[t][3]);
                }
            }
        }
    }
}

/* One split, from zero, in the order of its columns. */
template <enum eng_type TYPE, unsigned NT>
static __device__ __forceinline__ void sum_split(float (&acc)[NT][4], const struct product &p,
                                                 const uint8_t *tile, uint32_t tile0, uint32_t split)
{
    constexpr unsigned SPAN_UNITS = gpu_format_of(TYPE).span_cols / UNIT_COLS;
    uint32_t first = split * p.spans_per_split, last = first + p.spans_per_split;
    uint32_t unit, end;
    struct unit_regs<TYPE> now, next;

#pragma unroll
    for (unsigned t = 0; t < NT; t++)
        acc[t][0] = acc[t][1] = acc[t][2] = acc[t][3] = 0;
    last = last < p.spans ? last : p.spans;
    if (first >= last)
        return;
    unit = first * SPAN_UNITS;
    end = last * SPAN_UNITS;
    load_unit<TYPE>(&next, tile + (uint64_t)first * gpu_span_bytes(TYPE), 0);
    for (; unit < end; unit++) {
        now = next;
        if (unit + 1 < end)
            load_unit<TYPE>(&next, tile + (uint64_t)((unit + 1) / SPAN_UNITS) * gpu_span_bytes(TYPE),
                            (unit + 1) % SPAN_UNITS);
        add_unit<TYPE, NT>(acc, now, p, tile0, unit * STEPS);
    }
}

static __device__ __forceinline__ void store(const struct product &p, uint32_t token, uint32_t row,
                                             float total)
{
    float v = __fmul_rn(total, p.x.inverse[token]);
    uint64_t at = (uint64_t)token * p.rows + row;

    if (p.bias != NULL)
        v = __fadd_rn(v, p.bias[row]);
    p.out[at] = p.accumulate ? __fadd_rn(p.out[at], v) : v;
}

/* A warp each: 16 rows (x), NT tiles of tokens (y), one split (z), or all of them when the grid has one z and WALK is set. */
template <enum eng_type TYPE, unsigned NT, bool WALK>
static __global__ void __launch_bounds__(WARPS *LANES) multiply(const struct product p)
{
    constexpr unsigned SPAN_BYTES = gpu_span_bytes(TYPE);
    uint32_t tile_row = blockIdx.x * WARPS + threadIdx.x / LANES, tile0 = blockIdx.y * NT;
    unsigned lane = threadIdx.x % LANES;
    const uint8_t *tile = p.weights + (uint64_t)tile_row * p.spans * SPAN_BYTES;
    float acc[NT][4], total[NT][4];

    if (tile_row * TILE_ROWS >= p.rows)
        return;
    sum_split<TYPE, NT>(WALK ? total : acc, p, tile, tile0, WALK ? 0 : blockIdx.z);
    for (uint32_t split = 1; WALK && split < p.splits; split++) {
        sum_split<TYPE, NT>(acc, p, tile, tile0, split);
#pragma unroll
        for (unsigned t = 0; t < NT; t++)
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
                total[t][i] = __fadd_rn(total[t][i], acc[t][i]);
    }
#pragma unroll
    for (unsigned t = 0; t < NT; t++) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            uint32_t token = (tile0 + t) * TOKENS + lane % 4 * 2 + i % 2;
            uint32_t row = tile_row * TILE_ROWS + lane / 4 + i / 2 * 8;

            if (token >= p.n || row >= p.rows)
                continue;
            if (WALK)
                store(p, token, row, total[t][i]);
            else if (p.splits == 1)
                store(p, token, row, acc[t][i]);
            else
                p.partial[((uint64_t)blockIdx.z * p.n + token) * p.rows + row] = acc[t][i];
        }
    }
}

/* Adds the splits in order. */
static __global__ void __launch_bounds__(256) add_splits(const struct product p)
{
    uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x, all = (uint64_t)p.n * p.rows;
    float total;

    if (i >= all)
        return;
    total = p.partial[i];
    for (uint32_t split = 1; split < p.splits; split++)
        total = __fadd_rn(total, p.partial[split * all + i]);
    store(p, (uint32_t)(i / p.rows), (uint32_t)(i % p.rows), total);
}

/* ---- launches ---- */

/* By the weight's shape alone: enough warps to keep a large device's memory busy. */
static uint32_t n_splits(uint32_t rows, uint32_t spans)
{
    uint32_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, splits = (WARPS_WANTED + tiles - 1) / tiles;

    splits = splits > SPLITS_MAX ? SPLITS_MAX : splits;
    return splits > spans ? spans : splits;
}

/* Tokens that launches for n read: whole groups of tiles. */
static uint32_t tokens_touched(uint32_t n)
{
    uint32_t group = n > 4 * TOKENS ? 8 * TOKENS : n > 2 * TOKENS ? 4 * TOKENS : TOKENS;

    return (n + group - 1) / group * group;
}

uint64_t gpu_matmul_workspace(uint32_t max_tokens, uint32_t max_rows, uint32_t max_cols, uint32_t max_logits,
                              uint32_t n_vocab)
{
    uint32_t n = tokens_touched(max_tokens > max_logits ? max_tokens : max_logits);
    uint32_t few = n < FEW_TOKENS ? n : FEW_TOKENS, most = max_rows > n_vocab ? max_rows : n_vocab;
    /* A weight of r rows has at most WARPS_WANTED / (r / 16) + 1 splits. */
    uint64_t partial_rows = (uint64_t)WARPS_WANTED * TILE_ROWS + most + SPLITS_MAX * TILE_ROWS;
    struct rounded r;

    return lay_out(&r, NULL, n, max_cols) + align(partial_rows * few * sizeof(float));
}

template <enum eng_type TYPE> static void launch(gpu_stream stream, const struct product &p)
{
    uint32_t row_blocks = (p.rows + TILE_ROWS * WARPS - 1) / (TILE_ROWS * WARPS), tiles = p.x.tiles;

#define LAUNCH(NT, WALK, splits)                                                                             \
    GPU_LAUNCH((multiply<TYPE, NT, WALK>), dim3(row_blocks, (tiles + NT - 1) / NT, splits), WARPS *LANES, 0, \
               stream, p)
    if (p.n > FEW_TOKENS)
        LAUNCH(8, true, 1);
    else if (tiles == 1)
        LAUNCH(1, false, p.splits);
    else if (tiles == 2)
        LAUNCH(2, false, p.splits);
    else if (tiles <= 4)
        LAUNCH(4, false, p.splits);
    else
        LAUNCH(8, false, p.splits);
#undef LAUNCH
    if (p.n <= FEW_TOKENS && p.splits > 1)
        GPU_LAUNCH(add_splits, (unsigned)(((uint64_t)p.n * p.rows + 255) / 256), 256, 0, stream, p);
}

static bool two_parts(enum eng_type type)
{
    return type == ENG_BF16 || type == ENG_F32;
}

static void round_for(gpu_stream stream, enum eng_type type, const float *x, uint32_t n, uint32_t cols,
                      const struct rounded &r)
{
    if (two_parts(type))
        GPU_LAUNCH((round_rows<true>), r.tiles * TOKENS, ROUND_THREADS, 0, stream, x, n, cols, r);
    else
        GPU_LAUNCH((round_rows<false>), r.tiles * TOKENS, ROUND_THREADS, 0, stream, x, n, cols, r);
}

void gpu_matmul(gpu_stream stream, const float *x, uint32_t n, const struct gpu_matmul *mms, uint32_t n_mms,
                void *workspace)
{
    struct product p = {};
    uint64_t used = lay_out(&p.x, (uint8_t *)workspace, tokens_touched(n), mms[0].w->cols);

    p.partial = (float *)((uint8_t *)workspace + used);
    p.n = n;
    for (uint32_t i = 0; i < n_mms; i++) {
        const struct gpu_weight *w = mms[i].w;
        unsigned span = gpu_format_of(w->type).span_cols;

        if (i == 0 || two_parts(w->type) != two_parts(mms[i - 1].w->type))
            round_for(stream, w->type, x, n, w->cols, p.x);
        p.weights = w->data;
        p.bias = mms[i].bias;
        p.out = mms[i].out;
        p.rows = w->rows;
        p.accumulate = mms[i].accumulate;
        p.spans = (w->cols + span - 1) / span;
        p.splits = n_splits(w->rows, p.spans);
        p.spans_per_split = (p.spans + p.splits - 1) / p.splits;
        switch (w->type) {
        case ENG_F32: launch<ENG_F32>(stream, p); break;
        case ENG_F16: launch<ENG_F16>(stream, p); break;
        case ENG_BF16: launch<ENG_BF16>(stream, p); break;
        case ENG_Q4_0: launch<ENG_Q4_0>(stream, p); break;
        case ENG_Q4_1: launch<ENG_Q4_1>(stream, p); break;
        case ENG_Q5_0: launch<ENG_Q5_0>(stream, p); break;
        case ENG_Q5_1: launch<ENG_Q5_1>(stream, p); break;
        case ENG_Q8_0: launch<ENG_Q8_0>(stream, p); break;
        case ENG_Q4_K: launch<ENG_Q4_K>(stream, p); break;
        case ENG_Q5_K: launch<ENG_Q5_K>(stream, p); break;
        case ENG_Q6_K: launch<ENG_Q6_K>(stream, p); break;
        default: break; /* gpu_weight_supported */
        }
    }
}

/* ---- embed ---- */

/* One value, with the bits of eng_dequant. */
template <enum eng_type TYPE>
static __device__ float value_at(const uint8_t *tile, unsigned row, uint32_t col)
{
    constexpr struct gpu_format F = gpu_format_of(TYPE);
    const uint8_t *span = tile + (uint64_t)(col / F.span_cols) * gpu_span_bytes(TYPE);
    const uint8_t *unit = span + gpu_head_bytes(TYPE) + col % F.span_cols / UNIT_COLS * gpu_unit_bytes(TYPE);
    const uint8_t *high = unit + gpu_low_bytes(TYPE), *scales = high + gpu_high_bytes(TYPE);
    struct gpu_place_of_value at = gpu_place_in_step(row, col % 16);
    unsigned step = col % UNIT_COLS / 16, slot = col % UNIT_COLS / 32 * TILE_ROWS + row;
    unsigned code;

    if (TYPE == ENG_F32)
        return *(const float *)(unit + ((step * 2 + (at.reg * 2 + at.half) / 4) * LANES + at.lane) * 16 +
                                (at.reg * 2 + at.half) % 4 * 4);
    if (F.bits == 0) {
        uint16_t v = *(const uint16_t *)(unit + (step * LANES + at.lane) * 16 + at.reg * 4 + at.half * 2);

        return TYPE == ENG_BF16 ? gpu_bf16_to_f32(v) : gpu_f16_to_f32(v);
    }
    if (F.bits == 8) {
        unsigned word = step * 2 + at.reg / 2;

        code = unit[(word / 4 * LANES + at.lane) * 16 + word % 4 * 4 + at.half * 2 + at.reg % 2];
    } else
        code = unit[at.lane * 16 + step * 4 + at.half * 2 + at.reg / 2] >> at.reg % 2 * 4 & 15;
    if (F.bits == 5)
        code |= (*(const uint32_t *)(high + at.lane * 4) >> (step * 4 + at.reg + at.half * 16) & 1) << 4;
    if (F.bits == 6)
        code |= (*(const uint32_t *)(high + at.lane * 8 + step / 2 * 4) >>
                     (step % 2 * 8 + at.reg * 2 + at.half * 16) &
                 3)
                << 4;
    float q = (float)((int)code - F.offset);

    if (F.scale == SCALE_D)
        return __fmul_rn(q, gpu_f16_to_f32(((const uint16_t *)scales)[slot]));
    if (F.scale == SCALE_DM) {
        uint32_t dm = ((const uint32_t *)scales)[slot];

        return __fadd_rn(__fmul_rn(q, gpu_f16_to_f32((uint16_t)dm)), gpu_f16_to_f32((uint16_t)(dm >> 16)));
    }
    if (F.scale == SCALE_K_16) {
        float d = gpu_f16_to_f32(((const uint16_t *)span)[row]);

        return __fmul_rn(
            __fmul_rn(d, (float)((const int8_t *)scales)[col % UNIT_COLS / 16 * TILE_ROWS + row]), q);
    }
    uint32_t d = ((const uint32_t *)span)[row];
    uint16_t s = ((const uint16_t *)scales)[slot];

    return __fadd_rn(__fmul_rn(__fmul_rn(gpu_f16_to_f32((uint16_t)d), (float)(s & 255)), q),
                     -__fmul_rn(gpu_f16_to_f32((uint16_t)(d >> 16)), (float)(s >> 8)));
}

template <enum eng_type TYPE>
static __global__ void __launch_bounds__(128) embed_rows(const uint8_t *__restrict__ weights, uint32_t cols,
                                                         const int32_t *__restrict__ ids, float *out)
{
    uint32_t id = (uint32_t)ids[blockIdx.x],
             spans = (cols + gpu_format_of(TYPE).span_cols - 1) / gpu_format_of(TYPE).span_cols;
    const uint8_t *tile = weights + (uint64_t)(id / TILE_ROWS) * spans * gpu_span_bytes(TYPE);

    for (uint32_t c = threadIdx.x; c < cols; c += 128)
        out[(uint64_t)blockIdx.x * cols + c] = value_at<TYPE>(tile, id % TILE_ROWS, c);
}

void gpu_embed(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out)
{
#define EMBED(TYPE)                                                                                       \
    case TYPE:                                                                                            \
        GPU_LAUNCH((embed_rows<TYPE>), step->n_tokens, 128, 0, stream, w->data, w->cols, step->ids, out); \
        break
    switch (w->type) {
        EMBED(ENG_F32);
        EMBED(ENG_F16);
        EMBED(ENG_BF16);
        EMBED(ENG_Q4_0);
        EMBED(ENG_Q4_1);
        EMBED(ENG_Q5_0);
        EMBED(ENG_Q5_1);
        EMBED(ENG_Q8_0);
        EMBED(ENG_Q4_K);
        EMBED(ENG_Q5_K);
        EMBED(ENG_Q6_K);
    default: break;
    }
#undef EMBED
}
