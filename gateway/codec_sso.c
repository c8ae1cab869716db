/* Codec of the messages to and from gatehouse-sso. See codec_sso.h. */
#include "gateway/codec_sso.h"

#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX   (512u << 10) /* metadata, certificates */
#define CLAIMS_MAX 4096u
#define LIST_MAX   256u

/* ---- configuration ---- */

static enum base_code read_public_file(char **ret_text, const char *path, struct base_err *err)
{
    FILE *file = fopen(path, "re");
    char *text;
    size_t n;

    if (file == NULL)
        return base_fail(err, BASE_NOT_FOUND, errno, "%s cannot be read", path);
    text = base_alloc(FILE_MAX + 2);
    n = fread(text, 1, FILE_MAX + 1, file);
    fclose(file);
    text[n] = '\0';
    if (n == 0 || n > FILE_MAX || memchr(text, '\0', n) != NULL || !base_utf8_valid(text, n)) {
        free(text);
        return base_fail(err, BASE_INVALID, 0, "%s is empty, no text, or longer than %u bytes", path,
                         FILE_MAX);
    }
    *ret_text = text;
    return BASE_OK;
}

static void put_text(struct base_buf *out, const char *name, const char *text)
{
    base_buf_printf(out, ",\"%s\":", name);
    base_buf_append_json(out, text, strlen(text));
}

static void put_list(struct base_buf *out, const char *name, const char *const *items, size_t n)
{
    base_buf_printf(out, ",\"%s\":[", name);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        base_buf_append_json(out, items[i], strlen(items[i]));
    }
    base_buf_append_char(out, ']');
}

/* The content of a file that the policy names, "" for none; a secret one must belong to its owner alone. */
static enum base_code put_file(struct base_buf *out, const char *name, const char *path, bool secret,
                               struct base_err *err)
{
    auto_secret struct base_secret *bytes = NULL;
    auto_free char *text = NULL;
    enum base_code rc;

    if (path[0] == '\0')
        return BASE_OK;
    if (!secret) {
        rc = read_public_file(&text, path, err);
        if (rc == BASE_OK)
            put_text(out, name, text);
        return rc;
    }
    rc = base_secret_read_file(&bytes, path, err);
    if (rc != BASE_OK)
        return rc;
    if (base_secret_len(bytes) == 0 ||
        !base_utf8_valid((const char *)base_secret_bytes(bytes), base_secret_len(bytes)))
        return base_fail(err, BASE_INVALID, 0, "%s is empty or no text", path);
    base_buf_printf(out, ",\"%s\":", name);
    base_buf_append_json(out, (const char *)base_secret_bytes(bytes), base_secret_len(bytes));
    return BASE_OK;
}

static enum base_code put_oidc(struct base_buf *out, const struct pol_provider *p, struct base_err *err)
{
    const char *audiences[2 * POL_LIST_MAX];
    size_t n = 0;
    enum base_code rc;

    base_buf_append_str(out, ",\"kind\":\"oidc\"");
    put_text(out, "issuer", p->issuer);
    put_text(out, "client_id", p->client_id);
    put_text(out, "token_auth", p->token_auth);
    put_list(out, "scopes", p->scopes.items, p->scopes.n);
    put_list(out, "algorithms", p->algorithms.items, p->algorithms.n);
    put_list(out, "acr", p->acr.items, p->acr.n);
    put_list(out, "hosts", p->hosts.items, p->hosts.n);
    base_buf_printf(out, ",\"max_age_s\":%u,\"userinfo\":%s", p->max_age_s, p->userinfo ? "true" : "false");
    rc = put_file(out, "client_secret", p->client_secret_file, true, err);
    if (rc == BASE_OK)
        rc = put_file(out, "ca_pem", p->ca_file, false, err);
    for (size_t i = 0; i < p->bearer_audiences.n; i++)
        audiences[n++] = p->bearer_audiences.items[i];
    for (size_t i = 0; i < p->scim_audiences.n; i++)
        audiences[n++] = p->scim_audiences.items[i];
    if (n == 0)
        return rc;
    base_buf_printf(out, ",\"bearer\":{\"introspection\":%s,\"require_binding\":%s",
                    p->introspection ? "true" : "false", p->require_binding ? "true" : "false");
    put_list(out, "audiences", audiences, n);
    base_buf_append_char(out, '}');
    return rc;
}

static enum base_code put_saml(struct base_buf *out, const struct pol_provider *p, const char *public_url,
                               struct base_err *err)
{
    static const char *const wanted[] = {[POL_SIGNED_RESPONSE] = "response",
                                         [POL_SIGNED_ASSERTION] = "assertion",
                                         [POL_SIGNED_EITHER] = "either"};
    char entity_id[POL_TEXT_MAX + POL_NAME_MAX + 64];
    enum base_code rc;

    snprintf(entity_id, sizeof(entity_id), "%s/auth/saml/%s/metadata", public_url, p->name);
    base_buf_append_str(out, ",\"kind\":\"saml\"");
    put_text(out, "entity_id", p->entity_id[0] != '\0' ? p->entity_id : entity_id);
    put_text(out, "want_signed", wanted[p->want_signed]);
    base_buf_printf(out, ",\"sign_requests\":%s,\"want_encrypted\":%s", p->sign_requests ? "true" : "false",
                    p->want_encrypted ? "true" : "false");
    rc = put_file(out, "metadata_xml", p->metadata_file, false, err);
    if (rc == BASE_OK)
        rc = put_file(out, "key_pem", p->key_file, true, err);
    return rc == BASE_OK ? put_file(out, "cert_pem", p->cert_file, false, err) : rc;
}

static enum base_code put_provider(struct base_buf *out, const struct pol_snapshot *policy,
                                   const struct pol_provider *p, const char *public_url, struct base_err *err)
{
    const char *claims[POL_LIST_MAX * 4];
    size_t n = pol_claims_wanted(policy, p, claims);
    enum base_code rc;

    base_buf_append_str(out, "{\"name\":");
    base_buf_append_json(out, p->name, strlen(p->name));
    base_buf_printf(out, ",\"clock_skew_s\":%u", p->clock_skew_s);
    put_text(out, "subject_claim", p->subject_claim);
    if (p->kind == POL_PROVIDER_SAML) { /* attributes have no names of their own for these */
        put_text(out, "name_claim", p->name_claim);
        put_text(out, "email_claim", p->email_claim);
    }
    put_list(out, "claims", claims, n);
    rc = p->kind == POL_PROVIDER_OIDC ? put_oidc(out, p, err) : put_saml(out, p, public_url, err);
    base_buf_append_char(out, '}');
    return rc == BASE_OK ? rc : base_fail_prefix(err, rc, "provider %s", p->name);
}

enum base_code gw_sso_encode_config(struct base_buf *out, const struct pol_snapshot *policy,
                                    const char *public_url, struct base_err *err)
{
    size_t n = pol_n_providers(policy);
    enum base_code rc = BASE_OK;

    if (n == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "the policy names no identity provider");
    base_buf_append_str(out, "{\"op\":\"configure\",\"providers\":[");
    for (size_t i = 0; i < n && rc == BASE_OK; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        rc = put_provider(out, policy, pol_provider_at(policy, i), public_url, err);
    }
    base_buf_append_str(out, "]}");
    if (rc == BASE_OK && out->failed)
        rc = base_fail(err, BASE_TOO_LARGE, 0, "the identity providers' files are too large together");
    if (rc != BASE_OK && out->data != NULL) {
        base_wipe(out->data, out->cap);
        base_buf_reset(out);
    }
    return rc;
}

void gw_sso_encode(struct base_buf *out, const char *op, ...)
{
    va_list args;
    const char *name;

    base_buf_append_str(out, "{\"op\":");
    base_buf_append_json(out, op, strlen(op));
    va_start(args, op);
    while ((name = va_arg(args, const char *)) != NULL) {
        const char *text = va_arg(args, const char *);

        if (text != NULL)
            put_text(out, name, text);
    }
    va_end(args);
    base_buf_append_char(out, '}');
}

/* ---- replies ---- */

struct reader {
    struct base_arena *arena;
    const json_t *root;
    bool bad;
};

/* A text that is there, without NUL, and not too long: into the arena. */
static const char *take_text(struct reader *r, const json_t *value)
{
    size_t len = json_string_length(value);
    const char *copy;

    if (!json_is_string(value))
        return NULL;
    if (len > GW_SSO_TEXT_MAX * 4u || strlen(json_string_value(value)) != len) {
        r->bad = true;
        return NULL;
    }
    copy = base_arena_dup(r->arena, json_string_value(value), len);
    if (copy == NULL)
        r->bad = true;
    return copy;
}

static const char *text_at(struct reader *r, const char *name)
{
    const json_t *value = json_object_get(r->root, name);

    if (value != NULL && !json_is_string(value))
        r->bad = true;
    return take_text(r, value);
}

/* Whole seconds that a time can be; anything else makes the reply bad. */
static int64_t time_at(struct reader *r, const char *name)
{
    const json_t *value = json_object_get(r->root, name);
    int64_t time = json_integer_value(value);

    if (value == NULL)
        return 0;
    if (!json_is_integer(value) || time < 0 || time > INT64_C(253402300799)) { /* the year 9999 */
        r->bad = true;
        return 0;
    }
    return time;
}

static void read_claims(struct reader *r, struct gw_sso_reply *reply)
{
    json_t *object = json_object_get(r->root, "claims"), *list;
    const char *name;
    size_t n = 0;

    if (object == NULL)
        return;
    json_object_foreach(object, name, list) n += json_array_size(list);
    if (!json_is_object(object) || n > CLAIMS_MAX) {
        r->bad = true;
        return;
    }
    reply->claims = base_arena_alloc(r->arena, (n + 1) * sizeof(*reply->claims));
    if (reply->claims == NULL) {
        r->bad = true;
        return;
    }
    json_object_foreach(object, name, list)
    {
        const char *copy = base_arena_dup(r->arena, name, strlen(name));

        for (size_t i = 0; copy != NULL && i < json_array_size(list); i++) {
            const char *value = take_text(r, json_array_get(list, i));

            if (value == NULL)
                r->bad = true;
            else
                reply->claims[reply->n_claims++] = (struct pol_claim){copy, value};
        }
    }
}

static void read_indexes(struct reader *r, struct gw_sso_reply *reply)
{
    const json_t *list = json_object_get(r->root, "session_indexes");
    size_t n = json_array_size(list);

    if (n > LIST_MAX) {
        r->bad = true;
        return;
    }
    reply->session_indexes = base_arena_alloc(r->arena, (n + 1) * sizeof(*reply->session_indexes));
    for (size_t i = 0; reply->session_indexes != NULL && i < n; i++) {
        const char *text = take_text(r, json_array_get(list, i));

        if (text != NULL)
            reply->session_indexes[reply->n_session_indexes++] = text;
    }
}

static void read_good(struct reader *r, struct gw_sso_reply *reply)
{
    const struct {
        const char *name;
        const char **into;
    } texts[] = {{"url", &reply->url},
                 {"xml", &reply->xml},
                 {"request_id", &reply->request_id},
                 {"kind", &reply->kind},
                 {"answer_url", &reply->answer_url},
                 {"in_response_to", &reply->in_response_to},
                 {"issuer", &reply->issuer},
                 {"subject", &reply->subject},
                 {"sid", &reply->sid},
                 {"name", &reply->name},
                 {"email", &reply->email},
                 {"acr", &reply->acr},
                 {"refresh_token", &reply->refresh_token},
                 {"id_token", &reply->id_token},
                 {"jti", &reply->jti},
                 {"audience", &reply->audience},
                 {"assertion_id", &reply->assertion_id},
                 {"name_id", &reply->name_id},
                 {"name_id_format", &reply->name_id_format},
                 {"session_index", &reply->session_index},
                 {"client_id", &reply->client_id},
                 {"provider", &reply->provider}};

    for (size_t i = 0; i < BASE_ARRAY_LEN(texts); i++)
        *texts[i].into = text_at(r, texts[i].name);
    reply->auth_time = time_at(r, "auth_time");
    reply->issued_at = time_at(r, "issued_at");
    reply->expires_at = time_at(r, "expires_at");
    reply->assertion_expires_at = time_at(r, "assertion_expires_at");
    reply->session_ends_at = time_at(r, "session_ends_at");
    reply->bound =
        !json_is_false(json_object_get(r->root, "bound")); /* unless it is said: a proof with every request */
    read_claims(r, reply);
    read_indexes(r, reply);
}

static void read_refusal(struct reader *r, struct gw_sso_reply *reply)
{
    reply->code = text_at(r, "code");
    reply->check = text_at(r, "check");
    reply->detail = text_at(r, "detail");
    if (reply->code == NULL || reply->check == NULL || reply->detail == NULL)
        r->bad = true;
}

enum base_code gw_sso_decode(struct gw_sso_reply *ret_reply, struct base_arena *arena, const char *json,
                             size_t len, struct base_err *err)
{
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *ok = json_object_get(root, "ok");
    struct reader reader = {.arena = arena, .root = root};
    struct gw_sso_reply reply = {.ok = json_is_true(ok)};

    if (!json_is_object(root) || !json_is_boolean(ok))
        reader.bad = true;
    else if (reply.ok)
        read_good(&reader, &reply);
    else
        read_refusal(&reader, &reply);
    json_decref(root);
    if (reader.bad)
        return base_fail(err, BASE_INVALID, 0, "gatehouse-sso's answer is not a reply");
    *ret_reply = reply;
    return BASE_OK;
}
