"""What several benchmarks use: pages and results that are kept."""
