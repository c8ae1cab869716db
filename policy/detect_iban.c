/* IBANs (ISO 13616): country, two check digits, the country's length, remainder 1 modulo 97. Blanks or
 * hyphens may stand after every fourth character, as IBANs are printed. Capital letters or not.
 *
 * Several candidates may be alive at once ("DE12 GB82 WEST ..."): the first one fails at its length, the
 * second goes on.
 */
#include "policy/detect.h"

#include "base/mem.h"

#include <string.h>

struct country {
    char code[3];
    uint8_t length;
    bool digits_only; /* the account part holds no letter: a word ends the candidate at once */
};

/* From the IBAN registry. */
static const struct country countries[] = {
    {"AD", 24, false}, {"AE", 23, true},  {"AL", 28, false}, {"AT", 20, true},  {"AZ", 28, false},
    {"BA", 20, true},  {"BE", 16, true},  {"BG", 22, false}, {"BH", 22, false}, {"BI", 27, true},
    {"BR", 29, false}, {"BY", 28, false}, {"CH", 21, false}, {"CR", 22, true},  {"CY", 28, false},
    {"CZ", 24, true},  {"DE", 22, true},  {"DJ", 27, true},  {"DK", 18, true},  {"DO", 28, false},
    {"EE", 20, true},  {"EG", 29, true},  {"ES", 24, true},  {"FI", 18, true},  {"FK", 18, false},
    {"FO", 18, true},  {"FR", 27, false}, {"GB", 22, false}, {"GE", 22, false}, {"GI", 23, false},
    {"GL", 18, true},  {"GR", 27, false}, {"GT", 28, false}, {"HR", 21, true},  {"HU", 28, true},
    {"IE", 22, false}, {"IL", 23, true},  {"IQ", 23, false}, {"IS", 26, true},  {"IT", 27, false},
    {"JO", 30, false}, {"KW", 30, false}, {"KZ", 20, false}, {"LB", 28, false}, {"LC", 32, false},
    {"LI", 21, false}, {"LT", 20, true},  {"LU", 20, false}, {"LV", 21, false}, {"LY", 25, true},
    {"MC", 27, false}, {"MD", 24, false}, {"ME", 22, true},  {"MK", 19, false}, {"MN", 20, true},
    {"MR", 27, true},  {"MT", 31, false}, {"MU", 30, false}, {"NI", 28, false}, {"NL", 18, false},
    {"NO", 15, true},  {"OM", 23, false}, {"PK", 24, false}, {"PL", 28, true},  {"PS", 29, false},
    {"PT", 25, true},  {"QA", 29, false}, {"RO", 24, false}, {"RS", 22, true},  {"RU", 33, false},
    {"SA", 24, false}, {"SC", 31, false}, {"SD", 18, true},  {"SE", 24, true},  {"SI", 19, true},
    {"SK", 24, true},  {"SM", 27, false}, {"SO", 23, true},  {"ST", 25, true},  {"SV", 28, false},
    {"TL", 23, true},  {"TN", 24, true},  {"TR", 26, false}, {"UA", 29, false}, {"VA", 22, true},
    {"VG", 24, false}, {"XK", 20, true},  {"YE", 30, false},
};

static const struct country *find_country(char a, char b)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(countries); i++)
        if (countries[i].code[0] == a && countries[i].code[1] == b)
            return &countries[i];
    return NULL;
}

size_t detect_iban_live(const struct detect_iban *d)
{
    size_t live = d->head_len > 0 ? d->head_start : DETECT_NOWHERE;

    for (unsigned i = 0; i < d->n; i++)
        if (d->candidates[i].start < live)
            live = d->candidates[i].start;
    return live;
}

static unsigned append_mod(unsigned mod, char ch)
{
    if (ch >= '0' && ch <= '9')
        return (mod * 10 + (unsigned)(ch - '0')) % 97;
    return (mod * 100 + (unsigned)(ch - 'A') + 10) % 97;
}

static char upper(uint8_t ch)
{
    return (char)(sym_is(ch, SYM_LOWER) ? ch & ~0x20 : ch);
}

/* ---- the first four symbols ---- */

static void begin_candidate(struct detect_iban *d, const struct sym *s)
{
    const struct country *country = find_country(d->head[0], d->head[1]);

    d->head_len = 0;
    if (country == NULL || d->n == IBAN_CANDIDATES_MAX)
        return;
    d->candidates[d->n] = (struct iban_candidate){.start = d->head_start,
                                                  .end = s->end,
                                                  .need = country->length,
                                                  .got = 4,
                                                  .digits_only = country->digits_only};
    memcpy(d->candidates[d->n++].head, d->head, 4);
}

static void take_head(struct detect_iban *d, const struct sym *s)
{
    bool fits = d->head_len < 2 ? sym_is(s->ch, SYM_UPPER | SYM_LOWER) : sym_is(s->ch, SYM_DIGIT);

    if (d->head_len == 0 && (!fits || sym_is(s->prev, SYM_ALNUM)))
        return;
    if (!fits) {
        d->head_len = 0;
        return;
    }
    if (d->head_len == 0)
        d->head_start = s->start;
    d->head[d->head_len++] = upper(s->ch);
    if (d->head_len == 4)
        begin_candidate(d, s);
}

/* ---- the rest ---- */

static bool checks_out(const struct iban_candidate *c)
{
    unsigned mod = c->mod;

    for (unsigned i = 0; i < 4; i++)
        mod = append_mod(mod, c->head[i]);
    return mod == 1;
}

/* False when the candidate is over: found or failed. */
static bool take_body(struct matcher *m, struct iban_candidate *c, const struct sym *s)
{
    if (sym_is(s->ch, SYM_ALNUM)) {
        if (c->got == c->need || (c->digits_only && !sym_is(s->ch, SYM_DIGIT)))
            return false;
        c->mod = append_mod(c->mod, upper(s->ch));
        c->got++;
        c->gap = false;
        c->end = s->end;
        return true;
    }
    if (c->got == c->need) {
        if (checks_out(c)) {
            matcher_found(m, POL_DETECT_IBAN, c->start, c->end);
            matcher_forget(m, POL_DETECT_CARD, c->start,
                           c->end); /* a part of the account number passed for a card */
        }
        return false;
    }
    if ((s->ch == ' ' || s->ch == '-') && !c->gap && c->got % 4 == 0) {
        c->gap = true;
        return true;
    }
    return false;
}

void detect_iban(struct matcher *m, const struct sym *s)
{
    struct detect_iban *d = &m->iban;
    unsigned kept = 0;

    for (unsigned i = 0; i < d->n; i++)
        if (take_body(m, &d->candidates[i], s))
            d->candidates[kept++] = d->candidates[i];
    d->n = kept;
    take_head(d, s);
}
