/* JWT. See jwt.h. */
#include "gateway/sso/jwt.h"

#include "base/json_shape.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *hash;
} algorithms[] = {{"RS256", "SHA256"}, {"RS384", "SHA384"}, {"RS512", "SHA512"},
                  {"PS256", "SHA256"}, {"PS384", "SHA384"}, {"PS512", "SHA512"},
                  {"ES256", "SHA256"}, {"ES384", "SHA384"}, {"ES512", "SHA512"}};

static const char *hash_of(const char *alg)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(algorithms); i++)
        if (strcmp(algorithms[i].name, alg) == 0)
            return algorithms[i].hash;
    return NULL;
}

bool jwt_algorithm_known(const char *alg)
{
    return hash_of(alg) != NULL;
}

/* ---- form ---- */

/* One part: base64url, then a JSON object without names given twice. */
static json_t *read_part(const char *part, size_t len, unsigned char **ret_bytes, size_t *ret_n,
                         const char *what, struct sso_reply *reply)
{
    unsigned char *bytes = base_alloc(len + 1);
    json_t *json = NULL;
    size_t n = 0;

    if (!CHECK("jwt.base64", base_b64url_decode(part, len, bytes, len, &n) == BASE_OK))
        sso_refuse(reply, "jwt.base64", "the %s is not base64url without padding", what);
    else if (!CHECK("jwt.depth", base_json_shape((const char *)bytes, n).depth <= JWT_DEPTH))
        sso_refuse(reply, "jwt.depth", "the %s nests more than %u deep", what, JWT_DEPTH);
    else
        json = json_loadb((const char *)bytes, n, SSO_JSON_FLAGS, NULL);
    if (!reply->refused && !json_is_object(json)) {
        json_decref(json);
        json = NULL;
        sso_refuse(reply, "jwt.json", "the %s is not one JSON object, or gives a name twice", what);
    }
    if (json != NULL && ret_bytes != NULL) {
        *ret_bytes = bytes;
        *ret_n = n;
    } else {
        base_wipe(bytes, len);
        free(bytes);
    }
    return json;
}

/* A text member of the header into a fixed place. False: there, but no text or too long. */
static bool header_text(const json_t *header, const char *name, char *out, size_t size, bool *ret_there)
{
    const json_t *value = json_object_get(header, name);
    size_t len = json_string_length(value);

    out[0] = '\0';
    *ret_there = value != NULL;
    if (value == NULL)
        return true;
    if (!json_is_string(value) || len >= size || strlen(json_string_value(value)) != len)
        return false;
    memcpy(out, json_string_value(value), len + 1);
    return true;
}

static void normalize_type(char *typ)
{
    static const char prefix[] = "application/";

    for (char *at = typ; *at != '\0'; at++)
        if (*at >= 'A' && *at <= 'Z')
            *at = (char)(*at + 32);
    if (strncmp(typ, prefix, sizeof(prefix) - 1) == 0) /* RFC 7515 section 4.1.9 */
        memmove(typ, typ + sizeof(prefix) - 1, strlen(typ) - sizeof(prefix) + 2);
}

static bool read_header(struct jwt *jwt, struct sso_reply *reply)
{
    bool there, has_alg;

    if (!header_text(jwt->header, "alg", jwt->alg, sizeof(jwt->alg), &has_alg) || !has_alg ||
        !header_text(jwt->header, "kid", jwt->kid, sizeof(jwt->kid), &jwt->has_kid) ||
        !header_text(jwt->header, "typ", jwt->typ, sizeof(jwt->typ), &there))
        return sso_refuse(reply, "jwt.header", "alg, kid or typ is missing, no text, or too long");
    normalize_type(jwt->typ);
    /* nothing that we understand is ever critical; b64 (RFC 7797) would change what is signed */
    if (!CHECK("jwt.critical", json_object_get(jwt->header, "crit") == NULL))
        return sso_refuse(reply, "jwt.critical",
                          "the header has crit, which names nothing that is understood here");
    if (!CHECK("jwt.b64", json_object_get(jwt->header, "b64") == NULL))
        return sso_refuse(reply, "jwt.b64", "the header has b64");
    return true;
}

bool jwt_parse(struct jwt *jwt, const char *text, size_t len, struct sso_reply *reply)
{
    const char *dot, *second;

    *jwt = (struct jwt){.text = text, .len = len};
    if (!CHECK("jwt.size", len <= JWT_MAX))
        return sso_refuse(reply, "jwt.size", "the token has %zu bytes, at most %u are read", len, JWT_MAX);
    dot = memchr(text, '.', len);
    second = dot != NULL ? memchr(dot + 1, '.', len - (size_t)(dot + 1 - text)) : NULL;
    if (second == NULL || memchr(second + 1, '.', len - (size_t)(second + 1 - text)) != NULL)
        return sso_refuse(reply, "jwt.form", "the token has not three parts");
    jwt->header = read_part(text, (size_t)(dot - text), NULL, NULL, "header", reply);
    if (jwt->header == NULL || !read_header(jwt, reply))
        return false;
    jwt->claims =
        read_part(dot + 1, (size_t)(second - dot - 1), &jwt->payload, &jwt->payload_len, "payload", reply);
    return jwt->claims != NULL;
}

void jwt_free(struct jwt *jwt)
{
    json_decref(jwt->header);
    json_decref(jwt->claims);
    if (jwt->payload != NULL)
        base_wipe(jwt->payload, jwt->payload_len);
    free(jwt->payload);
    *jwt = (struct jwt){0};
}

bool jwt_check_algorithm(const struct jwt *jwt, const json_t *allowed, struct sso_reply *reply)
{
    bool found = false;
    char shown[72];

    for (size_t i = 0; i < json_array_size(allowed); i++)
        if (strcmp(json_string_value(json_array_get(allowed, i)), jwt->alg) == 0)
            found = true;
    if (!CHECK("jwt.algorithm", found) || !jwt_algorithm_known(jwt->alg))
        return sso_refuse(reply, "jwt.algorithm", "algorithm %s is not one of those configured",
                          sso_show(jwt->alg, shown));
    return true;
}

/* ---- claims ---- */

bool jwt_time(const json_t *claims, const char *name, int64_t *ret_time)
{
    const json_t *value = json_object_get(claims, name);
    double real;

    if (json_is_integer(value)) {
        *ret_time = json_integer_value(value);
        return *ret_time > -(1ll << 53) && *ret_time < (1ll << 53);
    }
    real = json_real_value(value);
    if (!json_is_real(value) || real < -9e15 || real > 9e15)
        return false;
    *ret_time = (int64_t)real;
    return true;
}

bool jwt_check_issuer(const struct jwt *jwt, const char *issuer, struct sso_reply *reply)
{
    const char *iss = sso_text(jwt->claims, "iss");
    char shown[72];

    if (!CHECK("token.issuer", iss != NULL && strcmp(iss, issuer) == 0))
        return sso_refuse(reply, "token.issuer", "issuer %s is not the configured one", sso_show(iss, shown));
    return true;
}

bool jwt_check_audience(const struct jwt *jwt, const char *audience, size_t *ret_n, struct sso_reply *reply)
{
    const json_t *aud = json_object_get(jwt->claims, "aud");
    const char *one = json_string_value(aud);
    bool found = false;
    char shown[72];

    if (one != NULL) {
        *ret_n = 1;
        found = strcmp(one, audience) == 0;
    } else {
        *ret_n = json_array_size(aud);
        for (size_t i = 0; i < *ret_n; i++) {
            const char *item = json_string_value(json_array_get(aud, i));

            if (item != NULL && strcmp(item, audience) == 0)
                found = true;
            one = item;
        }
    }
    if (!CHECK("token.audience", found))
        return sso_refuse(reply, "token.audience", "audience %s is not ours", sso_show(one, shown));
    return true;
}

bool jwt_check_times(const struct jwt *jwt, int64_t skew_s, struct sso_reply *reply)
{
    int64_t now = sso_now(), exp = 0, nbf = 0, iat = 0;
    bool has_nbf = json_object_get(jwt->claims, "nbf") != NULL,
         has_iat = json_object_get(jwt->claims, "iat") != NULL;

    if (!CHECK("token.expiry", jwt_time(jwt->claims, "exp", &exp)))
        return sso_refuse(reply, "token.expiry", "there is no exp");
    if (!CHECK("token.expired", now < exp + skew_s))
        return sso_refuse(reply, "token.expired", "it expired %lld s ago", (long long)(now - exp));
    if (!CHECK("token.not_before", !has_nbf || (jwt_time(jwt->claims, "nbf", &nbf) && nbf <= now + skew_s)))
        return sso_refuse(reply, "token.not_before", "it is not valid for another %lld s",
                          (long long)(nbf - now));
    if (!CHECK("token.issued_at", !has_iat || (jwt_time(jwt->claims, "iat", &iat) && iat <= now + skew_s)))
        return sso_refuse(reply, "token.issued_at", "it was issued %lld s in the future",
                          (long long)(iat - now));
    return true;
}

bool jwt_check_subject(const struct jwt *jwt, struct sso_reply *reply)
{
    const json_t *sub = json_object_get(jwt->claims, "sub");
    size_t len = json_string_length(sub);

    if (!CHECK("token.subject", len > 0 && len <= 255 && strlen(json_string_value(sub)) == len))
        return sso_refuse(reply, "token.subject", "sub is missing, empty, or longer than 255 bytes");
    return true;
}

bool jwt_half_hash(const char *alg, const char *text, char out[64])
{
    const char *hash = hash_of(alg);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (hash == NULL || EVP_Digest(text, strlen(text), digest, &n, EVP_get_digestbyname(hash), NULL) != 1)
        return false;
    base_b64url_encode(digest, n / 2, out);
    return true;
}
