import { useEffect, useState } from 'preact/hooks';
import { copyText } from '../clipboard.js';
import { store } from '../store.js';
import { t } from '../strings.js';

const SHOW_MS = 1600;

// `text` is a function: what is copied is read at the click.
export function CopyButton({ text, label, children, className = '' }) {
  const [result, setResult] = useState('');
  useEffect(() => {
    if (!result)
      return undefined;
    const timer = setTimeout(() => setResult(''), SHOW_MS);
    return () => clearTimeout(timer);
  }, [result]);
  const copy = async () => {
    const said = (await copyText(text())) ? t.copied : t.copyFailed;
    setResult(said);
    store.say(said);
  };
  return <button type="button" class={`quiet ${className}`} aria-label={label} onClick={copy}>{result || children}</button>;
}
