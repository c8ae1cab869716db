/* The stream's promise: the released text is the same for every chunking, equals scan and mask of the whole
 * text, and what is held stays bounded whatever comes. */
#include "policy/policy.h"

#include "guard_help.h"
#include "tap.h"

#include <time.h>

#define N_TEXTS 4000u
#define HELD_MAX \
    (40u << 10) /* bytes: 1024 symbols of a JWT's header, each with eight ignored characters of four bytes \
                 */

static struct pol_snapshot *snapshot;
static struct pol_scratch *scratch;

static const char *const fragments[] = {
    "4111111111111111",
    "5555 5555 5555 4444",
    "3782 822463 10005",
    "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1",
    "41111111111111110000",
    "4",
    "1111",
    "0.",
    "+",
    " ",
    " ",
    "-",
    "\n",
    ".",
    ",",
    "@",
    "/",
    ":",
    "=",
    "_",
    "DE89370400440532013000",
    "GB82 WEST 1234 5698 7654 32",
    "DE12",
    "GB",
    "bob@example.org",
    "a.b+c@sub.example.co.uk",
    "a@b.",
    "x@y",
    "logo@2x.png",
    "https://",
    "?to=",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----END RSA PRIVATE KEY-----",
    "-----BEGIN ",
    "-----END",
    "PRIVATE KEY-----",
    "-----",
    "MIIEow==",
    "AKIAIOSFODNN7EXAMPLE",
    "AKIA",
    "aws_secret_access_key = ",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "ghp_",
    "github_",
    "xoxb-123456789012-abcdef",
    "xapp-1-",
    "eyJhbGciOiJIUzI1NiJ9.eyJ4IjoxfQ.sig",
    "eyJhbGciOiJIUzI1NiJ9",
    ".e30",
    "ey",
    "the word",
    "CONFIDENTIAL",
    "\u200b",
    "\u00ad",
    "\u0301",
    "４１１１",
    "١١",
    "–",
    "\u00a0",
    "é",
    "ß",
    "联系",
    "😀",
    "ﬁ",
    "\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b",
    "\x01",
};
#define N_FRAGMENTS (sizeof(fragments) / sizeof(fragments[0]))

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* A few fragments, now and then cut short at a character. */
static size_t make_text(uint64_t *state, char *text, size_t max)
{
    size_t len = 0, n = 2 + next_random(state) % 6;

    for (size_t i = 0; i < n; i++) {
        const char *f = fragments[next_random(state) % N_FRAGMENTS];
        size_t f_len = strlen(f);

        if (next_random(state) % 6 == 0)
            f_len = help_border(f, f_len, next_random(state) % (f_len + 1));
        if (len + f_len > max)
            break;
        memcpy(text + len, f, f_len);
        len += f_len;
        if (next_random(state) % 2 == 0 && len < max)
            text[len++] = " \n,;"[next_random(state) % 4];
    }
    return len;
}

/* Every detector has another action, so that masked and plain findings meet. */
static struct pol_guard mixed_guard(uint64_t *state)
{
    struct pol_guard guard = help_guard(POL_ACTION_MASK);

    for (int d = 1; d < POL_DETECT_COUNT; d++)
        if (next_random(state) % 3 == 0)
            guard.input[d] = guard.output[d] =
                next_random(state) % 2 == 0 ? POL_ACTION_ALLOW : POL_ACTION_TAG;
    return guard;
}

static void check_same(const struct base_buf *have, const struct base_buf *want, const char *text, size_t len,
                       size_t split)
{
    if (have->len == want->len && (have->len == 0 || memcmp(have->data, want->data, have->len) == 0))
        return;
    printf("# text  \"%.*s\" split at %zu\n# have  \"%s\"\n# want  \"%s\"\n", (int)len, text, split,
           have->data, want->data);
    tap_fail(__FILE__, __LINE__, "released texts differ");
}

static void check_all_splits(const struct pol_guard *guard, const char *text, size_t len,
                             const struct base_buf *want, enum base_code want_rc)
{
    struct base_buf out = BASE_BUF_INIT(HELP_OUT_MAX);

    for (size_t first = 1; first <= len; first++) {
        if (help_border(text, len, first) != first)
            continue;
        base_buf_reset(&out);
        CHECK_INT(help_stream(snapshot, scratch, guard, text, len, first, len, &out, NULL), want_rc);
        check_same(&out, want, text, len, first);
    }
    base_buf_reset(&out);
    CHECK_INT(help_stream(snapshot, scratch, guard, text, len, 0, 1, &out, NULL), want_rc);
    check_same(&out, want, text, len, 0);
    base_buf_free(&out);
}

static void test_stream__equals_scan_and_mask_at_every_split(void)
{
    struct base_buf want = BASE_BUF_INIT(HELP_OUT_MAX);
    uint64_t state = 20261120;
    size_t n_masked = 0;
    char text[160];

    for (size_t i = 0; i < N_TEXTS; i++) {
        size_t len = make_text(&state, text, sizeof(text));
        struct pol_guard guard = i % 2 == 0 ? help_guard(POL_ACTION_MASK) : mixed_guard(&state);
        uint32_t masked = 0;

        base_buf_reset(&want);
        CHECK(help_mask(snapshot, scratch, &guard, text, len, &want, &masked));
        n_masked += masked;
        check_all_splits(&guard, text, len, &want, BASE_OK);
    }
    printf("# %u texts, %zu masked spans, every two-way split and character by character\n", N_TEXTS,
           n_masked);
    CHECK(n_masked > N_TEXTS / 2);
    base_buf_free(&want);
}

/* The expected text is built here from the findings alone, not by pol_mask: what is outside of findings and
 * nothing else comes out. */
static void test_stream__releases_what_is_outside_of_findings_and_nothing_else(void)
{
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct base_buf out = BASE_BUF_INIT(HELP_OUT_MAX);
    uint64_t state = 7;
    char text[400];

    for (size_t i = 0; i < 4000; i++) {
        size_t len = make_text(&state, text, sizeof(text)), at = 0, o = 0, masked_end = SIZE_MAX;
        struct pol_findings f = {0};

        base_buf_reset(&out);
        CHECK_INT(help_stream(snapshot, scratch, &guard, text, len, 0, 1, &out, NULL), BASE_OK);
        CHECK_INT(pol_scan(snapshot, scratch, text, len, &f, NULL), BASE_OK);
        for (size_t k = 0; k <= f.n; k++) {
            size_t start = k < f.n ? f.items[k].start : len, n = start - at;

            CHECK(start >= at && o + n <= out.len && (n == 0 || memcmp(out.data + o, text + at, n) == 0));
            o += n;
            at = start;
            if (k == f.n || start == f.items[k].end)
                continue;
            if (masked_end != start) { /* one label for a run of findings that touch */
                CHECK(o < out.len && out.data[o] == '[');
                o += (size_t)(strchr(out.data + o, ']') - (out.data + o)) + 1;
            }
            at = masked_end = f.items[k].end;
        }
        CHECK_INT(o, out.len);
        pol_findings_free(&f);
    }
    base_buf_free(&out);
}

static void test_stream__block_releases_the_same_at_every_split(void)
{
    struct base_buf want = BASE_BUF_INIT(HELP_OUT_MAX);
    uint64_t state = 99;
    char text[160];
    size_t n_blocked = 0;

    for (size_t i = 0; i < N_TEXTS / 2; i++) {
        size_t len = make_text(&state, text, sizeof(text));
        struct pol_guard guard = mixed_guard(&state);
        struct pol_stream_report report;
        enum base_code rc;

        guard.output[1 + next_random(&state) % (POL_DETECT_COUNT - 1)] = POL_ACTION_BLOCK;
        base_buf_reset(&want);
        rc = help_stream(snapshot, scratch, &guard, text, len, 0, len > 0 ? len : 1, &want, &report);
        CHECK_INT(report.blocked, rc == BASE_DENIED);
        if (report.blocked) {
            n_blocked++;
            CHECK_INT(guard.output[report.blocked_by], POL_ACTION_BLOCK);
        }
        check_all_splits(&guard, text, len, &want, rc);
    }
    printf("# %zu of %u streams blocked\n", n_blocked, N_TEXTS / 2);
    CHECK(n_blocked > 20);
    base_buf_free(&want);
}

static void test_stream__block_stops_before_the_finding(void)
{
    const struct pol_guard guard = help_guard(POL_ACTION_BLOCK);
    struct base_buf out = BASE_BUF_INIT(1024);
    struct pol_stream *stream = pol_stream_new(snapshot, scratch, &guard);

    CHECK_INT(pol_stream_push(stream, "the key is AKIAIOSFODNN7EXAM", 28, &out), BASE_OK);
    CHECK_STR(out.data, "the key is ");
    CHECK_INT(pol_stream_push(stream, "PLE and more", 12, &out), BASE_DENIED);
    CHECK_STR(out.data, "the key is ");
    CHECK(pol_stream_report(stream)->blocked);
    CHECK_INT(pol_stream_report(stream)->blocked_by, POL_DETECT_AWS_KEY);
    CHECK_INT(pol_stream_push(stream, "x", 1, &out), BASE_DENIED);
    CHECK_INT(pol_stream_finish(stream, &out), BASE_DENIED);
    CHECK_STR(out.data, "the key is ");
    pol_stream_free(stream);
    base_buf_free(&out);
}

static void test_stream__prose_flows(void)
{
    static const char text[] = "In 2023 the team of 12 people met at 10 a.m. on 3 May, and it cost $1,234.50 "
                               "(see p. 4-5).\nIt was fine.";
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct base_buf out = BASE_BUF_INIT(1024);
    struct pol_stream *stream = pol_stream_new(snapshot, scratch, &guard);

    for (size_t i = 0; i < strlen(text); i++) {
        CHECK_INT(pol_stream_push(stream, text + i, 1, &out), BASE_OK);
        CHECK(pol_stream_report(stream)->held_bytes <=
              10); /* the word it is in, or a number and what may go on with it */
        CHECK_INT(out.len + pol_stream_report(stream)->held_bytes, i + 1);
    }
    CHECK_INT(pol_stream_finish(stream, &out), BASE_OK);
    CHECK_STR(out.data, text);
    pol_stream_free(stream);
    base_buf_free(&out);
}

static void test_stream__open_findings_hold_nothing(void)
{
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct base_buf out = BASE_BUF_INIT(1024);
    struct pol_stream *stream = pol_stream_new(snapshot, scratch, &guard);

    CHECK_INT(pol_stream_push(stream, "-----BEGIN PRIVATE KEY-----\n", 28, &out), BASE_OK);
    for (size_t i = 0; i < 100000; i++) {
        CHECK_INT(pol_stream_push(stream, "MIIEow12", 8, &out), BASE_OK);
        CHECK(pol_stream_report(stream)->held_bytes <= 64);
    }
    CHECK_INT(pol_stream_finish(stream, &out), BASE_OK);
    CHECK_STR(out.data, "[PRIVATE_KEY_MASKED]");
    CHECK_INT(pol_stream_report(stream)->found[POL_DETECT_PRIVATE_KEY], 1);
    CHECK_INT(pol_stream_report(stream)->masked, 1);
    CHECK_INT(pol_stream_push(stream, "x", 1, &out), BASE_INVALID); /* after the end */
    pol_stream_free(stream);
    base_buf_free(&out);
}

/* Eight characters that become nothing, of four bytes each. */
#define TAGS "\U000e0041\U000e0041\U000e0041\U000e0041\U000e0041\U000e0041\U000e0041\U000e0041"

static void test_stream__hostile_text_is_held_and_worked_on_within_bounds(void)
{
    static const char *const units[] = {
        "1",
        "1 ",
        "4111 ",
        "41-",
        "4\u200b",
        "4\u200b\u200b\u200b\u200b\u200b\u200b\u200b\u200b",
        "a",
        "a.",
        "a@b.",
        "a@",
        "@",
        "a\u0301",
        "-",
        "-----BEGIN ",
        "-----BEGIN A",
        "eyJ",
        "eyJhbGciOiJIUzI1NiJ9.",
        "eyJhbGciOiJIUzI1NiJ9.e30.\u200b",
        "ewAA",
        "DE12",
        "GB12 ",
        "DE12 GB12 ",
        "AK",
        "ghp_",
        "xoxb-",
        "secretaccesskey ",
        "secretaccesskey=abcd",
        "\u200b",
        "\x01",
        "\u00ad\u0301",
        "\ufdfa",
        "㎯",
        "０",
        "x@y.zz\u200b",
        "I" TAGS "C" TAGS "A" TAGS "g" TAGS,
        "I" TAGS "C" TAGS "A" TAGS "g" TAGS, /* once as it comes, once as a header of blanks */
    };
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    size_t worst = 0;
    clock_t slowest = 0;

    for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
        struct base_buf out = BASE_BUF_INIT(HELP_OUT_MAX);
        struct pol_stream *stream = pol_stream_new(snapshot, scratch, &guard);
        size_t n = strlen(units[u]);
        clock_t t = clock();

        if (u % 2 == 1) /* as it comes, and behind the begin of what is held longest */
            CHECK_INT(pol_stream_push(stream, "ewog", 4, &out), BASE_OK);

        for (size_t i = 0; i * n < 128u << 10; i++) {
            CHECK_INT(pol_stream_push(stream, units[u], n, &out), BASE_OK);
            if (pol_stream_report(stream)->held_bytes > worst)
                worst = pol_stream_report(stream)->held_bytes;
        }
        CHECK_INT(pol_stream_finish(stream, &out), BASE_OK);
        CHECK_INT(pol_stream_report(stream)->held_bytes, 0);
        t = clock() - t;
        if (t > slowest)
            slowest = t;
        pol_stream_free(stream);
        base_buf_free(&out);
    }
    printf("# most bytes held: %zu; slowest 128 KiB in this build: %.0f ms\n", worst,
           (double)slowest * 1000 / CLOCKS_PER_SEC);
    CHECK(worst <= HELD_MAX);
}

static void test_stream__output_past_the_cap_is_refused(void)
{
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct base_buf out = BASE_BUF_INIT(8);
    struct pol_stream *stream = pol_stream_new(snapshot, scratch, &guard);

    CHECK_INT(pol_stream_push(stream, "12345 ", 6, &out), BASE_OK);
    CHECK_INT(pol_stream_push(stream, "a word more", 11, &out), BASE_TOO_LARGE);
    pol_stream_free(stream);
    base_buf_free(&out);
}

static void test_mask__counts_and_refuses_foreign_findings(void)
{
    static const char text[] = "4111111111111111@example.com and DE89370400440532013000";
    struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct base_buf out = BASE_BUF_INIT(1024);
    struct pol_findings f = {0};
    uint32_t n = 0;

    CHECK_INT(pol_scan(snapshot, scratch, text, strlen(text), &f, NULL), BASE_OK);
    CHECK_INT(pol_mask(&guard, text, strlen(text), &f, &out, &n), BASE_OK);
    CHECK_STR(out.data, "[CARD_MASKED] and [IBAN_MASKED]");
    CHECK_INT(n, 2);
    base_buf_reset(&out);
    guard.input[POL_DETECT_CARD] = POL_ACTION_ALLOW; /* the digits are still part of a masked address */
    guard.input[POL_DETECT_IBAN] = POL_ACTION_TAG;
    CHECK_INT(pol_mask(&guard, text, strlen(text), &f, &out, &n), BASE_OK);
    CHECK_STR(out.data, "[EMAIL_MASKED] and DE89370400440532013000");
    base_buf_reset(&out);
    guard = help_guard(POL_ACTION_MASK);
    guard.input[POL_DETECT_EMAIL] = POL_ACTION_ALLOW;
    CHECK_INT(pol_mask(&guard, text, strlen(text), &f, &out, &n), BASE_OK);
    CHECK_STR(out.data, "[CARD_MASKED]@example.com and [IBAN_MASKED]");
    CHECK_INT(pol_mask(&guard, text, 20, &f, &out, &n), BASE_INVALID);
    pol_findings_free(&f);
    base_buf_free(&out);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_stream__equals_scan_and_mask_at_every_split),
        CASE(test_stream__releases_what_is_outside_of_findings_and_nothing_else),
        CASE(test_stream__block_releases_the_same_at_every_split),
        CASE(test_stream__block_stops_before_the_finding),
        CASE(test_stream__prose_flows),
        CASE(test_stream__open_findings_hold_nothing),
        CASE(test_stream__hostile_text_is_held_and_worked_on_within_bounds),
        CASE(test_stream__output_past_the_cap_is_refused),
        CASE(test_mask__counts_and_refuses_foreign_findings),
    };
    int status;

    snapshot = help_snapshot();
    scratch = pol_scratch_new();
    status = tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
    pol_scratch_free(scratch);
    pol_unref(snapshot);
    return status;
}
