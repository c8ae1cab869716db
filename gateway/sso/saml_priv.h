/* SAML, between its files: saml.c (provider, metadata, start, dispatch), saml_xml.c (what is checked before and while parsing),
 * saml_crypto.c (signatures, decryption), saml_response.c (the assertion), saml_report.c (check, explain).
 *
 * One parser: a message is parsed once by libxml2; structure is checked, signatures are verified by xmlsec and identity is read on that
 * one tree, from the very element that a signature covers.
 */
#ifndef GATEWAY_SSO_SAML_PRIV_H
#define GATEWAY_SSO_SAML_PRIV_H

#include "gateway/sso/saml.h"

#include <libxml/tree.h>

#define SAML_XML_MAX   (512u << 10)
#define SAML_DEPTH_MAX 40u
#define SAML_NODES_MAX 20000u
#define SAML_KEYS_MAX  8u
#define SAML_TEXT_MAX  4096u

#define NS_SAMLP "urn:oasis:names:tc:SAML:2.0:protocol"
#define NS_SAML  "urn:oasis:names:tc:SAML:2.0:assertion"
#define NS_MD    "urn:oasis:names:tc:SAML:2.0:metadata"
#define NS_DS    "http://www.w3.org/2000/09/xmldsig#"
#define NS_ENC   "http://www.w3.org/2001/04/xmlenc#"

struct saml_keys; /* saml_crypto.c: certificates' keys and our own */

struct sso_saml {
    const char *entity_id, *want_signed, *subject_claim, *name_claim, *email_claim;
    const json_t *claims;
    bool sign_requests, want_encrypted;
    char *idp_entity_id, *sso_url, *slo_url,
        *slo_answer_url; /* slo: by redirect; NULL: the provider has none */
    int64_t valid_until; /* of the metadata; 0: not said */
    unsigned n_certificates;
    struct saml_keys *keys;
};

/* ---- saml_xml.c ---- */

/* Size, no DOCTYPE, no entity, no processing instruction, depth; then parsed without network. NULL: refused. */
xmlDoc *saml_parse(const char *xml, size_t len, struct sso_reply *reply);
bool saml_is(const xmlNode *node, const char *ns, const char *name);
/* Direct children. */
xmlNode *saml_child(const xmlNode *parent, const char *ns, const char *name);
size_t saml_count(const xmlNode *parent, const char *ns, const char *name);
/* At any depth, the node itself too. */
size_t saml_count_all(const xmlNode *node, const char *ns, const char *name);
/* The whole text, comments left out; owned (free()); "" for none. Longer than SAML_TEXT_MAX, or with elements inside: NULL. */
char *saml_text(const xmlNode *node);
/* An attribute without namespace; owned; NULL when absent or longer than SAML_TEXT_MAX. */
char *saml_attribute(const xmlNode *node, const char *name);
/* xs:dateTime in UTC. False: none, or not that. */
bool saml_time(const char *text, int64_t *ret_time);
/* One Response with one (encrypted) assertion; IDs unique; signatures where they belong and of the form that is allowed. */
bool saml_check_structure(xmlNode *root, struct sso_reply *reply);
/* A logout message by POST: its own signature is there, alone, and of the form that is allowed. */
bool saml_check_own_signature(xmlNode *root, struct sso_reply *reply);

/* ---- saml_crypto.c ---- */

enum base_code saml_keys_new(struct saml_keys **ret_keys, const char *const *certificates, size_t n,
                             const char *key_pem, struct base_err *err);
void saml_keys_free(struct saml_keys *keys);
/* The Signature that is the node's own child, by one of the provider's keys. */
bool saml_verify(struct saml_keys *keys, xmlNode *signed_node, struct sso_reply *reply);
/* Decrypts the EncryptedAssertion of a Response in place. */
bool saml_decrypt(struct saml_keys *keys, xmlNode *response, struct sso_reply *reply);
/* base64 of an RSA-SHA256 signature with our key; owned; NULL: cannot. */
char *saml_sign_text(struct saml_keys *keys, const char *text);
bool saml_has_key(const struct saml_keys *keys);
enum base_code saml_base64_decode(const char *text, size_t len, unsigned char **ret_bytes, size_t *ret_n);
char *saml_base64_encode(const void *bytes, size_t n); /* owned */

/* An RSA or ECDSA signature over text by one of the provider's keys; algorithm is one of those allowed for XML. */
bool saml_verify_text(struct saml_keys *keys, const char *algorithm, const char *text,
                      const unsigned char *signature, size_t n);

/* ---- saml.c ---- */

/* Addresses with a message of ours by redirect, signed when requests are; owned; NULL: the provider has no such service. */
char *saml_logout_request(const struct sso_provider *provider, const char *name_id, const char *format,
                          const char *session_index, const char *relay_state);
char *saml_logout_answer(const struct sso_provider *provider, const char *in_response_to,
                         const char *relay_state);

/* ---- saml_logout.c ---- */

void saml_logout(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
void saml_logout_start(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);

/* ---- saml_response.c ---- */

void saml_finish(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
/* Goes through the checks; stop false: notes each in list and goes on (explain). */
void saml_explain(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);

#endif
