import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** An array of float in the memory of the kernels. */
record Floats(Kernels kernels, int address, int length) {
  Floats set(float... values) {
    if (values.length != length) throw new IllegalArgumentException("expected " + length + " values, got " + values.length);
    ByteBuffer bytes = buffer();
    bytes.asFloatBuffer().put(values);
    kernels.write(address, bytes);
    return this;
  }

  float[] get() {
    ByteBuffer bytes = buffer();
    kernels.read(address, bytes);
    float[] values = new float[length];
    bytes.rewind().asFloatBuffer().get(values);
    return values;
  }

  private ByteBuffer buffer() {
    return ByteBuffer.allocate(4 * length).order(ByteOrder.LITTLE_ENDIAN);
  }
}
