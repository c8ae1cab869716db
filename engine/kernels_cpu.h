/* CPU device internals shared by kernels_cpu*.c. Private to those files and their tests.
 *
 * Layouts:
 * - A "group" is 16 rows of a weight, one per vector lane. Packed weights (kernels_cpu_pack.c) interleave a group's rows, so that
 *   each lane sums its own row from the first column to the last: no horizontal sums, and an order of summation that does not depend
 *   on how many tokens are multiplied at once.
 * - A KV page of one layer and head holds K as [head_dim][16 tokens] (lanes are tokens) and V as [16 tokens][head_dim].
 */
#ifndef ENGINE_KERNELS_CPU_H
#define ENGINE_KERNELS_CPU_H

#include "engine/kernels.h"

#define ENG_LANES         16u
#define ENG_ATTEND_TOKENS 8u /* tokens that attend together */
#define ENG_ATTEND_ROWS   8u /* queries whose scores a thread holds: at least those of one token and KV head */

struct eng_weight {
    enum eng_type type;
    uint32_t rows, cols;
    uint8_t *raw; /* rows as in the file; NULL: packed */
    size_t raw_bytes;
    uint8_t *packed;    /* NULL: kernels read raw */
    size_t group_bytes; /* packed bytes of 16 rows */
};

/* Activations rounded to 8 bits in blocks of 32, row by row: x = d * q. */
struct eng_cpu_act {
    int8_t *q;          /* [n, stride * 32] */
    float *d;           /* [n, stride] */
    float *sum;         /* [n, stride]: d times the sum of q: meets the weights' minima */
    int32_t *neg_sum;   /* [n, stride]: minus the sum of q: meets the weights' offsets */
    int32_t *neg_sum16; /* [n, stride * 2]: the same for halves of a block */
    uint32_t stride;    /* blocks of a row */
};

struct eng_cpu_matmul {
    const struct eng_weight *w;
    const float *x;                /* [n, cols] */
    const struct eng_cpu_act *act; /* of x; NULL when no weight of the call needs it */
    uint32_t n;
    const float *bias; /* [rows] or NULL */
    float *out;        /* [n, rows] */
    bool accumulate;
};

struct eng_cpu_attention {
    enum eng_type type; /* of K and V */
    uint32_t n_heads, n_kv_heads, head_dim;
    const uint8_t *k, *v; /* page 0 of the layer */
    size_t page_bytes;    /* of one layer's K (or V) */
    const float *q;       /* [n_tokens, n_heads, head_dim] */
    float *out;           /* the same shape */
    const struct eng_step *step;
    uint32_t score_stride; /* floats of one head's scores, a multiple of 16 */
};

struct eng_cpu_kernels {
    const char *name, *label;
    bool packs; /* matmul wants packed weights and, for block formats, rounded activations */
    void (*rms_norm)(const float *x, const float *w, float eps, uint32_t n, float *out);
    void (*silu_mul)(float *gate, const float *up, size_t n);
    void (*to_f16)(const float *x, uint16_t *out, size_t n);
    /* Fills row `row` of act from x [cols]; cols is a multiple of 32. */
    void (*quantize)(const float *x, uint32_t cols, struct eng_cpu_act *act, uint32_t row);
    /* Groups [begin, end) of all n rows. scratch: cols floats. */
    void (*matmul)(const struct eng_cpu_matmul *mm, uint32_t begin, uint32_t end, float *scratch);
    /* All query heads of one KV head, for n tokens (at most ENG_ATTEND_TOKENS) that follow each other in one sequence. scratch:
     * ENG_ATTEND_ROWS * score_stride floats. */
    void (*attend)(const struct eng_cpu_attention *a, uint32_t token, uint32_t n, uint32_t kv_head,
                   float *scratch);
};

extern const struct eng_cpu_kernels eng_cpu_scalar;
#if defined(ENG_HAVE_X86_KERNELS)
extern const struct eng_cpu_kernels eng_cpu_avx2, eng_cpu_avx512;
#endif

/* Packed bytes of one group. */
size_t eng_cpu_group_bytes(enum eng_type type, uint32_t cols);
/* Packs rows [16 * group, 16 * group + 16); rows past the end are zero. */
void eng_cpu_pack(enum eng_type type, const uint8_t *raw, uint32_t rows, uint32_t cols, uint32_t group,
                  uint8_t *dst);

/* One row of a packed group (lane: its number modulo 16) to float32: the bits of eng_dequant. */
void eng_cpu_unpack_row(enum eng_type type, const uint8_t *group, uint32_t cols, uint32_t lane, float *out);

/* Header and bit sizes of the packed block formats, see kernels_cpu_pack.c. */
struct eng_cpu_format {
    uint16_t span;         /* columns of one unit: 32 or 256; 1 for float formats */
    uint16_t header_bytes; /* scales of 16 rows */
    uint16_t bits_bytes;   /* codes of 16 rows, 32 columns */
    uint8_t bits;          /* of one code */
};
struct eng_cpu_format eng_cpu_format(enum eng_type type);

#endif
