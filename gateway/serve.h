/* Serve: the gateway process from start to drain. Called by main.c. */
#ifndef GATEWAY_SERVE_H
#define GATEWAY_SERVE_H

#include "gateway/config.h"

/* Returns the exit status: 0 after a drain, 1 when it could not start (said on standard error and in the log). */
int gw_serve(const struct gw_config *config);

#endif
