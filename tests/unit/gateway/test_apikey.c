/* API keys: their form, and what is refused before any look-up. */
#include "gateway/apikey.h"

#include "base/mem.h"
#include "tap.h"

#include <ctype.h>

/* Computed apart from this code (id, bytes 0 to 31, CRC-32C): the format may not change under keys that are
 * in use. */
#define KEPT     "gh_abcdefghijkl_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
#define KEPT_SUM "c7Y8rQ"

static void test_apikey_create__parses_and_differs(void)
{
    char a[GW_APIKEY_LEN + 1], b[GW_APIKEY_LEN + 1], id_a[GW_APIKEY_ID_LEN + 1], id_b[GW_APIKEY_ID_LEN + 1],
        parsed[GW_APIKEY_ID_LEN + 1];

    for (unsigned i = 0; i < 200; i++) {
        gw_apikey_create(a, id_a);
        gw_apikey_create(b, id_b);
        CHECK_INT(strlen(a), GW_APIKEY_LEN);
        CHECK(memcmp(a, "gh_", 3) == 0);
        CHECK(gw_apikey_id_valid(id_a));
        CHECK(gw_apikey_parse(a, strlen(a), parsed));
        CHECK_STR(parsed, id_a);
        CHECK(strcmp(a, b) != 0);
        CHECK(strcmp(id_a, id_b) != 0);
    }
}

static void test_apikey_parse__refuses_every_changed_character(void)
{
    char key[GW_APIKEY_LEN + 1], id[GW_APIKEY_ID_LEN + 1];

    gw_apikey_create(key, id);
    for (unsigned i = 0; i < GW_APIKEY_LEN; i++) {
        char kept = key[i];

        key[i] = kept == 'b' ? 'c' : 'b';
        if (gw_apikey_parse(key, GW_APIKEY_LEN, NULL))
            printf("# position %u\n", i);
        CHECK(!gw_apikey_parse(key, GW_APIKEY_LEN, NULL));
        key[i] = kept;
    }
    CHECK(gw_apikey_parse(key, GW_APIKEY_LEN, NULL));
}

static void test_apikey_parse__malformed(void)
{
    char key[GW_APIKEY_LEN + 1], id[GW_APIKEY_ID_LEN + 1], changed[2 * GW_APIKEY_LEN];

    gw_apikey_create(key, id);
    CHECK(gw_apikey_parse(key, GW_APIKEY_LEN, NULL)); /* the twin of all below */
    CHECK(!gw_apikey_parse("", 0, NULL));
    CHECK(!gw_apikey_parse(key, GW_APIKEY_LEN - 1, NULL));
    CHECK(!gw_apikey_parse("gh_", 3, NULL));
    snprintf(changed, sizeof(changed), "%s ", key);
    CHECK(!gw_apikey_parse(changed, strlen(changed), NULL));
    snprintf(changed, sizeof(changed), " %s", key);
    CHECK(!gw_apikey_parse(changed, strlen(changed), NULL));
    CHECK(!gw_apikey_parse(changed, GW_APIKEY_LEN, NULL));
    memcpy(changed, key, sizeof(key));
    changed[0] = 'G';
    CHECK(!gw_apikey_parse(changed, GW_APIKEY_LEN, NULL));
    memcpy(changed, key, sizeof(key));
    changed[20] = '\0';
    CHECK(!gw_apikey_parse(changed, GW_APIKEY_LEN, NULL));
    changed[20] = '=';
    CHECK(!gw_apikey_parse(changed, GW_APIKEY_LEN, NULL));
    changed[20] = '+'; /* base64, not base64url */
    CHECK(!gw_apikey_parse(changed, GW_APIKEY_LEN, NULL));
    memcpy(changed, key, sizeof(key));
    for (unsigned i = 3; i < 15; i++)
        changed[i] = (char)toupper(changed[i]);
    CHECK(!gw_apikey_parse(changed, GW_APIKEY_LEN, NULL));
}

static void test_apikey_parse__a_kept_key_stays_valid(void)
{
    char id[GW_APIKEY_ID_LEN + 1];

    CHECK(gw_apikey_parse(KEPT KEPT_SUM, GW_APIKEY_LEN, id));
    CHECK_STR(id, "abcdefghijkl");
    CHECK(!gw_apikey_parse(KEPT "AAAAAA", GW_APIKEY_LEN, id));
}

static void test_apikey_id_valid__table(void)
{
    CHECK(gw_apikey_id_valid("abcdefgh2347"));
    CHECK(!gw_apikey_id_valid("abcdefgh234"));
    CHECK(!gw_apikey_id_valid("abcdefgh23456"));
    CHECK(!gw_apikey_id_valid("abcdefgh2348"));
    CHECK(!gw_apikey_id_valid("ABCDEFGH2347"));
    CHECK(!gw_apikey_id_valid(""));
}

static void test_apikey_hash__depends_on_key_and_pepper(void)
{
    unsigned char first[32] = {1}, second[32] = {2}, a[32], b[32], again[32];
    struct base_secret *p1 = base_secret_new(first, 32), *p2 = base_secret_new(second, 32);
    char key[GW_APIKEY_LEN + 1], other[GW_APIKEY_LEN + 1], id[GW_APIKEY_ID_LEN + 1];

    gw_apikey_create(key, id);
    gw_apikey_create(other, id);
    gw_apikey_hash(p1, key, a);
    gw_apikey_hash(p1, key, again);
    gw_apikey_hash(p2, key, b);
    CHECK(memcmp(a, again, 32) == 0);
    CHECK(memcmp(a, b, 32) != 0);
    gw_apikey_hash(p1, other, b);
    CHECK(memcmp(a, b, 32) != 0);
    base_secret_free(p1);
    base_secret_free(p2);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_apikey_create__parses_and_differs),
        CASE(test_apikey_parse__refuses_every_changed_character),
        CASE(test_apikey_parse__malformed),
        CASE(test_apikey_parse__a_kept_key_stays_valid),
        CASE(test_apikey_id_valid__table),
        CASE(test_apikey_hash__depends_on_key_and_pepper),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
