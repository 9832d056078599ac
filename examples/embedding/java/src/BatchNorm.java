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
  final Doubles mean, variance; // of the last batch of train
  final Doubles dGamma, dBeta;
  private final Kernels kernels;
  private final int workspace;
  private final Doubles invStd;
  // what backward needs of the last forward, and whether its statistics are constants
  private Floats x;
  private Doubles saved;
  private int constant;

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
    workspace = kernels.allocate(kernels.call("workspace", Float.BYTES, outer, channels, inner));

    float[] gammas = new float[channels];
    double[] variances = new double[channels];
    Arrays.fill(gammas, 1);
    Arrays.fill(variances, 1);
    gamma.set(gammas);
    runningVariance.set(variances);
  }

  /** Sets y from the statistics of the batch x, and moves the running statistics towards them. */
  void train(Floats x) {
    if (count < 2) throw new IllegalStateException("expected more than 1 value per channel when training");
    forward("forward", x, mean, variance, 0);
    kernels.call(
        "track", runningMean.address(), runningVariance.address(), mean.address(), variance.address(), momentum,
        (double) count, channels);
  }

  /** Sets y from the running statistics. */
  void infer(Floats x) {
    forward("inference", x, runningMean, runningVariance, 1);
  }

  private void forward(String export, Floats x, Doubles mean, Doubles variance, int constant) {
    check("x", x);
    kernels.call(
        export, x.address(), y.address(), gamma.address(), beta.address(), mean.address(), variance.address(),
        invStd.address(), workspace, outer, channels, inner, epsilon);
    this.x = x;
    this.saved = mean;
    this.constant = constant;
  }

  /** Sets dx, dGamma and dBeta from dy, for the batch of the last train or infer. After infer, statistics are constants. */
  void backward(Floats dy) {
    check("dy", dy);
    if (x == null) throw new IllegalStateException("expected a forward before backward");
    kernels.call(
        "backward", x.address(), dy.address(), dx.address(), gamma.address(), saved.address(), invStd.address(),
        dGamma.address(), dBeta.address(), workspace, outer, channels, inner, constant);
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
