// The small signs that say what class a text has and where it was answered. Never by colour alone.

import { rank } from '../classes.js';
import { t } from '../strings.js';
import { CloudIcon, HouseIcon, ShieldIcon } from './icons.jsx';

export function className(level) {
  return t.classes[level]?.[0] ?? level;
}

export function ClassBadge({ level }) {
  const known = rank(level) >= 0 ? level : 'secret'; // unknown looks like the strictest
  return <span class={`badge class-${known}`}><ShieldIcon size={13} />{className(level)}</span>;
}

export function PlaceBadge({ local, children }) {
  return <span class={`badge ${local ? 'place-here' : 'place-there'}`}>{local ? <HouseIcon size={13} /> : <CloudIcon size={13} />}{children}</span>;
}

export function Masks({ title, masked }) {
  const kinds = Object.entries(masked).filter(([, n]) => n > 0);
  if (!kinds.length)
    return null;
  return (
    <p class="masks">
      <span>{title}</span>
      {kinds.map(([kind, n]) => <span key={kind} class="mask">{t.maskedCount(kind, n)}</span>)}
    </p>
  );
}
