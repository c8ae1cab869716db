/* A private Postgres for a test. See pg_private.h. */
#include "pg_private.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/pg.h"

#include <ftw.h>
#include <glob.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <grp.h>
#include <unistd.h>

#define START_MS 60000u

struct pgp {
    char dir[64];  /* holds data/ and the socket */
    char bin[256]; /* folder of postgres and initdb */
    uid_t uid;
    gid_t gid;
    pid_t pid; /* 0: not running */
};

/* Where the server's programs are: Debian keeps them out of PATH. */
static bool find_bin(char out[256])
{
    static const char *const patterns[] = {"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
                                           "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(patterns); i++) {
        glob_t found;
        bool ok = false;

        if (glob(patterns[i], 0, NULL, &found) != 0)
            continue;
        for (size_t k = found.gl_pathc; k > 0 && !ok; k--) { /* the newest version last in order */
            char path[300];

            snprintf(path, sizeof(path), "%s/initdb", found.gl_pathv[k - 1]);
            ok = access(path, X_OK) == 0;
            if (ok)
                snprintf(out, 256, "%s", found.gl_pathv[k - 1]);
        }
        globfree(&found);
        if (ok)
            return true;
    }
    return false;
}

/* Forks; the child becomes the server's user, sends its output to log, and runs argv. */
static pid_t spawn(const struct pgp *pgp, char *const argv[])
{
    pid_t pid = fork();

    if (pid == 0) {
        char log[128];
        int fd;

        if (getuid() == 0 && (setgroups(0, NULL) != 0 || setgid(pgp->gid) != 0 || setuid(pgp->uid) != 0))
            _exit(126);
        prctl(PR_SET_PDEATHSIG, SIGQUIT); /* after setuid, which clears it */
        snprintf(log, sizeof(log), "%s/log", pgp->dir);
        fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (fd >= 0) {
            dup2(fd, 1);
            dup2(fd, 2);
        }
        unsetenv("LD_PRELOAD");
        if (chdir("/") != 0)
            _exit(126);
        setpgid(0, 0);
        execv(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static bool run_initdb(const struct pgp *pgp)
{
    char program[300], data[128];
    char *argv[] = {program,    "-D", data,   "-A",         "trust", "-U",
                    "postgres", "-E", "UTF8", "--locale=C", "-N",    NULL};
    int status = -1;
    pid_t pid;

    snprintf(program, sizeof(program), "%s/initdb", pgp->bin);
    snprintf(data, sizeof(data), "%s/data", pgp->dir);
    pid = spawn(pgp, argv);
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct pgp *pgp_new(void)
{
    struct pgp *pgp = base_zalloc(sizeof(*pgp));
    const struct passwd *pw = getpwnam("postgres");

    snprintf(pgp->dir, sizeof(pgp->dir), "/tmp/gh-pg-XXXXXX");
    pgp->uid = getuid() == 0 && pw != NULL ? pw->pw_uid : getuid();
    pgp->gid = getuid() == 0 && pw != NULL ? pw->pw_gid : getgid();
    if (!find_bin(pgp->bin) || mkdtemp(pgp->dir) == NULL || chown(pgp->dir, pgp->uid, pgp->gid) != 0) {
        fprintf(stderr, "pg_private: no Postgres programs, or no temporary folder\n");
        free(pgp);
        return NULL;
    }
    if (!run_initdb(pgp) || !pgp_start(pgp)) {
        fprintf(stderr, "pg_private: the server does not start, see %s/log\n", pgp->dir);
        free(pgp);
        return NULL;
    }
    return pgp;
}

bool pgp_start(struct pgp *pgp)
{
    char program[300], data[128];
    char *argv[] = {program,
                    "-D",
                    data,
                    "-k",
                    pgp->dir,
                    "-h",
                    "",
                    "-c",
                    "shared_buffers=32MB",
                    "-c",
                    "max_connections=40",
                    NULL};
    uint64_t deadline = base_mono_ms() + START_MS;

    snprintf(program, sizeof(program), "%s/postgres", pgp->bin);
    snprintf(data, sizeof(data), "%s/data", pgp->dir);
    pgp->pid = spawn(pgp, argv);
    while (pgp->pid > 0 && base_mono_ms() < deadline) {
        auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(pgp, "postgres"), 5000);

        if (base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, NULL) == BASE_OK)
            return true;
        if (waitpid(pgp->pid, NULL, WNOHANG) == pgp->pid)
            break;
        usleep(20000);
    }
    pgp->pid = 0;
    return false;
}

void pgp_stop(struct pgp *pgp, bool immediate)
{
    if (pgp->pid <= 0)
        return;
    kill(pgp->pid, immediate ? SIGQUIT : SIGINT);
    waitpid(pgp->pid, NULL, 0);
    pgp->pid = 0;
}

void pgp_kill9(struct pgp *pgp)
{
    char path[128];

    if (pgp->pid <= 0)
        return;
    /* the postmaster first, so that it starts no new process; its backends notice its death and end by
     * themselves */
    kill(pgp->pid, SIGKILL);
    waitpid(pgp->pid, NULL, 0);
    pgp->pid = 0;
    snprintf(path, sizeof(path), "%s/data/postmaster.pid", pgp->dir);
    unlink(path);
    usleep(200000);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(path);
}

void pgp_free(struct pgp *pgp)
{
    if (pgp == NULL)
        return;
    pgp_stop(pgp, true);
    nftw(pgp->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(pgp);
}

const char *pgp_dsn(struct pgp *pgp, const char *user)
{
    static char ring[8][256];
    static unsigned at;
    char *out = ring[at++ % BASE_ARRAY_LEN(ring)];

    snprintf(out, sizeof(ring[0]), "host=%s user=%s dbname=postgres", pgp->dir, user);
    return out;
}

void pgp_sql(struct pgp *pgp, const char *sql)
{
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(pgp, "postgres"), 30000);
    struct base_err err;

    if (base_pg_script(pg, sql, &err) != BASE_OK) {
        fprintf(stderr, "pg_private: %s\n", err.detail);
        pgp_free(pgp);
        exit(99);
    }
}

void pgp_sql_file(struct pgp *pgp, const char *path)
{
    auto_free char *text = base_zalloc(1u << 20);
    FILE *f = fopen(path, "rb");
    size_t n = f != NULL ? fread(text, 1, (1u << 20) - 1, f) : 0;

    if (f != NULL)
        fclose(f);
    if (n == 0) {
        fprintf(stderr, "pg_private: %s cannot be read\n", path);
        pgp_free(pgp);
        exit(99);
    }
    pgp_sql(pgp, text);
}
