/* Local administrators. See local_admin.h.
 *
 *     POST --> origin, form, policy --> throttle (memory: name and address) --> Postgres: the row, or none
 *          --> a thread: Argon2id over the row's hash, or over a dummy; the code
 *          --> Postgres: the code is used up and failures cleared (of several at once, one wins), or the failure is counted
 *          --> session, record --> the browser's old session ends --> cookie, 303 to /
 *
 * Invariants:
 *   1. an attempt is counted before it is answered: who leaves early has guessed, too;
 *   2. every refusal after the throttle has the same answer, whether the name, the password or the code was wrong;
 *   3. a struct attempt lives until its last step has run, with or without its client.
 */
#include "gateway/local_admin.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/password.h"
#include "base/str.h"
#include "base/workers.h"
#include "gateway/auth_priv.h"
#include "gateway/form.h"
#include "gateway/metrics.h"
#include "gateway/page.h"
#include "gateway/tags.h"
#include "gateway/visit.h"
#include "policy/policy.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS            2u
#define QUEUE              8u
#define BUCKETS            1024u
#define ADDRESS_FREE       10u
#define LOCK_MAX_MS        900000ull
#define FORGET_MS          3600000ull
#define PASSWORD_FIELD_MAX 512u
#define STEP_SLACK         10 /* clocks of gateways differ */

/* Failures of one name or address; shared by those whose keyed hash meets. */
struct bucket {
    unsigned failures;
    uint64_t until_ms, last_ms;
};

struct gw_local {
    struct gw_auth *auth;
    struct base_workers *workers;
    char dummy[BASE_PASSWORD_HASH_MAX]; /* for names that do not exist */
    atomic_bool stopping;
    pthread_mutex_t lock; /* guards the buckets */
    struct bucket names[BUCKETS], addresses[BUCKETS];
};

struct attempt {
    struct gw_local *local;
    struct gw_visit visit;
    char name[GW_LOCAL_NAME_MAX], password[PASSWORD_FIELD_MAX], code[16], from[GW_PEER_MAX];
    size_t name_bucket, address_bucket;
    /* the row */
    bool known, usable;
    char hash[BASE_PASSWORD_HASH_MAX];
    unsigned char sealed[GW_LOCAL_SEALED_BYTES];
    int64_t totp_used;
    /* what the thread found */
    int64_t step; /* 0: refused */
    struct gw_session_record session;
    char token[GW_TOKEN_LEN + 1], old_token[GW_TOKEN_LEN + 1], old_id[GW_CREDENTIAL_MAX];
};

/* ---- the second factor at rest ---- */

static void seal_key(const struct base_secret *pepper, unsigned char key[BASE_GCM_KEY_BYTES])
{
    static const char label[] = "gatehouse local admin totp v1";

    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), label, sizeof(label) - 1, key);
}

void gw_local_seal(const struct base_secret *pepper, const char *name,
                   const unsigned char secret[GW_TOTP_SECRET_BYTES],
                   unsigned char sealed[GW_LOCAL_SEALED_BYTES])
{
    unsigned char key[BASE_GCM_KEY_BYTES];

    seal_key(pepper, key);
    base_random(sealed, BASE_GCM_NONCE_BYTES);
    base_gcm_seal(key, sealed, name, strlen(name), secret, GW_TOTP_SECRET_BYTES,
                  sealed + BASE_GCM_NONCE_BYTES, sealed + BASE_GCM_NONCE_BYTES + GW_TOTP_SECRET_BYTES);
    base_wipe(key, sizeof(key));
}

enum base_code gw_local_unseal(const struct base_secret *pepper, const char *name,
                               const unsigned char sealed[GW_LOCAL_SEALED_BYTES],
                               unsigned char secret[GW_TOTP_SECRET_BYTES])
{
    unsigned char key[BASE_GCM_KEY_BYTES];
    enum base_code rc;

    seal_key(pepper, key);
    rc = base_gcm_open(key, sealed, name, strlen(name), sealed + BASE_GCM_NONCE_BYTES, GW_TOTP_SECRET_BYTES,
                       secret, sealed + BASE_GCM_NONCE_BYTES + GW_TOTP_SECRET_BYTES);
    base_wipe(key, sizeof(key));
    return rc;
}

/* ---- throttle ---- */

static size_t bucket_of(const struct gw_local *local, const char *kind, const char *text)
{
    const struct base_secret *pepper = local->auth->options.key_pepper;
    unsigned char mac[BASE_SHA256_BYTES];
    char whole[GW_PEER_MAX + GW_LOCAL_NAME_MAX + 8];
    int n = snprintf(whole, sizeof(whole), "%s:%s", kind, text);

    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), whole, (size_t)n, mac);
    return ((size_t)mac[0] << 8 | mac[1]) % BUCKETS;
}

static bool blocked(const struct bucket *bucket, uint64_t now_ms)
{
    return now_ms < bucket->until_ms;
}

static void count(struct bucket *bucket, unsigned free_failures, uint64_t now_ms)
{
    if (now_ms - bucket->last_ms > FORGET_MS)
        bucket->failures = 0;
    bucket->last_ms = now_ms;
    if (++bucket->failures > free_failures) {
        unsigned over = bucket->failures - free_failures;
        uint64_t lock_ms = over < 20 ? 500ull << over : LOCK_MAX_MS;

        bucket->until_ms = now_ms + (lock_ms < LOCK_MAX_MS ? lock_ms : LOCK_MAX_MS);
    }
}

/* Counts an attempt; false: it is not looked at. */
static bool admit(struct gw_local *local, const struct attempt *a)
{
    struct bucket *name = &local->names[a->name_bucket], *address = &local->addresses[a->address_bucket];
    uint64_t now_ms = base_mono_us() / 1000;
    bool ok;

    pthread_mutex_lock(&local->lock);
    ok = CHECK("local.throttle_name", !blocked(name, now_ms)) &&
         CHECK("local.throttle_address", !blocked(address, now_ms));
    if (ok) {
        count(name, GW_LOCAL_FREE_FAILURES, now_ms);
        count(address, ADDRESS_FREE, now_ms);
    }
    pthread_mutex_unlock(&local->lock);
    return ok;
}

static void forgive(struct gw_local *local, const struct attempt *a)
{
    pthread_mutex_lock(&local->lock);
    local->names[a->name_bucket] = (struct bucket){0};
    local->addresses[a->address_bucket] = (struct bucket){0};
    pthread_mutex_unlock(&local->lock);
}

/* ---- answers ---- */

static void send_form(struct gw_http *http, int status, const char *sentence)
{
    auto_buf struct base_buf page = BASE_BUF_INIT(GW_PAGE_MAX);

    gw_page_begin(&page, "Local administrator", sentence);
    base_buf_append_str(
        &page, "<form method=\"post\" action=\"/auth/local\">"
               "<label>Name<input name=\"name\" autocomplete=\"username\" required></label>"
               "<label>Password<input name=\"password\" type=\"password\" autocomplete=\"current-password\" "
               "required></label>"
               "<label>Code<input name=\"code\" inputmode=\"numeric\" autocomplete=\"one-time-code\" "
               "maxlength=\"6\" required></label>"
               "<button type=\"submit\">Sign in</button></form>");
    gw_page_send(http, status, &page, NULL);
}

static void send_refused(struct gw_http *http)
{
    send_form(http, 403, "That did not work. Check name, password and code; a code counts once.");
}

static void send_unavailable(struct gw_http *http)
{
    send_form(http, 503, "Sign-in is not possible right now. Try again in a moment.");
}

static bool record(const struct gw_local *local, const char *action, const struct gw_principal *who,
                   const char *target)
{
    static const struct gw_principal nobody = {.method = GW_AUTH_NONE};
    const struct gw_auth_options *o = &local->auth->options;

    return o->record == NULL || o->record(action, who != NULL ? who : &nobody, target, o->record_user);
}

static void count_sign_in(const char *result)
{
    char labels[96];

    snprintf(labels, sizeof(labels), "method=\"%s\",result=\"%s\"", GW_LOCAL_PROVIDER, result);
    gw_metric_add(GW_M_LOGINS, labels, 1);
}

static void attempt_free(void *owner)
{
    struct attempt *a = owner;

    gw_session_record_free(&a->session);
    base_wipe(a, sizeof(*a));
    free(a);
}

/* The loops have ended, and what is left of an attempt comes back after what it needs is gone: true when that is so. */
static bool too_late(struct attempt *a)
{
    if (!atomic_load(&a->local->stopping))
        return false;
    gw_visit_over(&a->visit);
    return true;
}

static void refused(struct attempt *a)
{
    base_log(BASE_LOG_WARN, "local.refused", "a local administrator was refused", LOG_STR("from", a->from));
    record(a->local, "local.refuse", NULL, a->known ? a->name : "");
    count_sign_in("refused");
    if (a->visit.http != NULL)
        send_refused(a->visit.http);
    gw_visit_over(&a->visit);
}

static void unavailable(struct attempt *a)
{
    count_sign_in("unavailable");
    if (a->visit.http != NULL)
        send_unavailable(a->visit.http);
    gw_visit_over(&a->visit);
}

/* ---- Postgres ---- */

static enum base_code work_load(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct attempt *a = arg;
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(a->name)};
    enum base_code rc = base_pg_exec(
        pg,
        "SELECT password, totp, totp_used, disabled_at IS NULL, "
        "locked_until IS NULL OR locked_until <= now() FROM identity.local_admins WHERE name = $1",
        params, BASE_ARRAY_LEN(params), &rows, err);
    size_t n = 0;

    if (rc != BASE_OK || base_pg_n_rows(rows) == 0)
        return rc;
    if (strlen(base_pg_text(rows, 0, 0)) < sizeof(a->hash)) {
        unsigned char *sealed = base_pg_bytes(rows, 0, 1, &n);

        a->known = sealed != NULL && n == sizeof(a->sealed);
        if (a->known) {
            memcpy(a->sealed, sealed, n);
            strcpy(a->hash, base_pg_text(rows, 0, 0));
        }
        free(sealed);
    }
    a->totp_used = base_pg_int(rows, 0, 2);
    a->usable = CHECK("local.disabled", strcmp(base_pg_text(rows, 0, 3), "t") == 0) &&
                CHECK("local.locked", strcmp(base_pg_text(rows, 0, 4), "t") == 0);
    return BASE_OK;
}

/* Uses the code up. */
static enum base_code work_accept(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct attempt *a = arg;
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char step[24];
    const struct base_pg_param params[] = {PG_TEXT(a->name), PG_TEXT(step)};
    enum base_code rc;

    snprintf(step, sizeof(step), "%lld", (long long)a->step);
    rc = base_pg_exec(
        pg,
        "UPDATE identity.local_admins SET totp_used = $2::bigint, failures = 0, locked_until = NULL "
        "WHERE name = $1 AND totp_used < $2::bigint RETURNING 1",
        params, BASE_ARRAY_LEN(params), &rows, err);
    if (rc == BASE_OK && !CHECK("local.code_race", base_pg_n_rows(rows) == 1))
        return base_fail(err, BASE_DENIED, 0, "the code has been used");
    return rc;
}

/* Counts the failure; a name that does not exist takes the same statement. */
static enum base_code work_fail(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct attempt *a = arg;
    const struct base_pg_param params[] = {PG_TEXT(a->name)};

    return base_pg_exec(pg,
                        "UPDATE identity.local_admins SET failures = least(failures + 1, 1000), "
                        "locked_until = CASE WHEN failures + 1 > 5 THEN now() + least(interval '15 minutes', "
                        "interval '1 second' * (2 ^ least(failures + 1 - 5, 12))) END WHERE name = $1",
                        params, BASE_ARRAY_LEN(params), NULL, err);
}

/* ---- steps ---- */

static void on_failure_counted(enum base_code rc, void *arg)
{
    (void)rc;
    if (!too_late(arg))
        refused(arg);
}

static void send_signed_in(struct attempt *a)
{
    char cookie[GW_SET_COOKIE_MAX];
    const struct gw_header headers[] = {{"set-cookie", cookie},
                                        {"location", "/"},
                                        {"cache-control", "no-store"},
                                        {"referrer-policy", "no-referrer"}};

    gw_cookie_render(a->token, a->local->auth->options.session_absolute_s, cookie);
    gw_http_send(a->visit.http, 303, headers, BASE_ARRAY_LEN(headers), "", 0);
    base_wipe(cookie, sizeof(cookie));
}

static void succeed(struct attempt *a)
{
    if (record(a->local, "local.sign_in", &a->session.who, a->session.who.credential_id) &&
        a->visit.http != NULL) {
        count_sign_in("ok");
        send_signed_in(a);
        gw_visit_over(&a->visit);
        return;
    }
    gw_sessions_discard(a->local->auth->options.sessions, a->visit.loop, a->token);
    unavailable(a);
}

static void old_revoked(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct attempt *a = user;

    (void)none;
    if (too_late(a))
        return;
    if (rc == BASE_OK) {
        gw_sessions_discard(a->local->auth->options.sessions, a->visit.loop, a->old_token);
        record(a->local, "session.end", &a->session.who, a->old_id);
    }
    succeed(a);
}

static void old_known(enum base_code rc, const struct gw_session_record *old, void *user)
{
    struct attempt *a = user;

    if (too_late(a))
        return;
    if (rc != BASE_OK) { /* none, or it cannot be found: it ends by its limits */
        succeed(a);
        return;
    }
    snprintf(a->old_id, sizeof(a->old_id), "%s", old->who.credential_id);
    gw_auth_end_session(a->local->auth, a->visit.loop, a->old_id, "signed in anew", old_revoked, a);
}

static void on_started(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct attempt *a = user;

    if (too_late(a))
        return;
    if (rc != BASE_OK) {
        unavailable(a);
        return;
    }
    a->session.who = session->who;
    base_log(BASE_LOG_WARN, "local.signed_in", "a local administrator signed in", LOG_STR("name", a->name),
             LOG_STR("from", a->from));
    if (a->old_token[0] != '\0')
        gw_sessions_get(a->local->auth->options.sessions, a->visit.loop, a->old_token, old_known, a);
    else
        succeed(a);
}

static void on_accepted(enum base_code rc, void *arg)
{
    struct attempt *a = arg;
    struct gw_auth *auth = a->local->auth;

    if (too_late(a))
        return;
    if (rc == BASE_DENIED) {
        refused(a);
        return;
    }
    if (rc != BASE_OK ||
        gw_principal_fill(&a->session.who, GW_LOCAL_ISSUER, a->name, "default", "admin") != BASE_OK) {
        unavailable(a);
        return;
    }
    forgive(a->local, a);
    snprintf(a->session.from, sizeof(a->session.from), "%s", a->from);
    snprintf(a->session.provider, sizeof(a->session.provider), "%s", GW_LOCAL_PROVIDER);
    gw_token_create(auth->options.key_pepper, GW_TOKEN_SESSION, a->token);
    gw_sessions_start(auth->options.sessions, a->visit.loop, a->token, &a->session, on_started, a);
}

static void on_hashed(void *arg)
{
    struct attempt *a = arg;
    struct gw_store *store = a->local->auth->options.store;

    if (too_late(a))
        return;
    if (a->step != 0)
        gw_store_run(store, a->visit.loop, work_accept, on_accepted, a);
    else
        gw_store_run(store, a->visit.loop, work_fail, on_failure_counted, a);
}

static void hash_job(void *arg, void *thread_state)
{
    struct attempt *a = arg;
    unsigned char secret[GW_TOTP_SECRET_BYTES] = {0};
    enum base_code rc =
        base_password_verify(a->known ? a->hash : a->local->dummy, a->password, strlen(a->password));
    bool sealed = a->known &&
                  gw_local_unseal(a->local->auth->options.key_pepper, a->name, a->sealed, secret) == BASE_OK;
    int64_t step = gw_totp_check(secret, a->code, base_wall_us() / 1000000, a->totp_used);

    (void)thread_state;
    a->step = rc == BASE_OK && sealed && a->usable ? step : 0;
    base_wipe(secret, sizeof(secret));
    base_wipe(a->password, sizeof(a->password));
    gw_loop_post(a->visit.loop, on_hashed, a);
}

static void on_loaded(enum base_code rc, void *arg)
{
    struct attempt *a = arg;

    if (too_late(a))
        return;
    if (rc != BASE_OK || base_workers_submit(a->local->workers, hash_job, a) != BASE_OK)
        unavailable(a);
}

/* ---- the request ---- */

static bool is_form(struct gw_http *http)
{
    static const char form[] = "application/x-www-form-urlencoded";
    size_t len = 0;
    const char *type = gw_http_header(http, "content-type", &len);

    return type != NULL && len >= sizeof(form) - 1 &&
           base_ascii_ieq(type, sizeof(form) - 1, form, sizeof(form) - 1) &&
           (len == sizeof(form) - 1 || type[sizeof(form) - 1] == ';' || type[sizeof(form) - 1] == ' ');
}

static bool enabled(const struct gw_local *local)
{
    const struct gw_auth_options *o = &local->auth->options;
    uint64_t generation;
    struct pol_snapshot *policy = o->policy != NULL ? o->policy(&generation, o->policy_user) : NULL;
    bool on = policy != NULL && pol_identity(policy)->break_glass;

    pol_unref(policy);
    return on;
}

static void post(struct gw_local *local, struct gw_http *http)
{
    struct attempt *a = base_zalloc(sizeof(*a));
    size_t len = 0;
    const char *body = gw_http_body(http, &len);

    *a = (struct attempt){.local = local};
    gw_visit_begin(&a->visit, http, attempt_free, a);
    snprintf(a->from, sizeof(a->from), "%s", gw_http_peer(http));
    if (!CHECK("local.origin", gw_auth_origin_ours(local->auth, http, true)) ||
        !CHECK("local.form", is_form(http)) ||
        gw_form_get(body, len, "name", a->name, sizeof(a->name)) != BASE_OK || !gw_role_valid(a->name) ||
        gw_form_get(body, len, "password", a->password, sizeof(a->password)) != BASE_OK ||
        gw_form_get(body, len, "code", a->code, sizeof(a->code)) != BASE_OK) {
        record(local, "local.refuse", NULL, "");
        count_sign_in("refused");
        send_refused(http);
        gw_visit_over(&a->visit);
        return;
    }
    a->name_bucket = bucket_of(local, "name", a->name);
    a->address_bucket = bucket_of(local, "address", a->from);
    if (!admit(local, a)) {
        record(local, "local.refuse", NULL, "");
        count_sign_in("limited");
        send_form(http, 429, "Too many attempts. Wait a while before the next.");
        gw_visit_over(&a->visit);
        return;
    }
    gw_auth_old_token(local->auth, http, a->old_token);
    gw_store_run(local->auth->options.store, a->visit.loop, work_load, on_loaded, a);
}

bool gw_local_handle(struct gw_local *local, struct gw_http *http)
{
    static const struct gw_header allow = {"allow", "GET, POST"};

    if (strcmp(gw_http_path(http), "/auth/local") != 0 || local == NULL ||
        !CHECK("local.enabled", enabled(local)))
        return false;
    if (strcmp(gw_http_method(http), "GET") == 0)
        send_form(http, 200, "For the day when your identity provider is away. Every attempt is recorded.");
    else if (strcmp(gw_http_method(http), "POST") == 0)
        post(local, http);
    else
        gw_http_send(http, 405, &allow, 1, "", 0);
    return true;
}

/* ---- switched off ---- */

bool gw_local_may_stay(const struct pol_snapshot *policy, const char *provider)
{
    return CHECK("local.session_off",
                 strcmp(provider, GW_LOCAL_PROVIDER) != 0 || pol_identity(policy)->break_glass);
}

/* Those who came in within the absolute limit: the step of the last code says when. */
static enum base_code work_end_all(struct base_pg *pg, void *arg, struct base_err *err)
{
    const struct gw_local *local = arg;
    const struct gw_auth_options *o = &local->auth->options;
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char since[24];
    const struct base_pg_param params[] = {PG_TEXT(since)};
    enum base_code rc;

    snprintf(since, sizeof(since), "%lld",
             (long long)(base_wall_us() / 1000000 - o->session_absolute_s) / GW_TOTP_STEP_S - STEP_SLACK);
    rc = base_pg_exec(pg, "SELECT name FROM identity.local_admins WHERE totp_used >= $1::bigint", params,
                      BASE_ARRAY_LEN(params), &rows, err);
    for (unsigned i = 0; rc == BASE_OK && i < base_pg_n_rows(rows); i++) {
        const char *name = base_pg_text(rows, i, 0);
        const struct gw_revoke_new revoke = {
            .kind = GW_REVOCATION_PERSON,
            .tag = gw_tag(o->key_pepper, GW_TAG_PERSON, GW_LOCAL_ISSUER, name, NULL),
            .reason = "break_glass was switched off",
            .keep_s = o->session_absolute_s,
            .key_issuer = GW_LOCAL_ISSUER,
            .key_subject = name};
        struct gw_revocation revocation;

        rc = gw_sql_revoke(pg, &revoke, &revocation, err); /* the store's watcher brings it, here too */
    }
    return rc;
}

static void on_all_ended(enum base_code rc, void *arg)
{
    struct gw_local *local = arg;

    if (!atomic_load(&local->stopping))
        record(local, rc == BASE_OK ? "local.off" : "local.off_failed", NULL, "");
}

void gw_local_end_all(struct gw_local *local, struct gw_loop *loop)
{
    gw_store_run(local->auth->options.store, loop, work_end_all, on_all_ended, local);
}

struct gw_local *gw_local_new(struct gw_auth *auth)
{
    struct gw_local *local = base_zalloc(sizeof(*local));
    unsigned char noise[16];
    char password[33];

    local->auth = auth;
    pthread_mutex_init(&local->lock, NULL);
    base_random(noise, sizeof(noise));
    base_hex_encode(noise, sizeof(noise), password);
    /* without memory for it nobody is signed in either: an empty hash verifies nothing */
    if (base_password_hash(password, strlen(password), local->dummy, NULL) != BASE_OK)
        local->dummy[0] = '\0';
    local->workers =
        base_workers_new(&(struct base_workers_options){.n_threads = THREADS, .queue_max = QUEUE});
    return local;
}

void gw_local_stop(struct gw_local *local)
{
    if (local == NULL)
        return;
    atomic_store(&local->stopping, true);
    base_workers_free(local->workers);
    local->workers = NULL;
}

void gw_local_free(struct gw_local *local)
{
    if (local == NULL)
        return;
    gw_local_stop(local);
    pthread_mutex_destroy(&local->lock);
    free(local);
}
