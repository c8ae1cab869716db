/* Logits and greedy tokens against stored references: tiny models of every variant, all weight types, and a trained one. */
#include "refdata.h"

#define VOCAB 512u

static struct {
    int32_t ids[512];
    uint32_t n_ids, n_prompt;
    float *want;
    size_t want_rows;
} ref;

static const char *const fast_kernels[] = {"avx2", "avx512"};

static void load_tiny(const char *name)
{
    char path[4096];
    size_t len;
    const char *dir = ref_dir(), *at;

    snprintf(path, sizeof(path), "%s/tiny/%s/ref.json", dir, name);
    auto_free char *json = ref_read(path, &len);
    at = json;
    ref.n_prompt = ref_ints(&at, "prompt_ids", ref.ids, 512);
    ref.n_ids = ref.n_prompt + ref_ints(&at, "greedy_ids", ref.ids + ref.n_prompt, 512 - ref.n_prompt);
    snprintf(path, sizeof(path), "%s/tiny/%s/ref_logits.bin", dir, name);
    free(ref.want);
    ref.want = (float *)ref_read(path, &len);
    ref.want_rows = len / sizeof(float) / VOCAB;
    CHECK_INT(ref.want_rows, ref.n_ids);
}

/* Prompt in one step, answer token by token, as the reference was made; every greedy choice must agree. */
static double check_tiny(const char *name, const char *file, const char *kernels, double tolerance)
{
    char path[4096];
    struct lm lm;
    double max, rms;

    load_tiny(name);
    snprintf(path, sizeof(path), "%s/tiny/%s/%s", ref_dir(), name, file);
    lm_open(&lm, path, (struct lm_options){kernels, ENG_F32, 2, 64, 256});
    auto_free float *got = base_zalloc(ref.n_ids * VOCAB * sizeof(float));
    lm_run(&lm, ref.ids, 0, ref.n_prompt, 64, got);
    lm_run(&lm, ref.ids + ref.n_prompt, ref.n_prompt, ref.n_ids - ref.n_prompt, 1, got + ref.n_prompt * VOCAB);
    lm_close(&lm);
    ref_differences(got, ref.want, ref.n_ids * VOCAB, &max, &rms);
    printf("# %s/%s %s: max %.2e rms %.2e\n", name, file, kernels, max, rms);
    CHECK(max < tolerance);
    for (uint32_t i = ref.n_prompt; i < ref.n_ids; i++)
        CHECK_INT(ref_argmax(got + (i - 1) * VOCAB, VOCAB), ref.ids[i]);
    return max;
}

static const char *const tiny_names[] = {"llama",      "llama256",   "llama-rope3", "llama-lin",
                                         "llama-yarn", "llama-bias", "mistral",     "qwen2"};

static void test_graph_step__tiny_models_scalar(void)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(tiny_names); i++)
        check_tiny(tiny_names[i], "model-f16.gguf", "scalar", 2e-4);
    check_tiny("llama", "model-f32.gguf", "scalar", 2e-4);
    check_tiny("llama", "model-bf16.gguf", "scalar", 2e-4);
}

static void test_graph_step__tiny_models_fast(void)
{
    for (size_t k = 0; k < BASE_ARRAY_LEN(fast_kernels); k++) {
        if (eng_ops_cpu(fast_kernels[k]) == NULL)
            continue;
        for (size_t i = 0; i < BASE_ARRAY_LEN(tiny_names); i++)
            check_tiny(tiny_names[i], "model-f16.gguf", fast_kernels[k], 2e-4);
        check_tiny("llama", "model-f32.gguf", fast_kernels[k], 2e-4);
        check_tiny("llama", "model-bf16.gguf", fast_kernels[k], 2e-4);
    }
}

static const struct tap_case cases[] = {
    CASE(test_graph_step__tiny_models_scalar),
    CASE(test_graph_step__tiny_models_fast),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
