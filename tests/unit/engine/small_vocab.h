/* Test helper: small vocabularies built by hand. */
#ifndef TESTS_SMALL_VOCAB_H
#define TESTS_SMALL_VOCAB_H

#include "base/str.h"
#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_MAX 1024

struct small_vocab {
    struct eng_vocab vocab;
    struct eng_str tokens[SMALL_MAX], merges[SMALL_MAX];
    int32_t types[SMALL_MAX];
    float scores[SMALL_MAX];
    char texts[SMALL_MAX * 2][64];
    unsigned n_texts;
};

static inline struct eng_str sv_text(struct small_vocab *sv, const char *text)
{
    char *copy = sv->texts[sv->n_texts++];

    snprintf(copy, sizeof(sv->texts[0]), "%s", text);
    return (struct eng_str){copy, strlen(copy)};
}

static inline int32_t sv_token(struct small_vocab *sv, const char *text, int32_t type, float score)
{
    uint32_t i = sv->vocab.n_tokens++;

    sv->tokens[i] = sv_text(sv, text);
    sv->types[i] = type;
    sv->scores[i] = score;
    return (int32_t)i;
}

static inline void sv_merge(struct small_vocab *sv, const char *merge)
{
    char joined[64] = "";
    const char *blank = strchr(merge, ' ');

    sv->merges[sv->vocab.n_merges++] = sv_text(sv, merge);
    snprintf(joined, sizeof(joined), "%.*s%s", (int)(blank - merge), merge, blank + 1);
    sv_token(sv, joined, ENG_TOKEN_NORMAL, 0);
}

static inline void sv_init(struct small_vocab *sv, const char *model, const char *pre)
{
    memset(sv, 0, sizeof(*sv));
    sv->vocab = (struct eng_vocab){.model = model,
                                   .pre = pre,
                                   .tokens = sv->tokens,
                                   .types = sv->types,
                                   .merges = sv->merges,
                                   .bos = -1,
                                   .eos = -1,
                                   .eot = -1,
                                   .unk = -1,
                                   .pad = -1,
                                   .add_bos = -1,
                                   .add_eos = -1,
                                   .add_space_prefix = -1};
}

/* Byte-level BPE: token b is byte b; then the merges "l o", "lo w", "\u0120 lo"; then ChatML's control
 * tokens. */
static inline void sv_bpe(struct small_vocab *sv, const char *pre)
{
    unsigned next = 256;

    sv_init(sv, "gpt2", pre);
    for (unsigned b = 0; b < 256; b++) {
        char text[8] = "";
        bool self = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;

        base_utf8_encode(self ? b : next++, text);
        sv_token(sv, text, ENG_TOKEN_NORMAL, 0);
    }
    sv_merge(sv, "l o");                                         /* 256 */
    sv_merge(sv, "lo w");                                        /* 257 */
    sv_merge(sv, "\xc4\xa0 lo");                                 /* 258 */
    sv_merge(sv, "a a");                                         /* 259 */
    sv_merge(sv, "aa aa");                                       /* 260 */
    sv_token(sv, "<|im_start|>", ENG_TOKEN_CONTROL, 0);          /* 261 */
    sv_token(sv, "<|im_end|>", ENG_TOKEN_CONTROL, 0);            /* 262 */
    sv_token(sv, "<tool_call>", ENG_TOKEN_USER_DEFINED, 0);      /* 263 */
    sv_token(sv, "\xc3\xb8\xc3\xb8", ENG_TOKEN_USER_DEFINED, 0); /* 264: "øø" */
    sv_token(sv, "<|im_end|><|im_end|>", ENG_TOKEN_CONTROL, 0);  /* 265 */
    sv->vocab.eos = 262;
}

/* SentencePiece: unknown, BOS, EOS, 256 bytes (3..258), then letters and words. */
static inline void sv_spm(struct small_vocab *sv)
{
    sv_init(sv, "llama", NULL);
    sv->vocab.scores = sv->scores;
    sv_token(sv, "<unk>", ENG_TOKEN_UNKNOWN, 0);
    sv_token(sv, "<s>", ENG_TOKEN_CONTROL, 0);
    sv_token(sv, "</s>", ENG_TOKEN_CONTROL, 0);
    for (unsigned b = 0; b < 256; b++) {
        char text[8];

        snprintf(text, sizeof(text), "<0x%02X>", b);
        sv_token(sv, text, ENG_TOKEN_BYTE, 0);
    }
    sv_token(sv, "\xe2\x96\x81", ENG_TOKEN_NORMAL, -9); /* 259: blank */
    sv_token(sv, "a", ENG_TOKEN_NORMAL, -8);            /* 260 */
    sv_token(sv, "b", ENG_TOKEN_NORMAL, -8);            /* 261 */
    sv_token(sv, "ab", ENG_TOKEN_NORMAL, -2);           /* 262 */
    sv_token(sv, "ba", ENG_TOKEN_NORMAL, -1);           /* 263 */
    sv_token(sv,
             "\xe2\x96\x81"
             "ab",
             ENG_TOKEN_NORMAL, -3); /* 264 */
    sv->vocab.bos = 1;
    sv->vocab.eos = 2;
    sv->vocab.unk = 0;
}

#endif
