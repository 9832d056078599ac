package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

const (
	abiVersion = 2
	pageSize   = 65536
	alignment  = 64
)

// Kernels is an instance of the module and its memory. The module owns nothing and allocates nothing, so the memory is
// laid out here:
//
//	0        64                                                             size
//	| unused | gamma | beta | ... | x | y | dx | ... each at a 64-byte boundary |
//
// Address 0 means "none" to the kernels, and no array lies there.
type Kernels struct {
	ctx       context.Context
	runtime   wazero.Runtime
	memory    api.Memory
	functions map[string]api.Function
	module    api.Module
	end       uint64
}

// wazero lends memory from module to module: this one is (module (memory (export "memory") 1)).
var lender = []byte("\x00asm\x01\x00\x00\x00" + "\x05\x03\x01\x00\x01" + "\x07\x0a\x01\x06memory\x02\x00")

// Load instantiates the module at path with a memory of size bytes. It is reserved now and never moves, so that slices
// of it stay valid.
func Load(ctx context.Context, path string, size uint64) (*Kernels, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pages := uint32((size + pageSize - 1) / pageSize)
	config := wazero.NewRuntimeConfig().WithMemoryLimitPages(pages).WithMemoryCapacityFromMax(true)
	k := &Kernels{ctx: ctx, runtime: wazero.NewRuntimeWithConfig(ctx, config), end: alignment}
	compiled, err := k.runtime.CompileModule(ctx, binary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(compiled.ImportedMemories()) > 0 { // env.memory; a module that imports nothing brings its own
		_, err := k.runtime.InstantiateWithConfig(ctx, lender, wazero.NewModuleConfig().WithName("env"))
		if err != nil {
			return nil, fmt.Errorf("env: %w", err)
		}
	}
	k.module, err = k.runtime.InstantiateModule(ctx, compiled, wazero.NewModuleConfig())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k.memory = k.module.Memory()
	k.functions = make(map[string]api.Function)
	if _, ok := k.memory.Grow(pages - k.memory.Size()/pageSize); !ok {
		return nil, fmt.Errorf("the memory did not grow to %d pages", pages)
	}
	if version, err := k.Call("version"); err != nil || version != abiVersion {
		return nil, errors.Join(fmt.Errorf("%s: expected version %d of the kernels, got %d", path, abiVersion, version), err)
	}
	return k, nil
}

// Close frees the memory and the compiled code. No array may be used afterwards.
func (k *Kernels) Close() error { return k.runtime.Close(k.ctx) }

// Call calls an export. Its arguments are addresses, sizes and, through api.EncodeF64, numbers.
func (k *Kernels) Call(name string, args ...uint64) (uint64, error) {
	function := k.functions[name]
	if function == nil {
		if function = k.module.ExportedFunction(name); function == nil {
			return 0, fmt.Errorf("%s: the module has no such export", name)
		}
		k.functions[name] = function
	}
	results, err := function.Call(k.ctx, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if len(results) == 0 {
		return 0, nil
	}
	return results[0], nil
}

// Array is a slice of the kernels' memory: what Go writes to Data, they read at Address.
type Array[T byte | float32 | float64] struct {
	Data    []T
	Address uint64
}

// Zeros makes an array.
func Zeros[T byte | float32 | float64](k *Kernels, length int) Array[T] {
	var element T
	size := uint64(length) * uint64(unsafe.Sizeof(element))
	address := k.end
	bytes, ok := k.memory.Read(uint32(address), uint32(size)) // a view
	if !ok {
		panic(fmt.Sprintf("%d bytes at %d: the memory has %d", size, address, k.memory.Size()))
	}
	k.end = (address + size + alignment - 1) / alignment * alignment
	return Array[T]{unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), length), address}
}
