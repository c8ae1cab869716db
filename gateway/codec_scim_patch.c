/* SCIM codec over jansson: PATCH (RFC 7644 section 3.5.2). See codec_scim.h. */
#include "gateway/codec_scim_priv.h"

#include "base/check.h"
#include "base/mem.h"

#include <string.h>

#define KEYS_MAX 64u /* of a value without a path */

enum op { OP_ADD, OP_REPLACE, OP_REMOVE };

struct patch {
    struct gw_scim_error *error;
    enum gw_scim_kind kind;
    json_t *doc;                 /* of a user */
    struct gw_scim_group *group; /* of a group */
    enum op op;
    bool explicit_path;
};

static bool wrong_path(struct patch *p)
{
    return scim_fail(p->error, "scim.path", "invalidPath", "The path names nothing that can be changed.");
}

/* ---- users ---- */

static bool change_simple(struct patch *p, json_t *target, const struct gw_scim_field *field, json_t *value)
{
    if (p->op != OP_REMOVE)
        return scim_set(target, field, value, p->error);
    if (!CHECK("scim.required", strcmp(field->name, "userName") != 0 && strcmp(field->name, "active") != 0))
        return scim_fail(p->error, "scim.required", "mutability", "userName and active cannot be removed.");
    json_object_del(target, field->name);
    return true;
}

static bool change_complex(struct patch *p, const struct gw_scim_field *field, const char *sub, json_t *value)
{
    json_t *object = json_object_get(p->doc, field->name);
    const struct gw_scim_field *sub_field = sub[0] != '\0' ? gw_scim_field_find(field->subs, sub) : NULL;
    bool ok;

    if (sub[0] == '\0' && p->op == OP_REMOVE) {
        json_object_del(p->doc, field->name);
        return true;
    }
    if (sub[0] == '\0')
        return scim_set(p->doc, field, value, p->error);
    if (sub_field == NULL)
        return wrong_path(p);
    if (object == NULL) {
        object = json_object();
        json_object_set_new(p->doc, field->name, object);
    }
    ok = change_simple(p, object, sub_field, value);
    if (json_object_size(object) == 0)
        json_object_del(p->doc, field->name);
    return ok;
}

static bool email_meets(json_t *email, const struct gw_scim_path *path)
{
    for (unsigned i = 0; i < path->n_conds; i++) {
        json_t *value = scim_get(email, path->conds[i].name);
        const char *text = json_is_true(value)    ? "true"
                           : json_is_false(value) ? "false"
                                                  : json_string_value(value);

        if (text == NULL || !gw_scim_same(text, path->conds[i].value))
            return false;
    }
    return true;
}

/* Entra ID replaces emails[type eq "work"].value of a user who has none: the address is made as the brackets say. */
static bool make_email(struct patch *p, const struct gw_scim_field *field, const struct gw_scim_path *path,
                       json_t **ret_email)
{
    json_t *emails = scim_emails_of(p->doc), *email;

    if (!CHECK("scim.emails_made", json_array_size(emails) < GW_SCIM_EMAILS_MAX))
        return scim_fail(p->error, "scim.emails_made", "invalidValue",
                         "At most 16 e-mail addresses are kept.");
    email = json_object();
    json_array_append_new(emails, email);
    for (unsigned i = 0; i < path->n_conds; i++) {
        const struct gw_scim_field *sub = gw_scim_field_find(field->subs, path->conds[i].name);
        auto_json json_t *value = json_string(path->conds[i].value);

        if (sub == NULL)
            return wrong_path(p);
        if (!scim_set(email, sub, value, p->error))
            return false;
    }
    *ret_email = email;
    return true;
}

static bool change_email(struct patch *p, const struct gw_scim_field *field, const struct gw_scim_path *path,
                         json_t *email, json_t *value)
{
    const struct gw_scim_field *sub;

    if (path->sub[0] == '\0')
        return scim_set_all(email, field->subs, value, p->error);
    sub = gw_scim_field_find(field->subs, path->sub);
    return sub != NULL ? change_simple(p, email, sub, value) : wrong_path(p);
}

/* Addresses that the brackets (or no brackets) choose. */
static bool change_chosen_emails(struct patch *p, const struct gw_scim_field *field,
                                 const struct gw_scim_path *path, json_t *value)
{
    json_t *emails = scim_emails_of(p->doc), *email = NULL;
    size_t n_met = 0;

    for (size_t i = json_array_size(emails); i-- > 0;) {
        email = json_array_get(emails, i);
        if (!email_meets(email, path))
            continue;
        n_met++;
        if (p->op == OP_REMOVE && path->sub[0] == '\0')
            json_array_remove(emails, i);
        else if (!change_email(p, field, path, email, value))
            return false;
    }
    if (n_met == 0 && p->op != OP_REMOVE)
        return make_email(p, field, path, &email) && change_email(p, field, path, email, value);
    return true;
}

static bool change_emails(struct patch *p, const struct gw_scim_field *field, const struct gw_scim_path *path,
                          json_t *value)
{
    bool ok = true;

    if (path->filtered || path->sub[0] != '\0')
        ok = change_chosen_emails(p, field, path, value);
    else if (p->op == OP_REMOVE)
        json_object_del(p->doc, field->name);
    else if (p->op == OP_ADD)
        ok = scim_add_emails(p->doc, field, value, p->error);
    else
        ok = scim_set(p->doc, field, value, p->error);
    if (ok) {
        scim_one_primary(json_object_get(p->doc, field->name));
        if (json_array_size(json_object_get(p->doc, field->name)) == 0)
            json_object_del(p->doc, field->name);
    }
    return ok;
}

static bool change_user(struct patch *p, const struct gw_scim_path *path, json_t *value)
{
    const struct gw_scim_field *field =
        path->enterprise ? &gw_scim_enterprise_field : gw_scim_field_find(gw_scim_user_fields, path->attr);

    if (field == NULL)
        return wrong_path(p);
    switch (field->type) {
    case GW_SCIM_T_IGNORED: return true;
    case GW_SCIM_T_READ_ONLY: /* some clients send the id along with what they change */
        if (!CHECK("scim.read_only", !p->explicit_path))
            return scim_fail(p->error, "scim.read_only", "mutability", "The attribute is read-only.");
        return true;
    case GW_SCIM_T_TEXT:
    case GW_SCIM_T_BOOL:
        if (!CHECK("scim.path_simple", path->sub[0] == '\0' && !path->filtered))
            return wrong_path(p);
        return change_simple(p, p->doc, field, value);
    case GW_SCIM_T_COMPLEX:
        if (!CHECK("scim.path_complex", !path->filtered))
            return wrong_path(p);
        return change_complex(p, field, path->enterprise ? path->attr : path->sub, value);
    case GW_SCIM_T_EMAILS: return change_emails(p, field, path, value);
    case GW_SCIM_T_MEMBERS: break;
    }
    return wrong_path(p);
}

/* ---- groups ---- */

static bool change_members(struct patch *p, const struct gw_scim_path *path, json_t *value)
{
    auto_json json_t *chosen = NULL;

    if (!CHECK("scim.path_members", path->sub[0] == '\0'))
        return wrong_path(p);
    if (path->filtered) { /* members[value eq "id"] */
        if (!CHECK("scim.members_filter",
                   p->op == OP_REMOVE && path->n_conds == 1 && gw_scim_same(path->conds[0].name, "value")))
            return wrong_path(p);
        chosen = json_pack("{s:s}", "value", path->conds[0].value);
        return scim_add_step(p->group, GW_SCIM_REMOVE, chosen, p->error);
    }
    if (p->op == OP_ADD)
        return scim_add_step(p->group, GW_SCIM_ADD, value, p->error);
    if (p->op == OP_REPLACE || value == NULL ||
        json_is_null(value)) /* removed without a value: all of them */
        return scim_add_step(p->group, GW_SCIM_REPLACE, p->op == OP_REPLACE ? value : NULL, p->error);
    return scim_add_step(p->group, GW_SCIM_REMOVE, value, p->error);
}

static bool change_group(struct patch *p, const struct gw_scim_path *path, json_t *value)
{
    const struct gw_scim_field *field =
        path->enterprise ? NULL : gw_scim_field_find(gw_scim_group_fields, path->attr);
    struct gw_scim_group *group = p->group;

    if (field == NULL)
        return wrong_path(p);
    if (field->type == GW_SCIM_T_READ_ONLY) {
        if (!CHECK("scim.group_read_only", !p->explicit_path))
            return scim_fail(p->error, "scim.group_read_only", "mutability", "The attribute is read-only.");
        return true;
    }
    if (field->type == GW_SCIM_T_MEMBERS)
        return change_members(p, path, value);
    if (!CHECK("scim.path_group", path->sub[0] == '\0' && !path->filtered))
        return wrong_path(p);
    if (strcmp(field->name, "externalId") == 0) {
        auto_json json_t *none = json_null();

        group->sets_external_id = true;
        return scim_group_text(&group->external_id, p->op == OP_REMOVE ? none : value, p->error);
    }
    if (!CHECK("scim.group_required", p->op != OP_REMOVE))
        return scim_fail(p->error, "scim.group_required", "mutability", "displayName cannot be removed.");
    group->sets_display_name = true;
    if (!scim_group_text(&group->display_name, value, p->error))
        return false;
    return CHECK("scim.group_name", group->display_name != NULL) ||
           scim_fail(p->error, "scim.group_name", "invalidValue", "displayName must not be empty.");
}

/* ---- operations ---- */

static bool change(struct patch *p, const char *path_text, size_t len, json_t *value)
{
    struct gw_scim_path path;

    if (!gw_scim_path_parse(&path, path_text, len)) {
        if (!p->explicit_path && strchr(path_text, ':') != NULL)
            return true; /* an extension of somebody's own */
        return wrong_path(p);
    }
    return p->kind == GW_SCIM_USER ? change_user(p, &path, value) : change_group(p, &path, value);
}

/* Without a path the names of the value are paths: {"active": false}, {"name.givenName": "Ada"}, {"urn:...:User:department": "R"}. */
static bool change_all(struct patch *p, json_t *value)
{
    const char *key, *seen[KEYS_MAX];
    size_t n = 0;
    json_t *one;

    if (!CHECK("scim.no_target", p->op != OP_REMOVE))
        return scim_fail(p->error, "scim.no_target", "noTarget", "What is removed must be named by a path.");
    if (!json_is_object(value) || json_object_size(value) > KEYS_MAX)
        return scim_fail(p->error, "scim.type", "invalidValue",
                         "Without a path the value must be an object of at most 64 attributes.");
    json_object_foreach(value, key, one)
    {
        for (size_t i = 0; i < n; i++)
            if (!CHECK("scim.key_twice", !gw_scim_same(seen[i], gw_scim_without_urn(key))))
                return scim_fail(p->error, "scim.key_twice", "invalidSyntax",
                                 "An attribute stands there twice.");
        seen[n++] = gw_scim_without_urn(key);
        if (!change(p, key, strlen(key), one))
            return false;
    }
    return true;
}

/* scim_get finds nothing when a name stands there twice; a removal without its value would then remove everything. */
static bool names_once(json_t *operation)
{
    static const char *const names[] = {"op", "path", "value"};
    json_t *value;
    const char *key;

    for (size_t i = 0; i < BASE_ARRAY_LEN(names); i++) {
        unsigned n = 0;

        json_object_foreach(operation, key, value) n += gw_scim_same(key, names[i]);
        if (n > 1)
            return false;
    }
    return true;
}

static bool apply(struct patch *p, json_t *operation)
{
    json_t *path = scim_get(operation, "path"), *value = scim_get(operation, "value");
    const char *op = json_string_value(scim_get(operation, "op"));

    if (!CHECK("scim.operation_twice", names_once(operation)))
        return scim_fail(p->error, "scim.operation_twice", "invalidSyntax",
                         "An operation says something twice.");
    if (op == NULL || (path != NULL && !json_is_string(path) && !json_is_null(path)))
        return scim_fail(p->error, "scim.operation", "invalidSyntax",
                         "An operation needs op, and path is a text.");
    if (gw_scim_same(op, "add"))
        p->op = OP_ADD;
    else if (gw_scim_same(op, "replace"))
        p->op = OP_REPLACE;
    else if (gw_scim_same(op, "remove"))
        p->op = OP_REMOVE;
    else
        return scim_fail(p->error, "scim.operation", "invalidSyntax", "op must be add, replace or remove.");
    if (p->op != OP_REMOVE && value == NULL)
        return scim_fail(p->error, "scim.operation", "invalidValue", "add and replace need a value.");
    p->explicit_path = json_is_string(path) && json_string_length(path) > 0;
    if (p->explicit_path)
        return change(p, json_string_value(path), json_string_length(path), value);
    return change_all(p, value);
}

static bool apply_all(struct patch *p, json_t *body)
{
    json_t *operations = scim_get(body, "Operations"), *operation;
    size_t index;

    if (!json_is_array(operations) || json_array_size(operations) == 0)
        return scim_fail(p->error, "scim.operation", "invalidSyntax", "A patch needs a list of Operations.");
    if (!CHECK("scim.operations_max", json_array_size(operations) <= GW_SCIM_OPS_MAX))
        return scim_fail(p->error, "scim.operations_max", "tooMany", "Too many operations in one request.");
    json_array_foreach(operations, index, operation)
    {
        if (!json_is_object(operation))
            return scim_fail(p->error, "scim.operation", "invalidSyntax", "An operation must be an object.");
        if (!apply(p, operation))
            return false;
    }
    return true;
}

bool gw_scim_user_patch(struct gw_scim_user *ret_user, const char *old_doc, const char *body, size_t len,
                        struct gw_scim_error *ret_error)
{
    auto_json json_t *json = scim_parse(body, len, ret_error);
    auto_json json_t *doc = json_loads(old_doc, 0, NULL);
    struct patch p = {.error = ret_error, .kind = GW_SCIM_USER, .doc = doc};

    return json != NULL && apply_all(&p, json) && scim_user_finish(doc, ret_user, ret_error);
}

bool gw_scim_group_patch(struct gw_scim_group *ret_group, const char *body, size_t len,
                         struct gw_scim_error *ret_error)
{
    auto_json json_t *json = scim_parse(body, len, ret_error);
    struct gw_scim_group group = {0};
    struct patch p = {.error = ret_error, .kind = GW_SCIM_GROUP, .group = &group};

    if (json == NULL || !apply_all(&p, json)) {
        gw_scim_group_free(&group);
        return false;
    }
    *ret_group = group;
    return true;
}
