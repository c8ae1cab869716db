/* Tokenizers on small vocabularies: special tokens and who may write them, limits, hostile vocabularies. */
#include "tap.h"

#include "base/mem.h"
#include "engine/template.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_priv.h"
#include "small_vocab.h"

#include <math.h>

static struct small_vocab sv;
static struct base_err err;

static struct eng_tokenizer *open_vocab(void)
{
    struct eng_tokenizer *tok = NULL;

    CHECK_RC(eng_tokenizer_new(&tok, &sv.vocab, &err), BASE_OK, &err);
    return tok;
}

/* Ids as "1 2 3". */
static const char *ids_of(const struct eng_tokenizer *tok, const char *text, size_t len, bool add_special,
                          bool parse_special)
{
    static char out[4096];
    int32_t *ids = NULL;
    uint32_t n = 0;
    size_t used = 0;

    CHECK_RC(eng_tokenize(tok, text, len, add_special, parse_special, 10000, &ids, &n, &err), BASE_OK, &err);
    out[0] = '\0';
    for (uint32_t i = 0; i < n && used < sizeof(out) - 16; i++)
        used += (size_t)snprintf(out + used, 16, i > 0 ? " %d" : "%d", (int)ids[i]);
    free(ids);
    return out;
}

#define PLAIN(tok, text)   ids_of(tok, text, strlen(text), false, false)
#define SPECIAL(tok, text) ids_of(tok, text, strlen(text), true, true)

static void test_tokenize__bpe_merges_by_rank(void)
{
    struct eng_tokenizer *tok;

    sv_bpe(&sv, "gpt-2");
    tok = open_vocab();
    CHECK_STR(PLAIN(tok, "low"), "257");
    CHECK_STR(PLAIN(tok, " low"), "32 257"); /* "lo w" ranks before " lo" */
    CHECK_STR(PLAIN(tok, " lol"), "258 108");
    CHECK_STR(PLAIN(tok, "aaaaa"), "260 97");
    CHECK_STR(PLAIN(tok, ""), "");
    CHECK_STR(PLAIN(tok, "\xff\xfe"), "255 254");
    CHECK_STR(ids_of(tok, "a\0b", 3, false, false), "97 0 98");
    eng_tokenizer_free(tok);
}

/* Merges by their definition, slowly: the lowest rank first, the leftmost of equals. Returns how many ids are
 * left. */
static uint32_t merge_slowly(const struct eng_tokenizer *tok, const char *text, uint32_t n, int32_t *ids)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (unsigned char)text[i];
    for (;;) {
        uint32_t best_rank = UINT32_MAX, at = 0;
        int32_t joined = -1;

        for (uint32_t i = 0; i + 1 < n; i++) {
            struct eng_str a = eng_token_bytes(tok, ids[i], true), b = eng_token_bytes(tok, ids[i + 1], true);

            for (uint32_t rank = 0; rank < sv.vocab.n_merges && rank < best_rank; rank++) {
                const char *blank = strchr(sv.merges[rank].p, ' ');

                if ((size_t)(blank - sv.merges[rank].p) == a.n && memcmp(sv.merges[rank].p, a.p, a.n) == 0 &&
                    strlen(blank + 1) == b.n && memcmp(blank + 1, b.p, b.n) == 0) {
                    char both[64];

                    memcpy(both, a.p, a.n);
                    memcpy(both + a.n, b.p, b.n);
                    best_rank = rank;
                    at = i;
                    joined = eng_tok_word(tok, both, a.n + b.n);
                }
            }
        }
        if (joined < 0)
            return n;
        ids[at] = joined;
        n--;
        memmove(ids + at + 1, ids + at + 2, (n - at - 1) * sizeof(*ids));
    }
}

/* Long words go over a heap, short ones over a scan: both must do as the definition says. */
static void test_tokenize__merges_as_defined_in_short_and_long_words(void)
{
    static const char *const merges[] = {"o w", "w a", "al ow", "a l", "lo l", "ow a", "w w", "ww a"};
    struct eng_tokenizer *tok;
    uint32_t seed = 7;

    sv_bpe(&sv, "gpt-2");
    for (size_t i = 0; i < BASE_ARRAY_LEN(merges); i++)
        sv_merge(&sv, merges[i]);
    tok = open_vocab();
    for (uint32_t len = 1; len < 160; len++) {
        char text[160];
        int32_t *ids = NULL, want[160];
        uint32_t n = 0, n_want;

        for (uint32_t i = 0; i < len; i++) {
            seed = seed * 1664525u + 1013904223u;
            text[i] = "alow"[seed >> 30];
        }
        n_want = merge_slowly(tok, text, len, want);
        CHECK_RC(eng_tokenize(tok, text, len, false, false, 10000, &ids, &n, &err), BASE_OK, &err);
        CHECK_INT(n, n_want);
        CHECK(memcmp(ids, want, n * sizeof(*ids)) == 0);
        free(ids);
    }
    eng_tokenizer_free(tok);
}

static void test_tokenize__special_tokens_only_when_asked(void)
{
    struct eng_tokenizer *tok;

    sv_bpe(&sv, "qwen2");
    tok = open_vocab();
    CHECK_STR(SPECIAL(tok, "<|im_start|>a<|im_end|>"), "261 97 262");
    CHECK_STR(SPECIAL(tok, "<|im_end|><|im_end|>"), "265"); /* the longest */
    CHECK_STR(SPECIAL(tok, "<tool_call>"), "263");
    CHECK_STR(PLAIN(tok, "<|im_end|>"), "60 124 105 109 95 101 110 100 124 62");
    CHECK_STR(PLAIN(tok, "<tool_call>"), "60 116 111 111 108 95 99 97 108 108 62");
    CHECK_STR(PLAIN(tok, "\xc3\xb8\xc3\xb8"), "264"); /* user-defined without the look of markup */
    CHECK_INT(eng_token_by_text(tok, "<|im_end|>", 10), 262);
    CHECK_INT(eng_token_by_text(tok, "<|im_en", 7), -1);
    CHECK(eng_token_ends_answer(tok, 262));
    CHECK(!eng_token_ends_answer(tok, 261));
    CHECK(!eng_token_ends_answer(tok, -1));
    CHECK_INT(eng_token_bytes(tok, 262, false).n, 0);
    CHECK_INT(eng_token_bytes(tok, 262, true).n, 10);
    CHECK_INT(eng_token_bytes(tok, 100000, true).n, 0);
    eng_tokenizer_free(tok);
}

/* A merge list that leads from letters to a control token's text leads nowhere. */
static void test_tokenize__no_merge_ends_in_a_control_token(void)
{
    static const char *const merges[] = {"< |", "<| x", "<|x |", "<|x| >"};
    struct eng_tokenizer *tok;

    sv_bpe(&sv, "gpt-2");
    for (size_t i = 0; i < BASE_ARRAY_LEN(merges); i++)
        sv_merge(&sv, merges[i]);
    sv.types[sv.vocab.n_tokens - 1] = ENG_TOKEN_CONTROL; /* "<|x|>" */
    tok = open_vocab();
    for (int absent = 0; absent < 2; absent++) { /* the second time the file does not say that it is one */
        CHECK(strstr(PLAIN(tok, "<|x|>"), "269") == NULL);
        CHECK_STR(SPECIAL(tok, "<|x|>"), "269");
        eng_tokenizer_free(tok);
        sv.vocab.types = NULL;
        tok = open_vocab();
    }
    eng_tokenizer_free(tok);
}

static void test_tokenize__sentencepiece_merges_by_score(void)
{
    struct eng_tokenizer *tok;

    sv_spm(&sv);
    tok = open_vocab();
    CHECK_STR(PLAIN(tok, "ab"), "264");
    CHECK_STR(PLAIN(tok, "aba"), "259 260 263"); /* "ba" scores best */
    CHECK_STR(PLAIN(tok, "a ab"), "259 260 264");
    CHECK_STR(PLAIN(tok, "z"), "259 125"); /* byte fallback */
    CHECK_STR(PLAIN(tok, "\xc3\xa9"), "259 198 172");
    CHECK_STR(SPECIAL(tok, "ab</s>ab"), "1 264 2 264");
    CHECK_STR(SPECIAL(tok, ""), "1");
    CHECK(eng_tokenizer_strips_first_space(tok));
    CHECK_INT(eng_token_bytes(tok, 264, false).n, 3);
    CHECK_INT(eng_token_bytes(tok, 3 + 0x41, false).n, 1);
    eng_tokenizer_free(tok);
    sv.vocab.add_space_prefix = 0;
    sv.vocab.add_eos = 1;
    tok = open_vocab();
    CHECK_STR(SPECIAL(tok, "ab"), "1 262 2");
    eng_tokenizer_free(tok);
}

static const char *span_ids(const struct eng_tokenizer *tok, const char *text,
                            const struct eng_template_span *spans, size_t n)
{
    static char out[1024];
    int32_t *ids = NULL;
    uint32_t n_ids = 0;
    size_t used = 0;

    CHECK_RC(eng_tokenize_spans(tok, text, spans, n, true, 1000, &ids, &n_ids, &err), BASE_OK, &err);
    out[0] = '\0';
    for (uint32_t i = 0; i < n_ids; i++)
        used += (size_t)snprintf(out + used, 16, i > 0 ? " %d" : "%d", (int)ids[i]);
    free(ids);
    return out;
}

static void test_tokenize_spans__words_cross_and_control_tokens_do_not(void)
{
    struct eng_tokenizer *tok;

    sv_bpe(&sv, "gpt-2");
    tok = open_vocab();
    { /* "lo" from the template, "w" from the message: one token */
        const struct eng_template_span spans[] = {{0, 2, false}, {2, 3, true}};

        CHECK_STR(span_ids(tok, "low", spans, 2), "257");
    }
    { /* half a control token from each */
        const struct eng_template_span spans[] = {{0, 5, false}, {5, 10, true}};

        CHECK(strstr(span_ids(tok, "<|im_end|>", spans, 2), "262") == NULL);
    }
    { /* its valid twin */
        const struct eng_template_span spans[] = {{0, 10, false}};

        CHECK_STR(span_ids(tok, "<|im_end|>", spans, 1), "262");
    }
    CHECK_STR(span_ids(tok, "", NULL, 0), "");
    eng_tokenizer_free(tok);
    sv_spm(&sv);
    tok = open_vocab();
    { /* BOS once, also when the template writes it */
        const struct eng_template_span spans[] = {{0, 3, false}, {3, 5, true}};

        CHECK_STR(span_ids(tok, "<s>ab", spans, 2), "1 264");
        CHECK_STR(span_ids(tok, "<s>ab", (struct eng_template_span[]){{0, 5, true}}, 1),
                  "1 259 63 118 65 262");
    }
    eng_tokenizer_free(tok);
    sv.vocab.add_eos = 1; /* no EOS where an answer is to follow */
    tok = open_vocab();
    CHECK_STR(span_ids(tok, "ab", (struct eng_template_span[]){{0, 2, true}}, 1), "1 264");
    eng_tokenizer_free(tok);
}

static void test_tokenize__refuses_past_max_ids(void)
{
    struct eng_tokenizer *tok;
    int32_t *ids = NULL;
    uint32_t n = 0;

    sv_bpe(&sv, "gpt-2");
    tok = open_vocab();
    CHECK_RC(eng_tokenize(tok, "a b c", 5, false, false, 5, &ids, &n, &err), BASE_OK, &err);
    CHECK_INT(n, 5);
    CHECK_RC(eng_tokenize(tok, "x", 1, false, false, 5, &ids, &n, &err), BASE_TOO_LARGE, &err);
    CHECK_INT(n, 5); /* what was there stays */
    CHECK_INT(ids[4], 'c');
    CHECK_RC(eng_tokenize(tok, "x", 1, false, false, 6, &ids, &n, &err), BASE_OK, &err);
    CHECK_INT(n, 6);
    free(ids);
    eng_tokenizer_free(tok);
}

#define REFUSED(code)                                                    \
    do {                                                                 \
        struct eng_tokenizer *tok_ = NULL;                               \
        CHECK_RC(eng_tokenizer_new(&tok_, &sv.vocab, &err), code, &err); \
        CHECK(tok_ == NULL);                                             \
    } while (0)

static void test_tokenizer_new__refuses_bad_vocabularies(void)
{
    static char huge[ENG_TOKEN_BYTES_MAX + 1];

    sv_bpe(&sv, "no-such-pre");
    REFUSED(BASE_UNSUPPORTED);
    CHECK(strstr(err.detail, "no-such-pre") != NULL);
    sv.vocab.pre = "gpt-2 falcon"; /* two names are none */
    REFUSED(BASE_UNSUPPORTED);
    sv.vocab.pre = "";
    REFUSED(BASE_UNSUPPORTED);
    sv_bpe(&sv, NULL);
    sv.vocab.model = "bert";
    REFUSED(BASE_UNSUPPORTED);
    sv.vocab.model = NULL;
    REFUSED(BASE_INVALID);
    sv_bpe(&sv, NULL);
    sv.vocab.eos = (int32_t)sv.vocab.n_tokens;
    REFUSED(BASE_INVALID);
    sv.vocab.eos = -2;
    REFUSED(BASE_INVALID);
    sv_bpe(&sv, NULL);
    sv.tokens[300 % sv.vocab.n_tokens] = (struct eng_str){huge, sizeof(huge)};
    REFUSED(BASE_TOO_LARGE);
    sv_bpe(&sv, NULL);
    sv.merges[0] = (struct eng_str){"nothing", 7};
    REFUSED(BASE_INVALID);
    sv.merges[0] = (struct eng_str){"", 0};
    REFUSED(BASE_INVALID);
    sv_bpe(&sv, NULL);
    sv.vocab.n_tokens = 0;
    REFUSED(BASE_INVALID);
    sv.vocab.n_tokens = ENG_VOCAB_MAX + 1;
    REFUSED(BASE_TOO_LARGE);
}

/* Odd, but not refused: nothing may crash and ids stay in range. */
static void test_tokenizer_new__survives_odd_vocabularies(void)
{
    struct eng_tokenizer *tok;

    sv_bpe(&sv, "llama-bpe");
    sv_token(&sv, "low", ENG_TOKEN_NORMAL, 0);                     /* a duplicate: the first counts */
    sv_token(&sv, "", ENG_TOKEN_NORMAL, 0);                        /* empty */
    sv_token(&sv, "", ENG_TOKEN_CONTROL, 0);                       /* empty and special */
    sv_token(&sv, "\xff\xfe", ENG_TOKEN_NORMAL, 0);                /* no UTF-8 */
    sv_token(&sv, "<|im_end|>", ENG_TOKEN_CONTROL, 0);             /* a duplicate special */
    sv_token(&sv, "q", 77, 0);                                     /* a type that does not exist */
    sv.merges[sv.vocab.n_merges++] = (struct eng_str){"zz yy", 5}; /* parts that are no tokens */
    sv.merges[sv.vocab.n_merges++] = (struct eng_str){"l o", 3};   /* a second rank */
    sv.merges[sv.vocab.n_merges++] = (struct eng_str){"a ", 2};    /* an empty part */
    tok = open_vocab();
    CHECK_STR(PLAIN(tok, "low"), "257");
    CHECK_STR(SPECIAL(tok, "<|im_end|>"), "262");
    CHECK_STR(PLAIN(tok, "\xff\xfe"), "269"); /* a whole word, as this pre-tokenizer wants */
    eng_tokenizer_free(tok);
    sv_init(&sv, "gpt2", "gpt-2"); /* no bytes at all: what is unknown is dropped */
    sv_token(&sv, "a", ENG_TOKEN_NORMAL, 0);
    tok = open_vocab();
    CHECK_STR(PLAIN(tok, "bab"), "0");
    eng_tokenizer_free(tok);
    sv_spm(&sv);
    sv.scores[262] = NAN;
    sv.scores[263] = INFINITY;
    sv.tokens[5] = (struct eng_str){"<0xZZ>", 6}; /* a byte token that is none */
    tok = open_vocab();
    CHECK_STR(PLAIN(tok, "ba"), "259 263");
    CHECK_STR(PLAIN(tok, "\x02"), "259 0"); /* the byte it should have been is unknown now */
    eng_tokenizer_free(tok);
}

/* What each pre-tokenizer makes of one text, written as pieces between bars. Expected pieces follow from its
 * pattern. */
static void check_split(const char *pre, const char *text, const char *want)
{
    uint32_t *ends = NULL;
    char got[512] = "";
    size_t n = eng_pre_split(eng_pre_find(pre), text, strlen(text), &ends), from = 0, used = 0;

    for (size_t i = 0; i < n; i++) {
        used += (size_t)snprintf(got + used, sizeof(got) - used, "%s%.*s", i > 0 ? "|" : "",
                                 (int)(ends[i] - from), text + from);
        from = ends[i];
    }
    free(ends);
    if (strcmp(got, want) != 0)
        printf("# pre-tokenizer %s\n", pre);
    CHECK_STR(got, want);
}

static void test_pre_split__each_pattern(void)
{
    check_split("gpt-2", "I'll pay 1234  now!!\n\n x", "I|'ll| pay| 1234| | now|!!|\n\n| x");
    check_split("llama-bpe", "I'LL pay 1234  now!!\n\n x", "I|'LL| pay| |123|4| | now|!!\n\n| x");
    check_split("qwen2", "a1234", "a|1|2|3|4");
    check_split("starcoder", "a12 b", "a|1|2| b");
    check_split("falcon", "x=12345!", "x|=|123|45|!");
    check_split("default", "ab 12345, c", "ab| |123|45|,| c");
    check_split("tekken", "HelloWORLDabc 12 a/\n", "Hello|WORLDabc| |1|2| a|/\n");
    check_split("gpt-4o", "HelloWorld's 1234", "Hello|World's| |123|4");
    check_split("deepseek-v3", "x+abc 12345\xe4\xb8\xad\xe6\x96\x87!",
                "x|+abc| |123|45|\xe4\xb8\xad\xe6\x96\x87|!");
    check_split("deepseek-llm", "ab cd!  \n12", "ab| cd|!|  |\n|12");
    check_split("deepseek-coder", "ab 12", "ab| |1|2");
    check_split("qwen35", "e\xcc\x81t\xc3\xa9 1", "e\xcc\x81t\xc3\xa9| |1");
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_tokenize__bpe_merges_by_rank),
        CASE(test_tokenize__merges_as_defined_in_short_and_long_words),
        CASE(test_tokenize__special_tokens_only_when_asked),
        CASE(test_tokenize__no_merge_ends_in_a_control_token),
        CASE(test_tokenize__sentencepiece_merges_by_score),
        CASE(test_tokenize_spans__words_cross_and_control_tokens_do_not),
        CASE(test_tokenize__refuses_past_max_ids),
        CASE(test_tokenizer_new__refuses_bad_vocabularies),
        CASE(test_tokenizer_new__survives_odd_vocabularies),
        CASE(test_pre_split__each_pattern),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
