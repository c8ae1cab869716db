/* SCIM work: one request, from its body to its answer, on a worker with a database connection. Between scim.c and scim_work.c. */
#ifndef GATEWAY_SCIM_WORK_H
#define GATEWAY_SCIM_WORK_H

#include "gateway/codec_scim.h"
#include "gateway/principal.h"
#include "gateway/scim.h"

#include "base/pg.h"

enum gw_scim_method {
    GW_SCIM_GET = 1,
    GW_SCIM_LIST,
    GW_SCIM_POST, /* create */
    GW_SCIM_SEARCH,
    GW_SCIM_PUT,
    GW_SCIM_PATCH,
    GW_SCIM_DELETE
};
struct gw_scim_work {
    /* the request */
    const struct gw_scim_options *options;
    const char *base_url;
    bool key_is_external_id; /* the policy's scim.key */
    enum gw_scim_method method;
    enum gw_scim_kind kind;
    char id[GW_SCIM_ID_LEN + 1];
    struct gw_scim_query query;
    char *body; /* heap */
    size_t body_len;
    char if_match[128], if_none_match[128]; /* "": not sent */
    char issuer[GW_ISSUER_MAX], subject[GW_SUBJECT_MAX], credential_id[GW_CREDENTIAL_MAX];
    const char *auth_method;
    /* the answer */
    int status;
    struct base_buf out;
    char etag[32], location[512];
    struct gw_scim_error error; /* status 0: none */
};
/* gw_store_work_fn; arg is the work. BASE_DENIED: error says why. */
enum base_code gw_scim_work(struct base_pg *pg, void *arg, struct base_err *err);

#endif
