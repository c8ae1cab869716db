/* Sandbox: what gatehouse-sso and its connector give up before either has to do with strangers.
 *
 * What: landlock, and a seccomp list; a call that is not in the list is answered EPERM. Both processes have what computing, threads,
 *       memory and open descriptors need: no exec, no new process, no bind, no listen, no accept, no writing of files.
 *
 *                            gatehouse-sso           connector
 *       files                none                    read: those that names are resolved with, and the libraries that they may name
 *       sockets              those it was given      TCP and UDP; no unix, netlink or raw ones
 *       connect              answers EINPROGRESS     yes; TCP (landlock ABI 4) to the given ports alone
 *
 *       What landlock holds back (files, ports) is held back by seccomp alone on a kernel without it: then gatehouse-sso still has no
 *       open(), but the connector can read whatever its user can, and connect to any port.
 * Who:  the main thread of each, once, before other threads; it holds for all that come after.
 */
#ifndef GATEWAY_SSO_SANDBOX_H
#define GATEWAY_SSO_SANDBOX_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* BASE_UNSUPPORTED: seccomp cannot be had: the program must not go on. *ret_landlock: the kernel took that, too. */
enum base_code sso_sandbox_enter(bool *ret_landlock, struct base_err *err);
/* The same for the connector. landlock knows a file by its inode: one that is replaced later cannot be read (sso_resolver_files). */
enum base_code sso_sandbox_enter_connector(const uint16_t *ports, size_t n_ports, bool *ret_landlock,
                                           struct base_err *err);

#endif
