/* E-mail addresses: local part of up to 64 symbols, '@', a domain of up to 255 with a last label of two or
 * more letters.
 *
 * The run that may become a local part slides: of a longer run the last 64 symbols count, as in
 * "...xbob@example.org". While a domain is read, its symbols are also such a run, so that
 * "a@b.example@c.example" is two addresses that overlap.
 */
#include "policy/detect.h"

#include "base/mem.h"

#include <string.h>

static size_t run_start(const struct detect_email *d)
{
    return d->local[d->run <= EMAIL_LOCAL_MAX ? 0 : d->run % EMAIL_LOCAL_MAX];
}

size_t detect_email_live(const struct detect_email *d)
{
    if (d->in_domain)
        return d->start;
    return d->run > 0 ? run_start(d) : DETECT_NOWHERE;
}

/* "logo@2x.png" and "chunk@3f.js" are files. */
static bool is_file_ending(const char *label, unsigned len)
{
    static const char *const endings[] = {"png", "jpg", "jpeg", "gif",  "svg",  "webp", "css",
                                          "js",  "jsx", "tsx",  "json", "html", "xml",  "pdf"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(endings); i++)
        if (strlen(endings[i]) == len && memcmp(endings[i], label, len) == 0)
            return true;
    return false;
}

/* A label is complete: does the address so far end in a top-level domain? A label that only begins with
 * letters ("com2") counts as far as they go: who writes an address against other text still loses the
 * address. */
static void end_label(struct detect_email *d)
{
    bool punycode = d->label_len > 4 && memcmp(d->label, "xn--", 4) == 0;

    if (d->dots == 0 || d->label_len == 0)
        return;
    if (punycode)
        d->good_end = d->label_end;
    else if (d->alpha_len >= 2 &&
             !(d->alpha_len == d->label_len && d->alpha_len <= 7 && is_file_ending(d->label, d->alpha_len)))
        d->good_end = d->alpha_end;
}

static void end_domain(struct matcher *m, struct detect_email *d)
{
    end_label(d);
    if (d->good_end > 0)
        matcher_found(m, POL_DETECT_EMAIL, d->start, d->good_end);
    d->in_domain = false;
}

static void begin_label(struct detect_email *d)
{
    d->label_len = d->alpha_len = 0;
    memset(d->label, 0, sizeof(d->label));
}

static void take_label(struct detect_email *d, const struct sym *s)
{
    bool letter = s->ch == NORM_LETTER || sym_is(s->ch, SYM_UPPER | SYM_LOWER);

    if (d->label_len < sizeof(d->label))
        d->label[d->label_len] = (char)(sym_is(s->ch, SYM_UPPER) ? s->ch | 0x20 : s->ch);
    if (letter && d->alpha_len == d->label_len) {
        d->alpha_len++;
        d->alpha_end = s->end;
    }
    d->label_len++;
    if (s->ch != '-')
        d->label_end = s->end;
}

static void take_domain(struct matcher *m, struct detect_email *d, const struct sym *s)
{
    if (++d->domain_len > EMAIL_DOMAIN_MAX)
        end_domain(m, d);
    else if (sym_is(s->ch, SYM_DOMAIN))
        take_label(d, s);
    else if (s->ch == '.' && d->label_len > 0) {
        end_label(d);
        d->dots++;
        begin_label(d);
    } else
        end_domain(m, d);
}

void detect_email(struct matcher *m, const struct sym *s)
{
    struct detect_email *d = &m->email;

    if (d->in_domain)
        take_domain(m, d, s);
    if (sym_is(s->ch, SYM_LOCAL)) {
        if (d->run > 0 || sym_is(s->ch, SYM_LOCAL_HEAD))
            d->local[d->run++ % EMAIL_LOCAL_MAX] = s->start;
        return;
    }
    if (s->ch == '@' && d->run > 0) {
        d->in_domain = true;
        d->start = run_start(d);
        d->good_end = 0;
        d->domain_len = d->dots = 0;
        begin_label(d);
    }
    d->run = 0;
}
