/* Chat templates: lexemes to a tree. Recursive descent with one depth counter; source: Jinja2's grammar. */
#include "engine/template_priv.h"

#include "base/mem.h"
#include "base/str.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    struct eng_template *tmpl;
    const char *text;
    const struct eng_lex *lex; /* the current one */
    unsigned depth;
    size_t line_pos; /* up to where `line` has been counted */
    uint32_t line;
    unsigned loops; /* for bodies around, within the current macro */
    struct base_err *err;
    enum base_code rc; /* the first failure: everybody returns NULL after it */
};

typedef struct eng_tnode *node_fn(struct parser *ps);

static struct eng_tnode *parse_expr(struct parser *ps);
static struct eng_tnode *parse_cond(struct parser *ps, bool with_if);
static struct eng_tnode *parse_unary(struct parser *ps, bool with_filter);
static struct eng_tnode *parse_body(struct parser *ps, const char *const *ends);

/* ---- basics ---- */

#define FAIL_AT(ps, pos, ...) fail(ps, eng_template_syntax((ps)->err, (ps)->text, pos, __VA_ARGS__))
#define FAIL(ps, ...)         FAIL_AT(ps, (ps)->lex->start, __VA_ARGS__)

static void *fail(struct parser *ps, enum base_code rc)
{
    ps->rc = rc;
    return NULL;
}

static struct eng_tnode *new_node(struct parser *ps, enum eng_tnode_kind kind)
{
    struct eng_tnode *node;

    if (ps->rc != BASE_OK)
        return NULL;
    node = base_arena_alloc(ps->tmpl->arena, sizeof(*node));
    if (node == NULL)
        return fail(ps, base_fail(ps->err, BASE_TOO_LARGE, 0, "compiled template passes %u bytes",
                                  ENG_TEMPLATE_TREE_MAX));
    for (; ps->line_pos < ps->lex->start; ps->line_pos++)
        ps->line += ps->text[ps->line_pos] == '\n';
    node->kind = (uint8_t)kind;
    node->line = ps->line;
    return node;
}

static bool deeper(struct parser *ps)
{
    if (ps->rc != BASE_OK)
        return false;
    if (++ps->depth > ENG_TEMPLATE_DEPTH_MAX) {
        FAIL(ps, "nested deeper than %u", ENG_TEMPLATE_DEPTH_MAX);
        ps->depth--;
        return false;
    }
    return true;
}

static bool is_op(const struct parser *ps, unsigned op)
{
    return ps->lex->kind == ENG_LEX_OP && ps->lex->op == op;
}

static bool is_word(const struct parser *ps, const char *word)
{
    size_t n = strlen(word);

    return ps->lex->kind == ENG_LEX_NAME && ps->lex->end - ps->lex->start == n &&
           memcmp(ps->text + ps->lex->start, word, n) == 0;
}

static bool take_op(struct parser *ps, unsigned op)
{
    if (ps->rc != BASE_OK || !is_op(ps, op))
        return false;
    ps->lex++;
    return true;
}

static bool take_word(struct parser *ps, const char *word)
{
    if (ps->rc != BASE_OK || !is_word(ps, word))
        return false;
    ps->lex++;
    return true;
}

static bool need_op(struct parser *ps, unsigned op)
{
    if (ps->rc == BASE_OK && !take_op(ps, op))
        FAIL(ps, "expected '%c'", (char)op);
    return ps->rc == BASE_OK;
}

static bool need_kind(struct parser *ps, enum eng_lex_kind kind, const char *what)
{
    if (ps->rc == BASE_OK && ps->lex->kind != kind)
        FAIL(ps, "expected %s", what);
    if (ps->rc != BASE_OK)
        return false;
    ps->lex++;
    return true;
}

static const struct eng_tname *intern(struct parser *ps, const char *p, size_t n)
{
    const struct eng_tname *name = eng_tname_intern(ps->tmpl, p, n);

    if (name == NULL)
        fail(ps, base_fail(ps->err, BASE_TOO_LARGE, 0, "compiled template passes %u bytes",
                           ENG_TEMPLATE_TREE_MAX));
    return name;
}

static const struct eng_tname *need_name(struct parser *ps)
{
    const struct eng_lex *lex = ps->lex;

    if (!need_kind(ps, ENG_LEX_NAME, "a name"))
        return NULL;
    return intern(ps, ps->text + lex->start, lex->end - lex->start);
}

static void append(struct eng_tnode ***tail, struct eng_tnode *node)
{
    if (node == NULL)
        return;
    **tail = node;
    *tail = &node->next;
}

/* ---- literals ---- */

static struct eng_tnode *const_node(struct parser *ps, struct eng_tv value)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_CONST);

    if (node != NULL)
        node->value = value;
    return node;
}

static size_t put_escape(const char *p, size_t n, char *out, size_t *ret_used)
{
    static const char from[] = "nrtbfav0\\'\"", to[] = "\n\r\t\b\f\a\v\0\\'\"";
    const char *at = p[1] != '\0' ? strchr(from, p[1]) : NULL;
    size_t digits = p[1] == 'x' ? 2 : p[1] == 'u' ? 4 : p[1] == 'U' ? 8 : 0;
    char *end, hex[9] = "";
    unsigned long cp;

    *ret_used = 2;
    if (p[1] == '\n')
        return 0;
    if (at != NULL) {
        *out = to[at - from];
        return 1;
    }
    if (digits > 0 && n >= 2 + digits) {
        memcpy(hex, p + 2, digits);
        cp = strtoul(hex, &end, 16);
        if (*end == '\0' && isxdigit((unsigned char)hex[0]) && cp <= 0x10ffff &&
            (cp < 0xd800 || cp > 0xdfff)) {
            *ret_used = 2 + digits;
            return base_utf8_encode((uint32_t)cp, out);
        }
    }
    out[0] = '\\';
    out[1] = p[1];
    return 2;
}

/* Adjacent strings are one. */
static struct eng_tnode *parse_string(struct parser *ps)
{
    size_t room = 0, n = 0;
    char *out;

    for (const struct eng_lex *lex = ps->lex; lex->kind == ENG_LEX_STR; lex++)
        room += lex->end - lex->start;
    out = base_arena_alloc(ps->tmpl->arena, room);
    if (out == NULL)
        return fail(ps, base_fail(ps->err, BASE_TOO_LARGE, 0, "compiled template passes %u bytes",
                                  ENG_TEMPLATE_TREE_MAX));
    for (; ps->lex->kind == ENG_LEX_STR; ps->lex++) {
        size_t end = ps->lex->end - 1;

        for (size_t i = ps->lex->start + 1; i < end;) {
            size_t used = 1;

            if (ps->text[i] == '\\' && i + 1 < end)
                n += put_escape(ps->text + i, end - i, out + n, &used);
            else
                out[n++] = ps->text[i];
            i += used;
        }
    }
    return const_node(ps, eng_tv_str(out, n, false));
}

static struct eng_tnode *parse_number(struct parser *ps)
{
    const struct eng_lex *lex = ps->lex++;
    char digits[48];
    size_t n = 0;

    for (size_t i = lex->start; i < lex->end && n < sizeof(digits) - 1; i++)
        if (ps->text[i] != '_')
            digits[n++] = ps->text[i];
    digits[n] = '\0';
    if (lex->kind == ENG_LEX_FLOAT)
        return const_node(ps, eng_tv_float(strtod(digits, NULL)));
    if (n > 18)
        return FAIL_AT(ps, lex->start, "number too large");
    return const_node(ps, eng_tv_int(strtoll(digits, NULL, 10)));
}

static struct eng_tnode *parse_items(struct parser *ps, unsigned close)
{
    struct eng_tnode *first = NULL, **tail = &first;

    while (ps->rc == BASE_OK && !is_op(ps, close)) {
        append(&tail, parse_expr(ps));
        if (!take_op(ps, ','))
            break;
    }
    need_op(ps, close);
    return first;
}

static struct eng_tnode *parse_list(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_LIST);

    ps->lex++;
    if (node != NULL)
        node->b = parse_items(ps, ']');
    return node;
}

static struct eng_tnode *parse_dict(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_DICT), **tail;

    if (node == NULL)
        return NULL;
    ps->lex++;
    tail = &node->b;
    while (ps->rc == BASE_OK && !is_op(ps, '}')) {
        append(&tail, parse_expr(ps));
        need_op(ps, ':');
        append(&tail, parse_expr(ps));
        if (!take_op(ps, ','))
            break;
    }
    need_op(ps, '}');
    return node;
}

/* "(a)" is a, "(a,)" and "()" are tuples. */
static struct eng_tnode *parse_paren(struct parser *ps)
{
    struct eng_tnode *tuple = new_node(ps, ENG_TN_LIST), *first;

    if (tuple == NULL)
        return NULL;
    ps->lex++;
    tuple->op = 1;
    if (take_op(ps, ')'))
        return tuple;
    first = parse_expr(ps);
    if (first != NULL && take_op(ps, ',')) {
        first->next = parse_items(ps, ')');
        tuple->b = first;
        return tuple;
    }
    need_op(ps, ')');
    return first;
}

static struct eng_tnode *parse_name(struct parser *ps)
{
    static const struct {
        const char *word;
        int value; /* -1: none */
    } consts[] = {{"true", 1}, {"True", 1}, {"false", 0}, {"False", 0}, {"none", -1}, {"None", -1}};
    struct eng_tnode *node;

    for (size_t i = 0; i < BASE_ARRAY_LEN(consts); i++)
        if (take_word(ps, consts[i].word))
            return const_node(ps, consts[i].value < 0 ? eng_tv_none() : eng_tv_bool(consts[i].value != 0));
    node = new_node(ps, ENG_TN_NAME);
    if (node != NULL)
        node->name = need_name(ps);
    return node;
}

static struct eng_tnode *parse_primary(struct parser *ps)
{
    if (ps->rc != BASE_OK)
        return NULL;
    switch (ps->lex->kind) {
    case ENG_LEX_NAME: return parse_name(ps);
    case ENG_LEX_STR: return parse_string(ps);
    case ENG_LEX_INT:
    case ENG_LEX_FLOAT: return parse_number(ps);
    default: break;
    }
    if (is_op(ps, '('))
        return parse_paren(ps);
    if (is_op(ps, '['))
        return parse_list(ps);
    if (is_op(ps, '{'))
        return parse_dict(ps);
    return FAIL(ps, "expected an expression");
}

/* ---- postfix: attributes, items, calls, filters, tests ---- */

static struct eng_tnode *parse_args(struct parser *ps)
{
    struct eng_tnode *first = NULL, **tail = &first;
    bool named = false;

    need_op(ps, '(');
    while (ps->rc == BASE_OK && !is_op(ps, ')')) {
        if (ps->lex->kind == ENG_LEX_NAME && ps->lex[1].kind == ENG_LEX_OP && ps->lex[1].op == '=') {
            struct eng_tnode *node = new_node(ps, ENG_TN_KEYWORD);

            if (node == NULL)
                return NULL;
            node->name = need_name(ps);
            ps->lex++;
            node->a = parse_expr(ps);
            append(&tail, node);
            named = true;
        } else if (named)
            return FAIL(ps, "positional argument after a keyword argument");
        else
            append(&tail, parse_expr(ps));
        if (!take_op(ps, ','))
            break;
    }
    need_op(ps, ')');
    return first;
}

static struct eng_tnode *parse_subscript(struct parser *ps, struct eng_tnode *object)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_ITEM);

    if (node == NULL)
        return NULL;
    ps->lex++;
    node->a = object;
    if (!is_op(ps, ':'))
        node->b = parse_expr(ps);
    if (take_op(ps, ':')) {
        node->kind = ENG_TN_SLICE;
        if (!is_op(ps, ':') && !is_op(ps, ']'))
            node->c = parse_expr(ps);
        if (take_op(ps, ':') && !is_op(ps, ']'))
            node->d = parse_expr(ps);
    }
    need_op(ps, ']');
    return node;
}

static struct eng_tnode *parse_dot(struct parser *ps, struct eng_tnode *object)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_ATTR);

    if (node == NULL)
        return NULL;
    ps->lex++;
    node->a = object;
    if (ps->lex->kind == ENG_LEX_INT) { /* a.0 is a[0] */
        node->kind = ENG_TN_ITEM;
        node->b = parse_number(ps);
    } else
        node->name = need_name(ps);
    return node;
}

static struct eng_tnode *parse_call(struct parser *ps, struct eng_tnode *fn)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_CALL);

    if (node == NULL)
        return NULL;
    node->a = fn;
    node->b = parse_args(ps);
    return node;
}

/* A row of postfixes makes a tree as deep as it is long, which the evaluation has to descend: so it counts as
 * nesting. */
static struct eng_tnode *parse_postfix(struct parser *ps, struct eng_tnode *node)
{
    unsigned depth = ps->depth;

    while (ps->rc == BASE_OK && node != NULL && (is_op(ps, '.') || is_op(ps, '[') || is_op(ps, '('))) {
        if (!deeper(ps))
            break;
        if (is_op(ps, '.'))
            node = parse_dot(ps, node);
        else
            node = is_op(ps, '[') ? parse_subscript(ps, node) : parse_call(ps, node);
    }
    ps->depth = depth;
    return node;
}

static struct eng_tnode *parse_filter(struct parser *ps, struct eng_tnode *input)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_FILTER);

    if (node == NULL)
        return NULL;
    node->a = input;
    node->name = need_name(ps);
    if (is_op(ps, '('))
        node->b = parse_args(ps);
    return node;
}

static bool starts_operand(const struct parser *ps)
{
    static const char *const words[] = {"else", "or", "and", "is", "if", "in", "not"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(words); i++)
        if (is_word(ps, words[i]))
            return false;
    return ps->lex->kind == ENG_LEX_NAME || ps->lex->kind == ENG_LEX_STR || ps->lex->kind == ENG_LEX_INT ||
           ps->lex->kind == ENG_LEX_FLOAT || is_op(ps, '[') || is_op(ps, '{');
}

static struct eng_tnode *parse_test(struct parser *ps, struct eng_tnode *input)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_TEST);

    if (node == NULL)
        return NULL;
    node->a = input;
    node->op = take_word(ps, "not");
    node->name = need_name(ps);
    if (ps->rc != BASE_OK)
        return NULL;
    if (is_op(ps, '('))
        node->b = parse_args(ps);
    else if (starts_operand(ps))
        node->b = parse_postfix(ps, parse_primary(ps));
    return node;
}

static struct eng_tnode *parse_filters(struct parser *ps, struct eng_tnode *node)
{
    unsigned depth = ps->depth;

    while (ps->rc == BASE_OK && node != NULL && deeper(ps)) {
        if (take_op(ps, '|'))
            node = parse_filter(ps, node);
        else if (take_word(ps, "is"))
            node = parse_test(ps, node);
        else if (is_op(ps, '('))
            node = parse_call(ps, node);
        else
            break;
    }
    ps->depth = depth;
    return node;
}

static struct eng_tnode *parse_unary_inner(struct parser *ps, bool with_filter)
{
    bool negate = is_op(ps, '-'), plus = is_op(ps, '+');
    struct eng_tnode *node;

    if (negate || plus) {
        node = new_node(ps, negate ? ENG_TN_NEGATE : ENG_TN_PLUS);
        ps->lex++;
        if (node != NULL)
            node->a = parse_unary(ps, false);
    } else
        node = parse_postfix(ps, parse_primary(ps));
    return with_filter ? parse_filters(ps, node) : node;
}

static struct eng_tnode *parse_unary(struct parser *ps, bool with_filter)
{
    struct eng_tnode *node;

    if (!deeper(ps))
        return NULL;
    node = parse_unary_inner(ps, with_filter);
    ps->depth--;
    return node;
}

/* ---- operators, from tight to loose ---- */

/* first op operand op operand ...: one node, so that long sums are no deep trees. */
static struct eng_tnode *parse_chain(struct parser *ps, node_fn *operand, const unsigned *ops)
{
    struct eng_tnode *first = operand(ps), *node = NULL, **tail = NULL;

    while (ps->rc == BASE_OK) {
        struct eng_tnode *next;
        unsigned op = 0;

        for (size_t i = 0; ops[i] != 0 && op == 0; i++)
            if (take_op(ps, ops[i]))
                op = ops[i];
        if (op == 0)
            break;
        if (node == NULL) {
            node = new_node(ps, ENG_TN_MATH);
            if (node == NULL)
                return NULL;
            node->a = first;
            tail = &node->b;
        }
        next = new_node(ps, ENG_TN_MATH); /* a holder: an operand may be in another list already */
        if (next == NULL)
            return NULL;
        next->op = (uint16_t)op;
        next->a = operand(ps);
        append(&tail, next);
    }
    return node != NULL ? node : first;
}

static struct eng_tnode *parse_unary_full(struct parser *ps)
{
    return parse_unary(ps, true);
}

static struct eng_tnode *parse_power(struct parser *ps)
{
    return parse_chain(ps, parse_unary_full, (const unsigned[]){ENG_OP2('*', '*'), 0});
}

static struct eng_tnode *parse_product(struct parser *ps)
{
    return parse_chain(ps, parse_power, (const unsigned[]){'*', '/', ENG_OP2('/', '/'), '%', 0});
}

static struct eng_tnode *parse_concat(struct parser *ps)
{
    return parse_chain(ps, parse_product, (const unsigned[]){'~', 0});
}

static struct eng_tnode *parse_sum(struct parser *ps)
{
    return parse_chain(ps, parse_concat, (const unsigned[]){'+', '-', 0});
}

static unsigned take_comparison(struct parser *ps)
{
    static const unsigned ops[] = {
        ENG_OP2('=', '='), ENG_OP2('!', '='), ENG_OP2('<', '='), ENG_OP2('>', '='), '<', '>'};

    for (size_t i = 0; i < BASE_ARRAY_LEN(ops); i++)
        if (take_op(ps, ops[i]))
            return ops[i];
    if (take_word(ps, "in"))
        return ENG_OP_IN;
    if (is_word(ps, "not") && ps->lex[1].kind == ENG_LEX_NAME && ps->lex[1].end - ps->lex[1].start == 2 &&
        memcmp(ps->text + ps->lex[1].start, "in", 2) == 0) {
        ps->lex += 2;
        return ENG_OP_NOT_IN;
    }
    return 0;
}

static struct eng_tnode *parse_compare(struct parser *ps)
{
    struct eng_tnode *first = parse_sum(ps), *node = NULL, **tail = NULL;

    while (ps->rc == BASE_OK) {
        unsigned op = take_comparison(ps);
        struct eng_tnode *next;

        if (op == 0)
            break;
        if (node == NULL) {
            node = new_node(ps, ENG_TN_COMPARE);
            if (node == NULL)
                return NULL;
            node->a = first;
            tail = &node->b;
        }
        next = new_node(ps, ENG_TN_COMPARE);
        if (next == NULL)
            return NULL;
        next->op = (uint16_t)op;
        next->a = parse_sum(ps);
        append(&tail, next);
    }
    return node != NULL ? node : first;
}

static struct eng_tnode *parse_not(struct parser *ps)
{
    struct eng_tnode *node;

    if (!is_word(ps, "not"))
        return parse_compare(ps);
    node = new_node(ps, ENG_TN_NOT);
    if (node == NULL || !deeper(ps))
        return NULL;
    ps->lex++;
    node->a = parse_not(ps);
    ps->depth--;
    return node;
}

static struct eng_tnode *parse_words(struct parser *ps, node_fn *operand, const char *word,
                                     enum eng_tnode_kind kind)
{
    struct eng_tnode *first = operand(ps), *node = NULL, **tail = NULL;

    while (take_word(ps, word)) {
        if (node == NULL) {
            node = new_node(ps, kind);
            if (node == NULL)
                return NULL;
            tail = &node->b;
            append(&tail, first);
        }
        append(&tail, operand(ps));
    }
    return node != NULL ? node : first;
}

static struct eng_tnode *parse_and(struct parser *ps)
{
    return parse_words(ps, parse_not, "and", ENG_TN_AND);
}

static struct eng_tnode *parse_or(struct parser *ps)
{
    return parse_words(ps, parse_and, "or", ENG_TN_OR);
}

/* a if b else c; the else may be left out. */
static struct eng_tnode *parse_cond(struct parser *ps, bool with_if)
{
    struct eng_tnode *value = parse_or(ps);
    unsigned depth = ps->depth;

    while (with_if && value != NULL && take_word(ps, "if")) {
        struct eng_tnode *node = new_node(ps, ENG_TN_COND);

        if (node == NULL || !deeper(ps))
            return NULL;
        node->b = value;
        node->a = parse_or(ps);
        if (take_word(ps, "else"))
            node->c = parse_cond(ps, true);
        value = node;
    }
    ps->depth = depth;
    return ps->rc == BASE_OK ? value : NULL;
}

static struct eng_tnode *parse_expr(struct parser *ps)
{
    struct eng_tnode *node;

    if (!deeper(ps))
        return NULL;
    node = parse_cond(ps, true);
    ps->depth--;
    return node;
}

/* An expression or a tuple without brackets. */
static struct eng_tnode *parse_tuple(struct parser *ps, bool with_if)
{
    struct eng_tnode *first, *tuple, **tail;

    if (!deeper(ps))
        return NULL;
    first = parse_cond(ps, with_if);
    ps->depth--;
    if (first == NULL || !is_op(ps, ','))
        return first;
    tuple = new_node(ps, ENG_TN_LIST);
    if (tuple == NULL)
        return NULL;
    tuple->op = 1;
    tail = &tuple->b;
    append(&tail, first);
    while (take_op(ps, ',') && ps->lex->kind != ENG_LEX_VAR_END && ps->lex->kind != ENG_LEX_BLOCK_END)
        append(&tail, parse_expr(ps));
    return tuple;
}

/* ---- statements ---- */

static bool end_tag(struct parser *ps)
{
    return need_kind(ps, ENG_LEX_BLOCK_END, "the end of the tag");
}

/* After a body: the current lexeme is the word that ended it. */
static void need_end(struct parser *ps, const char *word)
{
    if (ps->rc == BASE_OK && !take_word(ps, word))
        FAIL(ps, "expected %s", word);
    end_tag(ps);
}

/* name, a, (b, c) or ns.name */
static struct eng_tnode *parse_target(struct parser *ps)
{
    struct eng_tnode *first, *tuple, **tail;
    bool paren = take_op(ps, '(');

    first = new_node(ps, ENG_TN_NAME);
    if (first == NULL)
        return NULL;
    first->name = need_name(ps);
    if (!paren && is_op(ps, '.'))
        return parse_dot(ps, first);
    if (!is_op(ps, ',')) {
        if (paren)
            need_op(ps, ')');
        return first;
    }
    tuple = new_node(ps, ENG_TN_LIST);
    if (tuple == NULL)
        return NULL;
    tuple->op = 1;
    tail = &tuple->b;
    append(&tail, first);
    while (take_op(ps, ',') && ps->lex->kind == ENG_LEX_NAME && !is_word(ps, "in")) {
        struct eng_tnode *name = new_node(ps, ENG_TN_NAME);

        if (name == NULL)
            return NULL;
        name->name = need_name(ps);
        append(&tail, name);
    }
    if (paren)
        need_op(ps, ')');
    return tuple;
}

static struct eng_tnode *parse_if(struct parser *ps)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct eng_tnode *first = NULL, **tail = &first;

    do {
        struct eng_tnode *node = new_node(ps, ENG_TN_IF);

        if (node == NULL)
            return NULL;
        node->a = parse_tuple(ps, true);
        end_tag(ps);
        node->body = parse_body(ps, ends);
        *tail = node;
        tail = &node->b;
    } while (take_word(ps, "elif"));
    if (take_word(ps, "else")) {
        struct eng_tnode *node = new_node(ps, ENG_TN_IF);

        end_tag(ps);
        if (node == NULL || ps->rc != BASE_OK)
            return NULL;
        node->body = parse_body(ps, ends);
        *tail = node;
    }
    need_end(ps, "endif");
    return first;
}

static struct eng_tnode *parse_for(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_FOR);

    if (node == NULL)
        return NULL;
    node->a = parse_target(ps);
    if (ps->rc == BASE_OK && !take_word(ps, "in"))
        return FAIL(ps, "expected 'in'");
    node->b = parse_tuple(ps, false);
    if (take_word(ps, "if"))
        node->c = parse_expr(ps);
    if (ps->rc == BASE_OK && is_word(ps, "recursive"))
        return FAIL(ps, "recursive loops are not supported");
    end_tag(ps);
    ps->loops++;
    node->body = parse_body(ps, (const char *const[]){"else", "endfor", NULL});
    ps->loops--;
    if (take_word(ps, "else")) {
        end_tag(ps);
        node->d = parse_body(ps, (const char *const[]){"endfor", NULL});
    }
    need_end(ps, "endfor");
    return node;
}

/* "|f|g" over the text that a block caught. */
static struct eng_tnode *parse_block_filters(struct parser *ps)
{
    struct eng_tnode *caught = new_node(ps, ENG_TN_CAPTURED);

    return parse_filters(ps, caught);
}

static struct eng_tnode *parse_set(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_SET);

    if (node == NULL)
        return NULL;
    node->a = parse_target(ps);
    if (take_op(ps, '=')) {
        node->b = parse_tuple(ps, true);
        end_tag(ps);
        return node;
    }
    node->kind = ENG_TN_SET_BLOCK;
    if (ps->rc == BASE_OK && is_op(ps, '|'))
        node->b = parse_block_filters(ps);
    end_tag(ps);
    node->body = parse_body(ps, (const char *const[]){"endset", NULL});
    need_end(ps, "endset");
    return node;
}

static struct eng_tnode *parse_params(struct parser *ps)
{
    struct eng_tnode *first = NULL, **tail = &first;

    need_op(ps, '(');
    while (ps->rc == BASE_OK && !is_op(ps, ')')) {
        struct eng_tnode *node = new_node(ps, ENG_TN_PARAM);

        if (node == NULL)
            return NULL;
        node->name = need_name(ps);
        if (take_op(ps, '='))
            node->a = parse_expr(ps);
        append(&tail, node);
        if (!take_op(ps, ','))
            break;
    }
    need_op(ps, ')');
    return first;
}

/* A macro's body cannot break a loop around the macro. */
static struct eng_tnode *parse_macro_body(struct parser *ps, const char *end)
{
    unsigned loops = ps->loops;
    struct eng_tnode *body;

    ps->loops = 0;
    body = parse_body(ps, (const char *const[]){end, NULL});
    ps->loops = loops;
    return body;
}

static struct eng_tnode *parse_macro(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_MACRO);

    if (node == NULL)
        return NULL;
    node->name = need_name(ps);
    node->a = parse_params(ps);
    end_tag(ps);
    node->body = parse_macro_body(ps, "endmacro");
    if (take_word(ps, "endmacro") && ps->lex->kind == ENG_LEX_NAME)
        ps->lex++; /* its name may be repeated */
    end_tag(ps);
    return node;
}

static struct eng_tnode *parse_call_block(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_CALL_BLOCK);

    if (node == NULL)
        return NULL;
    if (is_op(ps, '('))
        node->a = parse_params(ps);
    node->b = parse_expr(ps);
    if (node->b != NULL && node->b->kind != ENG_TN_CALL)
        return FAIL(ps, "expected a call");
    end_tag(ps);
    node->body = parse_macro_body(ps, "endcall");
    need_end(ps, "endcall");
    return node;
}

static struct eng_tnode *parse_filter_block(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_FILTER_BLOCK), *caught = new_node(ps, ENG_TN_CAPTURED);

    if (node == NULL || caught == NULL)
        return NULL;
    node->b = parse_filters(ps, parse_filter(ps, caught));
    end_tag(ps);
    node->body = parse_body(ps, (const char *const[]){"endfilter", NULL});
    need_end(ps, "endfilter");
    return node;
}

static struct eng_tnode *parse_with(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_WITH), **tail;

    if (node == NULL)
        return NULL;
    tail = &node->a;
    while (ps->rc == BASE_OK && ps->lex->kind == ENG_LEX_NAME) {
        struct eng_tnode *set = new_node(ps, ENG_TN_SET), *name = new_node(ps, ENG_TN_NAME);

        if (set == NULL || name == NULL)
            return NULL;
        name->name = need_name(ps);
        need_op(ps, '=');
        set->a = name;
        set->b = parse_expr(ps);
        append(&tail, set);
        if (!take_op(ps, ','))
            break;
    }
    end_tag(ps);
    node->body = parse_body(ps, (const char *const[]){"endwith", NULL});
    need_end(ps, "endwith");
    return node;
}

/* Marks what a model wrote, for training; renders as its body. */
static struct eng_tnode *parse_generation(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_BLOCK);

    if (node == NULL)
        return NULL;
    end_tag(ps);
    node->body = parse_body(ps, (const char *const[]){"endgeneration", NULL});
    need_end(ps, "endgeneration");
    return node;
}

static struct eng_tnode *parse_jump(struct parser *ps, enum eng_tnode_kind kind)
{
    struct eng_tnode *node = new_node(ps, kind);

    if (ps->rc == BASE_OK && ps->loops == 0)
        return FAIL(ps, "break or continue outside a loop");
    end_tag(ps);
    return node;
}

static struct eng_tnode *parse_statement(struct parser *ps)
{
    static const struct {
        const char *word;
        node_fn *parse;
    } statements[] = {{"if", parse_if},           {"for", parse_for},
                      {"set", parse_set},         {"macro", parse_macro},
                      {"call", parse_call_block}, {"filter", parse_filter_block},
                      {"with", parse_with},       {"generation", parse_generation}};
    const struct eng_lex *lex = ps->lex;

    for (size_t i = 0; i < BASE_ARRAY_LEN(statements); i++)
        if (take_word(ps, statements[i].word))
            return statements[i].parse(ps);
    if (take_word(ps, "break"))
        return parse_jump(ps, ENG_TN_BREAK);
    if (take_word(ps, "continue"))
        return parse_jump(ps, ENG_TN_CONTINUE);
    return FAIL(ps, "unknown tag \"%.*s\"", lex->kind == ENG_LEX_NAME ? (int)(lex->end - lex->start) : 0,
                ps->text + lex->start);
}

static struct eng_tnode *parse_output(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_OUTPUT);

    ps->lex++;
    if (node != NULL)
        node->a = parse_tuple(ps, true);
    need_kind(ps, ENG_LEX_VAR_END, "'}}'");
    return node;
}

static struct eng_tnode *text_node(struct parser *ps)
{
    struct eng_tnode *node = new_node(ps, ENG_TN_TEXT);
    const struct eng_lex *lex = ps->lex++;
    char *copy;

    if (node == NULL)
        return NULL;
    copy = base_arena_dup(ps->tmpl->arena, ps->text + lex->start, lex->end - lex->start);
    if (copy == NULL)
        return fail(ps, base_fail(ps->err, BASE_TOO_LARGE, 0, "compiled template passes %u bytes",
                                  ENG_TEMPLATE_TREE_MAX));
    node->value = eng_tv_str(copy, lex->end - lex->start, false);
    return node;
}

/* Statements up to a tag whose first word is one of `ends` (NULL: the end of the template); that word is then
 * current. */
static struct eng_tnode *parse_body(struct parser *ps, const char *const *ends)
{
    struct eng_tnode *first = NULL, **tail = &first;

    if (!deeper(ps))
        return NULL;
    while (ps->rc == BASE_OK) {
        if (ps->lex->kind == ENG_LEX_END) {
            if (ends != NULL)
                FAIL(ps, "the template ends before %s", ends[0]);
            break;
        }
        if (ps->lex->kind == ENG_LEX_TEXT)
            append(&tail, text_node(ps));
        else if (ps->lex->kind == ENG_LEX_VAR_BEGIN)
            append(&tail, parse_output(ps));
        else {
            bool is_end = false;

            ps->lex++; /* BLOCK_BEGIN */
            for (size_t i = 0; ends != NULL && ends[i] != NULL; i++)
                is_end |= is_word(ps, ends[i]);
            if (is_end)
                break;
            append(&tail, parse_statement(ps));
        }
    }
    ps->depth--;
    return ps->rc == BASE_OK ? first : NULL;
}

enum base_code eng_template_parse(struct eng_template *tmpl, const char *text, const struct eng_lex *lex,
                                  struct base_err *err)
{
    struct parser ps = {.tmpl = tmpl, .text = text, .lex = lex, .line = 1, .err = err};

    tmpl->body = parse_body(&ps, NULL);
    return ps.rc;
}
