//! No packet costs an allocation: neither a hit nor the first packet of a connection, neither in the stages nor in a worker's turn.

use heddle_bench::frames::Checksum;
use heddle_bench::memory::turn::Turn;
use heddle_bench::memory::{Burst, Connections, Load};

fn allocations(mut once: impl FnMut()) -> u64 {
    once();
    allocation_counter::measure(|| (0..200).for_each(|_| once())).count_total
}

#[test]
fn the_allocation_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 200);
}

#[test]
fn no_packet_costs_an_allocation() {
    let established = Load::new(Connections::Established(10_000));
    for load in [
        established,
        Load {
            checksum: Checksum::Partial,
            ..established
        },
        Load {
            burst: 1,
            frame: 1514,
            ..established
        },
        Load::new(Connections::New(16_384)),
    ] {
        let mut burst = Burst::new(load).unwrap();
        let count = allocations(|| {
            burst.prepare();
            burst.process();
            burst.finish_burst().unwrap();
        });
        assert_eq!(count, 0, "{load:?}");
    }
}

#[test]
fn no_turn_costs_an_allocation() {
    let mut turn = Turn::new(Load::new(Connections::Established(10_000))).unwrap();
    assert_eq!(allocations(|| turn.turn()), 0);
    turn.check().unwrap();
}
