/* Tokenizers: building from a vocabulary, special tokens, dispatch. See tokenizer.h and the invariants in
 * tokenizer_priv.h. */
#include "engine/tokenizer_priv.h"

#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"
#include "engine/template.h"

#include <math.h>
#include <string.h>
#include <sys/random.h>

/* DeepSeek's, with full-width bars and U+2581: in pieces, since "\x9cend" would be one long escape. */
#define END_OF_SENTENCE \
    ("<\xef\xbd\x9c"    \
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>")

static const char *const ends_answer_names[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    END_OF_SENTENCE,
    "<|end_of_sentence|>",
    "<|end_of_role|>",
    "[EOT]",
    "<|endofturn|>",
    "<|eot|>",
    "<|user_end|>",
    "</s>",
    "<eos>",
};
/* Control tokens that some files call ordinary. */
static const char *const control_names[] = {"<bos>", "<start_of_turn>", "[INST]", "[/INST]"};

static bool is_one_of(const char *const *names, size_t n, struct eng_str s)
{
    if (s.n == 0 || (s.p[0] != '<' && s.p[0] != '[')) /* all names begin so */
        return false;
    for (size_t i = 0; i < n; i++)
        if (strlen(names[i]) == s.n && memcmp(names[i], s.p, s.n) == 0)
            return true;
    return false;
}

static bool str_has(struct eng_str s, const char *prefix, const char *suffix)
{
    size_t a = strlen(prefix), b = strlen(suffix);

    return s.n > a + b && memcmp(s.p, prefix, a) == 0 && memcmp(s.p + s.n - b, suffix, b) == 0;
}

/* "<|x|>" in ASCII or with the full-width bars of DeepSeek. */
static bool has_control_shape(struct eng_str s)
{
    return str_has(s, "<|", "|>") || str_has(s, "<\xef\xbd\x9c", "\xef\xbd\x9c>");
}

/* "<tool_call>", "[TOOL_CALLS]": a user-defined token of this shape is taken from template text alone, since
 * it means something to the model; "ø" or a run of blanks may come from a message too. */
static bool has_markup_shape(struct eng_str s)
{
    return s.n > 2 && ((s.p[0] == '<' && s.p[s.n - 1] == '>') || (s.p[0] == '[' && s.p[s.n - 1] == ']') ||
                       has_control_shape(s));
}

uint64_t eng_tok_hash(uint64_t seed, const char *p, size_t n)
{
    uint64_t h = seed ^ (n * 0x9e3779b97f4a7c15u);

    for (; n >= 8; p += 8, n -= 8) {
        uint64_t w;

        memcpy(&w, p, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    if (n > 0) {
        uint64_t w = 0;

        memcpy(&w, p, n);
        h = (h ^ w) * 0xc4ceb9fe1a85ec53u;
        h ^= h >> 29;
    }
    h *= 0x9e3779b97f4a7c15u;
    return h ^ (h >> 32);
}

/* The slot that holds these bytes, or the free one where they would go; NULL when that takes too long. */
static struct eng_word_slot *find_slot(const struct eng_tokenizer *tok, const char *p, size_t n,
                                       uint32_t *ret_tag)
{
    uint64_t h = eng_tok_hash(tok->seed, p, n);
    uint32_t i = (uint32_t)h & tok->words_mask, tag = (uint32_t)(h >> 32);

    *ret_tag = tag;
    for (uint32_t probes = 0; probes < ENG_PROBE_MAX; probes++, i = (i + 1) & tok->words_mask) {
        struct eng_word_slot *slot = &tok->words[i];
        struct eng_str s;

        if (slot->id < 0)
            return slot;
        if (slot->tag != tag)
            continue;
        s = tok->tokens[slot->id].bytes;
        if (s.n == n && memcmp(s.p, p, n) == 0)
            return slot;
    }
    return NULL;
}

int32_t eng_tok_word(const struct eng_tokenizer *tok, const char *p, size_t n)
{
    const struct eng_word_slot *slot;
    uint32_t tag;

    if (n == 0 || n > tok->longest_word)
        return -1;
    slot = find_slot(tok, p, n, &tag);
    return slot != NULL ? slot->id : -1;
}

void eng_ids_grow(struct eng_ids *ids)
{
    uint32_t cap = ids->cap < 64 ? 64 : ids->cap * 2;
    int32_t *v;

    if (ids->n >= ids->max || ids->failed) {
        ids->failed = true;
        return;
    }
    if (cap > ids->max)
        cap = ids->max;
    v = malloc((size_t)cap * sizeof(*v)); /* realloc would leave a copy behind */
    if (v == NULL) {
        ids->failed = true;
        return;
    }
    if (ids->n > 0) {
        memcpy(v, ids->v, ids->n * sizeof(*v));
        base_wipe(ids->v, ids->n * sizeof(*v));
    }
    free(ids->v);
    ids->v = v;
    ids->cap = cap;
}

/* ---- building ---- */

static enum base_code check_vocab(const struct eng_vocab *vocab, struct base_err *err)
{
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {{"bos", vocab->bos},
               {"eos", vocab->eos},
               {"eot", vocab->eot},
               {"unknown", vocab->unk},
               {"padding", vocab->pad}};

    if (vocab->model == NULL)
        return base_fail(err, BASE_INVALID, 0, "tokenizer.ggml.model is absent");
    if (vocab->n_tokens == 0 || vocab->tokens == NULL)
        return base_fail(err, BASE_INVALID, 0, "tokenizer.ggml.tokens is empty");
    if (vocab->n_tokens > ENG_VOCAB_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "%u tokens, limit %u", vocab->n_tokens, ENG_VOCAB_MAX);
    if (vocab->n_merges > ENG_MERGES_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "%u merges, limit %u", vocab->n_merges, ENG_MERGES_MAX);
    for (size_t i = 0; i < BASE_ARRAY_LEN(ids); i++)
        if (ids[i].id < -1 || (ids[i].id >= 0 && (uint32_t)ids[i].id >= vocab->n_tokens))
            return base_fail(err, BASE_INVALID, 0, "%s token id %d, vocabulary has %u tokens", ids[i].name,
                             (int)ids[i].id, vocab->n_tokens);
    for (uint32_t i = 0; i < vocab->n_tokens; i++)
        if (vocab->tokens[i].n > ENG_TOKEN_BYTES_MAX)
            return base_fail(err, BASE_TOO_LARGE, 0, "token %u is %zu bytes, limit %u", i, vocab->tokens[i].n,
                             ENG_TOKEN_BYTES_MAX);
    return BASE_OK;
}

static uint8_t token_type(const struct eng_vocab *vocab, uint32_t i)
{
    int32_t type = vocab->types != NULL ? vocab->types[i] : ENG_TOKEN_NORMAL;
    struct eng_str s = vocab->tokens[i];
    int32_t id = (int32_t)i;

    if (type < ENG_TOKEN_NORMAL || type > ENG_TOKEN_BYTE)
        type = ENG_TOKEN_NORMAL;
    if (type == ENG_TOKEN_NORMAL || type == ENG_TOKEN_USER_DEFINED) {
        if (has_control_shape(s) || is_one_of(ends_answer_names, BASE_ARRAY_LEN(ends_answer_names), s) ||
            is_one_of(control_names, BASE_ARRAY_LEN(control_names), s) || id == vocab->bos ||
            id == vocab->eos || id == vocab->eot)
            type = ENG_TOKEN_CONTROL;
    }
    return (uint8_t)type;
}

/* What ordinary text may become: see invariant 2. */
static bool is_word(const struct eng_token *t)
{
    return t->type == ENG_TOKEN_NORMAL || (t->type == ENG_TOKEN_USER_DEFINED && !has_markup_shape(t->bytes));
}

/* "<0x0A>"; -1 when the text is not of that form. */
static int byte_token_value(struct eng_str s)
{
    unsigned char byte;
    size_t n;

    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>' ||
        base_hex_decode(s.p + 3, 2, &byte, 1, &n) != BASE_OK)
        return -1;
    return byte;
}

static enum base_code decode_tokens(struct eng_tokenizer *tok, const struct eng_vocab *vocab,
                                    struct base_err *err)
{
    size_t total = 0;
    char *out;

    for (uint32_t i = 0; i < vocab->n_tokens; i++)
        total += vocab->tokens[i].n;
    tok->tokens = base_try_zarray(vocab->n_tokens, sizeof(*tok->tokens));
    tok->blob = base_try_zarray(total + 1, 1);
    if (tok->tokens == NULL || tok->blob == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "vocabulary of %u tokens, %zu bytes", vocab->n_tokens,
                         total);
    out = tok->blob;
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        struct eng_token *t = &tok->tokens[i];
        struct eng_str s = vocab->tokens[i];
        int byte = -1;

        t->type = token_type(vocab, i);
        t->score = vocab->scores == NULL ? 0.0f : isnan(vocab->scores[i]) ? -INFINITY : vocab->scores[i];
        t->ends_answer = t->type == ENG_TOKEN_CONTROL &&
                         (is_one_of(ends_answer_names, BASE_ARRAY_LEN(ends_answer_names), s) ||
                          (int32_t)i == vocab->eos || (int32_t)i == vocab->eot);
        t->bytes.p = out;
        if (t->type == ENG_TOKEN_BYTE)
            byte = byte_token_value(s);
        if (byte >= 0) {
            *out = (char)byte;
            t->bytes.n = 1;
            if (tok->byte_ids[byte] < 0)
                tok->byte_ids[byte] = (int32_t)i;
        } else if (tok->kind == ENG_TOK_SPM)
            t->bytes.n = eng_spm_decode_token(s.p, s.n, out);
        else if (t->type == ENG_TOKEN_NORMAL)
            t->bytes.n = eng_bpe_decode_token(s.p, s.n, out);
        else {
            memcpy(out, s.p, s.n);
            t->bytes.n = s.n;
        }
        out += t->bytes.n;
    }
    return BASE_OK;
}

/* Of tokens with the same bytes the first one counts. */
static enum base_code index_words(struct eng_tokenizer *tok, struct base_err *err)
{
    uint32_t size = 64;

    while (size < tok->n_tokens * 2)
        size *= 2;
    tok->words_mask = size - 1;
    tok->words = base_try_zarray(size, sizeof(*tok->words));
    if (tok->words == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "index of %u tokens", tok->n_tokens);
    memset(tok->words, 0xff, (size_t)size * sizeof(*tok->words)); /* all ids -1 */
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        struct eng_token *t = &tok->tokens[i];
        struct eng_word_slot *slot;
        uint32_t tag;

        if (!is_word(t) || t->bytes.n == 0)
            continue;
        if (t->bytes.n > tok->longest_word)
            tok->longest_word = (uint32_t)t->bytes.n;
        slot = find_slot(tok, t->bytes.p, t->bytes.n, &tag);
        if (slot == NULL)
            return base_fail(err, BASE_INVALID, 0, "vocabulary cannot be indexed at token %u", i);
        if (slot->id < 0)
            *slot = (struct eng_word_slot){(int32_t)i, tag};
    }
    return BASE_OK;
}

static int by_bytes(const void *a, const void *b, void *arg)
{
    const struct eng_tokenizer *tok = arg;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    struct eng_str s = tok->tokens[x].bytes, t = tok->tokens[y].bytes;
    int c = memcmp(s.p, t.p, s.n < t.n ? s.n : t.n);

    if (c != 0)
        return c;
    if (s.n != t.n)
        return s.n < t.n ? -1 : 1;
    return x < y ? -1 : x > y;
}

static enum base_code index_specials(struct eng_tokenizer *tok, struct base_err *err)
{
    uint32_t n = 0;

    tok->specials = base_try_zarray((size_t)tok->n_tokens + 1, sizeof(*tok->specials));
    if (tok->specials == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "index of special tokens");
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        const struct eng_token *t = &tok->tokens[i];

        if ((t->type == ENG_TOKEN_CONTROL || t->type == ENG_TOKEN_USER_DEFINED ||
             t->type == ENG_TOKEN_UNKNOWN) &&
            t->bytes.n > 0 && t->bytes.n <= ENG_SPECIAL_BYTES_MAX)
            tok->specials[n++] = (int32_t)i;
    }
    tok->n_specials = n;
    qsort_r(tok->specials, n, sizeof(*tok->specials), by_bytes, tok);
    for (unsigned c = 0, i = 0; c <= 256; c++) {
        while (i < n && (unsigned char)tok->tokens[tok->specials[i]].bytes.p[0] < c)
            i++;
        tok->special_first[c] = i;
    }
    return BASE_OK;
}

/* Phi-3's tokenizer drops blanks after most of its special tokens; the file does not say so, its vocabulary
 * does. */
static void find_phi3(struct eng_tokenizer *tok)
{
    if (tok->kind != ENG_TOK_SPM || eng_token_by_text(tok, "<|placeholder1|>", 16) < 0 ||
        eng_token_by_text(tok, "<|assistant|>", 13) < 0)
        return;
    for (uint32_t i = 0; i < tok->n_specials; i++) {
        struct eng_token *t = &tok->tokens[tok->specials[i]];

        t->strip_after = !is_one_of((const char *const[]){"<unk>", "<s>", "<|endoftext|>"}, 3, t->bytes);
    }
}

static enum base_code build(struct eng_tokenizer *tok, const struct eng_vocab *vocab, struct base_err *err)
{
    enum base_code rc = decode_tokens(tok, vocab, err);

    if (rc == BASE_OK)
        rc = index_words(tok, err);
    if (rc == BASE_OK)
        rc = index_specials(tok, err);
    if (rc != BASE_OK)
        return rc;
    find_phi3(tok);
    if (tok->kind == ENG_TOK_BPE)
        return eng_bpe_init(tok, vocab, err);
    eng_spm_init(tok);
    return BASE_OK;
}

enum base_code eng_tokenizer_new(struct eng_tokenizer **ret_tok, const struct eng_vocab *vocab,
                                 struct base_err *err)
{
    enum base_code rc = check_vocab(vocab, err);
    struct eng_tokenizer *tok;
    bool spm;

    if (rc != BASE_OK)
        return rc;
    spm = strcmp(vocab->model, "llama") == 0;
    if (!spm && strcmp(vocab->model, "gpt2") != 0)
        return base_fail(err, BASE_UNSUPPORTED, 0, "tokenizer model \"%.40s\"", vocab->model);
    tok = base_zalloc(sizeof(*tok));
    tok->kind = spm ? ENG_TOK_SPM : ENG_TOK_BPE;
    tok->n_tokens = vocab->n_tokens;
    tok->bos = vocab->bos;
    tok->eos = vocab->eos;
    tok->eot = vocab->eot;
    tok->unk = vocab->unk;
    memset(tok->byte_ids, 0xff, sizeof(tok->byte_ids));
    if (getrandom(&tok->seed, sizeof(tok->seed), GRND_NONBLOCK) != (ssize_t)sizeof(tok->seed))
        tok->seed = (uint64_t)(uintptr_t)tok; /* only speed against a hostile file depends on it */
    if (!spm && (tok->pre = eng_pre_find(vocab->pre)) == NULL)
        rc = base_fail(err, BASE_UNSUPPORTED, 0, "pre-tokenizer \"%.40s\"", vocab->pre);
    tok->add_bos = vocab->add_bos >= 0 ? vocab->add_bos != 0 : spm || (tok->pre != NULL && tok->pre->add_bos);
    tok->add_eos = vocab->add_eos > 0;
    tok->add_space_prefix = spm && vocab->add_space_prefix != 0;
    if (rc == BASE_OK)
        rc = build(tok, vocab, err);
    if (rc != BASE_OK) {
        eng_tokenizer_free(tok);
        return rc;
    }
    *ret_tok = tok;
    return BASE_OK;
}

void eng_tokenizer_free(struct eng_tokenizer *tok)
{
    if (tok == NULL)
        return;
    free(tok->tokens);
    free(tok->blob);
    free(tok->words);
    free(tok->merges);
    free(tok->specials);
    free(tok);
}

/* ---- tokenizing ---- */

/* The longest special token at p; -1. Narrows the sorted list byte by byte. */
static int32_t special_at(const struct eng_tokenizer *tok, const char *p, size_t n, bool data)
{
    uint32_t lo = tok->special_first[(unsigned char)p[0]], hi = tok->special_first[(unsigned char)p[0] + 1];
    int32_t found = -1;

    for (size_t k = 0; lo < hi && k < n; k++) {
        unsigned char c = (unsigned char)p[k];
#define AT(i) ((unsigned char)tok->tokens[tok->specials[i]].bytes.p[k])
        if (AT(lo) != c || AT(hi - 1) != c) {
            uint32_t a = lo, b = hi;

            while (a < b) { /* the first with a byte >= c */
                uint32_t mid = a + (b - a) / 2;

                if (AT(mid) < c)
                    a = mid + 1;
                else
                    b = mid;
            }
            lo = a;
            b = hi;
            while (a < b) {
                uint32_t mid = a + (b - a) / 2;

                if (AT(mid) <= c)
                    a = mid + 1;
                else
                    b = mid;
            }
            hi = a;
        }
#undef AT
        /* texts that end here sort first; all those still in the range agree with p up to k */
        if (lo < hi && tok->tokens[tok->specials[lo]].bytes.n == k + 1) {
            const struct eng_token *t = &tok->tokens[tok->specials[lo]];

            if (!data || (t->type == ENG_TOKEN_USER_DEFINED && !has_markup_shape(t->bytes)))
                found = tok->specials[lo];
            while (lo < hi && tok->tokens[tok->specials[lo]].bytes.n == k + 1)
                lo++;
        }
    }
    return found;
}

static enum base_code add_plain(const struct eng_tokenizer *tok, const char *text, size_t len,
                                bool after_special, struct eng_ids *ids, struct base_err *err)
{
    enum base_code rc;

    if (len == 0)
        return BASE_OK;
    if (tok->kind == ENG_TOK_BPE)
        rc = eng_bpe_tokenize(tok, text, len, ids, err);
    else
        rc = eng_spm_tokenize(tok, text, len, tok->add_space_prefix && after_special, ids, err);
    if (rc == BASE_OK && ids->failed)
        rc = base_fail(err, BASE_TOO_LARGE, 0, "more than %u tokens", ids->max);
    return rc;
}

/* Text is cut at special tokens; what lies between is tokenized as one, across the borders of spans. */
static enum base_code add_spans(const struct eng_tokenizer *tok, const char *text,
                                const struct eng_template_span *spans, size_t n_spans, struct eng_ids *ids,
                                struct base_err *err)
{
    size_t raw = n_spans > 0 ? spans[0].start : 0, end = raw;
    bool after_special = true;
    enum base_code rc;

    for (size_t s = 0; s < n_spans; s++) {
        bool data = spans[s].from_message;
        size_t i = spans[s].start;

        end = spans[s].end;
        if (raw > i)
            i = raw < end ? raw : end; /* blanks dropped after a special token */
        while (i < end) {
            int32_t id = special_at(tok, text + i, end - i, data);

            if (id < 0) {
                i++;
                continue;
            }
            rc = add_plain(tok, text + raw, i - raw, after_special, ids, err);
            if (rc != BASE_OK)
                return rc;
            eng_ids_add(ids, id);
            after_special = true;
            i += tok->tokens[id].bytes.n;
            raw = i;
            if (tok->tokens[id].strip_after) {
                while (raw < spans[n_spans - 1].end && strchr(" \t\n\r\v\f", text[raw]) != NULL &&
                       text[raw] != '\0')
                    raw++;
                i = raw < end ? raw : end;
            }
        }
    }
    if (end < raw)
        end = raw;
    return add_plain(tok, text + raw, end - raw, after_special, ids, err);
}

static enum base_code tokenize(const struct eng_tokenizer *tok, const char *text,
                               const struct eng_template_span *spans, size_t n_spans, bool add_special,
                               bool is_chat, uint32_t max_ids, int32_t **ids, uint32_t *n_ids,
                               struct base_err *err)
{
    struct eng_ids list = {.v = *ids, .n = *n_ids, .cap = *n_ids, .max = max_ids};
    uint32_t start = list.n;
    enum base_code rc;

    if (add_special && tok->add_bos && tok->bos >= 0)
        eng_ids_add(&list, tok->bos);
    rc = add_spans(tok, text, spans, n_spans, &list, err);
    if (rc == BASE_OK && is_chat && list.n >= start + 2 && add_special && tok->add_bos && tok->bos >= 0 &&
        list.v[start + 1] == tok->bos) {
        memmove(list.v + start, list.v + start + 1, (size_t)(list.n - start - 1) * sizeof(*list.v));
        list.n--;
    }
    if (rc == BASE_OK && !is_chat && add_special && tok->add_eos && tok->eos >= 0)
        eng_ids_add(&list, tok->eos);
    if (rc == BASE_OK && list.failed)
        rc = base_fail(err, BASE_TOO_LARGE, 0, "more than %u tokens", max_ids);
    *ids = list.v; /* it may have moved; *n_ids tells what it holds */
    if (rc == BASE_OK)
        *n_ids = list.n;
    else if (list.n > start)
        base_wipe(list.v + start, (size_t)(list.n - start) * sizeof(*list.v));
    return rc;
}

enum base_code eng_tokenize(const struct eng_tokenizer *tok, const char *text, size_t len, bool add_special,
                            bool parse_special, uint32_t max_ids, int32_t **ids, uint32_t *n_ids,
                            struct base_err *err)
{
    struct eng_template_span span = {0, len, !parse_special};

    return tokenize(tok, text, &span, 1, add_special, false, max_ids, ids, n_ids, err);
}

enum base_code eng_tokenize_spans(const struct eng_tokenizer *tok, const char *text,
                                  const struct eng_template_span *spans, size_t n_spans, bool add_special,
                                  uint32_t max_ids, int32_t **ids, uint32_t *n_ids, struct base_err *err)
{
    return tokenize(tok, text, spans, n_spans, add_special, true, max_ids, ids, n_ids, err);
}

/* ---- asking ---- */

struct eng_str eng_token_bytes(const struct eng_tokenizer *tok, int32_t id, bool render_special)
{
    const struct eng_token *t;

    if (id < 0 || (uint32_t)id >= tok->n_tokens)
        return (struct eng_str){"", 0};
    t = &tok->tokens[id];
    if (!render_special && (t->type == ENG_TOKEN_CONTROL || t->type == ENG_TOKEN_UNKNOWN))
        return (struct eng_str){"", 0};
    return t->bytes;
}

bool eng_tokenizer_strips_first_space(const struct eng_tokenizer *tok)
{
    return tok->add_space_prefix;
}

uint32_t eng_tokenizer_n_tokens(const struct eng_tokenizer *tok)
{
    return tok->n_tokens;
}

int32_t eng_tokenizer_bos(const struct eng_tokenizer *tok)
{
    return tok->bos;
}

int32_t eng_tokenizer_eos(const struct eng_tokenizer *tok)
{
    return tok->eos;
}

bool eng_token_ends_answer(const struct eng_tokenizer *tok, int32_t id)
{
    return id >= 0 && (uint32_t)id < tok->n_tokens && tok->tokens[id].ends_answer;
}

int32_t eng_token_by_text(const struct eng_tokenizer *tok, const char *text, size_t len)
{
    for (uint32_t i = 0; i < tok->n_specials; i++) {
        const struct eng_token *t = &tok->tokens[tok->specials[i]];

        if (t->type == ENG_TOKEN_CONTROL && t->bytes.n == len && memcmp(t->bytes.p, text, len) == 0)
            return tok->specials[i];
    }
    return -1;
}
