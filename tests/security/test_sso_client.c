/* The gateway's end of the socket to gatehouse-sso: a real process, and ones that misbehave. Arguments: the program, the bad peer. */
#include "gateway/sso_client.h"

#include "base/clock.h"
#include "base/mem.h"

#include "tap.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *program, *bad_peer;
static const char config[] = "{\"op\":\"configure\",\"providers\":[]}";
static const char stats[] = "{\"op\":\"stats\"}";
static char folder[] = "/tmp/gh-sso-client-XXXXXX";

static struct gw_sso *start(const char *path)
{
    return gw_sso_new(
        &(struct gw_sso_options){.program = path, .config_json = config, .config_len = sizeof(config) - 1});
}

/* The bad peer under the name of what it does. */
static struct gw_sso *start_bad(const char *how)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, how);
    if (symlink(bad_peer, path) != 0)
        SKIP("no symbolic links here");
    return start(path);
}

static enum base_code ask(struct gw_sso *sso, unsigned timeout_ms, char out[512])
{
    char *json = NULL;
    size_t len = 0;
    enum base_code rc = gw_sso_call_wait(sso, stats, sizeof(stats) - 1, timeout_ms, &json, &len, NULL);

    out[0] = '\0';
    if (rc == BASE_OK)
        snprintf(out, 512, "%.*s", (int)len, json);
    free(json);
    return rc;
}

static void test_call__is_answered_by_the_real_process(void)
{
    struct gw_sso *sso = start(program);
    struct gw_sso_stats now;
    char reply[512];

    for (int i = 0; i < 50; i++)
        CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    CHECK(strstr(reply, "\"providers\"") != NULL);
    gw_sso_get_stats(sso, &now);
    CHECK(now.up && now.pid > 0);
    CHECK_INT(now.starts_total, 1);
    CHECK_INT(now.calls_total, 50);
    CHECK_INT(now.open_calls, 0);
    gw_sso_free(sso);
}

static void test_call__a_process_that_was_killed_is_started_again(void)
{
    struct gw_sso *sso = start(program);
    struct gw_sso_stats now;
    char reply[512];
    int first;

    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_get_stats(sso, &now);
    first = now.pid;
    CHECK_INT(kill(first, SIGKILL), 0);
    for (int i = 0; i < 400; i++) {
        gw_sso_get_stats(sso, &now);
        if (now.up && now.pid != first)
            break;
        usleep(10000);
    }
    CHECK(now.up && now.pid != first);
    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_free(sso);
}

static void test_reconfigure__new_calls_go_to_a_new_process(void)
{
    static const char other[] = "{\"op\":\"configure\",\"providers\":[ ]}";
    struct gw_sso *sso = start(program);
    struct gw_sso_stats now;
    char reply[512];
    int first;

    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_get_stats(sso, &now);
    first = now.pid;
    gw_sso_reconfigure(sso, config, sizeof(config) - 1); /* the same: nothing happens */
    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_get_stats(sso, &now);
    CHECK_INT(now.pid, first);
    gw_sso_reconfigure(sso, other, sizeof(other) - 1);
    for (int i = 0; i < 400 && now.pid == first; i++) {
        usleep(10000);
        gw_sso_get_stats(sso, &now);
    }
    CHECK(now.pid != first);
    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_free(sso);
}

static void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void test_resolver__a_file_that_was_replaced_takes_a_new_process(void)
{
    static char path[128], other[128];
    const char *const files[] = {path, NULL};
    struct gw_sso *sso;
    struct gw_sso_stats now;
    char reply[512];
    int first;

    snprintf(path, sizeof(path), "%s/resolv.conf", folder);
    snprintf(other, sizeof(other), "%s/resolv.conf.new", folder);
    put_file(path, "nameserver 127.0.0.1\n");
    sso = gw_sso_new(&(struct gw_sso_options){.program = program,
                                              .config_json = config,
                                              .config_len = sizeof(config) - 1,
                                              .resolver_files = files});
    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_get_stats(sso, &now);
    first = now.pid;
    put_file(path, "nameserver 127.0.0.2\n"); /* the same file: the resolver reads it again by itself */
    for (uint64_t until_ms = base_mono_ms() + 1500; base_mono_ms() < until_ms; usleep(50000))
        CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_get_stats(sso, &now);
    CHECK_INT(now.pid, first);
    CHECK_INT(now.starts_total, 1);
    put_file(other, "nameserver 127.0.0.3\n");
    CHECK_INT(rename(other, path), 0);
    for (int i = 0; i < 2000 && now.starts_total == 1; i++) {
        CHECK_INT(ask(sso, 5000, reply), BASE_OK); /* and nobody notices */
        usleep(10000);
        gw_sso_get_stats(sso, &now);
    }
    CHECK_INT(now.starts_total, 2);
    CHECK(now.pid != first);
    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    gw_sso_free(sso);
    unlink(path);
}

static void test_call__a_program_that_is_not_there_is_unavailable_at_its_deadline(void)
{
    struct gw_sso *sso = start("/nowhere/gatehouse-sso");
    uint64_t began_ms = base_mono_ms();
    char reply[512];

    CHECK_INT(ask(sso, 300, reply), BASE_UNAVAILABLE);
    CHECK(base_mono_ms() - began_ms < 5000);
    gw_sso_free(sso);
}

static void test_call__a_silent_peer_costs_the_deadline_and_no_more(void)
{
    struct gw_sso *sso = start_bad("silent");
    uint64_t began_ms = base_mono_ms();
    char reply[512];

    CHECK_INT(ask(sso, 300, reply), BASE_TIMEOUT);
    CHECK(base_mono_ms() - began_ms < 5000);
    gw_sso_free(sso);
}

static void test_call__a_peer_that_breaks_the_framing_is_replaced(void)
{
    static const char *const ways[] = {"garbage", "huge", "dies"};
    char reply[512];

    for (unsigned i = 0; i < BASE_ARRAY_LEN(ways); i++) {
        struct gw_sso *sso = start_bad(ways[i]);
        struct gw_sso_stats now;

        CHECK_INT(ask(sso, 5000, reply), BASE_UNAVAILABLE);
        for (int k = 0; k < 400; k++) {
            gw_sso_get_stats(sso, &now);
            if (now.starts_total > 1)
                break;
            usleep(10000);
        }
        CHECK(now.starts_total > 1);
        gw_sso_free(sso);
    }
}

static void test_call__late_and_foreign_replies_answer_nobody_else(void)
{
    struct gw_sso *sso = start_bad("late");
    char reply[512];

    CHECK_INT(ask(sso, 3000, reply), BASE_OK); /* it is up */
    CHECK_INT(ask(sso, 100, reply), BASE_TIMEOUT);
    CHECK_INT(ask(sso, 3000, reply), BASE_OK); /* not the late one's: each has its own number */
    CHECK(strstr(reply, "late") != NULL);
    gw_sso_free(sso);
    sso = start_bad("wrong_id");
    CHECK_INT(ask(sso, 3000, reply), BASE_OK);
    CHECK(strstr(reply, "right") != NULL);
    gw_sso_free(sso);
    sso = start_bad("twice");
    CHECK_INT(ask(sso, 3000, reply), BASE_OK);
    CHECK(strstr(reply, "\"n\": 1") != NULL);
    CHECK_INT(ask(sso, 3000, reply), BASE_OK);
    gw_sso_free(sso);
}

static void test_call__a_request_that_fits_no_frame_is_refused(void)
{
    struct gw_sso *sso = start(program);
    size_t len = 2u << 20;
    char *big = base_alloc(len), *json = NULL, reply[512];
    size_t n;

    memset(big, ' ', len);
    CHECK_INT(gw_sso_call_wait(sso, big, len, 3000, &json, &n, NULL), BASE_TOO_LARGE);
    CHECK_INT(ask(sso, 5000, reply), BASE_OK);
    free(big);
    gw_sso_free(sso);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_call__is_answered_by_the_real_process),
        CASE(test_call__a_process_that_was_killed_is_started_again),
        CASE(test_reconfigure__new_calls_go_to_a_new_process),
        CASE(test_resolver__a_file_that_was_replaced_takes_a_new_process),
        CASE(test_call__a_program_that_is_not_there_is_unavailable_at_its_deadline),
        CASE(test_call__a_silent_peer_costs_the_deadline_and_no_more),
        CASE(test_call__a_peer_that_breaks_the_framing_is_replaced),
        CASE(test_call__late_and_foreign_replies_answer_nobody_else),
        CASE(test_call__a_request_that_fits_no_frame_is_refused),
    };
    char command[64];
    int rc;

    if (argc < 3 || mkdtemp(folder) == NULL)
        return 2;
    program = argv[1];
    bad_peer = argv[2];
    signal(SIGPIPE, SIG_IGN);
    rc = tap_main(cases, sizeof(cases) / sizeof(cases[0]), 1, argv);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command) == 0 ? rc : 1;
}
