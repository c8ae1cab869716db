/* Test helper: reads the vocabulary of a GGUF file that the tests trust. Not a parser for outside files: that
 * is engine/modelfile_gguf.c. */
#ifndef TESTS_GGUF_VOCAB_H
#define TESTS_GGUF_VOCAB_H

#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gguf_vocab {
    char *bytes;
    struct eng_vocab vocab;
    char model[64], pre[64];
    void *owned[4];
};

static inline uint64_t gv_u64(const char **p, int n)
{
    uint64_t v = 0;

    memcpy(&v, *p, (size_t)n);
    *p += n;
    return v;
}

static inline struct eng_str gv_str(const char **p)
{
    struct eng_str s;

    s.n = gv_u64(p, 8);
    s.p = *p;
    *p += s.n;
    return s;
}

static inline int gv_size(uint32_t type)
{
    static const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

    return sizes[type];
}

static inline void gv_free(struct gguf_vocab *g)
{
    free(g->bytes);
    for (int i = 0; i < 4; i++)
        free(g->owned[i]);
}

static inline bool gv_key(struct eng_str key, const char *name)
{
    char full[96];

    snprintf(full, sizeof(full), "tokenizer.ggml.%s", name);
    return strlen(full) == key.n && memcmp(full, key.p, key.n) == 0;
}

static inline void gv_array(struct gguf_vocab *g, struct eng_str key, const char **p)
{
    uint32_t type = (uint32_t)gv_u64(p, 4);
    uint64_t n = gv_u64(p, 8);

    if (type == 8) {
        struct eng_str *v = calloc(n + 1, sizeof(*v));

        for (uint64_t i = 0; i < n; i++)
            v[i] = gv_str(p);
        if (gv_key(key, "tokens")) {
            g->owned[0] = v;
            g->vocab.tokens = v;
            g->vocab.n_tokens = (uint32_t)n;
        } else if (gv_key(key, "merges")) {
            g->owned[1] = v;
            g->vocab.merges = v;
            g->vocab.n_merges = (uint32_t)n;
        } else
            free(v);
        return;
    }
    if (gv_key(key, "scores")) {
        g->owned[2] = malloc(n * 4);
        memcpy(g->owned[2], *p, n * 4);
        g->vocab.scores = g->owned[2];
    } else if (gv_key(key, "token_type")) {
        g->owned[3] = malloc(n * 4);
        memcpy(g->owned[3], *p, n * 4);
        g->vocab.types = g->owned[3];
    }
    *p += n * (uint64_t)gv_size(type);
}

static inline void gv_value(struct gguf_vocab *g, struct eng_str key, uint32_t type, const char **p)
{
    const struct {
        const char *name;
        int *value;
    } ints[] = {{"bos_token_id", &g->vocab.bos},      {"eos_token_id", &g->vocab.eos},
                {"eot_token_id", &g->vocab.eot},      {"unknown_token_id", &g->vocab.unk},
                {"padding_token_id", &g->vocab.pad},  {"add_bos_token", &g->vocab.add_bos},
                {"add_eos_token", &g->vocab.add_eos}, {"add_space_prefix", &g->vocab.add_space_prefix}};

    if (type == 9)
        gv_array(g, key, p);
    else if (type == 8) {
        struct eng_str s = gv_str(p);

        if (gv_key(key, "model"))
            snprintf(g->model, sizeof(g->model), "%.*s", (int)s.n, s.p);
        else if (gv_key(key, "pre")) {
            snprintf(g->pre, sizeof(g->pre), "%.*s", (int)s.n, s.p);
            g->vocab.pre = g->pre;
        }
    } else {
        uint64_t v = gv_u64(p, gv_size(type));

        for (size_t i = 0; i < sizeof(ints) / sizeof(ints[0]); i++)
            if (gv_key(key, ints[i].name))
                *ints[i].value = (int)v;
    }
}

/* False when the file is not there. */
static inline bool gv_load(struct gguf_vocab *g, const char *path)
{
    FILE *f = fopen(path, "rb");
    const char *p;
    uint64_t n_keys;
    long size;

    memset(g, 0, sizeof(*g));
    if (f == NULL)
        return false;
    fseek(f, 0, SEEK_END);
    size = ftell(f);
    rewind(f);
    g->bytes = malloc((size_t)size + 1);
    if (fread(g->bytes, 1, (size_t)size, f) != (size_t)size)
        abort();
    fclose(f);
    g->vocab = (struct eng_vocab){.model = g->model,
                                  .bos = -1,
                                  .eos = -1,
                                  .eot = -1,
                                  .unk = -1,
                                  .pad = -1,
                                  .add_bos = -1,
                                  .add_eos = -1,
                                  .add_space_prefix = -1};
    p = g->bytes + 16;
    n_keys = gv_u64(&p, 8);
    for (uint64_t i = 0; i < n_keys; i++) {
        struct eng_str key = gv_str(&p);
        uint32_t type = (uint32_t)gv_u64(&p, 4);

        gv_value(g, key, type, &p);
    }
    return true;
}

#endif
