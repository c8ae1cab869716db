/* Sandbox. See sandbox.h. */
#include "gateway/sso/sandbox.h"
#include "gateway/sso/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the installed headers of an older kernel may not have. */
#define FS_EXECUTE_TO_MAKE_SYM ((1ull << 13) - 1)
#define FS_REFER               (1ull << 13) /* ABI 2 */
#define FS_TRUNCATE            (1ull << 14) /* ABI 3 */
#define FS_IOCTL_DEV           (1ull << 15) /* ABI 5 */
#define NET_BIND_TCP           1ull         /* ABI 4 */
#define NET_CONNECT_TCP        2ull
#define RULE_NET_PORT          2
struct ruleset { /* of ABI 4; older kernels are told the first member's size */
    uint64_t fs, net;
};
struct port_rule {
    uint64_t access, port;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* What one process has beyond what both have. */
struct box {
    const int *calls; /* whatever their arguments */
    size_t n_calls;
    int (*add_rules)(scmp_filter_ctx filter); /* calls whose arguments matter. 0, or a negative errno */
    const char *const *readable[2];           /* lists of files and folders, each ended by NULL */
    const uint16_t *ports;                    /* that TCP may connect to */
    size_t n_ports;
};

/* ---- landlock ---- */

/* A path that is not there is not needed. */
static bool allow_reading(int ruleset, const char *path)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE,
                                              .parent_fd = open(path, O_PATH | O_CLOEXEC)};
    bool done;

    if (rule.parent_fd < 0)
        return true;
    done = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
    close(rule.parent_fd);
    return done;
}

static bool allow_port(int ruleset, uint16_t port)
{
    struct port_rule rule = {NET_CONNECT_TCP, port};

    return syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0) == 0;
}

static bool enter_landlock(const struct box *box)
{
    struct ruleset rules = {.fs = FS_EXECUTE_TO_MAKE_SYM};
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    int fd;
    bool done = true;

    if (abi < 1)
        return false;
    if (abi >= 2)
        rules.fs |= FS_REFER;
    if (abi >= 3)
        rules.fs |= FS_TRUNCATE;
    if (abi >= 5)
        rules.fs |= FS_IOCTL_DEV;
    if (abi >= 4)
        rules.net = NET_BIND_TCP | NET_CONNECT_TCP;
    fd = (int)syscall(SYS_landlock_create_ruleset, &rules, abi >= 4 ? sizeof(rules) : sizeof(rules.fs), 0);
    if (fd < 0)
        return false;
    for (unsigned list = 0; list < 2; list++)
        for (const char *const *at = box->readable[list]; done && at != NULL && *at != NULL; at++)
            done = allow_reading(fd, *at);
    for (size_t i = 0; done && abi >= 4 && i < box->n_ports; i++)
        done = allow_port(fd, box->ports[i]);
    done = done && syscall(SYS_landlock_restrict_self, fd, 0) == 0;
    close(fd);
    return done;
}

/* ---- seccomp ---- */

/* Everything else is answered EPERM: a library that tries a file finds it missing and goes on; an attacker finds nothing to call. */
static const int common[] = {
    /* descriptors that are open */
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(lseek),
    SCMP_SYS(fcntl),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockname),
    SCMP_SYS(ioctl),
    /* memory */
    SCMP_SYS(brk),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    /* threads and time */
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getppid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getrandom),
    SCMP_SYS(uname),
    SCMP_SYS(getcpu),
    SCMP_SYS(prctl),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* gatehouse-sso itself. */
static const int parser_calls[] = {
    SCMP_SYS(readv),    SCMP_SYS(writev),     SCMP_SYS(dup),         SCMP_SYS(select),
    SCMP_SYS(pselect6), SCMP_SYS(shutdown),   SCMP_SYS(getpeername), SCMP_SYS(pipe2),
    SCMP_SYS(eventfd2), SCMP_SYS(getrusage),  SCMP_SYS(sysinfo),
#ifdef SANITIZED /* the sanitizers' own reports and leak check */
    SCMP_SYS(readlink), SCMP_SYS(ptrace),     SCMP_SYS(wait4),       SCMP_SYS(open),
    SCMP_SYS(openat),   SCMP_SYS(getdents64), SCMP_SYS(personality), SCMP_SYS(process_vm_readv),
    SCMP_SYS(kill),     SCMP_SYS(arch_prctl),
#endif
};

/* The connector: what a resolver does. */
static const int connector_calls[] = {
    SCMP_SYS(connect),
    /* of the loader: a module of nsswitch.conf */
    SCMP_SYS(pread64),
};

/* A thread may be started, a process not: without CLONE_THREAD it is one. */
static int allow_threads(scmp_filter_ctx filter)
{
    const unsigned long thread = 0x10000; /* CLONE_THREAD */

    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
}

/* Of both: sending, but not with MSG_FASTOPEN, which connects past landlock's list of ports; signals to ourselves alone (abort). */
static int add_common_rules(scmp_filter_ctx filter)
{
    const unsigned long fast_open = MSG_FASTOPEN;
    int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 1,
                              SCMP_A3(SCMP_CMP_MASKED_EQ, fast_open, 0));

    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sendmsg), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, fast_open, 0));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, (unsigned long)getpid()));
    return rc;
}

static int add_parser_rules(scmp_filter_ctx filter)
{
    int rc = 0;

#ifdef SANITIZED /* the leak check forks */
    rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 0);
#endif
    /* libcurl 7.88 calls connect() even on a socket that it was told is connected. It does nothing and says "under way": libcurl then
     * waits until the socket can be written, which it can. */
    return rc != 0 ? rc : seccomp_rule_add(filter, SCMP_ACT_ERRNO(EINPROGRESS), SCMP_SYS(connect), 0);
}

/* TCP and UDP sockets and files to read; no other kind of socket (unix: whoever listens on this machine; netlink, raw), and an open()
 * neither makes nor empties. */
static int add_connector_rules(scmp_filter_ctx filter)
{
    static const unsigned families[] = {AF_INET, AF_INET6}, types[] = {SOCK_STREAM, SOCK_DGRAM};
    int rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));

    if (rc == 0) /* A and AAAA at once */
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sendmmsg), 1,
                              SCMP_A3(SCMP_CMP_MASKED_EQ, (unsigned long)MSG_FASTOPEN, 0));

    for (unsigned i = 0; i < 4 && rc == 0; i++) /* the kernel reads 32 bits of each */
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, families[i / 2]),
                              SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, types[i % 2]),
                              SCMP_A2(SCMP_CMP_MASKED_EQ, UINT32_MAX, 0));
    return rc;
}

static enum base_code enter(const struct box *box, bool *ret_landlock, struct base_err *err)
{
    scmp_filter_ctx filter;
    int rc = 0;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return base_fail(err, BASE_UNSUPPORTED, errno, "no_new_privs");
    *ret_landlock = enter_landlock(box);
    filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL)
        return base_fail(err, BASE_UNSUPPORTED, 0, "seccomp cannot be had");
    for (size_t i = 0; i < sizeof(common) / sizeof(common[0]) && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, common[i], 0);
    for (size_t i = 0; i < box->n_calls && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, box->calls[i], 0);
    if (rc == 0)
        rc = add_common_rules(filter);
    if (rc == 0)
        rc = allow_threads(filter);
    if (rc == 0) /* glibc falls back to clone, whose flags can be looked at; those of clone3 lie in memory */
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (rc == 0)
        rc = box->add_rules(filter);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    if (rc != 0)
        return base_fail(err, BASE_UNSUPPORTED, -rc, "the seccomp list is not taken");
    return BASE_OK;
}

enum base_code sso_sandbox_enter(bool *ret_landlock, struct base_err *err)
{
    const struct box box = {.calls = parser_calls,
                            .n_calls = sizeof(parser_calls) / sizeof(parser_calls[0]),
                            .add_rules = add_parser_rules};

    return enter(&box, ret_landlock, err);
}

enum base_code sso_sandbox_enter_connector(const uint16_t *ports, size_t n_ports, bool *ret_landlock,
                                           struct base_err *err)
{
    /* nsswitch.conf may name modules, which glibc loads when it first needs them */
    static const char *const libraries[] = {"/etc/ld.so.cache", "/lib",       "/lib64",
                                            "/usr/lib",         "/usr/lib64", NULL};
    const struct box box = {.calls = connector_calls,
                            .n_calls = sizeof(connector_calls) / sizeof(connector_calls[0]),
                            .add_rules = add_connector_rules,
                            .readable = {sso_resolver_files, libraries},
                            .ports = ports,
                            .n_ports = n_ports};

    return enter(&box, ret_landlock, err);
}
