/* Fuzz: a SAML message's bytes through parsing, structure, signatures and every check of what it says (explain goes on after each that
 * fails), and as a logout message of either binding. By redirect the bytes are in turn the whole query, an ECDSA signature, and the
 * message, packed and not, of a query that is signed as it must be: the provider has two keys, one that nobody has, and one of ours. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/sso/saml_priv.h"
#include "gateway/sso/serve.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char metadata_format[] =
    "<md:EntityDescriptor xmlns:md='urn:oasis:names:tc:SAML:2.0:metadata' "
    "entityID='https://idp.test/md'><md:IDPSSODescriptor>"
    "<md:KeyDescriptor use='signing'><ds:KeyInfo "
    "xmlns:ds='http://www.w3.org/2000/09/xmldsig#'><ds:X509Data><ds:X509Certificate>"
    "MIIClTCCAX2gAwIBAgIBBzANBgkqhkiG9w0BAQsFADAOMQwwCgYDVQQDDANpZHAwHhcNMjYxMTIwMDQ0NDM2WhcNMj"
    "YxMjIxMDQ0NDM2WjAOMQwwCgYDVQQDDANpZHAwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCkmqyC9KE0"
    "6gV7iRn2X4rKdGRP9RpotUoYRaPEJSaRsTtUHMGhTsjFQ0DaHoqmQTnjLR8UKCQyu6IBaH0y2DEn127/uSDo9gNnhj"
    "3XD/IjcXmB05Ff8fdvmVi7K4URxCx3RLoGzYgQQz9nKid1K0JIaIUxbMemDL0EbwGGI3ylplMhV2O1lH/6BM+QJOxX"
    "VbdQ8q2uLn3dAVVz9V271TJkDEbTjPuvToEzMz264LyOUnLDxgm/04NmPh4O9bP+axot5WDOwZt4sbCl2ITtXzuuTz"
    "yze78pAaJOCiD3ywm+6nEaKO2Ko1E3zxaEnf28Ap3l+K7lMLbw6ZiyrJjOY0OxAgMBAAEwDQYJKoZIhvcNAQELBQAD"
    "ggEBAFvHF4aczfe4DUdCv5GBznFYw1fd0hhePEHnlG1I6DkLA01gUzvEiNb/UFXMqgZkMnY//kIZKlUxPEylWhwNt7"
    "D/wplXqr2/U5s3OqP92zIhKKr5WUynZ8I6PuYzcLlajlB0VC+Qw1C0hBaj53/PKbgylnOzN81C9ZNRoBITj7zy8L34"
    "RVBSMGoOVCH43Avlj2/vyroEEsE8rSEAs/vCDiiS8VrF0QVYGI+q9jjJD8fc4RgOnc4PiwmNcZ+HARLuSIfvu9LHk3"
    "R2GreCymtMVZctNAS7UeCpNV2HQXeYI9edlHKOYViCHgIa9dDEJeb3yxxlxaqnFbpzGLvvgowVOjo="
    "</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>%s<md:SingleSignOnService "
    "Binding='urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect' "
    "Location='https://idp.test/sso'/></md:IDPSSODescriptor></md:EntityDescriptor>";

#define ECDSA "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"

#define MESSAGE_MAX 65536u
#define QUERY_MAX   (8u * MESSAGE_MAX) /* base64 of it, and the worst of percent signs */

static EVP_PKEY *our_key;

/* Of our_key: what the metadata has beside the certificate above. */
static char *key_descriptor(void)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(8192);
    X509 *certificate = X509_new();
    unsigned char *der = NULL;
    char *text;
    int n;

    our_key = EVP_EC_gen("P-256");
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 365l * 86400);
    X509_set_pubkey(certificate, our_key);
    if (X509_sign(certificate, our_key, EVP_sha256()) == 0 || (n = i2d_X509(certificate, &der)) <= 0)
        abort();
    text = saml_base64_encode(der, (size_t)n);
    base_buf_printf(
        &out,
        "<md:KeyDescriptor use='signing'><ds:KeyInfo xmlns:ds='http://www.w3.org/2000/09/xmldsig#'>"
        "<ds:X509Data><ds:X509Certificate>%s</ds:X509Certificate></ds:X509Data></ds:KeyInfo>"
        "</md:KeyDescriptor>",
        text);
    free(text);
    OPENSSL_free(der);
    X509_free(certificate);
    return base_strdup(out.data);
}

static struct sso_process *start(void)
{
    struct sso_process *process = NULL;
    auto_buf struct base_buf metadata = BASE_BUF_INIT(16384);
    char *ours = key_descriptor();
    json_t *reply = NULL, *config;
    char *text;

    base_buf_printf(&metadata, metadata_format, ours);
    free(ours);
    config = json_pack("{s:s, s:[{s:s, s:s, s:s, s:s, s:s, s:[s], s:i}]}", "op", "configure", "providers",
                       "name", "a", "kind", "saml", "metadata_xml", metadata.data, "entity_id",
                       "https://g/md", "want_signed", "either", "claims", "groups", "clock_skew_s", 60);
    text = json_dumps(config, 0);

    sso_saml_init();
    if (sso_process_new(&process, text, strlen(text), &reply, NULL) != BASE_OK ||
        process->providers[0].saml == NULL)
        abort();
    json_decref(reply);
    json_decref(config);
    free(text);
    return process;
}

static void ask(struct sso_process *process, json_t *request)
{
    json_t *reply = sso_answer(process, request, base_mono_ms() + 10000);

    if (json_object_get(reply, "ok") == NULL)
        abort();
    json_decref(reply);
    json_decref(request);
}

/* ---- the redirect binding ---- */

static void put_parameter(struct base_buf *query, const char *name, const unsigned char *bytes, size_t n)
{
    char *text = saml_base64_encode(bytes, n);

    base_buf_printf(query, "&%s=", name);
    for (const char *at = text; *at != '\0'; at++) /* base64's plus is a blank in a query */
        base_buf_append(query, *at == '+' ? "%2B" : at, *at == '+' ? 3 : 1);
    free(text);
}

static void log_out(struct sso_process *process, const char *query)
{
    json_t *request =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "op", "saml_logout", "provider", "a", "binding",
                  "redirect", "message", query, "slo_url", "https://g/slo", "relay_state", "r");

    if (request != NULL) /* it is UTF-8 */
        ask(process, request);
}

static void as_query(struct sso_process *process, const uint8_t *data, size_t size)
{
    auto_free char *query = base_alloc(size + 1);

    memcpy(query, data, size);
    query[size] = '\0';
    log_out(process, query);
}

static void as_signature(struct sso_process *process, const uint8_t *data, size_t size)
{
    auto_buf struct base_buf query = BASE_BUF_INIT(QUERY_MAX);

    base_buf_printf(&query, "SAMLRequest=AA&SigAlg=" ECDSA);
    put_parameter(&query, "Signature", data, size);
    log_out(process, query.data);
}

static void as_message(struct sso_process *process, const uint8_t *data, size_t size)
{
    auto_buf struct base_buf query = BASE_BUF_INIT(QUERY_MAX);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char signature[128];
    size_t n = sizeof(signature);

    put_parameter(&query, "SAMLRequest", data, size);
    base_buf_printf(&query, "&SigAlg=" ECDSA);
    if (EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, our_key) != 1 ||
        EVP_DigestSign(ctx, signature, &n, (const unsigned char *)query.data + 1, query.len - 1) != 1)
        abort();
    EVP_MD_CTX_free(ctx);
    put_parameter(&query, "Signature", signature, n);
    log_out(process, query.data + 1);
}

static void as_packed_message(struct sso_process *process, const uint8_t *data, size_t size)
{
    static unsigned char packed[2 * MESSAGE_MAX];
    z_stream stream = {.next_in = (unsigned char *)data,
                       .avail_in = (unsigned)size,
                       .next_out = packed,
                       .avail_out = sizeof(packed)};

    if (deflateInit2(&stream, 1, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK ||
        deflate(&stream, Z_FINISH) != Z_STREAM_END)
        abort();
    as_message(process, packed, sizeof(packed) - stream.avail_out);
    deflateEnd(&stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sso_process *process;
    struct sso_reply reply = {0};
    char *text;
    xmlDoc *doc;

    if (process == NULL)
        process = start();
    if (size == 0 || size > MESSAGE_MAX)
        return 0;
    text = saml_base64_encode(data, size);
    ask(process, json_pack("{s:s, s:s, s:s, s:s, s:s}", "op", "explain", "provider", "a", "text", text,
                           "acs_url", "https://g/acs", "request_id", "_req"));
    ask(process, json_pack("{s:s, s:s, s:s, s:s, s:s}", "op", "saml_logout", "provider", "a", "binding",
                           "post", "message", text, "slo_url", "https://g/slo"));
    free(text);
    as_query(process, data, size);
    as_signature(process, data, size);
    as_message(process, data, size);
    as_packed_message(process, data, size);
    doc = saml_parse((const char *)data, size, &reply);
    if (doc != NULL)
        saml_check_own_signature(xmlDocGetRootElement(doc), &reply);
    xmlFreeDoc(doc);
    return 0;
}
