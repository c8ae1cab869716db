/* TOTP against the vectors of RFC 6238, appendix B (SHA-1, the last six of eight digits), and that each code counts once. */
#include "gateway/totp.h"
#include "tap.h"

#include <string.h>

static const unsigned char *secret = (const unsigned char *)"12345678901234567890";

static void test_code__vectors(void)
{
    static const struct {
        int64_t time_s;
        const char *code;
    } vectors[] = {{59, "287082"},         {1111111109, "081804"}, {1111111111, "050471"},
                   {1234567890, "005924"}, {2000000000, "279037"}, {20000000000, "353130"}};

    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        char code[7];

        gw_totp_code(secret, vectors[i].time_s / GW_TOTP_STEP_S, code);
        CHECK_STR(code, vectors[i].code);
        CHECK_INT(gw_totp_check(secret, vectors[i].code, vectors[i].time_s, 0),
                  vectors[i].time_s / GW_TOTP_STEP_S);
    }
}

static void test_check__one_step_either_way(void)
{
    const int64_t now_s = 1111111111, step = now_s / GW_TOTP_STEP_S;
    char code[7];

    for (int64_t d = -3; d <= 3; d++) {
        gw_totp_code(secret, step + d, code);
        CHECK_INT(gw_totp_check(secret, code, now_s, 0), d >= -1 && d <= 1 ? step + d : 0);
    }
}

static void test_check__once(void)
{
    const int64_t now_s = 1111111111, step = now_s / GW_TOTP_STEP_S;
    char code[7], before[7];

    gw_totp_code(secret, step, code);
    gw_totp_code(secret, step - 1, before);
    CHECK_INT(gw_totp_check(secret, code, now_s, step - 1), step);
    CHECK_INT(gw_totp_check(secret, code, now_s, step), 0);
    CHECK_INT(gw_totp_check(secret, before, now_s, step), 0); /* nor an older one after a newer */
}

static void test_check__no_code(void)
{
    static const char *const bad[] = {"", "05047", "0504711", "05047a", "      ", "05047\xb2"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_INT(gw_totp_check(secret, bad[i], 1111111111, 0), 0);
}

static void test_base32__rfc4648(void)
{
    char text[GW_TOTP_BASE32_LEN + 1];

    gw_totp_base32(secret, text);
    CHECK_STR(text, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {CASE(test_code__vectors), CASE(test_check__one_step_either_way),
                                            CASE(test_check__once), CASE(test_check__no_code),
                                            CASE(test_base32__rfc4648)};

    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        puts("local.code_once test_check__once");
        return 0;
    }
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
