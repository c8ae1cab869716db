/* The commands `info`, `chat`, `logits` and `bench`: see eng_cli_main in engine.h. Exit status: 0, 1 (failed), 2 (wrong usage). */
#include "engine/engine_priv.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX (1u << 20)
#define IDS_MAX        ENG_CONTEXT_MAX

static const char usage_text[] = "usage: gatehouse-model COMMAND FILE [options]\n"
                                 "  info FILE     what the model file holds\n"
                                 "  chat FILE     one answer (--prompt), one answer per line of standard "
                                 "input (--batch), or a conversation\n"
                                 "  logits FILE   logits after each of the tokens of --ids\n"
                                 "  bench FILE    tokens per second: reading a prompt, and answering\n"
                                 "`gatehouse-model COMMAND --help` tells a command's options.\n";

static const char help_info[] =
    "usage: gatehouse-model info FILE\n"
    "Prints family, sizes, weight type and metadata of a model file, after checking all of it.\n";
static const char help_chat[] =
    "usage: gatehouse-model chat FILE [options]\n"
    "  --prompt TEXT      answer this and end\n"
    "  --batch            one prompt per line of standard input, one answer per line of output, in order; a "
    "newline\n"
    "                     inside a prompt or an answer is written \\n, a backslash \\\\\n"
    "  --system TEXT      a system message before the first prompt\n"
    "  --greedy           always the most likely token (the same as --temperature 0)\n"
    "  --temperature T    default 0.7\n"
    "  --top-p P          default 1\n"
    "  --seed N           default 1\n"
    "  --max-tokens N     of one answer; default: what the context leaves\n"
    "  --context N        tokens of prompt and answer; default: what the model was trained for, at most "
    "8192\n"
    "  --threads N        default: the number of cores\n"
    "  --sequences N      answers made at once with --batch; default 8\n"
    "  --kernels NAME     auto, avx512, avx2 or scalar\n"
    "Without --prompt and --batch, lines of standard input are one conversation.\n";
static const char help_logits[] =
    "usage: gatehouse-model logits FILE --ids 1,2,3 [--out FILE] [--threads N] [--kernels NAME]\n"
    "Writes float32 [n_ids, n_vocab] to --out; without it prints the five largest of the last row.\n";
static const char help_bench[] =
    "usage: gatehouse-model bench FILE [--pp N] [--tg N] [--repeat N] [--threads N] [--kernels NAME]\n"
    "Reads a prompt of --pp tokens (512), then makes --tg tokens (64), --repeat times (3).\n";

struct cli {
    const char *file, *prompt, *system, *ids, *out;
    struct eng_options options;
    struct eng_tuning tuning;
    struct eng_sampling sampling;
    bool batch;
    uint32_t max_tokens, pp, tg, repeat;
};

enum {
    OPT_PROMPT = 1,
    OPT_BATCH,
    OPT_SYSTEM,
    OPT_GREEDY,
    OPT_TEMPERATURE,
    OPT_TOP_P,
    OPT_SEED,
    OPT_MAX_TOKENS,
    OPT_CONTEXT,
    OPT_THREADS,
    OPT_SEQUENCES,
    OPT_KERNELS,
    OPT_IDS,
    OPT_OUT,
    OPT_PP,
    OPT_TG,
    OPT_REPEAT,
    OPT_HELP
};

static const struct option long_options[] = {
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"batch", no_argument, NULL, OPT_BATCH},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"greedy", no_argument, NULL, OPT_GREEDY},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"seed", required_argument, NULL, OPT_SEED},
    {"max-tokens", required_argument, NULL, OPT_MAX_TOKENS},
    {"context", required_argument, NULL, OPT_CONTEXT},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"sequences", required_argument, NULL, OPT_SEQUENCES},
    {"kernels", required_argument, NULL, OPT_KERNELS},
    {"ids", required_argument, NULL, OPT_IDS},
    {"out", required_argument, NULL, OPT_OUT},
    {"pp", required_argument, NULL, OPT_PP},
    {"tg", required_argument, NULL, OPT_TG},
    {"repeat", required_argument, NULL, OPT_REPEAT},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static bool number(const char *text, uint64_t max, uint64_t *ret_value)
{
    if (base_parse_u64(text, strlen(text), max, ret_value) == BASE_OK)
        return true;
    fprintf(stderr, "\"%s\" is no number from 0 to %llu\n", text, (unsigned long long)max);
    return false;
}

static bool real(const char *text, float *ret_value)
{
    char *end;

    *ret_value = strtof(text, &end);
    if (end != text && *end == '\0')
        return true;
    fprintf(stderr, "\"%s\" is no number\n", text);
    return false;
}

static bool set_option(struct cli *c, int opt, const char *arg)
{
    uint64_t v = 0;

    switch (opt) {
    case OPT_PROMPT: c->prompt = arg; return true;
    case OPT_BATCH: c->batch = true; return true;
    case OPT_SYSTEM: c->system = arg; return true;
    case OPT_GREEDY: c->sampling.temperature = 0; return true;
    case OPT_TEMPERATURE: return real(arg, &c->sampling.temperature);
    case OPT_TOP_P: return real(arg, &c->sampling.top_p);
    case OPT_SEED: return number(arg, UINT64_MAX, &c->sampling.seed);
    case OPT_KERNELS: c->tuning.kernels = arg; return true;
    case OPT_IDS: c->ids = arg; return true;
    case OPT_OUT: c->out = arg; return true;
    default: break;
    }
    if (opt == '?' || !number(arg, 1u << 20, &v))
        return false;
    switch (opt) {
    case OPT_MAX_TOKENS: c->max_tokens = (uint32_t)v; break;
    case OPT_CONTEXT: c->options.context_tokens = (uint32_t)v; break;
    case OPT_THREADS: c->options.n_threads = (unsigned)v; break;
    case OPT_SEQUENCES: c->options.max_sequences = (unsigned)v; break;
    case OPT_PP: c->pp = (uint32_t)v; break;
    case OPT_TG: c->tg = (uint32_t)v; break;
    default: c->repeat = (uint32_t)v; break;
    }
    return true;
}

static int fail(const struct base_err *err)
{
    fprintf(stderr, "%s\n", err->detail);
    return 1;
}

static enum base_code open_model(struct eng_model **ret_model, const char *path, struct base_err *err)
{
    struct eng_gguf *gguf;
    enum base_code rc = eng_gguf_open(&gguf, path, err);

    if (rc != BASE_OK)
        return rc;
    rc = eng_model_load(ret_model, gguf, err);
    if (rc != BASE_OK) {
        eng_gguf_free(gguf);
        return base_fail_prefix(err, rc, "%s", path);
    }
    return BASE_OK;
}

static void print_text(struct eng_str s)
{
    for (size_t i = 0; i < s.n && i < 200; i++)
        putchar(s.p[i] >= ' ' && s.p[i] <= '~' ? s.p[i] : '.');
    puts(s.n > 200 ? "..." : "");
}

static void print_kv(const struct eng_gguf *gguf, const struct eng_gguf_kv *kv)
{
    char key[ENG_GGUF_KEY_BYTES_MAX + 1];
    struct eng_str s;
    uint64_t u;
    double d;
    bool b;

    memcpy(key, kv->key.p, kv->key.n);
    key[kv->key.n] = '\0';
    for (char *p = key; *p != '\0'; p++)
        *p = *p >= ' ' && *p <= '~' ? *p : '?';
    printf("  %s: ", key);
    memcpy(key, kv->key.p, kv->key.n);
    if (kv->type == ENG_GGUF_ARRAY)
        printf("%llu elements\n", (unsigned long long)kv->n);
    else if (eng_gguf_get_str(gguf, key, &s, NULL) == BASE_OK)
        print_text(s);
    else if (eng_gguf_get_u64(gguf, key, UINT64_MAX, &u, NULL) == BASE_OK)
        printf("%llu\n", (unsigned long long)u);
    else if (eng_gguf_get_f64(gguf, key, &d, NULL) == BASE_OK)
        printf("%g\n", d);
    else if (eng_gguf_get_bool(gguf, key, &b, NULL) == BASE_OK)
        puts(b ? "true" : "false");
    else
        puts("(a number)");
}

static int run_info(const struct cli *c)
{
    struct eng_model *m;
    struct base_err err;

    if (open_model(&m, c->file, &err) != BASE_OK)
        return fail(&err);
    printf("name: ");
    print_text(m->name);
    printf("family: %s\nweights: %s\nparameters: %.3f million\nfile: %.1f MiB\n", m->config.family,
           m->weights, (double)m->n_params / 1e6, (double)eng_gguf_file_bytes(m->gguf) / (1 << 20));
    printf("layers: %u\nembedding: %u\nfeed-forward: %u\nheads: %u (%u key/value) of %u\nvocabulary: "
           "%u\ncontext: %u\n",
           m->config.n_layers, m->config.n_embd, m->config.n_ff, m->config.n_heads, m->config.n_kv_heads,
           m->config.head_dim, m->config.n_vocab, m->config.n_ctx_train);
    printf("chat template: %s\ntensors: %zu\nmetadata:\n", m->chat_template.n > 0 ? "yes" : "no",
           eng_gguf_n_tensors(m->gguf));
    for (size_t i = 0; i < eng_gguf_n_kv(m->gguf); i++)
        print_kv(m->gguf, eng_gguf_kv_at(m->gguf, i));
    eng_model_free(m);
    return 0;
}

/* One request of the command line. */
struct job {
    struct eng_request *request;
    struct base_buf text;
    char *line;
    bool stream, done, failed;
    struct eng_usage usage;
    pthread_mutex_t *mutex; /* guards `done` */
    pthread_cond_t *cond;
    char error[BASE_DETAIL_MAX];
};

static void job_event(const struct eng_event *event, void *user)
{
    struct job *job = user;

    if (event->kind == ENG_EVENT_TEXT) {
        base_buf_append(&job->text, event->text, event->text_len);
        if (job->stream) {
            fwrite(event->text, 1, event->text_len, stdout);
            fflush(stdout);
        }
    }
    if (event->kind != ENG_EVENT_FINISH && event->kind != ENG_EVENT_ERROR)
        return;
    pthread_mutex_lock(job->mutex);
    job->done = true;
    job->failed = event->kind == ENG_EVENT_ERROR;
    job->usage = event->usage;
    if (job->failed)
        snprintf(job->error, sizeof(job->error), "%s", event->err->detail);
    pthread_cond_broadcast(job->cond);
    pthread_mutex_unlock(job->mutex);
}

static void job_wait(struct job *job)
{
    pthread_mutex_lock(job->mutex);
    while (!job->done)
        pthread_cond_wait(job->cond, job->mutex);
    pthread_mutex_unlock(job->mutex);
}

/* Submits; waits while the engine's queue is full. */
static enum base_code job_start(struct eng *eng, const struct cli *c, const struct eng_prompt *prompt,
                                struct job *job, struct base_err *err)
{
    struct eng_submit submit = {.prompt = prompt,
                                .sampling = c->sampling,
                                .max_tokens = c->max_tokens,
                                .on_event = job_event,
                                .user = job};
    enum base_code rc;

    while ((rc = eng_submit(eng, &submit, &job->request, err)) == BASE_FULL)
        usleep(2000);
    return rc;
}

static enum base_code chat_prompt(struct eng *eng, const struct cli *c, const char *text, size_t len,
                                  struct eng_prompt **ret_prompt, struct base_err *err)
{
    struct eng_message messages[2] = {{"system", c->system, c->system != NULL ? strlen(c->system) : 0},
                                      {"user", text, len}};

    return eng_prompt_chat(eng, messages + (c->system == NULL), c->system == NULL ? 1 : 2, ret_prompt, err);
}

static int chat_once(struct eng *eng, const struct cli *c, const char *text)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    struct job job = {.text = BASE_BUF_INIT(16 << 20), .stream = true, .mutex = &mutex, .cond = &cond};
    struct eng_prompt *prompt = NULL;
    struct base_err err;

    if (chat_prompt(eng, c, text, strlen(text), &prompt, &err) != BASE_OK)
        return fail(&err);
    if (job_start(eng, c, prompt, &job, &err) != BASE_OK) {
        eng_prompt_free(prompt);
        return fail(&err);
    }
    eng_prompt_free(prompt);
    job_wait(&job);
    putchar('\n');
    if (job.failed)
        fprintf(stderr, "%s\n", job.error);
    eng_request_unref(job.request);
    base_buf_free(&job.text);
    return job.failed ? 1 : 0;
}

/* "\\n" to a newline and "\\\\" to a backslash, in place; returns the length. */
static size_t unescape(char *s)
{
    char *out = s;

    for (const char *p = s; *p != '\0'; p++) {
        if (*p == '\\' && (p[1] == 'n' || p[1] == '\\'))
            *out++ = *++p == 'n' ? '\n' : '\\';
        else
            *out++ = *p;
    }
    *out = '\0';
    return (size_t)(out - s);
}

static void print_escaped(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n')
            fputs("\\n", stdout);
        else if (s[i] == '\\')
            fputs("\\\\", stdout);
        else
            putchar(s[i]);
    }
    putchar('\n');
    fflush(stdout);
}

/* Answers go out in the order of their prompts; a prompt that fails gives an empty line and a message. */
static bool finish_job(struct job *job)
{
    bool ok;

    if (job->request != NULL)
        job_wait(job);
    ok = job->request != NULL && !job->failed;
    print_escaped(ok && job->text.data != NULL ? job->text.data : "", ok ? job->text.len : 0);
    if (!ok)
        fprintf(stderr, "%s\n", job->error);
    eng_request_unref(job->request);
    base_buf_free(&job->text);
    free(job->line);
    return ok;
}

static int chat_batch(struct eng *eng, const struct cli *c)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    enum { WINDOW = 64 };
    struct job *jobs = base_zalloc(WINDOW * sizeof(*jobs));
    size_t begin = 0, end = 0, cap = 0;
    char *line = NULL;
    ssize_t n = 0;
    int status = 0;

    while (n >= 0 || begin < end) {
        n = end - begin < WINDOW && n >= 0 ? getline(&line, &cap, stdin) : n;
        if (n >= 0 && end - begin < WINDOW) {
            struct job *job = &jobs[end++ % WINDOW];
            struct eng_prompt *prompt = NULL;
            struct base_err err = {0};
            size_t len;

            line[strcspn(line, "\r\n")] = '\0';
            len = unescape(line);
            *job = (struct job){.text = BASE_BUF_INIT(16 << 20), .mutex = &mutex, .cond = &cond};
            if (chat_prompt(eng, c, line, len, &prompt, &err) != BASE_OK ||
                job_start(eng, c, prompt, job, &err) != BASE_OK)
                memcpy(job->error, err.detail, sizeof(job->error));
            eng_prompt_free(prompt);
            continue;
        }
        if (begin < end && !finish_job(&jobs[begin++ % WINDOW]))
            status = 1;
    }
    free(line);
    free(jobs);
    return status;
}

/* A conversation: every line is asked with all that was said before. */
static int chat_lines(struct eng *eng, const struct cli *c)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    struct eng_message *messages = base_zalloc(ENG_MESSAGES_MAX * sizeof(*messages));
    size_t n = 0, cap = 0;
    char *line = NULL;
    int status = 0;

    if (c->system != NULL)
        messages[n++] = (struct eng_message){"system", base_strdup(c->system), strlen(c->system)};
    while (status == 0 && n + 2 <= ENG_MESSAGES_MAX && getline(&line, &cap, stdin) >= 0) {
        struct job job = {.text = BASE_BUF_INIT(16 << 20), .stream = true, .mutex = &mutex, .cond = &cond};
        struct eng_prompt *prompt = NULL;
        struct base_err err;

        line[strcspn(line, "\r\n")] = '\0';
        messages[n++] = (struct eng_message){"user", base_strdup(line), strlen(line)};
        if (eng_prompt_chat(eng, messages, n, &prompt, &err) != BASE_OK ||
            job_start(eng, c, prompt, &job, &err) != BASE_OK) {
            status = fail(&err);
        } else {
            job_wait(&job);
            putchar('\n');
            messages[n].role = "assistant";
            messages[n].content_len = job.text.len;
            messages[n++].content = base_buf_take(&job.text);
        }
        eng_prompt_free(prompt);
        eng_request_unref(job.request);
        base_buf_free(&job.text);
    }
    for (size_t i = 0; i < n; i++)
        free((void *)messages[i].content);
    free(messages);
    free(line);
    return status;
}

static int run_chat(const struct cli *c)
{
    struct eng_options options = c->options;
    struct base_err err;
    struct eng *eng;
    int status;

    options.model_path = c->file;
    if (!c->batch)
        options.max_sequences = 1;
    if (eng_open_tuned(&eng, &options, &c->tuning, &err) != BASE_OK)
        return fail(&err);
    status = c->batch            ? chat_batch(eng, c)
             : c->prompt != NULL ? chat_once(eng, c, c->prompt)
                                 : chat_lines(eng, c);
    eng_close(eng);
    return status;
}

/* A model on its device, without tokenizer and scheduler: for logits and bench. */
struct bare {
    struct eng_model *model;
    struct eng_graph *graph;
    struct eng_kvcache *kv;
    struct eng_kv_seq seq;
    char device[96];
    uint32_t *pages, pages_n;
    uint32_t *positions, *sequences;
    float *logits; /* [max_logits, n_vocab] */
};

static void bare_close(struct bare *b)
{
    eng_kvcache_free(b->kv);
    eng_graph_free(b->graph);
    eng_model_free(b->model);
    free(b->pages);
    free(b->positions);
    free(b->sequences);
    free(b->logits);
}

static enum base_code bare_open(struct bare *b, const struct cli *c, uint32_t context, uint32_t max_logits,
                                struct base_err *err)
{
    struct eng_graph_options go = {.ops = eng_ops_cpu(c->tuning.kernels)};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct eng_kv_shape shape;
    enum base_code rc;

    *b = (struct bare){0};
    if (go.ops == NULL)
        return base_fail(err, BASE_UNSUPPORTED, 0, "this machine has no kernels called \"%s\"",
                         c->tuning.kernels);
    if ((rc = open_model(&b->model, c->file, err)) != BASE_OK)
        return rc;
    go.device = (struct eng_device_options){.n_threads = c->options.n_threads != 0 ? c->options.n_threads
                                                                                   : (unsigned)cores,
                                            .max_tokens = ENG_STEP_TOKENS_MAX,
                                            .max_context = context,
                                            .max_sequences = 1,
                                            .max_logits = max_logits};
    if ((rc = eng_graph_new(&b->graph, b->model, &go, err)) != BASE_OK)
        return rc;
    shape = eng_graph_kv_shape(b->model);
    shape.n_pages = b->pages_n = eng_kvcache_pages_for(context);
    if ((rc = eng_kvcache_new(&b->kv, go.ops, eng_graph_device(b->graph), &shape, err)) != BASE_OK)
        return rc;
    go.ops->describe(eng_graph_device(b->graph), b->device, sizeof(b->device));
    b->pages = base_zalloc(b->pages_n * sizeof(*b->pages));
    b->positions = base_zalloc(context * sizeof(*b->positions));
    b->sequences = base_zalloc(context * sizeof(*b->sequences));
    b->logits = base_zalloc((size_t)max_logits * b->model->config.n_vocab * sizeof(*b->logits));
    for (uint32_t i = 0; i < context; i++)
        b->positions[i] = i;
    b->seq.pages = b->pages;
    eng_kvcache_reserve(b->kv, &b->seq, context, 0);
    return BASE_OK;
}

/* Runs ids [n] from position `first`; rows names the rows (of these n) whose logits are wanted. */
static enum base_code bare_step(struct bare *b, const int32_t *ids, uint32_t first, uint32_t n,
                                const uint32_t *rows, uint32_t n_rows, struct base_err *err)
{
    struct eng_step step = {.n_tokens = n,
                            .ids = ids,
                            .positions = b->positions + first,
                            .sequences = b->sequences,
                            .n_sequences = 1,
                            .pages_per_sequence = b->pages_n,
                            .page_table = b->pages,
                            .n_logits = n_rows,
                            .logit_rows = rows};

    eng_kvcache_extend(b->kv, &b->seq, first + n);
    return eng_graph_step(b->graph, eng_kvcache_store(b->kv), &step, b->logits, err);
}

static uint32_t parse_ids(const char *text, uint32_t n_vocab, int32_t **ret_ids)
{
    int32_t *ids = base_alloc(IDS_MAX * sizeof(*ids));
    uint32_t n = 0;

    for (const char *p = text; *p != '\0' && n < IDS_MAX;) {
        size_t len = strcspn(p, ",");
        uint64_t v;

        if (base_parse_u64(p, len, n_vocab - 1, &v) != BASE_OK) {
            fprintf(stderr, "--ids: \"%.*s\" is no token id below %u\n", (int)(len < 40 ? len : 40), p,
                    n_vocab);
            free(ids);
            return 0;
        }
        ids[n++] = (int32_t)v;
        p += len + (p[len] == ',');
    }
    *ret_ids = ids;
    return n;
}

static void print_top(const float *row, uint32_t n_vocab)
{
    for (int k = 0; k < 5; k++) {
        static uint32_t shown[5];
        uint32_t best = UINT32_MAX;

        for (uint32_t i = 0; i < n_vocab; i++) {
            bool seen = false;

            for (int j = 0; j < k; j++)
                seen |= shown[j] == i;
            if (!seen && (best == UINT32_MAX || row[i] > row[best]))
                best = i;
        }
        shown[k] = best;
        if (best != UINT32_MAX)
            printf("%u %.6f\n", best, (double)row[best]);
    }
}

static int run_logits(const struct cli *c)
{
    auto_free int32_t *ids = NULL;
    struct base_err err;
    struct bare b;
    FILE *out = NULL;
    enum base_code rc;
    uint32_t n = 0, rows[1] = {0};

    if (c->ids == NULL) {
        fputs(help_logits, stderr);
        return 2;
    }
    rc = bare_open(&b, c, 4096, 1, &err);
    if (rc == BASE_OK && (n = parse_ids(c->ids, b.model->config.n_vocab, &ids)) == 0)
        rc = base_fail(&err, BASE_INVALID, 0, "no token ids");
    if (rc == BASE_OK && n > 4096)
        rc = base_fail(&err, BASE_TOO_LARGE, 0, "%u token ids, limit 4096", n);
    if (rc == BASE_OK && c->out != NULL && (out = fopen(c->out, "wb")) == NULL)
        rc = base_fail(&err, BASE_IO, 0, "%s cannot be written", c->out);
    for (uint32_t i = 0; rc == BASE_OK && i < n; i++) {
        rc = bare_step(&b, ids + i, i, 1, rows, 1, &err);
        if (rc == BASE_OK && out != NULL &&
            fwrite(b.logits, sizeof(float), b.model->config.n_vocab, out) != b.model->config.n_vocab)
            rc = base_fail(&err, BASE_IO, 0, "%s cannot be written", c->out);
    }
    if (rc == BASE_OK && out == NULL)
        print_top(b.logits, b.model->config.n_vocab);
    if (out != NULL && fclose(out) != 0 && rc == BASE_OK)
        rc = base_fail(&err, BASE_IO, 0, "%s cannot be written", c->out);
    bare_close(&b);
    return rc == BASE_OK ? 0 : fail(&err);
}

/* Processor time of all threads. With one thread it tells what the work costs even on a busy machine. */
static double cpu_seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct rates {
    double pp, tg, pp_cpu, tg_cpu; /* tokens per second of time and of processor time */
};

static enum base_code bench_once(struct bare *b, const struct cli *c, const int32_t *ids, struct rates *ret,
                                 struct base_err *err)
{
    const uint32_t first_row[1] = {0};
    uint64_t t0 = base_mono_us(), t1;
    double cpu0 = cpu_seconds(), cpu1;
    enum base_code rc = BASE_OK;

    for (uint32_t at = 0; at < c->pp && rc == BASE_OK; at += ENG_STEP_TOKENS_MAX) {
        uint32_t n = c->pp - at < ENG_STEP_TOKENS_MAX ? c->pp - at : ENG_STEP_TOKENS_MAX;
        uint32_t last = n - 1;

        rc = bare_step(b, ids + at, at, n, &last, at + n == c->pp, err);
    }
    t1 = base_mono_us();
    cpu1 = cpu_seconds();
    ret->pp = c->pp / ((double)(t1 - t0) / 1e6);
    ret->pp_cpu = c->pp / (cpu1 - cpu0);
    for (uint32_t i = 0; i < c->tg && rc == BASE_OK; i++)
        rc = bare_step(b, ids + c->pp + i, c->pp + i, 1, first_row, 1, err);
    ret->tg = c->tg / ((double)(base_mono_us() - t1) / 1e6);
    ret->tg_cpu = c->tg / (cpu_seconds() - cpu1);
    return rc;
}

static int run_bench(const struct cli *c)
{
    struct base_err err;
    struct bare b;
    auto_free int32_t *ids = NULL;
    enum base_code rc;
    uint64_t t0 = base_mono_us();

    if (c->pp == 0 || c->pp + c->tg > ENG_CONTEXT_MAX) {
        fprintf(stderr, "--pp must be at least 1, --pp and --tg together at most %u\n", ENG_CONTEXT_MAX);
        return 2;
    }
    rc = bare_open(&b, c, c->pp + c->tg, 1, &err);
    if (rc == BASE_OK) {
        ids = base_zalloc((c->pp + c->tg) * sizeof(*ids));
        for (uint32_t i = 0; i < c->pp + c->tg; i++)
            ids[i] = (int32_t)(i * 7919u % b.model->config.n_vocab);
        printf("%s, %s, %.3f billion parameters, opened in %.2f s\n", b.device, b.model->weights,
               (double)b.model->n_params / 1e9, (double)(base_mono_us() - t0) / 1e6);
    }
    for (uint32_t i = 0; rc == BASE_OK && i < c->repeat; i++) {
        struct rates r;

        rc = bench_once(&b, c, ids, &r, &err);
        if (rc == BASE_OK)
            printf("pp%u %.1f t/s  tg%u %.1f t/s  (per second of processor time: %.1f and %.1f)\n", c->pp,
                   r.pp, c->tg, r.tg, r.pp_cpu, r.tg_cpu);
        eng_kvcache_release(b.kv, &b.seq);
        eng_kvcache_reserve(b.kv, &b.seq, c->pp + c->tg, 0);
    }
    bare_close(&b);
    return rc == BASE_OK ? 0 : fail(&err);
}

int eng_cli_main(int argc, char **argv)
{
    static const struct {
        const char *name, *help;
        int (*run)(const struct cli *c);
    } commands[] = {{"info", help_info, run_info},
                    {"chat", help_chat, run_chat},
                    {"logits", help_logits, run_logits},
                    {"bench", help_bench, run_bench}};
    struct cli c = {.sampling = ENG_SAMPLING_DEFAULT, .pp = 512, .tg = 64, .repeat = 3};
    size_t k = 0;
    int opt;

    c.sampling.temperature = 0.7f;
    c.sampling.seed = 1;
    while (k < BASE_ARRAY_LEN(commands) && (argc < 2 || strcmp(argv[1], commands[k].name) != 0))
        k++;
    if (k == BASE_ARRAY_LEN(commands)) {
        bool help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0);

        fputs(usage_text, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    optind = 2;
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (opt == OPT_HELP) {
            fputs(commands[k].help, stdout);
            return 0;
        }
        if (!set_option(&c, opt, optarg))
            return 2;
    }
    if (optind + 1 != argc) {
        fputs(commands[k].help, stderr);
        return 2;
    }
    c.file = argv[optind];
    return commands[k].run(&c);
}
