// Data classes, least to most protected. The gateway decides; the page only orders and names them.

export const CLASSES = ['public', 'internal', 'confidential', 'secret'];

export function rank(level) {
  return CLASSES.indexOf(level); // -1: unknown, or not stated
}

export function stricter(a, b) {
  return rank(a) >= rank(b) ? a : b;
}

// May a model with this ceiling see this class? What we do not know, it may not.
export function allows(ceiling, level) {
  return rank(level) < 0 || rank(ceiling) >= rank(level);
}
