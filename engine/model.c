/* Models: see model.h. */
#include "engine/model.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846

/* What the loading shares: the file, the architecture's prefix and how many tensors found a use. */
struct loader {
    const struct eng_gguf *gguf;
    struct eng_model *model;
    size_t n_used;
    struct base_err *err;
};

static const char *arch_key(const struct loader *ld, const char *suffix, char out[128])
{
    snprintf(out, 128, "%s.%s", ld->model->config.family, suffix);
    return out;
}

/* A required (`fallback` 0) or optional number in [1, max]. */
static enum base_code get_count(struct loader *ld, const char *suffix, uint32_t max, uint32_t fallback,
                                uint32_t *ret_value)
{
    char key[128];
    uint64_t v = fallback;
    enum base_code rc = eng_gguf_get_u64(ld->gguf, arch_key(ld, suffix, key), max, &v, ld->err);

    if (rc != BASE_OK && rc != BASE_NOT_FOUND)
        return rc;
    if (v == 0)
        return base_fail(ld->err, BASE_INVALID, 0, "metadata %s is %s", key,
                         rc == BASE_OK ? "zero" : "missing");
    *ret_value = (uint32_t)v;
    return BASE_OK;
}

static enum base_code get_real(struct loader *ld, const char *suffix, double min, double max, double fallback,
                               double *ret_value)
{
    char key[128];
    double v = fallback;
    enum base_code rc = eng_gguf_get_f64(ld->gguf, arch_key(ld, suffix, key), &v, ld->err);

    if (rc != BASE_OK && rc != BASE_NOT_FOUND)
        return rc;
    if (!(v >= min && v <= max))
        return base_fail(ld->err, BASE_INVALID, 0, "metadata %s: %g is out of range (%g to %g)", key, v, min,
                         max);
    *ret_value = v;
    return BASE_OK;
}

static enum base_code load_family(struct loader *ld)
{
    static const char *const families[] = {"llama", "qwen2", "qwen3"};
    struct eng_config *cfg = &ld->model->config;
    struct eng_str arch;
    char key[128];
    uint64_t n_experts = 0;
    enum base_code rc = eng_gguf_get_str(ld->gguf, "general.architecture", &arch, ld->err);

    if (rc == BASE_NOT_FOUND)
        return base_fail(ld->err, BASE_INVALID, 0, "metadata general.architecture is missing");
    if (rc != BASE_OK)
        return rc;
    for (size_t i = 0; i < BASE_ARRAY_LEN(families); i++) {
        if (arch.n == strlen(families[i]) && memcmp(arch.p, families[i], arch.n) == 0)
            strcpy(cfg->family, families[i]);
    }
    if (cfg->family[0] == '\0')
        return base_fail(ld->err, BASE_UNSUPPORTED, 0,
                         "architecture \"%.*s\" is not supported (llama, qwen2 and qwen3 are)",
                         (int)(arch.n < 40 ? arch.n : 40), arch.p);
    cfg->rope_halves = strcmp(cfg->family, "llama") != 0;
    rc = eng_gguf_get_u64(ld->gguf, arch_key(ld, "expert_count", key), UINT32_MAX, &n_experts, ld->err);
    if (rc != BASE_OK && rc != BASE_NOT_FOUND)
        return rc;
    if (n_experts != 0)
        return base_fail(ld->err, BASE_UNSUPPORTED, 0, "metadata %s: models with experts are not supported",
                         key);
    return BASE_OK;
}

static enum base_code load_sizes(struct loader *ld)
{
    struct eng_config *cfg = &ld->model->config;
    uint32_t value_dim;
    double eps = 0;
    enum base_code rc;

    if ((rc = get_count(ld, "block_count", ENG_LAYERS_MAX, 0, &cfg->n_layers)) != BASE_OK ||
        (rc = get_count(ld, "embedding_length", ENG_EMBD_MAX, 0, &cfg->n_embd)) != BASE_OK ||
        (rc = get_count(ld, "feed_forward_length", ENG_FF_MAX, 0, &cfg->n_ff)) != BASE_OK ||
        (rc = get_count(ld, "attention.head_count", ENG_HEADS_MAX, 0, &cfg->n_heads)) != BASE_OK ||
        (rc = get_count(ld, "attention.head_count_kv", ENG_HEADS_MAX, cfg->n_heads, &cfg->n_kv_heads)) !=
            BASE_OK ||
        (rc = get_count(ld, "context_length", 1u << 30, 0, &cfg->n_ctx_train)) != BASE_OK ||
        (rc = get_real(ld, "attention.layer_norm_rms_epsilon", 1e-12, 1.0, 0, &eps)) != BASE_OK)
        return rc;
    cfg->norm_eps = (float)eps;
    if (cfg->n_heads % cfg->n_kv_heads != 0)
        return base_fail(ld->err, BASE_INVALID, 0, "%u attention heads cannot share %u key/value heads",
                         cfg->n_heads, cfg->n_kv_heads);
    /* Without the key a head has n_embd / n_heads values; if that is not exact, the tensors' shapes will not fit. */
    if ((rc = get_count(ld, "attention.key_length", ENG_HEAD_DIM_MAX, cfg->n_embd / cfg->n_heads,
                        &cfg->head_dim)) != BASE_OK ||
        (rc = get_count(ld, "attention.value_length", ENG_HEAD_DIM_MAX, cfg->head_dim, &value_dim)) !=
            BASE_OK ||
        (rc = get_count(ld, "rope.dimension_count", ENG_HEAD_DIM_MAX, cfg->head_dim, &cfg->rope_dim)) !=
            BASE_OK)
        return rc;
    if (cfg->head_dim > ENG_HEAD_DIM_MAX || cfg->head_dim % 2 != 0)
        return base_fail(ld->err, BASE_INVALID, 0, "heads of %u values (even numbers up to %u are allowed)",
                         cfg->head_dim, ENG_HEAD_DIM_MAX);
    if (value_dim != cfg->head_dim)
        return base_fail(ld->err, BASE_UNSUPPORTED, 0, "key length %u differs from value length %u",
                         cfg->head_dim, value_dim);
    if (cfg->rope_dim % 2 != 0 || cfg->rope_dim > cfg->head_dim)
        return base_fail(ld->err, BASE_INVALID, 0, "rope.dimension_count %u does not fit heads of %u values",
                         cfg->rope_dim, cfg->head_dim);
    return BASE_OK;
}

/* llama3: long wavelengths are divided by the factor, short ones kept, those between blended. */
static double llama3_freq(double freq, double factor, double low, double high, double original)
{
    double wavelength = 2 * PI / freq, smooth;

    if (wavelength < original / high)
        return freq;
    if (wavelength > original / low)
        return freq / factor;
    smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * freq / factor + smooth * freq;
}

/* The dimension that turns `turns` times over the original context. */
static double yarn_dim(const struct eng_config *cfg, double base, double original, double turns)
{
    return cfg->rope_dim * log(original / (turns * 2 * PI)) / (2 * log(base));
}

static enum base_code scale_yarn(struct loader *ld, double base, double factor, double original)
{
    struct eng_config *cfg = &ld->model->config;
    double fast = 32, slow = 1, attn = 1, low, high;
    enum base_code rc;

    if ((rc = get_real(ld, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32, &fast)) != BASE_OK ||
        (rc = get_real(ld, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1, &slow)) != BASE_OK ||
        (rc = get_real(ld, "rope.scaling.attn_factor", 1e-3, 1e3, 1, &attn)) != BASE_OK)
        return rc;
    low = fmax(floor(yarn_dim(cfg, base, original, fast)), 0);
    high = fmin(ceil(yarn_dim(cfg, base, original, slow)), cfg->rope_dim - 1);
    for (uint32_t i = 0; i < cfg->rope_dim / 2; i++) {
        double ramp = fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);

        cfg->rope_freqs[i] *= ramp / factor + (1 - ramp);
    }
    cfg->rope_scale = (float)(attn * (1 + 0.1 * log(factor)));
    return BASE_OK;
}

static enum base_code scale_llama3(struct loader *ld, double factor, double original)
{
    struct eng_config *cfg = &ld->model->config;
    double low = 1, high = 4;
    enum base_code rc;

    if ((rc = get_real(ld, "rope.scaling.low_freq_factor", 1e-3, 1e6, 1, &low)) != BASE_OK ||
        (rc = get_real(ld, "rope.scaling.high_freq_factor", 1e-3, 1e6, 4, &high)) != BASE_OK)
        return rc;
    if (high <= low)
        return base_fail(ld->err, BASE_INVALID, 0,
                         "rope.scaling: high_freq_factor %g is not above low_freq_factor %g", high, low);
    for (uint32_t i = 0; i < cfg->rope_dim / 2; i++)
        cfg->rope_freqs[i] = llama3_freq(cfg->rope_freqs[i], factor, low, high, original);
    return BASE_OK;
}

static enum base_code apply_rope_scaling(struct loader *ld, double base)
{
    struct eng_config *cfg = &ld->model->config;
    struct eng_str kind = {"none", 4};
    char key[128];
    double factor = 1;
    uint32_t original;
    enum base_code rc = eng_gguf_get_str(ld->gguf, arch_key(ld, "rope.scaling.type", key), &kind, ld->err);

    if (rc != BASE_OK && rc != BASE_NOT_FOUND)
        return rc;
    if (rc == BASE_NOT_FOUND) { /* old files give a linear factor alone */
        rc = get_real(ld, "rope.scale_linear", 1e-3, 1e6, 1, &factor);
        kind = (struct eng_str){"linear", 6};
    } else
        rc = get_real(ld, "rope.scaling.factor", 1e-3, 1e6, 1, &factor);
    if (rc != BASE_OK)
        return rc;
    rc = get_count(ld, "rope.scaling.original_context_length", 1u << 30, cfg->n_ctx_train, &original);
    if (rc != BASE_OK)
        return rc;
    if (kind.n == 4 && memcmp(kind.p, "none", 4) == 0)
        return BASE_OK;
    if (kind.n == 4 && memcmp(kind.p, "yarn", 4) == 0)
        return scale_yarn(ld, base, factor, original);
    if (kind.n == 6 && memcmp(kind.p, "llama3", 6) == 0)
        return scale_llama3(ld, factor, original);
    if (kind.n != 6 || memcmp(kind.p, "linear", 6) != 0)
        return base_fail(ld->err, BASE_UNSUPPORTED, 0, "metadata %s: \"%.*s\" is not supported", key,
                         (int)(kind.n < 40 ? kind.n : 40), kind.p);
    for (uint32_t i = 0; i < cfg->rope_dim / 2; i++)
        cfg->rope_freqs[i] /= factor;
    return BASE_OK;
}

/* Llama 3.1 and later store the scaling as a tensor of divisors. */
static enum base_code apply_rope_divisors(struct loader *ld)
{
    struct eng_config *cfg = &ld->model->config;
    const struct eng_gguf_tensor *t = eng_gguf_tensor(ld->gguf, "rope_freqs.weight");
    auto_free float *divisors = NULL;
    enum base_code rc;

    if (t == NULL)
        return BASE_OK;
    if (t->type != ENG_F32 || t->n_bytes != cfg->rope_dim / 2 * sizeof(float))
        return base_fail(ld->err, BASE_INVALID, 0, "tensor rope_freqs.weight is not %u values of F32",
                         cfg->rope_dim / 2);
    ld->n_used++;
    divisors = base_alloc(t->n_bytes);
    rc = eng_gguf_read(ld->gguf, t, divisors, ld->err);
    for (uint32_t i = 0; rc == BASE_OK && i < cfg->rope_dim / 2; i++) {
        if (!(divisors[i] >= 1e-6f && divisors[i] <= 1e6f))
            return base_fail(ld->err, BASE_INVALID, 0, "tensor rope_freqs.weight: divisor %u is %g", i,
                             (double)divisors[i]);
        cfg->rope_freqs[i] /= divisors[i];
    }
    return rc;
}

static enum base_code load_rope(struct loader *ld)
{
    struct eng_config *cfg = &ld->model->config;
    double base = 10000;
    enum base_code rc = get_real(ld, "rope.freq_base", 1.0001, 1e15, 10000, &base);

    if (rc != BASE_OK)
        return rc;
    cfg->rope_scale = 1;
    cfg->rope_freqs = base_zalloc(cfg->rope_dim / 2 * sizeof(*cfg->rope_freqs));
    for (uint32_t i = 0; i < cfg->rope_dim / 2; i++)
        cfg->rope_freqs[i] = pow(base, -2.0 * i / cfg->rope_dim);
    rc = apply_rope_scaling(ld, base);
    return rc == BASE_OK ? apply_rope_divisors(ld) : rc;
}

/* The tensor `name`, which must be [rows, cols] (a vector when rows is 0). Vectors are F32: they are biases and norms, and
 * converters never shrink them. Absent and optional: *ret stays NULL. */
static enum base_code get_tensor(struct loader *ld, const char *name, uint64_t rows, uint64_t cols,
                                 bool optional, const struct eng_gguf_tensor **ret)
{
    const struct eng_gguf_tensor *t = eng_gguf_tensor(ld->gguf, name);
    uint32_t want_dims = rows == 0 ? 1 : 2;

    if (t == NULL)
        return optional ? BASE_OK : base_fail(ld->err, BASE_INVALID, 0, "tensor %s is missing", name);
    if (t->n_dims != want_dims || t->dims[0] != cols || t->dims[1] != (rows == 0 ? 1 : rows))
        return base_fail(ld->err, BASE_INVALID, 0,
                         "tensor %s is %u-dimensional [%llu, %llu], not [%llu, %llu]", name, t->n_dims,
                         (unsigned long long)t->dims[1], (unsigned long long)t->dims[0],
                         (unsigned long long)(rows == 0 ? 1 : rows), (unsigned long long)cols);
    if (rows == 0 && t->type != ENG_F32)
        return base_fail(ld->err, BASE_UNSUPPORTED, 0, "tensor %s is %s, vectors must be F32", name,
                         eng_type_info(t->type)->name);
    ld->n_used++;
    *ret = t;
    return BASE_OK;
}

static enum base_code load_head_norms(struct loader *ld, uint32_t i)
{
    struct eng_layer *l = &ld->model->layers[i];
    uint32_t hd = ld->model->config.head_dim;
    char name[64];
    enum base_code rc;

    snprintf(name, sizeof(name), "blk.%u.attn_q_norm.weight", i);
    rc = get_tensor(ld, name, 0, hd, false, &l->q_norm);
    if (rc != BASE_OK)
        return rc;
    snprintf(name, sizeof(name), "blk.%u.attn_k_norm.weight", i);
    return get_tensor(ld, name, 0, hd, false, &l->k_norm);
}

static enum base_code load_layer(struct loader *ld, uint32_t i)
{
    const struct eng_config *cfg = &ld->model->config;
    struct eng_layer *l = &ld->model->layers[i];
    const uint64_t d = cfg->n_embd, ff = cfg->n_ff;
    const uint64_t qd = (uint64_t)cfg->n_heads * cfg->head_dim,
                   kvd = (uint64_t)cfg->n_kv_heads * cfg->head_dim;
    bool qwen2 = strcmp(cfg->family, "qwen2") == 0, qwen3 = strcmp(cfg->family, "qwen3") == 0;
    const struct {
        const char *suffix;
        uint64_t rows, cols;
        bool optional;
        const struct eng_gguf_tensor **ret;
    } wanted[] = {
        {"attn_norm.weight", 0, d, false, &l->attn_norm}, {"ffn_norm.weight", 0, d, false, &l->ffn_norm},
        {"attn_q.weight", qd, d, false, &l->q},           {"attn_k.weight", kvd, d, false, &l->k},
        {"attn_v.weight", kvd, d, false, &l->v},          {"attn_output.weight", d, qd, false, &l->o},
        {"ffn_gate.weight", ff, d, false, &l->gate},      {"ffn_up.weight", ff, d, false, &l->up},
        {"ffn_down.weight", d, ff, false, &l->down},      {"attn_q.bias", 0, qd, !qwen2, &l->q_bias},
        {"attn_k.bias", 0, kvd, !qwen2, &l->k_bias},      {"attn_v.bias", 0, kvd, !qwen2, &l->v_bias},
        {"attn_output.bias", 0, d, true, &l->o_bias},     {"ffn_gate.bias", 0, ff, true, &l->gate_bias},
        {"ffn_up.bias", 0, ff, true, &l->up_bias},        {"ffn_down.bias", 0, d, true, &l->down_bias},
    };

    for (size_t j = 0; j < BASE_ARRAY_LEN(wanted); j++) {
        char name[64];
        enum base_code rc;

        snprintf(name, sizeof(name), "blk.%u.%s", i, wanted[j].suffix);
        rc = get_tensor(ld, name, wanted[j].rows, wanted[j].cols, wanted[j].optional, wanted[j].ret);
        if (rc != BASE_OK)
            return rc;
    }
    if (!qwen3)
        return BASE_OK;
    return load_head_norms(ld, i);
}

static enum base_code load_tensors(struct loader *ld)
{
    struct eng_model *m = ld->model;
    struct eng_config *cfg = &m->config;
    const struct eng_gguf_tensor *embd = eng_gguf_tensor(ld->gguf, "token_embd.weight");
    enum base_code rc;

    if (embd == NULL || embd->dims[1] > ENG_VOCAB_MAX)
        return base_fail(ld->err, BASE_INVALID, 0,
                         "tensor token_embd.weight is missing or has more than %u rows", ENG_VOCAB_MAX);
    cfg->n_vocab = (uint32_t)embd->dims[1];
    if ((rc = get_tensor(ld, "token_embd.weight", cfg->n_vocab, cfg->n_embd, false, &m->token_embd)) !=
            BASE_OK ||
        (rc = get_tensor(ld, "output_norm.weight", 0, cfg->n_embd, false, &m->output_norm)) != BASE_OK ||
        (rc = get_tensor(ld, "output.weight", cfg->n_vocab, cfg->n_embd, true, &m->output)) != BASE_OK)
        return rc;
    cfg->tied_output = m->output == NULL;
    if (cfg->tied_output)
        m->output = m->token_embd;
    m->layers = base_zalloc(cfg->n_layers * sizeof(*m->layers));
    for (uint32_t i = 0; i < cfg->n_layers; i++) {
        rc = load_layer(ld, i);
        if (rc != BASE_OK)
            return rc;
    }
    if (ld->n_used != eng_gguf_n_tensors(ld->gguf))
        return base_fail(ld->err, BASE_UNSUPPORTED, 0,
                         "the file has %zu tensors, family %s uses %zu: this variant is not known",
                         eng_gguf_n_tensors(ld->gguf), cfg->family, ld->n_used);
    return BASE_OK;
}

/* Optional token id; -1 when absent (some converters write "none" as -1 in 32 bits), refused outside the vocabulary. */
static enum base_code get_token_id(struct loader *ld, const char *key, int32_t *ret_id)
{
    uint32_t n_tokens = ld->model->vocab.n_tokens;
    uint64_t v = UINT32_MAX;
    enum base_code rc = eng_gguf_get_u64(ld->gguf, key, UINT32_MAX, &v, ld->err);

    *ret_id = -1;
    if (rc == BASE_NOT_FOUND || (rc == BASE_OK && v == UINT32_MAX))
        return BASE_OK;
    if (rc != BASE_OK)
        return rc;
    if (v >= n_tokens)
        return base_fail(ld->err, BASE_INVALID, 0, "metadata %s: %llu is outside the vocabulary of %u", key,
                         (unsigned long long)v, n_tokens);
    *ret_id = (int32_t)v;
    return BASE_OK;
}

static enum base_code get_flag(struct loader *ld, const char *key, int *ret_flag)
{
    bool v;
    enum base_code rc = eng_gguf_get_bool(ld->gguf, key, &v, ld->err);

    *ret_flag = rc == BASE_OK ? v : -1;
    return rc == BASE_NOT_FOUND ? BASE_OK : rc;
}

static enum base_code get_short_text(struct loader *ld, const char *key, const char **ret_text)
{
    struct eng_str s;
    enum base_code rc = eng_gguf_get_str(ld->gguf, key, &s, ld->err);

    if (rc != BASE_OK)
        return rc;
    if (s.n > 64)
        return base_fail(ld->err, BASE_TOO_LARGE, 0, "metadata %s is longer than 64 bytes", key);
    *ret_text = base_memdup0(s.p, s.n);
    return BASE_OK;
}

static enum base_code load_vocab_arrays(struct loader *ld)
{
    struct eng_vocab *v = &ld->model->vocab;
    struct eng_str *tokens = NULL, *merges = NULL;
    float *scores = NULL;
    int32_t *types = NULL;
    enum base_code rc = eng_gguf_get_strings(ld->gguf, "tokenizer.ggml.tokens", ENG_VOCAB_MAX, &tokens,
                                             &v->n_tokens, ld->err);

    if (rc == BASE_NOT_FOUND)
        return base_fail(ld->err, BASE_INVALID, 0, "metadata tokenizer.ggml.tokens is missing");
    if (rc != BASE_OK)
        return rc;
    v->tokens = tokens;
    if (v->n_tokens == 0 || v->n_tokens > ld->model->config.n_vocab)
        return base_fail(ld->err, BASE_INVALID, 0,
                         "metadata tokenizer.ggml.tokens has %u tokens, token_embd %u rows", v->n_tokens,
                         ld->model->config.n_vocab);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        if (tokens[i].n > ENG_TOKEN_BYTES_MAX)
            return base_fail(ld->err, BASE_TOO_LARGE, 0, "token %u is longer than %u bytes", i,
                             ENG_TOKEN_BYTES_MAX);
    }
    rc = eng_gguf_get_f32s(ld->gguf, "tokenizer.ggml.scores", v->n_tokens, &scores, ld->err);
    v->scores = scores;
    if (rc == BASE_OK || rc == BASE_NOT_FOUND)
        rc = eng_gguf_get_i32s(ld->gguf, "tokenizer.ggml.token_type", v->n_tokens, &types, ld->err);
    v->types = types;
    if (rc == BASE_OK || rc == BASE_NOT_FOUND)
        rc = eng_gguf_get_strings(ld->gguf, "tokenizer.ggml.merges", ENG_VOCAB_MAX, &merges, &v->n_merges,
                                  ld->err);
    v->merges = merges;
    return rc == BASE_NOT_FOUND ? BASE_OK : rc;
}

static enum base_code load_vocab(struct loader *ld)
{
    struct eng_vocab *v = &ld->model->vocab;
    enum base_code rc = get_short_text(ld, "tokenizer.ggml.model", &v->model);

    if (rc == BASE_NOT_FOUND) /* weights alone: good for logits, not for text */
        return BASE_OK;
    if (rc != BASE_OK)
        return rc;
    rc = get_short_text(ld, "tokenizer.ggml.pre", &v->pre);
    if (rc != BASE_OK && rc != BASE_NOT_FOUND)
        return rc;
    if ((rc = load_vocab_arrays(ld)) != BASE_OK ||
        (rc = get_token_id(ld, "tokenizer.ggml.bos_token_id", &v->bos)) != BASE_OK ||
        (rc = get_token_id(ld, "tokenizer.ggml.eos_token_id", &v->eos)) != BASE_OK ||
        (rc = get_token_id(ld, "tokenizer.ggml.eot_token_id", &v->eot)) != BASE_OK ||
        (rc = get_token_id(ld, "tokenizer.ggml.unknown_token_id", &v->unk)) != BASE_OK ||
        (rc = get_token_id(ld, "tokenizer.ggml.padding_token_id", &v->pad)) != BASE_OK ||
        (rc = get_flag(ld, "tokenizer.ggml.add_bos_token", &v->add_bos)) != BASE_OK ||
        (rc = get_flag(ld, "tokenizer.ggml.add_eos_token", &v->add_eos)) != BASE_OK ||
        (rc = get_flag(ld, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix)) != BASE_OK)
        return rc;
    ld->model->has_vocab = true;
    rc = eng_gguf_get_str(ld->gguf, "tokenizer.chat_template", &ld->model->chat_template, ld->err);
    return rc == BASE_NOT_FOUND ? BASE_OK : rc;
}

static void count_params(struct eng_model *m)
{
    uint64_t bytes[ENG_TYPE_END] = {0};
    size_t best = 0;

    for (size_t i = 0; i < eng_gguf_n_tensors(m->gguf); i++) {
        const struct eng_gguf_tensor *t = eng_gguf_tensor_at(m->gguf, i);

        m->n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        if (t->n_dims > 1)
            bytes[t->type] += t->n_bytes;
    }
    for (size_t i = 0; i < ENG_TYPE_END; i++)
        best = bytes[i] > bytes[best] ? i : best;
    snprintf(m->weights, sizeof(m->weights), "%s", eng_type_info((uint32_t)best)->name);
}

enum base_code eng_model_load(struct eng_model **ret_model, struct eng_gguf *gguf, struct base_err *err)
{
    struct eng_model *m = base_zalloc(sizeof(*m));
    struct loader ld = {gguf, m, 0, err};
    enum base_code rc;

    if ((rc = load_family(&ld)) != BASE_OK || (rc = load_sizes(&ld)) != BASE_OK ||
        (rc = load_rope(&ld)) != BASE_OK || (rc = load_tensors(&ld)) != BASE_OK ||
        (rc = load_vocab(&ld)) != BASE_OK) {
        eng_model_free(m);
        return rc;
    }
    rc = eng_gguf_get_str(gguf, "general.name", &m->name, err);
    if (rc != BASE_OK && rc != BASE_NOT_FOUND) {
        eng_model_free(m);
        return rc;
    }
    m->gguf = gguf;
    count_params(m);
    *ret_model = m;
    return BASE_OK;
}

void eng_model_free(struct eng_model *m)
{
    if (m == NULL)
        return;
    free((void *)m->vocab.model);
    free((void *)m->vocab.pre);
    free((void *)m->vocab.tokens);
    free((void *)m->vocab.merges);
    free((void *)m->vocab.scores);
    free((void *)m->vocab.types);
    free(m->config.rope_freqs);
    free(m->layers);
    eng_gguf_free(m->gguf);
    free(m);
}
