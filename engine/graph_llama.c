/* llama, qwen2, qwen3: see graph_llama.h.
 *
 * One layer:   h = rms_norm(x);  q, k, v = h Wq, h Wk, h Wv (+ bias);  (head norms;)  q, k turned by their positions;  k, v into the cache
 *              x += attention(q) Wo;  h = rms_norm(x);  x += (silu(h Wgate) * (h Wup)) Wdown
 * Then logits = rms_norm(x) Wout for the rows that are asked for.
 */
#include "engine/graph_llama.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

struct layer {
    struct eng_weight *attn_norm, *q, *k, *v, *o, *q_bias, *k_bias, *v_bias, *o_bias, *q_norm, *k_norm;
    struct eng_weight *ffn_norm, *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
};

struct eng_graph {
    const struct eng_ops *ops;
    struct eng_device *dev;
    const struct eng_config *cfg;
    struct eng_graph_options options;
    struct eng_weight *token_embd, *output_norm, *output, *rope;
    struct layer *layers;
    struct eng_buf *x, *h, *q, *k, *v, *attn, *gate, *up, *rows, *logits;
};

/* Reads tensors one after the other into the same memory, gives them to the device. Or only counts what they would take. */
struct loader {
    struct eng_graph *g;
    const struct eng_gguf *gguf;
    bool counts_only;
    uint64_t bytes; /* device memory taken so far */
    void *data;
    uint64_t data_bytes;
    enum base_code rc; /* once it is an error loads do nothing, so that a list of them needs one check */
    struct base_err *err;
};

static bool read_tensor(struct loader *ld, const struct eng_gguf_tensor *t)
{
    if (t->n_bytes > ld->data_bytes) {
        free(ld->data);
        ld->data = malloc(t->n_bytes); /* its size was compared with the file's */
        ld->data_bytes = ld->data != NULL ? t->n_bytes : 0;
    }
    if (ld->data == NULL)
        ld->rc = base_fail(ld->err, BASE_NO_MEMORY, 0, "no memory for a tensor of %llu bytes",
                           (unsigned long long)t->n_bytes);
    else
        ld->rc = eng_gguf_read(ld->gguf, t, ld->data, ld->err);
    return ld->rc == BASE_OK;
}

static struct eng_weight *give(struct loader *ld, const struct eng_weight_data *data)
{
    struct eng_weight *w = NULL;

    ld->bytes += ld->g->ops->weight_bytes(data);
    if (!ld->counts_only)
        ld->rc = ld->g->ops->weight_new(ld->g->dev, data, &w, ld->err);
    return w;
}

static struct eng_weight *load_for(struct loader *ld, const struct eng_gguf_tensor *t, unsigned uses,
                                   enum eng_split split)
{
    if (t == NULL || ld->rc != BASE_OK || (!ld->counts_only && !read_tensor(ld, t)))
        return NULL;
    return give(ld, &(struct eng_weight_data){.type = t->type,
                                              .rows = t->n_dims > 1 ? (uint32_t)t->dims[1] : 0,
                                              .cols = (uint32_t)t->dims[0],
                                              .uses = uses,
                                              .split = split,
                                              .data = ld->data});
}

/* NULL tensors give NULL weights. */
static struct eng_weight *load(struct loader *ld, const struct eng_gguf_tensor *t, enum eng_split split)
{
    return load_for(ld, t, ENG_USE_MATMUL, split);
}

static struct eng_buf *new_buf(struct loader *ld, size_t rows, size_t cols)
{
    struct eng_buf *buf = NULL;

    if (ld->rc != BASE_OK)
        return NULL;
    ld->bytes += ld->g->ops->buf_bytes(rows * cols);
    if (!ld->counts_only)
        ld->rc = ld->g->ops->buf_new(ld->g->dev, rows * cols, &buf, ld->err);
    return buf;
}

/* Angles in double: float would lose the high positions. */
static void make_rope(struct loader *ld)
{
    struct eng_graph *g = ld->g;
    const struct eng_config *cfg = g->cfg;
    uint32_t n = g->options.device.max_context, half = cfg->rope_dim / 2;

    struct eng_weight_data data = {.type = ENG_F32, .cols = n * cfg->rope_dim};
    auto_free float *table = NULL;

    if (ld->rc != BASE_OK)
        return;
    if (!ld->counts_only && (table = base_try_zarray((size_t)n * cfg->rope_dim, sizeof(float))) == NULL) {
        ld->rc = base_fail(ld->err, BASE_NO_MEMORY, 0, "no memory for the angles of %u positions", n);
        return;
    }
    for (uint32_t pos = 0; table != NULL && pos < n; pos++) {
        float *row = table + (size_t)pos * cfg->rope_dim;

        for (uint32_t i = 0; i < half; i++) {
            row[i] = (float)(cos(pos * cfg->rope_freqs[i]) * cfg->rope_scale);
            row[half + i] = (float)(sin(pos * cfg->rope_freqs[i]) * cfg->rope_scale);
        }
    }
    data.data = table;
    g->rope = give(ld, &data);
}

static void load_layer(struct loader *ld, const struct eng_layer *src, struct layer *l)
{
    l->attn_norm = load(ld, src->attn_norm, ENG_SPLIT_NONE);
    l->q = load(ld, src->q, ENG_SPLIT_ROWS);
    l->k = load(ld, src->k, ENG_SPLIT_ROWS);
    l->v = load(ld, src->v, ENG_SPLIT_ROWS);
    l->o = load(ld, src->o, ENG_SPLIT_COLS);
    l->q_bias = load(ld, src->q_bias, ENG_SPLIT_ROWS);
    l->k_bias = load(ld, src->k_bias, ENG_SPLIT_ROWS);
    l->v_bias = load(ld, src->v_bias, ENG_SPLIT_ROWS);
    l->o_bias = load(ld, src->o_bias, ENG_SPLIT_NONE);
    l->q_norm = load(ld, src->q_norm, ENG_SPLIT_NONE);
    l->k_norm = load(ld, src->k_norm, ENG_SPLIT_NONE);
    l->ffn_norm = load(ld, src->ffn_norm, ENG_SPLIT_NONE);
    l->gate = load(ld, src->gate, ENG_SPLIT_ROWS);
    l->up = load(ld, src->up, ENG_SPLIT_ROWS);
    l->down = load(ld, src->down, ENG_SPLIT_COLS);
    l->gate_bias = load(ld, src->gate_bias, ENG_SPLIT_ROWS);
    l->up_bias = load(ld, src->up_bias, ENG_SPLIT_ROWS);
    l->down_bias = load(ld, src->down_bias, ENG_SPLIT_NONE);
}

static void load_weights(struct loader *ld, const struct eng_model *m)
{
    struct eng_graph *g = ld->g;
    bool tied = g->cfg->tied_output;

    g->output_norm = load(ld, m->output_norm, ENG_SPLIT_NONE);
    g->token_embd = load_for(ld, m->token_embd, ENG_USE_ROWS | (tied ? ENG_USE_MATMUL : 0),
                             tied ? ENG_SPLIT_ROWS : ENG_SPLIT_NONE);
    g->output = tied ? g->token_embd : load(ld, m->output, ENG_SPLIT_ROWS);
    g->layers = base_zalloc(g->cfg->n_layers * sizeof(*g->layers));
    for (uint32_t i = 0; i < g->cfg->n_layers; i++)
        load_layer(ld, &m->layers[i], &g->layers[i]);
    make_rope(ld);
}

static void make_buffers(struct loader *ld)
{
    struct eng_graph *g = ld->g;
    const struct eng_config *cfg = g->cfg;
    size_t n = g->options.device.max_tokens;

    g->x = new_buf(ld, n, cfg->n_embd);
    g->h = new_buf(ld, n, cfg->n_embd);
    g->q = new_buf(ld, n, (size_t)cfg->n_heads * cfg->head_dim);
    g->k = new_buf(ld, n, (size_t)cfg->n_kv_heads * cfg->head_dim);
    g->v = new_buf(ld, n, (size_t)cfg->n_kv_heads * cfg->head_dim);
    g->attn = new_buf(ld, n, (size_t)cfg->n_heads * cfg->head_dim);
    g->gate = new_buf(ld, n, cfg->n_ff);
    g->up = new_buf(ld, n, cfg->n_ff);
    g->rows = new_buf(ld, g->options.device.max_logits, cfg->n_embd);
    g->logits = new_buf(ld, g->options.device.max_logits, cfg->n_vocab);
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static struct eng_graph *new_graph(const struct eng_model *model, const struct eng_graph_options *options)
{
    struct eng_graph *g = base_zalloc(sizeof(*g));
    const struct eng_config *cfg = &model->config;
    struct eng_device_options *o = &g->options.device;
    uint32_t heads = cfg->n_heads * cfg->head_dim;

    g->ops = options->ops;
    g->cfg = cfg;
    g->options = *options;
    o->max_rows = o->max_cols = max_u32(max_u32(cfg->n_embd, cfg->n_ff), heads);
    o->n_vocab = cfg->n_vocab;
    o->n_heads = cfg->n_heads;
    o->head_dim = cfg->head_dim;
    return g;
}

uint64_t eng_graph_bytes(const struct eng_model *model, const struct eng_graph_options *options)
{
    struct eng_graph *g = new_graph(model, options);
    struct loader ld = {.g = g, .counts_only = true};

    load_weights(&ld, model);
    make_buffers(&ld);
    ld.bytes += g->ops->open_bytes(&g->options.device);
    eng_graph_free(g);
    return ld.bytes;
}

enum base_code eng_graph_new(struct eng_graph **ret_graph, const struct eng_model *model,
                             const struct eng_graph_options *options, struct base_err *err)
{
    struct eng_graph *g = new_graph(model, options);
    struct loader ld = {.g = g, .gguf = model->gguf, .err = err};

    ld.rc = g->ops->open(&g->dev, &g->options.device, err);
    if (ld.rc == BASE_OK) {
        load_weights(&ld, model);
        make_buffers(&ld);
        free(ld.data);
    }
    if (ld.rc != BASE_OK) {
        eng_graph_free(g);
        return ld.rc;
    }
    *ret_graph = g;
    return BASE_OK;
}

static void free_layer(struct eng_graph *g, struct layer *l)
{
    struct eng_weight *all[] = {l->attn_norm, l->q,         l->k,       l->v,         l->o,      l->q_bias,
                                l->k_bias,    l->v_bias,    l->o_bias,  l->ffn_norm,  l->gate,   l->up,
                                l->down,      l->gate_bias, l->up_bias, l->down_bias, l->q_norm, l->k_norm};

    for (size_t i = 0; i < BASE_ARRAY_LEN(all); i++)
        g->ops->weight_free(g->dev, all[i]);
}

void eng_graph_free(struct eng_graph *g)
{
    if (g == NULL)
        return;
    if (g->dev != NULL) {
        struct eng_buf *bufs[] = {g->x, g->h, g->q, g->k, g->v, g->attn, g->gate, g->up, g->rows, g->logits};

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
    free(g);
}

struct eng_device *eng_graph_device(struct eng_graph *g)
{
    return g->dev;
}

const struct eng_ops *eng_graph_ops(const struct eng_graph *g)
{
    return g->ops;
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
    const struct eng_attn_in in = {.x = g->x,
                                   .norm = l->attn_norm,
                                   .eps = cfg->norm_eps,
                                   .q = {l->q, l->q_bias, g->q, false},
                                   .k = {l->k, l->k_bias, g->k, false},
                                   .v = {l->v, l->v_bias, g->v, false},
                                   .scratch = g->h,
                                   .q_norm = l->q_norm,
                                   .k_norm = l->k_norm,
                                   .n_heads = cfg->n_heads,
                                   .n_kv_heads = cfg->n_kv_heads,
                                   .head_dim = cfg->head_dim,
                                   .rope = g->rope,
                                   .rope_dim = cfg->rope_dim,
                                   .rope_halves = cfg->rope_halves,
                                   .kv = kv,
                                   .layer = index};
    const struct eng_attention at = {
        .kv = kv, .layer = index, .n_heads = cfg->n_heads, .q = g->q, .out = g->attn};
    const struct eng_matmul out = {l->o, l->o_bias, g->x, true};

    g->ops->attn_in(g->dev, &in);
    g->ops->attention(g->dev, &at);
    g->ops->matmul(g->dev, g->attn, n, &out, 1);
}

static void mlp_block(struct eng_graph *g, uint32_t index, uint32_t n)
{
    const struct layer *l = &g->layers[index];
    const struct eng_mlp_in in = {.x = g->x,
                                  .norm = l->ffn_norm,
                                  .eps = g->cfg->norm_eps,
                                  .gate = {l->gate, l->gate_bias, g->gate, false},
                                  .up = {l->up, l->up_bias, g->up, false},
                                  .scratch = g->h};
    const struct eng_matmul out = {l->down, l->down_bias, g->x, true};

    g->ops->mlp_in(g->dev, &in);
    g->ops->matmul(g->dev, g->gate, n, &out, 1);
}

static void run_ops(struct eng_graph *g, struct eng_kv_store *kv, const struct eng_step *step)
{
    const struct eng_matmul out = {g->output, NULL, g->logits, false};

    g->ops->embed(g->dev, g->token_embd, g->x);
    for (uint32_t i = 0; i < g->cfg->n_layers; i++) {
        attention_block(g, kv, i, step->n_tokens);
        mlp_block(g, i, step->n_tokens);
    }
    if (step->n_logits > 0) {
        g->ops->norm_rows(g->dev, g->x, g->output_norm, g->cfg->norm_eps, g->rows);
        g->ops->matmul(g->dev, g->rows, step->n_logits, &out, 1);
    }
}

enum base_code eng_graph_step(struct eng_graph *g, struct eng_kv_store *kv, const struct eng_step *step,
                              const struct eng_choice *choices, float *ret_logits,
                              struct eng_chosen *ret_chosen, struct base_err *err)
{
    enum base_code rc;

    if (!g->ops->step_begin(g->dev, step))
        run_ops(g, kv, step);
    if (choices != NULL && step->n_logits > 0)
        g->ops->sample(g->dev, g->logits, choices);
    rc = g->ops->finish(g->dev, err);
    if (rc != BASE_OK || step->n_logits == 0)
        return rc;
    if (ret_logits != NULL)
        g->ops->buf_read(g->dev, g->logits, 0, ret_logits, (size_t)step->n_logits * g->cfg->n_vocab);
    if (ret_chosen != NULL)
        g->ops->chosen_read(g->dev, ret_chosen);
    return BASE_OK;
}
