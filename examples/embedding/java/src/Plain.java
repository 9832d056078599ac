/** The same layer in plain Java. */
final class Plain {
  final int outer, channels, inner;
  final double epsilon, momentum;
  final float[] gamma, beta, y, dx;
  final double[] runningMean, runningVariance, dGamma, dBeta;

  Plain(BatchNorm layer) {
    outer = layer.outer;
    channels = layer.channels;
    inner = layer.inner;
    epsilon = layer.epsilon;
    momentum = layer.momentum;
    gamma = layer.gamma.get();
    beta = layer.beta.get();
    runningMean = layer.runningMean.get();
    runningVariance = layer.runningVariance.get();
    y = new float[layer.length];
    dx = new float[layer.length];
    dGamma = new double[channels];
    dBeta = new double[channels];
  }

  /** A training forward, the running statistics and a backward. */
  void step(float[] x, float[] dy) {
    double m = (double) outer * inner;
    for (int c = 0; c < channels; c++) {
      double mean = sums(c, x, 0, x, 0).first / m;
      double squares = sums(c, x, mean, x, mean).product;
      double invStd = 1 / Math.sqrt(squares / m + epsilon);
      runningMean[c] += momentum * (mean - runningMean[c]);
      runningVariance[c] += momentum * (squares / (m - 1) - runningVariance[c]);

      float center = (float) mean, scale = gamma[c] * (float) invStd, shift = beta[c];
      for (int n = 0; n < outer; n++) {
        int begin = (n * channels + c) * inner;
        for (int i = begin; i < begin + inner; i++) y[i] = (x[i] - center) * scale + shift;
      }

      Sums sums = sums(c, dy, 0, x, mean);
      dBeta[c] = sums.first;
      dGamma[c] = sums.product * invStd;
      float level = (float) (dBeta[c] / m), slope = (float) (invStd * dGamma[c] / m);
      for (int n = 0; n < outer; n++) {
        int begin = (n * channels + c) * inner;
        for (int i = begin; i < begin + inner; i++) dx[i] = scale * (dy[i] - level - (x[i] - center) * slope);
      }
    }
  }

  private record Sums(double first, double product) {}

  /** Those of a - a0 and of (a - a0)·(b - b0) over a channel. Each is taken in four parts, because one sum would wait for itself. */
  private Sums sums(int c, float[] a, double a0, float[] b, double b0) {
    double f0 = 0, f1 = 0, f2 = 0, f3 = 0, p0 = 0, p1 = 0, p2 = 0, p3 = 0;
    for (int n = 0; n < outer; n++) {
      int i = (n * channels + c) * inner, end = i + inner;
      for (; i + 3 < end; i += 4) {
        double d0 = a[i] - a0, d1 = a[i + 1] - a0, d2 = a[i + 2] - a0, d3 = a[i + 3] - a0;
        f0 += d0;
        f1 += d1;
        f2 += d2;
        f3 += d3;
        p0 += d0 * (b[i] - b0);
        p1 += d1 * (b[i + 1] - b0);
        p2 += d2 * (b[i + 2] - b0);
        p3 += d3 * (b[i + 3] - b0);
      }
      for (; i < end; i++) {
        f0 += a[i] - a0;
        p0 += (a[i] - a0) * (b[i] - b0);
      }
    }
    return new Sums(f0 + f1 + f2 + f3, p0 + p1 + p2 + p3);
  }
}
