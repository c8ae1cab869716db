/* SCIM schemas. See scim_schema.h. */
#include "gateway/scim_schema.h"

#include "base/mem.h"

#include <string.h>

#define TEXT(n)                 \
    {                           \
        n, GW_SCIM_T_TEXT, NULL \
    }
#define END                           \
    {                                 \
        NULL, GW_SCIM_T_IGNORED, NULL \
    }
#define COMMON                                                              \
    {"id", GW_SCIM_T_READ_ONLY, NULL}, {"meta", GW_SCIM_T_READ_ONLY, NULL}, \
    {                                                                       \
        "schemas", GW_SCIM_T_READ_ONLY, NULL                                \
    }

static const struct gw_scim_field name_fields[] = {
    TEXT("formatted"),
    TEXT("familyName"),
    TEXT("givenName"),
    TEXT("middleName"),
    TEXT("honorificPrefix"),
    TEXT("honorificSuffix"),
    END,
};
static const struct gw_scim_field email_fields[] = {
    TEXT("value"), TEXT("display"), TEXT("type"), {"primary", GW_SCIM_T_BOOL, NULL}, END,
};
static const struct gw_scim_field enterprise_fields[] = {
    TEXT("employeeNumber"),
    TEXT("costCenter"),
    TEXT("organization"),
    TEXT("division"),
    TEXT("department"),
    {"manager", GW_SCIM_T_IGNORED, NULL},
    END,
};
const struct gw_scim_field gw_scim_enterprise_field = {GW_SCIM_URN_ENTERPRISE, GW_SCIM_T_COMPLEX,
                                                       enterprise_fields};

const struct gw_scim_field gw_scim_user_fields[] = {
    COMMON,
    TEXT("userName"),
    TEXT("externalId"),
    {"active", GW_SCIM_T_BOOL, NULL},
    TEXT("displayName"),
    TEXT("nickName"),
    TEXT("title"),
    TEXT("userType"),
    TEXT("preferredLanguage"),
    TEXT("locale"),
    TEXT("timezone"),
    {"name", GW_SCIM_T_COMPLEX, name_fields},
    {"emails", GW_SCIM_T_EMAILS, email_fields},
    {"groups", GW_SCIM_T_READ_ONLY, NULL},
    {GW_SCIM_URN_ENTERPRISE, GW_SCIM_T_COMPLEX, enterprise_fields},
    {"password", GW_SCIM_T_IGNORED, NULL},
    {"profileUrl", GW_SCIM_T_IGNORED, NULL},
    {"phoneNumbers", GW_SCIM_T_IGNORED, NULL},
    {"ims", GW_SCIM_T_IGNORED, NULL},
    {"photos", GW_SCIM_T_IGNORED, NULL},
    {"addresses", GW_SCIM_T_IGNORED, NULL},
    {"entitlements", GW_SCIM_T_IGNORED, NULL},
    {"roles", GW_SCIM_T_IGNORED, NULL},
    {"x509Certificates", GW_SCIM_T_IGNORED, NULL},
    END,
};
const struct gw_scim_field gw_scim_group_fields[] = {
    COMMON, TEXT("externalId"), TEXT("displayName"), {"members", GW_SCIM_T_MEMBERS, NULL}, END,
};

const struct gw_scim_field *gw_scim_field_find(const struct gw_scim_field *fields, const char *name)
{
    for (; fields->name != NULL; fields++)
        if (gw_scim_same(fields->name, name))
            return fields;
    return NULL;
}

/* ---- discovery ---- */

static void put_field(struct base_buf *out, const struct gw_scim_field *field, bool first)
{
    bool read_only = field->type == GW_SCIM_T_READ_ONLY;
    bool multi = field->type == GW_SCIM_T_EMAILS || field->type == GW_SCIM_T_MEMBERS;
    bool is_name = strcmp(field->name, "userName") == 0;
    bool required = is_name || (strcmp(field->name, "displayName") == 0 && field == &gw_scim_group_fields[4]);
    const char *type = field->type == GW_SCIM_T_BOOL   ? "boolean"
                       : field->type == GW_SCIM_T_TEXT ? "string"
                                                       : "complex";

    base_buf_printf(
        out,
        "%s{\"name\":\"%s\",\"type\":\"%s\",\"multiValued\":%s,\"required\":%s,\"caseExact\":false,"
        "\"mutability\":\"%s\",\"returned\":\"default\",\"uniqueness\":\"%s\"",
        first ? "" : ",", field->name, type, multi ? "true" : "false", required ? "true" : "false",
        read_only ? "readOnly" : "readWrite", is_name ? "server" : "none");
    if (field->subs != NULL) {
        bool none_yet = true;

        base_buf_append_str(out, ",\"subAttributes\":[");
        for (const struct gw_scim_field *sub = field->subs; sub->name != NULL; sub++) {
            if (sub->type == GW_SCIM_T_IGNORED)
                continue;
            put_field(out, sub, none_yet);
            none_yet = false;
        }
        base_buf_append_char(out, ']');
    }
    base_buf_append_char(out, '}');
}

static void put_schema(struct base_buf *out, const char *base_url, const char *urn, const char *name,
                       const struct gw_scim_field *fields)
{
    bool first = true;

    base_buf_printf(out,
                    "{\"schemas\":[\"urn:ietf:params:scim:schemas:core:2.0:Schema\"],\"id\":\"%s\",\"name\":"
                    "\"%s\",\"attributes\":[",
                    urn, name);
    for (; fields->name != NULL; fields++) {
        bool common = strcmp(fields->name, "id") == 0 || strcmp(fields->name, "meta") == 0 ||
                      strcmp(fields->name, "schemas") == 0 || strcmp(fields->name, "externalId") == 0;

        if (common || fields->type == GW_SCIM_T_IGNORED || strchr(fields->name, ':') != NULL)
            continue;
        put_field(out, fields, first);
        first = false;
    }
    base_buf_printf(out, "],\"meta\":{\"resourceType\":\"Schema\",\"location\":\"%s/Schemas/%s\"}}", base_url,
                    urn);
}

static void put_resource_type(struct base_buf *out, const char *base_url, const char *name, const char *urn,
                              bool enterprise)
{
    base_buf_printf(out,
                    "{\"schemas\":[\"urn:ietf:params:scim:schemas:core:2.0:ResourceType\"],\"id\":\"%s\","
                    "\"name\":\"%s\",\"endpoint\":\"/%ss\",\"schema\":\"%s\"",
                    name, name, name, urn);
    if (enterprise)
        base_buf_append_str(out, ",\"schemaExtensions\":[{\"schema\":\"" GW_SCIM_URN_ENTERPRISE
                                 "\",\"required\":false}]");
    base_buf_printf(out,
                    ",\"meta\":{\"resourceType\":\"ResourceType\",\"location\":\"%s/ResourceTypes/%s\"}}",
                    base_url, name);
}

static void put_service(struct base_buf *out, const char *base_url)
{
    base_buf_printf(
        out,
        "{\"schemas\":[\"urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig\"],"
        "\"patch\":{\"supported\":true},"
        "\"bulk\":{\"supported\":false,\"maxOperations\":0,\"maxPayloadSize\":0},"
        "\"filter\":{\"supported\":true,\"maxResults\":200},"
        "\"changePassword\":{\"supported\":false},\"sort\":{\"supported\":false},\"etag\":{\"supported\":"
        "true},"
        "\"authenticationSchemes\":[{\"type\":\"oauthbearertoken\",\"name\":\"Bearer token\","
        "\"description\":\"Authorization: Bearer, with the token of the policy's scim section or an access "
        "token of a provider\",\"primary\":true}],"
        "\"meta\":{\"resourceType\":\"ServiceProviderConfig\",\"location\":\"%s/ServiceProviderConfig\"}}",
        base_url);
}

static void put_list_head(struct base_buf *out, int n)
{
    base_buf_printf(
        out,
        "{\"schemas\":[\"urn:ietf:params:scim:api:messages:2.0:ListResponse\"],\"totalResults\":%d,"
        "\"startIndex\":1,\"itemsPerPage\":%d,\"Resources\":[",
        n, n);
}

/* What stands behind a prefix; NULL when the path does not begin with it. */
static const char *behind(const char *path, const char *prefix)
{
    size_t n = strlen(prefix);

    return strncmp(path, prefix, n) == 0 ? path + n : NULL;
}

bool gw_scim_discovery(struct base_buf *out, const char *base_url, const char *path)
{
    const struct {
        const char *urn, *name;
        const struct gw_scim_field *fields;
    } schemas[] = {{GW_SCIM_URN_USER, "User", gw_scim_user_fields},
                   {GW_SCIM_URN_GROUP, "Group", gw_scim_group_fields},
                   {GW_SCIM_URN_ENTERPRISE, "EnterpriseUser", enterprise_fields}};
    const char *type = behind(path, "/ResourceTypes/"), *schema = behind(path, "/Schemas/");

    if (strcmp(path, "/ServiceProviderConfig") == 0) {
        put_service(out, base_url);
        return true;
    }
    if (strcmp(path, "/ResourceTypes") == 0) {
        put_list_head(out, 2);
        put_resource_type(out, base_url, "User", GW_SCIM_URN_USER, true);
        base_buf_append_char(out, ',');
        put_resource_type(out, base_url, "Group", GW_SCIM_URN_GROUP, false);
        base_buf_append_str(out, "]}");
        return true;
    }
    if (strcmp(path, "/Schemas") == 0) {
        put_list_head(out, (int)BASE_ARRAY_LEN(schemas));
        for (size_t i = 0; i < BASE_ARRAY_LEN(schemas); i++) {
            if (i > 0)
                base_buf_append_char(out, ',');
            put_schema(out, base_url, schemas[i].urn, schemas[i].name, schemas[i].fields);
        }
        base_buf_append_str(out, "]}");
        return true;
    }
    for (size_t i = 0; type != NULL && i < 2; i++)
        if (strcmp(type, schemas[i].name) == 0) {
            put_resource_type(out, base_url, schemas[i].name, schemas[i].urn, i == 0);
            return true;
        }
    for (size_t i = 0; schema != NULL && i < BASE_ARRAY_LEN(schemas); i++)
        if (strcmp(schema, schemas[i].urn) == 0) {
            put_schema(out, base_url, schemas[i].urn, schemas[i].name, schemas[i].fields);
            return true;
        }
    return false;
}
