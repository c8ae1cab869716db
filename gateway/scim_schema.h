/* SCIM schemas: which attributes are kept, as one table that the codec reads and /Schemas shows; and the other discovery documents.
 *
 * Who:  any thread; pure.
 * Source: RFC 7643 sections 4, 5, 7.
 */
#ifndef GATEWAY_SCIM_SCHEMA_H
#define GATEWAY_SCIM_SCHEMA_H

#include "base/buf.h"
#include "gateway/scim_filter.h"

enum gw_scim_type {
    GW_SCIM_T_IGNORED = 0, /* of the standard; taken and dropped: we have no use for it */
    GW_SCIM_T_READ_ONLY,
    GW_SCIM_T_TEXT,
    GW_SCIM_T_BOOL,
    GW_SCIM_T_COMPLEX,
    GW_SCIM_T_EMAILS, /* a list of complex values */
    GW_SCIM_T_MEMBERS
};
struct gw_scim_field {
    const char *name;
    enum gw_scim_type type;
    const struct gw_scim_field *subs; /* ended by a row without a name */
};
extern const struct gw_scim_field gw_scim_user_fields[], gw_scim_group_fields[], gw_scim_enterprise_field;
/* NULL: no such attribute. Without case. The enterprise extension is found by its URN. */
const struct gw_scim_field *gw_scim_field_find(const struct gw_scim_field *fields, const char *name);

/* base_url: "https://gate.example/scim/v2". path: what stands behind it. False: there is no such document. */
bool gw_scim_discovery(struct base_buf *out, const char *base_url, const char *path);

#endif
