/* Sessions. See sessions.h.
 *
 *     gh:session:{hash}    the sealed record; time to live: the idle limit
 *     gh:refresh:{hash}    held while one request refreshes the session; LOCK_MS
 *     gh:person:{tag}      a hash of session name -> token hash, for listing; goes with the last session's absolute end
 *
 *     start          index, SET NX --------------------------------------------> done
 *     identify, get  [memory] GET -> seal -> limits -> revocations -> touch ---> done
 *     rotate_begin   SET NX lock -> get ---------------------------------------> done
 *     rotate_end     SET NX new --> Postgres: the old token is over -----------> done   (else: DEL new)
 *     revoke         Postgres --> the set in memory (cuts what is live here) --> done
 *
 * Invariants:
 *   1. a record from Redis is used only after `usable`: sealed for this hash, within both limits, not revoked;
 *   2. the limits stand inside the seal: an older copy of a record, put back, is idle sooner, never longer;
 *   3. touch writes only over what is there (XX): what was deleted does not come back by it;
 *   4. an op is freed when its last answer has come, forgotten or not; `forgotten` silences it.
 */
#include "gateway/sessions.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/app.h"
#include "gateway/redis.h"
#include "gateway/revocations.h"
#include "gateway/session.h"
#include "gateway/session_cache.h"
#include "gateway/session_seal.h"
#include "gateway/store.h"
#include "gateway/tags.h"

#include <stdio.h>
#include <string.h>

#define KEY_MAX         96u
#define HEX_HASH        (2u * BASE_SHA256_BYTES)
#define REDIS_MS        250u
#define LOCK_MS         "20000" /* longer than a provider is waited for */
#define TOUCH_PARTS     60      /* seen_us is written once in a sixtieth of the idle limit */
#define LIST_MAX        1000u   /* of one person */
#define PAGE_KEYS       "250"   /* that Redis looks at for one SCAN */
#define PAGE_FULL       500u    /* a page ends after the SCAN that has filled it, */
#define PAGE_SCANS_MAX  100u    /* or after as many that have not */
#define API_LIFE_S      86400u  /* a bearer token from before a revocation may be brought for so long */
#define US              INT64_C(1000000)
#define SESSION_PREFIX  "gh:session:"
#define REASON_MAX      128u
#define USE_ONCE_DOMAIN "gatehouse once v1:"

struct gw_sessions {
    struct gw_sessions_options options;
    char *redis_url;
    unsigned char key[BASE_GCM_KEY_BYTES];
    struct gw_session_cache *cache;
    struct gw_redis *redis[GW_LOOPS_MAX]; /* each its loop's */
};

struct found { /* of a list */
    struct gw_session_record record;
    unsigned char hash[BASE_SHA256_BYTES];
};

struct gw_sessions_op {
    struct gw_sessions *sessions;
    struct gw_loop *loop;
    bool forgotten;
    unsigned char hash[BASE_SHA256_BYTES], new_hash[BASE_SHA256_BYTES];
    struct gw_session_record record; /* owned */
    gw_sessions_fn *done;
    gw_session_who_fn *who_done;
    gw_session_each_fn *each;
    void *user;
    bool in_call; /* the function that made it has not returned: it frees */
    bool ended;
    /* revoke, use_once: between submit and done the worker's */
    struct gw_revoke_new revoke;
    struct gw_revocation revocation;
    char reason[REASON_MAX + 1], key_issuer[GW_ISSUER_MAX], key_subject[GW_SUBJECT_MAX];
    char kind[32];
    int64_t until_s;
    /* list */
    struct found *found;
    unsigned n_found, at;
    gw_session_page_fn *page_done;
    unsigned n_scans;
    char next[GW_SESSION_CURSOR_MAX];
};

/* ---- ops ---- */

static struct gw_sessions_op *op_new(struct gw_sessions *sessions, struct gw_loop *loop, void *user)
{
    struct gw_sessions_op *op = base_zalloc(sizeof(*op));

    op->sessions = sessions;
    op->loop = loop;
    op->user = user;
    op->in_call = true;
    return op;
}

/* Not inlined: gcc 12 then follows op_end's free into op_handle, on a way that in_call closes, and warns. */
__attribute__((noinline)) static void op_free(struct gw_sessions_op *op)
{
    for (unsigned i = 0; i < op->n_found; i++)
        gw_session_record_free(&op->found[i].record);
    free(op->found);
    gw_session_record_free(&op->record);
    free(op);
}

static void op_end(struct gw_sessions_op *op, enum base_code rc)
{
    if (!op->forgotten && op->done != NULL)
        op->done(rc, rc == BASE_OK ? &op->record : NULL, op->user);
    if (!op->forgotten && op->page_done != NULL)
        op->page_done(rc, op->next, op->user);
    op->ended = true;
    if (!op->in_call)
        op_free(op);
}

/* To end the function that made it with: the handle, or NULL when it was all done at once. */
static struct gw_sessions_op *op_handle(struct gw_sessions_op *op)
{
    op->in_call = false;
    if (!op->ended)
        return op;
    op_free(op);
    return NULL;
}

void gw_sessions_forget(struct gw_sessions_op *op)
{
    if (op != NULL)
        op->forgotten = true;
}

/* ---- Redis ---- */

static struct gw_redis *redis_of(const struct gw_sessions_op *op)
{
    return op->sessions->redis[gw_loop_index(op->loop)];
}

static const char *key_of(const char *prefix, const unsigned char *hash, char out[KEY_MAX])
{
    size_t n = strlen(prefix);

    memcpy(out, prefix, n);
    base_hex_encode(hash, BASE_SHA256_BYTES, out + n);
    return out;
}

static const char *session_key(const unsigned char *hash, char out[KEY_MAX])
{
    return key_of(SESSION_PREFIX, hash, out);
}

static const char *lock_key(const unsigned char *hash, char out[KEY_MAX])
{
    return key_of("gh:refresh:", hash, out);
}

static const char *person_key(const struct gw_sessions_op *op, const char *issuer, const char *subject,
                              char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "gh:person:%016llx",
             (unsigned long long)gw_tag(op->sessions->options.pepper, GW_TAG_PERSON, issuer, subject, NULL));
    return out;
}

/* Nobody waits for it. */
static void on_ignored(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    (void)rc;
    (void)value;
    (void)user;
}

static void command(const struct gw_sessions_op *op, const struct gw_redis_bytes *args, size_t n_args,
                    gw_redis_value_fn *done, void *user)
{
    struct gw_redis *redis = redis_of(op);

    if (redis != NULL)
        gw_redis_command(redis, args, (unsigned)n_args, done, user);
    else /* the loop has ended, an answer from Postgres came after it */
        done(BASE_UNAVAILABLE, NULL, user);
}

#define COMMAND(op, done, user, ...)                                 \
    do {                                                             \
        const struct gw_redis_bytes args_[] = {__VA_ARGS__};         \
        command((op), args_, BASE_ARRAY_LEN(args_), (done), (user)); \
    } while (0)
#define T(s) GW_REDIS_TEXT_ARG(s)

static void delete_session(const struct gw_sessions_op *op, const unsigned char *hash)
{
    char key[KEY_MAX], lock[KEY_MAX];

    COMMAND(op, on_ignored, NULL, T("DEL"), T(session_key(hash, key)), T(lock_key(hash, lock)));
}

/* Puts op->record under a hash. mode: NX or XX. */
static void put_record(struct gw_sessions_op *op, const unsigned char *hash, const char *mode,
                       gw_redis_value_fn *done, void *user)
{
    auto_buf struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);
    enum base_code rc = gw_session_seal(op->sessions->key, hash, &op->record, &sealed);
    char key[KEY_MAX], idle[16];

    if (rc != BASE_OK) {
        done(rc, NULL, user);
        return;
    }
    snprintf(idle, sizeof(idle), "%u", op->sessions->options.idle_s);
    COMMAND(op, done, user, T("SET"), T(session_key(hash, key)), {sealed.data, sealed.len}, T("EX"), T(idle),
            T(mode));
}

static void index_record(struct gw_sessions_op *op, const unsigned char *hash)
{
    char key[KEY_MAX], hex[HEX_HASH + 1], absolute[16];

    person_key(op, op->record.who.issuer, op->record.who.subject, key);
    base_hex_encode(hash, BASE_SHA256_BYTES, hex);
    snprintf(absolute, sizeof(absolute), "%u", op->sessions->options.absolute_s);
    COMMAND(op, on_ignored, NULL, T("HSET"), T(key), T(op->record.who.credential_id), T(hex));
    COMMAND(op, on_ignored, NULL, T("EXPIRE"), T(key), T(absolute));
}

/* ---- what a record must be ---- */

/* A provider's logout names the person by NameID. An ID token, the other kind of hint, has no newline. */
static uint64_t name_id_tag(const struct base_secret *pepper, const struct gw_session_record *record)
{
    const char *hint = record->logout_hint, *end = hint != NULL ? strchr(hint, '\n') : NULL;
    char name_id[GW_SUBJECT_MAX];

    if (end == NULL || (size_t)(end - hint) >= sizeof(name_id) || end == hint)
        return 0;
    memcpy(name_id, hint, (size_t)(end - hint));
    name_id[end - hint] = '\0';
    return gw_tag(pepper, GW_TAG_PERSON, record->who.issuer, name_id, NULL);
}

static void fill_tags(const struct gw_sessions *sessions, struct gw_session_record *record)
{
    const struct base_secret *pepper = sessions->options.pepper;

    gw_tags_fill(pepper, &record->who);
    record->who.sid_tag =
        record->sid[0] != '\0' ? gw_tag(pepper, GW_TAG_SID, record->who.issuer, record->sid, NULL) : 0;
    record->who.directory_tag = gw_tag(pepper, GW_TAG_DIRECTORY, record->directory_key, NULL, NULL);
    record->who.name_id_tag = name_id_tag(pepper, record);
}

static uint64_t token_tag(const struct gw_sessions *sessions, const unsigned char *hash)
{
    char hex[HEX_HASH + 1];

    base_hex_encode(hash, BASE_SHA256_BYTES, hex);
    return gw_tag(sessions->options.pepper, GW_TAG_TOKEN, hex, NULL, NULL);
}

bool gw_sessions_revoked(struct gw_sessions *sessions, const struct gw_principal *who, int64_t since_us)
{
    struct gw_revocations *set = sessions->options.revocations;
    uint64_t session = who->method == GW_AUTH_SESSION
                           ? gw_tag(sessions->options.pepper, GW_TAG_SESSION, who->credential_id, NULL, NULL)
                           : 0;

    return !CHECK("session.not_revoked", !gw_revocations_meet(set, GW_REVOCATION_SESSION, session, 0)) ||
           !CHECK("session.person_not_revoked",
                  !gw_revocations_meet(set, GW_REVOCATION_PERSON, who->person_tag, since_us)) ||
           !CHECK("session.name_id_not_revoked",
                  !gw_revocations_meet(set, GW_REVOCATION_PERSON, who->name_id_tag, since_us)) ||
           !CHECK("session.sid_not_revoked", !gw_revocations_meet(set, GW_REVOCATION_SID, who->sid_tag, 0)) ||
           !CHECK("session.key_not_revoked",
                  !gw_revocations_meet(set, GW_REVOCATION_KEY, who->directory_tag, since_us));
}

bool gw_sessions_meets(struct gw_sessions *sessions, const struct gw_principal *who,
                       const struct gw_revocation *revocation)
{
    const struct base_secret *pepper = sessions->options.pepper;

    switch (revocation->kind) {
    case GW_REVOCATION_SESSION:
        return who->method == GW_AUTH_SESSION &&
               gw_tag(pepper, GW_TAG_SESSION, who->credential_id, NULL, NULL) == revocation->tag;
    case GW_REVOCATION_PERSON:
        return (who->person_tag == revocation->tag || who->name_id_tag == revocation->tag) &&
               who->since_us <= revocation->at_us;
    case GW_REVOCATION_SID: return who->sid_tag == revocation->tag;
    case GW_REVOCATION_KEY:
        return who->directory_tag == revocation->tag && who->since_us <= revocation->at_us;
    case GW_REVOCATION_TOKEN:
    case GW_REVOCATION_NONE: break;
    }
    return false;
}

static bool token_over(struct gw_sessions *sessions, const unsigned char *hash)
{
    return !CHECK("session.token_not_rotated",
                  !gw_revocations_meet(sessions->options.revocations, GW_REVOCATION_TOKEN,
                                       token_tag(sessions, hash), 0));
}

static int64_t idle_end_us(const struct gw_sessions *sessions, const struct gw_session_record *record)
{
    return record->seen_us + (int64_t)sessions->options.idle_s * US;
}

/* Opens what Redis gave into *record and checks it. BASE_DENIED: there is no such session now. */
static enum base_code usable(struct gw_sessions *sessions, const unsigned char *hash,
                             const struct gw_redis_value *value, struct gw_session_record *record)
{
    int64_t now_us = base_wall_us();

    if (value->kind != GW_REDIS_TEXT ||
        gw_session_open(sessions->key, hash, value->bytes, value->len, record) != BASE_OK)
        return BASE_DENIED;
    fill_tags(sessions, record);
    if (!CHECK("session.idle", now_us < idle_end_us(sessions, record)) ||
        !CHECK("session.absolute", now_us < record->expires_at_us) ||
        gw_sessions_revoked(sessions, &record->who, record->who.since_us) || token_over(sessions, hash))
        return BASE_DENIED;
    return BASE_OK;
}

static void touch(struct gw_sessions_op *op)
{
    int64_t now_us = base_wall_us();

    if (now_us - op->record.seen_us < (int64_t)op->sessions->options.idle_s * US / TOUCH_PARTS)
        return;
    op->record.seen_us = now_us;
    put_record(op, op->hash, "XX", on_ignored, NULL);
}

/* ---- start ---- */

static void on_put(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    if (rc == BASE_OK && value->kind == GW_REDIS_NIL)
        rc = BASE_EXISTS;
    op_end(user, rc);
}

static enum base_code copy_record(struct gw_session_record *out, const struct gw_session_record *record)
{
    *out = *record;
    out->refresh_token = record->refresh_token != NULL ? base_strdup(record->refresh_token) : NULL;
    out->logout_hint = record->logout_hint != NULL ? base_strdup(record->logout_hint) : NULL;
    return record->who.issuer[0] != '\0' && record->who.subject[0] != '\0' && record->who.tenant[0] != '\0'
               ? BASE_OK
               : BASE_INVALID;
}

static void hash_of(const struct gw_sessions *sessions, const char *token, unsigned char *out)
{
    gw_token_hash(sessions->options.pepper, GW_TOKEN_SESSION, token, out);
}

struct gw_sessions_op *gw_sessions_start(struct gw_sessions *sessions, struct gw_loop *loop,
                                         const char *token, const struct gw_session_record *record,
                                         gw_sessions_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);
    struct gw_session_record *r = &op->record;
    int64_t now_us = base_wall_us(), end_us = now_us + (int64_t)sessions->options.absolute_s * US;
    unsigned char name[GW_SESSION_ID_LEN / 2];

    op->done = done;
    hash_of(sessions, token, op->hash);
    if (copy_record(r, record) != BASE_OK) {
        op_end(op, BASE_INVALID);
        return op_handle(op);
    }
    base_random(name, sizeof(name));
    base_hex_encode(name, sizeof(name), r->who.credential_id);
    r->who.method = GW_AUTH_SESSION;
    r->started_us = r->seen_us = now_us;
    if (r->who.since_us == 0) /* who knows better says so: when the provider's answer was made */
        r->who.since_us = now_us;
    if (r->expires_at_us == 0 || r->expires_at_us > end_us)
        r->expires_at_us = end_us;
    fill_tags(sessions, r);
    if (gw_sessions_revoked(sessions, &r->who, r->who.since_us)) {
        op_end(op, BASE_DENIED);
        return op_handle(op);
    }
    index_record(op, op->hash);
    put_record(op, op->hash, "NX", on_put, op);
    return op_handle(op);
}

void gw_sessions_discard(struct gw_sessions *sessions, struct gw_loop *loop, const char *token)
{
    const struct gw_sessions_op op = {.sessions = sessions, .loop = loop};
    unsigned char hash[BASE_SHA256_BYTES];

    hash_of(sessions, token, hash);
    delete_session(&op, hash);
}

/* ---- identify, get ---- */

static void tell_who(struct gw_sessions *sessions, const struct gw_session_known *known,
                     gw_session_who_fn *done, void *user)
{
    const struct gw_sessions_options *o = &sessions->options;
    struct gw_principal who = known->who;
    enum base_code rc =
        o->refine != NULL ? o->refine(&who, known->provider, known->directory_key, o->refine_user) : BASE_OK;

    done(rc, rc == BASE_OK ? &who : NULL, known->refresh_at_us != 0 && base_wall_us() >= known->refresh_at_us,
         user);
}

static void remember(struct gw_sessions_op *op, struct gw_session_known *known)
{
    const struct gw_session_record *r = &op->record;
    int64_t idle_us = idle_end_us(op->sessions, r);
    int64_t end_us = idle_us < r->expires_at_us ? idle_us : r->expires_at_us;
    int64_t left_us = end_us - base_wall_us();

    *known = (struct gw_session_known){.who = r->who, .refresh_at_us = r->refresh_at_us};
    memcpy(known->provider, r->provider, sizeof(known->provider));
    memcpy(known->directory_key, r->directory_key, sizeof(known->directory_key));
    if (left_us > 0)
        gw_session_cache_put(op->sessions->cache, op->hash, known, (uint64_t)left_us / 1000);
}

static void on_got(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    struct gw_sessions_op *op = user;
    struct gw_session_known known;

    if (rc == BASE_OK)
        rc = usable(op->sessions, op->hash, value, &op->record);
    if (rc == BASE_OK) {
        touch(op);
        remember(op, &known);
    }
    if (op->who_done != NULL && !op->forgotten) {
        if (rc == BASE_OK)
            tell_who(op->sessions, &known, op->who_done, op->user);
        else
            op->who_done(rc, NULL, false, op->user);
    }
    op_end(op, rc);
}

static void get_record(struct gw_sessions_op *op)
{
    char key[KEY_MAX];

    COMMAND(op, on_got, op, T("GET"), T(session_key(op->hash, key)));
}

struct gw_sessions_op *gw_sessions_identify(struct gw_sessions *sessions, struct gw_loop *loop,
                                            const char *token, gw_session_who_fn *done, void *user)
{
    unsigned char hash[BASE_SHA256_BYTES];
    struct gw_session_known known;
    struct gw_sessions_op *op;

    hash_of(sessions, token, hash);
    if (gw_session_cache_get(sessions->cache, hash, &known)) {
        if (gw_sessions_revoked(sessions, &known.who, known.who.since_us) || token_over(sessions, hash))
            done(BASE_DENIED, NULL, false, user);
        else
            tell_who(sessions, &known, done, user);
        return NULL;
    }
    op = op_new(sessions, loop, user);
    memcpy(op->hash, hash, sizeof(hash));
    op->who_done = done;
    get_record(op);
    return op_handle(op);
}

struct gw_sessions_op *gw_sessions_get(struct gw_sessions *sessions, struct gw_loop *loop, const char *token,
                                       gw_sessions_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);

    op->done = done;
    hash_of(sessions, token, op->hash);
    get_record(op);
    return op_handle(op);
}

/* ---- rotate ---- */

static void on_locked(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    struct gw_sessions_op *op = user;

    if (rc == BASE_OK && value->kind == GW_REDIS_NIL)
        rc = BASE_EXISTS;
    if (rc == BASE_OK)
        get_record(op);
    else
        op_end(op, rc);
}

struct gw_sessions_op *gw_sessions_rotate_begin(struct gw_sessions *sessions, struct gw_loop *loop,
                                                const char *token, gw_sessions_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);
    char key[KEY_MAX];

    op->done = done;
    hash_of(sessions, token, op->hash);
    COMMAND(op, on_locked, op, T("SET"), T(lock_key(op->hash, key)), T("1"), T("PX"), T(LOCK_MS), T("NX"));
    return op_handle(op);
}

void gw_sessions_rotate_cancel(struct gw_sessions *sessions, struct gw_loop *loop, const char *token)
{
    struct gw_sessions_op *op = op_new(sessions, loop, NULL);
    char key[KEY_MAX];

    hash_of(sessions, token, op->hash);
    COMMAND(op, on_ignored, NULL, T("DEL"), T(lock_key(op->hash, key)));
    op_free(op);
}

static enum base_code work_revoke(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct gw_sessions_op *op = arg;

    return gw_sql_revoke(pg, &op->revoke, &op->revocation, err);
}

static void on_old_over(enum base_code rc, void *arg)
{
    struct gw_sessions_op *op = arg;

    if (rc == BASE_OK) {
        gw_revocations_add(op->sessions->options.revocations, &op->revocation, base_wall_us());
        delete_session(op, op->hash);
    } else {
        delete_session(op, op->new_hash);
        rc = BASE_UNAVAILABLE;
    }
    op_end(op, rc);
}

static void on_new_put(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    struct gw_sessions_op *op = user;

    if (rc == BASE_OK && value->kind == GW_REDIS_NIL)
        rc = BASE_EXISTS;
    if (rc == BASE_OK)
        gw_store_run(op->sessions->options.store, op->loop, work_revoke, on_old_over, op);
    else
        op_end(op, rc);
}

static unsigned keep_s(const struct gw_sessions *sessions)
{
    return sessions->options.absolute_s > API_LIFE_S ? sessions->options.absolute_s : API_LIFE_S;
}

struct gw_sessions_op *gw_sessions_rotate_end(struct gw_sessions *sessions, struct gw_loop *loop,
                                              const char *token, const char *new_token,
                                              const struct gw_session_record *record, gw_sessions_fn *done,
                                              void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);

    op->done = done;
    hash_of(sessions, token, op->hash);
    hash_of(sessions, new_token, op->new_hash);
    if (copy_record(&op->record, record) != BASE_OK) {
        op_end(op, BASE_INVALID);
        return op_handle(op);
    }
    op->record.seen_us = base_wall_us();
    fill_tags(sessions, &op->record);
    op->revoke = (struct gw_revoke_new){.kind = GW_REVOCATION_TOKEN,
                                        .tag = token_tag(sessions, op->hash),
                                        .reason = "rotated",
                                        .keep_s = keep_s(sessions)};
    index_record(op, op->new_hash);
    put_record(op, op->new_hash, "NX", on_new_put, op);
    return op_handle(op);
}

/* ---- revoke, use once ---- */

static void on_revoked(enum base_code rc, void *arg)
{
    struct gw_sessions_op *op = arg;

    if (rc == BASE_OK)
        gw_revocations_add(op->sessions->options.revocations, &op->revocation, base_wall_us());
    op_end(op, rc);
}

/* False: what is named is empty or too long to be a name. */
static bool name_revocation(struct gw_sessions_op *op, enum gw_revoke_kind kind, const char *a, const char *b)
{
    const struct base_secret *pepper = op->sessions->options.pepper;
    struct gw_revoke_new *r = &op->revoke;

    if (a[0] == '\0' || strlen(a) >= GW_SUBJECT_MAX || strlen(b) >= GW_SUBJECT_MAX)
        return false;
    switch (kind) {
    case GW_REVOKE_SESSION:
        r->kind = GW_REVOCATION_SESSION;
        r->tag = gw_tag(pepper, GW_TAG_SESSION, a, NULL, NULL);
        return true;
    case GW_REVOKE_PERSON:
        r->kind = GW_REVOCATION_PERSON;
        r->tag = gw_tag(pepper, GW_TAG_PERSON, a, b, NULL);
        snprintf(op->key_issuer, sizeof(op->key_issuer), "%s", a);
        snprintf(op->key_subject, sizeof(op->key_subject), "%s", b);
        r->key_issuer = op->key_issuer;
        r->key_subject = op->key_subject;
        return b[0] != '\0' && strlen(a) < GW_ISSUER_MAX;
    case GW_REVOKE_SID:
        r->kind = GW_REVOCATION_SID;
        r->tag = gw_tag(pepper, GW_TAG_SID, a, b, NULL);
        return b[0] != '\0';
    case GW_REVOKE_KEY:
        r->kind = GW_REVOCATION_KEY;
        r->tag = gw_tag(pepper, GW_TAG_DIRECTORY, a, NULL, NULL);
        snprintf(op->key_subject, sizeof(op->key_subject), "%s", a);
        r->key_subject = op->key_subject;
        return true;
    case GW_REVOKE_NONE: break;
    }
    return false;
}

struct gw_sessions_op *gw_sessions_revoke(struct gw_sessions *sessions, struct gw_loop *loop,
                                          enum gw_revoke_kind kind, const char *a, const char *b,
                                          const char *reason, gw_sessions_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);

    op->done = done;
    snprintf(op->reason, sizeof(op->reason), "%s", reason);
    op->revoke.reason = op->reason;
    op->revoke.keep_s = keep_s(sessions);
    if (name_revocation(op, kind, a, b))
        gw_store_run(sessions->options.store, loop, work_revoke, on_revoked, op);
    else
        op_end(op, BASE_INVALID);
    return op_handle(op);
}

static enum base_code work_use_once(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct gw_sessions_op *op = arg;

    return gw_sql_use_once(pg, op->kind, op->hash, op->until_s, err);
}

static void on_used_once(enum base_code rc, void *arg)
{
    bool first = CHECK("session.once", rc != BASE_EXISTS);

    op_end(arg, first && rc == BASE_EXISTS ? BASE_OK : rc); /* the latter in a mutation build alone */
}

struct gw_sessions_op *gw_sessions_use_once(struct gw_sessions *sessions, struct gw_loop *loop,
                                            const char *kind, const char *value, int64_t until_s,
                                            gw_sessions_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);
    auto_buf struct base_buf message = BASE_BUF_INIT(1u << 20);

    op->done = done;
    op->until_s = until_s;
    snprintf(op->kind, sizeof(op->kind), "%s", kind);
    base_buf_printf(&message, USE_ONCE_DOMAIN "%s:", kind);
    base_buf_append_str(&message, value);
    if (message.failed || value[0] == '\0' || strlen(kind) >= sizeof(op->kind)) {
        op_end(op, BASE_INVALID);
        return op_handle(op);
    }
    base_hmac_sha256(base_secret_bytes(sessions->options.pepper), base_secret_len(sessions->options.pepper),
                     message.data, message.len, op->hash);
    gw_store_run(sessions->options.store, loop, work_use_once, on_used_once, op);
    return op_handle(op);
}

/* ---- list ---- */

static int by_newest(const void *a, const void *b)
{
    int64_t one = ((const struct found *)a)->record.started_us;
    int64_t other = ((const struct found *)b)->record.started_us;

    return one < other ? 1 : one > other ? -1 : 0;
}

static void list_next(struct gw_sessions_op *op);

static void on_one(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    struct gw_sessions_op *op = user;
    struct found *one = &op->found[op->at];

    if (rc != BASE_OK) {
        op_end(op, rc);
        return;
    }
    if (usable(op->sessions, one->hash, value, &one->record) != BASE_OK)
        gw_session_record_free(&one->record); /* over since it was indexed: left out below */
    op->at++;
    list_next(op);
}

static void list_next(struct gw_sessions_op *op)
{
    char key[KEY_MAX];

    if (op->at < op->n_found) {
        COMMAND(op, on_one, op, T("GET"), T(session_key(op->found[op->at].hash, key)));
        return;
    }
    if (op->n_found > 0)
        qsort(op->found, op->n_found, sizeof(*op->found), by_newest);
    for (unsigned i = 0; i < op->n_found && !op->forgotten; i++)
        if (op->found[i].record.started_us != 0)
            op->each(&op->found[i].record, op->found[i].record.who.credential_id, op->user);
    op_end(op, BASE_OK);
}

static void add_found(struct gw_sessions_op *op, const char *hex, size_t len)
{
    struct found *one = &op->found[op->n_found];
    size_t n = 0;

    if (len == HEX_HASH && base_hex_decode(hex, len, one->hash, sizeof(one->hash), &n) == BASE_OK &&
        n == sizeof(one->hash))
        op->n_found++;
}

/* KEYS-like answers of both kinds: HGETALL's name, hash, ...; SCAN's cursor, key, key, ... */
static void on_index(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    struct gw_sessions_op *op = user;

    if (rc == BASE_OK && value->kind != GW_REDIS_LIST)
        rc = BASE_CORRUPT;
    if (rc != BASE_OK) {
        op_end(op, rc);
        return;
    }
    op->found = base_zalloc(LIST_MAX * sizeof(*op->found));
    for (unsigned i = 1; i < value->n_items && op->n_found < LIST_MAX; i += 2)
        add_found(op, value->items[i].bytes, value->items[i].len);
    list_next(op);
}

static void scan(struct gw_sessions_op *op);

static void on_scanned(enum base_code rc, const struct gw_redis_value *value, void *user)
{
    static const size_t prefix = sizeof(SESSION_PREFIX) - 1;
    struct gw_sessions_op *op = user;

    if (rc == BASE_OK && (value->kind != GW_REDIS_LIST || value->n_items == 0 ||
                          value->items[0].kind != GW_REDIS_TEXT || value->items[0].len >= sizeof(op->next)))
        rc = BASE_CORRUPT;
    if (rc != BASE_OK) {
        op_end(op, rc);
        return;
    }
    op->found = base_realloc(op->found, (op->n_found + value->n_items) * sizeof(*op->found));
    memset(op->found + op->n_found, 0, value->n_items * sizeof(*op->found));
    for (unsigned i = 1; i < value->n_items; i++)
        if (value->items[i].len > prefix)
            add_found(op, value->items[i].bytes + prefix, value->items[i].len - prefix);
    snprintf(op->next, sizeof(op->next), "%.*s", (int)value->items[0].len, value->items[0].bytes);
    if (strcmp(op->next, "0") == 0) {
        op->next[0] = '\0';
        list_next(op);
    } else if (op->n_found >= PAGE_FULL || ++op->n_scans == PAGE_SCANS_MAX) {
        list_next(op);
    } else {
        scan(op);
    }
}

static void scan(struct gw_sessions_op *op)
{
    COMMAND(op, on_scanned, op, T("SCAN"), T(op->next), T("MATCH"), T(SESSION_PREFIX "*"), T("COUNT"),
            T(PAGE_KEYS));
}

struct gw_sessions_op *gw_sessions_list(struct gw_sessions *sessions, struct gw_loop *loop,
                                        const char *issuer, const char *subject, gw_session_each_fn *each,
                                        gw_sessions_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);
    char key[KEY_MAX];

    op->done = done;
    op->each = each;
    COMMAND(op, on_index, op, T("HGETALL"), T(person_key(op, issuer, subject, key)));
    return op_handle(op);
}

bool gw_session_cursor_valid(const char *cursor)
{
    size_t len = strlen(cursor);

    return len > 0 && len < GW_SESSION_CURSOR_MAX && strspn(cursor, "0123456789") == len;
}

struct gw_sessions_op *gw_sessions_page(struct gw_sessions *sessions, struct gw_loop *loop,
                                        const char *cursor, gw_session_each_fn *each,
                                        gw_session_page_fn *done, void *user)
{
    struct gw_sessions_op *op = op_new(sessions, loop, user);

    op->page_done = done;
    op->each = each;
    snprintf(op->next, sizeof(op->next), "%s", cursor[0] != '\0' ? cursor : "0");
    scan(op);
    return op_handle(op);
}

/* ---- life ---- */

struct gw_sessions *gw_sessions_new(const struct gw_sessions_options *options)
{
    struct gw_sessions *sessions = base_zalloc(sizeof(*sessions));

    sessions->options = *options;
    sessions->redis_url = base_strdup(options->redis_url);
    sessions->options.redis_url = sessions->redis_url;
    gw_seal_key(options->pepper, sessions->key);
    sessions->cache = gw_session_cache_new(options->cache_ms != 0 ? options->cache_ms : GW_SESSION_CACHE_MS);
    return sessions;
}

void gw_sessions_free(struct gw_sessions *sessions)
{
    if (sessions == NULL)
        return;
    gw_session_cache_free(sessions->cache);
    base_wipe(sessions->key, sizeof(sessions->key));
    base_wipe(sessions->redis_url, strlen(sessions->redis_url)); /* may hold a password */
    free(sessions->redis_url);
    free(sessions);
}

void gw_sessions_loop_start(struct gw_sessions *sessions, struct gw_loop *loop)
{
    const struct gw_sessions_options *o = &sessions->options;
    struct base_err err = {0};

    if (gw_redis_new(&sessions->redis[gw_loop_index(loop)],
                     &(struct gw_redis_options){.loop = loop,
                                                .url = o->redis_url,
                                                .timeout_ms = o->redis_timeout_ms != 0 ? o->redis_timeout_ms
                                                                                       : REDIS_MS},
                     &err) != BASE_OK)
        abort(); /* the URL was checked at start */
}

void gw_sessions_loop_end(struct gw_sessions *sessions, struct gw_loop *loop)
{
    gw_redis_free(sessions->redis[gw_loop_index(loop)]);
    sessions->redis[gw_loop_index(loop)] = NULL;
}
