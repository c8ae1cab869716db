/* SCIM codec over jansson: resources. See codec_scim.h. */
#include "gateway/codec_scim_priv.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/json_shape.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

#define FIELDS_MAX 32u

bool scim_fail(struct gw_scim_error *error, const char *check, const char *scim_type, const char *detail)
{
    *error = (struct gw_scim_error){.status = 400, .scim_type = scim_type, .detail = detail, .check = check};
    return false;
}

void gw_scim_error_json(struct base_buf *out, const struct gw_scim_error *error)
{
    base_buf_append_str(out, "{\"schemas\":[\"urn:ietf:params:scim:api:messages:2.0:Error\"],");
    base_buf_printf(out, "\"status\":\"%d\"", error->status);
    if (error->scim_type != NULL)
        base_buf_printf(out, ",\"scimType\":\"%s\"", error->scim_type);
    base_buf_append_str(out, ",\"detail\":");
    base_buf_append_json(out, error->detail, strlen(error->detail));
    base_buf_append_char(out, '}');
}

bool gw_scim_id_valid(const char *id, size_t len)
{
    if (len != GW_SCIM_ID_LEN)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        char c = id[i];

        if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
            return false;
    }
    return true;
}

/* ---- parsing ---- */

/* Before jansson, which has no limit on values, and one of depth that is much higher. */
static bool shape_allowed(const char *body, size_t len)
{
    struct base_json_shape shape = base_json_shape(body, len);

    return CHECK("scim.depth", shape.depth <= GW_SCIM_DEPTH_MAX) &&
           CHECK("scim.values", shape.values <= GW_SCIM_VALUES_MAX);
}

json_t *scim_parse(const char *body, size_t len, struct gw_scim_error *error)
{
    json_error_t json_error;
    json_t *json;

    if (len > GW_SCIM_BODY_MAX || !shape_allowed(body, len)) {
        scim_fail(error, "scim.shape", "invalidSyntax", "The body is too deep, or has too many values.");
        return NULL;
    }
    json = json_loadb(body, len, JSON_REJECT_DUPLICATES, &json_error);
    if (json_is_object(json))
        return json;
    json_decref(json);
    scim_fail(error, "scim.json", "invalidSyntax",
              "The body must be one JSON object, without repeated names.");
    return NULL;
}

json_t *scim_get(json_t *object, const char *name)
{
    json_t *value, *found = NULL;
    const char *key;

    json_object_foreach(object, key, value)
    {
        if (!gw_scim_same(key, name))
            continue;
        if (found != NULL)
            return NULL;
        found = value;
    }
    return found;
}

/* ---- attributes ---- */

static bool plain_text(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return false;
    return true;
}

static bool set_text(json_t *target, const char *name, json_t *value, struct gw_scim_error *error)
{
    if (!CHECK("scim.text_type", json_is_string(value)))
        return scim_fail(error, "scim.text_type", "invalidValue",
                         "An attribute that is a text must be a string.");
    if (!CHECK("scim.text_length", json_string_length(value) <= GW_SCIM_TEXT_MAX))
        return scim_fail(error, "scim.text_length", "invalidValue", "A text is longer than 255 bytes.");
    if (!CHECK("scim.text", plain_text(json_string_value(value), json_string_length(value))))
        return scim_fail(error, "scim.text", "invalidValue", "A text has control characters.");
    if (json_string_length(value) == 0)
        json_object_del(target, name);
    else
        json_object_set(target, name, value);
    return true;
}

/* Entra ID says "True" and "False". Nothing else is taken for a boolean: a person must not stay active by a misunderstanding. */
static bool set_bool(json_t *target, const char *name, json_t *value, struct gw_scim_error *error)
{
    const char *text = json_string_value(value);
    bool yes = json_is_true(value) || (text != NULL && gw_scim_same(text, "true"));
    bool no = json_is_false(value) || (text != NULL && gw_scim_same(text, "false"));

    if (!CHECK("scim.boolean", yes || no))
        return scim_fail(error, "scim.boolean", "invalidValue", "A boolean must be true or false.");
    json_object_set_new(target, name, json_boolean(!no));
    return true;
}

static bool set_complex(json_t *target, const struct gw_scim_field *field, json_t *value,
                        struct gw_scim_error *error)
{
    json_t *object = json_object_get(target, field->name);

    if (object == NULL) {
        object = json_object();
        json_object_set_new(target, field->name, object);
    }
    if (!scim_set_all(object, field->subs, value, error))
        return false;
    if (json_object_size(object) == 0)
        json_object_del(target, field->name);
    return true;
}

bool scim_set(json_t *target, const struct gw_scim_field *field, json_t *value, struct gw_scim_error *error)
{
    if (field->type == GW_SCIM_T_IGNORED || field->type == GW_SCIM_T_READ_ONLY)
        return true;
    if (json_is_null(value) && field->type != GW_SCIM_T_BOOL) {
        json_object_del(target, field->name);
        return true;
    }
    switch (field->type) {
    case GW_SCIM_T_TEXT: return set_text(target, field->name, value, error);
    case GW_SCIM_T_BOOL: return set_bool(target, field->name, value, error);
    case GW_SCIM_T_COMPLEX: return set_complex(target, field, value, error);
    case GW_SCIM_T_EMAILS:
        json_object_del(target, field->name);
        return scim_add_emails(target, field, value, error);
    case GW_SCIM_T_MEMBERS:
    case GW_SCIM_T_IGNORED:
    case GW_SCIM_T_READ_ONLY: break;
    }
    return true;
}

bool scim_set_all(json_t *target, const struct gw_scim_field *fields, json_t *value,
                  struct gw_scim_error *error)
{
    bool seen[FIELDS_MAX] = {false};
    const char *key;
    json_t *one;

    if (!CHECK("scim.complex_type", json_is_object(value)))
        return scim_fail(error, "scim.complex_type", "invalidValue",
                         "A complex attribute must be an object.");
    json_object_foreach(value, key, one)
    {
        const struct gw_scim_field *field = gw_scim_field_find(fields, gw_scim_without_urn(key));

        if (field == NULL)
            continue;
        if (!CHECK("scim.attribute_twice", !seen[field - fields]))
            return scim_fail(error, "scim.attribute_twice", "invalidSyntax",
                             "An attribute stands there twice.");
        seen[field - fields] = true;
        if (!scim_set(target, field, one, error))
            return false;
    }
    return true;
}

json_t *scim_emails_of(json_t *doc)
{
    json_t *emails = json_object_get(doc, "emails");

    if (emails == NULL) {
        emails = json_array();
        json_object_set_new(doc, "emails", emails);
    }
    return emails;
}

void scim_one_primary(json_t *emails)
{
    bool found = false;

    for (size_t i = json_array_size(emails); i-- > 0;) {
        json_t *email = json_array_get(emails, i);

        if (!json_is_true(json_object_get(email, "primary")))
            continue;
        if (found)
            json_object_set_new(email, "primary", json_false());
        found = true;
    }
}

bool scim_add_emails(json_t *doc, const struct gw_scim_field *field, json_t *value,
                     struct gw_scim_error *error)
{
    json_t *emails = scim_emails_of(doc);
    size_t n = json_is_array(value) ? json_array_size(value) : 1;

    if (!CHECK("scim.emails_max", json_array_size(emails) + n <= GW_SCIM_EMAILS_MAX))
        return scim_fail(error, "scim.emails_max", "invalidValue", "At most 16 e-mail addresses are kept.");
    for (size_t i = 0; i < n; i++) {
        json_t *email = json_object();

        json_array_append_new(emails, email);
        if (!scim_set_all(email, field->subs, json_is_array(value) ? json_array_get(value, i) : value, error))
            return false;
    }
    scim_one_primary(emails);
    if (json_array_size(emails) == 0)
        json_object_del(doc, field->name);
    return true;
}

/* ---- users ---- */

void gw_scim_user_free(struct gw_scim_user *user)
{
    free(user->user_name);
    free(user->external_id);
    free(user->doc);
    *user = (struct gw_scim_user){0};
}

bool scim_user_finish(json_t *doc, struct gw_scim_user *ret_user, struct gw_scim_error *error)
{
    const char *name = json_string_value(json_object_get(doc, "userName"));
    const char *external = json_string_value(json_object_get(doc, "externalId"));
    json_t *active = json_object_get(doc, "active");
    char *text;

    if (!CHECK("scim.user_name", name != NULL && name[0] != ' ' && name[strlen(name) - 1] != ' '))
        return scim_fail(error, "scim.user_name", "invalidValue",
                         "userName is required, without blanks at its ends.");
    if (active == NULL)
        json_object_set_new(doc, "active", json_true());
    text = json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL || !CHECK("scim.document", strlen(text) <= GW_SCIM_DOC_MAX)) {
        free(text);
        return scim_fail(error, "scim.document", "invalidValue", "The user has too much in it.");
    }
    *ret_user = (struct gw_scim_user){.user_name = base_strdup(name != NULL ? name : ""),
                                      .external_id = external != NULL ? base_strdup(external) : NULL,
                                      .doc = base_strdup(text),
                                      .active = active == NULL || json_is_true(active)};
    free(text);
    return true;
}

bool gw_scim_user_read(struct gw_scim_user *ret_user, const char *old_doc, const char *body, size_t len,
                       struct gw_scim_error *ret_error)
{
    auto_json json_t *json = scim_parse(body, len, ret_error);
    auto_json json_t *doc = json_object();
    auto_json json_t *old = old_doc != NULL ? json_loads(old_doc, 0, NULL) : NULL;

    if (json == NULL || !scim_set_all(doc, gw_scim_user_fields, json, ret_error))
        return false;
    if (json_object_get(doc, "active") == NULL && json_is_false(json_object_get(old, "active")))
        json_object_set_new(doc, "active", json_false());
    return scim_user_finish(doc, ret_user, ret_error);
}

/* ---- groups ---- */

void gw_scim_group_free(struct gw_scim_group *group)
{
    for (size_t i = 0; i < group->n_steps; i++)
        free(group->steps[i].ids);
    free(group->steps);
    free(group->display_name);
    free(group->external_id);
    *group = (struct gw_scim_group){0};
}

static bool add_member(struct gw_scim_group *group, struct base_buf *ids, size_t at, json_t *member,
                       struct gw_scim_error *error)
{
    json_t *value = json_is_object(member) ? scim_get(member, "value") : NULL;
    const char *id = json_string_value(value);

    if (!CHECK("scim.member_id", id != NULL && gw_scim_id_valid(id, json_string_length(value))))
        return scim_fail(error, "scim.member_id", "invalidValue", "A member's value must be a user's id.");
    if (!CHECK("scim.members_max", ++group->n_members <= GW_SCIM_MEMBERS_MAX))
        return scim_fail(error, "scim.members_max", "tooMany", "Too many members in one request.");
    if (at > 0)
        base_buf_append_char(ids, ',');
    for (; id != NULL && *id != '\0'; id++)
        base_buf_append_char(ids, *id >= 'A' && *id <= 'F' ? (char)(*id + ('a' - 'A')) : *id);
    return true;
}

bool scim_add_step(struct gw_scim_group *group, enum gw_scim_step_kind kind, json_t *value,
                   struct gw_scim_error *error)
{
    auto_buf struct base_buf ids = BASE_BUF_INIT(2 * GW_SCIM_BODY_MAX);
    size_t n = value == NULL || json_is_null(value) ? 0 : json_is_array(value) ? json_array_size(value) : 1;

    if (group->n_steps == GW_SCIM_OPS_MAX)
        return scim_fail(error, "scim.operations", "tooMany", "Too many operations in one request.");
    base_buf_append_char(&ids, '{');
    for (size_t i = 0; i < n; i++)
        if (!add_member(group, &ids, i, json_is_array(value) ? json_array_get(value, i) : value, error))
            return false;
    base_buf_append_char(&ids, '}');
    group->steps = base_realloc(group->steps, (group->n_steps + 1) * sizeof(*group->steps));
    group->steps[group->n_steps++] = (struct gw_scim_step){.kind = kind, .ids = base_buf_take(&ids), .n = n};
    return true;
}

bool scim_group_text(char **ret_text, json_t *value, struct gw_scim_error *error)
{
    auto_json json_t *holder = json_object();
    const char *text;

    if (!json_is_null(value) && !set_text(holder, "text", value, error))
        return false;
    text = json_string_value(json_object_get(holder, "text"));
    free(*ret_text);
    *ret_text = text != NULL ? base_strdup(text) : NULL;
    return true;
}

bool gw_scim_group_read(struct gw_scim_group *ret_group, const char *body, size_t len,
                        struct gw_scim_error *ret_error)
{
    auto_json json_t *json = scim_parse(body, len, ret_error);
    auto_json json_t *checked = json_object();
    struct gw_scim_group group = {.sets_display_name = true, .sets_external_id = true};
    json_t *name, *external;
    bool ok = json != NULL && scim_set_all(checked, gw_scim_group_fields, json, ret_error);

    name = json_object_get(checked, "displayName");
    external = json_object_get(checked, "externalId");
    if (ok && !CHECK("scim.display_name", name != NULL))
        ok = scim_fail(ret_error, "scim.display_name", "invalidValue", "displayName is required.");
    ok = ok && (name == NULL || scim_group_text(&group.display_name, name, ret_error));
    ok = ok && (external == NULL || scim_group_text(&group.external_id, external, ret_error));
    ok = ok && scim_add_step(&group, GW_SCIM_REPLACE, scim_get(json, "members"), ret_error);
    if (!ok) {
        gw_scim_group_free(&group);
        return false;
    }
    *ret_group = group;
    return true;
}

/* ---- searches ---- */

/* A list of names to one text, separated by commas. */
static bool join_names(json_t *list, char out[GW_SCIM_LIST_MAX])
{
    size_t n = 0, index;
    json_t *one;

    if (list == NULL)
        return true;
    if (!json_is_array(list))
        return false;
    json_array_foreach(list, index, one)
    {
        const char *name = json_string_value(one);

        if (name == NULL || n + strlen(name) + 2 > GW_SCIM_LIST_MAX)
            return false;
        n += (size_t)snprintf(out + n, GW_SCIM_LIST_MAX - n, "%s%s", n > 0 ? "," : "", name);
    }
    return true;
}

bool gw_scim_search_read(struct gw_scim_query *ret_query, const char *body, size_t len,
                         struct gw_scim_error *ret_error)
{
    auto_json json_t *json = scim_parse(body, len, ret_error);
    struct gw_scim_query query = {.start = -1, .count = -1};
    json_t *filter, *start, *count;

    if (json == NULL)
        return false;
    filter = scim_get(json, "filter");
    start = scim_get(json, "startIndex");
    count = scim_get(json, "count");
    if ((filter != NULL && (!json_is_string(filter) || json_string_length(filter) > GW_SCIM_FILTER_MAX)) ||
        (start != NULL && !json_is_integer(start)) || (count != NULL && !json_is_integer(count)) ||
        !join_names(scim_get(json, "attributes"), query.attributes) ||
        !join_names(scim_get(json, "excludedAttributes"), query.excluded))
        return scim_fail(ret_error, "scim.search", "invalidSyntax", "The search request cannot be read.");
    query.filtered = filter != NULL;
    if (filter != NULL)
        memcpy(query.filter, json_string_value(filter), json_string_length(filter) + 1);
    if (start != NULL)
        query.start = json_integer_value(start) > 0 ? json_integer_value(start) : 1;
    if (count != NULL)
        query.count = json_integer_value(count) > 0 ? json_integer_value(count) : 0;
    *ret_query = query;
    return true;
}

/* ---- rendering ---- */

enum listed { NOT_LISTED, PARTLY, WHOLLY };

/* Whether a list names an attribute, or the sub-attribute of it when sub is given; PARTLY: some sub-attribute. */
static enum listed look_up(const char *list, const char *name, const char *sub)
{
    enum listed best = NOT_LISTED;

    while (*list != '\0') {
        size_t n = strcspn(list, ",");
        char one[GW_SCIM_LIST_MAX];
        const char *rest;
        size_t len = strlen(name);

        while (n > 0 && *list == ' ') {
            list++;
            n--;
        }
        memcpy(one, list, n);
        one[n] = '\0';
        while (n > 0 && one[n - 1] == ' ')
            one[--n] = '\0';
        rest = gw_scim_without_urn(one);
        list += strcspn(list, ",");
        list += *list == ',';
        if (gw_scim_same(rest, name))
            return WHOLLY;
        if (strlen(rest) <= len || !base_ascii_ieq(rest, len, name, len) ||
            (rest[len] != '.' && rest[len] != ':'))
            continue;
        if (sub == NULL)
            best = PARTLY;
        else if (gw_scim_same(rest + len + 1, sub))
            return WHOLLY;
    }
    return best;
}

bool gw_scim_wants(const struct gw_scim_query *query, const char *name)
{
    if (query->attributes[0] != '\0')
        return look_up(query->attributes, name, NULL) != NOT_LISTED;
    return look_up(query->excluded, name, NULL) != WHOLLY;
}

static void cut_subs(json_t *value, const char *list, const char *name, bool keep)
{
    const char *key;
    json_t *one;
    void *next;
    size_t index;

    if (json_is_array(value))
        json_array_foreach(value, index, one) cut_subs(one, list, name, keep);
    if (!json_is_object(value))
        return;
    json_object_foreach_safe(value, next, key, one)
    {
        if ((look_up(list, name, key) != NOT_LISTED) != keep)
            json_object_del(value, key);
    }
}

static void select_attributes(json_t *resource, const struct gw_scim_query *query)
{
    bool keep = query->attributes[0] != '\0';
    const char *list = keep ? query->attributes : query->excluded, *key;
    json_t *one;
    void *next;

    if (list[0] == '\0')
        return;
    json_object_foreach_safe(resource, next, key, one)
    {
        enum listed listed = look_up(list, key, NULL);

        if (strcmp(key, "id") == 0 || strcmp(key, "schemas") == 0) /* returned: always */
            continue;
        if (listed == PARTLY)
            cut_subs(one, list, key, keep);
        else if ((listed == WHOLLY) != keep)
            json_object_del(resource, key);
    }
}

static json_t *meta_of(const struct gw_scim_row *row, const char *base_url)
{
    const char *type = row->kind == GW_SCIM_USER ? "User" : "Group";
    char created[BASE_RFC3339_MAX], changed[BASE_RFC3339_MAX], version[32];
    char location[512];

    base_rfc3339(row->created_us, created);
    base_rfc3339(row->changed_us, changed);
    snprintf(version, sizeof(version), "W/\"%lld\"", (long long)row->version);
    snprintf(location, sizeof(location), "%s/%ss/%s", base_url, type, row->id);
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "resourceType", type, "created", created, "lastModified",
                     changed, "location", location, "version", version);
}

bool gw_scim_render(struct base_buf *out, const struct gw_scim_row *row, const struct gw_scim_query *query,
                    const char *base_url)
{
    bool user = row->kind == GW_SCIM_USER;
    auto_json json_t *resource =
        json_pack("{s:[s], s:s}", "schemas", user ? GW_SCIM_URN_USER : GW_SCIM_URN_GROUP, "id", row->id);
    json_t *refs = row->refs != NULL ? json_loads(row->refs, 0, NULL) : NULL;
    char *text;

    if (user) {
        auto_json json_t *doc = json_loads(row->doc, 0, NULL);

        if (!json_is_object(doc)) {
            json_decref(refs);
            return false;
        }
        json_object_update(resource, doc);
        if (json_object_get(doc, GW_SCIM_URN_ENTERPRISE) != NULL)
            json_array_append_new(json_object_get(resource, "schemas"), json_string(GW_SCIM_URN_ENTERPRISE));
    } else {
        json_object_set_new(resource, "displayName", json_string(row->display_name));
        if (row->external_id != NULL)
            json_object_set_new(resource, "externalId", json_string(row->external_id));
    }
    if (refs != NULL)
        json_object_set_new(resource, user ? "groups" : "members", refs);
    json_object_set_new(resource, "meta", meta_of(row, base_url));
    select_attributes(resource, query);
    text = json_dumps(resource, JSON_COMPACT);
    if (text == NULL)
        return false;
    base_buf_append_str(out, text);
    free(text);
    return true;
}
