/* Chat templates: values. Strings carry a mark per byte that came out of a message. Source of printing and
 * comparing: Python's str(), repr(), json.dumps() and ==. */
#include "engine/template_priv.h"

#include "base/mem.h"
#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const uint8_t eng_tv_all_marked[1] = {1};

/* ---- making ---- */

struct eng_tv eng_tv_none(void)
{
    return (struct eng_tv){.kind = ENG_TV_NONE};
}

struct eng_tv eng_tv_bool(bool b)
{
    return (struct eng_tv){.kind = ENG_TV_BOOL, .b = b};
}

struct eng_tv eng_tv_int(int64_t i)
{
    return (struct eng_tv){.kind = ENG_TV_INT, .i = i};
}

struct eng_tv eng_tv_float(double f)
{
    return (struct eng_tv){.kind = ENG_TV_FLOAT, .f = f};
}

struct eng_tv eng_tv_undefined(const char *name)
{
    return (struct eng_tv){.kind = ENG_TV_UNDEFINED, .name = name};
}

struct eng_tv eng_tv_str(const char *p, size_t n, bool from_message)
{
    return (struct eng_tv){.kind = ENG_TV_STR, .s = {p, from_message ? eng_tv_all_marked : NULL, n}};
}

struct eng_tv eng_tv_text(const char *literal)
{
    return eng_tv_str(literal, strlen(literal), false);
}

struct eng_tv eng_tv_slice(struct eng_tstr s, size_t from, size_t to)
{
    if (s.marks != NULL && s.marks != eng_tv_all_marked)
        s.marks += from;
    s.p += from;
    s.n = to - from;
    return (struct eng_tv){.kind = ENG_TV_STR, .s = s};
}

struct eng_tv eng_tv_list(struct eng_trender *r, enum eng_tlist_kind kind, size_t room)
{
    struct eng_tlist *list = eng_tr_alloc(r, sizeof(*list));

    if (list == NULL)
        return eng_tv_undefined(NULL);
    list->kind = kind;
    if (room > 0 && (list->v = eng_tr_alloc(r, room * sizeof(*list->v))) != NULL)
        list->cap = room;
    return (struct eng_tv){.kind = ENG_TV_LIST, .list = list};
}

void eng_tv_append(struct eng_trender *r, struct eng_tlist *list, struct eng_tv v)
{
    if (list == NULL || r->rc != BASE_OK)
        return;
    if (list->n == list->cap) {
        size_t cap = list->cap < 4 ? 4 : list->cap * 2;
        struct eng_tv *grown = eng_tr_alloc(r, cap * sizeof(*grown));

        if (grown == NULL)
            return;
        if (list->n > 0)
            memcpy(grown, list->v, list->n * sizeof(*grown));
        list->v = grown;
        list->cap = cap;
    }
    list->v[list->n++] = v;
}

struct eng_tv eng_tv_dict(struct eng_trender *r, size_t room)
{
    struct eng_tdict *dict = eng_tr_alloc(r, sizeof(*dict));

    if (dict == NULL)
        return eng_tv_undefined(NULL);
    if (room > 0 && (dict->v = eng_tr_alloc(r, room * sizeof(*dict->v))) != NULL)
        dict->cap = room;
    return (struct eng_tv){.kind = ENG_TV_DICT, .dict = dict};
}

const struct eng_tv *eng_tv_get(struct eng_trender *r, const struct eng_tdict *dict, struct eng_tv key)
{
    if (dict == NULL || !eng_tr_step(r, dict->n / 8))
        return NULL;
    for (size_t i = 0; i < dict->n; i++) {
        const struct eng_tv *k = &dict->v[i].key;

        if (k->kind == ENG_TV_STR && key.kind == ENG_TV_STR) {
            if (k->s.n == key.s.n && memcmp(k->s.p, key.s.p, key.s.n) == 0)
                return &dict->v[i].value;
        } else if (k->kind != ENG_TV_STR && key.kind != ENG_TV_STR && eng_tv_equal(r, *k, key))
            return &dict->v[i].value;
    }
    return NULL;
}

void eng_tv_put(struct eng_trender *r, struct eng_tdict *dict, struct eng_tv key, struct eng_tv value)
{
    struct eng_tv *old;

    if (dict == NULL || r->rc != BASE_OK)
        return;
    if (key.kind == ENG_TV_DICT || (key.kind == ENG_TV_LIST && key.list->kind != ENG_TTUPLE)) {
        eng_tr_fail(r, BASE_INVALID, "unhashable type: '%s'", eng_tv_kind_name(key));
        return;
    }
    old = (struct eng_tv *)(uintptr_t)eng_tv_get(r, dict, key);
    if (old != NULL) {
        *old = value;
        return;
    }
    if (dict->n == dict->cap) {
        size_t cap = dict->cap < 4 ? 4 : dict->cap * 2;
        struct eng_tpair *grown = eng_tr_alloc(r, cap * sizeof(*grown));

        if (grown == NULL)
            return;
        if (dict->n > 0)
            memcpy(grown, dict->v, dict->n * sizeof(*grown));
        dict->v = grown;
        dict->cap = cap;
    }
    dict->v[dict->n++] = (struct eng_tpair){key, value};
}

/* ---- asking ---- */

bool eng_tv_true(struct eng_tv v)
{
    switch (v.kind) {
    case ENG_TV_UNDEFINED:
    case ENG_TV_NONE: return false;
    case ENG_TV_BOOL: return v.b;
    case ENG_TV_INT: return v.i != 0;
    case ENG_TV_FLOAT: return v.f != 0.0;
    case ENG_TV_STR: return v.s.n > 0;
    case ENG_TV_LIST: return v.list->n > 0 || v.list->kind == ENG_TGENERATOR;
    case ENG_TV_DICT: return v.dict->n > 0;
    default: return true;
    }
}

bool eng_tv_is_marked(struct eng_tv v)
{
    if (v.kind != ENG_TV_STR)
        return v.marked;
    for (size_t i = 0; v.s.marks != NULL && i < v.s.n; i++)
        if (eng_tstr_marked(&v.s, i))
            return true;
    return false;
}

const char *eng_tv_kind_name(struct eng_tv v)
{
    static const char *const names[] = {"Undefined", "NoneType", "bool",    "int",       "float",
                                        "str",       "list",     "dict",    "Namespace", "Loop",
                                        "Macro",     "method",   "function"};

    if (v.kind == ENG_TV_LIST && v.list->kind != ENG_TLIST)
        return v.list->kind == ENG_TTUPLE ? "tuple" : "generator";
    return names[v.kind];
}

static bool is_number(struct eng_tv v)
{
    return v.kind == ENG_TV_BOOL || v.kind == ENG_TV_INT || v.kind == ENG_TV_FLOAT;
}

static double as_double(struct eng_tv v)
{
    return v.kind == ENG_TV_FLOAT ? v.f : v.kind == ENG_TV_BOOL ? (double)v.b : (double)v.i;
}

static int64_t as_int(struct eng_tv v)
{
    return v.kind == ENG_TV_BOOL ? v.b : v.i;
}

static int compare_numbers(struct eng_tv a, struct eng_tv b)
{
    if (a.kind == ENG_TV_FLOAT || b.kind == ENG_TV_FLOAT) {
        double x = as_double(a), y = as_double(b);

        return x < y ? -1 : x > y;
    }
    return as_int(a) < as_int(b) ? -1 : as_int(a) > as_int(b);
}

static bool equal_dicts(struct eng_trender *r, const struct eng_tdict *a, const struct eng_tdict *b)
{
    if (a->n != b->n || !eng_tr_step(r, a->n / 4))
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct eng_tv *other = eng_tv_get(r, b, a->v[i].key);

        if (other == NULL || !eng_tv_equal(r, a->v[i].value, *other))
            return false;
    }
    return true;
}

static bool equal_lists(struct eng_trender *r, const struct eng_tlist *a, const struct eng_tlist *b)
{
    if (a == b)
        return true;
    if (a->n != b->n || a->kind != b->kind || a->kind == ENG_TGENERATOR || !eng_tr_step(r, a->n / 4))
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!eng_tv_equal(r, a->v[i], b->v[i]))
            return false;
    return true;
}

bool eng_tv_equal(struct eng_trender *r, struct eng_tv a, struct eng_tv b)
{
    bool equal = false;

    if (is_number(a) && is_number(b))
        return compare_numbers(a, b) == 0;
    if (a.kind != b.kind || !eng_tr_enter(r))
        return false;
    switch (a.kind) {
    case ENG_TV_UNDEFINED:
    case ENG_TV_NONE: equal = true; break;
    case ENG_TV_STR:
        equal = a.s.n == b.s.n && eng_tr_step(r, a.s.n / 64) && memcmp(a.s.p, b.s.p, a.s.n) == 0;
        break;
    case ENG_TV_LIST: equal = equal_lists(r, a.list, b.list); break;
    case ENG_TV_DICT: equal = equal_dicts(r, a.dict, b.dict); break;
    case ENG_TV_FUNCTION: equal = a.function == b.function; break;
    default: equal = a.dict == b.dict; break; /* the same object */
    }
    eng_tr_leave(r);
    return equal;
}

int eng_tv_compare(struct eng_trender *r, struct eng_tv a, struct eng_tv b)
{
    int c = 0;

    if (is_number(a) && is_number(b))
        return compare_numbers(a, b);
    if (a.kind == ENG_TV_STR && b.kind == ENG_TV_STR) {
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;

        if (!eng_tr_step(r, n / 64))
            return 0;
        c = n > 0 ? memcmp(a.s.p, b.s.p, n) : 0; /* UTF-8 sorts as its code points */
        return c != 0 ? c : a.s.n < b.s.n ? -1 : a.s.n > b.s.n;
    }
    if (a.kind == ENG_TV_LIST && b.kind == ENG_TV_LIST && a.list->kind == b.list->kind && eng_tr_enter(r)) {
        for (size_t i = 0; c == 0 && i < a.list->n && i < b.list->n && r->rc == BASE_OK; i++)
            c = eng_tv_equal(r, a.list->v[i], b.list->v[i]) ? 0
                                                            : eng_tv_compare(r, a.list->v[i], b.list->v[i]);
        eng_tr_leave(r);
        return c != 0 ? c : a.list->n < b.list->n ? -1 : a.list->n > b.list->n;
    }
    eng_tr_fail(r, BASE_INVALID, "no order between '%s' and '%s'", eng_tv_kind_name(a), eng_tv_kind_name(b));
    return 0;
}

size_t eng_tv_chars(const struct eng_tstr *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++)
        n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
    return n;
}

static const struct eng_tlist *characters(struct eng_trender *r, struct eng_tstr s)
{
    struct eng_tv list = eng_tv_list(r, ENG_TLIST, eng_tv_chars(&s));
    uint32_t cp;

    for (size_t i = 0, n; i < s.n && eng_tr_step(r, 1); i += n) {
        n = base_utf8_decode(s.p + i, s.n - i, &cp);
        eng_tv_append(r, list.list, eng_tv_slice(s, i, i + n));
    }
    return r->rc == BASE_OK ? list.list : NULL;
}

const struct eng_tlist *eng_tv_iterate(struct eng_trender *r, struct eng_tv v)
{
    struct eng_tv list;

    switch (v.kind) {
    case ENG_TV_LIST: return v.list;
    case ENG_TV_STR: return characters(r, v.s);
    case ENG_TV_UNDEFINED:
    case ENG_TV_DICT:
        list = eng_tv_list(r, ENG_TLIST, v.kind == ENG_TV_DICT ? v.dict->n : 0);
        for (size_t i = 0; v.kind == ENG_TV_DICT && i < v.dict->n && eng_tr_step(r, 1); i++)
            eng_tv_append(r, list.list, v.dict->v[i].key);
        return r->rc == BASE_OK ? list.list : NULL;
    default: eng_tr_fail(r, BASE_INVALID, "'%s' object is not iterable", eng_tv_kind_name(v)); return NULL;
    }
}

/* ---- growing text ---- */

static bool sink_room(struct eng_trender *r, struct eng_tsink *sink, size_t n)
{
    size_t cap = sink->cap;
    uint8_t *marks;
    char *p;

    if (r->rc != BASE_OK || !eng_tr_step(r, n / 64))
        return false;
    if (n > ENG_TEMPLATE_OUTPUT_MAX - sink->n) {
        eng_tr_fail(r, BASE_TOO_LARGE, "text passes %u bytes", ENG_TEMPLATE_OUTPUT_MAX);
        return false;
    }
    if (sink->n + n <= cap)
        return true;
    cap = cap < 256 ? 256 : cap;
    while (cap < sink->n + n)
        cap *= 2;
    p = eng_tr_alloc(r, cap);
    marks = eng_tr_alloc(r, cap);
    if (p == NULL || marks == NULL)
        return false;
    if (sink->n > 0) {
        memcpy(p, sink->p, sink->n);
        memcpy(marks, sink->marks, sink->n);
    }
    sink->p = p;
    sink->marks = marks;
    sink->cap = cap;
    return true;
}

void eng_tsink_bytes(struct eng_trender *r, struct eng_tsink *sink, const char *p, size_t n, bool marked)
{
    if (n == 0 || !sink_room(r, sink, n))
        return;
    memcpy(sink->p + sink->n, p, n);
    memset(sink->marks + sink->n, marked, n);
    sink->any_marked |= marked;
    sink->n += n;
}

void eng_tsink_add(struct eng_trender *r, struct eng_tsink *sink, struct eng_tstr s)
{
    if (s.marks == NULL || s.marks == eng_tv_all_marked) {
        eng_tsink_bytes(r, sink, s.p, s.n, s.marks != NULL);
        return;
    }
    if (s.n == 0 || !sink_room(r, sink, s.n))
        return;
    memcpy(sink->p + sink->n, s.p, s.n);
    memcpy(sink->marks + sink->n, s.marks, s.n);
    sink->any_marked = true;
    sink->n += s.n;
}

void eng_tsink_lit(struct eng_trender *r, struct eng_tsink *sink, const char *text)
{
    eng_tsink_bytes(r, sink, text, strlen(text), false);
}

struct eng_tv eng_tsink_take(struct eng_tsink *sink)
{
    struct eng_tv v = eng_tv_str(sink->n > 0 ? sink->p : "", sink->n, false);

    if (sink->any_marked)
        v.s.marks = sink->marks;
    return v;
}

/* ---- printing ---- */

/* Python's repr of a float: the fewest digits that read back as the same number. */
static void print_float(char out[64], double f, bool json)
{
    char digits[40], sign[2] = "";
    int exponent, n = 0, precision;

    if (isnan(f) || isinf(f)) {
        strcpy(out, isnan(f) ? (json ? "NaN" : "nan")
                    : json   ? (f < 0 ? "-Infinity" : "Infinity")
                    : f < 0  ? "-inf"
                             : "inf");
        return;
    }
    for (precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*e", precision, f);
        if (strtod(digits, NULL) == f)
            break;
    }
    if (digits[0] == '-') {
        sign[0] = '-';
        memmove(digits, digits + 1, strlen(digits));
    }
    exponent = atoi(strchr(digits, 'e') + 1);
    *strchr(digits, 'e') = '\0';
    for (char *p = digits; *p != '\0'; p++) /* drop the point */
        if (*p != '.')
            digits[n++] = *p;
    digits[n] = '\0';
    if (exponent < -4 || exponent >= 16)
        snprintf(out, 64, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "", digits + 1,
                 exponent < 0 ? '-' : '+', abs(exponent));
    else if (exponent < 0)
        snprintf(out, 64, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    else if (n <= exponent + 1)
        snprintf(out, 64, "%s%s%.*s.0", sign, digits, exponent + 1 - n, "0000000000000000");
    else
        snprintf(out, 64, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
}

static void print_number(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v, bool json)
{
    char text[64];

    if (v.kind == ENG_TV_FLOAT)
        print_float(text, v.f, json);
    else
        snprintf(text, sizeof(text), "%lld", (long long)v.i);
    eng_tsink_bytes(r, sink, text, strlen(text), v.marked);
}

static void print_repr(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v);

static void repr_str(struct eng_trender *r, struct eng_tsink *sink, struct eng_tstr s)
{
    bool has_single = memchr(s.p, '\'', s.n) != NULL, has_double = memchr(s.p, '"', s.n) != NULL;
    char quote = has_single && !has_double ? '"' : '\'';

    if (!eng_tr_step(r, s.n / 16))
        return;
    eng_tsink_bytes(r, sink, &quote, 1, false);
    for (size_t i = 0; i < s.n && r->rc == BASE_OK; i++) {
        unsigned char c = (unsigned char)s.p[i];
        char text[8] = {(char)c, 0};

        if (c == (unsigned char)quote || c == '\\')
            snprintf(text, sizeof(text), "\\%c", c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof(text), "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c < 0x20 || c == 0x7f)
            snprintf(text, sizeof(text), "\\x%02x", c);
        eng_tsink_bytes(r, sink, text, c == 0 ? 4 : strlen(text), eng_tstr_marked(&s, i));
    }
    eng_tsink_bytes(r, sink, &quote, 1, false);
}

static void repr_list(struct eng_trender *r, struct eng_tsink *sink, const struct eng_tlist *list)
{
    eng_tsink_lit(r, sink, list->kind == ENG_TTUPLE ? "(" : "[");
    for (size_t i = 0; i < list->n && r->rc == BASE_OK; i++) {
        if (i > 0)
            eng_tsink_lit(r, sink, ", ");
        print_repr(r, sink, list->v[i]);
    }
    eng_tsink_lit(r, sink, list->kind != ENG_TTUPLE ? "]" : list->n == 1 ? ",)" : ")");
}

static void repr_dict(struct eng_trender *r, struct eng_tsink *sink, const struct eng_tdict *dict)
{
    eng_tsink_lit(r, sink, "{");
    for (size_t i = 0; i < dict->n && r->rc == BASE_OK; i++) {
        if (i > 0)
            eng_tsink_lit(r, sink, ", ");
        print_repr(r, sink, dict->v[i].key);
        eng_tsink_lit(r, sink, ": ");
        print_repr(r, sink, dict->v[i].value);
    }
    eng_tsink_lit(r, sink, "}");
}

static void print_repr(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v)
{
    if (!eng_tr_step(r, 1) || !eng_tr_enter(r))
        return;
    if (v.kind == ENG_TV_STR)
        repr_str(r, sink, v.s);
    else if (v.kind == ENG_TV_UNDEFINED)
        eng_tsink_lit(r, sink, "Undefined");
    else
        eng_tsink_print(r, sink, v);
    eng_tr_leave(r);
}

void eng_tsink_print(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v)
{
    switch (v.kind) {
    case ENG_TV_UNDEFINED: break;
    case ENG_TV_NONE: eng_tsink_lit(r, sink, "None"); break;
    case ENG_TV_BOOL: eng_tsink_lit(r, sink, v.b ? "True" : "False"); break;
    case ENG_TV_INT:
    case ENG_TV_FLOAT: print_number(r, sink, v, false); break;
    case ENG_TV_STR: eng_tsink_add(r, sink, v.s); break;
    case ENG_TV_LIST:
        if (v.list->kind == ENG_TGENERATOR)
            eng_tsink_lit(r, sink, "<generator object>");
        else
            repr_list(r, sink, v.list);
        break;
    case ENG_TV_DICT: repr_dict(r, sink, v.dict); break;
    default:
        eng_tsink_lit(r, sink, "<");
        eng_tsink_lit(r, sink, eng_tv_kind_name(v));
        eng_tsink_lit(r, sink, ">");
        break;
    }
}

struct eng_tv eng_tv_to_str(struct eng_trender *r, struct eng_tv v)
{
    struct eng_tsink sink = {0};

    if (v.kind == ENG_TV_STR)
        return v;
    eng_tsink_print(r, &sink, v);
    return eng_tsink_take(&sink);
}

/* ---- JSON ---- */

static size_t json_escape(char out[16], const char *p, size_t n, bool ascii, size_t *ret_len)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    unsigned char c = (unsigned char)*p;
    const char *at = c != '\0' ? strchr(from, c) : NULL;
    uint32_t cp;

    *ret_len = 1;
    if (at != NULL)
        return (size_t)snprintf(out, 16, "\\%c", to[at - from]);
    if (c < 0x20)
        return (size_t)snprintf(out, 16, "\\u%04x", c);
    if (c < 0x80 || !ascii)
        return 0;
    *ret_len = base_utf8_decode(p, n, &cp);
    if (cp >= 0x10000)
        return (size_t)snprintf(out, 16, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                                0xdc00 + (cp & 0x3ff));
    return (size_t)snprintf(out, 16, "\\u%04x", cp);
}

static void json_str(struct eng_trender *r, struct eng_tsink *sink, struct eng_tstr s, bool ascii)
{
    size_t plain = 0, i = 0;

    if (!eng_tr_step(r, s.n / 32))
        return;
    eng_tsink_lit(r, sink, "\"");
    while (i < s.n && r->rc == BASE_OK) {
        char escaped[16];
        size_t len, n = json_escape(escaped, s.p + i, s.n - i, ascii, &len);

        if (n > 0) {
            eng_tsink_add(r, sink, eng_tv_slice(s, plain, i).s);
            eng_tsink_bytes(r, sink, escaped, n, eng_tstr_marked(&s, i));
            plain = i + len;
        }
        i += len;
    }
    eng_tsink_add(r, sink, eng_tv_slice(s, plain, s.n).s);
    eng_tsink_lit(r, sink, "\"");
}

static void json_newline(struct eng_trender *r, struct eng_tsink *sink, const struct eng_tjson *how,
                         unsigned level)
{
    if (how->indent < 0)
        return;
    eng_tsink_lit(r, sink, "\n");
    for (unsigned i = 0; i < level * (unsigned)how->indent && r->rc == BASE_OK; i++)
        eng_tsink_lit(r, sink, " ");
}

static void json_key(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv key,
                     const struct eng_tjson *how)
{
    if (key.kind == ENG_TV_STR) {
        json_str(r, sink, key.s, how->ascii);
        return;
    }
    eng_tsink_lit(r, sink, "\"");
    eng_tsink_json(r, sink, key, how, 0);
    eng_tsink_lit(r, sink, "\"");
}

static int by_key(const void *a, const void *b, void *arg)
{
    return eng_tv_compare(arg, ((const struct eng_tpair *)a)->key, ((const struct eng_tpair *)b)->key);
}

static void json_dict(struct eng_trender *r, struct eng_tsink *sink, const struct eng_tdict *dict,
                      const struct eng_tjson *how, unsigned level)
{
    const struct eng_tpair *v = dict->v;

    if (how->sort_keys && dict->n > 1) {
        struct eng_tpair *sorted = eng_tr_alloc(r, dict->n * sizeof(*sorted));

        if (sorted == NULL || !eng_tr_step(r, dict->n * 4))
            return;
        memcpy(sorted, v, dict->n * sizeof(*sorted));
        qsort_r(sorted, dict->n, sizeof(*sorted), by_key, r);
        v = sorted;
    }
    eng_tsink_lit(r, sink, "{");
    for (size_t i = 0; i < dict->n && r->rc == BASE_OK; i++) {
        if (i > 0)
            eng_tsink_add(r, sink, how->item_sep);
        json_newline(r, sink, how, level + 1);
        json_key(r, sink, v[i].key, how);
        eng_tsink_add(r, sink, how->key_sep);
        eng_tsink_json(r, sink, v[i].value, how, level + 1);
    }
    if (dict->n > 0)
        json_newline(r, sink, how, level);
    eng_tsink_lit(r, sink, "}");
}

static void json_list(struct eng_trender *r, struct eng_tsink *sink, const struct eng_tlist *list,
                      const struct eng_tjson *how, unsigned level)
{
    eng_tsink_lit(r, sink, "[");
    for (size_t i = 0; i < list->n && r->rc == BASE_OK; i++) {
        if (i > 0)
            eng_tsink_add(r, sink, how->item_sep);
        json_newline(r, sink, how, level + 1);
        eng_tsink_json(r, sink, list->v[i], how, level + 1);
    }
    if (list->n > 0)
        json_newline(r, sink, how, level);
    eng_tsink_lit(r, sink, "]");
}

void eng_tsink_json(struct eng_trender *r, struct eng_tsink *sink, struct eng_tv v,
                    const struct eng_tjson *how, unsigned level)
{
    if (!eng_tr_step(r, 1) || !eng_tr_enter(r))
        return;
    if (v.kind == ENG_TV_NONE)
        eng_tsink_lit(r, sink, "null");
    else if (v.kind == ENG_TV_BOOL)
        eng_tsink_lit(r, sink, v.b ? "true" : "false");
    else if (v.kind == ENG_TV_INT || v.kind == ENG_TV_FLOAT)
        print_number(r, sink, v, true);
    else if (v.kind == ENG_TV_STR)
        json_str(r, sink, v.s, how->ascii);
    else if (v.kind == ENG_TV_LIST && v.list->kind != ENG_TGENERATOR)
        json_list(r, sink, v.list, how, level);
    else if (v.kind == ENG_TV_DICT)
        json_dict(r, sink, v.dict, how, level);
    else
        eng_tr_fail(r, BASE_INVALID, "Object of type %s is not JSON serializable", eng_tv_kind_name(v));
    eng_tr_leave(r);
}
