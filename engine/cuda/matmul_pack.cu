/* Weights into the device's layout, on the host: see matmul.h. */
#include "engine/cuda/matmul.h"

#include <string.h>

enum { ROWS = MM_ROWS, K_MAX = 256 };

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
    default: return mm_layout{0, 0, 0, 0, 0, 0, 0};
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

static uint64_t padded(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

uint64_t gpu_weight_bytes(const struct eng_weight_data *data)
{
    uint64_t bytes;

    if (data->rows == 0)
        bytes = (uint64_t)data->cols * sizeof(float);
    else if (data->type == ENG_F32)
        bytes = (uint64_t)data->rows * padded(data->cols, MM_F32_COLS) * sizeof(float);
    else
        bytes = padded(data->rows, ROWS) / ROWS * mm_units(data->type, data->cols) *
                mm_layout_of(data->type).bytes;
    return padded(bytes, GPU_ALIGN);
}

static uint16_t load16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static void store16(uint8_t *p, uint32_t v)
{
    uint16_t half = (uint16_t)v;

    memcpy(p, &half, sizeof(half));
}

static void store32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

/* One unit taken apart. */
struct unit {
    uint8_t codes[ROWS][K_MAX];
    uint16_t d[ROWS][8], min[ROWS][8]; /* f16: of each 32 values, or [0] of the whole unit */
    uint8_t scale[ROWS][16], k_min[ROWS][8];
};

/* ---- out of the file: one row's blocks of a unit ---- */

/* 16 bytes of nibbles: low ones are values 0..15, high ones 16..31; `high`: the fifth bits. */
static void read_nibbles(const uint8_t *src, uint32_t high, uint8_t *codes)
{
    for (unsigned i = 0; i < 16; i++) {
        codes[i] = (uint8_t)((src[i] & 15) | (high >> i & 1) << 4);
        codes[i + 16] = (uint8_t)(src[i] >> 4 | (high >> (i + 16) & 1) << 4);
    }
}

static void read_block_32(enum eng_type type, const uint8_t *src, struct unit *u, unsigned row,
                          unsigned block)
{
    uint8_t *codes = &u->codes[row][block * 32];
    bool has_min = type == ENG_Q4_1 || type == ENG_Q5_1, five = type == ENG_Q5_0 || type == ENG_Q5_1;
    uint32_t high = 0;

    u->d[row][block] = load16(src);
    src += 2;
    if (has_min) {
        u->min[row][block] = load16(src);
        src += 2;
    }
    if (five) {
        memcpy(&high, src, sizeof(high));
        src += 4;
    }
    if (type == ENG_Q8_0)
        for (unsigned i = 0; i < 32; i++)
            codes[i] = (uint8_t)(src[i] ^ 0x80); /* plus 128 */
    else
        read_nibbles(src, high, codes);
}

static void read_block_k45(enum eng_type type, const uint8_t *src, struct unit *u, unsigned row)
{
    const uint8_t *high = src + 16, *q = src + (type == ENG_Q5_K ? 48 : 16);

    u->d[row][0] = load16(src);
    u->min[row][0] = load16(src + 2);
    for (int j = 0; j < 8; j++) {
        uint8_t *codes = &u->codes[row][32 * j];

        eng_k4_scale_min(j, src + 4, &u->scale[row][j], &u->k_min[row][j]);
        for (int i = 0; i < 32; i++)
            codes[i] = q[32 * (j / 2) + i] >> 4 * (j & 1) & 15;
        if (type == ENG_Q5_K)
            for (int i = 0; i < 32; i++)
                codes[i] = (uint8_t)(codes[i] | (high[i] >> j & 1) << 4);
    }
}

static void read_block_k6(const uint8_t *src, struct unit *u, unsigned row)
{
    u->d[row][0] = load16(src + 208);
    for (unsigned j = 0; j < 16; j++)
        u->scale[row][j] = (uint8_t)(src[192 + j] ^ 0x80);
    for (int run = 0; run < 8; run++) {
        const uint8_t *low = src + 64 * (run / 4) + 32 * (run & 1), *high = src + 128 + 32 * (run / 4);
        uint8_t *codes = &u->codes[row][32 * run];

        for (int i = 0; i < 32; i++)
            codes[i] = (uint8_t)((low[i] >> 4 * (run % 4 / 2) & 15) | (high[i] >> 2 * (run & 3) & 3) << 4);
    }
}

/* ---- into the layout ---- */

/* Two neighbours in a row, as halves of a word. */
static inline uint32_t pair(const uint8_t *codes)
{
    return codes[0] | (uint32_t)codes[1] << 16;
}

template <uint32_t BITS>
static void write_codes(const struct mm_layout *l, const struct unit *u, uint8_t *out)
{
    for (uint32_t k = 0; k < l->k; k += 16)
        for (unsigned lane = 0; lane < 32; lane++) {
            unsigned step = k / MM_STEP, b = k / 32 % 2, s = k / 16 % 2;
            const uint8_t *row = &u->codes[lane / 4][k + 2 * (lane % 4)], *row8 = row + 8 * K_MAX;
            uint32_t r[4] = {pair(row), pair(row8), pair(row + 8), pair(row8 + 8)}, high = 0, had;
            uint8_t *to = out + (step * 32 + lane) * 16 + (2 * b + s) * 4;

            if constexpr (BITS == 8) {
                to = out + ((k / 32) * 32 + lane) * 16 + s * 8;
                store32(to, ((r[0] | r[0] >> 8) & 0xffff) | (r[1] | r[1] >> 8) << 16);
                store32(to + 4, ((r[2] | r[2] >> 8) & 0xffff) | (r[3] | r[3] >> 8) << 16);
                continue;
            }
            store32(to, (r[0] & 0x000f000f) | (r[1] & 0x000f000f) << 4 | (r[2] & 0x000f000f) << 8 |
                            (r[3] & 0x000f000f) << 12);
            if constexpr (BITS > 4) {
                for (unsigned i = 0; i < 4; i++)
                    high |= BITS == 5 ? (r[i] >> 4 & 0x00010001) << (8 * b + 4 * s + i)
                                      : (r[i] >> 4 & 0x00030003) << 2 * (4 * s + i);
                to = out + l->high + (BITS == 5 ? (step * 32 + lane) * 4 : ((step * 32 + lane) * 2 + b) * 4);
                memcpy(&had, to, sizeof(had));
                store32(to, had | high);
            }
        }
}

static void write_scales(enum eng_type type, const struct mm_layout *l, const struct unit *u, uint8_t *out)
{
    bool k45 = type == ENG_Q4_K || type == ENG_Q5_K;

    for (unsigned row = 0; row < ROWS; row++) {
        unsigned g = row % 8, second = row / 8;

        if (l->k < 256)
            for (unsigned b = 0; b < l->k / 32; b++)
                store16(out + l->d + (b * 8 + g) * 4 + second * 2, u->d[row][b]);
        else
            store16(out + l->d + g * (k45 ? 8 : 4) + second * 2, u->d[row][0]);
        if (type == ENG_Q6_K)
            for (unsigned j = 0; j < 16; j++)
                out[l->scale + g * 32 + j * 2 + second] = u->scale[row][j];
        if (type == ENG_Q4_1 || type == ENG_Q5_1)
            for (unsigned b = 0; b < 4; b++)
                store16(out + l->min + (row * 4 + b) * 2, u->min[row][b]);
        if (!k45)
            continue;
        store16(out + l->d + g * 8 + 4 + second * 2, u->min[row][0]);
        for (unsigned j = 0; j < 8; j++)
            out[l->scale + g * 16 + j * 2 + second] = u->scale[row][j];
        uint32_t nibbles = 0;

        for (unsigned t = 0; t < 4; t++) {
            uint8_t a = u->k_min[row][2 * t], b = u->k_min[row][2 * t + 1];

            out[l->min + row * 4 + t] = (uint8_t)(a | b << 6);
            nibbles |= (uint32_t)(b >> 2) << 4 * t;
        }
        store16(out + l->min + 64 + row * 2, nibbles);
    }
}

static void pack_16(const struct eng_weight_data *data, uint32_t row0, uint32_t k0, uint8_t *out)
{
    for (unsigned row = 0; row < ROWS && row0 + row < data->rows; row++) {
        const uint8_t *src = (const uint8_t *)data->data + ((uint64_t)(row0 + row) * data->cols + k0) * 2;

        for (unsigned k = 0; k < mm_layout_16.k && k0 + k < data->cols; k += 2) {
            unsigned lane = row % 8 * 4 + k % 8 / 2, i = row / 8 + k % 16 / 8 * 2;

            memcpy(out + ((k / 16 * 32 + lane) * 4 + i) * 4, src + k * 2, k0 + k + 1 < data->cols ? 4 : 2);
        }
    }
}

static void pack_unit(const struct eng_weight_data *data, const struct mm_layout *l, uint32_t row0,
                      uint32_t k0, struct unit *u, uint8_t *out)
{
    const struct eng_type_info *info = eng_type_info(data->type);
    size_t row_bytes = eng_row_bytes(data->type, data->cols);

    memset(u, 0, sizeof(*u));
    for (unsigned row = 0; row < ROWS && row0 + row < data->rows; row++) {
        const uint8_t *src = (const uint8_t *)data->data + (row0 + row) * row_bytes +
                             (size_t)(k0 / info->block_values) * info->block_bytes;

        if (data->type == ENG_Q6_K)
            read_block_k6(src, u, row);
        else if (l->k == 256)
            read_block_k45(data->type, src, u, row);
        else
            for (unsigned b = 0; b < l->k / 32 && k0 + b * 32 < data->cols; b++, src += info->block_bytes)
                read_block_32(data->type, src, u, row, b);
    }
    switch (l->bits) {
    case 4: write_codes<4>(l, u, out); break;
    case 5: write_codes<5>(l, u, out); break;
    case 6: write_codes<6>(l, u, out); break;
    default: write_codes<8>(l, u, out); break;
    }
    write_scales(data->type, l, u, out);
}

void gpu_weight_pack(const struct eng_weight_data *data, uint8_t *host_out)
{
    struct mm_layout l = mm_layout_of(data->type);
    uint32_t units = mm_units(data->type, data->cols);
    struct unit u;

    memset(host_out, 0, gpu_weight_bytes(data));
    if (data->rows == 0 || data->type == ENG_F32) {
        uint64_t stride = data->rows == 0 ? data->cols : padded(data->cols, MM_F32_COLS);

        for (uint32_t row = 0; row < (data->rows == 0 ? 1 : data->rows); row++)
            memcpy(host_out + row * stride * sizeof(float),
                   (const uint8_t *)data->data + (uint64_t)row * data->cols * sizeof(float),
                   data->cols * sizeof(float));
        return;
    }
    for (uint32_t row0 = 0; row0 < data->rows; row0 += ROWS)
        for (uint32_t i = 0; i < units; i++, host_out += l.bytes) {
            if (l.bits == 16)
                pack_16(data, row0, i * l.k, host_out);
            else
                pack_unit(data, &l, row0, i * l.k, &u, host_out);
        }
}
