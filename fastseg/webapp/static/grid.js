// A grid of thousands of things: only the rows in sight are in the page.

import { api } from "./app.js";

const BLOCK = 100; // things that are asked for at a time
const SPARE = 2; // rows beyond the window that are there already

/**
 * Show what `address(from, count)` answers with, {total, [key]: [...]}, in the list `root`.
 * `draw(thing, index)` returns a tile's content. Tiles are at least `width` px wide.
 */
export class Grid {
  constructor(root, { address, draw, key = "images", width = 176, height = 222, gap = 12 }) {
    Object.assign(this, { root, address, draw, key, width, height, gap });
    this.things = new Map();
    this.asked = new Set();
    this.total = 0;
    this.round = 0;
    this.shown = new Map();
    root.classList.add("virtual");
    const redraw = () => this.draws ??= requestAnimationFrame(() => { this.draws = null; this.refresh(); });
    addEventListener("scroll", redraw, { passive: true });
    new ResizeObserver(redraw).observe(root);
    root.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Ask again from the start, as the filters are now. A tile that has the focus keeps it. */
  async reload() {
    const round = ++this.round;
    const first = await api(this.address(0, BLOCK));
    if (round !== this.round) return;
    const focused = [...this.shown].find(([, tile]) => tile.contains(document.activeElement))?.[0];
    this.things.clear();
    this.asked = new Set([0]);
    this.shown.forEach((tile) => tile.remove());
    this.shown.clear();
    this.#take(0, first);
    this.refresh();
    if (focused === undefined) return;
    await this.fetch(focused);
    if (round === this.round && document.activeElement === document.body) this.focus(focused);
  }

  at(index) {
    return this.things.get(index);
  }

  /** Return the thing at an index, asked for if it is not here yet; undefined beyond the ends. */
  async fetch(index) {
    if (index < 0 || index >= this.total) return undefined;
    if (!this.things.has(index)) await this.#ask(Math.floor(index / BLOCK));
    return this.things.get(index);
  }

  #take(block, found) {
    this.total = found.total;
    found[this.key].forEach((thing, place) => this.things.set(block * BLOCK + place, thing));
  }

  async #ask(block) {
    const round = this.round;
    this.asked.add(block);
    try {
      const found = await api(this.address(block * BLOCK, BLOCK));
      if (round === this.round) this.#take(block, found);
    } catch {
      this.asked.delete(block); // asked again with the next scroll
    }
  }

  get columns() {
    return Math.max(1, Math.floor((this.root.clientWidth + this.gap) / (this.width + this.gap)));
  }

  refresh() {
    const { columns, gap, root } = this;
    const wide = (root.clientWidth - gap * (columns - 1)) / columns;
    const step = this.height + gap;
    const rows = Math.ceil(this.total / columns);
    root.style.height = `${Math.max(0, rows * step - gap)}px`;
    const top = -root.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / step) - SPARE) * columns;
    const last = Math.min(this.total, (Math.ceil((top + innerHeight) / step) + SPARE) * columns);
    for (const [index, tile] of this.shown)
      if ((index < first || index >= last) && !tile.contains(document.activeElement)) {
        tile.remove();
        this.shown.delete(index);
      }
    let before = null;
    for (let index = first; index < last; index++) {
      const thing = this.things.get(index);
      const block = Math.floor(index / BLOCK);
      if (!thing && !this.asked.has(block)) this.#ask(block).then(() => this.refresh());
      if (!thing) continue;
      let tile = this.shown.get(index);
      if (!tile) {
        tile = document.createElement("li");
        tile.setAttribute("aria-posinset", index + 1);
        tile.append(this.draw(thing, index));
        this.shown.set(index, tile);
        if (before) before.after(tile);
        else root.prepend(tile);
      }
      tile.setAttribute("aria-setsize", this.total);
      tile.style.width = `${wide}px`;
      tile.style.height = `${this.height}px`;
      tile.style.transform = `translate(${(index % columns) * (wide + gap)}px, ${Math.floor(index / columns) * step}px)`;
      before = tile;
    }
  }

  #move(event) {
    const tile = event.target.closest("li");
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
    if (!tile || !step || event.altKey || event.ctrlKey || event.metaKey) return;
    const index = Number(tile.getAttribute("aria-posinset")) - 1 + step;
    if (index < 0 || index >= this.total) return;
    event.preventDefault();
    this.focus(index);
  }

  focus(index) {
    const row = Math.floor(index / this.columns) * (this.height + this.gap);
    const top = this.root.getBoundingClientRect().top + row;
    if (top < 80 || top + this.height > innerHeight) scrollBy(0, top - innerHeight / 3);
    this.refresh();
    this.shown.get(index)?.querySelector("a, button")?.focus({ preventScroll: true });
  }
}
