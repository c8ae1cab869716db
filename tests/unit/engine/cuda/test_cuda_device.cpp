/* device.cu through its table, over the emulator: memory to the byte, pages, one small layer, and every call of the runtime that can be
 * refused. Each failure has its twin: the same without the fault. */
#include "engine/cuda/device.h"
#include "engine/cuda/launch.h"

extern "C" {
#include "engine/plugin.h"
#include "engine/pool.h"
#include "engine/sampler.h"
}

#include "tap.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern "C" const struct eng_plugin *gatehouse_engine_plugin(void);

enum {
    VOCAB = 48,
    COLS = 32,
    HEADS = 2,
    HEAD_DIM = 64,
    FF = 40,
    TOKENS = 5,
    CONTEXT = 64,
    PAGES = 6,
    LOGITS = 3,
    WEIGHTS = 12
};

/* One layer and what a step needs, by the table alone. */
struct small {
    struct eng_device *dev;
    struct eng_weight *embd, *rope, *norm, *q, *k, *v, *o, *gate, *up, *down, *last, *bias;
    struct eng_buf *x, *scratch, *qb, *kb, *vb, *att, *gb, *ub, *rows, *logits;
    struct eng_kv_store *kv;
};

static const struct eng_kv_shape kv_shape = {1, PAGES, HEADS, 1, HEAD_DIM, ENG_F16};
static uint32_t random_state;
static unsigned n_threads = 1;

static float uniform(void)
{
    random_state = random_state * 1664525 + 1013904223;
    return (float)(random_state >> 8) / 8388608.0f - 1;
}

static struct eng_weight_data matrix(uint32_t rows, uint32_t cols, unsigned uses)
{
    static uint16_t values[128 * 128];

    for (uint32_t i = 0; i < rows * cols; i++)
        values[i] = eng_f32_to_f16(uniform() * 0.3f);
    return eng_weight_data{ENG_F16, rows, cols, uses, ENG_SPLIT_NONE, values};
}

static struct eng_weight_data vector(uint32_t cols)
{
    static float values[CONTEXT * HEAD_DIM];

    for (uint32_t i = 0; i < cols; i++)
        values[i] = 0.5f + uniform() * 0.5f;
    return eng_weight_data{ENG_F32, 0, cols, 0, ENG_SPLIT_NONE, values};
}

static struct eng_device_options options(uint64_t reserve_bytes)
{
    struct eng_device_options o = {};

    o.n_threads = n_threads;
    o.reserve_bytes = reserve_bytes;
    o.max_tokens = TOKENS;
    o.max_context = CONTEXT;
    o.max_sequences = 2;
    o.max_logits = LOGITS;
    o.max_rows = o.max_cols = HEADS * HEAD_DIM;
    o.n_vocab = VOCAB;
    o.n_heads = HEADS;
    o.head_dim = HEAD_DIM;
    return o;
}

/* What the small layer takes. */
struct part {
    struct eng_weight *small::*at;
    uint32_t rows, cols;
    unsigned uses;
};
static const struct part parts[WEIGHTS] = {
    {&small::embd, VOCAB, COLS, ENG_USE_ROWS | ENG_USE_MATMUL},
    {&small::rope, 0, CONTEXT *HEAD_DIM, 0},
    {&small::norm, 0, COLS, 0},
    {&small::q, HEADS *HEAD_DIM, COLS, ENG_USE_MATMUL},
    {&small::k, HEAD_DIM, COLS, ENG_USE_MATMUL},
    {&small::v, HEAD_DIM, COLS, ENG_USE_MATMUL},
    {&small::o, COLS, HEADS *HEAD_DIM, ENG_USE_MATMUL},
    {&small::gate, FF, COLS, ENG_USE_MATMUL},
    {&small::up, FF, COLS, ENG_USE_MATMUL},
    {&small::down, COLS, FF, ENG_USE_MATMUL},
    {&small::last, 0, COLS, 0},
    {&small::bias, 0, FF, 0},
};
static const struct {
    struct eng_buf *small::*at;
    size_t n;
} bufs[] = {
    {&small::x, TOKENS *COLS},       {&small::scratch, TOKENS *COLS}, {&small::qb, TOKENS *HEADS *HEAD_DIM},
    {&small::kb, TOKENS *HEAD_DIM},  {&small::vb, TOKENS *HEAD_DIM},  {&small::att, TOKENS *HEADS *HEAD_DIM},
    {&small::gb, TOKENS *FF},        {&small::ub, TOKENS *FF},        {&small::rows, LOGITS *COLS},
    {&small::logits, LOGITS *VOCAB},
};
#define N_BUFS (sizeof(bufs) / sizeof(bufs[0]))

static struct eng_weight_data data_of(const struct part *p)
{
    return p->rows == 0 ? vector(p->cols) : matrix(p->rows, p->cols, p->uses);
}

static uint64_t all_bytes(void)
{
    struct eng_device_options o = options(0);
    uint64_t bytes = gpu_ops.open_bytes(&o) + gpu_ops.kv_page_bytes(&kv_shape) * PAGES;

    for (unsigned i = 0; i < WEIGHTS; i++) {
        struct eng_weight_data data = data_of(&parts[i]);

        data.data = NULL;
        bytes += gpu_ops.weight_bytes(&data);
    }
    for (size_t i = 0; i < N_BUFS; i++)
        bytes += gpu_ops.buf_bytes(bufs[i].n);
    return bytes;
}

static void close_small(struct small *s)
{
    for (unsigned i = 0; i < WEIGHTS; i++)
        gpu_ops.weight_free(s->dev, s->*parts[i].at);
    for (size_t i = 0; i < N_BUFS; i++)
        gpu_ops.buf_free(s->dev, s->*bufs[i].at);
    gpu_ops.kv_free(s->dev, s->kv);
    gpu_ops.close(s->dev);
    *s = small{};
}

static enum base_code open_small(struct small *s, uint64_t bytes, struct base_err *err)
{
    struct eng_device_options o = options(bytes);
    enum base_code rc;

    *s = small{};
    random_state = 1;
    rc = gpu_ops.open(&s->dev, &o, err);
    if (rc != BASE_OK)
        return rc;
    for (unsigned i = 0; rc == BASE_OK && i < WEIGHTS; i++) {
        struct eng_weight_data data = data_of(&parts[i]);

        rc = gpu_ops.weight_new(s->dev, &data, &(s->*parts[i].at), err);
    }
    for (size_t i = 0; rc == BASE_OK && i < N_BUFS; i++)
        rc = gpu_ops.buf_new(s->dev, bufs[i].n, &(s->*bufs[i].at), err);
    if (rc == BASE_OK)
        rc = gpu_ops.kv_new(s->dev, &kv_shape, &s->kv, err);
    if (rc != BASE_OK)
        close_small(s);
    return rc;
}

static struct eng_choice greedy(void)
{
    struct eng_choice c = {};

    c.params.top_p = c.params.repetition_penalty = 1;
    c.n_tokens = VOCAB;
    return c;
}

/* Two sequences in shuffled pages: tokens 14..17 of the first, whose page 0 is 4 and page 1 is 1, and token 0 of the second, in page 3. */
static enum base_code run_step(struct small *s, const struct eng_choice *choices, struct eng_chosen *out,
                               struct base_err *err)
{
    static const int32_t ids[TOKENS] = {3, 47, 0, 9, 21};
    static const uint32_t positions[TOKENS] = {14, 15, 16, 17, 0}, sequences[TOKENS] = {0, 0, 0, 0, 1};
    static const uint32_t pages[] = {4, 1, 3, 0}, logit_rows[LOGITS] = {3, 4, 1};
    const struct eng_step step = {TOKENS, ids, positions, sequences, 2, 2, pages, LOGITS, logit_rows};
    struct eng_attn_in in = {};
    struct eng_attention attention = {s->kv, 0, HEADS, s->qb, s->att};
    struct eng_mlp_in mlp = {};
    struct eng_matmul o = {s->o, NULL, s->x, true}, down = {s->down, NULL, s->x, true},
                      logits = {s->embd, NULL, s->logits, false};
    enum base_code rc;

    in.x = s->x;
    in.norm = mlp.norm = s->norm;
    in.eps = mlp.eps = 1e-5f;
    in.q = eng_matmul{s->q, NULL, s->qb, false};
    in.k = eng_matmul{s->k, NULL, s->kb, false};
    in.v = eng_matmul{s->v, NULL, s->vb, false};
    in.scratch = mlp.scratch = s->scratch;
    in.n_heads = HEADS;
    in.n_kv_heads = 1;
    in.head_dim = in.rope_dim = HEAD_DIM;
    in.rope = s->rope;
    in.kv = s->kv;
    mlp.x = s->x;
    mlp.gate = eng_matmul{s->gate, s->bias, s->gb, false};
    mlp.up = eng_matmul{s->up, NULL, s->ub, false};

    gpu_ops.step_begin(s->dev, &step);
    gpu_ops.embed(s->dev, s->embd, s->x);
    gpu_ops.attn_in(s->dev, &in);
    gpu_ops.attention(s->dev, &attention);
    gpu_ops.matmul(s->dev, s->att, TOKENS, &o, 1);
    gpu_ops.mlp_in(s->dev, &mlp);
    gpu_ops.matmul(s->dev, s->gb, TOKENS, &down, 1);
    gpu_ops.norm_rows(s->dev, s->x, s->last, 1e-5f, s->rows);
    gpu_ops.matmul(s->dev, s->rows, LOGITS, &logits, 1);
    gpu_ops.sample(s->dev, s->logits, choices);
    rc = gpu_ops.finish(s->dev, err);
    if (rc == BASE_OK)
        gpu_ops.chosen_read(s->dev, out);
    return rc;
}

static enum base_code run_greedy(struct small *s, struct eng_chosen *out, struct base_err *err)
{
    const struct eng_choice choices[LOGITS] = {greedy(), greedy(), greedy()};

    return run_step(s, choices, out, err);
}

static size_t free_bytes(void)
{
    size_t now = 0, total;

    cudaMemGetInfo(&now, &total);
    return now;
}

static uint64_t mono_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void need_small(struct small *s)
{
    struct base_err err;

    gpu_emulate_fault("", 0);
    CHECK_RC(open_small(s, all_bytes(), &err), BASE_OK, &err);
}

/* ---- memory ---- */

static void test_memory__is_what_was_counted(void)
{
    size_t before = free_bytes();
    struct base_err err;
    struct eng_buf *more = NULL;
    struct small s;

    need_small(&s);
    CHECK_INT(before - free_bytes(), all_bytes());
    CHECK_RC(gpu_ops.buf_new(s.dev, 1, &more, &err), BASE_NO_MEMORY, &err);
    CHECK(strstr(err.detail, "4 bytes wanted, 0 of ") != NULL &&
          strstr(err.detail, "emulated device") != NULL);
    close_small(&s);
    CHECK_INT(free_bytes(), before);
    CHECK_RC(open_small(&s, all_bytes() - 1, &err), BASE_NO_MEMORY, &err);
    CHECK_INT(free_bytes(), before);
    CHECK_RC(open_small(&s, 100, &err), BASE_NO_MEMORY, &err);
    CHECK_INT(free_bytes(), before);
}

static void test_memory__of_odd_sizes(void)
{
    static const size_t sizes[] = {1, 63, 64, 65, 1000};
    struct eng_device_options o = options(0);
    struct eng_device *dev;
    struct base_err err;
    uint64_t bytes = gpu_ops.open_bytes(&o);

    gpu_emulate_fault("", 0);
    for (size_t n : sizes) {
        CHECK(gpu_ops.buf_bytes(n) >= n * sizeof(float) && gpu_ops.buf_bytes(n) % 256 == 0);
        bytes += gpu_ops.buf_bytes(n);
    }
    for (uint64_t short_of = 0; short_of < 2; short_of++) {
        enum base_code rc = BASE_OK;

        o.reserve_bytes = bytes - short_of;
        CHECK_RC(gpu_ops.open(&dev, &o, &err), BASE_OK, &err);
        for (size_t n : sizes) {
            struct eng_buf *buf = NULL;
            float value = 1;

            rc = gpu_ops.buf_new(dev, n, &buf, &err);
            if (rc != BASE_OK)
                break;
            gpu_ops.buf_read(dev, buf, n - 1, &value, 1);
            CHECK(value == 0); /* wiped, though fresh memory of the emulator is not */
            gpu_ops.buf_free(dev, buf);
        }
        CHECK_INT(rc, short_of == 0 ? BASE_OK : BASE_NO_MEMORY);
        gpu_ops.close(dev);
    }
}

/* All is one block, yet an op that leaves its part is found: here by a buffer that is one number too small. */
__attribute__((unused)) static bool dies_with_buffer_of(size_t n)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        struct eng_chosen out[LOGITS];
        struct base_err err;
        struct small s;

        if (freopen("/dev/null", "w", stderr) == NULL || open_small(&s, all_bytes() + 4096, &err) != BASE_OK)
            _exit(0);
        gpu_ops.buf_free(s.dev, s.ub);
        if (gpu_ops.buf_new(s.dev, n, &s.ub, &err) != BASE_OK || run_greedy(&s, out, &err) != BASE_OK)
            _exit(0);
        _exit(7);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

static void test_memory__is_left_by_no_op(void)
{
#if defined(__SANITIZE_ADDRESS__)
    gpu_emulate_fault("", 0);
    CHECK(dies_with_buffer_of(TOKENS * FF - 1));
    CHECK(!dies_with_buffer_of(TOKENS * FF));
#else
    SKIP("AddressSanitizer is not in this build");
#endif
}

/* ---- pages ---- */

static void test_pages__written_where_the_table_says_and_wiped(void)
{
    static const bool touched[PAGES] = {false, true, false, true, true, false};
    struct eng_chosen out[LOGITS];
    struct base_err err;
    struct small s;

    need_small(&s);
    for (uint32_t p = 0; p < PAGES; p++)
        CHECK(gpu_ops.kv_is_wiped(s.dev, s.kv, p));
    CHECK_RC(run_greedy(&s, out, &err), BASE_OK, &err);
    for (uint32_t p = 0; p < PAGES; p++)
        CHECK_INT(gpu_ops.kv_is_wiped(s.dev, s.kv, p), !touched[p]);
    gpu_ops.kv_wipe(s.dev, s.kv, 1);
    CHECK(gpu_ops.kv_is_wiped(s.dev, s.kv, 1) && !gpu_ops.kv_is_wiped(s.dev, s.kv, 3) &&
          !gpu_ops.kv_is_wiped(s.dev, s.kv, 4));
    close_small(&s);
}

/* ---- choices ---- */

/* Masks and penalties of several rows travel in one copy: each row must get its own. */
static void test_sample__each_row_its_own_mask_and_penalties(void)
{
    struct eng_penalty penalties[2][2] = {{{0, 3}, {0, 0}}, {{0, 1}, {5, 2}}};
    uint32_t masks[2][2] = {{0xffffffff, 0xffff}, {0, 1u << (40 - 32)}};
    struct eng_choice choices[LOGITS] = {greedy(), greedy(), greedy()};
    struct eng_chosen plain[LOGITS], out[LOGITS];
    struct base_err err;
    struct small s;

    need_small(&s);
    for (struct eng_choice &c : choices)
        c.n_top = 2;
    CHECK_RC(run_step(&s, choices, plain, &err), BASE_OK, &err);
    for (const struct eng_chosen &c : plain) {
        CHECK(c.id >= 0 && c.id < VOCAB && c.id == c.top_ids[0] && c.top_ids[1] != c.id);
        CHECK(isfinite(c.logprob) && c.logprob <= 0 && c.top_logprobs[1] <= c.top_logprobs[0]);
    }
    penalties[0][0].id = plain[0].id; /* row 0: its best is pushed far down */
    choices[0].params.frequency_penalty = 2;
    choices[0].params.presence_penalty = 2;
    choices[0].penalties = penalties[0];
    choices[0].n_penalties = 1;
    masks[0][(unsigned)plain[1].id / 32] &=
        ~(1u << (unsigned)plain[1].id % 32); /* row 1: its best is masked */
    choices[1].mask = masks[0];
    choices[2].mask = masks[1]; /* row 2: 40 alone, with penalties of others */
    choices[2].penalties = penalties[1];
    choices[2].n_penalties = 2;
    choices[2].params.frequency_penalty = 1;
    CHECK_RC(run_step(&s, choices, out, &err), BASE_OK, &err);
    CHECK_INT(out[0].id, plain[0].top_ids[1]);
    CHECK_INT(out[1].id, plain[1].top_ids[1]);
    CHECK_INT(out[2].id, 40);
    CHECK_RC(run_greedy(&s, out, &err), BASE_OK, &err); /* and nothing of it stays */
    for (int i = 0; i < LOGITS; i++)
        CHECK_INT(out[i].id, plain[i].id);
    close_small(&s);
}

/* ---- loading ---- */

static unsigned tasks(void)
{
    DIR *dir = opendir("/proc/self/task");
    unsigned n = 0;

    while (dir != NULL && readdir(dir) != NULL)
        n++;
    if (dir != NULL)
        closedir(dir);
    return n;
}

/* A sanitizer may start a thread of its own with the first one. */
static unsigned tasks_at_rest(void)
{
    eng_pool_free(eng_pool_new(2));
    return tasks();
}

/* A thread that was joined may be in the list for a moment. */
static bool tasks_fall_to(unsigned n)
{
    for (int i = 0; i < 2000 && tasks() > n; i++)
        usleep(5000);
    return tasks() <= n;
}

enum { LARGE_ROWS = 160, LARGE_COLS = 20480 }; /* 6.6 MB: four pieces, cut inside of rows of tiles */

struct large {
    struct eng_device *dev;
    struct eng_weight *w, *after;
    struct eng_buf *x;
    struct eng_kv_store *kv;
    uint16_t *values;
    float *values_after;
};

static void close_large(struct large *s)
{
    gpu_ops.weight_free(s->dev, s->w);
    gpu_ops.weight_free(s->dev, s->after);
    gpu_ops.buf_free(s->dev, s->x);
    gpu_ops.kv_free(s->dev, s->kv);
    gpu_ops.close(s->dev);
    free(s->values);
    free(s->values_after);
}

/* A matrix of several pieces, and a small one right behind it. */
static enum base_code open_large(struct large *s, struct base_err *err)
{
    struct eng_weight_data data = {ENG_F16, LARGE_ROWS, LARGE_COLS, ENG_USE_ROWS, ENG_SPLIT_NONE, NULL};
    struct eng_weight_data after = {ENG_F32, 16, LARGE_COLS, ENG_USE_ROWS, ENG_SPLIT_NONE, NULL};
    struct eng_device_options o = options(0);
    enum base_code rc;

    *s = large{};
    s->values = (uint16_t *)malloc(sizeof(uint16_t) * LARGE_ROWS * LARGE_COLS);
    s->values_after = (float *)malloc(sizeof(float) * 16 * LARGE_COLS);
    for (uint32_t i = 0; i < LARGE_ROWS * LARGE_COLS; i++)
        s->values[i] = (uint16_t)((i * 2654435761u >> 8) & 0xbbff); /* no infinities */
    for (uint32_t i = 0; i < 16 * LARGE_COLS; i++)
        s->values_after[i] = (float)i;
    o.max_cols = LARGE_COLS;
    o.reserve_bytes = gpu_ops.open_bytes(&o) + gpu_ops.weight_bytes(&data) + gpu_ops.weight_bytes(&after) +
                      gpu_ops.buf_bytes(TOKENS * LARGE_COLS) + gpu_ops.kv_page_bytes(&kv_shape) * PAGES;
    data.data = s->values;
    after.data = s->values_after;
    if ((rc = gpu_ops.open(&s->dev, &o, err)) == BASE_OK &&
        (rc = gpu_ops.weight_new(s->dev, &data, &s->w, err)) == BASE_OK) {
        memset(s->values, 0, 4096); /* the caller's again: it is not read any more */
        rc = gpu_ops.weight_new(s->dev, &after, &s->after, err);
        for (uint32_t i = 0; i < 2048; i++)
            s->values[i] = (uint16_t)((i * 2654435761u >> 8) & 0xbbff);
    }
    if (rc == BASE_OK)
        rc = gpu_ops.buf_new(s->dev, TOKENS * LARGE_COLS, &s->x, err);
    if (rc == BASE_OK)
        rc = gpu_ops.kv_new(s->dev, &kv_shape, &s->kv, err);
    if (rc != BASE_OK)
        close_large(s);
    return rc;
}

/* Rows `first` and each third further, as the device has them. */
static void check_rows(struct large *s, const struct eng_weight *w, uint32_t n_rows, uint32_t first)
{
    static const uint32_t positions[TOKENS] = {0, 0, 0, 0, 0}, sequences[TOKENS] = {0, 0, 0, 0, 0}, page = 0,
                          row = 0;
    float *got = (float *)malloc(sizeof(float) * TOKENS * LARGE_COLS);
    int32_t ids[TOKENS];
    struct eng_step step = {TOKENS, ids, positions, sequences, 1, 1, &page, 1, &row};
    struct base_err err;

    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)((first + 3 * i) % n_rows);
    gpu_ops.step_begin(s->dev, &step);
    gpu_ops.embed(s->dev, w, s->x);
    CHECK_RC(gpu_ops.finish(s->dev, &err), BASE_OK, &err);
    gpu_ops.buf_read(s->dev, s->x, 0, got, TOKENS * LARGE_COLS);
    for (uint32_t i = 0; i < TOKENS; i++) {
        uint32_t wrong = 0;

        for (uint32_t c = 0; c < LARGE_COLS; c++) {
            size_t at = (size_t)ids[i] * LARGE_COLS + c;
            float want = w == s->w ? eng_f16_to_f32(s->values[at]) : s->values_after[at];

            wrong += memcmp(&want, &got[i * LARGE_COLS + c], sizeof(want)) != 0;
        }
        CHECK_INT(wrong, 0);
    }
    free(got);
}

static void test_load__of_many_pieces_by_threads_that_end(void)
{
    unsigned loading;
    struct base_err err;
    struct large s;

    gpu_emulate_fault("", 0);
    n_threads = 3;
    CHECK_RC(open_large(&s, &err), BASE_OK, &err);
    loading = tasks();
    CHECK_INT(gpu_emulate_most_late(), 2); /* one piece is packed while others are copied */
    check_rows(&s, s.w, LARGE_ROWS, 0);
    CHECK(tasks_fall_to(loading - 2)); /* those of loading end */
    for (uint32_t first = 15; first < LARGE_ROWS; first += 15)
        check_rows(&s, s.w, LARGE_ROWS, first);
    check_rows(&s, s.after, 16, 0);
    close_large(&s);
    n_threads = 384; /* a machine's cores: loading takes some of them */
    CHECK_RC(open_large(&s, &err), BASE_OK, &err);
    CHECK_INT(tasks(), loading - 2 + 7);
    check_rows(&s, s.w, LARGE_ROWS, 0);
    close_large(&s);
    n_threads = 1;
}

/* Units of 2176 bytes leave a rest of the part: zeros, though the stage held something else. */
static void test_load__ends_in_zeros(void)
{
    static const uint8_t block[34] = {1, 2, 3};
    struct eng_weight_data full = matrix(64, 64, ENG_USE_MATMUL),
                           data = {ENG_Q8_0, 1, 32, ENG_USE_MATMUL, ENG_SPLIT_NONE, block};
    struct eng_device_options o = options(0);
    struct eng_weight *weights[3] = {};
    struct eng_kv_store *kv = NULL;
    struct eng_device *dev;
    struct base_err err;
    const struct gpu_weight *w;

    gpu_emulate_fault("", 0);
    o.reserve_bytes = gpu_ops.open_bytes(&o) + 2 * gpu_ops.weight_bytes(&full) + gpu_ops.weight_bytes(&data) +
                      gpu_ops.kv_page_bytes(&kv_shape) * PAGES;
    CHECK_RC(gpu_ops.open(&dev, &o, &err), BASE_OK, &err);
    CHECK_RC(gpu_ops.weight_new(dev, &full, &weights[0], &err), BASE_OK, &err);
    CHECK_RC(gpu_ops.weight_new(dev, &full, &weights[1], &err), BASE_OK, &err);
    CHECK_RC(gpu_ops.weight_new(dev, &data, &weights[2], &err), BASE_OK, &err);
    CHECK_RC(gpu_ops.kv_new(dev, &kv_shape, &kv, &err), BASE_OK, &err); /* all copies are done */
    w = (const struct gpu_weight *)weights[2];
    CHECK(w->type == ENG_Q8_0 && w->bytes == 2304 && w->data[2048] == 1);
    for (unsigned i = 2176; i < 2304; i++)
        CHECK_INT(w->data[i], 0);
    for (struct eng_weight *one : weights)
        gpu_ops.weight_free(dev, one);
    gpu_ops.kv_free(dev, kv);
    gpu_ops.close(dev);
}

/* Whatever happens to the n-th copy: an error in words, no thread that stays, no wait for what never ends. */
static void test_load__ends_where_the_device_does(void)
{
    static const char *const faults[] = {"copy", "copy-loss", "copy-hang", "record"};
    unsigned before = tasks_at_rest(), n;
    struct base_err err;
    struct large s;

    n_threads = 2;
    gpu_set_watchdog(50);
    for (const char *fault : faults) {
        for (n = 0; n < 20; n++) {
            uint64_t begin = mono_ms();
            enum base_code rc;

            gpu_emulate_fault(fault, n);
            rc = open_large(&s, &err);
            if (rc == BASE_OK)
                break;
            CHECK_INT(rc, BASE_UNAVAILABLE);
            CHECK(strncmp(err.detail, "cuda:0 emulated device: ", 24) == 0);
            CHECK(strstr(err.detail, "upload") != NULL || strstr(err.detail, "wipe of") != NULL ||
                  strstr(err.detail, "first kernel") != NULL);
            CHECK((strstr(err.detail, "no answer for 50 ms") != NULL) == (strcmp(fault, "copy-hang") == 0));
            CHECK(tasks_fall_to(before));
            CHECK(mono_ms() - begin < 20000);
        }
        CHECK_INT(n, strcmp(fault, "record") == 0 ? 7 : 5); /* a wait of open, one of kv_new; 5 pieces */
        gpu_emulate_fault("", 0);
        close_large(&s);
    }
    gpu_set_watchdog(30000);
    CHECK_RC(open_large(&s, &err), BASE_OK, &err); /* the twin */
    check_rows(&s, s.w, LARGE_ROWS, 100);
    close_large(&s);
    n_threads = 1;
}

/* ---- failures ---- */

/* The n-th launch of a step fails, for every n: the error names op, shape and device, and stays. */
static void test_loss__every_launch_names_its_op(void)
{
    static const char *const ops[] = {"embed [5, 32]",
                                      "attn_in norm [5, 32]",
                                      "attn_in matmul [5, 32] x [128, 32] F16",
                                      "attn_in place [5, 2 + 2 x 1, 64]",
                                      "attention [5, 2 / 1, 64]",
                                      "matmul [5, 128] x [32, 128] F16",
                                      "mlp_in norm [5, 32]",
                                      "mlp_in matmul [5, 32] x [40, 32] F16",
                                      "mlp_in silu [5, 40]",
                                      "matmul [5, 40] x [32, 40] F16",
                                      "norm_rows [3, 32]",
                                      "matmul [3, 32] x [48, 32] F16",
                                      "sample [3, 48]"};
    const unsigned n_ops = sizeof(ops) / sizeof(ops[0]);
    unsigned op = 0, begin, n_launches;
    struct eng_chosen out[LOGITS];
    struct base_err err;
    struct small s;

    need_small(&s);
    begin = gpu_emulate_launches();
    CHECK_RC(run_greedy(&s, out, &err), BASE_OK, &err);
    n_launches = gpu_emulate_launches() - begin;
    close_small(&s);
    CHECK(n_launches >= n_ops);
    for (unsigned i = 0; i < n_launches; i++) {
        char device_first[] = "cuda:0 emulated device: ";

        need_small(&s);
        gpu_emulate_fault("launch", i);
        CHECK_RC(run_greedy(&s, out, &err), BASE_UNAVAILABLE, &err);
        while (op < n_ops && strstr(err.detail, ops[op]) == NULL)
            op++; /* each in its turn, none left out */
        CHECK(op < n_ops);
        CHECK(strncmp(err.detail, device_first, strlen(device_first)) == 0 &&
              strstr(err.detail, "unspecified launch failure") != NULL);
        if (i == 0)
            CHECK_INT(op, 0);
        close_small(&s);
    }
    CHECK_INT(op, n_ops - 1);
}

/* After the loss: the first error again and again, at once, no launch, no wait; and close leaves the device what it may write. */
static void check_lost(struct small *s, const char *in_detail)
{
    uint64_t begin = mono_ms();
    unsigned launches = gpu_emulate_launches();
    struct eng_chosen out[LOGITS];
    struct base_err err;
    size_t now = free_bytes();
    float value = 7;

    for (int i = 0; i < 3; i++) {
        CHECK_RC(run_greedy(s, out, &err), BASE_UNAVAILABLE, &err);
        CHECK(strstr(err.detail, in_detail) != NULL);
    }
    gpu_ops.kv_wipe(s->dev, s->kv, 0);
    CHECK(!gpu_ops.kv_is_wiped(s->dev, s->kv, 0));
    gpu_ops.buf_read(s->dev, s->x, 0, &value, 1);
    CHECK(value == 0);
    CHECK_INT(gpu_emulate_launches(), launches);
    close_small(s);
    CHECK_INT(free_bytes(), now);
    CHECK(mono_ms() - begin < 1000);
}

static void test_loss__stays_and_nothing_waits(void)
{
    struct eng_chosen out[LOGITS];
    struct base_err err;
    struct small s;

    need_small(&s);
    gpu_emulate_fault("launch", 4);
    CHECK_RC(run_greedy(&s, out, &err), BASE_UNAVAILABLE, &err);
    check_lost(&s, "unspecified launch failure");

    need_small(&s);
    gpu_set_watchdog(200);
    gpu_emulate_fault("hang", 4);
    CHECK_RC(run_greedy(&s, out, &err), BASE_UNAVAILABLE, &err);
    gpu_set_watchdog(60000); /* so that a second wait would show */
    check_lost(&s, "no answer for 200 ms");
    gpu_set_watchdog(30000);

    need_small(&s); /* the twin: a device that came back */
    CHECK_RC(run_greedy(&s, out, &err), BASE_OK, &err);
    close_small(&s);
}

/* A call that the runtime refuses is seen where it happens, or at the next wait at the latest; never taken for done. */
static void test_refusals__no_call_goes_unchecked(void)
{
    struct eng_chosen out[LOGITS], plain[LOGITS];
    struct base_err err;
    struct small s;
    unsigned n;

    need_small(&s);
    CHECK_RC(run_greedy(&s, plain, &err), BASE_OK, &err);
    close_small(&s);
    for (n = 0; n < 100; n++) { /* each upload of open: all or nothing */
        enum base_code rc;

        gpu_emulate_fault("copy", n);
        rc = open_small(&s, all_bytes(), &err);
        if (rc == BASE_OK)
            break;
        CHECK(rc == BASE_UNAVAILABLE && strstr(err.detail, "upload of") != NULL);
    }
    CHECK_INT(n, WEIGHTS);
    close_small(&s);
    for (n = 0; n < 100; n++) { /* each wipe */
        gpu_emulate_fault("set", n);
        if (open_small(&s, all_bytes(), &err) == BASE_OK)
            break;
        CHECK(strstr(err.detail, "wipe of") != NULL);
    }
    CHECK_INT(n, N_BUFS + 1);
    gpu_emulate_fault("set", 0);
    gpu_ops.kv_wipe(s.dev, s.kv, 2);
    CHECK_RC(run_greedy(&s, out, &err), BASE_UNAVAILABLE, &err);
    CHECK(strstr(err.detail, "wipe of page 2") != NULL);
    close_small(&s);
    for (n = 0; n < 100; n++) { /* each copy of a step: arrays, choices, chosen */
        need_small(&s);
        gpu_emulate_fault("copy", n);
        if (run_greedy(&s, out, &err) == BASE_OK)
            break;
        CHECK(strstr(err.detail, n == 0 ? "upload of a step" : "sample [") != NULL);
        close_small(&s);
    }
    CHECK_INT(n, 3);
    for (int i = 0; i < LOGITS; i++)
        CHECK_INT(out[i].id, plain[i].id);
    gpu_emulate_fault("record", 0);
    CHECK_RC(run_greedy(&s, out, &err), BASE_UNAVAILABLE, &err);
    close_small(&s);
}

/* The host's own memory: this step fails, the next one does not. */
static void test_refusals__pinned_memory_fails_one_step(void)
{
    struct eng_chosen out[LOGITS];
    struct base_err err;
    struct small s;

    need_small(&s);
    gpu_emulate_fault("pinned", 0);
    CHECK_RC(run_greedy(&s, out, &err), BASE_NO_MEMORY, &err);
    CHECK(strstr(err.detail, "no pinned memory") != NULL);
    CHECK_RC(run_greedy(&s, out, &err), BASE_OK, &err);
    close_small(&s);
}

static void test_open__refused_without_a_trace(void)
{
    static const struct {
        const char *what, *in_detail;
        enum base_code code;
    } faults[] = {{"malloc", "are needed", BASE_NO_MEMORY},
                  {"pinned", "no pinned memory", BASE_NO_MEMORY},
                  {"record", "first kernel", BASE_UNAVAILABLE},
                  {"launch", "first kernel: unspecified launch failure", BASE_UNAVAILABLE},
                  {"hang", "first kernel: no answer", BASE_UNAVAILABLE}};
    struct eng_chosen out[LOGITS];
    struct eng_device_options o;
    struct base_err err;
    struct small s;
    size_t before = free_bytes();

    gpu_set_watchdog(100);
    for (const auto &f : faults) {
        gpu_emulate_fault(f.what, 0);
        CHECK_RC(open_small(&s, all_bytes(), &err), f.code, &err);
        CHECK(strstr(err.detail, f.in_detail) != NULL);
        gpu_emulate_fault("", 0);
        CHECK_INT(free_bytes(), before);
    }
    gpu_set_watchdog(30000);
    o = options(all_bytes());
    o.index = 1;
    CHECK_RC(gpu_ops.open(&s.dev, &o, &err), BASE_UNAVAILABLE, &err);
    CHECK(strstr(err.detail, "CUDA device 1") != NULL);
    /* No fault in between: what was refused is not held against the next. */
    CHECK_RC(open_small(&s, all_bytes(), &err), BASE_OK, &err);
    CHECK_RC(run_greedy(&s, out, &err), BASE_OK, &err);
    close_small(&s);
}

/* ---- the list ---- */

static void test_devices__leave_the_driver_its_part(void)
{
    const struct eng_plugin *p = gatehouse_engine_plugin();
    struct eng_device_info infos[ENG_DEVICES_MAX];
    struct base_err err;
    unsigned n = 0;

    CHECK(p->abi == ENG_PLUGIN_ABI && p->table_bytes == sizeof(struct eng_ops) && p->ops == &gpu_ops);
    gpu_emulate_fault("", 0);
    CHECK_RC(p->devices(infos, &n, &err), BASE_OK, &err);
    CHECK_INT(n, 1);
    CHECK(infos[0].usable && infos[0].why[0] == '\0' && strstr(infos[0].detail, "9.0") != NULL);
    CHECK_INT(infos[0].free_bytes, free_bytes() - (256u << 20));
    gpu_emulate_fault("taken", 8192 - 100);
    CHECK_RC(p->devices(infos, &n, &err), BASE_OK, &err);
    CHECK_INT(infos[0].free_bytes, 0);
    gpu_emulate_fault("capability", 0);
    CHECK_RC(p->devices(infos, &n, &err), BASE_OK, &err);
    CHECK(!infos[0].usable && strstr(infos[0].why, "8.0 (A100 and later) is needed") != NULL);
    gpu_emulate_fault("", 0);
}

static const struct tap_case cases[] = {
    CASE(test_memory__is_what_was_counted),
    CASE(test_memory__of_odd_sizes),
    CASE(test_memory__is_left_by_no_op),
    CASE(test_pages__written_where_the_table_says_and_wiped),
    CASE(test_sample__each_row_its_own_mask_and_penalties),
    CASE(test_load__of_many_pieces_by_threads_that_end),
    CASE(test_load__ends_in_zeros),
    CASE(test_load__ends_where_the_device_does),
    CASE(test_loss__every_launch_names_its_op),
    CASE(test_loss__stays_and_nothing_waits),
    CASE(test_refusals__no_call_goes_unchecked),
    CASE(test_refusals__pinned_memory_fails_one_step),
    CASE(test_open__refused_without_a_trace),
    CASE(test_devices__leave_the_driver_its_part),
};

int main(int argc, char **argv)
{
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
