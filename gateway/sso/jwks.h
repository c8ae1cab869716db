/* JWKS: the signing keys of a provider, fetched rarely and never twice at once.
 *
 * What: one list per provider, replaced whole. A token whose kid is not in it causes a fetch only when the last one is long enough ago:
 *       a second for tokens that came straight from the provider's token endpoint (so that a rotation fails no sign-in), half a
 *       minute for those that anybody can send (so that unknown kids cannot make us flood the provider). While one thread fetches,
 *       others wait for it. When the provider is away, keys go on working for a day.
 * Who:  a provider's threads and the general ones.
 * Source: RFC 7517; OpenID Connect Core 10.1.1 (rotation).
 */
#ifndef GATEWAY_SSO_JWKS_H
#define GATEWAY_SSO_JWKS_H

#include "gateway/sso/jwt.h"

#define JWKS_KEYS_MAX 64u
#define JWKS_OLD_S    86400 /* keys older than this are not used when they cannot be fetched anew */

struct jwks;

struct jwks *jwks_new(void);
void jwks_free(struct jwks *jwks);

/* Finds the key and verifies the signature of a parsed token; url is the provider's jwks_uri. direct: see above.
 * False: jwt.key, jwt.key_type, jwt.signature, or the fetch's failure ("unavailable", "timeout"). */
bool jwks_verify(struct jwks *jwks, struct sso_ctx *ctx, struct sso_provider *provider, const char *url,
                 const struct jwt *jwt, bool direct, struct sso_reply *reply);
/* For check: fetches when there is none; *ret_n keys, *ret_skipped that cannot be used. */
bool jwks_look(struct jwks *jwks, struct sso_ctx *ctx, struct sso_provider *provider, const char *url,
               size_t *ret_n, size_t *ret_skipped, struct sso_reply *reply);
void jwks_stats(struct jwks *jwks, size_t *ret_n, int64_t *ret_age_s); /* -1: never fetched */

/* One key as JSON (a DPoP header's jwk): verifies jwt with it alone. False: dpop-neutral reasons jwt.key_type, jwt.signature. */
bool jwks_verify_embedded(const json_t *jwk, const struct jwt *jwt, struct sso_reply *reply);

#endif
