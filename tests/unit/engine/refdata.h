/* Reference models and logits from the shared folder, laid out once per build folder; and a small runner of models.
 * Tests of engine/ include it; it needs libc and the engine library alone. */
#ifndef TESTS_ENGINE_REFDATA_H
#define TESTS_ENGINE_REFDATA_H

#include "base/mem.h"
#include "engine/device.h"
#include "engine/graph_llama.h"
#include "engine/kvcache.h"
#include "tests/tap.h"

#include <fcntl.h>
#include <math.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The folder with tiny/, quant/, ...; skips the case when the shared folder is not there. */
__attribute__((unused)) static const char *ref_dir(void)
{
    static char dir[1024];
    const char *shared = tap_shared_dir(), *build = getenv("GH_BUILD_ROOT"), *given = getenv("GH_REFMODELS");
    char lock[1100], cmd[12288];
    int fd, rc;

    if (given != NULL && given[0] != '\0') { /* laid out already: ./dev gpu --refmodels */
        snprintf(dir, sizeof(dir), "%s", given);
        return dir;
    }
    if (shared == NULL)
        SKIP("no shared reference data");
    if (dir[0] != '\0')
        return dir;
    snprintf(dir, sizeof(dir), "%s/refmodels", build != NULL ? build : "/tmp");
    snprintf(lock, sizeof(lock), "%s.lock", dir);
    fd = open(lock, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) /* several test programs may start at once */
        SKIP("the build folder is not writable");
    snprintf(cmd, sizeof(cmd),
             "test -d '%.1000s' || { rm -rf '%.1000s.new' && '%.4000s/refmodels/prepare.sh' '%.1000s.new' "
             ">/dev/null 2>&1 "
             "&& mv '%.1000s.new' '%.1000s'; }",
             dir, dir, shared, dir, dir, dir);
    rc = system(cmd);
    close(fd);
    if (rc != 0) {
        dir[0] = '\0';
        SKIP("the reference data cannot be laid out here (python3-numpy, xz)");
    }
    return dir;
}

__attribute__((unused)) static char *ref_read(const char *path, size_t *ret_len)
{
    FILE *f = fopen(path, "rb");
    char *data;
    long n;

    if (f == NULL) {
        printf("# %s cannot be read\n", path);
        tap_fail(__FILE__, __LINE__, "missing file");
    }
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    data = base_zalloc((size_t)n + 1);
    if (fread(data, 1, (size_t)n, f) != (size_t)n)
        tap_fail(__FILE__, __LINE__, "short read");
    fclose(f);
    *ret_len = (size_t)n;
    return data;
}

/* The integers of the first array called `key` at or after *at (moved behind it). */
__attribute__((unused)) static uint32_t ref_ints(const char **at, const char *key, int32_t *out, uint32_t max)
{
    char quoted[64];
    const char *p;
    uint32_t n = 0;

    snprintf(quoted, sizeof(quoted), "\"%s\"", key);
    p = strstr(*at, quoted);
    if (p == NULL || (p = strchr(p, '[')) == NULL)
        return 0;
    for (p++; *p != ']' && n < max;) {
        char *end;
        long v = strtol(p, &end, 10);

        if (end == p) {
            p++;
            continue;
        }
        out[n++] = (int32_t)v;
        p = end;
    }
    *at = p;
    return n;
}

/* A model on a device with one sequence's pages. */
struct lm {
    struct eng_model *model;
    struct eng_graph *graph;
    struct eng_kvcache *kv;
    struct eng_kv_seq seq;
    uint32_t max_tokens, max_context, *pages;
};

struct lm_options {
    const char *kernels;
    enum eng_type kv_type;
    uint32_t n_threads, max_tokens, max_context;
    const struct eng_ops *ops; /* NULL: the CPU with `kernels` */
};

/* The CUDA plug-in that the environment names (a real one, or over the emulator), as eng_open will use it; NULL: none is named. */
__attribute__((unused)) static const struct eng_ops *plugin_ops(void)
{
    const char *path = getenv("GH_TEST_PLUGIN");
    struct eng_device_pick pick;
    struct base_err err;

    if (path == NULL || path[0] == '\0')
        return NULL;
    eng_use_plugin(path);
    CHECK_RC(eng_device_pick(&pick, "cuda", NULL, &err), BASE_OK, &err);
    return pick.ops;
}

__attribute__((unused)) static void lm_close(struct lm *lm)
{
    eng_kvcache_free(lm->kv);
    eng_graph_free(lm->graph);
    eng_model_free(lm->model);
    free(lm->pages);
    *lm = (struct lm){0};
}

__attribute__((unused)) static void lm_open_model(struct lm *lm, struct eng_model *model, struct lm_options o)
{
    struct base_err err;
    struct eng_graph_options go = {
        .ops = o.ops != NULL ? o.ops : eng_ops_cpu(o.kernels),
        .device = {.n_threads = o.n_threads,
                   .max_tokens = o.max_tokens,
                   .max_context = o.max_context,
                   .max_sequences = 1,
                   .max_logits = o.max_tokens},
    };
    struct eng_kv_shape shape = eng_graph_kv_shape(model);

    CHECK(go.ops != NULL);
    *lm = (struct lm){.model = model, .max_tokens = o.max_tokens, .max_context = o.max_context};
    shape.type = o.kv_type;
    shape.n_pages = eng_kvcache_pages_for(o.max_context);
    go.device.reserve_bytes = eng_graph_bytes(model, &go) + go.ops->kv_page_bytes(&shape) * shape.n_pages;
    CHECK_RC(eng_graph_new(&lm->graph, model, &go, &err), BASE_OK, &err);
    CHECK_RC(eng_kvcache_new(&lm->kv, go.ops, eng_graph_device(lm->graph), &shape, &err), BASE_OK, &err);
    lm->pages = base_zalloc(shape.n_pages * sizeof(*lm->pages));
    lm->seq.pages = lm->pages;
    CHECK(eng_kvcache_reserve(lm->kv, &lm->seq, o.max_context, 1));
}

__attribute__((unused)) static void lm_open(struct lm *lm, const char *path, struct lm_options o)
{
    struct base_err err;
    struct eng_gguf *gguf;
    struct eng_model *model;

    CHECK_RC(eng_gguf_open(&gguf, path, &err), BASE_OK, &err);
    CHECK_RC(eng_model_load(&model, gguf, &err), BASE_OK, &err);
    lm_open_model(lm, model, o);
}

/* Logits [n, n_vocab] after each of n tokens that follow position `first`, `chunk` tokens a step. */
__attribute__((unused)) static void lm_run(struct lm *lm, const int32_t *ids, uint32_t first, uint32_t n,
                                           uint32_t chunk, float *logits)
{
    uint32_t positions[512], sequences[512] = {0}, rows[512];
    struct base_err err;

    CHECK(chunk <= 512 && chunk <= lm->max_tokens && first + n <= lm->max_context);
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t k = n - at < chunk ? n - at : chunk;
        struct eng_step step = {.n_tokens = k,
                                .ids = ids + at,
                                .positions = positions,
                                .sequences = sequences,
                                .n_sequences = 1,
                                .pages_per_sequence = eng_kvcache_pages_for(lm->max_context),
                                .page_table = lm->pages,
                                .n_logits = k,
                                .logit_rows = rows};

        for (uint32_t i = 0; i < k; i++) {
            positions[i] = first + at + i;
            rows[i] = i;
        }
        eng_kvcache_extend(lm->kv, &lm->seq, first + at + k);
        CHECK_RC(eng_graph_step(lm->graph, eng_kvcache_store(lm->kv), &step, NULL,
                                logits + (size_t)at * lm->model->config.n_vocab, NULL, &err),
                 BASE_OK, &err);
    }
}

__attribute__((unused)) static int32_t ref_argmax(const float *row, uint32_t n)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        best = row[i] > row[best] ? i : best;
    return (int32_t)best;
}

__attribute__((unused)) static void ref_differences(const float *a, const float *b, size_t n, double *ret_max,
                                                    double *ret_rms)
{
    double max = 0, sum = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);

        max = d > max || isnan(d) ? d : max;
        sum += d * d;
    }
    *ret_max = max;
    *ret_rms = sqrt(sum / (double)n);
}

#endif
