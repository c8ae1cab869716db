/* Detectors on labelled and on harmless text of others. The figures are printed; the floors are what is
 * reached. */
#include "policy/policy.h"

#include "guard_help.h"
#include "tap.h"

#include <jansson.h>

static struct pol_snapshot *snapshot;
static struct pol_scratch *scratch;

static const char *dataset(const char *name)
{
    static char path[4200];
    const char *shared = tap_shared_dir();

    if (shared == NULL)
        SKIP("the shared reference data are not here");
    snprintf(path, sizeof(path), "%s/datasets/%s", shared, name);
    return path;
}

/* One document of a JSON file, or of each line of a .jsonl file. */
static json_t *load(const char *name)
{
    const char *path = dataset(name);
    json_t *all;
    char *line = NULL;
    size_t cap = 0;
    FILE *f;

    if (strstr(name, ".jsonl") == NULL) {
        all = json_load_file(path, 0, NULL);
        CHECK(json_is_array(all));
        return all;
    }
    all = json_array();
    f = fopen(path, "r");
    CHECK(f != NULL);
    while (getline(&line, &cap, f) > 0)
        json_array_append_new(all, json_loads(line, 0, NULL));
    free(line);
    fclose(f);
    return all;
}

static size_t byte_at(const char *text, json_int_t code_points)
{
    size_t at = 0;

    for (; code_points > 0 && text[at] != '\0'; code_points--)
        at = help_border(text, strlen(text), at + 1);
    return at;
}

static enum pol_detector detector_of(const char *type)
{
    if (strcmp(type, "CREDIT_CARD") == 0)
        return POL_DETECT_CARD;
    if (strcmp(type, "IBAN_CODE") == 0)
        return POL_DETECT_IBAN;
    return strcmp(type, "EMAIL_ADDRESS") == 0 ? POL_DETECT_EMAIL : POL_DETECT_NONE;
}

struct tally {
    size_t spans, hit, extra;
};

static bool is_found(const struct pol_findings *f, enum pol_detector kind, size_t start, size_t end)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->items[i].detector == kind && f->items[i].start == start && f->items[i].end == end)
            return true;
    return false;
}

static void count_row(json_t *row, struct tally tally[POL_DETECT_COUNT])
{
    const char *text = json_string_value(json_object_get(row, "text"));
    struct pol_findings f = {0};
    size_t i, n_found[POL_DETECT_COUNT] = {0}, n_hit[POL_DETECT_COUNT] = {0};
    json_t *span;

    CHECK_INT(pol_scan(snapshot, scratch, text, strlen(text), &f, NULL), BASE_OK);
    for (i = 0; i < f.n; i++)
        n_found[f.items[i].detector]++;
    json_array_foreach(json_object_get(row, "spans"), i, span)
    {
        enum pol_detector kind = detector_of(json_string_value(json_object_get(span, "type")));

        if (kind == POL_DETECT_NONE)
            continue;
        tally[kind].spans++;
        if (is_found(&f, kind, byte_at(text, json_integer_value(json_object_get(span, "start"))),
                     byte_at(text, json_integer_value(json_object_get(span, "end"))))) {
            tally[kind].hit++;
            n_hit[kind]++;
        } else
            printf("# missed %s in: %s\n", pol_detector_name(kind), text);
    }
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++) {
        tally[kind].extra += n_found[kind] - n_hit[kind];
        if (n_found[kind] > n_hit[kind])
            printf("# extra %s in: %s\n", pol_detector_name((enum pol_detector)kind), text);
    }
    pol_findings_free(&f);
}

static void test_pii__recall_and_precision(void)
{
    struct tally tally[POL_DETECT_COUNT] = {0};
    json_t *all = load("pii_dev.json"), *row;
    size_t i;

    json_array_foreach(all, i, row) count_row(row, tally);
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++)
        printf("# %s: %zu of %zu labelled spans found exactly, %zu findings without label\n",
               pol_detector_name((enum pol_detector)kind), tally[kind].hit, tally[kind].spans,
               tally[kind].extra);
    json_decref(all);
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++) {
        CHECK_INT(tally[kind].hit, tally[kind].spans);
        CHECK_INT(tally[kind].extra, 0);
    }
    CHECK(tally[POL_DETECT_CARD].spans >= 200 && tally[POL_DETECT_IBAN].spans >= 40 &&
          tally[POL_DETECT_EMAIL].spans >= 70);
}

/* Counts findings in every string of a value. */
static void count_strings(const json_t *value, size_t *n_texts, size_t counts[POL_DETECT_COUNT])
{
    struct pol_findings f = {0};
    const char *text = json_string_value(value), *key;
    json_t *item;
    size_t i;

    json_array_foreach((json_t *)value, i, item) count_strings(item, n_texts, counts);
    json_object_foreach((json_t *)value, key, item) count_strings(item, n_texts, counts);
    if (text == NULL)
        return;
    ++*n_texts;
    CHECK_INT(pol_scan(snapshot, scratch, text, json_string_length(value), &f, NULL), BASE_OK);
    for (i = 0; i < f.n; i++) {
        counts[f.items[i].detector]++;
        printf("# %s in: %.*s\n", pol_detector_name(f.items[i].detector),
               (int)(f.items[i].end - f.items[i].start), text + f.items[i].start);
    }
    pol_findings_free(&f);
}

static void test_benign__holds_nothing(void)
{
    static const char *const names[] = {"benign_gsm8k.jsonl", "benign_mtbench.jsonl",
                                        "benign_triggerwords_dev.json"};
    size_t counts[POL_DETECT_COUNT] = {0}, n_texts = 0;

    for (size_t i = 0; i < 3; i++) {
        json_t *all = load(names[i]);

        count_strings(all, &n_texts, counts);
        json_decref(all);
    }
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++)
        printf("# %s: %zu findings in %zu harmless texts\n", pol_detector_name((enum pol_detector)kind),
               counts[kind], n_texts);
    for (int kind = 1; kind < POL_DETECT_COUNT; kind++)
        CHECK_INT(counts[kind], 0);
}

/* Every labelled text, every two-way split: equal to the whole, and no labelled identifier in what is
 * released. */
static void test_pii__split_invariance(void)
{
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct base_buf want = BASE_BUF_INIT(HELP_OUT_MAX), out = BASE_BUF_INIT(HELP_OUT_MAX);
    json_t *all = load("pii_dev.json"), *row;
    size_t i, n_splits = 0;

    json_array_foreach(all, i, row)
    {
        const char *text = json_string_value(json_object_get(row, "text"));
        size_t len = strlen(text);
        uint32_t masked = 0;

        base_buf_reset(&want);
        CHECK(help_mask(snapshot, scratch, &guard, text, len, &want, &masked));
        for (size_t first = masked > 0 || i % 8 == 0 ? 1 : len; first <= len; first++) {
            if (help_border(text, len, first) != first)
                continue;
            base_buf_reset(&out);
            CHECK_INT(help_stream(snapshot, scratch, &guard, text, len, first, len, &out, NULL), BASE_OK);
            CHECK(out.len == want.len && memcmp(out.data, want.data, out.len) == 0);
            n_splits++;
        }
        base_buf_reset(&out);
        CHECK_INT(help_stream(snapshot, scratch, &guard, text, len, 0, 1, &out, NULL), BASE_OK);
        CHECK(out.len == want.len && memcmp(out.data, want.data, out.len) == 0);
    }
    printf("# %zu texts, %zu two-way splits\n", json_array_size(all), n_splits);
    json_decref(all);
    base_buf_free(&want);
    base_buf_free(&out);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_pii__recall_and_precision),
        CASE(test_pii__split_invariance),
        CASE(test_benign__holds_nothing),
    };
    int status;

    snapshot = help_snapshot();
    scratch = pol_scratch_new();
    status = tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
    pol_scratch_free(scratch);
    pol_unref(snapshot);
    return status;
}
