/* The journal on disk: every damage, torn tails, kill -9, a full disk, and an fdatasync that fails.
 *
 * fdatasync is wrapped at link time (-Wl,--wrap=fdatasync), so that it can be made to fail where no disk
 * would. */
#include "audit/audit.h"
#include "audit/journal.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAP (8u << 20)

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

static atomic_int sync_failures; /* how many of the next calls fail */

int __wrap_fdatasync(int fd)
{
    if (atomic_load(&sync_failures) > 0) {
        atomic_fetch_sub(&sync_failures, 1);
        errno = EIO;
        return -1;
    }
    return __real_fdatasync(fd);
}

/* On a real disk. */
static char *make_disk_dir(void)
{
    char template[] = "/tmp/gh-jrn-XXXXXX";

    if (mkdtemp(template) == NULL)
        abort();
    return base_strdup(template);
}

/* In memory where that can be had: these tests sync thousands of times and look at bytes, not at power cuts.
 */
static char *make_dir(void)
{
    char template[] = "/dev/shm/gh-jrn-XXXXXX";

    return mkdtemp(template) != NULL ? base_strdup(template) : make_disk_dir();
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(path);
}

static void remove_dir(char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

static struct aud_str str(const char *s)
{
    return (struct aud_str){s, (uint32_t)strlen(s)};
}

static enum base_code add(struct aud_journal *j, const char *action, struct base_err *err)
{
    struct aud_fields f = {.kind = AUD_EVENT, .wall_us = 1000000};

    f.texts[AUD_T_ACTION] = str(action);
    return aud_journal_add(j, &f, NULL, 0, NULL, err);
}

/* One commit of n records. */
static enum base_code commit(struct aud_journal *j, unsigned n, struct base_err *err)
{
    enum base_code rc = aud_journal_begin(j, err);

    for (unsigned i = 0; rc == BASE_OK && i < n; i++)
        rc = add(j, "test", err);
    return rc == BASE_OK ? aud_journal_commit(j, err) : rc;
}

static struct aud_journal *open_fresh(const char *dir)
{
    struct aud_journal *j = NULL;
    struct base_err err;

    CHECK_RC(aud_journal_open(&j, dir, "gate-1", CAP, &err), BASE_OK, &err);
    if (aud_journal_is_new(j))
        CHECK_RC(aud_journal_start(j, 0, &AUD_CHAIN_START, &err), BASE_OK, &err);
    return j;
}

/* Reads everything through a cursor and checks the chain; returns the number of records. */
static uint64_t read_all(struct aud_journal *j)
{
    struct aud_cursor *c = aud_cursor_new(j, NULL);
    struct aud_hash prev;
    struct aud_frame frame;
    struct aud_fields fields;
    uint64_t seq = aud_journal_first_seq(j), n = 0;
    struct base_err err;
    enum base_code rc;

    CHECK_RC(aud_cursor_seek(c, seq, &prev, &err), BASE_OK, &err);
    while ((rc = aud_cursor_next(c, &frame, &err)) == BASE_OK) {
        CHECK_RC(aud_frame_check(&frame, "gate-1", seq + n, &prev, &fields, &err), BASE_OK, &err);
        prev = frame.hash;
        n++;
    }
    CHECK_INT(rc, BASE_NOT_FOUND);
    aud_cursor_free(c);
    return n;
}

static void test_journal__commits_are_there_after_reopening(void)
{
    char *dir = make_disk_dir();
    struct aud_journal *j = open_fresh(dir);
    struct base_err err;
    struct stat st;

    CHECK_RC(commit(j, 3, &err), BASE_OK, &err);
    CHECK_RC(commit(j, 1, &err), BASE_OK, &err);
    CHECK_INT(aud_journal_next_seq(j), 4);
    CHECK_INT(read_all(j), 4);
    aud_journal_free(j);
    CHECK(stat(dir, &st) == 0 && (st.st_mode & 0777) == 0700);
    j = open_fresh(dir);
    CHECK_INT(aud_journal_next_seq(j), 4);
    CHECK_RC(commit(j, 2, &err), BASE_OK, &err);
    CHECK_INT(read_all(j), 6);
    aud_journal_free(j);
    remove_dir(dir);
}

static void test_journal_open__one_process_at_a_time(void)
{
    char *dir = make_dir();
    struct aud_journal *j = open_fresh(dir), *second = NULL;
    struct base_err err;

    CHECK_RC(aud_journal_open(&second, dir, "gate-1", CAP, &err), BASE_EXISTS, &err);
    aud_journal_free(j);
    CHECK_RC(aud_journal_open(&second, dir, "gate-1", CAP, &err), BASE_OK, &err);
    aud_journal_free(second);
    CHECK_RC(aud_journal_open(&second, dir, "gate-2", CAP, &err), BASE_CORRUPT, &err); /* another's journal */
    CHECK_RC(aud_journal_open(&second, dir, "Gate/..", CAP, &err), BASE_INVALID, &err);
    remove_dir(dir);
}

/* --- damage --- */

struct file {
    unsigned char bytes[8192];
    size_t n;
};

#define PATH_BYTES 400

static void path_of(const char *dir, const char *name, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/%s", dir, name);
}

static void load(const char *dir, const char *name, struct file *file)
{
    char path[PATH_BYTES];
    FILE *f;

    path_of(dir, name, path);
    f = fopen(path, "rb");
    if (f == NULL)
        abort();
    file->n = fread(file->bytes, 1, sizeof(file->bytes), f);
    fclose(f);
}

static void store(const char *dir, const char *name, const struct file *file, size_t n)
{
    char path[PATH_BYTES];
    FILE *f;

    path_of(dir, name, path);
    f = fopen(path, "wb");
    if (f == NULL || fwrite(file->bytes, 1, n, f) != n)
        abort();
    fclose(f);
}

#define SEG0 "00000000000000000000.seg"

/* A small journal of three commits; where each ends. */
static char *small_journal(struct file *seg, struct file *head, size_t ends[4])
{
    char *dir = make_dir();
    struct aud_journal *j = open_fresh(dir);
    struct base_err err;

    ends[0] = (size_t)aud_journal_bytes(j);
    for (int i = 1; i <= 3; i++) {
        CHECK_RC(commit(j, i == 2 ? 2 : 1, &err), BASE_OK, &err);
        ends[i] = (size_t)aud_journal_bytes(j);
    }
    aud_journal_free(j);
    load(dir, SEG0, seg);
    load(dir, "head", head);
    return dir;
}

/* With the head file (the machine did not lose power): every flipped bit is found. Without it (it may lag
 * after a power cut): only the last commit may be taken for a torn one, and what is before it never. */
static void flip_everything(bool with_head)
{
    struct file seg, head;
    size_t ends[4];
    char *dir = small_journal(&seg, &head, ends), path[PATH_BYTES];
    unsigned n_detected = 0, n_cut = 0;

    path_of(dir, "head", path);
    for (size_t i = 0; i < seg.n; i++) {
        struct aud_journal *j = NULL;
        struct base_err err;
        enum base_code rc;

        seg.bytes[i] ^= (unsigned char)(1u << (i % 8));
        store(dir, SEG0, &seg, seg.n);
        if (with_head)
            store(dir, "head", &head, head.n);
        else
            unlink(path);
        rc = aud_journal_open(&j, dir, "gate-1", CAP, &err);
        if (rc == BASE_OK) {
            CHECK(!with_head && i >= ends[2]);
            CHECK_INT(aud_journal_next_seq(j), 3);
            CHECK_INT(read_all(j), 3);
            aud_journal_free(j);
            n_cut++;
        } else {
            CHECK_RC(rc, BASE_CORRUPT, &err);
            CHECK(strstr(err.detail, SEG0) != NULL && strstr(err.detail, "offset") != NULL);
            n_detected++;
        }
        seg.bytes[i] ^= (unsigned char)(1u << (i % 8));
    }
    printf("# %zu bytes flipped: %u found, %u in the last commit cut as torn\n", seg.n, n_detected, n_cut);
    store(dir, SEG0, &seg, seg.n); /* untouched, it opens */
    store(dir, "head", &head, head.n);
    aud_journal_free(open_fresh(dir));
    remove_dir(dir);
}

static void test_journal_open__every_flipped_byte_is_found(void)
{
    flip_everything(true);
}

static void test_journal_open__without_the_head_file_only_the_last_commit_can_be_cut(void)
{
    flip_everything(false);
}

static void test_journal_open__a_flipped_head_file_is_harmless(void)
{
    struct file seg, head;
    size_t ends[4];
    char *dir = small_journal(&seg, &head, ends);

    for (size_t i = 0; i < head.n; i++) {
        struct aud_journal *j;

        head.bytes[i] ^= 0x40;
        store(dir, "head", &head, head.n);
        j = open_fresh(dir);
        CHECK_INT(aud_journal_next_seq(j), 4);
        aud_journal_free(j);
        head.bytes[i] ^= 0x40;
    }
    remove_dir(dir);
}

/* A crash in the middle of a commit: the file ends anywhere inside it. head says what was acknowledged
 * before. */
static void test_journal_open__a_torn_tail_is_cut_at_every_length(void)
{
    struct file seg, head, old_head;
    size_t ends[4];
    char *dir = small_journal(&seg, &head, ends);
    struct aud_journal *j;
    struct base_err err;

    j = open_fresh(dir); /* a fourth commit of three records, of which the crash leaves a part */
    load(dir, "head", &old_head);
    CHECK_RC(commit(j, 3, &err), BASE_OK, &err);
    aud_journal_free(j);
    load(dir, SEG0, &seg);
    for (size_t n = ends[3]; n < seg.n; n++) {
        uint64_t next;

        store(dir, SEG0, &seg, n);
        store(dir, "head", &old_head, old_head.n);
        j = open_fresh(dir);
        next = aud_journal_next_seq(j);
        CHECK(next >= 4 && next < 7);
        CHECK_INT(read_all(j), next);
        CHECK_RC(commit(j, 1, &err), BASE_OK, &err); /* and goes on */
        CHECK_INT(read_all(j), next + 1);
        aud_journal_free(j);
    }
    /* a file shorter than what was acknowledged is no torn tail */
    for (size_t n = 0; n < ends[3]; n++) {
        j = NULL;
        store(dir, SEG0, &seg, n);
        store(dir, "head", &old_head, old_head.n);
        CHECK_RC(aud_journal_open(&j, dir, "gate-1", CAP, &err), BASE_CORRUPT, &err);
    }
    remove_dir(dir);
}

/* Pages of a torn commit can reach the disk in any order: holes of zeros before good frames of the same
 * commit. */
static void test_journal_open__a_torn_commit_with_a_hole_is_cut(void)
{
    struct file seg, head, old_head;
    size_t ends[4], end_of_first;
    char *dir = small_journal(&seg, &head, ends), path[PATH_BYTES];
    struct aud_journal *j;
    struct base_err err;

    j = open_fresh(dir);
    load(dir, "head", &old_head);
    CHECK_RC(commit(j, 3, &err), BASE_OK, &err);
    aud_journal_free(j);
    load(dir, SEG0, &seg);
    end_of_first = ends[3] + (seg.n - ends[3]) / 3;
    memset(seg.bytes + ends[3], 0, end_of_first - ends[3]);
    store(dir, SEG0, &seg, seg.n);
    store(dir, "head", &old_head, old_head.n);
    j = open_fresh(dir);
    CHECK_INT(aud_journal_next_seq(j), 4);
    aud_journal_free(j);
    /* the same hole one commit earlier is damage, whether or not the head file is there */
    memset(seg.bytes + ends[2], 0, ends[3] - ends[2]);
    store(dir, SEG0, &seg, seg.n);
    path_of(dir, "head", path);
    unlink(path);
    j = NULL;
    CHECK_RC(aud_journal_open(&j, dir, "gate-1", CAP, &err), BASE_CORRUPT, &err);
    remove_dir(dir);
}

/* --- many segments --- */

static void fill_segments(struct aud_journal *j, unsigned n_commits)
{
    char text[AUD_TEXT_MAX];
    struct base_err err;

    memset(text, 'x', sizeof(text));
    for (unsigned i = 0; i < n_commits; i++) {
        CHECK_RC(aud_journal_begin(j, &err), BASE_OK, &err);
        for (unsigned k = 0; k < 100; k++) {
            struct aud_fields f = {.kind = AUD_EVENT, .wall_us = 5};

            for (unsigned t = AUD_T_AUTH_METHOD; t < AUD_N_TEXTS; t++)
                f.texts[t] = (struct aud_str){text, sizeof(text)};
            CHECK_RC(aud_journal_add(j, &f, NULL, 0, NULL, &err), BASE_OK, &err);
        }
        CHECK_RC(aud_journal_commit(j, &err), BASE_OK, &err);
    }
}

static void test_journal__segments_follow_each_other_and_are_dropped_when_shipped(void)
{
    char *dir = make_dir();
    struct aud_journal *j = open_fresh(dir);
    uint64_t full, next;

    fill_segments(j, 10); /* 5.8 MB in segments of 1 MiB */
    full = aud_journal_bytes(j);
    next = aud_journal_next_seq(j);
    CHECK_INT(read_all(j), 1000);
    aud_journal_free(j);
    j = open_fresh(dir);
    CHECK_INT(read_all(j), 1000);
    CHECK_INT(aud_journal_bytes(j), full);
    aud_journal_drop_below(j, 500);
    CHECK(aud_journal_first_seq(j) > 0 && aud_journal_first_seq(j) <= 500 && aud_journal_bytes(j) < full);
    aud_journal_drop_below(j, next);
    CHECK(aud_journal_bytes(j) < full / 4);
    CHECK_INT(aud_journal_next_seq(j), next);
    aud_journal_tidy(j, next, 0); /* all shipped: the last segment gives way to an empty one, and goes */
    aud_journal_drop_below(j, next);
    CHECK_INT(aud_journal_first_seq(j), next);
    CHECK_INT(aud_journal_bytes(j), AUD_SEGMENT_HEADER_BYTES);
    aud_journal_free(j);
    j = open_fresh(dir);
    CHECK_INT(aud_journal_next_seq(j), next);
    aud_journal_free(j);
    remove_dir(dir);
}

static void test_journal_open__a_missing_segment_is_found(void)
{
    char *dir = make_dir(), path[PATH_BYTES], name[64];
    struct aud_journal *j = open_fresh(dir);
    struct base_err err;

    fill_segments(j, 10);
    snprintf(name, sizeof(name), "%020llu.seg", (unsigned long long)aud_journal_first_seq(j));
    aud_journal_drop_below(j, 300);
    snprintf(name, sizeof(name), "%020llu.seg", (unsigned long long)aud_journal_first_seq(j) + 200);
    aud_journal_free(j);
    path_of(dir, name, path);
    CHECK(unlink(path) == 0); /* one in the middle */
    j = NULL;
    CHECK_RC(aud_journal_open(&j, dir, "gate-1", CAP, &err), BASE_CORRUPT, &err);
    remove_dir(dir);
    dir = make_dir();
    j = open_fresh(dir);
    CHECK_RC(commit(j, 1, &err), BASE_OK, &err);
    aud_journal_free(j);
    path_of(dir, SEG0, path);
    CHECK(unlink(path) == 0); /* the only one: not a new journal */
    j = NULL;
    CHECK_RC(aud_journal_open(&j, dir, "gate-1", CAP, &err), BASE_CORRUPT, &err);
    CHECK(strstr(err.detail, "missing") != NULL);
    remove_dir(dir);
}

/* --- fdatasync fails --- */

static void test_journal_commit__a_failed_sync_is_never_acknowledged(void)
{
    char *dir = make_dir();
    struct aud_journal *j = open_fresh(dir);
    struct base_err err;

    CHECK_RC(commit(j, 2, &err), BASE_OK, &err);
    atomic_store(&sync_failures, 1);
    CHECK_RC(commit(j, 3, &err), BASE_IO, &err);
    CHECK_INT(aud_journal_next_seq(j), 2);       /* the three are not in the chain */
    CHECK_RC(commit(j, 1, &err), BASE_OK, &err); /* in a new file */
    CHECK_INT(aud_journal_next_seq(j), 3);
    CHECK_INT(read_all(j), 3);
    atomic_store(&sync_failures, 2); /* the commit, then the header of the new file */
    CHECK_RC(commit(j, 1, &err), BASE_IO, &err);
    CHECK_RC(commit(j, 1, &err), BASE_IO, &err);
    CHECK_RC(commit(j, 1, &err), BASE_OK, &err);
    CHECK_INT(read_all(j), 4);
    aud_journal_free(j);
    j = open_fresh(dir);
    CHECK_INT(read_all(j), 4);
    aud_journal_free(j);
    remove_dir(dir);
}

/* What a failed sync left in the old file (here: put back by hand) is surplus, not damage and not a record.
 */
static void test_journal_open__surplus_of_a_failed_commit_does_not_count(void)
{
    char *dir = make_dir();
    struct aud_journal *j = open_fresh(dir);
    struct file before, after;
    struct base_err err;

    CHECK_RC(commit(j, 2, &err), BASE_OK, &err);
    load(dir, SEG0, &before);
    atomic_store(&sync_failures, 1);
    CHECK_RC(commit(j, 1, &err), BASE_IO, &err);
    CHECK_RC(commit(j, 1, &err), BASE_OK, &err);
    aud_journal_free(j);
    load(dir, SEG0, &after);
    CHECK_INT(after.n, before.n); /* the failed bytes were cut */
    memcpy(after.bytes + after.n, before.bytes + AUD_SEGMENT_HEADER_BYTES, 200);
    store(dir, SEG0, &after, after.n + 200);
    j = open_fresh(dir);
    CHECK_INT(read_all(j), 3);
    aud_journal_free(j);
    remove_dir(dir);
}

/* --- the public face, without Postgres --- */

static struct aud_options options_for(const char *dir)
{
    static struct base_secret *kek, *pseudonym_key;

    if (kek == NULL) {
        kek = base_secret_new("0123456789abcdef0123456789abcdef", 32);
        pseudonym_key = base_secret_new("fedcba9876543210fedcba9876543210", 32);
    }
    return (struct aud_options){.journal_dir = dir,
                                .instance = "gate-1",
                                .kek = kek,
                                .pseudonym_key = pseudonym_key,
                                .epoch = 1,
                                .journal_max_bytes = CAP};
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned n_done, n_ok;
    enum base_code last;
    uint64_t last_seq;
};
#define WAITER ((struct waiter){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, BASE_OK, 0})

static void on_durable(enum base_code rc, uint64_t seq, void *user)
{
    struct waiter *w = user;

    pthread_mutex_lock(&w->lock);
    w->n_done++;
    w->n_ok += rc == BASE_OK;
    w->last = rc;
    w->last_seq = seq;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void wait_for(struct waiter *w, unsigned n)
{
    pthread_mutex_lock(&w->lock);
    while (w->n_done < n)
        pthread_cond_wait(&w->cond, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static enum base_code append_wait(struct aud *aud, enum aud_kind kind, const void *content, size_t n,
                                  struct base_err *err)
{
    struct waiter w = WAITER;
    struct aud_record r = {
        .kind = kind, .request_id = "r", .issuer = "i", .subject = "s", .content = content, .content_len = n};
    enum base_code rc = aud_append(aud, &r, on_durable, &w, err);

    if (rc != BASE_OK)
        return rc;
    wait_for(&w, 1);
    return w.last == BASE_OK ? BASE_OK : base_fail(err, w.last, 0, "by callback");
}

static void test_aud_append__refuses_what_breaks_a_limit(void)
{
    char *dir = make_dir(), *big = base_zalloc(AUD_CONTENT_MAX + 1), text[AUD_TEXT_MAX + 2];
    struct aud_options options = options_for(dir);
    struct aud *aud = NULL;
    struct aud_record r = {.kind = AUD_EVENT};
    struct base_err err;

    options.journal_max_bytes = 256u << 20;
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    memset(text, 'x', sizeof(text));
    text[AUD_TEXT_MAX + 1] = '\0';
    r.tenant = text;
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_TOO_LARGE, &err);
    r.tenant = text + 1; /* exactly the limit */
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_OK, &err);
    r.tenant = "\xc3";
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_INVALID, &err);
    r.tenant = NULL;
    r.subject = "\xff";
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_INVALID, &err);
    r.subject = NULL;
    r.prompt_tokens = UINT64_MAX;
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_TOO_LARGE, &err);
    r.prompt_tokens = 0;
    r.kind = AUD_KIND_NONE;
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_INVALID, &err);
    r.kind = (enum aud_kind)4; /* the folder's own */
    CHECK_RC(aud_append(aud, &r, NULL, NULL, &err), BASE_INVALID, &err);
    CHECK_RC(append_wait(aud, AUD_INTENT, big, AUD_CONTENT_MAX + 1, &err), BASE_TOO_LARGE, &err);
    CHECK_RC(append_wait(aud, AUD_INTENT, big, AUD_CONTENT_MAX, &err), BASE_OK, &err);
    aud_close(aud, 0);
    free(big);
    remove_dir(dir);
}

static void test_aud_append__at_the_cap_intents_stop_and_outcomes_still_fit(void)
{
    char *dir = make_dir(), content[8192] = "x";
    struct aud_options options = options_for(dir);
    struct aud *aud = NULL;
    struct aud_stats stats;
    unsigned n = 0;
    struct base_err err;
    enum base_code rc;

    options.journal_max_bytes = 2u << 20;
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    while ((rc = append_wait(aud, AUD_INTENT, content, sizeof(content), &err)) == BASE_OK)
        n++;
    CHECK_RC(rc, BASE_FULL, &err);
    CHECK(n > 200);
    while ((rc = append_wait(aud, AUD_INTENT, "x", 1, &err)) == BASE_OK)
        ;
    CHECK_RC(rc, BASE_FULL, &err);
    aud_get_stats(aud, &stats);
    CHECK(!stats.writable && stats.journal_bytes <= stats.journal_limit_bytes);
    CHECK_RC(append_wait(aud, AUD_EVENT, content, sizeof(content), &err), BASE_FULL, &err);
    for (unsigned i = 0; i < 10; i++)
        CHECK_RC(append_wait(aud, AUD_OUTCOME, content, sizeof(content), &err), BASE_OK, &err);
    while ((rc = append_wait(aud, AUD_OUTCOME, content, sizeof(content), &err)) == BASE_OK)
        ;
    CHECK_RC(rc, BASE_FULL, &err);
    aud_get_stats(aud, &stats);
    CHECK(stats.journal_bytes <= stats.journal_limit_bytes);
    aud_close(aud, 0);
    remove_dir(dir);
}

static void test_aud_append__a_failed_sync_reaches_the_callbacks(void)
{
    char *dir = make_dir();
    struct aud_options options = options_for(dir);
    struct aud *aud = NULL;
    struct aud_stats stats;
    struct base_err err;

    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    atomic_store(&sync_failures, 1);
    CHECK_RC(append_wait(aud, AUD_INTENT, "prompt", 6, &err), BASE_IO, &err);
    aud_get_stats(aud, &stats);
    CHECK_INT(stats.next_seq, 0);
    for (unsigned i = 0; i < 300 && !stats.writable; i++) { /* looks by itself whether the disk is back */
        usleep(10000);
        aud_get_stats(aud, &stats);
    }
    CHECK(stats.writable);
    CHECK_RC(append_wait(aud, AUD_INTENT, "prompt", 6, &err), BASE_OK, &err);
    aud_get_stats(aud, &stats);
    CHECK_INT(stats.next_seq, 3); /* mapping and key were written anew */
    aud_close(aud, 0);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    aud_close(aud, 0);
    remove_dir(dir);
}

/* --- a full disk --- */

static void fill_disk(const char *dir, const char *name)
{
    char path[PATH_BYTES], block[4096] = {0};
    int fd;

    path_of(dir, name, path);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    while (write(fd, block, sizeof(block)) > 0)
        ;
    close(fd);
}

static void test_aud_append__a_full_disk_refuses_and_recovers(void)
{
    char *dir = make_dir(), journal[PATH_BYTES], path[PATH_BYTES], content[20000] = "x";
    struct aud_options options;
    struct aud *aud = NULL;
    struct aud_stats stats;
    struct base_err err;
    uint64_t next;

    if (mount("none", dir, "tmpfs", 0, "size=1m") != 0) {
        printf("# no right to mount: %s\n", strerror(errno));
        remove_dir(dir);
        SKIP("mounting a small tmpfs needs root");
    }
    path_of(dir, "journal", journal);
    options = options_for(journal);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK_RC(append_wait(aud, AUD_INTENT, content, sizeof(content), &err), BASE_OK, &err);
    fill_disk(dir, "ballast");
    CHECK_RC(append_wait(aud, AUD_INTENT, content, sizeof(content), &err), BASE_FULL, &err);
    aud_get_stats(aud, &stats);
    CHECK(!stats.writable);
    next = stats.next_seq;
    CHECK_RC(append_wait(aud, AUD_INTENT, content, sizeof(content), &err), BASE_FULL, &err);
    usleep(1200000); /* it looks, and the disk is still full */
    aud_get_stats(aud, &stats);
    CHECK(!stats.writable && stats.next_seq == next);
    path_of(dir, "ballast", path);
    unlink(path);
    for (unsigned i = 0; i < 300 && !stats.writable; i++) {
        usleep(10000);
        aud_get_stats(aud, &stats);
    }
    CHECK(stats.writable);
    CHECK_RC(append_wait(aud, AUD_INTENT, content, sizeof(content), &err), BASE_OK, &err);
    aud_close(aud, 0);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err); /* nothing torn was left */
    aud_get_stats(aud, &stats);
    CHECK(stats.next_seq > next);
    aud_close(aud, 0);
    CHECK(umount(dir) == 0);
    rmdir(dir);
    free(dir);
}

/* --- kill -9 --- */

static void report(enum base_code rc, uint64_t seq, void *user)
{
    int fd = *(int *)user;

    if (rc == BASE_OK && write(fd, &seq, sizeof(seq)) != (ssize_t)sizeof(seq))
        _exit(3);
}

static _Noreturn void append_until_killed(const char *dir, int fd)
{
    struct aud_options options = options_for(dir);
    struct aud *aud = NULL;
    char content[3000];

    memset(content, 'c', sizeof(content));
    if (aud_open(&aud, &options, NULL) != BASE_OK)
        _exit(2);
    for (unsigned i = 0;; i++) {
        struct aud_record r = {.kind = AUD_INTENT,
                               .request_id = "r",
                               .issuer = "i",
                               .subject = i % 3 == 0 ? "a" : "b",
                               .content = content,
                               .content_len = i * 37 % sizeof(content)};

        if (aud_append(aud, &r, report, &fd, NULL) != BASE_OK)
            usleep(100);
        if (i % 16 == 0)
            usleep(50);
    }
}

static void test_aud__kill9_loses_nothing_that_was_acknowledged(void)
{
    char *dir = make_disk_dir();
    uint64_t n_acknowledged = 0, acknowledged = 0;
    struct aud_options options;
    struct aud *aud = NULL;
    struct aud_journal *j;
    struct base_err err;

    srand((unsigned)getpid());
    for (unsigned round = 0; round < 60; round++) {
        int fds[2], status = 0;
        uint64_t seq = 0;
        pid_t pid;

        CHECK(pipe(fds) == 0);
        pid = fork();
        if (pid == 0)
            append_until_killed(dir, fds[1]);
        close(fds[1]);
        if (round % 4 != 0) { /* the others are killed while they open, often */
            CHECK(read(fds[0], &seq, sizeof(seq)) == (ssize_t)sizeof(seq));
            CHECK(n_acknowledged == 0 || seq > acknowledged);
            acknowledged = seq;
            n_acknowledged++;
        }
        usleep((useconds_t)(rand() % 30000));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        CHECK(WIFSIGNALED(status));
        while (read(fds[0], &seq, sizeof(seq)) == (ssize_t)sizeof(seq)) {
            CHECK(n_acknowledged == 0 || seq > acknowledged); /* a number is given once */
            acknowledged = seq;
            n_acknowledged++;
        }
        close(fds[0]);
        j = open_fresh(dir); /* checks every record of the chain */
        CHECK(n_acknowledged == 0 || aud_journal_next_seq(j) > acknowledged);
        aud_journal_drop_below(
            j, aud_journal_next_seq(j)); /* as if shipped: the cap is not what is tested here */
        aud_journal_free(j);
    }
    printf("# %" PRIu64 " acknowledged over 60 kills\n", n_acknowledged);
    CHECK(n_acknowledged >= 45);
    options = options_for(dir);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    aud_close(aud, 0);
    remove_dir(dir);
}

/* --- threads --- */

#define THREADS 8
#define EACH    300

struct thread_arg {
    struct aud *aud;
    struct waiter *waiter;
    unsigned n_sent;
};

static void *append_thread(void *arg)
{
    struct thread_arg *a = arg;

    for (unsigned i = 0; i < EACH; i++) {
        char id[32], subject[32];
        struct aud_record r = {.kind = i % 2 == 0 ? AUD_INTENT : AUD_OUTCOME,
                               .request_id = id,
                               .issuer = "i",
                               .subject = subject,
                               .content = "text",
                               .content_len = 4};
        struct aud_stats stats;

        snprintf(id, sizeof(id), "r-%u", i);
        snprintf(subject, sizeof(subject), "s-%u", i % 20);
        if (aud_append(a->aud, &r, on_durable, a->waiter, NULL) == BASE_OK)
            a->n_sent++;
        aud_get_stats(a->aud, &stats);
    }
    return NULL;
}

static void test_aud_append__from_many_threads(void)
{
    char *dir = make_disk_dir();
    struct aud_options options = options_for(dir);
    struct thread_arg args[THREADS];
    pthread_t threads[THREADS];
    struct waiter waiter = WAITER;
    struct aud *aud = NULL;
    struct aud_journal *j;
    unsigned n_sent = 0;
    struct base_err err;

    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    for (unsigned i = 0; i < THREADS; i++) {
        args[i] = (struct thread_arg){aud, &waiter, 0};
        CHECK(pthread_create(&threads[i], NULL, append_thread, &args[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        n_sent += args[i].n_sent;
    }
    aud_close(aud, 0); /* waits for all of it */
    CHECK_INT(n_sent, THREADS * EACH);
    CHECK(waiter.n_done == n_sent && waiter.n_ok == n_sent);
    j = open_fresh(dir);
    CHECK_INT(read_all(j), n_sent + 2 * 20);
    aud_journal_free(j);
    remove_dir(dir);
}

static const struct tap_case cases[] = {
    CASE(test_journal__commits_are_there_after_reopening),
    CASE(test_journal_open__one_process_at_a_time),
    CASE(test_journal_open__every_flipped_byte_is_found),
    CASE(test_journal_open__without_the_head_file_only_the_last_commit_can_be_cut),
    CASE(test_journal_open__a_flipped_head_file_is_harmless),
    CASE(test_journal_open__a_torn_tail_is_cut_at_every_length),
    CASE(test_journal_open__a_torn_commit_with_a_hole_is_cut),
    CASE(test_journal__segments_follow_each_other_and_are_dropped_when_shipped),
    CASE(test_journal_open__a_missing_segment_is_found),
    CASE(test_journal_commit__a_failed_sync_is_never_acknowledged),
    CASE(test_journal_open__surplus_of_a_failed_commit_does_not_count),
    CASE(test_aud_append__refuses_what_breaks_a_limit),
    CASE(test_aud_append__at_the_cap_intents_stop_and_outcomes_still_fit),
    CASE(test_aud_append__a_failed_sync_reaches_the_callbacks),
    CASE(test_aud_append__a_full_disk_refuses_and_recovers),
    CASE(test_aud__kill9_loses_nothing_that_was_acknowledged),
    CASE(test_aud_append__from_many_threads),
};

int main(int argc, char **argv)
{
    base_log_init(-1, BASE_LOG_ERROR);
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
