/* llama, qwen2: see graph_llama.h.
 *
 * One layer:   h = rms_norm(x);  q, k, v = h Wq, h Wk, h Wv (+ bias);  q, k turned by their positions;  k, v into the cache
 *              x += attention(q) Wo;  h = rms_norm(x);  x += (silu(h Wgate) * (h Wup)) Wdown
 * Then logits = rms_norm(x) Wout for the rows that are asked for.
 */
#include "engine/graph_llama.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

struct layer {
    struct eng_weight *attn_norm, *q, *k, *v, *o, *q_bias, *k_bias, *v_bias, *o_bias;
    struct eng_weight *ffn_norm, *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
};

struct eng_graph {
    const struct eng_ops *ops;
    struct eng_device *dev;
    const struct eng_config *cfg;
    struct eng_graph_options options;
    struct eng_weight *token_embd, *output_norm, *output, *rope;
    struct layer *layers;
    float *rope_table; /* what `rope` was made from: [max_context, rope_dim], cos then sin */
    struct eng_buf *x, *h, *q, *k, *v, *attn, *gate, *up, *logits;
};

/* NULL tensors give NULL weights; does nothing once *rc is an error, so that a list of loads needs one check. */
static struct eng_weight *load(struct eng_graph *g, const struct eng_gguf_tensor *t, enum base_code *rc,
                               struct base_err *err)
{
    struct eng_weight *w = NULL;

    if (t != NULL && *rc == BASE_OK)
        *rc = g->ops->weight_new(g->dev, t->type, t->n_dims > 1 ? (uint32_t)t->dims[1] : 0,
                                 (uint32_t)t->dims[0], t->data, &w, err);
    return w;
}

static struct eng_buf *new_buf(struct eng_graph *g, size_t rows, size_t cols, enum base_code *rc,
                               struct base_err *err)
{
    struct eng_buf *buf = NULL;

    if (*rc == BASE_OK)
        *rc = g->ops->buf_new(g->dev, rows * cols, &buf, err);
    return buf;
}

/* Angles in double: float would lose the high positions. */
static enum base_code make_rope(struct eng_graph *g, struct base_err *err)
{
    const struct eng_config *cfg = g->cfg;
    uint32_t n = g->options.device.max_context, half = cfg->rope_dim / 2;

    g->rope_table = base_try_zarray((size_t)n * cfg->rope_dim, sizeof(float));
    if (g->rope_table == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for the angles of %u positions", n);
    for (uint32_t pos = 0; pos < n; pos++) {
        float *row = g->rope_table + (size_t)pos * cfg->rope_dim;

        for (uint32_t i = 0; i < half; i++) {
            row[i] = (float)(cos(pos * cfg->rope_freqs[i]) * cfg->rope_scale);
            row[half + i] = (float)(sin(pos * cfg->rope_freqs[i]) * cfg->rope_scale);
        }
    }
    return g->ops->weight_new(g->dev, ENG_F32, 0, n * cfg->rope_dim, g->rope_table, &g->rope, err);
}

static enum base_code load_weights(struct eng_graph *g, const struct eng_model *m, struct base_err *err)
{
    enum base_code rc = BASE_OK;

    g->output_norm = load(g, m->output_norm, &rc, err);
    g->token_embd = load(g, m->token_embd, &rc, err);
    g->output = g->cfg->tied_output ? g->token_embd : load(g, m->output, &rc, err);
    g->layers = base_zalloc(g->cfg->n_layers * sizeof(*g->layers));
    for (uint32_t i = 0; i < g->cfg->n_layers && rc == BASE_OK; i++) {
        const struct eng_layer *src = &m->layers[i];
        struct layer *l = &g->layers[i];

        l->attn_norm = load(g, src->attn_norm, &rc, err);
        l->q = load(g, src->q, &rc, err);
        l->k = load(g, src->k, &rc, err);
        l->v = load(g, src->v, &rc, err);
        l->o = load(g, src->o, &rc, err);
        l->q_bias = load(g, src->q_bias, &rc, err);
        l->k_bias = load(g, src->k_bias, &rc, err);
        l->v_bias = load(g, src->v_bias, &rc, err);
        l->o_bias = load(g, src->o_bias, &rc, err);
        l->ffn_norm = load(g, src->ffn_norm, &rc, err);
        l->gate = load(g, src->gate, &rc, err);
        l->up = load(g, src->up, &rc, err);
        l->down = load(g, src->down, &rc, err);
        l->gate_bias = load(g, src->gate_bias, &rc, err);
        l->up_bias = load(g, src->up_bias, &rc, err);
        l->down_bias = load(g, src->down_bias, &rc, err);
    }
    return rc;
}

static enum base_code make_buffers(struct eng_graph *g, struct base_err *err)
{
    const struct eng_config *cfg = g->cfg;
    size_t n = g->options.device.max_tokens;
    enum base_code rc = BASE_OK;

    g->x = new_buf(g, n, cfg->n_embd, &rc, err);
    g->h = new_buf(g, n, cfg->n_embd, &rc, err);
    g->q = new_buf(g, n, (size_t)cfg->n_heads * cfg->head_dim, &rc, err);
    g->k = new_buf(g, n, (size_t)cfg->n_kv_heads * cfg->head_dim, &rc, err);
    g->v = new_buf(g, n, (size_t)cfg->n_kv_heads * cfg->head_dim, &rc, err);
    g->attn = new_buf(g, n, (size_t)cfg->n_heads * cfg->head_dim, &rc, err);
    g->gate = new_buf(g, n, cfg->n_ff, &rc, err);
    g->up = new_buf(g, n, cfg->n_ff, &rc, err);
    g->logits = new_buf(g, g->options.max_logits, cfg->n_vocab, &rc, err);
    return rc;
}

enum base_code eng_graph_new(struct eng_graph **ret_graph, const struct eng_model *model,
                             const struct eng_graph_options *options, struct base_err *err)
{
    struct eng_graph *g = base_zalloc(sizeof(*g));
    enum base_code rc;

    g->ops = options->ops;
    g->cfg = &model->config;
    g->options = *options;
    if ((rc = g->ops->open(&g->dev, &options->device, err)) != BASE_OK ||
        (rc = load_weights(g, model, err)) != BASE_OK || (rc = make_rope(g, err)) != BASE_OK ||
        (rc = make_buffers(g, err)) != BASE_OK) {
        eng_graph_free(g);
        return rc;
    }
    *ret_graph = g;
    return BASE_OK;
}

static void free_layer(struct eng_graph *g, struct layer *l)
{
    struct eng_weight *all[] = {l->attn_norm, l->q,         l->k,       l->v,        l->o,    l->q_bias,
                                l->k_bias,    l->v_bias,    l->o_bias,  l->ffn_norm, l->gate, l->up,
                                l->down,      l->gate_bias, l->up_bias, l->down_bias};

    for (size_t i = 0; i < BASE_ARRAY_LEN(all); i++)
        g->ops->weight_free(g->dev, all[i]);
}

void eng_graph_free(struct eng_graph *g)
{
    if (g == NULL)
        return;
    if (g->dev != NULL) {
        struct eng_buf *bufs[] = {g->x, g->h, g->q, g->k, g->v, g->attn, g->gate, g->up, g->logits};

        for (size_t i = 0; i < BASE_ARRAY_LEN(bufs); i++)
            g->ops->buf_free(g->dev, bufs[i]);
        for (uint32_t i = 0; g->layers != NULL && i < g->cfg->n_layers; i++)
            free_layer(g, &g->layers[i]);
        if (g->output != g->token_embd)
            g->ops->weight_free(g->dev, g->output);
        g->ops->weight_free(g->dev, g->token_embd);
        g->ops->weight_free(g->dev, g->output_norm);
        g->ops->weight_free(g->dev, g->rope);
        g->ops->close(g->dev);
    }
    free(g->layers);
    free(g->rope_table);
    free(g);
}

struct eng_device *eng_graph_device(struct eng_graph *g)
{
    return g->dev;
}

struct eng_kv_shape eng_graph_kv_shape(const struct eng_model *model)
{
    const struct eng_config *cfg = &model->config;

    return (struct eng_kv_shape){.n_layers = cfg->n_layers,
                                 .n_heads = cfg->n_heads,
                                 .n_kv_heads = cfg->n_kv_heads,
                                 .head_dim = cfg->head_dim,
                                 .type = ENG_F16};
}

static void attention_block(struct eng_graph *g, struct eng_kv_store *kv, uint32_t index, uint32_t n)
{
    const struct eng_config *cfg = g->cfg;
    const struct layer *l = &g->layers[index];
    const struct eng_matmul qkv[] = {
        {l->q, l->q_bias, g->q, false}, {l->k, l->k_bias, g->k, false}, {l->v, l->v_bias, g->v, false}};
    const struct eng_matmul out = {l->o, l->o_bias, g->x, true};

    g->ops->rms_norm(g->dev, g->x, n, l->attn_norm, cfg->norm_eps, g->h);
    g->ops->matmul(g->dev, g->h, n, qkv, 3);
    g->ops->rope(g->dev, g->q, cfg->n_heads, cfg->head_dim, g->rope, cfg->rope_dim, cfg->rope_halves);
    g->ops->rope(g->dev, g->k, cfg->n_kv_heads, cfg->head_dim, g->rope, cfg->rope_dim, cfg->rope_halves);
    g->ops->kv_write(g->dev, kv, index, g->k, g->v);
    g->ops->attention(g->dev, kv, index, g->q, cfg->n_heads, g->attn);
    g->ops->matmul(g->dev, g->attn, n, &out, 1);
}

static void ffn_block(struct eng_graph *g, uint32_t index, uint32_t n)
{
    const struct layer *l = &g->layers[index];
    const struct eng_matmul in[] = {{l->gate, l->gate_bias, g->gate, false},
                                    {l->up, l->up_bias, g->up, false}};
    const struct eng_matmul out = {l->down, l->down_bias, g->x, true};

    g->ops->rms_norm(g->dev, g->x, n, l->ffn_norm, g->cfg->norm_eps, g->h);
    g->ops->matmul(g->dev, g->h, n, in, 2);
    g->ops->silu_mul(g->dev, g->gate, g->up, n, g->cfg->n_ff);
    g->ops->matmul(g->dev, g->gate, n, &out, 1);
}

enum base_code eng_graph_step(struct eng_graph *g, struct eng_kv_store *kv, const struct eng_step *step,
                              const uint32_t *logit_rows, uint32_t n_rows, float *ret_logits,
                              struct base_err *err)
{
    const struct eng_matmul out = {g->output, NULL, g->logits, false};
    enum base_code rc;

    g->ops->step_begin(g->dev, step);
    g->ops->embed(g->dev, g->token_embd, g->x);
    for (uint32_t i = 0; i < g->cfg->n_layers; i++) {
        attention_block(g, kv, i, step->n_tokens);
        ffn_block(g, i, step->n_tokens);
    }
    if (n_rows > 0) {
        g->ops->gather(g->dev, g->x, logit_rows, n_rows, g->cfg->n_embd, g->h);
        g->ops->rms_norm(g->dev, g->h, n_rows, g->output_norm, g->cfg->norm_eps, g->h);
        g->ops->matmul(g->dev, g->h, n_rows, &out, 1);
    }
    rc = g->ops->finish(g->dev, err);
    if (rc == BASE_OK && n_rows > 0)
        g->ops->buf_read(g->dev, g->logits, 0, ret_logits, (size_t)n_rows * g->cfg->n_vocab);
    return rc;
}
