import io.github.kawamuray.wasmtime.Extern;
import io.github.kawamuray.wasmtime.Func;
import io.github.kawamuray.wasmtime.Instance;
import io.github.kawamuray.wasmtime.Memory;
import io.github.kawamuray.wasmtime.MemoryType;
import io.github.kawamuray.wasmtime.Module;
import io.github.kawamuray.wasmtime.Store;
import io.github.kawamuray.wasmtime.Val;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Machine code: wasmtime, which the jar brings along as a native library. */
final class Wasmtime extends Kernels {
  private final Store<Void> store = Store.withoutData();
  private final Instance instance;
  private final Memory memory;
  private final Map<String, Func> functions = new HashMap<>();

  Wasmtime(Path path) {
    Module module = Module.fromFile(store.engine(), path.toString());
    if (module.imports().length > 0) { // env.memory; a module that imports nothing brings its own
      memory = new Memory(store, new MemoryType(1, false));
      instance = new Instance(store, module, List.of(Extern.fromMemory(memory)));
    } else {
      instance = new Instance(store, module, List.of());
      memory = instance.getMemory(store, "memory").orElseThrow();
    }
  }

  @Override
  String engine() {
    return "wasmtime-java " + version(Store.class);
  }

  @Override
  int call(String export, Number... arguments) {
    Func function = functions.computeIfAbsent(export, this::find);
    Val[] values = new Val[arguments.length];
    for (int i = 0; i < values.length; i++) {
      values[i] = arguments[i] instanceof Double number ? Val.fromF64(number) : Val.fromI32(arguments[i].intValue());
    }
    Val[] results = function.call(store, values);
    return results.length == 0 ? 0 : results[0].i32();
  }

  private Func find(String export) {
    return instance.getFunc(store, export).orElseThrow(() -> new IllegalArgumentException(export + ": no such export"));
  }

  @Override
  long size() {
    return memory.dataSize(store);
  }

  @Override
  void grow(int pages) {
    memory.grow(store, pages);
  }

  @Override
  void write(int address, ByteBuffer bytes) {
    memory.buffer(store).put(address, bytes, 0, bytes.capacity());
  }

  @Override
  void read(int address, ByteBuffer bytes) {
    bytes.put(0, memory.buffer(store), address, bytes.capacity());
  }
}
