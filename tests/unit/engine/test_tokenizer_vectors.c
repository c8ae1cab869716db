/* Tokenizers against the reference vectors: whole vocabularies of ten models, texts and ids made by
 * llama.cpp. */
#include "tap.h"

#include "base/mem.h"
#include "engine/tokenizer.h"
#include "gguf_vocab.h"
#include "json_lite.h"
#include "refdata.h"

#include <time.h>

#define SEPARATOR "\n__ggml_vocab_test__\n"

static char *slurp(const char *name, const char *suffix, size_t *n)
{
    char path[1024];

    snprintf(path, sizeof(path), "%s/vocab/%s%s", ref_dir(), name, suffix);
    return json_slurp(path, n);
}

static bool same_ids(const int32_t *ids, uint32_t n, const int32_t *want, uint32_t n_want)
{
    return n == n_want && (n == 0 || memcmp(ids, want, n * sizeof(*ids)) == 0);
}

static void explain(const char *what, size_t text, const int32_t *ids, uint32_t n, const int32_t *want,
                    uint32_t n_want)
{
    printf("# %s text %zu\n#  got:", what, text);
    for (uint32_t i = 0; i < n && i < 40; i++)
        printf(" %d", (int)ids[i]);
    printf("\n#  want:");
    for (uint32_t i = 0; i < n_want && i < 40; i++)
        printf(" %d", (int)want[i]);
    printf("\n");
}

/* Next text of an .inp file; *p moves past its separator. */
static size_t next_text(char **p, char **ret_text)
{
    char *end = strstr(*p, SEPARATOR);
    size_t n;

    *ret_text = *p;
    if (end == NULL) {
        n = strlen(*p);
        *p += n;
        return n;
    }
    n = (size_t)(end - *p);
    *p = end + strlen(SEPARATOR);
    return n;
}

/* .inp and .out: a line of ids for every text. Returns how many differ. */
static unsigned check_out(const struct eng_tokenizer *tok, const char *name, unsigned *n_texts)
{
    size_t n_in, n_out;
    auto_free char *in = slurp(name, ".gguf.inp", &n_in), *out = slurp(name, ".gguf.out", &n_out);
    char *p = in, *line = out;
    unsigned bad = 0;

    if (in == NULL || out == NULL)
        return 0;
    for (size_t k = 0; *line != '\0'; k++) {
        char *text, *eol = strchr(line, '\n');
        size_t n = next_text(&p, &text);
        int32_t want[4096], *ids = NULL;
        uint32_t n_want = 0, n_ids = 0;

        for (char *q = line; q < eol;) {
            char *end;
            long v = strtol(q, &end, 10);

            if (end == q || end > eol)
                break;
            want[n_want++] = (int32_t)v;
            q = end;
        }
        line = eol + 1;
        CHECK(eng_tokenize(tok, text, n, false, false, 100000, &ids, &n_ids, NULL) == BASE_OK);
        if (!same_ids(ids, n_ids, want, n_want)) {
            explain(name, k, ids, n_ids, want, n_want);
            bad++;
        }
        free(ids);
        (*n_texts)++;
    }
    return bad;
}

static unsigned check_ids(const struct eng_tokenizer *tok, const char *name, const char *mode, size_t k,
                          const char *text, size_t n, bool special, const struct json *list)
{
    int32_t want[4096], *ids = NULL;
    uint32_t n_want = 0, n_ids = 0;
    bool same;

    for (struct json *v = list->first; v != NULL; v = v->next)
        want[n_want++] = (int32_t)v->i;
    CHECK(eng_tokenize(tok, text, n, special, special, 100000, &ids, &n_ids, NULL) == BASE_OK);
    same = same_ids(ids, n_ids, want, n_want);
    if (!same) {
        char what[96];

        snprintf(what, sizeof(what), "%s %s", name, mode);
        explain(what, k, ids, n_ids, want, n_want);
    }
    free(ids);
    return !same;
}

/* detok_hex: the bytes of the plain ids. */
static unsigned check_detok(const struct eng_tokenizer *tok, const char *name, size_t k, const struct json *v)
{
    struct json *plain = json_get(v, "plain"), *hex = json_get(v, "detok_hex");
    auto_free char *got = malloc(1 << 20);
    size_t n = 0, skip = 0;

    for (struct json *id = plain->first; id != NULL; id = id->next) {
        struct eng_str s = eng_token_bytes(tok, (int32_t)id->i, false);

        for (size_t i = 0; i < s.n; i++)
            n += (size_t)sprintf(got + n, "%02x", (unsigned char)s.p[i]);
    }
    got[n] = '\0';
    if (eng_tokenizer_strips_first_space(tok) && strncmp(got, "20", 2) == 0)
        skip = 2;
    if (strcmp(got + skip, hex->s) == 0)
        return 0;
    printf("# %s detok text %zu: %s, expected %s\n", name, k, got + skip, hex->s);
    return 1;
}

static unsigned check_extra(const struct eng_tokenizer *tok, const char *name, unsigned *n_texts)
{
    size_t n_in, n_lines;
    auto_free char *in = slurp("extra", ".inp", &n_in), *lines = slurp(name, ".extra.jsonl", &n_lines);
    const char *line = lines;
    char *p = in;
    unsigned bad = 0;

    CHECK(in != NULL && lines != NULL);
    for (size_t k = 0; *line != '\0'; k++) {
        char *text;
        size_t n = next_text(&p, &text);
        struct json *v = json_value(&line);

        bad += check_ids(tok, name, "plain", k, text, n, false, json_get(v, "plain"));
        bad += check_ids(tok, name, "special", k, text, n, true, json_get(v, "special"));
        bad += check_detok(tok, name, k, v);
        *n_texts += 2;
        json_free(v);
        json_blank(&line);
    }
    return bad;
}

static void check_vocab(const char *name)
{
    struct eng_tokenizer *tok = NULL;
    struct gguf_vocab g;
    struct base_err err;
    char path[1024];
    unsigned bad, n_texts = 0;

    if (ref_dir() == NULL)
        SKIP("no reference vocabularies");
    snprintf(path, sizeof(path), "%s/vocab/%s.gguf", ref_dir(), name);
    CHECK(gv_load(&g, path));
    CHECK_RC(eng_tokenizer_new(&tok, &g.vocab, &err), BASE_OK, &err);
    bad = check_out(tok, name, &n_texts);
    bad += check_extra(tok, name, &n_texts);
    eng_tokenizer_free(tok);
    gv_free(&g);
    printf("# %s: %u texts, %u differ\n", name, n_texts, bad);
    CHECK_INT(bad, 0);
}

#define VOCAB(fn, file)                              \
    static void test_tokenize__vectors_of_##fn(void) \
    {                                                \
        check_vocab("ggml-vocab-" file);             \
    }
VOCAB(deepseek_llm, "deepseek-llm")
VOCAB(falcon, "falcon")
VOCAB(gpt_2, "gpt-2")
VOCAB(gpt_neox, "gpt-neox")
VOCAB(llama_bpe, "llama-bpe")
VOCAB(llama_spm, "llama-spm")
VOCAB(phi_3, "phi-3")
VOCAB(qwen2, "qwen2")
VOCAB(starcoder, "starcoder")

/* WordPiece is refused by name; the nine others are its valid twins. */
static void test_tokenizer_new__bert_is_unsupported(void)
{
    struct eng_tokenizer *tok = NULL;
    struct gguf_vocab g;
    struct base_err err;
    char path[1024];

    if (ref_dir() == NULL)
        SKIP("no reference vocabularies");
    snprintf(path, sizeof(path), "%s/vocab/ggml-vocab-bert-bge.gguf", ref_dir());
    CHECK(gv_load(&g, path));
    CHECK_RC(eng_tokenizer_new(&tok, &g.vocab, &err), BASE_UNSUPPORTED, &err);
    CHECK(strstr(err.detail, "bert") != NULL);
    gv_free(&g);
}

/* Not a benchmark: a bound of processor time that catches quadratic behaviour, also under sanitizers on a
 * busy machine. */
static double megabyte_seconds(const struct eng_tokenizer *tok, const char *name, const char *what,
                               const char *unit)
{
    size_t n = 1 << 20, n_unit = strlen(unit);
    auto_free char *text = malloc(n);
    struct timespec a, b;
    struct base_err err;
    int32_t *ids = NULL;
    uint32_t n_ids = 0;
    double seconds;

    for (size_t i = 0; i < n; i++)
        text[i] = unit[i % n_unit];
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    CHECK_RC(eng_tokenize(tok, text, n, true, true, 4 << 20, &ids, &n_ids, &err), BASE_OK, &err);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    printf("# %s, 1 MiB of %s: %.0f ms, %u tokens\n", name, what, seconds * 1e3, n_ids);
    free(ids);
    return seconds;
}

static void test_tokenize__megabytes_take_linear_time(void)
{
    static const struct {
        const char *name, *text;
    } units[] = {{"a", "a"},
                 {"blanks", " "},
                 {"English", "The quick brown fox, jumps over 1234 lazy dogs!\n"},
                 {"Japanese", "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e"},
                 {"letters and blanks", "x "},
                 {"halves of a special token", "</s"},
                 {"newlines", "\n"},
                 {"no UTF-8", "\xff"}};
    static const char *const names[] = {"qwen2", "llama-spm", "deepseek-llm", "gpt-neox"};

    if (ref_dir() == NULL)
        SKIP("no reference vocabularies");
    for (size_t v = 0; v < BASE_ARRAY_LEN(names); v++) {
        struct eng_tokenizer *tok = NULL;
        struct gguf_vocab g;
        struct base_err err;
        char path[1024];

        snprintf(path, sizeof(path), "%s/vocab/ggml-vocab-%s.gguf", ref_dir(), names[v]);
        CHECK(gv_load(&g, path));
        CHECK_RC(eng_tokenizer_new(&tok, &g.vocab, &err), BASE_OK, &err);
        for (size_t i = 0; i < BASE_ARRAY_LEN(units); i++)
            CHECK(megabyte_seconds(tok, names[v], units[i].name, units[i].text) < 15.0);
        eng_tokenizer_free(tok);
        gv_free(&g);
    }
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_tokenize__vectors_of_deepseek_llm),    CASE(test_tokenize__vectors_of_falcon),
        CASE(test_tokenize__vectors_of_gpt_2),           CASE(test_tokenize__vectors_of_gpt_neox),
        CASE(test_tokenize__vectors_of_llama_bpe),       CASE(test_tokenize__vectors_of_llama_spm),
        CASE(test_tokenize__vectors_of_phi_3),           CASE(test_tokenize__vectors_of_qwen2),
        CASE(test_tokenize__vectors_of_starcoder),       CASE(test_tokenizer_new__bert_is_unsupported),
        CASE(test_tokenize__megabytes_take_linear_time),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
