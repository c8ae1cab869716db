/* Scan, mask and stream over any text: the stream must release what scan and mask make of the whole, at any
 * chunking. The scan looks through Hyperscan first and the stream does not, so this also finds a detector
 * without its trigger. Byte 0 says which detectors mask, byte 1 the chunk size; ill-formed text is made
 * well-formed, as callers do. */
#include "unit/policy/guard_help.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_equal(const struct base_buf *a, const struct base_buf *b)
{
    if (a->len != b->len || (a->len > 0 && memcmp(a->data, b->data, a->len) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct pol_snapshot *snapshot;
    static struct pol_scratch *scratch;
    struct base_buf whole = BASE_BUF_INIT(HELP_OUT_MAX), out = BASE_BUF_INIT(HELP_OUT_MAX);
    struct pol_guard guard = help_guard(POL_ACTION_MASK);
    size_t len, chunk;
    uint32_t n_masked;
    char *text;

    if (size < 2)
        return 0;
    if (snapshot == NULL) {
        snapshot = help_snapshot();
        scratch = pol_scratch_new();
    }
    for (int d = 1; d < POL_DETECT_COUNT; d++)
        if ((data[0] >> (d - 1) & 1) != 0)
            guard.input[d] = guard.output[d] = POL_ACTION_TAG;
    chunk = 1 + data[1] % 40;
    len = size - 2;
    text = malloc(len > 0 ? len : 1);
    memcpy(text, data + 2, len);
    for (size_t i = 0; !base_utf8_valid(text, len) && i < len; i++)
        if ((unsigned char)text[i] >= 0x80 && !base_utf8_valid(text, i + 1) &&
            base_utf8_complete(text, i + 1) == i + 1)
            text[i] = '?';
    len = base_utf8_complete(text, len);
    if (base_utf8_valid(text, len) && help_mask(snapshot, scratch, &guard, text, len, &whole, &n_masked)) {
        if (help_stream(snapshot, scratch, &guard, text, len, 0, chunk, &out, NULL) != BASE_OK)
            abort();
        must_equal(&out, &whole);
        base_buf_reset(&out);
        if (help_stream(snapshot, scratch, &guard, text, len, 0, 1, &out, NULL) != BASE_OK)
            abort();
        must_equal(&out, &whole);
    }
    free(text);
    base_buf_free(&whole);
    base_buf_free(&out);
    return 0;
}
