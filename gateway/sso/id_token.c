/* ID tokens and logout tokens: what they must say, and whom they name. See oidc_priv.h.
 *
 * Source: OpenID Connect Core 1.0 sections 2, 3.1.3.7, 12.2; Back-Channel Logout 1.0 section 2.6.
 */
#include "gateway/sso/oidc_priv.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

#define LOGOUT_EVENT   "http://schemas.openid.net/event/backchannel-logout"
#define LOGOUT_AGE_S   300 /* older ones are not taken: their jti is remembered for no longer than they live */
#define CLAIM_TEXT_MAX 4096u
#define CLAIM_LIST_MAX 2000u

static bool same(const char *a, const char *b)
{
    size_t len = strlen(a);

    return len == strlen(b) && base_ct_equal(a, b, len);
}

static bool hash_fits(const struct jwt *jwt, const char *claim, const char *text)
{
    const char *have = sso_text(jwt->claims, claim);
    char want[64];

    if (json_object_get(jwt->claims, claim) == NULL)
        return true; /* optional with the code flow */
    return have != NULL && jwt_half_hash(jwt->alg, text, want) && same(have, want);
}

/* We are the audience; if there are others, or azp is there, azp must name us (Core 3.1.3.7, 3 to 5). */
static bool check_party(const struct jwt *jwt, const struct sso_oidc *oidc, struct sso_reply *reply)
{
    const json_t *azp = json_object_get(jwt->claims, "azp");
    const char *party = json_string_value(azp);
    size_t n_audiences = 0;
    char shown[72];

    if (!jwt_check_audience(jwt, oidc->client_id, &n_audiences, reply))
        return false;
    if (!CHECK("oidc.azp_missing", n_audiences <= 1 || azp != NULL))
        return sso_refuse(reply, "oidc.azp_missing", "there are several audiences and no azp");
    if (!CHECK("oidc.azp", azp == NULL || (party != NULL && strcmp(party, oidc->client_id) == 0)))
        return sso_refuse(reply, "oidc.azp", "azp %s is not our client", sso_show(party, shown));
    return true;
}

static bool check_login(const struct jwt *jwt, const struct sso_provider *provider, struct sso_reply *reply)
{
    const struct sso_oidc *oidc = provider->oidc;
    const char *acr = sso_text(jwt->claims, "acr");
    bool good = json_array_size(oidc->acr) == 0;
    int64_t auth_time = 0;
    char shown[72];

    if (!CHECK("oidc.auth_time",
               oidc->max_age_s == 0 || (jwt_time(jwt->claims, "auth_time", &auth_time) &&
                                        sso_now() <= auth_time + oidc->max_age_s + provider->clock_skew_s)))
        return sso_refuse(reply, "oidc.auth_time",
                          "the person signed in too long ago, or auth_time is missing");
    for (size_t i = 0; i < json_array_size(oidc->acr); i++)
        if (acr != NULL && strcmp(acr, json_string_value(json_array_get(oidc->acr, i))) == 0)
            good = true;
    if (!CHECK("oidc.acr", good))
        return sso_refuse(reply, "oidc.acr", "acr %s is not one of those configured", sso_show(acr, shown));
    return true;
}

bool id_token_check(const struct jwt *jwt, const struct sso_provider *provider,
                    const struct id_token_wants *wants, struct sso_reply *reply)
{
    const struct sso_oidc *oidc = provider->oidc;
    const json_t *nonce = json_object_get(jwt->claims, "nonce");
    const char *text = json_string_value(nonce);
    int64_t iat;

    if (!CHECK("oidc.type",
               jwt->typ[0] == '\0' || strcmp(jwt->typ, "jwt") == 0 || strcmp(jwt->typ, "id+jwt") == 0))
        return sso_refuse(reply, "oidc.type", "this is a token of another kind (%s)", jwt->typ);
    if (!jwt_check_issuer(jwt, oidc->issuer, reply) || !check_party(jwt, oidc, reply) ||
        !jwt_check_times(jwt, provider->clock_skew_s, reply) || !jwt_check_subject(jwt, reply))
        return false;
    if (!CHECK("oidc.issued_at", jwt_time(jwt->claims, "iat", &iat)))
        return sso_refuse(reply, "oidc.issued_at", "there is no iat");
    if (!CHECK("oidc.nonce", wants->nonce != NULL ? text != NULL && same(text, wants->nonce)
                                                  : nonce == NULL || text != NULL))
        return sso_refuse(reply, "oidc.nonce", "the nonce is not the one that was sent");
    if (!CHECK("oidc.at_hash", wants->access_token == NULL || hash_fits(jwt, "at_hash", wants->access_token)))
        return sso_refuse(reply, "oidc.at_hash", "at_hash is not of the access token that came with it");
    if (!CHECK("oidc.c_hash", wants->code == NULL || hash_fits(jwt, "c_hash", wants->code)))
        return sso_refuse(reply, "oidc.c_hash", "c_hash is not of the code");
    return !wants->fresh_login || check_login(jwt, provider, reply);
}

bool logout_token_check(const struct jwt *jwt, const struct sso_provider *provider, struct sso_reply *reply)
{
    const struct sso_oidc *oidc = provider->oidc;
    const json_t *event = json_object_get(json_object_get(jwt->claims, "events"), LOGOUT_EVENT);
    const char *jti = sso_text(jwt->claims, "jti"), *sid = sso_text(jwt->claims, "sid"),
               *sub = sso_text(jwt->claims, "sub");
    int64_t iat = 0;
    size_t n;

    /* without the type an ID token could be taken for one; some providers leave it out, then the event decides */
    if (!CHECK("logout.type",
               jwt->typ[0] == '\0' || strcmp(jwt->typ, "logout+jwt") == 0 || strcmp(jwt->typ, "jwt") == 0))
        return sso_refuse(reply, "logout.type", "this is a token of another kind (%s)", jwt->typ);
    if (!jwt_check_issuer(jwt, oidc->issuer, reply) || !jwt_check_audience(jwt, oidc->client_id, &n, reply) ||
        !jwt_check_times(jwt, provider->clock_skew_s, reply))
        return false;
    if (!CHECK("logout.issued_at", jwt_time(jwt->claims, "iat", &iat) &&
                                       sso_now() <= iat + LOGOUT_AGE_S + provider->clock_skew_s))
        return sso_refuse(reply, "logout.issued_at", "there is no iat, or it is older than %d s",
                          LOGOUT_AGE_S);
    if (!CHECK("logout.event", json_is_object(event)))
        return sso_refuse(reply, "logout.event", "events does not name the back-channel logout");
    if (!CHECK("logout.nonce", json_object_get(jwt->claims, "nonce") == NULL))
        return sso_refuse(reply, "logout.nonce", "a logout token must not have a nonce");
    if (!CHECK("logout.jti", jti != NULL && jti[0] != '\0' && strlen(jti) <= 256))
        return sso_refuse(reply, "logout.jti", "there is no jti, so a replay could not be noticed");
    if (!CHECK("logout.names", (sid != NULL && sid[0] != '\0' && strlen(sid) < 256) ||
                                   (sub != NULL && sub[0] != '\0' && strlen(sub) < 256)))
        return sso_refuse(reply, "logout.names", "it names neither a session nor a person");
    return true;
}

/* ---- whom it names ---- */

static void add_value(json_t *list, const json_t *value)
{
    char number[40];

    if (json_array_size(list) >= CLAIM_LIST_MAX)
        return;
    if (json_is_string(value) && json_string_length(value) <= CLAIM_TEXT_MAX) {
        json_array_append(list, (json_t *)value);
    } else if (json_is_integer(value)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        json_array_append_new(list, json_string(number));
    } else if (json_is_boolean(value)) {
        json_array_append_new(list, json_string(json_is_true(value) ? "true" : "false"));
    }
}

/* The claim of that very name, else along its dots (Keycloak: realm_access.roles). */
static const json_t *find_claim(const json_t *claims, const char *name)
{
    const json_t *at = json_object_get(claims, name);
    char part[64];

    if (at != NULL || strchr(name, '.') == NULL)
        return at;
    for (at = claims; at != NULL && *name != '\0';) {
        size_t len = strcspn(name, ".");

        if (len >= sizeof(part))
            return NULL;
        memcpy(part, name, len);
        part[len] = '\0';
        at = json_object_get(at, part);
        name += len + (name[len] == '.');
    }
    return at;
}

static json_t *values_of(const json_t *claims, const char *name)
{
    const json_t *value = find_claim(claims, name);
    json_t *list;

    if (value == NULL)
        return NULL;
    list = json_array();
    if (json_is_array(value))
        for (size_t i = 0; i < json_array_size(value); i++)
            add_value(list, json_array_get(value, i));
    else
        add_value(list, value);
    return list;
}

/* Entra ID leaves out groups past 200 and points to another service instead. */
static bool groups_left_out(const json_t *claims, const char *name)
{
    return find_claim(claims, name) == NULL &&
           (json_object_get(json_object_get(claims, "_claim_names"), name) != NULL ||
            (strcmp(name, "groups") == 0 && json_is_true(json_object_get(claims, "hasgroups"))));
}

static void copy_text(json_t *into, const char *as, const json_t *claims, const json_t *userinfo,
                      const char *name)
{
    const json_t *value = json_object_get(claims, name);

    if (!json_is_string(value))
        value = json_object_get(userinfo, name);
    if (json_is_string(value) && json_string_length(value) <= CLAIM_TEXT_MAX)
        json_object_set(into, as, (json_t *)value);
}

static bool read_claims(const struct sso_oidc *oidc, const json_t *claims, const json_t *userinfo,
                        json_t *into, struct sso_reply *reply)
{
    for (size_t i = 0; i < json_array_size(oidc->claims); i++) {
        const char *name = json_string_value(json_array_get(oidc->claims, i));
        json_t *values = values_of(claims, name);

        if (values == NULL && userinfo != NULL)
            values = values_of(userinfo, name);
        if (!CHECK("oidc.groups_overage", values != NULL || !groups_left_out(claims, name))) {
            json_decref(values);
            return sso_refuse(
                reply, "oidc.groups_overage",
                "the provider left %s out because there are too many: use app roles, or assign groups to the "
                "application (docs/sso.md)",
                name);
        }
        if (values != NULL)
            json_object_set_new(into, name, values);
    }
    return true;
}

bool oidc_identity(const struct sso_provider *provider, const json_t *claims, const json_t *userinfo,
                   json_t **ret, struct sso_reply *reply)
{
    const struct sso_oidc *oidc = provider->oidc;
    const char *wanted = oidc->subject_claim[0] != '\0' ? oidc->subject_claim : "sub";
    const json_t *subject = find_claim(claims, wanted);
    json_t *identity = json_object(), *list = json_object(), *amr = values_of(claims, "amr");
    int64_t time = 0;

    if (subject == NULL && userinfo != NULL)
        subject = find_claim(userinfo, wanted);
    if (!json_is_string(subject) || json_string_length(subject) == 0 || json_string_length(subject) > 255 ||
        strlen(json_string_value(subject)) != json_string_length(subject)) {
        sso_refuse(reply, "oidc.subject_claim", "claim %s is missing, empty, or longer than 255 bytes",
                   wanted);
    } else if (read_claims(oidc, claims, userinfo, list, reply)) {
        json_object_set_new(identity, "issuer", json_string(oidc->issuer));
        json_object_set(identity, "subject", (json_t *)subject);
        copy_text(identity, "sid", claims, NULL, "sid");
        copy_text(identity, "name", claims, userinfo, "name");
        copy_text(identity, "email", claims, userinfo, "email");
        copy_text(identity, "acr", claims, NULL, "acr");
        json_object_set(identity, "claims", list);
        if (amr != NULL)
            json_object_set(identity, "amr", amr);
        if (jwt_time(claims, "auth_time", &time))
            json_object_set_new(identity, "auth_time", json_integer(time));
        if (jwt_time(claims, "exp", &time))
            json_object_set_new(identity, "expires_at", json_integer(time));
    }
    json_decref(list);
    json_decref(amr);
    if (reply->refused) {
        json_decref(identity);
        return false;
    }
    *ret = identity;
    return true;
}
