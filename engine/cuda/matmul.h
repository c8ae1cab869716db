/* Matrices on the device: layout, and what the matmul files ask of each other. Private to engine/cuda/matmul*.cu.
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
 *       F32: rows of float, cols rounded up to 128.
 *       Activations (mm_x) lie as operand B: per 8 tokens and 32 columns, per lane 16 bytes.
 * Promises: the same bits of an element whichever kernel computes it: each split (mm_splits) sums by itself, in the order of columns,
 *       by the same instructions; the splits are added up in order.
 */
#ifndef ENGINE_CUDA_MATMUL_H
#define ENGINE_CUDA_MATMUL_H

#include "engine/cuda/launch.h"

enum {
    MM_ROWS = 16,   /* of a tile */
    MM_TOKENS = 8,  /* of a tile */
    MM_STEP = 64,   /* columns that a kernel takes at a time */
    MM_GROUP = 256, /* the activations' columns are rounded up to these */
    MM_F32_COLS = 128,
    MM_SPLITS_MAX = 8
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
inline constexpr struct mm_layout mm_layout_16 = {64, 16, 2048, 0, 0, 0, 0};
inline constexpr struct mm_layout mm_layout_q8_0 = {128, 8, 2176, 0, 0, 2048, 0};
inline constexpr struct mm_layout mm_layout_q4_0 = {128, 4, 1152, 0, 0, 1024, 0};
inline constexpr struct mm_layout mm_layout_q4_1 = {128, 4, 1280, 0, 0, 1024, 1152};
inline constexpr struct mm_layout mm_layout_q5_0 = {128, 5, 1408, 1024, 0, 1280, 0};
inline constexpr struct mm_layout mm_layout_q5_1 = {128, 5, 1536, 1024, 0, 1280, 1408};
inline constexpr struct mm_layout mm_layout_q4_k = {256, 4, 2336, 0, 2048, 2176, 2240};
inline constexpr struct mm_layout mm_layout_q5_k = {256, 5, 2848, 2048, 2560, 2688, 2752};
inline constexpr struct mm_layout mm_layout_q6_k = {256, 6, 3360, 2048, 3072, 3328, 0};

/* k 0: F32, which has no tiles. */
struct mm_layout mm_layout_of(enum eng_type type);
uint32_t mm_units(enum eng_type type, uint32_t cols);

/* How many parts sum by themselves: one warp each where tokens are few. It depends on the weight's shape alone. Fewer for many rows,
 * whose blocks fill a device by themselves; a warp then has a longer stretch to read. */
static inline uint32_t mm_splits(uint32_t rows, uint32_t units)
{
    uint32_t splits = rows >= 8192 ? 4 : MM_SPLITS_MAX;

    return splits < units ? splits : units;
}

/* Activations, rounded and in the order of operand B. */
struct mm_x {
    const uint4 *values; /* [parts][tiles of 8 tokens][k_pad / 32][32 lanes]; tokens past n are not there */
    uint64_t part;       /* from one part of BF16's activations to the other */
    const uint2 *
        sums; /* [tiles][k_pad / 256][32 lanes]: the sum of each 32 columns as two f16, x: the high parts of blocks 2 t and
                             2 t + 1, y: the low parts */
    const float *unscale; /* [n] */
    uint32_t n, k_pad;
};

struct mm_one {
    const uint8_t *w;
    const float *bias;
    float *out;
    uint32_t rows;
    bool accumulate;
};

/* Weights of one format, one number of columns and one number of splits. */
struct mm_call {
    struct mm_one one[ENG_MATMULS_MAX];
    uint32_t n_ones, units, splits;
    struct mm_x x;
};

/* Which kernel: the result is the same. MM_TILES reads the weights once per 128 tokens, the others once per 8 and 32. */
enum mm_path { MM_AUTO = 0, MM_SPLIT_8, MM_SPLIT_32, MM_TILES };

void mm_launch_16(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call);
void mm_launch_q(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call);
void mm_launch_k(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call);
void mm_embed_16(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out);
void mm_embed_q(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out);
void mm_embed_k(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out);

/* gpu_matmul by a kernel of the caller's choice; for tests. */
void gpu_matmul_by(gpu_stream stream, enum mm_path path, const float *x, uint32_t n,
                   const struct gpu_matmul *mms, uint32_t n_mms, void *workspace);

#endif
