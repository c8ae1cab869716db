/* Sandbox: what gatehouse-sso gives up before it reads anything from strangers.
 *
 * What: landlock without any allowed path and, where the kernel has it, without TCP bind and connect; a seccomp list of the calls that
 *       computing, threads, memory and open descriptors need. No exec, no open, no socket, no listen.
 * Who:  the main thread, once, before other threads; it holds for all that come after.
 */
#ifndef GATEWAY_SSO_SANDBOX_H
#define GATEWAY_SSO_SANDBOX_H

#include "base/err.h"

#include <stdbool.h>

/* BASE_UNSUPPORTED: seccomp cannot be had: the program must not go on. *ret_landlock: the kernel took that, too. */
enum base_code sso_sandbox_enter(bool *ret_landlock, struct base_err *err);

#endif
