// The tools. Each takes places in image px from pointer or keyboard: `down`, `move`, `up`; `cancel`
// takes back what is under way; `marks` draws its own marks above the image.
//
// `desk` is what they work on (editor.js): labels, class, size, and `apply` for finished edits.

import { flood } from "./fill.js";
import { cross, dot, line, ring } from "./lines.js";
import { anchor, corner, polygon, stroke } from "./shapes.js";
import { reach, snapped } from "./snap.js";

class Brush {
  name = "brush";
  title = "Brush";

  constructor(desk) {
    this.desk = desk;
  }

  get code() {
    return this.desk.code;
  }

  down(point) {
    const { desk } = this;
    desk.labels.begin();
    this.runs = [];
    this.last = null;
    this.move(point);
  }

  move(point) {
    if (!this.runs) return;
    const { desk } = this;
    const size = desk.sizeFor(point.pressure);
    const to = anchor(point.x, point.y, size);
    const runs = stroke(this.last?.size === size ? this.last.at : to, to, size);
    if (desk.snap) this.runs.push(...runs);
    this.last = { at: to, size };
    desk.changed(desk.labels.paint(runs, this.code));
  }

  up() {
    if (!this.runs) return;
    const { desk, runs } = this;
    this.runs = null;
    if (desk.snap) {
      desk.changed(desk.labels.cancel());
      desk.labels.begin();
      const { width, height } = desk.labels;
      const refined = snapped(runs, desk.pixels(), width, height, reach(desk.size));
      desk.changed(desk.labels.paint(refined, this.code));
    }
    desk.apply(this.title);
  }

  cancel() {
    if (!this.runs) return false;
    this.runs = null;
    this.desk.changed(this.desk.labels.cancel());
    return true;
  }

  marks(context) {
    const { view, cursor, size } = this.desk;
    if (!cursor) return;
    const [x, y] = anchor(cursor.x, cursor.y, size);
    const middle = size % 2 ? 0.5 : 0;
    ring(context, view.toCanvas(x + middle, y + middle), (size / 2) * view.scale, view.ratio);
  }
}

class Eraser extends Brush {
  name = "eraser";
  title = "Eraser";

  get code() {
    return this.desk.cleared;
  }
}

/** Rings by clicks. Enter or a click on the first point ends; Shift with it begins another ring. */
class Polygon {
  name = "polygon";
  title = "Polygon";

  constructor(desk) {
    this.desk = desk;
    this.rings = [[]];
    this.isDown = false;
  }

  get ring() {
    return this.rings[this.rings.length - 1];
  }

  get isEmpty() {
    return this.rings.length === 1 && !this.ring.length;
  }

  down() {
    this.isDown = true;
  }

  /** Set a point where the pointer leaves: two fingers that zoom set none. */
  up(point) {
    if (!this.isDown) return;
    this.isDown = false;
    const at = corner(point.x, point.y);
    const [first] = this.ring;
    const near = (8 * this.desk.view.ratio) / this.desk.view.scale;
    const closes =
      this.ring.length > 2 &&
      !point.byKey &&
      Math.hypot(point.x - first[0], point.y - first[1]) <= near;
    if (closes) {
      if (point.shift) this.next();
      else this.finish(point.alt);
      return;
    }
    const last = this.ring[this.ring.length - 1];
    if (last?.[0] === at[0] && last?.[1] === at[1]) return;
    this.ring.push(at);
    this.desk.say(`point ${this.ring.length} at ${at[0]}, ${at[1]}`);
    this.desk.view.refresh(null);
  }

  move() {
    this.desk.view.refresh(null);
  }

  /** Begin another ring: a hole where it lies in the first one. */
  next() {
    if (this.ring.length < 3) return;
    this.rings.push([]);
    this.desk.say(`ring ${this.rings.length}: a ring inside another one is a hole`);
    this.desk.view.refresh(null);
  }

  /** Fill the rings; with `erases`, clear them. */
  finish(erases = false) {
    const { desk } = this;
    const rings = this.rings.filter((ring) => ring.length > 2);
    this.rings = [[]];
    desk.view.refresh(null);
    if (!rings.length) return;
    const { width, height } = desk.labels;
    let runs = polygon(rings, width, height);
    if (desk.snap) runs = snapped(runs, desk.pixels(), width, height, reach(desk.size));
    desk.labels.begin();
    const isCut = erases && desk.canClear;
    desk.changed(desk.labels.paint(runs, isCut ? desk.cleared : desk.code));
    desk.apply(isCut ? "Polygon, cut out" : this.title);
  }

  /** Take the last point back. */
  back() {
    if (!this.ring.length && this.rings.length > 1) this.rings.pop();
    this.ring.pop();
    this.desk.view.refresh(null);
  }

  cancel() {
    if (this.isDown) {
      this.isDown = false; // a second finger: the rings stay
      return true;
    }
    const had = !this.isEmpty;
    this.rings = [[]];
    this.desk.view.refresh(null);
    return had;
  }

  marks(context) {
    const { view, cursor } = this.desk;
    for (const ring of this.rings) {
      const points = ring.map(([x, y]) => view.toCanvas(x, y));
      if (!points.length) continue;
      const open = ring === this.ring;
      if (open && cursor) points.push(view.toCanvas(...corner(cursor.x, cursor.y)));
      line(context, points, !open, view.ratio);
      for (const at of points.slice(0, ring.length)) dot(context, at, view.ratio);
    }
    if (cursor) cross(context, view.toCanvas(...corner(cursor.x, cursor.y)), view.ratio);
  }
}

class Fill {
  name = "fill";
  title = "Fill";

  constructor(desk) {
    this.desk = desk;
    this.start = null;
  }

  down(point) {
    this.start = point;
  }

  /** Fill where the pointer leaves: two fingers that zoom fill nothing. */
  up(point) {
    if (!this.start) return;
    this.start = null;
    const { desk } = this;
    const { codes, width, height } = desk.labels;
    const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const runs = flood(desk.pixels(), codes, width, height, x, y, desk.tolerance);
    desk.labels.begin();
    const code = point.alt && desk.canClear ? desk.cleared : desk.code;
    desk.changed(desk.labels.paint(runs, code));
    desk.apply(this.title);
  }

  move() {}

  cancel() {
    const had = this.start !== null;
    this.start = null;
    return had;
  }

  marks(context) {
    const { view, cursor } = this.desk;
    if (cursor) cross(context, view.toCanvas(cursor.x, cursor.y), view.ratio);
  }
}

/** A click or a box asks the network; Enter takes what it proposes. */
class Help extends Fill {
  name = "help";
  title = "Ask the model";

  down(point) {
    this.start = point;
    this.end = point;
  }

  move(point) {
    if (this.start) this.end = point;
    this.desk.view.refresh(null);
  }

  up() {
    const { start, end, desk } = this;
    this.start = null;
    if (!start) return;
    const isBox = Math.hypot(end.x - start.x, end.y - start.y) * desk.view.scale > 6 * desk.view.ratio;
    if (isBox) {
      const [left, right] = [start.x, end.x].sort((a, b) => a - b);
      const [top, bottom] = [start.y, end.y].sort((a, b) => a - b);
      desk.ask({ box: [left, top, right, bottom].map(Math.round) });
    } else {
      desk.ask({ point: [Math.floor(start.x), Math.floor(start.y)] });
    }
  }

  cancel() {
    return super.cancel() || this.desk.reject();
  }

  marks(context) {
    super.marks(context);
    const { view } = this.desk;
    if (!this.start) return;
    const [x0, y0] = view.toCanvas(this.start.x, this.start.y);
    const [x1, y1] = view.toCanvas(this.end.x, this.end.y);
    line(context, [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], true, view.ratio);
  }
}

class Hand {
  name = "hand";
  title = "Move";

  constructor(desk) {
    this.desk = desk;
  }

  down() {}
  move() {}
  up() {}
  marks() {}
  cancel() {
    return false;
  }
}

/** Return the tools by name, in the order of the tool bar. */
export function makeTools(desk) {
  const all = [Brush, Eraser, Polygon, Fill, Help, Hand].map((Tool) => new Tool(desk));
  return Object.fromEntries(all.map((tool) => [tool.name, tool]));
}
