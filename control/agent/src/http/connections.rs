//! The bounds of the connections to a server's ports.
//!
//! Anyone who reaches a port can open connections to it and keep them open. So their number is bounded for each
//! port, for each source and in total, and each has a time limit. A new connection above a bound is not refused: it takes the
//! place of the oldest one that the bound applies to. A client that sends its request at once is answered within
//! milliseconds, while a connection that only waits is the one to be closed.

use std::net::IpAddr;

/// The bounds. All are at least 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most connections of all ports.
    pub(crate) total: usize,
    /// The most connections of one port.
    pub(crate) per_port: usize,
    /// The most connections of one source to all ports.
    pub(crate) per_source: usize,
}

/// A source of connections: an IPv4 address, or the /64 of an IPv6 address, which one host can use as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source(u64);

impl Source {
    /// Returns the source of an address. An IPv4 address in IPv6 form is the same source as the IPv4 address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u32::from(v4).into()),
            // The upper half of an IPv6 address is greater than any IPv4 address, except for ::/32, which no host has.
            IpAddr::V6(v6) => Self((u128::from(v6) >> 64) as u64),
        }
    }
}

/// An open connection. `T` ends it.
#[derive(Debug)]
struct Connection<T> {
    id: u64,
    port: u16,
    source: Source,
    task: T,
}

/// The open connections of all ports, the oldest first.
#[derive(Debug)]
pub(crate) struct Connections<T> {
    limits: Limits,
    next_id: u64,
    open: Vec<Connection<T>>,
}

impl<T> Connections<T> {
    /// Starts without connections.
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            next_id: 0,
            open: Vec::new(),
        }
    }

    /// Adds a connection, whose task `start` makes from the connection's id. Returns the tasks of the connections that it
    /// displaces; the caller ends them.
    pub(crate) fn add(&mut self, port: u16, source: Source, start: impl FnOnce(u64) -> T) -> Vec<T> {
        let Limits {
            total,
            per_port,
            per_source,
        } = self.limits;
        let mut displaced = Vec::new();
        displaced.extend(self.make_room(per_source, |open| open.source == source));
        displaced.extend(self.make_room(per_port, |open| open.port == port));
        displaced.extend(self.make_room(total, |_| true));
        let id = self.next_id;
        self.next_id += 1;
        let task = start(id);
        self.open.push(Connection { id, port, source, task });
        displaced
    }

    /// Removes the oldest connection that a bound applies to and returns its task, if the bound is reached.
    fn make_room(&mut self, most: usize, applies: impl Fn(&Connection<T>) -> bool) -> Option<T> {
        if self.open.iter().filter(|open| applies(open)).count() < most {
            return None;
        }
        let oldest = self.open.iter().position(applies)?;
        Some(self.open.remove(oldest).task)
    }

    /// Removes a connection that has ended.
    pub(crate) fn remove(&mut self, id: u64) {
        self.open.retain(|open| open.id != id);
    }

    /// Removes the connections of a port that is closed, and returns their tasks.
    pub(crate) fn remove_port(&mut self, port: u16) -> Vec<T> {
        self.open
            .extract_if(.., |open| open.port == port)
            .map(|open| open.task)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn sources_are_hosts() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn a_source_displaces_its_own_oldest_connection_and_nobody_elses() {
        let limits = Limits {
            total: 8,
            per_port: 4,
            per_source: 2,
        };
        let mut connections = Connections::new(limits);
        let add = |connections: &mut Connections<u64>, port, from| connections.add(port, source(from), |id| id);
        assert!(add(&mut connections, 1, "10.0.0.1").is_empty());
        for expected in [vec![], vec![], vec![1], vec![2]] {
            assert_eq!(add(&mut connections, 1, "10.0.0.2"), expected);
        }
        // The port's bound.
        assert!(add(&mut connections, 1, "10.0.0.3").is_empty());
        assert_eq!(add(&mut connections, 1, "10.0.0.4"), [0]);
        // A connection that has ended makes room.
        connections.remove(3);
        assert!(add(&mut connections, 1, "10.0.0.5").is_empty());
        assert_eq!(connections.remove_port(1).len(), 4);
        assert!(connections.open.is_empty());
    }

    proptest! {
        #[test]
        fn no_bound_is_ever_exceeded_and_the_newest_connection_stays(
            steps in proptest::collection::vec((0u16..3, 0u8..5, any::<bool>()), 1..200)
        ) {
            let limits = Limits { total: 7, per_port: 5, per_source: 3 };
            let mut connections = Connections::new(limits);
            for (port, host, ends) in steps {
                let from = source(&format!("10.0.0.{host}"));
                connections.add(port, from, |id| id);
                prop_assert!(connections.open.len() <= limits.total);
                prop_assert!(connections.open.iter().filter(|c| c.port == port).count() <= limits.per_port);
                prop_assert!(connections.open.iter().filter(|c| c.source == from).count() <= limits.per_source);
                let newest = connections.open.last().unwrap();
                prop_assert!(newest.port == port && newest.source == from);
                if ends {
                    let id = newest.id;
                    connections.remove(id);
                }
            }
        }
    }
}
