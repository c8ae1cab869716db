/* GGUF files, good and hostile. Every corruption is made from a file that loads. */
#include "ggufwriter.h"

#include "engine/model.h"
#include "tests/tap.h"

#include <unistd.h>

static const struct gw_model small = {"llama", 2,  32, 64,       2,       1,     16,
                                      16,      40, 64, ENG_Q8_0, ENG_F16, false, false};

static struct base_err err;

/* Parses and, if that works, loads the model. */
static enum base_code load_bytes(const uint8_t *file, size_t len)
{
    struct eng_gguf *gguf = NULL;
    struct eng_model *model = NULL;
    enum base_code rc;

    err = (struct base_err){0};
    rc = eng_gguf_parse(&gguf, file, len, &err);
    if (rc != BASE_OK) {
        CHECK(gguf == NULL && err.detail[0] != '\0');
        return rc;
    }
    rc = eng_model_load(&model, gguf, &err);
    if (rc != BASE_OK) {
        CHECK(model == NULL && err.detail[0] != '\0');
        eng_gguf_free(gguf);
        return rc;
    }
    eng_model_free(model);
    return BASE_OK;
}

static enum base_code load_writer(struct gw *w)
{
    size_t len;
    uint8_t *file = gw_finish(w, &len);
    enum base_code rc = load_bytes(file, len);

    free(file);
    gw_free(w);
    return rc;
}

static void good_writer(struct gw *w)
{
    gw_init(w);
    gw_put_model(w, &small, 1);
}

static void test_eng_gguf_parse__good_file(void)
{
    struct gw w;
    struct eng_gguf *gguf;
    const struct eng_gguf_tensor *t;
    size_t len;
    uint64_t v;
    struct eng_str s;
    bool b;

    good_writer(&w);
    gw_kv_bool(&w, "flag", true);
    uint8_t *file = gw_finish(&w, &len);
    CHECK_RC(load_bytes(file, len), BASE_OK, &err);
    CHECK_RC(eng_gguf_parse(&gguf, file, len, &err), BASE_OK, &err);
    CHECK_INT(eng_gguf_n_tensors(gguf), 3 + 2 * 9);
    CHECK_RC(eng_gguf_get_u64(gguf, "llama.block_count", 100, &v, &err), BASE_OK, &err);
    CHECK_INT(v, 2);
    CHECK_RC(eng_gguf_get_u64(gguf, "llama.block_count", 1, &v, &err), BASE_INVALID, &err);
    CHECK_RC(eng_gguf_get_u64(gguf, "general.name", 1, &v, &err), BASE_INVALID, &err);
    CHECK_RC(eng_gguf_get_u64(gguf, "nothing", 1, &v, &err), BASE_NOT_FOUND, &err);
    CHECK_RC(eng_gguf_get_str(gguf, "general.name", &s, &err), BASE_OK, &err);
    CHECK(s.n == 6 && memcmp(s.p, "random", 6) == 0);
    CHECK_RC(eng_gguf_get_bool(gguf, "flag", &b, &err), BASE_OK, &err);
    CHECK(b);
    t = eng_gguf_tensor(gguf, "blk.1.ffn_down.weight");
    CHECK(t != NULL && t->type == ENG_Q8_0 && t->dims[0] == 64 && t->dims[1] == 32 &&
          t->n_bytes == 32 * 2 * 34);
    CHECK(eng_gguf_tensor(gguf, "blk.2.ffn_down.weight") == NULL);
    eng_gguf_free(gguf);
    free(file);
    gw_free(&w);
}

static void test_eng_gguf_parse__truncated_everywhere(void)
{
    struct gw w;
    size_t len;

    good_writer(&w);
    uint8_t *file = gw_finish(&w, &len);
    for (size_t cut = 0; cut < len; cut += cut < 4096 ? 1 : 97) {
        uint8_t *copy =
            aligned_alloc(64, (cut + 64) / 64 * 64 + 64); /* the sanitizer sees reads past the end */
        uint8_t *exact = copy + ((cut + 64) / 64 * 64 + 64 - cut) / 8 * 8;

        if (exact + cut > copy + (cut + 64) / 64 * 64 + 64)
            exact -= 8;
        memcpy(exact, file, cut);
        CHECK(load_bytes(exact, cut) != BASE_OK);
        free(copy);
    }
    CHECK_RC(load_bytes(file, len), BASE_OK, &err);
    free(file);
    gw_free(&w);
}

/* Every byte of the directory set to several values: any result but a crash, and no sanitizer report. */
static void test_eng_gguf_parse__flipped_bytes(void)
{
    static const uint8_t values[] = {0x00, 0xff, 0x7f, 0x80, 0x01};
    struct gw w;
    size_t len, directory;
    unsigned n_ok = 0, n_bad = 0;

    good_writer(&w);
    uint8_t *file = gw_finish(&w, &len);
    directory = 24 + w.kv.len + w.infos.len;
    for (size_t at = 0; at < directory; at++) {
        uint8_t was = file[at];

        for (size_t v = 0; v < BASE_ARRAY_LEN(values); v++) {
            file[at] = values[v];
            *(load_bytes(file, len) == BASE_OK ? &n_ok : &n_bad) += 1;
        }
        file[at] = was;
    }
    CHECK(n_bad > n_ok && n_ok > 0); /* values that change nothing, or a model's name */
    CHECK_RC(load_bytes(file, len), BASE_OK, &err);
    free(file);
    gw_free(&w);
}

static void test_eng_gguf_parse__bad_header(void)
{
    static const struct {
        size_t at;
        uint32_t value;
        enum base_code rc;
        const char *says;
    } bad[] = {
        {0, 0x46554746, BASE_INVALID, "GGUF"},        {4, 1, BASE_UNSUPPORTED, "version 1"},
        {4, 4, BASE_UNSUPPORTED, "version 4"},        {4, 0x03000000, BASE_UNSUPPORTED, "big-endian"},
        {8, 0xffffffff, BASE_TOO_LARGE, "tensors"},   {12, 1, BASE_TOO_LARGE, "tensors"},
        {16, 0x7fffffff, BASE_TOO_LARGE, "metadata"}, {20, 0xffffffff, BASE_TOO_LARGE, "metadata"},
        {16, 65536, BASE_INVALID, "too short"},       {8, 65536, BASE_INVALID, "too short"},
    };
    struct gw w;
    size_t len;

    good_writer(&w);
    uint8_t *file = gw_finish(&w, &len);
    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++) {
        uint32_t was;

        memcpy(&was, file + bad[i].at, 4);
        memcpy(file + bad[i].at, &bad[i].value, 4);
        CHECK_RC(load_bytes(file, len), bad[i].rc, &err);
        CHECK(strstr(err.detail, bad[i].says) != NULL);
        memcpy(file + bad[i].at, &was, 4);
    }
    w.version = 2;
    free(file);
    file = gw_finish(&w, &len);
    CHECK_RC(load_bytes(file, len), BASE_OK, &err); /* version 2 is fine */
    free(file);
    gw_free(&w);
}

/* One more key in a good file. */
#define WITH_KEY(expected, says, ...)                                     \
    do {                                                                  \
        struct gw w;                                                      \
        good_writer(&w);                                                  \
        __VA_ARGS__;                                                      \
        CHECK_RC(load_writer(&w), expected, &err);                        \
        CHECK((expected) == BASE_OK || strstr(err.detail, says) != NULL); \
    } while (0)

static void test_eng_gguf_parse__bad_metadata(void)
{
    static char huge[ENG_GGUF_KEY_BYTES_MAX + 2];
    const uint64_t two = 2;

    memset(huge, 'k', sizeof(huge) - 1);
    WITH_KEY(BASE_OK, "", gw_kv_u32(&w, "extra", 1));
    WITH_KEY(BASE_INVALID, "general.name", gw_kv_u32(&w, "general.name", 1)); /* twice */
    WITH_KEY(BASE_INVALID, "type 13", (gw_key(&w, "odd", 13), gw_u32(&w.kv, 0)));
    WITH_KEY(BASE_INVALID, "type 4294967295", (gw_key(&w, "odd", UINT32_MAX), gw_u32(&w.kv, 0)));
    WITH_KEY(BASE_TOO_LARGE, "metadata key number", gw_kv_u32(&w, huge, 1));
    huge[ENG_GGUF_KEY_BYTES_MAX] = '\0';
    WITH_KEY(BASE_OK, "", gw_kv_u32(&w, huge, 1));
    WITH_KEY(BASE_INVALID, "\"\"", gw_kv_u32(&w, "", 1));
    WITH_KEY(BASE_TOO_LARGE, "long.text",
             (gw_key(&w, "long.text", ENG_GGUF_STRING), gw_u64(&w.kv, 1ull << 40)));
    WITH_KEY(BASE_TOO_LARGE, "long.text",
             (gw_key(&w, "long.text", ENG_GGUF_STRING), gw_u64(&w.kv, UINT64_MAX)));
    WITH_KEY(BASE_TOO_LARGE, "list", gw_kv_array(&w, "list", ENG_GGUF_U8, UINT64_MAX, "", 0));
    WITH_KEY(BASE_TOO_LARGE, "list", gw_kv_array(&w, "list", ENG_GGUF_F64, 1ull << 61, "", 0));
    WITH_KEY(BASE_INVALID, "list",
             gw_kv_array(&w, "list", ENG_GGUF_F64, 1u << 24, "", 0)); /* allowed, but not there */
    WITH_KEY(BASE_INVALID, "list", gw_kv_array(&w, "list", 99, 1, "", 0));
    WITH_KEY(BASE_UNSUPPORTED, "list", gw_kv_array(&w, "list", ENG_GGUF_ARRAY, 1, "", 0));
    WITH_KEY(BASE_TOO_LARGE, "list",
             gw_kv_array(&w, "list", ENG_GGUF_STRING, 1u << 20, &two, 8)); /* what follows is no length */
    WITH_KEY(BASE_OK, "", gw_kv_array(&w, "list", ENG_GGUF_STRING, 0, "", 0));
    WITH_KEY(BASE_INVALID, "general.alignment", gw_kv_u32(&w, "general.alignment", 0));
    WITH_KEY(BASE_INVALID, "general.alignment", gw_kv_u32(&w, "general.alignment", 4));
    WITH_KEY(BASE_INVALID, "general.alignment", gw_kv_u32(&w, "general.alignment", 48));
    WITH_KEY(BASE_INVALID, "general.alignment", gw_kv_u32(&w, "general.alignment", 1u << 20));
    WITH_KEY(BASE_INVALID, "general.alignment", gw_kv_str(&w, "general.alignment", "32"));
    WITH_KEY(BASE_OK, "", gw_kv_u32(&w, "general.alignment", 32));
}

/* A file of one tensor told by hand, parsed alone. */
static enum base_code one_tensor(uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset,
                                 size_t data_bytes)
{
    struct gw w;
    struct eng_gguf *gguf = NULL;
    size_t len;
    enum base_code rc;

    gw_init(&w);
    gw_info(&w, "the.tensor", n_dims, dims, type, offset);
    for (size_t i = 0; i < data_bytes; i++)
        base_buf_append_char(&w.data, (char)0xff); /* NaN scales are no error */
    uint8_t *file = gw_finish(&w, &len);
    err = (struct base_err){0};
    rc = eng_gguf_parse(&gguf, file, len, &err);
    if (rc == BASE_OK)
        eng_gguf_free(gguf);
    else
        CHECK(strstr(err.detail, "the.tensor") != NULL);
    free(file);
    gw_free(&w);
    return rc;
}

#define DIMS(...) ((const uint64_t[]){__VA_ARGS__})

static void test_eng_gguf_parse__bad_tensors(void)
{
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, 0, 4 * 68), BASE_OK, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, 0, 4 * 68 - 1), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, 32, 4 * 68), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, 32, 4 * 68 + 32), BASE_OK, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, 1, 4 * 68 + 32), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, UINT64_MAX - 31, 4 * 68), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 4), ENG_Q8_0, 1ull << 62, 4 * 68), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(63, 4), ENG_Q8_0, 0, 4 * 68), BASE_INVALID, &err);
    CHECK_RC(one_tensor(1, DIMS(128), ENG_Q4_K, 0, 144), BASE_INVALID, &err);
    CHECK_RC(one_tensor(1, DIMS(256), ENG_Q4_K, 0, 144), BASE_OK, &err);
    CHECK_RC(one_tensor(0, DIMS(0), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(5, DIMS(1, 1, 1, 1, 1), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(4, DIMS(1, 2, 2, 4), ENG_F32, 0, 64), BASE_OK, &err);
    CHECK_RC(one_tensor(UINT32_MAX, DIMS(1, 1, 1, 1, 1), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(64, 0), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(0, 64), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(1ull << 33, 1ull << 33), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(4, DIMS(1ull << 32, 1ull << 31, 2, 1), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(2, DIMS(UINT64_MAX, UINT64_MAX), ENG_F32, 0, 64), BASE_INVALID, &err);
    CHECK_RC(one_tensor(1, DIMS(256), 10, 0, 84), BASE_UNSUPPORTED, &err); /* Q2_K: known, not done */
    CHECK(strstr(err.detail, "Q2_K") != NULL);
    CHECK_RC(one_tensor(1, DIMS(256), 4, 0, 4096), BASE_UNSUPPORTED, &err); /* a number that GGML gave up */
    CHECK_RC(one_tensor(1, DIMS(256), 1000000, 0, 4096), BASE_UNSUPPORTED, &err);
}

static void test_eng_gguf_parse__overlap_and_duplicates(void)
{
    const uint64_t dims[] = {16};

    for (int kind = 0; kind < 3; kind++) {
        struct eng_gguf *gguf = NULL;
        struct gw w;
        size_t len;

        gw_init(&w);
        gw_info(&w, "first", 1, dims, ENG_F32, 0);
        gw_info(&w, kind == 1 ? "first" : "second", 1, dims, ENG_F32, kind == 0 ? 32 : 64);
        for (int i = 0; i < 128; i++)
            base_buf_append_char(&w.data, 0);
        uint8_t *file = gw_finish(&w, &len);
        if (kind == 2)
            CHECK_RC(eng_gguf_parse(&gguf, file, len, &err), BASE_OK, &err);
        else {
            CHECK_RC(eng_gguf_parse(&gguf, file, len, &err), BASE_INVALID, &err);
            CHECK(strstr(err.detail, kind == 0 ? "overlap" : "twice") != NULL);
        }
        eng_gguf_free(gguf);
        free(file);
        gw_free(&w);
    }
}

/* A good file whose model is changed before it is written. */
static enum base_code load_changed(struct gw_model m)
{
    struct gw w;

    gw_init(&w);
    gw_put_model(&w, &m, 1);
    return load_writer(&w);
}

#define CHANGED(field, value)       \
    ({                              \
        struct gw_model m_ = small; \
        m_.field = (value);         \
        m_;                         \
    })

static void test_eng_model_load__bad_shapes(void)
{
    CHECK_RC(load_changed(small), BASE_OK, &err);
    CHECK_RC(load_changed(CHANGED(arch, "gpt5")), BASE_UNSUPPORTED, &err);
    CHECK_RC(load_changed(CHANGED(arch, "qwen2")), BASE_INVALID, &err); /* no biases */
    CHECK(strstr(err.detail, "attn_q.bias") != NULL);
    CHECK_RC(load_changed(
                 (struct gw_model){"qwen2", 2, 32, 64, 2, 1, 16, 16, 40, 64, ENG_Q8_0, ENG_F16, true, true}),
             BASE_OK, &err);
    CHECK_RC(load_changed(CHANGED(biases, true)), BASE_OK, &err);
    CHECK_RC(load_changed(CHANGED(tied, true)), BASE_OK, &err);
    CHECK_RC(load_changed(
                 (struct gw_model){"llama", 2, 32, 64, 3, 2, 16, 16, 40, 64, ENG_F32, ENG_F16, false, false}),
             BASE_INVALID, &err);
    CHECK_RC(load_changed(CHANGED(rope_dim, 15)), BASE_INVALID, &err);
    CHECK_RC(load_changed(CHANGED(rope_dim, 18)), BASE_INVALID, &err);
    CHECK_RC(load_changed(CHANGED(rope_dim, 8)), BASE_OK, &err);
    CHECK_RC(load_changed(
                 (struct gw_model){"llama", 1, 32, 64, 2, 1, 15, 14, 40, 64, ENG_F32, ENG_F16, false, false}),
             BASE_INVALID, &err);
    CHECK_RC(load_changed(CHANGED(n_layers, 1)), BASE_OK, &err);
    WITH_KEY(BASE_UNSUPPORTED, "experts", gw_kv_u32(&w, "llama.expert_count", 8));
    WITH_KEY(BASE_UNSUPPORTED, "longrope", gw_kv_str(&w, "llama.rope.scaling.type", "longrope"));
    WITH_KEY(
        BASE_OK, "",
        (gw_kv_str(&w, "llama.rope.scaling.type", "linear"), gw_kv_f32(&w, "llama.rope.scaling.factor", 4)));
    WITH_KEY(
        BASE_INVALID, "factor",
        (gw_kv_str(&w, "llama.rope.scaling.type", "linear"), gw_kv_f32(&w, "llama.rope.scaling.factor", 0)));
    WITH_KEY(BASE_INVALID, "freq_base", gw_kv_f32(&w, "llama.rope.freq_base", (float)(0.0 / 0.0)));
    WITH_KEY(BASE_INVALID, "freq_base", gw_kv_f32(&w, "llama.rope.freq_base", -1));
    WITH_KEY(BASE_UNSUPPORTED, "tensors",
             gw_random_tensor(&w, "blk.0.attn_q_norm.weight", 0, 16, ENG_F32, 1, 0, &(uint64_t){1}));
    WITH_KEY(BASE_INVALID, "rope_freqs",
             gw_random_tensor(&w, "rope_freqs.weight", 0, 9, ENG_F32, 1, 0, &(uint64_t){1}));
}

/* Tensors that do not fit the configuration, each named. */
static void test_eng_model_load__tensor_missing_or_misshapen(void)
{
    static const char *const names[] = {
        "token_embd.weight",   "output_norm.weight",    "blk.0.attn_norm.weight",   "blk.1.attn_q.weight",
        "blk.0.attn_k.weight", "blk.0.attn_v.weight",   "blk.0.attn_output.weight", "blk.1.ffn_gate.weight",
        "blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "blk.1.ffn_norm.weight"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(names); i++) {
        for (int kind = 0; kind < 2; kind++) {
            struct gw w;
            size_t len, n = strlen(names[i]);
            uint8_t *file, *at;

            good_writer(&w);
            file = gw_finish(&w, &len);
            at = memmem(file, len, names[i], n);
            CHECK(at != NULL);
            if (kind == 0)
                at[0] ^= 1; /* another name: missing */
            else
                at[n + 4] /= 2; /* half the columns */
            CHECK(load_bytes(file, len) != BASE_OK);
            if (kind == 0)
                CHECK(strstr(err.detail, names[i]) != NULL);
            free(file);
            gw_free(&w);
        }
    }
}

static void put_tokens(struct gw *w, uint64_t n)
{
    gw_key(w, "tokenizer.ggml.tokens", ENG_GGUF_ARRAY);
    gw_u32(&w->kv, ENG_GGUF_STRING);
    gw_u64(&w->kv, n);
    for (uint64_t i = 0; i < n; i++)
        gw_str(&w->kv, "ab", 2);
}

static void test_eng_model_load__bad_vocabulary(void)
{
    float scores[40] = {0};
    int32_t types[40] = {0};

    WITH_KEY(BASE_OK, "", (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40)));
    WITH_KEY(BASE_INVALID, "tokens", gw_kv_str(&w, "tokenizer.ggml.model", "llama"));
    WITH_KEY(BASE_INVALID, "tokens", (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 41)));
    WITH_KEY(BASE_INVALID, "tokens", (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 0)));
    WITH_KEY(BASE_INVALID, "tokens",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), gw_kv_u32(&w, "tokenizer.ggml.tokens", 3)));
    WITH_KEY(BASE_OK, "", (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 39)));
    WITH_KEY(BASE_OK, "",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40),
              gw_kv_array(&w, "tokenizer.ggml.scores", ENG_GGUF_F32, 40, scores, sizeof(scores)),
              gw_kv_array(&w, "tokenizer.ggml.token_type", ENG_GGUF_I32, 40, types, sizeof(types)),
              gw_kv_u32(&w, "tokenizer.ggml.bos_token_id", 39)));
    WITH_KEY(BASE_INVALID, "scores",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40),
              gw_kv_array(&w, "tokenizer.ggml.scores", ENG_GGUF_F32, 39, scores, sizeof(scores) - 4)));
    WITH_KEY(BASE_INVALID, "token_type",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40),
              gw_kv_array(&w, "tokenizer.ggml.token_type", ENG_GGUF_F32, 40, types, sizeof(types))));
    WITH_KEY(BASE_INVALID, "bos_token_id",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40),
              gw_kv_u32(&w, "tokenizer.ggml.bos_token_id", 40)));
    WITH_KEY(BASE_OK, "",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40),
              gw_kv_u32(&w, "tokenizer.ggml.padding_token_id", UINT32_MAX)));
    WITH_KEY(BASE_INVALID, "add_bos_token",
             (gw_kv_str(&w, "tokenizer.ggml.model", "llama"), put_tokens(&w, 40),
              gw_kv_u32(&w, "tokenizer.ggml.add_bos_token", 1)));
}

/* What a mapping would answer with SIGBUS. */
static void test_eng_gguf_read__file_cut_short_while_open(void)
{
    char path[] = "/tmp/gguf-test-XXXXXX";
    int fd = mkstemp(path);
    const struct eng_gguf_tensor *t;
    struct eng_gguf *gguf = NULL, *whole = NULL;
    uint8_t from_file[4096], from_memory[4096];
    struct eng_str s;
    struct gw w;
    size_t len;

    CHECK(fd >= 0);
    good_writer(&w);
    auto_free uint8_t *file = gw_finish(&w, &len);
    CHECK(write(fd, file, len) == (ssize_t)len);
    CHECK_RC(eng_gguf_open(&gguf, path, &err), BASE_OK, &err);
    CHECK_RC(eng_gguf_parse(&whole, file, len, &err), BASE_OK, &err);
    for (size_t i = 0; i < eng_gguf_n_tensors(gguf); i++) {
        t = eng_gguf_tensor_at(gguf, i);
        CHECK(t->n_bytes <= sizeof(from_file));
        CHECK_RC(eng_gguf_read(gguf, t, from_file, &err), BASE_OK, &err);
        CHECK_RC(eng_gguf_read(whole, eng_gguf_tensor_at(whole, i), from_memory, &err), BASE_OK, &err);
        CHECK(memcmp(from_file, from_memory, t->n_bytes) == 0);
    }
    CHECK(ftruncate(fd, 1) == 0);
    t = eng_gguf_tensor_at(gguf, eng_gguf_n_tensors(gguf) - 1);
    CHECK_RC(eng_gguf_read(gguf, t, from_file, &err), BASE_CORRUPT, &err);
    CHECK(strstr(err.detail, "cut short") != NULL);
    CHECK_RC(eng_gguf_get_str(gguf, "general.architecture", &s, &err), BASE_OK,
             &err); /* the directory stays */
    eng_gguf_close_file(gguf);
    CHECK_RC(eng_gguf_read(gguf, t, from_file, &err), BASE_UNAVAILABLE, &err);
    eng_gguf_free(gguf);
    eng_gguf_free(whole);
    close(fd);
    unlink(path);
    gw_free(&w);
}

static void test_eng_gguf_open__files(void)
{
    char path[] = "/tmp/gguf-test-XXXXXX";
    int fd = mkstemp(path);
    struct eng_gguf *gguf = NULL;
    struct gw w;
    size_t len;

    CHECK(fd >= 0);
    good_writer(&w);
    uint8_t *file = gw_finish(&w, &len);
    CHECK_RC(eng_gguf_open(&gguf, path, &err), BASE_INVALID, &err); /* empty */
    CHECK(write(fd, file, len) == (ssize_t)len);
    CHECK_RC(eng_gguf_open(&gguf, path, &err), BASE_OK, &err);
    CHECK_INT(eng_gguf_file_bytes(gguf), len);
    eng_gguf_free(gguf);
    gguf = NULL;
    CHECK(ftruncate(fd, (off_t)len - 100) == 0);
    CHECK_RC(eng_gguf_open(&gguf, path, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, path) != NULL);
    CHECK_RC(eng_gguf_open(&gguf, "/tmp", &err), BASE_INVALID, &err);
    CHECK_RC(eng_gguf_open(&gguf, "/nonexistent", &err), BASE_NOT_FOUND, &err);
    CHECK(gguf == NULL);
    close(fd);
    unlink(path);
    free(file);
    gw_free(&w);
}

static const struct tap_case cases[] = {
    CASE(test_eng_gguf_parse__good_file),
    CASE(test_eng_gguf_parse__truncated_everywhere),
    CASE(test_eng_gguf_parse__flipped_bytes),
    CASE(test_eng_gguf_parse__bad_header),
    CASE(test_eng_gguf_parse__bad_metadata),
    CASE(test_eng_gguf_parse__bad_tensors),
    CASE(test_eng_gguf_parse__overlap_and_duplicates),
    CASE(test_eng_model_load__bad_shapes),
    CASE(test_eng_model_load__tensor_missing_or_misshapen),
    CASE(test_eng_model_load__bad_vocabulary),
    CASE(test_eng_gguf_open__files),
    CASE(test_eng_gguf_read__file_cut_short_while_open),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
