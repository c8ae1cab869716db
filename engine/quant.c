/* Weight formats: see quant.h. Reads by bytes, so that a block may lie at any address. */
#include "engine/quant.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian and are read in place"
#endif

static uint16_t load_u16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static float f32_from_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

float eng_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 0x1fu, frac = h & 0x3ffu;

    if (exp == 31) /* infinity and NaN; a signalling NaN becomes quiet, as the hardware does */
        return f32_from_bits(sign | 0x7f800000u | frac << 13 | (frac != 0 ? 0x400000u : 0));
    if (exp == 0) { /* zero and subnormal: frac * 2^-24, exact */
        float v = (float)frac * 0x1p-24f;

        return sign != 0 ? -v : v;
    }
    return f32_from_bits(sign | (exp + 112) << 23 | frac << 13);
}

uint16_t eng_f32_to_f16(float f)
{
    uint32_t bits, sign, abs;

    memcpy(&bits, &f, sizeof(bits));
    sign = bits >> 16 & 0x8000u;
    abs = bits & 0x7fffffffu;
    if (abs > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (abs >> 13 & 0x3ffu));
    if (abs >= 0x477ff000u) /* rounds past 65504 */
        return (uint16_t)(sign | 0x7c00u);
    if (abs < 0x38800000u) { /* below 2^-14: let float addition round at 2^-24 */
        float v = f32_from_bits(abs) + 0.5f;

        memcpy(&bits, &v, sizeof(bits));
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    abs += 0xfffu + (abs >> 13 & 1u);
    return (uint16_t)(sign | (abs - 0x38000000u) >> 13);
}

float eng_bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

void eng_k4_scale_min(int j, const uint8_t packed[12], uint8_t *ret_scale, uint8_t *ret_min)
{
    if (j < 4) {
        *ret_scale = packed[j] & 63;
        *ret_min = packed[j + 4] & 63;
    } else { /* the upper two bits of each hide in the first eight bytes */
        *ret_scale = (uint8_t)((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4);
        *ret_min = (uint8_t)((packed[j + 4] >> 4) | (packed[j] >> 6) << 4);
    }
}

static void dequant_f32(const uint8_t *src, float *out, size_t n)
{
    memcpy(out, src, n * sizeof(*out));
}

static void dequant_f16(const uint8_t *src, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = eng_f16_to_f32(load_u16(src + 2 * i));
}

static void dequant_bf16(const uint8_t *src, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = eng_bf16_to_f32(load_u16(src + 2 * i));
}

/* d, 32 signed bytes. */
static void dequant_q8_0(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 34, out += 32) {
        float d = eng_f16_to_f32(load_u16(src));

        for (int i = 0; i < 32; i++)
            out[i] = (float)(int8_t)src[2 + i] * d;
    }
}

/* d, 16 bytes: low nibbles are values 0..15, high ones 16..31; value (q - 8) * d. */
static void dequant_q4_0(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 18, out += 32) {
        float d = eng_f16_to_f32(load_u16(src));

        for (int i = 0; i < 16; i++) {
            out[i] = (float)((src[2 + i] & 15) - 8) * d;
            out[i + 16] = (float)((src[2 + i] >> 4) - 8) * d;
        }
    }
}

/* d, m, 16 bytes; value q * d + m. */
static void dequant_q4_1(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 20, out += 32) {
        float d = eng_f16_to_f32(load_u16(src)), m = eng_f16_to_f32(load_u16(src + 2));

        for (int i = 0; i < 16; i++) {
            out[i] = (float)(src[4 + i] & 15) * d + m;
            out[i + 16] = (float)(src[4 + i] >> 4) * d + m;
        }
    }
}

/* d, 32 fifth bits, 16 bytes; value (q - 16) * d. */
static void dequant_q5_0(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 22, out += 32) {
        float d = eng_f16_to_f32(load_u16(src));
        uint32_t high = load_u32(src + 2);

        for (int i = 0; i < 16; i++) {
            int lo = (src[6 + i] & 15) | (int)(high >> i & 1) << 4;
            int hi = (src[6 + i] >> 4) | (int)(high >> (i + 16) & 1) << 4;

            out[i] = (float)(lo - 16) * d;
            out[i + 16] = (float)(hi - 16) * d;
        }
    }
}

/* d, m, 32 fifth bits, 16 bytes; value q * d + m. */
static void dequant_q5_1(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 24, out += 32) {
        float d = eng_f16_to_f32(load_u16(src)), m = eng_f16_to_f32(load_u16(src + 2));
        uint32_t high = load_u32(src + 4);

        for (int i = 0; i < 16; i++) {
            int lo = (src[8 + i] & 15) | (int)(high >> i & 1) << 4;
            int hi = (src[8 + i] >> 4) | (int)(high >> (i + 16) & 1) << 4;

            out[i] = (float)lo * d + m;
            out[i + 16] = (float)hi * d + m;
        }
    }
}

/* d, dmin, 8 scales and 8 minima of 6 bits, 128 bytes: 4 runs of 32 bytes, each low nibbles then high nibbles. */
static void dequant_q4_k(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 144) {
        float d = eng_f16_to_f32(load_u16(src)), dmin = eng_f16_to_f32(load_u16(src + 2));
        const uint8_t *q = src + 16;

        for (int j = 0; j < 8; j++, out += 32) {
            uint8_t scale, min;
            float s, m;

            eng_k4_scale_min(j, src + 4, &scale, &min);
            s = d * (float)scale;
            m = dmin * (float)min;
            for (int i = 0; i < 32; i++)
                out[i] = s * (float)(q[32 * (j / 2) + i] >> 4 * (j & 1) & 15) - m;
        }
    }
}

/* As Q4_K with 32 bytes of fifth bits (bit j of byte i belongs to run j, value i) before the nibbles. */
static void dequant_q5_k(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 176) {
        float d = eng_f16_to_f32(load_u16(src)), dmin = eng_f16_to_f32(load_u16(src + 2));
        const uint8_t *high = src + 16, *q = src + 48;

        for (int j = 0; j < 8; j++, out += 32) {
            uint8_t scale, min;
            float s, m;

            eng_k4_scale_min(j, src + 4, &scale, &min);
            s = d * (float)scale;
            m = dmin * (float)min;
            for (int i = 0; i < 32; i++) {
                int v = (q[32 * (j / 2) + i] >> 4 * (j & 1) & 15) | (high[i] >> j & 1) << 4;

                out[i] = s * (float)v - m;
            }
        }
    }
}

/* 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales (one per 16 values), d; value d * scale * (q - 32).
 * Each half of 128 values: run r (0..3) of 32 takes nibble r/2 of byte 32*(r&1)+i and bit pair r of byte i. */
static void dequant_q6_k(const uint8_t *src, float *out, size_t n)
{
    for (; n > 0; n--, src += 210) {
        float d = eng_f16_to_f32(load_u16(src + 208));

        for (int run = 0; run < 8; run++, out += 32) {
            const uint8_t *low = src + 64 * (run / 4) + 32 * (run & 1), *high = src + 128 + 32 * (run / 4);
            const int8_t *scale = (const int8_t *)src + 192 + 2 * run;
            int r = run & 3;

            for (int i = 0; i < 32; i++) {
                int v = (low[i] >> 4 * (r / 2) & 15) | (high[i] >> 2 * r & 3) << 4;

                out[i] = d * (float)scale[i / 16] * (float)(v - 32);
            }
        }
    }
}

static const struct eng_type_info type_table[ENG_TYPE_END] = {
    [ENG_F32] = {"F32", 1, 4, dequant_f32},
    [ENG_F16] = {"F16", 1, 2, dequant_f16},
    [ENG_BF16] = {"BF16", 1, 2, dequant_bf16},
    [ENG_Q4_0] = {"Q4_0", 32, 18, dequant_q4_0},
    [ENG_Q4_1] = {"Q4_1", 32, 20, dequant_q4_1},
    [ENG_Q5_0] = {"Q5_0", 32, 22, dequant_q5_0},
    [ENG_Q5_1] = {"Q5_1", 32, 24, dequant_q5_1},
    [ENG_Q8_0] = {"Q8_0", 32, 34, dequant_q8_0},
    [ENG_Q4_K] = {"Q4_K", 256, 144, dequant_q4_k},
    [ENG_Q5_K] = {"Q5_K", 256, 176, dequant_q5_k},
    [ENG_Q6_K] = {"Q6_K", 256, 210, dequant_q6_k},
    [9] = {"Q8_1", 0, 0, NULL},
    [10] = {"Q2_K", 0, 0, NULL},
    [11] = {"Q3_K", 0, 0, NULL},
    [15] = {"Q8_K", 0, 0, NULL},
    [16] = {"IQ2_XXS", 0, 0, NULL},
    [17] = {"IQ2_XS", 0, 0, NULL},
    [18] = {"IQ3_XXS", 0, 0, NULL},
    [19] = {"IQ1_S", 0, 0, NULL},
    [20] = {"IQ4_NL", 0, 0, NULL},
    [21] = {"IQ3_S", 0, 0, NULL},
    [22] = {"IQ2_S", 0, 0, NULL},
    [23] = {"IQ4_XS", 0, 0, NULL},
    [24] = {"I8", 0, 0, NULL},
    [25] = {"I16", 0, 0, NULL},
    [26] = {"I32", 0, 0, NULL},
    [27] = {"I64", 0, 0, NULL},
    [28] = {"F64", 0, 0, NULL},
    [29] = {"IQ1_M", 0, 0, NULL},
    [34] = {"TQ1_0", 0, 0, NULL},
    [35] = {"TQ2_0", 0, 0, NULL},
    [39] = {"MXFP4", 0, 0, NULL},
    [40] = {"NVFP4", 0, 0, NULL},
};

const struct eng_type_info *eng_type_info(uint32_t type)
{
    return type < ENG_TYPE_END && type_table[type].name != NULL ? &type_table[type] : NULL;
}

bool eng_type_supported(uint32_t type)
{
    return type < ENG_TYPE_END && type_table[type].dequant != NULL;
}

size_t eng_row_bytes(enum eng_type type, size_t n)
{
    return n / type_table[type].block_values * type_table[type].block_bytes;
}

void eng_dequant(enum eng_type type, const void *src, float *out, size_t n)
{
    type_table[type].dequant(src, out, n / type_table[type].block_values);
}
