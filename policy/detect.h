/* Detect: one incremental matcher for every kind of finding. The whole-text scan and the stream both run it,
 * character by character, so that they cannot disagree.
 *
 * What: each detector (detect_<what>.c) sees one symbol at a time (normalize.h) with the bytes that it stands
 * for. It says `live`: the first byte that may still become part of a finding, and calls matcher_found /
 * matcher_open / matcher_extend / matcher_close when it is sure. Promises:
 *   1. A finding never begins before what `live` said when it was asked last: bytes before matcher_settled()
 * are decided for good.
 *   2. settled lags behind what was taken by at most DETECT_HOLD_MAX symbols (bounded shapes); an unbounded
 * shape (PEM, JWT, tokens) is open from its confirmed prefix on and holds nothing.
 *   3. Work per symbol is bounded by a constant; memory too.
 * Who:  policy/; one thread at a time.
 */
#ifndef POLICY_DETECT_H
#define POLICY_DETECT_H

#include "policy/normalize.h"
#include "policy/policy.h"

#define DETECT_NOWHERE SIZE_MAX /* no live candidate */
#define DETECT_HOLD_MAX \
    1100u /* symbols: the longest bounded candidate, a JWT's header; a symbol has at most 36 bytes */

/* ---- symbols ---- */

enum {
    SYM_DIGIT = 1u << 0,
    SYM_UPPER = 1u << 1,
    SYM_LOWER = 1u << 2,
    SYM_ALNUM = SYM_DIGIT | SYM_UPPER | SYM_LOWER,
    SYM_LOCAL = 1u << 3,      /* may stand in the part of an e-mail address before the @ */
    SYM_LOCAL_HEAD = 1u << 4, /* and may begin it */
    SYM_B64URL = 1u << 5,
    SYM_GAP = 1u << 6, /* may stand between the digits of a card */
    SYM_DOMAIN = 1u << 7,
};
extern const uint8_t sym_class[256];

struct sym {
    uint8_t ch, prev;  /* prev: the symbol before; 0 at the start of the text. ch 0: the end of the text */
    size_t start, end; /* the bytes that it stands for */
};

static inline bool sym_is(uint8_t ch, unsigned mask)
{
    return (sym_class[ch] & mask) != 0;
}

/* ---- states of the detectors ---- */

#define EMAIL_LOCAL_MAX  64u
#define EMAIL_DOMAIN_MAX 255u
struct detect_email {
    size_t local[EMAIL_LOCAL_MAX]; /* starts of the last symbols of the run that may be a local part */
    size_t run;                    /* symbols in that run */
    bool in_domain;
    size_t start, good_end; /* of the address; good_end 0: no valid domain yet */
    unsigned domain_len, dots, label_len, alpha_len;
    size_t label_end, alpha_end;
    char label[8]; /* its first letters, lower case */
};

#define CARD_DIGITS_MAX 19u
struct card_group {
    size_t start, end;
    uint8_t n;    /* digits */
    uint8_t left; /* symbol before it */
    bool decimal; /* "0." stands before it */
    uint32_t gap; /* symbols between the group before and this one */
};
struct detect_card {
    struct card_group groups[CARD_DIGITS_MAX + 1];
    uint8_t digits[CARD_DIGITS_MAX + 1];
    unsigned n_groups, n_digits;
    bool in_group, overlong;
    unsigned gap_len;
    uint32_t gap;
};

#define IBAN_CANDIDATES_MAX 16u
struct iban_candidate {
    size_t start, end;
    uint8_t need, got;
    bool digits_only, gap;
    char head[4];
    unsigned mod;
};
struct detect_iban {
    struct iban_candidate candidates[IBAN_CANDIDATES_MAX];
    unsigned n;
    char head[4];
    unsigned head_len;
    size_t head_start;
};

#define PEM_LABEL_MAX 64u
struct detect_pem {
    size_t dashes[5]; /* starts of the last ones of a run */
    size_t n_dashes;
    enum { PEM_IDLE, PEM_WORD, PEM_LABEL, PEM_TAIL } state;
    size_t start;
    unsigned word_len, label_len, n_tail;
    bool open, closing, lead_blank;
    char label[PEM_LABEL_MAX];
};

struct detect_token {
    unsigned prefix;     /* bit set of the prefixes that still fit */
    unsigned prefix_len; /* symbols of the prefix met */
    size_t prefix_start;
    const struct token_kind *body; /* NULL: none */
    size_t body_start, body_end;
    unsigned body_len;
    bool open;
};

struct detect_aws_secret {
    unsigned key_len; /* matched part of the key word */
    enum { AWS_KEYWORD, AWS_GAP, AWS_SECRET } state;
    unsigned n;
    size_t start, end;
};

struct detect_jwt {
    enum { JWT_IDLE, JWT_HEADER, JWT_DOT, JWT_BODY, JWT_BODY_DOT } state;
    size_t start, dot;
    unsigned n, dots, bits, alg_len;
    uint32_t acc;
    uint8_t last;
    bool alg;
};

/* ---- the matcher ---- */

struct span {
    enum pol_detector kind;
    size_t start, end;
};

struct matcher {
    struct norm norm;
    size_t pos;     /* bytes taken */
    size_t settled; /* bytes handed on by matcher_sweep */
    uint8_t prev;
    struct detect_email email;
    struct detect_card card;
    struct detect_iban iban;
    struct detect_pem pem;
    struct detect_token token;
    struct detect_aws_secret aws_secret;
    struct detect_jwt jwt;
    struct span open[POL_DETECT_COUNT]; /* kind NONE: not open */
    struct span *spans;                 /* closed ones that reach past `settled` */
    size_t n_spans, cap_spans;
    uint32_t found[POL_DETECT_COUNT]; /* confirmed so far */
    uint32_t fresh;                   /* kinds confirmed since the caller cleared it */
    size_t fresh_start[POL_DETECT_COUNT];
};

void matcher_init(struct matcher *m);
void matcher_free(struct matcher *m); /* init may follow */
/* Takes one character; returns its bytes. */
size_t matcher_take(struct matcher *m, const char *text, size_t len);
/* The text is over: everything is decided. */
void matcher_end(struct matcher *m);
/* The first byte that is not decided. */
size_t matcher_live(const struct matcher *m);

/* Called in order, without gaps, for each piece of text: kinds is a bit set (1u << enum pol_detector), 0 for
 * text in no finding. A long finding may come in several pieces. */
typedef void matcher_piece_fn(void *user, size_t start, size_t end, uint32_t kinds);
/* Hands on what lies before `upto` (<= matcher_live()). */
void matcher_sweep(struct matcher *m, size_t upto, matcher_piece_fn *fn, void *user);

/* ---- what detectors call ---- */

void matcher_found(struct matcher *m, enum pol_detector kind, size_t start, size_t end);
/* True when a finding of this kind that is not handed on yet covers the bytes. */
bool matcher_covers(const struct matcher *m, enum pol_detector kind, size_t start, size_t end);
/* Takes back closed findings of this kind inside the bytes, none of which is handed on yet. */
void matcher_forget(struct matcher *m, enum pol_detector kind, size_t start, size_t end);
void matcher_open(struct matcher *m, enum pol_detector kind, size_t start, size_t end);
void matcher_extend(struct matcher *m, enum pol_detector kind, size_t end);
void matcher_close(struct matcher *m, enum pol_detector kind);

void detect_email(struct matcher *m, const struct sym *s);
void detect_card(struct matcher *m, const struct sym *s);
void detect_iban(struct matcher *m, const struct sym *s);
void detect_pem(struct matcher *m, const struct sym *s);
void detect_token(struct matcher *m, const struct sym *s);
void detect_aws_secret(struct matcher *m, const struct sym *s);
void detect_jwt(struct matcher *m, const struct sym *s);

size_t detect_email_live(const struct detect_email *d);
size_t detect_card_live(const struct detect_card *d);
size_t detect_iban_live(const struct detect_iban *d);
size_t detect_pem_live(const struct detect_pem *d);
size_t detect_token_live(const struct detect_token *d);
size_t detect_aws_secret_live(const struct detect_aws_secret *d);
size_t detect_jwt_live(const struct detect_jwt *d);

/* ---- for tests ---- */

bool card_is_valid(const uint8_t *digits, unsigned n); /* issuer range, length and Luhn */

#endif
