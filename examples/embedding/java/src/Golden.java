import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Stream;

/** Holds the kernels to every case's float64 references, and their bits to those that Node computed. */
final class Golden {
  // The outputs of a step, and the largest error allowed in u, which the golden cases define.
  private static final String[] NAMES = {
    "y", "dx", "dGamma", "dBeta", "mean", "variance", "runningMean", "runningVariance"
  };
  private static final double[] GATES = {4, 4, 1, 1, 1, 1, 1, 1};

  final int cases;
  final Map<String, Double> maxU = new LinkedHashMap<>();
  private final ByteBuffer file;

  Golden(Kernels kernels, Path path) throws IOException {
    file = ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN);
    cases = file.getInt();
    for (int i = 0; i < cases; i++) check(kernels, i);
    if (cases == 0 || file.hasRemaining()) {
      throw new IllegalStateException("golden: " + cases + " cases, then " + file.remaining() + " bytes");
    }
  }

  private void check(Kernels kernels, int index) {
    align();
    int outer = file.getInt(), channels = file.getInt(), inner = file.getInt();
    file.getInt();
    BatchNorm layer = new BatchNorm(kernels, outer, channels, inner, file.getDouble(), file.getDouble());
    Floats x = kernels.floats(layer.length), dy = kernels.floats(layer.length);
    for (Floats array : new Floats[] {x, dy, layer.gamma, layer.beta}) array.set(floats(array.length()));
    for (Doubles array : new Doubles[] {layer.runningMean, layer.runningVariance}) array.set(doubles(channels));
    double[][] references = new double[NAMES.length][], scales = new double[NAMES.length][];
    for (int k = 0; k < NAMES.length; k++) references[k] = doubles(k < 2 ? layer.length : channels);
    for (int k = 0; k < NAMES.length; k++) scales[k] = doubles(channels);
    double[][] node = {widen(floats(layer.length)), widen(floats(layer.length)), doubles(channels), doubles(channels)};

    layer.train(x);
    layer.backward(dy);
    double[][] got =
        Stream.concat(
                Stream.of(layer.y, layer.dx).map(Floats::get).map(Golden::widen),
                Stream.of(layer.dGamma, layer.dBeta, layer.mean, layer.variance, layer.runningMean, layer.runningVariance)
                    .map(Doubles::get))
            .toArray(double[][]::new);

    String here = "golden: case %d [%d, %d, %d]: ".formatted(index, outer, channels, inner);
    for (int k = 0; k < NAMES.length; k++) {
      if (k < node.length && !Arrays.equals(got[k], node[k])) { // compares bits, but all NaNs as one
        throw new IllegalStateException(here + NAMES[k] + " has other bits than in Node");
      }
      for (int i = 0; i < got[k].length; i++) {
        int channel = k < 2 ? i / inner % channels : i;
        double u = Math.abs(got[k][i] - references[k][i]) / Math.max(0x1p-24 * scales[k][channel], 0x1p-149);
        if (!(u <= GATES[k])) {
          throw new IllegalStateException(here + "%s[%d] is %.2f u off, allowed are %.0f".formatted(NAMES[k], i, u, GATES[k]));
        }
        maxU.merge(NAMES[k], Math.round(1000 * u) / 1000.0, Math::max);
      }
    }
  }

  private void align() {
    file.position((file.position() + 7) / 8 * 8);
  }

  private float[] floats(int length) {
    float[] values = new float[length];
    file.asFloatBuffer().get(values);
    file.position(file.position() + 4 * length);
    return values;
  }

  private double[] doubles(int length) {
    align();
    double[] values = new double[length];
    file.asDoubleBuffer().get(values);
    file.position(file.position() + 8 * length);
    return values;
  }

  private static double[] widen(float[] values) {
    double[] wide = new double[values.length];
    for (int i = 0; i < wide.length; i++) wide[i] = values[i];
    return wide;
  }
}
