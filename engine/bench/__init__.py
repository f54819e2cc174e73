"""The project's own benchmarks and the loopback server they and the tests run against."""
