// Flood fill within edges: from a pixel to all connected ones that have its label and look alike.

/**
 * Return runs of the pixels that are connected to (x, y) over sides, have the same code there, and
 * whose colour differs by at most `tolerance` (0 to 255) in each channel.
 *
 * `pixels` is RGBA (Uint8ClampedArray), `codes` one byte a pixel, both of width * height. The
 * colour to compare with is the mean of the 3 x 3 px around the start: one noisy pixel says little.
 */
export function flood(pixels, codes, width, height, x, y, tolerance) {
  const label = codes[y * width + x];
  const [red, green, blue] = meanColour(pixels, width, height, x, y);
  const seen = new Uint8Array(width * height);
  const inside = (at) => {
    if (seen[at] || codes[at] !== label) return false;
    const p = at * 4;
    return (
      Math.abs(pixels[p] - red) <= tolerance &&
      Math.abs(pixels[p + 1] - green) <= tolerance &&
      Math.abs(pixels[p + 2] - blue) <= tolerance
    );
  };
  const runs = [];
  const rows = [x, y];
  seen[y * width + x] = 0;
  let isStart = true; // the start belongs to the region, even where it is the noisy pixel
  while (rows.length) {
    const row = rows.pop();
    const column = rows.pop();
    const base = row * width;
    if (!isStart && !inside(base + column)) continue;
    isStart = false;
    let from = column;
    let to = column + 1;
    while (from > 0 && inside(base + from - 1)) from--;
    while (to < width && inside(base + to)) to++;
    seen.fill(1, base + from, base + to);
    runs.push(row, from, to);
    for (const next of [row - 1, row + 1]) {
      if (next < 0 || next >= height) continue;
      let open = false;
      for (let i = from; i < to; i++) {
        const free = inside(next * width + i);
        if (free && !open) rows.push(i, next);
        open = free;
      }
    }
  }
  return runs;
}

function meanColour(pixels, width, height, x, y) {
  const sum = [0, 0, 0];
  let count = 0;
  for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row++) {
    for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column++) {
      for (let c = 0; c < 3; c++) sum[c] += pixels[(row * width + column) * 4 + c];
      count++;
    }
  }
  return sum.map((value) => value / count);
}
