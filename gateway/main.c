/* gatehouse: the program. Finds the command, reads the configuration for those that need it. */
#include "audit/audit.h"
#include "base/mem.h"
#include "base/secret.h"
#include "engine/engine.h"
#include "gateway/cli_key.h"
#include "gateway/cli_local_admin.h"
#include "gateway/cli_sso.h"
#include "gateway/config.h"
#include "gateway/serve.h"
#include "policy/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CONFIG "/etc/gatehouse/gatehouse.conf"
#define CLI_SHIP_MS    3000u

static void usage(FILE *to)
{
    fputs("Gatehouse " GH_VERSION ": a secure gateway to language models with an engine of its own.\n"
          "\n"
          "  gatehouse [--config FILE] COMMAND [options]\n"
          "\n"
          "  serve            run the gateway\n"
          "  policy           check a policy, explain a decision\n"
          "  key              create, list and revoke API keys\n"
          "  sso              check identity providers, explain why a token is refused\n"
          "  admin-link       make a one-time sign-in link for an administrator\n"
          "  local-admin      make, list and disable administrators for when the identity provider is away\n"
          "  audit            list, show and verify what was recorded\n"
          "  model            look at a model file, chat with it, time it\n"
          "  migrate          bring the database up to date\n"
          "  config           list every configuration option (--markdown)\n"
          "  version\n"
          "\n"
          "Each command has --help. The configuration file is --config, else $GATEHOUSE_CONFIG, "
          "else\n" DEFAULT_CONFIG ".\n",
          to);
}

static int fail(const struct base_err *err)
{
    fprintf(stderr, "gatehouse: %s\n", err->detail);
    return 2;
}

static int command_config(int argc, char **argv)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(1u << 20);

    if (argc > 1 && strcmp(argv[1], "--markdown") != 0) {
        puts("gatehouse config [--markdown]   lists every configuration option with its default");
        return strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    gw_config_markdown(&out);
    fwrite(out.data, 1, out.len, stdout);
    return 0;
}

static int command_migrate(const struct gw_config *config)
{
    struct base_err err = {0};
    unsigned n = 0;

    if (aud_migrate(config->migrator_dsn, config->migrations_dir, &n, &err) != BASE_OK)
        return fail(&err);
    printf("%u migration%s applied\n", n, n == 1 ? "" : "s");
    return 0;
}

/* ---- keys and links: recorded under this instance's name with "-cli", so that a running gateway keeps its own journal and chain ---- */

static const char *operator_name(void)
{
    const char *name = getenv("SUDO_USER");

    if (name == NULL || name[0] == '\0')
        name = getenv("USER");
    return name != NULL && name[0] != '\0' && strlen(name) < AUD_TEXT_MAX ? name : "root";
}

/* On the audit's thread, before aud_close returns. */
static void on_event_durable(enum base_code rc, uint64_t seq, void *user)
{
    (void)seq;
    *(enum base_code *)user = rc;
}

static enum base_code append_event(const struct gw_config *config, const char *journal_dir,
                                   const char *instance, const struct base_secret *kek,
                                   const struct base_secret *pseudonym_key, const char *action,
                                   const char *target, struct base_err *err)
{
    struct aud *audit = NULL;
    enum base_code durable = BASE_INTERNAL;
    enum base_code rc = aud_open(&audit,
                                 &(struct aud_options){.journal_dir = journal_dir,
                                                       .instance = instance,
                                                       .writer_dsn = config->writer_dsn,
                                                       .mapper_dsn = config->mapper_dsn,
                                                       .kek = kek,
                                                       .pseudonym_key = pseudonym_key,
                                                       .epoch = (unsigned)config->pseudonym_epoch},
                                 err);

    if (rc != BASE_OK)
        return rc;
    rc = aud_append(audit,
                    &(struct aud_record){.kind = AUD_EVENT,
                                         .issuer = "gatehouse:operator",
                                         .subject = operator_name(),
                                         .auth_method = "shell",
                                         .action = action,
                                         .target = target,
                                         .status = "ok"},
                    on_event_durable, &durable, err);
    aud_close(audit, CLI_SHIP_MS); /* waits until it is durable */
    if (rc == BASE_OK && durable != BASE_OK)
        rc = base_fail(err, durable, 0, "the journal %s could not be written", journal_dir);
    return rc;
}

static bool record_event(const char *action, const char *target, void *user)
{
    const struct gw_config *config = user;
    auto_secret struct base_secret *kek = NULL;
    auto_secret struct base_secret *pseudonym_key = NULL;
    auto_free char *journal_dir = base_alloc(strlen(config->journal_dir) + 5);
    char instance[40];
    struct base_err err = {0};
    enum base_code rc;

    sprintf(journal_dir, "%s-cli", config->journal_dir);
    snprintf(instance, sizeof(instance), "%.28s-cli", config->instance);
    rc = base_secret_read_key_file(&kek, config->kek_file, &err);
    if (rc == BASE_OK)
        rc = base_secret_read_key_file(&pseudonym_key, config->pseudonym_key_file, &err);
    if (rc == BASE_OK)
        rc = append_event(config, journal_dir, instance, kek, pseudonym_key, action, target, &err);
    if (rc != BASE_OK)
        fprintf(stderr, "gatehouse: the audit does not take this: %s\n", err.detail);
    return rc == BASE_OK;
}

/* config NULL: only --help can be answered. */
static int command_identity(int argc, char **argv, const struct gw_config *config)
{
    struct gw_cli_identity_options options = {.record = record_event, .user = (void *)config};

    if (config != NULL) {
        options.dsn = config->store_dsn;
        options.pepper_file = config->pepper_file;
        options.public_url = config->public_url;
        options.policy_file = config->policy_file;
    }
    if (strcmp(argv[0], "local-admin") == 0)
        return gw_cli_local_admin_main(argc, argv, &options);
    return strcmp(argv[0], "key") == 0 ? gw_cli_key_main(argc, argv, &options)
                                       : gw_cli_admin_link_main(argc, argv, &options);
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* Commands that work on a configured gateway; config is NULL when there is none and only --help was asked for. */
static int configured(int argc, char **argv, const struct gw_config *config)
{
    struct aud_cli_options audit = {0};

    if (strcmp(argv[0], "key") == 0 || strcmp(argv[0], "admin-link") == 0 ||
        strcmp(argv[0], "local-admin") == 0)
        return command_identity(argc, argv, config);
    if (strcmp(argv[0], "audit") == 0) {
        if (config != NULL)
            audit = (struct aud_cli_options){.reader_dsn = config->reader_dsn,
                                             .kek_file = config->kek_file,
                                             .journal_dir = config->journal_dir,
                                             .instance = config->instance};
        return aud_cli_main(argc, argv, &audit);
    }
    if (wants_help(argc, argv)) {
        printf("gatehouse [--config FILE] %s   takes no other option; docs/configuration.md describes the "
               "file\n",
               argv[0]);
        return 0;
    }
    return strcmp(argv[0], "serve") == 0 ? gw_serve(config) : command_migrate(config);
}

static int run(int argc, char **argv, const char *config_file)
{
    static const char *const with_config[] = {"serve",      "migrate", "audit", "key",
                                              "admin-link", "policy",  "sso",   "local-admin"};
    struct gw_config *config = NULL;
    struct base_err err = {0};
    size_t i = 0;
    int rc;

    if (strcmp(argv[0], "model") == 0)
        return eng_cli_main(argc, argv);
    if (strcmp(argv[0], "config") == 0)
        return command_config(argc, argv);
    while (i < BASE_ARRAY_LEN(with_config) && strcmp(argv[0], with_config[i]) != 0)
        i++;
    if (i == BASE_ARRAY_LEN(with_config)) {
        fprintf(stderr, "gatehouse: unknown command '%s'\n\n", argv[0]);
        usage(stderr);
        return 2;
    }
    rc = gw_config_load(&config, config_file, &err);
    if (strcmp(argv[0], "policy") == 0) /* works on a file of its own, too */
        rc = pol_cli_main(argc, argv, rc == BASE_OK ? config->policy_file : NULL);
    else if (strcmp(argv[0], "sso") == 0) /* so does this */
        rc = gw_cli_sso_main(
            argc, argv,
            &(struct gw_cli_sso_options){.policy_file = rc == BASE_OK ? config->policy_file : NULL,
                                         .public_url = rc == BASE_OK ? config->public_url : NULL});
    else if (rc != BASE_OK && !wants_help(argc, argv))
        rc = fail(&err);
    else
        rc = configured(argc, argv, config);
    gw_config_free(config);
    return rc;
}

int main(int argc, char **argv)
{
    const char *config_file = getenv("GATEHOUSE_CONFIG");
    int at = 1;

    if (config_file == NULL)
        config_file = DEFAULT_CONFIG;
    if (at < argc && strcmp(argv[at], "--config") == 0) {
        if (at + 1 >= argc) {
            fputs("gatehouse: --config needs a file\n", stderr);
            return 2;
        }
        config_file = argv[at + 1];
        at += 2;
    }
    if (at >= argc || strcmp(argv[at], "help") == 0 || strcmp(argv[at], "--help") == 0 ||
        strcmp(argv[at], "-h") == 0) {
        usage(at < argc ? stdout : stderr);
        return at < argc ? 0 : 2;
    }
    if (strcmp(argv[at], "version") == 0 || strcmp(argv[at], "--version") == 0) {
        puts("gatehouse " GH_VERSION);
        return 0;
    }
    return run(argc - at, argv + at, config_file);
}
