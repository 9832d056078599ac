import java.nio.ByteBuffer;

/**
 * An instance of the module and its memory. The module owns nothing and allocates nothing, so the memory is laid out here:
 *
 * <pre>
 * 0        64                                                             grows
 * | unused | gamma | beta | ... | x | y | dx | ... each at a 64-byte boundary |
 * </pre>
 *
 * Address 0 means "none" to the kernels, and no array lies there. A subclass is an engine; arrays of Java and the memory
 * are copied into each other in bulk.
 */
abstract class Kernels {
  static final int PAGE = 65536;
  private static final int ALIGNMENT = 64;

  private long end = ALIGNMENT;

  /** Name and version. */
  abstract String engine();

  /** Calls an export. An Integer is an address or a size, a Double a number. */
  abstract int call(String export, Number... arguments);

  /** In bytes. */
  abstract long size();

  abstract void grow(int pages);

  abstract void write(int address, ByteBuffer bytes);

  abstract void read(int address, ByteBuffer bytes);

  /** The address of new memory. A fresh memory holds zeros, and nothing is ever freed. */
  final int allocate(long bytes) {
    long address = end;
    end = (address + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (end > size()) grow((int) ((end - size() + PAGE - 1) / PAGE));
    if (end > size()) throw new IllegalStateException("the memory did not grow to " + end + " bytes");
    return Math.toIntExact(address);
  }

  final Floats floats(int length) {
    return new Floats(this, allocate(4L * length), length);
  }

  final Doubles doubles(int length) {
    return new Doubles(this, allocate(8L * length), length);
  }

  /** The version in the name of the jar that a class is from. */
  static String version(Class<?> type) {
    String jar = type.getProtectionDomain().getCodeSource().getLocation().getPath();
    return jar.substring(jar.lastIndexOf('-') + 1, jar.lastIndexOf('.'));
  }
}
