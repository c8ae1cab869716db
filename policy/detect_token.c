/* Access tokens with a fixed prefix: AWS access key ids, GitHub tokens, Slack tokens; and the AWS secret key
 * behind its name.
 *
 * A prefix begins where no letter or digit stands before it. A token of fixed length needs such a border
 * behind it too; one of open length is certain at its least length and goes on to its last symbol.
 */
#include "policy/detect.h"

#include "base/mem.h"

#include <string.h>

struct token_kind {
    enum pol_detector kind;
    const char *prefix; /* '#': any digit */
    enum { CHARS_UPPER, CHARS_ALNUM, CHARS_ALNUM_UNDERSCORE, CHARS_ALNUM_HYPHEN } chars;
    unsigned least;
    bool fixed; /* exactly `least` */
};

static const struct token_kind kinds[] = {
    {POL_DETECT_AWS_KEY, "AKIA", CHARS_UPPER, 16, true},
    {POL_DETECT_AWS_KEY, "ASIA", CHARS_UPPER, 16, true},
    {POL_DETECT_GITHUB_TOKEN, "ghp_", CHARS_ALNUM, 36, false},
    {POL_DETECT_GITHUB_TOKEN, "gho_", CHARS_ALNUM, 36, false},
    {POL_DETECT_GITHUB_TOKEN, "ghu_", CHARS_ALNUM, 36, false},
    {POL_DETECT_GITHUB_TOKEN, "ghs_", CHARS_ALNUM, 36, false},
    {POL_DETECT_GITHUB_TOKEN, "ghr_", CHARS_ALNUM, 36, false},
    {POL_DETECT_GITHUB_TOKEN, "github_pat_", CHARS_ALNUM_UNDERSCORE, 36, false},
    {POL_DETECT_SLACK_TOKEN, "xoxa-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xoxb-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xoxe-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xoxo-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xoxp-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xoxr-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xoxs-", CHARS_ALNUM_HYPHEN, 10, false},
    {POL_DETECT_SLACK_TOKEN, "xapp-#-", CHARS_ALNUM_HYPHEN, 10, false},
};
_Static_assert(BASE_ARRAY_LEN(kinds) <= 32, "a bit for each");

static bool fits_chars(const struct token_kind *kind, uint8_t ch)
{
    switch (kind->chars) {
    case CHARS_UPPER: return sym_is(ch, SYM_UPPER | SYM_DIGIT);
    case CHARS_ALNUM: return sym_is(ch, SYM_ALNUM);
    case CHARS_ALNUM_UNDERSCORE: return sym_is(ch, SYM_ALNUM) || ch == '_';
    case CHARS_ALNUM_HYPHEN: return sym_is(ch, SYM_ALNUM) || ch == '-';
    }
    return false;
}

size_t detect_token_live(const struct detect_token *d)
{
    size_t live = d->prefix_len > 0 ? d->prefix_start : DETECT_NOWHERE;

    if (d->body != NULL && !d->open && d->body_start < live)
        live = d->body_start;
    return live;
}

/* ---- body ---- */

static void end_body(struct matcher *m, struct detect_token *d, const struct sym *s)
{
    if (d->open)
        matcher_close(m, d->body->kind);
    else if (d->body->fixed && d->body_len == d->body->least && !sym_is(s->ch, SYM_ALNUM))
        matcher_found(m, d->body->kind, d->body_start, d->body_end);
    d->open = false;
    d->body = NULL;
}

static void take_body(struct matcher *m, struct detect_token *d, const struct sym *s)
{
    if (!fits_chars(d->body, s->ch) || (d->body->fixed && d->body_len == d->body->least)) {
        end_body(m, d, s);
        return;
    }
    d->body_end = s->end;
    d->body_len++;
    if (d->open)
        matcher_extend(m, d->body->kind, s->end);
    else if (!d->body->fixed && d->body_len == d->body->least) {
        matcher_open(m, d->body->kind, d->body_start, s->end);
        d->open = true;
    }
}

/* ---- prefix ---- */

static bool fits_prefix(const char *prefix, unsigned at, uint8_t ch)
{
    return prefix[at] == '#' ? sym_is(ch, SYM_DIGIT) : (uint8_t)prefix[at] == ch;
}

static void take_prefix(struct detect_token *d, const struct sym *s)
{
    uint32_t left = 0;

    for (unsigned i = 0; i < BASE_ARRAY_LEN(kinds); i++) {
        if ((d->prefix >> i & 1) == 0 || !fits_prefix(kinds[i].prefix, d->prefix_len, s->ch))
            continue;
        left |= 1u << i;
        if (kinds[i].prefix[d->prefix_len + 1] != '\0')
            continue;
        d->prefix_len = 0;
        if (d->open) /* inside a token that is certain already */
            return;
        d->body = &kinds[i];
        d->body_start = d->prefix_start;
        d->body_len = 0;
        return;
    }
    d->prefix = left;
    d->prefix_len = left != 0 ? d->prefix_len + 1 : 0;
}

void detect_token(struct matcher *m, const struct sym *s)
{
    struct detect_token *d = &m->token;

    if (d->body != NULL)
        take_body(m, d, s);
    if (d->prefix_len > 0)
        take_prefix(d, s);
    if (d->prefix_len == 0 && !sym_is(s->prev, SYM_ALNUM) && (s->ch == 'A' || s->ch == 'g' || s->ch == 'x')) {
        d->prefix = ~0u >> (32 - BASE_ARRAY_LEN(kinds));
        d->prefix_start = s->start;
        take_prefix(d, s);
    }
}

/* ---- AWS secret access key ----
 * Forty characters that look like nothing: certain only behind the name that every AWS tool gives them. */

static const char secret_name[] =
    "secretaccesskey"; /* '_', '-' and blanks between its letters do not count */
#define SECRET_NAME_LEN 15u
#define SECRET_LEN      40u
#define SECRET_GAP_MAX  12u

static bool is_secret_char(uint8_t ch)
{
    return sym_is(ch, SYM_ALNUM) || ch == '/' || ch == '+';
}

static bool is_secret_gap(uint8_t ch)
{
    return ch != 0 && strchr(" \t\r\n\"'`=:>,*|", ch) != NULL;
}

size_t detect_aws_secret_live(const struct detect_aws_secret *d)
{
    return d->state == AWS_SECRET ? d->start : DETECT_NOWHERE;
}

/* Knuth-Morris-Pratt, its borders worked out as they are needed: the name is short. */
static unsigned next_name_len(unsigned len, char ch)
{
    while (len > 0 && secret_name[len] != ch) {
        unsigned border = len - 1;

        while (border > 0 && memcmp(secret_name, secret_name + len - border, border) != 0)
            border--;
        len = border;
    }
    return secret_name[len] == ch ? len + 1 : 0;
}

static void take_name(struct detect_aws_secret *d, const struct sym *s)
{
    if (s->ch == '_' || s->ch == '-' || s->ch == ' ')
        return;
    if (!sym_is(s->ch, SYM_UPPER | SYM_LOWER)) {
        d->key_len = 0;
        return;
    }
    d->key_len = next_name_len(d->key_len, (char)(s->ch | 0x20));
    if (d->key_len == SECRET_NAME_LEN) {
        d->key_len = 0;
        d->state = AWS_GAP;
        d->n = 0;
    }
}

static void begin_secret(struct detect_aws_secret *d, const struct sym *s)
{
    if (is_secret_gap(s->ch) && ++d->n <= SECRET_GAP_MAX)
        return;
    d->state = AWS_KEYWORD;
    if (!is_secret_char(s->ch) || d->n == 0) {
        take_name(d, s);
        return;
    }
    d->state = AWS_SECRET;
    d->start = s->start;
    d->end = s->end;
    d->n = 1;
}

static void take_secret(struct matcher *m, struct detect_aws_secret *d, const struct sym *s)
{
    if (is_secret_char(s->ch) && d->n < SECRET_LEN) {
        d->end = s->end;
        d->n++;
        return;
    }
    if (d->n == SECRET_LEN && !is_secret_char(s->ch))
        matcher_found(m, POL_DETECT_AWS_KEY, d->start, d->end);
    d->state = AWS_KEYWORD;
    take_name(d, s);
}

void detect_aws_secret(struct matcher *m, const struct sym *s)
{
    struct detect_aws_secret *d = &m->aws_secret;

    switch (d->state) {
    case AWS_KEYWORD: take_name(d, s); break;
    case AWS_GAP: begin_secret(d, s); break;
    case AWS_SECRET: take_secret(m, d, s); break;
    }
}
