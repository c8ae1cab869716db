// Where a message is written: draft, data class, send and stop.

import { useLayoutEffect, useReducer } from 'preact/hooks';
import { allows, rank } from '../classes.js';
import { store } from '../store.js';
import { t } from '../strings.js';
import { className } from './badges.jsx';
import { Choice } from './choice.jsx';
import { SendIcon, ShieldIcon, StopIcon } from './icons.jsx';
import { touch } from './touch.js';

const MAX_HEIGHT_PX = 260;

// The stop button stands where the send button was: the second half of a double click is not meant for it.
function stop(event) {
  if (event.detail < 2)
    store.stop();
}

// An input method confirms its word with Enter; keyCode 229 is how some browsers say so after the composition ended.
function sends(event) {
  return event.key === 'Enter' && !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey
    && !event.isComposing && event.keyCode !== 229 && !touch.matches;
}

export function Composer({ inputRef, onSend }) {
  const { draft, busy, model, stated } = store;
  const tooLow = model && !allows(model.maxClass, stated);
  const ready = draft.trim() !== '' && !busy && model && !tooLow;
  const [, redraw] = useReducer(n => n + 1, 0);

  useLayoutEffect(() => {
    store.onDraft = redraw;
    return () => { store.onDraft = null; };
  }, []);
  useLayoutEffect(() => {
    const area = inputRef.current;
    area.style.height = 'auto'; // through the CSSOM, which the page's policy allows; a style attribute it does not
    area.style.height = `${Math.min(area.scrollHeight, MAX_HEIGHT_PX)}px`;
  }, [draft]);

  const submit = event => {
    event?.preventDefault();
    if (!ready)
      return;
    store.send();
    onSend();
  };

  return (
    <form class="composer" onSubmit={submit}>
      {tooLow && (
        <p class="composer-note" id="too-low">{t.modelTooLow(model.id, className(model.maxClass), className(stated))}</p>
      )}
      <div class="composer-box">
        <label class="sr-only" for="composer">{t.composer}</label>
        <textarea id="composer" ref={inputRef} rows="1" dir="auto" value={draft} placeholder={t.placeholder}
                  aria-describedby={tooLow ? 'too-low' : 'hint'} enterkeyhint={touch.matches ? 'enter' : 'send'}
                  onInput={event => store.setDraft(event.target.value)}
                  onKeyDown={event => { if (sends(event)) submit(event); }} />
        <div class="composer-row">
          <ClassChoice />
          <span class="hint" id="hint">{t.hintEnter}</span>
          {busy
            ? <button type="button" class="primary round" onClick={stop}><StopIcon /><span class="sr-only">{t.stop}</span></button>
            : <button type="submit" class="primary round" disabled={!ready}><SendIcon /><span class="sr-only">{t.send}</span></button>}
        </div>
      </div>
    </form>
  );
}

function ClassChoice() {
  const { floor } = store.chat;
  const value = store.stated || 'auto';
  const options = Object.entries(t.classes).map(([level, [name, text]]) => ({
    value: level,
    name,
    text,
    disabled: rank(level) < rank(floor),
  }));
  return (
    <Choice label={t.dataClass} className={`class-choice class-${value}`} options={options} value={value}
            button={<span class="opener-text"><ShieldIcon size={15} />{className(value)}</span>}
            note={floor && t.classFloor(className(floor))} onChoose={level => store.stateClass(level)} />
  );
}
