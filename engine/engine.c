/* Engine: see engine.h. Opening, closing and the checks of what callers give; the work is in scheduler.c and graph_llama.c. */
#include "engine/engine_priv.h"

#include "base/mem.h"
#include "engine/device.h"
#include "engine/pool.h"
#include "engine/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONTEXT_DEFAULT   8192u
#define SEQUENCES_DEFAULT 8u
#define QUEUE_DEFAULT     64u
#define QUEUE_MAX         65536u

static unsigned n_cores(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n < 1 ? 1 : n > ENG_THREADS_MAX ? ENG_THREADS_MAX : (unsigned)n;
}

static enum base_code fill_options(struct eng *eng, const struct eng_options *o, struct base_err *err)
{
    uint32_t trained = eng->model->config.n_ctx_train;

    eng->options = *o;
    eng->options.model_path = NULL;
    if (o->n_threads == 0)
        eng->options.n_threads = n_cores();
    if (o->max_sequences == 0)
        eng->options.max_sequences = SEQUENCES_DEFAULT;
    if (o->queue_max == 0)
        eng->options.queue_max = QUEUE_DEFAULT;
    if (o->context_tokens == 0)
        eng->options.context_tokens = trained < CONTEXT_DEFAULT ? trained : CONTEXT_DEFAULT;
    if (eng->options.n_threads > 256 || eng->options.max_sequences > ENG_SEQUENCES_MAX ||
        eng->options.queue_max > QUEUE_MAX)
        return base_fail(err, BASE_INVALID, 0, "at most 256 threads, %u sequences and %u waiting requests",
                         ENG_SEQUENCES_MAX, QUEUE_MAX);
    if (eng->options.context_tokens > trained || eng->options.context_tokens > ENG_CONTEXT_MAX)
        return base_fail(err, BASE_INVALID, 0,
                         "a context of %u tokens: the model was trained for %u, the limit is %u",
                         eng->options.context_tokens, trained, ENG_CONTEXT_MAX);
    return BASE_OK;
}

#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

/* Memory is decided before it is taken: KV pages within their budget, everything within what the device has. `fixed`: all but the
 * pages. */
static enum base_code size_kv(struct eng *eng, const struct eng_device_pick *pick, uint64_t fixed,
                              struct eng_kv_shape *shape, struct base_err *err)
{
    const struct eng_options *o = &eng->options;
    uint64_t page = pick->ops->kv_page_bytes(shape);
    uint64_t one = eng_kvcache_pages_for(o->context_tokens), pages = one * o->max_sequences;
    uint64_t fit = fixed < pick->free_bytes ? (pick->free_bytes - fixed) / page : 0;

    if (o->kv_bytes_max != 0 && pages > o->kv_bytes_max / page)
        pages = o->kv_bytes_max / page;
    if (pages == 0)
        return base_fail(err, BASE_NO_MEMORY, 0, "kv_bytes_max %zu holds no KV page of %llu bytes",
                         o->kv_bytes_max, (unsigned long long)page);
    /* A device's memory is its own: what it has left goes to the cache, as long as one whole context has a place. */
    if (!pick->is_cpu && o->kv_bytes_max == 0 && pages > fit && fit >= one)
        pages = fit;
    if (pages > UINT32_MAX / 2 || pages > fit)
        return base_fail(err, BASE_NO_MEMORY, 0,
                         "%u sequences of %u tokens need %llu MiB of KV memory, the model %llu MiB; %s has "
                         "%llu MiB free: a shorter context or fewer sequences need less",
                         o->max_sequences, o->context_tokens, MIB(pages * page), MIB(fixed), pick->name,
                         MIB(pick->free_bytes));
    shape->n_pages = (uint32_t)pages;
    eng->info.kv_bytes = pages * page;
    eng->info.device_bytes = fixed + pages * page;
    return BASE_OK;
}

static void close_device(struct eng *eng)
{
    eng_kvcache_free(eng->kv);
    eng_graph_free(eng->graph);
    eng->kv = NULL;
    eng->graph = NULL;
}

static enum base_code open_device(struct eng *eng, const struct eng_device_pick *pick,
                                  const struct eng_tuning *tuning, uint32_t *ret_step_tokens,
                                  struct base_err *err)
{
    struct eng_options *o = &eng->options;
    struct eng_kv_shape shape = eng_graph_kv_shape(eng->model);
    uint32_t step_tokens = tuning->step_tokens;
    struct eng_graph_options go;
    enum base_code rc;

    if (step_tokens == 0)
        step_tokens = pick->is_cpu ? ENG_STEP_TOKENS_MAX : ENG_STEP_TOKENS_GPU;
    if (step_tokens < o->max_sequences)
        step_tokens = o->max_sequences;
    shape.type = tuning->exact_kv ? ENG_F32 : ENG_F16;
    go = (struct eng_graph_options){.ops = pick->ops,
                                    .device = {.n_threads = o->n_threads,
                                               .index = pick->index,
                                               .max_tokens = step_tokens,
                                               .max_context = o->context_tokens,
                                               .max_sequences = o->max_sequences,
                                               .max_logits = o->max_sequences}};
    if ((rc = size_kv(eng, pick, eng_graph_bytes(eng->model, &go), &shape, err)) != BASE_OK)
        return rc;
    go.device.reserve_bytes = eng->info.device_bytes;
    if ((rc = eng_graph_new(&eng->graph, eng->model, &go, err)) != BASE_OK ||
        (rc = eng_kvcache_new(&eng->kv, pick->ops, eng_graph_device(eng->graph), &shape, err)) != BASE_OK) {
        close_device(eng);
        return rc;
    }
    pick->ops->describe(eng_graph_device(eng->graph), eng->info.device, sizeof(eng->info.device));
    eng->plugin = pick->plugin;
    eng->device_index = pick->index;
    memcpy(eng->info.device_note, pick->note, sizeof(eng->info.device_note));
    *ret_step_tokens = step_tokens;
    return BASE_OK;
}

/* The device that was asked for; left to us, the CPU when no CUDA device takes the model. */
static enum base_code start_device(struct eng *eng, const struct eng_tuning *tuning, struct base_err *err)
{
    const struct eng_options *o = &eng->options;
    struct eng_device_pick pick, cpu;
    uint32_t step_tokens = 0;
    struct base_err why;
    enum base_code rc = eng_device_pick(
        &pick, tuning->kernels != NULL && o->device == NULL ? "cpu" : o->device, tuning->kernels, err);

    if (rc != BASE_OK)
        return rc;
    rc = open_device(eng, &pick, tuning, &step_tokens, &why);
    if (rc != BASE_OK && !pick.is_cpu && (o->device == NULL || strcmp(o->device, "auto") == 0) &&
        eng_device_cpu(&cpu, tuning->kernels, err) == BASE_OK) {
        snprintf(cpu.note, sizeof(cpu.note), "%.90s: %.220s", pick.name, why.detail);
        rc = open_device(eng, &cpu, tuning, &step_tokens, &why);
    }
    if (rc != BASE_OK)
        return base_fail(err, rc, why.sys_errno, "%s", why.detail);
    eng_gguf_close_file(eng->model->gguf); /* the device has its own copy of the weights */
    return eng_sched_start(&eng->sched,
                           &(struct eng_sched_options){.graph = eng->graph,
                                                       .kv = eng->kv,
                                                       .tok = eng->tok,
                                                       .n_tokens = eng->model->vocab.n_tokens,
                                                       .context_tokens = o->context_tokens,
                                                       .step_tokens = step_tokens,
                                                       .max_sequences = o->max_sequences,
                                                       .queue_max = o->queue_max},
                           err);
}

static void fill_info(struct eng *eng)
{
    const struct eng_config *cfg = &eng->model->config;
    struct eng_info *info = &eng->info;
    size_t n = eng->model->name.n < sizeof(info->name) - 1 ? eng->model->name.n : sizeof(info->name) - 1;

    for (size_t i = 0; i < n; i++)
        info->name[i] =
            eng->model->name.p[i] >= ' ' && eng->model->name.p[i] <= '~' ? eng->model->name.p[i] : '?';
    memcpy(info->family, cfg->family, sizeof(info->family));
    memcpy(info->weights, eng->model->weights, sizeof(info->weights));
    info->n_layers = cfg->n_layers;
    info->n_embd = cfg->n_embd;
    info->n_vocab = cfg->n_vocab;
    info->train_context_tokens = cfg->n_ctx_train;
    info->context_tokens = eng->options.context_tokens;
    info->n_params = eng->model->n_params;
    info->file_bytes = eng_gguf_file_bytes(eng->model->gguf);
    info->has_chat_template = eng->tmpl != NULL;
}

static enum base_code load_model(struct eng *eng, const char *path, struct base_err *err)
{
    struct eng_gguf *gguf;
    enum base_code rc = eng_gguf_open(&gguf, path, err);

    if (rc != BASE_OK)
        return rc;
    rc = eng_model_load(&eng->model, gguf, err);
    if (rc != BASE_OK) {
        eng_gguf_free(gguf);
        return base_fail_prefix(err, rc, "%s", path);
    }
    if (!eng->model->has_vocab)
        return base_fail(err, BASE_UNSUPPORTED, 0, "%s: the file has no tokenizer", path);
    rc = eng_tokenizer_new(&eng->tok, &eng->model->vocab, err);
    if (rc != BASE_OK)
        return base_fail_prefix(err, rc, "%s", path);
    if (eng->model->chat_template.n == 0)
        return BASE_OK;
    rc = eng_template_compile(&eng->tmpl, eng->model->chat_template.p, eng->model->chat_template.n, err);
    return rc == BASE_OK ? rc : base_fail_prefix(err, rc, "%s: tokenizer.chat_template", path);
}

enum base_code eng_open_tuned(struct eng **ret_eng, const struct eng_options *options,
                              const struct eng_tuning *tuning, struct base_err *err)
{
    struct eng *eng = base_zalloc(sizeof(*eng));
    enum base_code rc;

    if ((rc = load_model(eng, options->model_path, err)) != BASE_OK ||
        (rc = fill_options(eng, options, err)) != BASE_OK ||
        (rc = start_device(eng, tuning, err)) != BASE_OK) {
        eng_close(eng);
        return rc;
    }
    fill_info(eng);
    *ret_eng = eng;
    return BASE_OK;
}

enum base_code eng_open(struct eng **ret_eng, const struct eng_options *options, struct base_err *err)
{
    return eng_open_tuned(ret_eng, options, &(struct eng_tuning){0}, err);
}

void eng_close(struct eng *eng)
{
    if (eng == NULL)
        return;
    eng_sched_stop(eng->sched);
    eng_kvcache_free(eng->kv);
    eng_graph_free(eng->graph);
    eng_template_free(eng->tmpl);
    eng_tokenizer_free(eng->tok);
    eng_model_free(eng->model);
    free(eng);
}

void eng_get_info(const struct eng *eng, struct eng_info *ret_info)
{
    *ret_info = eng->info;
}

void eng_get_stats(struct eng *eng, struct eng_stats *ret_stats)
{
    eng_sched_stats(eng->sched, ret_stats);
}

bool eng_get_gauges(const struct eng *eng, struct eng_gauges *ret_gauges)
{
    return eng->plugin != NULL && eng->plugin->gauges(eng->device_index, ret_gauges);
}

static enum base_code check_submit(const struct eng_submit *submit, struct base_err *err)
{
    if (submit->prompt == NULL || submit->on_event == NULL)
        return base_fail(err, BASE_INVALID, 0, "a request needs a prompt and a callback");
    if (submit->n_stop > ENG_STOP_MAX)
        return base_fail(err, BASE_INVALID, 0, "%u stop strings (limit %u)", submit->n_stop, ENG_STOP_MAX);
    for (unsigned i = 0; i < submit->n_stop; i++) {
        size_t n = strnlen(submit->stop[i], ENG_STOP_BYTES_MAX + 1);

        if (n == 0 || n > ENG_STOP_BYTES_MAX)
            return base_fail(err, BASE_INVALID, 0, "stop string %u must have 1 to %u bytes", i,
                             ENG_STOP_BYTES_MAX);
    }
    return eng_sampling_check(&submit->sampling, err);
}

enum base_code eng_submit(struct eng *eng, const struct eng_submit *submit, struct eng_request **ret_request,
                          struct base_err *err)
{
    enum base_code rc = check_submit(submit, err);

    if (rc != BASE_OK)
        return rc;
    return eng_sched_submit(eng->sched, submit, submit->prompt->ids, submit->prompt->n,
                            submit->prompt->skip_space, ret_request, err);
}
