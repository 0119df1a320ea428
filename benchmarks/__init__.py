"""Side-by-side measurements: medians of interleaved runs, written with device and versions to benchmarks/results/."""
