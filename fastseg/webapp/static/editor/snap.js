// "Snap to image edge": the outline of a painted region moves to the nearest edge of the image.
//
// A seeded watershed in a band around the outline: pixels deep inside the region are one seed,
// pixels well outside are the other, and each pixel of the band goes to the seed that it reaches
// by the cheaper path (Dijkstra). A step costs 1, and more across an edge, so that the two sides
// meet on the strongest edge of the band; in a flat area they meet half-way, where the outline was.

import { boundsOf } from "./shapes.js";

const EDGE = 1.5; // cost of a difference of one grey level, in px of way
const SIDE = 4; // steps of cost a px of way; costs are whole numbers for the bucket queue
const LONGEST = 24; // px that an outline may move at most
export const LARGEST = 3e6; // px of the rectangle that is looked at; larger regions stay as they are

/** Return how far the outline of a brush of this size may move, px. */
export function reach(size) {
  return Math.max(2, Math.min(LONGEST, Math.round(size / 3)));
}

/**
 * Return runs of the refined region, or the given runs where it is too large.
 *
 * `pixels` is RGBA of width * height. The outline moves by up to `band` px, and at most as far as
 * the region is thick, so that something of it remains inside.
 */
export function snapped(runs, pixels, width, height, band) {
  const bounds = boundsOf(runs, width, height);
  if (!bounds) return runs;
  const margin = band + 2;
  const left = Math.max(0, bounds.x - margin);
  const top = Math.max(0, bounds.y - margin);
  const w = Math.min(width, bounds.x + bounds.width + margin) - left;
  const h = Math.min(height, bounds.y + bounds.height + margin) - top;
  if (w * h > LARGEST) return runs;
  const region = new Uint8Array(w * h);
  for (let i = 0; i < runs.length; i += 3) {
    const y = runs[i] - top;
    if (y < 0 || y >= h) continue;
    const from = Math.max(0, runs[i + 1] - left);
    const to = Math.min(w, runs[i + 2] - left);
    if (from < to) region.fill(1, y * w + from, y * w + to);
  }
  const inward = distances(region, w, h, 1, band + 1);
  const outward = distances(region, w, h, 0, band + 1);
  let deepest = 0;
  for (let i = 0; i < inward.length; i++) if (region[i] && inward[i] > deepest) deepest = inward[i];
  const depth = Math.min(band, Math.max(1, deepest - 1));
  const sides = new Uint8Array(w * h); // 1 inside, 2 outside, 0 to be decided
  for (let i = 0; i < sides.length; i++) {
    if (region[i]) sides[i] = inward[i] > depth ? 1 : 0;
    else sides[i] = outward[i] > depth ? 2 : 0;
  }
  spread(sides, edges(pixels, width, left, top, w, h), w, h);
  return runsWhere(sides, w, h, left, top);
}

/** Return city-block distances of pixels with `value` to the nearest other pixel, up to `most`. */
function distances(region, w, h, value, most) {
  const far = new Uint8Array(w * h);
  for (let i = 0; i < far.length; i++) far[i] = region[i] === value ? most : 0;
  for (let y = 0, i = 0; y < h; y++) {
    for (let x = 0; x < w; x++, i++) {
      if (!far[i]) continue;
      if (x) far[i] = Math.min(far[i], far[i - 1] + 1);
      if (y) far[i] = Math.min(far[i], far[i - w] + 1);
    }
  }
  for (let y = h - 1, i = w * h - 1; y >= 0; y--) {
    for (let x = w - 1; x >= 0; x--, i--) {
      if (!far[i]) continue;
      if (x < w - 1) far[i] = Math.min(far[i], far[i + 1] + 1);
      if (y < h - 1) far[i] = Math.min(far[i], far[i + w] + 1);
    }
  }
  return far;
}

/** Return the channels of the smoothed part of the image: noise would lead paths astray. */
function edges(pixels, width, left, top, w, h) {
  const smooth = new Uint8Array(w * h * 3);
  for (let y = 0; y < h; y++) {
    const rows = [Math.max(0, y - 1), y, Math.min(h - 1, y + 1)];
    for (let x = 0; x < w; x++) {
      const columns = [Math.max(0, x - 1), x, Math.min(w - 1, x + 1)];
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let j = 0; j < 3; j++) {
          for (let i = 0; i < 3; i++) {
            const weight = (i === 1 ? 2 : 1) * (j === 1 ? 2 : 1);
            sum += weight * pixels[((top + rows[j]) * width + left + columns[i]) * 4 + c];
          }
        }
        smooth[(y * w + x) * 3 + c] = sum >> 4;
      }
    }
  }
  return smooth;
}

/** Give each undecided pixel the side that it reaches at the least cost. */
function spread(sides, smooth, w, h) {
  const most = Math.ceil(SIDE * (1 + EDGE * 255));
  const buckets = Array.from({ length: most + 1 }, () => []); // a ring of costs
  const cost = new Int32Array(w * h).fill(2 ** 30);
  let waiting = 0;
  const offer = (at, total, side) => {
    if (total >= cost[at]) return;
    cost[at] = total;
    sides[at] = side;
    buckets[total % buckets.length].push(at);
    waiting++;
  };
  const decided = Uint8Array.from(sides, (side) => (side ? 1 : 0));
  const visit = (at, next, total) => {
    if (decided[next]) return;
    let difference = 0;
    for (let c = 0; c < 3; c++) {
      const d = Math.abs(smooth[at * 3 + c] - smooth[next * 3 + c]);
      if (d > difference) difference = d;
    }
    offer(next, total + Math.round(SIDE * (1 + EDGE * difference)), sides[at]);
  };
  const neighbours = (at, total) => {
    const x = at % w;
    if (x) visit(at, at - 1, total);
    if (x < w - 1) visit(at, at + 1, total);
    if (at >= w) visit(at, at - w, total);
    if (at < w * (h - 1)) visit(at, at + w, total);
  };
  for (let i = 0; i < sides.length; i++) if (decided[i]) neighbours(i, 0);
  for (let total = 0; waiting; total++) {
    const bucket = buckets[total % buckets.length];
    while (bucket.length) {
      const at = bucket.pop();
      waiting--;
      if (cost[at] === total) neighbours(at, total);
    }
  }
}

function runsWhere(sides, w, h, left, top) {
  const runs = [];
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      if (sides[y * w + x] !== 1) continue;
      const from = x;
      while (x < w && sides[y * w + x] === 1) x++;
      runs.push(top + y, left + from, left + x);
    }
  }
  return runs;
}
