/* Policy: pure decisions. The one public header of policy/.
 *
 * What: loads one YAML document into an immutable snapshot; finds what a text holds (detectors, markings), classifies it, decides
 *       who may send it where, and redacts a stream so that no byte of a masked span is ever released.
 * Who:  any thread; a snapshot never changes and is reference counted; a scratch and a stream belong to one thread at a time.
 * Promises: no I/O (but reading the file for the commands), no clock, no randomness: the same snapshot, facts and text give the same
 *       result; zeroed memory denies; unknown is the stricter class.
 * Limits: POL_*_MAX below.
 * Not here: identity, rate counting, HTTP, what is recorded.
 */
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define POL_FILE_MAX (1u << 20)
#define POL_NAME_MAX \
    64u /* bytes of a role, model, backend, limit or guard name, with NUL: [A-Za-z0-9._:/-] */
#define POL_ROLES_MAX    256u
#define POL_MODELS_MAX   256u
#define POL_BACKENDS_MAX 64u
#define POL_ROUTES_MAX   8u /* of one model */
#define POL_REASONS_MAX  16u
#define POL_FINDINGS_MAX \
    4096u /* of one text; past it the scan says BASE_TOO_LARGE and the request is refused */
#define POL_HASH_HEX 65u

/* ---- classes: public < internal < confidential < secret ---- */

/* UNKNOWN as the class of a text is above every ceiling; as a ceiling it lets nothing pass. */
enum pol_class { POL_CLASS_UNKNOWN = 0, POL_PUBLIC, POL_INTERNAL, POL_CONFIDENTIAL, POL_SECRET };

const char *pol_class_name(enum pol_class cls);
/* Case-insensitive; POL_CLASS_UNKNOWN for any other word. */
enum pol_class pol_class_parse(const char *text, size_t len);
bool pol_class_fits(enum pol_class cls, enum pol_class ceiling);
/* The stricter of two; UNKNOWN wins. */
enum pol_class pol_class_stricter(enum pol_class a, enum pol_class b);

/* ---- detectors ---- */

enum pol_detector {
    POL_DETECT_NONE = 0,
    POL_DETECT_CARD, /* payment card, Luhn */
    POL_DETECT_IBAN, /* mod 97 */
    POL_DETECT_EMAIL,
    POL_DETECT_PRIVATE_KEY, /* PEM */
    POL_DETECT_AWS_KEY,
    POL_DETECT_GITHUB_TOKEN,
    POL_DETECT_SLACK_TOKEN,
    POL_DETECT_JWT,
    POL_DETECT_COUNT
};
/* "card", "iban", "email", "private_key", "aws_key", "github_token", "slack_token", "jwt" */
const char *pol_detector_name(enum pol_detector detector);

/* By rising strictness. */
enum pol_action {
    POL_ACTION_ALLOW = 0,
    POL_ACTION_TAG,
    POL_ACTION_FORCE_LOCAL,
    POL_ACTION_MASK,
    POL_ACTION_BLOCK
};
const char *pol_action_name(enum pol_action action);

/* ---- snapshot ---- */

struct pol_snapshot;

/* `name` is the file's name for messages. BASE_INVALID: "NAME:LINE:COLUMN: what is wrong and what is allowed". */
enum base_code pol_load(struct pol_snapshot **ret_snapshot, const char *name, const char *text, size_t len,
                        struct base_err *err);
enum base_code pol_load_file(struct pol_snapshot **ret_snapshot, const char *path, struct base_err *err);
struct pol_snapshot *pol_ref(struct pol_snapshot *snapshot);
void pol_unref(struct pol_snapshot *snapshot); /* NULL is allowed */
/* SHA-256 of the document's canonical form, in hex: the version that an audit record names. */
const char *pol_hash(const struct pol_snapshot *snapshot);

enum pol_backend_kind { POL_BACKEND_NONE = 0, POL_BACKEND_ENGINE, POL_BACKEND_PROVIDER };

struct pol_backend {
    char name[POL_NAME_MAX];
    enum pol_backend_kind kind;
    enum pol_class max_class;
    /* engine */
    /* model file; relative to the policy file's folder when not absolute (already resolved) */
    const char *file;
    uint32_t context_tokens, max_sequences, queue_max, threads; /* 0: the engine's default */
    const char *device; /* "auto", "cpu", "cuda", "cuda:N"; NULL: auto */
    /* provider; OpenAI-compatible */
    const char *base_url;     /* https://host[:port]/v1, no user info, query or fragment */
    const char *api_key_file; /* NULL: none */
    const char *ca_file;      /* NULL: the system's trust store */
    uint32_t connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, total_timeout_ms;
};
size_t pol_n_backends(const struct pol_snapshot *snapshot);
const struct pol_backend *pol_backend_at(const struct pol_snapshot *snapshot, size_t index);

struct pol_model {
    char name[POL_NAME_MAX];  /* what a client asks for */
    const char *description;  /* "" when absent */
    enum pol_class max_class; /* highest ceiling of its routes */
    bool local_only;          /* every route is an engine */
};
size_t pol_n_models(const struct pol_snapshot *snapshot);
const struct pol_model *pol_model_at(const struct pol_snapshot *snapshot, size_t index);
/* True when one of the roles may use the model for some class, and none of them denies it. */
bool pol_model_visible(const struct pol_snapshot *snapshot, size_t index, const char *const *roles,
                       size_t n_roles);
bool pol_role_exists(const struct pol_snapshot *snapshot, const char *role);

/* ---- scanning a whole text ---- */

struct pol_scratch; /* working memory of one thread */
struct pol_scratch *pol_scratch_new(void);
void pol_scratch_free(struct pol_scratch *scratch); /* NULL is allowed */

struct pol_finding {
    enum pol_detector detector;
    size_t start,
        end; /* byte offsets in the text that was given. start == end: an empty finding, which says that the next one
                        * (it begins there) is of this kind too: findings that overlap are told apart this way */
};
struct pol_findings {
    struct pol_finding *items; /* by start, not overlapping; owned: pol_findings_free */
    size_t n, cap;
    enum pol_class marking; /* strictest marking met ("CONFIDENTIAL"), UNKNOWN when none */
};
void pol_findings_free(struct pol_findings *findings);
/* Appends the findings of one text; offsets are those of this text. text is valid UTF-8. */
enum base_code pol_scan(const struct pol_snapshot *snapshot, struct pol_scratch *scratch, const char *text,
                        size_t len, struct pol_findings *findings, struct base_err *err);

/* ---- deciding ---- */

struct pol_facts {
    const char *const *roles;
    size_t n_roles;
    const char *model;
    bool label_given; /* X-Data-Class was sent; an unknown word is UNKNOWN and so denied everywhere */
    enum pol_class label;
    enum pol_class marking; /* UNKNOWN: none */
    uint32_t detected;      /* bit (1u << enum pol_detector) for each kind found in the input */
};

enum pol_effect { POL_DENY = 0, POL_ALLOW };
/* Stable; its name stands in API errors, records and metrics. */
enum pol_deny {
    POL_DENY_UNSPECIFIED = 0,
    POL_DENY_NO_ROLE, /* no role of the caller is known to the policy */
    POL_DENY_MODEL_UNKNOWN,
    POL_DENY_MODEL_NOT_ALLOWED, /* exists, but no role grants it; told to the client like MODEL_UNKNOWN */
    POL_DENY_CLASS_UNKNOWN,     /* the label is no known class */
    POL_DENY_CLASS_TOO_HIGH,    /* above the role's or every route's ceiling */
    POL_DENY_GUARD_BLOCK        /* the guard profile blocks what was found */
};
const char *pol_deny_name(enum pol_deny deny);

struct pol_limits {
    char name[POL_NAME_MAX];
    uint32_t requests_per_minute, requests_burst;                        /* 0 requests_per_minute: no limit */
    uint64_t tokens_per_minute, tokens_burst;                            /* 0 tokens_per_minute: no limit */
    enum pol_fail_mode { POL_FAIL_CLOSED = 0, POL_FAIL_OPEN } fail_mode; /* when the limit store is away */
};

struct pol_guard {
    char name[POL_NAME_MAX];
    enum pol_action input[POL_DETECT_COUNT], output[POL_DETECT_COUNT];
};

struct pol_route {
    const struct pol_backend *backend; /* lives as long as the snapshot */
    char upstream_model[POL_NAME_MAX];
};

struct pol_decision {
    enum pol_effect effect;
    enum pol_deny deny;                      /* when denied */
    enum pol_class cls;                      /* the class decided on */
    char cls_source[24];                     /* "label", "marking", "detector", "default" */
    struct pol_route routes[POL_ROUTES_MAX]; /* in order; each fits the class */
    size_t n_routes;
    struct pol_limits limits;
    struct pol_guard guard;
    char reasons[POL_REASONS_MAX][96]; /* for people: "route mock skipped: ceiling internal < confidential" */
    size_t n_reasons;
};
/* The limits that a caller with these roles has, whatever the request: what admission needs before a text is looked at. No known role:
 * one request a minute, closed. */
void pol_limits_for(const struct pol_snapshot *snapshot, const char *const *roles, size_t n_roles,
                    struct pol_limits *ret_limits);
/* Never fails: what it cannot decide is denied. */
void pol_decide(const struct pol_snapshot *snapshot, const struct pol_facts *facts,
                struct pol_decision *ret_decision);

/* Writes the text with every finding whose input action is MASK replaced by "[CARD_MASKED]" and the like. */
enum base_code pol_mask(const struct pol_guard *guard, const char *text, size_t len,
                        const struct pol_findings *findings, struct base_buf *out, uint32_t *ret_n_masked);

/* ---- guarding a stream ---- */

struct pol_stream;

struct pol_stream_report {
    uint32_t found[POL_DETECT_COUNT]; /* confirmed so far, by detector */
    uint32_t masked;                  /* spans replaced */
    bool blocked;
    enum pol_detector blocked_by;
    size_t held_bytes; /* taken and not yet released */
};

/* Guards one answer with the decision's output actions. The snapshot is referenced. */
struct pol_stream *pol_stream_new(struct pol_snapshot *snapshot, struct pol_scratch *scratch,
                                  const struct pol_guard *guard);
void pol_stream_free(struct pol_stream *stream); /* NULL is allowed */
/* Takes a chunk (valid UTF-8, any cut between characters) and appends what may be released now. The released text of a whole
 * answer is the same for every chunking, and equals pol_scan + masking of the whole text. BASE_DENIED: blocked; nothing more is
 * released and the caller stops the source. */
enum base_code pol_stream_push(struct pol_stream *stream, const char *text, size_t len, struct base_buf *out);
/* The end: releases what was held. */
enum base_code pol_stream_finish(struct pol_stream *stream, struct base_buf *out);
const struct pol_stream_report *pol_stream_report(const struct pol_stream *stream);

/* The commands `policy check FILE` and `policy explain --role R --model M --class C [FILE]`; argv[0] is "policy". */
int pol_cli_main(int argc, char **argv, const char *default_file);

/* ---- identity: who may come in, and with which roles (the document's section `identity`) ---- */

#define POL_PROVIDERS_MAX 16u
#define POL_LIST_MAX      16u /* entries of a short list: scopes, algorithms, hosts, audiences */
#define POL_TEXT_MAX      256u
#define POL_PATH_MAX      1024u
#define POL_ISSUER_MAX    128u
#define POL_CLAIM_MAX     128u /* AD FS and Entra name attributes by addresses */
#define POL_MAPPINGS_MAX  256u
#define POL_ACCOUNTS_MAX  256u

enum pol_provider_kind { POL_PROVIDER_NONE = 0, POL_PROVIDER_OIDC, POL_PROVIDER_SAML };
enum pol_signed { POL_SIGNED_RESPONSE = 0, POL_SIGNED_ASSERTION, POL_SIGNED_EITHER };

struct pol_list {
    const char *items[POL_LIST_MAX];
    size_t n;
};

struct pol_provider {
    char name[POL_NAME_MAX];  /* stands in URLs: /auth/oidc/NAME/callback */
    char label[POL_TEXT_MAX]; /* on the sign-in page */
    enum pol_provider_kind kind;
    unsigned clock_skew_s; /* at most 300; default 60 */
    /* oidc */
    char issuer[POL_ISSUER_MAX]; /* exact; https, or http for a loopback address alone */
    char client_id[POL_TEXT_MAX];
    char client_secret_file[POL_PATH_MAX]; /* "": a public client */
    char token_auth[8];                    /* "basic", "post", "none" */
    struct pol_list scopes, algorithms, acr, hosts;
    unsigned max_age_s; /* 0: not asked */
    bool userinfo;
    char ca_file[POL_PATH_MAX];       /* "": the system's */
    struct pol_list bearer_audiences; /* of /v1; n 0: access tokens of this provider are not taken */
    struct pol_list scim_audiences;   /* of /scim/v2 */
    bool introspection, require_binding;
    /* saml */
    char metadata_file[POL_PATH_MAX],
        entity_id[POL_TEXT_MAX]; /* entity_id: ours; "": public_url/auth/saml/NAME/metadata */
    char key_file[POL_PATH_MAX], cert_file[POL_PATH_MAX];
    bool sign_requests, want_encrypted;
    enum pol_signed want_signed;
    /* claims or attributes */
    char subject_claim[POL_CLAIM_MAX]; /* "": sub, NameID */
    char groups_claim[POL_CLAIM_MAX];  /* "groups" */
    char groups_separator[8];          /* "": a list; else one text is cut there and trimmed */
    char name_claim[POL_CLAIM_MAX], email_claim[POL_CLAIM_MAX];
    char directory_claim[POL_CLAIM_MAX]; /* whose value is the SCIM key; "": not joined to SCIM */
    bool directory_required;             /* only persons whom SCIM has provisioned sign in */
};

struct pol_service_account {
    char name[POL_NAME_MAX]; /* the subject is "service:NAME" */
    const char *roles[POL_LIST_MAX];
    size_t n_roles;
    char cert_sha256[65];        /* lower-case hex of the client certificate's DER; "": none */
    char provider[POL_NAME_MAX]; /* with client_id: access tokens of this client at that provider; "": none */
    char client_id[POL_TEXT_MAX];
};

struct pol_identity {
    char default_role[POL_NAME_MAX]; /* "": none: who is mapped to no role does not come in */
    bool strict;        /* several roles: the smaller limits, the stricter class and guard count */
    bool break_glass;   /* local administrators may sign in */
    unsigned refresh_s; /* sessions ask their provider anew after so long; default 900 */
    bool scim;
    char scim_token_file[POL_PATH_MAX];
    char scim_key[16]; /* "userName" or "externalId": what a directory_claim's value is compared with */
};

const struct pol_identity *
pol_identity(const struct pol_snapshot *snapshot); /* never NULL: all defaults without the section */
size_t pol_n_providers(const struct pol_snapshot *snapshot);
const struct pol_provider *pol_provider_at(const struct pol_snapshot *snapshot, size_t index);
const struct pol_provider *pol_provider_find(const struct pol_snapshot *snapshot,
                                             const char *name); /* NULL: none */
size_t pol_n_service_accounts(const struct pol_snapshot *snapshot);
const struct pol_service_account *pol_service_account_at(const struct pol_snapshot *snapshot, size_t index);

/* The names of the claims that the mapping of a provider reads: its groups claim first, then its directory claim; fewer than
 * POL_LIST_MAX * 4, no name twice. */
size_t pol_claims_wanted(const struct pol_snapshot *snapshot, const struct pol_provider *provider,
                         const char *names[POL_LIST_MAX * 4]);

struct pol_claim {
    const char *name, *value; /* a list is several of them */
};
/* Roles of a person by the document's mappings, in the document's order, no role twice, at most roles_max; pure. `provider` may be
 * NULL: groups of the directory alone, which mappings with `group` and no `provider` see, too. Returns how many; 0: may not come in.
 * BASE_FULL in *ret_rc, and 0, when there were more than roles_max (none is dropped silently: nobody comes in by half). The default
 * role stands in when a provider is given and no mapping met; the directory alone gives none. Claims of the directory are called
 * "groups". Valid as long as the snapshot. */
size_t pol_map_roles(const struct pol_snapshot *snapshot, const struct pol_provider *provider,
                     const struct pol_claim *claims, size_t n_claims, const char **roles, size_t roles_max,
                     enum base_code *ret_rc);

#endif
