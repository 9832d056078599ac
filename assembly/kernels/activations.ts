// Activations: f maps a value, and f′ multiplies its gradient. A class here is a type argument of the maps in maps.ts
// and of the sums in sums.ts. It vanishes at compile time.
//
//   apply    y = f(z)            z: the normalised value plus the residual
//   derive   dz = dy·f′(z)
//   gate     dz = dy·f′(d·scale + shift), given prepareShift(shift)
//
// NaN stays NaN. `parameters` points at two T: the slope, which LeakyRelu reads, and the cap, which with the slope tells
// Piecewise the activation.

import { Lanes } from "./lanes";

/** The activation f(z) = z. */
@final
@unmanaged
export class Identity {
  /** Whether `derive` and `gate` need z. */
  @inline get needsInput(): bool {
    return false;
  }

  /** Whether arithmetic takes longer than memory access, so that unrolled loops gain nothing. */
  @inline get heavy(): bool {
    return false;
  }

  /** Returns f(z). */
  @inline apply<T>(z: v128, _parameters: usize): v128 {
    return z;
  }

  /** Returns dz = dy·f′(z). */
  @inline derive<T>(dy: v128, _z: v128, _parameters: usize): v128 {
    return dy;
  }

  /** Returns the shift in the form in which `gate` takes it. */
  @inline prepareShift<T>(shift: v128): v128 {
    return shift;
  }

  /** Returns dz = dy·f′(d·scale + shift), with the shift that `prepareShift` has returned. */
  @inline gate<T>(dy: v128, _d: v128, _scale: v128, _shift: v128, _parameters: usize): v128 {
    return dy;
  }
}

/** ReLU: f(z) = max(z, 0). pmax is one instruction, but max of wasm takes six. f′(0) = 0, as in PyTorch. */
@final
@unmanaged
export class Relu {
  @inline get needsInput(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return false;
  }

  @inline apply<T extends number>(z: v128, _parameters: usize): v128 {
    return v128.pmax<T>(z, v128.splat<T>(<T>0));
  }

  @inline derive<T extends number>(dy: v128, z: v128, _parameters: usize): v128 {
    return v128.andnot(dy, v128.le<T>(z, v128.splat<T>(<T>0)));
  }

  @inline prepareShift<T>(shift: v128): v128 {
    return v128.neg<T>(shift);
  }

  /**
   * Returns 0 where d·scale ≤ −shift, else dy. This is z ≤ 0, because the rounded sum of two numbers has the sign of
   * the exact sum, and is 0 only if that is 0. It saves an addition: in cache, backward with ReLU takes 1.24 times as
   * long as without, instead of 1.47 times ([16, 64, 32, 32]).
   */
  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, shift: v128, _parameters: usize): v128 {
    return v128.andnot(dy, v128.le<T>(v128.mul<T>(d, scale), shift));
  }
}

/** Leaky ReLU: f(z) = max(z, slope·z) with 0 < slope < 1. f′ is slope for z ≤ 0, as in PyTorch. */
@final
@unmanaged
export class LeakyRelu {
  @inline get needsInput(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return false;
  }

  @inline apply<T extends number>(z: v128, parameters: usize): v128 {
    return v128.pmax<T>(z, v128.mul<T>(z, v128.load_splat<T>(parameters)));
  }

  @inline derive<T extends number>(dy: v128, z: v128, parameters: usize): v128 {
    const leak = v128.mul<T>(dy, v128.load_splat<T>(parameters));
    return v128.bitselect(leak, dy, v128.le<T>(z, v128.splat<T>(<T>0)));
  }

  @inline prepareShift<T>(shift: v128): v128 {
    return v128.neg<T>(shift);
  }

  /** Returns dy·slope where d·scale ≤ −shift, else dy. This is z ≤ 0 for the reason that Relu's `gate` gives. */
  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, shift: v128, parameters: usize): v128 {
    const leak = v128.mul<T>(dy, v128.load_splat<T>(parameters));
    return v128.bitselect(leak, dy, v128.le<T>(v128.mul<T>(d, scale), shift));
  }
}

/** ReLU6: f(z) = min(max(z, 0), 6). f′ is 0 for z ≤ 0 and for z ≥ 6, as in PyTorch. */
@final
@unmanaged
export class Relu6 {
  @inline get needsInput(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return false;
  }

  @inline apply<T extends number>(z: v128, _parameters: usize): v128 {
    return v128.pmin<T>(v128.pmax<T>(z, v128.splat<T>(<T>0)), v128.splat<T>(<T>6));
  }

  @inline derive<T extends number>(dy: v128, z: v128, _parameters: usize): v128 {
    const closed = v128.or(v128.le<T>(z, v128.splat<T>(<T>0)), v128.ge<T>(z, v128.splat<T>(<T>6)));
    return v128.andnot(dy, closed);
  }

  @inline prepareShift<T>(shift: v128): v128 {
    return shift;
  }

  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, shift: v128, parameters: usize): v128 {
    return this.derive<T>(dy, Lanes.madd<T>(d, scale, shift), parameters);
  }
}

/**
 * ReLU, leaky ReLU or ReLU6, as the parameters say: f(z) = min(max(z, slope·z), cap), and f′ is the slope for z ≤ 0, 0 for
 * z ≥ cap, and 1 in between. The slope is 0 but for leaky ReLU. Without a cap, the cap is NaN. One class for three makes
 * the module smaller where speed matters less: in f64 sums and in maps of float64.
 */
@final
@unmanaged
export class Piecewise {
  @inline get needsInput(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return false;
  }

  /** Returns v·slope, and 0 for a slope of 0, with which an infinite v would give NaN. */
  @inline leak<T extends number>(v: v128, parameters: usize): v128 {
    const slope = v128.load_splat<T>(parameters);
    return v128.and(v128.mul<T>(v, slope), v128.ne<T>(slope, v128.splat<T>(<T>0)));
  }

  @inline apply<T extends number>(z: v128, parameters: usize): v128 {
    const rectified = v128.pmax<T>(z, this.leak<T>(z, parameters));
    return v128.pmin<T>(rectified, v128.load_splat<T>(parameters + sizeof<T>()));
  }

  @inline derive<T extends number>(dy: v128, z: v128, parameters: usize): v128 {
    const open = v128.andnot(dy, v128.ge<T>(z, v128.load_splat<T>(parameters + sizeof<T>())));
    return v128.bitselect(this.leak<T>(dy, parameters), open, v128.le<T>(z, v128.splat<T>(<T>0)));
  }

  @inline prepareShift<T>(shift: v128): v128 {
    return shift;
  }

  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, shift: v128, parameters: usize): v128 {
    return this.derive<T>(dy, Lanes.madd<T>(d, scale, shift), parameters);
  }
}

/** SiLU: f(z) = z·σ(z), with σ(z) = 1/(1 + e⁻ᶻ). */
@final
@unmanaged
export class Silu {
  @inline get needsInput(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return true;
  }

  /**
   * The largest |z| for which e⁻ᶻ is computed: with it, e⁻ᶻ is near the end of the normal numbers of T. Beyond it,
   * z·σ(z) or 1 − σ(z) is below 1e-35 for f32, and below 1e-304 for f64.
   */
  @inline limit<T>(): T {
    return <T>(sizeof<T>() == 4 ? 87 : 708);
  }

  /** Returns max(z, −limit). Below that, z·σ(z) stays near 0, also for −∞. */
  @inline clampBelow<T extends number>(z: v128): v128 {
    return v128.pmax<T>(z, v128.splat<T>(<T>-this.limit<T>()));
  }

  /** Returns min(z, limit). */
  @inline clampAbove<T extends number>(z: v128): v128 {
    return v128.pmin<T>(z, v128.splat<T>(this.limit<T>()));
  }

  /** Returns e⁻ᶻ for |z| ≤ limit, for which 2^n is a normal number. */
  @inline exponential<T extends number>(z: v128): v128 {
    return sizeof<T>() == 4 ? this.exponentialF32(z) : this.exponentialF64(z);
  }

  /**
   * Returns e^t = 2^n·e^r for t = −z, with n = round(t/ln 2) and |r| ≤ ln 2/2. ln 2 is subtracted in two parts. e^r is
   * a polynomial of Cephes's expf, within 1 ulp.
   */
  @inline exponentialF32(z: v128): v128 {
    const t = f32x4.neg(z);
    // the sum with 1.5·2^23 is rounded to an integer, which is in its low bits
    const shifted = f32x4.add(f32x4.mul(t, f32x4.splat(<f32>Math.LOG2E)), f32x4.splat(12582912));
    const n = f32x4.sub(shifted, f32x4.splat(12582912));
    const r = Lanes.madd<f32>(n, f32x4.splat(2.1219444e-4), Lanes.madd<f32>(n, f32x4.splat(-0.693359375), t));
    let p = Lanes.madd<f32>(r, f32x4.splat(1.9875691e-4), f32x4.splat(1.3981999e-3));
    p = Lanes.madd<f32>(r, p, f32x4.splat(8.333452e-3));
    p = Lanes.madd<f32>(r, p, f32x4.splat(4.1665796e-2));
    p = Lanes.madd<f32>(r, p, f32x4.splat(0.16666666));
    p = Lanes.madd<f32>(r, p, f32x4.splat(0.5));
    p = f32x4.add(Lanes.madd<f32>(p, f32x4.mul(r, r), r), f32x4.splat(1));
    const power = i32x4.shl(i32x4.add(shifted, i32x4.splat(127)), 23);
    return f32x4.mul(p, power);
  }

  /**
   * Returns e^t = 2^n·e^r for t = −z, with n = round(t/ln 2) and |r| ≤ ln 2/2. ln 2 is subtracted in two parts. e^r =
   * 1 + 2·r·P(r²)/(Q(r²) − r·P(r²)) is that of Cephes's exp, within 1 ulp.
   */
  @inline exponentialF64(z: v128): v128 {
    const t = f64x2.neg(z);
    const n = f64x2.nearest(f64x2.mul(t, f64x2.splat(Math.LOG2E)));
    const high = Lanes.madd<f64>(n, f64x2.splat(-0.693145751953125), t);
    const r = Lanes.madd<f64>(n, f64x2.splat(-1.4286068203094173e-6), high);
    const square = f64x2.mul(r, r);
    let p = Lanes.madd<f64>(square, f64x2.splat(1.2617719307481058e-4), f64x2.splat(3.0299440770744195e-2));
    p = f64x2.mul(r, Lanes.madd<f64>(square, p, f64x2.splat(1)));
    let q = Lanes.madd<f64>(square, f64x2.splat(3.0019850513866446e-6), f64x2.splat(2.524483403496841e-3));
    q = Lanes.madd<f64>(square, q, f64x2.splat(0.22726554820815503));
    q = Lanes.madd<f64>(square, q, f64x2.splat(2));
    const half = f64x2.div(p, f64x2.sub(q, p));
    const e = f64x2.add(f64x2.splat(1), f64x2.add(half, half));
    // n + 1.5·2^52 has the integer n in its low bits; the shift removes the bits above
    const shifted = f64x2.add(n, f64x2.splat(6755399441055744));
    const power = i64x2.shl(i64x2.add(shifted, i64x2.splat(1023)), 52);
    return f64x2.mul(e, power);
  }

  @inline apply<T extends number>(z: v128, _parameters: usize): v128 {
    const above = this.clampBelow<T>(z);
    const e = this.exponential<T>(this.clampAbove<T>(above));
    return v128.div<T>(above, v128.add<T>(e, v128.splat<T>(<T>1)));
  }

  /** Returns dz = dy·f′(z), with f′ = σ·(1 + z·(1 − σ)) and 1 − σ = e⁻ᶻ·σ. */
  @inline derive<T extends number>(dy: v128, z: v128, _parameters: usize): v128 {
    const one = v128.splat<T>(<T>1);
    const t = this.clampAbove<T>(this.clampBelow<T>(z));
    const e = this.exponential<T>(t);
    const sigmoid = v128.div<T>(one, v128.add<T>(e, one));
    return v128.mul<T>(dy, v128.mul<T>(sigmoid, Lanes.madd<T>(t, v128.mul<T>(e, sigmoid), one)));
  }

  @inline prepareShift<T>(shift: v128): v128 {
    return shift;
  }

  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, shift: v128, parameters: usize): v128 {
    return this.derive<T>(dy, Lanes.madd<T>(d, scale, shift), parameters);
  }
}
