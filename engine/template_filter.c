/* Chat templates: filters and tests. Source: Jinja2's builtins; tojson as Hugging Face sets it (json.dumps
 * without ASCII escapes). An unknown name fails when it is used, not when the template is compiled: many
 * templates name filters for cases (tools, documents) that a chat does not have. */
#include "engine/template_priv.h"

#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct eng_tv filter_fn(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args);

static bool bool_arg(const struct eng_targs *args, size_t place, const char *name, bool otherwise)
{
    const struct eng_tv *v = eng_targ(args, place, name);

    return v != NULL ? eng_tv_true(*v) : otherwise;
}

/* ---- text ---- */

static struct eng_tv f_trim(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *chars = eng_targ(args, 0, "chars");

    return eng_tstr_strip(r, eng_tv_to_str(r, v).s,
                          chars != NULL && chars->kind == ENG_TV_STR ? &chars->s : NULL, true, true);
}

static struct eng_tv f_string(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return eng_tv_to_str(r, v);
}

static struct eng_tv f_safe(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    v = eng_tv_to_str(r, v);
    v.safe = true;
    return v;
}

static struct eng_tv f_lower(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return eng_tstr_case(r, eng_tv_to_str(r, v).s, ENG_CASE_LOWER);
}

static struct eng_tv f_upper(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return eng_tstr_case(r, eng_tv_to_str(r, v).s, ENG_CASE_UPPER);
}

static struct eng_tv f_title(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return eng_tstr_case(r, eng_tv_to_str(r, v).s, ENG_CASE_TITLE);
}

static struct eng_tv f_capitalize(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return eng_tstr_case(r, eng_tv_to_str(r, v).s, ENG_CASE_CAPITAL);
}

static struct eng_tv f_replace(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *from = eng_targ(args, 0, "old"), *to = eng_targ(args, 1, "new"),
                        *count = eng_targ(args, 2, "count");

    if (from == NULL || to == NULL)
        return eng_tr_fail(r, BASE_INVALID, "replace needs two strings");
    return eng_tstr_replace(r, eng_tv_to_str(r, v).s, eng_tv_to_str(r, *from).s, eng_tv_to_str(r, *to).s,
                            count != NULL && count->kind == ENG_TV_INT ? count->i : -1);
}

/* Lines after the first (and the first, when asked) get blanks; empty ones only when asked. */
static struct eng_tv f_indent(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *width = eng_targ(args, 0, "width");
    bool first = bool_arg(args, 1, "first", false), blank = bool_arg(args, 2, "blank", false);
    struct eng_tstr s = eng_tv_to_str(r, v).s;
    struct eng_tv with = eng_tv_str("                                ", 4, false);
    struct eng_tsink sink = {0};

    if (width != NULL && width->kind == ENG_TV_STR)
        with = *width;
    else if (width != NULL && width->kind == ENG_TV_INT)
        with.s.n = width->i < 0 ? 0 : width->i > 32 ? 32 : (size_t)width->i;
    for (size_t from = 0, to; from <= s.n && eng_tr_step(r, 1); from = to + 1) {
        const char *eol = memchr(s.p + from, '\n', s.n - from);

        to = eol != NULL ? (size_t)(eol - s.p) : s.n;
        if (from == 0 ? first : to > from || blank)
            eng_tsink_add(r, &sink, with.s);
        eng_tsink_add(r, &sink, eng_tv_slice(s, from, to < s.n ? to + 1 : to).s);
    }
    return eng_tsink_take(&sink);
}

static struct eng_tv f_escape(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return eng_tstr_escape(r, eng_tv_to_str(r, v));
}

static struct eng_tv f_tojson(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *indent = eng_targ(args, 1, "indent"), *seps = eng_targ(args, 2, "separators");
    struct eng_tjson how = {.ascii = bool_arg(args, 0, "ensure_ascii", false),
                            .sort_keys = bool_arg(args, 3, "sort_keys", false),
                            .indent = -1,
                            .item_sep = {", ", NULL, 2},
                            .key_sep = {": ", NULL, 2}};
    struct eng_tsink sink = {0};

    if (indent != NULL && indent->kind == ENG_TV_INT) {
        how.indent = indent->i < 0 ? 0 : indent->i > 16 ? 16 : (int)indent->i;
        how.item_sep.n = 1;
    }
    if (seps != NULL && seps->kind == ENG_TV_LIST && seps->list->n == 2 &&
        seps->list->v[0].kind == ENG_TV_STR && seps->list->v[1].kind == ENG_TV_STR) {
        how.item_sep = seps->list->v[0].s;
        how.key_sep = seps->list->v[1].s;
    }
    eng_tsink_json(r, &sink, v, &how, 0);
    return eng_tsink_take(&sink);
}

/* ---- numbers ---- */

/* A number at the start of a text between blanks; false when there is anything else. */
static bool parse_text(struct eng_tstr s, bool want_int, struct eng_tv *ret)
{
    char text[64];
    char *end;

    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\n'))
        s.n--;
    while (s.n > 0 && (*s.p == ' ' || *s.p == '\n'))
        s = eng_tv_slice(s, 1, s.n).s;
    if (s.n == 0 || s.n >= sizeof(text) || memchr("0123456789+-.", s.p[0], 13) == NULL)
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    if (strpbrk(text, "xXpP") != NULL)
        return false;
    errno = 0;
    if (want_int) {
        *ret = eng_tv_int(strtoll(text, &end, 10));
        if (*end == '\0' && errno == 0)
            return true;
    }
    *ret = eng_tv_float(strtod(text, &end));
    if (*end != '\0')
        return false;
    if (want_int && (isnan(ret->f) || fabs(ret->f) > 9e18))
        return false;
    if (want_int)
        *ret = eng_tv_int((int64_t)ret->f);
    return true;
}

static struct eng_tv to_number(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args,
                               bool want_int)
{
    const struct eng_tv *otherwise = eng_targ(args, 0, "default");
    struct eng_tv out = otherwise != NULL ? *otherwise : want_int ? eng_tv_int(0) : eng_tv_float(0);

    if (v.kind == ENG_TV_STR) {
        struct eng_tv parsed;

        if (parse_text(v.s, want_int, &parsed))
            out = parsed;
        out.marked = eng_tv_is_marked(v);
    } else if (v.kind == ENG_TV_BOOL || v.kind == ENG_TV_INT)
        out = want_int ? eng_tv_int(v.kind == ENG_TV_BOOL ? v.b : v.i)
                       : eng_tv_float(v.kind == ENG_TV_BOOL ? (double)v.b : (double)v.i);
    else if (v.kind == ENG_TV_FLOAT && !want_int)
        out = v;
    else if (v.kind == ENG_TV_FLOAT && fabs(v.f) < 9e18)
        out = eng_tv_int((int64_t)v.f);
    if (v.kind != ENG_TV_STR)
        out.marked = v.marked;
    return out;
}

static struct eng_tv f_int(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return to_number(r, v, args, true);
}

static struct eng_tv f_float(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return to_number(r, v, args, false);
}

static struct eng_tv f_abs(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    if (v.kind == ENG_TV_FLOAT)
        return eng_tv_float(fabs(v.f));
    if (v.kind != ENG_TV_INT || v.i == INT64_MIN)
        return eng_tr_fail(r, BASE_INVALID, "abs of '%s'", eng_tv_kind_name(v));
    return eng_tv_int(v.i < 0 ? -v.i : v.i);
}

static struct eng_tv f_round(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *precision = eng_targ(args, 0, "precision");
    double scale = pow(10.0, precision != NULL && precision->kind == ENG_TV_INT ? (double)precision->i : 0.0),
           f;

    if (v.kind != ENG_TV_INT && v.kind != ENG_TV_FLOAT)
        return eng_tr_fail(r, BASE_INVALID, "round of '%s'", eng_tv_kind_name(v));
    f = v.kind == ENG_TV_INT ? (double)v.i : v.f;
    return eng_tv_float(rint(f * scale) / scale);
}

/* ---- sequences ---- */

static struct eng_tv f_default(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *otherwise = eng_targ(args, 0, "default_value");
    bool falsy = bool_arg(args, 1, "boolean", false);

    if (v.kind == ENG_TV_UNDEFINED || (falsy && !eng_tv_true(v)))
        return otherwise != NULL ? *otherwise : eng_tv_text("");
    return v;
}

static struct eng_tv f_length(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    if (v.kind == ENG_TV_UNDEFINED)
        return eng_tv_int(0);
    if (v.kind == ENG_TV_STR) {
        eng_tr_step(r, v.s.n / 32);
        return eng_tv_int((int64_t)eng_tv_chars(&v.s));
    }
    if (v.kind == ENG_TV_DICT)
        return eng_tv_int((int64_t)v.dict->n);
    if (v.kind != ENG_TV_LIST || v.list->kind == ENG_TGENERATOR)
        return eng_tr_fail(r, BASE_INVALID, "object of type '%s' has no len()", eng_tv_kind_name(v));
    return eng_tv_int((int64_t)v.list->n);
}

static struct eng_tv f_list(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);
    struct eng_tv out = eng_tv_list(r, ENG_TLIST, 0);

    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++)
        eng_tv_append(r, out.list, items->v[i]);
    return out;
}

static struct eng_tv f_items(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    static const struct eng_targs none;
    struct eng_tv out;

    if (v.kind == ENG_TV_UNDEFINED)
        return eng_tv_list(r, ENG_TGENERATOR, 0);
    if (v.kind != ENG_TV_DICT)
        return eng_tr_fail(r, BASE_INVALID, "Can only get item pairs from a mapping.");
    out = eng_tr_method(r, v, "items", &none);
    if (r->rc == BASE_OK)
        out.list->kind = ENG_TGENERATOR;
    return out;
}

/* "a.b.0" of an item. */
static struct eng_tv path_of(struct eng_trender *r, struct eng_tv v, struct eng_tv path)
{
    size_t from = 0;

    if (path.kind != ENG_TV_STR)
        return eng_tr_item(r, v, path);
    while (from <= path.s.n && r->rc == BASE_OK) {
        const char *dot = memchr(path.s.p + from, '.', path.s.n - from);
        size_t to = dot != NULL ? (size_t)(dot - path.s.p) : path.s.n;
        struct eng_tv part = eng_tv_slice(path.s, from, to), number;

        if (to > from && path.s.p[from] >= '0' && path.s.p[from] <= '9' && parse_text(part.s, true, &number))
            part = number;
        v = eng_tr_item(r, v, part);
        from = to + 1;
    }
    return v;
}

static struct eng_tv f_join(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *sep = eng_targ(args, 0, "d"), *attribute = eng_targ(args, 1, "attribute");
    const struct eng_tlist *items = eng_tv_iterate(r, v);
    struct eng_tsink sink = {0};

    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++) {
        if (i > 0 && sep != NULL)
            eng_tsink_print(r, &sink, *sep);
        eng_tsink_print(r, &sink, attribute != NULL ? path_of(r, items->v[i], *attribute) : items->v[i]);
    }
    return eng_tsink_take(&sink);
}

static struct eng_tv f_first(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);

    return items != NULL && items->n > 0 ? items->v[0] : eng_tv_undefined("first");
}

static struct eng_tv f_last(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);

    return items != NULL && items->n > 0 ? items->v[items->n - 1] : eng_tv_undefined("last");
}

static struct eng_tv f_reverse(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);
    struct eng_tv out = eng_tv_list(r, ENG_TGENERATOR, 0);
    struct eng_tsink sink = {0};

    for (size_t i = items != NULL ? items->n : 0; i > 0 && eng_tr_step(r, 1); i--) {
        if (v.kind == ENG_TV_STR)
            eng_tsink_add(r, &sink, items->v[i - 1].s);
        else
            eng_tv_append(r, out.list, items->v[i - 1]);
    }
    return v.kind == ENG_TV_STR ? eng_tsink_take(&sink) : out;
}

static struct eng_tv f_map(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *attribute = eng_targ(args, SIZE_MAX, "attribute"),
                        *otherwise = eng_targ(args, SIZE_MAX, "default");
    const struct eng_tlist *items = eng_tv_true(v) ? eng_tv_iterate(r, v) : NULL; /* None maps to nothing */
    struct eng_tv out = eng_tv_list(r, ENG_TGENERATOR, 0);
    struct eng_targs rest = {0};
    char name[64] = "";

    if (attribute == NULL) {
        if (args->n == 0 || args->v[0].kind != ENG_TV_STR || args->v[0].s.n >= sizeof(name))
            return eng_tr_fail(r, BASE_INVALID, "map needs a filter");
        memcpy(name, args->v[0].s.p, args->v[0].s.n);
        rest = (struct eng_targs){args->v + 1, args->n - 1, args->names, args->n_named};
    }
    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++) {
        struct eng_tv item = attribute != NULL ? path_of(r, items->v[i], *attribute)
                                               : eng_tr_filter(r, name, items->v[i], &rest);

        if (item.kind == ENG_TV_UNDEFINED && attribute != NULL && otherwise != NULL)
            item = *otherwise;
        eng_tv_append(r, out.list, item);
    }
    return out;
}

/* select, reject: args are [test, its arguments]; selectattr, rejectattr: [attribute, test, its arguments].
 */
static struct eng_tv choose(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args,
                            bool by_attr, bool keep)
{
    const struct eng_tlist *items = eng_tv_true(v) ? eng_tv_iterate(r, v) : NULL;
    struct eng_tv out = eng_tv_list(r, ENG_TGENERATOR, 0);
    size_t at = by_attr;
    struct eng_targs rest = {0};
    char name[64] = "";

    if (args->n < at)
        return eng_tr_fail(r, BASE_INVALID, "needs an attribute");
    if (args->n > at) {
        if (args->v[at].kind != ENG_TV_STR || args->v[at].s.n >= sizeof(name))
            return eng_tr_fail(r, BASE_INVALID, "bad name of a test");
        memcpy(name, args->v[at].s.p, args->v[at].s.n);
        rest = (struct eng_targs){args->v + at + 1, args->n - at - 1, NULL, 0};
    }
    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++) {
        struct eng_tv item = by_attr ? path_of(r, items->v[i], args->v[0]) : items->v[i];
        bool pass =
            r->rc == BASE_OK && (name[0] != '\0' ? eng_tr_test(r, name, item, &rest) : eng_tv_true(item));

        if (pass == keep)
            eng_tv_append(r, out.list, items->v[i]);
    }
    return out;
}

static struct eng_tv f_select(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return choose(r, v, args, false, true);
}

static struct eng_tv f_reject(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return choose(r, v, args, false, false);
}

static struct eng_tv f_selectattr(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return choose(r, v, args, true, true);
}

static struct eng_tv f_rejectattr(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return choose(r, v, args, true, false);
}

struct sort_item {
    struct eng_tv key, value;
    size_t place;
    struct eng_trender *r;
    bool reverse;
};

static int by_sort_key(const void *a, const void *b)
{
    const struct sort_item *x = a, *y = b;
    int c = x->r->rc == BASE_OK && eng_tr_step(x->r, 1) ? eng_tv_compare(x->r, x->key, y->key) : 0;

    if (x->reverse)
        c = -c;
    return c != 0 ? c : x->place < y->place ? -1 : 1;
}

/* Strings compare without case unless asked. */
static struct eng_tv sort_key(struct eng_trender *r, struct eng_tv v, const struct eng_tv *attribute,
                              bool case_sensitive)
{
    if (attribute != NULL && attribute->kind != ENG_TV_NONE)
        v = path_of(r, v, *attribute);
    return v.kind == ENG_TV_STR && !case_sensitive ? eng_tstr_case(r, v.s, ENG_CASE_LOWER) : v;
}

static struct eng_tv sorted(struct eng_trender *r, const struct eng_tlist *items,
                            const struct eng_tv *attribute, bool case_sensitive, bool reverse)
{
    struct eng_tv out = eng_tv_list(r, ENG_TLIST, items->n);
    struct sort_item *work = eng_tr_alloc(r, (items->n + 1) * sizeof(*work));

    for (size_t i = 0; work != NULL && i < items->n && eng_tr_step(r, 1); i++)
        work[i] = (struct sort_item){sort_key(r, items->v[i], attribute, case_sensitive), items->v[i], i, r,
                                     reverse};
    if (r->rc != BASE_OK)
        return out;
    qsort(work, items->n, sizeof(*work), by_sort_key);
    for (size_t i = 0; i < items->n; i++)
        eng_tv_append(r, out.list, work[i].value);
    return out;
}

static struct eng_tv f_sort(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);

    if (items == NULL)
        return eng_tv_undefined(NULL);
    return sorted(r, items, eng_targ(args, 2, "attribute"), bool_arg(args, 1, "case_sensitive", false),
                  bool_arg(args, 0, "reverse", false));
}

static struct eng_tv f_dictsort(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tv *by = eng_targ(args, 1, "by");
    struct eng_tv place = eng_tv_int(by != NULL && by->kind == ENG_TV_STR && eng_tstr_is(&by->s, "value"));
    static const struct eng_targs none;
    struct eng_tv pairs;

    if (v.kind != ENG_TV_DICT)
        return eng_tr_fail(r, BASE_INVALID, "dictsort of '%s'", eng_tv_kind_name(v));
    pairs = eng_tr_method(r, v, "items", &none);
    if (r->rc != BASE_OK)
        return pairs;
    return sorted(r, pairs.list, &place, bool_arg(args, 0, "case_sensitive", false),
                  bool_arg(args, 2, "reverse", false));
}

static struct eng_tv f_unique(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);
    bool case_sensitive = bool_arg(args, 0, "case_sensitive", false);
    const struct eng_tv *attribute = eng_targ(args, 1, "attribute");
    struct eng_tv out = eng_tv_list(r, ENG_TGENERATOR, 0), seen = eng_tv_list(r, ENG_TLIST, 0);

    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++) {
        struct eng_tv key = sort_key(r, items->v[i], attribute, case_sensitive);

        if (r->rc != BASE_OK || eng_tr_contains(r, key, seen))
            continue;
        eng_tv_append(r, seen.list, key);
        eng_tv_append(r, out.list, items->v[i]);
    }
    return out;
}

static struct eng_tv extreme(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args, int sign)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);
    const struct eng_tv *attribute = eng_targ(args, 1, "attribute");
    bool case_sensitive = bool_arg(args, 0, "case_sensitive", false);
    struct eng_tv best = eng_tv_undefined("min or max");

    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++)
        if (i == 0 || sign * eng_tv_compare(r, sort_key(r, items->v[i], attribute, case_sensitive),
                                            sort_key(r, best, attribute, case_sensitive)) >
                          0)
            best = items->v[i];
    return best;
}

static struct eng_tv f_min(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return extreme(r, v, args, -1);
}

static struct eng_tv f_max(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    return extreme(r, v, args, 1);
}

static struct eng_tv f_sum(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    const struct eng_tlist *items = eng_tv_iterate(r, v);
    const struct eng_tv *attribute = eng_targ(args, 0, "attribute"), *start = eng_targ(args, 1, "start");
    struct eng_tv out = start != NULL ? *start : eng_tv_int(0);

    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++)
        out = eng_tr_math(r, '+', out, attribute != NULL ? path_of(r, items->v[i], *attribute) : items->v[i]);
    return out;
}

static struct eng_tv f_attr(struct eng_trender *r, struct eng_tv v, const struct eng_targs *args)
{
    if (args->n < 1 || args->v[0].kind != ENG_TV_STR)
        return eng_tr_fail(r, BASE_INVALID, "attr needs a name");
    return eng_tr_item(r, v, args->v[0]);
}

static const struct {
    const char *name;
    filter_fn *fn;
} filters[] = {
    {"abs", f_abs},           {"attr", f_attr},       {"capitalize", f_capitalize},
    {"count", f_length},      {"d", f_default},       {"default", f_default},
    {"dictsort", f_dictsort}, {"e", f_escape},        {"escape", f_escape},
    {"first", f_first},       {"float", f_float},     {"indent", f_indent},
    {"int", f_int},           {"items", f_items},     {"join", f_join},
    {"last", f_last},         {"length", f_length},   {"list", f_list},
    {"lower", f_lower},       {"map", f_map},         {"max", f_max},
    {"min", f_min},           {"reject", f_reject},   {"rejectattr", f_rejectattr},
    {"replace", f_replace},   {"reverse", f_reverse}, {"round", f_round},
    {"safe", f_safe},         {"select", f_select},   {"selectattr", f_selectattr},
    {"sort", f_sort},         {"string", f_string},   {"sum", f_sum},
    {"title", f_title},       {"tojson", f_tojson},   {"trim", f_trim},
    {"unique", f_unique},     {"upper", f_upper},
};

struct eng_tv eng_tr_filter(struct eng_trender *r, const char *name, struct eng_tv v,
                            const struct eng_targs *args)
{
    struct eng_tv out;

    for (size_t i = 0; i < BASE_ARRAY_LEN(filters); i++) {
        if (strcmp(filters[i].name, name) != 0)
            continue;
        if (!eng_tr_enter(r)) /* map may name a filter */
            return eng_tv_undefined(NULL);
        out = filters[i].fn(r, v, args);
        eng_tr_leave(r);
        return out;
    }
    return eng_tr_fail(r, BASE_INVALID, "no filter named '%.40s'", name);
}

/* ---- tests ---- */

enum test {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_STRING,
    T_MAPPING,
    T_SEQUENCE,
    T_ITERABLE,
    T_NUMBER,
    T_INTEGER,
    T_FLOAT,
    T_BOOLEAN,
    T_TRUE,
    T_FALSE,
    T_CALLABLE,
    T_LOWER,
    T_UPPER,
    T_ODD,
    T_EVEN,
    T_WITH_ARG, /* those below need one */
    T_IN = T_WITH_ARG,
    T_EQ,
    T_NE,
    T_GT,
    T_LT,
    T_GE,
    T_LE,
    T_DIVISIBLE,
    T_SAME
};

static const struct {
    const char *name;
    enum test test;
} tests[] = {
    {"defined", T_DEFINED},
    {"undefined", T_UNDEFINED},
    {"none", T_NONE},
    {"string", T_STRING},
    {"mapping", T_MAPPING},
    {"sequence", T_SEQUENCE},
    {"iterable", T_ITERABLE},
    {"number", T_NUMBER},
    {"integer", T_INTEGER},
    {"float", T_FLOAT},
    {"boolean", T_BOOLEAN},
    {"true", T_TRUE},
    {"false", T_FALSE},
    {"callable", T_CALLABLE},
    {"lower", T_LOWER},
    {"upper", T_UPPER},
    {"odd", T_ODD},
    {"even", T_EVEN},
    {"in", T_IN},
    {"eq", T_EQ},
    {"equalto", T_EQ},
    {"==", T_EQ},
    {"ne", T_NE},
    {"!=", T_NE},
    {"gt", T_GT},
    {"greaterthan", T_GT},
    {">", T_GT},
    {"lt", T_LT},
    {"lessthan", T_LT},
    {"<", T_LT},
    {"ge", T_GE},
    {">=", T_GE},
    {"le", T_LE},
    {"<=", T_LE},
    {"divisibleby", T_DIVISIBLE},
    {"sameas", T_SAME},
};

static bool test_case(struct eng_trender *r, struct eng_tv v, enum eng_tcase how)
{
    struct eng_tv text = eng_tv_to_str(r, v);

    return text.s.n > 0 && eng_tv_equal(r, text, eng_tstr_case(r, text.s, how));
}

static bool test_modulo(struct eng_trender *r, struct eng_tv v, int64_t by, int64_t rest)
{
    struct eng_tv out = eng_tr_math(r, '%', v, eng_tv_int(by));

    return r->rc == BASE_OK && eng_tv_equal(r, out, eng_tv_int(rest));
}

static bool test_with_arg(struct eng_trender *r, enum test test, struct eng_tv v, struct eng_tv arg)
{
    switch (test) {
    case T_IN: return eng_tr_contains(r, v, arg);
    case T_EQ: return eng_tv_equal(r, v, arg);
    case T_NE: return !eng_tv_equal(r, v, arg);
    case T_GT: return eng_tv_compare(r, v, arg) > 0;
    case T_LT: return eng_tv_compare(r, v, arg) < 0;
    case T_GE: return eng_tv_compare(r, v, arg) >= 0;
    case T_LE: return eng_tv_compare(r, v, arg) <= 0;
    case T_DIVISIBLE:
        if (arg.kind != ENG_TV_INT) {
            eng_tr_fail(r, BASE_INVALID, "divisibleby needs an integer");
            return false;
        }
        return test_modulo(r, v, arg.i, 0);
    default: return v.kind == arg.kind && eng_tv_equal(r, v, arg);
    }
}

static bool test_kind(struct eng_trender *r, enum test test, struct eng_tv v)
{
    bool listlike =
        v.kind == ENG_TV_LIST || v.kind == ENG_TV_STR || v.kind == ENG_TV_DICT || v.kind == ENG_TV_UNDEFINED;

    switch (test) {
    case T_DEFINED: return v.kind != ENG_TV_UNDEFINED;
    case T_UNDEFINED: return v.kind == ENG_TV_UNDEFINED;
    case T_NONE: return v.kind == ENG_TV_NONE;
    case T_STRING: return v.kind == ENG_TV_STR;
    case T_MAPPING: return v.kind == ENG_TV_DICT;
    case T_SEQUENCE: return listlike && !(v.kind == ENG_TV_LIST && v.list->kind == ENG_TGENERATOR);
    case T_ITERABLE: return listlike;
    case T_NUMBER: return v.kind == ENG_TV_INT || v.kind == ENG_TV_FLOAT || v.kind == ENG_TV_BOOL;
    case T_INTEGER: return v.kind == ENG_TV_INT;
    case T_FLOAT: return v.kind == ENG_TV_FLOAT;
    case T_BOOLEAN: return v.kind == ENG_TV_BOOL;
    case T_TRUE: return v.kind == ENG_TV_BOOL && v.b;
    case T_FALSE: return v.kind == ENG_TV_BOOL && !v.b;
    case T_CALLABLE: return v.kind >= ENG_TV_MACRO;
    case T_LOWER: return test_case(r, v, ENG_CASE_LOWER);
    case T_UPPER: return test_case(r, v, ENG_CASE_UPPER);
    case T_ODD: return test_modulo(r, v, 2, 1);
    default: return test_modulo(r, v, 2, 0);
    }
}

bool eng_tr_test(struct eng_trender *r, const char *name, struct eng_tv v, const struct eng_targs *args)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(tests); i++) {
        if (strcmp(tests[i].name, name) != 0)
            continue;
        if (tests[i].test < T_WITH_ARG)
            return test_kind(r, tests[i].test, v);
        if (args->n < 1) {
            eng_tr_fail(r, BASE_INVALID, "test '%s' needs an argument", name);
            return false;
        }
        return test_with_arg(r, tests[i].test, v, args->v[0]);
    }
    eng_tr_fail(r, BASE_INVALID, "no test named '%.40s'", name);
    return false;
}
