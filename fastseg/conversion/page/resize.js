// Resizing as fastseg does it: images by Pillow's integer arithmetic, logits as onnxruntime does.

const PRECISION = 32 - 8 - 2; // fractional bits of Pillow's weights

/** Return Pillow's bilinear weights from `have` to `want` px: [{first, weights}] as integers. */
function weightsOf(have, want) {
  const scale = have / want;
  const wide = Math.max(scale, 1); // what is made smaller is averaged
  return Array.from({ length: want }, (_, to) => {
    const centre = (to + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - wide + 0.5));
    const end = Math.min(have, Math.trunc(centre + wide + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = first; x < end; x++) {
      const at = Math.abs((x - centre + 0.5) * (1 / wide));
      weights.push(at < 1 ? 1 - at : 0);
      sum += weights[weights.length - 1];
    }
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** PRECISION)) };
  });
}

const clip = (sum) => Math.min(255, Math.max(0, sum >> PRECISION));

/** Resize the rows of an image to another width. */
function acrossTo(image, width) {
  if (width === image.width) return image;
  const { height, channels, data } = image;
  const out = new Uint8Array(width * height * channels);
  const table = weightsOf(image.width, width);
  for (let y = 0; y < height; y++) {
    const row = y * image.width;
    for (let x = 0; x < width; x++) {
      const { first, weights } = table[x];
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION - 1);
        for (let i = 0; i < weights.length; i++) sum += data[(row + first + i) * channels + channel] * weights[i];
        out[(y * width + x) * channels + channel] = clip(sum);
      }
    }
  }
  return { width, height, channels, data: out };
}

/** Resize the columns of an image to another height. */
function downTo(image, height) {
  if (height === image.height) return image;
  const { width, channels, data } = image;
  const line = width * channels;
  const out = new Uint8Array(line * height);
  weightsOf(image.height, height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < line; x++) {
      let sum = 1 << (PRECISION - 1);
      for (let i = 0; i < weights.length; i++) sum += data[(first + i) * line + x] * weights[i];
      out[y * line + x] = clip(sum);
    }
  });
  return { width, height, channels, data: out };
}

/**
 * Return an image {width, height, channels, data} at another size, as Pillow's BILINEAR. Each pass
 * rounds. Pillow 13 begins with the columns where they lose many more pixels; earlier releases
 * always begin with the rows, which differs by one grey level in some pixels.
 */
export function squished(image, width, height) {
  const isTall = height < image.height && image.height - height > 2 * (image.width - width);
  return isTall ? acrossTo(downTo(image, height), width) : downTo(acrossTo(image, width), height);
}

/** Return an image cropped, or padded by 0, around its centre. */
export function cropped(image, width, height) {
  const { channels } = image;
  const data = new Uint8Array(width * height * channels);
  const place = (have, want) => [Math.floor((have - want) / 2), Math.min(have, want)];
  const [left, wide] = place(image.width, width);
  const [top, high] = place(image.height, height);
  for (let y = 0; y < high; y++) {
    const from = ((y + Math.max(0, top)) * image.width + Math.max(0, left)) * channels;
    data.set(image.data.subarray(from, from + wide * channels), ((y + Math.max(0, -top)) * width + Math.max(0, -left)) * channels);
  }
  return { width, height, channels, data };
}

/** Return an image turned and mirrored as an EXIF orientation, 1 to 8, says. */
export function turned(image, orientation) {
  if (orientation < 2) return image;
  const { width, height, channels } = image;
  const swaps = orientation > 4;
  const [wide, high] = swaps ? [height, width] : [width, height];
  const data = new Uint8Array(image.data.length);
  const fromRight = [2, 3, 7, 8].includes(orientation);
  const fromBelow = [3, 4, 6, 7].includes(orientation);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      const [across, down] = swaps ? [y, x] : [x, y];
      const column = fromRight ? width - 1 - across : across;
      const row = fromBelow ? height - 1 - down : down;
      const [from, to] = [(row * width + column) * channels, (y * wide + x) * channels];
      for (let channel = 0; channel < channels; channel++) data[to + channel] = image.data[from + channel];
    }
  }
  return { width: wide, height: high, channels, data };
}

/** Return, for each of `want` places, the two of `have` places around it and the second's weight. */
function between(have, want) {
  const first = new Int32Array(want);
  const share = new Float32Array(want);
  for (let to = 0; to < want; to++) {
    const at = Math.min(have - 1, Math.max(0, (to + 0.5) * (have / want) - 0.5));
    first[to] = Math.min(have - 1, Math.floor(at));
    share[to] = at - first[to];
  }
  return { first, share };
}

/** Return the codes, Uint8Array (height * width), of logits, Float32Array (classes, h, w): each class's
 * plane is resized, row by row, so that images of any size need no more memory. */
export function codesOf(logits, classes, h, w, height, width) {
  const codes = new Uint8Array(width * height);
  const down = between(h, height);
  const across = between(w, width);
  const row = new Float32Array(w);
  const best = new Float32Array(width);
  for (let y = 0; y < height; y++) {
    const above = down.first[y] * w;
    const below = Math.min(h - 1, down.first[y] + 1) * w;
    const share = down.share[y];
    for (let code = 0; code < classes; code++) {
      const plane = code * h * w;
      for (let x = 0; x < w; x++) row[x] = logits[plane + above + x] * (1 - share) + logits[plane + below + x] * share;
      for (let x = 0; x < width; x++) {
        const at = across.first[x];
        const value = Math.fround(row[at] * (1 - across.share[x]) + row[Math.min(w - 1, at + 1)] * across.share[x]);
        if (!code || value > best[x]) {
          best[x] = value;
          codes[y * width + x] = code;
        }
      }
    }
  }
  return codes;
}
