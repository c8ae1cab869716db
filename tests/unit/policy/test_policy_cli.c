/* `policy check` and `policy explain`: exit status, what they print, and how wrong usage is explained. Also
 * the shipped policy. */
#include "policy/policy.h"

#include "tap.h"

#include <sys/wait.h>
#include <unistd.h>

static char output[16384];

/* Runs the command in a child, so that its output can be read; returns its exit status. */
static int run(const char *const *args, const char *default_file)
{
    char *argv[16];
    int argc = 0, fds[2], status;
    size_t len = 0;
    ssize_t n;
    pid_t pid;

    for (; args[argc] != NULL; argc++)
        argv[argc] = (char *)args[argc];
    argv[argc] = NULL;
    fflush(stdout);
    CHECK(pipe(fds) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        status = pol_cli_main(argc, argv, default_file);
        fflush(NULL);
        _exit(status);
    }
    close(fds[1]);
    while (len < sizeof(output) - 1 && (n = read(fds[0], output + len, sizeof(output) - 1 - len)) > 0)
        len += (size_t)n;
    output[len] = '\0';
    close(fds[0]);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define RUN(...) run((const char *const[]){"policy", __VA_ARGS__, NULL}, shipped())

static const char *shipped(void)
{
    static char path[4096];
    const char *root = getenv("GH_SOURCE_ROOT");

    snprintf(path, sizeof(path), "%s/deploy/policy.yaml", root != NULL ? root : ".");
    return path;
}

static void check_says(const char *text)
{
    if (strstr(output, text) == NULL)
        printf("# said: %s\n# not:  %s\n", output, text);
    CHECK(strstr(output, text) != NULL);
}

static void test_check__shipped_policy_is_good(void)
{
    CHECK_INT(RUN("check"), 0);
    check_says("policy.yaml: good\nhash    ");
    CHECK(strstr(output, "warning") == NULL);
    CHECK_INT(RUN("check", shipped()), 0);
}

static void test_check__faults(void)
{
    char path[] = "/tmp/policy-test-XXXXXX";
    int fd = mkstemp(path);
    char want[128];

    CHECK(fd >= 0);
    CHECK(write(fd, "version: 1\nrolls: {}\n", 21) == 21);
    close(fd);
    CHECK_INT(RUN("check", path), 1);
    unlink(path);
    snprintf(want, sizeof(want), "%s:2:1: unknown key \"rolls\"; did you mean \"roles\"?\n", path);
    CHECK_STR(output, want);
    CHECK_INT(RUN("check", "/nonexistent"), 1);
    check_says("/nonexistent: No such file");
    CHECK_INT(RUN("check", "a", "b"), 2);
    CHECK_INT(RUN("check", "--fast"), 2);
    CHECK_INT(run((const char *const[]){"policy", "check", NULL}, NULL), 2);
}

static void test_explain__allowed_and_denied(void)
{
    CHECK_INT(RUN("explain", "--role", "employee", "--model", "assistant", "--class", "confidential"), 0);
    check_says("decision  allow\n");
    check_says("class     confidential, by label\n");
    check_says("route 1   local, model demo (engine, up to secret)\n");
    check_says("because   route mock skipped: ceiling internal < confidential\n");
    check_says(
        "limits    standard: 60 requests a minute (burst 20), 60000 tokens a minute (burst 60000); closed");
    check_says("  input   card=mask iban=force_local");
    CHECK_INT(RUN("explain", "--role=employee", "--role=admin", "--model=assistant", "--class=secret"), 0);
    check_says("limits    standard+generous: 600 requests");
    CHECK_INT(RUN("explain", "--role", "employee", "--model", "assistant", "--class", "secret"), 1);
    check_says("decision  deny (class_too_high)\n");
    CHECK_INT(RUN("explain", "--role", "employee", "--model", "assistant", "--class", "geheim"), 1);
    check_says("decision  deny (class_unknown)\n");
    CHECK_INT(RUN("explain", "--role", "guest", "--model", "assistant"), 1);
    check_says("role      guest (not in the policy)\n");
    CHECK_INT(RUN("explain", "--role", "employee", "--model", "assistant", "--found", "iban"), 0);
    check_says("class     confidential, by detector\n");
    CHECK_INT(RUN("explain", "--role", "employee", "--model", "assistant", "--found", "aws_key", "--class",
                  "public"),
              1);
    check_says("decision  deny (class_too_high)\n"); /* an AWS key is secret, an employee may not send that */
    CHECK_INT(RUN("explain", "--role", "admin", "--model", "assistant", "--found", "aws_key"), 1);
    check_says("because   guard standard blocks aws_key\n");
}

static void test_usage__explains_itself(void)
{
    CHECK_INT(RUN("--help"), 0);
    check_says("usage: policy check [FILE]\n");
    CHECK_INT(RUN("explain", "--help"), 0);
    CHECK_INT(run((const char *const[]){"policy", NULL}, NULL), 2);
    check_says("usage: policy check");
    CHECK_INT(RUN("chek"), 2);
    CHECK_STR(output, "policy: there is no command \"chek\"\nTry: policy --help\n");
    CHECK_INT(RUN("explain", "--model", "m"), 2);
    check_says("explain needs --role");
    CHECK_INT(RUN("explain", "--role", "r"), 2);
    check_says("explain needs --model");
    CHECK_INT(RUN("explain", "--role"), 2);
    check_says("a value is missing after \"--role\"");
    CHECK_INT(RUN("explain", "--rule", "r"), 2);
    check_says("explain has no option \"--rule\"");
    CHECK_INT(RUN("explain", "--role", "r", "--model", "m", "--found", "telephone"), 2);
    check_says("no detector is called \"telephone\"");
    CHECK_INT(RUN("explain", "--role", "r", "--model", "m", "a", "b"), 2);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_check__shipped_policy_is_good),
        CASE(test_check__faults),
        CASE(test_explain__allowed_and_denied),
        CASE(test_usage__explains_itself),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
