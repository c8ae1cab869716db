/* Every op of a CUDA plug-in's table against the CPU oracle, on fresh random inputs.
 *
 * usage: gpu_ops PLUGIN [--seed N] [--rounds N] [--small]
 * Each round draws a shape (sizes that are multiples of nothing), weights of one format, and a step of several sequences. Inputs reach
 * the device as rows of an F32 embedding, so that both sides start from the same bits; outputs are filled with something else
 * before; every element is compared. Prints one line for each failure, and at the end a line `N ops checked, N failed, seed N`.
 */
#include "base/mem.h"
#include "engine/device.h"
#include "engine/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_MATMUL 0.006 /* activations are rounded to the tensor cores' formats */

static uint64_t state;
static unsigned n_checked, n_failed;
static double worst_exact; /* off the float64 reference, of the root mean square */

static uint32_t rnd(void)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

static uint32_t between(uint32_t low, uint32_t high)
{
    return low + rnd() % (high - low + 1);
}

static float rnd_float(void)
{
    return (float)rnd() / 1073741824.0f - 1.0f;
}

static void put_f16(uint8_t *p, float v)
{
    uint16_t h = eng_f32_to_f16(v);

    memcpy(p, &h, 2);
}

/* Random bits with scales such that a product has a size of about one. */
static void *random_matrix(enum eng_type type, uint32_t rows, uint32_t cols)
{
    const struct eng_type_info *info = eng_type_info(type);
    size_t bytes = rows * eng_row_bytes(type, cols);
    uint8_t *all = base_alloc(bytes);
    float size = 1 / sqrtf((float)cols);

    for (uint8_t *p = all; p < all + bytes; p += info->block_bytes) {
        uint16_t h;
        float v = rnd_float() * size;

        for (unsigned i = 0; i < info->block_bytes; i++)
            p[i] = (uint8_t)rnd();
        switch (type) {
        case ENG_F32: memcpy(p, &v, 4); break;
        case ENG_F16: put_f16(p, v); break;
        case ENG_BF16:
            memcpy(&h, (uint8_t *)&v + 2, 2);
            memcpy(p, &h, 2);
            break;
        case ENG_Q6_K: put_f16(p + 208, v / 2000); break;
        case ENG_Q8_0: put_f16(p, v / 64); break;
        case ENG_Q4_K:
        case ENG_Q5_K:
            put_f16(p, v / 300);
            put_f16(p + 2, rnd_float() * size / 300);
            break;
        default:
            put_f16(p, v / 8);
            if (type == ENG_Q4_1 || type == ENG_Q5_1)
                put_f16(p + 2, rnd_float() * size);
            break;
        }
    }
    return all;
}

static float *random_vector(uint32_t n, float around)
{
    float *v = base_alloc(n * sizeof(*v));

    for (uint32_t i = 0; i < n; i++)
        v[i] = around + rnd_float() / 2;
    return v;
}

/* ---- one side: the oracle, or the device ---- */

struct shape {
    enum eng_type type;
    uint32_t n_embd, n_ff, n_heads, n_kv_heads, head_dim, rope_dim, n_vocab, n_tokens, n_sequences, n_logits,
        context;
    bool halves, head_norms, biases, exact_kv;
};

enum { W_INPUT, W_TABLE, W_Q, W_K, W_V, W_O, W_GATE, W_UP, W_DOWN, W_OUT, N_MATRICES };
enum { V_NORM, V_Q_BIAS, V_O_BIAS, V_ROPE, V_Q_NORM, V_K_NORM, N_VECTORS };

struct model {
    struct eng_weight_data matrices[N_MATRICES], vectors[N_VECTORS];
};

struct side {
    const struct eng_ops *ops;
    struct eng_device *dev;
    struct eng_weight *w[N_MATRICES], *v[N_VECTORS];
    struct eng_buf *x, *h, *q, *k, *value, *attn, *gate, *up, *rows, *logits;
    struct eng_kv_store *kv;
};

static void must(enum base_code rc, const struct base_err *err)
{
    if (rc == BASE_OK)
        return;
    fprintf(stderr, "%s\n", err->detail);
    exit(1);
}

static struct eng_device_options options_of(const struct shape *s)
{
    uint32_t most = s->n_embd > s->n_ff ? s->n_embd : s->n_ff, heads = s->n_heads * s->head_dim;

    most = most > heads ? most : heads;
    return (struct eng_device_options){.n_threads = 2,
                                       .max_tokens = s->n_tokens,
                                       .max_context = s->context,
                                       .max_sequences = s->n_sequences,
                                       .max_logits = s->n_logits,
                                       .max_rows = most,
                                       .max_cols = most,
                                       .n_vocab = s->n_vocab,
                                       .n_heads = s->n_heads,
                                       .head_dim = s->head_dim};
}

static struct eng_kv_shape kv_shape_of(const struct shape *s)
{
    return (struct eng_kv_shape){.n_layers = 2,
                                 .n_pages =
                                     s->n_sequences * ((s->context + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS),
                                 .n_heads = s->n_heads,
                                 .n_kv_heads = s->n_kv_heads,
                                 .head_dim = s->head_dim,
                                 .type = s->exact_kv ? ENG_F32 : ENG_F16};
}

static void buf_sizes(const struct shape *s, size_t sizes[10])
{
    size_t n = s->n_tokens;
    const size_t all[10] = {n * s->n_embd,
                            n * s->n_embd,
                            n * s->n_heads * s->head_dim,
                            n * s->n_kv_heads * s->head_dim,
                            n * s->n_kv_heads * s->head_dim,
                            n * s->n_heads * s->head_dim,
                            n * s->n_ff,
                            n * s->n_ff,
                            (size_t)s->n_logits * s->n_embd,
                            (size_t)s->n_logits * s->n_vocab};

    memcpy(sizes, all, sizeof(all));
}

static void open_side(struct side *side, const struct eng_ops *ops, const struct shape *s,
                      const struct model *m)
{
    struct eng_device_options o = options_of(s);
    struct eng_kv_shape shape = kv_shape_of(s);
    struct eng_buf **bufs[10] = {&side->x,    &side->h,    &side->q,  &side->k,    &side->value,
                                 &side->attn, &side->gate, &side->up, &side->rows, &side->logits};
    size_t sizes[10];
    struct base_err err;

    buf_sizes(s, sizes);
    side->ops = ops;
    o.reserve_bytes = ops->open_bytes(&o) + ops->kv_page_bytes(&shape) * shape.n_pages;
    for (int i = 0; i < N_MATRICES; i++)
        o.reserve_bytes += ops->weight_bytes(&m->matrices[i]);
    for (int i = 0; i < N_VECTORS; i++)
        o.reserve_bytes += ops->weight_bytes(&m->vectors[i]);
    for (int i = 0; i < 10; i++)
        o.reserve_bytes += ops->buf_bytes(sizes[i]);
    must(ops->open(&side->dev, &o, &err), &err);
    for (int i = 0; i < N_MATRICES; i++)
        must(ops->weight_new(side->dev, &m->matrices[i], &side->w[i], &err), &err);
    for (int i = 0; i < N_VECTORS; i++)
        must(ops->weight_new(side->dev, &m->vectors[i], &side->v[i], &err), &err);
    for (int i = 0; i < 10; i++)
        must(ops->buf_new(side->dev, sizes[i], bufs[i], &err), &err);
    must(ops->kv_new(side->dev, &shape, &side->kv, &err), &err);
}

static void close_side(struct side *side)
{
    struct eng_buf *bufs[] = {side->x,    side->h,    side->q,  side->k,    side->value,
                              side->attn, side->gate, side->up, side->rows, side->logits};

    side->ops->kv_free(side->dev, side->kv);
    for (size_t i = 0; i < BASE_ARRAY_LEN(bufs); i++)
        side->ops->buf_free(side->dev, bufs[i]);
    for (int i = 0; i < N_MATRICES; i++)
        side->ops->weight_free(side->dev, side->w[i]);
    for (int i = 0; i < N_VECTORS; i++)
        side->ops->weight_free(side->dev, side->v[i]);
    side->ops->close(side->dev);
}

static void finish(struct side *side, const char *op)
{
    struct base_err err;

    if (side->ops->finish(side->dev, &err) == BASE_OK)
        return;
    fprintf(stderr, "%s: %s\n", op, err.detail);
    exit(1);
}

/* ---- comparing ---- */

static void compare(const char *op, const struct shape *s, struct side *cpu, struct side *gpu,
                    struct eng_buf *a, struct eng_buf *b, size_t n, double tolerance)
{
    auto_free float *want = base_alloc(n * sizeof(float));
    auto_free float *got = base_alloc(n * sizeof(float));
    double sum = 0, worst = 0;
    size_t at = 0;

    finish(cpu, op);
    finish(gpu, op);
    cpu->ops->buf_read(cpu->dev, a, 0, want, n);
    gpu->ops->buf_read(gpu->dev, b, 0, got, n);
    for (size_t i = 0; i < n; i++)
        sum += (double)want[i] * want[i];
    sum = sqrt(sum / (double)n);
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - want[i]);

        if (!(off <= worst)) { /* NaN too */
            worst = off;
            at = i;
        }
    }
    n_checked++;
    if (worst <= tolerance * sum + 1e-7)
        return;
    n_failed++;
    printf("FAILED %s, %s, %u tokens of %u sequences, embd %u ff %u heads %u/%u x %u: element %zu of %zu is "
           "%g, not %g "
           "(rms %g)\n",
           op, eng_type_info(s->type)->name, s->n_tokens, s->n_sequences, s->n_embd, s->n_ff, s->n_heads,
           s->n_kv_heads, s->head_dim, at, n, got[at], want[at], sum);
}

/* ---- the same by float64, from what the device itself gave as input: the oracle's own roundings are not in it ---- */

static float *read_device(struct side *gpu, struct eng_buf *buf, size_t n)
{
    float *v = base_alloc(n * sizeof(float));

    gpu->ops->buf_read(gpu->dev, buf, 0, v, n);
    return v;
}

static void compare_exact(const char *op, const struct shape *s, const double *want, const float *got,
                          size_t n, double tolerance)
{
    double sum = 0, worst = 0;
    size_t at = 0;

    for (size_t i = 0; i < n; i++)
        sum += want[i] * want[i];
    sum = sqrt(sum / (double)n);
    for (size_t i = 0; i < n; i++) {
        double off = fabs(got[i] - want[i]);

        if (!(off <= worst)) { /* NaN too */
            worst = off;
            at = i;
        }
    }
    n_checked++;
    if (worst / sum > worst_exact)
        worst_exact = worst / sum;
    if (worst <= tolerance * sum + 1e-7)
        return;
    n_failed++;
    printf("FAILED %s by float64, %s, %u tokens, embd %u ff %u vocabulary %u: element %zu of %zu is %g, not "
           "%g (rms "
           "%g)\n",
           op, eng_type_info(s->type)->name, s->n_tokens, s->n_embd, s->n_ff, s->n_vocab, at, n, got[at],
           want[at], sum);
}

static void exact_matmul(const char *op, const struct shape *s, struct side *gpu,
                         const struct eng_weight_data *w, struct eng_buf *in, struct eng_buf *out,
                         size_t n_rows)
{
    const size_t bytes = eng_row_bytes(w->type, w->cols);
    auto_free float *x = read_device(gpu, in, n_rows * w->cols);
    auto_free float *got = read_device(gpu, out, n_rows * w->rows);
    auto_free float *row = base_alloc(w->cols * sizeof(float));
    auto_free double *want = base_alloc(n_rows * w->rows * sizeof(double));

    for (size_t r = 0; r < w->rows; r++) {
        eng_dequant(w->type, (const uint8_t *)w->data + r * bytes, row, w->cols);
        for (size_t t = 0; t < n_rows; t++) {
            double sum = 0;

            for (size_t c = 0; c < w->cols; c++)
                sum += (double)row[c] * x[t * w->cols + c];
            want[t * w->rows + r] = sum;
        }
    }
    compare_exact(op, s, want, got, n_rows * w->rows, EXACT_MATMUL);
}

static void exact_norm(const struct shape *s, struct side *gpu, const struct model *m,
                       const struct eng_step *step)
{
    const size_t n = s->n_embd;
    const float *norm = m->vectors[V_NORM].data;
    auto_free float *x = read_device(gpu, gpu->x, step->n_tokens * n);
    auto_free float *got = read_device(gpu, gpu->rows, step->n_logits * n);
    auto_free double *want = base_alloc(step->n_logits * n * sizeof(double));

    for (size_t r = 0; r < step->n_logits; r++) {
        const float *row = x + step->logit_rows[r] * n;
        double sum = 0;

        for (size_t i = 0; i < n; i++)
            sum += (double)row[i] * row[i];
        for (size_t i = 0; i < n; i++)
            want[r * n + i] = row[i] / sqrt(sum / (double)n + 1e-5f) * norm[i];
    }
    compare_exact("norm_rows", s, want, got, step->n_logits * n, 1e-5);
}

/* ---- a round ---- */

static uint32_t block_of(enum eng_type type)
{
    return eng_type_info(type)->block_values;
}

static struct shape draw_shape(enum eng_type type, bool small)
{
    uint32_t b = block_of(type), unit = b == 1 ? 1 : b;
    struct shape s = {.type = type};
    uint32_t group = between(1, 5);

    s.head_dim = b == 256 ? 128 : between(1, 4) * 32 + (b == 1 ? between(0, 7) * 2 : 0);
    s.n_kv_heads = between(1, 3) * (b == 256 ? 2 : 1);
    s.n_heads = s.n_kv_heads * group;
    s.rope_dim = rnd() % 2 ? s.head_dim : s.head_dim / 4 * 2;
    s.n_embd = b == 1 ? between(50, 400) : unit * between(1, b == 256 ? 3 : 9);
    s.n_ff = b == 1 ? between(60, 700) : unit * between(1, b == 256 ? 4 : 15);
    s.n_vocab = between(100, small ? 300 : 5000);
    s.n_sequences = between(1, small ? 3 : 7);
    s.context = between(20, small ? 60 : 900);
    s.n_tokens = s.n_sequences * between(1, small ? 9 : 40);
    s.n_logits = between(1, s.n_sequences);
    s.halves = rnd() % 2;
    s.head_norms = rnd() % 2;
    s.biases = rnd() % 2;
    s.exact_kv = rnd() % 4 == 0;
    return s;
}

static void make_model(const struct shape *s, struct model *m)
{
    const uint32_t qd = s->n_heads * s->head_dim, kvd = s->n_kv_heads * s->head_dim;
    const uint32_t rows[N_MATRICES] = {s->n_tokens, s->n_vocab, qd,      kvd,       kvd,
                                       s->n_embd,   s->n_ff,    s->n_ff, s->n_embd, s->n_vocab};
    const uint32_t cols[N_MATRICES] = {s->n_embd, s->n_embd, s->n_embd, s->n_embd, s->n_embd,
                                       qd,        s->n_embd, s->n_embd, s->n_ff,   s->n_embd};
    const uint32_t lengths[N_VECTORS] = {s->n_embd,   qd,         s->n_embd, s->context * s->rope_dim,
                                         s->head_dim, s->head_dim};
    float *rope;

    for (int i = 0; i < N_MATRICES; i++) {
        enum eng_type type = i == W_INPUT || cols[i] % block_of(s->type) != 0 ? ENG_F32 : s->type;

        m->matrices[i] = (struct eng_weight_data){.type = type,
                                                  .rows = rows[i],
                                                  .cols = cols[i],
                                                  .uses = i <= W_TABLE ? ENG_USE_ROWS : ENG_USE_MATMUL,
                                                  .data = random_matrix(type, rows[i], cols[i])};
    }
    for (int i = 0; i < N_VECTORS; i++)
        m->vectors[i] = (struct eng_weight_data){
            .type = ENG_F32,
            .cols = lengths[i],
            .data = random_vector(lengths[i], i == V_Q_BIAS || i == V_O_BIAS ? 0 : 1)};
    for (uint32_t i = 0; i < s->n_tokens * s->n_embd; i++) /* activations, not weights */
        ((float *)m->matrices[W_INPUT].data)[i] = rnd_float() * (rnd() % 50 == 0 ? 20 : 1);
    rope = (float *)m->vectors[V_ROPE].data;
    for (uint32_t p = 0; p < s->context; p++)
        for (uint32_t i = 0; i < s->rope_dim / 2; i++) {
            double angle = p * pow(10000, -2.0 * i / s->rope_dim);

            rope[p * s->rope_dim + i] = (float)cos(angle);
            rope[p * s->rope_dim + s->rope_dim / 2 + i] = (float)sin(angle);
        }
}

struct arrays {
    int32_t *ids;
    uint32_t *positions, *sequences, *pages, *logit_rows;
};

static void run_step(struct side *cpu, struct side *gpu, const struct shape *s, const struct model *m,
                     const struct eng_step *step)
{
    struct side *sides[2] = {cpu, gpu};
    const size_t n = step->n_tokens, qd = (size_t)s->n_heads * s->head_dim;
    struct eng_choice choices[64];
    struct eng_chosen chosen[2][64];

    for (int i = 0; i < 2; i++) {
        struct side *d = sides[i];

        d->ops->step_begin(d->dev, step);
        d->ops->embed(d->dev, d->w[W_INPUT], d->x);
    }
    compare("embed", s, cpu, gpu, cpu->x, gpu->x, n * s->n_embd, 0);
    for (int i = 0; i < 2; i++) {
        struct side *d = sides[i];
        const struct eng_attn_in in = {.x = d->x,
                                       .norm = d->v[V_NORM],
                                       .eps = 1e-5f,
                                       .q = {d->w[W_Q], s->biases ? d->v[V_Q_BIAS] : NULL, d->q, false},
                                       .k = {d->w[W_K], NULL, d->k, false},
                                       .v = {d->w[W_V], NULL, d->value, false},
                                       .scratch = d->h,
                                       .q_norm = s->head_norms ? d->v[V_Q_NORM] : NULL,
                                       .k_norm = s->head_norms ? d->v[V_K_NORM] : NULL,
                                       .n_heads = s->n_heads,
                                       .n_kv_heads = s->n_kv_heads,
                                       .head_dim = s->head_dim,
                                       .rope = d->v[V_ROPE],
                                       .rope_dim = s->rope_dim,
                                       .rope_halves = s->halves,
                                       .kv = d->kv,
                                       .layer = 1};

        d->ops->attn_in(d->dev, &in);
    }
    compare("attn_in", s, cpu, gpu, cpu->q, gpu->q, n * qd, 0.02);
    for (int i = 0; i < 2; i++) {
        struct side *d = sides[i];
        const struct eng_attention at = {
            .kv = d->kv, .layer = 1, .n_heads = s->n_heads, .q = d->q, .out = d->attn};

        d->ops->attention(d->dev, &at);
    }
    compare("attention", s, cpu, gpu, cpu->attn, gpu->attn, n * qd, 0.03);
    for (int i = 0; i < 2; i++) {
        struct side *d = sides[i];
        const struct eng_matmul onto = {d->w[W_O], s->biases ? d->v[V_O_BIAS] : NULL, d->x, true};

        d->ops->matmul(d->dev, d->attn, step->n_tokens, &onto, 1);
    }
    compare("matmul onto", s, cpu, gpu, cpu->x, gpu->x, n * s->n_embd, 0.02);
    for (int i = 0; i < 2; i++) {
        struct side *d = sides[i];
        const struct eng_mlp_in in = {.x = d->x,
                                      .norm = d->v[V_NORM],
                                      .eps = 1e-5f,
                                      .gate = {d->w[W_GATE], NULL, d->gate, false},
                                      .up = {d->w[W_UP], NULL, d->up, false},
                                      .scratch = d->h};

        d->ops->embed(d->dev, d->w[W_INPUT], d->x);
        d->ops->mlp_in(d->dev, &in);
    }
    compare("mlp_in", s, cpu, gpu, cpu->gate, gpu->gate, n * s->n_ff, 0.03);
    for (int i = 0; i < 2; i++) {
        struct side *d = sides[i];
        const struct eng_matmul down = {d->w[W_DOWN], NULL, d->h, false};
        const struct eng_matmul out = {d->w[W_OUT], NULL, d->logits, false};

        d->ops->matmul(d->dev, d->gate, step->n_tokens, &down, 1);
        d->ops->norm_rows(d->dev, d->x, d->v[V_NORM], 1e-5f, d->rows);
        d->ops->matmul(d->dev, d->rows, step->n_logits, &out, 1);
    }
    compare("matmul", s, cpu, gpu, cpu->h, gpu->h, n * s->n_embd, 0.03);
    compare("norm_rows", s, cpu, gpu, cpu->rows, gpu->rows, (size_t)step->n_logits * s->n_embd, 1e-4);
    compare("matmul logits", s, cpu, gpu, cpu->logits, gpu->logits, (size_t)step->n_logits * s->n_vocab,
            0.02);
    exact_matmul("matmul", s, gpu, &m->matrices[W_DOWN], gpu->gate, gpu->h, n);
    exact_norm(s, gpu, m, step);
    exact_matmul("matmul logits", s, gpu, &m->matrices[W_OUT], gpu->rows, gpu->logits, step->n_logits);

    /* Sampling from the very same logits: rows of the table, by embed. */
    for (uint32_t i = 0; i < step->n_logits; i++)
        choices[i] = (struct eng_choice){.params = {.temperature = i % 3 == 0 ? 0 : 1.0f,
                                                    .top_p = i % 2 ? 0.9f : 1.0f,
                                                    .repetition_penalty = 1,
                                                    .top_k = i % 4 == 1 ? 7 : 0},
                                         .draw = (double)rnd() / 2147483648.0,
                                         .n_tokens = s->n_vocab,
                                         .n_top = 3};
    for (int i = 0; i < 2; i++)
        sides[i]->ops->sample(sides[i]->dev, sides[i]->logits, choices);
    finish(cpu, "sample");
    finish(gpu, "sample");
    for (int i = 0; i < 2; i++)
        sides[i]->ops->chosen_read(sides[i]->dev, chosen[i]);
    for (uint32_t i = 0; i < step->n_logits; i++) {
        bool near = fabsf(chosen[0][i].top_logprobs[0] - chosen[1][i].top_logprobs[0]) <= 0.05f;

        n_checked++;
        /* The logits differ by a rounding: so may a draw, and a first that is not far ahead of the second. */
        if (near && (choices[i].params.temperature > 0 || chosen[0][i].id == chosen[1][i].id ||
                     chosen[0][i].top_logprobs[0] - chosen[0][i].top_logprobs[1] < 0.05f))
            continue;
        n_failed++;
        printf("FAILED sample, vocabulary %u: %d with %g, not %d with %g\n", s->n_vocab, chosen[1][i].id,
               chosen[1][i].top_logprobs[0], chosen[0][i].id, chosen[0][i].top_logprobs[0]);
    }
}

static void run_round(const struct eng_ops *plugin, enum eng_type type, bool small)
{
    struct shape s = draw_shape(type, small);
    struct side cpu = {0}, gpu = {0};
    struct model m;
    uint32_t each = s.n_tokens / s.n_sequences, pages = (s.context + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS;
    struct arrays a = {base_zalloc(s.n_tokens * 4), base_zalloc(s.n_tokens * 4), base_zalloc(s.n_tokens * 4),
                       base_zalloc((size_t)s.n_sequences * pages * 4), base_zalloc(s.n_logits * 4)};
    struct eng_step step = {.n_tokens = s.n_tokens,
                            .ids = a.ids,
                            .positions = a.positions,
                            .sequences = a.sequences,
                            .n_sequences = s.n_sequences,
                            .pages_per_sequence = pages,
                            .page_table = a.pages,
                            .n_logits = s.n_logits,
                            .logit_rows = a.logit_rows};

    make_model(&s, &m);
    open_side(&cpu, eng_ops_cpu("scalar"), &s, &m);
    open_side(&gpu, plugin, &s, &m);
    for (uint32_t i = 0; i < s.n_sequences * pages;
         i++) /* shuffled: an odd stride of a count made odd by one */
        a.pages[i] = s.n_sequences * pages - 1 - i;
    for (uint32_t i = 0; i < s.n_logits; i++)
        a.logit_rows[i] = s.n_tokens - 1 - i;
    for (uint32_t first = 0; first + each <= s.context;
         first += each) { /* fills the cache; the last step is compared */
        bool last = first + 2 * each > s.context;

        for (uint32_t i = 0; i < s.n_tokens; i++) {
            a.ids[i] = (int32_t)((i * 7 + first) % s.n_tokens);
            a.sequences[i] = i / each;
            a.positions[i] = first + i % each;
        }
        if (first == 0 || last || rnd() % 4 == 0)
            run_step(&cpu, &gpu, &s, &m, &step);
        else {
            struct side *sides[2] = {&cpu, &gpu};

            for (int i = 0; i < 2; i++) {
                struct side *d = sides[i];
                const struct eng_attn_in in = {.x = d->x,
                                               .norm = d->v[V_NORM],
                                               .eps = 1e-5f,
                                               .q = {d->w[W_Q], NULL, d->q, false},
                                               .k = {d->w[W_K], NULL, d->k, false},
                                               .v = {d->w[W_V], NULL, d->value, false},
                                               .scratch = d->h,
                                               .n_heads = s.n_heads,
                                               .n_kv_heads = s.n_kv_heads,
                                               .head_dim = s.head_dim,
                                               .rope = d->v[V_ROPE],
                                               .rope_dim = s.rope_dim,
                                               .rope_halves = s.halves,
                                               .kv = d->kv,
                                               .layer = 1};

                d->ops->step_begin(d->dev, &step);
                d->ops->embed(d->dev, d->w[W_INPUT], d->x);
                d->ops->attn_in(d->dev, &in);
                finish(d, "attn_in");
            }
        }
    }
    close_side(&cpu);
    close_side(&gpu);
    for (int i = 0; i < N_MATRICES; i++)
        free((void *)m.matrices[i].data);
    for (int i = 0; i < N_VECTORS; i++)
        free((void *)m.vectors[i].data);
    free(a.ids);
    free(a.positions);
    free(a.sequences);
    free(a.pages);
    free(a.logit_rows);
}

int main(int argc, char **argv)
{
    static const enum eng_type types[] = {ENG_F16,  ENG_BF16, ENG_F32,  ENG_Q8_0, ENG_Q4_0, ENG_Q4_1,
                                          ENG_Q5_0, ENG_Q5_1, ENG_Q4_K, ENG_Q5_K, ENG_Q6_K};
    unsigned long long seed = 1, rounds = 2;
    struct eng_device_pick pick;
    struct base_err err;
    bool small = false;

    if (argc < 2 || argv[1][0] == '-') {
        fputs("usage: gpu_ops PLUGIN [--seed N] [--rounds N] [--small]\n", argc == 2 ? stdout : stderr);
        return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--small") == 0)
            small = true;
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--rounds") == 0)
            rounds = strtoull(argv[++i], NULL, 10);
        else {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return 2;
        }
    }
    eng_use_plugin(argv[1]);
    if (eng_device_pick(&pick, "cuda", NULL, &err) != BASE_OK) {
        fprintf(stderr, "%s\n", err.detail);
        return 3;
    }
    puts("1..1"); /* as every test here: TAP */
    state = seed;
    for (unsigned long long r = 0; r < rounds; r++)
        for (size_t t = 0; t < BASE_ARRAY_LEN(types); t++)
            run_round(pick.ops, types[t], small);
    fprintf(stderr, "products at most %.1e of the root mean square off float64\n", worst_exact);
    printf("%s 1 - every op as the CPU oracle has it\n", n_failed > 0 ? "not ok" : "ok");
    printf("# %u ops checked, %u failed, seed %llu\n", n_checked, n_failed, seed);
    return n_failed > 0 ? 1 : 0;
}
