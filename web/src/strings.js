// Every word the page says, in one place. The gateway's own sentences (errors, reasons) come in its answers.

const MASK_KINDS = {
  card: ['card number', 'card numbers'],
  iban: ['IBAN', 'IBANs'],
  email: ['e-mail address', 'e-mail addresses'],
  phone: ['phone number', 'phone numbers'],
  ssn: ['social security number', 'social security numbers'],
  ip: ['IP address', 'IP addresses'],
  secret: ['secret', 'secrets'],
  api_key: ['API key', 'API keys'],
  private_key: ['private key', 'private keys'],
  password: ['password', 'passwords'],
  token: ['access token', 'access tokens'],
};

const maskKind = (kind, n = 1) => (Object.hasOwn(MASK_KINDS, kind) ? MASK_KINDS[kind][n === 1 ? 0 : 1] : kind.replaceAll('_', ' '));
const number = n => n.toLocaleString('en');
const plural = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;

export const t = {
  product: 'Gatehouse',
  skip: 'Skip to the message field',
  loading: 'One moment…',

  signInTitle: 'Please sign in',
  signInHow: 'Open the one-time link that the administrator gave you. It signs this browser in and then stops working.',
  signInKept: 'If you have opened the link in another tab, check again here: what you have written stays.',
  signInCheck: 'Check again',
  signInStill: 'This browser is not signed in yet.',
  signInError: 'The gateway did not answer. Check your connection and try again.',
  signOut: 'Sign out',
  signOutFailed: 'Signing out did not work. Try again.',
  account: name => `Account: ${name}`,
  roles: roles => (roles.length ? `Roles: ${roles.join(', ')}` : 'No roles'),
  sessionEnds: time => `Signed in until ${time}`,

  chats: 'Chats',
  newChat: 'New chat',
  openChats: 'Show chats',
  closeChats: 'Close',
  untitled: 'New chat',
  chatsNote: 'Chats live in this page only. They are gone when you reload or close it.',

  emptyTitle: 'What are you working on?',
  emptyText: 'Gatehouse checks each message before a model sees it, and tells you under every answer where it was written.',
  starters: [
    { label: 'Summarise a text', text: 'Summarise the following text in five sentences:\n\n' },
    { label: 'Draft a reply', text: 'Draft a polite and short reply to this message:\n\n' },
    { label: 'Explain some code', text: 'Explain what this code does and what could go wrong:\n\n' },
  ],

  model: 'Model',
  noModels: 'No model is open to you. Ask your administrator.',
  modelsFailed: 'The list of models could not be loaded.',
  reload: 'Try again',
  upTo: level => `Up to ${level}`,
  local: 'Stays in this building',
  remote: 'Goes to a provider',
  modelTooLow: (model, ceiling, level) => `${model} may see ${ceiling} data at most. This message is marked ${level}.`,

  dataClass: 'Data class',
  classes: {
    auto: ['Automatic', 'Gatehouse looks at the text and decides.'],
    public: ['Public', 'Anyone may read it.'],
    internal: ['Internal', 'For people of this organisation.'],
    confidential: ['Confidential', 'For named people only: contracts, personal data.'],
    secret: ['Secret', 'Would do grave harm outside its circle.'],
  },
  classFloor: level => `Part of this chat is marked ${level}, so it cannot go lower. Start a new chat for that.`,

  composer: 'Message',
  placeholder: 'Write a message',
  hintEnter: 'Enter sends, Shift+Enter starts a new line',
  send: 'Send',
  stop: 'Stop',
  toLatest: 'To the latest',

  you: 'You',
  answer: 'Answer',
  stages: {
    checking: 'Checking your message',
    waiting: 'Waiting for a place',
    starting: 'The model is reading',
    writing: 'Writing',
  },
  stopped: 'Stopped by you',
  cutLength: 'The answer reached its length limit',
  cutFilter: 'The answer was stopped by a rule',
  said: { started: 'The answer has begun.', going: 'Still writing.', finished: words => `Answer finished, ${plural(words, 'word', 'words')}.`, stopped: 'Stopped.' },

  here: 'Answered in this building',
  there: name => `Answered by ${name}`,
  tokens: (input, output) => `${number(input)} + ${plural(output, 'token', 'tokens')}`,
  tokensWhy: 'Tokens read + tokens written',
  record: 'Record',
  copyRecord: id => `Copy the record number ${id}`,
  why: 'Why here?',
  classFrom: (level, source) => `Data class ${level}, from: ${source}.`,
  classSources: { stated: 'your own mark', label: 'your own mark', marking: 'a marking in the text', detector: 'what the text contains', detected: 'what the text contains', default: 'the rule for unmarked text' },
  noReasons: 'The gateway gave no further reason.',

  maskedBefore: 'Masked before a model saw it:',
  maskedAfter: 'Masked in the answer:',
  maskedCount: (kind, n) => plural(n, maskKind(kind, 1), maskKind(kind, 2)),
  maskedSpan: kind => `${maskKind(kind)} masked`,
  maskedSpanWhy: 'Replaced by Gatehouse. The original is not in this text.',

  copy: 'Copy',
  copyCode: 'Copy code',
  copied: 'Copied',
  copyFailed: 'Could not copy',
  code: 'Code',
  codeIn: lang => `Code, ${lang}`,
  table: 'Table',
  taskDone: 'done',
  taskOpen: 'open',
  image: alt => (alt ? `Image: ${alt}` : 'Image'),
  linkRefused: 'link not allowed',
  tooLong: '*The answer is longer than this page shows. Copy gives you all of it.*',

  errorTitles: {
    denied: 'This was refused',
    rate: 'Too many requests for now',
    busy: 'The service cannot answer right now',
    broken: 'The answer broke off',
    offline: 'No connection to the gateway',
    input: 'This could not be sent',
  },
  offline: 'The gateway could not be reached. Your message is still here.',
  brokenOff: 'The connection ended before the answer was complete.',
  httpError: status => `The gateway answered with status ${status}.`,
  retry: 'Try again',
  retryIn: seconds => `Try again in ${seconds} s`,
  otherModel: 'Choose another model',
  errorCode: code => `Code: ${code}`,

  notices: 'Open-source notices',
};
