/* JWKS. See jwks.h. */
#include "gateway/sso/jwks.h"
#include "gateway/sso/http.h"

#include "base/clock.h"
#include "base/mem.h"

#include <cjose/cjose.h>
#include <stdlib.h>
#include <string.h>

#define DIRECT_EVERY_MS  1000u
#define UNKNOWN_EVERY_MS 30000u
#define FAILED_EVERY_MS  2000u /* after a failed fetch */
#define AGE_DEFAULT_S    3600
#define AGE_MIN_S        300
#define RSA_BITS_MIN     2048u

struct key {
    char kid[JWT_TEXT_MAX];
    bool has_kid;
    char alg[16]; /* "": any that its kind does */
    cjose_jwk_t *jwk;
};

/* Immutable once published; cjose's own reference count is not used, ours is under the lock. */
struct keys {
    unsigned refs;
    size_t n, skipped;
    struct key items[JWKS_KEYS_MAX];
};

struct jwks {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct keys *keys; /* NULL: never fetched */
    bool fetching;
    uint64_t tried_ms, fetched_ms; /* 0: never */
    uint64_t max_age_ms;
    bool last_failed;
    enum base_code failure;
    struct base_err failure_err;
};

struct jwks *jwks_new(void)
{
    struct jwks *jwks = base_zalloc(sizeof(*jwks));

    pthread_mutex_init(&jwks->lock, NULL);
    pthread_cond_init(&jwks->changed, NULL);
    return jwks;
}

static void keys_unref(struct keys *keys)
{
    if (keys == NULL || --keys->refs > 0)
        return;
    for (size_t i = 0; i < keys->n; i++)
        cjose_jwk_release(keys->items[i].jwk);
    free(keys);
}

void jwks_free(struct jwks *jwks)
{
    if (jwks == NULL)
        return;
    keys_unref(jwks->keys);
    pthread_cond_destroy(&jwks->changed);
    pthread_mutex_destroy(&jwks->lock);
    free(jwks);
}

/* ---- one key ---- */

static bool has_private_part(const json_t *jwk)
{
    return json_object_get(jwk, "d") != NULL || json_object_get(jwk, "k") != NULL;
}

/* RSA of 2048 bits or more, or a curve of its algorithm; for signatures. */
static cjose_jwk_t *import_key(const json_t *jwk)
{
    const char *kty = sso_text(jwk, "kty"), *use = sso_text(jwk, "use");
    const json_t *ops = json_object_get(jwk, "key_ops");
    bool verifies = ops == NULL;
    cjose_jwk_t *key;
    cjose_err error;
    char *text;

    for (size_t i = 0; i < json_array_size(ops); i++)
        if (json_is_string(json_array_get(ops, i)) &&
            strcmp(json_string_value(json_array_get(ops, i)), "verify") == 0)
            verifies = true;
    if (kty == NULL || (strcmp(kty, "RSA") != 0 && strcmp(kty, "EC") != 0) || has_private_part(jwk))
        return NULL;
    if (!CHECK("jwks.use", verifies && (use == NULL || strcmp(use, "sig") == 0)))
        return NULL;
    text = json_dumps(jwk, JSON_COMPACT);
    key = text != NULL ? cjose_jwk_import(text, strlen(text), &error) : NULL;
    free(text);
    if (key != NULL && !CHECK("jwks.size", cjose_jwk_get_kty(key, &error) != CJOSE_JWK_KTY_RSA ||
                                               cjose_jwk_get_keysize(key, &error) >= RSA_BITS_MIN)) {
        cjose_jwk_release(key);
        return NULL;
    }
    return key;
}

static bool kind_fits(const char *alg, cjose_jwk_t *jwk)
{
    cjose_err error;
    cjose_jwk_kty_t kty = cjose_jwk_get_kty(jwk, &error);
    size_t bits = cjose_jwk_get_keysize(jwk, &error);

    if (alg[0] == 'E')
        return kty == CJOSE_JWK_KTY_EC && bits == (strcmp(alg, "ES256") == 0   ? 256u
                                                   : strcmp(alg, "ES384") == 0 ? 384u
                                                                               : 521u);
    return (alg[0] == 'R' || alg[0] == 'P') && kty == CJOSE_JWK_KTY_RSA;
}

/* cjose reads the compact form again: what it verified must be the very bytes that the claims were read from. */
static bool signature_holds(const struct jwt *jwt, cjose_jwk_t *jwk)
{
    cjose_err error;
    cjose_jws_t *jws = cjose_jws_import(jwt->text, jwt->len, &error);
    uint8_t *payload = NULL;
    size_t n = 0;
    bool good = jws != NULL && cjose_jws_verify(jws, jwk, &error) &&
                cjose_jws_get_plaintext(jws, &payload, &n, &error) && n == jwt->payload_len &&
                memcmp(payload, jwt->payload, n) == 0;

    if (jws != NULL)
        cjose_jws_release(jws);
    return good;
}

bool jwks_verify_embedded(const json_t *jwk, const struct jwt *jwt, struct sso_reply *reply)
{
    cjose_jwk_t *key = import_key(jwk);
    bool good = key != NULL && kind_fits(jwt->alg, key) && CHECK("dpop.signature", signature_holds(jwt, key));

    if (key != NULL)
        cjose_jwk_release(key);
    return good || sso_refuse(reply, "dpop.signature", "the proof is not signed by the key that it brings");
}

/* ---- the list ---- */

static struct keys *read_keys(const json_t *list)
{
    struct keys *keys = base_zalloc(sizeof(*keys));
    size_t n = json_array_size(list);

    keys->refs = 1;
    for (size_t i = 0; i < n && keys->n < JWKS_KEYS_MAX; i++) {
        const json_t *jwk = json_array_get(list, i);
        const char *kid = sso_text(jwk, "kid"), *alg = sso_text(jwk, "alg");
        struct key *key = &keys->items[keys->n];

        key->jwk =
            (kid == NULL || strlen(kid) < sizeof(key->kid)) && (alg == NULL || strlen(alg) < sizeof(key->alg))
                ? import_key(jwk)
                : NULL;
        if (key->jwk == NULL) {
            keys->skipped++;
            continue;
        }
        key->has_kid = kid != NULL;
        strcpy(key->kid, kid != NULL ? kid : "");
        strcpy(key->alg, alg != NULL ? alg : "");
        keys->n++;
    }
    return keys;
}

/* Without the lock. NULL: *err says why. */
static struct keys *fetch(struct sso_ctx *ctx, struct sso_provider *provider, const char *url,
                          int64_t *ret_age_s, struct base_err *err)
{
    struct sso_http_answer answer = {0};
    struct keys *keys = NULL;
    const json_t *list;
    json_t *root;

    if (sso_http(ctx, provider, "jwks", url, "application/json", NULL, NULL, &answer, err) != BASE_OK)
        return NULL;
    root = answer.status == 200 ? json_loadb(answer.body, answer.len, SSO_JSON_FLAGS, NULL) : NULL;
    list = json_object_get(root, "keys");
    if (json_is_array(list))
        keys = read_keys(list);
    else
        base_fail(err, BASE_UNAVAILABLE, 0, "the key set could not be had: status %ld, %s", answer.status,
                  answer.status == 200 ? "but no JSON with keys" : "not 200");
    *ret_age_s = answer.max_age_s < 0 ? AGE_DEFAULT_S : answer.max_age_s;
    if (*ret_age_s < AGE_MIN_S)
        *ret_age_s = AGE_MIN_S;
    if (*ret_age_s > JWKS_OLD_S)
        *ret_age_s = JWKS_OLD_S;
    json_decref(root);
    sso_http_answer_free(&answer);
    return keys;
}

/* With the lock, which it gives up while it fetches or waits for who does. */
static void refresh(struct jwks *jwks, struct sso_ctx *ctx, struct sso_provider *provider, const char *url)
{
    struct base_err err = {0};
    struct keys *keys;
    int64_t age_s = AGE_DEFAULT_S;

    if (jwks->fetching) {
        while (jwks->fetching)
            pthread_cond_wait(&jwks->changed, &jwks->lock);
        return;
    }
    jwks->fetching = true;
    pthread_mutex_unlock(&jwks->lock);
    keys = fetch(ctx, provider, url, &age_s, &err);
    pthread_mutex_lock(&jwks->lock);
    jwks->fetching = false;
    jwks->tried_ms = base_mono_ms();
    jwks->last_failed = keys == NULL;
    if (keys != NULL) {
        keys_unref(jwks->keys);
        jwks->keys = keys;
        jwks->fetched_ms = jwks->tried_ms;
        jwks->max_age_ms = (uint64_t)age_s * 1000;
    } else {
        jwks->failure = err.code;
        jwks->failure_err = err;
    }
    pthread_cond_broadcast(&jwks->changed);
}

static bool may_fetch(const struct jwks *jwks, uint64_t every_ms)
{
    if (jwks->tried_ms == 0)
        return true;
    if (jwks->last_failed)
        every_ms = FAILED_EVERY_MS;
    return base_mono_ms() - jwks->tried_ms >= every_ms;
}

static bool usable(const struct jwks *jwks)
{
    return jwks->keys != NULL && base_mono_ms() - jwks->fetched_ms < (uint64_t)JWKS_OLD_S * 1000;
}

static bool fits(const struct key *key, const struct jwt *jwt)
{
    if (jwt->has_kid && (!key->has_kid || strcmp(key->kid, jwt->kid) != 0))
        return false;
    return key->alg[0] == '\0' || strcmp(key->alg, jwt->alg) == 0;
}

static bool any_fits(const struct keys *keys, const struct jwt *jwt)
{
    for (size_t i = 0; i < keys->n; i++)
        if (fits(&keys->items[i], jwt))
            return true;
    return false;
}

/* A reference to keys among which one may be the token's; NULL: there are none at all. */
static struct keys *keys_for(struct jwks *jwks, struct sso_ctx *ctx, struct sso_provider *provider,
                             const char *url, const struct jwt *jwt, bool direct)
{
    struct keys *keys = NULL;

    pthread_mutex_lock(&jwks->lock);
    if (!usable(jwks) || base_mono_ms() - jwks->fetched_ms > jwks->max_age_ms) {
        if (may_fetch(jwks, FAILED_EVERY_MS))
            refresh(jwks, ctx, provider, url);
    }
    if (usable(jwks) && !any_fits(jwks->keys, jwt) &&
        may_fetch(jwks, direct ? DIRECT_EVERY_MS : UNKNOWN_EVERY_MS))
        refresh(jwks, ctx, provider, url);
    if (usable(jwks)) {
        keys = jwks->keys;
        keys->refs++;
    }
    pthread_mutex_unlock(&jwks->lock);
    return keys;
}

static bool verify_with(const struct keys *keys, const struct jwt *jwt, struct sso_reply *reply)
{
    bool found = false, kind = false;
    char shown[72];

    for (size_t i = 0; i < keys->n; i++) {
        if (!CHECK("jwt.key", fits(&keys->items[i], jwt)))
            continue;
        found = true;
        if (!kind_fits(jwt->alg, keys->items[i].jwk))
            continue;
        kind = true;
        if (CHECK("jwt.signature", signature_holds(jwt, keys->items[i].jwk)))
            return true;
    }
    if (!found)
        return sso_refuse(reply, "jwt.key", "the key set has no key %s for %s", sso_show(jwt->kid, shown),
                          jwt->alg);
    if (!kind)
        return sso_refuse(reply, "jwt.key_type", "key %s is of another kind than %s needs",
                          sso_show(jwt->kid, shown), jwt->alg);
    return sso_refuse(reply, "jwt.signature", "the signature does not hold with key %s",
                      sso_show(jwt->kid, shown));
}

static bool say_away(struct jwks *jwks, struct sso_reply *reply)
{
    pthread_mutex_lock(&jwks->lock);
    sso_fail(reply, jwks->failure == BASE_TIMEOUT ? "timeout" : "unavailable", "jwks.fetch", "%s",
             jwks->failure_err.detail);
    pthread_mutex_unlock(&jwks->lock);
    return false;
}

bool jwks_verify(struct jwks *jwks, struct sso_ctx *ctx, struct sso_provider *provider, const char *url,
                 const struct jwt *jwt, bool direct, struct sso_reply *reply)
{
    struct keys *keys = keys_for(jwks, ctx, provider, url, jwt, direct);
    bool good;

    if (keys == NULL)
        return say_away(jwks, reply);
    good = verify_with(keys, jwt, reply);
    pthread_mutex_lock(&jwks->lock);
    keys_unref(keys);
    pthread_mutex_unlock(&jwks->lock);
    return good;
}

bool jwks_look(struct jwks *jwks, struct sso_ctx *ctx, struct sso_provider *provider, const char *url,
               size_t *ret_n, size_t *ret_skipped, struct sso_reply *reply)
{
    bool good;

    pthread_mutex_lock(&jwks->lock);
    refresh(jwks, ctx, provider, url);
    good = !jwks->last_failed && jwks->keys != NULL;
    *ret_n = good ? jwks->keys->n : 0;
    *ret_skipped = good ? jwks->keys->skipped : 0;
    pthread_mutex_unlock(&jwks->lock);
    return good || say_away(jwks, reply);
}

void jwks_stats(struct jwks *jwks, size_t *ret_n, int64_t *ret_age_s)
{
    pthread_mutex_lock(&jwks->lock);
    *ret_n = jwks->keys != NULL ? jwks->keys->n : 0;
    *ret_age_s = jwks->fetched_ms != 0 ? (int64_t)((base_mono_ms() - jwks->fetched_ms) / 1000) : -1;
    pthread_mutex_unlock(&jwks->lock);
}
