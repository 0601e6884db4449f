// Steps that can be undone and repeated. A step is a list of tiles, each before and after it.

import { fillRuns, runsOf } from "./runs.js";

export const STEPS = 100;
const BYTES = 256 * 2 ** 20; // all steps together; noise in a mask is the only way to reach it

/** Return a tile's codes in the smaller of two forms: runs or pixels. */
function packed(codes) {
  const runs = runsOf(codes);
  return 5 * runs.lengths.length < codes.length ? runs : codes.slice();
}

function unpacked(tile, length) {
  if (tile instanceof Uint8Array) return tile;
  const codes = new Uint8Array(length);
  fillRuns(tile, codes);
  return codes;
}

function bytesOf(tile) {
  return tile instanceof Uint8Array ? tile.length : 5 * tile.lengths.length;
}

export class History {
  constructor(steps = STEPS, bytes = BYTES) {
    this.limit = { steps, bytes };
    this.clear();
  }

  clear() {
    this.done = [];
    this.undone = [];
    this.bytes = 0;
  }

  /** Record a step: `tiles` is [{rect, before, after}] with codes as Uint8Array. */
  push(name, tiles) {
    for (const step of this.undone) this.bytes -= step.bytes;
    this.undone = [];
    const step = { name, bytes: 0, tiles: [] };
    for (const { rect, before, after } of tiles) {
      const tile = { rect, before: packed(before), after: packed(after) };
      step.bytes += bytesOf(tile.before) + bytesOf(tile.after);
      step.tiles.push(tile);
    }
    this.done.push(step);
    this.bytes += step.bytes;
    while (
      this.done.length > this.limit.steps ||
      (this.bytes > this.limit.bytes && this.done.length > 1)
    ) {
      this.bytes -= this.done.shift().bytes;
    }
  }

  /** Return {name, tiles: [{rect, codes}]} that takes the last step back, or null. */
  undo() {
    return this.#moved(this.done, this.undone, "before");
  }

  /** Return {name, tiles: [{rect, codes}]} that repeats the last step taken back, or null. */
  redo() {
    return this.#moved(this.undone, this.done, "after");
  }

  #moved(from, to, side) {
    const step = from.pop();
    if (!step) return null;
    to.push(step);
    const tiles = step.tiles.map(({ rect, [side]: tile }) => ({
      rect,
      codes: unpacked(tile, rect.width * rect.height),
    }));
    return { name: step.name, tiles };
  }
}
