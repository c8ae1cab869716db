/* SCIM codec: bodies of users, groups, patches and searches, from JSON to what the database keeps, and back.
 *
 * What: RFC 7643 resources cut to the attributes of scim_schema.h; RFC 7644 PATCH applied to a user's document, or turned into steps on a
 *       group. Takes what Okta and Entra ID really send: operations in any case, "True" and "False", paths as keys of a value.
 * Who:  worker threads; pure. Everything is bounded: bytes, depth and number of values before parsing, operations, members, addresses.
 * Promises: a body is taken whole or refused whole; an attribute that stands there twice, in whatever case, is refused.
 */
#ifndef GATEWAY_CODEC_SCIM_H
#define GATEWAY_CODEC_SCIM_H

#include "base/buf.h"
#include "gateway/scim_filter.h"

#include <stdint.h>

#define GW_SCIM_BODY_MAX    (1u << 20)
#define GW_SCIM_DEPTH_MAX   8u
#define GW_SCIM_VALUES_MAX  60000u
#define GW_SCIM_TEXT_MAX    255u /* one text of a resource */
#define GW_SCIM_DOC_MAX     16384u
#define GW_SCIM_EMAILS_MAX  16u
#define GW_SCIM_OPS_MAX     256u
#define GW_SCIM_MEMBERS_MAX 10000u /* of one request */
#define GW_SCIM_ID_LEN      36u
#define GW_SCIM_LIST_MAX    1024u /* attributes, excludedAttributes */

struct gw_scim_error {
    int status;
    const char *scim_type; /* RFC 7644 table 9; NULL for none */
    const char *detail;    /* for the client */
    const char *check;     /* for the operator's log */
};
/* The body of RFC 7644 section 3.12. */
void gw_scim_error_json(struct base_buf *out, const struct gw_scim_error *error);

struct gw_scim_user {              /* texts are heap */
    char *user_name, *external_id; /* external_id: NULL for none */
    char *doc;                     /* JSON, everything that is kept */
    bool active;
};
void gw_scim_user_free(struct gw_scim_user *user); /* what it points to */
/* old_doc: of the user that is replaced, who stays active or not when the body does not say; NULL: a new one. */
bool gw_scim_user_read(struct gw_scim_user *ret_user, const char *old_doc, const char *body, size_t len,
                       struct gw_scim_error *ret_error);
/* old_doc: as gw_scim_user.doc. */
bool gw_scim_user_patch(struct gw_scim_user *ret_user, const char *old_doc, const char *body, size_t len,
                        struct gw_scim_error *ret_error);

enum gw_scim_step_kind { GW_SCIM_ADD = 1, GW_SCIM_REMOVE, GW_SCIM_REPLACE };
struct gw_scim_step {
    enum gw_scim_step_kind kind;
    char *ids; /* "{uuid,uuid}", as Postgres reads it, lower case */
    size_t n;
};
struct gw_scim_group {
    char *display_name, *external_id;         /* NULL: none */
    bool sets_display_name, sets_external_id; /* a patch leaves the others alone */
    struct gw_scim_step *steps;               /* on the members, in this order */
    size_t n_steps, n_members;
};
void gw_scim_group_free(struct gw_scim_group *group);
/* All of it: members that are not named leave. */
bool gw_scim_group_read(struct gw_scim_group *ret_group, const char *body, size_t len,
                        struct gw_scim_error *ret_error);
bool gw_scim_group_patch(struct gw_scim_group *ret_group, const char *body, size_t len,
                         struct gw_scim_error *ret_error);

struct gw_scim_query {
    char filter[GW_SCIM_FILTER_MAX + 1]; /* "": none */
    bool filtered;
    char attributes[GW_SCIM_LIST_MAX], excluded[GW_SCIM_LIST_MAX]; /* separated by commas; "": none */
    int64_t start, count;                                          /* as asked; -1: not said */
};
/* The body of POST .search. */
bool gw_scim_search_read(struct gw_scim_query *ret_query, const char *body, size_t len,
                         struct gw_scim_error *ret_error);
/* Whether an attribute that costs a query is asked for. */
bool gw_scim_wants(const struct gw_scim_query *query, const char *name);

struct gw_scim_row {
    enum gw_scim_kind kind;
    const char *id, *doc;                   /* doc: of a user */
    const char *display_name, *external_id; /* of a group */
    const char *refs; /* JSON list: a user's groups, a group's members; NULL: left out */
    int64_t version, created_us, changed_us;
};
/* query: attributes and excluded are applied. False: a stored document that is none. */
bool gw_scim_render(struct base_buf *out, const struct gw_scim_row *row, const struct gw_scim_query *query,
                    const char *base_url);

bool gw_scim_id_valid(const char *id, size_t len); /* a UUID as Postgres writes it, in either case */

#endif
