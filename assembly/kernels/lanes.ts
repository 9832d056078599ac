// The vocabulary on one v128 of T: everything that a loop needs and the v128.*<T> built-ins do not say.
// Not here: loops, and anything that knows what is being computed.

/** Lane arithmetic that holds for every element type T. */
export abstract class Lanes {
  /** Elements of T in one vector. */
  @inline static count<T>(): usize {
    return 16 / sizeof<T>();
  }

  /** An index into a run of T, in bytes. */
  @inline static bytes<T>(index: usize): usize {
    return index << alignof<T>();
  }

  /** a·b + c: one rounding where the build has fused multiply-add, two elsewhere. */
  @inline static madd<T>(a: v128, b: v128, c: v128): v128 {
    if (ASC_FEATURE_RELAXED_SIMD) return v128.relaxed_madd<T>(a, b, c);
    return v128.add<T>(v128.mul<T>(a, b), c);
  }

  /** The sum of two lanes of f64. */
  @inline static sum(v: v128): f64 {
    return f64x2.extract_lane(v, 0) + f64x2.extract_lane(v, 1);
  }

  /** Each lane's neighbour at a distance of half a vector. */
  @inline static half(v: v128): v128 {
    return v128.shuffle<u64>(v, v, 1, 0);
  }

  /** Each lane's neighbour at a distance of a quarter, of four f32. */
  @inline static quarter(v: v128): v128 {
    return v128.shuffle<u32>(v, v, 1, 0, 3, 2);
  }

  /** The sum of all lanes, in every lane. */
  @inline static across<T extends number>(v: v128): v128 {
    const halves = v128.add<T>(v, Lanes.half(v));
    return sizeof<T>() == 4 ? v128.add<T>(halves, Lanes.quarter(halves)) : halves;
  }

  /** The largest of all lanes, in every lane. */
  @inline static most<T extends number>(v: v128): v128 {
    const halves = v128.pmax<T>(v, Lanes.half(v));
    return sizeof<T>() == 4 ? v128.pmax<T>(halves, Lanes.quarter(halves)) : halves;
  }

  /** Whether sums of T are accumulated in a wider type: f32 in f64. Sums of f64 are compensated instead. */
  @inline static accumulatesInF64<T>(): bool {
    return sizeof<T>() == 4;
  }

  /** The exact rounding error of sum = a + b, of two f64 each (Knuth's TwoSum); NaN where the sum is not finite. */
  @inline static roundingError(a: v128, b: v128, sum: v128): v128 {
    const c = f64x2.sub(sum, a);
    return f64x2.add(f64x2.sub(a, f64x2.sub(sum, c)), f64x2.sub(b, c));
  }

  /** Sums corrected by their rounding errors. An infinite sum has an error of NaN and stays as it is. */
  @inline static compensated(sum: v128, error: v128): v128 {
    const corrected = f64x2.add(sum, error);
    return v128.bitselect(corrected, sum, f64x2.eq(corrected, corrected));
  }

  /** Lanes 0 and 1 of four f32, as f64. */
  @inline static low(v: v128): v128 {
    return f64x2.promote_low_f32x4(v);
  }

  /** Lanes 2 and 3 of four f32, as f64. */
  @inline static high(v: v128): v128 {
    return f64x2.promote_low_f32x4(v128.shuffle<u64>(v, v, 1, 1));
  }
}

/** How wide one step of a loop is: a whole vector. */
@final
@unmanaged
export class Whole {
  @inline bytes<T>(): usize {
    return 16;
  }

  @inline load<T>(pointer: usize): v128 {
    return v128.load(pointer);
  }

  @inline store<T>(pointer: usize, v: v128): void {
    v128.store(pointer, v);
  }
}

/** One element, in lane 0; the other lanes load as zero and are never stored. */
@final
@unmanaged
export class Single {
  @inline bytes<T>(): usize {
    return sizeof<T>();
  }

  @inline load<T>(pointer: usize): v128 {
    return sizeof<T>() == 4 ? v128.load32_zero(pointer) : v128.load64_zero(pointer);
  }

  @inline store<T>(pointer: usize, v: v128): void {
    if (sizeof<T>() == 4) v128.store32_lane(pointer, v, 0);
    else v128.store64_lane(pointer, v, 0);
  }
}
