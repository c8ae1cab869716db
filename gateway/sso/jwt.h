/* JWT: reading a compact JWS strictly, and the checks that every kind of token shares.
 *
 * What: size, form, JSON and header are checked before any key is looked at; the signature before any claim is believed.
 * Who:  any thread; a struct jwt belongs to one.
 * Source: RFC 7515, 7519, 8725 (best practices).
 * Not here: keys (jwks.h), what an ID token or an access token must say (id_token.c, bearer.c).
 */
#ifndef GATEWAY_SSO_JWT_H
#define GATEWAY_SSO_JWT_H

#include "gateway/sso/sso.h"

#define JWT_MAX      65536u /* the compact form */
#define JWT_DEPTH    16u    /* of objects and lists in claims */
#define JWT_TEXT_MAX 256u   /* alg, kid, typ */

struct jwt {
    json_t *header, *claims;
    const char *text; /* borrowed: the compact form */
    size_t len;
    char alg[16], kid[JWT_TEXT_MAX],
        typ[32]; /* kid, typ: "" when absent; typ in lower case without "application/" */
    bool has_kid;
    unsigned char *payload; /* the bytes that `claims` was read from */
    size_t payload_len;
};

/* Reads without trusting: nothing is verified but the form. False: refused (jwt.*). jwt_free in any case. */
bool jwt_parse(struct jwt *jwt, const char *text, size_t len, struct sso_reply *reply);
void jwt_free(struct jwt *jwt);

/* The algorithm is one that the provider's configuration allows; "none" and the shared-secret ones never are. */
bool jwt_check_algorithm(const struct jwt *jwt, const json_t *allowed, struct sso_reply *reply);

/* Claims, each named token.* when it fails. skew_s is the provider's. */
bool jwt_check_issuer(const struct jwt *jwt, const char *issuer, struct sso_reply *reply);
/* aud is a text or a list of texts; *ret_n: how many. */
bool jwt_check_audience(const struct jwt *jwt, const char *audience, size_t *ret_n, struct sso_reply *reply);
/* exp must be there and in the future; nbf and iat, when there, must not be. */
bool jwt_check_times(const struct jwt *jwt, int64_t skew_s, struct sso_reply *reply);
/* sub is there, 1 to 255 bytes. */
bool jwt_check_subject(const struct jwt *jwt, struct sso_reply *reply);

/* An integer claim (a number with a fraction is cut). False: absent or no number. */
bool jwt_time(const json_t *claims, const char *name, int64_t *ret_time);
/* base64url of the left half of the hash that goes with alg (OpenID Connect Core 3.1.3.6): of at_hash and c_hash. */
bool jwt_half_hash(const char *alg, const char *text, char out[64]);
/* Names of algorithms that may be configured at all. */
bool jwt_algorithm_known(const char *alg);

#endif
