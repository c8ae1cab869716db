/* Fixture of the tests of machine access. See machine_fixture.h. */
#include "machine_fixture.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/metrics.h"
#include "gateway/sso_client.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct gate *gate;
char folder[] = "/tmp/gh-machine-XXXXXX";
static char client_hex[65]; /* the fingerprint of client.pem */

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

void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

void make_policy(char *out, size_t size, bool break_glass, const char *accounts)
{
    snprintf(out, size, policy_text, break_glass ? "true" : "false", accounts);
}

void set_policy(bool break_glass, bool accounts)
{
    char text[8192], scanner[256] = "", path[96];
    FILE *file;

    if (accounts)
        snprintf(scanner, sizeof(scanner), "    scanner: {roles: [employee], cert_sha256: \"%s\"}\n",
                 client_hex);
    make_policy(text, sizeof(text), break_glass, scanner);
    gate_set_policy(gate, text);
    snprintf(path, sizeof(path), "%s/policy.yaml", folder);
    file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

const char *token_of(const struct token *t)
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

const char *reply_token(const char *json)
{
    static char out[4096];

    base_b64url_encode(json, strlen(json), out);
    return out;
}

const char *ask_with(const char *scheme, const char *path, const char *token, const char *headers)
{
    static struct gate_answer answer;
    static char all[8192];
    const char *body;

    snprintf(all, sizeof(all), "authorization: %s %s\r\n%s", scheme, token, headers);
    answer = gate_request(gate, "GET", path, all, "");
    body = strstr(answer.text, "\r\n\r\n");
    return body != NULL ? body + 4 : "no answer";
}

const char *ask(const char *token)
{
    return ask_with("Bearer", "/v1/models", token, "");
}

const char *ask_new(const char *key)
{
    for (unsigned i = 0; i < 100 && strncmp(ask(key), "ok", 2) != 0; i++)
        nap_ms(20);
    return ask(key);
}

bool begins(const char *text, const char *with)
{
    if (strncmp(text, with, strlen(with)) == 0)
        return true;
    printf("# \"%s\" does not begin with \"%s\"\n", text, with);
    return false;
}

long counted(const char *series)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(1u << 20);
    const char *at;

    gw_metrics_render(&out);
    base_buf_append_char(&out, '\0');
    at = strstr(out.data, series);
    return at != NULL ? atol(at + strlen(series)) : 0;
}

/* ---- set-up ---- */

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

void set_up(void)
{
    char script[4096], cert[96], key[96], ca[96], config[256], program[1024];
    static char policy_path[96];
    const char *root = getenv("GH_SOURCE_ROOT");

#ifdef GH_MUTATIONS
    base_check_off = getenv("GH_CHECK_OFF");
#endif
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

int tear_down(int status)
{
    char clean[128];

    gate_free(gate);
    snprintf(clean, sizeof(clean), "rm -rf %s", folder);
    return system(clean) == 0 ? status : 1;
}

bool list_checks(const struct fixture_check *checks, size_t n, int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--list") != 0)
        return false;
    for (size_t i = 0; i < n; i++)
        printf("%s %s\n", checks[i].check, checks[i].name);
    return true;
}
