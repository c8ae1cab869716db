/* Local administrators ("break glass"): name, password and code. Each attack beside its valid twin. */
#include "machine_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include "gateway/local_admin.h"

#include <pthread.h>
#include <sys/stat.h>

#define FORM "content-type: application/x-www-form-urlencoded\r\n"
#define OURS "origin: " GATE_ORIGIN "\r\n"

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
    for (unsigned i = 0; i < 100 && gate_request(gate, "GET", "/whoami", cookie, "").status != 401; i++)
        nap_ms(100);
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

static const struct fixture_check checks[] = {
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

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
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

    if (list_checks(checks, BASE_ARRAY_LEN(checks), argc, argv))
        return 0;
    set_up();
    return tear_down(tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv));
}
