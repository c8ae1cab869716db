/* Masking a whole text. See guard.h and policy.h. */
#include "policy/guard.h"

#include "base/mem.h"

/* By falling sensitivity. */
static const enum pol_detector by_weight[] = {
    POL_DETECT_PRIVATE_KEY, POL_DETECT_AWS_KEY, POL_DETECT_GITHUB_TOKEN, POL_DETECT_SLACK_TOKEN,
    POL_DETECT_JWT,         POL_DETECT_CARD,    POL_DETECT_IBAN,         POL_DETECT_EMAIL,
};
_Static_assert(BASE_ARRAY_LEN(by_weight) == POL_DETECT_COUNT - 1, "every detector has its place");

static const char *const labels[POL_DETECT_COUNT] = {
    [POL_DETECT_NONE] = "[MASKED]",
    [POL_DETECT_CARD] = "[CARD_MASKED]",
    [POL_DETECT_IBAN] = "[IBAN_MASKED]",
    [POL_DETECT_EMAIL] = "[EMAIL_MASKED]",
    [POL_DETECT_PRIVATE_KEY] = "[PRIVATE_KEY_MASKED]",
    [POL_DETECT_AWS_KEY] = "[AWS_KEY_MASKED]",
    [POL_DETECT_GITHUB_TOKEN] = "[GITHUB_TOKEN_MASKED]",
    [POL_DETECT_SLACK_TOKEN] = "[SLACK_TOKEN_MASKED]",
    [POL_DETECT_JWT] = "[JWT_MASKED]",
};

enum pol_detector guard_owner(uint32_t kinds)
{
    for (size_t i = 0; i < BASE_ARRAY_LEN(by_weight); i++)
        if ((kinds >> by_weight[i] & 1) != 0)
            return by_weight[i];
    return POL_DETECT_NONE;
}

static uint32_t masked_kinds(const struct guard_writer *writer, uint32_t kinds)
{
    uint32_t masked = 0;

    for (unsigned kind = 1; kind < POL_DETECT_COUNT; kind++)
        if ((kinds >> kind & 1) != 0 && writer->actions[kind] >= POL_ACTION_MASK)
            masked |= 1u << kind;
    return masked;
}

void guard_write_piece(struct guard_writer *writer, const char *bytes, size_t start, size_t end,
                       uint32_t kinds)
{
    uint32_t masked = kinds != 0 ? masked_kinds(writer, kinds) : 0;

    if (masked == 0) {
        base_buf_append(writer->out, bytes, end - start);
        return;
    }
    if (writer->n_masked == 0 || writer->masked_end != start) {
        base_buf_append_str(writer->out, labels[guard_owner(masked)]);
        writer->n_masked++;
    }
    writer->masked_end = end;
}

enum base_code pol_mask(const struct pol_guard *guard, const char *text, size_t len,
                        const struct pol_findings *findings, struct base_buf *out, uint32_t *ret_n_masked)
{
    struct guard_writer writer = {.actions = guard->input, .out = out};
    size_t at = 0;
    uint32_t also = 0; /* kinds of the empty findings before a real one */

    for (size_t i = 0; i < findings->n; i++) {
        const struct pol_finding *f = &findings->items[i];

        if (f->start < at || f->end < f->start || f->end > len || (unsigned)f->detector >= POL_DETECT_COUNT)
            return BASE_INVALID;
        if (f->start == f->end) {
            also |= 1u << f->detector;
            continue;
        }
        if (f->start > at)
            guard_write_piece(&writer, text + at, at, f->start, 0);
        guard_write_piece(&writer, text + f->start, f->start, f->end, also | 1u << f->detector);
        also = 0;
        at = f->end;
    }
    if (at < len)
        guard_write_piece(&writer, text + at, at, len, 0);
    if (out->failed)
        return BASE_TOO_LARGE;
    *ret_n_masked = writer.n_masked;
    return BASE_OK;
}
