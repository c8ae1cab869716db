/* Access tokens, bearer and DPoP, against a scripted gatehouse-sso. Each attack beside its valid twin. */
#include "machine_fixture.h"

#include "base/mem.h"
#include "gateway/sessions.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

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

/* Whoever leaves before it is known who that is: what was made for the request ends then, and the answer finds nobody. */
static void test_token__client_leaves_while_it_is_checked(void)
{
    const char *token = token_of(&(struct token){.subject = "leaver", .more = ",\"delay_ms\":300"});
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons(gw_server_port(gate->server, 0)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static const char *const paths[] = {"/auth/sessions", "/auth/admin/sessions"};
    int fds[BASE_ARRAY_LEN(paths)];
    unsigned before = asked();

    for (size_t i = 0; i < BASE_ARRAY_LEN(paths); i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(fds[i], (const struct sockaddr *)&to, sizeof(to)) == 0);
        CHECK(dprintf(fds[i], "GET %s HTTP/1.1\r\nhost: gate.example\r\nauthorization: Bearer %s\r\n\r\n",
                      paths[i], token) > 0);
    }
    for (unsigned i = 0; i < 500 && asked() == before; i++)
        nap_ms(10);
    CHECK(asked() > before);
    for (size_t i = 0; i < BASE_ARRAY_LEN(paths); i++)
        close(fds[i]);
    GOOD(ask(token), "ok bearer leaver");
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
static atomic_bool revoked_done; /* and revoked_rc is there */

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

static const struct fixture_check checks[] = {
    {"auth.token_issuer", "test_token__issuer"},
    {"auth.token_audience", "test_token__audience_of_the_route"},
    {"auth.token_expired", "test_token__expired"},
    {"auth.token_role", "test_token__roles"},
    {"auth.token_revoked", "test_token__revoked_person"},
    {"auth.service_provider", "test_token__service_account"},
    {"auth.dpop_one", "test_dpop__one_proof"},
    {"auth.dpop_unbound", "test_dpop__token_is_not_bound"},
    {"auth.bound_shared", "test_bound__never_shared"},
};

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_token__person),
        CASE(test_token__verified_once),
        CASE(test_token__counted),
        CASE(test_token__refusal_is_remembered),
        CASE(test_token__single_flight),
        CASE(test_token__client_leaves_while_it_is_checked),
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
    };

    if (list_checks(checks, BASE_ARRAY_LEN(checks), argc, argv))
        return 0;
    set_up();
    return tear_down(tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv));
}
