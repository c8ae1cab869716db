// Which addresses in a model's answer may become links, and what the reader must see of them.

const SCHEMES = new Set(['http:', 'https:', 'mailto:']);

// The parsed address, or null when it is relative, malformed or of another scheme. The URL parser is the judge (it drops
// control characters and folds case as the browser will), never a regular expression over the text.
export function safeUrl(href) {
  let url;
  try {
    url = new URL(href);
  } catch {
    return null;
  }
  return SCHEMES.has(url.protocol) ? url : null;
}

// What names the destination: the host in its ASCII form, so that look-alike letters show as xn--.
export function destination(url) {
  return url.protocol === 'mailto:' ? decodeMail(url.pathname) : url.host;
}

function decodeMail(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

// Does the link's own text already tell where it goes? Only if it is that very address.
export function textNamesDestination(text, url) {
  const said = text.trim().replace(/^(?:https?:\/\/|mailto:)/i, '').toLowerCase();
  const host = destination(url).toLowerCase();
  return said === host || (said.startsWith(host) && /[/?#]/.test(said[host.length]) && url.protocol !== 'mailto:');
}
