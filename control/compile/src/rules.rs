//! Numbers for what can decide. Equal decisions have one number, and a number that nobody uses any more rests a while
//! before it means something else: rings of recent drops still name it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use heddle_tables::{Decision, RuleNo, SnapshotBuilder};

/// How many numbers rest before the first of them is used again.
const REST: usize = 4096;

/// The numbers in use.
#[derive(Debug)]
pub(crate) struct Rules {
    known: HashMap<Arc<Decision>, (RuleNo, u32)>,
    names: HashMap<RuleNo, Arc<Decision>>,
    resting: VecDeque<RuleNo>,
    next: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            names: HashMap::new(),
            resting: VecDeque::new(),
            next: RuleNo::FIRST_POLICY.0,
        }
    }
}

impl Rules {
    /// The number of a decision, used once more.
    pub(crate) fn acquire(&mut self, decision: Decision, tables: &mut SnapshotBuilder) -> RuleNo {
        if let Some((number, uses)) = self.known.get_mut(&decision) {
            *uses += 1;
            return *number;
        }
        let rested = if self.resting.len() > REST || self.next >= RuleNo::MAX.0 {
            self.resting.pop_front()
        } else {
            None
        };
        let number = rested.unwrap_or_else(|| {
            self.next += 1;
            RuleNo(self.next - 1)
        });
        let decision = Arc::new(decision);
        self.known.insert(Arc::clone(&decision), (number, 1));
        self.names.insert(number, Arc::clone(&decision));
        tables.set_reason(number, Some(decision));
        number
    }

    /// A number is used once less. Its name stays in the tables until the number is used for something else.
    pub(crate) fn release(&mut self, number: RuleNo) {
        let Some(decision) = self.names.get(&number) else {
            return;
        };
        if let Some((_, uses)) = self.known.get_mut(decision) {
            *uses -= 1;
            if *uses == 0 {
                self.known.remove(decision);
                self.names.remove(&number);
                self.resting.push_back(number);
            }
        }
    }
}
