// Image files as the model sees them: the pixels that `fastseg predict` would give it.

import { decodeJpeg, isJpeg, jpegHeader } from "./jpeg.js";
import { cropped, squished, turned } from "./resize.js";

const PNG = [0x89, 0x50, 0x4e, 0x47];
const PNG_DEPTH = 24; // place of the bits a channel in a PNG file
const GROUNDS = { white: 255, black: 0 }; // the colours that transparent images are laid on

/** Return how many times smaller Pillow lets libjpeg decode: 1, 2, 4 or 8. */
function draftScale({ width, height }, wide, high) {
  const times = Math.min(Math.floor(width / wide), Math.floor(height / high));
  return [8, 4, 2].find((scale) => times >= scale) ?? 1;
}

function readJpeg(bytes, { size: [height, width], resize }) {
  const header = jpegHeader(bytes);
  if (!header) throw new Error("it is damaged");
  const swaps = header.orientation > 4;
  const own = swaps ? { width: header.height, height: header.width } : { width: header.width, height: header.height };
  const [wide, high] = swaps ? [height, width] : [width, height];
  const scale = resize === "squish" ? draftScale(header, wide, high) : 1;
  return { image: turned(decodeJpeg(bytes, scale), header.orientation), own };
}

/** Read another format by the browser, without its colour management. */
async function readOther(bytes, { alpha }) {
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Error("this browser cannot decode it; save it as JPEG or PNG");
  });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data: rgba } = context.getImageData(0, 0, width, height);
  const data = new Uint8Array(3 * width * height);
  const ground = GROUNDS[alpha];
  let isTransparent = false;
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const share = rgba[from + 3] / 255;
    isTransparent ||= share < 1;
    for (let channel = 0; channel < 3; channel++) {
      const value = rgba[from + channel];
      data[to++] = ground === undefined ? value : Math.round(value * share + ground * (1 - share));
    }
  }
  return { image: { width, height, channels: 3, data }, own: { width, height }, isTransparent };
}

/**
 * Return {data, width, height, isTransparent}: the pixels that the model takes, Uint8Array
 * (h * w * 3), and the image's own upright size. Throws an Error that says why it cannot be read.
 */
export async function readImage(bytes, settings) {
  if (PNG.every((byte, at) => bytes[at] === byte) && bytes[PNG_DEPTH] === 16) {
    throw new Error("it has 16 bits a channel, which this page does not read; use fastseg predict");
  }
  const { image, own, isTransparent } = isJpeg(bytes) ? readJpeg(bytes, settings) : await readOther(bytes, settings);
  const [height, width] = settings.size;
  const small = (settings.resize === "crop" ? cropped : squished)(image, width, height);
  let { data } = small;
  if (small.channels === 1) {
    data = new Uint8Array(3 * width * height);
    for (let i = 0; i < small.data.length; i++) data.fill(small.data[i], 3 * i, 3 * i + 3);
  }
  return { data: new Uint8Array(data), ...own, isTransparent: Boolean(isTransparent) };
}
