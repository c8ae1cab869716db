/* Sign-in: the gateway's side of OIDC and SAML. What a provider said is checked by gatehouse-sso; what binds it to this browser, once,
 * is checked here.
 *
 *   GET  /auth/sign-in?return_to=     the providers, by label; where there is one, on to it
 *   GET  /auth/oidc/NAME/start        to the provider
 *   GET  /auth/oidc/NAME/callback     back from it
 *   POST /auth/oidc/NAME/logout       back-channel logout
 *   GET  /auth/saml/NAME/start        to the provider
 *   POST /auth/saml/NAME/acs          back from it
 *   GET, POST /auth/saml/NAME/slo     single logout
 *   GET  /auth/saml/NAME/metadata     ours
 *   POST /auth/refresh                asks the provider anew: new roles, new cookie
 *
 * Who: a handler on its loop.
 */
#ifndef GATEWAY_SIGN_IN_H
#define GATEWAY_SIGN_IN_H

#include "gateway/app.h"

struct gw_session_record;

/* True when the path was one of these and has been, or will be, answered. */
bool gw_sign_in_handle(struct gw_app *app, struct gw_http *http);
/* gw_auth_options.sign_out_url; sign_out_user is the gw_app. */
void gw_sign_in_out_url(struct gw_loop *loop, const struct gw_session_record *session,
                        void (*done)(const char *url, void *user), void *user, void *sign_out_user);

#endif
