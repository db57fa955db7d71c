//! Tests of the codec as its users see it.

mod arbitrary;
#[path = "../../benches/codec.rs"]
#[allow(dead_code, reason = "its main function is for cargo bench")]
mod bench;
mod cases;
mod differential;
mod encode;
mod frame;
mod input;
mod properties;
mod roundtrip;
mod second_opinion;
mod text;
mod topics;
mod values;

#[test]
fn the_benchmark_runs() {
    bench::run(1, 1);
}
