/* Codec of operators' reports. See codec_sso_report.h. */
#include "gateway/codec_sso_report.h"

#include "base/mem.h"

#include <jansson.h>
#include <string.h>

/* C0, DEL and C1 (as UTF-8) would reach the terminal as commands. */
static const char *plain(struct base_arena *arena, const char *text)
{
    char *copy = base_arena_dup(arena, text, strlen(text));

    if (copy == NULL)
        return "";
    for (unsigned char *at = (unsigned char *)copy; *at != '\0'; at++) {
        if (*at < 0x20 || *at == 0x7f)
            *at = ' ';
        else if (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0)
            at[0] = at[1] = ' ';
    }
    return copy;
}

static const char *text_of(struct base_arena *arena, const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? plain(arena, text) : "";
}

static enum gw_sso_level level_of(const json_t *item)
{
    const char *level = json_string_value(json_object_get(item, "level"));

    if (level == NULL)
        return json_is_true(json_object_get(item, "ok")) ? GW_SSO_LEVEL_OK : GW_SSO_LEVEL_ERROR;
    if (strcmp(level, "ok") == 0)
        return GW_SSO_LEVEL_OK;
    return strcmp(level, "warn") == 0 ? GW_SSO_LEVEL_WARN : GW_SSO_LEVEL_ERROR;
}

static enum base_code read_lines(struct gw_sso_report *report, struct base_arena *arena, const json_t *list,
                                 struct base_err *err)
{
    size_t n = json_array_size(list);

    if (!json_is_array(list) || n > GW_SSO_LINES_MAX)
        return base_fail(err, BASE_INVALID, 0,
                         "gatehouse-sso answered without a list, or with too long a one");
    report->lines = base_arena_alloc(arena, (n + 1) * sizeof(*report->lines));
    if (report->lines == NULL)
        return base_fail(err, BASE_TOO_LARGE, 0, "gatehouse-sso's answer is too long");
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        const char *text = text_of(arena, item, "text");

        report->lines[i] =
            (struct gw_sso_line){.level = level_of(item),
                                 .check = text_of(arena, item, "check"),
                                 .text = text[0] != '\0' ? text : text_of(arena, item, "detail")};
    }
    report->n_lines = n;
    return BASE_OK;
}

enum base_code gw_sso_decode_report(struct gw_sso_report *ret_report, struct base_arena *arena,
                                    const char *json, size_t len, struct base_err *err)
{
    struct gw_sso_report report = {0};
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *list = json_object_get(root, "findings");
    enum base_code rc = BASE_OK;

    if (!json_is_object(root) || !json_is_boolean(json_object_get(root, "ok")))
        rc = base_fail(err, BASE_INVALID, 0, "gatehouse-sso's answer is not a reply");
    else if (!json_is_true(json_object_get(root, "ok")))
        rc = base_fail(err, BASE_DENIED, 0, "%s: %s", text_of(arena, root, "code"),
                       text_of(arena, root, "detail"));
    if (rc == BASE_OK) {
        report.kind = text_of(arena, root, "kind");
        report.provider = text_of(arena, root, "provider");
        rc = read_lines(&report, arena, list != NULL ? list : json_object_get(root, "checks"), err);
    }
    if (rc == BASE_OK)
        *ret_report = report;
    json_decref(root);
    return rc;
}

/* ---- who was asked ---- */

static const char *one_of(const char *const *words, size_t n, const json_t *text)
{
    for (size_t i = 0; i < n && json_is_string(text); i++)
        if (strcmp(words[i], json_string_value(text)) == 0)
            return words[i];
    return NULL;
}

static bool read_asked(struct gw_sso_asked *asked, const json_t *item)
{
    static const char *const kinds[] = {"discovery", "jwks",          "token",
                                        "userinfo",  "introspection", "revocation"};
    static const char *const results[] = {"ok", "refused", "error", "timeout"};
    const char *provider = json_string_value(json_array_get(item, 0));

    asked->kind = one_of(kinds, BASE_ARRAY_LEN(kinds), json_array_get(item, 1));
    asked->result = one_of(results, BASE_ARRAY_LEN(results), json_array_get(item, 2));
    if (provider == NULL || strlen(provider) >= sizeof(asked->provider) || asked->kind == NULL ||
        asked->result == NULL)
        return false;
    strcpy(asked->provider, provider);
    return true;
}

size_t gw_sso_decode_asked(struct gw_sso_asked *ret_asked, size_t max, const char *json, size_t len)
{
    static const char member[] = "\"asked\":";
    json_t *root = NULL;
    const json_t *list;
    size_t n = 0;

    if (memmem(json, len, member, sizeof(member) - 1) != NULL) /* most replies need no provider */
        root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
    list = json_object_get(root, "asked");
    for (size_t i = 0; i < json_array_size(list) && n < max; i++)
        if (read_asked(&ret_asked[n], json_array_get(list, i)))
            n++;
    json_decref(root);
    return n;
}
