/* Configuration: what the process is told at start, one option table.
 *
 * What: a file of `key = value` lines, '#' comments. Policy (who may do what) is not here: it is its own, reloadable document.
 * Who:  read by the main thread before others start; immutable after.
 * Promises: an unknown key, a wrong value or a secret in the file refuses to start, with FILE:LINE:COLUMN and what is allowed;
 *       docs/configuration.md is generated from the same table.
 */
#ifndef GATEWAY_CONFIG_H
#define GATEWAY_CONFIG_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_CONFIG_FILE_MAX 65536u

struct gw_config {
    char *listen_address, *admin_address;
    uint64_t listen_port, admin_port;
    uint64_t threads;
    bool http2;
    char *public_url;
    char *cert_file, *key_file, *client_ca_file; /* client_ca_file "": none */
    char *policy_file, *migrations_dir;
    char *cuda_plugin; /* "": the usual places */
    char *instance;
    char *journal_dir;
    uint64_t journal_max_bytes;
    char *kek_file, *pseudonym_key_file, *pepper_file;
    uint64_t pseudonym_epoch;
    char *writer_dsn, *mapper_dsn, *reader_dsn, *store_dsn, *migrator_dsn;
    char *redis_url;
    uint64_t redis_timeout_ms;
    uint64_t session_idle_s, session_absolute_s;
    uint64_t body_bytes_max, connections_max, connections_per_address, requests_per_second;
    uint64_t request_timeout_ms, idle_timeout_ms, write_timeout_ms;
    uint64_t drain_timeout_ms;
    uint64_t default_reserve_tokens;
    char *log_level;
};

enum base_code gw_config_load(struct gw_config **ret_config, const char *path, struct base_err *err);
/* name is for messages. */
enum base_code gw_config_parse(struct gw_config **ret_config, const char *name, const char *text, size_t len,
                               struct base_err *err);
void gw_config_free(struct gw_config *config); /* NULL is allowed */
/* docs/configuration.md */
void gw_config_markdown(struct base_buf *out);

#endif
