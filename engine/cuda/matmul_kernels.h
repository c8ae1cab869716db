/* The formats on the device, and the two matmul kernels over them. Private to engine/cuda/matmul*.cu.
 *
 * Arithmetic: codes become f16 integers, exactly; an mma multiplies them with the rounded activations and sums in float32. What a
 *       block of weights has in common is applied to the sum of at most 64 columns, in float32: acc = fma(d, sum, acc). So no d * q
 *       is ever rounded, nor is a small d lost in the subnormals of f16. The 6-bit scales of Q4_K and Q5_K are multiplied into the
 *       codes instead: at most 63 * 31 = 1953, which f16 holds exactly. What a block subtracts from each of its weights meets the sum of
 *       the block's activations: two f16 that make 22 bits, one mma for up to eight blocks.
 * Cost: Q4_K takes about 33 instructions per 16 x 32 weights (288 bytes) and 8 tokens, Q6_K 65 (420 bytes): a third to a half of
 *       what an H100 issues while that many bytes arrive.
 */
#ifndef ENGINE_CUDA_MATMUL_KERNELS_H
#define ENGINE_CUDA_MATMUL_KERNELS_H

#include "engine/cuda/matmul.h"

enum {
    MM_WARP = 32,
    MM_STAGES = 3, /* parts under way to shared memory, or in use */
    /* MM_TILES: 4 warps of 2 tiles of rows, 2 of 8 tiles of tokens. */
    MM_BLOCK_ROWS = 8,
    MM_BLOCK_TOKENS = 16,
    MM_WARP_ROWS = 2,
    MM_WARP_TOKENS = 8,
    MM_THREADS = 256
};

/* ---- pairs of f16 ---- */

#ifdef GPU_EMULATE
static inline uint32_t mm_fma2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t out = 0;

    for (int h = 0; h < 32; h += 16) /* exact before it is rounded, for the integers of this file */
        out |= (uint32_t)gpu_f32_to_f16(fmaf(gpu_f16_to_f32((uint16_t)(a >> h)),
                                             gpu_f16_to_f32((uint16_t)(b >> h)),
                                             gpu_f16_to_f32((uint16_t)(c >> h))))
               << h;
    return out;
}

/* Bytes 2 * upper and the next as 1024 + byte, each. */
static inline uint32_t mm_bytes2(uint32_t word, int upper)
{
    word >>= 16 * upper;
    return (word & 0xff) | (word & 0xff00) << 8 | 0x64006400;
}

/* One byte in both halves. */
static inline uint32_t mm_byte2(uint32_t word, int byte)
{
    word = word >> 8 * byte & 0xff;
    return word | word << 16 | 0x64006400;
}
#else
static __device__ __forceinline__ uint32_t mm_fma2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;

    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

static __device__ __forceinline__ uint32_t mm_bytes2(uint32_t word, int upper)
{
    return __byte_perm(word, 0x64646464, upper ? 0x4342 : 0x4140);
}

static __device__ __forceinline__ uint32_t mm_byte2(uint32_t word, int byte)
{
    return __byte_perm(word, 0x64646464, 0x4040 + 0x0101 * byte);
}
#endif

static __device__ __forceinline__ float mm_low(uint32_t two)
{
    return gpu_f16_to_f32((uint16_t)two);
}

static __device__ __forceinline__ float mm_high(uint32_t two)
{
    return gpu_f16_to_f32((uint16_t)(two >> 16));
}

/* ---- where a weight lies ---- */

struct mm_place {
    uint32_t lane, i, h, step, b, s;
};

static __device__ __forceinline__ struct mm_place mm_place_of(uint32_t row, uint32_t k)
{
    return mm_place{row % 8 * 4 + k % 8 / 2, row / 8 + k % 16 / 8 * 2, k % 2, k / 64, k / 32 % 2, k / 16 % 2};
}

static __device__ __forceinline__ uint32_t mm_load16(const uint8_t *at)
{
    return *(const uint16_t *)at;
}

static __device__ __forceinline__ uint32_t mm_load32(const uint8_t *at)
{
    return *(const uint32_t *)at;
}

/* A code alone. */
template <int BITS, uint32_t HIGH>
static __device__ __forceinline__ uint32_t mm_code(const uint8_t *unit, uint32_t row, uint32_t k)
{
    struct mm_place p = mm_place_of(row, k);
    uint32_t code, r = 4 * p.s + p.i;

    if (BITS == 8)
        return unit[((p.step * 2 + p.b) * 32 + p.lane) * 16 + p.s * 8 + p.i * 2 + p.h];
    code = mm_load32(unit + (p.step * 32 + p.lane) * 16 + (2 * p.b + p.s) * 4) >> (4 * p.i + 16 * p.h) & 15;
    if (BITS == 5)
        code |= (mm_load32(unit + HIGH + (p.step * 32 + p.lane) * 4) >> (8 * p.b + r + 16 * p.h) & 1) << 4;
    if (BITS == 6)
        code |= (mm_load32(unit + HIGH + ((p.step * 32 + p.lane) * 2 + p.b) * 4) >> (2 * r + 16 * p.h) & 3)
                << 4;
    return code;
}

/* ---- codes of 64 columns: register i of the mma's a[m] as 1024 + code ---- */

template <int BITS> struct mm_raw {
    uint32_t low[4], high[2];
};

template <> struct mm_raw<8> {
    uint32_t low[8];
};

static __device__ __forceinline__ void mm_load4(uint32_t *to, const uint8_t *at)
{
    uint4 v = *(const uint4 *)at;

    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
}

template <int BITS, int HIGH>
static __device__ __forceinline__ void mm_read(mm_raw<BITS> &raw, const uint8_t *unit, uint32_t step,
                                               uint32_t lane)
{
    if constexpr (BITS == 8) {
        mm_load4(raw.low, unit + (step * 64 + lane) * 16);
        mm_load4(raw.low + 4, unit + (step * 64 + 32 + lane) * 16);
    } else {
        mm_load4(raw.low, unit + (step * 32 + lane) * 16);
        if constexpr (BITS == 5)
            raw.high[0] = mm_load32(unit + HIGH + (step * 32 + lane) * 4);
        if constexpr (BITS == 6) {
            uint2 v = *(const uint2 *)(unit + HIGH + (step * 32 + lane) * 8);

            raw.high[0] = v.x;
            raw.high[1] = v.y;
        }
    }
}

/* m and i are constants once the loops are unrolled. */
template <int BITS>
static __device__ __forceinline__ uint32_t mm_biased(const mm_raw<BITS> &raw, int m, int i)
{
    if constexpr (BITS == 8) {
        return mm_bytes2(raw.low[2 * m + i / 2], i % 2);
    } else {
        uint32_t code = raw.low[m] >> 4 * i & 0x000f000f;

        if constexpr (BITS == 5) {
            int at = 4 * m + i;

            code |= (at < 4 ? raw.high[0] << (4 - at) : raw.high[0] >> (at - 4)) & 0x00100010;
        }
        if constexpr (BITS == 6) {
            int at = 2 * (4 * (m % 2) + i);

            code |= (at < 4 ? raw.high[m / 2] << (4 - at) : raw.high[m / 2] >> (at - 4)) & 0x00300030;
        }
        return code | 0x64006400;
    }
}

/* ---- formats: load takes 64 columns of a tile, apply multiplies them with 8 tokens, b [parts][8] as two words per 16
 * columns. parts 2: activations are a sum of two, both of which meet the weights. ---- */

template <bool BF16> struct mm_half {
    static constexpr struct mm_layout layout = mm_layout_16;
    static constexpr uint32_t parts = BF16 ? 2 : 1;
    static constexpr bool has_min = false;
    uint32_t a[4][4];

    __device__ __forceinline__ void load(const uint8_t *unit, uint32_t step, uint32_t lane, uint32_t)
    {
#pragma unroll
        for (int m = 0; m < 4; m++)
            mm_load4(a[m], unit + ((step * 4 + m) * 32 + lane) * 16);
    }

    __device__ __forceinline__ void apply(const uint32_t *b, float *acc) const
    {
#pragma unroll
        for (int m = 0; m < 4; m++) {
            if constexpr (BF16) {
                gpu_mma_bf16(acc, a[m], b + 8 + 2 * m);
                gpu_mma_bf16(acc, a[m], b + 2 * m);
            } else
                gpu_mma_f16(acc, a[m], b + 2 * m);
        }
    }

    __device__ __forceinline__ void apply_min(uint2, float *) const
    {
    }

    static __device__ float value(const uint8_t *unit, uint32_t row, uint32_t k)
    {
        struct mm_place p = mm_place_of(row, k);
        uint16_t v = (uint16_t)mm_load16(unit + ((k / 16 * 32 + p.lane) * 4 + p.i) * 4 + p.h * 2);

        return BF16 ? gpu_bf16_to_f32(v) : gpu_f16_to_f32(v);
    }
};

/* 32 values with one d: (code - ZERO) * d, or code * d + min. */
template <int BITS, int ZERO, bool MIN, const struct mm_layout &LAYOUT> struct mm_block32 {
    static constexpr struct mm_layout layout = LAYOUT;
    static constexpr uint32_t parts = 1;
    static constexpr bool has_min = MIN;
    uint32_t a[4][4], min[2];
    float d[2][2];

    __device__ __forceinline__ void load(const uint8_t *unit, uint32_t step, uint32_t lane, uint32_t index)
    {
        mm_raw<BITS> raw;
        uint32_t g = lane / 4, t = lane % 4;

        mm_read<BITS, LAYOUT.high>(raw, unit, step, lane);
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = gpu_sub_f16x2(mm_biased(raw, m, i), 0x64006400 + 0x00010001 * ZERO);
#pragma unroll
        for (int b = 0; b < 2; b++) {
            uint32_t both = mm_load32(unit + LAYOUT.d + ((step * 2 + b) * 8 + g) * 4);

            d[b][0] = mm_low(both);
            d[b][1] = mm_high(both);
        }
        if (MIN &&
            step == 0) { /* a unit is one half of a group of activations, whose other half meets zeros */
            bool mine = t / 2 == index % 2;

            min[0] = mine ? mm_load32(unit + LAYOUT.min + g * 8 + t % 2 * 4) : 0;
            min[1] = mine ? mm_load32(unit + LAYOUT.min + (g + 8) * 8 + t % 2 * 4) : 0;
        }
    }

    __device__ __forceinline__ void apply(const uint32_t *b, float *acc) const
    {
#pragma unroll
        for (int block = 0; block < 2; block++) {
            float sum[4] = {0, 0, 0, 0};

            gpu_mma_f16(sum, a[2 * block], b + 4 * block);
            gpu_mma_f16(sum, a[2 * block + 1], b + 4 * block + 2);
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[i] = fmaf(d[block][i / 2], sum[i], acc[i]);
        }
    }

    __device__ __forceinline__ void apply_min(uint2 sums, float *acc) const
    {
        uint32_t fa[4] = {min[0], min[1], min[0], min[1]}, fb[2] = {sums.x, sums.y};

        gpu_mma_f16(acc, fa, fb);
    }

    static __device__ float value(const uint8_t *unit, uint32_t row, uint32_t k)
    {
        float q = (float)((int)mm_code<BITS, LAYOUT.high>(unit, row, k) - ZERO);
        uint32_t block = k / 32;
        float scale =
            gpu_f16_to_f32((uint16_t)mm_load16(unit + LAYOUT.d + (block * 8 + row % 8) * 4 + row / 8 * 2));

        if (!MIN)
            return __fmul_rn(q, scale);
        return __fadd_rn(__fmul_rn(q, scale),
                         gpu_f16_to_f32((uint16_t)mm_load16(unit + LAYOUT.min + (row * 4 + block) * 2)));
    }
};

/* Q4_K and Q5_K: d * scale * code - dmin * min, scale and min of 32 values each. */
template <int BITS, const struct mm_layout &LAYOUT> struct mm_k45 {
    static constexpr struct mm_layout layout = LAYOUT;
    static constexpr uint32_t parts = 1;
    static constexpr bool has_min = true;
    uint32_t a[4][4], min[2];
    float d[2], dmin[2];

    static __device__ __forceinline__ uint32_t two_mins(const uint8_t *unit, uint32_t row, uint32_t t)
    {
        uint32_t byte = unit[LAYOUT.min + row * 4 + t],
                 nibble = mm_load16(unit + LAYOUT.min + 64 + row * 2) >> 4 * t & 15;

        return (byte & 63) | (byte >> 6 | nibble << 2) << 16;
    }

    __device__ __forceinline__ void load(const uint8_t *unit, uint32_t step, uint32_t lane, uint32_t)
    {
        mm_raw<BITS> raw;
        uint32_t g = lane / 4, t = lane % 4, scales = mm_load32(unit + LAYOUT.scale + g * 16 + step * 4);
        uint2 ds = *(const uint2 *)(unit + LAYOUT.d + g * 8);

        mm_read<BITS, LAYOUT.high>(raw, unit, step, lane);
#pragma unroll
        for (int b = 0; b < 2; b++) {
            uint32_t scale[2], bias[2];

#pragma unroll
            for (int r = 0; r < 2; r++) {
                scale[r] = gpu_sub_f16x2(mm_byte2(scales, 2 * b + r), 0x64006400);
                bias[r] = mm_fma2(scale[r], 0xe400e400, 0); /* -1024 scale */
            }
#pragma unroll
            for (int m = 2 * b; m < 2 * b + 2; m++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    a[m][i] = mm_fma2(mm_biased(raw, m, i), scale[i % 2], bias[i % 2]);
        }
        d[0] = mm_low(ds.x);
        d[1] = mm_high(ds.x);
        if (step == 0) {
            dmin[0] = mm_low(ds.y);
            dmin[1] = mm_high(ds.y);
            min[0] = gpu_sub_f16x2(two_mins(unit, g, t) | 0x64006400, 0x64006400);
            min[1] = gpu_sub_f16x2(two_mins(unit, g + 8, t) | 0x64006400, 0x64006400);
        }
    }

    __device__ __forceinline__ void apply(const uint32_t *b, float *acc) const
    {
        float sum[4] = {0, 0, 0, 0};

#pragma unroll
        for (int m = 0; m < 4; m++)
            gpu_mma_f16(sum, a[m], b + 2 * m);
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[i] = fmaf(d[i / 2], sum[i], acc[i]);
    }

    __device__ __forceinline__ void apply_min(uint2 sums, float *acc) const
    {
        uint32_t fa[4] = {min[0], min[1], min[0], min[1]}, fb[2] = {sums.x, sums.y};
        float sum[4] = {0, 0, 0, 0};

        gpu_mma_f16(sum, fa, fb);
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[i] = fmaf(-dmin[i / 2], sum[i], acc[i]);
    }

    static __device__ float value(const uint8_t *unit, uint32_t row, uint32_t k)
    {
        const uint8_t *ds = unit + LAYOUT.d + row % 8 * 8 + row / 8 * 2;
        uint32_t block = k / 32, mins = two_mins(unit, row, block / 2);
        float scale = __fmul_rn(gpu_f16_to_f32((uint16_t)mm_load16(ds)),
                                (float)unit[LAYOUT.scale + row % 8 * 16 + block * 2 + row / 8]);
        float m =
            __fmul_rn(gpu_f16_to_f32((uint16_t)mm_load16(ds + 4)), (float)(mins >> 16 * (block % 2) & 63));

        return __fadd_rn(__fmul_rn(scale, (float)mm_code<BITS, LAYOUT.high>(unit, row, k)), -m);
    }
};

/* d * scale * (code - 32), a signed scale for 16 values. Scale times code needs 12 bits, one more than f16 has. */
struct mm_k6 {
    static constexpr struct mm_layout layout = mm_layout_q6_k;
    static constexpr uint32_t parts = 1;
    static constexpr bool has_min = false;
    uint32_t a[4][4];
    float scale[4][2];

    __device__ __forceinline__ void load(const uint8_t *unit, uint32_t step, uint32_t lane, uint32_t)
    {
        mm_raw<6> raw;
        uint32_t g = lane / 4, both = mm_load32(unit + mm_layout_q6_k.d + g * 4);
        uint2 bytes = *(const uint2 *)(unit + mm_layout_q6_k.scale + g * 32 + step * 8);
        float d = mm_low(both), d8 = mm_high(both);

        mm_read<6, mm_layout_q6_k.high>(raw, unit, step, lane);
#pragma unroll
        for (int m = 0; m < 4; m++) {
            uint32_t two =
                gpu_sub_f16x2(mm_bytes2(m < 2 ? bytes.x : bytes.y, m % 2), 0x64806480); /* 1024 + 128 */

            scale[m][0] = __fmul_rn(d, mm_low(two));
            scale[m][1] = __fmul_rn(d8, mm_high(two));
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = gpu_sub_f16x2(mm_biased(raw, m, i), 0x64206420); /* 1024 + 32 */
        }
    }

    __device__ __forceinline__ void apply(const uint32_t *b, float *acc) const
    {
#pragma unroll
        for (int m = 0; m < 4; m++) {
            float sum[4] = {0, 0, 0, 0};

            gpu_mma_f16(sum, a[m], b + 2 * m);
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[i] = fmaf(scale[m][i / 2], sum[i], acc[i]);
        }
    }

    __device__ __forceinline__ void apply_min(uint2, float *) const
    {
    }

    static __device__ float value(const uint8_t *unit, uint32_t row, uint32_t k)
    {
        float d = gpu_f16_to_f32((uint16_t)mm_load16(unit + mm_layout_q6_k.d + row % 8 * 4 + row / 8 * 2));
        int scale_byte = unit[mm_layout_q6_k.scale + row % 8 * 32 + k / 16 * 2 + row / 8];

        return __fmul_rn(__fmul_rn(d, (float)(scale_byte - 128)),
                         (float)((int)mm_code<6, mm_layout_q6_k.high>(unit, row, k) - 32));
    }
};

/* ---- the end of a sum ---- */

static __device__ __forceinline__ void mm_store(const struct mm_one &one, const float *__restrict__ unscale,
                                                uint32_t row, uint32_t token, float sum)
{
    float *out = one.out + (uint64_t)token * one.rows + row;

    sum = __fmul_rn(sum, unscale[token]);
    if (one.bias != NULL)
        sum = __fadd_rn(sum, one.bias[row]);
    if (one.accumulate)
        sum = __fadd_rn(*out, sum);
    *out = sum;
}

/* The weight that a block belongs to; block becomes its number there. */
static __device__ __forceinline__ const struct mm_one &mm_pick(const struct mm_call &call, uint32_t per_block,
                                                               uint32_t *block)
{
    uint32_t i = 0;

    for (; i + 1 < call.n_ones; i++) {
        uint32_t blocks = (call.one[i].rows + per_block - 1) / per_block;

        if (*block < blocks)
            break;
        *block -= blocks;
    }
    return call.one[i];
}

/* One part of 8 tokens and 64 columns; zeros for tokens past the end. */
static __device__ __forceinline__ void mm_load_b(uint32_t *b, const uint4 *at, bool valid)
{
    uint4 v = make_uint4(0, 0, 0, 0), w = v;

    if (valid) {
        v = __ldg(at);
        w = __ldg(at + MM_WARP);
    }
    b[0] = v.x;
    b[1] = v.y;
    b[2] = v.z;
    b[3] = v.w;
    b[4] = w.x;
    b[5] = w.y;
    b[6] = w.z;
    b[7] = w.w;
}

/* ---- few tokens: memory-bound ----
 *
 * A block is call.splits warps over the same RT tiles of rows and NT tiles of tokens; each warp sums its split of the columns, then the
 * block adds the splits in order. A warp has a ring of its own in shared memory, into which MM_STAGES - 1 units per tile of rows are
 * on their way (4.6 KiB of Q4_K, 4 KiB of F16: nine 16-byte copies a lane). Four blocks of 8 warps fit on an H100's SM for NT = 1.
 * Floor: each weight is read once per 8 NT tokens: rows * cols * bits / 8 bytes; the activations come from the caches. */

template <uint32_t RT, uint32_t NT> static __host__ __device__ constexpr uint32_t mm_split_red_row(void)
{
    return RT * MM_ROWS + 4; /* floats; 4 keep the lanes on banks of their own */
}

template <typename F, uint32_t RT, uint32_t NT> static constexpr uint32_t mm_split_shared(uint32_t splits)
{
    uint32_t ring = splits * MM_STAGES * RT * F::layout.bytes;
    uint32_t reduce = splits * NT * MM_TOKENS * mm_split_red_row<RT, NT>() * (uint32_t)sizeof(float);

    return ring > reduce ? ring : reduce;
}

/* One unit of RT tiles, by one warp. */
template <typename F, uint32_t RT>
static __device__ __forceinline__ void mm_stage_unit(uint8_t *to, const uint8_t *w, uint64_t tile_bytes,
                                                     uint32_t n_tiles, uint32_t lane)
{
#pragma unroll
    for (uint32_t r = 0; r < RT; r++)
#pragma unroll
        for (uint32_t i = 0; i < F::layout.bytes; i += MM_WARP * 16)
            if (i + lane * 16 < F::layout.bytes)
                gpu_copy16_async(to + r * F::layout.bytes + i + lane * 16, w + r * tile_bytes + i + lane * 16,
                                 r < n_tiles);
}

template <typename F, uint32_t RT, uint32_t NT>
static __global__ void __launch_bounds__(MM_SPLITS_MAX *MM_WARP, NT == 1 ? 4 : 1)
    mm_split(struct mm_call call)
{
    constexpr uint32_t UNIT = F::layout.bytes, STEPS = F::layout.k / MM_STEP;
    GPU_DYNAMIC_SHARED(uint8_t, shared);
    uint32_t block = blockIdx.x, warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP, g = lane / 4,
             t = lane % 4;
    const struct mm_one &one = mm_pick(call, RT * MM_ROWS, &block);
    uint32_t row0 = block * RT * MM_ROWS, token0 = blockIdx.y * NT * MM_TOKENS, n = call.x.n - token0;
    uint32_t first = warp * call.units / call.splits, end = (warp + 1) * call.units / call.splits;
    uint32_t row_tiles = (one.rows - row0 + MM_ROWS - 1) / MM_ROWS;
    uint64_t tile_bytes = (uint64_t)call.units * UNIT, b_tile = (uint64_t)call.x.k_pad / 32 * MM_WARP;
    const uint8_t *w = one.w + row0 / MM_ROWS * tile_bytes;
    const uint4 *values = call.x.values + token0 / MM_TOKENS * b_tile + lane;
    const uint2 *sums =
        call.x.sums + (uint64_t)token0 / MM_TOKENS * (call.x.k_pad / MM_GROUP) * MM_WARP + lane;
    uint8_t *ring = shared + warp * MM_STAGES * RT * UNIT;
    float acc[RT][NT][4];

#pragma unroll
    for (uint32_t i = 0; i < RT * NT * 4; i++)
        acc[i / 4 / NT][i / 4 % NT][i % 4] = 0;
    for (uint32_t i = 0; i < MM_STAGES - 1; i++) {
        if (first + i < end)
            mm_stage_unit<F, RT>(ring + i * RT * UNIT, w + (uint64_t)(first + i) * UNIT, tile_bytes,
                                 row_tiles, lane);
        gpu_copy_commit();
    }
    for (uint32_t u = first, slot = 0, ahead = MM_STAGES - 1; u < end; u++) {
        gpu_copy_wait<MM_STAGES - 2>();
        __syncwarp(); /* the others' copies are here, and the slot that is filled next has been read by all */
        if (u + MM_STAGES - 1 < end)
            mm_stage_unit<F, RT>(ring + ahead * RT * UNIT, w + (uint64_t)(u + MM_STAGES - 1) * UNIT,
                                 tile_bytes, row_tiles, lane);
        gpu_copy_commit();
#pragma unroll
        for (uint32_t step = 0; step < STEPS; step++) {
            uint32_t b[NT][F::parts * 8];
            F f[RT];

#pragma unroll
            for (uint32_t nt = 0; nt < NT; nt++)
#pragma unroll
                for (uint32_t part = 0; part < F::parts; part++)
                    mm_load_b(b[nt] + part * 8,
                              values + part * call.x.part + nt * b_tile + (u * STEPS + step) * 2 * MM_WARP,
                              nt * MM_TOKENS + g < n);
#pragma unroll
            for (uint32_t r = 0; r < RT; r++)
                f[r].load(ring + (slot * RT + r) * UNIT, step, lane, u);
#pragma unroll
            for (uint32_t nt = 0; nt < NT; nt++) {
                if (nt * MM_TOKENS >= n)
                    break;
                if (F::has_min && step == 0) {
                    uint2 s = make_uint2(0, 0);

                    if (nt * MM_TOKENS + g < n)
                        s = __ldg(sums +
                                  (nt * (call.x.k_pad / MM_GROUP) + u * F::layout.k / MM_GROUP) * MM_WARP);
#pragma unroll
                    for (uint32_t r = 0; r < RT; r++)
                        f[r].apply_min(s, acc[r][nt]);
                }
#pragma unroll
                for (uint32_t r = 0; r < RT; r++)
                    f[r].apply(b[nt], acc[r][nt]);
            }
        }
        slot = slot + 1 == MM_STAGES ? 0 : slot + 1;
        ahead = ahead + 1 == MM_STAGES ? 0 : ahead + 1;
    }
    gpu_copy_wait<0>();
    __syncthreads(); /* the rings become room for the sums */

    constexpr uint32_t ROW = mm_split_red_row<RT, NT>(), PART = NT * MM_TOKENS * ROW;
    float *parts = (float *)shared;

#pragma unroll
    for (uint32_t r = 0; r < RT; r++)
#pragma unroll
        for (uint32_t nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                parts[warp * PART + (nt * MM_TOKENS + 2 * t + i % 2) * ROW + r * MM_ROWS + g + i / 2 * 8] =
                    acc[r][nt][i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < NT * MM_TOKENS * RT * MM_ROWS; i += blockDim.x) {
        uint32_t token = i / (RT * MM_ROWS), row = i % (RT * MM_ROWS);
        float sum = 0;

        if (token >= n || row0 + row >= one.rows)
            continue;
        for (uint32_t s = 0; s < call.splits; s++)
            sum = __fadd_rn(sum, parts[s * PART + token * ROW + row]);
        mm_store(one, call.x.unscale, row0 + row, token0 + token, sum);
    }
}

/* ---- many tokens ----
 *
 * A block takes 128 rows and 128 tokens, in steps of 64 columns through shared memory. A warp takes 32 rows and 64 tokens; it turns its
 * codes into f16 in registers: each code twice per block, by the two warps that share it, which costs less than a second trip
 * through shared memory. The splits are added where they end. Floor per block and 64 columns: 8 KiB of activations and of F16, 9 KiB of
 * Q4_K; 128 mma of each warp. */

template <typename F> static __host__ __device__ constexpr uint32_t mm_tiles_slots(void)
{
    return F::layout.k == MM_STEP ? MM_STAGES : 2;
}

template <typename F> static constexpr uint32_t mm_tiles_shared(void)
{
    return mm_tiles_slots<F>() * MM_BLOCK_ROWS * F::layout.bytes +
           F::parts * MM_STAGES * MM_BLOCK_TOKENS * 2 * MM_WARP * 16;
}

template <typename F> static __global__ void __launch_bounds__(MM_THREADS, 1) mm_tiles(struct mm_call call)
{
    constexpr uint32_t UNIT = F::layout.bytes, STEPS = F::layout.k / MM_STEP, SLOTS = mm_tiles_slots<F>();
    constexpr uint32_t B_PART = MM_BLOCK_TOKENS * 2 * MM_WARP * 16, B_STEP = F::parts * B_PART;
    GPU_DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *b_ring = shared + SLOTS * MM_BLOCK_ROWS * UNIT;
    uint32_t block = blockIdx.x, warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP, g = lane / 4,
             t = lane % 4;
    const struct mm_one &one = mm_pick(call, MM_BLOCK_ROWS * MM_ROWS, &block);
    uint32_t row0 = block * MM_BLOCK_ROWS * MM_ROWS, token0 = blockIdx.y * MM_BLOCK_TOKENS * MM_TOKENS;
    uint32_t n = call.x.n - token0, row_tiles = (one.rows - row0 + MM_ROWS - 1) / MM_ROWS;
    uint32_t my_row_tile = warp % 4 * MM_WARP_ROWS, my_token_tile = warp / 4 * MM_WARP_TOKENS;
    uint64_t tile_bytes = (uint64_t)call.units * UNIT, b_tile = (uint64_t)call.x.k_pad / 32 * MM_WARP;
    uint32_t groups = call.x.k_pad / MM_GROUP;
    const uint8_t *w = one.w + row0 / MM_ROWS * tile_bytes;
    const uint4 *values = call.x.values + token0 / MM_TOKENS * b_tile;
    const uint2 *sums =
        call.x.sums + ((uint64_t)token0 / MM_TOKENS + my_token_tile) * groups * MM_WARP + lane;
    float acc[MM_WARP_ROWS][MM_WARP_TOKENS][4], total[MM_WARP_ROWS][MM_WARP_TOKENS][4];

    auto stage = [&](uint32_t step) { /* the activations of a step, and the unit that begins with it */
                                      if (step % STEPS == 0) {
                                          uint32_t unit = step / STEPS;
                                          uint8_t *to = shared + unit % SLOTS * MM_BLOCK_ROWS * UNIT;

                                          for (uint32_t i = threadIdx.x; i < MM_BLOCK_ROWS * UNIT / 16;
                                               i += MM_THREADS) {
                                              uint32_t tile = i / (UNIT / 16), at = i % (UNIT / 16) * 16;

                                              gpu_copy16_async(to + tile * UNIT + at,
                                                               w + tile * tile_bytes + (uint64_t)unit * UNIT +
                                                                   at,
                                                               tile < row_tiles);
                                          }
                                      }
#pragma unroll
                                      for (uint32_t j = 0; j < B_STEP / 16 / MM_THREADS; j++) {
                                          uint32_t i = j * MM_THREADS + threadIdx.x, part = i / (B_PART / 16),
                                                   tile = i / 64 % MM_BLOCK_TOKENS, at = i % 64;

                                          gpu_copy16_async(b_ring + step % MM_STAGES * B_STEP + i * 16,
                                                           values + part * call.x.part + tile * b_tile +
                                                               step * 64 + at,
                                                           tile * MM_TOKENS + at % 32 / 4 < n);
                                      }
    };

#pragma unroll
    for (int i = 0; i < MM_WARP_ROWS * MM_WARP_TOKENS * 4; i++)
        acc[i / 4 / MM_WARP_TOKENS][i / 4 % MM_WARP_TOKENS][i % 4] =
            total[i / 4 / MM_WARP_TOKENS][i / 4 % MM_WARP_TOKENS][i % 4] = 0;
    for (uint32_t i = 0; i < MM_STAGES - 1; i++) {
        if (i < call.units * STEPS)
            stage(i);
        gpu_copy_commit();
    }
    for (uint32_t split = 0; split < call.splits; split++) {
        uint32_t first = split * call.units / call.splits, end = (split + 1) * call.units / call.splits;

        for (uint32_t i = first * STEPS; i < end * STEPS; i++) {
            uint32_t step = i % STEPS, unit = i / STEPS;
            const uint8_t *a_at = shared + (unit % SLOTS * MM_BLOCK_ROWS + my_row_tile) * UNIT;
            const uint8_t *b_at = b_ring + i % MM_STAGES * B_STEP + (my_token_tile * 64 + lane) * 16;
            F f[MM_WARP_ROWS];

            gpu_copy_wait<MM_STAGES - 2>();
            __syncthreads();
            if (i + MM_STAGES - 1 < call.units * STEPS)
                stage(i + MM_STAGES - 1);
            gpu_copy_commit();
            if (my_row_tile >= row_tiles)
                continue;
#pragma unroll
            for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
                f[r].load(a_at + r * UNIT, step, lane, unit);
#pragma unroll
            for (uint32_t nt = 0; nt < MM_WARP_TOKENS; nt++) {
                uint32_t b[F::parts * 8];

                if ((my_token_tile + nt) * MM_TOKENS >= n)
                    break;
                if (F::has_min && step == 0) {
                    uint2 s = make_uint2(0, 0);

                    if ((my_token_tile + nt) * MM_TOKENS + g < n)
                        s = __ldg(sums + (nt * groups + unit * F::layout.k / MM_GROUP) * MM_WARP);
#pragma unroll
                    for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
                        f[r].apply_min(s, acc[r][nt]);
                }
#pragma unroll
                for (uint32_t half = 0; half < F::parts * 2; half++)
                    mm_load4(b + half * 4, b_at + half / 2 * B_PART + nt * 1024 + half % 2 * 512);
#pragma unroll
                for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
                    f[r].apply(b, acc[r][nt]);
            }
        }
#pragma unroll
        for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
#pragma unroll
            for (uint32_t nt = 0; nt < MM_WARP_TOKENS; nt++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    total[r][nt][i] = __fadd_rn(total[r][nt][i], acc[r][nt][i]);
                    acc[r][nt][i] = 0;
                }
    }
#pragma unroll
    for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
#pragma unroll
        for (uint32_t nt = 0; nt < MM_WARP_TOKENS; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t row = row0 + (my_row_tile + r) * MM_ROWS + g + i / 2 * 8;
                uint32_t token = (my_token_tile + nt) * MM_TOKENS + 2 * t + i % 2;

                if (row < one.rows && token < n)
                    mm_store(one, call.x.unscale, row, token0 + token, total[r][nt][i]);
            }
}

/* ---- rows ---- */

/* A block per token and 1024 columns. */
template <typename F>
static __global__ void mm_embed(const uint8_t *__restrict__ w, const int32_t *__restrict__ ids, uint32_t cols,
                                uint32_t units, float *__restrict__ out)
{
    uint32_t row = (uint32_t)ids[blockIdx.x];
    const uint8_t *tile = w + (uint64_t)(row / MM_ROWS) * units * F::layout.bytes;

    for (uint32_t k = blockIdx.y * 1024 + threadIdx.x; k < cols && k < blockIdx.y * 1024 + 1024;
         k += blockDim.x)
        out[(uint64_t)blockIdx.x * cols + k] =
            F::value(tile + (uint64_t)(k / F::layout.k) * F::layout.bytes, row % MM_ROWS, k % F::layout.k);
}

/* ---- launches ---- */

template <typename F, uint32_t RT, uint32_t NT>
static void mm_launch_split(gpu_stream stream, const struct mm_call *call)
{
    uint32_t blocks = 0, shared = mm_split_shared<F, RT, NT>(call->splits);
    void (*kernel)(struct mm_call) = mm_split<F, RT, NT>;

    for (uint32_t i = 0; i < call->n_ones; i++)
        blocks += (call->one[i].rows + RT * MM_ROWS - 1) / (RT * MM_ROWS);
    gpu_allow_shared(kernel, shared);
    GPU_LAUNCH(kernel, dim3(blocks, (call->x.n + NT * MM_TOKENS - 1) / (NT * MM_TOKENS)),
               call->splits * MM_WARP, shared, stream, *call);
}

template <typename F> static void mm_launch(gpu_stream stream, enum mm_path path, const struct mm_call *call)
{
    uint32_t blocks = 0,
             across = (call->x.n + MM_BLOCK_TOKENS * MM_TOKENS - 1) / (MM_BLOCK_TOKENS * MM_TOKENS);
    void (*kernel)(struct mm_call) = mm_tiles<F>;

    for (uint32_t i = 0; i < call->n_ones; i++)
        blocks += (call->one[i].rows + MM_BLOCK_ROWS * MM_ROWS - 1) / (MM_BLOCK_ROWS * MM_ROWS);
    if (path ==
        MM_AUTO) /* tiles once they fill most of a device's SMs, or the weights would be read too often */
        path = call->x.n <= MM_TOKENS                                    ? MM_SPLIT_8
               : call->x.n > 64 && (blocks * across >= 96 || across > 4) ? MM_TILES
                                                                         : MM_SPLIT_32;
    if (path == MM_SPLIT_8) {
        mm_launch_split<F, 1, 1>(stream, call);
        return;
    }
    if (path == MM_SPLIT_32) {
        mm_launch_split<F, 2, 4>(stream, call);
        return;
    }
    gpu_allow_shared(kernel, mm_tiles_shared<F>());
    GPU_LAUNCH(kernel, dim3(blocks, across), MM_THREADS, mm_tiles_shared<F>(), stream, *call);
}

template <typename F>
static void mm_launch_embed(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step,
                            float *out)
{
    void (*kernel)(const uint8_t *, const int32_t *, uint32_t, uint32_t, float *) = mm_embed<F>;

    GPU_LAUNCH(kernel, dim3(step->n_tokens, (w->cols + 1023) / 1024), 256, 0, stream, w->data, step->ids,
               w->cols, mm_units(w->type, w->cols), out);
}

#endif
