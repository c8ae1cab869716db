/* How weights lie on the device. Private to engine/cuda/product*.cu.
 *
 * A matrix is cut into tiles of 16 rows, a tile into spans of 64 columns (256 for the K formats), each contiguous, so that a warp reads a
 * tile from its first byte to its last. A span holds a head (the K formats' d and dmin) and units of 64 columns. In a unit lies
 * what each of the 32 lanes needs for its fragments of four mma.m16n8k16, lane after lane, 16 bytes at a time:
 *
 *   F16, BF16   4 steps x 32 lanes x 16 bytes: the fragments as they are
 *   F32         8 x 32 x 16 bytes: fragment values 0..3 of a step, then 4..7
 *   4 bits      32 lanes x 16 bytes: a word a step; nibbles p and p + 4 are the two values of fragment register p
 *   5, 6 bits   and 32 lanes x 4 (8) bytes of upper bits
 *   8 bits      2 x 32 lanes x 16 bytes: two words a step; bytes 0 and 2 (1 and 3) are the values of registers 0, 2 (1, 3)
 *
 * then the scales: see gpu_scale_bytes. Codes are unsigned; `offset` is what to take off. Rows and columns past the end are zeros.
 */
#ifndef ENGINE_CUDA_PRODUCT_H
#define ENGINE_CUDA_PRODUCT_H

#include "engine/cuda/launch.h"

static constexpr uint32_t TILE_ROWS = 16, UNIT_COLS = 64, STEPS = 4, LANES = 32;

enum scale_kind {
    SCALE_NONE, /* float formats */
    SCALE_D,    /* per row and 32 columns: d */
    SCALE_DM,   /* d, m: value d q + m */
    SCALE_K, /* per row and 32 columns: scale, minimum of 8 bits; in the head d, dmin: value d scale q - dmin min */
    SCALE_K_16 /* per row and 16 columns: a signed scale of 8 bits; in the head d */
};

struct gpu_format {
    unsigned bits;      /* of a code; 0: a float format */
    unsigned span_cols; /* 64 or 256 */
    int offset;
    enum scale_kind scale;
};

static constexpr __host__ __device__ struct gpu_format gpu_format_of(enum eng_type type)
{
    switch (type) {
    case ENG_Q4_0: return {4, 64, 8, SCALE_D};
    case ENG_Q4_1: return {4, 64, 0, SCALE_DM};
    case ENG_Q5_0: return {5, 64, 16, SCALE_D};
    case ENG_Q5_1: return {5, 64, 0, SCALE_DM};
    case ENG_Q8_0: return {8, 64, 128, SCALE_D};
    case ENG_Q4_K: return {4, 256, 0, SCALE_K};
    case ENG_Q5_K: return {5, 256, 0, SCALE_K};
    case ENG_Q6_K: return {6, 256, 32, SCALE_K_16};
    default: return {0, 64, 0, SCALE_NONE};
    }
}

/* Bytes of a unit's 16-byte-a-lane part, of its upper bits, of its scales; of a span's head, of a span. */
static constexpr __host__ __device__ unsigned gpu_low_bytes(enum eng_type type)
{
    unsigned bits = gpu_format_of(type).bits;

    return type == ENG_F32 ? 4096 : bits == 0 ? 2048 : bits == 8 ? 1024 : 512;
}

static constexpr __host__ __device__ unsigned gpu_high_bytes(enum eng_type type)
{
    unsigned bits = gpu_format_of(type).bits;

    return bits == 5 ? 128 : bits == 6 ? 256 : 0;
}

static constexpr __host__ __device__ unsigned gpu_scale_bytes(enum eng_type type)
{
    switch (gpu_format_of(type).scale) {
    case SCALE_D: return 2 * TILE_ROWS * 2;
    case SCALE_DM: return 2 * TILE_ROWS * 4;
    case SCALE_K: return 2 * TILE_ROWS * 2;
    case SCALE_K_16: return 4 * TILE_ROWS;
    default: return 0;
    }
}

static constexpr __host__ __device__ unsigned gpu_head_bytes(enum eng_type type)
{
    enum scale_kind kind = gpu_format_of(type).scale;

    return kind == SCALE_K ? TILE_ROWS * 4 : kind == SCALE_K_16 ? TILE_ROWS * 2 : 0;
}

static constexpr __host__ __device__ unsigned gpu_unit_bytes(enum eng_type type)
{
    return gpu_low_bytes(type) + gpu_high_bytes(type) + gpu_scale_bytes(type);
}

static constexpr __host__ __device__ unsigned gpu_span_bytes(enum eng_type type)
{
    return gpu_head_bytes(type) + gpu_format_of(type).span_cols / UNIT_COLS * gpu_unit_bytes(type);
}

/* Where a value of a tile lies: its lane, fragment register (0..3) and half (0 low, 1 high) within a step of 16 columns. */
struct gpu_place_of_value {
    unsigned lane, reg, half;
};

static constexpr __host__ __device__ struct gpu_place_of_value gpu_place_in_step(unsigned row, unsigned col)
{
    return {row % 8 * 4 + col % 8 / 2, row / 8 + col / 8 * 2, col % 2};
}

#endif
