/* A private gate for a test. See gate_private.h. */
#include "gate_private.h"

#include "audit/audit.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/apikey.h"
#include "gateway/cli_local_admin.h"
#include "gateway/local_admin.h"
#include "gateway/sso_client.h"
#include "policy/policy.h"
#include "gateway/server.h"
#include "gateway/session.h"
#include "gateway/session_seal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t events_lock = PTHREAD_MUTEX_INITIALIZER;
static char events[8192]; /* guarded by events_lock, as is gate->refuse_records */

static bool record(const char *action, const char *subject, struct gate *gate)
{
    size_t used;
    bool refuse;

    pthread_mutex_lock(&events_lock);
    used = strlen(events);
    snprintf(events + used, sizeof(events) - used, "%s %s;", action, subject);
    refuse = gate->refuse_records;
    pthread_mutex_unlock(&events_lock);
    return !refuse;
}

static bool record_auth(const char *action, const struct gw_principal *who, const char *target, void *user)
{
    return record(action, who->method == GW_AUTH_NONE ? "-" : who->subject, user);
}

static bool record_command(const char *action, const char *target, void *user)
{
    return record(action, "cli", user);
}

const char *gate_events(struct gate *gate)
{
    static char copy[sizeof(events)];

    pthread_mutex_lock(&events_lock);
    memcpy(copy, events, sizeof(copy));
    events[0] = '\0';
    pthread_mutex_unlock(&events_lock);
    return copy;
}

/* ---- the server's side ---- */

struct visit {
    struct gw_http *http;
    struct gw_auth_pending *pending;
};

static void visit_closed(void *user)
{
    struct visit *visit = user;

    gw_auth_forget(visit->pending);
    free(visit);
}

static void identified(enum gw_auth_result result, const struct gw_principal *who, void *user)
{
    struct visit *visit = user;
    char text[2048];
    int n;

    visit->pending = NULL;
    if (result != GW_AUTH_OK)
        n = snprintf(text, sizeof(text), "refused %s", gw_auth_result_code(result));
    else {
        n = snprintf(text, sizeof(text), "ok %s %s ", gw_auth_method_name(who->method), who->subject);
        for (unsigned i = 0; i < who->n_roles; i++)
            n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%s", i > 0 ? "," : "", who->roles[i]);
        n += snprintf(text + n, sizeof(text) - (size_t)n, " %s %s", who->credential_id,
                      who->is_admin ? "admin" : "user");
    }
    gw_http_send(visit->http, result == GW_AUTH_OK ? 200 : gw_api_status(gw_auth_api_code(result)), NULL, 0,
                 text, (size_t)n);
}

static void handle(struct gw_http *http, void *user)
{
    struct gate *gate = user;
    struct gw_auth_pending *pending;
    struct visit *visit;

    if (gw_auth_handle(gate->auth, http) || gw_local_handle(gate->local, http))
        return;
    visit = base_zalloc(sizeof(*visit));
    visit->http = http;
    gw_http_on_closed(http, visit_closed, visit);
    pending = gw_auth_identify(gate->auth, http, identified, visit);
    if (pending != NULL)
        visit->pending = pending;
}

/* ---- start and end ---- */

static void must(bool ok, const char *what, const struct base_err *err)
{
    if (ok)
        return;
    printf("Bail out! %s: %s\n", what, err != NULL ? err->detail : "");
    exit(1);
}

static void make_pepper(struct gate *gate)
{
    struct base_err err = {0};
    FILE *f;

    snprintf(gate->pepper_file, sizeof(gate->pepper_file), "/tmp/gh-pepper-XXXXXX");
    f = fdopen(mkstemp(gate->pepper_file), "w");
    must(f != NULL, "pepper file", NULL);
    fputs("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", f);
    fclose(f);
    must(base_secret_read_key_file(&gate->pepper, gate->pepper_file, &err) == BASE_OK, "pepper file", &err);
}

static void make_database(struct gate *gate)
{
    const char *root = getenv("GH_SOURCE_ROOT");
    struct base_err err = {0};
    unsigned n_applied = 0;
    char path[1024];

    gate->pg = pgp_new();
    must(gate->pg != NULL, "no Postgres", NULL);
    snprintf(path, sizeof(path), "%s/deploy/postgres-roles.sql", root != NULL ? root : ".");
    pgp_sql_file(gate->pg, path);
    snprintf(path, sizeof(path), "%s/migrations", root != NULL ? root : ".");
    must(aud_migrate(pgp_dsn(gate->pg, "gatehouse_migrator"), path, &n_applied, &err) == BASE_OK,
         "migrations", &err);
}

static void loop_start(struct gw_loop *loop, void *user)
{
    struct gate *gate = user;

    gw_sessions_loop_start(gate->sessions, loop);
}

static void loop_end(struct gw_loop *loop, void *user)
{
    struct gate *gate = user;

    gw_sessions_loop_end(gate->sessions, loop);
}

/* ---- policy ---- */

static pthread_mutex_t policy_lock = PTHREAD_MUTEX_INITIALIZER;

static struct pol_snapshot *policy_now(uint64_t *ret_generation, void *user)
{
    struct gate *gate = user;
    struct pol_snapshot *policy;

    pthread_mutex_lock(&policy_lock);
    policy = gate->policy != NULL ? pol_ref(gate->policy) : NULL;
    *ret_generation = gate->policy_generation;
    pthread_mutex_unlock(&policy_lock);
    return policy;
}

/* As gw_roles_refine, without a directory. */
static enum base_code refine(struct gw_principal *who, const char *provider, const char *directory_key,
                             void *user)
{
    uint64_t generation;
    struct pol_snapshot *policy = policy_now(&generation, user);
    bool stay = policy == NULL || gw_local_may_stay(policy, provider);

    pol_unref(policy);
    return stay ? BASE_OK : BASE_DENIED;
}

void gate_set_policy(struct gate *gate, const char *text)
{
    struct pol_snapshot *fresh = NULL, *old;
    struct base_err err = {0};

    must(pol_load(&fresh, "policy", text, strlen(text), &err) == BASE_OK, "policy", &err);
    pthread_mutex_lock(&policy_lock);
    old = gate->policy;
    gate->policy = fresh;
    gate->policy_generation++;
    pthread_mutex_unlock(&policy_lock);
    pol_unref(old);
}

struct gate *gate_new(void)
{
    return gate_new_tls(NULL, NULL, NULL);
}

struct gate *gate_new_tls(const char *cert_file, const char *key_file, const char *client_ca_file)
{
    struct gate *gate = base_zalloc(sizeof(*gate));
    const struct gw_listener_options listeners[] = {
        {.address = "127.0.0.1", .handler = handle, .user = gate},
        {.address = "127.0.0.1", .handler = handle, .user = gate, .tls = true}};
    const struct gw_server_options server = {.n_threads = 2,
                                             .limits = GW_SERVER_LIMITS_DEFAULT,
                                             .http2 = true,
                                             .cert_file = cert_file,
                                             .key_file = key_file,
                                             .client_ca_file = client_ca_file,
                                             .listeners = listeners,
                                             .n_listeners = cert_file != NULL ? 2 : 1,
                                             .loop_start = loop_start,
                                             .loop_end = loop_end,
                                             .user = gate};
    struct gw_auth_options auth = {.public_origin = GATE_ORIGIN,
                                   .session_idle_s = GATE_IDLE_S,
                                   .session_absolute_s = GATE_ABSOLUTE_S,
                                   .record = record_auth,
                                   .record_user = gate,
                                   .policy = policy_now,
                                   .policy_user = gate,
                                   .sso = &gate->sso};
    struct base_err err = {0};

    signal(SIGPIPE, SIG_IGN);
    base_log_init(-1, BASE_LOG_ERROR);
    make_pepper(gate);
    make_database(gate);
    gate->redis = rdp_new();
    must(gate->redis != NULL, "no Redis", NULL);
    gate->revocations = gw_revocations_new();
    gate->store = gw_store_open(&(struct gw_store_options){
        .dsn = gate_dsn(gate), .revocations = gate->revocations, .last_used_every_s = 1});
    must(gw_store_wait_ready(gate->store, 10000), "store", NULL);
    gate->sessions = gw_sessions_new(&(struct gw_sessions_options){.store = gate->store,
                                                                   .revocations = gate->revocations,
                                                                   .pepper = gate->pepper,
                                                                   .redis_url = rdp_url(gate->redis),
                                                                   .redis_timeout_ms = 2000,
                                                                   .idle_s = GATE_IDLE_S,
                                                                   .absolute_s = GATE_ABSOLUTE_S,
                                                                   .cache_ms = GATE_CACHE_MS,
                                                                   .refine = refine,
                                                                   .refine_user = gate});
    auth.store = gate->store;
    auth.sessions = gate->sessions;
    auth.key_pepper = gate->pepper;
    must(gw_auth_new(&gate->auth, &auth, &err) == BASE_OK, "auth", &err);
    gate->local = gw_local_new(gate->auth);
    must(gw_server_start(&gate->server, &server, &err) == BASE_OK, "server", &err);
    return gate;
}

void gate_free(struct gate *gate)
{
    gw_server_drain(gate->server, 2000);
    gw_local_stop(gate->local);
    gw_store_free(gate->store);
    gw_sso_free(gate->sso);
    gw_server_free(gate->server);
    gw_local_free(gate->local);
    gw_auth_free(gate->auth);
    pol_unref(gate->policy);
    gw_sessions_free(gate->sessions);
    gw_revocations_free(gate->revocations);
    rdp_free(gate->redis);
    pgp_free(gate->pg);
    unlink(gate->pepper_file);
    base_secret_free(gate->pepper);
    free(gate);
}

/* ---- the database ---- */

const char *gate_dsn(struct gate *gate)
{
    return pgp_dsn(gate->pg, "gatehouse_store");
}

void gate_sql(struct gate *gate, const char *sql)
{
    pgp_sql(gate->pg, sql);
}

int64_t gate_sql_int(struct gate *gate, const char *sql)
{
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(gate->pg, "postgres"), 5000);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err = {0};

    must(base_pg_exec(pg, sql, NULL, 0, &rows, &err) == BASE_OK, sql, &err);
    return base_pg_int(rows, 0, 0);
}

void gate_clear_cache(struct gate *gate)
{
    nanosleep(&(struct timespec){.tv_nsec = (GATE_CACHE_MS + 50) * 1000000l}, NULL);
}

/* ---- Redis ---- */

int gate_redis_count(struct gate *gate, const char *pattern)
{
    static const char script[] = "return #redis.call('KEYS', ARGV[1])";
    const char *const argv[] = {"EVAL", script, "0", pattern};
    const char *answer = rdp_command(gate->redis, argv, BASE_ARRAY_LEN(argv));

    return answer != NULL ? atoi(answer + (answer[0] == ':')) : -1;
}

bool gate_age_session(struct gate *gate, const char *cookie, int seen_s, int ends_ms)
{
    struct gw_session_record record = {.who = {.method = GW_AUTH_SESSION,
                                               .issuer = "gatehouse:local",
                                               .subject = "ada",
                                               .tenant = "default",
                                               .roles = {"admin"},
                                               .n_roles = 1,
                                               .credential_id = "0123456789abcdef"}};
    auto_buf struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);
    unsigned char key[BASE_GCM_KEY_BYTES], hash[BASE_SHA256_BYTES];
    char name[128] = "gh:session:", script[160], *hex;
    int64_t now_us = base_wall_us();
    bool ok;

    record.started_us = record.who.since_us = now_us;
    record.seen_us = now_us + seen_s * INT64_C(1000000);
    record.expires_at_us = now_us + ends_ms * INT64_C(1000);
    gw_seal_key(gate->pepper, key);
    gw_token_hash(gate->pepper, GW_TOKEN_SESSION, cookie, hash);
    base_hex_encode(hash, sizeof(hash), name + strlen(name));
    if (gw_session_seal(key, hash, &record, &sealed) != BASE_OK)
        return false;
    hex = base_alloc(2 * sealed.len + 1); /* rdp_command speaks text */
    base_hex_encode(sealed.data, sealed.len, hex);
    snprintf(script, sizeof(script),
             "return redis.call('SET', ARGV[1], (ARGV[2]:gsub('..', function(x) return "
             "string.char(tonumber(x, 16)) end))) and 1");
    {
        const char *const argv[] = {"EVAL", script, "0", name, hex};
        const char *answer = rdp_command(gate->redis, argv, BASE_ARRAY_LEN(argv));

        ok = answer != NULL && strchr(answer, '1') != NULL;
    }
    free(hex);
    return ok;
}

/* ---- the client's side ---- */

struct gate_answer gate_request(struct gate *gate, const char *method, const char *path, const char *headers,
                                const char *body)
{
    struct gate_answer answer = {0};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(gw_server_port(gate->server, 0)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval limit = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), n;
    char text[16384];
    size_t got = 0;
    ssize_t part;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    n = snprintf(
        text, sizeof(text),
        "%s %s HTTP/1.1\r\nhost: gate.example\r\nconnection: close\r\n%scontent-length: %zu\r\n\r\n%s",
        method, path, headers, strlen(body), body);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 && write(fd, text, (size_t)n) == n)
        while (got < sizeof(answer.text) - 1 &&
               (part = read(fd, answer.text + got, sizeof(answer.text) - 1 - got)) > 0)
            got += (size_t)part;
    close(fd);
    answer.text[got] = '\0';
    if (sscanf(answer.text, "HTTP/1.1 %d", &answer.status) != 1)
        answer.status = 0;
    return answer;
}

const char *gate_header(const struct gate_answer *answer, const char *name)
{
    static __thread char values[8][1024];
    static __thread unsigned next;
    char *value = values[next++ % 8];
    const char *line = strstr(answer->text, "\r\n"), *end = strstr(answer->text, "\r\n\r\n");
    size_t name_len = strlen(name);

    value[0] = '\0';
    for (; line != NULL && line < end; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, name_len) != 0 || line[2 + name_len] != ':')
            continue;
        line += 2 + name_len + 1;
        line += strspn(line, " ");
        snprintf(value, 1024, "%.*s", (int)strcspn(line, "\r"), line);
        break;
    }
    return value;
}

int gate_command(struct gate *gate, const char *line, char out[4096])
{
    char *words[32], text[1024], *save = NULL;
    int argc = 0, status;
    FILE *stream = fmemopen(out, 4096, "w");
    const struct gw_cli_identity_options options = {.dsn = gate_dsn(gate),
                                                    .pepper_file = gate->pepper_file,
                                                    .policy_file = gate->policy_file,
                                                    .out = stream,
                                                    .err = stream,
                                                    .record = record_command,
                                                    .user = gate};

    snprintf(text, sizeof(text), "%s", line);
    for (char *word = strtok_r(text, " ", &save); word != NULL && argc < 31;
         word = strtok_r(NULL, " ", &save))
        words[argc++] = word;
    words[argc] = NULL;
    memset(out, 0, 4096);
    if (strcmp(words[0], "local-admin") == 0)
        status = gw_cli_local_admin_main(argc, words, &options);
    else
        status = strcmp(words[0], "key") == 0 ? gw_cli_key_main(argc, words, &options)
                                              : gw_cli_admin_link_main(argc, words, &options);
    fclose(stream);
    return status;
}

/* The characters after `mark` up to `stop`. */
static void cut(const char *text, const char *mark, char stop, char *out, size_t out_max)
{
    const char *at = strstr(text, mark);
    const char *end = at != NULL ? strchr(at + strlen(mark), stop) : NULL;

    must(end != NULL && (size_t)(end - at) < out_max + strlen(mark), text, NULL);
    at += strlen(mark);
    memcpy(out, at, (size_t)(end - at));
    out[end - at] = '\0';
}

void gate_new_key(struct gate *gate, const char *options, char key[80], char id[16])
{
    char line[512], out[4096];

    snprintf(line, sizeof(line), "key create --json %s", options);
    must(gate_command(gate, line, out) == 0, out, NULL);
    cut(out, "\"key\":\"", '"', key, 80);
    cut(out, "\"key_id\":\"", '"', id, 16);
}

void gate_new_link(struct gate *gate, char token[80])
{
    char out[4096];

    must(gate_command(gate, "admin-link --url " GATE_ORIGIN " --subject ada", out) == 0, out, NULL);
    cut(out, "/auth/link?token=", '\n', token, 80);
}

void gate_sign_in(struct gate *gate, char cookie[80], char csrf[64])
{
    char token[80], body[128], header[256];
    struct gate_answer answer;

    gate_new_link(gate, token);
    snprintf(body, sizeof(body), "token=%s", token);
    answer =
        gate_request(gate, "POST", "/auth/link",
                     "origin: " GATE_ORIGIN "\r\ncontent-type: application/x-www-form-urlencoded\r\n", body);
    must(answer.status == 303, answer.text, NULL);
    cut(gate_header(&answer, "set-cookie"), GW_COOKIE_NAME "=", ';', cookie, 80);
    snprintf(header, sizeof(header), "cookie: " GW_COOKIE_NAME "=%s\r\n", cookie);
    answer = gate_request(gate, "GET", "/auth/session", header, "");
    must(answer.status == 200, answer.text, NULL);
    cut(answer.text, "\"csrf_token\":\"", '"', csrf, 64);
}
