// The inverse DCT of libjpeg ("islow"), to blocks of 8, 4, 2 or 1 px: jidctint.c and jidctred.c.

const BITS = 13;
const PASS = 2;

/** Return {data, stride} of a component: its blocks as pixels, `side` px each. */
export function idct({ blocks, stride, quantiser }, side) {
  const rows = blocks.length / 64 / stride;
  const data = new Uint8ClampedArray(stride * side * rows * side);
  const work = new Int32Array(64);
  const coefficients = new Int32Array(64);
  const line = stride * side;
  const inverse = { 8: eight, 4: four, 2: two, 1: one }[side];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < stride; column++) {
      const at = 64 * (row * stride + column);
      for (let i = 0; i < 64; i++) coefficients[i] = blocks[at + i] * quantiser[i];
      inverse(coefficients, work, data, row * side * line + column * side, line);
    }
  }
  return { data, stride: line };
}

function one(c, _, out, at) {
  out[at] = ((c[0] + 4) >> 3) + 128;
}

function two(c, work, out, at, line) {
  const shift = BITS - PASS + 2;
  for (let x = 0; x < 8; x++) {
    if (x === 2 || x === 4 || x === 6) continue;
    const even = c[x] << (BITS + 2);
    const odd = -5906 * c[x + 56] + 6967 * c[x + 40] - 10426 * c[x + 24] + 29692 * c[x + 8];
    work[x] = (even + odd + (1 << (shift - 1))) >> shift;
    work[x + 8] = (even - odd + (1 << (shift - 1))) >> shift;
  }
  const last = BITS + PASS + 3 + 2;
  for (let y = 0; y < 2; y++) {
    const w = y * 8;
    const even = work[w] << (BITS + 2);
    const odd = -5906 * work[w + 7] + 6967 * work[w + 5] - 10426 * work[w + 3] + 29692 * work[w + 1];
    out[at + y * line] = ((even + odd + (1 << (last - 1))) >> last) + 128;
    out[at + y * line + 1] = ((even - odd + (1 << (last - 1))) >> last) + 128;
  }
}

function four(c, work, out, at, line) {
  const shift = BITS - PASS + 1;
  const half = 1 << (shift - 1);
  for (let x = 0; x < 8; x++) {
    if (x === 4) continue;
    const first = c[x] << (BITS + 1);
    const second = 15137 * c[x + 16] - 6270 * c[x + 48];
    const [sum, difference] = [first + second, first - second];
    const inner = -1730 * c[x + 56] + 11893 * c[x + 40] - 17799 * c[x + 24] + 8697 * c[x + 8];
    const outer = -4176 * c[x + 56] - 4926 * c[x + 40] + 7373 * c[x + 24] + 20995 * c[x + 8];
    work[x] = (sum + outer + half) >> shift;
    work[x + 24] = (sum - outer + half) >> shift;
    work[x + 8] = (difference + inner + half) >> shift;
    work[x + 16] = (difference - inner + half) >> shift;
  }
  const last = BITS + PASS + 3 + 1;
  const rounding = 1 << (last - 1);
  for (let y = 0; y < 4; y++) {
    const w = y * 8;
    const first = work[w] << (BITS + 1);
    const second = 15137 * work[w + 2] - 6270 * work[w + 6];
    const [sum, difference] = [first + second, first - second];
    const inner = -1730 * work[w + 7] + 11893 * work[w + 5] - 17799 * work[w + 3] + 8697 * work[w + 1];
    const outer = -4176 * work[w + 7] - 4926 * work[w + 5] + 7373 * work[w + 3] + 20995 * work[w + 1];
    const o = at + y * line;
    out[o] = ((sum + outer + rounding) >> last) + 128;
    out[o + 3] = ((sum - outer + rounding) >> last) + 128;
    out[o + 1] = ((difference + inner + rounding) >> last) + 128;
    out[o + 2] = ((difference - inner + rounding) >> last) + 128;
  }
}

/** One dimension of 8: from 8 values `step` apart to `put(index, value)` before the last shift. */
function line8(v, at, step, result) {
  const [v1, v2, v3] = [v[at + step], v[at + 2 * step], v[at + 3 * step]];
  const [v5, v6, v7] = [v[at + 5 * step], v[at + 6 * step], v[at + 7 * step]];
  const both = (v2 + v6) * 4433;
  const t2 = both - v6 * 15137;
  const t3 = both + v2 * 6270;
  const t0 = (v[at] + v[at + 4 * step]) << BITS;
  const t1 = (v[at] - v[at + 4 * step]) << BITS;
  const z5 = (v7 + v3 + v5 + v1) * 9633;
  const z1 = -7373 * (v7 + v1);
  const z2 = -20995 * (v5 + v3);
  const z3 = -16069 * (v7 + v3) + z5;
  const z4 = -3196 * (v5 + v1) + z5;
  const o0 = v7 * 2446 + z1 + z3;
  const o1 = v5 * 16819 + z2 + z4;
  const o2 = v3 * 25172 + z2 + z3;
  const o3 = v1 * 12299 + z1 + z4;
  result[0] = t0 + t3 + o3;
  result[7] = t0 + t3 - o3;
  result[1] = t1 + t2 + o2;
  result[6] = t1 + t2 - o2;
  result[2] = t1 - t2 + o1;
  result[5] = t1 - t2 - o1;
  result[3] = t0 - t3 + o0;
  result[4] = t0 - t3 - o0;
}

const RESULT = new Int32Array(8);

function eight(c, work, out, at, line) {
  const shift = BITS - PASS;
  for (let x = 0; x < 8; x++) {
    line8(c, x, 8, RESULT);
    for (let y = 0; y < 8; y++) work[x + 8 * y] = (RESULT[y] + (1 << (shift - 1))) >> shift;
  }
  const last = BITS + PASS + 3;
  for (let y = 0; y < 8; y++) {
    line8(work, 8 * y, 1, RESULT);
    const o = at + y * line;
    for (let x = 0; x < 8; x++) out[o + x] = ((RESULT[x] + (1 << (last - 1))) >> last) + 128;
  }
}
