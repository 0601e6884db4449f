// What is seen of the image: zoom and place, and the drawing of image, labels and marks.
//
// Two canvases lie on each other: image and labels, of which only what changed is drawn again, and
// the marks (cursor, polygon, proposal), which change with each move of the pointer.

import { joined } from "./labels.js";

const CLOSEST = 64; // screen px that one image px may have
const PIXELS = 2; // from this zoom on, image pixels have sharp borders
const GRID = 14; // from this zoom on, a grid separates them
const MARGIN = 12; // px around an image that fits

export class View {
  /** `stage` is the element that holds the canvases `base` and `marks`. */
  constructor(stage, base, marks) {
    Object.assign(this, { stage, base, marks });
    this.context = base.getContext("2d", { alpha: false });
    this.above = marks.getContext("2d");
    this.scale = 1; // screen px (device) for one image px
    this.left = 0; // image px at the left border of the canvas
    this.top = 0;
    this.opacity = 0.5;
    this.picture = null;
    this.layer = null; // what is shown above the picture
    this.dirty = null; // the rectangle in image px to be drawn again; "all" for everything
    this.isFitted = true;
    this.drawMarks = () => {};
    this.onDraw = () => {};
    new ResizeObserver(() => this.resize()).observe(stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** Show another picture (anything that drawImage takes) of this size. */
  show(picture, width, height) {
    Object.assign(this, { picture, width, height });
    this.levels = [picture];
    this.fit();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.stage;
    for (const canvas of [this.base, this.marks]) {
      canvas.width = Math.max(1, Math.round(clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    }
    if (this.isFitted) this.fit();
    else this.redraw();
  }

  get ratio() {
    return this.base.width / Math.max(1, this.stage.clientWidth);
  }

  /** Show the whole image; where it would lie below the zoom in the corner, beside that. */
  fit() {
    if (!this.picture) return;
    const { width, height } = this.base;
    const margin = 2 * MARGIN * this.ratio;
    const scaleIn = (wide, high) => Math.max(Math.min((wide - margin) / this.width, (high - margin) / this.height, CLOSEST), 1e-3);
    const corner = this.#corner();
    let [right, top] = [0, 0]; // canvas px that stay free
    this.scale = scaleIn(width, height);
    const isBelow = (width + this.width * this.scale) / 2 > width - corner.width;
    if (isBelow && (height - this.height * this.scale) / 2 < corner.height) {
      const [under, beside] = [scaleIn(width, height - corner.height), scaleIn(width - corner.width, height)];
      if (under >= beside) top = corner.height;
      else right = corner.width;
      this.scale = Math.max(under, beside);
    }
    this.left = (this.width - (width - right) / this.scale) / 2;
    this.top = (this.height - (height + top) / this.scale) / 2;
    this.isFitted = true;
    this.redraw();
  }

  /** Return the size in canvas px of the stage's top right corner that the zoom covers. */
  #corner() {
    const zoom = this.stage.querySelector(".zoom");
    if (!zoom) return { width: 0, height: 0 };
    const { ratio, stage } = this;
    return { width: (stage.clientWidth - zoom.offsetLeft) * ratio, height: (zoom.offsetTop + zoom.offsetHeight) * ratio };
  }

  /** Return the place in image px under a place in the window (clientX, clientY). */
  toImage(x, y) {
    const box = this.marks.getBoundingClientRect();
    return [
      ((x - box.left) * this.ratio) / this.scale + this.left,
      ((y - box.top) * this.ratio) / this.scale + this.top,
    ];
  }

  /** Return the place in canvas px of a place in image px. */
  toCanvas(x, y) {
    return [(x - this.left) * this.scale, (y - this.top) * this.scale];
  }

  /** Zoom by a factor around a place in the window; without one, around the middle. */
  zoom(factor, x = null, y = null) {
    const box = this.marks.getBoundingClientRect();
    const at = [x ?? box.left + box.width / 2, y ?? box.top + box.height / 2];
    const [imageX, imageY] = this.toImage(...at);
    const smallest = Math.min(0.05, (0.5 * this.base.width) / this.width);
    this.scale = Math.min(CLOSEST, Math.max(smallest, this.scale * factor));
    const [nowX, nowY] = this.toImage(...at);
    this.left += imageX - nowX;
    this.top += imageY - nowY;
    this.#moved();
  }

  /** Move the image by css px. */
  pan(dx, dy) {
    this.left -= (dx * this.ratio) / this.scale;
    this.top -= (dy * this.ratio) / this.scale;
    this.#moved();
  }

  /** Move the image so that a place in image px is in view. */
  reveal(x, y) {
    const wide = this.base.width / this.scale;
    const high = this.base.height / this.scale;
    const inside =
      x > this.left + wide * 0.05 &&
      x < this.left + wide * 0.95 &&
      y > this.top + high * 0.05 &&
      y < this.top + high * 0.95;
    if (inside || this.isFitted) return;
    this.left = x - wide / 2;
    this.top = y - high / 2;
    this.#moved();
  }

  #moved() {
    // some of the image stays in view, so that it cannot get lost
    const wide = this.base.width / this.scale;
    const high = this.base.height / this.scale;
    this.left = Math.min(this.width - wide * 0.1, Math.max(-wide * 0.9, this.left));
    this.top = Math.min(this.height - high * 0.1, Math.max(-high * 0.9, this.top));
    this.isFitted = false;
    this.redraw();
  }

  redraw() {
    this.refresh("all");
  }

  /** Draw a rectangle of image px again with the next frame; null draws the marks only. */
  refresh(rect) {
    if (rect === "all" || this.dirty === "all") this.dirty = "all";
    else this.dirty = joined(this.dirty, rect);
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  /** Draw now what waits for the next frame. */
  draw() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.picture) return;
    if (this.dirty) this.#drawBase(this.dirty === "all" ? null : this.dirty);
    this.dirty = null;
    this.above.clearRect(0, 0, this.marks.width, this.marks.height);
    this.drawMarks(this.above);
    this.onDraw();
  }

  /**
   * Draw the image and its labels. For a rectangle it is the drawing of everything, clipped to the
   * whole canvas px that show the rectangle: so each px becomes what a drawing of everything gives.
   */
  #drawBase(rect) {
    const { context, base, scale } = this;
    context.save();
    if (rect) {
      const [left, top] = this.toCanvas(rect.x, rect.y).map((at) => Math.floor(at) - 1);
      const end = this.toCanvas(rect.x + rect.width, rect.y + rect.height);
      const [right, bottom] = end.map((at) => Math.ceil(at) + 1);
      context.beginPath();
      context.rect(left, top, right - left, bottom - top);
      context.clip();
    }
    context.fillStyle = getComputedStyle(this.stage).getPropertyValue("--stage") || "#22272e";
    context.fillRect(0, 0, base.width, base.height);
    const [x, y] = this.toCanvas(0, 0);
    const part = this.#visible();
    context.imageSmoothingEnabled = scale < PIXELS;
    this.#drawPart(this.#level(), part, x, y);
    if (this.layer) {
      context.globalAlpha = this.opacity;
      context.imageSmoothingEnabled = false;
      this.#drawPart(this.layer.canvas, part, x, y);
      context.globalAlpha = 1;
    }
    if (scale >= GRID) this.#drawGrid(part, x, y);
    context.restore();
  }

  #visible() {
    return {
      x: this.left,
      y: this.top,
      width: this.base.width / this.scale,
      height: this.base.height / this.scale,
    };
  }

  /** Draw the part of a picture (of any resolution) that a rectangle in image px needs. */
  #drawPart(picture, part, x, y) {
    const shrink = picture.width / this.width;
    const from = Math.max(0, Math.floor(part.x) - 2);
    const above = Math.max(0, Math.floor(part.y) - 2);
    const to = Math.min(this.width, Math.ceil(part.x + part.width) + 2);
    const below = Math.min(this.height, Math.ceil(part.y + part.height) + 2);
    if (from >= to || above >= below) return;
    this.context.drawImage(
      picture,
      from * shrink,
      above * shrink,
      (to - from) * shrink,
      (below - above) * shrink,
      x + from * this.scale,
      y + above * this.scale,
      (to - from) * this.scale,
      (below - above) * this.scale,
    );
  }

  /** Return the picture at a resolution near the zoom: large images flicker when scaled at once. */
  #level() {
    const wanted = Math.max(0, Math.floor(Math.log2(1 / this.scale)));
    while (this.levels.length <= wanted) {
      const last = this.levels[this.levels.length - 1];
      if (last.width < 64 || last.height < 64) break;
      const half = new OffscreenCanvas(last.width >> 1, last.height >> 1);
      half.getContext("2d").drawImage(last, 0, 0, half.width, half.height);
      this.levels.push(half);
    }
    return this.levels[Math.min(wanted, this.levels.length - 1)];
  }

  #drawGrid(part, x, y) {
    const { context, scale } = this;
    context.strokeStyle = "rgba(128, 128, 128, .35)";
    context.lineWidth = 1;
    context.beginPath();
    const right = Math.min(this.width, Math.ceil(part.x + part.width) + 1);
    const bottom = Math.min(this.height, Math.ceil(part.y + part.height) + 1);
    const left = Math.max(0, Math.floor(part.x) - 1);
    const top = Math.max(0, Math.floor(part.y) - 1);
    for (let column = left; column <= right; column++) {
      const at = Math.round(x + column * scale) + 0.5;
      context.moveTo(at, y + top * scale);
      context.lineTo(at, y + bottom * scale);
    }
    for (let row = top; row <= bottom; row++) {
      const at = Math.round(y + row * scale) + 0.5;
      context.moveTo(x + left * scale, at);
      context.lineTo(x + right * scale, at);
    }
    context.stroke();
  }
}
