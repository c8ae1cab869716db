/* Fuzz: a SAML message's bytes through parsing, structure, signatures and every check of what it says (explain goes on after each that
 * fails), and as a logout message. The provider is one whose key nobody has. */
#include "base/buf.h"
#include "base/clock.h"
#include "gateway/sso/saml_priv.h"
#include "gateway/sso/serve.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char metadata[] =
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
    "</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor><md:SingleSignOnService "
    "Binding='urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect' "
    "Location='https://idp.test/sso'/></md:IDPSSODescriptor></md:EntityDescriptor>";

static struct sso_process *start(void)
{
    struct sso_process *process = NULL;
    json_t *reply = NULL,
           *config =
               json_pack("{s:s, s:[{s:s, s:s, s:s, s:s, s:s, s:[s], s:i}]}", "op", "configure", "providers",
                         "name", "a", "kind", "saml", "metadata_xml", metadata, "entity_id", "https://g/md",
                         "want_signed", "either", "claims", "groups", "clock_skew_s", 60);
    char *text = json_dumps(config, 0);

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sso_process *process;
    struct sso_reply reply = {0};
    char *text;
    xmlDoc *doc;

    if (process == NULL)
        process = start();
    if (size == 0 || size > 65536)
        return 0;
    text = saml_base64_encode(data, size);
    ask(process, json_pack("{s:s, s:s, s:s, s:s, s:s}", "op", "explain", "provider", "a", "text", text,
                           "acs_url", "https://g/acs", "request_id", "_req"));
    ask(process, json_pack("{s:s, s:s, s:s, s:s, s:s}", "op", "saml_logout", "provider", "a", "binding",
                           "post", "message", text, "slo_url", "https://g/slo"));
    free(text);
    doc = saml_parse((const char *)data, size, &reply);
    if (doc != NULL)
        saml_check_own_signature(xmlDocGetRootElement(doc), &reply);
    xmlFreeDoc(doc);
    return 0;
}
