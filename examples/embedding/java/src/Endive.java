import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import run.endive.runtime.ByteArrayMemory;
import run.endive.runtime.ExportFunction;
import run.endive.runtime.ImportMemory;
import run.endive.runtime.ImportValues;
import run.endive.runtime.Instance;
import run.endive.runtime.Memory;
import run.endive.wasm.Parser;
import run.endive.wasm.WasmModule;
import run.endive.wasm.types.MemoryLimits;

/** Pure Java: an interpreter, the successor of Chicory's, for where there can be no native library. */
final class Endive extends Kernels {
  private final Instance instance;
  private final Memory memory;
  private final Map<String, ExportFunction> functions = new HashMap<>();

  Endive(Path path) {
    WasmModule module = Parser.parse(path);
    Instance.Builder builder = Instance.builder(module);
    if (module.importSection().importCount() > 0) { // env.memory; a module that imports nothing brings its own
      memory = new ByteArrayMemory(new MemoryLimits(1));
      builder.withImportValues(ImportValues.builder().addMemory(new ImportMemory("env", "memory", memory)).build());
      instance = builder.build();
    } else {
      instance = builder.build();
      memory = instance.memory();
    }
  }

  @Override
  String engine() {
    return "Endive " + version(Instance.class) + " (interpreter)";
  }

  @Override
  int call(String export, Number... arguments) {
    ExportFunction function = functions.computeIfAbsent(export, instance::export);
    long[] values = new long[arguments.length];
    for (int i = 0; i < values.length; i++) {
      values[i] = arguments[i] instanceof Double number ? Double.doubleToRawLongBits(number) : arguments[i].longValue();
    }
    long[] results = function.apply(values);
    return results == null || results.length == 0 ? 0 : (int) results[0];
  }

  @Override
  long size() {
    return (long) PAGE * memory.pages();
  }

  @Override
  void grow(int pages) {
    memory.grow(pages);
  }

  @Override
  void write(int address, ByteBuffer bytes) {
    memory.write(address, bytes.array());
  }

  @Override
  void read(int address, ByteBuffer bytes) {
    bytes.put(0, memory.readBytes(address, bytes.capacity()));
  }
}
