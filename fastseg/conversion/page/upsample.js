// Chroma at the size of luma: libjpeg's triangle filters ("fancy upsampling", jdsample.c).

/** Return a plane, Uint8Array of `width` * `height`, of one that is `across` and `down` times smaller. */
export function upsampled(plane, across, down, width, height, isFancy) {
  const smooths = isFancy && plane.wide > 2;
  if (across === 2 && down === 1 && smooths) return wider(plane, width, height);
  if (across === 2 && down === 2 && smooths) return larger(plane, width, height);
  if (across === 1 && down === 2 && isFancy) return taller(plane, width, height);
  const { data, stride } = plane;
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = Math.floor(y / down) * stride;
    if (across === 1) out.set(data.subarray(from, from + width), y * width);
    else for (let x = 0; x < width; x++) out[y * width + x] = data[from + Math.floor(x / across)];
  }
  return out;
}

function wider({ data, stride, wide }, width, height) {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = y * stride;
    for (let x = 0; x < width; x++) {
      const at = x >> 1;
      const value = 3 * data[from + at];
      if (x & 1) out[y * width + x] = at + 1 < wide ? (value + data[from + at + 1] + 2) >> 2 : data[from + at];
      else out[y * width + x] = at ? (value + data[from + at - 1] + 1) >> 2 : data[from];
    }
  }
  return out;
}

function taller({ data, stride, high }, width, height) {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const at = y >> 1;
    const other = Math.min(high - 1, Math.max(0, y & 1 ? at + 1 : at - 1)) * stride;
    const bias = y & 1 ? 2 : 1;
    for (let x = 0; x < width; x++) out[y * width + x] = (3 * data[at * stride + x] + data[other + x] + bias) >> 2;
  }
  return out;
}

function larger({ data, stride, wide, high }, width, height) {
  const out = new Uint8Array(width * height);
  const sums = new Int32Array(wide);
  for (let y = 0; y < height; y++) {
    const at = (y >> 1) * stride;
    const other = Math.min(high - 1, Math.max(0, y & 1 ? (y >> 1) + 1 : (y >> 1) - 1)) * stride;
    for (let x = 0; x < wide; x++) sums[x] = 3 * data[at + x] + data[other + x];
    const to = y * width;
    for (let x = 0; x < width; x++) {
      const own = x >> 1;
      if (x & 1) out[to + x] = own + 1 < wide ? (3 * sums[own] + sums[own + 1] + 7) >> 4 : (4 * sums[own] + 7) >> 4;
      else out[to + x] = own ? (3 * sums[own] + sums[own - 1] + 8) >> 4 : (4 * sums[own] + 8) >> 4;
    }
  }
  return out;
}
