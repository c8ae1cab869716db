// Is the main pointer a finger? Then the keyboard is one on the screen: Enter is the only way to a new line, and giving a
// field the focus covers half of the page.

export const touch = window.matchMedia('(pointer: coarse)');
