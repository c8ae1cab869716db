/* Pre-tokenizers: how a text is cut into the pieces within which BPE merges. Hand-written scanners for the
 * patterns that model families were trained with, named as GGUF names them; each function quotes the pattern
 * it implements.
 *
 * A pre-tokenizer is a row of stages. A stage cuts every piece of the stage before it: what its pattern
 * matches becomes a piece, and so does what lies between two matches.
 */
#include "engine/tokenizer_priv.h"

#include "base/mem.h"
#include "base/secret.h"
#include "engine/unicode_tables.h"

#include <string.h>

#define L  ENG_UC_L
#define N  ENG_UC_NUMBER
#define M  ENG_UC_MARK
#define P  ENG_UC_PUNCT
#define S  ENG_UC_SYMBOL
#define WS ENG_UC_SPACE
/* letters that may stand in an upper-case part, and in a lower-case part */
#define UPPERISH (ENG_UC_UPPER | ENG_UC_LETTER | M)
#define LOWERISH (ENG_UC_LOWER | ENG_UC_LETTER | M)

static inline bool is(uint32_t ch, unsigned bits)
{
    return (ENG_CH_BITS(ch) & bits) != 0;
}

static inline bool is_newline(uint32_t ch)
{
    return ENG_CH_CP(ch) == '\r' || ENG_CH_CP(ch) == '\n';
}

/* End of the run of characters with one of `bits`, from i on. */
static inline size_t run(const uint32_t *s, size_t i, size_t n, unsigned bits)
{
    while (i < n && is(s[i], bits))
        i++;
    return i;
}

static inline size_t run_without(const uint32_t *s, size_t i, size_t n, unsigned bits)
{
    while (i < n && !is(s[i], bits))
        i++;
    return i;
}

static inline size_t run_newlines(const uint32_t *s, size_t i, size_t n, bool slash)
{
    while (i < n && (is_newline(s[i]) || (slash && ENG_CH_CP(s[i]) == '/')))
        i++;
    return i;
}

/* 's|'t|'re|'ve|'m|'ll|'d at i: its length; 0. */
static inline size_t contraction(const uint32_t *s, size_t i, size_t n, bool any_case)
{
    uint32_t a, b;

    if (i + 1 >= n || ENG_CH_CP(s[i]) != '\'')
        return 0;
    a = ENG_CH_CP(s[i + 1]);
    b = i + 2 < n ? ENG_CH_CP(s[i + 2]) : 0;
    if (any_case) {
        a = a < 128 ? a | 32 : a;
        b = b < 128 ? b | 32 : b;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    return 0;
}

/* \s+(?!\S)|\s+ : a run leaves its last blank to the word that follows. */
static inline size_t blanks(const uint32_t *s, size_t i, size_t n)
{
    size_t end = run(s, i, n, WS);

    return end < n && end - i > 1 ? end - i - 1 : end - i;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : a run is taken up to its last newline, when it has one. */
static inline size_t blanks_by_line(const uint32_t *s, size_t i, size_t n)
{
    size_t end = run(s, i, n, WS);

    for (size_t k = end; k > i; k--)
        if (is_newline(s[k - 1]))
            return k - i;
    return end < n && end - i > 1 ? end - i - 1 : end - i;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t match_gpt2(const uint32_t *s, size_t i, size_t n)
{
    size_t len = contraction(s, i, n, false), w = i + (ENG_CH_CP(s[i]) == ' ' && i + 1 < n);

    if (len > 0)
        return len;
    if (is(s[w], L))
        return run(s, w, n, L) - i;
    if (is(s[w], N))
        return run(s, w, n, N) - i;
    if (!is(s[w], WS))
        return run_without(s, w, n, WS | L | N) - i;
    return blanks(s, i, n);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?W+|\p{N}{1,D}|
 * ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ with W the letters (and marks, which then belong to no
 * other part). */
static inline size_t llama3_like(const uint32_t *s, size_t i, size_t n, size_t max_digits, unsigned word)
{
    size_t len = contraction(s, i, n, true), w;

    if (len > 0)
        return len;
    if (is(s[i], word) && !(word != L && is(s[i], M) && i + 1 < n && is(s[i + 1], word)))
        return run(s, i, n, word) - i;
    if (!is(s[i], L | N) && !is_newline(s[i]) && i + 1 < n && is(s[i + 1], word))
        return run(s, i + 1, n, word) - i;
    if (is(s[i], N)) {
        for (w = i; w < n && w - i < max_digits && is(s[w], N);)
            w++;
        return w - i;
    }
    w = i + (ENG_CH_CP(s[i]) == ' ' && i + 1 < n);
    if (!is(s[w], WS | word | N))
        return run_newlines(s, run_without(s, w, n, WS | word | N), n, false) - i;
    return blanks_by_line(s, i, n);
}

static size_t match_llama3(const uint32_t *s, size_t i, size_t n)
{
    return llama3_like(s, i, n, 3, L);
}

static size_t match_qwen2(const uint32_t *s, size_t i, size_t n)
{
    return llama3_like(s, i, n, 1, L);
}

static size_t match_qwen35(const uint32_t *s, size_t i, size_t n)
{
    return llama3_like(s, i, n, 1, L | M);
}

/* U*V+ (then U+V* when that fails) with U upper-case letters, V lower-case ones, and caseless letters and
 * marks in both. Greedy with backtracking: U* gives back characters until a V stands behind it. Returns the
 * end; i when nothing matches. */
static size_t cased_word(const uint32_t *s, size_t i, size_t n, bool upper_only)
{
    size_t end = run(s, i, n, UPPERISH);

    if (upper_only)
        return end > i ? run(s, end, n, LOWERISH) : i;
    if (end < n && is(s[end], LOWERISH))
        return run(s, end, n, LOWERISH);
    while (end > i && !is(s[end - 1], LOWERISH))
        end--;
    return end;
}

/* [^\r\n\p{L}\p{N}]?U*V+C?|[^\r\n\p{L}\p{N}]?U+V*C?|\p{N}{1,D}|
 * ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+ with C a contraction in any case, or nothing. */
static inline size_t tekken_like(const uint32_t *s, size_t i, size_t n, size_t max_digits, bool contractions)
{
    bool may_lead = !is(s[i], L | N) && !is_newline(s[i]);
    size_t w;

    for (int upper_only = 0; upper_only < 2; upper_only++)
        for (size_t from = i + may_lead; from + 1 > i; from--) {
            size_t end = from < n ? cased_word(s, from, n, upper_only != 0) : from;

            if (end > from)
                return end - i + (contractions ? contraction(s, end, n, true) : 0);
            if (from == i)
                break;
        }
    if (is(s[i], N)) {
        for (w = i; w < n && w - i < max_digits && is(s[w], N);)
            w++;
        return w - i;
    }
    w = i + (ENG_CH_CP(s[i]) == ' ' && i + 1 < n);
    if (!is(s[w], WS | L | N))
        return run_newlines(s, run_without(s, w, n, WS | L | N), n, true) - i;
    return blanks_by_line(s, i, n);
}

static size_t match_tekken(const uint32_t *s, size_t i, size_t n)
{
    return tekken_like(s, i, n, 1, false);
}

static size_t match_gpt4o(const uint32_t *s, size_t i, size_t n)
{
    return tekken_like(s, i, n, 3, true);
}

/* \p{N} */
static size_t match_digit(const uint32_t *s, size_t i, size_t n)
{
    return is(s[i], N);
}

/* \p{N}+ */
static size_t match_digits(const uint32_t *s, size_t i, size_t n)
{
    return run(s, i, n, N) - i;
}

/* \p{N}{1,3} */
static size_t match_digits3(const uint32_t *s, size_t i, size_t n)
{
    size_t end = run(s, i, n, N);

    return end - i > 3 ? 3 : end - i;
}

/* [0-9][0-9][0-9] */
static size_t match_ascii_digits3(const uint32_t *s, size_t i, size_t n)
{
    for (size_t k = i; k < i + 3; k++)
        if (k >= n || ENG_CH_CP(s[k]) < '0' || ENG_CH_CP(s[k]) > '9')
            return 0;
    return 3;
}

static inline size_t punct_or(const uint32_t *s, size_t i, size_t n, const char *also)
{
    size_t k = i;

    while (k < n && (is(s[k], P) || (ENG_CH_CP(s[k]) < 128 && ENG_CH_CP(s[k]) > 0 &&
                                     strchr(also, (int)ENG_CH_CP(s[k])) != NULL)))
        k++;
    return k - i;
}

/* [\p{P}\$\+<=>\^~\|]+ */
static size_t match_punct(const uint32_t *s, size_t i, size_t n)
{
    return punct_or(s, i, n, "$+<=>^~|");
}

/* the same with a backquote */
static size_t match_punct_falcon(const uint32_t *s, size_t i, size_t n)
{
    return punct_or(s, i, n, "$+<=>^~|`");
}

/* [\r\n] */
static size_t match_newline(const uint32_t *s, size_t i, size_t n)
{
    return is_newline(s[i]);
}

struct range {
    uint32_t first, last;
};

static bool in_ranges(const struct range *ranges, size_t n, uint32_t ch)
{
    size_t lo = 0;

    if ((ch & ENG_CH_BAD_BYTE) != 0)
        return false;
    while (lo < n) {
        size_t mid = lo + (n - lo) / 2;

        if (ENG_CH_CP(ch) > ranges[mid].last)
            lo = mid + 1;
        else if (ENG_CH_CP(ch) < ranges[mid].first)
            n = mid;
        else
            return true;
    }
    return false;
}

/* \s?[ranges]+ */
static inline size_t blank_and_ranges(const uint32_t *s, size_t i, size_t n, const struct range *ranges,
                                      size_t n_ranges)
{
    size_t k = i;

    if (is(s[i], WS) && i + 1 < n && in_ranges(ranges, n_ranges, s[i + 1]))
        k = i + 1;
    while (k < n && in_ranges(ranges, n_ranges, s[k]))
        k++;
    return k - i;
}

/* The letters of alphabets with case, as DeepSeek-LLM's pattern lists them. */
static const struct range cased_letters[] = {
    {0x41, 0x5a},       {0x61, 0x7a},       {0xb5, 0xb5},       {0xc0, 0xd6},       {0xd8, 0xf6},
    {0xf8, 0x1ba},      {0x1bc, 0x1bf},     {0x1c4, 0x293},     {0x295, 0x2af},     {0x370, 0x373},
    {0x376, 0x377},     {0x37b, 0x37d},     {0x37f, 0x37f},     {0x386, 0x386},     {0x388, 0x38a},
    {0x38c, 0x38c},     {0x38e, 0x3a1},     {0x3a3, 0x3f5},     {0x3f7, 0x481},     {0x48a, 0x52f},
    {0x531, 0x556},     {0x10a0, 0x10c5},   {0x13a0, 0x13f5},   {0x13f8, 0x13fd},   {0x1c90, 0x1cba},
    {0x1cbd, 0x1cbf},   {0x1d00, 0x1d2b},   {0x1d6b, 0x1d77},   {0x1d79, 0x1d9a},   {0x1e00, 0x1f15},
    {0x1f18, 0x1f1d},   {0x1f20, 0x1f45},   {0x1f48, 0x1f4d},   {0x1f50, 0x1f57},   {0x1f59, 0x1f59},
    {0x1f5b, 0x1f5b},   {0x1f5d, 0x1f5d},   {0x1f5f, 0x1f7d},   {0x1f80, 0x1fb4},   {0x1fb6, 0x1fbc},
    {0x1fbe, 0x1fbe},   {0x1fc2, 0x1fc4},   {0x1fc6, 0x1fcc},   {0x1fd0, 0x1fd3},   {0x1fd6, 0x1fdb},
    {0x1fe0, 0x1fec},   {0x1ff2, 0x1ff4},   {0x1ff6, 0x1ffc},   {0x2102, 0x2102},   {0x2107, 0x2107},
    {0x210a, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211d},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212a, 0x212d},   {0x212f, 0x2134},   {0x2139, 0x2139},   {0x213c, 0x213f},
    {0x2145, 0x2149},   {0x214e, 0x214e},   {0x2183, 0x2184},   {0x2c00, 0x2c7b},   {0x2c7e, 0x2ce4},
    {0x2ceb, 0x2cee},   {0x2cf2, 0x2cf3},   {0xa640, 0xa66d},   {0xa680, 0xa69b},   {0xa722, 0xa76f},
    {0xa771, 0xa787},   {0xa78b, 0xa78e},   {0xab70, 0xabbf},   {0xfb00, 0xfb06},   {0xfb13, 0xfb17},
    {0xff21, 0xff3a},   {0xff41, 0xff5a},   {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb},
    {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943},
};

static size_t match_cased_letters(const uint32_t *s, size_t i, size_t n)
{
    return blank_and_ranges(s, i, n, cased_letters, BASE_ARRAY_LEN(cased_letters));
}

static size_t match_punct_deepseek(const uint32_t *s, size_t i, size_t n)
{
    static const struct range r[] = {{0x21, 0x2f},     {0x3a, 0x7e},     {0x2018, 0x201f},
                                     {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};

    return blank_and_ranges(s, i, n, r, BASE_ARRAY_LEN(r));
}

/* \s+$ */
static size_t match_trailing_blanks(const uint32_t *s, size_t i, size_t n)
{
    if (i > 0 &&
        is(s[i - 1], WS)) /* the run was looked at from its start; a second look would make it quadratic */
        return 0;
    return run(s, i, n, WS) == n ? n - i : 0;
}

/* CJK and what lies before it, and Hangul, as DeepSeek's patterns have it */
static size_t match_cjk(const uint32_t *s, size_t i, size_t n)
{
    static const struct range r[] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}};
    size_t k = i;

    while (k < n && in_ranges(r, BASE_ARRAY_LEN(r), s[k]))
        k++;
    return k - i;
}

/* [CJK ideographs, Hiragana, Katakana]+ */
static size_t match_cjk_v3(const uint32_t *s, size_t i, size_t n)
{
    static const struct range r[] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
    size_t k = i;

    while (k < n && in_ranges(r, BASE_ARRAY_LEN(r), s[k]))
        k++;
    return k - i;
}

/* \s?\p{L}+ and \s?\p{P}+ */
static inline size_t blank_and_bits(const uint32_t *s, size_t i, size_t n, unsigned bits)
{
    size_t k = i + (is(s[i], WS) && i + 1 < n && is(s[i + 1], bits));

    return run(s, k, n, bits) - i;
}

static size_t match_blank_letters(const uint32_t *s, size_t i, size_t n)
{
    return blank_and_bits(s, i, n, L);
}

static size_t match_blank_punct(const uint32_t *s, size_t i, size_t n)
{
    return blank_and_bits(s, i, n, P);
}

static inline bool is_ascii_alpha(uint32_t ch)
{
    return (ENG_CH_CP(ch) | 32) >= 'a' && (ENG_CH_CP(ch) | 32) <= 'z';
}

/* [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|
 * ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t match_deepseek_v3(const uint32_t *s, size_t i, size_t n)
{
    uint32_t cp = ENG_CH_CP(s[i]);
    size_t k;

    if (cp < 128 && is(s[i], P | S) && i + 1 < n && is_ascii_alpha(s[i + 1])) {
        for (k = i + 1; k < n && is_ascii_alpha(s[k]);)
            k++;
        return k - i;
    }
    if (!is(s[i], L | P | S) && !is_newline(s[i]) && i + 1 < n && is(s[i + 1], L | M))
        return run(s, i + 1, n, L | M) - i;
    if (is(s[i], L | M))
        return run(s, i, n, L | M) - i;
    k = i + (cp == ' ' && i + 1 < n);
    if (is(s[k], P | S))
        return run_newlines(s, run(s, k, n, P | S), n, false) - i;
    return is(s[i], WS) ? blanks_by_line(s, i, n) : 0;
}

/* clang-format off */
static const struct eng_pre pres[] = {
    {" default ", {match_punct, match_gpt2, match_digits, match_ascii_digits3}, false, false},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ", {match_llama3}, true, true},
    {" dbrx smaug-bpe chatglm-bpe glm4 ", {match_llama3}, false, false},
    {" qwen2 deepseek-r1-qwen kormo stablelm2 hunyuan megrez solar-open ", {match_qwen2}, false, false},
    {" qwen35 ", {match_qwen35}, false, false},
    {" gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat mpt olmo jais trillion "
     "granite-docling exaone4 a.x-4.0 mellum ", {match_gpt2}, false, false},
    {" starcoder refact command-r smollm codeshell exaone minerva-7b ", {match_digit, match_gpt2}, false, false},
    {" tekken ", {match_tekken}, true, true},
    {" gpt-4o llama4 ", {match_gpt4o}, false, false},
    {" falcon ", {match_punct_falcon, match_gpt2, match_ascii_digits3}, false, false},
    {" deepseek-llm ", {match_newline, match_cased_letters, match_punct_deepseek, match_trailing_blanks, match_cjk,
                        match_digits}, false, false},
    {" deepseek-coder ", {match_newline, match_blank_letters, match_blank_punct, match_cjk, match_digit}, false, false},
    {" deepseek-v3 hunyuan-dense joyai-llm ", {match_digits3, match_cjk_v3, match_deepseek_v3}, false, false},
};
/* clang-format on */

const struct eng_pre *eng_pre_find(const char *name)
{
    char padded[64];
    size_t n;

    if (name == NULL)
        name = "default";
    n = strlen(name);
    if (n == 0 || n > sizeof(padded) - 3 || strchr(name, ' ') != NULL)
        return NULL;
    padded[0] = ' ';
    memcpy(padded + 1, name, n);
    memcpy(padded + 1 + n, " ", 2);
    for (size_t i = 0; i < BASE_ARRAY_LEN(pres); i++)
        if (strstr(pres[i].names, padded) != NULL)
            return &pres[i];
    return NULL;
}

/* Decodes one character; a byte that is no UTF-8 stands alone, without class. */
static uint32_t decode(const unsigned char *p, size_t n, size_t *ret_len)
{
    size_t len = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
    uint32_t cp = *p;

    *ret_len = 1;
    if (len == 1)
        return cp;
    if (len == 0 || len > n)
        return ENG_CH_BAD_BYTE | cp;
    cp &= 0xffu >> (len + 1);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return ENG_CH_BAD_BYTE | *p;
        cp = cp << 6 | (p[i] & 0x3fu);
    }
    if (cp > 0x10ffff || (len == 3 && cp < 0x800) || (len == 4 && cp < 0x10000))
        return ENG_CH_BAD_BYTE | *p;
    *ret_len = len;
    return cp;
}

static size_t ch_bytes(uint32_t ch)
{
    uint32_t cp = ENG_CH_CP(ch);

    return (ch & ENG_CH_BAD_BYTE) != 0 || cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
}

/* Cuts every piece once more; `in` and `out` hold ends in characters. Returns how many pieces there are now.
 */
static size_t run_stage(eng_pre_match_fn *match, const uint32_t *s, const uint32_t *in, size_t n_in,
                        uint32_t *out)
{
    size_t n_out = 0, start = 0;

    for (size_t piece = 0; piece < n_in; piece++) {
        size_t i = start, from = start, end = in[piece]; /* [from, i): no match so far */

        while (i < end) {
            size_t len = match(s + start, i - start, end - start);

            if (len == 0) {
                i++;
                continue;
            }
            if (i > from)
                out[n_out++] = (uint32_t)i;
            i += len;
            from = i;
            out[n_out++] = (uint32_t)i;
        }
        if (end > from)
            out[n_out++] = (uint32_t)end;
        start = end;
    }
    return n_out;
}

size_t eng_pre_split(const struct eng_pre *pre, const char *text, size_t len, uint32_t **ret_ends)
{
    uint8_t ascii[128];
    auto_free uint32_t *chars = malloc(len * sizeof(*chars));
    auto_free uint32_t *in = malloc((len + 1) * sizeof(*in));
    auto_free uint32_t *out = malloc((len + 1) * sizeof(*out));
    size_t n = 0, n_pieces = 1;

    if (chars == NULL || in == NULL || out == NULL)
        return 0;
    for (unsigned c = 0; c < 128; c++)
        ascii[c] = (uint8_t)eng_unicode_bits(c);
    for (size_t i = 0, step; i < len; i += step) {
        uint32_t cp = decode((const unsigned char *)text + i, len - i, &step);
        unsigned bits = (cp & ENG_CH_BAD_BYTE) != 0 ? 0 : cp < 128 ? ascii[cp] : eng_unicode_bits(cp);

        chars[n++] = cp | bits << 21;
    }
    in[0] = (uint32_t)n;
    for (size_t k = 0; k < BASE_ARRAY_LEN(pre->stages) && pre->stages[k] != NULL; k++) {
        uint32_t *swap = in;

        n_pieces = run_stage(pre->stages[k], chars, in, n_pieces, out);
        in = out;
        out = swap;
    }
    for (size_t piece = 0, c = 0, bytes = 0; piece < n_pieces; piece++) { /* characters -> bytes */
        for (; c < in[piece]; c++)
            bytes += ch_bytes(chars[c]);
        in[piece] = (uint32_t)bytes;
    }
    base_wipe(chars, n * sizeof(*chars));
    *ret_ends = TAKE(in);
    return n_pieces;
}
