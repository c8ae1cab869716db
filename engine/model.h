/* A model: what a file's metadata and tensors mean. Private to engine/.
 *
 * What: turns a parsed GGUF file into one configuration, a table of checked weights and a vocabulary. Families: llama (also
 *       Mistral and its like), qwen2 and qwen3.
 * Who:  loaded by one thread, then read by any.
 * Promises: every number is checked against a limit below and against the others, every tensor's shape and type against the
 *           configuration; an unused tensor is an error (it would be a family that we do not know), a missing one too.
 * Source: tensor and key names of llama.cpp (gguf-py/gguf/constants.py); rope scaling as in Hugging Face modeling_rope_utils.
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "engine/engine.h"
#include "engine/kernels.h"
#include "engine/modelfile_gguf.h"

#define ENG_LAYERS_MAX 512u
#define ENG_EMBD_MAX   65536u
#define ENG_FF_MAX     524288u
#define ENG_HEADS_MAX  1024u

struct eng_config {
    char family[32];
    uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, rope_dim, n_vocab, n_ctx_train;
    float norm_eps;
    /* rotates (i, i + rope_dim/2) as qwen2 and qwen3 do; otherwise adjacent pairs as permuted llama files do */
    bool rope_halves;
    bool tied_output;   /* logits use token_embd */
    float rope_scale;   /* multiplies cos and sin (YaRN) */
    double *rope_freqs; /* [rope_dim / 2] radians per position, scaling applied */
};

/* Tensors inside the file; NULL when optional and absent. Matrices are [rows, cols] with cols = dims[0]. */
struct eng_layer {
    const struct eng_gguf_tensor *attn_norm; /* [n_embd] F32 */
    const struct eng_gguf_tensor *q, *k, *v,
        *o; /* q [n_heads*head_dim, n_embd], o [n_embd, n_heads*head_dim] */
    const struct eng_gguf_tensor *q_bias, *k_bias, *v_bias, *o_bias; /* F32 */
    const struct eng_gguf_tensor *q_norm, *k_norm;                   /* [head_dim] F32; qwen3 */
    const struct eng_gguf_tensor *ffn_norm;                          /* [n_embd] F32 */
    const struct eng_gguf_tensor *gate, *up, *down; /* gate, up [n_ff, n_embd], down [n_embd, n_ff] */
    const struct eng_gguf_tensor *gate_bias, *up_bias, *down_bias;
};

struct eng_model {
    struct eng_gguf *gguf;
    struct eng_config config;
    const struct eng_gguf_tensor *token_embd;  /* [n_vocab, n_embd] */
    const struct eng_gguf_tensor *output_norm; /* [n_embd] */
    const struct eng_gguf_tensor *output;      /* [n_vocab, n_embd]; token_embd when tied */
    struct eng_layer *layers;                  /* [n_layers] */

    bool has_vocab;
    struct eng_vocab vocab;       /* what it points at is owned here or lies in the file */
    struct eng_str chat_template; /* n = 0: none */
    struct eng_str name;

    char weights[16]; /* the type of most bytes */
    uint64_t n_params;
};

/* Takes `gguf` on success; on failure it stays the caller's. */
enum base_code eng_model_load(struct eng_model **ret_model, struct eng_gguf *gguf, struct base_err *err);
void eng_model_free(struct eng_model *model); /* NULL is allowed; frees the file too */

#endif
