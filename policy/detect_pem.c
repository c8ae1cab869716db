/* Private keys in PEM and its relatives (RFC 7468, RFC 4880 armor, ssh.com): from "-----BEGIN ... PRIVATE
 * KEY-----" to the matching END line, or to the end of the text: an unfinished block is one too, and whatever
 * stands behind such a line is taken for the key.
 *
 *   IDLE --4 or 5 dashes, "BEGIN "--> LABEL --"...PRIVATE KEY", dash--> TAIL --4th dash--> open
 *   open: the same with "END " --> closing (swallows the last dashes) --> IDLE
 */
#include "policy/detect.h"

#include <string.h>

#define DASHES_MIN 4u
#define DASHES_MAX 5u

static size_t first_dash(const struct detect_pem *d)
{
    return d->dashes[d->n_dashes <= DASHES_MAX ? 0 : d->n_dashes % DASHES_MAX];
}

size_t detect_pem_live(const struct detect_pem *d)
{
    if (d->open || d->closing) /* the open span holds what must be held */
        return DETECT_NOWHERE;
    if (d->state != PEM_IDLE)
        return d->start;
    return d->n_dashes > 0 ? first_dash(d) : DETECT_NOWHERE;
}

static const char *keyword(const struct detect_pem *d)
{
    return d->open ? "END " : "BEGIN ";
}

static bool ends_with(const struct detect_pem *d, const char *end)
{
    unsigned len = d->label_len, n = (unsigned)strlen(end);

    while (len > 0 && d->label[len - 1] == ' ')
        len--;
    return len >= n && memcmp(d->label + len - n, end, n) == 0;
}

static void take_dash(struct detect_pem *d, const struct sym *s)
{
    d->dashes[d->n_dashes++ % DASHES_MAX] = s->start;
}

/* Nothing to come of it; the symbol may be the first of the next dashes. */
static void give_up(struct detect_pem *d, const struct sym *s)
{
    d->state = PEM_IDLE;
    d->n_dashes = 0;
    if (s->ch == '-')
        take_dash(d, s);
}

static void complete(struct matcher *m, struct detect_pem *d, const struct sym *s)
{
    if (d->open) {
        d->open = false;
        d->closing = true;
    } else {
        matcher_open(m, POL_DETECT_PRIVATE_KEY, d->start, s->end);
        d->open = true;
    }
    d->state = PEM_IDLE;
    d->n_dashes = 0;
}

static void take_word(struct detect_pem *d, const struct sym *s)
{
    if (s->ch == (uint8_t)keyword(d)[d->word_len]) {
        if (keyword(d)[++d->word_len] == '\0') {
            d->state = PEM_LABEL;
            d->label_len = 0;
        }
    } else if (s->ch == ' ' && d->word_len == 0 && !d->lead_blank)
        d->lead_blank = true;
    else
        give_up(d, s);
}

static void take_label(struct detect_pem *d, const struct sym *s)
{
    if (s->ch == '-' && (ends_with(d, "PRIVATE KEY") || ends_with(d, "PRIVATE KEY BLOCK"))) {
        d->state = PEM_TAIL;
        d->n_tail = 1;
    } else if ((sym_is(s->ch, SYM_UPPER | SYM_DIGIT) || s->ch == ' ') && d->label_len < PEM_LABEL_MAX)
        d->label[d->label_len++] = (char)s->ch;
    else
        give_up(d, s);
}

static void take_idle(struct detect_pem *d, const struct sym *s)
{
    if (s->ch == '-') {
        take_dash(d, s);
        return;
    }
    if (d->n_dashes < DASHES_MIN) {
        d->n_dashes = 0;
        return;
    }
    d->start = first_dash(d);
    d->state = PEM_WORD;
    d->word_len = 0;
    d->lead_blank = false;
    d->n_dashes = 0;
    take_word(d, s);
}

void detect_pem(struct matcher *m, const struct sym *s)
{
    struct detect_pem *d = &m->pem;

    if (d->closing && s->ch != '-') {
        matcher_close(m, POL_DETECT_PRIVATE_KEY);
        d->closing = false;
    }
    if (d->open && s->ch == 0) {
        matcher_close(m, POL_DETECT_PRIVATE_KEY);
        d->open = false;
    }
    if (d->open || d->closing)
        matcher_extend(m, POL_DETECT_PRIVATE_KEY, s->end);
    if (d->closing)
        return;
    switch (d->state) {
    case PEM_IDLE: take_idle(d, s); break;
    case PEM_WORD: take_word(d, s); break;
    case PEM_LABEL: take_label(d, s); break;
    case PEM_TAIL:
        if (s->ch != '-')
            give_up(d, s);
        else if (++d->n_tail == DASHES_MIN)
            complete(m, d, s);
        break;
    }
}
