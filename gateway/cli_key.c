/* Commands on identity. See cli_key.h. */
#include "gateway/cli_key.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"
#include "gateway/identity_sql.h"
#include "gateway/session.h"
#include "policy/policy.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TIMEOUT_MS    5000u
#define LINK_VALID_S  900u
#define OUTPUT_MAX    (64u << 20)
#define EXPIRES_MAX_S (100ll * 366 * 86400)

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char key_help[] =
    "Usage: gatehouse key create --owner NAME --role ROLE [--role ROLE]... [--label TEXT] "
    "[--expires 90d|12h|YYYY-MM-DD] [--json]\n"
    "       gatehouse key create --issuer ISSUER --subject SUBJECT --role ROLE...\n"
    "       gatehouse key create --service NAME ...\n"
    "       gatehouse key list [--json]\n"
    "       gatehouse key revoke KEY_ID [--json]\n"
    "\n"
    "API keys for applications. `create` prints the key once: it is stored only "
    "as a keyed hash and cannot be shown again.\n"
    "\n"
    "  --owner NAME    the application or person that answers for the key's use; "
    "stands in every audit record\n"
    "  --issuer ISSUER --subject SUBJECT\n"
    "                  the key of a person, by the names that single sign-on gives "
    "them; it dies with the person's access\n"
    "  --service NAME  the key of a service account of the policy: it has the roles "
    "that the policy gives the account\n"
    "                  at each use, and none when the account is gone\n"
    "  --role ROLE     a role of the policy; may be given up to 16 times. The "
    "role \"admin\" opens the admin pages\n"
    "  --label TEXT    a note for people\n"
    "  --expires WHEN  after so many days (90d) or hours (12h), or at the start "
    "of a day, UTC (2027-01-31). Default: never\n"
    "  --json          machine-readable output\n"
    "\n"
    "A revoked key is refused by every gateway within a second while the database "
    "is reachable, and stays revoked.\n";

static const char link_help[] =
    "Usage: gatehouse admin-link [--url ORIGIN] [--subject NAME] [--json]\n"
    "\n"
    "Prints a link that signs an administrator in: once, within 15 minutes.\n"
    "\n"
    "  --url ORIGIN    how browsers reach the gateway. Default: public_url of the configuration\n"
    "  --subject NAME  who is signed in; stands in every audit record. Default: admin\n"
    "  --json          machine-readable output\n";

/* What a command line asked for. */
struct arguments {
    const char *owner, *label, *expires, *url, *subject, *issuer, *service, *key_id;
    char roles[GW_ROLES_TEXT_MAX];
    unsigned n_roles;
    bool json;
};

/* One run of a command. */
struct run {
    const struct gw_cli_identity_options *options;
    FILE *out, *err;
    const char *help;
    struct arguments args;
};

static struct run run_new(const struct gw_cli_identity_options *options, const char *help)
{
    return (struct run){.options = options,
                        .out = options->out != NULL ? options->out : stdout,
                        .err = options->err != NULL ? options->err : stderr,
                        .help = help};
}

static int usage(const struct run *run, const char *what, const char *value)
{
    fprintf(run->err, "gatehouse: %s%s%s\n\n%s", what, value != NULL ? ": " : "", value != NULL ? value : "",
            run->help);
    return EXIT_USAGE;
}

/* A failure of the database, with what to do about it. */
static int failed(const struct run *run, const char *doing, const struct base_err *err)
{
    const char *advice = "";

    if (err->code == BASE_UNAVAILABLE || err->code == BASE_TIMEOUT)
        advice = "\nIs Postgres running, and is store_dsn in the configuration right?";
    else if (strstr(err->detail, "42P01") != NULL || strstr(err->detail, "3F000") != NULL)
        advice = "\nThe tables are missing: run `gatehouse migrate` first.";
    else if (strstr(err->detail, "42501") != NULL)
        advice = "\nstore_dsn must name the role gatehouse_store (deploy/postgres-roles.sql).";
    fprintf(run->err, "gatehouse: %s: %s%s\n", doing, err->detail, advice);
    return EXIT_FAILED;
}

/* ---- arguments ---- */

/* Text that may stand in lists and records: 1-max bytes of UTF-8 without control characters. */
static bool text_ok(const char *text, size_t max)
{
    size_t len = strlen(text);

    if (len == 0 || len > max || !base_utf8_valid(text, len))
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return false;
    return true;
}

static int add_role(struct run *run, const char *role)
{
    struct arguments *args = &run->args;

    if (!gw_role_valid(role))
        return usage(run, "a role is 1 to 63 of the characters A-Z a-z 0-9 . _ -", role);
    if (args->n_roles == GW_ROLES_MAX)
        return usage(run, "a key has at most 16 roles", NULL);
    if (args->n_roles++ > 0)
        strcat(args->roles, "\n");
    strcat(args->roles, role); /* fits: GW_ROLES_MAX names of less than GW_ROLE_MAX */
    return EXIT_DONE;
}

/* Where an option's value goes; NULL: no such option. */
static const char **option_slot(struct arguments *args, const char *name)
{
    const struct {
        const char *name, **slot;
    } table[] = {{"--owner", &args->owner},    {"--label", &args->label},   {"--expires", &args->expires},
                 {"--url", &args->url},        {"--issuer", &args->issuer}, {"--service", &args->service},
                 {"--subject", &args->subject}};

    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++)
        if (strcmp(name, table[i].name) == 0)
            return table[i].slot;
    return NULL;
}

static int parse_arguments(struct run *run, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        const char **slot = option_slot(&run->args, argv[i]);
        bool is_role = strcmp(argv[i], "--role") == 0;
        int status;

        if (strcmp(argv[i], "--json") == 0) {
            run->args.json = true;
            continue;
        }
        if (slot == NULL && !is_role) {
            if (argv[i][0] == '-' || run->args.key_id != NULL)
                return usage(run, "unknown argument", argv[i]);
            run->args.key_id = argv[i];
            continue;
        }
        if (i + 1 == argc)
            return usage(run, "a value is missing after", argv[i]);
        if (is_role) {
            status = add_role(run, argv[++i]);
            if (status != EXIT_DONE)
                return status;
        } else if (*slot != NULL)
            return usage(run, "given twice", argv[i]);
        else
            *slot = argv[++i];
    }
    return EXIT_DONE;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* A date, at 00:00 UTC; false for one that does not exist. */
static bool parse_date(const char *text, int64_t *ret_s)
{
    struct tm date = {0}, back;
    time_t at;
    int end = 0;

    if (strlen(text) != 10 ||
        sscanf(text, "%4d-%2d-%2d%n", &date.tm_year, &date.tm_mon, &date.tm_mday, &end) != 3 || end != 10)
        return false;
    date.tm_year -= 1900;
    date.tm_mon -= 1;
    back = date;
    at = timegm(&back); /* puts 31 February into March */
    if (back.tm_year != date.tm_year || back.tm_mon != date.tm_mon || back.tm_mday != date.tm_mday)
        return false;
    *ret_s = at;
    return true;
}

/* "90d", "12h" or a date; Unix seconds in the future. */
static bool parse_expires(const char *text, int64_t now_s, int64_t *ret_s)
{
    size_t len = strlen(text);
    uint64_t count;
    int64_t at;

    if (len > 1 && (text[len - 1] == 'd' || text[len - 1] == 'h')) {
        if (base_parse_u64(text, len - 1, 1000000, &count) != BASE_OK || count == 0)
            return false;
        at = now_s + (int64_t)count * (text[len - 1] == 'd' ? 86400 : 3600);
    } else if (!parse_date(text, &at))
        return false;
    if (at <= now_s || at > now_s + EXPIRES_MAX_S)
        return false;
    *ret_s = at;
    return true;
}

static int read_pepper(const struct run *run, struct base_secret **ret_pepper)
{
    struct base_err err = {0};

    if (base_secret_read_key_file(ret_pepper, run->options->pepper_file, &err) != BASE_OK) {
        fprintf(run->err,
                "gatehouse: %s\nThe key pepper is made by the gateway's set-up; this command must use the "
                "gateway's own file.\n",
                err.detail);
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

static bool record(const struct run *run, const char *action, const char *target)
{
    return run->options->record == NULL || run->options->record(action, target, run->options->user);
}

/* ---- output ---- */

static void json_text(struct base_buf *out, const char *name, const char *value)
{
    base_buf_append_json(out, name, strlen(name));
    base_buf_append_char(out, ':');
    if (value != NULL)
        base_buf_append_json(out, value, strlen(value));
    else
        base_buf_append_str(out, "null");
}

static void json_roles(struct base_buf *out, const char *roles)
{
    base_buf_append_str(out, "\"roles\":[");
    for (const char *at = roles; *at != '\0';) {
        size_t len = strcspn(at, "\n");

        if (at != roles)
            base_buf_append_char(out, ',');
        base_buf_append_json(out, at, len);
        at += len + (at[len] == '\n');
    }
    base_buf_append_char(out, ']');
}

/* Microseconds as text; NULL for SQL NULL. */
static const char *time_text(const struct base_pg_rows *rows, unsigned row, unsigned column,
                             char out[BASE_RFC3339_MAX])
{
    if (base_pg_text(rows, row, column) == NULL)
        return NULL;
    base_rfc3339(base_pg_int(rows, row, column) / 1000000 * 1000000, out);
    out[19] = 'Z'; /* whole seconds */
    out[20] = '\0';
    return out;
}

static const char *key_state(const struct base_pg_rows *rows, unsigned row)
{
    if (base_pg_text(rows, row, GW_KEYCOL_REVOKED) != NULL)
        return "revoked";
    if (base_pg_text(rows, row, GW_KEYCOL_EXPIRES) != NULL &&
        base_pg_int(rows, row, GW_KEYCOL_EXPIRES) <= base_wall_us())
        return "expired";
    return "active";
}

static const char *text_or_empty(const struct base_pg_rows *rows, unsigned row, unsigned column)
{
    const char *text = base_pg_text(rows, row, column);

    return text != NULL ? text : "";
}

static void list_json(struct base_buf *out, const struct base_pg_rows *rows)
{
    static const struct {
        const char *name;
        enum gw_key_column column;
    } times[] = {{"created_at", GW_KEYCOL_CREATED},
                 {"expires_at", GW_KEYCOL_EXPIRES},
                 {"revoked_at", GW_KEYCOL_REVOKED},
                 {"last_used_at", GW_KEYCOL_LAST_USED}};

    base_buf_append_str(out, "[");
    for (unsigned row = 0; row < base_pg_n_rows(rows); row++) {
        base_buf_append_str(out, row > 0 ? ",\n{" : "{");
        json_text(out, "key_id", text_or_empty(rows, row, GW_KEYCOL_ID));
        base_buf_append_char(out, ',');
        json_text(out, "owner", text_or_empty(rows, row, GW_KEYCOL_SUBJECT));
        base_buf_append_char(out, ',');
        json_roles(out, text_or_empty(rows, row, GW_KEYCOL_ROLES));
        base_buf_append_char(out, ',');
        json_text(out, "label", text_or_empty(rows, row, GW_KEYCOL_LABEL));
        base_buf_append_char(out, ',');
        json_text(out, "state", key_state(rows, row));
        for (size_t i = 0; i < BASE_ARRAY_LEN(times); i++) {
            char text[BASE_RFC3339_MAX];

            base_buf_append_char(out, ',');
            json_text(out, times[i].name, time_text(rows, row, times[i].column, text));
        }
        base_buf_append_char(out, '}');
    }
    base_buf_append_str(out, "]\n");
}

/* For a terminal: what is not printable ASCII or UTF-8 shows as '?', newlines of a list as commas. */
static void append_plain(struct base_buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        base_buf_append_char(out, c == '\n' ? ',' : c < 0x20 || c == 0x7f ? '?' : (char)c);
    }
}

static void list_table(struct base_buf *out, const struct base_pg_rows *rows)
{
    base_buf_printf(out, "%-12s  %-7s  %-20s  %-20s  %-20s  %s\n", "KEY ID", "STATE", "CREATED", "EXPIRES",
                    "LAST USED", "OWNER [ROLES] LABEL");
    for (unsigned row = 0; row < base_pg_n_rows(rows); row++) {
        char created[BASE_RFC3339_MAX], expires[BASE_RFC3339_MAX], used[BASE_RFC3339_MAX];
        const char *c = time_text(rows, row, GW_KEYCOL_CREATED, created),
                   *e = time_text(rows, row, GW_KEYCOL_EXPIRES, expires),
                   *u = time_text(rows, row, GW_KEYCOL_LAST_USED, used);

        base_buf_printf(out, "%-12s  %-7s  %-20s  %-20s  %-20s  ", text_or_empty(rows, row, GW_KEYCOL_ID),
                        key_state(rows, row), c != NULL ? c : "", e != NULL ? e : "never",
                        u != NULL ? u : "never");
        append_plain(out, text_or_empty(rows, row, GW_KEYCOL_SUBJECT));
        base_buf_append_str(out, " [");
        append_plain(out, text_or_empty(rows, row, GW_KEYCOL_ROLES));
        base_buf_append_str(out, "] ");
        append_plain(out, text_or_empty(rows, row, GW_KEYCOL_LABEL));
        base_buf_append_char(out, '\n');
    }
}

/* ---- key create ---- */

static void print_key(const struct run *run, const char *key, const char *id, int64_t expires_s)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(OUTPUT_MAX);
    char expires[BASE_RFC3339_MAX];

    base_rfc3339(expires_s * 1000000, expires);
    if (!run->args.json) {
        fprintf(run->out, "%s\n", key);
        fprintf(run->err,
                "Key %s for %s, expires %s. It is shown this once and cannot be shown again: store it like a "
                "password.\n",
                id, run->args.owner, expires_s > 0 ? expires : "never");
        return;
    }
    base_buf_append_char(&out, '{');
    json_text(&out, "key", key);
    base_buf_append_char(&out, ',');
    json_text(&out, "key_id", id);
    base_buf_append_char(&out, ',');
    json_text(&out, "owner", run->args.owner);
    base_buf_append_char(&out, ',');
    json_roles(&out, run->args.roles);
    base_buf_append_char(&out, ',');
    json_text(&out, "expires_at", expires_s > 0 ? expires : NULL);
    base_buf_append_str(&out, "}\n");
    fwrite(out.data, 1, out.len, run->out);
    base_wipe(out.data, out.len);
}

static int check_create(struct run *run, int64_t *ret_expires_s)
{
    const struct arguments *args = &run->args;

    *ret_expires_s = 0;
    if (args->key_id != NULL || args->url != NULL)
        return usage(run, "unknown argument for `key create`", args->key_id);
    if ((args->owner != NULL) + (args->subject != NULL) + (args->service != NULL) != 1 ||
        (args->subject != NULL) != (args->issuer != NULL))
        return usage(run, "one of --owner, --issuer with --subject, or --service is needed", NULL);
    if (args->owner != NULL && !text_ok(args->owner, GW_SUBJECT_MAX - 1))
        return usage(run, "--owner has 1 to 255 bytes without control characters", NULL);
    if (args->subject != NULL &&
        (!text_ok(args->subject, GW_SUBJECT_MAX - 1) || !text_ok(args->issuer, GW_ISSUER_MAX - 1) ||
         strncmp(args->issuer, "gatehouse:", 10) == 0))
        return usage(run, "--issuer and --subject name a person as the identity provider does", NULL);
    if (args->service != NULL && args->n_roles > 0)
        return usage(run, "a service account has its roles from the policy: leave --role out", NULL);
    if (args->service == NULL && args->n_roles == 0)
        return usage(run, "--role is needed: a key without roles may do nothing", NULL);
    if (args->label != NULL && !text_ok(args->label, GW_LABEL_MAX))
        return usage(run, "--label has 1 to 128 bytes without control characters", NULL);
    if (args->expires != NULL && !parse_expires(args->expires, base_wall_us() / 1000000, ret_expires_s))
        return usage(run, "--expires is a time to come: 90d, 12h or 2027-01-31", args->expires);
    return EXIT_DONE;
}

/* The account must stand in the policy; its roles are taken from there at each use, and stored for the list alone. */
static int find_service(struct run *run, const struct pol_snapshot *policy)
{
    int status = EXIT_FAILED;

    for (size_t i = 0; i < pol_n_service_accounts(policy); i++) {
        const struct pol_service_account *account = pol_service_account_at(policy, i);

        if (strcmp(account->name, run->args.service) != 0)
            continue;
        status = EXIT_DONE;
        for (size_t r = 0; r < account->n_roles && status == EXIT_DONE; r++)
            status = add_role(run, account->roles[r]);
    }
    if (status == EXIT_FAILED)
        fprintf(run->err, "gatehouse: the policy names no service account %s (identity.service_accounts)\n",
                run->args.service);
    return status;
}

/* Service accounts, and whether there is a directory: as the policy file says now. */
static int ask_policy(struct run *run, struct gw_key_new *row)
{
    struct pol_snapshot *policy = NULL;
    const struct pol_identity *identity;
    struct base_err err = {0};
    int status = EXIT_DONE;

    if (run->options->policy_file == NULL && run->args.service == NULL)
        return EXIT_DONE;
    if (run->options->policy_file == NULL ||
        pol_load_file(&policy, run->options->policy_file, &err) != BASE_OK) {
        fprintf(run->err, "gatehouse: the policy cannot be read: %s\n", err.detail);
        return EXIT_FAILED;
    }
    identity = pol_identity(policy);
    if (identity->scim)
        row->directory_key = strcmp(identity->scim_key, "externalId") == 0 ? "externalId" : "userName";
    if (run->args.service != NULL)
        status = find_service(run, policy);
    pol_unref(policy);
    return status;
}

/* Whose the key is; subject has room for GW_SUBJECT_MAX. */
static int find_owner(struct run *run, struct gw_key_new *row, char *subject)
{
    const struct arguments *args = &run->args;

    row->issuer = args->issuer != NULL ? args->issuer : "gatehouse:keys";
    snprintf(subject, GW_SUBJECT_MAX, "%s", args->owner != NULL ? args->owner : args->subject);
    row->subject = subject;
    if (args->service != NULL) {
        row->issuer = GW_SERVICE_ISSUER;
        snprintf(subject, GW_SUBJECT_MAX, GW_SERVICE_PREFIX "%s", args->service);
    }
    return ask_policy(run, row);
}

static int key_create(struct run *run)
{
    auto_secret struct base_secret *pepper = NULL;
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    unsigned char hash[BASE_SHA256_BYTES];
    char key[GW_APIKEY_LEN + 1], id[GW_APIKEY_ID_LEN + 1];
    char subject[GW_SUBJECT_MAX] = "";
    struct gw_key_new row = {.tenant = "default"};
    struct base_err err = {0};
    bool revoked;
    int status = check_create(run, &row.expires_at_s);

    if (status == EXIT_DONE)
        status = find_owner(run, &row, subject);
    if (status == EXIT_DONE)
        status = read_pepper(run, &pepper);
    if (status != EXIT_DONE)
        return status;
    run->args.owner = subject; /* as it is shown */
    gw_apikey_create(key, id);
    gw_apikey_hash(pepper, key, hash);
    row.key_id = id;
    row.hash = hash;
    row.roles = run->args.roles;
    row.label = run->args.label != NULL ? run->args.label : "";
    if (gw_sql_key_create(pg, &row, &err) != BASE_OK)
        status = failed(run, "the key could not be stored", &err);
    else if (!record(run, "key.create", id)) {
        gw_sql_key_revoke(pg, id, &revoked, NULL);
        fprintf(run->err, "gatehouse: the key could not be recorded in the audit, so it was revoked again\n");
        status = EXIT_FAILED;
    } else
        print_key(run, key, id, row.expires_at_s);
    base_wipe(key, sizeof(key));
    return status;
}

/* ---- key list, key revoke ---- */

static int key_list(struct run *run)
{
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    auto_buf struct base_buf out = BASE_BUF_INIT(OUTPUT_MAX);
    struct base_err err = {0};

    if (run->args.key_id != NULL)
        return usage(run, "unknown argument for `key list`", run->args.key_id);
    if (gw_sql_key_list(pg, &rows, &err) != BASE_OK)
        return failed(run, "the keys could not be read", &err);
    if (run->args.json)
        list_json(&out, rows);
    else
        list_table(&out, rows);
    if (out.failed) {
        fprintf(run->err, "gatehouse: the list is larger than %u MiB\n", OUTPUT_MAX >> 20);
        return EXIT_FAILED;
    }
    fwrite(out.data, 1, out.len, run->out);
    return EXIT_DONE;
}

static int key_revoke(struct run *run)
{
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    const char *id = run->args.key_id;
    struct base_err err = {0};
    bool was_revoked = false, recorded;

    if (id == NULL)
        return usage(run, "which key? `gatehouse key list` shows their ids", NULL);
    if (!gw_apikey_id_valid(id))
        return usage(run, "a key id is the 12 characters after \"gh_\", not the key itself", NULL);
    if (gw_sql_key_revoke(pg, id, &was_revoked, &err) != BASE_OK)
        return failed(run, "the key could not be revoked", &err);
    recorded = was_revoked || record(run, "key.revoke", id);
    if (run->args.json)
        fprintf(run->out, "{\"key_id\":\"%s\",\"state\":\"revoked\",\"was_revoked\":%s}\n", id,
                was_revoked ? "true" : "false");
    else
        fprintf(run->out, was_revoked ? "Key %s had been revoked before.\n" : "Key %s is revoked.\n", id);
    if (!recorded)
        fprintf(run->err, "gatehouse: the key is revoked, but that could not be recorded in the audit\n");
    return recorded ? EXIT_DONE : EXIT_FAILED;
}

int gw_cli_key_main(int argc, char **argv, const struct gw_cli_identity_options *options)
{
    static const struct {
        const char *name;
        int (*fn)(struct run *run);
    } commands[] = {{"create", key_create}, {"list", key_list}, {"revoke", key_revoke}};
    struct run run = run_new(options, key_help);
    int status;

    if (wants_help(argc, argv)) {
        fputs(key_help, run.out);
        return EXIT_DONE;
    }
    if (argc < 2)
        return usage(&run, "create, list or revoke?", NULL);
    for (size_t i = 0; i < BASE_ARRAY_LEN(commands); i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        status = parse_arguments(&run, argc - 2, argv + 2);
        return status == EXIT_DONE ? commands[i].fn(&run) : status;
    }
    return usage(&run, "unknown command", argv[1]);
}

/* ---- admin-link ---- */

static int make_link(struct run *run, const struct base_secret *pepper, const char *subject)
{
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    unsigned char hash[BASE_SHA256_BYTES];
    char token[GW_TOKEN_LEN + 1];
    const struct gw_link_new link = {.hash = hash,
                                     .issuer = "gatehouse:local",
                                     .subject = subject,
                                     .tenant = "default",
                                     .roles = "admin",
                                     .valid_s = LINK_VALID_S};
    struct base_err err = {0};
    int status = EXIT_DONE;

    gw_token_create(pepper, GW_TOKEN_LINK, token);
    gw_token_hash(pepper, GW_TOKEN_LINK, token, hash);
    if (gw_sql_link_create(pg, &link, &err) != BASE_OK)
        status = failed(run, "the link could not be stored", &err);
    else if (!record(run, "link.create", subject)) { /* not printed: nobody can use it */
        fprintf(run->err, "gatehouse: the link could not be recorded in the audit, so it is not shown\n");
        status = EXIT_FAILED;
    } else if (run->args.json)
        fprintf(run->out, "{\"url\":\"%s/auth/link?token=%s\",\"valid_seconds\":%u}\n", run->args.url, token,
                LINK_VALID_S);
    else
        fprintf(run->out, "%s/auth/link?token=%s\n", run->args.url, token);
    base_wipe(token, sizeof(token));
    return status;
}

int gw_cli_admin_link_main(int argc, char **argv, const struct gw_cli_identity_options *options)
{
    auto_secret struct base_secret *pepper = NULL;
    struct run run = run_new(options, link_help);
    const char *subject;
    int status;

    if (wants_help(argc, argv)) {
        fputs(link_help, run.out);
        return EXIT_DONE;
    }
    status = parse_arguments(&run, argc > 1 ? argc - 1 : 0, argv + 1);
    if (status != EXIT_DONE)
        return status;
    if (run.args.key_id != NULL || run.args.owner != NULL || run.args.issuer != NULL ||
        run.args.service != NULL || run.args.n_roles > 0 || run.args.label != NULL ||
        run.args.expires != NULL)
        return usage(&run, "unknown argument for `admin-link`", run.args.key_id);
    if (run.args.url == NULL)
        run.args.url = options->public_url;
    if (run.args.url == NULL || !gw_origin_valid(run.args.url))
        return usage(&run, "--url is no origin: scheme, host and port alone, like https://localhost:8443",
                     NULL);
    subject = run.args.subject != NULL ? run.args.subject : "admin";
    if (!text_ok(subject, GW_SUBJECT_MAX - 1))
        return usage(&run, "--subject has 1 to 255 bytes without control characters", NULL);
    status = read_pepper(&run, &pepper);
    return status == EXIT_DONE ? make_link(&run, pepper, subject) : status;
}
