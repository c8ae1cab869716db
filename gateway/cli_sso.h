/* Commands on single sign-on: `gatehouse sso check|explain|metadata`.
 *
 * Who:  the main program, which has read the configuration; one thread, may block. Starts a gatehouse-sso of its own: a running gateway
 *       is not touched.
 * Promises: a pasted token or response is read from a file or the standard input, never from the command line, and is not printed.
 */
#ifndef GATEWAY_CLI_SSO_H
#define GATEWAY_CLI_SSO_H

#include <stdio.h>

struct gw_cli_sso_options {
    const char *policy_file; /* when --policy is not given; NULL: it must be */
    const char *public_url;  /* when --url is not given; NULL: it must be */
    const char *program;     /* gatehouse-sso; NULL: beside our own program */
    FILE *in, *out, *err;    /* NULL: stdin, stdout, stderr */
};

/* argv[0] is "sso". The process' exit status: 0 all is well, 1 something does not hold or could not be asked, 2 wrong usage. */
int gw_cli_sso_main(int argc, char **argv, const struct gw_cli_sso_options *options);

#endif
