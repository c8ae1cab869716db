/* The CPU device: memory, the pool, and the ops over a set of kernels (scalar, AVX2, AVX-512). */
#include "engine/kernels_cpu.h"

#include "base/mem.h"
#include "base/secret.h"
#include "engine/pool.h"
#include "engine/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(ENG_HAVE_X86_KERNELS)
#include <cpuid.h>
#endif

struct eng_buf {
    float *data;
    size_t n;
};

struct eng_kv_store {
    struct eng_kv_shape shape;
    size_t page_bytes; /* of one layer's K */
    uint8_t *data;     /* [layer][k, v][page][kv head][...] */
    size_t bytes;
};

struct eng_device {
    const struct eng_cpu_kernels *kernels;
    struct eng_pool *pool;
    struct eng_device_options options;
    struct eng_step step; /* arrays below */
    int32_t *ids;
    uint32_t *positions, *sequences, *page_table, *logit_rows;
    uint32_t *tiles; /* [n_tiles + 1]: first tokens of runs that attend together */
    uint32_t n_tiles;
    uint32_t page_table_max;
    struct eng_cpu_act act;
    uint32_t act_cols; /* columns that `act` has room for */
    float *scratch;    /* [n_threads, scratch_floats] */
    size_t scratch_floats;
    struct eng_candidate *candidates; /* [n_threads, n_vocab] */
    struct eng_chosen *chosen;        /* [max_logits] */
};

/* Zeroed, page-aligned; large blocks ask for huge pages, which spares TLB misses in the weights. */
static void *map_bytes(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    if (bytes >= 4u << 20)
        madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* Grows every thread's scratch memory to n floats. */
static bool need_scratch(struct eng_device *dev, size_t n)
{
    float *p;

    n = (n + 31) / 32 * 32;
    if (n <= dev->scratch_floats)
        return true;
    p = aligned_alloc(128, n * sizeof(float) * dev->options.n_threads);
    if (p == NULL)
        return false;
    free(dev->scratch);
    dev->scratch = p;
    dev->scratch_floats = n;
    return true;
}

static float *scratch_of(const struct eng_device *dev, unsigned thread)
{
    return dev->scratch + thread * dev->scratch_floats;
}

static void act_free(struct eng_cpu_act *act)
{
    free(act->q);
    free(act->d);
    free(act->sum);
    free(act->neg_sum);
    free(act->neg_sum16);
    *act = (struct eng_cpu_act){0};
}

static bool need_act(struct eng_device *dev, uint32_t cols)
{
    size_t n = (size_t)dev->options.max_tokens * (cols / 32);

    if (cols <= dev->act_cols)
        return true;
    act_free(&dev->act);
    dev->act_cols = 0;
    dev->act.q = aligned_alloc(64, (n * 32 + 63) / 64 * 64);
    dev->act.d = base_try_zarray(n, sizeof(float));
    dev->act.sum = base_try_zarray(n, sizeof(float));
    dev->act.neg_sum = base_try_zarray(n, sizeof(int32_t));
    dev->act.neg_sum16 = base_try_zarray(n, 2 * sizeof(int32_t));
    if (dev->act.q == NULL || dev->act.d == NULL || dev->act.sum == NULL || dev->act.neg_sum == NULL ||
        dev->act.neg_sum16 == NULL)
        return false;
    dev->act_cols = cols;
    return true;
}

static void cpu_close(struct eng_device *dev)
{
    if (dev == NULL)
        return;
    eng_pool_free(dev->pool);
    act_free(&dev->act);
    if (dev->ids != NULL)
        base_wipe(dev->ids, dev->options.max_tokens * sizeof(*dev->ids));
    free(dev->ids);
    free(dev->positions);
    free(dev->sequences);
    free(dev->page_table);
    free(dev->logit_rows);
    free(dev->tiles);
    free(dev->scratch);
    free(dev->candidates);
    free(dev->chosen);
    free(dev);
}

static enum base_code open_with(const struct eng_cpu_kernels *kernels, struct eng_device **ret_dev,
                                const struct eng_device_options *options, struct base_err *err)
{
    struct eng_device *dev = base_zalloc(sizeof(*dev));
    uint32_t pages = (options->max_context + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS;

    dev->kernels = kernels;
    dev->options = *options;
    dev->ids = base_try_zarray(options->max_tokens, sizeof(*dev->ids));
    dev->positions = base_try_zarray(options->max_tokens, sizeof(*dev->positions));
    dev->sequences = base_try_zarray(options->max_tokens, sizeof(*dev->sequences));
    dev->page_table_max = options->max_sequences * pages;
    dev->page_table = base_try_zarray(dev->page_table_max, sizeof(*dev->page_table));
    dev->tiles = base_try_zarray((size_t)options->max_tokens + 1, sizeof(*dev->tiles));
    dev->logit_rows = base_try_zarray(options->max_logits, sizeof(*dev->logit_rows));
    dev->chosen = base_try_zarray(options->max_logits, sizeof(*dev->chosen));
    dev->candidates =
        base_try_zarray((size_t)options->n_threads * options->n_vocab, sizeof(*dev->candidates));
    if (dev->ids == NULL || dev->positions == NULL || dev->sequences == NULL || dev->page_table == NULL ||
        dev->logit_rows == NULL || dev->tiles == NULL || dev->chosen == NULL || dev->candidates == NULL) {
        cpu_close(dev);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a step of %u tokens", options->max_tokens);
    }
    dev->pool = eng_pool_new(options->n_threads);
    if (dev->pool == NULL) {
        cpu_close(dev);
        return base_fail(err, BASE_UNAVAILABLE, 0, "%u threads cannot be started", options->n_threads);
    }
    *ret_dev = dev;
    return BASE_OK;
}

static enum base_code open_scalar(struct eng_device **ret_dev, const struct eng_device_options *options,
                                  struct base_err *err)
{
    return open_with(&eng_cpu_scalar, ret_dev, options, err);
}

#if defined(ENG_HAVE_X86_KERNELS)
static enum base_code open_avx2(struct eng_device **ret_dev, const struct eng_device_options *options,
                                struct base_err *err)
{
    return open_with(&eng_cpu_avx2, ret_dev, options, err);
}

static enum base_code open_avx512(struct eng_device **ret_dev, const struct eng_device_options *options,
                                  struct base_err *err)
{
    return open_with(&eng_cpu_avx512, ret_dev, options, err);
}
#endif

static void cpu_describe(const struct eng_device *dev, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "CPU, %u thread%s, %s", dev->options.n_threads,
             dev->options.n_threads == 1 ? "" : "s", dev->kernels->label);
}

/* Upper bounds: the scores and the rounded activations grow with the largest weight and cache that come. */
static uint64_t cpu_open_bytes(const struct eng_device_options *o)
{
    uint64_t scores = (uint64_t)o->max_context * ENG_ATTEND_ROWS, cols = o->max_cols;

    return (uint64_t)o->n_threads *
               ((scores > cols ? scores : cols) * sizeof(float) + o->n_vocab * sizeof(struct eng_candidate)) +
           (uint64_t)o->max_tokens * (cols + cols / 32 * 5 * sizeof(float) + 16);
}

static uint64_t scalar_weight_bytes(const struct eng_weight_data *data)
{
    return (uint64_t)(data->rows > 0 ? data->rows : 1) * eng_row_bytes(data->type, data->cols);
}

#if defined(ENG_HAVE_X86_KERNELS)
static uint64_t vector_weight_bytes(const struct eng_weight_data *data)
{
    if (data->rows == 0 || (data->uses & ENG_USE_MATMUL) == 0)
        return scalar_weight_bytes(data);
    return (uint64_t)((data->rows + ENG_LANES - 1) / ENG_LANES) * eng_cpu_group_bytes(data->type, data->cols);
}
#endif

static uint64_t cpu_buf_bytes(size_t n_floats)
{
    return (uint64_t)n_floats * sizeof(float);
}

static void cpu_weight_free(struct eng_device *dev, struct eng_weight *w)
{
    if (w == NULL)
        return;
    if (w->packed != NULL)
        munmap(w->packed, (w->rows + ENG_LANES - 1) / ENG_LANES * w->group_bytes);
    if (w->raw != NULL)
        munmap(w->raw, w->raw_bytes);
    free(w);
}

struct pack_job {
    struct eng_weight *w;
    const uint8_t *data;
};

static void pack_groups(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct pack_job *job = arg;
    struct eng_weight *w = job->w;

    for (uint32_t g = begin; g < end; g++)
        eng_cpu_pack(w->type, job->data, w->rows, w->cols, g, w->packed + g * w->group_bytes);
}

/* One copy: packed where it is multiplied by kernels that pack, else as it is. */
static bool copy_weight(struct eng_device *dev, struct eng_weight *w, const struct eng_weight_data *data)
{
    uint32_t n_groups = (w->rows + ENG_LANES - 1) / ENG_LANES;
    bool packs = w->rows > 0 && dev->kernels->packs && (data->uses & ENG_USE_MATMUL) != 0;

    if (!packs) {
        w->raw_bytes = (w->rows > 0 ? w->rows : 1) * eng_row_bytes(w->type, w->cols);
        w->raw = map_bytes(w->raw_bytes);
        if (w->raw == NULL)
            return false;
        memcpy(w->raw, data->data, w->raw_bytes);
    }
    if (packs) {
        w->group_bytes = eng_cpu_group_bytes(w->type, w->cols);
        w->packed = map_bytes(n_groups * w->group_bytes);
        if (w->packed == NULL)
            return false;
        eng_pool_run(dev->pool, pack_groups, &(struct pack_job){w, data->data}, n_groups, 4);
    }
    return true;
}

static enum base_code cpu_weight_new(struct eng_device *dev, const struct eng_weight_data *data,
                                     struct eng_weight **ret_weight, struct base_err *err)
{
    struct eng_weight *w = base_zalloc(sizeof(*w));

    *w = (struct eng_weight){.type = data->type, .rows = data->rows, .cols = data->cols};
    if (!copy_weight(dev, w, data) || (w->rows > 0 && !need_scratch(dev, w->cols)) ||
        (eng_type_info(w->type)->block_values > 1 && !need_act(dev, w->cols))) {
        cpu_weight_free(dev, w);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a weight of %u x %u", data->rows, data->cols);
    }
    *ret_weight = w;
    return BASE_OK;
}

static void cpu_buf_free(struct eng_device *dev, struct eng_buf *buf)
{
    if (buf == NULL)
        return;
    base_wipe(buf->data, buf->n * sizeof(float)); /* activations can be turned back into text */
    free(buf->data);
    free(buf);
}

static enum base_code cpu_buf_new(struct eng_device *dev, size_t n_floats, struct eng_buf **ret_buf,
                                  struct base_err *err)
{
    struct eng_buf *buf = base_zalloc(sizeof(*buf));

    buf->n = n_floats;
    buf->data = aligned_alloc(64, (n_floats * sizeof(float) + 63) / 64 * 64);
    if (buf->data == NULL) {
        free(buf);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for %zu activations", n_floats);
    }
    memset(buf->data, 0, n_floats * sizeof(float));
    *ret_buf = buf;
    return BASE_OK;
}

static void cpu_buf_read(struct eng_device *dev, const struct eng_buf *buf, size_t first, float *out,
                         size_t n)
{
    memcpy(out, buf->data + first, n * sizeof(float));
}

static size_t layer_page_bytes(const struct eng_kv_shape *shape)
{
    return (size_t)shape->n_kv_heads * shape->head_dim * ENG_PAGE_TOKENS * (shape->type == ENG_F32 ? 4 : 2);
}

static uint64_t cpu_kv_page_bytes(const struct eng_kv_shape *shape)
{
    return (uint64_t)layer_page_bytes(shape) * 2 * shape->n_layers;
}

static void cpu_kv_free(struct eng_device *dev, struct eng_kv_store *kv)
{
    if (kv == NULL)
        return;
    munmap(kv->data, kv->bytes);
    free(kv);
}

static enum base_code cpu_kv_new(struct eng_device *dev, const struct eng_kv_shape *shape,
                                 struct eng_kv_store **ret_kv, struct base_err *err)
{
    struct eng_kv_store *kv = base_zalloc(sizeof(*kv));
    size_t scores = (dev->options.max_context + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS * ENG_PAGE_TOKENS;

    kv->shape = *shape;
    kv->page_bytes = layer_page_bytes(shape);
    kv->bytes = (size_t)cpu_kv_page_bytes(shape) * shape->n_pages;
    kv->data = map_bytes(kv->bytes);
    if (kv->data == NULL) {
        free(kv);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for %u KV pages", shape->n_pages);
    }
    /* Keys and values stay out of core dumps. */
    madvise(kv->data, kv->bytes, MADV_DONTDUMP);
    if (!need_scratch(dev, scores * ENG_ATTEND_ROWS)) {
        cpu_kv_free(dev, kv);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for the scores of %zu positions", scores);
    }
    *ret_kv = kv;
    return BASE_OK;
}

/* Page 0 of a layer's K (which 0) or V (1). */
static uint8_t *kv_layer(const struct eng_kv_store *kv, uint32_t layer, uint32_t which)
{
    return kv->data + ((size_t)layer * 2 + which) * kv->shape.n_pages * kv->page_bytes;
}

static void cpu_kv_wipe(struct eng_device *dev, struct eng_kv_store *kv, uint32_t page)
{
    for (uint32_t i = 0; i < 2 * kv->shape.n_layers; i++)
        base_wipe(kv_layer(kv, i / 2, i % 2) + page * kv->page_bytes, kv->page_bytes);
}

static bool cpu_kv_is_wiped(struct eng_device *dev, const struct eng_kv_store *kv, uint32_t page)
{
    for (uint32_t i = 0; i < 2 * kv->shape.n_layers; i++) {
        const uint8_t *p = kv_layer(kv, i / 2, i % 2) + page * kv->page_bytes;

        for (size_t j = 0; j < kv->page_bytes; j++) {
            if (p[j] != 0)
                return false;
        }
    }
    return true;
}

/* Cuts the step into runs of tokens that follow each other in one sequence: they read the same keys and values. */
static void find_tiles(struct eng_device *dev)
{
    uint32_t n = 0;

    for (uint32_t t = 0; t < dev->step.n_tokens; t++) {
        if (t > 0 && t - dev->tiles[n - 1] < ENG_ATTEND_TOKENS &&
            dev->sequences[t] == dev->sequences[t - 1] && dev->positions[t] == dev->positions[t - 1] + 1)
            continue;
        dev->tiles[n++] = t;
    }
    dev->tiles[n] = dev->step.n_tokens;
    dev->n_tiles = n;
}

static bool cpu_step_begin(struct eng_device *dev, const struct eng_step *step)
{
    memcpy(dev->ids, step->ids, step->n_tokens * sizeof(*dev->ids));
    memcpy(dev->positions, step->positions, step->n_tokens * sizeof(*dev->positions));
    memcpy(dev->sequences, step->sequences, step->n_tokens * sizeof(*dev->sequences));
    if (step->n_logits > 0)
        memcpy(dev->logit_rows, step->logit_rows, step->n_logits * sizeof(*dev->logit_rows));
    memcpy(dev->page_table, step->page_table,
           (size_t)step->n_sequences * step->pages_per_sequence * sizeof(*dev->page_table));
    dev->step = *step;
    dev->step.ids = dev->ids;
    dev->step.positions = dev->positions;
    dev->step.sequences = dev->sequences;
    dev->step.page_table = dev->page_table;
    dev->step.logit_rows = dev->logit_rows;
    find_tiles(dev);
    return false;
}

struct embed_job {
    const int32_t *ids;
    const struct eng_weight *w;
    float *out;
};

static void embed_rows(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct embed_job *job = arg;
    const struct eng_weight *w = job->w;

    for (uint32_t t = begin; t < end; t++) {
        uint32_t row = (uint32_t)job->ids[t];
        float *out = job->out + (size_t)t * w->cols;

        if (w->raw != NULL)
            eng_dequant(w->type, w->raw + row * eng_row_bytes(w->type, w->cols), out, w->cols);
        else
            eng_cpu_unpack_row(w->type, w->packed + row / ENG_LANES * w->group_bytes, w->cols,
                               row % ENG_LANES, out);
    }
}

static void cpu_embed(struct eng_device *dev, const struct eng_weight *w, struct eng_buf *out)
{
    struct embed_job job = {dev->step.ids, w, out->data};

    eng_pool_run(dev->pool, embed_rows, &job, dev->step.n_tokens, 8);
}

struct norm_job {
    const struct eng_cpu_kernels *kernels;
    const uint32_t *rows; /* of x; NULL: all of them */
    const float *x, *w;
    float *out;
    uint32_t cols;
    float eps;
};

static void norm_rows(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct norm_job *job = arg;

    for (uint32_t r = begin; r < end; r++)
        job->kernels->rms_norm(job->x + (size_t)(job->rows != NULL ? job->rows[r] : r) * job->cols, job->w,
                               job->eps, job->cols, job->out + (size_t)r * job->cols);
}

static void norm_all(struct eng_device *dev, const struct eng_buf *x, const struct eng_weight *w, float eps,
                     struct eng_buf *out)
{
    struct norm_job job = {dev->kernels, NULL, x->data, (const float *)w->raw, out->data, w->cols, eps};

    eng_pool_run(dev->pool, norm_rows, &job, dev->step.n_tokens, 8);
}

static void cpu_norm_rows(struct eng_device *dev, const struct eng_buf *x, const struct eng_weight *w,
                          float eps, struct eng_buf *out)
{
    struct norm_job job = {dev->kernels, dev->logit_rows, x->data, (const float *)w->raw,
                           out->data,    w->cols,         eps};

    eng_pool_run(dev->pool, norm_rows, &job, dev->step.n_logits, 8);
}

struct act_job {
    struct eng_device *dev;
    const float *x;
    uint32_t cols;
};

static void quantize_rows(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct act_job *job = arg;

    for (uint32_t r = begin; r < end; r++)
        job->dev->kernels->quantize(job->x + (size_t)r * job->cols, job->cols, &job->dev->act, r);
}

struct matmul_job {
    struct eng_device *dev;
    struct eng_cpu_matmul mms[ENG_MATMULS_MAX];
    uint32_t ends[ENG_MATMULS_MAX]; /* groups of this and the ones before */
    uint32_t n;
};

static void matmul_groups(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct matmul_job *job = arg;
    uint32_t start = 0;

    for (uint32_t i = 0; i < job->n; start = job->ends[i++]) {
        uint32_t from = begin > start ? begin : start, to = end < job->ends[i] ? end : job->ends[i];

        if (from < to)
            job->dev->kernels->matmul(&job->mms[i], from - start, to - start, scratch_of(job->dev, thread));
    }
}

/* Bytes read, times the tokens that meet them, below which an operation is over sooner (some 20 us) than another thread is
 * awake: a small model is then as fast on busy cores as with one thread. */
#define WORTH_WAKING (1u << 20)

/* Groups of one piece of work: about 128 KiB of weights, so that they stay in the second-level cache while they meet all tokens,
 * but enough pieces for every thread. All of them in one when they are not worth waking anybody. */
static uint32_t matmul_grain(const struct eng_device *dev, const struct eng_weight *w, uint32_t n_groups,
                             uint32_t n_tokens)
{
    size_t bytes = w->packed != NULL ? w->group_bytes : ENG_LANES * eng_row_bytes(w->type, w->cols);

    if (bytes * n_groups * n_tokens < WORTH_WAKING)
        return n_groups;

    uint32_t grain = (uint32_t)((128u << 10) / (bytes + 1)) + 1,
             fair = n_groups / (dev->options.n_threads * 4) + 1;

    return grain < fair ? grain : fair;
}

static void cpu_matmul(struct eng_device *dev, const struct eng_buf *x, uint32_t n,
                       const struct eng_matmul *mms, uint32_t n_mms)
{
    struct matmul_job job = {.dev = dev, .n = n_mms};
    uint32_t n_groups = 0;
    bool rounded = false;

    for (uint32_t i = 0; i < n_mms; i++) {
        const struct eng_weight *w = mms[i].w;
        const float *bias = mms[i].bias != NULL ? (const float *)mms[i].bias->raw : NULL;

        rounded |= w->packed != NULL && eng_type_info(w->type)->block_values > 1;
        job.mms[i] =
            (struct eng_cpu_matmul){w, x->data, &dev->act, n, bias, mms[i].out->data, mms[i].accumulate};
        n_groups += (w->rows + ENG_LANES - 1) / ENG_LANES;
        job.ends[i] = n_groups;
    }
    if (rounded) {
        struct act_job act = {dev, x->data, mms[0].w->cols};

        dev->act.stride = mms[0].w->cols / 32;
        eng_pool_run(dev->pool, quantize_rows, &act, n, 8);
    }
    eng_pool_run(dev->pool, matmul_groups, &job, n_groups, matmul_grain(dev, mms[0].w, n_groups, n));
}

static void rope_head(float *x, const float *cs, uint32_t half, bool halves)
{
    for (uint32_t i = 0; i < half; i++) {
        float *a = &x[halves ? i : 2 * i], *b = halves ? a + half : a + 1;
        float c = cs[i], s = cs[half + i], x0 = *a, x1 = *b;

        *a = x0 * c - x1 * s;
        *b = x0 * s + x1 * c;
    }
}

static void norm_head(const struct eng_device *dev, float *x, const struct eng_weight *w, float eps,
                      uint32_t hd)
{
    if (w != NULL)
        dev->kernels->rms_norm(x, (const float *)w->raw, eps, hd, x);
}

/* One head's key into column `slot` of its page, one head's value into row `slot`. */
static void store_head(const struct eng_device *dev, enum eng_type type, uint8_t *k_page, uint8_t *v_page,
                       uint32_t slot, const float *k, const float *v, uint32_t hd)
{
    if (type == ENG_F32) {
        for (uint32_t i = 0; i < hd; i++)
            ((float *)k_page)[i * ENG_PAGE_TOKENS + slot] = k[i];
        memcpy((float *)v_page + (size_t)slot * hd, v, hd * sizeof(float));
    } else {
        uint16_t k16[ENG_HEAD_DIM_MAX];

        dev->kernels->to_f16(k, k16, hd);
        for (uint32_t i = 0; i < hd; i++)
            ((uint16_t *)k_page)[i * ENG_PAGE_TOKENS + slot] = k16[i];
        dev->kernels->to_f16(v, (uint16_t *)v_page + (size_t)slot * hd, hd);
    }
}

struct place_job {
    struct eng_device *dev;
    const struct eng_attn_in *in;
};

/* Turns queries and keys of tokens [begin, end), stores keys and values. No two tokens of a step share a place in the cache. */
static void place_tokens(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct place_job *job = arg;
    const struct eng_attn_in *in = job->in;
    const struct eng_kv_store *kv = in->kv;
    const struct eng_step *st = &job->dev->step;
    const uint32_t hd = in->head_dim, half = in->rope_dim / 2;
    const size_t head_bytes = kv->page_bytes / in->n_kv_heads;

    for (uint32_t t = begin; t < end; t++) {
        uint32_t pos = st->positions[t];
        uint32_t page =
            st->page_table[(size_t)st->sequences[t] * st->pages_per_sequence + pos / ENG_PAGE_TOKENS];
        uint8_t *k_page = kv_layer(kv, in->layer, 0) + page * kv->page_bytes;
        uint8_t *v_page = kv_layer(kv, in->layer, 1) + page * kv->page_bytes;
        const float *cs = (const float *)in->rope->raw + (size_t)pos * in->rope_dim;
        float *q = in->q.out->data + (size_t)t * in->n_heads * hd;
        float *k = in->k.out->data + (size_t)t * in->n_kv_heads * hd;
        const float *v = in->v.out->data + (size_t)t * in->n_kv_heads * hd;

        for (uint32_t h = 0; h < in->n_heads; h++) {
            norm_head(job->dev, q + (size_t)h * hd, in->q_norm, in->eps, hd);
            rope_head(q + (size_t)h * hd, cs, half, in->rope_halves);
        }
        for (uint32_t h = 0; h < in->n_kv_heads; h++) {
            norm_head(job->dev, k + (size_t)h * hd, in->k_norm, in->eps, hd);
            rope_head(k + (size_t)h * hd, cs, half, in->rope_halves);
            store_head(job->dev, kv->shape.type, k_page + h * head_bytes, v_page + h * head_bytes,
                       pos % ENG_PAGE_TOKENS, k + (size_t)h * hd, v + (size_t)h * hd, hd);
        }
    }
}

static void cpu_attn_in(struct eng_device *dev, const struct eng_attn_in *in)
{
    const struct eng_matmul qkv[] = {in->q, in->k, in->v};

    norm_all(dev, in->x, in->norm, in->eps, in->scratch);
    cpu_matmul(dev, in->scratch, dev->step.n_tokens, qkv, 3);
    eng_pool_run(dev->pool, place_tokens, &(struct place_job){dev, in}, dev->step.n_tokens, 4);
}

struct attention_job {
    struct eng_device *dev;
    struct eng_cpu_attention a;
};

static void attend_items(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct attention_job *job = arg;

    for (uint32_t i = begin; i < end; i++) {
        const uint32_t *tile = &job->dev->tiles[i / job->a.n_kv_heads];

        job->dev->kernels->attend(&job->a, tile[0], tile[1] - tile[0], i % job->a.n_kv_heads,
                                  scratch_of(job->dev, thread));
    }
}

static void cpu_attention(struct eng_device *dev, const struct eng_attention *at)
{
    const struct eng_kv_store *kv = at->kv;
    struct attention_job job = {
        .dev = dev,
        .a = {.type = kv->shape.type,
              .n_heads = at->n_heads,
              .n_kv_heads = kv->shape.n_kv_heads,
              .head_dim = kv->shape.head_dim,
              .k = kv_layer(kv, at->layer, 0),
              .v = kv_layer(kv, at->layer, 1),
              .page_bytes = kv->page_bytes,
              .q = at->q->data,
              .out = at->out->data,
              .step = &dev->step,
              .score_stride =
                  (dev->options.max_context + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS * ENG_PAGE_TOKENS},
    };
    uint32_t n_items = dev->n_tiles * kv->shape.n_kv_heads;
    uint64_t bytes = 0;

    for (uint32_t t = 0; t < dev->step.n_tokens; t++)
        bytes += (dev->step.positions[t] + 1ull) * at->n_heads * kv->shape.head_dim * sizeof(float);
    eng_pool_run(dev->pool, attend_items, &job, n_items, bytes < WORTH_WAKING ? n_items : 1);
}

struct silu_job {
    const struct eng_cpu_kernels *kernels;
    float *gate;
    const float *up;
    uint32_t cols;
};

static void silu_rows(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct silu_job *job = arg;
    size_t first = (size_t)begin * job->cols;

    job->kernels->silu_mul(job->gate + first, job->up + first, (size_t)(end - begin) * job->cols);
}

static void cpu_mlp_in(struct eng_device *dev, const struct eng_mlp_in *in)
{
    const struct eng_matmul mms[] = {in->gate, in->up};
    struct silu_job job = {dev->kernels, in->gate.out->data, in->up.out->data, in->gate.w->rows};

    norm_all(dev, in->x, in->norm, in->eps, in->scratch);
    cpu_matmul(dev, in->scratch, dev->step.n_tokens, mms, 2);
    eng_pool_run(dev->pool, silu_rows, &job, dev->step.n_tokens, 4);
}

struct sample_job {
    struct eng_device *dev;
    float *logits;
    const struct eng_choice *choices;
};

static void sample_rows(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct sample_job *job = arg;
    uint32_t n_vocab = job->dev->options.n_vocab;

    for (uint32_t r = begin; r < end; r++)
        eng_choose(&job->choices[r], job->logits + (size_t)r * n_vocab,
                   job->dev->candidates + (size_t)thread * n_vocab, &job->dev->chosen[r]);
}

static void cpu_sample(struct eng_device *dev, struct eng_buf *logits, const struct eng_choice *choices)
{
    struct sample_job job = {dev, logits->data, choices};
    size_t values = (size_t)dev->step.n_logits * dev->options.n_vocab;

    eng_pool_run(dev->pool, sample_rows, &job, dev->step.n_logits,
                 values * sizeof(float) < WORTH_WAKING ? dev->step.n_logits : 1);
}

static void cpu_chosen_read(struct eng_device *dev, struct eng_chosen *out)
{
    memcpy(out, dev->chosen, dev->step.n_logits * sizeof(*out));
}

static enum base_code cpu_finish(struct eng_device *dev, struct base_err *err)
{
    return BASE_OK; /* every op above is done when it returns */
}

#define CPU_OPS(op_name, open_fn, weight_bytes_fn)                                                          \
    {                                                                                                       \
        .name = op_name, .open = open_fn, .close = cpu_close, .open_bytes = cpu_open_bytes,                 \
        .weight_bytes = weight_bytes_fn, .buf_bytes = cpu_buf_bytes, .describe = cpu_describe,              \
        .weight_new = cpu_weight_new, .weight_free = cpu_weight_free, .buf_new = cpu_buf_new,               \
        .buf_free = cpu_buf_free, .buf_read = cpu_buf_read, .kv_new = cpu_kv_new, .kv_free = cpu_kv_free,   \
        .kv_page_bytes = cpu_kv_page_bytes, .kv_wipe = cpu_kv_wipe, .kv_is_wiped = cpu_kv_is_wiped,         \
        .step_begin = cpu_step_begin, .embed = cpu_embed, .attn_in = cpu_attn_in,                           \
        .attention = cpu_attention, .mlp_in = cpu_mlp_in, .matmul = cpu_matmul, .norm_rows = cpu_norm_rows, \
        .sample = cpu_sample, .finish = cpu_finish, .chosen_read = cpu_chosen_read                          \
    }

#if defined(ENG_HAVE_X86_KERNELS)
static bool has_avx2(void)
{
    unsigned a, b, c = 0, d;

    /* Not every compiler's cpu_supports knows F16C: bit 29 of leaf 1. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & 1u << 29) != 0;
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

const struct eng_ops *eng_ops_cpu(const char *kernels)
{
    static const struct eng_ops scalar = CPU_OPS("scalar", open_scalar, scalar_weight_bytes);
    bool automatic = kernels == NULL || strcmp(kernels, "auto") == 0;

#if defined(ENG_HAVE_X86_KERNELS)
    static const struct eng_ops avx2 = CPU_OPS("avx2", open_avx2, vector_weight_bytes),
                                avx512 = CPU_OPS("avx512", open_avx512, vector_weight_bytes);

    __builtin_cpu_init();
    if ((automatic || strcmp(kernels, "avx512") == 0) && has_avx512())
        return &avx512;
    if ((automatic || strcmp(kernels, "avx2") == 0) && has_avx2())
        return &avx2;
#endif
    return automatic || strcmp(kernels, "scalar") == 0 ? &scalar : NULL;
}
