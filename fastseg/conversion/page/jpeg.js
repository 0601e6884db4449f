// JPEG files as Pillow decodes them: libjpeg's integer arithmetic, at 1/1, 1/2, 1/4 or 1/8 size.
//
// Browsers decode at full size only, each in its own arithmetic. `fastseg predict` lets libjpeg
// decode large photographs at a part of their size, so the model must get the same pixels here.
// Baseline and progressive files, 8 bits, grey or three components.

import { idct } from "./idct.js";
import { readScan } from "./scan.js";
import { upsampled } from "./upsample.js";

/** A JPEG that this decoder does not read; the message says why. */
export class JpegError extends Error {}

// prettier-ignore
const ZIGZAG = new Uint8Array([
  0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
]);
const PIXELS = 1.8e8; // as Pillow: twice as many is an attack

/** Whether bytes begin as a JPEG does. */
export const isJpeg = (bytes) => bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;

const word = (bytes, at) => (bytes[at] << 8) | bytes[at + 1];

/** Call `visit(marker, start, end)` for each segment; it returns where to go on, or nothing. */
function segments(bytes, visit) {
  let at = 2;
  while (at + 2 <= bytes.length) {
    if (bytes[at] !== 0xff || bytes[at + 1] === 0xff || bytes[at + 1] === 0) {
      at++;
      continue;
    }
    const marker = bytes[at + 1];
    if (marker === 0xd9) return true;
    if (marker >= 0xd0 && marker <= 0xd8) {
      at += 2;
      continue;
    }
    const end = at + 2 + word(bytes, at + 2);
    if (end > bytes.length) break;
    const next = visit(marker, at + 4, end);
    if (next === false) return true;
    at = next ?? end;
  }
  return false;
}

const isFrame = (marker) => marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);

/** Return the EXIF orientation in an APP1 segment, 1 to 8; 0 where there is none. */
function orientationIn(bytes, start, end) {
  if (String.fromCharCode(...bytes.subarray(start, start + 6)) !== "Exif\0\0") return 0;
  const view = new DataView(bytes.buffer, bytes.byteOffset + start + 6, end - start - 6);
  try {
    const little = view.getUint16(0) === 0x4949;
    const folder = view.getUint32(4, little);
    for (let i = 0; i < view.getUint16(folder, little); i++) {
      const entry = folder + 2 + 12 * i;
      if (view.getUint16(entry, little) === 0x0112) {
        const value = view.getUint16(entry + 8, little);
        return value >= 1 && value <= 8 ? value : 0;
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a damaged header: upright, as Pillow does
  }
  return 0;
}

/** Return {width, height, orientation} of a JPEG as it is stored; null where no header is found. */
export function jpegHeader(bytes) {
  let found = null;
  let orientation = 0;
  segments(bytes, (marker, start, end) => {
    if (marker === 0xe1 && !orientation) orientation = orientationIn(bytes, start, end);
    if (isFrame(marker)) found = { height: word(bytes, start + 1), width: word(bytes, start + 3) };
    return marker === 0xda ? false : undefined;
  });
  return found && { ...found, orientation: orientation || 1 };
}

/** Decode at 1/`scale` of the size: {width, height, channels: 1 or 3, data: Uint8Array}. */
export function decodeJpeg(bytes, scale = 1) {
  const state = { quantisers: [], dc: [], ac: [], restart: 0, adobe: null, isJfif: false };
  let frame = null;
  const isWhole = segments(bytes, (marker, start, end) => {
    if (marker === 0xdb) readQuantisers(bytes, start, end, state);
    else if (marker === 0xc4) readHuffman(bytes, start, end, state);
    else if (marker === 0xdd) state.restart = word(bytes, start);
    else if (marker === 0xe0 && String.fromCharCode(...bytes.subarray(start, start + 4)) === "JFIF") state.isJfif = true;
    else if (marker === 0xee && String.fromCharCode(...bytes.subarray(start, start + 5)) === "Adobe") state.adobe = bytes[start + 11];
    else if (isFrame(marker)) frame = readFrame(bytes, marker, start);
    else if (marker === 0xda) {
      if (!frame) throw new JpegError("it has no frame header");
      const next = readScan(bytes, start, end, frame, state);
      // a table may be defined again for the next scan, as long as this one is whole
      for (const one of frame.components) one.quantiser ??= state.quantisers[one.table];
      return next;
    }
    return undefined;
  });
  if (!frame || !isWhole) throw new JpegError("it is truncated");
  return colours(frame, state, 8 / scale);
}

function readQuantisers(bytes, start, end, { quantisers }) {
  for (let at = start; at < end; ) {
    const [wide, id] = [bytes[at] >> 4, bytes[at] & 15];
    const table = new Int32Array(64);
    at++;
    for (let i = 0; i < 64; i++, at += wide ? 2 : 1) table[ZIGZAG[i]] = wide ? word(bytes, at) : bytes[at];
    quantisers[id] = table;
  }
}

function readHuffman(bytes, start, end, { dc, ac }) {
  for (let at = start; at < end; ) {
    const [kind, id] = [bytes[at] >> 4, bytes[at] & 15];
    const counts = bytes.subarray(at + 1, at + 17);
    const total = counts.reduce((sum, count) => sum + count, 0);
    (kind ? ac : dc)[id] = huffman(counts, bytes.subarray(at + 17, at + 17 + total));
    at += 17 + total;
  }
}

/** Return a table of 2^16 entries, one for each next 16 bits: length << 8 | value; 0: no code. */
function huffman(counts, values) {
  const table = new Uint16Array(65536);
  let [at, code] = [0, 0];
  for (let length = 1; length <= 16; length++) {
    for (let i = 0; i < counts[length - 1]; i++) {
      const from = code << (16 - length);
      table.fill((length << 8) | values[at++], from, from + (1 << (16 - length)));
      code++;
    }
    code <<= 1;
  }
  return table;
}

function readFrame(bytes, marker, start) {
  if (marker > 0xc2) throw new JpegError("it is coded in a rare way (lossless, hierarchical or arithmetic)");
  if (bytes[start] !== 8) throw new JpegError(`it has ${bytes[start]} bits a channel`);
  const [height, width, count] = [word(bytes, start + 1), word(bytes, start + 3), bytes[start + 5]];
  if (count !== 1 && count !== 3) throw new JpegError(`it has ${count} components, such as printing inks`);
  if (!width || !height) throw new JpegError("it has no size");
  if (width * height > PIXELS) throw new JpegError("it has too many pixels");
  const components = [];
  for (let i = 0; i < count; i++) {
    const at = start + 6 + 3 * i;
    components.push({ id: bytes[at], h: bytes[at + 1] >> 4, v: bytes[at + 1] & 15, table: bytes[at + 2], last: 0 });
  }
  const maxH = Math.max(...components.map(({ h }) => h));
  const maxV = Math.max(...components.map(({ v }) => v));
  const [acrossMcu, downMcu] = [Math.ceil(width / (8 * maxH)), Math.ceil(height / (8 * maxV))];
  for (const one of components) {
    if (!one.h || !one.v) throw new JpegError("its header is damaged");
    one.across = Math.ceil((width * one.h) / (8 * maxH)); // blocks with pixels of the image
    one.down = Math.ceil((height * one.v) / (8 * maxV));
    one.stride = acrossMcu * one.h; // blocks that are stored
    one.blocks = new Int16Array(64 * one.stride * downMcu * one.v);
  }
  return { width, height, components, maxH, maxV, acrossMcu, downMcu, isProgressive: marker === 0xc2, zigzag: ZIGZAG };
}

/** Whether three components are luma and chroma, as libjpeg guesses. */
function isYcc({ components }, { isJfif, adobe }) {
  if (isJfif) return true;
  if (adobe !== null) return adobe !== 0;
  return String.fromCharCode(...components.map(({ id }) => id)) !== "RGB";
}

function colours(frame, state, side) {
  const { width, height, components, maxH, maxV } = frame;
  const [wide, high] = [Math.ceil((width * side) / 8), Math.ceil((height * side) / 8)];
  const planes = components.map((one) => {
    if (!one.quantiser) throw new JpegError("a part of it is missing");
    let own = side; // chroma grows by its inverse DCT where it can, not by upsampling
    while (own < 8 && (maxH * side) % (one.h * own * 2) === 0 && (maxV * side) % (one.v * own * 2) === 0) own *= 2;
    const plane = idct(one, own);
    plane.wide = Math.ceil((width * one.h * own) / (8 * maxH));
    plane.high = Math.ceil((height * one.v * own) / (8 * maxV));
    const [across, down] = [(maxH * side) / (one.h * own), (maxV * side) / (one.v * own)];
    if (across % 1 || down % 1) throw new JpegError("its channels have unusual sizes");
    return upsampled(plane, across, down, wide, high, side > 1);
  });
  if (planes.length === 1) return { width: wide, height: high, channels: 1, data: planes[0] };
  const data = new Uint8ClampedArray(3 * wide * high);
  const [first, second, third] = planes;
  if (!isYcc(frame, state)) {
    for (let i = 0, o = 0; i < first.length; i++) {
      data[o++] = first[i];
      data[o++] = second[i];
      data[o++] = third[i];
    }
  } else {
    const { red, blue, greenRed, greenBlue } = TABLES;
    for (let i = 0, o = 0; i < first.length; i++) {
      const [y, cb, cr] = [first[i], second[i], third[i]];
      data[o++] = y + red[cr];
      data[o++] = y + ((greenBlue[cb] + greenRed[cr]) >> 16);
      data[o++] = y + blue[cb];
    }
  }
  return { width: wide, height: high, channels: 3, data };
}

/** libjpeg's tables of colour conversion, in 16 fractional bits. */
const TABLES = (() => {
  const fixed = (value) => Math.floor(value * 65536 + 0.5);
  const made = (work) => Int32Array.from({ length: 256 }, (_, i) => work(i - 128));
  return {
    red: made((x) => (fixed(1.402) * x + 32768) >> 16),
    blue: made((x) => (fixed(1.772) * x + 32768) >> 16),
    greenRed: made((x) => -fixed(0.71414) * x),
    greenBlue: made((x) => -fixed(0.34414) * x + 32768),
  };
})();
