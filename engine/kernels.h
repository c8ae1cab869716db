/* The op table: what a graph may ask of a device. Private to engine/.
 *
 * What: one struct of functions per device kind. Everything that lies on a device (weights, activations, KV pages) is opaque to
 *       graphs, so that a CUDA plug-in can fill the same table. Activations are float32, row-major, one row per token.
 * Who:  the engine's thread alone; the functions without a device argument: any thread.
 * Promises: determinism: each element of a result is computed in an order that depends on the shapes of its own row and weight
 *           only, never on how many other rows the call has nor on the number of threads.
 *           Ops may run behind the caller; `finish` and `buf_read` wait, `finish` tells whether anything failed.
 * For a device plug-in (docs/engine.md has more):
 *   - attn_in and mlp_in are whole on purpose: a device may compute each in one kernel, or by parts; their `scratch` buffers are
 *     undefined afterwards.
 *   - Between step_begin and finish the ops depend only on the pointers given and on the step's n_tokens and n_logits, so that a
 *     device may record them once per such pair and replay (CUDA graphs): see step_begin.
 *   - eng_split tells how several ranks inside one device divide a weight; a buffer exists on each rank. A device of one ignores it.
 *   - Arguments that grow with new families (a window, a softcap, experts) are fields of the structs below, where zero means "none".
 * Not here: what a model is (graph_llama.h), who owns which KV page (kvcache.h).
 */
#ifndef ENGINE_KERNELS_H
#define ENGINE_KERNELS_H

#include "base/err.h"
#include "engine/engine.h"
#include "engine/quant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENG_PAGE_TOKENS  16u /* tokens of one KV page, on every device */
#define ENG_MATMULS_MAX  3u  /* weights that one matmul call applies to the same input */
#define ENG_HEAD_DIM_MAX 512u

struct eng_device;
struct eng_weight;   /* a matrix or vector on the device */
struct eng_buf;      /* activations on the device, float32 as seen from here */
struct eng_kv_store; /* all KV pages of all layers */

struct eng_device_options {
    unsigned n_threads; /* of the host; at least 1. A device needs them while weights come */
    unsigned index;     /* which of several devices */
    /* device memory that open takes, for all that follows: the sum of the *_bytes below. CPU: ignored */
    uint64_t reserve_bytes;
    uint32_t max_tokens;         /* rows of the largest step */
    uint32_t max_context;        /* positions of the longest sequence */
    uint32_t max_sequences;      /* page tables of one step */
    uint32_t max_logits;         /* rows of one step whose logits are asked for */
    uint32_t max_rows, max_cols; /* of any matrix that meets all tokens of a step */
    uint32_t n_vocab;            /* columns of the logits */
    uint32_t n_heads, head_dim;
};

/* What a weight is for. */
enum eng_use {
    ENG_USE_MATMUL = 1,
    ENG_USE_ROWS = 2 /* embed */
};

/* How ranks divide a matrix: not at all; by rows, so that each computes its own outputs; by columns, so that their outputs must be
 * added up when the matmul ends. */
enum eng_split { ENG_SPLIT_NONE = 0, ENG_SPLIT_ROWS, ENG_SPLIT_COLS };

struct eng_weight_data {
    enum eng_type type;
    uint32_t rows, cols; /* rows 0: a vector of cols values, F32 */
    unsigned uses;       /* of a matrix: enum eng_use, or'ed */
    enum eng_split split;
    const void *data; /* rows * row bytes of `type`; read during weight_new alone */
};

/* One step's tokens. Arrays are the caller's and may be reused once step_begin returned. */
struct eng_step {
    uint32_t n_tokens;
    const int32_t *ids;        /* [n_tokens], inside the vocabulary */
    const uint32_t *positions; /* [n_tokens], below max_context */
    const uint32_t *sequences; /* [n_tokens]: row of page_table */
    uint32_t n_sequences, pages_per_sequence;
    const uint32_t *page_table; /* [n_sequences, pages_per_sequence] */
    uint32_t n_logits;
    const uint32_t *logit_rows; /* [n_logits]: tokens of the step whose logits are wanted */
};

struct eng_matmul {
    const struct eng_weight *w;    /* [rows, cols] */
    const struct eng_weight *bias; /* [rows]; NULL: none */
    struct eng_buf *out;           /* [n, rows] */
    bool accumulate;               /* adds to what `out` holds */
};

/* h = rms_norm(x); q, k, v = h Wq, h Wk, h Wv; q and k turned by their positions; k and v into the cache. */
struct eng_attn_in {
    const struct eng_buf *x;       /* [n_tokens, cols] */
    const struct eng_weight *norm; /* [cols] */
    float eps;
    struct eng_matmul q, k,
        v; /* q.out is the result [n_tokens, n_heads, head_dim]; k.out and v.out are scratch */
    struct eng_buf *scratch; /* [n_tokens, cols] */
    /* [head_dim]; NULL: none. Each head of q (k) is divided by its own rms and multiplied by these, before it is turned. */
    const struct eng_weight *q_norm, *k_norm;
    uint32_t n_heads, n_kv_heads, head_dim;
    /* Cos then sin of each position, [max_context, rope_dim]. Turns pairs (i, i + rope_dim/2) when rope_halves, (2i, 2i+1)
     * otherwise; values past rope_dim stay. */
    const struct eng_weight *rope;
    uint32_t rope_dim;
    bool rope_halves;
    struct eng_kv_store *kv;
    uint32_t layer;
};

/* Each token attends to positions 0..its own; scale 1/sqrt(head_dim). */
struct eng_attention {
    const struct eng_kv_store *kv;
    uint32_t layer, n_heads;
    const struct eng_buf *q; /* [n_tokens, n_heads, head_dim] */
    struct eng_buf *out;     /* the same shape */
};

/* h = rms_norm(x); gate.out = silu(h Wgate) * (h Wup). */
struct eng_mlp_in {
    const struct eng_buf *x; /* [n_tokens, cols] */
    const struct eng_weight *norm;
    float eps;
    struct eng_matmul gate, up; /* gate.out is the result; up.out is scratch */
    struct eng_buf *scratch;    /* [n_tokens, cols] */
};

#define ENG_TOP_LOGPROBS_MAX 20u

struct eng_penalty {
    int32_t id;
    uint32_t count; /* times in the answer; 0: in the prompt alone */
};

/* How the next token of one row is chosen: sampler.h has the meaning of each parameter and the order in which they apply. */
struct eng_choice {
    struct eng_sampling params;
    double draw;                         /* the row's random number, in [0, 1) */
    uint32_t n_tokens;                   /* ids at or above it are never chosen */
    const struct eng_penalty *penalties; /* [n_penalties], each id once; NULL: none */
    uint32_t n_penalties;
    const uint32_t *mask; /* bit id % 32 of word id / 32: may be chosen; NULL: all may */
    uint32_t n_top;       /* log probabilities wanted, at most ENG_TOP_LOGPROBS_MAX */
};

struct eng_chosen {
    int32_t id; /* -1: no logit was a number above -infinity */
    /* Natural logarithms, of the softmax of the logits as the model gave them; only when n_top > 0, likeliest first, ties to the
     * lower id. */
    float logprob;
    int32_t top_ids[ENG_TOP_LOGPROBS_MAX];
    float top_logprobs[ENG_TOP_LOGPROBS_MAX];
};

struct eng_kv_shape {
    uint32_t n_layers, n_pages, n_heads, n_kv_heads, head_dim; /* n_heads: of the queries */
    enum eng_type type;                                        /* ENG_F32 or ENG_F16 */
};

struct eng_ops {
    const char *name;

    enum base_code (*open)(struct eng_device **ret_dev, const struct eng_device_options *options,
                           struct base_err *err);
    void (*close)(struct eng_device *dev);
    /* Device memory that each takes, to the byte, so that what does not fit is refused before anything is loaded. data->data is
     * not read. open_bytes: what the device holds for itself. CPU: host memory. */
    uint64_t (*open_bytes)(const struct eng_device_options *options);
    uint64_t (*weight_bytes)(const struct eng_weight_data *data);
    uint64_t (*buf_bytes)(size_t n_floats);
    /* One line for people: "2 threads, AVX-512 VNNI". */
    void (*describe)(const struct eng_device *dev, char *out, size_t out_bytes);

    enum base_code (*weight_new)(struct eng_device *dev, const struct eng_weight_data *data,
                                 struct eng_weight **ret_weight, struct base_err *err);
    void (*weight_free)(struct eng_device *dev, struct eng_weight *weight);
    enum base_code (*buf_new)(struct eng_device *dev, size_t n_floats, struct eng_buf **ret_buf,
                              struct base_err *err);
    void (*buf_free)(struct eng_device *dev, struct eng_buf *buf);
    void (*buf_read)(struct eng_device *dev, const struct eng_buf *buf, size_t first, float *out, size_t n);
    /* Zeroed. */
    enum base_code (*kv_new)(struct eng_device *dev, const struct eng_kv_shape *shape,
                             struct eng_kv_store **ret_kv, struct base_err *err);
    void (*kv_free)(struct eng_device *dev, struct eng_kv_store *kv);
    uint64_t (*kv_page_bytes)(const struct eng_kv_shape *shape); /* of all layers */
    void (*kv_wipe)(struct eng_device *dev, struct eng_kv_store *kv, uint32_t page);
    /* True when every byte of the page is zero; for tests and audits. */
    bool (*kv_is_wiped)(struct eng_device *dev, const struct eng_kv_store *kv, uint32_t page);

    /* True: the device has replayed a recording of a step of this shape, which is whole; the caller goes on to finish. */
    bool (*step_begin)(struct eng_device *dev, const struct eng_step *step);
    /* out [n_tokens, cols] = rows of w [vocab, cols] by the step's ids. */
    void (*embed)(struct eng_device *dev, const struct eng_weight *w, struct eng_buf *out);
    void (*attn_in)(struct eng_device *dev, const struct eng_attn_in *in);
    void (*attention)(struct eng_device *dev, const struct eng_attention *attention);
    void (*mlp_in)(struct eng_device *dev, const struct eng_mlp_in *in);
    /* Each out [n, rows] = x [n, cols] * w^T (+ bias); at most ENG_MATMULS_MAX with the same cols. */
    void (*matmul)(struct eng_device *dev, const struct eng_buf *x, uint32_t n, const struct eng_matmul *mms,
                   uint32_t n_mms);
    /* out [n_logits, cols] = the step's logit rows of x, each x / rms(x) * w, w [cols]. */
    void (*norm_rows)(struct eng_device *dev, const struct eng_buf *x, const struct eng_weight *w, float eps,
                      struct eng_buf *out);
    /* Chooses one token for each of the step's n_logits rows of logits [n_logits, n_vocab], which are undefined afterwards. */
    void (*sample)(struct eng_device *dev, struct eng_buf *logits, const struct eng_choice *choices);
    /* Waits for all ops. An error names op, shape and device; the step's results are undefined then. BASE_UNAVAILABLE: the device
     * is lost, and every later step fails too. */
    enum base_code (*finish)(struct eng_device *dev, struct base_err *err);
    /* What `sample` chose [n_logits]; after finish. */
    void (*chosen_read)(struct eng_device *dev, struct eng_chosen *out);
};

/* The CPU with kernels by name: "scalar" (the oracle: float32 activations, double sums), "avx2", "avx512"; NULL or "auto": the
 * fastest that this machine has. NULL when it is unknown or this machine lacks it. */
const struct eng_ops *eng_ops_cpu(const char *kernels);

#endif
