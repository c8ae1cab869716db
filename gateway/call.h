/* Call: the way of one chat request through the gateway. call.c is the table of docs/architecture.md as a state machine.
 *
 * Who: started on a loop by routes.c; everything happens on that loop.
 */
#ifndef GATEWAY_CALL_H
#define GATEWAY_CALL_H

struct gw_app;
struct gw_http;

void gw_call_start(struct gw_app *app, struct gw_http *http);

#endif
