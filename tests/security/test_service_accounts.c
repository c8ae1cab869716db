/* Service accounts: client certificates by real TLS handshakes (curl), and keys. Each attack beside its valid twin. */
#include "machine_fixture.h"

#include "base/mem.h"

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
    make_policy(without, sizeof(without), true, "");
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

static const struct fixture_check checks[] = {
    {"auth.cert_account", "test_cert__no_account"},
    {"auth.service_exists", "test_key__of_an_account_that_is_gone"},
    {"mtls.chain", "test_cert__foreign_authority"},
    {"mtls.time", "test_cert__expired"},
    {"mtls.client_usage", "test_cert__without_usage"},
};

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
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
    };

    if (list_checks(checks, BASE_ARRAY_LEN(checks), argc, argv))
        return 0;
    set_up();
    return tear_down(tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv));
}
