/* Scanning a whole text. See policy.h.
 *
 * Hyperscan reads the text once for two things: the policy's markings, and whether anything in it could be a
 * finding at all. Only then does the matcher (detect.h) run, which alone decides what is one. This is the
 * only file that includes Hyperscan.
 */
#include "policy/detect.h"
#include "policy/guard.h"
#include "policy/snapshot.h"

#include "base/mem.h"

#include <hs.h>
#include <stdio.h>
#include <string.h>

#define SCAN_TEXT_MAX (256u << 20)
#define ID_TRIGGER    0u /* patterns' ids: a trigger, or 1 + a marking's index */
#define SWEEP_EVERY   512u

struct scan_db {
    hs_database_t *hs;
};

struct pol_scratch {
    hs_scratch_t *hs;
    uint64_t snapshot_id; /* the last one that it was made to fit */
    struct base_buf folded;
};

/* What every finding of a detector holds, over folded text (normalize.h). A detector that learns a new shape
 * needs its trigger here: tests/fuzz/fuzz_guard.c compares with the stream, which has no such filter. */
static const char *const triggers[] = {
    "[A-Za-z0-9_.%+'\\x80-]@[A-Za-z0-9\\x80-]",    /* e-mail */
    "[0-9](?:[ \\t./_-]{0,3}[0-9]){11}",           /* card */
    "[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11}", /* IBAN */
    "PRIVATE KEY",                                 /* PEM */
    "A[KS]IA[A-Z0-9]",                             /* AWS key id */
    "[sS][ _-]*[eE][ _-]*[cC][ _-]*[rR][ _-]*[eE][ _-]*[tT][ _-]*[aA][ _-]*[cC][ _-]*[cC][ _-]*[eE][ "
    "_-]*[sS][ _-]*[sS][ _-]*"
    "[kK][ _-]*[eE][ _-]*[yY]",   /* AWS secret key */
    "gh[opusr]_[A-Za-z0-9]",      /* GitHub */
    "github_pat_",                /* GitHub */
    "xox[abeoprs]-",              /* Slack */
    "xapp-[0-9]-",                /* Slack */
    "e[w-z][A-Za-z0-9_-]{8,}\\.", /* JWT */
};

/* ---- database ---- */

static bool is_word_char(char c)
{
    return sym_is((uint8_t)c, SYM_ALNUM) || c == '_';
}

/* A marking as a pattern: each character as itself, blanks as any white space, whole words. */
static char *marking_pattern(const char *text)
{
    size_t len = strlen(text), at = 0;
    char *pattern = base_alloc(len * 4 + 16);

    if (is_word_char(text[0]))
        at += (size_t)sprintf(pattern + at, "\\b");
    for (size_t i = 0; i < len; i++) {
        if (text[i] != ' ')
            at += (size_t)sprintf(pattern + at, "\\x%02x", (unsigned char)text[i]);
        else if (text[i - 1] != ' ')
            at += (size_t)sprintf(pattern + at, "\\s+");
    }
    sprintf(pattern + at, "%s", is_word_char(text[len - 1]) ? "\\b" : "");
    return pattern;
}

enum base_code scan_db_new(struct scan_db **ret_db, const struct pol_snapshot *snapshot, struct base_err *err)
{
    size_t n_triggers = BASE_ARRAY_LEN(triggers), n = n_triggers + snapshot->n_markings;
    auto_free char **patterns = base_zalloc(n * sizeof(char *));
    auto_free unsigned *flags = base_zalloc(n * sizeof(unsigned)), *ids = base_zalloc(n * sizeof(unsigned));
    hs_compile_error_t *error = NULL;
    hs_database_t *hs = NULL;
    enum base_code rc = BASE_OK;

    if (hs_valid_platform() != HS_SUCCESS)
        return base_fail(err, BASE_UNSUPPORTED, 0, "Hyperscan needs a processor with SSSE3");
    for (size_t i = 0; i < n; i++) {
        bool trigger = i < n_triggers;

        patterns[i] =
            trigger ? base_strdup(triggers[i]) : marking_pattern(snapshot->markings[i - n_triggers].text);
        flags[i] = HS_FLAG_SINGLEMATCH | (!trigger && snapshot->markings_ignore_case ? HS_FLAG_CASELESS : 0);
        ids[i] = trigger ? ID_TRIGGER : (unsigned)(i - n_triggers) + 1;
    }
    if (hs_compile_multi((const char *const *)patterns, flags, ids, (unsigned)n, HS_MODE_BLOCK, NULL, &hs,
                         &error) != HS_SUCCESS)
        rc = base_fail(err, BASE_INVALID, 0, "the markings cannot be compiled: %.120s",
                       error != NULL ? error->message : "?");
    hs_free_compile_error(error);
    for (size_t i = 0; i < n; i++)
        free(patterns[i]);
    if (rc != BASE_OK)
        return rc;
    *ret_db = base_zalloc(sizeof(**ret_db));
    (*ret_db)->hs = hs;
    return BASE_OK;
}

void scan_db_free(struct scan_db *db)
{
    if (db == NULL)
        return;
    hs_free_database(db->hs);
    free(db);
}

/* ---- scratch ---- */

struct pol_scratch *pol_scratch_new(void)
{
    struct pol_scratch *scratch = base_zalloc(sizeof(*scratch));

    base_buf_init(&scratch->folded, SIZE_MAX / 2);
    return scratch;
}

void pol_scratch_free(struct pol_scratch *scratch)
{
    if (scratch == NULL)
        return;
    hs_free_scratch(scratch->hs);
    base_buf_free(&scratch->folded);
    free(scratch);
}

static enum base_code fit_scratch(struct pol_scratch *scratch, const struct pol_snapshot *snapshot,
                                  struct base_err *err)
{
    if (scratch->snapshot_id == snapshot->id)
        return BASE_OK;
    if (hs_alloc_scratch(snapshot->scan->hs, &scratch->hs) != HS_SUCCESS)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory to scan with");
    scratch->snapshot_id = snapshot->id;
    return BASE_OK;
}

/* ---- first look ---- */

/* Length of the longest prefix that folds to itself. */
static size_t plain_prefix(const char *text, size_t len)
{
    size_t i = 0;

    while (i < len) {
        unsigned char c = (unsigned char)text[i];

        if (c >= 0x7f || (c < ' ' && c != '\n' && c != '\r' && c != '\t'))
            break;
        i++;
    }
    return i;
}

static void fold(struct base_buf *folded, const char *text, size_t len)
{
    struct norm norm = {0};

    base_buf_reset(folded);
    for (size_t at = 0; at < len;) {
        uint8_t symbols[NORM_SYMBOLS_MAX];
        size_t n = plain_prefix(text + at, len - at);

        if (n > 0) {
            base_buf_append(folded, text + at, n);
            norm.ignored = 0;
            at += n;
            continue;
        }
        at += norm_step(&norm, text + at, len - at, symbols, &n);
        base_buf_append(folded, symbols, n);
    }
}

struct look {
    const struct pol_snapshot *snapshot;
    bool triggered;
    enum pol_class marking;
};

static int on_match(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *user)
{
    struct look *look = user;

    if (id == ID_TRIGGER)
        look->triggered = true;
    else if (look->snapshot->markings[id - 1].cls > look->marking)
        look->marking = look->snapshot->markings[id - 1].cls;
    return 0;
}

/* ---- findings ---- */

void pol_findings_free(struct pol_findings *findings)
{
    free(findings->items);
    *findings = (struct pol_findings){0};
}

struct collector {
    struct pol_findings *findings;
    size_t end; /* of the last piece that was a finding */
    uint32_t kinds;
    bool full;
};

static void add(struct collector *c, enum pol_detector kind, size_t start, size_t end)
{
    struct pol_findings *f = c->findings;

    if (f->n == POL_FINDINGS_MAX) {
        c->full = true;
        return;
    }
    if (f->n == f->cap) {
        f->cap = f->cap > 0 ? f->cap * 2 : 16;
        f->items = base_realloc(f->items, f->cap * sizeof(*f->items));
    }
    f->items[f->n++] = (struct pol_finding){.detector = kind, .start = start, .end = end};
}

static void collect(void *user, size_t start, size_t end, uint32_t kinds)
{
    struct collector *c = user;
    enum pol_detector owner = guard_owner(kinds);

    if (kinds == 0 || c->full)
        return;
    if (c->kinds == kinds && c->end == start) { /* the rest of a long one */
        c->findings->items[c->findings->n - 1].end = end;
        c->end = end;
        return;
    }
    for (unsigned kind = 1; kind < POL_DETECT_COUNT; kind++)
        if ((kinds >> kind & 1) != 0 && kind != owner)
            add(c, (enum pol_detector)kind, start, start);
    add(c, owner, start, end);
    c->kinds = kinds;
    c->end = end;
}

static enum base_code detect_all(const char *text, size_t len, struct pol_findings *findings,
                                 struct base_err *err)
{
    struct collector c = {.findings = findings};
    struct matcher m;
    size_t swept = 0;

    matcher_init(&m);
    for (size_t at = 0; at < len && !c.full;) {
        at += matcher_take(&m, text + at, len - at);
        if (at - swept >= SWEEP_EVERY) {
            matcher_sweep(&m, matcher_live(&m), collect, &c);
            swept = at;
        }
    }
    matcher_end(&m);
    matcher_sweep(&m, matcher_live(&m), collect, &c);
    matcher_free(&m);
    if (c.full)
        return base_fail(err, BASE_TOO_LARGE, 0, "more than %u findings in one request", POL_FINDINGS_MAX);
    return BASE_OK;
}

enum base_code pol_scan(const struct pol_snapshot *snapshot, struct pol_scratch *scratch, const char *text,
                        size_t len, struct pol_findings *findings, struct base_err *err)
{
    struct look look = {.snapshot = snapshot, .marking = findings->marking};
    const char *read = text;
    size_t read_len = len;
    enum base_code rc;

    if (len == 0)
        return BASE_OK;
    if (len > SCAN_TEXT_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "a text of %zu bytes, at most %u are scanned", len,
                         SCAN_TEXT_MAX);
    rc = fit_scratch(scratch, snapshot, err);
    if (rc != BASE_OK)
        return rc;
    if (plain_prefix(text, len) < len) {
        fold(&scratch->folded, text, len);
        read = scratch->folded.data;
        read_len = scratch->folded.len;
    }
    if (read_len > 0 &&
        hs_scan(snapshot->scan->hs, read, (unsigned)read_len, 0, scratch->hs, on_match, &look) != HS_SUCCESS)
        return base_fail(err, BASE_INTERNAL, 0, "the scan failed");
    if (look.triggered)
        rc = detect_all(text, len, findings, err);
    if (rc == BASE_OK)
        findings->marking = look.marking;
    return rc;
}
