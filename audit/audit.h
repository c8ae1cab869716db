/* Audit: the record. The one public header of audit/.
 *
 * What: turns intents and outcomes of calls, and events of administration, into canonical bytes; encrypts content under the
 *       person's own key; links records into this instance's hash chain; makes them durable in a local journal; ships them to
 *       Postgres; verifies.
 * Who:  aud_append from any thread; callbacks arrive on the audit thread.
 * Promises:
 *   - on_durable(OK) means: the record is on disk (fdatasync) in the journal; it will be in Postgres exactly once;
 *   - records have a gapless sequence per instance; what was durable before kill -9 is there after the next start;
 *   - content never leaves in clear; hashes are over ciphertext, so that destroying a person's key keeps the chain valid;
 *   - Postgres away: the journal carries on to its cap, then aud_append says BASE_FULL.
 * Limits: AUD_*_MAX below.
 * Not here: who may read (database roles in migrations/), what a policy decided (policy/).
 */
#ifndef AUDIT_AUDIT_H
#define AUDIT_AUDIT_H

#include "base/err.h"
#include "base/secret.h"

#include <stdbool.h>
#include <stdint.h>

#define AUD_CONTENT_MAX   (16u << 20) /* bytes of a prompt or answer in one record */
#define AUD_TEXT_MAX      256u        /* of each short text field; longer is refused */
#define AUD_PSEUDONYM_MAX 64u         /* with NUL */
#define AUD_REASONS_MAX   16u

struct aud;

struct aud_options {
    const char *journal_dir;    /* made when missing, mode 0700; locked: one process at a time */
    uint64_t journal_max_bytes; /* 0: 1 GiB */
    const char *instance;       /* name of this gateway: [a-z0-9-]{1,32} */
    const char *writer_dsn;     /* may only insert */
    const char *mapper_dsn; /* may only insert into the mapping; NULL: mapping records stay in the journal */
    const struct base_secret *kek;           /* 32 bytes: wraps the persons' keys */
    const struct base_secret *pseudonym_key; /* 32 bytes or more: HMAC key of the epoch */
    unsigned epoch;                          /* number of the pseudonym key */
};

/* Opens or creates the journal, re-reads it (a torn tail is cut, anything else that does not verify is BASE_CORRUPT), takes the
 * chain head from it or from Postgres, starts the thread. Postgres may be away. */
enum base_code aud_open(struct aud **ret_aud, const struct aud_options *options, struct base_err *err);
/* Waits until everything appended is durable, tries for at most ship_ms to ship it, stops. NULL is allowed. */
void aud_close(struct aud *aud, unsigned ship_ms);

/* HMAC-SHA-256(epoch key, issuer || 0 || subject) as "p<epoch>-<base32 or hex>"; the same person has the same pseudonym. */
void aud_pseudonym(const struct aud *aud, const char *issuer, const char *subject,
                   char out[AUD_PSEUDONYM_MAX]);

enum aud_kind { AUD_KIND_NONE = 0, AUD_INTENT, AUD_OUTCOME, AUD_EVENT };

/* Short texts are UTF-8, NUL-terminated, at most AUD_TEXT_MAX bytes; NULL is an empty text. Everything is copied. */
struct aud_record {
    enum aud_kind kind;
    const char *request_id; /* joins intent and outcome */
    const char *issuer,
        *subject; /* who, in clear: becomes the pseudonym; the clear form goes to the mapping alone */
    const char *auth_method;   /* "api_key", "session", "admin_link" */
    const char *credential_id; /* key id or session id hash, never the credential */
    const char *tenant;
    const char *roles; /* comma-separated */
    const char *api;   /* "chat.completions" */
    const char *peer;  /* truncated client address */
    const char *model_asked;
    const char *route;      /* intent: first route planned; outcome: the one that answered */
    const char *route_kind; /* "engine" or "provider" */
    const char *upstream_model;
    const char *policy_hash;
    const char *cls, *cls_source;
    const char *decision; /* "allow", "deny" */
    const char *reasons[AUD_REASONS_MAX];
    unsigned n_reasons;
    const char *guard;           /* what the guard did: "card:mask=1,email:tag=2" */
    const char *action, *target; /* events: "key.create", "session.start"; what it was done to */
    const char *status;          /* outcome: "ok", "error", "cancelled", "blocked", "denied"... */
    const char *error_code;
    const char *finish_reason;
    uint32_t attempts;
    uint64_t prompt_tokens, completion_tokens, released_bytes, max_tokens;
    uint64_t ttft_us, duration_us;
    int64_t wall_us; /* 0: now */
    /* intent: the messages as forwarded (JSON); outcome: the text released. NULL: none */
    const char *content;
    size_t content_len;
};

/* On the audit thread; must not block. rc is BASE_OK when durable, else why not (then nothing may be sent). seq is valid with OK. */
typedef void aud_durable_fn(enum base_code rc, uint64_t seq, void *user);

/* BASE_FULL: journal at its cap or queue full; BASE_TOO_LARGE/BASE_INVALID: a field breaks its limit. When this returns an
 * error the callback is not called; on_durable may be NULL for events that need no waiting. */
enum base_code aud_append(struct aud *aud, const struct aud_record *record, aud_durable_fn *on_durable,
                          void *user, struct base_err *err);

struct aud_stats {
    uint64_t intents_total, outcomes_total, events_total, fsyncs_total, fsync_us_total;
    uint64_t journal_bytes, journal_limit_bytes;
    uint64_t next_seq, shipped_seq; /* records below shipped_seq are in Postgres */
    uint64_t ship_lag_us;           /* age of the oldest record not shipped */
    bool postgres_up, writable;     /* writable: an append would be taken now */
};
void aud_get_stats(struct aud *aud, struct aud_stats *ret_stats); /* any thread */

/* Applies the forward-only migrations of `dir` (NNNN_name.sql) as the migrator role; refuses when an applied one was changed or is
 * missing. Under an advisory lock. n_applied may be NULL. */
enum base_code aud_migrate(const char *migrator_dsn, const char *dir, unsigned *ret_n_applied,
                           struct base_err *err);

struct aud_cli_options {
    const char *reader_dsn;  /* list, verify, show's metadata */
    const char *kek_file;    /* show's content */
    const char *journal_dir; /* verify looks at what is not shipped yet, too */
    const char *instance;
};
/* The commands `audit list|show|verify`; argv[0] is "audit". */
int aud_cli_main(int argc, char **argv, const struct aud_cli_options *options);

#endif
