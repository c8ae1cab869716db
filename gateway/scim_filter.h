/* SCIM filters and PATCH paths, from text to a tree.
 *
 * What: the part of RFC 7644 section 3.4.2.2 that provisioning clients send: eq, co, sw, pr with and, or, not, parentheses and one level of
 *       `emails[...]` or `members[...]`. Everything else is refused, never read as something near it.
 * Who:  any thread; pure; nothing is allocated.
 * Limits: GW_SCIM_FILTER_MAX bytes, GW_SCIM_NODES_MAX nodes, GW_SCIM_FILTER_DEPTH parentheses.
 */
#ifndef GATEWAY_SCIM_FILTER_H
#define GATEWAY_SCIM_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#define GW_SCIM_FILTER_MAX   1024u
#define GW_SCIM_NODES_MAX    24u
#define GW_SCIM_FILTER_DEPTH 8u
#define GW_SCIM_NAME_MAX     96u
#define GW_SCIM_CONDS_MAX    4u

enum gw_scim_kind { GW_SCIM_NONE = 0, GW_SCIM_USER, GW_SCIM_GROUP };

enum gw_scim_attr {
    GW_SCIM_A_NONE = 0,
    GW_SCIM_A_ID,
    GW_SCIM_A_USER_NAME,
    GW_SCIM_A_EXTERNAL_ID,
    GW_SCIM_A_DISPLAY_NAME,
    GW_SCIM_A_ACTIVE,
    GW_SCIM_A_GIVEN_NAME,
    GW_SCIM_A_FAMILY_NAME,
    GW_SCIM_A_EMAILS,     /* node ANY: its child is about one e-mail address */
    GW_SCIM_A_EMAIL_TYPE, /* only below ANY, as the next one */
    GW_SCIM_A_EMAIL_VALUE,
    GW_SCIM_A_MEMBER
};
enum gw_scim_op {
    GW_SCIM_EQ = 1,
    GW_SCIM_CO,
    GW_SCIM_SW,
    GW_SCIM_PR,
    GW_SCIM_AND,
    GW_SCIM_OR,
    GW_SCIM_NOT, /* left alone */
    GW_SCIM_ANY  /* left alone: some value of attr meets it */
};
struct gw_scim_node {
    enum gw_scim_op op;
    enum gw_scim_attr attr;
    unsigned left, right;
    const char *value; /* in the filter's text; "true" or "false" for active */
};
struct gw_scim_filter {
    struct gw_scim_node nodes[GW_SCIM_NODES_MAX];
    unsigned n, root;
    char text[GW_SCIM_FILTER_MAX + 1];
    size_t text_used;
    const char *wrong; /* why it was refused, for the client; has nothing of the filter */
};
/* False: refused, `wrong` says why. text has no NUL inside. */
bool gw_scim_filter_parse(struct gw_scim_filter *filter, enum gw_scim_kind kind, const char *text,
                          size_t len);

/* The path of a PATCH operation: [URN:]attr, attr.sub, attr[sub eq "value" and ...], attr[...].sub */
struct gw_scim_cond {
    char name[GW_SCIM_NAME_MAX], value[256];
};
struct gw_scim_path {
    bool enterprise; /* attr is of the enterprise extension; "" for the whole extension */
    char attr[GW_SCIM_NAME_MAX], sub[GW_SCIM_NAME_MAX];
    struct gw_scim_cond conds[GW_SCIM_CONDS_MAX];
    unsigned n_conds;
    bool filtered; /* there were brackets */
};
#define GW_SCIM_URN_USER       "urn:ietf:params:scim:schemas:core:2.0:User"
#define GW_SCIM_URN_GROUP      "urn:ietf:params:scim:schemas:core:2.0:Group"
#define GW_SCIM_URN_ENTERPRISE "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
bool gw_scim_path_parse(struct gw_scim_path *path, const char *text, size_t len);

/* Behind the URN of a core schema; else the name itself. */
const char *gw_scim_without_urn(const char *name);
/* ASCII without case; NUL-terminated texts. */
bool gw_scim_same(const char *a, const char *b);

#endif
