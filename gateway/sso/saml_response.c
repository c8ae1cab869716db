/* SAML: the response to a sign-in. See saml_priv.h.
 *
 *     base64 -> bytes (size, no DOCTYPE) -> one tree -> structure -> Response's signature -> decrypted -> structure again
 *            -> Assertion's signature -> the checks below, in order -> identity, read from the assertion that a signature covers
 *
 * Source: SAML 2.0 Core 2.3-2.5, 3.2; Profiles 4.1.4.
 */
#include "gateway/sso/saml_priv.h"

#include "base/mem.h"
#include "base/str.h"

#include <libxml/xmlmemory.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGE_MAX_S  600 /* of a response, beside the clock's skew */
#define BEARER     "urn:oasis:names:tc:SAML:2.0:cm:bearer"
#define SUCCESS    "urn:oasis:names:tc:SAML:2.0:status:Success"
#define VALUES_MAX 2000u

struct message {
    const struct sso_provider *provider;
    const char *acs_url, *request_id; /* explain: NULL when not given, then not compared */
    xmlDoc *doc;
    xmlNode *response, *assertion;
    bool response_signed, assertion_signed, was_encrypted;
};

static bool text_is(const xmlNode *node, const char *wanted)
{
    char *text = node != NULL ? saml_text(node) : NULL;
    bool same = text != NULL && strcmp(text, wanted) == 0;

    free(text);
    return same;
}

static bool attribute_is(const xmlNode *node, const char *name, const char *wanted)
{
    char *text = saml_attribute(node, name);
    bool same = text != NULL && strcmp(text, wanted) == 0;

    free(text);
    return same;
}

static bool has_attribute(const xmlNode *node, const char *name)
{
    return node != NULL && xmlHasProp((xmlNode *)node, (const xmlChar *)name) != NULL;
}

/* A time attribute. absent: what to say when there is none. */
static bool attribute_time(const xmlNode *node, const char *name, int64_t *ret_time)
{
    char *text = saml_attribute(node, name);
    bool good = saml_time(text, ret_time);

    free(text);
    return good;
}

static const xmlNode *confirmation_data(const struct message *m)
{
    const xmlNode *subject = saml_child(m->assertion, NS_SAML, "Subject");

    return saml_child(saml_child(subject, NS_SAML, "SubjectConfirmation"), NS_SAML,
                      "SubjectConfirmationData");
}

/* ---- the checks; each says what is wrong ---- */

static bool check_version(const struct message *m, struct sso_reply *reply)
{
    return CHECK("saml.version", attribute_is(m->response, "Version", "2.0") &&
                                     attribute_is(m->assertion, "Version", "2.0")) ||
           sso_refuse(reply, "saml.version", "the version is not 2.0");
}

static bool check_status(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *code = saml_child(saml_child(m->response, NS_SAMLP, "Status"), NS_SAMLP, "StatusCode");
    char *value = saml_attribute(code, "Value"), shown[72];
    bool good = CHECK("saml.status", value != NULL && strcmp(value, SUCCESS) == 0);

    if (!good)
        sso_refuse(
            reply, "saml.status", "the provider says %s",
            sso_show(value != NULL && strrchr(value, ':') != NULL ? strrchr(value, ':') + 1 : value, shown));
    free(value);
    return good;
}

static bool check_destination(const struct message *m, struct sso_reply *reply)
{
    if (m->acs_url == NULL)
        return true;
    return CHECK("saml.destination", attribute_is(m->response, "Destination", m->acs_url)) ||
           sso_refuse(reply, "saml.destination", "the response is addressed to another place, or to none");
}

static bool check_issuers(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *outer = saml_child(m->response, NS_SAML, "Issuer");
    const char *idp = m->provider->saml->idp_entity_id;

    if (!CHECK("saml.response_issuer", outer == NULL || text_is(outer, idp)))
        return sso_refuse(reply, "saml.response_issuer", "the response is of another provider");
    return CHECK("saml.issuer", saml_count(m->assertion, NS_SAML, "Issuer") == 1 &&
                                    text_is(saml_child(m->assertion, NS_SAML, "Issuer"), idp)) ||
           sso_refuse(reply, "saml.issuer", "the assertion is of another provider");
}

static bool check_issue_instant(const struct message *m, struct sso_reply *reply)
{
    int64_t now = sso_now(), skew = m->provider->clock_skew_s, at = 0;

    return CHECK("saml.issue_instant", attribute_time(m->response, "IssueInstant", &at) && at <= now + skew &&
                                           at >= now - AGE_MAX_S - skew) ||
           sso_refuse(reply, "saml.issue_instant", "the response is of %lld s ago", (long long)(now - at));
}

static bool check_request(const struct message *m, struct sso_reply *reply)
{
    if (m->request_id == NULL)
        return true;
    if (!CHECK("saml.in_response_to", attribute_is(m->response, "InResponseTo", m->request_id)))
        return sso_refuse(reply, "saml.in_response_to",
                          "the response does not answer this browser's request");
    return CHECK("saml.confirmation_request",
                 attribute_is(confirmation_data(m), "InResponseTo", m->request_id)) ||
           sso_refuse(reply, "saml.confirmation_request", "the assertion was made for another request");
}

static bool check_subject(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *subject = saml_child(m->assertion, NS_SAML, "Subject");
    char *name = saml_text(saml_child(subject, NS_SAML, "NameID"));
    size_t len = name != NULL ? strlen(name) : 0;

    free(name);
    return CHECK("saml.subject", saml_count(m->assertion, NS_SAML, "Subject") == 1 &&
                                     saml_count(subject, NS_SAML, "NameID") == 1 && len > 0 && len <= 255) ||
           sso_refuse(reply, "saml.subject",
                      "the assertion names nobody, or somebody with more than 255 bytes");
}

static bool check_confirmation(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *subject = saml_child(m->assertion, NS_SAML, "Subject"), *data = confirmation_data(m);
    int64_t until = 0, now = sso_now();

    if (!CHECK("saml.confirmation",
               saml_count(subject, NS_SAML, "SubjectConfirmation") == 1 && data != NULL &&
                   attribute_is(saml_child(subject, NS_SAML, "SubjectConfirmation"), "Method", BEARER)))
        return sso_refuse(reply, "saml.confirmation", "there is not one bearer confirmation");
    if (!CHECK("saml.recipient", m->acs_url == NULL || attribute_is(data, "Recipient", m->acs_url)))
        return sso_refuse(reply, "saml.recipient", "the assertion was made for another recipient");
    if (!CHECK("saml.confirmation_expired",
               attribute_time(data, "NotOnOrAfter", &until) && now < until + m->provider->clock_skew_s))
        return sso_refuse(reply, "saml.confirmation_expired",
                          "the assertion was to be brought %lld s ago at the latest",
                          (long long)(now - until));
    return CHECK("saml.confirmation_not_before", !has_attribute(data, "NotBefore")) ||
           sso_refuse(reply, "saml.confirmation_not_before", "a bearer confirmation must not have NotBefore");
}

static bool check_times(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *conditions = saml_child(m->assertion, NS_SAML, "Conditions");
    int64_t now = sso_now(), skew = m->provider->clock_skew_s, from = 0, until = 0;

    if (!CHECK("saml.conditions", saml_count(m->assertion, NS_SAML, "Conditions") == 1))
        return sso_refuse(reply, "saml.conditions", "there are no conditions, or several");
    if (!CHECK("saml.not_before", !has_attribute(conditions, "NotBefore") ||
                                      (attribute_time(conditions, "NotBefore", &from) && from <= now + skew)))
        return sso_refuse(reply, "saml.not_before", "the assertion is not valid for another %lld s",
                          (long long)(from - now));
    return CHECK("saml.not_on_or_after",
                 !has_attribute(conditions, "NotOnOrAfter") ||
                     (attribute_time(conditions, "NotOnOrAfter", &until) && now < until + skew)) ||
           sso_refuse(reply, "saml.not_on_or_after", "the assertion ended %lld s ago",
                      (long long)(now - until));
}

/* Every restriction must name us (Core 2.5.1.4); a condition that is not known must not be ignored (2.5.1). */
static bool check_audience(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *conditions = saml_child(m->assertion, NS_SAML, "Conditions");
    unsigned n = 0;

    for (const xmlNode *at = conditions != NULL ? conditions->children : NULL; at != NULL; at = at->next) {
        bool named = false;

        if (at->type != XML_ELEMENT_NODE || saml_is(at, NS_SAML, "OneTimeUse") ||
            saml_is(at, NS_SAML, "ProxyRestriction"))
            continue;
        if (!CHECK("saml.condition_known", saml_is(at, NS_SAML, "AudienceRestriction")))
            return sso_refuse(reply, "saml.condition_known",
                              "there is a condition that is not understood here");
        for (const xmlNode *item = at->children; item != NULL; item = item->next)
            named =
                named || (saml_is(item, NS_SAML, "Audience") && text_is(item, m->provider->saml->entity_id));
        if (!CHECK("saml.audience", named))
            return sso_refuse(reply, "saml.audience",
                              "the assertion is for another audience than our entity id");
        n++;
    }
    return CHECK("saml.audience_missing", n > 0) ||
           sso_refuse(reply, "saml.audience_missing", "the assertion does not say for whom it is");
}

static bool check_session(const struct message *m, struct sso_reply *reply)
{
    const xmlNode *statement = saml_child(m->assertion, NS_SAML, "AuthnStatement");
    int64_t until = 0;

    if (!CHECK("saml.authn_statement", statement != NULL))
        return sso_refuse(reply, "saml.authn_statement", "the assertion does not say that anybody signed in");
    return CHECK("saml.session_ended",
                 !has_attribute(statement, "SessionNotOnOrAfter") ||
                     (attribute_time(statement, "SessionNotOnOrAfter", &until) && sso_now() < until)) ||
           sso_refuse(reply, "saml.session_ended", "the provider's session is over already");
}

static const struct {
    const char *name;
    bool (*fn)(const struct message *m, struct sso_reply *reply);
} checks[] = {{"saml.version", check_version},
              {"saml.status", check_status},
              {"saml.destination", check_destination},
              {"saml.issuer", check_issuers},
              {"saml.issue_instant", check_issue_instant},
              {"saml.in_response_to", check_request},
              {"saml.subject", check_subject},
              {"saml.confirmation", check_confirmation},
              {"saml.not_on_or_after", check_times},
              {"saml.audience", check_audience},
              {"saml.session", check_session}};

/* ---- reading and verifying ---- */

static void message_free(struct message *m)
{
    xmlFreeDoc(m->doc);
    m->doc = NULL;
}

static bool read_message(struct message *m, const char *base64, struct sso_reply *reply)
{
    unsigned char *xml = NULL;
    size_t n = 0;

    if (!CHECK("saml.base64_size", strlen(base64) <= SAML_XML_MAX / 3 * 4 + 4096))
        return sso_refuse(reply, "saml.base64_size", "the response is longer than is read");
    if (saml_base64_decode(base64, strlen(base64), &xml, &n) != BASE_OK)
        return sso_refuse(reply, "saml.base64", "the response is not base64");
    m->doc = saml_parse((const char *)xml, n, reply);
    free(xml);
    if (m->doc == NULL)
        return false;
    m->response = xmlDocGetRootElement(m->doc);
    if (!saml_check_structure(m->response, reply))
        return false;
    m->assertion = saml_child(m->response, NS_SAML, "Assertion");
    return true;
}

/* A signature that is there must hold, wanted or not. */
static bool verify_message(struct message *m, struct sso_reply *reply)
{
    struct sso_saml *saml = m->provider->saml;
    bool wants_response = strcmp(saml->want_signed, "response") == 0,
         wants_assertion = strcmp(saml->want_signed, "assertion") == 0;

    m->response_signed = saml_child(m->response, NS_DS, "Signature") != NULL;
    if (m->response_signed && !saml_verify(saml->keys, m->response, reply))
        return false;
    if (!CHECK("saml.response_signed", m->response_signed || !wants_response))
        return sso_refuse(reply, "saml.response_signed",
                          "the response is not signed, and the policy wants it (want_signed)");
    m->was_encrypted = m->assertion == NULL;
    if (!CHECK("saml.encrypted", m->was_encrypted || !saml->want_encrypted))
        return sso_refuse(reply, "saml.encrypted", "the assertion is not encrypted, and the policy wants it");
    if (m->was_encrypted) {
        if (!saml_decrypt(saml->keys, m->response, reply) || !saml_check_structure(m->response, reply))
            return false;
        m->assertion = saml_child(m->response, NS_SAML, "Assertion");
    }
    m->assertion_signed = saml_child(m->assertion, NS_DS, "Signature") != NULL;
    if (m->assertion_signed && !saml_verify(saml->keys, m->assertion, reply))
        return false;
    if (!CHECK("saml.assertion_signed", m->assertion_signed || !wants_assertion))
        return sso_refuse(reply, "saml.assertion_signed",
                          "the assertion is not signed, and the policy wants it (want_signed)");
    /* an encrypted assertion is covered by the response's signature as the bytes that it was */
    return CHECK("saml.unsigned", m->response_signed || m->assertion_signed) ||
           sso_refuse(reply, "saml.unsigned", "nothing is signed");
}

/* ---- identity ---- */

static void set_owned(json_t *into, const char *name, char *text)
{
    if (text != NULL && text[0] != '\0')
        json_object_set_new(into, name, json_string(text));
    free(text);
}

/* The values of one attribute, by its Name or FriendlyName; statements may be several. */
static json_t *attribute_values(const xmlNode *assertion, const char *wanted)
{
    json_t *list = NULL;

    for (const xmlNode *statement = assertion->children; statement != NULL; statement = statement->next) {
        if (!saml_is(statement, NS_SAML, "AttributeStatement"))
            continue;
        for (const xmlNode *attribute = statement->children; attribute != NULL; attribute = attribute->next) {
            if (!saml_is(attribute, NS_SAML, "Attribute") ||
                (!attribute_is(attribute, "Name", wanted) &&
                 !attribute_is(attribute, "FriendlyName", wanted)))
                continue;
            if (list == NULL)
                list = json_array();
            for (const xmlNode *value = attribute->children; value != NULL; value = value->next) {
                char *text = saml_is(value, NS_SAML, "AttributeValue") ? saml_text(value) : NULL;

                if (text != NULL && json_array_size(list) < VALUES_MAX)
                    json_array_append_new(list, json_string(text));
                free(text);
            }
        }
    }
    return list;
}

static char *first_value(const xmlNode *assertion, const char *name)
{
    json_t *list = name != NULL && name[0] != '\0' ? attribute_values(assertion, name) : NULL;
    const char *text = json_string_value(json_array_get(list, 0));
    char *copy = text != NULL ? base_strdup(text) : NULL;

    json_decref(list);
    return copy;
}

static json_t *identity_of(const struct message *m, struct sso_reply *reply)
{
    const struct sso_saml *saml = m->provider->saml;
    const xmlNode *name = saml_child(saml_child(m->assertion, NS_SAML, "Subject"), NS_SAML, "NameID"),
                  *statement = saml_child(m->assertion, NS_SAML, "AuthnStatement");
    json_t *identity = json_object(), *claims = json_object();
    char *subject =
        saml->subject_claim[0] != '\0' ? first_value(m->assertion, saml->subject_claim) : saml_text(name);
    int64_t until = 0;

    if (subject == NULL || subject[0] == '\0' || strlen(subject) > 255)
        sso_refuse(reply, "saml.subject_attribute",
                   "the attribute that names the person is missing, or longer than 255 bytes");
    for (size_t i = 0; i < json_array_size(saml->claims); i++) {
        const char *wanted = json_string_value(json_array_get(saml->claims, i));
        json_t *values = attribute_values(m->assertion, wanted);

        if (values != NULL)
            json_object_set_new(claims, wanted, values);
    }
    json_object_set_new(identity, "issuer", json_string(saml->idp_entity_id));
    set_owned(identity, "subject", subject);
    json_object_set_new(identity, "claims", claims);
    set_owned(identity, "name", first_value(m->assertion, saml->name_claim));
    set_owned(identity, "email", first_value(m->assertion, saml->email_claim));
    set_owned(identity, "name_id", saml_text(name));
    set_owned(identity, "name_id_format", saml_attribute(name, "Format"));
    set_owned(identity, "session_index", saml_attribute(statement, "SessionIndex"));
    set_owned(identity, "sid", saml_attribute(statement, "SessionIndex"));
    set_owned(identity, "assertion_id", saml_attribute(m->assertion, "ID"));
    if (attribute_time(confirmation_data(m), "NotOnOrAfter", &until)) {
        json_object_set_new(identity, "assertion_expires_at",
                            json_integer(until + m->provider->clock_skew_s));
        json_object_set_new(identity, "expires_at", json_integer(until));
    }
    if (attribute_time(statement, "SessionNotOnOrAfter", &until))
        json_object_set_new(identity, "session_ends_at", json_integer(until));
    if (reply->refused) {
        json_decref(identity);
        return NULL;
    }
    return identity;
}

void saml_finish(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *response = sso_text(request, "response");
    struct message m = {.provider = ctx->provider,
                        .acs_url = sso_text(request, "acs_url"),
                        .request_id = sso_text(request, "request_id")};
    bool good;

    if (response == NULL || m.acs_url == NULL || m.request_id == NULL || m.request_id[0] == '\0') {
        sso_fail(reply, "invalid", "request.member", "response, acs_url or request_id is missing");
        return;
    }
    good = read_message(&m, response, reply) && verify_message(&m, reply);
    for (size_t i = 0; good && i < BASE_ARRAY_LEN(checks); i++)
        good = checks[i].fn(&m, reply);
    if (good)
        reply->body = identity_of(&m, reply);
    if (reply->body != NULL)
        atomic_fetch_add(&ctx->provider->verified, 1);
    message_free(&m);
}

/* ---- explain ---- */

static void add_line(json_t *list, const char *name, struct sso_reply *why)
{
    json_array_append_new(list, json_pack("{s:s, s:b, s:s}", "check", why->refused ? why->check : name, "ok",
                                          !why->refused, "detail", why->refused ? why->detail : "holds"));
    *why = (struct sso_reply){0};
}

/* Whose it is: by the Issuer, when no provider was named. Nothing is trusted by this. */
static struct sso_provider *whose(struct sso_ctx *ctx, const struct message *m)
{
    if (ctx->provider != NULL)
        return ctx->provider;
    for (unsigned i = 0; i < ctx->process->n_providers; i++) {
        struct sso_provider *provider = &ctx->process->providers[i];

        if (provider->kind == SSO_SAML && provider->saml != NULL &&
            (text_is(saml_child(m->response, NS_SAML, "Issuer"), provider->saml->idp_entity_id) ||
             text_is(saml_child(m->assertion, NS_SAML, "Issuer"), provider->saml->idp_entity_id)))
            return provider;
    }
    return NULL;
}

void saml_explain(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    struct message m = {.acs_url = sso_text(request, "acs_url"),
                        .request_id = sso_text(request, "request_id")};
    struct sso_reply why = {0};
    json_t *list = json_array();
    bool readable = read_message(&m, sso_text(request, "text"), &why);

    add_line(list, "saml.structure", &why);
    if (readable)
        m.provider = whose(ctx, &m);
    if (readable && m.provider == NULL) {
        sso_refuse(&why, "saml.issuer", "no configured provider has this issuer");
        add_line(list, "saml.issuer", &why);
    } else if (readable) {
        verify_message(&m, &why);
        add_line(list, "saml.signature", &why);
        for (size_t i = 0; m.assertion != NULL && i < BASE_ARRAY_LEN(checks); i++) {
            checks[i].fn(&m, &why);
            add_line(list, checks[i].name, &why);
        }
    }
    reply->body = json_pack("{s:s, s:s, s:o}", "kind", "SAML response", "provider",
                            m.provider != NULL ? m.provider->name : "", "checks", list);
    message_free(&m);
}
