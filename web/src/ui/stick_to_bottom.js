// Keeps a scrolling box at its end while text arrives, and lets go the moment the reader scrolls.
//
// There is one owner of the position: every position that we set is remembered, so a scroll event at another one can
// only be the reader's. Scrolling back to the end takes hold again.

const NEAR_PX = 40;

export class StickToBottom {
  stuck = true;
  #expected = -1;

  // `content` is what scrolls inside `box`: its height also changes without new text, when the browser learns the true
  // height of what had been off the screen.
  constructor(box, content, onChange) {
    this.box = box;
    this.onChange = onChange;
    box.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    box.addEventListener('wheel', event => event.deltaY < 0 && this.#let(false), { passive: true });
    this.resize = new ResizeObserver(() => this.follow());
    this.resize.observe(box);
    this.resize.observe(content);
  }

  // To be called after the content has grown.
  follow() {
    if (this.stuck)
      this.#toEnd();
  }

  toEnd() {
    this.#let(true);
    this.#toEnd();
  }

  close() {
    this.resize.disconnect();
  }

  #toEnd() {
    this.box.scrollTop = this.box.scrollHeight;
    this.#expected = this.box.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    if (Math.abs(scrollTop - this.#expected) <= 1)
      return;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    // Moving down without reaching the end is no wish to follow; moving up always is one not to.
    this.#let(atEnd);
  }

  #let(stuck) {
    if (stuck === this.stuck)
      return;
    this.stuck = stuck;
    this.onChange(stuck);
  }
}
