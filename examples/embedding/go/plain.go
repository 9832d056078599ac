package main

import "math"

// Plain is the same layer in plain Go.
type Plain struct {
	Geometry
	Epsilon, Momentum            float64
	Gamma, Beta, Y, DX           []float32
	RunningMean, RunningVariance []float64
	DGamma, DBeta                []float64
}

// Step is a training forward, the running statistics and a backward.
func (p *Plain) Step(x, dy []float32) {
	m := float64(p.Count())
	for c := range p.Channels {
		sum, _ := p.sums(c, x, 0, x, 0)
		mean := sum / m
		_, squares := p.sums(c, x, mean, x, mean)
		invStd := 1 / math.Sqrt(squares/m+p.Epsilon)
		p.RunningMean[c] += p.Momentum * (mean - p.RunningMean[c])
		p.RunningVariance[c] += p.Momentum * (squares/(m-1) - p.RunningVariance[c])

		center, scale := float32(mean), p.Gamma[c]*float32(invStd)
		for n := range p.Outer {
			from, to := p.row(x, n, c), p.row(p.Y, n, c)
			for i, v := range from {
				to[i] = (v-center)*scale + p.Beta[c]
			}
		}

		dBeta, product := p.sums(c, dy, 0, x, mean)
		dGamma := product * invStd
		p.DBeta[c], p.DGamma[c] = dBeta, dGamma
		slope, shift := float32(invStd*dGamma/m), float32(dBeta/m)
		for n := range p.Outer {
			from, gradient, to := p.row(x, n, c), p.row(dy, n, c), p.row(p.DX, n, c)
			for i, v := range from {
				to[i] = scale * (gradient[i] - shift - (v-center)*slope)
			}
		}
	}
}

// row is the part of a tensor where a channel's values lie together.
func (p *Plain) row(tensor []float32, n, c int) []float32 {
	return tensor[(n*p.Channels+c)*p.Inner:][:p.Inner:p.Inner]
}

// sums are those of a - a0 and of (a - a0)·(b - b0) over a channel. Each is taken in four
// parts, because one sum would wait for itself.
func (p *Plain) sums(c int, a []float32, a0 float64, b []float32, b0 float64) (first, product float64) {
	var f, g [4]float64
	for n := range p.Outer {
		a, b := p.row(a, n, c), p.row(b, n, c)
		for len(a) >= 4 && len(b) >= 4 {
			d0, d1, d2, d3 := float64(a[0])-a0, float64(a[1])-a0, float64(a[2])-a0, float64(a[3])-a0
			f[0], g[0] = f[0]+d0, g[0]+d0*(float64(b[0])-b0)
			f[1], g[1] = f[1]+d1, g[1]+d1*(float64(b[1])-b0)
			f[2], g[2] = f[2]+d2, g[2]+d2*(float64(b[2])-b0)
			f[3], g[3] = f[3]+d3, g[3]+d3*(float64(b[3])-b0)
			a, b = a[4:], b[4:]
		}
		for i, v := range a {
			f[0], g[0] = f[0]+float64(v)-a0, g[0]+(float64(v)-a0)*(float64(b[i])-b0)
		}
	}
	return f[0] + f[1] + f[2] + f[3], g[0] + g[1] + g[2] + g[3]
}
