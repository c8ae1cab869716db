/* The commands `gatehouse audit list|show|verify`. See audit.h.
 *
 * What stands in records was chosen by clients (model names, request ids) or by a model (content): nothing of
 * it reaches a terminal with its control characters.
 *
 * Exit status: 0 done (verify: intact), 1 not found (verify: not intact), 2 wrong use or could not be done.
 */
#include "audit/audit.h"

#include "audit/query.h"
#include "audit/verify.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS    60000u
#define LIMIT_DEFAULT 50u
#define LIMIT_MAX     100000u
#define JSON_MAX      (64u << 20)

enum { EXIT_DONE = 0, EXIT_NO = 1, EXIT_TROUBLE = 2 };

static const char help_top[] = "usage: gatehouse audit list|show|verify [options]\n"
                               "  list      requests and events, newest first\n"
                               "  show      everything about one request\n"
                               "  verify    proves that no record was changed, removed or inserted\n"
                               "Each has --help.\n";

static const char help_list[] =
    "usage: gatehouse audit list [options]\n"
    "  --limit N        at most N rows (default 50)\n"
    "  --since T        from this time on: 2026-11-20, 2026-11-20T08:00:00Z, or 90m, 24h, 7d ago\n"
    "  --until T        before this time\n"
    "  --person P       this pseudonym\n"
    "  --model M        asked for this model or answered by this route\n"
    "  --class C        public, internal, confidential, secret\n"
    "  --status S       ok, error, cancelled, blocked, denied, ... or 'no outcome' (still running, or cut "
    "off by a crash)\n"
    "  --request ID     this request\n"
    "  --json           one JSON object per line\n";

static const char help_show[] =
    "usage: gatehouse audit show REQUEST_ID|INSTANCE:SEQ [options]\n"
    "Prints every record of the request as its canonical bytes say: the intent, then its outcome.\n"
    "  --content        decrypts prompt and answer (needs the configured key-encryption key)\n"
    "  --json           one JSON object per line and record\n";

static const char help_verify[] =
    "usage: gatehouse audit verify [options]\n"
    "Recomputes every hash chain in the database, compares each column with the bytes that were hashed, and "
    "checks that this\n"
    "machine's journal goes on where the database ends. Needs no key.\n"
    "  --instance I     this gateway's chain alone\n"
    "  --no-journal     the database alone (on another machine than the gateway's)\n"
    "  --json           the result as one JSON object\n"
    "Exit status: 0 intact, 1 not intact (the first bad record is named), 2 could not check.\n";

/* --- printing --- */

/* Text from outside: control characters (C0, DEL, C1), invisible direction marks and bytes that are no UTF-8
 * become '?'. */
static void print_safe(const char *s, size_t n, bool lines)
{
    bool valid = base_utf8_valid(s, n);

    for (size_t i = 0; i < n;) {
        uint32_t c = (unsigned char)s[i];
        size_t len = valid ? base_utf8_decode(s + i, n - i, &c) : 1;
        bool control = c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
                       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || (!valid && c > 0x7e);

        if (lines && (c == '\n' || c == '\t'))
            control = false;
        if (control)
            putchar('?');
        else
            fwrite(s + i, 1, len, stdout);
        i += len;
    }
}

static void print_safe_str(const char *s)
{
    print_safe(s, strlen(s), false);
}

/* A table cell: safe, and padded to `width` characters; longer ones are not cut. */
static void print_cell(const char *s, int width)
{
    int shown = 0;

    for (const char *p = s; *p != '\0'; p++)
        shown += ((unsigned char)*p & 0xc0) != 0x80;
    print_safe_str(s);
    printf("%*s", shown < width ? width - shown + 2 : 2, "");
}

static void json_text(struct base_buf *out, const char *key, const char *s, size_t n)
{
    base_buf_append_char(out, out->len > 1 ? ',' : ' ');
    base_buf_append_json(out, key, strlen(key));
    base_buf_append_char(out, ':');
    base_buf_append_json(out, s, n);
}

static void json_number(struct base_buf *out, const char *key, int64_t value)
{
    base_buf_printf(out, "%c\"%s\":%lld", out->len > 1 ? ',' : ' ', key, (long long)value);
}

static void json_end(struct base_buf *out)
{
    base_buf_append_str(out, "}\n");
    if (!out->failed)
        fwrite(out->data, 1, out->len, stdout);
}

static int trouble(const struct base_err *err)
{
    fprintf(stderr, "gatehouse audit: %s\n", err->detail);
    return EXIT_TROUBLE;
}

/* --- list --- */

/* "24h" -> "now() minus that" as a timestamp text; anything else is handed to Postgres. out must live as long
 * as the query. */
static const char *time_option(const char *s, char out[64])
{
    size_t n = strlen(s);
    uint64_t count = 0;
    int64_t unit = 0;

    if (n >= 2)
        unit = s[n - 1] == 's'   ? 1
               : s[n - 1] == 'm' ? 60
               : s[n - 1] == 'h' ? 3600
               : s[n - 1] == 'd' ? 86400
                                 : 0;
    if (unit == 0 || base_parse_u64(s, n - 1, 1000000, &count) != BASE_OK)
        return s;
    base_rfc3339(base_wall_us() - (int64_t)count * unit * 1000000, out);
    return out;
}

static const char *const list_names[AUD_N_LIST_COLUMNS] = {
    "instance",       "seq",         "kind",   "time",   "request_id",    "person",
    "tenant",         "api",         "model",  "route",  "class",         "decision",
    "status",         "error",       "action", "target", "prompt_tokens", "completion_tokens",
    "released_bytes", "duration_us",
};

static void list_json(const struct base_pg_rows *rows, unsigned row)
{
    struct base_buf out = BASE_BUF_INIT(JSON_MAX);
    char wall[BASE_RFC3339_MAX];

    base_rfc3339(base_pg_int(rows, row, AUD_L_WALL_US), wall);
    base_buf_append_char(&out, '{');
    for (unsigned c = 0; c < AUD_N_LIST_COLUMNS; c++) {
        const char *text = base_pg_text(rows, row, c);

        if (c == AUD_L_SEQ || c >= AUD_L_PROMPT_TOKENS)
            json_number(&out, list_names[c], base_pg_int(rows, row, c));
        else if (c == AUD_L_WALL_US)
            json_text(&out, "time", wall, strlen(wall));
        else if (c == AUD_L_KIND)
            json_text(&out, "kind", aud_kind_name((unsigned)base_pg_int(rows, row, c)),
                      strlen(aud_kind_name((unsigned)base_pg_int(rows, row, c))));
        else
            json_text(&out, list_names[c], text != NULL ? text : "", text != NULL ? strlen(text) : 0);
    }
    json_end(&out);
    base_buf_free(&out);
}

static const char *or_dash(const char *s)
{
    return s != NULL && s[0] != '\0' ? s : "-";
}

static void list_row(const struct base_pg_rows *rows, unsigned row)
{
    bool event = base_pg_int(rows, row, AUD_L_KIND) == AUD_EVENT;
    char wall[BASE_RFC3339_MAX], place[64], tokens[48];

    base_rfc3339(base_pg_int(rows, row, AUD_L_WALL_US), wall);
    wall[19] = 'Z'; /* whole seconds are enough for a table */
    wall[20] = '\0';
    snprintf(place, sizeof(place), "%s:%lld", base_pg_text(rows, row, AUD_L_INSTANCE),
             (long long)base_pg_int(rows, row, AUD_L_SEQ));
    snprintf(tokens, sizeof(tokens), "%lld/%lld", (long long)base_pg_int(rows, row, AUD_L_PROMPT_TOKENS),
             (long long)base_pg_int(rows, row, AUD_L_COMPLETION_TOKENS));
    print_cell(wall, 20);
    print_cell(place, 12);
    print_cell(or_dash(base_pg_text(rows, row, AUD_L_PERSON)), 44);
    print_cell(or_dash(base_pg_text(rows, row, event ? AUD_L_ACTION : AUD_L_MODEL)), 16);
    print_cell(or_dash(base_pg_text(rows, row, event ? AUD_L_TARGET : AUD_L_ROUTE)), 12);
    print_cell(or_dash(base_pg_text(rows, row, AUD_L_CLASS)), 12);
    print_cell(or_dash(base_pg_text(rows, row, AUD_L_DECISION)), 8);
    print_cell(or_dash(base_pg_text(rows, row, AUD_L_STATUS)), 10);
    print_cell(event ? "-" : tokens, 9);
    print_safe_str(or_dash(base_pg_text(rows, row, AUD_L_REQUEST_ID)));
    putchar('\n');
}

static void list_head(void)
{
    print_cell("TIME", 20);
    print_cell("RECORD", 12);
    print_cell("PERSON", 44);
    print_cell("MODEL/ACTION", 16);
    print_cell("ROUTE/TARGET", 12);
    print_cell("CLASS", 12);
    print_cell("DECISION", 8);
    print_cell("STATUS", 10);
    print_cell("TOKENS", 9);
    puts("REQUEST");
}

static int list_main(int argc, char **argv, const struct aud_cli_options *options)
{
    static const struct option longopts[] = {
        {"limit", required_argument, NULL, 'n'},
        {"since", required_argument, NULL, 'f'},
        {"until", required_argument, NULL, 'u'},
        {"person", required_argument, NULL, 'p'},
        {"model", required_argument, NULL, 'm'},
        {"class", required_argument, NULL, 'c'},
        {"status", required_argument, NULL, 's'},
        {"request", required_argument, NULL, 'r'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    auto_pg_rows struct base_pg_rows *rows = NULL;
    auto_pg struct base_pg *pg = NULL;
    struct aud_query query = {.limit = LIMIT_DEFAULT};
    char since[64], until[64];
    uint64_t limit = 0;
    bool json = false;
    struct base_err err;
    int c;

    while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
        switch (c) {
        case 'n':
            if (base_parse_u64(optarg, strlen(optarg), LIMIT_MAX, &limit) != BASE_OK || limit == 0) {
                fprintf(stderr, "gatehouse audit list: --limit takes a number from 1 to %u\n", LIMIT_MAX);
                return EXIT_TROUBLE;
            }
            query.limit = (unsigned)limit;
            break;
        case 'f': query.since = time_option(optarg, since); break;
        case 'u': query.until = time_option(optarg, until); break;
        case 'p': query.person = optarg; break;
        case 'm': query.model = optarg; break;
        case 'c': query.cls = optarg; break;
        case 's': query.status = optarg; break;
        case 'r': query.request_id = optarg; break;
        case 'j': json = true; break;
        case 'h': fputs(help_list, stdout); return EXIT_DONE;
        default: fputs(help_list, stderr); return EXIT_TROUBLE;
        }
    }
    if (optind != argc) {
        fputs(help_list, stderr);
        return EXIT_TROUBLE;
    }
    if (options->reader_dsn == NULL) {
        fputs("gatehouse audit: reader_dsn is not configured\n", stderr);
        return EXIT_TROUBLE;
    }
    pg = base_pg_new(options->reader_dsn, TIMEOUT_MS);
    if (aud_query_list(pg, &query, &rows, &err) != BASE_OK)
        return trouble(&err);
    if (!json && base_pg_n_rows(rows) > 0)
        list_head();
    for (unsigned i = 0; i < base_pg_n_rows(rows); i++)
        (json ? list_json : list_row)(rows, i);
    if (!json && base_pg_n_rows(rows) == 0)
        puts("no records");
    return EXIT_DONE;
}

/* --- show --- */

static void show_line(const char *name, const char *s, size_t n)
{
    if (n == 0)
        return;
    printf("  %-18s", name);
    print_safe(s, n, false);
    putchar('\n');
}

static void show_reasons(const struct aud_fields *f)
{
    for (unsigned i = 0; i < f->n_reasons; i++)
        show_line(i == 0 ? "reasons" : "", f->reasons[i].at, f->reasons[i].len);
}

static void show_record(const struct aud_shown *shown)
{
    const struct aud_fields *f = &shown->fields;
    char wall[BASE_RFC3339_MAX];

    base_rfc3339(f->wall_us, wall);
    printf("%s %.*s:%llu  %s\n", aud_kind_name(f->kind), (int)f->instance.len, f->instance.at,
           (unsigned long long)f->seq, wall);
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        show_line(aud_text_names[i], f->texts[i].at, f->texts[i].len);
    show_reasons(f);
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        if (f->numbers[i] != 0)
            printf("  %-18s%llu\n", aud_number_names[i], (unsigned long long)f->numbers[i]);
    printf("  %-18s%s\n", "hash", shown->hash.hex);
    show_line("content", shown->content_note, strlen(shown->content_note));
    if (shown->content != NULL) {
        puts("  content");
        print_safe((const char *)shown->content, shown->content_len, true);
        putchar('\n');
    }
}

static void show_json(const struct aud_shown *shown)
{
    const struct aud_fields *f = &shown->fields;
    struct base_buf out = BASE_BUF_INIT(6ull * AUD_CONTENT_MAX + (1u << 20));
    char wall[BASE_RFC3339_MAX];

    base_rfc3339(f->wall_us, wall);
    base_buf_append_char(&out, '{');
    json_text(&out, "kind", aud_kind_name(f->kind), strlen(aud_kind_name(f->kind)));
    json_text(&out, "instance", f->instance.at, f->instance.len);
    json_number(&out, "seq", (int64_t)f->seq);
    json_text(&out, "time", wall, strlen(wall));
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        json_text(&out, aud_text_names[i], f->texts[i].at, f->texts[i].len);
    base_buf_append_str(&out, ",\"reasons\":[");
    for (unsigned i = 0; i < f->n_reasons; i++) {
        if (i > 0)
            base_buf_append_char(&out, ',');
        base_buf_append_json(&out, f->reasons[i].at, f->reasons[i].len);
    }
    base_buf_append_char(&out, ']');
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        json_number(&out, aud_number_names[i], (int64_t)f->numbers[i]);
    json_text(&out, "hash", shown->hash.hex, strlen(shown->hash.hex));
    if (shown->content_note[0] != '\0')
        json_text(&out, "content_note", shown->content_note, strlen(shown->content_note));
    if (shown->content != NULL && base_utf8_valid((const char *)shown->content, shown->content_len))
        json_text(&out, "content", (const char *)shown->content, shown->content_len);
    json_end(&out);
    if (out.data != NULL)
        base_wipe(out.data, out.len);
    base_buf_free(&out);
}

static int show_found(struct base_pg *pg, const char *what, const struct base_secret *kek, bool json)
{
    struct aud_shown_list list = {.n = 0};
    bool intent = false, outcome = false;
    struct base_err err;
    enum base_code rc = aud_query_show(pg, what, kek, &list, &err);

    if (rc == BASE_NOT_FOUND) {
        fprintf(stderr, "gatehouse audit: %s\n", err.detail);
        return EXIT_NO;
    }
    if (rc != BASE_OK)
        return trouble(&err);
    for (unsigned i = 0; i < list.n; i++) {
        (json ? show_json : show_record)(&list.all[i]);
        intent = intent || list.all[i].fields.kind == AUD_INTENT;
        outcome = outcome || list.all[i].fields.kind == AUD_OUTCOME;
    }
    if (!json && intent && !outcome)
        puts("no outcome: the request is still running, or the gateway was cut off before it ended");
    aud_shown_free(&list);
    return EXIT_DONE;
}

static int show_main(int argc, char **argv, const struct aud_cli_options *options)
{
    static const struct option longopts[] = {
        {"content", no_argument, NULL, 'c'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    auto_secret struct base_secret *kek = NULL;
    auto_pg struct base_pg *pg = NULL;
    bool content = false, json = false;
    struct base_err err;
    int c;

    while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
        switch (c) {
        case 'c': content = true; break;
        case 'j': json = true; break;
        case 'h': fputs(help_show, stdout); return EXIT_DONE;
        default: fputs(help_show, stderr); return EXIT_TROUBLE;
        }
    }
    if (optind + 1 != argc) {
        fputs(help_show, stderr);
        return EXIT_TROUBLE;
    }
    if (options->reader_dsn == NULL || (content && options->kek_file == NULL)) {
        fprintf(stderr, "gatehouse audit: %s is not configured\n",
                options->reader_dsn == NULL ? "reader_dsn" : "kek_file");
        return EXIT_TROUBLE;
    }
    if (content && base_secret_read_key_file(&kek, options->kek_file, &err) != BASE_OK)
        return trouble(&err);
    pg = base_pg_new(options->reader_dsn, TIMEOUT_MS);
    return show_found(pg, argv[optind], kek, json);
}

/* --- verify --- */

static void tell_progress(const char *instance, uint64_t n_records, void *user)
{
    fprintf(stderr, "%llu records looked at, now in %s\n", (unsigned long long)n_records, instance);
}

static void verify_json(const struct aud_verify_result *r, const char *head)
{
    struct base_buf out = BASE_BUF_INIT(1u << 20);

    base_buf_printf(&out, "{\"intact\":%s", r->intact ? "true" : "false");
    json_number(&out, "records", (int64_t)r->n_records);
    json_number(&out, "instances", (int64_t)r->n_instances);
    json_number(&out, "keys_destroyed", (int64_t)r->n_keys_gone);
    json_number(&out, "in_journal_only", (int64_t)r->n_unshipped);
    if (r->intact)
        json_text(&out, "head", head, strlen(head));
    else {
        json_text(&out, "bad_instance", r->bad_instance, strlen(r->bad_instance));
        json_number(&out, "bad_seq", r->bad_seq);
        json_text(&out, "problem", r->problem, strlen(r->problem));
    }
    json_end(&out);
    base_buf_free(&out);
}

static void verify_text(const struct aud_verify_result *r, const char *head)
{
    if (!r->intact) {
        print_safe_str(r->problem);
        printf("\nnot intact: %llu records before it verified\n", (unsigned long long)r->n_records);
        return;
    }
    printf("intact: %llu record%s of %llu instance%s, head %s", (unsigned long long)r->n_records,
           r->n_records == 1 ? "" : "s", (unsigned long long)r->n_instances, r->n_instances == 1 ? "" : "s",
           head);
    if (r->n_unshipped > 0)
        printf(", %llu more in the journal", (unsigned long long)r->n_unshipped);
    if (r->n_keys_gone > 0)
        printf(", %llu keys of persons destroyed", (unsigned long long)r->n_keys_gone);
    putchar('\n');
}

static int verify_main(int argc, char **argv, const struct aud_cli_options *options)
{
    static const struct option longopts[] = {
        {"instance", required_argument, NULL, 'i'},
        {"no-journal", no_argument, NULL, 'd'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct aud_verify_options verify = {
        .reader_dsn = options->reader_dsn, .journal_dir = options->journal_dir, .progress = tell_progress};
    struct aud_verify_result result;
    char head[2 * BASE_SHA256_BYTES + 1];
    bool json = false;
    struct base_err err;
    int c;

    while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
        switch (c) {
        case 'i': verify.instance = optarg; break;
        case 'd': verify.journal_dir = NULL; break;
        case 'j': json = true; break;
        case 'h': fputs(help_verify, stdout); return EXIT_DONE;
        default: fputs(help_verify, stderr); return EXIT_TROUBLE;
        }
    }
    if (optind != argc) {
        fputs(help_verify, stderr);
        return EXIT_TROUBLE;
    }
    if (options->reader_dsn == NULL) {
        fputs("gatehouse audit: reader_dsn is not configured\n", stderr);
        return EXIT_TROUBLE;
    }
    if (aud_verify(&verify, &result, &err) != BASE_OK)
        return trouble(&err);
    base_hex_encode(result.head.bytes, sizeof(result.head.bytes), head);
    (json ? verify_json : verify_text)(&result, head);
    return result.intact ? EXIT_DONE : EXIT_NO;
}

int aud_cli_main(int argc, char **argv, const struct aud_cli_options *options)
{
    optind = 1;
    if (argc >= 2 && strcmp(argv[1], "list") == 0)
        return list_main(argc - 1, argv + 1, options);
    if (argc >= 2 && strcmp(argv[1], "show") == 0)
        return show_main(argc - 1, argv + 1, options);
    if (argc >= 2 && strcmp(argv[1], "verify") == 0)
        return verify_main(argc - 1, argv + 1, options);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(help_top, stdout);
        return EXIT_DONE;
    }
    fputs(help_top, stderr);
    return EXIT_TROUBLE;
}
