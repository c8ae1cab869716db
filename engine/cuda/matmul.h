/* Products: what the matmul files ask of each other. Private to engine/cuda/matmul*. How weights lie is in pack.h.
 *
 * What: activations (mm_x) lie as operand B: per 8 tokens and 32 columns, per lane 16 bytes.
 * Promises: the same bits of an element whichever kernel computes it: each split (mm_splits) sums by itself, in the order of columns,
 *       by the same instructions; the splits are added up in order.
 */
#ifndef ENGINE_CUDA_MATMUL_H
#define ENGINE_CUDA_MATMUL_H

#include "engine/cuda/launch.h"

enum {
    MM_TOKENS = 8,  /* of a tile */
    MM_STEP = 64,   /* columns that a kernel takes at a time */
    MM_GROUP = 256, /* the activations' columns are rounded up to these */
    MM_SPLITS_MAX = 8
};

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
