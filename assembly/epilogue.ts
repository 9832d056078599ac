// Activations: what happens to a value on its way to memory, and to a gradient on its way back. A class here is a type
// argument of the maps in affine.ts and the sums in reduce.ts and vanishes at compile time.
//
//   apply    y = f(z)            z: the normalised value, the residual added
//   derive   dz = dy·f′(z)
//   gate     dz = dy·f′(d·scale + shift), given bound(shift)
//
// NaN stays NaN. `parameters` points at three T that only Rectifier reads: slope, floor, ceiling.

import { Lanes } from "./lanes";

/** f(z) = z */
@final
@unmanaged
export class Identity {
  /** Whether derive needs z. */
  @inline get bends(): bool {
    return false;
  }

  /** Whether arithmetic takes longer than memory, so that unrolled loops gain nothing. */
  @inline get heavy(): bool {
    return false;
  }

  @inline apply<T>(z: v128, _parameters: usize): v128 {
    return z;
  }

  @inline derive<T>(dy: v128, _z: v128, _parameters: usize): v128 {
    return dy;
  }

  @inline bound<T>(shift: v128): v128 {
    return shift;
  }

  @inline gate<T>(dy: v128, _d: v128, _scale: v128, _bound: v128, _parameters: usize): v128 {
    return dy;
  }
}

/** f(z) = max(z, 0). By pmax, which is one instruction where wasm's max is six; f′(0) = 0, as in PyTorch. */
@final
@unmanaged
export class Relu {
  @inline get bends(): bool {
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

  @inline bound<T>(shift: v128): v128 {
    return v128.neg<T>(shift);
  }

  /**
   * z ≤ 0 if and only if d·scale ≤ −shift: a sum of two numbers never rounds across 0, nor to it. One addition less: in
   * cache, backward took 1.47 times as long with ReLU as without, and takes 1.24 times so ([16, 64, 32, 32]).
   */
  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, bound: v128, _parameters: usize): v128 {
    return v128.andnot(dy, v128.le<T>(v128.mul<T>(d, scale), bound));
  }
}

/**
 * f(z) = min(max(z, slope·z, floor), ceiling): leaky ReLU, ReLU6. 0 < slope < 1 and floor = −∞, or both are 0: −∞·0 is NaN,
 * which max passes over, and the floor takes −∞ away. f′ is slope up to 0, and 0 from the ceiling on.
 */
@final
@unmanaged
export class Rectifier {
  @inline get bends(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return false;
  }

  @inline apply<T extends number>(z: v128, parameters: usize): v128 {
    const leaky = v128.pmax<T>(z, v128.mul<T>(z, v128.load_splat<T>(parameters)));
    const above = v128.pmax<T>(leaky, v128.load_splat<T>(parameters + sizeof<T>()));
    return v128.pmin<T>(above, v128.load_splat<T>(parameters + 2 * sizeof<T>()));
  }

  @inline derive<T extends number>(dy: v128, z: v128, parameters: usize): v128 {
    const slope = v128.load_splat<T>(parameters);
    const zero = v128.splat<T>(<T>0);
    // 0 where slope is, whatever dy is
    const leak = v128.and(v128.mul<T>(dy, slope), v128.gt<T>(slope, zero));
    const open = v128.bitselect(leak, dy, v128.le<T>(z, zero));
    return v128.andnot(open, v128.ge<T>(z, v128.load_splat<T>(parameters + 2 * sizeof<T>())));
  }

  @inline bound<T>(shift: v128): v128 {
    return shift;
  }

  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, bound: v128, parameters: usize): v128 {
    return this.derive<T>(dy, Lanes.madd<T>(d, scale, bound), parameters);
  }
}

/** f(z) = z·σ(z), σ(z) = 1/(1 + e⁻ᶻ). T is f32. */
@final
@unmanaged
export class Silu {
  @inline get bends(): bool {
    return true;
  }

  @inline get heavy(): bool {
    return true;
  }

  /** z, but at least −87, where z·σ(z) is 1e-36: so it stays near 0 below, down to −∞. */
  @inline raised(z: v128): v128 {
    return f32x4.pmax(z, f32x4.splat(-87));
  }

  /** z, but at most 87, where 1 − σ is 1e-38. */
  @inline lowered(z: v128): v128 {
    return f32x4.pmin(z, f32x4.splat(87));
  }

  /**
   * e⁻ᶻ for |z| ≤ 87, where 2^n is normal. e^t = 2^n·e^r with n = round(t/ln 2), |r| ≤ ln 2/2, ln 2 in two parts; e^r
   * by Cephes's expf, 1 ulp.
   */
  @inline exponential(z: v128): v128 {
    const t = f32x4.neg(z);
    const n = f32x4.nearest(f32x4.mul(t, f32x4.splat(<f32>Math.LOG2E)));
    const r = Lanes.madd<f32>(n, f32x4.splat(2.1219444e-4), Lanes.madd<f32>(n, f32x4.splat(-0.693359375), t));
    let p = Lanes.madd<f32>(r, f32x4.splat(1.9875691e-4), f32x4.splat(1.3981999e-3));
    p = Lanes.madd<f32>(r, p, f32x4.splat(8.333452e-3));
    p = Lanes.madd<f32>(r, p, f32x4.splat(4.1665796e-2));
    p = Lanes.madd<f32>(r, p, f32x4.splat(0.16666666));
    p = Lanes.madd<f32>(r, p, f32x4.splat(0.5));
    p = f32x4.add(Lanes.madd<f32>(p, f32x4.mul(r, r), r), f32x4.splat(1));
    const power = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
    return f32x4.mul(p, power);
  }

  @inline apply<T extends number>(z: v128, _parameters: usize): v128 {
    const above = this.raised(z);
    return f32x4.div(above, f32x4.add(this.exponential(this.lowered(above)), f32x4.splat(1)));
  }

  /** f′ = σ·(1 + z·(1 − σ)), 1 − σ = e⁻ᶻ·σ */
  @inline derive<T extends number>(dy: v128, z: v128, _parameters: usize): v128 {
    const one = f32x4.splat(1);
    const t = this.lowered(this.raised(z));
    const e = this.exponential(t);
    const sigmoid = f32x4.div(one, f32x4.add(e, one));
    return f32x4.mul(dy, f32x4.mul(sigmoid, Lanes.madd<f32>(t, f32x4.mul(e, sigmoid), one)));
  }

  @inline bound<T>(shift: v128): v128 {
    return shift;
  }

  @inline gate<T extends number>(dy: v128, d: v128, scale: v128, bound: v128, parameters: usize): v128 {
    return this.derive<T>(dy, Lanes.madd<T>(d, scale, bound), parameters);
  }
}
