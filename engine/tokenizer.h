/* Tokenizers: text to token ids and back. Private to engine/.
 *
 * What: byte-level BPE ("gpt2" in GGUF, with the pre-tokenizer that the file names) and SentencePiece ("llama"), behind one
 *       type. Built from a model file's vocabulary, which is untrusted: sizes and ids are checked here.
 * Who:  any thread once built; it never changes.
 * Promises: what tokenizing leaves in memory besides the ids it returns is wiped: text may be a prompt.
 */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define ENG_VOCAB_MAX       1048576u
#define ENG_TOKEN_BYTES_MAX 1024u

/* Values of tokenizer.ggml.token_type. */
enum eng_token_type {
    ENG_TOKEN_NORMAL = 1,
    ENG_TOKEN_UNKNOWN = 2,
    ENG_TOKEN_CONTROL = 3,
    ENG_TOKEN_USER_DEFINED = 4,
    ENG_TOKEN_UNUSED = 5,
    ENG_TOKEN_BYTE = 6
};

/* A counted string inside the model file's directory. */
struct eng_str {
    const char *p;
    size_t n;
};

/* What a model file says of its vocabulary; all pointers are borrowed for the tokenizer's life. Absent ids are -1. */
struct eng_vocab {
    const char *model; /* tokenizer.ggml.model: "gpt2" or "llama" */
    const char *pre;   /* tokenizer.ggml.pre; NULL when absent */
    uint32_t n_tokens;
    const struct eng_str *tokens;
    const float *scores;  /* NULL when absent */
    const int32_t *types; /* NULL when absent: all normal */
    uint32_t n_merges;
    const struct eng_str *merges; /* "left right" */
    int32_t bos, eos, eot, unk, pad;
    int add_bos, add_eos, add_space_prefix; /* -1: the model kind's default */
};

struct eng_tokenizer;

/* BASE_UNSUPPORTED names an unknown model or pre-tokenizer. */
enum base_code eng_tokenizer_new(struct eng_tokenizer **ret_tok, const struct eng_vocab *vocab,
                                 struct base_err *err);
void eng_tokenizer_free(struct eng_tokenizer *tok); /* NULL is allowed */

/* Appends ids of `text` (any bytes) to a growing array: *ids is realloc'ed, *n_ids counts. `parse_special`: control and
 * user-defined token texts inside `text` become their ids (only ever for the template's own text); `add_special`: BOS/EOS as the
 * model wants. BASE_TOO_LARGE when *n_ids would pass max_ids. */
enum base_code eng_tokenize(const struct eng_tokenizer *tok, const char *text, size_t len, bool add_special,
                            bool parse_special, uint32_t max_ids, int32_t **ids, uint32_t *n_ids,
                            struct base_err *err);

struct eng_template_span;
/* The same for a rendered chat: control tokens are taken from template spans alone, and the text between them is tokenized
 * as one, so that words may cross from template to message as they did in training. spans cover the text in order. BOS
 * is added when the model wants one and the template has not written it; EOS never: the answer is to follow. */
enum base_code eng_tokenize_spans(const struct eng_tokenizer *tok, const char *text,
                                  const struct eng_template_span *spans, size_t n_spans, bool add_special,
                                  uint32_t max_ids, int32_t **ids, uint32_t *n_ids, struct base_err *err);

/* The bytes of one token as output text (empty for control tokens unless `render_special`). Borrowed for the tokenizer's
 * life. Bytes of one token need not be whole UTF-8. */
struct eng_str eng_token_bytes(const struct eng_tokenizer *tok, int32_t id, bool render_special);
/* SentencePiece drops one blank before the first word of a text. */
bool eng_tokenizer_strips_first_space(const struct eng_tokenizer *tok);

uint32_t eng_tokenizer_n_tokens(const struct eng_tokenizer *tok);
int32_t eng_tokenizer_bos(const struct eng_tokenizer *tok); /* -1: none */
int32_t eng_tokenizer_eos(const struct eng_tokenizer *tok);
/* True for every token that ends an answer: eos, eot, and control tokens known by name (<|im_end|>, <|eot_id|>, ...). */
bool eng_token_ends_answer(const struct eng_tokenizer *tok, int32_t id);
/* The id of a control token by its exact text; -1 when there is none. */
int32_t eng_token_by_text(const struct eng_tokenizer *tok, const char *text, size_t len);

#endif
