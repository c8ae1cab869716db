/* The sandbox of gatehouse-sso from inside: what it must not do, and what it must still do. Each case runs in a child of its own. */
#include "gateway/sso/sandbox.h"

#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs fn after the sandbox was entered; its answer: 0 what was tried did not work, 1 it did. 2: the sandbox could not be entered. */
static int inside(int (*fn)(void))
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        bool landlock;

        _exit(sso_sandbox_enter(&landlock, NULL) == BASE_OK ? fn() : 2);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

static int open_passwd(void)
{
    return open("/etc/passwd", O_RDONLY) >= 0;
}
static int make_file(void)
{
    return open("/tmp/gh-sandbox-test", O_CREAT | O_WRONLY, 0600) >= 0;
}
static int run_program(void)
{
    execl("/bin/true", "true", (char *)NULL);
    return errno != EPERM && errno != EACCES;
}
static int make_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) >= 0 || socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ||
           socket(AF_NETLINK, SOCK_RAW, 0) >= 0;
}
static int listen_on_given(void)
{
    return listen(0, 1) == 0 ||
           bind(0, &(struct sockaddr){.sa_family = AF_INET}, sizeof(struct sockaddr)) == 0;
}
static void *nothing(void *p)
{
    return p;
}
static int thread_and_memory(void)
{
    pthread_t thread;
    void *result = NULL;
    char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return page != MAP_FAILED && pthread_create(&thread, NULL, nothing, page) == 0 &&
           pthread_join(thread, &result) == 0 && result == page && write(2, "", 0) == 0;
}

static void test_enter__takes_files_programs_and_sockets_away(void)
{
    CHECK_INT(inside(make_file), 0);
    CHECK_INT(inside(open_passwd), 0);
    CHECK_INT(inside(run_program), 0);
    CHECK_INT(inside(make_socket), 0);
    CHECK_INT(inside(listen_on_given), 0);
}

static void test_enter__without_it_the_same_works(void)
{
    CHECK(open_passwd() == 1);
    CHECK(make_socket() == 1);
}

static void test_enter__leaves_threads_and_memory(void)
{
    CHECK_INT(inside(thread_and_memory), 1);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_enter__takes_files_programs_and_sockets_away),
        CASE(test_enter__without_it_the_same_works),
        CASE(test_enter__leaves_threads_and_memory),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
