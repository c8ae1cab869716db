/* The host's packer against the layout as pack.h describes it, bit by bit; and by several threads. Needs no device and no emulator. */
#include "engine/cuda/pack.h"
#include "engine/pool.h"

#include "tap.h"

#include <stdlib.h>
#include <string.h>

static const enum eng_type types[] = {ENG_F32,  ENG_F16,  ENG_BF16, ENG_Q4_0, ENG_Q4_1, ENG_Q5_0,
                                      ENG_Q5_1, ENG_Q8_0, ENG_Q4_K, ENG_Q5_K, ENG_Q6_K};
#define N_TYPES (sizeof(types) / sizeof(types[0]))

static uint32_t state = 1;

static uint8_t random_byte(void)
{
    state = state * 1664525 + 1013904223;
    return (uint8_t)(state >> 24);
}

/* To the byte, so that a read past the end is seen. */
static struct eng_weight_data make(enum eng_type type, uint32_t rows, uint32_t cols)
{
    size_t n = (rows > 0 ? rows : 1) * eng_row_bytes(type, cols);
    uint8_t *raw = malloc(n);

    for (size_t i = 0; i < n; i++)
        raw[i] = random_byte();
    return (struct eng_weight_data){.type = type, .rows = rows, .cols = cols, .data = raw};
}

static uint16_t half_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void put_half(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* ---- the layout, value by value ---- */

static const uint8_t *block_of(const struct eng_weight_data *data, uint32_t row, uint32_t col)
{
    const struct eng_type_info *info = eng_type_info(data->type);

    return (const uint8_t *)data->data + row * eng_row_bytes(data->type, data->cols) +
           col / info->block_values * info->block_bytes;
}

/* The code of a value, as the file has it but for a sign: Q8_0 plus 128. */
static unsigned code_of(enum eng_type type, const uint8_t *block, uint32_t i)
{
    uint32_t run = i / 32, c = i % 32, high = 0;
    const uint8_t *q = block;

    switch (type) {
    case ENG_Q8_0: return block[2 + i] ^ 0x80;
    case ENG_Q4_0:
    case ENG_Q4_1: return block[(type == ENG_Q4_1 ? 4 : 2) + i % 16] >> i / 16 * 4 & 15;
    case ENG_Q5_0:
    case ENG_Q5_1:
        q += type == ENG_Q5_1 ? 4 : 2;
        memcpy(&high, q, 4);
        return (q[4 + i % 16] >> i / 16 * 4 & 15) | (high >> i & 1) << 4;
    case ENG_Q4_K: return block[16 + run / 2 * 32 + c] >> run % 2 * 4 & 15;
    case ENG_Q5_K:
        return (block[48 + run / 2 * 32 + c] >> run % 2 * 4 & 15) | (block[16 + c] >> run & 1) << 4;
    default: /* Q6_K */
        return (block[run / 4 * 64 + run % 2 * 32 + c] >> run % 4 / 2 * 4 & 15) |
               (block[128 + run / 4 * 32 + c] >> run % 4 * 2 & 3) << 4;
    }
}

static void place_code(const struct mm_layout *l, unsigned code, uint32_t row, uint32_t k, uint8_t *unit)
{
    uint32_t g = row % 8, col = k % 16, t = col % 8 / 2, h = col % 2, i = row / 8 + col / 8 * 2,
             lane = 4 * g + t;
    uint32_t step = k / 64, b = k / 32 % 2, s = k / 16 % 2, bit;

    if (l->bits == 8) {
        unit[(k / 32 * 32 + lane) * 16 + 8 * s + 2 * i + h] = (uint8_t)code;
        return;
    }
    bit = ((step * 32 + lane) * 4 + 2 * b + s) * 32 + 4 * i + 16 * h;
    unit[bit / 8] |= (uint8_t)((code & 15) << bit % 8);
    if (l->bits == 5)
        bit = (l->high * 8) + (step * 32 + lane) * 32 + 8 * b + 4 * s + i + 16 * h;
    if (l->bits == 6)
        bit = (l->high * 8) + ((step * 32 + lane) * 2 + b) * 32 + 2 * (4 * s + i) + 16 * h;
    if (l->bits > 4)
        unit[bit / 8] |= (uint8_t)(code >> 4 << bit % 8);
}

static void place_scales_k45(const struct mm_layout *l, const uint8_t *block, uint32_t row, uint8_t *unit)
{
    uint32_t g = row % 8, second = row / 8;
    unsigned nibbles = 0;

    put_half(unit + l->d + g * 8 + second * 2, half_at(block));
    put_half(unit + l->d + g * 8 + 4 + second * 2, half_at(block + 2));
    for (int j = 0; j < 8; j++) {
        uint8_t scale, min, first;

        eng_k4_scale_min(j, block + 4, &scale, &min);
        unit[l->scale + g * 16 + (unsigned)j * 2 + second] = scale;
        if (j % 2 == 0)
            continue;
        eng_k4_scale_min(j - 1, block + 4, &scale, &first);
        unit[l->min + row * 4 + (unsigned)j / 2] = (uint8_t)(first | (min & 3) << 6);
        nibbles |= (unsigned)(min >> 2) << 4 * (j / 2);
    }
    put_half(unit + l->min + 64 + row * 2, (uint16_t)nibbles);
}

static void place_scales(enum eng_type type, const struct mm_layout *l, const uint8_t *block, uint32_t row,
                         uint32_t k, uint8_t *unit)
{
    uint32_t g = row % 8, second = row / 8;

    switch (type) {
    case ENG_Q4_K:
    case ENG_Q5_K: place_scales_k45(l, block, row, unit); break;
    case ENG_Q6_K:
        put_half(unit + l->d + g * 4 + second * 2, half_at(block + 208));
        for (unsigned j = 0; j < 16; j++)
            unit[l->scale + g * 32 + j * 2 + second] = block[192 + j] ^ 0x80;
        break;
    default:
        put_half(unit + l->d + (k / 32 * 8 + g) * 4 + second * 2, half_at(block));
        if (l->min != 0)
            put_half(unit + l->min + (row * 4 + k / 32) * 2, half_at(block + 2));
    }
}

/* One value after the other; slow, and as plain as the description. */
static void pack_plainly(const struct eng_weight_data *data, uint8_t *out)
{
    struct mm_layout l = mm_layout_of(data->type);
    const struct eng_type_info *info = eng_type_info(data->type);
    uint32_t units = mm_units(data->type, data->cols), rows = data->rows > 0 ? data->rows : 1;
    uint64_t stride = data->rows > 0 ? (data->cols + 127) / 128 * 128 : data->cols;

    memset(out, 0, gpu_weight_bytes(data));
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t col = 0; col < data->cols; col++) {
            const uint8_t *block = block_of(data, row, col);
            uint8_t *unit = out + ((uint64_t)(row / 16) * units + (l.k > 0 ? col / l.k : 0)) * l.bytes;
            uint32_t r = row % 16, k = l.k > 0 ? col % l.k : 0, c = k % 16;

            if (data->type == ENG_F32) {
                memcpy(out + (row * stride + col) * 4, block, 4);
            } else if (l.bits == 16) {
                uint32_t lane = r % 8 * 4 + c % 8 / 2, i = r / 8 + c / 8 * 2;

                put_half(unit + (k / 16 * 32 + lane) * 16 + i * 4 + c % 2 * 2, half_at(block));
            } else {
                place_code(&l, code_of(data->type, block, col % info->block_values), r, k, unit);
                if (col % info->block_values == 0)
                    place_scales(data->type, &l, block, r, k, unit);
            }
        }
}

static bool same(const struct eng_weight_data *data, const uint8_t *want, const uint8_t *got, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (want[i] != got[i]) {
            printf("# %s [%u, %u]: byte %zu of %zu is %u, expected %u\n", eng_type_info(data->type)->name,
                   data->rows, data->cols, i, n, got[i], want[i]);
            return false;
        }
    return true;
}

static void check_shape(enum eng_type type, uint32_t rows, uint32_t cols)
{
    struct eng_weight_data data = make(type, rows, cols);
    struct gpu_units units = gpu_weight_units(&data);
    size_t bytes = gpu_weight_bytes(&data);
    uint8_t *want = malloc(bytes), *got = malloc(units.n * units.bytes);

    CHECK(units.n * units.bytes <= bytes && bytes - units.n * units.bytes < GPU_ALIGN &&
          bytes % GPU_ALIGN == 0);
    pack_plainly(&data, want);
    memset(got, 0xcd, units.n * units.bytes);
    gpu_weight_pack(&data, 0, units.n, got);
    CHECK(same(&data, want, got, units.n * units.bytes));
    /* In pieces, the last one first: nothing but their own bytes is written. */
    memset(got, 0xcd, units.n * units.bytes);
    for (uint64_t end = units.n, n; end > 0; end -= n) {
        n = end < 3 ? end : 3;
        gpu_weight_pack(&data, end - n, n, got + (end - n) * units.bytes);
        CHECK(end == n || got[(end - n) * units.bytes - 1] == 0xcd);
    }
    CHECK(same(&data, want, got, units.n * units.bytes));
    free(want);
    free(got);
    free((void *)data.data);
}

static void test_gpu_weight_pack__is_the_layout_bit_by_bit(void)
{
    static const uint32_t rows[] = {1, 8, 9, 16, 17, 37, 64},
                          values[] = {1, 2, 15, 63, 64, 65, 127, 128, 129, 300},
                          blocks[] = {1, 2, 3, 4, 5, 8, 9};

    for (size_t i = 0; i < N_TYPES; i++) {
        uint32_t block = eng_type_info(types[i])->block_values;

        for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
            for (size_t c = 0; c < (block == 1 ? 10 : 7); c++)
                check_shape(types[i], rows[r], block == 1 ? values[c] : blocks[c] * block);
    }
    for (size_t c = 0; c < 10; c++)
        check_shape(ENG_F32, 0, values[c]);
}

/* ---- threads ---- */

struct job {
    const struct eng_weight_data *data;
    uint32_t unit_bytes;
    uint8_t *out;
};

static void pack_some(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct job *job = arg;

    gpu_weight_pack(job->data, begin, end - begin, job->out + (size_t)begin * job->unit_bytes);
    (void)thread;
}

static void test_gpu_weight_pack__by_several_threads(void)
{
    struct eng_pool *pool = eng_pool_new(4);

    for (size_t i = 0; i < N_TYPES; i++) {
        struct eng_weight_data data = make(types[i], 83, 1280);
        struct gpu_units units = gpu_weight_units(&data);
        uint8_t *want = malloc(gpu_weight_bytes(&data)), *got = malloc(units.n * units.bytes);

        pack_plainly(&data, want);
        for (int round = 0; round < 3; round++) {
            memset(got, 0xcd, units.n * units.bytes);
            eng_pool_run(pool, pack_some, &(struct job){&data, units.bytes, got}, (uint32_t)units.n, 2);
            CHECK(same(&data, want, got, units.n * units.bytes));
        }
        free(want);
        free(got);
        free((void *)data.data);
    }
    eng_pool_free(pool);
}

static const struct tap_case cases[] = {
    CASE(test_gpu_weight_pack__is_the_layout_bit_by_bit),
    CASE(test_gpu_weight_pack__by_several_threads),
};

int main(int argc, char **argv)
{
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
