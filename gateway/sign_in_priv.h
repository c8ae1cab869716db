/* Sign-in, between its files: sign_in.c (to the provider and back), sign_in_refresh.c, sign_out.c. */
#ifndef GATEWAY_SIGN_IN_PRIV_H
#define GATEWAY_SIGN_IN_PRIV_H

#include "gateway/auth_priv.h"
#include "gateway/sign_in.h"
#include "gateway/sign_in_state.h"
#include "gateway/codec_sso.h"
#include "gateway/metrics.h"
#include "gateway/sso_client.h"
#include "gateway/visit.h"

#define GW_SIGN_IN_CALL_MS      15000u
#define GW_SIGN_IN_RESPONSE_MAX (700u << 10) /* half a megabyte of XML in base64 */
#define GW_SIGN_IN_REQUEST_MAX  (900u << 10)
#define GW_SIGN_IN_ARENA_MAX    (1u << 20)
#define GW_SIGN_IN_URL_MAX      512u

struct sign_in {
    struct gw_app *app;
    struct gw_visit visit;
    uint64_t started_us;
    char request_id[GW_REQUEST_ID_LEN + 1];
    struct gw_runtime *runtime;
    const struct pol_provider *provider; /* lives in the runtime */
    struct gw_sign_in_state state;
    struct base_arena *arena;
    struct gw_sso_reply reply;
    struct base_buf request; /* to gatehouse-sso: made before the state is used, sent after */
    char token[GW_TOKEN_LEN + 1], old_token[GW_TOKEN_LEN + 1];
    struct gw_session_record session;
    size_t n_revoked;       /* of a logout request's sessions */
    enum gw_metric counted; /* what it is: GW_M_LOGINS, GW_M_REFRESHES, GW_M_LOGOUTS */
};

/* provider NULL: not known yet. */
struct sign_in *gw_sign_in_new(struct gw_app *app, struct gw_http *http, const char *provider);
/* Its result: "ok", "refused", "unavailable". */
void gw_sign_in_count(const struct sign_in *s, const char *result);
bool gw_sign_in_record(struct sign_in *s, const char *action, const char *target);
/* The end of one that something brought was against: recorded, logged, our own words to the browser. */
void gw_sign_in_refuse(struct sign_in *s, const char *check, const char *detail);
/* The end of one that could not be finished: nobody is to blame. */
void gw_sign_in_unavailable(struct sign_in *s, const char *check, const char *detail);
/* Reads a reply into s->reply. False: the sign-in has ended. */
bool gw_sign_in_take_reply(struct sign_in *s, enum base_code rc, const char *json, size_t len);
/* Sends s->request, which must hold one request. */
void gw_sign_in_call(struct sign_in *s, gw_sso_fn *done);
/* An address of ours, for the provider: .../acs, .../callback. */
void gw_sign_in_own_url(const struct sign_in *s, const char *what, char out[GW_SIGN_IN_URL_MAX]);
/* What is remembered of an identity. False: it does not fit, or no role is left; *ret_check says which. */
bool gw_sign_in_fill_session(struct sign_in *s, const struct gw_sso_reply *identity, const char **ret_check);

/* sign_out.c, sign_in_refresh.c: handlers of sign_in.c's routes */
void gw_sign_out_backchannel(struct sign_in *s);
void gw_sign_out_slo(struct sign_in *s);
void gw_sign_in_refresh(struct gw_app *app, struct gw_http *http);

#endif
