package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
)

// gates are the outputs of a step, and the largest error allowed in u, which the golden cases define.
var gates = []struct {
	name string
	u    float64
}{{"y", 4}, {"dx", 4}, {"dGamma", 1}, {"dBeta", 1}, {"mean", 1}, {"variance", 1}, {"runningMean", 1}, {"runningVariance", 1}}

// golden holds every case to its float64 references, and its bits to those that Node computed.
func golden(k *Kernels, path string) (cases int, maxU map[string]float64, err error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, err
	}
	r := &reader{file: file}
	cases = int(take[uint32](r, 1)[0])
	maxU = make(map[string]float64)
	for i := range cases {
		r.align()
		dims := take[uint32](r, 4)
		layer, err := NewBatchNorm(k, Geometry{int(dims[0]), int(dims[1]), int(dims[2])})
		if err != nil {
			return 0, nil, err
		}
		length, channels := layer.Length(), layer.Channels
		layer.Epsilon, layer.Momentum = take[float64](r, 1)[0], take[float64](r, 1)[0]
		x, dy := Zeros[float32](k, length), Zeros[float32](k, length)
		for _, array := range [][]float32{x.Data, dy.Data, layer.Gamma.Data, layer.Beta.Data} {
			copy(array, take[float32](r, len(array)))
		}
		r.align()
		copy(layer.RunningMean.Data, take[float64](r, channels))
		copy(layer.RunningVariance.Data, take[float64](r, channels))
		var references, scales [][]float64
		for _, size := range []int{length, length, channels, channels, channels, channels, channels, channels} {
			references = append(references, take[float64](r, size))
		}
		for range gates {
			scales = append(scales, take[float64](r, channels))
		}
		bits := [][]float64{widen(take[float32](r, length)), widen(take[float32](r, length))}
		r.align()
		bits = append(bits, take[float64](r, channels), take[float64](r, channels))
		if r.err != nil {
			return 0, nil, r.err
		}

		if err := errors.Join(layer.Train(x), layer.Backward(dy)); err != nil {
			return 0, nil, err
		}
		got := [][]float64{widen(layer.Y.Data), widen(layer.DX.Data), layer.DGamma.Data, layer.DBeta.Data,
			layer.Mean.Data, layer.Variance.Data, layer.RunningMean.Data, layer.RunningVariance.Data}
		for output, gate := range gates {
			if output < len(bits) && !slices.EqualFunc(got[output], bits[output], sameBits) {
				return 0, nil, fmt.Errorf("case %d %v: %s has other bits than in Node", i, dims, gate.name)
			}
			inner := len(got[output]) / channels // per channel: all of a tensor, or one
			if inner > 1 {
				inner = layer.Inner
			}
			for j, value := range got[output] {
				unit := math.Max(0x1p-24*scales[output][j/inner%channels], 0x1p-149)
				u := math.Abs(value-references[output][j]) / unit
				if !(u <= gate.u) {
					return 0, nil, fmt.Errorf("case %d %v: %s[%d] is %.2f u off, allowed are %g", i, dims, gate.name, j, u, gate.u)
				}
				maxU[gate.name] = max(maxU[gate.name], round(u, 3))
			}
		}
	}
	if cases == 0 || r.at != len(file) {
		return 0, nil, fmt.Errorf("%d cases in %d of %d bytes", cases, r.at, len(file))
	}
	fmt.Printf("golden: %d cases, bits as in Node, largest errors in u: %v\n", cases, maxU)
	return cases, maxU, nil
}

// reader reads the file of golden cases. After an error it gives zeros.
type reader struct {
	file []byte
	at   int
	err  error
}

func take[T uint32 | float32 | float64](r *reader, count int) []T {
	values := make([]T, count)
	size, err := binary.Decode(r.file[r.at:], binary.LittleEndian, values)
	r.at += size
	r.err = errors.Join(r.err, err)
	return values
}

func (r *reader) align() { r.at = min((r.at+7)/8*8, len(r.file)) }

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

func widen(values []float32) []float64 {
	wide := make([]float64, len(values))
	for i, v := range values {
		wide[i] = float64(v)
	}
	return wide
}
