/* gatehouse-sso: the program. See sso.h.
 *
 *     connector forked --> `configure` read --> libraries started --> connector sealed, in its sandbox --> sandbox --> threads -->
 *     frames, until the gateway closes
 *
 * Everything that needs a file happens before the sandbox; the first byte of a stranger is read after it.
 */
#include "gateway/sso/connector.h"
#include "gateway/sso/http.h"
#include "gateway/sso/proto.h"
#include "gateway/sso/sandbox.h"
#include "gateway/sso/serve.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static int usage(void)
{
    fputs("gatehouse-sso is started by gatehouse, with a socket as descriptor 3. It takes no options.\n"
          "It speaks to identity providers for it; docs/sso.md says how single sign-on is configured.\n",
          stdout);
    return 0;
}

static int fail(const char *what, const struct base_err *err)
{
    base_log_err(BASE_LOG_ERROR, "sso.start_failed", what, err);
    return 1;
}

int main(int argc, char **argv)
{
    struct sso_process *process = NULL;
    struct base_err err = {0};
    bool landlock = false, landlock_there = false;

    if (argc > 1)
        return strcmp(argv[1], "--help") == 0 ? usage() : (usage(), 2);
    if (fcntl(SSO_FD, F_GETFD) < 0)
        return usage(), 2;
    /* LASSO_FLAG could switch signature checks off, and nobody else's variables are wanted either */
    clearenv();
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    base_log_init(STDERR_FILENO, BASE_LOG_INFO);
    if (sso_connector_start(&err) != BASE_OK)
        return fail("the connector does not start", &err);
    if (sso_http_init(&err) != BASE_OK)
        return fail("HTTP does not start", &err);
    if (sso_serve_configure(&process, &err) != BASE_OK)
        return err.code == BASE_CANCELLED ? 0 : fail("the configuration does not hold", &err);
    if (sso_connector_allow(process, &landlock_there, &err) != BASE_OK)
        return fail("the connector is not sealed", &err);
    if (sso_sandbox_enter(&landlock, &err) != BASE_OK)
        return fail("the sandbox cannot be entered", &err);
    if (!landlock || !landlock_there)
        base_log(BASE_LOG_WARN, "sso.no_landlock",
                 "this kernel has no landlock: seccomp alone keeps files away");
    return sso_serve(process);
}
