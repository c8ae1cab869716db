/* Packing of weights for the vector kernels, at load time.
 *
 * A group (16 rows) is a sequence of units; a unit covers `span` columns and is a header with the scales of all 16 rows followed by
 * span/32 runs of codes. Codes are unsigned; a run of 32 columns is:
 *   4 bits: 4 vectors of 64 bytes. Byte 4 * lane + i of vector j: low nibble column 4 * j + i, high nibble column 4 * (j + 4) + i.
 *   5 bits: those, then one vector whose bit g of byte 4 * lane + i is the top bit of column 4 * g + i.
 *   6 bits: the 4, then two vectors h whose bit pair f of byte 4 * lane + i are the top bits of column 4 * (4 * h + f) + i.
 *   8 bits: 8 vectors; byte 4 * lane + i of vector g is column 4 * g + i, plus 128.
 * So 4 neighbouring columns of 16 rows are one 64-byte operand of a u8 x s8 dot product.
 * Headers: Q4_0 Q5_0 Q8_0: d[16] f16. Q4_1 Q5_1: d[16], m[16] f16. Q4_K Q5_K: d[16], dmin[16] f16, scale[8][16], min[8][16] u8.
 *   Q6_K: d[16] f16, scale[16][16] i8, 32 bytes of padding.
 * Float formats: [cols][16 rows] as they are.
 */
#include "engine/kernels_cpu.h"

#include <string.h>

#define L ENG_LANES

struct eng_cpu_format eng_cpu_format(enum eng_type type)
{
    switch (type) {
    case ENG_F32: return (struct eng_cpu_format){1, 0, 4 * L, 0};
    case ENG_F16:
    case ENG_BF16: return (struct eng_cpu_format){1, 0, 2 * L, 0};
    case ENG_Q4_0: return (struct eng_cpu_format){32, 2 * L, 256, 4};
    case ENG_Q4_1: return (struct eng_cpu_format){32, 4 * L, 256, 4};
    case ENG_Q5_0: return (struct eng_cpu_format){32, 2 * L, 320, 5};
    case ENG_Q5_1: return (struct eng_cpu_format){32, 4 * L, 320, 5};
    case ENG_Q8_0: return (struct eng_cpu_format){32, 2 * L, 512, 8};
    case ENG_Q4_K: return (struct eng_cpu_format){256, 20 * L, 256, 4};
    case ENG_Q5_K: return (struct eng_cpu_format){256, 20 * L, 320, 5};
    case ENG_Q6_K: return (struct eng_cpu_format){256, 20 * L, 384, 6};
    default: return (struct eng_cpu_format){0};
    }
}

size_t eng_cpu_group_bytes(enum eng_type type, uint32_t cols)
{
    struct eng_cpu_format f = eng_cpu_format(type);

    if (f.span == 1)
        return (size_t)cols * f.bits_bytes;
    return (size_t)cols / f.span * (f.header_bytes + (size_t)(f.span / 32) * f.bits_bytes);
}

/* The 32 unsigned codes of run `run` (0..7 in a K block, else 0) of one row's block. */
static void unpack_codes(enum eng_type type, const uint8_t *block, uint32_t run, uint8_t out[32])
{
    const uint8_t *q;
    uint32_t high;

    switch (type) {
    case ENG_Q8_0:
        for (uint32_t i = 0; i < 32; i++)
            out[i] = block[2 + i] ^ 0x80; /* int8 + 128 */
        return;
    case ENG_Q4_0:
    case ENG_Q4_1:
        q = block + (type == ENG_Q4_0 ? 2 : 4);
        for (uint32_t i = 0; i < 32; i++)
            out[i] = q[i % 16] >> (i / 16 * 4) & 15;
        return;
    case ENG_Q5_0:
    case ENG_Q5_1:
        q = block + (type == ENG_Q5_0 ? 2 : 4);
        memcpy(&high, q, 4);
        for (uint32_t i = 0; i < 32; i++)
            out[i] = (uint8_t)((q[4 + i % 16] >> (i / 16 * 4) & 15) | (high >> i & 1) << 4);
        return;
    case ENG_Q4_K:
    case ENG_Q5_K:
        q = block + (type == ENG_Q4_K ? 16 : 48) + 32 * (run / 2);
        for (uint32_t i = 0; i < 32; i++) {
            out[i] = q[i] >> 4 * (run & 1) & 15;
            if (type == ENG_Q5_K)
                out[i] |= (uint8_t)((block[16 + i] >> run & 1) << 4);
        }
        return;
    default: /* Q6_K */
        q = block + 64 * (run / 4) + 32 * (run & 1);
        for (uint32_t i = 0; i < 32; i++)
            out[i] = (uint8_t)((q[i] >> 4 * (run % 4 / 2) & 15) |
                               (block[128 + 32 * (run / 4) + i] >> 2 * (run & 3) & 3) << 4);
        return;
    }
}

/* One row's 32 codes into a zeroed run, four columns (a word) at a time; codes are small, so shifts stay inside their bytes. */
static void put_codes(uint32_t bits, uint32_t lane, const uint8_t codes[32], uint8_t *run)
{
    uint32_t word[8], out[8] = {0}, n_out = 4;

    memcpy(word, codes, sizeof(word));
    if (bits == 8) {
        memcpy(out, word, sizeof(out));
        n_out = 8;
    } else {
        for (uint32_t g = 0; g < 4; g++)
            out[g] = (word[g] & 0x0f0f0f0f) | (word[g + 4] & 0x0f0f0f0f) << 4;
    }
    if (bits == 5) {
        n_out = 5;
        for (uint32_t g = 0; g < 8; g++)
            out[4] |= (word[g] >> 4 & 0x01010101) << g;
    }
    if (bits == 6) {
        n_out = 6;
        for (uint32_t g = 0; g < 8; g++)
            out[4 + g / 4] |= (word[g] >> 4 & 0x03030303) << 2 * (g % 4);
    }
    for (uint32_t g = 0; g < n_out; g++)
        memcpy(run + 64 * g + 4 * lane, &out[g], 4);
}

static void put_header(enum eng_type type, uint32_t lane, const uint8_t *block, uint8_t *header)
{
    switch (type) {
    case ENG_Q4_1:
    case ENG_Q5_1:
        memcpy(header + 2 * lane, block, 2);
        memcpy(header + 2 * L + 2 * lane, block + 2, 2);
        return;
    case ENG_Q4_K:
    case ENG_Q5_K:
        memcpy(header + 2 * lane, block, 2);
        memcpy(header + 2 * L + 2 * lane, block + 2, 2);
        for (int j = 0; j < 8; j++)
            eng_k4_scale_min(j, block + 4, &header[4 * L + L * (unsigned)j + lane],
                             &header[12 * L + L * (unsigned)j + lane]);
        return;
    case ENG_Q6_K:
        memcpy(header + 2 * lane, block + 208, 2);
        for (uint32_t j = 0; j < 16; j++)
            header[2 * L + L * j + lane] = block[192 + j];
        return;
    default: memcpy(header + 2 * lane, block, 2); return;
    }
}

static void pack_floats(size_t value_bytes, const uint8_t *raw, uint32_t n_lanes, uint32_t cols, uint8_t *dst)
{
    for (uint32_t lane = 0; lane < n_lanes; lane++) {
        for (uint32_t c = 0; c < cols; c++)
            memcpy(dst + (c * L + lane) * value_bytes, raw + ((size_t)lane * cols + c) * value_bytes,
                   value_bytes);
    }
}

void eng_cpu_pack(enum eng_type type, const uint8_t *raw, uint32_t rows, uint32_t cols, uint32_t group,
                  uint8_t *dst)
{
    struct eng_cpu_format f = eng_cpu_format(type);
    size_t row_bytes = eng_row_bytes(type, cols), block_bytes = eng_type_info(type)->block_bytes;
    uint32_t first = group * L, n_lanes = rows - first < L ? rows - first : L;

    raw += first * row_bytes;
    memset(dst, 0, eng_cpu_group_bytes(type, cols));
    if (f.span == 1) {
        pack_floats(f.bits_bytes / L, raw, n_lanes, cols, dst);
        return;
    }
    for (uint32_t unit = 0; unit < cols / f.span; unit++) {
        for (uint32_t lane = 0; lane < n_lanes; lane++) {
            const uint8_t *block = raw + lane * row_bytes + unit * block_bytes;

            put_header(type, lane, block, dst);
            for (uint32_t run = 0; run < f.span / 32u; run++) {
                uint8_t codes[32];

                unpack_codes(type, block, run, codes);
                put_codes(f.bits, lane, codes, dst + f.header_bytes + run * f.bits_bytes);
            }
        }
        dst += f.header_bytes + (size_t)(f.span / 32u) * f.bits_bytes;
    }
}

/* The other way: one row's 32 codes. */
static void get_codes(uint32_t bits, uint32_t lane, const uint8_t *run, uint8_t codes[32])
{
    uint32_t word[8], in[8] = {0}, n_in = bits == 8 ? 8 : bits == 6 ? 6 : bits == 5 ? 5 : 4;

    for (uint32_t g = 0; g < n_in; g++)
        memcpy(&in[g], run + 64 * g + 4 * lane, 4);
    for (uint32_t g = 0; g < 8; g++) {
        word[g] = bits == 8 ? in[g] : in[g % 4] >> 4 * (g / 4) & 0x0f0f0f0f;
        if (bits == 5)
            word[g] |= (in[4] >> g & 0x01010101) << 4;
        if (bits == 6)
            word[g] |= (in[4 + g / 4] >> 2 * (g % 4) & 0x03030303) << 4;
    }
    memcpy(codes, word, sizeof(word));
}

static float header_f16(const uint8_t *header, uint32_t i)
{
    uint16_t h;

    memcpy(&h, header + 2 * i, sizeof(h));
    return eng_f16_to_f32(h);
}

/* What the codes of run `run` mean: the arithmetic of quant.c, so that the bits are the same. */
static void run_values(enum eng_type type, const uint8_t *header, uint32_t lane, uint32_t run,
                       const uint8_t codes[32], float out[32])
{
    const float d = header_f16(header, lane),
                m = type == ENG_Q4_1 || type == ENG_Q5_1 || type == ENG_Q4_K || type == ENG_Q5_K
                        ? header_f16(header, L + lane)
                        : 0;
    const uint8_t *scales = header + 4 * L + L * run + lane;

    switch (type) {
    case ENG_Q8_0:
    case ENG_Q4_0:
    case ENG_Q5_0:
        for (int i = 0; i < 32; i++)
            out[i] = (float)(codes[i] - (type == ENG_Q8_0 ? 128 : type == ENG_Q4_0 ? 8 : 16)) * d;
        return;
    case ENG_Q4_1:
    case ENG_Q5_1:
        for (int i = 0; i < 32; i++)
            out[i] = (float)codes[i] * d + m;
        return;
    case ENG_Q4_K:
    case ENG_Q5_K:
        for (int i = 0; i < 32; i++)
            out[i] = d * (float)scales[0] * (float)codes[i] - m * (float)scales[8 * L];
        return;
    default: /* Q6_K */
        for (uint32_t i = 0; i < 32; i++)
            out[i] =
                d * (float)(int8_t)header[2 * L + L * (2 * run + i / 16) + lane] * (float)(codes[i] - 32);
        return;
    }
}

void eng_cpu_unpack_row(enum eng_type type, const uint8_t *group, uint32_t cols, uint32_t lane, float *out)
{
    struct eng_cpu_format f = eng_cpu_format(type);

    if (f.span == 1) {
        for (uint32_t c = 0; c < cols; c++)
            eng_dequant(type, group + ((size_t)c * L + lane) * (f.bits_bytes / L), &out[c], 1);
        return;
    }
    for (uint32_t unit = 0; unit < cols / f.span; unit++) {
        for (uint32_t run = 0; run < f.span / 32u; run++, out += 32) {
            uint8_t codes[32];

            get_codes(f.bits, lane, group + f.header_bytes + run * f.bits_bytes, codes);
            run_values(type, group, lane, run, codes, out);
        }
        group += f.header_bytes + (size_t)(f.span / 32u) * f.bits_bytes;
    }
}
