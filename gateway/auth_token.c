/* Auth: access tokens of the organisation's provider, and service accounts. See auth.h, token_cache.h.
 *
 *     token --> cache, by its hash --> revoked since? directory? --> OK                    (a few microseconds)
 *           --> the flight of the same token on this loop, or a new one --> gatehouse-sso: op bearer
 *               --> account or mapped roles --> cache (never what needs a proof with every request) --> OK
 *     certificate --> fingerprint in the policy --> OK                                      (no other credential came)
 *
 * Invariants:
 *   1. a flight is in its loop's list until gatehouse-sso has answered, whether anybody still waits or not;
 *   2. what was proved for one request alone (DPoP, a certificate's binding) reaches that request alone;
 *   3. nothing of a token is kept but hashes.
 */
#include "gateway/auth_priv.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/codec_sso.h"
#include "gateway/metrics.h"
#include "gateway/sso_client.h"
#include "policy/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_MAX   16384u
#define REQUEST_MAX (64u << 10)
#define REPLY_ARENA (256u << 10)
#define TIMEOUT_MS  8000u
#define TENANT      "default"

struct gw_token_flight {
    struct gw_token_flight *next;
    struct gw_auth *auth;
    unsigned loop;
    unsigned char key[BASE_SHA256_BYTES];
    enum gw_token_route route;
    bool alone; /* its proof is one request's: nobody joins, nothing is remembered */
    bool dpop;
    struct gw_auth_pending *waiting;
};

static struct pol_snapshot *policy_now(const struct gw_auth *auth, uint64_t *ret_generation)
{
    *ret_generation = 0;
    return auth->options.policy != NULL ? auth->options.policy(ret_generation, auth->options.policy_user)
                                        : NULL;
}

/* source: cache, provider (gatehouse-sso was asked), or none (refused before). */
static void count(const char *source, enum gw_auth_result result)
{
    char labels[96];

    snprintf(labels, sizeof(labels), "source=\"%s\",result=\"%s\"", source, gw_auth_result_code(result));
    gw_metric_add(GW_M_TOKEN_CHECKS, labels, 1);
}

/* ---- service accounts ---- */

static enum gw_auth_result fill_service(const struct gw_auth *auth, const struct pol_service_account *account,
                                        struct gw_principal *who)
{
    char roles[GW_ROLES_MAX * GW_ROLE_MAX] = "", subject[GW_SUBJECT_MAX];
    size_t n = 0;

    for (size_t i = 0; i < account->n_roles; i++)
        n += (size_t)snprintf(roles + n, sizeof(roles) - n, "%s%s", i > 0 ? "\n" : "", account->roles[i]);
    snprintf(subject, sizeof(subject), GW_SERVICE_PREFIX "%s", account->name);
    if (gw_principal_fill(who, GW_SERVICE_ISSUER, subject, TENANT, roles) != BASE_OK)
        return GW_AUTH_REFUSED;
    gw_tags_fill(auth->options.key_pepper, who);
    return GW_AUTH_OK; /* an account has a role: the policy sees to it */
}

enum gw_auth_result gw_auth_refresh_service(const struct gw_auth *auth, struct gw_principal *who)
{
    enum gw_auth_result result = GW_AUTH_OK;
    struct pol_snapshot *policy;
    bool found = false;
    uint64_t generation;

    if (strcmp(who->issuer, GW_SERVICE_ISSUER) != 0)
        return GW_AUTH_OK;
    policy = policy_now(auth, &generation);
    for (size_t i = 0; policy != NULL && i < pol_n_service_accounts(policy); i++) {
        const struct pol_service_account *account = pol_service_account_at(policy, i);

        if (strncmp(who->subject, GW_SERVICE_PREFIX, strlen(GW_SERVICE_PREFIX)) == 0 &&
            strcmp(who->subject + strlen(GW_SERVICE_PREFIX), account->name) == 0) {
            found = true;
            result = fill_service(auth, account, who);
        }
    }
    pol_unref(policy);
    if (!CHECK("auth.service_exists", found))
        return GW_AUTH_REVOKED;
    return result;
}

enum gw_auth_result gw_auth_identify_certificate(const struct gw_auth *auth, struct gw_http *http,
                                                 struct gw_principal *ret_who)
{
    unsigned char sha256[BASE_SHA256_BYTES];
    char hex[2 * BASE_SHA256_BYTES + 1];
    enum gw_auth_result result = GW_AUTH_REFUSED;
    struct pol_snapshot *policy;
    uint64_t generation;

    if (!gw_http_client_cert(http, sha256))
        return GW_AUTH_MISSING;
    base_hex_encode(sha256, sizeof(sha256), hex);
    policy = policy_now(auth, &generation);
    for (size_t i = 0; policy != NULL && i < pol_n_service_accounts(policy); i++) {
        const struct pol_service_account *account = pol_service_account_at(policy, i);

        if (!CHECK("auth.cert_account",
                   account->cert_sha256[0] != '\0' && strcmp(account->cert_sha256, hex) == 0))
            continue;
        result = fill_service(auth, account, ret_who);
        ret_who->method = GW_AUTH_CERTIFICATE;
        snprintf(ret_who->credential_id, sizeof(ret_who->credential_id), "cert-%.16s", hex);
        ret_who->since_us = base_wall_us();
        break;
    }
    pol_unref(policy);
    return result;
}

/* ---- what a token's reply means ---- */

static const struct pol_service_account *account_of_client(const struct pol_snapshot *policy,
                                                           const struct gw_sso_reply *reply)
{
    for (size_t i = 0; i < pol_n_service_accounts(policy); i++) {
        const struct pol_service_account *account = pol_service_account_at(policy, i);

        if (account->client_id[0] != '\0' && reply->client_id != NULL &&
            strcmp(account->client_id, reply->client_id) == 0 &&
            CHECK("auth.service_provider", strcmp(account->provider, reply->provider) == 0))
            return account;
    }
    return NULL;
}

static bool takes(const struct pol_provider *provider, enum gw_token_route route, const char *audience)
{
    const struct pol_list *list =
        route == GW_ROUTE_SCIM ? &provider->scim_audiences : &provider->bearer_audiences;

    for (size_t i = 0; audience != NULL && i < list->n; i++)
        if (strcmp(list->items[i], audience) == 0)
            return true;
    return false;
}

/* The person's roles by the policy's mapping; none is for the directory to mend, or a refusal. */
static enum gw_auth_result fill_person(const struct gw_auth *auth, const struct pol_snapshot *policy,
                                       const struct pol_provider *provider, const struct gw_sso_reply *reply,
                                       struct gw_token_entry *entry)
{
    const char *names[GW_ROLES_MAX];
    char roles[GW_ROLES_MAX * GW_ROLE_MAX] = "";
    enum base_code rc = BASE_OK;
    size_t n = pol_map_roles(policy, provider, reply->claims, reply->n_claims, names, GW_ROLES_MAX, &rc),
           at = 0;

    if (rc != BASE_OK)
        return GW_AUTH_NO_ROLE;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(roles + at, sizeof(roles) - at, "%s%s", i > 0 ? "\n" : "", names[i]);
    if (gw_principal_fill(&entry->who, reply->issuer, reply->subject, TENANT, roles) != BASE_OK)
        return GW_AUTH_TOKEN_REFUSED;
    gw_tags_fill(auth->options.key_pepper, &entry->who);
    for (size_t i = 0; provider->directory_claim[0] != '\0' && i < reply->n_claims; i++) {
        if (strcmp(reply->claims[i].name, provider->directory_claim) != 0)
            continue;
        if (strlen(reply->claims[i].value) >= sizeof(entry->directory_key))
            return GW_AUTH_TOKEN_REFUSED;
        strcpy(entry->directory_key, reply->claims[i].value);
        entry->who.directory_tag =
            gw_tag(auth->options.key_pepper, GW_TAG_DIRECTORY, entry->directory_key, NULL, NULL);
        break;
    }
    return GW_AUTH_OK;
}

/* What holds at each use: roles of the directory, and that nothing has been revoked since the token was issued. */
static enum gw_auth_result use(const struct gw_auth *auth, struct gw_token_entry *entry)
{
    const struct gw_auth_options *o = &auth->options;
    struct gw_principal *who = &entry->who;
    bool person = strcmp(who->issuer, GW_SERVICE_ISSUER) != 0;

    if (!CHECK("auth.token_revoked",
               o->sessions == NULL || !gw_sessions_revoked(o->sessions, who, who->since_us)))
        return GW_AUTH_TOKEN_REFUSED;
    if (person && o->refine != NULL &&
        o->refine(who, entry->provider, entry->directory_key, o->refine_user) != BASE_OK)
        return GW_AUTH_NO_ROLE;
    return CHECK("auth.token_role", who->n_roles > 0) ? GW_AUTH_OK : GW_AUTH_NO_ROLE;
}

static enum gw_auth_result read_good(const struct gw_token_flight *flight, const struct pol_snapshot *policy,
                                     const struct gw_sso_reply *reply, struct gw_token_entry *entry)
{
    const struct pol_provider *provider =
        reply->provider != NULL ? pol_provider_find(policy, reply->provider) : NULL;
    const struct pol_service_account *account;
    enum gw_auth_result result;
    int64_t issued_s = reply->issued_at > 0 ? reply->issued_at : reply->auth_time;

    if (provider == NULL || reply->issuer == NULL || reply->subject == NULL || reply->expires_at <= 0)
        return GW_AUTH_UNAVAILABLE; /* the policy was replaced meanwhile, or no reply of ours */
    if (!CHECK("auth.token_issuer", strcmp(provider->issuer, reply->issuer) == 0) ||
        !CHECK("auth.token_audience", takes(provider, flight->route, reply->audience)) ||
        !CHECK("auth.dpop_unbound", !flight->dpop || reply->bound) ||
        !CHECK("auth.bound_shared", !reply->bound || flight->alone) ||
        !CHECK("auth.token_expired", base_wall_us() / 1000000 < reply->expires_at + provider->clock_skew_s))
        return GW_AUTH_TOKEN_REFUSED;
    account = account_of_client(policy, reply);
    result = account != NULL ? fill_service(flight->auth, account, &entry->who)
                             : fill_person(flight->auth, policy, provider, reply, entry);
    if (result != GW_AUTH_OK)
        return result;
    snprintf(entry->provider, sizeof(entry->provider), "%s", provider->name);
    entry->who.method = GW_AUTH_BEARER;
    strcpy(entry->who.credential_id, "tok-");
    base_hex_encode(flight->key, 12, entry->who.credential_id + 4);
    entry->who.since_us = issued_s * 1000000;
    entry->until_us = reply->expires_at * 1000000;
    return GW_AUTH_OK;
}

static enum gw_auth_result read_refusal(const struct gw_token_flight *flight,
                                        const struct gw_sso_reply *reply)
{
    if (strcmp(reply->code, "refused") != 0)
        return GW_AUTH_UNAVAILABLE;
    base_log(BASE_LOG_INFO, "token.refused", "an access token does not hold", LOG_STR("check", reply->check),
             LOG_STR("detail", reply->detail));
    return flight->dpop && strncmp(reply->check, "dpop.", 5) == 0 ? GW_AUTH_PROOF_REFUSED
                                                                  : GW_AUTH_TOKEN_REFUSED;
}

/* ---- flights ---- */

void gw_auth_leave_flight(struct gw_auth_pending *pending)
{
    struct gw_auth_pending **at = &pending->flight->waiting;

    while (*at != pending)
        at = &(*at)->next;
    *at = pending->next;
}

static void flight_land(struct gw_token_flight *flight, enum gw_auth_result result,
                        const struct gw_principal *who)
{
    struct gw_token_flight **at = &flight->auth->flights[flight->loop];
    struct gw_auth_pending *pending;

    while (*at != flight)
        at = &(*at)->next;
    *at = flight->next;
    while ((pending = flight->waiting) !=
           NULL) { /* a callback may close other requests: they leave the list */
        flight->waiting = pending->next;
        count("provider", result);
        pending->done(result, result == GW_AUTH_OK ? who : NULL, pending->user);
        free(pending);
    }
    free(flight);
}

static void sso_answered(enum base_code rc, const char *json, size_t len, void *user)
{
    struct gw_token_flight *flight = user;
    struct gw_auth *auth = flight->auth;
    struct base_arena *arena = base_arena_new(REPLY_ARENA);
    struct gw_sso_reply reply = {0};
    struct gw_token_entry entry = {0};
    enum gw_auth_result result = GW_AUTH_UNAVAILABLE;
    struct pol_snapshot *policy;
    uint64_t generation;
    int64_t now_us = base_wall_us();

    policy = policy_now(auth, &generation);
    if (rc == BASE_OK && policy != NULL && gw_sso_decode(&reply, arena, json, len, NULL) == BASE_OK)
        result = reply.ok ? read_good(flight, policy, &reply, &entry) : read_refusal(flight, &reply);
    pol_unref(policy);
    if (result == GW_AUTH_OK && !reply.bound && !flight->dpop)
        gw_token_cache_put(auth->tokens, flight->key, generation, now_us, &entry);
    if (result == GW_AUTH_TOKEN_REFUSED && !flight->alone)
        gw_token_cache_put(auth->tokens, flight->key, generation, now_us,
                           &(struct gw_token_entry){.until_us = now_us + GW_TOKEN_REFUSE_US});
    if (result == GW_AUTH_OK)
        result = use(auth, &entry);
    base_arena_unref(arena);
    flight_land(flight, result, &entry.who);
}

void gw_auth_free_flights(struct gw_auth *auth)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(auth->flights); i++) {
        struct gw_token_flight *flight;

        while ((flight = auth->flights[i]) != NULL) {
            auth->flights[i] = flight->next;
            free(flight); /* who waited has forgotten it: the loops have ended */
        }
    }
}

static struct gw_token_flight *find_flight(struct gw_auth *auth, unsigned loop, const unsigned char *key)
{
    for (struct gw_token_flight *f = auth->flights[loop]; f != NULL; f = f->next)
        if (!f->alone && memcmp(f->key, key, sizeof(f->key)) == 0)
            return f;
    return NULL;
}

/* ---- asking ---- */

static void put_text(struct base_buf *out, const char *name, const char *value, size_t len)
{
    base_buf_printf(out, ",\"%s\":", name);
    base_buf_append_json(out, value, len);
}

/* The audiences that this kind of route takes, of all providers. False: none. */
static bool put_audiences(struct base_buf *out, const struct pol_snapshot *policy, enum gw_token_route route)
{
    bool any = false;

    base_buf_append_str(out, ",\"audience\":[");
    for (size_t p = 0; p < pol_n_providers(policy); p++) {
        const struct pol_provider *provider = pol_provider_at(policy, p);
        const struct pol_list *list =
            route == GW_ROUTE_SCIM ? &provider->scim_audiences : &provider->bearer_audiences;

        for (size_t i = 0; i < list->n; i++) {
            if (any)
                base_buf_append_char(out, ',');
            base_buf_append_json(out, list->items[i], strlen(list->items[i]));
            any = true;
        }
    }
    base_buf_append_char(out, ']');
    return any;
}

/* b64token of RFC 6750 section 2.1. */
static bool is_token(const char *text, size_t len)
{
    if (len == 0 || len > TOKEN_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (c != '\0' && strchr("-._~+/=", c) != NULL)))
            return false;
    }
    return true;
}

static enum gw_token_route route_of(struct gw_http *http)
{
    return strncmp(gw_http_path(http), "/scim/", 6) == 0 ? GW_ROUTE_SCIM : GW_ROUTE_API;
}

/* The request of a token and what proves that its bearer may use it. */
static enum gw_auth_result encode(const struct gw_auth *auth, struct gw_http *http,
                                  const struct gw_credential *token, const struct pol_snapshot *policy,
                                  bool *ret_alone, struct base_buf *out)
{
    bool dpop = token->kind == GW_CREDENTIAL_DPOP;
    unsigned char cert[BASE_SHA256_BYTES];
    char text[64], url[GW_ORIGIN_MAX + 1024];
    const char *proof;
    size_t len = 0;

    base_buf_append_str(out, "{\"op\":\"bearer\"");
    if (!put_audiences(out, policy, route_of(http)))
        return route_of(http) == GW_ROUTE_API && !dpop ? GW_AUTH_REFUSED : GW_AUTH_TOKEN_REFUSED;
    put_text(out, "token", token->text, token->len);
    put_text(out, "method", gw_http_method(http), strlen(gw_http_method(http)));
    if ((size_t)snprintf(url, sizeof(url), "%s%s", auth->origin, gw_http_path(http)) >= sizeof(url))
        return GW_AUTH_TOKEN_REFUSED;
    put_text(out, "url", url, strlen(url));
    if (dpop) {
        proof = gw_http_header(http, "dpop", &len);
        if (!CHECK("auth.dpop_one", gw_http_header_count(http, "dpop") == 1 && proof != NULL))
            return GW_AUTH_PROOF_REFUSED;
        if (proof != NULL)
            put_text(out, "dpop", proof, len);
    }
    *ret_alone = dpop;
    if (gw_http_client_cert(http, cert)) {
        len = base_b64url_encode(cert, sizeof(cert), text);
        put_text(out, "client_cert_sha256", text, len);
        *ret_alone = true;
    }
    base_buf_append_char(out, '}');
    return out->failed ? GW_AUTH_TOKEN_REFUSED : GW_AUTH_OK;
}

static struct gw_auth_pending *wait_for(struct gw_token_flight *flight, gw_identified_fn *done, void *user)
{
    struct gw_auth_pending *pending = base_zalloc(sizeof(*pending));

    *pending = (struct gw_auth_pending){
        .auth = flight->auth, .flight = flight, .next = flight->waiting, .done = done, .user = user};
    flight->waiting = pending;
    return pending;
}

static struct gw_auth_pending *ask(struct gw_auth *auth, struct gw_http *http,
                                   const struct gw_credential *token, const unsigned char *key,
                                   const struct pol_snapshot *policy, gw_identified_fn *done, void *user)
{
    auto_buf struct base_buf request = BASE_BUF_INIT(REQUEST_MAX);
    struct gw_sso *sso = auth->options.sso != NULL ? *auth->options.sso : NULL;
    struct gw_token_flight *flight;
    struct gw_auth_pending *pending;
    bool alone = false;
    enum gw_auth_result result = encode(auth, http, token, policy, &alone, &request);
    unsigned loop = gw_loop_index(gw_http_loop(http));

    if (result == GW_AUTH_OK && sso == NULL)
        result = GW_AUTH_UNAVAILABLE;
    if (result != GW_AUTH_OK) {
        count("none", result);
        done(result, NULL, user);
        pending = NULL;
    } else if (!alone && (flight = find_flight(auth, loop, key)) != NULL) {
        pending = wait_for(flight, done, user);
    } else {
        flight = base_zalloc(sizeof(*flight));
        *flight = (struct gw_token_flight){.auth = auth,
                                           .loop = loop,
                                           .route = route_of(http),
                                           .alone = alone,
                                           .dpop = token->kind == GW_CREDENTIAL_DPOP,
                                           .next = auth->flights[loop]};
        memcpy(flight->key, key, sizeof(flight->key));
        auth->flights[loop] = flight;
        pending = wait_for(flight, done, user);
        if (gw_sso_call(sso, gw_http_loop(http), request.data, request.len, TIMEOUT_MS, sso_answered,
                        flight) == NULL)
            pending = NULL; /* landed already */
    }
    base_wipe(request.data, request.cap);
    return pending;
}

struct gw_auth_pending *gw_auth_identify_token(struct gw_auth *auth, struct gw_http *http,
                                               const struct gw_credential *token, gw_identified_fn *done,
                                               void *user)
{
    unsigned char key[BASE_SHA256_BYTES], cert[BASE_SHA256_BYTES];
    struct gw_token_entry entry;
    struct gw_auth_pending *pending = NULL;
    struct pol_snapshot *policy;
    uint64_t generation;
    enum gw_auth_result result;

    policy = policy_now(auth, &generation);
    if (policy == NULL || !is_token(token->text, token->len)) {
        count("none", GW_AUTH_REFUSED);
        done(GW_AUTH_REFUSED, NULL, user);
        pol_unref(policy);
        return NULL;
    }
    gw_token_cache_key(route_of(http), token->text, token->len, key);
    if (token->kind == GW_CREDENTIAL_TOKEN &&
        gw_token_cache_find(auth->tokens, key, generation, base_wall_us(), &entry) &&
        (entry.who.method == GW_AUTH_BEARER ||
         !gw_http_client_cert(http, cert))) { /* with a proof: ask again */
        result = entry.who.method == GW_AUTH_BEARER ? use(auth, &entry) : GW_AUTH_TOKEN_REFUSED;
        count("cache", result);
        done(result, result == GW_AUTH_OK ? &entry.who : NULL, user);
    } else {
        pending = ask(auth, http, token, key, policy, done, user);
    }
    pol_unref(policy);
    return pending;
}
