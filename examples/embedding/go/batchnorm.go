package main

import (
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero/api"
)

const elementBytes = 4 // of float32

// BatchNorm is batch normalization of a fixed geometry, with PyTorch's conventions: momentum is the weight of the new
// batch, and the running variance is unbiased.
type BatchNorm struct {
	Geometry
	Epsilon, Momentum            float64
	Gamma, Beta                  Array[float32]
	RunningMean, RunningVariance Array[float64]
	Mean, Variance               Array[float64] // of the last batch of Train
	Y, DX                        Array[float32]
	DGamma, DBeta                Array[float64]
	kernels                      *Kernels
	workspace                    Array[byte]
	// What Backward needs of the last forward: its batch, its statistics, and whether those are constants.
	x            Array[float32]
	mean, invStd Array[float64]
	constant     uint64
}

// Geometry is (N, C, H·W) for channels first, (N·H·W, C, 1) for channels last.
type Geometry struct{ Outer, Channels, Inner int }

// Length is the number of elements.
func (g Geometry) Length() int { return g.Outer * g.Channels * g.Inner }

// Count is the number of values per channel.
func (g Geometry) Count() int { return g.Outer * g.Inner }

// NewBatchNorm makes a layer with gamma = 1, beta = 0 and the running statistics of a standard distribution.
func NewBatchNorm(k *Kernels, g Geometry) (*BatchNorm, error) {
	size, err := k.Call("workspace", elementBytes, uint64(g.Outer), uint64(g.Channels), uint64(g.Inner))
	if err != nil {
		return nil, err
	}
	b := &BatchNorm{
		Geometry:        g,
		Epsilon:         1e-5,
		Momentum:        0.1,
		Gamma:           Zeros[float32](k, g.Channels),
		Beta:            Zeros[float32](k, g.Channels),
		RunningMean:     Zeros[float64](k, g.Channels),
		RunningVariance: Zeros[float64](k, g.Channels),
		Mean:            Zeros[float64](k, g.Channels),
		Variance:        Zeros[float64](k, g.Channels),
		Y:               Zeros[float32](k, g.Length()),
		DX:              Zeros[float32](k, g.Length()),
		DGamma:          Zeros[float64](k, g.Channels),
		DBeta:           Zeros[float64](k, g.Channels),
		invStd:          Zeros[float64](k, g.Channels),
		kernels:         k,
		workspace:       Zeros[byte](k, int(size)),
	}
	for c := range g.Channels {
		b.Gamma.Data[c], b.RunningVariance.Data[c] = 1, 1
	}
	return b, nil
}

// Train sets Y from the statistics of the batch x, and moves the running statistics towards them.
func (b *BatchNorm) Train(x Array[float32]) error {
	if b.Count() < 2 {
		return fmt.Errorf("expected more than 1 value per channel when training, got %+v", b.Geometry)
	}
	if err := b.forward("forward", x, b.Mean, b.Variance, 0); err != nil {
		return err
	}
	_, err := b.kernels.Call("track",
		b.RunningMean.Address, b.RunningVariance.Address, b.Mean.Address, b.Variance.Address,
		api.EncodeF64(b.Momentum), api.EncodeF64(float64(b.Count())), uint64(b.Channels))
	return err
}

// Infer sets Y from the running statistics.
func (b *BatchNorm) Infer(x Array[float32]) error {
	return b.forward("inference", x, b.RunningMean, b.RunningVariance, 1)
}

func (b *BatchNorm) forward(export string, x Array[float32], mean, variance Array[float64], constant uint64) error {
	if err := b.check("x", x); err != nil {
		return err
	}
	b.x, b.mean, b.constant = x, mean, constant
	_, err := b.kernels.Call(export,
		x.Address, b.Y.Address, b.Gamma.Address, b.Beta.Address,
		mean.Address, variance.Address, b.invStd.Address, b.workspace.Address,
		uint64(b.Outer), uint64(b.Channels), uint64(b.Inner), api.EncodeF64(b.Epsilon))
	return err
}

// Backward sets DX, DGamma and DBeta from dy, for the batch of the last Train or Infer. After Infer, statistics are constants.
func (b *BatchNorm) Backward(dy Array[float32]) error {
	if err := b.check("dy", dy); err != nil {
		return err
	}
	if b.x.Data == nil {
		return errors.New("expected a Train or an Infer before Backward")
	}
	_, err := b.kernels.Call("backward",
		b.x.Address, dy.Address, b.DX.Address, b.Gamma.Address, b.mean.Address, b.invStd.Address,
		b.DGamma.Address, b.DBeta.Address, b.workspace.Address,
		uint64(b.Outer), uint64(b.Channels), uint64(b.Inner), b.constant)
	return err
}

// Step is one of stochastic gradient descent.
func (b *BatchNorm) Step(rate float64) {
	for c := range b.Channels {
		b.Gamma.Data[c] -= float32(rate * b.DGamma.Data[c])
		b.Beta.Data[c] -= float32(rate * b.DBeta.Data[c])
	}
}

func (b *BatchNorm) check(name string, tensor Array[float32]) error {
	if len(tensor.Data) != b.Length() {
		return fmt.Errorf("%s: expected %d elements %+v, got %d", name, b.Length(), b.Geometry, len(tensor.Data))
	}
	return nil
}
