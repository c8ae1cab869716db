/* Tokenizer internals shared by tokenizer*.c and their tests. Private to engine/.
 *
 * Invariants of a built tokenizer:
 *  1. tokens[i].bytes is the text that token i stands for (byte-mapping and blanks undone); it is never
 * longer than ENG_TOKEN_BYTES_MAX.
 *  2. `words` finds only tokens that ordinary text may become: never CONTROL, UNKNOWN or UNUSED ones, nor
 * user-defined ones that look like markup. Merging uses nothing else, so that no merge of message text can
 * end in a control token.
 *  3. every id in merges, words, specials and byte_ids is below n_tokens.
 */
#ifndef ENGINE_TOKENIZER_PRIV_H
#define ENGINE_TOKENIZER_PRIV_H

#include "engine/tokenizer.h"

/* Longer texts of control tokens are never looked for in a template. */
#define ENG_SPECIAL_BYTES_MAX 256u
/* A hash chain this long means a vocabulary made to be slow. */
#define ENG_PROBE_MAX  4096u
#define ENG_MERGES_MAX (4u << 20)

enum eng_tok_kind { ENG_TOK_BPE, ENG_TOK_SPM };

struct eng_token {
    struct eng_str bytes;
    float score;
    uint8_t type; /* enum eng_token_type */
    bool ends_answer;
    bool strip_after; /* blanks after it in a prompt are dropped (Phi-3) */
};

struct eng_word_slot {
    int32_t id;   /* -1: free */
    uint32_t tag; /* other bits of the hash: most misses end here, without a look at the token */
};

struct eng_merge_slot {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank;
    int32_t id; /* the merged token */
};

/* Code point and class bits of one character of a text being split. */
#define ENG_CH_CP(ch)   ((ch)&0x1fffffu)
#define ENG_CH_BITS(ch) ((ch) >> 21 & 0xffu)
#define ENG_CH_BAD_BYTE (1u << 29) /* in a ch: a byte that is no UTF-8; the code point is its value */

/* One stage of a pre-tokenizer: the number of characters that its pattern takes at s[i] (0: no match), s[n]
 * being the end of the piece. Matches become pieces of their own, and so does what lies between them. */
typedef size_t eng_pre_match_fn(const uint32_t *s, size_t i, size_t n);

struct eng_pre {
    const char *names;           /* " name name " */
    eng_pre_match_fn *stages[6]; /* ended by NULL */
    bool whole_words;            /* a piece that is a token itself is not built by merges */
    bool add_bos;                /* when the file does not say */
};

struct eng_tokenizer {
    enum eng_tok_kind kind;
    const struct eng_pre *pre; /* BPE alone */
    uint32_t n_tokens;
    struct eng_token *tokens;
    char *blob; /* decoded token bytes */
    uint64_t seed;

    uint32_t words_mask;
    struct eng_word_slot *words; /* hash of bytes -> id */
    uint32_t merges_mask;
    struct eng_merge_slot *merges;
    uint32_t longest_word;  /* bytes */
    bool words_start_blank; /* SPM: no ordinary token has a blank after a non-blank */

    uint32_t n_specials; /* sorted by bytes */
    int32_t *specials;
    uint32_t special_first[257]; /* range of specials by first byte */

    int32_t byte_ids[256];
    int32_t bos, eos, eot, unk;
    bool add_bos, add_eos, add_space_prefix;
};

/* A growing list of ids with a cap; `failed` once an append was refused. */
struct eng_ids {
    int32_t *v;
    uint32_t n, cap, max;
    bool failed;
};

void eng_ids_grow(struct eng_ids *ids);
static inline void eng_ids_add(struct eng_ids *ids, int32_t id)
{
    if (ids->n == ids->cap)
        eng_ids_grow(ids);
    if (!ids->failed)
        ids->v[ids->n++] = id;
}

/* Id of an ordinary token with these bytes; -1. */
int32_t eng_tok_word(const struct eng_tokenizer *tok, const char *p, size_t n);
uint64_t eng_tok_hash(uint64_t seed, const char *p, size_t n);

/* tokenizer_pre.c. NULL for an unknown name; a NULL name is the default. */
const struct eng_pre *eng_pre_find(const char *name);
/* Fills ret_ends with byte offsets of the ends of the pieces of text (len > 0); returns how many, 0 when
 * memory is gone. *ret_ends is freed with free(). */
size_t eng_pre_split(const struct eng_pre *pre, const char *text, size_t len, uint32_t **ret_ends);

/* tokenizer_bpe.c */
enum base_code eng_bpe_init(struct eng_tokenizer *tok, const struct eng_vocab *vocab, struct base_err *err);
size_t eng_bpe_decode_token(const char *p, size_t n,
                            char *out); /* undoes the byte mapping; out has n bytes */
enum base_code eng_bpe_tokenize(const struct eng_tokenizer *tok, const char *text, size_t len,
                                struct eng_ids *ids, struct base_err *err);

/* tokenizer_spm.c */
void eng_spm_init(struct eng_tokenizer *tok);
size_t eng_spm_decode_token(const char *p, size_t n, char *out); /* U+2581 -> blank */
enum base_code eng_spm_tokenize(const struct eng_tokenizer *tok, const char *text, size_t len,
                                bool space_prefix, struct eng_ids *ids, struct base_err *err);

#endif
