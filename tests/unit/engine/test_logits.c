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
    lm_run(&lm, ref.ids + ref.n_prompt, ref.n_prompt, ref.n_ids - ref.n_prompt, 1,
           got + ref.n_prompt * VOCAB);
    lm_close(&lm);
    ref_differences(got, ref.want, ref.n_ids * VOCAB, &max, &rms);
    printf("# %s/%s %s: max %.2e rms %.2e\n", name, file, kernels, max, rms);
    CHECK(max < tolerance);
    for (uint32_t i = ref.n_prompt; i < ref.n_ids; i++)
        CHECK_INT(ref_argmax(got + (i - 1) * VOCAB, VOCAB), ref.ids[i]);
    return max;
}

static const char *const tiny_names[] = {"llama",      "llama256", "llama-rope3", "llama-lin", "llama-yarn",
                                         "llama-bias", "mistral",  "qwen2",       "qwen3"};

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

/* quant/ and trained/quant*: forced tokens; the file names what is compared. */
struct quant_set {
    const char *dir, *name, *json;
    uint32_t last_rows; /* rows stored; 0: all */
    const char *types[12];
};

static const struct quant_set quant_sets[] = {
    {"quant",
     "llama256",
     "quant/quant_ref.json",
     0,
     {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K"}},
    {"trained/quant32",
     "stories260K-ff192",
     "trained/quant32/quant_ref.json",
     64,
     {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"}},
    {"trained/quant256", "stories260K-wide256", "trained/quant256/quant_ref.json", 64, {"Q4_K_M", "Q6_K"}},
};

/* Mean negative log likelihood of the forced tokens over the stored rows. */
static double mean_nll(const float *logits, const int32_t *next, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        const float *row = logits + (size_t)i * VOCAB;
        double max = row[ref_argmax(row, VOCAB)], z = 0;

        for (uint32_t j = 0; j < VOCAB; j++)
            z += exp(row[j] - max);
        sum += log(z) + max - row[next[i]];
    }
    return sum / n;
}

struct differences {
    double max, rms, ref_rms, nll, ref_nll;
};

/* Against the exact reference (F32 activations), and how far llama.cpp's own kernels are from that. */
static struct differences run_quant(const struct quant_set *set, const char *type, const char *kernels)
{
    const char *dir = ref_dir(), *at;
    char path[4096];
    int32_t ids[256];
    struct differences d;
    struct lm lm;
    size_t len;
    uint32_t n, skip, rows;
    double unused;

    snprintf(path, sizeof(path), "%s/%s", dir, set->json);
    auto_free char *json = ref_read(path, &len);
    at = json;
    n = ref_ints(&at, "forced_ids", ids, 256);
    snprintf(path, sizeof(path), "%s/%s/%s-%s.f32act.bin", dir, set->dir, set->name, type);
    auto_free float *want = (float *)ref_read(path, &len);
    rows = (uint32_t)(len / sizeof(float) / VOCAB);
    snprintf(path, sizeof(path), "%s/%s/%s-%s.llamacpp.bin", dir, set->dir, set->name, type);
    auto_free float *theirs = (float *)ref_read(path, &len);
    CHECK(rows > 0 && rows <= n && (set->last_rows == 0 ? rows == n : rows == set->last_rows));
    skip = n - rows;
    snprintf(path, sizeof(path), "%s/%s/%s-%s.gguf", dir, set->dir, set->name, type);
    lm_open(&lm, path, (struct lm_options){kernels, ENG_F32, 2, 64, 256});
    auto_free float *got = base_zalloc(n * VOCAB * sizeof(float));
    lm_run(&lm, ids, 0, n, 24, got);
    lm_close(&lm);
    ref_differences(got + (size_t)skip * VOCAB, want, (size_t)rows * VOCAB, &d.max, &d.rms);
    ref_differences(theirs, want, (size_t)rows * VOCAB, &unused, &d.ref_rms);
    d.nll = mean_nll(got + (size_t)skip * VOCAB, ids + skip + 1, rows - 1);
    d.ref_nll = mean_nll(want, ids + skip + 1, rows - 1);
    printf("# %s/%s %s: max %.2e rms %.2e (llama.cpp rms %.2e) nll %.4f (exact %.4f)\n", set->name, type,
           kernels, d.max, d.rms, d.ref_rms, d.nll, d.ref_nll);
    return d;
}

static void test_graph_step__quantized_exact(void)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(quant_sets); i++) {
        for (size_t t = 0; quant_sets[i].types[t] != NULL; t++)
            CHECK(run_quant(&quant_sets[i], quant_sets[i].types[t], "scalar").max < 5e-4);
    }
}

/* The fast kernels round activations to 8 bits in blocks of 32, as llama.cpp does for the 32-value types (it uses blocks of 256 for
 * the others): their distance from the exact logits may not be larger than its own by more than a quarter. */
static void test_graph_step__quantized_fast(void)
{
    for (size_t k = 0; k < BASE_ARRAY_LEN(fast_kernels); k++) {
        for (size_t i = 0; eng_ops_cpu(fast_kernels[k]) != NULL && i < BASE_ARRAY_LEN(quant_sets); i++) {
            for (size_t t = 0; quant_sets[i].types[t] != NULL; t++) {
                struct differences d = run_quant(&quant_sets[i], quant_sets[i].types[t], fast_kernels[k]);

                CHECK(d.rms < 1.25 * d.ref_rms);
                CHECK(fabs(d.nll - d.ref_nll) < 0.03);
            }
        }
    }
}

/* trained/greedy_ref.json: prompts of a real model that must go on token for token. */
static void test_graph_step__trained_continues(void)
{
    static const char *const files[] = {"stories260K-f32", "stories260K-f16", "stories260K-ff192-f16",
                                        "stories260K-wide256-f16"};
    const char *dir = ref_dir();
    char path[4096];
    size_t len;
    unsigned n_runs = 0;

    snprintf(path, sizeof(path), "%s/trained/greedy_ref.json", dir);
    auto_free char *json = ref_read(path, &len);
    for (size_t f = 0; f < BASE_ARRAY_LEN(files); f++) {
        char quoted[64], *end;
        const char *at;
        struct lm lm;

        /* F32 and F16 files share a set of references, named without the weight type. */
        snprintf(quoted, sizeof(quoted), "\"%.*s\"", (int)(strrchr(files[f], '-') - files[f]), files[f]);
        snprintf(path, sizeof(path), "%s/trained/%s.gguf", dir, files[f]);
        at = strstr(strstr(json, "\"results\""), quoted);
        CHECK(at != NULL);
        end = strstr(at + 1, "\"stories260K");
        lm_open(&lm, path, (struct lm_options){"auto", ENG_F16, 2, 64, 512});
        for (;;) {
            int32_t ids[512];
            const char *prompt = strstr(at, "\"prompt_ids\"");
            uint32_t n_prompt, n;

            if (prompt == NULL || (end != NULL && prompt > end))
                break;
            n_prompt = ref_ints(&at, "prompt_ids", ids, 256);
            n = n_prompt + ref_ints(&at, "greedy_ids", ids + n_prompt, 256);
            auto_free float *got = base_zalloc(n * VOCAB * sizeof(float));
            lm_run(&lm, ids, 0, n_prompt, 64, got);
            lm_run(&lm, ids + n_prompt, n_prompt, n - n_prompt, 1, got + n_prompt * VOCAB);
            for (uint32_t i = n_prompt; i < n; i++)
                CHECK_INT(ref_argmax(got + (i - 1) * VOCAB, VOCAB), ids[i]);
            n_runs++;
        }
        lm_close(&lm);
    }
    printf("# %u continuations\n", n_runs);
    CHECK(n_runs >= 15);
}

/* One request's logits must have the same bits whatever the step size and the number of threads. */
static void test_graph_step__same_bits_any_chunk_and_threads(void)
{
    static const char *const files[] = {"quant/llama256-Q4_K_M.gguf", "quant/llama256-Q8_0.gguf",
                                        "quant/llama256-Q5_1.gguf", "tiny/qwen2/model-f16.gguf"};
    static const char *const kernels[] = {"scalar", "avx2", "avx512"};
    const char *dir = ref_dir(); /* before anything is held: it may skip the case */
    char path[4096];
    int32_t ids[48];

    for (int i = 0; i < 48; i++)
        ids[i] = (i * 37 + 5) % (int)VOCAB;
    for (size_t f = 0; f < BASE_ARRAY_LEN(files); f++) {
        auto_free float *first = base_zalloc(48 * VOCAB * sizeof(float));
        auto_free float *again = base_zalloc(48 * VOCAB * sizeof(float));

        snprintf(path, sizeof(path), "%s/%s", dir, files[f]);
        for (size_t k = 0; k < BASE_ARRAY_LEN(kernels); k++) {
            if (eng_ops_cpu(kernels[k]) == NULL)
                continue;
            for (uint32_t run = 0; run < 5; run++) {
                static const uint32_t chunks[] = {1, 48, 3, 8, 17}, threads[] = {1, 2, 3, 5, 2};
                struct lm lm;

                lm_open(&lm, path, (struct lm_options){kernels[k], ENG_F16, threads[run], 64, 64});
                lm_run(&lm, ids, 0, 48, chunks[run], run == 0 ? first : again);
                lm_close(&lm);
                CHECK(run == 0 || memcmp(first, again, 48 * VOCAB * sizeof(float)) == 0);
            }
        }
    }
}

/* Both vector widths do the same arithmetic. */
static void test_graph_step__avx2_and_avx512_same_bits(void)
{
    static const char *const files[] = {"quant/llama256-Q4_K_M.gguf", "quant/llama256-Q8_0.gguf",
                                        "quant/llama256-Q5_K_M.gguf", "quant/llama256-Q5_0.gguf",
                                        "tiny/llama/model-f16.gguf"};
    const char *dir = ref_dir();
    int32_t ids[40];

    if (eng_ops_cpu("avx512") == NULL || eng_ops_cpu("avx2") == NULL)
        SKIP("this machine has no AVX-512");
    for (int i = 0; i < 40; i++)
        ids[i] = (i * 29 + 3) % (int)VOCAB;
    for (size_t f = 0; f < BASE_ARRAY_LEN(files); f++) {
        auto_free float *a = base_zalloc(40 * VOCAB * sizeof(float)),
                        *b = base_zalloc(40 * VOCAB * sizeof(float));
        char path[4096];
        struct lm lm;

        snprintf(path, sizeof(path), "%s/%s", dir, files[f]);
        lm_open(&lm, path, (struct lm_options){"avx2", ENG_F16, 2, 64, 64});
        lm_run(&lm, ids, 0, 40, 40, a);
        lm_close(&lm);
        lm_open(&lm, path, (struct lm_options){"avx512", ENG_F16, 2, 64, 64});
        lm_run(&lm, ids, 0, 40, 7, b);
        lm_close(&lm);
        CHECK(memcmp(a, b, 40 * VOCAB * sizeof(float)) == 0);
    }
}

static const struct tap_case cases[] = {
    CASE(test_graph_step__tiny_models_scalar),        CASE(test_graph_step__tiny_models_fast),
    CASE(test_graph_step__quantized_exact),           CASE(test_graph_step__quantized_fast),
    CASE(test_graph_step__trained_continues),         CASE(test_graph_step__same_bits_any_chunk_and_threads),
    CASE(test_graph_step__avx2_and_avx512_same_bits),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
