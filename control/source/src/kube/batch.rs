//! Joins events into batches: one burst of changes costs one build of the tables.

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::source::{Batch, LONGEST_BATCH, QUIET, Sink};

/// Hands events on in batches, in their order, until the senders are gone or `sink` breaks.
pub(super) async fn hand_on(mut parts: mpsc::Receiver<Batch>, mut sink: Sink) {
    while let Some(mut batch) = parts.recv().await {
        let end = Instant::now() + LONGEST_BATCH;
        while let Ok(Some(more)) = timeout_at((Instant::now() + QUIET).min(end), parts.recv()).await {
            batch.events.extend(more.events);
            if Instant::now() >= end {
                break;
            }
        }
        if !batch.events.is_empty() && sink(batch).is_break() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use heddle_model::{Event, Kind};

    use super::*;

    fn event(n: usize) -> Batch {
        Batch::now(vec![Event::Synced(Kind::ALL[n % Kind::ALL.len()])])
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_batch_and_a_constant_stream_is_cut() {
        let (sender, receiver) = mpsc::channel(64);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let sink: Sink = Box::new({
            let batches = Arc::clone(&batches);
            move |batch| {
                batches.lock().unwrap().push((batch.events.len(), Instant::now()));
                ControlFlow::Continue(())
            }
        });
        let task = tokio::spawn(hand_on(receiver, sink));
        let start = Instant::now();
        for n in 0..10 {
            sender.send(event(n)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(batches.lock().unwrap().len(), 1);
        // One event each millisecond: no pause ends a batch.
        for n in 0..250 {
            sender.send(event(n)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(sender);
        task.await.unwrap();
        let batches = batches.lock().unwrap();
        assert_eq!(batches[0].0, 10);
        assert_eq!(batches.iter().map(|(len, _)| len).sum::<usize>(), 260);
        let mut before = start + Duration::from_millis(10);
        for (_, at) in &batches[1..] {
            assert!(*at - before <= LONGEST_BATCH + QUIET + QUIET, "{:?}", *at - before);
            before = *at;
        }
    }

    #[tokio::test]
    async fn a_sink_that_breaks_ends_it() {
        let (sender, receiver) = mpsc::channel(4);
        sender.send(event(0)).await.unwrap();
        hand_on(receiver, Box::new(|_| ControlFlow::Break(()))).await;
        assert!(sender.send(event(1)).await.is_err());
    }
}
