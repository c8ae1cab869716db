/* Canonical bytes of a record: what decodes must encode to the same bytes. */
#include "audit/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aud_fields fields;
    struct base_buf out = BASE_BUF_INIT(AUD_CANONICAL_MAX);

    if (aud_record_decode(data, size, &fields, NULL) != BASE_OK)
        return 0;
    if (aud_record_encode(&fields, &out, NULL) != BASE_OK || out.len != size ||
        memcmp(out.data, data, size) != 0)
        abort();
    base_buf_free(&out);
    return 0;
}
