/* layer.cu against float64: norms, head norms and rotation into shuffled pages, the gate. Sizes are multiples of nothing, outputs poisoned;
 * a row's bits do not depend on the rows beside it. */
#include "engine/cuda/launch.h"

#include "tap.h"

#include <math.h>
#include <stdlib.h>

/* Memory to its exact size, so that AddressSanitizer sees what reads past it. `odd`: at an address that is no multiple of 16. */
static void *take(size_t bytes, bool odd = false)
{
    uint8_t *p = (uint8_t *)aligned_alloc(16, (bytes + 4 + 15) / 16 * 16);

    CHECK(p != NULL);
    memset(p, 0xCD, bytes + 4);
    return odd ? p + 4 : p;
}

static void give(const void *p)
{
    free((void *)((uintptr_t)p / 16 * 16));
}

static uint64_t random_state = 1;

static double uniform(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(random_state >> 11) * 0x1p-53 * 2 - 1;
}

static float *random_floats(size_t n, double scale, bool odd = false)
{
    float *x = (float *)take(n * sizeof(float), odd);

    for (size_t i = 0; i < n; i++)
        x[i] = (float)(uniform() * scale);
    return x;
}

/* `share` of the largest magnitude that the sum could have. */
static void check_close(double got, double expected, double magnitude, double share, const char *what,
                        size_t at)
{
    if (fabs(got - expected) <= magnitude * share)
        return;
    printf("# %s [%zu] is %.9g, expected %.9g\n", what, at, got, expected);
    tap_fail(__FILE__, __LINE__, "values differ");
}

static void norm_case(uint32_t cols, uint32_t n, bool gather, bool odd)
{
    enum { HAVE = 9 };
    float *x = random_floats((size_t)HAVE * cols, 3, odd), *w = random_floats(cols, 2);
    float *out = (float *)take((size_t)n * cols * sizeof(float)),
          *alone = (float *)take(cols * sizeof(float));
    uint32_t rows[HAVE];

    for (uint32_t i = 0; i < n; i++)
        rows[i] = gather ? (i * 5 + 3) % HAVE : i;
    gpu_rms_norm(NULL, x, gather ? rows : NULL, n, cols, w, 1e-5f, out);
    for (uint32_t i = 0; i < n; i++) {
        const float *row = x + (size_t)rows[i] * cols;
        double sum = 0, scale;

        for (uint32_t c = 0; c < cols; c++)
            sum += (double)row[c] * row[c];
        scale = 1 / sqrt(sum / cols + 1e-5f);
        for (uint32_t c = 0; c < cols; c++)
            check_close(out[(size_t)i * cols + c], row[c] * scale * w[c], fabs(row[c] * scale * w[c]), 1e-6,
                        "norm", c);
        gpu_rms_norm(NULL, x, &rows[i], 1, cols, w, 1e-5f, alone);
        CHECK(memcmp(alone, out + (size_t)i * cols, cols * sizeof(float)) == 0);
    }
    give(x);
    give(w);
    give(out);
    give(alone);
}

static void test_rms_norm__any_cols(void)
{
    static const uint32_t all_cols[] = {1, 3, 4, 31, 64, 130, 896, 1023, 4096, 5003, 8192};

    for (size_t i = 0; i < sizeof(all_cols) / sizeof(all_cols[0]); i++) {
        norm_case(all_cols[i], 2, false, false);
        norm_case(all_cols[i], 3, true, false);
        norm_case(all_cols[i], 2, true, true);
    }
    gpu_rms_norm(NULL, NULL, NULL, 0, 64, NULL, 1e-5f, NULL);
}

/* Alignment must not change an element: a row of an odd buffer has the bits of the same row in an even one. */
static void test_rms_norm__same_bits_at_any_address(void)
{
    enum { COLS = 260 };
    float *even = random_floats(COLS, 3), *odd = (float *)take(COLS * sizeof(float), true);
    float *w = random_floats(COLS, 2), *a = (float *)take(COLS * sizeof(float)),
          *b = (float *)take(COLS * sizeof(float));

    memcpy(odd, even, COLS * sizeof(float));
    gpu_rms_norm(NULL, even, NULL, 1, COLS, w, 1e-6f, a);
    gpu_rms_norm(NULL, odd, NULL, 1, COLS, w, 1e-6f, b);
    CHECK(memcmp(a, b, COLS * sizeof(float)) == 0);
    give(even);
    give(odd);
    give(w);
    give(a);
    give(b);
}

/* ---- place ---- */

struct place_case {
    uint32_t n_heads, n_kv_heads, head_dim, rope_dim;
    bool halves, norms, f16;
};

static void reference_head(const struct place_case *c, const float *x, const float *norm, const float *cs,
                           double *out)
{
    double sum = 0, scale = 1;
    uint32_t half = c->rope_dim / 2;

    for (uint32_t i = 0; i < c->head_dim; i++)
        sum += (double)x[i] * x[i];
    if (norm != NULL)
        scale = 1 / sqrt(sum / c->head_dim + 1e-6f);
    for (uint32_t i = 0; i < c->head_dim; i++)
        out[i] = x[i] * scale * (norm != NULL ? norm[i] : 1);
    for (uint32_t i = 0; i < half; i++) {
        double *a = &out[c->halves ? i : 2 * i], *b = c->halves ? a + half : a + 1, x0 = *a, x1 = *b;

        *a = x0 * cs[i] - x1 * cs[half + i];
        *b = x0 * cs[half + i] + x1 * cs[i];
    }
}

static void check_head(const struct place_case *c, const uint8_t *stored, bool f16, const double *expected,
                       const char *what)
{
    for (uint32_t i = 0; i < c->head_dim; i++) {
        double got = f16 ? eng_f16_to_f32(((const uint16_t *)stored)[i]) : ((const float *)stored)[i];

        check_close(got, expected[i], fabs(expected[i]) + 1, f16 ? 6e-4 : 2e-6, what, i);
    }
}

/* Seven tokens of three sequences, in no order, with pages in no order; checks every byte of the cache, used or not. */
static void run_place(const struct place_case *c)
{
    enum { TOKENS = 7, SEQUENCES = 3, PAGES_EACH = 3, PAGES = 11, CONTEXT = 48 };
    static const uint32_t positions[TOKENS] = {17, 0, 31, 32, 15, 16, 47},
                          sequences[TOKENS] = {2, 0, 1, 2, 0, 2, 1};
    static const uint32_t table[SEQUENCES * PAGES_EACH] = {9, 4, 0, 7, 2, 10, 1, 5, 3};
    const uint32_t hd = c->head_dim, size = c->f16 ? 2 : 4;
    const size_t head_bytes = (size_t)ENG_PAGE_TOKENS * hd * size,
                 page_bytes = 2 * c->n_kv_heads * head_bytes;
    const size_t stride = page_bytes + 48;
    float *q = random_floats((size_t)TOKENS * c->n_heads * hd, 4),
          *old_q = (float *)take((size_t)TOKENS * c->n_heads * hd * 4);
    float *k = random_floats((size_t)TOKENS * c->n_kv_heads * hd, 4);
    float *v = random_floats((size_t)TOKENS * c->n_kv_heads * hd, 4);
    float *q_norm = random_floats(hd, 2), *k_norm = random_floats(hd, 2);
    float *rope = random_floats((size_t)CONTEXT * (c->rope_dim > 0 ? c->rope_dim : 1), 1);
    uint8_t *pages = (uint8_t *)take(PAGES * stride), *touched = (uint8_t *)calloc(PAGES, stride);
    double expected[ENG_HEAD_DIM_MAX];
    struct gpu_step step = {};
    struct gpu_kv_layer kv = {pages, stride, c->n_kv_heads, hd, c->f16 ? ENG_F16 : ENG_F32};
    struct gpu_place place = {};

    memcpy(old_q, q, (size_t)TOKENS * c->n_heads * hd * 4);
    step.n_tokens = TOKENS;
    step.n_sequences = SEQUENCES;
    step.pages_per_sequence = PAGES_EACH;
    step.positions = positions;
    step.sequences = sequences;
    step.page_table = table;
    place.q = q;
    place.k = k;
    place.v = v;
    place.q_norm = c->norms ? q_norm : NULL;
    place.k_norm = c->norms ? k_norm : NULL;
    place.eps = 1e-6f;
    place.rope = rope;
    place.n_heads = c->n_heads;
    place.rope_dim = c->rope_dim;
    place.rope_halves = c->halves;
    gpu_place(NULL, &place, &kv, &step);
    for (uint32_t t = 0; t < TOKENS; t++) {
        const float *cs = rope + (size_t)positions[t] * c->rope_dim;
        size_t page = table[sequences[t] * PAGES_EACH + positions[t] / ENG_PAGE_TOKENS];

        for (uint32_t h = 0; h < c->n_heads; h++) {
            size_t at = ((size_t)t * c->n_heads + h) * hd;

            reference_head(c, old_q + at, place.q_norm, cs, expected);
            check_head(c, (const uint8_t *)(q + at), false, expected, "q");
        }
        for (uint32_t h = 0; h < c->n_kv_heads; h++) {
            size_t from = ((size_t)t * c->n_kv_heads + h) * hd, row = (size_t)hd * size;
            size_t at = page * stride + h * head_bytes + positions[t] % ENG_PAGE_TOKENS * row;
            size_t v_at = at + c->n_kv_heads * head_bytes;

            reference_head(c, k + from, place.k_norm, cs, expected);
            check_head(c, pages + at, c->f16, expected, "k");
            for (uint32_t i = 0; i < hd; i++) {
                if (c->f16)
                    CHECK_INT(((uint16_t *)(pages + v_at))[i], eng_f32_to_f16(v[from + i]));
                else
                    CHECK(((float *)(pages + v_at))[i] == v[from + i]);
            }
            memset(touched + at, 1, row);
            memset(touched + v_at, 1, row);
        }
    }
    for (size_t i = 0; i < PAGES * stride; i++)
        CHECK(touched[i] || pages[i] == 0xCD);
    give(q);
    give(old_q);
    give(k);
    give(v);
    give(q_norm);
    give(k_norm);
    give(rope);
    give(pages);
    free(touched);
}

static void test_place__shapes(void)
{
    static const struct place_case cases[] = {
        {4, 2, 64, 64, true, false, true},  {4, 2, 64, 64, false, false, true},
        {4, 4, 128, 128, true, true, true}, {7, 1, 128, 128, true, false, false},
        {3, 1, 80, 32, true, false, true},  {3, 3, 80, 32, false, true, false},
        {2, 1, 512, 512, true, true, true}, {5, 5, 66, 22, true, true, true},
        {1, 1, 2, 2, false, false, true},   {2, 2, 130, 0, false, false, true},
        {9, 3, 96, 96, false, true, true},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        run_place(&cases[i]);
}

static void test_silu_mul__any_size(void)
{
    static const size_t sizes[] = {1, 3, 4, 255, 1024, 1027, 5001};

    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        for (int odd = 0; odd < 2; odd++) {
            size_t n = sizes[s];
            float *gate = random_floats(n, 20, odd), *up = random_floats(n, 3),
                  *old = (float *)take(n * sizeof(float));

            gate[0] = s % 2 == 0 ? -200 : 200; /* exp overflows */
            memcpy(old, gate, n * sizeof(float));
            gpu_silu_mul(NULL, gate, up, n);
            for (size_t i = 0; i < n; i++) {
                double expected = old[i] / (1 + exp(-(double)old[i])) * up[i];

                check_close(gate[i], expected, fabs(expected) + 1e-30, 3e-6, "silu", i);
            }
            give(gate);
            give(up);
            give(old);
        }
    }
    gpu_silu_mul(NULL, NULL, NULL, 0);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_rms_norm__any_cols),
        CASE(test_rms_norm__same_bits_at_any_address),
        CASE(test_place__shapes),
        CASE(test_silu_mul__any_size),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
