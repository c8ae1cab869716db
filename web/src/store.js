// The page's state and everything that changes it. Components read `store` and call its methods; each change calls
// emit(), which redraws. Streamed text is the exception: it goes to the answer's view directly, once per frame.
//
// Chats are held in memory only, on purpose: a browser's storage outlives the session, is readable by whoever uses the
// machine next, and cannot be reached when a person's content is to be erased. Only the unsent draft is kept in
// sessionStorage (this tab, gone with it), because losing what one has typed is worse.

import { Account } from './account.js';
import { ApiError, fetchModels, streamChat } from './api.js';
import { CLASSES, stricter } from './classes.js';
import { t } from './strings.js';

const DRAFT_KEY = 'gatehouse.draft';
const SUBJECT_KEY = 'gatehouse.subject'; // whose draft it is
const DRAFT_DELAY_MS = 250;
const TITLE_CHARS = 48;
const SAY_EVERY_MS = 7000;
const BUSY = new Set(['checking', 'waiting', 'starting', 'writing']);

let nextId = 1;

// One answer: its text, where it stands, and what the gateway said about it.
class Answer {
  id = `a${nextId++}`;
  text = '';
  status = 'checking'; // checking, waiting, starting, writing, done, stopped, error
  gate = null;
  maskedBefore = {};
  maskedAfter = {};
  usage = null;
  finishReason = '';
  error = null;
  abort = new AbortController();
  view = null;         // hears push(text) and finish() while the answer is on the page

  get busy() {
    return BUSY.has(this.status);
  }

  get masked() {
    return this.gate?.masked ?? {};
  }

  // The first report tells what was masked on the way in; what later ones add was masked in the answer.
  setGate(info) {
    const masked = info && typeof info.masked === 'object' && info.masked ? info.masked : {};
    if (!this.gate)
      this.maskedBefore = masked;
    for (const [kind, n] of Object.entries(masked)) {
      if (n > (this.maskedBefore[kind] ?? 0))
        this.maskedAfter[kind] = n - (this.maskedBefore[kind] ?? 0);
    }
    this.gate = { ...this.gate, ...info, masked };
  }
}

class Store {
  account = new Account((session, former) => this.#adopt(session, former));
  signInNote = '';
  ended = false;       // the session was ended while the page was in use, and not by it
  models = null;       // null: not loaded
  modelsError = '';
  modelId = '';
  chats = [];
  chat = null;
  draft = '';
  onDraft = null;      // redraws the message field alone: a key press must not redraw the whole chat
  said = '';           // for the status region: what a screen reader should hear
  #draftTimer = 0;
  #listeners = new Set();

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit() {
    for (const listener of this.#listeners)
      listener();
  }

  say(text) {
    this.said = text;
    this.emit();
  }

  // --- session and models ---

  // undefined: not known yet, null: signed out
  get session() {
    return this.account.session;
  }

  async start() {
    this.newChat();
    this.draft = recall(DRAFT_KEY);
    window.addEventListener('pagehide', () => this.#keepDraft());
    // who has signed in in another tab comes back to this one
    document.addEventListener('visibilitychange', () => document.hidden || this.session !== null || this.#readSession());
    await this.#readSession();
  }

  async checkSession() {
    await this.#readSession();
    if (!this.session && !this.signInNote) {
      this.signInNote = t.signInStill;
      this.emit();
    }
  }

  async #readSession() {
    this.signInNote = '';
    try {
      await this.account.read();
    } catch {
      this.account.leave();
      this.signInNote = t.signInError;
    }
    this.emit();
  }

  // A session was read: nothing of another person's may be left, and other roles have other models.
  #adopt(session, former) {
    if (!session) {
      this.ended ||= Boolean(former);
      this.signInNote = former ? t.sessionOver : '';
      return;
    }
    this.ended = false;
    this.signInNote = '';
    this.#sameOrForget(`${session.subject} ${session.provider ?? ''}`);
    if (!this.models || this.modelsError || String(session.roles) !== String(former?.roles))
      this.loadModels();
  }

  async loadModels() {
    this.modelsError = '';
    try {
      this.models = await fetchModels(this.account);
      if (!this.model)
        this.modelId = this.models[0]?.id ?? '';
    } catch (error) {
      this.modelsError = error instanceof ApiError ? error.message : t.modelsFailed;
    }
    this.emit();
  }

  async signOut() {
    let url = '';
    try {
      url = await this.account.signOut();
    } catch (error) {
      if (error.status !== 401)
        return this.say(t.signOutFailed);
    }
    this.#forget();
    this.account.leave();
    this.ended = false;
    this.signInNote = '';
    this.emit();
    if (url)
      location.assign(url); // signed out here; there, too
  }

  // Another person may sign in where a session had ended: nothing of the former one may be there then.
  #sameOrForget(person) {
    const former = recall(SUBJECT_KEY);
    if (former && former !== person)
      this.#forget();
    keep(SUBJECT_KEY, person);
  }

  #forget() {
    for (const chat of this.chats)
      this.stop(chat);
    this.chats = [];
    this.models = null;
    this.modelId = '';
    this.newChat();
    this.setDraft('');
    this.#keepDraft();
    keep(SUBJECT_KEY, '');
  }

  get model() {
    return this.models?.find(model => model.id === this.modelId) ?? null;
  }

  chooseModel(id) {
    this.modelId = id;
    this.emit();
  }

  // --- chats ---

  newChat() {
    const empty = this.chats.find(chat => !chat.turns.length);
    this.chat = empty ?? { id: `c${nextId++}`, title: '', turns: [], stated: '', floor: '' };
    if (!empty)
      this.chats.unshift(this.chat);
    this.emit();
  }

  openChat(chat) {
    this.chat = chat;
    this.emit();
  }

  setDraft(text) {
    this.draft = text;
    clearTimeout(this.#draftTimer);
    this.#draftTimer = setTimeout(() => this.#keepDraft(), DRAFT_DELAY_MS);
    this.onDraft?.();
  }

  #keepDraft() {
    clearTimeout(this.#draftTimer);
    keep(DRAFT_KEY, this.draft);
  }

  // A class can be raised by hand, never lowered under what an earlier message of the chat was marked with: that
  // message goes to the model again with each new one.
  stateClass(level) {
    this.chat.stated = CLASSES.includes(level) ? stricter(level, this.chat.floor) : '';
    this.emit();
  }

  get stated() {
    return stricter(this.chat.stated, this.chat.floor);
  }

  get busy() {
    return this.chat.turns.at(-1)?.answer.busy ?? false;
  }

  send() {
    const text = this.draft.trim();
    if (!text || this.busy || !this.model)
      return;
    const { chat } = this;
    chat.title ||= title(text);
    chat.floor = this.stated;
    chat.turns.push({ id: `t${nextId++}`, text, stated: this.stated, answer: new Answer() });
    this.setDraft('');
    this.#run(chat, chat.turns.at(-1));
  }

  retry(turn) {
    if (this.busy)
      return;
    turn.answer = new Answer();
    turn.stated = this.stated;
    this.#run(this.chat, turn);
  }

  stop(chat = this.chat) {
    chat.turns.at(-1)?.answer.abort.abort();
  }

  async #run(chat, turn) {
    const { answer } = turn;
    const model = this.modelId;
    this.say(t.stages.checking);
    try {
      await streamChat({
        account: this.account,
        model,
        messages: messagesOf(chat, turn),
        dataClass: turn.stated,
        signal: answer.abort.signal,
        on: this.#hear(answer),
      });
      answer.status = 'done';
      this.say(t.said.finished(answer.text.split(/\s+/).filter(Boolean).length));
    } catch (error) {
      this.#failed(answer, error);
    }
    answer.view?.finish();
    this.emit();
  }

  #hear(answer) {
    let lastSaid = Date.now();
    const stage = status => {
      if (answer.status === status)
        return;
      answer.status = status;
      this.emit();
    };
    return {
      waiting: () => answer.text || stage('waiting'),
      gate: info => {
        answer.setGate(info);
        if (!answer.text)
          answer.status = 'starting';
        this.emit();
      },
      text: text => {
        answer.text += text;
        answer.view?.push(text);
        if (answer.status !== 'writing') {
          this.said = t.said.started;
          stage('writing');
        } else if (Date.now() - lastSaid > SAY_EVERY_MS) {
          lastSaid = Date.now();
          this.say(t.said.going);
        }
      },
      usage: usage => { answer.usage = usage; },
      finish: reason => { answer.finishReason = reason; },
    };
  }

  #failed(answer, error) {
    if (error.name === 'AbortError') {
      answer.status = 'stopped';
      return this.say(t.said.stopped);
    }
    if (!(error instanceof ApiError))
      console.error(error); // our own bug: seen by the tests, and the reader gets a card all the same
    answer.status = 'error';
    answer.error = error instanceof ApiError ? error : new ApiError({ message: t.brokenOff, code: 'page' });
    answer.errorAt = Date.now();
    if (error.code === 'session_ended' && this.session) // in the middle of the answer: is it over, or was it begun anew elsewhere?
      this.#readSession();
    this.say(answer.error.message);
  }
}

// What the model is told: every turn up to this one that has an answer, and this one's question.
function messagesOf(chat, turn) {
  const messages = [];
  for (const earlier of chat.turns) {
    if (earlier === turn)
      break;
    if (earlier.answer.text)
      messages.push({ role: 'user', content: earlier.text }, { role: 'assistant', content: earlier.answer.text });
  }
  messages.push({ role: 'user', content: turn.text });
  return messages;
}

function title(text) {
  const line = text.split('\n', 1)[0];
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS).trimEnd()}…` : line;
}

// Storage may be switched off by the browser's settings, or full: then there is no draft after a reload, and that is all.
function recall(key) {
  try {
    return sessionStorage.getItem(key) ?? '';
  } catch {
    return '';
  }
}

function keep(key, text) {
  try {
    if (text)
      sessionStorage.setItem(key, text);
    else
      sessionStorage.removeItem(key);
  } catch {
    // see recall
  }
}

export const store = new Store();
