/* Weights into the device's layout, on the host: see pack.h.
 *
 * Rows g and g + 8 of a tile meet in the same words. All that is needed to bring them there is one exchange (mix): of two words, the
 * fields of 1, 2, 4 ... 32 bits at even places to one, those at odd places to the other. It is shifts and masks, which every
 * processor has for 16 bytes at a time: two such pairs of rows, g and g + 1, are done at once.
 */
#include "engine/cuda/pack.h"

#include <string.h>

enum { ROWS = MM_ROWS, BLOCKS_MAX = 4 };

/* So that the format is a constant in each copy. */
#define INLINE static inline __attribute__((always_inline))

struct mm_layout mm_layout_of(enum eng_type type)
{
    switch (type) {
    case ENG_F16:
    case ENG_BF16: return mm_layout_16;
    case ENG_Q8_0: return mm_layout_q8_0;
    case ENG_Q4_0: return mm_layout_q4_0;
    case ENG_Q4_1: return mm_layout_q4_1;
    case ENG_Q5_0: return mm_layout_q5_0;
    case ENG_Q5_1: return mm_layout_q5_1;
    case ENG_Q4_K: return mm_layout_q4_k;
    case ENG_Q5_K: return mm_layout_q5_k;
    case ENG_Q6_K: return mm_layout_q6_k;
    default: return (struct mm_layout){0};
    }
}

uint32_t mm_units(enum eng_type type, uint32_t cols)
{
    uint32_t k = mm_layout_of(type).k;

    return k == 0 ? 0 : (cols + k - 1) / k;
}

bool gpu_weight_supported(enum eng_type type, unsigned uses)
{
    (void)uses; /* each format can do both */
    return type == ENG_F32 || mm_layout_of(type).k != 0;
}

static uint64_t parts_of(uint64_t n, uint64_t part)
{
    return (n + part - 1) / part;
}

/* Columns of a unit of floats. */
static uint32_t float_cols(const struct eng_weight_data *data)
{
    return data->rows == 0 ? GPU_ALIGN / sizeof(float) : MM_F32_COLS;
}

struct gpu_units gpu_weight_units(const struct eng_weight_data *data)
{
    uint32_t k = float_cols(data);

    if (data->rows == 0)
        return (struct gpu_units){parts_of(data->cols, k), k * (uint32_t)sizeof(float)};
    if (data->type == ENG_F32)
        return (struct gpu_units){data->rows * parts_of(data->cols, k), k * (uint32_t)sizeof(float)};
    return (struct gpu_units){parts_of(data->rows, ROWS) * mm_units(data->type, data->cols),
                              mm_layout_of(data->type).bytes};
}

uint64_t gpu_weight_bytes(const struct eng_weight_data *data)
{
    struct gpu_units units = gpu_weight_units(data);

    return parts_of(units.n * units.bytes, GPU_ALIGN) * GPU_ALIGN;
}

/* ---- words ---- */

static inline uint16_t load16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t load32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void store16(uint8_t *p, uint32_t v)
{
    uint16_t half = (uint16_t)v;

    memcpy(p, &half, sizeof(half));
}

static inline void store32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

/* The same 8 bytes of two rows that follow each other. */
typedef uint64_t wide __attribute__((vector_size(16)));

INLINE wide load(const uint8_t *row, const uint8_t *next)
{
    return (wide){load64(row), load64(next)};
}

INLINE void store(wide v, uint8_t *out, size_t to_next)
{
    memcpy(out, &v, 8);
    memcpy(out + to_next, (const uint8_t *)&v + 8, 8);
}

/* Fields of n bits: the even ones of x and y, in turn, to x; the odd ones to y. */
INLINE void mix(wide *x, wide *y, int n)
{
    const uint64_t m = n == 32   ? 0x00000000ffffffff
                       : n == 16 ? 0x0000ffff0000ffff
                       : n == 8  ? 0x00ff00ff00ff00ff
                       : n == 4  ? 0x0f0f0f0f0f0f0f0f
                       : n == 2  ? 0x3333333333333333
                                 : 0x5555555555555555;
    const wide mask = {m, m};
    wide differ = (*x >> n ^ *y) & mask; /* odd ones of x, even ones of y: these change places */

    *x ^= differ << n;
    *y ^= differ;
}

/* Changes places: the bits of mask with those n higher. */
INLINE wide swap(wide v, int n, uint64_t mask)
{
    wide moved = (v ^ v >> n) & (wide){mask, mask};

    return v ^ moved ^ moved << n;
}

/* Bytes in turn: x the first 16 bytes' lower half, y the upper. */
INLINE void interleave(wide *x, wide *y)
{
    mix(x, y, 8);
    mix(x, y, 16);
    mix(x, y, 32);
}

/* p and q: bytes of columns 2 t + h, and of those 8 further, of a block's first 16 columns; p1 and q1 of its second. out: of lane 4 g,
 * to_t bytes to the next t, to_g to the next g. */
INLINE void put_words(wide p, wide q, wide p1, wide q1, uint8_t *out, size_t to_t, size_t to_g)
{
    mix(&p, &q, 8);
    mix(&p, &q, 16);
    mix(&p1, &q1, 8);
    mix(&p1, &q1, 16);
    mix(&p, &p1, 32);
    mix(&q, &q1, 32);
    store(p, out, to_g);
    store(q, out + to_t, to_g);
    store(p1, out + 2 * to_t, to_g);
    store(q1, out + 3 * to_t, to_g);
}

/* ---- formats of 32 values a block ---- */

struct tile {
    const uint8_t *blocks[ROWS][BLOCKS_MAX];
};

INLINE wide load_at(const struct tile *t, int row, int block, int offset)
{
    return load(t->blocks[row][block] + offset, t->blocks[row + 1][block] + offset);
}

/* The fifth bits of a block, a word of each row, as 8 bytes: byte c has those of columns c, c + 8, c + 16, c + 24 of both rows. */
INLINE wide fifth_bits(const struct tile *t, int g, int block, int offset)
{
    wide v;

    for (int i = 0; i < 2; i++)
        v[i] = load32(t->blocks[g + i][block] + offset) |
               (uint64_t)load32(t->blocks[g + i + 8][block] + offset) << 32;
    v = swap(v, 16, 0x00000000ffff0000); /* bytes of both rows in turn */
    v = swap(v, 8, 0x0000ff000000ff00);
    v = swap(v, 7, 0x00aa00aa00aa00aa); /* bit c of byte r becomes bit r of byte c */
    v = swap(v, 14, 0x0000cccc0000cccc);
    return swap(v, 28, 0x00000000f0f0f0f0);
}

INLINE void put_bytes(const struct tile *t, int g, int block, uint8_t *out)
{
    const wide plus_128 = {0x8080808080808080, 0x8080808080808080};

    for (int s = 0; s < 2; s++) {
        wide a = load_at(t, g, block, 2 + 16 * s), b = load_at(t, g + 8, block, 2 + 16 * s);
        wide a8 = load_at(t, g, block, 10 + 16 * s), b8 = load_at(t, g + 8, block, 10 + 16 * s);

        mix(&a, &b, 16);
        mix(&a8, &b8, 16);
        mix(&a, &a8, 32);
        mix(&b, &b8, 32);
        store(a ^ plus_128, out + 8 * s, 64);
        store(b ^ plus_128, out + 16 + 8 * s, 64);
        store(a8 ^ plus_128, out + 32 + 8 * s, 64);
        store(b8 ^ plus_128, out + 48 + 8 * s, 64);
    }
}

INLINE void put_nibbles(const struct tile *t, int g, int block, int offset, uint8_t *out)
{
    wide p = load_at(t, g, block, offset), p1 = load_at(t, g + 8, block, offset);
    wide q = load_at(t, g, block, offset + 8), q1 = load_at(t, g + 8, block, offset + 8);

    mix(&p, &p1, 4);
    mix(&q, &q1, 4);
    put_words(p, q, p1, q1, out, 16, 64);
}

INLINE void pack_unit_32(enum eng_type type, const struct mm_layout *l, const struct tile *t, uint8_t *out)
{
    const bool has_min = type == ENG_Q4_1 || type == ENG_Q5_1, five = type == ENG_Q5_0 || type == ENG_Q5_1;
    const int bits = has_min ? 4 : 2, q = bits + (five ? 4 : 0); /* where they are in a block */

    for (int g = 0; g < 8; g += 2)
        for (int i = 0; i < 4; i++) {
            if (type == ENG_Q8_0)
                put_bytes(t, g, i, out + (i * 32 + 4 * g) * 16);
            else
                put_nibbles(t, g, i, q, out + (i / 2 * 32 + 4 * g) * 16 + i % 2 * 8);
            if (five && i % 2 == 1) {
                wide x = fifth_bits(t, g, i - 1, bits), y = fifth_bits(t, g, i, bits);

                interleave(&x, &y);
                store(x, out + l->high + (i / 2 * 32 + 4 * g) * 4, 16);
                store(y, out + l->high + (i / 2 * 32 + 4 * g) * 4 + 8, 16);
            }
        }
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < 4; i++) {
            store16(out + l->d + (i * 8 + row % 8) * 4 + row / 8 * 2, load16(t->blocks[row][i]));
            if (has_min)
                store16(out + l->min + (row * 4 + i) * 2, load16(t->blocks[row][i] + 2));
        }
}

/* ---- formats of 256 values a block ---- */

/* Minima of the 8 blocks of 32 of one row. */
INLINE void put_mins(uint64_t mins, uint8_t *bytes, uint8_t *nibbles)
{
    uint32_t word = 0, rest = 0;

    for (int t = 0; t < 4; t++) {
        uint32_t both = (uint32_t)(mins >> 16 * t) & 0xffff;

        word |= ((both & 0x3f) | (both >> 2 & 0xc0)) << 8 * t;
        rest |= both >> 10 << 4 * t;
    }
    store32(bytes, word);
    store16(nibbles, rest);
}

/* Each block of 32 has 6 bits of scale and 6 of minimum: eng_k4_scale_min, for all of them at once. */
INLINE void put_scales_k45(const struct mm_layout *l, const uint8_t *a, const uint8_t *b, int g, uint8_t *out)
{
    const uint8_t *const rows[2] = {a, b};
    wide x = {0, 0}, y = {0, 0};

    for (int i = 0; i < 2; i++) {
        uint32_t u = load32(rows[i] + 4), v = load32(rows[i] + 8), w = load32(rows[i] + 12);
        uint64_t scales = (u & 0x3f3f3f3f) | (uint64_t)((w & 0x0f0f0f0f) | (u >> 2 & 0x30303030)) << 32;
        uint64_t mins = (v & 0x3f3f3f3f) | (uint64_t)((w >> 4 & 0x0f0f0f0f) | (v >> 2 & 0x30303030)) << 32;

        if (i == 0)
            x[0] = scales;
        else
            y[0] = scales;
        put_mins(mins, out + l->min + (g + 8 * i) * 4, out + l->min + 64 + (g + 8 * i) * 2);
        store16(out + l->d + g * 8 + i * 2, load16(rows[i]));
        store16(out + l->d + g * 8 + 4 + i * 2, load16(rows[i] + 2));
    }
    interleave(&x, &y);
    memcpy(out + l->scale + g * 16, &x, 8);
    memcpy(out + l->scale + g * 16 + 8, &y, 8);
}

/* A bit of each block of 32 in each byte: to bytes as those of fifth_bits, block by block. */
INLINE void put_fifth_k5(const struct tile *t, int g, uint8_t *out)
{
    wide v[8];

    for (int i = 0; i < 4; i++) {
        v[2 * i] = load_at(t, g, 0, 16 + 8 * i);
        v[2 * i + 1] = load_at(t, g + 8, 0, 16 + 8 * i);
    }
    for (int i = 0; i < 8; i += 2)
        mix(&v[i], &v[i + 1], 1);
    for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1)
        mix(&v[i], &v[i + 2], 2);
    for (int i = 0; i < 4; i++)
        mix(&v[i], &v[i + 4], 4);
    for (int step = 0; step < 4; step++) {
        interleave(&v[2 * step], &v[2 * step + 1]);
        store(v[2 * step], out + (step * 32 + 4 * g) * 4, 16);
        store(v[2 * step + 1], out + (step * 32 + 4 * g) * 4 + 8, 16);
    }
}

INLINE void pack_unit_k45(enum eng_type type, const struct mm_layout *l, const struct tile *t, uint8_t *out)
{
    const int q = type == ENG_Q5_K ? 48 : 16;

    for (int g = 0; g < 8; g += 2) {
        for (int step = 0; step < 4; step++) {
            wide x[4], y[4];

            for (int i = 0; i < 4; i++) {
                x[i] = load_at(t, g, 0, q + 32 * step + 8 * i);
                y[i] = load_at(t, g + 8, 0, q + 32 * step + 8 * i);
                mix(&x[i], &y[i], 4);
            }
            put_words(x[0], x[1], x[2], x[3], out + (step * 32 + 4 * g) * 16, 16, 64);
            put_words(y[0], y[1], y[2], y[3], out + (step * 32 + 4 * g) * 16 + 8, 16, 64);
        }
        if (type == ENG_Q5_K)
            put_fifth_k5(t, g, out + l->high);
    }
    for (int g = 0; g < 8; g++)
        put_scales_k45(l, t->blocks[g][0], t->blocks[g + 8][0], g, out);
}

INLINE void pack_half_k6(const struct tile *t, int g, int half, const struct mm_layout *l, uint8_t *out)
{
    uint8_t *to = out + (2 * half * 32 + 4 * g) * 16, *high = out + l->high + (2 * half * 32 + 4 * g) * 8;
    wide pairs[2][4]; /* [s][run] */

    for (int b = 0; b < 2; b++) {
        wide x[4], y[4];

        for (int i = 0; i < 4; i++) {
            x[i] = load_at(t, g, 0, 64 * half + 32 * b + 8 * i);
            y[i] = load_at(t, g + 8, 0, 64 * half + 32 * b + 8 * i);
            mix(&x[i], &y[i], 4);
        }
        put_words(x[0], x[1], x[2], x[3], to + 8 * b, 16, 64);
        put_words(y[0], y[1], y[2], y[3], to + 32 * 16 + 8 * b, 16, 64);
    }
    for (int s = 0; s < 2; s++) {
        wide *v = pairs[s];

        for (int i = 0; i < 2; i++) {
            v[2 * i] = load_at(t, g, 0, 128 + 32 * half + 16 * s + 8 * i);
            v[2 * i + 1] = load_at(t, g + 8, 0, 128 + 32 * half + 16 * s + 8 * i);
            mix(&v[2 * i], &v[2 * i + 1], 2);
        }
        mix(&v[0], &v[2], 4);
        mix(&v[1], &v[3], 4);
    }
    for (int i = 0; i < 2; i++)
        put_words(pairs[0][2 * i], pairs[1][2 * i], pairs[0][2 * i + 1], pairs[1][2 * i + 1],
                  high + i * 32 * 8, 8, 32);
}

INLINE void pack_unit_k6(const struct mm_layout *l, const struct tile *t, uint8_t *out)
{
    const wide plus_128 = {0x8080808080808080, 0x8080808080808080};

    for (int g = 0; g < 8; g += 2) {
        pack_half_k6(t, g, 0, l, out);
        pack_half_k6(t, g, 1, l, out);
        for (int i = 0; i < 2; i++) {
            wide x = load_at(t, g, 0, 192 + 8 * i) ^ plus_128,
                 y = load_at(t, g + 8, 0, 192 + 8 * i) ^ plus_128;

            interleave(&x, &y);
            store(x, out + l->scale + g * 32 + 16 * i, 32);
            store(y, out + l->scale + g * 32 + 16 * i + 8, 32);
        }
    }
    for (int row = 0; row < ROWS; row++)
        store16(out + l->d + row % 8 * 4 + row / 8 * 2, load16(t->blocks[row][0] + 208));
}

/* ---- units ---- */

/* Blocks that become zeros, for what is past the ends. */
static const uint8_t zeros[176];
static const uint8_t q8_0_zeros[34] = {[2 ... 33] = 0x80};
static const uint8_t q6_k_zeros[210] = {[192 ... 207] = 0x80};

/* A row's bytes of a unit that comes soon. Sixteen streams, each of a line or two at a time, are more than processors foresee. The address
 * may be past the end of the data: nothing is read then. */
static inline void prefetch(const uint8_t *row, uint32_t ahead, uint32_t bytes)
{
    for (uint32_t at = ahead; at < ahead + bytes; at += 64)
        __builtin_prefetch((const void *)((uintptr_t)row + at));
}

static void pack_unit(const struct eng_weight_data *data, const struct mm_layout *l, uint64_t row0,
                      uint32_t k0, uint8_t *out)
{
    const struct eng_type_info *info = eng_type_info(data->type);
    const uint8_t *none = data->type == ENG_Q8_0 ? q8_0_zeros : data->type == ENG_Q6_K ? q6_k_zeros : zeros;
    struct tile t;
    uint32_t row_blocks = data->cols / info->block_values, block0 = k0 / info->block_values;
    uint32_t n_blocks = l->k / info->block_values;

    for (uint32_t row = 0; row < ROWS; row++) {
        for (uint32_t i = 0; i < n_blocks; i++) {
            bool there = row0 + row < data->rows && block0 + i < row_blocks;

            t.blocks[row][i] = there ? (const uint8_t *)data->data +
                                           ((row0 + row) * row_blocks + block0 + i) * info->block_bytes
                                     : none;
        }
        prefetch(t.blocks[row][0], n_blocks * info->block_bytes, n_blocks * info->block_bytes);
    }
    switch (data->type) {
    case ENG_Q8_0: pack_unit_32(ENG_Q8_0, &mm_layout_q8_0, &t, out); break;
    case ENG_Q4_0: pack_unit_32(ENG_Q4_0, &mm_layout_q4_0, &t, out); break;
    case ENG_Q4_1: pack_unit_32(ENG_Q4_1, &mm_layout_q4_1, &t, out); break;
    case ENG_Q5_0: pack_unit_32(ENG_Q5_0, &mm_layout_q5_0, &t, out); break;
    case ENG_Q5_1: pack_unit_32(ENG_Q5_1, &mm_layout_q5_1, &t, out); break;
    case ENG_Q4_K: pack_unit_k45(ENG_Q4_K, &mm_layout_q4_k, &t, out); break;
    case ENG_Q5_K: pack_unit_k45(ENG_Q5_K, &mm_layout_q5_k, &t, out); break;
    default: pack_unit_k6(&mm_layout_q6_k, &t, out); break;
    }
}

static void pack_unit_16(const struct eng_weight_data *data, uint64_t row0, uint32_t k0, uint8_t *out)
{
    const uint8_t *src = (const uint8_t *)data->data + (row0 * data->cols + k0) * 2;
    size_t stride = (size_t)data->cols * 2;
    uint32_t n_rows = data->rows - row0 < ROWS ? (uint32_t)(data->rows - row0) : ROWS;
    uint32_t n_cols = data->cols - k0 < mm_layout_16.k ? data->cols - k0 : mm_layout_16.k;
    uint8_t whole[ROWS][128];

    for (uint32_t row = 0; row < n_rows; row++)
        prefetch(src + row * stride, 2 * sizeof(whole[0]), sizeof(whole[0]));
    if (n_rows < ROWS || n_cols < mm_layout_16.k) {
        memset(whole, 0, sizeof(whole));
        for (uint32_t row = 0; row < n_rows; row++)
            memcpy(whole[row], src + row * stride, n_cols * 2);
        src = whole[0];
        stride = sizeof(whole[0]);
    }
    for (unsigned g = 0; g < 8; g += 2)
        for (unsigned i = 0; i < 16; i++) { /* four columns at a time */
            const uint8_t *a = src + g * stride + 8 * i, *b = a + 8 * stride;
            wide x = load(a, a + stride), y = load(b, b + stride);
            uint8_t *to = out + (i / 4 * 32 + 4 * g + i % 2 * 2) * 16 + i / 2 % 2 * 8;

            mix(&x, &y, 32);
            store(x, to, 64);
            store(y, to + 16, 64);
        }
}

static void pack_floats(const struct eng_weight_data *data, uint64_t first, uint64_t n, uint8_t *out)
{
    uint32_t k = float_cols(data), units = (uint32_t)parts_of(data->cols, k), at = (uint32_t)(first % units);
    uint64_t row = first / units;

    for (; n > 0; n--, out += k * sizeof(float)) {
        uint32_t n_cols = data->cols - at * k < k ? data->cols - at * k : k;

        memcpy(out, (const uint8_t *)data->data + (row * data->cols + at * k) * sizeof(float),
               n_cols * sizeof(float));
        memset(out + n_cols * sizeof(float), 0, (k - n_cols) * sizeof(float));
        if (++at == units) {
            at = 0;
            row++;
        }
    }
}

void gpu_weight_pack(const struct eng_weight_data *data, uint64_t first, uint64_t n, uint8_t *host_out)
{
    struct mm_layout l = mm_layout_of(data->type);
    uint32_t units = mm_units(data->type, data->cols), at;
    uint64_t row0;

    if (data->rows == 0 || data->type == ENG_F32) {
        pack_floats(data, first, n, host_out);
        return;
    }
    at = (uint32_t)(first % units);
    row0 = first / units * ROWS;
    for (; n > 0; n--, host_out += l.bytes) {
        if (l.bits == 16)
            pack_unit_16(data, row0, at * l.k, host_out);
        else
            pack_unit(data, &l, row0, at * l.k, host_out);
        if (++at == units) {
            at = 0;
            row0 += ROWS;
        }
    }
}
