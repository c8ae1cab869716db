/* Chat template internals: the compiled tree, values, and rendering with arbitrary variables. Private to
 * template*.c and their tests.
 *
 * template_lex.c     text -> lexemes, white space control
 * template_parse.c   lexemes -> tree
 * template_value.c   values: strings with provenance, lists, dicts; printing, JSON, comparing
 * template_eval.c    expressions
 * template_run.c     statements, scopes, macros
 * template_filter.c  filters and tests
 * template_method.c  methods of strings and dicts, global functions
 * template.c         the public functions
 *
 * Invariants:
 *  1. All memory of a compilation or a rendering comes from one capped arena; a failed allocation sets the
 * failure and every caller stops at the next check. Nothing is freed in between.
 *  2. A string carries a mark per byte: set when the byte came out of a message. Every function that makes a
 * string from others carries the marks over; a replacement put in the place of marked bytes is marked.
 *  3. No recursion without enter()/leave() (rendering) or the parser's depth counter.
 *  4. Values never change once another value can see them, except namespaces. So there are no cycles but
 * through a namespace, and those are not printed or compared into.
 */
#ifndef ENGINE_TEMPLATE_PRIV_H
#define ENGINE_TEMPLATE_PRIV_H

#include "base/arena.h"
#include "engine/template.h"

#include <stdint.h>

#define ENG_TEMPLATE_TREE_MAX       (16u << 20)  /* bytes of one compiled template */
#define ENG_TEMPLATE_MEMORY_MAX     (192u << 20) /* bytes that one rendering may use */
#define ENG_TEMPLATE_EVAL_DEPTH_MAX 400u         /* nested evaluations, macros included */
#define ENG_TEMPLATE_RANGE_MAX      100000

/* ---- values ---- */

enum eng_tv_kind {
    ENG_TV_UNDEFINED = 0,
    ENG_TV_NONE,
    ENG_TV_BOOL,
    ENG_TV_INT,
    ENG_TV_FLOAT,
    ENG_TV_STR,
    ENG_TV_LIST, /* also tuples and what Python calls generators */
    ENG_TV_DICT,
    ENG_TV_NAMESPACE,
    ENG_TV_LOOP,
    ENG_TV_MACRO,
    ENG_TV_METHOD,  /* a method with its object */
    ENG_TV_FUNCTION /* a global function */
};

/* Marks of a string wholly from a message; NULL: wholly from the template. */
extern const uint8_t eng_tv_all_marked[];

struct eng_tstr {
    const char *p;
    const uint8_t *marks; /* one byte each, or eng_tv_all_marked, or NULL */
    size_t n;
};

struct eng_tlist;
struct eng_tdict;
struct eng_tnode;
struct eng_tscope;

struct eng_tv {
    uint8_t kind;
    bool marked; /* a number made from message text */
    bool safe; /* a string that the filter `safe` made: "+" escapes what it is joined with, as markupsafe does
                */
    union {
        bool b;
        int64_t i;
        double f;
        struct eng_tstr s;
        struct eng_tlist *list;
        struct eng_tdict *dict; /* DICT, NAMESPACE */
        struct eng_tloop *loop;
        struct eng_tmacro *macro;
        struct eng_tmethod *method;
        int function;
        const char *name; /* UNDEFINED: what was not there; NULL */
    };
};

enum eng_tlist_kind { ENG_TLIST, ENG_TTUPLE, ENG_TGENERATOR };

struct eng_tlist {
    struct eng_tv *v;
    size_t n, cap;
    enum eng_tlist_kind kind;
};

struct eng_tpair {
    struct eng_tv key, value;
};

struct eng_tdict {
    struct eng_tpair *v; /* in the order of insertion */
    size_t n, cap;
};

struct eng_tloop {
    size_t index0;
    const struct eng_tlist *items;
};

struct eng_tmacro {
    const struct eng_tnode *node; /* MACRO or CALL_BLOCK */
    struct eng_tscope *scope;     /* where it was defined */
};

struct eng_tmethod {
    struct eng_tv object;
    const char *name;
};

/* ---- the tree ---- */

enum eng_tnode_kind {
    /* statements */
    ENG_TN_TEXT,
    ENG_TN_OUTPUT,       /* a */
    ENG_TN_IF,           /* a: condition, NULL for else; body; b: next branch */
    ENG_TN_FOR,          /* a: target, b: iterable, c: filter, body, d: else body */
    ENG_TN_SET,          /* a: target, b: value */
    ENG_TN_SET_BLOCK,    /* a: target, b: filter over CAPTURED or NULL, body */
    ENG_TN_MACRO,        /* name, a: PARAM list, body */
    ENG_TN_CALL_BLOCK,   /* a: PARAM list of the caller, b: call, body */
    ENG_TN_FILTER_BLOCK, /* b: filter over CAPTURED, body */
    ENG_TN_WITH,         /* a: SET list, body */
    ENG_TN_BLOCK,        /* body */
    ENG_TN_BREAK,
    ENG_TN_CONTINUE,
    ENG_TN_PARAM, /* name, a: default or NULL */
    /* expressions */
    ENG_TN_CONST,   /* value */
    ENG_TN_NAME,    /* name */
    ENG_TN_ATTR,    /* a.name */
    ENG_TN_ITEM,    /* a[b] */
    ENG_TN_SLICE,   /* a[b:c:d] */
    ENG_TN_CALL,    /* a(b...) */
    ENG_TN_KEYWORD, /* name=a, in an argument list */
    ENG_TN_FILTER,  /* a|name(b...) */
    ENG_TN_TEST,    /* a is name(b...); op 1: is not */
    ENG_TN_MATH,    /* a, then b list with op each: left to right */
    ENG_TN_COMPARE, /* the same, as a chain */
    ENG_TN_AND,     /* b list */
    ENG_TN_OR,
    ENG_TN_NOT,
    ENG_TN_NEGATE,
    ENG_TN_PLUS,
    ENG_TN_COND,    /* b if a else c */
    ENG_TN_LIST,    /* b list; op 1: tuple */
    ENG_TN_DICT,    /* b list: key, value, key, value */
    ENG_TN_CAPTURED /* the text that a block caught */
};

/* Operators are their characters; two of them as ENG_OP2. */
#define ENG_OP2(a, b) ((unsigned)(a) << 8 | (unsigned)(b))
#define ENG_OP_IN     ENG_OP2('i', 'n')
#define ENG_OP_NOT_IN ENG_OP2('!', 'n')

struct eng_tname {
    struct eng_tname *next; /* in its hash bucket */
    const char *text;       /* NUL-terminated; names compare by address */
    size_t n;
};

struct eng_tnode {
    uint8_t kind;
    uint16_t op; /* of this operand */
    uint32_t line;
    const struct eng_tname *name;
    struct eng_tnode *a, *b, *c, *d, *body;
    struct eng_tnode *next; /* in its list */
    struct eng_tv value;
};

#define ENG_TNAME_BUCKETS 256u

struct eng_template {
    struct base_arena *arena;
    struct eng_tname *names[ENG_TNAME_BUCKETS];
    struct eng_tnode *body;
};

/* NULL when memory is gone (intern) or the name never stands in the template (find). */
const struct eng_tname *eng_tname_intern(struct eng_template *tmpl, const char *text, size_t n);
const struct eng_tname *eng_tname_find(const struct eng_template *tmpl, const char *text, size_t n);

/* ---- lexemes ---- */

enum eng_lex_kind {
    ENG_LEX_END,
    ENG_LEX_TEXT,
    ENG_LEX_VAR_BEGIN,
    ENG_LEX_VAR_END,
    ENG_LEX_BLOCK_BEGIN,
    ENG_LEX_BLOCK_END,
    ENG_LEX_NAME,
    ENG_LEX_STR, /* with its quotes */
    ENG_LEX_INT,
    ENG_LEX_FLOAT,
    ENG_LEX_OP
};

struct eng_lex {
    uint8_t kind;
    uint16_t op;
    uint32_t start, end; /* in the text */
};

/* Lexes a whole template (line ends already "\n"); *ret_lex is freed with free() and ends with ENG_LEX_END.
 */
enum base_code eng_template_lex(const char *text, size_t len, struct eng_lex **ret_lex, struct base_err *err);
/* BASE_INVALID "template line L, column C: ..." */
enum base_code eng_template_syntax(struct base_err *err, const char *text, size_t pos, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
enum base_code eng_template_parse(struct eng_template *tmpl, const char *text, const struct eng_lex *lex,
                                  struct base_err *err);

/* ---- rendering ---- */

struct eng_tvar {
    const struct eng_tname *name;
    struct eng_tv value;
};

struct eng_tscope {
    struct eng_tscope *parent;
    struct eng_tvar *v;
    size_t n, cap;
};

/* Growing text with marks. */
struct eng_tsink {
    char *p;
    uint8_t *marks;
    size_t n, cap;
    bool any_marked;
};

struct eng_trender {
    const struct eng_template *tmpl;
    struct base_arena *arena;
    struct base_err *err;
    enum base_code rc; /* not BASE_OK: unwind */
    bool raised;       /* by raise_exception */
    uint32_t steps, depth;
    uint32_t line; /* of the statement that runs */
    int64_t now_wall_us;
    struct eng_tscope *globals;
    struct eng_tsink *sink;
    struct eng_tv captured;
};

/* Starts a rendering; end it with eng_trender_end. */
void eng_trender_begin(struct eng_trender *r, const struct eng_template *tmpl, int64_t now_wall_us,
                       struct base_err *err);
void eng_trender_end(struct eng_trender *r);
void eng_trender_set(struct eng_trender *r, const char *name, struct eng_tv value);
/* Runs the template and appends to `out`. */
enum base_code eng_trender_run(struct eng_trender *r, struct base_buf *out,
                               struct eng_template_span **ret_spans, size_t *ret_n_spans);

/* Sets the failure (the first one stays) and returns undefined. */
struct eng_tv eng_tr_fail(struct eng_trender *r, enum base_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Counts n steps; false past the limit or after a failure. */
bool eng_tr_step(struct eng_trender *r, size_t n);
bool eng_tr_enter(struct eng_trender *r);
void eng_tr_leave(struct eng_trender *r);
void *eng_tr_alloc(struct eng_trender *r, size_t size); /* NULL: failed */

/* template_value.c */
struct eng_tv eng_tv_none(void);
struct eng_tv eng_tv_bool(bool b);
struct eng_tv eng_tv_int(int64_t i);
struct eng_tv eng_tv_float(double f);
struct eng_tv eng_tv_undefined(const char *name);
/* Borrows p for the rendering. */
struct eng_tv eng_tv_str(const char *p, size_t n, bool from_message);
struct eng_tv eng_tv_text(const char *literal);
struct eng_tv eng_tv_slice(struct eng_tstr s, size_t from, size_t to); /* bytes */
struct eng_tv eng_tv_list(struct eng_trender *r, enum eng_tlist_kind kind, size_t room);
void eng_tv_append(struct eng_trender *r, struct eng_tlist *list, struct eng_tv v);
struct eng_tv eng_tv_dict(struct eng_trender *r, size_t room);
void eng_tv_put(struct eng_trender *r, struct eng_tdict *dict, struct eng_tv key, struct eng_tv value);
const struct eng_tv *eng_tv_get(struct eng_trender *r, const struct eng_tdict *dict,
                                struct eng_tv key); /* NULL */
bool eng_tv_true(struct eng_tv v);
bool eng_tv_is_marked(struct eng_tv v); /* any byte of a string, or a number made from one */
bool eng_tv_equal(struct eng_trender *r, struct eng_tv a, struct eng_tv b);
/* <0, 0, >0; fails for kinds that have no order. */
int eng_tv_compare(struct eng_trender *r, struct eng_tv a, struct eng_tv b);
const char *eng_tv_kind_name(struct eng_tv v);
struct eng_tv eng_tv_to_str(struct eng_trender *r, struct eng_tv v); /* Python's str() */
size_t eng_tv_chars(const struct eng_tstr *s);                       /* code points */
/* What a for loop sees: a list of a list's items, a dict's keys, a string's characters. Fails for other
 * kinds. */
const struct eng_tlist *eng_tv_iterate(struct eng_trender *r, struct eng_tv v);
static inline bool eng_tstr_marked(const struct eng_tstr *s, size_t i)
{
    return s->marks != NULL && (s->marks == eng_tv_all_marked || s->marks[i] != 0);
}
static inline bool eng_tstr_is(const struct eng_tstr *s, const char *text)
{
    return s->n == __builtin_strlen(text) && __builtin_memcmp(s->p, text, s->n) == 0;
}

void eng_tsink_add(struct eng_trender *r, struct eng_tsink *sink, struct eng_tstr s);
void eng_tsink_bytes(struct eng_trender *r, struct eng_tsink *sink, const char *p, size_t n, bool marked);
void eng_tsink_lit(struct eng_trender *r, struct eng_tsink *sink, const char *text);
void eng_tsink_print(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v); /* str() */
struct eng_tv eng_tsink_take(struct eng_tsink *sink);

struct eng_tjson {
    bool ascii, sort_keys;
    int indent; /* -1: one line */
    struct eng_tstr item_sep, key_sep;
};
void eng_tsink_json(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v,
                    const struct eng_tjson *how, unsigned level);

/* Arguments of a call. */
struct eng_targs {
    struct eng_tv *v;
    size_t n;
    const struct eng_tname **names; /* of keyword arguments, which follow the n positional ones in v */
    size_t n_named;
};
/* The argument at `place` or with that name; NULL. */
const struct eng_tv *eng_targ(const struct eng_targs *args, size_t place, const char *name);

/* template_eval.c */
struct eng_tv eng_tr_eval(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node);
struct eng_tv eng_tr_call(struct eng_trender *r, struct eng_tv fn, const struct eng_targs *args);
struct eng_tv eng_tr_attr(struct eng_trender *r, struct eng_tv v, const char *name);
struct eng_tv eng_tr_item(struct eng_trender *r, struct eng_tv v, struct eng_tv key);
struct eng_tv eng_tr_math(struct eng_trender *r, unsigned op, struct eng_tv a, struct eng_tv b);
bool eng_tr_contains(struct eng_trender *r, struct eng_tv item, struct eng_tv container);

/* template_run.c */
struct eng_tv eng_tr_call_macro(struct eng_trender *r, struct eng_tmacro *macro, const struct eng_targs *args,
                                const struct eng_tv *caller);
struct eng_tscope *eng_tscope_new(struct eng_trender *r, struct eng_tscope *parent);
void eng_tscope_set(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tname *name,
                    struct eng_tv v);
const struct eng_tv *eng_tscope_get(struct eng_trender *r, const struct eng_tscope *scope,
                                    const struct eng_tname *name);

/* template_filter.c */
struct eng_tv eng_tr_filter(struct eng_trender *r, const char *name, struct eng_tv v,
                            const struct eng_targs *args);
bool eng_tr_test(struct eng_trender *r, const char *name, struct eng_tv v, const struct eng_targs *args);

/* template_method.c */
bool eng_tmethod_exists(struct eng_tv v, const char *name);
struct eng_tv eng_tr_method(struct eng_trender *r, struct eng_tv v, const char *name,
                            const struct eng_targs *args);
int eng_tfunction_find(const char *name); /* -1 */
struct eng_tv eng_tr_function(struct eng_trender *r, int function, const struct eng_targs *args);
/* Strings, shared with filters; marks are carried over. */
struct eng_tv eng_tstr_strip(struct eng_trender *r, struct eng_tstr s, const struct eng_tstr *chars,
                             bool left, bool right);
struct eng_tv eng_tstr_replace(struct eng_trender *r, struct eng_tstr s, struct eng_tstr from,
                               struct eng_tstr to, int64_t max);
struct eng_tv eng_tstr_escape(struct eng_trender *r, struct eng_tv v); /* HTML */
enum eng_tcase { ENG_CASE_LOWER, ENG_CASE_UPPER, ENG_CASE_TITLE, ENG_CASE_CAPITAL };
struct eng_tv eng_tstr_case(struct eng_trender *r, struct eng_tstr s, enum eng_tcase how);
int64_t eng_tstr_find(struct eng_trender *r, struct eng_tstr s, struct eng_tstr what,
                      size_t from); /* byte; -1 */

#endif
