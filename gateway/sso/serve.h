/* Serving: frames in, requests to their threads, replies out. */
#ifndef GATEWAY_SSO_SERVE_H
#define GATEWAY_SSO_SERVE_H

#include "gateway/sso/sso.h"

/* Waits for the first frame, which must be `configure`, and reads it. The reply is sent by sso_serve. BASE_CANCELLED: the gateway
 * closed before. A provider whose configuration does not hold is kept as one that refuses, and the reply says why. */
enum base_code sso_serve_configure(struct sso_process **ret_process, struct base_err *err);
/* Until the gateway closes the socket or breaks the framing. The process' exit status. */
int sso_serve(struct sso_process *process);

/* One request, on a thread: checks its form, calls the handler, and makes the reply. Never NULL. Exposed for the fuzz target. */
json_t *sso_answer(struct sso_process *process, const json_t *request, uint64_t deadline_ms);
enum base_code sso_process_new(struct sso_process **ret_process, const char *json, size_t len,
                               json_t **ret_reply, struct base_err *err);
void sso_process_free(struct sso_process *process);

#endif
