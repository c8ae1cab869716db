/* How fast the guard is and how much it holds. Prints a table; asserts nothing.
 *   bench_guard [MEGABYTES]
 * Text: the harmless sets beside the project when they are there, otherwise a few built-in sentences; "mixed"
 * has an identifier every few hundred bytes. */
#include "unit/policy/guard_help.h"

#include "tap.h"

#include "base/clock.h"
#include "base/mem.h"

#include <jansson.h>

static struct pol_snapshot *snapshot;
static struct pol_scratch *scratch;

static void add_text(const json_t *value, struct base_buf *out)
{
    const char *key;
    json_t *item;
    size_t i;

    json_array_foreach((json_t *)value, i, item) add_text(item, out);
    json_object_foreach((json_t *)value, key, item) add_text(item, out);
    if (json_is_string(value)) {
        base_buf_append(out, json_string_value(value), json_string_length(value));
        base_buf_append_char(out, '\n');
    }
}

static void add_dataset(const char *name, struct base_buf *out)
{
    char path[4200], *line = NULL;
    size_t cap = 0;
    FILE *f;

    snprintf(path, sizeof(path), "%s/datasets/%s", tap_shared_dir(), name);
    f = fopen(path, "r");
    while (f != NULL && getline(&line, &cap, f) > 0) {
        json_t *row = json_loads(line, 0, NULL);

        add_text(row, out);
        json_decref(row);
    }
    free(line);
    if (f != NULL)
        fclose(f);
}

static void repeat_to(struct base_buf *text, size_t bytes)
{
    size_t len = text->len;

    while (text->len + len <= bytes && base_buf_reserve(text, len) != NULL) {
        memcpy(text->data + text->len, text->data, len);
        text->len += len;
    }
}

/* An identifier after every n bytes of text, at the end of a line. */
static void mix(const struct base_buf *plain, struct base_buf *out)
{
    static const char *const ids[] = {"4111 1111 1111 1111", "bob@example.org", "DE89 3704 0044 0532 0130 00",
                                      "AKIAIOSFODNN7EXAMPLE"};
    size_t since = 0, n = 0;

    for (const char *p = plain->data; p < plain->data + plain->len; p++) {
        base_buf_append_char(out, *p);
        since++;
        if (*p == '\n' && since > 300) {
            base_buf_append_str(out, ids[n++ % 4]);
            base_buf_append_char(out, '\n');
            since = 0;
        }
    }
}

/* Pieces as a service sees them: a request of 4 KiB each. */
static void bench_scan(const char *name, const struct base_buf *text)
{
    uint64_t start = base_thread_cpu_ns(), ns;
    size_t n_found = 0;

    for (size_t at = 0; at < text->len;) {
        struct pol_findings f = {0};
        size_t end = help_border(text->data, text->len, text->len - at > 4096 ? at + 4096 : text->len);

        pol_scan(snapshot, scratch, text->data + at, end - at, &f, NULL);
        n_found += f.n;
        pol_findings_free(&f);
        at = end;
    }
    ns = base_thread_cpu_ns() - start;
    printf("%-8s scan   4096 B  %7.1f MB/s   %8.0f ns a text    %zu findings\n", name,
           (double)text->len * 1e3 / (double)ns, (double)ns / ((double)text->len / 4096), n_found);
}

static void bench_stream(const char *name, const struct base_buf *text, size_t chunk)
{
    const struct pol_guard guard = help_guard(POL_ACTION_MASK);
    struct pol_stream *stream = pol_stream_new(snapshot, scratch, &guard);
    struct base_buf out = BASE_BUF_INIT(HELP_OUT_MAX);
    uint64_t start = base_thread_cpu_ns(), ns;
    size_t n = 0, held_max = 0;
    double held_sum = 0;

    for (size_t at = 0; at < text->len; n++) {
        size_t end = help_border(text->data, text->len, text->len - at > chunk ? at + chunk : text->len),
               held;

        base_buf_reset(&out);
        pol_stream_push(stream, text->data + at, end - at, &out);
        held = pol_stream_report(stream)->held_bytes;
        held_sum += (double)held;
        if (held > held_max)
            held_max = held;
        at = end;
    }
    pol_stream_finish(stream, &out);
    ns = base_thread_cpu_ns() - start;
    printf("%-8s stream %4zu B  %7.1f MB/s   %8.0f ns a chunk   held bytes: mean %.1f, most %zu\n", name,
           chunk, (double)text->len * 1e3 / (double)ns, (double)ns / (double)n, held_sum / (double)n,
           held_max);
    pol_stream_free(stream);
    base_buf_free(&out);
}

static void bench(const char *name, const struct base_buf *text)
{
    bench_scan(name, text);
    bench_stream(name, text, 4);
    bench_stream(name, text, 20);
    bench_stream(name, text, 4096);
}

int main(int argc, char **argv)
{
    size_t bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 8) << 20;
    struct base_buf plain = BASE_BUF_INIT(256u << 20), mixed = BASE_BUF_INIT(512u << 20);

    snapshot = help_snapshot();
    scratch = pol_scratch_new();
    if (tap_shared_dir() != NULL) {
        add_dataset("benign_gsm8k.jsonl", &plain);
        add_dataset("benign_mtbench.jsonl", &plain);
    }
    if (plain.len == 0)
        base_buf_append_str(
            &plain,
            "In 2023 the team of 12 people met at 10 a.m. on 3 May, and it cost $1,234.50 (see p. 4-5).\n"
            "Compose a travel report about the sights, and begin every sentence with the letter A.\n");
    repeat_to(&plain, bytes);
    mix(&plain, &mixed);
    printf("%.1f MB of text, one thread, CPU time\n", (double)plain.len / 1e6);
    bench("harmless", &plain);
    bench("mixed", &mixed);
    base_buf_free(&plain);
    base_buf_free(&mixed);
    pol_scratch_free(scratch);
    pol_unref(snapshot);
    return 0;
}
