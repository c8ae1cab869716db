/* SCIM: the requests. See scim.h.
 *
 *     path --> address not blocked --> token --> head --> a worker (scim_work.c) --> answer
 *                                        |
 *                                        +-- an access token: gw_auth_identify, a service account or an administrator
 *
 * Invariant: nothing of a request is looked at before its token is: who has none learns what is public of the gateway.
 */
#include "gateway/scim.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/auth_priv.h"
#include "gateway/directory.h"
#include "gateway/form.h"
#include "gateway/scim_schema.h"
#include "gateway/scim_work.h"
#include "gateway/store.h"
#include "gateway/visit.h"
#include "policy/policy.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define PREFIX         "/scim/v2"
#define ANSWER_MAX     (16u << 20)
#define TOKEN_MIN      24u /* bytes: a token is random, not a word */
#define FAILURES_MAX   20u /* wrong tokens of one address in a window */
#define WINDOW_S       60u
#define THROTTLE_SLOTS 1024u

struct throttle_slot {
    uint64_t address, window_ms; /* when its window began */
    unsigned failures;
};

struct gw_scim {
    struct gw_scim_options options;
    char base_url[300];
    unsigned char address_key[BASE_SHA256_BYTES];
    pthread_mutex_t lock; /* all below */
    bool on, has_token, takes_access_tokens, key_is_external_id;
    unsigned char token_hash[BASE_SHA256_BYTES];
    struct throttle_slot slots[THROTTLE_SLOTS];
};

struct request {
    struct gw_scim_work work;
    struct gw_scim *scim;
    struct gw_visit visit;
};

static void request_free(void *owner)
{
    struct request *r = owner;

    base_buf_free(&r->work.out);
    free(r->work.body);
    free(r);
}

/* ---- answers ---- */

static void send_answer(struct request *r)
{
    struct gw_header headers[4] = {{"content-type", "application/scim+json"}, {"cache-control", "no-store"}};
    const struct gw_scim_work *w = &r->work;
    unsigned n = 2;

    if (w->etag[0] != '\0')
        headers[n++] = (struct gw_header){"etag", w->etag};
    if (w->location[0] != '\0')
        headers[n++] = (struct gw_header){"location", w->location};
    if (r->visit.http != NULL)
        gw_http_send(r->visit.http, w->status, headers, n, w->out.len > 0 ? w->out.data : "", w->out.len);
    gw_visit_over(&r->visit);
}

static void send_error(struct request *r, const struct gw_scim_error *error, const char *name,
                       const char *value)
{
    const struct gw_header headers[] = {
        {"content-type", "application/scim+json"}, {"cache-control", "no-store"}, {name, value}};
    auto_buf struct base_buf body = BASE_BUF_INIT(4096);

    if (error->check != NULL)
        base_log(BASE_LOG_INFO, "scim.refused", "a SCIM request is refused", LOG_STR("check", error->check),
                 LOG_INT("status", error->status));
    gw_scim_error_json(&body, error);
    if (r->visit.http != NULL)
        gw_http_send(r->visit.http, error->status, headers, name != NULL ? 3 : 2, body.data, body.len);
    gw_visit_over(&r->visit);
}

static void fail(struct request *r, const char *check, int status, const char *type, const char *detail)
{
    const struct gw_scim_error error = {
        .status = status, .scim_type = type, .detail = detail, .check = check};

    send_error(r, &error, status == 401 ? "www-authenticate" : NULL, "Bearer realm=\"scim\"");
}

static void on_worked(enum base_code rc, void *arg)
{
    struct gw_scim_work *work = arg;
    struct request *r = (struct request *)work; /* its first member */

    if (rc == BASE_OK)
        send_answer(r);
    else if (work->error.status != 0)
        send_error(r, &work->error, NULL, NULL);
    else if (rc == BASE_NOT_FOUND)
        fail(r, NULL, 404, NULL, "There is no such resource.");
    else if (rc == BASE_EXISTS)
        fail(r, NULL, 409, "uniqueness", "The name or the externalId is taken.");
    else
        send_error(r,
                   &(struct gw_scim_error){.status = 503,
                                           .detail = "The directory cannot be reached now: try again."},
                   "retry-after", "5");
}

/* ---- wrong tokens ---- */

/* An address as one number, keyed so that nobody can aim at another's slot; of IPv6 the network of 64 bits. */
static uint64_t address_of(const struct gw_scim *scim, const char *peer)
{
    unsigned char mac[BASE_SHA256_BYTES], raw[16] = {0};
    uint64_t address;

    if (inet_pton(AF_INET6, peer, raw) == 1)
        memset(raw + 8, 0, 8);
    else
        inet_pton(AF_INET, peer, raw);
    base_hmac_sha256(scim->address_key, sizeof(scim->address_key), raw, sizeof(raw), mac);
    memcpy(&address, mac, sizeof(address));
    return address;
}

static bool blocked(struct gw_scim *scim, const char *peer)
{
    uint64_t address = address_of(scim, peer), now_ms = base_mono_ms();
    const struct throttle_slot *slot = &scim->slots[address % THROTTLE_SLOTS];
    bool is;

    pthread_mutex_lock(&scim->lock);
    is = slot->address == address && now_ms - slot->window_ms < WINDOW_S * 1000 &&
         slot->failures >= FAILURES_MAX;
    pthread_mutex_unlock(&scim->lock);
    return is;
}

static void note_failure(struct gw_scim *scim, const char *peer)
{
    uint64_t address = address_of(scim, peer), now_ms = base_mono_ms();
    struct throttle_slot *slot = &scim->slots[address % THROTTLE_SLOTS];

    pthread_mutex_lock(&scim->lock);
    if (slot->address != address || now_ms - slot->window_ms >= WINDOW_S * 1000)
        *slot = (struct throttle_slot){.address = address, .window_ms = now_ms};
    slot->failures++;
    pthread_mutex_unlock(&scim->lock);
}

/* ---- the request's head ---- */

/* false: a header that is sent twice or is too long, which is no condition that could be checked. */
static bool copy_header(struct gw_http *http, const char *name, char *out, size_t size)
{
    size_t len = 0;
    const char *value = gw_http_header(http, name, &len);

    if (gw_http_header_count(http, name) == 0)
        return true;
    if (value == NULL || len == 0 || len >= size)
        return false;
    memcpy(out, value, len);
    out[len] = '\0';
    return true;
}

static bool json_type(struct gw_http *http)
{
    static const char *const types[] = {"application/scim+json", "application/json"};
    size_t len = 0;
    const char *value = gw_http_header(http, "content-type", &len);

    for (size_t i = 0; value != NULL && i < BASE_ARRAY_LEN(types); i++) {
        size_t n = strlen(types[i]);

        if (len >= n && base_ascii_ieq(value, n, types[i], n) && (len == n || strchr("; ", value[n]) != NULL))
            return true;
    }
    return false;
}

/* A whole number of the query; -1: not said. What is below `least` is `least` (RFC 7644 section 3.4.2.4). */
static bool query_number(const char *query, const char *name, int64_t least, int64_t *ret_value)
{
    char text[24];
    enum base_code rc = gw_form_get(query, strlen(query), name, text, sizeof(text));
    uint64_t value;

    if (rc == BASE_NOT_FOUND)
        return true;
    if (rc != BASE_OK)
        return false;
    if (base_parse_u64(text + (text[0] == '-'), strlen(text) - (text[0] == '-'), 1u << 31, &value) != BASE_OK)
        return false;
    *ret_value = text[0] == '-' || (int64_t)value < least ? least : (int64_t)value;
    return true;
}

static bool query_text(const char *query, const char *name, char *out, size_t size, bool *ret_found)
{
    enum base_code rc = gw_form_get(query, strlen(query), name, out, size);

    *ret_found = rc == BASE_OK;
    return rc == BASE_OK || rc == BASE_NOT_FOUND;
}

/* False: refused, and answered. */
static bool read_query(struct request *r)
{
    struct gw_scim_query *q = &r->work.query;
    const char *query = gw_http_query(r->visit.http);
    bool attributes, excluded;

    if (!query_text(query, "filter", q->filter, sizeof(q->filter), &q->filtered)) {
        fail(r, "scim.query", 400, "invalidFilter", "The filter cannot be read.");
        return false;
    }
    if (!query_text(query, "attributes", q->attributes, sizeof(q->attributes), &attributes) ||
        !query_text(query, "excludedAttributes", q->excluded, sizeof(q->excluded), &excluded) ||
        !query_number(query, "startIndex", 1, &q->start) || !query_number(query, "count", 0, &q->count) ||
        (attributes && excluded)) {
        fail(r, "scim.query", 400, "invalidValue", "The query cannot be read.");
        return false;
    }
    return true;
}

static bool read_body(struct request *r)
{
    size_t len = 0;
    const char *body = gw_http_body(r->visit.http, &len);

    if (!CHECK("scim.content_type", json_type(r->visit.http))) {
        fail(r, "scim.content_type", 415, NULL,
             "The body must be application/scim+json or application/json.");
        return false;
    }
    if (!CHECK("scim.size", len <= GW_SCIM_BODY_MAX)) {
        fail(r, "scim.size", 413, NULL, "The body is larger than 1 MiB.");
        return false;
    }
    r->work.body = base_memdup0(body, len);
    r->work.body_len = len;
    return true;
}

/* /Users, /Users/ID, /Users/.search; Groups likewise. *ret_allow: the methods of such a path. False: no such path. */
static bool read_path(struct gw_scim_work *w, const char *path, const char *method, const char **ret_allow)
{
    static const struct {
        const char *name;
        enum gw_scim_kind kind;
    } kinds[] = {{"/Users", GW_SCIM_USER}, {"/Groups", GW_SCIM_GROUP}};
    static const struct {
        const char *method;
        enum gw_scim_method of_one, of_all;
    } methods[] = {{"GET", GW_SCIM_GET, GW_SCIM_LIST},
                   {"POST", 0, GW_SCIM_POST},
                   {"PUT", GW_SCIM_PUT, 0},
                   {"PATCH", GW_SCIM_PATCH, 0},
                   {"DELETE", GW_SCIM_DELETE, 0}};
    const char *rest = NULL;
    bool one;

    for (size_t i = 0; i < BASE_ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i].name);

        if (strncmp(path, kinds[i].name, n) != 0 || (path[n] != '\0' && path[n] != '/'))
            continue;
        w->kind = kinds[i].kind;
        rest = path + n;
    }
    if (rest == NULL)
        return false;
    if (strcmp(rest, "/.search") == 0) {
        *ret_allow = "POST";
        w->method = strcmp(method, "POST") == 0 ? GW_SCIM_SEARCH : 0;
        return true;
    }
    one = rest[0] == '/' && rest[1] != '\0';
    if (one && !gw_scim_id_valid(rest + 1, strlen(rest + 1)))
        return false;
    if (one)
        memcpy(w->id, rest + 1, GW_SCIM_ID_LEN + 1);
    for (size_t i = 0; i < GW_SCIM_ID_LEN && w->id[i] != '\0'; i++)
        if (w->id[i] >= 'A' && w->id[i] <= 'F')
            w->id[i] = (char)(w->id[i] + ('a' - 'A'));
    *ret_allow = one ? "GET, PUT, PATCH, DELETE" : "GET, POST";
    for (size_t i = 0; i < BASE_ARRAY_LEN(methods); i++)
        if (strcmp(method, methods[i].method) == 0)
            w->method = one ? methods[i].of_one : methods[i].of_all;
    return true;
}

/* Who asks may: on to what is asked. */
static void begin(struct request *r)
{
    struct gw_scim_work *w = &r->work;
    const char *path = gw_http_path(r->visit.http) + sizeof(PREFIX) - 1,
               *method = gw_http_method(r->visit.http);
    const char *allow = "GET";

    if (strcmp(method, "GET") == 0 && gw_scim_discovery(&w->out, w->base_url, path)) {
        w->status = 200;
        send_answer(r);
        return;
    }
    if (!read_path(w, path, method, &allow)) {
        fail(r, NULL, 404, NULL, "There is no such resource.");
        return;
    }
    if (w->method == 0) {
        send_error(r, &(struct gw_scim_error){.status = 405, .detail = "Not by this method."}, "allow",
                   allow);
        return;
    }
    if (!CHECK("scim.condition",
               copy_header(r->visit.http, "if-match", w->if_match, sizeof(w->if_match)) &&
                   copy_header(r->visit.http, "if-none-match", w->if_none_match, sizeof(w->if_none_match)))) {
        fail(r, "scim.condition", 400, "invalidValue", "If-Match cannot be read.");
        return;
    }
    if (!read_query(r))
        return;
    if (w->method != GW_SCIM_GET && w->method != GW_SCIM_LIST && w->method != GW_SCIM_DELETE && !read_body(r))
        return;
    gw_store_run(r->scim->options.store, r->visit.loop, gw_scim_work, on_worked, w);
}

/* ---- who asks ---- */

static void identified(enum gw_auth_result result, const struct gw_principal *who, void *user)
{
    struct request *r = user;
    struct gw_scim_work *w = &r->work;

    if (result == GW_AUTH_UNAVAILABLE) {
        fail(r, NULL, 503, NULL, "The token cannot be checked now: try again.");
        return;
    }
    if (result != GW_AUTH_OK) {
        if (r->visit.http != NULL)
            note_failure(r->scim, gw_http_peer(r->visit.http));
        fail(r, "scim.access_token", 401, NULL, "The token does not hold.");
        return;
    }
    if (!CHECK("scim.writer", strcmp(who->issuer, GW_SERVICE_ISSUER) == 0 || who->is_admin)) {
        fail(r, "scim.writer", 403, NULL, "Only a service account or an administrator writes the directory.");
        return;
    }
    memcpy(w->issuer, who->issuer, sizeof(w->issuer));
    memcpy(w->subject, who->subject, sizeof(w->subject));
    memcpy(w->credential_id, who->credential_id, sizeof(w->credential_id));
    w->auth_method = gw_auth_method_name(who->method);
    begin(r);
}

static void hash_token(const struct gw_scim *scim, const void *token, size_t len,
                       unsigned char hash[BASE_SHA256_BYTES])
{
    static const char domain[] = "gatehouse scim token v1";
    auto_buf struct base_buf message = BASE_BUF_INIT(sizeof(domain) + BASE_SECRET_MAX);

    base_buf_append(&message, domain, sizeof(domain));
    base_buf_append(&message, token, len);
    base_hmac_sha256(base_secret_bytes(scim->options.pepper), base_secret_len(scim->options.pepper),
                     message.data, message.len, hash);
    base_wipe(message.data, message.len);
}

static bool is_our_token(struct gw_scim *scim, const struct gw_credential *credential)
{
    unsigned char hash[BASE_SHA256_BYTES];
    bool is;

    if (credential->kind != GW_CREDENTIAL_TOKEN)
        return false;
    hash_token(scim, credential->text, credential->len, hash);
    pthread_mutex_lock(&scim->lock);
    is = scim->has_token && base_ct_equal(hash, scim->token_hash, sizeof(hash));
    pthread_mutex_unlock(&scim->lock);
    return is;
}

static void authenticate(struct request *r)
{
    struct gw_scim_work *w = &r->work;
    struct gw_credential credential = gw_auth_credential(r->visit.http);
    const char *peer = gw_http_peer(r->visit.http);
    bool access_tokens;

    if (!CHECK("scim.throttle", !blocked(r->scim, peer))) {
        send_error(r,
                   &(struct gw_scim_error){
                       .status = 429, .detail = "Too many wrong tokens.", .check = "scim.throttle"},
                   "retry-after", "60");
        return;
    }
    pthread_mutex_lock(&r->scim->lock);
    access_tokens = r->scim->takes_access_tokens;
    pthread_mutex_unlock(&r->scim->lock);
    if (!is_our_token(r->scim, &credential) && access_tokens &&
        (credential.kind == GW_CREDENTIAL_TOKEN || credential.kind == GW_CREDENTIAL_DPOP)) {
        gw_visit_identify(&r->visit, r->scim->options.auth, identified);
        return;
    }
    if (!CHECK("scim.token", is_our_token(r->scim, &credential))) {
        note_failure(r->scim, peer);
        fail(r, "scim.token", 401, NULL, "A bearer token is needed.");
        return;
    }
    strcpy(w->issuer, "gatehouse:scim");
    strcpy(w->subject, "scim:token");
    w->auth_method = "scim_token";
    begin(r);
}

bool gw_scim_handle(struct gw_scim *scim, struct gw_http *http)
{
    const char *path = gw_http_path(http);
    struct request *r;
    bool on, external;

    if (scim == NULL || strncmp(path, PREFIX "/", sizeof(PREFIX)) != 0)
        return false;
    pthread_mutex_lock(&scim->lock);
    on = scim->on;
    external = scim->key_is_external_id;
    pthread_mutex_unlock(&scim->lock);
    if (!on)
        return false;
    r = base_zalloc(sizeof(*r));
    *r = (struct request){.scim = scim};
    r->work = (struct gw_scim_work){.options = &scim->options,
                                    .base_url = scim->base_url,
                                    .key_is_external_id = external,
                                    .query = {.start = -1, .count = -1}};
    base_buf_init(&r->work.out, ANSWER_MAX);
    gw_visit_begin(&r->visit, http, request_free, r);
    authenticate(r);
    return true;
}

/* ---- the policy ---- */

static bool any_scim_audience(const struct pol_snapshot *policy)
{
    for (size_t i = 0; i < pol_n_providers(policy); i++)
        if (pol_provider_at(policy, i)->scim_audiences.n > 0)
            return true;
    return false;
}

enum base_code gw_scim_configure(struct gw_scim *scim, const struct pol_snapshot *policy,
                                 struct base_err *err)
{
    const struct pol_identity *identity = pol_identity(policy);
    auto_secret struct base_secret *token = NULL;
    unsigned char hash[BASE_SHA256_BYTES] = {0};
    bool external = strcmp(identity->scim_key, "externalId") == 0;

    if (identity->scim && identity->scim_token_file[0] != '\0') {
        enum base_code rc = base_secret_read_file(&token, identity->scim_token_file, err);

        if (rc != BASE_OK)
            return base_fail_prefix(err, rc, "identity.scim.token_file");
        if (base_secret_len(token) < TOKEN_MIN)
            return base_fail(err, BASE_INVALID, 0,
                             "identity.scim.token_file: a token has at least %u bytes (openssl rand -hex 32)",
                             TOKEN_MIN);
        hash_token(scim, base_secret_bytes(token), base_secret_len(token), hash);
    }
    gw_directory_use_external_id(scim->options.directory, external);
    pthread_mutex_lock(&scim->lock);
    scim->on = identity->scim;
    scim->has_token = token != NULL;
    scim->takes_access_tokens = any_scim_audience(policy);
    scim->key_is_external_id = external;
    memcpy(scim->token_hash, hash, sizeof(hash));
    pthread_mutex_unlock(&scim->lock);
    return BASE_OK;
}

struct gw_scim *gw_scim_new(const struct gw_scim_options *options)
{
    struct gw_scim *scim = base_zalloc(sizeof(*scim));

    scim->options = *options;
    scim->options.public_url = NULL;
    snprintf(scim->base_url, sizeof(scim->base_url), "%s" PREFIX, options->public_url);
    base_random(scim->address_key, sizeof(scim->address_key));
    pthread_mutex_init(&scim->lock, NULL);
    return scim;
}

void gw_scim_free(struct gw_scim *scim)
{
    if (scim == NULL)
        return;
    pthread_mutex_destroy(&scim->lock);
    free(scim);
}
