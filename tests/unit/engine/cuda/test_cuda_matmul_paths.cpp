/* The three kernels of a matmul beside each other, on the emulator: every format, sizes that are multiples of nothing, each element
 * against a float64 product of the dequantised weights; and the same bits from each kernel, at any place of any batch.
 *
 * The bound: an activation is rounded by at most u of itself (f16: 2^-11, two bf16: 2^-16, F32 weights: not at all), or by 2^-34 of its
 * row's largest where f16 is subnormal (2^-25, while the largest is at 2^9 or above). The rest is float32: 2^-20 of the sum of magnitudes,
 * in which a format with minima counts both of its terms. */
#define GPU_EMULATE 1
#include "engine/cuda/matmul.h"

#include "tap.h"

#include <math.h>
#include <stdlib.h>

struct format {
    enum eng_type type;
    uint32_t block, cols; /* cols: several splits, the last unit not full */
    double rounding;
};

static const struct format formats[] = {
    {ENG_F32, 1, 333, 0},          {ENG_F16, 1, 333, 0x1p-11},    {ENG_BF16, 1, 333, 0x1p-16},
    {ENG_Q8_0, 32, 416, 0x1p-11},  {ENG_Q4_0, 32, 416, 0x1p-11},  {ENG_Q4_1, 32, 416, 0x1p-11},
    {ENG_Q5_0, 32, 416, 0x1p-11},  {ENG_Q5_1, 32, 416, 0x1p-11},  {ENG_Q4_K, 256, 768, 0x1p-11},
    {ENG_Q5_K, 256, 768, 0x1p-11}, {ENG_Q6_K, 256, 768, 0x1p-11},
};
enum { N_FORMATS = sizeof(formats) / sizeof(formats[0]) };
static const enum mm_path paths[] = {MM_SPLIT_8, MM_SPLIT_32, MM_TILES};

static uint64_t random_state = 7;

static uint32_t bits(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33);
}

static float uniform(void)
{
    return (float)bits() * 0x1p-30f - 1;
}

/* To the byte, so that AddressSanitizer sees what reads past it; poisoned. glibc aligns any size. */
static void *take(size_t bytes)
{
    void *p = aligned_alloc(GPU_ALIGN, bytes);

    CHECK(p != NULL);
    memset(p, 0xCD, bytes);
    return p;
}

struct matrix {
    const struct format *f;
    struct eng_weight_data data;
    uint8_t *raw;
    uint8_t *packed;
    float *values;
    struct gpu_weight w;
};

static void fill_block(enum eng_type type, const struct eng_type_info *info, uint8_t *to)
{
    uint16_t d = eng_f32_to_f16(uniform() / 64), m = eng_f32_to_f16(uniform() / 64);
    float v = uniform();

    for (unsigned i = 0; i < info->block_bytes; i++)
        to[i] = (uint8_t)bits();
    switch (type) {
    case ENG_F32: memcpy(to, &v, 4); break;
    case ENG_F16: d = eng_f32_to_f16(v), memcpy(to, &d, 2); break;
    case ENG_BF16: d = gpu_f32_to_bf16(v), memcpy(to, &d, 2); break;
    case ENG_Q6_K: memcpy(to + 208, &d, 2); break;
    default:
        memcpy(to, &d, 2);
        if (type != ENG_Q8_0 && type != ENG_Q4_0 && type != ENG_Q5_0)
            memcpy(to + 2, &m, 2);
    }
}

static struct matrix make(const struct format *f, uint32_t rows, uint32_t cols)
{
    const struct eng_type_info *info = eng_type_info(f->type);
    size_t row_bytes = eng_row_bytes(f->type, cols);
    struct matrix m;

    m.f = f;
    m.raw = (uint8_t *)malloc(rows * row_bytes);
    m.values = (float *)malloc((size_t)rows * cols * sizeof(float));
    for (size_t i = 0; i < rows * row_bytes; i += info->block_bytes)
        fill_block(f->type, info, m.raw + i);
    for (uint32_t r = 0; r < rows; r++)
        eng_dequant(f->type, m.raw + r * row_bytes, m.values + (size_t)r * cols, cols);
    m.data =
        (struct eng_weight_data){f->type, rows, cols, ENG_USE_MATMUL | ENG_USE_ROWS, ENG_SPLIT_NONE, m.raw};
    m.packed = (uint8_t *)take(gpu_weight_bytes(&m.data));
    gpu_weight_pack(&m.data, 0, gpu_weight_units(&m.data).n, m.packed);
    m.w = (struct gpu_weight){f->type, rows, cols, m.data.uses, m.packed, gpu_weight_bytes(&m.data)};
    return m;
}

static void drop(struct matrix *m)
{
    free(m->raw);
    free(m->packed);
    free(m->values);
}

static float *random_floats(size_t n, float scale)
{
    float *x = (float *)malloc(n * sizeof(float));

    for (size_t i = 0; i < n; i++)
        x[i] = uniform() * scale * (bits() % 50 == 0 ? 40 : 1);
    return x;
}

/* out [n, rows]; NULL: a new one, poisoned. */
static float *product(enum mm_path path, const struct matrix *m, const float *x, uint32_t n,
                      const float *bias, float *onto)
{
    void *workspace = take(gpu_matmul_workspace(n, m->w.rows, m->w.cols, 1, 1));
    float *out = onto != NULL ? onto : (float *)malloc((size_t)n * m->w.rows * sizeof(float));
    struct gpu_matmul mm = {&m->w, bias, out, onto != NULL};

    if (onto == NULL)
        memset(out, 0xCD, (size_t)n * m->w.rows * sizeof(float));
    gpu_matmul_by((gpu_stream)0, path, x, n, &mm, 1, workspace);
    free(workspace);
    return out;
}

/* What the two terms of a weight with a minimum may amount to at most, beside the weight itself: |w + m| + |m|. */
static double cancelled(const struct matrix *m, uint32_t row)
{
    size_t row_bytes = eng_row_bytes(m->f->type, m->w.cols);
    double most = 0;

    if (m->f->block == 1 || m->f->type == ENG_Q6_K || m->f->type == ENG_Q8_0 || m->f->type == ENG_Q4_0 ||
        m->f->type == ENG_Q5_0)
        return 0;
    for (size_t at = row * row_bytes; at < (row + 1) * row_bytes;
         at += eng_type_info(m->f->type)->block_bytes) {
        uint16_t h;
        double min;

        memcpy(&h, m->raw + at + 2, 2);
        min = fabs(eng_f16_to_f32(h)) * (m->f->block == 256 ? 63 : 1);
        most = min > most ? min : most;
    }
    return 2 * most;
}

static void check_row(const struct matrix *m, const float *x, uint32_t row, float got, double start)
{
    const float *w = m->values + (size_t)row * m->w.cols;
    double want = start, size = 0, largest = 0, sum_x = 0, sum_w = 0, error, extra = cancelled(m, row);

    for (uint32_t c = 0; c < m->w.cols; c++) {
        want += (double)w[c] * x[c];
        size += fabs((double)w[c] * x[c]);
        sum_x += fabs((double)x[c]);
        sum_w += fabs((double)w[c]);
        largest = fabs((double)x[c]) > largest ? fabs((double)x[c]) : largest;
    }
    error = m->f->rounding * size + (m->f->rounding > 0 ? 0x1p-34 : 0) * largest * sum_w +
            0x1p-20 * (size + extra * sum_x + fabs(start));
    if (fabs(got - want) <= error)
        return;
    printf("# %s [%u, %u]: row %u is %.9g, expected %.9g +- %.3g\n", eng_type_info(m->f->type)->name,
           m->w.rows, m->w.cols, row, got, want, error);
    CHECK(!"near the product");
}

static void check_case(const struct format *f, enum mm_path path, uint32_t rows, uint32_t cols, uint32_t n,
                       bool more)
{
    struct matrix m = make(f, rows, cols);
    float *x = random_floats((size_t)n * cols, 2), *bias = more ? random_floats(rows, 3) : NULL;
    float *onto = more ? random_floats((size_t)n * rows, 3) : NULL, *before = NULL, *out;

    if (more) {
        before = (float *)malloc((size_t)n * rows * sizeof(float));
        memcpy(before, onto, (size_t)n * rows * sizeof(float));
    }
    out = product(path, &m, x, n, bias, onto);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t r = 0; r < rows; r++)
            check_row(&m, x + (size_t)t * cols, r, out[(size_t)t * rows + r],
                      more ? (double)bias[r] + before[(size_t)t * rows + r] : 0);
    free(x);
    free(bias);
    free(before);
    free(out);
    drop(&m);
}

static void test_gpu_matmul__each_kernel_is_near_float64(void)
{
    static const uint32_t ns[] = {1, 2, 7, 8, 9, 33, 64, 65, 130};
    unsigned turn = 0;

    for (const struct format &f : formats)
        for (enum mm_path path : paths) {
            check_case(&f, path, 1, f.block, ns[turn % 9], false);
            check_case(&f, path, 17, f.block == 1 ? 67 : f.block * 2, ns[(turn + 4) % 9], turn % 2 == 0);
            check_case(&f, path, 100, f.block == 256 ? 256 : f.cols, ns[turn % 5], turn % 2 == 1);
            turn++;
        }
    for (unsigned i = 0; i < 9; i++) /* every n, and the choice that gpu_matmul makes */
        check_case(&formats[(i * 5 + 3) % N_FORMATS], MM_AUTO, 33, formats[(i * 5 + 3) % N_FORMATS].cols,
                   ns[i], true);
}

/* Rows of x in another order, some of them, by each kernel: the bits stay. More than 8 units: all splits. */
static void test_gpu_matmul__same_bits_by_each_kernel_and_in_each_batch(void)
{
    static const uint32_t ns[] = {1, 2, 7, 8, 9, 33, 64, 65};
    enum { ROWS = 37, ALL = 130 };
    unsigned turn = 0;

    for (const struct format &f : formats) {
        uint32_t cols = f.block == 256 ? 1280 : f.block == 32 ? 1184 : 595;
        struct matrix m = make(&f, ROWS, cols);
        float *x = random_floats((size_t)ALL * cols, 2),
              *some = (float *)malloc((size_t)65 * cols * sizeof(float));
        float *all = product(MM_TILES, &m, x, ALL, NULL, NULL);

        CHECK(f.type == ENG_F32 || mm_splits(ROWS, mm_units(f.type, cols)) > 4);
        for (unsigned i = 0; i < 4; i++) {
            uint32_t n = ns[(turn + 3 * i) % 8], first = bits() % ALL;
            float *out;

            for (uint32_t t = 0; t < n; t++)
                memcpy(some + (size_t)t * cols, x + (size_t)((first + 3 * t) % ALL) * cols,
                       cols * sizeof(float));
            out = product(paths[(turn + i) % 3], &m, some, n, NULL, NULL);
            for (uint32_t t = 0; t < n; t++)
                CHECK(memcmp(out + (size_t)t * ROWS, all + (size_t)((first + 3 * t) % ALL) * ROWS,
                             ROWS * sizeof(float)) == 0);
            free(out);
        }
        turn++;
        free(all);
        free(some);
        free(x);
        drop(&m);
    }
}

/* Several weights of the same activations in one call, formats and numbers of splits mixed: each has the bits that it has alone. */
static void test_gpu_matmul__three_weights_at_once(void)
{
    static const struct {
        unsigned format[3];
        uint32_t rows[3], cols;
    } mixed[] = {
        {{8, 8, 10}, {50, 17, 16}, 512},
        {{1, 2, 0}, {5, 33, 40}, 67},
        {{3, 5, 3}, {16, 130, 1}, 160},
        {{3, 3, 3}, {8200, 20, 8193}, 64},
    };

    for (const auto &c : mixed)
        for (enum mm_path path : paths) {
            uint32_t n = path == MM_SPLIT_8 ? 3 : c.rows[0] > 8000 ? 1 : 9;
            float *x = random_floats((size_t)n * c.cols, 1), *out[3];
            void *workspace = take(gpu_matmul_workspace(n, 50, c.cols, 1, 1));
            struct matrix m[3];
            struct gpu_matmul mms[3];

            if (c.rows[0] > 8000 && path != MM_SPLIT_32) {
                free(x);
                free(workspace);
                continue;
            }
            for (unsigned i = 0; i < 3; i++) {
                m[i] = make(&formats[c.format[i]], c.rows[i], c.cols);
                out[i] = (float *)malloc((size_t)n * c.rows[i] * sizeof(float));
                memset(out[i], 0xCD, (size_t)n * c.rows[i] * sizeof(float));
                mms[i] = (struct gpu_matmul){&m[i].w, NULL, out[i], false};
            }
            gpu_matmul_by((gpu_stream)0, path, x, n, mms, 3, workspace);
            for (unsigned i = 0; i < 3; i++) {
                float *alone = product(MM_SPLIT_8, &m[i], x, n, NULL, NULL);

                CHECK(memcmp(out[i], alone, (size_t)n * c.rows[i] * sizeof(float)) == 0);
                free(alone);
                free(out[i]);
                drop(&m[i]);
            }
            free(workspace);
            free(x);
        }
}

/* A row that is not finite, or far outside of f16, changes no other row. */
static void test_gpu_matmul__rows_of_any_size(void)
{
    static const float scales[] = {1, 1e-30f, 1e30f, 0, INFINITY, NAN, 1e-42f};
    enum { N = 7, COLS = 256, ROWS = 18 };

    for (const struct format &f : formats) {
        struct matrix m = make(&f, ROWS, COLS);
        float *x = random_floats(N * COLS, 1), *out;

        for (unsigned i = 0; i < N; i++)
            for (unsigned c = 0; c < COLS; c++)
                if (i != 4 && i != 5)
                    x[i * COLS + c] *= scales[i];
                else if (c == 100)
                    x[i * COLS + c] = scales[i];
        out = product(MM_AUTO, &m, x, N, NULL, NULL);
        for (unsigned r = 0; r < ROWS; r++) {
            for (unsigned i = 0; i < 3; i++)
                check_row(&m, x + i * COLS, r, out[i * ROWS + r], 0);
            CHECK(out[3 * ROWS + r] == 0);
            CHECK(!(fabsf(out[4 * ROWS + r]) <= 3e38f) || m.values[r * COLS + 100] == 0);
            CHECK(out[5 * ROWS + r] != out[5 * ROWS + r]);
            CHECK(fabsf(out[6 * ROWS + r]) <= 1e-36f);
        }
        free(x);
        free(out);
        drop(&m);
    }
}

static void test_gpu_embed__bits_of_eng_dequant(void)
{
    for (const struct format &f : formats) {
        uint32_t cols = f.block == 1 ? 1100 : f.cols, rows = 50;
        struct matrix m = make(&f, rows, cols);
        int32_t ids[50];
        float *out = (float *)malloc((size_t)rows * cols * sizeof(float));
        struct gpu_step step = {};

        for (uint32_t i = 0; i < rows; i++)
            ids[i] = (int32_t)(i * 7 % rows);
        memset(out, 0xCD, (size_t)rows * cols * sizeof(float));
        step.n_tokens = rows;
        step.ids = ids;
        gpu_embed((gpu_stream)0, &m.w, &step, out);
        for (uint32_t t = 0; t < rows; t++)
            CHECK(memcmp(out + (size_t)t * cols, m.values + (size_t)ids[t] * cols, cols * sizeof(float)) ==
                  0);
        free(out);
        drop(&m);
    }
}

/* What a file's bytes become: no more than 2 % beside whole tiles and units. */
static void test_gpu_weight__bytes(void)
{
    for (const struct format &f : formats) {
        struct eng_weight_data data = {f.type, 4096, 4096, ENG_USE_MATMUL, ENG_SPLIT_NONE, NULL};
        uint64_t in_file = 4096 * (uint64_t)eng_row_bytes(f.type, 4096);

        CHECK(gpu_weight_supported(f.type, ENG_USE_MATMUL) && gpu_weight_supported(f.type, ENG_USE_ROWS));
        CHECK(gpu_weight_bytes(&data) >= in_file && gpu_weight_bytes(&data) <= in_file + in_file / 50);
        data.rows = 0;
        CHECK(gpu_weight_bytes(&data) == 16384);
    }
    CHECK(!gpu_weight_supported((enum eng_type)10, ENG_USE_MATMUL));
}

static const struct tap_case cases[] = {
    CASE(test_gpu_matmul__each_kernel_is_near_float64),
    CASE(test_gpu_matmul__same_bits_by_each_kernel_and_in_each_batch),
    CASE(test_gpu_matmul__three_weights_at_once),
    CASE(test_gpu_matmul__rows_of_any_size),
    CASE(test_gpu_embed__bits_of_eng_dequant),
    CASE(test_gpu_weight__bytes),
};

int main(int argc, char **argv)
{
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
