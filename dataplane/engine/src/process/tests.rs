//! Tests of the driver alone: fragments cause no allocation.

use heddle_flow::Config;
use heddle_port::{Capabilities, SharedPool, WorkerId};
use heddle_wire::testing::Packet as Build;
use heddle_wire::{MacAddr, Proto};

use super::*;
use crate::StageConfig;
use crate::fuzzing::cluster::tables;
use crate::fuzzing::parties::PARTIES;
use crate::reassembly::FragmentConfig;

/// Sends a datagram of three fragments, the first one last, and others without a first fragment, so that fragments are held,
/// released and given up.
#[test]
fn fragments_cost_no_allocation() {
    let shared = SharedPool::heap(256, 4096);
    let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
    let snapshot = tables(1).build().0;
    let flows = FlowTable::anonymous(&Config::default());
    let (mut stages, mut batch) = (
        Stages::new(StageConfig::default(), 64),
        Batch::new(&FragmentConfig::default()),
    );
    let [_, a, b] = &PARTIES;
    let ingress = Ingress::new(a.port, a.role(), Capabilities::VETH);
    let base = Build::new(a.mac, MacAddr::GATEWAY, a.ip(true), b.ip(true));
    let whole = base.udp(1000, 53, &[7; 2992]);
    let cut = |id, at: usize, more| {
        let fragment = base.clone().identification(id).fragment(at as u16, more);
        fragment.raw(Proto::UDP, &whole[34 + at..34 + at + 1000])
    };
    let mut frames: Vec<Vec<u8>> = vec![cut(1, 1000, true), cut(1, 2000, false), cut(1, 0, true)];
    frames.extend((2..20).map(|id| cut(id, 1000, true)));
    let (mut now, mut forwarded, mut given_up) = (Millis(1000), 0, 0);
    let mut round = || {
        now = now.plus(600);
        stages.begin_turn(&mut batch, now);
        batch
            .packets_mut()
            .extend(frames.iter().filter_map(|frame| pool.packet(frame)));
        let tables = Tables {
            snapshot: &snapshot,
            flows: &flows,
        };
        process(&mut stages, &mut batch, ingress, tables, &mut pool, now);
        for (packet, verdict) in batch.drain() {
            forwarded += usize::from(matches!(verdict, Verdict::Forward(_)));
            let missing = Verdict::drop(DropReason::FragmentFirstMissing);
            given_up += usize::from(verdict == missing);
            pool.free_packet(packet);
        }
    };
    round();
    let allocations = allocation_counter::measure(|| (0..50).for_each(|_| round())).count_total;
    assert_eq!((allocations, forwarded), (0, 3 * 51));
    assert!(given_up > 18 * 20, "{given_up} were given up");
    stages.close(&mut batch, a.port);
    batch.drain().for_each(|(packet, _)| pool.free_packet(packet));
    drop(pool);
    assert_eq!(shared.store().outstanding(), 0);
}
