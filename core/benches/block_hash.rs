//! Block hashes per second: `cargo bench --bench block_hash`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use p3sched::Request;
use p3sched::block_hash::BlockHasher;

fn block_hash(criterion: &mut Criterion) {
    let hasher = BlockHasher::default();
    let mut group = criterion.benchmark_group("block_hash");
    for size in [16 * 1024_usize, 400 * 1024] {
        let text: Vec<u8> = (0..size).map(|i| b'a' + (i * 7 % 26) as u8).collect();
        let tokens: Vec<u32> = (0..size as u32 / 4).map(|i| i.wrapping_mul(0x9E37_79B9) >> 15).collect();
        let requests =
            [("bytes", Request::from_text("llama", text)), ("tokens", Request::from_tokens("llama", tokens))];
        group.throughput(Throughput::Bytes(size as u64));
        for (unit, request) in &requests {
            let mut hashes = Vec::new();
            group.bench_with_input(BenchmarkId::new(*unit, size), request, |bencher, request| {
                bencher.iter(|| {
                    hasher.hash(black_box(request), &mut hashes);
                    hashes.last().copied()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, block_hash);
criterion_main!(benches);
