/* Sender-constrained access tokens: what a token's cnf demands against what the request brought. See oidc_priv.h.
 *
 * Source: RFC 9449 section 4.3 (DPoP proofs), RFC 8705 section 3 (certificates), RFC 7638 (thumbprints, by liboauth2).
 */
#include "gateway/sso/oidc_priv.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/mem.h"
#include "base/str.h"

#include <oauth2/jose.h>
#include <oauth2/mem.h>
#include <stdlib.h>
#include <string.h>

#define PROOF_AGE_S 300
#define SEEN_SLOTS  8192u /* proofs seen in the last minutes; past it the oldest of a slot goes */
#define SEEN_WAYS   8u
#define JTI_MAX     256u

/* Proofs that were brought: one set for the process. A proof is for one address and some minutes. */
static struct {
    pthread_mutex_t lock;
    struct {
        unsigned char hash[16];
        int64_t until_s;
    } slots[SEEN_SLOTS];
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* True the first time. A set whose places are all taken refuses: a replay must not get in because many knock. */
static bool first_time(const char *jti, const char *jkt, int64_t until_s)
{
    unsigned char digest[BASE_SHA256_BYTES];
    auto_buf struct base_buf text = BASE_BUF_INIT(1024);
    int64_t now_s = sso_now();
    bool first = false;
    size_t base, free_way = SEEN_WAYS;

    base_buf_printf(&text, "%s %s", jkt, jti);
    base_sha256(text.data, text.len, digest);
    base = (((size_t)digest[16] << 8 | digest[17]) % (SEEN_SLOTS / SEEN_WAYS)) * SEEN_WAYS;
    pthread_mutex_lock(&seen.lock);
    for (size_t w = 0; w < SEEN_WAYS; w++) {
        if (seen.slots[base + w].until_s <= now_s)
            free_way = w;
        else if (memcmp(seen.slots[base + w].hash, digest, 16) == 0)
            goto done;
    }
    if (free_way < SEEN_WAYS) {
        memcpy(seen.slots[base + free_way].hash, digest, 16);
        seen.slots[base + free_way].until_s = until_s;
        first = true;
    }
done:
    pthread_mutex_unlock(&seen.lock);
    return first;
}

static bool thumbprint(const json_t *jwk, char out[64])
{
    char *text = json_dumps(jwk, JSON_COMPACT);
    cjose_err error;
    cjose_jwk_t *key = text != NULL ? cjose_jwk_import(text, strlen(text), &error) : NULL;
    oauth2_log_t *log =
        oauth2_log_init(OAUTH2_LOG_ERROR, NULL); /* no sink: it would write what was brought */
    unsigned char *hash = NULL;
    unsigned n = 0;
    bool done = key != NULL && oauth2_jose_jwk_thumbprint(log, key, &hash, &n) && n == BASE_SHA256_BYTES;

    if (done)
        base_b64url_encode(hash, n, out);
    if (hash != NULL)
        oauth2_mem_free(hash);
    oauth2_log_free(log);
    if (key != NULL)
        cjose_jwk_release(key);
    free(text);
    return done;
}

/* RFC 9449 section 4.3 item 9: without query and fragment. */
static bool same_address(const char *a, const char *b)
{
    size_t a_len = strcspn(a, "?#"), b_len = strcspn(b, "?#");

    return a_len == b_len && memcmp(a, b, a_len) == 0;
}

static bool check_claims(const struct jwt *proof, const json_t *request, const char *token, int64_t skew_s,
                         struct sso_reply *reply)
{
    const char *htm = sso_text(proof->claims, "htm"), *htu = sso_text(proof->claims, "htu"),
               *ath = sso_text(proof->claims, "ath"), *method = sso_text(request, "method"),
               *url = sso_text(request, "url");
    int64_t iat = 0, now_s = sso_now();
    unsigned char digest[BASE_SHA256_BYTES];
    char want[48];

    if (method == NULL || url == NULL)
        return sso_fail(reply, "invalid", "request.member", "method or url is missing");
    if (!CHECK("dpop.method", htm != NULL && strcmp(htm, method) == 0))
        return sso_refuse(reply, "dpop.method", "the proof is for another method");
    if (!CHECK("dpop.address", htu != NULL && same_address(htu, url)))
        return sso_refuse(reply, "dpop.address", "the proof is for another address");
    if (!CHECK("dpop.issued_at", jwt_time(proof->claims, "iat", &iat) && iat <= now_s + skew_s &&
                                     iat + PROOF_AGE_S >= now_s - skew_s))
        return sso_refuse(reply, "dpop.issued_at", "the proof is too old or from the future");
    base_sha256(token, strlen(token), digest);
    base_b64url_encode(digest, sizeof(digest), want);
    if (!CHECK("dpop.token", ath != NULL && strcmp(ath, want) == 0))
        return sso_refuse(reply, "dpop.token", "the proof is for another token");
    return true;
}

static bool check_proof(const char *text, const char *jkt, const json_t *request, const char *token,
                        int64_t skew_s, struct sso_reply *reply)
{
    const json_t *jwk;
    const char *jti;
    struct jwt proof = {0};
    char have[64] = "";

    if (!jwt_parse(&proof, text, strlen(text), reply))
        goto done;
    jwk = json_object_get(proof.header, "jwk");
    jti = sso_text(proof.claims, "jti");
    if (!CHECK("dpop.type", strcmp(proof.typ, "dpop+jwt") == 0))
        sso_refuse(reply, "dpop.type", "the proof is a token of another kind");
    else if (!jwt_algorithm_known(proof.alg))
        sso_refuse(reply, "dpop.algorithm", "the proof's algorithm is not an asymmetric one");
    else if (!json_is_object(jwk) || !jwks_verify_embedded(jwk, &proof, reply))
        sso_refuse(reply, "dpop.signature", "the proof brings no key");
    else if (!CHECK("dpop.key", thumbprint(jwk, have) && strcmp(have, jkt) == 0))
        sso_refuse(reply, "dpop.key", "the proof is made with another key than the token is bound to");
    else if (!check_claims(&proof, request, token, skew_s, reply))
        ;
    else if (!CHECK("dpop.replay", jti != NULL && jti[0] != '\0' && strlen(jti) <= JTI_MAX &&
                                       first_time(jti, jkt, sso_now() + PROOF_AGE_S + 2 * skew_s)))
        sso_refuse(reply, "dpop.replay", "the proof was brought before, or has no jti");
done:
    jwt_free(&proof);
    return !reply->refused;
}

bool oidc_binding_check(const json_t *claims, const json_t *request, const char *token, bool required,
                        int64_t skew_s, bool *ret_bound, struct sso_reply *reply)
{
    const json_t *cnf = json_object_get(claims, "cnf");
    const char *jkt = sso_text(cnf, "jkt"), *x5t = sso_text(cnf, "x5t#S256"),
               *proof = sso_text(request, "dpop"), *cert = sso_text(request, "client_cert_sha256");

    *ret_bound = jkt != NULL || x5t != NULL;
    if (!CHECK("bearer.confirmation", cnf == NULL || *ret_bound))
        return sso_refuse(reply, "bearer.confirmation",
                          "the token is bound in a way that is not understood here");
    if (!CHECK("bearer.unbound", *ret_bound || !required))
        return sso_refuse(reply, "bearer.unbound", "the policy takes tokens that are bound to a key alone");
    if (!CHECK("dpop.unbound", proof == NULL || jkt != NULL))
        return sso_refuse(reply, "dpop.unbound", "there is a proof, but the token is not bound to its key");
    if (!CHECK("dpop.missing", jkt == NULL || proof != NULL))
        return sso_refuse(reply, "dpop.missing", "the token is bound to a key, and there is no proof");
    if (jkt != NULL && proof != NULL && !check_proof(proof, jkt, request, token, skew_s, reply))
        return false;
    if (!CHECK("bearer.certificate", x5t == NULL || (cert != NULL && strcmp(x5t, cert) == 0)))
        return sso_refuse(reply, "bearer.certificate",
                          "the token is bound to another certificate, or none was brought");
    return true;
}
