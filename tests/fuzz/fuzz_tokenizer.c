/* Fuzz target: tokenizers. Input: a byte of options, then lines "<type digit><token>", an empty line, lines
 * of merges, an empty line, and the text. Bit 0 of the options: SentencePiece; bit 1: the vocabulary starts
 * with all 256 bytes; bits 2-5: pre-tokenizer. */
#include "base/str.h"
#include "engine/tokenizer.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX 2048u

static struct eng_str tokens[MAX], merges[MAX];
static int32_t types[MAX];
static float scores[MAX];
static char byte_texts[256][8];

static uint32_t add_bytes(bool spm)
{
    unsigned next = 256;

    for (unsigned b = 0; b < 256; b++) {
        bool self = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;

        memset(byte_texts[b], 0, sizeof(byte_texts[b]));
        if (spm)
            snprintf(byte_texts[b], sizeof(byte_texts[b]), "<0x%02X>", b);
        else
            base_utf8_encode(self ? b : next++, byte_texts[b]);
        tokens[b] = (struct eng_str){byte_texts[b], strlen(byte_texts[b])};
        types[b] = spm ? ENG_TOKEN_BYTE : ENG_TOKEN_NORMAL;
        scores[b] = 0;
    }
    return 256;
}

/* Takes one line off *p; false at an empty line or the end. */
static bool next_line(const char **p, const char *end, struct eng_str *ret)
{
    const char *eol = *p < end ? memchr(*p, '\n', (size_t)(end - *p)) : NULL;

    if (*p >= end)
        return false;
    if (eol == NULL)
        eol = end;
    *ret = (struct eng_str){*p, (size_t)(eol - *p)};
    *p = eol < end ? eol + 1 : end;
    return ret->n > 0;
}

static void check(const struct eng_tokenizer *tok, const struct eng_vocab *vocab, const char *text,
                  size_t len, bool special, bool round_trip)
{
    int32_t *ids = NULL;
    uint32_t n = 0;
    size_t at = 0;

    if (eng_tokenize(tok, text, len, special, special, 1u << 20, &ids, &n, NULL) == BASE_OK) {
        for (uint32_t i = 0; i < n; i++) {
            struct eng_str s = eng_token_bytes(tok, ids[i], true);

            if (ids[i] < 0 || (uint32_t)ids[i] >= vocab->n_tokens)
                abort();
            if (!special && (types[ids[i]] == ENG_TOKEN_CONTROL || eng_token_ends_answer(tok, ids[i])))
                abort(); /* plain text never becomes a control token */
            if (round_trip && (s.n > len - at || memcmp(text + at, s.p, s.n) != 0))
                abort();
            at += s.n;
        }
        if (round_trip && at != len)
            abort();
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const pres[] = {"default", "llama-bpe",    "qwen2",          "qwen35",
                                       "gpt-2",   "starcoder",    "tekken",         "gpt-4o",
                                       "falcon",  "deepseek-llm", "deepseek-coder", "deepseek-v3"};
    const char *p = (const char *)data + 1, *end = (const char *)data + size;
    struct eng_tokenizer *tok = NULL;
    struct eng_vocab vocab;
    struct eng_str line;
    bool spm, bytes;

    if (size < 1)
        return 0;
    spm = data[0] & 1;
    bytes = data[0] & 2;
    vocab = (struct eng_vocab){.model = spm ? "llama" : "gpt2",
                               .pre = pres[(data[0] >> 2 & 15) % 12],
                               .tokens = tokens,
                               .types = types,
                               .scores = scores,
                               .merges = merges,
                               .bos = -1,
                               .eos = -1,
                               .eot = -1,
                               .unk = -1,
                               .pad = -1,
                               .add_bos = -1,
                               .add_eos = -1,
                               .add_space_prefix = -1};
    vocab.n_tokens = bytes ? add_bytes(spm) : 0;
    while (vocab.n_tokens < MAX && next_line(&p, end, &line)) {
        types[vocab.n_tokens] = line.p[0] - '0';
        scores[vocab.n_tokens] = (float)(line.n % 7);
        tokens[vocab.n_tokens++] = (struct eng_str){line.p + 1, line.n - 1};
    }
    while (vocab.n_merges < MAX && next_line(&p, end, &line))
        merges[vocab.n_merges++] = line;
    if (data[0] & 128) { /* ids as the file might claim them */
        vocab.bos = (int32_t)data[0] - 129;
        vocab.eos = (int32_t)(data[size - 1]) - 1;
    }
    if (eng_tokenizer_new(&tok, &vocab, NULL) == BASE_OK) {
        check(tok, &vocab, p, (size_t)(end - p), false,
              bytes && !spm && !(data[0] & 128)); /* a byte that the file calls BOS cannot be written */
        check(tok, &vocab, p, (size_t)(end - p), true, false);
        eng_tokenizer_free(tok);
    }
    return 0;
}
