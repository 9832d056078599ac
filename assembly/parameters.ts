// What the parameters of exports mean, each once, by name: docs/abi.md is made of this file and of the exports' own comments
// (`npm run docs:abi`). No module contains it. Where an export's parameter is more special than its name, the export's
// comment says so with @param.

/** Tensors. T is f32 or f64, as an export's name ends. They begin at a multiple of T's size. */
export interface Tensors {
  /** `T[outer·channels·inner]`, read. The layer's input. */
  x: usize;
  /** `T[outer·channels·inner]`, written. May be `x` or another source. */
  y: usize;
  /** `T[outer·channels·inner]`, read. The loss's gradient with respect to y. */
  dy: usize;
  /** `T[outer·channels·inner]`, written. May be `dy` or another source. */
  dx: usize;
  /** `T[outer·channels·inner]`, written: dy·f′(z). May be `dy` or another source. */
  dz: usize;
  /** `T[outer·channels·inner]`, read: what is added before the activation. 0: nothing. */
  residual: usize;
  /** `T[outer·channels·inner]`, read: a second source. */
  b: usize;
  /** `T[outer·channels·inner]`, read: a third source. */
  c: usize;
}

/** Vectors and scratch. */
export interface Vectors {
  /** `T[channels]`. 0: ones. */
  gamma: usize;
  /** `T[channels]`. 0: zeros. */
  beta: usize;
  /** `f64[channels]`. */
  mean: usize;
  /** `f64[channels]`: biased, that is divided by the count. */
  variance: usize;
  /** `f64[channels]`: 1/√(variance + epsilon), and 0 where both are 0. */
  invStd: usize;
  /** `f64[channels]`: Σ dy·x̂. */
  dGamma: usize;
  /** `f64[channels]`: Σ dy. */
  dBeta: usize;
  /** `f64[channels]`, read and written. */
  runningMean: usize;
  /** `f64[channels]`, read and written. Unbiased. */
  runningVariance: usize;
  /** `T[channels]`, interleaved `T[columns]`: what is subtracted from x before anything is summed. */
  pivot: usize;
  /** `f64[channels]`, interleaved `f64[columns]`: Σ u. Entries of the range are written anew. */
  first: usize;
  /** As `first`: Σ u·d. */
  second: usize;
  /**
   * A matrix of T, row after row, each `[channels]` long, interleaved `[columns]`: hi, scale, shift; then slope for
   * `gradient…`; then slope and more for `scaledGradient…` and `combination…`.
   */
  coefficients: usize;
  /** `T[3]`: slope, floor and ceiling of activation 2. Others do not read it. */
  parameters: usize;
  /** `u8[channels]`, written: 1 where a channel's sums are to be taken again by an `exact…` kernel, else 0. */
  doubtful: usize;
  /** `f32[2·columns]` for F32; for F64 `f64[4·columns]`, planar `f64[4·channels]`. Holds anything before and after. */
  scratch: usize;
  /** `workspaceF32(outer, channels, inner)` bytes, which hold anything before and after. Begins at a multiple of 8. */
  workspace: usize;
  /** Read. */
  source: usize;
  /** Written. Not `source`. */
  target: usize;
}

/** Numbers. Sizes count elements. */
export interface Numbers {
  /** Of channels-first the number of samples; of channels-last and of rank 2 that of positions: N·H·W. */
  outer: usize;
  /** C. */
  channels: usize;
  /** Of channels-first the number of a sample's positions: H·W; else 1. */
  inner: usize;
  /** Length of a row: a multiple of channels·spread. In the `exact…` and `fours…` sums, channels·spread itself. */
  columns: usize;
  /** Neighbouring columns that belong to one channel; planar: 1. */
  spread: usize;
  /** Elements of all rows together; the last row may be cut short. */
  length: usize;
  /** 4: rows share loads of coefficients, which pays in cache. 1: one row after the other, which pays from memory. */
  together: usize;
  /** Rows to copy. */
  rows: usize;
  /** How many first values of a channel its pivot is the mean of, at most. */
  block: usize;
  /** Values per channel: outer·inner. */
  count: f64;
  /** Inside the root; finite, at least 0. */
  epsilon: f64;
  /** The weight of the new batch. */
  momentum: f64;
  /** 1: ReLU. 2: max(z·slope, floor) for z ≤ 0, else min(z, ceiling): Leaky ReLU, ReLU6. 3: SiLU. */
  activation: i32;
  /** First of the range. Planar, and of vectors: a channel. Interleaved: an element that begins a row. */
  begin: usize;
  /** End of the range, which is not in it. In the interleaved `exact…` and `fours…` sums, the range is one of columns. */
  end: usize;
}
