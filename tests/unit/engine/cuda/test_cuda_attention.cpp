/* attention.cu against a plain float64 softmax over gathered pages; and that a token's bits are the same alone, among others, in any
 * order, by splits and by windows. Pages are shuffled, what no token may read is NaN, outputs and workspace are poisoned. */
#include "engine/cuda/launch.h"

#include "tap.h"

#include <math.h>
#include <stdlib.h>

enum { SEQUENCES = 8, TOKENS_MAX = 130, PAGES_EACH = 48, CONTEXT = PAGES_EACH * 16 };

static uint64_t random_state = 1;

static double uniform(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(random_state >> 11) * 0x1p-53 * 2 - 1;
}

static void *take(size_t bytes)
{
    void *p = NULL;

    CHECK(posix_memalign(&p, 256, bytes) ==
          0); /* no byte more, so that AddressSanitizer sees what reads past it */
    memset(p, 0xCD, bytes);
    return p;
}

struct shape {
    uint32_t n_heads, n_kv_heads, head_dim;
    enum eng_type type;
};

struct token {
    uint32_t sequence, position;
};

/* A cache whose pages hold keys and values of each sequence up to `lengths`, and the tokens that ask. */
struct world {
    struct shape shape;
    uint32_t lengths[SEQUENCES], table[SEQUENCES * PAGES_EACH], n_tokens;
    struct token tokens[TOKENS_MAX];
    struct gpu_kv_layer kv;
    float *q; /* [n_tokens, n_heads, head_dim] */
};

static size_t value_at(const struct world *w, uint32_t sequence, uint32_t key, uint32_t kv_head, bool is_v,
                       uint32_t i)
{
    uint32_t page = w->table[sequence * PAGES_EACH + key / ENG_PAGE_TOKENS], hd = w->shape.head_dim;
    size_t row =
        ((size_t)(is_v ? w->shape.n_kv_heads : 0) + kv_head) * ENG_PAGE_TOKENS + key % ENG_PAGE_TOKENS;

    return page * w->kv.page_stride + (row * hd + i) * (w->shape.type == ENG_F16 ? 2 : 4);
}

static double value_of(const struct world *w, uint32_t sequence, uint32_t key, uint32_t kv_head, bool is_v,
                       uint32_t i)
{
    const uint8_t *p = w->kv.pages + value_at(w, sequence, key, kv_head, is_v, i);

    return w->shape.type == ENG_F16 ? eng_f16_to_f32(*(const uint16_t *)p) : *(const float *)p;
}

static void add_run(struct world *w, uint32_t sequence, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        w->tokens[w->n_tokens++] = (struct token){sequence, first + i};
    if (w->lengths[sequence] < first + n)
        w->lengths[sequence] = first + n;
}

/* After the runs. `large`: scores reach a few hundred, as they do where a head looks at one key. */
static void fill(struct world *w, struct shape shape, bool large)
{
    size_t size = shape.type == ENG_F16 ? 2 : 4, n_pages = SEQUENCES * PAGES_EACH;
    uint64_t stride = 2 * (size_t)shape.n_kv_heads * ENG_PAGE_TOKENS * shape.head_dim * size + 256;

    w->shape = shape;
    w->kv = (struct gpu_kv_layer){(uint8_t *)take(n_pages * stride), stride, shape.n_kv_heads, shape.head_dim,
                                  shape.type};
    memset(w->kv.pages, 0xff, n_pages * stride); /* NaN */
    for (uint32_t i = 0; i < n_pages; i++)
        w->table[i] = (i * 77 + 5) % (uint32_t)n_pages; /* 77 and the number of pages have no common factor */
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        for (uint32_t key = 0; key < w->lengths[s]; key++) {
            for (uint32_t at = 0; at < 2 * shape.n_kv_heads * shape.head_dim; at++) {
                bool is_v = at >= shape.n_kv_heads * shape.head_dim;
                uint32_t head = at / shape.head_dim % shape.n_kv_heads, i = at % shape.head_dim;
                float v = (float)uniform();
                uint8_t *p = w->kv.pages + value_at(w, s, key, head, is_v, i);

                if (shape.type == ENG_F16)
                    *(uint16_t *)p = eng_f32_to_f16(v);
                else
                    *(float *)p = v;
            }
        }
    }
    w->q = (float *)take((size_t)w->n_tokens * shape.n_heads * shape.head_dim * sizeof(float));
    for (size_t i = 0; i < (size_t)w->n_tokens * shape.n_heads * shape.head_dim; i++)
        w->q[i] = (float)(uniform() * (large ? 60 : 2));
}

static void drop(struct world *w)
{
    free(w->kv.pages);
    free(w->q);
}

/* Runs tokens order[0..n) as one step; out [n, n_heads, head_dim]. */
static void run(const struct world *w, const uint32_t *order, uint32_t n, uint32_t max_context, float *out)
{
    const size_t row = (size_t)w->shape.n_heads * w->shape.head_dim;
    float *q = (float *)take(n * row * sizeof(float)), *result = (float *)take(n * row * sizeof(float));
    uint32_t *positions = (uint32_t *)take(n * 4), *sequences = (uint32_t *)take(n * 4);
    void *workspace =
        take((size_t)gpu_attention_workspace(n, max_context, w->shape.n_heads, w->shape.head_dim));
    struct gpu_step step = {};

    for (uint32_t i = 0; i < n; i++) {
        memcpy(q + i * row, w->q + order[i] * row, row * sizeof(float));
        positions[i] = w->tokens[order[i]].position;
        sequences[i] = w->tokens[order[i]].sequence;
    }
    step.n_tokens = n;
    step.n_sequences = SEQUENCES;
    step.pages_per_sequence = PAGES_EACH;
    step.positions = positions;
    step.sequences = sequences;
    step.page_table = w->table;
    gpu_attention(NULL, q, result, w->shape.n_heads, &w->kv, &step, max_context, workspace);
    memcpy(out, result, n * row * sizeof(float));
    free(q);
    free(result);
    free(positions);
    free(sequences);
    free(workspace);
}

static void reference(const struct world *w, uint32_t token, uint32_t head, bool round_q, double *out)
{
    static double p[CONTEXT];
    uint32_t hd = w->shape.head_dim, n = w->tokens[token].position + 1, s = w->tokens[token].sequence;
    uint32_t kv_head = head / (w->shape.n_heads / w->shape.n_kv_heads);
    const float *q = w->q + ((size_t)token * w->shape.n_heads + head) * hd;
    double max = -INFINITY, sum = 0;

    for (uint32_t k = 0; k < n; k++) {
        p[k] = 0;
        for (uint32_t i = 0; i < hd; i++)
            p[k] += (round_q ? eng_f16_to_f32(eng_f32_to_f16(q[i])) : q[i]) *
                    value_of(w, s, k, kv_head, false, i);
        p[k] /= sqrt(hd);
        max = fmax(max, p[k]);
    }
    for (uint32_t k = 0; k < n; k++)
        sum += p[k] = exp(p[k] - max);
    for (uint32_t i = 0; i < hd; i++) {
        out[i] = 0;
        for (uint32_t k = 0; k < n; k++)
            out[i] += p[k] / sum * value_of(w, s, k, kv_head, true, i);
    }
}

/* Queries are rounded to float16 where the tensor cores compute; what is left is the rounding of probabilities. Values are up to 1. */
static void check_result(const struct world *w, const uint32_t *order, uint32_t n, const float *out)
{
    bool tiles = w->shape.type == ENG_F16 && w->shape.head_dim % 8 == 0 && w->shape.head_dim <= 256;
    double expected[ENG_HEAD_DIM_MAX];

    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t h = 0; h < w->shape.n_heads; h++) {
            reference(w, order[t], h, tiles, expected);
            for (uint32_t i = 0; i < w->shape.head_dim; i++) {
                float got = out[((size_t)t * w->shape.n_heads + h) * w->shape.head_dim + i];

                if (fabs(got - expected[i]) <= (tiles ? 5e-4 : 2e-5))
                    continue;
                printf("# token %u (sequence %u, position %u) head %u [%u] is %.9g, expected %.9g\n", t,
                       w->tokens[order[t]].sequence, w->tokens[order[t]].position, h, i, got, expected[i]);
                tap_fail(__FILE__, __LINE__, "values differ");
            }
        }
    }
}

static void check_same_bits(const struct world *w, uint32_t token, const float *a, const float *b,
                            const char *how)
{
    size_t row = (size_t)w->shape.n_heads * w->shape.head_dim;

    for (size_t i = 0; i < row; i++) {
        if (memcmp(&a[i], &b[i], sizeof(float)) == 0)
            continue;
        printf("# token %u (sequence %u, position %u) head %zu [%zu] is %.9g in the batch, %.9g %s\n", token,
               w->tokens[token].sequence, w->tokens[token].position, i / w->shape.head_dim,
               i % w->shape.head_dim, a[i], b[i], how);
        tap_fail(__FILE__, __LINE__, "bits differ");
    }
}

enum { THOROUGH = 1, LARGE_SCORES = 2 };

/* In the order given, which has windows; each of a few tokens alone. Thorough: also interleaved, where all go by splits or are walked
 * alone; and three places further, where windows are others, under a max_context that moves partial results. */
static void check_world(struct world *w, struct shape shape, unsigned how)
{
    size_t row = (size_t)shape.n_heads * shape.head_dim;
    uint32_t order[TOKENS_MAX], n;
    float *out, *other;

    fill(w, shape, (how & LARGE_SCORES) != 0);
    n = w->n_tokens;
    out = (float *)take(n * row * sizeof(float));
    other = (float *)take(n * row * sizeof(float));
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    run(w, order, n, CONTEXT, out);
    check_result(w, order, n, out);
    for (uint32_t turn = 0; turn < ((how & THOROUGH) != 0 ? 2 : 0); turn++) {
        for (uint32_t i = 0; i < n; i++)
            order[i] = turn == 0 ? (i * 37 + 11) % n : (i + 3) % n; /* no n of ours has the factor 37 */
        run(w, order, n, turn == 0 ? CONTEXT : 3 * CONTEXT, other);
        for (uint32_t i = 0; i < n; i++)
            check_same_bits(w, order[i], out + order[i] * row, other + i * row,
                            turn == 0 ? "interleaved" : "three places further");
    }
    for (uint32_t i = n % 5; i < n; i += 6) {
        run(w, &i, 1, CONTEXT, other);
        check_same_bits(w, i, out + i * row, other, "alone");
    }
    free(out);
    free(other);
    drop(w);
}

/* Windows of 16 whose rows end in different splits, or in different tiles of one; positions at the end of a split; one far on. */
static void check_shape(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, enum eng_type type,
                        unsigned how)
{
    static struct world w;

    w = (struct world){};
    add_run(&w, 2, 249, 16);
    add_run(&w, 5, 55, 16);
    add_run(&w, 2, 0, 2);
    add_run(&w, 0, 255, 1);
    add_run(&w, 1, 256, 1);
    add_run(&w, 3, 257, 1);
    add_run(&w, 4, 600, 1);
    check_world(&w, (struct shape){n_heads, n_kv_heads, head_dim, type}, how);
}

/* Less of the same, for what is slow to emulate. */
static void check_few(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, enum eng_type type)
{
    static struct world w;

    w = (struct world){};
    add_run(&w, 3, 247, 16);
    add_run(&w, 1, 300, 1);
    add_run(&w, 6, 62, 2);
    check_world(&w, (struct shape){n_heads, n_kv_heads, head_dim, type}, 0);
}

static void test_attention__group_of_4(void)
{
    check_shape(4, 1, 64, ENG_F16, THOROUGH);
}

static void test_attention__large_scores(void)
{
    check_shape(4, 1, 64, ENG_F16, LARGE_SCORES);
}

/* 112 rows of a window: two tiles, tokens across both. */
static void test_attention__group_of_7(void)
{
    check_shape(7, 1, 64, ENG_F16, THOROUGH);
}

static void test_attention__heads_of_80_and_96(void)
{
    check_few(4, 1, 80, ENG_F16);
    check_few(6, 2, 96, ENG_F16);
}

static void test_attention__heads_of_128(void)
{
    check_shape(8, 2, 128, ENG_F16, THOROUGH);
}

static void test_attention__heads_of_160_and_256(void)
{
    check_few(4, 1, 160, ENG_F16);
    check_few(4, 1, 256, ENG_F16);
}

/* A window of 64 tokens has a row each; heads smaller than a tile. */
static void test_attention__no_groups(void)
{
    static struct world w;

    w = (struct world){};
    add_run(&w, 3, 200, 66);
    add_run(&w, 1, 300, 1);
    check_world(&w, (struct shape){1, 1, 24, ENG_F16}, 0);
    w = (struct world){}; /* one short of a window */
    add_run(&w, 3, 0, 63);
    check_world(&w, (struct shape){1, 1, 8, ENG_F16}, 0);
    w = (struct world){}; /* nothing but windows, then a token for attend_splits */
    add_run(&w, 3, 0, 128);
    add_run(&w, 1, 260, 1);
    check_world(&w, (struct shape){1, 1, 8, ENG_F16}, 0);
}

/* More heads than 16 share a KV head: several tiles of rows per token. */
static void test_attention__group_of_20(void)
{
    static struct world w;

    w = (struct world){};
    add_run(&w, 3, 256, 1);
    add_run(&w, 1, 9, 2);
    check_world(&w, (struct shape){20, 1, 64, ENG_F16}, THOROUGH);
}

/* More tokens than a block counts at once, all partial results taken: the rest is walked. */
static void test_attention__many_sequences(void)
{
    static struct world w;

    w = (struct world){};
    for (uint32_t i = 0; i < 20; i++)
        add_run(&w, i % 2 + 3 * (i % 3 == 2), 250 + i, 1);
    for (uint32_t i = 0; i < 109; i++)
        add_run(&w, i % SEQUENCES, i % 7, 1);
    add_run(&w, 6, 270, 1);
    check_world(&w, (struct shape){2, 1, 32, ENG_F16}, 0);
}

static void test_attention__float32_cache(void)
{
    check_shape(4, 2, 64, ENG_F32, THOROUGH);
    check_few(3, 1, 66, ENG_F32);
    check_few(2, 2, 512, ENG_F32);
}

static void test_attention__heads_that_fit_no_tile(void)
{
    check_few(2, 1, 66, ENG_F16);
    check_few(1, 1, 264, ENG_F16);
    check_few(1, 1, 2, ENG_F16);
}

static void test_attention__no_tokens(void)
{
    struct gpu_step step = {};
    struct gpu_kv_layer kv = {};

    gpu_attention(NULL, NULL, NULL, 4, &kv, &step, CONTEXT, NULL);
    CHECK_INT(gpu_attention_workspace(64, GPU_SPLIT_TOKENS, 32, 128), 0); /* one split: no partial results */
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_attention__group_of_4),
        CASE(test_attention__large_scores),
        CASE(test_attention__group_of_7),
        CASE(test_attention__heads_of_80_and_96),
        CASE(test_attention__heads_of_128),
        CASE(test_attention__heads_of_160_and_256),
        CASE(test_attention__no_groups),
        CASE(test_attention__group_of_20),
        CASE(test_attention__many_sequences),
        CASE(test_attention__float32_cache),
        CASE(test_attention__heads_that_fit_no_tile),
        CASE(test_attention__no_tokens),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
