/* Chat templates: lexemes. Source: Jinja2's lexer with trim_blocks and lstrip_blocks: the newline after a
 * block or comment goes, and so do blanks between a line's start and a block or comment; "-" eats white space
 * on its side, "+" keeps it. */
#include "engine/template_priv.h"

#include "base/mem.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BRACKETS_MAX 256u

struct lexer {
    const char *text;
    size_t len, pos;
    struct eng_lex *v;
    size_t n, cap;
    struct base_err *err;
};

enum base_code eng_template_syntax(struct base_err *err, const char *text, size_t pos, const char *fmt, ...)
{
    unsigned line = 1, column = 1;
    char what[160];
    va_list args;

    for (size_t i = 0; i < pos; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return base_fail(err, BASE_INVALID, 0, "template line %u, column %u: %s", line, column, what);
}

static enum base_code push(struct lexer *lx, enum eng_lex_kind kind, unsigned op, size_t start, size_t end)
{
    if (lx->n == lx->cap) {
        lx->cap = lx->cap == 0 ? 256 : lx->cap * 2;
        lx->v = base_realloc(lx->v, lx->cap * sizeof(*lx->v)); /* bounded by the template's size */
    }
    lx->v[lx->n++] = (struct eng_lex){(uint8_t)kind, (uint16_t)op, (uint32_t)start, (uint32_t)end};
    return BASE_OK;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool starts(const struct lexer *lx, size_t pos, const char *what)
{
    size_t n = strlen(what);

    return lx->len - pos >= n && memcmp(lx->text + pos, what, n) == 0;
}

/* Text before a tag at `end`: without what lstrip_blocks or "-" takes. `c` is the character after the tag's
 * two. */
static void push_text(struct lexer *lx, size_t start, size_t end, char c, bool is_output)
{
    size_t line = end;

    if (c == '-') {
        while (end > start && is_blank(lx->text[end - 1]))
            end--;
    } else if (c != '+' && !is_output) {
        while (line > start && is_blank(lx->text[line - 1]) && lx->text[line - 1] != '\n')
            line--;
        /* only when the line starts here, also when the newline belonged to the tag before */
        if (line == 0 || lx->text[line - 1] == '\n')
            end = line;
    }
    if (end > start)
        push(lx, ENG_LEX_TEXT, 0, start, end);
}

static void skip_blanks(struct lexer *lx)
{
    while (lx->pos < lx->len && is_blank(lx->text[lx->pos]))
        lx->pos++;
}

/* Behind a closing tag: "-" eats white space, else a block's newline goes. `sign` is the character before the
 * tag. */
static void after_tag(struct lexer *lx, char sign, bool trims)
{
    if (sign == '-')
        skip_blanks(lx);
    else if (sign != '+' && trims && lx->pos < lx->len && lx->text[lx->pos] == '\n')
        lx->pos++;
}

static enum base_code lex_comment(struct lexer *lx)
{
    size_t start = lx->pos;
    const char *end = memmem(lx->text + start + 2, lx->len - start - 2, "#}", 2);

    if (end == NULL)
        return eng_template_syntax(lx->err, lx->text, start, "comment without end");
    lx->pos = (size_t)(end - lx->text) + 2;
    after_tag(lx, end > lx->text + start + 2 ? end[-1] : '\0', true);
    return BASE_OK;
}

/* Matches `{%- word -%}` at pos; returns the position of its "%}", 0 when it is not one. */
static size_t match_tag(const struct lexer *lx, size_t pos, const char *word, char *ret_sign)
{
    size_t i = pos + 2;

    if (i < lx->len && (lx->text[i] == '-' || lx->text[i] == '+'))
        i++;
    while (i < lx->len && is_blank(lx->text[i]))
        i++;
    if (!starts(lx, i, word))
        return 0;
    i += strlen(word);
    while (i < lx->len && is_blank(lx->text[i]))
        i++;
    *ret_sign = i < lx->len && (lx->text[i] == '-' || lx->text[i] == '+') ? lx->text[i] : '\0';
    if (*ret_sign != '\0')
        i++;
    return starts(lx, i, "%}") ? i : 0;
}

static enum base_code lex_raw(struct lexer *lx, size_t close, char sign)
{
    size_t from;
    char end_sign;

    lx->pos = close + 2;
    after_tag(lx, sign, false);
    from = lx->pos;
    for (size_t i = from; i + 1 < lx->len; i++) {
        size_t end;

        if (lx->text[i] != '{' || lx->text[i + 1] != '%' ||
            (end = match_tag(lx, i, "endraw", &end_sign)) == 0)
            continue;
        push_text(lx, from, i, lx->text[i + 2], false);
        lx->pos = end + 2;
        after_tag(lx, end_sign, true);
        return BASE_OK;
    }
    return eng_template_syntax(lx->err, lx->text, from, "raw without endraw");
}

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static enum base_code lex_number(struct lexer *lx)
{
    size_t start = lx->pos, i = start;
    bool is_float = false;

    while (i < lx->len && (isdigit((unsigned char)lx->text[i]) || lx->text[i] == '_'))
        i++;
    if (i + 1 < lx->len && lx->text[i] == '.' && isdigit((unsigned char)lx->text[i + 1])) {
        is_float = true;
        for (i++; i < lx->len && isdigit((unsigned char)lx->text[i]);)
            i++;
    }
    if (i < lx->len && (lx->text[i] == 'e' || lx->text[i] == 'E')) {
        size_t k = i + 1;

        if (k < lx->len && (lx->text[k] == '+' || lx->text[k] == '-'))
            k++;
        if (k < lx->len && isdigit((unsigned char)lx->text[k])) {
            is_float = true;
            while (k < lx->len && isdigit((unsigned char)lx->text[k]))
                k++;
            i = k;
        }
    }
    if (i - start > 40)
        return eng_template_syntax(lx->err, lx->text, start, "number too long");
    lx->pos = i;
    return push(lx, is_float ? ENG_LEX_FLOAT : ENG_LEX_INT, 0, start, i);
}

static enum base_code lex_string(struct lexer *lx)
{
    size_t start = lx->pos;
    char quote = lx->text[start];

    for (size_t i = start + 1; i < lx->len; i++) {
        if (lx->text[i] == '\\')
            i++;
        else if (lx->text[i] == quote) {
            lx->pos = i + 1;
            return push(lx, ENG_LEX_STR, 0, start, i + 1);
        }
    }
    return eng_template_syntax(lx->err, lx->text, start, "string without end");
}

static enum base_code lex_operator(struct lexer *lx)
{
    static const char *const doubles[] = {"==", "!=", ">=", "<=", "//", "**"};
    char c = lx->text[lx->pos];

    for (size_t i = 0; i < BASE_ARRAY_LEN(doubles); i++)
        if (starts(lx, lx->pos, doubles[i])) {
            lx->pos += 2;
            return push(lx, ENG_LEX_OP, ENG_OP2(doubles[i][0], doubles[i][1]), lx->pos - 2, lx->pos);
        }
    if (c == '\0' || strchr("+-*/%~<>=.:|,;()[]{}", c) == NULL)
        return eng_template_syntax(lx->err, lx->text, lx->pos, "unexpected character 0x%02x",
                                   (unsigned char)c);
    lx->pos++;
    return push(lx, ENG_LEX_OP, (unsigned char)c, lx->pos - 1, lx->pos);
}

/* Keeps the open brackets, so that "}}" inside a dict is no end of output. */
static enum base_code track_bracket(struct lexer *lx, char *stack, unsigned *depth)
{
    unsigned op = lx->v[lx->n - 1].op;
    size_t pos = lx->v[lx->n - 1].start;

    if (op == '(' || op == '[' || op == '{') {
        if (*depth == BRACKETS_MAX)
            return eng_template_syntax(lx->err, lx->text, pos, "too many open brackets");
        stack[(*depth)++] = op == '(' ? ')' : op == '[' ? ']' : '}';
    } else if (op == ')' || op == ']' || op == '}') {
        if (*depth == 0 || stack[*depth - 1] != (char)op)
            return eng_template_syntax(lx->err, lx->text, pos, "unexpected '%c'", (char)op);
        (*depth)--;
    }
    return BASE_OK;
}

/* Inside {{ }} or {% %}, up to and including the closing tag. */
static enum base_code lex_code(struct lexer *lx, const char *close, bool is_output)
{
    size_t start = lx->pos;
    char stack[BRACKETS_MAX];
    unsigned depth = 0;
    enum base_code rc = BASE_OK;

    while (rc == BASE_OK) {
        char c, sign;

        skip_blanks(lx);
        if (lx->pos >= lx->len)
            return eng_template_syntax(lx->err, lx->text, start, "tag without end");
        c = lx->text[lx->pos];
        sign = c == '-' || (c == '+' && !is_output) ? c : '\0';
        if (depth == 0 && starts(lx, lx->pos + (sign != '\0'), close)) {
            push(lx, is_output ? ENG_LEX_VAR_END : ENG_LEX_BLOCK_END, 0, lx->pos, lx->pos + 2);
            lx->pos += 2 + (sign != '\0');
            after_tag(lx, sign, !is_output);
            return BASE_OK;
        }
        if (isdigit((unsigned char)c))
            rc = lex_number(lx);
        else if (is_name_char(c)) {
            start = lx->pos;
            while (lx->pos < lx->len && is_name_char(lx->text[lx->pos]))
                lx->pos++;
            rc = push(lx, ENG_LEX_NAME, 0, start, lx->pos);
        } else if (c == '"' || c == '\'')
            rc = lex_string(lx);
        else {
            rc = lex_operator(lx);
            if (rc == BASE_OK)
                rc = track_bracket(lx, stack, &depth);
        }
    }
    return rc;
}

static enum base_code lex_tag(struct lexer *lx)
{
    bool is_output = lx->text[lx->pos + 1] == '{';
    size_t start = lx->pos, close;
    char sign;

    if (lx->text[start + 1] == '#')
        return lex_comment(lx);
    if (!is_output && (close = match_tag(lx, start, "raw", &sign)) != 0)
        return lex_raw(lx, close, sign);
    push(lx, is_output ? ENG_LEX_VAR_BEGIN : ENG_LEX_BLOCK_BEGIN, 0, start, start + 2);
    lx->pos += 2;
    if (lx->pos < lx->len && (lx->text[lx->pos] == '-' || (lx->text[lx->pos] == '+' && !is_output)))
        lx->pos++;
    return lex_code(lx, is_output ? "}}" : "%}", is_output);
}

static enum base_code lex_all(struct lexer *lx)
{
    size_t from = 0;

    while (lx->pos + 1 < lx->len) {
        const char *p = lx->text + lx->pos;
        enum base_code rc;

        if (p[0] != '{' || (p[1] != '{' && p[1] != '%' && p[1] != '#')) {
            lx->pos++;
            continue;
        }
        push_text(lx, from, lx->pos, lx->pos + 2 < lx->len ? p[2] : '\0', p[1] == '{');
        rc = lex_tag(lx);
        if (rc != BASE_OK)
            return rc;
        from = lx->pos;
    }
    if (lx->len > from)
        push(lx, ENG_LEX_TEXT, 0, from, lx->len);
    return push(lx, ENG_LEX_END, 0, lx->len, lx->len);
}

enum base_code eng_template_lex(const char *text, size_t len, struct eng_lex **ret_lex, struct base_err *err)
{
    struct lexer lx = {.text = text, .len = len, .err = err};
    enum base_code rc = lex_all(&lx);

    if (rc != BASE_OK) {
        free(lx.v);
        return rc;
    }
    *ret_lex = lx.v;
    return BASE_OK;
}
