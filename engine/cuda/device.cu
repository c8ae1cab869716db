/* The op table on a CUDA device: memory, the step's arrays, errors. The arithmetic is in the other files (launch.h).
 *
 * Invariants:
 * 1. All device memory is one block, taken at open; parts are cut off its front and never given back before close. What is cut off is
 *    what the *_bytes functions said, to the byte.
 * 2. Everything runs on one stream, in the order of the calls. The host writes a staging area only once the work that reads it is over:
 *    each stage has an event for that, step arrays and choices have the waits of the steps.
 * 3. The first error stays until finish reports it. After an error of the device itself it is lost: nothing is put on the stream any
 *    more, nothing is waited for, and close gives nothing back, since the device may still write.
 */
#include "engine/cuda/device.h"

#include "engine/cuda/launch.h"
#include "engine/cuda/nvml.h"

extern "C" {
#include "engine/pool.h"
}

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Over the emulator, AddressSanitizer sees the gaps between the parts of the one block. */
#if defined(GPU_EMULATE) && defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define CLOSE_PART(p, bytes) ASAN_POISON_MEMORY_REGION(p, bytes)
#define OPEN_PART(p, bytes)  ASAN_UNPOISON_MEMORY_REGION(p, bytes)
#else
#define CLOSE_PART(p, bytes) ((void)0)
#define OPEN_PART(p, bytes)  ((void)0)
#endif

/* Of a weight on its way to the device: two lie in the caches, so that what threads write is never fetched from memory first (of 8 MiB
 * each, threads write half as fast), and a copy still takes much longer than its launch. */
#define STAGE_BYTES ((size_t)2 << 20)
#define PACK_BYTES  ((size_t)64 << 10) /* that a thread rearranges before it asks for more */
/* As many make more than the bus takes of the slowest format; each more only has to be woken at every piece. */
#define LOAD_THREADS 8u
#define WATCHDOG_MS  30000u /* a step takes milliseconds */
#define SPIN_US      20000u /* most steps are over before: a nap would add a tenth of a millisecond to each */
#define N_STEP_AREAS 2u
#define N_STAGES     2u

struct eng_weight {
    struct gpu_weight w;
};

struct eng_buf {
    float *data;
    size_t n;
};

struct eng_kv_store {
    struct eng_kv_shape shape;
    uint8_t *data; /* [n_pages][n_layers][page of a layer] */
    uint64_t layer_bytes, page_bytes;
};

struct stage {
    uint8_t *data;      /* STAGE_BYTES, pinned */
    cudaEvent_t copied; /* to the device: it may be written again */
};

struct eng_device {
    struct eng_device_options options;
    char name[96];
    gpu_stream stream;
    cudaEvent_t done;
    uint8_t *memory; /* options.reserve_bytes */
    uint64_t used;
    struct stage stages[N_STAGES]; /* used in turn */
    unsigned stage_turn;
    struct eng_pool *pool; /* from the first weight to the first step */

    uint8_t *step_host[N_STEP_AREAS]; /* step_bytes each, pinned, used in turn */
    unsigned turn;
    uint8_t *step_dev;
    struct gpu_step step; /* points into step_dev */
    uint8_t *choice_host; /* choice_bytes, pinned; grows with the penalties */
    size_t choice_bytes;
    uint8_t *choice_dev;
    struct eng_chosen *chosen_host, *chosen_dev; /* [max_logits] */
    void *workspace;

    bool failed, lost;
    struct base_err err;
};

static unsigned watchdog_ms = WATCHDOG_MS;

/* The runtime's "current device" is the calling thread's; an engine is opened by one thread and run by another. */
static void enter(const struct eng_device *dev)
{
    cudaSetDevice((int)dev->options.index);
}

extern "C" void gpu_set_watchdog(unsigned ms)
{
    watchdog_ms = ms;
}

/* ---- errors ---- */

__attribute__((format(printf, 4, 5))) static void fail(struct eng_device *dev, enum base_code code, bool lost,
                                                       const char *fmt, ...)
{
    char text[200];
    va_list args;

    if (dev->failed)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    dev->failed = true;
    dev->lost = lost;
    base_fail(&dev->err, code, 0, "%s: %s", dev->name, text);
}

/* After each op: what the runtime has against it, with the op and its shape. */
__attribute__((format(printf, 2, 3))) static bool check(struct eng_device *dev, const char *fmt, ...)
{
    cudaError_t error = cudaGetLastError();
    char op[120];
    va_list args;

    if (error == cudaSuccess)
        return true;
    va_start(args, fmt);
    vsnprintf(op, sizeof(op), fmt, args);
    va_end(args);
    fail(dev, BASE_UNAVAILABLE, true, "%s: %s", op, cudaGetErrorString(error));
    dev->lost = true;
    return false;
}

static uint64_t mono_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Waits for an event, but not for ever: a device that has fallen off its bus never answers. */
static bool wait_for(struct eng_device *dev, cudaEvent_t event, const char *what)
{
    const struct timespec nap = {0, 200000};
    uint64_t begin = mono_us();
    cudaError_t error;

    if (dev->lost)
        return false;
    while ((error = cudaEventQuery(event)) == cudaErrorNotReady) {
        uint64_t waited = mono_us() - begin;

        cudaGetLastError(); /* "not ready" is none */
        if (waited >= (uint64_t)watchdog_ms * 1000) {
            fail(dev, BASE_UNAVAILABLE, true, "%s: no answer for %u ms", what, watchdog_ms);
            dev->lost = true;
            return false;
        }
        if (waited < SPIN_US)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
    if (error == cudaSuccess)
        return true;
    fail(dev, BASE_UNAVAILABLE, true, "%s: %s", what, cudaGetErrorString(error));
    dev->lost = true;
    return false;
}

/* For all that is on the stream. */
static bool wait(struct eng_device *dev, const char *what)
{
    if (dev->lost)
        return false;
    cudaEventRecord(dev->done, dev->stream);
    /* Refused, the event would be that of an earlier wait, and long over. */
    return check(dev, "%s", what) && wait_for(dev, dev->done, what);
}

/* ---- memory ---- */

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + GPU_ALIGN - 1) / GPU_ALIGN * GPU_ALIGN;
}

static enum base_code take(struct eng_device *dev, uint64_t bytes, void *ret_memory, struct base_err *err)
{
    if (aligned(bytes) > dev->options.reserve_bytes - dev->used)
        return base_fail(err, BASE_NO_MEMORY, 0, "%s: %llu bytes wanted, %llu of %llu are left", dev->name,
                         (unsigned long long)bytes,
                         (unsigned long long)(dev->options.reserve_bytes - dev->used),
                         (unsigned long long)dev->options.reserve_bytes);
    *(uint8_t **)ret_memory = dev->memory + dev->used;
    OPEN_PART(dev->memory + dev->used, bytes);
    dev->used += aligned(bytes);
    return BASE_OK;
}

/* ids, positions, sequences, logit rows, page tables: one copy each step. */
static uint64_t step_bytes(const struct eng_device_options *o)
{
    uint64_t pages = (o->max_context + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS;

    return aligned(((uint64_t)o->max_tokens * 3 + o->max_logits + (uint64_t)o->max_sequences * pages) * 4);
}

/* Choices, masks and penalties of a step: all ids of the vocabulary for each row at most. */
static uint64_t choice_bytes_max(const struct eng_device_options *o)
{
    return aligned((uint64_t)o->max_logits *
                   (sizeof(struct gpu_choice) + (uint64_t)o->n_vocab * sizeof(struct eng_penalty) +
                    ((uint64_t)o->n_vocab + 31) / 32 * 4 + 16));
}

static uint64_t workspace_bytes(const struct eng_device_options *o)
{
    uint64_t most = gpu_matmul_workspace(o->max_tokens, o->max_rows, o->max_cols, o->max_logits, o->n_vocab);
    uint64_t attention = gpu_attention_workspace(o->max_tokens, o->max_context, o->n_heads, o->head_dim);
    uint64_t sample = gpu_sample_workspace(o->max_logits, o->n_vocab);

    most = attention > most ? attention : most;
    return aligned(sample > most ? sample : most);
}

static uint64_t gpu_open_bytes(const struct eng_device_options *o)
{
    return step_bytes(o) + choice_bytes_max(o) +
           aligned((uint64_t)o->max_logits * sizeof(struct eng_chosen)) + workspace_bytes(o);
}

static uint64_t gpu_buf_bytes(size_t n_floats)
{
    return aligned((uint64_t)n_floats * sizeof(float));
}

static uint64_t layer_page_bytes(const struct eng_kv_shape *shape)
{
    return aligned((uint64_t)2 * shape->n_kv_heads * ENG_PAGE_TOKENS * shape->head_dim *
                   (shape->type == ENG_F32 ? 4 : 2));
}

static uint64_t gpu_kv_page_bytes(const struct eng_kv_shape *shape)
{
    return layer_page_bytes(shape) * shape->n_layers;
}

/* ---- open, close ---- */

static __global__ void first_kernel(uint32_t *out)
{
    if (out != NULL)
        out[threadIdx.x] = threadIdx.x;
}

/* Whether the device runs our code at all: a newer one must translate our PTX, which an older driver refuses. */
static bool runs_kernels(struct eng_device *dev)
{
    GPU_LAUNCH(first_kernel, 1, 32, 0, dev->stream, (uint32_t *)NULL);
    return check(dev, "first kernel") && wait(dev, "first kernel");
}

static void gpu_close(struct eng_device *dev)
{
    if (dev == NULL)
        return;
    eng_pool_free(dev->pool);
    enter(dev);
    if (!dev->lost && dev->memory != NULL) {
        wait(dev, "close");
        OPEN_PART(dev->memory, dev->options.reserve_bytes);
        if (!dev->lost)
            cudaMemsetAsync(dev->memory, 0, dev->options.reserve_bytes, dev->stream);
        wait(dev, "close");
    }
    if (!dev->lost) {
        cudaFree(dev->memory);
        if (dev->done != NULL)
            cudaEventDestroy(dev->done);
        if (dev->stream != NULL)
            cudaStreamDestroy(dev->stream);
        for (unsigned i = 0; i < N_STAGES; i++) {
            cudaFreeHost(dev->stages[i].data);
            if (dev->stages[i].copied != NULL)
                cudaEventDestroy(dev->stages[i].copied);
        }
        cudaFreeHost(dev->choice_host);
        cudaFreeHost(dev->chosen_host);
        for (unsigned i = 0; i < N_STEP_AREAS; i++)
            cudaFreeHost(dev->step_host[i]);
    }
    free(dev);
}

static bool pinned(void *ret_memory, size_t bytes)
{
    return cudaMallocHost((void **)ret_memory, bytes) == cudaSuccess;
}

static enum base_code open_memory(struct eng_device *dev, struct base_err *err)
{
    const struct eng_device_options *o = &dev->options;
    size_t free_bytes = 0, total_bytes = 0;
    bool ok = true;
    enum base_code rc;

    cudaMemGetInfo(&free_bytes, &total_bytes);
    if (o->reserve_bytes > free_bytes || cudaMalloc((void **)&dev->memory, o->reserve_bytes) != cudaSuccess) {
        cudaGetLastError();
        dev->memory = NULL;
        return base_fail(
            err, BASE_NO_MEMORY, 0,
            "%s: %llu MiB are needed, %llu of %llu MiB are free: another process may have taken them",
            dev->name, (unsigned long long)(o->reserve_bytes >> 20), (unsigned long long)(free_bytes >> 20),
            (unsigned long long)(total_bytes >> 20));
    }
    CLOSE_PART(dev->memory, o->reserve_bytes);
    for (unsigned i = 0; i < N_STEP_AREAS; i++)
        ok = ok && pinned(&dev->step_host[i], step_bytes(o));
    for (unsigned i = 0; i < N_STAGES; i++)
        ok = ok && pinned(&dev->stages[i].data, STAGE_BYTES);
    ok = ok && pinned(&dev->chosen_host, o->max_logits * sizeof(*dev->chosen_host));
    if (!ok) {
        cudaGetLastError();
        return base_fail(err, BASE_NO_MEMORY, 0, "%s: no pinned memory on the host", dev->name);
    }
    if ((rc = take(dev, step_bytes(o), &dev->step_dev, err)) != BASE_OK ||
        (rc = take(dev, choice_bytes_max(o), &dev->choice_dev, err)) != BASE_OK ||
        (rc = take(dev, o->max_logits * sizeof(*dev->chosen_dev), &dev->chosen_dev, err)) != BASE_OK)
        return rc;
    return take(dev, workspace_bytes(o), &dev->workspace, err);
}

static cudaError_t open_events(struct eng_device *dev)
{
    cudaError_t error = cudaEventCreateWithFlags(&dev->done, cudaEventDisableTiming);

    for (unsigned i = 0; i < N_STAGES && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&dev->stages[i].copied, cudaEventDisableTiming);
    return error;
}

static enum base_code gpu_open(struct eng_device **ret_dev, const struct eng_device_options *options,
                               struct base_err *err)
{
    struct eng_device *dev = (struct eng_device *)calloc(1, sizeof(*dev));
    struct cudaDeviceProp prop;
    cudaError_t error;
    enum base_code rc;

    if (dev == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a device");
    dev->options = *options;
    if ((error = cudaSetDevice((int)options->index)) != cudaSuccess ||
        (error = cudaGetDeviceProperties(&prop, (int)options->index)) != cudaSuccess ||
        (error = cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking)) != cudaSuccess ||
        (error = open_events(dev)) != cudaSuccess) {
        gpu_close(dev);
        cudaGetLastError(); /* it is told here, not at the next device's first op */
        return base_fail(err, BASE_UNAVAILABLE, 0, "CUDA device %u: %s", options->index,
                         cudaGetErrorString(error));
    }
    snprintf(dev->name, sizeof(dev->name), "cuda:%u %.80s", options->index, prop.name);
    if (runs_kernels(dev))
        rc = open_memory(dev, err);
    else
        rc = base_fail(err, dev->err.code, 0, "%s", dev->err.detail);
    if (rc != BASE_OK) {
        gpu_close(dev);
        return rc;
    }
    *ret_dev = dev;
    return BASE_OK;
}

static void gpu_describe(const struct eng_device *dev, char *out, size_t out_bytes)
{
    int driver = 0, runtime = 0;
    char name[64];

    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (!gpu_nvml_driver(name, sizeof(name)))
        snprintf(name, sizeof(name), "for CUDA %d.%d", driver / 1000, driver % 1000 / 10);
    snprintf(out, out_bytes, "CUDA, %s, %.1f GiB taken, driver %s, built with %d.%d", dev->name,
             (double)dev->options.reserve_bytes / (double)(1u << 30), name, runtime / 1000,
             runtime % 1000 / 10);
}

/* ---- weights, buffers, cache ---- */

/* Units of a weight on their way into a stage. */
struct packing {
    const struct eng_weight_data *data;
    uint64_t first;
    uint32_t unit_bytes;
    uint8_t *out;
};

static void pack_units(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct packing *p = (const struct packing *)arg;

    (void)thread;
    gpu_weight_pack(p->data, p->first + begin, end - begin, p->out + (uint64_t)begin * p->unit_bytes);
}

/* Rearranged by all threads, piece by piece, each while the one before is copied. The last pieces may still be on their way at the
 * return: the stages are ours, and what comes later on the stream comes after them. */
static bool upload(struct eng_device *dev, const struct eng_weight_data *data, uint8_t *to, uint64_t bytes)
{
    const struct gpu_units units = gpu_weight_units(data);
    const uint64_t most = (STAGE_BYTES - GPU_ALIGN) / units.bytes;

    for (uint64_t first = 0, n; first < units.n; first += n) {
        struct stage *stage = &dev->stages[dev->stage_turn++ % N_STAGES];
        struct packing packing = {data, first, units.bytes, stage->data};
        size_t copied;

        n = units.n - first < most ? units.n - first : most;
        copied = n * units.bytes;
        if (!wait_for(dev, stage->copied, "upload"))
            return false;
        eng_pool_run(dev->pool, pack_units, &packing, (uint32_t)n, (uint32_t)(PACK_BYTES / units.bytes));
        if (first + n == units.n) { /* a matrix ends in zeros, a vector where it ends */
            memset(stage->data + copied, 0, GPU_ALIGN);
            copied = bytes - first * units.bytes;
        }
        cudaMemcpyAsync(to + first * units.bytes, stage->data, copied, cudaMemcpyHostToDevice, dev->stream);
        cudaEventRecord(stage->copied, dev->stream);
        if (!check(dev, "upload of %zu bytes", copied))
            return false;
    }
    return true;
}

/* What cannot start threads loads with its own. */
static enum base_code open_pool(struct eng_device *dev, struct base_err *err)
{
    unsigned n = dev->options.n_threads < LOAD_THREADS ? dev->options.n_threads : LOAD_THREADS;

    if (dev->pool == NULL)
        dev->pool = eng_pool_new(n);
    if (dev->pool == NULL)
        dev->pool = eng_pool_new(1);
    return dev->pool != NULL ? BASE_OK
                             : base_fail(err, BASE_NO_MEMORY, 0, "%s: no memory to load with", dev->name);
}

static enum base_code gpu_weight_new(struct eng_device *dev, const struct eng_weight_data *data,
                                     struct eng_weight **ret_weight, struct base_err *err)
{
    uint64_t bytes = gpu_weight_bytes(data), part = data->rows == 0 ? data->cols * sizeof(float) : bytes;
    struct eng_weight *w;
    uint8_t *to = NULL;
    enum base_code rc;

    if (data->rows == 0 ? data->type != ENG_F32 : !gpu_weight_supported(data->type, data->uses))
        return base_fail(err, BASE_UNSUPPORTED, 0,
                         "%s: weights of %u x %u in %s are not supported on CUDA devices", dev->name,
                         data->rows, data->cols, eng_type_info(data->type)->name);
    enter(dev);
    if ((rc = open_pool(dev, err)) != BASE_OK)
        return rc;
    if ((rc = take(dev, part, &to, err)) != BASE_OK)
        return rc;
    w = (struct eng_weight *)calloc(1, sizeof(*w));
    if (w == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a weight");
    w->w = (struct gpu_weight){data->type, data->rows, data->cols, data->uses, to, bytes};
    if (!upload(dev, data, to, part)) {
        free(w);
        if (err != NULL)
            *err = dev->err;
        return dev->err.code;
    }
    *ret_weight = w;
    return BASE_OK;
}

static void gpu_weight_free(struct eng_device *dev, struct eng_weight *weight)
{
    (void)dev;
    free(weight);
}

static enum base_code gpu_buf_new(struct eng_device *dev, size_t n_floats, struct eng_buf **ret_buf,
                                  struct base_err *err)
{
    struct eng_buf *buf = (struct eng_buf *)calloc(1, sizeof(*buf));
    enum base_code rc;

    if (buf == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a buffer");
    buf->n = n_floats;
    rc = take(dev, n_floats * sizeof(float), &buf->data, err);
    if (rc != BASE_OK) {
        free(buf);
        return rc;
    }
    enter(dev);
    cudaMemsetAsync(buf->data, 0, n_floats * sizeof(float), dev->stream);
    if (!check(dev, "wipe of a buffer of %zu bytes", n_floats * sizeof(float))) {
        free(buf);
        return base_fail(err, dev->err.code, 0, "%s", dev->err.detail);
    }
    *ret_buf = buf;
    return BASE_OK;
}

static void gpu_buf_free(struct eng_device *dev, struct eng_buf *buf)
{
    (void)dev; /* close wipes it with all other memory */
    free(buf);
}

static bool download(struct eng_device *dev, void *out, const void *from, size_t bytes, const char *what)
{
    enter(dev);
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        size_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;

        if (dev->lost)
            return false;
        cudaMemcpyAsync(dev->stages[0].data, (const uint8_t *)from + at, n, cudaMemcpyDeviceToHost,
                        dev->stream);
        if (!check(dev, "%s of %zu bytes", what, n) || !wait(dev, what))
            return false;
        memcpy((uint8_t *)out + at, dev->stages[0].data, n);
    }
    return true;
}

static void gpu_buf_read(struct eng_device *dev, const struct eng_buf *buf, size_t first, float *out,
                         size_t n)
{
    if (!download(dev, out, buf->data + first, n * sizeof(float), "read of a buffer"))
        memset(out, 0, n * sizeof(float));
}

static enum base_code gpu_kv_new(struct eng_device *dev, const struct eng_kv_shape *shape,
                                 struct eng_kv_store **ret_kv, struct base_err *err)
{
    struct eng_kv_store *kv = (struct eng_kv_store *)calloc(1, sizeof(*kv));
    enum base_code rc;

    if (kv == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a cache");
    kv->shape = *shape;
    kv->layer_bytes = layer_page_bytes(shape);
    kv->page_bytes = gpu_kv_page_bytes(shape);
    rc = take(dev, kv->page_bytes * shape->n_pages, &kv->data, err);
    if (rc != BASE_OK) {
        free(kv);
        return rc;
    }
    enter(dev);
    cudaMemsetAsync(kv->data, 0, kv->page_bytes * shape->n_pages, dev->stream);
    if (!wait(dev, "wipe of the cache")) {
        free(kv);
        if (err != NULL)
            *err = dev->err;
        return dev->err.code;
    }
    *ret_kv = kv;
    return BASE_OK;
}

static void gpu_kv_free(struct eng_device *dev, struct eng_kv_store *kv)
{
    (void)dev;
    free(kv);
}

/* In the stream's order: after the steps that read the page, before those of its next owner. */
static void gpu_kv_wipe(struct eng_device *dev, struct eng_kv_store *kv, uint32_t page)
{
    if (dev->lost)
        return;
    enter(dev);
    cudaMemsetAsync(kv->data + (uint64_t)page * kv->page_bytes, 0, kv->page_bytes, dev->stream);
    check(dev, "wipe of page %u", page);
}

static bool gpu_kv_is_wiped(struct eng_device *dev, const struct eng_kv_store *kv, uint32_t page)
{
    uint8_t *copy = (uint8_t *)malloc(kv->page_bytes);
    bool wiped = copy != NULL && download(dev, copy, kv->data + (uint64_t)page * kv->page_bytes,
                                          kv->page_bytes, "read of a page");

    for (uint64_t i = 0; wiped && i < kv->page_bytes; i++)
        wiped = copy[i] == 0;
    free(copy);
    return wiped;
}

/* ---- a step ---- */

static const void *put(uint8_t *host, uint8_t *dev, size_t *at, const void *from, size_t n)
{
    const void *there = dev + *at;

    memcpy(host + *at, from, n * 4);
    *at += n * 4;
    return there;
}

static bool gpu_step_begin(struct eng_device *dev, const struct eng_step *s)
{
    uint8_t *host = dev->step_host[dev->turn++ % N_STEP_AREAS];
    uint32_t n_pages = s->n_sequences * s->pages_per_sequence;
    size_t at = 0;

    if (!dev->lost) /* what an earlier step had is reported and over; buffers hold nothing that outlives a step */
        dev->failed = false;
    if (dev->lost)
        return false;
    eng_pool_free(dev->pool); /* all weights are there */
    dev->pool = NULL;
    enter(dev);
    dev->step = (struct gpu_step){s->n_tokens, s->n_logits, s->n_sequences, s->pages_per_sequence};
    dev->step.ids = (const int32_t *)put(host, dev->step_dev, &at, s->ids, s->n_tokens);
    dev->step.positions = (const uint32_t *)put(host, dev->step_dev, &at, s->positions, s->n_tokens);
    dev->step.sequences = (const uint32_t *)put(host, dev->step_dev, &at, s->sequences, s->n_tokens);
    dev->step.logit_rows = (const uint32_t *)put(host, dev->step_dev, &at, s->logit_rows, s->n_logits);
    dev->step.page_table = (const uint32_t *)put(host, dev->step_dev, &at, s->page_table, n_pages);
    cudaMemcpyAsync(dev->step_dev, host, at, cudaMemcpyHostToDevice, dev->stream);
    check(dev, "upload of a step of %u tokens", s->n_tokens);
    return false;
}

static struct gpu_kv_layer layer_of(const struct eng_kv_store *kv, uint32_t layer)
{
    return (struct gpu_kv_layer){kv->data + layer * kv->layer_bytes, kv->page_bytes, kv->shape.n_kv_heads,
                                 kv->shape.head_dim, kv->shape.type};
}

static const float *vector_of(const struct eng_weight *w)
{
    return w != NULL ? (const float *)w->w.data : NULL;
}

static void multiply(struct eng_device *dev, const char *op, const struct eng_buf *x, uint32_t n,
                     const struct eng_matmul *mms, uint32_t n_mms)
{
    struct gpu_matmul all[ENG_MATMULS_MAX];

    for (uint32_t i = 0; i < n_mms; i++)
        all[i] =
            (struct gpu_matmul){&mms[i].w->w, vector_of(mms[i].bias), mms[i].out->data, mms[i].accumulate};
    gpu_matmul(dev->stream, x->data, n, all, n_mms, dev->workspace);
    check(dev, "%s [%u, %u] x [%u, %u] %s", op, n, mms[0].w->w.cols, mms[0].w->w.rows, mms[0].w->w.cols,
          eng_type_info(mms[0].w->w.type)->name);
}

static void gpu_embed_op(struct eng_device *dev, const struct eng_weight *w, struct eng_buf *out)
{
    if (dev->failed)
        return;
    gpu_embed(dev->stream, &w->w, &dev->step, out->data);
    check(dev, "embed [%u, %u]", dev->step.n_tokens, w->w.cols);
}

static void norm(struct eng_device *dev, const char *op, const struct eng_buf *x, const uint32_t *rows,
                 uint32_t n, const struct eng_weight *w, float eps, struct eng_buf *out)
{
    gpu_rms_norm(dev->stream, x->data, rows, n, w->w.cols, vector_of(w), eps, out->data);
    check(dev, "%s [%u, %u]", op, n, w->w.cols);
}

static void gpu_attn_in(struct eng_device *dev, const struct eng_attn_in *in)
{
    const struct eng_matmul qkv[] = {in->q, in->k, in->v};
    struct gpu_kv_layer kv = layer_of(in->kv, in->layer);
    struct gpu_place place = {};

    if (dev->failed)
        return;
    norm(dev, "attn_in norm", in->x, NULL, dev->step.n_tokens, in->norm, in->eps, in->scratch);
    if (!dev->failed)
        multiply(dev, "attn_in matmul", in->scratch, dev->step.n_tokens, qkv, 3);
    if (dev->failed)
        return;
    place.q = in->q.out->data;
    place.k = in->k.out->data;
    place.v = in->v.out->data;
    place.q_norm = vector_of(in->q_norm);
    place.k_norm = vector_of(in->k_norm);
    place.eps = in->eps;
    place.rope = vector_of(in->rope);
    place.n_heads = in->n_heads;
    place.rope_dim = in->rope_dim;
    place.rope_halves = in->rope_halves;
    gpu_place(dev->stream, &place, &kv, &dev->step);
    check(dev, "attn_in place [%u, %u + 2 x %u, %u]", dev->step.n_tokens, in->n_heads, in->n_kv_heads,
          in->head_dim);
}

static void gpu_attention_op(struct eng_device *dev, const struct eng_attention *a)
{
    struct gpu_kv_layer kv = layer_of(a->kv, a->layer);

    if (dev->failed)
        return;
    gpu_attention(dev->stream, a->q->data, a->out->data, a->n_heads, &kv, &dev->step,
                  dev->options.max_context, dev->workspace);
    check(dev, "attention [%u, %u / %u, %u]", dev->step.n_tokens, a->n_heads, kv.n_kv_heads, kv.head_dim);
}

static void gpu_mlp_in(struct eng_device *dev, const struct eng_mlp_in *in)
{
    const struct eng_matmul mms[] = {in->gate, in->up};

    if (dev->failed)
        return;
    norm(dev, "mlp_in norm", in->x, NULL, dev->step.n_tokens, in->norm, in->eps, in->scratch);
    if (!dev->failed)
        multiply(dev, "mlp_in matmul", in->scratch, dev->step.n_tokens, mms, 2);
    if (dev->failed)
        return;
    gpu_silu_mul(dev->stream, in->gate.out->data, in->up.out->data,
                 (uint64_t)dev->step.n_tokens * in->gate.w->w.rows);
    check(dev, "mlp_in silu [%u, %u]", dev->step.n_tokens, in->gate.w->w.rows);
}

static void gpu_matmul_op(struct eng_device *dev, const struct eng_buf *x, uint32_t n,
                          const struct eng_matmul *mms, uint32_t n_mms)
{
    if (!dev->failed)
        multiply(dev, "matmul", x, n, mms, n_mms);
}

static void gpu_norm_rows(struct eng_device *dev, const struct eng_buf *x, const struct eng_weight *w,
                          float eps, struct eng_buf *out)
{
    if (!dev->failed)
        norm(dev, "norm_rows", x, dev->step.logit_rows, dev->step.n_logits, w, eps, out);
}

/* ---- sampling ---- */

static size_t words(uint32_t bits)
{
    return ((size_t)bits + 31) / 32;
}

static size_t choices_bytes(const struct eng_choice *c, uint32_t n)
{
    size_t bytes = n * sizeof(struct gpu_choice);

    for (uint32_t i = 0; i < n; i++)
        bytes += c[i].n_penalties * sizeof(struct eng_penalty) +
                 (c[i].mask != NULL ? words(c[i].n_tokens) * 4 : 0);
    return bytes;
}

/* Into pinned memory that has room for them: most steps need some hundred bytes, penalties of long prompts megabytes. */
static bool room_for_choices(struct eng_device *dev, size_t bytes)
{
    size_t want = bytes * 2 > 65536 ? bytes * 2 : 65536;

    if (bytes <= dev->choice_bytes)
        return true;
    if (!wait(dev, "sample")) /* the old area may be on its way */
        return false;
    cudaFreeHost(dev->choice_host);
    dev->choice_host = NULL;
    dev->choice_bytes = 0;
    if (!pinned(&dev->choice_host, want)) {
        cudaGetLastError();
        fail(dev, BASE_NO_MEMORY, false, "sample: no pinned memory for %zu bytes of choices", bytes);
        return false;
    }
    dev->choice_bytes = want;
    return true;
}

static void gpu_sample_op(struct eng_device *dev, struct eng_buf *logits, const struct eng_choice *choices)
{
    uint32_t n = dev->step.n_logits, n_vocab = dev->options.n_vocab;
    size_t bytes = choices_bytes(choices, n), at = n * sizeof(struct gpu_choice);
    struct gpu_choice *c;

    if (dev->failed || !room_for_choices(dev, bytes))
        return;
    c = (struct gpu_choice *)dev->choice_host;
    for (uint32_t i = 0; i < n; i++) {
        size_t penalties = choices[i].n_penalties * sizeof(struct eng_penalty);

        c[i] = (struct gpu_choice){choices[i].params, choices[i].draw, choices[i].n_tokens,
                                   choices[i].n_penalties, choices[i].n_top};
        if (penalties > 0) {
            memcpy(dev->choice_host + at, choices[i].penalties, penalties);
            c[i].penalties = (const struct eng_penalty *)(dev->choice_dev + at);
            at += penalties;
        }
        if (choices[i].mask != NULL) {
            memcpy(dev->choice_host + at, choices[i].mask, words(choices[i].n_tokens) * 4);
            c[i].mask = (const uint32_t *)(dev->choice_dev + at);
            at += words(choices[i].n_tokens) * 4;
        }
    }
    cudaMemcpyAsync(dev->choice_dev, dev->choice_host, bytes, cudaMemcpyHostToDevice, dev->stream);
    if (!check(dev, "sample [%u, %u]: upload of choices", n, n_vocab)) /* what is there holds old pointers */
        return;
    gpu_sample(dev->stream, logits->data, n, n_vocab, (const struct gpu_choice *)dev->choice_dev,
               dev->chosen_dev, dev->workspace);
    cudaMemcpyAsync(dev->chosen_host, dev->chosen_dev, n * sizeof(*dev->chosen_host), cudaMemcpyDeviceToHost,
                    dev->stream);
    check(dev, "sample [%u, %u]", n, n_vocab);
}

static enum base_code gpu_finish(struct eng_device *dev, struct base_err *err)
{
    if (!dev->lost)
        wait(dev, "step");
    if (!dev->failed)
        return BASE_OK;
    if (err != NULL)
        *err = dev->err;
    return dev->err.code;
}

static void gpu_chosen_read(struct eng_device *dev, struct eng_chosen *out)
{
    memcpy(out, dev->chosen_host, dev->step.n_logits * sizeof(*out));
}

extern "C" const struct eng_ops gpu_ops;
const struct eng_ops gpu_ops = {
    "cuda",        gpu_open,       gpu_close,         gpu_open_bytes, gpu_weight_bytes, gpu_buf_bytes,
    gpu_describe,  gpu_weight_new, gpu_weight_free,   gpu_buf_new,    gpu_buf_free,     gpu_buf_read,
    gpu_kv_new,    gpu_kv_free,    gpu_kv_page_bytes, gpu_kv_wipe,    gpu_kv_is_wiped,  gpu_step_begin,
    gpu_embed_op,  gpu_attn_in,    gpu_attention_op,  gpu_mlp_in,     gpu_matmul_op,    gpu_norm_rows,
    gpu_sample_op, gpu_finish,     gpu_chosen_read};
