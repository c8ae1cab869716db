// One question and its answer.

import { useLayoutEffect, useRef } from 'preact/hooks';
import { MarkdownView } from '../markdown/view.js';
import { t } from '../strings.js';
import { ClassBadge, Masks, PlaceBadge, className } from './badges.jsx';
import { CopyButton } from './copy_button.jsx';
import { ErrorCard } from './error_card.jsx';
import { CopyIcon } from './icons.jsx';

export function Turn({ turn, onGrow, onRetry, onOtherModel }) {
  const { answer } = turn;
  return (
    <article class="turn">
      <div class="question">
        <h2 class="sr-only">{t.you}</h2>
        <p class="bubble" dir="auto">{turn.text}</p>
        {turn.stated && <ClassBadge level={turn.stated} />}
        <Masks title={t.maskedBefore} masked={answer.maskedBefore} />
      </div>
      <div class="answer">
        <h2 class="sr-only">{t.answer}</h2>
        <AnswerText key={answer.id} answer={answer} onGrow={onGrow} />
        {answer.busy && <Stage status={answer.status} />}
        {answer.error && <ErrorCard error={answer.error} since={answer.errorAt} onRetry={onRetry} onOtherModel={onOtherModel} />}
        {!answer.busy && <Footer answer={answer} />}
      </div>
    </article>
  );
}

// The text is not Preact's: the view owns this element's children.
function AnswerText({ answer, onGrow }) {
  const root = useRef();
  useLayoutEffect(() => {
    const view = new MarkdownView(root.current, { masked: () => answer.masked, onDrawn: onGrow, tooLong: t.tooLong });
    view.push(answer.text);
    if (answer.busy)
      answer.view = view;
    else
      view.finish();
    return () => {
      view.close();
      if (answer.view === view)
        answer.view = null;
    };
  }, [answer]);
  return <div class="markdown" ref={root} aria-busy={answer.busy} />;
}

function Stage({ status }) {
  return <p class="stage"><span class="pulse" aria-hidden="true" />{t.stages[status]}{status === 'writing' ? '' : '…'}</p>;
}

function Footer({ answer }) {
  const { gate, usage } = answer;
  const ends = { length: t.cutLength, content_filter: t.cutFilter };
  const end = answer.status === 'stopped' ? t.stopped : ends[answer.finishReason];
  if (!gate && !answer.text && !end)
    return null;
  return (
    <footer class="answer-footer">
      {end && <p class="ending">{end}</p>}
      <Masks title={t.maskedAfter} masked={answer.maskedAfter} />
      <div class="facts">
        {answer.text && (
          <CopyButton className="copy-answer" text={() => answer.text} label={t.copy}><CopyIcon size={15} />{t.copy}</CopyButton>
        )}
        {gate && <GateFacts gate={gate} />}
        {usage && <span class="fact" title={t.tokensWhy}>{t.tokens(usage.prompt_tokens ?? 0, usage.completion_tokens ?? 0)}</span>}
        {gate?.request_id && !answer.error && (
          <CopyButton className="record" text={() => gate.request_id} label={t.copyRecord(gate.request_id)}>
            {t.record} {gate.request_id.slice(-8)}
          </CopyButton>
        )}
      </div>
      {gate && <Why gate={gate} />}
    </footer>
  );
}

function GateFacts({ gate }) {
  const local = gate.route_kind === 'engine';
  return (
    <>
      <PlaceBadge local={local}>{local ? t.here : t.there(gate.route ?? '')}</PlaceBadge>
      <ClassBadge level={gate.class ?? ''} />
      <span class="fact">{gate.model}</span>
    </>
  );
}

function Why({ gate }) {
  const source = t.classSources[gate.class_source] ?? gate.class_source ?? '';
  const reasons = Array.isArray(gate.reasons) ? gate.reasons.map(String) : [];
  return (
    <details class="why">
      <summary>{t.why}</summary>
      <ul>
        <li>{t.classFrom(className(gate.class ?? ''), source)}</li>
        {reasons.map(reason => <li key={reason}>{reason}</li>)}
        {!reasons.length && <li>{t.noReasons}</li>}
      </ul>
    </details>
  );
}
