/* Fuzz: a token's bytes through parsing and every claim check. The signature is left out, so that the checks behind it are reached. */
#include "base/str.h"
#include "gateway/sso/oidc_priv.h"
#include "gateway/sso/serve.h"

#include <stdlib.h>
#include <string.h>

static const char config[] =
    "{\"op\":\"configure\",\"providers\":[{\"name\":\"a\",\"kind\":\"oidc\",\"issuer\":\"https://"
    "i\",\"client_id\":\"c\","
    "\"token_auth\":\"none\",\"scopes\":[],\"algorithms\":[\"RS256\",\"ES256\"],\"acr\":[\"x\"],\"max_age_"
    "s\":100,\"userinfo\":false,"
    "\"hosts\":[],\"clock_skew_s\":60,\"claims\":[\"groups\",\"a.b\"],\"subject_claim\":\"\","
    "\"bearer\":{\"audiences\":[\"api\"],\"introspection\":true,\"require_binding\":false}}]}";

/* "header\nclaims" is made into a token, so that the fuzzer need not write base64; anything else is taken as it is. */
static char *as_token(const char *text, size_t size)
{
    const char *nl = memchr(text, '\n', size);
    char *token = malloc(size * 2 + 64);
    size_t n;

    if (nl == NULL) {
        memcpy(token, text, size);
        token[size] = '\0';
        return token;
    }
    n = base_b64url_encode(text, (size_t)(nl - text), token);
    token[n++] = '.';
    n += base_b64url_encode(nl + 1, size - (size_t)(nl + 1 - text), token + n);
    strcpy(token + n, ".AAAA");
    return token;
}

static void check_all(const struct jwt *jwt, const struct sso_provider *provider, json_t *request,
                      const char *token)
{
    struct id_token_wants wants = {.nonce = "n", .access_token = "t", .code = "c", .fresh_login = true};
    struct sso_reply replies[6] = {{0}};
    json_t *identity = NULL;
    bool bound;

    jwt_check_algorithm(jwt, provider->oidc->algorithms, &replies[0]);
    id_token_check(jwt, provider, &wants, &replies[1]);
    logout_token_check(jwt, provider, &replies[2]);
    access_token_check(jwt, provider, "api", &replies[3]);
    oidc_binding_check(jwt->claims, request, token, false, 60, &bound, &replies[4]);
    if (oidc_identity(provider, jwt->claims, jwt->header, &identity, &replies[5]))
        json_decref(identity);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sso_process *process;
    struct sso_reply reply = {0};
    struct jwt jwt = {0};
    json_t *ignored = NULL, *request;
    char *token;

    if (process == NULL) {
        if (sso_process_new(&process, config, sizeof(config) - 1, &ignored, NULL) != BASE_OK)
            abort();
        json_decref(ignored);
    }
    if (size > JWT_MAX)
        return 0;
    token = as_token((const char *)data, size);
    if (jwt_parse(&jwt, token, strlen(token), &reply)) {
        request = json_pack("{s:s, s:s, s:s}", "method", "POST", "url", "https://g/v1", "dpop", token);
        check_all(&jwt, &process->providers[0], request, token);
        json_decref(request);
    }
    jwt_free(&jwt);
    free(token);
    return 0;
}
