/* Codec of what gatehouse-sso says to operators: the findings of `check`, the list of `explain`, which providers were asked what for a
 * reply (sso/proto.h).
 *
 * Who: the command line, metrics; any thread, pure.
 */
#ifndef GATEWAY_CODEC_SSO_REPORT_H
#define GATEWAY_CODEC_SSO_REPORT_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>

#define GW_SSO_LINES_MAX 512u

enum gw_sso_level { GW_SSO_LEVEL_ERROR = 0, GW_SSO_LEVEL_WARN, GW_SSO_LEVEL_OK };

struct gw_sso_line {
    enum gw_sso_level level;
    const char *check; /* explain: its name; check: "" */
    const char *text;
};

struct gw_sso_report {
    const char *kind, *provider; /* explain: what the text is taken for, whose; "" when unknown */
    struct gw_sso_line *lines;
    size_t n_lines;
};

/* Everything lives in the arena; control characters are replaced, so that a provider's text cannot steer a terminal.
 * BASE_DENIED: the process answered "ok": false, err says what. BASE_INVALID: no such reply. */
enum base_code gw_sso_decode_report(struct gw_sso_report *ret_report, struct base_arena *arena,
                                    const char *json, size_t len, struct base_err *err);

#define GW_SSO_ASKED_NAME_MAX 64u

/* provider is what gatehouse-sso says: to be looked up among those that are configured. kind and result are of the closed lists of
 * sso/proto.h. */
struct gw_sso_asked {
    char provider[GW_SSO_ASKED_NAME_MAX];
    const char *kind, *result;
};
/* How many there are, at most max; what is not as it should be is left out. Cheap for a reply that nobody was asked for. */
size_t gw_sso_decode_asked(struct gw_sso_asked *ret_asked, size_t max, const char *json, size_t len);

#endif
