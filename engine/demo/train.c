/*
 * train.c - trains the bundled demo model from scratch on the CPU.
 *
 * A llama-style decoder (RMSNorm, adjacent-pair rope, grouped-query causal
 * attention, SwiGLU, tied embeddings) with a hand-written backward pass;
 * matrix products come from OpenBLAS.  The loss counts only tokens that the
 * assistant says.  Every conversation is a segment of its own: attention never
 * crosses from one to the next and positions restart at 0, so there is no
 * padding and what the model sees is what it sees when it serves a request.
 *
 *   train DATA_DIR CHECKPOINT [--steps N] [--stop N] [--lr X] [--seed N] [--check]
 *
 * --steps is where the learning rate has come down, --stop where to stop before that.
 * An existing CHECKPOINT is continued.  --check compares the backward pass
 * with finite differences and stops.  Two threads each take half of a batch and
 * the halves are added in a fixed order, so a run can be repeated exactly.
 */
#include <cblas.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    VOCAB = 1536,
    DIM = 256,
    LAYERS = 6,
    HEADS = 8,
    KV_HEADS = 4,
    HEAD_DIM = 32,
    FFN = 512,
    Q_DIM = HEADS * HEAD_DIM,
    KV_DIM = KV_HEADS * HEAD_DIM,
    QKV_DIM = Q_DIM + 2 * KV_DIM,
    WORKERS = 2,
    BUDGET = 1024, /* tokens in one worker's half of a batch */
    WARMUP = 200
};
static const float ROPE_BASE = 10000.0f, NORM_EPS = 1e-5f;
static const uint32_t MAGIC = 0x31444847; /* "GHD1" */

/* Offsets of the tensors in the flat parameter array; export.py has the same order. */
enum {
    ATTN_NORM = 0,
    W_QKV = ATTN_NORM + DIM,
    W_OUT = W_QKV + QKV_DIM * DIM,
    FFN_NORM = W_OUT + DIM * Q_DIM,
    W_GATE_UP = FFN_NORM + DIM,
    W_DOWN = W_GATE_UP + 2 * FFN * DIM,
    LAYER_SIZE = W_DOWN + DIM * FFN,
    FIRST_LAYER = VOCAB * DIM,
    OUT_NORM = FIRST_LAYER + LAYERS * LAYER_SIZE,
    PARAMS = OUT_NORM + DIM
};

typedef struct {
    float *in, *norm, *rms, *qkv, *att, *mid, *norm2, *rms2, *gate_up, *act;
} layer_state;

typedef struct {
    int n, segments, targets;
    int token[BUDGET], target[BUDGET], position[BUDGET];
    int start[BUDGET], length[BUDGET];
    layer_state layer[LAYERS];
    float *last, *last_norm, *last_rms, *picked, *logits, *d_picked;
    float *dx, *dy, *d_norm, *d_qkv, *d_gate_up, *d_act, *score, *d_score;
    float *grad;
    const float *param;
    float loss_scale;
    double loss;
    int backward;
} worker;

typedef struct {
    uint32_t conversations;
    uint32_t *length;
    uint64_t *offset;
    uint16_t *token;
    uint8_t *spoken; /* 1 where the assistant says the token */
} dataset;

typedef struct {
    uint32_t magic, step;
    uint64_t tokens, cursor, epoch;
    uint32_t shape[8];
} checkpoint_header;

static float rope_cos[BUDGET][HEAD_DIM / 2], rope_sin[BUDGET][HEAD_DIM / 2];

static void die(const char *what)
{
    fprintf(stderr, "train: %s\n", what);
    exit(1);
}

static float *floats(size_t n)
{
    float *p = NULL;
    if (posix_memalign((void **)&p, 64, n * sizeof *p) != 0)
        die("out of memory");
    memset(p, 0, n * sizeof *p);
    return p;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float normal(uint64_t *state)
{
    double u = ((double)(next_random(state) >> 11) + 0.5) / 9007199254740992.0;
    double v = (double)(next_random(state) >> 11) / 9007199254740992.0;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

/* Products of row-major matrices; the letters say which operand is transposed. */
static void mul_nt(int m, int n, int k, const float *a, const float *b, float beta, float *c)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, a, k, b, k, beta, c, n);
}

static void mul_nn(int m, int n, int k, const float *a, const float *b, float beta, float *c)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0f, a, k, b, n, beta, c, n);
}

static void add_tn(int m, int n, int k, const float *a, const float *b, float *c)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, n, k, 1.0f, a, m, b, n, 1.0f, c, n);
}

static void norm_forward(int n, const float *x, const float *w, float *y, float *inverse)
{
    for (int t = 0; t < n; t++) {
        const float *row = x + (size_t)t * DIM;
        float sum = 0.0f;
        for (int i = 0; i < DIM; i++)
            sum += row[i] * row[i];
        float r = 1.0f / sqrtf(sum / DIM + NORM_EPS);
        inverse[t] = r;
        for (int i = 0; i < DIM; i++)
            y[(size_t)t * DIM + i] = row[i] * r * w[i];
    }
}

/* Adds the gradient through the norm to dx. */
static void norm_backward(int n, const float *x, const float *w, const float *inverse, const float *dy,
                          float *dx, float *dw)
{
    for (int t = 0; t < n; t++) {
        const float *row = x + (size_t)t * DIM, *d = dy + (size_t)t * DIM;
        float *out = dx + (size_t)t * DIM, r = inverse[t], dot = 0.0f;
        for (int i = 0; i < DIM; i++) {
            dot += d[i] * w[i] * row[i];
            dw[i] += d[i] * row[i] * r;
        }
        float c = dot * r * r * r / DIM;
        for (int i = 0; i < DIM; i++)
            out[i] += d[i] * w[i] * r - row[i] * c;
    }
}

/* Rotates queries and keys; direction -1 is the transpose, for the backward pass. */
static void rope(const worker *w, float *qkv, float direction)
{
    for (int t = 0; t < w->n; t++) {
        const float *cosine = rope_cos[w->position[t]], *sine = rope_sin[w->position[t]];
        for (int h = 0; h < HEADS + KV_HEADS; h++) {
            float *v = qkv + (size_t)t * QKV_DIM + (size_t)h * HEAD_DIM;
            for (int i = 0; i < HEAD_DIM / 2; i++) {
                float a = v[2 * i], b = v[2 * i + 1], s = sine[i] * direction;
                v[2 * i] = a * cosine[i] - b * s;
                v[2 * i + 1] = a * s + b * cosine[i];
            }
        }
    }
}

static void attention_weights(int len, const float *q, const float *k, float *p)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, len, len, HEAD_DIM, 1.0f / sqrtf((float)HEAD_DIM), q,
                QKV_DIM, k, QKV_DIM, 0.0f, p, len);
    for (int i = 0; i < len; i++) {
        float *row = p + (size_t)i * (size_t)len, top = row[0], sum = 0.0f;
        for (int j = 1; j <= i; j++)
            top = row[j] > top ? row[j] : top;
        for (int j = 0; j <= i; j++) {
            row[j] = expf(row[j] - top);
            sum += row[j];
        }
        float scale = 1.0f / sum;
        for (int j = 0; j <= i; j++)
            row[j] *= scale;
        for (int j = i + 1; j < len; j++)
            row[j] = 0.0f;
    }
}

static void attention_forward(worker *w, const float *qkv, float *out)
{
    for (int s = 0; s < w->segments; s++) {
        int len = w->length[s];
        const float *base = qkv + (size_t)w->start[s] * QKV_DIM;
        for (int h = 0; h < HEADS; h++) {
            int kv = h / (HEADS / KV_HEADS);
            attention_weights(len, base + h * HEAD_DIM, base + Q_DIM + kv * HEAD_DIM, w->score);
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, len, HEAD_DIM, len, 1.0f, w->score, len,
                        base + Q_DIM + KV_DIM + kv * HEAD_DIM, QKV_DIM, 0.0f,
                        out + (size_t)w->start[s] * Q_DIM + h * HEAD_DIM, Q_DIM);
        }
    }
}

/* The weights are computed again instead of kept: long segments would need too much memory. */
static void attention_backward(worker *w, const float *qkv, const float *d_out, float *d_qkv)
{
    memset(d_qkv, 0, (size_t)w->n * QKV_DIM * sizeof *d_qkv);
    for (int s = 0; s < w->segments; s++) {
        int len = w->length[s];
        const float *base = qkv + (size_t)w->start[s] * QKV_DIM;
        float *d_base = d_qkv + (size_t)w->start[s] * QKV_DIM;
        for (int h = 0; h < HEADS; h++) {
            int kv = h / (HEADS / KV_HEADS), q_at = h * HEAD_DIM;
            int k_at = Q_DIM + kv * HEAD_DIM, v_at = Q_DIM + KV_DIM + kv * HEAD_DIM;
            const float *d = d_out + (size_t)w->start[s] * Q_DIM + q_at;
            float *p = w->score, *dp = w->d_score, scale = 1.0f / sqrtf((float)HEAD_DIM);
            attention_weights(len, base + q_at, base + k_at, p);
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, len, HEAD_DIM, len, 1.0f, p, len, d, Q_DIM,
                        1.0f, d_base + v_at, QKV_DIM);
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, len, len, HEAD_DIM, 1.0f, d, Q_DIM,
                        base + v_at, QKV_DIM, 0.0f, dp, len);
            for (int i = 0; i < len; i++) {
                float *dr = dp + (size_t)i * (size_t)len, dot = 0.0f;
                const float *pr = p + (size_t)i * (size_t)len;
                for (int j = 0; j <= i; j++)
                    dot += dr[j] * pr[j];
                for (int j = 0; j < len; j++)
                    dr[j] = pr[j] * (dr[j] - dot);
            }
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, len, HEAD_DIM, len, scale, dp, len,
                        base + k_at, QKV_DIM, 1.0f, d_base + q_at, QKV_DIM);
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, len, HEAD_DIM, len, scale, dp, len,
                        base + q_at, QKV_DIM, 1.0f, d_base + k_at, QKV_DIM);
        }
    }
}

static void forward(worker *w)
{
    int n = w->n;
    size_t bytes = (size_t)n * DIM * sizeof(float);
    for (int t = 0; t < n; t++)
        memcpy(w->layer[0].in + (size_t)t * DIM, w->param + (size_t)w->token[t] * DIM, DIM * sizeof(float));
    for (int l = 0; l < LAYERS; l++) {
        const float *p = w->param + FIRST_LAYER + (size_t)l * LAYER_SIZE;
        layer_state *s = &w->layer[l];
        float *next = l + 1 < LAYERS ? w->layer[l + 1].in : w->last;
        norm_forward(n, s->in, p + ATTN_NORM, s->norm, s->rms);
        mul_nt(n, QKV_DIM, DIM, s->norm, p + W_QKV, 0.0f, s->qkv);
        rope(w, s->qkv, 1.0f);
        attention_forward(w, s->qkv, s->att);
        memcpy(s->mid, s->in, bytes);
        mul_nt(n, DIM, Q_DIM, s->att, p + W_OUT, 1.0f, s->mid);
        norm_forward(n, s->mid, p + FFN_NORM, s->norm2, s->rms2);
        mul_nt(n, 2 * FFN, DIM, s->norm2, p + W_GATE_UP, 0.0f, s->gate_up);
        for (int t = 0; t < n; t++) {
            const float *g = s->gate_up + (size_t)t * 2 * FFN;
            for (int i = 0; i < FFN; i++)
                s->act[(size_t)t * FFN + i] = g[i] / (1.0f + expf(-g[i])) * g[FFN + i];
        }
        memcpy(next, s->mid, bytes);
        mul_nt(n, DIM, FFN, s->act, p + W_DOWN, 1.0f, next);
    }
    norm_forward(n, w->last, w->param + OUT_NORM, w->last_norm, w->last_rms);
    int k = 0;
    for (int t = 0; t < n; t++)
        if (w->target[t] >= 0)
            memcpy(w->picked + (size_t)k++ * DIM, w->last_norm + (size_t)t * DIM, DIM * sizeof(float));
    mul_nt(k, VOCAB, DIM, w->picked, w->param, 0.0f, w->logits);
    w->loss = 0.0;
    k = 0;
    /* Leaves the gradient of the loss in place of the logits. */
    for (int t = 0; t < n; t++) {
        if (w->target[t] < 0)
            continue;
        float *row = w->logits + (size_t)k++ * VOCAB, top = row[0], sum = 0.0f;
        for (int i = 1; i < VOCAB; i++)
            top = row[i] > top ? row[i] : top;
        float hit = row[w->target[t]] - top;
        for (int i = 0; i < VOCAB; i++) {
            row[i] = expf(row[i] - top);
            sum += row[i];
        }
        w->loss += (double)logf(sum) - (double)hit;
        for (int i = 0; i < VOCAB; i++)
            row[i] *= w->loss_scale / sum;
        row[w->target[t]] -= w->loss_scale;
    }
}

static void backward(worker *w)
{
    int n = w->n, k = 0;
    memset(w->grad, 0, (size_t)PARAMS * sizeof(float));
    mul_nn(w->targets, DIM, VOCAB, w->logits, w->param, 0.0f, w->d_picked);
    add_tn(VOCAB, DIM, w->targets, w->logits, w->picked, w->grad);
    memset(w->d_norm, 0, (size_t)n * DIM * sizeof(float));
    for (int t = 0; t < n; t++)
        if (w->target[t] >= 0)
            memcpy(w->d_norm + (size_t)t * DIM, w->d_picked + (size_t)k++ * DIM, DIM * sizeof(float));
    memset(w->dx, 0, (size_t)n * DIM * sizeof(float));
    norm_backward(n, w->last, w->param + OUT_NORM, w->last_rms, w->d_norm, w->dx, w->grad + OUT_NORM);
    for (int l = LAYERS - 1; l >= 0; l--) {
        size_t at = FIRST_LAYER + (size_t)l * LAYER_SIZE;
        const float *p = w->param + at;
        float *g = w->grad + at;
        layer_state *s = &w->layer[l];
        mul_nn(n, FFN, DIM, w->dx, p + W_DOWN, 0.0f, w->d_act);
        add_tn(DIM, FFN, n, w->dx, s->act, g + W_DOWN);
        for (int t = 0; t < n; t++) {
            const float *v = s->gate_up + (size_t)t * 2 * FFN, *d = w->d_act + (size_t)t * FFN;
            float *out = w->d_gate_up + (size_t)t * 2 * FFN;
            for (int i = 0; i < FFN; i++) {
                float sig = 1.0f / (1.0f + expf(-v[i]));
                out[i] = d[i] * v[FFN + i] * sig * (1.0f + v[i] * (1.0f - sig));
                out[FFN + i] = d[i] * v[i] * sig;
            }
        }
        mul_nn(n, DIM, 2 * FFN, w->d_gate_up, p + W_GATE_UP, 0.0f, w->d_norm);
        add_tn(2 * FFN, DIM, n, w->d_gate_up, s->norm2, g + W_GATE_UP);
        norm_backward(n, s->mid, p + FFN_NORM, s->rms2, w->d_norm, w->dx, g + FFN_NORM);
        mul_nn(n, Q_DIM, DIM, w->dx, p + W_OUT, 0.0f, w->dy);
        add_tn(DIM, Q_DIM, n, w->dx, s->att, g + W_OUT);
        attention_backward(w, s->qkv, w->dy, w->d_qkv);
        rope(w, w->d_qkv, -1.0f);
        mul_nn(n, DIM, QKV_DIM, w->d_qkv, p + W_QKV, 0.0f, w->d_norm);
        add_tn(QKV_DIM, DIM, n, w->d_qkv, s->norm, g + W_QKV);
        norm_backward(n, s->in, p + ATTN_NORM, s->rms, w->d_norm, w->dx, g + ATTN_NORM);
    }
    for (int t = 0; t < n; t++)
        for (int i = 0; i < DIM; i++)
            w->grad[(size_t)w->token[t] * DIM + i] += w->dx[(size_t)t * DIM + i];
}

static void *work(void *argument)
{
    worker *w = argument;
    forward(w);
    if (w->backward)
        backward(w);
    return NULL;
}

static worker *new_worker(const float *param)
{
    worker *w = calloc(1, sizeof *w);
    if (w == NULL)
        die("out of memory");
    size_t n = BUDGET;
    for (int l = 0; l < LAYERS; l++) {
        layer_state *s = &w->layer[l];
        s->in = floats(n * DIM), s->norm = floats(n * DIM), s->rms = floats(n);
        s->qkv = floats(n * QKV_DIM), s->att = floats(n * Q_DIM), s->mid = floats(n * DIM);
        s->norm2 = floats(n * DIM), s->rms2 = floats(n);
        s->gate_up = floats(n * 2 * FFN), s->act = floats(n * FFN);
    }
    w->last = floats(n * DIM), w->last_norm = floats(n * DIM), w->last_rms = floats(n);
    w->picked = floats(n * DIM), w->logits = floats(n * VOCAB), w->d_picked = floats(n * DIM);
    w->dx = floats(n * DIM), w->dy = floats(n * Q_DIM), w->d_norm = floats(n * DIM);
    w->d_qkv = floats(n * QKV_DIM), w->d_gate_up = floats(n * 2 * FFN), w->d_act = floats(n * FFN);
    w->score = floats(n * n), w->d_score = floats(n * n);
    w->grad = floats(PARAMS);
    w->param = param;
    return w;
}

static void *read_all(const char *folder, const char *name, size_t *size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        die(path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*size + 1);
    if (data == NULL || fread(data, 1, *size, f) != *size)
        die(path);
    fclose(f);
    return data;
}

static dataset load(const char *folder, const char *split)
{
    dataset d;
    char name[64];
    size_t size, tokens;
    snprintf(name, sizeof name, "%s.lengths", split);
    d.length = read_all(folder, name, &size);
    d.conversations = (uint32_t)(size / sizeof *d.length);
    snprintf(name, sizeof name, "%s.tokens", split);
    d.token = read_all(folder, name, &tokens);
    snprintf(name, sizeof name, "%s.spoken", split);
    d.spoken = read_all(folder, name, &size);
    d.offset = malloc((d.conversations + 1) * sizeof *d.offset);
    if (d.offset == NULL || size * 2 != tokens)
        die("the data files do not belong together");
    uint64_t at = 0;
    for (uint32_t i = 0; i < d.conversations; i++) {
        d.offset[i] = at;
        at += d.length[i];
        if (d.length[i] < 2 || d.length[i] > BUDGET)
            die("a conversation is too long or too short");
    }
    if (at != size)
        die("the data files do not belong together");
    for (uint64_t i = 0; i < at; i++)
        if (d.token[i] >= VOCAB)
            die("a token is outside the vocabulary");
    return d;
}

static void shuffle(uint32_t *order, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)(next_random(&seed) % i), t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

/* Fills a worker with whole conversations from order[*cursor] on, as many as fit. */
static void fill(worker *w, const dataset *d, const uint32_t *order, uint64_t *cursor)
{
    w->n = w->segments = w->targets = 0;
    while (*cursor < d->conversations) {
        uint32_t c = order[*cursor];
        int len = (int)d->length[c];
        if (w->n + len > BUDGET)
            return;
        w->start[w->segments] = w->n;
        w->length[w->segments++] = len;
        for (int i = 0; i < len; i++) {
            uint64_t at = d->offset[c] + (uint64_t)i;
            w->token[w->n] = d->token[at];
            w->position[w->n] = i;
            w->target[w->n] = i + 1 < len && d->spoken[at + 1] ? d->token[at + 1] : -1;
            w->targets += w->target[w->n++] >= 0;
        }
        ++*cursor;
    }
}

static double run(worker **w, int back)
{
    int targets = 0;
    for (int i = 0; i < WORKERS; i++)
        targets += w[i]->targets;
    for (int i = 0; i < WORKERS; i++) {
        w[i]->loss_scale = 1.0f / (float)targets;
        w[i]->backward = back;
    }
    pthread_t other;
    if (pthread_create(&other, NULL, work, w[1]) != 0)
        die("no thread");
    work(w[0]);
    pthread_join(other, NULL);
    for (size_t i = 0; back && i < PARAMS; i++)
        w[0]->grad[i] += w[1]->grad[i];
    return (w[0]->loss + w[1]->loss) / targets;
}

static double validate(worker **w, const dataset *d, uint32_t *order)
{
    double sum = 0.0, targets = 0.0;
    uint64_t cursor = 0;
    for (uint32_t i = 0; i < d->conversations; i++)
        order[i] = i;
    while (cursor < d->conversations) {
        int count = 0;
        for (int i = 0; i < WORKERS; i++) {
            fill(w[i], d, order, &cursor);
            count += w[i]->targets;
        }
        if (w[1]->n == 0)
            break;
        sum += run(w, 0) * count;
        targets += count;
    }
    return sum / targets;
}

/* Moves every tensor along its own gradient: the loss must change at the rate |gradient|. */
static int check(worker **w, float *param)
{
    static const struct {
        const char *name;
        size_t at, size;
    } tensors[] = {
        {"token_embd", 0, VOCAB * DIM},
        {"attn_norm", FIRST_LAYER + ATTN_NORM, DIM},
        {"attn_qkv", FIRST_LAYER + W_QKV, QKV_DIM * DIM},
        {"attn_q", FIRST_LAYER + W_QKV, Q_DIM * DIM},
        {"attn_k", FIRST_LAYER + W_QKV + Q_DIM * DIM, KV_DIM * DIM},
        {"attn_output", FIRST_LAYER + W_OUT, DIM * Q_DIM},
        {"ffn_norm", FIRST_LAYER + FFN_NORM, DIM},
        {"ffn_gate_up", FIRST_LAYER + W_GATE_UP, 2 * FFN * DIM},
        {"ffn_down", FIRST_LAYER + W_DOWN, DIM * FFN},
        {"last_qkv", FIRST_LAYER + (LAYERS - 1) * LAYER_SIZE + W_QKV, QKV_DIM * DIM},
        {"output_norm", OUT_NORM, DIM},
    };
    float *grad = floats(PARAMS), *keep = floats(PARAMS);
    run(w, 1);
    memcpy(grad, w[0]->grad, sizeof(float) * PARAMS);
    memcpy(keep, param, sizeof(float) * PARAMS);
    int bad = 0;
    for (size_t k = 0; k < sizeof tensors / sizeof *tensors; k++) {
        size_t from = tensors[k].at, to = from + tensors[k].size;
        double length = 0.0, loss[2];
        for (size_t i = from; i < to; i++)
            length += (double)grad[i] * grad[i];
        length = sqrt(length);
        double step = 0.02 / (length > 0.1 ? length : 0.1);
        for (int side = 0; side < 2; side++) {
            for (size_t i = from; i < to; i++)
                param[i] = keep[i] + (float)((side ? -step : step) * grad[i] / length);
            loss[side] = run(w, 0);
        }
        memcpy(param, keep, sizeof(float) * PARAMS);
        double measured = (loss[0] - loss[1]) / (2.0 * step);
        double error = fabs(measured - length) / length;
        bad += error > 0.02;
        printf("%-12s gradient %.6f  finite difference %.6f  error %.4f%s\n", tensors[k].name, length,
               measured, error, error > 0.02 ? "  WRONG" : "");
    }
    return bad != 0;
}

static void initialise(float *param, uint64_t seed)
{
    for (size_t i = 0; i < PARAMS; i++)
        param[i] = 0.03f * normal(&seed);
    for (int l = 0; l < LAYERS; l++) {
        float *p = param + FIRST_LAYER + (size_t)l * LAYER_SIZE;
        for (int i = 0; i < DIM; i++)
            p[ATTN_NORM + i] = p[FFN_NORM + i] = 1.0f;
        /* What adds to the residual stream starts small, so that depth does not blow it up. */
        for (int i = 0; i < DIM * Q_DIM; i++)
            p[W_OUT + i] *= 0.3f;
        for (int i = 0; i < DIM * FFN; i++)
            p[W_DOWN + i] *= 0.3f;
    }
    for (int i = 0; i < DIM; i++)
        param[OUT_NORM + i] = 1.0f;
}

static void adam(float *param, const float *grad, float *m, float *v, float lr, uint32_t step)
{
    double sum = 0.0;
    for (size_t i = 0; i < PARAMS; i++)
        sum += (double)grad[i] * grad[i];
    float clip = sum > 1.0 ? (float)(1.0 / sqrt(sum)) : 1.0f;
    float b1 = 0.9f, b2 = 0.98f;
    float c1 = 1.0f - powf(b1, (float)step), c2 = 1.0f - powf(b2, (float)step);
    for (size_t i = 0; i < PARAMS; i++) {
        float g = grad[i] * clip;
        m[i] = b1 * m[i] + (1.0f - b1) * g;
        v[i] = b2 * v[i] + (1.0f - b2) * g * g;
        param[i] -= lr * ((m[i] / c1) / (sqrtf(v[i] / c2) + 1e-8f) + 0.03f * param[i]);
    }
}

static void save(const char *path, const checkpoint_header *h, const float *p, const float *m, const float *v)
{
    char partial[4096];
    snprintf(partial, sizeof partial, "%s.partial", path);
    FILE *f = fopen(partial, "wb");
    if (f == NULL || fwrite(h, sizeof *h, 1, f) != 1 || fwrite(p, sizeof *p, PARAMS, f) != PARAMS ||
        fwrite(m, sizeof *m, PARAMS, f) != PARAMS || fwrite(v, sizeof *v, PARAMS, f) != PARAMS ||
        fclose(f) != 0 || rename(partial, path) != 0)
        die("cannot write the checkpoint");
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    uint32_t steps = 20000, stop = UINT32_MAX;
    float top_rate = 1.5e-3f;
    uint64_t seed = 1;
    int only_check = 0;
    if (argc < 3)
        die("usage: train DATA_DIR CHECKPOINT [--steps N] [--stop N] [--lr X] [--seed N] [--check]");
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--check") == 0)
            only_check = 1;
        else if (i + 1 < argc && strcmp(argv[i], "--steps") == 0)
            steps = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--stop") == 0)
            stop = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--lr") == 0)
            top_rate = strtof(argv[++i], NULL);
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[++i], NULL, 10);
        else
            die("unknown option");
    }
    openblas_set_num_threads(1); /* the two workers are the threads */
    for (int t = 0; t < BUDGET; t++)
        for (int i = 0; i < HEAD_DIM / 2; i++) {
            double angle = t * pow((double)ROPE_BASE, -2.0 * i / HEAD_DIM);
            rope_cos[t][i] = (float)cos(angle);
            rope_sin[t][i] = (float)sin(angle);
        }
    dataset data = load(argv[1], "train"), held = load(argv[1], "val");
    uint32_t *order = malloc(data.conversations * sizeof *order);
    uint32_t *held_order = malloc(held.conversations * sizeof *held_order);
    float *param = floats(PARAMS), *m = floats(PARAMS), *v = floats(PARAMS);
    if (order == NULL || held_order == NULL)
        die("out of memory");
    checkpoint_header h = {MAGIC, 0, 0, 0, 0, {VOCAB, DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, PARAMS}};
    initialise(param, seed);
    FILE *f = fopen(argv[2], "rb");
    if (f != NULL && !only_check) {
        checkpoint_header old;
        if (fread(&old, sizeof old, 1, f) != 1 || old.magic != MAGIC ||
            memcmp(old.shape, h.shape, sizeof h.shape) != 0 ||
            fread(param, sizeof *param, PARAMS, f) != PARAMS || fread(m, sizeof *m, PARAMS, f) != PARAMS ||
            fread(v, sizeof *v, PARAMS, f) != PARAMS)
            die("the checkpoint does not fit this trainer");
        h = old;
        printf("continuing at step %u\n", h.step);
    }
    if (f != NULL)
        fclose(f);
    worker *w[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        w[i] = new_worker(param);
    shuffle(order, data.conversations, seed * 1000 + h.epoch);
    if (only_check) {
        for (int i = 0; i < WORKERS; i++)
            fill(w[i], &data, order, &h.cursor);
        return check(w, param);
    }
    printf("%d parameters, %u conversations, %u steps\n", PARAMS, data.conversations, steps);
    double begin = now(), average = 0.0;
    uint64_t first_tokens = h.tokens;
    while (h.step < steps && h.step < stop) {
        for (int i = 0; i < WORKERS; i++) {
            if (h.cursor >= data.conversations) {
                h.cursor = 0;
                h.epoch++;
                shuffle(order, data.conversations, seed * 1000 + h.epoch);
            }
            fill(w[i], &data, order, &h.cursor);
            h.tokens += (uint64_t)w[i]->n;
        }
        double loss = run(w, 1);
        h.step++;
        float rate =
            h.step < WARMUP
                ? top_rate * (float)h.step / WARMUP
                : top_rate * (0.02f + 0.49f * (1.0f + cosf(3.14159265f * (float)h.step / (float)steps)));
        adam(param, w[0]->grad, m, v, rate, h.step);
        average = average == 0.0 ? loss : 0.98 * average + 0.02 * loss;
        if (h.step % 50 == 0) {
            printf("step %u  loss %.4f  lr %.5f  %.2fM tokens  %.0f tok/s\n", h.step, average, (double)rate,
                   (double)h.tokens / 1e6, (double)(h.tokens - first_tokens) / (now() - begin));
            fflush(stdout);
        }
        if (h.step % 500 == 0 || h.step == steps || h.step == stop) {
            save(argv[2], &h, param, m, v);
            printf("step %u  validation loss %.4f  %.0f s\n", h.step, validate(w, &held, held_order),
                   now() - begin);
            fflush(stdout);
        }
    }
    return 0;
}
