/* A private Redis for a test. See redis_private.h. */
#include "redis_private.h"

#include "base/clock.h"
#include "base/mem.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_MS 10000u

struct rdp {
    char dir[64], socket[80], url[96];
    char answer[4096];
    pid_t pid; /* 0: not running */
};

static int dial(const struct rdp *rdp)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = 5};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", rdp->socket);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void run_server(const struct rdp *rdp)
{
    int null = open("/dev/null", O_RDWR);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(null, 0);
    dup2(null, 1);
    unsetenv("LD_PRELOAD");
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", rdp->socket, "--unixsocketperm",
           "600", "--dir", rdp->dir, "--save", "", "--appendonly", "no", "--daemonize", "no",
           "--enable-debug-command", "local", (char *)NULL);
    _exit(127);
}

bool rdp_start(struct rdp *rdp)
{
    uint64_t deadline = base_mono_ms() + START_MS;

    unlink(rdp->socket);
    rdp->pid = fork();
    if (rdp->pid == 0)
        run_server(rdp);
    while (base_mono_ms() < deadline) {
        int fd = dial(rdp), status;

        if (fd >= 0) {
            close(fd);
            return true;
        }
        if (waitpid(rdp->pid, &status, WNOHANG) == rdp->pid)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    fprintf(stderr, "redis-server did not start\n");
    return false;
}

struct rdp *rdp_new(void)
{
    struct rdp *rdp = base_zalloc(sizeof(*rdp));

    snprintf(rdp->dir, sizeof(rdp->dir), "/tmp/gh-redis-XXXXXX");
    if (mkdtemp(rdp->dir) == NULL)
        abort();
    snprintf(rdp->socket, sizeof(rdp->socket), "%s/s", rdp->dir);
    snprintf(rdp->url, sizeof(rdp->url), "unix://%s", rdp->socket);
    if (rdp_start(rdp))
        return rdp;
    rdp_free(rdp);
    return NULL;
}

void rdp_kill(struct rdp *rdp)
{
    if (rdp->pid <= 0)
        return;
    kill(rdp->pid, SIGKILL);
    waitpid(rdp->pid, NULL, 0);
    rdp->pid = 0;
}

void rdp_free(struct rdp *rdp)
{
    if (rdp == NULL)
        return;
    rdp_kill(rdp);
    unlink(rdp->socket);
    rmdir(rdp->dir);
    free(rdp);
}

void rdp_freeze(struct rdp *rdp)
{
    int status;

    kill(rdp->pid, SIGSTOP);
    waitpid(rdp->pid, &status, WUNTRACED);
}

void rdp_thaw(struct rdp *rdp)
{
    kill(rdp->pid, SIGCONT);
}

const char *rdp_url(struct rdp *rdp)
{
    return rdp->url;
}

const char *rdp_command(struct rdp *rdp, const char *const *argv, int argc)
{
    char text[8192];
    int fd = dial(rdp), len;
    ssize_t n = -1;

    if (fd < 0)
        return NULL;
    len = snprintf(text, sizeof(text), "*%d\r\n", argc);
    for (int i = 0; i < argc; i++)
        len += snprintf(text + len, sizeof(text) - (size_t)len, "$%zu\r\n%s\r\n", strlen(argv[i]), argv[i]);
    if (write(fd, text, (size_t)len) == len)
        n = read(fd, rdp->answer, sizeof(rdp->answer) - 1);
    close(fd);
    if (n <= 0)
        return NULL;
    rdp->answer[n] = '\0';
    return rdp->answer;
}
