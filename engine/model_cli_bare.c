/* `logits` and `bench`: the graph on its device, without tokenizer and scheduler. See model_cli.h. */
#include "engine/model_cli.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define IDS_MAX ENG_CONTEXT_MAX

/* A model on its device, without tokenizer and scheduler: for logits and bench. */
struct bare {
    struct eng_model *model;
    struct eng_graph *graph;
    struct eng_kvcache *kv;
    struct eng_kv_seq seqs[ENG_SEQUENCES_MAX];
    uint32_t n_seqs;
    char device[160];
    uint32_t step_tokens;
    uint32_t *pages, pages_n;
    uint32_t *positions, *sequences;
    struct eng_chosen chosen[ENG_SEQUENCES_MAX];
};

static void bare_close(struct bare *b)
{
    eng_kvcache_free(b->kv);
    eng_graph_free(b->graph);
    eng_model_free(b->model);
    free(b->pages);
    free(b->positions);
    free(b->sequences);
}

static void reserve_all(struct bare *b, uint32_t context)
{
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        b->seqs[i] = (struct eng_kv_seq){.pages = b->pages + (size_t)i * b->pages_n};
        eng_kvcache_reserve(b->kv, &b->seqs[i], context, 0);
    }
}

static enum base_code bare_open(struct bare *b, const struct eng_cli *c, uint32_t context, uint32_t n_seqs,
                                struct base_err *err)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN), cores = online > ENG_THREADS_MAX ? ENG_THREADS_MAX : online;
    struct eng_device_pick pick;
    struct eng_graph_options go;
    struct eng_kv_shape shape;
    enum base_code rc;

    *b = (struct bare){0};
    if ((rc = eng_cli_pick(c, &pick, err)) != BASE_OK ||
        (rc = eng_cli_open(&b->model, c->file, err)) != BASE_OK)
        return rc;
    b->step_tokens = pick.is_cpu ? ENG_STEP_TOKENS_MAX : ENG_STEP_TOKENS_GPU;
    go = (struct eng_graph_options){
        .ops = pick.ops,
        .device = {.n_threads = c->options.n_threads != 0 ? c->options.n_threads : (unsigned)cores,
                   .index = pick.index,
                   .max_tokens = b->step_tokens,
                   .max_context = context,
                   .max_sequences = n_seqs,
                   .max_logits = n_seqs}};
    shape = eng_graph_kv_shape(b->model);
    b->n_seqs = n_seqs;
    b->pages_n = eng_kvcache_pages_for(context);
    shape.n_pages = b->pages_n * n_seqs;
    go.device.reserve_bytes =
        eng_graph_bytes(b->model, &go) + pick.ops->kv_page_bytes(&shape) * shape.n_pages;
    if ((rc = eng_graph_new(&b->graph, b->model, &go, err)) != BASE_OK ||
        (rc = eng_kvcache_new(&b->kv, go.ops, eng_graph_device(b->graph), &shape, err)) != BASE_OK)
        return rc;
    go.ops->describe(eng_graph_device(b->graph), b->device, sizeof(b->device));
    b->pages = base_zalloc((size_t)b->pages_n * n_seqs * sizeof(*b->pages));
    b->positions = base_zalloc(b->step_tokens * sizeof(*b->positions));
    b->sequences = base_zalloc(b->step_tokens * sizeof(*b->sequences));
    reserve_all(b, context);
    return BASE_OK;
}

static enum base_code run(struct bare *b, struct eng_step *step, float *ret_logits, struct base_err *err)
{
    struct eng_choice choices[ENG_SEQUENCES_MAX];

    for (uint32_t i = 0; i < step->n_logits; i++)
        choices[i] = (struct eng_choice){.params = {.top_p = 1, .repetition_penalty = 1},
                                         .n_tokens = b->model->config.n_vocab};
    step->positions = b->positions;
    step->sequences = b->sequences;
    step->n_sequences = b->n_seqs;
    step->pages_per_sequence = b->pages_n;
    step->page_table = b->pages;
    return eng_graph_step(b->graph, eng_kvcache_store(b->kv), step, ret_logits == NULL ? choices : NULL,
                          ret_logits, ret_logits == NULL ? b->chosen : NULL, err);
}

/* Runs ids [n] of one sequence from position `first`; wanted: the last one's logits, or with ret_logits NULL a choice. */
static enum base_code run_prompt(struct bare *b, uint32_t seq, const int32_t *ids, uint32_t first, uint32_t n,
                                 bool wanted, float *ret_logits, struct base_err *err)
{
    const uint32_t last = n - 1;
    struct eng_step step = {.n_tokens = n, .ids = ids, .n_logits = wanted, .logit_rows = &last};

    for (uint32_t i = 0; i < n; i++) {
        b->positions[i] = first + i;
        b->sequences[i] = seq;
    }
    eng_kvcache_extend(b->kv, &b->seqs[seq], first + n);
    return run(b, &step, ret_logits, err);
}

/* One token of each sequence, all at `position`. */
static enum base_code run_answers(struct bare *b, const int32_t *ids, uint32_t position, struct base_err *err)
{
    uint32_t rows[ENG_SEQUENCES_MAX];
    struct eng_step step = {.n_tokens = b->n_seqs, .ids = ids, .n_logits = b->n_seqs, .logit_rows = rows};

    for (uint32_t i = 0; i < b->n_seqs; i++) {
        b->positions[i] = position;
        b->sequences[i] = rows[i] = i;
        eng_kvcache_extend(b->kv, &b->seqs[i], position + 1);
    }
    return run(b, &step, NULL, err);
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

int eng_cli_logits(const struct eng_cli *c)
{
    auto_free int32_t *ids = NULL;
    struct base_err err;
    struct bare b;
    FILE *out = NULL;
    enum base_code rc;
    auto_free float *logits = NULL;
    uint32_t n = 0;

    if (c->ids == NULL) {
        fputs("--ids is missing\n", stderr);
        return 2;
    }
    rc = bare_open(&b, c, 4096, 1, &err);
    if (rc == BASE_OK && (n = parse_ids(c->ids, b.model->config.n_vocab, &ids)) == 0)
        rc = base_fail(&err, BASE_INVALID, 0, "no token ids");
    if (rc == BASE_OK && n > 4096)
        rc = base_fail(&err, BASE_TOO_LARGE, 0, "%u token ids, limit 4096", n);
    if (rc == BASE_OK && c->out != NULL && (out = fopen(c->out, "wb")) == NULL)
        rc = base_fail(&err, BASE_IO, 0, "%s cannot be written", c->out);
    if (rc == BASE_OK)
        logits = base_zalloc(b.model->config.n_vocab * sizeof(*logits));
    for (uint32_t i = 0; rc == BASE_OK && i < n; i++) {
        rc = run_prompt(&b, 0, ids + i, i, 1, true, logits, &err);
        if (rc == BASE_OK && out != NULL &&
            fwrite(logits, sizeof(float), b.model->config.n_vocab, out) != b.model->config.n_vocab)
            rc = base_fail(&err, BASE_IO, 0, "%s cannot be written", c->out);
    }
    if (rc == BASE_OK && out == NULL)
        print_top(logits, b.model->config.n_vocab);
    if (out != NULL && fclose(out) != 0 && rc == BASE_OK)
        rc = base_fail(&err, BASE_IO, 0, "%s cannot be written", c->out);
    bare_close(&b);
    return rc == BASE_OK ? 0 : eng_cli_fail(&err);
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

static enum base_code bench_once(struct bare *b, const struct eng_cli *c, const int32_t *ids,
                                 struct rates *ret, struct base_err *err)
{
    uint64_t t0 = base_mono_us(), t1;
    double cpu0 = cpu_seconds(), cpu1;
    enum base_code rc = BASE_OK;
    int32_t next[ENG_SEQUENCES_MAX];

    for (uint32_t seq = 0; seq < b->n_seqs; seq++) {
        for (uint32_t at = 0; at < c->pp && rc == BASE_OK; at += b->step_tokens) {
            uint32_t n = c->pp - at < b->step_tokens ? c->pp - at : b->step_tokens;

            rc = run_prompt(b, seq, ids + at, at, n, at + n == c->pp, NULL, err);
        }
    }
    t1 = base_mono_us();
    cpu1 = cpu_seconds();
    ret->pp = (double)c->pp * b->n_seqs / ((double)(t1 - t0) / 1e6);
    ret->pp_cpu = (double)c->pp * b->n_seqs / (cpu1 - cpu0);
    for (uint32_t i = 0; i < c->tg && rc == BASE_OK; i++) {
        for (uint32_t seq = 0; seq < b->n_seqs; seq++)
            next[seq] = (int32_t)((i + seq) * 7919u % b->model->config.n_vocab);
        rc = run_answers(b, next, c->pp + i, err);
    }
    ret->tg = (double)c->tg * b->n_seqs / ((double)(base_mono_us() - t1) / 1e6);
    ret->tg_cpu = (double)c->tg * b->n_seqs / (cpu_seconds() - cpu1);
    return rc;
}

int eng_cli_bench(const struct eng_cli *c)
{
    struct base_err err;
    struct bare b;
    auto_free int32_t *ids = NULL;
    enum base_code rc;
    uint64_t t0 = base_mono_us();
    uint32_t n_seqs = c->options.max_sequences != 0 ? c->options.max_sequences : 1;

    if (n_seqs > ENG_SEQUENCES_MAX) {
        fprintf(stderr, "--sequences: at most %u\n", ENG_SEQUENCES_MAX);
        return 2;
    }
    if (c->pp == 0 || c->pp + c->tg > ENG_CONTEXT_MAX) {
        fprintf(stderr, "--pp must be at least 1, --pp and --tg together at most %u\n", ENG_CONTEXT_MAX);
        return 2;
    }
    rc = bare_open(&b, c, c->pp + c->tg, n_seqs, &err);
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
        for (uint32_t seq = 0; seq < n_seqs; seq++)
            eng_kvcache_release(b.kv, &b.seqs[seq]);
        reserve_all(&b, c->pp + c->tg);
    }
    bare_close(&b);
    return rc == BASE_OK ? 0 : eng_cli_fail(&err);
}
