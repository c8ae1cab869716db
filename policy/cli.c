/* The commands `policy check` and `policy explain`. Exit status: 0 fine or allowed, 1 refused or denied, 2
 * wrong usage. */
#include "policy/snapshot.h"

#include "base/mem.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_FINE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

static const char usage_text[] = "usage: policy check [FILE]\n"
                                 "       policy explain --role ROLE [--role ROLE]... --model MODEL [--class "
                                 "CLASS] [--found DETECTOR]... [FILE]\n"
                                 "\n"
                                 "check    reads the policy, says what is wrong with it or prints its hash, "
                                 "and warns of what is useless in it.\n"
                                 "explain  says how the policy decides on one request, and why.\n"
                                 "\n"
                                 "  --role ROLE       a role of the caller; may be repeated\n"
                                 "  --model MODEL     the model that is asked for\n"
                                 "  --class CLASS     the label: public, internal, confidential or secret; "
                                 "without it the policy's default counts\n"
                                 "  --found DETECTOR  what the text holds: card, iban, email, private_key, "
                                 "aws_key, github_token, slack_token, jwt;\n"
                                 "                    may be repeated\n"
                                 "  --help            this text\n"
                                 "\n"
                                 "Exit status: 0 the policy is good, or the request is allowed; 1 it is not; "
                                 "2 the command was not understood.\n";

struct question {
    const char *roles[POL_ROLES_MAX];
    struct pol_facts facts;
    const char *file;
};

static int bad_usage(const char *what, const char *word)
{
    fprintf(stderr, "policy: %s%s%s%s\nTry: policy --help\n", what, word != NULL ? " \"" : "",
            word != NULL ? word : "", word != NULL ? "\"" : "");
    return EXIT_USAGE;
}

static struct pol_snapshot *load(const char *file)
{
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};

    if (pol_load_file(&snapshot, file, &err) != BASE_OK)
        fprintf(stderr, "%s\n", err.detail);
    return snapshot;
}

/* ---- check ---- */

static int check(int argc, char **argv, const char *default_file)
{
    const char *file = argc > 1 ? argv[1] : default_file;
    struct pol_snapshot *snapshot;

    if (argc > 2)
        return bad_usage("check takes one file; what is", argv[2]);
    if (argc > 1 && argv[1][0] == '-' && argv[1][1] != '\0')
        return bad_usage("check has no option", argv[1]);
    if (file == NULL)
        return bad_usage("check needs a file", NULL);
    snapshot = load(file);
    if (snapshot == NULL)
        return EXIT_REFUSED;
    printf("%s: good\nhash    %s\ncounts  %zu roles, %zu models, %zu backends, %zu markings\n", file,
           snapshot->hash, snapshot->n_roles, snapshot->n_models, snapshot->n_backends, snapshot->n_markings);
    for (size_t i = 0; i < snapshot->n_warnings; i++)
        printf("warning: %s\n", snapshot->warnings[i]);
    pol_unref(snapshot);
    return EXIT_FINE;
}

/* ---- explain ---- */

static int set_class(struct question *q, const char *word)
{
    q->facts.label_given = true;
    q->facts.label =
        pol_class_parse(word, strlen(word)); /* an unknown word is a case to explain, not an error */
    return 0;
}

static int add_found(struct question *q, const char *word)
{
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++)
        if (strcmp(pol_detector_name((enum pol_detector)kind), word) == 0) {
            q->facts.detected |= 1u << kind;
            return 0;
        }
    return bad_usage("no detector is called", word);
}

static int read_option(struct question *q, int option, const char *value, char **argv)
{
    switch (option) {
    case 'r':
        if (q->facts.n_roles == POL_ROLES_MAX)
            return bad_usage("too many roles", NULL);
        q->roles[q->facts.n_roles++] = value;
        return 0;
    case 'm': q->facts.model = value; return 0;
    case 'c': return set_class(q, value);
    case 'f': return add_found(q, value);
    case ':': return bad_usage("a value is missing after", argv[optind - 1]);
    default: return bad_usage("explain has no option", argv[optind - 1]);
    }
}

static int read_question(struct question *q, int argc, char **argv, const char *default_file)
{
    static const struct option options[] = {{"role", required_argument, NULL, 'r'},
                                            {"model", required_argument, NULL, 'm'},
                                            {"class", required_argument, NULL, 'c'},
                                            {"found", required_argument, NULL, 'f'},
                                            {0}};
    int option, status = 0;

    memset(q, 0, sizeof(*q));
    q->facts.roles = q->roles;
    q->file = default_file;
    optind = 0; /* start anew: this may not be the first command line of the process */
    while (status == 0 && (option = getopt_long(argc, argv, ":", options, NULL)) != -1)
        status = read_option(q, option, optarg, argv);
    if (status != 0)
        return status;
    if (optind < argc)
        q->file = argv[optind++];
    if (optind < argc)
        return bad_usage("explain takes one file; what is", argv[optind]);
    if (q->facts.n_roles == 0)
        return bad_usage("explain needs --role", NULL);
    if (q->facts.model == NULL)
        return bad_usage("explain needs --model", NULL);
    return q->file != NULL ? 0 : bad_usage("explain needs a file", NULL);
}

static void print_limits(const struct pol_limits *limits)
{
    printf("limits    %s: ", limits->name);
    if (limits->requests_per_minute == 0)
        printf("requests without limit, ");
    else
        printf("%u requests a minute (burst %u), ", limits->requests_per_minute, limits->requests_burst);
    if (limits->tokens_per_minute == 0)
        printf("tokens without limit");
    else
        printf("%llu tokens a minute (burst %llu)", (unsigned long long)limits->tokens_per_minute,
               (unsigned long long)limits->tokens_burst);
    printf("; %s when the limit store is away\n", limits->fail_mode == POL_FAIL_OPEN ? "open" : "closed");
}

static void print_actions(const char *side, const enum pol_action *actions)
{
    printf("  %-7s", side);
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++)
        printf(" %s=%s", pol_detector_name((enum pol_detector)kind), pol_action_name(actions[kind]));
    printf("\n");
}

static void print_decision(const struct pol_snapshot *snapshot, const struct question *q,
                           const struct pol_decision *d)
{
    if (d->effect == POL_ALLOW)
        printf("decision  allow\n");
    else
        printf("decision  deny (%s)\n", pol_deny_name(d->deny));
    printf("class     %s, by %s\n", pol_class_name(d->cls), d->cls_source);
    for (size_t i = 0; i < q->facts.n_roles; i++)
        printf("role      %s%s\n", q->roles[i],
               pol_role_exists(snapshot, q->roles[i]) ? "" : " (not in the policy)");
    for (size_t i = 0; i < d->n_routes; i++)
        printf("route %zu   %s, model %s (%s, up to %s)\n", i + 1, d->routes[i].backend->name,
               d->routes[i].upstream_model,
               d->routes[i].backend->kind == POL_BACKEND_ENGINE ? "engine" : "provider",
               pol_class_name(d->routes[i].backend->max_class));
    for (size_t i = 0; i < d->n_reasons; i++)
        printf("because   %s\n", d->reasons[i]);
    if (d->deny != POL_DENY_NO_ROLE) {
        print_limits(&d->limits);
        printf("guard     %s\n", d->guard.name);
        print_actions("input", d->guard.input);
        print_actions("output", d->guard.output);
    }
    printf("hash      %s\n", snapshot->hash);
}

static int explain(int argc, char **argv, const char *default_file)
{
    struct pol_snapshot *snapshot;
    struct pol_decision decision;
    struct question q;
    int status = read_question(&q, argc, argv, default_file);

    if (status != 0)
        return status;
    snapshot = load(q.file);
    if (snapshot == NULL)
        return EXIT_REFUSED;
    pol_decide(snapshot, &q.facts, &decision);
    print_decision(snapshot, &q, &decision);
    pol_unref(snapshot);
    return decision.effect == POL_ALLOW ? EXIT_FINE : EXIT_REFUSED;
}

int pol_cli_main(int argc, char **argv, const char *default_file)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage_text, stdout);
            return EXIT_FINE;
        }
    if (argc < 2) {
        fputs(usage_text, stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "check") == 0)
        return check(argc - 1, argv + 1, default_file);
    if (strcmp(argv[1], "explain") == 0)
        return explain(argc - 1, argv + 1, default_file);
    return bad_usage("there is no command", argv[1]);
}
