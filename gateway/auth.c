/* Auth: identification. See auth.h.
 *
 *     credential -- none ---------------------------> MISSING
 *                -- several ------------------------> REFUSED
 *                -- key ----- malformed, unknown ---> REFUSED   (one answer: not which part was wrong)
 *                             hash in the snapshot -> EXPIRED, REVOKED, OK   (only its holder gets here)
 *                -- token ---------------------------> auth_token.c
 *                -- none, but a certificate --------> auth_token.c
 *                -- cookie -- not made by us -------> SESSION_ENDED
 *                             POST without CSRF ----> CSRF
 *                             store ----------------> OK, SESSION_ENDED, UNAVAILABLE
 */
#include "gateway/auth_priv.h"

#include "base/mem.h"
#include "base/str.h"
#include "gateway/apikey.h"

#include <string.h>

#define PEPPER_MIN 32u

enum gw_api_code gw_auth_api_code(enum gw_auth_result result)
{
    switch (result) {
    case GW_AUTH_REFUSED: return GW_API_INVALID_API_KEY;
    case GW_AUTH_MISSING: return GW_API_MISSING_CREDENTIALS;
    case GW_AUTH_EXPIRED: return GW_API_EXPIRED_API_KEY;
    case GW_AUTH_REVOKED: return GW_API_REVOKED_API_KEY;
    case GW_AUTH_SESSION_ENDED: return GW_API_SESSION_ENDED;
    case GW_AUTH_SESSION_STALE: return GW_API_SESSION_STALE;
    case GW_AUTH_TOKEN_REFUSED: return GW_API_INVALID_TOKEN;
    case GW_AUTH_PROOF_REFUSED: return GW_API_INVALID_DPOP_PROOF;
    case GW_AUTH_NO_ROLE: return GW_API_NO_ROLE;
    case GW_AUTH_CSRF: return GW_API_CSRF_FAILED;
    case GW_AUTH_UNAVAILABLE: return GW_API_IDENTITY_UNAVAILABLE;
    case GW_AUTH_OK: return GW_API_INTERNAL;
    }
    return GW_API_INVALID_API_KEY;
}

const char *gw_auth_result_code(enum gw_auth_result result)
{
    return result == GW_AUTH_OK ? "ok" : gw_api_code_name(gw_auth_api_code(result));
}

enum base_code gw_auth_new(struct gw_auth **ret_auth, const struct gw_auth_options *options,
                           struct base_err *err)
{
    struct gw_auth *auth;

    if (base_secret_len(options->key_pepper) < PEPPER_MIN)
        return base_fail(err, BASE_INVALID, 0, "the key pepper is %zu bytes, at least %u are needed",
                         base_secret_len(options->key_pepper), PEPPER_MIN);
    if (!gw_origin_valid(options->public_origin))
        return base_fail(err, BASE_INVALID, 0,
                         "the public origin must look like https://gatehouse.example.com:8443, in lower "
                         "case, without a path or a default port");
    auth = base_zalloc(sizeof(*auth));
    auth->options = *options;
    memcpy(auth->origin, options->public_origin, strlen(options->public_origin) + 1);
    auth->options.public_origin = auth->origin;
    if (options->policy != NULL)
        auth->tokens = gw_token_cache_new(GW_TOKEN_CACHE_SLOTS);
    *ret_auth = auth;
    return BASE_OK;
}

void gw_auth_free(struct gw_auth *auth)
{
    if (auth == NULL)
        return;
    gw_auth_free_flights(auth);
    gw_token_cache_free(auth->tokens);
    free(auth);
}

/* ---- credentials ---- */

static void add_credential(struct gw_credential *credential, enum gw_credential_kind kind, const char *text,
                           size_t len)
{
    if (credential->kind != GW_CREDENTIAL_NONE)
        credential->kind = GW_CREDENTIAL_AMBIGUOUS;
    else
        *credential = (struct gw_credential){.kind = kind, .text = text, .len = len};
}

static void add_header(struct gw_credential *credential, struct gw_http *http, const char *name)
{
    unsigned count = gw_http_header_count(http, name);
    size_t len = 0;
    const char *text = gw_http_header(http, name, &len);

    if (count == 1 && text != NULL)
        add_credential(credential, GW_CREDENTIAL_KEY, text, len);
    else if (count > 0)
        credential->kind = GW_CREDENTIAL_AMBIGUOUS;
}

static void add_cookie(struct gw_credential *credential, struct gw_http *http)
{
    unsigned count = gw_http_header_count(http, "cookie");
    const char *value = NULL;
    size_t len = 0, value_len = 0;
    const char *header = gw_http_header(http, "cookie", &len);

    if (count == 0)
        return;
    if (count > 1 || header == NULL) {
        credential->kind = GW_CREDENTIAL_AMBIGUOUS;
        return;
    }
    count = gw_cookie_find(header, len, &value, &value_len);
    if (count == 1)
        add_credential(credential, GW_CREDENTIAL_COOKIE, value, value_len);
    else if (count > 1)
        credential->kind = GW_CREDENTIAL_AMBIGUOUS;
}

static bool strip(struct gw_credential *credential, const char *scheme)
{
    size_t n = strlen(scheme);

    if (credential->len < n || !base_ascii_ieq(credential->text, n, scheme, n))
        return false;
    credential->text += n;
    credential->len -= n;
    return true;
}

/* Takes the scheme off (RFC 6750 section 2.1; its case does not matter, RFC 9110 section 11.1), and tells a key of ours from an access
 * token. Another scheme leaves nothing, which no key matches. */
static void strip_scheme(struct gw_credential *credential)
{
    static const char ours[] = GW_APIKEY_PREFIX;

    if (strip(credential, "dpop "))
        credential->kind = GW_CREDENTIAL_DPOP;
    else if (!strip(credential, "bearer "))
        credential->len = 0;
    else if (credential->len < sizeof(ours) - 1 || memcmp(credential->text, ours, sizeof(ours) - 1) != 0)
        credential->kind = GW_CREDENTIAL_TOKEN;
}

struct gw_credential gw_auth_credential(struct gw_http *http)
{
    struct gw_credential credential = {.kind = GW_CREDENTIAL_NONE};

    add_header(&credential, http, "authorization");
    if (credential.kind == GW_CREDENTIAL_KEY)
        strip_scheme(&credential);
    add_header(&credential, http, "x-api-key");
    add_header(&credential, http, "api-key");
    add_cookie(&credential, http);
    return credential;
}

/* ---- cookies ---- */

bool gw_auth_origin_ours(const struct gw_auth *auth, struct gw_http *http, bool form)
{
    struct gw_origin_facts facts = {0};

    /* a header sent twice reads as absent: Origin is then refused, and so must Sec-Fetch-Site be */
    if (gw_http_header_count(http, "sec-fetch-site") > 1)
        return false;
    facts.origin = gw_http_header(http, "origin", &facts.origin_len);
    facts.sec_fetch_site = gw_http_header(http, "sec-fetch-site", &facts.sec_fetch_site_len);
    return gw_origin_ours(&facts, auth->origin, form);
}

static bool changes_state(struct gw_http *http)
{
    const char *method = gw_http_method(http);

    return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
}

enum gw_auth_result gw_auth_check_cookie(const struct gw_auth *auth, struct gw_http *http,
                                         const struct gw_credential *cookie)
{
    const char *csrf;
    size_t csrf_len = 0;

    if (!gw_token_genuine(auth->options.key_pepper, GW_TOKEN_SESSION, cookie->text, cookie->len))
        return GW_AUTH_SESSION_ENDED;
    if (!changes_state(http))
        return GW_AUTH_OK;
    csrf = gw_http_header(http, "x-csrf-token", &csrf_len);
    if (!gw_auth_origin_ours(auth, http, false) ||
        !gw_csrf_matches(auth->options.key_pepper, cookie->text, csrf, csrf_len))
        return GW_AUTH_CSRF;
    return GW_AUTH_OK;
}

void gw_auth_old_token(const struct gw_auth *auth, struct gw_http *http, char out[GW_TOKEN_LEN + 1])
{
    struct gw_credential old = gw_auth_credential(http);

    out[0] = '\0';
    if (old.kind != GW_CREDENTIAL_COOKIE ||
        !gw_token_genuine(auth->options.key_pepper, GW_TOKEN_SESSION, old.text, old.len)) /* length and all */
        return;
    memcpy(out, old.text, GW_TOKEN_LEN);
    out[GW_TOKEN_LEN] = '\0';
}

enum gw_auth_result gw_auth_store_result(enum base_code rc)
{
    if (rc == BASE_OK)
        return GW_AUTH_OK;
    return rc == BASE_DENIED ? GW_AUTH_SESSION_ENDED : GW_AUTH_UNAVAILABLE;
}

/* ---- identify ---- */

static enum gw_auth_result identify_key(const struct gw_auth *auth, const struct gw_credential *key,
                                        struct gw_principal *ret_who)
{
    unsigned char hash[BASE_SHA256_BYTES];

    if (!gw_apikey_parse(key->text, key->len, NULL))
        return GW_AUTH_REFUSED;
    gw_apikey_hash(auth->options.key_pepper, key->text, hash);
    switch (gw_store_key_find(auth->options.store, hash, ret_who)) {
    case GW_KEY_UNKNOWN: return GW_AUTH_REFUSED;
    case GW_KEY_EXPIRED: return GW_AUTH_EXPIRED;
    case GW_KEY_REVOKED: return GW_AUTH_REVOKED;
    case GW_KEY_UNAVAILABLE: return GW_AUTH_UNAVAILABLE;
    case GW_KEY_GOOD: break;
    }
    gw_tags_fill(auth->options.key_pepper, ret_who);
    if (gw_sessions_revoked(auth->options.sessions, ret_who,
                            ret_who->since_us)) /* its owner's access ended */
        return GW_AUTH_REVOKED;
    return gw_auth_refresh_service(auth, ret_who);
}

static void session_known(enum base_code rc, const struct gw_principal *who, bool stale, void *user)
{
    struct gw_auth_pending *pending = user;
    enum gw_auth_result result = gw_auth_store_result(rc);

    if (result == GW_AUTH_OK && stale)
        result = GW_AUTH_SESSION_STALE;
    pending->done(result, result == GW_AUTH_OK ? who : NULL, pending->user);
    free(pending);
}

static struct gw_auth_pending *identify_session(const struct gw_auth *auth, struct gw_http *http,
                                                const struct gw_credential *cookie, gw_identified_fn *done,
                                                void *user)
{
    struct gw_auth_pending *pending = base_zalloc(sizeof(*pending));
    struct gw_sessions_op *op;

    *pending = (struct gw_auth_pending){.auth = auth, .done = done, .user = user};
    op = gw_sessions_identify(auth->options.sessions, gw_http_loop(http), cookie->text, session_known,
                              pending);
    if (op == NULL) /* answered from memory or refused at once: pending is gone */
        return NULL;
    pending->op = op;
    return pending;
}

struct gw_auth_pending *gw_auth_identify(struct gw_auth *auth, struct gw_http *http, gw_identified_fn *done,
                                         void *user)
{
    struct gw_credential credential = gw_auth_credential(http);
    enum gw_auth_result result = GW_AUTH_REFUSED;
    struct gw_principal who = {0};

    switch (credential.kind) {
    case GW_CREDENTIAL_NONE: result = gw_auth_identify_certificate(auth, http, &who); break;
    case GW_CREDENTIAL_AMBIGUOUS: result = GW_AUTH_REFUSED; break;
    case GW_CREDENTIAL_KEY: result = identify_key(auth, &credential, &who); break;
    case GW_CREDENTIAL_TOKEN:
    case GW_CREDENTIAL_DPOP: return gw_auth_identify_token(auth, http, &credential, done, user);
    case GW_CREDENTIAL_COOKIE:
        result = gw_auth_check_cookie(auth, http, &credential);
        if (result == GW_AUTH_OK)
            return identify_session(auth, http, &credential, done, user);
        break;
    }
    done(result, result == GW_AUTH_OK ? &who : NULL, user);
    return NULL;
}

void gw_auth_forget(struct gw_auth_pending *pending)
{
    if (pending == NULL)
        return;
    if (pending->flight != NULL)
        gw_auth_leave_flight(pending);
    gw_sessions_forget(pending->op);
    free(pending);
}
