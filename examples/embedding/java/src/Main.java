import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Random;
import java.util.StringJoiner;

/**
 * Trains a batch norm layer whose kernels are WebAssembly, holds them to the golden cases, and times one step beside plain
 * Java.
 */
final class Main {
  private static final int VERSION = 2; // of the kernels' ABI
  private static final int[] SHAPE = {32, 64, 56, 56};
  private static final int REPETITIONS = 15;
  private static final double PATIENCE = 60_000; // in milliseconds: an interpreter gets fewer repetitions

  public static void main(String[] arguments) {
    if (arguments.length < 2 || arguments.length > 3) {
      System.err.println("usage: batchnorm-host WASM GOLDEN [wasmtime | endive]");
      System.exit(2);
    }
    Locale.setDefault(Locale.ROOT);
    try {
      Path wasm = Path.of(arguments[0]), golden = Path.of(arguments[1]);
      run(load(arguments.length > 2 ? arguments[2] : "wasmtime", wasm), golden);
    } catch (Exception e) {
      System.err.println(e instanceof IllegalStateException ? e.getMessage() : e);
      System.exit(1);
    }
  }

  private static Kernels load(String engine, Path wasm) {
    return switch (engine) {
      case "wasmtime" -> new Wasmtime(wasm);
      case "endive" -> new Endive(wasm);
      default -> throw new IllegalArgumentException("engine: expected wasmtime or endive, got " + engine);
    };
  }

  private static void run(Kernels kernels, Path path) throws Exception {
    int version = kernels.call("version");
    if (version != VERSION) {
      throw new IllegalStateException("expected version %d of the kernels, got %d".formatted(VERSION, version));
    }
    train(kernels);
    Golden golden = new Golden(kernels, path);
    System.out.printf("golden: %d cases, bits as in Node, largest errors in u: %s%n", golden.cases, golden.maxU);
    double[] medians = race(kernels);
    String java = "Java " + Runtime.version().feature();
    System.out.printf(
        "one step of %s: %.1f ms, plain %s %.1f ms (%.2fx)%n",
        Arrays.toString(SHAPE), medians[0], java, medians[1], medians[1] / medians[0]);

    StringJoiner maxU = new StringJoiner(",", "{", "}");
    golden.maxU.forEach((name, u) -> maxU.add("\"%s\":%s".formatted(name, u)));
    System.out.printf(
        "{\"host\":\"Java\",\"engine\":\"%s\",\"cases\":%d,\"maxU\":%s,\"equalBits\":true,\"shape\":%s,"
            + "\"stepMs\":%.2f,\"native\":\"plain loops, %s\",\"nativeMs\":%.2f}%n",
        kernels.engine(), golden.cases, maxU, Arrays.toString(SHAPE), medians[0], java, medians[1]);
  }

  /** Learns the gamma and beta of a teacher from its outputs. The inputs are far from standardised. */
  private static void train(Kernels kernels) {
    int steps = 200;
    Random random = new Random(1);
    BatchNorm layer = new BatchNorm(kernels, 16, 8, 100);
    Floats x = kernels.floats(layer.length), dy = kernels.floats(layer.length);
    record Teacher(double center, double spread, double gamma, double beta) {}
    Teacher[] teachers = new Teacher[layer.channels];
    Arrays.setAll(
        teachers,
        c -> new Teacher(50 * random.nextGaussian(), 1 + random.nextDouble(), random.nextGaussian(), random.nextGaussian()));

    float[] batch = new float[layer.length], target = new float[layer.length], gradient = new float[layer.length];
    double first = 0, last = 0;
    for (int step = 0; step < steps; step++) {
      for (int i = 0; i < batch.length; i++) {
        Teacher teacher = teachers[i / layer.inner % layer.channels];
        double noise = random.nextGaussian();
        batch[i] = (float) (teacher.center + teacher.spread * noise);
        target[i] = (float) (teacher.gamma * noise + teacher.beta);
      }
      layer.train(x.set(batch));
      last = loss(layer, target, gradient);
      if (step == 0) first = last;
      layer.backward(dy.set(gradient));
      layer.step(0.5);
    }
    layer.infer(x);
    double heldOut = loss(layer, target, gradient);
    layer.backward(dy.set(gradient)); // running statistics are constants of a last step on the same batch
    layer.step(0.5);
    layer.infer(x);
    double frozen = loss(layer, target, gradient);
    System.out.printf(
        "training: loss %.3f -> %.5f in %d steps, %.5f in inference, %.1e after a frozen step%n",
        first, last, steps, heldOut, frozen);
    if (!(last < first / 50 && heldOut < first / 50)) {
      throw new IllegalStateException("training: the loss did not fall to a fiftieth");
    }
    if (!(frozen < heldOut)) throw new IllegalStateException("training: the loss did not fall in a frozen step");
  }

  /** The mean squared error, whose gradient goes to dy. */
  private static double loss(BatchNorm layer, float[] target, float[] dy) {
    float[] y = layer.y.get();
    double sum = 0;
    for (int i = 0; i < y.length; i++) {
      double error = y[i] - target[i];
      sum += error * error;
      dy[i] = (float) (2 * error / layer.count);
    }
    return sum / layer.length;
  }

  /** Medians in milliseconds of a training step, by the kernels and by plain Java on the same data. */
  private static double[] race(Kernels kernels) {
    Random random = new Random(2);
    BatchNorm layer = new BatchNorm(kernels, SHAPE[0], SHAPE[1], SHAPE[2] * SHAPE[3]);
    float[] x = new float[layer.length], dy = new float[layer.length];
    for (int i = 0; i < x.length; i++) {
      x[i] = (float) random.nextGaussian();
      dy[i] = (float) random.nextGaussian();
    }
    Floats wasmX = kernels.floats(layer.length).set(x), wasmDy = kernels.floats(layer.length).set(dy);
    Plain plain = new Plain(layer);

    double[] ours = new double[REPETITIONS], theirs = new double[REPETITIONS];
    long start = System.nanoTime();
    int done = 0;
    while (done < REPETITIONS && (System.nanoTime() - start) / 1e6 < PATIENCE) {
      long begin = System.nanoTime();
      layer.train(wasmX);
      layer.backward(wasmDy);
      long middle = System.nanoTime();
      plain.step(x, dy);
      long end = System.nanoTime();
      ours[done] = (middle - begin) / 1e6;
      theirs[done++] = (end - middle) / 1e6;
    }
    if (done < REPETITIONS) System.out.printf("race: %d repetitions in place of %d%n", done, REPETITIONS);

    float[] dx = layer.dx.get();
    for (int i = 0; i < dx.length; i++) {
      if (!(Math.abs(dx[i] - plain.dx[i]) < 1e-4)) throw new IllegalStateException("race: dx[" + i + "] differs from plain Java's");
    }
    return new double[] {median(ours, done), median(theirs, done)};
  }

  private static double median(double[] values, int count) {
    return Arrays.stream(values, 0, count).sorted().toArray()[count / 2];
  }
}
