/* Sign-in links, sessions, cross-site requests: what an attacker would try, each beside the valid twin. */
#include "gate_private.h"
#include "tap.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/session.h"
#include "gateway/tags.h"

#include <pthread.h>
#include <time.h>

#define FORM "content-type: application/x-www-form-urlencoded\r\n"
#define OURS "origin: " GATE_ORIGIN "\r\n"

static struct gate *gate;

static void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

static struct gate_answer use_link(const char *headers, const char *token)
{
    char body[256];

    snprintf(body, sizeof(body), "token=%s", token);
    return gate_request(gate, "POST", "/auth/link", headers, body);
}

/* A request with a cookie, and other header lines. */
static struct gate_answer with_cookie(const char *method, const char *path, const char *cookie,
                                      const char *headers)
{
    char all[1024];

    snprintf(all, sizeof(all), "cookie: " GW_COOKIE_NAME "=%s\r\n%s", cookie, headers);
    return gate_request(gate, method, path, all, "");
}

static bool says(const struct gate_answer *answer, const char *text)
{
    if (strstr(answer->text, text) != NULL)
        return true;
    printf("# not in the answer: %s\n# status %d\n", text, answer->status);
    return false;
}

/* ---- links ---- */

static void test_link__page_leaks_nothing_and_uses_nothing(void)
{
    char token[80], path[128];
    struct gate_answer answer;

    gate_new_link(gate, token);
    snprintf(path, sizeof(path), "/auth/link?token=%s", token);
    for (unsigned i = 0; i < 3; i++) { /* a mail scanner may look as often as it likes */
        answer = gate_request(gate, "GET", path, "", "");
        CHECK_INT(answer.status, 200);
    }
    CHECK_STR(gate_header(&answer, "content-type"), "text/html; charset=utf-8");
    CHECK_STR(gate_header(&answer, "content-security-policy"),
              "default-src 'none'; form-action 'self'; style-src 'self'; img-src 'self'; frame-ancestors "
              "'none'; base-uri 'none'");
    CHECK_STR(gate_header(&answer, "referrer-policy"), "no-referrer");
    CHECK_STR(gate_header(&answer, "cache-control"), "no-store");
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    CHECK(strstr(answer.text, "<script") == NULL);
    CHECK(says(&answer, "<form method=\"post\" action=\"/auth/link\">"));
    answer = use_link(OURS FORM, token);
    CHECK_INT(answer.status, 303);
}

static void test_link__page_refuses_what_is_no_link(void)
{
    static const char *const bad[] = {
        "/auth/link", "/auth/link?token=", "/auth/link?token=abc",
        "/auth/link?token=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/auth/link?token=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"};
    char token[80], path[256];

    gate_new_link(gate, token);
    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++) {
        struct gate_answer answer = gate_request(gate, "GET", bad[i], "", "");

        CHECK_INT(answer.status, 400);
        CHECK(strstr(answer.text, "<form") == NULL);
        CHECK(strstr(answer.text, "<script") == NULL);
    }
    snprintf(path, sizeof(path), "/auth/link?token=%s&token=%s", token, token);
    CHECK_INT(gate_request(gate, "GET", path, "", "").status, 400);
}

static void test_link__signs_in_once(void)
{
    char token[80], cookie[80];
    const char *set;
    struct gate_answer answer;

    gate_events(gate);
    gate_new_link(gate, token);
    answer = use_link(OURS FORM, token);
    CHECK_INT(answer.status, 303);
    CHECK_STR(gate_header(&answer, "location"), "/");
    set = gate_header(&answer, "set-cookie");
    CHECK(strncmp(set, "__Host-gatehouse=", 17) == 0);
    CHECK_STR(set + 17 + GW_TOKEN_LEN, "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=43200");
    snprintf(cookie, sizeof(cookie), "%.64s", set + 17);
    CHECK_STR(gate_events(gate), "link.create cli;link.use ada;session.start ada;");
    answer = with_cookie("GET", "/whoami", cookie, "");
    CHECK_INT(answer.status, 200);
    CHECK(says(&answer, "ok session ada admin "));
    answer = use_link(OURS FORM, token);
    CHECK_INT(answer.status, 403);
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    CHECK_STR(gate_events(gate), "link.refuse -;");
}

struct racer {
    const char *token;
    int status;
};

static void *race(void *p)
{
    struct racer *racer = p;
    struct gate_answer answer = use_link(OURS FORM, racer->token);

    racer->status = answer.status;
    return NULL;
}

static void test_link__of_many_at_once_one_wins(void)
{
    for (unsigned round = 0; round < 5; round++) {
        struct racer racers[8];
        pthread_t threads[8];
        unsigned won = 0, lost = 0;
        char token[80];

        gate_new_link(gate, token);
        for (unsigned i = 0; i < 8; i++) {
            racers[i] = (struct racer){.token = token};
            pthread_create(&threads[i], NULL, race, &racers[i]);
        }
        for (unsigned i = 0; i < 8; i++) {
            pthread_join(threads[i], NULL);
            won += racers[i].status == 303;
            lost += racers[i].status == 403;
        }
        CHECK_INT(won, 1);
        CHECK_INT(lost, 7);
    }
}

static void test_link__expires(void)
{
    char token[80];

    CHECK_INT(
        gate_sql_int(
            gate, "SELECT extract(epoch FROM max(expires_at - created_at))::int FROM identity.sign_in_links"),
        900);
    gate_new_link(gate, token);
    gate_sql(gate,
             "UPDATE identity.sign_in_links SET expires_at = now() - interval '1 s' WHERE used_at IS NULL");
    CHECK_INT(use_link(OURS FORM, token).status, 403);
    gate_new_link(gate, token);
    CHECK_INT(use_link(OURS FORM, token).status, 303);
}

static void test_link__cross_site_posts(void)
{
    static const struct {
        const char *headers;
        int status;
    } table[] = {
        {FORM, 403},
        {FORM "origin: null\r\n", 403},
        {FORM "origin: https://evil.example\r\n", 403},
        {FORM "origin: https://evil.example\r\nsec-fetch-site: same-origin\r\n", 403},
        {FORM "origin: null\r\nsec-fetch-site: cross-site\r\n", 403},
        {FORM OURS "sec-fetch-site: cross-site\r\n", 403},
        {FORM OURS OURS, 403},
        {OURS, 403},
        {OURS "content-type: text/plain\r\n", 403},
        {OURS "content-type: application/x-www-form-urlencodedx\r\n", 403},
        {FORM "origin: null\r\nsec-fetch-site: same-origin\r\n",
         303}, /* what a browser sends from our page */
        {FORM OURS "sec-fetch-site: same-origin\r\n", 303},
        {OURS "content-type: application/x-www-form-urlencoded; charset=utf-8\r\n", 303},
    };
    char token[80];

    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        struct gate_answer answer;

        gate_new_link(gate, token);
        answer = use_link(table[i].headers, token);
        if (answer.status != table[i].status)
            printf("# row %zu: %s", i, table[i].headers);
        CHECK_INT(answer.status, table[i].status);
        if (table[i].status == 403) /* refused, and not used up */
            CHECK_INT(use_link(OURS FORM, token).status, 303);
    }
}

static void test_link__never_a_session_of_the_clients_choice(void)
{
    char token[80], cookie[80], csrf[64], fresh[80], headers[512];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    gate_new_link(gate, token);
    gate_events(gate);
    snprintf(headers, sizeof(headers), OURS FORM "cookie: " GW_COOKIE_NAME "=%s\r\n", cookie);
    answer = use_link(headers, token);
    CHECK_INT(answer.status, 303);
    snprintf(fresh, sizeof(fresh), "%.64s", gate_header(&answer, "set-cookie") + 17);
    CHECK(strcmp(fresh, cookie) != 0);
    CHECK_STR(gate_events(gate), "session.end ada;link.use ada;session.start ada;");
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 401); /* the old one is over */
    CHECK_INT(with_cookie("GET", "/whoami", fresh, "").status, 200);
}

static void test_link__cannot_be_recorded(void)
{
    char token[80];
    struct gate_answer answer;
    int running = gate_redis_count(gate, "gh:session:*");

    gate_new_link(gate, token);
    gate->refuse_records = true;
    answer = use_link(OURS FORM, token);
    gate->refuse_records = false;
    CHECK_INT(answer.status, 503);
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    for (unsigned i = 0; i < 100; i++) {
        if (gate_redis_count(gate, "gh:session:*") == running)
            return;
        nap_ms(20);
    }
    CHECK(!"the session that nobody has was ended");
}

/* ---- sessions ---- */

static void test_session__who_am_i(void)
{
    char cookie[80], csrf[64], key[80], id[16], headers[256];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    answer = with_cookie("GET", "/auth/session", cookie, "");
    CHECK_INT(answer.status, 200);
    CHECK(says(&answer, "{\"subject\":\"ada\",\"name\":\"\",\"email\":\"\",\"provider\":\"\",\"roles\":["
                        "\"admin\"],\"csrf_token\":\""));
    CHECK(says(&answer, "\"expires_at\":\"20"));
    CHECK_STR(gate_header(&answer, "cache-control"), "no-store");
    CHECK(strstr(answer.text, cookie) == NULL); /* HttpOnly would be pointless */
    CHECK_INT(gate_request(gate, "GET", "/auth/session", "", "").status, 401);
    gate_new_key(gate, "--owner a --role r", key, id);
    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\n", key);
    CHECK_INT(gate_request(gate, "GET", "/auth/session", headers, "").status, 401);
    answer = with_cookie("POST", "/auth/session", cookie, "");
    CHECK_INT(answer.status, 405);
    CHECK_STR(gate_header(&answer, "allow"), "GET");
}

static void test_session__forged_cookies(void)
{
    static const char *const bad[] = {"", "x",
                                      "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"};
    char cookie[80], csrf[64], token[80];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++) {
        answer = with_cookie("GET", "/whoami", bad[i], "");
        CHECK_INT(answer.status, 401);
        CHECK(says(&answer, "refused session_ended"));
    }
    gw_token_create(gate->pepper, GW_TOKEN_SESSION, token); /* genuine, and of no session */
    answer = with_cookie("GET", "/whoami", token, "");
    CHECK(says(&answer, "refused session_ended"));
    gate_new_link(gate, token); /* a link's token as a cookie */
    answer = with_cookie("GET", "/whoami", token, "");
    CHECK(says(&answer, "refused session_ended"));
    answer = with_cookie("GET", "/auth/session", token, "");
    CHECK_INT(answer.status, 401);
    CHECK(says(&answer, "Max-Age=0")); /* the browser is told to drop it */
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
}

static void test_session__idle(void)
{
    char cookie[80], csrf[64];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    CHECK(gate_age_session(gate, cookie, -(int)GATE_IDLE_S + 10, 3600000));
    gate_clear_cache(gate);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
    CHECK(gate_age_session(gate, cookie, -(int)GATE_IDLE_S - 1, 3600000));
    gate_clear_cache(gate);
    answer = with_cookie("GET", "/whoami", cookie, "");
    CHECK(says(&answer, "refused session_ended"));
}

static void test_session__absolute_end(void)
{
    char cookie[80], csrf[64];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    CHECK(gate_age_session(gate, cookie, 0, 700 + GATE_CACHE_MS));
    gate_clear_cache(gate);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
    nap_ms(800); /* the cache may not carry it over the end */
    answer = with_cookie("GET", "/whoami", cookie, "");
    CHECK(says(&answer, "refused session_ended"));
}

static void test_logout__ends_it_everywhere(void)
{
    char cookie[80], csrf[64], headers[256];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
    CHECK_INT(with_cookie("GET", "/auth/logout", cookie, "").status, 405);
    CHECK_INT(with_cookie("POST", "/auth/logout", cookie, OURS).status, 403); /* no CSRF token */
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
    gate_events(gate);
    snprintf(headers, sizeof(headers), OURS "x-csrf-token: %s\r\n", csrf);
    answer = with_cookie("POST", "/auth/logout", cookie, headers);
    CHECK_INT(answer.status, 204);
    CHECK_STR(gate_header(&answer, "set-cookie"),
              "__Host-gatehouse=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    CHECK_STR(gate_events(gate), "session.end ada;");
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 401); /* at once: no cache */
    CHECK_INT(with_cookie("POST", "/auth/logout", cookie, headers).status,
              204); /* again: nothing left to end */
    CHECK_STR(gate_events(gate), "");
}

/* ---- lists of sessions ---- */

/* A session of another person, with roles of its own. */
static void sign_in_as(const char *subject, const char *role, char cookie[80], char csrf[64], char id[20])
{
    char token[80], sql[256], out[4096], line[128];
    struct gate_answer answer;
    const char *at;

    snprintf(line, sizeof(line), "admin-link --url " GATE_ORIGIN " --subject %s", subject);
    CHECK_INT(gate_command(gate, line, out), 0);
    at = strstr(out, "token=");
    CHECK(at != NULL);
    snprintf(token, sizeof(token), "%.64s", at != NULL ? at + 6 : "");
    snprintf(sql, sizeof(sql),
             "UPDATE identity.sign_in_links SET roles = '{%s}' WHERE subject = '%s' AND used_at IS NULL",
             role, subject);
    gate_sql(gate, sql);
    answer = use_link(OURS FORM, token);
    CHECK_INT(answer.status, 303);
    snprintf(cookie, 80, "%.64s", gate_header(&answer, "set-cookie") + 17);
    answer = with_cookie("GET", "/auth/session", cookie, "");
    at = strstr(answer.text, "\"csrf_token\":\"");
    snprintf(csrf, 64, "%.43s", at != NULL ? at + 14 : "");
    answer = with_cookie("GET", "/auth/sessions", cookie, "");
    CHECK_INT(answer.status, 200);
    at = strstr(answer.text, "\"current\":true");
    CHECK(at != NULL);
    while (at != NULL && at > answer.text && strncmp(at, "{\"id\":\"", 7) != 0)
        at--;
    snprintf(id, 20, "%.16s", at != NULL ? at + 7 : "");
    CHECK_INT((int)strlen(id), 16);
}

static struct gate_answer delete_session(const char *path, const char *id, const char *cookie,
                                         const char *csrf)
{
    char full[128], headers[256];

    snprintf(full, sizeof(full), "%s/%s", path, id);
    snprintf(headers, sizeof(headers), OURS "x-csrf-token: %s\r\n", csrf);
    return with_cookie("DELETE", full, cookie, headers);
}

static int count_text(const char *text, const char *part)
{
    int n = 0;

    for (; (text = strstr(text, part)) != NULL; text += strlen(part))
        n++;
    return n;
}

static void test_sessions__ones_own_are_listed_and_ended(void)
{
    char one[80], one_csrf[64], one_id[20], two[80], two_csrf[64], two_id[20], eve[80], eve_csrf[64],
        eve_id[20];
    struct gate_answer answer;

    sign_in_as("bob", "employee", one, one_csrf, one_id);
    sign_in_as("bob", "employee", two, two_csrf, two_id);
    sign_in_as("eve", "admin", eve, eve_csrf, eve_id);
    answer = with_cookie("GET", "/auth/sessions?subject=eve", one, "");
    CHECK_INT(answer.status, 200);
    CHECK_STR(gate_header(&answer, "cache-control"), "no-store");
    CHECK_INT(count_text(answer.text, "\"id\":"), 2);
    CHECK_INT(count_text(answer.text, "\"current\":true"), 1);
    CHECK(says(&answer, one_id) && says(&answer, two_id) && says(&answer, "\"from\":\"127.0.0.1\""));
    CHECK(strstr(answer.text, eve_id) == NULL && strstr(answer.text, one) == NULL);

    gate_events(gate);
    CHECK_INT(delete_session("/auth/sessions", eve_id, one, one_csrf).status,
              404); /* not one's own, as if there were none */
    CHECK_INT(delete_session("/auth/sessions", "0123456789abcdef", one, one_csrf).status, 404);
    CHECK_INT(delete_session("/auth/sessions", two_id, one, two_csrf).status,
              403); /* another session's token */
    CHECK_STR(gate_events(gate), "");
    CHECK_INT(with_cookie("GET", "/whoami", two, "").status, 200);
    CHECK_INT(with_cookie("GET", "/whoami", eve, "").status, 200);

    answer = delete_session("/auth/sessions", two_id, one, one_csrf);
    CHECK_INT(answer.status, 204);
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    CHECK_STR(gate_events(gate), "session.end bob;");
    CHECK_INT(with_cookie("GET", "/whoami", two, "").status, 401);
    CHECK_INT(delete_session("/auth/sessions", two_id, one, one_csrf).status, 404);
    answer = with_cookie("GET", "/auth/sessions", one, "");
    CHECK_INT(count_text(answer.text, "\"id\":"), 1);
    answer = delete_session("/auth/sessions", one_id, one, one_csrf); /* this one */
    CHECK_INT(answer.status, 204);
    CHECK_STR(gate_header(&answer, "set-cookie"),
              "__Host-gatehouse=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    CHECK_INT(with_cookie("GET", "/auth/sessions", one, "").status, 401);
}

static void test_sessions__cross_site_ends_nothing(void)
{
    static const char *const bad[] = {
        "",
        OURS,
        "origin: https://evil.example\r\nx-csrf-token: %s\r\n",
        "x-csrf-token: %s\r\n",
        OURS "sec-fetch-site: cross-site\r\nx-csrf-token: %s\r\n",
    };
    char cookie[80], csrf[64], id[20], path[64], headers[256];
    const char *const paths[] = {"/auth/sessions", "/auth/admin/sessions"};

    sign_in_as("bob", "admin", cookie, csrf, id);
    for (size_t i = 0; i < 2 * BASE_ARRAY_LEN(bad); i++) {
        snprintf(path, sizeof(path), "%s/%s", paths[i % 2], id);
        snprintf(headers, sizeof(headers), bad[i / 2], csrf);
        CHECK_INT(with_cookie("DELETE", path, cookie, headers).status, 403);
    }
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
    CHECK_INT(delete_session("/auth/admin/sessions", id, cookie, csrf).status, 204);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 401);
}

static void test_sessions__administrators_see_and_end_all(void)
{
    char bob[80], bob_csrf[64], bob_id[20], eve[80], eve_csrf[64], eve_id[20], key[80], key_id[16],
        headers[256];
    struct gate_answer answer;

    sign_in_as("bob", "employee", bob, bob_csrf, bob_id);
    sign_in_as("eve", "admin", eve, eve_csrf, eve_id);
    answer = with_cookie("GET", "/auth/admin/sessions", bob, "");
    CHECK_INT(answer.status, 403);
    CHECK(says(&answer, "admin_required") && strstr(answer.text, eve_id) == NULL);
    gate_events(gate);
    CHECK_INT(delete_session("/auth/admin/sessions", eve_id, bob, bob_csrf).status, 403);
    CHECK_INT(with_cookie("GET", "/whoami", eve, "").status, 200);

    answer = with_cookie("GET", "/auth/admin/sessions", eve, "");
    CHECK_INT(answer.status, 200);
    CHECK(says(&answer, bob_id) && says(&answer, eve_id) && says(&answer, "\"subject\":\"bob\""));
    answer = with_cookie("GET", "/auth/admin/sessions?subject=bob", eve, "");
    CHECK(says(&answer, bob_id) && strstr(answer.text, eve_id) == NULL);
    answer = with_cookie("GET", "/auth/admin/sessions?subject=bob&issuer=gatehouse:local", eve, "");
    CHECK(says(&answer, bob_id) && strstr(answer.text, eve_id) == NULL);
    answer = with_cookie("GET", "/auth/admin/sessions?subject=bob&issuer=https://idp.example", eve, "");
    CHECK(says(&answer, "{\"sessions\":[]}"));
    CHECK_INT(with_cookie("GET", "/auth/admin/sessions?subject=bob&subject=eve", eve, "").status, 400);
    CHECK_INT(with_cookie("GET", "/auth/admin/sessions?issuer=gatehouse:local", eve, "").status, 400);
    CHECK_INT(with_cookie("GET", "/auth/admin/sessions?cursor=0", eve, "").status, 200);
    CHECK_INT(with_cookie("GET", "/auth/admin/sessions?cursor=", eve, "").status, 400);
    CHECK_INT(with_cookie("GET", "/auth/admin/sessions?cursor=1%20COUNT", eve, "").status, 400);
    CHECK_INT(with_cookie("GET", "/auth/admin/sessions?subject=bob&issuer=gatehouse:local&cursor=0", eve, "")
                  .status,
              400);
    answer = with_cookie("POST", "/auth/admin/sessions", eve, "");
    CHECK_INT(answer.status, 405);
    CHECK_STR(gate_header(&answer, "allow"), "GET");
    answer = delete_session("/auth/admin/sessions", "../session", eve, eve_csrf);
    CHECK(says(&answer, "ok session eve")); /* no path of these pages: the fixture's own answer */

    CHECK_STR(gate_events(gate), "");
    CHECK_INT(delete_session("/auth/admin/sessions", bob_id, eve, eve_csrf).status, 204);
    CHECK_STR(gate_events(gate), "session.end eve;"); /* who did it */
    CHECK_INT(with_cookie("GET", "/whoami", bob, "").status, 401);

    /* a key has no sessions; an administrator's key sees them all */
    gate_new_key(gate, "--owner robot --role admin", key, key_id);
    gate_clear_cache(gate);
    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\n", key);
    CHECK_INT(gate_request(gate, "GET", "/auth/sessions", headers, "").status, 401);
    CHECK_INT(gate_request(gate, "GET", "/auth/admin/sessions", headers, "").status, 200);
    gate_new_key(gate, "--owner robot --role employee", key, key_id);
    gate_clear_cache(gate);
    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\n", key);
    CHECK_INT(gate_request(gate, "GET", "/auth/admin/sessions", headers, "").status, 403);
    CHECK_INT(gate_request(gate, "GET", "/auth/admin/sessions", "", "").status, 401);
}

/* Writes a session into the index of another person, which is not sealed. */
static void index_session(const char *issuer, const char *subject, const char *id, const char *cookie)
{
    unsigned char hash[BASE_SHA256_BYTES];
    char key[64], hex[2 * BASE_SHA256_BYTES + 1];
    const char *const argv[] = {"HSET", key, id, hex};

    snprintf(key, sizeof(key), "gh:person:%016llx",
             (unsigned long long)gw_tag(gate->pepper, GW_TAG_PERSON, issuer, subject, NULL));
    gw_token_hash(gate->pepper, GW_TOKEN_SESSION, cookie, hash);
    base_hex_encode(hash, sizeof(hash), hex);
    CHECK(rdp_command(gate->redis, argv, BASE_ARRAY_LEN(argv)) != NULL);
}

static void test_sessions__a_tampered_index_gives_nobody_elses(void)
{
    char bob[80], bob_csrf[64], bob_id[20], eve[80], eve_csrf[64], eve_id[20];
    struct gate_answer answer;

    sign_in_as("bob", "employee", bob, bob_csrf, bob_id);
    sign_in_as("eve", "admin", eve, eve_csrf, eve_id);
    index_session("gatehouse:local", "bob", eve_id, eve);
    answer = with_cookie("GET", "/auth/sessions", bob, "");
    CHECK(says(&answer, bob_id) && strstr(answer.text, eve_id) == NULL);
    CHECK_INT(delete_session("/auth/sessions", eve_id, bob, bob_csrf).status, 404);
    CHECK_INT(with_cookie("GET", "/whoami", eve, "").status, 200);
    index_session("https://idp.example", "bob", bob_id,
                  bob); /* the same name at another provider is somebody else */
    answer = with_cookie("GET", "/auth/admin/sessions?subject=bob&issuer=https://idp.example", eve, "");
    CHECK_INT(answer.status, 200);
    CHECK(says(&answer, "{\"sessions\":[]}"));
}

/* ---- cross-site requests with a cookie ---- */

static void test_csrf__table(void)
{
    char cookie[80], csrf[64], other_cookie[80], other_csrf[64], token[128], other[128], headers[512];
    struct {
        const char *headers, *token;
        int status;
    } table[] = {
        {OURS, token, 200},
        {OURS "sec-fetch-site: same-origin\r\n", token, 200},
        {OURS, "", 403},
        {OURS, "x-csrf-token: \r\n", 403},
        {OURS, "x-csrf-token: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n", 403},
        {OURS, other, 403},
        {"", token, 403},
        {"origin: null\r\n", token, 403},
        {"origin: null\r\nsec-fetch-site: same-origin\r\n", token, 403},
        {"origin: https://evil.example\r\n", token, 403},
        {"origin: https://gate.example\r\n", token, 403},
        {"origin: " GATE_ORIGIN ".evil.example\r\n", token, 403},
        {OURS "origin: https://evil.example\r\n", token, 403},
        {OURS "sec-fetch-site: cross-site\r\n", token, 403},
        {OURS "sec-fetch-site: same-site\r\n", token, 403},
        {OURS "sec-fetch-site: none\r\n", token, 403},
        {OURS "sec-fetch-site: same-origin\r\nsec-fetch-site: cross-site\r\n", token, 403},
    };

    gate_sign_in(gate, other_cookie, other_csrf);
    gate_sign_in(gate, cookie, csrf);
    snprintf(token, sizeof(token), "x-csrf-token: %s\r\n", csrf);
    snprintf(other, sizeof(other), "x-csrf-token: %s\r\n", other_csrf);
    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        struct gate_answer answer;

        snprintf(headers, sizeof(headers), "%s%s", table[i].headers, table[i].token);
        answer = with_cookie("POST", "/whoami", cookie, headers);
        if (answer.status != table[i].status)
            printf("# row %zu: %s\n", i, headers);
        CHECK_INT(answer.status, table[i].status);
        if (table[i].status == 403)
            CHECK(says(&answer, "refused csrf_failed"));
    }
    snprintf(headers, sizeof(headers), "%s%s", token, token);
    CHECK_INT(with_cookie("POST", "/whoami", cookie, headers).status, 403); /* twice: which one? */
    CHECK_INT(with_cookie("PUT", "/whoami", cookie, OURS).status, 403);
    CHECK_INT(with_cookie("DELETE", "/whoami", cookie, OURS).status, 403);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
}

static void test_csrf__keys_need_none(void)
{
    char key[80], id[16], headers[256];

    gate_new_key(gate, "--owner a --role r", key, id);
    gate_clear_cache(gate); /* waits for the key as well */
    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\norigin: https://app.example\r\n", key);
    CHECK_INT(gate_request(gate, "POST", "/whoami", headers, "").status,
              200); /* no browser sends a key by itself */
}

/* ---- Postgres away ---- */

static void test_postgres_away__nobody_signs_in_or_out(void)
{
    char cookie[80], csrf[64], token[80], headers[256];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    gate_new_link(gate, token);
    gate_clear_cache(gate);
    pgp_stop(gate->pg, true);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200); /* sessions live in Redis */
    answer = use_link(OURS FORM, token);
    CHECK_INT(answer.status, 503);
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    snprintf(headers, sizeof(headers), OURS "x-csrf-token: %s\r\n", csrf);
    answer = with_cookie("POST", "/auth/logout", cookie, headers);
    CHECK_INT(answer.status, 503);
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    CHECK_INT(with_cookie("GET", "/auth/sessions", cookie, "").status, 200);
    CHECK(pgp_start(gate->pg));
    nap_ms(100);
    CHECK_INT(with_cookie("GET", "/whoami", cookie, "").status, 200);
    CHECK_INT(use_link(OURS FORM, token).status, 303); /* was not used up */
}

/* ---- Redis away ---- */

static void test_redis_away__sessions_are_unavailable_not_open(void)
{
    char cookie[80], csrf[64], token[80];
    struct gate_answer answer;

    gate_sign_in(gate, cookie, csrf);
    gate_new_link(gate, token);
    gate_clear_cache(gate);
    rdp_kill(gate->redis);
    nap_ms(100);
    answer = with_cookie("GET", "/whoami", cookie, "");
    CHECK_INT(answer.status, 503);
    CHECK(says(&answer, "refused identity_unavailable"));
    CHECK_INT(with_cookie("GET", "/auth/session", cookie, "").status, 503);
    CHECK_INT(with_cookie("GET", "/auth/sessions", cookie, "").status, 503);
    answer = use_link(OURS FORM, token);
    CHECK_INT(answer.status, 503);
    CHECK_STR(gate_header(&answer, "set-cookie"), "");
    CHECK(rdp_start(gate->redis)); /* empty */
    for (unsigned i = 0; i < 150 && with_cookie("GET", "/whoami", cookie, "").status == 503; i++)
        nap_ms(20);
    answer = with_cookie("GET", "/whoami", cookie, "");
    CHECK(says(&answer, "refused session_ended"));
    for (unsigned i = 0; i < 100 && answer.status != 303; i++) { /* the other loop's connection, too */
        answer = use_link(OURS FORM, token);
        nap_ms(20);
    }
    CHECK_INT(answer.status, 303); /* was not used up */
}

/* For tests/mutations.py: which case notices that a check is gone. */
static const struct {
    const char *check, *name;
} checks[] = {
    {"sessions.admin", "test_sessions__administrators_see_and_end_all"},
    {"sessions.is_session", "test_sessions__administrators_see_and_end_all"},
    {"sessions.own", "test_sessions__ones_own_are_listed_and_ended"},
    {"sessions.subject", "test_sessions__a_tampered_index_gives_nobody_elses"},
    {"sessions.issuer", "test_sessions__a_tampered_index_gives_nobody_elses"},
};

/* --list, or the case for the check that is switched off; NULL: all cases. */
static const char *case_of_check(const char *check)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(checks); i++) {
        if (check == NULL)
            printf("%s %s\n", checks[i].check, checks[i].name);
        else if (strcmp(checks[i].check, check) == 0)
            return checks[i].name;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_link__page_leaks_nothing_and_uses_nothing),
        CASE(test_link__page_refuses_what_is_no_link),
        CASE(test_link__signs_in_once),
        CASE(test_link__of_many_at_once_one_wins),
        CASE(test_link__expires),
        CASE(test_link__cross_site_posts),
        CASE(test_link__never_a_session_of_the_clients_choice),
        CASE(test_link__cannot_be_recorded),
        CASE(test_session__who_am_i),
        CASE(test_session__forged_cookies),
        CASE(test_session__idle),
        CASE(test_session__absolute_end),
        CASE(test_logout__ends_it_everywhere),
        CASE(test_sessions__ones_own_are_listed_and_ended),
        CASE(test_sessions__cross_site_ends_nothing),
        CASE(test_sessions__administrators_see_and_end_all),
        CASE(test_sessions__a_tampered_index_gives_nobody_elses),
        CASE(test_csrf__table),
        CASE(test_csrf__keys_need_none),
        CASE(test_postgres_away__nobody_signs_in_or_out),
        CASE(test_redis_away__sessions_are_unavailable_not_open),
    };
    const char *off = getenv("GH_CHECK_OFF"), *only = off != NULL ? case_of_check(off) : NULL;
    char *one_case[] = {argv[0], (char *)only, NULL};
    int status;

    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        case_of_check(NULL);
        return 0;
    }
    gate = gate_new();
    status = only != NULL ? tap_main(cases, BASE_ARRAY_LEN(cases), 2, one_case)
                          : tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    gate_free(gate);
    return status;
}
