// Which pixels a brush stroke or a polygon covers. Pure functions; runs are flat arrays of y,
// first x, and x after the last one.
//
// A brush of size d covers the pixels whose centre is at most d / 2 from the middle of the brush.
// For odd d, that is the centre of the pixel under the pointer; for even d, the corner of pixels
// that is nearest to the pointer. A stroke covers what the brush covers on its way, which is
// Bresenham's line. A polygon covers the pixels whose centre is inside by the even-odd rule.

const offsets = new Map(); // brush size -> rows of [y, first x, last x] around its anchor

function discRows(size) {
  if (!offsets.has(size)) {
    const middle = size % 2 ? 0.5 : 0;
    const first = -Math.floor(size / 2);
    const rows = [];
    for (let y = first; y < first + size; y++) {
      const dy = y + 0.5 - middle;
      const half = Math.sqrt(Math.max(0, (size * size) / 4 - dy * dy));
      const from = Math.ceil(middle - half - 0.5);
      const to = Math.floor(middle + half - 0.5);
      if (from <= to) rows.push([y, from, to]);
    }
    offsets.set(size, rows);
  }
  return offsets.get(size);
}

/** Return the anchor (pixel, or corner for even sizes) of a brush at a place in image px. */
export function anchor(x, y, size) {
  return size % 2 ? [Math.floor(x), Math.floor(y)] : [Math.ceil(x - 0.5), Math.ceil(y - 0.5)];
}

/** Return the runs of a brush that moves between two anchors. */
export function stroke([x0, y0], [x1, y1], size) {
  const rows = discRows(size);
  const top = Math.min(y0, y1) + rows[0][0];
  const count = Math.max(y0, y1) + rows[rows.length - 1][0] - top + 1;
  const first = new Int32Array(count).fill(2 ** 30);
  const last = new Int32Array(count).fill(-(2 ** 30));
  const dx = Math.abs(x1 - x0);
  const dy = -Math.abs(y1 - y0);
  const stepX = x0 < x1 ? 1 : -1;
  const stepY = y0 < y1 ? 1 : -1;
  let error = dx + dy;
  let x = x0;
  let y = y0;
  for (;;) {
    for (const [row, from, to] of rows) {
      const i = y + row - top;
      if (x + from < first[i]) first[i] = x + from;
      if (x + to > last[i]) last[i] = x + to;
    }
    if (x === x1 && y === y1) break;
    const twice = 2 * error;
    if (twice >= dy) {
      error += dy;
      x += stepX;
    }
    if (twice <= dx) {
      error += dx;
      y += stepY;
    }
  }
  const runs = [];
  for (let i = 0; i < count; i++) if (first[i] <= last[i]) runs.push(top + i, first[i], last[i] + 1);
  return runs;
}

/** Return the corner of pixels at which a point of a polygon lies. */
export function corner(x, y) {
  return [Math.ceil(x - 0.5), Math.ceil(y - 0.5)];
}

/** Return the runs inside rings, [[[x, y], ...], ...], by the even-odd rule. */
export function polygon(rings, width, height) {
  const runs = [];
  let top = height;
  let bottom = 0;
  for (const ring of rings) {
    for (const [, y] of ring) {
      top = Math.min(top, Math.floor(y));
      bottom = Math.max(bottom, Math.ceil(y));
    }
  }
  for (let row = Math.max(0, top); row < Math.min(height, bottom); row++) {
    const at = row + 0.5;
    const crossings = [];
    for (const ring of rings) {
      for (let i = 0; i < ring.length; i++) {
        const [xa, ya] = ring[i];
        const [xb, yb] = ring[(i + 1) % ring.length];
        if (ya <= at !== yb <= at) crossings.push(xa + ((at - ya) / (yb - ya)) * (xb - xa));
      }
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const to = Math.min(width, Math.ceil(crossings[i + 1] - 0.5));
      if (from < to) runs.push(row, from, to);
    }
  }
  return runs;
}

/** Return the rectangle around runs, cut to the image, or null. */
export function boundsOf(runs, width, height) {
  let left = width;
  let right = 0;
  let top = height;
  let bottom = 0;
  for (let i = 0; i < runs.length; i += 3) {
    if (runs[i] < 0 || runs[i] >= height) continue;
    const from = Math.max(0, runs[i + 1]);
    const to = Math.min(width, runs[i + 2]);
    if (from >= to) continue;
    left = Math.min(left, from);
    right = Math.max(right, to);
    top = Math.min(top, runs[i]);
    bottom = Math.max(bottom, runs[i] + 1);
  }
  return left < right ? { x: left, y: top, width: right - left, height: bottom - top } : null;
}
