/* Shared by the guard's tests, fuzz target and benchmark: a policy, guards, and the two ways to redact a
 * text. */
#ifndef TESTS_GUARD_HELP_H
#define TESTS_GUARD_HELP_H

#include "policy/policy.h"

#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_OUT_MAX (64u << 20)

static const char help_policy[] =
    "version: 1\n"
    "classes: {default: internal, markings: {confidential: [CONFIDENTIAL], secret: [TOP SECRET]}}\n"
    "backends: {local: {engine: {file: m.gguf}, max_class: secret}}\n"
    "models: {m: {routes: [{backend: local}]}}\n"
    "limits: {l: {requests_per_minute: 1, tokens_per_minute: 1}}\n"
    "guards: {g: {}}\n"
    "roles: {r: {models: [m], max_class: secret, limits: l, guard: g}}\n";

__attribute__((unused)) static struct pol_snapshot *help_snapshot(void)
{
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};

    if (pol_load(&snapshot, "test.yaml", help_policy, strlen(help_policy), &err) != BASE_OK) {
        fprintf(stderr, "%s\n", err.detail);
        abort();
    }
    return snapshot;
}

/* A guard with one action for every detector, both ways. */
__attribute__((unused)) static struct pol_guard help_guard(enum pol_action action)
{
    struct pol_guard guard = {.name = "test"};

    for (int d = 1; d < POL_DETECT_COUNT; d++)
        guard.input[d] = guard.output[d] = action;
    return guard;
}

/* Scan and mask of the whole text. False when it has more findings than a scan reports. */
__attribute__((unused)) static bool help_mask(struct pol_snapshot *snapshot, struct pol_scratch *scratch,
                                              const struct pol_guard *guard, const char *text, size_t len,
                                              struct base_buf *out, uint32_t *ret_n_masked)
{
    struct pol_findings findings = {0};
    enum base_code rc = pol_scan(snapshot, scratch, text, len, &findings, NULL);

    if (rc == BASE_OK && pol_mask(guard, text, len, &findings, out, ret_n_masked) != BASE_OK)
        abort();
    pol_findings_free(&findings);
    return rc == BASE_OK;
}

/* The first character border at or after `at`. */
__attribute__((unused)) static size_t help_border(const char *text, size_t len, size_t at)
{
    while (at < len && ((unsigned char)text[at] & 0xc0) == 0x80)
        at++;
    return at < len ? at : len;
}

/* Streams the text in chunks of `chunk` bytes, the first of `first` (0: like the others). */
__attribute__((unused)) static enum base_code
help_stream(struct pol_snapshot *snapshot, struct pol_scratch *scratch, const struct pol_guard *guard,
            const char *text, size_t len, size_t first, size_t chunk, struct base_buf *out,
            struct pol_stream_report *ret_report)
{
    struct pol_stream *stream = pol_stream_new(snapshot, scratch, guard);
    enum base_code rc = BASE_OK;

    for (size_t at = 0, end; rc == BASE_OK && at < len; at = end) {
        size_t n = at == 0 && first > 0 ? first : chunk;

        end = help_border(text, len, n < len - at ? at + n : len);
        rc = pol_stream_push(stream, text + at, end - at, out);
    }
    if (rc == BASE_OK)
        rc = pol_stream_finish(stream, out);
    if (ret_report != NULL)
        *ret_report = *pol_stream_report(stream);
    pol_stream_free(stream);
    return rc;
}

#endif
