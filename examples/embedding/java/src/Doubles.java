import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** An array of double in the memory of the kernels. */
record Doubles(Kernels kernels, int address, int length) {
  Doubles set(double... values) {
    if (values.length != length) throw new IllegalArgumentException("expected " + length + " values, got " + values.length);
    ByteBuffer bytes = buffer();
    bytes.asDoubleBuffer().put(values);
    kernels.write(address, bytes);
    return this;
  }

  double[] get() {
    ByteBuffer bytes = buffer();
    kernels.read(address, bytes);
    double[] values = new double[length];
    bytes.rewind().asDoubleBuffer().get(values);
    return values;
  }

  private ByteBuffer buffer() {
    return ByteBuffer.allocate(8 * length).order(ByteOrder.LITTLE_ENDIAN);
  }
}
