/* A private Redis for a test: its own server in a temporary folder, reached by a Unix socket alone.
 *
 * Who:  tests; one thread.
 * Promises: the server dies with the test (parent-death signal); rdp_free stops it and removes the folder.
 */
#ifndef TESTS_REDIS_PRIVATE_H
#define TESTS_REDIS_PRIVATE_H

#include <stdbool.h>

struct rdp;

/* Starts it; NULL when there is no redis-server (a line says why on stderr). */
struct rdp *rdp_new(void);
void rdp_free(struct rdp *rdp); /* NULL is allowed */

void rdp_kill(struct rdp *rdp);   /* SIGKILL; what it held is gone */
bool rdp_start(struct rdp *rdp);  /* after rdp_kill: empty, at the same socket */
void rdp_freeze(struct rdp *rdp); /* SIGSTOP: connections stand, nothing answers */
void rdp_thaw(struct rdp *rdp);

const char *rdp_url(struct rdp *rdp); /* unix:///... */
/* One command with integer or text answer; the text lives until the next call; NULL when it fails. */
const char *rdp_command(struct rdp *rdp, const char *const *argv, int argc);

#endif
