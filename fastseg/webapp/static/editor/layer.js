// Class codes in colours: a canvas of the image's size, of which only changed parts are painted.

import { TILE, UNLABELLED } from "./labels.js";

const GREY = [128, 128, 128];
const STRIPE = 4; // px; unlabelled pixels are striped, so that no class's colour looks like them

function word([red, green, blue], alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0; // canvas bytes are RGBA
}

/** Return the 256 colours of codes as words; the background is transparent. */
export function table(classes) {
  const words = new Uint32Array(256);
  for (const { code, colour, clear } of classes) words[code] = clear ? 0 : word(colour, 255);
  words[UNLABELLED] = word(GREY, 255);
  return words;
}

export class Layer {
  constructor(width, height, words) {
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d");
    this.words = words;
  }

  /** Paint a rectangle (null: everything) of `codes`. */
  paint(codes, rect = null) {
    const { width, height } = this.canvas;
    const area = rect ?? { x: 0, y: 0, width, height };
    const rows = Math.max(1, Math.floor((TILE * TILE * 4) / area.width));
    for (let done = 0; done < area.height; done += rows) {
      const count = Math.min(rows, area.height - done);
      this.#band(codes, area.x, area.y + done, area.width, count);
    }
  }

  #band(codes, x, y, width, height) {
    const image = new ImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    const { words } = this;
    const stripes = words[UNLABELLED];
    for (let row = 0; row < height; row++) {
      const start = (y + row) * this.canvas.width + x;
      const line = row * width;
      for (let column = 0; column < width; column++) {
        const code = codes[start + column];
        if (code === UNLABELLED) {
          const dark = ((x + column + y + row) / STRIPE) & 1;
          out[line + column] = dark ? stripes : 0;
        } else {
          out[line + column] = words[code];
        }
      }
    }
    this.context.putImageData(image, x, y);
  }
}
