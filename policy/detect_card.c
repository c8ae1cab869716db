/* Payment cards: 12 to 19 digits in a known issuer range with a length of that range, whose Luhn sum fits.
 *
 * Digits come in groups with gaps of one to three symbols between them. A card is one whole group, or several
 * in a layout that cards are written in (blocks of four, 4-6-5, 4-6-4, or equal groups as a disguise); part
 * of a group is never one, so a longer number is none. Groups are decided from the left, the longest card
 * first, as soon as nothing that follows can change the answer.
 */
#include "policy/detect.h"

#include "base/mem.h"

#include <string.h>

#define LEN(n)     (1u << (n))
#define LEN_16_19  (LEN(16) | LEN(17) | LEN(18) | LEN(19))
#define LEN_12_19  (LEN(12) | LEN(13) | LEN(14) | LEN(15) | LEN_16_19)
#define SHORT_CARD 14u /* below it there are too many other numbers: such a card stands alone */
#define FULL_CARD \
    16u /* below it a letter may not stand right before it: accounts and serial numbers look so */
#define GROUP_MAX 8u /* the largest group of a card in several groups */
#define GAP_MAX   3u

struct issuer {
    unsigned low, high, n; /* range of the first n digits */
    unsigned lengths;
};

/* ISO/IEC 7812 ranges as the networks publish them. */
static const struct issuer issuers[] = {
    {4, 4, 1, LEN(13) | LEN(16) | LEN(19)}, /* Visa */
    {51, 55, 2, LEN(16)},                   /* Mastercard */
    {2221, 2720, 4, LEN(16)},               /* Mastercard */
    {34, 34, 2, LEN(15)},                   /* American Express */
    {37, 37, 2, LEN(15)},                   /* American Express */
    {300, 305, 3, LEN(14) | LEN_16_19},     /* Diners */
    {309, 309, 3, LEN(14) | LEN_16_19},     /* Diners */
    {36, 36, 2, LEN(14) | LEN_16_19},       /* Diners */
    {38, 39, 2, LEN(14) | LEN_16_19},       /* Diners */
    {60, 60, 2, LEN_16_19},                 /* Discover, RuPay, Hipercard */
    {644, 649, 3, LEN_16_19},               /* Discover */
    {65, 65, 2, LEN_16_19},                 /* Discover, RuPay */
    {62, 62, 2, LEN_16_19},                 /* UnionPay */
    {81, 82, 2, LEN_16_19},                 /* UnionPay, RuPay */
    {35, 35, 2, LEN_16_19},                 /* JCB: 3528 to 3589, and neighbours seen in test data */
    {2131, 2131, 4, LEN(15)},               /* JCB */
    {1800, 1800, 4, LEN(15)},               /* JCB */
    {50, 50, 2, LEN_12_19},                 /* Maestro, Verve, Elo */
    {56, 58, 2, LEN_12_19},                 /* Maestro */
    {6304, 6304, 4, LEN_12_19},             /* Maestro */
    {639, 639, 3, LEN_12_19},               /* Maestro */
    {67, 67, 2, LEN_12_19},                 /* Maestro */
    {604, 604, 4, LEN_12_19},               /* Maestro, 0604 */
    {63, 63, 2, LEN(16)},                   /* Elo, InstaPayment */
    {2200, 2204, 4, LEN_16_19},             /* Mir */
    {9792, 9792, 4, LEN(16)},               /* Troy */
    {8699, 8699, 4, LEN(15)},               /* Voyager */
};

static bool luhn_fits(const uint8_t *digits, unsigned n)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < n; i++) {
        unsigned v = digits[n - 1 - i];

        if (i % 2 == 1)
            v = v > 4 ? v * 2 - 9 : v * 2;
        sum += v;
    }
    return sum % 10 == 0;
}

/* True when the first digits can be those of the range (fewer than its n: as far as they go). */
static bool in_range(const struct issuer *issuer, const uint8_t *digits, unsigned n)
{
    unsigned low = issuer->low, high = issuer->high, value = 0, used = n < issuer->n ? n : issuer->n;

    for (unsigned i = 0; i < used; i++)
        value = value * 10 + digits[i];
    for (unsigned i = used; i < issuer->n; i++) {
        low /= 10;
        high /= 10;
    }
    return value >= low && value <= high;
}

static bool may_begin(const uint8_t *digits, unsigned n)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(issuers); i++)
        if (in_range(&issuers[i], digits, n))
            return true;
    return false;
}

bool card_is_valid(const uint8_t *digits, unsigned n)
{
    if (n < 12 || n > CARD_DIGITS_MAX || !luhn_fits(digits, n))
        return false;
    for (size_t i = 0; i < BASE_ARRAY_LEN(issuers); i++)
        if ((issuers[i].lengths & LEN(n)) != 0 && in_range(&issuers[i], digits, n))
            return true;
    return false;
}

/* ---- layouts of several groups ---- */

static bool sizes_are(const struct detect_card *d, unsigned n, unsigned a, unsigned b, unsigned c)
{
    return n == 3 && d->groups[0].n == a && d->groups[1].n == b && d->groups[2].n == c;
}

/* All of one size but the last, which may be smaller. */
static bool is_even(const struct detect_card *d, unsigned n)
{
    for (unsigned i = 1; i + 1 < n; i++)
        if (d->groups[i].n != d->groups[0].n)
            return false;
    return n < 2 || d->groups[n - 1].n <= d->groups[0].n;
}

static bool is_layout(const struct detect_card *d, unsigned n)
{
    unsigned size = d->groups[0].n;

    if (n == 1 || sizes_are(d, n, 4, 6, 5) || sizes_are(d, n, 4, 6, 4))
        return true;
    if (size > GROUP_MAX || !is_even(d, n))
        return false;
    if (size == 4)
        return true;
    /* A disguise repeats one gap. Columns of numbers with blanks between them are mostly just that, unless
     * single digits. */
    for (unsigned i = 2; i < n; i++)
        if (d->groups[i].gap != d->groups[1].gap)
            return false;
    return size == 1 || size == 8 || d->groups[1].gap != ' ';
}

/* True when more groups could still make a layout of the first n closed ones. */
static bool may_grow(const struct detect_card *d, unsigned n)
{
    if (d->groups[0].n > GROUP_MAX)
        return false;
    if (n == 2 && d->groups[0].n == 4 && d->groups[1].n == 6)
        return true;
    for (unsigned i = 1; i < n; i++)
        if (d->groups[i].n != d->groups[0].n)
            return false;
    return true;
}

/* ---- deciding ---- */

static void drop_groups(struct detect_card *d, unsigned n)
{
    unsigned n_digits = 0;

    for (unsigned i = 0; i < n; i++)
        n_digits += d->groups[i].n;
    d->n_groups -= n;
    d->n_digits -= n_digits;
    memmove(d->groups, d->groups + n, d->n_groups * sizeof(d->groups[0]));
    memmove(d->digits, d->digits + n_digits, d->n_digits);
}

static bool may_stand_here(const struct card_group *first, unsigned n_digits)
{
    if (first->decimal)
        return false;
    if (first->left == '+' && n_digits <= 15) /* a telephone number */
        return false;
    if (n_digits < FULL_CARD && sym_is(first->left, SYM_ALNUM))
        return false;
    return n_digits >= SHORT_CARD || !(sym_is(first->left, SYM_LOCAL) || first->left == '/');
}

static unsigned n_closed(const struct detect_card *d)
{
    return d->n_groups - (d->in_group ? 1 : 0);
}

/* Decides the first group: as the begin of a card, or as none. */
static void decide_first(struct matcher *m, struct detect_card *d)
{
    unsigned total = 0, best = 0;

    for (unsigned n = 1; n <= n_closed(d); n++) {
        total += d->groups[n - 1].n;
        if (is_layout(d, n) && may_stand_here(&d->groups[0], total) && card_is_valid(d->digits, total))
            best = n;
    }
    if (best > 0 && !matcher_covers(m, POL_DETECT_IBAN, d->groups[0].start, d->groups[best - 1].end))
        matcher_found(m, POL_DETECT_CARD, d->groups[0].start, d->groups[best - 1].end);
    drop_groups(d, best > 0 ? best : 1);
}

static void decide_all(struct matcher *m, struct detect_card *d)
{
    d->in_group = false;
    while (d->n_groups > 0)
        decide_first(m, d);
    d->gap_len = 0;
}

/* Decides groups from the left for as long as more text cannot change the answer. */
static void decide_ripe(struct matcher *m, struct detect_card *d)
{
    while (n_closed(d) > 0 &&
           (!may_begin(d->digits, d->n_digits) || !may_grow(d, n_closed(d)) || d->n_digits > CARD_DIGITS_MAX))
        decide_first(m, d);
}

static void begin_group(struct detect_card *d, const struct sym *s)
{
    d->groups[d->n_groups++] = (struct card_group){
        .start = s->start,
        .left = s->prev,
        .decimal =
            d->gap_len == 1 && d->gap == '.' && (d->n_groups == 0 || d->groups[d->n_groups - 1].n != 4),
        .gap = d->gap_len > 0 ? d->gap : 0,
    };
    d->in_group = true;
    d->gap_len = 0;
}

static void take_digit(struct matcher *m, struct detect_card *d, const struct sym *s)
{
    struct card_group *group;

    if (d->overlong)
        return;
    if (!d->in_group)
        begin_group(d, s);
    d->digits[d->n_digits++] = (uint8_t)(s->ch - '0');
    group = &d->groups[d->n_groups - 1];
    group->n++;
    group->end = s->end;
    if (d->n_digits > CARD_DIGITS_MAX)
        decide_ripe(m, d);
    if (d->n_digits > CARD_DIGITS_MAX) { /* one group alone: longer than any card */
        d->n_groups = d->n_digits = 0;
        d->in_group = false;
        d->overlong = true;
    }
}

static void take_gap(struct matcher *m, struct detect_card *d, const struct sym *s)
{
    if (d->in_group) {
        d->in_group = false;
        d->gap = s->ch;
        d->gap_len = 1;
        decide_ripe(m, d);
    } else if (d->gap_len > 0) {
        d->gap = d->gap << 8 | s->ch;
        if (++d->gap_len > GAP_MAX)
            decide_all(m, d);
    }
}

void detect_card(struct matcher *m, const struct sym *s)
{
    struct detect_card *d = &m->card;

    if (sym_is(s->ch, SYM_DIGIT)) {
        take_digit(m, d, s);
        return;
    }
    if (d->overlong) { /* the gap behind a long number still tells decimals apart */
        d->overlong = false;
        d->gap_len = sym_is(s->ch, SYM_GAP) ? 1 : 0;
        d->gap = s->ch;
        return;
    }
    if (sym_is(s->ch, SYM_GAP))
        take_gap(m, d, s);
    else if (d->n_groups > 0 || d->gap_len > 0)
        decide_all(m, d);
}

size_t detect_card_live(const struct detect_card *d)
{
    return d->n_groups > 0 ? d->groups[0].start : DETECT_NOWHERE;
}
