/* SCIM filters and paths. See scim_filter.h.
 *
 *     filter = and *( "or" and ) ; and = term *( "and" term ) ; term = "not" "(" filter ")" / "(" filter ")" / compare
 *     compare = attr "pr" / attr ("eq"/"co"/"sw") value / attr "[" filter "]" [ "." sub op value ]
 */
#include "gateway/scim_filter.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/str.h"

#include <string.h>

bool gw_scim_same(const char *a, const char *b)
{
    return base_ascii_ieq(a, strlen(a), b, strlen(b));
}

/* ---- tokens ---- */

struct reader {
    const char *at, *end;
    struct gw_scim_filter *filter;
    enum gw_scim_kind kind;
    enum gw_scim_attr inside; /* brackets of this attribute */
    unsigned depth;
};

static bool refuse(struct reader *r, const char *wrong)
{
    r->filter->wrong = wrong;
    return false;
}

static void skip_blank(struct reader *r)
{
    while (r->at < r->end && *r->at == ' ')
        r->at++;
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("-_.:$", c) != NULL);
}

/* A word of name characters; "" when there is none, or it is too long to be one that we know. */
static void read_word(const char **at, const char *end, char out[GW_SCIM_NAME_MAX])
{
    const char *from = *at;
    size_t n;

    while (*at < end && name_char(**at))
        (*at)++;
    n = (size_t)(*at - from);
    if (n >= GW_SCIM_NAME_MAX)
        n = 0;
    memcpy(out, from, n);
    out[n] = '\0';
}

/* Looks at the next word, and takes it only when it is this one. */
static bool take_word(struct reader *r, const char *word)
{
    const char *before = r->at;
    char found[GW_SCIM_NAME_MAX];

    skip_blank(r);
    read_word(&r->at, r->end, found);
    if (gw_scim_same(found, word))
        return true;
    r->at = before;
    return false;
}

static bool take_char(struct reader *r, char c)
{
    skip_blank(r);
    if (r->at == r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

/* A JSON string with the escapes of one character; \u is refused: nobody sends it, and it could hide a NUL. */
static bool read_string(const char **at, const char *end, char *out, size_t size, size_t *ret_n)
{
    size_t n = 0;

    if (*at == end || **at != '"')
        return false;
    for ((*at)++; *at < end && **at != '"'; (*at)++) {
        char c = **at;

        if (c == '\\') {
            if (++*at == end || strchr("\"\\/", **at) == NULL)
                return false;
            c = **at;
        } else if ((unsigned char)c < 0x20 || c == 0x7f) {
            return false;
        }
        if (n + 1 >= size)
            return false;
        out[n++] = c;
    }
    if (*at == end)
        return false;
    (*at)++;
    out[n] = '\0';
    *ret_n = n;
    return true;
}

/* ---- nodes ---- */

static bool add_node(struct reader *r, struct gw_scim_node node, unsigned *ret_index)
{
    if (!CHECK("scim.filter_size", r->filter->n < GW_SCIM_NODES_MAX))
        return refuse(r, "The filter has too many terms.");
    if (r->filter->n >= GW_SCIM_NODES_MAX) /* the check above may be switched off by a test; memory may not */
        return true;
    r->filter->nodes[r->filter->n] = node;
    *ret_index = r->filter->n++;
    return true;
}

static const struct {
    const char *name;
    enum gw_scim_kind kind; /* NONE: both */
    enum gw_scim_attr inside, attr;
} attributes[] = {
    {"id", GW_SCIM_NONE, GW_SCIM_A_NONE, GW_SCIM_A_ID},
    {"externalId", GW_SCIM_NONE, GW_SCIM_A_NONE, GW_SCIM_A_EXTERNAL_ID},
    {"displayName", GW_SCIM_NONE, GW_SCIM_A_NONE, GW_SCIM_A_DISPLAY_NAME},
    {"userName", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_USER_NAME},
    {"active", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_ACTIVE},
    {"name.givenName", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_GIVEN_NAME},
    {"name.familyName", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_FAMILY_NAME},
    {"emails", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_EMAILS},
    {"emails.value", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_EMAIL_VALUE},
    {"emails.type", GW_SCIM_USER, GW_SCIM_A_NONE, GW_SCIM_A_EMAIL_TYPE},
    {"members", GW_SCIM_GROUP, GW_SCIM_A_NONE, GW_SCIM_A_MEMBER},
    {"members.value", GW_SCIM_GROUP, GW_SCIM_A_NONE, GW_SCIM_A_MEMBER},
    {"value", GW_SCIM_USER, GW_SCIM_A_EMAILS, GW_SCIM_A_EMAIL_VALUE},
    {"type", GW_SCIM_USER, GW_SCIM_A_EMAILS, GW_SCIM_A_EMAIL_TYPE},
    {"value", GW_SCIM_GROUP, GW_SCIM_A_MEMBER, GW_SCIM_A_MEMBER},
};

const char *gw_scim_without_urn(const char *name)
{
    static const char *const urns[] = {GW_SCIM_URN_USER ":", GW_SCIM_URN_GROUP ":"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(urns); i++) {
        size_t n = strlen(urns[i]);

        if (strlen(name) > n && base_ascii_ieq(name, n, urns[i], n))
            return name + n;
    }
    return name;
}

static enum gw_scim_attr attribute_of(const struct reader *r, const char *name)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(attributes); i++)
        if (attributes[i].inside == r->inside &&
            (attributes[i].kind == GW_SCIM_NONE || attributes[i].kind == r->kind) &&
            gw_scim_same(attributes[i].name, gw_scim_without_urn(name)))
            return attributes[i].attr;
    return GW_SCIM_A_NONE;
}

/* op and value behind an attribute. */
static bool read_compare(struct reader *r, enum gw_scim_attr attr, unsigned *ret_index)
{
    struct gw_scim_node node = {.attr = attr, .value = ""};
    struct gw_scim_filter *filter = r->filter;
    size_t n = 0;

    if (take_word(r, "pr"))
        node.op = GW_SCIM_PR;
    else if (take_word(r, "eq"))
        node.op = GW_SCIM_EQ;
    else if (take_word(r, "co"))
        node.op = GW_SCIM_CO;
    else if (take_word(r, "sw"))
        node.op = GW_SCIM_SW;
    else
        return refuse(r, "Only eq, co, sw and pr are supported.");
    if (attr == GW_SCIM_A_ACTIVE && node.op != GW_SCIM_EQ && node.op != GW_SCIM_PR)
        return refuse(r, "active can be compared by eq alone.");
    if (node.op == GW_SCIM_PR)
        return add_node(r, node, ret_index);
    skip_blank(r);
    if (attr == GW_SCIM_A_ACTIVE && (r->at == r->end || *r->at != '"')) {
        node.value = take_word(r, "true") ? "true" : "false";
        if (node.value[0] == 'f' && !take_word(r, "false"))
            return refuse(r, "active is compared with true or false.");
        return add_node(r, node, ret_index);
    }
    node.value = filter->text + filter->text_used;
    if (!read_string(&r->at, r->end, filter->text + filter->text_used,
                     sizeof(filter->text) - filter->text_used, &n))
        return refuse(r, "A value must be a string in double quotes.");
    filter->text_used += n + 1;
    if (attr == GW_SCIM_A_ACTIVE && !gw_scim_same(node.value, "true") && !gw_scim_same(node.value, "false"))
        return refuse(r, "active is compared with true or false.");
    return add_node(r, node, ret_index);
}

static bool read_or(struct reader *r, unsigned *ret_index);

static bool read_nested(struct reader *r, char close, unsigned *ret_index)
{
    bool ok;

    if (!CHECK("scim.filter_depth", r->depth < GW_SCIM_FILTER_DEPTH))
        return refuse(r, "The filter is nested too deeply.");
    r->depth++;
    ok = read_or(r, ret_index);
    r->depth--;
    return ok && (take_char(r, close) || refuse(r, "A bracket is not closed."));
}

/* attr[filter], and the form attr[filter].value eq "x" that some clients send. */
static bool read_brackets(struct reader *r, enum gw_scim_attr attr, unsigned *ret_index)
{
    struct gw_scim_node any = {.op = GW_SCIM_ANY, .attr = attr};
    char sub[GW_SCIM_NAME_MAX];

    if (r->inside != GW_SCIM_A_NONE || (attr != GW_SCIM_A_EMAILS && attr != GW_SCIM_A_MEMBER))
        return refuse(r, "Only emails and members can be filtered in brackets.");
    r->at++;
    r->inside = attr;
    if (!read_nested(r, ']', &any.left))
        return false;
    if (r->at < r->end && *r->at == '.') {
        struct gw_scim_node both = {.op = GW_SCIM_AND, .left = any.left};

        r->at++;
        read_word(&r->at, r->end, sub);
        if (attribute_of(r, sub) == GW_SCIM_A_NONE)
            return refuse(r, "The filter names an attribute that cannot be filtered by.");
        if (!read_compare(r, attribute_of(r, sub), &both.right) || !add_node(r, both, &any.left))
            return false;
    }
    r->inside = GW_SCIM_A_NONE;
    return add_node(r, any, ret_index);
}

static bool read_attribute(struct reader *r, unsigned *ret_index)
{
    char name[GW_SCIM_NAME_MAX];
    enum gw_scim_attr attr;
    struct gw_scim_node any = {.op = GW_SCIM_ANY};

    skip_blank(r);
    read_word(&r->at, r->end, name);
    attr = attribute_of(r, name);
    if (!CHECK("scim.filter_attribute", attr != GW_SCIM_A_NONE))
        return refuse(r, "The filter names an attribute that cannot be filtered by.");
    if (r->at < r->end && *r->at == '[')
        return read_brackets(r, attr, ret_index);
    if (attr == GW_SCIM_A_EMAILS)
        attr = GW_SCIM_A_EMAIL_VALUE;
    if (r->inside != GW_SCIM_A_NONE ||
        (attr != GW_SCIM_A_EMAIL_VALUE && attr != GW_SCIM_A_EMAIL_TYPE && attr != GW_SCIM_A_MEMBER))
        return read_compare(r, attr, ret_index);
    any.attr = attr == GW_SCIM_A_MEMBER ? attr : GW_SCIM_A_EMAILS;
    return read_compare(r, attr, &any.left) && add_node(r, any, ret_index);
}

static bool read_term(struct reader *r, unsigned *ret_index)
{
    struct gw_scim_node not = {.op = GW_SCIM_NOT};

    if (take_char(r, '('))
        return read_nested(r, ')', ret_index);
    if (!take_word(r, "not"))
        return read_attribute(r, ret_index);
    if (!take_char(r, '('))
        return refuse(r, "What is negated must stand in parentheses.");
    return read_nested(r, ')', &not .left) && add_node(r, not, ret_index);
}

static bool read_and(struct reader *r, unsigned *ret_index)
{
    if (!read_term(r, ret_index))
        return false;
    while (take_word(r, "and")) {
        struct gw_scim_node both = {.op = GW_SCIM_AND, .left = *ret_index};

        if (!read_term(r, &both.right) || !add_node(r, both, ret_index))
            return false;
    }
    return true;
}

static bool read_or(struct reader *r, unsigned *ret_index)
{
    if (!read_and(r, ret_index))
        return false;
    while (take_word(r, "or")) {
        struct gw_scim_node either = {.op = GW_SCIM_OR, .left = *ret_index};

        if (!read_and(r, &either.right) || !add_node(r, either, ret_index))
            return false;
    }
    return true;
}

bool gw_scim_filter_parse(struct gw_scim_filter *filter, enum gw_scim_kind kind, const char *text, size_t len)
{
    struct reader r = {.at = text, .end = text + len, .filter = filter, .kind = kind};

    memset(filter, 0, sizeof(*filter));
    if (len > GW_SCIM_FILTER_MAX)
        return refuse(&r, "The filter is too long.");
    if (!CHECK("scim.filter_utf8", base_utf8_valid(text, len)))
        return refuse(&r, "The filter is not UTF-8.");
    if (!read_or(&r, &filter->root))
        return false;
    skip_blank(&r);
    if (!CHECK("scim.filter_rest", r.at == r.end))
        return refuse(&r, "The filter goes on after its end.");
    return true;
}

/* ---- paths ---- */

static bool read_conds(struct gw_scim_path *path, const char **at, const char *end)
{
    struct reader r = {.at = *at, .end = end};

    do {
        struct gw_scim_cond *cond = &path->conds[path->n_conds];
        size_t n;

        if (path->n_conds == GW_SCIM_CONDS_MAX)
            return false;
        skip_blank(&r);
        read_word(&r.at, end, cond->name);
        if (cond->name[0] == '\0' || !take_word(&r, "eq"))
            return false;
        skip_blank(&r);
        if (r.at < end && *r.at == '"') {
            if (!read_string(&r.at, end, cond->value, sizeof(cond->value), &n))
                return false;
        } else if (take_word(&r, "true")) {
            strcpy(cond->value, "true");
        } else if (take_word(&r, "false")) {
            strcpy(cond->value, "false");
        } else {
            return false;
        }
        path->n_conds++;
    } while (take_word(&r, "and"));
    if (!take_char(&r, ']'))
        return false;
    *at = r.at;
    return true;
}

bool gw_scim_path_parse(struct gw_scim_path *path, const char *text, size_t len)
{
    static const char urn[] = GW_SCIM_URN_ENTERPRISE;
    const char *at = text, *end = text + len;
    char word[GW_SCIM_NAME_MAX];
    const char *name;
    char *dot;

    memset(path, 0, sizeof(*path));
    if (len > GW_SCIM_FILTER_MAX || !base_utf8_valid(text, len))
        return false;
    if (len >= sizeof(urn) - 1 && base_ascii_ieq(text, sizeof(urn) - 1, urn, sizeof(urn) - 1)) {
        path->enterprise = true;
        at += sizeof(urn) - 1;
        if (at == end)
            return true;
        if (*at != ':' && *at != '.')
            return false;
        at++;
    }
    read_word(&at, end, word);
    name = gw_scim_without_urn(word);
    if (name[0] == '\0' || strchr(name, ':') != NULL)
        return false;
    strcpy(path->attr, name);
    dot = strchr(path->attr, '.');
    if (dot != NULL) {
        strcpy(path->sub, dot + 1);
        *dot = '\0';
    } else if (at < end && *at == '[') {
        at++;
        path->filtered = true;
        if (!read_conds(path, &at, end))
            return false;
        if (at < end && *at == '.') {
            at++;
            read_word(&at, end, path->sub);
            if (path->sub[0] == '\0')
                return false;
        }
    }
    return path->attr[0] != '\0' && at == end && strchr(path->sub, '.') == NULL &&
           (dot == NULL || path->sub[0] != '\0');
}
