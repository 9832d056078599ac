// Channel-affine maps: the second of the two primitives. All elements of a channel have the same coefficients. With z =
// (x − hi)·scale + shift and an activation f, which is a type of activations.ts:
//
//   Affine          y  = f(z)                                              (docs/concepts/derivation.md, F7)
//   AffineSum       y  = f(z + b)                                          b: the residual
//   Gradient        dx = ((x − hi)·xCoefficient + (dz + shift))·scale      (docs/concepts/derivation.md, B6), dz = dy·f′(z)
//   ScaledGradient  dx = ((x − hi)·xCoefficient + (dy·extra + shift))·scale
//   Derivative      dz = dy·f′(z + c)                                      c: the residual
//   Combination     y  = (x − hi)·scale + b·xCoefficient + c·extra + shift
//   Product         y  = z·b
//
// The coefficients of a plan are rows of T: hi, scale, shift, xCoefficient, extra. A map has the first three, four or
// five of them. In Gradient with an activation, `extra` is the shift of z. In ScaledGradient it is gamma, and scale is
// invStd alone (conditional scale and group norm). A row has one value per channel in the planar walk, and one per
// column in the interleaved walk:
//
//   planar                                     interleaved
//   x:  n=0 |c0 c0 c0 …|c1 c1 c1 …|…           x:  |c0 c1 c2 …|c0 c1 c2 …|…      one row is `columns` long
//   coefficients: one value per plane          coefficients: one value per column, read from L1 in every row
//
// A map with `far` takes several far images at a time in the planar walk. Rare maps do not, which keeps the module small.
//
// Destination and sources may be the same memory, because every element is read once, before it is written.

import { Plan } from "../plan";
import { Identity } from "./activations";
import { Lanes, Single, Whole } from "./lanes";

/** The map y = f(z). It reads one source and three rows. */
@final
@unmanaged
export class Affine {
  @inline get sources(): i32 {
    return 1;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline get addsLast(): bool {
    return false;
  }

  @inline get far(): bool {
    return true;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    _b: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _xCoefficient: v128,
    _extra: v128,
    parameters: usize,
  ): v128 {
    return changetype<E>(<usize>0).apply<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), parameters);
  }
}

/** The map y = f(z + b). It reads two sources, of which b may be missing if loops are rolled, and three rows. */
@final
@unmanaged
export class AffineSum {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline get addsLast(): bool {
    return true;
  }

  @inline get far(): bool {
    return false;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    b: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _xCoefficient: v128,
    _extra: v128,
    parameters: usize,
  ): v128 {
    const z = v128.add<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), b);
    return changetype<E>(<usize>0).apply<T>(z, parameters);
  }
}

/**
 * The map dx = ((x − hi)·xCoefficient + (dz + shift))·scale, with dz = dy·f′(z). No coefficient has invStd² as a
 * factor, because it underflows for data around 1e20.
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

  @inline get addsLast(): bool {
    return false;
  }

  @inline get far(): bool {
    return true;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    xCoefficient: v128,
    extra: v128,
    parameters: usize,
  ): v128 {
    const d = v128.sub<T>(x, hi);
    const f = changetype<E>(<usize>0);
    const dz = f.gate<T>(dy, d, scale, extra, parameters);
    return v128.mul<T>(Lanes.madd<T>(d, xCoefficient, v128.add<T>(dz, shift)), scale);
  }
}

/** The map dx = ((x − hi)·xCoefficient + (dy·extra + shift))·scale. It reads two sources and five rows. */
@final
@unmanaged
export class ScaledGradient {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 5;
  }

  @inline get addsLast(): bool {
    return false;
  }

  @inline get far(): bool {
    return false;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    xCoefficient: v128,
    extra: v128,
    _parameters: usize,
  ): v128 {
    return v128.mul<T>(Lanes.madd<T>(v128.sub<T>(x, hi), xCoefficient, Lanes.madd<T>(dy, extra, shift)), scale);
  }
}

/** The map dz = dy·f′(z + c). It reads three sources, of which c may be missing, and three rows. */
@final
@unmanaged
export class Derivative {
  @inline get sources(): i32 {
    return 3;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline get addsLast(): bool {
    return true;
  }

  @inline get far(): bool {
    return false;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    dy: v128,
    c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _xCoefficient: v128,
    _extra: v128,
    parameters: usize,
  ): v128 {
    const z = v128.add<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), c);
    return changetype<E>(<usize>0).derive<T>(dy, z, parameters);
  }
}

/** The map y = (x − hi)·scale + b·xCoefficient + c·extra + shift. It reads three sources and five rows. */
@final
@unmanaged
export class Combination {
  @inline get sources(): i32 {
    return 3;
  }

  @inline get rows(): i32 {
    return 5;
  }

  @inline get addsLast(): bool {
    return false;
  }

  @inline get far(): bool {
    return false;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    b: v128,
    c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    xCoefficient: v128,
    extra: v128,
    _parameters: usize,
  ): v128 {
    return Lanes.madd<T>(v128.sub<T>(x, hi), scale, Lanes.madd<T>(b, xCoefficient, Lanes.madd<T>(c, extra, shift)));
  }
}

/** The map y = z·b. It reads two sources and three rows. */
@final
@unmanaged
export class Product {
  @inline get sources(): i32 {
    return 2;
  }

  @inline get rows(): i32 {
    return 3;
  }

  @inline get addsLast(): bool {
    return false;
  }

  @inline get far(): bool {
    return false;
  }

  @inline at<T, E extends Identity>(
    x: v128,
    b: v128,
    _c: v128,
    hi: v128,
    scale: v128,
    shift: v128,
    _xCoefficient: v128,
    _extra: v128,
    _parameters: usize,
  ): v128 {
    return v128.mul<T>(Lanes.madd<T>(v128.sub<T>(x, hi), scale, shift), b);
  }
}

/** One step of a map, of width W: reads sources at x, b and c, and writes the result to y. */
abstract class Step {
  /** Returns whether a map reads the row `extra`. Gradient does so if the derivative of its activation needs z. */
  @inline static readsExtra<M extends Affine, E extends Identity>(): bool {
    const rows = changetype<M>(<usize>0).rows;
    return rows == 5 || (rows == 4 && changetype<E>(<usize>0).needsInput);
  }

  /** Returns whether the last source of a map is there. */
  @inline static hasLast<M extends Affine>(b: usize, c: usize): bool {
    return (changetype<M>(<usize>0).sources > 2 ? c : b) != 0;
  }

  /** Returns a source at `pointer`, or, if it may be missing and is not `added`, −0, which changes no sum. */
  @inline static source<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    pointer: usize,
    added: bool,
  ): v128 {
    if (mayLackSource<T, M, E>() && !added) return v128.splat<T>(<T>-0.0);
    return changetype<W>(<usize>0).load<T>(pointer);
  }

  /** Takes a step with coefficients in vectors. `added` says whether a source that may be missing is there. */
  @inline static withVectors<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    x: usize,
    b: usize,
    c: usize,
    y: usize,
    hi: v128,
    scale: v128,
    shift: v128,
    xCoefficient: v128,
    extra: v128,
    parameters: usize,
    added: bool,
  ): void {
    const map = changetype<M>(<usize>0);
    const width = changetype<W>(<usize>0);
    const second = map.sources > 1 ? Step.source<T, M, E, W>(b, added || map.sources != 2) : hi;
    const third = map.sources > 2 ? Step.source<T, M, E, W>(c, added) : hi;
    const value = map.at<T, E>(width.load<T>(x), second, third, hi, scale, shift, xCoefficient, extra, parameters);
    width.store<T>(y, value);
  }

  /** Takes four steps of a whole vector, one behind the other. */
  @inline static line<T extends number, M extends Affine, E extends Identity>(
    x: usize,
    b: usize,
    c: usize,
    y: usize,
    hi: v128,
    scale: v128,
    shift: v128,
    xCoefficient: v128,
    extra: v128,
    parameters: usize,
    added: bool,
  ): void {
    Step.withVectors<T, M, E, Whole>(x, b, c, y, hi, scale, shift, xCoefficient, extra, parameters, added);
    Step.withVectors<T, M, E, Whole>(
      x + 16,
      b + 16,
      c + 16,
      y + 16,
      hi,
      scale,
      shift,
      xCoefficient,
      extra,
      parameters,
      added,
    );
    Step.withVectors<T, M, E, Whole>(
      x + 32,
      b + 32,
      c + 32,
      y + 32,
      hi,
      scale,
      shift,
      xCoefficient,
      extra,
      parameters,
      added,
    );
    Step.withVectors<T, M, E, Whole>(
      x + 48,
      b + 48,
      c + 48,
      y + 48,
      hi,
      scale,
      shift,
      xCoefficient,
      extra,
      parameters,
      added,
    );
  }

  /** Takes a step with coefficients in memory. They are at `hi`, in rows of `row` bytes, one per column. */
  @inline static withRow<T extends number, M extends Affine, E extends Identity, W extends Whole>(
    x: usize,
    b: usize,
    c: usize,
    y: usize,
    hi: usize,
    row: usize,
    parameters: usize,
    added: bool,
  ): void {
    const width = changetype<W>(<usize>0);
    const h = width.load<T>(hi);
    const scale = width.load<T>(hi + row);
    const shift = width.load<T>(hi + 2 * row);
    const xCoefficient = changetype<M>(<usize>0).rows > 3 ? width.load<T>(hi + 3 * row) : h;
    const extra = Step.readsExtra<M, E>() ? changetype<E>(<usize>0).prepareShift<T>(width.load<T>(hi + 4 * row)) : h;
    Step.withVectors<T, M, E, W>(x, b, c, y, h, scale, shift, xCoefficient, extra, parameters, added);
  }
}

/**
 * Returns whether the last source of map M, which it adds to z, may be missing. Only in loops whose arithmetic takes
 * long, or that are rare, does the test for it cost less than loops of their own without it.
 */
function mayLackSource<T, M extends Affine, E extends Identity>(): bool {
  const map = changetype<M>(<usize>0);
  return map.addsLast && (map.sources > 2 || keepsLoopsRolled<T, E>());
}

/** Returns whether a loop is not unrolled, because its arithmetic takes longer than its access to memory. */
function keepsLoopsRolled<T, E extends Identity>(): bool {
  const f = changetype<E>(<usize>0);
  return f.heavy || (f.needsInput && sizeof<T>() == 8);
}

/**
 * Runs map M on the planes of channels [begin, end) of `images` images, one after the other. `added` says whether a
 * source that may be missing is there.
 */
function mapImages<T extends number, M extends Affine, E extends Identity>(
  plan: Plan,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  images: usize,
  parameters: usize,
  added: bool,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const coefficients = plan.coefficients;
  const inner = plan.inner;
  const row = Lanes.bytes<T>(plan.columns);
  const skip = Lanes.bytes<T>((plan.pitch - end + begin) * inner);
  for (; images; --images) {
    for (let channel = begin; channel < end; ++channel) {
      const entry = coefficients + Lanes.bytes<T>(channel);
      const hi = v128.load_splat<T>(entry);
      const scale = v128.load_splat<T>(entry + row);
      const shift = v128.load_splat<T>(entry + 2 * row);
      const xCoefficient = changetype<M>(<usize>0).rows > 3 ? v128.load_splat<T>(entry + 3 * row) : hi;
      const extra = Step.readsExtra<M, E>()
        ? changetype<E>(<usize>0).prepareShift<T>(v128.load_splat<T>(entry + 4 * row))
        : hi;
      let left = inner;
      for (; !keepsLoopsRolled<T, E>() && left >= 4 * lanes; left -= 4 * lanes) {
        Step.line<T, M, E>(x, b, c, y, hi, scale, shift, xCoefficient, extra, parameters, added);
        x += 64;
        b += 64;
        c += 64;
        y += 64;
      }
      for (; left >= lanes; left -= lanes) {
        Step.withVectors<T, M, E, Whole>(x, b, c, y, hi, scale, shift, xCoefficient, extra, parameters, added);
        x += 16;
        b += 16;
        c += 16;
        y += 16;
      }
      for (; left; --left) {
        Step.withVectors<T, M, E, Single>(x, b, c, y, hi, scale, shift, xCoefficient, extra, parameters, added);
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
 * Runs map M on the planes of channels [begin, end) of `images` images, and together with each image on those that are
 * `gap`, 2·gap and so on bytes behind it, `streams` images in all. The loop takes a line of four vectors from each image
 * in turn, and then the rest of the planes element by element.
 */
function mapFarImages<T extends number, M extends Affine, E extends Identity>(
  plan: Plan,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  gap: usize,
  streams: usize,
  images: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  const lanes = Lanes.count<T>();
  const coefficients = plan.coefficients;
  const inner = plan.inner;
  const row = Lanes.bytes<T>(plan.columns);
  const skip = Lanes.bytes<T>((plan.pitch - end + begin) * inner);
  const last = gap * streams;
  for (; images; --images) {
    for (let channel = begin; channel < end; ++channel) {
      const entry = coefficients + Lanes.bytes<T>(channel);
      const hi = v128.load_splat<T>(entry);
      const scale = v128.load_splat<T>(entry + row);
      const shift = v128.load_splat<T>(entry + 2 * row);
      const xCoefficient = changetype<M>(<usize>0).rows > 3 ? v128.load_splat<T>(entry + 3 * row) : hi;
      const extra = Step.readsExtra<M, E>()
        ? changetype<E>(<usize>0).prepareShift<T>(v128.load_splat<T>(entry + 4 * row))
        : hi;
      let left = inner;
      for (; left >= 4 * lanes; left -= 4 * lanes) {
        for (let far: usize = 0; far < last; far += gap)
          Step.line<T, M, E>(
            x + far,
            b + far,
            c + far,
            y + far,
            hi,
            scale,
            shift,
            xCoefficient,
            extra,
            parameters,
            true,
          );
        x += 64;
        b += 64;
        c += 64;
        y += 64;
      }
      for (; left; --left) {
        for (let far: usize = 0; far < last; far += gap)
          Step.withVectors<T, M, E, Single>(
            x + far,
            b + far,
            c + far,
            y + far,
            hi,
            scale,
            shift,
            xCoefficient,
            extra,
            parameters,
            true,
          );
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
 * Runs map M on the planes of channels [begin, end). From memory, several far images are taken together, and then the
 * rest one by one.
 */
export function mapPlanar<T extends number, M extends Affine, E extends Identity>(
  plan: Plan,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  const map = changetype<M>(<usize>0);
  const added = Step.hasLast<M>(b, c);
  const outer = plan.outer;
  const image = Lanes.bytes<T>(plan.pitch * plan.inner);
  const first = Lanes.bytes<T>(begin * plan.inner);
  x += first;
  b += first;
  c += first;
  y += first;
  let images = outer;
  if (!keepsLoopsRolled<T, E>() && map.far) {
    const streams = plan.mapStreams(map.sources);
    if (streams > 1) {
      images = outer / streams;
      mapFarImages<T, M, E>(plan, x, b, c, y, images * image, streams, images, parameters, begin, end);
      const done = images * streams;
      images = outer - done;
      x += done * image;
      b += done * image;
      c += done * image;
      y += done * image;
    }
  }
  mapImages<T, M, E>(plan, x, b, c, y, images, parameters, added, begin, end);
}

/** Runs map M on rows [begin, end): four far rows together, which share the loads of coefficients, and then the rest. */
export function mapRows<T extends number, M extends Affine, E extends Identity>(
  plan: Plan,
  x: usize,
  b: usize,
  c: usize,
  y: usize,
  parameters: usize,
  begin: usize,
  end: usize,
): void {
  const added = Step.hasLast<M>(b, c);
  const lanes = Lanes.count<T>();
  const coefficients = plan.coefficients;
  const columns = plan.columns;
  const row = Lanes.bytes<T>(columns);
  begin *= columns;
  end = min(end * columns, plan.length);
  const first = Lanes.bytes<T>(begin);
  x += first;
  b += first;
  c += first;
  y += first;
  if (!keepsLoopsRolled<T, E>() && columns % lanes == 0) {
    const rows = (end - begin) / columns / 4;
    const gap = rows * row;
    const two = gap * 2;
    const three = gap * 3;
    for (let i: usize = 0; i < rows; ++i) {
      let hi = coefficients;
      for (let left = columns; left; left -= lanes) {
        const h = v128.load(hi);
        const scale = v128.load(hi + row);
        const shift = v128.load(hi + 2 * row);
        const xCoefficient = changetype<M>(<usize>0).rows > 3 ? v128.load(hi + 3 * row) : h;
        const extra = Step.readsExtra<M, E>() ? changetype<E>(<usize>0).prepareShift<T>(v128.load(hi + 4 * row)) : h;
        Step.withVectors<T, M, E, Whole>(x, b, c, y, h, scale, shift, xCoefficient, extra, parameters, added);
        Step.withVectors<T, M, E, Whole>(
          x + gap,
          b + gap,
          c + gap,
          y + gap,
          h,
          scale,
          shift,
          xCoefficient,
          extra,
          parameters,
          added,
        );
        Step.withVectors<T, M, E, Whole>(
          x + two,
          b + two,
          c + two,
          y + two,
          h,
          scale,
          shift,
          xCoefficient,
          extra,
          parameters,
          added,
        );
        Step.withVectors<T, M, E, Whole>(
          x + three,
          b + three,
          c + three,
          y + three,
          h,
          scale,
          shift,
          xCoefficient,
          extra,
          parameters,
          added,
        );
        x += 16;
        b += 16;
        c += 16;
        y += 16;
        hi += 16;
      }
    }
    x += three;
    b += three;
    c += three;
    y += three;
    begin += 4 * rows * columns;
  }
  for (; begin < end; begin += columns) {
    let hi = coefficients;
    let left = min(columns, end - begin);
    for (; left >= lanes; left -= lanes) {
      Step.withRow<T, M, E, Whole>(x, b, c, y, hi, row, parameters, added);
      x += 16;
      b += 16;
      c += 16;
      y += 16;
      hi += 16;
    }
    for (; left; --left) {
      Step.withRow<T, M, E, Single>(x, b, c, y, hi, row, parameters, added);
      x += sizeof<T>();
      b += sizeof<T>();
      c += sizeof<T>();
      y += sizeof<T>();
      hi += sizeof<T>();
    }
  }
}
