/* Commands on single sign-on. See cli_sso.h. */
#include "gateway/cli_sso.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/codec_sso.h"
#include "gateway/codec_sso_report.h"
#include "gateway/sso_client.h"

#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX  (1u << 20)
#define TEXT_MAX    (768u << 10) /* a pasted response: base64 of half a megabyte */
#define REQUEST_MAX (1u << 20)
#define ARENA_MAX   (4u << 20)
#define CALL_MS     20000u

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char help[] =
    "Usage: gatehouse sso check [PROVIDER] [options]\n"
    "       gatehouse sso explain [FILE] [options]\n"
    "       gatehouse sso metadata PROVIDER [options]\n"
    "\n"
    "check     asks each provider of the policy for its metadata and keys, shows what would be accepted and "
    "what is weak\n"
    "explain   says of a token or a SAML response, read from FILE or the standard input, which checks hold "
    "and which fail.\n"
    "          Nothing of it is printed but the names of things (issuer, audience, algorithm) and times\n"
    "metadata  prints our SAML metadata, to be given to the identity provider\n"
    "\n"
    "  --policy FILE      Default: policy_file of the configuration\n"
    "  --url ORIGIN       how browsers reach the gateway. Default: public_url of the configuration\n"
    "  --provider NAME    explain: whose it is. Default: found by its issuer\n"
    "  --audience TEXT    explain: what an access token's audience must be\n"
    "  --nonce TEXT       explain: the nonce that was sent; without it that check is left out\n"
    "  --request-id TEXT  explain: the id of the SAML request; without it that check is left out\n"
    "  --quiet            print what is wrong alone\n"
    "\n"
    "Exit status: 0 all is well, 1 something does not hold or could not be asked, 2 wrong usage.\n";

struct run {
    FILE *in, *out, *err;
    const char *policy_file, *url, *program;
    const char *provider, *audience, *nonce, *request_id, *word; /* word: PROVIDER or FILE */
    bool quiet;
    struct pol_snapshot *policy;
    struct gw_sso *sso;
    struct base_arena *arena;
};

static int usage(const struct run *run, const char *what, const char *value)
{
    fprintf(run->err, "gatehouse: %s%s%s\n\n%s", what, value != NULL ? ": " : "", value != NULL ? value : "",
            help);
    return EXIT_USAGE;
}

static int failed(const struct run *run, const struct base_err *err)
{
    fprintf(run->err, "gatehouse: %s\n", err->detail);
    return EXIT_FAILED;
}

static int parse(struct run *run, int argc, char **argv)
{
    const struct {
        const char *name;
        const char **into;
    } options[] = {{"--policy", &run->policy_file}, {"--url", &run->url},
                   {"--provider", &run->provider},  {"--audience", &run->audience},
                   {"--nonce", &run->nonce},        {"--request-id", &run->request_id}};

    for (int i = 2; i < argc; i++) {
        size_t o = 0;

        if (strcmp(argv[i], "--quiet") == 0) {
            run->quiet = true;
            continue;
        }
        while (o < BASE_ARRAY_LEN(options) && strcmp(argv[i], options[o].name) != 0)
            o++;
        if (o < BASE_ARRAY_LEN(options)) {
            if (i + 1 == argc)
                return usage(run, "a value is missing", argv[i]);
            *options[o].into = argv[++i];
        } else if ((argv[i][0] == '-' && argv[i][1] != '\0') || run->word != NULL) {
            return usage(run, "what is this", argv[i]);
        } else {
            run->word = argv[i];
        }
    }
    if (run->policy_file == NULL)
        return usage(run, "there is no configuration: name a policy with --policy", NULL);
    if (run->url == NULL)
        return usage(run, "there is no configuration: say with --url how browsers reach the gateway", NULL);
    return EXIT_DONE;
}

/* Loads the policy and starts a process of our own with it. */
static enum base_code start(struct run *run, struct base_err *err)
{
    auto_buf struct base_buf config = BASE_BUF_INIT(CONFIG_MAX);
    enum base_code rc = pol_load_file(&run->policy, run->policy_file, err);

    if (rc == BASE_OK)
        rc = gw_sso_encode_config(&config, run->policy, run->url, err);
    if (rc == BASE_NOT_FOUND)
        return base_fail(err, BASE_NOT_FOUND, 0, "%s names no provider (identity.providers; docs/sso.md)",
                         run->policy_file);
    if (rc != BASE_OK)
        return rc;
    run->sso = gw_sso_new(&(struct gw_sso_options){
        .program = run->program, .config_json = config.data, .config_len = config.len});
    explicit_bzero(config.data, config.len);
    return BASE_OK;
}

static enum base_code ask(struct run *run, const struct base_buf *request, struct gw_sso_report *ret_report,
                          struct base_err *err)
{
    auto_free char *json = NULL;
    size_t len = 0;
    enum base_code rc = gw_sso_call_wait(run->sso, request->data, request->len, CALL_MS, &json, &len, err);

    return rc == BASE_OK ? gw_sso_decode_report(ret_report, run->arena, json, len, err) : rc;
}

/* Returns how many lines say error. */
static unsigned print_lines(const struct run *run, const struct gw_sso_report *report)
{
    static const char *const marks[] = {
        [GW_SSO_LEVEL_ERROR] = "FAIL", [GW_SSO_LEVEL_WARN] = "warn", [GW_SSO_LEVEL_OK] = "ok"};
    unsigned n_errors = 0;

    for (size_t i = 0; i < report->n_lines; i++) {
        const struct gw_sso_line *line = &report->lines[i];

        n_errors += line->level == GW_SSO_LEVEL_ERROR;
        if (run->quiet && line->level == GW_SSO_LEVEL_OK)
            continue;
        fprintf(run->out, "  %-4s  %s%s%s\n", marks[line->level], line->check,
                line->check[0] != '\0' && line->text[0] != '\0' ? ": " : "", line->text);
    }
    return n_errors;
}

/* ---- check ---- */

static bool check_one(struct run *run, const struct pol_provider *provider)
{
    auto_buf struct base_buf request = BASE_BUF_INIT(REQUEST_MAX);
    struct gw_sso_report report;
    struct base_err err = {0};

    fprintf(run->out, "%s (%s%s%s)\n", provider->name, provider->kind == POL_PROVIDER_OIDC ? "OIDC" : "SAML",
            provider->issuer[0] != '\0' ? ", " : "", provider->issuer);
    gw_sso_encode(&request, "check", "provider", provider->name, NULL);
    if (ask(run, &request, &report, &err) != BASE_OK) {
        fprintf(run->out, "  FAIL  %s\n", err.detail);
        return false;
    }
    return print_lines(run, &report) == 0;
}

static int command_check(struct run *run)
{
    bool good = true, found = false;

    for (size_t i = 0; i < pol_n_providers(run->policy); i++) {
        const struct pol_provider *provider = pol_provider_at(run->policy, i);

        if (run->word != NULL && strcmp(run->word, provider->name) != 0)
            continue;
        found = true;
        if (!check_one(run, provider))
            good = false;
    }
    if (!found)
        return usage(run, "the policy has no such provider", run->word);
    return good ? EXIT_DONE : EXIT_FAILED;
}

/* ---- explain ---- */

static enum base_code read_text(const struct run *run, char **ret_text, struct base_err *err)
{
    bool from_file = run->word != NULL && strcmp(run->word, "-") != 0;
    FILE *in = from_file ? fopen(run->word, "re") : run->in;
    char *text = base_alloc(TEXT_MAX + 1);
    size_t n;

    if (in == NULL) {
        free(text);
        return base_fail(err, BASE_NOT_FOUND, 0, "%s cannot be read", run->word);
    }
    n = fread(text, 1, TEXT_MAX + 1, in);
    if (from_file)
        fclose(in);
    while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL && n <= TEXT_MAX)
        n--;
    if (n == 0 || n > TEXT_MAX || memchr(text, '\0', n) != NULL || !base_utf8_valid(text, n)) {
        free(text);
        return base_fail(err, BASE_INVALID, 0, "what was given is empty, binary, or longer than %u bytes",
                         TEXT_MAX);
    }
    text[n] = '\0';
    *ret_text = text;
    return BASE_OK;
}

/* Where a SAML response must be addressed to: the named provider's, or that of the only one. */
static const char *acs_url(const struct run *run, char *out, size_t size)
{
    const struct pol_provider *only = NULL;

    for (size_t i = 0; i < pol_n_providers(run->policy); i++) {
        const struct pol_provider *provider = pol_provider_at(run->policy, i);

        if (provider->kind != POL_PROVIDER_SAML ||
            (run->provider != NULL && strcmp(run->provider, provider->name) != 0))
            continue;
        if (only != NULL)
            return NULL;
        only = provider;
    }
    if (only == NULL)
        return NULL;
    snprintf(out, size, "%s/auth/saml/%s/acs", run->url, only->name);
    return out;
}

static int command_explain(struct run *run)
{
    char url[640];
    auto_buf struct base_buf request = BASE_BUF_INIT(REQUEST_MAX);
    struct gw_sso_report report;
    struct base_err err = {0};
    char *text = NULL;
    unsigned n_errors;

    if (read_text(run, &text, &err) != BASE_OK)
        return failed(run, &err);
    gw_sso_encode(&request, "explain", "text", text, "provider", run->provider, "audience", run->audience,
                  "nonce", run->nonce, "request_id", run->request_id, "acs_url",
                  acs_url(run, url, sizeof(url)), NULL);
    explicit_bzero(text, strlen(text));
    free(text);
    if (request.failed)
        base_fail(&err, BASE_TOO_LARGE, 0, "what was given is too long");
    else
        ask(run, &request, &report, &err);
    if (request.data != NULL)
        explicit_bzero(request.data, request.len);
    if (err.code != BASE_OK)
        return failed(run, &err);
    fprintf(run->out, "%s of %s\n", report.kind[0] != '\0' ? report.kind : "something",
            report.provider[0] != '\0' ? report.provider : "no provider that is configured");
    n_errors = print_lines(run, &report);
    if (n_errors > 0)
        fprintf(run->out, "It would be refused: %u check%s fail%s.\n", n_errors, n_errors == 1 ? "" : "s",
                n_errors == 1 ? "s" : "");
    else
        fprintf(run->out, "It would be accepted, were it brought now and for the first time.\n");
    return n_errors == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* ---- metadata ---- */

static int command_metadata(struct run *run)
{
    auto_buf struct base_buf request = BASE_BUF_INIT(REQUEST_MAX);
    const struct pol_provider *provider =
        run->word != NULL ? pol_provider_find(run->policy, run->word) : NULL;
    char acs[640], slo[640];
    auto_free char *json = NULL;
    struct gw_sso_reply reply = {0};
    struct base_err err = {0};
    size_t len = 0;

    if (provider == NULL || provider->kind != POL_PROVIDER_SAML)
        return usage(run, "metadata needs the name of a SAML provider of the policy", run->word);
    snprintf(acs, sizeof(acs), "%s/auth/saml/%s/acs", run->url, provider->name);
    snprintf(slo, sizeof(slo), "%s/auth/saml/%s/slo", run->url, provider->name);
    gw_sso_encode(&request, "saml_metadata", "provider", provider->name, "acs_url", acs, "slo_url", slo,
                  NULL);
    if (gw_sso_call_wait(run->sso, request.data, request.len, CALL_MS, &json, &len, &err) != BASE_OK ||
        gw_sso_decode(&reply, run->arena, json, len, &err) != BASE_OK)
        return failed(run, &err);
    if (!reply.ok || reply.xml == NULL) {
        fprintf(run->err, "gatehouse: %s\n", reply.ok ? "gatehouse-sso made no metadata" : reply.detail);
        return EXIT_FAILED;
    }
    fputs(reply.xml, run->out);
    return EXIT_DONE;
}

int gw_cli_sso_main(int argc, char **argv, const struct gw_cli_sso_options *options)
{
    struct run run = {
        .in = options->in != NULL ? options->in : stdin,
        .out = options->out != NULL ? options->out : stdout,
        .err = options->err != NULL ? options->err : stderr,
        .policy_file = options->policy_file,
        .url = options->public_url,
        .program = options->program,
    };
    const struct {
        const char *name;
        int (*fn)(struct run *run);
    } commands[] = {{"check", command_check}, {"explain", command_explain}, {"metadata", command_metadata}};
    struct base_err err = {0};
    size_t c = 0;
    int rc;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, run.out);
            return EXIT_DONE;
        }
    while (argc > 1 && c < BASE_ARRAY_LEN(commands) && strcmp(argv[1], commands[c].name) != 0)
        c++;
    if (argc < 2 || c == BASE_ARRAY_LEN(commands))
        return usage(&run, argc < 2 ? "say what to do" : "there is no such command",
                     argc < 2 ? NULL : argv[1]);
    rc = parse(&run, argc, argv);
    if (rc != EXIT_DONE)
        return rc;
    run.arena = base_arena_new(ARENA_MAX);
    rc = start(&run, &err) == BASE_OK ? commands[c].fn(&run) : failed(&run, &err);
    gw_sso_free(run.sso);
    pol_unref(run.policy);
    base_arena_unref(run.arena);
    return rc;
}
