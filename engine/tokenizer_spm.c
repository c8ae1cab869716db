/* SentencePiece (unigram scores, merged greedily as BPE): the pair whose joined text has the best score
 * merges first, the leftmost of equals. Characters that the vocabulary lacks become byte tokens. See
 * tokenizer_priv.h.
 *
 * Texts and tokens carry plain blanks here; the vocabulary's U+2581 is undone on both sides.
 */
#include "engine/tokenizer_priv.h"

#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <string.h>

#define NONE UINT32_MAX

size_t eng_spm_decode_token(const char *p, size_t n, char *out)
{
    size_t len = 0;

    for (size_t i = 0; i < n;) {
        if (n - i >= 3 && memcmp(p + i, "\xe2\x96\x81", 3) == 0) {
            out[len++] = ' ';
            i += 3;
        } else
            out[len++] = p[i++];
    }
    return len;
}

/* When no token has a blank after another character, no merge crosses such a place and a text may be cut
 * there, which keeps the heaps small. */
void eng_spm_init(struct eng_tokenizer *tok)
{
    tok->words_start_blank = true;
    for (uint32_t i = 0; i < tok->n_tokens && tok->words_start_blank; i++) {
        const struct eng_token *t = &tok->tokens[i];

        if (t->type != ENG_TOKEN_NORMAL && t->type != ENG_TOKEN_USER_DEFINED)
            continue;
        for (size_t k = 1; k < t->bytes.n; k++)
            if (t->bytes.p[k] == ' ' && t->bytes.p[k - 1] != ' ')
                tok->words_start_blank = false;
    }
}

struct symbol {
    uint32_t off, n; /* n 0: merged away */
    uint32_t prev, next;
};

struct waiting {
    float score;
    uint32_t left, right, n; /* n: bytes of both when it was made */
};

struct work {
    struct symbol *syms;
    struct waiting *heap;
    size_t n_heap;
    size_t room; /* symbols that fit */
};

static bool is_before(const struct waiting *a, const struct waiting *b)
{
    return a->score != b->score ? a->score > b->score : a->left < b->left;
}

static void heap_push(struct work *work, struct waiting w)
{
    size_t i = work->n_heap++;

    while (i > 0 && is_before(&w, &work->heap[(i - 1) / 2])) {
        work->heap[i] = work->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    work->heap[i] = w;
}

static struct waiting heap_pop(struct work *work)
{
    struct waiting top = work->heap[0], last = work->heap[--work->n_heap];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < work->n_heap; i = child) {
        if (child + 1 < work->n_heap && is_before(&work->heap[child + 1], &work->heap[child]))
            child++;
        if (!is_before(&work->heap[child], &last))
            break;
        work->heap[i] = work->heap[child];
    }
    if (work->n_heap > 0)
        work->heap[i] = last;
    return top;
}

static void push_pair(const struct eng_tokenizer *tok, struct work *work, const char *text, uint32_t left)
{
    uint32_t right, n;
    int32_t id;

    if (left == NONE || (right = work->syms[left].next) == NONE)
        return;
    n = work->syms[left].n + work->syms[right].n;
    id = eng_tok_word(tok, text + work->syms[left].off, n);
    if (id >= 0)
        heap_push(work, (struct waiting){tok->tokens[id].score, left, right, n});
}

/* Bytes of the character at p, never past n; a byte that is no UTF-8 is one of its own. */
static size_t char_bytes(const char *p, size_t n)
{
    unsigned char c = (unsigned char)*p;
    size_t len = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf8 ? 4 : 1;

    return len > n ? n : len;
}

static void emit(const struct eng_tokenizer *tok, const char *p, size_t n, struct eng_ids *ids)
{
    int32_t id = eng_tok_word(tok, p, n);

    if (id >= 0) {
        eng_ids_add(ids, id);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        id = tok->byte_ids[(unsigned char)p[i]];
        if (id < 0)
            id = tok->unk;
        if (id >= 0)
            eng_ids_add(ids, id);
    }
}

static void merge_piece(const struct eng_tokenizer *tok, struct work *work, const char *text, size_t len,
                        struct eng_ids *ids)
{
    uint32_t n_syms = 0;

    for (size_t i = 0; i < len;) {
        size_t n = char_bytes(text + i, len - i);

        work->syms[n_syms] =
            (struct symbol){(uint32_t)i, (uint32_t)n, n_syms > 0 ? n_syms - 1 : NONE, n_syms + 1};
        n_syms++;
        i += n;
    }
    work->syms[n_syms - 1].next = NONE;
    work->n_heap = 0;
    for (uint32_t i = 0; i < n_syms; i++)
        push_pair(tok, work, text, i);
    while (work->n_heap > 0) {
        struct waiting w = heap_pop(work);
        struct symbol *left = &work->syms[w.left], *right = &work->syms[w.right];

        if (left->n == 0 || right->n == 0 || left->next != w.right || left->n + right->n != w.n)
            continue;
        left->n += right->n;
        right->n = 0;
        left->next = right->next;
        if (left->next != NONE)
            work->syms[left->next].prev = w.left;
        push_pair(tok, work, text, left->prev);
        push_pair(tok, work, text, w.left);
    }
    for (uint32_t i = 0; i != NONE; i = work->syms[i].next)
        emit(tok, text + work->syms[i].off, work->syms[i].n, ids);
}

/* Length of the piece at text: up to a blank that follows another character. */
static size_t piece_bytes(const struct eng_tokenizer *tok, const char *text, size_t len)
{
    size_t i = 0;

    if (!tok->words_start_blank)
        return len;
    while (i < len && text[i] == ' ')
        i++;
    while (i < len && text[i] != ' ')
        i++;
    return i;
}

static enum base_code make_room(struct work *work, size_t n, struct base_err *err)
{
    if (n <= work->room)
        return BASE_OK;
    n = n < 1024 ? 1024 : n;
    free(work->syms);
    free(work->heap);
    work->syms = base_try_zarray(n, sizeof(*work->syms));
    work->heap = base_try_zarray(2 * n, sizeof(*work->heap)); /* as in tokenizer_bpe.c */
    work->room = n;
    if (work->syms == NULL || work->heap == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "a text of %zu bytes", n);
    return BASE_OK;
}

enum base_code eng_spm_tokenize(const struct eng_tokenizer *tok, const char *text, size_t len,
                                bool space_prefix, struct eng_ids *ids, struct base_err *err)
{
    struct work work = {0};
    enum base_code rc = BASE_OK;
    auto_free char *plain = NULL;
    size_t n = 0;

    if (len > UINT32_MAX / 4)
        return base_fail(err, BASE_TOO_LARGE, 0, "text of %zu bytes", len);
    plain = base_try_zarray(len + 1, 1);
    if (plain == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "a text of %zu bytes", len);
    if (space_prefix)
        plain[n++] = ' ';
    n += eng_spm_decode_token(text, len, plain + n);
    for (size_t i = 0, piece; i < n && rc == BASE_OK && !ids->failed; i += piece) {
        piece = piece_bytes(tok, plain + i, n - i);
        rc = make_room(&work, piece, err);
        if (rc == BASE_OK)
            merge_piece(tok, &work, plain + i, piece, ids);
    }
    base_wipe(plain, n); /* symbols and heap hold places and scores alone */
    free(work.syms);
    free(work.heap);
    return rc;
}
