/* The matcher: feeds the detectors, keeps what they found, and tells which bytes are decided. See detect.h.
 *
 * Invariants: settled <= matcher_live() <= pos. No span begins before settled when it is reported. An open
 * span of a kind ends where matcher_extend said last; the bytes behind that end are live.
 */
#include "policy/detect.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

const uint8_t sym_class[256] = {
    ['0' ... '9'] = SYM_DIGIT | SYM_LOCAL | SYM_LOCAL_HEAD | SYM_B64URL | SYM_DOMAIN,
    ['A' ... 'Z'] = SYM_UPPER | SYM_LOCAL | SYM_LOCAL_HEAD | SYM_B64URL | SYM_DOMAIN,
    ['a' ... 'z'] = SYM_LOWER | SYM_LOCAL | SYM_LOCAL_HEAD | SYM_B64URL | SYM_DOMAIN,
    [NORM_LETTER] = SYM_LOCAL | SYM_LOCAL_HEAD | SYM_DOMAIN,
    ['_'] = SYM_LOCAL | SYM_LOCAL_HEAD | SYM_B64URL | SYM_GAP,
    ['-'] = SYM_LOCAL | SYM_B64URL | SYM_GAP | SYM_DOMAIN,
    ['.'] = SYM_LOCAL | SYM_GAP,
    ['+'] = SYM_LOCAL,
    ['%'] = SYM_LOCAL,
    ['\''] = SYM_LOCAL,
    ['/'] = SYM_GAP,
    [' '] = SYM_GAP,
    ['\t'] = SYM_GAP,
};

void matcher_init(struct matcher *m)
{
    memset(m, 0, sizeof(*m));
}

void matcher_free(struct matcher *m)
{
    free(m->spans);
    m->spans = NULL;
    m->n_spans = m->cap_spans = 0;
}

/* ---- findings ---- */

static void note(struct matcher *m, enum pol_detector kind, size_t start)
{
    assert(start >= m->settled);
    m->found[kind]++;
    if ((m->fresh >> kind & 1) == 0 || start < m->fresh_start[kind])
        m->fresh_start[kind] = start;
    m->fresh |= 1u << kind;
}

static void keep(struct matcher *m, enum pol_detector kind, size_t start, size_t end)
{
    if (m->n_spans == m->cap_spans) {
        m->cap_spans = m->cap_spans > 0 ? m->cap_spans * 2 : 8;
        m->spans = base_realloc(m->spans, m->cap_spans * sizeof(*m->spans));
    }
    m->spans[m->n_spans++] = (struct span){.kind = kind, .start = start, .end = end};
}

void matcher_found(struct matcher *m, enum pol_detector kind, size_t start, size_t end)
{
    note(m, kind, start);
    keep(m, kind, start, end);
}

bool matcher_covers(const struct matcher *m, enum pol_detector kind, size_t start, size_t end)
{
    for (size_t i = 0; i < m->n_spans; i++)
        if (m->spans[i].kind == kind && m->spans[i].start <= start && m->spans[i].end >= end)
            return true;
    return false;
}

void matcher_forget(struct matcher *m, enum pol_detector kind, size_t start, size_t end)
{
    size_t kept = 0;

    for (size_t i = 0; i < m->n_spans; i++) {
        if (m->spans[i].kind == kind && m->spans[i].start >= start && m->spans[i].end <= end)
            m->found[kind]--;
        else
            m->spans[kept++] = m->spans[i];
    }
    m->n_spans = kept;
}

void matcher_open(struct matcher *m, enum pol_detector kind, size_t start, size_t end)
{
    assert(m->open[kind].kind == POL_DETECT_NONE);
    note(m, kind, start);
    m->open[kind] = (struct span){.kind = kind, .start = start, .end = end};
}

void matcher_extend(struct matcher *m, enum pol_detector kind, size_t end)
{
    m->open[kind].end = end;
}

void matcher_close(struct matcher *m, enum pol_detector kind)
{
    struct span *open = &m->open[kind];

    if (open->end > m->settled)
        keep(m, kind, open->start, open->end);
    open->kind = POL_DETECT_NONE;
}

/* ---- who wants a symbol ----
 * In prose every detector but e-mail's is idle for nearly every symbol. An idle one wants only what could
 * begin something; passing over it otherwise changes nothing. */

static bool card_wants(const struct detect_card *d, const struct sym *s)
{
    return d->n_groups > 0 || d->gap_len > 0 || d->overlong || sym_is(s->ch, SYM_DIGIT);
}

static bool iban_wants(const struct detect_iban *d, const struct sym *s)
{
    return d->n > 0 || d->head_len > 0 || !sym_is(s->prev, SYM_ALNUM);
}

static bool pem_wants(const struct detect_pem *d, const struct sym *s)
{
    return s->ch == '-' || d->n_dashes > 0 || d->state != PEM_IDLE || d->open || d->closing;
}

static bool token_wants(const struct detect_token *d, const struct sym *s)
{
    return d->body != NULL || d->prefix_len > 0 || !sym_is(s->prev, SYM_ALNUM);
}

static bool aws_secret_wants(const struct detect_aws_secret *d, const struct sym *s)
{
    return (s->ch | 0x20) == 's' || d->key_len > 0 || d->state != AWS_KEYWORD;
}

static bool jwt_wants(const struct detect_jwt *d, const struct sym *s)
{
    return d->state != JWT_IDLE || !sym_is(s->prev, SYM_ALNUM);
}

/* ---- feeding ---- */

static void feed(struct matcher *m, uint8_t ch, size_t start, size_t end)
{
    const struct sym s = {.ch = ch, .prev = m->prev, .start = start, .end = end};

    detect_email(m, &s);
    if (iban_wants(&m->iban, &s)) /* before cards: what it finds is none */
        detect_iban(m, &s);
    if (card_wants(&m->card, &s))
        detect_card(m, &s);
    if (pem_wants(&m->pem, &s))
        detect_pem(m, &s);
    if (token_wants(&m->token, &s))
        detect_token(m, &s);
    if (aws_secret_wants(&m->aws_secret, &s))
        detect_aws_secret(m, &s);
    if (jwt_wants(&m->jwt, &s))
        detect_jwt(m, &s);
    m->prev = ch;
}

size_t matcher_take(struct matcher *m, const char *text, size_t len)
{
    uint8_t symbols[NORM_SYMBOLS_MAX];
    unsigned char c = (unsigned char)text[0];
    size_t n, bytes;

    if (c >= ' ' && c < 0x7f) { /* what norm_step does with it, without the call */
        m->norm.ignored = 0;
        feed(m, c, m->pos, m->pos + 1);
        m->pos++;
        return 1;
    }
    bytes = norm_step(&m->norm, text, len, symbols, &n);
    for (size_t i = 0; i < n; i++)
        feed(m, symbols[i], m->pos, m->pos + bytes);
    m->pos += bytes;
    return bytes;
}

void matcher_end(struct matcher *m)
{
    feed(m, 0, m->pos, m->pos);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t matcher_live(const struct matcher *m)
{
    size_t live = least(m->pos, detect_email_live(&m->email));

    live = least(live, detect_card_live(&m->card));
    live = least(live, detect_iban_live(&m->iban));
    live = least(live, detect_pem_live(&m->pem));
    live = least(live, detect_token_live(&m->token));
    live = least(live, detect_aws_secret_live(&m->aws_secret));
    live = least(live, detect_jwt_live(&m->jwt));
    for (size_t kind = 1; kind < POL_DETECT_COUNT; kind++)
        if (m->open[kind].kind != POL_DETECT_NONE)
            live = least(live, m->open[kind].end);
    return live;
}

/* ---- sweeping ---- */

/* What covers the byte at `at`, and where that may change next. */
static void cover(const struct span *span, size_t at, uint32_t *kinds, size_t *next)
{
    if (span->start > at)
        *next = least(*next, span->start);
    else if (span->end > at) {
        *kinds |= 1u << span->kind;
        *next = least(*next, span->end);
    }
}

void matcher_sweep(struct matcher *m, size_t upto, matcher_piece_fn *fn, void *user)
{
    size_t kept = 0;

    while (m->settled < upto) {
        uint32_t kinds = 0;
        size_t next = upto;

        for (size_t i = 0; i < m->n_spans; i++)
            cover(&m->spans[i], m->settled, &kinds, &next);
        for (size_t kind = 1; kind < POL_DETECT_COUNT; kind++)
            if (m->open[kind].kind != POL_DETECT_NONE)
                cover(&m->open[kind], m->settled, &kinds, &next);
        fn(user, m->settled, next, kinds);
        m->settled = next;
    }
    for (size_t i = 0; i < m->n_spans; i++)
        if (m->spans[i].end > m->settled)
            m->spans[kept++] = m->spans[i];
    m->n_spans = kept;
}
