// The class code of each pixel, one byte a pixel, and edits of them.
//
// An edit runs from `begin` to `commit` (one step of the history) or `cancel`. A tile is copied
// when an edit first touches it, so that a stroke on 12 megapixels costs what it touches.

import { History } from "./history.js";
import { wordsOf } from "./runs.js";

export const UNLABELLED = 255;
export const TILE = 256; // px; the side of what is copied, compared and drawn at a time

/** Return the smallest rectangle that has both, either of which may be null. */
export function joined(one, other) {
  if (!one || !other) return one || other;
  const x = Math.min(one.x, other.x);
  const y = Math.min(one.y, other.y);
  return {
    x,
    y,
    width: Math.max(one.x + one.width, other.x + other.width) - x,
    height: Math.max(one.y + one.height, other.y + other.height) - y,
  };
}

/** Return how many codes of two arrays differ. */
function differences(before, after) {
  const [one, other] = [wordsOf(before), wordsOf(after)];
  let count = 0;
  const compare = (from, to) => {
    for (let i = from; i < to; i++) if (after[i] !== before[i]) count++;
  };
  for (let word = 0; word < one.length; word++) {
    if (one[word] !== other[word]) compare(word * 4, word * 4 + 4);
  }
  compare(one.length * 4, after.length);
  return count;
}

export class Labels {
  /** `codes` is a Uint8Array of width * height, row by row; it is kept and changed. */
  constructor(width, height, codes) {
    this.width = width;
    this.height = height;
    this.codes = codes;
    this.history = new History();
    this.columns = Math.ceil(width / TILE);
    this.touched = null; // tile number -> its codes before the edit
  }

  at(x, y) {
    return this.codes[y * this.width + x];
  }

  get isEditing() {
    return this.touched !== null;
  }

  begin() {
    if (this.touched) this.cancel();
    this.touched = new Map();
  }

  /**
   * Give pixels a code; `runs` is a flat array of y, first x, and x after the last one.
   * Runs may lie outside of the image. Returns the changed rectangle, or null.
   */
  paint(runs, code) {
    const { width, height, codes } = this;
    let left = width;
    let right = 0;
    let top = height;
    let bottom = 0;
    for (let i = 0; i < runs.length; i += 3) {
      const y = runs[i];
      if (y < 0 || y >= height) continue;
      const from = Math.max(0, runs[i + 1]);
      const to = Math.min(width, runs[i + 2]);
      if (from >= to) continue;
      this.#keep(y, from, to);
      codes.fill(code, y * width + from, y * width + to);
      if (from < left) left = from;
      if (to > right) right = to;
      if (y < top) top = y;
      if (y >= bottom) bottom = y + 1;
    }
    return left < right ? { x: left, y: top, width: right - left, height: bottom - top } : null;
  }

  /** Give all pixels the codes of another array of the same size. */
  replace(codes) {
    for (let y = 0; y < this.height; y += TILE) this.#keep(y, 0, this.width);
    this.codes.set(codes);
  }

  /** End the edit as one step. Returns the number of changed pixels; 0 makes no step. */
  commit(name) {
    const tiles = [];
    let changed = 0;
    for (const [number, before] of this.touched ?? []) {
      const rect = this.#rectOf(number);
      const after = this.#codesIn(rect);
      const different = differences(before, after);
      if (different) tiles.push({ rect, before, after });
      changed += different;
    }
    this.touched = null;
    if (changed) this.history.push(name, tiles);
    return changed;
  }

  /** End the edit and take it back. Returns the rectangle to be drawn again, or null. */
  cancel() {
    let rect = null;
    for (const [number, before] of this.touched ?? []) {
      const tile = this.#rectOf(number);
      this.#write(tile, before);
      rect = joined(rect, tile);
    }
    this.touched = null;
    return rect;
  }

  /** Take the last step back. Returns {name, rect}, or null if there is none. */
  undo() {
    return this.#applied(this.history.undo());
  }

  /** Repeat the last step that was taken back. Returns {name, rect}, or null. */
  redo() {
    return this.#applied(this.history.redo());
  }

  #applied(step) {
    if (!step) return null;
    let rect = null;
    for (const tile of step.tiles) {
      this.#write(tile.rect, tile.codes);
      rect = joined(rect, tile.rect);
    }
    return { name: step.name, rect };
  }

  #keep(y, from, to) {
    if (!this.touched) throw new Error("paint outside of an edit");
    const row = Math.floor(y / TILE) * this.columns;
    const last = row + Math.floor((to - 1) / TILE);
    for (let number = row + Math.floor(from / TILE); number <= last; number++) {
      if (!this.touched.has(number)) this.touched.set(number, this.#codesIn(this.#rectOf(number)));
    }
  }

  #rectOf(number) {
    const x = (number % this.columns) * TILE;
    const y = Math.floor(number / this.columns) * TILE;
    return {
      x,
      y,
      width: Math.min(TILE, this.width - x),
      height: Math.min(TILE, this.height - y),
    };
  }

  #codesIn({ x, y, width, height }) {
    const codes = new Uint8Array(width * height);
    for (let row = 0; row < height; row++) {
      const start = (y + row) * this.width + x;
      codes.set(this.codes.subarray(start, start + width), row * width);
    }
    return codes;
  }

  #write({ x, y, width, height }, codes) {
    for (let row = 0; row < height; row++) {
      this.codes.set(codes.subarray(row * width, (row + 1) * width), (y + row) * this.width + x);
    }
  }
}
