/* SAML: the provider, metadata in and out, the request, and who does what. See saml.h, saml_priv.h.
 *
 * Source: SAML 2.0 Metadata; Bindings 3.4 (redirect), 3.5 (POST).
 */
#include "gateway/sso/saml_priv.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/crypto.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/sso/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BINDING_REDIRECT "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
#define BINDING_POST     "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"
#define RSA_SHA256       "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
#define REQUEST_MAX      8192u
#define ID_SIZE          42u /* an underscore, 40 hexadecimal digits, NUL */

/* ---- metadata in ---- */

static const xmlNode *find_idp(const xmlNode *root)
{
    if (saml_is(root, NS_MD, "EntityDescriptor"))
        return saml_child(root, NS_MD, "IDPSSODescriptor") != NULL ? root : NULL;
    if (saml_is(root, NS_MD, "EntitiesDescriptor"))
        for (const xmlNode *at = root->children; at != NULL; at = at->next) {
            const xmlNode *found = find_idp(at);

            if (found != NULL)
                return found;
        }
    return NULL;
}

static char *location(const xmlNode *idp, const char *service, const char *binding, const char *attribute)
{
    for (const xmlNode *at = idp->children; at != NULL; at = at->next) {
        char *has = saml_is(at, NS_MD, service) ? saml_attribute(at, "Binding") : NULL;
        bool same = has != NULL && strcmp(has, binding) == 0;

        free(has);
        if (same)
            return saml_attribute(at, attribute);
    }
    return NULL;
}

/* The base64 of a certificate as PEM; owned. */
static char *as_pem(const xmlNode *certificate)
{
    struct base_buf pem = BASE_BUF_INIT(65536);
    xmlChar *text = xmlNodeGetContent(certificate);
    unsigned column = 0;

    base_buf_append_str(&pem, "-----BEGIN CERTIFICATE-----\n");
    for (const xmlChar *at = text; at != NULL && *at != '\0'; at++) {
        if (*at <= ' ')
            continue;
        base_buf_append_char(&pem, (char)*at);
        if (++column % 64 == 0)
            base_buf_append_char(&pem, '\n');
    }
    base_buf_append_str(&pem, "\n-----END CERTIFICATE-----\n");
    xmlFree(text);
    return base_buf_take(&pem);
}

static unsigned read_certificates(const xmlNode *idp, char *pems[SAML_KEYS_MAX])
{
    unsigned n = 0;

    for (const xmlNode *at = idp->children; at != NULL; at = at->next) {
        char *use = saml_is(at, NS_MD, "KeyDescriptor") ? saml_attribute(at, "use") : NULL;
        bool signs = saml_is(at, NS_MD, "KeyDescriptor") && (use == NULL || strcmp(use, "signing") == 0);
        const xmlNode *data = saml_child(saml_child(at, NS_DS, "KeyInfo"), NS_DS, "X509Data");

        free(use);
        if (signs && n < SAML_KEYS_MAX && saml_child(data, NS_DS, "X509Certificate") != NULL)
            pems[n++] = as_pem(saml_child(data, NS_DS, "X509Certificate"));
    }
    return n;
}

static enum base_code read_metadata(struct sso_saml *saml, const char *xml, const char *key_pem,
                                    struct base_err *err)
{
    struct sso_reply why = {0};
    xmlDoc *doc = saml_parse(xml, strlen(xml), &why);
    const xmlNode *entity = doc != NULL ? find_idp(xmlDocGetRootElement(doc)) : NULL,
                  *idp = saml_child(entity, NS_MD, "IDPSSODescriptor");
    char *pems[SAML_KEYS_MAX] = {NULL}, *until;
    enum base_code rc = BASE_OK;

    if (doc == NULL)
        rc = base_fail(err, BASE_INVALID, 0, "the metadata cannot be read: %s", why.detail);
    else if (idp == NULL)
        rc = base_fail(err, BASE_INVALID, 0, "the metadata has no IDPSSODescriptor");
    if (rc == BASE_OK) {
        until = saml_attribute(entity, "validUntil");
        saml_time(until, &saml->valid_until);
        free(until);
        saml->idp_entity_id = saml_attribute(entity, "entityID");
        saml->sso_url = location(idp, "SingleSignOnService", BINDING_REDIRECT, "Location");
        saml->slo_url = location(idp, "SingleLogoutService", BINDING_REDIRECT, "Location");
        saml->slo_answer_url = location(idp, "SingleLogoutService", BINDING_REDIRECT, "ResponseLocation");
        saml->n_certificates = read_certificates(idp, pems);
        if (saml->idp_entity_id == NULL || strlen(saml->idp_entity_id) > 127)
            rc = base_fail(err, BASE_INVALID, 0,
                           "the metadata has no entityID, or one of more than 127 bytes");
        else if (saml->sso_url == NULL || !sso_url_ok(saml->sso_url))
            rc = base_fail(err, BASE_INVALID, 0,
                           "the metadata names no https address for sign-in by redirect");
        else if ((saml->slo_url != NULL && !sso_url_ok(saml->slo_url)) ||
                 (saml->slo_answer_url != NULL && !sso_url_ok(saml->slo_answer_url)))
            rc = base_fail(err, BASE_INVALID, 0, "the metadata's logout address is no https address");
        else if (saml->n_certificates == 0)
            rc = base_fail(err, BASE_INVALID, 0, "the metadata has no signing certificate");
        else
            rc = saml_keys_new(&saml->keys, (const char *const *)pems, saml->n_certificates, key_pem, err);
    }
    for (unsigned i = 0; i < SAML_KEYS_MAX; i++)
        free(pems[i]);
    xmlFreeDoc(doc);
    return rc;
}

/* ---- life ---- */

static const char *text_or_empty(const json_t *config, const char *name)
{
    const char *text = sso_text(config, name);

    return text != NULL ? text : "";
}

enum base_code sso_saml_new(struct sso_provider *provider, struct base_err *err)
{
    const json_t *config = provider->config;
    const char *xml = sso_text(config, "metadata_xml"), *key = sso_text(config, "key_pem");
    struct sso_saml *saml = base_zalloc(sizeof(*saml));
    enum base_code rc = BASE_OK;

    saml->entity_id = sso_text(config, "entity_id");
    saml->want_signed = text_or_empty(config, "want_signed");
    saml->subject_claim = text_or_empty(config, "subject_claim");
    saml->name_claim = text_or_empty(config, "name_claim");
    saml->email_claim = text_or_empty(config, "email_claim");
    saml->claims = json_object_get(config, "claims");
    saml->sign_requests = json_is_true(json_object_get(config, "sign_requests"));
    saml->want_encrypted = json_is_true(json_object_get(config, "want_encrypted"));
    if (xml == NULL || saml->entity_id == NULL || !json_is_array(saml->claims))
        rc = base_fail(err, BASE_INVALID, 0, "metadata_xml, entity_id or claims is missing");
    else if (strcmp(saml->want_signed, "response") != 0 && strcmp(saml->want_signed, "assertion") != 0 &&
             strcmp(saml->want_signed, "either") != 0)
        rc = base_fail(err, BASE_INVALID, 0, "want_signed must be response, assertion or either");
    else if ((saml->sign_requests || saml->want_encrypted) && key == NULL)
        rc = base_fail(err, BASE_INVALID, 0, "sign_requests and want_encrypted need a key_file");
    else
        rc = read_metadata(saml, xml, key, err);
    provider->saml = saml;
    if (rc != BASE_OK)
        sso_saml_free(provider);
    return rc;
}

void sso_saml_free(struct sso_provider *provider)
{
    struct sso_saml *saml = provider->saml;

    if (saml == NULL)
        return;
    free(saml->idp_entity_id);
    free(saml->sso_url);
    free(saml->slo_url);
    free(saml->slo_answer_url);
    saml_keys_free(saml->keys);
    free(saml);
    provider->saml = NULL;
}

/* ---- the request ---- */

static void append_xml(struct base_buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&': base_buf_append_str(out, "&amp;"); break;
        case '<': base_buf_append_str(out, "&lt;"); break;
        case '>': base_buf_append_str(out, "&gt;"); break;
        case '"': base_buf_append_str(out, "&quot;"); break;
        default: base_buf_append_char(out, *text);
        }
    }
}

static void append_escaped(struct base_buf *out, const char *name, const char *value)
{
    static const char hex[] = "0123456789ABCDEF";

    base_buf_printf(out, "%s%s=", out->len > 0 ? "&" : "", name);
    for (; *value != '\0'; value++) {
        unsigned char c = (unsigned char)*value;

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            strchr("-._~", c) != NULL)
            base_buf_append_char(out, (char)c);
        else
            base_buf_printf(out, "%%%c%c", hex[c >> 4], hex[c & 15]);
    }
}

static void format_now(char *out, size_t size)
{
    time_t now = (time_t)sso_now();
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(out, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static void build_request(const struct sso_saml *saml, const char *id, const char *acs_url,
                          struct base_buf *out)
{
    char instant[32];

    format_now(instant, sizeof(instant));
    base_buf_printf(out,
                    "<samlp:AuthnRequest xmlns:samlp=\"" NS_SAMLP "\" xmlns:saml=\"" NS_SAML
                    "\" ID=\"%s\" Version=\"2.0\" IssueInstant=\"%s\" "
                    "ProtocolBinding=\"" BINDING_POST "\" Destination=\"",
                    id, instant);
    append_xml(out, saml->sso_url);
    base_buf_append_str(out, "\" AssertionConsumerServiceURL=\"");
    append_xml(out, acs_url);
    base_buf_append_str(out, "\"><saml:Issuer>");
    append_xml(out, saml->entity_id);
    base_buf_append_str(out, "</saml:Issuer><samlp:NameIDPolicy AllowCreate=\"true\"/></samlp:AuthnRequest>");
}

/* DEFLATE (RFC 1951 section 3.2.4) without compressing: one stored block. */
static char *stored_base64(const struct base_buf *xml)
{
    unsigned char *block = base_alloc(xml->len + 5);
    char *text;

    block[0] = 1; /* the last block, stored */
    block[1] = (unsigned char)(xml->len & 0xff);
    block[2] = (unsigned char)(xml->len >> 8);
    block[3] = (unsigned char)~block[1];
    block[4] = (unsigned char)~block[2];
    memcpy(block + 5, xml->data, xml->len);
    text = saml_base64_encode(block, xml->len + 5);
    free(block);
    return text;
}

/* `to` with a message by redirect, signed when requests are. Owned; NULL: it could not be made. */
static char *redirect_url(const struct sso_saml *saml, const char *to, const char *parameter,
                          const struct base_buf *xml, const char *relay_state)
{
    auto_buf struct base_buf query = BASE_BUF_INIT(4 * REQUEST_MAX);
    struct base_buf url = BASE_BUF_INIT(5 * REQUEST_MAX);
    char *message = xml->failed ? NULL : stored_base64(xml), *signature = NULL;

    if (message == NULL)
        return NULL;
    append_escaped(&query, parameter, message);
    if (relay_state != NULL)
        append_escaped(&query, "RelayState", relay_state);
    if (saml_has_key(saml->keys)) {
        append_escaped(&query, "SigAlg", RSA_SHA256);
        signature = saml_sign_text(saml->keys, query.data);
        if (signature != NULL)
            append_escaped(&query, "Signature", signature);
    }
    base_buf_printf(&url, "%s%c%s", to, strchr(to, '?') != NULL ? '&' : '?', query.data);
    free(message);
    if (query.failed || url.failed || (saml->sign_requests && signature == NULL)) {
        base_buf_free(&url);
        free(signature);
        return NULL;
    }
    free(signature);
    return base_buf_take(&url);
}

static void new_id(char out[ID_SIZE])
{
    unsigned char random[20];

    base_random(random, sizeof(random));
    out[0] = '_'; /* an xs:ID does not begin with a digit */
    base_hex_encode(random, sizeof(random), out + 1);
}

static void start(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const struct sso_saml *saml = ctx->provider->saml;
    const char *acs_url = sso_text(request, "acs_url"), *relay = sso_text(request, "relay_state");
    auto_buf struct base_buf xml = BASE_BUF_INIT(REQUEST_MAX);
    char id[ID_SIZE], *url;

    if (acs_url == NULL || relay == NULL || strlen(relay) < 22 || strlen(relay) > 80) {
        sso_fail(reply, "invalid", "request.member",
                 "acs_url or relay_state is missing, too short or too long");
        return;
    }
    new_id(id);
    build_request(saml, id, acs_url, &xml);
    url = redirect_url(saml, saml->sso_url, "SAMLRequest", &xml, relay);
    if (url == NULL)
        sso_fail(reply, "internal", "saml.start", "the request could not be made");
    else
        reply->body = json_pack("{s:s, s:s}", "request_id", id, "url", url);
    free(url);
}

/* The beginning that logout messages share. */
static void begin_logout(const struct sso_saml *saml, const char *kind, const char *to,
                         const char *in_response_to, struct base_buf *out)
{
    char id[ID_SIZE], instant[32];

    new_id(id);
    format_now(instant, sizeof(instant));
    base_buf_printf(out,
                    "<samlp:%s xmlns:samlp=\"" NS_SAMLP "\" xmlns:saml=\"" NS_SAML
                    "\" ID=\"%s\" Version=\"2.0\" IssueInstant=\"%s\" Destination=\"",
                    kind, id, instant);
    append_xml(out, to);
    if (in_response_to != NULL) {
        base_buf_append_str(out, "\" InResponseTo=\"");
        append_xml(out, in_response_to);
    }
    base_buf_append_str(out, "\"><saml:Issuer>");
    append_xml(out, saml->entity_id);
    base_buf_append_str(out, "</saml:Issuer>");
}

char *saml_logout_request(const struct sso_provider *provider, const char *name_id, const char *format,
                          const char *session_index, const char *relay_state)
{
    const struct sso_saml *saml = provider->saml;
    auto_buf struct base_buf xml = BASE_BUF_INIT(REQUEST_MAX);

    if (saml->slo_url == NULL)
        return NULL;
    begin_logout(saml, "LogoutRequest", saml->slo_url, NULL, &xml);
    base_buf_append_str(&xml, "<saml:NameID");
    if (format != NULL && format[0] != '\0') {
        base_buf_append_str(&xml, " Format=\"");
        append_xml(&xml, format);
        base_buf_append_char(&xml, '"');
    }
    base_buf_append_char(&xml, '>');
    append_xml(&xml, name_id);
    base_buf_append_str(&xml, "</saml:NameID>");
    if (session_index != NULL && session_index[0] != '\0') {
        base_buf_append_str(&xml, "<samlp:SessionIndex>");
        append_xml(&xml, session_index);
        base_buf_append_str(&xml, "</samlp:SessionIndex>");
    }
    base_buf_append_str(&xml, "</samlp:LogoutRequest>");
    return redirect_url(saml, saml->slo_url, "SAMLRequest", &xml, relay_state);
}

char *saml_logout_answer(const struct sso_provider *provider, const char *in_response_to,
                         const char *relay_state)
{
    const struct sso_saml *saml = provider->saml;
    const char *to = saml->slo_answer_url != NULL ? saml->slo_answer_url : saml->slo_url;
    auto_buf struct base_buf xml = BASE_BUF_INIT(REQUEST_MAX);

    if (to == NULL)
        return NULL;
    begin_logout(saml, "LogoutResponse", to, in_response_to, &xml);
    base_buf_append_str(&xml, "<samlp:Status><samlp:StatusCode "
                              "Value=\"urn:oasis:names:tc:SAML:2.0:status:Success\"/></samlp:Status>"
                              "</samlp:LogoutResponse>");
    return redirect_url(saml, to, "SAMLResponse", &xml, relay_state);
}

/* ---- metadata out ---- */

static void append_certificate(struct base_buf *out, const char *use, const char *pem)
{
    const char *from = strchr(pem, '\n'), *to = strstr(pem, "-----END");

    if (from == NULL || to == NULL)
        return;
    base_buf_printf(out,
                    "<md:KeyDescriptor use=\"%s\"><ds:KeyInfo xmlns:ds=\"" NS_DS
                    "\"><ds:X509Data><ds:X509Certificate>",
                    use);
    base_buf_append(out, from + 1, (size_t)(to - from - 1));
    base_buf_append_str(out, "</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>\n");
}

static void metadata(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const struct sso_saml *saml = ctx->provider->saml;
    const char *acs_url = sso_text(request, "acs_url"), *slo_url = sso_text(request, "slo_url"),
               *pem = sso_text(ctx->provider->config, "cert_pem");
    auto_buf struct base_buf xml = BASE_BUF_INIT(65536);

    if (acs_url == NULL) {
        sso_fail(reply, "invalid", "request.member", "acs_url is missing");
        return;
    }
    base_buf_append_str(&xml,
                        "<?xml version=\"1.0\"?>\n<md:EntityDescriptor xmlns:md=\"" NS_MD "\" entityID=\"");
    append_xml(&xml, saml->entity_id);
    base_buf_printf(&xml,
                    "\">\n<md:SPSSODescriptor protocolSupportEnumeration=\"" NS_SAMLP
                    "\" AuthnRequestsSigned=\"%s\" WantAssertionsSigned=\"%s\">\n",
                    saml->sign_requests ? "true" : "false",
                    strcmp(saml->want_signed, "response") != 0 ? "true" : "false");
    if (pem != NULL) {
        append_certificate(&xml, "signing", pem);
        append_certificate(&xml, "encryption", pem);
    }
    for (unsigned i = 0; slo_url != NULL && i < 2; i++) {
        base_buf_printf(&xml, "<md:SingleLogoutService Binding=\"%s\" Location=\"",
                        i == 0 ? BINDING_REDIRECT : BINDING_POST);
        append_xml(&xml, slo_url);
        base_buf_append_str(&xml, "\"/>\n");
    }
    base_buf_append_str(&xml,
                        "<md:AssertionConsumerService index=\"0\" isDefault=\"true\" Binding=\"" BINDING_POST
                        "\" Location=\"");
    append_xml(&xml, acs_url);
    base_buf_append_str(&xml, "\"/>\n</md:SPSSODescriptor>\n</md:EntityDescriptor>\n");
    if (xml.failed)
        sso_fail(reply, "internal", "saml.metadata", "the metadata could not be made");
    else
        reply->body = json_pack("{s:s}", "xml", xml.data);
}

/* ---- check ---- */

static void add_finding(json_t *list, const char *level, json_t *text)
{
    json_array_append_new(list, json_pack("{s:s, s:o}", "level", level, "text", text));
}

static void check(struct sso_ctx *ctx, struct sso_reply *reply)
{
    const struct sso_saml *saml = ctx->provider->saml;
    json_t *list = json_array();
    int64_t left_s = saml->valid_until - sso_now();

    add_finding(list, "ok", json_sprintf("provider %s", saml->idp_entity_id));
    add_finding(list, "ok", json_sprintf("our entity id is %s", saml->entity_id));
    add_finding(
        list, "ok",
        json_sprintf("%u signing certificate%s", saml->n_certificates, saml->n_certificates == 1 ? "" : "s"));
    if (saml->valid_until != 0 && left_s <= 0)
        add_finding(list, "error", json_string("the metadata is not valid any more: fetch it again"));
    else if (saml->valid_until != 0 && left_s < 14 * 86400)
        add_finding(list, "warn",
                    json_sprintf("the metadata is valid for %lld more days: fetch it again",
                                 (long long)(left_s / 86400)));
    if (strcmp(saml->want_signed, "response") != 0)
        add_finding(
            list, "warn",
            json_sprintf(
                "want_signed is %s: status and destination of a response are then checked, but not signed; "
                "have the provider sign the response, too",
                saml->want_signed));
    if (saml->slo_url == NULL)
        add_finding(
            list, "warn",
            json_string("the provider has no single logout: signing out here leaves its own session open"));
    if (!saml->sign_requests)
        add_finding(list, "warn", json_string("requests are not signed: set sign_requests and a key"));
    if (!saml_has_key(saml->keys))
        add_finding(list, "warn", json_string("there is no key: assertions cannot be encrypted for us"));
    reply->body = json_pack("{s:o}", "findings", list);
}

/* ---- dispatch ---- */

void sso_saml_handle(struct sso_ctx *ctx, const char *op, const json_t *request, struct sso_reply *reply)
{
    if (strcmp(op, "explain") == 0)
        saml_explain(ctx, request, reply);
    else if (strcmp(op, "saml_start") == 0)
        start(ctx, request, reply);
    else if (strcmp(op, "saml_finish") == 0)
        saml_finish(ctx, request, reply);
    else if (strcmp(op, "saml_logout") == 0)
        saml_logout(ctx, request, reply);
    else if (strcmp(op, "saml_logout_start") == 0)
        saml_logout_start(ctx, request, reply);
    else if (strcmp(op, "saml_metadata") == 0)
        metadata(ctx, request, reply);
    else if (strcmp(op, "check") == 0)
        check(ctx, reply);
    else
        sso_fail(reply, "invalid", "request.op", "no such operation");
}
