// What the model proposes, shown above the labels until it is taken or left.

import { boundsOf } from "./shapes.js";

const FILL = 150; // alpha of its colours, 0 to 255

export class Proposal {
  /** `parts` is [{code, runs}]; `colours` gives [red, green, blue] of a code. */
  constructor(parts, colours, width, height) {
    this.parts = parts;
    this.bounds = boundsOf(parts.flatMap((part) => part.runs), width, height);
    this.recolour(colours);
  }

  /** Return how many pixels it has. */
  get pixels() {
    let sum = 0;
    for (const { runs } of this.parts) {
      for (let i = 0; i < runs.length; i += 3) sum += runs[i + 2] - runs[i + 1];
    }
    return sum;
  }

  recolour(colours) {
    const { x, y, width, height } = this.bounds;
    const image = new ImageData(width, height);
    const inside = new Uint8Array(width * height);
    const words = new Uint32Array(image.data.buffer);
    for (const { code, runs } of this.parts) {
      const [red, green, blue] = colours(code);
      const word = ((FILL << 24) | (blue << 16) | (green << 8) | red) >>> 0;
      for (let i = 0; i < runs.length; i += 3) {
        const row = (runs[i] - y) * width - x;
        words.fill(word, row + runs[i + 1], row + runs[i + 2]);
        inside.fill(1, row + runs[i + 1], row + runs[i + 2]);
      }
    }
    this.canvas = new OffscreenCanvas(width, height);
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    this.outline = outlineOf(inside, width, height);
  }

  draw(context, view) {
    const { x, y, width, height } = this.bounds;
    const [left, top] = view.toCanvas(x, y);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.canvas, left, top, width * view.scale, height * view.scale);
    for (const [colour, wide] of [
      ["#000", 3.5],
      ["#fff", 1.5],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = wide * view.ratio;
      context.beginPath();
      for (let i = 0; i < this.outline.length; i += 4) {
        const [x0, y0, x1, y1] = this.outline.subarray(i, i + 4);
        context.moveTo(left + x0 * view.scale, top + y0 * view.scale);
        context.lineTo(left + x1 * view.scale, top + y1 * view.scale);
      }
      context.stroke();
    }
  }
}

/** Return the sides between inside and outside, as x0, y0, x1, y1; straight ones joined. */
function outlineOf(inside, width, height) {
  const lines = [];
  const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[y * width + x] === 1;
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x < width; x++) {
      if (is(x, y) === is(x, y - 1)) continue;
      const from = x;
      while (x < width && is(x, y) !== is(x, y - 1)) x++;
      lines.push(from, y, x, y);
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0; y < height; y++) {
      if (is(x, y) === is(x - 1, y)) continue;
      const from = y;
      while (y < height && is(x, y) !== is(x - 1, y)) y++;
      lines.push(x, from, x, y);
    }
  }
  return Float32Array.from(lines);
}
