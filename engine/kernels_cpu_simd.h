/* The vector kernels, written once over kernels_cpu_lanes.h and compiled with AVX2 and with AVX-512 flags. The including file defines
 * SIMD_COLS, the most tokens (columns of a tile) that fit the register file, and names the result.
 *
 * A tile is 16 rows of a weight times up to SIMD_COLS tokens. Every lane adds its row's products block by block in column order,
 * whatever the number of tokens; that is what makes results independent of the batch. Shapes of packed weights: kernels_cpu_pack.c.
 */
#include "engine/kernels_cpu.h"
#include "engine/kernels_cpu_lanes.h"

#include <math.h>

/* Loops over the tokens or rows of a tile: unrolled whole, or their accumulators would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

static void simd_rms_norm(const float *x, const float *w, float eps, uint32_t n, float *out)
{
    vf sum = vf_set1(0), scale;
    uint32_t i;

    for (i = 0; i + 16 <= n; i += 16)
        sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    if (i < n)
        sum = vf_fma(vf_load_n(x + i, n - i), vf_load_n(x + i, n - i), sum);
    scale = vf_set1(1.0f / sqrtf(vf_sum(sum) / (float)n + eps));
    for (i = 0; i + 16 <= n; i += 16)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(w + i)));
    if (i < n)
        vf_store_n(out + i, n - i, vf_mul(vf_mul(vf_load_n(x + i, n - i), scale), vf_load_n(w + i, n - i)));
}

INLINE vf silu(vf g)
{
    return vf_div(g, vf_add(vf_set1(1), vf_exp(vf_sub(vf_set1(0), g))));
}

static void simd_silu_mul(float *gate, const float *up, size_t n)
{
    size_t i;

    for (i = 0; i + 16 <= n; i += 16)
        vf_store(gate + i, vf_mul(silu(vf_load(gate + i)), vf_load(up + i)));
    if (i < n) {
        uint32_t left = (uint32_t)(n - i);

        vf_store_n(gate + i, left, vf_mul(silu(vf_load_n(gate + i, left)), vf_load_n(up + i, left)));
    }
}

static void simd_to_f16(const float *x, uint16_t *out, size_t n)
{
    size_t i;

    for (i = 0; i + 16 <= n; i += 16)
        vf_store_f16(out + i, vf_load(x + i));
    for (; i < n; i++)
        out[i] = eng_f32_to_f16(x[i]);
}

/* Sixteen values at 127/max; gives minus their sum. The clamp changes no number, but a broken file's infinities and NaN become 127
 * instead of integers whose sum overflows. */
INLINE int32_t quantize_half(vf x, vf inverse, int8_t *q)
{
    vi v = vi_from_f(vf_max(vf_min(vf_mul(x, inverse), vf_set1(127)), vf_set1(-127)));

    vi_store_i8(q, v);
    return -vi_sum(v);
}

static void simd_quantize(const float *x, uint32_t cols, struct eng_cpu_act *act, uint32_t row)
{
    for (uint32_t b = 0; b < cols / 32; b++, x += 32) {
        size_t at = (size_t)row * act->stride + b;
        vf lo = vf_load(x), hi = vf_load(x + 16);
        float max = vf_hmax(vf_max(vf_abs(lo), vf_abs(hi)));
        /* A tiny maximum would make 127/max infinite; such a block is nothing but zeros for all that follows. */
        vf inverse = vf_set1(max > 1e-30f ? 127.0f / max : 0);
        int32_t s0 = quantize_half(lo, inverse, act->q + at * 32),
                s1 = quantize_half(hi, inverse, act->q + at * 32 + 16);

        act->d[at] = max / 127.0f;
        act->neg_sum16[2 * at] = s0;
        act->neg_sum16[2 * at + 1] = s1;
        act->neg_sum[at] = s0 + s1;
        act->sum[at] = act->d[at] * (float)-(s0 + s1);
    }
}

/* Results of one tile column into the output row: first the bias, then what was there. */
INLINE void put_result(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t col, vf y)
{
    uint32_t first = group * 16, left = mm->w->rows - first;
    float *out = mm->out + (size_t)col * mm->w->rows + first;

    if (left >= 16) {
        if (mm->bias != NULL)
            y = vf_add(y, vf_load(mm->bias + first));
        vf_store(out, mm->accumulate ? vf_add(vf_load(out), y) : y);
        return;
    }
    if (mm->bias != NULL)
        y = vf_add(y, vf_load_n(mm->bias + first, left));
    vf_store_n(out, left, mm->accumulate ? vf_add(vf_load_n(out, left), y) : y);
}

/* Four neighbouring columns (number g of a run of 32) of 16 rows as unsigned codes. */
INLINE vb codes(const uint8_t *run, int bits, int g)
{
    vb low;

    if (bits == 8)
        return vb_load(run + 64 * g);
    low = vb_and(g < 4 ? vb_load(run + 64 * (g % 4)) : vb_shr(vb_load(run + 64 * (g % 4)), 4), 15);
    if (bits == 5) {
        vb high = vb_load(run + 256);

        return vb_or(low, vb_and(g < 4 ? vb_shl(high, 4 - g) : vb_shr(high, g - 4), 16));
    }
    if (bits == 6) {
        vb high = vb_load(run + 256 + 64 * (g / 4));

        return vb_or(low,
                     vb_and(g % 4 < 2 ? vb_shl(high, 4 - 2 * (g % 4)) : vb_shr(high, 2 * (g % 4) - 4), 48));
    }
    return low;
}

/* Block formats. `type` and `nc` are constants where it is inlined, so every test of them vanishes. */
INLINE void tile_block(enum eng_type type, int nc, const struct eng_cpu_matmul *mm, uint32_t group,
                       uint32_t c0)
{
    const int bits = type == ENG_Q8_0                                           ? 8
                     : type == ENG_Q6_K                                         ? 6
                     : type == ENG_Q5_0 || type == ENG_Q5_1 || type == ENG_Q5_K ? 5
                                                                                : 4;
    const int bits_bytes = bits == 8 ? 512 : bits == 6 ? 384 : bits == 5 ? 320 : 256;
    const int offset = type == ENG_Q8_0   ? 128
                       : type == ENG_Q4_0 ? 8
                       : type == ENG_Q5_0 ? 16
                       : type == ENG_Q6_K ? 32
                                          : 0;
    const bool k_block = type == ENG_Q4_K || type == ENG_Q5_K || type == ENG_Q6_K;
    const bool has_min = type == ENG_Q4_1 || type == ENG_Q5_1;
    const uint32_t runs = k_block ? 8 : 1, header = k_block ? 320 : has_min ? 64 : 32;
    const struct eng_cpu_act *act = mm->act;
    const uint8_t *p = mm->w->packed + group * mm->w->group_bytes;
    const size_t stride = act->stride;
    vf acc[SIMD_COLS];

    UNROLL
    for (int c = 0; c < nc; c++)
        acc[c] = vf_set1(0);
    for (uint32_t b = 0; b < mm->w->cols / 32;) {
        const uint8_t *head = p;
        vf d = vf_load_f16((const uint16_t *)head), m = vf_set1(0);

        p += header;
        if (type == ENG_Q4_K || type == ENG_Q5_K || has_min)
            m = vf_load_f16((const uint16_t *)(head + 32));
        for (uint32_t run = 0; run < runs; run++, b++, p += bits_bytes) {
            const size_t at = c0 * stride + b;
            vi sum[SIMD_COLS];

            if (type == ENG_Q6_K) { /* a scale for each half of the run */
                UNROLL
                for (int half = 0; half < 2; half++) {
                    vf scale = vf_mul(d, vf_from_i8(head + 32 + 16 * (2 * run + (uint32_t)half)));

                    UNROLL
                    for (int c = 0; c < nc; c++)
                        sum[c] =
                            vi_set1(act->neg_sum16[2 * (at + (size_t)c * stride) + (size_t)half] * offset);
                    UNROLL
                    for (int g = 4 * half; g < 4 * half + 4; g++) {
                        vb w = codes(p, bits, g);

                        UNROLL
                        for (int c = 0; c < nc; c++)
                            sum[c] = vi_dot(sum[c], w, act->q + (at + (size_t)c * stride) * 32 + 4 * g, bits);
                    }
                    UNROLL
                    for (int c = 0; c < nc; c++)
                        acc[c] = vf_fma(vf_from_i(sum[c]),
                                        vf_mul(scale, vf_set1(act->d[at + (size_t)c * stride])), acc[c]);
                }
                continue;
            }
            UNROLL
            for (int c = 0; c < nc; c++)
                sum[c] = vi_set1(offset != 0 ? act->neg_sum[at + (size_t)c * stride] * offset : 0);
            UNROLL
            for (int g = 0; g < 8; g++) {
                vb w = codes(p, bits, g);

                UNROLL
                for (int c = 0; c < nc; c++)
                    sum[c] = vi_dot(sum[c], w, act->q + (at + (size_t)c * stride) * 32 + 4 * g, bits);
            }
            if (type == ENG_Q4_K || type == ENG_Q5_K) {
                vf scale = vf_mul(d, vf_from_u8(head + 64 + 16 * run)),
                   min = vf_mul(m, vf_from_u8(head + 192 + 16 * run));

                UNROLL
                for (int c = 0; c < nc; c++) {
                    acc[c] = vf_fma(vf_from_i(sum[c]),
                                    vf_mul(scale, vf_set1(act->d[at + (size_t)c * stride])), acc[c]);
                    acc[c] = vf_fnma(min, vf_set1(act->sum[at + (size_t)c * stride]), acc[c]);
                }
                continue;
            }
            UNROLL
            for (int c = 0; c < nc; c++) {
                acc[c] =
                    vf_fma(vf_from_i(sum[c]), vf_mul(d, vf_set1(act->d[at + (size_t)c * stride])), acc[c]);
                if (has_min)
                    acc[c] = vf_fma(m, vf_set1(act->sum[at + (size_t)c * stride]), acc[c]);
            }
        }
    }
    UNROLL
    for (int c = 0; c < nc; c++)
        put_result(mm, group, c0 + (uint32_t)c, acc[c]);
}

INLINE vf load_weights(enum eng_type type, const uint8_t *p)
{
    return type == ENG_F32   ? vf_load((const float *)p)
           : type == ENG_F16 ? vf_load_f16((const uint16_t *)p)
                             : vf_load_bf16((const uint16_t *)p);
}

/* Float formats: ng groups at once, because one column alone would wait for its own additions. */
INLINE void tile_float(enum eng_type type, int nc, int ng, const struct eng_cpu_matmul *mm, uint32_t group,
                       uint32_t c0)
{
    const size_t step = type == ENG_F32 ? 64 : 32, cols = mm->w->cols;
    const uint8_t *p = mm->w->packed + group * mm->w->group_bytes;
    const float *x = mm->x + c0 * cols;
    vf acc[SIMD_COLS];

    UNROLL
    for (int i = 0; i < nc * ng; i++)
        acc[i] = vf_set1(0);
    for (size_t k = 0; k < cols; k++) {
        UNROLL
        for (int g = 0; g < ng; g++) {
            vf w = load_weights(type, p + (size_t)g * mm->w->group_bytes + k * step);

            UNROLL
            for (int c = 0; c < nc; c++)
                acc[g * nc + c] = vf_fma(w, vf_set1(x[(size_t)c * cols + k]), acc[g * nc + c]);
        }
    }
    UNROLL
    for (int i = 0; i < nc * ng; i++)
        put_result(mm, group + (uint32_t)(i / nc), c0 + (uint32_t)(i % nc), acc[i]);
}

typedef void tile_fn(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0);

#define TILES(name, type)                                                                 \
    static void name##_all(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0)  \
    {                                                                                     \
        tile_block(type, SIMD_COLS, mm, group, c0);                                       \
    }                                                                                     \
    static void name##_half(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0) \
    {                                                                                     \
        tile_block(type, SIMD_COLS / 2, mm, group, c0);                                   \
    }                                                                                     \
    static void name##_one(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0)  \
    {                                                                                     \
        tile_block(type, 1, mm, group, c0);                                               \
    }

#define FLOAT_TILES(name, type)                                                           \
    static void name##_all(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0)  \
    {                                                                                     \
        tile_float(type, SIMD_COLS, 1, mm, group, c0);                                    \
    }                                                                                     \
    static void name##_half(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0) \
    {                                                                                     \
        tile_float(type, SIMD_COLS / 2, 1, mm, group, c0);                                \
    }                                                                                     \
    static void name##_one(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0)  \
    {                                                                                     \
        tile_float(type, 1, 1, mm, group, c0);                                            \
    }                                                                                     \
    static void name##_tall(const struct eng_cpu_matmul *mm, uint32_t group, uint32_t c0) \
    {                                                                                     \
        tile_float(type, 1, SIMD_COLS, mm, group, c0);                                    \
    }

FLOAT_TILES(f32, ENG_F32)
FLOAT_TILES(f16, ENG_F16)
FLOAT_TILES(bf16, ENG_BF16)
TILES(q4_0, ENG_Q4_0)
TILES(q4_1, ENG_Q4_1)
TILES(q5_0, ENG_Q5_0)
TILES(q5_1, ENG_Q5_1)
TILES(q8_0, ENG_Q8_0)
TILES(q4_k, ENG_Q4_K)
TILES(q5_k, ENG_Q5_K)
TILES(q6_k, ENG_Q6_K)

struct tiles {
    tile_fn *all, *half, *one;
    tile_fn *tall; /* one column, SIMD_COLS groups; NULL: none */
};

static const struct tiles tile_table[ENG_TYPE_END] = {
    [ENG_F32] = {f32_all, f32_half, f32_one, f32_tall},
    [ENG_F16] = {f16_all, f16_half, f16_one, f16_tall},
    [ENG_BF16] = {bf16_all, bf16_half, bf16_one, bf16_tall},
    [ENG_Q4_0] = {q4_0_all, q4_0_half, q4_0_one, NULL},
    [ENG_Q4_1] = {q4_1_all, q4_1_half, q4_1_one, NULL},
    [ENG_Q5_0] = {q5_0_all, q5_0_half, q5_0_one, NULL},
    [ENG_Q5_1] = {q5_1_all, q5_1_half, q5_1_one, NULL},
    [ENG_Q8_0] = {q8_0_all, q8_0_half, q8_0_one, NULL},
    [ENG_Q4_K] = {q4_k_all, q4_k_half, q4_k_one, NULL},
    [ENG_Q5_K] = {q5_k_all, q5_k_half, q5_k_one, NULL},
    [ENG_Q6_K] = {q6_k_all, q6_k_half, q6_k_one, NULL},
};

/* Tokens that pass over a piece of weights together: their rounded activations stay in the second-level cache. */
#define COLUMN_BLOCK 64u

static void simd_matmul(const struct eng_cpu_matmul *mm, uint32_t begin, uint32_t end, float *scratch)
{
    const struct tiles *t = &tile_table[mm->w->type];
    uint32_t group = begin;

    if (mm->n == 1 && t->tall != NULL) {
        for (; group + SIMD_COLS <= end; group += SIMD_COLS)
            t->tall(mm, group, 0);
        for (; group < end; group++)
            t->one(mm, group, 0);
        return;
    }
    for (uint32_t block = 0; block < mm->n; block += COLUMN_BLOCK) {
        uint32_t stop = mm->n - block < COLUMN_BLOCK ? mm->n : block + COLUMN_BLOCK;

        for (group = begin; group < end; group++) {
            uint32_t c = block;

            for (; c + SIMD_COLS <= stop; c += SIMD_COLS)
                t->all(mm, group, c);
            for (; c + SIMD_COLS / 2 <= stop; c += SIMD_COLS / 2)
                t->half(mm, group, c);
            for (; c < stop; c++)
                t->one(mm, group, c);
        }
    }
}

INLINE vf load_kv(enum eng_type type, const uint8_t *p, size_t i)
{
    return type == ENG_F32 ? vf_load((const float *)p + i) : vf_load_f16((const uint16_t *)p + i);
}

/* The first n of 16 values. */
INLINE vf load_kv_n(enum eng_type type, const uint8_t *p, size_t i, uint32_t n)
{
    uint16_t all[16] = {0};

    if (type == ENG_F32)
        return vf_load_n((const float *)p + i, n);
    memcpy(all, (const uint16_t *)p + i, n * sizeof(*all));
    return vf_load_f16(all);
}

/* Queries that attend together: rows of one sequence, sorted by how many positions they see. Each row's numbers are computed in an
 * order of its own, from the first position to the last, whoever else is in the batch. */
struct attend_rows {
    const struct eng_cpu_attention *a;
    const uint32_t *pages;
    size_t head_offset;
    float q[ENG_HEAD_DIM_MAX][ENG_ATTEND_ROWS];
    float *out[ENG_ATTEND_ROWS];
    uint32_t n[ENG_ATTEND_ROWS]; /* positions, ascending */
    float *scores;               /* [rows, score_stride] */
};

/* Scores of `nr` rows with the 16 tokens of one page. A row's scores past its own position are overwritten or never read. */
INLINE void score_page(enum eng_type type, int nr, const struct attend_rows *r, uint32_t page, vf scale)
{
    const uint8_t *k = r->a->k + r->pages[page] * r->a->page_bytes + r->head_offset;
    const uint32_t hd = r->a->head_dim;
    vf acc[ENG_ATTEND_ROWS];

    UNROLL
    for (int h = 0; h < nr; h++)
        acc[h] = vf_set1(0);
    for (uint32_t i = 0; i < hd; i++) {
        vf key = load_kv(type, k, (size_t)i * 16);

        UNROLL
        for (int h = 0; h < nr; h++)
            acc[h] = vf_fma(key, vf_set1(r->q[i][h]), acc[h]);
    }
    UNROLL
    for (int h = 0; h < nr; h++)
        vf_store(r->scores + (size_t)h * r->a->score_stride + page * 16, vf_mul(acc[h], scale));
}

/* Scores to weights that sum to 1; entries from n to the end of its page become 0. */
static void softmax(float *scores, uint32_t n)
{
    uint32_t padded = (n + 15) / 16 * 16;
    vf max, sum = vf_set1(0), top;

    for (uint32_t i = n; i < padded; i++)
        scores[i] = -INFINITY;
    max = vf_load(scores);
    for (uint32_t i = 16; i < padded; i += 16)
        max = vf_max(max, vf_load(scores + i));
    top = vf_set1(vf_hmax(max));
    for (uint32_t i = 0; i < padded; i += 16) {
        vf e = vf_exp(vf_sub(vf_load(scores + i), top));

        vf_store(scores + i, e);
        if (i + 16 > n) { /* the clamped exponential of -infinity is tiny, not zero */
            for (uint32_t j = n; j < padded; j++)
                scores[j] = 0;
            e = vf_load(scores + i);
        }
        sum = vf_add(sum, e);
    }
    sum = vf_set1(vf_sum(sum));
    for (uint32_t i = 0; i < padded; i += 16)
        vf_store(scores + i, vf_div(vf_load(scores + i), sum));
}

/* acc += the values of tokens [0, n) of one page, weighted for rows [first, first + nr). */
INLINE void mix_page(enum eng_type type, int first, int nr, const struct attend_rows *r, uint32_t page,
                     uint32_t n, uint32_t dim, vf *acc)
{
    const uint8_t *v = r->a->v + r->pages[page] * r->a->page_bytes + r->head_offset;
    const float *weights = r->scores + (size_t)first * r->a->score_stride + page * 16;
    const uint32_t hd = r->a->head_dim, width = hd - dim < 16 ? hd - dim : 16;

    for (uint32_t t = 0; t < n; t++) {
        size_t at = (size_t)t * hd + dim;
        vf value = width == 16 ? load_kv(type, v, at) : load_kv_n(type, v, at, width);

        UNROLL
        for (int h = 0; h < nr; h++)
            acc[h] = vf_fma(value, vf_set1(weights[(size_t)h * r->a->score_stride + t]), acc[h]);
    }
}

/* Sixteen output values (from `dim`) of each row: the pages that every row sees whole together, the rest one by one. */
INLINE void mix_values(enum eng_type type, int nr, const struct attend_rows *r, uint32_t dim)
{
    const uint32_t hd = r->a->head_dim, width = hd - dim < 16 ? hd - dim : 16, whole = r->n[0] / 16;
    vf acc[ENG_ATTEND_ROWS];

    UNROLL
    for (int h = 0; h < nr; h++)
        acc[h] = vf_set1(0);
    for (uint32_t page = 0; page < whole; page++)
        mix_page(type, 0, nr, r, page, 16, dim, acc);
    UNROLL
    for (int h = 0; h < nr; h++) {
        for (uint32_t page = whole; page * 16 < r->n[h]; page++)
            mix_page(type, h, 1, r, page, r->n[h] - page * 16 < 16 ? r->n[h] - page * 16 : 16, dim, &acc[h]);
        if (width == 16)
            vf_store(r->out[h] + dim, acc[h]);
        else
            vf_store_n(r->out[h] + dim, width, acc[h]);
    }
}

INLINE void attend_rows(enum eng_type type, int nr, const struct attend_rows *r)
{
    const uint32_t hd = r->a->head_dim;
    const vf scale = vf_set1(1.0f / sqrtf((float)hd));

    for (uint32_t page = 0; page * 16 < r->n[nr - 1]; page++)
        score_page(type, nr, r, page, scale);
    for (int h = 0; h < nr; h++)
        softmax(r->scores + (size_t)h * r->a->score_stride, r->n[h]);
    for (uint32_t dim = 0; dim < hd; dim += 16)
        mix_values(type, nr, r, dim);
}

static void attend_f32(int nr, const struct attend_rows *r)
{
    switch (nr) {
    case 8: attend_rows(ENG_F32, 8, r); return;
    case 4: attend_rows(ENG_F32, 4, r); return;
    case 2: attend_rows(ENG_F32, 2, r); return;
    default: attend_rows(ENG_F32, 1, r); return;
    }
}

static void attend_f16(int nr, const struct attend_rows *r)
{
    switch (nr) {
    case 8: attend_rows(ENG_F16, 8, r); return;
    case 4: attend_rows(ENG_F16, 4, r); return;
    case 2: attend_rows(ENG_F16, 2, r); return;
    default: attend_rows(ENG_F16, 1, r); return;
    }
}

static void simd_attend(const struct eng_cpu_attention *a, uint32_t token, uint32_t n, uint32_t kv_head,
                        float *scratch)
{
    const struct eng_step *st = a->step;
    const uint32_t group = a->n_heads / a->n_kv_heads, hd = a->head_dim, n_rows = n * group;
    struct attend_rows r; /* not initialised as a whole: q is large */

    r.a = a;
    r.pages = st->page_table + (size_t)st->sequences[token] * st->pages_per_sequence;
    r.head_offset = kv_head * (a->page_bytes / a->n_kv_heads);
    r.scores = scratch;
    for (uint32_t row = 0; row < n_rows;) {
        uint32_t left = n_rows - row, nr = left >= SIMD_COLS ? SIMD_COLS : left >= 4 ? 4 : left >= 2 ? 2 : 1;

        for (uint32_t h = 0; h < nr; h++, row++) {
            uint32_t t = token + row / group;
            size_t at = ((size_t)t * a->n_heads + kv_head * group + row % group) * hd;

            r.n[h] = st->positions[t] + 1;
            r.out[h] = a->out + at;
            for (uint32_t i = 0; i < hd; i++)
                r.q[i][h] = a->q[at + i];
        }
        if (a->type == ENG_F32)
            attend_f32((int)nr, &r);
        else
            attend_f16((int)nr, &r);
    }
}

#define SIMD_KERNELS                                                                            \
    .packs = true, .rms_norm = simd_rms_norm, .silu_mul = simd_silu_mul, .to_f16 = simd_to_f16, \
    .quantize = simd_quantize, .matmul = simd_matmul, .attend = simd_attend
