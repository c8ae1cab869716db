/* gatehouse: the program. Finds the command, reads the configuration for those that need it. */
#include "audit/audit.h"
#include "base/secret.h"
#include "engine/engine.h"
#include "gateway/cli_key.h"
#include "gateway/config.h"
#include "gateway/serve.h"
#include "policy/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CONFIG "/etc/gatehouse/gatehouse.conf"

static void usage(FILE *to)
{
    fputs("Gatehouse " GH_VERSION ": a secure gateway to language models with an engine of its own.\n"
          "\n"
          "  gatehouse [--config FILE] COMMAND [options]\n"
          "\n"
          "  serve            run the gateway\n"
          "  policy           check a policy, explain a decision\n"
          "  key              create, list and revoke API keys\n"
          "  admin-link       make a one-time sign-in link for an administrator\n"
          "  audit            list, show and verify what was recorded\n"
          "  model            look at a model file, chat with it, time it\n"
          "  migrate          bring the database up to date\n"
          "  config           list every configuration option (--markdown)\n"
          "  version\n"
          "\n"
          "Each command has --help. The configuration file is --config, else $GATEHOUSE_CONFIG, else\n" DEFAULT_CONFIG ".\n",
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

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* Commands that work on a configured gateway. argv[0] is the command. */
static int configured(int argc, char **argv, const struct gw_config *config)
{
    if (strcmp(argv[0], "serve") == 0)
        return gw_serve(config);
    if (strcmp(argv[0], "migrate") == 0)
        return command_migrate(config);
    if (strcmp(argv[0], "audit") == 0)
        return aud_cli_main(argc, argv,
                            &(struct aud_cli_options){.reader_dsn = config->reader_dsn,
                                                      .kek_file = config->kek_file,
                                                      .journal_dir = config->journal_dir,
                                                      .instance = config->instance});
    return gw_cli_identity(argc, argv, config);
}

static int run(int argc, char **argv, const char *config_file)
{
    static const char *const with_config[] = {"serve", "migrate", "audit", "key", "admin-link"};
    struct gw_config *config = NULL;
    struct base_err err = {0};
    int rc;

    if (strcmp(argv[0], "policy") == 0) {
        /* without a configuration the file must be named */
        if (gw_config_load(&config, config_file, &err) != BASE_OK)
            return pol_cli_main(argc, argv, NULL);
        rc = pol_cli_main(argc, argv, config->policy_file);
        gw_config_free(config);
        return rc;
    }
    if (strcmp(argv[0], "model") == 0)
        return eng_cli_main(argc, argv);
    if (strcmp(argv[0], "config") == 0)
        return command_config(argc, argv);
    for (size_t i = 0; i < sizeof(with_config) / sizeof(with_config[0]); i++) {
        if (strcmp(argv[0], with_config[i]) != 0)
            continue;
        if (wants_help(argc, argv) && (i == 0 || i == 1)) {
            printf("gatehouse [--config FILE] %s   takes no other option; docs/configuration.md describes the file\n", argv[0]);
            return 0;
        }
        if (gw_config_load(&config, config_file, &err) != BASE_OK) {
            if (!wants_help(argc, argv))
                return fail(&err);
            config = NULL;
        }
        rc = config != NULL ? configured(argc, argv, config) : gw_cli_help(argc, argv);
        gw_config_free(config);
        return rc;
    }
    fprintf(stderr, "gatehouse: unknown command '%s'\n\n", argv[0]);
    usage(stderr);
    return 2;
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
    if (at >= argc || strcmp(argv[at], "help") == 0 || strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
        usage(at < argc ? stdout : stderr);
        return at < argc ? 0 : 2;
    }
    if (strcmp(argv[at], "version") == 0 || strcmp(argv[at], "--version") == 0) {
        puts("gatehouse " GH_VERSION);
        return 0;
    }
    return run(argc - at, argv + at, config_file);
}
