/* Chat templates: methods of strings and dicts, and the global functions. Methods that change their object do
 * not exist, as in Jinja2's immutable sandbox. */
#include "engine/template_priv.h"

#include "base/mem.h"
#include "base/str.h"
#include "engine/unicode_tables.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- strings ---- */

/* Python's str.isspace(): White_Space and four ASCII separators. */
static bool is_space(uint32_t cp)
{
    return (cp >= 0x1c && cp <= 0x1f) || (eng_unicode_bits(cp) & ENG_UC_SPACE) != 0;
}

static bool in_chars(const struct eng_tstr *chars, uint32_t cp)
{
    uint32_t c;

    if (chars == NULL)
        return is_space(cp);
    for (size_t i = 0; i < chars->n;) {
        i += base_utf8_decode(chars->p + i, chars->n - i, &c);
        if (c == cp)
            return true;
    }
    return false;
}

static size_t char_before(const struct eng_tstr *s, size_t end)
{
    do
        end--;
    while (end > 0 && ((unsigned char)s->p[end] & 0xc0) == 0x80);
    return end;
}

struct eng_tv eng_tstr_strip(struct eng_trender *r, struct eng_tstr s, const struct eng_tstr *chars,
                             bool left, bool right)
{
    size_t from = 0, to = s.n;
    uint32_t cp;

    /* a long set of characters costs steps for each that is looked at */
    while (left && from < to && eng_tr_step(r, chars != NULL ? chars->n / 16 : 0)) {
        size_t n = base_utf8_decode(s.p + from, to - from, &cp);

        if (!in_chars(chars, cp))
            break;
        from += n;
    }
    while (right && to > from && eng_tr_step(r, chars != NULL ? chars->n / 16 : 0)) {
        size_t at = char_before(&s, to);

        base_utf8_decode(s.p + at, to - at, &cp);
        if (!in_chars(chars, cp))
            break;
        to = at;
    }
    eng_tr_step(r, (s.n - (to - from)) / 16);
    return eng_tv_slice(s, from, to);
}

int64_t eng_tstr_find(struct eng_trender *r, struct eng_tstr s, struct eng_tstr what, size_t from)
{
    const char *at;

    if (from > s.n || !eng_tr_step(r, (s.n - from) / 64))
        return -1;
    if (what.n == 0)
        return (int64_t)from;
    at = memmem(s.p + from, s.n - from, what.p, what.n);
    return at != NULL ? at - s.p : -1;
}

static bool any_marked(struct eng_tstr s)
{
    return eng_tv_is_marked((struct eng_tv){.kind = ENG_TV_STR, .s = s});
}

/* What replaces marked bytes is marked: a message decided that it stands there. */
struct eng_tv eng_tstr_replace(struct eng_trender *r, struct eng_tstr s, struct eng_tstr from,
                               struct eng_tstr to, int64_t max)
{
    struct eng_tsink sink = {0};
    size_t done = 0;

    if (from.n == 0) /* Python would put `to` between all characters; no template does */
        return eng_tr_fail(r, BASE_INVALID, "replace of an empty string");
    for (int64_t at; max != 0 && (at = eng_tstr_find(r, s, from, done)) >= 0; max--) {
        struct eng_tstr piece = to;

        if (!eng_tr_step(r, 1))
            break;
        eng_tsink_add(r, &sink, eng_tv_slice(s, done, (size_t)at).s);
        if (any_marked(eng_tv_slice(s, (size_t)at, (size_t)at + from.n).s))
            piece.marks = eng_tv_all_marked;
        eng_tsink_add(r, &sink, piece);
        done = (size_t)at + from.n;
    }
    if (done == 0)
        return (struct eng_tv){.kind = ENG_TV_STR, .s = s};
    eng_tsink_add(r, &sink, eng_tv_slice(s, done, s.n).s);
    return eng_tsink_take(&sink);
}

/* HTML, as markupsafe: what is safe already stays. */
struct eng_tv eng_tstr_escape(struct eng_trender *r, struct eng_tv v)
{
    struct eng_tstr s = v.s;
    struct eng_tsink sink = {0};

    if (v.safe || !eng_tr_step(r, s.n / 16))
        return v;
    for (size_t i = 0; i < s.n && r->rc == BASE_OK; i++) {
        const char *as = s.p[i] == '&'    ? "&amp;"
                         : s.p[i] == '<'  ? "&lt;"
                         : s.p[i] == '>'  ? "&gt;"
                         : s.p[i] == '"'  ? "&#34;"
                         : s.p[i] == '\'' ? "&#39;"
                                          : NULL;

        eng_tsink_bytes(r, &sink, as != NULL ? as : s.p + i, as != NULL ? strlen(as) : 1,
                        eng_tstr_marked(&s, i));
    }
    v = eng_tsink_take(&sink);
    v.safe = true;
    return v;
}

struct eng_tv eng_tstr_case(struct eng_trender *r, struct eng_tstr s, enum eng_tcase how)
{
    struct eng_tsink sink = {0};
    bool word = false; /* the character before was a letter */
    uint32_t cp;

    for (size_t i = 0, n; i < s.n && eng_tr_step(r, 0); i += n) {
        bool upper =
            how == ENG_CASE_UPPER || (how == ENG_CASE_TITLE && !word) || (how == ENG_CASE_CAPITAL && i == 0);
        char out[4];
        uint32_t to;

        n = base_utf8_decode(s.p + i, s.n - i, &cp);
        to = upper ? eng_unicode_map(eng_unicode_upper, eng_unicode_n_upper, cp)
                   : eng_unicode_map(eng_unicode_lower, eng_unicode_n_lower, cp);
        word = (eng_unicode_bits(cp) & ENG_UC_L) != 0;
        eng_tsink_bytes(r, &sink, out, base_utf8_encode(to, out), eng_tstr_marked(&s, i));
    }
    eng_tr_step(r, s.n / 16);
    return eng_tsink_take(&sink);
}

/* Pieces between white space; at most max cuts (-1: all). */
static void split_blanks(struct eng_trender *r, struct eng_tlist *list, struct eng_tstr s, int64_t max)
{
    size_t i = 0;
    uint32_t cp;

    eng_tr_step(r, s.n / 16);
    while (r->rc == BASE_OK) {
        size_t from, n;

        while (i < s.n && (n = base_utf8_decode(s.p + i, s.n - i, &cp), is_space(cp)))
            i += n;
        if (i >= s.n)
            return;
        from = i;
        if (max >= 0 && (int64_t)list->n == max) {
            eng_tv_append(r, list, eng_tstr_strip(r, eng_tv_slice(s, from, s.n).s, NULL, false, true));
            return;
        }
        while (i < s.n && (n = base_utf8_decode(s.p + i, s.n - i, &cp), !is_space(cp)))
            i += n;
        eng_tv_append(r, list, eng_tv_slice(s, from, i));
    }
}

static struct eng_tv str_split(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args)
{
    const struct eng_tv *sep = eng_targ(args, 0, "sep"), *max_arg = eng_targ(args, 1, "maxsplit");
    int64_t max = max_arg != NULL && max_arg->kind == ENG_TV_INT ? max_arg->i : -1;
    struct eng_tv out = eng_tv_list(r, ENG_TLIST, 0);
    size_t done = 0;

    if (sep == NULL || sep->kind == ENG_TV_NONE) {
        split_blanks(r, out.list, s, max);
        return out;
    }
    if (sep->kind != ENG_TV_STR || sep->s.n == 0)
        return eng_tr_fail(r, BASE_INVALID, "bad separator for split");
    for (int64_t at; max != 0 && (at = eng_tstr_find(r, s, sep->s, done)) >= 0 && eng_tr_step(r, 1); max--) {
        eng_tv_append(r, out.list, eng_tv_slice(s, done, (size_t)at));
        done = (size_t)at + sep->s.n;
    }
    eng_tv_append(r, out.list, eng_tv_slice(s, done, s.n));
    return out;
}

/* rsplit(sep, max): cuts from the right. */
static struct eng_tv str_rsplit(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args)
{
    const struct eng_tv *max_arg = eng_targ(args, 1, "maxsplit");
    struct eng_tv all, out, sep;
    struct eng_targs only_sep = {args->v, args->n > 0, NULL, 0};
    size_t keep, end = 0;

    all = str_split(r, s, &only_sep);
    if (r->rc != BASE_OK || max_arg == NULL || max_arg->kind != ENG_TV_INT || max_arg->i < 0 ||
        (uint64_t)max_arg->i >= all.list->n || args->n == 0 || args->v[0].kind != ENG_TV_STR)
        return all;
    sep = args->v[0];
    keep = all.list->n - (size_t)max_arg->i; /* so many pieces stay joined */
    for (size_t i = 0; i < keep; i++)
        end += all.list->v[i].s.n + (i > 0 ? sep.s.n : 0);
    out = eng_tv_list(r, ENG_TLIST, all.list->n - keep + 1);
    eng_tv_append(r, out.list, eng_tv_slice(s, 0, end));
    for (size_t i = keep; i < all.list->n; i++)
        eng_tv_append(r, out.list, all.list->v[i]);
    return out;
}

static struct eng_tv str_splitlines(struct eng_trender *r, struct eng_tstr s)
{
    struct eng_tv out = eng_tv_list(r, ENG_TLIST, 0);
    size_t from = 0;

    for (size_t i = 0; i < s.n && r->rc == BASE_OK; i++)
        if (s.p[i] == '\n' || s.p[i] == '\r') {
            eng_tv_append(r, out.list, eng_tv_slice(s, from, i));
            if (s.p[i] == '\r' && i + 1 < s.n && s.p[i + 1] == '\n')
                i++;
            from = i + 1;
        }
    if (from < s.n)
        eng_tv_append(r, out.list, eng_tv_slice(s, from, s.n));
    eng_tr_step(r, s.n / 32);
    return out;
}

static bool has_affix(const struct eng_tstr *s, const struct eng_tstr *affix, bool at_end)
{
    return affix->n <= s->n && memcmp(at_end ? s->p + s->n - affix->n : s->p, affix->p, affix->n) == 0;
}

/* One string or a tuple of them. */
static struct eng_tv str_affix(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args,
                               bool at_end)
{
    const struct eng_tv *arg = eng_targ(args, 0, NULL);

    if (arg != NULL && arg->kind == ENG_TV_STR)
        return eng_tv_bool(has_affix(&s, &arg->s, at_end));
    if (arg == NULL || arg->kind != ENG_TV_LIST)
        return eng_tr_fail(r, BASE_INVALID, "startswith/endswith needs a string");
    for (size_t i = 0; i < arg->list->n && eng_tr_step(r, 1); i++)
        if (arg->list->v[i].kind == ENG_TV_STR && has_affix(&s, &arg->list->v[i].s, at_end))
            return eng_tv_bool(true);
    return eng_tv_bool(false);
}

static struct eng_tv str_join(struct eng_trender *r, struct eng_tstr sep, const struct eng_targs *args)
{
    const struct eng_tlist *items = args->n > 0 ? eng_tv_iterate(r, args->v[0]) : NULL;
    struct eng_tsink sink = {0};

    for (size_t i = 0; items != NULL && i < items->n && eng_tr_step(r, 1); i++) {
        if (items->v[i].kind != ENG_TV_STR)
            return eng_tr_fail(r, BASE_INVALID, "join of '%s'", eng_tv_kind_name(items->v[i]));
        if (i > 0)
            eng_tsink_add(r, &sink, sep);
        eng_tsink_add(r, &sink, items->v[i].s);
    }
    return eng_tsink_take(&sink);
}

/* "{}", "{0}", "{name}", "{{", "}}"; no conversions or widths. */
static struct eng_tv str_format(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args)
{
    struct eng_tsink sink = {0};
    size_t next = 0;

    for (size_t i = 0; i < s.n && eng_tr_step(r, 1); i++) {
        const char *close;
        const struct eng_tv *v;
        char field[64] = "";
        size_t n;

        if ((s.p[i] == '{' || s.p[i] == '}') && i + 1 < s.n && s.p[i + 1] == s.p[i])
            i++;
        else if (s.p[i] == '{') {
            close = memchr(s.p + i, '}', s.n - i);
            n = close != NULL ? (size_t)(close - s.p) - i - 1 : sizeof(field);
            if (n >= sizeof(field))
                return eng_tr_fail(r, BASE_INVALID, "bad format field");
            memcpy(field, s.p + i + 1, n);
            if (n == 0)
                v = next < args->n ? &args->v[next++] : NULL;
            else if (field[0] >= '0' && field[0] <= '9' && n == 1)
                v = (size_t)(field[0] - '0') < args->n ? &args->v[field[0] - '0'] : NULL;
            else
                v = eng_targ(args, SIZE_MAX, field);
            if (v == NULL)
                return eng_tr_fail(r, BASE_INVALID, "bad format field");
            eng_tsink_print(r, &sink, *v);
            i += n + 1;
            continue;
        }
        eng_tsink_bytes(r, &sink, s.p + i, 1, eng_tstr_marked(&s, i));
    }
    return eng_tsink_take(&sink);
}

/* All characters have one of the bits, and there are some. */
static bool all_chars(struct eng_trender *r, struct eng_tstr s, unsigned bits)
{
    uint32_t cp;

    for (size_t i = 0; i < s.n;) {
        i += base_utf8_decode(s.p + i, s.n - i, &cp);
        if ((eng_unicode_bits(cp) & bits) == 0)
            return false;
    }
    return eng_tr_step(r, s.n / 16) && s.n > 0;
}

static struct eng_tv str_find(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args,
                              bool last)
{
    int64_t at = -1;

    if (args->n < 1 || args->v[0].kind != ENG_TV_STR)
        return eng_tr_fail(r, BASE_INVALID, "find needs a string");
    for (int64_t next = -1;
         (next = eng_tstr_find(r, s, args->v[0].s, (size_t)(next + 1))) >= 0 && eng_tr_step(r, 1);) {
        at = next;
        if (!last)
            break;
    }
    if (at > 0) /* bytes to characters */
        at = (int64_t)eng_tv_chars(&(struct eng_tstr){s.p, NULL, (size_t)at});
    return eng_tv_int(at);
}

static struct eng_tv str_count(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args)
{
    int64_t n = 0;

    if (args->n < 1 || args->v[0].kind != ENG_TV_STR || args->v[0].s.n == 0)
        return eng_tr_fail(r, BASE_INVALID, "count needs a string");
    for (int64_t at = 0; (at = eng_tstr_find(r, s, args->v[0].s, (size_t)at)) >= 0 && eng_tr_step(r, 1);
         at += (int64_t)args->v[0].s.n)
        n++;
    return eng_tv_int(n);
}

static struct eng_tv str_strip(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args,
                               bool left, bool right)
{
    if (args->n == 0 || args->v[0].kind == ENG_TV_NONE)
        return eng_tstr_strip(r, s, NULL, left, right);
    if (args->v[0].kind != ENG_TV_STR)
        return eng_tr_fail(r, BASE_INVALID, "strip needs a string");
    return eng_tstr_strip(r, s, &args->v[0].s, left, right);
}

static struct eng_tv str_replace(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args)
{
    if (args->n < 2 || args->v[0].kind != ENG_TV_STR || args->v[1].kind != ENG_TV_STR)
        return eng_tr_fail(r, BASE_INVALID, "replace needs two strings");
    return eng_tstr_replace(r, s, args->v[0].s, args->v[1].s,
                            args->n > 2 && args->v[2].kind == ENG_TV_INT ? args->v[2].i : -1);
}

static struct eng_tv str_remove(struct eng_trender *r, struct eng_tstr s, const struct eng_targs *args,
                                bool at_end)
{
    if (args->n < 1 || args->v[0].kind != ENG_TV_STR)
        return eng_tr_fail(r, BASE_INVALID, "needs a string");
    if (!has_affix(&s, &args->v[0].s, at_end))
        return eng_tv_slice(s, 0, s.n);
    return at_end ? eng_tv_slice(s, 0, s.n - args->v[0].s.n) : eng_tv_slice(s, args->v[0].s.n, s.n);
}

/* Names in the order of the switch below. */
static const char *const str_methods[] = {
    "strip",    "lstrip",    "rstrip",       "split",        "rsplit",  "splitlines", "startswith",
    "endswith", "replace",   "upper",        "lower",        "title",   "capitalize", "join",
    "format",   "find",      "rfind",        "count",        "isdigit", "isalpha",    "isspace",
    "isalnum",  "isnumeric", "removeprefix", "removesuffix",
};

static struct eng_tv str_method(struct eng_trender *r, struct eng_tstr s, size_t method,
                                const struct eng_targs *args)
{
    switch (method) {
    case 0: return str_strip(r, s, args, true, true);
    case 1: return str_strip(r, s, args, true, false);
    case 2: return str_strip(r, s, args, false, true);
    case 3: return str_split(r, s, args);
    case 4: return str_rsplit(r, s, args);
    case 5: return str_splitlines(r, s);
    case 6: return str_affix(r, s, args, false);
    case 7: return str_affix(r, s, args, true);
    case 8: return str_replace(r, s, args);
    case 9: return eng_tstr_case(r, s, ENG_CASE_UPPER);
    case 10: return eng_tstr_case(r, s, ENG_CASE_LOWER);
    case 11: return eng_tstr_case(r, s, ENG_CASE_TITLE);
    case 12: return eng_tstr_case(r, s, ENG_CASE_CAPITAL);
    case 13: return str_join(r, s, args);
    case 14: return str_format(r, s, args);
    case 15: return str_find(r, s, args, false);
    case 16: return str_find(r, s, args, true);
    case 17: return str_count(r, s, args);
    case 18: return eng_tv_bool(all_chars(r, s, ENG_UC_NUMBER));
    case 19: return eng_tv_bool(all_chars(r, s, ENG_UC_L));
    case 20: return eng_tv_bool(all_chars(r, s, ENG_UC_SPACE));
    case 21: return eng_tv_bool(all_chars(r, s, ENG_UC_L | ENG_UC_NUMBER));
    case 22: return eng_tv_bool(all_chars(r, s, ENG_UC_NUMBER));
    case 23: return str_remove(r, s, args, false);
    default: return str_remove(r, s, args, true);
    }
}

/* ---- dicts and lists ---- */

static const char *const dict_methods[] = {"get", "items", "keys", "values", "copy"};
static const char *const list_methods[] = {"index", "count", "copy"};
static const char *const changing_dict[] = {"pop", "update", "clear", "setdefault", "popitem"};
static const char *const changing_list[] = {"append", "pop",   "insert",  "extend",
                                            "remove", "clear", "reverse", "sort"};

static struct eng_tv dict_list(struct eng_trender *r, const struct eng_tdict *dict, const char *what)
{
    struct eng_tv out = eng_tv_list(r, ENG_TLIST, dict->n);

    for (size_t i = 0; i < dict->n && eng_tr_step(r, 1); i++) {
        struct eng_tv pair;

        if (what[0] != 'i') {
            eng_tv_append(r, out.list, what[0] == 'k' ? dict->v[i].key : dict->v[i].value);
            continue;
        }
        pair = eng_tv_list(r, ENG_TTUPLE, 2);
        eng_tv_append(r, pair.list, dict->v[i].key);
        eng_tv_append(r, pair.list, dict->v[i].value);
        eng_tv_append(r, out.list, pair);
    }
    return out;
}

static struct eng_tv dict_method(struct eng_trender *r, struct eng_tv v, const char *name,
                                 const struct eng_targs *args)
{
    const struct eng_tv *found, *other = eng_targ(args, 1, NULL);

    if (strcmp(name, "copy") == 0)
        return v;
    if (strcmp(name, "get") != 0)
        return dict_list(r, v.dict, name);
    if (args->n < 1)
        return eng_tr_fail(r, BASE_INVALID, "get needs a key");
    found = eng_tv_get(r, v.dict, args->v[0]);
    return found != NULL ? *found : other != NULL ? *other : eng_tv_none();
}

static struct eng_tv list_method(struct eng_trender *r, struct eng_tv v, const char *name,
                                 const struct eng_targs *args)
{
    int64_t n = 0;

    if (strcmp(name, "copy") == 0)
        return v;
    if (args->n < 1)
        return eng_tr_fail(r, BASE_INVALID, "%s needs a value", name);
    for (size_t i = 0; i < v.list->n && eng_tr_step(r, 1); i++)
        if (eng_tv_equal(r, v.list->v[i], args->v[0])) {
            if (name[0] == 'i')
                return eng_tv_int((int64_t)i);
            n++;
        }
    return name[0] == 'i' ? eng_tr_fail(r, BASE_INVALID, "value is not in list") : eng_tv_int(n);
}

static bool is_one_of(const char *const *names, size_t n, const char *name, size_t *ret_i)
{
    for (*ret_i = 0; *ret_i < n; (*ret_i)++)
        if (strcmp(names[*ret_i], name) == 0)
            return true;
    return false;
}
#define IS_ONE_OF(names, name, ret_i) is_one_of(names, BASE_ARRAY_LEN(names), name, ret_i)

/* Changing methods exist too, so that calling one says why it fails. */
bool eng_tmethod_exists(struct eng_tv v, const char *name)
{
    size_t i;

    switch (v.kind) {
    case ENG_TV_STR: return IS_ONE_OF(str_methods, name, &i);
    case ENG_TV_DICT: return IS_ONE_OF(dict_methods, name, &i) || IS_ONE_OF(changing_dict, name, &i);
    case ENG_TV_LIST:
        return v.list->kind != ENG_TGENERATOR &&
               (IS_ONE_OF(list_methods, name, &i) ||
                (v.list->kind == ENG_TLIST && IS_ONE_OF(changing_list, name, &i)));
    default: return false;
    }
}

struct eng_tv eng_tr_method(struct eng_trender *r, struct eng_tv v, const char *name,
                            const struct eng_targs *args)
{
    size_t i;

    if (v.kind == ENG_TV_STR && IS_ONE_OF(str_methods, name, &i))
        return str_method(r, v.s, i, args);
    if (v.kind == ENG_TV_DICT && IS_ONE_OF(dict_methods, name, &i))
        return dict_method(r, v, name, args);
    if (v.kind == ENG_TV_LIST && IS_ONE_OF(list_methods, name, &i))
        return list_method(r, v, name, args);
    if (v.kind == ENG_TV_LOOP && args->n > 0) /* cycle */
        return args->v[v.loop->index0 % args->n];
    return eng_tr_fail(r, BASE_INVALID, "access to attribute '%s' of '%s' object is unsafe", name,
                       eng_tv_kind_name(v));
}

/* ---- global functions ---- */

/* The message for operators without what came out of the chat. */
static struct eng_tv raise_exception(struct eng_trender *r, const struct eng_targs *args)
{
    struct eng_tv text = args->n > 0 ? eng_tv_to_str(r, args->v[0]) : eng_tv_text("");
    char what[160];
    size_t n = 0;

    if (r->rc != BASE_OK)
        return text;
    for (size_t i = 0; i < text.s.n && n + 4 < sizeof(what); i++) {
        if (!eng_tstr_marked(&text.s, i))
            what[n++] = text.s.p[i];
        else if (n == 0 || what[n - 1] != '*')
            what[n++] = '*';
    }
    what[base_utf8_complete(what, n)] = '\0';
    r->raised = true;
    return eng_tr_fail(r, BASE_INVALID, "%s", what);
}

static struct eng_tv make_range(struct eng_trender *r, const struct eng_targs *args)
{
    int64_t at[3] = {0, 0, 1}, n;
    struct eng_tv out;

    for (size_t i = 0; i < args->n; i++) {
        if (i > 2 || args->v[i].kind != ENG_TV_INT)
            return eng_tr_fail(r, BASE_INVALID, "range needs integers");
        at[args->n == 1 ? 1 : i] = args->v[i].i;
    }
    if (args->n == 0 || at[2] == 0)
        return eng_tr_fail(r, BASE_INVALID, "bad range");
    for (int i = 0; i < 3; i++)
        if (at[i] > INT32_MAX || at[i] < -INT32_MAX)
            return eng_tr_fail(r, BASE_TOO_LARGE, "range too large");
    n = at[2] > 0 ? (at[1] - at[0] + at[2] - 1) / at[2] : (at[0] - at[1] - at[2] - 1) / -at[2];
    n = n < 0 ? 0 : n;
    if (n > ENG_TEMPLATE_RANGE_MAX)
        return eng_tr_fail(r, BASE_TOO_LARGE, "range of more than %d", ENG_TEMPLATE_RANGE_MAX);
    out = eng_tv_list(r, ENG_TLIST, (size_t)n);
    for (int64_t i = 0; i < n && eng_tr_step(r, 1); i++)
        eng_tv_append(r, out.list, eng_tv_int(at[0] + i * at[2]));
    return out;
}

/* dict(a=1), namespace(a=1), also over another dict. */
static struct eng_tv make_dict(struct eng_trender *r, const struct eng_targs *args)
{
    struct eng_tv out = eng_tv_dict(r, args->n_named);

    if (args->n > 0 && (args->v[0].kind == ENG_TV_DICT || args->v[0].kind == ENG_TV_NAMESPACE))
        for (size_t i = 0; i < args->v[0].dict->n && eng_tr_step(r, 1); i++)
            eng_tv_put(r, out.dict, args->v[0].dict->v[i].key, args->v[0].dict->v[i].value);
    else if (args->n > 0)
        return eng_tr_fail(r, BASE_INVALID, "dict of '%s'", eng_tv_kind_name(args->v[0]));
    for (size_t i = 0; i < args->n_named && eng_tr_step(r, 1); i++)
        eng_tv_put(r, out.dict, eng_tv_str(args->names[i]->text, args->names[i]->n, false),
                   args->v[args->n + i]);
    return out;
}

/* The time is UTC: a model's prompt should not depend on where its server stands. */
static struct eng_tv strftime_now(struct eng_trender *r, const struct eng_targs *args)
{
    time_t seconds = (time_t)(r->now_wall_us / 1000000);
    char format[128], *out;
    struct tm tm;
    size_t n;

    if (args->n < 1 || args->v[0].kind != ENG_TV_STR || args->v[0].s.n >= sizeof(format))
        return eng_tr_fail(r, BASE_INVALID, "strftime_now needs a short string");
    memcpy(format, args->v[0].s.p, args->v[0].s.n);
    format[args->v[0].s.n] = '\0';
    for (const char *p = format; (p = strchr(p, '%')) != NULL; p += 2)
        if (p[1] == '\0' || strchr("aAbBdHIjmMpSUwWyYZzDFTRehcxX%-", p[1]) == NULL ||
            (p[1] == '-' && (p[2] == '\0' || strchr("dHIjmMSy", p[2]) == NULL)))
            return eng_tr_fail(r, BASE_INVALID, "unknown strftime format");
    out = eng_tr_alloc(r, 2048);
    if (out == NULL || gmtime_r(&seconds, &tm) == NULL)
        return eng_tv_text("");
    n = strftime(out, 2048, format, &tm);
    return eng_tv_str(out, n, args->v[0].s.marks != NULL);
}

static const char *const functions[] = {"raise_exception", "range", "namespace", "dict", "strftime_now"};

int eng_tfunction_find(const char *name)
{
    size_t i;

    return IS_ONE_OF(functions, name, &i) ? (int)i : -1;
}

struct eng_tv eng_tr_function(struct eng_trender *r, int function, const struct eng_targs *args)
{
    struct eng_tv out;

    switch (function) {
    case 0: return raise_exception(r, args);
    case 1: return make_range(r, args);
    case 2:
        out = make_dict(r, args);
        if (out.kind == ENG_TV_DICT)
            out.kind = ENG_TV_NAMESPACE;
        return out;
    case 3: return make_dict(r, args);
    default: return strftime_now(r, args);
    }
}
