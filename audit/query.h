/* Reading the record for people: lists of requests, and everything about one. With the reader's rights.
 *
 * Who: one thread (commands).
 */
#ifndef AUDIT_QUERY_H
#define AUDIT_QUERY_H

#include "audit/record.h"

#include "base/pg.h"
#include "base/secret.h"

/* NULL: no such condition. since, until: what Postgres takes as a timestamptz. */
struct aud_query {
    const char *since, *until, *person, *model, *cls, *status, *request_id;
    unsigned limit;
};

/* Columns of a list. */
enum aud_list_column {
    AUD_L_INSTANCE,
    AUD_L_SEQ,
    AUD_L_KIND,
    AUD_L_WALL_US,
    AUD_L_REQUEST_ID,
    AUD_L_PERSON,
    AUD_L_TENANT,
    AUD_L_API,
    AUD_L_MODEL,
    AUD_L_ROUTE,
    AUD_L_CLASS,
    AUD_L_DECISION,
    AUD_L_STATUS,
    AUD_L_ERROR_CODE,
    AUD_L_ACTION,
    AUD_L_TARGET,
    AUD_L_PROMPT_TOKENS,
    AUD_L_COMPLETION_TOKENS,
    AUD_L_RELEASED_BYTES,
    AUD_L_DURATION_US,
    AUD_N_LIST_COLUMNS
};

/* Newest first. */
enum base_code aud_query_list(struct base_pg *pg, const struct aud_query *query,
                              struct base_pg_rows **ret_rows, struct base_err *err);

/* One record as its canonical bytes say. */
struct aud_shown {
    unsigned char *canonical; /* fields point into it */
    struct aud_fields fields;
    struct aud_hash_text {
        char hex[2 * BASE_SHA256_BYTES + 1];
    } hash;
    /* decrypted; NULL: none, or not asked for, or not to be had (content_note says why) */
    unsigned char *content;
    size_t content_len;
    char content_note[120];
};

#define AUD_SHOWN_MAX 64u
struct aud_shown_list {
    struct aud_shown all[AUD_SHOWN_MAX];
    unsigned n;
};
void aud_shown_free(struct aud_shown_list *list); /* wipes content */

/* what: a request id, or INSTANCE:SEQ, which stands for the request of that record. kek NULL: no content.
 * BASE_NOT_FOUND. */
enum base_code aud_query_show(struct base_pg *pg, const char *what, const struct base_secret *kek,
                              struct aud_shown_list *list, struct base_err *err);

#endif
