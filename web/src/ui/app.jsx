// The page: bar, list of chats, the open chat, the message field.

import { useCallback, useEffect, useLayoutEffect, useReducer, useRef, useState } from 'preact/hooks';
import { copyText } from '../clipboard.js';
import { codeOf } from '../markdown/dom.js';
import { store } from '../store.js';
import { t } from '../strings.js';
import { PlaceBadge, className } from './badges.jsx';
import { Choice } from './choice.jsx';
import { Composer } from './composer.jsx';
import { CloseIcon, DownIcon, HouseIcon, CloudIcon, Logo, MenuIcon, PlusIcon, UserIcon } from './icons.jsx';
import { StickToBottom } from './stick_to_bottom.js';
import { touch } from './touch.js';
import { Turn } from './turn.jsx';

export function App() {
  const [, redraw] = useReducer(n => n + 1, 0);
  useLayoutEffect(() => store.subscribe(redraw), []); // before the first paint: the session's answer may come that soon
  return (
    <>
      {store.session === undefined && <p class="loading">{t.loading}</p>}
      {store.session === null && <SignIn />}
      {store.session && <Workplace />}
      <p class="sr-only" role="status">{store.said}</p>
    </>
  );
}

function SignIn() {
  const kept = store.draft || store.chats.some(chat => chat.turns.length);
  return (
    <main class="sign-in">
      <div class="card">
        <Logo size={44} />
        <h1>{store.ended ? t.signInEnded : t.signInTitle}</h1>
        {store.signInNote && <p class="sign-in-note" role="alert">{store.signInNote}</p>}
        <p>{t.signInHow}</p>
        {kept && <p>{t.signInKept}</p>}
        <div class="sign-in-actions">
          <a class="primary" href="/auth/sign-in" target={kept ? '_blank' : undefined} rel="noopener">{t.signInGo}</a>
          <button type="button" class="secondary" onClick={() => store.checkSession()}>{t.signInCheck}</button>
        </div>
      </div>
    </main>
  );
}

function Workplace() {
  const [side, setSide] = useState(false);
  const [askModel, setAskModel] = useState(0);
  const input = useRef();
  const menu = useRef();
  const closeSide = () => {
    setSide(false);
    menu.current.focus();
  };
  const startChat = () => {
    store.newChat();
    setSide(false);
    input.current.focus();
  };
  return (
    <div class={`workplace ${side ? 'side-open' : ''}`}>
      <a class="skip" href="#composer">{t.skip}</a>
      <header class="bar">
        <button type="button" class="quiet icon-only menu" ref={menu} aria-expanded={side} aria-controls="side" onClick={() => setSide(!side)}>
          <MenuIcon /><span class="sr-only">{t.openChats}</span>
        </button>
        <h1 class="brand"><Logo /><span>{t.product}</span></h1>
        <ModelChoice openSignal={askModel} />
        <Account />
      </header>
      {side && <div class="scrim" onClick={closeSide} />}
      <Side onClose={closeSide} onNew={startChat} onOpen={chat => { store.openChat(chat); setSide(false); }} />
      <Chat key={store.chat.id} inputRef={input} onOtherModel={() => setAskModel(askModel + 1)} />
    </div>
  );
}

function ModelChoice({ openSignal }) {
  if (store.modelsError)
    return <span class="models-note">{store.modelsError} <button type="button" class="quiet" onClick={() => store.loadModels()}>{t.reload}</button></span>;
  if (!store.models)
    return <span class="models-note">{t.loading}</span>;
  if (!store.models.length)
    return <span class="models-note">{t.noModels}</span>;
  const options = store.models.map(model => ({
    value: model.id,
    name: model.id,
    text: model.description,
    badge: (
      <span class="option-badges">
        <PlaceBadge local={model.localOnly}>{model.localOnly ? t.local : t.remote}</PlaceBadge>
        <span class="badge plain">{t.upTo(className(model.maxClass))}</span>
      </span>
    ),
  }));
  const { model } = store;
  return (
    <Choice label={t.model} className="model-choice" options={options} value={model?.id} openSignal={openSignal}
            button={<span class="opener-text">{model?.localOnly ? <HouseIcon size={15} /> : <CloudIcon size={15} />}<span class="model-name">{model?.id}</span></span>}
            onChoose={id => store.chooseModel(id)} />
  );
}

function Account() {
  const { session } = store;
  const name = session.name || session.subject;
  const ends = new Date(typeof session.expires_at === 'number' ? session.expires_at * 1000 : session.expires_at);
  return (
    <details class="account" onKeyDown={event => { if (event.key === 'Escape') { event.currentTarget.open = false; event.currentTarget.firstElementChild.focus(); } }}
             onFocusOut={event => { if (event.relatedTarget && !event.currentTarget.contains(event.relatedTarget)) event.currentTarget.open = false; }}>
      <summary aria-label={t.account(name)}><span class="account-who">{name}</span><span class="account-icon"><UserIcon /></span></summary>
      <div class="panel">
        <p class="account-name">{name}</p>
        {session.email && session.email !== name && <p class="option-note">{session.email}</p>}
        <p class="option-note">{t.roles(session.roles ?? [])}</p>
        {!Number.isNaN(ends.valueOf()) && <p class="option-note">{t.sessionEnds(ends.toLocaleString('en', { dateStyle: 'medium', timeStyle: 'short' }))}</p>}
        <button type="button" class="secondary" onClick={() => store.signOut()}>{t.signOut}</button>
        <a class="notices" href="/assets/notices.txt" target="_blank" rel="noopener">{t.notices}</a>
      </div>
    </details>
  );
}

function Side({ onClose, onNew, onOpen }) {
  return (
    <nav class="side" id="side" aria-label={t.chats} onKeyDown={event => event.key === 'Escape' && onClose()}>
      <div class="side-head">
        <button type="button" class="secondary new-chat" onClick={onNew}><PlusIcon />{t.newChat}</button>
        <button type="button" class="quiet icon-only side-close" onClick={onClose}><CloseIcon /><span class="sr-only">{t.closeChats}</span></button>
      </div>
      <ul>
        {store.chats.filter(chat => chat.turns.length).map(chat => (
          <li key={chat.id}>
            <button type="button" class="quiet chat-entry" aria-current={chat === store.chat ? 'page' : undefined} onClick={() => onOpen(chat)}>
              <span>{chat.title || t.untitled}</span>
            </button>
          </li>
        ))}
      </ul>
      <p class="side-note">{t.chatsNote}</p>
    </nav>
  );
}

function Chat({ inputRef, onOtherModel }) {
  const { chat } = store;
  const box = useRef();
  const turns = useRef();
  const stick = useRef();
  const [stuck, setStuck] = useState(true);

  useLayoutEffect(() => {
    stick.current = new StickToBottom(box.current, turns.current, setStuck);
    return () => stick.current.close();
  }, []);
  useLayoutEffect(() => stick.current.follow());
  useEffect(() => { if (!touch.matches) inputRef.current.focus(); }, []); // there it would raise the keyboard
  const onGrow = useCallback(() => stick.current?.follow(), []);
  const last = chat.turns.at(-1);

  return (
    <main class="chat">
      <div class={`scroll ${chat.turns.length ? '' : 'empty'} ${stuck ? 'following' : ''}`} ref={box} onClick={copyCode}>
        <div ref={turns}>
          {chat.turns.length === 0 && <Empty inputRef={inputRef} />}
          {chat.turns.map(turn => (
            <Turn key={turn.id} turn={turn} onGrow={onGrow} onOtherModel={onOtherModel}
                  onRetry={turn === last ? () => store.retry(turn) : null} />
          ))}
        </div>
      </div>
      <div class="foot">
        {!stuck && <button type="button" class="secondary to-latest" onClick={() => stick.current.toEnd()}><DownIcon size={16} />{t.toLatest}</button>}
        <Composer inputRef={inputRef} onSend={() => stick.current.toEnd()} />
      </div>
    </main>
  );
}

function Empty({ inputRef }) {
  const start = text => {
    store.setDraft(text);
    inputRef.current.focus();
  };
  return (
    <div class="welcome">
      <Logo size={48} />
      <h2>{t.emptyTitle}</h2>
      <p>{t.emptyText}</p>
      <ul class="starters">
        {t.starters.map(({ label, text }) => <li key={label}><button type="button" class="secondary" onClick={() => start(text)}>{label}</button></li>)}
      </ul>
    </div>
  );
}

// The code blocks are not Preact's, so their buttons are heard here.
async function copyCode(event) {
  const button = event.target.closest('button.copy-code');
  const text = button && codeOf(button);
  if (typeof text !== 'string')
    return;
  const said = (await copyText(text)) ? t.copied : t.copyFailed;
  button.textContent = said;
  store.say(said);
  setTimeout(() => { button.textContent = t.copyCode; }, 1600);
}
