//! A metrics page of vLLM into numbers: `cargo bench --bench metrics_page`.

#![expect(clippy::unwrap_used, reason = "a benchmark of what fails is void")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p3sched::EndpointMetrics;

fn metrics_page(criterion: &mut Criterion) {
    let page = include_bytes!("../testdata/metrics/vllm-0.32-under-load.txt");
    let mut group = criterion.benchmark_group("metrics_page");
    group.throughput(Throughput::Bytes(page.len() as u64));
    group.bench_function("vllm_under_load", |bencher| {
        bencher.iter(|| EndpointMetrics::from_page(black_box(page)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, metrics_page);
criterion_main!(benches);
