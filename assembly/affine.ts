// Channel-affine maps: the second of the two primitives. Every element of a channel gets the same few coefficients.
//
//   Affine    y  = (x − hi)·scale + shift                       (docs/batchnorm.md, F7)
//   Gradient  dx = ((x − hi)·slope + (dy + shift))·scale        (docs/batchnorm.md, B6)
//
// `coefficients` is a matrix of T with the rows hi, scale, shift and, for Gradient, slope. It has one column per channel
// in the planar walk and one per column in the interleaved walk:
//
//   planar                                     interleaved
//   x:  n=0 |c0 c0 c0 …|c1 c1 c1 …|…           x:  |c0 c1 c2 …|c0 c1 c2 …|…      one row is `columns` long
//   coefficients: one value per plane          coefficients: one value per column, read from L1 in every row
//
// Destination and sources may be the same memory: every element is read before it is written, and never read again.

import { Identity } from "./epilogue";
import { Lanes, Single, Whole } from "./lanes";

/** y = (x − hi)·scale + shift. Reads one source. */
@final
@unmanaged
export class Affine {
  @inline get sources(): i32 {
    return 1;
  }

  @inline at<T>(x: v128, _dy: v128, hi: v128, scale: v128, shift: v128, _slope: v128): v128 {
    return Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift);
  }
}

/** dx = ((x − hi)·slope + (dy + shift))·scale. No coefficient holds invStd²: it underflows for data around 1e20. */
@final
@unmanaged
export class Gradient {
  @inline get sources(): i32 {
    return 2;
  }

  @inline at<T>(x: v128, dy: v128, hi: v128, scale: v128, shift: v128, slope: v128): v128 {
    return v128.mul<T>(Lanes.madd<T>(v128.sub<T>(x, hi), slope, v128.add<T>(dy, shift)), scale);
  }
}

/** One step of a map: sources at x and dy, result to y. Map M, epilogue E and width W are types. */
abstract class Step {
  /** With the coefficients at hand. */
  @inline static take<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    x: usize,
    dy: usize,
    y: usize,
    hi: v128,
    scale: v128,
    shift: v128,
    slope: v128,
  ): void {
    const map = changetype<M>(<usize>0);
    const width = changetype<W>(<usize>0);
    const other = map.sources == 2 ? width.load<T>(dy) : hi;
    const value = map.at<T>(width.load<T>(x), other, hi, scale, shift, slope);
    width.store<T>(y, changetype<E>(<usize>0).apply<T>(value));
  }

  /** With the coefficients read from memory, where each has a row of its own. */
  @inline static column<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    x: usize,
    dy: usize,
    y: usize,
    hi: usize,
    scale: usize,
    shift: usize,
    slope: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const h = width.load<T>(hi);
    const g = changetype<M>(<usize>0).sources == 2 ? width.load<T>(slope) : h;
    Step.take<T, M, E, W>(x, dy, y, h, width.load<T>(scale), width.load<T>(shift), g);
  }
}

/** Channels [begin, end) of a tensor [outer, channels, inner], plane by plane in memory order. */
export function mapPlanar<T extends number, M extends Affine, E extends Identity>(
  x: usize,
  dy: usize,
  y: usize,
  coefficients: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const row = Lanes.bytes<T>(channels);
  for (let n: usize = 0; n < outer; ++n) {
    const offset = Lanes.bytes<T>((n * channels + begin) * inner);
    let a = x + offset;
    let b = dy + offset;
    let c = y + offset;
    for (let channel = begin; channel < end; ++channel) {
      const at = coefficients + Lanes.bytes<T>(channel);
      const hi = v128.load_splat<T>(at);
      const scale = v128.load_splat<T>(at + row);
      const shift = v128.load_splat<T>(at + 2 * row);
      const slope = changetype<M>(<usize>0).sources == 2 ? v128.load_splat<T>(at + 3 * row) : hi;
      let left = inner;
      for (; left >= 4 * lanes; left -= 4 * lanes) {
        Step.take<T, M, E, Whole>(a, b, c, hi, scale, shift, slope);
        Step.take<T, M, E, Whole>(a + 16, b + 16, c + 16, hi, scale, shift, slope);
        Step.take<T, M, E, Whole>(a + 32, b + 32, c + 32, hi, scale, shift, slope);
        Step.take<T, M, E, Whole>(a + 48, b + 48, c + 48, hi, scale, shift, slope);
        a += 64;
        b += 64;
        c += 64;
      }
      for (; left >= lanes; left -= lanes) {
        Step.take<T, M, E, Whole>(a, b, c, hi, scale, shift, slope);
        a += 16;
        b += 16;
        c += 16;
      }
      for (; left; --left) {
        Step.take<T, M, E, Single>(a, b, c, hi, scale, shift, slope);
        a += sizeof<T>();
        b += sizeof<T>();
        c += sizeof<T>();
      }
    }
  }
}

/**
 * Elements [begin, end) of rows of `columns` elements; begin is the start of a row. `together` is 1 or 4: four rows at
 * a time share the loads of coefficients, which pays in cache; from memory one stream is faster than four.
 */
export function mapInterleaved<T extends number, M extends Affine, E extends Identity>(
  x: usize,
  dy: usize,
  y: usize,
  coefficients: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const row = Lanes.bytes<T>(columns);
  const two = changetype<M>(<usize>0).sources == 2;
  let a = x + Lanes.bytes<T>(begin);
  let b = dy + Lanes.bytes<T>(begin);
  let c = y + Lanes.bytes<T>(begin);
  if (together == 4 && columns % lanes == 0)
    for (; end - begin >= 4 * columns; begin += 4 * columns) {
      let hi = coefficients;
      for (let left = columns; left; left -= lanes) {
        const h = v128.load(hi);
        const scale = v128.load(hi + row);
        const shift = v128.load(hi + 2 * row);
        const slope = two ? v128.load(hi + 3 * row) : h;
        Step.take<T, M, E, Whole>(a, b, c, h, scale, shift, slope);
        Step.take<T, M, E, Whole>(a + row, b + row, c + row, h, scale, shift, slope);
        Step.take<T, M, E, Whole>(a + 2 * row, b + 2 * row, c + 2 * row, h, scale, shift, slope);
        Step.take<T, M, E, Whole>(a + 3 * row, b + 3 * row, c + 3 * row, h, scale, shift, slope);
        a += 16;
        b += 16;
        c += 16;
        hi += 16;
      }
      a += 3 * row;
      b += 3 * row;
      c += 3 * row;
    }
  for (; begin < end; begin += columns) {
    let hi = coefficients;
    let scale = hi + row;
    let shift = scale + row;
    let slope = shift + row;
    let left = min(columns, end - begin);
    for (; left >= 4 * lanes; left -= 4 * lanes) {
      Step.column<T, M, E, Whole>(a, b, c, hi, scale, shift, slope);
      Step.column<T, M, E, Whole>(a + 16, b + 16, c + 16, hi + 16, scale + 16, shift + 16, slope + 16);
      Step.column<T, M, E, Whole>(a + 32, b + 32, c + 32, hi + 32, scale + 32, shift + 32, slope + 32);
      Step.column<T, M, E, Whole>(a + 48, b + 48, c + 48, hi + 48, scale + 48, shift + 48, slope + 48);
      a += 64;
      b += 64;
      c += 64;
      hi += 64;
      scale += 64;
      shift += 64;
      slope += 64;
    }
    for (; left >= lanes; left -= lanes) {
      Step.column<T, M, E, Whole>(a, b, c, hi, scale, shift, slope);
      a += 16;
      b += 16;
      c += 16;
      hi += 16;
      scale += 16;
      shift += 16;
      slope += 16;
    }
    for (; left; --left) {
      Step.column<T, M, E, Single>(a, b, c, hi, scale, shift, slope);
      a += sizeof<T>();
      b += sizeof<T>();
      c += sizeof<T>();
      hi += sizeof<T>();
      scale += sizeof<T>();
      shift += sizeof<T>();
      slope += sizeof<T>();
    }
  }
}
