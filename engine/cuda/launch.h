/* What device.cu asks of the kernel files: each function puts its kernels on the stream and returns. Private to engine/cuda/.
 *
 * What: pointers are device memory unless they are called host; activations are float32, row-major, one row per token.
 * Promises: an element's bits depend on its own row and weight, and on positions and pages for attention, never on n or on the
 *           other rows of the call: sums run in an order that the weight's shape (attention: the split size) fixes, by the same
 *           instructions for few rows and for many. No function allocates, waits or reads device memory from the host.
 *           All memory that it needs beyond its arguments is the workspace, whose size the *_workspace functions give.
 * Errors: as the runtime reports them; device.cu asks after each function and names op and shape.
 */
#ifndef ENGINE_CUDA_LAUNCH_H
#define ENGINE_CUDA_LAUNCH_H

#include "engine/cuda/gpu.h"
#include "engine/cuda/pack.h"

#define GPU_SPLIT_TOKENS 256u /* keys that one attention split sums: fixed, so that the batch has no say */

/* A matrix or vector in the device's layout. */
struct gpu_weight {
    enum eng_type type;
    uint32_t rows, cols; /* rows 0: a vector of cols float32 */
    unsigned uses;       /* enum eng_use */
    const uint8_t *data;
    uint64_t bytes; /* a multiple of GPU_ALIGN */
};

/* The step's arrays, on the device. */
struct gpu_step {
    uint32_t n_tokens, n_logits, n_sequences, pages_per_sequence;
    const int32_t *ids;
    const uint32_t *positions, *sequences, *page_table, *logit_rows;
};

/* One layer of the cache: page p holds K, then V, each [n_kv_heads, ENG_PAGE_TOKENS, head_dim], at pages + p * page_stride bytes. */
struct gpu_kv_layer {
    uint8_t *pages;
    uint64_t page_stride;
    uint32_t n_kv_heads, head_dim;
    enum eng_type type; /* ENG_F16 or ENG_F32 */
};

/* ---- matmul.cu ---- */

struct gpu_matmul {
    const struct gpu_weight *w;
    const float *bias; /* [rows] or NULL */
    float *out;        /* [n, rows] */
    bool accumulate;
};
uint64_t gpu_matmul_workspace(uint32_t max_tokens, uint32_t max_rows, uint32_t max_cols, uint32_t max_logits,
                              uint32_t n_vocab);
/* Each out [n, rows] = x [n, cols] * w^T (+ bias) (+ out); all with the same cols. */
void gpu_matmul(gpu_stream stream, const float *x, uint32_t n, const struct gpu_matmul *mms, uint32_t n_mms,
                void *workspace);
/* out [n_tokens, cols] = rows ids of w. */
void gpu_embed(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out);

/* ---- layer.cu ---- */

/* out [n, cols] = x[rows[i]] / rms * w; rows NULL: all. */
void gpu_rms_norm(gpu_stream stream, const float *x, const uint32_t *rows, uint32_t n, uint32_t cols,
                  const float *w, float eps, float *out);

struct gpu_place { /* head norms, rotation, write into the cache */
    float *q;      /* [n_tokens, n_heads, head_dim], in place */
    const float *k, *v;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float eps;
    const float *rope; /* cos then sin, [max_context, rope_dim] */
    uint32_t n_heads, rope_dim;
    bool rope_halves;
};
void gpu_place(gpu_stream stream, const struct gpu_place *place, const struct gpu_kv_layer *kv,
               const struct gpu_step *step);
/* gate = silu(gate) * up, n values. */
void gpu_silu_mul(gpu_stream stream, float *gate, const float *up, uint64_t n);

/* ---- attention.cu ---- */

uint64_t gpu_attention_workspace(uint32_t max_tokens, uint32_t max_context, uint32_t n_heads,
                                 uint32_t head_dim);
/* Causal, scale 1/sqrt(head_dim). max_context: of the options, so that the launch does not depend on the step's positions. */
void gpu_attention(gpu_stream stream, const float *q, float *out, uint32_t n_heads,
                   const struct gpu_kv_layer *kv, const struct gpu_step *step, uint32_t max_context,
                   void *workspace);

/* ---- sample.cu ---- */

/* struct eng_choice with its arrays on the device; filled by device.cu in one upload. */
struct gpu_choice {
    struct eng_sampling params;
    double draw;
    uint32_t n_tokens, n_penalties, n_top;
    const struct eng_penalty *penalties;
    const uint32_t *mask;
};
uint64_t gpu_sample_workspace(uint32_t max_logits, uint32_t n_vocab);
/* choices and out [n] on the device. The choice is that of eng_choose (sampler.h) up to the rounding of sums. */
void gpu_sample(gpu_stream stream, float *logits, uint32_t n, uint32_t n_vocab,
                const struct gpu_choice *choices, struct eng_chosen *out, void *workspace);

#endif
