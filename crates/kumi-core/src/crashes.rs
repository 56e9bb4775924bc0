//! Why workers die, and how often that may happen to a task before it is not run again here.

use std::sync::Arc;

use crate::task::Certificate;

/// What ended a worker, as far as a task's further chances depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// Its own limit of memory, or, with evidence, the machine's.
    Memory,
    /// A scheduler's limit of time.
    Time,
    /// The machine was taken away, as happens to those that cost less.
    Spot,
    /// Anything else, or nobody knows.
    #[default]
    Other,
}

impl Cause {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Memory => "memory",
            Cause::Time => "time",
            Cause::Spot => "spot",
            Cause::Other => "other",
        }
    }

    /// From what [`Cause::word`] gave; of any other word nothing is known.
    pub fn from_word(word: &str) -> Cause {
        match word {
            "memory" => Cause::Memory,
            "time" => Cause::Time,
            "spot" => Cause::Spot,
            _ => Cause::Other,
        }
    }
}

/// How often a task may crash and be run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashesMax {
    /// So often in all. A machine that was taken away does not count: that is nobody's fault.
    Together(u32),
    /// So often by each cause; `None`: any number of times.
    Each(PerCause<Option<u32>>),
}

impl CrashesMax {
    fn allows(&self, crashes: &PerCause<u32>, cause: Cause) -> bool {
        match self {
            CrashesMax::Together(most) => {
                let PerCause { memory, time, spot: _, other } = *crashes;
                cause == Cause::Spot || memory.saturating_add(time).saturating_add(other) <= *most
            }
            CrashesMax::Each(most) => most.get(cause).is_none_or(|most| crashes.get(cause) <= most),
        }
    }
}

/// Something for each cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Those of `Cause`.
pub struct PerCause<T> {
    pub memory: T,
    pub time: T,
    pub spot: T,
    pub other: T,
}

impl<T: Copy> PerCause<T> {
    fn get(&self, cause: Cause) -> T {
        match cause {
            Cause::Memory => self.memory,
            Cause::Time => self.time,
            Cause::Spot => self.spot,
            Cause::Other => self.other,
        }
    }

    fn get_mut(&mut self, cause: Cause) -> &mut T {
        match cause {
            Cause::Memory => &mut self.memory,
            Cause::Time => &mut self.time,
            Cause::Spot => &mut self.spot,
            Cause::Other => &mut self.other,
        }
    }
}

/// The workers that died of one task. Few tasks have some.
#[derive(Debug)]
pub(crate) struct Crashes {
    counts: PerCause<u32>,
    /// Of the last.
    pub certificate: Arc<Certificate>,
    /// Where the task has ended, if that was with a backup.
    pub controller: Option<Arc<str>>,
}

impl Crashes {
    /// None that counts; `certificate`: of the last.
    pub fn new(certificate: Arc<Certificate>) -> Self {
        Self { counts: PerCause::default(), certificate, controller: None }
    }

    /// One more. Whether the task may be run again.
    pub fn add(&mut self, certificate: &Arc<Certificate>, most: &CrashesMax) -> bool {
        let count = self.counts.get_mut(certificate.kind);
        *count = count.saturating_add(1);
        self.certificate = Arc::clone(certificate);
        most.allows(&self.counts, certificate.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After which of these crashes the task is not run again.
    fn ends_at(most: CrashesMax, causes: &[Cause]) -> Option<usize> {
        let mut crashes = Crashes::new(Arc::default());
        causes.iter().position(|kind| {
            let certificate = Arc::new(Certificate { kind: *kind, ..Certificate::default() });
            !crashes.add(&certificate, &most)
        })
    }

    #[test]
    fn a_number_counts_all_crashes_but_those_of_lost_machines() {
        use Cause::{Memory, Other, Spot, Time};
        let most = CrashesMax::Together;
        assert_eq!(ends_at(most(0), &[Other]), Some(0));
        assert_eq!(ends_at(most(2), &[Memory, Time, Other]), Some(2), "together");
        assert_eq!(ends_at(most(0), &[Spot, Spot, Spot]), None);
        assert_eq!(ends_at(most(1), &[Spot, Other, Spot, Memory]), Some(3));
        assert_eq!(ends_at(most(1), &[Other, Spot]), None, "what was allowed stays allowed");
        assert_eq!(ends_at(most(u32::MAX), &[Other; 100]), None);
    }

    #[test]
    fn each_cause_counts_for_itself() {
        use Cause::{Memory, Other, Spot, Time};
        let most = CrashesMax::Each(PerCause { memory: Some(0), time: Some(1), spot: None, other: Some(2) });
        assert_eq!(ends_at(most, &[Memory]), Some(0));
        assert_eq!(ends_at(most, &[Time, Other, Other, Time]), Some(3));
        assert_eq!(ends_at(most, &[Other, Other, Time, Other]), Some(3));
        assert_eq!(ends_at(most, &[Spot; 50]), None, "without limit");
        let most = CrashesMax::Each(PerCause { spot: Some(1), ..PerCause::default() });
        assert_eq!(ends_at(most, &[Other, Memory, Time, Spot, Other, Spot]), Some(5), "a limit for lost machines");
    }
}
