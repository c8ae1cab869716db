/* The test harness: cases that print TAP (Test Anything Protocol 13), so that C, Python and JavaScript tests are counted
 * alike by tests/run.py. It needs libc alone: the engine's tests run on machines that have nothing else.
 *
 * A case is `static void test_function__situation(void)`; a failed CHECK ends the case (longjmp), says where, and the
 * next case runs. SKIP("why") ends it as skipped, which the runner counts and prints.
 */
#ifndef TESTS_TAP_H
#define TESTS_TAP_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tap_case {
    const char *name;
    void (*run)(void);
};

#define CASE(fn) \
    {            \
#fn, fn  \
    }

static jmp_buf tap_jump;
static const char *tap_skip_reason = "";

__attribute__((unused, noreturn)) static void tap_fail(const char *file, int line, const char *what)
{
    printf("# %s:%d: %s\n", file, line, what);
    longjmp(tap_jump, 1);
}

__attribute__((unused, noreturn)) static void tap_skip(const char *reason)
{
    tap_skip_reason = reason;
    longjmp(tap_jump, 2);
}

#define SKIP(reason) tap_skip(reason)
#define CHECK(cond)                                           \
    do {                                                      \
        if (!(cond))                                          \
            tap_fail(__FILE__, __LINE__, "not true: " #cond); \
    } while (0)
#define CHECK_INT(actual, expected)                                                   \
    do {                                                                              \
        intmax_t a_ = (intmax_t)(actual), e_ = (intmax_t)(expected);                  \
        if (a_ != e_) {                                                               \
            printf("# %s is %" PRIdMAX ", expected %" PRIdMAX "\n", #actual, a_, e_); \
            tap_fail(__FILE__, __LINE__, "numbers differ");                           \
        }                                                                             \
    } while (0)
#define CHECK_STR(actual, expected)                                                                 \
    do {                                                                                            \
        const char *a_ = (actual), *e_ = (expected);                                                \
        if (a_ == NULL || strcmp(a_, e_) != 0) {                                                    \
            printf("# %s is \"%s\"\n# expected \"%s\"\n", #actual, a_ != NULL ? a_ : "(null)", e_); \
            tap_fail(__FILE__, __LINE__, "texts differ");                                           \
        }                                                                                           \
    } while (0)
/* For functions that return enum base_code and fill a struct base_err. */
#define CHECK_RC(call, expected, err)                                                  \
    do {                                                                               \
        enum base_code rc_ = (call);                                                   \
        if (rc_ != (expected)) {                                                       \
            printf("# %s returned %s (%s), expected %s\n", #call, base_code_name(rc_), \
                   rc_ != BASE_OK ? (err)->detail : "", base_code_name(expected));     \
            tap_fail(__FILE__, __LINE__, "result differs");                            \
        }                                                                              \
    } while (0)

/* argv[1], when given, runs only the cases whose name contains it. */
__attribute__((unused)) static int tap_main(const struct tap_case *cases, size_t n, int argc, char **argv)
{
    volatile int failed = 0; /* lives across longjmp */

    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..%zu\n", n);
    for (volatile size_t i = 0; i < n; i++) {
        int how;

        if (argc > 1 && strstr(cases[i].name, argv[1]) == NULL) {
            printf("ok %zu - %s # SKIP not asked for\n", i + 1, cases[i].name);
            continue;
        }
        how = setjmp(tap_jump);
        if (how == 0)
            cases[i].run();
        if (how == 1) {
            failed++;
            printf("not ok %zu - %s\n", i + 1, cases[i].name);
        } else if (how == 2)
            printf("ok %zu - %s # SKIP %s\n", i + 1, cases[i].name, tap_skip_reason);
        else
            printf("ok %zu - %s\n", i + 1, cases[i].name);
    }
    return failed > 0;
}

/* The folder of shared reference data beside the project, or NULL when it is not there: skip then. */
__attribute__((unused)) static const char *tap_shared_dir(void)
{
    static char path[4096];
    const char *root = getenv("GH_SOURCE_ROOT");
    FILE *f;

    snprintf(path, sizeof(path), "%s/../shared/README.md", root != NULL ? root : ".");
    f = fopen(path, "r");
    if (f == NULL)
        return NULL;
    fclose(f);
    path[strlen(path) - strlen("/README.md")] = '\0';
    return path;
}

#endif
