/* Connector. See connector.h.
 *
 *     gatehouse-sso (no sockets)                      connector (no parsing of strangers' bytes)
 *     {provider, host, port, timeout} --- packet --->  in the list? resolve, connect
 *                              <--- packet, descriptor (SCM_RIGHTS) or a code
 *
 * A thread of the child serves each request, so that a host that does not answer holds up nobody. Answers come back in any order with
 * the number of their request; one waiting thread at a time reads the channel for all.
 */
#include "gateway/sso/connector.h"
#include "gateway/sso/proto.h"
#include "gateway/sso/sandbox.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOST_MAX    256u
#define HOSTS_MAX   24u /* of one provider */
#define WAITING_MAX (SSO_PROVIDERS_MAX * SSO_THREADS + 8u)
#define ADDRESS_MS  3000u  /* for one address of several */
#define SEALED_MS   10000u /* a machine under load starts a sandbox, too */

enum { ASK_ALLOW = 0, ASK_SEAL, ASK_CONNECT };
struct ask { /* one packet */
    uint32_t kind, number, provider, port, timeout_ms;
    char host[HOST_MAX];
};
struct answer {
    uint32_t number;
    int32_t code; /* enum base_code; to ASK_CONNECT BASE_OK comes with a descriptor */
    int32_t sys_errno;
    uint32_t landlock; /* to ASK_SEAL */
};

struct allowed {
    char host[HOST_MAX];
    unsigned port;
};
static struct {
    struct allowed hosts[HOSTS_MAX];
    unsigned n;
} lists[SSO_PROVIDERS_MAX];

static int channel = -1; /* our end */

/* ---- names ---- */

bool sso_host_parse(const char *text, char *host, size_t size, unsigned *ret_port)
{
    const char *end, *after;
    uint64_t port = 443;
    size_t len;

    if (text[0] == '[') {
        end = strchr(++text, ']');
        if (end == NULL)
            return false;
        after = end + 1;
    } else {
        end = text + strcspn(text, ":");
        after = end;
    }
    len = (size_t)(end - text);
    if (len == 0 || len >= size)
        return false;
    for (size_t i = 0; i < len; i++)
        if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:", text[i]) == NULL)
            return false;
    if (*after == ':') {
        if (base_parse_u64(after + 1, strlen(after + 1), 65535, &port) != BASE_OK || port == 0)
            return false;
    } else if (*after != '\0') {
        return false;
    }
    for (size_t i = 0; i < len; i++)
        host[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
    host[len] = '\0';
    *ret_port = (unsigned)port;
    return true;
}

bool sso_url_host(const char *url, char *host, size_t size, unsigned *ret_port)
{
    bool https = strncmp(url, "https://", 8) == 0;
    const char *start = url + (https ? 8 : 7);
    char authority[HOST_MAX + 16];
    size_t len;

    if (!https && strncmp(url, "http://", 7) != 0)
        return false;
    len = strcspn(start, "/?#");
    if (len == 0 || len >= sizeof(authority))
        return false;
    memcpy(authority, start, len);
    authority[len] = '\0';
    if (!sso_host_parse(authority, host, size, ret_port))
        return false;
    if (!https && (authority[0] == '[' ? strstr(authority, "]:") : strchr(authority, ':')) == NULL)
        *ret_port = 80;
    return true;
}

bool sso_host_is_loopback(const char *host)
{
    struct in_addr v4;

    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127);
}

/* ---- the child ---- */

static int child_channel;

static bool allowed(const struct ask *ask)
{
    if (ask->provider >= SSO_PROVIDERS_MAX)
        return false;
    for (unsigned i = 0; i < lists[ask->provider].n; i++)
        if (lists[ask->provider].hosts[i].port == ask->port &&
            strcmp(lists[ask->provider].hosts[i].host, ask->host) == 0)
            return true;
    return false;
}

static void allow(const struct ask *ask)
{
    struct allowed *entry;

    if (ask->provider >= SSO_PROVIDERS_MAX || lists[ask->provider].n == HOSTS_MAX)
        return;
    entry = &lists[ask->provider].hosts[lists[ask->provider].n++];
    memcpy(entry->host, ask->host, sizeof(entry->host));
    entry->port = ask->port;
}

static void send_answer(const struct answer *answer, int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)answer, sizeof(*answer)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd >= 0) {
        struct cmsghdr *item;

        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        item = CMSG_FIRSTHDR(&message);
        item->cmsg_level = SOL_SOCKET;
        item->cmsg_type = SCM_RIGHTS;
        item->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(item), &fd, sizeof(fd));
    }
    while (sendmsg(child_channel, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

static int connect_one(const struct addrinfo *to, unsigned timeout_ms, int *ret_errno)
{
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    socklen_t len = sizeof(error);

    if (fd < 0)
        return -1;
    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};

        if (poll(&wait, 1, (int)timeout_ms) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 &&
            error == 0)
            return fd;
        *ret_errno = error != 0 ? error : ETIMEDOUT;
    } else {
        *ret_errno = errno;
    }
    close(fd);
    return -1;
}

static int connect_any(const struct ask *ask, struct answer *answer)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    uint64_t until_ms = base_mono_ms() + ask->timeout_ms;
    char port[8];
    int fd = -1;

    snprintf(port, sizeof(port), "%u", ask->port);
    if (getaddrinfo(ask->host, port, &hints, &found) != 0) {
        answer->sys_errno = ENOENT;
        return -1;
    }
    for (const struct addrinfo *at = found; at != NULL && fd < 0; at = at->ai_next) {
        uint64_t now_ms = base_mono_ms(), left_ms = until_ms > now_ms ? until_ms - now_ms : 0;

        if (left_ms == 0)
            break;
        if (at->ai_next != NULL && left_ms > ADDRESS_MS)
            left_ms = ADDRESS_MS;
        fd = connect_one(at, (unsigned)left_ms, &answer->sys_errno);
    }
    freeaddrinfo(found);
    return fd;
}

static void *serve_one(void *p)
{
    struct ask *ask = p;
    struct answer answer = {.number = ask->number, .code = BASE_UNAVAILABLE};
    int fd = connect_any(ask, &answer);

    if (fd >= 0)
        answer.code = BASE_OK;
    else if (answer.sys_errno == ETIMEDOUT)
        answer.code = BASE_TIMEOUT;
    send_answer(&answer, fd);
    if (fd >= 0)
        close(fd);
    free(ask);
    return NULL;
}

/* The list is complete: nothing but it is needed any more. Without a sandbox there is no connector. */
static void seal(void)
{
    static uint16_t ports[SSO_PROVIDERS_MAX * HOSTS_MAX + 1];
    size_t n_ports = 0;
    bool landlock = false;
    struct answer answer = {0};

    ports[n_ports++] = 53; /* DNS, when an answer is too long for UDP */
    for (unsigned i = 0; i < SSO_PROVIDERS_MAX; i++)
        for (unsigned at = 0; at < lists[i].n; at++)
            ports[n_ports++] = (uint16_t)lists[i].hosts[at].port;
    answer.code = (int32_t)sso_sandbox_enter_connector(ports, n_ports, &landlock, NULL);
    answer.landlock = landlock;
    send_answer(&answer, -1);
    if (answer.code != BASE_OK)
        _exit(1);
}

static __attribute__((noreturn)) void child_main(void)
{
    pthread_attr_t detached;
    bool sealed = false;
    struct ask ask;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 256u << 10);
    for (;;) {
        ssize_t n = recv(child_channel, &ask, sizeof(ask), 0);
        struct ask *copy;
        pthread_t thread;

        if (n < 0 && errno == EINTR)
            continue;
        if (n != (ssize_t)sizeof(ask))
            _exit(0); /* the parent has ended */
        ask.host[HOST_MAX - 1] = '\0';
        if (ask.kind != ASK_CONNECT) {
            if (ask.kind == ASK_ALLOW && !sealed)
                allow(&ask);
            if (ask.kind == ASK_SEAL && !sealed)
                seal();
            sealed = sealed || ask.kind == ASK_SEAL;
            continue;
        }
        if (!sealed || !allowed(&ask)) {
            send_answer(&(struct answer){.number = ask.number, .code = BASE_DENIED}, -1);
            continue;
        }
        copy = base_alloc(sizeof(*copy));
        *copy = ask;
        if (pthread_create(&thread, &detached, serve_one, copy) != 0) {
            send_answer(&(struct answer){.number = ask.number, .code = BASE_UNAVAILABLE, .sys_errno = EAGAIN},
                        -1);
            free(copy);
        }
    }
}

enum base_code sso_connector_start(struct base_err *err)
{
    int pair[2];
    pid_t parent = getpid(), child;

    /* SEQPACKET: a packet is whole or not there, and an end is noticed */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return base_fail(err, BASE_IO, errno, "socketpair");
    child = fork();
    if (child < 0)
        return base_fail(err, BASE_IO, errno, "the connector cannot be started");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(0);
        prctl(PR_SET_NAME, "sso-connector");
        close(pair[0]);
        close(SSO_FD);
        child_channel = pair[1];
        child_main();
    }
    close(pair[1]);
    channel = pair[0];
    return BASE_OK;
}

static bool send_ask(const struct ask *ask, int flags)
{
    return send(channel, ask, sizeof(*ask), MSG_NOSIGNAL | flags) == (ssize_t)sizeof(*ask);
}

static void tell_allowed(unsigned provider, const char *host, unsigned port)
{
    struct ask ask = {.kind = ASK_ALLOW, .provider = provider, .port = port};

    snprintf(ask.host, sizeof(ask.host), "%s", host);
    send_ask(&ask, 0);
}

/* ---- our side: many threads, one channel ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t next_number;
    bool reading; /* one waiter reads for all */
    struct waiter {
        uint32_t number; /* 0: free */
        bool answered;
        struct answer answer;
        int fd;
    } waiting[WAITING_MAX];
} desk = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct waiter *waiter_of(uint32_t number)
{
    for (unsigned i = 0; i < WAITING_MAX; i++)
        if (desk.waiting[i].number == number)
            return &desk.waiting[i];
    return NULL;
}

/* One packet, at most timeout_ms. False: none came. */
static bool read_answer(unsigned timeout_ms, struct answer *ret_answer, int *ret_fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {ret_answer, sizeof(*ret_answer)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct pollfd wait = {.fd = channel, .events = POLLIN};
    const struct cmsghdr *item;

    *ret_fd = -1;
    if (poll(&wait, 1, (int)timeout_ms) != 1 ||
        recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != (ssize_t)sizeof(*ret_answer))
        return false;
    item = CMSG_FIRSTHDR(&message);
    if (item != NULL && item->cmsg_level == SOL_SOCKET && item->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(item), sizeof(*ret_fd));
    return true;
}

enum base_code sso_connector_allow(const struct sso_process *process, bool *ret_landlock,
                                   struct base_err *err)
{
    struct answer answer;
    int fd;

    for (unsigned i = 0; i < process->n_providers; i++) {
        const struct sso_provider *provider = &process->providers[i];
        const char *issuer = sso_text(provider->config, "issuer");
        const json_t *hosts = json_object_get(provider->config, "hosts"), *item;
        char host[HOST_MAX];
        unsigned port;

        if (provider->kind != SSO_OIDC)
            continue;
        if (issuer != NULL && sso_url_host(issuer, host, sizeof(host), &port))
            tell_allowed(i, host, port);
        for (size_t at = 0; (item = json_array_get(hosts, at)) != NULL; at++)
            if (json_is_string(item) && sso_host_parse(json_string_value(item), host, sizeof(host), &port))
                tell_allowed(i, host, port);
    }
    if (!send_ask(&(struct ask){.kind = ASK_SEAL}, 0) || !read_answer(SEALED_MS, &answer, &fd))
        return base_fail(err, BASE_UNAVAILABLE, 0, "the connector does not answer");
    if (answer.code != BASE_OK)
        return base_fail(err, (enum base_code)answer.code, 0, "the connector's sandbox cannot be had");
    *ret_landlock = answer.landlock != 0;
    return BASE_OK;
}

/* With the lock: reads for whoever it is until `mine` is answered or time is up. */
static void wait_for(struct waiter *mine, uint64_t until_ms)
{
    while (!mine->answered && base_mono_ms() < until_ms) {
        struct answer answer;
        struct waiter *whose;
        struct timespec until;
        int fd;
        bool got;

        if (desk.reading) { /* another thread reads: it wakes us; look again soon in case it has left */
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 20000000;
            if (until.tv_nsec >= 1000000000) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000;
            }
            pthread_cond_timedwait(&desk.changed, &desk.lock, &until);
            continue;
        }
        desk.reading = true;
        pthread_mutex_unlock(&desk.lock);
        got = read_answer(50, &answer, &fd);
        pthread_mutex_lock(&desk.lock);
        desk.reading = false;
        whose = got ? waiter_of(answer.number) : NULL;
        if (whose != NULL) {
            whose->answer = answer;
            whose->fd = fd;
            whose->answered = true;
        } else if (got && fd >= 0) {
            close(fd); /* who asked has given up */
        }
        pthread_cond_broadcast(&desk.changed);
    }
}

enum base_code sso_connect(const struct sso_provider *provider, const char *host, unsigned port,
                           unsigned timeout_ms, int *ret_fd, struct base_err *err)
{
    struct ask ask = {
        .kind = ASK_CONNECT, .provider = provider->index, .port = port, .timeout_ms = timeout_ms};
    struct answer answer = {.code = BASE_TIMEOUT};
    struct waiter *mine;
    int fd = -1;

    if (strlen(host) >= sizeof(ask.host))
        return base_fail(err, BASE_INVALID, 0, "a host name that is too long");
    snprintf(ask.host, sizeof(ask.host), "%s", host);
    pthread_mutex_lock(&desk.lock);
    mine = waiter_of(0);
    if (mine == NULL) {
        pthread_mutex_unlock(&desk.lock);
        return base_fail(err, BASE_FULL, 0, "too many connections at once");
    }
    ask.number = ++desk.next_number != 0 ? desk.next_number : ++desk.next_number;
    *mine = (struct waiter){.number = ask.number, .fd = -1};
    if (send_ask(&ask, MSG_DONTWAIT))
        wait_for(mine, base_mono_ms() + timeout_ms + 100);
    else
        answer.code = BASE_UNAVAILABLE;
    if (mine->answered) {
        answer = mine->answer;
        fd = mine->fd;
    }
    mine->number = 0;
    pthread_mutex_unlock(&desk.lock);
    if (answer.code == BASE_OK && fd >= 0) {
        *ret_fd = fd;
        return BASE_OK;
    }
    if (answer.code == BASE_DENIED)
        return base_fail(err, BASE_DENIED, 0, "%s:%u is not a configured host of this provider (hosts)", host,
                         port);
    if (answer.code == BASE_TIMEOUT)
        return base_fail(err, BASE_TIMEOUT, 0, "%s:%u does not answer", host, port);
    return base_fail(err, BASE_UNAVAILABLE, answer.sys_errno, "%s:%u %s", host, port,
                     answer.sys_errno == ENOENT ? "is a name that is not found" : "cannot be reached");
}
