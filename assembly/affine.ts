// Channel-affine maps: the second of the two primitives. Every element of a channel gets the same few coefficients.
// With z = (x − hi)·scale + shift and an activation f, a type of epilogue.ts:
//
//   Affine          y  = f(z)                                          (docs/batchnorm.md, F7)
//   AffineSum       y  = f(z + b)                                      b: the residual
//   Gradient        dx = ((x − hi)·slope + (dz + shift))·scale         (docs/batchnorm.md, B6), dz = dy·f′(z)
//   ScaledGradient  dx = ((x − hi)·slope + (dy·more + shift))·scale    more: gamma, where invStd has another's
//   Derivative      dz = dy·f′(z)
//   DerivativeSum   dz = dy·f′(z + c)                                  c: the residual
//   Combination     (x − hi)·scale + b·slope + c·more + shift          of three tensors
//
// `coefficients` is a matrix of T with the rows hi, scale, shift, slope, more, as far as the map has them; Gradient with an
// activation has the shift of z in `more`. It has one column per channel in the planar walk and one per column in the
// interleaved walk:
//
//   planar                                     interleaved
//   x:  n=0 |c0 c0 c0 …|c1 c1 c1 …|…           x:  |c0 c1 c2 …|c0 c1 c2 …|…      one row is `columns` long
//   coefficients: one value per plane          coefficients: one value per column, read from L1 in every row
//
// Destination and sources may be the same memory: every element is read before it is written, and never read again.

import { Identity } from "./epilogue";
import { Lanes, Single, Whole } from "./lanes";

/** y = f(z). Reads one source and three rows. */
@final
@unmanaged
export class Affine {
  @inline get sources(): i32 {
    return 1;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    _b: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _slope: v128,
    _more: v128,
    parameters: usize,
  ): v128 {
    return changetype<E>(<usize>0).apply<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), parameters);
  }
}

/** y = f(z + b) */
@final
@unmanaged
export class AffineSum {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    b: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _slope: v128,
    _more: v128,
    parameters: usize,
  ): v128 {
    const z = v128.add<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), b);
    return changetype<E>(<usize>0).apply<T>(z, parameters);
  }
}

/**
 * dx = ((x − hi)·slope + (dz + shift))·scale, dz = dy·f′(z). No coefficient holds invStd²: it underflows for data around
 * 1e20.
 */
@final
@unmanaged
export class Gradient {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 4;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    slope: v128,
    more: v128,
    parameters: usize,
  ): v128 {
    const d = v128.sub<T>(x, hi);
    const f = changetype<E>(<usize>0);
    const dz = f.gate<T>(dy, d, scale, more, parameters);
    return v128.mul<T>(Lanes.madd<T>(d, slope, v128.add<T>(dz, shift)), scale);
  }
}

/** dx = ((x − hi)·slope + (dy·more + shift))·scale */
@final
@unmanaged
export class ScaledGradient {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 5;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    slope: v128,
    more: v128,
    _parameters: usize,
  ): v128 {
    return v128.mul<T>(Lanes.madd<T>(v128.sub<T>(x, hi), slope, Lanes.madd<T>(dy, more, shift)), scale);
  }
}

/** dz = dy·f′(z) */
@final
@unmanaged
export class Derivative {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _slope: v128,
    _more: v128,
    parameters: usize,
  ): v128 {
    return changetype<E>(<usize>0).derive<T>(dy, Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), parameters);
  }
}

/** dz = dy·f′(z + c) */
@final
@unmanaged
export class DerivativeSum {
  @inline get sources(): i32 {
    return 3;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _slope: v128,
    _more: v128,
    parameters: usize,
  ): v128 {
    const z = v128.add<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), c);
    return changetype<E>(<usize>0).derive<T>(dy, z, parameters);
  }
}

/** (x − hi)·scale + b·slope + c·more + shift */
@final
@unmanaged
export class Combination {
  @inline get sources(): i32 {
    return 3;
  }

  @inline get rows(): i32 {
    return 5;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    b: v128,
    c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    slope: v128,
    more: v128,
    _parameters: usize,
  ): v128 {
    return Lanes.madd<T>(v128.sub<T>(x, hi), scale, Lanes.madd<T>(b, slope, Lanes.madd<T>(c, more, shift)));
  }
}

/** One step of a map: sources at x, b and c, result to y. Map M, activation E and width W are types. */
abstract class Step {
  /** Whether a map has the row `more`: Gradient does where an activation's derivative needs z. */
  @inline static reads<M extends Affine, E extends Identity>(): bool {
    const rows = changetype<M>(<usize>0).rows;
    return rows == 5 || (rows == 4 && changetype<E>(<usize>0).bends);
  }

  /** With the coefficients at hand. */
  @inline static take<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    x: usize,
    b: usize,
    c: usize,
    y: usize,
    hi: v128,
    scale: v128,
    shift: v128,
    slope: v128,
    more: v128,
    parameters: usize,
  ): void {
    const map = changetype<M>(<usize>0);
    const width = changetype<W>(<usize>0);
    const second = map.sources > 1 ? width.load<T>(b) : hi;
    const third = map.sources > 2 ? width.load<T>(c) : hi;
    const value = map.at<T, E>(width.load<T>(x), second, third, hi, scale, shift, slope, more, parameters);
    width.store<T>(y, value);
  }

  /** With the coefficients read from memory, where each has a row of its own. */
  @inline static column<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    x: usize,
    b: usize,
    c: usize,
    y: usize,
    hi: usize,
    scale: usize,
    shift: usize,
    slope: usize,
    more: usize,
    parameters: usize,
  ): void {
    const width = changetype<W>(<usize>0);
    const h = width.load<T>(hi);
    const g = changetype<M>(<usize>0).rows > 3 ? width.load<T>(slope) : h;
    const m = Step.reads<M, E>() ? changetype<E>(<usize>0).bound<T>(width.load<T>(more)) : h;
    Step.take<T, M, E, W>(x, b, c, y, h, width.load<T>(scale), width.load<T>(shift), g, m, parameters);
  }
}

/** Channels [begin, end) of a tensor [outer, channels, inner], plane by plane in memory order. */
export function mapPlanar<T extends number, M extends Affine, E extends Identity>(
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  coefficients: usize,
  parameters: usize,
  outer: usize,
  channels: usize,
  inner: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const heavy = changetype<E>(<usize>0).heavy;
  const row = Lanes.bytes<T>(channels);
  const skip = Lanes.bytes<T>((channels - end + begin) * inner);
  const first = Lanes.bytes<T>(begin * inner);
  x += first;
  b += first;
  c += first;
  y += first;
  for (; outer; --outer) {
    for (let channel = begin; channel < end; ++channel) {
      const at = coefficients + Lanes.bytes<T>(channel);
      const hi = v128.load_splat<T>(at);
      const scale = v128.load_splat<T>(at + row);
      const shift = v128.load_splat<T>(at + 2 * row);
      const slope = changetype<M>(<usize>0).rows > 3 ? v128.load_splat<T>(at + 3 * row) : hi;
      const more = Step.reads<M, E>() ? changetype<E>(<usize>0).bound<T>(v128.load_splat<T>(at + 4 * row)) : hi;
      let left = inner;
      for (; !heavy && left >= 4 * lanes; left -= 4 * lanes) {
        Step.take<T, M, E, Whole>(x, b, c, y, hi, scale, shift, slope, more, parameters);
        Step.take<T, M, E, Whole>(x + 16, b + 16, c + 16, y + 16, hi, scale, shift, slope, more, parameters);
        Step.take<T, M, E, Whole>(x + 32, b + 32, c + 32, y + 32, hi, scale, shift, slope, more, parameters);
        Step.take<T, M, E, Whole>(x + 48, b + 48, c + 48, y + 48, hi, scale, shift, slope, more, parameters);
        x += 64;
        b += 64;
        c += 64;
        y += 64;
      }
      for (; left >= lanes; left -= lanes) {
        Step.take<T, M, E, Whole>(x, b, c, y, hi, scale, shift, slope, more, parameters);
        x += 16;
        b += 16;
        c += 16;
        y += 16;
      }
      for (; left; --left) {
        Step.take<T, M, E, Single>(x, b, c, y, hi, scale, shift, slope, more, parameters);
        x += sizeof<T>();
        b += sizeof<T>();
        c += sizeof<T>();
        y += sizeof<T>();
      }
    }
    x += skip;
    b += skip;
    c += skip;
    y += skip;
  }
}

/**
 * Elements [begin, end) of rows of `columns` elements; begin is the start of a row. `together` is 1 or 4: four rows at
 * a time share the loads of coefficients, which pays in cache; from memory one stream is faster than four.
 */
export function mapInterleaved<T extends number, M extends Affine, E extends Identity>(
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  coefficients: usize,
  parameters: usize,
  columns: usize,
  together: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const heavy = changetype<E>(<usize>0).heavy;
  const row = Lanes.bytes<T>(columns);
  const first = Lanes.bytes<T>(begin);
  x += first;
  b += first;
  c += first;
  y += first;
  if (!heavy && together == 4 && columns % lanes == 0)
    for (; end - begin >= 4 * columns; begin += 4 * columns) {
      let hi = coefficients;
      for (let left = columns; left; left -= lanes) {
        const h = v128.load(hi);
        const scale = v128.load(hi + row);
        const shift = v128.load(hi + 2 * row);
        const slope = changetype<M>(<usize>0).rows > 3 ? v128.load(hi + 3 * row) : h;
        const more = Step.reads<M, E>() ? changetype<E>(<usize>0).bound<T>(v128.load(hi + 4 * row)) : h;
        const two = row * 2;
        const three = row * 3;
        Step.take<T, M, E, Whole>(x, b, c, y, h, scale, shift, slope, more, parameters);
        Step.take<T, M, E, Whole>(x + row, b + row, c + row, y + row, h, scale, shift, slope, more, parameters);
        Step.take<T, M, E, Whole>(x + two, b + two, c + two, y + two, h, scale, shift, slope, more, parameters);
        Step.take<T, M, E, Whole>(x + three, b + three, c + three, y + three, h, scale, shift, slope, more, parameters);
        x += 16;
        b += 16;
        c += 16;
        y += 16;
        hi += 16;
      }
      x += 3 * row;
      b += 3 * row;
      c += 3 * row;
      y += 3 * row;
    }
  for (; begin < end; begin += columns) {
    let hi = coefficients;
    let scale = hi + row;
    let shift = scale + row;
    let slope = shift + row;
    let more = slope + row;
    let left = min(columns, end - begin);
    for (; !heavy && left >= 4 * lanes; left -= 4 * lanes) {
      Step.column<T, M, E, Whole>(x, b, c, y, hi, scale, shift, slope, more, parameters);
      Step.column<T, M, E, Whole>(
        x + 16,
        b + 16,
        c + 16,
        y + 16,
        hi + 16,
        scale + 16,
        shift + 16,
        slope + 16,
        more + 16,
        parameters,
      );
      Step.column<T, M, E, Whole>(
        x + 32,
        b + 32,
        c + 32,
        y + 32,
        hi + 32,
        scale + 32,
        shift + 32,
        slope + 32,
        more + 32,
        parameters,
      );
      Step.column<T, M, E, Whole>(
        x + 48,
        b + 48,
        c + 48,
        y + 48,
        hi + 48,
        scale + 48,
        shift + 48,
        slope + 48,
        more + 48,
        parameters,
      );
      x += 64;
      b += 64;
      c += 64;
      y += 64;
      hi += 64;
      scale += 64;
      shift += 64;
      slope += 64;
      more += 64;
    }
    for (; left >= lanes; left -= lanes) {
      Step.column<T, M, E, Whole>(x, b, c, y, hi, scale, shift, slope, more, parameters);
      x += 16;
      b += 16;
      c += 16;
      y += 16;
      hi += 16;
      scale += 16;
      shift += 16;
      slope += 16;
      more += 16;
    }
    for (; left; --left) {
      Step.column<T, M, E, Single>(x, b, c, y, hi, scale, shift, slope, more, parameters);
      x += sizeof<T>();
      b += sizeof<T>();
      c += sizeof<T>();
      y += sizeof<T>();
      hi += sizeof<T>();
      scale += sizeof<T>();
      shift += sizeof<T>();
      slope += sizeof<T>();
      more += sizeof<T>();
    }
  }
}
