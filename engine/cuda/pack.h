/* Matrices on the device: layout, and how the host makes it. Private to engine/cuda/; C and C++.
 *
 * What: all formats but F32 are cut into tiles of 16 rows and these into units of `k` columns (mm_layout), zeros past the ends. A
 *       unit holds, in the order in which the lanes of mma.m16n8k16 want them as operand A:
 *         codes   4 bits: per 64 columns, per lane 16 bytes: word 2 b + s (b: 32 columns, s: 16 columns of these) has at bit
 *                 4 i + 16 h the code of register i, half h. 8 bits: per 32 columns, per lane 16 bytes, byte 8 s + 2 i + h.
 *                 F16, BF16: per 16 columns, per lane the four registers.
 *         high    the fifth bits: per 64 columns, per lane a word, bit 8 b + 4 s + i + 16 h; the upper pairs of Q6_K: two words, of
 *                 b, bit 2 (4 s + i) + 16 h.
 *         scale, d, min: below, with each format.
 *       Register i, half h of lane 4 g + t is row g + 8 (i % 2), column 8 (i / 2) + 2 t + h of its 16 columns.
 *       A matrix of 16-bit, Q8_0, Q4_0, Q5_0 or Q6_K weights takes what it takes in the file, Q4_K and Q5_K 1.4 % more.
 *       F32: rows of float, cols rounded up to 128; a unit is 128 columns of a row. Vectors: units of 64 values.
 * Who:  any thread; pure functions.
 */
#ifndef ENGINE_CUDA_PACK_H
#define ENGINE_CUDA_PACK_H

#ifdef __cplusplus
extern "C" {
#define MM_CONST inline constexpr
#else
#define MM_CONST static const
#endif

#include "engine/kernels.h"

#define GPU_ALIGN 256u

enum {
    MM_ROWS = 16, /* of a tile */
    MM_F32_COLS = 128
};

/* Offsets in bytes within a unit; 0: the format has none. */
struct mm_layout {
    uint32_t k, bits, bytes;
    uint32_t high, scale, d, min;
};

/* scale: Q4_K, Q5_K [8 g][8 blocks][rows g and g + 8] bytes; Q6_K [8 g][16 blocks][2] bytes, plus 128.
 * d:     32-value formats [blocks][8 g][2] f16; Q4_K, Q5_K [8 g] of f16 d of rows g and g + 8, dmin of both; Q6_K [8 g][2] f16.
 * min:   Q4_1, Q5_1 [16 rows][4 blocks] f16; Q4_K, Q5_K [16 rows][4] bytes, then [16 rows] of four nibbles: of blocks 2 t and 2 t + 1
 *        the byte has the first and the low two bits of the second, the nibble the rest. */
MM_CONST struct mm_layout mm_layout_16 = {64, 16, 2048, 0, 0, 0, 0};
MM_CONST struct mm_layout mm_layout_q8_0 = {128, 8, 2176, 0, 0, 2048, 0};
MM_CONST struct mm_layout mm_layout_q4_0 = {128, 4, 1152, 0, 0, 1024, 0};
MM_CONST struct mm_layout mm_layout_q4_1 = {128, 4, 1280, 0, 0, 1024, 1152};
MM_CONST struct mm_layout mm_layout_q5_0 = {128, 5, 1408, 1024, 0, 1280, 0};
MM_CONST struct mm_layout mm_layout_q5_1 = {128, 5, 1536, 1024, 0, 1280, 1408};
MM_CONST struct mm_layout mm_layout_q4_k = {256, 4, 2336, 0, 2048, 2176, 2240};
MM_CONST struct mm_layout mm_layout_q5_k = {256, 5, 2848, 2048, 2560, 2688, 2752};
MM_CONST struct mm_layout mm_layout_q6_k = {256, 6, 3360, 2048, 3072, 3328, 0};

/* k 0: F32, which has no tiles. */
struct mm_layout mm_layout_of(enum eng_type type);
uint32_t mm_units(enum eng_type type, uint32_t cols); /* of a row of tiles */

bool gpu_weight_supported(enum eng_type type, unsigned uses);
uint64_t
gpu_weight_bytes(const struct eng_weight_data *data); /* a multiple of GPU_ALIGN; data->data is not read */

/* A weight on the device is its units, one after the other, and zeros up to GPU_ALIGN. */
struct gpu_units {
    uint64_t n;
    uint32_t bytes; /* of each */
};
struct gpu_units gpu_weight_units(const struct eng_weight_data *data); /* data->data is not read */
/* Units [first, first + n), in any order, by any thread; host_out has n times their bytes. */
void gpu_weight_pack(const struct eng_weight_data *data, uint64_t first, uint64_t n, uint8_t *host_out);

#ifdef __cplusplus
}
#endif

#endif
