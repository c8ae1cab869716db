/* Machine access: access tokens against a scripted gatehouse-sso (sso_script.py: a token is the reply that it gets), client certificates
 * by real TLS handshakes (curl), keys of service accounts, and break-glass administrators. Each attack beside its valid twin.
 *
 * In a mutation build GH_CHECK_OFF names the check to switch off; --list prints "CHECK CASE" lines. */
#include "gate_private.h"
#include "tap.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/local_admin.h"
#include "gateway/metrics.h"
#include "gateway/session.h"
#include "gateway/sso_client.h"

#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FORM "content-type: application/x-www-form-urlencoded\r\n"
#define OURS "origin: " GATE_ORIGIN "\r\n"

static struct gate *gate;
static char folder[] = "/tmp/gh-machine-XXXXXX";
static char client_hex[65], other_hex[65]; /* fingerprints of two certificates of the authority */

/* %s: service accounts; true or false: break_glass */
static const char policy_text[] =
    "version: 1\n"
    "classes: {default: public}\n"
    "backends: {local: {engine: {file: m}, max_class: secret}}\n"
    "models: {one: {routes: [{backend: local}]}}\n"
    "limits: {small: {requests_per_minute: 10, tokens_per_minute: 100}}\n"
    "guards: {lax: {input: {card: tag}}}\n"
    "roles:\n"
    "  employee: {models: [one], max_class: public, limits: small, guard: lax}\n"
    "  batch: {models: [one], max_class: public, limits: small, guard: lax}\n"
    "  admin: {models: [\"*\"], max_class: public, limits: small, guard: lax}\n"
    "identity:\n"
    "  break_glass: %s\n"
    "  providers:\n"
    "    corp:\n"
    "      label: Company\n"
    "      oidc: {issuer: \"https://idp.example\", client_id: gate, bearer: {audiences: [api], "
    "scim_audiences: [scim]}}\n"
    "    other:\n"
    "      label: Other\n"
    "      oidc: {issuer: \"https://other.example\", client_id: gate, bearer: {audiences: [other-api]}}\n"
    "  mapping:\n"
    "    - {group: staff, role: employee}\n"
    "    - {group: admins, role: admin}\n"
    "  service_accounts:\n"
    "    batch: {roles: [batch], provider: corp, client_id: svc-batch}\n"
    "    keys: {roles: [batch]}\n"
    "%s";

static void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

static void set_policy(bool break_glass, bool accounts)
{
    char text[8192], scanner[256] = "", path[96];
    FILE *file;

    if (accounts)
        snprintf(scanner, sizeof(scanner), "    scanner: {roles: [employee], cert_sha256: \"%s\"}\n",
                 client_hex);
    snprintf(text, sizeof(text), policy_text, break_glass ? "true" : "false", scanner);
    gate_set_policy(gate, text);
    snprintf(path, sizeof(path), "%s/policy.yaml", folder);
    file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

/* ---- tokens ---- */

struct token {
    const char *issuer, *subject, *provider, *client, *audience, *group, *more;
    int64_t issued_s, expires_s;
    bool bound;
};

/* The token that gets this reply; nonce makes it another. */
static const char *token_of(const struct token *t)
{
    static char text[4][4096];
    static unsigned turn, nonce;
    char json[2048], *out = text[turn++ % 4];
    int64_t now_s = base_wall_us() / 1000000;
    int n = snprintf(
        json, sizeof(json),
        "{\"ok\":true,\"n\":%u,\"issuer\":\"%s\",\"subject\":\"%s\",\"provider\":\"%s\",\"client_id\":\"%s\","
        "\"audience\":\"%s\",\"claims\":{\"groups\":[\"%s\"]},\"bound\":%s,\"issued_at\":%lld,"
        "\"expires_at\":%lld%s}",
        nonce++, t->issuer != NULL ? t->issuer : "https://idp.example",
        t->subject != NULL ? t->subject : "ada", t->provider != NULL ? t->provider : "corp",
        t->client != NULL ? t->client : "app", t->audience != NULL ? t->audience : "api",
        t->group != NULL ? t->group : "staff", t->bound ? "true" : "false", (long long)(now_s + t->issued_s),
        (long long)(now_s + (t->expires_s != 0 ? t->expires_s : 600)), t->more != NULL ? t->more : "");

    base_b64url_encode(json, (size_t)n, out);
    return out;
}

static const char *reply_token(const char *json)
{
    static char out[4096];

    base_b64url_encode(json, strlen(json), out);
    return out;
}

/* The last line of the answer, "ok bearer ada ..." or "refused CODE". */
static const char *ask_with(const char *scheme, const char *path, const char *token, const char *headers)
{
    static struct gate_answer answer;
    static char all[8192];
    const char *body;

    snprintf(all, sizeof(all), "authorization: %s %s\r\n%s", scheme, token, headers);
    answer = gate_request(gate, "GET", path, all, "");
    body = strstr(answer.text, "\r\n\r\n");
    return body != NULL ? body + 4 : "no answer";
}

static const char *ask(const char *token)
{
    return ask_with("Bearer", "/v1/models", token, "");
}

/* A key that was made just now is known within a second. */
static const char *ask_new(const char *key)
{
    for (unsigned i = 0; i < 100 && strncmp(ask(key), "ok", 2) != 0; i++)
        nap_ms(20);
    return ask(key);
}

static bool begins(const char *text, const char *with)
{
    if (strncmp(text, with, strlen(with)) == 0)
        return true;
    printf("# \"%s\" does not begin with \"%s\"\n", text, with);
    return false;
}

#define GOOD(text, with)  CHECK(begins(text, with))
#define REFUSED(text, by) CHECK_STR(text, "refused " by)

/* How often gatehouse-sso was asked. */
static unsigned asked(void)
{
    char path[96];
    unsigned n = 0;
    FILE *file;
    int c;

    snprintf(path, sizeof(path), "%s/log", folder);
    file = fopen(path, "r");
    while (file != NULL && (c = getc(file)) != EOF)
        n += c == '\n';
    if (file != NULL)
        fclose(file);
    return n;
}

/* A counter now; 0 before its first. */
static long counted(const char *series)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(1u << 20);
    const char *at;

    gw_metrics_render(&out);
    base_buf_append_char(&out, '\0');
    at = strstr(out.data, series);
    return at != NULL ? atol(at + strlen(series)) : 0;
}

static void test_token__counted(void)
{
#define CHECKS(source, result) "gatehouse_token_checks_total{source=\"" source "\",result=\"" result "\"} "
    static const char *const series[] = {CHECKS("provider", "ok"),
                                         CHECKS("cache", "ok"),
                                         CHECKS("provider", "invalid_token"),
                                         CHECKS("provider", "no_role"),
                                         CHECKS("cache", "invalid_token"),
                                         CHECKS("none", "invalid_api_key"),
                                         CHECKS("provider", "identity_unavailable")};
    static const long expected[] = {1, 2, 1, 1, 1, 1, 1};
    const char *token = token_of(&(struct token){.subject = "counted"});
    const char *const no =
        "{\"ok\":false,\"code\":\"refused\",\"check\":\"jwt.signature\",\"detail\":\"no\",\"n\":\"counted\"}";
    long before[BASE_ARRAY_LEN(series)];

    for (size_t i = 0; i < BASE_ARRAY_LEN(series); i++)
        before[i] = counted(series[i]);
    for (unsigned i = 0; i < 3; i++)
        GOOD(ask(token), "ok bearer counted");
    for (unsigned i = 0; i < 2; i++)
        REFUSED(ask(reply_token(no)), "invalid_token");
    REFUSED(ask(token_of(&(struct token){.group = "strangers"})), "no_role");
    REFUSED(ask("a b"), "invalid_api_key");
    REFUSED(ask(reply_token("{\"ok\":true,\"n\":\"counted\"}")), "identity_unavailable");
    for (size_t i = 0; i < BASE_ARRAY_LEN(series); i++)
        CHECK_INT(counted(series[i]) - before[i], expected[i]);
}

static void test_token__person(void)
{
    const char *token = token_of(&(struct token){0});
    const char *answer = ask(token);

    GOOD(answer, "ok bearer ada employee tok-");
    CHECK(strstr(answer, token) == NULL);
    GOOD(ask(token_of(&(struct token){.group = "admins"})), "ok bearer ada admin tok-");
}

static void test_token__verified_once(void)
{
    const char *token = token_of(&(struct token){0});
    unsigned before = asked();

    for (unsigned i = 0; i < 20; i++)
        GOOD(ask(token), "ok bearer ada employee");
    CHECK_INT(asked() - before, 1);
}

static void test_token__refusal_is_remembered(void)
{
    static const char *const no =
        "{\"ok\":false,\"code\":\"refused\",\"check\":\"jwt.signature\",\"detail\":\"no\",\"n\":1}";
    unsigned before = asked();

    for (unsigned i = 0; i < 10; i++)
        REFUSED(ask(reply_token(no)), "invalid_token");
    CHECK_INT(asked() - before, 1);
    GOOD(ask(token_of(&(struct token){0})), "ok bearer");
}

struct asker {
    const char *token;
    bool good;
};

static void *ask_in_thread(void *p)
{
    struct asker *asker = p;
    char headers[4096];
    struct gate_answer answer;

    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\n", asker->token);
    answer = gate_request(gate, "GET", "/v1/models", headers, "");
    asker->good = answer.status == 200;
    return NULL;
}

static void test_token__single_flight(void)
{
    const char *token = token_of(&(struct token){.more = ",\"delay_ms\":400"});
    struct asker askers[12];
    pthread_t threads[12];
    unsigned before = asked();

    for (unsigned i = 0; i < 12; i++) {
        askers[i] = (struct asker){.token = token};
        pthread_create(&threads[i], NULL, ask_in_thread, &askers[i]);
    }
    for (unsigned i = 0; i < 12; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 12; i++)
        CHECK(askers[i].good);
    CHECK(asked() - before <= 2); /* one for each loop */
}

static void test_token__issuer(void)
{
    REFUSED(ask(token_of(&(struct token){.issuer = "https://other.example"})), "invalid_token");
    GOOD(ask(token_of(&(struct token){
             .issuer = "https://other.example", .provider = "other", .audience = "other-api"})),
         "ok bearer ada");
}

static void test_token__audience_of_the_route(void)
{
    const char *api = token_of(&(struct token){0}), *scim = token_of(&(struct token){.audience = "scim"});

    REFUSED(ask(scim), "invalid_token");
    GOOD(ask_with("Bearer", "/scim/v2/Users", scim, ""), "ok bearer ada");
    GOOD(ask(api), "ok bearer ada");
    REFUSED(ask_with("Bearer", "/scim/v2/Users", api, ""), "invalid_token");
    REFUSED(ask(token_of(&(struct token){.audience = "other-api"})),
            "invalid_token"); /* another provider's */
}

static void test_token__expired(void)
{
    REFUSED(ask(token_of(&(struct token){.expires_s = -61})), "invalid_token");
    GOOD(ask(token_of(&(struct token){.expires_s = 5})), "ok bearer ada");
}

static void test_token__roles(void)
{
    REFUSED(ask(token_of(&(struct token){.group = "strangers"})), "no_role");
    GOOD(ask(token_of(&(struct token){.group = "staff"})), "ok bearer ada employee");
}

static void test_token__too_long_a_name(void)
{
    char name[GW_SUBJECT_MAX + 1];

    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    REFUSED(ask(token_of(&(struct token){.subject = name})), "invalid_token");
    name[GW_SUBJECT_MAX - 1] = '\0';
    GOOD(ask(token_of(&(struct token){.subject = name})), "ok bearer aaaa");
}

static void test_token__service_account(void)
{
    GOOD(ask(token_of(&(struct token){.client = "svc-batch"})), "ok bearer service:batch batch tok-");
    GOOD(ask(token_of(&(struct token){.client = "svc-batc"})), "ok bearer ada employee");
    /* the same client's name at another provider is nobody's account */
    GOOD(ask(token_of(&(struct token){.client = "svc-batch",
                                      .issuer = "https://other.example",
                                      .provider = "other",
                                      .audience = "other-api"})),
         "ok bearer ada employee");
}

static enum base_code revoked_rc;
static volatile bool revoked_done;

static void on_revoked(enum base_code rc, const struct gw_session_record *none, void *user)
{
    revoked_rc = rc;
    revoked_done = true;
}

static void revoke_ada(void *arg)
{
    gw_sessions_revoke(gate->sessions, arg, GW_REVOKE_PERSON, "https://idp.example", "turing", "test",
                       on_revoked, NULL);
}

static void test_token__revoked_person(void)
{
    const char *token = token_of(&(struct token){.subject = "turing", .issued_s = -1});
    struct gw_loop *loop = gw_server_loop(gate->server, 0);

    GOOD(ask(token), "ok bearer turing");
    revoked_done = false;
    gw_loop_post(loop, revoke_ada, loop);
    for (unsigned i = 0; i < 100 && !revoked_done; i++)
        nap_ms(20);
    CHECK(revoked_done && revoked_rc == BASE_OK);
    REFUSED(ask(token), "invalid_token");
    /* not by asking anew either: it was issued before */
    REFUSED(ask(token_of(&(struct token){.subject = "turing", .issued_s = -30})), "invalid_token");
    GOOD(ask(token_of(&(struct token){.subject = "turing", .issued_s = 2})), "ok bearer turing");
    GOOD(ask(token_of(&(struct token){.subject = "ada"})), "ok bearer ada");
}

static void test_token__policy_replaced(void)
{
    const char *token = token_of(&(struct token){.client = "svc-batch"});
    unsigned before = asked();

    GOOD(ask(token), "ok bearer service:batch");
    set_policy(true, true);
    GOOD(ask(token), "ok bearer service:batch");
    CHECK_INT(asked() - before, 2);
}

static void test_token__provider_away(void)
{
    static const char *const away[] = {
        "{\"ok\":false,\"code\":\"unavailable\",\"check\":\"jwks.fetch\",\"detail\":\"away\"}",
        "{\"ok\":false,\"code\":\"timeout\",\"check\":\"jwks.fetch\",\"detail\":\"slow\"}",
        "{\"ok\":false,\"code\":\"busy\",\"check\":\"queue\",\"detail\":\"busy\"}",
        "{\"ok\":true}",
        "{\"ok\":\"yes\"}",
        "[]"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(away); i++)
        REFUSED(ask(reply_token(away[i])), "identity_unavailable");
    GOOD(ask(token_of(&(struct token){0})), "ok bearer ada");
}

static void test_token__process_dies(void)
{
    const char *known = token_of(&(struct token){.subject = "known"});

    GOOD(ask(known), "ok bearer known");
    REFUSED(ask(reply_token("{\"die\":true}")), "identity_unavailable");
    GOOD(ask(known), "ok bearer known"); /* the cache needs nobody */
    for (unsigned i = 0; i < 100; i++) {
        if (strncmp(ask(token_of(&(struct token){0})), "ok", 2) == 0)
            return;
        nap_ms(50);
    }
    CHECK(!"started anew");
}

static void test_token__form(void)
{
    static const char *const bad[] = {"", " ", "a b", "\"x\"", "a,b", "a\tb", "\xc3\xa9"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++)
        CHECK(begins(ask(bad[i]), "refused invalid_api_key"));
    REFUSED(ask_with("Basic", "/v1/models", token_of(&(struct token){0}), ""), "invalid_api_key");
    GOOD(ask_with("bEARER", "/v1/models", token_of(&(struct token){0}), ""), "ok bearer");
    REFUSED(ask_with("Bearer", "/v1/models", token_of(&(struct token){0}), "x-api-key: abc\r\n"),
            "invalid_api_key");
    REFUSED(ask_with("Bearer", "/v1/models", token_of(&(struct token){0}), "authorization: Bearer abc\r\n"),
            "invalid_api_key");
}

/* ---- DPoP ---- */

static void test_dpop__proof_with_every_request(void)
{
    const char *token = token_of(&(struct token){.bound = true, .more = ",\"echo_binding\":true"});
    unsigned before = asked();

    REFUSED(ask(token), "invalid_token"); /* stolen: no proof */
    for (unsigned i = 0; i < 3; i++)
        GOOD(ask_with("DPoP", "/v1/models", token, "dpop: proof\r\n"), "ok bearer ada");
    CHECK_INT(asked() - before, 4);
    REFUSED(ask(token), "invalid_token");
}

static void test_dpop__one_proof(void)
{
    const char *token = token_of(&(struct token){.bound = true});

    REFUSED(ask_with("DPoP", "/v1/models", token, "dpop: one\r\ndpop: two\r\n"), "invalid_dpop_proof");
    REFUSED(ask_with("DPoP", "/v1/models", token, ""), "invalid_dpop_proof");
    GOOD(ask_with("DPoP", "/v1/models", token, "dpop: one\r\n"), "ok bearer ada");
}

static void test_dpop__token_is_not_bound(void)
{
    const char *token = token_of(&(struct token){0});

    REFUSED(ask_with("DPoP", "/v1/models", token, "dpop: one\r\n"), "invalid_token");
    GOOD(ask(token), "ok bearer ada");
}

static void test_dpop__refused_proof(void)
{
    REFUSED(
        ask_with(
            "DPoP", "/v1/models",
            reply_token("{\"ok\":false,\"code\":\"refused\",\"check\":\"dpop.replay\",\"detail\":\"again\"}"),
            "dpop: one\r\n"),
        "invalid_dpop_proof");
}

/* A bound token that gatehouse-sso lets in without a proof (a wrong reply) goes no further. */
static void test_bound__never_shared(void)
{
    REFUSED(ask(token_of(&(struct token){.bound = true})), "invalid_token");
    GOOD(ask(token_of(&(struct token){.bound = false})), "ok bearer ada");
}

/* ---- certificates ---- */

/* What curl gets from the TLS listener with a certificate (NULL: none) and other options; "handshake" when there is no answer. */
static const char *curl(const char *cert, const char *options)
{
    static char out[4096];
    char command[4096], with[256] = "";
    size_t n;
    FILE *pipe;

    if (cert != NULL)
        snprintf(with, sizeof(with), "--cert %s/%s.pem --key %s/%s.key", folder, cert, folder, cert);
    snprintf(command, sizeof(command),
             "curl -sk --max-time 10 %s %s https://127.0.0.1:%u/v1/models 2>/dev/null", with, options,
             gw_server_port(gate->server, 1));
    pipe = popen(command, "r");
    n = fread(out, 1, sizeof(out) - 1, pipe);
    out[n] = '\0';
    return pclose(pipe) == 0 ? out : "handshake";
}

static void test_cert__service_account(void)
{
    GOOD(curl("client", "--http1.1"), "ok certificate service:scanner employee cert-");
    GOOD(curl("client", "--http2"), "ok certificate service:scanner employee cert-");
    GOOD(curl("client", "--tlsv1.2 --tls-max 1.2"), "ok certificate service:scanner employee cert-");
    REFUSED(curl(NULL, "--http1.1"), "missing_credentials");
    REFUSED(curl(NULL, "--http2"), "missing_credentials");
}

static void test_cert__no_account(void)
{
    REFUSED(curl("other", ""), "invalid_api_key");
    GOOD(curl("client", ""), "ok certificate");
}

static void test_cert__foreign_authority(void)
{
    CHECK_STR(curl("foreign", ""), "handshake");
    CHECK_STR(curl("self", ""), "handshake");
    GOOD(curl("client", ""), "ok certificate");
}

static void test_cert__expired(void)
{
    CHECK_STR(curl("expired", ""), "handshake");
    CHECK_STR(curl("early", ""), "handshake");
    GOOD(curl("client", ""), "ok certificate");
}

static void test_cert__purpose(void)
{
    CHECK_STR(curl("server", ""), "handshake");
    GOOD(curl("client", ""), "ok certificate");
}

static void test_cert__without_usage(void)
{
    CHECK_STR(curl("plain", ""), "handshake"); /* no extended key usage at all */
    GOOD(curl("client", ""), "ok certificate");
}

static void test_cert__other_credential_wins(void)
{
    char options[4200], key[80], id[16];

    gate_new_key(gate, "--owner grace --role employee", key, id);
    GOOD(ask_new(key), "ok api_key grace");
    snprintf(options, sizeof(options), "-H 'authorization: Bearer %s'", key);
    GOOD(curl("client", options), "ok api_key grace");
    GOOD(curl("other", options), "ok api_key grace");
    snprintf(options, sizeof(options), "-H 'authorization: Bearer gh_nonsense'");
    REFUSED(curl("client", options), "invalid_api_key"); /* not let in by the certificate instead */
}

static void test_cert__binds_a_token(void)
{
    const char *token = token_of(&(struct token){.bound = true, .more = ",\"echo_binding\":true"});
    char options[4200];

    snprintf(options, sizeof(options), "-H 'authorization: Bearer %s'", token);
    GOOD(curl("client", options), "ok bearer ada");
    GOOD(curl("client", options), "ok bearer ada");
    REFUSED(curl(NULL, options), "invalid_token");
    GOOD(curl("client", options),
         "ok bearer ada"); /* the refusal is not remembered against who has the proof */
}

static void test_cert__account_removed(void)
{
    GOOD(curl("client", ""), "ok certificate");
    set_policy(true, false);
    REFUSED(curl("client", ""), "invalid_api_key");
    set_policy(true, true);
    GOOD(curl("client", ""), "ok certificate");
}

/* A ticket would carry an identity past its check: there is none. */
static void test_cert__no_resumption(void)
{
    static const char *const versions[] = {"-tls1_3", "-tls1_2"};
    char command[1024], line[512];

    for (size_t i = 0; i < BASE_ARRAY_LEN(versions); i++) {
        unsigned fresh = 0, reused = 0, tickets = 0;
        FILE *pipe;

        snprintf(command, sizeof(command),
                 "cd %s; rm -f s; for again in '-sess_out s' '-sess_in s'; do [ \"$again\" = '-sess_in s' ] "
                 "&& [ ! -s s ] && "
                 "again=; (printf 'GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n'; sleep "
                 "0.4) | openssl s_client "
                 "%s -connect 127.0.0.1:%u -cert client.pem -key client.key $again 2>&1; done",
                 folder, versions[i], gw_server_port(gate->server, 1));
        pipe = popen(command, "r");
        while (fgets(line, sizeof(line), pipe) != NULL) {
            fresh += strncmp(line, "New, TLSv1", 10) == 0;
            reused += strncmp(line, "Reused, TLSv1", 13) == 0;
            tickets += strstr(line, "TLS session ticket:") != NULL;
        }
        pclose(pipe);
        CHECK_INT(fresh, 2);
        CHECK_INT(reused, 0);
        CHECK_INT(tickets, 0);
    }
}

/* ---- keys ---- */

static void test_key__of_a_service_account(void)
{
    char key[80], id[16], out[4096];

    gate_new_key(gate, "--service keys", key, id);
    GOOD(ask_new(key), "ok api_key service:keys batch");
    CHECK_INT(gate_command(gate, "key create --service nobody", out), 1);
    CHECK(strstr(out, "names no service account nobody") != NULL);
    CHECK_INT(gate_command(gate, "key create --service keys --role admin", out), 2);
}

static void test_key__of_an_account_that_is_gone(void)
{
    char key[80], id[16], path[96], *text = NULL;
    static char without[8192];

    gate_new_key(gate, "--service keys", key, id);
    GOOD(ask_new(key), "ok api_key service:keys batch");
    snprintf(path, sizeof(path), "%s/policy.yaml", folder);
    snprintf(without, sizeof(without), policy_text, "true", "");
    text = strstr(without, "    keys: {roles: [batch]}\n");
    memset(text, ' ', strlen("    keys: {roles: [batch]}"));
    gate_set_policy(gate, without);
    REFUSED(ask(key), "revoked_api_key");
    set_policy(true, true);
    GOOD(ask_new(key), "ok api_key service:keys batch");
}

static void test_key__of_a_person(void)
{
    char key[80], id[16], out[4096];

    gate_new_key(gate, "--issuer https://idp.example --subject hopper --role employee", key, id);
    GOOD(ask_new(key), "ok api_key hopper employee");
    CHECK_INT(gate_command(gate, "key create --subject hopper --role employee", out), 2);
    CHECK_INT(
        gate_command(gate, "key create --issuer gatehouse:service --subject service:keys --role admin", out),
        2);
    CHECK_INT(gate_command(gate, "key create --owner a --service keys", out), 2);
}

/* ---- break glass ---- */

static unsigned char totp_secret[GW_TOTP_SECRET_BYTES];

static void unbase32(const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    unsigned held = 0, bits = 0, n = 0;

    for (; *text != '\0' && n < GW_TOTP_SECRET_BYTES; text++) {
        held = held << 5 | (unsigned)(strchr(digits, *text) - digits);
        bits += 5;
        if (bits >= 8)
            totp_secret[n++] = (unsigned char)(held >> (bits -= 8));
    }
}

/* A new administrator; its secret is in totp_secret. */
static void new_admin(const char *name)
{
    char line[256], out[4096], path[96];
    const char *at;
    FILE *file;

    snprintf(path, sizeof(path), "%s/password", folder);
    file = fopen(path, "w");
    fchmod(fileno(file), 0600);
    fputs("correct horse battery\n", file);
    fclose(file);
    snprintf(line, sizeof(line), "local-admin create %s --password-file %s", name, path);
    CHECK_INT(gate_command(gate, line, out), 0);
    at = strstr(out, "otpauth://totp/Gatehouse:");
    CHECK(at != NULL && strstr(at, "secret=") != NULL);
    CHECK(strstr(out, "correct horse") == NULL);
    unbase32(strstr(at, "secret=") + 7);
}

static const char *code_now(int step)
{
    static char code[7];

    gw_totp_code(totp_secret, base_wall_us() / 1000000 / GW_TOTP_STEP_S + step, code);
    return code;
}

static struct gate_answer sign_in(const char *headers, const char *name, const char *password,
                                  const char *code)
{
    char body[512];

    snprintf(body, sizeof(body), "name=%s&password=%s&code=%s", name, password, code);
    return gate_request(gate, "POST", "/auth/local", headers, body);
}

#define PASSWORD "correct+horse+battery"

/* Each case has its own gate for the address's throttle: a new store of failures. */
static void fresh_throttle(void)
{
    struct gw_local *old = gate->local;

    gate->local = gw_local_new(gate->auth);
    gw_local_stop(old);
    gw_local_free(old);
}

static void test_local__signs_in(void)
{
    struct gate_answer answer;
    char cookie[512];
    const char *set;

    fresh_throttle();
    new_admin("ada");
    gate_events(gate);
    CHECK_INT(gate_request(gate, "GET", "/auth/local", "", "").status, 200);
    answer = sign_in(OURS FORM, "ada", PASSWORD, code_now(0));
    CHECK_INT(answer.status, 303);
    CHECK_STR(gate_events(gate), "local.sign_in ada;");
    set = gate_header(&answer, "set-cookie");
    snprintf(cookie, sizeof(cookie), "cookie: %.*s\r\n", (int)strcspn(set, ";"), set);
    answer = gate_request(gate, "GET", "/whoami", cookie, "");
    CHECK(strstr(answer.text, "ok session ada admin ") != NULL);
}

/* The cookie of an answer, as a request's header. */
static void cookie_of(const struct gate_answer *answer, char out[512])
{
    const char *set = gate_header(answer, "set-cookie");

    snprintf(out, 512, "cookie: %.*s\r\n", (int)strcspn(set, ";"), set);
}

static void test_local__ends_the_browsers_old_session(void)
{
    char cookie[512], other[512], headers[1024];
    struct gate_answer answer;

    fresh_throttle();
    new_admin("twice");
    answer = sign_in(OURS FORM, "twice", PASSWORD, code_now(-1));
    cookie_of(&answer, cookie);
    answer = sign_in(OURS FORM, "twice", PASSWORD, code_now(0));
    cookie_of(&answer, other);
    CHECK(strstr(gate_request(gate, "GET", "/whoami", cookie, "").text, "ok session twice admin ") != NULL);
    gate_events(gate);
    snprintf(headers, sizeof(headers), OURS FORM "%s", cookie);
    answer = sign_in(headers, "twice", PASSWORD, code_now(1));
    CHECK_INT(answer.status, 303);
    CHECK_STR(gate_events(gate), "session.end twice;local.sign_in twice;");
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 401);
    CHECK(strstr(gate_request(gate, "GET", "/whoami", other, "").text, "ok session twice admin ") != NULL);
    cookie_of(&answer, cookie);
    CHECK(strstr(gate_request(gate, "GET", "/whoami", cookie, "").text, "ok session twice admin ") != NULL);
}

static void test_local__wrong_password(void)
{
    fresh_throttle();
    new_admin("pw");
    gate_events(gate);
    CHECK_INT(sign_in(OURS FORM, "pw", "correct+horse+batterx", code_now(0)).status, 403);
    CHECK_STR(gate_events(gate), "local.refuse -;");
    CHECK_INT(sign_in(OURS FORM, "pw", PASSWORD, code_now(0)).status, 303);
}

static void test_local__wrong_code(void)
{
    char wrong[7];

    fresh_throttle();
    new_admin("code");
    snprintf(wrong, sizeof(wrong), "%s", code_now(0));
    wrong[5] = wrong[5] == '0' ? '1' : '0';
    if (strcmp(wrong, code_now(-1)) != 0 && strcmp(wrong, code_now(1)) != 0)
        CHECK_INT(sign_in(OURS FORM, "code", PASSWORD, wrong).status, 403);
    CHECK_INT(sign_in(OURS FORM, "code", PASSWORD, code_now(-5)).status, 403);
    CHECK_INT(sign_in(OURS FORM, "code", PASSWORD, code_now(0)).status, 303);
}

static void test_local__code_once(void)
{
    char code[7];

    fresh_throttle();
    new_admin("once");
    snprintf(code, sizeof(code), "%s", code_now(0));
    CHECK_INT(sign_in(OURS FORM, "once", PASSWORD, code).status, 303);
    CHECK_INT(sign_in(OURS FORM, "once", PASSWORD, code).status, 403);
    CHECK_INT(sign_in(OURS FORM, "once", PASSWORD, code_now(1)).status, 303);
}

static void *sign_in_racer(void *arg)
{
    int *status = arg;
    char code[7];

    gw_totp_code(totp_secret, base_wall_us() / 1000000 / GW_TOTP_STEP_S, code);
    *status = sign_in(OURS FORM, "race", PASSWORD, code).status;
    return NULL;
}

static void test_local__of_many_at_once_one_wins(void)
{
    int status[2] = {0};
    pthread_t threads[2];

    fresh_throttle();
    new_admin("race");
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, sign_in_racer, &status[i]);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT((status[0] == 303) + (status[1] == 303), 1);
}

static void test_local__unknown_name_looks_alike(void)
{
    struct gate_answer known, unknown;
    uint64_t t0, known_us = 0, unknown_us = 0;

    fresh_throttle();
    new_admin("alike");
    for (unsigned i = 0; i < 2; i++) {
        t0 = base_mono_us();
        known = sign_in(OURS FORM, "alike", "wrong+horse+battery", "000000");
        known_us += base_mono_us() - t0;
        t0 = base_mono_us();
        unknown = sign_in(OURS FORM, "nobody", "wrong+horse+battery", "000000");
        unknown_us += base_mono_us() - t0;
        CHECK_INT(known.status, 403);
        CHECK_INT(unknown.status, 403);
        CHECK_STR(strstr(known.text, "<!doctype"), strstr(unknown.text, "<!doctype"));
    }
    printf("# known %lu us, unknown %lu us\n", (unsigned long)known_us / 2, (unsigned long)unknown_us / 2);
    CHECK(unknown_us * 3 > known_us && known_us * 3 > unknown_us);
    CHECK_INT(sign_in(OURS FORM, "alike", PASSWORD, code_now(0)).status, 303);
}

static void test_local__cross_site(void)
{
    fresh_throttle();
    new_admin("cross");
    CHECK_INT(sign_in("origin: https://evil.example\r\n" FORM, "cross", PASSWORD, code_now(0)).status, 403);
    CHECK_INT(sign_in(OURS FORM, "cross", PASSWORD, code_now(0)).status, 303);
}

static void test_local__no_form(void)
{
    fresh_throttle();
    new_admin("form");
    CHECK_INT(sign_in(OURS "content-type: text/plain\r\n", "form", PASSWORD, code_now(0)).status, 403);
    CHECK_INT(sign_in(OURS FORM, "form", PASSWORD, code_now(0)).status, 303);
}

static void test_local__disabled(void)
{
    struct gate_answer answer;
    char out[4096], cookie[512];
    const char *set;

    fresh_throttle();
    new_admin("gone");
    answer = sign_in(OURS FORM, "gone", PASSWORD, code_now(0));
    CHECK_INT(answer.status, 303);
    set = gate_header(&answer, "set-cookie");
    snprintf(cookie, sizeof(cookie), "cookie: %.*s\r\n", (int)strcspn(set, ";"), set);
    CHECK_INT(gate_command(gate, "local-admin disable gone", out), 0);
    CHECK_INT(sign_in(OURS FORM, "gone", PASSWORD, code_now(1)).status, 403);
    nap_ms(1000);
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 401); /* and what ran has ended */
    CHECK_INT(gate_command(gate, "local-admin create gone --password-file /nowhere", out), 1);
}

static void test_local__locked_in_the_database(void)
{
    fresh_throttle();
    new_admin("lock");
    gate_sql(
        gate,
        "UPDATE identity.local_admins SET locked_until = now() + interval '1 minute' WHERE name = 'lock'");
    CHECK_INT(sign_in(OURS FORM, "lock", PASSWORD, code_now(0)).status, 403);
    gate_sql(gate, "UPDATE identity.local_admins SET locked_until = NULL WHERE name = 'lock'");
    CHECK_INT(sign_in(OURS FORM, "lock", PASSWORD, code_now(0)).status, 303);
}

static void test_local__throttled_by_name(void)
{
    fresh_throttle();
    new_admin("slow");
    for (unsigned i = 0; i < GW_LOCAL_FREE_FAILURES + 1; i++)
        CHECK_INT(sign_in(OURS FORM, "slow", "wrong+horse+battery", "000000").status, 403);
    CHECK_INT(sign_in(OURS FORM, "slow", PASSWORD, code_now(0)).status, 429);
    CHECK(gate_sql_int(gate, "SELECT failures FROM identity.local_admins WHERE name = 'slow'") >= 6);
    fresh_throttle();
    CHECK_INT(sign_in(OURS FORM, "slow", PASSWORD, code_now(0)).status,
              403); /* a new process: the row remembers */
    nap_ms(4200);   /* 2^2 seconds after the seventh failure */
    fresh_throttle();
    CHECK_INT(sign_in(OURS FORM, "slow", PASSWORD, code_now(0)).status, 303);
}

static void test_local__throttled_by_address(void)
{
    char name[16];

    fresh_throttle();
    new_admin("addr");
    for (unsigned i = 0; i < 11; i++) {
        snprintf(name, sizeof(name), "guess%u", i);
        CHECK_INT(sign_in(OURS FORM, name, "wrong+horse+battery", "000000").status, 403);
    }
    CHECK_INT(sign_in(OURS FORM, "addr", PASSWORD, code_now(0)).status, 429);
    fresh_throttle();
    CHECK_INT(sign_in(OURS FORM, "addr", PASSWORD, code_now(0)).status, 303);
}

static void test_local__counted(void)
{
#define LOGINS(result) "gatehouse_logins_total{method=\"local:admin\",result=\"" result "\"} "
    static const char *const series[] = {LOGINS("ok"), LOGINS("refused"), LOGINS("limited"),
                                         LOGINS("unavailable")};
    static const long expected[] = {1, 7, 1, 1};
    long before[BASE_ARRAY_LEN(series)];

    fresh_throttle();
    new_admin("counts");
    for (size_t i = 0; i < BASE_ARRAY_LEN(series); i++)
        before[i] = counted(series[i]);
    CHECK_INT(sign_in(OURS FORM, "counts", PASSWORD, code_now(-1)).status, 303);
    gate->refuse_records = true;
    CHECK_INT(sign_in(OURS FORM, "counts", PASSWORD, code_now(0)).status, 503);
    gate->refuse_records = false;
    CHECK_INT(sign_in(FORM, "counts", PASSWORD, code_now(1)).status, 403);
    for (unsigned i = 0; i < 6; i++)
        CHECK_INT(sign_in(OURS FORM, "counts", "wrong+horse+battery", "000000").status, 403);
    CHECK_INT(sign_in(OURS FORM, "counts", PASSWORD, code_now(1)).status, 429);
    for (size_t i = 0; i < BASE_ARRAY_LEN(series); i++)
        CHECK_INT(counted(series[i]) - before[i], expected[i]);
}

static void test_local__off_by_default(void)
{
    fresh_throttle();
    new_admin("off");
    set_policy(false, true);
    CHECK(strstr(gate_request(gate, "GET", "/auth/local", "", "").text, "<form") == NULL);
    CHECK(sign_in(OURS FORM, "off", PASSWORD, code_now(0)).status == 401);
    set_policy(true, true);
    CHECK_INT(sign_in(OURS FORM, "off", PASSWORD, code_now(0)).status, 303);
}

static void end_all(void *arg)
{
    gw_local_end_all(gate->local, arg);
}

static void test_local__switched_off_ends_sessions(void)
{
    struct gw_loop *loop = gw_server_loop(gate->server, 0);
    struct gate_answer answer;
    char cookie[512];

    fresh_throttle();
    new_admin("glass");
    answer = sign_in(OURS FORM, "glass", PASSWORD, code_now(-1));
    cookie_of(&answer, cookie);
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 200);
    set_policy(false, true);
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 401); /* whatever Postgres does */
    set_policy(true, true);
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 200);
    gate_events(gate);
    gw_loop_post(loop, end_all, loop);
    for (unsigned i = 0; i < 50 && gate_request(gate, "GET", "/whoami", cookie, "").status == 200; i++)
        nap_ms(20);
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 401); /* and for good */
    CHECK_STR(gate_events(gate), "local.off -;");
    answer = sign_in(OURS FORM, "glass", PASSWORD, code_now(0));
    cookie_of(&answer, cookie);
    CHECK_INT(gate_request(gate, "GET", "/whoami", cookie, "").status, 200);
}

static void test_local__unrecorded_is_refused(void)
{
    fresh_throttle();
    new_admin("audit");
    gate->refuse_records = true;
    CHECK_INT(sign_in(OURS FORM, "audit", PASSWORD, code_now(0)).status, 503);
    gate->refuse_records = false;
    CHECK_INT(sign_in(OURS FORM, "audit", PASSWORD, code_now(1)).status, 303);
}

static void test_local__sealed_for_one_name(void)
{
    unsigned char secret[GW_TOTP_SECRET_BYTES] = {7}, back[GW_TOTP_SECRET_BYTES],
                  sealed[GW_LOCAL_SEALED_BYTES];

    gw_local_seal(gate->pepper, "ada", secret, sealed);
    CHECK_INT(gw_local_unseal(gate->pepper, "ada", sealed, back), BASE_OK);
    CHECK(memcmp(back, secret, sizeof(secret)) == 0);
    CHECK(gw_local_unseal(gate->pepper, "eve", sealed, back) != BASE_OK);
    sealed[20] ^= 1;
    CHECK(gw_local_unseal(gate->pepper, "ada", sealed, back) != BASE_OK);
}

/* ---- set-up ---- */

static const struct {
    const char *check, *name;
} checks[] = {
    {"auth.token_issuer", "test_token__issuer"},
    {"auth.token_audience", "test_token__audience_of_the_route"},
    {"auth.token_expired", "test_token__expired"},
    {"auth.token_role", "test_token__roles"},
    {"auth.token_revoked", "test_token__revoked_person"},
    {"auth.service_provider", "test_token__service_account"},
    {"auth.dpop_one", "test_dpop__one_proof"},
    {"auth.dpop_unbound", "test_dpop__token_is_not_bound"},
    {"auth.bound_shared", "test_bound__never_shared"},
    {"auth.cert_account", "test_cert__no_account"},
    {"auth.service_exists", "test_key__of_an_account_that_is_gone"},
    {"mtls.chain", "test_cert__foreign_authority"},
    {"mtls.time", "test_cert__expired"},
    {"mtls.client_usage", "test_cert__without_usage"},
    {"local.password", "test_local__wrong_password"},
    {"local.code", "test_local__wrong_code"},
    {"local.code_race", "test_local__of_many_at_once_one_wins"},
    {"local.origin", "test_local__cross_site"},
    {"local.form", "test_local__no_form"},
    {"local.disabled", "test_local__disabled"},
    {"local.locked", "test_local__locked_in_the_database"},
    {"local.throttle_name", "test_local__throttled_by_name"},
    {"local.throttle_address", "test_local__throttled_by_address"},
    {"local.enabled", "test_local__off_by_default"},
    {"local.session_off", "test_local__switched_off_ends_sessions"},
};

#ifdef GH_MUTATIONS
extern const char *base_check_off;
#endif

/* An authority, and what it, another and nobody signed. */
static const char make_certificates[] =
    "cd %s && exec >/dev/null 2>&1\n"
    "ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -out $1.pem "
    "-subj /CN=$1 -days 30; }\n"
    "req() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -out $1.csr -subj "
    "/CN=$1; }\n"
    "sign() { printf \"$3\" >ext; openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial "
    "-days 30 -extfile ext "
    "-out $1.pem; }\n"
    "ca ca; ca evil; ca self; ca tls\n"
    "for n in client other foreign expired early server plain; do req $n; done\n"
    "client='basicConstraints=CA:FALSE\\nextendedKeyUsage=clientAuth\\n'\n"
    "sign client ca \"$client\"; sign other ca \"$client\"; sign foreign evil \"$client\"\n"
    "sign server ca 'basicConstraints=CA:FALSE\\nextendedKeyUsage=serverAuth\\n'; sign plain ca "
    "'basicConstraints=CA:FALSE\\n'\n"
    "mkdir db; : >db/index; echo 77 >db/serial\n"
    "printf "
    "'[ca]\\ndefault_ca=x\\n[x]\\ndatabase=db/index\\nserial=db/"
    "serial\\nnew_certs_dir=db\\ncertificate=ca.pem\\n"
    "private_key=ca.key\\ndefault_md=sha256\\npolicy=p\\n[p]\\ncommonName=supplied\\n' >conf\n"
    "printf \"$client\" >ext\n"
    "openssl ca -batch -config conf -extfile ext -in expired.csr -out expired.pem -startdate 20200101000000Z "
    "-enddate 20210101000000Z\n"
    "openssl ca -batch -config conf -extfile ext -in early.csr -out early.pem -startdate 20400101000000Z "
    "-enddate 20410101000000Z\n"
    "chmod 600 *.key\n"
    "for n in client other; do openssl x509 -in $n.pem -outform der | sha256sum | cut -c1-64 >$n.hex; done\n"
    "test -s expired.pem && test -s early.pem\n";

static void read_hex(const char *name, char out[65])
{
    char path[96];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s.hex", folder, name);
    file = fopen(path, "r");
    if (file == NULL || fscanf(file, "%64s", out) != 1) {
        printf("Bail out! no certificates\n");
        exit(1);
    }
    fclose(file);
}

static void set_up(void)
{
    char script[4096], cert[96], key[96], ca[96], config[256], program[1024];
    static char policy_path[96];
    const char *root = getenv("GH_SOURCE_ROOT");

    if (mkdtemp(folder) == NULL || chmod(folder, 0755) != 0) {
        printf("Bail out! no temporary folder\n");
        exit(1);
    }
    snprintf(script, sizeof(script), make_certificates, folder);
    if (system(script) != 0) {
        printf("Bail out! openssl cannot make certificates\n");
        exit(1);
    }
    read_hex("client", client_hex);
    read_hex("other", other_hex);
    snprintf(cert, sizeof(cert), "%s/tls.pem", folder);
    snprintf(key, sizeof(key), "%s/tls.key", folder);
    snprintf(ca, sizeof(ca), "%s/ca.pem", folder);
    gate = gate_new_tls(cert, key, ca);
    snprintf(config, sizeof(config), "{\"op\":\"configure\",\"log\":\"%s/log\"}", folder);
    snprintf(program, sizeof(program), "%s/tests/security/sso_script.py", root != NULL ? root : ".");
    gate->sso = gw_sso_new(
        &(struct gw_sso_options){.program = program, .config_json = config, .config_len = strlen(config)});
    set_policy(true, true);
    snprintf(policy_path, sizeof(policy_path), "%s/policy.yaml", folder);
    gate->policy_file = policy_path;
    for (unsigned i = 0; i < 100 && strncmp(ask(token_of(&(struct token){0})), "ok", 2) != 0; i++)
        nap_ms(50);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_token__person),
        CASE(test_token__verified_once),
        CASE(test_token__counted),
        CASE(test_token__refusal_is_remembered),
        CASE(test_token__single_flight),
        CASE(test_token__issuer),
        CASE(test_token__audience_of_the_route),
        CASE(test_token__expired),
        CASE(test_token__roles),
        CASE(test_token__too_long_a_name),
        CASE(test_token__service_account),
        CASE(test_token__revoked_person),
        CASE(test_token__policy_replaced),
        CASE(test_token__provider_away),
        CASE(test_token__process_dies),
        CASE(test_token__form),
        CASE(test_dpop__proof_with_every_request),
        CASE(test_dpop__one_proof),
        CASE(test_dpop__token_is_not_bound),
        CASE(test_dpop__refused_proof),
        CASE(test_bound__never_shared),
        CASE(test_cert__service_account),
        CASE(test_cert__no_account),
        CASE(test_cert__foreign_authority),
        CASE(test_cert__expired),
        CASE(test_cert__purpose),
        CASE(test_cert__without_usage),
        CASE(test_cert__other_credential_wins),
        CASE(test_cert__binds_a_token),
        CASE(test_cert__account_removed),
        CASE(test_cert__no_resumption),
        CASE(test_key__of_a_service_account),
        CASE(test_key__of_an_account_that_is_gone),
        CASE(test_key__of_a_person),
        CASE(test_local__signs_in),
        CASE(test_local__ends_the_browsers_old_session),
        CASE(test_local__wrong_password),
        CASE(test_local__wrong_code),
        CASE(test_local__code_once),
        CASE(test_local__of_many_at_once_one_wins),
        CASE(test_local__unknown_name_looks_alike),
        CASE(test_local__cross_site),
        CASE(test_local__no_form),
        CASE(test_local__disabled),
        CASE(test_local__locked_in_the_database),
        CASE(test_local__throttled_by_name),
        CASE(test_local__throttled_by_address),
        CASE(test_local__counted),
        CASE(test_local__off_by_default),
        CASE(test_local__switched_off_ends_sessions),
        CASE(test_local__unrecorded_is_refused),
        CASE(test_local__sealed_for_one_name),
    };
    char clean[128];
    int status;

    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < BASE_ARRAY_LEN(checks); i++)
            printf("%s %s\n", checks[i].check, checks[i].name);
        return 0;
    }
#ifdef GH_MUTATIONS
    base_check_off = getenv("GH_CHECK_OFF");
#endif
    set_up();
    status = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    gate_free(gate);
    snprintf(clean, sizeof(clean), "rm -rf %s", folder);
    return system(clean) == 0 ? status : 1;
}
