/* Reading the record for people. See query.h. */
#include "audit/query.h"

#include "audit/seal.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

enum base_code aud_query_list(struct base_pg *pg, const struct aud_query *q, struct base_pg_rows **ret_rows,
                              struct base_err *err)
{
    static const char sql[] =
        "SELECT instance, seq, kind, (extract(epoch FROM wall) * 1000000)::bigint, request_id, pseudonym, "
        "tenant, api, model_asked, "
        "route, class, decision, status, error_code, action, target, prompt_tokens, completion_tokens, "
        "released_bytes, duration_us "
        "FROM audit.requests WHERE ($1::timestamptz IS NULL OR wall >= $1) AND ($2::timestamptz IS NULL OR "
        "wall < $2) "
        "AND ($3::text IS NULL OR pseudonym = $3) AND ($4::text IS NULL OR model_asked = $4 OR route = $4) "
        "AND ($5::text IS NULL OR class = $5) AND ($6::text IS NULL OR status = $6) "
        "AND ($7::text IS NULL OR request_id = $7) ORDER BY wall DESC, instance, seq DESC LIMIT $8::bigint";
    char limit[16];
    struct base_pg_param params[] = {PG_TEXT(q->since),      PG_TEXT(q->until), PG_TEXT(q->person),
                                     PG_TEXT(q->model),      PG_TEXT(q->cls),   PG_TEXT(q->status),
                                     PG_TEXT(q->request_id), PG_TEXT(limit)};

    snprintf(limit, sizeof(limit), "%u", q->limit);
    return base_pg_exec(pg, sql, params, BASE_ARRAY_LEN(params), ret_rows, err);
}

void aud_shown_free(struct aud_shown_list *list)
{
    for (unsigned i = 0; i < list->n; i++) {
        if (list->all[i].content != NULL)
            base_wipe(list->all[i].content, list->all[i].content_len);
        free(list->all[i].content);
        free(list->all[i].canonical);
    }
    list->n = 0;
}

/* columns of show's query */
enum { S_CANONICAL, S_HASH, S_CONTENT, S_WRAPPED, S_NONCE };

static enum base_code open_content(const struct base_pg_rows *rows, unsigned row,
                                   const struct base_secret *kek, struct aud_shown *shown,
                                   struct base_err *err)
{
    auto_free unsigned char *wrapped = NULL, *nonce = NULL, *sealed = NULL;
    unsigned char key[BASE_GCM_KEY_BYTES];
    char person[AUD_PSEUDONYM_MAX];
    const struct aud_str *p = &shown->fields.texts[AUD_T_PSEUDONYM];
    size_t wrapped_len = 0, nonce_len = 0, sealed_len = 0;
    enum base_code rc;

    wrapped = base_pg_bytes(rows, row, S_WRAPPED, &wrapped_len);
    nonce = base_pg_bytes(rows, row, S_NONCE, &nonce_len);
    sealed = base_pg_bytes(rows, row, S_CONTENT, &sealed_len);
    if (wrapped == NULL)
        return base_fail(err, BASE_NOT_FOUND, 0,
                         "the person's key was destroyed (erasure): the content cannot be read any more");
    if (nonce == NULL || nonce_len != BASE_GCM_NONCE_BYTES || sealed == NULL ||
        sealed_len < BASE_GCM_TAG_BYTES || p->len >= sizeof(person))
        return base_fail(err, BASE_CORRUPT, 0, "content or key is damaged, see `gatehouse audit verify`");
    memcpy(person, p->len > 0 ? p->at : "", p->len);
    person[p->len] = '\0';
    rc = aud_open_key(base_secret_bytes(kek), person, shown->fields.key_id, nonce, wrapped, wrapped_len, key,
                      err);
    if (rc != BASE_OK)
        return rc;
    shown->content = base_zalloc(sealed_len);
    shown->content_len = sealed_len - BASE_GCM_TAG_BYTES;
    rc = aud_open_content(key, &shown->fields, sealed, sealed_len, shown->content, err);
    base_wipe(key, sizeof(key));
    if (rc != BASE_OK) {
        free(shown->content);
        shown->content = NULL;
        shown->content_len = 0;
    }
    return rc;
}

static enum base_code take_row(const struct base_pg_rows *rows, unsigned row, const struct base_secret *kek,
                               struct aud_shown *shown, struct base_err *err)
{
    auto_free unsigned char *hash = NULL;
    size_t canonical_len = 0, hash_len = 0;
    struct base_err why;
    enum base_code rc;

    shown->canonical = base_pg_bytes(rows, row, S_CANONICAL, &canonical_len);
    hash = base_pg_bytes(rows, row, S_HASH, &hash_len);
    if (shown->canonical == NULL || hash == NULL || hash_len != BASE_SHA256_BYTES)
        return base_fail(err, BASE_CORRUPT, 0, "the record is damaged, see `gatehouse audit verify`");
    rc = aud_record_decode(shown->canonical, canonical_len, &shown->fields, err);
    if (rc != BASE_OK)
        return rc;
    base_hex_encode(hash, hash_len, shown->hash.hex);
    if (shown->fields.payload_len == 0 || shown->fields.kind > AUD_EVENT)
        return BASE_OK;
    if (kek == NULL)
        snprintf(shown->content_note, sizeof(shown->content_note),
                 "%llu bytes, encrypted (--content shows it)",
                 (unsigned long long)shown->fields.payload_len - BASE_GCM_TAG_BYTES);
    else if (open_content(rows, row, kek, shown, &why) != BASE_OK)
        snprintf(shown->content_note, sizeof(shown->content_note), "%.*s",
                 (int)sizeof(shown->content_note) - 1, why.detail);
    return BASE_OK;
}

/* "gate-1:17" */
static bool parse_place(const char *what, char instance[AUD_INSTANCE_MAX + 1], char seq[24])
{
    const char *colon = strrchr(what, ':');
    size_t n = colon != NULL ? (size_t)(colon - what) : 0;
    uint64_t number;

    if (colon == NULL || !aud_instance_valid(what, n) ||
        base_parse_u64(colon + 1, strlen(colon + 1), INT64_MAX, &number) != BASE_OK)
        return false;
    memcpy(instance, what, n);
    instance[n] = '\0';
    snprintf(seq, 24, "%llu", (unsigned long long)number);
    return true;
}

enum base_code aud_query_show(struct base_pg *pg, const char *what, const struct base_secret *kek,
                              struct aud_shown_list *list, struct base_err *err)
{
    static const char sql[] =
        "SELECT r.canonical, r.hash, CASE WHEN $4 = 'yes' THEN r.content END, k.wrapped, k.nonce FROM "
        "audit.records r "
        "LEFT JOIN audit.person_keys k ON k.key_id = r.key_id WHERE (r.request_id = $1 AND r.request_id <> "
        "'') "
        "OR (r.instance = $2 AND r.seq = $3::bigint) OR ($2 <> '' AND r.request_id <> '' AND r.request_id = "
        "(SELECT x.request_id FROM audit.records x WHERE x.instance = $2 AND x.seq = $3::bigint)) "
        "ORDER BY r.wall, r.instance, r.seq LIMIT 64";
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char instance[AUD_INSTANCE_MAX + 1] = "", seq[24] = "-1";
    enum base_code rc;

    parse_place(what, instance, seq);
    rc = base_pg_exec(pg, sql,
                      (struct base_pg_param[]){PG_TEXT(what), PG_TEXT(instance), PG_TEXT(seq),
                                               PG_TEXT(kek != NULL ? "yes" : "no")},
                      4, &rows, err);
    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "no record of that request or place in the database");
    for (unsigned i = 0; i < base_pg_n_rows(rows) && i < AUD_SHOWN_MAX; i++) {
        list->all[i] = (struct aud_shown){.canonical = NULL};
        list->n = i + 1;
        rc = take_row(rows, i, kek, &list->all[i], err);
        if (rc != BASE_OK) {
            aud_shown_free(list);
            return rc;
        }
    }
    return BASE_OK;
}
