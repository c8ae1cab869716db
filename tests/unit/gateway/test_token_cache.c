/* Token cache: expiry, policies, routes, sets that are full. */
#include "gateway/token_cache.h"
#include "tap.h"

#include <stdio.h>
#include <string.h>

#define T0 1800000000000000ll

static struct gw_token_entry entry_of(const char *subject, int64_t until_us)
{
    struct gw_token_entry entry = {.until_us = until_us};

    entry.who.method = subject != NULL ? GW_AUTH_BEARER : GW_AUTH_NONE;
    snprintf(entry.who.subject, sizeof(entry.who.subject), "%s", subject != NULL ? subject : "");
    return entry;
}

static void put(struct gw_token_cache *cache, unsigned char first, const char *subject, int64_t until_us)
{
    unsigned char key[BASE_SHA256_BYTES] = {0};
    struct gw_token_entry entry = entry_of(subject, until_us);

    key[BASE_SHA256_BYTES - 1] = first; /* the same set, another key */
    gw_token_cache_put(cache, key, 1, T0, &entry);
}

static const char *found(struct gw_token_cache *cache, unsigned char first, uint64_t policy, int64_t now_us)
{
    static struct gw_token_entry entry;
    unsigned char key[BASE_SHA256_BYTES] = {0};

    key[BASE_SHA256_BYTES - 1] = first;
    if (!gw_token_cache_find(cache, key, policy, now_us, &entry))
        return "nothing";
    return entry.who.method == GW_AUTH_BEARER ? entry.who.subject : "refused";
}

static void test_cache__times(void)
{
    struct gw_token_cache *cache = gw_token_cache_new(64);

    put(cache, 1, "short", T0 + 1000000);
    put(cache, 2, "long", T0 + 999 * GW_TOKEN_KEEP_US);
    put(cache, 3, NULL, T0 + 999 * GW_TOKEN_KEEP_US);
    put(cache, 4, "over", T0);
    CHECK_STR(found(cache, 1, 1, T0 + 999999), "short");
    CHECK_STR(found(cache, 1, 1, T0 + 1000000), "nothing");
    CHECK_STR(found(cache, 2, 1, T0 + GW_TOKEN_KEEP_US - 1), "long");
    CHECK_STR(found(cache, 2, 1, T0 + GW_TOKEN_KEEP_US), "nothing");
    CHECK_STR(found(cache, 3, 1, T0 + GW_TOKEN_REFUSE_US - 1), "refused");
    CHECK_STR(found(cache, 3, 1, T0 + GW_TOKEN_REFUSE_US), "nothing");
    CHECK_STR(found(cache, 4, 1, T0), "nothing");
    gw_token_cache_free(cache);
}

static void test_cache__of_another_policy(void)
{
    struct gw_token_cache *cache = gw_token_cache_new(64);

    put(cache, 1, "one", T0 + 1000000);
    CHECK_STR(found(cache, 1, 1, T0), "one");
    CHECK_STR(found(cache, 1, 2, T0), "nothing");
    gw_token_cache_free(cache);
}

static void test_cache__keys(void)
{
    unsigned char api[BASE_SHA256_BYTES], scim[BASE_SHA256_BYTES], other[BASE_SHA256_BYTES];

    gw_token_cache_key(GW_ROUTE_API, "token", 5, api);
    gw_token_cache_key(GW_ROUTE_SCIM, "token", 5, scim);
    gw_token_cache_key(GW_ROUTE_API, "tokem", 5, other);
    CHECK(memcmp(api, scim, sizeof(api)) != 0);
    CHECK(memcmp(api, other, sizeof(api)) != 0);
    gw_token_cache_key(GW_ROUTE_API, "token", 5, other);
    CHECK(memcmp(api, other, sizeof(api)) == 0);
}

static void test_cache__keys_that_meet_in_a_set(void)
{
    struct gw_token_cache *cache = gw_token_cache_new(8);

    put(cache, 1, "one", T0 + 1000000);
    put(cache, 2, "two", T0 + 1000000);
    CHECK_STR(found(cache, 1, 1, T0), "one");
    CHECK_STR(found(cache, 2, 1, T0), "two");
    CHECK_STR(found(cache, 3, 1, T0), "nothing");
    put(cache, 1, NULL, T0 + 1000000); /* itself: what was good is refused now */
    CHECK_STR(found(cache, 1, 1, T0), "refused");
    gw_token_cache_free(cache);
}

static void test_cache__full(void)
{
    struct gw_token_cache *cache = gw_token_cache_new(8);
    char name[8];

    for (unsigned char i = 1; i <= 8; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        put(cache, i, name, T0 + 1000000 * i);
    }
    for (unsigned char i = 100; i < 200; i++)
        put(cache, i, NULL, T0 + 1000000); /* rubbish pushes nobody out */
    for (unsigned char i = 1; i <= 8; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        CHECK_STR(found(cache, i, 1, T0), name);
    }
    put(cache, 9, "n9", T0 + 9000000); /* a good one takes the place of the one that ends first */
    CHECK_STR(found(cache, 9, 1, T0), "n9");
    CHECK_STR(found(cache, 1, 1, T0), "nothing");
    CHECK_STR(found(cache, 2, 1, T0), "n2");
    gw_token_cache_free(cache);
}

static void test_cache__refusals_give_way(void)
{
    struct gw_token_cache *cache = gw_token_cache_new(8);

    for (unsigned char i = 1; i <= 8; i++)
        put(cache, i, NULL, T0 + 1000000);
    put(cache, 20, "good", T0 + 1000000);
    CHECK_STR(found(cache, 20, 1, T0), "good");
    gw_token_cache_free(cache);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_cache__times), CASE(test_cache__of_another_policy),
        CASE(test_cache__keys),  CASE(test_cache__keys_that_meet_in_a_set),
        CASE(test_cache__full),  CASE(test_cache__refusals_give_way)};
    static const char *const checks[][2] = {{"auth.token_fresh", "test_cache__times"},
                                            {"auth.token_keep", "test_cache__times"},
                                            {"auth.token_policy", "test_cache__of_another_policy"},
                                            {"auth.token_route", "test_cache__keys"}};

    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
            printf("%s %s\n", checks[i][0], checks[i][1]);
        return 0;
    }
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
