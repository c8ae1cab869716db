/* Weights into the device's layout, on the host: see product.h. */
#include "engine/cuda/product.h"

#include <string.h>

bool gpu_weight_supported(enum eng_type type, unsigned)
{
    return type == ENG_F32 || type == ENG_F16 || type == ENG_BF16 || gpu_format_of(type).bits != 0;
}

static uint32_t n_spans(enum eng_type type, uint32_t cols)
{
    unsigned span = gpu_format_of(type).span_cols;

    return (cols + span - 1) / span;
}

uint64_t gpu_weight_bytes(const struct eng_weight_data *data)
{
    uint64_t tiles = ((uint64_t)data->rows + TILE_ROWS - 1) / TILE_ROWS;

    return tiles * n_spans(data->type, data->cols) * gpu_span_bytes(data->type);
}

static uint16_t u16_at(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, 2);
    return v;
}

/* One block of a row: codes [block values] and what scales them. */
struct block {
    uint8_t codes[256];
    uint16_t d, m;               /* m: minimum, or dmin of a K format */
    uint8_t scales[16], mins[8]; /* K formats */
};

static void read_nibbles(const uint8_t *q, uint8_t *codes)
{
    for (unsigned i = 0; i < 16; i++) {
        codes[i] = q[i] & 15;
        codes[i + 16] = q[i] >> 4;
    }
}

static void read_fifth_bits(const uint8_t *bits, uint8_t *codes)
{
    for (unsigned i = 0; i < 32; i++)
        codes[i] |= (uint8_t)((bits[i / 8] >> i % 8 & 1) << 4);
}

static void read_k_nibbles(const uint8_t *q, uint8_t *codes)
{
    for (unsigned j = 0; j < 8; j++)
        for (unsigned i = 0; i < 32; i++)
            codes[32 * j + i] = q[32 * (j / 2) + i] >> 4 * (j & 1) & 15;
}

static void read_q6_codes(const uint8_t *src, uint8_t *codes)
{
    for (unsigned run = 0; run < 8; run++) {
        const uint8_t *low = src + 64 * (run / 4) + 32 * (run & 1), *high = src + 128 + 32 * (run / 4);
        unsigned r = run & 3;

        for (unsigned i = 0; i < 32; i++)
            codes[32 * run + i] = (uint8_t)((low[i] >> 4 * (r / 2) & 15) | (high[i] >> 2 * r & 3) << 4);
    }
}

/* The file's block (quant.c has the layouts). */
static void read_block(enum eng_type type, const uint8_t *src, struct block *b)
{
    b->d = u16_at(src);
    b->m = u16_at(src + 2);
    switch (type) {
    case ENG_Q4_0: read_nibbles(src + 2, b->codes); break;
    case ENG_Q4_1: read_nibbles(src + 4, b->codes); break;
    case ENG_Q5_0:
        read_nibbles(src + 6, b->codes);
        read_fifth_bits(src + 2, b->codes);
        break;
    case ENG_Q5_1:
        read_nibbles(src + 8, b->codes);
        read_fifth_bits(src + 4, b->codes);
        break;
    case ENG_Q8_0:
        for (unsigned i = 0; i < 32; i++)
            b->codes[i] = (uint8_t)(src[2 + i] ^ 0x80);
        break;
    case ENG_Q6_K:
        read_q6_codes(src, b->codes);
        memcpy(b->scales, src + 192, 16);
        b->d = u16_at(src + 208);
        break;
    default: /* Q4_K, Q5_K */
        for (int j = 0; j < 8; j++)
            eng_k4_scale_min(j, src + 4, &b->scales[j], &b->mins[j]);
        read_k_nibbles(src + (type == ENG_Q5_K ? 48 : 16), b->codes);
        for (unsigned j = 0; type == ENG_Q5_K && j < 8; j++)
            for (unsigned i = 0; i < 32; i++)
                b->codes[32 * j + i] |= (uint8_t)((src[16 + i] >> j & 1) << 4);
        break;
    }
}

/* Puts a code into a unit; col is within the unit. */
static void put_code(enum eng_type type, uint8_t *unit, unsigned row, unsigned col, unsigned code)
{
    struct gpu_place_of_value at = gpu_place_in_step(row, col % 16);
    unsigned step = col / 16, bits = gpu_format_of(type).bits;
    uint8_t *high = unit + gpu_low_bytes(type);

    if (bits == 8) {
        unsigned word = step * 2 + at.reg / 2; /* of 8: four in each 16-byte part */

        unit[(word / 4 * LANES + at.lane) * 16 + word % 4 * 4 + at.half * 2 + at.reg % 2] = (uint8_t)code;
        return;
    }
    unit[at.lane * 16 + step * 4 + at.half * 2 + at.reg / 2] |= (uint8_t)((code & 15) << at.reg % 2 * 4);
    if (bits == 5) { /* bit 4 step + reg of each half word */
        unsigned bit = step * 4 + at.reg;

        high[at.lane * 4 + at.half * 2 + bit / 8] |= (uint8_t)((code >> 4) << bit % 8);
    } else if (bits == 6) { /* a word for two steps */
        unsigned bit = step % 2 * 8 + at.reg * 2;

        high[at.lane * 8 + step / 2 * 4 + at.half * 2 + bit / 8] |= (uint8_t)((code >> 4) << bit % 8);
    }
}

static void put_u16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

/* One block of one row into its tile. */
static void put_block(enum eng_type type, uint8_t *tile, unsigned row, uint32_t first_col,
                      const struct block *b)
{
    const struct gpu_format f = gpu_format_of(type);
    unsigned n = eng_type_info(type)->block_values;
    uint8_t *span = tile + first_col / f.span_cols * (uint64_t)gpu_span_bytes(type);

    for (unsigned i = 0; i < n; i++) {
        unsigned col = first_col % f.span_cols + i;
        uint8_t *unit = span + gpu_head_bytes(type) + col / UNIT_COLS * gpu_unit_bytes(type);
        uint8_t *scales = unit + gpu_low_bytes(type) + gpu_high_bytes(type);
        unsigned in_unit = col % UNIT_COLS, slot = in_unit / 32 * TILE_ROWS + row;

        put_code(type, unit, row, in_unit, b->codes[i]);
        if (f.scale == SCALE_K_16 && in_unit % 16 == 0)
            scales[in_unit / 16 * TILE_ROWS + row] = b->scales[i / 16];
        if (in_unit % 32 != 0)
            continue;
        if (f.scale == SCALE_D) {
            put_u16(scales + slot * 2, b->d);
        } else if (f.scale == SCALE_DM) {
            put_u16(scales + slot * 4, b->d);
            put_u16(scales + slot * 4 + 2, b->m);
        } else if (f.scale == SCALE_K) {
            scales[slot * 2] = b->scales[i / 32];
            scales[slot * 2 + 1] = b->mins[i / 32];
        }
    }
    if (f.scale == SCALE_K) {
        put_u16(span + row * 4, b->d);
        put_u16(span + row * 4 + 2, b->m);
    } else if (f.scale == SCALE_K_16)
        put_u16(span + row * 2, b->d);
}

static void put_float(enum eng_type type, uint8_t *tile, unsigned row, uint32_t col, const uint8_t *value)
{
    uint8_t *unit = tile + col / UNIT_COLS * (uint64_t)gpu_unit_bytes(type);
    struct gpu_place_of_value at = gpu_place_in_step(row, col % 16);
    unsigned step = col % UNIT_COLS / 16;

    if (type == ENG_F32) {
        unsigned v = at.reg * 2 + at.half;

        memcpy(unit + ((step * 2 + v / 4) * LANES + at.lane) * 16 + v % 4 * 4, value, 4);
    } else
        memcpy(unit + (step * LANES + at.lane) * 16 + at.reg * 4 + at.half * 2, value, 2);
}

void gpu_weight_pack(const struct eng_weight_data *data, uint8_t *host_out)
{
    const struct eng_type_info *info = eng_type_info(data->type);
    uint64_t tile_bytes = (uint64_t)n_spans(data->type, data->cols) * gpu_span_bytes(data->type);
    size_t row_bytes = eng_row_bytes(data->type, data->cols);

    memset(host_out, 0, gpu_weight_bytes(data));
    for (uint32_t row = 0; row < data->rows; row++) {
        const uint8_t *src = (const uint8_t *)data->data + row * row_bytes;
        uint8_t *tile = host_out + row / TILE_ROWS * tile_bytes;

        for (uint32_t col = 0; col < data->cols; col += info->block_values, src += info->block_bytes) {
            struct block b = {};

            if (gpu_format_of(data->type).bits == 0) {
                put_float(data->type, tile, row % TILE_ROWS, col, src);
                continue;
            }
            read_block(data->type, src, &b);
            put_block(data->type, tile, row % TILE_ROWS, col, &b);
        }
    }
}
