/* Scalar kernels: the oracle that every other device is compared with. Weights are read as they lie in the file, activations stay
 * float32, sums are double. Slow on purpose: nothing here is clever. */
#include "engine/kernels_cpu.h"

#include <math.h>

static void rms_norm(const float *x, const float *w, float eps, uint32_t n, float *out)
{
    double sum = 0;
    float scale;

    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    scale = (float)(1 / sqrt(sum / n + eps));
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * w[i];
}

static void silu_mul(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = (float)(gate[i] / (1 + exp(-(double)gate[i]))) * up[i];
}

static void to_f16(const float *x, uint16_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = eng_f32_to_f16(x[i]);
}

static void matmul(const struct eng_cpu_matmul *mm, uint32_t begin, uint32_t end, float *scratch)
{
    const struct eng_weight *w = mm->w;
    uint32_t last = end * ENG_LANES < w->rows ? end * ENG_LANES : w->rows;

    for (uint32_t r = begin * ENG_LANES; r < last; r++) {
        eng_dequant(w->type, w->raw + r * eng_row_bytes(w->type, w->cols), scratch, w->cols);
        for (uint32_t t = 0; t < mm->n; t++) {
            const float *x = mm->x + (size_t)t * w->cols;
            float *out = mm->out + (size_t)t * w->rows + r;
            double sum = mm->bias != NULL ? mm->bias[r] : 0;

            for (uint32_t c = 0; c < w->cols; c++)
                sum += (double)scratch[c] * x[c];
            *out = (float)(mm->accumulate ? sum + *out : sum);
        }
    }
}

static float load(enum eng_type type, const uint8_t *p, size_t i)
{
    return type == ENG_F32 ? ((const float *)p)[i] : eng_f16_to_f32(((const uint16_t *)p)[i]);
}

static void attend_token(const struct eng_cpu_attention *a, uint32_t token, uint32_t kv_head, float *scratch)
{
    const struct eng_step *st = a->step;
    const uint32_t *pages = st->page_table + (size_t)st->sequences[token] * st->pages_per_sequence;
    uint32_t n = st->positions[token] + 1, group = a->n_heads / a->n_kv_heads, hd = a->head_dim;
    size_t head_bytes = a->page_bytes / a->n_kv_heads;

    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
        const float *q = a->q + ((size_t)token * a->n_heads + h) * hd;
        float *out = a->out + ((size_t)token * a->n_heads + h) * hd;
        double max = -INFINITY, sum = 0;

        for (uint32_t t = 0; t < n; t++) {
            const uint8_t *k = a->k + pages[t / ENG_PAGE_TOKENS] * a->page_bytes + kv_head * head_bytes;
            double dot = 0;

            for (uint32_t i = 0; i < hd; i++)
                dot += (double)q[i] * load(a->type, k, i * ENG_PAGE_TOKENS + t % ENG_PAGE_TOKENS);
            scratch[t] = (float)(dot / sqrt(hd));
            max = fmax(max, scratch[t]);
        }
        for (uint32_t t = 0; t < n; t++) {
            scratch[t] = (float)exp(scratch[t] - max);
            sum += scratch[t];
        }
        for (uint32_t i = 0; i < hd; i++) {
            double mix = 0;

            for (uint32_t t = 0; t < n; t++) {
                const uint8_t *v = a->v + pages[t / ENG_PAGE_TOKENS] * a->page_bytes + kv_head * head_bytes;

                mix += (double)scratch[t] * load(a->type, v, (size_t)(t % ENG_PAGE_TOKENS) * hd + i);
            }
            out[i] = (float)(mix / sum);
        }
    }
}

static void attend(const struct eng_cpu_attention *a, uint32_t token, uint32_t n, uint32_t kv_head,
                   float *scratch)
{
    for (uint32_t i = 0; i < n; i++)
        attend_token(a, token + i, kv_head, scratch);
}

const struct eng_cpu_kernels eng_cpu_scalar = {
    .name = "scalar",
    .label = "scalar",
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .to_f16 = to_f16,
    .matmul = matmul,
    .attend = attend,
};
