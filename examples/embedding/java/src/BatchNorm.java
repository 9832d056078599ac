import java.util.Arrays;

/**
 * Batch normalization of a fixed geometry, with PyTorch's conventions: momentum is the weight of the new batch, and the
 * running variance is unbiased. Channels first is (N, C, H·W), channels last (N·H·W, C, 1).
 */
final class BatchNorm {
  final int outer, channels, inner, length, count;
  final double epsilon, momentum;
  final Floats gamma, beta, y, dx;
  final Doubles runningMean, runningVariance;
  final Doubles mean, variance, invStd; // of the last batch
  final Doubles dGamma, dBeta;
  private final Kernels kernels;
  private final int workspace;
  private Floats x;

  BatchNorm(Kernels kernels, int outer, int channels, int inner) {
    this(kernels, outer, channels, inner, 1e-5, 0.1);
  }

  BatchNorm(Kernels kernels, int outer, int channels, int inner, double epsilon, double momentum) {
    this.kernels = kernels;
    this.outer = outer;
    this.channels = channels;
    this.inner = inner;
    this.epsilon = epsilon;
    this.momentum = momentum;
    length = outer * channels * inner;
    count = outer * inner;
    gamma = kernels.floats(channels);
    beta = kernels.floats(channels);
    y = kernels.floats(length);
    dx = kernels.floats(length);
    runningMean = kernels.doubles(channels);
    runningVariance = kernels.doubles(channels);
    mean = kernels.doubles(channels);
    variance = kernels.doubles(channels);
    invStd = kernels.doubles(channels);
    dGamma = kernels.doubles(channels);
    dBeta = kernels.doubles(channels);
    workspace = kernels.allocate(kernels.call("workspaceF32", outer, channels, inner));

    float[] gammas = new float[channels];
    double[] variances = new double[channels];
    Arrays.fill(gammas, 1);
    Arrays.fill(variances, 1);
    gamma.set(gammas);
    runningVariance.set(variances);
  }

  /** Sets y from the statistics of the batch x, and moves the running statistics towards them. */
  void train(Floats x) {
    check("x", x);
    if (count < 2) throw new IllegalStateException("expected more than 1 value per channel when training");
    kernels.call(
        "forwardF32", x.address(), y.address(), gamma.address(), beta.address(), mean.address(), variance.address(),
        invStd.address(), workspace, outer, channels, inner, epsilon);
    kernels.call(
        "trackF64", runningMean.address(), runningVariance.address(), mean.address(), variance.address(), momentum,
        (double) count, channels);
    this.x = x; // backward needs it
  }

  /** Sets y from the running statistics. */
  void infer(Floats x) {
    check("x", x);
    kernels.call(
        "inferenceF32", x.address(), y.address(), gamma.address(), beta.address(), runningMean.address(),
        runningVariance.address(), workspace, outer, channels, inner, epsilon);
  }

  /** Sets dx, dGamma and dBeta from dy, for the batch of the last training forward. */
  void backward(Floats dy) {
    check("dy", dy);
    if (x == null) throw new IllegalStateException("expected a training forward before backward");
    kernels.call(
        "backwardF32", x.address(), dy.address(), dx.address(), gamma.address(), mean.address(), invStd.address(),
        dGamma.address(), dBeta.address(), workspace, outer, channels, inner);
  }

  /** Stochastic gradient descent. */
  void step(double rate) {
    descend(gamma, dGamma, rate);
    descend(beta, dBeta, rate);
  }

  private void descend(Floats parameter, Doubles gradient, double rate) {
    float[] values = parameter.get();
    double[] slopes = gradient.get();
    for (int c = 0; c < channels; c++) values[c] -= (float) (rate * slopes[c]);
    parameter.set(values);
  }

  private void check(String name, Floats tensor) {
    if (tensor.length() != length) {
      throw new IllegalArgumentException(
          "%s: expected %d elements (%d×%d×%d), got %d".formatted(name, length, outer, channels, inner, tensor.length()));
    }
  }
}
