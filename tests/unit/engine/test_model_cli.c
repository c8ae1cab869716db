/* The program gatehouse-model, run as a user would. */
#include "refdata.h"

#include <sys/wait.h>

/* Runs `gatehouse-model ARGS`; output of both streams in `out`. Returns the exit status. */
static int run(const char *args, char *out, size_t out_bytes)
{
    const char *build = getenv("GH_BUILD_ROOT");
    char cmd[8192];
    FILE *f;
    size_t n = 0;

    snprintf(cmd, sizeof(cmd), "'%s/engine/gatehouse-model' %s 2>&1", build != NULL ? build : ".", args);
    f = popen(cmd, "r");
    CHECK(f != NULL);
    n = fread(out, 1, out_bytes - 1, f);
    out[n] = '\0';
    return WEXITSTATUS(pclose(f));
}

static void test_eng_cli_main__usage(void)
{
    static const char *const commands[] = {"info", "chat", "logits", "bench", "fit"};
    char out[8192], args[64];

    CHECK_INT(run("--help", out, sizeof(out)), 0);
    for (size_t i = 0; i < BASE_ARRAY_LEN(commands); i++) {
        CHECK(strstr(out, commands[i]) != NULL);
        snprintf(args, sizeof(args), "%s --help", commands[i]);
        char help[8192];
        CHECK_INT(run(args, help, sizeof(help)), 0);
        CHECK(strncmp(help, "usage: gatehouse-model", 22) == 0);
        if (strcmp(commands[i], "fit") != 0)
            CHECK_INT(run(commands[i], help, sizeof(help)), 2); /* no file */
    }
    CHECK_INT(run("", out, sizeof(out)), 2);
    CHECK_INT(run("fly", out, sizeof(out)), 2);
    CHECK_INT(run("chat x --seed minus", out, sizeof(out)), 2);
    CHECK_INT(run("chat x --frobnicate", out, sizeof(out)), 2);
    CHECK_INT(run("info /nonexistent.gguf", out, sizeof(out)), 1);
    CHECK(strstr(out, "/nonexistent.gguf") != NULL);
    CHECK_INT(run("info /dev/null", out, sizeof(out)), 1);
}

static void test_eng_cli_main__commands(void)
{
    char model[2048], args[4096], out[8192], first[4096];

    snprintf(model, sizeof(model), "%s/trained/stories260K-f16.gguf", ref_dir());
    snprintf(args, sizeof(args), "info '%s'", model);
    CHECK_INT(run(args, out, sizeof(out)), 0);
    CHECK(strstr(out, "family: llama") != NULL && strstr(out, "context: 512") != NULL);
    snprintf(args, sizeof(args), "logits '%s' --ids 1,403,407,261,378", model);
    CHECK_INT(run(args, out, sizeof(out)), 0);
    CHECK(strncmp(out, "432 ", 4) == 0); /* as the reference goes on */
    snprintf(args, sizeof(args), "logits '%s' --ids 1,512", model);
    CHECK_INT(run(args, out, sizeof(out)), 1);
    snprintf(args, sizeof(args), "chat '%s' --prompt 'Tell me of Lily' --greedy --max-tokens 30", model);
    CHECK_INT(run(args, first, sizeof(first)), 0);
    CHECK(strlen(first) > 20);
    /* The batch answers in order, alike for the same prompt, one line each whatever they hold. */
    snprintf(args, sizeof(args),
             "chat '%s' --greedy --max-tokens 30 --batch --sequences 3 <<'EOF'\nTell me of Lily\nA\\nB\nTell "
             "me of Lily\nEOF\n",
             model);
    CHECK_INT(run(args, out, sizeof(out)), 0);
    {
        char *one = out, *two = strchr(one, '\n') + 1, *three = strchr(two, '\n') + 1,
             *end = strchr(three, '\n');

        CHECK(end != NULL && end[1] == '\0');
        CHECK(two - one == end + 1 - three && memcmp(one, three, (size_t)(two - one)) == 0);
    }
    snprintf(args, sizeof(args), "bench '%s' --pp 64 --tg 8 --repeat 1", model);
    CHECK_INT(run(args, out, sizeof(out)), 0);
    CHECK(strstr(out, "pp64") != NULL);
}

static void test_eng_cli_main__fit(void)
{
    char args[4096], out[8192];
    const char *source = getenv("GH_SOURCE_ROOT");

    CHECK_INT(run("fit", out, sizeof(out)), 0);
    CHECK(strstr(out, "cpu ") != NULL && strstr(out, "cuda") != NULL && strstr(out, "used:") != NULL);
    CHECK_INT(run("fit --device gpu", out, sizeof(out)), 1);
    CHECK(strstr(out, "none of auto, cpu, cuda") != NULL);
    CHECK_INT(run("fit --device cuda:16", out, sizeof(out)), 1);
    CHECK_INT(run("fit --device cuda --plugin /nonexistent.so", out, sizeof(out)), 1);
    CHECK(strstr(out, "/nonexistent.so") != NULL);
    CHECK_INT(run("fit --plugin /nonexistent.so", out, sizeof(out)), 0); /* not asked for: the CPU will do */
    CHECK(strstr(out, "cuda    none: /nonexistent.so") != NULL);
    snprintf(args, sizeof(args), "fit --device cpu '%s/engine/demo/gatehouse-demo.gguf'",
             source != NULL ? source : ".");
    CHECK_INT(run(args, out, sizeof(out)), 0);
    CHECK(strstr(out, ": fits (") != NULL);
    snprintf(args, sizeof(args),
             "fit --device cpu --context 1000 --sequences 1048576 '%s/engine/demo/gatehouse-demo.gguf'",
             source != NULL ? source : ".");
    CHECK_INT(run(args, out, sizeof(out)), 1);
    CHECK(strstr(out, "does not fit") != NULL);
}

static const struct tap_case cases[] = {
    CASE(test_eng_cli_main__fit),
    CASE(test_eng_cli_main__usage),
    CASE(test_eng_cli_main__commands),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
