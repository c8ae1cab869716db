/* Tests of base/: errors, buffers, arenas, text, JSON's shape, secrets, queues, workers, log. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json_shape.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/queue.h"
#include "base/secret.h"
#include "base/str.h"
#include "base/workers.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- err ---- */

static void test_fail__fills_code_detail_and_errno(void)
{
    struct base_err err = {0};

    CHECK_INT(base_fail(&err, BASE_IO, ENOSPC, "file %s", "x"), BASE_IO);
    CHECK_INT(err.sys_errno, ENOSPC);
    CHECK_STR(err.detail, "file x: No space left on device");
    CHECK_INT(base_fail(NULL, BASE_FULL, 0, "nobody listens"), BASE_FULL);
}

static void test_fail_prefix__puts_text_before_and_never_overflows(void)
{
    struct base_err err = {0};
    char longest[BASE_DETAIL_MAX * 2];

    base_fail(&err, BASE_INVALID, 0, "inner");
    base_fail_prefix(&err, BASE_CORRUPT, "outer %d", 7);
    CHECK_STR(err.detail, "outer 7: inner");
    CHECK_INT(err.code, BASE_CORRUPT);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    base_fail(&err, BASE_INVALID, 0, "%s", longest);
    base_fail_prefix(&err, BASE_INVALID, "%s", longest);
    CHECK_INT(strlen(err.detail), BASE_DETAIL_MAX - 1);
}

/* ---- buf ---- */

static void test_buf__append_is_all_or_nothing_at_the_limit(void)
{
    auto_buf struct base_buf buf = BASE_BUF_INIT(8);

    CHECK(base_buf_append_str(&buf, "12345678") == BASE_OK);
    CHECK(base_buf_append_char(&buf, '9') == BASE_TOO_LARGE);
    CHECK_STR(buf.data, "12345678");
    CHECK(base_buf_append(&buf, "", 0) == BASE_TOO_LARGE); /* failed until reset */
    base_buf_reset(&buf);
    CHECK(base_buf_printf(&buf, "%d-%s", 12, "ab") == BASE_OK);
    CHECK_STR(buf.data, "12-ab");
    base_buf_consume(&buf, 3);
    CHECK_STR(buf.data, "ab");
}

static void test_buf_append_json__escapes_what_breaks_lines_html_and_json(void)
{
    auto_buf struct base_buf buf = BASE_BUF_INIT(1024);
    static const char text[] =
        "a\"b\\c\nd\re\t<script>\x01\x7f\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa\xc3\xa9\xf0\x9f\x91\x8b";

    CHECK(base_buf_append_json(&buf, text, sizeof(text) - 1) == BASE_OK);
    CHECK_STR(buf.data, "\"a\\\"b\\\\c\\nd\\u000de\\u0009\\u003cscript>"
                        "\\u0001\\u007f\\u2028\\u2029\xe2\x80\xaa\xc3\xa9\xf0\x9f\x91\x8b\"");
}

static void test_buf_take__gives_the_bytes_away(void)
{
    struct base_buf buf = BASE_BUF_INIT(16);
    auto_free char *empty = base_buf_take(&buf);
    auto_free char *text = NULL;

    CHECK_STR(empty, "");
    base_buf_append_str(&buf, "hello");
    text = base_buf_take(&buf);
    CHECK_STR(text, "hello");
    CHECK(buf.data == NULL && buf.len == 0);
}

/* ---- arena ---- */

static void test_arena__aligned_zeroed_and_limited(void)
{
    struct base_arena *arena = base_arena_new(10000);
    char *small = base_arena_alloc(arena, 1);
    double *number = base_arena_alloc(arena, sizeof(double));

    CHECK(small != NULL && *small == 0);
    CHECK((uintptr_t)number % _Alignof(max_align_t) == 0);
    CHECK(base_arena_alloc(arena, 9000) != NULL);
    CHECK(base_arena_alloc(arena, 9000) == NULL);
    CHECK(base_arena_alloc(arena, SIZE_MAX) == NULL);
    CHECK(base_arena_dup(arena, "x", SIZE_MAX) == NULL);
    CHECK_STR(base_arena_dup(arena, "abc", 3), "abc");
    base_arena_unref(base_arena_ref(arena));
    CHECK_STR(base_arena_dup(arena, "still here", 10), "still here");
    base_arena_unref(arena);
}

/* ---- str ---- */

static void test_utf8_valid__table(void)
{
    static const struct {
        const char *bytes;
        size_t n;
        bool valid;
    } rows[] = {
        {"", 0, true},
        {"plain ascii text, longer than eight", 35, true},
        {"\xc3\xa9", 2, true},
        {"\xe2\x82\xac", 3, true},
        {"\xf0\x9f\x91\x8b", 4, true},
        {"\xf4\x8f\xbf\xbf", 4, true},
        {"a\0b", 3, true},
        {"\xef\xbf\xbf", 3, true},
        {"\xc0\x80", 2, false},
        {"\xc1\xbf", 2, false},
        {"\xe0\x9f\xbf", 3, false},
        {"\xf0\x8f\xbf\xbf", 4, false}, /* overlong */
        {"\xed\xa0\x80", 3, false},
        {"\xed\xbf\xbf", 3, false}, /* surrogates */
        {"\xf4\x90\x80\x80", 4, false},
        {"\xf5\x80\x80\x80", 4, false},
        {"\xff", 1, false}, /* past U+10FFFF */
        {"\x80", 1, false},
        {"\xc3", 1, false},
        {"\xe2\x82", 2, false},
        {"\xf0\x9f\x91", 3, false},
        {"12345678\xc3", 9, false},
        {"\xc3\x28", 2, false},
        {"\xe2\x28\xa1", 3, false},
        {"\xe2\x82\x28", 3, false},
    };

    for (size_t i = 0; i < BASE_ARRAY_LEN(rows); i++)
        if (base_utf8_valid(rows[i].bytes, rows[i].n) != rows[i].valid) {
            printf("# row %zu\n", i);
            CHECK(false);
        }
}

static void test_utf8_complete__keeps_whole_characters(void)
{
    CHECK_INT(base_utf8_complete("ab", 2), 2);
    CHECK_INT(base_utf8_complete("a\xc3", 2), 1);
    CHECK_INT(base_utf8_complete("a\xe2\x82", 3), 1);
    CHECK_INT(base_utf8_complete("a\xf0\x9f\x91", 4), 1);
    CHECK_INT(base_utf8_complete("a\xf0\x9f\x91\x8b", 5), 5);
    CHECK_INT(base_utf8_complete("\xe2\x82\xac", 3), 3);
    CHECK_INT(base_utf8_complete("", 0), 0);
}

static void test_utf8_code__round_trip_of_every_code_point(void)
{
    for (uint32_t cp = 0; cp <= 0x10ffff; cp += cp < 0x3000 ? 1 : 37) {
        char bytes[4];
        uint32_t back;
        size_t n;

        if (cp >= 0xd800 && cp <= 0xdfff)
            continue;
        n = base_utf8_encode(cp, bytes);
        CHECK(base_utf8_valid(bytes, n));
        CHECK_INT(base_utf8_decode(bytes, n, &back), n);
        CHECK_INT(back, cp);
    }
}

static void test_hex_decode__refuses_odd_long_and_foreign(void)
{
    unsigned char out[4];
    char text[9];
    size_t n;

    CHECK(base_hex_decode("00ffA5", 6, out, sizeof(out), &n) == BASE_OK && n == 3 && out[2] == 0xa5);
    base_hex_encode(out, 3, text);
    CHECK_STR(text, "00ffa5");
    CHECK(base_hex_decode("0", 1, out, sizeof(out), &n) == BASE_INVALID);
    CHECK(base_hex_decode("0011223344", 10, out, sizeof(out), &n) == BASE_INVALID);
    CHECK(base_hex_decode("0g", 2, out, sizeof(out), &n) == BASE_INVALID);
}

static void test_b64url__one_spelling_for_each_value(void)
{
    unsigned char bytes[40], back[40];
    char text[60];
    size_t n;

    for (size_t len = 0; len <= sizeof(bytes); len++) {
        for (size_t i = 0; i < len; i++)
            bytes[i] = (unsigned char)(i * 37 + len);
        CHECK_INT(base_b64url_encode(bytes, len, text), strlen(text));
        CHECK(base_b64url_decode(text, strlen(text), back, sizeof(back), &n) == BASE_OK);
        CHECK(n == len && memcmp(bytes, back, len) == 0);
    }
    CHECK(base_b64url_decode("AA", 2, back, 40, &n) == BASE_OK);
    CHECK(base_b64url_decode("AB", 2, back, 40, &n) == BASE_INVALID); /* stray bits */
    CHECK(base_b64url_decode("A", 1, back, 40, &n) == BASE_INVALID);
    CHECK(base_b64url_decode("AA==", 4, back, 40, &n) == BASE_INVALID);
    CHECK(base_b64url_decode("AAAA", 4, back, 2, &n) == BASE_INVALID);
}

static void test_parse_u64__digits_alone_within_the_limit(void)
{
    uint64_t v = 7;

    CHECK(base_parse_u64("18446744073709551615", 20, UINT64_MAX, &v) == BASE_OK && v == UINT64_MAX);
    CHECK(base_parse_u64("18446744073709551616", 20, UINT64_MAX, &v) == BASE_TOO_LARGE);
    CHECK(base_parse_u64("101", 3, 100, &v) == BASE_TOO_LARGE);
    CHECK(base_parse_u64("100", 3, 100, &v) == BASE_OK && v == 100);
    CHECK(base_parse_u64("", 0, 100, &v) == BASE_INVALID);
    CHECK(base_parse_u64("-1", 2, 100, &v) == BASE_INVALID);
    CHECK(base_parse_u64(" 1", 2, 100, &v) == BASE_INVALID);
    CHECK_INT(v, 100); /* failure leaves it alone */
}

static void test_equal__constant_time_and_case_insensitive(void)
{
    CHECK(base_ct_equal("abcd", "abcd", 4));
    CHECK(!base_ct_equal("abcd", "abce", 4));
    CHECK(base_ct_equal("abcd", "abce", 3));
    CHECK(base_ascii_ieq("AbC", 3, "aBc", 3));
    CHECK(!base_ascii_ieq("abc", 3, "ab", 2));
    CHECK(!base_ascii_ieq("\xc3\x89", 2, "\xc3\xa9", 2));
}

static void test_json_shape__table(void)
{
    static const struct {
        const char *text;
        size_t depth, values;
    } table[] = {
        {"", 0, 1},
        {"1", 0, 1},
        {"[]", 1, 2},
        {"{\"a\":[1,2,{}]}", 3, 6},
        {"[[],[[]],[]]", 3, 8},
        {"[\"]],,[[{{\"]", 1, 2}, /* in a string nothing counts */
        {"[\"\\\"[,\",1]", 1, 3}, /* an escaped quote ends no string */
        {"[\"\\\\\",[]]", 2, 4},  /* an escaped backslash escapes no quote */
        {"[\"\\u0022[\"]", 1, 2},
        {"]]}}[", 1, 2}, /* what is closed too often lends nothing to what follows */
        {"[}{]", 1, 3},  /* kinds are the parser's to tell */
        {"[\"never closed [[[,,,", 1, 2},
        {"\"\\", 0, 1}, /* a backslash at the end */
    };

    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        auto_free char *text = base_memdup0(table[i].text, strlen(table[i].text));
        struct base_json_shape shape = base_json_shape(text, strlen(text));

        if (shape.depth != table[i].depth || shape.values != table[i].values)
            printf("# %s\n", text);
        CHECK_INT(shape.depth, table[i].depth);
        CHECK_INT(shape.values, table[i].values);
    }
    CHECK_INT(base_json_shape("[[[]]]", 2).depth, 2); /* by its length, not by a NUL */
}

static void test_json_shape__a_million_brackets(void)
{
    const size_t n = 1000000;
    auto_free char *text = base_alloc(n);

    memset(text, '[', n);
    CHECK_INT(base_json_shape(text, n).depth, n);
    memset(text, ',', n);
    CHECK_INT(base_json_shape(text, n).values, n + 1);
}

static void test_rfc3339__known_times(void)
{
    char text[BASE_RFC3339_MAX];

    base_rfc3339(0, text);
    CHECK_STR(text, "1970-01-01T00:00:00.000000Z");
    base_rfc3339(1795215151123456, text);
    CHECK_STR(text, "2026-11-20T22:52:31.123456Z");
}

/* ---- secrets ---- */

static const char *write_secret(const char *text, size_t n, mode_t mode)
{
    static char path[64];
    int fd;

    snprintf(path, sizeof(path), "/tmp/gh-secret-%d", (int)getpid());
    unlink(path);
    fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);
    CHECK(fd >= 0 && write(fd, text, n) == (ssize_t)n);
    fchmod(fd, mode);
    close(fd);
    return path;
}

static void test_secret_read_file__refuses_what_others_can_read(void)
{
    auto_secret struct base_secret *secret = NULL;
    struct base_err err = {0};

    CHECK_RC(base_secret_read_file(&secret, write_secret("s3cret\n", 7, 0640), &err), BASE_DENIED, &err);
    CHECK(strstr(err.detail, "s3cret") == NULL);
    CHECK_RC(base_secret_read_file(&secret, write_secret("", 0, 0600), &err), BASE_INVALID, &err);
    CHECK_RC(base_secret_read_file(&secret, "/nonexistent/x", &err), BASE_NOT_FOUND, &err);
    CHECK_RC(base_secret_read_file(&secret, write_secret("s3cret\n", 7, 0600), &err), BASE_OK, &err);
    CHECK_INT(base_secret_len(secret), 6);
    CHECK(memcmp(base_secret_bytes(secret), "s3cret", 6) == 0);
    unlink(write_secret("x", 1, 0600));
}

static void test_secret_read_key_file__wants_64_hex_digits(void)
{
    static const char hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    auto_secret struct base_secret *key = NULL;
    struct base_err err = {0};

    CHECK_RC(base_secret_read_key_file(&key, write_secret(hex, 62, 0600), &err), BASE_INVALID, &err);
    CHECK_RC(base_secret_read_key_file(&key, write_secret("zz", 2, 0600), &err), BASE_INVALID, &err);
    CHECK_RC(base_secret_read_key_file(&key, write_secret(hex, 65, 0600), &err), BASE_OK, &err);
    CHECK_INT(base_secret_len(key), 32);
    CHECK_INT(base_secret_bytes(key)[31], 0x1f);
    unlink(write_secret("x", 1, 0600));
}

/* ---- queue and workers ---- */

static void test_queue__bounded_in_order_and_closable(void)
{
    struct base_queue *queue = base_queue_new(2);
    int a, b, c;

    CHECK(base_queue_push(queue, &a) == BASE_OK);
    CHECK(base_queue_push(queue, &b) == BASE_OK);
    CHECK(base_queue_push(queue, &c) == BASE_FULL);
    CHECK_INT(base_queue_depth(queue), 2);
    CHECK(base_queue_pop(queue, 0) == &a);
    CHECK(base_queue_push(queue, &c) == BASE_OK);
    base_queue_close(queue);
    CHECK(base_queue_push(queue, &a) == BASE_CANCELLED);
    CHECK(base_queue_pop(queue, UINT64_MAX) == &b);
    CHECK(base_queue_try_pop(queue) == &c);
    CHECK(base_queue_pop(queue, UINT64_MAX) == NULL);
    base_queue_free(queue);
}

static void test_queue_pop__times_out(void)
{
    struct base_queue *queue = base_queue_new(1);
    uint64_t before = base_mono_ms();

    CHECK(base_queue_pop(queue, 20) == NULL);
    CHECK(base_mono_ms() - before >= 19);
    base_queue_free(queue);
}

static atomic_int jobs_done, states;

static void count_job(void *arg, void *state)
{
    CHECK(state != NULL);
    atomic_fetch_add(&jobs_done, *(int *)arg);
}

static void *start_state(void *user)
{
    atomic_fetch_add(&states, 1);
    return user;
}

static void end_state(void *state, void *user)
{
    (void)user;
    (void)state;
    atomic_fetch_sub(&states, 1);
}

static void test_workers__run_all_that_was_taken_before_they_end(void)
{
    int one = 1, accepted = 0;
    struct base_workers *workers = base_workers_new(&(struct base_workers_options){
        .n_threads = 3, .queue_max = 64, .thread_start = start_state, .thread_end = end_state, .user = &one});

    for (int i = 0; i < 1000; i++)
        accepted += base_workers_submit(workers, count_job, &one) == BASE_OK;
    base_workers_free(workers);
    CHECK(accepted >= 64);
    CHECK_INT(atomic_load(&jobs_done), accepted);
    CHECK_INT(atomic_load(&states), 0);
}

/* ---- log ---- */

static void test_log__one_json_line_that_nothing_can_forge(void)
{
    char line[BASE_LOG_LINE_MAX + 1], huge[8000];
    ssize_t n;
    int fds[2];

    CHECK(pipe(fds) == 0);
    base_log_init(fds[1], BASE_LOG_INFO);
    base_log(BASE_LOG_DEBUG, "x", "not written");
    base_log(BASE_LOG_WARN, "call.end", "it \"ended\"\n{\"forged\":1}", LOG_STR("model", "m\r\n"),
             LOG_INT("n", -5), LOG_BOOL("ok", true), LOG_STR("bad", "\xff"));
    n = read(fds[0], line, sizeof(line) - 1);
    CHECK(n > 0);
    line[n] = '\0';
    CHECK(strchr(line, '\n') == line + n - 1);
    CHECK(
        strstr(
            line,
            "\"level\":\"warn\",\"event\":\"call.end\",\"msg\":\"it \\\"ended\\\"\\n{\\\"forged\\\":1}\"") !=
        NULL);
    CHECK(strstr(line, "\"model\":\"m\\u000d\\n\",\"n\":-5,\"ok\":true,\"bad\":\"(not UTF-8)\"}") != NULL);
    memset(huge, 'h', sizeof(huge));
    huge[sizeof(huge) - 1] = '\0';
    base_log(BASE_LOG_ERROR, "x", "y", LOG_STR("a", "kept"), LOG_STR("huge", huge));
    n = read(fds[0], line, sizeof(line) - 1);
    line[n] = '\0';
    CHECK(strstr(line, "\"a\":\"kept\",\"cut\":\"(too long)\"}\n") != NULL);
    base_log_init(STDERR_FILENO, BASE_LOG_INFO);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_fail__fills_code_detail_and_errno),
        CASE(test_fail_prefix__puts_text_before_and_never_overflows),
        CASE(test_buf__append_is_all_or_nothing_at_the_limit),
        CASE(test_buf_append_json__escapes_what_breaks_lines_html_and_json),
        CASE(test_buf_take__gives_the_bytes_away),
        CASE(test_arena__aligned_zeroed_and_limited),
        CASE(test_utf8_valid__table),
        CASE(test_utf8_complete__keeps_whole_characters),
        CASE(test_utf8_code__round_trip_of_every_code_point),
        CASE(test_hex_decode__refuses_odd_long_and_foreign),
        CASE(test_b64url__one_spelling_for_each_value),
        CASE(test_parse_u64__digits_alone_within_the_limit),
        CASE(test_equal__constant_time_and_case_insensitive),
        CASE(test_json_shape__table),
        CASE(test_json_shape__a_million_brackets),
        CASE(test_rfc3339__known_times),
        CASE(test_secret_read_file__refuses_what_others_can_read),
        CASE(test_secret_read_key_file__wants_64_hex_digits),
        CASE(test_queue__bounded_in_order_and_closable),
        CASE(test_queue_pop__times_out),
        CASE(test_workers__run_all_that_was_taken_before_they_end),
        CASE(test_log__one_json_line_that_nothing_can_forge),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
