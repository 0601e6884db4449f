// The entropy-coded data of a JPEG: Huffman codes become coefficients, in files' own block order.

/** Bits of a scan; after its end, zeros, as libjpeg reads a truncated file. */
class Bits {
  constructor(bytes, at) {
    Object.assign(this, { bytes, at, buffer: 0, count: 0, missing: 0 }); // missing: bytes of zeros that were added
  }

  #fill() {
    while (this.count <= 16) {
      let byte = this.bytes[this.at];
      if (byte === undefined || (byte === 0xff && this.bytes[this.at + 1] !== 0)) {
        byte = 0; // a marker or the end
        this.missing++;
      } else {
        this.at += byte === 0xff ? 2 : 1;
      }
      this.buffer = ((this.buffer << 8) | byte) & 0xffffff;
      this.count += 8;
    }
  }

  /** Return the value of the next Huffman code. */
  code(table) {
    if (this.count < 16) this.#fill();
    const entry = table[(this.buffer >> (this.count - 16)) & 0xffff];
    if (!entry) throw new Error("its data are damaged");
    this.count -= entry >> 8;
    return entry & 255;
  }

  take(length) {
    if (!length) return 0;
    if (this.count < length) this.#fill();
    this.count -= length;
    return (this.buffer >> this.count) & ((1 << length) - 1);
  }

  /** Return a signed value of some bits. */
  signed(length) {
    const value = this.take(length);
    return length && value < 1 << (length - 1) ? value - (1 << length) + 1 : value;
  }

  /** Go to the next marker. Returns whether it is a restart, which is passed. */
  restart() {
    if (8 * this.missing > this.count) throw new Error("it is truncated or damaged");
    this.buffer = this.count = this.missing = 0;
    while (this.at + 1 < this.bytes.length) {
      if (this.bytes[this.at] === 0xff && this.bytes[this.at + 1] !== 0 && this.bytes[this.at + 1] !== 0xff) {
        const isRestart = this.bytes[this.at + 1] >= 0xd0 && this.bytes[this.at + 1] <= 0xd7;
        if (isRestart) this.at += 2;
        return isRestart;
      }
      this.at++;
    }
    return false;
  }
}

/** Read a scan whose header is at `start`; returns where the next segment may begin. */
export function readScan(bytes, start, end, frame, state) {
  const count = bytes[start];
  const parts = [];
  for (let i = 0; i < count; i++) {
    const one = frame.components.find(({ id }) => id === bytes[start + 1 + 2 * i]);
    if (!one) throw new Error("its scan has an unknown component");
    const tables = bytes[start + 2 + 2 * i];
    parts.push(Object.assign(one, { dc: state.dc[tables >> 4], ac: state.ac[tables & 15], last: 0 }));
  }
  const at = start + 1 + 2 * count;
  const scan = { from: bytes[at], to: bytes[at + 1], high: bytes[at + 2] >> 4, low: bytes[at + 2] & 15, run: 0 };
  const bits = new Bits(bytes, end);
  const { zigzag } = frame;
  const block = frame.isProgressive ? progressive(bits, scan, zigzag) : (one, offset) => baseline(bits, one, offset, zigzag);
  let left = state.restart || Infinity;
  const step = () => {
    if (left > 0) return;
    bits.restart();
    scan.run = 0;
    for (const one of parts) one.last = 0;
    left = state.restart;
  };
  if (count === 1) {
    const [one] = parts; // not interleaved: only blocks with pixels of the image
    for (let i = 0; i < one.across * one.down; i++, left--) {
      step();
      block(one, 64 * (Math.floor(i / one.across) * one.stride + (i % one.across)));
    }
  } else {
    for (let mcu = 0; mcu < frame.acrossMcu * frame.downMcu; mcu++, left--) {
      step();
      const [row, column] = [Math.floor(mcu / frame.acrossMcu), mcu % frame.acrossMcu];
      for (const one of parts) {
        for (let v = 0; v < one.v; v++) {
          for (let h = 0; h < one.h; h++) block(one, 64 * ((row * one.v + v) * one.stride + column * one.h + h));
        }
      }
    }
  }
  bits.restart();
  return bits.at;
}

function baseline(bits, one, offset, zigzag) {
  const { blocks, dc, ac } = one;
  one.last += bits.signed(bits.code(dc));
  blocks[offset] = one.last;
  for (let k = 1; k < 64; k++) {
    const code = bits.code(ac);
    const size = code & 15;
    if (!size) {
      if (code !== 0xf0) return;
      k += 15;
      continue;
    }
    k += code >> 4;
    blocks[offset + zigzag[k & 63]] = bits.signed(size);
  }
}

/** Return the function that reads a block of a progressive scan. */
function progressive(bits, scan, zigzag) {
  const { from, to, high, low } = scan;
  if (!from) {
    if (high) {
      return ({ blocks }, offset) => {
        if (bits.take(1)) blocks[offset] |= 1 << low;
      };
    }
    return (one, offset) => {
      one.last += bits.signed(bits.code(one.dc));
      one.blocks[offset] = one.last << low;
    };
  }
  if (!high) {
    return ({ blocks, ac }, offset) => {
      if (scan.run > 0) {
        scan.run--;
        return;
      }
      for (let k = from; k <= to; k++) {
        const code = bits.code(ac);
        const [zeros, size] = [code >> 4, code & 15];
        if (!size && zeros < 15) {
          scan.run = (1 << zeros) - 1 + bits.take(zeros);
          return;
        }
        k += zeros;
        if (size) blocks[offset + zigzag[k & 63]] = bits.signed(size) * (1 << low);
      }
    };
  }
  const [plus, minus] = [1 << low, -1 << low];
  const refine = (blocks, at) => {
    if (bits.take(1)) blocks[at] += blocks[at] >= 0 ? plus : minus;
  };
  return ({ blocks, ac }, offset) => {
    let k = from;
    if (!scan.run) {
      for (; k <= to; k++) {
        const code = bits.code(ac);
        let zeros = code >> 4;
        let value = 0;
        if (code & 15) {
          value = bits.take(1) ? plus : minus;
        } else if (zeros < 15) {
          scan.run = (1 << zeros) + bits.take(zeros);
          break;
        }
        for (; k <= to; k++) {
          const at = offset + zigzag[k];
          if (blocks[at]) refine(blocks, at);
          else if (--zeros < 0) break;
        }
        if (value && k <= to) blocks[offset + zigzag[k]] = value;
      }
    }
    if (scan.run > 0) {
      for (; k <= to; k++) {
        const at = offset + zigzag[k];
        if (blocks[at]) refine(blocks, at);
      }
      scan.run--;
    }
  };
}
