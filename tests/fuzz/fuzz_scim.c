/* Fuzz: SCIM bodies, filters, paths and queries through the gateway's own codecs.
 *
 * The first byte says what the rest is (a newline behind it is skipped):
 *   U, G   a user, a group            S   a search's body         A   a list of attributes, applied to a user and a group
 *   P, Q   a patch of a user, of a group; P may bring the user before it, divided by a line "---"
 *   F, H   a filter of users, of groups     N   a path     X   a query (filter=...&startIndex=...)
 *
 * Beyond "no crash": what was taken reads the same again, keeps its limits and can be sent back as it was given out; a filter's statement
 * is made of fixed text, whatever the values are.
 */
#include "base/clock.h"
#include "base/str.h"
#include "gateway/codec_scim.h"
#include "gateway/form.h"
#include "gateway/scim_schema.h"
#include "gateway/scim_sql.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define ID  "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
#define ID2 "1a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
#define URL "https://gate.example/scim/v2"

static const char old_user[] =
    "{\"active\":false,\"displayName\":\"Ada\",\"emails\":[{\"primary\":true,\"type\":\"work\",\"value\":"
    "\"ada@x\"},"
    "{\"type\":\"home\",\"value\":\"a@h\"}],\"externalId\":\"x1\",\"name\":{\"givenName\":\"Ada\"},\"urn:"
    "ietf:params:"
    "scim:schemas:extension:enterprise:2.0:User\":{\"department\":\"R\"},\"userName\":\"ada@x\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static bool printable(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++)
        if (*c < 0x20 || *c == 0x7f)
            return false;
    return base_utf8_valid(text, strlen(text));
}

static void check_name(const char *text)
{
    must(text[0] != '\0' && strlen(text) <= GW_SCIM_TEXT_MAX && printable(text));
}

/* A refusal is one that can be answered and logged. */
static void check_error(const struct gw_scim_error *error)
{
    struct base_buf out = BASE_BUF_INIT(4096);
    json_t *json;

    must(error->status == 400 && error->detail != NULL && error->check != NULL);
    gw_scim_error_json(&out, error);
    json = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    must(json_is_object(json));
    json_decref(json);
    base_buf_free(&out);
}

/* ---- users ---- */

static struct gw_scim_row row_of(enum gw_scim_kind kind, const char *doc)
{
    return (struct gw_scim_row){.kind = kind,
                                .id = ID,
                                .doc = doc,
                                .display_name = "a \"group\"",
                                .external_id = "x",
                                .refs = "[{\"value\":\"" ID2 "\",\"display\":\"d\",\"type\":\"User\"}]",
                                .version = 7,
                                .created_us = 1700000000000000,
                                .changed_us = 1700000000000001};
}

static void same_user(const struct gw_scim_user *user, const char *body, size_t len)
{
    struct gw_scim_error error = {0};
    struct gw_scim_user again = {0};

    must(gw_scim_user_read(&again, NULL, body, len, &error));
    must(strcmp(user->doc, again.doc) == 0 && strcmp(user->user_name, again.user_name) == 0);
    must((user->external_id == NULL) == (again.external_id == NULL) &&
         (user->external_id == NULL || strcmp(user->external_id, again.external_id) == 0));
    must(user->active == again.active);
    gw_scim_user_free(&again);
}

/* What is stored, and what a client is given, is a body that brings the same user. */
static void check_user(const struct gw_scim_user *user)
{
    const struct gw_scim_query all = {.start = -1, .count = -1};
    struct gw_scim_row row = row_of(GW_SCIM_USER, user->doc);
    struct base_buf out = BASE_BUF_INIT(1u << 20);
    json_t *doc = json_loads(user->doc, JSON_REJECT_DUPLICATES, NULL);

    check_name(user->user_name);
    if (user->external_id != NULL)
        check_name(user->external_id);
    must(strlen(user->doc) <= GW_SCIM_DOC_MAX && printable(user->doc));
    must(json_is_object(doc) && json_is_boolean(json_object_get(doc, "active")));
    must(json_array_size(json_object_get(doc, "emails")) <= GW_SCIM_EMAILS_MAX);
    must(json_object_get(doc, "id") == NULL && json_object_get(doc, "meta") == NULL &&
         json_object_get(doc, "groups") == NULL && json_object_get(doc, "password") == NULL);
    same_user(user, user->doc, strlen(user->doc));
    must(gw_scim_render(&out, &row, &all, URL));
    same_user(user, out.data, out.len);
    base_buf_free(&out);
    json_decref(doc);
}

static bool says_active(const char *text, size_t len)
{
    json_t *json = json_loadb(text, len, 0, NULL), *value;
    bool says = false;
    const char *key;

    json_object_foreach(json, key, value) says |= gw_scim_same(gw_scim_without_urn(key), "active");
    json_decref(json);
    return says;
}

static void try_user(const char *text, size_t len)
{
    struct gw_scim_error error = {0};
    struct gw_scim_user user = {0}, of_inactive = {0};

    if (!gw_scim_user_read(&user, NULL, text, len, &error)) {
        check_error(&error);
        must(user.doc == NULL && !gw_scim_user_read(&user, old_user, text, len, &error));
        return;
    }
    check_user(&user);
    /* Over somebody who is deactivated: active only by the body's own word. */
    must(gw_scim_user_read(&of_inactive, old_user, text, len, &error));
    must(strcmp(of_inactive.user_name, user.user_name) == 0);
    must(!of_inactive.active || (user.active && says_active(text, len)));
    gw_scim_user_free(&of_inactive);
    gw_scim_user_free(&user);
}

static void try_user_patch(const char *text, size_t len)
{
    static const char divider[] = "\n---\n";
    const char *at = memmem(text, len, divider, sizeof(divider) - 1);
    struct gw_scim_error error = {0};
    struct gw_scim_user before = {0}, after = {0};
    size_t skip = 0;

    if (at != NULL) {
        skip = (size_t)(at - text) + sizeof(divider) - 1;
        if (!gw_scim_user_read(&before, NULL, text, (size_t)(at - text), &error))
            return;
    }
    if (gw_scim_user_patch(&after, before.doc != NULL ? before.doc : old_user, text + skip, len - skip,
                           &error))
        check_user(&after);
    else
        check_error(&error);
    gw_scim_user_free(&before);
    gw_scim_user_free(&after);
}

/* ---- groups ---- */

static void check_step(const struct gw_scim_step *step)
{
    const char *at = step->ids + 1;

    must(step->kind >= GW_SCIM_ADD && step->kind <= GW_SCIM_REPLACE && step->ids[0] == '{');
    for (size_t i = 0; i < step->n; i++, at += GW_SCIM_ID_LEN) {
        at += i > 0;
        must(i == 0 || at[-1] == ',');
        must(strnlen(at, GW_SCIM_ID_LEN) == GW_SCIM_ID_LEN && gw_scim_id_valid(at, GW_SCIM_ID_LEN));
        for (size_t k = 0; k < GW_SCIM_ID_LEN; k++)
            must(at[k] < 'A' || at[k] > 'F');
    }
    must(strcmp(at, "}") == 0);
}

static void try_group(bool patch, const char *text, size_t len)
{
    struct gw_scim_error error = {0};
    struct gw_scim_group group = {0};
    size_t n = 0;

    if (!(patch ? gw_scim_group_patch : gw_scim_group_read)(&group, text, len, &error)) {
        check_error(&error);
        must(group.steps == NULL && group.display_name == NULL);
        return;
    }
    if (!patch)
        must(group.sets_display_name && group.sets_external_id && group.n_steps == 1 &&
             group.steps[0].kind == GW_SCIM_REPLACE);
    if (group.sets_display_name)
        check_name(group.display_name);
    if (group.external_id != NULL) {
        must(group.sets_external_id);
        check_name(group.external_id);
    }
    must(group.n_steps <= GW_SCIM_OPS_MAX);
    for (size_t i = 0; i < group.n_steps; i++) {
        check_step(&group.steps[i]);
        n += group.steps[i].n;
    }
    must(n == group.n_members && n <= GW_SCIM_MEMBERS_MAX);
    gw_scim_group_free(&group);
}

/* ---- filters ---- */

/* A tree, each node of it used once. Returns how many. */
static unsigned check_node(const struct gw_scim_filter *filter, unsigned index, bool inside)
{
    const struct gw_scim_node *node;

    must(index < filter->n);
    node = &filter->nodes[index];
    switch (node->op) {
    case GW_SCIM_AND:
    case GW_SCIM_OR:
        return 1 + check_node(filter, node->left, inside) + check_node(filter, node->right, inside);
    case GW_SCIM_NOT: return 1 + check_node(filter, node->left, inside);
    case GW_SCIM_ANY:
        must(!inside && (node->attr == GW_SCIM_A_EMAILS || node->attr == GW_SCIM_A_MEMBER));
        return 1 + check_node(filter, node->left, true);
    case GW_SCIM_PR:
    case GW_SCIM_EQ:
    case GW_SCIM_CO:
    case GW_SCIM_SW: break;
    }
    must(node->op >= GW_SCIM_EQ && node->op <= GW_SCIM_PR && node->attr != GW_SCIM_A_NONE &&
         node->attr != GW_SCIM_A_EMAILS);
    must(inside == (node->attr == GW_SCIM_A_EMAIL_TYPE || node->attr == GW_SCIM_A_EMAIL_VALUE ||
                    node->attr == GW_SCIM_A_MEMBER));
    must(printable(node->value));
    return 1;
}

/* Every value is a parameter, where it stands as it is; with other values the statement is the same. */
static void check_statement(enum gw_scim_kind kind, struct gw_scim_filter *filter)
{
    struct base_buf first = BASE_BUF_INIT(64u << 10), second = BASE_BUF_INIT(64u << 10);
    struct base_pg_param params[BASE_PG_PARAMS_MAX];
    unsigned n = gw_scim_sql_where(&first, kind, filter, params), n_values = 0;

    for (unsigned i = 0; i < n; i++) {
        unsigned n_found = 0;

        for (unsigned k = 0; k < filter->n; k++)
            n_found += filter->nodes[k].value == params[i].data;
        must(n_found == 1 && !params[i].binary);
    }
    for (unsigned k = 0; k < filter->n; k++) {
        struct gw_scim_node *node = &filter->nodes[k];
        bool id = (node->attr == GW_SCIM_A_ID || node->attr == GW_SCIM_A_MEMBER) && node->op == GW_SCIM_EQ;

        if (node->op > GW_SCIM_SW || node->attr == GW_SCIM_A_ACTIVE)
            continue;
        if (id)
            node->value = gw_scim_id_valid(node->value, strlen(node->value)) ? ID : "none";
        else
            node->value = "$1' OR x";
        n_values += !id || strcmp(node->value, ID) == 0;
    }
    must(n == n_values && !first.failed);
    must(gw_scim_sql_where(&second, kind, filter, params) == n);
    must(second.len == first.len && memcmp(second.data, first.data, first.len) == 0);
    base_buf_free(&first);
    base_buf_free(&second);
}

/* The values fill the filter's text, one behind the other. */
static void check_values(const struct gw_scim_filter *filter)
{
    size_t used = 0;

    for (unsigned k = 0; k < filter->n; k++) {
        const char *value = filter->nodes[k].value;

        if (value != NULL && value >= filter->text && value < filter->text + sizeof(filter->text))
            used += strlen(value) + 1;
    }
    must(used == filter->text_used);
}

static void try_filter(enum gw_scim_kind kind, const char *text, size_t len)
{
    static struct gw_scim_filter filter;

    if (memchr(text, '\0', len) != NULL)
        return; /* the form and the JSON reader refuse it before */
    if (!gw_scim_filter_parse(&filter, kind, text, len)) {
        must(filter.wrong != NULL && printable(filter.wrong));
        return;
    }
    must(filter.n >= 1 && filter.n <= GW_SCIM_NODES_MAX && filter.text_used <= sizeof(filter.text));
    must(check_node(&filter, filter.root, false) == filter.n);
    check_values(&filter);
    check_statement(kind, &filter);
}

/* ---- paths ---- */

static void put_string(struct base_buf *out, const char *text)
{
    base_buf_append_char(out, '"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            base_buf_append_char(out, '\\');
        base_buf_append_char(out, *text);
    }
    base_buf_append_char(out, '"');
}

/* Written down again it reads the same. */
static void try_path(const char *text, size_t len)
{
    static struct gw_scim_path path, again;
    struct base_buf out = BASE_BUF_INIT(16384);

    if (!gw_scim_path_parse(&path, text, len))
        return;
    must(path.enterprise || path.attr[0] != '\0');
    must(path.n_conds <= GW_SCIM_CONDS_MAX && path.filtered == (path.n_conds > 0));
    base_buf_append_str(&out, path.enterprise ? GW_SCIM_URN_ENTERPRISE : "");
    if (path.enterprise && path.attr[0] != '\0')
        base_buf_append_char(&out, ':');
    base_buf_append_str(&out, path.attr);
    for (unsigned i = 0; i < path.n_conds; i++) {
        base_buf_printf(&out, "%s%s eq ", i == 0 ? "[" : " and ", path.conds[i].name);
        put_string(&out, path.conds[i].value);
    }
    base_buf_append_str(&out, path.filtered ? "]" : "");
    if (path.sub[0] != '\0')
        base_buf_printf(&out, ".%s", path.sub);
    if (out.len <= GW_SCIM_FILTER_MAX) {
        must(gw_scim_path_parse(&again, out.data != NULL ? out.data : "", out.len));
        must(again.enterprise == path.enterprise && strcmp(again.attr, path.attr) == 0 &&
             strcmp(again.sub, path.sub) == 0 && again.n_conds == path.n_conds);
        for (unsigned i = 0; i < path.n_conds; i++)
            must(strcmp(again.conds[i].name, path.conds[i].name) == 0 &&
                 strcmp(again.conds[i].value, path.conds[i].value) == 0);
    }
    base_buf_free(&out);
}

/* ---- queries ---- */

static void check_rendered(enum gw_scim_kind kind, const struct gw_scim_query *query)
{
    struct gw_scim_row row = row_of(kind, old_user);
    struct base_buf out = BASE_BUF_INIT(65536);
    json_t *json;

    gw_scim_wants(query, "groups");
    must(gw_scim_render(&out, &row, query, URL));
    json = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    must(json_is_object(json) && strcmp(json_string_value(json_object_get(json, "id")), ID) == 0);
    must(json_is_array(json_object_get(json, "schemas")));
    json_decref(json);
    base_buf_free(&out);
}

static void try_attributes(const char *text, size_t len)
{
    static struct gw_scim_query query;

    if (len >= GW_SCIM_LIST_MAX || memchr(text, '\0', len) != NULL)
        return;
    for (int excluded = 0; excluded < 2; excluded++) {
        query = (struct gw_scim_query){.start = -1, .count = -1};
        memcpy(excluded ? query.excluded : query.attributes, text, len);
        check_rendered(GW_SCIM_USER, &query);
        check_rendered(GW_SCIM_GROUP, &query);
    }
}

static void try_search(const char *text, size_t len)
{
    static struct gw_scim_query query;
    struct gw_scim_error error = {0};

    if (!gw_scim_search_read(&query, text, len, &error)) {
        check_error(&error);
        return;
    }
    must(query.start >= -1 && query.count >= -1 && strlen(query.filter) <= GW_SCIM_FILTER_MAX);
    must(query.filtered || query.filter[0] == '\0');
    if (query.filtered)
        try_filter(GW_SCIM_USER, query.filter, strlen(query.filter));
    check_rendered(GW_SCIM_USER, &query);
}

static void try_query(const char *text, size_t len)
{
    static const char *const names[] = {"attributes", "excludedAttributes", "startIndex", "count"};
    char filter[GW_SCIM_FILTER_MAX + 1], value[GW_SCIM_LIST_MAX];

    if (gw_form_get(text, len, "filter", filter, sizeof(filter)) == BASE_OK) {
        try_filter(GW_SCIM_USER, filter, strlen(filter));
        try_filter(GW_SCIM_GROUP, filter, strlen(filter));
    }
    for (size_t i = 0; i < BASE_ARRAY_LEN(names); i++)
        if (gw_form_get(text, len, names[i], value, sizeof(value)) == BASE_OK)
            try_attributes(value, strlen(value));
}

/* ---- all ---- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct base_buf discovery = BASE_BUF_INIT(65536);
    const char *text;
    char *copy, kind;

    if (size < 1)
        return 0;
    kind = (char)data[0];
    data++;
    size--;
    if (size > 0 && data[0] == '\n') {
        data++;
        size--;
    }
    copy = malloc(size + 1); /* of exact size but for a NUL, which some readers promise themselves */
    memcpy(copy, data, size);
    copy[size] = '\0';
    text = copy;
    switch (kind) {
    case 'U': try_user(text, size); break;
    case 'P': try_user_patch(text, size); break;
    case 'G': try_group(false, text, size); break;
    case 'Q': try_group(true, text, size); break;
    case 'F': try_filter(GW_SCIM_USER, text, size); break;
    case 'H': try_filter(GW_SCIM_GROUP, text, size); break;
    case 'N': try_path(text, size); break;
    case 'S': try_search(text, size); break;
    case 'A': try_attributes(text, size); break;
    case 'X': try_query(text, size); break;
    default: gw_scim_discovery(&discovery, URL, text); break;
    }
    base_buf_free(&discovery);
    free(copy);
    return 0;
}
