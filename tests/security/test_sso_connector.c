/* The connector of gatehouse-sso: its sandbox from inside, each refusal with what must go on working, and the child itself as
 * gatehouse-sso uses it. What is tried inside runs in a child of its own; the servers that it reaches are this program's, or a child's. */
#include "gateway/sso/connector.h"
#include "gateway/sso/proto.h"
#include "gateway/sso/sandbox.h"

#undef CHECK /* base/check.h has one, too */
#include "tap.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <resolv.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned port_v4, port_v6, port_dns; /* who listens; 0: no IPv6 here */
static unsigned port_closed;                /* nobody, but it is allowed */
static unsigned port_other;                 /* somebody, but it is not */
static int listener, datagram;              /* descriptors of before the sandbox */
static int landlock_abi;
static char made[] = "/tmp/gh-connector-XXXXXX";

/* ---- inside ---- */

/* Runs fn in a child; its answer: 1 what was tried worked, 0 it did not. 2: the sandbox could not be entered. */
static int in_child(bool sandboxed, int (*fn)(void))
{
    const uint16_t ports[] = {(uint16_t)port_v4, (uint16_t)port_v6, (uint16_t)port_dns,
                              (uint16_t)port_closed};
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        bool landlock = false;

        if (sandboxed && (sso_sandbox_enter_connector(ports, 4, &landlock, NULL) != BASE_OK ||
                          landlock != (landlock_abi > 0)))
            _exit(2);
        _exit(fn());
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}
static int inside(int (*fn)(void))
{
    return in_child(true, fn);
}
static int outside(int (*fn)(void))
{
    return in_child(false, fn);
}

/* By seccomp, which says EPERM, and not by landlock alone, which says EACCES. */
static int worked(bool done)
{
    return done || errno != EPERM;
}
static int opens(const char *path, int flags)
{
    int fd = open(path, flags, 0600);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}
static int read_passwd(void)
{
    return opens("/etc/passwd", O_RDONLY);
}
static int read_resolver_files(void)
{
    for (const char *const *at = sso_resolver_files; *at != NULL; at++)
        if (access(*at, R_OK) == 0 && !opens(*at, O_RDONLY))
            return 0;
    return 1;
}
static int resolver_files_are_there(void)
{
    return opens("/etc/hosts", O_RDONLY);
}
/* As glibc loads what nsswitch.conf names; the C library brings this one. */
static int load_module(void)
{
    return dlopen("libnss_compat.so.2", RTLD_NOW) != NULL;
}
static int write_file(void)
{
#ifdef SYS_open
    if (worked(syscall(SYS_open, made, O_WRONLY) >= 0))
        return 1;
#endif
    return worked(opens(made, O_WRONLY)) || worked(opens(made, O_RDWR));
}
static int empty_file(void)
{
    return worked(opens(made, O_RDONLY | O_TRUNC)) || worked(truncate(made, 0) == 0);
}
static int make_file(void)
{
    return worked(opens("/tmp/gh-connector-made", O_CREAT | O_RDONLY)) ||
           worked(opens("/tmp", O_TMPFILE | O_WRONLY)) ||
           worked(mkdir("/tmp/gh-connector-made", 0700) == 0) ||
           worked(symlink("/", "/tmp/gh-connector-made") == 0);
}
static int change_file(void)
{
    return worked(chmod(made, 0644) == 0) || worked(unlink(made) == 0) ||
           worked(rename(made, "/tmp/gh-connector-made") == 0);
}
static int run_program(void)
{
    execl("/bin/false", "false", (char *)NULL); /* whose status is 1: it worked */
    return worked(false);
}
static int make_process(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    return pid > 0;
}
static int make_process_by_call(void)
{
    long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

    if (pid == 0)
        _exit(0);
    return pid > 0;
}
static int trace(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}
static int signal_parent(void)
{
    return kill(getppid(), 0) == 0 || syscall(SYS_tgkill, getppid(), getppid(), 0) == 0;
}
static int bind_socket(void)
{
    const struct sockaddr_in any = {.sin_family = AF_INET};

    return bind(datagram, (const struct sockaddr *)&any, sizeof(any)) == 0;
}
static int listen_on_given(void)
{
    return listen(listener, 1) == 0;
}
static int accept_on_given(void)
{
    return (accept(listener, NULL, NULL) < 0 && errno != EPERM) ||
           (accept4(listener, NULL, NULL, 0) < 0 && errno != EPERM);
}
static int other_sockets(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0) >= 0 || socket(AF_UNIX, SOCK_DGRAM, 0) >= 0 ||
           socket(AF_NETLINK, SOCK_RAW, 0) >= 0 || socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0 ||
           socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) >= 0 ||
           socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP) >= 0 || socket(AF_PACKET, SOCK_DGRAM, 0) >= 0;
}
static int plain_sockets(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) >= 0 &&
           socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) >= 0 && socket(AF_INET6, SOCK_STREAM, 0) >= 0 &&
           socket(AF_INET6, SOCK_DGRAM, 0) >= 0;
}

/* Resolves and connects, as the connector does. */
static int reach(const char *host, unsigned port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    char text[8];
    int done = 0;

    snprintf(text, sizeof(text), "%u", port);
    if (getaddrinfo(host, text, &hints, &found) != 0)
        return 0;
    for (const struct addrinfo *at = found; at != NULL && !done; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        done = fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0;
        close(fd);
    }
    freeaddrinfo(found);
    return done;
}
static int reach_v4(void)
{
    return reach("127.0.0.1", port_v4);
}
static int reach_v6(void)
{
    return reach("::1", port_v6);
}
static int reach_name_of_hosts(void)
{
    return reach("localhost", port_v4);
}
static int reach_other_port(void)
{
    return reach("127.0.0.1", port_other);
}
/* TCP Fast Open connects by sending: landlock's list does not see it. 1: at least one of the calls was let through. */
static int send_and_connect(void)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port_other), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct iovec part = {"x", 1};
    struct mmsghdr message = {
        .msg_hdr = {.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &part, .msg_iovlen = 1}};
    int fd[3], let = 0;

    for (int i = 0; i < 3; i++)
        fd[i] = socket(AF_INET, SOCK_STREAM, 0);
    let =
        sendto(fd[0], "x", 1, MSG_FASTOPEN, (const struct sockaddr *)&to, sizeof(to)) >= 0 || errno != EPERM;
    let = sendmsg(fd[1], &message.msg_hdr, MSG_FASTOPEN) >= 0 || errno != EPERM || let;
    let = sendmmsg(fd[2], &message, 1, MSG_FASTOPEN) >= 0 || errno != EPERM || let;
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    return let;
}
static void *reach_in_thread(void *p)
{
    return reach_v4() ? p : NULL;
}
static int threads(void)
{
    pthread_t thread[8];
    void *result = NULL;
    int good = 1, here = 0;

    for (int i = 0; i < 8; i++)
        if (pthread_create(&thread[i], NULL, reach_in_thread, &here) != 0)
            return 0;
    for (int i = 0; i < 8; i++)
        good = pthread_join(thread[i], &result) == 0 && result == &here && good;
    return good;
}

/* glibc's resolver, told of our name server. */
static int resolve(const char *name)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int rc;

    res_init();
    _res.nscount = 1;
    _res.retry = 1;
    _res.retrans = 20;
    _res.nsaddr_list[0] = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port_dns), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    rc = getaddrinfo(name, NULL, &hints, &found);
    if (rc != 0)
        return rc == EAI_NONAME ? 10 : rc == EAI_AGAIN ? 11 : 12;
    rc = ((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_addr.s_addr == htonl(0x7f000203);
    freeaddrinfo(found);
    return rc;
}
static int resolve_by_udp(void)
{
    return resolve("short.test.");
}
static int resolve_by_tcp(void)
{
    return resolve("long.test.");
}
static int resolve_missing(void)
{
    return resolve("missing.test.");
}
static int resolve_failing(void)
{
    return resolve("failing.test.");
}

/* ---- a name server: short., long. (by TCP alone), missing., failing. ---- */

/* The answer in place of the query; its length. */
static size_t dns_answer(unsigned char *message, size_t n, bool tcp)
{
    static const unsigned char record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 2, 3};
    const char *label = (const char *)message + 13;
    size_t end = 12;

    while (end < n && message[end] != 0)
        end += message[end] + 1u;
    end += 5; /* the root, type and class; what follows (EDNS) is left out */
    if (n < 17 || end > n)
        return 0;
    message[2] = 0x81;
    message[3] = 0x80;
    memset(message + 6, 0, 6);
    if (strncmp(label, "missing", 7) == 0) {
        message[3] |= 3;
    } else if (strncmp(label, "failing", 7) == 0) {
        message[3] |= 2;
    } else if (strncmp(label, "long", 4) == 0 && !tcp) {
        message[2] |= 2;
    } else if (message[end - 3] == 1) {
        message[7] = 1;
        memcpy(message + end, record, sizeof(record));
        end += sizeof(record);
    }
    return end;
}

static void *dns_udp(void *p)
{
    int fd = *(int *)p;

    for (;;) {
        unsigned char message[600];
        struct sockaddr_in from;
        socklen_t len = sizeof(from);
        ssize_t n = recvfrom(fd, message, 512, 0, (struct sockaddr *)&from, &len);
        size_t size = n > 0 ? dns_answer(message, (size_t)n, false) : 0;

        if (size > 0)
            sendto(fd, message, size, 0, (struct sockaddr *)&from, len);
    }
    return NULL;
}

static void *dns_tcp(void *p)
{
    int fd = *(int *)p;

    for (;;) {
        unsigned char message[600];
        int one = accept(fd, NULL, NULL);

        while (recv(one, message, 2, MSG_WAITALL) == 2) {
            size_t n = (size_t)message[0] << 8 | message[1];

            if (n > 512 || recv(one, message + 2, n, MSG_WAITALL) != (ssize_t)n)
                break;
            n = dns_answer(message + 2, n, true);
            message[0] = (unsigned char)(n >> 8);
            message[1] = (unsigned char)n;
            if (send(one, message, n + 2, MSG_NOSIGNAL) < 0)
                break;
        }
        close(one);
    }
    return NULL;
}

/* ---- the cases ---- */

static void test_sandbox__takes_processes_and_programs_away(void)
{
    CHECK_INT(inside(run_program), 0);
    CHECK_INT(inside(make_process), 0);
    CHECK_INT(inside(make_process_by_call), 0);
    CHECK_INT(inside(trace), 0);
    CHECK_INT(inside(signal_parent), 0);
    CHECK_INT(inside(threads), 1);
    CHECK_INT(outside(run_program), 1);
    CHECK_INT(outside(make_process), 1);
    CHECK_INT(outside(make_process_by_call), 1);
    CHECK_INT(outside(trace), 1);
    CHECK_INT(outside(signal_parent), 1);
}

static void test_sandbox__takes_writing_away(void)
{
    CHECK_INT(inside(write_file), 0);
    CHECK_INT(inside(empty_file), 0);
    CHECK_INT(inside(make_file), 0);
    CHECK_INT(inside(change_file), 0);
    CHECK_INT(inside(resolver_files_are_there), 1);
    CHECK_INT(outside(write_file), 1);
    CHECK_INT(outside(empty_file), 1);
}

static void test_sandbox__reads_what_a_resolver_reads_and_nothing_else(void)
{
    CHECK_INT(inside(read_resolver_files), 1);
    CHECK_INT(inside(load_module), outside(load_module));
    CHECK_INT(outside(read_passwd), 1);
    if (landlock_abi < 1)
        SKIP("no landlock here");
    CHECK_INT(inside(read_passwd), 0);
}

static void test_sandbox__takes_servers_and_other_sockets_away(void)
{
    CHECK_INT(inside(bind_socket), 0);
    CHECK_INT(inside(listen_on_given), 0);
    CHECK_INT(inside(accept_on_given), 0);
    CHECK_INT(inside(other_sockets), 0);
    CHECK_INT(inside(plain_sockets), outside(plain_sockets));
    CHECK_INT(outside(listen_on_given), 1);
    CHECK_INT(outside(accept_on_given), 1);
    CHECK_INT(outside(bind_socket), 1);
    CHECK_INT(outside(other_sockets), 1);
}

static void test_sandbox__leaves_literals_and_names_of_hosts(void)
{
    CHECK_INT(inside(reach_v4), 1);
    CHECK_INT(inside(reach_name_of_hosts), 1);
    if (port_v6 == 0)
        SKIP("no IPv6 here");
    CHECK_INT(inside(reach_v6), 1);
}

static void test_sandbox__only_ports_of_the_list_are_reached(void)
{
    CHECK_INT(outside(reach_other_port), 1);
    CHECK_INT(outside(send_and_connect), 1);
    CHECK_INT(inside(send_and_connect), 0);
    if (landlock_abi < 4)
        SKIP("landlock of this kernel knows no ports");
    CHECK_INT(inside(reach_other_port), 0);
}

static void test_sandbox__leaves_dns(void)
{
    CHECK_INT(inside(resolve_by_udp), 1);
    CHECK_INT(inside(resolve_by_tcp), 1);
    CHECK_INT(inside(resolve_missing), 10);
    CHECK_INT(inside(resolve_failing), 11);
}

/* ---- the child ---- */

static struct sso_provider *provider;

static void reached(const char *host, unsigned port)
{
    struct base_err err = {0};
    int fd = -1;

    CHECK_RC(sso_connect(provider, host, port, 5000, &fd, &err), BASE_OK, &err);
    CHECK_INT(write(fd, "x", 1), 1);
    close(fd);
}

static void refused(const char *host, unsigned port, enum base_code code, const char *why)
{
    struct base_err err = {0};
    int fd = -1;

    CHECK_RC(sso_connect(provider, host, port, 5000, &fd, &err), code, &err);
    CHECK(strstr(err.detail, why) != NULL);
}

/* A label has at most 63 bytes: refused by the resolver on every machine, without asking anybody. */
#define NO_NAME "this-label-is-longer-than-the-sixty-three-bytes-that-a-label-can-have.test"

static void test_connect__names_and_literals(void)
{
    for (int i = 0; i < 20; i++)
        reached("127.0.0.1", port_v4);
    reached("localhost", port_v4);
    if (port_v6 == 0)
        SKIP("no IPv6 here");
    reached("::1", port_v6);
}

static void test_connect__says_why_it_was_not(void)
{
    refused("127.0.0.1", port_closed, BASE_UNAVAILABLE, "cannot be reached");
    refused(NO_NAME, port_v4, BASE_UNAVAILABLE, "is a name that is not found");
    refused("127.0.0.1", port_other, BASE_DENIED, "is not a configured host");
    refused("127.0.0.2", port_v4, BASE_DENIED, "is not a configured host");
    reached("127.0.0.1", port_v4);
}

/* ---- before ---- */

/* backlog -1: it has the port and does not listen */
static unsigned bound(int family, int type, int backlog, unsigned port, int *ret_fd)
{
    struct sockaddr_in v4 = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr *address = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    socklen_t len = family == AF_INET ? sizeof(v4) : sizeof(v6);

    *ret_fd = socket(family, type | SOCK_CLOEXEC, 0);
    if (*ret_fd < 0)
        return 0;
    if (bind(*ret_fd, address, len) != 0 || (backlog >= 0 && listen(*ret_fd, backlog) != 0) ||
        getsockname(*ret_fd, address, &len) != 0) {
        close(*ret_fd);
        return 0;
    }
    return ntohs(family == AF_INET ? v4.sin_port : v6.sin6_port);
}

static bool start_servers(void)
{
    pthread_t thread;
    int fd, udp, tcp;
    bool both = false;

    port_v4 = bound(AF_INET, SOCK_STREAM, 4096, 0, &fd);
    port_v6 = bound(AF_INET6, SOCK_STREAM, 4096, 0, &fd);
    port_other = bound(AF_INET, SOCK_STREAM, 4096, 0, &fd);
    port_closed = bound(AF_INET, SOCK_STREAM, -1, 0, &fd);
    for (int i = 0; i < 20 && !both; i++) { /* a port that is free for UDP may be taken for TCP */
        port_dns = bound(AF_INET, SOCK_DGRAM, -1, 0, &udp);
        both = bound(AF_INET, SOCK_STREAM, 4096, port_dns, &tcp) == port_dns;
        if (!both)
            close(udp);
    }
    if (port_v4 == 0 || port_other == 0 || port_closed == 0 || port_dns == 0 || !both ||
        bound(AF_INET, SOCK_STREAM, 8, 0, &listener) == 0)
        return false;
    fcntl(listener, F_SETFL, O_NONBLOCK);
    datagram = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    /* its threads are not ours: the thread sanitizer wants a process that forks to have none */
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pthread_create(&thread, NULL, dns_udp, &udp);
        dns_tcp(&tcp);
    }
    return true;
}

/* As sso_main does it. */
static enum base_code start_connector(struct base_err *err)
{
    static struct sso_process process = {.n_providers = 1};
    json_t *config;
    char host[64], v6[64], local[64], no_name[128], closed[64];
    bool landlock = false;
    enum base_code rc;

    snprintf(host, sizeof(host), "http://127.0.0.1:%u", port_v4);
    snprintf(v6, sizeof(v6), "[::1]:%u", port_v6 != 0 ? port_v6 : 1);
    snprintf(local, sizeof(local), "localhost:%u", port_v4);
    snprintf(no_name, sizeof(no_name), "%s:%u", NO_NAME, port_v4);
    snprintf(closed, sizeof(closed), "127.0.0.1:%u", port_closed);
    config = json_pack("{s:s, s:[s,s,s,s]}", "issuer", host, "hosts", v6, local, no_name, closed);
    provider = &process.providers[0];
    *provider = (struct sso_provider){.kind = SSO_OIDC, .config = config};
    rc = sso_connector_start(err);
    if (rc == BASE_OK)
        rc = sso_connector_allow(&process, &landlock, err);
    json_decref(config);
    provider->config = NULL;
    return rc == BASE_OK && landlock != (landlock_abi > 0) ? BASE_INTERNAL : rc;
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_sandbox__takes_processes_and_programs_away),
        CASE(test_sandbox__takes_writing_away),
        CASE(test_sandbox__reads_what_a_resolver_reads_and_nothing_else),
        CASE(test_sandbox__takes_servers_and_other_sockets_away),
        CASE(test_sandbox__leaves_literals_and_names_of_hosts),
        CASE(test_sandbox__only_ports_of_the_list_are_reached),
        CASE(test_sandbox__leaves_dns),
        CASE(test_connect__names_and_literals),
        CASE(test_connect__says_why_it_was_not),
    };
    struct base_err err = {0};
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
    int rc, file;

    dup2(2, SSO_FD); /* the child closes this descriptor, which is the gateway's socket otherwise */
    landlock_abi = abi > 0 ? (int)abi : 0;
    file = mkstemp(made);
    if (file < 0 || !start_servers() || start_connector(&err) != BASE_OK) {
        printf("Bail out! %s\n", err.detail);
        return 1;
    }
    close(file);
    rc = tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
    unlink(made);
    return rc;
}
