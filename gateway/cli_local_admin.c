/* Break-glass administrators. See cli_local_admin.h. */
#include "gateway/cli_local_admin.h"

#include "base/crypto.h"
#include "base/mem.h"
#include "base/password.h"
#include "gateway/identity_sql.h"
#include "gateway/local_admin.h"
#include "gateway/tags.h"

#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define TIMEOUT_MS    5000u
#define REVOKE_KEEP_S (8u * 86400u) /* longer than any session */

static const char help[] =
    "Usage: gatehouse local-admin create NAME [--password-file FILE]\n"
    "       gatehouse local-admin list\n"
    "       gatehouse local-admin disable NAME\n"
    "\n"
    "Administrators for the day when the identity provider is away. They sign in at /auth/local with name,\n"
    "password and a six-digit code, when the policy says identity.break_glass: true. Every attempt is "
    "recorded.\n"
    "\n"
    "  create   asks for a password of at least 12 characters and prints the address for an authenticator "
    "app,\n"
    "           once\n"
    "  disable  for good: sessions end within a second, and the name cannot be used again\n"
    "\n"
    "  --password-file FILE  reads the password from a file of mode 0600 instead of the terminal\n";

struct run {
    const struct gw_cli_identity_options *options;
    FILE *out, *err;
};

static int usage(const struct run *run, const char *what)
{
    fprintf(run->err, "gatehouse: %s\n\n%s", what, help);
    return 2;
}

static int failed(const struct run *run, const char *doing, const struct base_err *err)
{
    fprintf(run->err, "gatehouse: %s: %s%s\n", doing, err->detail,
            strstr(err->detail, "42P01") != NULL ? "\nThe table is missing: run `gatehouse migrate` first."
                                                 : "");
    return 1;
}

static bool record(const struct run *run, const char *action, const char *name)
{
    return run->options->record == NULL || run->options->record(action, name, run->options->user);
}

/* One line from the terminal, not shown. False: no terminal, or too long. */
static bool ask(const struct run *run, const char *prompt, char *out, size_t size)
{
    FILE *tty = fopen("/dev/tty", "r+e");
    struct termios shown, hidden;
    bool ok;

    if (tty == NULL || tcgetattr(fileno(tty), &shown) != 0) {
        fprintf(run->err, "gatehouse: there is no terminal to ask for the password: use --password-file\n");
        if (tty != NULL)
            fclose(tty);
        return false;
    }
    setvbuf(tty, NULL, _IONBF, 0); /* leaves no copy in a buffer */
    hidden = shown;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    fputs(prompt, tty);
    tcsetattr(fileno(tty), TCSAFLUSH, &hidden);
    ok = fgets(out, (int)size, tty) != NULL && strchr(out, '\n') != NULL;
    tcsetattr(fileno(tty), TCSAFLUSH, &shown);
    fputs("\n", tty);
    fclose(tty);
    if (ok)
        *strchr(out, '\n') = '\0';
    return ok;
}

static bool read_password(const struct run *run, const char *file, char *out, size_t size)
{
    auto_secret struct base_secret *secret = NULL;
    struct base_err err = {0};
    char again[512] = "";
    bool same;

    if (file == NULL) {
        if (!ask(run, "Password: ", out, size) || !ask(run, "Once more: ", again, sizeof(again)))
            return false;
        same = strcmp(out, again) == 0;
        base_wipe(again, sizeof(again));
        if (!same)
            fprintf(run->err, "gatehouse: the two passwords differ\n");
        return same;
    }
    if (base_secret_read_file(&secret, file, &err) != BASE_OK || base_secret_len(secret) >= size ||
        memchr(base_secret_bytes(secret), '\0', base_secret_len(secret)) != NULL) {
        fprintf(run->err, "gatehouse: the password cannot be used: %s\n",
                err.detail[0] != '\0' ? err.detail : "it is too long, or holds a NUL");
        return false;
    }
    memcpy(out, base_secret_bytes(secret), base_secret_len(secret));
    out[base_secret_len(secret)] = '\0';
    return true;
}

static enum base_code insert(struct base_pg *pg, const char *name, const char *hash,
                             const unsigned char *sealed, struct base_err *err)
{
    const struct base_pg_param params[] = {PG_TEXT(name), PG_TEXT(hash),
                                           PG_BYTES(sealed, GW_LOCAL_SEALED_BYTES)};

    return base_pg_exec(pg, "INSERT INTO identity.local_admins (name, password, totp) VALUES ($1, $2, $3)",
                        params, BASE_ARRAY_LEN(params), NULL, err);
}

static int create(const struct run *run, const char *name, const char *password_file)
{
    auto_secret struct base_secret *pepper = NULL;
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    unsigned char secret[GW_TOTP_SECRET_BYTES], sealed[GW_LOCAL_SEALED_BYTES];
    char password[512] = "", hash[BASE_PASSWORD_HASH_MAX], base32[GW_TOTP_BASE32_LEN + 1];
    struct base_err err = {0};
    int status = 1;

    if (base_secret_read_key_file(&pepper, run->options->pepper_file, &err) != BASE_OK)
        return failed(run, "the key pepper cannot be read", &err);
    if (!read_password(run, password_file, password, sizeof(password)))
        return 1;
    base_random(secret, sizeof(secret));
    gw_local_seal(pepper, name, secret, sealed);
    if (strlen(password) < GW_LOCAL_PASSWORD_MIN)
        fprintf(run->err, "gatehouse: the password has fewer than %u characters\n", GW_LOCAL_PASSWORD_MIN);
    else if (base_password_hash(password, strlen(password), hash, &err) != BASE_OK)
        failed(run, "the password cannot be hashed", &err);
    else if (!record(run, "local.create", name)) /* before: nobody comes to be unrecorded */
        fprintf(run->err, "gatehouse: it could not be recorded in the audit, so nothing was made\n");
    else if (insert(pg, name, hash, sealed, &err) == BASE_EXISTS)
        fprintf(run->err, "gatehouse: %s exists, or did once: take another name\n", name);
    else if (err.code != BASE_OK)
        failed(run, "the administrator could not be stored", &err);
    else {
        gw_totp_base32(secret, base32);
        fprintf(run->out, "otpauth://totp/Gatehouse:%s?secret=%s&issuer=Gatehouse\n", name, base32);
        fprintf(run->err,
                "Shown this once: give the address to an authenticator app (as a QR code, or the text "
                "after secret=). %s signs in at /auth/local.\n",
                name);
        base_wipe(base32, sizeof(base32));
        status = 0;
    }
    base_wipe(password, sizeof(password));
    base_wipe(secret, sizeof(secret));
    return status;
}

static int list(const struct run *run)
{
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err = {0};

    if (base_pg_exec(
            pg,
            "SELECT name, CASE WHEN disabled_at IS NOT NULL THEN 'disabled' WHEN locked_until > now() THEN "
            "'locked' ELSE 'active' END, to_char(created_at AT TIME ZONE 'UTC', "
            "'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') "
            "FROM identity.local_admins ORDER BY name",
            NULL, 0, &rows, &err) != BASE_OK)
        return failed(run, "the administrators could not be read", &err);
    for (unsigned i = 0; i < base_pg_n_rows(rows); i++)
        fprintf(run->out, "%-10s  %s  %s\n", base_pg_text(rows, i, 1), base_pg_text(rows, i, 2),
                base_pg_text(rows, i, 0));
    return 0;
}

static int disable(const struct run *run, const char *name)
{
    auto_secret struct base_secret *pepper = NULL;
    auto_pg struct base_pg *pg = base_pg_new(run->options->dsn, TIMEOUT_MS);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(name)};
    struct gw_revocation revocation;
    struct gw_revoke_new revoke = {.kind = GW_REVOCATION_PERSON,
                                   .reason = "local administrator disabled",
                                   .keep_s = REVOKE_KEEP_S,
                                   .key_issuer = GW_LOCAL_ISSUER,
                                   .key_subject = name};
    struct base_err err = {0};

    if (base_secret_read_key_file(&pepper, run->options->pepper_file, &err) != BASE_OK)
        return failed(run, "the key pepper cannot be read", &err);
    if (base_pg_exec(
            pg,
            "UPDATE identity.local_admins SET disabled_at = coalesce(disabled_at, now()) WHERE name = $1 "
            "RETURNING 1",
            params, BASE_ARRAY_LEN(params), &rows, &err) != BASE_OK)
        return failed(run, "the administrator could not be disabled", &err);
    if (base_pg_n_rows(rows) != 1) {
        fprintf(run->err, "gatehouse: there is no local administrator %s\n", name);
        return 1;
    }
    revoke.tag = gw_tag(pepper, GW_TAG_PERSON, GW_LOCAL_ISSUER, name, NULL);
    if (gw_sql_revoke(pg, &revoke, &revocation, &err) != BASE_OK)
        return failed(run, "disabled, but sessions that run could not be ended", &err);
    if (!record(run, "local.disable", name)) {
        fprintf(run->err, "gatehouse: %s is disabled, but that could not be recorded in the audit\n", name);
        return 1;
    }
    fprintf(run->out, "%s is disabled.\n", name);
    return 0;
}

int gw_cli_local_admin_main(int argc, char **argv, const struct gw_cli_identity_options *options)
{
    struct run run = {.options = options,
                      .out = options->out != NULL ? options->out : stdout,
                      .err = options->err != NULL ? options->err : stderr};
    const char *file = argc == 5 && strcmp(argv[3], "--password-file") == 0 ? argv[4] : NULL;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, run.out);
            return 0;
        }
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list(&run);
    if (argc < 3 || !gw_role_valid(argv[2]))
        return usage(&run, "create NAME, list, or disable NAME? A name is 1 to 63 of A-Z a-z 0-9 . _ -");
    if (strcmp(argv[1], "create") == 0 && (argc == 3 || file != NULL))
        return create(&run, argv[2], file);
    if (strcmp(argv[1], "disable") == 0 && argc == 3)
        return disable(&run, argv[2]);
    return usage(&run, "unknown argument");
}
