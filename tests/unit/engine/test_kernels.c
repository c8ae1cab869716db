/* Kernels without any reference file: block formats against values computed by hand here, whole random models against a plain float64
 * forward pass, on odd sizes, every kernel set, every weight type. Meaningful on a machine that has nothing but a compiler. */
#include "refdata.h"

#include "engine/kernels_cpu.h"
#include "engine/pool.h"
#include "ggufwriter.h"

#include <stdatomic.h>

static const char *const all_kernels[] = {"scalar", "avx2", "avx512"};
static const enum eng_type all_types[] = {ENG_F32,  ENG_F16,  ENG_BF16, ENG_Q8_0, ENG_Q4_0, ENG_Q4_1,
                                          ENG_Q5_0, ENG_Q5_1, ENG_Q4_K, ENG_Q5_K, ENG_Q6_K};

static void test_eng_f16__all_values(void)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = eng_f16_to_f32((uint16_t)h);
        int exp = (int)(h >> 10 & 31), frac = (int)(h & 1023);
        double want = exp == 0    ? ldexp(frac, -24)
                      : exp == 31 ? (frac == 0 ? INFINITY : NAN)
                                  : ldexp(1024 + frac, exp - 25);

        if (isnan(want)) {
            CHECK(isnan(f) && isnan(eng_f16_to_f32(eng_f32_to_f16(f))));
            continue;
        }
        CHECK((double)f == (h >> 15 ? -want : want));
        CHECK_INT(eng_f32_to_f16(f), h);
    }
    CHECK_INT(eng_f32_to_f16(1.0f + 0x1p-11f), 0x3c00); /* a tie goes to even */
    CHECK_INT(eng_f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);
    CHECK_INT(eng_f32_to_f16(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);
    CHECK_INT(eng_f32_to_f16(65519.0f), 0x7bff);
    CHECK_INT(eng_f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(eng_f32_to_f16(0x1p-25f), 0);
    CHECK_INT(eng_f32_to_f16(0x1.8p-25f), 1);
}

/* One block of each kind, small enough to check on paper. */
static void test_eng_dequant__by_hand(void)
{
    uint8_t block[256] = {0};
    float out[256];
    const uint16_t half = eng_f32_to_f16(0.5f), two = eng_f32_to_f16(2);

    memcpy(block, &half, 2);
    block[2] = 0xf0; /* value 0: code 0, value 16: code 15 */
    block[3] = 0x08;
    eng_dequant(ENG_Q4_0, block, out, 32);
    CHECK(out[0] == -4 && out[16] == 3.5f && out[1] == 0 && out[17] == -4);
    block[2] = (uint8_t)-3;
    eng_dequant(ENG_Q8_0, block, out, 32);
    CHECK(out[0] == -1.5f && out[1] == 4 && out[31] == 0);
    memset(block, 0, sizeof(block));
    memcpy(block, &half, 2);
    memcpy(block + 2, &two, 2);
    block[4] = 0x21;
    eng_dequant(ENG_Q4_1, block, out, 32);
    CHECK(out[0] == 2.5f && out[16] == 3 && out[1] == 2);
    memset(block, 0, sizeof(block));
    memcpy(block, &half, 2);
    block[2] = 1; /* the fifth bit of value 0 */
    block[6] = 0x02;
    eng_dequant(ENG_Q5_0, block, out, 32);
    CHECK(out[0] == 1 && out[1] == -8);
    memset(block, 0, sizeof(block));
    memcpy(block, &half, 2);
    memcpy(block + 2, &two, 2);
    block[4] = 3;        /* scale 0 */
    block[8] = 1;        /* minimum 0 */
    block[8 + 4] = 0x21; /* low bits of scale 4 (1) and minimum 4 (2) */
    block[4] |= 0x40;    /* upper bits of scale 4: 1 -> 17 */
    block[16] = 5;
    block[16 + 64] = 7; /* run 4, value 0 */
    eng_dequant(ENG_Q4_K, block, out, 256);
    CHECK(out[0] == 0.5f * 3 * 5 - 2 * 1 && out[1] == -2 && out[32] == 0);
    CHECK(out[128] == 0.5f * 17 * 7 - 2 * 2);
    memset(block, 0, sizeof(block));
    memcpy(block + 208, &half, 2);
    block[192] = (uint8_t)-2;
    block[193] = 3;
    block[0] = 0x01;   /* low nibble of value 0 */
    block[128] = 0x03; /* upper bits of value 0: 48 + 1 */
    eng_dequant(ENG_Q6_K, block, out, 256);
    CHECK(out[0] == 0.5f * -2 * (49 - 32) && out[1] == 0.5f * -2 * -32 && out[16] == 0.5f * 3 * -32 &&
          out[32] == 0);
}

/* ---- a forward pass in double, written from the formulas ---- */

static double *matrix(const struct eng_gguf *gguf, const struct eng_gguf_tensor *t)
{
    auto_free uint8_t *raw = base_alloc(t->n_bytes);
    struct base_err err;
    size_t n = t->dims[0] * t->dims[1];
    auto_free float *f = base_alloc(n * sizeof(float));
    double *d = base_alloc(n * sizeof(double));

    CHECK_RC(eng_gguf_read(gguf, t, raw, &err), BASE_OK, &err);
    eng_dequant(t->type, raw, f, n);
    for (size_t i = 0; i < n; i++)
        d[i] = f[i];
    return d;
}

static void mul(const struct eng_gguf *gguf, const struct eng_gguf_tensor *w,
                const struct eng_gguf_tensor *bias, const double *x, double *y, bool add)
{
    auto_free double *m = matrix(gguf, w), *b = bias != NULL ? matrix(gguf, bias) : NULL;

    for (size_t r = 0; r < w->dims[1]; r++) {
        double sum = b != NULL ? b[r] : 0;

        for (size_t c = 0; c < w->dims[0]; c++)
            sum += m[r * w->dims[0] + c] * x[c];
        y[r] = add ? y[r] + sum : sum;
    }
}

static void norm(const struct eng_gguf *gguf, const struct eng_gguf_tensor *w, double eps, const double *x,
                 double *y)
{
    auto_free double *m = matrix(gguf, w);
    double sum = 0;

    for (size_t i = 0; i < w->dims[0]; i++)
        sum += x[i] * x[i];
    for (size_t i = 0; i < w->dims[0]; i++)
        y[i] = x[i] / sqrt(sum / (double)w->dims[0] + eps) * m[i];
}

static void turn(const struct eng_config *cfg, double *x, uint32_t n_heads, uint32_t pos)
{
    uint32_t half = cfg->rope_dim / 2;

    for (uint32_t h = 0; h < n_heads; h++, x += cfg->head_dim) {
        for (uint32_t i = 0; i < half; i++) {
            double angle = pos * cfg->rope_freqs[i], c = cos(angle), s = sin(angle);
            double *a = cfg->rope_halves ? &x[i] : &x[2 * i],
                   *b = cfg->rope_halves ? &x[i + half] : &x[2 * i + 1], t = *a;

            *a = t * c - *b * s;
            *b = t * s + *b * c;
        }
    }
}

static void reference_forward(const struct eng_model *m, const int32_t *ids, uint32_t n, float *logits)
{
    const struct eng_config *cfg = &m->config;
    const uint32_t d = cfg->n_embd, hd = cfg->head_dim, qd = cfg->n_heads * hd, kvd = cfg->n_kv_heads * hd,
                   ff = cfg->n_ff;
    auto_free double *keys = base_zalloc((size_t)cfg->n_layers * n * kvd * sizeof(double));
    auto_free double *values = base_zalloc((size_t)cfg->n_layers * n * kvd * sizeof(double));
    auto_free double *x = base_zalloc(d * sizeof(double)), *h = base_zalloc(d * sizeof(double)),
                     *q = base_zalloc(qd * sizeof(double));
    auto_free double *attn = base_zalloc(qd * sizeof(double)), *gate = base_zalloc(ff * sizeof(double)),
                     *up = base_zalloc(ff * sizeof(double));
    auto_free double *p = base_zalloc(n * sizeof(double)), *out = base_zalloc(cfg->n_vocab * sizeof(double));
    auto_free double *embd = matrix(m->gguf, m->token_embd);

    for (uint32_t t = 0; t < n; t++) {
        memcpy(x, embd + (size_t)ids[t] * d, d * sizeof(double));
        for (uint32_t i = 0; i < cfg->n_layers; i++) {
            const struct eng_layer *l = &m->layers[i];
            double *k = keys + ((size_t)i * n + t) * kvd, *v = values + ((size_t)i * n + t) * kvd;

            norm(m->gguf, l->attn_norm, cfg->norm_eps, x, h);
            mul(m->gguf, l->q, l->q_bias, h, q, false);
            mul(m->gguf, l->k, l->k_bias, h, k, false);
            mul(m->gguf, l->v, l->v_bias, h, v, false);
            turn(cfg, q, cfg->n_heads, t);
            turn(cfg, k, cfg->n_kv_heads, t);
            for (uint32_t head = 0; head < cfg->n_heads; head++) {
                uint32_t kv = head / (cfg->n_heads / cfg->n_kv_heads);
                double sum = 0, max = -INFINITY;

                for (uint32_t s = 0; s <= t; s++) {
                    p[s] = 0;
                    for (uint32_t j = 0; j < hd; j++)
                        p[s] += q[head * hd + j] * keys[((size_t)i * n + s) * kvd + kv * hd + j] / sqrt(hd);
                    max = fmax(max, p[s]);
                }
                for (uint32_t s = 0; s <= t; s++)
                    sum += p[s] = exp(p[s] - max);
                for (uint32_t j = 0; j < hd; j++) {
                    attn[head * hd + j] = 0;
                    for (uint32_t s = 0; s <= t; s++)
                        attn[head * hd + j] += p[s] / sum * values[((size_t)i * n + s) * kvd + kv * hd + j];
                }
            }
            mul(m->gguf, l->o, l->o_bias, attn, x, true);
            norm(m->gguf, l->ffn_norm, cfg->norm_eps, x, h);
            mul(m->gguf, l->gate, l->gate_bias, h, gate, false);
            mul(m->gguf, l->up, l->up_bias, h, up, false);
            for (uint32_t j = 0; j < ff; j++)
                gate[j] = gate[j] / (1 + exp(-gate[j])) * up[j];
            mul(m->gguf, l->down, l->down_bias, gate, x, true);
        }
        norm(m->gguf, m->output_norm, cfg->norm_eps, x, h);
        mul(m->gguf, m->output, NULL, h, out, false);
        for (uint32_t i = 0; i < cfg->n_vocab; i++)
            logits[(size_t)t * cfg->n_vocab + i] = (float)out[i];
    }
}

/* A random model and its bytes. */
struct random_model {
    uint8_t *file;
    struct eng_model *model;
};

static struct eng_model *load_random(const struct gw_model *shape, uint8_t **ret_file)
{
    struct gw w;
    struct eng_gguf *gguf;
    struct eng_model *model;
    struct base_err err;
    size_t len;

    gw_init(&w);
    gw_put_model(&w, shape, 42);
    *ret_file = gw_finish(&w, &len);
    gw_free(&w);
    CHECK_RC(eng_gguf_parse(&gguf, *ret_file, len, &err), BASE_OK, &err);
    CHECK_RC(eng_model_load(&model, gguf, &err), BASE_OK, &err);
    return model;
}

#define N_IDS 37u

/* Difference from the float64 pass relative to the logits' own spread: the largest, or the root mean square. */
static double compare(const struct gw_model *shape, const char *kernels, enum eng_type kv_type,
                      uint32_t chunk, bool want_rms)
{
    uint8_t *file;
    struct eng_model *model = load_random(shape, &file);
    uint32_t n_vocab = model->config.n_vocab;
    auto_free float *want = base_alloc(N_IDS * n_vocab * sizeof(float)),
                    *got = base_alloc(N_IDS * n_vocab * sizeof(float));
    auto_free float *zero = base_zalloc(N_IDS * n_vocab * sizeof(float));
    int32_t ids[N_IDS];
    double max, rms, spread, unused;
    struct lm lm;

    for (uint32_t i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)((i * 31 + 7) % n_vocab);
    reference_forward(model, ids, N_IDS, want);
    lm_open_model(&lm, model, (struct lm_options){kernels, kv_type, 2, 64, 64});
    lm_run(&lm, ids, 0, N_IDS, chunk, got);
    lm_close(&lm);
    free(file);
    ref_differences(got, want, N_IDS * n_vocab, &max, &rms);
    ref_differences(want, zero, N_IDS * n_vocab, &unused, &spread);
    CHECK(spread > 0.3); /* a model that says something */
    return (want_rms ? rms : max) / spread;
}

/* Sizes that are no multiple of 16 lanes, and rotations of a part of a head. */
static const struct gw_model odd_shapes[] = {
    {"llama", 2, 33, 47, 3, 1, 10, 10, 51, 64, ENG_F32, ENG_F32, false, false},
    {"llama", 1, 20, 17, 5, 5, 4, 2, 19, 64, ENG_F16, ENG_F16, true, true},
    {"qwen2", 2, 70, 99, 6, 2, 18, 18, 101, 64, ENG_BF16, ENG_F32, true, false},
    {"qwen2", 1, 50, 30, 14, 2, 34, 16, 33, 64, ENG_F32, ENG_F16, true, true},
};

static void test_graph_step__odd_sizes_against_float64(void)
{
    for (size_t k = 0; k < BASE_ARRAY_LEN(all_kernels); k++) {
        for (size_t i = 0; eng_ops_cpu(all_kernels[k]) != NULL && i < BASE_ARRAY_LEN(odd_shapes); i++) {
            double exact = compare(&odd_shapes[i], all_kernels[k], ENG_F32, N_IDS, false);

            printf("# %s shape %zu: %.1e of the spread\n", all_kernels[k], i, exact);
            CHECK(exact < 2e-5);
            CHECK(compare(&odd_shapes[i], all_kernels[k], ENG_F16, 5, false) < 1e-2);
        }
    }
}

static void test_graph_step__every_type_against_float64(void)
{
    for (size_t t = 0; t < BASE_ARRAY_LEN(all_types); t++) {
        bool wide = eng_type_info(all_types[t])->block_values == 256;
        /* 72 = 4 groups of 16 rows and a half; 24 rows of keys */
        struct gw_model shape = {
            "llama", 2,  wide ? 256 : 96, wide ? 256 : 160, wide ? 8 : 4, 2,    wide ? 32 : 24, 24,
            72,      64, all_types[t],    all_types[t],     true,         false};

        for (size_t k = 0; k < BASE_ARRAY_LEN(all_kernels); k++) {
            bool rounds = k > 0 && eng_type_info(all_types[t])->block_values > 1;
            double d;

            if (eng_ops_cpu(all_kernels[k]) == NULL)
                continue;
            d = compare(&shape, all_kernels[k], ENG_F32, 13, rounds);
            printf("# %s %s: %.1e of the spread\n", eng_type_info(all_types[t])->name, all_kernels[k], d);
            CHECK(d < (rounds ? 0.06 : 2e-5)); /* activations of 8 bits, through 2 layers of a random model */
        }
    }
}

/* The packed matmul by itself is exact on activations that 8 bits hold exactly: integers up to 127 with 127 among them. */
static void test_matmul__exact_on_integers(void)
{
    uint64_t seed = 9;

    for (size_t t = 0; t < BASE_ARRAY_LEN(all_types); t++) {
        enum eng_type type = all_types[t];
        const uint32_t rows = 53, cols = 512, n = 11;
        size_t bytes;
        auto_free uint8_t *data = gw_weights(type, rows, cols, 1, &seed, &bytes);
        auto_free float *w = base_alloc(rows * cols * sizeof(float)),
                        *x = base_alloc(n * cols * sizeof(float));
        auto_free float *got = base_alloc(n * rows * sizeof(float));

        eng_dequant(type, data, w, rows * cols);
        for (uint32_t i = 0; i < n * cols; i++)
            x[i] = i % 32 == 5 ? 127 : (float)((int)(gw_random(&seed) % 255) - 127);
        for (size_t k = 0; k < BASE_ARRAY_LEN(all_kernels); k++) {
            const struct eng_ops *ops = eng_ops_cpu(all_kernels[k]);
            struct eng_device_options o = {
                .n_threads = 2, .max_tokens = n, .max_context = 16, .max_sequences = 1};
            struct eng_device *dev;
            struct eng_weight *weight, *embd;
            struct eng_buf *in, *out;
            struct eng_matmul mm;
            struct base_err err;
            const int32_t ids[11] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
            const uint32_t zeros[11] = {0};
            struct eng_step step = {n, ids, zeros, zeros, 1, 1, zeros, 0, NULL};
            struct eng_weight_data w_data = {type, rows, cols, ENG_USE_MATMUL, ENG_SPLIT_NONE, data};
            struct eng_weight_data x_data = {ENG_F32, n, cols, ENG_USE_ROWS, ENG_SPLIT_NONE, x};

            if (ops == NULL)
                continue;
            CHECK_RC(ops->open(&dev, &o, &err), BASE_OK, &err);
            CHECK_RC(ops->weight_new(dev, &w_data, &weight, &err), BASE_OK, &err);
            CHECK_RC(ops->weight_new(dev, &x_data, &embd, &err), BASE_OK, &err);
            CHECK_RC(ops->buf_new(dev, n * cols, &in, &err), BASE_OK, &err);
            CHECK_RC(ops->buf_new(dev, n * rows, &out, &err), BASE_OK, &err);
            ops->step_begin(dev, &step);
            ops->embed(dev, embd, in); /* puts x on the device */
            mm = (struct eng_matmul){weight, NULL, out, false};
            ops->matmul(dev, in, n, &mm, 1);
            mm.accumulate = true;
            ops->matmul(dev, in, n, &mm, 1); /* twice: 2 * w x */
            ops->buf_read(dev, out, 0, got, n * rows);
            for (uint32_t i = 0; i < n * rows; i++) {
                double want = 0, size = 0;

                for (uint32_t c = 0; c < cols; c++) {
                    want += 2 * (double)w[i % rows * cols + c] * x[i / rows * cols + c];
                    size += fabs((double)w[i % rows * cols + c] * x[i / rows * cols + c]);
                }
                CHECK(fabs(want - got[i]) <= 4e-6 * size);
            }
            ops->buf_free(dev, in);
            ops->buf_free(dev, out);
            ops->weight_free(dev, weight);
            ops->weight_free(dev, embd);
            ops->close(dev);
        }
    }
}

/* A shared embedding is held packed alone: looking up its rows must give what the file's blocks say. */
static void test_embed__same_bits_from_packed_rows(void)
{
    uint64_t seed = 11;

    for (size_t t = 0; t < BASE_ARRAY_LEN(all_types); t++) {
        enum { ROWS = 37, COLS = 512 };
        size_t bytes;
        auto_free uint8_t *data = gw_weights(all_types[t], ROWS, COLS, 1, &seed, &bytes);
        auto_free float *want = base_alloc(ROWS * COLS * sizeof(float)),
                        *got = base_alloc(ROWS * COLS * sizeof(float));
        int32_t ids[ROWS];
        uint32_t zeros[ROWS] = {0};

        eng_dequant(all_types[t], data, want, ROWS * COLS);
        for (int32_t i = 0; i < ROWS; i++)
            ids[i] = i;
        for (size_t k = 0; k < BASE_ARRAY_LEN(all_kernels); k++) {
            const struct eng_ops *ops = eng_ops_cpu(all_kernels[k]);
            struct eng_device_options o = {
                .n_threads = 2, .max_tokens = ROWS, .max_context = 16, .max_sequences = 1};
            struct eng_weight_data wd = {all_types[t],   ROWS, COLS, ENG_USE_MATMUL | ENG_USE_ROWS,
                                         ENG_SPLIT_NONE, data};
            struct eng_step step = {ROWS, ids, zeros, zeros, 1, 1, zeros, 0, NULL};
            struct eng_device *dev;
            struct eng_weight *w;
            struct eng_buf *out;
            struct base_err err;

            if (ops == NULL)
                continue;
            CHECK_RC(ops->open(&dev, &o, &err), BASE_OK, &err);
            CHECK_RC(ops->weight_new(dev, &wd, &w, &err), BASE_OK, &err);
            CHECK_RC(ops->buf_new(dev, ROWS * COLS, &out, &err), BASE_OK, &err);
            ops->step_begin(dev, &step);
            ops->embed(dev, w, out);
            ops->buf_read(dev, out, 0, got, ROWS * COLS);
            CHECK(memcmp(got, want, ROWS * COLS * sizeof(float)) == 0);
            ops->buf_free(dev, out);
            ops->weight_free(dev, w);
            ops->close(dev);
        }
    }
}

struct pool_job {
    _Atomic uint32_t hits[1000];
    _Atomic uint32_t threads_seen;
};

static void pool_mark(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    struct pool_job *job = arg;

    atomic_fetch_or(&job->threads_seen, 1u << thread);
    for (uint32_t i = begin; i < end; i++)
        atomic_fetch_add(&job->hits[i], 1);
}

static void test_eng_pool_run__every_item_once(void)
{
    static struct pool_job job;

    CHECK(eng_pool_new(0) == NULL && eng_pool_new(ENG_THREADS_MAX + 1) == NULL);
    for (unsigned n_threads = 1; n_threads <= 4; n_threads++) {
        struct eng_pool *pool = eng_pool_new(n_threads);
        uint32_t rounds = 300;

        memset(&job, 0, sizeof(job));
        CHECK_INT(eng_pool_threads(pool), n_threads);
        for (uint32_t r = 0; r < rounds; r++) {
            eng_pool_run(pool, pool_mark, &job, 1000, r % 17);
            if (r % 100 == 50)
                usleep(3000); /* long enough for the others to sleep */
        }
        eng_pool_run(pool, pool_mark, &job, 0, 1);
        for (uint32_t i = 0; i < 1000; i++)
            CHECK_INT(job.hits[i], rounds);
        eng_pool_free(pool);
    }
}

static void test_eng_kvcache__accounting(void)
{
    const struct eng_ops *ops = eng_ops_cpu("scalar");
    struct eng_device_options o = {.n_threads = 1, .max_tokens = 4, .max_context = 160, .max_sequences = 3};
    struct eng_kv_shape shape = {1, 10, 2, 1, 8, ENG_F16};
    struct eng_device *dev;
    struct eng_kvcache *kv;
    struct base_err err;
    uint32_t table[3][10];
    struct eng_kv_seq a = {.pages = table[0]}, b = {.pages = table[1]}, c = {.pages = table[2]};

    CHECK_RC(ops->open(&dev, &o, &err), BASE_OK, &err);
    CHECK_RC(eng_kvcache_new(&kv, ops, dev, &shape, &err), BASE_OK, &err);
    CHECK_INT(ops->kv_page_bytes(&shape), 8 * 16 * 2 * 2);
    CHECK_INT(eng_kvcache_pages_for(0), 0);
    CHECK_INT(eng_kvcache_pages_for(16), 1);
    CHECK_INT(eng_kvcache_pages_for(17), 2);
    CHECK(eng_kvcache_reserve(kv, &a, 96, 1));  /* 6 pages */
    CHECK(!eng_kvcache_reserve(kv, &b, 65, 2)); /* 5: one too many */
    CHECK_INT(eng_kvcache_reserved(kv), 6);
    CHECK(eng_kvcache_reserve(kv, &b, 64, 2));
    CHECK(!eng_kvcache_reserve(kv, &c, 1, 3));
    eng_kvcache_extend(kv, &a, 1);
    CHECK_INT(a.n_pages, 1);
    eng_kvcache_extend(kv, &a, 96);
    eng_kvcache_extend(kv, &b, 64);
    CHECK_INT(a.n_pages, 6);
    for (uint32_t i = 0; i < 6; i++) { /* nobody shares */
        for (uint32_t j = 0; j < 4; j++)
            CHECK(table[0][i] != table[1][j]);
    }
    eng_kvcache_release(kv, &a);
    CHECK_INT(eng_kvcache_reserved(kv), 4);
    CHECK(eng_kvcache_reserve(kv, &c, 96, 3));
    eng_kvcache_release(kv, &b);
    eng_kvcache_release(kv, &c);
    CHECK_INT(eng_kvcache_reserved(kv), 0);
    eng_kvcache_free(kv);
    ops->close(dev);
}

/* What one tag wrote is gone before another tag can read it, and the check itself can see dirt. */
static void test_eng_kvcache__wiped_on_release(void)
{
    const struct gw_model shape = {"llama", 2, 32, 32, 2, 1, 16, 16, 20, 64, ENG_F32, ENG_F32, false, true};
    uint8_t *file;
    struct eng_model *model = load_random(&shape, &file);
    const struct eng_ops *ops = eng_ops_cpu("auto");
    int32_t ids[40] = {1, 2, 3};
    auto_free float *logits = base_alloc(40 * 20 * sizeof(float));
    struct lm lm;
    uint32_t held[3];

    lm_open_model(&lm, model, (struct lm_options){"auto", ENG_F16, 1, 64, 64});
    lm_run(&lm, ids, 0, 40, 40, logits);
    CHECK_INT(lm.seq.n_pages, 3);
    memcpy(held, lm.pages, sizeof(held));
    for (int i = 0; i < 3; i++)
        CHECK(!ops->kv_is_wiped(eng_graph_device(lm.graph), eng_kvcache_store(lm.kv), held[i]));
    eng_kvcache_release(lm.kv, &lm.seq);
    for (uint32_t p = 0; p < eng_kvcache_pages(lm.kv); p++)
        CHECK(ops->kv_is_wiped(eng_graph_device(lm.graph), eng_kvcache_store(lm.kv), p));
    lm_close(&lm);
    free(file);
}

/* Bit-exact with GGML on its own vectors: gaussian values and random bits in every field. */
static void test_eng_dequant__bit_exact_with_references(void)
{
    const char *dir = ref_dir();

    for (size_t t = 0; t < BASE_ARRAY_LEN(all_types); t++) {
        for (int kind = 0; kind < 2; kind++) {
            const char *name = eng_type_info(all_types[t])->name, *infix = kind == 0 ? "" : ".rand";
            char path[4096];
            size_t quant_len, want_len;

            if (all_types[t] == ENG_F32 || (kind == 1 && eng_type_info(all_types[t])->block_values == 1))
                continue; /* no such files */
            snprintf(path, sizeof(path), "%s/dequant/%s%s.quant.bin", dir, name, infix);
            auto_free char *quant = ref_read(path, &quant_len);
            snprintf(path, sizeof(path), "%s/dequant/%s%s.f32", dir, name, infix);
            auto_free char *want = ref_read(path, &want_len);
            auto_free float *got = base_alloc(want_len);

            CHECK_INT(eng_row_bytes(all_types[t], want_len / 4), quant_len);
            eng_dequant(all_types[t], quant, got, want_len / 4);
            CHECK(memcmp(got, want, want_len) == 0);
        }
    }
}

static const struct tap_case cases[] = {
    CASE(test_eng_f16__all_values),
    CASE(test_eng_dequant__by_hand),
    CASE(test_eng_dequant__bit_exact_with_references),
    CASE(test_matmul__exact_on_integers),
    CASE(test_graph_step__odd_sizes_against_float64),
    CASE(test_graph_step__every_type_against_float64),
    CASE(test_embed__same_bits_from_packed_rows),
    CASE(test_eng_pool_run__every_item_once),
    CASE(test_eng_kvcache__accounting),
    CASE(test_eng_kvcache__wiped_on_release),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
