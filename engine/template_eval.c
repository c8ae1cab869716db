/* Chat templates: expressions. See template_priv.h; semantics are Jinja2's with its default Undefined:
 * printing one gives nothing, asking it for anything raises. */
#include "engine/template_priv.h"

#include "base/mem.h"
#include "base/str.h"

#include <math.h>
#include <string.h>

static struct eng_tv undefined_error(struct eng_trender *r, struct eng_tv v)
{
    return eng_tr_fail(r, BASE_INVALID, "'%s' is undefined", v.name != NULL ? v.name : "value");
}

/* ---- attributes and items ---- */

static struct eng_tv loop_attr(struct eng_trender *r, const struct eng_tloop *loop, const char *name)
{
    size_t i = loop->index0, n = loop->items->n;

    if (strcmp(name, "index") == 0)
        return eng_tv_int((int64_t)i + 1);
    if (strcmp(name, "index0") == 0)
        return eng_tv_int((int64_t)i);
    if (strcmp(name, "first") == 0)
        return eng_tv_bool(i == 0);
    if (strcmp(name, "last") == 0)
        return eng_tv_bool(i + 1 == n);
    if (strcmp(name, "length") == 0)
        return eng_tv_int((int64_t)n);
    if (strcmp(name, "revindex") == 0)
        return eng_tv_int((int64_t)(n - i));
    if (strcmp(name, "revindex0") == 0)
        return eng_tv_int((int64_t)(n - i) - 1);
    if (strcmp(name, "previtem") == 0)
        return i > 0 ? loop->items->v[i - 1] : eng_tv_undefined("previtem");
    if (strcmp(name, "nextitem") == 0)
        return i + 1 < n ? loop->items->v[i + 1] : eng_tv_undefined("nextitem");
    if (strcmp(name, "cycle") == 0) {
        struct eng_tmethod *method = eng_tr_alloc(r, sizeof(*method));

        if (method == NULL)
            return eng_tv_undefined(name);
        method->object = (struct eng_tv){.kind = ENG_TV_LOOP, .loop = (struct eng_tloop *)(uintptr_t)loop};
        method->name = "cycle";
        return (struct eng_tv){.kind = ENG_TV_METHOD, .method = method};
    }
    return eng_tv_undefined(name);
}

static struct eng_tv bound_method(struct eng_trender *r, struct eng_tv v, const char *name)
{
    struct eng_tmethod *method = eng_tr_alloc(r, sizeof(*method));

    if (method == NULL)
        return eng_tv_undefined(name);
    method->object = v;
    method->name = name;
    return (struct eng_tv){.kind = ENG_TV_METHOD, .method = method};
}

/* v.name: a method first, then an item of that name. */
struct eng_tv eng_tr_attr(struct eng_trender *r, struct eng_tv v, const char *name)
{
    const struct eng_tv *found = NULL;

    if (v.kind == ENG_TV_UNDEFINED)
        return undefined_error(r, v);
    if (v.kind == ENG_TV_LOOP)
        return loop_attr(r, v.loop, name);
    if (eng_tmethod_exists(v, name))
        return bound_method(r, v, name);
    if (v.kind == ENG_TV_DICT || v.kind == ENG_TV_NAMESPACE)
        found = eng_tv_get(r, v.dict, eng_tv_text(name));
    if (v.kind == ENG_TV_MACRO && strcmp(name, "name") == 0 && v.macro->node->name != NULL)
        return eng_tv_str(v.macro->node->name->text, v.macro->node->name->n, false);
    return found != NULL ? *found : eng_tv_undefined(name);
}

/* Byte offset of a character; s.n past the end. */
static size_t char_offset(const struct eng_tstr *s, size_t index)
{
    size_t i = 0;

    while (i < s->n) {
        if (((unsigned char)s->p[i] & 0xc0) != 0x80 && index-- == 0)
            break;
        i++;
    }
    return i;
}

static struct eng_tv str_item(struct eng_trender *r, struct eng_tstr s, int64_t index)
{
    size_t n, from;
    uint32_t cp;

    if (!eng_tr_step(r, s.n / 16))
        return eng_tv_undefined(NULL);
    n = eng_tv_chars(&s);
    if (index < 0)
        index += (int64_t)n;
    if (index < 0 || (uint64_t)index >= n)
        return eng_tv_undefined("character");
    from = char_offset(&s, (size_t)index);
    return eng_tv_slice(s, from, from + base_utf8_decode(s.p + from, s.n - from, &cp));
}

/* A NUL-terminated copy of a name that came as a value, or NULL when it is no name. `ret_said` is what an error may say of it:
 * never message text. */
static const char *key_text(struct eng_trender *r, struct eng_tv key, const char **ret_said)
{
    char *copy = key.s.n < 256 ? eng_tr_alloc(r, key.s.n + 1) : NULL;

    *ret_said = "item";
    if (copy == NULL || memchr(key.s.p, '\0', key.s.n) != NULL)
        return NULL;
    memcpy(copy, key.s.p, key.s.n);
    if (!eng_tv_is_marked(key))
        *ret_said = copy;
    return copy;
}

/* v[key]: an item first, then an attribute of that name. */
struct eng_tv eng_tr_item(struct eng_trender *r, struct eng_tv v, struct eng_tv key)
{
    const char *name, *said;
    const struct eng_tv *found;
    int64_t i = key.kind == ENG_TV_BOOL ? key.b : key.i;

    if (r->rc != BASE_OK)
        return eng_tv_undefined(NULL);
    if (v.kind == ENG_TV_UNDEFINED)
        return undefined_error(r, v);
    if (v.kind == ENG_TV_DICT) {
        found = eng_tv_get(r, v.dict, key);
        if (found != NULL)
            return *found;
    } else if (key.kind == ENG_TV_INT || key.kind == ENG_TV_BOOL) {
        if (v.kind == ENG_TV_STR)
            return str_item(r, v.s, i);
        if (v.kind != ENG_TV_LIST || v.list->kind == ENG_TGENERATOR)
            return eng_tv_undefined("item");
        if (i < 0)
            i += (int64_t)v.list->n;
        return i >= 0 && (uint64_t)i < v.list->n ? v.list->v[i] : eng_tv_undefined("item");
    }
    if (key.kind == ENG_TV_STR && (name = key_text(r, key, &said)) != NULL) {
        struct eng_tv out = v.kind == ENG_TV_DICT && !eng_tmethod_exists(v, name) ? eng_tv_undefined(said)
                                                                                  : eng_tr_attr(r, v, name);

        if (out.kind == ENG_TV_UNDEFINED)
            out.name = said;
        return out;
    }
    return eng_tv_undefined("item");
}

/* Python's slice bounds for a sequence of n. */
static bool slice_bounds(struct eng_trender *r, const struct eng_tv part[3], int64_t n, int64_t ret[3])
{
    int64_t step = 1, low, high;

    for (int i = 0; i < 3; i++)
        if (part[i].kind != ENG_TV_NONE && part[i].kind != ENG_TV_INT && part[i].kind != ENG_TV_BOOL) {
            eng_tr_fail(r, BASE_INVALID, "slice index is '%s'", eng_tv_kind_name(part[i]));
            return false;
        }
    if (part[2].kind != ENG_TV_NONE)
        step = part[2].kind == ENG_TV_BOOL ? part[2].b : part[2].i;
    if (step == 0) {
        eng_tr_fail(r, BASE_INVALID, "slice step cannot be zero");
        return false;
    }
    if (step > n + 1)
        step = n + 1; /* keeps the additions below in range */
    if (step < -n - 1)
        step = -n - 1;
    low = step > 0 ? 0 : -1;
    high = step > 0 ? n : n - 1;
    for (int i = 0; i < 2; i++) {
        int64_t at = part[i].kind == ENG_TV_BOOL ? part[i].b : part[i].i;

        if (part[i].kind == ENG_TV_NONE)
            at = (i == 0) == (step > 0) ? low : high;
        else {
            if (at < 0)
                at = at < -n ? low : at + n;
            at = at < low ? low : at > high ? high : at;
        }
        ret[i] = at;
    }
    ret[2] = step;
    return true;
}

static struct eng_tv slice_str(struct eng_trender *r, struct eng_tstr s, const int64_t at[3])
{
    const struct eng_tlist *chars;
    struct eng_tsink sink = {0};

    if (at[2] == 1) {
        size_t from = char_offset(&s, (size_t)at[0]),
               to = at[1] > at[0] ? char_offset(&s, (size_t)at[1]) : from;

        return eng_tv_slice(s, from, to);
    }
    chars = eng_tv_iterate(r, (struct eng_tv){.kind = ENG_TV_STR, .s = s});
    for (int64_t i = at[0]; chars != NULL && (at[2] > 0 ? i < at[1] : i > at[1]) && eng_tr_step(r, 1);
         i += at[2])
        eng_tsink_add(r, &sink, chars->v[i].s);
    return eng_tsink_take(&sink);
}

static struct eng_tv slice(struct eng_trender *r, struct eng_tv v, const struct eng_tv part[3])
{
    int64_t at[3];
    struct eng_tv out;

    if (v.kind == ENG_TV_UNDEFINED)
        return undefined_error(r, v);
    if (v.kind == ENG_TV_STR) {
        if (!eng_tr_step(r, v.s.n / 16) || !slice_bounds(r, part, (int64_t)eng_tv_chars(&v.s), at))
            return eng_tv_undefined(NULL);
        return slice_str(r, v.s, at);
    }
    if (v.kind != ENG_TV_LIST || v.list->kind == ENG_TGENERATOR)
        return eng_tr_fail(r, BASE_INVALID, "'%s' object cannot be sliced", eng_tv_kind_name(v));
    if (!slice_bounds(r, part, (int64_t)v.list->n, at))
        return eng_tv_undefined(NULL);
    out = eng_tv_list(r, v.list->kind, 0);
    for (int64_t i = at[0]; (at[2] > 0 ? i < at[1] : i > at[1]) && eng_tr_step(r, 1); i += at[2])
        eng_tv_append(r, out.list, v.list->v[i]);
    return out;
}

/* ---- operators ---- */

static bool is_number(struct eng_tv v)
{
    return v.kind == ENG_TV_INT || v.kind == ENG_TV_FLOAT || v.kind == ENG_TV_BOOL;
}

static double as_double(struct eng_tv v)
{
    return v.kind == ENG_TV_FLOAT ? v.f : v.kind == ENG_TV_BOOL ? (double)v.b : (double)v.i;
}

static struct eng_tv too_large(struct eng_trender *r)
{
    return eng_tr_fail(r, BASE_TOO_LARGE, "integer passes 64 bits");
}

static struct eng_tv int_power(struct eng_trender *r, int64_t base, int64_t exponent)
{
    int64_t out = 1;

    if (exponent < 0)
        return eng_tv_float(pow((double)base, (double)exponent));
    if (base == 0 || base == 1)
        return eng_tv_int(exponent == 0 ? 1 : base);
    if (base == -1)
        return eng_tv_int(exponent % 2 == 0 ? 1 : -1);
    for (; exponent > 0; exponent--) /* at most 63 rounds before it overflows */
        if (__builtin_mul_overflow(out, base, &out))
            return too_large(r);
    return eng_tv_int(out);
}

static struct eng_tv int_math(struct eng_trender *r, unsigned op, int64_t x, int64_t y)
{
    int64_t out = 0;
    bool overflow = false;

    switch (op) {
    case '+': overflow = __builtin_add_overflow(x, y, &out); break;
    case '-': overflow = __builtin_sub_overflow(x, y, &out); break;
    case '*': overflow = __builtin_mul_overflow(x, y, &out); break;
    case ENG_OP2('*', '*'): return int_power(r, x, y);
    default:
        if (y == 0)
            return eng_tr_fail(r, BASE_INVALID, "division by zero");
        if (op == '/')
            return eng_tv_float((double)x / (double)y);
        if (y == -1) { /* INT64_MIN / -1 traps */
            overflow = op != '%' && x == INT64_MIN;
            out = op == '%' || overflow ? 0 : -x;
            break;
        }
        out = op == '%' ? x % y : x / y;
        if (x % y != 0 && (x < 0) != (y < 0)) /* Python rounds down */
            out += op == '%' ? y : -1;
    }
    return overflow ? too_large(r) : eng_tv_int(out);
}

static struct eng_tv float_math(struct eng_trender *r, unsigned op, double x, double y)
{
    switch (op) {
    case '+': return eng_tv_float(x + y);
    case '-': return eng_tv_float(x - y);
    case '*': return eng_tv_float(x * y);
    case ENG_OP2('*', '*'): return eng_tv_float(pow(x, y));
    default: break;
    }
    if (y == 0.0)
        return eng_tr_fail(r, BASE_INVALID, "division by zero");
    if (op == '/')
        return eng_tv_float(x / y);
    return eng_tv_float(op == '%' ? x - y * floor(x / y) : floor(x / y));
}

static struct eng_tv concat(struct eng_trender *r, struct eng_tv a, struct eng_tv b)
{
    struct eng_tsink sink = {0};

    eng_tsink_print(r, &sink, a);
    eng_tsink_print(r, &sink, b);
    return eng_tsink_take(&sink);
}

static struct eng_tv add_strings(struct eng_trender *r, struct eng_tv a, struct eng_tv b)
{
    bool safe = a.safe || b.safe;
    struct eng_tv out;

    if (!safe)
        return concat(r, a, b);
    out = concat(r, eng_tstr_escape(r, a), eng_tstr_escape(r, b));
    out.safe = true;
    return out;
}

static struct eng_tv repeat(struct eng_trender *r, struct eng_tv v, struct eng_tv times)
{
    int64_t n = times.kind == ENG_TV_BOOL ? times.b : times.i;
    struct eng_tsink sink = {0};
    struct eng_tv out;

    if (v.kind == ENG_TV_STR) {
        for (int64_t i = 0; i < n && v.s.n > 0 && eng_tr_step(r, 1); i++)
            eng_tsink_add(r, &sink, v.s);
        return eng_tsink_take(&sink);
    }
    out = eng_tv_list(r, v.list->kind, 0);
    for (int64_t i = 0; i < n && v.list->n > 0 && eng_tr_step(r, 1); i++)
        for (size_t k = 0; k < v.list->n && eng_tr_step(r, 1); k++)
            eng_tv_append(r, out.list, v.list->v[k]);
    return out;
}

static struct eng_tv join_lists(struct eng_trender *r, const struct eng_tlist *a, const struct eng_tlist *b)
{
    struct eng_tv out = eng_tv_list(r, a->kind, a->n + b->n);

    if (!eng_tr_step(r, (a->n + b->n) / 8))
        return out;
    for (size_t i = 0; i < a->n; i++)
        eng_tv_append(r, out.list, a->v[i]);
    for (size_t i = 0; i < b->n; i++)
        eng_tv_append(r, out.list, b->v[i]);
    return out;
}

struct eng_tv eng_tr_math(struct eng_trender *r, unsigned op, struct eng_tv a, struct eng_tv b)
{
    struct eng_tv out;

    if (r->rc != BASE_OK)
        return eng_tv_undefined(NULL);
    if (op == '~')
        return concat(r, a, b);
    if (is_number(a) && is_number(b)) {
        if (a.kind == ENG_TV_FLOAT || b.kind == ENG_TV_FLOAT)
            out = float_math(r, op, as_double(a), as_double(b));
        else
            out = int_math(r, op, a.kind == ENG_TV_BOOL ? a.b : a.i, b.kind == ENG_TV_BOOL ? b.b : b.i);
        out.marked = a.marked || b.marked;
        return out;
    }
    if (op == '+' && a.kind == ENG_TV_STR && b.kind == ENG_TV_STR)
        return add_strings(r, a, b);
    if (op == '+' && a.kind == ENG_TV_LIST && b.kind == ENG_TV_LIST && a.list->kind == b.list->kind &&
        a.list->kind != ENG_TGENERATOR)
        return join_lists(r, a.list, b.list);
    if (op == '*' && (a.kind == ENG_TV_STR || a.kind == ENG_TV_LIST) &&
        (b.kind == ENG_TV_INT || b.kind == ENG_TV_BOOL))
        return repeat(r, a, b);
    if (op == '*' && (b.kind == ENG_TV_STR || b.kind == ENG_TV_LIST) &&
        (a.kind == ENG_TV_INT || a.kind == ENG_TV_BOOL))
        return repeat(r, b, a);
    if (a.kind == ENG_TV_UNDEFINED || b.kind == ENG_TV_UNDEFINED)
        return undefined_error(r, a.kind == ENG_TV_UNDEFINED ? a : b);
    return eng_tr_fail(r, BASE_INVALID, "operator between '%s' and '%s'", eng_tv_kind_name(a),
                       eng_tv_kind_name(b));
}

bool eng_tr_contains(struct eng_trender *r, struct eng_tv item, struct eng_tv container)
{
    if (r->rc != BASE_OK)
        return false;
    switch (container.kind) {
    case ENG_TV_STR:
        if (item.kind != ENG_TV_STR) {
            eng_tr_fail(r, BASE_INVALID, "'in <string>' needs a string, not '%s'", eng_tv_kind_name(item));
            return false;
        }
        return eng_tstr_find(r, container.s, item.s, 0) >= 0;
    case ENG_TV_DICT: return eng_tv_get(r, container.dict, item) != NULL;
    case ENG_TV_LIST:
        for (size_t i = 0; i < container.list->n && eng_tr_step(r, 1); i++)
            if (eng_tv_equal(r, item, container.list->v[i]))
                return true;
        return false;
    case ENG_TV_UNDEFINED: return false;
    default:
        eng_tr_fail(r, BASE_INVALID, "argument of type '%s' is not iterable", eng_tv_kind_name(container));
        return false;
    }
}

static bool compare(struct eng_trender *r, unsigned op, struct eng_tv a, struct eng_tv b)
{
    if (op == ENG_OP2('=', '='))
        return eng_tv_equal(r, a, b);
    if (op == ENG_OP2('!', '='))
        return !eng_tv_equal(r, a, b);
    if (op == ENG_OP_IN)
        return eng_tr_contains(r, a, b);
    if (op == ENG_OP_NOT_IN)
        return !eng_tr_contains(r, a, b);
    if (a.kind == ENG_TV_UNDEFINED || b.kind == ENG_TV_UNDEFINED) {
        undefined_error(r, a.kind == ENG_TV_UNDEFINED ? a : b);
        return false;
    }
    switch (op) {
    case '<': return eng_tv_compare(r, a, b) < 0;
    case '>': return eng_tv_compare(r, a, b) > 0;
    case ENG_OP2('<', '='): return eng_tv_compare(r, a, b) <= 0;
    default: return eng_tv_compare(r, a, b) >= 0;
    }
}

/* ---- calls ---- */

const struct eng_tv *eng_targ(const struct eng_targs *args, size_t place, const char *name)
{
    if (place < args->n)
        return &args->v[place];
    for (size_t i = 0; name != NULL && i < args->n_named; i++)
        if (strcmp(args->names[i]->text, name) == 0)
            return &args->v[args->n + i];
    return NULL;
}

static bool eval_args(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *list,
                      struct eng_targs *ret)
{
    size_t n = 0;

    *ret = (struct eng_targs){0};
    for (const struct eng_tnode *a = list; a != NULL; a = a->next)
        n++;
    if (n == 0)
        return r->rc == BASE_OK;
    ret->v = eng_tr_alloc(r, n * sizeof(*ret->v));
    ret->names = eng_tr_alloc(r, n * sizeof(*ret->names));
    if (ret->v == NULL || ret->names == NULL)
        return false;
    for (const struct eng_tnode *a = list; a != NULL; a = a->next) {
        if (a->kind == ENG_TN_KEYWORD) {
            ret->names[ret->n_named] = a->name;
            ret->v[ret->n + ret->n_named++] = eng_tr_eval(r, scope, a->a);
        } else
            ret->v[ret->n++] = eng_tr_eval(r, scope, a);
        if (r->rc != BASE_OK)
            return false;
    }
    return true;
}

struct eng_tv eng_tr_call(struct eng_trender *r, struct eng_tv fn, const struct eng_targs *args)
{
    struct eng_tv out = eng_tv_undefined(NULL);

    if (!eng_tr_enter(r))
        return out;
    if (fn.kind == ENG_TV_METHOD)
        out = eng_tr_method(r, fn.method->object, fn.method->name, args);
    else if (fn.kind == ENG_TV_MACRO)
        out = eng_tr_call_macro(r, fn.macro, args, NULL);
    else if (fn.kind == ENG_TV_FUNCTION)
        out = eng_tr_function(r, fn.function, args);
    else if (fn.kind == ENG_TV_UNDEFINED)
        undefined_error(r, fn);
    else
        eng_tr_fail(r, BASE_INVALID, "'%s' object is not callable", eng_tv_kind_name(fn));
    eng_tr_leave(r);
    return out;
}

static struct eng_tv eval_call(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv fn = eng_tr_eval(r, scope, node->a);
    struct eng_targs args;

    if (r->rc != BASE_OK || !eval_args(r, scope, node->b, &args))
        return eng_tv_undefined(NULL);
    return eng_tr_call(r, fn, &args);
}

static struct eng_tv eval_filter(struct eng_trender *r, struct eng_tscope *scope,
                                 const struct eng_tnode *node)
{
    struct eng_tv v = eng_tr_eval(r, scope, node->a);
    struct eng_targs args;

    if (r->rc != BASE_OK || !eval_args(r, scope, node->b, &args))
        return eng_tv_undefined(NULL);
    return eng_tr_filter(r, node->name->text, v, &args);
}

static struct eng_tv eval_test(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv v = eng_tr_eval(r, scope, node->a);
    struct eng_targs args;

    if (r->rc != BASE_OK || !eval_args(r, scope, node->b, &args))
        return eng_tv_undefined(NULL);
    return eng_tv_bool(eng_tr_test(r, node->name->text, v, &args) != (node->op != 0));
}

/* ---- nodes ---- */

static struct eng_tv eval_name(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    const struct eng_tv *found = eng_tscope_get(r, scope, node->name);
    int function;

    if (found != NULL)
        return *found;
    function = eng_tfunction_find(node->name->text);
    if (function >= 0)
        return (struct eng_tv){.kind = ENG_TV_FUNCTION, .function = function};
    return eng_tv_undefined(node->name->text);
}

static struct eng_tv eval_list(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv out = eng_tv_list(r, node->op != 0 ? ENG_TTUPLE : ENG_TLIST, 0);

    for (const struct eng_tnode *item = node->b; item != NULL && r->rc == BASE_OK; item = item->next)
        eng_tv_append(r, out.list, eng_tr_eval(r, scope, item));
    return out;
}

static struct eng_tv eval_dict(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv out = eng_tv_dict(r, 0);

    for (const struct eng_tnode *item = node->b; item != NULL && r->rc == BASE_OK; item = item->next->next) {
        struct eng_tv key = eng_tr_eval(r, scope, item), value = eng_tr_eval(r, scope, item->next);

        eng_tv_put(r, out.dict, key, value);
    }
    return out;
}

static struct eng_tv eval_math(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv v = eng_tr_eval(r, scope, node->a);

    for (const struct eng_tnode *next = node->b; next != NULL && r->rc == BASE_OK; next = next->next)
        v = eng_tr_math(r, next->op, v, eng_tr_eval(r, scope, next->a));
    return v;
}

static struct eng_tv eval_compare(struct eng_trender *r, struct eng_tscope *scope,
                                  const struct eng_tnode *node)
{
    struct eng_tv left = eng_tr_eval(r, scope, node->a);

    for (const struct eng_tnode *next = node->b; next != NULL && r->rc == BASE_OK; next = next->next) {
        struct eng_tv right = eng_tr_eval(r, scope, next->a);

        if (r->rc == BASE_OK && !compare(r, next->op, left, right))
            return eng_tv_bool(false);
        left = right;
    }
    return eng_tv_bool(true);
}

/* The value that decided, as in Python. */
static struct eng_tv eval_and_or(struct eng_trender *r, struct eng_tscope *scope,
                                 const struct eng_tnode *node)
{
    struct eng_tv v = eng_tv_undefined(NULL);

    for (const struct eng_tnode *item = node->b; item != NULL && r->rc == BASE_OK; item = item->next) {
        v = eng_tr_eval(r, scope, item);
        if (eng_tv_true(v) == (node->kind == ENG_TN_OR))
            break;
    }
    return v;
}

static struct eng_tv eval_sign(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv v = eng_tr_eval(r, scope, node->a);

    if (r->rc != BASE_OK)
        return v;
    if (v.kind == ENG_TV_UNDEFINED)
        return undefined_error(r, v);
    if (!is_number(v))
        return eng_tr_fail(r, BASE_INVALID, "bad operand type for sign: '%s'", eng_tv_kind_name(v));
    return eng_tr_math(r, node->kind == ENG_TN_NEGATE ? '-' : '+', eng_tv_int(0), v);
}

static struct eng_tv eval_cond(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv test = eng_tr_eval(r, scope, node->a);

    if (r->rc != BASE_OK)
        return test;
    if (eng_tv_true(test))
        return eng_tr_eval(r, scope, node->b);
    return node->c != NULL ? eng_tr_eval(r, scope, node->c) : eng_tv_undefined("inline if");
}

static struct eng_tv eval_slice(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv v = eng_tr_eval(r, scope, node->a), part[3];
    const struct eng_tnode *nodes[3] = {node->b, node->c, node->d};

    for (int i = 0; i < 3; i++)
        part[i] = nodes[i] != NULL && r->rc == BASE_OK ? eng_tr_eval(r, scope, nodes[i]) : eng_tv_none();
    return r->rc == BASE_OK ? slice(r, v, part) : v;
}

static struct eng_tv eval_node(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv v;

    switch ((enum eng_tnode_kind)node->kind) {
    case ENG_TN_CONST: return node->value;
    case ENG_TN_NAME: return eval_name(r, scope, node);
    case ENG_TN_CAPTURED: return r->captured;
    case ENG_TN_ATTR:
        v = eng_tr_eval(r, scope, node->a);
        return r->rc == BASE_OK ? eng_tr_attr(r, v, node->name->text) : v;
    case ENG_TN_ITEM:
        v = eng_tr_eval(r, scope, node->a);
        return r->rc == BASE_OK ? eng_tr_item(r, v, eng_tr_eval(r, scope, node->b)) : v;
    case ENG_TN_SLICE: return eval_slice(r, scope, node);
    case ENG_TN_CALL: return eval_call(r, scope, node);
    case ENG_TN_FILTER: return eval_filter(r, scope, node);
    case ENG_TN_TEST: return eval_test(r, scope, node);
    case ENG_TN_MATH: return eval_math(r, scope, node);
    case ENG_TN_COMPARE: return eval_compare(r, scope, node);
    case ENG_TN_AND:
    case ENG_TN_OR: return eval_and_or(r, scope, node);
    case ENG_TN_NOT: return eng_tv_bool(!eng_tv_true(eng_tr_eval(r, scope, node->a)));
    case ENG_TN_NEGATE:
    case ENG_TN_PLUS: return eval_sign(r, scope, node);
    case ENG_TN_COND: return eval_cond(r, scope, node);
    case ENG_TN_LIST: return eval_list(r, scope, node);
    case ENG_TN_DICT: return eval_dict(r, scope, node);
    default: return eng_tr_fail(r, BASE_INTERNAL, "unknown expression");
    }
}

struct eng_tv eng_tr_eval(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv v;

    if (!eng_tr_step(r, 1) || !eng_tr_enter(r))
        return eng_tv_undefined(NULL);
    v = eval_node(r, scope, node);
    eng_tr_leave(r);
    return v;
}
