/* The weight formats on the device: how a warp reads 64 columns of a tile and multiplies them with 8 tokens. Private to
 * engine/cuda/matmul*.
 *
 * Arithmetic: codes become f16 integers, exactly; an mma multiplies them with the rounded activations and sums in float32. What a
 *       block of weights has in common is applied to the sum of at most 64 columns, in float32: acc = fma(d, sum, acc). So no d * q
 *       is ever rounded, nor is a small d lost in the subnormals of f16. The 6-bit scales of Q4_K and Q5_K are multiplied into the
 *       codes instead: at most 63 * 31 = 1953, which f16 holds exactly. What a block subtracts from each of its weights meets the sum of
 *       the block's activations: two f16 that make 22 bits, one mma for up to eight blocks.
 * Cost: Q4_K takes about 33 instructions per 16 x 32 weights (288 bytes) and 8 tokens, Q6_K 65 (420 bytes): a third to a half of
 *       what an H100 issues while that many bytes arrive.
 */
#ifndef ENGINE_CUDA_MATMUL_FORMATS_H
#define ENGINE_CUDA_MATMUL_FORMATS_H

#include "engine/cuda/matmul.h"

enum { MM_WARP = 32 };

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

#endif
