/* The sealed record and the set of revocations: pure parts of sessions. */
#include "tap.h"

#include "base/mem.h"
#include "gateway/revocations.h"
#include "gateway/session_seal.h"
#include "gateway/tags.h"

static unsigned char key[BASE_GCM_KEY_BYTES] = "a key of thirty-two bytes, more";
static const unsigned char hash[BASE_SHA256_BYTES] = "one hash", other_hash[BASE_SHA256_BYTES] = "another";

static struct gw_session_record sample(void)
{
    return (struct gw_session_record){
        .who = {.method = GW_AUTH_SESSION,
                .issuer = "https://idp.example",
                .subject = "zo\xc3\xab",
                .tenant = "default",
                .roles = {"admin", "staff"},
                .n_roles = 2,
                .credential_id = "0123456789abcdef",
                .since_us = 1},
        .provider = "corp",
        .sid = "sid",
        .directory_key = "zoe@example.com",
        .name = "Zo\xc3\xab",
        .email = "zoe@example.com",
        .from = "10.0.0.1",
        .started_us = 2,
        .seen_us = 3,
        .expires_at_us = 4,
        .refresh_at_us = 5,
        .refresh_token = (char *)"refresh",
        .logout_hint = (char *)"hint",
    };
}

static void test_seal__round_trip(void)
{
    struct gw_session_record record = sample(), back = {0};
    auto_buf struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);

    CHECK_INT(gw_session_seal(key, hash, &record, &sealed), BASE_OK);
    CHECK_INT(gw_session_open(key, hash, sealed.data, sealed.len, &back), BASE_OK);
    CHECK_STR(back.who.issuer, record.who.issuer);
    CHECK_STR(back.who.subject, record.who.subject);
    CHECK_STR(back.who.tenant, record.who.tenant);
    CHECK_INT(back.who.n_roles, 2);
    CHECK_STR(back.who.roles[1], "staff");
    CHECK(back.who.is_admin && back.who.method == GW_AUTH_SESSION);
    CHECK_STR(back.who.credential_id, record.who.credential_id);
    CHECK_STR(back.provider, "corp");
    CHECK_STR(back.sid, "sid");
    CHECK_STR(back.directory_key, record.directory_key);
    CHECK_STR(back.name, record.name);
    CHECK_STR(back.email, record.email);
    CHECK_STR(back.from, record.from);
    CHECK(back.who.since_us == 1 && back.started_us == 2 && back.seen_us == 3 && back.expires_at_us == 4 &&
          back.refresh_at_us == 5);
    CHECK_STR(back.refresh_token, "refresh");
    CHECK_STR(back.logout_hint, "hint");
    gw_session_record_free(&back);
}

static void test_open__any_bit_changed_or_cut(void)
{
    struct gw_session_record record = sample(), back;
    auto_buf struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);

    CHECK_INT(gw_session_seal(key, hash, &record, &sealed), BASE_OK);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[i] ^= 4;
        CHECK_INT(gw_session_open(key, hash, sealed.data, sealed.len, &back), BASE_CORRUPT);
        sealed.data[i] ^= 4;
        CHECK_INT(gw_session_open(key, hash, sealed.data, i, &back), BASE_CORRUPT);
    }
    CHECK_INT(gw_session_open(key, other_hash, sealed.data, sealed.len, &back), BASE_CORRUPT);
    CHECK_INT(gw_session_open(key, hash, sealed.data, sealed.len, &back), BASE_OK);
    gw_session_record_free(&back);
}

static void test_seal__too_long(void)
{
    struct gw_session_record record = sample();
    auto_buf struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);
    auto_free char *text = base_zalloc(GW_SEAL_MAX + 1);

    memset(text, 'x', GW_SEAL_MAX);
    record.refresh_token = text;
    CHECK_INT(gw_session_seal(key, hash, &record, &sealed), BASE_TOO_LARGE);
    text[GW_SEAL_MAX / 2] = '\0';
    CHECK_INT(gw_session_seal(key, hash, &record, &sealed), BASE_OK);
}

static void count(const struct gw_revocation *revocation, void *user)
{
    (*(unsigned *)user)++;
}

static void test_revocations__meet_and_expire(void)
{
    struct gw_revocations *set = gw_revocations_new();
    struct gw_revocation r = {.kind = GW_REVOCATION_PERSON, .tag = 7, .at_us = 100, .until_us = 1000};
    unsigned n_new = 0;

    gw_revocations_listen(set, count, &n_new);
    gw_revocations_add(set, &r, 50);
    gw_revocations_add(set, &r, 50); /* as notified and as polled */
    CHECK_INT(n_new, 1);
    CHECK(gw_revocations_meet(set, GW_REVOCATION_PERSON, 7, 100));
    CHECK(!gw_revocations_meet(set, GW_REVOCATION_PERSON, 7, 101)); /* proved since */
    CHECK(!gw_revocations_meet(set, GW_REVOCATION_SID, 7, 0));
    CHECK(!gw_revocations_meet(set, GW_REVOCATION_PERSON, 0, 0));
    r.at_us = 200;
    gw_revocations_add(set, &r, 50);
    CHECK_INT(n_new, 2);
    CHECK(gw_revocations_meet(set, GW_REVOCATION_PERSON, 7, 101));
    for (uint64_t tag = 1; tag <= 5000; tag++)
        gw_revocations_add(
            set,
            &(struct gw_revocation){
                .kind = GW_REVOCATION_SESSION, .tag = tag << 20, .at_us = 1, .until_us = 500 + (int64_t)tag},
            50);
    CHECK_INT(gw_revocations_count(set), 5001);
    for (uint64_t tag = 1; tag <= 5000; tag++)
        CHECK(gw_revocations_meet(set, GW_REVOCATION_SESSION, tag << 20, 0));
    gw_revocations_expire(set, 1000); /* person: until 1000, sessions: until 501 .. 5500 */
    CHECK_INT(gw_revocations_count(set), 4500);
    CHECK(!gw_revocations_meet(set, GW_REVOCATION_PERSON, 7, 0));
    CHECK(gw_revocations_meet(set, GW_REVOCATION_SESSION, (uint64_t)5000 << 20, 0));
    gw_revocations_free(set);
}

static void test_tag__keeps_apart(void)
{
    struct base_secret *pepper = base_secret_new("a pepper of thirty-two bytes....", 32);
    uint64_t one = gw_tag(pepper, GW_TAG_PERSON, "ab", "c", NULL);

    CHECK(one != 0 && one == gw_tag(pepper, GW_TAG_PERSON, "ab", "c", ""));
    CHECK(one != gw_tag(pepper, GW_TAG_PERSON, "a", "bc", NULL));
    CHECK(one != gw_tag(pepper, GW_TAG_SID, "ab", "c", NULL));
    CHECK(one != gw_tag(pepper, GW_TAG_PERSON, "AB", "c", NULL));
    CHECK(gw_tag(pepper, GW_TAG_DIRECTORY, "Ada", NULL, NULL) ==
          gw_tag(pepper, GW_TAG_DIRECTORY, "aDA", NULL, NULL));
    CHECK_INT(gw_tag(pepper, GW_TAG_DIRECTORY, "", NULL, NULL), 0);
    base_secret_free(pepper);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_seal__round_trip), CASE(test_open__any_bit_changed_or_cut),
        CASE(test_seal__too_long),   CASE(test_revocations__meet_and_expire),
        CASE(test_tag__keeps_apart),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
