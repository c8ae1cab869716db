/* Codec of what gatehouse-sso says to operators: the findings of `check`, the list of `explain` (sso/proto.h).
 *
 * Who: the command line; any thread, pure.
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

#endif
