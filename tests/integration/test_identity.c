/* API keys from the command to the request: real Postgres, real server. */
#include "gate_private.h"
#include "tap.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#include <pthread.h>
#include <time.h>

static struct gate *gate;

static void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* The answer of /whoami for header lines: "refused CODE" or "ok ...". */
static const char *whoami(const char *headers)
{
    static struct gate_answer answer;
    const char *body;

    answer = gate_request(gate, "GET", "/whoami", headers, "");
    body = strstr(answer.text, "\r\n\r\n");
    return body != NULL ? body + 4 : "no answer";
}

static const char *whoami_key(const char *key)
{
    char headers[256];

    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\n", key);
    return whoami(headers);
}

static bool becomes(const char *key, const char *wanted, unsigned within_ms, uint64_t *ret_took_ms)
{
    uint64_t began = base_mono_ms();

    do {
        if (strncmp(whoami_key(key), wanted, strlen(wanted)) == 0) {
            if (ret_took_ms != NULL)
                *ret_took_ms = base_mono_ms() - began;
            return true;
        }
        nap_ms(5);
    } while (base_mono_ms() - began < within_ms);
    printf("# last answer: %s\n", whoami_key(key));
    return false;
}

/* A new key that the gate knows. */
static void ready_key(const char *options, char key[80], char id[16])
{
    gate_new_key(gate, options, key, id);
    CHECK(becomes(key, "ok", 1000, NULL));
}

static void test_key__identifies_its_owner(void)
{
    char key[80], id[16], expected[256];

    ready_key("--owner billing-app --role engineer --role batch", key, id);
    snprintf(expected, sizeof(expected), "ok api_key billing-app engineer,batch %s user", id);
    CHECK_STR(whoami_key(key), expected);
    ready_key("--owner ops --role admin", key, id);
    snprintf(expected, sizeof(expected), "ok api_key ops admin %s admin", id);
    CHECK_STR(whoami_key(key), expected);
}

static void test_key__three_headers_are_the_same(void)
{
    char key[80], id[16], headers[256];

    ready_key("--owner a --role r", key, id);
    snprintf(headers, sizeof(headers), "x-api-key: %s\r\n", key);
    CHECK(strncmp(whoami(headers), "ok", 2) == 0);
    snprintf(headers, sizeof(headers), "api-key: %s\r\n", key);
    CHECK(strncmp(whoami(headers), "ok", 2) == 0);
    snprintf(headers, sizeof(headers), "authorization: bEaReR %s\r\n", key);
    CHECK(strncmp(whoami(headers), "ok", 2) == 0);
}

static void test_key__one_credential_exactly(void)
{
    static const char *const pairs[] = {"authorization: Bearer %s\r\nx-api-key: %s\r\n",
                                        "authorization: Bearer %s\r\nauthorization: Bearer %s\r\n",
                                        "x-api-key: %s\r\nx-api-key: %s\r\n",
                                        "x-api-key: %s\r\napi-key: %s\r\n",
                                        "x-api-key: %s\r\ncookie: __Host-gatehouse=%s\r\n",
                                        "cookie: __Host-gatehouse=%s; __Host-gatehouse=%s\r\n",
                                        "authorization: Bearer %s\r\ncookie: __Host-gatehouse=%s\r\n"};
    char key[80], id[16], headers[512];

    ready_key("--owner a --role r", key, id);
    CHECK_STR(whoami(""), "refused missing_credentials");
    CHECK_STR(whoami("cookie: theme=dark\r\n"), "refused missing_credentials");
    for (size_t i = 0; i < BASE_ARRAY_LEN(pairs); i++) {
        snprintf(headers, sizeof(headers), pairs[i], key, key);
        CHECK_STR(whoami(headers), "refused invalid_api_key");
    }
    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\ncookie: theme=dark\r\n",
             key); /* another cookie is none */
    CHECK(strncmp(whoami(headers), "ok", 2) == 0);
}

static void test_key__wrong_ones_look_alike(void)
{
    char key[80], id[16], other[GW_APIKEY_LEN + 1], headers[256];

    ready_key("--owner a --role r", key, id);
    gw_apikey_create(other, id); /* well formed and unknown */
    CHECK_STR(whoami_key(other), "refused invalid_api_key");
    memcpy(other + 3, key + 3, 12); /* a known id with another secret: the checksum no longer fits */
    CHECK_STR(whoami_key(other), "refused invalid_api_key");
    CHECK_STR(whoami_key("sk-1234"), "refused invalid_api_key");
    CHECK_STR(whoami_key(""), "refused invalid_api_key");
    snprintf(headers, sizeof(headers), "authorization: Basic %s\r\n", key);
    CHECK_STR(whoami(headers), "refused invalid_api_key");
    snprintf(headers, sizeof(headers), "authorization: %s\r\n", key);
    CHECK_STR(whoami(headers), "refused invalid_api_key");
    CHECK_STR(whoami("x-api-key: \r\n"), "refused invalid_api_key");
}

static void test_key__known_id_with_another_secret_and_right_checksum(void)
{
    char key[80], id[16], forged[GW_APIKEY_LEN + 1], sum[8];
    unsigned char bytes[4];
    uint32_t crc;

    ready_key("--owner a --role r", key, id);
    memcpy(forged, key, GW_APIKEY_LEN + 1);
    forged[20] = forged[20] == 'A' ? 'B' : 'A';
    crc = base_crc32c(0, forged, 59);
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = (unsigned char)(crc >> (24 - 8 * i));
    base_b64url_encode(bytes, 4, sum);
    memcpy(forged + 59, sum, 6);
    CHECK(gw_apikey_parse(forged, GW_APIKEY_LEN, NULL)); /* its form is right */
    CHECK_STR(whoami_key(forged), "refused invalid_api_key");
}

static void test_revoke__within_a_second(void)
{
    char key[80], id[16], line[64], out[4096];
    uint64_t took = 0;

    ready_key("--owner a --role r", key, id);
    snprintf(line, sizeof(line), "key revoke %s", id);
    CHECK_INT(gate_command(gate, line, out), 0);
    CHECK(becomes(key, "refused revoked_api_key", 1000, &took));
    printf("# revoked after %llu ms\n", (unsigned long long)took);
    CHECK_INT(gate_command(gate, line, out), 0); /* again: said, not an error */
    CHECK(strstr(out, "before") != NULL);
}

static void test_revoke__without_the_notification(void)
{
    char key[80], id[16], sql[512];
    uint64_t took = 0;

    ready_key("--owner a --role r", key, id);
    snprintf(sql, sizeof(sql),
             "BEGIN; ALTER TABLE identity.api_keys DISABLE TRIGGER api_keys_changed;"
             "UPDATE identity.api_keys SET revoked_at = now() WHERE key_id = '%s';"
             "ALTER TABLE identity.api_keys ENABLE TRIGGER api_keys_changed;"
             "UPDATE identity.versions SET version = version + 1; COMMIT",
             id);
    gate_sql(gate, sql);
    CHECK(becomes(key, "refused revoked_api_key", 1000, &took));
    printf("# seen by the poll after %llu ms\n", (unsigned long long)took);
}

static void test_expired__by_the_clock(void)
{
    char key[80], id[16], sql[256];

    gate_new_key(gate, "--owner a --role r --expires 1h", key, id);
    CHECK(becomes(key, "ok", 1000, NULL));
    snprintf(sql, sizeof(sql),
             "UPDATE identity.api_keys SET expires_at = now() + interval '600 ms' WHERE key_id = '%s'", id);
    gate_sql(gate, sql);
    nap_ms(300);
    CHECK(strncmp(whoami_key(key), "ok", 2) == 0);
    CHECK(becomes(key, "refused expired_api_key", 1500, NULL));
}

static void test_postgres_away__known_keys_go_on(void)
{
    char key[80], id[16], soon[80], soon_id[16], revoked[80], revoked_id[16], unknown[GW_APIKEY_LEN + 1],
        line[256], out[4096];
    struct gw_store_stats stats;

    ready_key("--owner a --role r", key, id);
    ready_key("--owner b --role r --expires 1h", soon, soon_id);
    ready_key("--owner c --role r", revoked, revoked_id);
    snprintf(line, sizeof(line), "key revoke %s", revoked_id);
    CHECK_INT(gate_command(gate, line, out), 0);
    CHECK(becomes(revoked, "refused revoked", 1000, NULL));
    snprintf(line, sizeof(line),
             "UPDATE identity.api_keys SET expires_at = now() + interval '1500 ms' WHERE key_id = '%s'",
             soon_id);
    gate_sql(gate, line);
    nap_ms(300);
    pgp_stop(gate->pg, true);
    CHECK(strncmp(whoami_key(key), "ok", 2) == 0);
    CHECK(strncmp(whoami_key(soon), "ok", 2) == 0);
    nap_ms(1700);
    CHECK(strncmp(whoami_key(key), "ok", 2) == 0);
    CHECK_STR(whoami_key(soon), "refused expired_api_key");
    CHECK_STR(whoami_key(revoked), "refused revoked_api_key");
    gw_apikey_create(unknown, id);
    CHECK_STR(whoami_key(unknown), "refused invalid_api_key");
    gw_store_get_stats(gate->store, &stats);
    CHECK(!stats.up && stats.ready);
    CHECK(stats.contact_age_ms > 1500);
    CHECK_INT(gate_command(gate, "key list", out), 1);
    CHECK(strstr(out, "Is Postgres running") != NULL);
    CHECK(pgp_start(gate->pg));
    gate_new_key(gate, "--owner d --role r", key, id); /* and learns of new ones again */
    CHECK(becomes(key, "ok", 3000, NULL));
    gw_store_get_stats(gate->store, &stats);
    CHECK(stats.up);
}

static void test_store__stale_keys_and_never_loaded(void)
{
    struct gw_store *stale = gw_store_open(
                        &(struct gw_store_options){.dsn = gate_dsn(gate), .key_stale_max_s = 1}),
                    *never;
    unsigned char hash[32] = {0};
    struct gw_principal who;
    enum gw_key_state before, after, none;
    struct gw_store_stats stats;

    CHECK(gw_store_wait_ready(stale, 5000));
    before = gw_store_key_find(stale, hash, &who);
    pgp_stop(gate->pg, true);
    nap_ms(1300);
    after = gw_store_key_find(stale, hash, &who);
    never = gw_store_open(&(struct gw_store_options){.dsn = gate_dsn(gate)});
    CHECK(!gw_store_wait_ready(never, 100));
    none = gw_store_key_find(never, hash, &who);
    gw_store_get_stats(never, &stats);
    CHECK(pgp_start(gate->pg));
    CHECK(gw_store_wait_ready(never, 5000));
    gw_store_free(never);
    gw_store_free(stale);
    CHECK_INT(before, GW_KEY_UNKNOWN);
    CHECK_INT(after, GW_KEY_UNAVAILABLE);
    CHECK_INT(none, GW_KEY_UNAVAILABLE);
    CHECK(!stats.ready && !stats.up);
}

static void test_last_used__written_in_batches(void)
{
    char key[80], id[16], sql[256];
    int64_t seen = 0;

    ready_key("--owner a --role r", key, id);
    snprintf(sql, sizeof(sql), "SELECT count(last_used_at) FROM identity.api_keys WHERE key_id = '%s'", id);
    for (unsigned i = 0; i < 100 && seen == 0; i++) { /* this gate writes every second */
        nap_ms(50);
        seen = gate_sql_int(gate, sql);
    }
    CHECK_INT(seen, 1);
    snprintf(
        sql, sizeof(sql),
        "SELECT (now() - last_used_at < interval '1 min')::int FROM identity.api_keys WHERE key_id = '%s'",
        id);
    CHECK_INT(gate_sql_int(gate, sql), 1);
}

static void test_bad_rows__are_left_out(void)
{
    char key[80], id[16];
    struct gw_store_stats stats;

    /* the table's own checks dropped: the store still believes nothing */
    gate_sql(
        gate,
        "BEGIN; ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_roles_check;"
        "INSERT INTO identity.api_keys (key_id, key_hash, issuer, subject, roles) SELECT 'aaaaaaaaaaaa', "
        "decode(repeat('ab', 32), 'hex'), 'i', 's', array_agg('r' || n) FROM generate_series(1, 17) n; "
        "COMMIT");
    ready_key("--owner a --role r", key, id);
    gw_store_get_stats(gate->store, &stats);
    gate_sql(
        gate,
        "DELETE FROM identity.api_keys WHERE key_id = 'aaaaaaaaaaaa';"
        "ALTER TABLE identity.api_keys ADD CONSTRAINT api_keys_roles_check CHECK (identity.roles_ok(roles))");
    CHECK_INT(stats.bad_keys, 1);
}

static void test_tables__hold_no_credential(void)
{
    char key[80], id[16], token[80], cookie[80], csrf[64], sql[1024];
    const char *const secrets[] = {key + 16, token, cookie, csrf};

    ready_key("--owner a --role r", key, id);
    gate_new_link(gate, token);
    gate_sign_in(gate, cookie, csrf);
    for (size_t i = 0; i < BASE_ARRAY_LEN(secrets); i++) {
        snprintf(sql, sizeof(sql),
                 "SELECT count(*) FROM (SELECT k::text FROM identity.api_keys k "
                 "UNION ALL SELECT l::text FROM identity.sign_in_links l) AS t(row) WHERE strpos(row, "
                 "'%.20s') > 0",
                 secrets[i]);
        CHECK_INT(gate_sql_int(gate, sql), 0);
    }
}

static enum base_code as_store(const char *sql)
{
    auto_pg struct base_pg *pg = base_pg_new(gate_dsn(gate), 5000);

    return base_pg_exec(pg, sql, NULL, 0, NULL, NULL);
}

static void test_role__store_cannot_widen_or_revive(void)
{
    char key[80], id[16], cookie[80], csrf[64], out[4096], line[64];

    ready_key("--owner a --role r", key, id);
    snprintf(line, sizeof(line), "key revoke %s", id);
    CHECK_INT(gate_command(gate, line, out), 0);
    gate_sign_in(gate, cookie, csrf);
    CHECK_INT(as_store("SELECT * FROM identity.api_keys"), BASE_OK);
    CHECK_INT(as_store("UPDATE identity.api_keys SET roles = '{admin}'"), BASE_DENIED);
    CHECK_INT(as_store("UPDATE identity.api_keys SET subject = 'eve'"), BASE_DENIED);
    CHECK_INT(as_store("UPDATE identity.api_keys SET revoked_at = NULL WHERE revoked_at IS NOT NULL"),
              BASE_DENIED);
    CHECK_INT(as_store("DELETE FROM identity.api_keys"), BASE_DENIED);
    CHECK_INT(as_store("INSERT INTO identity.revocations (kind, tag, until, reason) "
                       "VALUES (1, 7, now() + interval '1 day', 'test')"),
              BASE_OK);
    CHECK_INT(as_store("UPDATE identity.revocations SET until = now()"), BASE_DENIED);
    CHECK_INT(as_store("DELETE FROM identity.revocations"), BASE_DENIED);
    CHECK_INT(as_store("INSERT INTO identity.used_once VALUES ('test', sha256('a'), now())"), BASE_OK);
    CHECK_INT(as_store("DELETE FROM identity.used_once"), BASE_DENIED);
    CHECK_INT(as_store("UPDATE identity.sign_in_links SET used_at = NULL WHERE used_at IS NOT NULL"),
              BASE_DENIED);
    CHECK_INT(as_store("UPDATE identity.versions SET version = 0"), BASE_DENIED);
    CHECK_INT(as_store("TRUNCATE identity.revocations"), BASE_DENIED);
}

static void test_command__usage(void)
{
    static const char *const bad[] = {"key",
                                      "key make",
                                      "key create",
                                      "key create --owner a",
                                      "key create --role r",
                                      "key create --owner",
                                      "key create --owner a --owner b --role r",
                                      "key create --owner a --role r!",
                                      "key create --owner a --role r --expires 0d",
                                      "key create --owner a --role r --expires 2020-01-01",
                                      "key create --owner a --role r --expires 2027-02-31",
                                      "key create --owner a --role r --expires soon",
                                      "key create --owner a --role r --unknown",
                                      "key create --owner a --role r stray",
                                      "key revoke",
                                      "key revoke gh_abc",
                                      "key list stray",
                                      "admin-link",
                                      "admin-link --url localhost",
                                      "admin-link --url https://localhost/path"};
    char out[4096];

    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++) {
        int status = gate_command(gate, bad[i], out);

        if (status != 2 || strstr(out, "Usage:") == NULL)
            printf("# %s: %d %s\n", bad[i], status, out);
        CHECK_INT(status, 2);
        CHECK(strstr(out, "Usage:") != NULL);
    }
    CHECK_INT(gate_command(gate, "key --help", out), 0);
    CHECK_INT(gate_command(gate, "key create --help", out), 0);
    CHECK_INT(gate_command(gate, "admin-link --help", out), 0);
    CHECK_INT(gate_command(gate, "key revoke abcdefghijkl", out), 1);
    CHECK(strstr(out, "there is no key") != NULL);
    CHECK_INT(gate_command(gate, "key create --owner a --role r --expires 2099-12-31", out), 0);
    CHECK_INT(gate_command(gate, "key create --owner a --role r --expires 90d --label weekly", out), 0);
    CHECK(strstr(out, "shown this once") != NULL);
}

static void test_command__list(void)
{
    char key[80], id[16], out[4096];

    gate_sql(gate, "DELETE FROM identity.api_keys");
    ready_key("--owner lister --role r1 --role r2 --label two\"words --expires 2099-12-31", key, id);
    CHECK_INT(gate_command(gate, "key list", out), 0);
    CHECK(strstr(out, id) != NULL);
    CHECK(strstr(out, "active   ") != NULL);
    CHECK(strstr(out, "2099-12-31T00:00:00Z") != NULL);
    CHECK(strstr(out, "lister [r1,r2] two\"words") != NULL);
    CHECK(strstr(out, key + 16) == NULL);
    CHECK_INT(gate_command(gate, "key list --json", out), 0);
    CHECK(strstr(out, "\"roles\":[\"r1\",\"r2\"]") != NULL);
    CHECK(strstr(out, "\"label\":\"two\\\"words\"") != NULL);
    CHECK(strstr(out, "\"expires_at\":\"2099-12-31T00:00:00Z\"") != NULL);
    CHECK(strstr(out, "\"revoked_at\":null") != NULL);
}

static void test_command__recorded_or_taken_back(void)
{
    char key[80], id[16], out[4096], line[64];

    gate_events(gate);
    ready_key("--owner a --role r", key, id);
    snprintf(line, sizeof(line), "key revoke %s", id);
    CHECK_INT(gate_command(gate, line, out), 0);
    CHECK_INT(gate_command(gate, "admin-link --url " GATE_ORIGIN, out), 0);
    CHECK_STR(gate_events(gate), "key.create cli;key.revoke cli;link.create cli;");
    gate->refuse_records = true;
    gate_sql(gate, "DELETE FROM identity.api_keys");
    CHECK_INT(gate_command(gate, "key create --owner a --role r", out), 1);
    CHECK(strstr(out, "gh_") == NULL);
    CHECK_INT(gate_command(gate, "admin-link --url " GATE_ORIGIN, out), 1);
    CHECK(strstr(out, "token=") == NULL);
    gate->refuse_records = false;
    CHECK_INT(gate_sql_int(gate, "SELECT count(*) FROM identity.api_keys WHERE revoked_at IS NULL"), 0);
    CHECK_INT(gate_sql_int(gate, "SELECT count(*) FROM identity.api_keys"), 1);
}

struct reader {
    const char *key;
    unsigned n_ok, n_other;
};

static void *read_on(void *p)
{
    struct reader *reader = p;
    char headers[256];

    snprintf(headers, sizeof(headers), "authorization: Bearer %s\r\n", reader->key);
    for (unsigned i = 0; i < 100; i++) {
        struct gate_answer answer = gate_request(gate, "GET", "/whoami", headers, "");

        if (answer.status == 200)
            reader->n_ok++;
        else
            reader->n_other++;
    }
    return NULL;
}

/* Requests on two loops while the snapshot is replaced under them. */
static void test_snapshot__swapped_under_load(void)
{
    char key[80], id[16], other[80], other_id[16];
    struct reader readers[4] = {0};
    pthread_t threads[4];
    unsigned n_other = 0;

    ready_key("--owner a --role r", key, id);
    for (unsigned i = 0; i < 4; i++) {
        readers[i].key = key;
        pthread_create(&threads[i], NULL, read_on, &readers[i]);
    }
    for (unsigned i = 0; i < 10; i++)
        gate_new_key(gate, "--owner b --role r", other, other_id);
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        n_other += readers[i].n_other;
    }
    CHECK_INT(n_other, 0);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_key__identifies_its_owner),
        CASE(test_key__three_headers_are_the_same),
        CASE(test_key__one_credential_exactly),
        CASE(test_key__wrong_ones_look_alike),
        CASE(test_key__known_id_with_another_secret_and_right_checksum),
        CASE(test_revoke__within_a_second),
        CASE(test_revoke__without_the_notification),
        CASE(test_expired__by_the_clock),
        CASE(test_last_used__written_in_batches),
        CASE(test_bad_rows__are_left_out),
        CASE(test_tables__hold_no_credential),
        CASE(test_role__store_cannot_widen_or_revive),
        CASE(test_command__usage),
        CASE(test_command__list),
        CASE(test_command__recorded_or_taken_back),
        CASE(test_snapshot__swapped_under_load),
        CASE(test_postgres_away__known_keys_go_on),
        CASE(test_store__stale_keys_and_never_loaded),
    };
    int status;

    gate = gate_new();
    status = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    gate_free(gate);
    return status;
}
