/* Configuration: the option table and its reader. See config.h. */
#include "gateway/config.h"

#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum kind { TEXT, NUMBER, BOOL, DSN };

struct option {
    const char *key;
    enum kind kind;
    size_t offset;
    const char *fallback; /* NULL: must be given */
    uint64_t min, max;
    const char *doc;
};

#define AT(field) offsetof(struct gw_config, field)

static const struct option options[] = {
    {"listen_address", TEXT, AT(listen_address), "127.0.0.1", 0, 0,
     "Address of the TLS listener; `0.0.0.0` or `::` for all."},
    {"listen_port", NUMBER, AT(listen_port), "8443", 0, 65535, "Port of the TLS listener."},
    {"admin_address", TEXT, AT(admin_address), "127.0.0.1", 0, 0,
     "Address of the health and metrics listener (plain HTTP: keep it private)."},
    {"admin_port", NUMBER, AT(admin_port), "8442", 0, 65535, "Port of the health and metrics listener."},
    {"threads", NUMBER, AT(threads), "0", 0, 256, "Event loops; 0: one per core."},
    {"http2", BOOL, AT(http2), "true", 0, 0, "Offer HTTP/2."},
    {"public_url", TEXT, AT(public_url), "https://localhost:8443", 0, 0,
     "How browsers reach the gateway: scheme, host and port. Requests with a session must come from this "
     "origin."},
    {"cert_file", TEXT, AT(cert_file), NULL, 0, 0, "Certificate chain, PEM. Read again on SIGHUP."},
    {"key_file", TEXT, AT(key_file), NULL, 0, 0, "Its private key, PEM, mode 0600. Read again on SIGHUP."},
    {"client_ca_file", TEXT, AT(client_ca_file), "", 0, 0,
     "Authorities of client certificates, PEM; empty: clients are not asked for one. Read again on SIGHUP."},
    {"policy_file", TEXT, AT(policy_file), NULL, 0, 0,
     "The policy document (docs/policy.md). Read again on SIGHUP."},
    {"migrations_dir", TEXT, AT(migrations_dir), NULL, 0, 0,
     "Folder of the SQL migrations that belong to this binary."},
    {"instance", TEXT, AT(instance), "gw1", 0, 0,
     "Name of this gateway in the audit: [a-z0-9-], at most 32. Owns its journal and its chain; never give "
     "it to two."},
    {"cuda_plugin", TEXT, AT(cuda_plugin), "", 0, 0,
     "File of the CUDA plug-in. Empty: beside the program, or where it was installed."},
    {"journal_dir", TEXT, AT(journal_dir), NULL, 0, 0,
     "Folder of the audit journal, on a disk that keeps what fdatasync wrote."},
    {"journal_max_bytes", NUMBER, AT(journal_max_bytes), "1073741824", 1048576, 1ull << 42,
     "When records that are not in Postgres yet take this much, requests are refused."},
    {"kek_file", TEXT, AT(kek_file), NULL, 0, 0,
     "Key-encryption key: 64 hexadecimal digits (`openssl rand -hex 32`), mode 0600. Without it no recorded "
     "content can be read."},
    {"pseudonym_key_file", TEXT, AT(pseudonym_key_file), NULL, 0, 0,
     "Key of the pseudonyms, in the same form."},
    {"pseudonym_epoch", NUMBER, AT(pseudonym_epoch), "1", 1, 1000000,
     "Number of that key; count up when it is replaced."},
    {"pepper_file", TEXT, AT(pepper_file), NULL, 0, 0,
     "Key for the hashes of API keys and sessions, in the same form."},
    {"writer_dsn", DSN, AT(writer_dsn), NULL, 0, 0,
     "Postgres, role gatehouse_writer: inserts audit records."},
    {"mapper_dsn", DSN, AT(mapper_dsn), NULL, 0, 0, "Postgres, role gatehouse_mapper: pseudonym to person."},
    {"reader_dsn", DSN, AT(reader_dsn), NULL, 0, 0, "Postgres, role gatehouse_reader: `gatehouse audit`."},
    {"store_dsn", DSN, AT(store_dsn), NULL, 0, 0,
     "Postgres, role gatehouse_store: API keys and sessions. A direct connection, never a transaction "
     "pooler."},
    {"migrator_dsn", DSN, AT(migrator_dsn), NULL, 0, 0,
     "Postgres, role gatehouse_migrator: migrations at start. A direct connection."},
    {"redis_url", TEXT, AT(redis_url), "redis://127.0.0.1:6379", 0, 0,
     "`redis://HOST:PORT` or `unix:///PATH`: rate limits."},
    {"redis_timeout_ms", NUMBER, AT(redis_timeout_ms), "250", 10, 10000,
     "How long a limit check may take before the limit's failure mode decides."},
    {"session_idle_s", NUMBER, AT(session_idle_s), "1800", 60, 86400,
     "A session ends when unused for so long."},
    {"session_absolute_s", NUMBER, AT(session_absolute_s), "28800", 300, 604800,
     "A session ends after so long in any case."},
    {"body_bytes_max", NUMBER, AT(body_bytes_max), "8388608", 1024, 1u << 28, "Largest request body."},
    {"connections_max", NUMBER, AT(connections_max), "10000", 1, 1000000, "Connections at once."},
    {"connections_per_address", NUMBER, AT(connections_per_address), "256", 1, 1000000,
     "Connections at once from one address. Raise it behind a balancer that hides addresses."},
    {"requests_per_second", NUMBER, AT(requests_per_second), "200", 1, 1000000,
     "Requests a second on one connection; past it the connection is cut."},
    {"request_timeout_ms", NUMBER, AT(request_timeout_ms), "15000", 100, 600000,
     "From a request's first byte to its last."},
    {"idle_timeout_ms", NUMBER, AT(idle_timeout_ms), "60000", 100, 3600000,
     "A connection without a request is closed after so long."},
    {"write_timeout_ms", NUMBER, AT(write_timeout_ms), "30000", 100, 600000,
     "A client that reads nothing for so long is cut."},
    {"drain_timeout_ms", NUMBER, AT(drain_timeout_ms), "30000", 0, 3600000,
     "On SIGTERM calls in flight may go on for so long."},
    {"default_reserve_tokens", NUMBER, AT(default_reserve_tokens), "512", 1, 1000000,
     "Tokens reserved for an answer whose request names no max_tokens; the true use is settled after."},
    {"log_level", TEXT, AT(log_level), "info", 0, 0, "debug, info, warn or error."},
};

static char **text_at(struct gw_config *config, const struct option *option)
{
    return (char **)((char *)config + option->offset);
}

static bool is_text(const struct option *option)
{
    return option->kind == TEXT || option->kind == DSN;
}

struct reader {
    struct gw_config *config;
    const char *name;
    unsigned line;
    bool given[BASE_ARRAY_LEN(options)];
};

static enum base_code set(struct reader *r, const struct option *option, const char *value, size_t len,
                          unsigned column, struct base_err *err)
{
    char *field = (char *)r->config + option->offset;
    uint64_t number;

    switch (option->kind) {
    case DSN:
        if (memmem(value, len, "password", 8) != NULL)
            return base_fail(
                err, BASE_DENIED, 0,
                "%s:%u:%u: %s holds a password: put it into a file and name that with passfile=FILE", r->name,
                r->line, column, option->key);
        __attribute__((fallthrough));
    case TEXT:
        free(*text_at(r->config, option));
        *text_at(r->config, option) = base_memdup0(value, len);
        return BASE_OK;
    case NUMBER:
        if (base_parse_u64(value, len, option->max, &number) != BASE_OK || number < option->min)
            return base_fail(err, BASE_INVALID, 0, "%s:%u:%u: %s must be a whole number from %llu to %llu",
                             r->name, r->line, column, option->key, (unsigned long long)option->min,
                             (unsigned long long)option->max);
        memcpy(field, &number, sizeof(number));
        return BASE_OK;
    case BOOL:
        if (!(len == 4 && memcmp(value, "true", 4) == 0) && !(len == 5 && memcmp(value, "false", 5) == 0))
            return base_fail(err, BASE_INVALID, 0, "%s:%u:%u: %s must be true or false", r->name, r->line,
                             column, option->key);
        *(bool *)field = len == 4;
        return BASE_OK;
    }
    return BASE_OK;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static enum base_code read_line(struct reader *r, const char *line, size_t len, struct base_err *err)
{
    size_t key_at = 0, key_end, value_at, value_end = len;

    while (key_at < len && blank(line[key_at]))
        key_at++;
    if (key_at == len || line[key_at] == '#')
        return BASE_OK;
    for (key_end = key_at; key_end < len && line[key_end] != '=' && !blank(line[key_end]);)
        key_end++;
    for (value_at = key_end; value_at < len && blank(line[value_at]);)
        value_at++;
    if (value_at == len || line[value_at] != '=')
        return base_fail(err, BASE_INVALID, 0, "%s:%u:%zu: expected `key = value`", r->name, r->line,
                         key_at + 1);
    for (value_at++; value_at < len && blank(line[value_at]);)
        value_at++;
    while (value_end > value_at && blank(line[value_end - 1]))
        value_end--;
    for (size_t i = 0; i < BASE_ARRAY_LEN(options); i++) {
        if (strlen(options[i].key) != key_end - key_at ||
            memcmp(options[i].key, line + key_at, key_end - key_at) != 0)
            continue;
        if (r->given[i])
            return base_fail(err, BASE_INVALID, 0, "%s:%u:%zu: %s is given twice", r->name, r->line,
                             key_at + 1, options[i].key);
        r->given[i] = true;
        return set(r, &options[i], line + value_at, value_end - value_at, (unsigned)value_at + 1, err);
    }
    return base_fail(
        err, BASE_INVALID, 0, "%s:%u:%zu: unknown option `%.*s`; docs/configuration.md lists them all",
        r->name, r->line, key_at + 1, (int)(key_end - key_at < 64 ? key_end - key_at : 64), line + key_at);
}

static enum base_code fill_fallbacks(struct reader *r, struct base_err *err)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(options); i++) {
        enum base_code rc;

        if (r->given[i])
            continue;
        if (options[i].fallback == NULL)
            return base_fail(err, BASE_INVALID, 0, "%s: the option %s is missing", r->name, options[i].key);
        rc = set(r, &options[i], options[i].fallback, strlen(options[i].fallback), 0, err);
        if (rc != BASE_OK)
            return rc;
    }
    return BASE_OK;
}

enum base_code gw_config_parse(struct gw_config **ret_config, const char *name, const char *text, size_t len,
                               struct base_err *err)
{
    struct reader r = {.config = base_zalloc(sizeof(struct gw_config)), .name = name};
    enum base_code rc = BASE_OK;

    if (memchr(text, '\0', len) != NULL)
        rc = base_fail(err, BASE_INVALID, 0, "%s: holds a NUL byte", name);
    for (size_t at = 0; rc == BASE_OK && at < len;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - (text + at)) : len - at;

        r.line++;
        rc = read_line(&r, text + at, n, err);
        at += n + 1;
    }
    if (rc == BASE_OK)
        rc = fill_fallbacks(&r, err);
    if (rc != BASE_OK) {
        gw_config_free(r.config);
        return rc;
    }
    *ret_config = r.config;
    return BASE_OK;
}

enum base_code gw_config_load(struct gw_config **ret_config, const char *path, struct base_err *err)
{
    auto_free char *text = base_alloc(GW_CONFIG_FILE_MAX + 1);
    FILE *f = fopen(path, "re");
    size_t n;

    if (f == NULL)
        return base_fail(err, BASE_NOT_FOUND, errno, "configuration file %s", path);
    n = fread(text, 1, GW_CONFIG_FILE_MAX + 1, f);
    fclose(f);
    if (n > GW_CONFIG_FILE_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "configuration file %s is larger than %u bytes", path,
                         GW_CONFIG_FILE_MAX);
    return gw_config_parse(ret_config, path, text, n, err);
}

void gw_config_free(struct gw_config *config)
{
    if (config == NULL)
        return;
    for (size_t i = 0; i < BASE_ARRAY_LEN(options); i++)
        if (is_text(&options[i]))
            free(*text_at(config, &options[i]));
    free(config);
}

void gw_config_markdown(struct base_buf *out)
{
    base_buf_append_str(out, "# Configuration\n\n"
                             "`gatehouse serve --config FILE` reads `key = value` lines; `#` begins a "
                             "comment. An unknown key, a value out of range\n"
                             "or a password in the file refuses to start. This page is generated by "
                             "`gatehouse config --markdown`.\n\n"
                             "| option | default | meaning |\n| --- | --- | --- |\n");
    for (size_t i = 0; i < BASE_ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];

        base_buf_printf(out, "| `%s` | ", o->key);
        if (o->fallback != NULL)
            base_buf_printf(out, "`%s`", o->fallback);
        else
            base_buf_append_str(out, "must be given");
        base_buf_printf(out, " | %s", o->doc);
        if (o->kind == NUMBER)
            base_buf_printf(out, " (%llu to %llu)", (unsigned long long)o->min, (unsigned long long)o->max);
        base_buf_append_str(out, " |\n");
    }
}
