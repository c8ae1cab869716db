/* A GGUF writer for tests: builds files in memory, good ones and (by hand) bad ones; and small random models of any shape. */
#ifndef TESTS_ENGINE_GGUFWRITER_H
#define TESTS_ENGINE_GGUFWRITER_H

#include "base/buf.h"
#include "base/mem.h"
#include "engine/modelfile_gguf.h"

#include <stdio.h>
#include <string.h>

#define GW_TENSORS_MAX 256

struct gw {
    struct base_buf kv, infos, data; /* entries; the header is made at the end */
    uint64_t n_kv, n_tensors;
    uint32_t version, alignment;
};

__attribute__((unused)) static void gw_init(struct gw *w)
{
    *w = (struct gw){.kv = BASE_BUF_INIT(64 << 20),
                     .infos = BASE_BUF_INIT(1 << 20),
                     .data = BASE_BUF_INIT(256 << 20),
                     .version = 3,
                     .alignment = 32};
}

__attribute__((unused)) static void gw_free(struct gw *w)
{
    base_buf_free(&w->kv);
    base_buf_free(&w->infos);
    base_buf_free(&w->data);
}

__attribute__((unused)) static void gw_u32(struct base_buf *b, uint32_t v)
{
    base_buf_append(b, &v, 4);
}

__attribute__((unused)) static void gw_u64(struct base_buf *b, uint64_t v)
{
    base_buf_append(b, &v, 8);
}

__attribute__((unused)) static void gw_str(struct base_buf *b, const char *s, size_t n)
{
    gw_u64(b, n);
    base_buf_append(b, s, n);
}

/* Key and type; the caller appends the value to w->kv. */
__attribute__((unused)) static void gw_key(struct gw *w, const char *key, uint32_t type)
{
    gw_str(&w->kv, key, strlen(key));
    gw_u32(&w->kv, type);
    w->n_kv++;
}

__attribute__((unused)) static void gw_kv_u32(struct gw *w, const char *key, uint32_t v)
{
    gw_key(w, key, ENG_GGUF_U32);
    gw_u32(&w->kv, v);
}

__attribute__((unused)) static void gw_kv_f32(struct gw *w, const char *key, float v)
{
    gw_key(w, key, ENG_GGUF_F32);
    base_buf_append(&w->kv, &v, 4);
}

__attribute__((unused)) static void gw_kv_str(struct gw *w, const char *key, const char *v)
{
    gw_key(w, key, ENG_GGUF_STRING);
    gw_str(&w->kv, v, strlen(v));
}

__attribute__((unused)) static void gw_kv_bool(struct gw *w, const char *key, bool v)
{
    gw_key(w, key, ENG_GGUF_BOOL);
    base_buf_append_char(&w->kv, v);
}

__attribute__((unused)) static void gw_kv_array(struct gw *w, const char *key, uint32_t elem_type, uint64_t n,
                                                const void *values, size_t bytes)
{
    gw_key(w, key, ENG_GGUF_ARRAY);
    gw_u32(&w->kv, elem_type);
    gw_u64(&w->kv, n);
    base_buf_append(&w->kv, values, bytes);
}

/* A directory entry with whatever it is told. */
__attribute__((unused)) static void gw_info(struct gw *w, const char *name, uint32_t n_dims,
                                            const uint64_t *dims, uint32_t type, uint64_t offset)
{
    gw_str(&w->infos, name, strlen(name));
    gw_u32(&w->infos, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 5; i++)
        gw_u64(&w->infos, dims[i]);
    gw_u32(&w->infos, type);
    gw_u64(&w->infos, offset);
    w->n_tensors++;
}

/* A tensor [rows, cols] (rows 0: a vector) with its data. */
__attribute__((unused)) static void gw_tensor(struct gw *w, const char *name, uint64_t rows, uint64_t cols,
                                              uint32_t type, const void *data, size_t bytes)
{
    uint64_t dims[2] = {cols, rows};

    while (w->data.len % w->alignment != 0)
        base_buf_append_char(&w->data, 0);
    gw_info(w, name, rows == 0 ? 1 : 2, dims, type, w->data.len);
    base_buf_append(&w->data, data, bytes);
}

/* The file; free() it. Its address is aligned as a mapping would be. */
__attribute__((unused)) static uint8_t *gw_finish(struct gw *w, size_t *ret_len)
{
    struct base_buf out = BASE_BUF_INIT(512 << 20);
    uint8_t *file;

    base_buf_append(&out, "GGUF", 4);
    gw_u32(&out, w->version);
    gw_u64(&out, w->n_tensors);
    gw_u64(&out, w->n_kv);
    base_buf_append(&out, w->kv.data, w->kv.len);
    base_buf_append(&out, w->infos.data, w->infos.len);
    while (w->alignment > 0 && out.len % w->alignment != 0)
        base_buf_append_char(&out, 0);
    base_buf_append(&out, w->data.data, w->data.len);
    file = aligned_alloc(64, (out.len + 127) / 64 * 64);
    memcpy(file, out.data, out.len);
    *ret_len = out.len;
    base_buf_free(&out);
    return file;
}

/* Small deterministic random numbers. */
__attribute__((unused)) static uint32_t gw_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

__attribute__((unused)) static float gw_normal(uint64_t *state) /* near enough: variance 1 */
{
    float sum = 0;

    for (int i = 0; i < 12; i++)
        sum += (float)(gw_random(state) & 0xffffff) / 0x1000000;
    return sum - 6;
}

/* Random weights of about the given size in any supported type: random bits everywhere, sane scales. */
__attribute__((unused)) static uint8_t *gw_weights(enum eng_type type, uint64_t rows, uint64_t cols,
                                                   float scale, uint64_t *state, size_t *ret_bytes)
{
    const struct eng_type_info *info = eng_type_info(type);
    size_t bytes = rows * eng_row_bytes(type, cols), block = info->block_bytes;
    uint8_t *p = base_alloc(bytes);

    if (info->block_values == 1) {
        for (size_t i = 0; i < rows * cols; i++) {
            float v = gw_normal(state) * scale;
            uint16_t half = type == ENG_F16 ? eng_f32_to_f16(v) : 0;
            uint32_t bits;

            memcpy(&bits, &v, 4);
            if (type == ENG_F32)
                memcpy(p + 4 * i, &v, 4);
            else {
                half = type == ENG_F16 ? half : (uint16_t)(bits >> 16);
                memcpy(p + 2 * i, &half, 2);
            }
        }
        *ret_bytes = bytes;
        return p;
    }
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(gw_random(state) >> 7);
    for (size_t b = 0; b < bytes / block; b++) {
        uint8_t *q = p + b * block;
        float jitter = 0.5f + (float)(gw_random(state) & 0xff) / 256;
        float step = type == ENG_Q8_0                       ? scale / 73
                     : type == ENG_Q6_K                     ? scale / 1350
                     : type == ENG_Q5_K                     ? scale / 290
                     : type == ENG_Q4_K                     ? scale / 145
                     : type == ENG_Q5_0 || type == ENG_Q5_1 ? scale / 9.2f
                                                            : scale / 4.6f;
        uint16_t d = eng_f32_to_f16(step * jitter),
                 m = eng_f32_to_f16(-step * jitter * (type == ENG_Q5_1 ? 15.5f : 7.5f));

        memcpy(q + (type == ENG_Q6_K ? 208 : 0), &d, 2);
        if (type == ENG_Q4_1 || type == ENG_Q5_1)
            memcpy(q + 2, &m, 2);
        if (type == ENG_Q4_K || type == ENG_Q5_K) { /* the minimum is about the middle of the codes */
            m = eng_f32_to_f16(step * jitter * (type == ENG_Q5_K ? 15.5f : 7.5f));
            memcpy(q + 2, &m, 2);
        }
    }
    *ret_bytes = bytes;
    return p;
}

struct gw_model {
    const char *arch;
    uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, rope_dim, n_vocab, n_ctx;
    enum eng_type type;      /* of matrices */
    enum eng_type embd_type; /* of token_embd and output */
    bool biases, tied;
};

__attribute__((unused)) static void gw_random_tensor(struct gw *w, const char *name, uint64_t rows,
                                                     uint64_t cols, enum eng_type type, float scale,
                                                     float add, uint64_t *state)
{
    size_t bytes;
    uint8_t *p = gw_weights(type, rows == 0 ? 1 : rows, cols, scale, state, &bytes);

    for (size_t i = 0; add != 0 && i < cols; i++)
        ((float *)(void *)p)[i] += add;
    gw_tensor(w, name, rows, cols, type, p, bytes);
    free(p);
}

/* Metadata and tensors of a random model (no tokenizer). */
__attribute__((unused)) static void gw_put_model(struct gw *w, const struct gw_model *m, uint64_t seed)
{
    static const char *const keys[] = {"block_count",
                                       "embedding_length",
                                       "feed_forward_length",
                                       "attention.head_count",
                                       "attention.head_count_kv",
                                       "attention.key_length",
                                       "attention.value_length",
                                       "rope.dimension_count",
                                       "context_length"};
    const uint32_t values[] = {m->n_layers, m->n_embd,   m->n_ff,     m->n_heads, m->n_kv_heads,
                               m->head_dim, m->head_dim, m->rope_dim, m->n_ctx};
    const uint32_t qd = m->n_heads * m->head_dim, kvd = m->n_kv_heads * m->head_dim;
    char name[96];

    gw_kv_str(w, "general.architecture", m->arch);
    gw_kv_str(w, "general.name", "random");
    for (size_t i = 0; i < BASE_ARRAY_LEN(keys); i++) {
        snprintf(name, sizeof(name), "%s.%s", m->arch, keys[i]);
        gw_kv_u32(w, name, values[i]);
    }
    snprintf(name, sizeof(name), "%s.attention.layer_norm_rms_epsilon", m->arch);
    gw_kv_f32(w, name, 1e-5f);
    gw_random_tensor(w, "token_embd.weight", m->n_vocab, m->n_embd, m->embd_type, 1, 0, &seed);
    gw_random_tensor(w, "output_norm.weight", 0, m->n_embd, ENG_F32, 0.1f, 1, &seed);
    if (!m->tied)
        gw_random_tensor(w, "output.weight", m->n_vocab, m->n_embd, m->embd_type, 0.3f, 0, &seed);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct {
            const char *suffix;
            uint32_t rows, cols;
        } mats[] = {{"attn_q", qd, m->n_embd},        {"attn_k", kvd, m->n_embd},
                    {"attn_v", kvd, m->n_embd},       {"attn_output", m->n_embd, qd},
                    {"ffn_gate", m->n_ff, m->n_embd}, {"ffn_up", m->n_ff, m->n_embd},
                    {"ffn_down", m->n_embd, m->n_ff}};

        snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", i);
        gw_random_tensor(w, name, 0, m->n_embd, ENG_F32, 0.1f, 1, &seed);
        snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", i);
        gw_random_tensor(w, name, 0, m->n_embd, ENG_F32, 0.1f, 1, &seed);
        for (size_t j = 0; j < BASE_ARRAY_LEN(mats); j++) {
            float scale = 1;

            for (uint32_t k = mats[j].cols; k > 1; k /= 4) /* about 1/sqrt(cols) */
                scale /= 2;
            snprintf(name, sizeof(name), "blk.%u.%s.weight", i, mats[j].suffix);
            gw_random_tensor(w, name, mats[j].rows, mats[j].cols, m->type, 1.5f * scale, 0, &seed);
            if (!m->biases)
                continue;
            snprintf(name, sizeof(name), "blk.%u.%s.bias", i, mats[j].suffix);
            gw_random_tensor(w, name, 0, mats[j].rows, ENG_F32, 0.2f, 0, &seed);
        }
    }
}

#endif
