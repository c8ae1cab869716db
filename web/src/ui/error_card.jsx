// A refusal or failure as a card: what happened in the gateway's words, and what can be done about it.

import { useEffect, useState } from 'preact/hooks';
import { t } from '../strings.js';
import { CopyButton } from './copy_button.jsx';
import { AlertIcon } from './icons.jsx';

function kindOf({ status, code }) {
  if (code === 'offline')
    return 'offline';
  if (code === 'session_ended')
    return 'ended';
  if (status === 429)
    return 'rate';
  if (status === 403 || status === 451)
    return 'denied';
  if (status === 0)
    return 'broken';
  return status >= 500 ? 'busy' : 'input';
}

// The same request again can only help against what passes by itself.
const CAN_RETRY = new Set(['offline', 'rate', 'broken', 'busy', 'ended']);

export function ErrorCard({ error, since, onRetry, onOtherModel }) {
  const kind = kindOf(error);
  const left = useCountdown(since + error.retryAfter * 1000);
  return (
    <section class={`error-card error-${kind}`} aria-label={t.errorTitles[kind]}>
      <AlertIcon size={20} />
      <div class="error-body">
        <p class="error-title">{t.errorTitles[kind]}</p>
        <p class="error-message">{error.message}</p>
        <div class="error-actions">
          {onRetry && CAN_RETRY.has(kind) && (
            <button type="button" class="secondary" disabled={left > 0} onClick={onRetry}>{left > 0 ? t.retryIn(left) : t.retry}</button>
          )}
          {onOtherModel && kind === 'denied' && <button type="button" class="secondary" onClick={onOtherModel}>{t.otherModel}</button>}
          {error.code && <span class="error-code">{t.errorCode(error.code)}</span>}
          {error.requestId && (
            <CopyButton className="record" text={() => error.requestId} label={t.copyRecord(error.requestId)}>
              {t.record} {error.requestId}
            </CopyButton>
          )}
        </div>
      </div>
    </section>
  );
}

// Whole seconds until `end`, redrawn once a second while there are any.
function useCountdown(end) {
  const [, redraw] = useState(0);
  const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
  useEffect(() => {
    if (left <= 0)
      return undefined;
    const timer = setTimeout(() => redraw(n => n + 1), Math.min(1000, end - Date.now()));
    return () => clearTimeout(timer);
  });
  return left;
}
