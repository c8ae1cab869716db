// A button that opens a small panel of choices: native radio buttons, so that arrows, names and states work everywhere.
// Escape and clicking outside close it, and the focus goes back to the button.

import { useEffect, useId, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { DownIcon } from './icons.jsx';

// options: [{value, name, text, badge, disabled}]; `button` is what the closed control shows.
export function Choice({ label, button, options, value, onChoose, className = '', note, openSignal = 0 }) {
  const [open, setOpen] = useState(false);
  const root = useRef();
  const opener = useRef();
  const id = useId();

  useEffect(() => {
    if (openSignal)
      setOpen(true);
  }, [openSignal]);

  useLayoutEffect(() => {
    if (!open)
      return undefined;
    (root.current.querySelector('input:checked') ?? root.current.querySelector('input:not(:disabled)'))?.focus();
    const outside = event => root.current.contains(event.target) || setOpen(false);
    document.addEventListener('pointerdown', outside);
    document.addEventListener('focusin', outside);
    return () => {
      document.removeEventListener('pointerdown', outside);
      document.removeEventListener('focusin', outside);
    };
  }, [open]);

  const close = () => {
    setOpen(false);
    opener.current.focus();
  };
  const key = event => {
    const chosen = event.key === 'Enter' && event.target !== opener.current;
    if (!open || !(chosen || event.key === 'Escape'))
      return;
    event.preventDefault();
    event.stopPropagation();
    close();
  };

  return (
    <div class={`choice ${className}`} ref={root} onKeyDown={key}>
      <button type="button" class="quiet opener" ref={opener} aria-expanded={open} aria-controls={`${id}p`} aria-haspopup="true"
              onClick={() => setOpen(!open)}>
        <span class="sr-only">{label}: </span>{button}<DownIcon size={14} />
      </button>
      {open && (
        <fieldset class="panel" id={`${id}p`}>
          <legend>{label}</legend>
          {options.map(option => (
            <label key={option.value} class={`option ${option.disabled ? 'disabled' : ''}`}
                   onClick={event => event.detail > 0 && !option.disabled && setTimeout(close)}>
              <input type="radio" name={id} value={option.value} checked={option.value === value} disabled={option.disabled}
                     onChange={() => onChoose(option.value)} />
              <span class="option-text">
                <span class="option-name">{option.name}</span>
                {option.text && <span class="option-note">{option.text}</span>}
                {option.badge}
              </span>
            </label>
          ))}
          {note && <p class="panel-note">{note}</p>}
        </fieldset>
      )}
    </div>
  );
}
