// Copying text. The clipboard API exists only on https and localhost; elsewhere the old command still works.

export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not focused, or refused by the browser: try the other way
    }
  }
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'sr-only';
  area.tabIndex = -1;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  focused?.focus();
  return copied;
}
