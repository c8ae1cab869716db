/* JSON Web Tokens (RFC 7519): a base64url header that decodes to an object with "alg", a dot, and what
 * follows of base64url parts.
 *
 * The header is decoded as it arrives; it is certain at the dot behind it and one more symbol. From there to
 * its last symbol the token is open. A dot belongs to it only when base64url follows: the full stop behind a
 * token does not.
 */
#include "policy/detect.h"

#include <string.h>

#define HEADER_MAX 1024u /* symbols */
#define DOTS_MAX   4u    /* JWE has five parts */

static const char alg_name[] = "\"alg\"";
#define ALG_FOUND 5u /* then blanks and ':' */

size_t detect_jwt_live(const struct detect_jwt *d)
{
    return d->state == JWT_HEADER || d->state == JWT_DOT ? d->start
                                                         : DETECT_NOWHERE; /* else the open span holds */
}

static unsigned b64_value(uint8_t ch)
{
    if (ch >= 'A' && ch <= 'Z')
        return ch - 'A';
    if (ch >= 'a' && ch <= 'z')
        return ch - 'a' + 26u;
    if (ch >= '0' && ch <= '9')
        return ch - '0' + 52u;
    return ch == '-' ? 62 : 63;
}

/* One decoded byte of the header; false when it cannot be a JSON object. */
static bool take_byte(struct detect_jwt *d, uint8_t byte)
{
    bool first = d->last == 0;

    if (first && byte != '{')
        return false;
    if (byte < ' ' && byte != '\t' && byte != '\n' && byte != '\r')
        return false;
    d->last = byte;
    if (d->alg)
        return true;
    if (d->alg_len < ALG_FOUND)
        d->alg_len = byte == (uint8_t)alg_name[d->alg_len] ? d->alg_len + 1 : byte == '"';
    else if (byte == ':')
        d->alg = true;
    else if (byte != ' ' && byte != '\t' && byte != '\n' && byte != '\r')
        d->alg_len = byte == '"';
    return true;
}

static bool take_header(struct detect_jwt *d, uint8_t ch)
{
    d->acc = d->acc << 6 | b64_value(ch);
    d->bits += 6;
    if (++d->n > HEADER_MAX)
        return false;
    if (d->bits < 8)
        return true;
    d->bits -= 8;
    return take_byte(d, (uint8_t)(d->acc >> d->bits));
}

static void begin(struct detect_jwt *d, const struct sym *s)
{
    memset(d, 0, sizeof(*d));
    if (s->ch != 'e' || sym_is(s->prev, SYM_ALNUM)) /* '{' begins with 'e' */
        return;
    d->state = JWT_HEADER;
    d->start = s->start;
    take_header(d, s->ch);
}

static void take_body(struct matcher *m, struct detect_jwt *d, const struct sym *s)
{
    if (sym_is(s->ch, SYM_B64URL)) {
        matcher_extend(m, POL_DETECT_JWT, s->end);
        d->state = JWT_BODY;
        return;
    }
    if (s->ch == '.' && d->dots < DOTS_MAX && d->state == JWT_BODY) {
        d->dots++;
        d->state = JWT_BODY_DOT;
        return;
    }
    matcher_close(m, POL_DETECT_JWT);
    begin(d, s);
}

void detect_jwt(struct matcher *m, const struct sym *s)
{
    struct detect_jwt *d = &m->jwt;

    switch (d->state) {
    case JWT_IDLE:
        if (s->ch == 'e')
            begin(d, s);
        break;
    case JWT_HEADER:
        if (sym_is(s->ch, SYM_B64URL)) {
            if (!take_header(d, s->ch))
                begin(d, s);
        } else if (s->ch == '.' && d->alg && d->last == '}') {
            d->state = JWT_DOT;
            d->dots = 1;
        } else
            begin(d, s);
        break;
    case JWT_DOT:
        if (sym_is(s->ch, SYM_B64URL)) {
            matcher_open(m, POL_DETECT_JWT, d->start, s->end);
            d->state = JWT_BODY;
        } else if (s->ch == '.' && d->dots == 1)
            d->dots = 2; /* an empty second part: a detached payload, or JWE with a direct key */
        else
            begin(d, s);
        break;
    case JWT_BODY:
    case JWT_BODY_DOT: take_body(m, d, s); break;
    }
}
