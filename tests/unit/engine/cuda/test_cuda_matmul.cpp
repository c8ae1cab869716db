/* Products and embedding of the CUDA plug-in, on the emulator, against float64 products of the dequantized weights. */
#define GPU_EMULATE 1
#include "engine/cuda/launch.h"

#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct format {
    enum eng_type type;
    unsigned block;
    double rounding; /* of one activation */
};

/* float16 keeps 11 bits; two bfloat16 keep 16. */
static const struct format formats[] = {
    {ENG_F32, 1, 0x1p-16},    {ENG_F16, 1, 0x1p-11},    {ENG_BF16, 1, 0x1p-16},  {ENG_Q4_0, 32, 0x1p-11},
    {ENG_Q4_1, 32, 0x1p-11},  {ENG_Q5_0, 32, 0x1p-11},  {ENG_Q5_1, 32, 0x1p-11}, {ENG_Q8_0, 32, 0x1p-11},
    {ENG_Q4_K, 256, 0x1p-11}, {ENG_Q5_K, 256, 0x1p-11}, {ENG_Q6_K, 256, 0x1p-11}};

static uint64_t seed = 1;

static uint32_t rnd(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33);
}

static float rnd_float(void)
{
    return (float)rnd() / 1073741824.0f - 1.0f; /* 31 bits: [-1, 1) */
}

static void put_f16(uint8_t *p, float v)
{
    uint16_t h = eng_f32_to_f16(v);

    memcpy(p, &h, 2);
}

/* Random bits with sane scales. */
static void fill_row(enum eng_type type, uint8_t *row, uint32_t cols)
{
    const struct eng_type_info *info = eng_type_info(type);

    for (uint32_t c = 0; c < cols; c += info->block_values, row += info->block_bytes) {
        for (unsigned i = 0; i < info->block_bytes; i++)
            row[i] = (uint8_t)rnd();
        if (type == ENG_F32) {
            float v = rnd_float();
            memcpy(row, &v, 4);
        } else if (type == ENG_F16) {
            put_f16(row, rnd_float());
        } else if (type == ENG_BF16) {
            uint16_t h = gpu_f32_to_bf16(rnd_float());
            memcpy(row, &h, 2);
        } else if (type == ENG_Q6_K) {
            put_f16(row + 208, rnd_float() / 1000);
        } else {
            put_f16(row, rnd_float() / 50);
            if (type != ENG_Q4_0 && type != ENG_Q5_0 && type != ENG_Q8_0)
                put_f16(row + 2, rnd_float() / 50);
        }
    }
}

struct matrix {
    struct eng_weight_data data;
    uint8_t *raw, *packed;
    float *values; /* [rows, cols] */
    struct gpu_weight w;
};

static struct matrix make(enum eng_type type, uint32_t rows, uint32_t cols)
{
    struct matrix m;
    size_t row_bytes = eng_row_bytes(type, cols);

    m.raw = (uint8_t *)malloc(rows * row_bytes);
    m.values = (float *)malloc((size_t)rows * cols * sizeof(float));
    for (uint32_t r = 0; r < rows; r++) {
        fill_row(type, m.raw + r * row_bytes, cols);
        eng_dequant(type, m.raw + r * row_bytes, m.values + (size_t)r * cols, cols);
    }
    m.data = (struct eng_weight_data){type, rows, cols, ENG_USE_MATMUL | ENG_USE_ROWS, ENG_SPLIT_NONE, m.raw};
    m.packed = (uint8_t *)aligned_alloc(256, (gpu_weight_bytes(&m.data) + 255) / 256 * 256);
    gpu_weight_pack(&m.data, 0, gpu_weight_units(&m.data).n, m.packed);
    m.w = (struct gpu_weight){type, rows, cols, m.data.uses, m.packed, gpu_weight_bytes(&m.data)};
    return m;
}

static void drop(struct matrix *m)
{
    free(m->raw);
    free(m->packed);
    free(m->values);
}

static float *random_floats(size_t n)
{
    float *x = (float *)malloc(n * sizeof(float));

    for (size_t i = 0; i < n; i++)
        x[i] = rnd_float() * (i % 97 == 0 ? 30 : 1);
    return x;
}

/* out [n, rows], poisoned first. The workspace has its size to the byte. */
static float *product(const struct matrix *m, const float *x, uint32_t n, const float *bias,
                      const float *onto)
{
    size_t bytes = gpu_matmul_workspace(n, m->w.rows, m->w.cols, 1, 1);
    void *workspace = aligned_alloc(256, (bytes + 255) / 256 * 256);
    float *out = (float *)malloc((size_t)n * m->w.rows * sizeof(float));
    struct gpu_matmul mm = {&m->w, bias, out, onto != NULL};

    memset(workspace, 0xCD, bytes);
    memset(out, 0xCD, (size_t)n * m->w.rows * sizeof(float));
    if (onto != NULL)
        memcpy(out, onto, (size_t)n * m->w.rows * sizeof(float));
    gpu_matmul((gpu_stream)0, x, n, &mm, 1, workspace);
    free(workspace);
    return out;
}

static void check_product(const struct format *f, uint32_t rows, uint32_t cols, uint32_t n)
{
    struct matrix m = make(f->type, rows, cols);
    float *x = random_floats((size_t)n * cols), *bias = random_floats(rows),
          *onto = random_floats((size_t)n * rows);
    float *out = product(&m, x, n, bias, onto);

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t r = 0; r < rows; r++) {
            double want = (double)bias[r] + onto[(size_t)t * rows + r], size = fabs(want);

            for (uint32_t c = 0; c < cols; c++) {
                double v = (double)m.values[(size_t)r * cols + c] * x[(size_t)t * cols + c];

                want += v;
                size += fabs(v);
            }
            /* Each activation rounded, float32 sums; codes near their offset cancel more than the value shows: a factor of 4. */
            if (!(fabs(out[(size_t)t * rows + r] - want) <= size * (4 * f->rounding + 2e-6) + 1e-6)) {
                printf("# %s [%u, %u] n %u: token %u row %u is %g, expected %g\n",
                       eng_type_info(f->type)->name, rows, cols, n, t, r, out[(size_t)t * rows + r], want);
                CHECK(!"near the product");
            }
        }
    free(x);
    free(bias);
    free(onto);
    free(out);
    drop(&m);
}

static void test_gpu_matmul__every_format(void)
{
    for (const struct format &f : formats) {
        check_product(&f, 1, f.block, 1);
        check_product(&f, 37, f.block == 1 ? 83 : f.block * 3, 3);
    }
}

static void test_gpu_matmul__few_and_many_tokens(void)
{
    static const uint32_t ns[] = {2, 7, 8, 9, 17, 33, 64, 65, 130};
    unsigned k = 0;

    for (uint32_t n : ns)
        check_product(&formats[k++ % 11], 33, 256, n);
    check_product(&formats[8], 20, 1280, 65);
}

/* The first token's bits: alone, and among others at any place. */
static void test_gpu_matmul__the_batch_has_no_say(void)
{
    static const uint32_t ns[] = {2, 8, 9, 20, 40, 64, 65, 129};

    for (const struct format &f : formats) {
        uint32_t rows = 40, cols = f.block == 256 ? 1280 : 416; /* several splits, the last one short */
        struct matrix m = make(f.type, rows, cols);
        float *x = random_floats((size_t)129 * cols), *alone = product(&m, x, 1, NULL, NULL);

        for (uint32_t n : ns) {
            float *many, *out;
            uint32_t at = rnd() % n;

            if (f.block == 256 ? n != 9 && n != 65 : f.block == 32 && n != 2 && n != 40 && n != 129)
                continue;
            many = (float *)malloc((size_t)n * cols * sizeof(float));
            memcpy(many, x, (size_t)n * cols * sizeof(float));
            memcpy(many, x + (size_t)at * cols, (size_t)cols * sizeof(float));
            memcpy(many + (size_t)at * cols, x, (size_t)cols * sizeof(float));
            out = product(&m, many, n, NULL, NULL);
            CHECK(memcmp(out + (size_t)at * rows, alone, rows * sizeof(float)) == 0);
            free(many);
            free(out);
        }
        free(alone);
        free(x);
        drop(&m);
    }
}

/* Activations far outside of float16's range, and rows of zeros. */
static void test_gpu_matmul__large_and_small_activations(void)
{
    static const float sizes[] = {1e-20f, 1e-6f, 1e6f, 1e18f};
    struct matrix m = make(ENG_Q8_0, 16, 64);

    for (float size : sizes) {
        float *x = random_floats(2 * 64), *out;

        for (unsigned i = 0; i < 64; i++) {
            x[i] *= size;
            x[64 + i] = 0;
        }
        out = product(&m, x, 2, NULL, NULL);
        for (unsigned r = 0; r < 16; r++) {
            double want = 0, all = 0;

            for (unsigned c = 0; c < 64; c++) {
                want += (double)m.values[r * 64 + c] * x[c];
                all += fabs((double)m.values[r * 64 + c] * x[c]);
            }
            CHECK(fabs(out[r] - want) <= all * 0x1p-9);
            CHECK(out[16 + r] == 0);
        }
        free(x);
        free(out);
    }
    drop(&m);
}

static void test_gpu_embed__has_the_bits_of_eng_dequant(void)
{
    for (const struct format &f : formats) {
        uint32_t rows = 35, cols = f.block == 1 ? 83 : f.block * 2;
        struct matrix m = make(f.type, rows, cols);
        int32_t ids[] = {34, 0, 17, 17, 15};
        float *out = (float *)malloc(5 * cols * sizeof(float));
        struct gpu_step step = {};

        memset(out, 0xCD, 5 * cols * sizeof(float));
        step.n_tokens = 5;
        step.ids = ids;
        gpu_embed((gpu_stream)0, &m.w, &step, out);
        for (unsigned t = 0; t < 5; t++)
            for (uint32_t c = 0; c < cols; c++)
                CHECK(out[t * cols + c] == m.values[(size_t)ids[t] * cols + c]);
        free(out);
        drop(&m);
    }
}

static const struct tap_case cases[] = {
    CASE(test_gpu_matmul__every_format),
    CASE(test_gpu_matmul__few_and_many_tokens),
    CASE(test_gpu_matmul__the_batch_has_no_say),
    CASE(test_gpu_matmul__large_and_small_activations),
    CASE(test_gpu_embed__has_the_bits_of_eng_dequant),
};

int main(int argc, char **argv)
{
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
