// Trains a batch norm layer whose kernels are WebAssembly, holds them to the golden cases, and times one step beside
// plain Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

const repetitions = 15

var shape = []int{32, 64, 56, 56}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: batchnorm-host WASM GOLDEN")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(wasm, goldenPath string) error {
	kernels, err := Load(context.Background(), wasm, 128<<20)
	if err != nil {
		return err
	}
	defer kernels.Close()
	engine := "wazero " + dependencyVersion("github.com/tetratelabs/wazero")
	if err := train(kernels); err != nil {
		return fmt.Errorf("training: %w", err)
	}
	cases, maxU, err := golden(kernels, goldenPath)
	if err != nil {
		return fmt.Errorf("golden: %w", err)
	}
	step, native, err := race(kernels)
	if err != nil {
		return fmt.Errorf("race: %w", err)
	}
	fmt.Printf("one step of %v: %.1f ms, plain Go %.1f ms (%.1fx)\n", shape, step, native, native/step)

	report, err := json.Marshal(struct {
		Host      string             `json:"host"`
		Engine    string             `json:"engine"`
		Cases     int                `json:"cases"`
		MaxU      map[string]float64 `json:"maxU"`
		EqualBits bool               `json:"equalBits"`
		Shape     []int              `json:"shape"`
		StepMs    float64            `json:"stepMs"`
		Native    string             `json:"native"`
		NativeMs  float64            `json:"nativeMs"`
	}{"Go", engine, cases, maxU, true, shape, round(step, 2), "plain loops, " + runtime.Version(), round(native, 2)})
	fmt.Println(string(report))
	return err
}

// train learns the gamma and beta of a teacher from its outputs. The inputs are far from standardised.
func train(k *Kernels) error {
	const steps = 200
	random := rand.New(rand.NewPCG(1, 1))
	layer, err := NewBatchNorm(k, Geometry{16, 8, 100})
	if err != nil {
		return err
	}
	x, dy := Zeros[float32](k, layer.Length()), Zeros[float32](k, layer.Length())
	target := make([]float32, layer.Length())
	type teacher struct{ center, spread, gamma, beta float64 }
	teachers := make([]teacher, layer.Channels)
	for c := range teachers {
		teachers[c] = teacher{50 * random.NormFloat64(), 1 + random.Float64(), random.NormFloat64(), random.NormFloat64()}
	}
	loss := func() (sum float64) { // the mean squared error; its gradient goes to dy
		for i, y := range layer.Y.Data {
			e := float64(y - target[i])
			sum += e * e / float64(layer.Length())
			dy.Data[i] = float32(2 * e / float64(layer.Count()))
		}
		return sum
	}

	var first, last float64
	for step := range steps {
		for i := range x.Data {
			t, noise := teachers[i/layer.Inner%layer.Channels], random.NormFloat64()
			x.Data[i] = float32(t.center + t.spread*noise)
			target[i] = float32(t.gamma*noise + t.beta)
		}
		if err := layer.Train(x); err != nil {
			return err
		}
		if last = loss(); step == 0 {
			first = last
		}
		if err := layer.Backward(dy); err != nil {
			return err
		}
		layer.Step(0.5)
	}
	if err := layer.Infer(x); err != nil {
		return err
	}
	heldOut := loss()
	// running statistics are constants of a last step on the same batch
	if err := layer.Backward(dy); err != nil {
		return err
	}
	layer.Step(0.5)
	if err := layer.Infer(x); err != nil {
		return err
	}
	frozen := loss()
	fmt.Printf("training: loss %.3f -> %.5f in %d steps, %.5f in inference, %.1e after a frozen step\n",
		first, last, steps, heldOut, frozen)
	if !(last < first/50 && heldOut < first/50) {
		return errors.New("the loss did not fall to a fiftieth")
	}
	if !(frozen < heldOut) {
		return errors.New("the loss did not fall in a frozen step")
	}
	return nil
}

// race gives medians in milliseconds of a training step, by the kernels and by plain Go on the same data.
func race(k *Kernels) (step, native float64, err error) {
	random := rand.New(rand.NewPCG(2, 2))
	layer, err := NewBatchNorm(k, Geometry{shape[0], shape[1], shape[2] * shape[3]})
	if err != nil {
		return 0, 0, err
	}
	x, dy := Zeros[float32](k, layer.Length()), Zeros[float32](k, layer.Length())
	for i := range x.Data {
		x.Data[i], dy.Data[i] = float32(random.NormFloat64()), float32(random.NormFloat64())
	}
	plain := &Plain{
		Geometry: layer.Geometry, Epsilon: layer.Epsilon, Momentum: layer.Momentum,
		Gamma: slices.Clone(layer.Gamma.Data), Beta: slices.Clone(layer.Beta.Data),
		Y: make([]float32, layer.Length()), DX: make([]float32, layer.Length()),
		RunningMean: slices.Clone(layer.RunningMean.Data), RunningVariance: slices.Clone(layer.RunningVariance.Data),
		DGamma: make([]float64, layer.Channels), DBeta: make([]float64, layer.Channels),
	}
	plainX, plainDY := slices.Clone(x.Data), slices.Clone(dy.Data)

	var ours, theirs []float64
	for range repetitions {
		begin := time.Now()
		if err := errors.Join(layer.Train(x), layer.Backward(dy)); err != nil {
			return 0, 0, err
		}
		middle := time.Now()
		plain.Step(plainX, plainDY)
		end := time.Now()
		ours = append(ours, middle.Sub(begin).Seconds()*1000)
		theirs = append(theirs, end.Sub(middle).Seconds()*1000)
	}
	for i, value := range plain.DX {
		if apart := math.Abs(float64(value - layer.DX.Data[i])); !(apart < 1e-4) {
			return 0, 0, fmt.Errorf("dx[%d] and that of plain Go are %g apart", i, apart)
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	return ours[repetitions/2], theirs[repetitions/2], nil
}

func round(value float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(value*scale) / scale
}

func dependencyVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == path {
				return dependency.Version[1:]
			}
		}
	}
	return "?"
}
