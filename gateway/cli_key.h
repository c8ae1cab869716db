/* Commands on identity: `gatehouse key create|list|revoke` and `gatehouse admin-link`.
 *
 * Who:  the main program, which has read the configuration; one thread, may block.
 * Promises: a key or a link's token is printed once and stored nowhere; a made key that cannot be recorded is revoked again.
 */
#ifndef GATEWAY_CLI_KEY_H
#define GATEWAY_CLI_KEY_H

#include <stdbool.h>
#include <stdio.h>

struct gw_cli_identity_options {
    const char *dsn;         /* role gatehouse_store */
    const char *pepper_file; /* the same file as the gateway's, mode 0600 */
    const char *public_url;  /* of links, when --url is not given; NULL: it must be */
    /* for `key create`: service accounts, and whether there is a directory; NULL: neither */
    const char *policy_file;
    FILE *out, *err; /* NULL: stdout, stderr */
    /* Records "key.create", "key.revoke", "link.create" in the audit; target is the key's id or the link's subject. False: it could
     * not be recorded. May be NULL. */
    bool (*record)(const char *action, const char *target, void *user);
    void *user;
};

/* argv[0] is "key" or "admin-link". The process' exit status: 0, 1 failed, 2 wrong usage. */
int gw_cli_key_main(int argc, char **argv, const struct gw_cli_identity_options *options);
int gw_cli_admin_link_main(int argc, char **argv, const struct gw_cli_identity_options *options);

#endif
