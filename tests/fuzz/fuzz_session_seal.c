/* What Redis gives back as a session: the sealed bytes, and the fields inside as if the seal had held. */
#include "gateway/session_seal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned char key[BASE_GCM_KEY_BYTES], hash[BASE_SHA256_BYTES];
    struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);
    struct gw_session_record record;

    if (gw_session_open(key, hash, data, size, &record) == BASE_OK)
        gw_session_record_free(&record);
    if (gw_session_decode(data, size, &record) != BASE_OK)
        return 0;
    if (record.who.n_roles > GW_ROLES_MAX || record.who.subject[0] == '\0')
        abort();
    if (gw_session_seal(key, hash, &record, &sealed) == BASE_OK) {
        struct gw_session_record again;

        if (gw_session_open(key, hash, sealed.data, sealed.len, &again) != BASE_OK ||
            strcmp(again.who.subject, record.who.subject) != 0)
            abort();
        gw_session_record_free(&again);
    }
    base_buf_free(&sealed);
    gw_session_record_free(&record);
    return 0;
}
