/* SAML: single logout. See saml_priv.h, proto.h.
 *
 * Redirect: the signature is over the query's own octets, as they came (Bindings 3.4.4.1): they are never decoded and encoded again.
 * An ECDSA signature may be r and s as in XML Signature, or DER, as many providers write it (saml_verify_text).
 * POST: the signature is in the XML. In both a request without a signature is refused: it would let anybody end anybody's session.
 *
 * Source: SAML 2.0 Core 3.7, Profiles 4.4, Bindings 3.4, 3.5.
 */
#include "gateway/sso/saml_priv.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define QUERY_MAX    65536u
#define INFLATED_MAX 65536u
#define AGE_MAX_S    600
#define INDEXES_MAX  64u

/* ---- the redirect binding ---- */

/* A parameter as it came, not decoded. NULL: absent, or there twice. */
static const char *raw_parameter(const char *query, const char *name, size_t *ret_len)
{
    const char *found = NULL;
    size_t name_len = strlen(name);

    for (const char *at = query; at != NULL && *at != '\0';) {
        const char *amp = strchr(at, '&');
        size_t len = amp != NULL ? (size_t)(amp - at) : strlen(at);

        if (len > name_len && at[name_len] == '=' && memcmp(at, name, name_len) == 0) {
            if (found != NULL)
                return NULL;
            found = at + name_len + 1;
            *ret_len = len - name_len - 1;
        }
        at = amp != NULL ? amp + 1 : NULL;
    }
    return found;
}

static char *percent_decoded(const char *text, size_t len)
{
    char *out = base_alloc(len + 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        size_t got;

        if (byte == '+')
            byte = ' ';
        if (byte == '%') {
            if (len - i < 3 || base_hex_decode(text + i + 1, 2, &byte, 1, &got) != BASE_OK || byte == '\0') {
                free(out);
                return NULL;
            }
            i += 2;
        }
        out[n++] = (char)byte;
    }
    out[n] = '\0';
    return out;
}

/* NULL: not DEFLATE, or more than INFLATED_MAX. */
static char *inflated(const unsigned char *in, size_t n, size_t *ret_len)
{
    char *out = base_alloc(INFLATED_MAX + 1);
    z_stream stream = {.next_in = (unsigned char *)in,
                       .avail_in = (unsigned)n,
                       .next_out = (unsigned char *)out,
                       .avail_out = INFLATED_MAX};
    bool done = inflateInit2(&stream, -15) == Z_OK && inflate(&stream, Z_FINISH) == Z_STREAM_END;

    *ret_len = INFLATED_MAX - stream.avail_out;
    inflateEnd(&stream);
    if (!done) {
        free(out);
        return NULL;
    }
    out[*ret_len] = '\0';
    return out;
}

/* The XML of SAMLRequest or SAMLResponse of a query. */
static char *query_message(const char *query, const char *name, size_t *ret_len, struct sso_reply *reply)
{
    size_t raw_len = 0, n = 0;
    const char *raw = raw_parameter(query, name, &raw_len);
    char *text = raw != NULL ? percent_decoded(raw, raw_len) : NULL, *xml = NULL;
    unsigned char *bytes = NULL;

    if (text != NULL && saml_base64_decode(text, strlen(text), &bytes, &n) == BASE_OK)
        xml = inflated(bytes, n, ret_len);
    if (xml == NULL)
        sso_refuse(reply, "saml.inflate", "the message cannot be unpacked, or has more than %u bytes",
                   INFLATED_MAX);
    free(bytes);
    free(text);
    return xml;
}

/* SAMLRequest=...&RelayState=...&SigAlg=..., each as it came. */
static bool verify_query(struct saml_keys *keys, const char *query, const char *name, struct sso_reply *reply)
{
    size_t message_len = 0, relay_len = 0, algorithm_len = 0, signature_len = 0, n = 0;
    const char *message = raw_parameter(query, name, &message_len),
               *relay = raw_parameter(query, "RelayState", &relay_len),
               *algorithm = raw_parameter(query, "SigAlg", &algorithm_len),
               *signature = raw_parameter(query, "Signature", &signature_len);
    auto_buf struct base_buf signed_text = BASE_BUF_INIT(QUERY_MAX);
    auto_free char *alg = algorithm != NULL ? percent_decoded(algorithm, algorithm_len) : NULL;
    auto_free char *sig = signature != NULL ? percent_decoded(signature, signature_len) : NULL;
    unsigned char *bytes = NULL;
    bool good = false;

    if (message != NULL && alg != NULL && sig != NULL &&
        saml_base64_decode(sig, strlen(sig), &bytes, &n) == BASE_OK) {
        base_buf_printf(&signed_text, "%s=%.*s", name, (int)message_len, message);
        if (relay != NULL)
            base_buf_printf(&signed_text, "&RelayState=%.*s", (int)relay_len, relay);
        base_buf_printf(&signed_text, "&SigAlg=%.*s", (int)algorithm_len, algorithm);
        good = !signed_text.failed && saml_verify_text(keys, alg, signed_text.data, bytes, n);
    }
    free(bytes);
    if (!CHECK("saml.query_signature", good))
        return sso_refuse(reply, "saml.query_signature", "the logout message is not signed by the provider");
    return true;
}

/* ---- what a logout request says ---- */

static bool text_is(const xmlNode *node, const char *wanted)
{
    char *text = node != NULL ? saml_text(node) : NULL;
    bool same = text != NULL && strcmp(text, wanted) == 0;

    free(text);
    return same;
}

static bool check_request(const struct sso_provider *provider, const xmlNode *root, const char *slo_url,
                          struct sso_reply *reply)
{
    int64_t now = sso_now(), skew = provider->clock_skew_s, at = 0, until = 0;
    char *destination = saml_attribute(root, "Destination"), *instant = saml_attribute(root, "IssueInstant"),
         *ends = saml_attribute(root, "NotOnOrAfter"), *id = saml_attribute(root, "ID"),
         *name = saml_text(saml_child(root, NS_SAML, "NameID"));

    if (!CHECK("saml.logout_issuer",
               text_is(saml_child(root, NS_SAML, "Issuer"), provider->saml->idp_entity_id)))
        sso_refuse(reply, "saml.logout_issuer", "the logout request is of another provider");
    else if (!CHECK("saml.logout_destination", destination != NULL && strcmp(destination, slo_url) == 0))
        sso_refuse(reply, "saml.logout_destination", "the logout request is addressed to another place");
    else if (!CHECK("saml.logout_instant",
                    saml_time(instant, &at) && at <= now + skew && at >= now - AGE_MAX_S - skew))
        sso_refuse(reply, "saml.logout_instant", "the logout request is of %lld s ago",
                   (long long)(now - at));
    else if (!CHECK("saml.logout_expired", ends == NULL || (saml_time(ends, &until) && now < until + skew)))
        sso_refuse(reply, "saml.logout_expired", "the logout request has expired");
    else if (!CHECK("saml.logout_subject", name != NULL && name[0] != '\0' && strlen(name) <= 255 &&
                                               id != NULL && id[0] != '\0' && strlen(id) < 128))
        sso_refuse(reply, "saml.logout_subject", "the logout request names nobody, or has no ID");
    free(destination);
    free(instant);
    free(ends);
    free(id);
    free(name);
    return !reply->refused;
}

static void set_owned(json_t *into, const char *name, char *text)
{
    if (text != NULL)
        json_object_set_new(into, name, json_string(text));
    free(text);
}

static json_t *request_facts(const struct sso_provider *provider, const xmlNode *root,
                             const char *relay_state)
{
    json_t *facts = json_object(), *indexes = json_array();
    char *id = saml_attribute(root, "ID");

    json_object_set_new(facts, "kind", json_string("request"));
    json_object_set_new(facts, "issuer", json_string(provider->saml->idp_entity_id));
    json_object_set_new(facts, "expires_at",
                        json_integer(sso_now() + AGE_MAX_S + 2 * provider->clock_skew_s));
    set_owned(facts, "name_id", saml_text(saml_child(root, NS_SAML, "NameID")));
    for (const xmlNode *at = root->children; at != NULL; at = at->next) {
        char *index = saml_is(at, NS_SAMLP, "SessionIndex") ? saml_text(at) : NULL;

        if (index != NULL && json_array_size(indexes) < INDEXES_MAX)
            json_array_append_new(indexes, json_string(index));
        free(index);
    }
    json_object_set_new(facts, "session_indexes", indexes);
    set_owned(facts, "answer_url", saml_logout_answer(provider, id, relay_state));
    set_owned(facts, "request_id", id);
    return facts;
}

/* ---- operations ---- */

/* The answer to a request of ours: that the provider has ended its session. Nothing hangs on it here. */
static void take_response(const xmlNode *root, struct sso_reply *reply)
{
    reply->body = json_pack("{s:s}", "kind", "response");
    set_owned(reply->body, "in_response_to", saml_attribute(root, "InResponseTo"));
}

void saml_logout(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *binding = sso_text(request, "binding"), *message = sso_text(request, "message"),
               *slo_url = sso_text(request, "slo_url");
    bool redirect = binding != NULL && strcmp(binding, "redirect") == 0, is_response;
    const char *name = message != NULL && redirect && strstr(message, "SAMLResponse=") != NULL
                           ? "SAMLResponse"
                           : "SAMLRequest";
    unsigned char *bytes = NULL;
    char *xml = NULL;
    xmlNode *root;
    xmlDoc *doc = NULL;
    size_t n = 0;

    if (message == NULL || slo_url == NULL || strlen(message) > QUERY_MAX * (redirect ? 1 : 8)) {
        sso_fail(reply, "invalid", "request.member", "message or slo_url is missing or too long");
        return;
    }
    if (redirect)
        xml = verify_query(ctx->provider->saml->keys, message, name, reply)
                  ? query_message(message, name, &n, reply)
                  : NULL;
    else if (saml_base64_decode(message, strlen(message), &bytes, &n) == BASE_OK)
        xml = (char *)bytes;
    else
        sso_refuse(reply, "saml.base64", "the logout message is not base64");
    if (xml != NULL)
        doc = saml_parse(xml, n, reply);
    free(xml);
    if (doc == NULL)
        return;
    root = xmlDocGetRootElement(doc);
    is_response = saml_is(root, NS_SAMLP, "LogoutResponse");
    if (!CHECK("saml.logout_root", is_response || saml_is(root, NS_SAMLP, "LogoutRequest")))
        sso_refuse(reply, "saml.logout_root", "the message is no logout request");
    else if (!redirect && !saml_check_own_signature(root, reply))
        ;
    else if (!redirect && !saml_verify(ctx->provider->saml->keys, root, reply))
        ;
    else if (is_response)
        take_response(root, reply);
    else if (check_request(ctx->provider, root, slo_url, reply))
        reply->body = request_facts(ctx->provider, root, sso_text(request, "relay_state"));
    xmlFreeDoc(doc);
}

void saml_logout_start(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *name_id = sso_text(request, "name_id"), *relay = sso_text(request, "relay_state");
    char *url;

    if (name_id == NULL) {
        sso_fail(reply, "invalid", "request.member", "name_id is missing");
        return;
    }
    url = saml_logout_request(ctx->provider, name_id, sso_text(request, "name_id_format"),
                              sso_text(request, "session_index"), relay);
    reply->body = json_pack("{s:s}", "url", url != NULL ? url : "");
    free(url);
}
