/* The command `gatehouse local-admin create|list|disable NAME`: break-glass administrators (local_admin.h).
 *
 * Who:  the main program, which has read the configuration; one thread, may block.
 * Promises: a password is read from the terminal without echo or from a private file, never from the command line; the second factor's
 *       secret is printed once.
 */
#ifndef GATEWAY_CLI_LOCAL_ADMIN_H
#define GATEWAY_CLI_LOCAL_ADMIN_H

#include "gateway/cli_key.h"

/* argv[0] is "local-admin". The process' exit status: 0, 1 failed, 2 wrong usage. */
int gw_cli_local_admin_main(int argc, char **argv, const struct gw_cli_identity_options *options);

#endif
