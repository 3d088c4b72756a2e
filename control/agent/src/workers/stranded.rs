//! Ports at workers that did not answer in time.
//!
//! A worker that is silent for a while may still take a port that was passed to it, or return one that was asked back. Until it
//! has answered, the port's number must not be used again, and its rings and frames cannot be reclaimed.

use crossbeam::channel::{Receiver, TryRecvError};
use heddle_engine::AddError;
use heddle_port::PortId;

/// A port whose worker has not answered.
struct Stranded<P> {
    port: PortId,
    /// The answer to the port's addition, if the worker has not given it yet.
    added: Option<Receiver<Result<(), AddError<P>>>>,
    /// The answer to the port's removal, which was sent after the addition.
    removed: Receiver<Option<P>>,
}

/// The ports whose workers have not answered.
pub(super) struct StrandedPorts<P>(Vec<Stranded<P>>);

impl<P> Default for StrandedPorts<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A port whose worker has answered: it has no part in the port any more.
#[derive(Debug)]
pub(super) struct Returned<P> {
    /// The number, which is free again.
    pub(super) number: PortId,
    /// The rings, which the caller closes; `None` if the worker did not have them.
    pub(super) rings: Option<P>,
}

impl<P> StrandedPorts<P> {
    /// Adds a port that the worker was asked to remove. `added` is the unanswered addition.
    pub(super) fn add(
        &mut self,
        port: PortId,
        added: Option<Receiver<Result<(), AddError<P>>>>,
        removed: Receiver<Option<P>>,
    ) {
        self.0.push(Stranded { port, added, removed });
    }

    /// Removes and returns the ports whose worker has answered. Ports of a worker that has ended stay: the agent ends, too.
    pub(super) fn take_returned(&mut self) -> Vec<Returned<P>> {
        let mut returned = Vec::new();
        self.0.retain(|stranded| {
            let rings = match stranded.removed.try_recv() {
                Ok(Some(rings)) => Some(rings),
                // The worker did not have the port: it has refused it before, and the refusal contains the port.
                Ok(None) => stranded.added.as_ref().and_then(|added| match added.try_recv() {
                    Ok(Err(AddError::NumberTooGreat { port, .. } | AddError::NumberTaken { port, .. })) => Some(port),
                    Ok(Ok(())) | Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
                }),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            };
            let number = stranded.port;
            returned.push(Returned { number, rings });
            false
        });
        returned
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::bounded;

    use super::*;

    #[test]
    fn a_late_worker_gives_the_port_back_in_each_order_of_its_answers() {
        let mut stranded = StrandedPorts::default();
        let taken = |stranded: &mut StrandedPorts<&'static str>| -> Vec<(u16, Option<&str>)> {
            let returned = stranded.take_returned();
            returned.into_iter().map(|one| (one.number.0, one.rings)).collect()
        };
        // The worker takes the port late, and then returns it.
        let (added_in, added) = bounded(1);
        let (removed_in, removed) = bounded(1);
        stranded.add(PortId(64), Some(added), removed);
        assert_eq!(taken(&mut stranded), []);
        added_in.send(Ok(())).unwrap();
        assert_eq!(taken(&mut stranded), [], "its number is still in use");
        removed_in.send(Some("rings")).unwrap();
        assert_eq!(taken(&mut stranded), [(64, Some("rings"))]);
        assert_eq!(taken(&mut stranded), []);

        // The worker refuses the port late.
        let (added_in, added) = bounded(1);
        let (removed_in, removed) = bounded(1);
        stranded.add(PortId(65), Some(added), removed);
        let number = 65;
        added_in
            .send(Err(AddError::NumberTaken {
                port: "refused",
                number,
            }))
            .unwrap();
        removed_in.send(None).unwrap();
        assert_eq!(taken(&mut stranded), [(65, Some("refused"))]);

        // A removal that was late, and a worker that ends without an answer.
        let (removed_in, removed) = bounded(1);
        stranded.add(PortId(66), None, removed);
        let (ended, never) = bounded::<Option<&str>>(1);
        stranded.add(PortId(67), None, never);
        drop(ended);
        removed_in.send(Some("late")).unwrap();
        assert_eq!(taken(&mut stranded), [(66, Some("late"))]);
        assert_eq!(taken(&mut stranded), []);
    }
}
