// What stands in the place of batch norm in the network without it: a trained bias, y = x + beta, with the methods of
// a BatchNorm over [N, C].

export class Bias {
  /** @param {number} channels */
  constructor(channels) {
    this.beta = new Float32Array(channels);
  }

  train() {}

  eval() {}

  /** @param {{ data: Float32Array, shape: readonly number[] }} x */
  forward({ data, shape }) {
    const channels = this.beta.length;
    const y = new Float32Array(data.length);
    for (let row = 0; row < data.length; row += channels)
      for (let c = 0; c < channels; c++) y[row + c] = data[row + c] + this.beta[c];
    return { data: y, shape };
  }

  /** @param {{ data: Float32Array, shape: readonly number[] }} dy */
  backward(dy) {
    const channels = this.beta.length;
    const dBeta = new Float32Array(channels);
    for (let row = 0; row < dy.data.length; row += channels)
      for (let c = 0; c < channels; c++) dBeta[c] += dy.data[row + c];
    return { dx: dy, dBeta };
  }
}
