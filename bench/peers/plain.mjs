// Plain JavaScript as a careful author writes it: loops in memory order over typed arrays, sums in float64, two passes for
// the variance. With Float64Array as the type of its outputs it is the reference of the benchmark's own correctness check.

const EPSILON = 1e-5;

export const name = "plain JavaScript";

export function prepare(data, Output = Float32Array) {
  const { outer, channels, inner, x, dy, gamma, beta, length } = data;
  const count = outer * inner;
  const y = new Output(length);
  const dx = new Output(length);
  const [mean, invStd, dGamma, dBeta, scale, shift] = Array.from({ length: 6 }, () => new Float64Array(channels));
  const running = { mean: new Float64Array(channels), variance: new Float64Array(channels).fill(1) };

  const map = () => {
    for (let n = 0, i = 0; n < outer; n++)
      for (let c = 0; c < channels; c++) {
        const [a, b] = [scale[c], shift[c]];
        for (const end = i + inner; i < end; i++) y[i] = x[i] * a + b;
      }
  };

  const coefficients = (means, variances) => {
    for (let c = 0; c < channels; c++) {
      invStd[c] = 1 / Math.sqrt(variances[c] + EPSILON);
      mean[c] = means[c];
      scale[c] = gamma[c] * invStd[c];
      shift[c] = beta[c] - means[c] * scale[c];
    }
  };

  return {
    inference() {
      coefficients(running.mean, running.variance);
      map();
    },
    forward() {
      const sums = new Float64Array(channels);
      for (let n = 0, i = 0; n < outer; n++)
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          for (const end = i + inner; i < end; i++) sum += x[i];
          sums[c] += sum;
        }
      const means = sums.map((s) => s / count);
      const squares = new Float64Array(channels);
      for (let n = 0, i = 0; n < outer; n++)
        for (let c = 0; c < channels; c++) {
          const m = means[c];
          let sum = 0;
          for (const end = i + inner; i < end; i++) sum += (x[i] - m) * (x[i] - m);
          squares[c] += sum;
        }
      coefficients(
        means,
        squares.map((s) => s / count),
      );
      map();
    },
    backward() {
      dGamma.fill(0);
      dBeta.fill(0);
      for (let n = 0, i = 0; n < outer; n++)
        for (let c = 0; c < channels; c++) {
          const m = mean[c];
          let sum = 0;
          let dot = 0;
          for (const end = i + inner; i < end; i++) {
            sum += dy[i];
            dot += dy[i] * (x[i] - m);
          }
          dBeta[c] += sum;
          dGamma[c] += dot * invStd[c];
        }
      for (let n = 0, i = 0; n < outer; n++)
        for (let c = 0; c < channels; c++) {
          const [m, a, b] = [mean[c], scale[c], dBeta[c] / count];
          const g = (dGamma[c] / count) * invStd[c];
          for (const end = i + inner; i < end; i++) dx[i] = a * (dy[i] - b - (x[i] - m) * g);
        }
    },
    result: () => ({ y, dx, dGamma, dBeta }),
    dispose() {},
  };
}
