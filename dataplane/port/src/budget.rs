//! The budget of the ports' fill rings: arithmetic over two counters.
//!
//! For each port that may be opened, a number of frames (the floor) is set aside, so that no port fails to open for lack of frames.
//! A busy port grows its fill ring up to the ceiling. The frames for this growth are those that remain after all floors and the
//! frames for packets under way are subtracted.

use std::sync::Arc;

use heddle_ids::PortId;

use crate::sync::{AtomicU32, Ordering};

/// The error of opening more ports than frames are set aside for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("port {port} refused: frames are set aside for {max} ports and all are open; raise maxPods")]
pub struct PortRefused {
    /// The port that was to be opened.
    pub port: PortId,
    /// The limit of open ports.
    pub max: u32,
}

/// The error of a configuration with too few frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{frames} frames are too few: {ports} ports with {floor} each and {working} for packets under way need {needed}; \
     raise frames or lower maxPods"
)]
pub struct TooFewFrames {
    /// The configured frames.
    pub frames: u32,
    /// The limit of open ports.
    pub ports: u32,
    /// Frames set aside for each port.
    pub floor: u32,
    /// Frames kept for packets under way.
    pub working: u32,
    /// The sum of frames that are needed.
    pub needed: u32,
}

/// The budget of one memory area.
#[derive(Debug)]
pub struct FillBudget {
    floor: u32,
    ceiling: u32,
    max_ports: u32,
    /// Frames by which all fill rings together may grow.
    growth: u32,
    /// Open ports.
    open: AtomicU32,
    /// Frames by which fill rings have grown beyond their floors.
    grown: AtomicU32,
}

impl FillBudget {
    /// Frames in the fill ring of a port at rest.
    pub const FLOOR: u32 = 64;
    /// The most frames in the fill ring of a busy port.
    pub const CEILING: u32 = 512;

    /// Makes a budget for `max_ports` ports out of `frames`. `working` of the frames are kept for packets under way.
    ///
    /// # Errors
    /// The frames do not suffice for the floors and `working`.
    pub fn new(frames: u32, max_ports: u32, working: u32) -> Result<Self, TooFewFrames> {
        let floor = Self::FLOOR;
        let needed = floor.saturating_mul(max_ports).saturating_add(working);
        if needed > frames {
            return Err(TooFewFrames {
                frames,
                ports: max_ports,
                floor,
                working,
                needed,
            });
        }
        Ok(Self {
            floor,
            ceiling: Self::CEILING,
            max_ports,
            growth: frames - needed,
            open: AtomicU32::new(0),
            grown: AtomicU32::new(0),
        })
    }

    /// Makes a budget that sets nothing aside and limits no ports, for ports in memory, which have no fill ring.
    #[must_use]
    pub fn none() -> Self {
        Self {
            floor: 0,
            ceiling: 0,
            max_ports: u32::MAX,
            growth: 0,
            open: AtomicU32::new(0),
            grown: AtomicU32::new(0),
        }
    }

    /// Returns the frames that are set aside for each port.
    #[must_use]
    pub fn floor(&self) -> u32 {
        self.floor
    }

    /// Returns the number of open ports.
    #[must_use]
    pub fn open_ports(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the limit of open ports.
    #[must_use]
    pub fn max_ports(&self) -> u32 {
        self.max_ports
    }

    /// Returns the frames that must stay in the shared pool: the floors of the ports that are not open.
    #[must_use]
    pub fn set_aside(&self) -> u32 {
        self.floor * self.max_ports.saturating_sub(self.open_ports())
    }

    /// Returns the frames by which fill rings have grown beyond their floors.
    #[must_use]
    pub fn grown(&self) -> u32 {
        self.grown.load(Ordering::Relaxed)
    }

    /// Returns the frames by which fill rings may still grow.
    #[must_use]
    pub fn growth_left(&self) -> u32 {
        self.growth.saturating_sub(self.grown())
    }

    /// Returns an error if no further port may be opened.
    pub(crate) fn check(&self, port: PortId) -> Result<(), PortRefused> {
        if self.open_ports() >= self.max_ports {
            Err(PortRefused {
                port,
                max: self.max_ports,
            })
        } else {
            Ok(())
        }
    }

    /// Counts a port as open, and returns its share with the floor as its target.
    pub(crate) fn open(this: &Arc<Self>, port: PortId) -> Result<FillShare, PortRefused> {
        this.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < this.max_ports).then_some(open + 1)
            })
            .map_err(|_| PortRefused {
                port,
                max: this.max_ports,
            })?;
        Ok(FillShare {
            budget: Arc::clone(this),
            target: this.floor,
        })
    }
}

/// One port's share of the budget: its floor, and the frames by which it has grown. Dropping it returns both to the budget, so it
/// must be dropped after the port's frames were released.
#[derive(Debug)]
pub struct FillShare {
    budget: Arc<FillBudget>,
    target: u32,
}

impl FillShare {
    /// Returns the number of frames that the fill ring should have.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Raises the target by up to `by`, within the ceiling and the budget. Returns the new target.
    pub fn grow(&mut self, by: u32) -> u32 {
        let by = by.min(self.budget.ceiling.saturating_sub(self.target));
        let limit = self.budget.growth;
        let before = self
            .budget
            .grown
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |grown| {
                let take = by.min(limit.saturating_sub(grown));
                (take > 0).then_some(grown + take)
            });
        if let Ok(grown) = before {
            self.target += by.min(limit - grown);
        }
        self.target
    }

    /// Lowers the target by up to `by`, not below the floor. Returns the new target. A ring shrinks only when received frames are
    /// not replaced. So the caller lowers the target by frames that have already left the ring.
    pub fn shrink(&mut self, by: u32) -> u32 {
        let by = by.min(self.target - self.budget.floor);
        self.budget.grown.fetch_sub(by, Ordering::Relaxed);
        self.target -= by;
        self.target
    }
}

impl Drop for FillShare {
    fn drop(&mut self) {
        self.shrink(u32::MAX);
        self.budget.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn floors_are_set_aside_until_their_port_is_open() {
        let budget = Arc::new(FillBudget::new(16_384, 128, 1024).unwrap());
        assert_eq!((budget.set_aside(), budget.growth_left()), (8192, 7168));
        let share = FillBudget::open(&budget, PortId(0)).unwrap();
        assert_eq!((share.target(), budget.set_aside()), (64, 8128));
        drop(share);
        assert_eq!((budget.set_aside(), budget.open_ports()), (8192, 0));
    }

    #[test]
    fn growth_takes_only_the_rest() {
        let budget = Arc::new(FillBudget::new(1000, 2, 100).unwrap());
        let mut a = FillBudget::open(&budget, PortId(0)).unwrap();
        let mut b = FillBudget::open(&budget, PortId(1)).unwrap();
        assert_eq!(a.grow(10_000), FillBudget::CEILING);
        assert_eq!(b.grow(10_000), 64 + 1000 - 128 - 100 - (512 - 64));
        assert_eq!((b.grow(1), budget.growth_left()), (388, 0));
        assert_eq!(a.shrink(12), 500);
        assert_eq!(b.grow(64), 400);
        drop((a, b));
        assert_eq!((budget.grown(), budget.open_ports()), (0, 0));
    }

    #[test]
    fn a_port_too_many_is_refused_by_name() {
        let budget = Arc::new(FillBudget::new(64, 1, 0).unwrap());
        let _share = FillBudget::open(&budget, PortId(4)).unwrap();
        let refused = FillBudget::open(&budget, PortId(5)).unwrap_err();
        assert_eq!(
            refused,
            PortRefused {
                port: PortId(5),
                max: 1
            }
        );
        assert!(refused.to_string().contains("raise maxPods"));
    }

    #[test]
    fn too_few_frames_are_refused() {
        assert_eq!(FillBudget::new(100, 2, 0).unwrap_err().needed, 128);
        assert!(FillBudget::new(128, 2, 0).is_ok());
    }
}
