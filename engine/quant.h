/* Weight formats of GGML: sizes, names, and what each block means in float32. Private to engine/.
 *
 * Who:  any thread; pure functions.
 * Promises: eng_dequant gives the same bits as GGML's own to_float for every supported type.
 * Source: the block layouts of ggml-common.h (32 values a block for the _0 and _1 kinds, 256 for _K).
 */
#ifndef ENGINE_QUANT_H
#define ENGINE_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers are those of the file format. */
enum eng_type {
    ENG_F32 = 0,
    ENG_F16 = 1,
    ENG_Q4_0 = 2,
    ENG_Q4_1 = 3,
    ENG_Q5_0 = 6,
    ENG_Q5_1 = 7,
    ENG_Q8_0 = 8,
    ENG_Q4_K = 12,
    ENG_Q5_K = 13,
    ENG_Q6_K = 14,
    ENG_BF16 = 30,
    ENG_TYPE_END = 64
};

struct eng_type_info {
    const char *name;
    uint16_t block_values, block_bytes; /* 0 bytes: known by name, not supported */
    void (*dequant)(const uint8_t *blocks, float *out, size_t n_blocks);
};

/* NULL for a number that no GGML version knows. */
const struct eng_type_info *eng_type_info(uint32_t type);
bool eng_type_supported(uint32_t type);

/* Bytes of a row of n values; n must be a multiple of the type's block. */
size_t eng_row_bytes(enum eng_type type, size_t n);
/* n values (a multiple of the block) to float32. `src` needs no alignment. */
void eng_dequant(enum eng_type type, const void *src, float *out, size_t n);

float eng_f16_to_f32(uint16_t h);
uint16_t eng_f32_to_f16(float f); /* to nearest, ties to even */
float eng_bf16_to_f32(uint16_t h);

/* Scale and minimum number j (0..7) of a Q4_K/Q5_K block's 12 packed bytes: 6 bits each. */
void eng_k4_scale_min(int j, const uint8_t packed[12], uint8_t *ret_scale, uint8_t *ret_min);

#endif
