/* Byte-level BPE: the byte mapping of GPT-2, merges by rank. See tokenizer_priv.h.
 *
 * A piece of text starts as one symbol per byte; the pair of neighbours with the lowest rank merges (the
 * leftmost of equals) until none is left. Short pieces look for it by scanning, long ones with a heap, so
 * that a megabyte of one letter takes n log n steps.
 */
#include "engine/tokenizer_priv.h"

#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <string.h>

#define SHORT_MAX 24u
#define NO_RANK   UINT32_MAX

/* The byte that a code point of the mapping stands for; -1. Printable Latin-1 stands for itself, the other
 * bytes follow from U+0100 on in their order. */
static int mapped_byte(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
        return (int)cp;
    if (cp >= 0x100 && cp <= 0x120)
        return (int)(cp - 0x100); /* 0x00-0x20 */
    if (cp >= 0x121 && cp <= 0x142)
        return (int)(cp - 0x121 + 0x7f); /* 0x7f-0xa0 */
    return cp == 0x143 ? 0xad : -1;
}

size_t eng_bpe_decode_token(const char *p, size_t n, char *out)
{
    size_t len = 0;

    if (base_utf8_valid(p, n)) {
        for (size_t i = 0; i < n;) {
            uint32_t cp;
            int byte;

            i += base_utf8_decode(p + i, n - i, &cp);
            byte = mapped_byte(cp);
            if (byte < 0)
                goto literal;
            out[len++] = (char)byte;
        }
        return len;
    }
literal:
    memcpy(out, p, n);
    return n;
}

static uint32_t pair_slot(const struct eng_tokenizer *tok, uint64_t pair)
{
    uint64_t h = (pair ^ tok->seed) * 0xff51afd7ed558ccdu;

    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32) & tok->merges_mask;
}

static const struct eng_merge_slot *find_merge(const struct eng_tokenizer *tok, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t slot;

    if (left < 0 || right < 0)
        return NULL;
    for (slot = pair_slot(tok, pair); tok->merges[slot].pair != UINT64_MAX;
         slot = (slot + 1) & tok->merges_mask)
        if (tok->merges[slot].pair == pair)
            return &tok->merges[slot];
    return NULL;
}

/* "left right"; the blank is never the first byte. A merge whose parts or result are no tokens can never
 * happen. */
static enum base_code add_merge(struct eng_tokenizer *tok, struct eng_str m, uint32_t rank,
                                struct base_err *err)
{
    char text[2 * ENG_TOKEN_BYTES_MAX + 1];
    const char *blank;
    size_t n_left, n_both;
    int32_t left, right, both;
    uint64_t pair;
    uint32_t slot, probes = 0;

    if (m.n > 2 * ENG_TOKEN_BYTES_MAX + 1)
        return base_fail(err, BASE_TOO_LARGE, 0, "merge %u is %zu bytes", rank, m.n);
    blank = m.n > 1 ? memchr(m.p + 1, ' ', m.n - 1) : NULL;
    if (blank == NULL)
        return base_fail(err, BASE_INVALID, 0, "merge %u has no blank", rank);
    n_left = eng_bpe_decode_token(m.p, (size_t)(blank - m.p), text);
    n_both = n_left + eng_bpe_decode_token(blank + 1, (size_t)(m.p + m.n - blank - 1), text + n_left);
    left = eng_tok_word(tok, text, n_left);
    right = eng_tok_word(tok, text + n_left, n_both - n_left);
    both = eng_tok_word(tok, text, n_both);
    if (left < 0 || right < 0 || both < 0)
        return BASE_OK;
    pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (slot = pair_slot(tok, pair); tok->merges[slot].pair != UINT64_MAX;
         slot = (slot + 1) & tok->merges_mask) {
        if (tok->merges[slot].pair == pair)
            return BASE_OK; /* the first rank counts */
        if (++probes > ENG_PROBE_MAX)
            return base_fail(err, BASE_INVALID, 0, "merges cannot be indexed at %u", rank);
    }
    tok->merges[slot] = (struct eng_merge_slot){pair, rank, both};
    return BASE_OK;
}

enum base_code eng_bpe_init(struct eng_tokenizer *tok, const struct eng_vocab *vocab, struct base_err *err)
{
    uint32_t size = 64;

    for (int b = 0; b < 256; b++) {
        char c = (char)b;

        if (tok->byte_ids[b] < 0)
            tok->byte_ids[b] = eng_tok_word(tok, &c, 1);
    }
    if (vocab->n_merges > 0 && vocab->merges == NULL)
        return base_fail(err, BASE_INVALID, 0, "tokenizer.ggml.merges is absent");
    while (size < vocab->n_merges * 2)
        size *= 2;
    tok->merges_mask = size - 1;
    tok->merges = base_try_zarray(size, sizeof(*tok->merges));
    if (tok->merges == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "%u merges", vocab->n_merges);
    for (uint32_t i = 0; i < size; i++)
        tok->merges[i].pair = UINT64_MAX;
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        enum base_code rc = add_merge(tok, vocab->merges[i], i, err);

        if (rc != BASE_OK)
            return rc;
    }
    return BASE_OK;
}

/* ---- merging ---- */

static void emit(const struct eng_tokenizer *tok, int32_t id, struct eng_ids *ids)
{
    if (id < 0)
        id = tok->unk; /* a byte that the vocabulary lacks */
    if (id >= 0)
        eng_ids_add(ids, id);
}

static void merge_short(const struct eng_tokenizer *tok, const unsigned char *p, size_t n,
                        struct eng_ids *ids)
{
    int32_t sym[SHORT_MAX], merged[SHORT_MAX];
    uint32_t rank[SHORT_MAX]; /* of the pair that starts here */

    for (size_t i = 0; i < n; i++)
        sym[i] = tok->byte_ids[p[i]];
#define RANK_AT(i)                                                                                    \
    do {                                                                                              \
        const struct eng_merge_slot *m_ = (i) + 1 < n ? find_merge(tok, sym[i], sym[(i) + 1]) : NULL; \
        rank[i] = m_ != NULL ? m_->rank : NO_RANK;                                                    \
        merged[i] = m_ != NULL ? m_->id : -1;                                                         \
    } while (0)
    for (size_t i = 0; i < n; i++)
        RANK_AT(i);
    for (;;) {
        size_t best = 0;

        for (size_t i = 1; i < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        sym[best] = merged[best];
        n--;
        memmove(sym + best + 1, sym + best + 2, (n - best - 1) * sizeof(*sym));
        memmove(rank + best + 1, rank + best + 2, (n - best - 1) * sizeof(*rank));
        memmove(merged + best + 1, merged + best + 2, (n - best - 1) * sizeof(*merged));
        RANK_AT(best);
        if (best > 0)
            RANK_AT(best - 1);
    }
#undef RANK_AT
    for (size_t i = 0; i < n; i++)
        emit(tok, sym[i], ids);
}

struct symbol {
    int32_t id;
    uint32_t prev, next; /* UINT32_MAX: none */
};

/* A pair waiting to merge; stale when the symbols at its place have changed. */
struct waiting {
    uint32_t rank, left;
    int32_t left_id, right_id;
};

struct heap {
    struct waiting *v;
    size_t n;
};

static bool is_before(const struct waiting *a, const struct waiting *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(struct heap *heap, struct waiting w)
{
    size_t i = heap->n++;

    while (i > 0 && is_before(&w, &heap->v[(i - 1) / 2])) {
        heap->v[i] = heap->v[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->v[i] = w;
}

static struct waiting heap_pop(struct heap *heap)
{
    struct waiting top = heap->v[0], last = heap->v[--heap->n];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < heap->n; i = child) {
        if (child + 1 < heap->n && is_before(&heap->v[child + 1], &heap->v[child]))
            child++;
        if (!is_before(&heap->v[child], &last))
            break;
        heap->v[i] = heap->v[child];
    }
    if (heap->n > 0)
        heap->v[i] = last;
    return top;
}

static void push_pair(const struct eng_tokenizer *tok, const struct symbol *syms, struct heap *heap,
                      uint32_t left)
{
    const struct eng_merge_slot *m;

    if (left == UINT32_MAX || syms[left].next == UINT32_MAX)
        return;
    m = find_merge(tok, syms[left].id, syms[syms[left].next].id);
    if (m != NULL)
        heap_push(heap, (struct waiting){m->rank, left, syms[left].id, syms[syms[left].next].id});
}

static enum base_code merge_long(const struct eng_tokenizer *tok, const unsigned char *p, size_t n,
                                 struct eng_ids *ids, struct base_err *err)
{
    /* n - 1 pairs at first, and each of at most n - 1 merges takes one away and adds at most two */
    auto_free struct symbol *syms = base_try_zarray(n, sizeof(*syms));
    auto_free struct waiting *room = base_try_zarray(2 * n, sizeof(*room));
    struct heap heap = {room, 0};

    if (syms == NULL || room == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "a word of %zu bytes", n);
    for (size_t i = 0; i < n; i++)
        syms[i] = (struct symbol){tok->byte_ids[p[i]], i > 0 ? (uint32_t)i - 1 : UINT32_MAX,
                                  i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX};
    for (uint32_t i = 0; i < n; i++)
        push_pair(tok, syms, &heap, i);
    while (heap.n > 0) {
        struct waiting w = heap_pop(&heap);
        struct symbol *left = &syms[w.left], *right;

        if (left->id != w.left_id || left->id < 0 || left->next == UINT32_MAX)
            continue;
        right = &syms[left->next];
        if (right->id != w.right_id)
            continue;
        left->id = find_merge(tok, left->id, right->id)->id;
        right->id = INT32_MIN; /* no pair at its place is valid any more */
        left->next = right->next;
        if (left->next != UINT32_MAX)
            syms[left->next].prev = w.left;
        push_pair(tok, syms, &heap, left->prev);
        push_pair(tok, syms, &heap, w.left);
    }
    for (uint32_t i = 0; i != UINT32_MAX; i = syms[i].next)
        emit(tok, syms[i].id, ids);
    base_wipe(syms, n * sizeof(*syms));
    base_wipe(room, 2 * n * sizeof(*room));
    return BASE_OK;
}

enum base_code eng_bpe_tokenize(const struct eng_tokenizer *tok, const char *text, size_t len,
                                struct eng_ids *ids, struct base_err *err)
{
    auto_free uint32_t *ends = NULL;
    size_t n_pieces, start = 0;

    if (len > UINT32_MAX / 4)
        return base_fail(err, BASE_TOO_LARGE, 0, "text of %zu bytes", len);
    n_pieces = eng_pre_split(tok->pre, text, len, &ends);
    if (n_pieces == 0)
        return base_fail(err, BASE_NO_MEMORY, 0, "text of %zu bytes", len);
    for (size_t i = 0; i < n_pieces && !ids->failed; i++) {
        const unsigned char *p = (const unsigned char *)text + start;
        size_t n = ends[i] - start;
        int32_t whole = tok->pre->whole_words || n == 1 ? eng_tok_word(tok, (const char *)p, n) : -1;

        start = ends[i];
        if (whole >= 0)
            eng_ids_add(ids, whole);
        else if (n <= SHORT_MAX)
            merge_short(tok, p, n, ids);
        else {
            enum base_code rc = merge_long(tok, p, n, ids, err);

            if (rc != BASE_OK)
                return rc;
        }
    }
    return BASE_OK;
}
